"""The resolved sampling settings of a model, and what is refused."""

import pytest
import torch
import yaml
from PIL import Image

import fromnoise
from fromnoise.config.components import Component, with_checked_components
from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import Diffusion, SamplingConfig
from fromnoise.diffusion import SAMPLERS, Step
from fromnoise.model.model import Model, build_denoiser
from fromnoise.model.sampling import visited_timesteps, with_guidance
from fromnoise.model.spec import ModelSpec

FORMULA = r"ε = ε_∅ \+ s·\(ε_c − ε_∅\)"


def model_with(label_names=(), **sampling):
    """A new model with T = 50 and these labels and stored sampling settings."""
    spec = ModelSpec(
        network=Component(name="ddpm", channels=8, multipliers=[1, 2], num_res_blocks=1, groups=4),
        diffusion=Diffusion(T=50),
        sampling=SamplingConfig(**{"steps": 4} | sampling),
        channels=1,
        size=(4, 4),
        label_names=label_names,
    )
    spec = with_checked_components(spec)
    torch.manual_seed(0)
    return Model(build_denoiser(spec).eval().requires_grad_(False), spec)


@pytest.fixture(scope="module")
def model():
    return model_with()


@pytest.fixture(scope="module")
def labelled():
    return model_with(label_names=("cube", "sphere"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "dddim"}, "sampler = 'dddim' is unknown; did you mean ddim"),
        ({"sampler": 5}, r"^sampling\.sampler = 5 has no keys"),
        (
            {"timesteps": "even"},
            r"timesteps = 'even' is unknown\. Known: karras, karras80, leading",
        ),
        ({"timesteps": [50, 9, 9]}, r"^sampling\.timesteps = \[50, 9, 9\]: the times must fall"),
        ({"timesteps": [9, 0]}, "the times must fall, the last one at least 1"),
        ({"timesteps": [51, 9]}, r"timesteps has 51, which is out of range\. .* 1 to T = 50\.$"),
        ({"timesteps": [9.5, 1]}, "the times are whole numbers"),
        ({"timesteps": []}, "name a rule, or list the times, as in"),
        ({"timesteps": 9}, "name a rule, or list the times, as in"),
        ({"steps": 0}, r"^steps = 0 is out of range\. Use 1 to T = 50\.$"),
        ({"steps": 51}, r"^steps = 51 is out of range\. Use 1 to T = 50\.$"),
        ({"steps": "many"}, r"^sampling\.steps = 'many' is not a whole number"),
        ({"steps": 2.5}, r"^sampling\.steps = 2\.5 is not a whole number"),
        ({"etta": 1}, r"^unknown key etta; did you mean eta\? Keys of sampling: sampler, steps"),
        ({"stepz": 1}, r"^unknown key stepz; did you mean steps\?"),
        ({"spacing": "karras"}, r"^sampling\.spacing has a new name\. Use sampling\.timesteps\.$"),
        (
            {"sampler": "ddpm", "eta": 1},
            r"^eta is an option of ddim, not of ddpm\. Options of ddpm: variance\.$",
        ),
        (
            {"variance": "small"},
            r"^variance is an option of ddpm, not of ddim\. Options of ddim: eta\.$",
        ),
        (
            {"sampler": "dpm++", "variance": "large"},
            r"^variance is an option of ddpm, not of dpm\+\+\. dpm\+\+ has no options\.$",
        ),
        ({"sampler": {"name": "ddim", "etta": 1}}, r"unknown key sampling\.sampler\.etta; did"),
        ({"sampler": "ddpm", "variance": "huge"}, "'small' or 'large'"),
        ({"sampler": "ddpm", "variance": "learned"}, r"variance = learned, but network\.learned_v"),
        ({"eta": "much"}, "sampling.sampler.eta = 'much'"),
        ({"eta": 1.5}, r"eta = 1\.5 is out of range"),
        ({"eta": float("nan")}, "finite"),
        (
            {"sampler": "heun", "churn": -1},
            r"^sampling\.sampler\.churn = -1 is out of range\. Use 0",
        ),
        ({"sampler": "heun", "churn": float("inf")}, "finite"),
        (
            {"sampler": "heun", "churn": 9, "churn_last": 51},
            r"^sampling\.sampler\.churn_first = 1 or churn_last = 51 is out .* 1 ≤ .* ≤ T = 50\.$",
        ),
        ({"sampler": "heun", "churn_first": 0}, r"churn_first = 0 or churn_last = None is out"),
        ({"sampler": "ipndm", "order": 5}, r"^sampling\.sampler\.order = 5 .* 1, 2, 3 or 4"),
        ({"sampler": "unipc", "order": 1}, r"^sampling\.sampler\.order = 1 .* 2 or 3"),
        ({"order": 3}, r"^order is an option of ipndm, unipc, not of ddim\."),
        ({"clamp": "often"}, r"^sampling\.clamp = 'often'"),
        ({"precision": "fp16"}, r"^sampling\.precision = 'fp16'"),
        ({"network": 3}, r"^network has no effect on sampling\. Remove it\.$"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_refused(model, settings, message):
    with pytest.raises(ConfigError, match=message):
        model.sample([0], **settings)


def test_stored_settings_are_the_defaults(model):
    config = model.sampling_config()
    assert (config.sampler.name, config.steps, config.timesteps) == ("ddim", 4, "trailing")
    assert model.sampling_config(steps=None, sampler=None) == config
    assert model.sampling_config(eta=0.5, steps=9).sampler.options == {"eta": 0.5}
    many = Model(
        model.denoiser, model.spec.model_copy(update={"sampling": SamplingConfig(steps=1000)})
    )
    assert many.sampling_config().steps == 50


def test_options_are_those_of_the_chosen_sampler():
    stored = model_with(sampler={"name": "ddim", "eta": 0.5})
    assert stored.sampling_config().sampler.options == {"eta": 0.5}
    assert stored.sampling_config(sampler="ddim").sampler.options == {"eta": 0.5}
    assert stored.sampling_config(sampler={"name": "ddim", "eta": 1}).sampler.options == {"eta": 1}
    assert stored.sampling_config(sampler="ddpm").sampler.options == {"variance": "small"}
    assert "eta" not in stored.sampling_config(sampler="heun").sampler.options


def test_a_resolved_config_samples_as_its_overrides_do(model):
    overrides = {"sampler": "ddpm", "variance": "large", "steps": 3, "clamp": "dynamic"}
    config = model.sampling_config(**overrides)
    assert torch.equal(model.sample([3], config), model.sample([3], **overrides))
    assert visited_timesteps(config, model.denoiser.schedule) == [
        step.t for step in model.denoise([3], config)
    ]


# ---- listed timesteps ----------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_visits_the_listed_times(model, sampler):
    times = visited_timesteps(model.sampling_config(steps=5), model.denoiser.schedule)
    seeds = [3, 4]
    by_rule = model.sample(seeds, sampler=sampler, steps=5)
    assert torch.equal(model.sample(seeds, sampler=sampler, timesteps=times), by_rule)
    listed = [41, 17, 16, 3]
    assert [step.t for step in model.denoise(seeds, sampler=sampler, timesteps=listed)] == listed
    other = model.sample(seeds, sampler=sampler, timesteps=listed)
    assert not torch.equal(other, model.sample(seeds, sampler=sampler, steps=4))


def test_steps_follow_from_listed_times(model):
    assert SamplingConfig(timesteps=[50, 9, 1]).steps == 3
    config = model.sampling_config(timesteps=range(50, 40, -1))
    assert (config.steps, config.timesteps) == (10, tuple(range(50, 40, -1)))
    assert config.rule == "trailing"
    assert model.sampling_config(timesteps=[50, 9, 1], steps=3).steps == 3
    with pytest.raises(ConfigError, match=r"steps = 2, but sampling\.timesteps lists 3 times\. Le"):
        model.sampling_config(timesteps=[50, 9, 1], steps=2)


def test_a_model_keeps_its_listed_times(tmp_path):
    times = (50, 31, 12, 4)
    stored = model_with(timesteps=times)
    loaded = fromnoise.load(stored.save(tmp_path / "model.safetensors"))
    assert loaded.spec == stored.spec
    assert loaded.spec.sampling.timesteps == times
    assert [step.t for step in loaded.denoise([0])] == list(times)
    by_rule = model_with()
    assert torch.equal(by_rule.sample([0], timesteps=times), loaded.sample([0]))


def test_other_steps_than_those_of_the_stored_list_are_by_the_usual_rule(caplog):
    stored = model_with(timesteps=[50, 31, 12, 4])
    caplog.set_level("INFO")
    assert stored.sampling_config(steps=4).timesteps == (50, 31, 12, 4)
    assert stored.sampling_config(sampler="heun").timesteps == (50, 31, 12, 4)
    assert stored.sampling_config(timesteps="karras").steps == 4
    assert not caplog.messages
    config = stored.sampling_config(steps=20)
    assert (config.steps, config.timesteps) == (20, "trailing")
    said = "the model lists 4 timesteps: these 20 are trailing. Set timesteps for others."
    assert caplog.messages == [said]
    config = stored.sampling_config(steps=20, timesteps="karras")
    assert (config.steps, config.timesteps) == (20, "karras")
    assert caplog.messages == [said]


# ---- guidance -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{"guidance": 2.0}, {"guidance": 1}, {"guidance_interval": (5, 9)}, {"guidance_rescale": 0.5}],
    ids=str,
)
def test_guidance_that_has_no_effect_is_refused(model, labelled, settings):
    [key] = settings
    with pytest.raises(ConfigError, match=rf"^{key} has no effect: this model is unc.*{FORMULA}"):
        model.sampling_config(**settings)
    with pytest.raises(ConfigError, match=rf"^{key} has no effect: {FORMULA}.* or remove {key}"):
        labelled.sampling_config(conditional=False, **settings)
    for arguments in ({}, {"compose": {"cube": 2.0}}):  # neither has labels of each image
        with pytest.raises(ConfigError, match=rf"^{key} has no effect: {FORMULA}"):
            labelled.sample([0], **arguments, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance": -1}, rf"^sampling\.guidance = -1: use s ≥ 0 in {FORMULA}, where 1 is off"),
        ({"guidance": float("inf")}, r"^sampling\.guidance = inf is not a finite"),
        ({"guidance": float("nan")}, r"^sampling\.guidance = nan is not a finite"),
        ({"guidance": "much"}, r"^sampling\.guidance = 'much' is not a number"),
        ({"guidance": 2, "guidance_rescale": 1.5}, r"^sampling\.guidance_rescale = 1\.5"),
        ({"guidance": 2, "guidance_interval": (5, 51)}, "1 ≤ first ≤ last ≤ T = 50"),
        ({"guidance": 2, "guidance_interval": (9, 5)}, "1 ≤ first ≤ last ≤ T = 50"),
        (
            {"guidance": 2, "guidance_interval": "20-24", "steps": 2},
            r"^guidance_interval = 20-24 has no effect: none of the 2 timesteps lies in it",
        ),
    ],
    ids=str,
)
def test_guidance_out_of_range_is_refused(labelled, settings, message):
    with pytest.raises(ConfigError, match=message):
        labelled.sample([0], cond=torch.ones(1, 2), **settings)


@pytest.mark.parametrize("how", [{"guidance_rescale": 0.5}, {"guidance_interval": (1, 50)}])
def test_a_shape_of_guidance_is_refused_at_scale_1(labelled, how):
    message = rf"has no effect: guidance is off, s = 1 in {FORMULA}\. Set guidance too"
    for scale in ({}, {"guidance": 1.0}):
        with pytest.raises(ConfigError, match=message):
            labelled.sample([0], cond=torch.ones(1, 2), **scale, **how)


@pytest.mark.parametrize("text", ["200", "-5", "a-b", "1-2-3", "5-", ""])
def test_an_interval_is_the_first_and_the_last_t(labelled, text):
    for written in ("5-25", " 5 - 25 ", (5, 25), [5, 25]):
        config = labelled.sampling_config(guidance=2, guidance_interval=written)
        assert config.guidance_interval == (5, 25)
    with pytest.raises(ConfigError, match="write the first and the last guided t, as in 200-800"):
        labelled.sampling_config(guidance=2, guidance_interval=text)


def test_a_stored_shape_of_guidance_ends_with_the_guidance():
    stored = model_with(("cube",), guidance=2.0, guidance_interval=(5, 25), guidance_rescale=0.5)
    config = stored.sampling_config()
    assert (config.guidance, config.guidance_interval, config.guidance_rescale) == (2, (5, 25), 0.5)
    off = stored.sampling_config(guidance=1.0)
    assert (off.guidance, off.guidance_interval, off.guidance_rescale) == (1, None, 0)
    assert with_guidance(config, 1.0) == off
    assert with_guidance(config, 3.0).guidance_interval == (5, 25)


# ---- a sampler of your own ----------------------------------------------------------------------


def grey(denoise, schedule, x, times, *, noise, level: float = 0.0):
    """Return a grey image of this level, whatever the model."""
    x0 = torch.full_like(x, level)
    for t, s in zip(times, [*times[1:], 0], strict=True):
        yield Step(t, s, x0, x0)


def test_a_new_sampler_is_reached_from_everywhere(monkeypatch, cli, tiny, finished_run, tmp_path):
    """With its option: from Python, the command line and a recipe."""
    monkeypatch.setitem(SAMPLERS, "grey", grey)
    model = fromnoise.load(finished_run, device="cpu")
    assert model.sample([0], sampler="grey", level=1).unique().tolist() == [255]
    assert model.sample([0], sampler="grey").unique().tolist() == [128]
    with pytest.raises(ConfigError, match=r"^level is an option of grey, not of ddim\. Options"):
        model.sample([0], level=1)

    command = ("sample", finished_run, "--num", 1, "--out", tmp_path / "out")
    assert cli(*command, "sampler=grey", "level=-1").code == 0
    with Image.open(tmp_path / "out" / "000000.png") as image:
        assert image.getextrema() == (0, 0)
        assert (image.text["sampler"], image.text["level"]) == ("grey", "-1.0")
    assert "level = 'dark'" in cli(*command, "sampler=grey", "level=dark").err

    tiny["sampling"] = {"sampler": {"name": "grey", "level": 1}, "steps": 2}
    tiny["training"] |= {"steps": 1, "log_every": 1}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    run, level = tmp_path / "run", "sampling.sampler.level=0.5"
    assert cli("train", tmp_path / "tiny.yaml", "--out", run, level).code == 0
    trained = fromnoise.load(run, device="cpu")
    assert trained.spec.sampling.sampler.options == {"level": 0.5}
    assert trained.sample([0]).unique().tolist() == [191]
