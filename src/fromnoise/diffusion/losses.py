"""The training objective: a loss weighted over t, or the variational bound itself.

A loss is a function (predicted, target) → the loss of each element, all (B,C,H,W), at least 0 and
differentiable. It has no options. A weighting is a function (snr, own) → w ≥ 0, each (B,), with
finite snr and own above 0. A ValueError for an option out of range begins with its key, as in
`weighting.gamma`. To add one, see CONTRIBUTING.md.

Weights are functions of the signal-to-noise ratio in x_0 space: w is the weight of the squared
error of x̂_0 at t. `own` (`OWN`) is the squared error of the prediction over that of x̂_0, so that

    loss = w(snr, own)/own · loss(value, target)

has for `mse` the same gradient with respect to x̂_0 for every prediction. The factor is that of
squares. Under `l1` and `huber` the quotient weights the times in the same way, but an error grows
only by √own, so that the choice of prediction still matters there.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import SIGMA_DATA, Denoiser, check_sigma_data
from fromnoise.diffusion.likelihood import term_of
from fromnoise.diffusion.schedule import per_image


def mse(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the squared error of each element."""
    return (predicted - target).square()


def l1(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the absolute error of each element, smallest at the median instead of the mean."""
    return (predicted - target).abs()


def huber(predicted: Tensor, target: Tensor) -> Tensor:
    """Return e²/2 for errors |e| ≤ δ = 1, and |e| − 1/2 beyond (Huber 1964)."""
    e = (predicted - target).abs()
    return torch.where(e <= 1, e.square() / 2, e - 0.5)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": mse, "l1": l1, "huber": huber}
VLB = "vlb"  # T·L_{t−1}, which is not a loss of elements; see `Objective`


def simple(snr: Tensor, own: Tensor) -> Tensor:
    """Return w = own: the unweighted error of the prediction (for ε, L_simple of Eq. 14)."""
    return own


def snr(snr: Tensor, own: Tensor) -> Tensor:
    """Return w = SNR: the unweighted error of ε, for every prediction."""
    return snr


def min_snr(snr: Tensor, own: Tensor, *, gamma: float = 5.0) -> Tensor:
    """Return w = min(SNR, γ): at most γ for times with little noise. γ > 0, or ValueError.

    Hang et al. 2023 (arXiv:2303.09556).
    """
    if gamma <= 0:
        raise ValueError(f"weighting.gamma of min_snr must be above 0, not {gamma:g}")
    return snr.clamp(max=gamma)


def truncated_snr(snr: Tensor, own: Tensor) -> Tensor:
    """Return w = max(SNR, 1): the larger of the errors of x_0 and of ε.

    Salimans and Ho 2022 (arXiv:2202.00512), section 4.
    """
    return snr.clamp(min=1)


def p2(snr: Tensor, own: Tensor, *, gamma: float = 1.0, k: float = 1.0) -> Tensor:
    """Return w = SNR/(k + SNR)^γ: less for little noise. γ ≥ 0 and k > 0, or ValueError.

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
    each.__name__: each for each in (simple, snr, min_snr, truncated_snr, p2)
}


def eps(snr: Tensor) -> Tensor:
    """Return own = SNR of the noise ε, since ε − ε̂ = −(α/σ)(x_0 − x̂_0)."""
    return snr


def v(snr: Tensor) -> Tensor:
    """Return own = SNR + 1 of v = α ε − σ x_0, since v − v̂ = −(x_0 − x̂_0)/σ."""
    return snr + 1


def x0(snr: Tensor) -> Tensor:
    """Return own = 1 of the image x_0 itself."""
    return torch.ones_like(snr)


def flow(snr: Tensor) -> Tensor:
    """Return own = (√SNR + 1)² of u = ε − x_0, since u − û = −((α + σ)/σ)(x_0 − x̂_0).

    The velocity of rectified flow: Liu et al. 2023 (arXiv:2209.03003), Lipman et al. 2023
    (arXiv:2210.02747).
    """
    return (snr.sqrt() + 1).square()


def edm(snr: Tensor, *, sigma_data: float = SIGMA_DATA) -> Tensor:
    """Return own = SNR + 1/σ_d² of F, since F − F̂ = n/(σ σ_d)·(x_0 − x̂_0), n² = σ² + α² σ_d².

    Karras et al. 2022 (arXiv:2206.00364), Table 1: this is their weight λ of the error of x̂_0.
    σ_d = `sigma_data` is the standard deviation of the images. Above 0, or ValueError.
    """
    check_sigma_data(sigma_data)
    return snr + 1 / sigma_data**2


OWN: dict[str, Callable[..., Tensor]] = {each.__name__: each for each in (eps, v, x0, flow, edm)}
"""Prediction → its squared error over that of x̂_0, as a function of the SNR."""


@dataclass(frozen=True)
class Objective:
    """L_simple = E_{t, x_0, ε} ‖ε − ε_θ(√ᾱ_t x_0 + √(1−ᾱ_t) ε, t)‖² (Eq. 14), as a mean.

    The paper's sum over pixels is a mean over all elements here, so that the loss depends neither
    on the batch nor on the image size. The target is what the denoiser predicts, ε or another kind.
    loss: a name in LOSSES, or `vlb`. weighting: a function of WEIGHTINGS with its options set.

    With `vlb_weight` λ > 0 it is L_hybrid = L_simple + λ·T·L_{t−1} (Nichol and Dhariwal 2021,
    arXiv:2102.09672, Eq. 16, there with λ = 0.001): T times the term of the bound at a uniform t
    estimates the whole bound. That term, in bits per dimension as in their code, trains only the
    learned variance, since x̂_0 is detached in it. So the network must have learned_variance.

    With the loss `vlb` it is only T·L_{t−1}, L_vlb of that paper (Eqs. 4–7), and nothing is
    detached: the mean learns from the bound too. The bound has its own weights of the times, so
    that neither `weighting` nor `vlb_weight` applies.

    Raises ValueError for an unknown loss, arguments that exclude each other, and wrong options.
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
                "loss is vlb, the bound with its own weights. Leave weighting and vlb_weight out, "
                "or choose another loss."
            )
        self.weighting(torch.ones(1), torch.ones(1))  # raises for wrong options

    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        eps: Tensor,
        t: Tensor,
        cond: Tensor | None = None,
        *,
        self_cond: Tensor | None = None,
        bound_factor: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of each image, (B,), in the precision of x0.

        x0, eps: (B,C,H,W), for the bound with x0 on 256 levels in [−1, 1]; t ∈ {1..T}: (B,).
        self_cond: like x0, the estimates of x_0 that `denoiser.estimate_x0` makes of the same x_t;
        only for a denoiser with self-conditioning. bound_factor: of the bound that `vlb_weight`
        adds, 1/(T·p_t) if t has the probability p_t, (B,); None for 1.
        Raises ValueError for the bound of a network without a learned variance.
        """
        schedule = denoiser.schedule
        x_t = schedule.add_noise(x0, eps, t)
        prediction = denoiser(x_t, t, cond, self_cond)
        if self.loss == VLB:
            return schedule.T * term_of(prediction, schedule, x0, t, variance="learned")
        target = prediction.value_of(x0, eps)
        loss = LOSSES[self.loss](prediction.value, target).flatten(1).mean(dim=1)
        ratio = schedule.snr(t).clamp(min=torch.finfo(torch.float32).tiny)  # where ᾱ_t = 0
        options = {"sigma_data": prediction.sigma_data} if prediction.kind == "edm" else {}
        own = OWN[prediction.kind](ratio, **options)
        weight = self.weighting(ratio, own) / own
        loss = per_image(weight, loss) * loss
        if self.vlb_weight > 0:
            fixed_mean = replace(prediction, value=prediction.value.detach())
            bound = term_of(fixed_mean, schedule, x0, t, variance="learned")
            if bound_factor is not None:
                bound = bound_factor * bound
            loss = loss + self.vlb_weight * schedule.T * bound
        return loss
