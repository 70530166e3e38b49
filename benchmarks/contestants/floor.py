"""The floor under a piece of work: its convolutions and matrix products, and nothing else.

The work is done once while every such operation is written down with the shapes, layouts and
number formats of its arguments. A round then repeats those operations, on tensors that are there
already. No program that computes the same products in the same precision with the same library can
be faster than that by leaving out anything else. Only fused attention over many tokens can be: it
does not write the matrix between its two products to memory.
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
PRODUCTS = {  # convolutions are transposed ones, too
    aten.convolution,
    aten.convolution_backward,
    aten.mm,
    aten.addmm,
    aten.bmm,
    aten.baddbmm,
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
        own = [n if step else 1 for n, step in zip(self.shape, self.stride, strict=True)]
        there = torch.empty_strided(own, self.stride, dtype=self.dtype, device=self.device)
        return there.normal_().expand(self.shape)  # where it was expanded, it is again


def under(
    *, work: str, options: Mapping[str, Any], chosen: Mapping[str, Any] | None = None
) -> Work:
    """The floor under the work "module:function" of another contestant with these options.

    chosen: what that contestant has chosen.
    """
    module, function = work.split(":")
    whole = getattr(importlib.import_module(module), function)(**options, **(chosen or {}))
    whole.round()  # what happens once only is no part of it
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
    """Counts the products that are computed inside it, by all that decides how long they take."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket not in PRODUCTS:
            with self:  # what is made of others, as conv2d in inference mode: those are looked at
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            if ATTENTION not in func.name():
                return func(*args, **kwargs)
        self.seen[func, _frozen(args), _frozen(tuple(kwargs.items()))] += 1
        return func(*args, **kwargs)


def replay(func: Any, args: tuple[Any, ...], kwargs: tuple[Any, ...]) -> list[Callable[[], object]]:
    """Functions that do the operation again; of attention, only the products that are in it.

    These are two, and of its gradient four. A fused gradient computes the scores once more; that
    is left out.
    """
    if ATTENTION not in func.name():
        thawed, named = _thawed(args), dict(_thawed(kwargs))
        return [lambda: func(*thawed, **named)]
    backward = "backward" in func.name()
    q, k, v = (like.make().flatten(0, -3) for like in args[backward : backward + 3])  # (B,N,D)
    scores = torch.bmm(q, k.mT)  # (B,N,M)
    if not backward:
        return [lambda: torch.bmm(q, k.mT), lambda: torch.bmm(scores, v)]
    gradient = torch.bmm(scores, v)  # as that of the output
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
