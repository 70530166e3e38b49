"""Pictures made in the studio: the bytes of the command line, live, stopped, found again."""

import base64
import io
import os
import shlex
import shutil
import signal
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromnoise.pictures import samples_in
from fromnoise.studio.requests import Making

pytestmark = pytest.mark.slow

REQUESTS = {
    "plain": {"seeds": "0-5"},
    "settings": {"seeds": "3,7-9", "steps": 7, "sampler": "ddpm", "settings": "clamp=dynamic"},
    "labels": {"seeds": "0-3", "steps": 4, "labels": "3, -5", "guidance": 2.5},
    "compose": {"seeds": "2", "steps": 4, "compose": "3=2, 5=-1"},
    "files": {"seeds": "0-2", "steps": 3, "gif": True, "npz": True, "trajectory": True},
}


def made(studio, run, request):
    job = studio.post(f"/runs/{run}/make", request).json
    ended = studio.ended(job["id"])
    assert ended["state"] == "done", ended
    return job, studio.get(f"/runs/{run}/results").json[0]


@pytest.mark.parametrize("name", REQUESTS)
def test_the_files_are_those_of_the_command_line(studio, home, cli, tmp_path, name):
    run = studio.run
    job, result = made(studio, run, REQUESTS[name])
    words = job["command"]
    assert result["command"] == words == Making(**REQUESTS[name]).command(home / "runs" / "digits")
    assert cli(*shlex.split(words)[1:], "--out", tmp_path / "out").code == 0
    names = [*result["files"], *result["others"]]
    assert {file.name for file in (tmp_path / "out").iterdir()} == set(names)
    for i, file in enumerate(names):
        answer = studio.get(f"/runs/{run}/results/{result['id']}/{i}")
        assert answer.status == 200
        assert answer.body == (tmp_path / "out" / file).read_bytes(), file
    answer = studio.get(f"/runs/{run}/results/{result['id']}/zip")
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert archive.namelist() == names
        assert archive.testzip() is None
    assert studio.get(f"/runs/{run}/results/{result['id']}/{len(names)}").status == 404


def test_the_steps_come_in_order_and_end_at_the_picture(studio, home):
    run = studio.run
    stream = studio.events()
    assert next(stream)[1] == "reload"
    job = studio.post(f"/runs/{run}/make", {"seeds": "0-9", "steps": 8, "every": 1}).json
    frames, numbers = [], []
    for id, name, content in stream:
        numbers.append(int(id.rpartition("-")[2]))
        if name == "frame":
            assert content["job"] == job["id"]
            frames.append(content)
        if name == "job" and content["state"] == "done":
            result = content["result"]
            break
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert [frame["step"] for frame in frames] == list(range(1, 9))
    assert [frame["s"] for frame in frames] == sorted((f["s"] for f in frames), reverse=True)
    assert frames[-1]["s"] == 0
    for kind in ("x", "x0"):
        content = base64.b64decode(frames[-1][kind].partition(",")[2])
        sheet = np.array(Image.open(io.BytesIO(content)))
        assert sheet.shape == (16, 64)
        for i, name in enumerate(result["files"]):
            file = home / "runs" / "digits" / "studio" / result["id"] / name
            h, w = 8 * (i // 8), 8 * (i % 8)
            assert (sheet[h : h + 8, w : w + 8] == np.array(Image.open(file))).all()


def test_a_page_that_comes_back_gets_what_it_missed(studio):
    run = studio.run
    first = studio.events()
    next(first)
    studio.post(f"/runs/{run}/make", {"seeds": "0", "steps": 3, "every": 1})
    seen = []
    for event in first:
        seen.append(event)
        if event[1] == "job" and event[2]["state"] == "done":
            break
    again = studio.events(seen[0][0])
    assert [next(again) for _ in seen[1:]] == seen[1:]


def test_a_job_is_stopped_at_once_and_leaves_nothing(studio, home):
    run = studio.run
    folder = home / "runs" / "digits" / "studio"
    before = set(folder.glob("*/record.json"))
    request = {"seeds": "0-500", "steps": 100, "sampler": "ddpm"}
    running, waiting = (studio.post(f"/runs/{run}/make", request).json["id"] for _ in range(2))
    stream = studio.events()
    for _, name, _ in stream:
        if name == "frame":
            break
    states = {job["id"]: job["state"] for job in studio.get("/jobs").json}
    assert (states[running], states[waiting]) == ("running", "waiting")
    assert studio.call("DELETE", f"/jobs/{waiting}").json["state"] == "stopped"
    studio.call("DELETE", f"/jobs/{running}")
    assert studio.ended(running)["state"] == "stopped"
    assert set(folder.glob("*/record.json")) == before
    made(studio, run, {"seeds": "0", "steps": 2})  # the next one is not affected


def test_the_model_says_what_is_wrong_in_the_words_of_the_command_line(studio):
    run = studio.run
    for request, said in (
        ({"steps": 5000}, "steps = 5000 is out of range. Use 1 to T = 100."),
        ({"sampler": "ddmp"}, "'ddmp' is unknown; did you mean ddpm?"),
        ({"labels": "cat"}, "cat"),
        ({"labels": "3", "compose": "3=1"}, "exclude each other. Give one."),
        ({"guidance": 2}, "guidance has no effect"),
        ({"settings": "stesp=3"}, "unknown key stesp; did you mean steps?"),
        ({"settings": "steps=3 steps=4"}, "given twice"),
        ({"seeds": "1,1"}, "1"),
    ):
        job = studio.post(f"/runs/{run}/make", request).json
        ended = studio.ended(job["id"])
        assert ended["state"] == "failed", request
        assert said in ended["error"], ended
        assert "Traceback" not in ended["error"]


def test_results_are_found_again_and_half_written_ones_are_not_shown(start, labelled_run, tmp_path):
    shutil.copytree(labelled_run, tmp_path / "runs" / "<b>&\"'")
    served = start(tmp_path)
    (run,) = served.runs
    _, result = made(served, run, {"seeds": "0-3", "steps": 2})
    request = {"seeds": "0-900", "steps": 100, "sampler": "ddpm"}
    served.post(f"/runs/{run}/make", request)
    folder = tmp_path / "runs" / "<b>&\"'" / "studio"
    end = time.monotonic() + 100
    while time.monotonic() < end and len(list(folder.glob("*/*.png"))) < 60:
        time.sleep(0.05)
    worker = workers_of(served.process.pid)
    served.stop(signal.SIGKILL)
    assert len(list(folder.iterdir())) == 2
    again = start(tmp_path)
    assert again.runs == [run]
    assert again.get(f"/runs/{run}/results").json == [result]
    assert samples_in(folder / result["id"]).keys() == set(result["files"])
    page = again.get(f"/runs/{run}").text
    assert "&lt;b&gt;&amp;&#34;&#39;" in page
    assert "<b>&" not in page
    while time.monotonic() < end and any(map(is_alive, worker)):
        time.sleep(0.05)
    assert not any(map(is_alive, worker))  # it ends with its server


def workers_of(process):
    found = []
    for child in Path("/proc").glob("[0-9]*"):
        try:
            fields = (child / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process:
            found.append(int(child.name))
    assert found
    return found


def is_alive(process):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def test_a_worker_that_dies_is_one_sentence(studio):
    run = studio.run
    request = {"seeds": "0-900", "steps": 100, "sampler": "ddpm"}
    job = studio.post(f"/runs/{run}/make", request).json["id"]
    for _, name, _ in studio.events():
        if name == "frame":
            break
    for worker in workers_of(studio.process.pid):
        os.kill(worker, signal.SIGKILL)
    ended = studio.ended(job)
    assert ended["state"] == "failed"
    assert ended["error"].startswith("the worker process ended (signal 9), perhaps for lack of")
    made(studio, run, {"seeds": "0", "steps": 2})
