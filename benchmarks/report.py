"""How every benchmark prints and keeps its figures."""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from race import PEERS_PYTHON, Measured

RESULTS = Path(__file__).parent / "results"
RACED = ("torchvision", "diffusers", "denoising-diffusion-pytorch")
Samples = dict[str, list[float]]  # name → one figure per interleaved repeat; ours comes first


def machine() -> str:
    """The processor, threads and torch version."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(": ", 1)[1] for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    fast = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags.split()]
    return (
        f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"
        f"{', ' + ', '.join(fast) if fast else ''}, torch {torch.__version__}"
    )


def print_ratios(samples: Samples, unit: str) -> None:
    """Median, minimum and maximum of each, and the median ratio of the first to each other."""
    first = next(iter(samples.values()))
    for name, figures in samples.items():
        ratios = [ours / theirs for ours, theirs in zip(first, figures, strict=True)]
        print(
            f"  {name:32} {median(figures):8.2f} {unit}  ({min(figures):.2f} to {max(figures):.2f})"
            f"   fromnoise is {median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def save(name: str, figures: dict[str, Any]) -> None:
    """Keep the figures with the machine's description in results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": machine(), **figures}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def save_race(name: str, works: Mapping[str, Mapping[str, Measured]]) -> None:
    """Keep what races measured in results/NAME.json, as `table.py` reads it.

    works: what the work was → contestant → its figures. Each contestant's rates stand in the order
    of the rounds, so that figures of one round can be compared.
    """
    figures = {
        work: {
            contestant: {
                "how": one.how,
                "images": one.images,
                "images_per_second": one.rates,
                "peak_gib": one.peak_gib,
            }
            for contestant, one in measured.items()
        }
        for work, measured in works.items()
    }
    save(name, {"versions": versions(), "works": figures})


def versions() -> dict[str, dict[str, str]]:
    """Python and packages of our environment and, if it is there, of the peers'."""
    found = {"fromnoise": _versions("fromnoise", "torch")}
    if PEERS_PYTHON.exists():
        command = [str(PEERS_PYTHON), __file__]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found["peers"] = json.loads(said)
    return found


def _versions(*packages: str) -> dict[str, str]:
    known = {"python": platform.python_version()}
    for package in packages:
        with suppress(PackageNotFoundError):
            known[package] = version(package)
    return known


if __name__ == "__main__":  # by the peers' Python, see `versions`
    json.dump(_versions("torch", *RACED), sys.stdout)
