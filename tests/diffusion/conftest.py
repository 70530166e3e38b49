"""What the tests of the mathematics share: the paper's schedule, and fixed noise."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fromnoise.diffusion import NoiseSchedule


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
