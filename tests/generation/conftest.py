"""Models to generate with, and `sample_to_folder` with the settings as keywords."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import fromnoise
from fromnoise.generation.request import Conditioning, Request
from fromnoise.generation.samples import Outputs, sample_to_folder
from fromnoise.model.model import Model, build_denoiser


@pytest.fixture(scope="session")
def model(finished_run: Path) -> Model:
    """The model of the finished run."""
    return fromnoise.load(finished_run, device="cpu")


@pytest.fixture(scope="session")
def labelled(finished_run: Path) -> Model:
    """The finished run's network with three labels, untrained: to see what goes where."""
    trained = fromnoise.load(finished_run, device="cpu")
    spec = trained.spec.model_copy(update={"label_names": ("red cube", "a/b", "sphere")})
    torch.manual_seed(0)
    return Model(build_denoiser(spec).eval(), spec)


@pytest.fixture(scope="session")
def earlier() -> Callable[..., Model]:
    """earlier(model, step=3): the same network before training, with another specification."""

    def untrained(model: Model, step: int = 3, **changes: Any) -> Model:
        spec = model.spec.model_copy(update={"step": step, **changes})
        torch.manual_seed(1)
        return Model(build_denoiser(spec).eval(), spec)

    return untrained


@pytest.fixture(scope="session")
def write_samples() -> Callable[..., list[Path]]:
    """write_samples(model, seeds, folder, npz=True, steps=3): outputs and settings by keyword.

    There is no grid unless `grid=True`.
    """

    def write(model: Model, seeds: Sequence[int], folder: Path, **how: Any) -> list[Path]:
        def taken(names: Sequence[str]) -> dict[str, Any]:
            return {name: how.pop(name) for name in names if name in how}

        conditioning = Conditioning(**taken(Conditioning._fields))
        outputs = Outputs(**{"grid": False} | taken(list(Outputs.__dataclass_fields__)))
        rest, last = taken(["batch_size"]), taken(["overwrite"])
        config = model.sampling_config(conditional=conditioning.cond is not None, **how)
        request = Request(model, config, folder, conditioning, **rest)
        return sample_to_folder(request, seeds, outputs, **last)

    return write
