"""What can be known of a training before its first step: each check is a few facts → a finding."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from fromnoise.config import Diffusion, Recipe
from fromnoise.progress import duration
from fromnoise.training.power_ema import snapshot_every
from fromnoise.training.probe import Measured

TOO_MUCH_IMAGE = 0.05  # of √ᾱ_T
PAPER = 0.0064  # √ᾱ_T of the paper's schedule
LONGER = ("linear", "quadratic", "constant", "warmup")  # whose betas stay as large as T grows
MOST_STEPS, LARGEST_BETA = 10_000, 0.5  # that are advised
BETA_MAX = 0.999  # of the published schedules
LONG_AVERAGE = 0.25  # of the run
RIGHT_AVERAGE = 0.1
FEW_STEPS = 100
MANY_EPOCHS, FEW_IMAGES = 1000, 10_000
BY_HEART = 10  # parameters for each value of a pixel
ATTENTION_SHARE = 0.25  # of the multiply-adds
LARGE_SCORES = 2**30  # bytes
DRAWING_SHARE = 0.2  # of the time
LONG = 24 * 3600  # seconds: a night and a day
MOMENTS = 2  # of Adam, each as large as the weights
NEARLY_FULL = 0.8  # of the memory or disk that is free; a training took up to 1.25 times as much
PREVIEW_STEPS = 25
MIRRORED = {"left", "right"}  # words in a label that a mirror makes untrue
NOT_MIRRORED = ("digits", "mnist")  # a mirrored 2 is no digit

Level = Literal["ok", "look", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. wrong: it will fail, or spoil the samples."""

    level: Level
    what: str
    said: str
    advice: str = ""  # what to change; "" where nothing is to be changed

    def __str__(self) -> str:
        """As one line."""
        change = f"; {self.advice}" if self.advice else ""
        return f"{self.level:5} {self.what}: {self.said}{change}"


@dataclass(frozen=True)
class Facts:
    """What the checks look at. None: not known."""

    recipe: Recipe  # its epochs as steps, where the number of images is known
    shape: tuple[int, int, int]  # (C,H,W)
    measured: Measured
    device: str
    num_images: int | None = None
    label_names: tuple[str, ...] = ()
    memory_free: int | None = None  # bytes
    disk_free: int | None = None  # bytes, where the run is to be

    @property
    def steps(self) -> int | None:
        """0 in a recipe stands for what its epochs come to."""
        return self.recipe.training.steps or None

    @property
    def part(self) -> int:
        """Images that are computed at once."""
        settings = self.recipe.training
        return -(-settings.batch_size // settings.accumulation)

    @property
    def averages(self) -> int:
        """The usual one, and those of other lengths."""
        return 1 + len(self.recipe.training.ema_lengths)


def noise_at_the_end(facts: Facts) -> Finding:
    """Sampling starts from x_T ~ N(0, I), so training must have seen nearly that: √ᾱ_T ≈ 0."""
    what, alpha_bar = "image left at t = T", facts.recipe.diffusion.noise_schedule().alpha_bar
    remaining = math.sqrt(alpha_bar[-1])
    if remaining <= TOO_MUCH_IMAGE:
        said = f"√ᾱ_T = {remaining:.2g}: at t = T there is almost only noise"
        return Finding("ok", what, said)
    return Finding(
        "wrong",
        what,
        f"√ᾱ_T = {remaining:.2f}: at t = T the image is still seen, but sampling starts from "
        "pure noise",
        f"end in noise: {', or '.join(_ways_to_noise(facts.recipe.diffusion, alpha_bar))}",
    )


def _ways_to_noise(diffusion: Diffusion, alpha_bar: Tensor) -> list[str]:
    """Changes of a schedule, each of which alone leads to about √ᾱ_T = PAPER or less."""
    name, options = diffusion.schedule.name, diffusion.schedule.options
    ratio = 2 * math.log(PAPER) / math.log(alpha_bar[-1])  # ln ᾱ_T = Σ ln(1−β_t), about ∝ T·β
    largest = float((1 - alpha_bar[1:] / alpha_bar[:-1]).max())  # β
    ways, T = [], 10 * max(round(diffusion.T * ratio / 10), 1)
    if name in LONGER and T <= MOST_STEPS and _ends_in_noise(diffusion, T):
        ways.append(f"diffusion.T={T}")
    betas = [key for key in ("beta", "beta_1", "beta_T") if key in options]
    if betas and largest * ratio < LARGEST_BETA:
        keys = (f"diffusion.schedule.{key}={options[key] * ratio:.2g}" for key in betas)
        ways.append(" ".join(keys))
    if "betas" in options:
        ways.append("larger diffusion.schedule.betas (or more, and diffusion.T as many)")
    if "beta_max" in options:  # nothing else keeps such a schedule from its end
        ways.append(f"diffusion.schedule.beta_max={BETA_MAX}")
    if name != "cosine":
        ways.append("diffusion.schedule=cosine")
    return ways


def _ends_in_noise(diffusion: Diffusion, T: int) -> bool:
    """Whether T steps do: those of a few have not seen enough of the schedule to tell by ratio."""
    try:
        longer = diffusion.model_copy(update={"T": T}).noise_schedule()
    except ValueError:
        return False
    return math.sqrt(longer.alpha_bar[-1]) <= TOO_MUCH_IMAGE


def average_of_weights(facts: Facts) -> Finding:
    """d = min(decay, (1+n)/(10+n)) leaves Π d of the first weights; decay alone, decay^steps."""
    what, decay = "average of weights", facts.recipe.training.ema_decay
    length = 1 / (1 - decay)
    if facts.steps is None:
        return Finding("ok", what, f"over the last {length:,.0f} steps, about (decay {decay:g})")
    if facts.steps < FEW_STEPS:
        return Finding("ok", what, f"{facts.steps} steps are too few for one")
    n = np.arange(facts.steps, dtype=np.float64)
    ramp = np.minimum(decay, (1 + n) / (10 + n))
    left, without, last = float(np.prod(ramp)), decay**facts.steps, float(ramp[-1])
    first = f"{left:.1%} of the first weights is left in it; without the warm-up, {without:.0%}"
    if length <= LONG_AVERAGE * facts.steps:
        said = f"over the last {length:,.0f} of {facts.steps:,} steps, about; {first}"
        return Finding("ok", what, said)
    suited = 1 - float(f"{1 / max(RIGHT_AVERAGE * facts.steps, 1):.1g}")
    return Finding(
        "look",
        what,
        f"decay {decay:g} is an average over {length:,.0f} steps, {length / facts.steps:.0%} of "
        f"the {facts.steps:,}; the warm-up d = min(decay, (1+n)/(10+n)) only lets it reach "
        f"{last:.4g}, and so {first}",
        f"training.ema_decay={suited:g} averages over a tenth of the steps",
    )


def batch(facts: Facts) -> Finding:
    """How many images a step sees, and in how many parts."""
    what, settings = "batch", facts.recipe.training
    said = f"{settings.batch_size} images a step"
    if settings.accumulation > 1:
        said += f", in {settings.accumulation} parts of up to {facts.part}, with the same gradient"
    if facts.num_images is not None and settings.batch_size > facts.num_images:
        return Finding(
            "look",
            what,
            f"training.batch_size = {settings.batch_size} is more than the {facts.num_images} "
            "images: a batch holds some twice",
            f"training.batch_size={facts.num_images} or less",
        )
    return Finding("ok", what, said)


def images_seen(facts: Facts) -> Finding:
    """How often each image is seen; few of them, seen endlessly, are learned by heart."""
    what, settings, count = "images seen", facts.recipe.training, facts.num_images
    if facts.steps is None:
        said = f"{settings.epochs:g} epochs of images that are not here: not known"
        return Finding("look", what, said, "--data PATH for a copy at hand")
    seen = facts.steps * settings.batch_size
    if count is None:
        said = f"{seen:,} in {facts.steps:,} steps; the images are not here, so epochs: not known"
        return Finding("look", what, said, "--data PATH for a copy at hand")
    epochs = seen / count
    passes = f"{epochs:,.0f}" if epochs >= 100 else f"{epochs:.3g}"
    said = f"{seen:,} in {facts.steps:,} steps: {passes} epochs of {count:,}"
    if epochs < 1:
        steps = math.ceil(count / settings.batch_size)
        advice = f"training.steps={steps} is one epoch"
        return Finding("look", what, f"{said}; some are never seen", advice)
    if epochs > MANY_EPOCHS and count < FEW_IMAGES:
        return Finding(
            "look",
            what,
            f"{said}; of so few, seen so often, some may be learned by heart",
            "more images, fewer training.steps, or data.flip and network.dropout where they suit; "
            "then look for copies: fromnoise evaluate",
        )
    return Finding("ok", what, said)


def network(facts: Facts) -> Finding:
    """Parameters and work for one image, against the number of values there is to learn from."""
    what, measured = "network", facts.measured
    said = (
        f"{measured.parameters:,} parameters, {_big(measured.multiply_adds)} multiply-adds a "
        f"forward pass of one image of {'×'.join(map(str, facts.shape))}"
    )
    values = None if facts.num_images is None else facts.num_images * math.prod(facts.shape)
    if values and measured.parameters > BY_HEART * values:
        return Finding(
            "look",
            what,
            f"{measured.parameters:,} parameters for {facts.num_images:,} images of {values:,} "
            "values in all: it can hold every image by heart",
            "more images, a narrower network, data.flip or network.dropout where they suit",
        )
    return Finding("ok", what, said)


def attention(facts: Facts) -> Finding:
    """N tokens look at N: their scores are N²·heads numbers an image, a fourth of it at half the
    size."""
    what, measured = "attention", facts.measured
    if not measured.attention:
        return Finding("ok", what, "none over all pixels")
    share = sum(a.multiply_adds for a in measured.attention) / measured.multiply_adds
    lines, largest = [], 0
    for tokens in sorted({a.tokens for a in measured.attention}, reverse=True):
        here = [a for a in measured.attention if a.tokens == tokens]
        part = sum(a.multiply_adds for a in here) / measured.multiply_adds
        scores = 4 * facts.part * max(a.heads * a.tokens * a.keys for a in here)
        largest = max(largest, scores)
        layers = "1 layer" if len(here) == 1 else f"{len(here)} layers"
        lines.append(
            f"{layers} at {_size(tokens, facts.shape)}: {part:.0%} of the multiply-adds, scores of "
            f"{_bytes(scores)}"
        )
    said = f"{'; '.join(lines)} ({facts.part} images at once, where a kernel stores them)"
    if share <= ATTENTION_SHARE and largest <= LARGE_SCORES:
        return Finding("ok", what, said)
    keys = [key for key in facts.recipe.network.options if key.startswith(("attention", "full_at"))]
    where = f" (network.{keys[0]})" if keys else ""
    worst = _size(max(a.tokens for a in measured.attention), facts.shape)
    return Finding(
        "look",
        what,
        said,
        f"leave it out at {worst}{where}: at half the size it costs a sixteenth; or a smaller "
        "data.size, and for the memory more training.accumulation",
    )


def memory(facts: Facts) -> Finding:
    """Weights, gradients, moments, average, and what a part of the batch keeps for its backward."""
    what, measured = "memory", facts.measured
    if measured.image_bytes is None:
        return Finding("look", what, TOO_SLOW, "see time")
    part = measured.image_bytes * facts.part
    fixed = measured.weight_bytes * (2 + MOMENTS + facts.averages)  # and as many gradients
    need = fixed + part
    said = (
        f"about {_bytes(need)} on {facts.device}: {_bytes(fixed)} for weights, gradients, moments "
        f"and averages, {_bytes(part)} for {facts.part} images at once"
    )
    if facts.memory_free is None:
        return Finding("ok", what, said)
    said += f"; {_bytes(facts.memory_free)} are free"
    if need <= NEARLY_FULL * facts.memory_free:
        return Finding("ok", what, said)
    level: Level = "wrong" if need > facts.memory_free else "look"
    room = facts.memory_free * NEARLY_FULL - fixed
    fitting = int(room // measured.image_bytes)
    if fitting < 1:
        return Finding(level, what, said, "a smaller network or data.size")
    parts = -(-facts.recipe.training.batch_size // fitting)
    return Finding(level, what, said, f"training.accumulation={parts} computes it in smaller parts")


def time(facts: Facts) -> Finding:
    """The seconds of a measured step, times the steps; pictures and scores come on top."""
    what, step = "time", facts.measured.step_seconds
    if step is None:
        return Finding("look", what, TOO_SLOW, "a GPU, a smaller network or a smaller data.size")
    rate = facts.recipe.training.batch_size / step
    how = f"{rate:,.3g} images/s in {facts.measured.computation} on {facts.device}"
    if facts.steps is None:
        return Finding("ok", what, f"about {step:.2g} s a step ({how})")
    whole = step * facts.steps
    said = f"about {_time(whole)} for {facts.steps:,} steps ({how})"
    if whole <= LONG:
        return Finding("ok", what, said)
    advice = "a GPU, a smaller network or data.size, or fewer training.steps"
    return Finding("look", what, said, advice)


def pictures(facts: Facts) -> Finding:
    """What previews and scores cost: forward passes, about a third of a training step's each."""
    what, settings, scores = "previews and scores", facts.recipe.training, facts.recipe.evaluation
    if facts.steps is None:
        return Finding("ok", what, f"previews every {settings.preview_every:,} steps")
    steps = min(PREVIEW_STEPS, facts.recipe.diffusion.T)
    drawn = -(-facts.steps // settings.preview_every) * 2 * settings.preview_images * steps
    if scores.every:
        times = -(-facts.steps // scores.every)
        drawn += times * scores.num_images * facts.recipe.sampling.steps
    if facts.recipe.data.labels and facts.recipe.sampling.guidance != 1:
        drawn *= 2
    share = drawn / 3 / (facts.steps * settings.batch_size)
    said = f"about {share:.0%} of the training's time on top"
    if share <= DRAWING_SHARE:
        return Finding("ok", what, said)
    advice = "a larger training.preview_every"
    advice += " or evaluation.every" if scores.every else " or fewer training.preview_images"
    return Finding("look", what, said, advice)


def disk(facts: Facts) -> Finding:
    """Weights, averages and moments in each checkpoint, times those that are kept at once, and
    the snapshots of averages of other lengths."""
    what, settings, weights = "disk", facts.recipe.training, facts.measured.weight_bytes
    size = weights * (1 + MOMENTS + facts.averages)
    milestones = 0
    if settings.milestone_every and facts.steps:
        milestones = facts.steps // max(settings.milestone_every, settings.checkpoint_every)
    count = settings.keep_checkpoints + milestones
    if facts.steps:
        count = min(count, -(-facts.steps // settings.checkpoint_every))
    need = (count + 1) * size  # one is written before another is deleted
    said = f"{count} checkpoints of {_bytes(size)}, and one while it is written: {_bytes(need)}"
    if settings.ema_lengths and facts.steps:
        taken = -(-facts.steps // snapshot_every(settings)) * len(settings.ema_lengths)
        need += taken * weights
        said += f", and {taken} snapshots of averages: {_bytes(taken * weights)}"
    if facts.disk_free is None:
        return Finding("ok", what, said)
    said += f"; {_bytes(facts.disk_free)} are free"
    if need <= NEARLY_FULL * facts.disk_free:
        return Finding("ok", what, said)
    fitting = max(int(NEARLY_FULL * facts.disk_free / size) - 1 - milestones, 1)
    advice = f"training.keep_checkpoints={min(fitting, settings.keep_checkpoints)}"
    advice += ", a larger training.milestone_every" if milestones else ""
    level: Level = "wrong" if need > facts.disk_free else "look"
    return Finding(level, what, said, f"{advice}, or --out on another disk")


def mirrored(facts: Facts) -> Finding:
    """data.flip mirrors half of the images, which some do not bear."""
    what, data = "mirroring", facts.recipe.data
    if not data.flip:
        return Finding("ok", what, "none")
    if data.source in NOT_MIRRORED:
        said = f"data.flip on {data.source}: a mirrored digit is no digit, and it will be drawn"
        return Finding("look", what, said, "data.flip=false")
    words = [n for n in facts.label_names if MIRRORED & set(re.split(r"[^a-z]+", n.casefold()))]
    if data.labels and words:
        said = f"data.flip makes labels untrue: {', '.join(words[:3])}"
        return Finding("look", what, said, "data.flip=false")
    return Finding("ok", what, "half of the images, by chance")


CHECKS: tuple[Callable[[Facts], Finding], ...] = (
    images_seen,
    batch,
    mirrored,
    noise_at_the_end,
    average_of_weights,
    network,
    attention,
    memory,
    time,
    pictures,
    disk,
)
TOO_SLOW = "not measured: a pass of two images takes longer than there was time for"


def check(facts: Facts) -> list[Finding]:
    """All findings, in the order of CHECKS."""
    return [each(facts) for each in CHECKS]


def _size(tokens: int, shape: tuple[int, int, int]) -> str:
    """4096 → `64×64`, where that is the image's size halved some times."""
    _, height, width = shape
    while height * width > tokens and height > 1 and width > 1:
        height, width = -(-height // 2), -(-width // 2)
    return f"{height}×{width}" if height * width == tokens else f"{tokens} tokens"


def _big(number: int) -> str:
    """6221856768 → `6.22 billion`."""
    for size, name in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return str(number)


def _bytes(number: int) -> str:
    unit = "GiB" if number >= 2**30 else "MiB"
    value = number / (2**30 if unit == "GiB" else 2**20)
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.2g} {unit}"


def _time(seconds: float) -> str:
    days = seconds / 86400
    return f"{days:,.0f} days" if days >= 2 else duration(seconds)
