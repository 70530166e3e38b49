import copy

import pytest
import torch
from torch import nn

from fromnoise.checkpoints import TensorFile, read_tensors, save_checkpoint
from fromnoise.networks import ContextUNet
from fromnoise.training.ema import EMA

hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies

TINY = {"features": 8, "pool": 2, "expand": 3, "T": 50}
CORRECTED = {"pool": 3, "norm": "group", "embedding": "sinusoid", "condition": "signed"}
COND = torch.tensor([[1.0, -1, 0, 0, 0, 1], [0, 0, 0, 0, 0, -1]]).double()


def build(**options) -> ContextUNet:
    """A small network in float64, every weight and every running statistic random."""
    network = ContextUNet(**{**TINY, **options}).double()
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer, std=0.3)
        elif name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 2)
    return network


def inputs(network: ContextUNet, height: int = 12, width: int = 12, batch: int = 2):
    x = torch.randn(batch, network.image_channels, height, width, dtype=torch.float64)
    return x, torch.randint(network.T, (batch,))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"pool": 7, "expand": 8}, (32, 32)),
        ({"image_channels": 1}, (12, 12)),
        ({"image_channels": 8}, (12, 12)),
        ({"cond_dim": 6}, (12, 12)),
        ({"cond_dim": 6, "pool": 3, "learned_variance": True}, (12, 24)),
        ({"norm": "group"}, (12, 12)),
        ({"embedding": "sinusoid"}, (12, 12)),
        ({"cond_dim": 6, "condition": "signed"}, (12, 12)),
        ({**CORRECTED, "cond_dim": 6, "learned_variance": True}, (24, 12)),
        ({**CORRECTED, "features": 16, "image_channels": 1}, (12, 12)),
    ],
    ids=[
        "published-window",
        "grey",
        "as-wide-as-the-image",
        "cond",
        "cond-variance",
        "group",
        "sinusoid",
        "signed",
        "corrected-cond-variance",
        "corrected-grey",
    ],
)
def test_equals_the_definition(definition_of, options, size, training):
    network = build(**options).train(training)
    x, t = inputs(network, *size, batch=len(COND))
    cond = COND if network.cond_dim else None
    p = {name: w.detach().clone() for name, w in network.state_dict().items()}
    for name, _ in network.named_parameters():
        p[name].requires_grad_()
    out = network(x, t, cond)
    options = {**TINY, **options, "training": training}
    expected = definition_of("context")(p, x, t, cond, **options)
    assert out.shape[1] == network.image_channels * (1 + network.learned_variance)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)

    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    gradients = {name: w.grad for name, w in network.named_parameters()}
    expected_gradients = {name: p[name].grad for name in gradients}
    largest = max(g.abs().max().item() for g in expected_gradients.values())
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-10, atol=1e-10 * largest)


def count(**options) -> int:
    with torch.device("meta"):
        network = ContextUNet(**options)
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_has_the_published_number_of_parameters():
    assert count(cond_dim=24) == 7_578_627


def test_without_a_condition_there_are_no_layers_for_one():
    one = sum((24 + 1) * width + (width + 1) * width for width in (128, 256))
    assert count() == 7_578_627 - one
    assert count(cond_dim=24, condition="signed") == 7_578_627 - 2 * (128 + 256)


@pytest.mark.parametrize(("form", "heard"), [({}, False), (CORRECTED, True)])
def test_only_the_corrected_form_hears_what_shall_be_absent(form, heard):
    network = build(cond_dim=4, **form).eval()
    x, t = inputs(network)
    same = torch.equal(network(x, t, -torch.eye(4)[:2]), network(x, t))
    assert same != heard


def test_nothing_said_is_the_same_network_without_a_condition_in_the_corrected_form_only():
    for form, same in (({}, False), ({"condition": "signed"}, True)):
        network = build(cond_dim=4, **form).eval()
        plain = build(**form).eval()
        plain.load_state_dict({k: v for k, v in network.state_dict().items() if "cond" not in k})
        x, t = inputs(network)
        assert torch.equal(network(x, t), plain(x, t)) == same


def test_the_published_window_leaves_pixels_out_and_an_exact_one_does_not():
    """How many positions of the 16×16 map of a 64×64 image reach the middle of the network."""

    class Reached(Exception):
        """What comes after is of no interest."""

    alone = torch.eye(16 * 16).reshape(-1, 1, 16, 16)  # in each image one position is not zero
    alone = alone.repeat_interleave(2, 2).repeat_interleave(2, 3)  # before the max-pool
    for pool, share in ((7, 14**2 / 16**2), (8, 1.0)):
        network = build(pool=pool, expand=8).float().eval()
        width = 2 * network.features

        def stop(_, given):
            raise Reached(given[0])

        network.stem = network.down1 = nn.Identity()
        network.down2 = nn.Identity()
        network.down2.register_forward_hook(lambda *_, w=width: alone.expand(-1, w, -1, -1))
        network.middle.register_forward_pre_hook(stop)
        with pytest.raises(Reached) as reached:
            network(torch.zeros(256, network.image_channels, 64, 64), torch.zeros(256))
        [pooled] = reached.value.args
        assert (pooled.flatten(1).abs().sum(dim=1) > 0).double().mean() == share


def test_times_stay_apart_in_half_precision():
    network, seen = build(T=400).float(), []
    network.time1.register_forward_hook(lambda _, i, o: seen.append(o))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.zeros(400, network.image_channels, 12, 12), torch.arange(400))
    assert len(seen[0].flatten(1).unique(dim=0)) == 400


@settings(max_examples=25, deadline=None)
@given(
    image_channels=st.integers(1, 6),
    expand=st.integers(1, 4),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    norm=st.sampled_from(["batch", "group"]),
)
def test_any_size_fits_and_images_do_not_see_each_other(
    image_channels, expand, height, width, norm
):
    network = build(image_channels=image_channels, pool=expand, expand=expand, norm=norm)
    network.train(norm == "group")  # with batch statistics they do, in training
    k = network.size_multiple
    assert k == 4 * expand
    x, t = inputs(network, height * k, width * k, batch=3)
    out = network(x, t)
    assert out.shape == x.shape
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(out, alone, rtol=1e-9, atol=1e-9)


def test_images_see_each_other_through_batch_statistics():
    network = build(norm="batch").train()
    x, t = inputs(network)
    assert not torch.allclose(network(x, t)[:1], network(x[:1], t[:1]))


def test_running_statistics_survive_the_average_and_a_checkpoint(tmp_path):
    network = build().float().train()
    ema = EMA(network, 0.9)
    x, t = inputs(network)
    network(x.float(), t)
    ema.update(network, 0)
    for name, buffer in ema.module.named_buffers():
        torch.testing.assert_close(buffer, network.get_buffer(name), rtol=0, atol=0)
    assert ema.module.stem.norm1.num_batches_tracked == 1

    file = TensorFile(ema.module.state_dict(), {})
    path = save_checkpoint(tmp_path, 1, {"ema.safetensors": file}, {})
    other = copy.deepcopy(network)
    other.load_state_dict(dict(read_tensors(path / "ema.safetensors").tensors))
    x = x.float()
    torch.testing.assert_close(other.eval()(x, t), ema.module(x, t), rtol=0, atol=0)


@pytest.mark.parametrize("side", [32, 64, 192])
def test_the_published_window_fits_up_to_192_pixels(side):
    with torch.device("meta"):
        network = ContextUNet(features=8)
        x = torch.empty(1, 3, side, side)
        assert network(x, torch.zeros(1)).shape == x.shape


@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        ({}, (28, 28), r"28x28 .* must be multiples of 32 up to 192. Use 32x32\.$"),
        ({}, (64, 70), r"64x70 .* Use 64x64 or 64x96\.$"),
        ({}, (64, 224), r"64x224 .* up to 192. Use 64x192\.$"),
        ({"pool": 8}, (250, 1), r"250x1 .* must be multiples of 32. Use 224x32 or 256x32\.$"),
        ({"pool": 5, "expand": 8}, (64, 64), r"64x64 .* multiples of 32 up to 32. Use 32x32"),
    ],
)
def test_a_size_that_is_not_restored_is_refused_with_the_nearest_that_is(options, size, message):
    network = ContextUNet(features=8, **options)
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(1, 3, *size), torch.zeros(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"T": 0}, r"T is 0\. Use at least 1\."),
        ({"features": 0}, r"features is 0\. Use a multiple of 8"),
        ({"features": 12}, r"features is 12\. Use a multiple of 8"),
        ({"pool": 9, "expand": 8}, r"pool is 9 and expand 8\. Make them equal"),
        ({"pool": 4, "expand": 8}, r"pool is 4 and expand 8\. Make them equal"),
        ({"pool": 0, "expand": 0}, r"pool is 0 and expand 0\. Make them equal"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ContextUNet(**{**TINY, **options})
