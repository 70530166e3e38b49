"""Settings of `fromnoise classifier train`."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from fromnoise.config.errors import ConfigError, explain
from fromnoise.config.schema import (
    Fit,
    Level,
    Natural,
    Positive,
    Section,
    Training,
    White,
    repeated,
)

IMAGES_SEEN, MIN_EPOCHS, MAX_EPOCHS = 200_000, 4, 40  # the default of `epochs`
WARMUP = 0.2  # of the steps
WEIGHT_DECAY = 0.01
Pixels = Annotated[int, Field(ge=8, strict=True)]


class ClassifierSettings(Section):
    """The data and the optimisation of a classifier."""

    source: str | None = None  # folder, zip, idx, npz, iclevr, …; None: detected
    size: Annotated[tuple[Pixels, Pixels] | None, repeated(2)] = None  # (H, W); None: as stored
    channels: Positive | None = None  # None: as stored
    fit: Fit = "crop"
    background: Annotated[tuple[Level, Level, Level], repeated(3)] = (255, 255, 255)
    white: White | None = None  # its value in images of 16 bits; None: 65535
    strict: bool = False  # unreadable files are an error
    epochs: Annotated[float, Field(gt=0)] | None = None  # None: 200,000 images, 4 to 40 epochs
    batch_size: Annotated[int, Field(ge=2, strict=True)] = 64
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3  # of AdamW, at its highest
    seed: Natural = 0

    def epochs_for(self, num_images: int) -> float:
        """Return `epochs`, or the default for this number of training images."""
        return self.epochs or min(max(IMAGES_SEEN / num_images, MIN_EPOCHS), MAX_EPOCHS)

    def optimisation(self, num_images: int) -> Training:
        """Return the training settings: AdamW, linear warm-up over a fifth of the steps, cosine."""
        steps = max(1, round(self.epochs_for(num_images) * num_images / self.batch_size))
        return Training(
            steps=steps,
            batch_size=self.batch_size,
            optimizer="adamw",
            learning_rate=self.learning_rate,
            weight_decay=WEIGHT_DECAY,
            lr_schedule="cosine",
            warmup_steps=max(1, round(WARMUP * steps)),
            clip_norm=None,
            seed=self.seed,
        )


def parse_settings(values: Mapping[str, Any]) -> ClassifierSettings:
    """Check the settings of the command line. Raises ConfigError with the key and its value."""
    try:
        return ClassifierSettings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, ClassifierSettings)) from error
