"""The check for copies: planted ones are found, unseen images are not, and nothing is hidden."""

import json

import numpy as np
import pytest
from PIL import Image

from fromnoise.data import open_images
from fromnoise.evaluation import copies
from fromnoise.evaluation.copies import (
    check_copies,
    copies_as_json,
    copy_verdict,
    evenly_spaced,
    rare_threshold,
    save_copy_sheet,
    share_nearer,
)

cdist = pytest.importorskip("scipy.spatial.distance").cdist
stats = pytest.importorskip("scipy.stats")

PLANTED = np.arange(7, 2000, 100)  # 20 of 2,000


def smooth(n: int, seed: int, *, waves: int = 4, contrast: float = 30) -> np.ndarray:
    """Images (n, 1, 12, 12) of waves² cosines with random heights: points in waves² dimensions."""
    cosines = np.cos(np.pi * np.outer(np.arange(12) + 0.5, np.arange(waves)) / 12)
    heights = np.random.default_rng(seed).standard_normal((n, waves, waves))
    return to_uint8(128 + contrast * cosines @ heights @ cosines.T)[:, None]


def to_uint8(x: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(x, 0, 255)).astype(np.uint8)


def noisy(images: np.ndarray, *, sigma: float = 0.02, seed: int = 5) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(images.shape)
    return to_uint8(images + 255 * sigma * noise)


def flipped(images: np.ndarray) -> np.ndarray:
    return images[..., ::-1]


def without_brightness(images: np.ndarray) -> np.ndarray:
    flat = images.reshape(len(images), -1).astype(np.float64)
    return flat - flat.mean(axis=1, keepdims=True)


KINDS = {
    "exact": lambda x: x,
    "flipped": flipped,
    "noisy": noisy,
    "flipped and noisy": lambda x: noisy(flipped(x)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_20_of_20_planted_copies_are_found_and_none_of_2000_unseen_images(kind):
    train, held_out, samples = smooth(2000, 1), smooth(2000, 2), smooth(2000, 3)
    copied = np.random.default_rng(4).choice(2000, 20, replace=False)
    samples[PLANTED] = KINDS[kind](train[copied])
    check = check_copies(samples, train, held_out)
    np.testing.assert_array_equal(check.flagged.nonzero()[0], PLANTED)  # no fresh one with them
    assert check.held_out_flagged.sum() == 0
    near = check.spaces["pixels"].samples
    np.testing.assert_array_equal(near.index[PLANTED, 0], copied)
    assert (near.mirrored[PLANTED, 0] == ("flipped" in kind)).all()
    assert check.exact.sum() == (0 if "noisy" in kind else 20)
    assert copy_verdict(check).startswith("20 of 2,000 samples (1 %) are copies of training")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unseen", ["held out", "left out"])
def test_copies_of_real_digits_are_found(kind, unseen):
    digits = np.asarray(open_images("digits").images)
    digits = digits[np.random.default_rng(0).permutation(len(digits))]
    train, held_out, samples = digits[:1000], digits[1000:1400], digits[1400:].copy()
    samples[:200] = KINDS[kind](train[::5])
    check = check_copies(samples, train, held_out if unseen == "held out" else None)
    assert check.flagged[:200].mean() >= (0.97 if "noisy" in kind else 1)
    assert check.flagged[200:].sum() == 0
    assert check.held_out_flagged.sum() == 0


def test_figures_equal_brute_force(monkeypatch):
    monkeypatch.setattr(copies, "BLOCK", 7)
    samples, train, held_out = smooth(25, 1), smooth(40, 2), smooth(30, 3)
    found = check_copies(samples, train, held_out).spaces["pixels"]
    for figures, images in ((found.samples, samples), (found.held_out, held_out)):
        plain, turned = (root_mean_square(x, train) for x in (images, flipped(images)))
        distance = np.minimum(plain, turned)
        order = distance.argsort(axis=1)
        ranked = np.take_along_axis(distance, order, axis=1)
        np.testing.assert_allclose(figures.distance, ranked[:, 0], rtol=1e-12)
        np.testing.assert_allclose(figures.second, ranked[:, 1], rtol=1e-12)
        np.testing.assert_allclose(figures.ratio, ranked[:, 0] / ranked[:, 1], rtol=1e-12)
        np.testing.assert_allclose(figures.nearness, ranked[:, 0] / ranked[:, 9], rtol=1e-12)
        np.testing.assert_array_equal(figures.index, order[:, :2])
        expected = np.take_along_axis(turned < plain, order[:, :2], axis=1)
        np.testing.assert_array_equal(figures.mirrored, expected)


def root_mean_square(a, b):
    a, b = (x.reshape(len(x), -1) / 255 for x in (a, b))
    return cdist(a, b) / a.shape[1] ** 0.5


def test_without_held_out_images_each_training_image_is_left_out():
    train = smooth(30, 1)
    check = check_copies(smooth(5, 2), train)
    distance = np.minimum(root_mean_square(train, train), root_mean_square(flipped(train), train))
    np.fill_diagonal(distance, np.inf)
    held_out = check.spaces["pixels"].held_out
    np.testing.assert_allclose(held_out.distance, distance.min(axis=1), rtol=1e-12)
    assert "30 training images, each left out" in copy_verdict(check)
    assert len(evenly_spaced(100_000)) == len(set(evenly_spaced(100_000))) == 4096
    assert (evenly_spaced(100_000)[[0, -1]] == (0, 99_999)).all()


def test_the_copy_of_an_image_with_twins_is_found():
    train = smooth(1000, 1)
    train[1:9] = noisy(np.repeat(train[:1], 8, axis=0), sigma=0.01)
    samples = smooth(100, 3)
    samples[5] = noisy(train[4:5], seed=6)
    check = check_copies(samples, train, smooth(1000, 2))
    assert check.spaces["pixels"].samples.ratio[5] > 0.75  # which tells nothing
    assert check.flagged.nonzero()[0].tolist() == [5]


def test_flat_images_are_no_copies_of_each_other():
    def partly_flat(n, seed):
        flat = smooth(n // 2, seed, waves=2, contrast=6)
        return np.concatenate([flat, smooth(n - n // 2, seed + 10)])

    samples, train = partly_flat(1000, 1), partly_flat(1000, 2)
    samples[0] = train[0]
    check = check_copies(samples, train, partly_flat(1000, 3))
    # They come nearer to each other than the noisy copy of another image does.
    assert np.median(check.spaces["pixels"].samples.distance[:500]) < 0.02
    assert check.flagged.nonzero()[0].tolist() == [0]
    assert check.held_out_flagged.sum() == 0


def test_the_threshold_is_weibulls():
    cumulative = (np.arange(5000) + 0.5) / 5000
    figures = 0.3 * (-np.log1p(-cumulative)) ** (1 / 12)
    expected = 0.3 * (-np.log1p(-1e-6)) ** (1 / 12)
    assert rare_threshold(figures) == pytest.approx(expected, rel=1e-3)
    with_copies = np.concatenate([np.zeros(50), figures])
    assert 0.8 * expected < rare_threshold(with_copies) < expected
    assert rare_threshold(np.concatenate([np.zeros(500), figures])) == 0
    assert rare_threshold(figures[::300]) == 0  # from 17 images
    assert rare_threshold(np.ones(100)) == 0


def test_the_threshold_flags_about_the_share_that_it_promises():
    rng = np.random.default_rng(0)
    figures = rng.weibull(10, (500, 2000))
    thresholds = np.array([rare_threshold(of, share=1e-3) for of in figures])
    share = -np.expm1(-(thresholds**10))  # of unseen figures below each threshold
    assert np.median(share) == pytest.approx(1e-3, rel=0.2)
    assert np.quantile(share, 0.95) < 5e-3


def test_real_images_that_are_copies_are_reported_and_do_not_hide_the_others():
    train, held_out, samples = smooth(1000, 1), smooth(1000, 2), smooth(1000, 3)
    held_out[:10] = train[:10]
    samples[:20] = noisy(train[50:70])
    check = check_copies(samples, train, held_out)
    assert check.flagged.nonzero()[0].tolist() == list(range(20))
    assert check.held_out_flagged.nonzero()[0].tolist() == list(range(10))
    assert "1,000 held-out real images, of which 10 are flagged too" in copy_verdict(check)
    turned_round = check_copies(held_out[:500], train, held_out[::-1])
    assert "are copies" in copy_verdict(turned_round)  # 10 of 500 against 10 of 1,000
    as_often = check_copies(held_out, train, held_out)
    assert "the data has near twins" in copy_verdict(as_often)


def test_the_order_of_images_changes_nothing():
    train, held_out, samples = smooth(200, 1), smooth(200, 2), smooth(100, 3)
    samples[:5] = noisy(train[:5])
    rng = np.random.default_rng(0)
    of_train, of_samples, of_held_out = (
        rng.permutation(len(x)) for x in (train, samples, held_out)
    )
    a = check_copies(samples, train, held_out)
    b = check_copies(samples[of_samples], train[of_train], held_out[of_held_out])
    x, y = a.spaces["pixels"], b.spaces["pixels"]
    np.testing.assert_array_equal(x.samples.distance[of_samples], y.samples.distance)
    np.testing.assert_array_equal(x.samples.index[of_samples], of_train[y.samples.index])
    np.testing.assert_array_equal(a.flagged[of_samples], b.flagged)
    assert x.thresholds == y.thresholds


def test_a_further_space_finds_what_pixels_do_not_and_says_so():
    train, held_out, samples = smooth(1000, 1), smooth(1000, 2), smooth(1000, 3)
    samples[:5] = to_uint8(train[:5] + 40.0)  # brighter
    samples[5:8] = train[5:8]
    spaces = {"shape": without_brightness}
    check = check_copies(samples, train, held_out, spaces=spaces)
    assert check.flagged.nonzero()[0].tolist() == list(range(8))
    found = {copy["sample"]: copy for copy in copies_as_json(check)["copies"]}
    assert all(found[i]["flagged by"] == ["shape"] for i in range(5))
    assert all(found[i]["flagged by"] == ["pixels", "shape"] for i in range(5, 8))
    assert "(3 of them exact; 3 by pixels, 8 by shape)" in copy_verdict(check)
    assert check_copies(samples, train, spaces=spaces).flagged[:8].all()


def test_nearer_is_mann_and_whitneys_u():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=300).round(1), rng.normal(0.2, size=200).round(1)
    share, z = share_nearer(a, b)
    expected = stats.mannwhitneyu(
        a, b, alternative="less", method="asymptotic", use_continuity=False
    )
    assert share == pytest.approx(1 - expected.statistic / (len(a) * len(b)))
    assert stats.norm.sf(z) == pytest.approx(expected.pvalue, rel=0.02)  # which corrects σ for ties


def test_samples_that_hug_the_training_images_without_copying_are_a_sign_of_overfitting():
    train, held_out = smooth(1000, 1), smooth(1000, 2)
    hugging = to_uint8(0.7 * train + 0.3 * smooth(1000, 3))
    check = check_copies(hugging, train, held_out)
    assert check.held_out_flagged.sum() == 0
    verdict = copy_verdict(check)
    assert "are nearer to the training images" in verdict
    assert "a sign of overfitting" in verdict
    hugging[:3] = train[:3]
    assert "As a whole the other samples are" in copy_verdict(
        check_copies(hugging, train, held_out)
    )
    fresh = copy_verdict(check_copies(smooth(1000, 3), train, held_out))
    assert fresh == (
        "None of 1,000 samples is a copy of a training image. Compared with 1,000 held-out real "
        "images, of which 0 are flagged too."
    )


def test_of_three_training_images_only_equal_ones_are_copies():
    train = smooth(3, 1)
    samples = np.concatenate([flipped(train[1:2]), noisy(train[:1]), smooth(1, 2)])
    check = check_copies(samples, train)
    assert check.flagged.tolist() == [True, False, False]
    assert "only equal images are copies" in copy_verdict(check)


def test_images_that_are_all_alike_give_plain_numbers():
    blank = np.zeros((30, 1, 4, 4), dtype=np.uint8)
    result = copies_as_json(check_copies(blank, blank))
    assert result["samples"]["exact"] == result["held_out"]["flagged"] == 30
    assert "NaN" not in json.dumps(result)
    assert "the data has near twins" in result["verdict"]


def test_the_numbers_are_plain_and_complete():
    train, held_out, samples = smooth(300, 1), smooth(200, 2), smooth(100, 3)
    samples[42] = flipped(train[17:18])[0]
    check = check_copies(samples, train, held_out)
    result = json.loads(json.dumps(copies_as_json(check), allow_nan=False))
    assert result["samples"] == {"images": 100, "flagged": 1, "share flagged": 0.01, "exact": 1}
    assert result["held_out"]["images"] == 200
    (copy,) = result["copies"]
    assert (copy["sample"], copy["training_image"], copy["mirrored"]) == (42, 17, True)
    assert (copy["distance"], copy["ratio"]) == (0, 0)
    pixels = result["spaces"]["pixels"]
    real = check.spaces["pixels"].held_out
    assert pixels["held_out"]["distance"]["median"] == pytest.approx(np.median(real.distance))
    assert pixels["samples"]["ratio"]["smallest"] == 0


def test_the_sheet_shows_the_closest_pairs_first(tmp_path, monkeypatch):
    recorded = {}

    def record(images, path, **options):
        recorded.update(images=images, **options)
        return grid_figure(images, path, **options)

    grid_figure = copies.grid_figure
    monkeypatch.setattr(copies, "grid_figure", record)
    train, held_out, samples = smooth(100, 1), smooth(100, 2), smooth(50, 3)
    samples[13] = flipped(train[7:8])[0]
    check = check_copies(samples, train, held_out)
    path = save_copy_sheet(check, samples, train, tmp_path / "new" / "copies.png", pairs=4)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
    near = check.spaces["pixels"].samples
    np.testing.assert_array_equal(recorded["images"][0], samples[13])
    np.testing.assert_array_equal(recorded["images"][1], samples[13])  # the mirrored training image
    assert recorded["captions"][0] == "sample 13\nd1/d10 = 0.00\nCOPY"
    assert recorded["captions"][1] == "training 7\nd1 = 0.000\nmirrored\nd1/d2 = 0.00"
    order = near.nearness.argsort()[:4]
    assert [recorded["captions"][i].split("\n")[0] for i in (0, 4, 8, 11)] == [
        f"sample {i}" for i in order
    ]
    np.testing.assert_array_equal(recorded["images"][4], samples[order[1]])
    assert "1 of 50 samples (2 %) are copies" in recorded["title"]
