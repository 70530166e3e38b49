"""The contract of a network.

To add an architecture, write the class in a file of this folder, add a line to `NETWORKS`, and add
it to the tests in tests/networks/test_contract.py. Its keyword-only parameters, with type hints and
defaults, are then options of the recipe, as in `network.channels=64`.
"""

import math

from torch import Tensor, nn


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
