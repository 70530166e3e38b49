from dataclasses import replace

from fromnoise.doctor.checks import CHECKS


def test_a_sound_training_is_ok_in_every_respect(facts):
    found = [each(facts()) for each in CHECKS]
    assert [finding.level for finding in found] == ["ok"] * len(CHECKS)
    assert len({finding.topic for finding in found}) == len(CHECKS)
    assert not any(finding.advice for finding in found)


def test_every_finding_that_is_not_ok_says_what_to_change(facts):
    bad = facts(
        {"training.steps": 14_000, "training.ema_decay": 0.9999, "training.preview_every": 1}
        | {"diffusion.schedule": "linear", "training.learning_rate": 1.0},
        num_images=5,
        memory_free=1,
        disk_free=1,
        cost={"step_seconds": 100.0, "parameters": 10**9, "multiply_adds": 10**6},
    )
    found = [each(replace(bad, recipe=_flipped(bad.recipe))) for each in CHECKS]
    assert [finding.topic for finding in found if finding.level == "ok"] == []
    assert all(len(finding.advice) > 5 for finding in found)


def _flipped(recipe):
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"flip": True})})
