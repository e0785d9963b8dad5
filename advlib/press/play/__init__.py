"""Things to drag: drawings on the site that a reader changes, in plain JavaScript and without a network.

`book/play.toml` says of each what it is called, on which page it stands and behind which heading. A drawing is a
`Thing`: its numbers, which Python writes as JSON into `_static/play/<name>.data.js`, the scripts of
`book/_static/play` that draw them, and a still picture of them for paper and for pages without a script.
"""

from __future__ import annotations

import html
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from matplotlib.figure import Figure
from matplotlib.text import Text

from ...bench import plotting
from ...bench.chapters import UsageError
from . import budget, cost, erasure, pixels, surfaces

LIST = "things_to_drag"
"""The page that has all of them."""
FRAME = ("frame", "chart")
"""The scripts that every page with a drawing has."""


@dataclass(frozen=True)
class Thing:
    """data: the numbers that its scripts read, JSON types; still: a picture of them; scripts: its own, in the order in
    which they are read."""

    data: Callable[[], dict[str, Any]]
    still: Callable[[dict[str, Any]], Figure]
    scripts: Sequence[str]
    make: Callable[[], None] | None = None


THINGS = {
    "cost": Thing(cost.data, cost.still, ["cost"]),
    "pixels": Thing(pixels.data, pixels.still, ["pixels.math", "pixels"]),
    "budget": Thing(budget.data, budget.still, ["budget"], budget.make),
    "erasure": Thing(erasure.data, erasure.still, ["erasure.math", "erasure"]),
    "surfaces": Thing(surfaces.data, surfaces.still, ["surfaces.math", "surfaces"], surfaces.make),
}


@dataclass(frozen=True)
class Place:
    """A table of `book/play.toml`. page: the stem of a chapter; after: the text of a heading of it; title, text: what
    stands above and below the drawing; still: what the still picture shows, its alternative text."""

    page: str
    after: str
    title: str
    text: str
    still: str


def places(source: Path) -> dict[str, Place]:
    """What the file says of each thing, in its order. Raises UsageError where it lacks one, or has one too many."""
    found = {name: Place(**table) for name, table in tomllib.loads(source.read_text(encoding="utf-8")).items()}
    if found.keys() != THINGS.keys():
        raise UsageError(f"{source.name} should have {', '.join(THINGS)}, and has {', '.join(found)}")
    return found


def write(folder: Path) -> None:
    """Put the drawings into the pages that lie in `folder` as notebooks, with all that they need, and write the page
    that lists them. Raises UsageError where a page lacks the heading."""
    stood = places(folder / "play.toml")
    static = folder / "_static" / "play"
    for name, thing in THINGS.items():
        numbers = thing.data()
        text = json.dumps(numbers, separators=(",", ":"))
        (static / f"{name}.data.js").write_text(f"play.data.{name}={text};\n", encoding="utf-8")
        _save(thing.still(numbers), static / f"{name}.png")
    for page in dict.fromkeys(place.page for place in stood.values()):
        of_it = {name: place for name, place in stood.items() if place.page == page}
        path = folder / f"{page}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        for place, (name, text) in zip(of_it.values(), blocks(of_it).items(), strict=True):
            inserted(notebook, place, name, text)
        nbformat.write(notebook, path)
    (folder / f"{LIST}.md").write_text(_listed(stood), encoding="utf-8")


def _save(figure: Figure, path: Path) -> None:
    """As a picture with no text that is too small to read."""
    for text in figure.findobj(Text):
        text.set_fontsize(max(8, text.get_fontsize()))
    with plotting.style():
        figure.savefig(path, dpi=130)


def inserted(notebook: nbformat.NotebookNode, place: Place, name: str, text: str) -> None:
    """The drawing behind what is written below its heading, before the next heading or the code. Raises UsageError
    where the notebook has no such heading, or more than one."""
    heading = re.compile(rf"^#+ {re.escape(place.after)}\s*$", re.MULTILINE)
    found = [cell for cell in notebook.cells if cell.cell_type == "markdown" and heading.search(cell.source)]
    if len(found) != 1:
        raise UsageError(f"play.toml: {place.page} has {len(found)} headings {place.after!r} for {name}, not one")
    (cell,) = found
    above, below = cell.source[: (end := heading.search(cell.source).end())], cell.source[end:]
    section, mark, rest = _until_heading(below)
    cell.source = f"{above}{section}\n\n{text}\n{mark}{rest}"


def _until_heading(text: str) -> tuple[str, str, str]:
    """What comes before the next heading, the break, and that heading and all behind it."""
    following = re.search(r"^#+ ", text, re.MULTILINE)
    if following is None:
        return text.rstrip(), "", ""
    return text[: following.start()].rstrip(), "\n", text[following.start() :]


def blocks(stood: Mapping[str, Place]) -> dict[str, str]:
    """The drawings of one page, as raw HTML for MyST; scripts that two of them need come with the first."""
    found, loaded = {}, []
    for name, place in stood.items():
        scripts = [s for s in (*FRAME, f"{name}.data", *THINGS[name].scripts) if s not in loaded]
        loaded += scripts
        style = [] if found else ['<link rel="stylesheet" href="_static/play/play.css">']
        figure = _figure(name, place)
        lines = style + figure + [f'<script defer src="_static/play/{script}.js"></script>' for script in scripts]
        found[name] = "\n".join(["```{raw} html", *lines, "```"])
    return found


def _figure(name: str, place: Place) -> list[str]:
    title = f"play-{name}"
    return [
        f'<figure class="play" id="{title}" data-play="{name}" aria-labelledby="{title}-title">',
        f'<p class="play-title" id="{title}-title">{html.escape(place.title)}</p>',
        f'<img class="play-still" src="_static/play/{name}.png" alt="{html.escape(" ".join(place.still.split()))}">',
        f"<figcaption>{_coded(html.escape(place.text.strip()))}</figcaption>",
        "</figure>",
    ]


def _coded(text: str) -> str:
    """`x` as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text)


def _listed(stood: Mapping[str, Place]) -> str:
    """The page of all, each with a link to the chapter where it stands."""
    parts = ["# Things to drag", _INTRODUCTION]
    for place, text in zip(stood.values(), blocks(stood).values(), strict=True):
        chapter = f"[chapter {place.page.partition('_')[0]}]({place.page}.ipynb)"
        parts += [f"## {place.title}", text, f"It stands in {chapter}, under *{place.after}*."]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """Each drawing has sliders and lists, for a mouse, a finger or the keyboard (Tab, then the arrows).
They need no network. What is measured comes from committed runs, and every drawing says of what."""
