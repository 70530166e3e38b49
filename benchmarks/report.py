"""Describe the machine, and save the figures of benchmarks as JSON."""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from race import PEERS_PYTHON, Measured

RESULTS = Path(__file__).parent / "results"
RACED = ("torchvision", "diffusers", "denoising-diffusion-pytorch")


def machine(device: str = "cpu") -> str:
    """Return the processor, threads and torch version, after the GPU if that is the device."""
    info = Path("/proc/cpuinfo")
    name, fast = processor(info.read_text() if info.is_file() else "")
    gpu = "" if device == "cpu" else f"{torch.cuda.get_device_name(device)}, "
    return (
        f"{gpu}{name}, {torch.get_num_threads()} threads"
        f"{', ' + ', '.join(fast) if fast else ''}, torch {torch.__version__}"
    )


def processor(cpuinfo: str) -> tuple[str, list[str]]:
    """Return the processor's name and its bf16 instructions. cpuinfo: of Linux's /proc/cpuinfo."""
    pairs = (line.partition(":") for line in reversed(cpuinfo.splitlines()))
    said = {key.strip(): value.strip() for key, colon, value in pairs if colon}
    name = said.get("model name", platform.processor())
    if "cpu family" in said:  # several generations may share the name
        name += f" (family {said['cpu family']}, model {said['model']})"
    flags = said.get("flags", "").split()
    return name, [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags]


def save(name: str, figures: dict[str, Any], *, device: str = "cpu") -> None:
    """Save the figures with a description of the machine to results/NAME.json.

    For other devices than a CPU the file is, for example, results/NAME_cuda.json.
    """
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": machine(device), **figures}
    kept_in(name, device).write_text(json.dumps(content, indent=1) + "\n")


def kept_in(name: str, device: str) -> Path:
    """Return the file for the figures of a device."""
    kind = torch.device(device).type
    return RESULTS / (f"{name}.json" if kind == "cpu" else f"{name}_{kind}.json")


def save_race(
    name: str,
    works: Mapping[str, Mapping[str, Measured]],
    *,
    notes: Mapping[str, str] | None = None,
    device: str = "cpu",
    merge: bool = False,
) -> None:
    """Save the figures of races with `save`, in the form that `table.py` reads.

    works: title → contestant → its figures. The rates of a contestant are in the order of the
    rounds, so figures of the same round can be compared. notes: title → the text below its table.
    merge: keep the other entries of the file. Raises ValueError, and leaves the file unchanged, if
    they were measured on another machine or with other versions.
    """
    figures: dict[str, Any] = {
        "versions": versions(),
        "works": {
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
        },
    }
    if notes:
        figures["notes"] = dict(notes)
    file = kept_in(name, device)
    if merge and file.exists():
        refuse_another_machine(name, device)
        before = json.loads(file.read_text())
        for part in ("works", "notes"):
            if part in before:
                figures[part] = {**before[part], **figures.get(part, {})}
    save(name, figures, device=device)


def refuse_another_machine(name: str, device: str) -> None:
    """Raise ValueError if results/NAME.json is of another machine or of other versions."""
    file = kept_in(name, device)
    if not file.exists():
        return
    before, now = json.loads(file.read_text()), {"machine": machine(device), "versions": versions()}
    if changed := [what for what, value in now.items() if before[what] != value]:
        raise ValueError(
            f"{file} was measured with another {' and other '.join(changed)}, so these figures "
            "cannot be merged. Measure all of them, or remove the file first."
        )


def versions() -> dict[str, dict[str, str]]:
    """Return the versions of Python and packages here and, if installed, of the other programs."""
    found = {"fromnoise": _versions("fromnoise", "torch", "torch-fidelity")}
    if PEERS_PYTHON.exists():
        found["peers"] = _versions_by(str(PEERS_PYTHON))
    return found


@cache
def _versions_by(python: str) -> dict[str, str]:
    command = [python, __file__]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(said)


def _versions(*packages: str) -> dict[str, str]:
    known = {"python": platform.python_version()}
    for package in packages:
        with suppress(PackageNotFoundError):
            known[package] = version(package)
    return known


if __name__ == "__main__":  # with the Python of the other programs, see `versions`
    json.dump(_versions("torch", *RACED), sys.stdout)
