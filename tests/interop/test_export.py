"""Exported models, as diffusers loads them and draws with them, and imported again."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fromnoise
from fromnoise.checkpoints import FolderNotEmpty
from fromnoise.config.components import with_checked_components
from fromnoise.config.errors import ConfigError
from fromnoise.diffusion import reverse_step
from fromnoise.diffusion.samplers.ancestral import step_std
from fromnoise.interop import export_model, import_model
from fromnoise.model.model import Model, build_denoiser
from fromnoise.model.spec import ModelSpec

SPEC = {
    "network": {
        "name": "ddpm",
        "channels": 8,
        "groups": 4,
        "multipliers": [1, 2],
        "attention_levels": [1],
        "num_res_blocks": 1,
    },
    "diffusion": {"T": 40, "schedule": {"name": "linear", "beta_1": 0.001, "beta_T": 0.06}},
    "sampling": {"steps": 10},
    "channels": 3,
    "size": [8, 8],
    "source": "digits",
    "step": 1234,
}
AUGMENTED = {"augment_columns": ["x_flip", "y_flip"]}
KINDS = {  # what is changed of SPEC
    "plain": {},
    "v, no signal at T": {"diffusion": {"prediction": "v", "zero_terminal_snr": True}},
    "x0, cosine": {"diffusion": {"prediction": "x0", "schedule": "cosine"}},
    "interleaved": {"network": {"embedding": "interleaved", "downsample": "symmetric"}},
    "scale and shift": {"network": {"scale_shift": True, "head_channels": 4}},
    "patches": {"network": {"patch": 2}, "channels": 1, "size": [16, 8]},
    "augmented": AUGMENTED,
}


def merged(tree, changes):
    """The tree with the sections of `changes` merged into its own."""
    return tree | {
        key: tree.get(key, {}) | value if isinstance(value, dict) else value
        for key, value in changes.items()
    }


@pytest.fixture
def model_of(tmp_path):
    """model_of(changes): a model of random weights, saved as model.safetensors."""

    def make(changes):
        spec = with_checked_components(ModelSpec.model_validate(merged(SPEC, changes)))
        denoiser = build_denoiser(spec)
        torch.manual_seed(0)
        for parameter in denoiser.parameters():
            nn.init.normal_(parameter, std=0.3)
        nn.init.normal_(denoiser.network.out.weight, std=0.05)  # few values at the clamp
        model = Model(denoiser.eval().requires_grad_(False), spec)
        model.save(tmp_path / "model.safetensors")
        return model

    return make


@pytest.fixture
def diffusers():
    return pytest.importorskip("diffusers")


@pytest.fixture
def exported(model_of, tmp_path):
    """exported(changes): such a model, and its folder for diffusers."""

    def make(changes):
        model = model_of(changes)
        folder = export_model(tmp_path / "model.safetensors", tmp_path / "pipe", format="diffusers")
        return model, folder

    return make


def unshuffled(model, x):
    return F.pixel_unshuffle(x, model.spec.network.options["patch"])


def shuffled(model, x):
    return F.pixel_shuffle(x, model.spec.network.options["patch"])


def loaded(diffusers, folder):
    index = json.loads((folder / "model_index.json").read_text())
    pipe = getattr(diffusers, index["_class_name"]).from_pretrained(folder)
    return pipe.unet, pipe.scheduler


# ---- as diffusers loads it ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_ddim_of_diffusers_draws_the_same_images(kind, exported, diffusers):
    """And the network has the same output, without the condition that is zero in sampling."""
    model, folder = exported(KINDS[kind])
    unet, scheduler = loaded(diffusers, folder)
    x, t = model.start(range(3)), torch.tensor([0, 13, 39])
    out = shuffled(model, unet(unshuffled(model, x), t).sample)
    zero = model.condition(torch.zeros(3, 0)) if model.spec.cond_dim else None
    expected = model.denoiser.network(x, t, zero)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))

    scheduler.set_timesteps(10)
    z = unshuffled(model, x)
    for time in scheduler.timesteps:
        output = unet(z, time).sample
        z = scheduler.step(output, time, z, eta=0.0, use_clipped_model_output=True).prev_sample
    theirs = shuffled(model, ((z / 2 + 0.5).clamp(0, 1) * 255).round())
    ours = model.sample(range(3), steps=10).float()
    assert ((ours > 0) & (ours < 255)).float().mean() > 0.3
    assert (ours - theirs).abs().max() <= 1


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_each_step_of_ddpm_has_the_same_mean_and_variance(
    variance, exported, diffusers, monkeypatch
):
    changes = {"sampling": {"sampler": {"name": "ddpm", "variance": variance}}}
    model, folder = exported({**changes, "network": {"learned_variance": variance == "learned"}})
    unet, scheduler = loaded(diffusers, folder)
    module = diffusers.schedulers.scheduling_ddpm
    x = model.start(range(2))
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    schedule = model.denoiser.schedule
    for t in range(40, 0, -1):
        prediction = model.denoiser(x, t)
        prediction = prediction.with_x0(prediction.x0.clamp(-1, 1))
        mean, _ = reverse_step(prediction, schedule, t, t - 1, zero, variance=variance)
        output, theirs = unet(x, t - 1).sample, []
        for z in (zero, one):
            monkeypatch.setattr(module, "randn_tensor", lambda *_, z=z, **__: z)
            theirs.append(scheduler.step(output, t - 1, x).prev_sample)
        torch.testing.assert_close(theirs[0], mean, rtol=1e-5, atol=2e-6)
        std = step_std(prediction, schedule, t, t - 1, variance) if t > 1 else torch.tensor(0.0)
        expected = std.to(x.dtype).expand_as(x)
        assert (theirs[1] - theirs[0] - expected).norm() <= 1e-5 * (1 + expected.norm()), t


def test_the_settings_of_sampling_are_those_of_the_scheduler(exported, diffusers):
    model, folder = exported({"sampling": {"clamp": False, "timesteps": "leading"}})
    _, scheduler = loaded(diffusers, folder)
    assert type(scheduler).__name__ == "DDIMScheduler"
    config = scheduler.config
    assert (config.clip_sample, config.thresholding, config.timestep_spacing) == (
        *(False, False),
        "leading",
    )
    assert config.trained_betas == model.denoiser.schedule.betas.tolist()


def test_a_dynamic_threshold_is_theirs(exported, diffusers):
    model, folder = exported({"sampling": {"clamp": "dynamic", "timesteps": "karras"}})
    unet, scheduler = loaded(diffusers, folder)
    assert scheduler.config.timestep_spacing == "trailing"
    scheduler.set_timesteps(10)
    x = model.start([0, 1])
    for t in scheduler.timesteps:
        x = scheduler.step(unet(x, t).sample, t, x, use_clipped_model_output=True).prev_sample
    theirs = ((x / 2 + 0.5).clamp(0, 1) * 255).round()
    ours = model.sample([0, 1], steps=10, timesteps="trailing").float()
    assert (ours - theirs).abs().max() <= 1


CARDS = {
    "plain": (KINDS["plain"], None),
    "patches": (KINDS["patches"], (4, 1, 16, 8)),
    "two channels": ({"channels": 2}, (4, 2, 8, 8)),
    "of ddpm": ({"sampling": {"sampler": "ddpm", "steps": 7}}, None),
    "steps that do not divide T": ({"sampling": {"steps": 7}}, None),
}


@pytest.mark.parametrize("kind", CARDS)
def test_the_lines_of_the_card_draw_images(kind, exported, diffusers, monkeypatch):
    changes, shape = CARDS[kind]
    _, folder = exported(changes)
    card = (folder / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    monkeypatch.chdir(folder.parent)
    names = {}
    exec(code, names)
    if shape is None:
        assert [image.size for image in names["images"]] == [(8, 8)] * 4
        assert len({image.tobytes() for image in names["images"]}) == 4
    else:
        assert tuple(names["x"].shape) == shape
    assert "| weights | raw, of step 1,234 |\n| training data | digits |" in card
    assert ("num_inference_steps=8," in code) == (kind == "steps that do not divide T")
    for command in re.findall(r"`(fromnoise [^`]+)`", card):
        assert command in ("fromnoise export", "fromnoise import pipe --out model")


# ---- and back -----------------------------------------------------------------------------------


LEARNED = {"network": {"learned_variance": True}}


@pytest.mark.parametrize("kind", [*KINDS, "learned variance"])
def test_the_way_back_keeps_every_bit(kind, exported, tmp_path):
    model, folder = exported(KINDS.get(kind, LEARNED))
    import_model(folder, tmp_path / "back")
    back = fromnoise.load(tmp_path / "back", device="cpu")
    before, after = (each.denoiser.network.state_dict() for each in (model, back))
    assert before.keys() - after.keys() == ({"cond.weight"} if kind == "augmented" else set())
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]), name
    assert torch.equal(back.denoiser.schedule.alpha_bar, model.denoiser.schedule.alpha_bar)
    assert back.spec.diffusion.prediction == model.spec.diffusion.prediction
    again = export_model(tmp_path / "back", tmp_path / "again", format="diffusers")
    for file in ("unet/diffusion_pytorch_model.safetensors", "unet/config.json"):
        assert (again / file).read_bytes() == (folder / file).read_bytes()


def test_one_file_has_the_specification(run, tmp_path, cli):
    code, out, _ = cli(
        "export", run, "--format", "safetensors", "--out", tmp_path / "m.safetensors"
    )
    assert (code, out) == (0, f"{tmp_path / 'm.safetensors'}\n")
    one, other = fromnoise.load(tmp_path / "m.safetensors"), fromnoise.load(run)
    assert one.spec == other.spec
    assert one.same_weights(other)
    export_model(run, tmp_path / "raw.safetensors", format="safetensors", weights="raw")
    assert fromnoise.load(tmp_path / "raw.safetensors").spec.weights == "raw"


# ---- what is refused ----------------------------------------------------------------------------

LABELLED = {"label_names": ["cat", "dog", "fox", "owl"]}
NO_COUNTERPART = {
    "network stacked": {
        "network": {"name": "stacked", "channels": [8, 16, 32, 64, 64, 48], "groups": 4}
    },
    "4 labels (cat, dog, fox)": LABELLED,
    "prediction edm, offset_noise 0.1": {"diffusion": {"prediction": "edm", "offset_noise": 0.1}},
    "data_range [0.0, 1.0]": {"data_range": [0, 1]},
    "variance_reading log": {**LEARNED, "diffusion": {"variance_reading": "log"}},
    "num_res_blocks is [1, 2], not one number": {"network": {"num_res_blocks": [1, 2]}},
    "it has self_conditioning": {"network": {"self_conditioning": True}},
    "multipliers do not start with 1": {"network": {"multipliers": [2, 2]}},
}


def test_what_has_no_counterpart_is_refused_by_name(model_of, tmp_path, cli):
    for problem, changes in NO_COUNTERPART.items():
        base = {**SPEC, "network": {}} if "name" in changes.get("network", {}) else SPEC
        spec = with_checked_components(ModelSpec.model_validate(merged(base, changes)))
        Model(build_denoiser(spec), spec).save(tmp_path / "model.safetensors")
        arguments = ("--format", "diffusers", "--out", tmp_path / "pipe")
        code, out, err = cli("export", tmp_path / "model.safetensors", *arguments)
        assert (code, out) == (2, ""), problem
        assert err == (
            f"error: diffusers has no counterpart of this model: {problem}. Export it with "
            "--format safetensors.\n"
        )
        assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"], problem


def test_what_exists_is_not_replaced(model_of, tmp_path):
    model_of({})
    file = tmp_path / "model.safetensors"
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    before = file.read_bytes()
    with pytest.raises(FolderNotEmpty, match=r"full is not empty\. Give --out a new folder"):
        export_model(file, tmp_path / "full", format="diffusers")
    with pytest.raises(FolderNotEmpty, match="is not empty"):
        export_model(file, file, format="diffusers")
    with pytest.raises(ConfigError, match=r"model.safetensors exists. Give --out a new name."):
        export_model(file, file, format="safetensors")
    with pytest.raises(ConfigError, match=r"--out full does not end in .safetensors"):
        export_model(file, tmp_path / "full", format="safetensors")
    with pytest.raises(ConfigError, match="--format 'onnx' is unknown"):
        export_model(file, tmp_path / "new", format="onnx")
    assert file.read_bytes() == before
    assert sorted(Path(tmp_path).rglob("*.*")) == [tmp_path / "full/mine.txt", file]
