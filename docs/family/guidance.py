"""Draw guidance: each of the three Gaussians is a label, and the denoiser is perfect.

The Gaussians are wider here and overlap, so that guidance has an effect. All points of a panel are
the pixels of one image (1,2,N,1), because two of the methods depend on an image as a whole.
"""

from functools import partial

import torch
from matplotlib.figure import Figure
from plane import dots, drawn, ground, two, walk
from style import ACCENT, SECOND, THIRD, panels
from torch import Tensor, nn

from fromnoise.diffusion import (
    Denoiser,
    autoguided,
    clamp_x0,
    classifier_free,
    composed,
    dynamic_threshold,
)

STD, COUNT, STEPS = 0.6, 1200, 50
BLUE, ORANGE, GREEN = torch.eye(3, dtype=torch.float64)[:, None]  # each (1,3)


class Perfect(nn.Module):
    """E[x_0 | x_t] of the mixture, or of the one Gaussian that cond names; cond: (B,3)."""

    def forward(self, x_t: Tensor, index: Tensor, cond: Tensor) -> Tensor:
        """x_t: (B,2,N,1), each pixel a point on its own; index: t − 1, one for all."""
        weights = torch.where(cond.any(dim=1, keepdim=True), cond, two.WEIGHTS)  # (B,3)
        pixels = x_t.movedim(1, -1).reshape(-1, 2, 1, 1)
        weights = weights.repeat_interleave(x_t.shape[2], dim=0)
        x0 = two.denoise(pixels, int(index[0]) + 1, weights=weights, std=STD).x0
        return x0.reshape(*x_t.shape[:1], -1, 1, 2).movedim(-1, 1)


PERFECT = Denoiser(Perfect(), two.SCHEDULE, "x0")


def green(scale: float, **options) -> Tensor:
    """Return points of the plane under guidance towards the upper Gaussian: (1,2,COUNT,1)."""
    return sampled(classifier_free(PERFECT, GREEN, scale, **options))


def sampled(denoise) -> Tensor:
    """Return points of the plane as the pixels of one image: (1,2,COUNT,1)."""
    x_T = drawn(COUNT).movedim(0, 2).reshape(1, 2, COUNT, 1)
    return walk("dpm++", x_T, STEPS, denoise=denoise)[-1]


def compared(title: str, shown: dict[str, tuple[Tensor, str]]) -> Figure:
    """Draw a panel for each title, with its points in their colour."""
    figure, axes = panels(title, len(shown), height=2.75)
    for panel, (name, (x, colour)) in zip(axes, shown.items(), strict=True):
        ground(panel, name, std=STD, half=4.0)
        dots(panel, x, colour)
    return figure


def scales() -> Figure:
    """Draw classifier-free guidance towards one of the three: s = 0, 1 and 3."""
    names = {0: "s = 0: unconditional", 1: "s = 1: conditional", 3: "s = 3: extrapolated"}
    shown = {name: (green(s), THIRD) for s, name in names.items()}
    return compared("Classifier-free guidance towards the upper label", shown)


def interval() -> Figure:
    """Draw s = 3 at all timesteps, and only at some."""
    shown = {
        "s = 1": (green(1), THIRD),
        "s = 3 at all t": (green(3), THIRD),
        "s = 3 for 200 ≤ t ≤ 500": (green(3, interval=(200, 500)), THIRD),
    }
    return compared("Guidance on an interval of t", shown)


def rescale() -> Figure:
    """Draw φ = 0, 0.7 and 1, with the standard deviation of the whole image."""
    shown = {}
    for phi in (0.0, 0.7, 1.0):
        x = green(6, rescale=phi)
        shown[f"φ = {phi:g}: std {x.std():.2f}"] = (x, THIRD)
    plain = green(1).std()
    return compared(f"Guidance s = 6, rescaled; with s = 1 the std is {plain:.2f}", shown)


def threshold() -> Figure:
    """Draw images out of range: unchanged, clamped, and scaled by a dynamic threshold."""
    guided = classifier_free(PERFECT, GREEN, 6)
    denoisers = {
        "clamp: false": guided,
        "clamp: true": clamp_x0(guided, -2, 2),
        "clamp: dynamic": dynamic_threshold(guided, -2, 2),
    }
    shown = {name: (sampled(denoise), THIRD) for name, denoise in denoisers.items()}
    figure = compared("Guidance s = 6, for images in [−2, 2]", shown)
    for panel in figure.axes:
        panel.plot([-2, 2, 2, -2, -2], [-2, -2, 2, 2, -2], color="0.3", linewidth=0.8)
    return figure


def composition() -> Figure:
    """Draw two conditions, each with a weight."""
    weights = {
        "right 1": [0.0, 1.0, 0.0],
        "right 1, upper 1": [0.0, 1.0, 1.0],
        "right 1, upper −0.5": [0.0, 1.0, -0.5],
    }
    conds = [BLUE, ORANGE, GREEN]
    shown = {name: (sampled(composed(PERFECT, conds, w)), SECOND) for name, w in weights.items()}
    return compared("Composition of conditions", shown)


def weaker() -> Figure:
    """Draw a model that blurs slightly, guided away from one that blurs more."""
    blurred, weak = (partial(of_points, std=std) for std in (0.4, 0.7))
    shown = {
        "the model (std 0.4)": blurred,
        "a weaker model (0.7)": weak,
        "autoguided, s = 2": autoguided(blurred, weak, 2),
    }
    figure, axes = panels("Autoguidance: the data have a std of 0.22", 3, height=2.75)
    for panel, (name, denoise) in zip(axes, shown.items(), strict=True):
        ground(panel, name)
        dots(panel, walk("dpm++", drawn(COUNT), STEPS, denoise=denoise)[-1], ACCENT)
    return figure


def of_points(x_t: Tensor, t: int, *, std: float):
    """Predict by the denoiser of wider Gaussians, which blurs."""
    return two.denoise(x_t, t, std=std)
