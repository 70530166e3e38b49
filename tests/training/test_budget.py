"""A length in minutes: what is measured, what fits, what is stored."""

import logging
from itertools import count
from pathlib import Path

import pytest

import fromnoise
from fromnoise import runs
from fromnoise.checkpoints import LOCK, OWNER, list_checkpoints
from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import load_recipe, match_schema, parse_recipe
from fromnoise.training import budget
from fromnoise.training.budget import Seconds, TooShort
from fromnoise.training.loop import Callback
from fromnoise.training.state import learning_rate

TIMED = Seconds(step=0.5, preview=4.0, checkpoint=1.0, score=30.0)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Seconds]:
    """Let every measurement find that a step takes 5 seconds; the list grows with each of them."""
    found: list[Seconds] = []

    def measure(setup, state, callbacks, stop, over) -> Seconds:
        found.append(Seconds(5.0, 0.0, 0.0, 0.0))
        return found[-1]

    monkeypatch.setattr(budget, "measure", measure)
    monkeypatch.setattr(budget, "MEASURED", 3)
    monkeypatch.setattr(budget.time, "perf_counter", count(0, 1e-9).__next__)
    return found


def test_the_steps_are_the_most_that_fit(tiny: dict):
    recipe = parse_recipe(tiny, "tiny", {"training.minutes": 5, "training.preview_every": 0.1})
    steps = TIMED.steps_within(recipe, 300)
    assert steps == 500  # 250 s of steps, 10 previews, 10 checkpoints
    assert TIMED.of(recipe, steps) <= 300 < TIMED.of(recipe, steps + 1)
    # numbers of steps stay: 4 previews and 10 checkpoints in 548 steps
    recipe = parse_recipe(tiny, "tiny", {"training.minutes": 5, "training.preview_every": 150})
    assert TIMED.steps_within(recipe, 300) == 548


def test_previews_checkpoints_and_scores_take_a_tenth_each(tiny: dict):
    given = {"training.minutes": 2, "evaluation.every": 0.05}
    recipe = TIMED.spread(parse_recipe(tiny, "tiny", given), 120)
    assert recipe.training.preview_every == pytest.approx(1 / 3)
    assert recipe.training.checkpoint_every == 0.1  # 10 s of 120 are less than a tenth
    assert recipe.evaluation.every == 1.0  # one at the end, though it takes a quarter
    kept = parse_recipe(tiny, "tiny", {**given, "training.preview_every": 7})
    assert TIMED.spread(kept, 120).training.preview_every == 7


def test_minutes_replace_steps_and_counts_become_shares():
    counts = {"steps": 5000, "warmup_steps": 250, "preview_every": 500, "checkpoint_every": 500}
    whole = load_recipe("fashion-mnist", {f"training.{key}": n for key, n in counts.items()})
    overrides = {"training.hours": 0.5, "training.ema_snapshot_every": 250}
    short = parse_recipe(whole.model_dump(mode="json"), "short", overrides)
    settings = short.training
    assert (settings.steps, settings.epochs, settings.budget) == (0, None, 1800)
    assert (settings.warmup_steps, settings.preview_every) == (0.05, 0.1)
    assert settings.ema_snapshot_every == 250  # an override is kept as it is given
    assert short.with_steps(5000).training.warmup_steps == whole.training.warmup_steps
    assert parse_recipe(short.model_dump(mode="json"), "again") == short
    own = {"training.minutes": 9, "training.preview_every": 500, "training.log_every": 0.5}
    kept = parse_recipe(load_recipe("fashion-mnist", own).model_dump(mode="json"), "again").training
    assert (kept.preview_every, kept.log_every, kept.checkpoint_every) == (500, 0.5, 0.1)
    whole = load_recipe(
        "folder", {"training.steps": 10_000, "training.milestone_every": 10_000}
    ).model_dump(mode="json")
    last = match_schema(whole, "last", {"training.minutes": 9})
    assert last.with_steps(777).training.milestone_every == 777
    for length in ({"steps": 7}, {"epochs": 2}, {"minutes": 3}):
        [(key, value)] = length.items()
        other = match_schema(short.model_dump(), "other", {f"training.{key}": value}).training
        assert [other.steps or None, other.epochs, other.minutes, other.hours] == [
            length.get(name) for name in ("steps", "epochs", "minutes", "hours")
        ]


def test_shares_are_steps_once_the_steps_are_known(tiny: dict):
    shares = {"training.preview_every": 0.25, "training.warmup_steps": 0.001}
    settings = parse_recipe(tiny, "tiny", {**shares, "training.steps": 40}).with_steps(40).training
    assert (settings.preview_every, settings.warmup_steps) == (10, 1)
    assert learning_rate(settings, 0) == settings.learning_rate


@pytest.mark.slow
def test_a_run_in_minutes_is_a_run_of_its_steps(tiny: dict, tmp_path: Path, measured: list):
    given = {"training.minutes": 1, "training.preview_every": 0.5}
    budgeted = fromnoise.train(tiny, out=tmp_path / "a", overrides=given)
    settings = budgeted.recipe().training
    assert (settings.steps, settings.minutes) == (11, None)
    assert (settings.preview_every, settings.checkpoint_every, settings.log_every) == (6, 2, 1)
    assert budgeted.finished
    plain = fromnoise.train(tmp_path / "a" / "recipe.yaml", out=tmp_path / "b")
    for name in ("model", "ema", "optimizer"):
        file = f"checkpoints/000011/{name}.safetensors"
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert plain.recipe() == budgeted.recipe()
    assert runs.resume(tmp_path / "a").finished
    assert len(measured) == 1


def test_a_kill_while_it_measures_begins_the_measurement_again(
    tiny: dict, tmp_path: Path, measured: list, monkeypatch: pytest.MonkeyPatch
):
    measure = budget.measure

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(budget, "measure", killed)
    given = {"training.minutes": 1, "training.preview_every": 0.5}
    with pytest.raises(KeyboardInterrupt):
        fromnoise.train(tiny, out=tmp_path / "run", overrides=given)
    names = {path.name for path in (tmp_path / "run").iterdir()} - {LOCK, OWNER}
    assert names == {"recipe.yaml"}
    assert load_recipe(tmp_path / "run" / "recipe.yaml").training.minutes == 1
    monkeypatch.setattr(budget, "measure", measure)
    assert runs.resume(tmp_path / "run").finished
    assert len(measured) == 1


def test_a_stop_signal_while_it_measures(tiny: dict, tmp_path: Path, monkeypatch):
    def stopped(setup, state, callbacks, stop, over) -> None:
        stop.received = "SIGINT"

    monkeypatch.setattr(budget, "measure", stopped)
    run = fromnoise.train(tiny, out=tmp_path / "run", overrides={"training.minutes": 1})
    assert (run.stopped_by, run.finished) == ("SIGINT", False)
    assert run.recipe().training.minutes == 1


def test_a_time_shorter_than_the_measurement(tiny: dict, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(budget, "measure", lambda *_: Seconds(9.0, 2.0, 1.0, 0.0))
    match = r"training\.minutes = 1 is too short: .* Give at least minutes=4"
    with pytest.raises(TooShort, match=match):
        fromnoise.train(tiny, out=tmp_path / "run", overrides={"training.minutes": 1})
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {LOCK, OWNER}


def test_the_measurement_itself(tiny: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Real steps, a real checkpoint, real previews: they leave nothing behind."""
    from fromnoise.training import run as running
    from fromnoise.training.loop import StopSignal

    recipe, folder = running.resolve_recipe(
        tiny, tmp_path / "run", None, {"training.minutes": 30, "evaluation.every": 0.5}
    )
    setup = running.prepare(recipe, running.open_data(recipe), folder)
    folder.mkdir()
    called = []

    def callbacks(setup) -> list[Callback]:
        assert setup.folder.parent == folder

        def preview(*given: object) -> None:
            called.append(given)
            budget.logger.info("%s", setup.folder)

        return [
            Callback("preview", 1, preview, lambda step: True),
            Callback("score", 1, lambda *given: 1 / 0, lambda step: True, slow=True),
        ]

    caplog.set_level(logging.INFO, "fromnoise")
    with StopSignal() as stop:
        state = running.start(setup)
        found = budget.recipe_within_budget(setup, state, callbacks, stop)
    assert state.step == budget.UNCOUNTED + budget.MEASURED
    assert len(called) == 2  # the first one imports what draws
    assert list(folder.iterdir()) == []
    steps = found.training.steps
    assert steps > 1000
    assert f"of 30m 00s are left: {steps} steps of" in caplog.text
    assert budget.SCRATCH not in caplog.text  # no file that is gone is named


def test_resume_takes_no_minutes(run: Path):
    step = int(list_checkpoints(run / "checkpoints")[-1].name)
    with pytest.raises(ConfigError, match=rf"is at step {step}\. Give training\.steps"):
        runs.resume(run, overrides={"training.hours": 1})
