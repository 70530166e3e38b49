import pytest

from fromnoise.checkpoints import prune
from fromnoise.doctor import checks
from fromnoise.doctor.cost import Attention


@pytest.mark.parametrize(
    ("tokens", "share", "batch_size", "level"),
    [
        (4096, 0.01, 64, "warn"),  # scores of 4 GiB
        (4096, 0.01, 15, "ok"),  # 0.94 GiB
        (1024, 0.3, 1, "warn"),
        (1024, 0.2, 1, "ok"),
    ],
)
def test_attention_over_many_pixels(facts, tokens, share, batch_size, level):
    seen = Attention(tokens, tokens, heads=1, multiply_adds=int(share * 10**8))
    asked = facts({"training.batch_size": batch_size}, cost={"attention": (seen,)})
    found = checks.attention(asked)
    assert found.level == level
    assert f"1 layer at {'64×64' if tokens == 4096 else '32×32'}: {share:.0%} of" in found.message
    if batch_size == 64:
        assert "scores of 4 GiB" in found.message
        assert "Remove it at 64×64 (network.attention_levels)" in found.advice


def test_memory_is_that_of_one_part_of_the_batch(facts):
    whole = {"image_bytes": 100 * 2**20}  # 12.5 GiB in a batch of 128
    found = checks.memory(facts(cost=whole))
    assert found.level == "error"
    assert found.advice.startswith("Set training.parts=2 ")
    mended = facts({"training.parts": 2}, cost=whole)
    assert checks.memory(mended).level == "ok"
    nearly = {"image_bytes": 60 * 2**20}
    assert checks.memory(facts(cost=nearly)).level == "warn"
    assert checks.memory(facts(cost=whole, memory_free=None)).level == "ok"
    light = whole | {"checkpointed_bytes": 40 * 2**20}
    assert checks.memory(facts(cost=light)).advice == (
        "Set training.parts=2 for smaller parts, or training.checkpoint_gradients=true, which "
        "computes blocks twice"
    )
    both = {
        "image_bytes": 10 * 2**30,
        "checkpointed_bytes": 100 * 2**20,
    }  # a single image is too much
    found = checks.memory(facts(cost=both))
    assert found.advice.startswith("Set training.parts=2 and training.checkpoint_gradients=true, ")
    in_parts = checks.memory(facts({"training.parts": 2}, cost=both))
    assert in_parts.advice.startswith("Set training.checkpoint_gradients=true, ")
    on = checks.memory(facts({"training.checkpoint_gradients": True}, cost=light))
    assert on.advice == "Set training.parts=2 for smaller parts"
    hopeless = checks.memory(facts(memory_free=10**6))
    assert (hopeless.level, "parts" in hopeless.advice) == ("error", False)


@pytest.mark.parametrize(("seconds", "level"), [(8.0, "ok"), (9.0, "warn"), (None, "warn")])
def test_more_than_a_night_and_a_day(facts, seconds, level):
    found = checks.time(facts(cost={"step_seconds": seconds}))
    assert found.level == level
    if seconds == 8.0:
        assert "about 22h 13m for 10,000 steps (16 images/s in fp32" in found.message
    if seconds is None:
        assert "not measured" in found.message


@pytest.mark.parametrize(
    ("overrides", "share", "level"),
    [
        ({"training.preview_every": 1000}, 0, "ok"),
        ({"training.preview_every": 20}, 10, "ok"),
        ({"training.preview_every": 5}, 42, "warn"),
        ({"evaluation.every": 100, "evaluation.num_images": 3072}, 40, "warn"),
    ],
)
def test_pictures_that_cost_more_than_the_training_are_told(facts, overrides, share, level):
    found = checks.previews_and_scores(facts(overrides))
    assert (found.level, found.message.split()[1]) == (level, f"{share}%")


@pytest.mark.parametrize(
    ("overrides", "count", "level"),
    [
        ({"training.keep_checkpoints": 200, "training.checkpoint_every": 50}, 200, "error"),
        ({"training.keep_checkpoints": 50, "training.checkpoint_every": 50}, 50, "warn"),
        ({"training.keep_checkpoints": 200}, 10, "ok"),  # there will be no more
        ({"training.checkpoint_every": 50, "training.milestone_every": 50}, 200, "error"),
        ({"training.milestone_every": 5000}, 4, "ok"),
    ],
)
def test_checkpoints_of_330_MB_on_a_disk_of_20_GB(facts, overrides, count, level):
    of_330_MB = {"weight_bytes": 330 * 10**6 // 4}
    found = checks.disk(facts(overrides, cost=of_330_MB))
    assert (found.level, found.message.split(" of ")[0]) == (level, f"{count} checkpoints")
    assert "of 315 MiB, and one while" in found.message


def test_the_number_of_checkpoints_that_is_advised_fits(facts):
    asked = {"training.keep_checkpoints": 200, "training.checkpoint_every": 50}
    of_330_MB = {"weight_bytes": 330 * 10**6 // 4}
    advice = checks.disk(facts(asked, cost=of_330_MB)).advice
    assert advice == "Set training.keep_checkpoints=47, or --out on another disk"
    asked["training.keep_checkpoints"] = 47
    assert checks.disk(facts(asked, cost=of_330_MB)).level == "ok"


@pytest.mark.parametrize(
    ("keep", "milestone"), [(1, None), (3, None), (2, 40), (4, 25), (1, 7), (500, None)]
)
def test_the_number_of_checkpoints_is_the_most_that_there_ever_are(
    facts, keep, milestone, tmp_path
):
    most = 0
    for step in [*range(10, 205, 10), 205]:
        (tmp_path / f"{step:06d}").mkdir()
        most = max(most, len(list(tmp_path.iterdir())))
        prune(tmp_path / f"{step:06d}", keep=keep, milestone_every=milestone)
    keys = ("keep_checkpoints", "milestone_every", "checkpoint_every", "steps")
    values = zip(keys, (keep, milestone, 10, 205), strict=True)
    said = checks.disk(facts({f"training.{key}": value for key, value in values})).message
    assert most <= int(said.split()[0]) + 1 <= most + keep


def test_averages_of_other_lengths_take_memory_and_disk(facts):
    lengths = {"training.ema_lengths": [0.05, 0.1]}
    with_them, without = facts(lengths), facts()
    assert "about 149 MiB" in checks.memory(with_them).message  # 122 of images, 4·(1+1+2+3) MB
    assert "about 141 MiB" in checks.memory(without).message
    said = checks.disk(with_them).message
    assert "2 checkpoints of 23 MiB" in said  # 4·(1+2+3) MB
    assert "and 40 snapshots of averages, 221 MiB in all" in said
    full = checks.disk(facts(lengths, disk_free=150 * 2**20))
    assert full.level == "error"
    assert checks.disk(facts(disk_free=150 * 2**20)).level == "ok"
