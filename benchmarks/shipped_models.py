"""Train, score and pack the models of the package: `src/fromnoise/shipped/NAME`.

Each is trained by a shipped recipe and scored by the commands below, whose tables its card shows.
The weights are stored in float16. Runs, classifiers and scores stay in the folder --out; those that
are there are not made again.
"""

import shutil
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import NamedTuple

from fromnoise.interop.share import share
from fromnoise.model.names import SHIPPED

CC_BY, APACHE = "cc-by-4.0", "apache-2.0"


class Shipped(NamedTuple):
    """A model: its recipe, the licence of its weights, its images, and how it is scored.

    classifier: the settings of its classifier; None to compare pixels. num: images to score.
    """

    recipe: str
    license: str
    about: str
    classifier: tuple[str, ...] | None
    num: int


MODELS = {
    "digits": Shipped(
        "digits",
        CC_BY,
        "Handwritten digits, 8×8 grey. Trained on the 1,797 digits of Alpaydin and Kaynak, UCI "
        "Machine Learning Repository, CC BY 4.0.",
        None,
        1797,
    ),
    "emoji": Shipped(
        "emoji",
        APACHE,
        "Emoji by class, 32×32 in colour. Trained on 1,906 pictures of Noto Emoji (Google, Apache "
        "2.0), as in the npm package emoji-datasource-google 16.0.0, without skin tones.",
        ("size=32", "channels=3", "epochs=15"),
        1000,
    ),
    "garments": Shipped(
        "fashion-mnist-classes",
        "mit",
        "Garments by class, 28×28 grey. Trained on the 60,000 training images of Fashion-MNIST "
        "(Zalando, MIT).",
        ("source=fashion-mnist", "epochs=1"),
        2000,
    ),
}


def fromnoise(*arguments: object) -> None:
    """Run a command of fromnoise. Ends the program if it fails."""
    line = [str(argument) for argument in arguments]
    print("fromnoise", *line, flush=True)
    if status := subprocess.call([sys.executable, "-m", "fromnoise", *line]):
        raise SystemExit(status)


def make(name: str, data: str | None, out: Path) -> Path:
    """Train, score and pack a model. data: a path that replaces the data of the recipe."""
    model, run, scores = MODELS[name], out / name, out / name / "evaluation"
    if not run.exists():
        fromnoise("train", model.recipe, "--out", run, *(["--data", data] if data else []))
    space = ["--extractor", "pixels", "--allow-small"]
    if model.classifier is not None:
        classifier = out / f"{name}-classifier"
        space = ["--classifier", classifier, "--allow-small"]
        if not classifier.exists():
            source = data or model.recipe.removesuffix("-classes")
            fromnoise("classifier", "train", source, "--out", classifier, *model.classifier)
    if not (scores / "set").exists():
        fromnoise("evaluate", run, *space, "--num", model.num, "--out", scores / "set")
    if model.classifier is not None and not (scores / "labels").exists():
        labels = ["--classifier", classifier, "--num", 50, "--out", scores / "labels"]
        fromnoise("evaluate-labels", run, *labels)
    folder = SHIPPED / name
    shutil.rmtree(folder, ignore_errors=True)
    return share(run, name, folder, license=model.license, about=model.about, half=True)


def main() -> None:
    """Make the models that are named, or all."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*MODELS, []], help="(default: all)")
    parser.add_argument("--out", type=Path, required=True, help="a folder of runs and scores")
    parser.add_argument("--data", help="the images of a single model, if not its recipe's")
    arguments = parser.parse_args()
    names = arguments.names or list(MODELS)
    if arguments.data is not None and len(names) > 1:
        parser.error("--data is for one model. Name one.")
    for name in names:
        folder = make(name, arguments.data, arguments.out)
        print(folder, f"{sum(file.stat().st_size for file in folder.iterdir()) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
