"""Samplers: generators from noise to image, whose caller sees every step.

They step between the selected times, so any number of steps is valid; see `step.py`.
"""

from collections.abc import Callable, Iterator

from fromnoise.diffusion.samplers.ancestral import Variance, ddpm, reverse_step, step_std
from fromnoise.diffusion.samplers.ddim import ddim, euler, heun, ipndm
from fromnoise.diffusion.samplers.dpm_solver import dpmpp, dpmpp_sde, unipc
from fromnoise.diffusion.samplers.step import Noise, Step, steps_between

SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "heun": heun,
    "ipndm": ipndm,
    "dpm++": dpmpp,
    "dpm++sde": dpmpp_sde,
    "unipc": unipc,
}
