"""The examples run, and what they show is so."""

import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def two_dimensions():
    return runpy.run_path(str(EXAMPLES / "two_dimensions.py"))


def test_the_denoiser_is_the_mean_of_the_images_that_lead_to_x_t(two_dimensions):
    # By Bayes' rule from many drawn x_0: each weighs as much as its noise is likely.
    generator = torch.Generator().manual_seed(0)
    means, std = two_dimensions["MEANS"], two_dimensions["STD"]
    chosen = torch.multinomial(two_dimensions["WEIGHTS"], 100_000, True, generator=generator)
    noise = torch.randn(100_000, 2, dtype=torch.float64, generator=generator)
    x0 = means[chosen] + std * noise
    x_t = torch.tensor([[0.3, 0.4], [-1.0, 0.2]], dtype=torch.float64)
    for t in (300, 600):
        a = two_dimensions["SCHEDULE"].alpha_bar[t]
        distance = torch.cdist(x_t, a.sqrt() * x0)
        expected = (-distance.square() / (2 * (1 - a))).softmax(dim=1) @ x0
        got = two_dimensions["denoise"](x_t[:, :, None, None], t).x0[:, :, 0, 0]
        torch.testing.assert_close(got, expected, rtol=0, atol=0.02)


def test_every_way_ends_in_all_three_and_second_order_ends_in_the_right_shares(two_dimensions):
    weights = two_dimensions["WEIGHTS"]
    for way in two_dimensions["WAYS"]:
        off = (two_dimensions["shares"](way, 20_000, 20) - weights).abs().max()
        assert off < (0.01 if way in ("heun", "dpm++", "unipc") else 0.03), way


def test_the_picture_is_drawn(two_dimensions, tmp_path):
    file = two_dimensions["draw"](tmp_path / "paths.png", steps=3, shown=4, counted=100)
    with Image.open(file) as image:
        assert image.size == (1200, 1320)
