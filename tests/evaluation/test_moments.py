import numpy as np
import pytest

from fromnoise.evaluation import metrics as moments
from fromnoise.evaluation.metrics import merge_moments, moments_of, subtract_moments


def features(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Of a large mean, where sums of squares would lose the covariance in float32."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + 1000).astype(np.float32)


@pytest.mark.parametrize("at_a_time", [1, 7, 40, 1000])
def test_the_moments_are_numpys_however_many_come_at_a_time(at_a_time, monkeypatch):
    monkeypatch.setattr(moments, "CHUNK", at_a_time)
    x = features(40, 5)
    found = moments_of(x)
    assert found.n == 40
    np.testing.assert_allclose(found.mean, x.astype(np.float64).mean(axis=0), rtol=1e-12)
    expected = np.cov(x.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-9, atol=1e-9)
    assert found.mean.dtype == found.scatter.dtype == np.float64


def test_a_covariance_of_one_feature_is_a_matrix():
    assert moments_of(np.zeros((3, 1))).covariance.shape == (1, 1)


def test_parts_make_the_whole_and_what_is_taken_out_is_gone():
    x = features(60, 4)
    parts = [moments_of(part) for part in np.split(x, [7, 30])]
    whole = merge_moments(*parts)
    np.testing.assert_allclose(whole.covariance, moments_of(x).covariance, rtol=1e-9)
    rest, expected = (
        subtract_moments(whole, parts[1]),
        moments_of(np.delete(x, np.s_[7:30], axis=0)),
    )
    assert rest.n == expected.n == 37
    np.testing.assert_allclose(rest.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(rest.covariance, expected.covariance, rtol=1e-7, atol=1e-9)


def test_what_is_no_set_of_features_is_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 4\)\. Give \(N, D\) with N ≥ 2"):
        moments_of(np.zeros((1, 4)))
    broken = features(9, 3)
    broken[[2, 5], 1] = np.nan, np.inf
    with pytest.raises(ValueError, match="2 of 9 features are NaN or infinite"):
        moments_of(broken)
