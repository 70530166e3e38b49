"""The sample page of a model: sample images, watch the denoising, compare, download."""

import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from fromnoise.config.arguments import SAMPLERS
from fromnoise.studio.app import Studio, read_json
from fromnoise.studio.jobs import new_id
from fromnoise.studio.requests import Making, read_body
from fromnoise.studio.results import FOLDER, ID, Result, read_result, results_of
from fromnoise.studio.runs import read_facts

CHUNK = 2**16  # bytes


def routes(studio: Studio) -> list[BaseRoute]:
    """Return the endpoints of this page."""

    async def page(request: Request) -> Response:
        run = studio.find_run(request)
        studio.jobs.warm(run)
        model, problem = {}, ""
        try:
            model = await studio.reading.call("describe", {"run": str(run)})
        except Exception as error:
            problem = str(error)
        shown = {"run": read_facts(run), "model": model, "problem": problem}
        return studio.page("make", samplers=SAMPLERS.split(", "), **shown)

    async def make(request: Request) -> Response:
        run = studio.find_run(request)
        wanted = read_body(Making, await read_json(request))
        count, id = len(wanted.numbers()), new_id()
        given, folder = wanted.model_dump(mode="json"), str(run / FOLDER / id)
        arguments = {"run": str(run), "folder": folder, "request": given}
        title = f"{count:,} image{'s' if count > 1 else ''} of {run.name}"
        job = studio.jobs.add("make", title, arguments, run=request.path_params["run"])
        return JSONResponse(job.shown() | {"command": wanted.command(run)})

    async def command(request: Request) -> Response:
        run = studio.find_run(request)
        try:  # the form may be incomplete
            wanted = read_body(Making, await read_json(request))
            found = {"command": wanted.command(run), "count": len(wanted.numbers())}
        except ValueError as error:
            found = {"problem": str(error)}
        return JSONResponse(found)

    async def results(request: Request) -> Response:
        run = studio.find_run(request)
        found = await run_in_threadpool(results_of, run)
        made = "edits" not in request.query_params
        shown = [result for result in found if (result.kind == "make") == made]
        return JSONResponse([result.model_dump(mode="json") for result in shown])

    def find_result(request: Request) -> tuple[Path, Result]:
        run, id = studio.find_run(request), request.path_params["result"]
        folder = run / FOLDER / id
        result = read_result(folder) if ID.fullmatch(id) else None
        if result is None:
            raise HTTPException(404, "These images do not exist. Sample them again.")
        return folder, result

    async def file(request: Request) -> Response:
        folder, result = find_result(request)
        names, i = [*result.files, *result.others], request.path_params["number"]
        if i >= len(names):
            raise HTTPException(404, "This image does not exist. Sample it again.")
        kept = {"Cache-Control": "private, max-age=86400, immutable"}
        disposition = "attachment" if "save" in request.query_params else "inline"
        how = {"filename": names[i], "content_disposition_type": disposition, "headers": kept}
        return FileResponse(folder / names[i], **how)

    async def archive(request: Request) -> Response:
        folder, result = find_result(request)
        content = await run_in_threadpool(_zip, folder, result)
        name = f"{folder.parent.parent.name}-{result.id}.zip".encode("ascii", "replace").decode()
        headers = {"Content-Disposition": f'attachment; filename="{name.replace(chr(34), "_")}"'}
        return StreamingResponse(content, media_type="application/zip", headers=headers)

    return [
        Route("/runs/{run}", page),
        Route("/runs/{run}/make", make, methods=["POST"]),
        Route("/runs/{run}/command", command, methods=["POST"]),
        Route("/runs/{run}/results", results),
        Route("/runs/{run}/results/{result}/zip", archive),
        Route("/runs/{run}/results/{result}/{number:int}", file),
    ]


def _zip(folder: Path, result: Result) -> Iterator[bytes]:
    """Return the files of a result, as the chunks of a zip."""
    content = tempfile.TemporaryFile()  # noqa: SIM115, it is closed after the last chunk
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name in [*result.files, *result.others]:
            archive.write(folder / name, name)
    content.seek(0)

    def chunks() -> Iterator[bytes]:
        with content:
            while chunk := content.read(CHUNK):
                yield chunk

    return chunks()
