import numpy as np
import pytest
import torch

from fromnoise.data import ImageSet
from fromnoise.data.loader import image_indices, load_batch, to_float
from fromnoise.rng import BatchDraws

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies


def batch_indices(seed: int, step: int, batch_size: int, num_images: int) -> np.ndarray:
    return image_indices(BatchDraws.of(seed, step, batch_size), num_images)


def image_set(images: np.ndarray) -> ImageSet:
    return ImageSet(images, None, (), "fingerprint", (), "npz")


@given(
    seed=st.integers(0, 2**32),
    num_images=st.integers(1, 12),
    batch_size=st.integers(1, 40),
    steps=st.integers(1, 8),
)
def test_every_image_is_seen_once_an_epoch(seed, num_images, batch_size, steps):
    """Also where a batch straddles two epochs, or holds several."""
    batches = [batch_indices(seed, step, batch_size, num_images) for step in range(steps)]
    assert all(batch.shape == (batch_size,) for batch in batches)
    line = np.concatenate(batches)
    for start in range(0, len(line), num_images):
        epoch = line[start : start + num_images]
        assert len(set(epoch)) == len(epoch)
        assert set(epoch) <= set(range(num_images))


@given(seed=st.integers(0, 99), step=st.integers(0, 10**9), num_images=st.integers(1, 50))
def test_a_batch_does_not_depend_on_what_was_drawn_before(seed, step, num_images):
    wanted = batch_indices(seed, step, 7, num_images)
    for other in (0, 1, step + 1):
        batch_indices(seed + 1, other, 5, num_images)
    assert np.array_equal(batch_indices(seed, step, 7, num_images), wanted)


def test_the_batch_size_cuts_the_line_and_does_not_change_it():
    fine = np.concatenate([batch_indices(3, step, 4, 10) for step in range(6)])
    coarse = np.concatenate([batch_indices(3, step, 8, 10) for step in range(3)])
    assert np.array_equal(fine, coarse)


def test_every_epoch_and_every_seed_has_its_own_order():
    orders = {tuple(batch_indices(seed, epoch, 20, 20)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_images_are_those_of_the_indices():
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 4, 5), dtype=np.uint8)
    batch = load_batch(image_set(images), BatchDraws.of(1, 2, 12))
    assert batch.dtype == torch.uint8
    assert np.array_equal(batch.numpy(), images[batch_indices(1, 2, 12, 9)])


def test_about_half_are_mirrored_left_to_right_and_always_the_same_ones():
    data = image_set(np.tile(np.array([[1, 2], [3, 4]], np.uint8), (50, 1, 1, 1)))
    batch = load_batch(data, BatchDraws.of(1, 2, 1000), flip=True)
    mirrored = (batch == torch.tensor([[2, 1], [4, 3]])).flatten(1).all(dim=1)
    same = (batch == torch.tensor([[1, 2], [3, 4]])).flatten(1).all(dim=1)
    assert (mirrored ^ same).all()
    assert abs(mirrored.sum() - 500) < 4 * 250**0.5
    assert torch.equal(load_batch(data, BatchDraws.of(1, 2, 1000), flip=True), batch)
    assert not torch.equal(load_batch(data, BatchDraws.of(1, 3, 1000), flip=True), batch)


@given(
    seed=st.integers(0, 99),
    step=st.integers(0, 99),
    batch_size=st.integers(1, 9),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
)
def test_a_batch_is_its_plain_definition(seed, step, batch_size, shape):
    """Image by image: the i-th of the step, mirrored if the i-th draw is below 1/2, over 127.5."""
    images = np.random.default_rng(seed).integers(0, 256, (7, *shape), dtype=np.uint8)
    before = images.copy()
    chosen = batch_indices(seed, step, batch_size, 7)
    draws = BatchDraws.of(seed, step, batch_size).uniform("flip")
    expected = [
        torch.from_numpy(images[i].copy()).flip(-1) if draw < 0.5 else torch.from_numpy(images[i])
        for i, draw in zip(chosen, draws, strict=True)
    ]
    batch = load_batch(image_set(images), BatchDraws.of(seed, step, batch_size), flip=True)
    assert torch.equal(batch, torch.stack(expected))
    scaled = to_float(batch)
    assert torch.equal(scaled, batch.to(torch.float32) / 127.5 - 1)  # bit for bit
    assert np.array_equal(images, before)
    assert torch.equal(batch, torch.stack(expected))  # neither the data nor the batch was changed
