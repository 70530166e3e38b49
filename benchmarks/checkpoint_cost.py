"""Measure the share of the training time that checkpoints and previews take, for two recipes.

Steps and checkpoints are timed in turn, in one process, as in the training loop. A checkpoint
includes the check for NaN, the files, their SHA-256, the flush to the disk, the rename, and the
removal of an older checkpoint. The share assumes a checkpoint every 1,000 steps, and previews as
often as the recipe has them.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from report import machine, save
from table import share, spread

from fromnoise.checkpoints import prune, save_checkpoint
from fromnoise.config.recipe import load_recipe
from fromnoise.config.schema import Recipe
from fromnoise.model.model import build_denoiser
from fromnoise.model.spec import ModelSpec
from fromnoise.training.precision import choose_computation
from fromnoise.training.previews import save_preview
from fromnoise.training.state import TrainingState
from fromnoise.training.step import Batch, keep_freed_memory, train_step

EVERY = 1000  # steps from one checkpoint to the next
WORKS = {  # recipe → (batch size here, channels, side)
    "cifar10-paper": (16, 3, 32),
    "fashion-mnist": (64, 1, 28),
}


def measure(recipe: Recipe, n: int, channels: int, side: int, repeats: int) -> dict[str, Any]:
    """Time steps, checkpoints and a preview, after a warm-up; return the seconds of each."""
    spec = ModelSpec(
        network=recipe.network,
        diffusion=recipe.diffusion,
        sampling=recipe.sampling,
        channels=channels,
        size=(side, side),
    )
    settings = recipe.training.model_copy(update={"batch_size": n})
    objective = recipe.diffusion.objective()
    torch.manual_seed(0)
    x0 = torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8)
    batch = Batch(x0, torch.randn(x0.shape), torch.randint(1, recipe.diffusion.T + 1, (n,)))
    denoiser = build_denoiser(spec).train()
    computation = choose_computation(settings, denoiser, settings.steps)
    state = TrainingState.start(denoiser, settings, computation)
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch)

        def step() -> None:
            train_step(state, objective, batch, settings)
            state.step += 1

        def checkpoint() -> None:
            facts = {**state.numbers(), "recipe": recipe.model_dump(mode="json")}
            saved = save_checkpoint(run / "checkpoints", state.step, state.files(spec), facts)
            keep = settings.keep_checkpoints
            prune(saved, keep=keep, milestone_every=settings.milestone_every)

        seconds = [(timed(step), timed(checkpoint)) for _ in range(repeats + 1)][1:]
        steps, checkpoints = (list(column) for column in zip(*seconds, strict=True))
        files = run / "checkpoints" / f"{state.step:06d}"
        size = sum(file.stat().st_size for file in files.iterdir())
        preview = timed(lambda: save_preview(state, spec, run, count=settings.preview_images))
    return {
        "how": str(state.computation),
        "checkpoint_mib": size / 2**20,
        "step": steps,
        "checkpoint": checkpoints,
        "preview": [preview],
        "preview_every": settings.preview_every,
    }


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a function takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Print and save the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    keep_freed_memory()
    shares = {}
    print(f"checkpoints and previews; {machine()}")
    for name, (n, channels, side) in WORKS.items():
        found = measure(load_recipe(name), n, channels, side, arguments.repeats)
        work = f"`{name}`, batch {n}, {found['how']}"
        steps = {"step_seconds": found["step"]}
        for what, every in (("checkpoint", EVERY), ("preview", found["preview_every"])):
            size = f" of {found['checkpoint_mib']:.0f} MiB" if what == "checkpoint" else ""
            shares[f"{work}: {what}{size}"] = {**steps, "every": every, "seconds": found[what]}
    for title, one in shares.items():
        print(f"  {title}: {spread(one['seconds'])} s every {one['every']:,} steps", end="")
        print(f" of {spread(one['step_seconds'])} s: {100 * share(one):.2g} % of the time")
    save("checkpoint_cost", {"shares": shares})


if __name__ == "__main__":
    main()
