"""Share a model: a folder with its weights, recipe, samples and card, and a model hub.

A shipped model is such a folder too, without the push.
"""

import logging
import re
from pathlib import Path

import torch
import yaml

from fromnoise import checkpoints
from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import load_recipe
from fromnoise.config.schema import Recipe
from fromnoise.data.labels import one_label_each
from fromnoise.model.model import Model, load
from fromnoise.model.names import CARD, HUB, MODEL_FILE
from fromnoise.model.spec import RECIPE_FILE, Weights, run_folder_of
from fromnoise.pictures import SHOWN_WHOLE, grid_figure

SAMPLES, COUNT = "samples.png", 36
logger = logging.getLogger("fromnoise")
TEXT = """
# {title}

{about}

A denoising diffusion model in pixels, for images of {channels}×{height}×{width} (channels, height,
width). Its network `{network}` has {parameters:,} parameters; these are the {weights} weights after
{step:,} steps.

{labels}

![Samples](samples.png)

*{count} samples, seeds 0 to {last}, not selected.*

## Sample

```sh
pip install fromnoise
fromnoise sample {address}
```

The default is {steps} steps of {sampler}. The weights are tensors in a .safetensors file, of which
nothing is executed.

## Training

{trained}

## Scores

{scores}

## Limits

The model knows its training images only. It may copy one of them, above all if they were few; the
scores say whether this was checked.
"""


def share(
    path: str | Path,
    name: str,
    out: str | Path,
    *,
    license: str,
    about: str,
    weights: Weights | None = None,
    half: bool = False,
) -> Path:
    """Write the folder of a model that can be shared, and return it.

    It has the weights with their specification, samples, and a card in the form of Hugging Face
    with the scores that `fromnoise evaluate` left in the run; of a run its recipe too, without
    paths. path, weights: as in `load`. name: `USER/MODEL`. license: of the weights, as in `mit`.
    about: one or two sentences on the images and their licence. half: store float16 weights.
    Raises FolderNotEmpty, DiskFull and the errors of `load`.
    """
    out = Path(out).absolute()
    checkpoints.require_empty_folder(out)
    model = load(path, weights=weights, device="cpu")
    run = run_folder_of(Path(path))
    content = model.content()
    if half:
        tensors = {key: value.half() for key, value in content.tensors.items()}
        content = content._replace(tensors=tensors)
    with checkpoints.atomic_folder(out) as writing:
        checkpoints.write_tensors(writing / MODEL_FILE, checkpoints.with_own_hash(content))
        if recipe := _recipe_of(run):
            (writing / RECIPE_FILE).write_text(recipe.to_yaml(), encoding="utf-8")
        _draw_samples(model, writing / SAMPLES, name)
        card = model_card(model, name, run, license=license, about=about)
        (writing / CARD).write_text(card, encoding="utf-8")
    return out


def push(folder: Path, name: str) -> str:
    """Upload a folder of `share` as the new model `USER/MODEL` of the Hugging Face Hub.

    The token is that of HF_TOKEN or of a login. Returns the address. Raises ConfigError if the name
    is taken or malformed, without access or network, and without huggingface_hub.
    """
    try:
        from huggingface_hub import HfApi, errors
    except ImportError as error:
        raise ConfigError(
            "--push needs huggingface_hub. Install it: pip install 'fromnoise[hub]'."
        ) from error
    hub = HfApi()
    try:
        hub.create_repo(name)
        hub.upload_folder(repo_id=name, folder_path=folder, commit_message="Add the model")
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        taken = getattr(getattr(error, "response", None), "status_code", None) == 409
        detail = "the name is taken" if taken else " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{name} was not pushed: {detail}. The folder is {folder}. Check the name, the network "
            "and HF_TOKEN."
        ) from error
    return f"https://huggingface.co/{name}"


def require_hub_name(name: str) -> None:
    """Raise ConfigError unless a name has the form USER/MODEL."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ConfigError(f"{name} is not a name of a hub. Give it as USER/MODEL.")


def model_card(model: Model, name: str, run: Path, *, license: str, about: str) -> str:
    """Return the card: the facts of the model, and the score tables in `evaluation/` of the run."""
    spec = model.spec
    head = {
        "license": license,
        "library_name": "fromnoise",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["ddpm", "diffusion", "image-generation"],
    }
    labels, recipe = ", ".join(spec.label_names), _recipe_of(run)
    tables = [file.read_text(encoding="utf-8").strip() for file in _score_tables(run)]
    text = TEXT.format(
        title=name.partition("/")[2] or name,
        about=about,
        channels=spec.channels,
        height=spec.size[0],
        width=spec.size[1],
        parameters=sum(p.numel() for p in model.denoiser.network.parameters()),
        network=spec.network.name,
        weights={"ema": "EMA"}.get(spec.weights_name, spec.weights_name),
        step=spec.step,
        labels=f"Labels: {labels}." if labels else "Unconditional.",
        count=COUNT,
        last=COUNT - 1,
        address=f"{HUB}{name}" if "/" in name else name,
        steps=spec.sampling.steps,
        sampler=spec.sampling.sampler.name,
        trained=_training(recipe, spec.source),
        scores="\n\n".join(tables) or "Not measured.",
    )
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n{text}"


def _score_tables(run: Path) -> list[Path]:
    return sorted((run / "evaluation").glob("*/*.md"))


def _recipe_of(run: Path) -> Recipe | None:
    """Return the recipe of a run, without its paths, or None."""
    file = run / RECIPE_FILE
    if not file.is_file():
        return None
    return load_recipe(str(file)).with_paths(lambda path: None)


def _training(recipe: Recipe | None, source: str | None) -> str:
    """Return the sentences on the images and the length of the training."""
    images = f"Images: {source}." if source else "The images are not known."
    if recipe is None:
        return f"{images} The recipe is not known."
    settings = recipe.training
    length = f"{settings.steps:,} steps of {settings.batch_size} images" if settings.steps else ""
    return f"{images} Training: {length} ({settings.optimizer}). All settings are in `recipe.yaml`."


def _draw_samples(model: Model, file: Path, name: str) -> None:
    """Draw the first samples, of each label in turn, as a titled grid."""
    spec = model.spec
    cond = torch.from_numpy(one_label_each(spec.label_names, COUNT)) if spec.label_names else None
    images = spec.levels.to_bytes(model.sample(range(COUNT), cond=cond).numpy())
    if spec.channels in SHOWN_WHOLE:
        grid_figure(images, file, title=f"{name}: {COUNT} samples")
