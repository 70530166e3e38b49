"""Gradient checkpointing: blocks that keep their inputs alone, and run again in the backward pass.

Chen et al. 2016 (arXiv:1604.06174).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fromnoise.networks.layers import Dropout


def regions_of(network: nn.Module) -> list[nn.Module]:
    """Return the blocks of `network.regions`."""
    kinds = getattr(network, "regions", ())
    return [block for block in network.modules() if isinstance(block, kinds)]


def checkpoint_regions(network: nn.Module) -> None:
    """Let each block of `network.regions` run again in the backward pass, in place.

    The gradient is the same, bit for bit where the same operations give the same numbers. Names of
    weights do not change. Copies of the network keep everything. Compile blocks before, not after.
    """
    for block in regions_of(network):
        call = block._compiled_call_impl or block._call_impl
        block._compiled_call_impl = partial(_checkpointed, block, call)


def _checkpointed(block: nn.Module, call: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    layers = [layer for layer in block.modules() if isinstance(layer, Dropout)]
    keys = [layer.keys for layer in layers]  # of `dropout_keys`, which has ended by then
    first = True

    def run(*inputs: Any, **named: Any) -> Any:
        nonlocal first
        if first:
            first = False
            return call(*inputs, **named)
        with _as_before(block, layers, keys):
            return call(*inputs, **named)

    return checkpoint(run, *inputs, use_reentrant=False, **named)


@contextmanager
def _as_before(
    block: nn.Module, layers: list[Dropout], keys: list[Tensor | None]
) -> Iterator[None]:
    """Let the block drop what it dropped, and leave its buffers, such as running means, alone."""
    buffers = [(buffer, buffer.clone()) for buffer in block.buffers()]
    now = [layer.keys for layer in layers]
    try:
        for layer, key in zip(layers, keys, strict=True):
            layer.keys = key
        yield
    finally:
        for layer, key in zip(layers, now, strict=True):
            layer.keys = key
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
