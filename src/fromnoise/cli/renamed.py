"""Old names of commands and flags: an error that names the new one."""

from collections.abc import Sequence

FLAGS = {
    "--judge": "--classifier",
    "--spacing": "timesteps=…",
    "--eta": "eta=…",
    "--variance": "variance=…",
    "--clamp": "clamp=true, false or dynamic",
    "--guidance-interval": "guidance_interval=200-800",
    "--guidance-rescale": "guidance_rescale=…",
    "--precision": "precision=…",
    "--strict": "data.strict=true, or strict=true of classifier train",
}
BY_LABELS = ("--conditions", "--labels", "--cycle-classes")  # of the old `evaluate`


def check_not_renamed(arguments: Sequence[str]) -> None:
    """Raise ValueError for the old name of a command or flag."""
    if arguments[:1] == ["judge"]:
        raise ValueError("fromnoise judge has a new name. Use fromnoise classifier.")
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag in FLAGS:
            raise ValueError(f"{flag} has a new name. Use {FLAGS[flag]}.")
        if arguments[0] == "evaluate" and flag in BY_LABELS:
            raise ValueError(f"{flag} belongs to another command. Use fromnoise evaluate-labels.")
