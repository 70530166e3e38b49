"""How t is drawn: what each way promises of its marginal, its spread, and its expectation."""

import numpy as np
import pytest
import torch

import fromnoise
from fromnoise import runs
from fromnoise.checkpoints import read_tensors
from fromnoise.config.recipe import parse_recipe
from fromnoise.data import open_images
from fromnoise.diffusion import Objective
from fromnoise.rng import BatchDraws
from fromnoise.training import loop
from fromnoise.training.log import EpochLoss, LogWindow
from fromnoise.training.noise_levels import KEPT, UNIFORM_SHARE, LossHistory, draw_noise_levels
from fromnoise.training.state import HISTORY_FILE
from fromnoise.training.step import Batch, backward, sample_batch

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies


def full(sizes) -> LossHistory:
    """A history in which t had ten losses of sizes[t − 1]."""
    history = LossHistory.empty(len(sizes))
    for _ in range(KEPT):
        history.add(torch.arange(1, len(sizes) + 1), torch.tensor(sizes))
    return history


def draw(how, T, count, step=0, history=None, seed=0):
    return draw_noise_levels(how, T, BatchDraws.of(seed, step, count), history)


# ---- uniform and stratified ---------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 3, 1000])
def test_uniform_times_are_equally_frequent(T):
    t, factor = draw("uniform", T, 100_000)
    assert factor is None
    seen = torch.bincount(t, minlength=T + 1)
    assert seen[0] == 0
    assert ((seen[1:] - 1e5 / T).abs() <= 5 * (1e5 / T) ** 0.5 * (T > 1)).all()


@given(T=st.integers(1, 300), count=st.integers(1, 700), seed=st.integers(0, 2**32))
def test_one_time_comes_from_each_of_the_equal_parts(T, count, seed):
    t, factor = draw("stratified", T, count, seed=seed)
    assert factor is None
    ordered = t.sort().values.double()  # t owns (t − 1, t] of the line from 0 to T
    start = torch.arange(count).double() * T / count
    assert (ordered >= start).all()
    assert (ordered - 1 <= start + T / count).all()
    assert t.min() >= 1
    assert t.max() <= T


@pytest.mark.parametrize(("T", "count"), [(7, 3), (3, 7), (5, 5)])
def test_each_time_is_as_frequent_at_each_place_of_a_stratified_batch(T, count):
    batches = torch.stack([draw("stratified", T, count, step)[0] for step in range(6000)])
    for place in range(count):
        seen = torch.bincount(batches[:, place], minlength=T + 1)[1:]
        assert ((seen - 6000 / T).abs() < 4.5 * (6000 / T) ** 0.5).all()


def test_stratified_batches_agree_better_than_uniform_ones():
    loss = torch.linspace(-3, 0, 1000).exp()
    spread = {}
    for how in ("uniform", "stratified"):
        means = [loss[draw(how, 1000, 32, step)[0] - 1].mean() for step in range(300)]
        spread[how] = torch.stack(means).std()
    assert spread["stratified"] < 0.05 * spread["uniform"]


# ---- importance ---------------------------------------------------------------------------------


def test_times_are_uniform_until_each_has_ten_losses():
    history = LossHistory.empty(3)
    for step in range(30):
        assert history.probabilities() is None
        drawn = draw("importance", 3, 9, step, history)
        assert torch.equal(drawn[0], draw("uniform", 3, 9, step)[0])
        assert drawn[1] is None
        history.add(torch.tensor([1 + step % 3]), torch.ones(1))
    assert history.probabilities() is not None


def test_a_time_is_drawn_in_proportion_to_the_root_of_its_mean_square():
    history = full([1.0, 3.0, 0.5])
    history.add(torch.full((5,), 3), torch.full((5,), 2.0))  # half of its ten
    size = np.array([1, 3, (0.5 * 0.25 + 0.5 * 4) ** 0.5])
    expected = (1 - UNIFORM_SHARE) * size / size.sum() + UNIFORM_SHARE / 3
    assert history.probabilities().numpy() == pytest.approx(expected, rel=1e-6)


def test_only_the_last_ten_losses_count_also_within_one_batch():
    history = full([7.0, 7.0])
    history.add(torch.tensor([2] * 13 + [1] * 10), torch.tensor([9.0] * 3 + [1.0] * 20))
    assert history.probabilities().tolist() == pytest.approx([0.5, 0.5])
    assert history.seen.tolist() == [20, 23]


def test_losses_of_zero_leave_every_time_possible():
    assert full([0.0, 0.0]).probabilities().tolist() == pytest.approx([0.5, 0.5])
    assert full([0.0, 5.0]).probabilities()[0] > 0


@given(st.lists(st.floats(2**-10, 100, width=32), min_size=1, max_size=20), st.integers(0, 2**32))
def test_the_factor_makes_up_for_the_probability(sizes, seed):
    history, T = full(sizes), len(sizes)
    p = history.probabilities()
    t, factor = draw("importance", T, 50, 0, history, seed)
    torch.testing.assert_close(factor.double() * p[t - 1], torch.full((50,), 1 / T).double())
    # and so, whatever the losses are: Σ p_t · factor_t · L_t is their plain mean
    loss = torch.arange(T).double() - 3
    assert (p * loss / (T * p)).sum().item() == pytest.approx(loss.mean().item(), abs=1e-12)


def test_times_are_drawn_with_their_probabilities():
    history = full([1.0, 2.0, 5.0])
    t, _ = draw("importance", 3, 30_000, 0, history)
    p, seen = history.probabilities(), torch.bincount(t, minlength=4)[1:] / 30_000
    assert ((seen - p).abs() < 4 * (p * (1 - p) / 30_000).sqrt()).all()


def test_the_gradient_of_importance_is_on_average_the_uniform_one(start):
    state, _ = start({"network.dropout": 0, "diffusion.T": 6})
    history = full([0.1, 3.0, 1.0, 0.4, 2.0, 9.0])
    p = history.probabilities()
    torch.manual_seed(1)
    x0, eps = torch.randint(0, 256, (1, 1, 8, 8), dtype=torch.uint8), torch.randn(1, 1, 8, 8)
    factors = {}
    for step in range(99):
        drawn = draw("importance", 6, 50, step, history)
        factors |= dict(zip(*(each.tolist() for each in drawn), strict=True))

    def gradient(t, factor):
        state.denoiser.zero_grad()
        given_ = None if factor is None else torch.tensor([factor])
        loss = backward(
            state, Objective(), Batch(x0, eps, torch.tensor([t]), None, given_), 1
        ).item()
        return loss, torch.cat([p.grad.flatten() for p in state.denoiser.parameters()]).double()

    plain = [gradient(t, None) for t in range(1, 7)]
    drawn = [gradient(t, factors[t]) for t in range(1, 7)]
    uniform = sum(g for _, g in plain) / 6
    expected = sum(p[t - 1] * drawn[t - 1][1] for t in range(1, 7))
    assert (expected - uniform).norm() < 1e-5 * uniform.norm()
    assert (sum(g for _, g in drawn) / 6 - uniform).norm() > 0.1 * uniform.norm()
    assert [loss for loss, _ in plain] == [loss for loss, _ in drawn]  # what is logged, unweighted


def test_logged_means_estimate_those_of_even_times():
    loss = torch.tensor([0.1, 3.0, 1.0, 0.4, 2.0, 9.0, 0.2, 0.3])
    history = full(loss.tolist())
    window, epoch = LogWindow(), EpochLoss()
    for step in range(40):
        t, factor = draw("importance", 8, 500, step, history)
        window.add(loss[t - 1], t, 8, 1.0, 1.0, None, factor)
        epoch.add(loss[t - 1], factor)
    means = window.means()
    assert means["loss"] == pytest.approx(loss.mean().item(), rel=0.03)
    assert epoch.mean() == pytest.approx(means["loss"], rel=1e-5)
    for quarter in range(4):
        expected = loss[2 * quarter : 2 * quarter + 2].mean().item()
        assert means[f"loss_q{quarter + 1}"] == pytest.approx(expected, rel=0.05)


# ---- in a run -----------------------------------------------------------------------------------


def test_a_run_by_importance_gathers_its_history_and_leaves_out_what_was_not_finite(
    tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr(runs, "draw_pictures", lambda *_, **__: None)
    real = loop.sample_batch

    def draw_(recipe, data, step, *others, **where):
        batch = real(recipe, data, step, *others, **where)
        if step == 3:
            batch.eps[1] = torch.nan
        return batch

    monkeypatch.setattr(loop, "sample_batch", draw_)
    tiny["diffusion"]["T"] = 4
    tiny["training"] |= {"noise_levels": "importance", "steps": 20, "checkpoint_every": 20}
    run = fromnoise.train(tiny, out=tmp_path / "run").folder
    kept = read_tensors(run / "checkpoints" / "000020" / HISTORY_FILE).tensors
    assert kept["losses"].isfinite().all()
    assert kept["seen"].sum() == 19 * 8
    assert (kept["seen"] >= KEPT).all()


# ---- the rest of a draw -------------------------------------------------------------------------


@pytest.fixture
def drawn(tiny):
    """drawn({"diffusion.T": 9}, step): a batch of 500 of the digits."""
    data = open_images("digits")

    def call(overrides=(), step=5):
        changes = {"training.batch_size": 500, **dict(overrides)}
        return sample_batch(parse_recipe(tiny, "tiny", changes), data, step)

    return call


def test_stratified_times_of_a_step_depend_on_the_seed_and_the_step(drawn):
    how = {"training.noise_levels": "stratified"}
    assert torch.equal(drawn(how).t, drawn(how).t)
    assert not torch.equal(drawn(how).t, drawn(how, 6).t)
    assert (torch.bincount(drawn(how).t)[1:] == 5).all()  # T = 100


def test_offset_noise_moves_a_channel_as_a_whole(drawn):
    plain, moved = drawn(), drawn({"diffusion.offset_noise": 0.3})
    shift = moved.eps - plain.eps
    assert shift.std(dim=(2, 3)).max() < 1e-6
    of_each = shift.mean(dim=(2, 3))  # (B,C)
    assert of_each.unique().numel() == of_each.numel()
    assert of_each.std().item() == pytest.approx(0.3, rel=0.15)
    assert torch.equal(moved.eps, drawn({"diffusion.offset_noise": 0.3}).eps)
    other = drawn({"diffusion.offset_noise": 0.3}, 6).eps - drawn(step=6).eps
    assert not torch.allclose(other.mean(dim=(2, 3)), of_each, atol=0.01)
    assert torch.equal(drawn({"diffusion.offset_noise": 0.0}).eps, plain.eps)


def test_half_of_the_images_get_a_hint_where_the_network_takes_one(drawn):
    assert drawn().self_conditioned is None
    batch = drawn({"network.self_conditioning": True})
    assert 200 < batch.self_conditioned.sum() < 300
    assert torch.equal(
        batch.self_conditioned, drawn({"network.self_conditioning": True}).self_conditioned
    )
    assert torch.equal(batch.eps, drawn().eps)
    assert torch.equal(batch.t, drawn().t)
