import pytest
import torch
from torch import nn

from fromnoise.config.components import COMPONENTS, Component, check_component
from fromnoise.interop.explainingai import explainingai


def sequence(c_in, c_out):
    return nn.Sequential(nn.GroupNorm(8, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))


class Block(nn.Module):
    """One published block: `extra` residual layers more than attentions, resampled or not."""

    def __init__(self, c_in, c_out, c_time, layers, extra=0, down=False, up=False):
        super().__init__()
        c_ins = [c_in] + [c_out] * (layers + extra - 1)
        self.resnet_conv_first = nn.ModuleList([sequence(c, c_out) for c in c_ins])
        self.t_emb_layers = nn.ModuleList(
            [nn.Sequential(nn.SiLU(), nn.Linear(c_time, c_out)) for _ in c_ins]
        )
        self.resnet_conv_second = nn.ModuleList([sequence(c_out, c_out) for _ in c_ins])
        self.attention_norms = nn.ModuleList([nn.GroupNorm(8, c_out) for _ in range(layers)])
        self.attentions = nn.ModuleList(
            [nn.MultiheadAttention(c_out, 4, batch_first=True) for _ in range(layers)]
        )
        self.residual_input_conv = nn.ModuleList([nn.Conv2d(c, c_out, 1) for c in c_ins])
        if down:
            self.down_sample_conv = nn.Conv2d(c_out, c_out, 4, stride=2, padding=1)
        if up:
            self.up_sample_conv = nn.ConvTranspose2d(c_in // 2, c_in // 2, 4, stride=2, padding=1)

    def forward(self, x, time, skip=None):
        if skip is not None:
            x = self.up_sample_conv(x) if hasattr(self, "up_sample_conv") else x
            x = torch.cat([x, skip], dim=1)
        for j, shortcut in enumerate(self.residual_input_conv):
            h = self.resnet_conv_first[j](x) + self.t_emb_layers[j](time)[..., None, None]
            x = self.resnet_conv_second[j](h) + shortcut(x)
            if j < len(self.attentions):
                tokens = self.attention_norms[j](x).flatten(2).mT
                h, _ = self.attentions[j](tokens, tokens, tokens)
                x = x + h.mT.unflatten(2, x.shape[2:])
        return self.down_sample_conv(x) if hasattr(self, "down_sample_conv") else x


class Foreign(nn.Module):
    """The published layout."""

    def __init__(self, image_channels, channels, mid_channels, downsample, c_time, layers):
        super().__init__()
        down, mid, up = layers
        self.t_proj = nn.Sequential(nn.Linear(c_time, c_time), nn.SiLU(), nn.Linear(c_time, c_time))
        self.conv_in = nn.Conv2d(image_channels, channels[0], 3, padding=1)
        self.downs, self.mids, self.ups = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for i, halves in enumerate(downsample):
            self.downs.append(Block(channels[i], channels[i + 1], c_time, down, down=halves))
            c_out = channels[i - 1] if i else 16
            self.ups.insert(0, Block(2 * channels[i], c_out, c_time, up, up=halves))
        for i in range(len(mid_channels) - 1):
            self.mids.append(Block(mid_channels[i], mid_channels[i + 1], c_time, mid, extra=1))
        self.norm_out = nn.GroupNorm(8, 16)
        self.conv_out = nn.Conv2d(16, image_channels, 3, padding=1)

    def forward(self, x, t):
        half = self.t_proj[0].in_features // 2
        factor = 10000 ** (torch.arange(half).float() / half)
        angle = t.float()[:, None] / factor
        time = self.t_proj(torch.cat([angle.sin(), angle.cos()], dim=-1))
        x = self.conv_in(x)
        skips = []
        for block in self.downs:
            skips.append(x)
            x = block(x, time)
        for block in self.mids:
            x = block(x, time)
        for block in self.ups:
            x = block(x, time, skips.pop())
        return self.conv_out(nn.functional.silu(self.norm_out(x)))


SMALL = {
    "image_channels": 3,
    "channels": (8, 16, 24),
    "mid_channels": (24, 16),
    "downsample": (True, False),
    "c_time": 12,
    "layers": (1, 1, 1),
}


def foreign(**options) -> Foreign:
    torch.manual_seed(0)
    network = Foreign(**{**SMALL, **options}).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network


def ours(read):
    """Built from the specification as the importer builds it."""
    options = check_component(Component(**read.spec["network"]), "network").options
    build = COMPONENTS["network"][read.spec["network"]["name"]]
    network = build(image_channels=read.spec["channels"], **options)
    network.load_state_dict(read.raw)
    return network.eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"image_channels": 1, "layers": (2, 1, 3)},
        {"mid_channels": (24, 32, 8, 16), "layers": (1, 2, 1), "c_time": 20},
        {"channels": (16, 8, 16, 32), "mid_channels": (32, 16), "downsample": (False, True, True)},
        {
            "channels": (32, 64, 128, 256),
            "mid_channels": (256, 256, 128),
            "downsample": (True, True, False),
            "c_time": 128,
            "layers": (2, 2, 2),
        },
    ],
    ids=["small", "layers", "middle", "resampling", "published"],
)
def test_gives_the_same_output(options):
    theirs = foreign(**options)
    read = explainingai(theirs.state_dict())
    assert read is not None
    x, t = torch.randn(3, theirs.conv_in.in_channels, 8, 12), torch.tensor([0, 17, 999])
    with torch.no_grad():
        out, expected = ours(read)(x, t), theirs(x, t)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("image_channels", "side"), [(1, 28), (3, 64), (4, 64)])
def test_the_spec_and_its_notes(image_channels, side):
    read = explainingai(foreign(image_channels=image_channels).state_dict())
    assert read is not None
    assert read.spec["network"] == {
        "name": "dense_attention",
        "channels": [8, 16, 24],
        "mid_channels": [24, 16],
        "downsample": [True, False],
        "time_dim": 12,
        "num_layers": [1, 1, 1],
        "out_width": 16,
    }
    assert read.spec["diffusion"] == {
        "T": 1000,
        "schedule": {"name": "linear", "beta_1": 1e-4, "beta_T": 0.02},
        "prediction": "eps",
    }
    assert read.spec["sampling"] == {
        "sampler": {"name": "ddpm", "variance": "small"},
        "steps": 1000,
        "clamp": True,
    }
    assert (read.spec["channels"], read.spec["size"]) == (image_channels, [side, side])
    assert (read.ema, read.step) == (None, 0)
    assert read.assumed.keys() == {
        "size",
        "diffusion.T",
        "diffusion.schedule",
        "diffusion.schedule.beta_1",
        "diffusion.schedule.beta_T",
        "network.heads",
        "network.groups",
        "sampling.clamp",
    }
    assert not read.notes


def test_the_prefix_of_data_parallel_is_removed():
    state = foreign().state_dict()
    read = explainingai({f"module.{name}": tensor for name, tensor in state.items()})
    assert read is not None
    assert read.raw.keys() == explainingai(state).raw.keys()


def test_a_modified_program_is_noted():
    state = foreign().state_dict() | {"norm_out.weight": torch.ones(128)}
    read = explainingai(state)
    assert "norm_out has 128 channels instead of 16" in read.notes[0]
    assert "was modified" in read.assumed["network.heads"]


@pytest.mark.parametrize(
    "payload",
    [{}, {"a": torch.zeros(2)}, {"weights": {}, "optimizer": {}, "ema": {}}],
    ids=["nothing", "tensors", "tutorial"],
)
def test_other_files_are_not_recognised(payload):
    assert explainingai(payload) is None


def test_an_incomplete_state_is_not_recognised():
    state = foreign().state_dict()
    assert explainingai({k: v for k, v in state.items() if not k.startswith("mids.")}) is None
