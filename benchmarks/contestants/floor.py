"""The floor under a piece of work: its convolutions and matrix products, and nothing else.

The work is done once while every such operation is written down with the shapes, layouts and
number formats of its arguments. A round then repeats those operations, on tensors that are there
already. No program that computes the same products in the same precision with the same library can
be faster than that by leaving out anything else.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from work import Work

aten = torch.ops.aten
PRODUCTS = {
    aten.convolution.default,
    aten.convolution_backward.default,
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
}
ATTENTION = "scaled_dot_product"  # part of the names of the operations that are attention, fused


class Like(NamedTuple):
    """What a tensor was like."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def make(self) -> Tensor:
        """Another such tensor, of noise."""
        there = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)
        return there.normal_()


def under(*, work: str, options: Mapping[str, Any]) -> Work:
    """The floor under the work "module:function" of another contestant with these options."""
    module, function = work.split(":")
    whole = getattr(importlib.import_module(module), function)(**options)
    whole.round()  # what happens once only is no part of it
    with Products() as products:
        whole.round()
    calls = [(repeat, count) for key, count in products.seen.items() for repeat in replay(*key)]

    def alone() -> None:
        for repeat, count in calls:
            for _ in range(count):
                repeat()

    return Work(f"{sum(products.seen.values())} products", whole.images, alone, whole.device)


class Products(TorchDispatchMode):
    """Counts the products that are computed inside it, by all that decides how long they take."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS or ATTENTION in func.name():
            self.seen[func, _frozen(args)] += 1
        return func(*args, **(kwargs or {}))


def replay(func: Any, args: tuple[Any, ...]) -> list[Callable[[], object]]:
    """Functions that do the operation again; of attention, only the products that are in it."""
    if ATTENTION not in func.name():
        thawed = _thawed(args)
        return [lambda: func(*thawed)]
    backward = "backward" in func.name()
    q, k, v = (like.make().flatten(0, -3) for like in args[backward : backward + 3])  # (B,N,D)
    scores = torch.bmm(q, k.mT)  # (B,N,N)
    if not backward:
        return [lambda: torch.bmm(q, k.mT), lambda: torch.bmm(scores, v)]
    gradient = torch.bmm(scores, v)
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
