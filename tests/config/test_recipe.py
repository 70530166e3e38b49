import copy
import math

import pytest
import torch
import yaml

from fromnoise.config.errors import ConfigError, dotted_keys
from fromnoise.config.overrides import parse_override
from fromnoise.config.recipe import (
    load_recipe,
    parse_recipe,
    recipe_head,
    recipe_text,
    shipped_recipes,
)
from fromnoise.config.schema import Recipe
from fromnoise.doctor.checks import MAX_FINAL_SIGNAL
from fromnoise.networks import NETWORKS

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies

IMAGES = {
    "digits": (1, 8, 8),
    "mnist": (1, 32, 32),
    "fashion-mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
}
each_recipe = pytest.mark.parametrize("name", shipped_recipes())

SMALL = {
    "data": {"source": "digits"},
    "network": {"name": "ddpm", "channels": 8, "groups": 4},
    "diffusion": {"schedule": "cosine"},
    "training": {"steps": 10, "batch_size": 8},
}


def small(**overrides):
    return parse_recipe(SMALL, "small", {k.replace("__", "."): v for k, v in overrides.items()})


def refusal(key: str, value: object) -> str:
    """The one line that says why this override is refused."""
    with pytest.raises(ConfigError) as refused:
        parse_recipe(SMALL, "small", {key: value})
    line = str(refused.value)
    assert line.startswith("small: ")
    assert "\n" not in line
    return line


# ---- the recipes in the package -----------------------------------------------------------------


@each_recipe
def test_a_shipped_recipe_builds_its_network_and_its_schedule(name):
    recipe = load_recipe(name)
    channels, *size = IMAGES.get(recipe.data.source, (3, *(recipe.data.size or ())))
    with torch.device("meta"):
        network = NETWORKS[recipe.network.name](image_channels=channels, **recipe.network.options)
        x = torch.empty(2, channels, *size)
        assert network(x, torch.ones(2)).shape == x.shape
    noise = recipe.diffusion.noise_schedule()
    assert noise.alpha(noise.T) < MAX_FINAL_SIGNAL


def test_a_shipped_recipe_opens_with_what_it_is_and_its_command():
    for name in shipped_recipes():
        head = recipe_head(name)
        assert head["about"], name
        assert head["command"].startswith(f"fromnoise train {name}")
        assert recipe_text(name).startswith("# about: "), name


def test_a_shipped_recipe_written_out_is_the_same_recipe(tmp_path):
    for name in shipped_recipes():
        recipe = load_recipe(name)
        (tmp_path / "again.yaml").write_text(recipe.to_yaml())
        assert load_recipe(tmp_path / "again.yaml") == recipe


def test_the_paper_recipe_has_the_papers_number_of_parameters():
    recipe = load_recipe("cifar10-paper")
    with torch.device("meta"):
        network = NETWORKS[recipe.network.name](image_channels=3, **recipe.network.options)
    assert sum(p.numel() for p in network.parameters()) == 35_746_307


def test_epochs_replace_steps_and_steps_replace_epochs():
    assert small(training__epochs=3).training.steps == 0
    recipe = load_recipe("folder-64", {"training.steps": 7})
    assert (recipe.training.steps, recipe.training.epochs) == (7, None)
    with pytest.raises(
        ConfigError, match=r"steps and training.epochs exclude each other\. Keep one"
    ):
        small(training__steps=3, training__epochs=2)
    both = {**SMALL, "training": {"steps": 5, "epochs": 2, "batch_size": 8}}
    with pytest.raises(
        ConfigError, match=r"steps and training.epochs exclude each other\. Keep one"
    ):
        parse_recipe(both, "both")


# ---- what is refused, and how it is said --------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("trainning", "training"),
        ("data.sise", "data.size"),
        ("training.stepz", "training.steps"),
        ("diffusion.shedule", "diffusion.schedule"),
        ("sampling.timestep", "sampling.timesteps"),
        ("network.chanels", "network.channels"),
        ("diffusion.schedule.ofset", "diffusion.schedule.offset"),
        ("sampling.sampler.etta", "sampling.sampler.eta"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_one(key, nearest):
    line = refusal(key, 1)
    assert f"unknown key {key}; did you mean {nearest}?" in line
    assert nearest.rpartition(".")[2] in line.partition("Known keys: ")[2]


def test_a_colon_without_a_space_is_told_from_a_key():
    key, value = parse_override("diffusion.schedule={name:warmup,fraction:2}")
    line = refusal(key, value)
    assert "unknown key diffusion.schedule.name:warmup. Put a space after the colon" in line
    assert line.endswith("{name: warmup}.")


@pytest.mark.parametrize(
    ("key", "name", "nearest"),
    [
        ("network", "ddmp", "ddpm"),
        ("diffusion.schedule", "cosin", "cosine"),
        ("diffusion.loss", "mee", "mse"),
        ("diffusion.loss", "vbl", "vlb"),
        ("diffusion.weighting", "min_snrr", "min_snr"),
        ("sampling.sampler", "dddim", "ddim"),
        ("sampling.timesteps", "trailling", "trailing"),
        ("data.source", "digit", "digits"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_one(key, name, nearest):
    assert f"{key} = {name!r} is unknown; did you mean {nearest}? Known: " in refusal(key, name)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("training.steps", -5, "at least 0"),
        ("training.steps", 0, "steps = 0 is too small. Give at least 1, or training.minutes"),
        ("training.epochs", 0, "more than 0"),
        ("training.condition_dropout", 1.1, "at most 1"),
        ("sampling.guidance", -1, "use s ≥ 0 in ε = ε_∅ + s·"),
        ("sampling.guidance", 2, "needs a model with labels. Set data.labels=true"),
        ("network.learned_variance", True, "but diffusion.vlb_weight = 0. Only the bound"),
        ("diffusion.vlb_weight", 0.001, "network.learned_variance = False"),
        ("diffusion.loss", "vlb", "Set network.learned_variance=true"),
        ("diffusion.variance_reading", "log", "no effect with network.learned_variance = False"),
        ("diffusion.variance_reading", "exp", "'range' or 'log'"),
        ("diffusion.offset_noise", -0.1, "at least 0"),
        ("diffusion.weighting", {"name": "min_snr", "gamma": -1}, "diffusion.weighting.gamma of"),
        ("diffusion.weighting", {"name": "min_snr", "gama": 1}, "did you mean"),
        ("diffusion.weighting", {"name": "p2", "k": "much"}, "not a number"),
        ("training.noise_levels", "often", "'often' is unknown. Known: importance, normal, s"),
        ("training.noise_levels", 5, "no keys"),
        ("training.noise_levels", {"name": "normal", "std": 0}, "noise_levels.std of normal must"),
        ("training.noise_levels", {"name": "normal", "mean": 99}, "99, too far from the log-SNRs"),
        ("training.noise_levels", {"mean": 1}, "noise_levels.mean. uniform has no options"),
        ("sampling.sampler", {"name": "ddpm", "variance": "learned"}, "variance = learned, but"),
        ("sampling.sampler", {"name": "ddim", "eta": 2}, "sampler.eta = 2 is out of range. Use 0"),
        (
            "sampling.sampler",
            {"name": "ddim", "eta": -0.5},
            "eta = -0.5 is out of range. Use 0 (deterministic) to 1",
        ),
        ("training.steps", "many", "not a whole number"),
        ("training.steps", None, "not a whole number"),
        ("training.batch_size", 0, "at least 1"),
        ("training.learning_rate", 0, "more than 0"),
        ("training.learning_rate", math.nan, "finite"),
        ("training.learning_rate", math.inf, "finite"),
        ("training.ema_decay", 1, "less than 1"),
        ("training.precision", "fp8", "'auto', 'fp32', 'bf16' or 'fp16'"),
        ("training.channels_last", "maybe", "'auto', True or False"),
        ("training.parts", 3, "parts = 3 does not divide batch_size = 8. Use 4"),
        ("diffusion.T", 0, "at least 1"),
        ("diffusion.prediction", "noise", "'noise' is unknown. Known: edm, eps, flow, v, x0."),
        ("diffusion.prediction", {"name": "edm", "sigma_data": 0}, "sigma_data of edm must be ab"),
        ("diffusion.prediction", {"name": "v", "sigma_data": 1}, "v has no options"),
        ("diffusion.schedule", "flow", "diffusion.schedule = flow: ᾱ_T is 0 in this schedule"),
        ("diffusion.schedule", {"name": "edm", "rho": 0}, "edm needs 0 < sigma_min < sigma_max"),
        ("data.background", 256, "at most 255"),
        ("data.background", [1, 2, -3], "at least 0"),
        ("data.background", [1, 2], "background.2 is missing"),
        ("data.background", "red", "not a list"),
        ("sampling.guidance_interval", 200, "write the first and the last guided t, as in 200-800"),
        ("sampling.guidance_interval", "1-2-3", "as in 200-800"),
        ("sampling.guidance_interval", "5-1001", "1 ≤ first ≤ last ≤ T = 1000"),
        ("data.size", "big", "not a list"),
        ("data.size", [8, 0], "at least 1"),
        ("data.flip", "sometimes", "not true or false"),
        ("network.channels", "wide", "not a whole number"),
        ("network.embedding", "third", "'halves' or 'interleaved'"),
        ("network.patch", 3, "network.patch = 3 is unknown. Choose 1, 2 or 4"),
        ("network.num_res_blocks", "many", "num_res_blocks = 'many' is not a whole number"),
        ("network.num_res_blocks", [1, "b"], "num_res_blocks.1 = 'b' is not a whole number"),
        ("network.num_res_blocks", [1, 2.5], "num_res_blocks.1 = 2.5 is not a whole number"),
        ("network.num_res_blocks", None, "num_res_blocks = None is not a whole number"),
        ("diffusion.schedule.offset", "some", "not a number"),
        ("diffusion.schedule", {"name": "warmup", "fraction": 2}, "fraction must lie in (0, 1]"),
        ("diffusion.schedule", {"name": "sigmoid", "start": 4}, "needs start < end"),
        ("diffusion.schedule", {"name": "constant", "beta": 1}, "β must lie between"),
        ("diffusion.schedule", {"name": "custom", "betas": [0.1]}, "T is 1000, but"),
        ("diffusion.schedule", "jsd", "jsd: ᾱ_T is 0 in this schedule"),
        ("diffusion.zero_terminal_snr", True, "Set diffusion.prediction to v, x0, flow or edm"),
        ("sampling.sampler.eta", math.nan, "finite"),
        ("training", 5, "has no keys"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(key, value, allowed):
    line = refusal(key, value)
    assert line.startswith("small: ")
    assert key.rpartition(".")[2] in line
    assert allowed in line


@pytest.mark.parametrize("key", ["data", "training", "network", "training.steps", "network.name"])
def test_a_missing_key_is_named(key):
    tree = copy.deepcopy(SMALL)
    section, _, name = key.partition(".")
    del (tree[section] if name else tree)[name or section]
    with pytest.raises(ConfigError, match=rf"^small: {key} is missing"):
        parse_recipe(tree, "small")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"data: [1, 2", "is not valid YAML: .* line 1"),
        (b"a: 1\n\tb: 2", "is not valid YAML"),
        (b"\xff\xfe\xff", "is not valid YAML"),
        (b"", "is not a recipe. Give the sections data, network, diffusion, training, sampling"),
        (b"- data\n- network", "is not a recipe. Give the sections"),
    ],
)
def test_a_file_that_is_no_recipe_is_named_in_one_line(tmp_path, content, said):
    file = tmp_path / "broken.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^[^\n]*broken\.yaml {said}[^\n]*$"):
        load_recipe(file)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no recipe file /.*/none\.yaml\. Check"):
        load_recipe(tmp_path / "none.yaml")


def test_a_recipe_that_is_not_shipped():
    with pytest.raises(
        ConfigError, match=r"no recipe 'digit'; did you mean digits\? Shipped recipes: "
    ):
        load_recipe("digit")


def test_too_few_steps_for_the_rescaled_schedule_are_one_line():
    few = {"diffusion.schedule.name": "linear_rescaled", "diffusion.T": 20}
    with pytest.raises(
        ConfigError, match=r"^small: diffusion.schedule = linear_rescaled: T = 20 is"
    ):
        parse_recipe({**SMALL, "diffusion": {}}, "small", few)


# ---- overrides ----------------------------------------------------------------------------------


def test_an_override_replaces_one_key_and_leaves_the_given_tree_alone():
    before = copy.deepcopy(SMALL)
    recipe = small(training__steps=500, training__learning_rate="1e-4", network__channels=16)
    assert (recipe.training.steps, recipe.training.batch_size) == (500, 8)
    assert recipe.training.learning_rate == 1e-4
    assert (recipe.network.options["channels"], recipe.network.options["groups"]) == (16, 4)
    assert before == SMALL


def test_an_override_reaches_into_what_was_only_a_name_or_nothing():
    recipe = small(diffusion__schedule__offset=0.01, sampling__sampler__eta=1)
    assert recipe.diffusion.schedule.name == "cosine"
    assert recipe.diffusion.schedule.options["offset"] == 0.01
    assert (recipe.sampling.sampler.name, recipe.sampling.sampler.options) == ("ddim", {"eta": 1})


def test_an_override_below_a_value_is_refused():
    with pytest.raises(ConfigError, match=r"steps is a value and has no key more\. Set"):
        small(training__steps__more=1)


def test_the_defaults_of_every_component_are_written_out():
    written = yaml.safe_load(small().to_yaml())
    assert written["diffusion"]["schedule"] == {
        "name": "cosine",
        "offset": 0.008,
        "beta_max": 0.999,
    }
    assert written["diffusion"]["zero_terminal_snr"] is False
    assert written["network"]["multipliers"] == [1, 2, 2, 2]
    assert written["sampling"]["sampler"] == {"name": "ddim", "eta": 0.0}
    assert not {"image_channels", "cond_dim"} & set(written["network"])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text("ab1.", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=2),
    max_leaves=4,
)
COMPONENT_KEYS = ["network.channels", "network.multipliers", "sampling.sampler.eta", "training.x"]


@given(key=st.sampled_from([*dotted_keys(Recipe), *COMPONENT_KEYS]), value=VALUES)
def test_any_override_makes_a_recipe_that_can_be_written_or_one_line(key, value):
    try:
        recipe = parse_recipe(SMALL, "small", {key: value})
    except ConfigError as refused:
        lines = str(refused).splitlines()
    else:
        lines = ["written out, it is the same recipe"]
        assert parse_recipe(yaml.safe_load(recipe.to_yaml()), "again") == recipe
    assert len(lines) == 1
