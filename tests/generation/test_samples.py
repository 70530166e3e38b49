"""Samples as files: PNGs, a grid, arrays."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image

from fromnoise.checkpoints import hash_of
from fromnoise.generation import request, samples
from fromnoise.model.model import Model, build_denoiser, to_uint8

SEEDS = [4, 0, 9, 10, 2]


# ---- files --------------------------------------------------------------------------------------


def test_images_alone(model, tmp_path, write_samples):
    files = write_samples(model, SEEDS, tmp_path, batch_size=2)
    names = ["000004.png", "000000.png", "000009.png", "000010.png", "000002.png"]
    assert files == [tmp_path / name for name in names]
    assert set(tmp_path.iterdir()) == set(files)
    expected = model.sample(SEEDS, batch_size=2)
    for file, image in zip(files, expected, strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), image[0].numpy())


def test_an_image_says_how_it_was_made(model, tmp_path, write_samples):
    [file] = write_samples(model, [7], tmp_path, steps=3, eta=0.5)
    with Image.open(file) as image:
        said = image.text
    assert said == {
        "sampler": "ddim",
        "clamp": "True",
        "eta": "0.5",
        "steps": "3",
        "timesteps": "trailing",
        "weights": "ema",
        "precision": model.auto_precision,
        "trained steps": "6",
        "model": hash_of(model.denoiser.state_dict())[:16],
        "seed": "7",
        "software": "fromnoise",
    }


def test_everything_that_can_be_asked_for(model, tmp_path, monkeypatch, write_samples):
    done = []
    bar = nullcontext(lambda *numbers: done.append(numbers))
    monkeypatch.setattr(request, "progress_bar", lambda _: bar)
    files = write_samples(
        model,
        SEEDS,
        tmp_path,
        batch_size=2,
        npz=True,
        gif=True,
        trajectory=True,
        noise=True,
        grid=True,
    )
    others = ["denoising.gif", "trajectory.png", "grid.png", "noise.png", "samples_5x8x8x1.npz"]
    assert [file.name for file in files[len(SEEDS) :]] == others
    assert set(tmp_path.iterdir()) == set(files)
    assert done == [(2, 5), (4, 5), (5, 5)]
    for file in files[:-1]:
        with Image.open(file) as image:
            image.load()


def test_the_array_holds_all_images_channels_last(model, tmp_path, write_samples):
    *_, file = write_samples(model, SEEDS, tmp_path, batch_size=3, npz=True)
    with np.load(file) as arrays:
        assert list(arrays) == ["arr_0"]
        images = arrays["arr_0"]
    assert (images.dtype, images.shape) == (np.uint8, (5, 8, 8, 1))
    expected = model.sample(SEEDS, batch_size=3).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(images, expected)


def test_grid_and_noise_are_of_the_same_seeds(model, tmp_path, monkeypatch, write_samples):
    shown = {}

    def grid(images, path, **_):
        shown[path.name] = images
        return path

    monkeypatch.setattr(samples, "GRID_IMAGES", 3)
    monkeypatch.setattr(samples, "grid_figure", grid)
    monkeypatch.setattr(samples, "grids_side_by_side", grid)
    write_samples(model, SEEDS, tmp_path, grid=True, noise=True)
    assert np.array_equal(shown["grid.png"], model.sample(SEEDS)[:3].numpy())
    (_, start), (_, result) = shown["noise.png"]
    assert np.array_equal(start, to_uint8(model.start(SEEDS[:3])).numpy())
    assert np.array_equal(result, shown["grid.png"])


# ---- labels -------------------------------------------------------------------------------------


def test_guidance_without_labels_is_refused(labelled, tmp_path, write_samples):
    with pytest.raises(ValueError, match=r"^guidance has no effect: ε = ε_∅ \+ s"):
        write_samples(labelled, [0], tmp_path / "out", guidance=3.0)
    assert not (tmp_path / "out").exists()


def test_a_seed_that_comes_twice_is_refused(model, tmp_path, write_samples):
    with pytest.raises(ValueError, match="seed 3 is given twice"):
        write_samples(model, [3, 1, 3], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_seed_may_come_again_with_other_labels(labelled, tmp_path, write_samples):
    cond = np.eye(len(labelled.spec.label_names), dtype=np.int8)[[0, 1]]
    made = write_samples(labelled, [3, 3], tmp_path / "out", cond=cond)
    assert len(set(made)) == 2
    with pytest.raises(ValueError, match=r"seed 3 is given twice for .*Give each seed once"):
        write_samples(labelled, [3, 3], tmp_path / "no", cond=cond[[0, 0]])


def test_labels_of_any_name_have_files_and_captions(labelled, tmp_path, write_samples):
    """Mathematics of matplotlib, names of folders, and names that differ by what files cannot."""
    names = ("a/b", "a:b", "$x^$", "$", ".", "..", "A:B", "tench, Tinca tinca", "-x", "caf\\xe9")
    spec = labelled.spec.model_copy(update={"label_names": names})
    torch.manual_seed(0)
    model, count = Model(build_denoiser(spec).eval(), spec), len(names)
    cond = np.eye(count, dtype=np.int8) * 2 - 1
    made = write_samples(model, [3] * count, tmp_path / "each", cond=cond, grid=True, steps=1)
    pngs = [path for path in made if path.name != "grid.png"]
    assert len({path.name.casefold() for path in pngs}) == count == len(list(tmp_path.rglob("0*")))
    for path, name in zip(pngs, names, strict=True):
        with Image.open(path) as image:
            assert image.info["labels"] == name
    write_samples(model, [3], tmp_path / "one", cond=cond[2:3], grid=True, steps=1)  # in the title
    assert (tmp_path / "one" / "000003-$x^$.png").is_file()
