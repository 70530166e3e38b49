"""The mathematics of denoising diffusion: torch, and nothing of ours outside this folder."""

from fromnoise.diffusion.denoiser import Denoise, Denoiser, Prediction
from fromnoise.diffusion.guidance import clamp_x0
from fromnoise.diffusion.objective import METRICS, Objective
from fromnoise.diffusion.samplers import SAMPLERS, SPACINGS, Step, ddim, ddpm, sampling_times
from fromnoise.diffusion.schedule import SCHEDULES, NoiseSchedule

__all__ = [
    "METRICS",
    "SAMPLERS",
    "SCHEDULES",
    "SPACINGS",
    "Denoise",
    "Denoiser",
    "NoiseSchedule",
    "Objective",
    "Prediction",
    "Step",
    "clamp_x0",
    "ddim",
    "ddpm",
    "sampling_times",
]
