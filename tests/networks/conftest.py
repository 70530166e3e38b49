"""What the tests of networks share: each network written a second time, by its equations."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor
from torch.nn import functional as F

from fromnoise.networks.layers import drop

DEFINITIONS = Path(__file__).parent / "definitions"


@pytest.fixture(scope="session")
def definition_of() -> Callable[[str], Callable[..., Tensor]]:
    """definition_of("name"): `definition(p, x, t, cond=None, **options)` of definitions/name.py."""

    def load(name: str) -> Callable[..., Tensor]:
        spec = importlib.util.spec_from_file_location(name, DEFINITIONS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.definition

    return load


@pytest.fixture(autouse=True)
def same_elements_drop_out(monkeypatch):
    """The definitions say `F.dropout`; here it draws as `drop` does, which has tests of its own."""

    def dropout(x: Tensor, p: float, training: bool = True, inplace: bool = False) -> Tensor:
        return drop(x, p) if training and p > 0 else x

    monkeypatch.setattr(F, "dropout", dropout)
