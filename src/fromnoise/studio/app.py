"""The application of the studio: the parts and the endpoints that all pages share."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

import fromnoise
from fromnoise.progress import format_duration
from fromnoise.studio.events import Events
from fromnoise.studio.jobs import Jobs
from fromnoise.studio.places import Places
from fromnoise.studio.remote import TaskFailed, Worker
from fromnoise.studio.results import FOLDER, ID, read_result
from fromnoise.studio.runs import RUNS, Runs
from fromnoise.studio.trainings import Trainings

HERE = Path(__file__).parent
REPORT = HERE.parent / "report"  # pages share its style
LARGEST_BODY = 2**20  # bytes of JSON
Endpoint = Callable[[Request], Awaitable[Response]]


class Studio:
    """The parts that all pages share: folder, workers, queue, events, templates."""

    def __init__(self, folder: Path, root: Path) -> None:
        """Create the parts. folder: of the runs. root: of the data to choose from."""
        self.folder = folder
        self.places = Places(root, folder / "data")
        self.events, self.runs = Events(), Runs(folder)
        self.computing, self.reading = Worker(), Worker()
        self.jobs = Jobs(self.computing, self.events)
        self.trainings = Trainings(folder / RUNS, self.runs, self.events)
        self.tasks: set[asyncio.Task[Any]] = set()
        loader = FileSystemLoader([HERE / "templates", REPORT])
        self.templates = Environment(
            loader=loader,
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.templates.filters["duration"] = format_duration
        self.templates.globals["version"] = fromnoise.__version__

    def page(self, name: str, status: int = 200, **context: Any) -> HTMLResponse:
        """Return a page from its template."""
        shared = {"after": self.events.last, "folder": str(self.folder), "template": name}
        shared["jobs"] = json.dumps(self.jobs.shown())
        text = self.templates.get_template(f"{name}.html.jinja").render(**shared, **context)
        return HTMLResponse(text, status)

    def begin(self, work: Awaitable[Any]) -> None:
        """Run a coroutine in the background."""
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def find_run(self, request: Request) -> Path:
        """Return the run of a request. Raises HTTPException."""
        try:
            return self.runs.find(request.path_params["run"])
        except KeyError:
            raise HTTPException(
                404, "This run does not exist. Go back to the start page."
            ) from None


def build_app(studio: Studio, routes: list[BaseRoute]) -> Starlette:
    """Return the application."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        studio.begin(studio.jobs.work())
        studio.begin(studio.trainings.follow())
        yield
        for task in studio.tasks:
            task.cancel()
        for worker in (studio.computing, studio.reading):
            worker.kill()

    async def events(request: Request) -> Response:
        after = request.headers.get("last-event-id") or request.query_params.get("after", "")
        return StreamingResponse(studio.events.stream(after), media_type="text/event-stream")

    async def style(request: Request) -> Response:
        return FileResponse(REPORT / "style.css", media_type="text/css")

    async def jobs(request: Request) -> Response:
        return JSONResponse(studio.jobs.shown())

    async def stop_job(request: Request) -> Response:
        try:
            job = studio.jobs.find(request.path_params["job"])
        except KeyError:
            raise HTTPException(404, "This job does not exist. Reload the page.") from None
        await studio.jobs.stop(job)
        return JSONResponse(job.shown())

    def failed(request: Request, error: Exception) -> Response:
        status, sentence = 400, str(error)
        if isinstance(error, HTTPException):
            status, sentence = error.status_code, error.detail
            if sentence in ("Not Found", "Method Not Allowed"):
                sentence = "This page does not exist. Go back to the start page."
        elif isinstance(error, OSError):
            status, sentence = 507, str(error.strerror or error)
        elif not isinstance(error, ValueError | TaskFailed):
            status = 500
            sentence = "The studio failed. See the traceback in the terminal."
        if "html" in request.headers.get("accept", ""):
            return studio.page("problem", status, problem=sentence)
        return JSONResponse({"error": sentence}, status)

    shared = [
        Route("/events", events),
        Route("/jobs", jobs),
        Route("/jobs/{job}", stop_job, methods=["DELETE"]),
        Mount("/static", StaticFiles(directory=HERE / "static")),
        Route("/report.css", style),
    ]
    handlers: dict[Any, Any] = dict.fromkeys(
        (HTTPException, ValueError, OSError, TaskFailed), failed
    )
    handlers[Exception] = failed
    return Starlette(routes=[*routes, *shared], lifespan=lifespan, exception_handlers=handlers)


async def read_json(request: Request) -> Any:
    """Return the body of a request. Raises ValueError if it is too large or not JSON."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > LARGEST_BODY:
            raise HTTPException(413, "The request is too large. Send less than 1 MiB.")
    try:
        return json.loads(bytes(content))
    except (ValueError, RecursionError):
        raise HTTPException(400, "The request is not JSON. Reload the page.") from None


def find_picture(run: Path, id: str, number: int) -> tuple[Path, int]:
    """Return the file of an image of a result, and its seed. Raises HTTPException."""
    folder = run / FOLDER / id
    result = read_result(folder) if ID.fullmatch(id) else None
    if result is None or number >= len(result.files):
        raise HTTPException(404, "This image does not exist. Sample it again.")
    return folder / result.files[number], result.seeds[number]
