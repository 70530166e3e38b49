"""Held-out images: never trained on, compared fairly; the best checkpoint; the end by patience."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fromnoise
from fromnoise import runs
from fromnoise.checkpoints import BEST, list_checkpoints, mark_best, read_state
from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import parse_recipe
from fromnoise.data.loader import image_indices
from fromnoise.evaluation.images import run_images_of
from fromnoise.model.model import Model
from fromnoise.rng import BatchDraws, permuted
from fromnoise.training import held_out, loop
from fromnoise.training import run as running
from fromnoise.training.held_out import ended_by_patience, held_out_loss
from fromnoise.training.log import read_log
from fromnoise.training.loop import Setup

HOLDOUT = {"data.holdout": 0.1, "training.steps": 12, "training.checkpoint_every": 2}


def setup_of(tiny: dict, tmp_path: Path, **overrides: object) -> Setup:
    recipe, folder = running.resolve_recipe(
        tiny,
        tmp_path / "run",
        None,
        {**HOLDOUT, **{k.replace("__", "."): v for k, v in overrides.items()}},
    )
    return running.prepare(recipe, running.open_data(recipe), folder)


def rows(run: Path) -> list[dict]:
    return [row for row in read_log(run) if "held_out_loss" in row]


def test_no_held_out_image_is_in_any_batch(tiny, tmp_path):
    setup = setup_of(tiny, tmp_path)
    assert setup.held_out is not None
    assert len(setup.images) + len(setup.held_out) == 1797
    steps = math.ceil(len(setup.images) / 8)
    seen = {
        setup.images.images[i].tobytes()
        for step in range(steps)
        for i in image_indices(BatchDraws.of(0, step, 8), len(setup.images))
    }
    assert seen == {image.tobytes() for image in setup.images.images}
    assert not seen & {image.tobytes() for image in setup.held_out.images}


class Zero(nn.Module):
    """Predicts v = 0, so the loss is the mean of v²."""

    def forward(self, x, t, cond=None):
        return torch.zeros_like(x)


def test_the_loss_by_hand(tiny, tmp_path):
    """v = α ε − σ x_0 with the stated noise and timesteps, by quarter of t."""
    setup = setup_of(tiny, tmp_path, diffusion__prediction="v", training__checkpoint_every=400)
    setup = setup._replace(recipe=setup.recipe.with_steps(400))
    denoiser = running.start(setup).denoiser.with_network(nn.Sequential())
    denoiser.network = Zero()
    denoiser.register_parameter("device", nn.Parameter(torch.zeros(1)))
    count = held_out.images_compared(setup.recipe, setup.held_out, setup.images)
    assert count == int(3 * held_out.SHARE * 400 * 8 / 2)
    model = Model(denoiser, setup.spec)
    found = held_out_loss(model, setup.recipe, setup.held_out, setup.images, count)
    alpha_bar = denoiser.schedule.alpha_bar
    for purpose, data, losses in (
        ("held-out", setup.held_out, found.held_out),
        ("trained", setup.images, found.trained),
    ):
        order = permuted(np.arange(count) % len(setup.held_out), len(data), 0, 0, purpose)
        values = []
        for i, row in enumerate(order):
            t = 1 + (2 * i + 1) * 100 // (2 * count)
            x0 = data.images[row].astype(np.float64) / 127.5 - 1
            eps = BatchDraws.of(0, 0, count)._replace(positions=np.array([i]))
            eps = eps.normal("held-out eps", x0.shape).double().numpy()[0]
            alpha, sigma = alpha_bar[t].item() ** 0.5, (1 - alpha_bar[t].item()) ** 0.5
            values.append(((alpha * eps - sigma * x0) ** 2).mean())
        expected = [part.mean() for part in np.array_split(values, 4)]
        np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_the_same_loss_at_each_call_and_in_parts(tiny, tmp_path):
    setup = setup_of(tiny, tmp_path)
    average = running.start(setup).ema.module
    model = Model(running.start(setup).denoiser.with_network(average), setup.spec)
    first = held_out_loss(model, setup.recipe, setup.held_out, setup.images, 16)
    again = held_out_loss(model, setup.recipe, setup.held_out, setup.images, 16)
    assert first == again
    parts = parse_recipe(setup.recipe.model_dump(mode="json"), "parts", {"training.parts": 4})
    of_parts = held_out_loss(model, parts, setup.held_out, setup.images, 16)
    np.testing.assert_allclose(of_parts.held_out, first.held_out, rtol=1e-6)


def test_the_best_checkpoint_is_kept_and_pointed_to(tiny, tmp_path, monkeypatch):
    """Losses that fall and then rise: the least is at step 4."""
    values = iter([3.0, 1.0, 2.0, 4.0, 5.0, 6.0])
    monkeypatch.setattr(held_out.HeldOutLoss, "value", property(lambda self: next(values)))
    monkeypatch.setattr(held_out.HeldOutLoss, "row", lambda self: {"held_out_loss": 0.5})
    run = fromnoise.train(tiny, out=tmp_path / "run", overrides=HOLDOUT).folder
    folder = run / "checkpoints"
    assert [path.name for path in list_checkpoints(folder)] == ["000004", "000010", "000012"]
    assert (folder / BEST).resolve() == (folder / "000004").resolve()
    assert fromnoise.load(folder / BEST).spec.step == 4
    assert read_state(folder / "000012")["held_out"][1] == [4, 1.0]
    assert len(rows(run)) == 6


@pytest.mark.slow
def test_a_later_best_is_dropped_by_resume(tiny, tmp_path, monkeypatch):
    run = fromnoise.train(tiny, out=tmp_path / "run", overrides=HOLDOUT).folder
    folder = run / "checkpoints"
    newest = list_checkpoints(folder)[-1]
    (newest / "model.safetensors").write_bytes(b"")  # damaged: an earlier one is resumed
    steps = [step for step, _ in read_state(list_checkpoints(folder)[-2])["held_out"]]
    assert max(steps) < 12
    runs.resume(run)
    history = read_state(folder / "000012")["held_out"]
    assert [step for step, _ in history] == [2, 4, 6, 8, 10, 12]
    least = min(history, key=lambda pair: pair[1])[0]
    assert int((folder / BEST).resolve().name) == least


@pytest.mark.slow
def test_a_run_that_is_stopped_and_resumed_has_the_same_losses(tiny, tmp_path):
    straight = fromnoise.train(tiny, out=tmp_path / "a", overrides=HOLDOUT).folder
    short = {**HOLDOUT, "training.steps": 7}
    fromnoise.train(tiny, out=tmp_path / "b", overrides=short)
    runs.resume(tmp_path / "b", overrides={"training.steps": 12})
    expected = {row["step"]: row for row in rows(straight)}
    for row in rows(tmp_path / "b"):
        if row["step"] in expected:  # 7 was the last step once
            assert row == expected[row["step"]]
    assert {7, *expected} == {row["step"] for row in rows(tmp_path / "b")}
    weights = "checkpoints/000012/ema.safetensors"
    assert (straight / weights).read_bytes() == (tmp_path / "b" / weights).read_bytes()


@pytest.mark.slow
def test_holding_out_and_comparing_changes_nothing_of_the_training(tiny, tmp_path, monkeypatch):
    whole = fromnoise.train(tiny, out=tmp_path / "a", overrides=HOLDOUT).folder
    nothing = held_out.HeldOutLoss([1.0] * 4, [1.0] * 4)
    monkeypatch.setattr("fromnoise.training.loop.held_out_loss", lambda *_: nothing)
    without = fromnoise.train(tiny, out=tmp_path / "b", overrides=HOLDOUT).folder
    weights = "checkpoints/000012/model.safetensors"
    assert (whole / weights).read_bytes() == (without / weights).read_bytes()


@pytest.mark.slow
def test_patience_ends_a_run_and_says_why(tiny, tmp_path, monkeypatch, caplog):
    values = iter([2.0, 1.0, 1.5, 1.1, 9.0])
    monkeypatch.setattr(held_out.HeldOutLoss, "value", property(lambda self: next(values)))
    monkeypatch.setattr(held_out.HeldOutLoss, "row", lambda self: {"held_out_loss": 0.5})
    patient = {**HOLDOUT, "training.patience": 2, "training.steps": 100}
    caplog.set_level("INFO", "fromnoise")
    run = fromnoise.train(tiny, out=tmp_path / "run", overrides=patient)
    said = "the held-out loss was lowest at step 4 (1), 2 checkpoints ago"
    assert f"finished at step 8: {said}" in caplog.text
    state = json.loads((run.folder / "checkpoints" / "000008" / "state.json").read_text())
    assert state["ended"] == said
    assert run.finished
    assert (run.folder / "previews" / "000008.png").is_file()
    assert runs.resume(run.folder).finished
    (run.folder / "result.png").unlink()  # as after a kill: drawn, and nothing is trained
    assert runs.resume(run.folder).finished
    assert (run.folder / "result.png").is_file()
    assert list_checkpoints(run.folder / "checkpoints")[-1].name == "000008"
    runs.resume(run.folder, overrides={"training.steps": 200})
    assert f"To train longer: fromnoise resume {run.folder} patience=null" in caplog.text
    assert list_checkpoints(run.folder / "checkpoints")[-1].name == "000008"
    values = iter([0.5, 0.4, 0.3, 0.2])
    longer = {"training.steps": 12, "training.patience": None}
    runs.resume(run.folder, overrides=longer)
    assert list_checkpoints(run.folder / "checkpoints")[-1].name == "000012"


@pytest.mark.parametrize(
    ("losses", "patience", "ends"),
    [
        ([], 1, False),
        ([3.0, 2.0, 1.0], 1, False),
        ([1.0, 2.0], 1, True),
        ([1.0, 2.0], 2, False),
        ([1.0, math.nan, 2.0], 2, True),
        ([1.0, 2.0, 3.0], None, False),
    ],
)
def test_when_patience_ends(losses, patience, ends):
    assert bool(ended_by_patience(list(enumerate(losses)), patience)) is ends


def test_the_best_of_those_that_are_there(tmp_path):
    for step in (2, 4, 6):
        (tmp_path / f"{step:06d}").mkdir()
    losses = [(2, 3.0), (3, 0.1), (4, math.nan), (6, 3.0)]
    assert mark_best(tmp_path, losses) == tmp_path / "000002"
    assert mark_best(tmp_path, [(3, 1.0)]) is None
    assert mark_best(tmp_path, [(6, 1.0)]) == tmp_path / "000006"
    assert (tmp_path / BEST).readlink() == Path("000006")


def test_patience_needs_a_holdout(tiny):
    with pytest.raises(ConfigError, match=r"training\.patience = 3 needs held-out images\. Set"):
        parse_recipe(tiny, "tiny", {"training.patience": 3})


@pytest.mark.slow
def test_an_evaluation_gets_the_same_images(tiny, tmp_path):
    run = fromnoise.train(tiny, out=tmp_path / "run", overrides=HOLDOUT).folder
    setup = setup_of(tiny, tmp_path)
    found = run_images_of(run)
    np.testing.assert_array_equal(found.training.images.images, setup.images.images)
    np.testing.assert_array_equal(found.held_out.images.images, setup.held_out.images)
    assert found.held_out.what == "digits, train, held out"


@pytest.mark.slow
def test_labels_and_an_augmentation(tiny, tmp_path):
    """The columns of an augmentation are zero, and no held-out image is transformed."""
    given = {**HOLDOUT, "data.labels": True, "training.augment": 0.5}
    run = fromnoise.train(tiny, out=tmp_path / "run", overrides=given)
    assert len(rows(run.folder)) == 6
    plain = {**HOLDOUT, "training.augment": 0.5}
    assert fromnoise.train(tiny, out=tmp_path / "plain", overrides=plain).finished


def test_an_end_by_patience_at_a_skipped_step_is_saved(tiny, tmp_path, monkeypatch):
    values = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(held_out.HeldOutLoss, "value", property(lambda self: next(values)))
    monkeypatch.setattr(held_out.HeldOutLoss, "row", lambda self: {"held_out_loss": 0.5})
    compare = loop.compare_held_out

    def skipping(setup, state, log):
        compare(setup, state, log)
        state.skipped_in_a_row = 1

    monkeypatch.setattr(loop, "compare_held_out", skipping)
    patient = {**HOLDOUT, "training.patience": 2, "training.steps": 100, "training.log_every": 99}
    run = fromnoise.train(tiny, out=tmp_path / "run", overrides=patient)
    assert run.finished
    assert read_state(run.folder / "checkpoints" / "000006")["ended"]
    assert [row["step"] for row in read_log(run.folder) if "loss" in row] == [6]


def test_losses_stay_comparable_when_a_run_gets_longer(tiny, tmp_path):
    given = {**HOLDOUT, "training.checkpoint_every": 1000}
    run = fromnoise.train(tiny, out=tmp_path / "run", overrides=given).folder
    count = read_state(run / "checkpoints" / "000012")["held_out_count"]
    runs.resume(run, overrides={"training.steps": 40})
    assert read_state(run / "checkpoints" / "000040")["held_out_count"] == count
