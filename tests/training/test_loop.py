import json
import math
import threading
from types import SimpleNamespace

import pytest
import torch

import fromnoise
from fromnoise import checkpoints, runs
from fromnoise.checkpoints import DiskFull, list_checkpoints, newest_checkpoint, read_tensors
from fromnoise.config.recipe import parse_recipe
from fromnoise.config.schema import Training
from fromnoise.data import open_images
from fromnoise.data.loader import feed
from fromnoise.diffusion import Objective
from fromnoise.training import loop
from fromnoise.training import step as step_module
from fromnoise.training.log import read_log
from fromnoise.training.loop import Callback, Diverged
from fromnoise.training.state import learning_rate
from fromnoise.training.step import Batch, backward, sample_batch


@pytest.fixture
def train(tiny, tmp_path, monkeypatch):
    """train(steps=3): the run folder, without pictures, which take longer than all the rest."""
    monkeypatch.setattr(runs, "draw_pictures", lambda *_, **__: None)

    def call(**settings):
        tiny["training"] |= settings
        return fromnoise.train(tiny, out=tmp_path / "run").folder

    return call


@pytest.fixture
def poison(monkeypatch):
    """poison(where, steps): the loss or one gradient is not a number at these steps."""

    def install(where, steps):
        real_draw, real_backward, now = loop.sample_batch, step_module.backward, {}

        def draw_(recipe, data, step, *others, **options):
            batch = real_draw(recipe, data, step, *others, **options)
            now["step"] = step
            if where == "loss" and step in steps:
                batch.eps[1] = math.nan
            return batch

        def backward_(state, *arguments):
            losses = real_backward(state, *arguments)
            if where == "gradient" and now["step"] in steps:
                next(state.denoiser.parameters()).grad[0] = math.inf
            return losses

        monkeypatch.setattr(loop, "sample_batch", draw_)
        monkeypatch.setattr(step_module, "backward", backward_)

    return install


def weights(run, step, name="model.safetensors"):
    return read_tensors(run / "checkpoints" / f"{step:06d}" / name).tensors


# ---- the learning rate --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("constant", {4: 1, 8: 1, 11: 1}),
        ("linear", {4: 1, 6: 0.75, 8: 0.5, 11: 0.125}),
        ("cosine", {4: 1, 6: (1 + 0.5**0.5) / 2, 8: 0.5, 10: (1 - 0.5**0.5) / 2}),
    ],
)
def test_the_learning_rate_at_exact_steps(shape, expected):
    settings = Training(steps=12, batch_size=1, learning_rate=1, lr_schedule=shape, warmup_steps=4)
    warm_up = {0: 0.25, 1: 0.5, 2: 0.75, 3: 1.0}
    for step, rate in {**warm_up, **expected}.items():
        assert learning_rate(settings, step) == pytest.approx(rate)


@pytest.mark.parametrize("warmup", [0, 5, 9])
@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
def test_the_learning_rate_is_positive_at_every_step(shape, warmup):
    settings = Training(steps=5, batch_size=1, lr_schedule=shape, warmup_steps=warmup)
    assert all(0 < learning_rate(settings, step) <= 2e-4 for step in range(5))


# ---- one step -----------------------------------------------------------------------------------


def test_a_batch_in_parts_has_the_gradient_of_the_whole(start):
    state, _ = start({"network.dropout": 0})
    torch.manual_seed(1)
    x0 = torch.randint(0, 256, (7, 1, 8, 8), dtype=torch.uint8)
    eps, t = torch.randn(7, 1, 8, 8), torch.randint(1, 101, (7,))

    def gradient(parts):
        state.denoiser.zero_grad()
        losses = backward(state, Objective(), Batch(x0, eps, t), parts)
        return losses, torch.cat([p.grad.flatten() for p in state.denoiser.parameters()])

    losses, whole = gradient(1)
    assert losses.shape == (7,)
    assert whole.norm() > 0.1
    for parts in (2, 3, 5, 7):
        losses_in_parts, in_parts = gradient(parts)
        torch.testing.assert_close(losses_in_parts, losses, rtol=0, atol=1e-6)
        assert (in_parts - whole).norm() <= 1e-6 * whole.norm()


def test_what_is_drawn_depends_on_the_seed_and_the_step_alone(tiny):
    recipe, data = parse_recipe(tiny, "tiny"), open_images("digits")
    first = sample_batch(recipe, data, 5)
    sample_batch(recipe, data, 6)
    torch.manual_seed(9)
    again = sample_batch(recipe, data, 5)
    assert again[3:6] == (None, None, None)
    assert torch.equal(first.dropout, again.dropout)
    for a, b, c in zip(first[:3], again[:3], sample_batch(recipe, data, 6)[:3], strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


@pytest.mark.slow
@pytest.mark.parametrize("times", ["uniform", "importance"])
def test_images_drawn_ahead_change_no_number(tiny, tmp_path, monkeypatch, times):
    """As for a GPU, whose images come from a thread; T = 4: p_t is known from about step 8 on."""
    monkeypatch.setattr(runs, "draw_pictures", lambda *_, **__: None)
    tiny["diffusion"] |= {"T": 4, "offset_noise": 0.1}
    tiny["training"] |= {"noise_levels": times, "steps": 10, "checkpoint_every": 10, "log_every": 1}
    plain = fromnoise.train(tiny, out=tmp_path / "plain").folder
    monkeypatch.setattr(loop, "feed", lambda draw_, device: feed(draw_, torch.device("mps")))
    begun = fromnoise.train(tiny, out=tmp_path / "ahead").folder
    for file in (plain / "checkpoints" / "000010").glob("*.safetensors"):
        others = read_tensors(begun / "checkpoints" / "000010" / file.name).tensors
        for name, tensor in read_tensors(file).tensors.items():
            assert torch.equal(tensor, others[name]), (file.name, name)
    losses = [[row["loss"] for row in read_log(run)] for run in (plain, begun)]
    assert losses[0] == losses[1]


def test_a_run_that_diverges_or_is_interrupted_leaves_no_thread(train, poison, monkeypatch):
    monkeypatch.setattr(loop, "feed", lambda draw_, device: feed(draw_, torch.device("mps")))
    before = threading.active_count()
    poison("loss", range(99))
    with pytest.raises(Diverged, match=r"Train again with a lower training.learning_rate"):
        train(steps=20)
    assert threading.active_count() == before


@pytest.mark.slow
def test_a_network_with_hints_and_offsets_learns_and_samples(train, tiny):
    tiny["network"] |= {"self_conditioning": True, "dropout": 0.0}
    tiny["diffusion"] |= {"prediction": "v", "weighting": "min_snr", "offset_noise": 0.05}
    run = train(steps=60, log_every=10, noise_levels="stratified", learning_rate=3e-3)
    losses = [row["loss"] for row in read_log(run)]
    assert losses[-1] < 0.75 * losses[0]  # 0.64, falling in every row
    images = fromnoise.load(run, device="cpu").sample([0, 1], steps=5)
    assert not torch.equal(images[0], images[1])


@pytest.mark.parametrize("hinted", [False, True])
def test_cuda_tries_its_kernels_where_the_shapes_of_all_steps_are_one(
    train, tiny, monkeypatch, hinted
):
    seen, compute = [], loop.train_step

    def step(*given):
        seen.append((torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32))
        return compute(*given)

    monkeypatch.setattr(loop, "train_step", step)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", hinted)
    tiny["network"] |= {"self_conditioning": hinted}
    train(steps=1)
    assert seen == [(not hinted, False)]
    assert torch.backends.cudnn.benchmark is hinted  # a program's own settings are restored
    assert torch.backends.cudnn.allow_tf32


def test_every_noise_level_is_drawn_and_none_outside(tiny):
    recipe = parse_recipe(tiny, "tiny", {"diffusion.T": 3, "training.batch_size": 300})
    t = sample_batch(recipe, open_images("digits"), 0).t
    counts = torch.bincount(t, minlength=4)
    assert counts[0] == 0
    assert counts.shape == (4,)
    assert (counts[1:] > 60).all()


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(train, poison, where, caplog):
    poison(where, {2})
    run = train(steps=3, checkpoint_every=1, keep_checkpoints=3, log_every=3)
    for name in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
        before, after = weights(run, 2, name), weights(run, 3, name)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
    state = json.loads((run / "checkpoints" / "000003" / "state.json").read_text())
    assert (state["step"], state["updates"], state["skipped_in_a_row"]) == (3, 2, 1)
    event, row = read_log(run)
    assert event["step"] == 3
    assert where in event["skipped"]
    assert row["loss"] > 0
    assert "step 3: the " in caplog.text


def test_a_skipped_step_leaves_nothing_in_the_buffers_of_batch_norm(
    tiny, tmp_path, poison, monkeypatch
):
    monkeypatch.setattr(runs, "draw_pictures", lambda *_, **__: None)
    tiny["network"] = {"name": "context", "features": 8, "norm": "batch"}
    tiny["data"] = {"source": "digits", "size": [32, 32]}
    tiny["training"] |= {"steps": 3, "checkpoint_every": 1, "keep_checkpoints": 3}
    poison("loss", {2})
    run = fromnoise.train(tiny, out=tmp_path / "run").folder
    before, after = (weights(run, step, "model.safetensors") for step in (2, 3))
    assert [name for name in before if "running" in name]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_steps_skipped_now_and_then_do_not_stop_a_run(train, poison):
    poison("loss", set(range(30)) - {9, 18, 27})
    assert newest_checkpoint(train(steps=30) / "checkpoints")[0].name == "000030"


def test_ten_in_a_row_stop_it_and_name_step_and_timestep(train, poison, tiny, tmp_path):
    poison("loss", range(3, 99))
    with pytest.raises(Diverged) as stopped:
        train(steps=99, checkpoint_every=2, keep_checkpoints=9)
    t = loop.sample_batch(parse_recipe(tiny, "tiny"), open_images("digits"), 12).t
    assert "stopped at step 13: 10 steps in a row were not finite" in str(stopped.value)
    assert f"it was the loss at timestep t = {t[1]}." in str(stopped.value)
    run = tmp_path / "run"
    steps = [int(path.name) for path in list_checkpoints(run / "checkpoints")]
    assert f"The last checkpoint is {run / 'checkpoints' / '000002'}. Resume" in str(stopped.value)
    assert steps == [2]  # while steps are skipped, nothing is saved, and so nothing is pruned


# ---- the log ------------------------------------------------------------------------------------


def test_rows_come_every_so_often_and_at_the_end(train):
    rows = read_log(train(steps=5, warmup_steps=5, log_every=2))
    assert [row["step"] for row in rows] == [2, 4, 5]
    assert [row["images"] for row in rows] == [16, 32, 40]
    assert [row["epoch"] for row in rows] == [pytest.approx(n * 8 / 1797) for n in (2, 4, 5)]
    assert [row["learning_rate"] for row in rows] == [pytest.approx(n * 2e-4) for n in (2, 4, 5)]
    assert all(row["loss"] > 0 and row["gradient_norm"] > 0 for row in rows)


def test_a_log_cut_off_by_a_crash_is_read_up_to_there(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_log(tmp_path) == [{"step": 1}, {"step": 2}]


# ---- checkpoints --------------------------------------------------------------------------------


def test_the_last_step_is_saved_and_the_last_two_kept(train):
    run = train(steps=7, checkpoint_every=2)
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["000006", "000007"]


def test_a_checkpoint_that_was_just_written_is_not_written_again(train, monkeypatch):
    """A score is due in the step of a checkpoint, and in another one."""
    written, save = [], loop.save_checkpoint

    def saving(folder, step, *others):
        written.append(step)
        return save(folder, step, *others)

    def callbacks(setup):
        return [Callback("score", 2, lambda state, log, stop: None, lambda step: True, slow=True)]

    monkeypatch.setattr(loop, "save_checkpoint", saving)
    monkeypatch.setattr(runs, "callbacks", callbacks)
    train(steps=7, checkpoint_every=4, keep_checkpoints=9)
    assert written == [2, 4, 6, 7]


OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
    ),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["preview", "score"])
def test_out_of_memory_in_a_preview_or_score_does_not_end_the_training(
    train, monkeypatch, caplog, tmp_path, name
):
    """One error after each of the first steps; the weights are those of a training without them."""
    modes = []

    def callbacks(setup):
        def fail(state, log, stop):
            modes.append(state.denoiser.network.training)
            state.denoiser.network.eval()
            if state.step <= len(OUT_OF_MEMORY):
                raise OUT_OF_MEMORY[state.step - 1]

        return [Callback(name, 1, fail, lambda step: True, slow=name == "score")]

    monkeypatch.setattr(runs, "callbacks", callbacks)
    run = train(steps=6, checkpoint_every=6)
    lines = [m for m in caplog.messages if "memory" in m]
    assert len(lines) == len(OUT_OF_MEMORY)
    for i, line in enumerate(lines):
        assert line.startswith(f"step {i + 1}: out of memory, no {name} (")
    assert modes == [True] * 6
    run.rename(tmp_path / "with")
    monkeypatch.setattr(runs, "callbacks", lambda setup: [])
    plain = weights(train(), 6)
    assert all(torch.equal(plain[k], w) for k, w in weights(tmp_path / "with", 6).items())


def test_another_error_in_a_preview_ends_the_training(train, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(runs, "draw_pictures", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        train(steps=1)


def test_a_full_disk_leaves_even_the_only_checkpoint(train, monkeypatch, tmp_path):
    real = checkpoints.shutil.disk_usage

    def fills_up(folder):
        return SimpleNamespace(free=0) if (folder / "000002").exists() else real(folder)

    monkeypatch.setattr(checkpoints.shutil, "disk_usage", fills_up)
    with pytest.raises(DiskFull, match="Free some space, then try again or resume"):
        train(steps=4, checkpoint_every=2, keep_checkpoints=1)
    assert newest_checkpoint(tmp_path / "run" / "checkpoints")[0].name == "000002"


def test_a_signal_between_two_lines_still_saves_the_step_it_stops_at(train, monkeypatch):
    """Wherever it arrives, the run stops with a checkpoint of its last step."""

    class Signal:
        reads = 0

        @property
        def received(self):
            self.reads += 1
            return "SIGTERM" if self.reads > 1 else None

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(loop, "StopSignal", Signal)
    run = train(steps=5, checkpoint_every=5)
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["000001"]
