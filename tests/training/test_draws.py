"""What a step draws is a function of (seed, step, purpose, position), of nothing else."""

import itertools
import json
import math
import shutil
import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn

import fromnoise
from fromnoise import checkpoints, rng
from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import parse_recipe
from fromnoise.data import ImageSet, open_images
from fromnoise.data.loader import image_indices
from fromnoise.networks import layers
from fromnoise.networks.layers import Dropout, dropout_keys
from fromnoise.rng import BatchDraws, hashes, permuted
from fromnoise.training import run as running
from fromnoise.training.run import depends_on_parts
from fromnoise.training.step import backward, noise_on_device, sample_batch, sample_images

stats = pytest.importorskip("scipy.stats")
EVERYTHING = {
    "data.labels": True,
    "data.flip": True,
    "diffusion.offset_noise": 0.1,
    "network.dropout": 0.2,
    "network.self_conditioning": True,
    "training.batch_size": 32,
    "training.label_dropout": 0.5,
    "training.augment": 0.5,
}
PURPOSES = (
    "eps",
    "offset",
    "flip",
    "labels",
    "t",
    "t, strata",
    "self-conditioning",
    "dropout",
    "augment",
)

# ---- hashes -------------------------------------------------------------------------------------


def test_hashes_are_the_published_splitmix64():
    """The first outputs of its seed 1234567, as in several implementations of it."""
    assert hashes(1234567, np.arange(5)).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_hashes_of_torch_are_those_of_numpy():
    seed, counters = rng.seed_of("x"), np.arange(10_000)
    state = seed + (torch.from_numpy(counters) + 1) * layers.WEYL
    assert np.array_equal(layers.mixed(state).numpy().view(np.uint64), hashes(seed, counters))


def test_the_inverse_is_one():
    assert layers.INVERSE * layers.WEYL % 2**64 == 1


def test_no_two_seeds_steps_purposes_or_positions_share_a_draw():
    seen = [
        BatchDraws.of(seed, step, 64).hashes(purpose, 3)
        for seed, step, purpose in itertools.product(range(5), range(50), PURPOSES)
    ]
    every = np.stack(seen)
    assert len(np.unique(every)) == every.size


@pytest.mark.parametrize("columns", [1, 4])
def test_draws_are_uniform_and_uncorrelated(columns):
    u = np.stack([BatchDraws.of(3, step, 64).uniform("t", columns) for step in range(500)])
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-4
    z = (u - 0.5) * math.sqrt(12)
    for other in (z[1:] * z[:-1], z[:, 1:] * z[:, :-1], z * np.roll(z, 1, axis=2)):
        if columns > 1 or other.shape != z.shape:
            assert abs(other.mean()) < 4.5 / math.sqrt(other.size)


def test_normal_numbers_of_positions_steps_and_purposes_are_independent():
    drawn = [
        BatchDraws.of(0, step, 8).normal(purpose, (1000,)).numpy()
        for step in range(4)
        for purpose in ("eps", "offset")
    ]
    rows = np.concatenate(drawn)
    assert stats.kstest(rows.ravel(), "norm").pvalue > 1e-4
    correlation = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlation).max() < 5 / math.sqrt(1000)


# ---- the order of images ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 17, 2**16, 2**16 + 1, 2**17, 200_000])
def test_an_order_holds_each_image_once(size):
    assert sorted(permuted(np.arange(size), size, 0, 1, "order")) == list(range(size))


@pytest.mark.parametrize("size", [3, 4, 5])
def test_each_order_of_a_few_images_is_as_frequent(size):
    orders = [tuple(permuted(np.arange(size), size, 0, e, "order")) for e in range(12_000)]
    _, seen = np.unique(orders, axis=0, return_counts=True)
    assert len(seen) == math.factorial(size)
    assert stats.chisquare(seen).pvalue > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("size", [7, 33])
@pytest.mark.parametrize("few", [0, 2**16])
def test_each_image_is_as_frequent_at_each_place_and_beside_each_other(size, few, monkeypatch):
    """Also of the network that permutes many, on the least ranges, where it mixes worst."""
    monkeypatch.setattr(rng, "FEW", few)
    orders = np.stack([permuted(np.arange(size), size, 1, e, "order") for e in range(4000)])
    places = np.stack([np.bincount(orders[:, i], minlength=size) for i in range(size)])
    assert stats.chisquare(places.ravel()).pvalue > 1e-4
    pairs = np.bincount((orders[:, :-1] * size + orders[:, 1:]).ravel(), minlength=size**2)
    assert stats.chisquare(pairs[~np.eye(size, dtype=bool).ravel()]).pvalue > 1e-4
    later = np.bincount((orders[:-1] * size + orders[1:]).ravel(), minlength=size**2)
    assert stats.chisquare(later).pvalue > 1e-4  # of the next epoch, at the same place


@pytest.mark.parametrize("size", [1025, 3000])
def test_an_order_of_more_images_is_a_random_one(size, monkeypatch):
    monkeypatch.setattr(rng, "FEW", 0)
    orders = np.stack([permuted(np.arange(size), size, 1, e, "order") for e in range(200)])
    cells = size // 25  # places and images in 25 stretches
    at, what = np.broadcast_to(np.arange(size) // cells, orders.shape), orders // cells
    inside = (at < 25) & (what < 25)
    seen = np.bincount((at * 25 + what)[inside], minlength=625)
    assert stats.chisquare(seen).pvalue > 1e-4
    fixed = (orders == np.arange(size)).sum(axis=1)  # of a random order: Poisson with mean 1
    assert abs(fixed.mean() - 1) < 4.5 / 200**0.5
    up = (np.diff(orders, axis=1) > 0).mean(axis=1)  # ascents: mean 1/2, variance (n+1)/12
    assert abs(up.mean() - 0.5) < 4.5 * (size / 12) ** 0.5 / size / 200**0.5
    descents = (np.diff(orders[:, ::2], axis=1) > 0).mean(axis=1)
    assert 0.5 < descents.var() / (size / 24 / (size / 2) ** 2) < 2


def test_an_order_of_many_images_takes_no_memory():
    tracemalloc.start()
    indices = image_indices(BatchDraws.of(0, 5_000_000, 128), 10**8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
    assert len(set(indices.tolist())) == 128
    first = np.concatenate([image_indices(BatchDraws.of(0, s, 1000), 10**8) for s in range(50)])
    assert stats.kstest(first / 10**8, "uniform").pvalue > 1e-4
    gaps = np.diff(first) % 10**8
    assert stats.kstest(gaps / 10**8, "uniform").pvalue > 1e-4


# ---- a part of a batch --------------------------------------------------------------------------


@pytest.mark.parametrize("noise_levels", ["uniform", "stratified", "normal"])
def test_a_part_of_a_batch_is_drawn_without_the_rest(tiny, noise_levels):
    overrides = EVERYTHING | {"training.noise_levels": noise_levels}
    recipe, data = parse_recipe(tiny, "tiny", overrides), open_images("digits")
    whole = sample_batch(recipe, data, 7)
    assert None not in (whole.cond, whole.self_conditioned, whole.dropout, whole.first_dropout)
    for positions in (np.arange(8, 16), np.array([31, 0, 5])):
        part = sample_batch(recipe, data, 7, positions=positions)
        for ours, theirs in zip(part, whole, strict=True):
            assert (ours is None) == (theirs is None)
            assert ours is None or torch.equal(ours, theirs[positions])


def test_parts_have_the_same_draws_and_the_same_gradient(tiny, tmp_path):
    recipe, data = parse_recipe(tiny, "tiny", EVERYTHING), open_images("digits")
    state = running.start(running.prepare(recipe, data, tmp_path))
    torch.manual_seed(1)
    for parameter in state.denoiser.parameters():
        nn.init.normal_(parameter, std=0.1)
    state.denoiser.train()
    batch = sample_batch(recipe, data, 3)
    seen = {}

    def gradient(parts):
        state.denoiser.network.zero_grad()
        torch.manual_seed(parts)  # of no effect
        losses = backward(state, recipe.diffusion.objective(), batch, parts)
        grads = torch.cat([p.grad.flatten() for p in state.denoiser.parameters()])
        return losses, grads.double()

    for parts in (1, 2, 4, 8):
        seen[parts] = gradient(parts)
    losses, whole = seen[1]
    for parts in (2, 4, 8):
        torch.testing.assert_close(seen[parts][0], losses, rtol=1e-5, atol=0)
        assert (seen[parts][1] - whole).norm() < 1e-6 * whole.norm()
    other = gradient(1)[1]
    assert torch.equal(other, whole)
    batch = batch._replace(dropout=batch.dropout + 1)
    assert (gradient(1)[1] - whole).norm() > 1e-2 * whole.norm()


def test_gradients_are_summed_in_a_tree(start):
    """((1 + 2) + (3 + 4)) + 5, whatever the numbers."""
    state, _ = start({"training.batch_size": 5})
    [weight, *_] = state.denoiser.parameters()
    numbers = iter([1.0, 1e-8, 1e-8, 1e-8, 1.0])

    def loss(*_, **__):
        return (weight.flatten()[:1] * next(numbers)).sum()[None]

    batch = sample_batch(parse_recipe(SIMPLE, "x"), open_images("digits"), 0)
    backward(state, loss, batch, 5)
    one = torch.tensor(1.0)
    tiny_ = torch.tensor(1e-8)
    scaled = [n / 5 for n in (one, tiny_, tiny_, tiny_, one)]
    expected = ((scaled[0] + scaled[1]) + (scaled[2] + scaled[3])) + scaled[4]
    assert weight.grad.flatten()[0] == expected


SIMPLE = {
    "data": {"source": "digits"},
    "network": {"name": "ddpm", "channels": 8, "multipliers": [1, 2], "groups": 4},
    "training": {"steps": 1, "batch_size": 5},
}


# ---- dropout ------------------------------------------------------------------------------------


class Two(nn.Module):
    """Two layers of dropout, one after the other in the list of modules."""

    def __init__(self, p=0.3):
        super().__init__()
        self.first, self.second = Dropout(p), Dropout(p)

    def forward(self, x):
        return torch.stack([self.first(x), self.second(x)])


def keys_of(step, count=6):
    return BatchDraws.of(0, step, count).keys("dropout")


def test_dropout_of_an_image_follows_its_key_alone():
    network, x = Two(), torch.ones(6, 3, 5, 7)
    with dropout_keys(network, keys_of(1)):
        whole = network(x)
        assert torch.equal(network(x), whole)
    with dropout_keys(network, keys_of(1)[2:4]):
        torch.manual_seed(3)
        assert torch.equal(network(x[2:4]), whole[:, 2:4])
        assert torch.equal(network(x[2:4].to(memory_format=torch.channels_last)), whole[:, 2:4])
    with dropout_keys(network, keys_of(2)):
        assert not torch.equal(network(x), whole)
    assert network.first.keys is None
    assert not torch.equal(network(x), network(x))  # of torch's generator


def test_dropout_of_layers_positions_and_steps_is_independent():
    p, network, x = 0.3, Two(), torch.ones(6, 1, 50, 50)
    kept = []
    for step in range(4):
        with dropout_keys(network, keys_of(step)):
            kept.append((network(x) > 0).flatten(2).flatten(0, 1))
    z = (torch.cat(kept).double() - (1 - p)) / math.sqrt(p * (1 - p))  # (48, 2500)
    correlation = z @ z.T / z.shape[1] - torch.eye(len(z))
    off = correlation - torch.diag(correlation.diagonal())
    assert off.abs().max() < 5 / math.sqrt(z.shape[1])
    assert abs(z.mean().item()) < 5 / math.sqrt(z.numel())
    for distance in (1, 2, 3, 4, 50):
        assert abs((z[:, distance:] * z[:, :-distance]).mean().item()) < 5 / math.sqrt(z.numel())


@pytest.mark.parametrize("count", [1, 3, 4, 1001])
def test_numbers_of_a_gpu_are_those_of_a_cpu(count):
    """Sixteen bits of each word of SplitMix64, the lowest first."""
    keys = keys_of(5)
    numbers = layers.sixteen_bits(keys, count)
    assert numbers.shape == (6, count)
    assert torch.equal(numbers, layers.sixteen_bits_of_each(keys, count))
    words = hashes(keys.numpy().view(np.uint64)[3], np.arange(-(-count // 4)))
    of_words = [int(word) >> 16 * lane & 0xFFFF for word in words for lane in range(4)]
    assert [n & 0xFFFF for n in numbers[3].tolist()] == of_words[:count]


def test_layers_that_depend_on_the_rest_of_a_part_are_named():
    assert depends_on_parts(nn.Sequential(nn.Conv2d(1, 1, 1), Dropout(0.5), nn.Dropout(0.0))) == ""
    assert depends_on_parts(nn.Sequential(nn.Dropout(0.1))) == "torch's Dropout"
    assert depends_on_parts(nn.Sequential(nn.BatchNorm2d(3))) == "BatchNorm2d"


# ---- noise on the device ------------------------------------------------------------------------


def test_noise_of_a_device_is_normal_and_drawn_by_position():
    draws, cpu = BatchDraws.of(0, 3, 16), torch.device("cpu")
    eps = noise_on_device(draws, "eps", (3, 33, 33), cpu)
    assert eps.shape == (16, 3, 33, 33)
    assert eps.dtype == torch.float32
    assert stats.kstest(eps.flatten().numpy(), "norm").pvalue > 1e-4
    assert eps.abs().max() < 7
    flat = eps.flatten(1).double()
    off = flat @ flat.T / flat.shape[1]
    assert (off - torch.diag(off.diagonal())).abs().max() < 5 / math.sqrt(flat.shape[1])
    half = flat[:, : flat.shape[1] // 2]  # the cosines and the sines of the same pairs
    assert abs((half * flat[:, -half.shape[1] :]).mean().item()) < 5 / math.sqrt(half.numel())
    part = noise_on_device(draws._replace(positions=np.array([9, 2])), "eps", (3, 33, 33), cpu)
    assert torch.equal(part, eps[[9, 2]])
    assert not torch.equal(noise_on_device(draws, "offset", (3, 33, 33), cpu), eps)


def test_a_batch_takes_the_noise_of_its_device(tiny):
    changes = {"training.noise_device": "device", "diffusion.offset_noise": 0.5}
    recipe, data = parse_recipe(tiny, "tiny", changes), open_images("digits")
    assert sample_images(recipe, data, 4)[1] is None
    eps = sample_batch(recipe, data, 4).eps
    draws, cpu = BatchDraws.of(recipe.training.seed, 4, 8), torch.device("cpu")
    shift = noise_on_device(draws, "offset", (1, 1, 1), cpu)
    assert torch.equal(eps, noise_on_device(draws, "eps", (1, 8, 8), cpu) + 0.5 * shift)


def test_noise_on_a_device_that_has_none_is_refused(tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"noise_device = device needs CUDA.*noise_device=cpu"):
        fromnoise.train(tiny, out=tmp_path / "run", overrides={"training.noise_device": "device"})
    assert not (tmp_path / "run").exists()


# ---- versions of the draws ----------------------------------------------------------------------


@pytest.fixture
def drawn_by(finished_run, tmp_path):
    """drawn_by(1): a run whose newest checkpoint has draws of this version, or none of any."""

    def change(draws):
        run = tmp_path / "run"
        shutil.copytree(finished_run, run)
        file = run / "checkpoints" / "000006" / "state.json"
        state = json.loads(file.read_text())
        assert state["draws"] == rng.DRAWS
        del state[checkpoints.OWN_HASH]
        state = {k: v for k, v in state.items() if k != "draws"}
        state |= {} if draws is None else {"draws": draws}
        file.write_text(json.dumps(state | {checkpoints.OWN_HASH: checkpoints._own_hash(state)}))
        return run

    return change


def test_a_run_of_earlier_draws_goes_on_with_new_ones_and_says_so(drawn_by, caplog):
    run = drawn_by(None)
    fromnoise.resume(run, overrides={"training.steps": 7})
    assert "drew the random numbers up to step 6: later ones differ" in caplog.text
    state = json.loads((run / "checkpoints" / "000007" / "state.json").read_text())
    assert state["draws"] == rng.DRAWS
    caplog.clear()
    fromnoise.resume(run, overrides={"training.steps": 8})
    assert "random numbers" not in caplog.text


def test_a_run_of_later_draws_is_refused(drawn_by, cli):
    run = drawn_by(3)
    code, _, err = cli("resume", run, "steps=7")
    assert code == 2
    assert "has draws = 3, but this fromnoise supports only 2. Install a newer" in err


def test_of_data_any_kind_the_rows_are_those_of_the_indices():
    images = np.arange(40, dtype=np.uint8).reshape(10, 1, 2, 2)
    data = ImageSet(images, None, (), "", (), "npz")
    recipe = parse_recipe(SIMPLE, "x")
    x0, _ = sample_images(recipe, data, 9)
    chosen = image_indices(BatchDraws.of(0, 9, 5), 10)
    assert np.array_equal(x0.numpy(), images[chosen])
