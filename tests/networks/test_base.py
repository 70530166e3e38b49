"""The contract of a network: one from outside keeps it, others break it, wrappers hide it."""

import pytest
import torch
from torch import nn

import fromnoise
from fromnoise.config.recipe import parse_recipe
from fromnoise.diffusion import Denoiser, NoiseSchedule, with_self_conditioning
from fromnoise.model.precision import in_bf16
from fromnoise.networks import DDPM, NETWORKS, Network

SCHEDULE = NoiseSchedule.named("linear", 100)


class Bare(nn.Module):
    """A network from outside with one option and none of the contract's attributes."""

    def __init__(self, *, image_channels: int, cond_dim: int, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(image_channels, width, 3, padding=1)
        self.last = nn.Conv2d(width, image_channels, 3, padding=1)

    def forward(self, x_t, t, cond):
        return self.last(nn.functional.silu(self.first(x_t)))


class Shrinks(Bare):
    def forward(self, x_t, t, cond):
        return super().forward(x_t, t, cond)[..., ::2]


class Returns(nn.Module):
    """A network that returns `output`, whatever it is called with."""

    def __init__(self, output) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_):
        return self.output


def test_the_defaults_of_the_contract():
    network = Network()
    assert not network.learned_variance
    assert not network.self_conditioning
    assert (network.size_multiple, network.largest_size) == (1, float("inf"))
    assert network.regions == ()
    assert all(issubclass(build, Network) for build in NETWORKS.values())


@pytest.mark.parametrize("labels", [False, True])
def test_a_network_from_outside_is_trained_and_sampled(tiny, tmp_path, monkeypatch, labels):
    monkeypatch.setitem(NETWORKS, "bare", Bare)
    tiny["network"] = {"name": "bare", "width": 6}
    tiny["data"] |= {"labels": labels, "flip": False}
    folder = fromnoise.train(tiny, out=tmp_path / "run", overrides={"training.steps": 2}).folder
    model = fromnoise.load(folder, device="cpu")
    assert isinstance(model.denoiser.network, Bare)
    assert model.denoiser.network.first.out_channels == 6
    images = model.sample([0, 1], steps=2)
    assert images.shape == (2, 1, 8, 8)
    assert not torch.equal(images[0], images[1])


def test_options_that_a_network_lacks_are_refused(tiny, monkeypatch):
    monkeypatch.setitem(NETWORKS, "bare", Bare)
    tiny["network"] = "bare"
    for option in ("learned_variance", "self_conditioning"):
        with pytest.raises(ValueError, match=rf"unknown key network\.{option}"):
            parse_recipe(tiny, "here", {f"network.{option}": True})


def test_training_ends_at_once_where_a_network_breaks_the_contract(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, "shrinks", Shrinks)
    tiny["network"] = "shrinks"
    with pytest.raises(ValueError, match=r"^Shrinks returned \(\d+, 1, 8, 4\) for x_t of \(\d+, 1"):
        fromnoise.train(tiny, out=tmp_path / "run")


@pytest.mark.parametrize(
    ("output", "returned"),
    [
        (torch.zeros(2, 3, 8, 4), r"\(2, 3, 8, 4\)"),
        (torch.zeros(1, 3, 8, 8), r"\(1, 3, 8, 8\)"),
        (torch.zeros(2, 9, 8, 8), r"\(2, 9, 8, 8\)"),
        (torch.zeros(2, 3, 64), r"\(2, 3, 64\)"),
        ((torch.zeros(2, 3, 8, 8),), "tuple"),
    ],
    ids=["width", "batch", "channels", "flat", "tuple"],
)
def test_another_output_is_refused_with_the_shapes(output, returned):
    denoiser = Denoiser(Returns(output), SCHEDULE)
    message = (
        rf"^Returns returned {returned} for x_t of \(2, 3, 8, 8\)\. "
        r"Return \(B,C,H,W\), or \(B,2C,H,W\) with learned_variance\.$"
    )
    with pytest.raises(ValueError, match=message):
        denoiser(torch.zeros(2, 3, 8, 8), 5)


# ---- wrappers -----------------------------------------------------------------------------------


class Wrapper(nn.Module):
    """A wrapper without attributes of its own, which keeps the network under any name."""

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        setattr(self, name, network)
        self.name = name

    def forward(self, *inputs):
        return getattr(self, self.name)(*inputs)


def self_conditioning_network() -> DDPM:
    options = {"channels": 8, "groups": 4, "multipliers": (1,), "num_res_blocks": 1}
    return DDPM(image_channels=1, attention_levels=(), self_conditioning=True, **options).eval()


WRAPPERS = {
    "module": lambda network: Wrapper(network, "module"),
    "network": lambda network: Wrapper(network, "network"),
    "data parallel": nn.DataParallel,
    "compiled": lambda network: torch.compile(network, backend="eager"),
    "twice": lambda network: Wrapper(torch.compile(network, backend="eager"), "module"),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_a_wrapped_network_keeps_its_self_conditioning(wrap):
    denoiser = Denoiser(wrap(self_conditioning_network()), SCHEDULE)
    assert denoiser.self_conditioning
    assert not Denoiser(wrap(Bare(image_channels=1, cond_dim=0)), SCHEDULE).self_conditioning


def test_another_network_in_the_same_denoiser_keeps_it_too():
    network = self_conditioning_network()
    hidden = Wrapper(lambda *inputs: network(*inputs), "elsewhere")  # not a module: nobody sees it
    assert not Denoiser(hidden, SCHEDULE).self_conditioning
    denoiser = Denoiser(network, SCHEDULE).with_network(hidden)
    given = Denoiser(hidden, SCHEDULE, self_conditioning=True)
    x_t = torch.randn(2, 1, 8, 8)
    expected = Denoiser(network, SCHEDULE)(x_t, 50, self_cond=x_t).value
    for one in (denoiser, given, with_self_conditioning(denoiser)):
        assert torch.equal(one(x_t, 50, self_cond=x_t).value, expected)


def test_in_bf16_a_network_keeps_its_self_conditioning():
    denoiser = in_bf16(Denoiser(self_conditioning_network(), SCHEDULE))
    assert denoiser.self_conditioning
    assert denoiser(torch.randn(2, 1, 8, 8), 50).value.shape == (2, 1, 8, 8)
