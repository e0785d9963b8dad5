"""The book as a site of static pages that needs no network: executed notebooks, prepared for Sphinx with MyST-NB.

Nothing is executed here. `page` is what happens to a chapter; `build` does the rest.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from ..bench import leaderboard
from ..bench.chapters import UsageError, sources
from ..files.paths import BUILD, FIGURES, NOTEBOOKS, PUBLISHED, RESULTS, ROOT, made
from . import cells, home, launch, leaderboard_page, play, reference, results_page, slides, weight, zoo_page
from .markdown import anchored, cited, equations, figure_alt, linked, titles
from .run import Chapter, read_chapter

SOURCE = ROOT / "book"
ABOUT = ("CONTRIBUTING", "CHANGELOG")
"""Files of the repository that are pages of the book, too."""
PARTS = {
    "Chapters": (r"\d\d_",),
    "Appendices": (r"A\d_",),
    "Evidence": ("leaderboard", "results", "figures", "things_to_drag", "zoo", "what_holds"),
    "Behind the book": (
        *("readme", "equations", "symbols", "mathematics", "instructors", "many_gpus", "references"),
        *("contributing", "changelog"),
    ),
    "Reference": tuple(f"api_{room}" for room in reference.ROOMS),
}
"""Captions of the table of contents, and what the names of their pages begin with."""


def build(run: Path | None = None, folder: Path = BUILD / "book") -> Path:
    """Write the site to `folder`/html and return its first page.

    run: the folder of a run, whose executed notebooks take the place of the committed ones of the same name, and whose
    tables are shown. Raises UsageError where Sphinx or a notebook is missing, and where Sphinx complains.
    """
    if absent := [
        name for name in ("sphinx", "myst_nb", "sphinx-mathjax-offline", "sphinx_revealjs") if find_spec(name) is None
    ]:
        raise UsageError(f"the book needs {', '.join(absent)}: pip install 'advlib[book]'")
    source, html = folder / "source", folder / "html"
    shutil.rmtree(folder, ignore_errors=True)
    _collect(source, run)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(source), str(html)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UsageError(f"Sphinx could not build the book:\n{done.stderr}")
    weight.copy_mathjax(html / "_static")
    weight.lighten(html)
    _copy_files(html)
    slides.copy_reveal(html)
    for chapter in sources(NOTEBOOKS):
        slides.write(slides.source(chapter), html / "slides" / f"{chapter.stem}.html")
    return html / "index.html"


def _collect(folder: Path, run: Path | None) -> None:
    """Everything that Sphinx reads: book/, the figures, the chapters and the pages that are made from data."""
    made(folder.parent)
    shutil.copytree(SOURCE, folder)
    shutil.copytree(FIGURES, folder / "figures")
    (folder / "downloads").mkdir()
    chapters = [read_chapter(path) for path in sources(NOTEBOOKS)]
    text = "\n".join(c.source for chapter in chapters for c in chapter.notebook.cells if c.cell_type == "markdown")
    known = Targets(titles((folder / "references.bib").read_text(encoding="utf-8")), equations(text))
    for chapter in chapters:
        stem = chapter.source.stem
        executed = _executed(stem, run)
        notebook = nbformat.read(executed, as_version=4)
        nbformat.write(launch.portable(notebook, chapter, launch.address()), folder / "downloads" / f"{stem}.ipynb")
        shutil.copy(chapter.source, folder / "downloads")
        shown = cells.folded(cells.worded(described(notebook)))
        nbformat.write(page(shown, chapter, known), folder / f"{stem}.ipynb")
    for name in ABOUT:
        shutil.copy(ROOT / f"{name}.md", folder / f"{name.lower()}.md")
    for path in folder.glob("*.md"):
        path.write_text(_inside(path.read_text(encoding="utf-8")), encoding="utf-8")
    reference.write(folder)
    _from_data(folder, run)
    play.write(folder)
    (folder / "index.md").write_text(_first_page(folder), encoding="utf-8")
    shutil.copy(ROOT / "CITATION.cff", folder)


def _executed(stem: str, run: Path | None) -> Path:
    """The notebook of that run, or else the committed one."""
    found = [p for p in (run and run / f"{stem}.ipynb", NOTEBOOKS / f"{stem}.ipynb") if p and p.is_file()]
    if not found:
        raise UsageError(f"{stem}.ipynb was never executed: make reproduce CH={stem.split('_')[0]}")
    return found[0]


def _from_data(folder: Path, run: Path | None) -> None:
    """The pages that are made from the results and the weights, and the README as a page."""
    boards = leaderboard.standings()
    readme = _inside((ROOT / "README.md").read_text(encoding="utf-8"))
    pages = {
        "readme": re.sub(r"\A# .*", "# Run it: the module, commands, scales", readme),
        "home": home.markdown(boards),
        "leaderboard": leaderboard_page.markdown(boards),
        "results": results_page.markdown(run),
        "figures": results_page.figures(),
        "zoo": zoo_page.markdown(),
    }
    for name, text in pages.items():
        # The README's table says "n", which is short; a page says it in words.
        (folder / f"{name}.md").write_text(text.replace(" | n |\n", " | images |\n"), encoding="utf-8")


def _first_page(folder: Path) -> str:
    """What the book is and found, and the table of contents."""
    first = folder / "home.md"
    text = first.read_text(encoding="utf-8")
    first.unlink()
    pages = sorted(
        p.stem for p in folder.iterdir() if p.suffix in (".ipynb", ".md") and p.stem not in ("index", "colab")
    )
    for caption, beginnings in PARTS.items():
        inside = [name for beginning in beginnings for name in pages if re.match(beginning, name)]
        text += "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *inside, "```", ""])
    return text


@dataclass(frozen=True)
class Targets:
    """What a page can point to: works (`markdown.titles`) and equations ("4.9")."""

    works: Mapping[str, str]
    equations: Collection[str]


def _inside(text: str) -> str:
    """Links that lead to chapters and pages in the repository, as links inside the site; links to sources, as their
    names."""
    text = re.sub(r"\[[^]]*\]\(((?:advlib|tests)/[^)]+)\)", r"`\1`", text)
    text = re.sub(rf"\]\(({'|'.join(ABOUT)})\.md\)", lambda link: link[0].lower(), text)
    return re.sub(r"\]\((?:\.\./)?(?:notebooks|book)/", "](", text)


def page(notebook: NotebookNode, chapter: Chapter, known: Targets) -> NotebookNode:
    """A chapter as the site shows it: equations to link to, links to them, citations, and a box that says how to run
    it with other parameters."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = cell.source.replace("](../figures/", "](figures/")  # the committed ones lie beside the pages
            cell.source = linked(anchored(cited(text, known.works)), known.equations)
    notebook.cells[0].source += "\n\n" + _box(chapter)
    return notebook


def described(notebook: NotebookNode) -> NotebookNode:
    """The notebook with an alternative text for the figure of each cell, where MyST-NB looks for it."""
    heading = ""
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            heading = (re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE) or [heading])[-1]
        elif cell.cell_type == "code":
            after = notebook.cells[place + 1] if place + 1 < len(notebook.cells) else None
            caption = after.source if after is not None and after.cell_type == "markdown" else ""
            cell.metadata["mystnb"] = {"image": {"alt": figure_alt(cell.source, heading, caption)}}
    return notebook


def _box(chapter: Chapter) -> str:
    """A closed box: the command that runs the chapter, its parameters, its files."""
    stem, number = chapter.source.stem, chapter.number
    seed = next(name for name in chapter.parameters if name.startswith("seed"))
    rows = [f"| `{p.name}` | `{p.kind}` | `{p.default!r}` | {p.help} |" for p in chapter.parameters.values()]
    return "\n".join(
        [
            ":::{dropdown} Run this chapter with other parameters",
            "```sh",
            f"python -m advlib run {number} --scale laptop --dataset {chapter.datasets[-1]} -p {seed}=1",
            f"papermill notebooks/{stem}.ipynb out.ipynb -p scale laptop -p {seed} 1",
            "```",
            "",
            "| parameter | type | default | |",
            "|---|---|---|---|",
            *rows,
            "",
            f"{{download}}`The notebook <downloads/{stem}.ipynb>`, whose first cells say what it needs and fetch it, "
            f'{{download}}`its source <downloads/{stem}.py>`, <a href="slides/{stem}.html">its slides</a>',
            "",
            launch.links(chapter, launch.address()),
            ":::",
        ]
    )


def _copy_files(html: Path) -> None:
    """What the pages link to: every table of numbers, and the figures."""
    tables = [(RESULTS, path) for path in RESULTS.rglob("*.csv")] + [
        (PUBLISHED.parent, p) for p in PUBLISHED.glob("*.csv")
    ]
    for root, path in tables:
        place = html / "csv" / path.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    shutil.copytree(FIGURES, html / "figures")
