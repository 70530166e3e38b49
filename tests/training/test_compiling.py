"""`training.compile`: the same numbers from compiled blocks, and taken where it pays."""

import copy
import json
import shutil
from types import SimpleNamespace

import pytest
import torch

import fromnoise
from fromnoise import runs
from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import Training
from fromnoise.diffusion import Denoiser, NoiseSchedule, Objective
from fromnoise.doctor.network_cost import measure_network
from fromnoise.networks import NETWORKS
from fromnoise.training import compiling, run
from fromnoise.training.compiling import (
    CompileTiming,
    compile_regions,
    should_compile,
    time_compiling,
    time_eager_step,
)
from fromnoise.training.precision import Computation
from fromnoise.training.state import TrainingState
from fromnoise.training.step import Batch, train_step

# torch asks for it itself while it compiles
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

FP32 = Computation("fp32", False)
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


@pytest.fixture(autouse=True)
def backend(monkeypatch):
    """A backend that traces blocks and runs them uncompiled, and counts the traced ones."""
    traced = []

    def count(graph, inputs):
        traced.append(graph)
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", count)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=8, accumulated_recompile_limit=256):
        yield traced
    torch._dynamo.reset()


def denoiser_of(name="ddpm", **options):
    """No layer at zero."""
    torch.manual_seed(0)
    network = NETWORKS[name](image_channels=1, **{**SMALL[name], **options})
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return Denoiser(network, NoiseSchedule.named("linear", 100)).train()


def batch(size=4):
    torch.manual_seed(1)
    x0 = torch.randint(256, (size, 1, 8, 8), dtype=torch.uint8)
    return Batch(x0, torch.randn(x0.shape), torch.randint(1, 101, (size,)))


def is_compiled(module):
    return module._compiled_call_impl is not None


# ---- the numbers --------------------------------------------------------------------------------


def gradients(network, x, t):
    out = network(x, t)
    out.square().mean().backward()
    return [out.detach()] + [p.grad for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_computes_the_same(name, backend):
    eager = denoiser_of(name).network
    compiled = copy.deepcopy(eager)
    compile_regions(compiled)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 50])
    for ours, theirs in zip(gradients(compiled, x, t), gradients(eager, x, t), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6 * theirs.abs().max().item())
    assert len(backend) >= 2
    assert list(compiled.state_dict()) == list(eager.state_dict())


def test_training_goes_the_same_way_and_the_average_follows(monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    settings = Training(steps=5, batch_size=4, learning_rate=1e-3)
    states = [
        TrainingState.start(denoiser_of(), settings, FP32._replace(compiled=compiled))
        for compiled in (True, False)
    ]
    begun = states[0].ema.module.state_dict()["stem.weight"].clone()
    for _ in range(5):
        (losses, norm), (expected, expected_norm) = (
            train_step(state, Objective(), batch(), settings) for state in states
        )
        torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)
        assert norm == pytest.approx(expected_norm, rel=1e-6)
    ours, theirs = (state.ema.module.state_dict() for state in states)
    assert not torch.equal(ours["stem.weight"], begun)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-4)
    blocks = [m for m in states[0].denoiser.network.modules() if is_compiled(m)]
    assert len(blocks) == 2 + 4 + 2 + 4  # residual: down, up, middle; and attention
    assert not any(map(is_compiled, states[0].ema.module.modules()))


def test_more_shapes_than_torch_would_take_by_itself_are_all_compiled(backend):
    """Four levels of other widths; most of their blocks are other programs."""
    wide = {"multipliers": (1, 2, 3, 4), "attention_levels": ()}
    network = denoiser_of(**wide).network
    compile_regions(network)
    gradients(network, torch.randn(2, 1, 8, 8), torch.tensor([3, 50]))
    kinds = {
        (type(m), *(tuple(p.shape) for p in m.parameters()))
        for m in network.modules()
        if is_compiled(m)
    }
    assert len(kinds) > 8
    assert len(backend) >= len(kinds)
    seen = len(backend)
    gradients(network, torch.randn(2, 1, 8, 8), torch.tensor([3, 50]))
    again = copy.deepcopy(network)
    compile_regions(again)
    gradients(again, torch.randn(2, 1, 8, 8), torch.tensor([3, 50]))
    assert len(backend) == seen  # a copy's code serves the network, and the reverse


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs g++")
def test_one_block_really_compiled(monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "inductor")
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor, "compile_threads", 1)
    eager = denoiser_of("context").network.stem
    compiled = copy.deepcopy(eager)
    compiled.regions = (type(compiled),)
    compile_regions(compiled)
    x = torch.randn(2, 1, 8, 8)
    for block in (eager, compiled):
        block(x).square().mean().backward()
    torch.testing.assert_close(compiled(x), eager(x), rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-6)


def test_six_steps_are_three_and_three_more(tiny, tmp_path):
    tiny["training"]["compile"] = True
    straight = fromnoise.train(tiny, out=tmp_path / "straight").folder
    tiny["training"]["steps"] = 3
    resumed = fromnoise.train(tiny, out=tmp_path / "resumed").folder
    fromnoise.resume(resumed, overrides={"training.steps": 6})
    for name in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
        ours, theirs = (f / "checkpoints" / "000006" / name for f in (resumed, straight))
        assert ours.read_bytes() == theirs.read_bytes()
    state = json.loads((resumed / "checkpoints" / "000006" / "state.json").read_text())
    assert state["computation"] == {**FP32._asdict(), "compiled": True}


def test_the_previews_of_a_compiled_run_compile_nothing(tiny, tmp_path, backend, monkeypatch):
    more, draw = [], runs.draw_pictures

    def counting(*given, **options):
        before = len(backend)
        draw(*given, **options)
        more.append(len(backend) - before)

    monkeypatch.setattr(runs, "draw_pictures", counting)
    tiny["training"] |= {"compile": True, "steps": 2, "preview_every": 1}
    fromnoise.train(tiny, out=tmp_path / "run")
    assert more == [0, 0]
    assert backend


def test_resumed_it_may_be_chosen_anew(tiny, tmp_path):
    tiny["training"] |= {"compile": True, "steps": 3}
    folder = fromnoise.train(tiny, out=tmp_path / "run").folder
    fromnoise.resume(folder, overrides={"training.steps": 6, "training.compile": False})
    before, after = (
        json.loads((folder / "checkpoints" / step / "state.json").read_text())["computation"]
        for step in ("000003", "000006")
    )
    assert before == {**after, "compiled": True}  # and nothing else is chosen anew
    assert after["compiled"] is False


def test_older_checkpoints_are_not_compiled():
    assert Computation(precision="bf16", channels_last=True) == ("bf16", True, False)


# ---- the choice ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "even", "said"),
    [
        (CompileTiming(60.0, 0.5, 0.25), 240, "break-even after 240 steps"),
        (CompileTiming(100.0, 1.0, 0.625), 267, "break-even after 267 steps"),  # 266.67
        (CompileTiming(1000.0, 1.0, 0.5), 2000, "break-even after 2,000 steps"),
        (CompileTiming(60.0, 0.5, 0.5), None, "break-even never"),
        (CompileTiming(60.0, 0.5, 0.75), None, "break-even never"),
    ],
)
def test_when_it_is_even(found, even, said):
    assert found.break_even == even
    assert str(found).endswith(said)


def test_what_is_measured(monkeypatch, caplog):
    """Parts of a step count each; what the first pass took more than later ones is compiling."""
    seconds = iter([9.0, 30.0, 2.0, 1.75, 3.0, 1.5, 2.25, 1.625])
    monkeypatch.setattr(compiling, "time_pass", lambda *_: next(seconds))
    caplog.set_level("INFO", "fromnoise")
    found = time_compiling(FP32, denoiser_of(), Objective(), torch.zeros(2, 1, 8, 8), parts=2)
    assert found == (28.5, 4.0, 3.0)
    assert caplog.messages == [
        "compiling took 28.5 s. Forward and backward of a step take 4 s without and 3 s with it: "
        "break-even after 29 steps"
    ]


def test_eager_steps_are_measured_after_one_to_warm_up(monkeypatch):
    seconds = iter([0.5, 3.0, 2.0, 4.0])
    monkeypatch.setattr(compiling, "time_pass", lambda *_: next(seconds))
    assert time_eager_step(FP32, denoiser_of(), Objective(), torch.zeros(1), parts=3) == 6.0


GAIN = CompileTiming(100.0, 1.0, 0.75)  # even after 400 steps
LOSS = CompileTiming(100.0, 1.0, 1.25)


@pytest.mark.parametrize(
    ("wanted", "device", "eager", "steps", "found", "tried", "chosen"),
    [
        (False, "cpu", 1.0, 10**6, GAIN, False, False),
        (False, "cuda", 1.0, 10**6, GAIN, False, False),
        (True, "cpu", 1.0, 1, GAIN, True, True),
        (True, "cuda", 1.0, 1, LOSS, True, True),
        ("auto", "cpu", 1.0, 10**6, GAIN, False, False),
        ("auto", "mps", 1.0, 10**6, GAIN, False, False),
        ("auto", "cuda", 1.0, 1200, GAIN, False, False),  # not longer than 20 times 60 s
        ("auto", "cuda", 1.0, 1201, GAIN, True, True),
        ("auto", "cuda", 1.0, 10**6, LOSS, True, False),
        ("auto", "cuda", 10.0, 400, GAIN, True, False),  # just even: nothing is won
        ("auto", "cuda", 10.0, 401, GAIN, True, True),
    ],
)
def test_what_is_chosen(monkeypatch, wanted, device, eager, steps, found, tried, chosen):
    calls = []
    monkeypatch.setattr(compiling, "time_eager_step", lambda *_, parts: eager)
    monkeypatch.setattr(compiling, "time_compiling", lambda *_, parts: calls.append(parts) or found)
    settings = Training(steps=1, batch_size=8, accumulation=2, compile=wanted)
    x0, denoiser = (
        SimpleNamespace(device=torch.device(device)),
        SimpleNamespace(self_conditioning=False),
    )
    assert should_compile(settings, FP32, denoiser, Objective(), x0, steps=steps) == chosen
    assert calls == ([2] if tried else [])


def test_what_was_chosen_before_is_compiled_again_and_not_chosen_again(monkeypatch):
    monkeypatch.setattr(compiling, "time_compiling", lambda *_, parts: LOSS)
    settings = Training(steps=1, batch_size=8)
    given = FP32, denoiser_of(), Objective(), torch.zeros(2, 1, 8, 8)
    assert should_compile(settings, *given, steps=1, compiled_before=True)
    assert not should_compile(settings, *given, steps=1)


def test_what_is_left_of_a_run_is_what_counts(monkeypatch, tiny, tmp_path):
    left = []
    monkeypatch.setattr(run, "should_compile", lambda *_, steps, **__: left.append(steps) or False)
    folder = fromnoise.train(tiny, out=tmp_path / "run").folder
    fromnoise.resume(folder, overrides={"training.steps": 10, "training.precision": "fp32"})
    assert left == [6, 4]


def test_neither_trying_nor_the_doctor_changes_or_compiles_the_denoiser(backend):
    denoiser = denoiser_of("context")
    before = copy.deepcopy(denoiser.state_dict())
    time_compiling(FP32, denoiser, Objective(), torch.zeros(2, 1, 8, 8), parts=1)
    assert not any(map(is_compiled, denoiser.modules()))
    assert all(torch.equal(before[name], t) for name, t in denoiser.state_dict().items())
    assert all(parameter.grad is None for parameter in denoiser.parameters())

    compile_regions(denoiser.network)
    torch._dynamo.reset()
    backend.clear()
    settings = Training(steps=1, batch_size=2)
    compiled = FP32._replace(compiled=True)
    given = denoiser, settings, Objective(), (1, 8, 8)
    measure_network(*given, num_labels=0, seconds=5.0, computation=compiled)
    assert backend == []


# ---- where it is impossible ---------------------------------------------------------------------


def broken(graph, inputs):
    raise RuntimeError("no compiler found\nand many more lines")


def test_without_a_compiler_true_says_so_in_one_line(monkeypatch, tiny, tmp_path):
    monkeypatch.setattr(compiling, "BACKEND", broken)
    tiny["training"]["compile"] = True
    with pytest.raises(ConfigError) as error:
        fromnoise.train(tiny, out=tmp_path / "run")
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith("training.compile: torch cannot compile the network on cpu (")
    assert "no compiler found" in line
    assert line.endswith("Install a C++ compiler, such as g++, or set training.compile = false")
    assert not (tmp_path / "run").exists()


def test_what_was_compiled_goes_on_where_there_is_no_compiler(monkeypatch, tiny, tmp_path, caplog):
    """By `auto`: a run that was compiled on one machine may be resumed on another."""
    tiny["training"] |= {"compile": True, "steps": 3}
    folder = fromnoise.train(tiny, out=tmp_path / "run").folder
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("compile: true", "compile: auto"))
    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "BACKEND", broken)
    fromnoise.resume(folder, overrides={"training.steps": 6})
    assert any(m.startswith("not compiled: ") and "no compiler found" in m for m in caplog.messages)
    state = json.loads((folder / "checkpoints" / "000006" / "state.json").read_text())
    assert state["computation"]["compiled"] is False


def test_without_a_compiler_auto_goes_on(monkeypatch, caplog):
    def fail(*_, parts):
        raise ConfigError("torch cannot")

    monkeypatch.setattr(compiling, "time_eager_step", lambda *_, parts: 1.0)
    monkeypatch.setattr(compiling, "time_compiling", fail)
    x0 = SimpleNamespace(device=torch.device("cuda"))
    settings = Training(steps=1, batch_size=1)
    denoiser = SimpleNamespace(self_conditioning=False)
    assert not should_compile(settings, FP32, denoiser, Objective(), x0, steps=10**6)
    assert caplog.messages == ["not compiled: torch cannot"]


def test_a_first_guess_is_of_any_number_of_images_and_is_not_compiled(tiny, tmp_path):
    tiny["network"]["self_conditioning"] = True
    tiny["training"]["compile"] = True
    with pytest.raises(ConfigError, match=r"self_conditioning .* Set training\.compile = false"):
        fromnoise.train(tiny, out=tmp_path / "run")
