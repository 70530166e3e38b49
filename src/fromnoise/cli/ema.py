"""`fromnoise ema`."""

from pathlib import Path
from typing import Annotated

import typer

from fromnoise.training import reconstruct


def ema(
    run: Annotated[Path, typer.Argument(help="a run that had training.ema_lengths")],
    length: Annotated[
        float, typer.Option(help="of the average, over that of the training: σ_rel, below 0.2887")
    ],
    step: Annotated[
        int | None, typer.Option(help="the last step of it", show_default="the last snapshot")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="a new FILE.safetensors", show_default="ema/length-…  in the run"),
    ] = None,
) -> None:
    """Make an average of any length out of a run's snapshots, as a model file."""
    average = reconstruct(run, length, step=step, out=out)
    print(average.file.absolute())
    print(
        f"length {length:g} at step {average.step:,}, of {average.snapshots} snapshots, relative "
        f"error of its profile {100 * average.error:.2f} %"
    )
