"""Check data before a training, without torch: the report of `data check`, with images."""

import base64
import io
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from fromnoise.checkpoints import atomic_file
from fromnoise.data import check_data, detect_source, read_image
from fromnoise.data.dataset import default_cache
from fromnoise.data.decoding import decode
from fromnoise.data.errors import BrokenImage, DataError, reason
from fromnoise.data.sources import get_source
from fromnoise.data.sources.base import ImageReader, SourceRequest
from fromnoise.pictures import displayable, to_pillow
from fromnoise.studio.places import ARCHIVES, LABELS, MOST_PIXELS
from fromnoise.studio.reading import read_spec
from fromnoise.studio.worker import Call

SAMPLES, PAIRS, LINES = 12, 6, 200
THUMBNAIL = 160  # pixels of the longer side
WHITE = (255, 255, 255)


def check(arguments: dict[str, Any], call: Call) -> dict[str, Any]:
    """Return the report of `fromnoise data check`, with some pairs of duplicates."""
    report = check_data(arguments["path"], progress=call.progress)
    data = (yaml.safe_load(report.recipe) or {}).get("data", {}) if report.recipe else {}
    size = data.get("size") or [0, 0]
    suggested = {
        "size": size if isinstance(size, int) else min(size),
        "fit": data.get("fit", "crop"),
    }
    with opened(arguments["path"]) as reader:
        number = {name: i for i, name in enumerate(reader.names)}
        pairs = [
            [{"name": name, "png": thumbnail(reader, number[name])} for name in pair]
            for pair in report.duplicates[:PAIRS]
        ]
    return {
        "text": str(report),
        "source": report.source,
        "count": report.count,
        "sizes": [[h, w, count] for (h, w), count in list(report.sizes.items())[:8]],
        "kinds": len(report.sizes),
        "channels": report.channels,
        "classes": list(report.classes.items())[:LINES],
        "labels_from": report.labels_from,
        "unlabelled": report.unlabelled,
        "duplicates": len(report.duplicates),
        "pairs": pairs,
        "broken": list(report.broken[:LINES]),
        "warned": list(report.warned[:LINES]),
        "notes": list(report.notes),
        "recipe": report.recipe,
        "suggested": suggested,
    }


def crops(arguments: dict[str, Any], call: Call) -> dict[str, Any]:
    """Return some images, each as it is and at a training's size and fit."""
    size, fit, shown = arguments["size"], arguments["fit"], []
    with opened(arguments["path"]) as reader:
        chosen = np.linspace(0, len(reader.names) - 1, min(SAMPLES, len(reader.names))).round()
        for i in map(int, chosen):
            try:
                picture = reader.read_image(i)
            except BrokenImage:
                continue
            channels = 1 if picture.pixels.shape[2] == 1 else 3
            picture = decode.to_channels(picture, channels)
            fitted = decode.fit_picture(picture, (size, size), fit=fit, background=WHITE)
            before = thumbnail(reader, i)
            shown.append({"name": reader.names[i], "before": before, "after": png(fitted)})
    return {"images": shown}


def accept(arguments: dict[str, Any], call: Call) -> None:
    """Check an uploaded file by its header. Raises DataError if it is not usable."""
    path, kind, name = Path(arguments["path"]), arguments["kind"], arguments["name"]
    if kind in ARCHIVES or name.rpartition("/")[2] in LABELS:
        return
    if kind not in decode.EXTENSIONS:
        raise DataError(f"{name} is not an image. {decode.ACCEPTED}")
    try:
        with path.open("rb") as file:
            header = decode.read_header(file)
    except (BrokenImage, OSError) as error:
        raise DataError(f"{name} cannot be read: {reason(error).rstrip('.')}. Remove it.") from None
    if header.height * header.width > MOST_PIXELS:
        raise DataError(
            f"{name} has {header.height}x{header.width} pixels, more than "
            f"{MOST_PIXELS // 10**6} million. Make it smaller."
        )


def take(arguments: dict[str, Any], call: Call) -> None:
    """Write an image at a model's size as a PNG, for editing. Raises DataError."""
    spec, target = read_spec(Path(arguments["run"])), Path(arguments["target"])
    if spec.get("depth", 8) != 8 or spec["channels"] not in (1, 3):
        raise DataError(
            "the studio edits only images of 8 bits in grey or RGB. Edit on the command line."
        )
    accept(arguments, call)
    how = {key: spec[key] for key in ("channels", "fit", "white") if spec.get(key) is not None}
    background = tuple(spec.get("background", WHITE))
    try:
        image = read_image(
            arguments["path"], size=tuple(spec["size"]), background=background, **how
        )
    except DataError as error:
        message = str(error).replace(arguments["path"], arguments["name"])
        raise DataError(message) from None
    with atomic_file(target) as writing:
        to_pillow(image).save(writing, "PNG")


@contextmanager
def opened(path: str) -> Iterator[ImageReader]:
    """Open the images of a path. Raises DataError."""
    request = SourceRequest(Path(path), "train", WHITE, default_cache(), False)
    reader = get_source(detect_source(path))(request).open()
    with closing(reader):
        yield reader


def thumbnail(reader: ImageReader, i: int) -> str:
    """Return an image as the URL of a small PNG."""
    picture = reader.read_image(i)
    channels = 1 if picture.pixels.shape[2] == 1 else 3
    picture = decode.to_channels(picture, channels)
    h, w = picture.pixels.shape[:2]
    scale = min(1.0, THUMBNAIL / max(h, w))
    size = max(1, round(h * scale)), max(1, round(w * scale))
    return png(decode.fit_picture(picture, size, fit="squash", background=WHITE))


def png(image: np.ndarray) -> str:
    """Return an image, uint8 (C, H, W), as the URL of a PNG."""
    content = io.BytesIO()
    shown: Image.Image = to_pillow(displayable(image[None])[0])
    shown.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
