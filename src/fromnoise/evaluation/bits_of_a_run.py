"""Bits per dimension of the images that a run knows: among other scores, or alone.

bits-…/metrics.json    the bound with its parts, its interval and its curve
       metrics.md      the same as a table
       bits.png        the curve over t
"""

import time
from pathlib import Path

from fromnoise.evaluation.bits import measure_bits
from fromnoise.evaluation.extractors import Progress, nothing
from fromnoise.evaluation.real import Known, evenly
from fromnoise.evaluation.records import NotDefined, new_record, refuse_scored, write_record
from fromnoise.evaluation.set_table import Record
from fromnoise.model import Model

CURVE, MOST = "bits.png", 1000  # images
LIBRARIES = ("fromnoise", "torch", "numpy")


def bits_of_a_run(
    model: Model, known: Known, folder: Path, *, progress: Progress = nothing
) -> Record:
    """Bits per dimension of the held-out images of a run, or of training images; `bits.png`.

    Raises NotDefined where none are known, and what `measure_bits` raises.
    """
    real = known.held_out or known.training
    if real is None:
        raise NotDefined(f"bits are of real images, and {known.why}")
    labels, names = real.images.labels, real.images.label_names
    measured = measure_bits(
        model,
        images := evenly(real.images.images, MOST),
        None if labels is None or names != model.spec.label_names else evenly(labels, MOST),
        data=f"{len(images):,} images of {real.what}",
        progress=progress,
    )
    measured.save_curve(folder / CURVE)
    return {"bits": {**measured.as_json(), "picture": CURVE}}


def evaluate_bits(
    model: Model, known: Known, folder: Path, *, loaded_from: str, progress: Progress = nothing
) -> Record:
    """Measure bits per dimension and nothing else, and return what metrics.json holds then.

    No image is drawn and no feature extracted. loaded_from: where the model is, to be noted.
    Raises ConfigError where `folder` has scores already, and what `bits_of_a_run` raises.
    """
    refuse_scored(folder)
    started = time.perf_counter()
    found = bits_of_a_run(model, known, folder, progress=progress)
    which = model.spec.model_dump(mode="json", include={"step", "weights"})
    record = new_record(LIBRARIES) | found
    record |= {
        "complete": True,
        "generated": {"what": "none", "loaded from": loaded_from, **which},
        "seconds": {"bits": time.perf_counter() - started},
    }
    write_record(folder, record)
    return record
