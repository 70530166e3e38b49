"""Sample images: `fromnoise sample`, which also sends each step to the page."""

import base64
import io
import time
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fromnoise.config.arguments import parse_sampling
from fromnoise.config.schema import SamplingConfig
from fromnoise.diffusion import Step
from fromnoise.generation.request import Conditioning, Request, guidance_notes, read_conditioning
from fromnoise.generation.samples import Outputs, sample_to_folder
from fromnoise.model.model import Model, load, to_uint8
from fromnoise.model.spec import find_model_file
from fromnoise.pictures import displayable, mosaic, to_pillow
from fromnoise.studio.requests import Making
from fromnoise.studio.results import Result, write_result
from fromnoise.studio.worker import Call

SHEET = 2**20  # pixels of a sheet; further images are not shown during the denoising
COLUMNS = 8  # of a sheet
SHARE = 12  # the time between two sheets, over the time to draw the last one
_loaded: dict[Path, Model] = {}  # one model


def warm(arguments: dict[str, Any], call: Call) -> None:
    """Load the model of a run, and matplotlib, before the first request."""
    import_module("matplotlib.figure")
    if run := arguments.get("run"):
        load_run(Path(run))


def make(arguments: dict[str, Any], call: Call) -> dict[str, Any]:
    """Write samples into a new folder of the run, and return its record."""
    started = time.monotonic()
    run, folder = Path(arguments["run"]), Path(arguments["folder"])
    wanted = Making.model_validate(arguments["request"])
    model, seeds = load_run(run), wanted.numbers()
    conditioning, config = resolve(model, wanted, len(seeds))
    for note in guidance_notes(model.spec, config, conditioning):
        call.say(note=note)
    shown = Sheets(call, model, len(seeds), config, wanted.every)
    request = Request(model, config, folder, conditioning)
    shown.batch = request.batch_size
    outputs = Outputs(gif=wanted.gif, npz=wanted.npz, trajectory=wanted.trajectory)
    files = [file.name for file in sample_to_folder(request, seeds, outputs, watch=shown.watch)]
    result = Result(
        id=folder.name,
        kind="make",
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.monotonic() - started,
        command=wanted.command(run),
        request=wanted.model_dump(mode="json"),
        settings=described(model, config, conditioning),
        size=model.spec.size,
        seeds=seeds,
        captions=conditioning.captions(model.spec.label_names, len(seeds)),
        files=files[: len(seeds)],
        others=files[len(seeds) :],
    )
    write_result(result, folder)
    return result.model_dump(mode="json")


def load_run(run: Path) -> Model:
    """Return the model of a run's newest whole checkpoint. The last model stays in memory."""
    file = find_model_file(run, None)
    if file not in _loaded:
        _loaded.clear()
        _loaded[file] = load(run)
    return _loaded[file]


def resolve(model: Model, wanted: Making, count: int) -> tuple[Conditioning, SamplingConfig]:
    """Return the labels of each image and the settings, checked as on the command line."""
    short = {"steps": wanted.steps, "sampler": wanted.sampler, "guidance": wanted.guidance}
    overrides = parse_sampling(wanted.settings, **short)
    names, labels = model.spec.label_names, wanted.labels
    conditioning = read_conditioning(names, count, labels=labels, compose=wanted.compose)
    conditional = conditioning.cond is not None
    return conditioning, model.sampling_config(conditional=conditional, **overrides)


def described(model: Model, config: SamplingConfig, conditioning: Conditioning) -> dict[str, str]:
    """Return the sampling settings as text, for display and comparison."""
    settings = {"sampler": config.sampler.name, "steps": str(config.steps)}
    settings |= {key: str(value) for key, value in config.sampler.options.items()}
    if conditioning.cond is not None:
        settings["guidance"] = f"{config.guidance:g}"
    settings |= {"timesteps": config.timesteps_name, "clamp": str(config.clamp)}
    settings |= {"precision": config.precision, "weights": model.spec.weights_name}
    return settings | {"trained": f"{model.spec.step:,} steps"}


class Sheets:
    """Pictures of x_t and of the predicted x_0 of a batch, sent during the denoising."""

    def __init__(
        self, call: Call, model: Model, count: int, config: SamplingConfig, every: int | None
    ) -> None:
        """Prepare for `count` images. every: steps between sheets; None: up to ten per second."""
        self.call, self.every, self.steps = call, every, config.steps
        self.count, self.batch = count, count
        h, w = model.spec.size
        self.most, self.range = max(1, SHEET // (h * w)), model.spec.data_range
        self.done, self.sent, self.cost = 0, -1.0, 0.0

    def watch(self, first: int, step: Step) -> None:
        """Send the progress, and the sheets of a step when they are due. Raises Stopped."""
        batches = -(-self.count // self.batch)
        self.done += 1
        self.call.progress(self.done, batches * self.steps)
        number = (self.done - 1) % self.steps + 1
        now = time.monotonic()
        due = now - self.sent >= max(0.1, SHARE * self.cost)
        if self.every is not None:
            due = number % self.every == 0
        if not due and step.s > 0:
            return
        frame = {"first": first, "count": min(len(step.x), self.most), "columns": COLUMNS}
        frame |= {"step": number, "steps": self.steps, "t": step.t, "s": step.s}
        frame |= {"x": self._sheet(step.x), "x0": self._sheet(step.x0)}
        self.call.say(frame=frame)
        self.sent, self.cost = time.monotonic(), time.monotonic() - now

    def _sheet(self, x: Tensor) -> str:
        pixels = displayable(to_uint8(x[: self.most], self.range).numpy())
        return png_url(mosaic(pixels, min(COLUMNS, len(pixels)), 0, 0))


def png_url(image: np.ndarray) -> str:
    """Return an image (C, H, W) as the URL of a PNG, compressed quickly."""
    content = io.BytesIO()
    to_pillow(image).save(content, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
