"""The book's leaderboards as a page, their top for the first page, and how to add an attack."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..bench.leaderboard import BOARDS, Board
from ..core.published import DEFENDED, TRAINED, UNDEFENDED
from .tables import Cell, Number, gain, link, scrolling, table

SCALE = "laptop"
HEADS = ("attack", "success (%)", "95 % interval", "points above the baseline", "passes an image", "table")
HEAD = """# Leaderboard

Each board ranks attacks that were measured on the same images, from the same surrogate, against the same targets, at
one budget. Numbers of two boards, or of two budgets, say nothing about each other and are not ranked together.

- *Success* is the share of images that a target names wrongly, the mean over the board's targets of one kind. The
  surrogate itself is never a target. Images count that the networks name rightly while they are clean.
- *The interval* of a success is Wilson's at that many images. That of a difference to the baseline is from the same
  images, one by one; ▲ and ▼ mark a difference whose interval leaves out zero.
- *Passes* are runs of one network forward and backward for one image: what an attack costs. Two attacks of different
  cost are no equals; sort by that column.

A click on the head of a column sorts by it, and the address of the page remembers that. A name in the last column
leads to the rows behind it.
"""
ADD = """## Add your attack

Copy {{download}}`this file <my_attack.py>`, put your attack in the place of the one that is there, and run it in a
checkout of this book. Nothing of it has to be registered anywhere.

```sh
python my_attack.py                                     # six built-in images: does it run?
python my_attack.py --scale laptop --dataset cifar10    # the images and networks of the first board
```

```{{literalinclude}} my_attack.py
:language: python
```

The second command attacks the {images} images of the first board on its surrogate, beside MI-FGSM, and says where
yours stands. It needs [CIFAR-10](readme.md) and the weights that are in the repository; the board's targets marked
with a star are networks of others, and without their weights it compares on the targets that are there. Your table
lies in `_build/leaderboard/laptop/cifar10`. A copy of it, the `.csv` and the `.outcomes.npz` beside it, in
`data/results/laptop/cifar10` puts the attack on this page when the book is built.
"""
KINDS = (UNDEFENDED, DEFENDED, TRAINED)


def markdown(boards: Mapping[str, pd.DataFrame]) -> str:
    """The page. boards: of `leaderboard.standings`."""
    parts = [HEAD, *(_board(key, BOARDS[key], rows) for key, rows in boards.items() if len(rows))]
    return "\n\n".join([*parts, ADD.format(images=_images(boards["cifar10"]))]) + "\n"


def _images(rows: pd.DataFrame) -> str:
    return str(int(rows.n.iloc[0])) if len(rows) else "first"


def top(boards: Mapping[str, pd.DataFrame], key: str, eps_255: float, of: str = UNDEFENDED, most: int = 5) -> str:
    """The first rows of a board at one budget against one kind of target, with what they were measured on; "" where
    there are none."""
    board, rows = BOARDS[key], boards[key]
    rows = rows[(rows.eps_255 == eps_255) & (rows.kind == of)]
    if rows.empty:
        return ""
    caption = f"{board.title}: {of} targets at {eps_255:g}/255, from {board.surrogate}, {_count(rows)}"
    return scrolling(
        caption, table(caption, HEADS[:-1], [("", [_cells(row)[:-1] for row in rows[:most].itertuples()])])
    )


def _board(key: str, board: Board, rows: pd.DataFrame) -> str:
    parts = [f"## {board.title}", _about(board)]
    for eps in sorted(rows.eps_255.unique()):
        for kind in KINDS:
            of = rows[(rows.eps_255 == eps) & (rows.kind == kind)]
            if of.empty:
                continue
            caption = f"{kind} targets at {eps:g}/255, {of.targets.iloc[0]} networks, {_count(of)}"
            shown = table(caption, HEADS, [("", [_cells(row) for row in of.itertuples()])], f"{key}-{eps:g}-{kind[:3]}")
            # The first table of a board is open: the others are one click away, and the page stays short.
            opened = " open" if (eps, kind) == (rows.eps_255.min(), KINDS[0]) else ""
            parts.append(
                f"<details class='board'{opened}><summary>{caption[0].upper()}{caption[1:]}: {len(of)} attacks"
                f"</summary>\n{scrolling(caption, shown)}\n</details>"
            )
    return "\n\n".join(parts)


def _about(board: Board) -> str:
    files = ", ".join(f"`{name}.csv`" for name in board.files)
    return (
        f"Surrogate: {board.surrogate}. Baseline: {board.baseline}. Rows of {files} in `data/results/{board.folder}`. "
        f"{board.note}"
    )


def _cells(row: tuple) -> list[Cell]:
    above = gain(row.points, row.points_low, row.points_high) if row.interval else Number(0.0, "baseline")
    return [
        f"{row.attack} (added)" if row.added else row.attack,
        Number(row.value, f"{row.value:.1f}"),
        Number(row.low, f"{row.low:.1f} to {row.high:.1f}"),
        above,
        Number(row.passes, f"{row.passes:,.0f}"),
        link(str(row.table), f"csv/{row.file}"),
    ]


def _count(rows: pd.DataFrame) -> str:
    return f"{rows.images.iloc[0].removeprefix('n = ')} images"
