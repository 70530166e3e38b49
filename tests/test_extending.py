"""A schedule, a sampler, a loss, a weighting, noise levels and timesteps, added from outside."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

import fromnoise
from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import parse_recipe
from fromnoise.diffusion import (
    LOSSES,
    NOISE_LEVELS,
    SAMPLERS,
    SCHEDULES,
    TIMESTEPS,
    WEIGHTINGS,
    NoiseSchedule,
)
from fromnoise.diffusion.denoiser import Denoise
from fromnoise.diffusion.samplers import Noise, Step, steps_between
from fromnoise.training.log import read_log


def even(T: int, *, level: float = 0.01) -> Tensor:
    """β_t = level."""
    return torch.full((T,), level, dtype=torch.float64)


def fading(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x: Tensor,
    times: Sequence[int],
    *,
    noise: Noise,
    share: float = 0.0,
) -> Iterator[Step]:
    """DDIM towards (1 − share) x̂_0."""
    for t, s in steps_between(times, schedule):
        prediction = denoise(x, t)
        a = schedule.alpha_bar[s].item()
        x = a**0.5 * (1 - share) * prediction.x0 + (1 - a) ** 0.5 * prediction.eps
        yield Step(t, s, x, prediction.x0)


def quartic(predicted: Tensor, target: Tensor) -> Tensor:
    """The fourth power of the error."""
    return (predicted - target) ** 4


def scaled(snr: Tensor, own: Tensor, *, factor: float = 1.0) -> Tensor:
    """w = factor·own."""
    return factor * own


def little(schedule: NoiseSchedule, *, share: float = 0.5) -> Tensor:
    """Even p_t of the first `share` of the times."""
    p = (torch.arange(schedule.T) < share * schedule.T).double()
    return p / p.sum()


def first_half(schedule: NoiseSchedule, steps: int) -> list[int]:
    """The times just above T/2."""
    return [schedule.T // 2 + i for i in range(steps, 0, -1)]


@pytest.fixture(autouse=True)
def _added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEDULES, "even", even)
    monkeypatch.setitem(SAMPLERS, "fading", fading)
    monkeypatch.setitem(LOSSES, "quartic", quartic)
    monkeypatch.setitem(WEIGHTINGS, "scaled", scaled)
    monkeypatch.setitem(NOISE_LEVELS, "little", little)
    monkeypatch.setitem(TIMESTEPS, "first_half", first_half)


def train(tree, folder, **overrides) -> fromnoise.Run:
    """A run of two steps. Overrides of its diffusion: `loss="mse"`."""
    changes = {f"diffusion.{key}": value for key, value in overrides.items()}
    settings = {"training.steps": 2, "training.log_every": 1, **changes}
    return fromnoise.train(tree, out=folder, overrides=settings)


def test_a_schedule(tiny, tmp_path):
    run = train(tiny, tmp_path / "run", schedule={"name": "even", "level": 0.03})
    schedule = fromnoise.load(run.folder, device="cpu").denoiser.schedule
    torch.testing.assert_close(schedule.alpha_bar, 0.97 ** torch.arange(101.0).double())


def test_a_sampler_and_a_rule_for_timesteps(tiny, tmp_path):
    tiny["sampling"] = {
        "steps": 5,
        "sampler": {"name": "fading", "share": 0.5},
        "timesteps": "first_half",
    }
    model = fromnoise.load(train(tiny, tmp_path / "run").folder, device="cpu")
    assert model.spec.sampling.sampler.options == {"share": 0.5}
    assert [step.t for step in model.denoise([0])] == [55, 54, 53, 52, 51]
    assert (model.sample([0], share=1.0) == 128).all()  # 0 of [−1, 1]
    assert not (model.sample([0]) == 128).all()


@pytest.mark.slow
def test_a_loss_and_a_weighting(tiny, tmp_path):
    def first_loss(name: str, **changes) -> float:
        return read_log(train(tiny, tmp_path / name, **changes).folder)[0]["loss"]

    once = first_loss("once", loss="quartic", weighting="scaled")
    thrice = first_loss("thrice", loss="quartic", weighting={"name": "scaled", "factor": 3})
    assert thrice == pytest.approx(3 * once)
    assert once > 1.5 * first_loss("mse", loss="mse")  # E ε⁴ = 3, E ε² = 1


def test_a_distribution_of_noise_levels(tiny, tmp_path):
    tiny["training"] |= {"noise_levels": {"name": "little", "share": 0.2}, "log_every": 1}
    row = read_log(train(tiny, tmp_path / "run").folder)[0]
    assert row["loss_q1"] == row["loss"]
    assert row["loss_q2"] is None
    with pytest.raises(ConfigError, match=r"noise_levels = little weights .* Use uniform, strat"):
        parse_recipe(tiny, "here", {"diffusion.loss": "vlb", "network.learned_variance": True})


@pytest.mark.parametrize(
    ("key", "name", "option"),
    [
        ("diffusion.schedule", "even", "level"),
        ("diffusion.weighting", "scaled", "factor"),
        ("training.noise_levels", "little", "share"),
        ("sampling.sampler", "fading", "share"),
    ],
)
def test_their_options_are_keys_of_the_recipe(tiny, key, name, option):
    section, field = key.split(".")

    def component(**options):
        recipe = parse_recipe(tiny, "here", {key: {"name": name, **options}})
        return getattr(getattr(recipe, section), field)

    assert component().options.keys() == {option}  # its default is written out
    assert component(**{option: 0.25}).options == {option: 0.25}
    with pytest.raises(ConfigError, match=rf"{key}\.{option} = 'much' is not a number"):
        component(**{option: "much"})
    with pytest.raises(ConfigError, match=rf"unknown key {key}\.other"):
        component(other=1)
