"""Reject old names of commands and flags, by an error with the new name."""

from collections.abc import Sequence

from fromnoise.config.errors import ConfigError

FLAGS = {
    "--judge": "--classifier",
    "--spacing": "timesteps=…",
    "--eta": "eta=…",
    "--variance": "variance=…",
    "--clamp": "clamp=true, false or dynamic",
    "--guidance-interval": "guidance_interval=200-800",
    "--guidance-rescale": "guidance_rescale=…",
    "--precision": "precision=…",
    "--num-images": "--num",
    "--strict": "data.strict=true, or strict=true of classifier train",
}
BY_LABELS = ("--conditions", "--labels", "--cycle-classes")  # of the old `evaluate`
OF_KEYS = (["train"], ["resume"], ["doctor"], ["classifier", "train"])  # all settings are KEY=VALUE


def check_not_renamed(arguments: Sequence[str]) -> None:
    """Raise ConfigError for the old name of a command or flag, and for a key written as a flag."""
    if arguments[:1] == ["judge"]:
        raise ConfigError("fromnoise judge has a new name. Use fromnoise classifier.")
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag in FLAGS:
            raise ConfigError(f"{flag} has a new name. Use {FLAGS[flag]}.")
        if arguments[0] == "evaluate" and flag in BY_LABELS:
            raise ConfigError(f"{flag} belongs to another command. Use fromnoise evaluate-labels.")
        of_keys = any(arguments[: len(command)] == command for command in OF_KEYS)
        if of_keys and flag.startswith("--") and flag != "--help":
            from fromnoise.classifier.settings import ClassifierSettings
            from fromnoise.config.schema import Training

            schema = ClassifierSettings if arguments[0] == "classifier" else Training
            key = flag[2:].replace("-", "_")
            if key in schema.model_fields:
                raise ConfigError(f"{flag} is a setting, not a flag. Use {key}=….")
