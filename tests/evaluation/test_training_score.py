"""Scores while training: what they are, what they cost, and that nothing waits for them."""

from types import SimpleNamespace

import numpy as np
import pytest

import fromnoise
from fromnoise import runs
from fromnoise.data import open_images
from fromnoise.evaluation import training_score as scoring
from fromnoise.evaluation.metrics import frechet_distance, moments_of
from fromnoise.training.log import read_log


@pytest.fixture
def train(tiny, tmp_path):
    """train(steps=…, …): a run of the digits that is scored every 2 steps by 70 images' pixels."""

    def call(overrides=(), **evaluation):
        tree = {**tiny, "evaluation": {"every": 2, "num_images": 70, **evaluation}}
        return fromnoise.train(tree, out=tmp_path / "run", overrides=dict(overrides))

    return call


def scores(run):
    return {row["step"]: row["evaluation"] for row in read_log(run.folder) if "evaluation" in row}


def pixels(images):
    return moments_of(np.asarray(images).reshape(len(images), -1) / 255)


def test_the_last_score_is_that_of_the_finished_model(train):
    run = train({"training.steps": 5})
    found = scores(run)
    assert list(found) == [2, 4, 5]
    drawn, real = pixels(run.model().sample(range(70))), pixels(open_images("digits").images)
    expected = frechet_distance(drawn.mean, drawn.covariance, real.mean, real.covariance)
    last = found[5]
    assert last["fid"]["value"] == pytest.approx(expected, rel=1e-4)
    assert last["fid"]["low"] < last["fid"]["value"] < last["fid"]["high"]
    assert (last["extractor"], last["num_images"]) == ("pixels", 70)
    assert last["seconds"] > 0


def test_scores_do_not_change_the_training(train, tiny, tmp_path):
    scored = train({"training.steps": 4})
    plain = fromnoise.train(tiny, out=tmp_path / "plain", overrides={"training.steps": 4})
    for one, other in zip(
        *(r.model("raw").denoiser.state_dict().values() for r in (scored, plain)), strict=True
    ):
        assert (one == other).all()


def test_every_0_is_never(train):
    assert scores(train({"training.steps": 4, "evaluation.every": 0})) == {}


def test_a_checkpoint_stands_before_a_score_begins(train, monkeypatch, tmp_path):
    there = []

    def look(state, *_):
        saved = tmp_path / "run" / "checkpoints" / f"{state.step:06d}"
        there.append((state.step, saved.is_dir()))

    monkeypatch.setattr(runs, "score", look)
    train({"training.steps": 4})
    assert there == [(2, True), (4, True)]


@pytest.mark.slow
@pytest.mark.parametrize("error", [OSError, RuntimeError, MemoryError, ValueError])
def test_a_score_that_fails_does_not_end_the_training(train, monkeypatch, caplog, error):
    def fails(*_, **__):
        raise error("no space left")

    monkeypatch.setattr("fromnoise.evaluation.images.reference_of", fails)
    assert train({"training.steps": 4}).finished
    assert "no score (no space left)" in caplog.text


def test_images_that_are_nan_are_a_failed_score_and_no_preview(train, nan_seeds, caplog):
    run = train({"training.steps": 2, "training.preview_every": 2})
    assert run.finished
    assert scores(run) == {}
    assert "no score (2 of 64 images are NaN or infinite, of seeds 5, 6." in caplog.text
    assert "cannot write the pictures (2 of 16 images are NaN" in caplog.text


def test_scores_are_those_of_fp32(train):
    run = train({"training.steps": 2, "training.precision": "bf16"})
    assert [score["precision"] for score in scores(run).values()] == ["fp32"]


@pytest.mark.slow
def test_a_signal_gives_the_score_up(train, monkeypatch):
    def score(*arguments):
        scoring.score(*arguments[:-1], SimpleNamespace(received="SIGTERM"))

    monkeypatch.setattr(runs, "score", score)
    run = train({"training.steps": 4})
    assert scores(run) == {}
    assert run.finished


@pytest.mark.parametrize(
    ("evaluation", "said"),
    [
        ({"num_images": 60}, "evaluation.num_images = 60 is fewer than the 64 features of pixels"),
        (
            {"extractor": "classifier"},
            "needs --classifier FOLDER, or evaluation.classifier in a recipe",
        ),
        ({"extractor": "fid"}, "evaluation.extractor"),
        ({"num_images": 39}, "evaluation.num_images = 39"),
    ],
)
def test_what_cannot_be_scored_is_said_before_anything_is_written(
    train, tmp_path, evaluation, said
):
    with pytest.raises(ValueError, match=said):
        train({"training.steps": 2}, **evaluation)
    assert not (tmp_path / "run").exists()
