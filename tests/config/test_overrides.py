"""The grammar of settings: bare and dotted keys, and what is refused."""

import pytest

from fromnoise.cli.options import parse_sampling
from fromnoise.config.errors import ConfigError
from fromnoise.config.overrides import dotted, full_key, parse_override, parse_overrides
from fromnoise.diffusion import SAMPLERS


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("training.steps=500", "training.steps", 500),
        ("network.multipliers=[1, 2]", "network.multipliers", [1, 2]),
        ("data.flip=true", "data.flip", True),
        ("data.path=a=b", "data.path", "a=b"),
        ("training.clip_norm=", "training.clip_norm", None),
        ("training.learning_rate=1e-4", "training.learning_rate", "1e-4"),  # so says YAML 1.1
    ],
)
def test_an_override_is_read_as_yaml(text, key, value):
    assert parse_override(text) == (key, value)


@pytest.mark.parametrize("text", ["training.steps", "=5", "", "a=[1", "a=b: c: d"])
def test_what_is_no_setting(text):
    with pytest.raises(ConfigError, match=r"is not a setting|is not valid YAML"):
        parse_override(text)


@pytest.mark.parametrize(
    ("section", "argument", "expected"),
    [
        ("training", "steps=500", {"training.steps": 500}),
        ("training", "noise_levels=stratified", {"training.noise_levels": "stratified"}),
        ("training", "noise_levels.mean=0", {"training.noise_levels.mean": 0}),
        ("sampling", "steps=20", {"sampling.steps": 20}),
        ("sampling", "timesteps=karras", {"sampling.timesteps": "karras"}),
        ("sampling", "eta=0.5", {"sampling.sampler.eta": 0.5}),
        ("sampling", "variance=large", {"sampling.sampler.variance": "large"}),
        ("sampling", "sampler.eta=1", {"sampling.sampler.eta": 1}),
        ("sampling", "sampling.sampler=ddpm", {"sampling.sampler": "ddpm"}),
        ("training", "sampling.steps=20", {"sampling.steps": 20}),
        ("training", "data.size=32", {"data.size": 32}),
        ("training", "network={name: ddpm}", {"network": {"name": "ddpm"}}),
    ],
)
def test_a_bare_key_belongs_to_the_section_of_the_command(section, argument, expected):
    assert parse_overrides([argument], section) == expected


def test_several_settings_are_one_dict():
    assert parse_overrides(["steps=5", "data.size=8"], "training") == {
        "training.steps": 5,
        "data.size": 8,
    }
    assert parse_overrides([], "sampling") == {}


@pytest.mark.parametrize(
    ("section", "argument", "message"),
    [
        (
            "training",
            "stepz=5",
            r"^unknown key stepz; did you mean steps\? Keys of training: steps, ",
        ),
        (
            "sampling",
            "etta=1",
            r"^unknown key etta; did you mean eta\? Keys of sampling: sampler, ",
        ),
        (
            "sampling",
            "spacin=1",
            r"^unknown key spacin\. .* variance.* dotted: data\.…, network\.…",
        ),
        ("training", "eta=1", r"^unknown key eta[.;]"),
        (
            "sampling",
            "batch_size=8",
            r"^unknown key batch_size; did you mean training\.batch_size\? Keys",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known(section, argument, message):
    with pytest.raises(ConfigError, match=message):
        parse_overrides([argument], section)


@pytest.mark.parametrize(
    ("section", "arguments", "key"),
    [
        ("training", ["steps=5", "steps=5"], "training.steps"),
        ("training", ["steps=5", "training.steps=6"], "training.steps"),
        ("sampling", ["eta=0", "sampler.eta=1"], "sampling.sampler.eta"),
    ],
)
def test_a_key_given_twice_is_refused(section, arguments, key):
    with pytest.raises(ConfigError, match=rf"^{key} is given twice\. Give it once\.$"):
        parse_overrides(arguments, section)


@pytest.mark.parametrize(
    ("section", "argument", "new"),
    [
        ("training", "times=importance", "training.noise_levels"),
        ("training", "training.times=uniform", "training.noise_levels"),
        ("sampling", "spacing=leading", "sampling.timesteps"),
        ("training", "sampling.spacing=leading", "sampling.timesteps"),
        ("training", "diffusion.metric=mse", "diffusion.loss"),
        ("training", "evaluation.judge=x", "evaluation.classifier"),
        ("training", "diffusion.schedule=given", "diffusion.schedule=custom"),
        ("training", "diffusion.schedule.name=given", "diffusion.schedule.name=custom"),
        ("training", "evaluation.extractor=judge", "evaluation.extractor=classifier"),
    ],
)
def test_an_old_key_or_value_is_refused_with_the_new_one(section, argument, new):
    with pytest.raises(ConfigError, match=rf" has a new name\. Use {new}\.$"):
        parse_overrides([argument], section)


def test_a_new_sampler_brings_its_own_key(monkeypatch):
    def mine(denoise, schedule, x, times, *, noise, sharpness: float = 1.0):
        raise NotImplementedError

    with pytest.raises(ConfigError, match="unknown key sharpness"):
        full_key("sharpness", "sampling")
    monkeypatch.setitem(SAMPLERS, "mine", mine)
    assert full_key("sharpness", "sampling") == "sampling.sampler.sharpness"


def test_nested_keys_are_written_with_dots():
    assert dotted({"a": {"b": {"c": 1}, "d": [2]}, "e": None}) == {
        "a.b.c": 1,
        "a.d": [2],
        "e": None,
    }


# ---- the commands that sample -------------------------------------------------------------------


def test_sampling_settings_are_arguments_of_sample():
    settings = ["steps=5", "eta=0.5", "sampling.clamp=dynamic", "guidance_interval=20-80"]
    assert parse_sampling(settings) == {
        "steps": 5,
        "eta": 0.5,
        "clamp": "dynamic",
        "guidance_interval": "20-80",
    }
    assert parse_sampling(["sampler.name=ddpm"], guidance=2.0) == {
        "sampler": "ddpm",
        "guidance": 2.0,
    }
    assert parse_sampling(None, steps=None, sampler=None) == {}
    assert parse_sampling(["steps=5"], {"sampler": "ddpm"}) == {"steps": 5, "sampler": "ddpm"}


@pytest.mark.parametrize(
    ("settings", "short", "message"),
    [
        (["steps=5"], {"steps": 6}, r"^steps is given twice\. Give it once\.$"),
        (["sampler=ddim", "sampler.name=ddpm"], {}, r"^sampler is given twice"),
        (["eta=1", "sampler.eta=1"], {}, r"^sampling\.sampler\.eta is given twice"),
        (["training.steps=5"], {}, r"^training\.steps has no effect on sampling\. Remove it\.$"),
        (["data.size=8"], {}, r"^data\.size has no effect on sampling"),
        (["network=ddpm"], {}, r"^network has no effect on sampling"),
        (["precision=fp32"], {}, r"^precision has no effect: this command sets it\. Remove it\.$"),
    ],
)
def test_a_setting_without_effect_on_sampling_is_refused(settings, short, message):
    with pytest.raises(ConfigError, match=message):
        parse_sampling(settings, {"precision": "fp32"}, **short)
