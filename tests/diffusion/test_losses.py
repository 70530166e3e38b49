import pytest
import torch
from torch import nn

from fromnoise.diffusion import Denoiser, NoiseSchedule, Objective, bound_term
from fromnoise.networks import DDPM

KINDS = ["eps", "x0", "v", "flow", "edm"]


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
    n = (1 - a + a / 4).sqrt()  # σ_d = 1/2
    edm = (((1 - a).sqrt() * x0 - a.sqrt() * eps / 4) / (n / 2)).float()
    return (x0, eps, t), {"eps": eps, "x0": x0, "v": v, "flow": eps - x0, "edm": edm}


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


# ---- with a learned variance ----------------------------------------------------------------


@pytest.fixture
def learning(schedule):
    """x0 on 256 levels, eps and t in float64, and a free output of 2C channels for each image."""
    torch.manual_seed(0)
    x0 = torch.randint(0, 256, (4, 3, 6, 5)).double() / 127.5 - 1
    output = torch.randn(4, 6, 6, 5, dtype=torch.float64, requires_grad=True)
    return (x0, torch.randn_like(x0), torch.tensor([1, 2, 500, 1000])), output


def gradient(objective, denoiser, inputs, output):
    (grad,) = torch.autograd.grad(objective(denoiser, *inputs).sum(), output)
    return grad[:, :3], grad[:, 3:]


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_is_added_with_its_weight_and_all_times(schedule, learning, kind):
    inputs, output = learning
    denoiser = Denoiser(Returns(output), schedule, kind)
    bound = bound_term(denoiser, *inputs, variance="learned")
    expected = Objective()(denoiser, *inputs) + 0.001 * 1000 * bound
    torch.testing.assert_close(Objective(vlb_weight=0.001)(denoiser, *inputs), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_trains_the_variance_alone(schedule, learning, kind):
    inputs, output = learning
    denoiser = Denoiser(Returns(output), schedule, kind)
    simple, untouched = gradient(Objective(), denoiser, inputs, output)
    hybrid, of_variance = gradient(Objective(vlb_weight=3.0), denoiser, inputs, output)
    assert torch.equal(hybrid, simple)
    assert untouched.count_nonzero() == 0
    assert (of_variance != 0).flatten(1).any(dim=1).all()  # in each image, whatever its time
    assert of_variance.isfinite().all()


@pytest.mark.parametrize("objective", [Objective(vlb_weight=0.001), Objective("vlb")])
def test_a_fresh_networks_gradient_is_a_number_at_any_time(objective):
    # ᾱ_T of the cosine is 2e-9: with ε̂ = 0, x̂_0 = x_t/√ᾱ_t is some 20,000, far from any grey level.
    torch.manual_seed(0)
    network = DDPM(
        image_channels=1,
        channels=8,
        groups=4,
        multipliers=[1, 2],
        num_res_blocks=1,
        learned_variance=True,
    )
    denoiser = Denoiser(network, NoiseSchedule.named("cosine", 1000))
    x0 = torch.randint(0, 256, (8, 1, 8, 8)) / 127.5 - 1
    for t in (1, 2, 3, 10, 100, 500, 900, 990, 999, 1000):
        network.zero_grad()
        loss = objective(denoiser, x0, torch.randn_like(x0), torch.full((8,), t))
        loss.mean().backward()
        assert loss.isfinite().all(), t
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters()), t
        assert any(p.grad is not None and p.grad.any() for p in network.parameters()), t


def test_L_simple_is_of_the_first_half_of_the_output(schedule, learning):
    inputs, output = learning
    both = Objective()(Denoiser(Returns(output), schedule), *inputs)
    first = Objective()(Denoiser(Returns(output[:, :3]), schedule), *inputs)
    assert torch.equal(both, first)


@pytest.mark.parametrize("c", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("reading", ["range", "log"])
def test_the_variance_that_is_learned_is_the_true_one(c, reading):
    # For x_0 ~ N(0, c) with its exact prediction, x_s given x_t is Gaussian, its variance known.
    schedule = NoiseSchedule(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]))
    a = schedule.alpha_bar
    # In x_0 and ε the bound is a polynomial of degree 2, whose mean these four points give.
    x0 = torch.tensor([1.0, 1, -1, -1]).double().repeat(4).reshape(-1, 1, 1, 1) * c**0.5
    eps = torch.tensor([1.0, -1, 1, -1]).double().repeat(4).reshape(-1, 1, 1, 1)
    t = torch.arange(2, 6).repeat_interleave(4)
    raw = torch.zeros(5, dtype=torch.float64, requires_grad=True)  # one free number for each time

    class Exact(nn.Module):
        def forward(self, x_t, index, cond):
            a_t = a[index + 1].reshape(-1, 1, 1, 1)
            x0 = a_t.sqrt() * c / (a_t * c + 1 - a_t) * x_t
            return torch.cat([x0, raw[index].reshape(-1, 1, 1, 1).expand_as(x0)], dim=1)

    denoiser = Denoiser(Exact(), schedule, "x0", reading)
    objective = Objective(vlb_weight=1.0)
    optimizer = torch.optim.LBFGS([raw], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = objective(denoiser, x0, eps, t).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    fraction = (raw.detach()[1:] + 1) / 2
    marginal = a * c + 1 - a  # the variance of x_t
    for i, time in enumerate(range(2, 6)):
        r = a[time] / a[time - 1]
        true = marginal[time - 1] * (1 - r * marginal[time - 1] / marginal[time])
        small, large = schedule.variances(time, time - 1)
        learned = large ** fraction[i] * small ** (1 - fraction[i])
        if reading == "log":
            learned = raw.detach()[time - 1].exp()
        torch.testing.assert_close(learned, true, rtol=1e-4, atol=0)


def test_the_bound_without_a_learned_variance_is_refused(schedule, batch):
    inputs, _ = batch
    with pytest.raises(ValueError, match="this network predicts none"):
        Objective(vlb_weight=0.001)(Denoiser(Returns(), schedule), *inputs)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match=r"vlb_weight must be at least 0, not -0\.1"):
        Objective(vlb_weight=-0.1)
