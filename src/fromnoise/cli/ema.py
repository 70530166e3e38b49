"""`fromnoise ema`."""

from pathlib import Path
from typing import Annotated

import typer

from fromnoise.training import reconstruct


def ema(
    run: Annotated[Path, typer.Argument(help="a run that had training.ema_lengths")],
    length: Annotated[
        float, typer.Option(help="of the average, as a part of the training: σ_rel, below 0.2887")
    ],
    step: Annotated[
        int | None, typer.Option(help="where it ends", show_default="the last snapshot")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="a new FILE.safetensors", show_default="ema/length-…  in the run"),
    ] = None,
) -> None:
    """Make the average of any length out of a run's snapshots: a model file to sample from."""
    made = reconstruct(run, length, step=step, out=out)
    print(made.file.absolute())
    print(
        f"length {length:g} at step {made.step:,}, of {made.snapshots} snapshots; relative error "
        f"of its profile {100 * made.error:.2f} %"
    )
