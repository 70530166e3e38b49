"""`training.compile`: the same numbers from compiled blocks.

Three tests compile; in the others a compiled block is one that counts its calls.
"""

import copy
import json
import shutil

import pytest
import torch
from torch import nn

import fromnoise
from fromnoise import runs
from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import parse_recipe
from fromnoise.diffusion import Denoiser, NoiseSchedule, Objective
from fromnoise.doctor.cost import measure
from fromnoise.model.spec import ModelSpec
from fromnoise.networks import NETWORKS
from fromnoise.networks.layers import Dropout, dropout_keys
from fromnoise.rng import BatchDraws
from fromnoise.training import precision
from fromnoise.training.precision import Computation, all_versions, check_compiles, compile_regions

# torch asks for it itself while it compiles
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

FP32 = Computation("fp32", False)
COMPILED = FP32._replace(compiled=True)
NETWORK = {"channels": 8, "multipliers": (1, 2), "num_res_blocks": 1, "groups": 4}
SMALL = {
    "ddpm": {**NETWORK, "dropout": 0.0},
    "dense_attention": {
        "channels": (8, 4),
        "mid_channels": (4, 8),
        "downsample": (True,),
        "time_dim": 8,
        "num_layers": (1, 1, 1),
        "heads": 2,
        "out_width": 4,
        "groups": 2,
    },
    "stacked": {
        "channels": (4, 8),
        "attention": (True, False),
        "upscale": (False, True),
        "groups": 2,
        "dropout": 0.0,
        "heads": 2,
    },
    "linear_attention": {"dim": 8, "multipliers": (1, 2), "heads": 2, "head_dim": 4, "memories": 3},
    "context": {"features": 8, "pool": 2, "expand": 2},
}


@pytest.fixture
def backend(monkeypatch):
    """A backend that traces blocks and runs them uncompiled, and counts the traced ones."""
    traced = []

    def count(graph, inputs):
        traced.append(graph)
        return graph.forward

    monkeypatch.setattr(precision, "BACKEND", count)
    torch._dynamo.reset()
    yield traced
    torch._dynamo.reset()


@pytest.fixture
def ran(monkeypatch):
    """The blocks that ran "compiled", one after the other: a fake instead of torch's compiler."""
    blocks = []

    def fake(self, **options):
        def call(*given, **named):
            blocks.append(self)
            return self._call_impl(*given, **named)

        self._compiled_call_impl = call  # as torch's does it; a copy of the module is without it

    monkeypatch.setattr(nn.Module, "compile", fake)
    return blocks


@pytest.fixture
def no_compiler(monkeypatch):
    """A machine that cannot compile."""

    def broken(*given, **named):
        raise RuntimeError("no compiler found\nand many more lines")

    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **options: setattr(self, "_compiled_call_impl", broken)
    )


def denoiser_of(name="ddpm", **options):
    """No layer at zero."""
    torch.manual_seed(0)
    network = NETWORKS[name](image_channels=1, **{**SMALL[name], **options})
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return Denoiser(network, NoiseSchedule.named("linear", 100)).train()


def is_compiled(module):
    return module._compiled_call_impl is not None


def gradients(network, x, t):
    out = network(x, t)
    out.square().mean().backward()
    return [out.detach()] + [p.grad for p in network.parameters() if p.grad is not None]


def computation_at(run, step):
    state = json.loads((run / "checkpoints" / f"{step:06d}" / "state.json").read_text())
    return Computation(**state["computation"])


@pytest.fixture
def in_this_process():
    """Compile here, and not in processes of the compiler."""
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    with inductor.patch(compile_threads=1):
        yield


# ---- compiled -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs g++")
@pytest.mark.usefixtures("in_this_process")
def test_a_compiled_block_has_the_loss_and_gradients_of_the_eager_one():
    eager = denoiser_of("context").network.stem
    compiled = copy.deepcopy(eager)
    compiled.regions = (type(compiled),)
    compile_regions(compiled)
    x = torch.randn(2, 1, 8, 8)
    losses = [block(x).square().mean() for block in (eager, compiled)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs g++")
@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("shape", [(3, 5, 7), (8, 8, 8)])
def test_compiled_dropout_drops_what_eager_dropout_does_and_keys_compile_nothing(shape):
    from torch._dynamo.testing import CompileCounterWithBackend

    network, x = nn.Sequential(Dropout(0.3)).train(), torch.rand(4, *shape)
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(network, backend=counter, dynamic=False)
    for step in range(3):
        keys = BatchDraws.of(0, step, 4).keys("dropout")
        with dropout_keys(network, keys):
            assert torch.equal(compiled(x), network(x))
    assert counter.frame_count == 1


@pytest.mark.slow
def test_six_compiled_steps_are_three_and_three_more_and_previews_compile_nothing(
    tiny, tmp_path, backend, monkeypatch
):
    more, draw = [], runs.draw_pictures

    def counting(*given, **options):
        before = len(backend)
        draw(*given, **options)
        more.append(len(backend) - before)

    monkeypatch.setattr(runs, "draw_pictures", counting)
    tiny["training"]["preview_every"] = 3
    eager = fromnoise.train(tiny, out=tmp_path / "eager").folder
    tiny["training"]["compile"] = True
    straight = fromnoise.train(tiny, out=tmp_path / "straight").folder
    assert backend
    tiny["training"]["steps"] = 3
    resumed = fromnoise.train(tiny, out=tmp_path / "resumed").folder
    fromnoise.resume(resumed, overrides={"training.steps": 6})
    for name in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
        plain, ours, theirs = (
            f / "checkpoints" / "000006" / name for f in (eager, resumed, straight)
        )
        assert ours.read_bytes() == theirs.read_bytes()
        assert ours.read_bytes() == plain.read_bytes()  # names and numbers: the backend is eager
    assert computation_at(resumed, 6) == COMPILED
    assert more == [0] * len(more)


@pytest.mark.slow
def test_more_shapes_than_torch_would_take_by_itself_are_all_compiled(backend):
    """Four levels of other widths; most of their blocks are other programs."""
    limit = torch._dynamo.config.recompile_limit
    wide = {"multipliers": (1, 2, 3, 4), "attention_levels": ()}
    network = denoiser_of(**wide).network
    compile_regions(network)
    with all_versions(COMPILED):
        gradients(network, torch.randn(2, 1, 8, 8), torch.tensor([3, 50]))
        kinds = {
            (type(m), *(tuple(p.shape) for p in m.parameters()))
            for m in network.modules()
            if is_compiled(m)
        }
        assert len(kinds) > limit
        assert len(backend) >= len(kinds)
        seen = len(backend)
        gradients(network, torch.randn(2, 1, 8, 8), torch.tensor([3, 50]))
        again = copy.deepcopy(network)
        compile_regions(again)
        gradients(again, torch.randn(2, 1, 8, 8), torch.tensor([3, 50]))
        assert len(backend) == seen  # a copy's code serves the network, and the reverse
    assert torch._dynamo.config.recompile_limit == limit


# ---- which blocks -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_the_blocks_of_every_network_are_compiled_and_its_weights_keep_their_names(name, ran):
    network = denoiser_of(name).network
    names = list(network.state_dict())
    compile_regions(network)
    network(torch.randn(2, 1, 8, 8), torch.tensor([3, 50]))
    assert len(set(map(id, ran))) >= 2
    assert all(isinstance(block, network.regions) for block in ran)
    assert list(network.state_dict()) == names


def test_neither_a_check_nor_the_doctor_compiles_the_denoiser(ran, tiny):
    denoiser, x0 = denoiser_of(), torch.zeros(2, 1, 8, 8)
    before = copy.deepcopy(denoiser.state_dict())
    check_compiles(COMPILED, denoiser, Objective(), x0)
    assert ran
    assert not any(map(is_compiled, denoiser.modules()))
    assert all(torch.equal(before[name], t) for name, t in denoiser.state_dict().items())
    assert all(parameter.grad is None for parameter in denoiser.parameters())

    compile_regions(denoiser.network)
    ran.clear()
    recipe = parse_recipe(tiny, "tiny")
    spec = ModelSpec(
        network=recipe.network,
        diffusion=recipe.diffusion,
        sampling=recipe.sampling,
        channels=1,
        size=(8, 8),
    )
    measure(denoiser, recipe, spec, COMPILED, 5.0)
    assert ran == []


def test_training_runs_compiled_blocks_and_previews_do_not(tiny, tmp_path, ran, monkeypatch):
    more, draw = [], runs.draw_pictures

    def counting(*given, **options):
        before = len(ran)
        draw(*given, **options)
        more.append(len(ran) - before)

    monkeypatch.setattr(runs, "draw_pictures", counting)
    tiny["training"] |= {"compile": True, "steps": 2, "preview_every": 1}
    fromnoise.train(tiny, out=tmp_path / "run")
    assert more == [0, 0]
    assert ran


def test_resume_takes_another_choice_of_compiling(tiny, tmp_path, ran):
    tiny["training"] |= {"compile": True, "steps": 3}
    folder = fromnoise.train(tiny, out=tmp_path / "run").folder
    fromnoise.resume(folder, overrides={"training.steps": 6, "training.compile": False})
    assert computation_at(folder, 3) == COMPILED
    assert computation_at(folder, 6) == FP32  # the rest is as stored


def test_older_checkpoints_are_not_compiled():
    assert Computation(precision="bf16", channels_last=True) == ("bf16", True, False)


# ---- where it is impossible ---------------------------------------------------------------------


def test_without_a_compiler_true_says_so_in_one_line(no_compiler, tiny, tmp_path):
    tiny["training"]["compile"] = True
    with pytest.raises(ConfigError) as error:
        fromnoise.train(tiny, out=tmp_path / "run")
    assert str(error.value) == (
        "training.compile: torch cannot compile the network on cpu (no compiler found). "
        "Install a C++ compiler, such as g++, or set training.compile = false."
    )
    assert not (tmp_path / "run").exists()


def test_without_memory_to_try_it_true_says_so_too(monkeypatch):
    def full(*given, **named):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **options: setattr(self, "_compiled_call_impl", full)
    )
    with pytest.raises(
        ConfigError, match=r"out of memory while compiling.* training\.compile = false"
    ):
        check_compiles(COMPILED, denoiser_of(), Objective(), torch.zeros(2, 1, 8, 8))


def test_where_the_rule_compiles_and_the_machine_cannot_a_run_is_eager(
    no_compiler, tiny, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("fromnoise.training.precision.choose_computation", lambda *_: COMPILED)
    run = fromnoise.train(tiny, out=tmp_path / "run").folder
    assert any(m.startswith("not compiled: ") and "no compiler found" in m for m in caplog.messages)
    assert computation_at(run, 6) == FP32


@pytest.mark.slow
def test_what_was_compiled_goes_on_where_there_is_no_compiler(
    ran, tiny, tmp_path, caplog, monkeypatch, request
):
    """By `auto`: a run that was compiled on one machine may be resumed on another."""
    tiny["training"] |= {"compile": True, "steps": 3}
    folder = fromnoise.train(tiny, out=tmp_path / "run").folder
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("compile: true", "compile: auto"))
    request.getfixturevalue("no_compiler")
    fromnoise.resume(folder, overrides={"training.steps": 6})
    assert any(m.startswith("not compiled: ") and "no compiler found" in m for m in caplog.messages)
    assert computation_at(folder, 6) == FP32


def test_a_first_guess_is_of_any_number_of_images_and_is_not_compiled(tiny, tmp_path):
    tiny["network"]["self_conditioning"] = True
    tiny["training"]["compile"] = True
    with pytest.raises(ConfigError, match=r"self_conditioning .* Set training\.compile = false"):
        fromnoise.train(tiny, out=tmp_path / "run")
