import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fromnoise.interop import unet_config, unet_state_dict
from fromnoise.networks import DDPM

UNet2DModel = pytest.importorskip("diffusers").UNet2DModel

TINY = {"channels": 8, "groups": 4, "dropout": 0.0}


def randomised(network: DDPM) -> DDPM:
    """Every weight random: as built, the zero layers would hide all that is before them."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def diffusers_twin(network: DDPM) -> UNet2DModel:
    unet = UNet2DModel(**unet_config(network))
    unet.load_state_dict(unet_state_dict(network))  # strict: no key missing, none left over
    return unet


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"multipliers": (1, 2, 2), "attention_levels": (1,)}, (16, 16)),
        ({"multipliers": (1, 2), "downsample": "symmetric", "image_channels": 1}, (8, 12)),
        ({"multipliers": (1, 3, 2), "attention_levels": (0, 2), "num_res_blocks": 1}, (8, 8)),
        ({"multipliers": (1,), "attention_levels": (), "image_channels": 5}, (5, 7)),
        ({"multipliers": (1, 2), "scale_shift": True}, (8, 8)),
        ({"multipliers": (1, 2), "learned_variance": True}, (8, 8)),
        ({"multipliers": (1, 2), "head_channels": 4, "num_res_blocks": [1, 1]}, (8, 8)),
        ({"multipliers": (1, 2), "embedding": "interleaved"}, (8, 8)),
        ({"multipliers": (1, 2), "head_channels": [4, 8]}, (8, 8)),
    ],
    ids=[
        *("paper", "symmetric", "widths", "one-level", "scale-shift", "learned-variance"),
        *("heads", "interleaved", "heads-of-the-level"),
    ],
)
def test_output_and_gradients_equal_those_of_diffusers(options, size):
    ours = randomised(DDPM(**TINY, **options))
    theirs = diffusers_twin(ours)
    x = torch.randn(3, ours.image_channels, *size)
    t = torch.tensor([0, 17, 999])

    out, expected = ours(x, t), theirs(x, t).sample
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)

    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    for parameter in ours.parameters():
        parameter.data = parameter.grad  # so that the mapping renames the gradients too
    gradients = unet_state_dict(ours)
    expected_gradients = {name: p.grad for name, p in theirs.named_parameters()}
    largest = max(g.abs().max().item() for g in expected_gradients.values())
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-5, atol=1e-6 * largest)


@pytest.mark.parametrize(("patch", "learned"), [(2, False), (2, True), (4, False)])
def test_with_a_patch_it_is_the_network_of_the_unshuffled_image(patch, learned):
    options = {"multipliers": (1, 2), "patch": patch, "learned_variance": learned}
    ours = randomised(DDPM(**TINY, **options, image_channels=1))
    theirs = diffusers_twin(ours)
    x, t = torch.randn(2, 1, 16, 24), torch.tensor([3, 500])
    out = theirs(F.pixel_unshuffle(x, patch), t).sample
    torch.testing.assert_close(F.pixel_shuffle(out, patch), ours(x, t), rtol=1e-5, atol=1e-5)


def test_the_config_equals_that_of_the_published_cifar10_model():
    with torch.device("meta"):
        config = unet_config(DDPM())
    assert config == {
        "act_fn": "silu",
        "attention_head_dim": None,
        "attn_norm_num_groups": 32,
        "block_out_channels": [128, 256, 256, 256],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "downsample_padding": 0,
        "dropout": 0.1,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "in_channels": 3,
        "layers_per_block": 2,
        "norm_eps": 1e-6,
        "norm_num_groups": 32,
        "out_channels": 3,
        "resnet_time_scale_shift": "default",
        "time_embedding_type": "positional",
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    }


@pytest.mark.parametrize("function", [unet_config, unet_state_dict])
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"cond_dim": 10}, "its condition has 10 columns"),
        ({"self_conditioning": True}, "it has self_conditioning"),
        ({"head_channels": [8, 4, 8, 8]}, r"head_channels is \[8, 4, 8, 8\], not one number"),
        ({"multipliers": (1, 2), "downsample": "residual"}, "downsample is residual"),
        ({"multipliers": (2, 4)}, "multipliers do not start with 1"),
        ({"multipliers": (1, 2), "num_res_blocks": [1, 2]}, r"num_res_blocks is \[1, 2\], not one"),
    ],
)
def test_unsupported_networks_are_refused(function, options, reason):
    with pytest.raises(ValueError, match=reason):
        function(DDPM(**TINY, **options))
