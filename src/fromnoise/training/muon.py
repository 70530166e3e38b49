"""Muon: orthogonalised momentum for hidden weights, Adam for all others.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon). `torch.optim.Muon` takes matrices only, and
most weights of a U-Net are convolutions.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
STEPS = 5  # of Newton and Schulz
COEFFICIENTS = (
    3.4445,
    -4.7750,
    2.0315,
)  # of the quintic, steep at 0: the singular values → about 1
SCALE = 0.2  # the usual RMS of an update of Adam (Liu et al. 2025, arXiv:2502.16982)
WITH_MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)


class Hidden(NamedTuple):
    """A hidden weight, and its layout as matrices (count, out, in)."""

    weight: Tensor
    fused: bool = False  # q, k and v in one weight
    interleaved: bool = False  # if `fused`: rows alternate between q, k and v
    transposed: bool = False  # the shape is (in, out, k, k)

    def matrices(self, of: Tensor) -> Tensor:
        """Return `of`, a tensor of the weight's shape, as matrices."""
        flat = (of.transpose(0, 1) if self.transposed else of).flatten(1)
        if not self.fused:
            return flat[None]
        return (
            flat.unflatten(0, (-1, 3)).transpose(0, 1)
            if self.interleaved
            else flat.unflatten(0, (3, -1))
        )

    def like_weight(self, matrices: Tensor) -> Tensor:
        """Return the inverse of `matrices`."""
        flat = (matrices.transpose(0, 1) if self.interleaved else matrices).flatten(0, 1)
        if self.transposed:
            return flat.unflatten(1, self.weight.transpose(0, 1).shape[1:]).transpose(0, 1)
        return flat.view(self.weight.shape)


class Muon(torch.optim.Adam):
    """Adam, but a hidden weight W, a matrix (out, in), takes an orthogonalised step.

    With the gradient G, Nesterov's momentum and μ = 0.95:

        M ← μM + G,  U = orthogonalised(G + μM),  W ← W − lr · 0.2 √max(out, in) · U

    A convolution is a matrix (out, in·k²), and q, k and v in one weight are three matrices. Adam
    trains the first and the last layer, the layers of time and condition, norms and biases. Weight
    decay is decoupled, as in AdamW.
    """

    def __init__(self, network: nn.Module, *, lr: float, weight_decay: float = 0.0) -> None:
        decay: dict[str, Any] = {"weight_decay": weight_decay, "decoupled_weight_decay": True}
        super().__init__(network.parameters(), lr, fused=True, **decay)
        self.hidden = hidden_weights(network)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore
        """Take a step. The gradients of hidden weights are None afterwards. closure: None."""
        assert closure is None
        rate, decay = (self.param_groups[0][key] for key in ("lr", "weight_decay"))
        alike: dict[torch.Size, list[tuple[Hidden, Tensor]]] = defaultdict(list)
        for hidden in self.hidden:
            weight = hidden.weight
            gradient, weight.grad = weight.grad, None  # so that Adam skips it
            if gradient is not None:
                if "momentum" not in self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
                momentum = self.state[weight]["momentum"].mul_(MOMENTUM).add_(gradient)
                matrices = hidden.matrices(gradient.add(momentum, alpha=MOMENTUM))
                alike[matrices.shape[1:]].append((hidden, matrices))
        for (rows, columns), pairs in alike.items():  # all matrices of one shape at once
            counts = [len(matrices) for _, matrices in pairs]
            updates = orthogonalised(torch.cat([matrices for _, matrices in pairs])).split(counts)
            for (hidden, _), update in zip(pairs, updates, strict=True):
                step = -rate * SCALE * max(rows, columns) ** 0.5
                hidden.weight.mul_(1 - rate * decay).add_(hidden.like_weight(update), alpha=step)
        return super().step()


def hidden_weights(network: nn.Module) -> list[Hidden]:
    """Return the weights that Muon trains.

    They are the weights of all linear layers and convolutions except the first, the last, and those
    whose name, or that of a module around them, begins with `time` or `cond`.
    """
    named = [
        (name, layer)
        for name, layer in network.named_modules()
        if isinstance(layer, WITH_MATRICES)
        and not any(part.startswith(("time", "cond")) for part in name.split("."))
    ]
    hidden = []
    for name, layer in named[1:-1]:
        path, _, own = name.rpartition(".")
        interleaved = getattr(network.get_submodule(path), "interleaved", False)
        fused, transposed = own == "qkv", isinstance(layer, nn.ConvTranspose2d)
        hidden.append(Hidden(layer.weight, fused, fused and interleaved, transposed))
    return hidden


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return approximately U Vᵀ of each matrix U S Vᵀ: (N, out, in).

    The iteration X ← P X with P = a + b A + c A² and A = X Xᵀ, from X = G/‖G‖, moves each singular
    value to about 0.7 to 1.2. Since A ← P A P, it is enough to iterate the smaller A and the
    product of the P. Zeros stay zeros.
    """
    a, b, c = COEFFICIENTS
    tiny = torch.finfo(matrices.dtype).tiny  # against 0/0
    x = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x = x / x.abs().amax(dim=(1, 2), keepdim=True).clamp(min=tiny)  # squares do not underflow
    x = x / x.flatten(1).norm(dim=1)[:, None, None].clamp(min=tiny)
    A = x @ x.mT
    one = product = torch.eye(A.shape[1], dtype=A.dtype, device=A.device).expand_as(A)
    for _ in range(STEPS):
        P = a * one + b * A + c * A @ A
        A, product = P @ A @ P, P @ product
    x = product @ x
    return x.mT if matrices.shape[1] > matrices.shape[2] else x
