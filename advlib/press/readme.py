"""The README's results at a glance: what the thesis says of its methods beside what we found on real data, as Markdown.

The README has one row for each method of the thesis, the site's page of results one for each of its claims. `make
figures` keeps a finished run and then writes this part of the README anew; nobody edits it by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..bench import claims, differences, results
from ..bench.differences import signed
from ..files.paths import ROOT, replacing
from .markdown import between_marks, enumerated, table_line

BEGIN, END = "<!-- results at a glance: python -m advlib glance -->", "<!-- end -->"
SCALE = "laptop"
BUDGETS = {"cifar10": 8.0, "imagenet": 16.0}
"""In 1/255, of the tables of each data set."""
DATASET = "cifar10"
"""Of the tables that have no rows on ImageNet."""
SAID = {"cifar10": "CIFAR-10", "imagenet": "ImageNet"}

# By table: the metric, a method of the thesis, and what it is compared with, the best other one in print or its base.
_UNDEFENDED, _TRAINED, _DEFENDED = claims.SUCCESS.values()
CLAIMS = {
    "2.1": [(_UNDEFENDED, "EM-FGSM", "MI-FGSM"), (_TRAINED, "EM-FGSM", "MI-FGSM")],
    "2.2": [(_UNDEFENDED, "RE", "SIM"), (_TRAINED, "RE", "SIM")],
    "2.3": [(_TRAINED, "EM-FGSM", "MI-FGSM")],
    "2.4": [(_TRAINED, "EM-RE-Composite", "Composite")],
    "2.5": [(_DEFENDED, "EM-RE-Composite", "MI-Composite")],
    "3.1": [(_UNDEFENDED, f"{base}+GNP", base) for base in ("MI-FGSM", "I-FGSM")],
    "3.2": [(_UNDEFENDED, "DIM+GNP", "DIM")],
    "3.3": [(kind, "DIM+TIM+GNP", "DIM+TIM") for kind in (_TRAINED, _DEFENDED)],
    "4.1": [(_UNDEFENDED, "PGD+LRS-F", "PGD")],
    "4.2": [(_UNDEFENDED, "PGD+LRS-F", "ILA++")],
    "4.3": [(_UNDEFENDED, "Admix+LRS-F", "Admix")],
    "4.4": [(kind, "PGD+LRS-F", "PGD") for kind in (_TRAINED, _DEFENDED)],
    "4.5": [("local Lipschitz constant", "LRS-F", "original")],
    "5.2": [("test accuracy (%)", "CR-SAM", "SAM"), ("test accuracy (%)", "CR-SAM", "SGD")],
    "5.5": [("Hessian trace", "CR-SAM", "SAM"), ("Hessian trace", "CR-SAM", "SGD")],
}
GLANCE = ("2.1", "2.2", "3.1", "4.1", "5.2", "5.5")
"""The tables in which the thesis shows EM, RE, GNP, LRS and CR-SAM for the first time, and the last one's curvature;
the README has the first claim of each."""
TITLES = ("table", "metric", "from → to", "thesis", "its setting", "ours", "our setting", "difference, 95 %", "n")


def markdown(whole: bool = False) -> str:
    """One row for each claim of `CLAIMS` that a committed run has measured on targets of the kind that the thesis has,
    or, for the README, for those of `GLANCE` alone."""
    tables, most = (CLAIMS, None) if whole else (GLANCE, 1)
    of = {table: _rows(table)[:most] for table in tables}
    found = [row for rows in of.values() for row in rows]
    if not found:
        return f"*No {DATASET} run that compares with the thesis is committed yet.*"
    note = (
        f"*Ours: {SCALE} scale, small networks: not comparable with the thesis' setting. Success rates are means over "
        "the black-box targets of one kind, in the thesis and here, of attacks of 10 steps, for n images that all "
        f"networks get right.{_photographs(found)} "
        f"{_intervals(found)}{_other_kinds(of) if whole else ''}{_training()}{'' if whole else _MORE}*"
    )
    rule = [":--", ":--", ":--", "--:", ":--", "--:", ":--", "--:", "--:"]
    return "\n".join([table_line(TITLES), table_line(rule), *(row.line for row in found)]) + "\n\n" + note


_MORE = " All claims, attacks, budgets and data sets are on the book's page of results (`make book`)."


def dataset_of(table: str) -> str:
    """The data set of our rows that stand beside a table of the thesis: ImageNet where that is the thesis' own and such
    rows are committed."""
    theirs = claims.ATTACKS.get(table, ("", ""))[1]
    own = theirs == "ImageNet" and claims.measured(table, SCALE, "imagenet")
    return "imagenet" if own else DATASET


def _photographs(found: list[_Row]) -> str:
    """What is behind the rows on ImageNet; "" where there are none."""
    if not any(dataset_of(row.table) == "imagenet" for row in found):
        return ""
    return (
        " ImageNet: the ImageNet-compatible photographs, where each target counts those that it and the source get "
        "right, and n is that of the target with the fewest."
    )


def _intervals(found: list[_Row]) -> str:
    """Which interval the differences of each table have."""
    said = []
    for kind, meaning in differences.MEANING.items():
        if tables := list(dict.fromkeys(row.table for row in found if row.interval == kind)):
            said.append(
                f"{'in' if said else 'in Tables' if len(tables) > 1 else 'in Table'} {enumerated(tables)} {meaning}"
            )
    return f"Intervals of differences: {'; '.join(said)}."


def _other_kinds(of: Mapping[str, list[_Row]]) -> str:
    """Which committed tables have no row, since print and ours have no kind of target in common; "" for none. of: the
    rows of each table."""
    tables = [t for t, rows in of.items() if not rows and results.committed(t, SCALE, dataset_of(t)) is not None]
    if not tables:
        return ""
    what = "Table" if len(tables) == 1 else "Tables"
    return f" {what} {enumerated(tables)}: no row, for want of targets of the kind that the thesis has there."


def _training() -> str:
    """What the networks of chapter 5 were trained on; "" where none is committed."""
    rows = results.committed(claims.TRAINING, SCALE, DATASET)
    if rows is None:
        return ""
    conditions = rows.source.iloc[0].partition(", ")[2]  # a source is "seed 0, 10000 images, 12 epochs"
    return f" Chapter 5: means of {rows.source.nunique()} seeds of a ResNet-8, {conditions}; n images a seed."


class _Row(NamedTuple):
    """A line of the README, the table it is of, and the kind of its interval."""

    table: str
    line: str
    interval: str


def _rows(table: str) -> list[_Row]:
    """The claims of a table that a committed run has, at the budget nearest to ours."""
    dataset = dataset_of(table)
    rows = claims.compare(table, SCALE, dataset)
    if rows is None:
        return []
    rows = rows[rows.paper.notna()]
    found = []
    for metric, method, other in CLAIMS[table]:
        of = rows[rows.metric == metric]
        pair = _nearest(of[of["name"] == method], of[of["name"] == other], BUDGETS[dataset])
        if pair is not None:
            found.append(_row(table, dataset, *pair))
    return found


def _nearest(method: pd.DataFrame, other: pd.DataFrame, budget: float) -> tuple[pd.Series, pd.Series] | None:
    """The two rows of the budget nearest to ours (`results.nearest`) of those that both have; None where they have none
    in common. Rows of no budget, NaN, count as of ours."""
    both = method.fillna({"eps_255": budget}), other.fillna({"eps_255": budget})
    shared = set(both[0].eps_255) & set(both[1].eps_255)
    if not shared:
        return None
    at = results.nearest(shared, budget)
    found = [
        rows.loc[filled.index[filled.eps_255 == at][0]] for rows, filled in zip((method, other), both, strict=True)
    ]
    return found[0], found[1]


def _row(table: str, dataset: str, method: pd.Series, other: pd.Series) -> _Row:
    at = "" if pd.isna(method.eps_255) else f", {method.eps_255:g}/255"
    names = method["name"], other["name"]
    difference = claims.between(table, SCALE, dataset, method.metric, method.eps_255, *names)
    text = table_line(
        [
            f"{table}{_about(table)}",
            method.metric,
            f"{other['name']} → {method['name']}",
            f"{_number(other.paper)} → {_number(method.paper)}",
            method.setting,
            f"{_number(other.ours)} → {_number(method.ours)}",
            f"{SAID[dataset]}{at}",
            "{} [{}, {}]".format(*map(signed, difference[:3])),
            f"{int(method.n):,}",
        ]
    )
    return _Row(table, text, difference.interval)


def _about(table: str) -> str:
    return f", {claims.ATTACKS[table][0]}" if table in claims.ATTACKS else ""


def _number(value: float) -> str:
    """One digit after the point, more where the number is small, none where it is large."""
    return f"{value:.3g}" if abs(value) < 10 else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}"


def refreshed(text: str) -> str:
    """`text` with the part between the two marks written anew. ValueError if a mark is missing."""
    return between_marks(text, BEGIN, END, markdown(), "README.md")


def write(readme: Path = ROOT / "README.md") -> Path:
    """Write the part anew and return the file."""
    text = refreshed(readme.read_text(encoding="utf-8"))
    with replacing(readme) as partial:
        partial.write_text(text, encoding="utf-8")
    return readme
