"""Estimate x_0 from x_t: a network and a schedule make a denoiser."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from fromnoise.diffusion.schedule import NoiseSchedule, Time, on_device

Kind = Literal["eps", "x0", "v", "flow", "edm"]
SIGMA_DATA = 0.5  # the standard deviation of images in [−1, 1], as in Karras et al. 2022


@dataclass(frozen=True)
class Prediction:
    """A prediction at (x_t, t): an estimate of x_0, ε and v, whichever the network predicts.

    With α = √ᾱ_t and σ = √(1−ᾱ_t), the `value` of each kind is affine in x_0 at one x_t:

        eps   ε, as x_t = α x_0 + σ ε
        x0    x_0
        v     v = α ε − σ x_0 (Salimans and Ho 2022, arXiv:2202.00512, appendix D)
        flow  u = ε − x_0, the velocity of (1−τ) x_0 + τ ε (Lipman et al. 2023, arXiv:2210.02747)
        edm   F = (σ x_0 − α σ_d² ε)/(n σ_d), n = √(σ² + α² σ_d²): what the best affine estimate
              from x_t leaves of x_0, scaled to unit variance, for images of the standard deviation
              σ_d = `sigma_data` (Karras et al. 2022, arXiv:2206.00364, Eq. 7);
              with σ_d = 1 it is −v

    `value` and `x_t` are (B,C,H,W); `alpha` and `sigma` broadcast against them.

    A network with a learned variance also gives one of these, (B,C,H,W); see `samplers.step_std`.
    `fraction`: the position of log σ² between log β̃ (at 0) and log β (at 1); it may lie outside.
    `log_variance`: log σ² itself, of the step from t to t−1.
    """

    kind: Kind
    value: Tensor
    x_t: Tensor
    alpha: Tensor
    sigma: Tensor
    fraction: Tensor | None = None
    log_variance: Tensor | None = None
    sigma_data: float = SIGMA_DATA  # of the kind edm

    @cached_property
    def x0(self) -> Tensor:
        """Return x̂_0 = (x_t − σ ε̂)/α (Eq. 15) = α x_t − σ v̂.

        For flow it is (x_t − σ û)/(α + σ), and for edm (α σ_d² x_t + σ σ_d n F̂)/n².
        """
        match self.kind:
            case "x0":
                return self.value
            case "eps":
                return (self.x_t - self.sigma * self.value) / self.alpha
            case "v":
                return self.alpha * self.x_t - self.sigma * self.value
            case "flow":
                return (self.x_t - self.sigma * self.value) / (self.alpha + self.sigma)
            case "edm":
                n, std = std_of_x_t(self.alpha, self.sigma, self.sigma_data), self.sigma_data
                of_x_t, of_value = self.alpha * std**2 / n**2, self.sigma * std / n
                return of_x_t * self.x_t + of_value * self.value

    @cached_property
    def eps(self) -> Tensor:
        """Return ε̂ = (x_t − α x̂_0)/σ = σ x_t + α v̂. Needs t ≥ 1.

        For flow it is (x_t + α û)/(α + σ), and for edm (σ x_t − α σ_d n F̂)/n².
        """
        match self.kind:
            case "x0":
                return (self.x_t - self.alpha * self.value) / self.sigma
            case "eps":
                return self.value
            case "v":
                return self.sigma * self.x_t + self.alpha * self.value
            case "flow":
                return (self.x_t + self.alpha * self.value) / (self.alpha + self.sigma)
            case "edm":
                n = std_of_x_t(self.alpha, self.sigma, self.sigma_data)
                of_x_t, of_value = self.sigma / n**2, self.alpha * self.sigma_data / n
                return of_x_t * self.x_t - of_value * self.value

    @cached_property
    def v(self) -> Tensor:
        """Return v̂ = α ε̂ − σ x̂_0."""
        return self.value if self.kind == "v" else self.alpha * self.eps - self.sigma * self.x0

    def with_x0(self, x0: Tensor) -> "Prediction":
        """Replace x̂_0 at the same (x_t, t); ε̂ and v̂ follow from the new one."""
        return replace(self, kind="x0", value=x0)

    def value_of(self, x0: Tensor, eps: Tensor) -> Tensor:
        """Return the value of this kind for x_0 and ε instead of the estimates. All (B,C,H,W)."""
        match self.kind:
            case "x0":
                return x0
            case "eps":
                return eps
            case "v":
                return self.alpha * eps - self.sigma * x0
            case "flow":
                return eps - x0
            case "edm":
                std = self.sigma_data
                n = std_of_x_t(self.alpha, self.sigma, std)
                return self.sigma / (n * std) * x0 - self.alpha * std / n * eps


def std_of_x_t(alpha: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """Return n = √(σ² + α² σ_d²), the standard deviation of x_t if that of the images is σ_d."""
    return (sigma.square() + (alpha * sigma_data).square()).sqrt()


Reading = Literal["range", "log"]
"""The meaning of a learned variance's channels: a place between β̃ and β, or log σ² itself."""

Denoise = Callable[[Tensor, Time], Prediction]
"""(x_t, t) → Prediction: what samplers call. Guidance wraps one of these into another."""


def check_prediction(schedule: NoiseSchedule, prediction: str) -> None:
    """Raise ValueError for the prediction `eps` if ᾱ_T = 0: x_T is then ε, without any x_0."""
    if prediction == "eps" and schedule.alpha_bar[-1] == 0:
        raise ValueError(
            "ᾱ_T is 0 in this schedule, so that x_0 does not follow from ε at t = T. "
            "Set diffusion.prediction to v, x0, flow or edm, or use a schedule with ᾱ_T > 0."
        )


def check_sigma_data(sigma_data: float) -> None:
    """Raise ValueError unless the standard deviation of the images is above 0."""
    if not sigma_data > 0:
        raise ValueError(f"prediction.sigma_data of edm must be above 0, not {sigma_data:g}")


class Denoiser(nn.Module):
    """Interpret network(x_t, t−1, cond) as the quantity that it was trained to predict.

    The network sees t−1 ∈ {0..T−1}, as in most published code, so that its weights load unchanged.
    With the prediction `edm` it sees x_t/n instead of x_t, n as in `Prediction`.
    If it returns 2C channels for C, the first C are the prediction, and the second C are raw
    values of the variance. With the reading `range`, (raw + 1)/2 is the `fraction` (Nichol and
    Dhariwal 2021, arXiv:2102.09672, Eq. 15). With `log`, raw is the `log_variance` ("learned" in
    the code of that paper).

    With self-conditioning (Chen, Zhang and Hinton 2022, arXiv:2208.04202, section 3) the network
    takes 2C channels: x_t, then `self_cond`: zeros, or an earlier x̂_0 of its own. It learns both:
    in training half of the images get the x̂_0 of a first pass, through which no gradient flows. In
    sampling it gets the x̂_0 of the step before, at no cost. The likelihood is computed with zeros.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        prediction: Kind = "eps",
        variance_reading: Reading = "range",
        *,
        self_conditioning: bool | None = None,
        sigma_data: float = SIGMA_DATA,
    ) -> None:
        """self_conditioning: None reads the network's attribute. sigma_data: of `edm`.

        Raises as `check_prediction` and `check_sigma_data`.
        """
        super().__init__()
        check_prediction(schedule, prediction)
        check_sigma_data(sigma_data)
        self.network = network
        self.schedule = schedule
        self.prediction: Kind = prediction
        self.sigma_data = sigma_data
        self.variance_reading: Reading = variance_reading
        if self_conditioning is None:  # a wrapper lacks the attribute of the network in it
            known = (m for m in network.modules() if hasattr(m, "self_conditioning"))
            self_conditioning = bool(getattr(next(known, None), "self_conditioning", False))
        self.self_conditioning = self_conditioning

    def with_network(self, network: nn.Module, kind: "type[Denoiser] | None" = None) -> "Denoiser":
        """Return the same denoiser around another network, such as one with averaged weights."""
        return (kind or Denoiser)(
            network,
            self.schedule,
            self.prediction,
            self.variance_reading,
            self_conditioning=self.self_conditioning,
            sigma_data=self.sigma_data,
        )

    def forward(
        self, x_t: Tensor, t: Time, cond: Tensor | None = None, self_cond: Tensor | None = None
    ) -> Prediction:
        """x_t: (B,C,H,W); t ∈ {1..T}: int or (B,); cond: (B,K) in {−1, 0, +1}, or None.

        self_cond: like x_t, clamped here to [−1, 1]; None is zeros, the absent estimate. Raises
        ValueError for a self_cond without self-conditioning, a t outside 1..T, and an output that
        is neither (B,C,H,W) nor (B,2C,H,W).
        """
        t, alpha, sigma = self.schedule.shares(t, x_t, first=1)
        index = (
            t.expand(len(x_t)) - 1
            if isinstance(t, Tensor)
            else torch.full((len(x_t),), t - 1, device=x_t.device)
        )
        inputs = x_t
        if self.prediction == "edm":
            inputs = x_t / std_of_x_t(alpha, sigma, self.sigma_data)
        if self.self_conditioning:
            known = torch.zeros_like(x_t) if self_cond is None else self_cond.clamp(-1, 1)
            inputs = torch.cat([inputs, known], dim=1)  # (B,2C,H,W)
        elif self_cond is not None:
            raise ValueError(
                "this network takes no self_cond. Build it with network.self_conditioning = true."
            )
        output = self.network(inputs, index, cond)
        channels = x_t.shape[1]
        learned = (len(x_t), 2 * channels, *x_t.shape[2:])  # the shape with a learned variance
        shape = getattr(output, "shape", None)
        if shape not in (x_t.shape, learned):
            returned = type(output).__name__ if shape is None else tuple(shape)
            raise ValueError(
                f"{type(self.network).__name__} returned {returned} for x_t of "
                f"{tuple(x_t.shape)}. Return (B,C,H,W), or (B,2C,H,W) with learned_variance."
            )
        output = output.to(x_t.dtype)  # half-precision networks still step in x_t's precision
        raw = output[:, channels:] if shape == learned else None
        in_range = self.variance_reading == "range"
        return Prediction(
            kind=self.prediction,
            value=output if raw is None else output[:, :channels],
            x_t=x_t,
            alpha=alpha,
            sigma=sigma,
            fraction=(raw + 1) / 2 if raw is not None and in_range else None,
            log_variance=None if in_range else raw,
            sigma_data=self.sigma_data,
        )


@torch.no_grad()
def estimate_x0(
    denoiser: Denoiser, x_t: Tensor, t: Tensor, cond: Tensor | None, self_conditioned: Tensor
) -> Tensor:
    """Return the x̂_0 of a pass without self_cond for some images, and zeros for the others.

    x_t and the result: (B,C,H,W). t ∈ {1..T}: (B,). self_conditioned: bool (B,), the images to
    compute it for.
    """
    some = self_conditioned.nonzero().squeeze(1)
    self_cond = torch.zeros_like(x_t)
    if len(some):
        there = on_device(some, x_t.device)
        some_cond = None if cond is None else on_device(cond, x_t.device)[there]
        self_cond[there] = denoiser(x_t[there], on_device(t, x_t.device)[there], some_cond).x0
    return self_cond


def with_self_conditioning(denoiser: Denoiser) -> Denoiser:
    """Return a denoiser that conditions each call on the x̂_0 of the call before.

    Make one for each trajectory from noise to image. A change of the batch size, as at the start
    of a guidance interval, clears its memory. Without self-conditioning, returns `denoiser` itself.
    """
    if not denoiser.self_conditioning:
        return denoiser
    return denoiser.with_network(denoiser.network, SelfConditionedDenoiser)


class SelfConditionedDenoiser(Denoiser):
    """A denoiser with the memory of one x̂_0."""

    _last: Tensor | None = None

    def forward(
        self, x_t: Tensor, t: Time, cond: Tensor | None = None, self_cond: Tensor | None = None
    ) -> Prediction:
        """As `Denoiser.forward`; a self_cond given here overrides the remembered one."""
        if self_cond is None and self._last is not None and self._last.shape == x_t.shape:
            self_cond = self._last
        prediction = super().forward(x_t, t, cond, self_cond)
        self._last = prediction.x0.detach()
        return prediction
