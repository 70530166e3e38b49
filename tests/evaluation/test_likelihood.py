"""Bits per dimension of a model: the numbers are those of the bound, and the intervals hold."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fromnoise.config.components import with_checked_components
from fromnoise.diffusion import Denoiser, NoiseSchedule, bits_per_dimension
from fromnoise.evaluation.intervals import mean_interval
from fromnoise.evaluation.likelihood import measure_bits, save_curve, variance_of
from fromnoise.evaluation.records import plain
from fromnoise.model.model import Model, build_denoiser
from fromnoise.model.spec import ModelSpec
from fromnoise.rng import image_noise, seed_of

NAMES = ("red", "green")


def model_of(names=NAMES, *, network=None, T=10, **spec):
    """A small network with random weights in every layer, so that all that it sees counts."""
    spec = ModelSpec.model_validate(
        {
            "network": {
                "name": "ddpm",
                "channels": 8,
                "multipliers": [1, 1],
                "groups": 4,
                "num_res_blocks": 1,
                **(network or {}),
            },
            "diffusion": {"T": T, "schedule": "cosine"},
            "sampling": {"steps": 2},
            "channels": 3,
            "size": (8, 8),
            "label_names": names,
            **spec,
        }
    )
    spec = with_checked_components(spec)
    model = Model(build_denoiser(spec).eval().requires_grad_(False), spec)
    generator = torch.Generator().manual_seed(0)
    for weights in model.denoiser.parameters():
        weights += 0.05 * torch.randn(weights.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture(scope="module")
def images():
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 8, 8), dtype=np.uint8)
    images.flags.writeable = False  # as those of a data set are
    return images


LABELS = np.array([[1, -1], [-1, 1], [0, 0], [1, 0], [1, 1], [-1, -1], [0, 1]], dtype=np.int8)


def test_with_every_time_the_numbers_are_those_of_the_whole_bound(model, images):
    stats = pytest.importorskip("scipy.stats")
    got = measure_bits(model, images, LABELS, data="noise", evaluations=10, seed=3)
    seeds = [seed_of(3, i, "bits") for i in range(7)]
    whole = bits_per_dimension(
        model.denoiser,
        torch.tensor(images) / 127.5 - 1,
        torch.tensor(LABELS).float(),
        noise=lambda t: image_noise(seeds, int(t[0]), (3, 8, 8)),
    )
    for interval, values in [
        (got.total, whole.total),
        (got.L_T, whole.L_T),
        (got.middle, whole.terms[:, 1:].sum(dim=1)),
        (got.L_0, whole.terms[:, 0]),
    ]:
        low, high = stats.t.interval(0.95, 6, values.mean().item(), stats.sem(values.numpy()))
        assert interval == pytest.approx((values.mean().item(), low, high), rel=1e-4)
    assert [(stretch.first, stretch.last) for stretch in got.curve] == [
        (t, t) for t in range(1, 11)
    ]
    means = whole.terms.mean(dim=0).tolist()
    assert [stretch.per_step for stretch in got.curve] == pytest.approx(means, rel=1e-4)


def test_the_curve_and_the_parts_add_up_to_the_total(model, images):
    got = measure_bits(model, images, data="noise", evaluations=4)
    steps = [(s.last - s.first + 1) * s.per_step for s in got.curve]
    assert len(steps) == 4
    assert sum(steps[1:]) == pytest.approx(got.middle.value)
    assert steps[0] == pytest.approx(got.L_0.value)
    parts = got.L_T.value + got.middle.value + got.L_0.value
    assert got.total.value == pytest.approx(parts)


def test_a_number_does_not_depend_on_the_batches_but_on_the_seed(model, images):
    calls = []
    at_once = measure_bits(model, images, LABELS, data="noise", evaluations=5)
    in_threes = measure_bits(
        model,
        images,
        LABELS,
        data="noise",
        evaluations=5,
        batch_size=3,
        progress=lambda *call: calls.append(call),
    )
    assert at_once.total == pytest.approx(in_threes.total, rel=1e-4)
    assert calls == [(3, 7), (6, 7), (7, 7)]
    other = measure_bits(model, images, LABELS, data="noise", evaluations=5, seed=1)
    assert abs(other.total.value - at_once.total.value) > 1e-3


def test_images_and_labels_are_told_apart(model, images):
    with_labels = measure_bits(model, images, LABELS, data="noise", evaluations=10)
    without = measure_bits(model, images, data="noise", evaluations=10)
    silent = measure_bits(model, images, LABELS * 0, data="noise", evaluations=10)
    assert without.total == pytest.approx(silent.total, rel=1e-5)
    assert abs(with_labels.total.value - without.total.value) > 5e-5
    assert (with_labels.labels, without.labels) == (True, False)


def test_the_result_is_ready_for_json(model, images):
    got = measure_bits(model, images // 64 * 64, data="noise in 4 levels")
    tree = json.loads(json.dumps(plain(got)))
    assert (tree["data"], tree["num_images"], tree["levels"]) == ("noise in 4 levels", 7, 4)
    assert (tree["evaluations"], tree["T"]) == (10, 10)  # 50 by default, but there are 10
    assert (tree["variance"], tree["labels"]) == ("small", False)
    for name in ("total", "L_T", "middle", "L_0"):
        assert tree[name]["low"] <= tree[name]["value"] <= tree[name]["high"]
    assert tree["curve"][0]["per_step"] == got.L_0.value
    assert set(tree["curve"][0]) == {"first", "last", "per_step", "low", "high"}


@pytest.mark.parametrize("evaluations", [2, 5, 10])
def test_the_curve_is_drawn(model, images, tmp_path, evaluations):
    got = measure_bits(model, images, data="noise", evaluations=evaluations)
    with Image.open(save_curve(got, tmp_path / "new" / "curve.png")) as picture:
        assert np.asarray(picture.convert("L")).std() > 0


@pytest.mark.parametrize(
    ("network", "sampler", "expected"),
    [
        ({}, "ddim", "small"),
        ({}, {"name": "ddpm"}, "small"),
        ({}, {"name": "ddpm", "variance": "large"}, "large"),
        ({"learned_variance": True}, "ddim", "learned"),
        ({"learned_variance": True}, {"name": "ddpm", "variance": "small"}, "learned"),
    ],
)
def test_the_variance_is_the_models_own(images, network, sampler, expected):
    model = model_of(network=network, sampling={"sampler": sampler, "steps": 2})
    assert variance_of(model) == expected
    got = measure_bits(model, images, data="noise", evaluations=2)
    assert got.variance == expected


# ---- intervals ------------------------------------------------------------------------------


def test_an_interval_holds_the_truth_in_95_of_100_repeats():
    # Pixels x_0 ~ N(0, 0.3²) and E[x_0 | x_t]; many images, cut into repeats of 40.
    class Pixels(nn.Module):
        def forward(self, x_t, index, cond):
            a = schedule.alpha_bar[index + 1].reshape(-1, 1, 1, 1)
            return a.sqrt() * 0.09 / (a * 0.09 + 1 - a) * x_t

    schedule, repeats, size = NoiseSchedule.named("cosine", 200), 400, 40
    generator = torch.Generator().manual_seed(0)
    x = 0.3 * torch.randn(repeats * size, 1, 2, 2, generator=generator).clamp(-3, 3)
    x0 = ((x + 1) * 127.5).round() / 127.5 - 1
    totals = bits_per_dimension(
        Denoiser(Pixels(), schedule, "x0"),
        x0,
        uniform=torch.rand(len(x0), 8, generator=generator),
        noise=lambda t: torch.randn(x0.shape, generator=generator),
    ).total.reshape(repeats, size)
    truth = totals.mean().item()  # its own error is 1/20 of that of a repeat
    intervals = [mean_interval(repeat.double().numpy()) for repeat in totals]
    held = np.mean([low <= truth <= high for _, low, high in intervals])
    assert 0.92 < held < 0.98


# ---- what is refused ------------------------------------------------------------------------


def test_a_model_of_another_range_is_refused(images):
    with pytest.raises(ValueError, match=r"lie in 0\.\.1, but bits .* levels in -1\.\.1\. Use a"):
        measure_bits(model_of(data_range=(0.0, 1.0)), images, data="noise")


def test_a_model_of_offset_noise_is_refused(images):
    offset = model_of(diffusion={"T": 10, "schedule": "cosine", "offset_noise": 0.1})
    message = r"diffusion\.offset_noise = 0\.1, but the bound assumes standard normal noise\. Use"
    with pytest.raises(ValueError, match=message):
        measure_bits(offset, images, data="noise")


def test_what_is_not_the_models_is_refused(model, images):
    with pytest.raises(ValueError, match=r"images are uint8 \(7, 3, 8, 4\)\. Give .* \(3, 8, 8\)"):
        measure_bits(model, images[..., :4], data="noise")
    with pytest.raises(ValueError, match=r"images are uint8 \(7, 1, 8, 8\)"):
        measure_bits(model, images[:, :1], data="noise")
    with pytest.raises(ValueError, match=r"images are float64 .* Give uint8"):
        measure_bits(model, images / 255, data="noise")
    with pytest.raises(ValueError, match=r"1 images give no interval\. Give at least 2"):
        measure_bits(model, images[:1], data="noise")
    with pytest.raises(ValueError, match=r"have shape \(7, 3\)\. Give \(7, 2\)"):
        measure_bits(model, images, np.zeros((7, 3), dtype=np.int8), data="noise")
    with pytest.raises(ValueError, match=r"this model is unconditional\. Remove labels"):
        measure_bits(model_of(()), images, LABELS, data="noise")
    with pytest.raises(ValueError, match=r"must lie in 2\.\.10, not 11"):
        measure_bits(model, images, data="noise", evaluations=11)
