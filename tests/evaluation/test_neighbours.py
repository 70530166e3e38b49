import numpy as np
import pytest
from scipy.spatial.distance import cdist

from fromnoise.evaluation import copy_check, nearest, neighbours, one_nearest_neighbour_accuracy


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 7)


def normal(n: int, d: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


def random_images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 4, 4), dtype=np.uint8)


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


def test_copy_check_finds_an_exact_copy():
    train, samples = random_images(100), random_images(20, seed=1)
    samples[13] = train[42]
    check = copy_check(samples, train)
    assert check.exact_copies == 1
    assert check.smallest_distance == 0
    assert (check.sample_index, check.train_index) == (13, 42)
    assert check.share_below_threshold == pytest.approx(1 / 20)


def test_copy_check_measures_in_pixels_between_0_and_1():
    train = np.zeros((2, 1, 2, 2), dtype=np.uint8)
    train[1] = 255
    check = copy_check(np.full((1, 1, 2, 2), 51, dtype=np.uint8), train)
    assert check.smallest_distance == pytest.approx(0.2 * 2)  # 0.2 in each of 4 pixels
    assert check.threshold == pytest.approx(2)
    assert check.share_below_threshold == 1
    assert check.exact_copies == 0


def test_copy_check_of_fresh_images_stays_near_the_quantile():
    check = copy_check(random_images(500, seed=1), random_images(500), quantile=0.2)
    assert check.share_below_threshold == pytest.approx(0.2, abs=0.08)
    fewer = copy_check(
        random_images(500, seed=1), random_images(500), quantile=0.2, num_reference=200
    )
    assert fewer.threshold == pytest.approx(check.threshold, rel=0.03)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        nearest(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="not empty"):
        one_nearest_neighbour_accuracy(np.zeros((0, 3)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="at least 2 rows"):
        nearest(np.zeros((1, 3)), np.zeros((1, 3)), leave_out=np.array([0]))
    with pytest.raises(ValueError, match="of one size"):
        copy_check(random_images(2), random_images(2)[..., :3])
    with pytest.raises(ValueError, match="uint8"):
        copy_check(random_images(2) / 255, random_images(2))
