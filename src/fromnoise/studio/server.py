"""Start and stop the server of the studio."""

import socket
import sys
from pathlib import Path

import uvicorn

from fromnoise.config.errors import ConfigError
from fromnoise.studio import data_page, edit_page, look_page, make_page, start_page, train_page
from fromnoise.studio.app import Studio, build_app
from fromnoise.studio.events import Events
from fromnoise.studio.safety import LOOPBACK, Gate, new_token

PORT, TRIES = 8765, 50
EVERY = ("0.0.0.0", "::")  # all addresses of this machine
GRACE = 1  # seconds for open requests when the server stops


class Server(uvicorn.Server):
    """A server that closes the event streams before it stops, because they have no end."""

    def __init__(self, config: uvicorn.Config, events: Events) -> None:
        super().__init__(config)
        self.events = events

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the event streams, then shut down."""
        self.events.close()
        await super().shutdown(sockets)


def serve(folder: Path | None, *, host: str, port: int | None) -> None:
    """Print the address with its token, and serve the pages until a signal.

    folder: of the runs, and of the data to choose from; by default the working directory, and the
    home folder for the data.
    Raises ConfigError for a folder or a host that does not exist, and if every port is in use.
    """
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"{folder.absolute()} is not a folder. Give an existing folder.")
    root = (folder or Path.home()).resolve()
    runs = (folder or Path.cwd()).resolve()
    listening = listen(host, port)
    own, token = int(listening.getsockname()[1]), new_token()
    studio = Studio(runs, root)
    pages = (start_page, make_page, edit_page, look_page, data_page, train_page)
    app = build_app(studio, [route for page in pages for route in page.routes(studio)])
    gate = Gate(app, host=host, port=own, token=token)
    config = uvicorn.Config(
        gate,
        loop="asyncio",
        http="h11",
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    shown = socket.gethostname() if host in EVERY else f"[{host}]" if ":" in host else host
    print(f"Open http://{shown}:{own}/?token={token}", flush=True)
    if host not in LOOPBACK:
        print(
            "The connection is not encrypted: others on the network can read it.", file=sys.stderr
        )
    print("Ctrl-C ends the studio. Trainings continue.", file=sys.stderr, flush=True)
    Server(config, studio.events).run([listening])


def listen(host: str, port: int | None) -> socket.socket:
    """Return a socket on this port, or on the next free one."""
    first = PORT if port is None else port
    try:
        family, *_, address = socket.getaddrinfo(host, first, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host {host} is unknown. Give an address of this machine.") from error
    for number in range(first, min(first + TRIES, 65536)):
        found = socket.socket(family)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((address[0], number))
            found.listen(128)
        except OSError as error:
            found.close()
            if isinstance(error, PermissionError) or error.errno == 99:  # EADDRNOTAVAIL
                raise ConfigError(f"--host {host} --port {number}: {error.strerror}.") from error
            continue
        if number != first:
            print(f"Port {first} is in use. Using port {number}.", file=sys.stderr)
        return found
    raise ConfigError(f"ports {first} to {number} are in use. Give another --port.")
