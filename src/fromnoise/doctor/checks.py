"""The checks of a training's cost and settings. Each is a function: facts → finding."""

import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fromnoise.config.schema import Component, Recipe, Training
from fromnoise.doctor.cost import Cost
from fromnoise.model.spec import ModelSpec
from fromnoise.progress import format_duration
from fromnoise.training.ema import snapshot_every
from fromnoise.training.precision import Computation

MANY_EPOCHS, FEW_IMAGES, FEW_STEPS = 1000, 10_000, 100
MAX_FINAL_SIGNAL, PAPER_FINAL_SIGNAL = 0.05, 0.0064  # √ᾱ_T; that of the paper's schedule
USUAL_RATES = (1e-6, 1e-2)  # of Adam. Published ones are between 2e-5 and 1e-3
LARGE_SCORES = 2**30  # bytes
NEARLY_FULL = 0.8  # of the free memory or disk. A training took up to 1.25 times the estimate
DAY = 24 * 3600  # seconds
TOO_SLOW = "not measured: a pass of two images takes too long"


@dataclass(frozen=True)
class Facts:
    """The facts that the checks need. None: unknown."""

    recipe: Recipe  # with epochs converted to steps; 0 if the number of images is unknown
    spec: ModelSpec
    cost: Cost
    computation: Computation
    num_images: int | None
    device: str
    memory_free: int | None = None  # bytes
    disk_free: int | None = None  # bytes, at the run folder

    @property
    def part(self) -> int:
        """The number of images in one part of a batch."""
        return self.recipe.training.batch_size // self.recipe.training.parts

    @property
    def optimised_bytes(self) -> int:
        """The bytes of the weights, of the moments of Adam, and of the averages of the weights."""
        return self.cost.weight_bytes * (4 + len(self.recipe.training.ema_lengths))


class Finding(NamedTuple):
    """The result of one check. error: the training will fail, or its samples will be bad."""

    topic: str
    message: str
    advice: str = ""  # empty if the level is ok
    error: bool = False

    @property
    def level(self) -> str:
        """Return ok, warn or error."""
        return "error" if self.error else "warn" if self.advice else "ok"

    def __str__(self) -> str:
        """Return one line."""
        advice = f". {self.advice}" if self.advice else ""
        return f"{self.level:5} {self.topic}: {self.message}{advice}"


def length(settings: Training) -> str:
    """Return the length of a training whose steps are unknown."""
    if settings.budget is not None:
        return f"{settings.budget / 60:g} minutes"
    return f"{settings.epochs:g} epochs"


def images_seen(facts: Facts) -> Finding:
    """Check how often each image is seen: a model may memorize few images that it sees often."""
    settings, count = facts.recipe.training, facts.num_images
    seen = settings.steps * settings.batch_size
    message, advice = f"{seen:,} in {settings.steps:,} steps", ""
    if count is None:
        if not settings.steps:
            message = length(settings)
        message += f" of images that are not here: {'epochs' if seen else 'steps'} unknown"
        return Finding("images seen", message, "Give --data PATH with a copy of them")
    if not settings.steps:  # a step takes too long to be timed
        return Finding("images seen", length(settings))
    epochs = seen / count
    message += f": {f'{epochs:,.0f}' if epochs >= 100 else f'{epochs:.3g}'} epochs of {count:,}"
    if epochs < 1:
        advice = f"training.steps={-(-count // settings.batch_size)} is one epoch"
    elif epochs > MANY_EPOCHS and count < FEW_IMAGES:
        advice = "The model may memorise some. Use more images, fewer training.steps, or "
        advice += "more network.dropout. Then look for copies: fromnoise evaluate"
    return Finding("images seen", message, advice)


def batch(facts: Facts) -> Finding:
    """Check the batch size against the number of images."""
    settings, count = facts.recipe.training, facts.num_images
    if count is not None and settings.batch_size > count:
        message = f"training.batch_size = {settings.batch_size} is more than the {count} images"
        return Finding("batch", message, f"Set training.batch_size={count} or less")
    message = f"{settings.batch_size} images a step"
    if settings.parts > 1:
        message += f", in {settings.parts} parts of {facts.part}"
    return Finding("batch", message)


def learning_rate(facts: Facts) -> Finding:
    """Check the learning rate, and that the warm-up ends."""
    settings, (low, high), advice = facts.recipe.training, USUAL_RATES, ""
    message = f"{settings.learning_rate:g}, {settings.lr_schedule}"
    if settings.warmup_steps:
        message += f" after a warm-up of {settings.warmup_steps:,} steps"
    if not low <= settings.learning_rate <= high:
        message += f": unusually {'large' if settings.learning_rate > high else 'small'}"
        advice = "A usual value is training.learning_rate=2e-4"
    elif settings.warmup_steps >= settings.steps > 0:
        message += f", but the training has {settings.steps:,} steps"
        advice = f"Set training.warmup_steps={settings.steps // 20}"
    return Finding("learning rate", message, advice)


def flip(facts: Facts) -> Finding:
    """Check that mirrored images are valid, and that their labels stay true."""
    data, words = facts.recipe.data, re.compile(r"(?i)(?<![a-z])(left|right)(?![a-z])")
    wrong = list(filter(words.search, facts.spec.label_names)) if data.labels else []
    wrong = wrong or ["digits"] * (data.source in ("digits", "mnist"))  # a mirrored 2 is not a 2
    if data.flip and wrong:
        message = f"data.flip on {data.source} makes these wrong: {', '.join(wrong[:3])}"
        return Finding("flip", message, "Set data.flip=false")
    return Finding("flip", f"{'half of the images are' if data.flip else 'no image is'} mirrored")


def final_noise(facts: Facts) -> Finding:
    """Check √ᾱ_T ≈ 0: sampling starts from x_T ~ N(0, I), so training must see nearly that."""
    topic, diffusion = "noise at t = T", facts.recipe.diffusion

    def signal_after(**change: Any) -> float:
        with suppress(ValueError):  # such as a β above 1
            return math.sqrt(diffusion.model_copy(update=change).noise_schedule().alpha_bar[-1])
        return 1.0

    signal = signal_after()
    if signal <= MAX_FINAL_SIGNAL:
        return Finding(topic, f"√ᾱ_T = {signal:.2g}: x_T is nearly pure noise")
    # √ᾱ_T of the same β is about exp(−c·T)
    longer = 10 * round(diffusion.T * math.log(PAPER_FINAL_SIGNAL) / math.log(signal) / 10)
    changes: list[tuple[str, Any]] = [("T", longer)] if diffusion.T < longer <= 10_000 else []
    changes += [("schedule", Component(name=name)) for name in ("linear_rescaled", "cosine")]
    works = [each for each in changes if signal_after(**dict([each])) <= MAX_FINAL_SIGNAL]
    settings = [f"diffusion.{key}={getattr(value, 'name', value)}" for key, value in works]
    message = f"√ᾱ_T = {signal:.2f}: x_T still shows the image, but sampling starts from pure noise"
    advice = f"Set {', or '.join(settings)}" if settings else "Set another diffusion.schedule"
    return Finding(topic, message, advice, error=True)


def ema(facts: Facts) -> Finding:
    """Check the length of the EMA.

    With d = min(decay, (1+n)/(10+n)), the coefficient of the initial weights is Π d. With a
    constant decay it would be decay^steps.
    """
    decay, steps = facts.recipe.training.ema_decay, facts.recipe.training.steps
    length = 1 / (1 - decay)
    if not steps:
        return Finding("EMA", f"an average over about {length:,.0f} steps (decay {decay:g})")
    if steps < FEW_STEPS:
        return Finding("EMA", f"{steps} steps are too few for an average")
    n = np.arange(steps, dtype=np.float64)
    ramp = np.minimum(decay, (1 + n) / (10 + n))
    message = (
        f"decay {decay:g} is an average over {length:,.0f} steps, {length / steps:.0%} of the "
        f"{steps:,}. The warm-up d = min(decay, (1+n)/(10+n)) ends at {ramp[-1]:.4g}, so "
        f"{np.prod(ramp):.1%} of it are the initial weights, {decay**steps:.0%} without the warm-up"
    )
    usual = f"{1 - float(f'{10 / steps:.1g}'):g}"
    advice = f"Set training.ema_decay={usual} for an average over a tenth of the steps"
    return Finding("EMA", message, advice if length > steps / 4 else "")


def network(facts: Facts) -> Finding:
    """Check the number of parameters against the number of values in the images."""
    cost, count = facts.cost, facts.num_images or 0
    shape = (facts.spec.channels, *facts.spec.size)
    values, message, advice = count * math.prod(shape), f"{cost.parameters:,} parameters", ""
    if values and cost.parameters > 10 * values:
        message += f" for {values:,} values in {count:,} images: it can memorise every image"
        advice = "Use more images, a narrower network, training.augment or more network.dropout"
    million = f"{cost.multiply_adds / 1e6:,.4g} million multiply-adds"
    message += f"; {million} a forward pass of one image of {'×'.join(map(str, shape))}"
    return Finding("network", message, advice)


def attention(facts: Facts) -> Finding:
    """Check attention over all pixels: N²·heads scores an image, a sixteenth of it at half size."""
    layers, total = facts.cost.attention, facts.cost.multiply_adds
    if not layers:
        return Finding("attention", "no attention over all pixels")
    halved = ([-(-side // 2**n) for side in facts.spec.size] for n in range(16))
    sizes = {height * width: f"{height}×{width}" for height, width in halved}
    lines, largest = {}, 0
    for tokens in sorted({layer.tokens for layer in layers}, reverse=True):
        here = [layer for layer in layers if layer.tokens == tokens]
        scores = 4 * facts.part * max(a.heads * a.tokens * a.keys for a in here)
        largest, share = max(largest, scores), sum(a.multiply_adds for a in here) / total
        size = sizes.get(tokens, f"{tokens} tokens")
        lines[size] = (
            f"{len(here)} layer{'s' * (len(here) > 1)} at {size}: {share:.0%} of the "
            f"multiply-adds, scores of {_bytes(scores)}"
        )
    message = f"{'; '.join(lines.values())} (of {facts.part} images, if the kernel stores them)"
    advice, options = "", facts.recipe.network.options
    if sum(a.multiply_adds for a in layers) > total / 4 or largest > LARGE_SCORES:
        keys = [f" (network.{key})" for key in options if key.startswith(("attention", "full_at"))]
        advice = f"Remove it at {next(iter(lines))}{''.join(keys[:1])}: at half the size it costs "
        advice += "a sixteenth. Or use a smaller data.size, or a larger training.parts"
    return Finding("attention", message, advice)


def memory(facts: Facts) -> Finding:
    """Check the memory of weights, gradients, moments, averages, and activations of a part."""
    cost, free = facts.cost, facts.memory_free
    if cost.image_bytes is None:
        return Finding("memory", TOO_SLOW, "See time")
    settings, image_bytes = facts.recipe.training, cost.image_bytes

    def fixed_of(parts: int) -> int:
        """Return the bytes that do not depend on the images, with gradients and their sums."""
        return facts.optimised_bytes + cost.weight_bytes * (1 + (parts - 1).bit_length())

    fixed = fixed_of(settings.parts)
    need = fixed + image_bytes * facts.part
    message = (
        f"about {_bytes(need)} on {facts.device}: {_bytes(fixed)} for weights, gradients, moments "
        f"and averages, {_bytes(need - fixed)} for {facts.part} images at once"
    )
    advice = "Use a smaller network or data.size"
    size, room = settings.batch_size, NEARLY_FULL * (free or 0)
    divisors = [parts for parts in range(1, size + 1) if size % parts == 0]

    def fewest(image_bytes: int) -> int | None:
        """Return the fewest parts that fit."""
        return next((n for n in divisors if fixed_of(n) + image_bytes * size // n <= room), None)

    parts, fewer = fewest(image_bytes), None
    if not settings.checkpoint_gradients and cost.checkpointed_bytes is not None:
        fewer = fewest(cost.checkpointed_bytes)
    twice = "training.checkpoint_gradients=true, which computes blocks twice"
    if parts is not None:
        advice = f"Set training.parts={parts} for smaller parts"
        if fewer is not None and fewer <= settings.parts:
            advice += f", or {twice}"
    elif fewer is not None:
        more = f"training.parts={fewer} and " if fewer > settings.parts else ""
        advice = f"Set {more}{twice}"
    return _fits("memory", message, need, free, advice)


def time(facts: Facts) -> Finding:
    """Check the time of all steps, without previews and scores."""
    step, steps = facts.cost.step_seconds, facts.recipe.training.steps
    if step is None:
        return Finding("time", TOO_SLOW, "Use a GPU, a smaller network or data.size")
    rate = facts.recipe.training.batch_size / step
    speed = f"({rate:,.3g} images/s in {facts.computation} on {facts.device})"
    if not steps:
        return Finding("time", f"about {step:.2g} s a step {speed}")
    whole = step * steps
    duration = f"{whole / DAY:,.0f} days" if whole >= 2 * DAY else format_duration(whole)
    advice = "Use a GPU, a smaller network or data.size, or fewer training.steps"
    message = f"about {duration} for {steps:,} steps {speed}"
    return Finding("time", message, advice if whole > DAY else "")


def previews_and_scores(facts: Facts) -> Finding:
    """Check the cost of previews and scores: a forward pass is about a third of a training step."""
    topic, recipe, scores = "previews and scores", facts.recipe, facts.recipe.evaluation
    settings, steps = recipe.training, recipe.training.steps
    if not steps:
        every = settings.preview_every
        often = f"{every:.0%} of the steps" if isinstance(every, float) else f"{every:,} steps"
        return Finding(topic, f"previews every {often}")
    images = -(-steps // settings.preview_every) * 2 * settings.preview_images
    passes = images * min(25, recipe.diffusion.T)
    if scores.every:
        passes += -(-steps // scores.every) * scores.num_images * recipe.sampling.steps
    if recipe.data.labels and recipe.sampling.guidance != 1:
        passes *= 2
    share = passes / 3 / (steps * settings.batch_size)
    larger = "a larger training.preview_every" + " or evaluation.every" * bool(scores.every)
    advice = f"Use {larger}, or fewer training.preview_images" if share > 0.2 else ""
    return Finding(topic, f"about {share:.0%} of the training's time, in addition", advice)


def disk(facts: Facts) -> Finding:
    """Check the disk space of the checkpoints that exist at once, and of the snapshots."""
    settings, steps = facts.recipe.training, facts.recipe.training.steps
    size, free, milestones = facts.optimised_bytes, facts.disk_free, 0
    if settings.milestone_every:
        milestones = int(steps // max(settings.milestone_every, settings.checkpoint_every))
    count = settings.keep_checkpoints + milestones + (facts.recipe.data.holdout is not None)
    if steps:
        count = min(count, int(-(-steps // settings.checkpoint_every)))
    need = (count + 1) * size  # a new one is written before an old one is deleted
    message = f"{count} checkpoints of {_bytes(size)}, and one while it is written: {_bytes(need)}"
    if snapshots := int(-(-steps // snapshot_every(settings))) * len(settings.ema_lengths):
        need += snapshots * facts.cost.weight_bytes
        message += f", and {snapshots} snapshots of averages, {_bytes(need)} in all"
    fitting = max(int(NEARLY_FULL * (free or 0) / size) - 1 - milestones, 1)
    advice = f"Set training.keep_checkpoints={min(fitting, settings.keep_checkpoints)}"
    advice += ", a larger training.milestone_every" if milestones else ""
    return _fits("disk", message, need, free, f"{advice}, or --out on another disk")


def _fits(topic: str, message: str, need: int, free: int | None, advice: str) -> Finding:
    """Return the finding about memory or disk. advice: given if that is nearly full."""
    if free is None:
        return Finding(topic, message)
    advice = advice if need > NEARLY_FULL * free else ""
    return Finding(topic, f"{message}; {_bytes(free)} are free", advice, error=need > free)


CHECKS: tuple[Callable[[Facts], Finding], ...] = (
    *(images_seen, batch, learning_rate, flip, final_noise, ema, network),
    *(attention, memory, time, previews_and_scores, disk),
)


def _bytes(number: int) -> str:
    value, unit = (number / 2**30, "GiB") if number >= 2**30 else (number / 2**20, "MiB")
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.2g} {unit}"
