"""What a step makes the CPU wait for on a GPU, in whose place is torch's device without data.

The CPU waits where it reads a number, and where it copies memory that is not page-locked.
"""

import pytest
import torch

from fromnoise.diffusion import (
    SAMPLERS,
    WEIGHTINGS,
    Denoiser,
    NoiseSchedule,
    Objective,
    clamp_x0,
    classifier_free,
    reverse_step,
)
from fromnoise.diffusion.schedule import on_device

T = 100
GPU = torch.device("meta")
KINDS = ["eps", "x0", "v", "flow", "edm"]


class Network(torch.nn.Module):
    """x_t, once more for each part of the prediction, with all that a step sees of t and cond."""

    def __init__(self, parts=1):
        super().__init__()
        self.parts = parts

    def forward(self, x, t, cond=None):
        assert t.device == x.device
        assert t.shape == (len(x),)
        told = t[:, None, None, None] if cond is None else cond.sum() + t[:, None, None, None]
        return torch.cat([x + told] * self.parts, dim=1)


def images(*shape):
    return torch.empty(*shape or (4, 1, 8, 8), device=GPU)


def times():
    return torch.ones(4, dtype=torch.int64, device=GPU)


@pytest.fixture
def crossings_of_the_second(crossings):
    """What crosses in a step after the first, which puts the tables there."""

    def of(step):
        with torch.no_grad():
            step()
            with crossings() as record:
                step()
        return record.found

    return of


@pytest.mark.parametrize("kind", KINDS)
def test_a_forward_pass_neither_copies_nor_reads(kind, crossings_of_the_second):
    schedule = NoiseSchedule.named("linear", T)
    denoiser, x, at = Denoiser(Network(), schedule, kind), images(), times()
    for t in (at, 50):
        assert crossings_of_the_second(lambda t=t: denoiser(x, t).x0) == [], t
        assert crossings_of_the_second(lambda t=t: denoiser(x, t).eps) == [], t
        assert crossings_of_the_second(lambda t=t: schedule.add_noise(x, x, t)) == [], t
    one = at[0]
    assert crossings_of_the_second(lambda: denoiser(x, one).x0) == []


def test_the_tables_are_copied_once_and_t_from_the_cpu_once_a_pass(
    crossings, crossings_of_the_second
):
    denoiser = Denoiser(Network(), NoiseSchedule.named("linear", T), "edm")
    with crossings() as first:
        denoiser(images(), times())
    assert first.found == [f"cpu → meta: ({T + 1},)"] * 2
    t = torch.tensor([1, 2, 3, T])
    assert crossings_of_the_second(lambda: denoiser(images(), t)) == ["cpu → meta: (4,)"]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("options", [{}, {"vlb_weight": 0.1}, {"loss": "vlb"}], ids=str)
def test_the_objective_neither_copies_nor_reads(weighting, options, crossings_of_the_second):
    if "loss" in options and weighting != "simple":
        return  # they exclude each other
    denoiser = Denoiser(Network(1 + bool(options)), NoiseSchedule.named("linear", T), "v")
    objective = Objective(**options, weighting=WEIGHTINGS[weighting])
    x0, t = images(), times()
    assert crossings_of_the_second(lambda: objective(denoiser, x0, x0, t)) == []


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_neither_copies_nor_reads(name, crossings_of_the_second):
    schedule = NoiseSchedule.named("cosine", T)
    cond, x = images(4, 2), images()
    denoise = clamp_x0(classifier_free(Denoiser(Network(), schedule), cond, 2.0))

    def sample():
        for step in SAMPLERS[name](denoise, schedule, x, [90, 60, 30, 1], noise=lambda t: x):
            assert step.x.device == GPU

    assert crossings_of_the_second(sample) == []


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_an_ancestral_step_neither_copies_nor_reads(variance, crossings_of_the_second):
    schedule = NoiseSchedule.named("linear", T)
    denoiser, x = Denoiser(Network(2), schedule), images()
    for t, s in ((50, 49), (times() + 4, times())):

        def step(t=t, s=s):
            return reverse_step(denoiser(x, t), schedule, t, s, x, variance=variance)

        assert crossings_of_the_second(step) == []


def test_the_record_of_crossings_sees_them(crossings):
    there = times()
    with crossings() as record:
        torch.ones(3).to(GPU)
        there.copy_(torch.ones(4))
        assert there[:2].cpu().tolist() == [1, 1]
        with pytest.raises(RuntimeError):
            int(there[0])
    assert record.found == [
        "cpu → meta: (3,)",
        "cpu → meta: (4,)",
        "meta → cpu: (2,)",
        "read by _local_scalar_dense",
    ]


def test_what_goes_to_cuda_is_page_locked_first(monkeypatch):
    said = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: said.append("pinned") or x)
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *to, **how: said.append((to, how)) or x)
    on_device(torch.ones(2), torch.device("cuda"))
    assert said == ["pinned", ((torch.device("cuda"),), {"non_blocking": True})]
    on_device(torch.ones(2), torch.device("cpu"))
    assert said[2:] == [((torch.device("cpu"),), {})]
