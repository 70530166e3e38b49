import pytest
import torch

from fromnoise.checkpoints import save_checkpoint
from fromnoise.config.schema import Training
from fromnoise.diffusion import Objective
from fromnoise.training import precision
from fromnoise.training.precision import autocast, choose_computation, set_memory_layout

CPU = torch.device("cpu")


@pytest.fixture
def denoiser(start):
    return start({})[0].denoiser


@pytest.fixture
def choose(denoiser):
    """choose(precision=…, channels_last=…) for the tiny network."""

    def call(batch_size=2, **options):
        settings = Training(steps=1, batch_size=1, **options)
        return choose_computation(settings, denoiser, Objective(), torch.zeros(batch_size, 1, 8, 8))

    return call


def test_half_precision_needs_a_gpu(choose):
    with pytest.raises(ValueError, match=r"training\.precision = 'fp16' needs a GPU"):
        choose(precision="fp16")


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_what_is_asked_for_is_taken_without_a_probe(choose, wanted, channels_last, monkeypatch):
    monkeypatch.setattr(precision, "probe", None)
    chosen = choose(precision=wanted, channels_last=channels_last)
    assert chosen == (wanted, channels_last, False)


@pytest.mark.parametrize(
    ("fp32", "bf16", "chosen"),
    [(1.0, 0.5, "bf16"), (1.0, 0.9, "bf16"), (1.0, 0.95, "fp32"), (1.0, 3.0, "fp32")],
)
def test_auto_takes_bf16_only_where_it_is_clearly_faster(choose, monkeypatch, fp32, bf16, chosen):
    seconds = {"fp32": fp32, "bf16": bf16}
    monkeypatch.setattr(
        precision, "probe", lambda candidates, *_: {c: seconds[c.precision] for c in candidates}
    )
    assert choose(channels_last=False) == (chosen, False, False)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("wanted", ["fp32", "bf16", "auto"])
def test_auto_takes_the_faster_memory_layout(choose, monkeypatch, fast, wanted):
    monkeypatch.setattr(
        precision,
        "probe",
        lambda candidates, *_: {c: 1 + (c.channels_last != fast) for c in candidates},
    )
    assert choose(precision=wanted).channels_last == fast


def test_the_probe_leaves_everything_as_it_was(choose, denoiser):
    before = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    assert choose() in [(p, layout, False) for p in ("fp32", "bf16") for layout in (False, True)]
    for name, tensor in denoiser.state_dict().items():
        assert torch.equal(before[name], tensor)
        assert before[name].stride() == tensor.stride()
    assert all(parameter.grad is None for parameter in denoiser.parameters())


def test_a_probe_on_a_cpu_takes_only_a_part_of_a_large_batch(choose, monkeypatch):
    seen = []
    monkeypatch.setattr(precision, "CPU_PIXELS", 3 * 64)
    monkeypatch.setattr(
        precision, "probe", lambda cs, *rest: seen.append(rest[2]) or dict.fromkeys(cs, 1.0)
    )
    choose(batch_size=8)
    assert [len(x0) for x0 in seen] == [3]


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


def test_what_does_not_fit_into_memory_is_not_chosen(choose, monkeypatch):
    """As on a GPU whose memory is enough for bf16 alone."""
    timed = []

    def passes(candidate, *_):
        if candidate.precision == "fp32":
            raise torch.OutOfMemoryError("no room")
        timed.append(candidate)
        return 2.0 - candidate.channels_last

    monkeypatch.setattr(precision, "time_pass", passes)
    assert choose() == ("bf16", True, False)
    assert len(timed) == 2 * (1 + precision.REPEATS)


def test_where_nothing_fits_into_memory_that_is_said(choose, monkeypatch):
    def no_room(*_):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(precision, "time_pass", no_room)
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        choose()


def test_candidates_take_turns_so_that_a_slow_moment_misleads_nobody(denoiser, monkeypatch):
    """bf16 is twice as fast, and for four passes the machine is ten times as slow."""
    now, passes = [0.0], []

    def objective(trial, x0, eps, t, cond):
        half = torch.is_autocast_enabled("cpu")
        passes.append(half)
        now[0] += (0.5 if half else 1.0) * (10 if 3 <= len(passes) <= 6 else 1)
        return trial.network(x0, t, cond).square().flatten(1).mean(1)

    monkeypatch.setattr(precision.time, "perf_counter", lambda: now[0])
    seconds = precision.probe(
        [precision.Computation(p, False) for p in ("fp32", "bf16")],
        denoiser,
        objective,
        torch.zeros(2, 1, 8, 8),
    )
    assert passes == [False, True] * (1 + precision.REPEATS)
    assert seconds == {
        precision.Computation("fp32", False): 1.0,
        precision.Computation("bf16", False): 0.5,
    }
