import numpy as np
import pytest

from fromnoise.evaluation import copies
from fromnoise.evaluation.copies import ranked_neighbours

cdist = pytest.importorskip("scipy.spatial.distance").cdist


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(copies, "BLOCK", 7)


def normal(n: int, d: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


def test_ranked_neighbours_equal_brute_force(small_blocks):
    a, mirrored, b = normal(23, seed=1), 2 * normal(23, seed=2), normal(31, seed=3)
    plain, turned = cdist(a, b), cdist(mirrored, b)
    expected = np.minimum(plain, turned)
    order = expected.argsort(axis=1)[:, [0, 1, 8]]
    distance, index, mirrored_ = ranked_neighbours(a, mirrored, b, ranks=(1, 2, 9))
    np.testing.assert_array_equal(index, order)
    np.testing.assert_allclose(distance, np.take_along_axis(expected, order, axis=1), rtol=1e-12)
    np.testing.assert_array_equal(mirrored_, np.take_along_axis(turned < plain, order, axis=1))
    assert 0 < mirrored_.sum() < mirrored_.size


def test_ranked_neighbours_leave_out_a_row_mirrored_too(small_blocks):
    b, rows = normal(31), np.array([3, 30, 0, 14])
    expected = cdist(b[rows], b)
    expected[np.arange(len(rows)), rows] = np.inf
    _, index, mirrored_ = ranked_neighbours(b[rows], b[rows], b, ranks=(1, 30), leave_out=rows)
    np.testing.assert_array_equal(index, expected.argsort(axis=1)[:, [0, 29]])
    assert not mirrored_.any()  # both are equally near


def test_ranked_neighbours_are_exact_far_from_the_origin():
    b = normal(50) + 1e6
    distance, index, mirrored_ = ranked_neighbours(b[[7]], b[[8]] + 1, b, ranks=(1, 2))
    assert (distance[0, 0], index[0, 0], mirrored_[0, 0]) == (0, 7, False)


def test_too_few_rows_are_named():
    with pytest.raises(ValueError, match="4 rows have no neighbour of rank 5"):
        ranked_neighbours(normal(2), normal(2), normal(5), ranks=(5,), leave_out=np.array([0, 1]))
