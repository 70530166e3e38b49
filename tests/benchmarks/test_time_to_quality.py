import importlib
import inspect
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import diffusers_example
import fromnoise_recipe
import lucidrains_trainer
import numpy as np
import pytest
import quality_of_drawings
import report
import shards
import time_to_quality
import torch
from padding import SIDE, padded, unpadded
from PIL import Image
from quality_of_drawings import distance, drawn
from race import Contestant
from shards import draw_shards
from torch import nn
from turns import Stage, check_plan, finish

import fromnoise
from fromnoise import open_images
from fromnoise.config.recipe import load_recipe
from fromnoise.evaluation.features import pixels
from fromnoise.evaluation.images import Reference
from fromnoise.evaluation.metrics import moments_of
from fromnoise.networks import NETWORKS

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies

RNG = np.random.default_rng(0)
LONG = 1e9  # seconds


def count_of(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def ours_has() -> int:
    network = load_recipe("fashion-mnist").network
    with torch.device("meta"):
        return count_of(NETWORKS[network.name](**{**network.options, "image_channels": 1}))


@given(st.integers(1, SIDE), st.integers(1, SIDE), st.integers(1, 3))
def test_unpadding_reverses_padding_and_the_border_is_black(height, width, channels):
    images = RNG.integers(1, 256, (2, channels, height, width), dtype=np.uint8)
    wide = padded(images)
    assert wide.shape == (2, channels, SIDE, SIDE)
    assert np.count_nonzero(wide) == images.size
    np.testing.assert_array_equal(unpadded(wide, (height, width)), images)


def test_fashion_mnist_lies_in_the_middle():
    wide = padded(np.full((28, 28), 7))
    assert (wide[2:30, 2:30] == 7).all()


def test_a_training_ends_when_its_weights_can_still_be_written():
    probe = {"steps": 120, "seconds": 61.5}  # 2 steps a second, 1.5 seconds of writing
    ends = time_to_quality.end_of(probe, 60, 1800, falls=True)
    assert ends == {"steps": int(0.97 * 1798.5 * 2), "seconds": 1798.5}
    ends = time_to_quality.end_of(probe, 60, 1800, falls=False)
    assert ends == {"steps": None, "seconds": 1798.5}
    assert time_to_quality.end_of(probe, 60, 1, falls=True) == {"steps": 1, "seconds": 0}


@pytest.mark.parametrize(
    ("took", "limit", "steps"),
    [(100, 100, 10), (100, 40, 4), (100, 39.9, 3), (100, 1, 2), (0.1, 100, 1000), (0.3, 0.3, 10)],
)
def test_ddim_steps_that_fit_into_a_time(took, limit, steps):
    assert time_to_quality.steps_within({"ddim_steps": 10, "seconds": took}, limit) == steps


def test_a_folder_keeps_to_one_plan(tmp_path):
    plan = {"minutes": 30, "num": 100}
    check_plan(tmp_path / "out", plan)
    check_plan(tmp_path / "out", plan)
    with pytest.raises(SystemExit, match=r"begun with minutes = 30; give the same"):
        check_plan(tmp_path / "out", {"minutes": 1, "num": 100})


def test_drawn_parts_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 4)
    asked = []

    def draw(first: int, n: int) -> np.ndarray:
        asked.append((first, n))
        return np.arange(first, first + n, dtype=np.uint8).reshape(n, 1, 1, 1)

    made = draw_shards(draw, tmp_path, 10, batch_size=3)
    assert asked == [(0, 3), (3, 1), (4, 3), (7, 1), (8, 2)]
    assert drawn(tmp_path).ravel().tolist() == list(range(10))
    asked.clear()
    (tmp_path / "000004.npz").unlink()
    again = draw_shards(draw, tmp_path, 10, batch_size=3)
    assert asked == [(4, 3), (7, 1)]
    assert drawn(tmp_path).ravel().tolist() == list(range(10))
    assert made["count"] == again["count"] == 10

    with np.load(tmp_path / "000000.npz") as kept:
        np.savez(tmp_path / "000000.npz", images=kept["images"], seconds=1000.0)
    assert draw_shards(draw, tmp_path, 10, batch_size=3)["seconds"] >= 1000
    monkeypatch.setattr(shards, "TIMED", 1)  # the first part alone stands for all
    assert draw_shards(draw, tmp_path, 10, batch_size=3)["seconds"] == 1000 * 10 / 4


def test_equal_images_are_at_distance_0_and_a_shift_at_its_square(monkeypatch):
    images = RNG.integers(0, 200, (400, 1, 4, 4), dtype=np.uint8)
    space = pixels((1, 4, 4))
    monkeypatch.setattr(quality_of_drawings, "classifier_features", lambda classifier: space)
    features = space.extract(images).features
    moments = moments_of(features)
    reference = Reference(moments.mean, moments.covariance, features, {})
    measure = SimpleNamespace(classifier=None, reference=reference)
    assert distance(images, measure).value == pytest.approx(0, abs=1e-6)
    shifted = distance(images + np.uint8(51), measure)  # by 0.2 in each of 16 pixels
    assert shifted.value == pytest.approx(16 * 0.2**2, rel=1e-4)


@pytest.mark.parametrize(("peer", "steps"), [("diffusers", 8), ("lucidrains", 2)])
def test_no_other_width_of_a_peer_comes_nearer_to_our_size(peer, steps):
    pytest.importorskip("diffusers" if peer == "diffusers" else "denoising_diffusion_pytorch")
    module = {"diffusers": diffusers_example, "lucidrains": lucidrains_trainer}[peer]
    widths = [module.WIDTH - steps, module.WIDTH, module.WIDTH + steps]
    with torch.device("meta"):  # sizes alone, no weights
        theirs = [count_of(module.build(1, width)) for width in widths]
    apart = [abs(count - ours_has()) for count in theirs]
    assert min(apart) == apart[1] < 0.06 * ours_has()


@pytest.fixture
def _sigterm():
    """`train` is a process of its own, and leaves this signal as it wants it."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
@pytest.mark.usefixtures("_sigterm")
@pytest.mark.parametrize(("steps", "seconds"), [(3, LONG), (None, 0.0)])
def test_ours_ends_by_its_steps_or_by_its_time_and_can_be_drawn(tiny, tmp_path, steps, seconds):
    out = tmp_path / "run"
    told = fromnoise_recipe.train(
        folder=str(out),
        data=None,
        recipe=tiny,
        steps=steps,
        seconds=seconds,
        overrides={"training.seed": 7},
    )
    model = fromnoise.load(out)
    assert fromnoise.Run(out).recipe().training.seed == 7
    assert told["steps"] == model.spec.step
    assert told["steps"] == 3 if steps else 0 < told["steps"] < fromnoise_recipe.MANY
    assert told["batch_size"] == 8
    assert told["seconds"] > 0
    assert told["parameters"] == count_of(model.denoiser.network)

    made = fromnoise_recipe.draw(
        folder=str(tmp_path / "drawn"), trained=str(out), count=5, steps=2, batch_size=2
    )
    assert made["count"] == 5
    np.testing.assert_array_equal(
        drawn(tmp_path / "drawn"), model.sample(range(5), sampler="ddim", steps=2).numpy()
    )


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "seconds"), [(2, LONG), (None, 0.0)])
def test_diffusers_ends_by_its_steps_or_by_its_time_and_can_be_drawn(tmp_path, steps, seconds):
    pytest.importorskip("diffusers")
    np.save(tmp_path / "images.npy", RNG.integers(0, 256, (16, 1, 28, 28), dtype=np.uint8))
    told = diffusers_example.train(
        folder=str(tmp_path / "trained"),
        images=str(tmp_path / "images.npy"),
        steps=steps,
        seconds=seconds,
    )
    assert told["steps"] == 2 if steps else 0 < told["steps"] < diffusers_example.MANY
    made = diffusers_example.draw(
        folder=str(tmp_path / "drawn"),
        trained=str(tmp_path / "trained"),
        count=3,
        steps=2,
        batch_size=2,
        size=(28, 28),
    )
    assert made["count"] == 3
    assert drawn(tmp_path / "drawn").shape == (3, 1, 28, 28)
    assert drawn(tmp_path / "drawn").dtype == np.uint8


@pytest.mark.slow
def test_the_trainer_of_lucidrains_is_ended_by_its_time_and_can_be_drawn(tmp_path):
    pytest.importorskip("denoising_diffusion_pytorch")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(100):  # as few as it takes
        Image.fromarray(RNG.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(
            pictures / f"{i}.png"
        )
    options = {"pictures": str(pictures), "channels": 1, "steps": None, "seconds": 0}
    contestant = Contestant("lucidrains", "lucidrains_trainer:train", options)
    told = finish([Stage("training", contestant)], tmp_path, slice_seconds=60)["lucidrains"]
    assert 0 < told["steps"] < lucidrains_trainer.MANY
    assert told["batch_size"] == 16
    lucidrains_trainer.draw(
        folder=str(tmp_path / "drawn"),
        trained=str(tmp_path / "lucidrains" / "training"),
        channels=1,
        count=3,
        steps=2,
        batch_size=2,
        size=(28, 28),
    )
    assert drawn(tmp_path / "drawn").shape == (3, 1, 28, 28)


def bind(stages: Sequence[Stage]) -> None:
    """Every function that the stages call takes the options that they give, or TypeError."""
    for stage in stages:
        module, function = stage.contestant.work.split(":")
        options = json.loads(json.dumps(stage.contestant.options))
        called = getattr(importlib.import_module(module), function)
        inspect.signature(called).bind(folder="", **options)


def test_every_stage_gives_its_contestant_what_it_takes(garments, tmp_path, monkeypatch):
    """Nothing of what comes after hours of training is to fail for want of an argument."""
    told = {"steps": 10, "seconds": 4.0, "batch_size": 2}
    seen = []

    def finish(stages, out, *, slice_seconds):
        bind(stages)
        seen.extend(stages)
        return {stage.contestant.name: told for stage in stages}

    monkeypatch.setattr(time_to_quality, "finish", finish)
    data = open_images("fashion-mnist", garments)
    measure = SimpleNamespace(data=data, path=str(garments))
    arguments = SimpleNamespace(out=tmp_path, num=8, minutes=1, probe=1, ddim_steps=10, slice=1)
    trained, (steps, time) = time_to_quality.contest(measure, arguments)
    assert [stage.name for stage in seen[::3]] == ["probe", "training", "drawn-10", "drawn-10"]
    assert trained["diffusers"] == {**told, "planned": int(0.97 * (60 - 3) * 10)}
    assert trained["lucidrains"]["planned"] is None
    assert (steps["seconds"], time["seconds"]) == (None, 4.0)
    ours = [stage for stage in seen if stage.contestant.name == "fromnoise"]
    assert all(stage.contestant.python == Path(sys.executable) for stage in ours)


@pytest.mark.slow
def test_a_contest_that_is_over_is_only_scored(garments, classifier, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    trained = {"how": "by hand", "parameters": 9, "batch_size": 2, "steps": 10, "seconds": 4.0}
    for i, one in enumerate(time_to_quality.WORK):
        seconds = 10.0 * (i + 1)
        made = {"ddim_steps": 25, "seconds": seconds}
        times = {25: seconds, time_to_quality.steps_within(made, 10): 10.0}
        for stage in ("probe", "training"):
            (out / one).mkdir(parents=True, exist_ok=True)
            (out / one / f"{stage}.json").write_text(json.dumps(trained))
        for steps, took in times.items():
            (out / one / f"drawn-{steps}").mkdir()
            images = RNG.integers(0, 256 - 60 * i, (40, 1, 28, 28), dtype=np.uint8)
            np.savez(out / one / f"drawn-{steps}" / shards.IMAGES, images=images)
            (out / one / f"drawn-{steps}.json").write_text(
                json.dumps({"count": 40, "seconds": took})
            )
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    line = ["--out", out, "--classifier", classifier, "--data", garments, "--num", 40]
    monkeypatch.setattr(sys, "argv", ["time_to_quality.py", *map(str, line)])
    monkeypatch.setattr(sys, "executable", "/nowhere")  # nothing can be started
    time_to_quality.main()

    rows = [row for row in capsys.readouterr().out.splitlines() if "a second" in row]
    assert [row.split()[1] for row in rows] == 2 * list(time_to_quality.WORK)
    assert "| 9 | 20 images, 5 a second | 25 steps, 10 s |" in rows[0]
    assert "| 12 steps, 10 s |" in rows[4]
    figures = json.loads((tmp_path / "results" / "time_to_quality.json").read_text())
    same_steps, same_time = figures["drawings"]
    found = {one: same_steps[one]["frechet_distance"]["value"] for one in time_to_quality.WORK}
    better = min(found["diffusers"], found["lucidrains"])
    assert same_steps["times_the_better_peer"] == pytest.approx(found["fromnoise"] / better)
    assert same_time["lucidrains"]["ddim_steps"] == 8
    assert same_time["fromnoise"] == same_steps["fromnoise"]  # which was not drawn twice
    for i in range(60):
        with Image.open(out / "pictures" / f"{i:05d}.png") as picture:
            assert picture.size == (SIDE, SIDE)
