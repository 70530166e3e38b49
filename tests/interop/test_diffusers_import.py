"""Folders that diffusers writes here, imported, and beside what diffusers computes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import fromnoise
from fromnoise.checkpoints import CheckpointError
from fromnoise.interop import import_model

diffusers = pytest.importorskip("diffusers")
DDPMScheduler, DDIMScheduler = diffusers.DDPMScheduler, diffusers.DDIMScheduler

TINY = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
AS_2020 = {"flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0, "norm_eps": 1e-6}
NETWORKS = {
    "defaults": {},
    "paper": {**AS_2020, "attention_head_dim": None, "dropout": 0.1},
    "cosines first": {"flip_sin_to_cos": True, "freq_shift": 1},
    "sines first": {"flip_sin_to_cos": False, "freq_shift": 0},
    "scale and shift": {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4},
    "heads": {"attention_head_dim": 4, "layers_per_block": 2, "act_fn": "swish"},
    "grey rectangle": {"in_channels": 1, "out_channels": 1, "sample_size": (4, 6)},
    "learned variance": {"out_channels": 6},
    "old names of blocks": {"down_block_types": ("UNetResDownBlock2D", "UNetResAttnDownBlock2D")},
}


def unet_of(**options):
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(**{**TINY, **options}).eval()
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.3)
    return unet.requires_grad_(False)


def written(unet, folder, scheduler=None, **how):
    """The folder of a pipeline."""
    learned = unet.config.out_channels > unet.config.in_channels
    variance = "learned_range" if learned else "fixed_small"
    scheduler = scheduler or DDPMScheduler(num_train_timesteps=50, variance_type=variance)
    kind = type(scheduler).__name__.replace("Scheduler", "Pipeline")
    getattr(diffusers, kind)(unet, scheduler).save_pretrained(folder, **how)
    return folder


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def imported(folder, tmp_path, **more):
    spec, notes = import_model(folder, tmp_path / "model", **more)
    return fromnoise.load(tmp_path / "model", device="cpu"), spec, notes


def assert_same_output(model, unet, labels=None):
    config = unet.config
    size = config.sample_size
    size = (size, size) if isinstance(size, int) else size
    x, t = torch.randn(3, config.in_channels, *size), torch.tensor([0, 17, 49])
    cond = None if labels is None else 2 * torch.eye(config.num_class_embeds)[labels] - 1
    expected = unet(x, t, class_labels=labels).sample
    got = model.denoiser.network(x, t, cond)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


# ---- networks and files -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_output_is_that_of_diffusers(kind, tmp_path):
    unet = unet_of(**NETWORKS[kind])
    model, spec, notes = imported(written(unet, tmp_path / "pipe"), tmp_path)
    assert_same_output(model, unet)
    assert notes == []
    size = unet.config.sample_size
    assert spec.size == ((size, size) if isinstance(size, int) else tuple(size))


def old_attention(unet_folder):
    """As before 2023."""
    file = unet_folder / "diffusion_pytorch_model.bin"
    state = torch.load(file, weights_only=True)
    for new, old in (
        ("to_q", "query"),
        ("to_k", "key"),
        ("to_v", "value"),
        ("to_out.0", "proj_attn"),
    ):
        state = {name.replace(f".{new}.", f".{old}."): each for name, each in state.items()}
    assert any(".query." in name for name in state)
    torch.save(state, file)


def into_one_folder(pipe):
    for file in ("unet/config.json", "scheduler/scheduler_config.json"):
        shutil.move(pipe / file, pipe)
    for file in list((pipe / "unet").iterdir()):
        shutil.move(file, pipe)
    (pipe / "unet").rmdir()
    (pipe / "scheduler").rmdir()


WRITINGS = {
    "safetensors": ({}, None),
    "bin": ({"safe_serialization": False}, None),
    "parts": ({"max_shard_size": "30KB"}, None),
    "parts of bin": ({"max_shard_size": "30KB", "safe_serialization": False}, None),
    "a variant": ({"variant": "fp16"}, None),
    "old attention": ({"safe_serialization": False}, lambda pipe: old_attention(pipe / "unet")),
    "one folder": ({}, into_one_folder),
}


@pytest.mark.parametrize("kind", WRITINGS)
def test_any_writing_of_the_same_weights_is_read(kind, tmp_path):
    how, change = WRITINGS[kind]
    unet = unet_of(**AS_2020)
    pipe = written(unet, tmp_path / "pipe", **how)
    if change:
        change(pipe)
    assert kind not in ("parts", "parts of bin") or len(list((pipe / "unet").iterdir())) > 4
    model, spec, _ = imported(pipe, tmp_path)
    assert_same_output(model, unet)
    assert (spec.diffusion.T, spec.source, spec.weights) == (50, "imported: diffusers", "raw")


def test_the_folder_of_the_unet_has_no_schedule_unless_that_is_beside_it(tmp_path):
    unet = unet_of()
    pipe = written(
        unet, tmp_path / "pipe", DDPMScheduler(num_train_timesteps=50, prediction_type="sample")
    )
    spec, _ = import_model(pipe / "unet", tmp_path / "beside")
    assert (spec.diffusion.T, spec.diffusion.prediction.name) == (50, "x0")
    shutil.move(pipe / "unet", tmp_path / "unet")
    spec, notes = import_model(tmp_path / "unet", tmp_path / "alone", overrides={"diffusion.T": 30})
    assert spec.diffusion.T == 30
    assert [note.split()[1].partition("=")[0] for note in notes] == [
        "diffusion.schedule",
        "diffusion.schedule.beta_1",
        "diffusion.schedule.beta_T",
        "diffusion.prediction",
        "sampling.clamp",
    ]


def test_a_checkpoint_of_their_training_has_averaged_weights_too(tmp_path):
    unet, average = unet_of(), unet_of()
    average.conv_out.bias.add_(1)
    unet.save_pretrained(tmp_path / "checkpoint-5/unet")
    average.save_pretrained(tmp_path / "checkpoint-5/unet_ema")
    edit(tmp_path / "checkpoint-5/unet_ema/config.json", decay=0.9999, optimization_step=5)
    import_model(tmp_path / "checkpoint-5", tmp_path / "model")
    for weights, theirs in (("ema", average), ("raw", unet)):
        assert_same_output(fromnoise.load(tmp_path / "model", weights=weights), theirs)
    import_model(tmp_path / "checkpoint-5/unet_ema", tmp_path / "alone")
    assert_same_output(fromnoise.load(tmp_path / "alone"), average)


def test_half_precision_is_said(tmp_path):
    written(unet_of().half(), tmp_path / "pipe")
    _, _, notes = imported(tmp_path / "pipe", tmp_path)
    assert notes == ["note: the file has weights in float16, with few digits"]


def test_classes_are_labels_of_which_one_is_present(tmp_path, cli):
    unet = unet_of(num_class_embeds=4)
    model, spec, notes = imported(written(unet, tmp_path / "pipe"), tmp_path)
    for labels in (torch.tensor([0, 1, 2]), torch.tensor([3, 3, 0])):
        assert_same_output(model, unet, labels)
    assert spec.label_names == ("class_0", "class_1", "class_2", "class_3")
    assert "assumed: label_names=" in notes[0]
    assert "without a label the embedding is the mean of all classes" in notes[1]
    # and that mean is what an open condition gives
    table = unet.class_embedding.weight
    table.copy_(table.mean(dim=0, keepdim=True).expand_as(table))
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([2, 40])
    expected = unet(x, t, class_labels=torch.tensor([0, 1])).sample
    open_ = model.denoiser.network(x, t, torch.zeros(2, 4))
    torch.testing.assert_close(open_, expected, rtol=1e-5, atol=1e-5)
    assert cli("sample", tmp_path / "model", "--class", "class_2", "--num", 1, "steps=2").code == 0


def test_it_is_trained_on(tmp_path, tiny):
    unet = unet_of(in_channels=1, out_channels=1)
    model, spec, _ = imported(written(unet, tmp_path / "pipe"), tmp_path)
    tiny["network"] = spec.network.model_dump()
    tiny["training"] |= {"steps": 1, "start_from": str(tmp_path / "model"), "learning_rate": 1e-9}
    run = fromnoise.train(tiny, out=tmp_path / "run")
    trained = fromnoise.load(run.folder, device="cpu").denoiser.network
    for before, after in zip(
        model.denoiser.network.parameters(), trained.parameters(), strict=True
    ):
        torch.testing.assert_close(after, before, rtol=0, atol=1e-8)


# ---- schedules and samplers ---------------------------------------------------------------------

BETAS = torch.linspace(0.01, 0.2, 50).tolist()
SCHEDULES = {
    "linear": {"beta_end": 0.3},
    "quadratic": {"beta_schedule": "scaled_linear", "beta_start": 0.001},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "custom": {"trained_betas": BETAS},
    "sigmoid": {"beta_schedule": "sigmoid", "beta_end": 0.3},
    "of no signal": {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_schedule_is_the_exact_one_of_their_table(kind, tmp_path):
    scheduler = DDPMScheduler(num_train_timesteps=50, **SCHEDULES[kind])
    spec, notes = import_model(written(unet_of(), tmp_path / "pipe", scheduler), tmp_path / "model")
    schedule = spec.diffusion.noise_schedule()
    # what their float32 loses: half a digit of ᾱ, and the last ones of a β near 1
    expected = scheduler.alphas_cumprod.double()
    torch.testing.assert_close(schedule.alpha_bar[1:], expected, rtol=0, atol=1e-6)
    assert kind not in ("linear", "quadratic", "cosine") or spec.diffusion.schedule.name == kind
    if kind == "custom":
        assert spec.diffusion.schedule.options["betas"] == BETAS
    assert notes == []


PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_ddim_draws_the_same_images(kind, tmp_path):
    """Within one grey level: their tables have float32's digits."""
    unet = unet_of()
    scheduler = DDIMScheduler(
        num_train_timesteps=50, prediction_type=kind, timestep_spacing="trailing", beta_end=0.3
    )
    model, spec, notes = imported(written(unet, tmp_path / "pipe", scheduler), tmp_path)
    assert spec.diffusion.prediction.name == PREDICTIONS[kind]
    assert spec.sampling.sampler.name == "ddim"
    assert notes == []
    scheduler.set_timesteps(10)
    x = model.start(range(4))
    for t in scheduler.timesteps:
        output = unet(x, t).sample
        x = scheduler.step(output, t, x, use_clipped_model_output=True).prev_sample
    expected = ((x / 2 + 0.5).clamp(0, 1) * 255).round()
    images = model.sample(range(4), steps=10)
    assert images.float().std() > 20
    assert (images.float() - expected).abs().max() <= 1


def test_settings_of_sampling_are_kept_and_others_said(tmp_path):
    def sampling(**options):
        kind = DDIMScheduler if "set_alpha_to_one" in options else DDPMScheduler
        pipe = written(
            unet_of(),
            tmp_path / f"{len(list(tmp_path.iterdir()))}",
            kind(num_train_timesteps=50, **options),
        )
        spec, notes = import_model(pipe, pipe / "model")
        chosen = spec.sampling
        return chosen.sampler.options, chosen.steps, chosen.clamp, chosen.timesteps, notes

    assert sampling() == ({"variance": "small"}, 50, True, "leading", [])
    assert sampling(
        variance_type="fixed_large", clip_sample=False, timestep_spacing="linspace"
    ) == (*({"variance": "large"}, 50, False, "linspace"), [])
    assert sampling(thresholding=True)[2] is True  # its cap is 1
    assert sampling(thresholding=True, sample_max_value=9.0)[2] == "dynamic"
    *_, notes = sampling(clip_sample_range=2.0, steps_offset=1, set_alpha_to_one=False)
    assert notes == [
        "note: steps_offset = 1, set_alpha_to_one = False, clip_sample_range = 2.0 of the "
        "scheduler has no counterpart, so samples will differ"
    ]


def test_a_prediction_as_it_was_written_until_2023(tmp_path):
    pipe = written(unet_of(), tmp_path / "pipe")
    file = pipe / "scheduler/scheduler_config.json"
    config = {k: v for k, v in json.loads(file.read_text()).items() if k != "prediction_type"}
    file.write_text(json.dumps({**config, "predict_epsilon": False}))
    assert import_model(pipe, tmp_path / "model")[0].diffusion.prediction.name == "x0"


# ---- what is refused ----------------------------------------------------------------------------

CONFIG, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"
REFUSED = {
    "down_block_types = ['SkipDownBlock2D', 'AttnDownBlock2D']": (
        CONFIG,
        {"down_block_types": ["SkipDownBlock2D", "AttnDownBlock2D"]},
    ),
    "Supported: the mirror of down_block_types": (
        CONFIG,
        {"up_block_types": ["UpBlock2D", "AttnUpBlock2D"]},
    ),
    "block_out_channels = [8, 12]": (CONFIG, {"block_out_channels": [8, 12]}),
    "attention_head_dim = 5. Supported: divisors": (CONFIG, {"attention_head_dim": 5}),
    "attn_norm_num_groups = 2": (CONFIG, {"attn_norm_num_groups": 2}),
    "attn_norm_num_groups = None": (CONFIG, {"resnet_time_scale_shift": "scale_shift"}),
    "time_embedding_dim = 64. Supported: 32": (CONFIG, {"time_embedding_dim": 64}),
    "time_embedding_type = 'fourier' of the U-Net has no counterpart here. Supported: positional": (
        CONFIG,
        {"time_embedding_type": "fourier"},
    ),
    "class_embed_type = 'timestep'": (CONFIG, {"class_embed_type": "timestep"}),
    "add_attention = False": (CONFIG, {"add_attention": False}),
    "center_input_sample = True": (CONFIG, {"center_input_sample": True}),
    "depths = 3 of the U-Net is unknown here": (CONFIG, {"depths": 3}),
    "in_channels and out_channels = 3, 4": (CONFIG, {"out_channels": 4}),
    "its raw weights do not fit": (CONFIG, {"layers_per_block": 2}),
    "config.json of PIPE is of UNet2DConditionModel. Give a UNet2DModel": (
        CONFIG,
        {"_class_name": "UNet2DConditionModel"},
    ),
    "scheduler_config.json of PIPE is of PNDMScheduler. Give": (
        SCHEDULER,
        {"_class_name": "PNDMScheduler"},
    ),
    "prediction_type = 'flow'": (SCHEDULER, {"prediction_type": "flow"}),
    "beta_schedule = 'laplace'": (SCHEDULER, {"beta_schedule": "laplace"}),
    "variance_type = 'learned'": (SCHEDULER, {"variance_type": "learned"}),
    "but out_channels is 1 times in_channels": (SCHEDULER, {"variance_type": "learned_range"}),
    "trained_betas has 2 numbers, but num_train_timesteps is 50": (
        SCHEDULER,
        {"trained_betas": [0.1, 0.2]},
    ),
    "PIPE is a StableDiffusionPipeline with text_encoder, tokenizer, vae. Give a UNet2DModel": (
        "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "vae": ["diffusers", "AutoencoderKL"],
            "safety_checker": [None, None],
        },
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder in parts, to be copied."""
    return written(unet_of(), tmp_path_factory.mktemp("whole") / "pipe", max_shard_size="30KB")


def test_what_has_no_counterpart_is_refused_by_name(whole, tmp_path, cli):
    for problem, (file, changes) in REFUSED.items():
        pipe = Path(shutil.copytree(whole, tmp_path / "pipe"))
        edit(pipe / file, **changes)
        code, out, err = cli("import", pipe, "--out", tmp_path / "model")
        assert (code, out, len(err.splitlines())) == (2, "", 1), problem
        assert problem.replace("PIPE", str(pipe)) in err
        assert err.rstrip().endswith("."), problem
        assert not (tmp_path / "model").exists(), problem
        shutil.rmtree(pipe)


def broken(kind, pipe):
    unet = pipe / "unet"
    parts = sorted(unet.glob("*.safetensors"))
    index = unet / "diffusion_pytorch_model.safetensors.index.json"
    if kind == "a part is missing":
        parts[1].unlink()
    elif kind == "a part elsewhere":
        weight_map = json.loads(index.read_text())["weight_map"]
        edit(index, weight_map={**weight_map, "conv_in.bias": "../../other.safetensors"})
    elif kind == "an index of nothing":
        edit(index, weight_map=3)
    elif kind == "no weights":
        for file in (*parts, index):
            file.unlink()
    elif kind == "two variants":
        for name in ("fp16", "bf16"):
            shutil.copy(parts[0], unet / f"diffusion_pytorch_model.{name}.safetensors")
        index.unlink()
    elif kind == "a pointer of Git LFS":
        parts[0].write_text("version https://git-lfs.github.com/spec/v1\n")
    elif kind == "JSON that is none":
        (unet / "config.json").write_text("{")
    elif kind == "a list":
        (unet / "config.json").write_text("[]")
    elif kind == "no unet":
        shutil.rmtree(unet)


BROKEN = {
    "a part is missing": "lacks 1 of",
    "a part elsewhere": "../../other.safetensors. Copy or download",
    "an index of nothing": "has no weight_map",
    "no weights": "(variants: none)",
    "two variants": ".bf16.safetensors, diffusion_pytorch_model.fp16.safetensors). Copy",
    "a pointer of Git LFS": "is a pointer of Git LFS",
    "JSON that is none": "is not valid JSON",
    "a list": "holds no JSON object",
    "no unet": "is a DDPMPipeline without unet/config.json",
}


def test_a_broken_folder_is_one_line(whole, tmp_path, cli):
    for kind, problem in BROKEN.items():
        pipe = Path(shutil.copytree(whole, tmp_path / "pipe"))
        broken(kind, pipe)
        code, out, err = cli("import", pipe, "--out", tmp_path / "model")
        assert (code, out, len(err.splitlines())) == (2, "", 1), kind
        assert problem in err, kind
        assert not (tmp_path / "model").exists(), kind
        shutil.rmtree(pipe)


def test_weights_without_their_config_are_refused(tmp_path, cli):
    unet_of().save_pretrained(tmp_path / "unet")
    file = tmp_path / "unet/diffusion_pytorch_model.safetensors"
    with pytest.raises(CheckpointError, match=r"has only weights of diffusers. Give their folder"):
        import_model(file, tmp_path / "model")


class Payload:
    def __reduce__(self):
        return print, ("this ran",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path, cli):
    pipe = written(unet_of(), tmp_path / "pipe", safe_serialization=False)
    torch.save({"conv_in.weight": Payload()}, pipe / "unet/diffusion_pytorch_model.bin")
    code, out, err = cli("import", pipe, "--out", tmp_path / "model")
    assert code == 2
    assert "its pickle would run code" in err
    assert "this ran" not in out + err
