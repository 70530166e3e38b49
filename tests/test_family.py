"""The page docs/family.md: every member is there, and what the page says of it is so."""

import importlib
import re
import runpy
import sys
from operator import attrgetter
from pathlib import Path

import pytest
import torch
import typer.main
from PIL import Image

from fromnoise.cli import app
from fromnoise.config import recipe as config
from fromnoise.config import schema
from fromnoise.diffusion import LOSSES, SAMPLERS, SCHEDULES, TIMESTEPS, WEIGHTINGS, NoiseSchedule
from fromnoise.diffusion.losses import OWN, VLB
from fromnoise.diffusion.noise_levels import NOISE_LEVELS

DOCS = Path(__file__).parent.parent / "docs"
FOLDER = DOCS / "family"
TEXT = (DOCS / "family.md").read_text(encoding="utf-8")
HEADING = re.compile(r"^### (.+)$", flags=re.MULTILINE)
FUNCTION = re.compile(r"\[`([\w.]+)`\]\(\.\./src/([\w/]+)\.py\)")
PICTURE = re.compile(r"!\[[^\]]+\]\(family/([^)]+)\.png\)")

_, *PARTS = HEADING.split(TEXT)
SECTIONS = {
    title: re.split(r"^## ", body, flags=re.MULTILINE)[0]
    for title, body in zip(PARTS[::2], PARTS[1::2], strict=True)
}
NAMED = {
    "Schedule": SCHEDULES,
    "Timesteps": TIMESTEPS,
    "Sampler": SAMPLERS,
    "Variance": ("small", "large", "learned"),
    "Prediction": OWN,
    "Loss": [*LOSSES, VLB],
    "Weighting": WEIGHTINGS,
    "Noise levels": NOISE_LEVELS,
    "Edit": typer.main.get_command(app).commands["edit"].commands,
}


@pytest.fixture(scope="module")
def drawing():
    """What docs/family/draw.py defines; its neighbours are found as when it is run."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    yield runpy.run_path(str(FOLDER / "draw.py"))
    sys.path.remove(str(FOLDER))
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) == str(FOLDER / f"{name}.py"):
            del sys.modules[name]


@pytest.mark.docs
def test_every_member_has_a_section_and_no_section_is_of_another():
    for kind, names in NAMED.items():
        titles = [title for title in SECTIONS if title.startswith(f"{kind} `")]
        assert sorted(titles) == sorted(f"{kind} `{name}`" for name in names)


@pytest.mark.docs
def test_a_section_is_a_line_an_equation_a_source_a_function_and_a_picture(drawing):
    for title, section in SECTIONS.items():
        before, display, after = section.split("$$")
        assert before.strip(), title
        assert display.count("{") == display.count("}"), title
        brackets = [re.findall(rf"\\{side}\b", display) for side in ("left", "right")]
        assert len(brackets[0]) == len(brackets[1]), title
        assert not re.search(r"^[+\-=] ", display, flags=re.MULTILINE), title  # Markdown's lists
        source, _, functions = after.partition("Computed by")
        assert re.search(r"arxiv\.org/abs/\d{4}\.\d{5}|https?://|\b(19|20)\d\d\b", source), title
        assert FUNCTION.search(functions), title
        assert PICTURE.findall(after) == [drawing["anchor"](title)]


@pytest.mark.docs
def test_every_function_is_where_the_page_says():
    for name, module in set(FUNCTION.findall(TEXT)):
        found = importlib.import_module(module.replace("/", "."))
        part = getattr(found, name.split(".")[0])
        assert getattr(part, "__module__", found.__name__) == found.__name__, name
        attrgetter(name)(found)
    assert len(re.findall(r"\.\./src/", TEXT)) == len(FUNCTION.findall(TEXT))


@pytest.mark.docs
def test_every_picture_is_drawn_shown_and_small(drawing):
    files = {file.stem: file for file in FOLDER.glob("*.png")}
    assert files.keys() == {drawing["OVERVIEW"], *drawing["PICTURES"]}
    shown = PICTURE.findall(TEXT)
    assert sorted(shown) == sorted(files)  # each once
    assert sum(file.stat().st_size for file in files.values()) < 1_500_000
    for file in files.values():
        with Image.open(file) as image:
            assert image.size[0] in (640, 1200)


@pytest.mark.parametrize(
    "name",
    [
        "schedule-cosine",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("sampler-unipc", "guidance-rescale")),
    ],
)
def test_a_picture_is_drawn_alike_each_time(drawing, tmp_path, name):
    first = drawing["draw"](name, tmp_path).read_bytes()
    assert drawing["draw"](name, tmp_path).read_bytes() == first


def test_an_unknown_picture_is_refused(drawing):
    with pytest.raises(SystemExit, match=r"no picture of-nothing\. Give one of: paths"):
        drawing["main"](["of-nothing"])


@pytest.mark.docs
def test_the_tables_name_every_section_and_lead_to_it(drawing):
    rows = re.findall(r"^\| \[(.+?)\]\(#([^)]+)\) \|", TEXT, flags=re.MULTILINE)
    assert [target for _, target in rows] == [drawing["anchor"](title) for title in SECTIONS]
    headings = re.findall(r"^##+ (.+)$", TEXT, flags=re.MULTILINE)
    anchors = {drawing["anchor"](title) for title in headings}
    assert len(anchors) == len(headings)
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors


@pytest.mark.docs
def test_every_key_and_every_option_exists():
    for section, key in re.findall(r"\b(diffusion|sampling|training)\.(\w+)", TEXT):
        assert key in config.Recipe.model_fields[section].annotation.model_fields, key
    for key in re.findall(r"\bnetwork\.(\w+)", TEXT):
        assert key in config.load_recipe("digits").network.options
    options = {o for command in commands() for p in command.params for o in p.opts}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT)) <= options


def commands(group=None):
    for command in (group or typer.main.get_command(app)).commands.values():
        yield from commands(command) if hasattr(command, "commands") else [command]


@pytest.mark.docs
def test_formulas_in_the_text_end_on_their_line():
    prose = re.sub(r"^\$\$\n.+?\n\$\$$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    for line in prose.splitlines():
        assert line.count("$") % 2 == 0, line


# ---- what the page claims ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "T", "percent"),
    [("linear", 100, 60), ("linear_rescaled", 100, 0.5), ("quadratic", 1000, 2.7)],
)
def test_what_a_schedule_leaves_of_the_image(name, T, percent):
    left = 100 * NoiseSchedule.named(name, T).alpha_bar[-1].sqrt().item()
    assert left == pytest.approx(percent, rel=0.1)


def test_the_defaults_are_those_that_the_page_names():
    diffusion, sampling = schema.Diffusion(), schema.SamplingConfig()
    assert (diffusion.schedule.name, diffusion.T, diffusion.prediction.name) == (
        "linear",
        1000,
        "eps",
    )
    assert (diffusion.loss, diffusion.weighting.name) == ("mse", "simple")
    assert (sampling.sampler.name, sampling.steps, sampling.timesteps) == ("ddim", 50, "trailing")


def test_the_errors_of_the_samplers_are_those_of_the_table(drawing):
    samplers = sys.modules["samplers"]
    table = TEXT.partition("in units of the plane.")[2].partition("`heun` evaluates")[0]
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", table, flags=re.MULTILINE)
    assert [int(steps) for steps, _ in rows] == samplers.COUNTS
    for i, (_, cells) in enumerate(rows):
        names = ("ddim", "heun", "ipndm", "dpm++", "unipc", "unipc 3")
        for cell, name in zip(cells.split(" | "), names, strict=True):
            digits = len(cell.partition(".")[2])
            options = {"order": 3} if name == "unipc 3" else {}
            found = samplers._errors(name.removesuffix(" 3"), **options)[i]
            assert round(found, digits) == pytest.approx(float(cell)), name
    at_5 = [samplers._errors(name)[0] for name in samplers.DETERMINISTIC]
    assert max(at_5) < 2.2 * min(at_5)
    at_20 = {name: samplers._errors(name)[2] for name in samplers.DETERMINISTIC}
    assert at_20["ddim"] / at_20["dpm++"] == pytest.approx(5, abs=0.5)
    assert at_20["ddim"] / at_20["unipc"] == pytest.approx(17, abs=0.5)
    assert at_20["ddim"] == pytest.approx(at_20["euler"], rel=1e-9)


@pytest.mark.parametrize(("variance", "width"), [("small", 0.20), ("large", 0.28)])
def test_the_widths_that_a_variance_gives(drawing, variance, width):
    plane = sys.modules["plane"]
    ends = plane.walk("ddpm", plane.drawn(20_000), 20, variance=variance)[-1][..., 0, 0]
    nearest = plane.two.MEANS[plane.two.nearest(ends)]
    assert (ends - nearest).square().mean().sqrt().item() == pytest.approx(width, abs=0.006)


def test_the_variance_that_is_drawn_as_learned_is_that_of_the_image_given_x_t(drawing):
    # E (x_0 − x̂_0)² over many draws of both must be the mean of Var[x_0 | x_t]
    samplers, plane = sys.modules["samplers"], sys.modules["plane"]
    generator = torch.Generator().manual_seed(0)
    which = torch.multinomial(plane.two.WEIGHTS, 200_000, True, generator=generator)
    x0 = plane.two.MEANS[which][..., None, None] + plane.two.STD * plane.drawn(200_000, seed=1)
    for t in (50, 300, 700):
        x_t = plane.two.SCHEDULE.add_noise(x0, plane.drawn(200_000, seed=2), t)
        off = (plane.two.denoise(x_t, t).x0 - x0).square().mean()
        torch.testing.assert_close(off, samplers.spread(x_t, t).mean(), rtol=0.02, atol=0)


def test_when_the_average_has_its_full_decay():
    n = 89_990
    assert (1 + n) / (10 + n) == pytest.approx(0.9999, abs=1e-12)
