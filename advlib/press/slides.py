"""Slides of a chapter: Markdown written for them, book/slides/02.md, as one page of reveal.js that needs no network.

A line `---` ends a slide. A figure is an image in figures/, with its alternative text. A line such as
`{table 4.1, 8/255: PGD, PGD+LRS-F}` or `{table 5.5, Hessian trace: SGD, SAM}` stands for the thesis' rows beside ours.
"""

from __future__ import annotations

import re
import shutil
from base64 import b64encode
from html import escape
from importlib.util import find_spec
from pathlib import Path

from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from ..bench import claims
from ..bench.chapters import UsageError, number
from ..files.paths import FIGURES, ROOT
from .readme import DATASET, SCALE

SOURCE = ROOT / "book" / "slides"
REVEAL = "_static/reveal"
"""Where the site keeps reveal.js; the slides lie one folder deeper."""
_FIGURE = re.compile(r"(?<=\]\()\.\./\.\./figures/([\w/.]+)(?=\))")
_TABLE = re.compile(r"^\{table ([\d.]+), (.+?): (.+)\}$", re.MULTILINE)


def source(chapter: Path) -> Path:
    """Where the slides of a chapter, given by its notebook, are written."""
    return SOURCE / f"{number(chapter)}.md"


def parts(markdown: str) -> list[str]:
    """The slides of a deck, as Markdown."""
    return [part.strip() for part in re.split(r"^---$", markdown, flags=re.MULTILINE)]


def write(deck: Path, path: Path) -> None:
    """Write a deck as one HTML file that takes its scripts from `REVEAL` and MathJax beside it.

    Raises UsageError for a deck or a figure that does not exist, and for a table without the rows that it names.
    """
    if not deck.is_file():
        raise UsageError(f"{deck.name}: no such slides in {SOURCE.relative_to(ROOT)}")
    markdown = deck.read_text(encoding="utf-8")
    sections = [f"<section>\n{_html(part)}</section>" for part in parts(markdown)]
    title = markdown.lstrip("# ").partition("\n")[0]
    page = (SOURCE / "deck.html").read_text(encoding="utf-8")
    page = page.replace("<!-- title -->", escape(title)).replace("<!-- slides -->", "\n".join(sections))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _html(markdown: str) -> str:
    convert = MarkdownWithMath(IPythonRenderer(escape=False, exclude_anchor_links=True))
    return convert.render(_FIGURE.sub(_embedded, with_tables(markdown)))


def with_tables(markdown: str) -> str:
    """`markdown` with its lines `{table ...}` replaced by tables. UsageError where rows that they name are missing."""
    return _TABLE.sub(_beside, markdown)


def _embedded(figure: re.Match[str]) -> str:
    """A figure's content as the address of an image."""
    path = FIGURES / figure[1]
    if not path.is_file():
        raise UsageError(f"slides: there is no figure {figure[1]}")
    return f"data:image/svg+xml;base64,{b64encode(path.read_bytes()).decode()}"


def _beside(line: re.Match[str]) -> str:
    """A Markdown table of the thesis' rows beside those of our committed run, with what both were measured on."""
    table, what, names = line[1], line[2], line[3].split(", ")
    rows = claims.compare(table, SCALE, DATASET)
    if rows is None:
        raise UsageError(f"{line[0]}: no {DATASET} run of this table is committed at {SCALE} scale")
    budgets = rows.eps_255.map("{:g}/255".format)
    rows = rows[(rows.metric == what) | (budgets == what)].set_index("name")
    if absent := [name for name in names if name not in rows.index]:
        raise UsageError(f"{line[0]}: no row for {', '.join(absent)}; there are {', '.join(rows.index) or 'none'}")
    rows = rows.loc[names]
    cells = [
        f"| {row.Index} | {row.paper:,.1f} | **{row.ours:,.1f}** | {row.ci_low:,.1f} to {row.ci_high:,.1f} |"
        for row in rows.itertuples()
    ]
    first = rows.iloc[0]
    ours = f"{DATASET}, {SCALE} scale, {'' if what == first.metric else what + ', '}n = {first.n:,}"
    caption = f"*Table {table}, {first.metric}. Thesis: {first.setting}. Ours: {ours}.*"
    return "\n".join(["| | thesis | ours | 95 % interval |", "|:--|--:|--:|--:|", *cells, "", caption])


def copy_reveal(html: Path) -> None:
    """The parts of reveal.js that the slides load, from the package sphinx-revealjs, and its licence."""
    package = Path(find_spec("sphinx_revealjs").origin).parent / "_static" / "revealjs"
    for name in ("LICENSE", "dist/reveal.js", "dist/reveal.css", "dist/theme/white.css"):
        target = html / REVEAL / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(package / name, target)
    fonts = "dist/theme/fonts/source-sans-pro"
    shutil.copytree(package / fonts, html / REVEAL / fonts, dirs_exist_ok=True)
