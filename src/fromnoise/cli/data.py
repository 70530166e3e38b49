"""`fromnoise data check` and `data shapes`."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option, Typer

from fromnoise.progress import progress_bar

data = Typer(
    name="data",
    help="Check images before training, or render a synthetic set.",
    no_args_is_help=True,
)


@data.command("shapes")
def data_shapes(
    folder: Annotated[Path, Argument(help="a new folder")],
    train: Annotated[int, Option(min=1, help="images")] = 18009,
    test: Annotated[int, Option(min=1, help="conditions in each of the two tests")] = 32,
    size: Annotated[int, Option(min=16, help="pixels a side; shapes-small has 32")] = 64,
    seed: Annotated[int, Option(min=0)] = 0,
) -> None:
    """Render a synthetic set of coloured cubes, spheres and cylinders, laid out as i-CLEVR is."""
    from fromnoise.data import write_shapes

    with progress_bar("rendering") as progress:
        write_shapes(folder, train=train, test=test, size=size, seed=seed, progress=progress)
    print(folder.absolute())


@data.command("check")
def data_check(
    path: Annotated[Path, Argument(help="a folder, zip, npz, npy or IDX file")],
    source: Annotated[str | None, Option(help="read it as this source")] = None,
    split: Annotated[Literal["train", "test"], Option(help="where there are two")] = "train",
) -> None:
    """Count, measure and read every image; name broken files and fitting recipe lines."""
    from fromnoise.data import check_data

    with progress_bar("reading") as progress:
        report = check_data(path, source=source, split=split, progress=progress)
    print(report)
