"""When one attack, optimizer or network is clearly ahead of another: the one definition, which tables, README, chapters
and site ask.

A difference is clear where its interval of 95 % leaves out 0. Which interval that is depends on what was kept of the
two, and a difference says which it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..core import intervals
from . import outcomes

PAIRED, NEWCOMBE, SEEDS, MOVER = "paired", "Newcombe", "Student over seeds", "MOVER"
"""The intervals of a difference."""
MEANING = {
    PAIRED: "paired, from the same images",
    NEWCOMBE: "Newcombe's, which takes the two for independent and is wide where both had the same images",
    MOVER: "that of two independent means (MOVER)",
    SEEDS: "Student's, of the differences within each seed",
}
"""The intervals in words."""
ATTRIBUTE = "outcomes"
"""The name in `DataFrame.attrs` under which rows say where the outcomes of their images lie. It stays with them when
they are filtered or get another column; rows of several files, put together, have none."""
_CELL = ("source", "attack", "target", "eps_255", "metric", "value", "n")
"""The columns of a row that name its outcomes, and those that they are checked against."""
_SEED = "seed "
"""How the source of a row begins that is one of several trainings."""
_PROPORTIONS = (outcomes.COMMON, outcomes.ALL, "abstained")


class Difference(NamedTuple):
    """Points between two means, their interval of 95 %, and which one it is: PAIRED, NEWCOMBE, SEEDS or MOVER."""

    points: float
    low: float
    high: float
    interval: str

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def between(rows: pd.DataFrame, better: str, worse: str) -> Difference:
    """How far one attack of a table, or optimizer, or network, is above another, in the mean over its rows.

    rows: of one metric, with attack, value and n; other attacks are left out. Rates of success or of abstention have
    the paired interval where it is known which images were fooled (`ResultTable` keeps that beside the table): for one
    target Newcombe's for paired proportions, for a mean over several Student's of the mean difference of an image. Else
    they have Newcombe's for two proportions, at n images: outcomes of one image on several targets depend on one
    another. Where other images count for one target than for another, an image adds to the mean over the targets what
    it adds to each of those rates (Taylor linearisation), and Student's interval is over that. Rows of several seeds,
    which `source` begins with, have Student's interval of the differences within each. All others are one mean each and
    carry an interval (MOVER). Raises ValueError for an attack without rows.
    """
    first, second = (rows[rows["attack"] == name] for name in (better, worse))
    if first.empty or second.empty:
        raise ValueError(f"no attack {better if first.empty else worse!r}; there are {sorted(set(rows['attack']))}")
    if "metric" not in rows or first["metric"].isin(_PROPORTIONS).all():
        return apart(first, second)
    if "source" in rows and first["source"].str.startswith(_SEED).all():
        values = [part.set_index("source")["value"] for part in (first, second)]
        return Difference(*intervals.paired_mean((values[0] - values[1]).dropna().to_numpy()), SEEDS)
    return Difference(*intervals.difference(_only(first, better), _only(second, worse)), MOVER)


def apart(better: pd.DataFrame, worse: pd.DataFrame) -> Difference:
    """How far the rows of one attack are above those of another, both rates on the same targets at one budget; the two
    may be of two files. The interval is that of `between`."""
    return _paired(better, worse) or _independent(better, worse)


def signed(points: float) -> str:
    """ "+6.6", without a minus before a zero."""
    return f"{round(points, 1) + 0.0:+,.1f}"


def named(found: Iterable[Difference]) -> str:
    """Which intervals some differences have: "paired", or "Newcombe and paired"; "" of none."""
    return " and ".join(sorted({difference.interval for difference in found}))


def _only(rows: pd.DataFrame, name: str) -> pd.Series:
    if len(rows) != 1:
        raise ValueError(f"{name}: expected one row, got {len(rows)}: choose a metric and an eps_255")
    return rows.iloc[0]


def _independent(first: pd.DataFrame, second: pd.DataFrame) -> Difference:
    """Newcombe's interval, from whole numbers of images."""
    means, images = zip(*((rows["value"].mean(), int(rows["n"].min())) for rows in (first, second)), strict=True)
    counts = [round(mean / 100 * n) for mean, n in zip(means, images, strict=True)]
    low, high = intervals.newcombe(counts[0], images[0], counts[1], images[1])
    return Difference(float(means[0] - means[1]), low, high, NEWCOMBE)


def _paired(first: pd.DataFrame, second: pd.DataFrame) -> Difference | None:
    """From what happened to each image; None where that is not known, or not of the same images."""
    a, b = _each_image(first), _each_image(second)
    if a is None or b is None or not all(map(np.array_equal, a[:2], b[:2])):
        return None
    counted, of, against = a[1], a[2], b[2]
    if len(of) == 1:
        kept = counted[0]
        return Difference(*intervals.paired_difference(of[0][kept], against[0][kept]), PAIRED)
    each = _shares(of.astype(float) - against, counted)
    if np.ptp(each) < 1e-9:
        return None  # all images alike, or one: what they would vary by is not to be seen, and no interval is no width
    return Difference(*intervals.paired_mean(each), PAIRED)


def _shares(each: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Numbers of which the mean is that of the rates of all rows, and the spread is what the images give it, in
    percent, one for each image that counts in some row. each: (rows, N), what happened to each image; counted: bool
    (rows, N). Where the same images count in all rows, it is the mean over the rows."""
    n = counted.sum(1, keepdims=True)
    rates = (each * counted).sum(1, keepdims=True) / n
    some = counted.any(0)
    around = ((each - rates) * counted / n).mean(0)[some]
    return 100 * (rates.mean() + some.sum() * around)


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """What names and checks the outcomes of each row. `to_dict` and `sort_values` of a frame this small take ten times
    as long, and a page of results asks a thousand times."""
    columns = [rows[name].tolist() for name in _CELL]
    return [dict(zip(_CELL, values, strict=True)) for values in zip(*columns, strict=True)]


def _each_image(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """The number of every image, (N,), and of each row, in the order of sources and targets, whether the image counts
    and whether the target was fooled, (rows, N). None where this is not kept of all rows. DamagedError: of another
    run."""
    path, columns = rows.attrs.get(ATTRIBUTE), {"source", "target", "eps_255", "metric"}
    if path is None or not Path(path).exists() or not columns <= set(rows):
        return None
    if not rows["metric"].isin((outcomes.COMMON, outcomes.ALL)).all():
        return None
    kept = outcomes.read(Path(path))
    cells = sorted(_records(rows), key=itemgetter("source", "target", "eps_255", "metric"))
    if not {outcomes.key_of(row) for row in cells} <= kept.cells.keys():
        return None
    if strange := [row for row in cells if not kept.agree(row)]:
        raise outcomes.DamagedError(
            f"{path} is not of the same run as {outcomes.key_of(strange[0])} in its table; restore or delete it"
        )
    found = [kept.of(*outcomes.key_of(row)) for row in cells]
    counted = [outcome.counted(row["metric"]) for outcome, row in zip(found, cells, strict=True)]
    return kept.index, np.stack(counted), np.stack([outcome.fooled for outcome in found])
