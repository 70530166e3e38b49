"""Checks of options, images and conditions that several networks share."""

import math
from collections.abc import Sequence

from torch import Tensor


def check_options(
    *, multipliers: Sequence[int] = (1,), dropout: float = 0.0, **counts: int
) -> None:
    """Raise ValueError for options of several networks that are out of range, counts below 1."""
    if not multipliers or min(multipliers) < 1:
        raise ValueError(f"multipliers is {list(multipliers)}. Give one or more numbers ≥ 1.")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}. Use 0 or more, and less than 1.")
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}. Use at least 1.")


def check_even(name: str, width: int, least: int = 4) -> None:
    """Raise ValueError for a width of `sinusoid` that is odd or below `least`."""
    if width < least or width % 2:
        raise ValueError(f"{name} is {width}. Use an even number ≥ {least}.")


def check_levels(name: str, levels: Sequence[int], count: int) -> None:
    """Raise ValueError unless all levels lie in 0..count−1."""
    if outside := [i for i in levels if not 0 <= i < count]:
        raise ValueError(f"{name} has {outside}. Use levels in 0..{count - 1}.")


def check_size(height: int, width: int, multiple: int, largest: float = math.inf) -> None:
    """Raise ValueError for sides that are no multiples of `multiple`, or longer than `largest`."""
    if all(0 < n <= largest and n % multiple == 0 for n in (height, width)):
        return

    def around(n: int) -> tuple[int, int]:
        below = max(n // multiple, 1) * multiple
        above = max(math.ceil(n / multiple), 1) * multiple
        return int(min(below, largest)), int(min(above, largest))

    smaller, larger = zip(around(height), around(width), strict=True)
    near = " or ".join(f"{h}x{w}" for h, w in dict.fromkeys([smaller, larger]))
    limit = "" if math.isinf(largest) else f" up to {largest:g}"
    raise ValueError(
        f"image size {height}x{width} does not fit this network: both sides must be multiples of "
        f"{multiple}{limit}. Use {near}."
    )


def check_cond(cond: Tensor | None, batch_size: int, cond_dim: int) -> None:
    """Raise ValueError unless cond is None or of shape (batch_size, cond_dim)."""
    if cond is None:
        return
    if cond_dim == 0:
        raise ValueError("this network takes no condition. Leave it out: cond_dim is 0.")
    if tuple(cond.shape) != (batch_size, cond_dim):
        raise ValueError(
            f"the condition has shape {tuple(cond.shape)}. Give one row for each image: "
            f"({batch_size}, {cond_dim})."
        )
