"""`fromnoise classifier train` and `classifier import`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option, Typer

from fromnoise.cli import options

classifier = Typer(
    name="classifier",
    help="Train a classifier that predicts the labels of images.",
    no_args_is_help=True,
)
KEYS = (
    "source, size, channels, fit, background, white, strict, epochs, batch_size, learning_rate, "
    "seed"
)


@classifier.command("train")
def classifier_train(
    data: Annotated[
        str, Argument(help="labelled images: a folder, zip, npz or IDX, or a source's name")
    ],
    out: Annotated[Path, Option(help="a new folder for the classifier")],
    settings: Annotated[
        list[str] | None,
        Argument(metavar="KEY=VALUE", help=f"such as size=64 or epochs=10; keys: {KEYS}"),
    ] = None,
    held_out: Annotated[
        Path | None, Option(help="held-out images", show_default="the test set, or a tenth")
    ] = None,
    device: options.Device = "auto",
) -> None:
    """Train a classifier that predicts the labels of images, and score it on held-out images."""
    from fromnoise.classifier.settings import parse_settings
    from fromnoise.config.overrides import parse_override

    parsed = parse_settings(dict(map(parse_override, settings or [])))
    from fromnoise.classifier.training import train_classifier_to_folder

    train_classifier_to_folder(data, out, settings=parsed, held_out=held_out, device=device)
    print(out.absolute())


@classifier.command("import")
def classifier_import(
    file: Annotated[Path, Argument(help="an evaluator of i-CLEVR: a ResNet-18 of torch")],
    objects: Annotated[Path, Option(help="the objects.json that it was trained with")],
    out: Annotated[Path, Option(help="a new folder for the classifier")],
    size: Annotated[int, Option(min=8, help="height and width of its images")] = 64,
) -> None:
    """Import a trained evaluator of i-CLEVR as a classifier."""
    from fromnoise.data.sources.folder import read_objects
    from fromnoise.interop.iclevr_evaluator import import_evaluator

    names = read_objects(objects, where="--objects")
    print(import_evaluator(file, names, size=(size, size), device="cpu").save(out))
