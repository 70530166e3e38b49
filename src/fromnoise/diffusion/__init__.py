"""The mathematics of denoising diffusion. Imports only torch and this folder."""

from fromnoise.diffusion.betas import SCHEDULES
from fromnoise.diffusion.denoiser import (
    Denoise,
    Denoiser,
    Prediction,
    check_prediction,
    with_self_conditioning,
)
from fromnoise.diffusion.guidance import (
    autoguided,
    clamp_x0,
    classifier_free,
    composed,
    dynamic_threshold,
)
from fromnoise.diffusion.inpainting import inpaint
from fromnoise.diffusion.interpolation import interpolation_starts, slerp
from fromnoise.diffusion.likelihood import bits_per_dimension, bound_term, prior_kl
from fromnoise.diffusion.losses import LOSSES, OWN, VLB, WEIGHTINGS, Objective
from fromnoise.diffusion.noise_levels import NOISE_LEVELS
from fromnoise.diffusion.samplers import SAMPLERS, Step, reverse_step
from fromnoise.diffusion.samplers.ancestral import ddpm
from fromnoise.diffusion.samplers.ddim import ddim, ddim_inversion, euler, heun, ipndm
from fromnoise.diffusion.samplers.dpm_solver import dpmpp, dpmpp_sde, unipc
from fromnoise.diffusion.schedule import NoiseSchedule
from fromnoise.diffusion.time_search import cheapest_path, step_costs
from fromnoise.diffusion.timesteps import TIMESTEPS, sampling_timesteps
