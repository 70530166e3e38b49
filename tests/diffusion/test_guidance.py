import pytest
import torch
from torch import nn

from fromnoise.diffusion import Denoiser, NoiseSchedule, clamp_x0, classifier_free

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


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.8, 7.5])
@pytest.mark.parametrize("t", [1, 50, torch.tensor([1, 7, 30, 50])], ids=["1", "T", "each"])
def test_equals_the_formula_for_every_prediction_and_quantity(kind, scale, t, x):
    d = denoiser(kind)
    guided = classifier_free(d, COND, scale)(x, t)
    of_cond, of_nothing = d(x, t, COND), d(x, t)
    for quantity in ("eps", "x0", "v"):
        c, n = getattr(of_cond, quantity), getattr(of_nothing, quantity)
        torch.testing.assert_close(
            getattr(guided, quantity), n + scale * (c - n), rtol=1e-6, atol=1e-8
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


def test_a_negative_scale_is_refused_with_the_formula():
    with pytest.raises(ValueError, match=r"at least 0 in ε = ε_∅ \+ s·\(ε_c − ε_∅\), not -1"):
        classifier_free(denoiser(), COND, -1.0)
