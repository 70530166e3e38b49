"""Write the report of a run, and find the training images nearest to a sample."""

from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.config.recipe import load_recipe
from fromnoise.data import read_image
from fromnoise.evaluation.copies import ranked_neighbours
from fromnoise.report.report import write_report
from fromnoise.studio.checking import png
from fromnoise.studio.making import load_run
from fromnoise.studio.runs import RECIPE
from fromnoise.studio.worker import Call
from fromnoise.training.run import open_data

NEAREST = 6  # training images


def report(arguments: dict[str, Any], call: Call) -> None:
    """Write the report of a run, as `fromnoise report` does."""
    write_report([Path(arguments["run"])], progress=call.progress)


def nearest(arguments: dict[str, Any], call: Call) -> dict[str, Any]:
    """Return the training images nearest to an image, mirrored or not, by their pixels."""
    run, file = Path(arguments["run"]), Path(arguments["file"])
    spec = load_run(run).spec
    how = {"size": spec.size, "channels": spec.channels, "fit": spec.fit}
    own = read_image(file, **how, background=spec.background)
    images = open_data(load_recipe(run / RECIPE), download=False)
    train = images.levels.to_bytes(images.images)
    call.check()
    plain, turned = (each.reshape(1, -1) for each in (own, own[..., ::-1]))
    ranks = range(1, min(NEAREST, len(train)) + 1)
    distances, rows, mirrored = ranked_neighbours(
        plain, turned, train.reshape(len(train), -1), ranks=ranks
    )
    found = []
    for distance, row, mirror in zip(distances[0], rows[0], mirrored[0], strict=True):
        image = train[row][..., ::-1] if mirror else train[row]
        level = float(distance) / np.sqrt(own.size)
        found.append({"png": png(image), "number": int(row), "mirrored": bool(mirror)})
        found[-1]["distance"] = float(level)
    return {"image": png(own), "nearest": found, "count": len(train)}
