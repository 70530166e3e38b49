"""Trainings of the studio: the ordinary command, followed live, found again, stopped, resumed."""

import json
import os
import signal
import time

import numpy as np
import pytest
import yaml
from PIL import Image

from fromnoise.checkpoints import newest_checkpoint, read_state
from fromnoise.config.recipe import load_recipe
from fromnoise.studio.training_log import LogReader, thinned

SMALL = "network.channels=8 network.groups=4 network.num_res_blocks=1 batch_size=8 diffusion.T=100"
NAME = "it's & co"
SMALL += " log_every=2 preview_every=10 checkpoint_every=10 preview_images=4 device=cpu"


def wait_for(studio, run, *states):
    end = time.monotonic() + 300
    while time.monotonic() < end:
        state = studio.get(f"/training/{run}/history").json["state"]
        if state["state"] in states:
            return state
        time.sleep(0.2)
    raise AssertionError(state)


def test_the_command_and_the_recipe_are_shown_first(studio, home):
    wanted = {"recipe": "digits", "name": "a run", "minutes": 2, "labels": True}
    found = studio.post("/train/command", wanted | {"settings": "batch_size=16"}).json
    out = home / "runs" / "a run"
    assert found["command"] == (
        f"fromnoise train digits --out '{out}' minutes=2 data.labels=true batch_size=16"
    )
    recipe = yaml.safe_load(found["recipe"])
    assert recipe["training"]["minutes"] == 2
    assert recipe["training"]["batch_size"] == 16
    assert recipe["data"]["labels"] is True
    assert not out.exists()


WRONG = {
    "unknown key stesp; did you mean steps?": {"settings": "stesp=5"},
    "minutes = 0.5 is too small": {"minutes": 0.5},
    "there is no recipe 'digitz'; did you mean digits?": {"recipe": "digitz"},
    "a run digits exists already. Give another name.": {"name": "digits"},
    "cannot be used": {"name": "../x"},
    "there is no recipe '/etc/passwd'": {"recipe": "/etc/passwd"},
    "is not a setting. Write KEY=VALUE": {"settings": "steps"},
}


@pytest.mark.parametrize("said", WRONG)
def test_a_mistake_is_one_sentence_and_starts_nothing(studio, home, said):
    answer = studio.post("/train/start", {"recipe": "digits", "name": "new"} | WRONG[said])
    assert answer.status == 400
    assert said in answer.json["error"]
    assert not (home / "runs" / "new").exists()
    assert not (home / "runs" / ".studio" / "new.json").exists()


def test_a_log_is_read_as_it_grows(tmp_path):
    file, reader = tmp_path / "log.jsonl", LogReader(tmp_path)
    assert reader.read() == []
    rows = [{"step": i, "loss": 1 / (i + 1), "of_tomorrow": 1} for i in range(6)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    read, place = [], 0
    for end in (5, 40, 41, 90, len(text)):  # also in the middle of a line
        with file.open("a") as opened:
            opened.write(text[place:end])
        place = end
        read += reader.read()
    assert read == [{"step": row["step"], "loss": row["loss"]} for row in rows]
    other = tmp_path / "other"
    other.write_text('{"step": 0}\nno json\n{"step": "x"}\n')
    os.replace(other, file)  # as by a resumed run
    assert reader.read() == [{"step": 0}]


def test_few_rows_of_a_long_log_are_drawn():
    rows = [{"step": i} | ({"held_out_loss": 1.0} if i % 999 == 0 else {}) for i in range(10_000)]
    kept = thinned(rows, 100)
    steps = [row["step"] for row in kept]
    assert len(kept) <= 100 + 13
    assert steps == sorted(set(steps))
    assert {0, 9999, *range(0, 10_000, 999)} <= set(steps)


@pytest.mark.slow
def test_a_training_outlives_the_server_and_is_found_stopped_and_resumed(start, tmp_path):
    served = start(tmp_path)
    wanted = {"recipe": "digits", "name": NAME, "settings": f"{SMALL} steps=100000"}
    run = served.post("/train/start", wanted).json["run"]
    assert wait_for(served, run, "starting", "running")["id"] == run
    wait_for(served, run, "running")
    folder = tmp_path / "runs" / NAME
    rows, states = [], []
    for _, name, content in served.events():
        if name == "rows" and content["run"] == run:
            rows += content["rows"]
        if name == "training" and content["id"] == run:
            states.append(content)
        if len(rows) > 20 and len(states) > 5:
            break
    logged = LogReader(folder).read()
    first = logged.index(rows[0])
    assert rows == logged[first : first + len(rows)]  # in order, and none lost
    assert states[-1]["memory"] > 50 * 2**20
    assert states[-1]["left"] > 0
    again = served.post("/train/start", wanted).json["error"]
    assert again == f"a run {NAME} exists already. Give another name."
    said = served.post(f"/training/{run}/resume", {}).json["error"]
    assert " is in use by process " in said
    served.stop(signal.SIGKILL)

    served = start(tmp_path)
    state = wait_for(served, run, "running")
    assert state["step"] > 0
    assert "it&#39;s &amp; co" in served.get("/train").text
    assert served.post(f"/training/{run}/stop", {}).status == 200
    state = wait_for(served, run, "stopped")
    newest, damaged = newest_checkpoint(folder / "checkpoints")
    assert damaged == []
    stopped_at = read_state(newest)["step"]
    assert stopped_at >= state["step"]
    assert "is not being trained" in served.post(f"/training/{run}/stop", {}).json["error"]

    steps = stopped_at + 10
    assert served.post(f"/training/{run}/resume", {"settings": f"steps={steps}"}).status == 200
    assert wait_for(served, run, "finished")["step"] == steps
    history = served.get(f"/training/{run}/history").json
    assert yaml.safe_load(history["recipe"])["training"]["steps"] == steps
    assert load_recipe(folder / "recipe.yaml").training.steps == steps
    image = served.get(f"/runs/{run}/picture?step={history['previews'][-1]}&whole").body
    (tmp_path / "shown.png").write_bytes(image)
    with np.load(folder / "previews" / f"{steps:06d}.npz") as arrays:
        own = np.concatenate(list(arrays["EMA"][:, 0]), axis=1)
    assert (np.array(Image.open(tmp_path / "shown.png")) == own).all()


@pytest.mark.slow
def test_a_training_that_fails_says_why(start, tmp_path):
    (tmp_path / "empty").mkdir()
    served = start(tmp_path)
    wanted = {"recipe": "folder", "name": "new", "place": "files", "path": "empty"}
    run = served.post("/train/start", wanted).json["run"]
    state = wait_for(served, run, "failed")
    assert "has no images" in state["problem"]
    served.stop()
    assert "has no images" in wait_for(start(tmp_path), run, "failed")["problem"]


@pytest.mark.slow
def test_the_doctor_answers_before_a_training(studio):
    wanted = {"recipe": "digits", "name": "new", "settings": f"{SMALL} steps=50"}
    job = studio.post("/train/doctor", wanted).json["id"]
    stream = studio.events()
    assert studio.ended(job)["state"] == "done"
    del stream
    assert studio.post("/train/doctor", wanted | {"settings": "x=1"}).status == 400
