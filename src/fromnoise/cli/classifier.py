"""`fromnoise classifier train` and `classifier import`."""

from pathlib import Path
from typing import Annotated

import typer

from fromnoise.classifier.classifier import save_classifier
from fromnoise.classifier.training import train_classifier_to_folder
from fromnoise.cli import options
from fromnoise.data.decoding.transforms import Fit
from fromnoise.data.sources.iclevr import read_objects
from fromnoise.interop.iclevr_evaluator import import_evaluator


def classifier_train(
    data: Annotated[
        str, typer.Argument(help="labelled images: a folder, zip, npz or IDX, or a source's name")
    ],
    out: Annotated[Path, typer.Option(help="a new folder for the classifier")],
    source: Annotated[
        str | None, typer.Option(help="read it as folder, zip, idx, npz, iclevr, …")
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(help="images to score it on", show_default="the test set, or a tenth"),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=8, help="pixels a side", show_default="as is")
    ] = None,
    channels: Annotated[int | None, typer.Option(min=1, show_default="as is")] = None,
    fit: Annotated[Fit, typer.Option(help="how images come to the size")] = "crop",
    background: Annotated[
        str, typer.Option(help="around padded images, and behind transparent ones: R,G,B")
    ] = "255,255,255",
    epochs: Annotated[
        float | None, typer.Option(show_default="what shows it 200,000 images, 4 to 40 epochs")
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="at its highest")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="broken files are an error")] = False,
    device: options.Device = "auto",
) -> None:
    """Train a classifier that says what an image shows, and score it on images it never saw."""
    train_classifier_to_folder(
        data,
        out,
        source=source,
        held_out=held_out,
        size=None if size is None else (size, size),
        channels=channels,
        fit=fit,
        background=(255, 255, 255),
        epochs=epochs,
        learning_rate=learning_rate,
        seed=seed,
        strict=strict,
        device=device,
    )
    print(out.absolute())


def classifier_import(
    file: Annotated[Path, typer.Argument(help="an evaluator of i-CLEVR: a ResNet-18 of torch")],
    objects: Annotated[Path, typer.Option(help="the objects.json that it was trained with")],
    out: Annotated[Path, typer.Option(help="a new folder for the classifier")],
    size: Annotated[int, typer.Option(min=8, help="pixels a side of its images")] = 64,
) -> None:
    """Turn a trained evaluator of i-CLEVR into a classifier."""
    names = read_objects(objects, where="--objects")
    print(save_classifier(import_evaluator(file, names, size=(size, size), device="cpu"), out))
