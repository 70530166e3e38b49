"""Self-conditioning: the inputs of the network in training and in sampling."""

import pytest
import torch
from torch import nn

from fromnoise.diffusion import (
    Denoiser,
    NoiseSchedule,
    Objective,
    classifier_free,
    with_self_conditioning,
)
from fromnoise.diffusion.denoiser import estimate_x0
from fromnoise.networks import DDPM

SCHEDULE = NoiseSchedule.named("linear", 100)


class Records(nn.Module):
    """x̂_0 = a·x_t + b·self_cond + cond, and a record of the inputs."""

    self_conditioning = True

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(3.0))
        self.b = nn.Parameter(torch.tensor(0.5))
        self.inputs: list[torch.Tensor] = []

    def forward(self, x, index, cond):
        self.inputs.append(x.detach())
        x_t, self_cond = x.chunk(2, dim=1)
        shift = 0 if cond is None else cond.reshape(-1, 1, 1, 1)
        return self.a * x_t + self.b * self_cond + shift

    def self_conds(self):
        return [x.chunk(2, dim=1)[1] for x in self.inputs]


@pytest.fixture
def denoiser() -> Denoiser:
    return Denoiser(Records(), SCHEDULE, "x0")


@pytest.fixture
def batch():
    torch.manual_seed(0)
    x0, eps = torch.randn(2, 4, 1, 2, 3)
    return x0, eps, torch.tensor([1, 30, 60, 100])


def network() -> DDPM:
    torch.manual_seed(0)
    made = DDPM(
        image_channels=2,
        channels=8,
        groups=4,
        multipliers=(1, 2),
        num_res_blocks=1,
        dropout=0.0,
        self_conditioning=True,
    )
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made


def test_a_self_cond_of_zeros_is_none_and_another_is_not():
    denoiser, x_t = Denoiser(network(), SCHEDULE), torch.randn(2, 2, 8, 8)
    plain = denoiser(x_t, 50).value
    assert torch.equal(denoiser(x_t, 50, self_cond=torch.zeros_like(x_t)).value, plain)
    assert not torch.allclose(denoiser(x_t, 50, self_cond=torch.ones_like(x_t)).value, plain)


def test_a_self_cond_is_kept_in_the_range_of_images(denoiser, batch):
    x_t = batch[0]
    denoiser(x_t, 5, self_cond=5 * x_t)
    assert torch.equal(denoiser.network.self_conds()[0], (5 * x_t).clamp(-1, 1))


def test_a_self_cond_for_a_network_that_takes_none_is_refused(batch):
    x_t = batch[0]
    plain = Denoiser(nn.Identity(), SCHEDULE)
    with pytest.raises(
        ValueError, match=r"takes no self_cond\. Build .* network\.self_conditioning = true"
    ):
        plain(x_t, 5, self_cond=x_t)


# ---- training -----------------------------------------------------------------------------------


def loss_of(denoiser, x0, eps, t, cond=None, *, images=None):
    """As in a training step: with an estimate for some images, bool (B,), or without any."""
    self_cond = None
    if images is not None:
        self_cond = estimate_x0(denoiser, SCHEDULE.add_noise(x0, eps, t), t, cond, images)
    return Objective()(denoiser, x0, eps, t, cond, self_cond=self_cond)


def test_self_conditioned_images_get_their_first_estimate_and_others_zeros(denoiser, batch):
    x0, eps, t = batch
    self_conditioned = torch.tensor([True, False, False, True])
    cond = torch.arange(4.0)[:, None]
    loss_of(denoiser, x0, eps, t, cond, images=self_conditioned)
    x_t = SCHEDULE.add_noise(x0, eps, t)
    first, second = denoiser.network.inputs
    assert torch.equal(first, torch.cat([x_t, torch.zeros_like(x_t)], dim=1)[self_conditioned])
    estimate = (3 * x_t + cond.reshape(4, 1, 1, 1)).clamp(-1, 1)
    seen, self_cond = second.chunk(2, dim=1)
    assert torch.equal(seen, x_t)
    torch.testing.assert_close(self_cond, estimate * self_conditioned.reshape(4, 1, 1, 1))


def test_no_gradient_flows_through_the_first_estimate(denoiser, batch):
    x0, eps, t = batch
    x_t = SCHEDULE.add_noise(x0, eps, t)
    self_cond = (3 * x_t).clamp(-1, 1)  # a constant
    loss = loss_of(denoiser, x0, eps, t, images=torch.ones(4, dtype=torch.bool)).sum()
    (of_a,) = torch.autograd.grad(loss, denoiser.network.a)
    error = 3 * x_t + 0.5 * self_cond - x0
    torch.testing.assert_close(of_a, (2 * error * x_t).flatten(1).mean(dim=1).sum())


def test_without_self_conditioned_images_one_pass_is_made(denoiser, batch):
    x0, eps, t = batch
    loss = loss_of(denoiser, x0, eps, t, images=torch.zeros(4, dtype=torch.bool))
    assert len(denoiser.network.inputs) == 1
    assert torch.equal(loss, Objective()(denoiser, x0, eps, t))


def test_in_half_precision_every_weight_still_has_its_gradient():
    """A library that remembered the weights it rounded without a gradient would lose them."""
    made = network()
    denoiser, x0 = Denoiser(made, SCHEDULE), torch.randn(3, 2, 8, 8)
    self_conditioned = torch.tensor([True, True, False])
    for images in (None, self_conditioned):
        made.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):  # each its own: what it remembers ends with it
            t = torch.tensor([1, 9, 99])
            loss = loss_of(denoiser, x0, torch.randn_like(x0), t, images=images)
        loss.sum().backward()
        assert all(p.grad is not None and p.grad.count_nonzero() for p in made.parameters())


# ---- sampling -----------------------------------------------------------------------------------


def test_each_call_is_conditioned_on_the_one_before(denoiser, batch):
    x_t = batch[0] / 9
    walk = with_self_conditioning(denoiser)
    with torch.inference_mode():
        first, second, third = (walk(x_t * scale, t) for t, scale in ((90, 1), (50, 2), (10, 3)))
    self_conds = denoiser.network.self_conds()
    assert not self_conds[0].any()
    assert torch.equal(self_conds[1], first.x0.clamp(-1, 1))
    assert torch.equal(self_conds[2], second.x0.clamp(-1, 1))
    assert third.x0.shape == x_t.shape


def test_another_batch_size_and_another_walk_begin_with_nothing(denoiser, batch):
    x_t = batch[0]
    walk = with_self_conditioning(denoiser)
    walk(x_t, 90)
    walk(x_t[:2], 50)
    with_self_conditioning(denoiser)(x_t, 90)
    assert not any(self_cond.any() for self_cond in denoiser.network.self_conds())


def test_guidance_conditions_each_half_on_its_own_estimate(denoiser, batch):
    x_t, cond = batch[0], torch.ones(4, 1)
    guided = classifier_free(with_self_conditioning(denoiser), cond, 3.0)
    guided(x_t, 90)
    guided(x_t, 50)
    with_cond, without = denoiser.network.self_conds()[1].chunk(2)
    assert torch.equal(with_cond, (3 * x_t + 1).clamp(-1, 1))
    assert torch.equal(without, (3 * x_t).clamp(-1, 1))


def test_a_network_without_self_conditioning_is_left_as_it_is():
    plain = Denoiser(nn.Identity(), SCHEDULE)
    assert with_self_conditioning(plain) is plain


def test_remembering_changes_nothing_of_the_network(denoiser):
    denoiser.network.eval()
    walk = with_self_conditioning(denoiser)
    assert walk.network is denoiser.network
    assert not denoiser.network.training
    assert (walk.schedule, walk.prediction) == (denoiser.schedule, denoiser.prediction)


def test_a_first_estimate_has_no_gradient(denoiser, batch):
    x0, _, t = batch
    estimate = estimate_x0(denoiser, x0, t, None, torch.ones(4, dtype=torch.bool))
    assert not estimate.requires_grad
