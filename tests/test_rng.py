import numpy as np
import pytest
import torch

from fromnoise.rng import generator, image_noise, seed_of

hypothesis = pytest.importorskip("hypothesis")
assume, given, st = hypothesis.assume, hypothesis.given, hypothesis.strategies

KEYS = st.lists(st.integers() | st.text(), max_size=4)


@given(key=KEYS)
def test_a_seed_is_a_function_of_the_key(key):
    assert 0 <= seed_of(*key) == seed_of(*key) < 2**63


@given(a=KEYS, b=KEYS)
def test_different_keys_have_different_seeds(a, b):
    assume(a != b)
    assert seed_of(*a) != seed_of(*b)


def test_seeds_depend_on_order_and_type_of_the_parts():
    keys = [(1, 2), (2, 1), (12,), ("1", "2"), (1, "2"), (1, 2, "")]
    assert len({seed_of(*key) for key in keys}) == len(keys)


def test_numbers_do_not_change_between_versions():
    """Otherwise seeds give other images and resumed runs differ."""
    assert seed_of(0, 1, "eps") == 3362466454685864675
    expected = torch.tensor([[-0.70979446, -0.78058040, 0.43153581, 1.05433106]])
    torch.testing.assert_close(image_noise([3], 7, (4,)), expected, rtol=0, atol=1e-6)


def test_the_global_generator_is_unchanged():
    before = torch.get_rng_state()
    torch.randn(3, generator=generator(1))
    image_noise([1], 0, (2,))
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_of_an_image_is_the_same_in_any_batch():
    batch = image_noise([5, 7, 9], 3, (2, 4, 6))
    assert batch.shape == (3, 2, 4, 6)
    assert batch.dtype == torch.float32
    for i, seed in enumerate([5, 7, 9]):
        assert torch.equal(batch[i], image_noise([seed], 3, (2, 4, 6))[0])


@pytest.mark.parametrize("kind", [np.arange, torch.arange], ids=["numpy", "torch"])
def test_an_integer_of_another_library_is_the_same_seed(kind):
    assert torch.equal(image_noise(kind(3), 1, (4,)), image_noise(range(3), 1, (4,)))
    numbers, same = kind(6), range(6)
    assert seed_of(3, numbers[5], "a") == seed_of(numbers[3], 5, "a") == seed_of(3, same[5], "a")
    assert seed_of(True, np.str_("a")) == seed_of(1, "a")


@pytest.mark.parametrize("part", [1.0, np.float64(2), torch.tensor(1.0), torch.arange(2), None])
def test_a_key_of_other_numbers_is_refused(part):
    with pytest.raises(TypeError):
        seed_of(0, part)


def test_noise_is_standard_normal_and_independent_over_seeds_and_steps():
    noise = torch.stack([image_noise(range(128), t, (1, 16, 16)) for t in (0, 1)]).double()
    error = noise.numel() ** -0.5  # one standard error of each estimate below, or nearly so
    assert abs(noise.mean()) < 4 * error
    assert abs(noise.square().mean() - 1) < 4 * error * 2**0.5
    assert abs(noise.pow(4).mean() - 3) < 4 * error * 96**0.5
    for other in (noise.roll(1, dims=0), noise.roll(1, dims=1), noise.roll(1, dims=-1)):
        assert abs((noise * other).mean()) < 4 * error * 2**0.5
