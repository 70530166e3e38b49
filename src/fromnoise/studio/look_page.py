"""The report page of a run: report, sweeps, and the training images nearest to a sample."""

import json
import math
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from fromnoise.studio.app import Studio, find_picture, read_json
from fromnoise.studio.requests import Picture, read_body
from fromnoise.studio.runs import read_facts

REPORT = "report.html"
LARGEST = 2**24  # bytes of a record
# The script of a report runs in a frame without an origin and without network access.
POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; frame-ancestors 'self'"
)


def routes(studio: Studio) -> list[BaseRoute]:
    """Return the endpoints of this page."""

    async def page(request: Request) -> Response:
        run, query = studio.find_run(request), request.query_params
        given = query.get("result", ""), query.get("number", "")
        sweeps = await run_in_threadpool(read_sweeps, run)
        shown = {"written": (run / REPORT).is_file(), "sweeps": json.dumps(sweeps)}
        return studio.page("look", run=read_facts(run), given=given, **shown)

    async def written(request: Request) -> Response:
        file = studio.find_run(request) / REPORT
        if not file.is_file():
            raise HTTPException(404, "There is no report yet. Write one.")
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
        return FileResponse(file, media_type="text/html", headers=headers)

    async def write(request: Request) -> Response:
        run = studio.find_run(request)
        title, id = f"Report of {run.name}", request.path_params["run"]
        return JSONResponse(studio.jobs.add("report", title, {"run": str(run)}, run=id).shown())

    async def nearest(request: Request) -> Response:
        run, wanted = studio.find_run(request), read_body(Picture, await read_json(request))
        file, seed = find_picture(run, wanted.result, wanted.number)
        arguments = {"run": str(run), "file": str(file)}
        title = f"Training images nearest to seed {seed}"
        job = studio.jobs.add("nearest", title, arguments, run=request.path_params["run"])
        return JSONResponse(job.shown())

    return [
        Route("/runs/{run}/look", page),
        Route("/runs/{run}/report", written),
        Route("/runs/{run}/report", write, methods=["POST"]),
        Route("/runs/{run}/nearest", nearest, methods=["POST"]),
    ]


def read_sweeps(run: Path) -> list[dict[str, Any]]:
    """Return the points of each sweep of a run. Damaged records and rows are skipped."""
    sweeps = []
    for file in sorted((run / "evaluation").glob("*/sweep.json")):
        try:
            if file.stat().st_size > LARGEST:
                continue
            record = json.loads(file.read_text(encoding="utf-8"))
            points = [point for row in record["rows"] if (point := read_point(row)) is not None]
            extractor = record.get("extractor")
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        name = extractor.get("name") if isinstance(extractor, dict) else extractor
        sweeps.append({"name": file.parent.name, "extractor": str(name), "points": points})
    return [sweep for sweep in sweeps if sweep["points"]]


def read_point(row: Any) -> dict[str, Any] | None:
    """Return the settings, seconds per image and distance of a row of a sweep, or None."""
    try:
        score = row["fid"] if isinstance(row["fid"], dict) else {"value": row["fid"]}
        point = {"sampler": str(row["sampler"]), "steps": int(row["steps"])}
        point |= {"guidance": float(row.get("guidance", 1)), "front": bool(row.get("on_front"))}
        point |= {"seconds": float(row["seconds_per_image"]), "value": float(score["value"])}
        point["times"] = [int(t) for t in row.get("timesteps") or ()]
        low, high = (score.get(key) for key in ("low", "high"))
        point |= {"low": low and float(low), "high": high and float(high)}
    except (KeyError, TypeError, ValueError):
        return None
    numbers = (point["seconds"], point["value"])
    return point if all(math.isfinite(n) and n > 0 for n in numbers) else None
