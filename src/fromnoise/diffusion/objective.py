"""What training minimises."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fromnoise.diffusion.denoiser import Denoiser


def mse(predicted: Tensor, target: Tensor) -> Tensor:
    """The squared error of each element."""
    return (predicted - target).square()


METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": mse}


@dataclass(frozen=True)
class Objective:
    """L_simple = E_{t, x_0, ε} ‖ε − ε_θ(√ᾱ_t x_0 + √(1−ᾱ_t) ε, t)‖² (Eq. 14), as a mean.

    The paper's sum over pixels is a mean over all elements here, so that the loss depends neither
    on the batch nor on the image size. A denoiser that predicts x_0 or v is compared with that.
    """

    metric: str = "mse"

    def __call__(
        self, denoiser: Denoiser, x0: Tensor, eps: Tensor, t: Tensor, cond: Tensor | None = None
    ) -> Tensor:
        """The loss of each image, float32 (B,). x0, eps: (B,C,H,W); t ∈ {1..T}: (B,)."""
        x_t = denoiser.schedule.add_noise(x0, eps, t)
        prediction = denoiser(x_t, t, cond)
        match prediction.kind:
            case "eps":
                target = eps
            case "x0":
                target = x0
            case "v":
                target = prediction.alpha * eps - prediction.sigma * x0
        return METRICS[self.metric](prediction.value, target).flatten(1).mean(dim=1)
