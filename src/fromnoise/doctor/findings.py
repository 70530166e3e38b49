"""What the doctor looks at, and what it says of each thing."""

from dataclasses import dataclass
from typing import Literal

from fromnoise.config.schema import Recipe
from fromnoise.doctor.probe import Measured

Level = Literal["ok", "look", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. wrong: it will fail, or spoil the samples."""

    level: Level
    what: str
    said: str
    advice: str = ""  # what to change; "" where nothing is to be changed

    def __str__(self) -> str:
        """As one line."""
        change = f"; {self.advice}" if self.advice else ""
        return f"{self.level:5} {self.what}: {self.said}{change}"


@dataclass(frozen=True)
class Facts:
    """What the checks look at. None: not known."""

    recipe: Recipe  # its epochs as steps, where the number of images is known
    shape: tuple[int, int, int]  # (C,H,W)
    measured: Measured
    device: str
    num_images: int | None = None
    label_names: tuple[str, ...] = ()
    memory_free: int | None = None  # bytes
    disk_free: int | None = None  # bytes, where the run is to be

    @property
    def steps(self) -> int | None:
        """0 in a recipe stands for what its epochs come to."""
        return self.recipe.training.steps or None

    @property
    def part(self) -> int:
        """Images that are computed at once."""
        settings = self.recipe.training
        return -(-settings.batch_size // settings.accumulation)

    @property
    def averages(self) -> int:
        """The usual one, and those of other lengths."""
        return 1 + len(self.recipe.training.ema_lengths)
