"""What the pages in docs/ promise: their links lead somewhere, their commands and code run."""

import importlib
import re
import runpy
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pytest
import torch
import typer.main

from fromnoise.cli import app
from fromnoise.interop import FORMATS
from fromnoise.networks import DDPM

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
SYSTEMS = (DOCS / "systems.md").read_text(encoding="utf-8")


@pytest.mark.docs
def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (DOCS / target).exists(), (page.name, target)


@pytest.mark.docs
def test_the_site_builds_without_a_warning_and_renders_equations(tmp_path):
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    done = subprocess.run([*build, DOCS, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theory, first, reference = (
        (tmp_path / f"{page}.html").read_text(encoding="utf-8")
        for page in ("theory", "index", "reference")
    )
    assert theory.count("<math") > 100
    assert "<msqrt>" in theory
    assert "First pictures" in first
    assert 'href="train.html"' in first
    assert 'id="fromnoise.train"' in reference
    scripts = re.findall(r'src="([^"]+)', theory)
    assert scripts
    assert not [source for source in scripts if source.startswith("http")]  # no network


def options_of(words):
    """Return every option of the command that these words name; the rest of them is ignored."""
    found = typer.main.get_command(app)
    for word in words:
        if not hasattr(found, "commands"):
            break
        found = found.commands.get(word, found)
    return {option for parameter in found.params for option in parameter.opts}


@pytest.mark.docs
def test_every_command_that_is_named_has_the_options_that_are_named():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    shell = "".join(re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL))
    inline = "\n".join(re.findall(r"`(fromnoise [^`]+)`", text))
    commands = re.findall(r"^fromnoise (.+)", f"{shell}\n{inline}", flags=re.MULTILINE)
    commands += [f"sample {flag}" for flag in re.findall(r"`(--cycle-classes|--guidance)", text)]
    assert len(commands) > 40
    for command in commands:
        known = options_of(command.split())
        for option in re.findall(r"(?<!\S)--[a-z-]+", command):
            assert option in known, (command, option)


LABELS = (DOCS / "labels.md").read_text(encoding="utf-8")


@pytest.mark.docs
def test_every_option_of_the_page_on_labels_exists():
    known = options_of(["sample"]) | options_of(["evaluate"])
    known |= options_of(["classifier", "train"]) | options_of(["classifier", "import"])
    known |= options_of(["train"]) | options_of(["data", "shapes"])
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", LABELS))
    assert len(options) > 10
    assert options <= known


@pytest.mark.docs
def test_the_formats_are_those_that_can_be_imported():
    table = SYSTEMS.partition("| `--format` |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, flags=re.MULTILINE)) == FORMATS.keys()


def test_the_scheduler_alone_works_as_shown():
    (code,) = re.findall(r"```python\n(.*?)```", SYSTEMS, flags=re.DOTALL)
    network = DDPM(channels=8, groups=4, multipliers=(1,), num_res_blocks=1, attention_levels=())
    names = {"x0": torch.rand(3, 3, 4, 4) * 2 - 1, "network": network}
    with torch.no_grad():
        exec(code, names)
    assert names["x_s"].shape == names["predicted_x0"].shape == (3, 3, 4, 4)
    # at t = 1 the next x is the prediction itself
    torch.testing.assert_close(names["x_s"][0], names["predicted_x0"][0])


@pytest.mark.docs
def test_the_page_of_components_is_what_the_script_writes():
    script = runpy.run_path(str(DOCS / "components.py"))
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"](), "run make docs"


ARCHITECTURE = (DOCS / "architecture.md").read_text(encoding="utf-8")


def files_of(tree):
    """Return the paths of a tree that is drawn by indentation, folders with their slash."""
    parents, paths = [], set()
    for line in tree.splitlines()[1:]:
        indent, name = re.findall(r"^( +)([\w./]+)", line)[0]
        parents = [*parents[: len(indent) // 2 - 1], name]
        paths.add("".join(parents))
    return paths


@pytest.mark.docs
def test_the_tree_of_the_architecture_names_every_file():
    (tree,) = re.findall(r"^```text\n(src.*?)^```", ARCHITECTURE, flags=re.MULTILINE | re.DOTALL)
    package = ROOT / "src/fromnoise"
    files = {p.relative_to(package).as_posix() for p in package.rglob("*.py")}
    folders = {f"{file.rpartition('/')[0]}/" for file in files if "/" in file}
    modules = {file for file in files if not file.endswith("__init__.py")}
    assert files_of(tree) == modules | folders | {"config/recipes/", "shipped/"}


@pytest.mark.docs
def test_every_function_of_the_architecture_is_where_the_page_says():
    links = re.findall(r"\[`([\w.]+)`\]\(\.\./src/([\w/]+)\.py\)", ARCHITECTURE)
    assert len(links) > 30
    for name, file in links:
        module = importlib.import_module(file.replace("/", ".").removesuffix(".__init__"))
        found = getattr(module, name.split(".")[0])
        assert getattr(found, "__module__", module.__name__) == module.__name__, name
        attrgetter(name)(module)
