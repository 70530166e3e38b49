"""`fromnoise models` and `fromnoise share`."""

from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.table import Column, Table
from typer import Argument, Option

from fromnoise.cli import options


def models(
    name: Annotated[str | None, Argument(help="a model, whose card is printed")] = None,
) -> None:
    """List the models of the package, or print the card of one."""
    from fromnoise.model.names import card_of, shipped_models

    if name is not None:
        print(card_of(name), end="")
        return
    table = Table(Column("model", no_wrap=True), "about")
    for each in shipped_models():
        table.add_row(each, " ".join(card_of(each).split("\n\n")[2].split()))
    Console().print(table)


def share(
    model: options.ModelPath,
    name: Annotated[str, Argument(help="USER/MODEL")],
    license: Annotated[str, Option(help="of the weights, as in mit or cc-by-4.0")],
    about: Annotated[str, Option(help="the images and their licence, in a sentence or two")],
    out: Annotated[Path | None, Option(help="a new folder", show_default="MODEL")] = None,
    push: Annotated[
        bool, Option("--push", help="upload it to the Hugging Face Hub, with HF_TOKEN")
    ] = False,
    weights: options.Weights = None,
) -> None:
    """Write the folder of a model to share: weights, recipe, samples and a card with its scores."""
    from fromnoise.interop.share import push as upload
    from fromnoise.interop.share import require_hub_name
    from fromnoise.interop.share import share as write

    require_hub_name(name)
    folder = out or Path(name.partition("/")[2])
    print(write(model, name, folder, license=license, about=about, weights=weights))
    if push:
        print(upload(folder.absolute(), name))
