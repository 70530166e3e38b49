"""Read the specification and the previews of a run for the pages, without torch."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.checkpoints import CheckpointError, check_version, newest_checkpoint
from fromnoise.config.migration import migrate
from fromnoise.pictures import displayable, mosaic, to_pillow
from fromnoise.studio.runs import MODEL_FILES
from fromnoise.studio.worker import Call

COLUMNS, CARD = 8, 16  # images in a row of previews; images on a card


def describe(arguments: dict[str, Any], call: Call) -> dict[str, Any]:
    """Return the sampling settings, labels and size of the model of a run."""
    tree = read_spec(Path(arguments["run"]))
    sampling, process = tree.get("sampling", {}), tree.get("diffusion", {})
    sampler = sampling.get("sampler", {})
    return {
        "labels": tree.get("label_names", []),
        "size": tree["size"],
        "channels": tree["channels"],
        "step": tree.get("step", 0),
        "T": process.get("T", 1000),
        "steps": sampling.get("steps"),
        "sampler": sampler.get("name") if isinstance(sampler, dict) else sampler,
        "guidance": sampling.get("guidance", 1.0),
    }


def read_spec(run: Path) -> dict[str, Any]:
    """Return the specification in the header of a run's newest model file.

    Raises CheckpointError if there is none yet.
    """
    lone = next((run / name for name in MODEL_FILES if (run / name).is_file()), None)
    newest, _ = (None, []) if lone else newest_checkpoint(run / "checkpoints", file=MODEL_FILES[0])
    file = lone or (newest and newest / MODEL_FILES[0])
    if file is None:
        raise CheckpointError(f"{run.name} has no checkpoint yet. Wait for the first one.")
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(min(length, 2**26)))
    tree = json.loads(header["__metadata__"]["fromnoise"])
    check_version(tree["format_version"], file)
    return migrate(tree)


def preview(arguments: dict[str, Any], call: Call) -> dict[str, Any]:
    """Return the images of one preview of a run as one PNG: of a step, or the newest."""
    run, step = Path(arguments["run"]), arguments.get("step")
    files = {int(f.stem): f for f in (run / "previews").glob("*.npz") if f.stem.isdecimal()}
    if not files or (step is not None and step not in files):
        raise ValueError(f"{run.name} has no preview yet. Wait for the first one.")
    with np.load(files[max(files) if step is None else step]) as arrays:
        images = displayable(arrays["EMA"])
    images = images[: arguments.get("most", CARD)]
    columns = min(len(images), arguments.get("columns", COLUMNS))
    content = io.BytesIO()
    to_pillow(mosaic(images, columns, 0, 0)).save(content, "PNG", optimize=True)
    return {"png": base64.b64encode(content.getvalue()).decode()}
