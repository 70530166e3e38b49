"""Draw predictions, losses, weightings, noise levels and inputs of the network."""

import numpy as np
import torch
from lines import T
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plane import drawn, two, walk
from samplers import spread
from style import ACCENT, GREY, SECOND, THIRD, panels
from torch import Tensor

from fromnoise.data.augmentation import augment
from fromnoise.diffusion import LOSSES, WEIGHTINGS, sampling_timesteps
from fromnoise.diffusion.losses import OWN
from fromnoise.diffusion.noise_levels import cells, normal
from fromnoise.networks.base import UNet
from fromnoise.rng import BatchDraws
from fromnoise.training.noise_levels import KEPT, LossHistory, draw_noise_levels

LOG_SNR = torch.linspace(-10, 10, 201)
SNR = LOG_SNR.exp()
BATCH, BINS = 64, 16


def prediction(kind: str) -> Figure:
    """Draw the ratio of the squared error of a prediction to that of x̂_0."""
    figure, (panel,) = panels(f"Prediction {kind}: its squared error over that of x_0")
    for own in OWN.values():
        panel.semilogy(LOG_SNR, own(SNR), color=GREY, linewidth=3)
    panel.semilogy(LOG_SNR, OWN[kind](SNR), color=ACCENT)
    panel.set(xlabel="log SNR (noise on the left, image on the right)", ylabel="factor")
    return figure


def loss(name: str) -> Figure:
    """Draw the loss of one element over its error."""
    figure, (panel,) = panels(f"Loss {name}")
    error = torch.linspace(-3, 3, 241)
    for other in LOSSES.values():
        panel.plot(error, other(error, torch.zeros(())), color=GREY)
    panel.plot(error, LOSSES[name](error, torch.zeros(())), color=ACCENT)
    panel.set(xlabel="error e of one element", ylabel="loss", ylim=(0, 4))
    return figure


def weighting(name: str) -> Figure:
    """Draw the weight of the squared error of ε over the log-SNR."""
    figure, (panel,) = panels(f"Weighting {name}: the weight of the squared error of ε")
    for other in WEIGHTINGS.values():
        panel.semilogy(LOG_SNR, other(SNR, SNR) / SNR, color=GREY)
    panel.semilogy(LOG_SNR, WEIGHTINGS[name](SNR, SNR) / SNR, color=ACCENT, label=name)
    panel.set(xlabel="log SNR (noise on the left, image on the right)", ylabel="w / SNR")
    panel.set_ylim(1e-4, 1e4)
    return figure


def bound() -> Figure:
    """Draw the weight of the squared error of ε in the bound, with the small variance."""
    figure, (panel,) = panels("vlb: the weight of the squared error of ε in T · L(t−1), in nats")
    t = torch.arange(2, T + 1)
    snr = two.SCHEDULE.alpha_bar / (1 - two.SCHEDULE.alpha_bar)
    panel.semilogy(t / T, T / 2 * (snr[t - 1] - snr[t]) / snr[t], color=ACCENT, label="vlb")
    panel.axhline(1, color="0.6", label="simple")
    panel.set(xlabel="t/T", ylabel="weight", xlim=(0, 1.01))
    panel.legend()
    return figure


def hybrid() -> Figure:
    """Draw the term of the bound over the learned fraction, smallest at the true variance."""
    figure, (panel,) = panels("Hybrid: the bound as a function of the variance, at three t")
    f = torch.linspace(-0.3, 1.3, 201, dtype=torch.float64)
    for t, colour in ((3, ACCENT), (30, SECOND), (100, THIRD)):
        small, large, off = _step(t)
        log_variance = f * large.log() + (1 - f) * small.log()
        loss = (log_variance - small.log() + (small + off) / log_variance.exp() - 1) / 2
        excess = (loss - loss.min()) / (large / small).log().square()
        panel.plot(f, excess, color=colour, label=f"t = {t}")
        panel.plot(f[loss.argmin()], 0, "o", color=colour)
    panel.set(xlabel="fraction f: 0 is β̃, 1 is β", ylabel="excess of L(t−1), scaled")
    panel.set_ylim(bottom=-0.01)
    panel.legend()
    return figure


def _step(t: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return β̃ and β of the step to t−1, and the mean squared error of its mean."""
    a_t, a_s = two.SCHEDULE.alpha_bar[t], two.SCHEDULE.alpha_bar[t - 1]
    small, large = two.SCHEDULE.variances(t, t - 1)
    share = a_s.sqrt() * (1 - a_t / a_s) / (1 - a_t)
    return small, large, share**2 * _error(t)


def _error(t: int) -> Tensor:
    """Return E Var[x_0 | x_t] of a coordinate, the smallest error of any denoiser."""
    x0 = two.MEANS[torch.arange(300) % 10 // 5 + (torch.arange(300) % 10 > 7)]  # 5 : 3 : 2
    x0 = x0[:, :, None, None] + two.STD * drawn(300, seed=2)
    a = two.SCHEDULE.alpha_bar[t]
    return spread(a.sqrt() * x0 + (1 - a).sqrt() * drawn(300, seed=3), t).mean()


def noise_levels(name: str) -> Figure:
    """Draw one batch of t, or many for importance, beside the probability."""
    figure, (panel,) = panels(f"Noise levels {name}")
    if name == "importance":
        history = _history()
        t = draw_noise_levels(name, T, BatchDraws.of(0, 0, 100_000), history).t
        panel.hist(t, bins=50, range=(0, T), density=True, color=GREY, label="100,000 draws of t")
        p = history.probabilities()
        panel.semilogy(
            torch.arange(1, T + 1), p, color=ACCENT, label="p_t, by the loss of the bound"
        )
        panel.set(xlabel="t", ylabel="probability")
        panel.legend()
        return figure
    if name == "normal":
        return _normal(figure, panel)
    t = draw_noise_levels(name, T, BatchDraws.of(0, 0, BATCH)).t
    panel.hist(t, bins=BINS, range=(0, T), color=GREY, rwidth=0.9)
    panel.axhline(BATCH / BINS, color="0.5", linestyle="--", linewidth=1)
    panel.plot(t, torch.full((BATCH,), -0.5), "|", color=ACCENT, markersize=10)
    panel.set(xlabel=f"t of a batch of {BATCH}", ylabel="count", ylim=(-1, 9))
    return figure


def _normal(figure: Figure, panel: Axes) -> Figure:
    """Draw densities over the log-SNR: of draws, of both papers, and of uniform timesteps."""
    log_snr = two.SCHEDULE.log_snr(torch.arange(1, T + 1))
    p = normal(two.SCHEDULE)
    t = draw_noise_levels("normal", T, BatchDraws.of(0, 0, 100_000), p=p).t
    panel.hist(log_snr[t - 1], bins=50, density=True, color=GREY, label="100,000 draws of t")
    widths = -cells(two.SCHEDULE).diff()
    panel.plot(log_snr, p / widths, color=ACCENT, label="mean 2.4, std 2.4, as EDM")
    of_flow = normal(two.SCHEDULE, mean=0.0, std=2.0) / widths
    panel.plot(log_snr, of_flow, color=SECOND, label="mean 0, std 2, as a logit-normal flow")
    panel.plot(log_snr, 1 / (T * widths), ":", color="0.4", label="uniform, linear schedule")
    panel.set(xlabel="log SNR (noise on the left, image on the right)", ylabel="density")
    panel.set_ylim(0, 0.25)
    panel.legend(loc="upper left")
    return figure


def _history() -> LossHistory:
    """Return ten losses of each t, those of the bound under the perfect denoiser."""
    snr = two.SCHEDULE.alpha_bar / (1 - two.SCHEDULE.alpha_bar)
    history = LossHistory.empty(T)
    for t in range(1, T + 1):
        before = max(t - 1, 1)  # at t = 1 the SNR before is infinite
        loss = (snr[before] - snr[max(t, 2)]) / 2 * _error(t)
        history.add(torch.full((KEPT,), t), loss.expand(KEPT))
    return history


def offset_noise() -> Figure:
    """Draw the mean of the noise in a channel of 28×28, without and with an offset."""
    figure, (panel,) = panels("Offset noise: the mean of one channel of ε, 28×28 pixels")
    mean = torch.linspace(-0.4, 0.4, 401)
    for strength, colour in ((0.0, GREY), (0.05, SECOND), (0.1, ACCENT)):
        std = (1 / 28**2 + strength**2) ** 0.5
        density = torch.exp(-(mean**2) / (2 * std**2)) / (std * (2 * torch.pi) ** 0.5)
        panel.plot(mean, density, color=colour, label=f"strength {strength:g}: std {std:.3f}")
    panel.set(xlabel="mean of the channel", ylabel="density")
    panel.legend()
    return figure


def self_conditioning() -> Figure:
    """Draw the distance of the previous x̂_0, and of zeros, from that of this step."""
    figure, (panel,) = panels("Self-conditioning: distance of self_cond from the predicted x_0")
    x = walk("ddim", drawn(300), 50)
    t = sampling_timesteps(two.SCHEDULE, 50, "log_snr")
    x0 = torch.stack([two.denoise(x_t, u).x0 for x_t, u in zip(x[:-1], t, strict=True)])
    share = torch.tensor(t) / T
    size = x0.flatten(2).norm(dim=2).mean(dim=1)
    news = (x0[1:] - x0[:-1]).flatten(2).norm(dim=2).mean(dim=1)
    panel.plot(share, size, color="0.6", label="zeros")
    panel.plot(share[1:], news, ".-", color=ACCENT, label="x_0 of the previous step, 50 steps")
    panel.set(xlabel="t/T (sampling runs from right to left)", ylabel="mean distance")
    panel.legend()
    return figure


class Sees(UNet):
    """A network with patches of 2×2 that stores its input."""

    def __init__(self) -> None:
        super().__init__(1, 0, False, False, 2)

    def _predict(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        self.seen = x
        return x


def patches() -> Figure:
    """Draw an image, and the input of a network with patches of 2×2."""
    figure, axes = panels("Patches: four pixels become four channels", 5, height=1.9)
    row, column = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    image = (-(((row - 7) ** 2 + (column - 8) ** 2).sqrt() - 5).square() / 3).exp()  # a ring
    network = Sees()
    network(image[None, None], torch.zeros(1))
    titles = "16×16", *(f"channel {i}" for i in range(4))
    for panel, pixels, title in zip(axes, (image, *network.seen[0]), titles, strict=True):
        panel.imshow(pixels, cmap="gray_r", vmin=0, vmax=1)
        panel.set_xticks([])
        panel.set_yticks([])
        panel.set_title(title)
    for edge in range(0, 17, 2):
        axes[0].axhline(edge - 0.5, color=ACCENT, linewidth=0.5)
        axes[0].axvline(edge - 0.5, color=ACCENT, linewidth=0.5)
    return figure


def augmentation() -> Figure:
    """Draw one image, each of its transformations alone, and all of them at once."""
    image = torch.full((48, 48), 255, dtype=torch.uint8)
    image[8:40, 14:21] = image[8:15, 14:36] = image[22:28, 14:30] = 0  # an F
    image[34:40, 30:36] = 150
    values = {
        "the image": {},
        "x_flip": {0: 1},
        "y_flip": {1: 1},
        "scaling": {2: -2},
        "rotation": {3: 0.7},
        "anisotropy": {4: 0.6, 5: 1.7},
        "translation": {6: 0.9, 7: -0.6},
        "all": {0: 1, 2: -1, 3: 0.4, 4: 1.2, 5: -1, 6: 0.4, 7: 0.5},
    }
    a = np.zeros((len(values), 8))
    for row, changed in enumerate(values.values()):
        a[row, list(changed)] = list(changed.values())
    images = augment(image.repeat(len(values), 1, 1, 1), a, np.full(1, 255, np.uint8))
    figure, axes = panels("Augmentation: one image, transformed", 8, height=1.3)
    for panel, (pixels,), title in zip(axes, images, values, strict=True):
        panel.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        panel.set_xticks([])
        panel.set_yticks([])
        panel.set_title(title)
        panel.spines[:].set_visible(True)
        panel.title.set_size(8)
    return figure
