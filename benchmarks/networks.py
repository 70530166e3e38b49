"""A training step of each network, ours beside its plain eager float32 form, in one run.

The plain form is the definition in `tests/networks/definitions`: the same equations as functions of
the weights, attention as softmax(q k) v, everything in float32; with backward and Adam, as a script
would write it. Ours does all that the training loop does in a step. The steps alternate. Both have
the same batch, the same first weights, and dropout as the network has by default.
"""

import argparse
import importlib.util
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from report import machine, print_ratios, save
from stepping import our_step, plain_step, rates
from torch import Tensor

from fromnoise.diffusion import NoiseSchedule
from fromnoise.networks import NETWORKS

DEFINITIONS = Path(__file__).parent.parent / "tests" / "networks" / "definitions"


class Work(NamedTuple):
    """A network with its options, and a batch."""

    network: str
    options: dict[str, Any]
    batch_size: int
    side: int


WIDE = {"multipliers": (1, 2, 3, 4), "attention_levels": (2,)}
WORKS = [
    Work("dense_attention", {}, 2, 64),
    Work("ddpm", {**WIDE, "dropout": 0.15, "embedding": "interleaved"}, 8, 32),
    Work("stacked", {"image_channels": 1}, 8, 32),
    Work(
        "stacked", {"image_channels": 1, "time": "projected", "attention_form": "residual"}, 8, 32
    ),
    Work("linear_attention", {}, 16, 32),
    Work("context", {"cond_dim": 24}, 8, 64),
]


def plain_form(name: str) -> Callable[..., Tensor]:
    """`definition(p, x, t, cond, **options)` of tests/networks/definitions/NAME.py."""
    spec = importlib.util.spec_from_file_location(name, DEFINITIONS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.definition


def compare(work: Work, repeats: int) -> dict[str, list[float]]:
    """Images per second of both."""
    torch.manual_seed(0)
    n, channels = work.batch_size, work.options.get("image_channels", 3)
    shape = (n, channels, work.side, work.side)
    x0, eps, t = torch.rand(shape) * 2 - 1, torch.randn(shape), torch.arange(1, n + 1)
    network = NETWORKS[work.network](**work.options)
    cond = torch.zeros(n, network.cond_dim) if network.cond_dim else None
    definition, x_t = (
        plain_form(work.network),
        NoiseSchedule.named("linear", 1000).add_noise(x0, eps, t),
    )
    weights = {name: p.detach().clone() for name, p in network.state_dict().items()}
    parameters = [weights[name].requires_grad_() for name, _ in network.named_parameters()]

    def predict() -> Tensor:
        return definition(weights, x_t, t - 1, cond, **work.options)

    plain = plain_step(predict, eps, parameters)
    return rates(dict([our_step(network, x0, eps, t, cond), ("plain, fp32", plain)]), n, repeats)


def main() -> None:
    """Print and keep the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="one network")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="ours alone, batch 6, and its peak")
    arguments = parser.parse_args()
    if arguments.memory:
        measure_memory(arguments.only or "dense_attention")
        return
    results = {}
    for work in WORKS:
        if arguments.only in (None, work.network):
            options = ", ".join(f"{key} {value}" for key, value in work.options.items())
            title = f"{work.network} ({options}), {work.side}x{work.side}, batch {work.batch_size}"
            results[title] = compare(work, arguments.repeats)
            print(f"{title}; {machine()}")
            print_ratios(results[title], "images/s")
    if arguments.only is None:
        save("networks", {"images_per_second": results})


def measure_memory(name: str) -> None:
    """Peak resident memory of a process that trains this network at 64x64 with batch 6."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    x0 = torch.rand(6, 3, 64, 64) * 2 - 1
    computation, step = our_step(NETWORKS[name](), x0, torch.randn_like(x0), torch.arange(1, 7))
    for _ in range(3):
        step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name}, 64x64, batch 6, {computation}: peak {peak:.2f} GiB, {before:.2f} before")
    save(f"memory-{name}", {"peak_gib": peak, "before_gib": before})


if __name__ == "__main__":
    sys.exit(main())
