"""Imports run one way; docs/architecture.md has the picture that is checked here."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

import fromnoise

ROOT = Path(fromnoise.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

LEAVES = {"rng", "checkpoints", "pictures", "curves", "progress"}  # below all but the mathematics
MATHEMATICS = {"diffusion", "networks"}
MODEL = LEAVES | {"data", "config", "diffusion", "model"}
ABOVE = MODEL | {
    *("training", "generation", "classifier", "evaluation", "doctor", "interop", "report", "runs")
}
MAY_IMPORT = {
    **{part: set() for part in LEAVES | MATHEMATICS},
    **{part: {"checkpoints"} for part in ("pictures", "curves")},  # whole files
    "data": LEAVES,
    "config": LEAVES | MATHEMATICS | {"data"},
    "model": LEAVES | MATHEMATICS | {"data", "config"},
    "training": MODEL | {"networks"},  # evaluation, doctor, … reach it as callbacks
    "generation": MODEL,
    "classifier": MODEL | {"training"},
    "evaluation": MODEL | {"training", "classifier"},
    "doctor": MODEL | {"networks", "training"},
    "interop": MODEL | {"networks", "classifier"},
    "report": MODEL | {"training", "evaluation"},
    "runs": MODEL | {"training", "doctor", "evaluation"},
    "__init__": {"data", "diffusion", "model", "training", "runs"},
    "error_lines": {"checkpoints", "training"},
    "studio": ABOVE | {"error_lines"},
    "cli": ABOVE | {"error_lines", "studio"},
    "__main__": {"cli"},
}


pytestmark = pytest.mark.docs


def name_of(module: Path) -> str:
    return module.relative_to(ROOT).as_posix()


def part_of(module: Path) -> str:
    """The file or folder right below the package: `cli`, `training`, …."""
    return module.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(module: Path) -> set[str]:
    """Every module that is imported, in functions too: `torch.nn`, `fromnoise.rng`, …."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(module)} imports relatively"
            if node.module == "fromnoise":
                names |= {f"fromnoise.{alias.name}" for alias in node.names}
            else:
                names.add(str(node.module))
    return names


def test_imports_run_one_way():
    for module in MODULES:
        part = part_of(module)
        assert part in MAY_IMPORT, f"say in this test what {part} may import"
        ours = {name.split(".")[1] for name in imported(module) if name.startswith("fromnoise.")}
        assert ours - {part} <= MAY_IMPORT[part], name_of(module)


def test_the_mathematics_needs_torch_alone():
    for part in MATHEMATICS:
        files = (ROOT / part).rglob("*.py")
        roots = {name.split(".")[0] for file in files for name in imported(file)}
        assert roots - sys.stdlib_module_names == {"torch", "fromnoise"}, part


def test_no_module_is_a_drawer_for_everything():
    assert not {"utils", "util", "helpers", "common", "misc"} & {file.stem for file in MODULES}


def test_the_public_names_exist_and_are_sorted():
    assert fromnoise.__all__
    for package in (file for file in MODULES if file.stem == "__init__"):
        module = importlib.import_module(".".join(package.parent.relative_to(ROOT.parent).parts))
        public = getattr(module, "__all__", [])
        constants_first = sorted(public, key=lambda name: (not name.isupper(), name))
        assert public in (sorted(public), constants_first), module
        for name in public:
            assert getattr(module, name) is not None, (module, name)
