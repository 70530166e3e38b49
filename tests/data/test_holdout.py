"""Which images are held out: a function of their pixels; near-duplicates stay together."""

from dataclasses import replace

import numpy as np
import pytest

from fromnoise import open_images
from fromnoise.data import DataError, ImageSet
from fromnoise.data.holdout import GROUP, NEAR, in_coarse_pixels, near_duplicates, split_holdout

RNG = np.random.default_rng(3)


def images_of(array: np.ndarray) -> ImageSet:
    labels = np.arange(len(array), dtype=np.int8)[:, None] % 2
    return ImageSet(array, labels, ("odd",), "0" * 64, (), "npz")


def keys(data: ImageSet) -> set[bytes]:
    return {image.tobytes() for image in data.images}


NOISE = images_of(RNG.integers(0, 256, (200, 3, 16, 16), dtype=np.uint8))


@pytest.mark.parametrize(("holdout", "held"), [(0.1, 20), ("auto", 40), (0.5, 100)])
def test_so_many_are_held_out_and_all_others_are_trained_on(holdout, held):
    trained, held_out = split_holdout(NOISE, holdout)
    assert (len(held_out), len(trained)) == (held, 200 - held)
    assert keys(trained) | keys(held_out) == keys(NOISE)
    rows = {image.tobytes(): label for image, label in zip(NOISE.images, NOISE.labels, strict=True)}
    for part in (trained, held_out):
        assert all(rows[i.tobytes()] == n for i, n in zip(part.images, part.labels, strict=True))
    assert len({NOISE.fingerprint, trained.fingerprint, held_out.fingerprint}) == 3


def test_auto_is_five_percent_within_its_limits():
    sizes = {20: 4, 100: 20, 300: 50, 2000: 100}
    for count, held in sizes.items():
        data = images_of(RNG.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8))
        assert len(split_holdout(data, "auto")[1]) == held


def test_the_order_of_the_files_does_not_matter_and_new_ones_change_little():
    _, held = split_holdout(NOISE, 0.1)
    order = RNG.permutation(200)
    again = replace(NOISE, images=NOISE.images[order], labels=NOISE.labels[order])
    assert keys(split_holdout(again, 0.1)[1]) == keys(held)
    more = images_of(np.concatenate([NOISE.images, 255 - NOISE.images[:20]]))
    changed = keys(split_holdout(more, 20 / 220)[1]) ^ keys(held)
    assert len(changed) <= 8


def test_duplicates_and_near_duplicates_are_never_on_both_sides():
    """A chain: each is near to the next, the first and the last are not."""
    smooth = np.kron(RNG.integers(0, 220, (60, 3, 2, 2)), np.ones((8, 8))).astype(np.uint8)
    chain = [smooth, smooth, smooth + np.uint8(3), smooth + np.uint8(6), smooth[..., ::-1, :]]
    data = images_of(np.concatenate(chain))
    trained, held = split_holdout(data, 0.2)
    coarse = [in_coarse_pixels(part.images) for part in (trained, held)]
    apart = np.sqrt(((coarse[0][:, None] - coarse[1][None]) ** 2).sum(-1))
    assert apart.min() > NEAR
    assert 60 <= len(held) <= 63
    first = near_duplicates(in_coarse_pixels(data.images), 0)
    np.testing.assert_array_equal(first[:2], [0, 60])
    assert {120, 180} <= set(first.tolist())


def test_a_large_group_is_trained_on():
    same = np.repeat(RNG.integers(0, 256, (1, 1, 8, 8), dtype=np.uint8), GROUP + 1, axis=0)
    others = RNG.integers(0, 256, (30, 1, 8, 8), dtype=np.uint8)
    trained, held = split_holdout(images_of(np.concatenate([same, others])), 0.9)
    assert same[0].tobytes() in keys(trained) - keys(held)
    assert len(held) == 30


def test_the_distance_is_that_of_grey_levels():
    level = np.full((1, 3, 32, 32), 100, dtype=np.uint8)
    a, b = in_coarse_pixels(np.concatenate([level, level + np.uint8(7)]))
    assert np.linalg.norm(a - b) == pytest.approx(7, rel=1e-5)
    for shape in ((2, 1, 5, 9), (2, 4, 8, 8), (2, 1, 28, 28)):
        assert in_coarse_pixels(np.zeros(shape, np.uint8)).shape[0] == 2


@pytest.mark.parametrize(
    ("count", "holdout", "problem"),
    [
        (19, "auto", "auto needs 20 images, but there are 19"),
        (30, 0.01, "0.01 of 30 images holds nothing out"),
        (30, 0.99, "0.99 of 30 images holds all 30 images out"),
    ],
)
def test_a_holdout_that_leaves_nothing(count, holdout, problem):
    with pytest.raises(DataError, match=problem):
        split_holdout(images_of(NOISE.images[:count]), holdout)
    same = images_of(np.zeros((40, 1, 8, 8), np.uint8))
    with pytest.raises(DataError, match="every image has too many near-duplicates"):
        split_holdout(same, 0.5)


def test_digits():
    digits = open_images("digits")
    trained, held = split_holdout(digits, "auto")
    assert len(held) == 90
    assert len(trained) == 1797 - 90


def test_an_image_is_left_to_train_on():
    images = np.repeat(RNG.integers(0, 256, (4, 1, 8, 8), dtype=np.uint8), 3, axis=0)
    trained, held = split_holdout(images_of(images), 0.9)
    assert (len(trained), len(held)) == (3, 9)


def test_every_pixel_counts():
    """Of 15 x 15 pixels those at the right and at the bottom too."""
    images = np.zeros((40, 1, 15, 15), np.uint8)
    images[:, :, 8:, 8:] = RNG.integers(0, 256, (40, 1, 7, 7))
    _, held = split_holdout(images_of(images), 0.1)
    assert len(held) == 4
    coarse = in_coarse_pixels(images) * 8
    rows = [slice(i * 15 // 8, (i + 1) * 15 // 8) for i in range(8)]
    expected = [images[5, 0, a, b].mean() for a in rows for b in rows]
    np.testing.assert_allclose(coarse[5], expected, rtol=1e-5)
