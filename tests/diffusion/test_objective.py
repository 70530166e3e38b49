import pytest
import torch
from torch import nn

from fromnoise.diffusion import Denoiser, Objective

KINDS = ["eps", "x0", "v"]


class Returns(nn.Module):
    """A network that returns what it was made with, or zeros."""

    def __init__(self, output: torch.Tensor | None = None) -> None:
        super().__init__()
        self.output = output

    def forward(self, x_t, t, cond):
        return torch.zeros_like(x_t) if self.output is None else self.output


@pytest.fixture
def batch(schedule):
    """x0, eps and t, and what a perfect network would return for each kind of prediction."""
    torch.manual_seed(0)
    x0, eps = torch.randn(2, 4, 3, 6, 5)
    t = torch.tensor([1, 10, 500, 1000])
    a = schedule.alpha_bar[t].reshape(4, 1, 1, 1)
    v = (a.sqrt() * eps - (1 - a).sqrt() * x0).float()
    return (x0, eps, t), {"eps": eps, "x0": x0, "v": v}


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_returns_the_target_has_no_loss(schedule, batch, kind):
    inputs, targets = batch
    loss = Objective()(Denoiser(Returns(targets[kind]), schedule, kind), *inputs)
    torch.testing.assert_close(loss, torch.zeros(4), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_returns_zeros_has_each_images_mean_square_of_the_target(
    schedule, batch, kind
):
    inputs, targets = batch
    loss = Objective()(Denoiser(Returns(), schedule, kind), *inputs)
    expected = torch.stack([(image**2).sum() / (3 * 6 * 5) for image in targets[kind]])
    assert loss.shape == (4,)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_depends_neither_on_the_batch_nor_on_the_image_size(schedule, batch, kind):
    (x0, eps, t), _ = batch
    denoiser = Denoiser(Returns(), schedule, kind)
    loss = Objective()(denoiser, x0, eps, t)
    tiled = Objective()(denoiser, x0.tile(1, 1, 2, 3), eps.tile(1, 1, 2, 3), t)
    alone = torch.cat(
        [Objective()(denoiser, x0[i, None], eps[i, None], t[i, None]) for i in range(4)]
    )
    torch.testing.assert_close(tiled, loss)
    torch.testing.assert_close(alone, loss)


def test_the_network_sees_the_noised_image_its_time_and_its_condition(schedule, batch):
    (x0, eps, t), _ = batch
    cond = torch.eye(4)
    seen = []

    class Sees(nn.Module):
        def forward(self, *arguments):
            seen.extend(arguments)
            return arguments[0]

    Objective()(Denoiser(Sees(), schedule), x0, eps, t, cond)
    assert torch.equal(seen[0], schedule.add_noise(x0, eps, t))
    assert torch.equal(seen[1], t - 1)
    assert seen[2] is cond
