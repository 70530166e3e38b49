import pytest
import torch

from fromnoise.checkpoints import save_checkpoint
from fromnoise.diffusion import Objective
from fromnoise.training import precision
from fromnoise.training.precision import autocast, choose_precision

CPU = torch.device("cpu")


@pytest.fixture
def choose(start):
    """choose("auto") for the tiny network, and the network."""
    state, _ = start({})
    x0 = torch.zeros(2, 1, 8, 8)
    return lambda wanted: choose_precision(wanted, state.denoiser, Objective(), x0), state.denoiser


def test_half_precision_needs_a_gpu(choose):
    with pytest.raises(ValueError, match=r"training\.precision = 'fp16' needs a GPU"):
        choose[0]("fp16")


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_what_is_asked_for_is_taken_without_a_probe(choose, wanted, monkeypatch):
    monkeypatch.setattr(precision, "_probe", None)
    assert choose[0](wanted) == (wanted, "as asked")


@pytest.mark.parametrize(
    ("fp32", "bf16", "chosen"),
    [(1.0, 0.5, "bf16"), (1.0, 0.9, "bf16"), (1.0, 0.95, "fp32"), (1.0, 3.0, "fp32")],
)
def test_auto_takes_bf16_only_where_it_is_clearly_faster(choose, monkeypatch, fp32, bf16, chosen):
    seconds = {"fp32": fp32, "bf16": bf16}
    monkeypatch.setattr(precision, "_probe", lambda *arguments: seconds[arguments[-1]])
    assert choose[0]("auto")[0] == chosen


def test_the_probe_leaves_weights_and_gradients_as_they_were(choose):
    call, denoiser = choose
    before = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    assert call("auto")[0] in ("fp32", "bf16")
    assert all(torch.equal(before[name], t) for name, t in denoiser.state_dict().items())
    assert all(parameter.grad is None for parameter in denoiser.parameters())


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
