"""How long chapters take: what they took once, notebooks/seconds.csv, by how much slower this machine is than that one.

A run that did a whole chapter leaves <name>.seconds.csv beside its notebook; `keep` puts those of a finished run into
the table.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..bench.outcomes import DamagedError
from ..files.paths import replacing

NAME = "seconds.csv"
"""The table, in the folder of the chapters' sources."""


class Taken(NamedTuple):
    """What a chapter took with its defaults, begun and ended by one run, and under which conditions.

    seconds: from the start of the kernel to its end; yardstick: of that machine when the chapter was done, in seconds
    (`yardstick.measured`); threads: of its processor; torch, commit: the versions.
    """

    chapter: str
    scale: str
    dataset: str
    seconds: float
    yardstick: float
    threads: int
    torch: str
    commit: str


class Wait(NamedTuple):
    """What is known of the time that a chapter will take. seconds: None where nothing is; resumed: whether it goes on
    from earlier tables, so that it takes less."""

    chapter: str
    seconds: float | None
    resumed: bool


def known(notebooks: Path) -> dict[tuple[str, str, str], Taken]:
    """What chapters took, by chapter, scale and data set. Raises DamagedError for a table that cannot be read."""
    path = notebooks / NAME
    return {row[:3]: row for row in read(path)} if path.is_file() else {}


def read(path: Path) -> list[Taken]:
    """The rows of a file. Raises DamagedError."""
    try:
        header, *lines = csv.reader(path.read_text(encoding="utf-8").splitlines(), strict=True)
        if tuple(header) != Taken._fields:
            raise ValueError(f"expected columns {', '.join(Taken._fields)}")
        rows = [Taken(*line) for line in lines]
        return [
            r._replace(seconds=float(r.seconds), yardstick=float(r.yardstick), threads=int(r.threads)) for r in rows
        ]
    except (ValueError, TypeError, csv.Error) as error:
        raise DamagedError(f"{path} is truncated or damaged ({error}); restore or delete it") from error


def write(path: Path, rows: Sequence[Taken]) -> None:
    """Raises WriteError."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(Taken._fields)
        table.writerows(r._replace(seconds=f"{r.seconds:.1f}", yardstick=f"{r.yardstick:.4f}") for r in rows)


def beside(notebook: Path) -> Path:
    """Where a run says what the chapter of a notebook took."""
    return notebook.with_suffix(f".{NAME}")


def keep(run: Path, notebooks: Path) -> list[Taken]:
    """Put what the chapters of a run took into the table, in place of what it says of them; returns those rows, none
    where the run did no whole chapter. run: its folder. Raises DamagedError and WriteError."""
    new = [row for path in sorted(run.glob(f"*.{NAME}")) for row in read(path)]
    if new:
        table = known(notebooks) | {row[:3]: row for row in new}
        write(notebooks / NAME, sorted(table.values(), key=lambda row: (row.scale, row.dataset, row.chapter)))
    return new


def outlook(waits: Sequence[Wait], at_once: int = 1) -> str:
    """What is known of some chapters in words: "about 14 min". at_once: how many of them run at a time, none of which
    can take longer than all."""
    seconds = [wait.seconds for wait in waits if wait.seconds is not None]
    if not seconds:
        return "no time is known"
    most = "at most " if any(wait.resumed and wait.seconds is not None for wait in waits) else ""
    unknown = [wait.chapter for wait in waits if wait.seconds is None]
    without = f" without {', '.join(unknown)}, of which no time is known" if unknown else ""
    return f"{most}about {said(max(max(seconds), sum(seconds) / at_once))}{without}"


def said(seconds: float) -> str:
    """ "45 s", "14 min" or "1 h 40 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
