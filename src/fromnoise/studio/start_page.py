"""The start page: a card with a preview for each run."""

import base64
from collections import OrderedDict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fromnoise.studio.app import Studio
from fromnoise.studio.runs import preview_steps

REMEMBERED = 200  # pictures


def routes(studio: Studio) -> list[BaseRoute]:
    """Return the endpoints of this page."""
    pictures: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()

    async def start(request: Request) -> Response:
        studio.jobs.warm()
        return studio.page("start", runs=studio.runs.list())

    async def picture(request: Request) -> Response:
        """Return the images of a preview as a PNG: of a step, or of the newest."""
        run, query = studio.find_run(request), request.query_params
        wanted = query.get("step", "")
        step = int(wanted) if wanted.isdecimal() else max(preview_steps(run), default=0)
        most = 64 if "whole" in query else 16
        key = run, step, most
        if key not in pictures:
            arguments = {
                "run": str(run),
                "step": step,
                "most": most,
                "columns": 8 if most > 16 else 4,
            }
            found = await studio.reading.call("preview", arguments)
            pictures[key] = base64.b64decode(found["png"])
            while len(pictures) > REMEMBERED:
                pictures.popitem(last=False)
        return Response(pictures[key], media_type="image/png")

    return [Route("/", start), Route("/runs/{run}/picture", picture)]
