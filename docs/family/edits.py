"""Draw edits in the plane, where a point is an image of two pixels."""

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plane import dots, drawn, ground, two, walk
from style import ACCENT, panels
from torch import Tensor

from fromnoise.diffusion import (
    SAMPLERS,
    ddim_inversion,
    inpaint,
    interpolation_starts,
    sampling_timesteps,
    slerp,
)

STEPS = 50
FRACTIONS = torch.linspace(0, 1, 41).tolist()  # λ
A, B = (torch.tensor(p, dtype=torch.float64)[:, None, None] for p in ([-1.5, -0.7], [1.4, -0.5]))


def data(count: int) -> Tensor:
    """Return points of the data: (count,2,1,1)."""
    generator = torch.Generator().manual_seed(5)
    which = torch.multinomial(two.WEIGHTS, count, True, generator=generator)
    return two.MEANS[which][:, :, None, None] + two.STD * drawn(count, seed=6)


def inpainting() -> Figure:
    """Draw points of the data whose vertical coordinate is inpainted."""
    image = data(600)
    known = torch.tensor([True, False])[None, :, None, None]
    figure, axes = panels("edit inpaint: the horizontal coordinate is known", 3, height=2.75)
    ground(axes[0], "the images")
    dots(axes[0], image, "0.3")
    for panel, resample in zip(axes[1:], (1, 10), strict=True):
        generator = torch.Generator().manual_seed(7)

        def noise(t: int, *key: object, generator=generator) -> Tensor:
            return torch.randn(image.shape, dtype=image.dtype, generator=generator)

        *_, last = inpaint(
            two.denoise,
            two.SCHEDULE,
            drawn(len(image), seed=8),
            sampling_timesteps(two.SCHEDULE, STEPS, "log_snr"),
            image=image,
            known=known,
            noise=noise,
            resample=resample,
        )
        ground(panel, f"inpainted, resample = {resample}")
        dots(panel, last.x, ACCENT)
    return figure


def variation() -> Figure:
    """Draw variations of one point, with three strengths."""
    figure, axes = panels("edit vary: from one image, 400 seeds", 3, height=2.75)
    for panel, strength in zip(axes, (0.1, 0.35, 0.7), strict=True):
        t = round(strength * two.SCHEDULE.T)
        x_t = two.SCHEDULE.add_noise(A.expand(400, -1, -1, -1), drawn(400, seed=9), t)
        ground(panel, f"strength {strength:g}")
        dots(panel, from_t("ddpm", x_t, t), ACCENT)
        panel.plot(*A.flatten(), "k*", markersize=8)
    return figure


def from_t(sampler: str, x_t: Tensor, t: int) -> Tensor:
    """Return the last x of a sampler that begins at t."""
    generator = torch.Generator().manual_seed(10)
    below = sampling_timesteps(two.SCHEDULE, STEPS, "log_snr")
    times = [t, *(u for u in below if u < t)]

    def noise(t: int) -> Tensor:
        return torch.randn(x_t.shape, dtype=x_t.dtype, generator=generator)

    *_, last = SAMPLERS[sampler](two.denoise, two.SCHEDULE, x_t, times, noise=noise)
    return last.x


def inverted(x: Tensor, steps: int) -> Tensor:
    """Return x_0 and every later x of the inversion, up to x_T."""
    times = sampling_timesteps(two.SCHEDULE, steps, "log_snr")
    return torch.stack([x, *(s.x for s in ddim_inversion(two.denoise, two.SCHEDULE, x, times))])


def inversion() -> Figure:
    """Draw paths from data to noise, and the error of the round trip."""
    figure, (left, right) = panels("DDIM inversion", 2, height=3.1)
    ground(left, "50 steps from data to noise")
    x = inverted(data(14), STEPS)
    for path in x[..., 0, 0].unbind(1):
        left.plot(*path.unbind(-1), color=ACCENT, linewidth=0.8)
        left.plot(*path[0], "o", color=ACCENT, markersize=4)
        left.plot(*path[-1], ".", color="0.3", markersize=4)
    x0, counts = data(300), [5, 10, 20, 40, 80, 160]
    off = []
    for steps in counts:
        back = walk("ddim", inverted(x0, steps)[-1], steps)[-1]
        off.append((back - x0).flatten(1).norm(dim=1).median())
    right.loglog(counts, off, ".-", color=ACCENT)
    right.set(xlabel="steps in each direction", ylabel="median error of the round trip")
    right.set_xticks(counts, counts)
    right.minorticks_off()
    return figure


def between_noises() -> Figure:
    """Draw the interpolation from a to b between their noises."""
    x_T = inverted(torch.stack([A, B]), STEPS)[-1]
    arc = torch.cat([slerp(x_T[:1], x_T[1:], f) for f in FRACTIONS])
    figure, (left, right) = panels("edit interpolate: 41 frames from a to b", 2, height=3.1)
    ground(left, "grey: the interpolated noise")
    left.plot(*arc[..., 0, 0].unbind(-1), ".-", color="0.5", linewidth=0.8, markersize=3)
    frames = walk("ddim", arc, STEPS)[-1]
    _frames(left, frames)
    right.plot(FRACTIONS, frames[:, 0, 0, 0], ".-", color=ACCENT, label="horizontal")
    right.plot(FRACTIONS, frames[:, 1, 0, 0], ".-", color="0.5", label="vertical")
    right.set(xlabel="λ", ylabel="coordinate of the frame")
    right.legend()
    return figure


def under_noise() -> Figure:
    """Draw the interpolation from a to b under the same noise, with three strengths."""
    figure, axes = panels("edit interpolate --strength: mixed under the same noise", 3, height=2.75)
    for panel, strength in zip(axes, (0.05, 0.2, 0.4), strict=True):
        t = round(strength * two.SCHEDULE.T)
        eps = drawn(1, seed=11)[0]
        starts = interpolation_starts(two.SCHEDULE, A, B, FRACTIONS, t, eps)
        ground(panel, f"strength {strength:g}")
        _frames(panel, from_t("ddim", starts, t))
    return figure


def _frames(panel: Axes, x: Tensor) -> None:
    panel.plot(*x[..., 0, 0].unbind(-1), ".-", color=ACCENT, linewidth=0.8, markersize=4)
    for point, name in ((A, "a"), (B, "b")):
        panel.plot(*point.flatten(), "k*", markersize=8)
        panel.annotate(name, point.flatten().tolist(), (5, 5), textcoords="offset points")
