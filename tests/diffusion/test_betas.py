"""Each schedule beside its definition in plain numbers, and beside two libraries'."""

import math
from itertools import pairwise

import pytest
import torch

from fromnoise.diffusion import SCHEDULES, NoiseSchedule
from fromnoise.diffusion.betas import with_zero_terminal_snr

STEPS = [1, 2, 7, 100, 1000]


# ---- the definitions ------------------------------------------------------------------------


def line(first: float, last: float, n: int) -> list[float]:
    return [first + (last - first) * i / (n - 1) if n > 1 else first for i in range(n)]


def sigmoid_of(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def from_alpha_bar(f, T: int, beta_max: float = 0.999) -> list[float]:
    """The β of ᾱ_t = f(t/T)/f(0), cut off; f(1) may be 0."""
    return [min(1 - f(t / T) / f((t - 1) / T), beta_max) for t in range(1, T + 1)]


def by_definition(name: str, T: int, **options) -> list[float]:
    first, last = options.get("beta_1", 1e-4), options.get("beta_T", 0.02)
    match name:
        case "linear":
            return line(first, last, T)
        case "linear_rescaled":
            return [beta * 1000 / T for beta in line(first, last, T)]
        case "quadratic":
            return [root * root for root in line(math.sqrt(first), math.sqrt(last), T)]
        case "constant":
            return [options.get("beta", 0.02)] * T
        case "warmup":
            # the paper's code: a line in the first int(T · fraction) steps, then the last value
            rising = max(1, int(T * options.get("fraction", 0.1)))
            return line(first, last, rising) + [last] * (T - rising)
        case "jsd":
            return [1 / (T - t + 1) for t in range(1, T + 1)]
        case "cosine":
            s = options.get("offset", 0.008)
            return from_alpha_bar(
                lambda u: math.cos((u + s) / (1 + s) * math.pi / 2) ** 2,
                T,
                options.get("beta_max", 0.999),
            )
        case "sigmoid":
            # γ of Algorithm 1: from 1 at u = 0 to 0 at u = 1
            start, end, tau = (
                options.get(key, value) for key, value in (("start", -3), ("end", 3), ("tau", 1))
            )
            v_start, v_end = sigmoid_of(start / tau), sigmoid_of(end / tau)
            return from_alpha_bar(
                lambda u: (
                    (v_end - sigmoid_of((u * (end - start) + start) / tau)) / (v_end - v_start)
                ),
                T,
                options.get("beta_max", 0.999),
            )
        case "flow":
            return from_alpha_bar(lambda u: (1 - u) ** 2 / ((1 - u) ** 2 + u**2), T, 1.0)
        case "edm":
            least, most = options.get("sigma_min", 0.002), options.get("sigma_max", 80)
            rho = options.get("rho", 7)
            ratios = [0, *(r**rho for r in line(most ** (1 / rho), least ** (1 / rho), T)[::-1])]
            return [(b**2 - a**2) / (1 + b**2) for a, b in pairwise(ratios)]
        case _:
            raise AssertionError(name)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("linear", {}),
        ("linear", {"beta_1": 2e-4, "beta_T": 0.028}),
        ("linear_rescaled", {}),
        ("linear_rescaled", {"beta_1": 5e-5, "beta_T": 5e-4}),
        ("quadratic", {}),
        ("quadratic", {"beta_1": 0.00085, "beta_T": 0.012}),
        ("constant", {}),
        ("constant", {"beta": 0.1}),
        ("warmup", {}),
        ("warmup", {"fraction": 0.5}),
        ("warmup", {"fraction": 1.0, "beta_1": 1e-3, "beta_T": 0.05}),
        ("jsd", {}),
        ("cosine", {}),
        ("cosine", {"offset": 0.05, "beta_max": 0.5}),
        ("sigmoid", {}),
        ("sigmoid", {"start": 0.0, "end": 3.0, "tau": 0.7, "beta_max": 0.5}),
        ("flow", {}),
        ("edm", {}),
        ("edm", {"sigma_min": 0.02, "sigma_max": 100.0, "rho": 3.0}),
    ],
)
def test_each_schedule_is_its_definition(name, options):
    for T in STEPS:
        if name == "linear_rescaled" and 1000 * options.get("beta_T", 0.02) >= T:
            with pytest.raises(ValueError, match="too small"):
                SCHEDULES[name](T, **options)
            continue
        betas = SCHEDULES[name](T, **options)
        assert (betas.shape, betas.dtype) == ((T,), torch.float64)
        expected = torch.tensor(by_definition(name, T, **options), dtype=torch.float64)
        torch.testing.assert_close(betas, expected, rtol=1e-9, atol=0, msg=f"T = {T}")


def test_every_schedule_is_compared_with_a_definition():
    for name in SCHEDULES.keys() - {"custom"}:
        assert by_definition(name, 50)


@pytest.mark.parametrize("T", [2, 7, 1000])
def test_jsd_leaves_a_straight_line_of_alpha_bar(T):
    alpha_bar = NoiseSchedule.named("jsd", T).alpha_bar
    assert alpha_bar.tolist() == pytest.approx([1 - t / T for t in range(T + 1)], abs=1e-12)
    assert alpha_bar[-1] == 0


@pytest.mark.parametrize("T", [2, 7, 1000])
def test_flow_is_a_straight_line_from_image_to_noise(T):
    schedule = NoiseSchedule.named("flow", T)
    alpha, sigma = schedule.alpha_bar.sqrt(), (1 - schedule.alpha_bar).sqrt()
    tau = torch.arange(T + 1).double() / T
    torch.testing.assert_close(sigma / (alpha + sigma), tau, rtol=0, atol=1e-9)
    assert schedule.alpha_bar[-1] == 0


def test_edm_has_the_noise_levels_of_its_paper():
    # Eq. 5 with N = 18, as printed: from i = 0, the most noise, to N − 1
    N, rho = 18, 7
    levels = [
        (80 ** (1 / rho) + i / (N - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
        for i in range(N)
    ]
    a = NoiseSchedule.named("edm", N).alpha_bar[1:]
    assert ((1 - a) / a).sqrt().flip(0).tolist() == pytest.approx(levels, rel=1e-9)


@pytest.mark.parametrize(
    "options", [{"sigma_min": 0.0}, {"sigma_min": 80.0}, {"sigma_max": 0.001}, {"rho": 0.0}]
)
def test_levels_that_do_not_rise_are_refused(options):
    with pytest.raises(ValueError, match="edm needs 0 < sigma_min < sigma_max and rho > 0, not"):
        NoiseSchedule.named("edm", 10, **options)


@pytest.mark.parametrize("T", [250, 1000, 4000])
def test_linear_rescaled_ends_with_about_the_same_image_for_any_T(T):
    # ∏(1 − β) is about exp(−Σβ), and Σβ = 1000 · (1e-4 + 0.02)/2 for any T
    alpha_bar = NoiseSchedule.named("linear_rescaled", T).alpha_bar[-1].item()
    assert math.log(alpha_bar) == pytest.approx(-10.05, rel=0.05)


# ---- two libraries --------------------------------------------------------------------------


@pytest.mark.parametrize("T", [100, 1000])
@pytest.mark.parametrize(
    ("name", "theirs", "betas"),
    [
        ("linear", "linear", (1e-4, 0.02)),
        ("quadratic", "scaled_linear", (0.00085, 0.012)),
        ("cosine", "squaredcos_cap_v2", None),
    ],
)
def test_diffusers(name, theirs, betas, T):
    scheduler = pytest.importorskip("diffusers").DDPMScheduler
    ours, options = {}, {}
    if betas is not None:
        ours = dict(zip(("beta_1", "beta_T"), betas, strict=True))
        options = dict(zip(("beta_start", "beta_end"), betas, strict=True))
    table = scheduler(T, beta_schedule=theirs, **options).alphas_cumprod.double()  # float32
    alpha_bar = NoiseSchedule.named(name, T, **ours).alpha_bar[1:]
    torch.testing.assert_close(alpha_bar, table, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("T", [100, 1000])
@pytest.mark.parametrize(
    ("name", "theirs", "options"),
    [
        ("linear_rescaled", "linear", {}),
        ("cosine", "cosine", {}),
        ("sigmoid", "sigmoid", {}),
        ("sigmoid", "sigmoid", {"start": 0.0, "end": 3.0, "tau": 0.5}),
    ],
)
def test_denoising_diffusion_pytorch(name, theirs, options, T):
    library = pytest.importorskip("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
    expected = getattr(library, f"{theirs}_beta_schedule")(T, **options)
    betas = SCHEDULES[name](T, **options)
    # Its sigmoid takes v_start and v_end in float32, which is felt where little is left: 6e-8 of
    # f(0), beside what is left of it, has to be small in β.
    left = torch.cumprod(1 - betas, dim=0)
    for beta, other, rest in zip(betas.tolist(), expected.tolist(), left.tolist(), strict=True):
        assert beta == pytest.approx(other, rel=1e-9, abs=1e-6 * beta / rest * (name == "sigmoid"))


# ---- zero terminal SNR ----------------------------------------------------------------------


@pytest.mark.parametrize("T", [2, 7, 1000])
@pytest.mark.parametrize("name", ["linear", "quadratic", "constant", "warmup", "cosine", "sigmoid"])
def test_zero_terminal_snr_is_a_straight_line_of_the_old_roots(name, T):
    # Of √ᾱ the paper keeps the first and moves the last to 0: what lies between goes with them.
    old, new = 1.0, 1.0
    before, after = [], []
    for beta in by_definition(name, T):
        old *= 1 - beta
        before.append(math.sqrt(old))
    for beta in with_zero_terminal_snr(SCHEDULES[name](T)).tolist():
        new *= 1 - beta
        after.append(math.sqrt(new))
    first, last = before[0], before[-1]
    assert after == pytest.approx([first * (a - last) / (first - last) for a in before], abs=1e-9)
    schedule = NoiseSchedule.named(name, T, zero_terminal_snr=True)
    assert schedule.alpha_bar[1].item() == pytest.approx(1 - by_definition(name, T)[0], rel=1e-12)
    assert schedule.alpha_bar[-1] == 0
    assert schedule.snr(T) == 0


@pytest.mark.parametrize("name", ["linear", "quadratic", "cosine", "sigmoid"])
def test_zero_terminal_snr_is_that_of_diffusers(name):
    library = pytest.importorskip("diffusers.schedulers.scheduling_ddpm")
    betas = SCHEDULES[name](1000)
    expected = library.rescale_zero_terminal_snr(betas.clone())
    torch.testing.assert_close(with_zero_terminal_snr(betas), expected, rtol=1e-9, atol=1e-15)


def test_where_nothing_is_left_already_zero_terminal_snr_changes_nothing():
    betas = SCHEDULES["jsd"](1000)
    torch.testing.assert_close(with_zero_terminal_snr(betas), betas, rtol=1e-9, atol=0)


# ---- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "T", "options", "message"),
    [
        ("warmup", 10, {"fraction": 0.0}, r"fraction must lie in \(0, 1\], not 0$"),
        ("warmup", 10, {"fraction": 1.5}, r"fraction must lie in \(0, 1\], not 1.5$"),
        ("warmup", 10, {"fraction": math.nan}, r"fraction must lie in \(0, 1\], not nan$"),
        ("sigmoid", 10, {"start": 3.0}, "start < end and tau > 0, not start 3, end 3, tau 1$"),
        ("sigmoid", 10, {"tau": 0.0}, "start < end and tau > 0, not start -3, end 3, tau 0$"),
        ("constant", 10, {"beta": 0.0}, "every β must lie between 0 and 1, but β_1 = 0$"),
        ("constant", 10, {"beta": 1.0}, "every β must lie between 0 and 1, but β_1 = 1$"),
        ("linear", 10, {"beta_1": -1e-4}, "every β must lie between 0 and 1, but β_1 = -0.0001$"),
        ("quadratic", 10, {"beta_1": -1e-4}, "must be at least 0, not -0.0001 and 0.02$"),
        ("linear", 10, {"beta_T": 1.2}, "every β must lie between 0 and 1, but β_9 = 1.06668$"),
        ("linear_rescaled", 20, {}, r"T = 20 is too small .* Increase T to more than 20\.$"),
        ("linear_rescaled", 5, {"beta_1": 0.01, "beta_T": 0.001}, r"Increase T to more than 10\.$"),
        ("jsd", 1, {}, "every β must lie between 0 and 1, but β_1 = 1$"),
        ("cosine", 10, {"beta_max": 0.0}, "every β must lie between 0 and 1, but β_1 = 0$"),
        ("linear", 10_000, {}, r"give ᾱ_1 = 0.9999 and ᾱ_10000 = \S+\. Choose betas with"),
    ],
)
def test_a_bad_option_is_one_line(name, T, options, message):
    with pytest.raises(ValueError, match=message) as refused:
        NoiseSchedule.named(name, T, **options)
    assert len(str(refused.value).splitlines()) == 1


def test_one_step_cannot_have_zero_terminal_snr():
    with pytest.raises(ValueError, match="zero_terminal_snr needs T ≥ 2"):
        NoiseSchedule.named("cosine", 1, zero_terminal_snr=True)
