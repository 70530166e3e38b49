import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fromnoise.checkpoints import CheckpointError
from fromnoise.interop.pytorch_ddpm import w86763777, zoubohao
from fromnoise.networks import DDPM

T = 11


class Block(nn.Module):
    def __init__(self, c_in, c_out, c_time, attends):
        super().__init__()
        self.block1 = nn.Sequential(
            nn.GroupNorm(32, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1)
        )
        self.temb_proj = nn.Sequential(nn.SiLU(), nn.Linear(c_time, c_out))
        self.block2 = nn.Sequential(
            nn.GroupNorm(32, c_out),
            nn.SiLU(),
            nn.Dropout(0.1),
            nn.Conv2d(c_out, c_out, 3, padding=1),
        )
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.attn = Attention(c_out) if attends else nn.Identity()

    def forward(self, x, time):
        h = self.block1(x) + self.temb_proj(time)[:, :, None, None]
        return self.attn(self.block2(h) + self.shortcut(x))


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.group_norm = nn.GroupNorm(32, c)
        self.proj_q, self.proj_k, self.proj_v, self.proj = (nn.Conv2d(c, c, 1) for _ in range(4))

    def forward(self, x):
        h = self.group_norm(x)
        q, k, v = (p(h).flatten(2) for p in (self.proj_q, self.proj_k, self.proj_v))
        weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / math.sqrt(x.shape[1]), dim=2)
        return x + self.proj(torch.einsum("bij,bcj->bci", weights, v).reshape(x.shape))


class Resample(nn.Module):
    def __init__(self, c, stride):
        super().__init__()
        self.main = nn.Conv2d(c, c, 3, stride=stride, padding=1)

    def forward(self, x, time):
        if self.main.stride == (1, 1):
            x = F.interpolate(x, scale_factor=2)
        return self.main(x)


class Foreign(nn.Module):
    """The published layout: all levels in one flat list, the sinusoids in a table."""

    def __init__(self, channels, multipliers, attention, num_blocks, image_channels):
        super().__init__()
        c_time, widths = 4 * channels, [channels * m for m in multipliers]
        table = torch.zeros(T, channels)
        for t in range(T):
            for i in range(0, channels, 2):
                angle = t / 10000 ** (i / channels)
                table[t, i], table[t, i + 1] = math.sin(angle), math.cos(angle)
        self.time_embedding = nn.Module()
        self.time_embedding.timembedding = nn.Sequential(
            nn.Embedding.from_pretrained(table),
            nn.Linear(channels, c_time),
            nn.SiLU(),
            nn.Linear(c_time, c_time),
        )
        self.head = nn.Conv2d(image_channels, channels, 3, padding=1)
        self.downblocks = nn.ModuleList()
        c, skips = channels, [channels]
        for level, width in enumerate(widths):
            for _ in range(num_blocks):
                self.downblocks.append(Block(c, width, c_time, level in attention))
                c = width
                skips.append(c)
            if level < len(widths) - 1:
                self.downblocks.append(Resample(c, 2))
                skips.append(c)
        self.middleblocks = nn.ModuleList([Block(c, c, c_time, True), Block(c, c, c_time, False)])
        self.upblocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(num_blocks + 1):
                self.upblocks.append(Block(skips.pop() + c, width, c_time, level in attention))
                c = width
            if level:
                self.upblocks.append(Resample(c, 1))
        self.tail = nn.Sequential(
            nn.GroupNorm(32, c), nn.SiLU(), nn.Conv2d(c, image_channels, 3, padding=1)
        )

    def forward(self, x, t):
        time = self.time_embedding.timembedding(t)
        x = self.head(x)
        skips = [x]
        for layer in self.downblocks:
            x = layer(x, time)
            skips.append(x)
        for layer in self.middleblocks:
            x = layer(x, time)
        for layer in self.upblocks:
            x = torch.cat([x, skips.pop()], dim=1) if isinstance(layer, Block) else x
            x = layer(x, time)
        return self.tail(x)


def foreign(channels=32, multipliers=(1, 2), attention=(1,), num_blocks=2, image_channels=3):
    torch.manual_seed(0)
    network = Foreign(channels, multipliers, attention, num_blocks, image_channels).eval()
    for parameter in network.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    return network


def ours(read, weights):
    options = {k: v for k, v in read.spec["network"].items() if k != "name"}
    network = DDPM(image_channels=read.spec["channels"], dropout=0.0, **options)
    network.load_state_dict(weights)
    return network.eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"multipliers": (1, 2, 3), "attention": (2,), "num_blocks": 1, "image_channels": 1},
        {"multipliers": (2,), "attention": (), "num_blocks": 3},
        {"multipliers": (1, 1, 2), "attention": (0, 2)},
    ],
)
def test_gives_the_same_output(options):
    theirs = foreign(**options)
    read = zoubohao(theirs.state_dict())
    x, t = torch.randn(2, theirs.head.in_channels, 8, 8), torch.tensor([0, T - 1])
    with torch.no_grad():
        torch.testing.assert_close(ours(read, read.raw)(x, t), theirs(x, t), rtol=1e-5, atol=1e-5)
    assert read.spec["diffusion"]["T"] == T
    assert read.ema is None


def test_ema_and_raw_weights_are_imported():
    average, raw = foreign(), foreign()
    nn.init.normal_(raw.head.weight)
    payload = {
        "net_model": {f"module.{k}": v for k, v in raw.state_dict().items()},
        "ema_model": average.state_dict(),
        "sched": {},
        "optim": {},
        "step": 70_000,
        "x_T": torch.zeros(4, 3, 16, 16),
    }
    read = w86763777(payload)
    torch.testing.assert_close(read.ema["stem.weight"], average.head.weight.detach())
    torch.testing.assert_close(read.raw["stem.weight"], raw.head.weight.detach())
    assert (read.step, read.spec["size"]) == (70_000, [16, 16])
    assert zoubohao(payload) is None


def test_other_files_are_not_recognised():
    assert zoubohao({"a": torch.zeros(2)}) is None
    assert w86763777({"net_model": {}, "ema_model": {}}) is None
    assert w86763777(foreign().state_dict()) is None


def test_the_conditional_network_is_refused():
    state = foreign().state_dict() | {"cond_embedding.condEmbedding.0.weight": torch.zeros(11, 32)}
    with pytest.raises(CheckpointError, match="conditional network, which has other layers"):
        zoubohao(state)
