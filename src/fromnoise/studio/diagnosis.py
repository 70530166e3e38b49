"""Run the doctor before a training."""

from typing import Any

from fromnoise.config.arguments import parse_training
from fromnoise.doctor.doctor import diagnose
from fromnoise.studio.worker import Call


def doctor(arguments: dict[str, Any], call: Call) -> list[dict[str, str]]:
    """Return the findings of `fromnoise doctor`."""
    recipe, words = arguments["recipe"], arguments["words"]
    overrides = parse_training(recipe, words)
    findings = diagnose(recipe, out=arguments["out"], data=arguments["data"], overrides=overrides)
    return [
        {"level": f.level, "topic": f.topic, "message": f.message, "advice": f.advice}
        for f in findings
    ]
