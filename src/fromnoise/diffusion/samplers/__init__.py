"""From noise to image: each sampler is a generator, so that the caller's `for` sees every step.

All of them walk a falling list of times and step from each kept time t to the next kept time s
(never to t−1), the last one to s = 0; so 7 steps and 53 steps are as right as all T.
"""

from collections.abc import Callable, Iterator

from fromnoise.diffusion.samplers.ancestral import Variance, ddpm, reverse_step, step_std
from fromnoise.diffusion.samplers.ddim import ddim
from fromnoise.diffusion.samplers.dpm_solver import dpmpp, dpmpp_sde
from fromnoise.diffusion.samplers.ode import euler, heun
from fromnoise.diffusion.samplers.step import Noise, Step, steps_between
from fromnoise.diffusion.samplers.unipc import unipc

SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "heun": heun,
    "dpm++": dpmpp,
    "dpm++sde": dpmpp_sde,
    "unipc": unipc,
}

__all__ = [
    "SAMPLERS",
    "Noise",
    "Step",
    "Variance",
    "ddim",
    "ddpm",
    "dpmpp",
    "dpmpp_sde",
    "euler",
    "heun",
    "reverse_step",
    "step_std",
    "steps_between",
    "unipc",
]
