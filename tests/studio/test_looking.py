"""Look closer: the report in a frame of its own, nearest training images, points of sweeps."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from fromnoise.data import open_images
from fromnoise.studio.look_page import POLICY, read_point, read_sweeps

ROW = {"sampler": "ddim", "steps": 5, "seconds_per_image": 0.01, "fid": {"value": 3, "low": 2.5}}


def test_points_of_sweeps_are_read_and_damage_is_left_out(tmp_path):
    point = {"sampler": "ddim", "steps": 5, "guidance": 1.0, "front": False, "times": []}
    point |= {"seconds": 0.01, "value": 3.0, "low": 2.5, "high": None}
    assert read_point(ROW) == point
    for wrong in (
        None,
        [],
        {},
        ROW | {"fid": None},
        ROW | {"fid": float("nan")},
        ROW | {"steps": "x"},
    ):
        assert read_point(wrong) is None, wrong
    for name, text in (
        ("sweep-1", json.dumps({"extractor": {"name": "pixels"}, "rows": [ROW, {}, "x"]})),
        ("sweep-2", "no json"),
        ("sweep-3", json.dumps({"rows": 5})),
        ("sweep-4", "[" * 10**5),
        ("sweep-5", json.dumps({"rows": []})),
    ):
        (tmp_path / "evaluation" / name).mkdir(parents=True)
        (tmp_path / "evaluation" / name / "sweep.json").write_text(text)
    assert read_sweeps(tmp_path) == [{"name": "sweep-1", "extractor": "pixels", "points": [point]}]


def test_without_a_report_the_page_says_so(studio):
    run = studio.run
    assert studio.get(f"/runs/{run}/report").json == {"error": "There is no report yet. Write one."}
    assert "There is no sweep yet." in studio.get(f"/runs/{run}/look").text


@pytest.mark.slow
def test_the_report_has_a_policy_of_its_own(studio, home):
    run = studio.run
    job = studio.post(f"/runs/{run}/report", {}).json["id"]
    assert studio.ended(job)["state"] == "done"
    answer = studio.get(f"/runs/{run}/report")
    assert answer.body == (home / "runs" / "digits" / "report.html").read_bytes()
    assert answer.headers["content-security-policy"] == POLICY
    assert POLICY.startswith("sandbox allow-scripts; default-src 'none';")


@pytest.mark.slow
def test_the_nearest_training_images_are_those_of_all_distances(studio):
    run = studio.run
    job = studio.post(f"/runs/{run}/make", {"seeds": "0-1", "steps": 3}).json["id"]
    assert studio.ended(job)["state"] == "done"
    made = studio.get(f"/runs/{run}/results").json[0]
    stream = studio.events()
    assert next(stream)[1] == "reload"
    job = studio.post(f"/runs/{run}/nearest", {"result": made["id"], "number": 1}).json["id"]
    for _, name, content in stream:
        if name == "job" and content["id"] == job and content["state"] in ("done", "failed"):
            break
    found = content["result"]
    own = np.array(Image.open(io.BytesIO(studio.get(f"/runs/{run}/results/{made['id']}/1").body)))
    train = open_images("digits").images[:, 0].astype(float)
    both = [((own[:, ::side] - train) ** 2).mean(axis=(1, 2)) ** 0.5 for side in (1, -1)]
    distances = np.minimum(*both)
    assert found["count"] == len(train)
    expected = np.sort(distances)[:6]
    np.testing.assert_allclose([each["distance"] for each in found["nearest"]], expected)
    for each in found["nearest"]:
        image = train[each["number"]]
        content = base64.b64decode(each["png"].partition(",")[2])
        shown = np.array(Image.open(io.BytesIO(content)))
        assert (shown == (image[:, ::-1] if each["mirrored"] else image)).all()
        assert distances[each["number"]] == pytest.approx(each["distance"])
    wrong = studio.post(f"/runs/{run}/nearest", {"result": made["id"], "number": 2})
    assert wrong.status == 404
