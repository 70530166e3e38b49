"""Edits in the studio: the bytes of the command line; masks and images of other sizes."""

import base64
import io
import shlex

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow


def png(pixels):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def mask_of(h, w):
    mask = np.zeros((h, w), np.uint8)
    mask[h // 2 :] = 255
    return f"data:image/png;base64,{base64.b64encode(png(mask)).decode()}"


@pytest.fixture(scope="module")
def given(studio):
    """The run, and the ids of two images of another size."""
    run = studio.run
    rng, ids = np.random.default_rng(0), []
    for _ in range(2):
        content = png(rng.integers(0, 256, (20, 30), np.uint8))
        ids.append(studio.call("PUT", f"/runs/{run}/inputs/x.png", content).json["input"])
    return run, *ids


def edited(studio, run, wanted):
    job = studio.post(f"/runs/{run}/edit", wanted).json
    ended = studio.ended(job["id"])
    assert ended["state"] == "done", ended
    return studio.get(f"/runs/{run}/results?edits").json[0]


def test_an_image_is_brought_to_the_size_of_the_model(studio, given, home):
    run, image, _ = given
    shown = Image.open(io.BytesIO(studio.get(f"/runs/{run}/inputs/{image}").body))
    assert (shown.size, shown.mode) == ((8, 8), "L")
    inputs = home / "runs" / "digits" / "studio" / "inputs"
    before = set(inputs.iterdir())
    for name, content, said in (
        ("x.png", b"no image", "x.png cannot be read"),
        ("x.txt", b"text", "x.txt is not an image"),
        ("red.png", png(np.full((9, 9, 3), (255, 0, 0), np.uint8)), "red.png is in colour"),
        ("..%2Fx.png", b"x", "This page does not exist."),
    ):
        answer = studio.call("PUT", f"/runs/{run}/inputs/{name}", content)
        assert answer.status in (400, 404)
        assert answer.json["error"].startswith(said)
    assert set(inputs.iterdir()) == before


@pytest.mark.parametrize("kind", ["inpaint", "vary", "walk", "walk seeds"])
def test_the_files_are_those_of_the_command_line(studio, given, cli, tmp_path, kind):
    run, image, other = given
    wanted = {"kind": kind, "steps": 4, "image": image, "frames": 3, "seeds": "1-2"}
    wanted |= {"labels": "3"} if kind == "vary" else {}
    wanted |= {"mask": mask_of(8, 8)} if kind == "inpaint" else {}
    wanted |= {"other": other} if kind == "walk" else {}
    result = edited(studio, run, wanted)
    words = shlex.split(result["command"])[1:]
    words[words.index("--out") + 1] = str(tmp_path / "out")
    assert cli(*words).code == 0
    names = [*result["files"], *result["others"]]
    assert {file.name for file in (tmp_path / "out").iterdir()} == set(names)
    for i, name in enumerate(names):
        answer = studio.get(f"/runs/{run}/results/{result['id']}/{i}")
        assert answer.body == (tmp_path / "out" / name).read_bytes(), name
    assert result not in studio.get(f"/runs/{run}/results").json


def test_a_picture_that_was_made_is_edited(studio, given):
    run, *_ = given
    job = studio.post(f"/runs/{run}/make", {"seeds": "5", "steps": 2}).json["id"]
    assert studio.ended(job)["state"] == "done"
    made = studio.get(f"/runs/{run}/results").json[0]
    chosen = {"result": made["id"], "number": 0}
    image = studio.post(f"/runs/{run}/inputs", chosen).json["input"]
    own = studio.get(f"/runs/{run}/results/{made['id']}/0").body
    shown = studio.get(f"/runs/{run}/inputs/{image}").body
    pixels = [np.array(Image.open(io.BytesIO(content))) for content in (own, shown)]
    assert (pixels[0] == pixels[1]).all()
    wanted = {"kind": "inpaint", "image": image, "mask": mask_of(8, 8), "steps": 3}
    result = edited(studio, run, wanted)
    after = studio.get(f"/runs/{run}/results/{result['id']}/0").body
    assert (np.array(Image.open(io.BytesIO(after)))[:4] == pixels[0][:4]).all()
    for wrong in ({"result": "../..", "number": 0}, {"result": made["id"], "number": 99}):
        assert studio.post(f"/runs/{run}/inputs", wrong).status == 404


WRONG = {
    "Make the mask the size of the image file.": {"mask": mask_of(9, 8)},
    "has no white pixel": {"mask": "BLACK"},
    "there is no mask. Paint the area to inpaint.": {},
    "the mask is not a PNG. Paint it again.": {"mask": "data:image/png;base64,???"},
    "cannot be read as an image": {"mask": base64.b64encode(b"no PNG").decode()},
    "steps = 5000 is out of range": {"mask": mask_of(8, 8), "steps": 5000},
}


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_edit_is_one_sentence_and_leaves_nothing(studio, given, home, said):
    run, image, _ = given
    wanted = {"kind": "inpaint", "image": image, **WRONG[said]}
    if wanted.get("mask") == "BLACK":
        wanted["mask"] = base64.b64encode(png(np.zeros((8, 8), np.uint8))).decode()
    folder = home / "runs" / "digits" / "studio"
    before = {path.name for path in folder.iterdir()}
    ended = studio.ended(studio.post(f"/runs/{run}/edit", wanted).json["id"])
    assert ended["state"] == "failed"
    assert said in ended["error"]
    assert {path.name for path in folder.iterdir()} == before


def test_what_is_missing_is_said_at_once(studio, given):
    run, image, _ = given
    for wanted, status in (
        ({"kind": "vary", "image": "20260101-000000-abcdef"}, 404),
        ({"kind": "vary", "image": "../../recipe"}, 404),
        ({"kind": "vary", "image": image, "seeds": "0-99"}, 400),
        ({"kind": "paint"}, 400),
    ):
        assert studio.post(f"/runs/{run}/edit", wanted).status == status
