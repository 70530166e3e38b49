"""`fromnoise sample`."""

import logging
from pathlib import Path
from typing import Annotated

from typer import Option

from fromnoise.cli import options
from fromnoise.config.errors import ConfigError

logger = logging.getLogger("fromnoise")


def sample(
    model: options.ModelPath,
    settings: options.SamplingKeys = None,
    seeds: Annotated[str | None, Option(help="as in 0-63 or 0,5,7-9; one image each")] = None,
    num: Annotated[
        int | None, Option(min=1, help="seeds 0 to NUM-1", show_default="64, or one per condition")
    ] = None,
    steps: options.Steps = None,
    sampler: options.Sampler = None,
    guidance: options.Guidance = None,
    class_: options.Class = None,
    labels: options.Labels = None,
    compose: Annotated[
        str | None, Option(help='labels with weights, as in "red cube=3, blue sphere=-1"')
    ] = None,
    cycle_classes: Annotated[
        bool, Option("--cycle-classes", help="one label per image, each in turn")
    ] = False,
    conditions: Annotated[
        Path | None,
        Option(help="a JSON list of lists of labels, like test.json of i-CLEVR, or of texts"),
    ] = None,
    autoguidance: Annotated[
        Path | None, Option(help="a weaker model, such as an earlier checkpoint")
    ] = None,
    autoguidance_scale: Annotated[
        float | None, Option(help="s in ε = ε_weak + s·(ε − ε_weak); 1 is off", show_default="2")
    ] = None,
    weights: options.Weights = None,
    batch_size: options.BatchSize = 64,
    grid: Annotated[bool, Option(help="a grid of the first 64 images")] = True,
    columns: Annotated[int | None, Option(min=1, help="images in a row of the grid")] = None,
    npz: Annotated[bool, Option("--npz", help="all images as samples_NxHxWxC.npz")] = False,
    gif: Annotated[bool, Option("--gif", help="the denoising as an animation")] = False,
    trajectory: Annotated[
        bool, Option("--trajectory", help="x_t and the predicted x_0 at ten timesteps")
    ] = False,
    times: Annotated[
        str | None, Option(help="timesteps of the trajectory, as in 999,700,0, or nearest ones")
    ] = None,
    strips: Annotated[
        int | None, Option(min=1, help="images in the trajectory", show_default="4")
    ] = None,
    each_step: Annotated[
        bool, Option("--each-step", help="a grid of x_t and of the predicted x_0 at every t")
    ] = False,
    noise: Annotated[bool, Option("--noise", help="the starting noise beside its images")] = False,
    out: Annotated[Path | None, Option(file_okay=False, show_default="samples/ in the run")] = None,
    overwrite: Annotated[
        bool, Option("--overwrite", help="remove earlier samples from the folder")
    ] = False,
    device: options.Device = "auto",
) -> None:
    """Sample images: a PNG per seed, and a grid."""
    from fromnoise.generation.request import (
        DEFAULT_COUNT,
        Request,
        guidance_notes,
        read_conditioning,
    )
    from fromnoise.generation.samples import Outputs, default_folder, sample_to_folder
    from fromnoise.model import Autoguidance, load

    requested = options.parse_seeds_or_count(seeds, num)
    overrides = options.parse_sampling(settings, steps=steps, sampler=sampler, guidance=guidance)
    outputs = Outputs(
        grid=grid,
        columns=columns,
        npz=npz,
        gif=gif,
        trajectory=trajectory or times is not None or strips is not None,
        times=None if times is None else options.parse_numbers(times, "--times", "999,700,0", int),
        strips=strips or 4,
        each_step=each_step,
        noise=noise,
    )
    if autoguidance_scale is not None and autoguidance is None:
        raise ConfigError("--autoguidance-scale has no effect. Add --autoguidance MODEL.")
    loaded = load(model, weights=weights, device=device)
    conditioning = read_conditioning(
        loaded.spec.label_names,
        None if requested is None else len(requested),
        class_=class_,
        labels=labels,
        compose=compose,
        cycle_classes=cycle_classes,
        file=conditions,
    )
    config = loaded.sampling_config(conditional=conditioning.cond is not None, **overrides)
    if autoguidance is not None:
        weak = load(autoguidance, weights=weights, device=device)
        scale = 2.0 if autoguidance_scale is None else autoguidance_scale
        conditioning = conditioning._replace(autoguidance=Autoguidance(weak, scale))
        loaded.check_compatible(weak)
        # with guidance, the same weights without it are a weaker model
        steered = conditioning.cond is not None and config.guidance != 1
        if scale != 1 and not steered and loaded.same_weights(weak):
            logger.warning(
                "--autoguidance %s has the weights of the model: it changes nothing and doubles "
                "the cost. Give an earlier checkpoint.",
                autoguidance,
            )
    for line in guidance_notes(loaded.spec, config, conditioning):
        logger.info(line)
    if requested is None:
        cond = conditioning.cond
        requested = list(range(DEFAULT_COUNT if cond is None else len(cond)))
    out = out or default_folder(loaded, model, config, conditioning)
    request = Request(loaded, config, out, conditioning, batch_size)
    files = sample_to_folder(request, requested, outputs, overwrite=overwrite)
    print(f"{len(requested)} images in {out.absolute()}")
    for file in files[len(requested) :]:
        if file.parent == out:
            print(file.absolute())
    if each_step:
        print((out / "steps").absolute())
