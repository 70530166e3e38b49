"""`fromnoise report`."""

from pathlib import Path
from typing import Annotated

import typer

from fromnoise.progress import progress_bar
from fromnoise.report import write_report


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders")],
    out: Annotated[
        Path | None, typer.Option(help="an HTML file", show_default="report.html in the first run")
    ] = None,
) -> None:
    """Write a self-contained HTML page about one run or several side by side."""
    with progress_bar("denoising") as progress:
        page = write_report(runs, out, progress=progress)
    print(page)
