import math

import pytest
import torch
from torch import nn

from fromnoise.config.components import COMPONENTS, Component, check_component
from fromnoise.interop.explainingai import explainingai
from fromnoise.interop.mnist_tutorial import mnist_tutorial

HEADS = 8


class ResBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gnorm1, self.gnorm2 = nn.GroupNorm(32, c), nn.GroupNorm(32, c)
        self.conv1, self.conv2 = (nn.Conv2d(c, c, 3, padding=1) for _ in range(2))

    def forward(self, x, embedding):
        x = x + embedding[:, : x.shape[1], None, None]
        r = self.conv1(torch.relu(self.gnorm1(x)))
        return x + self.conv2(torch.relu(self.gnorm2(r)))


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.proj1, self.proj2 = nn.Linear(c, 3 * c), nn.Linear(c, c)

    def forward(self, x):
        """Element (c·heads + h)·3 + k of proj1 is channel c of head h, and k says q, k or v."""
        b, channels, height, width = x.shape
        projected = self.proj1(x.permute(0, 2, 3, 1).reshape(b, height * width, channels))
        merged = torch.empty(b, height * width, channels)
        for h in range(HEADS):
            q, k, v = (projected[..., 3 * h + i :: 3 * HEADS] for i in range(3))
            weights = torch.softmax(q @ k.mT / math.sqrt(channels / HEADS), dim=-1)
            merged[..., h::HEADS] = weights @ v
        return self.proj2(merged).mT.reshape(x.shape)


class UnetLayer(nn.Module):
    def __init__(self, c, upscale, attention):
        super().__init__()
        self.ResBlock1, self.ResBlock2 = ResBlock(c), ResBlock(c)
        if upscale:
            self.conv = nn.ConvTranspose2d(c, c // 2, 4, stride=2, padding=1)
        else:
            self.conv = nn.Conv2d(c, 2 * c, 3, stride=2, padding=1)
        if attention:
            self.attention_layer = Attention(c)

    def forward(self, x, embedding):
        x = self.ResBlock1(x, embedding)
        if hasattr(self, "attention_layer"):
            x = self.attention_layer(x)
        x = self.ResBlock2(x, embedding)
        return self.conv(x), x


class Foreign(nn.Module):
    """The published layout, at rest (no dropout)."""

    def __init__(self, channels, attention, image_channels):
        super().__init__()
        self.depth, self.width = len(channels) // 2, max(channels)
        self.shallow_conv = nn.Conv2d(image_channels, channels[0], 3, padding=1)
        for i, (c, attends) in enumerate(zip(channels, attention, strict=True)):
            self.add_module(f"Layer{i + 1}", UnetLayer(c, i >= self.depth, attends))
        last = channels[-1] // 2 + channels[0]
        self.late_conv = nn.Conv2d(last, last // 2, 3, padding=1)
        self.output_conv = nn.Conv2d(last // 2, image_channels, 1)

    def forward(self, x, t):
        table = torch.zeros(1000, self.width)
        position = torch.arange(1000.0)[:, None]
        rate = torch.exp(torch.arange(0, self.width, 2) * -(math.log(10000) / self.width))
        table[:, 0::2], table[:, 1::2] = torch.sin(position * rate), torch.cos(position * rate)
        x, skips = self.shallow_conv(x), []
        for i in range(2 * self.depth):
            x, before = self.get_submodule(f"Layer{i + 1}")(x, table[t])
            if i < self.depth:
                skips.append(before)
            else:
                x = torch.cat([x, skips.pop()], dim=1)
        return self.output_conv(torch.relu(self.late_conv(x)))


SMALL = {"channels": (32, 64, 128, 128), "attention": (False, True, False, True)}
PUBLISHED = {
    "channels": (64, 128, 256, 512, 512, 384),
    "attention": (False, True, False, False, False, True),
}


def foreign(channels=SMALL["channels"], attention=SMALL["attention"], image_channels=1, seed=0):
    torch.manual_seed(seed)
    network = Foreign(channels, attention, image_channels).eval()
    for parameter in network.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, std=0.1)
    return network


def checkpoint(average: Foreign, raw: Foreign):
    """As torch.save writes it: timm's ModelEmaV3 holds its copy as `module`."""
    return {
        "weights": raw.state_dict(),
        "optimizer": torch.optim.Adam(raw.parameters()).state_dict(),
        "ema": {f"module.{name}": tensor for name, tensor in average.state_dict().items()},
    }


def ours(read, weights):
    """Built from the specification as the importer builds it."""
    options = check_component(Component(**read.spec["network"]), "network").options
    build = COMPONENTS["network"][read.spec["network"]["name"]]
    network = build(image_channels=read.spec["channels"], **options)
    network.load_state_dict(weights)
    return network.eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"channels": (32, 64), "attention": (False, True), "image_channels": 3},
        {"channels": (96, 192, 384, 384), "attention": (False, False, True, False)},
        PUBLISHED,
    ],
    ids=["small", "two-layers", "other-widths", "published"],
)
def test_gives_the_same_output(options):
    average, raw = foreign(**options, seed=1), foreign(**options, seed=2)
    read = mnist_tutorial(checkpoint(average, raw))
    assert read is not None
    x, t = torch.randn(3, raw.shallow_conv.in_channels, 8, 16), torch.tensor([0, 17, 999])
    with torch.no_grad():
        for theirs, weights in ((average, read.ema), (raw, read.raw)):
            out, expected = ours(read, weights)(x, t), theirs(x, t)
            torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_the_spec_and_its_notes():
    read = mnist_tutorial(checkpoint(foreign(), foreign()))
    assert read is not None
    assert read.spec == {
        "network": {
            "name": "stacked",
            "channels": [32, 64, 128, 128],
            "attention": [False, True, False, True],
            "upscale": [False, False, True, True],
        },
        "diffusion": {
            "T": 1000,
            "schedule": {"name": "linear", "beta_1": 1e-4, "beta_T": 0.02},
            "prediction": "eps",
        },
        "sampling": {
            "sampler": {"name": "ddpm", "variance": "large"},
            "steps": 1000,
            "clamp": False,
        },
        "channels": 1,
        "size": [32, 32],
        "data_range": [0, 1],
    }
    assert read.step == 0
    assert {"size", "diffusion.T", "network.heads", "data_range"} <= read.assumed.keys()


def test_the_share_of_initial_weights_in_the_ema_is_noted():
    payload = checkpoint(foreign(), foreign())
    payload["optimizer"]["state"] = {i: {"step": torch.tensor(14_055.0)} for i in range(2)}
    read = mnist_tutorial(payload)
    assert read.step == 14_055  # 15 epochs of 937 batches
    assert "24.5% of the random initial weights" in read.notes[-1]


def test_other_files_are_not_recognised():
    payload = checkpoint(foreign(), foreign())
    assert mnist_tutorial({}) is None
    assert mnist_tutorial({"weights": torch.zeros(2), "ema": {"a": torch.zeros(2)}}) is None
    assert explainingai(payload) is None


def test_one_of_the_two_weights_is_enough():
    payload = checkpoint(foreign(seed=1), foreign(seed=2))
    whole = mnist_tutorial(payload)
    for part in (payload["weights"], {key: payload[key] for key in ("weights", "optimizer")}):
        read = mnist_tutorial(part)
        assert read.ema is None
        torch.testing.assert_close(read.raw, whole.raw)
    read = mnist_tutorial({"ema": payload["ema"]})
    assert read.raw is None
    torch.testing.assert_close(read.ema, whole.ema)
