"""Tables of the site's own pages: HTML that book/_static/tables.js sorts where a reader asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from ..bench.differences import signed


class Number(NamedTuple):
    """A cell that is sorted by its value. shown: as a reader sees it."""

    value: float
    shown: str


class Html(str):
    """A cell that is HTML already: a link, say."""


Cell = str | Number | Html


def table(
    caption: str, heads: Sequence[str], groups: Iterable[tuple[str, Sequence[Sequence[Cell]]]], name: str = ""
) -> str:
    """A table that can be sorted within each of its groups. groups: (title, rows), "" for a group without a title; the
    first cell of a row is its head; name: of the table in the page's address, "" for one that is not sorted."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(_group(title, rows, len(heads)) for title, rows in groups)
    mark = f' class="sortable" data-name="{escape(name)}"' if name else ""
    return f"<table{mark}><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>{body}</table>"


def _group(title: str, rows: Sequence[Sequence[Cell]], width: int) -> str:
    top = f'<tr class="group"><th scope="colgroup" colspan="{width}">{escape(title)}</th></tr>' if title else ""
    return f"<tbody>{top}{''.join(map(_row, rows))}</tbody>"


def _row(cells: Sequence[Cell]) -> str:
    first, *others = cells
    return f'<tr><th scope="row">{_inside(first)}</th>{"".join(map(_cell, others))}</tr>'


def _cell(cell: Cell) -> str:
    value = f' data-value="{cell.value:g}"' if isinstance(cell, Number) else ""
    return f"<td{value}>{_inside(cell)}</td>"


def _inside(cell: Cell) -> str:
    if isinstance(cell, Number):
        return escape(cell.shown)
    return str(cell) if isinstance(cell, Html) else escape(cell)


def scrolling(label: str, inside: str) -> str:
    """What is wider than a narrow page scrolls within it, by keyboard too."""
    return f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0">\n{inside}\n</div>'


def link(text: str, address: str) -> Html:
    """A link as a cell."""
    return Html(f'<a href="{escape(address)}">{escape(text)}</a>')


def gain(points: float, low: float, high: float) -> Number:
    """A difference and its interval of 95 %: "+6.6 ▲ [+5.5, +7.6]", ▲ or ▼ where that leaves out zero."""
    mark = " ▲" if low > 0 else " ▼" if high < 0 else ""
    return Number(points, f"{signed(points)}{mark} [{signed(low)}, {signed(high)}]")
