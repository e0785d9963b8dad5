"""Slides of a chapter, from its executed notebook: the cells with the tag "slide", by nbconvert, for reveal.js."""

from __future__ import annotations

import logging
import re
import shutil
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

from nbconvert import SlidesExporter
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from .paths import ROOT

TEMPLATE = ROOT / "book" / "slides"
TAG = "slide"
REVEAL = "_static/reveal"
"""Where the site keeps reveal.js; the slides lie one folder deeper."""


def write(notebook: NotebookNode, path: Path) -> None:
    """Write the slides of an executed notebook as one HTML file that takes its scripts from `REVEAL` beside it."""
    exporter = SlidesExporter(
        template_file="index.html.j2",
        extra_template_basedirs=[str(TEMPLATE.parent)],
        template_name=TEMPLATE.name,
        exclude_input=True,
        exclude_output_prompt=True,
        embed_images=True,
        reveal_url_prefix=f"../{REVEAL}",
        reveal_theme="white",
    )
    exporter.log.setLevel(logging.ERROR)
    text, _ = exporter.from_notebook_node(chosen(notebook), {"metadata": {"name": path.stem}})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def chosen(notebook: NotebookNode) -> NotebookNode:
    """A copy in which each tagged cell is a slide, in short, and the others are skipped."""
    short = deepcopy(notebook)
    cells, heading = [], ""
    for cell in short.cells:
        if cell.cell_type == "markdown":
            heading = (re.findall(r"^#+ .+$", cell.source, re.MULTILINE) or [heading])[-1]
        tagged = TAG in cell.metadata.get("tags", [])
        cell.metadata["slideshow"] = {"slide_type": TAG if tagged else "skip"}
        if tagged and cell.cell_type == "markdown":
            cell.source = condensed(cell.source)
        elif tagged:  # a figure stands under the title of its section
            cells.append(new_markdown_cell(heading, metadata={"slideshow": {"slide_type": TAG}}))
            cell.metadata["slideshow"] = {"slide_type": "-"}
        cells.append(cell)
        for output in cell.get("outputs", []):
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            for kind in ("image/png", "image/svg+xml"):
                if kind in output.get("data", {}):
                    output.setdefault("metadata", {}).setdefault(kind, {})["alt"] = alt
    short.cells = cells
    return short


def condensed(markdown: str) -> str:
    """What fits on a slide: headings, displayed equations, tables, the first sentence of each paragraph and item."""
    blocks = re.split(r"\n\n+|\n(?=- |\d+\. )|(?<=\$\$)\n(?!\n)|\n(?=\$\$)", markdown.strip())
    return "\n\n".join(map(_first, blocks))


def _first(block: str) -> str:
    if block.startswith(("#", "$$", "|", "```", "!")) or block.count("$$"):
        return block
    plain = " ".join(block.split())
    return re.split(r"(?<=[a-z0-9)*`$][.:?!])\s(?=[A-Z*`$])", plain, maxsplit=1)[0]


def copy_reveal(html: Path) -> None:
    """The parts of reveal.js that the slides load, from the package sphinx-revealjs, and its licence."""
    package = Path(find_spec("sphinx_revealjs").origin).parent / "_static" / "revealjs"
    for name in ("LICENSE", "dist/reveal.js", "dist/reveal.css", "dist/theme/white.css"):
        target = html / REVEAL / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(package / name, target)
    fonts = "dist/theme/fonts/source-sans-pro"
    shutil.copytree(package / fonts, html / REVEAL / fonts, dirs_exist_ok=True)
