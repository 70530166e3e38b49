import numpy as np
import pytest

from fromnoise.evaluation.metrics import frechet_distance

sqrtm = pytest.importorskip("scipy.linalg").sqrtm


def random_gaussian(seed: int, d: int, rank: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((d, rank or d))
    return rng.standard_normal(d), root @ root.T


@pytest.mark.parametrize("d", [1, 2, 17])
def test_equals_scipys_matrix_root(d):
    (mean_a, cov_a), (mean_b, cov_b) = random_gaussian(0, d), random_gaussian(1, d)
    root = sqrtm(cov_a @ cov_b)
    expected = np.square(mean_a - mean_b).sum() + np.trace(cov_a + cov_b - 2 * root.real)
    assert frechet_distance(mean_a, cov_a, mean_b, cov_b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rank", [3, 12])  # 3 of 12: a singular covariance
def test_is_zero_for_one_gaussian_and_the_gap_for_shifted_ones(rank):
    mean, cov = random_gaussian(0, 12, rank)
    assert frechet_distance(mean, cov, mean, cov) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(mean, cov, mean + 2, cov) == pytest.approx(12 * 4, rel=1e-6)


def test_of_isotropic_gaussians_has_a_closed_form():
    d, s1, s2 = 5, 0.5, 2.0
    zero, eye = np.zeros(d), np.eye(d)
    distance = frechet_distance(zero, s1**2 * eye, zero, s2**2 * eye)
    assert distance == pytest.approx(d * (s1 - s2) ** 2)


def test_of_orthogonal_degenerate_gaussians_is_the_sum_of_their_variances():
    zero = np.zeros(2)
    assert frechet_distance(zero, np.diag([4, 0]), zero, np.diag([0, 9])) == pytest.approx(13)


def test_is_symmetric():
    a, b = random_gaussian(0, 8), random_gaussian(1, 8, rank=4)
    assert frechet_distance(*a, *b) == pytest.approx(frechet_distance(*b, *a), rel=1e-7)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(3,\), \(3, 3\), \(2,\), \(2, 2\)"):
        frechet_distance(np.zeros(3), np.eye(3), np.zeros(2), np.eye(2))
