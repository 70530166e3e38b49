"""A network and a schedule make a denoiser: given x_t and t, what was the image?"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from fromnoise.diffusion.schedule import NoiseSchedule, Time, on_device, per_image

Kind = Literal["eps", "x0", "v"]


@dataclass(frozen=True)
class Prediction:
    """One estimate at (x_t, t), readable as x_0, as ε or as v, whichever of them was predicted.

    All three say the same thing, since x_t = α x_0 + σ ε and v = α ε − σ x_0
    (Salimans and Ho 2022, arXiv:2202.00512, appendix D), with α = √ᾱ_t and σ = √(1−ᾱ_t).
    `value` and `x_t` are (B,C,H,W); `alpha` and `sigma` broadcast against them.

    When the network has learned the variance of a step too, one of two is there, (B,C,H,W), see
    `samplers.step_std`. `fraction`: where log σ² lies between log β̃ (at 0) and log β (at 1); it may
    lie outside. `log_variance`: log σ² itself, of the step from t to t−1.
    """

    kind: Kind
    value: Tensor
    x_t: Tensor
    alpha: Tensor
    sigma: Tensor
    fraction: Tensor | None = None
    log_variance: Tensor | None = None

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


Reading = Literal["range", "log"]
"""What the channels of a learned variance say: a place between β̃ and β, or log σ² itself."""

Denoise = Callable[[Tensor, Time], Prediction]
"""What a sampler needs: (x_t, t) → Prediction. Guidance wraps one of these into another."""


def check_prediction(schedule: NoiseSchedule, prediction: Kind) -> None:
    """Raises ValueError for ε where ᾱ_T = 0: x_T then is ε, and says nothing of x_0."""
    if prediction == "eps" and schedule.alpha_bar[-1] == 0:
        raise ValueError(
            "this schedule leaves nothing of the image at t = T (ᾱ_T = 0), where a predicted ε "
            "says nothing of x_0; set diffusion.prediction to v or x0, or use a schedule with "
            "ᾱ_T > 0"
        )


class Denoiser(nn.Module):
    """network(x_t, t−1, cond) read as the quantity it was trained to predict.

    The network sees t−1 ∈ {0..T−1}, as in most published code, so that its weights load unchanged.
    Where it returns 2C channels for C, the first C are the prediction. The second C, raw, are with
    the reading `range` the `fraction` (raw + 1)/2 (Nichol and Dhariwal 2021, arXiv:2102.09672,
    Eq. 15), and with `log` the `log_variance` (the same paper's code, there "learned").

    A network whose `self_conditioning` is true takes 2C channels: x_t and, below it, a self_cond at x_0,
    an earlier x̂_0 (Chen et al. 2022, arXiv:2208.04202, section 3). See `self_conditioning.py`.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        prediction: Kind = "eps",
        variance_reading: Reading = "range",
    ) -> None:
        """Raises ValueError as `check_prediction`."""
        super().__init__()
        check_prediction(schedule, prediction)
        self.network = network
        self.schedule = schedule
        self.prediction: Kind = prediction
        self.variance_reading: Reading = variance_reading

    @property
    def self_conditioning(self) -> bool:
        """Whether the network was made for self-conditioning."""
        return getattr(self.network, "self_conditioning", False)

    def with_network(self, network: nn.Module) -> "Denoiser":
        """The same reading of another network, as of averaged weights."""
        return Denoiser(network, self.schedule, self.prediction, self.variance_reading)

    def forward(
        self, x_t: Tensor, t: Time, cond: Tensor | None = None, self_cond: Tensor | None = None
    ) -> Prediction:
        """x_t: (B,C,H,W); t ∈ {1..T}: int or (B,); cond: (B,K) in {−1, 0, +1}, or None.

        self_cond: like x_t, clamped here to [−1, 1]; None is zeros, which mean "nothing known". Raises
        ValueError for a self_cond where the network takes none, and for another t.
        """
        told = torch.as_tensor(t, device="cpu")
        outside = (told < 1) | (told > self.schedule.T)
        if outside.any():
            raise ValueError(
                f"t must lie in 1..{self.schedule.T}, not {int(told[outside][0])}: what a network "
                "is asked about is noisy, and t = 0 is the clean image"
            )
        t_there = on_device(torch.as_tensor(t), x_t.device)
        index = t_there.expand(len(x_t)) - 1
        seen = x_t
        if self.self_conditioning:
            known = torch.zeros_like(x_t) if self_cond is None else self_cond.clamp(-1, 1)
            seen = torch.cat([x_t, known], dim=1)  # (B,2C,H,W)
        elif self_cond is not None:
            raise ValueError(
                "this network takes no self_cond; build it with network.self_conditioning = true"
            )
        # half-precision networks still step in x_t's precision
        output = self.network(seen, index, cond).to(x_t.dtype)
        channels = x_t.shape[1]
        raw = output[:, channels:] if output.shape[1] == 2 * channels else None
        in_range = self.variance_reading == "range"
        return Prediction(
            kind=self.prediction,
            value=output if raw is None else output[:, :channels],
            x_t=x_t,
            alpha=per_image(self.schedule.alpha(t), x_t),
            sigma=per_image(self.schedule.sigma(t), x_t),
            fraction=(raw + 1) / 2 if raw is not None and in_range else None,
            log_variance=None if in_range else raw,
        )
