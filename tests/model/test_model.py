import errno
import json
import logging
import shutil
from itertools import product

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fromnoise
from fromnoise import checkpoints
from fromnoise.checkpoints import CheckpointError, DiskFull, read_tensors
from fromnoise.config.components import Component, with_checked_components
from fromnoise.config.schema import Diffusion, SamplingConfig
from fromnoise.data.loader import to_float
from fromnoise.diffusion import SAMPLERS, TIMESTEPS, Denoiser, NoiseSchedule
from fromnoise.model.model import Model, build_denoiser, select_device, to_uint8
from fromnoise.model.spec import METADATA_KEY, ModelSpec
from fromnoise.rng import image_noise


def spec_of(channels: int, size: tuple[int, int]) -> ModelSpec:
    network = Component(name="ddpm", channels=8, multipliers=[1, 2], num_res_blocks=1, groups=4)
    spec = ModelSpec(
        network=network,
        diffusion=Diffusion(T=50),
        sampling=SamplingConfig(steps=4),
        channels=channels,
        size=size,
        source="nowhere",
    )
    return with_checked_components(spec)


@pytest.fixture(scope="module")
def model() -> Model:
    """Untrained, but with no layer at zero: whatever enters has an effect on what leaves."""
    spec = spec_of(channels=2, size=(8, 12))
    torch.manual_seed(0)
    denoiser = build_denoiser(spec).eval().requires_grad_(False)
    for parameter in denoiser.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    return Model(denoiser, spec)


class Known(nn.Module):
    """A network that knows the one image there is, and predicts it as x̂_0."""

    def __init__(self, image: torch.Tensor) -> None:
        super().__init__()
        self.image = nn.Parameter(image)

    def forward(self, x, t, cond=None):
        return self.image.expand(x.shape)


# ---- sampling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_denoiser_that_knows_the_image_samples_the_image(sampler):
    """Five channels, not square, and no training: to each pixel, whatever the noise was."""
    image = torch.arange(5 * 2 * 3, dtype=torch.uint8).reshape(5, 2, 3) * 8
    denoiser = Denoiser(Known(to_float(image)), NoiseSchedule.named("linear", 50), "x0")
    known = Model(denoiser, spec_of(channels=5, size=(2, 3)))
    for timesteps, steps in product(TIMESTEPS, (1, 7, 50)):
        samples = known.sample([1, 2], sampler=sampler, timesteps=timesteps, steps=steps)
        assert samples.dtype == torch.uint8
        assert torch.equal(samples, image.expand(2, 5, 2, 3)), (timesteps, steps)


@pytest.mark.parametrize("how", [{"eta": 0.0}, {"eta": 1.0}, {"sampler": "ddpm"}], ids=str)
def test_one_seed_is_one_image_at_any_batch_size(model, how):
    """Measured bit for bit; one level is let go, as kernels may add in another order elsewhere."""
    together = model.sample(range(7), batch_size=7, **how).int()
    assert together.unique(dim=0).shape == (7, 2, 8, 12)
    for batch_size in (1, 3):
        apart = model.sample(range(7), batch_size=batch_size, **how).int()
        assert (apart - together).abs().max() <= 1
    alone = model.sample([5], **how).int()
    assert (alone[0] - together[5]).abs().max() <= 1


def test_the_same_call_gives_the_same_bits(model):
    first = model.sample([3, 4], sampler="ddpm")
    torch.manual_seed(5)
    assert torch.equal(model.sample(np.array([3, 4]), sampler="ddpm"), first)


def test_no_seeds_are_no_images(model):
    assert model.sample([]).shape == (0, 2, 8, 12)


def test_every_step_is_shown_from_the_noise_to_the_image(model):
    steps = list(model.denoise([3], steps=4))
    assert [(step.t, step.s) for step in steps] == [(50, 38), (38, 25), (25, 12), (12, 0)]
    assert torch.equal(to_uint8(steps[-1].x), model.sample([3], steps=4))
    assert all(step.x0.abs().max() <= 1 for step in steps)


def test_bytes_and_numbers_are_inverse():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(levels)), levels)
    assert (to_float(levels).min(), to_float(levels).max()) == (-1, 1)
    assert to_uint8(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]


class Remembers(Known):
    """The same with self-conditioning; it notes what it was shown."""

    self_conditioning = True

    def __init__(self, image: torch.Tensor) -> None:
        super().__init__(image)
        self.hints: list[torch.Tensor] = []

    def forward(self, x, t, cond=None):
        x_t, hint = x.chunk(2, dim=1)
        self.hints.append(hint)
        return self.image + 0.5 * x_t


def test_each_step_of_a_walk_is_shown_the_estimate_of_the_one_before():
    network = Remembers(torch.zeros(1, 2, 3))
    denoiser = Denoiser(network, NoiseSchedule.named("linear", 50), "x0")
    model = Model(denoiser, spec_of(channels=1, size=(2, 3)))
    for _ in range(2):  # a second walk begins with nothing again
        network.hints.clear()
        steps = list(model.denoise([1, 2], steps=4, clamp=False))
        assert not network.hints[0].any()
        for hint, before in zip(network.hints[1:], steps[:-1], strict=True):
            assert torch.equal(hint, before.x0.clamp(-1, 1))


class PerfectWithOffsets(nn.Module):
    """ε̂ = E[ε + s ξ | x_t] for pixels N(0, c²) and a level N(0, b²) for each image, all known."""

    strength, c, b = 0.3, 0.3, 0.5

    def __init__(self) -> None:
        super().__init__()
        self.schedule = NoiseSchedule.named("linear", 1000)
        self.device_of = nn.Parameter(torch.zeros(1))

    def forward(self, x, t, cond=None):
        a = self.schedule.alpha_bar[int(t[0]) + 1].item()
        level = x.mean(dim=(2, 3), keepdim=True)  # its own direction, apart from all others
        size = x[0].numel()

        def share(data: float, noise: float) -> float:
            return (1 - a) ** 0.5 * noise / (a * data + (1 - a) * noise)

        of_level = share(self.b**2 + self.c**2 / size, self.strength**2 + 1 / size)
        return of_level * level + share(self.c**2, 1.0) * (x - level)


@pytest.mark.parametrize("how", [{"sampler": "ddim"}, {"sampler": "ddpm", "variance": "large"}])
def test_a_model_trained_with_offset_noise_is_sampled_from_such_noise(how):
    # From plain noise the levels, the brightness of the images, would come out 0.4 times as wide.
    spec = spec_of(channels=1, size=(8, 8)).model_copy(
        update={"diffusion": Diffusion(T=1000, offset_noise=PerfectWithOffsets.strength)}
    )
    network = PerfectWithOffsets()
    model = Model(Denoiser(network, network.schedule), spec)
    *_, last = model.denoise(range(1000), steps=100, clamp=False, **how)
    level = last.x.mean(dim=(1, 2, 3))
    true = (network.b**2 + network.c**2 / 64) ** 0.5
    assert level.std().item() == pytest.approx(true, rel=0.1)
    assert (last.x - level[:, None, None, None]).std().item() == pytest.approx(0.3, rel=0.06)


def test_without_offset_noise_the_noise_is_plain(model):
    assert torch.equal(model.noise([3, 4], 7), image_noise([3, 4], 7, (2, 8, 12)))
    assert torch.equal(model.start([3]), model.noise([3], 0))


# ---- files --------------------------------------------------------------------------------------


def test_a_file_alone_makes_the_same_images(model, tmp_path):
    file = model.save(tmp_path / "far" / "away.safetensors")
    again = fromnoise.load(file, device="cpu")
    assert again.spec == model.spec
    for name, tensor in model.denoiser.state_dict().items():
        assert torch.equal(again.denoiser.state_dict()[name], tensor)
    difference = again.sample(range(3)).int() - model.sample(range(3)).int()
    assert difference.abs().max() <= 1  # `load` chooses the memory layout, and thereby the kernel


def test_run_checkpoint_and_file_are_the_same_model(finished_run):
    newest = finished_run / "checkpoints" / "000006"
    images = [
        fromnoise.load(path, device="cpu").sample([0, 1])
        for path in (finished_run, newest, newest / "ema.safetensors")
    ]
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])


def test_averaged_and_raw_weights(finished_run):
    ema, raw = (fromnoise.load(finished_run, weights=w, device="cpu") for w in ("ema", "raw"))
    assert (ema.spec.weights, raw.spec.weights) == ("ema", "raw")
    assert (ema.spec.step, ema.spec.source, ema.spec.size) == (6, "digits", (8, 8))
    pairs = zip(ema.denoiser.parameters(), raw.denoiser.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_a_file_has_only_its_own_weights(finished_run):
    file = finished_run / "checkpoints" / "000006" / "model.safetensors"
    assert fromnoise.load(file, device="cpu").spec.weights == "raw"
    with pytest.raises(CheckpointError, match=r"has raw weights\. Remove --weights ema"):
        fromnoise.load(file, weights="ema")


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(run, caplog):
    (run / "checkpoints" / "000006" / "ema.safetensors").write_bytes(b"damaged")
    assert fromnoise.load(run, device="cpu").spec.step == 3
    [(_, level, line)] = caplog.record_tuples
    assert level == logging.WARNING
    assert "000006: ema.safetensors is damaged" in line
    assert "000003" in line


def test_a_damaged_checkpoint_that_was_asked_for_is_refused(run):
    checkpoint = run / "checkpoints" / "000006"
    (checkpoint / "ema.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"000006: ema\.safetensors is damaged"):
        fromnoise.load(checkpoint)


def test_damage_of_files_that_sampling_does_not_read_is_no_matter(run, caplog):
    """Resume verifies all files; see tests/training/test_resume.py."""
    checkpoint = run / "checkpoints" / "000006"
    (checkpoint / "optimizer.safetensors").write_bytes(b"damaged")
    (checkpoint / "model.safetensors").unlink()
    assert fromnoise.load(run, device="cpu").spec.step == 6
    assert fromnoise.load(checkpoint, device="cpu").spec.step == 6
    assert caplog.record_tuples == []
    assert fromnoise.load(run, weights="raw", device="cpu").spec.step == 3
    assert "000006: model.safetensors is missing" in caplog.text


def test_what_sampling_does_not_read_is_not_hashed(run, monkeypatch):
    hashed = []
    sha256 = checkpoints.sha256
    monkeypatch.setattr(
        checkpoints, "sha256", lambda file: hashed.append(file.name) or sha256(file)
    )
    fromnoise.load(run, device="cpu")
    assert hashed == ["ema.safetensors"]


EXPECTED = r"Give a run folder, a checkpoint folder, a \.safetensors file or a shipped model\.$"


def test_what_is_no_model(tmp_path, run):
    with pytest.raises(CheckpointError, match=rf"there is no model at /.*/none\. {EXPECTED}"):
        fromnoise.load(tmp_path / "none")
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError, match=rf"run has no checkpoint\. {EXPECTED}"):
        fromnoise.load(run)


def test_a_truncated_file(model, tmp_path):
    file = model.save(tmp_path / "model.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a valid \.safetensors"):
        fromnoise.load(file)


def rewritten(model, tmp_path, change):
    """The model's file with other metadata."""
    file = model.save(tmp_path / "model.safetensors")
    tensors, metadata = read_tensors(file)
    save_file(dict(tensors), file, change(dict(metadata)))
    return file


def with_network(**changes):
    def change(metadata):
        spec = json.loads(metadata[METADATA_KEY])
        return {METADATA_KEY: json.dumps(spec | {"network": spec["network"] | changes})}

    return change


def of_version(version):
    def change(metadata):
        spec = json.loads(metadata[METADATA_KEY]) | {"format_version": version}
        return {METADATA_KEY: json.dumps(spec)}

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _: {}, "has no model metadata"),
        (lambda _: {METADATA_KEY: "{"}, "has unreadable metadata"),
        (lambda _: {METADATA_KEY: "[]"}, "has unreadable metadata"),
        (lambda _: {METADATA_KEY: '{"format_version": 1}'}, "has unreadable metadata"),
        (of_version(2), "has format version 2, but this fromnoise reads versions up to 1"),
        (with_network(name="transformer"), "network = 'transformer' is unknown.*later fromnoise"),
        (with_network(registers=4), "network.registers.*later fromnoise"),
    ],
    ids=["foreign", "broken", "list", "empty", "newer", "network", "option"],
)
def test_metadata_that_cannot_be_used(model, tmp_path, change, said):
    with pytest.raises(CheckpointError, match=rf"model\.safetensors.* {said}"):
        fromnoise.load(rewritten(model, tmp_path, change))


def test_a_file_from_before_a_key_has_what_was_then_the_only_way(model, tmp_path):
    def old(metadata):
        spec = json.loads(metadata[METADATA_KEY])
        for key in ("weighting", "variance_reading", "offset_noise", "zero_terminal_snr"):
            del spec["diffusion"][key]
        del spec["network"]["self_conditioning"]
        return {METADATA_KEY: json.dumps(spec)}

    again = fromnoise.load(rewritten(model, tmp_path, old), device="cpu")
    assert again.spec.diffusion == model.spec.diffusion
    assert not again.denoiser.self_conditioning


def test_how_a_model_is_built_survives_its_file(tmp_path):
    spec = spec_of(channels=1, size=(8, 8))
    network = Component(name="ddpm", **{**spec.network.options, "self_conditioning": True})
    diffusion = Diffusion(T=50, variance_reading="log")
    built = Model(
        denoiser := build_denoiser(
            spec.model_copy(update={"network": network, "diffusion": diffusion})
        ),
        spec.model_copy(update={"network": network, "diffusion": diffusion}),
    )
    again = fromnoise.load(built.save(tmp_path / "model.safetensors"), device="cpu").denoiser
    assert again.self_conditioning
    assert denoiser.self_conditioning
    assert again.variance_reading == denoiser.variance_reading == "log"


def test_weights_that_are_not_those_of_the_network(model, tmp_path):
    file = model.save(tmp_path / "model.safetensors")
    _, metadata = read_tensors(file)
    save_file({"stem.weight": torch.zeros(1)}, file, dict(metadata))
    with pytest.raises(CheckpointError, match="the weights do not fit the network: "):
        fromnoise.load(file)


def test_a_device_that_is_not_there():
    with pytest.raises(ValueError, match="device = 'abacus' is unknown"):
        select_device("abacus")


def test_options_that_are_not_in_a_file_have_their_defaults(model, tmp_path):
    def old(metadata):
        spec = json.loads(metadata[METADATA_KEY])
        del spec["network"]["learned_variance"]
        return {METADATA_KEY: json.dumps(spec)}

    again = fromnoise.load(rewritten(model, tmp_path, old), device="cpu")
    assert again.spec.network == model.spec.network
    assert torch.equal(again.sample([3], precision="fp32"), model.sample([3]))


def test_weights_that_are_not_finite_are_no_model(model, tmp_path):
    file = model.save(tmp_path / "model.safetensors")
    tensors, metadata = read_tensors(file)
    tensors = {**tensors, "out.bias": torch.full_like(tensors["out.bias"], torch.nan)}
    save_file(tensors, file, dict(metadata))
    with pytest.raises(CheckpointError, match=r"out\.bias is not finite"):
        fromnoise.load(file)


def test_a_model_is_saved_whole_or_not_at_all(model, tmp_path, monkeypatch):
    file = model.save(tmp_path / "new" / "model.safetensors")
    before = file.read_bytes()

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_tensors", fail)
    with pytest.raises(DiskFull):
        model.save(file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_rows_of_labels_and_the_batch_size_fit_or_are_refused(model):
    with pytest.raises(ValueError, match="cond has 3 rows for 2 images"):
        model.sample([0, 1], cond=torch.zeros(3, 1), batch_size=1)
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"batch_size = {size} is too small"):
            model.sample([0, 1], batch_size=size)
