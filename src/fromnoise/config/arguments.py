"""Read the arguments that the command line and the studio share: seeds, and KEY=VALUE settings.

The functions import what they need when they run: the help waits for none of it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fromnoise.config.errors import ConfigError

MAX_SEEDS = 10_000_000
SAMPLERS = "ddpm, ddim, euler, heun, ipndm, dpm++, dpm++sde, unipc"  # the dict needs torch


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of `0-3,8`: [0, 1, 2, 3, 8]."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ConfigError(f"--seeds {text!r} is unreadable. Write 0-63, or 0,5,7-9.")
        if dash and int(last) < int(first):
            raise ConfigError(
                f"--seeds {text!r}: {part.strip()} runs backwards. Write 0-63, or 0,5."
            )
        more = range(int(first), int(last or first) + 1)
        if len(seeds) + len(more) > MAX_SEEDS:
            raise ConfigError(f"--seeds {text!r} are too many. Give at most {MAX_SEEDS:,}.")
        seeds += more
    return seeds


def parse_training(recipe: str | Path, settings: Sequence[str] | None) -> dict[str, Any]:
    """Return the overrides of a recipe from KEY=VALUE arguments.

    Raises ConfigError for an unknown key and for a wrong value, before torch is imported.
    """
    from fromnoise.config.overrides import parse_overrides
    from fromnoise.config.recipe import match_schema, read_yaml

    overrides = parse_overrides(settings or [], "training")
    match_schema(*read_yaml(recipe), overrides)
    return overrides


def parse_sampling(
    settings: Sequence[str] | None, fixed: Mapping[str, Any] | None = None, **short: Any
) -> dict[str, Any]:
    """Return the overrides of `resolve_sampling` from KEY=VALUE arguments and short forms.

    short: values of --steps, --sampler and --guidance; None if not given. fixed: overrides that the
    command sets itself.
    Raises ConfigError for a key of another section, and for a key without a value, twice or fixed.
    """
    from fromnoise.config.overrides import parse_overrides

    overrides = {key: value for key, value in short.items() if value is not None}
    for dotted, value in parse_overrides(settings or [], "sampling").items():
        if not dotted.startswith("sampling."):
            raise ConfigError(f"{dotted} has no effect on sampling. Remove it.")
        key = dotted.removeprefix("sampling.").removesuffix(".name").removeprefix("sampler.")
        if key in overrides:
            raise ConfigError(f"{key} is given twice. Give it once.")
        if value is None and key != "guidance_interval":
            raise ConfigError(f"{key} has no value. Write {key}=VALUE, or leave it out.")
        overrides[key] = value
    for key in fixed or {}:
        if key in overrides:
            raise ConfigError(f"{key} has no effect: this command sets it. Remove it.")
    return overrides | dict(fixed or {})
