"""`fromnoise export`."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Option

from fromnoise.cli import options


def export(
    model: options.ModelPath,
    format: Annotated[
        Literal["diffusers", "safetensors"],
        Option(help="a folder for its pipelines, or one file with the specification"),
    ],
    out: Annotated[Path, Option(help="a new folder, or a new .safetensors file")],
    weights: options.Weights = None,
) -> None:
    """Export a model to diffusers, or as one file that describes itself."""
    from fromnoise.interop import export_model

    print(export_model(model, out, format=format, weights=weights))
