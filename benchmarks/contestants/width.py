"""The width that gives a network about as many parameters as another one has."""

from collections.abc import Callable

import torch
from torch import nn


def width_nearest(build: Callable[[int], nn.Module], parameters: int, *, multiple: int) -> int:
    """The multiple whose network, build(width), comes nearest to so many parameters.

    They must grow with the width. Of two that come equally near it is the smaller.
    """

    def count(width: int) -> int:
        with torch.device("meta"):  # sizes alone, no weights
            return sum(p.numel() for p in build(width).parameters())

    width = multiple
    while count(width + multiple) <= parameters:
        width += multiple
    return min(width, width + multiple, key=lambda width: abs(count(width) - parameters))
