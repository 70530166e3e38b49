"""Metrics and weights, beside closed forms, and the bound as an objective of its own."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fromnoise.diffusion import WEIGHTINGS, Denoiser, NoiseSchedule, Objective, bound_term
from fromnoise.diffusion.losses import LOSSES, min_snr, p2

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies

KINDS = ["eps", "x0", "v", "flow", "edm"]
THREE = NoiseSchedule(torch.tensor([0.1, 4 / 9, 0.8]).double())  # ᾱ = 0.9, 0.5, 0.1: SNR 9, 1, 1/9
each_kind = pytest.mark.parametrize("kind", KINDS)


class Says(nn.Module):
    """The network that takes `x0` for the image, whatever it has to put that into."""

    def __init__(self, x0: torch.Tensor, schedule: NoiseSchedule, kind: str) -> None:
        super().__init__()
        self.x0, self.schedule, self.kind = x0, schedule, kind

    def forward(self, x_t, index, cond):
        a = self.schedule.alpha_bar[index + 1].reshape(-1, 1, 1, 1)
        alpha, sigma = a.sqrt(), (1 - a).sqrt()
        eps = (x_t - alpha * self.x0) / sigma
        if self.kind == "edm":  # the network sees x_t/n
            n = (sigma**2 + alpha**2 / 4).sqrt()
            return (self.x0 - alpha / 4 / n * x_t) / (sigma / 2 / n)
        v, flow = (alpha * x_t - self.x0) / sigma, eps - self.x0
        return {"x0": self.x0, "eps": eps, "v": v, "flow": flow}[self.kind]


class Returns(nn.Module):
    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x_t, index, cond):
        return self.output


def slope(objective, kind, schedule, t, seed=0):
    """The gradient with respect to x̂_0, and the error x̂_0 − x_0."""
    generator = torch.Generator().manual_seed(seed)
    x0, eps, guess = torch.randn(3, len(t), 2, 3, 4, generator=generator, dtype=torch.float64)
    guess.requires_grad_()
    denoiser = Denoiser(Says(guess, schedule, kind), schedule, kind)
    (gradient,) = torch.autograd.grad(objective(denoiser, x0, eps, t).sum(), guess)
    return gradient, (guess - x0).detach()


# ---- metrics ------------------------------------------------------------------------------------


@given(errors=st.lists(st.floats(-9, 9), min_size=6, max_size=6))
@pytest.mark.parametrize(
    ("name", "theirs"),
    [("mse", F.mse_loss), ("l1", F.l1_loss), ("huber", partial(F.huber_loss, delta=1.0))],
)
def test_a_metric_is_that_of_torch(name, theirs, errors):
    target = torch.linspace(-1, 1, 6).double()
    predicted = target + torch.tensor(errors, dtype=torch.float64)
    expected = theirs(predicted, target, reduction="none")
    torch.testing.assert_close(LOSSES[name](predicted, target), expected)


# ---- weights ------------------------------------------------------------------------------------


@pytest.mark.slow
@given(t=st.lists(st.integers(1, 1000), min_size=1, max_size=4), seed=st.integers(0, 99))
@pytest.mark.parametrize("name", [name for name in WEIGHTINGS if name != "simple"])
def test_a_weighted_error_pulls_x0_alike_whatever_is_predicted(schedule, name, t, seed):
    objective, times = Objective(weighting=WEIGHTINGS[name]), torch.tensor(t)
    of_x0, error = slope(objective, "x0", schedule, times, seed)
    w = WEIGHTINGS[name](schedule.snr(times).double(), torch.ones(len(t)))
    expected = 2 * w.reshape(-1, 1, 1, 1) * error / error[0].numel()
    torch.testing.assert_close(of_x0, expected, rtol=1e-5, atol=0)
    for kind in ("eps", "v", "flow", "edm"):
        gradient, _ = slope(objective, kind, schedule, times, seed)
        tiny = 1e-5 * expected.abs().amax(dim=(1, 2, 3), keepdim=True)
        assert ((gradient - expected).abs() <= tiny + 1e-5 * expected.abs()).all()


def test_the_plain_error_depends_on_what_is_predicted():
    t = torch.tensor([1, 3])
    pulls = [slope(Objective(), kind, THREE, t)[0].norm() for kind in KINDS]
    assert len({round(pull.item(), 3) for pull in pulls}) == len(KINDS)


QUOTIENTS = {  # w/own by hand at SNR 9, 1 and 1/9, where own is the SNR, 1 and SNR + 1
    ("simple", "eps"): (1, 1, 1),
    ("simple", "x0"): (1, 1, 1),
    ("simple", "v"): (1, 1, 1),
    ("snr", "eps"): (1, 1, 1),
    ("snr", "x0"): (9, 1, 1 / 9),
    ("snr", "v"): (0.9, 0.5, 0.1),
    ("min_snr", "eps"): (5 / 9, 1, 1),
    ("min_snr", "x0"): (5, 1, 1 / 9),
    ("min_snr", "v"): (0.5, 0.5, 0.1),
    ("truncated_snr", "eps"): (1, 1, 9),
    ("truncated_snr", "x0"): (9, 1, 1),
    ("truncated_snr", "v"): (0.9, 0.5, 0.9),
    ("p2", "eps"): (0.1, 0.5, 0.9),
    ("p2", "x0"): (0.9, 0.5, 0.1),
    ("p2", "v"): (0.09, 0.25, 0.09),
    ("simple", "flow"): (1, 1, 1),
    ("snr", "flow"): (9 / 16, 1 / 4, 1 / 16),  # own = (3 + 1)², (1 + 1)², (1/3 + 1)²
    ("min_snr", "flow"): (5 / 16, 1 / 4, 1 / 16),
    ("truncated_snr", "flow"): (9 / 16, 1 / 4, 9 / 16),
    ("p2", "flow"): (0.9 / 16, 1 / 8, 0.9 / 16),
    ("simple", "edm"): (1, 1, 1),
    ("snr", "edm"): (9 / 13, 1 / 5, 1 / 37),  # own = SNR + 4
    ("min_snr", "edm"): (5 / 13, 1 / 5, 1 / 37),
    ("truncated_snr", "edm"): (9 / 13, 1 / 5, 9 / 37),
    ("p2", "edm"): (0.9 / 13, 1 / 10, 0.9 / 37),
}


def quotients(weighting, kind, loss="mse"):
    """How much more than the plain error the weighted one is, at the three times."""
    torch.manual_seed(0)
    x0, eps, output = torch.randn(3, 3, 1, 2, 2, dtype=torch.float64)
    denoiser, t = Denoiser(Returns(output), THREE, kind), torch.tensor([1, 2, 3])
    weighted = Objective(loss, weighting=weighting)(denoiser, x0, eps, t)
    return weighted / Objective(loss=loss)(denoiser, x0, eps, t)


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_by_hand(loss):
    for (name, kind), expected in QUOTIENTS.items():
        got = quotients(WEIGHTINGS[name], kind, loss)
        assert got.tolist() == pytest.approx(expected, rel=1e-5), (name, kind)


def test_every_weighting_was_computed_by_hand():
    assert {name for name, _ in QUOTIENTS} == WEIGHTINGS.keys()


@pytest.mark.parametrize(
    ("weighting", "kind", "expected"),
    [
        (partial(min_snr, gamma=0.5), "x0", (0.5, 0.5, 1 / 9)),
        (partial(p2, gamma=2.0, k=3.0), "eps", (1 / 144, 1 / 16, 81 / 784)),
        (partial(p2, gamma=0.0), "eps", (1, 1, 1)),
    ],
)
def test_weights_with_options(weighting, kind, expected):
    got = quotients(weighting, kind)
    torch.testing.assert_close(got, torch.tensor(expected).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", WEIGHTINGS)
@pytest.mark.parametrize("kind", ["v", "x0", "flow", "edm"])
def test_a_last_time_without_any_image_has_a_loss(name, kind):
    schedule = NoiseSchedule(torch.tensor([0.1, 1.0]))
    objective = Objective(weighting=WEIGHTINGS[name])
    gradient, error = slope(objective, kind, schedule, torch.tensor([2]))
    simple = 4.0 if kind == "edm" else 1.0  # v is −x_0 there, u is ε − x_0, and F is x_0/σ_d
    w = {"simple": simple, "truncated_snr": 1.0}.get(name, 0.0)
    torch.testing.assert_close(gradient, 2 * w * error / error.numel(), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize(
    ("weighting", "message"),
    [
        (partial(min_snr, gamma=0.0), r"weighting\.gamma of min_snr must be above 0, not 0"),
        (partial(p2, gamma=-1.0), r"gamma of p2 must be at least 0 and k above 0, not -1 and 1"),
        (partial(p2, k=0.0), r"gamma of p2 must be at least 0 and k above 0, not 1 and 0"),
    ],
)
def test_options_out_of_range_are_refused_before_any_training(weighting, message):
    with pytest.raises(ValueError, match=message):
        Objective(weighting=weighting)


# ---- the bound itself ---------------------------------------------------------------------------


@pytest.fixture
def learning():
    """x0 on 256 levels, eps and t in float64, and a free output of 2C channels for each image."""
    torch.manual_seed(0)
    x0 = torch.randint(0, 256, (4, 3, 6, 5)).double() / 127.5 - 1
    output = torch.randn(4, 6, 6, 5, dtype=torch.float64, requires_grad=True)
    return (x0, torch.randn_like(x0), torch.tensor([1, 2, 500, 1000])), output


@each_kind
@pytest.mark.parametrize("reading", ["range", "log"])
def test_vlb_is_the_bound_times_all_times_and_trains_mean_and_variance(
    schedule, learning, kind, reading
):
    inputs, output = learning
    denoiser = Denoiser(Returns(output), schedule, kind, reading)
    loss = Objective("vlb")(denoiser, *inputs)
    bound = 1000 * bound_term(denoiser, *inputs, variance="learned")
    torch.testing.assert_close(loss, bound)
    (gradient,) = torch.autograd.grad(loss.sum(), output)
    (expected,) = torch.autograd.grad(bound.sum(), output)
    torch.testing.assert_close(gradient, expected)
    assert gradient.isfinite().all()
    for half in gradient.chunk(2, dim=1):
        assert (half != 0).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("options", [{"vlb_weight": 0.1}, {"weighting": min_snr}])
def test_what_does_not_apply_to_the_bound_is_refused(options):
    with pytest.raises(ValueError, match="loss is vlb, the bound with its own weights"):
        Objective("vlb", **options)


def test_the_bound_of_a_network_without_a_variance_is_refused(schedule, learning):
    inputs, output = learning
    with pytest.raises(ValueError, match="this network predicts none"):
        Objective("vlb")(Denoiser(Returns(output[:, :3]), schedule), *inputs)


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="loss 'l2' is unknown; known: mse, l1, huber, vlb"):
        Objective("l2")
