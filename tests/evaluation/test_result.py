"""The picture at the end of a training."""

import numpy as np
import pytest
from PIL import Image

import fromnoise
from fromnoise import runs
from fromnoise.evaluation import result


def test_it_shows_samples_beside_their_nearest_training_images(tiny, tmp_path, monkeypatch, caplog):
    shown = {}

    def grids(panels, path, *, title, columns):
        shown.update(panels=panels, title=title)
        Image.new("L", (8, 8)).save(path)
        return path

    monkeypatch.setattr(result, "grids_side_by_side", grids)
    with caplog.at_level("INFO", "fromnoise"):
        run = fromnoise.train(tiny, out=tmp_path / "run")
    assert caplog.messages[-1] == str(run.folder / "result.png")
    (_, samples), (_, pairs) = shown["panels"]
    model = fromnoise.load(run.folder)
    np.testing.assert_array_equal(samples, model.sample(range(4)).numpy())
    assert shown["title"] == "Step 6, 5 steps of ddim"
    digits = fromnoise.open_images("digits").images.astype(float)
    for sample, near in zip(pairs[::2], pairs[1::2], strict=True):
        distances = [
            ((digits - s) ** 2).sum(axis=(1, 2, 3)).min() for s in (sample, sample[..., ::-1])
        ]
        assert ((sample.astype(float) - near) ** 2).sum() == min(distances)


def test_it_is_of_the_best_checkpoint_and_drawn_again_if_it_is_missing(tiny, tmp_path):
    tiny["data"]["holdout"] = 0.1
    run = fromnoise.train(tiny, out=tmp_path / "run").folder
    picture = run / result.FILE
    with Image.open(picture) as image:
        assert image.width > image.height
    first = picture.read_bytes()
    picture.unlink()
    runs.resume(run)
    assert picture.read_bytes() == first


def test_a_long_sampler_is_shortened_and_labels_are_in_turn(tiny, tmp_path, monkeypatch):
    tiny["data"]["labels"] = True
    tiny["diffusion"]["T"] = 200
    tiny["sampling"] = {"sampler": "ddpm", "steps": 200}
    asked = []
    sample = fromnoise.Model.sample

    def spy(self, seeds, **given):
        asked.append((given.get("sampler"), given.get("steps"), given["cond"].argmax(1).tolist()))
        return sample(self, seeds, **given)

    monkeypatch.setattr(fromnoise.Model, "sample", spy)
    fromnoise.train(tiny, out=tmp_path / "run")
    assert asked[-1] == ("ddim", 50, [0, 1, 2, 3])


def test_a_full_disk_is_a_warning(tiny, tmp_path, monkeypatch, caplog):
    def full(*_: object, **__: object):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(result, "grids_side_by_side", full)
    assert fromnoise.train(tiny, out=tmp_path / "run").finished
    assert "cannot write result.png" in caplog.text
    with pytest.raises(FileNotFoundError):
        (tmp_path / "run" / result.FILE).read_bytes()
