"""`fromnoise studio`."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from fromnoise.config.errors import ConfigError


def studio(
    folder: Annotated[
        Path | None,
        Argument(help="of runs, and of data to choose from", show_default="here; data at home"),
    ] = None,
    port: Annotated[
        int | None, Option(min=0, max=65535, help="or the next free one", show_default="8765")
    ] = None,
    host: Annotated[
        str, Option(help="an address of this machine, for other machines to connect to")
    ] = "127.0.0.1",
) -> None:
    """Open the same in the browser: make pictures, look at runs, train."""
    if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
        raise ConfigError(
            f"the studio needs {' and '.join(missing)}. Run: pip install -e '.[studio]'"
        )
    from fromnoise.studio.server import serve

    serve(folder, host=host, port=port)
