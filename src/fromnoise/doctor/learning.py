"""What can be known of what a training will learn: each check is a few facts → a finding."""

import math
import re

import numpy as np
from torch import Tensor

from fromnoise.config.schema import Diffusion
from fromnoise.doctor.findings import Facts, Finding

MANY_EPOCHS, FEW_IMAGES = 1000, 10_000
MIRRORED = {"left", "right"}  # words in a label that a mirror makes untrue
NOT_MIRRORED = ("digits", "mnist")  # a mirrored 2 is no digit
TOO_MUCH_IMAGE = 0.05  # of √ᾱ_T
PAPER = 0.0064  # √ᾱ_T of the paper's schedule
LONGER = ("linear", "quadratic", "constant", "warmup")  # whose betas stay as large as T grows
MOST_STEPS, LARGEST_BETA = 10_000, 0.5  # that are advised
RESCALED_FROM = 25  # steps; with fewer its largest β is near 1
USUAL_RATES = (1e-6, 1e-2)  # of Adam; published ones lie between 2e-5 and 1e-3
BETA_MAX = 0.999  # of the published schedules
LONG_AVERAGE = 0.25  # of the run
RIGHT_AVERAGE = 0.1
FEW_STEPS = 100
BY_HEART = 10  # parameters for each value of a pixel


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
            "more images, fewer training.steps, or network.dropout; then look for copies: "
            "fromnoise evaluate",
        )
    return Finding("ok", what, said)


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


def learning_rate(facts: Facts) -> Finding:
    """How fast the weights change, and whether the warm-up ever ends."""
    what, settings = "learning rate", facts.recipe.training
    said = f"{settings.learning_rate:g}, {settings.lr_schedule}"
    said += f" after a warm-up of {settings.warmup_steps:,} steps" if settings.warmup_steps else ""
    low, high = USUAL_RATES
    if not low <= settings.learning_rate <= high:
        far = "large" if settings.learning_rate > high else "small"
        advice = "training.learning_rate=2e-4 is usual"
        return Finding("look", what, f"{said}: unusually {far}", advice)
    if facts.steps is not None and settings.warmup_steps >= facts.steps:
        advice = f"training.warmup_steps={facts.steps // 20}"
        return Finding("look", what, f"{said}, of which the training has {facts.steps:,}", advice)
    return Finding("ok", what, said)


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
    if name == "linear" and diffusion.T > RESCALED_FROM:
        ways.append("diffusion.schedule=linear_rescaled")
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


def _big(number: int) -> str:
    """6221856768 → `6.22 billion`."""
    for size, name in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return str(number)
