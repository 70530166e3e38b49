"""`fromnoise import`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from fromnoise.cli import options


def import_(
    file: Annotated[Path, Argument(help="a checkpoint of another program")],
    out: Annotated[Path, Option(help="a new folder for the model")],
    overrides: Annotated[
        list[str] | None,
        Argument(metavar="KEY=VALUE", help="settings that the file lacks: size=64"),
    ] = None,
    format: Annotated[
        str | None, Option(help=f"such as {options.FORMATS}", show_default="detected")
    ] = None,
) -> None:
    """Import weights of another program as a model to sample from or to train further."""
    import yaml

    from fromnoise.config.overrides import parse_override
    from fromnoise.interop import import_model

    changes = dict(map(parse_override, overrides or []))
    spec, notes = import_model(file, out, format=format, overrides=changes)
    shown = {"network", "diffusion", "sampling", "size", "data_range", "label_names"}
    settings = spec.model_dump(mode="json", include=shown)
    schedule = settings["diffusion"]["schedule"]
    if betas := schedule.get("betas"):
        schedule["betas"] = f"{len(betas)} from {betas[0]:.3g} to {betas[-1]:.3g}"
    print(yaml.safe_dump(settings, sort_keys=False, default_flow_style=None), end="")
    for note in notes:
        print(f"assumed: {note}")
    print(f"{spec.source}. Sample with: fromnoise sample {out.absolute()}")
