"""The language of the package: no marks of an old dialect, and imperative docstrings.

CONTRIBUTING.md has the rules. A mark is a phrase that plain English does not need: to add one, add
it to MARKS.
"""

import ast
import re
import tokenize
from pathlib import Path

import pytest

import fromnoise

ROOT = Path(fromnoise.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
TEXTS = sorted([*ROOT.rglob("*.yaml"), *ROOT.rglob("*.jinja")])
MARKS = re.compile(
    r"""\b(?:
    what\ is\ (?:said|shown|given|asked|wanted|there|drawn|measured)
    | asked?\ for | asks?\ for | is\ (?:said|told|asked) | (?:say|says|said)\ so | speaks?\ of
    | goes\ on | went\ on | the\ way\ (?:it|to\ it|of)
    | tak(?:e|es|ing)\ the\ place\ of | nothing\ of\b(?!\ ours) | for\ it\ is | not\ so
    | so\ many\ times
    | where\ there\ (?:is|are)\ none | where\ nothing\ is | where\ it\ is\ there
    | in\ words | come\ to\ be | be\ had | by\ far | which\ there\ are | has\ no\ \w+\ to
    | as\ one\ likes | as\ you\ like | one\ asks | made\ anew | beforehand | at\ hand
    | would\ have\ it | is\ meant\b(?!\ for) | tells\ (?:what|which|whether)
    )\b""",
    flags=re.IGNORECASE | re.VERBOSE,
)
QUESTION = re.compile(r"(?:What|Which|How|Whether|Where|Why|Is|Are)\b")
NOUN_PHRASE = re.compile(
    r"(?:The|A|An|Any|All|Every|Each|One|No|This|These|Its?|As)\b|[\w-]+(?:[’']s| of| to)\b"
)


pytestmark = pytest.mark.docs


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def texts_in(module: Path) -> list[tuple[int, str]]:
    """Return the comments and strings of a module, docstrings too, each with its line."""
    with tokenize.open(module) as file:
        tokens = list(tokenize.generate_tokens(file.readline))
    return [
        (token.start[0], re.sub(r"\s*\n\s*", " ", token.string))
        for token in tokens
        if token.type == tokenize.COMMENT
        or tokenize.tok_name[token.type] in ("STRING", "FSTRING_MIDDLE")
    ]


def documented(module: Path) -> list[tuple[str, ast.AST, str]]:
    """Return (name, node, first line) of each docstring of a module, its classes and functions."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return [
        (getattr(node, "name", ""), node, docstring.splitlines()[0])
        for node in [tree, *tree.body, *(node for each in classes for node in each.body)]
        if isinstance(node, kinds) and (docstring := ast.get_docstring(node))
    ]


def is_property(node: ast.FunctionDef) -> bool:
    names = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any(name.rpartition(".")[2] in ("property", "cached_property") for name in names)


def test_no_mark_of_the_old_dialect():
    found = [
        f"{name_of(module)}:{line}: …{text[max(0, match.start() - 30) : match.end() + 30]}…"
        for module in MODULES
        for line, text in texts_in(module)
        for match in MARKS.finditer(text)
    ]
    assert not found, "\n".join(found)


def test_no_mark_in_recipes_and_templates():
    found = {name_of(path): MARKS.findall(path.read_text(encoding="utf-8")) for path in TEXTS}
    assert not {name: marks for name, marks in found.items() if marks}


def test_a_docstring_does_not_begin_with_a_question():
    lines = [(name_of(module), line) for module in MODULES for _, _, line in documented(module)]
    assert not [found for found in lines if QUESTION.match(found[1])]


def test_the_docstring_of_a_function_begins_with_an_imperative():
    lines = [
        f"{name_of(module)}: {name}: {line}"
        for module in MODULES
        for name, node, line in documented(module)
        if isinstance(node, ast.FunctionDef) and not is_property(node)
        if not name.startswith("_") and name != "forward"  # which has shapes only
        if NOUN_PHRASE.match(line)
    ]
    assert not lines, "\n".join(lines)


def test_marks_and_noun_phrases_are_found():
    for text in ("labels that were asked for", "What is said counts", "a run goes on", "or say so"):
        assert MARKS.search(text), text
    for line in ("Return the mean.", "Load images, each of one size.", "(B,C,H,W) → the same."):
        assert not NOUN_PHRASE.match(line), line
    for line in ("The mean of a set.", "Student's interval.", "Moments of a set."):
        assert NOUN_PHRASE.match(line), line
