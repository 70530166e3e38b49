"""A network and a schedule make a denoiser: given x_t and t, what was the image?"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from fromnoise.diffusion.schedule import NoiseSchedule, Time, per_image

Kind = Literal["eps", "x0", "v"]


@dataclass(frozen=True)
class Prediction:
    """One estimate at (x_t, t), readable as x_0, as ε or as v, whichever of them was predicted.

    All three say the same thing, since x_t = α x_0 + σ ε and v = α ε − σ x_0
    (Salimans and Ho 2022, arXiv:2202.00512, appendix D), with α = √ᾱ_t and σ = √(1−ᾱ_t).
    `value` and `x_t` are (B,C,H,W); `alpha` and `sigma` broadcast against them.

    `fraction`, (B,C,H,W), is there when the network has learned the variance of a step too: where
    log σ² lies between log β̃ (at 0) and log β (at 1), see `samplers.step_std`. It may lie outside.
    """

    kind: Kind
    value: Tensor
    x_t: Tensor
    alpha: Tensor
    sigma: Tensor
    fraction: Tensor | None = None

    @cached_property
    def x0(self) -> Tensor:
        """x̂_0 = (x_t − σ ε̂)/α (Eq. 15) = α x_t − σ v̂."""
        match self.kind:
            case "x0":
                return self.value
            case "eps":
                return (self.x_t - self.sigma * self.value) / self.alpha
            case "v":
                return self.alpha * self.x_t - self.sigma * self.value

    @cached_property
    def eps(self) -> Tensor:
        """ε̂ = (x_t − α x̂_0)/σ = σ x_t + α v̂. Needs t ≥ 1."""
        match self.kind:
            case "x0":
                return (self.x_t - self.alpha * self.value) / self.sigma
            case "eps":
                return self.value
            case "v":
                return self.sigma * self.x_t + self.alpha * self.value

    @cached_property
    def v(self) -> Tensor:
        """v̂ = α ε̂ − σ x̂_0."""
        return self.value if self.kind == "v" else self.alpha * self.eps - self.sigma * self.x0

    def with_x0(self, x0: Tensor) -> "Prediction":
        """The same place (x_t, t) with another x̂_0, from which ε̂ and v̂ then follow."""
        return replace(self, kind="x0", value=x0)


Denoise = Callable[[Tensor, Time], Prediction]
"""What a sampler needs: (x_t, t) → Prediction. Guidance wraps one of these into another."""


class Denoiser(nn.Module):
    """network(x_t, t−1, cond) read as the quantity it was trained to predict.

    The network sees t−1 ∈ {0..T−1}, as in most published code, so that its weights load unchanged.
    Where it returns 2C channels for C, the first C are the prediction, and the second C, raw, are
    `fraction` = (raw + 1)/2 (Nichol and Dhariwal 2021, arXiv:2102.09672, Eq. 15).
    """

    def __init__(
        self, network: nn.Module, schedule: NoiseSchedule, prediction: Kind = "eps"
    ) -> None:
        """Raises ValueError for ε where ᾱ_T = 0: x_T then is ε, and says nothing of x_0."""
        super().__init__()
        if prediction == "eps" and schedule.alpha_bar[-1] == 0:
            raise ValueError(
                "this schedule leaves nothing of the image at t = T (ᾱ_T = 0), where a predicted "
                "ε says nothing of x_0; set diffusion.prediction to v or x0, or use a schedule "
                "with ᾱ_T > 0"
            )
        self.network = network
        self.schedule = schedule
        self.prediction: Kind = prediction

    def forward(self, x_t: Tensor, t: Time, cond: Tensor | None = None) -> Prediction:
        """x_t: (B,C,H,W); t ∈ {1..T}: int or (B,); cond: (B,K) in {−1, 0, +1}, or None."""
        index = torch.as_tensor(t, device=x_t.device).expand(len(x_t)) - 1
        # half-precision networks still step in x_t's precision
        output = self.network(x_t, index, cond).to(x_t.dtype)
        channels = x_t.shape[1]
        learned = output.shape[1] == 2 * channels
        return Prediction(
            kind=self.prediction,
            value=output[:, :channels] if learned else output,
            x_t=x_t,
            alpha=per_image(self.schedule.alpha(t), x_t),
            sigma=per_image(self.schedule.sigma(t), x_t),
            fraction=(output[:, channels:] + 1) / 2 if learned else None,
        )
