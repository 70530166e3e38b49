"""The mathematics of denoising diffusion: torch, and nothing of ours outside this folder."""

from fromnoise.diffusion.denoiser import Denoise, Denoiser, Prediction
from fromnoise.diffusion.editing import interpolation_starts
from fromnoise.diffusion.guidance import (
    clamp_x0,
    classifier_free,
    composed,
    dynamic_threshold,
)
from fromnoise.diffusion.likelihood import (
    BitsPerDimension,
    EstimatedBits,
    bits_per_dimension,
    bound_term,
    estimated_bits_per_dimension,
    prior_kl,
)
from fromnoise.diffusion.objective import METRICS, Objective
from fromnoise.diffusion.samplers import (
    SAMPLERS,
    SPACINGS,
    Step,
    ddim,
    ddpm,
    reverse_step,
    sampling_times,
)
from fromnoise.diffusion.schedule import SCHEDULES, NoiseSchedule

__all__ = [
    "METRICS",
    "SAMPLERS",
    "SCHEDULES",
    "SPACINGS",
    "BitsPerDimension",
    "Denoise",
    "Denoiser",
    "EstimatedBits",
    "NoiseSchedule",
    "Objective",
    "Prediction",
    "Step",
    "bits_per_dimension",
    "bound_term",
    "clamp_x0",
    "classifier_free",
    "composed",
    "ddim",
    "ddpm",
    "dynamic_threshold",
    "estimated_bits_per_dimension",
    "interpolation_starts",
    "prior_kl",
    "reverse_step",
    "sampling_times",
]
