"""Build the documentation as a site: `make docs`."""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

import fromnoise

project, author, release = "fromnoise", "the fromnoise authors", fromnoise.__version__
copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["evaluation/*"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = f"fromnoise {release}"
html_show_copyright = html_show_sphinx = html_show_sourcelink = False
highlight_language = "none"  # of blocks without a language
autodoc_typehints = "none"
autodoc_member_order = "bysource"
copybutton_prompt_text = "$ "
FILES = {  # of the repository, and the pages that show them
    "docs/": "",
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def visit_math(self: Any, node: nodes.math | nodes.math_block) -> None:
    """Write an equation as MathML, which browsers render without a script or a network."""
    block = isinstance(node, nodes.math_block)
    mathml = convert(node.astext(), display="block" if block else "inline")
    self.body.append(
        f'<div class="math" style="overflow-x: auto">{mathml}</div>' if block else mathml
    )
    raise nodes.SkipNode


def as_restructured_text(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Turn the Markdown of a docstring, in place, into what autodoc reads."""
    written: list[str] = []
    literal = False
    for line in lines:
        if line.startswith("    ") and written and not written[-1] and not literal:
            literal = True
            written += ["::", ""]
        literal &= not line or line.startswith("    ")
        parts = re.split(r"(`[^`]*`)", line)
        parts[::2] = [re.sub(r"([*|_])", r"\\\1", part) for part in parts[::2]]
        parts[1::2] = [f"`{part}`" for part in parts[1::2]]
        written.append(line if literal else "".join(parts))
    lines[:] = written


def with_site_links(app: Sphinx, page: str, source: list[str]) -> None:
    """Begin the first page with the README, and link to pages of the site in place of its files."""
    if page == "index":
        readme = (Path(app.srcdir).parent / "README.md").read_text(encoding="utf-8")
        source[0] = re.sub(r"\]\((?!https?:|#)", "](../", readme) + source[0]
    for file, name in FILES.items():
        source[0] = source[0].replace(f"](../{file}", f"]({name}")


def setup(app: Sphinx) -> None:
    """Register the conversions."""
    for node in (nodes.math, nodes.math_block):
        app.add_node(node, override=True, html=(visit_math, None))
    app.connect("source-read", with_site_links)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)  # before napoleon
