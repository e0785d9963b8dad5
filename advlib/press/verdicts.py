"""What holds of the thesis and what does not: each ordering that its tables print, and what committed rows say of it,
as Markdown for the book's page of that name.

`python -m advlib glance` writes the part between the marks anew; nobody edits it by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..bench import claims
from ..bench.claims import CONSTANTS, GEOMETRY, SUCCESS, TRAINING
from ..bench.differences import Difference, signed
from ..core.published import UNDEFENDED
from ..files.paths import ROOT, replacing
from .markdown import between_marks, table_line
from .readme import SAID, SCALE

BEGIN, END = "<!-- what holds: python -m advlib glance -->", "<!-- end -->"
PAGE = ROOT / "book" / "what_holds.md"
HOLDS, NOT, OPEN = "**holds**", "**does not**", "open"

_LRS = ("LRS-1", "LRS-2", "LRS-F")
_OTHERS = ("TIM", "SIM", "LinBP", "Admix", "TAIG", "ILA++")
ORDERINGS = {
    "2.1": [("EM-FGSM", "MI-FGSM"), ("EM-FGSM", "NI-FGSM"), ("NI-FGSM", "MI-FGSM")],
    "2.2": [("RE", "DIM"), ("RE", "TIM"), ("RE", "SIM")],
    "2.3": [("EM-FGSM", "MI-FGSM"), ("EM-FGSM", "NI-FGSM")],
    "2.4": [(f"EM-RE-{base}", base) for base in ("DIM", "TIM", "SIM", "Composite")],
    "2.5": [("EM-RE-Composite", "MI-Composite"), ("EM-RE-Composite", "NI-Composite")],
    "3.1": [(f"{base}+GNP", base) for base in ("I-FGSM", "MI-FGSM")],
    "3.2": [(f"{base}+GNP", base) for base in ("DIM", "TIM")],
    "3.3": [("DIM+TIM+GNP", "DIM+TIM")],
    "4.1": [("PGD+LRS-1", "PGD"), ("PGD+LRS-2", "PGD+LRS-1"), ("PGD+LRS-F", "PGD+LRS-2")],
    "4.2": [("PGD+LRS-1", "PGD"), *(("PGD+LRS-F", other) for other in ("PGD", *_OTHERS))],
    "4.3": [(f"{base}+LRS-F", base) for base in ("TIM", "Admix", "TAIG")],
    "4.4": [(f"{base}+{lrs}", base) for base in ("PGD", "TIM") for lrs in _LRS],
    CONSTANTS: [("original", lrs) for lrs in _LRS],
    TRAINING: [("SAM", "SGD"), ("CR-SAM", "SAM")],
    GEOMETRY: [("SGD", "SAM"), ("SAM", "CR-SAM")],
}
"""By table of the thesis, which of two rows has the larger number in print: success, the local Lipschitz constant, test
accuracy (Table 5.2), or the Hessian trace (Table 5.5)."""
_METRICS = {CONSTANTS: "local Lipschitz constant", TRAINING: "test accuracy (%)", GEOMETRY: "Hessian trace"}
_PLACES = ("imagenet", "cifar10")
"""The data sets whose committed rows are asked, the thesis' own first."""
_BUDGETS = {("imagenet", kind): (16.0,) for kind in SUCCESS} | {("cifar10", kind): (8.0, 16.0) for kind in SUCCESS}
_BUDGETS["cifar10", UNDEFENDED] = (4.0, 8.0)
"""In 1/255. At 16/255 undefended networks of 32 pixels are fooled by everything."""


class Verdict(NamedTuple):
    """What a committed run says of an ordering: on which data, at which budget (NaN for none), in which metric, how far
    the first is above the second in print (NaN where that has no target of the kind) and here, and n, the images of
    the target that counts the fewest (or of the test set)."""

    table: str
    better: str
    worse: str
    metric: str
    dataset: str
    eps_255: float
    printed: float
    difference: Difference
    n: int

    @property
    def word(self) -> str:
        """HOLDS or NOT where the interval of 95 % leaves out 0, or else OPEN."""
        if not self.difference.clear:
            return OPEN
        return HOLDS if self.difference.points > 0 else NOT


def verdicts() -> list[Verdict]:
    """All that the committed rows of laptop scale can say, in the order of `ORDERINGS`."""
    return [found for table in ORDERINGS for dataset in _PLACES for found in _of(table, dataset)]


def _of(table: str, dataset: str) -> list[Verdict]:
    rows, found = claims.compare(table, SCALE, dataset), []
    if rows is None:
        return found
    for better, worse in ORDERINGS[table]:
        both = rows[rows["name"] == better].merge(rows[rows["name"] == worse], on=["metric", "eps_255"])
        for pair in both.itertuples():
            if _asked(table, dataset, pair.metric, pair.eps_255):
                at = pair.metric, pair.eps_255
                difference = claims.between(table, SCALE, dataset, *at, better, worse)
                found.append(
                    Verdict(
                        table,
                        better,
                        worse,
                        pair.metric,
                        dataset,
                        pair.eps_255,
                        pair.paper_x - pair.paper_y,
                        difference,
                        pair.n_x,
                    )
                )
    return found


def _asked(table: str, dataset: str, metric: str, eps_255: float) -> bool:
    """Whether the page shows a metric of a table at a budget."""
    if table in _METRICS:
        return metric == _METRICS[table] and (pd.isna(eps_255) or eps_255 == 8)
    kind = next(kind for kind, name in SUCCESS.items() if name == metric)
    return eps_255 in _BUDGETS[dataset, kind]


def markdown() -> str:
    """A table for each kind of target and one for what is not success, each with how many orderings hold."""
    found = verdicts()
    groups = {f"Success on {kind} targets": [v for v in found if v.metric == SUCCESS[kind]] for kind in SUCCESS}
    groups["Networks"] = [v for v in found if v.table in _METRICS]
    return "\n\n".join(_table(title, rows) for title, rows in groups.items() if rows)


def _table(title: str, found: list[Verdict]) -> str:
    places = list(dict.fromkeys(_place(v) for v in sorted(found, key=lambda v: (_PLACES.index(v.dataset), v.eps_255))))
    rows: dict[tuple[str, str], dict[str, Verdict]] = {}
    for v in found:
        of = f"{v.table}, {v.metric.removesuffix(' (%)')}" if v.table in _METRICS else v.table
        rows.setdefault((of, f"{v.better} > {v.worse}"), {})[_place(v)] = v
    lines = [
        table_line(("table", "in print", "by", *places)),
        table_line([":--", ":--", "--:", *[":--"] * len(places)]),
    ]
    for (table, what), at in rows.items():
        first = next(iter(at.values()))
        printed = "" if pd.isna(first.printed) else signed(first.printed)
        lines.append(table_line([table, what, printed, *(_cell(at.get(place)) for place in places)]))
    counts = "; ".join(f"{place}: {_counted([v for v in found if _place(v) == place])}" for place in places)
    return f"## {title}\n\n" + "\n".join(lines) + f"\n\n*{counts}.*"


def _place(v: Verdict) -> str:
    return SAID[v.dataset] + ("" if pd.isna(v.eps_255) else f", {v.eps_255:g}/255")


def _cell(v: Verdict | None) -> str:
    if v is None:
        return ""
    points, low, high = map(signed, v.difference[:3])
    return f"{v.word}: {points} [{low}, {high}], n = {v.n:,}"


def _counted(found: list[Verdict]) -> str:
    words = [v.word for v in found]
    return f"{words.count(HOLDS)} hold, {words.count(NOT)} do not, {words.count(OPEN)} open"


def refreshed(text: str) -> str:
    """`text` with the part between the two marks written anew. ValueError if a mark is missing."""
    return between_marks(text, BEGIN, END, markdown(), PAGE.name)


def write(page: Path = PAGE) -> Path:
    """Write the part anew and return the file."""
    text = refreshed(page.read_text(encoding="utf-8"))
    with replacing(page) as partial:
        partial.write_text(text, encoding="utf-8")
    return page
