"""What a training will cost on a machine: each check is a few facts → a finding."""

from fromnoise.doctor.findings import Facts, Finding, Level
from fromnoise.progress import format_duration
from fromnoise.training.power_ema import snapshot_every

ATTENTION_SHARE = 0.25  # of the multiply-adds
LARGE_SCORES = 2**30  # bytes
DRAWING_SHARE = 0.2  # of the time
LONG = 24 * 3600  # seconds: a night and a day
MOMENTS = 2  # of Adam, each as large as the weights
NEARLY_FULL = 0.8  # of the memory or disk that is free; a training took up to 1.25 times as much
PREVIEW_STEPS = 25
TOO_SLOW = "not measured: a pass of two images takes longer than there was time for"


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
    rarer = ["training.preview_every"] if settings.preview_every < facts.steps else []
    rarer += ["evaluation.every"] if 0 < scores.every < facts.steps else []
    ways = [f"a larger {' or '.join(rarer)}"] if rarer else []
    advice = " or ".join([*ways, "fewer training.preview_images"])
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


def _size(tokens: int, shape: tuple[int, int, int]) -> str:
    """4096 → `64×64`, where that is the image's size halved some times."""
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
