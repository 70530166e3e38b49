"""Files that are no checkpoint of another program: what they are, and which command takes them."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import fromnoise


def refused(cli, tmp_path, *arguments):
    code, out, err = cli("import", *arguments, "--out", tmp_path / "model")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert not (tmp_path / "model").exists()
    return err


def test_a_run_and_its_files_need_no_import(cli, finished_run, tmp_path):
    newest = finished_run / "checkpoints/000006"
    for path in (finished_run, newest, newest / "ema.safetensors", newest / "model.safetensors"):
        err = refused(cli, tmp_path, path)
        assert f"{path} is a model of fromnoise and needs no import. To sample: " in err
        assert f"fromnoise sample {path}" in err


def test_an_imported_model_needs_none_either(cli, foreign_checkpoint, tmp_path):
    folder = tmp_path / "once"
    assert cli("import", foreign_checkpoint.file, "--out", folder, "size=8").code == 0
    for path in (folder, folder / "model.safetensors"):
        assert f"fromnoise sample {path}" in refused(cli, tmp_path, path)
    fromnoise.load(folder).denoiser.eval()


def test_a_classifier_is_named_with_its_command(cli, tmp_path):
    folder = tmp_path / "classifier"
    folder.mkdir()
    (folder / "classifier.json").write_text("{}")
    assert f"evaluate-labels RUN --classifier {folder}" in refused(cli, tmp_path, folder)


def picture(kind):
    data = io.BytesIO()
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(data, kind)
    return data.getvalue()


def archive(*names):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name in names:
            file.writestr(name, b"x")
    return data.getvalue()


def arrays():
    data = io.BytesIO()
    np.save(data, np.zeros(3))
    return data.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", picture("PNG"), "is a PNG image of 8x6 pixels, not weights. To check images: "),
        ("a.pt", picture("JPEG"), "is a JPEG image of 8x6 pixels"),
        ("a.webp", picture("WEBP"), "is a WEBP image of 8x6 pixels"),
        ("a.npz", archive("images.npy", "labels.npy"), "is an npz of numpy without weights (it "),
        ("a.zip", archive("one.png", "two.png"), "is a zip archive without weights (it begins "),
        ("a.npy", arrays(), "is an array of numpy, not weights. To check images: fromnoise data"),
        ("a.ckpt", POINTER, "is a pointer of Git LFS, not the file. Fetch it: git lfs pull"),
        ("a.safetensors", POINTER, "is a pointer of Git LFS"),
        ("a.pth", b"\n<!DOCTYPE html><html>", "is an HTML page. Download the file itself"),
        ("a.yaml", b"network: ddpm\n", "is a YAML file, not weights. To train a recipe: "),
        ("a.pt", b"", "a.pt is empty. Copy or download it again."),
        ("a.pt", b'{"weights": 3}\n', "is text, not weights (it begins with '{\"weights\": 3}')"),
        ("a.pt", "Größe\n".encode(), "is text, not weights (it begins with 'Größe')"),
        ("a.pt.gz", b"\x1f\x8b\x08\0\0", "is packed (gzip). Unpack it, and give the checkpoint"),
        ("a.pt", archive("x/data.pkl")[:-9], "is cut off: it begins as a file of torch.save"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        ("a.pt", b"\x80\x02\x8a\n\0", "is not a checkpoint of torch, or is damaged ("),
    ],
)
def test_other_kinds_are_named_with_their_command(cli, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in refused(cli, tmp_path, tmp_path / name)


def test_an_unmatched_file_is_said_to_be_unmatched(cli, tmp_path):
    """Not that it could not be read: what it holds, and what was expected."""
    torch.save({"state_dict": {"layer.weight": torch.ones(1)}, "epoch": 3}, tmp_path / "a.pt")
    err = refused(cli, tmp_path, tmp_path / "a.pt")
    assert "has no known format. Its keys are: state_dict.layer.weight." in err
    assert "context-unet has contextembed1.model.0.weight" in err
    err = refused(cli, tmp_path, tmp_path / "a.pt", "--format", "lucidrains")
    assert "does not have the format lucidrains" in err
    assert "Expected under any prefix: lucidrains has init_conv.weight." in err
