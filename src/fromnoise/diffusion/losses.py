"""What training minimises: a loss of an error, weighted over t, or the bound itself.

Weights are functions of the signal-to-noise ratio and live in x_0 space: w is what the square of
the error of x̂_0 counts at t. What the network predicts contributes one factor, `own`, by which the
square of its error is larger than that of x̂_0 (`OWN`), so that

    loss = w(snr, own)/own · loss(value, target)

has for `mse` the same gradient with respect to x̂_0 whatever is predicted. The factor is that of
squares; under `l1` and `huber` the quotient weighs times in the same way, but as the size of an
error grows by √own alone, what is predicted still matters there.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoiser, Kind, Prediction
from fromnoise.diffusion.likelihood import term_of
from fromnoise.diffusion.schedule import NoiseSchedule, Time, on_device
from fromnoise.diffusion.self_conditioning import estimate_x0


def mse(predicted: Tensor, target: Tensor) -> Tensor:
    """The squared error of each element."""
    return (predicted - target).square()


def l1(predicted: Tensor, target: Tensor) -> Tensor:
    """The absolute error of each element, smallest at the median instead of the mean."""
    return (predicted - target).abs()


def huber(predicted: Tensor, target: Tensor) -> Tensor:
    """e²/2 where the error |e| is at most δ = 1, and |e| − 1/2 beyond (Huber 1964, δ = 1)."""
    e = (predicted - target).abs()
    return torch.where(e <= 1, e.square() / 2, e - 0.5)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": mse, "l1": l1, "huber": huber}
VLB = "vlb"  # the loss that is no loss: T·L_{t−1}, see `Objective`


def simple(snr: Tensor, own: Tensor) -> Tensor:
    """w = own: the plain error of what is predicted (for ε, L_simple of Eq. 14)."""
    return own


def snr(snr: Tensor, own: Tensor) -> Tensor:
    """w = SNR: the plain error of ε, whatever is predicted."""
    return snr


def min_snr(snr: Tensor, own: Tensor, *, gamma: float = 5.0) -> Tensor:
    """w = min(SNR, γ): no more than γ for times with little noise. γ > 0, or ValueError.

    Hang et al. 2023 (arXiv:2303.09556).
    """
    if gamma <= 0:
        raise ValueError(f"weighting.gamma of min_snr must be above 0, not {gamma:g}")
    return snr.clamp(max=gamma)


def truncated_snr(snr: Tensor, own: Tensor) -> Tensor:
    """w = max(SNR, 1): the larger of the errors of x_0 and of ε.

    Salimans and Ho 2022 (arXiv:2202.00512), section 4.
    """
    return snr.clamp(min=1)


def p2(snr: Tensor, own: Tensor, *, gamma: float = 1.0, k: float = 1.0) -> Tensor:
    """w = SNR/(k + SNR)^γ: less for times with little noise. γ ≥ 0 and k > 0, or ValueError.

    Choi et al. 2022 (arXiv:2204.00227), there as a factor 1/(k + SNR)^γ of the error of ε.
    """
    if gamma < 0 or k <= 0:
        raise ValueError(
            f"weighting.gamma of p2 must be at least 0 and k above 0, not {gamma:g} and {k:g}"
        )
    return snr / (k + snr) ** gamma


Weighting = Callable[[Tensor, Tensor], Tensor]
"""(snr, own), both (B,) and above 0 → w in x_0 space, (B,)."""

WEIGHTINGS: dict[str, Callable[..., Tensor]] = {
    "simple": simple,
    "snr": snr,
    "min_snr": min_snr,
    "truncated_snr": truncated_snr,
    "p2": p2,
}

OWN: dict[Kind, Callable[[Tensor], Tensor]] = {
    "eps": lambda snr: snr,  # ε − ε̂ = −(α/σ)(x_0 − x̂_0)
    "v": lambda snr: snr + 1,  # v − v̂ = −(x_0 − x̂_0)/σ
    "x0": torch.ones_like,
}
"""The square of the error of what is predicted over that of x̂_0, as a function of the SNR."""


@dataclass(frozen=True)
class Objective:
    """L_simple = E_{t, x_0, ε} ‖ε − ε_θ(√ᾱ_t x_0 + √(1−ᾱ_t) ε, t)‖² (Eq. 14), as a mean.

    The paper's sum over pixels is a mean over all elements here, so that the loss depends neither
    on the batch nor on the image size. A denoiser that predicts x_0 or v is compared with that.
    `loss` may be another of LOSSES, and `weighting` another of WEIGHTINGS with its options set.

    With `vlb_weight` λ > 0 it is L_hybrid = L_simple + λ·T·L_{t−1} (Nichol and Dhariwal 2021,
    arXiv:2102.09672, Eq. 16, there with λ = 0.001): T times the term of the bound at a uniform t
    estimates the whole bound. That term, in bits per dimension as in their code, trains the learned
    variance alone, since it sees x̂_0 detached; so the network must have learned_variance.

    With the loss `vlb` it is T·L_{t−1} alone, L_vlb of that paper (Eqs. 4–7), and nothing is
    detached: the mean learns from the bound too. Its times come with weights of their own, so that
    neither `weighting` nor `vlb_weight` applies.

    Raises ValueError for what cannot be together, a loss that does not exist, and options of a
    weighting that are out of range.
    """

    loss: str = "mse"
    vlb_weight: float = 0.0
    weighting: Weighting = simple

    def __post_init__(self) -> None:
        known = [*LOSSES, VLB]
        if self.loss not in known:
            raise ValueError(f"loss {self.loss!r} is unknown; known: {', '.join(known)}")
        if self.vlb_weight < 0:
            raise ValueError(f"vlb_weight must be at least 0, not {self.vlb_weight:g}")
        if self.loss == VLB and (self.vlb_weight > 0 or self.weighting is not simple):
            raise ValueError(
                "loss is vlb, the bound with its own weights, to which neither weighting nor "
                "vlb_weight applies; leave both out, or choose another loss"
            )
        self.weighting(torch.ones(1), torch.ones(1))  # a wrong option is refused here already

    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        eps: Tensor,
        t: Tensor,
        cond: Tensor | None = None,
        *,
        self_conditioned: Tensor | None = None,
    ) -> Tensor:
        """The loss of each image, (B,), in the precision of x0.

        x0, eps: (B,C,H,W), where the bound is asked for with x0 on 256 levels in [−1, 1];
        t ∈ {1..T}: (B,). self_conditioned: bool (B,), the images to which a denoiser that takes a self_cond is
        given one, see `self_conditioning.estimate_x0`.
        Raises ValueError where the bound is asked for and the network has no learned variance.
        """
        schedule = denoiser.schedule
        x_t = schedule.add_noise(x0, eps, t)
        self_cond = (
            None
            if self_conditioned is None
            else estimate_x0(denoiser, x_t, t, cond, self_conditioned)
        )
        prediction = denoiser(x_t, t, cond, self_cond)
        if self.loss == VLB:
            return schedule.T * term_of(prediction, schedule, x0, t, variance="learned")
        target = _target(prediction, x0, eps)
        loss = LOSSES[self.loss](prediction.value, target).flatten(1).mean(dim=1)
        weight = _weight(self.weighting, schedule, t, prediction.kind)
        loss = on_device(weight.to(loss.dtype), loss.device) * loss
        if self.vlb_weight > 0:
            fixed_mean = replace(prediction, value=prediction.value.detach())
            bound = term_of(fixed_mean, schedule, x0, t, variance="learned")
            loss = loss + self.vlb_weight * schedule.T * bound
        return loss


def _target(prediction: Prediction, x0: Tensor, eps: Tensor) -> Tensor:
    match prediction.kind:
        case "eps":
            return eps
        case "x0":
            return x0
        case "v":
            return prediction.alpha * eps - prediction.sigma * x0


def _weight(weighting: Weighting, schedule: NoiseSchedule, t: Time, kind: Kind) -> Tensor:
    """w/own at t. Where nothing of the image is left, the SNR is the least positive number."""
    ratio = schedule.snr(t).clamp(min=torch.finfo(torch.float32).tiny)
    own = OWN[kind](ratio)
    return weighting(ratio, own) / own
