import pytest
import torch
from torch import nn

from fromnoise.diffusion import Denoiser, Prediction


class Recorder(nn.Module):
    """A network that keeps what it is called with and returns `output`."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, *arguments):
        self.arguments = arguments
        return self.output


@pytest.fixture
def truth() -> dict[str, torch.Tensor]:
    """One place (x_t, t) in float64 with all that is known there; σ/α from 0.01 to 100."""
    torch.manual_seed(0)
    x0, eps = torch.randn(2, 5, 2, 3, 4, dtype=torch.float64)
    angle = torch.tensor([0.01, 0.4, 0.8, 1.2, 1.56], dtype=torch.float64).reshape(5, 1, 1, 1)
    alpha, sigma = angle.cos(), angle.sin()
    x_t, v = alpha * x0 + sigma * eps, alpha * eps - sigma * x0
    n = (sigma**2 + alpha**2 / 4).sqrt()  # σ_d = 1/2
    # EDM's Eq. 7, x̂ = c_skip x̄ + c_out F for x̄ = x_t/α and its σ̄ = σ/α
    noise = sigma / alpha
    c_skip, c_out = 0.25 / (noise**2 + 0.25), noise * 0.5 / (noise**2 + 0.25).sqrt()
    edm = (x0 - c_skip * x_t / alpha) / c_out
    torch.testing.assert_close(n, alpha * (noise**2 + 0.25).sqrt())
    known = {"x0": x0, "eps": eps, "v": v, "flow": eps - x0, "edm": edm}
    return {**known, "x_t": x_t, "alpha": alpha, "sigma": sigma}


KINDS = ["eps", "x0", "v", "flow", "edm"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_prediction_can_be_read_as_all_three(truth, kind):
    prediction = Prediction(kind, truth[kind], truth["x_t"], truth["alpha"], truth["sigma"])
    for other in ("eps", "x0", "v"):
        torch.testing.assert_close(getattr(prediction, other), truth[other], rtol=0, atol=1e-12)
    of_truth = prediction.value_of(truth["x0"], truth["eps"])
    torch.testing.assert_close(of_truth, truth[kind], rtol=0, atol=1e-12)


def test_an_error_of_the_noise_is_an_error_of_the_image_over_the_snr(truth):
    wrong = truth["eps"] + torch.randn_like(truth["eps"])
    prediction = Prediction("eps", wrong, truth["x_t"], truth["alpha"], truth["sigma"])
    of_image = (prediction.x0 - truth["x0"]).square().sum((1, 2, 3))
    of_noise = (wrong - truth["eps"]).square().sum((1, 2, 3))
    snr = (truth["alpha"] / truth["sigma"]).square().flatten()
    torch.testing.assert_close(of_image, of_noise / snr, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_eps_and_v_follow_from_another_x0(truth, kind):
    prediction = Prediction(kind, truth[kind], truth["x_t"], truth["alpha"], truth["sigma"])
    x0 = truth["x0"].clamp(-0.5, 0.5)
    changed = prediction.with_x0(x0)
    assert torch.equal(changed.x0, x0)
    x_t = truth["alpha"] * x0 + truth["sigma"] * changed.eps
    torch.testing.assert_close(x_t, truth["x_t"], rtol=0, atol=1e-12)
    x0_of_v = truth["alpha"] * truth["x_t"] - truth["sigma"] * changed.v
    torch.testing.assert_close(x0_of_v, x0, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("t", "index"), [(1, [0, 0, 0]), (1000, [999] * 3), (torch.tensor([1, 7, 1000]), [0, 6, 999])]
)
def test_the_network_receives_x_t_and_t_minus_1_and_the_condition(schedule, t, index):
    x_t, cond = torch.randn(3, 1, 2, 2), torch.eye(3)
    network = Recorder(x_t)
    Denoiser(network, schedule)(x_t, t, cond)
    got_x, got_t, got_cond = network.arguments
    assert got_x is x_t
    assert got_t.tolist() == index
    assert got_cond is cond


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 0.1])
def test_the_network_of_edm_receives_images_of_unit_variance(schedule, sigma_data):
    x0, eps = sigma_data * torch.randn(2, 5, 1, 100, 100)
    t = torch.tensor([1, 100, 300, 600, 1000])
    network = Recorder(torch.zeros_like(x0))
    denoiser = Denoiser(network, schedule, "edm", sigma_data=sigma_data)
    denoiser(schedule.add_noise(x0, eps / sigma_data, t), t)
    assert (network.arguments[0].std(dim=(1, 2, 3)) - 1).abs().max() < 0.03
    assert network.arguments[1].tolist() == (t - 1).tolist()


def test_edm_for_images_of_unit_variance_is_minus_v(schedule):
    x_t, output = torch.randn(2, 3, 1, 4, 4)
    t = torch.tensor([1, 300, 1000])
    edm = Denoiser(Recorder(output), schedule, "edm", sigma_data=1.0)(x_t, t)
    v = Denoiser(Recorder(-output), schedule, "v")(x_t, t)
    torch.testing.assert_close((edm.x0, edm.eps), (v.x0, v.eps), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sigma_data", [0.0, -1.0, float("nan")])
def test_images_without_a_deviation_are_refused(schedule, sigma_data):
    with pytest.raises(ValueError, match=r"prediction\.sigma_data of edm must be above 0, not"):
        Denoiser(Recorder(torch.zeros(1)), schedule, "edm", sigma_data=sigma_data)


def test_another_network_keeps_the_deviation_of_the_images(schedule):
    network = Recorder(torch.ones(3, 1, 2, 2))
    denoiser = Denoiser(network, schedule, "edm", sigma_data=0.2)
    x_t = torch.randn(3, 1, 2, 2)
    assert torch.equal(denoiser.with_network(network)(x_t, 30).x0, denoiser(x_t, 30).x0)


def test_without_a_condition_the_network_receives_none(schedule):
    network = Recorder(torch.zeros(3, 1, 2, 2))
    Denoiser(network, schedule)(torch.zeros(3, 1, 2, 2), 5)
    assert network.arguments[2] is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_is_read_from_the_networks_output(schedule, kind):
    x0, eps = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64)
    t = torch.tensor([1, 300, 700])
    a = schedule.alpha_bar[t].reshape(3, 1, 1, 1)
    v = a.sqrt() * eps - (1 - a).sqrt() * x0
    x_t = a.sqrt() * x0 + (1 - a).sqrt() * eps
    edm = 2 * ((1 - a).sqrt() * x0 - a.sqrt() * eps / 4) / (1 - a + a / 4).sqrt()
    output = {"eps": eps, "x0": x0, "v": v, "flow": eps - x0, "edm": edm}[kind]

    prediction = Denoiser(Recorder(output), schedule, kind)(x_t, t)
    got = (prediction.x0, prediction.eps, prediction.v)
    torch.testing.assert_close(got, (x0, eps, v), rtol=0, atol=1e-5)


def test_one_time_for_all_is_the_same_as_that_time_for_each(schedule):
    x_t = torch.randn(3, 1, 4, 4)
    denoiser = Denoiser(Recorder(torch.randn(3, 1, 4, 4)), schedule)
    one, each = denoiser(x_t, 321), denoiser(x_t, torch.full((3,), 321))
    assert torch.equal(one.x0, each.x0)
    assert torch.equal(one.v, each.v)


def test_a_half_precision_network_does_not_lower_the_precision_of_x_t(schedule):
    x_t = torch.randn(3, 1, 4, 4)
    prediction = Denoiser(Recorder(x_t.bfloat16()), schedule)(x_t, 5)
    assert prediction.value.dtype == prediction.x0.dtype == torch.float32


# ---- a learned variance ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_half_of_2C_channels_is_the_fraction(schedule, kind):
    x_t, value, raw = torch.randn(3, 2, 3, 4, 4)
    both = Denoiser(Recorder(torch.cat([value, raw], dim=1)), schedule, kind)(x_t, 30)
    alone = Denoiser(Recorder(value), schedule, kind)(x_t, 30)
    assert torch.equal(both.x0, alone.x0)
    assert both.value.shape == both.fraction.shape == x_t.shape
    torch.testing.assert_close(both.fraction, (raw + 1) / 2, rtol=0, atol=0)
    assert alone.fraction is None


def test_a_raw_variance_of_minus_1_and_1_is_the_range_from_0_to_1(schedule):
    raw = torch.tensor([-1.0, 1.0, 0.0]).reshape(3, 1, 1, 1)
    output = torch.cat([torch.zeros_like(raw), raw], dim=1)
    fraction = Denoiser(Recorder(output), schedule)(torch.zeros(3, 1, 1, 1), 5).fraction
    assert fraction.flatten().tolist() == [0, 1, 0.5]


def test_another_x0_keeps_the_fraction(schedule):
    x_t = torch.randn(3, 1, 4, 4)
    prediction = Denoiser(Recorder(torch.randn(3, 2, 4, 4)), schedule)(x_t, 30)
    changed = prediction.with_x0(torch.zeros_like(x_t))
    assert torch.equal(changed.fraction, prediction.fraction)


def test_a_half_precision_network_does_not_lower_the_precision_of_the_fraction(schedule):
    x_t = torch.randn(3, 1, 4, 4)
    network = Recorder(torch.cat([x_t, x_t], dim=1).bfloat16())
    assert Denoiser(network, schedule)(x_t, 5).fraction.dtype == torch.float32


@pytest.mark.parametrize(
    ("t", "wrong"),
    [(0, 0), (1001, 1001), (torch.tensor([0, 5]), 0), (torch.tensor([3, -1]), -1)],
    ids=str,
)
def test_a_time_outside_of_noisy_images_is_refused(schedule, t, wrong):
    denoiser = Denoiser(Recorder(torch.zeros(2, 1, 2, 2)), schedule)
    with pytest.raises(ValueError, match=rf"t must lie in 1\.\.1000, not {wrong}\. "):
        denoiser(torch.zeros(2, 1, 2, 2), t)
    assert not hasattr(denoiser.network, "arguments")  # it was not called
