"""The commands of the README and of two pages are run, in order, on small images and few steps."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromnoise import cli
from fromnoise.config import recipe as config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TRAIN, SAMPLE = ((ROOT / f"docs/{name}.md").read_text("utf-8") for name in ("train", "sample"))
SMALL = ["training.batch_size=4", "training.warmup_steps=1", "training.preview_every=100"]
SMALL_DDPM = ["network.channels=8", "network.groups=4", "network.num_res_blocks=1", "data.size=8"]
FEW = ["--num", "40", "--allow-small"]
LESS = {  # appended to a command: the same command, less of it
    "train": [*SMALL, *SMALL_DDPM, "training.steps=2"],
    "train shapes-small": [*SMALL, *SMALL_DDPM[:-1], "training.steps=2"],
    "doctor": [*SMALL, *SMALL_DDPM],
    "classifier train": ["epochs=1"],
    "evaluate": [*FEW, "steps=2"],
    "evaluate-labels": ["steps=2", "--num", "1"],
    "sweep": [*FEW, "--steps", "2,3"],
    "data shapes": ["--train", "20", "--test", "2"],
    "edit inpaint": ["steps=3", "--resample", "2"],
    "edit vary": ["steps=3"],
    "edit interpolate": ["steps=3"],
}


def blocks(language, page=README):
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def commands(page):
    lines = [line for block in blocks("sh", page) for line in block.splitlines()]
    return [line for line in lines if line.startswith("fromnoise ") and "hub:" not in line]


@pytest.fixture
def home(tmp_path, monkeypatch, foreign_checkpoint):
    """A home with photos, emoji, a mask and another program's ckpt.pt: the working directory."""
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(photos / f"{i}.png")
    for i in range(24):
        folder = tmp_path / "noto-emoji" / ("flags", "food-drink")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).save(folder / f"{i}.png")
    Image.fromarray(np.tri(20, 24, dtype=np.uint8) * 255).save(tmp_path / "mask.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command, monkeypatch, capsys):
    """Run one line of shell that begins with fromnoise; its standard output."""
    command, _, target = command.partition(" > ")
    program, name, *arguments = shlex.split(command, comments=True)
    assert program == "fromnoise"
    arguments = [str(Path(a).expanduser()) if a.startswith("~") else a for a in arguments]
    arguments += LESS.get(f"{name} {(arguments or [''])[0]}", LESS.get(name, []))
    if name == "train":
        arguments = [a for a in arguments if not re.match(r"minutes=|steps=(?!2$)", a)]
    if name == "evaluate" and "--extractor" not in arguments:  # Inception's weights are big
        arguments += ["--extractor", "pixels", "--out", "as if by inception"]
    if name == "sample" and not {"--seeds", "--num"} & set(arguments):
        arguments += ["--num", "2"]
    if name == "sample":
        arguments = [re.sub(r"^steps=\d+$", "steps=2", a) for a in arguments]
        if not {"--steps", "steps=2"} & set(arguments):
            arguments += ["steps=2"]
    if name == "resume":
        arguments = [re.sub(r"steps=\d+", "steps=3", a) for a in arguments]
    monkeypatch.setattr(sys, "argv", [program, name, *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 0, command
    output = capsys.readouterr().out
    if target:
        Path(target.strip()).write_text(output, encoding="utf-8")
    return output


@pytest.mark.slow
def test_every_command_of_the_readme_works(home, monkeypatch, capsys):
    names = {command.split()[1] for command in commands(README)}
    assert {"data", "train", "resume", "sample", "edit", "evaluate"} <= names
    for command in commands(README):
        run(command, monkeypatch, capsys)
    assert (home / "runs/photos/checkpoints/000002").is_dir()
    assert list((home / "runs/photos").rglob("grid.png"))


@pytest.mark.slow
def test_every_command_of_the_pages_on_training_and_sampling_works(home, monkeypatch, capsys):
    for command in commands(TRAIN) + commands(SAMPLE):
        run(command, monkeypatch, capsys)
    assert (home / "runs/photos/checkpoints/000003").is_dir()
    assert (home / "made/grid.png").is_file()
    assert config.load_recipe("my.yaml") == config.load_recipe("folder")


@pytest.mark.slow
def test_the_python_of_the_readme_works(home):
    (code,) = blocks("python")
    steps = '"training.steps": 500'
    assert steps in code
    few = '"training.steps": 2, "network.channels": 8, "training.preview_every": 100'
    names = {}
    exec(code.replace(steps, few), names)
    assert names["images"].shape == (16, 1, 8, 8)


@pytest.mark.docs
def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make ([a-z]+)", "".join(blocks("sh"))):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.docs
def test_every_recipe_is_in_the_table():
    table = re.findall(r"^\| `([\w-]+)` \|", TRAIN, flags=re.MULTILINE)
    assert sorted(table) == config.shipped_recipes()


@pytest.mark.docs
def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


@pytest.mark.docs
def test_every_link_of_the_readme_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
