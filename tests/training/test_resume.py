"""N steps are k steps, a violent end, and N − k steps: bit for bit."""

import hashlib
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import fromnoise
from fromnoise import runs
from fromnoise.checkpoints import (
    LOCK,
    OWN_HASH,
    OWNER,
    list_checkpoints,
    newest_checkpoint,
    read_state,
    read_tensors,
)
from fromnoise.config.errors import ConfigError
from fromnoise.training import run as running
from fromnoise.training.log import read_log
from fromnoise.training.loop import SIGNALS
from fromnoise.training.state import HISTORY_FILE, OLD_HISTORY_FILE

CLOCK = {"seconds", "images_per_second"}  # what may differ between two runs


def final(run: Path, step: int) -> dict[str, object]:
    """Everything that a run has come to, but for the time it took."""
    checkpoint = run / "checkpoints" / f"{step:06d}"
    state = json.loads((checkpoint / "state.json").read_text())
    rows = [{k: v for k, v in row.items() if k not in CLOCK} for row in read_log(run)]
    tensors = [*checkpoint.glob("*.safetensors"), *(run / "ema").glob("*")]
    assert {"model.safetensors", "ema.safetensors"} <= {path.name for path in tensors}
    return {
        **{path.relative_to(run): path.read_bytes() for path in tensors},
        "state": {key: value for key, value in state.items() if key not in {*CLOCK, OWN_HASH}},
        "log": rows,
    }


def contents(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.name not in (LOCK, OWNER))
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def begin(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fromnoise", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None, "the process ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.005)


# ---- violent ends -------------------------------------------------------------------------------


@pytest.mark.slow
def test_40_steps_are_15_and_a_kill_and_the_rest(recipe_file, tmp_path):
    """The preview at step 20 takes far longer than noticing the checkpoint of step 15 does."""
    settings = [
        "training.steps=40",
        "training.log_every=8",
        "training.checkpoint_every=15",
        "training.preview_every=20",
        "training.lr_schedule=cosine",
        "training.parts=2",
        "training.ema_lengths=[0.05, 0.1]",
        "training.ema_snapshot_every=15",
    ]
    killed = tmp_path / "killed"
    process = begin("train", recipe_file, "--out", killed, *settings)
    wait_for(killed / "checkpoints" / "000015", process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in list_checkpoints(killed / "checkpoints")] == ["000015"]

    fromnoise.resume(killed)
    overrides = {key: yaml.safe_load(value) for key, value in (s.split("=") for s in settings)}
    straight = fromnoise.train(recipe_file, out=tmp_path / "straight", overrides=overrides).folder
    assert final(killed, 40) == final(straight, 40)
    steps = sorted({path.name[:6] for path in (killed / "ema").iterdir()})
    assert steps == ["000015", "000030", "000040"]


@pytest.mark.slow
def test_any_number_of_kills_at_any_moments_changes_nothing(tiny, tmp_path):
    tiny["training"] |= {"steps": 60, "log_every": 7, "checkpoint_every": 5}
    tiny["training"] |= {"ema_lengths": [0.1], "ema_snapshot_every": 5}
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["fromnoise", "matplotlib.figure"])
    run, straight = tmp_path / "killed", tmp_path / "straight"

    def go(out: Path) -> multiprocessing.process.BaseProcess:
        begun = (out / "recipe.yaml").exists()
        target, arguments = (fromnoise.resume, (out,)) if begun else (fromnoise.train, (tiny,))
        process = processes.Process(
            target=target, args=arguments, kwargs={} if begun else {"out": out}
        )
        process.start()
        return process

    whole = go(straight)
    whole.join()
    assert whole.exitcode == 0

    moments = random.Random(0)
    exits = []
    for saved in (0, 10, 25, 45):  # somewhere after this checkpoint: in a step, a row, a checkpoint
        process = go(run)
        awaited = run / "checkpoints" / f"{saved:06d}" if saved else run / "log.jsonl"
        while not awaited.exists() and process.is_alive():
            time.sleep(0.001)
        process.join(moments.uniform(0, 0.05))
        process.kill()
        process.join()
        exits.append(process.exitcode)
    assert -signal.SIGKILL in exits
    last = go(run)
    last.join()
    assert last.exitcode == 0
    assert final(run, 60) == final(straight, 60)


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_a_polite_signal_saves_and_says_where(recipe_file, tmp_path, number):
    run = tmp_path / "run"
    before = signal.signal(number, signal.SIG_DFL)  # these tests may run under nohup
    try:
        process = begin("train", recipe_file, "--out", run, "training.steps=1000000")
    finally:
        signal.signal(number, before)
    wait_for(run / "log.jsonl", process)
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 128 + number
    assert f"{number.name}: saving after this step. Send it again to end at once" in said
    newest, damaged = newest_checkpoint(run / "checkpoints")
    assert damaged == []
    step = int(newest.name)
    assert said.splitlines()[-2:] == [
        f"saved {newest}",
        f"stopped by {number.name} at step {step}. To continue: fromnoise resume {run}",
    ]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
@pytest.mark.slow
def test_a_hangup_that_is_ignored_stays_so(recipe_file, tmp_path):
    """As under nohup."""
    run = tmp_path / "run"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = begin("train", recipe_file, "--out", run, "training.steps=400")
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for(run / "log.jsonl", process)
    os.kill(process.pid, signal.SIGHUP)
    process.communicate(timeout=240)
    assert process.returncode == 0
    assert fromnoise.Run(run).finished


def test_a_run_belongs_to_one_process(run, recipe_file, cli, tmp_path):
    hold = "import sys, time, pathlib\nfrom fromnoise.checkpoints import claimed\n"
    hold += "with claimed(pathlib.Path(sys.argv[1])):\n    print(flush=True)\n    time.sleep(240)"
    command = [sys.executable, "-c", hold, str(run)]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert owner.stdout.readline() == b"\n"
    before = contents(run)
    code, _, err = cli("resume", run, "steps=9")
    assert (code, len(err.splitlines())) == (2, 1)
    assert f"is in use by process {owner.pid}." in err
    assert contents(run) == before
    owner.kill()  # the system releases the folder
    owner.communicate()
    fromnoise.resume(run, overrides={"training.steps": 7})


def test_two_trainings_into_one_folder(tiny, tmp_path, monkeypatch):
    """The second begins while the first still measures, and is faster."""
    claim = runs.checkpoints.claimed
    monkeypatch.setattr(runs.checkpoints, "claimed", lambda folder: other(folder))

    def other(folder):
        monkeypatch.setattr(runs.checkpoints, "claimed", claim)
        fromnoise.train(tiny, out=folder, overrides={"training.seed": 1})
        return claim(folder)

    with pytest.raises(ConfigError, match="is a run already"):
        fromnoise.train(tiny, out=tmp_path / "run")
    assert fromnoise.Run(tmp_path / "run").recipe().training.seed == 1
    assert fromnoise.Run(tmp_path / "run").finished


def test_a_folder_that_a_kill_left_without_a_recipe_is_no_run(tiny, tmp_path):
    (tmp_path / "run").mkdir()
    for name in (LOCK, OWNER, ".writing-recipe.yaml-12-0123abcd"):
        (tmp_path / "run" / name).touch()
    assert fromnoise.train(tiny, out=tmp_path / "run").finished


@pytest.mark.parametrize("missing", ["previews/000006.npz", "progress.png", "loss.png"])
def test_pictures_that_a_kill_prevented_are_made(run, missing):
    (run / missing).unlink()
    fromnoise.resume(run)
    assert (run / missing).is_file()


@pytest.mark.slow
def test_a_score_that_a_kill_prevented_is_made(tiny, tmp_path):
    tiny["evaluation"] = {"every": 3, "num_images": 64}
    run = fromnoise.train(tiny, out=tmp_path / "run").folder
    rows = read_log(run)
    assert [row["step"] for row in rows if "evaluation" in row] == [3, 6]
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    fromnoise.resume(run)
    made = read_log(run)
    assert len(made) == len(rows)
    assert made[-1]["evaluation"]["fid"] == rows[-1]["evaluation"]["fid"]


@pytest.mark.parametrize("line", [b"5", b"null", b"{}", b"\xff\xfe", b'{"step": "3"}', b"[" * 9999])
def test_damaged_rows_of_the_log_are_set_aside(run, prolonged, line, caplog):
    first, *others = (run / "log.jsonl").read_bytes().splitlines()
    (run / "log.jsonl").write_bytes(b"\n".join([first, line, *others]) + b"\n")
    fromnoise.resume(run, overrides={"training.steps": 9})
    assert final(run, 9) == final(prolonged, 9)
    assert "log.jsonl: 1 damaged lines were moved to" in caplog.text
    aside = (run / "log.damaged-000006.txt").read_text()
    assert aside == line.decode(errors="backslashreplace") + "\n"


def test_a_damaged_last_row_is_set_aside_and_one_that_was_cut_is_not(run, caplog):
    with (run / "log.jsonl").open("a") as file:
        file.write('{"st\n{"step')
    fromnoise.resume(run, overrides={"training.steps": 7})
    assert "log.jsonl: 1 damaged lines were moved to" in caplog.text
    assert (run / "log.damaged-000006.txt").read_text() == '{"st\n'


# ---- going on -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prolonged(finished_run, tmp_path_factory) -> Path:
    """The finished run, continued from its 6 steps to 9."""
    run = Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("prolonged") / "run"))
    return fromnoise.resume(run, overrides={"training.steps": 9}).folder


def test_more_steps_prolong_a_finished_run(prolonged, tiny, tmp_path):
    tiny["training"]["steps"] = 9
    straight = fromnoise.train(tiny, out=tmp_path / "straight")
    ours, theirs = final(prolonged, 9), final(straight.folder, 9)
    assert ours == theirs
    assert fromnoise.Run(prolonged).recipe() == straight.recipe()


@pytest.fixture
def by_importance(tiny, tmp_path, monkeypatch):
    """by_importance(steps): a run that depends on its losses so far, on hints and on offsets."""
    monkeypatch.setattr(runs, "draw_pictures", lambda *_, **__: None)
    tiny["diffusion"] |= {"T": 4, "offset_noise": 0.1, "weighting": "min_snr"}
    tiny["network"]["self_conditioning"] = True

    def train(steps):
        tiny["training"] |= {"steps": steps, "noise_levels": "importance", "checkpoint_every": 15}
        return fromnoise.train(tiny, out=tmp_path / f"run{steps}").folder

    return train


@pytest.mark.slow
@pytest.mark.parametrize("first", [pytest.param(4, marks=pytest.mark.slow), 14])
def test_the_losses_that_times_are_drawn_by_go_on_too(by_importance, first):
    """After 4 steps of 8 images no t of 4 can have been drawn otherwise than evenly; later, all."""
    straight, stopped = by_importance(24), by_importance(first)
    fromnoise.resume(stopped, overrides={"training.steps": 24})
    assert Path("checkpoints/000024", HISTORY_FILE) in final(stopped, 24)
    assert final(stopped, 24) == final(straight, 24)


def test_a_checkpoint_without_such_losses_begins_to_gather_them(by_importance):
    run = by_importance(15)
    checkpoint = run / "checkpoints" / "000015"
    state = json.loads((checkpoint / "state.json").read_text())
    del state["sha256"][HISTORY_FILE], state[OWN_HASH]
    (checkpoint / "state.json").write_text(json.dumps(state))
    (checkpoint / HISTORY_FILE).unlink()
    fromnoise.resume(run, overrides={"training.steps": 17})
    seen = read_tensors(run / "checkpoints" / "000017" / HISTORY_FILE).tensors["seen"]
    assert seen.sum() == 2 * 8


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(run, prolonged, caplog):
    flip_a_bit(run / "checkpoints" / "000006" / "optimizer.safetensors")
    fromnoise.resume(run, overrides={"training.steps": 9})
    assert "000006: optimizer.safetensors is damaged" in caplog.text
    assert final(run, 9) == final(prolonged, 9)


def test_a_run_whose_checkpoints_are_all_damaged_is_left_alone(run, cli):
    for path in list_checkpoints(run / "checkpoints"):
        (path / "state.json").write_text("{")
    before = contents(run)
    code, _, err = cli("resume", run)
    assert code == 2
    assert "000006: state.json cannot be read" in err
    assert "add --from-scratch to begin at step 0." in err
    assert contents(run) == before


@pytest.mark.parametrize("how", ["damaged", "killed before the first"])
def test_without_any_whole_checkpoint_a_run_begins_again(run, prolonged, caplog, how):
    if how == "damaged":
        for path in list_checkpoints(run / "checkpoints"):
            (path / "state.json").write_text("{")
    else:
        shutil.rmtree(run / "checkpoints")
    fromnoise.resume(run, overrides={"training.steps": 9}, from_scratch=how == "damaged")
    assert "no whole checkpoint. Starting at step 0" in caplog.text
    assert final(run, 9) == final(prolonged, 9)


def test_a_finished_run_is_left_as_it_is(run, caplog, monkeypatch):
    """Its images need not be here any more."""
    monkeypatch.setattr(runs.running, "open_data", None)
    caplog.set_level(logging.INFO, "fromnoise")
    before = contents(run)
    fromnoise.resume(run)
    assert contents(run) == before
    assert "already finished at step 6. To train longer: fromnoise resume " in caplog.text


@pytest.mark.parametrize("change", [{}, {"learning_rate": 5e-3, "ema_snapshot_every": 5}])
def test_snapshots_after_the_checkpoint_are_those_of_the_way_that_was_taken(
    tiny, tmp_path, monkeypatch, change
):
    monkeypatch.setattr(runs, "draw_pictures", lambda *_, **__: None)
    tiny["training"] |= {"ema_lengths": [0.1], "ema_snapshot_every": 1}
    run = fromnoise.train(tiny, out=tmp_path / "run").folder
    first = contents(run / "ema")
    shutil.rmtree(run / "checkpoints" / "000006")
    fromnoise.resume(run, overrides={f"training.{key}": value for key, value in change.items()})
    stored = contents(run / "ema")
    if not change:
        assert stored == first
        return
    kept = {str(run / "ema" / f"{step:06d}-0.1.safetensors") for step in (1, 2, 3, 5, 6)}
    assert stored.keys() == kept
    same = {path for path in stored if stored[path] == first[path]}
    assert {Path(path).name[:6] for path in same} == {"000001", "000002", "000003"}


def one_step_on_a_folder(tiny, tmp_path):
    """Four pictures in a folder, and a run of one step on them."""
    images = tmp_path / "images"
    images.mkdir()
    for i in range(4):
        Image.fromarray(np.full((8, 8), 60 * i, np.uint8)).save(images / f"{i}.png")
    tiny["data"] = {"source": "folder", "path": str(images)}
    tiny["training"]["steps"] = 1
    run = fromnoise.train(tiny, out=tmp_path / "run").folder
    return images, run


@pytest.mark.slow
def test_changed_images_are_told(tiny, tmp_path, caplog):
    images, run = one_step_on_a_folder(tiny, tmp_path)
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(images / "3.png")
    fromnoise.resume(run, overrides={"training.steps": 2})
    assert "the images are not those of step 1" in caplog.text


@pytest.mark.slow
def test_images_that_have_moved_are_found_again_from_anywhere(tiny, tmp_path, monkeypatch):
    images, run = one_step_on_a_folder(tiny, tmp_path)
    images.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    fromnoise.resume(run, overrides={"training.steps": 2, "data.path": "moved"})
    monkeypatch.chdir(run)
    fromnoise.resume(run, overrides={"training.steps": 3})
    assert fromnoise.Run(run).recipe().data.path == tmp_path / "moved"


@pytest.mark.parametrize(("name", "steps"), [("plain", 16), ("classes", 12)])
def test_a_run_of_an_earlier_version_goes_on_with_its_state_and_new_draws(
    name, steps, tmp_path, monkeypatch
):
    """The rows before are of that version (tests/stored/write.sh), those after of draws 2."""
    monkeypatch.setattr(runs, "draw_pictures", lambda *_, **__: None)
    stored = Path(__file__).parent.parent / "stored"
    run = Path(shutil.copytree(stored / name, tmp_path / "run"))
    checkpoint, _ = newest_checkpoint(run / "checkpoints")
    recipe = fromnoise.Run(run).recipe()
    setup = running.prepare(recipe, running.open_data(recipe), run)
    state = running.start(setup, read_state(checkpoint))
    state.restore(checkpoint)
    for file, (tensors, _) in state.files(setup.spec).items():  # weights, optimiser, averages
        name_then = OLD_HISTORY_FILE if file == HISTORY_FILE else file
        before = read_tensors(checkpoint / name_then).tensors
        assert tensors.keys() == before.keys()
        assert all(torch.equal(tensors[key], before[key]) for key in tensors), file
    fromnoise.resume(run, overrides={"training.steps": steps})
    expected = json.loads((stored / f"resumed-{name}.json").read_text())
    losses = {str(row["step"]): row["loss"] for row in read_log(run) if "loss" in row}
    assert losses == pytest.approx(expected["losses"], rel=1e-4)
    weights = read_tensors(run / "checkpoints" / f"{steps:06d}" / "model.safetensors").tensors
    norm = sum(tensor.double().square().sum().item() for tensor in weights.values()) ** 0.5
    assert norm == pytest.approx(expected["norm"], rel=1e-5)


@pytest.mark.slow
def test_more_steps_of_a_rate_that_falls_say_where_it_jumps_and_how_it_would_not(
    tiny, tmp_path, monkeypatch, caplog, cli
):
    monkeypatch.setattr(runs, "draw_pictures", lambda *_, **__: None)
    caplog.set_level(logging.INFO, "fromnoise")
    tiny["training"] |= {"lr_schedule": "cosine", "steps": 6, "log_every": 1}
    run = fromnoise.train(tiny, out=tmp_path / "run").folder
    other = Path(shutil.copytree(run, tmp_path / "other"))
    last = read_log(run)[-1]["learning_rate"]
    assert last < 1e-4

    assert cli("resume", run, "steps=12").code == 0
    rates = {row["step"]: row["learning_rate"] for row in read_log(run)}
    assert rates[7] == pytest.approx(5e-4)  # half of 1e-3, at half of the way
    (line,) = (m for m in caplog.messages if "moves the end" in m)
    assert line.startswith(
        "training.steps = 12 instead of 6 moves the end of the cosine decay: the learning rate "
        f"continues at 0.0005 instead of {last:.3g}. "
    )
    first_step = next(i for i, m in enumerate(caplog.messages) if m.startswith("step 7/12"))
    assert caplog.messages.index(line) < first_step

    caplog.clear()
    offered = line.split(f"fromnoise resume {run} ")[1].split()  # the other way, on a copy
    assert cli("resume", other, *offered).code == 0
    rates = {row["step"]: row["learning_rate"] for row in read_log(other)}
    assert [rates[step] for step in range(7, 13)] == pytest.approx([last] * 6, rel=1e-2)
    assert "moves the end" not in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"lr_schedule": "constant"},
        {"lr_schedule": "linear", "warmup_steps": 9},  # it still rises
    ],
)
def test_a_rate_that_does_not_jump_is_not_mentioned(tiny, tmp_path, monkeypatch, caplog, changes):
    monkeypatch.setattr(runs, "draw_pictures", lambda *_, **__: None)
    tiny["training"] |= {"steps": 3, **changes}
    run = fromnoise.train(tiny, out=tmp_path / "run").folder
    fromnoise.resume(run, overrides={"training.steps": 4})
    assert "moves the end" not in caplog.text


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "before"),
    [
        ("network.channels", 16, 8),
        ("network.dropout", 0.0, 0.2),
        ("diffusion.T", 50, 100),
        ("diffusion.prediction", "'v'", "'eps'"),
        ("data.source", "'folder'", "'digits'"),
        ("data.flip", False, True),
        ("training.seed", 1, 0),
        ("training.batch_size", 16, 8),
        ("training.ema_lengths", [0.1], []),
    ],
)
def test_what_the_steps_so_far_depend_on_cannot_be_changed(run, key, value, before):
    files = contents(run)
    with pytest.raises(ConfigError) as refused:
        fromnoise.resume(run, overrides={"training.steps": 9, key: yaml.safe_load(str(value))})
    assert str(refused.value) == (
        f"{key} = {value}, but {run} was trained with {before}. "
        "Resume cannot change it. Start another run with train."
    )
    assert contents(run) == files


def test_saying_again_what_was_said_is_no_change(run, prolonged):
    fromnoise.resume(run, overrides={"training.steps": 9, "network.channels": 8})
    assert final(run, 9) == final(prolonged, 9)


def test_whether_a_run_has_finished(run):
    assert fromnoise.Run(run).finished
    shutil.rmtree(run / "checkpoints" / "000006")
    assert not fromnoise.Run(run).finished


def test_a_wrong_setting_leaves_the_run_as_it_is(run):
    before = contents(run)
    with pytest.raises(ConfigError, match=r"unknown key training\.stepz"):
        fromnoise.resume(run, overrides={"training.stepz": 9})
    assert contents(run) == before


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match=r"is not a run: it has no recipe\.yaml"):
        fromnoise.resume(tmp_path)


def test_training_into_a_run_is_refused_with_the_way_out(run, recipe_file, cli):
    before = contents(run)
    code, _, err = cli("train", recipe_file, "--out", run)
    assert code == 2
    assert f"is a run already. To continue it: fromnoise resume {run}." in err
    assert contents(run) == before


def test_training_into_a_folder_with_other_things_is_refused(tmp_path, recipe_file, cli):
    code, _, err = cli("train", recipe_file, "--out", tmp_path)
    assert code == 2
    assert f"{tmp_path} is not empty" in err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_the_recipe_in_the_folder_is_whole(finished_run, tiny):
    written = yaml.safe_load((finished_run / "recipe.yaml").read_text())
    assert written["training"]["optimizer"] == "adam"
    assert fromnoise.Run(finished_run).recipe().training.steps == tiny["training"]["steps"]
