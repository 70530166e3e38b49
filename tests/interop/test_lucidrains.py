import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.checkpoints import CheckpointError
from fromnoise.diffusion import SCHEDULES
from fromnoise.interop.lucidrains import lucidrains
from fromnoise.model.model import build_denoiser
from fromnoise.model.spec import ModelSpec

BLOCK = {  # ours → theirs and their shape, o wide from i
    "time.weight": ("mlp.1.weight", "2o 16"),
    "time.bias": ("mlp.1.bias", "2o"),
    "conv1.weight": ("block1.proj.weight", "o i 3 3"),
    "conv1.bias": ("block1.proj.bias", "o"),
    "norm1.gain": ("block1.norm.g", "1 o 1 1"),
    "conv2.weight": ("block2.proj.weight", "o o 3 3"),
    "conv2.bias": ("block2.proj.bias", "o"),
    "norm2.gain": ("block2.norm.g", "1 o 1 1"),
}
SHORTCUT = {
    "shortcut.weight": ("res_conv.weight", "o i 1 1"),
    "shortcut.bias": ("res_conv.bias", "o"),
}
LINEAR = {  # 2 heads of width 3, 4 memories
    "memory": ("mem_kv", "2 2 3 4"),
    "norm.gain": ("norm.g", "1 o 1 1"),
    "qkv.weight": ("to_qkv.weight", "18 o 1 1"),
    "out.weight": ("to_out.0.weight", "o 6 1 1"),
    "out.bias": ("to_out.0.bias", "o"),
    "out_norm.gain": ("to_out.1.g", "1 o 1 1"),
}
FULL = {
    "memory": ("mem_kv", "2 2 4 3"),
    "norm.gain": ("norm.g", "1 o 1 1"),
    "qkv.weight": ("to_qkv.weight", "18 o 1 1"),
    "out.weight": ("to_out.weight", "o 6 1 1"),
    "out.bias": ("to_out.bias", "o"),
}
CONV3 = {"weight": ("weight", "o i 3 3"), "bias": ("bias", "o")}
CONV1 = {"weight": ("weight", "o i 1 1"), "bias": ("bias", "o")}
LINEAR_LAYER = {"weight": ("weight", "o i"), "bias": ("bias", "o")}
# a network of dim 4, init_dim 6, multipliers (2, 3), 2 channels: widths 6, 8, 12
LAYOUT = [
    ("stem.", "init_conv.", {"weight": ("weight", "o i 7 7"), "bias": ("bias", "o")}, 6, 2),
    ("time1.", "time_mlp.1.", LINEAR_LAYER, 16, 4),
    ("time2.", "time_mlp.3.", LINEAR_LAYER, 16, 16),
    ("down.0.block1.", "downs.0.0.", BLOCK, 6, 6),
    ("down.0.block2.", "downs.0.1.", BLOCK, 6, 6),
    ("down.0.attention.", "downs.0.2.", LINEAR, 6, 6),
    ("down.0.resample.", "downs.0.3.1.", CONV1, 8, 4 * 6),
    ("down.1.block1.", "downs.1.0.", BLOCK, 8, 8),
    ("down.1.block2.", "downs.1.1.", BLOCK, 8, 8),
    ("down.1.attention.", "downs.1.2.", FULL, 8, 8),
    ("down.1.resample.", "downs.1.3.", CONV3, 12, 8),
    ("up.0.block1.", "ups.0.0.", BLOCK | SHORTCUT, 12, 12 + 8),
    ("up.0.block2.", "ups.0.1.", BLOCK | SHORTCUT, 12, 12 + 8),
    ("up.0.attention.", "ups.0.2.", FULL, 12, 12),
    ("up.0.resample.1.", "ups.0.3.1.", CONV3, 8, 12),
    ("up.1.block1.", "ups.1.0.", BLOCK | SHORTCUT, 8, 8 + 6),
    ("up.1.block2.", "ups.1.1.", BLOCK | SHORTCUT, 8, 8 + 6),
    ("up.1.attention.", "ups.1.2.", LINEAR, 8, 8),
    ("up.1.resample.", "ups.1.3.", CONV3, 6, 8),
    ("middle1.", "mid_block1.", BLOCK, 12, 12),
    ("middle_attention.", "mid_attn.", FULL, 12, 12),
    ("middle2.", "mid_block2.", BLOCK, 12, 12),
    ("last.", "final_res_block.", BLOCK | SHORTCUT, 6, 12),
    ("out.", "final_conv.", CONV1, 2, 6),
]


def unet() -> tuple[dict[str, Tensor], dict[str, str]]:
    """A state dict as their U-Net has it, random, and our name → theirs."""
    torch.manual_seed(0)
    state, names = {}, {}
    for ours, theirs, layers, c_out, c_in in LAYOUT:
        for our_part, (their_part, shape) in layers.items():
            widths = {"o": c_out, "2o": 2 * c_out, "i": c_in}
            sizes = [widths[s] if s in widths else int(s) for s in shape.split()]
            state[theirs + their_part] = torch.randn(sizes)
            names[ours + our_part] = theirs + their_part
    return state, names


def buffers(betas: Tensor, loss_weight: Tensor | None = None) -> dict[str, Tensor]:
    """Those beside the U-Net that matter here."""
    tables = {"betas": betas.float(), "sqrt_alphas_cumprod": (1 - betas).cumprod(0).sqrt().float()}
    return tables if loss_weight is None else {**tables, "loss_weight": loss_weight.float()}


def whole(state: dict[str, Tensor], tables: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"model.{name}": tensor for name, tensor in state.items()} | tables


LINEAR_BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
SNR = (1 - LINEAR_BETAS).cumprod(0) / (1 - (1 - LINEAR_BETAS).cumprod(0))


def build(foreign, weights):
    """Our denoiser as the importer describes it, with the weights that it found."""
    spec = ModelSpec.model_validate(foreign.spec)
    denoiser = build_denoiser(spec).eval()
    denoiser.network.load_state_dict(weights)  # strict: no name missing, none left over
    return denoiser, spec


def test_every_tensor_is_mapped():
    state, names = unet()
    foreign = lucidrains(whole(state, buffers(LINEAR_BETAS)))
    denoiser, _ = build(foreign, foreign.raw)
    assert foreign.raw.keys() == names.keys()
    network = denoiser.network.state_dict()
    for ours, theirs in names.items():
        tensor = state[theirs]
        if ours.endswith("memory"):
            tensor = tensor.mT if f"{theirs.removesuffix('mem_kv')}to_out.1.g" in state else tensor
        torch.testing.assert_close(network[ours], tensor.reshape(network[ours].shape))


def test_options_are_inferred_from_shapes():
    foreign = lucidrains(whole(unet()[0], buffers(LINEAR_BETAS)))
    assert foreign.spec["network"] == {
        "name": "linear_attention",
        "dim": 4,
        "init_dim": 6,
        "multipliers": [2, 3],
        "heads": 2,
        "head_dim": 3,
        "memories": 4,
        "full_attention_levels": [1],
        "learned_variance": False,
    }
    assert foreign.spec["channels"] == 2
    assert foreign.spec["sampling"]["sampler"] == {"name": "ddpm", "variance": "small"}


def test_ema_weights_raw_weights_and_step_are_imported():
    state, _ = unet()
    raw = whole(state, buffers(LINEAR_BETAS))
    averaged = whole({k: v + 1 for k, v in state.items()}, buffers(LINEAR_BETAS))
    ema = {"initted": torch.tensor(True), "step": torch.tensor(70)}
    ema |= {f"ema_model.{k}": v for k, v in averaged.items()}
    ema |= {f"online_model.{k}": v for k, v in raw.items()}
    payload = {"step": 700, "model": raw, "opt": {}, "ema": ema, "scaler": None, "version": "2"}
    foreign = lucidrains(payload)
    assert foreign.step == 700
    torch.testing.assert_close(foreign.raw["stem.weight"], state["init_conv.weight"])
    torch.testing.assert_close(foreign.ema["stem.weight"], state["init_conv.weight"] + 1)
    assert foreign.ema.keys() == foreign.raw.keys()
    assert lucidrains({"model": raw}).ema is None


def test_a_learned_variance_is_kept():
    state, _ = unet()
    state["final_conv.weight"], state["final_conv.bias"] = torch.randn(4, 6, 1, 1), torch.randn(4)
    foreign = lucidrains(whole(state, buffers(LINEAR_BETAS)))
    denoiser, spec = build(foreign, foreign.raw)
    assert denoiser.network.learned_variance
    assert spec.sampling.sampler.options == {"variance": "learned"}


@pytest.mark.parametrize(
    ("kind", "weight"),
    [
        ("eps", torch.ones_like(SNR)),
        ("eps", SNR.clamp(max=5) / SNR),
        ("x0", SNR),
        ("x0", SNR.clamp(max=5)),
        ("v", SNR / (SNR + 1)),
        ("v", SNR.clamp(max=5) / (SNR + 1)),
        ("v", SNR.clamp(max=1) / (SNR + 1)),
    ],
)
def test_the_loss_weights_determine_the_prediction_type(kind, weight):
    foreign = lucidrains(whole(unet()[0], buffers(LINEAR_BETAS, weight)))
    assert foreign.spec["diffusion"]["prediction"] == kind
    assert "diffusion.prediction" not in foreign.assumed


@pytest.mark.parametrize("weight", [None, torch.linspace(1, 2, 1000)])
def test_an_unknown_prediction_type_is_noted(weight):
    foreign = lucidrains(whole(unet()[0], buffers(LINEAR_BETAS, weight)))
    assert foreign.spec["diffusion"]["prediction"] == "v"
    assert "this was the default" in foreign.assumed["diffusion.prediction"]


def _without(name):
    return lambda state: state.pop(name)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.update({"time_mlp.0.weights": torch.zeros(8)}), "Fourier features"),
        (lambda s: s.update({"null_classes_emb": torch.zeros(4)}), "is conditional"),
        (lambda s: s.update({"init_conv.weight": torch.zeros(6, 4, 7, 7)}), "self-conditioning"),
        (
            lambda s: s.update({"final_conv.weight": torch.zeros(3, 6, 1, 1)}),
            "2 input and 3 output channels",
        ),
        (_without("downs.0.0.block1.norm.g"), "of another version"),
        (_without("downs.0.2.mem_kv"), "of another version"),
        (
            lambda s: s.update({"mid_attn.mem_kv": torch.zeros(2, 3, 4, 2)}),
            r"different attention heads at its levels \(2 x 3, 3 x 2\)",
        ),
    ],
)
def test_unsupported_u_nets_are_refused(change, reason):
    state, _ = unet()
    change(state)
    with pytest.raises(CheckpointError, match=reason):
        lucidrains(whole(state, buffers(LINEAR_BETAS)))


def test_a_u_net_without_its_diffusion_is_refused():
    with pytest.raises(CheckpointError, match="has no diffusion settings"):
        lucidrains(unet()[0])


@pytest.mark.parametrize(
    "other", [{}, {"model": 3}, {"model": {}, "ema": {}}, {"init_conv.weight": torch.zeros(1)}]
)
def test_other_files_are_not_recognised(other):
    assert lucidrains(other) is None


@pytest.mark.parametrize(
    ("unet_options", "options", "kind"),
    [
        ({}, {"objective": "pred_noise", "beta_schedule": "linear"}, "eps"),
        ({"channels": 1}, {"objective": "pred_x0", "beta_schedule": "cosine"}, "x0"),
        ({"init_dim": 6}, {"min_snr_loss_weight": True, "timesteps": 250}, "v"),
        (
            {"full_attn": (True, False), "attn_heads": 2, "attn_dim_head": 6},
            {"objective": "pred_noise", "min_snr_loss_weight": True},
            "eps",
        ),
    ],
    ids=["linear", "cosine-grey", "min-snr", "heads"],
)
def test_the_output_equals_that_of_the_library(unet_options, options, kind):
    library = pytest.importorskip("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
    torch.manual_seed(0)
    theirs = library.GaussianDiffusion(
        library.Unet(8, dim_mults=(1, 2), **unet_options), image_size=16, **options
    )
    average = library.EMA(theirs)
    for parameter in average.ema_model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    payload = {"step": 5, "model": theirs.state_dict(), "ema": average.state_dict()}
    foreign = lucidrains(payload)
    for weights, network in ((foreign.raw, theirs.model), (foreign.ema, average.ema_model.model)):
        denoiser, spec = build(foreign, weights)
        x = torch.randn(3, spec.channels, 16, 8)
        t = torch.tensor([0, 17, spec.diffusion.T - 1])
        with torch.no_grad():
            out, expected = denoiser.network(x, t), network(x, t)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5 * expected.std().item())

    assert spec.diffusion.prediction.name == kind
    schedule = build_denoiser(spec).schedule
    times = torch.arange(1, schedule.T + 1)
    expected = theirs.sqrt_alphas_cumprod, theirs.sqrt_one_minus_alphas_cumprod
    for ours, table in zip((schedule.alpha(times), schedule.sigma(times)), expected, strict=True):
        torch.testing.assert_close(ours, table, rtol=2e-5, atol=0)
    torch.testing.assert_close(
        torch.stack([schedule.posterior(x[:1], x[:1], t, t - 1)[1] for t in (2, 100)]).float(),
        theirs.posterior_variance[[1, 99]],
        rtol=2e-5,
        atol=0,
    )


class JuneBlock(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.proj, self.norm = nn.Conv2d(c_in, c_out, 3, padding=1), nn.GroupNorm(8, c_out)


class JuneResidual(nn.Module):
    """Their block of June 2022; the last one has no layer of the time."""

    def __init__(self, c_in, c_out, c_time=None):
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(c_time, 2 * c_out)) if c_time else None
        self.block1, self.block2 = JuneBlock(c_in, c_out), JuneBlock(c_out, c_out)
        if c_in != c_out:
            self.res_conv = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x, time):
        h = self.block1.norm(self.block1.proj(x))
        if self.mlp is not None:
            told = self.mlp(time)[..., None, None]
            half = told.shape[1] // 2
            h = h * (1 + told[:, :half]) + told[:, half:]
        h = F.silu(self.block2.norm(self.block2.proj(F.silu(h))))
        return h + (self.res_conv(x) if hasattr(self, "res_conv") else x)


class JuneNorm(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.g, self.b = nn.Parameter(torch.ones(1, c, 1, 1)), nn.Parameter(torch.zeros(1, c, 1, 1))

    def forward(self, x):
        centred = x - x.mean(dim=1, keepdim=True)
        deviation = (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
        return centred / deviation * self.g + self.b


class JuneAttention(nn.Module):
    """4 heads of 32, under the names `fn.fn` and `fn.norm`; with `linear` in the pixels."""

    def __init__(self, c, linear):
        super().__init__()
        out = nn.Conv2d(128, c, 1)
        inner = {
            "to_qkv": nn.Conv2d(c, 384, 1, bias=False),
            "to_out": nn.Sequential(out, JuneNorm(c)) if linear else out,
        }
        self.fn = nn.ModuleDict({"fn": nn.ModuleDict(inner), "norm": JuneNorm(c)})
        self.linear = linear

    def forward(self, x):
        heads = self.fn["fn"]["to_qkv"](self.fn["norm"](x)).reshape(len(x), 3, 4, 32, -1)
        out = torch.empty(len(x), 4, 32, heads.shape[-1])
        for i in range(4):
            q, k, v = heads[:, 0, i], heads[:, 1, i], heads[:, 2, i]  # (B,32,pixels)
            if self.linear:
                context = v @ k.softmax(dim=2).mT  # (B,32 of v,32 of k)
                out[:, i] = context @ (q.softmax(dim=1) / 32**0.5)
            else:
                out[:, i] = v @ (q.mT @ k / 32**0.5).softmax(dim=2).mT
        return x + self.fn["fn"]["to_out"](out.reshape(len(x), 128, *x.shape[2:]))


class June(nn.Module):
    """The U-Net of 14 June 2022, or with `skip` of the day after."""

    def __init__(self, dim, mults=(1, 2), init_dim=None, channels=3, out=None, skip=False):
        super().__init__()
        init_dim = init_dim or (dim if skip else dim // 3 * 2)
        widths, c_time = [init_dim, *(dim * m for m in mults)], 4 * dim
        self.dim, last = dim, len(mults) - 1
        self.init_conv = nn.Conv2d(channels, init_dim, 7, padding=3)
        self.time_mlp = nn.Sequential(
            nn.Identity(), nn.Linear(dim, c_time), nn.GELU(), nn.Linear(c_time, c_time)
        )
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for i in range(len(mults)):
            c, wider = widths[i], widths[i + 1]
            level = JuneResidual(c, wider, c_time), JuneResidual(wider, wider, c_time)
            half = nn.Conv2d(wider, wider, 4, 2, 1) if i < last else nn.Identity()
            self.downs.append(nn.ModuleList([*level, JuneAttention(wider, True), half]))
        for i in range(last, -1 if skip else 0, -1):
            c, wider = widths[i], widths[i + 1]
            level = JuneResidual(2 * wider, c, c_time), JuneResidual(c, c, c_time)
            double = nn.ConvTranspose2d(c, c, 4, 2, 1) if i else nn.Identity()
            self.ups.append(nn.ModuleList([*level, JuneAttention(c, True), double]))
        c = widths[-1]
        self.mid_block1 = JuneResidual(c, c, c_time)
        self.mid_attn = JuneAttention(c, False)
        self.mid_block2 = JuneResidual(c, c, c_time)
        self.final_conv = nn.Sequential(JuneResidual(dim, dim), nn.Conv2d(dim, out or channels, 1))

    def forward(self, x, t):
        half = self.dim // 2
        angle = t.float()[:, None] * 10000.0 ** (-torch.arange(half) / (half - 1))
        time = self.time_mlp(torch.cat([angle.sin(), angle.cos()], dim=1))
        x, kept = self.init_conv(x), []
        for first, second, attention, half in self.downs:
            kept.append(attention(second(first(x, time), time)))
            x = half(kept[-1])
        x = self.mid_block2(self.mid_attn(self.mid_block1(x, time)), time)
        for first, second, attention, double in self.ups:
            x = torch.cat([x, kept.pop()], dim=1)
            x = double(attention(second(first(x, time), time)))
        return self.final_conv[1](self.final_conv[0](x, None))


def june(**options) -> June:
    torch.manual_seed(0)
    network = June(**{"dim": 16, **options}).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network


def cosine_betas(T):
    """As float64 is rounded to float32 in a file."""
    alpha_bar = [math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(T + 1)]
    ratios = [1 - b / a for a, b in pairwise(alpha_bar)]
    return torch.tensor([min(beta, 0.999) for beta in ratios], dtype=torch.float64)


def june_file(network, average=None, betas=None, gamma=0.0, dtype=torch.float32):
    """{step, model, ema, scaler}, with the tables that matter here, in a precision."""
    betas = cosine_betas(1000) if betas is None else betas
    alpha_bar = (1 - betas).cumprod(0)
    tables = {
        "betas": betas,
        "alphas_cumprod": alpha_bar,
        "sqrt_alphas_cumprod": alpha_bar.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - alpha_bar).sqrt(),
        "p2_loss_weight": (1 + alpha_bar / (1 - alpha_bar)) ** -gamma,
    }
    tables = {name: table.to(dtype) for name, table in tables.items()}

    def inside(theirs):
        state = {f"denoise_fn.{k}": v.to(dtype) for k, v in theirs.state_dict().items()}
        return tables | state

    return {"step": 7, "model": inside(network), "ema": inside(average or network), "scaler": {}}


@pytest.mark.parametrize(
    ("options", "form"),
    [
        ({}, "june2022"),
        ({"skip": True}, "june2022_skip"),
        ({"mults": (1, 2, 3), "init_dim": 10, "channels": 1}, "june2022"),
        ({"mults": (1, 3, 2), "channels": 4, "skip": True}, "june2022_skip"),
        ({"mults": (1,)}, "june2022"),
        ({"out": 6}, "june2022"),
    ],
    ids=["published", "with-the-skip", "three-levels", "three-with-the-skip", "one", "variance"],
)
def test_the_networks_of_june_2022_give_the_same_output(options, form):
    raw, average = june(**options), june(**options)
    nn.init.normal_(average.init_conv.weight)
    foreign = lucidrains(june_file(raw, average))
    assert foreign.step == 7
    assert foreign.spec["network"]["form"] == form
    for theirs, weights in ((raw, foreign.raw), (average, foreign.ema)):
        denoiser, spec = build(foreign, weights)
        x, t = torch.randn(3, spec.channels, 16, 8), torch.tensor([0, 17, 999])
        with torch.no_grad():
            out, expected = denoiser.network(x, t), theirs(x, t)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5 * expected.std().item())


def test_the_network_of_june_2022_has_as_many_parameters_as_published():
    with torch.device("meta"):
        network = June(64, mults=(1, 2, 4, 8))
    assert sum(p.numel() for p in network.parameters()) == 32_253_963


def test_what_june_2022_trained_with_is_recorded():
    foreign = lucidrains(june_file(june()))
    spec = ModelSpec.model_validate(foreign.spec)
    assert (spec.diffusion.loss, spec.diffusion.prediction.name) == ("l1", "eps")
    assert (spec.diffusion.schedule.name, spec.diffusion.T) == ("cosine", 1000)
    assert spec.diffusion.weighting.name == "simple"
    assert {"diffusion.loss", "diffusion.prediction", "size"} <= foreign.assumed.keys()
    assert "diffusion.schedule" not in foreign.assumed
    weighted = lucidrains(june_file(june(), gamma=0.5))
    assert weighted.spec["diffusion"]["weighting"] == {"name": "p2", "gamma": 0.5, "k": 1.0}


def _june_with(**tensors):
    def change(state):
        state.update(tensors)

    return change


def _renamed(old, new):
    def change(state):
        for name in [name for name in state if old in name]:
            state[name.replace(old, new)] = state.pop(name)

    return change


def _removed(part):
    def change(state):
        for name in [name for name in state if part in name]:
            del state[name]

    return change


@pytest.mark.parametrize(
    ("change", "tell"),
    [
        (_renamed("block1.proj", "ds_conv"), "ConvNeXt blocks, of January to May 2022"),
        (_renamed("block1.proj", "block1.block.0"), "blocks that add the time, before 24 May"),
        (_june_with(**{"time_mlp.1.weight": torch.zeros(64, 1)}), "a time without sinusoids"),
        (
            _june_with(**{"final_conv.0.block1.proj.weight": torch.zeros(16, 32, 3, 3)}),
            "the stem joined to the last block, of 16 June 2022",
        ),
        (_renamed("final_conv.0.", "final_res_block."), "a last block with the time, of 17 to 26"),
        (_renamed("ups.0.3.", "ups.0.3.1."), "two skips per level beside GroupNorm, of 27 June"),
        (_removed("fn.norm.b"), "LayerNorm without bias, of 29 July 2022 to 2023"),
    ],
)
def test_other_releases_are_refused_by_what_tells_them_apart(change, tell):
    state = june().state_dict()
    change(state)
    tables = buffers(LINEAR_BETAS)
    payload = {"model": {f"denoise_fn.{k}": v for k, v in state.items()} | tables}
    with pytest.raises(CheckpointError, match=tell) as refused:
        lucidrains(payload)
    assert "version 2.0 or later, or of 24 May to 15 June 2022" in str(refused.value)


DTYPES = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_half_precision_keeps_schedule_and_prediction(dtype, name, kind):
    betas = SCHEDULES[name](1000)
    alpha_bar = (1 - betas).cumprod(0)
    snr = alpha_bar / (1 - alpha_bar)
    weight = {"eps": torch.ones_like(snr), "x0": snr, "v": snr / (snr + 1)}[kind]
    state = whole(unet()[0], buffers(betas, weight))
    foreign = lucidrains({key: tensor.to(dtype) for key, tensor in state.items()})
    assert foreign.spec["diffusion"]["schedule"] == {"name": name}
    assert foreign.spec["diffusion"]["prediction"] == kind
    assert "diffusion.prediction" not in foreign.assumed
    _, spec = build(foreign, foreign.raw)
    schedule = spec.diffusion.noise_schedule()
    torch.testing.assert_close(schedule.alpha_bar[1:], alpha_bar, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision_of_a_schedule_without_a_name_is_read_from_both_tables(dtype):
    betas = SCHEDULES["cosine"](500, offset=0.02)
    alpha_bar = (1 - betas).cumprod(0)
    state = whole(unet()[0], buffers(betas, torch.ones_like(betas)))
    foreign = lucidrains({key: tensor.to(dtype) for key, tensor in state.items()})
    assert foreign.spec["diffusion"]["prediction"] == "eps"
    _, spec = build(foreign, foreign.raw)
    schedule = spec.diffusion.noise_schedule()
    assert spec.diffusion.schedule.name == "custom"
    alpha = schedule.alpha(torch.arange(1, 501))
    torch.testing.assert_close(alpha.double(), alpha_bar.sqrt(), rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_june_2022_in_half_precision(dtype):
    foreign = lucidrains(june_file(june(), gamma=1.0, dtype=dtype))
    assert foreign.spec["diffusion"]["schedule"] == {"name": "cosine"}
    assert foreign.spec["diffusion"]["weighting"]["gamma"] == 1.0
