"""Published and measured numbers as tidy rows: read, write cell by cell, put side by side, with intervals.

One CSV for each table of the thesis, and beside it which image each cell fooled (`outcomes`). Success rates and their
intervals are in percent, `eps_255` is the budget in 1/255 of the pixel range, `passes` counts forward/backward passes
per image, `seconds` is wall time.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from math import nan
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..core import checks
from ..core.intervals import wilson
from ..core.published import file_name
from ..files import locks
from ..files.paths import RESULTS, made, replacing
from ..files.provenance import CODE, fingerprint, run_info
from . import differences
from . import outcomes as kept_outcomes
from .chapters import conditions
from .outcomes import DamagedError, Key, Outcomes

_TYPES = {
    "table": str,
    "source": str,
    "attack": str,
    "target": str,
    "eps_255": float,
    "metric": str,
    "value": float,
    "n": int,
    "ci_low": float,
    "ci_high": float,
    "passes": float,
    "seconds": float,
    "seed": int,
    "scale": str,
    "dataset": str,
    "torch": str,
    "device": str,
    "commit": str,
}
COLUMNS = tuple(_TYPES)
REQUIRED = ("source", "attack", "target", "eps_255", "metric", "value", "n")
OPTIONAL = ("ci_low", "ci_high", "passes", "seconds")


def result_path(table: str, scale: str, dataset: str) -> Path:
    """Where a measured table is committed: data/results/<scale>/<dataset>/table_2_1.csv. ValueError: unknown name."""
    conditions(scale, dataset)
    return RESULTS / scale / dataset / file_name(table)


def committed(table: str, scale: str, dataset: str, stem: str | None = None) -> pd.DataFrame | None:
    """Our committed rows of a table, or None where there are none; `differences.between` finds the outcomes of their
    images where those are committed too. stem: the file's name where it is not that table itself. Raises DamagedError
    when the file is damaged."""
    path = result_path(table, scale, dataset)
    path = path if stem is None else path.with_name(f"{stem}.csv")
    return with_outcomes(path) if path.is_file() else None


def with_outcomes(path: Path) -> pd.DataFrame:
    """The rows of a result file, by which `differences` finds the outcomes of their images. Raises DamagedError."""
    return _with_outcomes(read(path), path)


def outcomes(path: str | Path) -> Outcomes | None:
    """Which image was fooled by which cell of the table at `path`, a CSV; None where that was not kept. Raises
    DamagedError."""
    beside = kept_outcomes.beside(Path(path))
    return kept_outcomes.read(beside) if beside.is_file() else None


def _with_outcomes(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The rows of a file, which say where their images' outcomes lie."""
    beside = kept_outcomes.beside(path)
    if beside.is_file():
        frame.attrs[differences.ATTRIBUTE] = str(beside.absolute())
    return frame


class ResultTable:
    """A result file that grows by one cell of the table at a time, so that a killed run goes on where it was.

    `config` holds whatever changes the numbers (n, steps, sha256 of the weights, ...; JSON types). A fingerprint of it,
    table, scale, dataset, seed and the code of this package (`CODE`) lies beside the CSV in a .json, and which images
    each cell fooled in a .outcomes.npz, where `add` is told. A CSV with another fingerprint, or none, is not continued
    but moved to <name>.old.csv (then .old2.csv, ...), and the files beside it with it: `set_aside` is its new path;
    `expect` does the same for single attacks. `key` names the columns that make a cell.

    The CSV says which cells are done. The outcomes are written before it and the .json after it, so that a kill in
    between leaves outcomes of one cell too many, which are passed over, or a .json that is one cell behind.

    The file has one writer: it is locked for as long as the table is in use, and BusyError names the process that has
    it. Raises DamagedError on a damaged file, ValueError on an unknown name, TypeError on a `config` that is not JSON,
    WriteError.
    """

    def __init__(
        self,
        path: str | Path,
        table: str,
        scale: str,
        dataset: str,
        device: torch.device | str,
        seed: int,
        config: Mapping[str, object],
        key: Sequence[str] = ("source", "attack", "eps_255"),
    ) -> None:
        conditions(scale, dataset)
        checks.instance("path", path, str | Path, "a path")
        checks.instance("config", config, Mapping, "a mapping of JSON types")
        checks.text("table", table)
        checks.whole("seed", seed)
        if not key or not set(key) <= set(REQUIRED):
            raise ValueError(f"key must name columns among {REQUIRED}, not {tuple(key)}")
        run = {"table": table, "seed": seed, "scale": scale, "dataset": dataset, "code": CODE}
        self.path, self.sidecar, self.key = Path(path), Path(path).with_suffix(".json"), tuple(key)
        self.config = dict(config) | run
        self.info = {name: value for name, value in run.items() if name in COLUMNS} | run_info(device)
        self.fingerprint = fingerprint(self.config)
        self.set_aside: Path | None = None
        self._attacks: dict[str, str] = {}
        self._outcomes: Outcomes | None = None
        self._lock = locks.acquire(self.path)
        self._rows = self._open()

    @property
    def frame(self) -> pd.DataFrame:
        """All rows so far, in COLUMNS."""
        frame = pd.DataFrame(self._rows, columns=list(COLUMNS)).astype(_TYPES)
        return frame if self._outcomes is None else _with_outcomes(frame, self.path)

    @property
    def outcomes(self) -> Outcomes | None:
        """Which image was fooled by which cell so far; None where no cell has said it."""
        return self._outcomes

    def done(self, *cell: object) -> bool:
        """Whether the cell, given in the order of `key`, is there. Raises ValueError on another number of values."""
        wanted = [_TYPES[name](value) for name, value in zip(self.key, cell, strict=True)]
        return any([row[name] for name in self.key] == wanted for row in self._rows)

    def expect(self, attacks: Mapping[str, str]) -> None:
        """Say what names in the column `attack` stand for: name -> description. Where a name stood for something else,
        its rows are not continued: the file is set aside, and the rows of the other attacks go on in a new one."""
        changed = {name for name, what in attacks.items() if self._attacks.get(name, what) != what}
        kept = [row for row in self._rows if row["attack"] not in changed]
        if len(kept) < len(self._rows):
            self._move_aside()
            self._last = None
            self._store(kept, self._outcomes and self._outcomes.only(_cells(kept)))
        self._attacks |= attacks
        self._write_sidecar()

    def add(
        self, rows: Iterable[Mapping[str, object]], outcomes: Outcomes | None = None, device: str | None = None
    ) -> None:
        """Write the rows of one cell, all or none: REQUIRED columns, and OPTIONAL ones (NaN when left out). outcomes:
        which images they are about, of each target; None where the rows are not counts of images. device: the name of
        that which the cell ran on (`provenance.device_name`), None for the table's.

        Raises ValueError when a column is missing or unknown, when the rows are not of exactly one new cell, when they
        give a target's metric twice, or when outcomes are not those of the rows or of other images than the table's;
        ValueError or TypeError, which names the column, for a value that would not be read back as it is; RuntimeError
        when the file was opened again since. The file is then as it was.
        """
        new = [self._row(row) | ({} if device is None else {"device": device}) for row in rows]
        cells = {tuple(row[name] for name in self.key) for row in new}
        if len(cells) != 1 or self.done(*next(iter(cells))):
            raise ValueError(f"add takes the rows of one new cell {self.key}, not {sorted(cells)} ({self.path})")
        if len({tuple(row[name] for name in REQUIRED[:5]) for row in new}) != len(new):
            raise ValueError(f"a target's metric is given twice in {cells}")
        if outcomes is not None and not (set(outcomes.cells) == _cells(new) and all(map(outcomes.agree, new))):
            raise ValueError(f"outcomes: expected those of {sorted(_cells(new))}, with the same value and n")
        self._store(
            self._rows + new, self._outcomes if outcomes is None else kept_outcomes.joined(self._outcomes, outcomes)
        )
        self._write_sidecar()

    def _store(self, rows: list[dict[str, object]], outcomes: Outcomes | None) -> None:
        if self._seen() != self._last:
            raise RuntimeError(f"{self.path} was written since this table was opened: go on with the newest of the two")
        if outcomes is not None and outcomes is not self._outcomes:
            kept_outcomes.write(kept_outcomes.beside(self.path), outcomes)
        frame = pd.DataFrame(rows, columns=list(COLUMNS))
        with replacing(self.path) as partial:
            frame.to_csv(partial, index=False, lineterminator="\n")
        self._rows, self._last, self._outcomes = rows, self._seen(), outcomes

    def _seen(self) -> tuple[int, ...] | None:
        """What tells one state of the file from another: the lock keeps other processes off, not this one."""
        if not self.path.exists():
            return None
        facts = self.path.stat()
        return facts.st_ino, facts.st_mtime_ns, facts.st_size

    def _row(self, row: Mapping[str, object]) -> dict[str, object]:
        missing, unknown = set(REQUIRED) - set(row), set(row) - set(REQUIRED + OPTIONAL)
        if missing or unknown:
            raise ValueError(f"row lacks {sorted(missing)}, has unknown {sorted(unknown)}")
        for name in ("source", "attack", "target", "metric"):
            _name_of_row(name, row[name])
        checks.whole("n", row["n"], 1)
        checks.number("value", row["value"])
        full = dict.fromkeys(OPTIONAL, nan) | dict(row) | self.info
        return {name: kind(full[name]) for name, kind in _TYPES.items()}

    def _open(self) -> list[dict[str, object]]:
        made(self.path.parent)
        try:
            beside = json.loads(self.sidecar.read_text(encoding="utf-8")) if self.sidecar.exists() else {}
            same, rows_written = beside.get("fingerprint") == self.fingerprint, beside.get("rows", 0)
        except (ValueError, AttributeError) as error:
            raise DamagedError(f"{self.sidecar} is truncated or damaged ({error}); restore or delete it") from error
        if same:
            self._attacks = beside.get("attacks", {})
        else:
            self._move_aside()
        rows = read(self.path).to_dict("records") if self.path.exists() else []
        # The sidecar follows the CSV: it may lag by the cell a kill fell into, never be ahead.
        if same and len(rows) < rows_written:
            raise DamagedError(f"{self.path} is truncated: {len(rows)} rows of {rows_written}; restore or delete both")
        self._rows, self._last, self._outcomes = rows, self._seen(), self._opened_outcomes(rows)
        self._write_sidecar()
        return rows

    def _opened_outcomes(self, rows: list[dict[str, object]]) -> Outcomes | None:
        """Of the cells that have rows; a file that has none of those was left by a kill before the first row."""
        path, there = kept_outcomes.beside(self.path), outcomes(self.path)
        kept = there and there.only(_cells(rows))
        if there is not None and kept is None:
            path.unlink()
        for row in rows if kept else ():
            if kept_outcomes.key_of(row) in kept.cells and not kept.agree(row):
                raise DamagedError(f"{path} is not of the same run as {self.path}; restore or delete it")
        return kept

    def _write_sidecar(self) -> None:
        content = {
            "fingerprint": self.fingerprint,
            "rows": len(self._rows),
            "config": self.config,
            "attacks": self._attacks,
        }
        with replacing(self.sidecar) as partial:
            partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def _move_aside(self) -> None:
        if not self.path.exists():
            return
        names = (self.path.with_suffix(f".old{i if i > 1 else ''}.csv") for i in count(1))
        self.set_aside = next(name for name in names if not name.exists())
        beside = kept_outcomes.beside
        # The CSV goes last: without the .json it is set aside too, to the same name, if a kill falls in between.
        for path, aside in (
            (self.sidecar, self.set_aside.with_suffix(".json")),
            (beside(self.path), beside(self.set_aside)),
            (self.path, self.set_aside),
        ):
            if path.exists():
                os.replace(path, aside)


def _cells(rows: Iterable[Mapping[str, object]]) -> set[Key]:
    """(source, attack, target, eps_255) of every row."""
    return {kept_outcomes.key_of(row) for row in rows}


def _name_of_row(column: str, name: object) -> None:
    """A text on one line, which a CSV gives back as it is."""
    checks.text(column, name)
    if not name.isprintable():
        raise ValueError(f"{column}={checks.shown(name)}: expected a text on one line, without control characters")


def side_by_side(
    published: pd.DataFrame,
    measured: pd.DataFrame,
    on: Sequence[str] = ("source", "attack", "target"),
    rename: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Rows in both tables, in the thesis' order: `on`, paper, ours, difference (ours - paper), n, ci_low, ci_high.

    rename: our name -> the thesis' name of the same role, in every column of `on` of `measured`.
    Raises ValueError when a key occurs twice in one of the tables (choose a metric and an eps_255, or add to `on`).
    """
    on = list(on)
    _rows("published", published, *on, "value")
    _rows("measured", measured, *on, "value", "n", "ci_low", "ci_high")
    ours = measured[[*on, "value", "n", "ci_low", "ci_high"]].rename(columns={"value": "ours"})
    ours[on] = ours[on].map(lambda name: (rename or {}).get(name, name))
    paper = published[[*on, "value"]].rename(columns={"value": "paper"})
    for name, frame in (("published", paper), ("measured", ours)):
        if frame.duplicated(on).any():
            raise ValueError(f"{name} has keys twice: {frame.loc[frame.duplicated(on), on].to_dict('records')[:3]}")
    both = paper.merge(ours, on=on)
    both.insert(len(on) + 2, "difference", both["ours"] - both["paper"])
    return both


def images(frame: pd.DataFrame) -> str:
    """ "n = 40" where the rows are of as many images each, else "n = 40 to 62"."""
    low, high = frame["n"].min(), frame["n"].max()
    return f"n = {low}" if low == high else f"n = {low} to {high}"


def ensemble_name(members: Iterable[str]) -> str:
    """What the column `source` calls an ensemble: its members, so that the rows say which targets are white-box."""
    return "+".join(members)


def mark_white_box(frame: pd.DataFrame) -> pd.DataFrame:
    """Our rows with a column `white_box`: the target is the source, or a member of the source (`ensemble_name`)."""
    _rows("frame", frame, "source", "target", some=False)
    marks = [t in (s, *s.split("+")) for s, t in zip(frame["source"], frame["target"], strict=True)]
    return frame.assign(white_box=marks)


def layout(frame: pd.DataFrame) -> pd.DataFrame:
    """The thesis' layout of a table with `white_box`: (source, attack) by target, in percent, a star for white-box.

    Raises ValueError when a cell is given twice (choose a metric and an eps_255).
    """
    _rows("frame", frame, "source", "attack", "target", "value", "white_box")
    if frame.duplicated(["source", "attack", "target"]).any():
        raise ValueError("frame: a cell is given twice: choose a metric and an eps_255")
    cells = [f"{v:.1f}{'*' if w else ''}" for v, w in zip(frame["value"], frame["white_box"], strict=True)]
    names = {c: list(dict.fromkeys(frame[c])) for c in ("source", "attack", "target")}
    wide = frame.assign(cell=cells).pivot(index=["source", "attack"], columns="target", values="cell")
    rows = [(s, a) for s in names["source"] for a in names["attack"] if (s, a) in wide.index]
    return wide.loc[rows, names["target"]].rename_axis(columns=None)


def averages(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean success of each attack over the white-box and over the black-box pairs of a table with `white_box`.

    Columns: attack, role, value, n, ci_low, ci_high, pairs. n is the number of images, not of images times pairs:
    outcomes of one image on several targets depend on one another, and Wilson's interval at n images is wide enough
    whatever they do. Raises ValueError when a pair is given twice (choose a metric and an eps_255).
    """
    _rows("frame", frame, "source", "attack", "target", "value", "n", "white_box")
    if frame.duplicated(["source", "attack", "target"]).any():
        raise ValueError("a pair of source and target has two rows for one attack: choose a metric and an eps_255")
    rows = []
    for attack in dict.fromkeys(frame["attack"]):
        for role, wanted in (("white-box", True), ("black-box", False)):
            part = frame[(frame["attack"] == attack) & (frame["white_box"] == wanted)]
            if not part.empty:
                n, value = int(part["n"].min()), float(part["value"].mean())
                low, high = wilson(round(value / 100 * n), n)
                rows.append(
                    {
                        "attack": attack,
                        "role": role,
                        "value": value,
                        "n": n,
                        "ci_low": low,
                        "ci_high": high,
                        "pairs": len(part),
                    }
                )
    return pd.DataFrame(rows)


def over_common(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Rows of success over the images that count in all of them: where each target counts its own
    (`evaluation.COUNTED`), those that every network of the rows names rightly, the thesis' filter.

    frame: of metric COMMON, as `committed` returns it. Value, n and interval are new, all else is as it was. None where
    which images were fooled is not kept, or no image counts in all rows."""
    _rows("frame", frame, "source", "attack", "target", "eps_255", "metric")
    path = frame.attrs.get(differences.ATTRIBUTE)
    if path is None or set(frame["metric"]) != {kept_outcomes.COMMON}:
        return None
    kept = kept_outcomes.read(Path(path))
    cells = [kept.of(*kept_outcomes.key_of(row)) for row in frame.to_dict("records")]
    common = np.logical_and.reduce([cell.right for cell in cells])
    n = int(common.sum())
    if not n:
        return None
    counts = [int(cell.fooled[common].sum()) for cell in cells]
    low, high = zip(*(wilson(count, n) for count in counts), strict=True)
    return frame.assign(value=[100 * count / n for count in counts], n=n, ci_low=low, ci_high=high)


def black_box(frame: pd.DataFrame) -> pd.DataFrame:
    """The black-box half of `averages`, by attack: value, n, ci_low, ci_high, pairs."""
    mean = averages(frame)
    return mean[mean["role"] == "black-box"].drop(columns="role").set_index("attack")


def wins(
    frame: pd.DataFrame, better: str, worse: str, by: Sequence[str] = ("source", "target", "eps_255")
) -> dict[str, object]:
    """In how many cases (values of `by`) one attack's success rate is above another's, and in how many clearly so.

    Clear: as `differences.between` says. Returns better, worse, cases, wins, losses, clear_wins, clear_losses, and
    interval, by which they are clear: "paired", "Newcombe", or both where cases differ. Raises ValueError on an unknown
    attack or a case that is given twice.
    """
    _rows("frame", frame, "attack", *by, "value", "n")
    if unknown := {better, worse} - set(frame["attack"]):
        raise ValueError(f"no attack {sorted(unknown)}; there are {sorted(set(frame['attack']))}")
    by = list(by)
    if frame.duplicated(["attack", *by]).any():
        raise ValueError(f"an attack has two rows for one {by}")
    cases = [part for _, part in frame.groupby(by, sort=False, dropna=False) if {better, worse} <= set(part["attack"])]
    found = [differences.between(part, better, worse) for part in cases]
    return {
        "better": better,
        "worse": worse,
        "cases": len(found),
        "wins": sum(difference.points > 0 for difference in found),
        "losses": sum(difference.points < 0 for difference in found),
        "clear_wins": sum(difference.low > 0 for difference in found),
        "clear_losses": sum(difference.high < 0 for difference in found),
        "interval": differences.named(found),
    }


def nearest(budgets: Iterable[float], wanted: float) -> float:
    """Of some budgets the nearest to one; of two that are equally near the larger. ValueError: there is none."""
    found = sorted(budgets)
    if not found:
        raise ValueError("budgets: expected at least one")
    return min(reversed(found), key=lambda own: abs(own - wanted))


def _rows(name: str, frame: object, *columns: str, some: bool = True) -> None:
    """A table with these columns, with rows if it is to have `some`, and no `value` that is not finite. Raises
    TypeError or ValueError."""
    checks.instance(name, frame, pd.DataFrame, "a DataFrame")
    if missing := [column for column in columns if column not in frame]:
        raise ValueError(f"{name}: expected columns {', '.join(columns)}; it lacks {', '.join(missing)}")
    if some and frame.empty:
        raise ValueError(f"{name}: expected at least one row")
    if "value" in columns and not np.isfinite(frame["value"].to_numpy(float)).all():
        raise ValueError(f"{name}: a value is not finite")


def read(path: Path) -> pd.DataFrame:
    """The rows of a result file, in COLUMNS. Raises DamagedError. Not by pandas, which pads short rows, guesses types
    and takes "None" for missing."""

    def parse(kind: type, field: str) -> object:
        return nan if kind is float and not field else kind(field)

    try:
        text = path.read_text(encoding="utf-8")
        header, *lines = csv.reader(io.StringIO(text), strict=True)
        if tuple(header) != COLUMNS or not text.endswith("\n"):
            raise ValueError("the header or the last row is incomplete")
        rows = [[parse(kind, field) for kind, field in zip(_TYPES.values(), line, strict=True)] for line in lines]
        return pd.DataFrame(rows, columns=list(COLUMNS)).astype(_TYPES)
    except (ValueError, csv.Error) as error:
        raise DamagedError(f"{path} is truncated or damaged ({error}); restore or delete it") from error
