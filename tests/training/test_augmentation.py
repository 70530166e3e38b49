"""Non-leaky augmentation: the transformations, their columns, and what samples show of them."""

import math
from typing import get_args

import numpy as np
import pytest
import torch

import fromnoise
from fromnoise.checkpoints import read_tensors
from fromnoise.config import schema
from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import parse_recipe
from fromnoise.data import ImageSet, open_images
from fromnoise.data.augmentation import COLUMNS, augment, columns_of, condition, matrices, resample
from fromnoise.data.augmentation import parameters as drawn
from fromnoise.evaluation.likelihood import measure_bits
from fromnoise.model.model import Autoguidance, Model
from fromnoise.rng import BatchDraws
from fromnoise.training import run as running
from fromnoise.training.step import Batch, sample_batch, sample_images, train_step

stats = pytest.importorskip("scipy.stats")
ALL = tuple(COLUMNS)
BLACK = np.zeros(1, np.uint8)


def parameters(count, p=0.5, names=ALL, seed=0):
    return drawn(BatchDraws.of(seed, 3, count), p, names)


def params(**values):
    """Return a_0 … a_7 of one image, all but these zero: params(a3=0.1)."""
    a = np.zeros((1, 8))
    for name, value in values.items():
        a[0, int(name[1:])] = value
    return a


# ---- the images ---------------------------------------------------------------------------------


def matrix_of_the_paper(a, height, width):
    """The product of Table 6, in pixels from the centre; the first factor acts last."""

    def scale(x, y):
        return np.diag([x, y, 1.0])

    def rotate(angle):
        cos, sin = math.cos(angle), math.sin(angle)
        return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])

    def translate(x, y):
        return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])

    stretch = 2 ** (0.2 * a[5])
    return (
        translate(width / 8 * a[6], height / 8 * a[7])
        @ rotate(a[4])
        @ scale(stretch, 1 / stretch)
        @ rotate(-a[4])
        @ rotate(a[3])
        @ scale(2 ** (0.2 * a[2]), 2 ** (0.2 * a[2]))
        @ scale(1 - 2 * a[0], 1 - 2 * a[1])
    )


def smooth(x, y):
    """Return three blobs of different sizes at a point, in pixels from the centre; 0 far away."""
    blobs = ((-4, -3, 4, 230), (5, 2, 3, 180), (-2, 7, 2.5, 120))
    value = sum(v * np.exp(-((x - p) ** 2 + (y - q) ** 2) / (2 * s * s)) for p, q, s, v in blobs)
    return np.minimum(value, 255)


def test_an_image_is_moved_as_the_table_of_the_paper_says():
    height, width = 40, 56
    y, x = np.meshgrid(
        np.arange(height) + 0.5 - height / 2, np.arange(width) + 0.5 - width / 2, indexing="ij"
    )
    image = torch.from_numpy(smooth(x, y).round().astype(np.uint8))
    a = parameters(40)
    a[0], a[1], a[2] = params(a0=1), params(a3=math.pi / 2), params(a6=0.4, a7=-0.3)
    got = augment(image.expand(40, 1, -1, -1).clone(), a, BLACK).numpy()
    for each, pixels in zip(a, got, strict=True):
        points = np.stack([x, y, np.ones_like(x)]).reshape(3, -1)
        before = np.linalg.inv(matrix_of_the_paper(each, height, width)) @ points
        inside = (abs(before[0]) < width / 2) & (abs(before[1]) < height / 2)
        expected = np.where(inside, smooth(before[0], before[1]), 0).reshape(height, width)
        off = abs(pixels[0] - expected)
        assert off.mean() < 0.4, each
        assert np.quantile(off, 0.99) < 4, each  # a blob that the edge cuts has a step there


def test_the_inverse_transformation_gives_the_image_back():
    y, x = np.meshgrid(np.arange(32) - 15.5, np.arange(32) - 15.5, indexing="ij")
    image = torch.from_numpy(smooth(x, y).round().astype(np.uint8))[None, None]
    there = params(a2=0.4, a3=0.7, a6=0.2, a7=-0.1)
    matrix = matrices(there, (32, 32))
    moved = augment(image.clone(), there, BLACK)
    back = resample(moved, np.linalg.inv(matrix), torch.zeros(1))
    middle = slice(6, -6)
    off = (back.int() - image.int()).abs()[..., middle, middle]
    assert off.max() <= 5
    assert off.float().mean() < 0.7
    assert (moved.int() - image.int()).abs().max() > 60


def test_without_a_transformation_an_image_stays_and_a_flip_moves_pixels_only():
    images = torch.randint(256, (4, 3, 9, 12), dtype=torch.uint8)
    white = np.full(3, 255, np.uint8)
    a = np.concatenate([params(), params(a0=1), params(a1=1), params(a0=1, a1=1)])
    got = augment(images.clone(), a, white)
    expected = [images[0], images[1].flip(-1), images[2].flip(-2), images[3].flip(-1, -2)]
    assert torch.equal(got, torch.stack(expected))


def test_a_quarter_turn_and_a_shift_of_whole_pixels_are_exact_on_smooth_images():
    y, x = np.meshgrid(np.arange(32) - 15.5, np.arange(32) - 15.5, indexing="ij")
    image = torch.from_numpy(smooth(x, y).round().astype(np.uint8))[None, None]
    turned = augment(image.clone(), params(a3=math.pi / 2), BLACK)[0, 0]
    assert (turned.int() - image[0, 0].rot90(-1).int()).abs().max() <= 1  # clockwise: y is down
    shifted = augment(image.clone(), params(a6=1.0), BLACK)[0, 0]  # by 32/8
    assert (shifted[:, 4:].int() - image[0, 0, :, :-4].int()).abs().max() <= 1


@pytest.mark.parametrize(("scale", "angle"), [(0.5, 0), (0.7, 0), (1, math.pi / 4), (0.6, 0.3)])
def test_what_is_too_fine_for_the_new_image_becomes_grey(scale, angle):
    board = 255 * (torch.arange(64)[:, None] + torch.arange(64)) % 510  # a chess board of pixels
    image = board.to(torch.uint8)[None, None]
    a = params(a2=5 * math.log2(scale), a3=angle)
    middle = augment(image.clone(), a, np.full(1, 128, np.uint8))[0, 0, 20:44, 20:44].float()
    assert abs(middle.mean() - 127.5) < 1
    assert middle.std() < 2  # 127.5 without a filter


@pytest.mark.parametrize(
    ("channels", "expected"), [(1, [124]), (3, [200, 100, 50]), (4, [124, 124, 124, 124])]
)
def test_outside_is_the_background_of_the_data(channels, expected, tiny):
    images = np.full((9, channels, 16, 16), 77, np.uint8)
    data = ImageSet(images, None, (), "", (), "npz")
    overrides = {"data.background": [200, 100, 50], "training.augment": 0.99}
    recipe = parse_recipe(tiny, "tiny", overrides | {"training.augmentations": ["translation"]})
    x0, _ = sample_images(recipe, data, 0)
    outside = set()
    for image in x0.unbind():
        corners = image[:, [0, 0, -1, -1], [0, -1, 0, -1]].T.tolist()
        assert [77] * channels in image.flatten(1).T.tolist()
        outside |= {tuple(c) for c in corners} - {(77,) * channels}
    assert tuple(round(v) for v in expected) in outside
    flat = np.array(expected, np.uint8)
    same = torch.from_numpy(np.tile(flat[:, None, None], (1, 16, 16)))[None]
    turned = augment(same.clone(), params(a3=1.0, a6=0.5), flat)
    assert torch.equal(turned, same)  # no edge where the image has this colour


def test_an_image_does_not_depend_on_the_others():
    images = torch.randint(256, (24, 3, 16, 24), dtype=torch.uint8)
    a = parameters(24)
    whole = augment(images.clone(), a, np.full(3, 255, np.uint8))
    for rows in (slice(5, 6), slice(8, 16), slice(0, 24, 3)):
        part = augment(images[rows].clone(), a[rows], np.full(3, 255, np.uint8))
        assert torch.equal(part, whole[rows])


# ---- the parameters and their columns -----------------------------------------------------------


def test_the_transformations_of_a_recipe_are_those_that_exist():
    assert get_args(schema.Augmentation) == ALL
    assert schema.Training(batch_size=1).augmentations == ALL
    assert len(columns_of(ALL)) == 9  # as in the paper


def test_parameters_are_distributed_as_the_paper_says():
    a, p = parameters(40_000, p=0.3), 0.3
    share = (a != 0).mean(axis=0)
    expected = np.array([p / 2, p / 2, *[p] * 6])  # half of those that get a flip are mirrored
    assert (abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / len(a))).all()
    for i in (2, 5, 6, 7):
        assert stats.kstest(a[a[:, i] != 0, i], "norm").pvalue > 1e-4
    for i in (3, 4):
        uniform = a[a[:, i] != 0, i] / (2 * math.pi) + 0.5
        assert stats.kstest(uniform, "uniform").pvalue > 1e-4
    # parameters of other transformations, and the two of translation, are independent
    of = a[:, [0, 1, 2, 3, 5, 6]]
    for which in (of, (of != 0).astype(float), a[(a[:, 6] != 0)][:, [6, 7]]):
        correlation = np.corrcoef(which.T) - np.eye(which.shape[1])
        assert abs(correlation).max() < 5 / math.sqrt(len(which))


def test_each_transformation_is_drawn_without_the_others():
    every = parameters(500)
    for name in ALL:
        alone = parameters(500, names=(name,))
        own = (alone != 0).any(axis=0)
        assert own.any()
        assert np.array_equal(alone[:, own], every[:, own])
    assert (parameters(500, p=0.0) == 0).all()


def test_the_columns_determine_the_transformation_and_zeros_are_none():
    a = parameters(300)
    x_flip, y_flip, scaling, cos, sin, along, across, right, down = condition(a, ALL).double().T
    again = np.zeros_like(a)
    again[:, 0], again[:, 1], again[:, 2] = x_flip, y_flip, scaling
    again[:, 3] = torch.atan2(sin, cos + 1)
    again[:, 4], again[:, 5] = torch.atan2(across, along) / 2, torch.hypot(along, across)
    again[:, 6], again[:, 7] = right, down
    for ours, theirs in zip(again, a, strict=True):
        expected = matrix_of_the_paper(theirs, 32, 32)
        np.testing.assert_allclose(matrix_of_the_paper(ours, 32, 32), expected, atol=1e-5)
    moved = (a != 0).any(axis=1)
    assert np.array_equal((condition(a, ALL) != 0).any(dim=1).numpy(), moved)


def test_columns_are_those_of_the_chosen_transformations_in_one_order():
    a = parameters(50)
    every = dict(zip(columns_of(ALL), condition(a, ALL).T, strict=True))
    names = ("translation", "x_flip", "rotation")
    columns = columns_of(names)
    assert columns == (
        *("x_flip", "rotation, cos - 1", "rotation, sin"),
        *("translation, x", "translation, y"),
    )
    chosen = condition(a, names)
    assert torch.equal(chosen, torch.stack([every[column] for column in columns], dim=1))


# ---- training -----------------------------------------------------------------------------------


def test_labels_are_dropped_and_columns_are_not(tiny):
    tiny["data"]["labels"] = True
    tiny["training"] |= {"augment": 0.5, "condition_dropout": 1.0, "batch_size": 64}
    recipe, data = parse_recipe(tiny, "tiny"), open_images("digits")
    batch = sample_batch(recipe, data, 2)
    a = drawn(BatchDraws.of(0, 2, 64), 0.5, ALL)
    assert batch.augment is not None
    assert torch.equal(batch.augment, condition(a, ALL))
    got = batch.condition()
    assert got is not None
    assert torch.equal(got[:, 10:], batch.augment)
    assert (got[:, :10] == 0).all()


def test_images_of_a_step_are_those_of_its_columns(tiny):
    overrides = {"training.augment": 0.5, "data.flip": False, "data.background": 0}
    recipe, data = parse_recipe(tiny, "tiny", overrides), open_images("digits")
    plain = parse_recipe(tiny, "tiny", {"data.flip": False})
    for step in range(3):
        batch, before = sample_batch(recipe, data, step), sample_batch(plain, data, step)
        assert batch.augment is not None
        assert before.augment is None
        still = (batch.augment == 0).all(dim=1)
        same = (batch.x0 == before.x0).flatten(1).all(dim=1)
        assert torch.equal(still, same)
        assert torch.equal(batch.eps, before.eps)
        assert torch.equal(batch.t, before.t)


@pytest.fixture(scope="module")
def augmented(tiny_tree, tmp_path_factory):
    """A run of 6 steps with labels and columns."""
    tree = {**tiny_tree, "data": {"source": "digits", "labels": True, "background": 0}}
    tree["training"] = {**tree["training"], "augment": 0.5}
    return fromnoise.train(tree, out=tmp_path_factory.mktemp("augmented") / "run")


def test_a_run_in_two_sessions_is_the_same(augmented, tmp_path):
    tree = augmented.recipe().model_dump(mode="json")
    tree["training"]["steps"] = 4
    run = fromnoise.train(tree, out=tmp_path / "run")
    fromnoise.resume(run.folder, overrides={"training.steps": 6})
    for name in ("model.safetensors", "ema.safetensors"):
        ours, theirs = (
            read_tensors(each.folder / "checkpoints" / "000006" / name).tensors
            for each in (run, augmented)
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


NETWORKS = {
    "ddpm": {"channels": 8, "multipliers": (1, 2), "num_res_blocks": 1, "groups": 4},
    "linear_attention": {"dim": 8, "multipliers": (1, 2), "heads": 2, "head_dim": 8},
    "stacked": {
        "channels": (16, 32),
        "attention": (True, False),
        "upscale": (False, True),
        "groups": 4,
        "heads": 2,
    },
    "dense_attention": {
        "channels": (8, 16),
        "mid_channels": (16, 8),
        "downsample": (True,),
        "time_dim": 16,
        "num_layers": (1, 1, 1),
        "heads": 2,
        "groups": 4,
    },
    "context": {"features": 8, "pool": 2, "expand": 2, "condition": "multi-hot"},
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("labels", [True, False])
def test_every_network_takes_the_columns_with_their_signs(name, labels, tiny, tmp_path):
    tiny["network"] = {"name": name, **NETWORKS[name]}
    tiny["data"] = {"source": "digits", "labels": labels}
    recipe = parse_recipe(tiny, "tiny", {"training.augment": 0.9})
    setup = running.prepare(recipe, open_images("digits"), tmp_path)
    assert setup.spec.cond_dim == 9 + (10 if labels else 0)
    assert len(setup.spec.label_names) == (10 if labels else 0)
    state = running.start(setup)
    for parameter in state.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    batch = sample_batch(recipe, setup.images, 0)
    network, x, t = state.denoiser.network.eval(), torch.randn(8, 1, 8, 8), torch.zeros(8)
    cond = batch.condition()
    assert cond is not None
    once = network(x, t.long(), cond)
    for column in range(cond.shape[1] - 9, cond.shape[1]):
        other = cond.clone()
        other[:, column] += 0.5
        other[0, column] = -0.5
        changed = network(x, t.long(), other)
        assert not torch.isclose(changed, once).flatten(1).all(dim=1).any(), column
        other[0, column] = -0.7  # negative numbers are not cut off
        assert not torch.allclose(network(x, t.long(), other)[0], changed[0])
    state.denoiser.train()
    losses, norm = train_step(state, recipe.diffusion.objective(), batch, recipe.training)
    assert losses.isfinite().all()
    assert 0 < norm < math.inf


# ---- models and sampling ------------------------------------------------------------------------


@pytest.fixture
def asked(augmented):
    """(model, list of the conditions that its network gets)."""
    model, seen = augmented.model("raw"), []
    model.denoiser.network.register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    return model, seen


def test_a_stored_model_knows_its_columns_and_they_are_no_labels(augmented):
    model = fromnoise.load(augmented.folder)
    assert model.spec.augment_columns == columns_of(ALL)
    assert model.spec.label_names == tuple("0123456789")
    assert model.denoiser.network.cond.weight.shape[1] == 19
    assert model.save(augmented.folder.parent / "model.safetensors").is_file()
    again = fromnoise.load(augmented.folder.parent / "model.safetensors")
    assert again.spec == model.spec
    assert torch.equal(again.sample([3]), model.sample([3]))


def test_without_augmentation_a_file_is_that_of_earlier_versions(finished_run):
    model = fromnoise.load(finished_run)
    assert model.spec.augment_columns == ()
    assert "augment" not in model.spec.metadata()["fromnoise"]


def test_columns_are_zero_however_one_samples(asked):
    model, seen = asked
    cond = 2 * torch.eye(10)[:2] - 1
    zeros, alone = torch.zeros(2, 10), torch.eye(10)[[3, 3]]
    data = open_images("digits")
    weak = Model(model.denoiser, model.spec)
    wanted = {
        "plain": (lambda: model.sample([0, 1], steps=1), None),
        "labels": (lambda: model.sample([0, 1], cond=cond, steps=1), cond),
        "guided": (
            lambda: model.sample([0, 1], cond=cond, steps=1, guidance=2.0),
            torch.cat([cond, zeros]),
        ),
        "composed": (
            lambda: model.sample([0, 1], steps=1, compose={"3": 2.0}),
            torch.cat([alone, zeros]),
        ),
        "autoguided": (
            lambda: model.sample([0], cond=cond[:1], steps=1, autoguidance=Autoguidance(weak, 2)),
            cond[:1],
        ),
        "likelihood": (
            lambda: measure_bits(model, data.images[:2], data.labels[:2], data="", evaluations=2),
            torch.tensor(data.labels[:2]).float(),
        ),
    }
    for how, (work, labels) in wanted.items():
        seen.clear()
        work()
        assert seen, how
        for got in seen:
            if labels is None:
                assert got is None, how
            else:
                assert torch.equal(got[:, :10], labels), how
                assert torch.equal(got[:, 10:], torch.zeros(len(labels), 9)), how


def test_a_run_keeps_its_augmentation(augmented):
    for key, value in (("augment", 0.0), ("augmentations", ["x_flip"])):
        overrides = {f"training.{key}": value, "training.steps": 9}
        with pytest.raises(ConfigError, match=rf"training\.{key} = .*Resume cannot change it"):
            fromnoise.resume(augmented.folder, overrides=overrides)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("augment=1",), "training.augment = 1"),
        (("augment=-0.1",), "training.augment = -0.1"),
        (("augment=yes",), "training.augment"),
        (("augment=0.1", "augmentations=[turn]"), "training.augmentations"),
        (("augment=0.1", "augmentations=[]"), "repeats a name"),
        (("augment=0.1", "augmentations=[x_flip, x_flip]"), "repeats a name"),
        (("augmentations=[x_flip]",), "augmentations has no effect with augment = 0"),
        (("augment=0.1", "data.size=4"), "images of at least 8x8, but these are 4x4"),
    ],
)
def test_wrong_settings_are_one_line_and_nothing_is_written(
    arguments, said, cli, recipe_file, tmp_path
):
    out = tmp_path / "run"
    result = cli("train", recipe_file, "--out", out, *arguments)
    assert result.code == 2
    assert said in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not out.exists()


# ---- what samples show --------------------------------------------------------------------------


def upright_images(count, seed):
    """A bright blob above the middle, uint8 (N, 1, 8, 8)."""
    generator = np.random.default_rng(seed)
    y, x = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    cx, cy = 3.5 + generator.normal(0, 0.25, (2, count, 1, 1)) - [[[[0]]], [[[2]]]]
    width = generator.uniform(0.8, 1.1, (count, 1, 1))
    blobs = 255 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width**2))
    return blobs.round().astype(np.uint8)[:, None]


def upright_share(images):
    """Return the share of images whose centre of brightness is up, within 30°."""
    weights = images.astype(float)[:, 0]
    offsets = np.arange(8) - 3.5
    right, down = (weights.sum(axis=axis) @ offsets for axis in (1, 2))
    return (abs(np.arctan2(right, -down)) < math.pi / 6).mean()


@pytest.mark.slow
def test_samples_are_upright_with_the_columns_and_rotated_without(tmp_path, monkeypatch):
    tree = {
        "data": {"source": "npz", "path": str(tmp_path / "up.npz"), "background": 0},
        "network": {"name": "ddpm", "channels": 16, "multipliers": [1, 2], "groups": 4},
        "diffusion": {"T": 200, "schedule": "cosine", "prediction": "v"},
        "training": {
            "steps": 350,
            "batch_size": 32,
            "learning_rate": 2e-3,
            "lr_schedule": "cosine",
            "ema_decay": 0.99,
            "augment": 0.5,
            "augmentations": ["rotation"],
            "precision": "fp32",
        },
    }
    tree["network"] |= {"num_res_blocks": 1, "dropout": 0.0, "attention_levels": []}
    np.savez(tmp_path / "up.npz", images=upright_images(2000, seed=0)[:, 0])
    assert upright_share(upright_images(2000, seed=1)) > 0.999  # held out

    def share(name):
        model = fromnoise.train(tree, out=tmp_path / name).model()
        return upright_share(model.sample(range(300), steps=20, batch_size=150).numpy())

    assert share("with") > 0.985
    # without the columns half of the images point anywhere: 1/2 + 1/2 · 60/360 are upright
    monkeypatch.setattr(Batch, "condition", lambda batch: batch.cond)
    assert 0.4 < share("without") < 0.8
