import pytest
import torch
from torch import nn

from fromnoise.networks import Stacked

hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies

TINY = {
    "channels": (4, 8, 16, 16),
    "attention": (False, True, False, True),
    "upscale": (False, False, True, True),
    "groups": 2,
    "dropout": 0.0,
    "heads": 2,
}
TWO = {"channels": (8, 16), "attention": (True, True), "upscale": (False, True)}
CORRECTED = {"time": "projected", "attention_form": "residual"}


def build(**options) -> Stacked:
    """A small network in float64, every weight random."""
    network = Stacked(**{**TINY, **options}).double()
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def inputs(network: Stacked, height: int = 8, width: int = 8, batch: int = 2):
    x = torch.randn(batch, network.image_channels, height, width, dtype=torch.float64)
    return x, torch.randint(1000, (batch,))


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"image_channels": 1}, (8, 8)),
        ({"heads": 4, "attention": (True, True, True, True)}, (4, 12)),
        ({"attention": (False, False, False, False), "image_channels": 5}, (8, 4)),
        ({**TWO, "heads": 4, "groups": 8}, (6, 2)),
        ({"time": "projected"}, (4, 4)),
        ({"attention_form": "residual"}, (4, 4)),
        ({**CORRECTED, "image_channels": 1}, (8, 8)),
        ({"cond_dim": 6}, (4, 4)),
        ({**CORRECTED, "cond_dim": 6, "learned_variance": True}, (4, 8)),
        ({"dropout": 0.4}, (4, 4)),
        ({**CORRECTED, "dropout": 0.4}, (4, 4)),
    ],
    ids=[
        "published",
        "all-attend",
        "none-attends",
        "two-layers",
        "projected",
        "residual",
        "corrected-grey",
        "cond",
        "corrected-cond-variance",
        "dropout",
        "corrected-dropout",
    ],
)
def test_equals_the_definition(definition_of, options, size):
    network = build(**options)
    x, t = inputs(network, *size)
    cond = torch.tensor([[1.0, -1, 0, 0, 0, 1], [0, 0, 0, 0, 0, -1]]).double()
    cond = cond if network.cond_dim else None
    p = {name: w.detach().clone().requires_grad_() for name, w in network.named_parameters()}
    torch.manual_seed(1)  # for both the same elements drop out
    out = network(x, t, cond)
    torch.manual_seed(1)
    expected = definition_of("stacked")(p, x, t, cond, **{**TINY, **options})
    assert out.shape[1] == network.image_channels * (1 + network.learned_variance)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)

    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    gradients = {name: w.grad for name, w in network.named_parameters()}
    expected_gradients = {name: w.grad for name, w in p.items()}
    largest = max(g.abs().max().item() for g in expected_gradients.values())
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-10, atol=1e-10 * largest)


def count(**options) -> int:
    with torch.device("meta"):
        network = Stacked(**options)
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_has_the_published_number_of_parameters():
    assert count(image_channels=1) == 35_178_689


def test_corrections_and_a_condition_add_what_they_are_made_of():
    published = count(image_channels=1)
    norms = 2 * (128 + 384)
    assert count(image_channels=1, attention_form="residual") == published + norms
    blocks = 2 * (64 + 128 + 256 + 512 + 512 + 384) * (512 + 1)
    assert count(image_channels=1, time="projected") == published + 2 * 512 * (512 + 1) + blocks
    assert count(image_channels=1, cond_dim=10) == published + 10 * 512


def test_a_narrow_layer_knows_no_slow_time_unless_it_is_projected():
    """Two times that differ in the slow half of the sinusoid only are one to a raw first layer."""
    first = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    time = torch.randn(2, 16, dtype=torch.float64)
    slower = torch.cat([time[:, :4], time[:, 4:] + 1], dim=1)
    for form, blind in (("raw", True), ("projected", False)):
        residual = build(time=form).layers[0].residual1
        assert torch.equal(residual(first, time), residual(first, slower)) == blind


@settings(max_examples=25, deadline=None)
@given(
    image_channels=st.integers(1, 6),
    halvings=st.integers(1, 2),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    form=st.sampled_from([{}, CORRECTED]),
)
def test_any_size_fits_and_images_do_not_see_each_other(
    image_channels, halvings, height, width, form
):
    depth = TWO if halvings == 1 else {}
    network = build(image_channels=image_channels, **depth, **form)
    k = network.size_multiple
    assert k == 2**halvings
    x, t = inputs(network, height * k, width * k, batch=3)
    out = network(x, t)
    assert out.shape == x.shape
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(out, alone, rtol=1e-9, atol=1e-9)


def test_dropout_reaches_the_attention_weights_in_the_published_form_alone():
    attention = build(dropout=0.5).layers[1].attention
    corrected = build(dropout=0.5, **CORRECTED).layers[1].attention
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    assert not torch.equal(attention(x), attention(x))
    assert torch.equal(corrected(x), corrected(x))
    attention.eval()
    torch.testing.assert_close(attention(x), attention(x), rtol=0, atol=0)


def test_a_size_that_the_layers_do_not_divide_is_refused():
    network = build()
    with pytest.raises(ValueError, match=r"30x30 .* Use 28x28 or 32x32"):
        network(*inputs(network, 30, 30))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": ()}, r"channels is \[\]\. Give an even number of widths"),
        ({"channels": (4, 8, 8)}, r"channels is \[4, 8, 8\]\. Give an even number"),
        (
            {"attention": (True,)},
            r"attention is \[True\]\. Give true or false for each of the 4 channels\.",
        ),
        (
            {"upscale": (True,)},
            r"upscale is \[True\]\. Give true or false for each of the 4 channels\.",
        ),
        ({"upscale": (False,) * 4}, "Let the second half undo the first"),
        ({"channels": (4, 8, 16, 12)}, r"channels is \[4, 8, 16, 12\], .* Use \[4, 8, 16, 16\]\."),
        ({"channels": (4, 6, 16, 16)}, r"channels is \[4, 6, 16, 16\], .* Use \[4, 8, 16, 16\]\."),
        ({"groups": 3}, r"channels is \[4, 8, 16, 16\]\. Use multiples of 2 and of groups = 3"),
        ({"groups": 0}, r"groups is 0\. Use at least 1\."),
        ({"channels": (3, 6, 12, 12), "groups": 1}, r"\[3, 6, 12, 12\]\. Use multiples of 2"),
        ({"channels": (0, 0, 0, 0)}, r"channels is \[0, 0, 0, 0\]\. Use multiples of 2"),
        ({"heads": 3}, r"are \[8, 16\]\. Use multiples of heads = 3"),
        ({"heads": 0}, r"heads is 0\. Use at least 1\."),
        ({"dropout": 1.0}, r"dropout is 1\.0\. Use 0 or more"),
        ({"dropout": -0.1}, r"dropout is -0\.1\. Use 0 or more"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Stacked(**{**TINY, **options})
