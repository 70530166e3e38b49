"""What a check for copies found: in words, as numbers for JSON, and as a sheet of pictures."""

from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.evaluation.copies import (
    AROUND,
    FIGURES,
    RARE,
    CopyCheck,
    Figures,
    SpaceCheck,
    nearer,
)
from fromnoise.pictures import StrPath, grid_figure

QUANTILES = {"smallest": 0.0, "1 %": 0.01, "10 %": 0.1, "median": 0.5, "90 %": 0.9}
PAIRS = 24  # on a sheet …
COLUMNS = 11  # … three in a row, of three images each, and a gap between them
# Samples count as nearer as a whole where chance is ruled out, and the difference is one to see.
CERTAIN, VISIBLE = 3.0, 0.55


def copy_verdict(check: CopyCheck) -> str:
    """What was found, in two or three sentences; the last says what it was compared with."""
    copies, real = check.flagged, check.held_out_flagged
    unseen = _unseen(check)
    if not copies.any():
        first = f"None of {len(copies):,} samples is a copy of a training image."
    elif copies.mean() <= real.mean():
        first = (
            f"{_some(copies, 'samples')} are as near to a training image as copies are, but so "
            f"are {_some(real, unseen)}: the data has twins, and no more show in the samples."
        )
    else:
        first = f"{_some(copies, 'samples')} are copies of training images{_kinds(check)}."
    compared = (
        f"Compared with {len(real):,} {unseen}, of which {real.sum():,} would pass for copies"
    )
    if not any(max(of.thresholds.values()) for of in check.spaces.values()):
        compared += ", and as these allow of no rule, only equal images count"
    return " ".join([first, *_as_a_whole(check), f"{compared}."])


def copies_as_json(check: CopyCheck) -> dict[str, Any]:
    """Every figure as plain numbers, texts, lists and dicts.

    Distances are in the unit of their space: in pixels the root mean square difference, in [0, 1].
    `distance` is d_1, to the nearest training image, `ratio` d_1/d_2, `nearness` d_1/d_k.
    """
    return {
        "verdict": copy_verdict(check),
        "rule": (
            "distance d_1, ratio d_1/d_2 or nearness d_1/d_k with "
            f"k = {_around(check)} at most its threshold, below which one unseen "
            f"image in {1 / RARE:,.0f} is expected"
        ),
        "compared with": _unseen(check),
        "samples": _counts(check.flagged, check.exact),
        "held_out": _counts(check.held_out_flagged, check.held_out_exact),
        "training_images": check.num_train,
        "copies": [_copy(check, int(i)) for i in by_suspicion(check) if check.flagged[i]],
        "held_out_flagged": check.held_out_flagged.nonzero()[0].tolist(),
        "spaces": {name: _space(of) for name, of in check.spaces.items()},
    }


def by_suspicion(check: CopyCheck) -> np.ndarray:
    """The samples, int64 (N,), the likeliest copies first: those flagged, then by nearness.

    Nearness is compared across spaces over its median among real images.
    """
    return np.lexsort((_suspicion(check).min(axis=0), ~check.flagged))


def save_copy_sheet(
    check: CopyCheck, samples: np.ndarray, train: np.ndarray, path: StrPath, *, pairs: int = PAIRS
) -> Path:
    """Write the closest pairs as a PNG: sample, nearest and second nearest training image.

    A training image is shown mirrored where that is how it is near. Below it: which it is, its
    distance, and below the nearest d_1/d_2 too; below the sample d_1/d_k. Copies are marked.

    Args:
        samples, train: the images that were checked, uint8 (N, C, H, W) and (M, C, H, W).
        path: its folder is made if missing.
        pairs: how many samples at most, in the order of `by_suspicion`.

    Returns:
        The path.

    Raises:
        ValueError: wrong dtype or shape.
    """
    images, captions = [], []
    for i in by_suspicion(check)[:pairs]:
        if images and len(images) % COLUMNS:
            images.append(np.full_like(samples[i], 255))  # a gap between pairs
            captions.append("")
        space = _telling(check, int(i))
        near = check.spaces[space].samples
        images.append(samples[i])
        by = f"\nby {space}" * (len(check.spaces) > 1)
        nearness = f"\nd1/d{_around(check)} = {near.nearness[i]:.2f}"
        captions.append(f"sample {i}{nearness}" + "\nCOPY" * bool(check.flagged[i]) + by)
        for rank, distance in enumerate((near.distance[i], near.second[i])):
            which, mirrored = near.index[i, rank], near.mirrored[i, rank]
            images.append(train[which][..., ::-1] if mirrored else train[which])
            lines = [f"training {which}", f"d{rank + 1} = {distance:.3f}"]
            lines += ["mirrored"] * bool(mirrored)
            lines += [f"d1/d2 = {near.ratio[i]:.2f}"] * (rank == 0)
            captions.append("\n".join(lines))
    title = f"The samples nearest to training images; {_some(check.flagged, 'samples')} are copies"
    return grid_figure(np.stack(images), path, title=title, captions=captions, columns=COLUMNS)


def _unseen(check: CopyCheck) -> str:
    return "training images, each left out" if check.left_out else "held-out real images"


def _around(check: CopyCheck) -> int:
    return min(AROUND, check.num_train - 1)


def _some(flags: np.ndarray, of_what: str) -> str:
    return f"{flags.sum():,} of {len(flags):,} {of_what} ({100 * flags.mean():.2g} %)"


def _kinds(check: CopyCheck) -> str:
    """How many of the copies are exact, and which spaces gave them away."""
    exact = (check.flagged & check.exact).sum()
    found = [f"{of.flags(of.samples).sum():,} by {name}" for name, of in check.spaces.items()]
    return f" ({exact:,} of them exact; {', '.join(found)})"


def _as_a_whole(check: CopyCheck) -> list[str]:
    """A sentence for each space in which samples, copies aside, lie nearer than unseen images."""
    sentences, rest = [], ~check.flagged
    who = "the samples lie" if rest.all() else "the other samples lie"
    for name, of in check.spaces.items():
        distance, real = of.samples.distance[rest], of.held_out.distance
        if not len(distance):
            continue
        share, z = nearer(distance, real)
        if share < VISIBLE or z < CERTAIN:
            continue
        sentences.append(
            f"As a whole {who} nearer to the training images than unseen real images do "
            f"({np.median(distance):.3f} against {np.median(real):.3f} in the median, by {name}): "
            "a sign of overfitting, or of samples smoother than the data."
        )
    return sentences


def _telling(check: CopyCheck, i: int) -> str:
    """The space in which a sample is the most suspicious."""
    return list(check.spaces)[_suspicion(check)[:, i].argmin()]


def _suspicion(check: CopyCheck) -> np.ndarray:
    """(spaces, N): nearness over its median among real images; the lower the more suspicious."""
    usual = [max(float(np.median(of.held_out.nearness)), 1e-9) for of in check.spaces.values()]
    return np.stack(
        [of.samples.nearness / x for of, x in zip(check.spaces.values(), usual, strict=True)]
    )


def _counts(flagged: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    return {
        "images": len(flagged),
        "flagged": int(flagged.sum()),
        "share flagged": float(flagged.mean()),
        "exact": int(exact.sum()),
    }


def _copy(check: CopyCheck, i: int) -> dict[str, Any]:
    """A flagged sample: the space that gives it away most, and its figures in there."""
    name = _telling(check, i)
    near = check.spaces[name].samples
    return {
        "sample": i,
        "flagged by": [name for name, of in check.spaces.items() if of.flags(of.samples)[i]],
        "space": name,
        "training_image": int(near.index[i, 0]),
        "mirrored": bool(near.mirrored[i, 0]),
        **{key: float(getattr(near, key)[i]) for key in FIGURES},
    }


def _space(of: SpaceCheck) -> dict[str, Any]:
    share, z = nearer(of.samples.distance, of.held_out.distance)
    return {
        "thresholds": of.thresholds,
        "flagged": int(of.flags(of.samples).sum()),
        "held_out_flagged": int(of.flags(of.held_out).sum()),
        "samples": _quantiles(of.samples),
        "held_out": _quantiles(of.held_out),
        "nearer than held-out": {"share": share, "z": z},
    }


def _quantiles(figures: Figures) -> dict[str, dict[str, float]]:
    return {
        key: {name: float(np.quantile(getattr(figures, key), q)) for name, q in QUANTILES.items()}
        for key in FIGURES
    }
