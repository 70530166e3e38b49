"""The page docs/errata.md: the numbers that it gives, and that all it names exists."""

import ast
import importlib
import math
import re
from collections.abc import Iterable
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.models import ResNet18_Weights
from torchvision.transforms import CenterCrop

import fromnoise
from fromnoise import runs
from fromnoise.checkpoints import list_checkpoints, prune
from fromnoise.classifier.label_scores import LabelPredictions, score_ratios, scores
from fromnoise.config.recipe import load_recipe, parse_recipe, shipped_recipes
from fromnoise.data import DataError, ImageSet, open_images
from fromnoise.data.decoding.decode import EXTENSIONS, Picture, fit_picture
from fromnoise.data.loader import load_conditions, to_float
from fromnoise.diffusion import LOSSES, NoiseSchedule, Prediction, reverse_step
from fromnoise.diffusion.likelihood import log_level, prior_kl
from fromnoise.evaluation.metrics import frechet_distance, moments_of
from fromnoise.generation import edits as generation
from fromnoise.generation import request
from fromnoise.model.model import Model, build_denoiser, select_device, to_uint8
from fromnoise.model.spec import ModelSpec
from fromnoise.networks import DDPM, ContextUNet, DenseAttention, Stacked, stacked
from fromnoise.networks.context import Embedding
from fromnoise.networks.layers import Attention, sinusoid
from fromnoise.rng import BatchDraws, image_noise
from fromnoise.training import loop
from fromnoise.training.ema import EMA
from fromnoise.training.precision import Computation
from fromnoise.training.state import TrainingState, learning_rate

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "errata.md"
TEXT = PAGE.read_text(encoding="utf-8")
ITEM = re.compile(r"^### ([A-E])(\d+)\. (.+)$", flags=re.MULTILINE)
PARTS = ("Wrong", "Effect", "Here", "Test")
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
FUNCTION = re.compile(r"\[`([\w.]+)`\]\(\.\./src/([\w/]+)\.py\)")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
FAULTS = {"A": 15, "B": 8, "C": 11, "D": 6, "E": 10}

_, *SPLIT = ITEM.split(TEXT)
ITEMS = {
    f"{letter}{number}": re.split(r"^## ", body, flags=re.MULTILINE)[0]
    for letter, number, body in zip(SPLIT[::4], SPLIT[1::4], SPLIT[3::4], strict=True)
}


@pytest.fixture(scope="module")
def schedule() -> NoiseSchedule:
    """The paper's: T = 1000, β from 1e-4 to 0.02."""
    return NoiseSchedule.named("linear", 1000)


def schedule_of(recipe: str) -> NoiseSchedule:
    diffusion = load_recipe(recipe).diffusion
    return NoiseSchedule.named(diffusion.schedule.name, diffusion.T, **diffusion.schedule.options)


def predicted(schedule: NoiseSchedule, t: int, eps: torch.Tensor, x_t: torch.Tensor) -> Prediction:
    a = schedule.alpha_bar[t]
    return Prediction("eps", eps, x_t, a.sqrt(), (1 - a).sqrt())


def one(value: float) -> torch.Tensor:
    return torch.full((1, 1, 1, 1), value, dtype=torch.float64)


def share_of_the_start(decay: float, updates: int) -> float:
    """What our average keeps of its first weights."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    ema = EMA(module, decay)
    nn.init.zeros_(module.weight)
    for n in range(updates):
        ema.update(module, n)
    return next(ema.module.parameters()).item()


def adam(gradients: Iterable[float | np.ndarray]) -> list[float]:
    """The root mean square of each update, over the learning rate (Kingma and Ba 2015, Alg. 1)."""
    m = v = 0.0
    sizes = []
    for n, g in enumerate(gradients, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * np.square(g)
        update = m / (1 - 0.9**n) / (np.sqrt(v / (1 - 0.999**n)) + 1e-8)
        sizes.append(float(np.sqrt(np.mean(np.square(update)))))
    return sizes


# ---- A: folder-64 -------------------------------------------------------------------------------


def test_a_fixed_crop_puts_small_pictures_on_black():
    white = torch.full((1, 480, 640), 255, dtype=torch.uint8)
    covered = (CenterCrop(2448)(white) == 255).double().mean().item()
    assert covered == pytest.approx(0.051, abs=5e-4)
    cut_away = 1 - 2448**2 / (4032 * 3024)
    assert cut_away == pytest.approx(0.51, abs=5e-3)
    picture = Picture(white.permute(1, 2, 0).numpy())
    assert (fit_picture(picture, (64, 64), fit="crop", background=(0, 0, 0)) == 255).all()


def test_every_kind_of_file_is_found(tmp_path):
    for i, extension in enumerate(EXTENSIONS):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}{extension}")
    assert len(list(tmp_path.glob("*.jpg"))) == 1
    assert len(open_images("folder", tmp_path)) == len(EXTENSIONS) >= 19


def test_a_split_that_is_not_there_is_refused(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(DataError, match="test"):
        open_images("folder", tmp_path, split="test")


def test_every_mode_becomes_three_channels(tmp_path):
    modes = ("L", "RGB", "RGBA", "CMYK")
    for mode in modes:
        Image.new(mode, (8, 8)).save(tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}")
    assert [len(Image.new(mode, (1, 1)).getbands()) for mode in modes] == [1, 3, 4, 4]
    data = open_images("folder", tmp_path, channels=3)
    assert data.images.shape == (4, 3, 8, 8)
    assert not data.skipped


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation returned."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.numel = max([self.numel, *sizes])
        return out


def test_attention_never_holds_the_matrix_of_all_pairs():
    all_pairs = 6 * 4 * 4096**2 * 4
    assert all_pairs == pytest.approx(1.61e9, rel=1e-3)
    attention = Attention(nn.GroupNorm(4, 8), heads=4)
    x = torch.randn(1, 8, 32, 32, requires_grad=True)
    with Largest() as seen:
        attention(x).sum().backward()
    assert 3 * x.numel() <= seen.numel < 4 * 1024**2 / 100  # q, k and v, but no 1024² for each head


def test_the_number_of_heads_reaches_the_blocks():
    small = {"channels": (8, 16), "mid_channels": (16, 16, 8), "downsample": (True,)}
    torch.manual_seed(0)
    four, same, single = (DenseAttention(heads=heads, **small) for heads in (4, 4, 1))
    for other in (same, single):
        other.load_state_dict(four.state_dict())
    x, t = torch.randn(2, 3, 16, 16), torch.zeros(2)
    out = four(x, t)
    assert torch.equal(same(x, t), out)
    assert 0.1 < (single(x, t) - out).std() / out.std() < 0.4


def test_the_mean_follows_the_clamp(schedule):
    """A network that sees no noise in x_500 = 1: x̂_0 = 3.57, and what the clamp then changes."""
    t, x_t, nothing = 500, one(1.0), one(0.0)
    free = predicted(schedule, t, nothing, x_t)
    clamped = free.with_x0(free.x0.clamp(-1, 1))
    beta, alpha_bar = 1e-4 + 0.0199 * 499 / 999, schedule.alpha_bar[t].item()
    from_eps = (1.0 - beta / math.sqrt(1 - alpha_bar) * 0.0) / math.sqrt(1 - beta)
    unclamped, x0_free = reverse_step(free, schedule, t, t - 1, nothing)
    ours, x0 = reverse_step(clamped, schedule, t, t - 1, nothing)
    assert x0_free.item() == pytest.approx(3.567, abs=1e-3)
    assert x0.item() == 1
    assert unclamped.item() == pytest.approx(from_eps)
    assert unclamped.item() == pytest.approx(1.0051, abs=1e-4)
    assert ours.item() == pytest.approx(0.9972, abs=1e-4)
    expected, _ = schedule.posterior(one(1.0), x_t, t, t - 1)
    assert torch.equal(ours, expected)


def test_one_batch_holds_several_times(schedule):
    t, s = torch.tensor([1, 6]), torch.tensor([0, 5])
    with pytest.raises(RuntimeError, match="ambiguous"):
        bool((s == 0).squeeze())
    x = torch.zeros(2, 1, 1, 1, dtype=torch.float64)
    a = schedule.alpha_bar[t].reshape(2, 1, 1, 1)
    prediction = Prediction("eps", x, x, a.sqrt(), (1 - a).sqrt())
    moved, _ = reverse_step(prediction, schedule, t, s, torch.ones_like(x))
    assert moved[0].item() == 0
    assert moved[1].item() == pytest.approx(0.0125, abs=1e-4)


def test_an_optimiser_without_its_memory_leaps():
    gradients = np.random.default_rng(0).standard_normal((300, 5000))
    usual, first = adam(gradients)[-1], adam(gradients[:1])[0]
    assert usual == pytest.approx(math.sqrt(0.1 / 1.9), rel=0.05)
    assert first / usual == pytest.approx(4.4, abs=0.2)


def test_an_average_is_calmer_than_the_weights():
    for decay, percent in ((0.9999, 0.71), (0.9995, 1.58)):
        assert 100 * math.sqrt((1 - decay) / (1 + decay)) == pytest.approx(percent, abs=0.005)
    torch.manual_seed(0)
    module = nn.Linear(5000, 1, bias=False)
    nn.init.zeros_(module.weight)
    ema = EMA(module, 0.9)
    for _ in range(100):
        nn.init.normal_(module.weight)
        ema.update(module, 10**6)  # long after the warm-up
    assert next(ema.module.parameters()).std().item() == pytest.approx(
        math.sqrt(0.1 / 1.9), rel=0.05
    )
    decays = [load_recipe(name).training.ema_decay for name in ("folder-64", "cifar10-warmup")]
    assert [*decays, load_recipe("iclevr").training.ema_decay] == [0.9999, 0.9999, 0.9995]


def test_a_seed_is_an_image_and_no_seed_is_another():
    first, again, other = (image_noise([seed], 0, (3, 64, 64)) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert (first - other).square().mean().sqrt().item() == pytest.approx(math.sqrt(2), rel=0.02)


def test_a_distance_tells_noise_from_digits():
    digits = open_images("digits").images
    rng = np.random.default_rng(0)
    order = rng.permutation(len(digits))
    noise = rng.integers(0, 256, digits.shape, dtype=np.uint8)
    half, rest, nothing = (
        moments_of(images.reshape(len(images), -1) / 255)
        for images in (digits[order[:898]], digits[order[898:]], noise)
    )
    for other, expected, within in ((rest, 0.07, 0.02), (nothing, 9.9, 0.2)):
        distance = frechet_distance(half.mean, half.covariance, other.mean, other.covariance)
        assert distance == pytest.approx(expected, abs=within)


def test_one_large_gradient_slows_adam_unless_it_is_clipped(tiny, tmp_path, monkeypatch):
    gradients = [1.0] * 3000 + [1000.0] + [1.0] * 200
    sizes = adam(gradients)
    assert sizes[2999] == pytest.approx(1)
    assert 0.03 < sizes[-1] < 0.04
    assert adam(np.clip(gradients, -1, 1))[-1] == pytest.approx(1)
    assert all(load_recipe(name).training.clip_norm == 1 for name in shipped_recipes())

    class Watcher:
        """In the optimiser's place: the norm of the gradient that it is handed."""

        def __init__(self, module: nn.Module) -> None:
            self.parameters, self.param_groups, self.state = list(module.parameters()), [{}], {}
            self.norms: list[float] = []

        def step(self) -> None:
            gradient = torch.cat([p.grad.flatten() for p in self.parameters if p.grad is not None])
            self.norms.append(gradient.norm().item())

        def zero_grad(self, **how: bool) -> None:
            for parameter in self.parameters:
                parameter.grad = None

    norms = {}
    for clip in (None, 1e-3):
        tiny["training"] |= {"clip_norm": clip, "steps": 2, "log_every": 9, "checkpoint_every": 9}
        recipe = parse_recipe(tiny, "tiny")
        spec = spec_of(recipe)
        denoiser = build_denoiser(spec)
        watcher: Any = Watcher(denoiser.network)
        folder = tmp_path / str(clip)
        folder.mkdir()
        ema, scaler = EMA(denoiser.network, 0.9), torch.amp.GradScaler("cpu", enabled=False)
        state = TrainingState(denoiser, ema, watcher, scaler, Computation("fp32", False))
        loop.fit(loop.Setup(recipe, spec, open_images("digits"), folder), state, [])
        norms[clip] = watcher.norms
    assert len(norms[None]) == 2
    assert min(norms[None]) > 2e-3
    assert norms[1e-3] == pytest.approx([1e-3] * 2, rel=1e-3)


def test_two_of_three_is_nearly_anything():
    stats = pytest.importorskip("scipy.stats")
    interval = stats.binomtest(2, 3).proportion_ci()
    assert interval.low == pytest.approx(0.09, abs=5e-3)
    assert interval.high == pytest.approx(0.99, abs=5e-3)


def test_one_half_is_not_the_imagenet_statistics():
    imagenet = ResNet18_Weights.IMAGENET1K_V1.transforms()
    black = [-m / s for m, s in zip(imagenet.mean, imagenet.std, strict=True)]
    white = [(1 - m) / s for m, s in zip(imagenet.mean, imagenet.std, strict=True)]
    assert black == pytest.approx([-2.12, -2.04, -1.80], abs=5e-3)
    assert white == pytest.approx([2.25, 2.43, 2.64], abs=5e-3)
    levels = torch.tensor([0, 255], dtype=torch.uint8)
    assert to_float(levels).tolist() == [-1, 1] == ((levels / 255 - 0.5) / 0.5).tolist()


# ---- B: cifar10-warmup --------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "too_small"), [(100, 1.05), (500, 3.55), (1000, 155.8)])
def test_the_posterior_takes_the_alpha_of_one_step(schedule, t, too_small):
    """The share of x_t in the mean of x_{t−1}, from the covariance of the two given x_0 = 0."""
    before, now = schedule.alpha_bar[t - 1].item(), schedule.alpha_bar[t].item()
    alpha = now / before
    step = np.array(
        [[math.sqrt(1 - before), 0], [math.sqrt(alpha * (1 - before)), math.sqrt(1 - alpha)]]
    )
    covariance = step @ step.T
    share = covariance[0, 1] / covariance[1, 1]
    ours, _ = schedule.posterior(one(0.0), one(1.0), t, t - 1)
    assert ours.item() == pytest.approx(share, rel=1e-9)
    printed = math.sqrt(now) * (1 - before) / (1 - now)
    assert share / printed == pytest.approx(too_small, rel=5e-3)


def test_the_bound_has_a_first_and_a_last_term(schedule):
    """In bits per dimension: L_T of a white pixel, and L_0 of a network that knows the image."""
    assert prior_kl(schedule, one(1.0)).item() == pytest.approx(2.9e-5, rel=0.01)
    std = schedule.variances(1, 0)[0].sqrt()
    level = one(1 / 255)
    last = -log_level(level, level, std).item() / math.log(2)
    mass = math.erf(1 / 255 / std.item() / math.sqrt(2))
    assert last == pytest.approx(-math.log2(mass))
    assert last == pytest.approx(1.31, abs=5e-3)


def test_a_sum_over_1000_grows_with_batch_and_image():
    error = torch.ones(80, 3, 32, 32)
    assert (error.sum() / 1000).item() == pytest.approx(245.76)
    larger = torch.ones(80, 3, 64, 64)
    assert (larger.sum() / error.sum()).item() == 4
    assert error.mean() == larger.mean() == 1


def test_the_cosine_ends_at_zero():
    """Told to last 200 epochs, it begins after 21 of them, and the last has index 199."""
    theirs = 2e-4 * (1 + math.cos(math.pi * (199 - 21) / 200)) / 2
    assert theirs == pytest.approx(5.9e-6, rel=0.01)
    settings = load_recipe("cifar10-warmup").training
    assert learning_rate(settings, settings.warmup_steps) == settings.learning_rate
    assert 0 < learning_rate(settings, settings.steps - 1) < 1e-12


def spec_of(recipe, channels: int = 1, size: tuple[int, int] = (8, 8)) -> ModelSpec:
    return ModelSpec(
        network=recipe.network,
        diffusion=recipe.diffusion,
        sampling=recipe.sampling,
        channels=channels,
        size=size,
    )


def test_weights_fit_any_number_of_steps(tiny):
    states = []
    for T in (500, 1000):
        recipe = parse_recipe(tiny, "tiny", {"diffusion.T": T})
        denoiser = build_denoiser(spec_of(recipe))
        states.append(denoiser.state_dict())
        assert all(T not in tensor.shape for tensor in states[-1].values())
        denoiser.load_state_dict(states[0])
    assert 1000 * 128 == 128_000


def test_the_checkpoints_that_are_kept_are_few(tmp_path):
    options = load_recipe("cifar10-warmup").network.options
    with torch.device("meta"):
        count = sum(p.numel() for p in DDPM(**options).parameters())
    assert 200 * 4 * count == pytest.approx(66.4e9, rel=1e-3)
    settings = load_recipe("cifar10-warmup").training
    for step in range(settings.checkpoint_every, settings.steps + 1, settings.checkpoint_every):
        newest = tmp_path / f"{step:06d}"
        newest.mkdir()
        prune(newest, keep=settings.keep_checkpoints, milestone_every=settings.milestone_every)
    kept = list_checkpoints(tmp_path)
    assert int(kept[-1].name) == settings.steps
    assert len(kept) >= 2
    assert len(kept) * 4 * 4 * count < 7e9  # weights, average, two moments


def labelled(k: int, of: int = 24, images: int = 64) -> ImageSet:
    """Images with k labels present and the others absent."""
    labels = np.where(np.arange(of) < k, 1, -1).astype(np.int8)
    pixels = np.zeros((images, 1, 1, 1), np.uint8)
    return ImageSet(pixels, np.repeat(labels[None], images, axis=0), (), "", (), "")


def test_every_batch_has_some_images_without_labels():
    data = labelled(1, of=10)
    counts = []
    for step in range(300):
        cond = load_conditions(data, BatchDraws.of(0, step, 80), dropout=0.1, label_dropout=0)
        counts.append((cond == 0).all(dim=1).sum().item())
    assert np.mean(counts) == pytest.approx(8, abs=0.5)
    assert math.sqrt(80 * 0.1 * 0.9) == pytest.approx(2.7, abs=0.05)
    assert np.std(counts) == pytest.approx(2.7, abs=0.4)
    whole = 80 * (np.random.default_rng(0).random(10_000) < 0.1)
    assert whole.std() == pytest.approx(24, abs=0.5)


# ---- C: mnist-tutorial --------------------------------------------------------------------------


def explained(features: torch.Tensor, target: torch.Tensor) -> float:
    """The share of the variance of target (N,) that a linear function of features (N, D) has."""
    design = torch.cat([features, torch.ones(len(features), 1, dtype=features.dtype)], dim=1)
    solution = torch.linalg.lstsq(design, target[:, None], driver="gelsd").solution
    return 1 - ((target - (design @ solution)[:, 0]).var() / target.var()).item()


def test_the_first_64_numbers_of_a_sinusoid_do_not_tell_the_noise_level(schedule):
    table = sinusoid(torch.arange(1000), 512, "interleaved").double()
    slowest = 2 * math.pi * 10000 ** (62 / 512)
    angle = 2 * math.pi * torch.arange(1000, dtype=torch.float64) / slowest
    torch.testing.assert_close(table[:, 63], angle.cos(), rtol=0, atol=1e-4)
    assert slowest == pytest.approx(19.2, abs=0.05)
    assert torch.pdist(table[:, :64]).min() > 3  # no two times look alike
    level = schedule.log_snr(torch.arange(1, 1001)).double()
    assert explained(table[:, :64], level) == pytest.approx(0.003, abs=1e-3)
    assert explained(table[:, :128], level) == pytest.approx(0.12, abs=5e-3)
    assert explained(table, level) > 0.9999
    assert load_recipe("mnist-tutorial").network.options["time"] == "projected"


def test_attention_alone_forgets_where_things_are():
    torch.manual_seed(0)
    x = torch.randn(1, 128, 16, 16)
    left = {}
    for norm in (None, nn.GroupNorm(32, 128)):
        out = stacked.Attention(128, norm=norm, heads=8, dropout=0.0)(x)
        left[norm is not None] = (out.var(dim=(2, 3)).mean() / x.var(dim=(2, 3)).mean()).item()
    assert left[False] < 1e-3
    assert left[True] == pytest.approx(1, abs=0.01)
    assert load_recipe("mnist-tutorial").network.options["attention_form"] == "residual"


def test_sampling_drops_nothing_out():
    torch.manual_seed(0)
    q = k = torch.zeros(1, 64, 256, 16)  # even attention
    v = torch.randn(1, 64, 256, 16)
    clean = F.scaled_dot_product_attention(q, k, v)
    dropped = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1)
    assert ((dropped - clean).std() / clean.std()).item() == pytest.approx(1 / 3, abs=0.02)
    attention = stacked.Attention(32, norm=None, heads=8, dropout=0.1).eval()
    x = torch.randn(1, 32, 8, 8)
    assert torch.equal(attention(x), attention(x))


def test_half_the_range_is_a_quarter_of_the_signal(schedule):
    unit = torch.from_numpy(open_images("digits").images.copy()).double() / 255
    ours = to_float(torch.from_numpy(open_images("digits").images.copy())).double()
    assert (ours.var() / unit.var()).item() == pytest.approx(4)
    assert unit.mean().item() == pytest.approx(0.31, abs=5e-3)
    assert unit.square().mean().item() == pytest.approx(0.23, abs=5e-3)
    assert ours.square().mean().item() == pytest.approx(0.72, abs=5e-3)
    times = torch.arange(1, 1001)
    drowned = [int(times[schedule.snr(times) * x.var() < 1][0]) for x in (unit, ours)]
    assert drowned == [111, 208]


def test_the_average_forgets_the_random_start():
    every_step, every_tenth = 0.9999 ** (15 * 938), 0.9999 ** ((100_000 - 2000) // 10)
    assert [every_step, every_tenth] == pytest.approx([0.245, 0.375], abs=5e-4)
    shares = [share_of_the_start(0.9999, updates) for updates in (1, 10, 100)]
    assert shares == pytest.approx([1 / 10, 1 / math.comb(19, 9), 1 / math.comb(109, 9)], rel=1e-3)
    assert shares[-1] < 1e-12


def test_a_crash_loses_little():
    settings = load_recipe("mnist-tutorial").training
    assert settings.epochs is not None
    steps = settings.epochs * 60_000 / settings.batch_size
    assert steps == pytest.approx(70_312, abs=1)
    assert settings.checkpoint_every / steps < 0.015


def test_no_recipe_wants_weights_to_begin_with():
    assert {load_recipe(name).training.start_from for name in shipped_recipes()} == {None}


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(False, False, "cpu"), (False, True, "mps"), (True, False, "cuda")],
)
def test_the_device_is_what_is_there(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert select_device("auto").type == expected


def test_the_paper_has_silu_and_the_tutorial_relu(monkeypatch):
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    assert (x.relu() == 0).double().mean().item() == pytest.approx(0.5, abs=0.02)
    assert F.silu(torch.tensor(-1.0)).item() == pytest.approx(-0.269, abs=5e-4)

    called: list[str] = []
    for name in ("relu", "silu"):
        original = getattr(F, name)
        monkeypatch.setattr(
            F, name, lambda x, name=name, original=original: called.append(name) or original(x)
        )
    of_paper = DDPM(channels=8, multipliers=(1, 2), num_res_blocks=1, groups=4)
    no, up = (False, False), (False, True)
    of_tutorial = Stacked(channels=(8, 16), attention=no, upscale=up, groups=4)
    used = {}
    for network in (of_paper, of_tutorial):
        called.clear()
        network(torch.zeros(1, 3, 8, 8), torch.zeros(1))
        used[type(network).__name__] = set(called)
    assert used == {"DDPM": {"silu"}, "Stacked": {"relu"}}


def test_another_eps_is_another_mean_of_the_same_width(schedule):
    t, x_t = 500, one(0.3)

    def moved_to(eps: float, z: float) -> float:
        moved, _ = reverse_step(predicted(schedule, t, one(eps), x_t), schedule, t, t - 1, one(z))
        return moved.item()

    assert moved_to(0.2, 0.0) - moved_to(1.2, 0.0) == pytest.approx(0.0105, abs=5e-5)
    widths = [moved_to(eps, 1.0) - moved_to(eps, 0.0) for eps in (0.2, 1.2)]
    assert widths[0] == pytest.approx(widths[1])
    assert widths[0] > 0.09


# ---- D: cifar10-linear-attention, cifar10-paper -------------------------------------------------


def test_few_points_lie_far_from_their_own_distribution():
    rng = np.random.default_rng(0)
    distance = {}
    for count in (1000, 4000):
        a, b = (moments_of(rng.standard_normal((count, 512))) for _ in range(2))
        distance[count] = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    assert distance[1000] == pytest.approx(133, abs=3)
    assert distance[4000] == pytest.approx(33, abs=1)
    few = moments_of(rng.standard_normal((50, 100))).covariance
    assert np.linalg.matrix_rank(few) == 49  # and so 999 of 2048 with 1000 images


def test_what_a_recipe_does_not_say_is_written_out():
    choice = torch.linspace(-1, 1, 201, dtype=torch.float64)
    white, black = (choice - 1).abs(), (choice + 1).abs()
    absolute, squared = (0.3 * white**p + 0.7 * black**p for p in (1, 2))
    one, minus = torch.ones_like(choice), -torch.ones_like(choice)
    for name, expected in (("l1", absolute), ("mse", squared)):
        metric = LOSSES[name]
        torch.testing.assert_close(
            0.3 * metric(choice, one) + 0.7 * metric(choice, minus), expected
        )
    assert choice[absolute.argmin()].item() == pytest.approx(-1)  # the median
    assert choice[squared.argmin()].item() == pytest.approx(-0.4)  # the mean
    for name, middle in (("linear", 0.28), ("cosine", 0.70)):
        alpha = NoiseSchedule.named(name, 1000).alpha(500).item()
        assert alpha == pytest.approx(middle, abs=5e-3)
    recipe = load_recipe("cifar10-linear-attention")
    text = recipe.to_yaml()
    for line in ("loss: mse", "name: linear", "parts: 1", "batch_size: 128"):
        assert re.search(rf"^\s+{line}$", text, flags=re.MULTILINE), line


def untrained(tiny) -> Model:
    """A model whose network returns zeros, as a new one does."""
    recipe = parse_recipe(tiny, "tiny")
    return Model(build_denoiser(spec_of(recipe)).eval().requires_grad_(False), spec_of(recipe))


def test_an_interpolation_goes_on_from_the_noise_that_it_made(tiny, schedule):
    """The noise at t + 1 over that which the network is told of, at t."""
    ratio = {t: (schedule.sigma(t + 1) / schedule.sigma(t)).item() for t in (1, 10, 500)}
    assert ratio == pytest.approx({1: 1.483, 10: 1.076, 500: 1.0004}, abs=5e-4)

    model, told = untrained(tiny), []
    model.denoiser.network.register_forward_pre_hook(lambda module, given: told.append(given[1]))
    first = next(model.denoise([0], origin=(60, torch.zeros(1, 1, 8, 8)), steps=10))
    assert first.t == 60
    assert told[0].tolist() == [59]  # t − 1, as the network counts


def test_interpolated_images_are_bytes_from_the_first_to_the_last(tiny, tmp_path, monkeypatch):
    digits = open_images("digits").images[:2]
    below = to_float(torch.from_numpy(open_images("digits").images.copy())) < 0
    assert below.double().mean().item() == pytest.approx(0.68, abs=5e-3)
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(to_uint8(to_float(every)), every)

    ends = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, image in zip(ends, digits, strict=True):
        Image.fromarray(image[0].astype(np.uint16) * 257).save(path)
    monkeypatch.setattr(request, "grid_figure", lambda images, path, **how: path)
    model, out = untrained(tiny), tmp_path / "out"
    config = model.sampling_config(steps=100)
    wanted = request.Request(model, config, out)
    files = generation.interpolate_to_folder(wanted, *ends, frames=3, strength=0.01)
    frames = [np.asarray(Image.open(file)) for file in files[:3]]
    for frame, image in zip((frames[0], frames[-1]), digits, strict=True):
        assert frame.dtype == np.uint8
        assert np.abs(frame.astype(int) - image[0]).mean() < 8


# ---- E: iclevr ----------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3])
def test_conditions_are_emptied_as_often_with_many_labels(k):
    rng = np.random.default_rng(0)
    one_by_one = (rng.random((20_000, k)) < 0.1).all(axis=1).mean()
    assert one_by_one == pytest.approx(0.1**k, abs=3 * math.sqrt(0.1**k / 20_000))
    cond = load_conditions(labelled(k), BatchDraws.of(0, 0, 20_000), dropout=0.1, label_dropout=0)
    empty = (cond == 0).all(dim=1)
    assert empty.double().mean().item() == pytest.approx(0.1, abs=0.007)
    assert (cond[~empty] != 0).all()  # nothing in between
    incomplete = (rng.random((20_000, 3)) < 0.1).any(axis=1).mean()
    assert incomplete == pytest.approx(1 - 0.9**3, abs=0.01)


def test_zeros_are_embedded_as_something_unless_there_is_no_bias():
    torch.manual_seed(0)
    with_bias, without = Embedding(24, 256), Embedding(24, 256, bias=False)
    nothing, single = torch.zeros(1, 24), torch.eye(24)
    ratio = with_bias(nothing).norm() / with_bias(single).flatten(1).norm(dim=1).mean()
    assert 0.7 < ratio.item() < 1
    assert without(nothing).count_nonzero() == 0
    assert load_recipe("iclevr").network.options["condition"] == "signed"


def test_the_last_time_is_noise():
    assert NoiseSchedule.named("linear", 400).alpha(400).item() == pytest.approx(0.132, abs=5e-4)
    for name, left in (("iclevr", 0.0060), ("cifar10-classes", 0.0288)):
        schedule = schedule_of(name)
        assert schedule.alpha(schedule.T).item() == pytest.approx(left, abs=1e-4)


def test_too_much_image_at_the_last_time_is_a_warning(tiny, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(runs.running, "fit_run", lambda *what: None)  # all but the training itself
    for beta_T, warned in ((0.02, True), (0.05, False)):
        caplog.clear()
        tiny["diffusion"] = {"T": 400, "schedule": {"name": "linear", "beta_T": beta_T}}
        fromnoise.train(tiny, out=tmp_path / str(beta_T))
        assert ("√ᾱ_T = 0.13: x_T still shows the image" in caplog.text) == warned


def test_nothing_is_left_of_the_noise_at_time_0():
    """A perfect network for one grey picture, with tables of T + 1 times and with ours of T."""
    beta = torch.linspace(1e-4, 0.02, 401, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - beta, dim=0)
    draws, x0 = torch.Generator().manual_seed(0), 0.5
    x = torch.randn(4000, dtype=torch.float64, generator=draws)
    for i in range(400, 0, -1):
        eps = (x - alpha_bar[i].sqrt() * x0) / (1 - alpha_bar[i]).sqrt()
        x = (x - beta[i] / (1 - alpha_bar[i]).sqrt() * eps) / (1 - beta[i]).sqrt()
        if i > 1:
            z = torch.randn(4000, dtype=torch.float64, generator=draws)
            x = x + beta[i].sqrt() * z
    assert (1 - alpha_bar[0]).sqrt().item() == pytest.approx(0.01)
    assert x.std().item() == pytest.approx(0.008, abs=5e-4)

    ours = NoiseSchedule(beta[1:])
    x_1 = torch.randn(4, 1, 2, 2, dtype=torch.float64, generator=draws)
    exact = predicted(ours, 1, torch.zeros_like(x_1), x_1).with_x0(torch.full_like(x_1, x0))
    moved, _ = reverse_step(exact, ours, 1, 0, torch.ones_like(x_1))
    assert ours.sigma(0) == 0
    torch.testing.assert_close(moved, torch.full_like(x_1, x0), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("pool", "seen"), [(7, 0.766), (8, 1.0)])
def test_a_pool_of_seven_never_looks_at_the_edge(pool, seen):
    """The gradient of the middle by the 16×16 map that is pooled for it."""
    torch.manual_seed(0)
    network = ContextUNet(features=8, pool=pool)
    kept: dict[str, Any] = {}
    network.down2.register_forward_hook(lambda module, given, out: kept.update(pooled=out))
    network.middle.register_forward_hook(lambda module, given, out: kept.update(middle=out))
    network(torch.randn(1, 3, 64, 64), torch.zeros(1))
    weighted = (kept["middle"] * torch.randn_like(kept["middle"])).sum()
    (gradient,) = torch.autograd.grad(weighted, kept["pooled"])  # (1,16,32,32), before max-pool
    of_position = gradient.abs().sum(dim=1)[0].reshape(16, 2, 16, 2).sum(dim=(1, 3))
    assert (of_position > 0).double().mean().item() == pytest.approx(seen, abs=5e-4)
    assert (of_position[:14, :14] > 0).all()
    assert load_recipe("iclevr").network.options["pool"] == 8


def test_batch_statistics_let_neighbours_into_an_image():
    change = {}
    for norm in ("batch", "group"):
        torch.manual_seed(0)
        network = ContextUNet(features=16, pool=8, norm=norm).train()
        x, t = torch.randn(8, 3, 32, 32), torch.zeros(8)
        among_black = torch.cat([x[:1], torch.full((7, 3, 32, 32), -1.0)])
        first, other = network(x, t)[:1], network(among_black, t)[:1]
        change[norm] = ((first - other).std() / first.std()).item()
    assert 0.6 < change["batch"] < 1.2
    assert change["group"] < 1e-5
    assert load_recipe("iclevr").network.options["norm"] == "group"


def test_a_squashed_circle_is_an_ellipse():
    y, x = np.mgrid[:240, :320] + 0.5
    disc = np.where((y - 120) ** 2 + (x - 160) ** 2 < 90**2, 255, 0).astype(np.uint8)[..., None]
    ratio = {}
    for fit in ("squash", "pad"):
        out = fit_picture(Picture(disc), (64, 64), fit=fit, background=(0, 0, 0))[0] / 255
        ratio[fit] = out.max(axis=0).sum() / out.max(axis=1).sum()
    assert ratio == pytest.approx({"squash": 0.75, "pad": 1.0}, abs=0.03)
    data = load_recipe("iclevr").data
    assert (data.fit, data.background) == ("pad", (128, 128, 128))


def test_recall_ignores_extra_objects():
    """One object asked for, three drawn: recall@1 beside F1."""
    wanted = np.where(np.arange(24) == 0, 1, -1)[None]
    probability = np.full((1, 24), 0.01)
    probability[0, :3] = 0.99, 0.98, 0.97
    found = scores(score_ratios(LabelPredictions(probability, probability >= 0.5), wanted))
    assert (found["recall_at_k"], found["recall"], found["f1"]) == (1, 1, 0.5)
    assert (found["precision"], found["exact_match"], found["extra"]) == (1 / 3, 0, 1)


def test_two_labels_of_72_are_no_difference():
    stats = pytest.importorskip("scipy.stats")
    assert [round(61 / 72, 2), round(59 / 72, 2)] == [0.85, 0.82]
    interval = stats.binomtest(61, 72).proportion_ci()
    assert (interval.low, interval.high) == pytest.approx((0.74, 0.92), abs=5e-3)
    assert interval.low < 59 / 72 < interval.high
    assert stats.fisher_exact([[61, 11], [59, 13]])[1] == pytest.approx(0.82, abs=5e-3)


# ---- the page itself ----------------------------------------------------------------------------


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def parts_of(item: str) -> dict[str, str]:
    _, *split = re.split(r"^- \*\*(\w+):\*\*\s", ITEMS[item], flags=re.MULTILINE)
    return dict(zip(split[::2], split[1::2], strict=True))


def anchor(title: str) -> str:
    """As GitHub makes one of a heading: lower case, spaces to hyphens, no other signs."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.docs
def test_the_page_numbers_every_fault_without_a_gap():
    expected = [f"{letter}{i + 1}" for letter, count in FAULTS.items() for i in range(count)]
    assert list(ITEMS) == expected


@pytest.mark.docs
def test_the_page_says_four_things_of_each():
    for item in ITEMS:
        parts = parts_of(item)
        assert tuple(parts) == PARTS, item
        assert re.search(r"\d", parts["Effect"]), item
        assert LINK.search(parts["Here"]), item
        assert TEST.search(parts["Test"]), item
        recipes = set(re.findall(r"`([\w-]+)`", parts["Wrong"])) & set(shipped_recipes())
        assert recipes, f"{item} names no recipe"


@pytest.mark.docs
def test_the_page_lists_every_item_in_its_contents():
    titles = {f"{a}{n}": anchor(f"{a}{n}. {title}") for a, n, title in ITEM.findall(TEXT)}
    listed = dict(re.findall(r"\[([A-E]\d+)\]\(#([^)]+)\)", TEXT))
    assert listed == titles


@pytest.mark.docs
def test_the_page_links_to_what_is_there():
    for target in {target for _, target in LINK.findall(TEXT)}:
        file, _, fragment = target.partition("#")
        page = PAGE.parent / file if file else PAGE
        assert page.is_file(), target
        if fragment:
            headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
            assert fragment in set(map(anchor, headings)), target


@pytest.mark.docs
def test_the_page_names_functions_where_they_are():
    for name, module in set(FUNCTION.findall(TEXT)):
        found = importlib.import_module(module.replace("/", "."))
        assert getattr(found, name.split(".")[0]).__module__ == found.__name__, name
        attrgetter(name)(found)


@pytest.mark.docs
def test_the_page_names_tests_that_exist():
    for file, name in set(TEST.findall(TEXT)):
        assert name.startswith("test_"), name
        assert name in names_in(file), name


@pytest.mark.docs
def test_the_page_names_every_test_of_this_file():
    here = {name for name in names_in("tests/test_errata.py") if name.startswith("test_")}
    named = {name for file, name in TEST.findall(TEXT) if file == "tests/test_errata.py"}
    assert named == {name for name in here if not name.startswith("test_the_page_")}
    assert len(re.findall(r"tests/", TEXT)) == len(TEST.findall(TEXT))  # none escapes the pattern
