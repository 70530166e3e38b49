import importlib
import inspect
import json
import signal
import sys
from argparse import Namespace
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
from quality_of_drawings import RECIPE, distance, drawn
from race import Contestant
from shards import draw_shards
from table import short
from torch import nn
from turns import Stage, check_plan, finish
from width import width_nearest

import fromnoise
from fromnoise import open_images
from fromnoise.evaluation.features import pixels
from fromnoise.evaluation.images import Reference
from fromnoise.evaluation.metrics import moments_of

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies

RNG = np.random.default_rng(0)
LONG = 1e9  # seconds
OF_ITS_SCHEDULER = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept")
NAMES = ["fromnoise", "diffusers", "lucidrains", "diffusers, helped", "lucidrains, helped"]


def count_of(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


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
    assert ends == {"steps": int(0.94 * 1798.5 * 2), "seconds": 1798.5}
    ends = time_to_quality.end_of(probe, 60, 1800, falls=False)
    assert ends == {"steps": None, "seconds": 1798.5}
    assert time_to_quality.end_of(probe, 60, 1, falls=True) == {"steps": 1, "seconds": 0}


@pytest.mark.parametrize(
    ("took", "limit", "steps"),
    [(100, 100, 10), (100, 40, 4), (100, 39.9, 3), (100, 1, 2), (0.1, 100, 1000), (0.3, 0.3, 10)],
)
def test_ddim_steps_that_fit_into_a_time(took, limit, steps):
    assert time_to_quality.steps_within({"steps": 10, "seconds": took}, limit) == steps


def test_a_folder_keeps_to_one_plan(tmp_path):
    plan = {"minutes": 30, "num": 100}
    check_plan(tmp_path / "out", plan)
    check_plan(tmp_path / "out", plan)
    with pytest.raises(SystemExit, match=r"has results with minutes = 30\. Give the same"):
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


@given(st.integers(0, 3000), st.integers(1, 8))
def test_no_other_width_comes_nearer(parameters, multiple):
    def build(width: int) -> nn.Module:
        return nn.Linear(width, width)  # w² + w

    widths = range(multiple, 100, multiple)
    nearest = min(widths, key=lambda width: (abs(count_of(build(width)) - parameters), width))
    assert width_nearest(build, parameters, multiple=multiple) == nearest


@pytest.mark.slow  # to import them
@pytest.mark.parametrize(
    ("module", "package", "width"),
    [(diffusers_example, "diffusers", 24), (lucidrains_trainer, "denoising_diffusion_pytorch", 20)],
)
def test_the_widths_of_the_peers_at_four_million_parameters(module, package, width):
    pytest.importorskip(package)
    assert module.width_for(1, 3_939_393) == width


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
    tiny["sampling"] = {"sampler": "heun"}
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
        folder=str(tmp_path / "drawn"),
        trained=str(out),
        count=5,
        steps=2,
        batch_size=2,
        first_seed=9,
    )
    assert (made["count"], made["sampler"]) == (5, "heun")
    np.testing.assert_array_equal(
        drawn(tmp_path / "drawn"), model.sample(range(9, 14), sampler="heun", steps=2).numpy()
    )


@pytest.mark.slow
@OF_ITS_SCHEDULER
@pytest.mark.parametrize(
    ("steps", "seconds", "more", "solver"),
    [
        (2, LONG, {}, {}),
        (None, 0.0, {"batch_size": 4, "bf16": True}, {"solver": True, "bf16": True}),
    ],
)
def test_diffusers_ends_by_its_steps_or_by_its_time_and_can_be_drawn(
    tmp_path, steps, seconds, more, solver
):
    pytest.importorskip("diffusers")
    np.save(tmp_path / "images.npy", RNG.integers(0, 256, (16, 1, 28, 28), dtype=np.uint8))
    options = {"images": str(tmp_path / "images.npy"), "parameters": 300_000, **more}
    options |= {"steps": steps, "seconds": seconds}
    contestant = Contestant("diffusers", "diffusers_example:train", options)
    told = finish([Stage("training", contestant)], tmp_path, slice_seconds=60)["diffusers"]
    assert told["steps"] == 2 if steps else 0 < told["steps"] < diffusers_example.MANY
    made = diffusers_example.draw(
        folder=str(tmp_path / "drawn"),
        trained=str(tmp_path / "diffusers" / "training"),
        count=3,
        steps=2,
        batch_size=2,
        size=(28, 28),
        **solver,
    )
    assert made["count"] == 3
    assert made["sampler"] == ("dpm++" if solver else "ddim")
    assert told["batch_size"] == more.get("batch_size", 16)
    assert drawn(tmp_path / "drawn").shape == (3, 1, 28, 28)
    assert drawn(tmp_path / "drawn").dtype == np.uint8


@pytest.mark.slow
@OF_ITS_SCHEDULER
def test_the_solver_of_diffusers_finds_the_one_image_that_its_network_knows():
    """x̂_0 of the exact ε of data that is one image is this image, at any number of steps."""
    pytest.importorskip("diffusers")
    x0, alpha_bar = torch.linspace(-1, 1, SIDE), (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)

    class Exact:
        dtype, device = torch.float32, torch.device("cpu")
        config = SimpleNamespace(in_channels=1)

        def __call__(self, x, t):
            known = alpha_bar[t]
            return SimpleNamespace(sample=(x - known.sqrt() * x0) / (1 - known).sqrt())

    for steps in (2, 7):
        made = diffusers_example.solved(Exact(), 2, steps, torch.Generator().manual_seed(0))
        target = ((x0 + 1) / 2).expand(2, 1, SIDE, SIDE)
        np.testing.assert_allclose(made, target, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"bf16": True}])
def test_the_trainer_of_lucidrains_is_ended_by_its_time_and_can_be_drawn(tmp_path, more):
    pytest.importorskip("denoising_diffusion_pytorch")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(100):  # as few as it takes
        Image.fromarray(RNG.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(
            pictures / f"{i}.png"
        )
    alike = {"channels": 1, "parameters": 300_000, **more}
    options = {"pictures": str(pictures), "steps": None, "seconds": 0, **alike}
    contestant = Contestant("lucidrains", "lucidrains_trainer:train", options)
    told = finish([Stage("training", contestant)], tmp_path, slice_seconds=60)["lucidrains"]
    assert 0 < told["steps"] < lucidrains_trainer.MANY
    assert told["batch_size"] == 16
    lucidrains_trainer.draw(
        folder=str(tmp_path / "drawn"),
        trained=str(tmp_path / "lucidrains" / "training"),
        count=3,
        steps=2,
        batch_size=2,
        size=(28, 28),
        **alike,
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
    seen: list[Stage] = []

    def finish(stages, out, *, slice_seconds):
        bind(stages)
        seen.extend(stages)
        sizes = {
            stage.contestant.name: stage.contestant.options.get("batch_size", 2) for stage in stages
        }
        # so a peer that is helped learns from 160, 320 and 256 images
        return {
            one: {"steps": 4 if size == 64 else 10, "seconds": 4.0, "batch_size": size}
            for one, size in sizes.items()
        }

    monkeypatch.setattr(time_to_quality, "finish", finish)
    data = open_images("fashion-mnist", garments)
    measure = SimpleNamespace(data=data, path=str(garments))
    arguments = Namespace(
        out=tmp_path, recipe=RECIPE, num=8, minutes=1, probe=1, slice=1, helped=True
    )
    trained, drawings = time_to_quality.contest(measure, arguments)
    assert list(trained) == NAMES
    assert trained["diffusers"]["planned"] == int(0.94 * (60 - 3) * 10)
    assert trained["lucidrains"]["planned"] is None
    assert trained["diffusers, helped"]["batch_size"] == 32
    assert [drawing["seconds"] for drawing in drawings] == [None, None, 4.0]
    assert [drawing["fromnoise"]["steps"] for drawing in drawings] == [10, 50, 10]

    def of(name: str) -> list[Stage]:
        return [stage for stage in seen if stage.contestant.name == name]

    drawn = ["drawn-10-8", "drawn-50-4", "drawn-10-8"]
    assert [stage.name for stage in of("fromnoise")] == ["probe", "training", *drawn]
    assert all(stage.contestant.python == Path(sys.executable) for stage in of("fromnoise"))
    names = [stage.name for stage in of("lucidrains, helped")]
    assert names == ["probe-16", "probe-32", "probe-64", "training", *drawn]
    *_, few = (stage.contestant.options for stage in of("diffusers, helped"))
    assert few["solver"] is True
    for one in ("diffusers", "lucidrains"):  # as they are
        assert not any(stage.contestant.options.keys() & {"bf16", "solver"} for stage in of(one))

    arguments.helped, before = False, len(seen)
    trained, _ = time_to_quality.contest(measure, arguments)
    assert list(trained) == NAMES[:3]
    assert len(seen) == before + 5 * 3


def test_parameters_are_those_of_the_recipe(garments, tmp_path):
    measure = SimpleNamespace(data=open_images("fashion-mnist", garments), path=None)
    ours, *peers = time_to_quality.entrants(measure, RECIPE, tmp_path)
    assert ours.training == {"data": None, "recipe": RECIPE}
    assert {peer.training["parameters"] for peer in peers} == {998_052}


@pytest.mark.slow
def test_a_contest_that_is_over_is_only_scored(garments, classifier, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    trained = {"how": "by hand", "parameters": 9, "batch_size": 2, "steps": 10, "seconds": 4.0}
    for i, one in enumerate(NAMES):
        seconds = 10.0 * (i + 1)
        within = time_to_quality.steps_within({"steps": 10, "seconds": seconds}, 10)
        (out / one).mkdir(parents=True)
        for stage in ("probe", "probe-16", "probe-32", "probe-64", "training"):
            (out / one / f"{stage}.json").write_text(json.dumps(trained))
        for steps, took in {50: 50.0, within: 10.0, 10: seconds}.items():
            count = 40 if steps == 50 else 80
            folder = out / one / f"drawn-{steps}-{count}"
            folder.mkdir()
            images = RNG.integers(0, 256 - 40 * i, (count, 1, 28, 28), dtype=np.uint8)
            np.savez(folder / shards.IMAGES, images=images)
            told = {"count": count, "seconds": took, "sampler": "ddim"}
            folder.with_suffix(".json").write_text(json.dumps(told))
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    line = ["--out", out, "--classifier", classifier, "--data", garments, "--num", 80]
    line += ["--minutes", 10, "--helped"]
    monkeypatch.setattr(sys, "argv", ["time_to_quality.py", *map(str, line)])
    monkeypatch.setattr(sys, "executable", "/nowhere")  # nothing can be started
    time_to_quality.main()

    said = capsys.readouterr().out
    rows = [row for row in said.splitlines() if "per second" in row]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == 3 * NAMES
    assert "| 9 | 20 images, 5 per second | 10 steps of ddim, 10 s |" in rows[0]
    assert "| 5 steps of ddim, 10 s |" in rows[11]
    figures = json.loads((tmp_path / "results" / "time_to_quality_10.json").read_text())
    few, more, in_time = figures["drawings"]
    found = {one: few[one]["frechet_distance"]["value"] for one in NAMES}
    assert len(set(found.values())) == len(NAMES)
    ratio = found["fromnoise"] / min(found["diffusers"], found["lucidrains"])
    assert f"is {short(ratio)} × the smallest one of the other programs, and" in said
    assert more["lucidrains"]["steps"] == 50
    assert in_time["lucidrains"]["steps"] == 3
    assert in_time["fromnoise"] == few["fromnoise"]  # which was not drawn twice
    with Image.open(out / "time-to-quality.png") as picture:
        assert picture.width > 5 * 6 * 84  # six images of each in a row
    for i in range(60):
        with Image.open(out / "pictures" / f"{i:05d}.png") as picture:
            assert picture.size == (SIDE, SIDE)
