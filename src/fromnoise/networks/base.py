"""The contract of a network.

To add an architecture, write the class in a file of this folder, add a line to `NETWORKS`, and add
it to the tests in tests/networks/test_contract.py. Its keyword-only parameters, with type hints and
defaults, are then options of the recipe, as in `network.channels=64`.
"""

import math
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.networks.checks import check_cond, check_size
from fromnoise.networks.layers import Layout, sinusoid


class Network(nn.Module):
    """ε_θ(x_t, t, cond), or the same for x_0 or v: the part of a model with weights.

    The constructor gets `image_channels` (C), `cond_dim` (K, 0 for unconditional training) and, if
    its signature has it, `T`, all by keyword, and beside them the options of the recipe. It raises
    ValueError for options that do not fit together.

    A recipe can set `learned_variance` and `self_conditioning` only for a constructor with options
    of these names. Subclassing is not required: an `nn.Module` without these attributes gets the
    defaults below.
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
    """The classes of the repeated blocks, which `training.compile` compiles one by one."""

    def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None, /) -> Tensor:
        """x_t: (B,C,H,W); t ∈ {0..T−1}: (B,); cond: (B,K) or None → (B,C,H,W) or (B,2C,H,W).

        cond is in {−1, 0, +1}: absent, unknown, present. Zeros and None are the unconditional case
        and must give the same output. Images of a batch must not affect each other in evaluation.
        Under autocast the output may be in half precision.
        """
        raise NotImplementedError


class UNet(Network):
    """What the U-Nets here share: their first options, and the embedding of time and condition.

    The condition, K numbers in {−1, 0, +1}, is added to the time embedding through a layer without
    bias, so that zeros are the unconditional case. An image may have any size whose sides are
    multiples of `size_multiple`, square or not.
    """

    def __init__(
        self, image_channels: int, cond_dim: int, learned_variance: bool, self_conditioning: bool
    ) -> None:
        super().__init__()
        self.image_channels, self.cond_dim = image_channels, cond_dim
        self.learned_variance, self.self_conditioning = learned_variance, self_conditioning
        self.c_in = image_channels * (1 + self_conditioning)
        self.c_out = image_channels * (1 + learned_variance)

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
        check_size(x.shape[2], x.shape[3], self.size_multiple)
        check_cond(cond, len(x), self.cond_dim)
        time = sinusoid(t, self.width, self.layout).to(next(self.parameters()))
        if self.time1 is not None and self.time2 is not None:
            time = self.time2(self.activation(self.time1(time)))
        if self.cond is not None and cond is not None:
            time = time + self.cond(cond.to(self.cond.weight.dtype))
        return self.denoise(x, time if self.time1 is None else F.silu(time))

    def denoise(self, x: Tensor, time: Tensor) -> Tensor:
        """x: (B,C,H,W); time: (B,c_time), the sum of both embeddings → (B,C or 2C,H,W)."""
        raise NotImplementedError
