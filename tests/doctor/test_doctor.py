import importlib
import logging
from collections import namedtuple

import pytest
import torch

import fromnoise
from fromnoise import runs
from fromnoise.config.recipe import load_recipe, shipped_recipes
from fromnoise.doctor.checks import CHECKS
from fromnoise.doctor.doctor import diagnose

doctor = importlib.import_module("fromnoise.doctor.doctor")
Usage = namedtuple("Usage", "total used free")
ON_64 = {"data.size": 64, "data.channels": 3, "training.batch_size": 64}


@pytest.fixture
def hasty(monkeypatch):
    """Nothing is timed."""
    monkeypatch.setattr(doctor, "SECONDS", 0.0)


def levels(found):
    return {finding.topic: finding.level for finding in found}


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_recipes())
def test_no_shipped_recipe_is_wrong(name, hasty, tmp_path):
    """Without their images, and without time for a measurement."""
    found = diagnose(name, out=tmp_path / "run")
    assert len(found) == len(CHECKS)
    assert "error" not in levels(found).values(), found
    expected = {"memory", "time"}  # not measured
    source = load_recipe(name).data.source
    expected |= {"images seen"} if source in ("folder", "iclevr") else set()
    expected |= {"attention"} if name == "folder-64" else set()  # at full resolution, as published
    assert {what for what, level in levels(found).items() if level == "warn"} == expected


def test_the_command_prints_each_finding_and_a_sound_recipe_is_no_error(cli, tmp_path):
    code, out, _ = cli("doctor", "digits", "--out", tmp_path / "run", "network.channels=8")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["ok"] * len(CHECKS)
    assert "images seen: 128,000 in 1,000 steps: 71.2 epochs of 1,797" in out
    assert not (tmp_path / "run").exists()


def test_finds_T_400(cli, recipe_file, hasty):
    schedule = "diffusion.schedule={name: linear, beta_T: 0.02}"
    code, out, _ = cli("doctor", recipe_file, "diffusion.T=400", schedule)
    assert code == 1
    assert "error noise at t = T: √ᾱ_T = 0.13: x_T still shows the image" in out
    assert "Set diffusion.T=1000, or diffusion.schedule=linear_rescaled, or" in out


def test_betas_of_nearly_0_are_a_finding_and_no_error(cli, recipe_file, hasty):
    schedule = "diffusion.schedule={name: linear, beta_1: 1e-9, beta_T: 1e-9}"
    code, out, _ = cli("doctor", recipe_file, "diffusion.T=10", schedule)
    assert code == 1
    assert "error noise at t = T: √ᾱ_T = 1.00: x_T still shows the image" in out
    assert "Set diffusion.schedule=cosine" in out


def test_finds_an_average_that_is_too_long(cli, recipe_file, hasty):
    code, out, _ = cli("doctor", recipe_file, "training.steps=14000", "training.ema_decay=0.9999")
    assert code == 0
    assert "warn  EMA: decay 0.9999 is an average over 10,000 steps, 71%" in out
    assert "Set training.ema_decay=0.9993" in out


@pytest.mark.parametrize(
    ("network", "option"),
    [
        ({"name": "ddpm", "channels": 8, "groups": 4, "attention_levels": [0]}, "attention_levels"),
        (
            {"name": "dense_attention", "channels": [8] * 4, "mid_channels": [8, 8], "heads": 2},
            "attention_levels",
        ),
        (
            {"name": "stacked", "channels": [8, 16, 32, 64, 64, 48], "groups": 4, "heads": 2}
            | {"attention": [True, False, False, False, False, False]},
            "attention",
        ),
        (
            {"name": "linear_attention", "dim": 8, "multipliers": [1, 2]}
            | {"full_attention_levels": [0]},
            "full_attention_levels",
        ),
    ],
)
def test_finds_attention_on_64x64_at_batch_64(tiny, hasty, network, option):
    tiny["network"] = network
    (found,) = (f for f in diagnose(tiny, overrides=ON_64) if f.topic == "attention")
    assert found.level == "warn"
    assert "at 64×64: " in found.message
    assert f"Remove it at 64×64 (network.{option})" in found.advice


def test_attention_on_16x16_is_no_finding(tiny, hasty):
    tiny["network"] |= {"multipliers": [1, 2, 2], "attention_levels": [2]}
    assert levels(diagnose(tiny, overrides=ON_64))["attention"] == "ok"


def test_finds_200_checkpoints_of_330_MB_on_20_GB(cli, recipe_file, hasty, monkeypatch):
    measure = doctor.measure
    of_330_MB = {"weight_bytes": 330 * 10**6 // 4}
    monkeypatch.setattr(doctor, "measure", lambda *a, **k: measure(*a, **k)._replace(**of_330_MB))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(0, 0, 20 * 10**9))
    many = ["training.keep_checkpoints=200", "training.steps=20000", "training.checkpoint_every=50"]
    code, out, _ = cli("doctor", recipe_file, *many)
    assert code == 1
    assert "error disk: 200 checkpoints of 315 MiB, and one while it is written: 62 GiB" in out
    assert "19 GiB are free" in out
    assert cli("doctor", recipe_file, "training.steps=20000").code == 0


def test_images_that_are_not_here_are_said_to_be_so(cli, hasty):
    code, out, _ = cli("doctor", "iclevr")
    assert code == 0
    assert (
        "warn  images seen: 300 epochs of images that are not here: steps unknown. "
        "Give --data PATH" in out
    )
    code, out, _ = cli("doctor", "cifar10-paper")
    assert "102,400,000 in 800,000 steps: 2,048 epochs of 50,000" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["folder", "data.size=null"], "the size of the images is unknown. Give --data PATH"),
        (["folder", "--data", "nowhere"], "nowhere does not exist"),
        (["digits", "data.size=9"], "image size 9x9 does not fit this network"),
        (["digits", "training.stesp=1"], "did you mean training.steps?"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(cli, arguments, said):
    code, out, err = cli("doctor", *arguments)
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]


# ---- at the start of a training -----------------------------------------------------------------


def test_a_training_begins_with_what_is_not_ok(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO, "fromnoise")
    tiny["training"]["steps"] = 1
    fromnoise.train(tiny, out=tmp_path / "run")
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert any(line.startswith("warn  flip: data.flip on digits") for line in said)
    assert not any(line.startswith("ok") for line in caplog.messages)
    first_step = next(i for i, m in enumerate(caplog.messages) if m.startswith("step 1/1"))
    assert all(m.split()[0] not in {"warn", "error"} for m in caplog.messages[first_step:])


def test_even_what_is_wrong_does_not_stop_a_training(tiny, tmp_path, caplog):
    tiny["diffusion"] = {"T": 100, "schedule": "linear"}
    tiny["training"]["steps"] = 1
    assert fromnoise.train(tiny, out=tmp_path / "run").finished
    assert caplog.text.count("x_T still shows the image") == 1


@pytest.mark.parametrize("error", [MemoryError("all taken"), RuntimeError("a"), ValueError("b")])
def test_a_doctor_who_fails_does_not_stop_a_training(tiny, tmp_path, caplog, monkeypatch, error):
    def fail(*what, **how):
        raise error

    monkeypatch.setattr(doctor, "measure", fail)
    tiny["training"]["steps"] = 1
    assert fromnoise.train(tiny, out=tmp_path / "run").finished
    assert f"the doctor failed ({error})" in caplog.text


def test_a_training_is_the_same_to_the_last_bit_without_the_doctor(tiny, tmp_path, monkeypatch):
    def weights(name):
        run = fromnoise.train(tiny, out=tmp_path / name)
        return run.model().denoiser.state_dict(), run.model("raw").denoiser.state_dict()

    torch.manual_seed(3)
    with_it = weights("with")
    state = torch.get_rng_state()
    monkeypatch.setattr(runs, "log_warnings", lambda *what, **how: None)
    torch.manual_seed(3)
    without = weights("without")
    assert torch.equal(state, torch.get_rng_state())
    for ours, theirs in zip(with_it, without, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
