"""The edit page: inpaint a painted mask, vary an image, interpolate between images or seeds."""

import tempfile
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from fromnoise.studio.app import Studio, find_picture, read_json
from fromnoise.studio.data_page import receive
from fromnoise.studio.jobs import new_id
from fromnoise.studio.places import safe_part
from fromnoise.studio.requests import Editing, Picture, read_body
from fromnoise.studio.results import FOLDER, ID, INPUTS
from fromnoise.studio.runs import read_facts

NAMES = {
    "inpaint": "Inpainting",
    "vary": "Variations",
    "walk": "Interpolation between images",
    "walk seeds": "Interpolation between seeds",
}


def routes(studio: Studio) -> list[BaseRoute]:
    """Return the endpoints of this page."""

    async def page(request: Request) -> Response:
        run = studio.find_run(request)
        studio.jobs.warm(run)
        model = await studio.reading.call("describe", {"run": str(run)})
        query = request.query_params
        given = query.get("result", ""), query.get("number", "")
        return studio.page("edit", run=read_facts(run), model=model, given=given)

    async def upload(request: Request) -> Response:
        """Store an image, the body of the request, at the size of the model, for editing."""
        run, name = studio.find_run(request), safe_part(request.path_params["name"])
        kind = Path(name).suffix.lower()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"image{kind}"
            await receive(request, file)
            return await taken(run, file, name)

    async def choose(request: Request) -> Response:
        """Store an image of a result, for editing."""
        run, wanted = studio.find_run(request), read_body(Picture, await read_json(request))
        file, _ = find_picture(run, wanted.result, wanted.number)
        return await taken(run, file, file.name)

    async def taken(run: Path, file: Path, name: str) -> Response:
        id = new_id()
        arguments = {"run": str(run), "path": str(file), "name": name}
        arguments |= {"kind": file.suffix, "target": str(run / FOLDER / INPUTS / f"{id}.png")}
        await studio.reading.call("take", arguments)
        return JSONResponse({"input": id})

    def find_input(run: Path, id: str) -> Path:
        file = run / FOLDER / INPUTS / f"{id}.png"
        if not ID.fullmatch(id) or not file.is_file():
            raise HTTPException(404, "This image does not exist. Choose it again.")
        return file

    async def image(request: Request) -> Response:
        file = find_input(studio.find_run(request), request.path_params["input"])
        return FileResponse(file, headers={"Cache-Control": "private, max-age=86400, immutable"})

    async def edit(request: Request) -> Response:
        run, wanted = studio.find_run(request), read_body(Editing, await read_json(request))
        count, id = len(wanted.numbers()), new_id()
        chosen = [wanted.image, wanted.other] if wanted.kind == "walk" else [wanted.image]
        inputs = [str(find_input(run, each)) for each in chosen if each]
        inputs = [] if wanted.kind == "walk seeds" else inputs
        arguments: dict[str, Any] = {"run": str(run), "folder": str(run / FOLDER / id)}
        arguments |= {"request": wanted.model_dump(mode="json"), "inputs": inputs}
        count = wanted.frames if wanted.kind.startswith("walk") else count
        title = f"{NAMES[wanted.kind]}, {count} image{'s' if count > 1 else ''}"
        job = studio.jobs.add("edit", title, arguments, run=request.path_params["run"])
        return JSONResponse(job.shown())

    return [
        Route("/runs/{run}/edit", page),
        Route("/runs/{run}/edit", edit, methods=["POST"]),
        Route("/runs/{run}/inputs", choose, methods=["POST"]),
        Route("/runs/{run}/inputs/{input}", image),
        Route("/runs/{run}/inputs/{name}", upload, methods=["PUT"]),
    ]
