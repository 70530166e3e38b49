"""What the tests of the mathematics share: the paper's schedule, and fixed noise."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fromnoise.diffusion import Denoise, Denoiser, NoiseSchedule, clamp_x0


@pytest.fixture(scope="session")
def schedule() -> NoiseSchedule:
    """The paper's: T = 1000, β from 1e-4 to 0.02."""
    return NoiseSchedule.named("linear", 1000)


@pytest.fixture(scope="session")
def fixed_noise() -> Callable[..., Callable[[int], Tensor]]:
    """fixed_noise(shape) → noise(t), float64, which depends on t only, not on the calls before."""

    def of_shape(*shape: int) -> Callable[[int], Tensor]:
        def noise(t: int) -> Tensor:
            generator = torch.Generator().manual_seed(t)
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        return noise

    return of_shape


class Wave(nn.Module):
    """A cheap, smooth and bounded function of x and t, which keeps its last output."""

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.learned = learned

    def forward(self, x: Tensor, index: Tensor, cond: None) -> Tensor:
        self.output = torch.sin(2 * x + index[:, None, None, None] / 300)
        if self.learned:
            self.output = torch.cat([self.output, torch.cos(3 * x)], dim=1)
        return self.output


@pytest.fixture(scope="session")
def wave_denoiser() -> Callable[..., tuple[Denoise, Wave]]:
    """wave_denoiser(schedule, kind, clip) → denoiser and network; `learned` adds a variance."""

    def build(
        schedule: NoiseSchedule, kind: Any, clip: bool, *, learned: bool = False
    ) -> tuple[Denoise, Wave]:
        wave = Wave(learned)
        denoise = Denoiser(wave, schedule, kind)
        return clamp_x0(denoise) if clip else denoise, wave

    return build
