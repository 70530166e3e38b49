"""Measure the paper's network on a GPU: training, known problems of torch's compiler, and kernels.

This takes five minutes. It measures images per second and the share of the device's peak in bf16
and channels last, eager and with compiled blocks, at several batch sizes; the options of torch's
compiler that work around two of its problems; and the kernels that take most of the time of an
eager step. After `--seconds` no further measurement starts. The results are saved to
results/gpu_cuda.json and results/gpu_kernels_cuda.json. To test the script on a CPU, use `--device
cpu` with a small `--network`.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from race import Contestant, race, table
from report import machine, save, save_race
from torch.autograd import DeviceType
from utilisation import operations, utilisation
from worker import wait_for

sys.path.insert(0, str(Path(__file__).parent / "contestants"))
import ours
from work import Work

PAPER = {"dropout": 0.1}
BATCHES = (256, 128, 512)  # the first one also for blocks, kernels and options
STEPS, KERNELS = 10, 15  # steps per round; the number of kernels listed
# torch puts the convolutions of a graph into channels last if it finds enough of them, and it finds
# none in the graph of the gradient
FORCED = {"force_layout_optimization": True}
REINDEXED = {"loop_reindexing_after_fusion": True}  # the default of torch; fromnoise turns it off
PLAIN = {"loop_reindexing_after_fusion": False}


Works = dict[str, list[Contestant]]  # by title


def steps(
    network: dict[str, Any], batch: int, side: int, device: str, ways: dict[str, dict[str, Any]]
) -> list[Contestant]:
    """Return training steps in bf16 and channels last, one contestant for each of `ways`."""
    same = {"network": "ddpm", "options": network, "batch_size": batch, "side": side}
    same |= {"device": device, "precision": "bf16", "channels_last": True}
    return [
        Contestant(name, "compiler:training_step", {**same, **way}, times=STEPS)
        for name, way in ways.items()
    ]


def blocks(channels: int, batch: int, side: int, device: str) -> Works:
    """Return forward and backward passes of blocks of networks."""
    same = {"channels": channels, "side": side, "batch_size": batch, "device": device}
    ways: dict[str, dict[str, Any]] = {
        "eager": {},
        "compiled": {"inductor": PLAIN},
        "compiled, layout forced": {"inductor": PLAIN | FORCED},
        "compiled, loops reindexed": {"inductor": REINDEXED},
    }
    titles = {
        "residual": "a residual block",
        "upsampled": "upsampling, convolution, GroupNorm and SiLU",
    }
    size = f"{channels} channels, {side}x{side}, batch {batch}"
    found = {
        f"{title}, {size}": [
            Contestant(name, "compiler:block", {"block": block, **same, **way}, times=STEPS)
            for name, way in ways.items()
        ]
        for block, title in titles.items()
    }
    of_norm = {"block": "normalised", **same}
    found[f"GroupNorm, SiLU and convolution, {size}"] = [
        Contestant("eager", "compiler:block", of_norm, times=STEPS),
        Contestant(
            "eager, channels last after GroupNorm",
            "compiler:block",
            {**of_norm, "options": {"last": True}},
            times=STEPS,
        ),
    ]
    return found


def kernels(work: Work) -> list[tuple[str, float]]:
    """Return the slowest kernels (on a CPU, operations) of three rounds, with their shares."""
    from torch.profiler import ProfilerActivity, profile

    gpu = work.device != "cpu"
    for _ in range(3):
        work.round()
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as found:
        for _ in range(3):
            work.round()
        wait_for(work.device)
    kind = DeviceType.CUDA if gpu else DeviceType.CPU
    times = {
        event.key: event.self_device_time_total if gpu else event.self_cpu_time_total
        for event in found.key_averages()
        if event.device_type == kind
    }
    most = sorted(times, key=lambda name: -times[name])[:KERNELS]
    return [(name, times[name] / sum(times.values())) for name in most]


def main() -> None:
    """Print and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda (the default) or cpu")
    parser.add_argument("--network", type=json.loads, default=PAPER, help="options of ddpm, JSON")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--channels", type=int, default=256, help="of the single blocks")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=300.0)
    a = parser.parse_args()
    if a.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device here. Try the script with --device cpu.")
    started, merge = time.monotonic(), False
    print(machine(a.device), flush=True)

    shape = {"network": "ddpm", "options": a.network, "side": a.side}
    given = {**shape, "batch_size": a.batches[0], "device": a.device, "compile": False}
    work = ours.training_step(**given, precision="bf16", channels_last=True)
    listed = kernels(work)
    del work  # and its memory
    print(f"kernels of an eager step, batch {a.batches[0]}")
    for name, share in listed:
        print(f"  {100 * share:5.1f} %  {name[:100]}")
    figures = {"batch_size": a.batches[0], "side": a.side, "kernels": listed}
    save("gpu_kernels", figures, device=a.device)

    of = f"the paper's network, {a.side}x{a.side}"
    both = {"eager": {"compile": False}, "compiled": {"compile": True}}
    works = {
        f"{of}, batch {batch}: training step": steps(a.network, batch, a.side, a.device, both)
        for batch in a.batches
    }
    works |= blocks(a.channels, a.batches[0], a.side // 2, a.device)
    options = {
        "compiled": {"compile": True},
        "layout forced": {"compile": True, "inductor": PLAIN | FORCED},
        "loops reindexed": {"compile": True, "inductor": REINDEXED},
    }
    title = f"{of}, batch {a.batches[0]}: compiled training step"
    works[title] = steps(a.network, a.batches[0], a.side, a.device, options)
    flop = operations(**shape, training=True)
    for title, contestants in works.items():
        if time.monotonic() - started > a.seconds:
            print(f"{title}: skipped, --seconds {a.seconds:g} are over", flush=True)
            continue
        measured = race(contestants, rounds=a.rounds)
        print(f"{title}\n{table(measured)}")
        note = "All rows are compared with the first."
        if title.endswith("training step"):
            of_peak = (
                f"{name} {utilisation(flop * median(one.rates), a.device)}"
                for name, one in measured.items()
            )
            note += f" They reach: {'; '.join(of_peak)}."
        print(f"  {note}", flush=True)
        save_race("gpu", {title: measured}, notes={title: note}, device=a.device, merge=merge)
        merge = True  # keep earlier results if interrupted


if __name__ == "__main__":
    main()
