import pytest

from fromnoise.checkpoints import prune
from fromnoise.doctor import costs
from fromnoise.doctor.probe import Attended


@pytest.mark.parametrize(
    ("tokens", "share", "batch_size", "level"),
    [
        (4096, 0.01, 64, "look"),  # scores of 4 GiB
        (4096, 0.01, 15, "ok"),  # 0.94 GiB
        (1024, 0.3, 1, "look"),
        (1024, 0.2, 1, "ok"),
    ],
)
def test_attention_over_many_pixels(facts, tokens, share, batch_size, level):
    seen = Attended(tokens, tokens, heads=1, multiply_adds=int(share * 10**8))
    asked = facts({"training.batch_size": batch_size}, measured={"attention": (seen,)})
    found = costs.attention(asked)
    assert found.level == level
    assert f"1 layer at {'64×64' if tokens == 4096 else '32×32'}: {share:.0%} of" in found.said
    if batch_size == 64:
        assert "scores of 4 GiB" in found.said
        assert "leave it out at 64×64 (network.attention_levels)" in found.advice


def test_memory_is_that_of_one_part_of_the_batch(facts):
    whole = {"image_bytes": 100 * 2**20}  # 12.5 GiB in a batch of 128
    found = costs.memory(facts(measured=whole))
    assert found.level == "wrong"
    assert found.advice.startswith("training.accumulation=2 ")
    mended = facts({"training.accumulation": 2}, measured=whole)
    assert costs.memory(mended).level == "ok"
    nearly = {"image_bytes": 60 * 2**20}
    assert costs.memory(facts(measured=nearly)).level == "look"
    assert costs.memory(facts(measured=whole, memory_free=None)).level == "ok"
    hopeless = costs.memory(facts(memory_free=10**6))
    assert (hopeless.level, "accumulation" in hopeless.advice) == ("wrong", False)


@pytest.mark.parametrize(("seconds", "level"), [(8.0, "ok"), (9.0, "look"), (None, "look")])
def test_more_than_a_night_and_a_day(facts, seconds, level):
    found = costs.time(facts(measured={"step_seconds": seconds}))
    assert found.level == level
    if seconds == 8.0:
        assert "about 22h 13m for 10,000 steps (16 images/s in fp32" in found.said
    if seconds is None:
        assert "not measured" in found.said


@pytest.mark.parametrize(
    ("overrides", "share", "level"),
    [
        ({"training.preview_every": 1000}, 0, "ok"),
        ({"training.preview_every": 20}, 10, "ok"),
        ({"training.preview_every": 5}, 42, "look"),
        ({"evaluation.every": 100, "evaluation.num_images": 3072}, 40, "look"),
    ],
)
def test_pictures_that_cost_more_than_the_training_are_told(facts, overrides, share, level):
    found = costs.pictures(facts(overrides))
    assert (found.level, found.said.split()[1]) == (level, f"{share}%")


@pytest.mark.parametrize(
    ("overrides", "count", "level"),
    [
        ({"training.keep_checkpoints": 200, "training.checkpoint_every": 50}, 200, "wrong"),
        ({"training.keep_checkpoints": 50, "training.checkpoint_every": 50}, 50, "look"),
        ({"training.keep_checkpoints": 200}, 10, "ok"),  # there will be no more
        ({"training.checkpoint_every": 50, "training.milestone_every": 50}, 200, "wrong"),
        ({"training.milestone_every": 5000}, 4, "ok"),
    ],
)
def test_checkpoints_of_330_MB_on_a_disk_of_20_GB(facts, overrides, count, level):
    of_330_MB = {"weight_bytes": 330 * 10**6 // 4}
    found = costs.disk(facts(overrides, measured=of_330_MB))
    assert (found.level, found.said.split(" of ")[0]) == (level, f"{count} checkpoints")
    assert "of 315 MiB, and one while" in found.said


def test_the_number_of_checkpoints_that_is_advised_fits(facts):
    asked = {"training.keep_checkpoints": 200, "training.checkpoint_every": 50}
    of_330_MB = {"weight_bytes": 330 * 10**6 // 4}
    advice = costs.disk(facts(asked, measured=of_330_MB)).advice
    assert advice == "training.keep_checkpoints=47, or --out on another disk"
    asked["training.keep_checkpoints"] = 47
    assert costs.disk(facts(asked, measured=of_330_MB)).level == "ok"


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
    said = costs.disk(facts({f"training.{key}": value for key, value in values})).said
    assert most <= int(said.split()[0]) + 1 <= most + keep


def test_averages_of_other_lengths_take_memory_and_disk(facts):
    lengths = {"training.ema_lengths": [0.05, 0.1]}
    with_them, without = facts(lengths), facts()
    assert "about 149 MiB" in costs.memory(with_them).said  # 122 of images, 4·(1+1+2+3) MB
    assert "about 141 MiB" in costs.memory(without).said
    said = costs.disk(with_them).said
    assert "2 checkpoints of 23 MiB" in said  # 4·(1+2+3) MB
    assert "and 40 snapshots of averages: 153 MiB" in said
    full = costs.disk(facts(lengths, disk_free=150 * 2**20))
    assert full.level == "wrong"
    assert costs.disk(facts(disk_free=150 * 2**20)).level == "ok"
