"""The contract of a network, and a base class and checks that the networks share.

To add one, see CONTRIBUTING.md; tests/networks/test_contract.py tests it with the others.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, cast, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.networks.layers import Layout, sinusoid

Patch = Literal[1, 2, 4]


class Network(nn.Module):
    """ε_θ(x_t, t, cond), or the same for x_0 or v: the part of a model with weights.

    The constructor gets `image_channels` (C), `cond_dim` (K, 0 for unconditional training) and, if
    its signature has them, `T` and `augment_dim`, all by keyword, and beside them the options of
    the recipe. It raises ValueError for options that do not fit together. The last `augment_dim` of
    the K columns of a condition are the parameters of an augmentation, any real numbers.

    A recipe can set `learned_variance` and `self_conditioning` only for a constructor with options
    of these names. Subclassing is not required: other `nn.Module`s get the defaults below.
    """

    learned_variance: bool = False
    """The output has 2C channels: the prediction, then the raw variance (`Denoiser`)."""
    self_conditioning: bool = False
    """The input has 2C channels: x_t, then an earlier x̂_0 in [−1, 1], or zeros."""
    size_multiple: int = 1
    """Both sides of an image must be multiples of this number."""
    largest_size: float = math.inf
    """The longest side that an image may have."""
    regions: tuple[type[nn.Module], ...] = ()
    """The classes of the repeated blocks: `training.compile` compiles them one by one, and
    `training.checkpoint_gradients` computes them again in the backward pass."""

    def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None, /) -> Tensor:
        """x_t: (B,C,H,W); t ∈ {0..T−1}: (B,); cond: (B,K) or None → (B,C,H,W) or (B,2C,H,W).

        cond is in {−1, 0, +1}: absent, unknown, present; then real numbers, which are zeros in
        sampling. Zeros and None are the unconditional case and must give the same output. Images of
        a batch must not affect each other in evaluation. Under autocast the output may be in half
        precision.
        """
        raise NotImplementedError


class UNet(Network):
    """The base of the U-Nets here: their first options, and the embedding of time and condition.

    The condition, K numbers, is added to the time embedding through a layer without bias, so that
    zeros are the unconditional case. Images need not be square.

    With `patch` p the network sees an image of 1/p of the size: the p×p pixels of a patch are p²
    channels (pixel unshuffle) from the first layer on and become pixels again after the last one.
    x_t and the output stay in pixels. 1×1 is no patch.
    """

    def __init__(
        self,
        image_channels: int,
        cond_dim: int,
        learned_variance: bool,
        self_conditioning: bool,
        patch: Patch = 1,
    ) -> None:
        super().__init__()
        if patch not in get_args(Patch):
            raise ValueError(f"patch is {patch}. Use 1, 2 or 4.")
        self.image_channels, self.cond_dim = image_channels, cond_dim
        self.learned_variance, self.self_conditioning = learned_variance, self_conditioning
        self.patch: Patch = patch
        self.c_in = image_channels * (1 + self_conditioning) * patch**2
        self.c_out = image_channels * (1 + learned_variance) * patch**2

    def embed(
        self,
        width: int,
        c_time: int,
        layout: Layout = "halves",
        activation: Callable[[Tensor], Tensor] = F.silu,
    ) -> None:
        """Make the layers of the embedding of t: `sinusoid`, linear, activation, linear, SiLU.

        With c_time = 0 it is the sinusoid itself.
        """
        self.width, self.activation = width, activation
        self.layout: Layout = layout
        self.time1 = nn.Linear(width, c_time) if c_time else None
        self.time2 = nn.Linear(c_time, c_time) if c_time else None
        c_cond = c_time or width
        self.cond = nn.Linear(self.cond_dim, c_cond, bias=False) if self.cond_dim else None

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """As `Network.forward`. Raises ValueError for a size or a condition that does not fit."""
        check_size(x.shape[2], x.shape[3], self.size_multiple, self.largest_size)
        check_cond(cond, len(x), self.cond_dim)
        if self.patch == 1:
            return self._predict(x, t, cond)
        # channel c becomes the channels c·p² … c·p² + p² − 1, row after row of its patch: x_t stays
        # before x̂_0, and the prediction before the variance
        out = self._predict(F.pixel_unshuffle(x, self.patch), t, cond)
        return F.pixel_shuffle(out, self.patch)

    def _predict(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        """x: (B,c_in,H/p,W/p); t: (B,); cond: (B,K) or None → (B,c_out,H/p,W/p)."""
        dtype = cast(nn.Conv2d, self.stem).weight.dtype  # of a replica too, without parameters()
        time = sinusoid(t, self.width, self.layout).to(dtype)
        if self.time1 is not None and self.time2 is not None:
            time = self.time2(self.activation(self.time1(time)))
        if self.cond is not None and cond is not None:
            time = time + self.cond(cond.to(self.cond.weight.dtype))
        return self._denoise(x, time if self.time1 is None else F.silu(time))

    def _denoise(self, x: Tensor, time: Tensor) -> Tensor:
        """x: (B,c_in,H/p,W/p); time: (B,c_time), with the condition → (B,c_out,H/p,W/p)."""
        raise NotImplementedError


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
    sides = (height, width)
    if all(0 < n <= largest and n % multiple == 0 for n in sides):
        return
    sizes = (
        "x".join(str(min(max(round_(n / multiple), 1) * multiple, largest)) for n in sides)
        for round_ in (math.floor, math.ceil)
    )
    near = " or ".join(dict.fromkeys(sizes))
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
