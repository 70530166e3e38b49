"""The page docs/theory.md: everything that it names exists, and its own code runs."""

import ast
import importlib
import re
from functools import cache
from operator import attrgetter
from pathlib import Path

import pytest
import torch
from torch import nn

from fromnoise.diffusion import Denoiser, NoiseSchedule, classifier_free

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "theory.md"
TEXT = PAGE.read_text(encoding="utf-8")
NUMBER = re.compile(r"^\*\*\(T(\d+)\)\*\*$", flags=re.MULTILINE)
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
FUNCTION = re.compile(r"\[`([\w.]+)`\]\(\.\./src/([\w/]+)\.py\)")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")

_, *PARTS = NUMBER.split(TEXT)
EQUATIONS = dict(zip(map(int, PARTS[::2]), PARTS[1::2], strict=True))  # number → what follows it
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def headings() -> set[str]:
    """As GitHub makes anchors of them: lower case, spaces to hyphens, no other signs."""
    titles = re.findall(r"^#+ (.+)$", TEXT, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.docs
def test_equations_are_numbered_from_1_without_a_gap():
    numbers = [int(n) for n in NUMBER.findall(TEXT)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 25


@pytest.mark.docs
def test_every_display_is_an_equation_with_a_number():
    displays = re.findall(r"^\$\$\n(.+?)\n\$\$$", TEXT, flags=re.MULTILINE | re.DOTALL)
    numbered = re.findall(r"^\*\*\(T\d+\)\*\*\n\n\$\$\n", TEXT, flags=re.MULTILINE)
    assert len(displays) == len(numbered) == len(EQUATIONS)
    for display in displays:
        assert display.count("{") == display.count("}"), display
        assert display.count(r"\left") == display.count(r"\right"), display


@pytest.mark.docs
def test_formulas_in_the_text_end_on_their_line():
    # GitHub does not read them otherwise.
    prose = re.sub(r"^\$\$\n.+?\n\$\$$|^```.+?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    for line in prose.splitlines():
        assert line.count("$") % 2 == 0, line
        assert "$$" not in line


@pytest.mark.docs
def test_every_equation_that_is_referred_to_exists():
    assert {int(n) for n in re.findall(r"\(T(\d+)\)", TEXT)} == set(EQUATIONS)


@pytest.mark.docs
def test_an_equation_has_a_function_and_a_test():
    for number, text in EQUATIONS.items():
        for names in (FUNCTION.findall(text), TEST.findall(text)):
            assert names, f"(T{number})"
            assert len(names) == len(set(names)), f"(T{number}) names one twice"


@pytest.mark.docs
def test_every_function_is_where_the_page_says():
    for name, module in set(FUNCTION.findall(TEXT)):
        found = importlib.import_module(module.replace("/", "."))
        part = getattr(found, name.split(".")[0])
        assert part.__module__ == found.__name__, name  # defined there, not imported there
        attrgetter(name)(found)


@pytest.mark.docs
def test_every_test_is_where_the_page_says():
    for file, name in set(TEST.findall(TEXT)):
        assert name.startswith("test_"), name
        assert name in names_in(file), name


@pytest.mark.docs
def test_nothing_that_looks_like_a_test_or_a_function_escapes_these_tests():
    assert len(re.findall(r"tests/", TEXT)) == len(TEST.findall(TEXT))
    assert len(re.findall(r"\.\./src/", TEXT)) == len(FUNCTION.findall(TEXT))


@pytest.mark.docs
def test_every_link_leads_somewhere():
    for target in {target for _, target in LINK.findall(TEXT)}:
        if target.startswith("#"):
            assert target[1:] in headings(), target
        elif not target.startswith("https://"):
            assert (PAGE.parent / target).is_file(), target


def test_the_python_of_the_page_runs():
    names: dict = {}
    for block in BLOCKS:
        exec(block, names)
    assert names["loss"].isfinite()
    assert names["x"].shape == names["x0"].shape == (4, 1, 8, 8)
    assert names["x0"].abs().max() <= 1


# ---- what no other file tests ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize("w", [-1.0, 0.0, 0.5, 2.0])
def test_guidance_goes_from_the_empty_condition_through_the_given_one(kind, w):
    class Network(nn.Module):
        def forward(self, x_t, index, cond):
            shift = 0 if cond is None else cond @ torch.tensor([0.3, -0.7], dtype=cond.dtype)
            return torch.sin(x_t) + torch.as_tensor(shift).reshape(-1, 1, 1, 1)

    denoiser = Denoiser(Network(), NoiseSchedule.named("linear", 50), kind)
    x = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    cond = torch.tensor([[1, 0], [0, -1], [1, 1]], dtype=torch.float64)
    of_cond, of_nothing = denoiser(x, 20, cond).eps, denoiser(x, 20).eps
    guided = classifier_free(denoiser, cond, 1 + w)(x, 20).eps
    torch.testing.assert_close(guided, (1 + w) * of_cond - w * of_nothing, rtol=1e-6, atol=1e-8)
