"""FID, KID, IS, precision and recall: against closed forms, brute force and simulated repeats."""

import math

import numpy as np
import pytest

from fromnoise.evaluation import metrics as set_metrics
from fromnoise.evaluation.metrics import (
    BLOCKS,
    frechet_distance,
    frechet_scores,
    inception_score,
    kernel_distance,
    moments_of,
    precision_and_recall,
)


def standard(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


def in_blocks(x: np.ndarray) -> list:
    return [moments_of(part) for part in np.array_split(x, BLOCKS)]


def whitened(n: int, d: int, seed: int) -> np.ndarray:
    """Features whose mean and covariance are 0 and 1 up to rounding."""
    x = standard(n, d, seed)
    x -= x.mean(axis=0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T


def test_fid_of_features_with_known_moments_is_the_closed_form():
    rng = np.random.default_rng(1)
    mean, root = rng.standard_normal(6), rng.standard_normal((6, 6))
    x = whitened(500, 6, 0) @ root.T + mean
    fid = frechet_scores(in_blocks(x), np.zeros(6), np.eye(6)).fid
    # to N(0, 1) the matrix root is that of the one covariance: its trace sums the singular values
    singular = np.linalg.svd(root, compute_uv=False)
    expected = mean @ mean + np.square(singular - 1).sum()
    assert fid.value == pytest.approx(expected, rel=1e-6)


def repeats(d: int, n: int, mean: float, scale: float) -> tuple[list, float]:
    """400 times FID and FID∞ of n images, and the distance of endlessly many."""
    rng, cov = np.random.default_rng(0), np.diag(np.linspace(0.5, 2, d))
    root = np.sqrt(cov) * scale
    truth = frechet_distance(np.full(d, mean), root @ root, np.zeros(d), cov)
    drawn = (rng.standard_normal((n, d)) @ root + mean for _ in range(400))
    return [frechet_scores(in_blocks(x), np.zeros(d), cov)[:2] for x in drawn], truth


@pytest.mark.slow
@pytest.mark.parametrize(
    ("d", "n", "mean", "scale"), [(4, 400, 0.3, 1.2), (8, 500, 0.2, 1.1), (24, 120, 0.3, 1.2)]
)
def test_the_intervals_hold_the_truth_in_95_of_100_repeats(d, n, mean, scale):
    found, truth = repeats(d, n, mean, scale)
    fid, at_infinity = zip(*found, strict=True)
    expected = np.mean([f.value for f in fid])
    assert 0.92 <= np.mean([f.low <= expected <= f.high for f in fid]) <= 0.98
    assert 0.92 <= np.mean([f.low <= truth <= f.high for f in at_infinity]) <= 0.98
    # what N images overstate is gone, but for the error of 400 repeats
    error = np.std([f.value for f in at_infinity]) / math.sqrt(400)
    left = abs(np.mean([f.value for f in at_infinity]) - truth)
    assert left < max(3 * error, 0.1 * (expected - truth))
    assert expected - truth > 6 * error


@pytest.mark.slow
@pytest.mark.parametrize(("d", "n"), [(4, 400), (24, 120)])
def test_the_interval_of_a_ratio_holds_it_in_95_of_100_repeats_and_is_narrow(d, n):
    """Of two sets that have most of their noise in common, as those of the same seeds."""
    rng, found, apart = np.random.default_rng(0), [], []
    for _ in range(400):
        a = rng.standard_normal((n, d)) * 1.2 + 0.3
        b = a * 1.05 + 0.2 * rng.standard_normal((n, d))
        scores = [frechet_scores(in_blocks(x), np.zeros(d), np.eye(d)) for x in (a, b)]
        both = [(of.fid.value, of.left_out) for of in scores]
        found.append(set_metrics.ratio(*both))
        apart.append(set_metrics.ratio(both[0], (both[1][0], both[1][1][::-1])))
    logs = np.log([r.value for r in found])
    assert 0.92 <= np.mean([r.low <= math.exp(logs.mean()) <= r.high for r in found]) <= 0.98
    widths = [np.mean([math.log(r.high / r.low) for r in some]) for some in (found, apart)]
    assert widths[0] < 0.7 * widths[1]
    assert math.isnan(set_metrics.ratio(both[0], (0.0, both[1][1])).value)


def brute_force_mmd(x: np.ndarray, y: np.ndarray) -> float:
    def k(a, b):
        return (a @ b / len(a) + 1) ** 3

    n, m = len(x), len(y)
    among_x = sum(k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j)
    among_y = sum(k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j)
    between = sum(k(a, b) for a in x for b in y)
    return among_x / (n * (n - 1)) + among_y / (m * (m - 1)) - 2 * between / (n * m)


def test_kid_is_the_unbiased_mmd():
    x, y = standard(40, 3, 0).astype(np.float32), standard(40, 3, 1).astype(np.float32) + 0.5
    assert kernel_distance(x, y).value == pytest.approx(brute_force_mmd(x, y), rel=1e-5)


def test_kids_interval_is_the_jackknife_of_whole_sets():
    x, y = standard(60, 3, 2).astype(np.float32), standard(45, 3, 3).astype(np.float32) + 0.5
    x_blocks = np.array_split(np.arange(60), BLOCKS)
    y_blocks = np.array_split(set_metrics.fixed_order(45), BLOCKS)
    left_out = np.array(
        [
            brute_force_mmd(np.delete(x, a, axis=0), np.delete(y, b, axis=0))
            for a, b in zip(x_blocks, y_blocks, strict=True)
        ]
    )
    error = math.sqrt((BLOCKS - 1) / BLOCKS * np.square(left_out - left_out.mean()).sum())
    score = kernel_distance(x, y)
    assert (score.high - score.low) / 2 == pytest.approx(2.093 * error, rel=1e-3)


@pytest.mark.slow
def test_kids_interval_covers(monkeypatch):
    monkeypatch.setattr(set_metrics, "SUBSETS", 1)  # of all images: they are fewer than 1,000
    found = [
        kernel_distance(
            standard(100, 3, seed).astype(np.float32) + 0.4,
            standard(100, 3, 1000 + seed).astype(np.float32),
        )
        for seed in range(200)
    ]
    expected = np.mean([score.value for score in found])
    assert 0.9 <= np.mean([score.low <= expected <= score.high for score in found]) <= 0.99


def test_the_inception_score_of_certain_and_of_undecided_classifiers():
    certain = np.eye(4, dtype=np.float32)[np.arange(1000) % 4] * 100
    score = inception_score(certain)
    assert score.value == pytest.approx(
        4, rel=0.01
    )  # each split is nearly of all four in equal parts
    assert inception_score(np.zeros((100, 7), dtype=np.float32)).value == pytest.approx(1)
    of_one = np.zeros((100, 5), dtype=np.float32)
    of_one[:, 2] = 50
    assert inception_score(of_one)[:] == pytest.approx((1, 1, 1))


def test_precision_and_recall_by_brute_force():
    x, y = standard(50, 2, 0).astype(np.float32) * 1.5, standard(40, 2, 1).astype(np.float32)

    def share_within(points, members):
        apart = np.linalg.norm(members[:, None] - members, axis=2)
        radius = np.sort(apart, axis=1)[:, 3]  # itself is the first
        return (np.linalg.norm(points[:, None] - members, axis=2) <= radius).any(axis=1).mean()

    precision, recall = precision_and_recall(x, y)
    assert precision.value == pytest.approx(share_within(x, y))
    assert recall.value == pytest.approx(share_within(y, x))
    assert 0 < precision.value < 1
    assert recall.value > 0


def gaussians(d, n, m, shift, scale, rng):
    """Generated and real features: of N(μ, scale²), μ of length `shift`, and of N(0, 1)."""
    generated = rng.standard_normal((n, d)) * scale
    generated[:, 0] += shift
    return generated.astype(np.float32), rng.standard_normal((m, d)).astype(np.float32)


def coverages(*setting, repeats):
    """Return how often the intervals hold the mean score of new real and new generated images."""
    rng = np.random.default_rng(0)
    found = np.array([precision_and_recall(*gaussians(*setting, rng)) for _ in range(repeats)])
    value, low, high = found.transpose(2, 1, 0)  # each (2, repeats)
    expected = value.mean(axis=1, keepdims=True)
    return ((low <= expected) & (expected <= high)).mean(axis=1), expected[:, 0]


def test_the_intervals_of_precision_and_recall_cover_new_sets():
    held, expected = coverages(6, 120, 120, 3.0, 1.0, repeats=80)
    assert ((expected > 0.3) & (expected < 0.7)).all()
    assert (held >= 0.88).all()  # Wilson's intervals of N images cover 0.35


@pytest.mark.slow
@pytest.mark.parametrize(
    ("d", "n", "m", "shift", "scale"),
    [
        (2, 200, 200, 1.0, 1.0),
        (2, 200, 600, 0.0, 0.5),
        (6, 200, 600, 3.0, 1.0),
        (8, 300, 300, 0.0, 1.0),
        (16, 1000, 300, 0.0, 0.8),
        (32, 300, 300, 2.0, 1.0),
        (64, 400, 400, 3.0, 1.0),
    ],
)
def test_the_intervals_of_precision_and_recall_cover_92_to_98_of_100(d, n, m, shift, scale):
    held, expected = coverages(d, n, m, shift, scale, repeats=200)
    chance = 2 * (0.95 * 0.05 / 200) ** 0.5  # two standard errors of a share of 200
    assert (held >= 0.92 - chance).all(), (held, expected)
    assert abs(held.mean() - 0.95) <= 0.03 + chance / 2, (held, expected)


def test_no_generated_image_among_the_real_ones_is_a_share_of_0():
    generated, real = gaussians(3, 60, 50, 100.0, 1.0, np.random.default_rng(0))
    for score in precision_and_recall(generated, real):
        assert score.value == score.low == 0
        assert 0 < score.high < 0.2
