"""Edit images: `fromnoise edit inpaint`, `vary` and `interpolate`."""

import base64
import binascii
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fromnoise.checkpoints import atomic_file
from fromnoise.config.errors import ConfigError
from fromnoise.data import DataError
from fromnoise.generation import edits
from fromnoise.generation.request import Request, read_conditioning
from fromnoise.studio.making import described, load_run
from fromnoise.studio.requests import MASK, Editing
from fromnoise.studio.results import Result, write_result
from fromnoise.studio.worker import Call

OTHERS = ("comparison.png", "interpolation.gif")


def edit(arguments: dict[str, Any], call: Call) -> dict[str, Any]:
    """Write edits into a new folder of the run, and return its record."""
    started, wanted = time.monotonic(), Editing.model_validate(arguments["request"])
    run, folder = Path(arguments["run"]), Path(arguments["folder"])
    inputs, model = [Path(file) for file in arguments["inputs"]], load_run(run)
    overrides: dict[str, Any] = {"steps": wanted.steps, "guidance": wanted.guidance}
    if wanted.kind == "inpaint":
        overrides["sampler"] = "ddpm"
    elif wanted.kind == "walk seeds" or (wanted.kind == "walk" and wanted.strength is None):
        overrides |= edits.DETERMINISTIC
    conditioning = read_conditioning(model.spec.label_names, 1, labels=wanted.labels)
    config = model.sampling_config(conditional=conditioning.cond is not None, **overrides)
    request = Request(model, config, folder, conditioning)
    mask = folder.with_name(f".{folder.name}.png")
    try:
        files = _edit(request, wanted, inputs, mask)
        if mask.exists():
            mask.rename(folder / MASK)
    finally:
        mask.unlink(missing_ok=True)
    pictures = [file.name for file in files if file.name not in OTHERS]
    walk = wanted.kind.startswith("walk")
    seeds = list(range(len(pictures))) if walk else wanted.numbers()
    captions = conditioning.captions(model.spec.label_names, 1) * len(pictures)
    result = Result(
        id=folder.name,
        kind=wanted.kind,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.monotonic() - started,
        command=wanted.command(run, folder, inputs),
        request=wanted.model_dump(mode="json", exclude={"mask"}),
        settings={"edit": wanted.kind, **described(model, config, conditioning)},
        size=model.spec.size,
        seeds=seeds,
        captions=captions,
        files=pictures,
        others=[file.name for file in files if file.name in OTHERS],
        inputs=[file.stem for file in inputs],
    )
    write_result(result, folder)
    return result.model_dump(mode="json")


def _edit(request: Request, wanted: Editing, inputs: list[Path], mask: Path) -> list[Path]:
    if wanted.kind == "walk seeds":
        seeds = wanted.numbers()
        return edits.interpolate_seeds_to_folder(request, seeds, frames=wanted.frames)
    if len(inputs) < (2 if wanted.kind == "walk" else 1):
        raise ConfigError("an image is missing. Choose one first.")
    try:
        if wanted.kind == "walk":
            how: dict[str, Any] = {"frames": wanted.frames, "strength": wanted.strength}
            return edits.interpolate_to_folder(request, inputs[0], inputs[1], **how)
        if wanted.kind == "vary":
            strength = 0.6 if wanted.strength is None else wanted.strength
            return edits.vary_to_folder(request, inputs[0], wanted.numbers(), strength=strength)
        _write_mask(wanted.mask, mask)
        return edits.inpaint_to_folder(request, inputs[0], mask, wanted.numbers())
    except DataError as error:
        message = str(error).replace(str(mask), "").replace("  ", " ")
        raise DataError(message) from None


def _write_mask(content: str | None, file: Path) -> None:
    if not content:
        raise ConfigError("there is no mask. Paint the area to inpaint.")
    try:
        png = base64.b64decode(content.rpartition(",")[2], validate=True)
    except binascii.Error as error:
        raise ConfigError("the mask is not a PNG. Paint it again.") from error
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file, sync=False) as writing:
        writing.write_bytes(png)
