"""Sampling in bfloat16: what it changes, and what it leaves alone."""

import pytest
import torch
from torch import nn

from fromnoise.diffusion import Denoiser, NoiseSchedule
from fromnoise.model.model import Model, load
from fromnoise.model.precision import channels_last, in_bf16, norm_in_bf16, without_tf32
from fromnoise.networks import NETWORKS

TINY = {
    "ddpm": {"channels": 16, "multipliers": (1, 2), "groups": 4, "dropout": 0.0},
    "context": {"features": 16, "cond_dim": 3},
    "dense_attention": {"channels": (16, 16), "mid_channels": (16, 16), "downsample": (True,)},
    "linear_attention": {"dim": 16, "multipliers": (1, 2), "full_attention_levels": (1,)},
    "stacked": {
        "channels": (16, 32),
        "attention": (False, True),
        "upscale": (False, True),
        "groups": 8,
        "heads": 2,
    },
}


def denoiser_of(name):
    torch.manual_seed(0)
    network = NETWORKS[name](**TINY[name]).eval().requires_grad_(False)
    for p in network.parameters():  # layers that start at zero would hide what they do
        p.copy_(torch.randn_like(p) * 0.1 if p.dim() > 1 else p)
    return Denoiser(network, NoiseSchedule.named("linear", 1000))


@pytest.mark.parametrize("name", TINY)
def test_it_predicts_the_same_within_the_rounding_of_bf16(name):
    denoiser = denoiser_of(name)
    x = torch.randn(4, 3, 32, 32)
    t = torch.tensor([1, 2, 500, 1000])
    cond = torch.tensor([[1.0, -1, 0]]).expand(4, -1) if denoiser.network.cond_dim else None
    precise, half = denoiser(x, t, cond).eps, in_bf16(denoiser)(x, t, cond).eps
    assert half.dtype == torch.float32
    assert not torch.equal(half, precise)  # it was bf16
    off = (half - precise).square().mean().sqrt() / precise.square().mean().sqrt()
    assert off < 0.05, f"relative error {off:.4f}: a dozen layers that round to 0.004 each"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TINY.keys() - {"context"}))  # its time is not cast
def test_it_is_what_autocast_makes_of_the_network(name):
    denoiser = denoiser_of(name)
    x, t = torch.randn(4, 3, 32, 32), torch.tensor([1, 2, 500, 1000])
    with torch.autocast("cpu", torch.bfloat16):
        expected = denoiser(x, t).eps
    torch.testing.assert_close(in_bf16(denoiser)(x, t).eps, expected, rtol=0, atol=0)


def test_the_denoiser_itself_stays_as_it_is():
    denoiser = denoiser_of("ddpm")
    before = {name: p.clone() for name, p in denoiser.state_dict().items()}
    in_bf16(denoiser)
    after = denoiser.state_dict()
    assert all(torch.equal(p, after[name]) for name, p in before.items())
    assert all(p.dtype == torch.float32 for p in after.values())


def test_neighbouring_times_stay_apart():
    """t/T of 1000 and 999 are one number in bf16; the time must not go through it."""
    denoiser = denoiser_of("context")
    for layer in (denoiser.network.time1, denoiser.network.time2):
        for linear in (layer.linear1, layer.linear2):
            linear.weight.mul_(30)  # so that a thousandth of t/T shows
    half, x = in_bf16(denoiser), torch.randn(1, 3, 32, 32)
    predicted = [half(x, t, None).eps for t in (998, 999, 1000)]
    assert not torch.equal(predicted[0], predicted[1])
    assert not torch.equal(predicted[1], predicted[2])


def test_precision_is_chosen_by_what_the_device_can_do(finished_run, monkeypatch):
    for can, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(
            "fromnoise.model.precision.computes_in_bf16", lambda device, can=can: can
        )
        model = load(finished_run, device="cpu")
        assert model.auto_precision == model.sampling_config().precision == expected
        for precision in ("fp32", "bf16"):
            assert model.sampling_config(precision=precision).precision == precision
        assert model.sampling_config(precision="auto").precision == expected


def test_bf16_changes_a_grey_level_or_few_and_what_is_saved_not_at_all(finished_run, tmp_path):
    model = load(finished_run, device="cpu")
    made = [model.sample(range(4), steps=5, precision=p).int() for p in ("bf16", "fp32")]
    assert (made[0] - made[1]).abs().float().mean() < 2
    kept = load(model.save(tmp_path / "again.safetensors"), device="cpu")
    assert kept.same_weights(load(finished_run, device="cpu"))
    assert torch.equal(kept.sample(range(4), steps=5, precision="fp32").int(), made[1])


def test_only_products_are_in_bf16():
    half = in_bf16(denoiser_of("ddpm"))
    for module in half.network.modules():
        if isinstance(module, nn.GroupNorm):
            assert module.weight.dtype == torch.float32
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert module.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("name", TINY)
def test_normalising_in_half_changes_no_more_than_rounding_does(name):
    """What a CUDA device does; there autocast itself would make it float32."""
    denoiser = denoiser_of(name)
    x, t = torch.randn(4, 3, 32, 32), torch.tensor([1, 2, 500, 1000])
    precise, half = denoiser(x, t).eps, in_bf16(denoiser)
    norm_in_bf16(half.network)
    returned = []
    for module in half.network.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_hook(lambda norm, given, out: returned.append(out.dtype))
    off = half(x, t).eps - precise
    assert set(returned) <= {torch.bfloat16}
    assert bool(returned) == any(isinstance(m, nn.GroupNorm) for m in denoiser.network.modules())
    assert off.square().mean().sqrt() < 0.05 * precise.square().mean().sqrt()


def test_a_model_made_by_hand_samples_in_fp32(finished_run):
    made = load(finished_run, device="cpu")
    assert Model(made.denoiser, made.spec).sampling_config().precision == "fp32"


@pytest.mark.parametrize("name", TINY)
def test_in_bf16_on_a_cpu_the_layout_is_that_of_the_table(name):
    """As in training: channels first with GroupNorm, whatever it was."""
    denoiser = denoiser_of(name)
    denoiser.to(memory_format=torch.channels_last)
    half = in_bf16(denoiser).network
    expected = channels_last(torch.device("cpu"), "bf16", denoiser.network)
    assert expected == (not any(isinstance(m, nn.GroupNorm) for m in denoiser.network.modules()))
    weights = (m.weight for m in half.modules() if isinstance(m, nn.Conv2d))
    weight = next(w for w in weights if w.shape[1] > 1 and w[0, 0].numel() > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last) == expected


# ---- TF32 ---------------------------------------------------------------------------------------


def switches():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    each = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, matmul.fp32_precision
    return (*each, cudnn.benchmark)


EXACT = ("ieee",) * 3
SET = [  # by a program, in the older or the newer way
    (torch.backends.cudnn, "benchmark", False),
    (torch.backends.cudnn, "allow_tf32", False),
    (torch.backends.cudnn.conv, "fp32_precision", "ieee"),
    (torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    (torch.backends.cudnn, "benchmark", True),
]


@pytest.mark.parametrize(("switch", "name", "value"), SET)
def test_fp32_is_not_tf32_and_the_switches_of_torch_are_restored(switch, name, value):
    of_the_tests = getattr(switch, name)
    setattr(switch, name, value)
    try:
        before = switches()
        with without_tf32():
            assert switches() == (*EXACT, before[-1])
            assert not torch.backends.cudnn.allow_tf32  # torch finds both ways in agreement
            with without_tf32(benchmark=True):
                assert switches() == (*EXACT, True)
            assert switches() == (*EXACT, before[-1])
        assert switches() == before
        with pytest.raises(ZeroDivisionError), without_tf32(benchmark=True):
            1 / 0  # noqa: B018
        assert switches() == before
    finally:
        setattr(switch, name, of_the_tests)


@pytest.mark.parametrize("chosen", ["high", "medium"])
def test_a_program_may_have_chosen_the_precision_of_products(chosen):
    """By the older setting, which is also that of oneDNN; torch refuses to read contradictions."""
    of_the_tests = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(chosen)
    try:
        before = switches(), torch.backends.mkldnn.matmul.fp32_precision
        with without_tf32():
            assert switches()[:3] == EXACT
            assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cuda.matmul.allow_tf32
        assert (switches(), torch.backends.mkldnn.matmul.fp32_precision) == before
        assert torch.get_float32_matmul_precision() == chosen
    finally:
        torch.set_float32_matmul_precision(of_the_tests)


def test_sampling_computes_without_tf32(finished_run):
    seen, before = [], switches()
    model = load(finished_run, device="cpu")
    model.denoiser.network.register_forward_pre_hook(lambda *_: seen.append(switches()[:3]))
    model.sample([0], steps=2, precision="fp32")
    assert set(seen) == {EXACT}
    assert switches() == before
