"""The published form of a network: eager, in float32, as in a simple script.

It is the definition in tests/networks/definitions: the equations as functions of the weights, with
attention as softmax(q k) v, and with torch's operations where a script would use them. It shows the
cost of the same network without optimizations.
"""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from work import Work

from fromnoise.networks import NETWORKS

DEFINITIONS = Path(__file__).parents[2] / "tests" / "networks" / "definitions"
HOW = "fp32, channels first"
OPERATIONS: dict[str, dict[str, Callable[..., Tensor]]] = {  # network → function → operation
    "context": {
        "grown": lambda h, w, bias: F.conv_transpose2d(h, w, bias, stride=w.shape[2]),
        "normalised_by_batch": lambda h, w, bias: F.batch_norm(h, None, None, w, bias, True),
        "normalised": lambda h, mean, var, w, bias: F.batch_norm(h, mean, var, w, bias),
        "halved": lambda h: F.max_pool2d(h, 2),
    }
}


def training_step(
    *, network: str, options: Mapping[str, Any], batch_size: int, side: int, device: str = "cpu"
) -> Work:
    """Return a training step: forward, mean squared error, backward and Adam."""
    predict, weights, shape = _network(network, options, batch_size, side, device)
    optimizer = torch.optim.Adam(weights, lr=2e-4)
    eps = torch.randn(shape, device=device)

    def step() -> None:
        F.mse_loss(predict(**options), eps).backward()
        optimizer.step()
        optimizer.zero_grad()

    return Work(HOW, batch_size, step, device)


def forward(
    *, network: str, options: Mapping[str, Any], batch_size: int, side: int, device: str = "cpu"
) -> Work:
    """Return a forward pass in evaluation mode, without dropout and batch statistics."""
    predict, _, _ = _network(network, options, batch_size, side, device)

    def once() -> None:
        with torch.inference_mode():
            predict(**{**options, "dropout": 0.0, "training": False})

    return Work(HOW, batch_size, once, device)


def _network(
    name: str, options: Mapping[str, Any], n: int, side: int, device: str
) -> tuple[Callable[..., Tensor], list[Tensor], tuple[int, ...]]:
    """Return the definition at fixed arguments, its weights, and the shape of the images."""
    torch.manual_seed(0)
    built = NETWORKS[name](**options).to(device)
    learnt = [key for key, _ in built.named_parameters()]
    state = {key: tensor.detach().clone() for key, tensor in built.state_dict().items()}
    weights = [state[key].requires_grad_() for key in learnt]
    shape = (n, built.image_channels, side, side)
    x, t = torch.randn(shape, device=device), torch.arange(n, device=device)
    cond = torch.zeros(n, built.cond_dim, device=device) if built.cond_dim else None
    definition = _definition(name)
    return lambda **how: definition(state, x, t, cond, **how), weights, shape


def _definition(name: str) -> Callable[..., Tensor]:
    spec = importlib.util.spec_from_file_location(name, DEFINITIONS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for function, operation in OPERATIONS.get(name, {}).items():
        assert hasattr(module, function)
        setattr(module, function, operation)
    return module.definition
