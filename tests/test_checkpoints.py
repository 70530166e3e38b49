import errno
import json
import os
import stat
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import SafetensorError

from fromnoise import checkpoints
from fromnoise.checkpoints import (
    OWN_HASH,
    CheckpointError,
    DiskFull,
    NotFinite,
    TensorFile,
    atomic_file,
    atomic_folder,
    find_damage,
    list_checkpoints,
    newest_checkpoint,
    prune,
    read_state,
    read_tensors,
    require_room,
    save_checkpoint,
    save_tensors_atomic,
)
from fromnoise.config.recipe import parse_recipe
from fromnoise.model.model import Model
from fromnoise.training import run as running
from fromnoise.training.log import RunLog

FILES = ("model.safetensors", "optimizer.safetensors")
Usage = namedtuple("Usage", ["total", "used", "free"])


def save(folder: Path, step: int, value: float = 1.0) -> Path:
    tensors = {"a": torch.full((2, 3), value), "b": torch.tensor(step)}
    files = {name: TensorFile(tensors, {"about": name}) for name in FILES}
    return save_checkpoint(folder, step, files, {"seed": 3})


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_a_checkpoint_is_read_back(tmp_path):
    path = save(tmp_path, 500, value=0.25)
    assert path == tmp_path / "000500"
    assert find_damage(path) is None
    tensors, metadata = read_tensors(path / FILES[0])
    assert torch.equal(tensors["a"], torch.full((2, 3), 0.25))
    assert tensors["b"] == 500
    assert metadata == {"about": FILES[0]}
    state = read_state(path)
    assert (state["step"], state["seed"], state["format_version"]) == (500, 3, 1)
    assert set(state["sha256"]) == set(FILES)


def test_nothing_is_pickled(tmp_path):
    names = {path.name for path in save(tmp_path, 1).iterdir()}
    assert names == {*FILES, "state.json"}


def test_any_memory_layout_is_read_back(tmp_path):
    tensor = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    tensors = {"image": tensor, "slice": tensor[:, 1]}
    path = save_checkpoint(tmp_path, 1, {"x.safetensors": TensorFile(tensors, {})}, {})
    read = read_tensors(path / "x.safetensors").tensors
    assert torch.equal(read["image"], tensor)
    assert torch.equal(read["slice"], tensor[:, 1])


def test_a_file_without_tensors_is_read_back(tmp_path):
    """The optimiser has no state if every step was skipped."""
    path = save_checkpoint(tmp_path, 1, {"x.safetensors": TensorFile({}, {})}, {})
    assert read_tensors(path / "x.safetensors") == ({}, {})


# ---- atomic writes ------------------------------------------------------------------------------


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from fromnoise import checkpoints

folder, moments = Path(sys.argv[1]), (("write_tensors", 2), ("sha256", 2), ("fsync", 4))
moments += (("atomic_file", 1), ("replace", 1))

def save(step):
    file = checkpoints.TensorFile({"a": torch.full((3,), float(step))}, {})
    return checkpoints.save_checkpoint(folder, step, {"a.safetensors": file, "b": file}, {})

def killed(function, at):  # in a fork
    owner = os if function == "replace" else checkpoints
    real, calls = getattr(owner, function), iter(range(100))
    def kill(*arguments, **options):
        if next(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    setattr(owner, function, kill)
    save(2)

earlier = save(1)
for function, calls in moments:
    for at in range(calls):
        if (process := os.fork()) == 0:
            killed(function, at)
        assert os.waitpid(process, 0)[1] == signal.SIGKILL, (function, at)
        newest, damaged = checkpoints.newest_checkpoint(folder)
        assert not damaged, (function, at)
        assert newest == earlier, (function, at)
assert list(folder.glob(".writing-*"))
save(3)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no fork")
def test_a_kill_at_any_moment_leaves_earlier_checkpoints(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"000001", "000003"}


def test_an_error_while_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(checkpoints, "fsync", fail)
    with pytest.raises(OSError, match="input/output"):
        save(tmp_path, 2)
    assert list(tmp_path.iterdir()) == []


def test_a_complete_checkpoint_is_kept_and_a_damaged_one_replaced(tmp_path):
    path = save(tmp_path, 1, value=1.0)
    save(tmp_path, 1, value=2.0)
    assert read_tensors(path / FILES[0]).tensors["a"][0, 0] == 1
    flip_a_bit(path / FILES[1])
    save(tmp_path, 1, value=2.0)
    assert find_damage(path) is None
    assert read_tensors(path / FILES[0]).tensors["a"][0, 0] == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_never_saved(tmp_path, bad):
    with pytest.raises(NotFinite, match=r"a is not finite, so .*000002/model\.safetensors was not"):
        save(tmp_path, 2, value=bad)
    assert list(tmp_path.iterdir()) == []


# ---- a full disk --------------------------------------------------------------------------------


def test_too_little_space_is_detected_before_writing(tmp_path, monkeypatch):
    earlier = save(tmp_path, 1)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: Usage(9, 9, 2**19))
    monkeypatch.setattr(checkpoints, "write_tensors", None)  # is not called
    with pytest.raises(
        DiskFull, match=r"000002 was not written\. It needs 1 MiB, .* Existing files are unchanged"
    ):
        save(tmp_path, 2)
    assert list(tmp_path.iterdir()) == [earlier]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
    ids=["system", "safetensors"],
)
@pytest.mark.parametrize("function", ["write_tensors", "fsync"])
def test_a_disk_that_fills_during_writing(tmp_path, monkeypatch, function, error):
    earlier = save(tmp_path, 1)

    def fail(*_):
        raise error

    monkeypatch.setattr(checkpoints, function, fail)
    with pytest.raises(DiskFull, match=r"the disk is full: .* It needs 1 MiB"):
        save(tmp_path, 2)
    assert list(tmp_path.iterdir()) == [earlier]
    assert find_damage(earlier) is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_on_a_full_disk_is_named(tmp_path, tiny):
    settings = parse_recipe(tiny, "tiny").training
    with RunLog(tmp_path, settings, from_step=0) as log:
        (tmp_path / "log.jsonl").unlink(missing_ok=True)
        (tmp_path / "log.jsonl").symlink_to("/dev/full")
        with pytest.raises(
            DiskFull, match=r"the disk is full: .*log\.jsonl was not written.*resume"
        ):
            log.event(1, loss=0.5)


def test_room_is_needed_before_the_work(tmp_path, monkeypatch, tiny, finished_run, cli):
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: Usage(9, 9, 2**19))
    monkeypatch.setattr(Model, "denoise", None)  # is not called
    monkeypatch.setattr(running, "fit", None)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    out = tmp_path / "new" / "out"
    quick = ("--extractor", "pixels", "--num", 66, "--out", out)
    for command in (
        ("train", tmp_path / "tiny.yaml", "--out", out),
        ("sample", finished_run, "--out", out),
        ("edit", "interpolate", finished_run, "--seeds", "0,1", "--out", out),
        ("evaluate", finished_run, *quick),
        ("sweep", finished_run, *quick),
        ("likelihood", finished_run, "--out", out),
        ("classifier", "train", "digits", "--out", out),
    ):
        code, _, err = cli(*command)
        assert (code, err.count("\n")) == (1, 1), (command, err)
        assert "the disk is full: " in err
        assert not out.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_that_may_not_be_written_is_named_before_the_work(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="new"):
        require_room(tmp_path / "new")


def test_the_room_is_that_of_the_folder_itself_if_it_exists(tmp_path, monkeypatch):
    """It may be another disk than its parent's."""
    (tmp_path / "disk").mkdir()
    free = {tmp_path / "disk": 0, tmp_path: 2**30}
    usage = lambda path: Usage(9, 9, free[Path(path)])  # noqa: E731
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", usage)
    require_room(tmp_path / "other")
    with pytest.raises(DiskFull):
        require_room(tmp_path / "disk")


def test_a_file_in_the_place_of_a_folder_is_named_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="out"):
        require_room(tmp_path / "file" / "out")


# ---- damage and other versions ------------------------------------------------------------------


def test_the_same_content_is_the_same_bytes(tmp_path):
    tensors = {"a": torch.tensor([0.5, -1.0]), "é": torch.tensor(3)}
    for i in range(20):
        metadata = {"about": 'σ "\n\x01\x7f', "b": "\u2028", "c": "/"}
        save_tensors_atomic(tmp_path / str(i), TensorFile(tensors, metadata))
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1
    assert read_tensors(tmp_path / "0").metadata == metadata


def test_any_flipped_bit_of_a_single_file_is_detected_or_changes_nothing(tmp_path):
    file = tmp_path / "model.safetensors"
    tensors = {"a": torch.tensor([0.5, -1.0]), "b": torch.tensor(3)}
    save_tensors_atomic(file, TensorFile(tensors, {"about": "x"}))
    whole = file.read_bytes()
    for i in range(8 * len(whole)):
        content = bytearray(whole)
        content[i // 8] ^= 1 << i % 8
        file.write_bytes(content)
        try:
            after = read_tensors(file)
        except CheckpointError:
            continue
        assert after.metadata["about"] == "x", i  # beside it, only the key of the hash was hit
        assert all(torch.equal(after.tensors[key], tensors[key]) for key in tensors), i


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_detected_and_the_previous_checkpoint_is_used(tmp_path, name):
    earlier, newest = save(tmp_path, 1), save(tmp_path, 2)
    flip_a_bit(newest / name)
    found, damaged = newest_checkpoint(tmp_path)
    assert found == earlier
    assert damaged == [f"{newest}: {name} is damaged (its SHA-256 differs from state.json)"]


def test_any_flipped_bit_of_the_state_is_detected_or_changes_nothing(tmp_path):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    whole, state = (newest / "state.json").read_bytes(), read_state(newest)
    for i in range(8 * len(whole)):
        content = bytearray(whole)
        content[i // 8] ^= 1 << i % 8
        (newest / "state.json").write_bytes(content)
        try:
            damaged = find_damage(newest) is not None
        except CheckpointError:  # of a newer version, as it seems
            damaged = True
        left = read_state(newest) if not damaged else {}
        rest = {key: value for key, value in left.items() if key in state and key != OWN_HASH}
        assert damaged or rest == {k: v for k, v in state.items() if k != OWN_HASH}, i


@pytest.mark.parametrize("change", [{"step": -1}, {"sha256": []}, {"sha256": {}}, {"step": None}])
def test_a_state_that_cannot_be_is_damage(tmp_path, change):
    earlier, newest = save(tmp_path, 1), save(tmp_path, 2)
    state = read_state(newest) | change
    del state[OWN_HASH]
    (newest / "state.json").write_text(json.dumps(state))
    assert newest_checkpoint(tmp_path)[0] == earlier


def test_a_missing_file_is_damage(tmp_path):
    path = save(tmp_path, 1)
    (path / FILES[1]).unlink()
    assert newest_checkpoint(tmp_path) == (None, [f"{path}: {FILES[1]} is missing"])


@pytest.mark.parametrize(
    "content", [b"", b'{"step": 5', b"\xff\xfe", b"[]", b"{}", b'{"format_version": 1}']
)
def test_an_unreadable_state_is_damage(tmp_path, content):
    earlier, newest = save(tmp_path, 1), save(tmp_path, 2)
    (newest / "state.json").write_bytes(content)
    found, [line] = newest_checkpoint(tmp_path)
    assert found == earlier
    assert line.startswith(f"{newest}: state.json cannot be read")


def test_a_newer_format_version_is_refused(tmp_path):
    path = save(tmp_path, 1)
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "format_version": 2}))
    with pytest.raises(CheckpointError, match=r"format version 2, but this .* up to 1\. Install"):
        newest_checkpoint(tmp_path)


def test_an_invalid_safetensors_file_is_refused(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_text("not tensors")
    with pytest.raises(CheckpointError, match=r"x\.safetensors is not a valid \.safetensors file"):
        read_tensors(file)


# ---- pruning ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "milestone", "left"),
    [
        (1, None, [50]),
        (2, None, [40, 50]),
        (9, None, [10, 20, 30, 40, 50]),
        (1, 20, [20, 40, 50]),
        (2, 30, [30, 40, 50]),
        (1, 25, [30, 50]),  # the first at or after 25, which has no checkpoint
    ],
)
def test_the_last_few_and_the_milestones_are_kept(tmp_path, keep, milestone, left):
    for step in (10, 20, 30, 40, 50):
        newest = save(tmp_path, step)
        prune(newest, keep=keep, milestone_every=milestone)  # after each save, as in training
    assert [int(path.name) for path in list_checkpoints(tmp_path)] == left


def test_prune_keeps_the_newest_complete_checkpoint(tmp_path):
    """A run resumed before a damaged checkpoint and stopped before its step."""
    save(tmp_path, 10)
    flip_a_bit(save(tmp_path, 50) / FILES[0])
    newest = save(tmp_path, 30)
    prune(newest, keep=1, milestone_every=None)
    assert newest_checkpoint(tmp_path)[0] == newest
    assert not (tmp_path / "000010").exists()


def test_checkpoints_are_ordered_by_number(tmp_path):
    for step in (1_000_000, 999_999, 5):
        save(tmp_path, step)
    (tmp_path / "notes").mkdir()
    assert [int(p.name) for p in list_checkpoints(tmp_path)] == [5, 999_999, 1_000_000]


# ---- a single file ------------------------------------------------------------------------------


def test_a_single_file_is_replaced_or_unchanged(tmp_path, monkeypatch):
    path = tmp_path / "new" / "x.safetensors"
    for value in (1.0, 2.0):
        save_tensors_atomic(path, TensorFile({"a": torch.tensor([value])}, {"about": "x"}))
        assert read_tensors(path) == ({"a": torch.tensor([value])}, {"about": "x"})
    assert read_tensors(path).metadata == {"about": "x"}
    assert list(path.parent.iterdir()) == [path]
    before = path.read_bytes()

    with pytest.raises(NotFinite, match=r"a is not finite, so .*x\.safetensors was not written"):
        save_tensors_atomic(path, TensorFile({"a": torch.tensor([float("nan")])}, {}))

    def fail(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_tensors", fail)
        with pytest.raises(
            DiskFull, match=r"the disk is full: .*x\.safetensors was not written\. It needs 1 MiB"
        ):
            save_tensors_atomic(path, TensorFile({"a": torch.tensor([3.0])}, {}))
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: Usage(9, 9, 0))
    with pytest.raises(DiskFull, match="0 MiB are free"):
        save_tensors_atomic(path, TensorFile({"a": torch.tensor([3.0])}, {}))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


KILLED_FILE = """
import os, signal, sys
from pathlib import Path
from fromnoise import checkpoints

file = Path(sys.argv[1])
for at, expected in ((0, "old"), (1, "new")):  # before and after it is renamed
    file.write_text("old")
    if (process := os.fork()) == 0:
        real, calls = checkpoints.fsync, iter((0, 1))
        checkpoints.fsync = lambda path: (
            os.kill(os.getpid(), signal.SIGKILL) if next(calls) == at else real(path)
        )
        with checkpoints.atomic_file(file) as writing:
            writing.write_text("new")
    assert os.waitpid(process, 0)[1] == signal.SIGKILL
    assert file.read_text() == expected
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no fork")
def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path):
    file = tmp_path / "notes.txt"
    subprocess.run([sys.executable, "-c", KILLED_FILE, file], check=True)
    (left_over,) = tmp_path.glob(".writing-*")
    with atomic_file(file) as writing:
        writing.write_text("other")
    assert left_over.exists()  # may be somebody's
    notes = tmp_path / ".writing-notes"  # somebody's, of another program
    notes.touch()
    for path in (left_over, notes):
        os.utime(path, (0, 0))
    with atomic_file(file) as writing:
        writing.write_text("newest")
    assert set(tmp_path.iterdir()) == {file, notes}
    assert file.read_text() == "newest"


@pytest.mark.parametrize("moment", ["writing", "fsync", "replace"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_any_exception_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, moment, error):
    file = tmp_path / "notes.txt"
    file.write_text("old")

    def fail(*_):
        raise error

    if moment != "writing":
        monkeypatch.setattr(checkpoints.os, moment, fail)
    with pytest.raises(error), atomic_file(file) as writing:  # noqa: PT012
        writing.write_text("half")
        if moment == "writing":
            fail()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    file = tmp_path / "notes.txt"
    with atomic_file(file) as first, atomic_file(file) as second:
        first.write_text("first")
        second.write_text("second")
    assert file.read_text() == "first"  # the last that ends
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no fsync of folders")
def test_the_file_and_its_folder_are_synced_around_the_rename(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(checkpoints, "fsync", lambda path: calls.append(path))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: calls.append("rename") or replace(*paths))
    with atomic_file(tmp_path / "notes.txt") as writing:
        writing.write_text("new")
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").touch()
    contents = [folder / "inner", folder / "inner" / "file", folder]
    assert calls == [writing, "rename", tmp_path, *contents, "rename", tmp_path]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_links_and_permissions(tmp_path):
    (tmp_path / "precious").write_text("untouched")
    link = tmp_path / "link"
    link.symlink_to("precious")
    before = os.umask(0o027)
    try:
        with atomic_file(link) as writing:
            writing.write_text("new")
        (tmp_path / "far").mkdir()
        (tmp_path / "near").symlink_to("far")
        with atomic_folder(tmp_path / "near") as folder:
            (folder / "file").touch()
    finally:
        os.umask(before)
    assert not link.is_symlink()
    assert (tmp_path / "precious").read_text() == "untouched"
    assert stat.S_IMODE(link.stat().st_mode) == 0o640
    assert (tmp_path / "near").is_symlink()
    assert stat.S_IMODE((tmp_path / "far").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "far" / "file").stat().st_mode) == 0o640


# ---- permissions and atomic folders ------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_tensors_have_the_same_permissions_as_the_state(tmp_path, mask):
    before = os.umask(mask)
    try:
        path = save(tmp_path, 1)
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()}
    assert set(modes.values()) == {0o666 & ~mask}


def test_an_atomic_folder_appears_when_it_is_complete(tmp_path):
    with atomic_folder(tmp_path / "model") as writing:
        (writing / "a").write_text("whole")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model" / "a").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (OSError(errno.ENOSPC, "No space left on device"), DiskFull, "model was not written"),
        (SafetensorError("No space left on device (os error 28)"), DiskFull, "the disk is full"),
    ],
)
def test_a_failed_atomic_folder_leaves_nothing(tmp_path, error, raised, message):
    def interrupted():
        with atomic_folder(tmp_path / "model") as writing:
            (writing / "a").write_text("half")
            raise error

    with pytest.raises(raised, match=message):
        interrupted()
    assert list(tmp_path.iterdir()) == []
