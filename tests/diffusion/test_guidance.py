from itertools import product

import pytest
import torch
from torch import nn

from fromnoise.diffusion import (
    Denoiser,
    NoiseSchedule,
    Prediction,
    autoguided,
    clamp_x0,
    classifier_free,
    composed,
    dynamic_threshold,
)
from fromnoise.diffusion.guidance import rescaled

K = 3


class Linear(nn.Module):
    """A network that is affine in its condition, so that guidance can be done by hand."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.outputs, self.calls = outputs, []

    def forward(self, x, t, cond=None):
        self.calls.append(len(x))
        shift = 0 if cond is None else cond.sum(dim=1)[:, None, None, None]
        return torch.cat([0.5 * x + 0.1 * t[:, None, None, None] + shift] * self.outputs, dim=1)


def denoiser(kind="eps", outputs=1):
    return Denoiser(Linear(outputs), NoiseSchedule.named("linear", 50), kind).double()


@pytest.fixture
def x():
    return torch.randn(4, 1, 2, 2, dtype=torch.float64)


COND = torch.tensor([[1, -1, 1], [0, 0, 0], [1, 1, 1], [-1, -1, 0]], dtype=torch.float64)


QUANTITIES = ("eps", "x0", "v")
KINDS = (*QUANTITIES, "flow", "edm")
TIMES = (1, 50, torch.tensor([1, 7, 30, 50]))  # the last: one for each image


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_formula_for_every_prediction_and_quantity(kind, x):
    d = denoiser(kind)
    for scale, t in product((0.0, 1.0, 2.8, 7.5), TIMES):
        guided = classifier_free(d, COND, scale)(x, t)
        of_cond, of_nothing = d(x, t, COND), d(x, t)
        for quantity in QUANTITIES:
            c, n = getattr(of_cond, quantity), getattr(of_nothing, quantity)
            torch.testing.assert_close(
                getattr(guided, quantity),
                n + scale * (c - n),
                rtol=1e-6,
                atol=1e-8,
                msg=lambda text, part=(scale, t, quantity): f"{part}: {text}",
            )


def test_is_linear_in_the_scale(x):
    d = denoiser()
    eps = [classifier_free(d, COND, s)(x, 9).eps for s in (0.0, 1.5, 3.0)]
    torch.testing.assert_close(eps[1], (eps[0] + eps[2]) / 2)


def test_one_evaluation_without_guidance_and_one_doubled_batch_with_it(x):
    d = denoiser()
    classifier_free(d, COND, 1.0)(x, 5)
    classifier_free(d, COND, 3.0)(x, 5)
    assert d.network.calls == [4, 8]


def test_nothing_said_is_guided_nowhere(x):
    d = denoiser()
    guided = classifier_free(d, torch.zeros_like(COND), 5.0)(x, 5)
    torch.testing.assert_close(guided.eps, d(x, 5).eps)


def test_a_learned_variance_is_that_of_the_condition(x):
    d = denoiser(outputs=2)
    guided = classifier_free(d, COND, 3.0)(x, 5)
    torch.testing.assert_close(guided.fraction, d(x, 5, COND).fraction)
    assert not torch.allclose(guided.fraction, d(x, 5).fraction)


def test_can_be_clamped_like_any_denoiser(x):
    clamped = clamp_x0(classifier_free(denoiser(), COND, 3.0))(100 * x, 20)
    assert clamped.x0.abs().max() == 1


def test_a_negative_scale_guides_away_from_the_condition(x):
    away, free, given = (
        classifier_free(denoiser(), COND, scale)(100 * x, 20).value for scale in (-1.0, 0.0, 1.0)
    )
    torch.testing.assert_close(away - free, free - given)


@pytest.mark.parametrize("t", [6, torch.tensor([5, 6, 30, 31])], ids=["6", "each"])
def test_an_interval_guides_inside_and_leaves_the_condition_alone_outside(t, x):
    d = denoiser()
    guided = classifier_free(d, COND, 3.0, interval=(6, 30))(x, t)
    inside = (torch.as_tensor(t) >= 6) & (torch.as_tensor(t) <= 30)
    inside = inside.expand(4)[:, None, None, None]
    strong, plain = classifier_free(d, COND, 3.0)(x, t), d(x, t, COND)
    torch.testing.assert_close(guided.eps, torch.where(inside, strong.eps, plain.eps))
    assert (strong.eps != plain.eps).any()


def test_outside_the_interval_one_evaluation_is_enough(x):
    d = denoiser()
    guided = classifier_free(d, COND, 3.0, interval=(6, 30))
    for t in (5, 6, 30, 31):
        guided(x, t)
    assert d.network.calls == [4, 8, 8, 4]


def test_one_composed_condition_is_plain_guidance(x):
    for outputs in (1, 2):
        d = denoiser(outputs=outputs)
        one, plain = composed(d, [COND], [2.8])(x, 9), classifier_free(d, COND, 2.8)(x, 9)
        torch.testing.assert_close(one.eps, plain.eps)
        assert (one.fraction is None) == (plain.fraction is None) == (outputs == 1)
        if plain.fraction is not None:
            torch.testing.assert_close(one.fraction, plain.fraction)


def test_composition_sums_each_direction_with_its_own_weight(x):
    d, other = denoiser(), torch.roll(COND, 1, dims=0)
    nothing = d(x, 9).eps
    expected = nothing + 2 * (d(x, 9, COND).eps - nothing) - 1.5 * (d(x, 9, other).eps - nothing)
    d.network.calls.clear()
    torch.testing.assert_close(composed(d, [COND, other], [2.0, -1.5])(x, 9).eps, expected)
    assert d.network.calls == [12]


def test_a_composed_variance_is_the_mean_of_those_of_its_conditions(x):
    d, other = denoiser(outputs=2), torch.roll(COND, 1, dims=0)
    each = torch.stack([d(x, 9, cond).fraction for cond in (COND, other)])
    torch.testing.assert_close(
        composed(d, [COND, other], [2.0, -1.5])(x, 9).fraction, each.mean(dim=0)
    )


def test_each_composed_condition_needs_a_weight():
    with pytest.raises(ValueError, match="one weight: 1 and 2"):
        composed(denoiser(), [COND], [1.0, 2.0])


def test_rescaling_brings_the_deviation_back_to_that_of_the_condition(x):
    d = denoiser()
    cond = torch.ones(4, K, dtype=torch.float64)  # ε_c = (1 + own) x, ε_∅ = x
    own = torch.arange(1.0, 5.0).double()[:, None, None, None].repeat(2, 1, 1, 1)  # image by image
    d.network.forward = lambda x, t, cond: (1 + own[: len(x)] * cond[:, :1, None, None]) * x
    plain = classifier_free(d, cond, 3.0)(x, 9).eps
    torch.testing.assert_close(plain, (1 + 3 * own[:4]) * x)
    full = classifier_free(d, cond, 3.0, rescale=1.0)(x, 9).eps
    torch.testing.assert_close(full, (1 + own[:4]) * x)  # as far as one deviation can tell
    half = classifier_free(d, cond, 3.0, rescale=0.5)(x, 9).eps
    torch.testing.assert_close(half, (full + plain) / 2)
    with pytest.raises(ValueError, match=r"between 0 and 1, not 1\.5"):
        classifier_free(d, cond, 3.0, rescale=1.5)(x, 9)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0)])
def test_a_dynamic_threshold_draws_inwards_only_what_is_out_of_range(low, high, x):
    d = denoiser("x0")
    half, middle = (high - low) / 2, (high + low) / 2
    values = torch.linspace(-1, 1, 16, dtype=torch.float64)[None, None, None] * torch.tensor(
        [0.5, 4.0], dtype=torch.float64
    ).reshape(2, 1, 1, 1)
    d.network.forward = lambda x, t, cond=None: values * half + middle
    x0 = dynamic_threshold(d, low, high, percentile=0.8)(torch.zeros(2, 1, 1, 16).double(), 9).x0
    torch.testing.assert_close(x0[0], values[0] * half + middle)  # nothing to do
    q = torch.quantile(values[1].abs(), 0.8)
    torch.testing.assert_close(x0[1], (values[1].clamp(-q, q) / q) * half + middle)
    assert (x0.min(), x0.max()) == (low, high)


# ---- autoguidance ---------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.8])
def test_autoguidance_is_its_formula_whatever_either_model_predicts(scale, x):
    for kind, weak_kind, t in product(KINDS, KINDS, TIMES):
        strong, weak = denoiser(kind), denoiser(weak_kind)
        guided = autoguided(strong, weak, scale)(x, t)
        of_strong, of_weak = strong(x, t), weak(x, t)
        for quantity in QUANTITIES:
            s, w = getattr(of_strong, quantity), getattr(of_weak, quantity)
            torch.testing.assert_close(
                getattr(guided, quantity),
                w + scale * (s - w),
                rtol=1e-5,
                atol=1e-5,
                msg=lambda text, part=(kind, weak_kind, t, quantity): f"{part}: {text}",
            )


def test_autoguidance_sharpens_what_the_weaker_model_blurs(x):
    # Two Gaussians around 0: the weaker model takes the data for twice as wide as they are, and
    # being led away from it makes x̂_0 shrink more than either says.
    schedule = NoiseSchedule.named("linear", 50)

    def of_width(std):
        def denoise(x_t, t):
            a = schedule.alpha_bar[t]
            x0 = a.sqrt() * std**2 / (a * std**2 + 1 - a) * x_t
            return Prediction("x0", x0, x_t, a.sqrt(), (1 - a).sqrt())

        return denoise

    strong, weak = of_width(0.5), of_width(1.0)
    guided = autoguided(strong, weak, 2.0)(x, 25).x0
    assert (guided.abs() < strong(x, 25).x0.abs()).all()
    assert (strong(x, 25).x0.abs() < weak(x, 25).x0.abs()).all()


def test_autoguidance_of_1_does_not_ask_the_weaker_model(x):
    strong, weak = denoiser(), denoiser()
    autoguided(strong, weak, 1.0)(x, 9)
    assert weak.network.calls == []


def test_autoguidance_keeps_the_learned_variance_of_the_stronger(x):
    strong, weak = denoiser(outputs=2), denoiser(outputs=1)
    guided = autoguided(strong, weak, 2.0)(x, 9)
    assert torch.equal(guided.fraction, strong(x, 9).fraction)


def test_a_negative_autoguidance_is_refused():
    with pytest.raises(ValueError, match=r"ε_weak \+ s·\(ε − ε_weak\) must be at least 0, not -1"):
        autoguided(denoiser(), denoiser(), -1.0)


def test_what_is_the_same_everywhere_is_rescaled_to_itself():
    """As the output of a network whose last layer starts at zero."""
    same = torch.zeros(2, 1, 2, 2)
    for other in (same, same + 0.5, torch.randn(2, 1, 2, 2)):
        assert torch.equal(rescaled(same + 0.25, other, 0.5), same + 0.25)
