"""Data in the studio: folders below the root alone, uploads with limits, what the check finds."""

import base64
import http.client
import io
import os
import shutil
import signal
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from fromnoise.config.errors import ConfigError
from fromnoise.data import check_data, read_image
from fromnoise.studio.places import Places, safe_part


def png(*size, colour=(200, 30, 30)):
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def photos(home):
    """Pictures of two classes: one is broken, one a duplicate, one in a hidden folder."""
    folder, rng = home / "photos", np.random.default_rng(0)
    for name, count in (("cats", 5), ("dogs", 3)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (12 + i, 20, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    shutil.copy(folder / "cats" / "0.png", folder / "dogs" / "copy.png")
    (folder / "dogs" / "<broken>.png").write_bytes(png(9, 9)[:40])
    (home / ".secret").mkdir()
    (home / "outside").symlink_to("/etc")
    return folder


def test_folders_are_listed(studio, photos):
    found = studio.get("/data/folders?place=files&path=photos").json
    assert found == {"folders": ["cats", "dogs"], "archives": []}
    top = studio.get("/data/folders?place=files&path=").json["folders"]
    assert {"photos", "runs"} <= set(top)
    assert ".secret" not in top


LEADING_OUT = ["..", "../..", "photos/../..", "/etc", "//etc", ".secret", "photos/../.secret"]
LEADING_OUT += ["outside", "outside/ssl", "..\\..", "photos/./../.."]


@pytest.mark.parametrize("path", LEADING_OUT)
def test_a_path_that_leads_out_is_refused(studio, photos, path):
    start = {"recipe": "folder", "name": "x", "place": "files"}
    for answer in (
        studio.call("GET", f"/data/folders?place=files&path={path.replace(chr(92), '%5C')}"),
        studio.post("/data/check", {"place": "files", "path": path}),
        studio.post("/data/crops", {"place": "files", "path": path, "size": 8}),
        studio.post("/train/start", start | {"path": path}),
    ):
        assert answer.status == 400
        assert "is not inside" in answer.json["error"]


def test_a_folder_that_is_not_there_is_one_sentence(studio, photos):
    for path, said in (("no", "does not exist"), ("x" * 5000, "does not exist"), ("a\0b", "")):
        answer = studio.post("/data/check", {"place": "files", "path": path})
        assert answer.status == 400
        assert said in answer.json["error"]
    answer = studio.post("/data/check", {"place": "elsewhere", "path": ""})
    assert "is unknown" in answer.json["error"]


def test_the_check_is_that_of_the_command_line(studio, photos):
    job = studio.post("/data/check", {"place": "files", "path": "photos"}).json["id"]
    stream = studio.events(studio.get("/").text.partition('data-after="')[2].partition('"')[0])
    assert studio.ended(job)["state"] == "done"
    again = studio.post("/data/check", {"place": "files", "path": "photos"}).json["id"]
    result = next(
        content["result"]
        for _, name, content in stream
        if name == "job" and content["id"] == again and content["state"] == "done"
    )
    report = check_data(photos)
    assert result["text"] == str(report)
    assert result["count"] == report.count == 9
    assert result["classes"] == [["cats", 5], ["dogs", 4]]
    assert result["broken"] == list(report.broken)
    assert [[each["name"] for each in pair] for pair in result["pairs"]] == [
        ["cats/0.png", "dogs/copy.png"]
    ]


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_the_crops_are_those_of_a_training(studio, photos, fit):
    wanted = {"place": "files", "path": "photos", "size": 8, "fit": fit}
    images = studio.post("/data/crops", wanted).json["images"]
    assert len(images) == 9
    for image in images:
        content = base64.b64decode(image["after"].partition(",")[2])
        shown = np.array(Image.open(io.BytesIO(content))).transpose(2, 0, 1)
        own = read_image(photos / image["name"], size=(8, 8), channels=3, fit=fit)
        assert (shown == own).all(), image["name"]


def upload(studio, folder, name, content):
    return studio.call("PUT", f"/data/uploads/{folder}/{name}", content)


def test_files_are_uploaded_to_a_named_folder(studio, home):
    target = studio.post("/data/uploads", {"name": "my pictures"}).json
    assert target == {"place": "uploads", "path": "my pictures"}
    assert studio.post("/data/uploads", {"name": "my pictures"}).json["path"] == "my pictures-2"
    folder = "my%20pictures"
    for name in ("a.png", "red/b.png", "red/deep/c.png"):
        assert upload(studio, folder, name, png(9, 8)).json == {"name": name}
        assert (home / "data" / "my pictures" / name).read_bytes() == png(9, 8)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("x/1.png", png(8, 8))
    assert upload(studio, folder, "all.zip", archive.getvalue()).status == 200
    found = studio.get("/data/folders?place=uploads&path=my%20pictures").json
    assert found == {"folders": ["red"], "archives": ["all.zip"]}
    wanted = {"place": "uploads", "path": "my pictures/all.zip", "size": 8}
    assert len(studio.post("/data/crops", wanted).json["images"]) == 1


REFUSED = {
    "x.png": (b"", "the file is empty"),
    "x.txt": (b"text", "x.txt is not an image. Use files of these types"),
    "x.svg": (b"<svg/>", "x.svg is not an image"),
    "y.png": (b"\x89PNG nothing", "y.png cannot be read"),
    "big.png": (png(8000, 5001), "big.png has 5001x8000 pixels, more than 40 million"),
    "..%2Fx.png": (png(8, 8), "cannot be used"),
    "%2Fx.png": (png(8, 8), "cannot be used"),
    ".x.png": (png(8, 8), "cannot be used"),
    "a%00b.png": (png(8, 8), "cannot be used"),
    "a/b/c/d/e.png": (png(8, 8), "is in too many folders"),
    f"{'x' * 200}.png": (png(8, 8), "cannot be used"),
    "new/x.txt": (b"text", "is not an image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_and_not_kept(studio, home, name):
    target = studio.post("/data/uploads", {"name": "refused"}).json["path"]
    content, said = REFUSED[name]
    answer = upload(studio, target, name, content)
    assert answer.status in (400, 404)
    assert said in answer.json["error"]
    assert list((home / "data" / target).iterdir()) == []


def test_a_file_that_is_too_large_is_refused_while_it_streams(studio, home):
    target = studio.post("/data/uploads", {"name": "large"}).json["path"]
    answer = studio.call(
        "PUT", f"/data/uploads/{target}/x.zip", b"x", content_length=str(2 * 10**9)
    )
    assert answer.status == 413
    assert answer.json["error"].startswith("the file is larger than 200 MB.")
    connection = http.client.HTTPConnection("127.0.0.1", studio.port, timeout=100)
    sent = (bytes(10**6) for _ in range(250))  # without a length
    headers = {"cookie": studio.cookie, "transfer-encoding": "chunked"}
    try:
        path = f"/data/uploads/{target}/y.zip"
        connection.request("PUT", path, sent, headers, encode_chunked=True)
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):  # it does not read the rest
        pass
    connection.close()
    end = time.monotonic() + 60
    while list((home / "data" / target).iterdir()):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_kill_in_the_middle_of_an_upload_leaves_nothing_to_be_seen(start, tmp_path):
    served = start(tmp_path)
    target = served.post("/data/uploads", {"name": "half"}).json["path"]
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=100)
    connection.putrequest("PUT", f"/data/uploads/{target}/x.png")
    connection.putheader("cookie", served.cookie)
    connection.putheader("content-length", "1000000")
    connection.endheaders(bytes(5000))
    folder, end = tmp_path / "data" / target, time.monotonic() + 60
    while time.monotonic() < end and not list(folder.iterdir()):
        time.sleep(0.02)
    served.stop(signal.SIGKILL)
    connection.close()
    assert [path.name[:9] for path in folder.iterdir()] == [".writing-"]
    again = start(tmp_path)
    found = again.get(f"/data/folders?place=uploads&path={target}").json
    assert found == {"folders": [], "archives": []}


def test_names_that_lead_elsewhere_are_refused():
    for name in (
        "",
        ".",
        "..",
        ".x",
        "a/b",
        "a\\b",
        "a:b",
        "a\nb",
        " a",
        "a ",
        "x" * 151,
        "\udcff",
    ):
        with pytest.raises(ConfigError, match="cannot be used"):
            safe_part(name)
    assert safe_part("Früh ling-1_2 (3)") == "Früh ling-1_2 (3)"


def test_a_link_inside_is_followed_and_one_outside_is_not(tmp_path):
    (tmp_path / "root" / "own").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    os.symlink(tmp_path / "root" / "own", tmp_path / "root" / "inside")
    os.symlink(tmp_path / "other", tmp_path / "root" / "outside")
    places = Places(tmp_path / "root", tmp_path / "up")
    assert places.find("files", "inside") == tmp_path / "root" / "own"
    with pytest.raises(ConfigError, match="is not inside"):
        places.find("files", "outside")
