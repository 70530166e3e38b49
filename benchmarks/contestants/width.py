"""Find the width at which a network has about a given number of parameters."""

from collections.abc import Callable

import torch
from torch import nn


def width_nearest(build: Callable[[int], nn.Module], parameters: int, *, multiple: int) -> int:
    """Return the width whose network, build(width), is nearest to a number of parameters.

    The width is a multiple of `multiple`, the smaller one if two are equally near. The number of
    parameters must grow with the width.
    """

    def count(width: int) -> int:
        with torch.device("meta"):  # sizes alone, no weights
            return sum(p.numel() for p in build(width).parameters())

    width = multiple
    while count(width + multiple) <= parameters:
        width += multiple
    return min(width, width + multiple, key=lambda width: abs(count(width) - parameters))
