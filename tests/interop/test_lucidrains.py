import pytest
import torch
from torch import Tensor

from fromnoise.checkpoints import CheckpointError
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
    "norm.gain": ("norm.g", "1 o 1 1"),
    "memory": ("mem_kv", "2 2 3 4"),
    "qkv.weight": ("to_qkv.weight", "18 o 1 1"),
    "out.weight": ("to_out.0.weight", "o 6 1 1"),
    "out.bias": ("to_out.0.bias", "o"),
    "out_norm.gain": ("to_out.1.g", "1 o 1 1"),
}
FULL = {
    "norm.gain": ("norm.g", "1 o 1 1"),
    "memory": ("mem_kv", "2 2 4 3"),
    "qkv.weight": ("to_qkv.weight", "18 o 1 1"),
    "out.weight": ("to_out.weight", "o 6 1 1"),
    "out.bias": ("to_out.bias", "o"),
}
CONV3 = {"weight": ("weight", "o i 3 3"), "bias": ("bias", "o")}
CONV1 = {"weight": ("weight", "o i 1 1"), "bias": ("bias", "o")}
LINEAR_LAYER = {"weight": ("weight", "o i"), "bias": ("bias", "o")}
# a network of dim 4, init_dim 6, multipliers (2, 3), 2 channels: widths 6, 8, 12
LAYOUT = [
    ("time1.", "time_mlp.1.", LINEAR_LAYER, 16, 4),
    ("time2.", "time_mlp.3.", LINEAR_LAYER, 16, 16),
    ("stem.", "init_conv.", {"weight": ("weight", "o i 7 7"), "bias": ("bias", "o")}, 6, 2),
    ("down.0.block1.", "downs.0.0.", BLOCK, 6, 6),
    ("down.0.block2.", "downs.0.1.", BLOCK, 6, 6),
    ("down.0.attention.", "downs.0.2.", LINEAR, 6, 6),
    ("down.0.resample.", "downs.0.3.1.", CONV1, 8, 4 * 6),
    ("down.1.block1.", "downs.1.0.", BLOCK, 8, 8),
    ("down.1.block2.", "downs.1.1.", BLOCK, 8, 8),
    ("down.1.attention.", "downs.1.2.", FULL, 8, 8),
    ("down.1.resample.", "downs.1.3.", CONV3, 12, 8),
    ("middle1.", "mid_block1.", BLOCK, 12, 12),
    ("middle_attention.", "mid_attn.", FULL, 12, 12),
    ("middle2.", "mid_block2.", BLOCK, 12, 12),
    ("up.0.block1.", "ups.0.0.", BLOCK | SHORTCUT, 12, 12 + 8),
    ("up.0.block2.", "ups.0.1.", BLOCK | SHORTCUT, 12, 12 + 8),
    ("up.0.attention.", "ups.0.2.", FULL, 12, 12),
    ("up.0.resample.1.", "ups.0.3.1.", CONV3, 8, 12),
    ("up.1.block1.", "ups.1.0.", BLOCK | SHORTCUT, 8, 8 + 6),
    ("up.1.block2.", "ups.1.1.", BLOCK | SHORTCUT, 8, 8 + 6),
    ("up.1.attention.", "ups.1.2.", LINEAR, 8, 8),
    ("up.1.resample.", "ups.1.3.", CONV3, 6, 8),
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
    assert not any("diffusion.prediction" in note for note in foreign.notes)


@pytest.mark.parametrize("weight", [None, torch.linspace(1, 2, 1000)])
def test_an_unknown_prediction_type_is_noted(weight):
    foreign = lucidrains(whole(unet()[0], buffers(LINEAR_BETAS, weight)))
    assert foreign.spec["diffusion"]["prediction"] == "v"
    assert any("set diffusion.prediction=eps or x0" in note for note in foreign.notes)


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
        (_without("downs.0.0.block1.norm.g"), "of an older version"),
        (_without("downs.0.2.mem_kv"), "of an older version"),
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
