"""A folder holds the samples of one model and one setting, and `evaluate` scores no mixture."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from fromnoise.checkpoints import FolderNotEmpty
from fromnoise.data import DataError
from fromnoise.evaluation.images import read_images
from fromnoise.generation.edits import interpolate_seeds_to_folder
from fromnoise.generation.request import Request
from fromnoise.model.model import Model, build_denoiser


def snapshot(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_folder_grows_by_the_same_model_and_settings(model, tmp_path, write_samples):
    write_samples(model, [0, 1], tmp_path, steps=2)
    write_samples(model, [1, 2], tmp_path, steps=2)
    assert len(read_images(tmp_path).images) == 3
    alone = write_samples(model, [0], tmp_path / "alone", steps=2)
    assert (tmp_path / "000000.png").read_bytes() == alone[0].read_bytes()


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"steps": 3}, "steps = 2, not 3"),
        ({"eta": 0.5}, "eta = 0.0, not 0.5"),
        ({"clamp": False}, "clamp = True, not False"),
    ],
)
def test_other_settings_are_refused_before_the_drawing(model, tmp_path, write_samples, other, says):
    write_samples(model, [0], tmp_path, steps=2)
    before = snapshot(tmp_path)
    with pytest.raises(FolderNotEmpty, match=f"{says}. Give --out a new folder, or add --overw"):
        write_samples(model, [1], tmp_path, **{"steps": 2} | other)
    assert snapshot(tmp_path) == before


def test_another_model_of_the_same_step_is_refused(model, tmp_path, write_samples, earlier):
    write_samples(model, [0], tmp_path, steps=2)
    with pytest.raises(FolderNotEmpty, match="model = "):
        write_samples(earlier(model, model.spec.step), [1], tmp_path, steps=2)


def test_labels_may_be_added_but_not_replaced(labelled, tmp_path, write_samples):
    one, other = torch.eye(3, dtype=torch.int8).numpy()[:2, None]
    write_samples(labelled, [0], tmp_path, cond=one, steps=2)
    with pytest.raises(FolderNotEmpty, match=r"labels = .*, which are not requested"):
        write_samples(labelled, [0], tmp_path, cond=other, steps=2)
    write_samples(labelled, [0, 1], tmp_path, cond=np.concatenate([one, other]), steps=2)


def test_overwrite_removes_the_samples_and_nothing_else(model, tmp_path, write_samples):
    write_samples(model, range(3), tmp_path, steps=2)
    (tmp_path / "notes.txt").write_text("mine")
    write_samples(model, [7], tmp_path, steps=3, overwrite=True)
    assert {file.name for file in tmp_path.iterdir()} == {"000007.png", "notes.txt"}


def test_what_is_replaced_stays_until_there_is_something_new(
    model, tmp_path, write_samples, monkeypatch
):
    write_samples(model, range(3), tmp_path, steps=2)
    before = snapshot(tmp_path)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Model, "denoise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_samples(model, [7], tmp_path, steps=3, overwrite=True)
    assert snapshot(tmp_path) == before


def test_samples_of_an_earlier_version_are_told(model, tmp_path, write_samples):
    [file] = write_samples(model, [0], tmp_path, steps=2)
    with Image.open(file) as image:
        info = PngImagePlugin.PngInfo()
        for key, text in image.info.items():
            if key != "model":
                info.add_text(key, text)
        image.save(file, pnginfo=info)
    with pytest.raises(FolderNotEmpty, match="because an earlier fromnoise wrote it"):
        write_samples(model, [1], tmp_path, steps=2)


def test_pictures_of_others_are_never_removed(model, tmp_path, write_samples):
    Image.new("L", (8, 8)).save(tmp_path / "000123.png")
    for overwrite in (False, True):
        with pytest.raises(FolderNotEmpty, match=r"000123.png has no metadata of fromnoise sample"):
            write_samples(model, [7], tmp_path, overwrite=overwrite)
    assert [file.name for file in tmp_path.iterdir()] == ["000123.png"]


def test_a_mixture_is_not_scored(model, tmp_path, write_samples, cli):
    write_samples(model, range(2), tmp_path / "a", steps=2)
    write_samples(model, range(2, 4), tmp_path / "b", steps=3)
    mixed = tmp_path / "mixed"
    shutil.copytree(tmp_path / "a", mixed)
    shutil.copytree(tmp_path / "b", mixed, dirs_exist_ok=True)
    code, _, err = cli("evaluate", mixed, "--extractor", "pixels", "--reference", tmp_path / "a")
    assert code == 2
    assert "mixes samples: 000002.png has steps = 3, not 2. Move" in err
    code, _, err = cli("evaluate", tmp_path / "a", "--extractor", "pixels", "--reference", mixed)
    assert code == 2
    assert "mixes samples" in err


def test_a_picture_of_another_program_among_samples_is_not_scored(model, tmp_path, write_samples):
    write_samples(model, range(2), tmp_path, steps=2)
    Image.new("L", (8, 8)).save(tmp_path / "000123.png")
    with pytest.raises(DataError, match=r"000123.png has no metadata of fromnoise sample"):
        read_images(tmp_path)


# ---- channels that a PNG cannot hold ------------------------------------------------------------


@pytest.fixture
def of_channels(model):
    """of_channels(5): an untrained model of so many channels."""

    def build(channels: int) -> Model:
        spec = model.spec.model_copy(update={"channels": channels})
        return Model(build_denoiser(spec).eval(), spec)

    return build


@pytest.mark.parametrize(("channels", "shown"), [(2, 1), (4, 3), (5, 3)])
def test_all_channels_are_saved(of_channels, tmp_path, write_samples, channels, shown, caplog):
    model = of_channels(channels)
    files = write_samples(model, range(3), tmp_path, steps=2)
    assert f"{channels} channels: a PNG shows {shown} of them, and an npz holds all" in caplog.text
    with np.load(files[-1]) as stored:
        images = stored["arr_0"]
    assert np.array_equal(images.transpose(0, 3, 1, 2), model.sample(range(3), steps=2))
    with pytest.raises(DataError, match=f"show only some of {channels} channels. Give the npz"):
        read_images(tmp_path)
    assert np.array_equal(read_images(files[-1]).images, images.transpose(0, 3, 1, 2))
    more = write_samples(model, range(3, 6), tmp_path, steps=2)[-1]
    assert more != files[-1]  # the only copy of other seeds
    assert len(list(tmp_path.glob("*.npz"))) == 2
    write_samples(model, [9], tmp_path, steps=3, overwrite=True)
    assert [file.name for file in tmp_path.glob("*.npz")] == [
        f"samples_1x8x8x{channels}-seeds-9-9.npz"
    ]
    edit = Request(model, model.sampling_config(steps=2), tmp_path / "edit")
    assert interpolate_seeds_to_folder(edit, [0, 1], frames=2)[-1].suffix == ".npz"
