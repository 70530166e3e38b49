import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from fromnoise.checkpoints import DiskFull
from fromnoise.data import DataError, open_images
from fromnoise.evaluation.features import Extractor, ExtractorError, Features
from fromnoise.evaluation.images import RealImages, reference_from_npz, reference_of


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def counted(weights: str = "w", *, nan: bool = False) -> tuple[Extractor, list[int]]:
    """An extractor of 3 features, and how many images it has seen at a time."""
    seen = []

    def extract(images):
        seen.append(len(images))
        features = images.reshape(len(images), -1)[:, :3].astype(np.float32)
        return Features(features * (np.nan if nan else 1), None)

    return Extractor("counted", 3, weights, "none", extract), seen


def real_images(tmp_path, seed: int = 0, count: int = 30) -> RealImages:
    images = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 1), dtype=np.uint8)
    np.savez(tmp_path / f"{seed}.npz", images=images)
    return RealImages(open_images("npz", tmp_path / f"{seed}.npz"), f"images {seed}")


def test_features_are_extracted_once(cache, tmp_path):
    real, (extractor, seen) = real_images(tmp_path), counted()
    first, again = reference_of(real, extractor), reference_of(real, extractor)
    assert seen == [30]
    pixels = real.images.images.reshape(30, -1)[:, :3].astype(float)
    for found in (first, again):
        np.testing.assert_array_equal(found.features, pixels)
        np.testing.assert_allclose(found.mean, pixels.mean(axis=0))
        np.testing.assert_allclose(found.covariance, np.cov(pixels, rowvar=False))
    assert first.info == {
        "what": "images 0",
        "count": 30,
        "shape": [1, 4, 4],
        "fingerprint": real.images.fingerprint,
    }


def test_other_images_and_other_weights_never_meet_old_features(cache, tmp_path):
    extractor, seen = counted()
    mine = reference_of(real_images(tmp_path), extractor)
    other = reference_of(real_images(tmp_path, seed=1), extractor)
    assert seen == [30, 30]
    assert (mine.features != other.features).any()
    changed, seen_by_changed = counted("other weights")
    reference_of(real_images(tmp_path), changed)
    assert seen_by_changed == [30]
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("bytes_kept", [0, 50, 200])
def test_a_damaged_file_is_extracted_again(cache, tmp_path, bytes_kept):
    real, (extractor, seen) = real_images(tmp_path), counted()
    whole = np.array(reference_of(real, extractor).features)
    [file] = cache.iterdir()
    file.write_bytes(file.read_bytes()[:bytes_kept])
    np.testing.assert_array_equal(reference_of(real, extractor).features, whole)
    np.save(file, whole[:7])  # whole, but of other images
    np.testing.assert_array_equal(reference_of(real, extractor).features, whole)
    assert seen == [30, 30, 30]
    assert list(cache.iterdir()) == [file]


def test_features_that_are_not_finite_leave_nothing_behind(cache, tmp_path):
    with pytest.raises(ExtractorError, match="NaN or infinite"):
        reference_of(real_images(tmp_path), counted(nan=True)[0])
    assert list(cache.iterdir()) == []


KILLED = """
import os, signal, sys
from fromnoise.data import open_images
from fromnoise.evaluation.features import Extractor
from fromnoise.evaluation.images import RealImages
from fromnoise.evaluation.images import reference_of

killed = Extractor("counted", 3, "w", "none", lambda images: os.kill(os.getpid(), signal.SIGKILL))
reference_of(RealImages(open_images("npz", sys.argv[1]), "images"), killed)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_what_is_removed_a_day_later(cache, tmp_path):
    real = real_images(tmp_path)

    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "0.npz"], check=False)
    assert done.returncode == -signal.SIGKILL
    (left_over,) = cache.iterdir()
    os.utime(left_over, (0, 0))
    reference_of(real, counted()[0])
    assert [file.suffix for file in cache.iterdir()] == [".npy"]


def test_a_full_disk_is_one_line_before_anything_is_extracted(cache, tmp_path, monkeypatch):
    def full(file, start, length):
        assert length >= 4 * 30 * 3
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    extractor, seen = counted()
    with pytest.raises(
        DiskFull, match=r"\.npy was not written\. It needs 0 MiB, .*CACHE to another folder\.$"
    ):
        reference_of(real_images(tmp_path), extractor)
    assert seen == []
    assert list(cache.iterdir()) == []


def test_a_cache_of_somebody_else_is_one_line(cache, tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    real, (extractor, seen) = real_images(tmp_path), counted()
    monkeypatch.setattr(np.lib.format, "open_memmap", refuse)
    with pytest.raises(DataError, match=r"features cannot be written \(Permission .*FROMNOISE_"):
        reference_of(real, extractor)
    assert seen == []


def test_the_space_of_the_features_is_taken_before_they_come(cache, tmp_path):
    taken = []

    def extract(images):
        [file] = cache.iterdir()
        taken.append(file.stat().st_blocks * 512)
        return Features(np.ones((len(images), 1_000), np.float32), None)

    wide = Extractor("wide", 1_000, "", "none", extract)
    assert len(reference_of(real_images(tmp_path), wide).features) == 30
    assert taken[0] >= 30 * 4 * 1_000


def test_statistics_of_another_program(tmp_path):
    extractor, _ = counted()
    np.savez(tmp_path / "stats.npz", mu=np.arange(3.0), sigma=np.eye(3, dtype=np.float32))
    found = reference_from_npz(tmp_path / "stats.npz", extractor)
    np.testing.assert_array_equal(found.mean, [0, 1, 2])
    assert found.covariance.dtype == np.float64
    assert (len(found.features), found.info["count"]) == (0, None)
    np.savez(tmp_path / "stats.npz", mu=np.arange(3.0), sigma=2 * np.eye(3))
    other = reference_from_npz(tmp_path / "stats.npz", extractor)
    assert other.info["fingerprint"] != found.info["fingerprint"]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"mu": np.zeros(4), "sigma": np.eye(4)}, "statistics of 4 features, but counted has 3"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"counted has 3\. Use statistics of the same"),
        ({"mu": np.zeros(3)}, r"npz has mu\. Give an npz with mu and sigma"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "mu or sigma is NaN or infinite"),
    ],
)
def test_statistics_that_do_not_fit_are_one_line(tmp_path, arrays, said):
    np.savez(tmp_path / "stats.npz", **arrays)
    with pytest.raises(ExtractorError, match=said):
        reference_from_npz(tmp_path / "stats.npz", counted()[0])
