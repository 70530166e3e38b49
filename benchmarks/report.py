"""How every benchmark prints and keeps its figures."""

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
    """The processor, threads and torch version; first the GPU, if that is the device."""
    info = Path("/proc/cpuinfo")
    name, fast = processor(info.read_text() if info.is_file() else "")
    gpu = "" if device == "cpu" else f"{torch.cuda.get_device_name(device)}, "
    return (
        f"{gpu}{name}, {torch.get_num_threads()} threads"
        f"{', ' + ', '.join(fast) if fast else ''}, torch {torch.__version__}"
    )


def processor(cpuinfo: str) -> tuple[str, list[str]]:
    """Its name, and which fast products it has, from the text of Linux."""
    pairs = (line.partition(":") for line in reversed(cpuinfo.splitlines()))
    said = {key.strip(): value.strip() for key, colon, value in pairs if colon}
    name = said.get("model name", platform.processor())
    if "cpu family" in said:  # the name alone may be that of several generations
        name += f" (family {said['cpu family']}, model {said['model']})"
    flags = said.get("flags", "").split()
    return name, [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags]


def save(name: str, figures: dict[str, Any], *, device: str = "cpu") -> None:
    """Keep the figures with the machine's description in results/NAME.json.

    Of another device than a CPU in results/NAME_cuda.json, say.
    """
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": machine(device), **figures}
    kept_in(name, device).write_text(json.dumps(content, indent=1) + "\n")


def kept_in(name: str, device: str) -> Path:
    """The file with the figures of such a device."""
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
    """Keep what races measured, where `save` does, as `table.py` reads it.

    works: what the work was → contestant → its figures. Each contestant's rates stand in the order
    of the rounds, so that figures of one round can be compared. notes: what is to be said of a
    work below its table. merge: works of the file that are not among these stay, provided they
    were measured on this machine with these versions; otherwise ValueError, and the file is left.
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
    """ValueError where results/NAME.json is there and was not measured on this, with these."""
    file = kept_in(name, device)
    if not file.exists():
        return
    before, now = json.loads(file.read_text()), {"machine": machine(device), "versions": versions()}
    if changed := [what for what, value in now.items() if before[what] != value]:
        raise ValueError(
            f"{file} was measured with another {' and other '.join(changed)}, so these figures "
            "cannot stand beside those; measure all of it, or remove the file first"
        )


def versions() -> dict[str, dict[str, str]]:
    """Python and packages of our environment and, if it is there, of the peers'."""
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


if __name__ == "__main__":  # by the peers' Python, see `versions`
    json.dump(_versions("torch", *RACED), sys.stdout)
