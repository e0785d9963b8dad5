"""The tables of many runs as one: tidy rows, means over seeds, and a page that puts the runs side by side.

python -m advlib collect "_build/laptop/cifar10,seed=*" --out seeds.csv

What was given to a run stands in its executed notebook: the parameters' cell, and the cell that was put in below it.
"""

from __future__ import annotations

import ast
import csv
import glob
import html
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path

import nbformat
import pandas as pd

from ..bench import results
from ..bench.chapters import UsageError, did_you_mean, parse_parameters
from ..core.intervals import paired_mean
from ..files.paths import replacing
from . import run

CELL = ["chapter", "file", "source", "attack", "target", "eps_255", "metric"]
"""The columns that name a number, in every run."""
PREFIX = "p_"
"""What the columns of parameters begin with: a table has columns eps_255 and n of its own."""
STYLE = "body{font-family:sans-serif}td,th{padding:.2em .6em;border-bottom:1px solid #ccc;text-align:left}"


@dataclass(frozen=True)
class Source:
    """What one run of one chapter left. values: of all its parameters, as text."""

    folder: Path
    chapter: str
    values: dict[str, str]
    tables: list[Path]

    @property
    def shown(self) -> str:
        return Path(os.path.relpath(self.folder)).as_posix()


def collect(folders: Iterable[Path], out: Path, over: str | None = None, chapter: str | None = None) -> list[Path]:
    """Write the rows of all tables of these runs to `out`, a .csv, and beside it the page .html and, where the runs
    differ in the parameter `over`, means over it as .mean.csv; returns what was written.

    over: None takes seed where it differs; chapter: "02", its tables alone. Raises UsageError for a folder without a
    table or without parameters, for a table of other columns, and for two runs with the same parameters; DamagedError.
    """
    if out.suffix != ".csv":
        raise UsageError(f"--out {out}: expected a file that ends in .csv")
    found = [source for folder in dict.fromkeys(folders) for source in sources(folder, chapter)]
    names = differing(found)
    if over is not None and over not in names:
        raise UsageError(f"--over {over}: the runs do not differ in it{did_you_mean(over, names)}")
    over = over or ("seed" if "seed" in names else None)
    frame = rows(found, names)
    written = {out: frame.to_csv(index=False, lineterminator="\n"), out.with_suffix(".html"): page(found, names, frame)}
    mean = out.with_suffix(".mean.csv")
    if over:
        written[mean] = means(frame, over).to_csv(index=False, lineterminator="\n")
    else:
        mean.unlink(missing_ok=True)  # of other runs than those that now stand beside it
    for path, text in written.items():
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    return list(written)


def folders(patterns: Iterable[str]) -> list[Path]:
    """The folders that paths and patterns of a shell name, each once. Raises UsageError for one that names none."""
    found: list[Path] = []
    for pattern in patterns:
        named = [pattern] if Path(pattern).is_dir() else sorted(glob.glob(str(Path(pattern).expanduser())))
        if not (there := [Path(name).resolve() for name in named if Path(name).is_dir()]):
            raise UsageError(f"{pattern}: no such folder")
        found += there
    return list(dict.fromkeys(found))


def sources(folder: Path, chapter: str | None = None) -> list[Source]:
    """What each chapter, or this one, left in the folder of a run. Raises UsageError."""
    places: dict[str, list[Path]] = {}
    for path in sorted((folder / "tables").glob(f"{chapter or '*'}/*.csv")):
        if ".old" not in path.name:
            places.setdefault(path.parent.name, []).append(path)
    if not places:
        raise UsageError(f"{folder} holds no table" + (f" of chapter {chapter}" if chapter else ""))
    return [Source(folder, number, parameters(folder, number), tables) for number, tables in places.items()]


def parameters(folder: Path, chapter: str) -> dict[str, str]:
    """What a chapter's parameters were in the run of this folder, as its executed notebook says. Raises UsageError
    where there is no such notebook, or one that was not executed to its end."""
    found = [path for path in folder.glob(f"{chapter}_*.ipynb") if not path.name.endswith(".partial.ipynb")]
    if len(found) != 1:
        raise UsageError(
            f"{folder}: {len(found)} executed notebooks of chapter {chapter}, expected one, which says its parameters; "
            "the same run or sweep again finishes what is not finished"
        )
    if not run.complete(found[0]) or found[0].with_suffix(".partial.ipynb").exists():
        raise UsageError(f"{found[0]} is not finished: the same run or sweep again goes on with it")
    tagged = {
        tag: cell.source
        for cell in nbformat.read(found[0], as_version=4).cells
        for tag in cell.metadata.get("tags", [])
        if tag in ("parameters", "injected-parameters")
    }
    if "parameters" not in tagged:
        raise UsageError(f"{found[0]} has no cell tagged parameters: it is no chapter")
    values = {name: p.default for name, p in parse_parameters(tagged["parameters"], found[0].name).items()}
    for line in ast.parse(tagged.get("injected-parameters", "")).body:
        values[line.targets[0].id] = ast.literal_eval(line.value)
    return {name: _said(value) for name, value in values.items()}


def _said(value: object) -> str:
    """A value as it is typed after -p."""
    if isinstance(value, list):
        return ",".join(map(_said, value))
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def differing(found: Sequence[Source]) -> list[str]:
    """The parameters that are not the same in all runs of a chapter. Raises UsageError for two runs of a chapter that
    do not differ: one is the other's copy, and would be counted twice."""
    seen: dict[tuple[object, ...], Source] = {}
    for source in found:
        other = seen.setdefault((source.chapter, *sorted(source.values.items())), source)
        if other is not source:
            raise UsageError(f"{other.shown} and {source.shown}: chapter {source.chapter} with the same parameters")
    names = dict.fromkeys(name for source in found for name in source.values)
    values = {name: {(source.chapter, source.values.get(name)) for source in found} for name in names}
    numbers = {source.chapter for source in found}
    return [name for name in names if len(values[name]) > len(numbers)]


def rows(found: Iterable[Source], names: Sequence[str]) -> pd.DataFrame:
    """Every row of every table, with its run, chapter, file, and these parameters."""
    parts = []
    for source in found:
        about = {"run": source.shown, "chapter": source.chapter}
        given = {PREFIX + name: source.values.get(name, "") for name in names}
        for path in source.tables:
            table = _read(path)
            parts.append(pd.DataFrame(about | {"file": path.stem} | given, index=table.index).join(table))
    return pd.concat(parts, ignore_index=True)


def _read(path: Path) -> pd.DataFrame:
    """Raises UsageError for a table of other columns, DamagedError for one that is cut."""
    with path.open(encoding="utf-8", newline="") as file:
        header = next(csv.reader(file), [])
    if others := sorted(set(header) - set(results.COLUMNS)):
        raise UsageError(f"{path} is no table of results, it has columns {', '.join(others)}; see --chapter")
    return results.read(path)


def means(frame: pd.DataFrame, over: str) -> pd.DataFrame:
    """Means of `value` over the runs that differ in this parameter alone, with Student's interval of 95 %, which is
    empty for one run, and n_runs, their number; n is the smallest of theirs."""
    given = [name for name in frame if name.startswith(PREFIX) and name != PREFIX + over]
    found = []
    for key, part in frame.groupby([*CELL, *given, "scale", "dataset"], sort=False, dropna=False):
        mean, low, high = paired_mean(part.value.to_numpy())
        low, high = (low, high) if len(part) > 1 else (nan, nan)
        numbers = {"value": mean, "ci_low": low, "ci_high": high, "n": part.n.min(), "n_runs": len(part)}
        found.append(dict(zip([*CELL, *given, "scale", "dataset"], key, strict=True)) | numbers)
    return pd.DataFrame(found)


def page(found: Sequence[Source], names: Sequence[str], frame: pd.DataFrame) -> str:
    """A page of one table: a line for each number, a column for each run."""
    heads = _heads(found, names)
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    counts: dict[tuple[str, ...], set[int]] = {}
    for row in frame.to_dict("records"):
        key = tuple("" if pd.isna(row[name]) else _said(row[name]) for name in CELL)
        lines.setdefault(key, {})[heads[row["run"]]] = f"{row['value']:.1f}"
        counts.setdefault(key, set()).add(row["n"])
    n = {key: " to ".join(map(str, sorted({min(some), max(some)}))) for key, some in counts.items()}
    wide = pd.DataFrame([dict(zip(CELL, key, strict=True)) | {"n": n[key]} | cells for key, cells in lines.items()])
    table = wide[[*CELL, "n", *heads.values()]].fillna("").to_html(index=False, border=0)
    conditions = "; ".join(sorted({f"{s} scale, {d}" for s, d in zip(frame.scale, frame.dataset, strict=True)}))
    top = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Runs side by side</title><style>{STYLE}</style>'
    return f"{top}<h1>Runs side by side</h1><p>{html.escape(conditions)}</p>{table}</html>\n"


def _heads(found: Sequence[Source], names: Sequence[str]) -> dict[str, str]:
    """What tells each run from the others: the parameters that differ, or its folder where they do not tell."""
    heads: dict[str, str] = {}
    for source in found:
        said = ", ".join(f"{name}={source.values[name]}" for name in names if name in source.values)
        heads.setdefault(source.shown, said or source.shown)
    return heads if len(set(heads.values())) == len(heads) else {folder: folder for folder in heads}
