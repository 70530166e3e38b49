import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fromnoise.diffusion import NoiseSchedule
from fromnoise.interop.context_unet import context_unet
from fromnoise.model.model import build_denoiser
from fromnoise.model.spec import ModelSpec


class Convs(nn.Module):
    """Their residual convolution block: the names of its layers, and what it computes."""

    def __init__(self, c_in, c_out, residual=False):
        super().__init__()
        self.residual = residual
        for name, c in (("conv1", c_in), ("conv2", c_out)):
            layers = nn.Conv2d(c, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.GELU()
            self.add_module(name, nn.Sequential(*layers))

    def forward(self, x):
        first = self.conv1(x)
        second = self.conv2(first)
        added = x if x.shape == first.shape else first
        return (added + second) / 1.414 if self.residual else second


def nested(*layers):
    """Layers that are found under `model.`."""
    return nn.ModuleDict({"model": nn.Sequential(*layers)})


class Theirs(nn.Module):
    """Their network in the names of its weights; c holds −1 for what is present, t is t/T."""

    def __init__(self, channels, f, classes, expand):
        super().__init__()

        def embed(c_in, width):
            return nested(nn.Linear(c_in, width), nn.GELU(), nn.Linear(width, width))

        def up(c_in):
            return nested(nn.ConvTranspose2d(c_in, f, 2, 2), Convs(f, f), Convs(f, f))

        self.init_conv = Convs(channels, f, residual=True)
        self.down1 = nested(Convs(f, f), nn.MaxPool2d(2))
        self.down2 = nested(Convs(f, 2 * f), nn.MaxPool2d(2))
        self.timeembed1, self.timeembed2 = embed(1, 2 * f), embed(1, f)
        self.contextembed1, self.contextembed2 = embed(classes, 2 * f), embed(classes, f)
        self.up0 = nn.Sequential(
            nn.ConvTranspose2d(2 * f, 2 * f, expand, expand), nn.GroupNorm(8, 2 * f), nn.ReLU()
        )
        self.up1, self.up2 = up(4 * f), up(2 * f)
        self.out = nn.Sequential(
            nn.Conv2d(2 * f, f, 3, padding=1),
            nn.GroupNorm(8, f),
            nn.ReLU(),
            nn.Conv2d(f, channels, 3, padding=1),
        )

    def forward(self, x, c, t):
        x = self.init_conv(x)
        first = self.down1["model"](x)
        second = self.down2["model"](first)
        h = self.up0(F.gelu(F.avg_pool2d(second, 7)))
        for i, skip in ((1, second), (2, first)):
            told = getattr(self, f"contextembed{i}")["model"](c)[:, :, None, None]
            time = getattr(self, f"timeembed{i}")["model"](t[:, None])[:, :, None, None]
            h = torch.cat([told * h + time, skip], dim=1)
            h = getattr(self, f"up{i}")["model"](h)
        return self.out(torch.cat([h, x], dim=1))


def theirs(channels=3, f=8, classes=24, expand=8) -> Theirs:
    torch.manual_seed(0)
    network = Theirs(channels, f, classes, expand).train()
    for name, parameter in network.named_parameters():
        if "embed" in name:  # as they begin, time and condition hardly show in the output
            nn.init.normal_(parameter)
    side = 4 * expand
    for _ in range(3):  # so that the running statistics are not those of the start
        network(torch.randn(4, channels, side, side), torch.zeros(4, classes), torch.rand(4))
    return network.eval()


def tables(T, beta_1=1e-4, beta_T=0.02) -> dict[str, torch.Tensor]:
    """The buffers beside the network that matter here, T + 1 entries each."""
    beta = (beta_T - beta_1) * torch.arange(T + 1, dtype=torch.float32) / T + beta_1
    alpha_bar = torch.cumsum(torch.log(1 - beta), dim=0).exp()
    return {"sqrt_beta_t": beta.sqrt(), "alphabar_t": alpha_bar, "sqrtab": alpha_bar.sqrt()}


def payload(network: Theirs, T: int = 400, **betas) -> dict[str, torch.Tensor]:
    inside = {f"nn_model.{name}": tensor for name, tensor in network.state_dict().items()}
    return {**inside, **tables(T, **betas)}


def build(foreign):
    """Our denoiser as the importer describes it, with the weights that it found."""
    spec = ModelSpec.model_validate(foreign.spec)
    denoiser = build_denoiser(spec).eval()
    denoiser.network.load_state_dict(foreign.raw)  # strict: no name missing, none left over
    return denoiser, spec


@pytest.mark.parametrize(
    ("options", "T", "size"),
    [({}, 400, 64), ({"channels": 1, "f": 16, "classes": 10, "expand": 7}, 500, 28)],
    ids=["i-clevr", "mnist"],
)
def test_the_output_equals_the_original_with_negated_labels(options, T, size):
    network = theirs(**options)
    foreign = context_unet(payload(network, T))
    denoiser, spec = build(foreign)
    assert foreign.ema is None
    assert spec.diffusion.T == denoiser.network.T == T
    assert spec.size == (size, size)
    x = torch.randn(3, spec.channels, size, size)
    cond = torch.zeros(3, len(spec.label_names))
    cond[0, 1] = cond[0, 5] = cond[1, 0] = 1
    t = torch.tensor([1, T // 3, T])
    with torch.no_grad():
        expected = network(x, -cond, t / T)
        assert not torch.allclose(expected, network(x, cond, t / T))
        out = denoiser.network(x, t - 1, cond)
        atol = 1e-5 * expected.std().item()
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=atol)
        nothing = denoiser.network(x, t - 1)
        torch.testing.assert_close(nothing, network(x, 0 * cond, t / T), rtol=1e-5, atol=atol)


@pytest.mark.parametrize("betas", [{}, {"beta_1": 5e-4, "beta_T": 0.05}])
def test_the_schedule_has_the_original_alpha_bar_except_at_0(betas):
    T = 300
    foreign = context_unet(payload(theirs(), T, **betas))
    schedule = NoiseSchedule(torch.tensor(foreign.spec["diffusion"]["schedule"]["betas"]))
    expected = tables(T, **betas)
    assert schedule.T == T
    assert schedule.alpha_bar[0] == 1
    torch.testing.assert_close(
        schedule.alpha_bar[1:].float(), expected["alphabar_t"][1:], rtol=1e-5, atol=0
    )
    beta = 1 - schedule.alpha_bar[1:] / schedule.alpha_bar[:-1]  # of the sampler, from t to t−1
    torch.testing.assert_close(
        beta[1:].sqrt().float(), expected["sqrt_beta_t"][2:], rtol=1e-5, atol=0
    )


def test_a_network_without_tables_gets_the_published_schedule():
    network = theirs()
    foreign = context_unet(network.state_dict())
    whole = context_unet(payload(network))
    assert foreign.raw.keys() == whole.raw.keys()
    betas, expected = (f.spec["diffusion"]["schedule"]["betas"] for f in (foreign, whole))
    torch.testing.assert_close(torch.tensor(betas), torch.tensor(expected), rtol=1e-5, atol=0)
    assert {"diffusion.T", "diffusion.schedule"} <= foreign.assumed.keys()
    assert "diffusion.T" not in whole.assumed


def test_assumptions_are_noted():
    mnist = context_unet(payload(theirs(channels=1, classes=10, expand=7)))
    assert [*mnist.spec["label_names"]] == [*"0123456789"]
    known = {"label_names", "sampling.clamp", "data_range", "size"}
    assert mnist.assumed.keys() == known
    assert mnist.spec["data_range"] == [0, 1]
    clevr = context_unet(payload(theirs()))
    assert clevr.spec["label_names"][::23] == ["class_0", "class_23"]
    assert clevr.assumed.keys() == known
    assert (clevr.spec["size"], clevr.spec["data_range"]) == ([64, 64], [-1, 1])
    assert clevr.spec["sampling"] == {
        "sampler": {"name": "ddpm", "variance": "large"},
        "steps": 400,
        "clamp": False,
    }
    state = payload(theirs())
    state["nn_model.up0.0.weight"] = torch.zeros(16, 16, 4, 4)
    other = context_unet(state)
    assert (other.spec["network"]["pool"], other.spec["size"]) == (4, [16, 16])
    assert "network.pool" in other.assumed


@pytest.mark.parametrize(
    "other",
    [{}, {"model": {}, "step": 3}, {"init_conv.weight": torch.zeros(1)}],
    ids=["empty", "nested", "another-network"],
)
def test_other_files_are_not_recognised(other):
    assert context_unet(other) is None
