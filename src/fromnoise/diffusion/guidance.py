"""What is done to a prediction before a sampler uses it: each wraps a denoiser into a denoiser."""

from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.schedule import Time


def clamp_x0(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """Keep x̂_0 inside the range of images; the mean and ε̂ then follow from the clamped x̂_0."""

    def clamped(x_t: Tensor, t: Time) -> Prediction:
        prediction = denoise(x_t, t)
        return prediction.with_x0(prediction.x0.clamp(low, high))

    return clamped
