"""`training.checkpoint_gradients`: the same numbers with less memory."""

import copy

import pytest
import torch
from torch import nn

import fromnoise
from fromnoise import runs
from fromnoise.checkpoints import read_tensors
from fromnoise.cli import error_line
from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import parse_recipe
from fromnoise.diffusion import Denoiser, NoiseSchedule, Objective
from fromnoise.doctor.cost import activation_bytes, measure
from fromnoise.model.spec import ModelSpec
from fromnoise.networks import NETWORKS
from fromnoise.networks.recomputation import checkpoint_regions, regions_of
from fromnoise.training import precision
from fromnoise.training.precision import Computation, all_versions
from fromnoise.training.state import TrainingState
from fromnoise.training.step import Batch, backward

FP32, BF16 = Computation("fp32", False), Computation("bf16", True)
NETWORK = {"channels": 8, "multipliers": (1, 2), "num_res_blocks": 1, "groups": 4}
DENSE = {"channels": (8, 4), "mid_channels": (4, 8), "downsample": (True,), "time_dim": 8}
STACKED = {"channels": (4, 8), "attention": (True, False), "upscale": (False, True)}
SMALL = {
    "ddpm": {**NETWORK, "dropout": 0.2},
    "dense_attention": {**DENSE, "num_layers": (1, 1, 1), "heads": 2, "out_width": 4, "groups": 2},
    "stacked": {**STACKED, "groups": 2, "dropout": 0.2, "heads": 2},
    "linear_attention": {"dim": 8, "multipliers": (1, 2), "heads": 2, "head_dim": 4}
    | {"dropout": 0.2},
    "context": {"features": 8, "pool": 2, "expand": 2},  # with batch normalisation
}
COUNT = 6


@pytest.fixture
def settings(tiny):
    """settings(parts=2): of a training of COUNT images a step."""

    def build(**changes):
        training = tiny["training"] | {"batch_size": COUNT, **changes}
        return parse_recipe({**tiny, "training": training}, "tiny").training

    return build


def denoiser_of(name, **options):
    """No layer at zero."""
    torch.manual_seed(0)
    network = NETWORKS[name](image_channels=1, **{**SMALL[name], **options})
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return Denoiser(network, NoiseSchedule.named("linear", 100)).train()


def batch_for(denoiser):
    torch.manual_seed(1)
    x0 = torch.randint(0, 256, (COUNT, 1, 8, 8), dtype=torch.uint8)
    eps, t = torch.randn(COUNT, 1, 8, 8), torch.randint(1, 101, (COUNT,))
    keys = torch.arange(COUNT), torch.arange(COUNT) + 100
    half = torch.arange(COUNT) % 2 == 0 if denoiser.self_conditioning else None
    return Batch(x0, eps, t, None, None, half, *keys)


def step_of(denoiser, settings, computation=FP32, blocks=None):
    """The losses, gradients and buffers of a step, and where torch's generator is then."""
    state = TrainingState.start(copy.deepcopy(denoiser), settings, computation)
    network = state.denoiser.network
    calls = 0

    def count(*_):
        nonlocal calls
        calls += 1

    for block in regions_of(network) if blocks is not None else ():
        block.register_forward_pre_hook(count)
    torch.manual_seed(2)
    with all_versions(computation):
        losses = backward(state, Objective(), batch_for(denoiser), settings.parts)
    if blocks is not None:
        blocks.append(calls)
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert found
    return {
        "losses": losses,
        **found,
        **{f"buffer {name}": buffer for name, buffer in network.named_buffers()},
        "generator": torch.get_rng_state(),
    }


def assert_same(one, other, case):
    assert one.keys() == other.keys(), case
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), (case, name)


@pytest.mark.parametrize("name", SMALL)
def test_the_gradient_is_the_same_bit_for_bit(name, settings):
    """With dropout, whose keys are gone when the backward pass begins, and batch statistics."""
    cases = [(FP32, {}, 1), (BF16, {"self_conditioning": True}, 3)]
    for computation, options, parts in cases:
        denoiser, calls = denoiser_of(name, **options), []
        plain = step_of(denoiser, settings(parts=parts), computation, calls)
        kept = settings(parts=parts, checkpoint_gradients=True)
        again = step_of(denoiser, kept, computation, calls)
        assert_same(plain, again, (computation, options, parts))
        assert calls[1] > calls[0]  # blocks did run again


def test_torchs_own_dropout_draws_again_what_it_drew(settings):
    denoiser = denoiser_of("ddpm")
    for block in regions_of(denoiser.network):
        if hasattr(block, "dropout"):
            block.dropout = nn.Dropout(0.2)
    again = step_of(denoiser, settings(checkpoint_gradients=True))
    assert_same(step_of(denoiser, settings()), again, "torch's")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own
def test_compiled_blocks_run_again_without_being_compiled_again(settings, monkeypatch):
    traced = []

    def count(graph, inputs):
        traced.append(graph)
        return graph.forward

    monkeypatch.setattr(precision, "BACKEND", count)
    torch._dynamo.reset()
    compiled, denoiser = FP32._replace(compiled=True), denoiser_of("ddpm")
    plain = step_of(denoiser, settings(), compiled)
    before, kept = len(traced), settings(checkpoint_gradients=True)
    assert before > 0
    assert_same(plain, step_of(denoiser, kept, compiled), "compiled")
    assert_same(plain, step_of(denoiser, kept, compiled), "compiled, again")
    assert len(traced) == before
    torch._dynamo.reset()


def test_weights_and_copies_are_as_before(settings):
    denoiser = denoiser_of("ddpm")
    names = list(denoiser.state_dict())
    state = TrainingState.start(denoiser, settings(checkpoint_gradients=True), FP32)
    assert list(denoiser.state_dict()) == names
    assert all(block._compiled_call_impl for block in regions_of(denoiser.network))
    for copied in (state.ema.module, copy.deepcopy(denoiser.network)):
        assert not any(block._compiled_call_impl for block in regions_of(copied))


@pytest.mark.slow
def test_a_run_has_the_same_files(tiny, tmp_path, monkeypatch):
    """Recipe aside. A run that was begun without goes on with it."""
    monkeypatch.setattr(runs, "draw_pictures", lambda *_, **__: None)
    tiny["network"]["dropout"] = 0.2
    tiny["training"] |= {"steps": 4, "checkpoint_every": 2, "keep_checkpoints": 9}
    plain = fromnoise.train(tiny, out=tmp_path / "plain").folder
    with_it = {"training.checkpoint_gradients": True}
    kept = fromnoise.train(tiny, out=tmp_path / "kept", overrides=with_it).folder
    first = fromnoise.train(tiny, out=tmp_path / "resumed", overrides={"training.steps": 2}).folder
    fromnoise.resume(first, overrides={"training.steps": 4, **with_it})
    for run in (kept, first):
        files = sorted((plain / "checkpoints" / "000004").glob("*.safetensors"))
        assert files
        for file in files:
            others = read_tensors(run / "checkpoints" / "000004" / file.name).tensors
            assert_same(read_tensors(file).tensors, others, file.name)


class Without(nn.Module):
    """A network from elsewhere, which names no blocks."""

    def __init__(self, *, image_channels=3, cond_dim=0):
        super().__init__()
        self.conv = nn.Conv2d(image_channels, image_channels, 1)

    def forward(self, x, t, cond=None):
        return self.conv(x)


def test_a_network_without_blocks_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, "without", Without)
    tiny["network"] = {"name": "without"}
    tiny["training"]["checkpoint_gradients"] = True
    with pytest.raises(ConfigError, match=r"true, but Without has no `regions` to recompute\."):
        fromnoise.train(tiny, out=tmp_path / "run")


def test_out_of_memory_names_it_beside_the_parts():
    line = error_line(MemoryError()) or ""
    assert "training.parts" in line
    assert "training.checkpoint_gradients=true" in line


# ---- memory --------------------------------------------------------------------------------------


class Sigmoids(nn.Module):
    """Keeps the output of each sigmoid for the backward pass, and not its input."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def forward(self, x):
        for _ in range(self.count):
            x = x.sigmoid()
        return x


class Blocks(nn.Module):
    regions = (Sigmoids,)

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 1, 1))
        self.blocks = nn.Sequential(Sigmoids(4), Sigmoids(7), Sigmoids(2))

    def forward(self, x, t, cond=None):
        return self.blocks(x * self.weight)


def seen_by_hooks(denoiser, passes):
    """The bytes of the tensors that a pass saves, each storage once, weights apart."""
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        passes()
    for parameter in denoiser.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(kept.values())


def test_what_is_kept_is_the_inputs_of_the_blocks_and_one_block():
    denoiser = Denoiser(Blocks(), NoiseSchedule.named("cosine", 10))
    x0, image = torch.zeros(2, 3, 4, 4), 3 * 4 * 4 * 4

    def passes():
        Objective()(denoiser, x0, torch.zeros_like(x0), torch.ones(2).long()).mean().backward()

    found = activation_bytes(denoiser, passes, half=False)
    # x_t, 13 outputs of sigmoids, the error for mse, the weights of the loss
    assert found.everything == 2 * (15 * image + 4)
    # x_t, three inputs, the error; and 7 outputs, the last of which is the third input
    assert found.checkpointed == 2 * ((5 + 6) * image + 4)
    kept = seen_by_hooks(denoiser, passes)
    assert kept == found.everything
    checkpoint_regions(denoiser.network)
    assert seen_by_hooks(denoiser, passes) == found.checkpointed - 2 * 6 * image


@pytest.mark.parametrize("name", ["ddpm", "linear_attention"])
def test_the_doctor_measures_the_smaller_figure(name, tiny):
    recipes = [
        parse_recipe(tiny, "tiny", {"training.checkpoint_gradients": on}) for on in (False, True)
    ]
    spec = ModelSpec(
        network=recipes[0].network,
        diffusion=recipes[0].diffusion,
        sampling=recipes[0].sampling,
        channels=1,
        size=(8, 8),
    )
    denoiser = denoiser_of(name)
    plain, kept = (measure(denoiser, recipe, spec, FP32, 20.0) for recipe in recipes)
    assert plain.checkpointed_bytes == kept.checkpointed_bytes == kept.image_bytes
    assert kept.image_bytes < plain.image_bytes
    state = TrainingState.start(denoiser, recipes[1].training, FP32)
    batch = batch_for(denoiser).part(slice(2))
    alone = seen_by_hooks(denoiser, lambda: backward(state, Objective(), batch, 1)) // 2
    assert alone < kept.image_bytes < plain.image_bytes
