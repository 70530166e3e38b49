import numpy as np
import pytest
import two_sample
from two_sample import nearest, one_nearest_neighbour_accuracy

cdist = pytest.importorskip("scipy.spatial.distance").cdist


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(two_sample, "BLOCK", 7)


def normal(n: int, d: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


def test_nearest_equals_scipys_distances(small_blocks):
    a, b = normal(23, seed=1), normal(31, seed=2)
    distance, index = nearest(a, b)
    expected = cdist(a, b)
    np.testing.assert_array_equal(index, expected.argmin(axis=1))
    np.testing.assert_allclose(distance, expected.min(axis=1), rtol=1e-12)


def test_nearest_leaves_out_what_it_is_told_to(small_blocks):
    b = normal(31)
    rows = np.array([3, 30, 0, 14])
    expected = cdist(b[rows], b)
    expected[np.arange(len(rows)), rows] = np.inf
    distance, index = nearest(b[rows], b, leave_out=rows)
    np.testing.assert_array_equal(index, expected.argmin(axis=1))
    np.testing.assert_allclose(distance, expected.min(axis=1), rtol=1e-12)


def test_of_equally_near_rows_the_first_counts(small_blocks):
    b = np.tile([[1, 0], [0, 1], [9, 9]], (10, 1))
    distance, index = nearest(np.zeros((1, 2)), b)
    assert (distance[0], index[0]) == (1, 0)


def test_a_copy_is_at_distance_0_however_far_from_the_origin():
    b = normal(50) + 1e6
    distance, index = nearest(b[[7]], b)
    assert (distance[0], index[0]) == (0, 7)


def test_sets_far_apart_are_told_apart_always():
    assert one_nearest_neighbour_accuracy(normal(60), normal(40, seed=1) + 100) == 1


@pytest.mark.parametrize("sizes", [(1500, 1500), (2500, 500)])
def test_sets_of_one_gaussian_are_told_apart_half_of_the_time(sizes):
    n, m = sizes
    accuracy = one_nearest_neighbour_accuracy(normal(n, seed=1), normal(m, seed=2))
    assert accuracy == pytest.approx(0.5, abs=0.04)


def test_a_set_and_its_copy_are_never_told_apart():
    assert one_nearest_neighbour_accuracy(normal(50), normal(50)) == 0


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        nearest(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="not empty"):
        one_nearest_neighbour_accuracy(np.zeros((0, 3)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"b has 1 row, which is left out\. Give at least 2 rows"):
        nearest(np.zeros((1, 3)), np.zeros((1, 3)), leave_out=np.array([0]))
