import math
from dataclasses import replace

import pytest
import torch

from fromnoise.checkpoints import prune
from fromnoise.config import parse_override, parse_recipe
from fromnoise.diffusion import NoiseSchedule
from fromnoise.diffusion.betas import SCHEDULES
from fromnoise.training import findings
from fromnoise.training.ema import EMA
from fromnoise.training.findings import CHECKS, Facts, check
from fromnoise.training.precision import Computation
from fromnoise.training.probe import Attended, Measured

GIB = 2**30
MEASURED = Measured(
    parameters=10**6,
    multiply_adds=10**8,
    attention=(Attended(tokens=64, keys=64, heads=1, multiply_adds=10**6),),
    weight_bytes=4 * 10**6,
    image_bytes=10**6,
    step_seconds=0.1,
    images=128,
    computation=Computation("fp32", False),
)
SOUND = {
    "training.steps": 10_000,
    "training.batch_size": 128,
    "training.ema_decay": 0.999,
    "training.checkpoint_every": 1000,
    "data.flip": False,
}


@pytest.fixture
def facts(tiny):
    """facts({"training.steps": 7}, num_images=5): those of a sound training, with changes."""

    def build(overrides=None, *, measured=None, **known) -> Facts:
        recipe = parse_recipe(tiny, "tiny", {**SOUND, **(overrides or {})})
        sound = Facts(
            recipe=recipe,
            shape=(3, 64, 64),
            measured=replace(MEASURED, **(measured or {})),
            device="cpu",
            num_images=50_000,
            memory_free=8 * GIB,
            disk_free=20 * 10**9,
        )
        return replace(sound, **known)

    return build


def test_a_sound_training_is_ok_in_every_respect(facts):
    found = check(facts())
    assert [finding.level for finding in found] == ["ok"] * len(CHECKS)
    assert len({finding.what for finding in found}) == len(CHECKS)
    assert not any(finding.advice for finding in found)


def test_every_finding_that_is_not_ok_says_what_to_change(facts):
    bad = facts(
        {"training.steps": 14_000, "training.ema_decay": 0.9999, "training.preview_every": 1}
        | {"diffusion.schedule": "linear"},
        num_images=5,
        memory_free=1,
        disk_free=1,
        measured={"step_seconds": 100.0, "parameters": 10**9, "multiply_adds": 10**6},
    )
    found = check(replace(bad, recipe=_flipped(bad.recipe)))
    assert [finding.what for finding in found if finding.level == "ok"] == []
    assert all(len(finding.advice) > 5 for finding in found)


def _flipped(recipe):
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"flip": True})})


# ---- the schedule -------------------------------------------------------------------------------


EARLY = [  # every schedule that can end with an image
    ("linear", 400, {}),
    ("linear", 100, {}),
    ("linear", 1, {"beta_1": 0.996}),
    ("linear", 250, {"beta_T": 0.015}),
    ("linear", 1000, {"beta_T": 0.005}),
    ("linear", 400, {"beta_1": 0.02, "beta_T": 1e-4}),
    ("linear", 10, {"beta_1": 1e-9, "beta_T": 1e-9}),
    ("linear_rescaled", 1000, {"beta_T": 0.002}),
    ("linear_rescaled", 50, {"beta_T": 0.01}),
    ("linear_rescaled", 4000, {"beta_T": 0.01}),
    ("quadratic", 400, {}),
    ("constant", 100, {}),
    ("constant", 1, {"beta": 0.5}),
    ("constant", 10, {"beta": 2e-16}),  # √ᾱ_T is nearly 1 in float64 too
    ("warmup", 200, {}),
    ("warmup", 300, {"fraction": 0.5, "beta_T": 0.01}),
    ("cosine", 100, {"beta_max": 0.01}),
    ("sigmoid", 100, {"beta_max": 0.01}),
    ("given", 3, {"betas": [0.1, 0.2, 0.3]}),
]
LATE = {"jsd"}  # β_T = 1


def test_every_schedule_is_known_to_the_checks_of_its_end():
    assert {name for name, *_ in EARLY} | LATE == set(SCHEDULES)


@pytest.mark.parametrize(("name", "T", "options"), EARLY)
def test_a_schedule_that_ends_too_early_is_wrong_and_each_advice_mends_it(facts, name, T, options):
    schedule = {"diffusion": {"T": T, "schedule": {"name": name, **options}}}
    found = findings.noise_at_the_end(facts(schedule))
    left = math.sqrt(NoiseSchedule.named(name, T, **options).alpha_bar[-1])
    assert found.level == "wrong"
    assert f"√ᾱ_T = {left:.2f}: at t = T the image is still seen" in found.said
    ways = found.advice.removeprefix("end in noise: ").split(", or ")
    for way in ways:
        if way == "larger diffusion.schedule.betas (or more, and diffusion.T as many)":
            mended = {"diffusion.T": 12, "diffusion.schedule.betas": [0.5] * 12}
        else:
            mended = dict(map(parse_override, way.split()))
        diffusion = facts(schedule | mended).recipe.diffusion
        assert diffusion.noise_schedule().alpha_bar[-1] <= (findings.TOO_MUCH_IMAGE / 1.5) ** 2, way
        assert findings.noise_at_the_end(facts(schedule | mended)).level == "ok", way
    if (name, T, options) == ("linear", 400, {}):
        assert ways == [
            "diffusion.T=1000",
            "diffusion.schedule.beta_1=0.00025 diffusion.schedule.beta_T=0.05",
            "diffusion.schedule=cosine",
        ]


@pytest.mark.parametrize(
    ("name", "T", "options", "T_helps", "betas_help"),
    [
        ("linear", 400, {}, True, True),
        ("constant", 100, {}, True, True),
        ("linear", 10, {}, True, False),  # they would grow to 1
        ("linear", 10, {"beta_1": 1e-9, "beta_T": 1e-9}, False, False),  # T = 10 billion
        ("warmup", 2, {"beta_1": 0.25, "beta_T": 1e-3}, False, False),  # T = 70: √ᾱ_T is 0.6
        ("linear", 1, {"beta_1": 4e-3, "beta_T": 0.04}, False, False),  # T = 2730: ᾱ_T is too small
        ("linear_rescaled", 1000, {"beta_T": 0.002}, False, True),
        ("linear_rescaled", 15, {"beta_T": 0.005}, False, False),
        ("given", 3, {"betas": [0.1, 0.2, 0.3]}, False, False),
        ("cosine", 100, {"beta_max": 0.01}, False, False),
    ],
)
def test_what_changes_nothing_or_cannot_be_is_not_advised(
    facts, name, T, options, T_helps, betas_help
):
    schedule = {"diffusion": {"T": T, "schedule": {"name": name, **options}}}
    advice = findings.noise_at_the_end(facts(schedule)).advice
    assert ("diffusion.T=" in advice) == T_helps
    assert ("schedule.beta_T=" in advice or "schedule.beta=" in advice) == betas_help


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"given"}))
def test_a_schedule_whose_end_is_moved_to_pure_noise_is_ok(facts, name):
    asked = {"diffusion": {"T": 100, "schedule": name, "zero_terminal_snr": True}}
    asked["diffusion"]["prediction"] = "v"
    assert findings.noise_at_the_end(facts(asked)).level == "ok"


# ---- the average --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decay", "steps", "level"),
    [
        (0.9999, 14_000, "look"),
        (0.9999, 39_000, "look"),
        (0.9999, 41_000, "ok"),
        (0.999, 5_000, "ok"),
        (0.999, 3_000, "look"),
        (0.0, 200, "ok"),
        (0.9999, 10, "ok"),
    ],
)
def test_an_average_longer_than_a_quarter_of_the_run_is_looked_at(facts, decay, steps, level):
    asked = {"training.ema_decay": decay, "training.steps": steps}
    assert findings.average_of_weights(facts(asked)).level == level


def test_what_is_left_of_the_first_weights_is_what_the_average_keeps(facts):
    """A real average of one number, 1 at first and 0 from the first step on."""
    found = findings.average_of_weights(
        facts({"training.ema_decay": 0.9999, "training.steps": 14_000})
    )
    assert "decay 0.9999 is an average over 10,000 steps, 71% of the 14,000" in found.said
    assert "0.0% of the first weights is left in it; without the warm-up, 25%" in found.said
    assert "only lets it reach 0.9994" in found.said
    assert found.advice.startswith("training.ema_decay=0.9993 ")
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(1)
    ema = EMA(module, 0.9999)
    module.weight.data.zero_()
    for n in range(200):
        ema.update(module, n)
    left = next(iter(ema.module.parameters())).item()
    assert left < 5e-4
    assert left == pytest.approx(math.prod((1 + n) / (10 + n) for n in range(200)), rel=1e-3)
    assert round(0.9999**14_000, 2) == 0.25


# ---- images -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "count", "level"),
    [
        (10_000, 50_000, "ok"),
        (10_000, 1_000, "look"),  # 1,280 epochs
        (10_000, 1_300, "ok"),
        (800_000, 50_000, "ok"),  # the paper's 2,048
        (100, 50_000, "look"),  # a quarter of one
        (10_000, None, "look"),
    ],
)
def test_images_are_seen_neither_too_seldom_nor_by_heart(facts, steps, count, level):
    found = findings.images_seen(facts({"training.steps": steps}, num_images=count))
    assert found.level == level
    assert f"{128 * steps:,} in {steps:,} steps" in found.said
    if count is None:
        assert "not known" in found.said
    else:
        assert f"epochs of {count:,}" in found.said


def test_epochs_of_images_that_are_not_here_are_not_known(facts):
    asked = facts(num_images=None)
    asked = replace(asked, recipe=_with_epochs(asked.recipe))
    assert asked.steps is None
    assert {f.what for f in check(asked) if f.level == "look"} == {"images seen"}
    assert "not known" in findings.images_seen(asked).said


def _with_epochs(recipe):
    changes = {"epochs": 3.0, "steps": 0}
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=changes)})


@pytest.mark.parametrize(("count", "level"), [(127, "look"), (128, "ok")])
def test_a_batch_larger_than_the_images(facts, count, level):
    assert findings.batch(facts(num_images=count)).level == level


def test_the_parts_of_a_batch_are_named(facts):
    said = findings.batch(facts({"training.accumulation": 3})).said
    assert "128 images a step, in 3 parts of up to 43" in said


@pytest.mark.parametrize(("count", "level"), [(8, "look"), (9, "ok"), (None, "ok")])
def test_a_network_that_holds_every_image_by_heart(facts, count, level):
    measured = {"parameters": 10 * 8 * 3 * 64 * 64 + 1}
    assert findings.network(facts(num_images=count, measured=measured)).level == level


@pytest.mark.parametrize(
    ("overrides", "names", "level"),
    [
        ({"data.flip": True}, (), "look"),
        ({"data.flip": True, "data.source": "mnist"}, (), "look"),
        ({"data.flip": True, "data.source": "cifar10"}, (), "ok"),
        ({"data.source": "mnist"}, (), "ok"),
        ({"data.flip": True, "data.source": "folder", "data.labels": True}, ("Left hand",), "look"),
        ({"data.flip": True, "data.source": "folder", "data.labels": True}, ("eye-right",), "look"),
        ({"data.flip": True, "data.source": "folder", "data.labels": True}, ("bright",), "ok"),
        ({"data.flip": True, "data.source": "folder"}, ("left",), "ok"),
        ({"data.source": "folder", "data.labels": True}, ("left",), "ok"),
    ],
)
def test_mirrors_that_make_something_untrue(facts, overrides, names, level):
    assert findings.mirrored(facts(overrides, label_names=names)).level == level


# ---- the machine --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "share", "batch_size", "level"),
    [
        (4096, 0.01, 64, "look"),  # scores of 4 GiB
        (4096, 0.01, 15, "ok"),  # 0.94 GiB
        (1024, 0.3, 1, "look"),
        (1024, 0.2, 1, "ok"),
    ],
)
def test_attention_over_many_pixels(facts, tokens, share, batch_size, level):
    seen = Attended(tokens, tokens, heads=1, multiply_adds=int(share * 10**8))
    asked = facts({"training.batch_size": batch_size}, measured={"attention": (seen,)})
    found = findings.attention(asked)
    assert found.level == level
    assert f"1 layer at {'64×64' if tokens == 4096 else '32×32'}: {share:.0%} of" in found.said
    if batch_size == 64:
        assert "scores of 4 GiB" in found.said
        assert "leave it out at 64×64 (network.attention_levels)" in found.advice


def test_memory_is_that_of_one_part_of_the_batch(facts):
    whole = {"image_bytes": 100 * 2**20}  # 12.5 GiB in a batch of 128
    found = findings.memory(facts(measured=whole))
    assert found.level == "wrong"
    assert found.advice.startswith("training.accumulation=2 ")
    mended = facts({"training.accumulation": 2}, measured=whole)
    assert findings.memory(mended).level == "ok"
    nearly = {"image_bytes": 60 * 2**20}
    assert findings.memory(facts(measured=nearly)).level == "look"
    assert findings.memory(facts(measured=whole, memory_free=None)).level == "ok"
    hopeless = findings.memory(facts(memory_free=10**6))
    assert (hopeless.level, "accumulation" in hopeless.advice) == ("wrong", False)


@pytest.mark.parametrize(("seconds", "level"), [(8.0, "ok"), (9.0, "look"), (None, "look")])
def test_more_than_a_night_and_a_day(facts, seconds, level):
    found = findings.time(facts(measured={"step_seconds": seconds}))
    assert found.level == level
    if seconds == 8.0:
        assert "about 22h 13m for 10,000 steps (16 images/s in fp32" in found.said
    if seconds is None:
        assert "not measured" in found.said


@pytest.mark.parametrize(
    ("overrides", "share", "level"),
    [
        ({"training.preview_every": 1000}, 0, "ok"),
        ({"training.preview_every": 20}, 10, "ok"),
        ({"training.preview_every": 5}, 42, "look"),
        ({"evaluation.every": 100, "evaluation.num_images": 3072}, 40, "look"),
    ],
)
def test_pictures_that_cost_more_than_the_training_are_told(facts, overrides, share, level):
    found = findings.pictures(facts(overrides))
    assert (found.level, found.said.split()[1]) == (level, f"{share}%")


@pytest.mark.parametrize(
    ("overrides", "count", "level"),
    [
        ({"training.keep_checkpoints": 200, "training.checkpoint_every": 50}, 200, "wrong"),
        ({"training.keep_checkpoints": 50, "training.checkpoint_every": 50}, 50, "look"),
        ({"training.keep_checkpoints": 200}, 10, "ok"),  # there will be no more
        ({"training.checkpoint_every": 50, "training.milestone_every": 50}, 200, "wrong"),
        ({"training.milestone_every": 5000}, 4, "ok"),
    ],
)
def test_checkpoints_of_330_MB_on_a_disk_of_20_GB(facts, overrides, count, level):
    of_330_MB = {"weight_bytes": 330 * 10**6 // 4}
    found = findings.disk(facts(overrides, measured=of_330_MB))
    assert (found.level, found.said.split(" of ")[0]) == (level, f"{count} checkpoints")
    assert "of 315 MiB, and one while" in found.said


def test_the_number_of_checkpoints_that_is_advised_fits(facts):
    asked = {"training.keep_checkpoints": 200, "training.checkpoint_every": 50}
    of_330_MB = {"weight_bytes": 330 * 10**6 // 4}
    advice = findings.disk(facts(asked, measured=of_330_MB)).advice
    assert advice == "training.keep_checkpoints=47, or --out on another disk"
    asked["training.keep_checkpoints"] = 47
    assert findings.disk(facts(asked, measured=of_330_MB)).level == "ok"


@pytest.mark.parametrize(
    ("keep", "milestone"), [(1, None), (3, None), (2, 40), (4, 25), (1, 7), (500, None)]
)
def test_the_number_of_checkpoints_is_the_most_that_there_ever_are(
    facts, keep, milestone, tmp_path
):
    most = 0
    for step in [*range(10, 205, 10), 205]:
        (tmp_path / f"{step:06d}").mkdir()
        most = max(most, len(list(tmp_path.iterdir())))
        prune(tmp_path / f"{step:06d}", keep=keep, milestone_every=milestone)
    keys = ("keep_checkpoints", "milestone_every", "checkpoint_every", "steps")
    values = zip(keys, (keep, milestone, 10, 205), strict=True)
    said = findings.disk(facts({f"training.{key}": value for key, value in values})).said
    assert most <= int(said.split()[0]) + 1 <= most + keep


def test_averages_of_other_lengths_take_memory_and_disk(facts):
    lengths = {"training.ema_lengths": [0.05, 0.1]}
    with_them, without = facts(lengths), facts()
    assert "about 149 MiB" in findings.memory(with_them).said  # 122 of images, 4·(1+1+2+3) MB
    assert "about 141 MiB" in findings.memory(without).said
    said = findings.disk(with_them).said
    assert "2 checkpoints of 23 MiB" in said  # 4·(1+2+3) MB
    assert "and 40 snapshots of averages: 153 MiB" in said
    full = findings.disk(facts(lengths, disk_free=150 * 2**20))
    assert full.level == "wrong"
    assert findings.disk(facts(disk_free=150 * 2**20)).level == "ok"
