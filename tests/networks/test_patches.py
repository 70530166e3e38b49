"""A network of patches from the command line: training, sampling, inpainting and likelihood."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

import fromnoise
from fromnoise.evaluation import likelihood

OPTIONS = (
    "network.patch=2",
    "network.num_res_blocks=[1,2]",
    "network.head_channels=4",
    "network.self_conditioning=true",
    "network.learned_variance=true",
    "diffusion.vlb_weight=0.001",
    "steps=4",
)


@pytest.fixture
def patched(cli, recipe_file, tmp_path):
    """A run with patches of 2×2 pixels, a learned variance and self-conditioning."""
    code, _, err = cli("train", recipe_file, "--out", tmp_path / "patched", *OPTIONS)
    assert code == 0, err
    return tmp_path / "patched"


def test_a_run_of_patches_samples_inpaints_and_has_a_likelihood(
    cli, patched, tmp_path, monkeypatch
):
    model = fromnoise.load(patched, device="cpu")
    network = model.denoiser.network
    assert (network.patch, network.size_multiple, network.stem.in_channels) == (2, 4, 8)
    assert model.image_shape == (1, 8, 8)
    again = fromnoise.load(model.save(tmp_path / "alone.safetensors"), device="cpu")
    images = model.sample([0, 1], steps=2)
    assert images.shape == (2, 1, 8, 8)
    assert (images == again.sample([0, 1], steps=2)).all()

    code, _, err = cli("sample", patched, "--num", 2, "--steps", 2, "--out", tmp_path / "samples")
    assert code == 0, err
    with Image.open(tmp_path / "samples" / "000000.png") as first:
        assert (np.asarray(first) == images[0, 0].numpy()).all()

    given = np.arange(64, dtype=np.uint8).reshape(8, 8)
    mask = np.zeros((8, 8), np.uint8)
    mask[3:6, 1:4] = 255  # across the edges of patches
    for name, pixels in (("given", given), ("mask", mask)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    files = "--image", tmp_path / "given.png", "--mask", tmp_path / "mask.png"
    how = "--steps", 2, "--resample", 1, "--out", tmp_path / "inpainted"
    code, _, err = cli("edit", "inpaint", patched, *files, *how)
    assert code == 0, err
    with Image.open(tmp_path / "inpainted" / "given-000000.png") as inpainted:
        assert (np.asarray(inpainted)[mask == 0] == given[mask == 0]).all()

    monkeypatch.setattr(likelihood, "MAX_IMAGES", 4)
    code, _, err = cli("likelihood", patched, "--out", tmp_path / "bits")
    assert code == 0, err
    record = json.loads((tmp_path / "bits" / "metrics.json").read_text(encoding="utf-8"))
    assert np.isfinite(record["bits"]["total"]["value"])


def test_a_recipe_stored_before_means_the_same(tiny, tmp_path):
    """Its network has no patch, one number of blocks and one head."""
    run = fromnoise.train(tiny, out=tmp_path / "run", overrides={"training.steps": 1}).folder
    written = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))["network"]
    assert (written["patch"], written["num_res_blocks"], written["head_channels"]) == (1, 1, None)


def test_the_doctor_and_a_report_know_patches(cli, recipe_file, patched, tmp_path):
    code, out, err = cli("doctor", recipe_file, *OPTIONS)
    assert code == 0, err
    assert "at 2×2" in out  # level 1 of 4×4 patches
    page = tmp_path / "page.html"
    assert cli("report", patched, "--out", page).code == 0
    said = page.read_text(encoding="utf-8")
    for row in ("network.patch", "network.num_res_blocks", "network.head_channels"):
        assert f"<code>{row}</code>" in said
