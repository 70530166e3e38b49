"""The number format, memory layout and compilation of a training: by rule, or by the recipe."""

import json

import pytest
import torch
from torch import nn

import fromnoise
from fromnoise import runs
from fromnoise.checkpoints import save_checkpoint
from fromnoise.config.schema import Training
from fromnoise.training import precision
from fromnoise.training.precision import (
    Computation,
    autocast,
    choose_computation,
    set_memory_layout,
)

CPU = torch.device("cpu")


class Elsewhere:
    """A denoiser as on another device."""

    def __init__(self, device, network=None, *, self_conditioning=False):
        self.weight = torch.empty(0, device="meta")
        self.device, self.self_conditioning = torch.device(device), self_conditioning
        self.network = network or nn.Sequential(nn.Conv2d(3, 3, 1), nn.GroupNorm(1, 3))

    def parameters(self):
        return iter([self])  # with `device`, which is all that the rule reads


@pytest.fixture
def denoiser(start):
    return start({})[0].denoiser


@pytest.fixture
def choose(monkeypatch):
    """choose("cuda", bf16=True, precision="auto", …): the computation there."""

    def call(device, *, bf16, steps=10, network=None, hints=False, triton=True, **options):
        monkeypatch.setattr("fromnoise.model.precision.computes_in_bf16", lambda device: bf16)
        monkeypatch.setattr(precision, "has_triton", lambda: triton)
        settings = Training(steps=1, batch_size=1, **options)
        return choose_computation(
            settings, Elsewhere(device, network, self_conditioning=hints), steps
        )

    return call


def test_half_precision_needs_a_gpu(denoiser):
    settings = Training(steps=1, batch_size=1, precision="fp16")
    with pytest.raises(ValueError, match=r"training\.precision = 'fp16' needs a GPU\. .*\.$"):
        choose_computation(settings, denoiser, 1)


WITHOUT_GROUPS = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))


@pytest.mark.parametrize(
    ("device", "bf16", "network", "expected"),
    [
        ("cuda", True, None, ("bf16", True, False)),
        ("cuda", False, None, ("fp32", False, False)),
        ("cpu", True, None, ("bf16", False, False)),
        ("cpu", True, WITHOUT_GROUPS, ("bf16", True, False)),
        ("cpu", False, None, ("fp32", False, False)),
        ("cpu", False, WITHOUT_GROUPS, ("fp32", False, False)),
        ("mps", False, None, ("fp32", False, False)),
    ],
)
def test_auto_follows_the_table(choose, device, bf16, network, expected):
    assert choose(device, bf16=bf16, network=network) == expected
    assert choose(device, bf16=bf16, network=network) == expected  # and a like machine agrees


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_recipe_overrides_it(choose, device, wanted, channels_last):
    for bf16 in (True, False):
        chosen = choose(device, bf16=bf16, precision=wanted, channels_last=channels_last)
        assert chosen == (wanted, channels_last, False)


@pytest.mark.parametrize(
    ("device", "steps", "more", "compiled"),
    [
        ("cuda", 20_000, {}, False),  # 100 s of compiling, of which each step saves 5 ms
        ("cuda", 20_001, {}, True),
        ("cuda", 20_001, {"hints": True}, False),
        ("cuda", 20_001, {"triton": False}, False),
        ("cuda", 20_001, {"compile": False}, False),
        ("cuda", 1, {"compile": True}, True),
        ("cpu", 10**9, {}, False),
        ("cpu", 1, {"compile": True}, True),
        ("mps", 10**9, {}, False),
    ],
)
def test_long_trainings_on_cuda_are_compiled(choose, device, steps, more, compiled):
    assert choose(device, bf16=True, steps=steps, **more).compiled == compiled


def test_a_run_begun_before_keeps_its_choice(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "draw_pictures", lambda *_, **__: None)
    tiny["training"] |= {"steps": 2, "channels_last": True, "precision": "bf16"}
    run = fromnoise.train(tiny, out=tmp_path / "run").folder
    recipe = run / "recipe.yaml"
    text = recipe.read_text().replace("channels_last: true", "channels_last: auto")
    recipe.write_text(text.replace("precision: bf16", "precision: auto", 1))

    def resumed(steps, **changes):
        changes = {f"training.{key}": value for key, value in changes.items()}
        fromnoise.resume(run, overrides={"training.steps": steps, **changes})
        state = json.loads((run / "checkpoints" / f"{steps:06d}" / "state.json").read_text())
        return Computation(**state["computation"])

    assert resumed(3) == ("bf16", True, False)
    assert resumed(4, channels_last=False) == ("bf16", False, False)
    assert resumed(5, precision="fp32") == ("fp32", False, False)


def test_the_layout_of_the_weights_is_what_was_chosen(denoiser):
    weight = denoiser.network.out.weight  # (1, 8, 3, 3)
    for channels_last in (True, False, True):
        set_memory_layout(denoiser, channels_last)
        assert weight.stride()[1:] == ((1, 24, 8) if channels_last else (9, 3, 1))


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_the_forward_pass_runs_in_what_was_chosen(name, dtype):
    x = torch.ones(2, 2)
    with autocast(CPU, name):
        assert (x @ x).dtype == dtype


def test_a_run_may_go_over_to_half_precision(start, tmp_path):
    """The state of the loss scale is then not there to be restored."""
    state, spec = start({})
    path = save_checkpoint(tmp_path, 0, state.files(spec), state.numbers())
    state.scaler = torch.amp.GradScaler("cpu", enabled=True)
    state.restore(path)
    assert state.scaler.get_scale() == 2**16
