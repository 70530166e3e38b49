import math
from dataclasses import replace

import pytest
import torch

from fromnoise.config.overrides import parse_override
from fromnoise.diffusion import NoiseSchedule
from fromnoise.diffusion.betas import SCHEDULES
from fromnoise.doctor import checks
from fromnoise.doctor.checks import CHECKS
from fromnoise.training.ema import EMA

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
    ("edm", 100, {"sigma_max": 5.0}),
    ("custom", 3, {"betas": [0.1, 0.2, 0.3]}),
]
LATE = {"jsd", "flow"}  # β_T = 1


def test_every_schedule_is_known_to_the_checks_of_its_end():
    assert {name for name, *_ in EARLY} | LATE == set(SCHEDULES)


@pytest.mark.parametrize(("name", "T", "options"), EARLY)
def test_a_schedule_that_ends_too_early_is_wrong_and_each_advice_mends_it(facts, name, T, options):
    schedule = {"diffusion": {"T": T, "schedule": {"name": name, **options}}}
    found = checks.final_noise(facts(schedule))
    left = math.sqrt(NoiseSchedule.named(name, T, **options).alpha_bar[-1])
    assert found.level == "error"
    assert f"√ᾱ_T = {left:.2f}: x_T still shows the image" in found.message
    ways = found.advice.removeprefix("Set ").split(", or ")
    for way in ways:
        mended = dict([parse_override(way)])
        diffusion = facts(schedule | mended).recipe.diffusion
        assert diffusion.noise_schedule().alpha_bar[-1] <= checks.MAX_FINAL_SIGNAL**2, way
        assert checks.final_noise(facts(schedule | mended)).level == "ok", way
    if (name, T, options) == ("linear", 400, {}):
        assert ways == [
            "diffusion.T=1000",
            "diffusion.schedule=linear_rescaled",
            "diffusion.schedule=cosine",
        ]


@pytest.mark.parametrize(
    ("name", "T", "options", "helps"),
    [
        ("linear", 400, {}, True),
        ("constant", 100, {}, True),
        ("linear", 10, {}, True),
        ("linear", 10, {"beta_1": 1e-9, "beta_T": 1e-9}, False),  # T = 10 billion
        ("warmup", 2, {"beta_1": 0.25, "beta_T": 1e-3}, False),  # T = 70: √ᾱ_T is 0.6
        ("linear", 1, {"beta_1": 4e-3, "beta_T": 0.04}, False),  # T = 2730: ᾱ_T is too small
        ("linear_rescaled", 1000, {"beta_T": 0.002}, False),
        ("linear_rescaled", 15, {"beta_T": 0.005}, False),
        ("custom", 3, {"betas": [0.1, 0.2, 0.3]}, False),
        ("cosine", 100, {"beta_max": 0.01}, False),
    ],
)
def test_a_larger_T_is_advised_where_it_mends(facts, name, T, options, helps):
    schedule = {"diffusion": {"T": T, "schedule": {"name": name, **options}}}
    advice = checks.final_noise(facts(schedule)).advice
    assert ("diffusion.T=" in advice) == helps


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"custom"}))
def test_a_schedule_whose_end_is_moved_to_pure_noise_is_ok(facts, name):
    asked = {"diffusion": {"T": 100, "schedule": name, "zero_terminal_snr": True}}
    asked["diffusion"]["prediction"] = "v"
    assert checks.final_noise(facts(asked)).level == "ok"


# ---- the average --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decay", "steps", "level"),
    [
        (0.9999, 14_000, "warn"),
        (0.9999, 39_000, "warn"),
        (0.9999, 41_000, "ok"),
        (0.999, 5_000, "ok"),
        (0.999, 3_000, "warn"),
        (0.0, 200, "ok"),
        (0.9999, 10, "ok"),
    ],
)
def test_an_average_longer_than_a_quarter_of_the_run_is_looked_at(facts, decay, steps, level):
    asked = {"training.ema_decay": decay, "training.steps": steps}
    assert checks.ema(facts(asked)).level == level


def test_what_is_left_of_the_first_weights_is_what_the_average_keeps(facts):
    """A real average of one number, 1 at first and 0 from the first step on."""
    found = checks.ema(facts({"training.ema_decay": 0.9999, "training.steps": 14_000}))
    assert "decay 0.9999 is an average over 10,000 steps, 71% of the 14,000" in found.message
    assert "0.0% of it are the initial weights, 25% without the warm-up" in found.message
    assert "ends at 0.9994" in found.message
    assert found.advice.startswith("Set training.ema_decay=0.9993 ")
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
        (10_000, 1_000, "warn"),  # 1,280 epochs
        (10_000, 1_300, "ok"),
        (800_000, 50_000, "ok"),  # the paper's 2,048
        (100, 50_000, "warn"),  # a quarter of one
        (10_000, None, "warn"),
    ],
)
def test_images_are_seen_neither_too_seldom_nor_by_heart(facts, steps, count, level):
    found = checks.images_seen(facts({"training.steps": steps}, num_images=count))
    assert found.level == level
    assert f"{128 * steps:,} in {steps:,} steps" in found.message
    if count is None:
        assert "epochs unknown" in found.message
    else:
        assert f"epochs of {count:,}" in found.message


def test_epochs_of_images_that_are_not_here_are_not_known(facts):
    asked = facts(num_images=None)
    asked = replace(asked, recipe=_with_epochs(asked.recipe))
    assert {f.topic for f in (each(asked) for each in CHECKS) if f.level == "warn"} == {
        "images seen"
    }
    assert "steps unknown" in checks.images_seen(asked).message


def _with_epochs(recipe):
    changes = {"epochs": 3.0, "steps": 0}
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=changes)})


@pytest.mark.parametrize(("count", "level"), [(127, "warn"), (128, "ok")])
def test_a_batch_larger_than_the_images(facts, count, level):
    assert checks.batch(facts(num_images=count)).level == level


def test_the_parts_of_a_batch_are_named(facts):
    message = checks.batch(facts({"training.parts": 4})).message
    assert message == "128 images a step, in 4 parts of 32"


@pytest.mark.parametrize(("count", "level"), [(8, "warn"), (9, "ok"), (None, "ok")])
def test_a_network_that_holds_every_image_by_heart(facts, count, level):
    measured = {"parameters": 10 * 8 * 3 * 64 * 64 + 1}
    assert checks.network(facts(num_images=count, cost=measured)).level == level


@pytest.mark.parametrize(
    ("overrides", "names", "level"),
    [
        ({"data.flip": True}, (), "warn"),
        ({"data.flip": True, "data.source": "mnist"}, (), "warn"),
        ({"data.flip": True, "data.source": "cifar10"}, (), "ok"),
        ({"data.source": "mnist"}, (), "ok"),
        ({"data.flip": True, "data.source": "folder", "data.labels": True}, ("Left hand",), "warn"),
        ({"data.flip": True, "data.source": "folder", "data.labels": True}, ("eye-right",), "warn"),
        ({"data.flip": True, "data.source": "folder", "data.labels": True}, ("bright",), "ok"),
        ({"data.flip": True, "data.source": "folder"}, ("left",), "ok"),
        ({"data.source": "folder", "data.labels": True}, ("left",), "ok"),
    ],
)
def test_mirrors_that_make_something_untrue(facts, overrides, names, level):
    assert checks.flip(facts(overrides, label_names=names)).level == level


# ---- learning rate ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "warmup", "said"),
    [
        (2e-4, 500, ""),
        (0.5, 0, "unusually large"),
        (1e-9, 0, "unusually small"),
        (2e-4, 50_000, "but the training has 50,000 steps"),
    ],
)
def test_a_learning_rate_that_is_far_from_any_and_an_endless_warm_up_are_looked_at(
    facts, rate, warmup, said
):
    settings = {"training.learning_rate": rate, "training.warmup_steps": warmup}
    finding = checks.learning_rate(facts({**settings, "training.steps": 50_000}))
    assert finding.level == ("warn" if said else "ok")
    assert said in finding.message
