"""Checks of what a training learns. Each is a function: inputs → finding."""

import math
import re

import numpy as np
from torch import Tensor

from fromnoise.config.schema import Diffusion
from fromnoise.doctor.findings import CheckInputs, Finding

MANY_EPOCHS, FEW_IMAGES = 1000, 10_000
SIDES = {"left", "right"}  # words in labels that are wrong for a mirrored image
NOT_FLIPPED = ("digits", "mnist")  # a mirrored 2 is not a digit
MAX_FINAL_SIGNAL = 0.05  # √ᾱ_T
PAPER_FINAL_SIGNAL = 0.0064  # √ᾱ_T of the paper's schedule
SCALES_WITH_T = (
    "linear",
    "quadratic",
    "constant",
    "warmup",
)  # their betas do not shrink as T grows
MAX_T, MAX_BETA = 10_000, 0.5  # in advice
MIN_RESCALED_T = 25  # below it, the largest β of linear_rescaled is near 1
USUAL_RATES = (1e-6, 1e-2)  # of Adam. Published ones are between 2e-5 and 1e-3
BETA_MAX = 0.999  # of the published schedules
LONG_AVERAGE, ADVISED_AVERAGE = 0.25, 0.1  # of the run
FEW_STEPS = 100
MAX_PARAMETERS = 10  # for each value of a pixel of the images


def images_seen(inputs: CheckInputs) -> Finding:
    """Check how often each image is seen. The model memorises few images that it sees often."""
    topic, settings, count = "images seen", inputs.recipe.training, inputs.num_images
    if inputs.steps is None:
        message = f"{settings.epochs:g} epochs of images that are not here: steps unknown"
        return Finding("warn", topic, message, "Give --data PATH with a copy of them")
    seen = inputs.steps * settings.batch_size
    if count is None:
        message = f"{seen:,} in {inputs.steps:,} steps, images are not here: epochs unknown"
        return Finding("warn", topic, message, "Give --data PATH with a copy of them")
    epochs = seen / count
    passes = f"{epochs:,.0f}" if epochs >= 100 else f"{epochs:.3g}"
    message = f"{seen:,} in {inputs.steps:,} steps: {passes} epochs of {count:,}"
    if epochs < 1:
        steps = math.ceil(count / settings.batch_size)
        advice = f"training.steps={steps} is one epoch"
        return Finding("warn", topic, f"{message}, some are never seen", advice)
    if epochs > MANY_EPOCHS and count < FEW_IMAGES:
        advice = "Use more images, fewer training.steps, or network.dropout. Then look for copies: "
        advice += "fromnoise evaluate"
        return Finding("warn", topic, f"{message}, the model may memorise some", advice)
    return Finding("ok", topic, message)


def batch(inputs: CheckInputs) -> Finding:
    """Check the batch size against the number of images."""
    topic, settings = "batch", inputs.recipe.training
    message = f"{settings.batch_size} images a step"
    if settings.accumulation > 1:
        message += f", in {settings.accumulation} parts of up to {inputs.part}, same gradient"
    if inputs.num_images is not None and settings.batch_size > inputs.num_images:
        message = f"training.batch_size = {settings.batch_size} is more than the "
        message += f"{inputs.num_images} images: a batch has some of them twice"
        advice = f"Set training.batch_size={inputs.num_images} or less"
        return Finding("warn", topic, message, advice)
    return Finding("ok", topic, message)


def learning_rate(inputs: CheckInputs) -> Finding:
    """Check the learning rate, and that the warm-up ends."""
    topic, settings = "learning rate", inputs.recipe.training
    message = f"{settings.learning_rate:g}, {settings.lr_schedule}"
    if settings.warmup_steps:
        message += f" after a warm-up of {settings.warmup_steps:,} steps"
    low, high = USUAL_RATES
    if not low <= settings.learning_rate <= high:
        far = "large" if settings.learning_rate > high else "small"
        advice = "A usual value is training.learning_rate=2e-4"
        return Finding("warn", topic, f"{message}: unusually {far}", advice)
    if inputs.steps is not None and settings.warmup_steps >= inputs.steps:
        advice = f"Set training.warmup_steps={inputs.steps // 20}"
        message += f", but the training has {inputs.steps:,} steps"
        return Finding("warn", topic, message, advice)
    return Finding("ok", topic, message)


def flip(inputs: CheckInputs) -> Finding:
    """Check that mirrored images are valid, and that their labels stay true."""
    topic, data = "flip", inputs.recipe.data
    if not data.flip:
        return Finding("ok", topic, "no image is mirrored")
    if data.source in NOT_FLIPPED:
        message = f"data.flip on {data.source}: the model learns mirrored digits"
        return Finding("warn", topic, message, "Set data.flip=false")
    words = [n for n in inputs.label_names if SIDES & set(re.split(r"[^a-z]+", n.casefold()))]
    if data.labels and words:
        message = f"data.flip makes labels wrong: {', '.join(words[:3])}"
        return Finding("warn", topic, message, "Set data.flip=false")
    return Finding("ok", topic, "half of the images are mirrored, at random")


def final_noise(inputs: CheckInputs) -> Finding:
    """Check √ᾱ_T ≈ 0: sampling starts from x_T ~ N(0, I), so training must see nearly that."""
    topic, alpha_bar = "noise at t = T", inputs.recipe.diffusion.noise_schedule().alpha_bar
    remaining = math.sqrt(alpha_bar[-1])
    if remaining <= MAX_FINAL_SIGNAL:
        message = f"√ᾱ_T = {remaining:.2g}: x_T is nearly pure noise"
        return Finding("ok", topic, message)
    return Finding(
        "error",
        topic,
        f"√ᾱ_T = {remaining:.2f}: x_T still shows the image, but sampling starts from pure noise",
        f"Set {', or '.join(_ways_to_noise(inputs.recipe.diffusion, alpha_bar))}",
    )


def ema(inputs: CheckInputs) -> Finding:
    """Check the length of the EMA.

    With d = min(decay, (1+n)/(10+n)), the coefficient of the initial weights is Π d. With a
    constant decay it would be decay^steps.
    """
    topic, decay = "EMA", inputs.recipe.training.ema_decay
    length = 1 / (1 - decay)
    if inputs.steps is None:
        return Finding("ok", topic, f"an average over about {length:,.0f} steps (decay {decay:g})")
    if inputs.steps < FEW_STEPS:
        return Finding("ok", topic, f"{inputs.steps} steps are too few for an average")
    n = np.arange(inputs.steps, dtype=np.float64)
    ramp = np.minimum(decay, (1 + n) / (10 + n))
    left, without, last = float(np.prod(ramp)), decay**inputs.steps, float(ramp[-1])
    first = f"{left:.1%} of it are the initial weights, {without:.0%} without the warm-up"
    if length <= LONG_AVERAGE * inputs.steps:
        message = f"an average over about {length:,.0f} of {inputs.steps:,} steps, {first}"
        return Finding("ok", topic, message)
    advised = 1 - float(f"{1 / max(ADVISED_AVERAGE * inputs.steps, 1):.1g}")
    return Finding(
        "warn",
        topic,
        f"decay {decay:g} is an average over {length:,.0f} steps, {length / inputs.steps:.0%} of "
        f"the {inputs.steps:,}. The warm-up d = min(decay, (1+n)/(10+n)) ends at {last:.4g}, so "
        f"{first}",
        f"Set training.ema_decay={advised:g} for an average over a tenth of the steps",
    )


def network(inputs: CheckInputs) -> Finding:
    """Check the number of parameters against the number of values in the images."""
    topic, cost = "network", inputs.cost
    message = (
        f"{cost.parameters:,} parameters, {_big(cost.multiply_adds)} multiply-adds a "
        f"forward pass of one image of {'×'.join(map(str, inputs.shape))}"
    )
    values = None if inputs.num_images is None else inputs.num_images * math.prod(inputs.shape)
    if values and cost.parameters > MAX_PARAMETERS * values:
        return Finding(
            "warn",
            topic,
            f"{cost.parameters:,} parameters for {inputs.num_images:,} images of {values:,} "
            "values in all: it can memorise every image",
            "Use more images, a narrower network, data.flip or network.dropout",
        )
    return Finding("ok", topic, message)


def _ways_to_noise(diffusion: Diffusion, alpha_bar: Tensor) -> list[str]:
    """Return changes of a schedule, each of which makes √ᾱ_T about PAPER_FINAL_SIGNAL or less."""
    name, options = diffusion.schedule.name, diffusion.schedule.options
    ratio = (
        2 * math.log(PAPER_FINAL_SIGNAL) / math.log(alpha_bar[-1])
    )  # ln ᾱ_T = Σ ln(1−β_t), about ∝ T·β
    largest = float((1 - alpha_bar[1:] / alpha_bar[:-1]).max())  # β
    ways, T = [], 10 * max(round(diffusion.T * ratio / 10), 1)
    if name in SCALES_WITH_T and T <= MAX_T and _ends_in_noise(diffusion, T):
        ways.append(f"diffusion.T={T}")
    betas = [key for key in ("beta", "beta_1", "beta_T") if key in options]
    if betas and largest * ratio < MAX_BETA:
        keys = (f"diffusion.schedule.{key}={options[key] * ratio:.2g}" for key in betas)
        ways.append(" ".join(keys))
    if "betas" in options:
        ways.append("larger diffusion.schedule.betas (or more of them, and diffusion.T to match)")
    if "beta_max" in options:  # only a small beta_max keeps such a schedule from its end
        ways.append(f"diffusion.schedule.beta_max={BETA_MAX}")
    if name == "linear" and diffusion.T > MIN_RESCALED_T:
        ways.append("diffusion.schedule=linear_rescaled")
    if name != "cosine":
        ways.append("diffusion.schedule=cosine")
    return ways


def _ends_in_noise(diffusion: Diffusion, T: int) -> bool:
    """Return whether T steps end in noise. For few steps the estimate by ratio is not enough."""
    try:
        longer = diffusion.model_copy(update={"T": T}).noise_schedule()
    except ValueError:
        return False
    return math.sqrt(longer.alpha_bar[-1]) <= MAX_FINAL_SIGNAL


def _big(number: int) -> str:
    """Return `6.22 billion` for 6221856768."""
    for size, name in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return str(number)
