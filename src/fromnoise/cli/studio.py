"""`fromnoise studio`."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from fromnoise.config.errors import ConfigError


def studio(
    folder: Annotated[
        Path | None,
        Argument(help="the folder of runs and data", show_default="here, data in your home folder"),
    ] = None,
    port: Annotated[
        int | None,
        Option(min=0, max=65535, help="the port, or the next free one", show_default="8765"),
    ] = None,
    host: Annotated[
        str, Option(help="the address to listen on; other machines can connect to it")
    ] = "127.0.0.1",
) -> None:
    """Open the studio in the browser: train, inspect runs, sample, edit and check data."""
    if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
        raise ConfigError(
            f"the studio needs {' and '.join(missing)}. Run: pip install -e '.[studio]'"
        )
    from fromnoise.studio.server import serve

    serve(folder, host=host, port=port)
