"""The pages of trainings: run the doctor, start, stop, resume, and watch several side by side."""

from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from fromnoise.config.recipe import match_schema, read_yaml, recipe_head, shipped_recipes
from fromnoise.studio.app import Studio, read_json
from fromnoise.studio.requests import Resuming, Training, read_body, shell_line
from fromnoise.studio.runs import RECIPE, preview_steps
from fromnoise.studio.training_log import LogReader, thinned

MOST_BESIDE = 6  # trainings on one page: the number of colours


def routes(studio: Studio) -> list[BaseRoute]:
    """Return the endpoints of these pages."""
    trainings = studio.trainings

    def find(id: str) -> Path:
        try:
            return trainings.find(id)
        except KeyError:
            raise HTTPException(404, "This training does not exist. Go back to the list.") from None

    async def page(request: Request) -> Response:
        query = request.query_params
        states = [trainings.state(path) for path in await run_in_threadpool(trainings.all)]
        recipes = [(name, recipe_head(name)) for name in shipped_recipes()]
        given = {key: query.get(key, "") for key in ("place", "path", "size", "labels", "fit")}
        return studio.page("train", recipes=recipes, states=states, given=given)

    async def wanted_of(request: Request) -> tuple[Training, Path | None, list[str]]:
        wanted = read_body(Training, await read_json(request))
        data = studio.places.find(wanted.place, wanted.path) if wanted.place else None
        return wanted, data, wanted.arguments(trainings.path_of(wanted.name), data)

    async def command(request: Request) -> Response:
        """Return the command line of a training, and its recipe with every key."""
        try:  # the form may be incomplete
            wanted, data, arguments = await wanted_of(request)
            overrides = wanted.overrides()
        except ValueError as error:
            return JSONResponse({"problem": str(error)})
        if data is not None:
            overrides["data.path"] = str(data)
        recipe = match_schema(*read_yaml(wanted.recipe), overrides)
        return JSONResponse({"command": shell_line(arguments), "recipe": recipe.to_yaml()})

    async def doctor(request: Request) -> Response:
        wanted, data, _ = await wanted_of(request)
        wanted.overrides()
        out = trainings.path_of(wanted.name)
        arguments = {"recipe": wanted.recipe, "words": wanted.words(), "out": str(out)}
        arguments["data"] = data and str(data)
        job = studio.jobs.add("doctor", f"Doctor for {wanted.name}", arguments)
        return JSONResponse(job.shown())

    async def start(request: Request) -> Response:
        wanted, _, arguments = await wanted_of(request)
        wanted.overrides()
        return JSONResponse({"run": trainings.start(wanted.name, arguments)})

    async def watch(request: Request) -> Response:
        ids = request.query_params.getlist("run")[:MOST_BESIDE]
        paths = [find(id) for id in ids]
        if not paths:
            raise HTTPException(404, "No training is chosen. Choose one in the list.")
        others = [trainings.state(p) for p in await run_in_threadpool(trainings.all)]
        shown = [trainings.state(path) for path in paths]
        return studio.page("training", shown=shown, others=[o for o in others if o.id not in ids])

    async def history(request: Request) -> Response:
        path = find(request.path_params["run"])
        rows = await run_in_threadpool(LogReader(path).read)
        file = path / RECIPE
        recipe = file.read_text(encoding="utf-8") if file.is_file() else ""
        content = {"state": trainings.state(path)._asdict(), "rows": thinned(rows)}
        return JSONResponse(content | {"previews": preview_steps(path), "recipe": recipe})

    async def stop(request: Request) -> Response:
        trainings.stop(find(request.path_params["run"]))
        return JSONResponse({})

    async def resume(request: Request) -> Response:
        path = find(request.path_params["run"])
        trainings.resume(path, read_body(Resuming, await read_json(request)).settings)
        return JSONResponse(trainings.state(path)._asdict())

    return [
        Route("/train", page),
        Route("/train/command", command, methods=["POST"]),
        Route("/train/doctor", doctor, methods=["POST"]),
        Route("/train/start", start, methods=["POST"]),
        Route("/training", watch),
        Route("/training/{run}/history", history),
        Route("/training/{run}/stop", stop, methods=["POST"]),
        Route("/training/{run}/resume", resume, methods=["POST"]),
    ]
