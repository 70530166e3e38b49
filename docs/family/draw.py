"""Draw the pictures of docs/family.md: all of them, or the given ones.

    make family
    python docs/family/draw.py schedule-cosine sampler-heun

The name of a picture is GitHub's anchor of the heading above it.
"""

import re
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import averages
import edits
import guidance
import lines
import matplotlib
import objectives
import samplers
from matplotlib.figure import Figure
from plane import two
from style import LOOK, save, shrink

from fromnoise.diffusion import LOSSES, SAMPLERS, SCHEDULES, TIMESTEPS, WEIGHTINGS
from fromnoise.diffusion.losses import OWN, VLB
from fromnoise.diffusion.noise_levels import NOISE_LEVELS

FOLDER = Path(__file__).parent
OVERVIEW = "paths"  # the picture of examples/two_dimensions.py


def anchor(title: str) -> str:
    """Return GitHub's anchor of a heading: lower case, hyphens for spaces, no other signs."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def each(group: str, draw: Callable[[str], Figure], names) -> dict[str, Callable[[], Figure]]:
    """Return a function for the picture of each member of a group."""
    return {anchor(f"{group} {name}"): partial(draw, name) for name in names}


PICTURES: dict[str, Callable[[], Figure]] = {
    **each("schedule", lines.schedule, SCHEDULES),
    "schedule-with-zero_terminal_snr": lines.zero_terminal_snr,
    **each("prediction", objectives.prediction, OWN),
    **each("loss", objectives.loss, LOSSES),
    anchor(f"loss {VLB}"): objectives.bound,
    "hybrid-objective": objectives.hybrid,
    **each("weighting", objectives.weighting, WEIGHTINGS),
    **each("noise levels", objectives.noise_levels, NOISE_LEVELS),
    "offset-noise": objectives.offset_noise,
    "self-conditioning": objectives.self_conditioning,
    "patches": objectives.patches,
    "augmentation": objectives.augmentation,
    "average-ema_decay": averages.decay,
    "averages-ema_lengths": averages.lengths,
    "average-of-any-length": averages.afterwards,
    **each("timesteps", lines.timesteps, TIMESTEPS),
    "searched-timesteps": samplers.searched,
    **each("sampler", samplers.sampler, SAMPLERS),
    **each("variance", samplers.variance, ("small", "large", "learned")),
    "classifier-free-guidance": guidance.scales,
    "guidance-on-an-interval": guidance.interval,
    "guidance-rescale": guidance.rescale,
    "dynamic-threshold": guidance.threshold,
    "composition": guidance.composition,
    "autoguidance": guidance.weaker,
    "edit-inpaint": edits.inpainting,
    "edit-vary": edits.variation,
    "edit-interpolate": edits.between_noises,
    "interpolation-under-noise": edits.under_noise,
    "ddim-inversion": edits.inversion,
}


def draw(name: str, folder: Path) -> Path:
    """Write one picture: folder/NAME.png."""
    file = folder / f"{name}.png"
    if name == OVERVIEW:
        with tempfile.TemporaryDirectory() as large:
            shrink(two.draw(Path(large) / "paths.png"), file, colours=96)
        return file
    with matplotlib.rc_context(LOOK):
        save(PICTURES[name](), file)
    return file


def main(names: list[str]) -> None:
    """Draw these pictures, or all."""
    unknown = set(names) - PICTURES.keys() - {OVERVIEW}
    if unknown:
        known = ", ".join([OVERVIEW, *PICTURES])
        sys.exit(f"there is no picture {', '.join(sorted(unknown))}. Give one of: {known}")
    for name in names or [OVERVIEW, *PICTURES]:
        print(draw(name, FOLDER))


if __name__ == "__main__":
    main(sys.argv[1:])
