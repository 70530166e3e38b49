"""Checks of the cost of a training on this machine. Each is a function: inputs → finding."""

from fromnoise.doctor.findings import CheckInputs, Finding, Level
from fromnoise.progress import format_duration
from fromnoise.training.power_ema import snapshot_every

ATTENTION_SHARE = 0.25  # of the multiply-adds
LARGE_SCORES = 2**30  # bytes
SAMPLING_SHARE = 0.2  # of the time
LONG = 24 * 3600  # seconds
MOMENTS = 2  # of Adam, each as large as the weights
NEARLY_FULL = 0.8  # of the free memory or disk. A training took up to 1.25 times the estimate
PREVIEW_STEPS = 25
TOO_SLOW = "not measured: a pass of two images takes too long"


def attention(inputs: CheckInputs) -> Finding:
    """Check attention over all pixels: N²·heads scores an image, a sixteenth of it at half size."""
    topic, cost = "attention", inputs.cost
    if not cost.attention:
        return Finding("ok", topic, "no attention over all pixels")
    share = sum(a.multiply_adds for a in cost.attention) / cost.multiply_adds
    lines, largest = [], 0
    for tokens in sorted({a.tokens for a in cost.attention}, reverse=True):
        level = [a for a in cost.attention if a.tokens == tokens]
        part = sum(a.multiply_adds for a in level) / cost.multiply_adds
        scores = 4 * inputs.part * max(a.heads * a.tokens * a.keys for a in level)
        largest = max(largest, scores)
        layers = "1 layer" if len(level) == 1 else f"{len(level)} layers"
        lines.append(
            f"{layers} at {_size(tokens, inputs.shape)}: {part:.0%} of the multiply-adds, "
            f"scores of {_bytes(scores)}"
        )
    message = f"{'; '.join(lines)} ({inputs.part} images at once, if the kernel stores them)"
    if share <= ATTENTION_SHARE and largest <= LARGE_SCORES:
        return Finding("ok", topic, message)
    options = inputs.recipe.network.options
    keys = [key for key in options if key.startswith(("attention", "full_at"))]
    where = f" (network.{keys[0]})" if keys else ""
    worst = _size(max(a.tokens for a in cost.attention), inputs.shape)
    return Finding(
        "warn",
        topic,
        message,
        f"Remove it at {worst}{where}: at half the size it costs a sixteenth. Or use a smaller "
        "data.size, or for the memory a larger training.accumulation",
    )


def memory(inputs: CheckInputs) -> Finding:
    """Check the memory of weights, gradients, moments, averages, and activations of a part."""
    topic, cost = "memory", inputs.cost
    if cost.image_bytes is None:
        return Finding("warn", topic, TOO_SLOW, "See time")
    part = cost.image_bytes * inputs.part
    fixed = cost.weight_bytes * (2 + MOMENTS + inputs.averages)  # 2: weights and gradients
    need = fixed + part
    message = (
        f"about {_bytes(need)} on {inputs.device}: {_bytes(fixed)} for weights, gradients, moments "
        f"and averages, {_bytes(part)} for {inputs.part} images at once"
    )
    if inputs.memory_free is None:
        return Finding("ok", topic, message)
    message += f"; {_bytes(inputs.memory_free)} are free"
    if need <= NEARLY_FULL * inputs.memory_free:
        return Finding("ok", topic, message)
    level: Level = "error" if need > inputs.memory_free else "warn"
    room = inputs.memory_free * NEARLY_FULL - fixed
    fitting = int(room // cost.image_bytes)
    if fitting < 1:
        return Finding(level, topic, message, "Use a smaller network or data.size")
    parts = -(-inputs.recipe.training.batch_size // fitting)
    return Finding(level, topic, message, f"Set training.accumulation={parts} for smaller parts")


def time(inputs: CheckInputs) -> Finding:
    """Check the time of all steps, without previews and scores."""
    topic, step = "time", inputs.cost.step_seconds
    if step is None:
        return Finding("warn", topic, TOO_SLOW, "Use a GPU, a smaller network or data.size")
    rate = inputs.recipe.training.batch_size / step
    speed = f"{rate:,.3g} images/s in {inputs.cost.computation} on {inputs.device}"
    if inputs.steps is None:
        return Finding("ok", topic, f"about {step:.2g} s a step ({speed})")
    whole = step * inputs.steps
    message = f"about {_time(whole)} for {inputs.steps:,} steps ({speed})"
    if whole <= LONG:
        return Finding("ok", topic, message)
    advice = "Use a GPU, a smaller network or data.size, or fewer training.steps"
    return Finding("warn", topic, message, advice)


def previews_and_scores(inputs: CheckInputs) -> Finding:
    """Check the cost of previews and scores: a forward pass is about a third of a training step."""
    topic, recipe = "previews and scores", inputs.recipe
    settings, scores = recipe.training, recipe.evaluation
    if inputs.steps is None:
        return Finding("ok", topic, f"previews every {settings.preview_every:,} steps")
    steps = min(PREVIEW_STEPS, recipe.diffusion.T)
    passes = -(-inputs.steps // settings.preview_every) * 2 * settings.preview_images * steps
    if scores.every:
        times = -(-inputs.steps // scores.every)
        passes += times * scores.num_images * recipe.sampling.steps
    if recipe.data.labels and recipe.sampling.guidance != 1:
        passes *= 2
    share = passes / 3 / (inputs.steps * settings.batch_size)
    message = f"about {share:.0%} of the training's time, in addition"
    if share <= SAMPLING_SHARE:
        return Finding("ok", topic, message)
    keys = ["training.preview_every"] if settings.preview_every < inputs.steps else []
    keys += ["evaluation.every"] if 0 < scores.every < inputs.steps else []
    larger = f"a larger {' or '.join(keys)} or " if keys else ""
    advice = f"Use {larger}fewer training.preview_images"
    return Finding("warn", topic, message, advice)


def disk(inputs: CheckInputs) -> Finding:
    """Check the disk space of the checkpoints that exist at once, and of the snapshots."""
    topic, settings, weights = "disk", inputs.recipe.training, inputs.cost.weight_bytes
    size = weights * (1 + MOMENTS + inputs.averages)
    milestones = 0
    if settings.milestone_every and inputs.steps:
        milestones = inputs.steps // max(settings.milestone_every, settings.checkpoint_every)
    count = settings.keep_checkpoints + milestones
    if inputs.steps:
        count = min(count, -(-inputs.steps // settings.checkpoint_every))
    need = (count + 1) * size  # a new one is written before an old one is deleted
    message = f"{count} checkpoints of {_bytes(size)}, and one while it is written: {_bytes(need)}"
    if settings.ema_lengths and inputs.steps:
        snapshots = -(-inputs.steps // snapshot_every(settings)) * len(settings.ema_lengths)
        need += snapshots * weights
        message += f", and {snapshots} snapshots of averages: {_bytes(snapshots * weights)}"
    if inputs.disk_free is None:
        return Finding("ok", topic, message)
    message += f"; {_bytes(inputs.disk_free)} are free"
    if need <= NEARLY_FULL * inputs.disk_free:
        return Finding("ok", topic, message)
    fitting = max(int(NEARLY_FULL * inputs.disk_free / size) - 1 - milestones, 1)
    advice = f"Set training.keep_checkpoints={min(fitting, settings.keep_checkpoints)}"
    advice += ", a larger training.milestone_every" if milestones else ""
    level: Level = "error" if need > inputs.disk_free else "warn"
    return Finding(level, topic, message, f"{advice}, or --out on another disk")


def _size(tokens: int, shape: tuple[int, int, int]) -> str:
    """Return `64×64` for 4096 tokens, if that is the image's size divided by a power of two."""
    _, height, width = shape
    while height * width > tokens and height > 1 and width > 1:
        height, width = -(-height // 2), -(-width // 2)
    return f"{height}×{width}" if height * width == tokens else f"{tokens} tokens"


def _bytes(number: int) -> str:
    unit = "GiB" if number >= 2**30 else "MiB"
    value = number / (2**30 if unit == "GiB" else 2**20)
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.2g} {unit}"


def _time(seconds: float) -> str:
    days = seconds / 86400
    return f"{days:,.0f} days" if days >= 2 else format_duration(seconds)
