"""Bad input of a hundred kinds: one line, exit code 2, and nothing is written."""

import os
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromnoise.checkpoints import LOCK, OWNER

pytestmark = pytest.mark.slow

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
TRAIN = ("train", "tiny.yaml", "--out", "new")
SAMPLE = ("sample", "run", "--out", "new")
EVALUATE = ("evaluate", "images", "--out", "new", "--reference", "images", "--extractor", "pixels")
SWEEP = ("sweep", "run", "--out", "new", "--extractor", "pixels")
INPAINT = ("edit", "inpaint", "run", "--out", "new", "--image", "8.png")
VARY = ("edit", "vary", "run", "--out", "new", "--image", "8.png")
INTERPOLATE = ("edit", "interpolate", "run", "--out", "new")
CLASSIFIER = ("classifier", "train", "classes", "--out", "new")

BAD = {
    # recipes
    "a command that is none": ("trian",),
    "a flag that is none": (*TRAIN, "--fast"),
    "a flag without its value": ("train", "tiny.yaml", "--out"),
    "an argument that is missing": ("train",),
    "a recipe that is not there": ("train", "no.yaml"),
    "a shipped recipe that is none": ("train", "digitz"),
    "a recipe that is no YAML": ("train", "broken.yaml"),
    "a recipe of bytes": ("train", "bytes.yaml"),
    "a recipe that is a list": ("train", "list.yaml"),
    "a recipe that multiplies itself": ("train", "bomb.yaml"),
    "a recipe that is nested for ever": ("train", "deep.yaml"),
    "a recipe that is a folder": ("train", "folder.yaml"),
    # settings of a training
    "a key that is none": (*TRAIN, "stesp=5"),
    "a key of a section that is none": (*TRAIN, "trainning.steps=5"),
    "a key that is given twice": (*TRAIN, "steps=5", "steps=6"),
    "an old key": (*TRAIN, "diffusion.metric=mse"),
    "a setting as a flag": (*TRAIN, "--steps", "5"),
    "no setting": (*TRAIN, "steps"),
    "steps as a word": (*TRAIN, "steps=many"),
    "no steps": (*TRAIN, "steps=0"),
    "a fraction of a step": (*TRAIN, "steps=1.5"),
    "steps and epochs": (*TRAIN, "steps=5", "epochs=1"),
    "patience without a holdout": (*TRAIN, "patience=3"),
    "a holdout of everything": (*TRAIN, "data.holdout=1"),
    "a holdout of nothing": (*TRAIN, "data.holdout=0.0001"),
    "a holdout that is a word": (*TRAIN, "data.holdout=some"),
    "minutes and steps": (*TRAIN, "minutes=5", "steps=5"),
    "minutes and hours": (*TRAIN, "minutes=5", "hours=1"),
    "less than a minute": (*TRAIN, "minutes=0.5"),
    "hours as a word": (*TRAIN, "hours=all"),
    "minutes of a run that has begun": ("resume", "run", "minutes=5"),
    "a share of more than all": (*TRAIN, "preview_every=1.5"),
    "more epochs than can be": (*TRAIN, "epochs=1e300"),
    "a batch of none": (*TRAIN, "batch_size=0"),
    "more parts than images": (*TRAIN, "parts=9"),
    "a negative rate": (*TRAIN, "learning_rate=-1"),
    "a rate that is no number": (*TRAIN, "learning_rate=.nan"),
    "a decay of 1": (*TRAIN, "ema_decay=1"),
    "an average that is too long": (*TRAIN, "ema_lengths=[0.5]"),
    "lengths that are no list": (*TRAIN, "ema_lengths=0.1"),
    "fp16 on a CPU": (*TRAIN, "precision=fp16"),
    "a device that is none": (*TRAIN, "device=tpu"),
    "a device that is not here": (*TRAIN, "device=cuda:7"),
    "first weights that are not there": (*TRAIN, "start_from=none.safetensors"),
    "a negative seed": (*TRAIN, "seed=-1"),
    "a size of 0": (*TRAIN, "data.size=0"),
    "a size of three numbers": (*TRAIN, "data.size=[1,2,3]"),
    "a fit that is none": (*TRAIN, "data.fit=stretch"),
    "a colour that is none": (*TRAIN, "data.background=300"),
    "a network that is none": (*TRAIN, "network=unet"),
    "an option that the network lacks": (*TRAIN, "network.depth=3"),
    "groups that do not divide": (*TRAIN, "network.groups=3"),
    "a patch that is none": (*TRAIN, "network.patch=3"),
    "patches that do not fit": (*TRAIN, "network.patch=2", "data.size=10"),
    "blocks of a level too many": (*TRAIN, "network.num_res_blocks=[1,1,1]"),
    "heads that do not divide": (*TRAIN, "network.head_channels=5"),
    "a schedule that is none": (*TRAIN, "diffusion.schedule=line"),
    "no timesteps": (*TRAIN, "diffusion.T=0"),
    "a β above 1": (*TRAIN, "diffusion.schedule={name: linear, beta_T: 2}"),
    "ε at an SNR of 0": (*TRAIN, "diffusion.zero_terminal_snr=true"),
    "a loss that is none": (*TRAIN, "diffusion.loss=l3"),
    "a bound without a learned variance": (*TRAIN, "diffusion.loss=vlb"),
    "guidance without labels": (*TRAIN, "sampling.guidance=2"),
    "labels that are not there": (*TRAIN, "data.labels=true", "--data", "images"),
    "scores of a classifier that is none": (
        *(*TRAIN, "evaluation.every=2", "evaluation.extractor=classifier"),
    ),
    "scores of too few images": (*TRAIN, "evaluation.every=2", "evaluation.num_images=3"),
    "scores of fewer images than features": (
        *(*TRAIN, "evaluation.every=2", "evaluation.num_images=40"),
    ),
    # images
    "images that are not there": (*TRAIN, "--data", "nowhere"),
    "a folder without images": (*TRAIN, "--data", "empty"),
    "a text instead of images": (*TRAIN, "--data", "text.txt"),
    "broken images alone": (*TRAIN, "--data", "broken"),
    "a zip that is none": (*TRAIN, "--data", "broken.zip"),
    "an npz of objects": (*TRAIN, "--data", "objects.npz"),
    "an npz without images": (*TRAIN, "--data", "numbers.npz"),
    "a pipe instead of images": (*TRAIN, "--data", "pipe"),
    "images of several sizes": (*TRAIN, "--data", "mixed", "data.size=null"),
    "a source that is none": (*TRAIN, "data.source=imagenet"),
    # run folders
    "a folder in use": ("train", "tiny.yaml", "--out", "images"),
    "a run that is there": ("train", "tiny.yaml", "--out", "run"),
    "a file instead of a folder": ("train", "tiny.yaml", "--out", "text.txt"),
    "a run folder without a name": ("train", "tiny.yaml", "--out", ""),
    "a run that is none": ("resume", "images"),
    "another network for a run": ("resume", "run", "network.channels=16"),
    "an old step for a run": ("resume", "run", "steps=-1"),
    "previews of no run": ("progress", "images"),
    "averages that were not kept": ("ema", "run", "--length", "0.1"),
    "an average of no length": ("ema", "run", "--length", "0.9"),
    "a page about no run": ("report", "images"),
    "a page that is no page": ("report", "run", "--out", "page.txt"),
    "a recipe that is none for the doctor": ("doctor", "digitz"),
    "a recipe that is none to show": ("recipes", "show", "digitz"),
    # sampling
    "a model that is not there": ("sample", "nowhere"),
    "a model that is text": ("sample", "text.txt"),
    "a model that is an image": ("sample", "8.png"),
    "a file of another program": ("sample", "other.pt"),
    "seeds that are none": (*SAMPLE, "--seeds", "a-b"),
    "seeds that run backwards": (*SAMPLE, "--seeds", "5-3"),
    "more seeds than can be": (*SAMPLE, "--seeds", "0-999999999999"),
    "seeds and their number": (*SAMPLE, "--seeds", "0-3", "--num", "4"),
    "no image": (*SAMPLE, "--num", "0"),
    "more steps than timesteps": (*SAMPLE, "steps=101"),
    "a sampler that is none": (*SAMPLE, "sampler=dimm"),
    "an option of another sampler": (*SAMPLE, "sampler=heun", "eta=0"),
    "η above 1": (*SAMPLE, "eta=2"),
    "bounds of no churn": (*SAMPLE, "sampler=heun", "churn_first=5"),
    "guidance of an unconditional model": (*SAMPLE, "guidance=2"),
    "a class of an unconditional model": (*SAMPLE, "--class", "3"),
    "a clamp that is none": (*SAMPLE, "clamp=maybe"),
    "times that are none": (*SAMPLE, "--times", "a"),
    "a grid without columns": (*SAMPLE, "--columns", "0"),
    "a scale without its model": (*SAMPLE, "--autoguidance-scale", "2"),
    "conditions that are not there": (*SAMPLE, "--conditions", "none.json"),
    "samples into a file": ("sample", "run", "--out", "text.txt"),
    "samples into no name": ("sample", "run", "--out", ""),
    "weights that are none": (*SAMPLE, "--weights", "best"),
    "a device that is none to sample on": (*SAMPLE, "--device", "tpu"),
    "a batch of no image": (*SAMPLE, "--batch-size", "0"),
    # edits
    "no image to vary": ("edit", "vary", "run", "--out", "new", "--image", "none.png"),
    "a strength above 1": (*VARY, "--strength", "2"),
    "a mask of another size": (*INPAINT, "--mask", "9.png"),
    "no mask": INPAINT,
    "nothing to interpolate": INTERPOLATE,
    "seeds and images": (*INTERPOLATE, "--seeds", "1,2", "--a", "8.png", "--b", "8.png"),
    "one frame": (*INTERPOLATE, "--seeds", "1,2", "--frames", "1"),
    "edits into a file": ("edit", "vary", "run", "--image", "8.png", "--out", "text.txt"),
    # evaluation
    "nothing to evaluate": ("evaluate", "nowhere"),
    "a reference that is not there": ("evaluate", "images", "--reference", "nowhere"),
    "a reference that is a run": ("evaluate", "images", "--reference", "run"),
    "a metric that is none": (*EVALUATE, "--metrics", "fdi"),
    "an extractor that is none": ("evaluate", "images", "--extractor", "vgg"),
    "a classifier that is not there": ("evaluate", "images", "--classifier", "nowhere"),
    "too few images": EVALUATE,
    "a seed of images": (*EVALUATE, "--seed", "3"),
    "a set of several sizes": ("evaluate", "mixed", "--reference", "images"),
    "scores of a classifier that is no folder": (
        *("evaluate-labels", "run", "--classifier", "images"),
    ),
    "a sampler of a sweep that is none": (*SWEEP, "--samplers", "dimm"),
    "no step of a sweep": (*SWEEP, "--steps", "0"),
    "a best row into no model": (*SWEEP, "--save-best", "best.pt"),
    "a sweep into a file": ("sweep", "run", "--extractor", "pixels", "--out", "text.txt"),
    "a bound of no model": ("likelihood", "images"),
    # data, classifiers, imports
    "a check of nothing": ("data", "check", "nowhere"),
    "a check of an empty folder": ("data", "check", "empty"),
    "a check of a split that is not there": ("data", "check", "images", "--split", "test"),
    "a path that is not UTF-8": ("data", "check", "caf\udce9"),
    "an output that is not UTF-8": ("data", "shapes", "caf\udce9"),
    "shapes into a folder in use": ("data", "shapes", "images"),
    "shapes of no image": ("data", "shapes", "new", "--train", "0"),
    "a classifier of no label": ("classifier", "train", "images", "--out", "new"),
    "a classifier of a key that is none": (*CLASSIFIER, "epocs=1"),
    "a classifier into a folder in use": ("classifier", "train", "classes", "--out", "images"),
    "an import of text": ("import", "text.txt", "--out", "new"),
    "an import of an unknown format": ("import", "other.pt", "--out", "new", "--format", "best"),
    "an import of other tensors": ("import", "other.pt", "--out", "new"),
    "an import of a text-to-image pipeline": ("import", "text-to-image", "--out", "new"),
    "an import of a folder of images": ("import", "images", "--out", "new"),
    "an export of nothing": ("export", "nowhere", "--format", "diffusers", "--out", "new"),
    "an export in a format that is none": ("export", "run", "--format", "onnx", "--out", "new"),
    "an export without a format": ("export", "run", "--out", "new"),
    "an export into a folder in use": (
        *("export", "run", "--format", "diffusers", "--out", "images"),
    ),
    "an export to a file that is there": (
        *("export", "run", "--format", "safetensors", "--out", "there.safetensors"),
    ),
    "an export to a file of another ending": (
        *("export", "run", "--format", "safetensors", "--out", "new.pt"),
    ),
}


@pytest.fixture
def place(tmp_path: Path, recipe_file: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the current one, with good and bad files."""
    import torch

    monkeypatch.chdir(tmp_path)
    draws = np.random.default_rng(0)

    def png(path: str, side: int = 8) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 255, (side, side), np.uint8)).save(path)

    for i in range(4):
        png(f"images/{i}.png")
        png(f"classes/{'ab'[i % 2]}/{i}.png")
        png(f"mixed/{i}.png", 8 + i)
    png("8.png")
    png("9.png", 9)
    for name in ("empty", "folder.yaml", "broken", "text-to-image"):
        Path(name).mkdir()
    vae = '{"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]}'
    Path("text-to-image/model_index.json").write_text(vae)
    Path("there.safetensors").write_text("mine")
    Path("broken/a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Path("broken.zip").write_bytes(b"PK\x03\x04")
    Path("text.txt").write_text("hello\n")
    Path("broken.yaml").write_text("data: [\n")
    Path("bytes.yaml").write_bytes(b"\xff\xfe\x00data")
    Path("list.yaml").write_text("- data\n")
    Path("bomb.yaml").write_text(BOMB)
    Path("deep.yaml").write_text("[" * 5000)
    np.savez("objects.npz", images=np.array([{}, []], dtype=object))
    np.savez("numbers.npz", numbers=np.arange(3))
    torch.save({"a": torch.zeros(2)}, "other.pt")
    with zipfile.ZipFile("images.zip", "w") as archive:
        archive.write("8.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo("pipe")
    return tmp_path


@pytest.fixture
def in_a_minute():
    """End a test that takes longer."""
    if not hasattr(signal, "alarm"):
        yield
        return

    def stop(number: int, frame: object) -> None:
        pytest.fail("it takes more than a minute")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def tree(folder: Path) -> dict[str, int]:
    """Return all names in a folder with the time of their last change."""
    paths = (path for path in folder.rglob("*") if path.name not in (LOCK, OWNER))
    return {str(path): path.lstat().st_mtime_ns for path in paths if path.name != "run"}


@pytest.mark.parametrize("kind", BAD)
def test_it_is_one_line_and_nothing_is_written(kind, place, cli, in_a_minute):
    before = tree(place)
    code, out, err = cli(*BAD[kind])
    lines = [line for line in err.splitlines() if not line.startswith(("decoding", "reading"))]
    assert (code, len(lines), out) == (2, 1, ""), f"{out}\n{err}"
    assert lines[0].startswith("error: ")
    assert lines[0].endswith((".", "?", "…"))
    assert tree(place) == before
