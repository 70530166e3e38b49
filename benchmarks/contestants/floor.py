"""The floor of a workload: the time of its convolutions and matrix products alone.

It runs once, and each such operation is recorded with the shapes, layouts and types of its
arguments. A round repeats these operations on preallocated tensors. No program that computes the
same products in the same precision with the same library can be faster. The only exception is fused
attention over many tokens, which does not write the matrix between its two products to memory.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from work import Work, forget_peak

aten = torch.ops.aten
PRODUCTS = {  # transposed convolutions are included
    aten.convolution,
    aten.convolution_backward,
    aten.mm,
    aten.addmm,
    aten.bmm,
    aten.baddbmm,
}
ATTENTION = "scaled_dot_product"  # in the names of fused attention


class Like(NamedTuple):
    """The properties of a tensor."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def make(self) -> Tensor:
        """Return a tensor of noise with these properties."""
        own = [n if step else 1 for n, step in zip(self.shape, self.stride, strict=True)]
        there = torch.empty_strided(own, self.stride, dtype=self.dtype, device=self.device)
        return there.normal_().expand(self.shape)  # expanded dimensions stay expanded


def under(
    *, work: str, options: Mapping[str, Any], chosen: Mapping[str, Any] | None = None
) -> Work:
    """Return the floor of the workload "module:function" of a contestant with these options.

    chosen: the `chosen` of that contestant.
    """
    module, function = work.split(":")
    whole = getattr(importlib.import_module(module), function)(**options, **(chosen or {}))
    whole.round()  # excludes what happens only once
    with Products() as products:
        whole.round()
    images, device, computed = whole.images, whole.device, whole.how
    del whole
    forget_peak(device)
    calls = [(repeat, count) for key, count in products.seen.items() for repeat in replay(*key)]

    def alone() -> None:
        with torch.inference_mode():
            for repeat, count in calls:
                for _ in range(count):
                    repeat()

    with FlopCounterMode(display=False) as counter:
        alone()
    products = sum(count for _, count in calls)
    how = f"{computed}: {products} products, {counter.get_total_flops() / 1e9:.3g} Gflop"
    return Work(how, images, alone, device)


class Products(TorchDispatchMode):
    """Counts the products in its context, by all that determines their time."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket not in PRODUCTS:
            with self:  # decompose operations such as conv2d in inference mode
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            if ATTENTION not in func.name():
                return func(*args, **kwargs)
        self.seen[func, _frozen(args), _frozen(tuple(kwargs.items()))] += 1
        return func(*args, **kwargs)


def replay(func: Any, args: tuple[Any, ...], kwargs: tuple[Any, ...]) -> list[Callable[[], object]]:
    """Return functions that repeat the operation; for attention, only its products.

    Attention has two products, and its gradient four. A fused gradient also recomputes the scores,
    which is not counted.
    """
    if ATTENTION not in func.name():
        thawed, named = _thawed(args), dict(_thawed(kwargs))
        return [lambda: func(*thawed, **named)]
    backward = "backward" in func.name()
    q, k, v = (like.make().flatten(0, -3) for like in args[backward : backward + 3])  # (B,N,D)
    scores = torch.bmm(q, k.mT)  # (B,N,M)
    if not backward:
        return [lambda: torch.bmm(q, k.mT), lambda: torch.bmm(scores, v)]
    gradient = torch.bmm(scores, v)  # in place of the gradient of the output
    return [
        lambda: torch.bmm(scores.mT, gradient),  # of v
        lambda: torch.bmm(gradient, v.mT),  # of the scores
        lambda: torch.bmm(scores, k),  # of q
        lambda: torch.bmm(scores.mT, q),  # of k
    ]


def _frozen(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Like(tuple(value.shape), value.stride(), value.dtype, value.device)
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    return value


def _thawed(value: Any) -> Any:
    if isinstance(value, Like):
        return value.make()
    return [_thawed(each) for each in value] if isinstance(value, tuple) else value
