"""Report a check for copies: as sentences, as numbers for JSON, and as a sheet of pictures."""

from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.evaluation.copies import (
    FIGURES,
    FLAGGED_SHARE,
    KTH,
    PIXELS,
    CopyCheck,
    Figures,
    SpaceCheck,
    share_nearer,
)
from fromnoise.pictures import grid_figure

QUANTILES = {"smallest": 0.0, "1 %": 0.01, "10 %": 0.1, "median": 0.5, "90 %": 0.9}
PAIRS = 24  # on a sheet
COLUMNS = 11  # three pairs of three images, and a gap between them
MIN_SIGMA, MIN_SHARE = 3.0, 0.55  # of `share_nearer`, for a sign of overfitting


def copy_verdict(check: CopyCheck) -> str:
    """Return the result in two or three sentences; the last names the images compared with."""
    copies, real, unseen = check.flagged, check.held_out_flagged, _real_images(check)
    found = _format_share(copies, "samples")
    if not copies.any():
        first = f"None of {len(copies):,} samples is a copy of a training image."
    elif copies.mean() <= real.mean():
        first = (
            f"{found} are as near to a training image as copies, but so are "
            f"{_format_share(real, unseen)}: the data has near twins."
        )
    else:
        parts = [f"{of.flags(of.samples).sum():,} by {name}" for name, of in check.spaces.items()]
        evidence = f"{check.exact.sum():,} of them exact; {', '.join(parts)}"
        first = f"{found} are copies of training images ({evidence})."
    compared = f"Compared with {len(real):,} {unseen}, of which {real.sum():,} are flagged too"
    if not any(max(of.thresholds.values()) for of in check.spaces.values()):
        compared += ". They give no threshold, so only equal images are copies"
    return " ".join([first, *_overfitting_notes(check), f"{compared}."])


def copies_as_json(check: CopyCheck) -> dict[str, Any]:
    """Return every figure for JSON.

    Distances are in the unit of their space: in pixels the root mean square difference, in [0, 1].
    `distance` is d_1, to the nearest training image, `ratio` d_1/d_2, `nearness` d_1/d_k.
    """
    suspicion, names = _suspicion(check), list(check.spaces)

    def copy(i: int) -> dict[str, Any]:
        """Return a flagged sample with its figures in the most suspicious space."""
        name = names[suspicion[:, i].argmin()]
        near = check.spaces[name].samples
        return {
            "sample": i,
            "flagged by": [name for name, of in check.spaces.items() if of.flags(of.samples)[i]],
            "space": name,
            "training_image": int(near.index[i, 0]),
            "mirrored": bool(near.mirrored[i, 0]),
            **{key: float(getattr(near, key)[i]) for key in FIGURES},
        }

    return {
        "verdict": copy_verdict(check),
        "rule": (
            "distance d_1, ratio d_1/d_2 or nearness d_1/d_k with "
            f"k = {_kth(check)} at most its threshold, below which one unseen "
            f"image in {1 / FLAGGED_SHARE:,.0f} is expected"
        ),
        "compared with": _real_images(check),
        "samples": _counts(check.flagged, check.spaces[PIXELS].samples),
        "held_out": _counts(check.held_out_flagged, check.spaces[PIXELS].held_out),
        "training_images": check.num_train,
        "copies": [copy(i) for i in _likeliest_first(check, suspicion) if check.flagged[i]],
        "held_out_flagged": check.held_out_flagged.nonzero()[0].tolist(),
        "spaces": {name: _space(of) for name, of in check.spaces.items()},
    }


def save_copy_sheet(
    check: CopyCheck, samples: np.ndarray, train: np.ndarray, path: Path, *, pairs: int = PAIRS
) -> Path:
    """Write samples with their nearest and second nearest training images as a PNG.

    A training image is mirrored if its mirror image is nearer. The caption of a sample has d_1/d_k
    and marks a copy; that of a training image has its index and distance, the nearest d_1/d_2 too.

    samples, train: the images that were checked, uint8 (N, C, H, W) and (M, C, H, W). pairs: the
    largest number of samples: flagged ones, then those of the lowest nearness for their space.
    """
    suspicion, names = _suspicion(check), list(check.spaces)
    images, captions = [], []
    for i in _likeliest_first(check, suspicion)[:pairs]:
        if images and len(images) % COLUMNS:
            images.append(np.full_like(samples[i], 255))  # a gap between pairs
            captions.append("")
        space = names[suspicion[:, i].argmin()]
        near = check.spaces[space].samples
        images.append(samples[i])
        lines = [f"sample {i}", f"d1/d{_kth(check)} = {near.nearness[i]:.2f}"]
        lines += ["COPY"] * bool(check.flagged[i])
        lines += [f"by {space}"] * (len(names) > 1)
        captions.append("\n".join(lines))
        for rank, distance in enumerate((near.distance[i], near.second[i])):
            row, mirrored = near.index[i, rank], near.mirrored[i, rank]
            images.append(train[row][..., ::-1] if mirrored else train[row])
            lines = [f"training {row}", f"d{rank + 1} = {distance:.3f}"]
            lines += ["mirrored"] * bool(mirrored)
            lines += [f"d1/d2 = {near.ratio[i]:.2f}"] * (rank == 0)
            captions.append("\n".join(lines))
    title = "The samples nearest to training images; "
    title += f"{_format_share(check.flagged, 'samples')} are copies"
    return grid_figure(np.stack(images), path, title=title, captions=captions, columns=COLUMNS)


def _suspicion(check: CopyCheck) -> np.ndarray:
    """Return nearness over its median among real images (spaces, N); copies have low values."""
    spaces = check.spaces.values()
    return np.stack(
        [of.samples.nearness / max(float(np.median(of.held_out.nearness)), 1e-9) for of in spaces]
    )


def _likeliest_first(check: CopyCheck, suspicion: np.ndarray) -> list[int]:
    """Return the samples, flagged ones first, then by their suspicion."""
    return np.lexsort((suspicion.min(axis=0), ~check.flagged)).tolist()


def _real_images(check: CopyCheck) -> str:
    return "training images, each left out" if check.leave_one_out else "held-out real images"


def _kth(check: CopyCheck) -> int:
    return min(KTH, check.num_train - 1)


def _format_share(flags: np.ndarray, images: str) -> str:
    return f"{flags.sum():,} of {len(flags):,} {images} ({100 * flags.mean():.2g} %)"


def _overfitting_notes(check: CopyCheck) -> list[str]:
    """Return a sentence for each space in which samples that are no copies are too near."""
    sentences, rest = [], ~check.flagged
    subject = "the samples" if rest.all() else "the other samples"
    for name, of in check.spaces.items() if rest.any() else ():
        distance, real = of.samples.distance[rest], of.held_out.distance
        share, z = share_nearer(distance, real)
        if share < MIN_SHARE or z < MIN_SIGMA:
            continue
        sentences.append(
            f"As a whole {subject} are nearer to the training images than unseen real images "
            f"(median {np.median(distance):.3f} against {np.median(real):.3f}, by {name}): "
            "a sign of overfitting, or of samples smoother than the data."
        )
    return sentences


def _counts(flagged: np.ndarray, in_pixels: Figures) -> dict[str, Any]:
    return {
        "images": len(flagged),
        "flagged": int(flagged.sum()),
        "share flagged": float(flagged.mean()),
        "exact": int((in_pixels.distance == 0).sum()),
    }


def _space(of: SpaceCheck) -> dict[str, Any]:
    share, z = share_nearer(of.samples.distance, of.held_out.distance)
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
