"""Sample images with labels, classify them, and score the predicted labels.

labels-…/scores.json    every score with its interval, and all settings to repeat the evaluation
         scores.md      the table
         NAME-s2.png    images with their conditions and a mark for right or wrong
"""

import hashlib
import itertools
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fromnoise.classifier import label_scores
from fromnoise.classifier.classifier import Classifier, load_classifier
from fromnoise.data import DataError, read_conditions
from fromnoise.data.labels import describe_labels, one_label_each, parse_labels
from fromnoise.evaluation import intervals, records
from fromnoise.evaluation.images import Drawing, load_in_fp32, sample_batches
from fromnoise.evaluation.sets import sampling_name
from fromnoise.model.model import Model
from fromnoise.model.sampling import FORMULA, with_guidance
from fromnoise.model.spec import run_folder_of
from fromnoise.pictures import grid_figure, literal
from fromnoise.progress import progress_bar

MAX_IN_PICTURE, COLUMNS = 64, 8  # images in a picture, and about as many in a row
RIGHT, WRONG = "✓", "✗"
logger = logging.getLogger("fromnoise")


def read_prompts(
    names: Sequence[str], files: Sequence[Path], texts: Sequence[str]
) -> dict[str, np.ndarray]:
    """Read sets of conditions: one from each file, one from all texts (`red cube, -blue sphere`).

    Without files and texts: each label alone. names: the labels of the model. Returns name → int8
    (M, K): +1 must appear, −1 must not appear, 0 open.
    """
    prompts = [(file.stem, read_conditions(file, names)) for file in files]
    if texts:
        prompts.append(("labels", np.stack([parse_labels(text, names) for text in texts])))
    for i, (name, _) in enumerate(prompts):
        if name in dict(prompts[:i]):
            raise DataError(f"two sets of conditions are called {name}. Rename one of the files.")
    return dict(prompts or [("each label", one_label_each(names, len(names)))])


def evaluate_labels_to_folder(
    path: Path,
    classifier: Path,
    drawing: Drawing,
    *,
    files: Sequence[Path] = (),
    texts: Sequence[str] = (),
    scales: Sequence[float] = (),
    num: int = 8,
    first_seed: int = 0,
    out: Path | None = None,
) -> tuple[str, Path]:
    """Score how often a model's images show the requested labels; return the table and its folder.

    Samples `num` images for each condition at each scale, and classifies them. Every image has its
    own seed, counted from `first_seed`; all scales use the same seeds. The files are written after
    every set of conditions and scale.

    path: a run, a checkpoint or a .safetensors file. files, texts: see `read_prompts`. scales: of
    guidance; none for the model's own.
    Raises, before sampling, ConfigError if the folder has scores already, DataError if the model
    and the classifier have different labels, and ValueError for other settings that do not match.
    """
    model = load_in_fp32(path, drawing)
    loaded, names = load_classifier(classifier, device=drawing.device), model.spec.label_names
    if not names:
        raise DataError("this model is unconditional. Train one with data.labels=true.")
    prompts = read_prompts(names, files, texts)
    order = _column_order(model, loaded)
    scales = scales or [model.spec.sampling.guidance]
    guided = next((scale for scale in scales if scale != 1), 1.0)  # a shape of guidance needs s ≠ 1
    configs = []
    for scale in scales:
        settings = {**drawing.sampling, "guidance": guided if scale == 1 else scale}
        configs.append(with_guidance(model.sampling_config(conditional=True, **settings), scale))
    config = max(configs, key=lambda config: config.guidance != 1)  # has the shape of guidance
    [first, *_] = prompts.values()
    model.guided_denoiser(config, 1, cond=torch.from_numpy(first[:1]))  # raises
    parts = ["labels", *sampling_name(model.spec, with_guidance(config, 1.0))]
    parts += [name.replace(" ", "-") for name in prompts]
    if texts:  # others would have the same name
        parts += [hashlib.sha256(prompts["labels"].tobytes()).hexdigest()[:8]]
    parts += [f"s{c.guidance:g}" for c in configs if c.guidance != 1 or len(configs) > 1]
    folder = out or run_folder_of(path) / "evaluation" / "-".join(parts)
    records.require_no_scores(folder / records.SCORES_FILE)
    metadata = {
        "date": records.now(),
        "versions": records.versions("fromnoise", "torch", "torchvision"),
        "model": {
            "loaded from": str(path.absolute()),
            "source": model.spec.source,
            **model.spec.weights_info(),
            "precision": config.precision,
        },
        "sampling": config.model_dump(mode="json", exclude={"guidance"}),
        "guidance": f"s in {FORMULA}; 1 is off",
        "seeds": f"counted from {first_seed}, one per image, condition by condition",
        "images per condition": num,
        "conditions": {
            name: [describe_labels(row, names) for row in rows] for name, rows in prompts.items()
        },
        "classifier": loaded.spec.model_dump(mode="json"),
    }
    results: list[records.LabelResult] = []
    for (name, conditions), config in itertools.product(prompts.items(), configs):
        condition = np.repeat(np.arange(len(conditions)), num)  # (N,)
        targets, seeds = conditions[condition], range(first_seed, first_seed + len(condition))
        started = time.perf_counter()
        with progress_bar(f"images of {name}, s = {config.guidance:g}") as progress:
            cond = torch.from_numpy(targets)
            images = sample_batches(
                model, seeds, config, cond, batch_size=drawing.batch_size, progress=progress
            )
        seconds = time.perf_counter() - started
        predictions = loaded.predictions(images).select(slice(None), order)
        per_label = intervals.scores_per_label(predictions, targets, condition)
        result = records.LabelResult(
            prompts=name,
            guidance=config.guidance,
            num_images=len(images),
            seconds=seconds,
            scores=intervals.score_with_intervals(predictions, targets, condition),
            per_label=dict(zip(names, per_label, strict=True)),
        )
        results.append(result)
        captions = label_captions(predictions, targets, names)
        _save_picture(images, captions, num, result, folder)
        content = {**metadata, "results": results}
        records.write_record(folder / records.SCORES_FILE, content, label_table(results, loaded))
    return label_table(results, loaded), folder


def label_table(results: Sequence[records.LabelResult], classifier: Classifier) -> str:
    """Return scores with 95 % intervals, and the classifier's held-out scores, as Markdown."""
    classes = classifier.spec.kind == "classes"
    columns = {"exact_match": "accuracy"} if classes else records.LABEL_HEADINGS
    lines = [
        "| conditions | s | images | " + " | ".join(columns.values()) + " |",
        "|---" * (3 + len(columns)) + "|",
    ]
    for result in results:
        cells = [result.prompts, f"{result.guidance:g}", f"{result.num_images:,}"]
        scores = [result.scores[key] for key in columns]
        cells += [
            "–" if math.isnan(of.value) else "{:.3f} [{:.3f}, {:.3f}]".format(*of) for of in scores
        ]
        lines.append("| " + " | ".join(cells) + " |")
    held_out = {k: v for k, v in classifier.spec.held_out.items() if v is not None}
    text = ", ".join(f"{name} {value:.4f}" for name, value in held_out.items()) or "unknown"
    count = f"{classifier.spec.num_held_out:,}"
    lines += ["", f"s in {FORMULA}; 1 is off. The classifier on {count} held-out images: {text}."]
    return "\n".join(lines) + "\n"


def _column_order(model: Model, classifier: Classifier) -> list[int]:
    """Return the index of each of the model's labels among the classifier's labels."""
    names, known = model.spec.label_names, classifier.spec.label_names
    if set(names) != set(known):
        differing = sorted(set(names) ^ set(known))
        raise DataError(
            f"the model and the classifier have different labels: the model has {len(names)}, the "
            f"classifier {len(known)}, and only one of them has {', '.join(differing[:4])}"
            f"{', …' if len(differing) > 4 else ''}. Train a classifier on the data of the model "
            f"with the same source={model.spec.source or 'SOURCE'}."
        )
    classifier.check(np.empty((0, model.spec.channels, *model.spec.size), dtype=np.uint8))
    ours, theirs = ((owner.spec.fit, owner.spec.background) for owner in (classifier, model))
    if ours != theirs:
        logger.warning(
            "the classifier was trained on images resized with fit=%s, background=%s, the model "
            "with fit=%s, background=%s. The scores may be wrong, unless all images had this size",
            *ours,
            *theirs,
        )
    return [known.index(name) for name in names]


def _save_picture(
    images: np.ndarray, captions: Sequence[str], num: int, result: records.LabelResult, folder: Path
) -> None:
    """Save the first images of every condition; several of each if there are few conditions."""
    per_condition = min(num, max(1, MAX_IN_PICTURE // (len(images) // num)))
    chosen = (np.arange(len(images)) % num < per_condition).nonzero()[0][:MAX_IN_PICTURE]
    exact = result.scores["exact_match"]
    title = (
        f"{literal(result.prompts)}, s = {result.guidance:g}: all right ({RIGHT}) in "
        f"{exact.value:.0%} of {result.num_images:,} images"
    )
    path = folder / f"{result.prompts}-s{result.guidance:g}.png"
    columns = per_condition * max(1, COLUMNS // per_condition)  # those of a condition side by side
    of_chosen = np.array(captions)[chosen].tolist()
    grid_figure(images[chosen], path, title=title, captions=of_chosen, columns=columns)


def label_captions(
    predictions: label_scores.LabelPredictions, targets: np.ndarray, names: Sequence[str]
) -> list[str]:
    """Return a caption for each image: a mark for right or wrong, and one line for each label."""
    exact, _ = label_scores.score_ratios(predictions, targets)["exact_match"]
    return [
        f"{RIGHT if right else WRONG} " + literal(describe_labels(row, names)).replace(", ", "\n")
        for right, row in zip(exact, targets, strict=True)
    ]
