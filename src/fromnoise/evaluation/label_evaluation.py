"""Do generated images show what was asked for? Draw them, have them classified, write it down.

labels-…/scores.json    every score with its interval, and all that is needed to draw it again
         scores.md      the table
         NAME-s2.png    images with what was asked for, and whether all of it is right
"""

import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fromnoise.classifier.classifier import Classifier, load_classifier
from fromnoise.classifier.label_scores import (
    LabelPredictions,
    LabelScores,
    label_counts,
    score_with_intervals,
    scores_per_label,
)
from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import SamplingConfig
from fromnoise.data import DataError, read_conditions
from fromnoise.data.labels.names import describe_labels, one_label_each, parse_labels
from fromnoise.evaluation.evaluate import sampling_name
from fromnoise.evaluation.intervals import Interval
from fromnoise.model.model import Model, load
from fromnoise.model.sampling import with_guidance
from fromnoise.model.spec import Weights, run_folder_of
from fromnoise.pictures import grid_figure
from fromnoise.progress import progress_bar

SHOWN, COLUMNS = 64, 8  # images in a picture, and about as many in a row
RIGHT, WRONG = "✓", "✗"
SCORES, TABLE = "scores.json", "scores.md"
FORMULA = "ε = ε_∅ + s·(ε_c − ε_∅)"
HEADINGS = {
    "recall_at_k": "recall@k",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "exact_match": "exact match",
    "extra": "extra",
}


logger = logging.getLogger("fromnoise")


class Prompts(NamedTuple):
    """Conditions to draw images for, under a name."""

    name: str
    wanted: np.ndarray  # int8 (M, K): +1 must appear, −1 must not, 0 open


def read_prompts(
    names: Sequence[str], files: Sequence[Path], texts: Sequence[str]
) -> list[Prompts]:
    """The conditions of each file, and the texts (`red cube, -blue sphere`) as a set of their own.

    Where there are neither: each label alone. names: the labels of the model.
    """
    _check_labels(names)
    prompts = [Prompts(file.stem, read_conditions(file, names)) for file in files]
    if texts:
        prompts.append(Prompts("labels", np.stack([parse_labels(text, names) for text in texts])))
    if twice := [name for name, n in Counter(p.name for p in prompts).items() if n > 1]:
        raise DataError(f"two sets of conditions are called {twice[0]}; rename one of the files")
    return prompts or [Prompts("each label", one_label_each(names, len(names)))]


def evaluate_labels_to_folder(
    path: Path,
    classifier: Path,
    *,
    files: Sequence[Path] = (),
    texts: Sequence[str] = (),
    scales: Sequence[float] | None = None,
    num: int = 8,
    first_seed: int = 0,
    batch_size: int = 64,
    weights: Weights | None = None,
    out: Path | None = None,
    device: str = "auto",
    sampling: Mapping[str, Any] | None = None,
) -> tuple[str, Path]:
    """Score how often a model's images show the requested labels; return the table and its folder.

    path: a run, a checkpoint or a .safetensors file. files, texts: see `read_prompts`. scales: of
    guidance; None is the model's own. sampling: overrides, see `resolve_sampling`. Others as in
    `evaluate_labels`.
    """
    model = load(path, weights=weights, device=device)
    loaded = load_classifier(classifier, device=device)
    prompts = read_prompts(model.spec.label_names, files, texts)
    scales = scales or [model.spec.sampling.guidance]
    widest = max(scales, key=lambda scale: abs(scale - 1))  # a shape of guidance needs one
    config = model.sampling_config(conditional=True, **{**(sampling or {}), "guidance": widest})
    parts = sampling_name(model.spec, with_guidance(config, 1.0))
    name = "-".join(["labels", *parts, *(p.name for p in prompts)])
    folder = out or run_folder_of(path) / "evaluation" / name
    with progress_bar("images") as progress:
        rows = evaluate_labels(
            model,
            loaded,
            prompts,
            folder,
            config,
            scales=scales,
            num=num,
            first_seed=first_seed,
            batch_size=batch_size,
            loaded_from=str(path.absolute()),
            progress=progress,
        )
    return table(rows, loaded), folder


class Row(NamedTuple):
    """What was measured of one set of prompts at one scale."""

    prompts: str
    guidance: float
    num_images: int
    seconds: float  # of drawing
    scores: dict[str, Interval]
    per_label: list[LabelScores]


def evaluate_labels(
    model: Model,
    classifier: Classifier,
    prompts: Sequence[Prompts],
    folder: Path,
    config: SamplingConfig,
    *,
    scales: Sequence[float],
    num: int = 8,
    first_seed: int = 0,
    batch_size: int = 64,
    loaded_from: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Draw `num` images for each condition at each scale s, and score them by the classifier.

    Every image has a seed of its own, from `first_seed` on; all scales share them. Writes
    `scores.json`, `scores.md` and one picture for each row into `folder`, anew after every row.
    loaded_from: where the model is, to be noted. progress is called with (images drawn, of how
    many). how: as in `Model.sampling_plan`.
    Raises ConfigError where `folder` has scores already, DataError where model and classifier do not
    speak of the same labels, and ValueError for anything else that does not fit, before the first
    image is drawn.
    """
    if (folder / SCORES).exists():
        raise ConfigError(
            f"{folder.absolute()} has the scores of an earlier evaluation; give another --out, or "
            "remove it"
        )
    order = _column_order(model, classifier)
    model.guided_denoiser(config, 1, cond=torch.from_numpy(prompts[0].wanted[:1]))  # or an error
    total = sum(len(p.wanted) for p in prompts) * num * len(scales)
    circumstances = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("fromnoise", "torch", "torchvision")},
        "model": {
            "loaded from": loaded_from,
            "source": model.spec.source,
            **model.spec.weights_info(),
            "precision": config.precision,
        },
        "sampling": config.model_dump(mode="json", exclude={"guidance"}),
        "guidance": f"s in {FORMULA}; 1 is off",
        "seeds": f"from {first_seed} on, one an image, those of a condition in a row",
        "images per condition": num,
        "conditions": {
            p.name: [describe_labels(row, model.spec.label_names) for row in p.wanted]
            for p in prompts
        },
        "classifier": classifier.spec.model_dump(mode="json"),
    }
    rows, done = [], 0
    for name, wanted in prompts:
        condition = np.repeat(np.arange(len(wanted)), num)  # (N,)
        cond = torch.from_numpy(wanted[condition])
        for scale in scales:
            guided = with_guidance(config, scale)
            seeds = range(first_seed, first_seed + len(cond))
            images, started = [], time.perf_counter()
            for i in range(0, len(cond), batch_size):
                batch = slice(i, i + batch_size)
                sampled = model.sample(
                    seeds[batch], guided, batch_size=batch_size, cond=cond[batch]
                )
                images.append(sampled.numpy())
                progress(done := done + len(images[-1]), total)
            seconds = time.perf_counter() - started
            drawn = np.concatenate(images)
            predictions = LabelPredictions(
                *(part[:, order] for part in classifier.predictions(drawn))
            )
            rows.append(
                Row(
                    name,
                    scale,
                    len(drawn),
                    seconds,
                    score_with_intervals(predictions, cond.numpy(), condition),
                    scores_per_label(predictions, cond.numpy(), condition),
                )
            )
            _save_picture(drawn, predictions, cond.numpy(), num, model, rows[-1], folder)
            _write_json(folder / SCORES, rows, circumstances, model.spec.label_names)
            (folder / TABLE).write_text(table(rows, classifier), encoding="utf-8")
    return rows


def table(rows: Sequence[Row], classifier: Classifier) -> str:
    """The scores with their 95 % intervals as a table in Markdown, and how good the classifier is."""
    classes = classifier.spec.kind == "classes"
    columns = {"exact_match": "accuracy"} if classes else HEADINGS
    lines = [
        "| conditions | s | images | " + " | ".join(columns.values()) + " |",
        "|---" * (3 + len(columns)) + "|",
    ]
    for row in rows:
        cells = [row.prompts, f"{row.guidance:g}", f"{row.num_images:,}"]
        cells += [_in_words(row.scores[key]) for key in columns]
        lines.append("| " + " | ".join(cells) + " |")
    own = ", ".join(f"{k} {v:.4f}" for k, v in classifier.spec.held_out.items() if v is not None)
    of = f"of real images that it never saw ({classifier.spec.num_held_out:,})"
    lines += ["", f"s in {FORMULA}; 1 is off. The classifier itself, {of}: {own or 'not known'}."]
    return "\n".join(lines) + "\n"


def _in_words(score: Interval) -> str:
    if math.isnan(score.value):
        return "–"
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def _column_order(model: Model, classifier: Classifier) -> list[int]:
    """Where in the classifier's labels each of the model's labels is."""
    names, known = model.spec.label_names, classifier.spec.label_names
    _check_labels(names)
    if set(names) != set(known):
        differing = sorted(set(names) ^ set(known))
        raise DataError(
            f"model and classifier were trained on other labels: the model has {len(names)}, the classifier "
            f"{len(known)}, and only one of them has {', '.join(differing[:4])}"
            f"{', …' if len(differing) > 4 else ''}; train a classifier on the data of the model, read "
            f"as it was: --source {model.spec.source or 'SOURCE'}"
        )
    classifier.check(np.empty((0, model.spec.channels, *model.spec.size), dtype=np.uint8))
    seen, drawn = ((of.spec.fit, of.spec.background) for of in (classifier, model))
    if seen != drawn:
        logger.warning(
            "the classifier was trained on images that came to their size by %s %s, the model on %s %s "
            "(fit, background): the classifier sees images of another kind, unless all had this size",
            *seen,
            *drawn,
        )
    return [known.index(name) for name in names]


def _check_labels(names: Sequence[str]) -> None:
    if not names:
        raise DataError(
            "this model was trained without labels, so there is nothing to ask it for; train one "
            "with data.labels=true"
        )


def _save_picture(
    images: np.ndarray,
    predictions: LabelPredictions,
    wanted: np.ndarray,
    num: int,
    model: Model,
    row: Row,
    folder: Path,
) -> None:
    """The first images of every condition; several of each where conditions are few."""
    of_each = min(num, max(1, SHOWN // (len(images) // num)))
    shown = (np.arange(len(images)) % num < of_each).nonzero()[0][:SHOWN]
    said = captions(
        LabelPredictions(*(part[shown] for part in predictions)),
        wanted[shown],
        model.spec.label_names,
    )
    exact = row.scores["exact_match"]
    title = (
        f"{row.prompts}, s = {row.guidance:g}: all right ({RIGHT}) in {exact.value:.0%} "
        f"of {row.num_images:,} images"
    )
    path = folder / f"{row.prompts}-s{row.guidance:g}.png"
    columns = of_each * max(1, COLUMNS // of_each)  # those of one condition stay side by side
    grid_figure(images[shown], path, title=title, captions=said, columns=columns)


def captions(predictions: LabelPredictions, wanted: np.ndarray, names: Sequence[str]) -> list[str]:
    """For each image what was asked for, a line for each label, and whether all of it is right."""
    exact = label_counts(predictions, wanted).exact
    return [
        f"{RIGHT if right else WRONG} " + describe_labels(row, names).replace(", ", "\n")
        for right, row in zip(exact, wanted, strict=True)
    ]


def _write_json(
    path: Path, rows: Sequence[Row], circumstances: dict[str, Any], names: Sequence[str]
) -> None:
    results = [
        {
            **row._asdict(),
            "scores": {key: _plain(score) for key, score in row.scores.items()},
            "per_label": {
                name: {key: _plain(value) for key, value in label._asdict().items()}
                for name, label in zip(names, row.per_label, strict=True)
            },
        }
        for row in rows
    ]
    text = json.dumps({**circumstances, "results": results}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _plain(value: Interval | int) -> Any:
    """A score for JSON, which has no NaN."""
    if isinstance(value, Interval):
        return {k: None if math.isnan(v) else v for k, v in value._asdict().items()}
    return value
