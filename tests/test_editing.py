import numpy as np
import pytest
from PIL import Image

import fromnoise
from fromnoise.config import ConfigError
from fromnoise.data import DataError, read_image
from fromnoise.editing import interpolate_to_folder


@pytest.fixture
def model(finished_run):
    return fromnoise.load(finished_run, device="cpu")


@pytest.fixture
def pair(tmp_path):
    """A dark and a bright picture, larger than the model's images and in colour."""
    for name, value in (("a", 30), ("b", 220)):
        Image.fromarray(np.full((20, 24, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path / "a.png", tmp_path / "b.png"


def test_goes_from_the_one_to_the_other(model, pair, tmp_path):
    """So little noise that an untrained model cannot change much: the ends are the inputs."""
    out = tmp_path / "out"
    files = interpolate_to_folder(model, *pair, out, frames=5, strength=0.02, steps=100)
    names = [file.name for file in files]
    assert names == [*(f"{i:03d}.png" for i in range(5)), "grid.png", "interpolation.gif"]
    means = []
    for file in files[:5]:
        with Image.open(file) as image:
            assert image.size == (8, 8)
            means.append(np.asarray(image).mean())
    assert means == sorted(means)
    assert means[0] == pytest.approx(30, abs=25)  # in 0..255, not in [−1, 1] or [0, 1]
    assert means[-1] == pytest.approx(220, abs=25)
    steps = np.diff(means)
    assert steps.max() < 2 * steps.min()  # evenly: neither end is left out nor said twice


def test_frames_and_seed_can_be_chosen_on_the_command_line(run, pair, tmp_path, cli):
    where = ("edit", "interpolate", run, "--a", pair[0], "--b", pair[1], "--frames", 3)
    first = cli(*where, "--out", tmp_path / "0", "--steps", 4)
    again = cli(*where, "--out", tmp_path / "1", "--steps", 4)
    other = cli(*where, "--out", tmp_path / "2", "--steps", 4, "--seed", 1)
    assert first.code == again.code == other.code == 0
    assert len(first.out.splitlines()) == 5
    images = [(tmp_path / name / "001.png").read_bytes() for name in "012"]
    assert images[0] == images[1] != images[2]


@pytest.mark.parametrize("strength", [0.0, 0.001, -1, 1.5])
def test_a_strength_that_is_none_is_refused(model, pair, tmp_path, strength):
    with pytest.raises(ConfigError, match=r"strength must lie in \(0, 1\]"):
        interpolate_to_folder(model, *pair, tmp_path / "out", strength=strength)
    assert not (tmp_path / "out").exists()


def test_one_image_is_read_as_the_model_wants_it(pair, tmp_path):
    image = read_image(pair[1], size=(8, 6), channels=1)
    assert (image.shape, image.dtype, int(image.mean())) == ((1, 8, 6), np.uint8, 220)
    (tmp_path / "text.png").write_text("no image")
    for name in ("text.png", "nowhere.png"):
        with pytest.raises(DataError, match=name):
            read_image(tmp_path / name, size=(8, 8), channels=3)
