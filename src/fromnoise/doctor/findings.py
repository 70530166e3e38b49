"""The inputs of the doctor's checks, and their findings."""

from dataclasses import dataclass
from typing import Literal

from fromnoise.config.schema import Recipe
from fromnoise.doctor.network_cost import NetworkCost

Level = Literal["ok", "warn", "error"]


@dataclass(frozen=True)
class Finding:
    """The result of one check. error: the training will fail, or its samples will be bad."""

    level: Level
    topic: str
    message: str
    advice: str = ""  # empty if the level is ok

    def __str__(self) -> str:
        """Return one line."""
        advice = f". {self.advice}" if self.advice else ""
        return f"{self.level:5} {self.topic}: {self.message}{advice}"


@dataclass(frozen=True)
class CheckInputs:
    """The inputs of every check. None: unknown."""

    recipe: Recipe  # with its epochs as steps, if the number of images is known
    shape: tuple[int, int, int]  # (C,H,W)
    cost: NetworkCost
    device: str
    num_images: int | None = None
    label_names: tuple[str, ...] = ()
    memory_free: int | None = None  # bytes
    disk_free: int | None = None  # bytes, at the run folder

    @property
    def steps(self) -> int | None:
        """The steps of the training. None while its epochs are not a number of steps."""
        return self.recipe.training.steps or None

    @property
    def part(self) -> int:
        """The number of images in one part of a batch."""
        settings = self.recipe.training
        return -(-settings.batch_size // settings.accumulation)

    @property
    def averages(self) -> int:
        """The number of averages of the weights: the EMA, and one for each of `ema_lengths`."""
        return 1 + len(self.recipe.training.ema_lengths)
