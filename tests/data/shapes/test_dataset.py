import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromnoise.checkpoints import DiskFull, FolderNotEmpty
from fromnoise.data import DataError, check_data, open_images, read_conditions, write_shapes
from fromnoise.data.shapes import dataset as shapes
from fromnoise.data.shapes.dataset import balanced_sets, plan_sets
from fromnoise.data.shapes.rendering import NAMES

COUNT, SIZE = 40, 16


def content(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A small data set. Read-only."""
    folder = tmp_path_factory.mktemp("shapes") / "new" / "set"
    assert write_shapes(folder, train=COUNT, test=8, size=SIZE, workers=1) == folder.resolve()
    return folder


def test_the_layout_is_that_of_iclevr(written):
    texts = ["objects.json", "train.json", "test.json", "new_test.json", "README.txt"]
    assert sorted(path.name for path in written.iterdir()) == sorted([*texts, "iclevr"])
    objects = json.loads((written / "objects.json").read_text())
    colours = ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow")
    named = [f"{c} {s}" for s in ("cube", "sphere", "cylinder") for c in colours]
    assert objects == {name: i for i, name in enumerate(named)}
    train = json.loads((written / "train.json").read_text())
    assert sorted(train) == sorted(path.name for path in (written / "iclevr").iterdir())
    assert len(train) == COUNT
    for file in train:
        with Image.open(written / "iclevr" / file) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (SIZE, SIZE))
    for name in ("test.json", "new_test.json"):
        assert len(read_conditions(written / name, NAMES)) == 8
    assert [path.name for path in written.parent.iterdir()] == ["set"]


def test_the_readme_says_that_it_is_synthetic(written):
    text = (written / "README.txt").read_text()
    for words in ("SYNTHETIC: rendered by fromnoise 0.", "40 images of 16×16", "seed 0", "CC0"):
        assert words in text


def test_the_source_reads_what_was_written(written):
    data = open_images("iclevr", written)
    assert data.images.shape == (COUNT, 3, SIZE, SIZE)
    assert (data.label_names, data.skipped) == (NAMES, ())
    train = json.loads((written / "train.json").read_text())
    for i, (file, names) in enumerate(train.items()):
        assert {NAMES[k] for k in np.flatnonzero(data.labels[i] == 1)} == set(names)
        with Image.open(written / "iclevr" / file) as image:
            np.testing.assert_array_equal(data.images[i].transpose(1, 2, 0), np.asarray(image))
    assert set(np.unique(data.labels)) == {-1, 1}
    report = check_data(written)
    assert (report.source, report.count, report.duplicates) == ("iclevr", COUNT, ())


def test_the_same_bytes_on_any_number_of_processes(written, tmp_path):
    write_shapes(tmp_path / "two", train=COUNT, test=8, size=SIZE, workers=2)
    assert content(tmp_path / "two") == content(written)


def test_a_larger_set_begins_with_the_smaller_one(written, tmp_path):
    write_shapes(tmp_path / "few", train=5, test=8, size=SIZE, workers=1)
    few, all_ = content(tmp_path / "few"), content(written)
    images = [name for name in few if name.startswith("iclevr/")]
    assert len(images) == 5
    assert all(few[name] == all_[name] for name in images)


def test_another_seed_draws_something_else(written, tmp_path):
    write_shapes(tmp_path / "other", train=COUNT, test=8, size=SIZE, seed=1, workers=1)
    other, first = content(tmp_path / "other"), content(written)
    assert {name for name in first if other[name] == first[name]} == {"objects.json"}
    assert len(set(first.values())) == len(first)  # and no image comes twice


def test_the_same_names_never_look_the_same(tmp_path):
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        for i in range(20, 50):
            shapes._render(tmp_path / str(seed), (16, 16), seed, i, ("red cube",))
    images = content(tmp_path)
    assert len(images) == len(set(images.values())) == 60


def test_sizes_that_are_no_squares(tmp_path):
    write_shapes(tmp_path / "x", train=2, test=1, size=(16, 24), workers=1)
    assert open_images("iclevr", tmp_path / "x").images.shape == (2, 3, 16, 24)
    assert "16×24 pixels (H×W)" in (tmp_path / "x" / "README.txt").read_text()


def frequencies(sets) -> list[int]:
    counts = Counter(name for names in sets for name in names)
    return [counts[name] for name in NAMES]


def test_the_full_set_is_even():
    plan = plan_sets(18009, 32, seed=0)
    assert [len(plan.train), len(plan.test), len(plan.new_test)] == [18009, 32, 32]
    sizes = Counter(map(len, plan.train))
    assert sorted(sizes) == [1, 2, 3]
    assert max(sizes.values()) - min(sizes.values()) <= 16
    train = frequencies(plan.train)
    assert max(train) - min(train) <= 0.01 * max(train)
    for conditions in (plan.test, plan.new_test):
        assert frequencies(conditions) == [3] * 24
        assert Counter(map(len, conditions)) == {1: 8, 2: 8, 3: 16}
        assert len({frozenset(names) for names in conditions}) == 32


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("train", "test"), [(1, 1), (1, 32), (5, 32), (33, 32), (200, 100), (900, 774)]
)
def test_conditions_of_any_count_are_seen_or_unseen_as_they_say(train, test, seed):
    plan = plan_sets(train, test, seed=seed)
    assert [len(plan.train), len(plan.test), len(plan.new_test)] == [train, test, test]
    shown = {frozenset(names) for names in plan.train}
    assert {frozenset(names) for names in plan.test} <= shown
    new = {frozenset(names) for names in plan.new_test}
    assert len(new) == test
    assert not new & shown
    for names in plan.train + plan.test + plan.new_test:
        assert 1 <= len(set(names)) == len(names) <= 3
    counts = frequencies(plan.new_test)
    assert max(counts) - min(counts) <= 3
    if train >= test:
        counts = frequencies(plan.test)
        assert max(counts) - min(counts) <= 3


def test_balanced_sets_avoid_excluded_sets_in_any_order():
    rng = np.random.default_rng(0)
    without = [(name,) for name in NAMES[1:]]
    assert balanced_sets([1], rng, exclude=without) == [NAMES[:1]]
    pairs = [tuple(reversed(names)) for names in balanced_sets([2] * 270, rng, exclude=())]
    rest = balanced_sets([2] * 6, rng, exclude=pairs)
    assert len({frozenset(names) for names in pairs + rest}) == 276  # all sets
    assert balanced_sets([1, 1], rng, exclude=without, repeat=True) == [NAMES[:1]] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 0}, r"train is 0\. Give at least 1"),
        ({"test": 0}, r"test is 0\. Give at least 1"),
        ({"test": 775}, r"test is 775\. Give at most 774"),
        ({"size": 15}, r"size is 15\. Give at least 16"),
        ({"size": (64, 8)}, r"size is 8\. Give at least 16"),
        ({"seed": -1}, r"seed is -1\. Give at least 0"),
        ({"workers": 0}, r"workers is 0\. Give at least 1"),
    ],
)
def test_options_out_of_range(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        write_shapes(tmp_path / "x", **({"train": 2, "test": 2, "size": 16} | options))
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_written_over(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").touch()
    (tmp_path / "file").touch()
    for name in ("folder", "file"):
        with pytest.raises(FolderNotEmpty, match=rf"{name} is not empty"):
            write_shapes(tmp_path / name, train=1, test=1, size=16)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    write_shapes(tmp_path / "empty", train=1, test=1, size=16)
    assert (tmp_path / "empty" / "train.json").is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError()])
def test_nothing_half_written_stays(tmp_path, error):
    calls = []

    def stop(done: int, total: int) -> None:
        calls.append((done, total))
        assert not (tmp_path / "x").exists()
        if done == 3:
            raise error

    with pytest.raises(type(error)):
        write_shapes(tmp_path / "x", train=30, test=1, size=16, workers=1, progress=stop)
    assert calls == [(1, 30), (2, 30), (3, 30)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (OSError(28, "No space left on device"), DiskFull, "the disk is full: .*x was not written"),
        (BrokenProcessPool(), DataError, r"a worker process ended early\. .* workers=1"),
    ],
)
def test_what_the_machine_refuses_is_one_line(tmp_path, monkeypatch, error, raised, message):
    def refuse(*_):
        raise error

    monkeypatch.setattr(shapes, "_render", refuse)
    with pytest.raises(raised, match=message) as caught:
        write_shapes(tmp_path / "x", train=1, test=1, size=16)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_stop_calls_off_what_waits(tmp_path, monkeypatch):
    """With threads, so that the test can observe them."""
    drawn = []

    def draw(*task) -> None:
        drawn.append(task)
        time.sleep(0.001)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "_render", draw)
    monkeypatch.setattr(
        shapes, "ProcessPoolExecutor", lambda workers, **_: ThreadPoolExecutor(workers)
    )
    with pytest.raises(KeyboardInterrupt):
        write_shapes(tmp_path / "x", train=20_000, test=1, workers=2, progress=stop)
    assert len(drawn) < 800  # all of them would have been that many
    assert list(tmp_path.iterdir()) == []
