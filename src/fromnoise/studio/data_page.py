"""The data page: choose a folder, or upload files, and check them."""

from contextlib import suppress
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from fromnoise.checkpoints import atomic_file
from fromnoise.studio.app import Studio, read_json
from fromnoise.studio.places import LARGEST, UPLOADS, safe_part
from fromnoise.studio.requests import Crops, Place, Upload, read_body


def routes(studio: Studio) -> list[BaseRoute]:
    """Return the endpoints of this page."""

    async def page(request: Request) -> Response:
        query = request.query_params
        return studio.page("data", place=query.get("place", ""), path=query.get("path", ""))

    async def folders(request: Request) -> Response:
        wanted = read_body(Place, dict(request.query_params))
        found = await run_in_threadpool(studio.places.list, wanted.place, wanted.path)
        return JSONResponse(found)

    async def check(request: Request) -> Response:
        wanted = read_body(Place, await read_json(request))
        path = studio.places.find(wanted.place, wanted.path)
        job = studio.jobs.add("check", f"Check of {path.name}", {"path": str(path)})
        return JSONResponse(job.shown())

    async def crops(request: Request) -> Response:
        wanted = read_body(Crops, await read_json(request))
        path = studio.places.find(wanted.place, wanted.path)
        arguments = {"path": str(path), "size": wanted.size, "fit": wanted.fit}
        return JSONResponse(await studio.reading.call("crops", arguments))

    async def begin(request: Request) -> Response:
        """Create a folder for uploads."""
        name = studio.places.new_folder(read_body(Upload, await read_json(request)).name)
        return JSONResponse({"place": UPLOADS, "path": name})

    async def upload(request: Request) -> Response:
        """Store one file, the body of the request, if it is complete and usable."""
        folder, path = request.path_params["folder"], request.path_params["path"]
        target = studio.places.target(folder, path)
        try:
            with atomic_file(target, sync=False) as writing:
                await receive(request, writing)
                kind = target.suffix.lower()
                await studio.reading.call(
                    "accept", {"path": str(writing), "kind": kind, "name": path}
                )
        finally:
            with suppress(OSError):  # the empty folder of a refused file
                if target.parent.name != safe_part(folder):
                    target.parent.rmdir()
        return JSONResponse({"name": path})

    return [
        Route("/data", page),
        Route("/data/folders", folders),
        Route("/data/check", check, methods=["POST"]),
        Route("/data/crops", crops, methods=["POST"]),
        Route("/data/uploads", begin, methods=["POST"]),
        Route("/data/uploads/{folder}/{path:path}", upload, methods=["PUT"]),
    ]


async def receive(request: Request, writing: Path) -> None:
    """Write the body of a request to a file. Raises HTTPException if it is too large or empty."""
    size = int(request.headers.get("content-length", "0") or 0)
    with writing.open("wb") as file:
        if size <= LARGEST:
            size = 0
            async for chunk in request.stream():
                size += len(chunk)
                if size > LARGEST:
                    break
                file.write(chunk)
    if size > LARGEST:
        most = LARGEST // 10**6
        raise HTTPException(413, f"the file is larger than {most} MB. Put it in a folder instead.")
    if not size:
        raise HTTPException(400, "the file is empty. Choose another.")
