"""Small networks of each format, as the tests of the formats write them again."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import Tensor

HERE = Path(__file__).parent


def load_writing(name: str) -> ModuleType:
    """Return the test file of a format as a module."""
    spec = importlib.util.spec_from_file_location(f"writing_{name}", HERE / f"test_{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _lucidrains() -> dict[str, Tensor]:
    module = load_writing("lucidrains")
    return module.whole(module.unet()[0], module.buffers(module.LINEAR_BETAS))


def _june2022() -> dict[str, Tensor]:
    module = load_writing("lucidrains")
    return module.june_file(module.june())["model"]


def _context() -> dict[str, Tensor]:
    module = load_writing("context_unet")
    return module.payload(module.theirs())


STATES: dict[str, Callable[[], Any]] = {
    "explainingai": lambda: load_writing("explainingai").foreign().state_dict(),
    "zoubohao": lambda: load_writing("pytorch_ddpm").foreign().state_dict(),
    "mnist-tutorial": lambda: load_writing("mnist_tutorial").foreign().state_dict(),
    "lucidrains": _lucidrains,
    "lucidrains, June 2022": _june2022,
    "context-unet": _context,
}


@pytest.fixture(params=STATES)
def known(request: pytest.FixtureRequest) -> tuple[str, dict[str, Tensor]]:
    """A format, and a state dict as its program saves it without a wrapper."""
    return request.param.partition(",")[0], dict(STATES[request.param]())


@pytest.fixture
def state_of() -> Callable[[str], dict[str, Tensor]]:
    """state_of("zoubohao"): such a state dict."""
    return lambda name: dict(STATES[name]())


@pytest.fixture
def writing_of() -> Callable[[str], ModuleType]:
    """writing_of("lucidrains"): the test file of a format, with its networks."""
    return load_writing
