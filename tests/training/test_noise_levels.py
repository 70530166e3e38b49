"""How t is drawn: what each way promises of its marginal, its spread, and its expectation."""

import math
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
import torch
import yaml

import fromnoise
from fromnoise import runs
from fromnoise.checkpoints import read_tensors
from fromnoise.config.recipe import parse_recipe
from fromnoise.data import open_images
from fromnoise.diffusion import Denoiser, NoiseSchedule, Objective, bound_term
from fromnoise.diffusion.noise_levels import normal
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
    """t and the factor of its loss; the bound has no factor of its own."""
    drawn = draw_noise_levels(how, T, BatchDraws.of(seed, step, count), history)
    assert drawn.bound_factor is None
    return drawn.t, drawn.factor


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


# ---- normal -------------------------------------------------------------------------------------

TABLES = [("linear", 1000), ("edm", 1000), ("flow", 1000), ("cosine", 3), ("jsd", 2), ("edm", 1)]


def drawn_by(p, count, step=0, seed=0):
    return draw_noise_levels("normal", len(p), BatchDraws.of(seed, step, count), None, p)


@pytest.mark.parametrize(("mean", "std"), [(2.4, 2.4), (0.0, 2.0), (-9.0, 0.5)])
@pytest.mark.parametrize(("name", "T"), TABLES)
def test_a_time_has_the_normals_mass_in_its_cell_of_log_snr(name, T, mean, std):
    schedule, normal_ = NoiseSchedule.named(name, T), NormalDist(mean, std)
    levels = [math.log(a / (1 - a)) for a in schedule.alpha_bar[1:].tolist() if a > 0]
    gaps = [a - b for a, b in pairwise(levels)] or [2.0]
    edges = [levels[0] + gaps[0] / 2]
    edges += [level - gap / 2 for level, gap in zip(levels, [*gaps, gaps[-1]], strict=False)]
    masses = [normal_.cdf(a) - normal_.cdf(b) for a, b in pairwise(edges)]
    if len(levels) < T:  # pure noise at T has the log-SNR −∞
        masses.append(normal_.cdf(edges[-1]))
    if sum(masses) < 1e-3:
        with pytest.raises(ValueError, match="too far from the log-SNRs"):
            normal(schedule, mean=mean, std=std)
        return
    expected = [mass / sum(masses) for mass in masses]
    got = normal(schedule, mean=mean, std=std)
    assert got.sum().item() == pytest.approx(1, abs=1e-12)
    assert got.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_ln_sigma_is_that_of_edm():
    # ln σ ~ N(P_mean, P_std²), P_mean = −1.2 and P_std = 1.2: Karras et al. 2022, Table 1
    schedule = NoiseSchedule.named("edm", 1000)
    ln_sigma = -schedule.log_snr(torch.arange(1, 1001)).double() / 2
    below, theirs = normal(schedule).cumsum(0), NormalDist(-1.2, 1.2)
    for t in range(0, 1000, 50):
        middle = (ln_sigma[t] + ln_sigma[t + 1]).item() / 2
        assert below[t].item() == pytest.approx(theirs.cdf(middle), abs=3e-5)  # the tails are cut


def test_tau_is_logit_normal():
    # logit τ ~ N(0, 1), τ = t/T: Esser et al. 2024, section 3.1
    schedule = NoiseSchedule.named("flow", 1000)
    below = normal(schedule, mean=0.0, std=2.0).cumsum(0)
    for t in range(20, 981, 20):
        tau = (t + 0.5) / 1000
        expected = NormalDist().cdf(math.log(tau / (1 - tau)))
        assert below[t - 1].item() == pytest.approx(expected, abs=1e-5)


def test_a_mean_beyond_the_table_has_its_mass_at_the_end():
    p = normal(NoiseSchedule.named("linear", 1000), mean=12.0, std=1.0)
    assert p.argmax() == 0
    assert p.sum().item() == pytest.approx(1)
    assert (p.diff()[1:50] <= 0).all()


@given(
    masses=st.lists(st.sampled_from([0.0, 1e-9, 0.1, 1.0, 7.0]), min_size=1, max_size=40),
    count=st.integers(1, 300),
    seed=st.integers(0, 2**32),
)
def test_a_batch_covers_the_probabilities_as_evenly_as_it_can(masses, count, seed):
    hypothesis.assume(sum(masses) > 0)
    p = torch.tensor(masses, dtype=torch.float64) / sum(masses)
    t, factor, bound_factor = drawn_by(p, count, seed=seed)
    assert factor is None
    assert (p[t - 1] > 0).all()
    expected = 1 / (len(p) * p[t - 1])
    torch.testing.assert_close(bound_factor.double(), expected, rtol=1e-6, atol=0)
    seen = torch.bincount(t - 1, minlength=len(p)).cumsum(0)
    assert (seen - count * p.cumsum(0)).abs().max() < 1 + 1e-6


def test_each_place_of_a_batch_has_the_probabilities():
    p = torch.tensor([0.5, 0.1, 0.0, 0.4], dtype=torch.float64)
    batches = torch.stack([drawn_by(p, 3, step).t for step in range(6000)])
    for place in range(3):
        seen = torch.bincount(batches[:, place] - 1, minlength=4) / 6000
        assert ((seen - p).abs() <= 4.5 * (p * (1 - p) / 6000).sqrt()).all()


def test_batches_agree_better_than_independent_draws():
    p = normal(NoiseSchedule.named("linear", 1000))
    loss = torch.linspace(-3, 0, 1000).exp()
    means = torch.stack([loss[drawn_by(p, 32, step).t - 1].mean() for step in range(200)])
    expected = (p * loss).sum()
    alone = ((p * loss.square()).sum() - expected**2).sqrt() / 32**0.5
    assert means.mean().item() == pytest.approx(expected.item(), rel=0.01)
    assert means.std() < 0.3 * alone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"std": 0.0}, r"noise_levels\.std of normal must be above 0, not 0"),
        ({"std": -1.0}, r"noise_levels\.std of normal must be above 0, not -1"),
        ({"mean": 99.0, "std": 0.5}, r"mean of normal is 99, too far .* -10\.1 to 9\.6, for std"),
    ],
)
def test_a_normal_that_gives_no_time_a_probability_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        normal(NoiseSchedule.named("linear", 1000), **options)


def test_the_bound_of_the_hybrid_is_that_of_even_times_whatever_t_weights():
    # Σ p_t · factor_t · T L_{t−1} must be the sum over all t, and L_simple counts p_t
    schedule = NoiseSchedule.named("linear", 20, beta_T=0.5)
    p = normal(schedule, mean=0.0, std=3.0)
    t = torch.arange(1, 21)
    x0 = torch.tensor([0.2, -1.0, 1.0]).double().mul(127.5).round().div(127.5).reshape(1, 3, 1, 1)
    x0, eps = x0.expand(20, -1, -1, -1), torch.randn(20, 3, 1, 1, dtype=torch.float64)

    class Wave(torch.nn.Module):
        def forward(self, x_t, index, cond):
            return torch.cat([torch.sin(x_t), torch.cos(3 * x_t)], dim=1)

    denoiser = Denoiser(Wave(), schedule)
    factors = torch.full((20,), torch.nan, dtype=torch.float64)
    for step in range(400):
        drawn = drawn_by(p, 100, step)
        factors[drawn.t - 1] = drawn.bound_factor.double()
    assert factors.isfinite().all()
    weighted = Objective(vlb_weight=0.1)(denoiser, x0, eps, t, bound_factor=factors)
    simple = Objective()(denoiser, x0, eps, t)
    bound = bound_term(denoiser, x0, eps, t, variance="learned")
    expected = (p * simple).sum() + 0.1 * bound.sum()
    assert (p * weighted).sum().item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_gradient_of_a_hybrid_step_has_the_factors(start, tiny):
    overrides = {
        "network.dropout": 0,
        "network.learned_variance": True,
        "diffusion.vlb_weight": 0.01,
        "training.noise_levels": "normal",
    }
    state, _ = start(overrides)
    recipe = parse_recipe(tiny, "tiny", overrides)
    batch = sample_batch(recipe, open_images("digits"), 0)
    assert batch.factor is None
    assert batch.bound_factor.shape == (8,)

    def gradient(batch, parts):
        state.denoiser.zero_grad()
        losses = backward(state, recipe.diffusion.objective(), batch, parts)
        return losses, torch.cat([p.grad.flatten() for p in state.denoiser.parameters()])

    losses, whole = gradient(batch, 1)
    in_parts, sum_ = gradient(batch, 4)
    torch.testing.assert_close(in_parts, losses)
    assert (sum_ - whole).norm() < 1e-4 * whole.norm()
    plain, without = gradient(batch._replace(bound_factor=None), 1)
    assert not torch.allclose(plain, losses)
    assert (without - whole).norm() > 1e-3 * whole.norm()


# ---- in a run -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_by_a_normal_resumes_and_reads_its_recipe(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "draw_pictures", lambda *_, **__: None)
    tiny["training"] |= {"noise_levels": {"name": "normal", "mean": 1}}
    tiny["diffusion"] |= {"prediction": "edm", "schedule": "edm"}
    whole = fromnoise.train(tiny, out=tmp_path / "whole").folder
    written = yaml.safe_load((whole / "recipe.yaml").read_text())
    assert written["training"]["noise_levels"] == {"name": "normal", "mean": 1, "std": 2.4}
    assert written["diffusion"]["prediction"] == {"name": "edm", "sigma_data": 0.5}
    half = fromnoise.train(tiny, out=tmp_path / "half", overrides={"training.steps": 3}).folder
    fromnoise.resume(half, overrides={"training.steps": 6})
    ends = [read_tensors(f / "checkpoints" / "000006" / "model.safetensors") for f in (whole, half)]
    for name, weights in ends[0].tensors.items():
        assert torch.equal(weights, ends[1].tensors[name]), name
    model = fromnoise.load(whole, device="cpu")
    assert model.denoiser.prediction == "edm"
    assert model.denoiser.sigma_data == 0.5
    assert model.sample(range(2), steps=4).shape == (2, 1, 8, 8)


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


@pytest.mark.parametrize("name", ["stratified", "normal"])
def test_times_of_a_step_depend_on_the_seed_and_the_step(drawn, name):
    how = {"training.noise_levels": name}
    assert torch.equal(drawn(how).t, drawn(how).t)
    assert not torch.equal(drawn(how).t, drawn(how, 6).t)
    if name == "stratified":
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
