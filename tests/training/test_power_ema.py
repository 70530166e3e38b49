import numpy as np
import pytest
import torch
from torch import nn

from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import parse_recipe
from fromnoise.config.schema import Training
from fromnoise.training.ema import (
    PowerEMA,
    delete_later_snapshots,
    gamma_of,
    list_snapshots,
    snapshot_every,
)


def walk(length: float, updates: int) -> tuple[PowerEMA, np.ndarray]:
    """The average of a weight that goes on a random walk, and the walk, (updates, 2, 3)."""
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    average, weights = PowerEMA(module, length), []
    for n in range(updates):
        with torch.no_grad():
            module.weight += torch.randn(2, 3)
        weights.append(module.weight.detach().double().numpy().copy())
        average.update(module, n)
    return average, np.stack(weights)


@pytest.mark.parametrize("length", [0.01, 0.05, 0.1, 0.28])
@pytest.mark.parametrize("updates", [1, 2, 60])
def test_the_average_is_the_sum_weighted_by_powers_of_the_step(length, updates):
    average, weights = walk(length, updates)
    edges = (np.arange(updates + 1) / updates) ** (gamma_of(length) + 1)
    shares = np.diff(edges)
    assert shares.sum() == pytest.approx(1)
    expected = np.einsum("i,ijk->jk", shares, weights)
    np.testing.assert_allclose(average.module.weight.numpy(), expected, rtol=0, atol=2e-6)


def test_the_start_is_forgotten_at_the_first_update():
    module = nn.Linear(3, 2)
    nn.init.constant_(module.weight, 1e30)
    average = PowerEMA(module, 0.1)
    nn.init.ones_(module.weight)
    average.update(module, 0)
    assert torch.equal(average.module.weight, module.weight)


def test_buffers_are_copied_and_the_average_is_in_evaluation_mode():
    module = nn.BatchNorm1d(2)
    average = PowerEMA(module, 0.1)
    module(torch.randn(8, 2) + 5)
    average.update(module, 1000)
    for averaged, buffer in zip(average.module.buffers(), module.buffers(), strict=True):
        assert torch.equal(averaged, buffer)
    assert module.training
    assert not average.module.training


# ---- when ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "said", "every"),
    [(1000, None, 50), (1, None, 1), (19, None, 1), (39, None, 2), (1000, 7, 7)],
)
def test_how_often_a_snapshot_is_stored(steps, said, every):
    settings = Training(steps=steps, batch_size=1, ema_snapshot_every=said)
    assert snapshot_every(settings) == every
    assert steps / every <= 20 or said


def test_snapshots_are_told_from_other_files_and_later_ones_dropped(tmp_path):
    assert list_snapshots(tmp_path) == []
    names = ["000900-0.05", "001000-0.05", "001000-0.1", "1000000-0.05"]
    (tmp_path / "ema").mkdir()
    for name in [*names[::-1], "length-0.1", ".writing-001000-0.05", "notes"]:
        (tmp_path / "ema" / f"{name}.safetensors").touch()
    assert [path.stem for path in list_snapshots(tmp_path)] == names
    delete_later_snapshots(tmp_path, 1000)
    left = {path.name.removesuffix(".safetensors") for path in (tmp_path / "ema").iterdir()}
    assert left == {*names[:-1], "length-0.1", "notes"}


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "ema_lengths",
            [0.05, 0.5],
            r"ema_lengths\.1 = 0\.5 is too large. Give less than 0\.288675",
        ),
        ("ema_lengths", [0.0], r"ema_lengths\.0 = 0\.0 is too small. Give more than 0"),
        ("ema_lengths", 0.1, r"ema_lengths = 0\.1 is not a list. Give one, as in \[1, 2\]"),
        ("ema_lengths", [0.1, 0.1], r"repeats a length: 0\.1, 0\.1\. Give each once"),
        ("ema_snapshot_every", 0, r"training\.ema_snapshot_every = 0 is too small"),
    ],
)
def test_a_wrong_setting(tiny, key, value, said):
    with pytest.raises(ConfigError, match=said):
        parse_recipe(tiny, "tiny", {f"training.{key}": value})
