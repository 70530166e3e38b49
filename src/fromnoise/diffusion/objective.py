"""What training minimises."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from fromnoise.diffusion.denoiser import Denoiser
from fromnoise.diffusion.likelihood import term_of


def mse(predicted: Tensor, target: Tensor) -> Tensor:
    """The squared error of each element."""
    return (predicted - target).square()


METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": mse}


@dataclass(frozen=True)
class Objective:
    """L_simple = E_{t, x_0, ε} ‖ε − ε_θ(√ᾱ_t x_0 + √(1−ᾱ_t) ε, t)‖² (Eq. 14), as a mean.

    The paper's sum over pixels is a mean over all elements here, so that the loss depends neither
    on the batch nor on the image size. A denoiser that predicts x_0 or v is compared with that.

    With `vlb_weight` λ > 0 it is L_hybrid = L_simple + λ·T·L_{t−1} (Nichol and Dhariwal 2021,
    arXiv:2102.09672, Eq. 16, there with λ = 0.001): T times the term of the bound at a uniform t
    estimates the whole bound. That term, in bits per dimension as in their code, trains the learned
    variance alone, since it sees x̂_0 detached; so the network must have learned_variance.
    """

    metric: str = "mse"
    vlb_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.vlb_weight < 0:
            raise ValueError(f"vlb_weight must be at least 0, not {self.vlb_weight:g}")

    def __call__(
        self, denoiser: Denoiser, x0: Tensor, eps: Tensor, t: Tensor, cond: Tensor | None = None
    ) -> Tensor:
        """The loss of each image, (B,), in the precision of x0.

        x0, eps: (B,C,H,W), where vlb_weight > 0 with x0 on 256 levels in [−1, 1]; t ∈ {1..T}: (B,).
        Raises ValueError where vlb_weight > 0 and the network has no learned variance.
        """
        schedule = denoiser.schedule
        x_t = schedule.add_noise(x0, eps, t)
        prediction = denoiser(x_t, t, cond)
        match prediction.kind:
            case "eps":
                target = eps
            case "x0":
                target = x0
            case "v":
                target = prediction.alpha * eps - prediction.sigma * x0
        loss = METRICS[self.metric](prediction.value, target).flatten(1).mean(dim=1)
        if self.vlb_weight > 0:
            fixed_mean = replace(prediction, value=prediction.value.detach())
            bound = term_of(fixed_mean, schedule, x0, t, variance="learned")
            loss = loss + self.vlb_weight * schedule.T * bound
        return loss
