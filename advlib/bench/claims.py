"""The thesis' numbers beside ours, one row for each attack, optimizer or network of a table, and whether they agree.

What the README's glance and the book's page of results have in common.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pandas as pd

from ..core import intervals, published
from ..core.published import DEFENDED, NINE, TRAINED, UNDEFENDED, kind
from . import differences, results
from .differences import Difference
from .outcomes import COMMON

# What a table is about, and the data set of the thesis' numbers.
ATTACKS = {
    "2.1": ("one source", "ImageNet"),
    "2.2": ("one source", "ImageNet"),
    "2.3": ("ensemble source", "ImageNet"),
    "2.4": ("ensemble source", "ImageNet"),
    "2.5": ("nine defences", "ImageNet"),
    "3.1": ("one source", "ImageNet"),
    "3.2": ("one source", "ImageNet"),
    "3.3": ("six secured", "ImageNet"),
    "4.1": ("transformed surrogates", "CIFAR-10"),
    "4.2": ("beside other attacks", "ImageNet"),
    "4.3": ("other attacks on top", "CIFAR-10"),
    "4.4": ("six secured", "ImageNet"),
}
SUCCESS = {kind: f"success on {kind} targets (%)" for kind in (UNDEFENDED, TRAINED, DEFENDED)}
"""The metric of a row: the mean over the black-box targets of a kind."""
CONSTANTS, TRAINING, GEOMETRY, RECIPES = "4.5", "5.2", "5.5", ("5.1", "5.3")
OPEN, SAME, MIXED, REVERSED = "open", "as printed", "mixed", "reversed"
"""Values of the column `order`."""


def compare(table: str, scale: str, dataset: str) -> pd.DataFrame | None:
    """Our committed rows of a table of the thesis beside the print; None where nothing of it is committed.

    Columns: name (attack, optimizer or network), metric, setting (of the printed number), paper (NaN where the print
    has no target of the kind that the metric names), eps_255 (of ours), ours, ci_low, ci_high, difference, n, order,
    judged. The interval is that of the table: Wilson's at n images for success rates, Student's over the seeds for
    training (n is then the number of test images). order: of all the pairs with this row in the same metric and budget
    whose difference is clear, whether the print has the same sign: "as printed", "reversed", "mixed", or "open" where
    there is none. judged: which intervals say what is clear (`differences`). Raises DamagedError for a damaged file.
    """
    rows = _judged(table, scale, dataset)
    if rows is None:
        return None
    if table in ATTACKS:
        found = _attacks(table, rows)
    else:
        found = _constants(rows) if table == CONSTANTS else _training(table, rows)
    found["difference"] = found.ours - found.paper
    groups = found.groupby(["metric", "eps_255"], sort=False, dropna=False)
    parts = [_ordered(part, _behind(rows, *of)) for of, part in groups]
    return pd.concat(parts, ignore_index=True)


def measured(table: str, scale: str, dataset: str) -> bool:
    """Whether `compare` has rows."""
    return _judged(table, scale, dataset) is not None


def between(
    table: str, scale: str, dataset: str, metric: str, eps_255: float, better: str, worse: str
) -> Difference | None:
    """How far one of two rows of `compare`, of the same metric and budget, is above the other, and whether clearly;
    None where nothing of the table is committed. eps_255 is NaN in a table without budgets."""
    rows = _judged(table, scale, dataset)
    return None if rows is None else differences.between(_behind(rows, metric, eps_255), better, worse)


def gains(rows: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Black-box success of each attack, the mean over the targets of a kind, and how far it is above `baseline`.

    rows: of one table with `white_box`. Columns: attack, kind (of the targets), eps_255, value, n (of the target that
    counts the fewest images), images (of all targets, in words), passes, points, low, high (the interval of 95 %),
    interval (which one), clear; 0 and "" in the rows of the baseline itself. Raises ValueError where there is no such
    attack."""
    cases, found = rows[~rows.white_box & (rows.metric == COMMON)], []
    for (eps, of), part in cases.groupby(["eps_255", cases.target.map(kind)], sort=False):
        images = results.images(part)
        for attack, own in part.groupby("attack", sort=False):
            itself = Difference(0.0, 0.0, 0.0, "")
            difference = itself if attack == baseline else differences.between(part, attack, baseline)
            row = {"attack": attack, "kind": of, "eps_255": eps, "value": own.value.mean(), "n": own.n.min()}
            row["images"] = images
            found.append(row | {"passes": own.passes.mean(), **difference._asdict(), "clear": difference.clear})
    return pd.DataFrame(found)


def ahead(rows: pd.DataFrame, better: str, worse: str) -> Difference | None:
    """How far one attack of a table with `white_box`, ours or printed, is above another, in the mean over the black-box
    targets; None where the table lacks one of the two. Raises ValueError for rows at several budgets."""
    rows = rows[~rows.white_box & (rows.target != published.AVERAGE)]
    if "metric" in rows:
        rows = rows[rows.metric == COMMON]
    if rows.eps_255.nunique() > 1:
        raise ValueError(f"rows: expected one budget, got {sorted(set(rows.eps_255))}")
    if not {better, worse} <= set(rows.attack):
        return None
    return differences.between(rows, better, worse)


def order(rows: pd.DataFrame, difference: Callable[[str, str], Difference]) -> list[str]:
    """For each row, with name and paper, how its clear differences to the others compare with the print; "" where the
    print has no such row. difference: of two of the names, the first less the second."""
    said = {row.name: set() for row in rows.itertuples()}
    printed = rows[rows.paper.notna()]
    for a, b in combinations(printed.itertuples(), 2):
        found = difference(a.name, b.name)
        if found.clear and a.paper != b.paper:
            same = (found.points > 0) == (a.paper > b.paper)
            said[a.name].add(same)
            said[b.name].add(same)
    verdicts = {frozenset(): OPEN, frozenset({True}): SAME, frozenset({False}): REVERSED}
    return ["" if pd.isna(row.paper) else verdicts.get(frozenset(said[row.name]), MIXED) for row in rows.itertuples()]


def _ordered(part: pd.DataFrame, behind: pd.DataFrame) -> pd.DataFrame:
    """Rows of one metric and budget with their order, and which intervals it is from. behind: the rows they are of."""
    found: list[Difference] = []

    def difference(a: str, b: str) -> Difference:
        found.append(differences.between(behind, a, b))
        return found[-1]

    return part.assign(order=order(part, difference), judged=differences.named(found))


def _judged(table: str, scale: str, dataset: str) -> pd.DataFrame | None:
    """The committed rows that are compared with a table of the thesis; None where there are none."""
    rows = results.committed(TRAINING if table == GEOMETRY else table, scale, dataset)
    if rows is None or table not in (*ATTACKS, CONSTANTS, TRAINING, GEOMETRY):
        return None
    if table in ATTACKS:
        rows = of_the_thesis(table, rows)
        rows = rows[~rows.white_box]
    return None if rows.empty else rows


def _behind(rows: pd.DataFrame, metric: str, eps_255: float) -> pd.DataFrame:
    """Those of our rows that the rows of `compare` in one metric and budget are means of."""
    rows = rows[rows.eps_255.isna() if pd.isna(eps_255) else rows.eps_255 == eps_255]
    for of, name in SUCCESS.items():
        if metric == name:
            return rows[rows.target.map(kind) == of]
    return rows[rows.metric == {**_SHOWN, _LIPSCHITZ: "local_lipschitz"}[metric]]


def of_the_thesis(table: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Our rows of an attacks' table without what the thesis' table does not have, marked `white_box`."""
    kept = (rows.metric == COMMON) & rows.attack.isin(published.table(table).attack)
    if table == "2.5":
        kept &= rows.target.isin(NINE)
    return results.mark_white_box(rows[kept])


def _attacks(table: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Means over the black-box targets of each kind, each of our budgets beside the nearest that is printed
    (`results.nearest`). rows: of `of_the_thesis`, without white-box targets."""
    printed = published.table(table)
    printed = printed[~printed.white_box & (printed.target != published.AVERAGE)]
    parts = []
    for (eps, of), part in rows.groupby(["eps_255", rows.target.map(kind)]):
        nearest = results.nearest(set(printed.eps_255), eps)
        same = printed[(printed.eps_255 == nearest) & (printed.target.map(kind) == of)]
        ours = results.black_box(part).rename(columns={"value": "ours"}).drop(columns="pairs")
        paper = results.black_box(same).value if len(same) else pd.Series(dtype=float)
        both = ours.assign(paper=paper).rename_axis("name").reset_index()
        setting = f"{ATTACKS[table][1]}, {nearest:g}/255" if len(same) else "not in print"
        parts.append(both.assign(metric=SUCCESS[of], eps_255=eps, setting=setting))
    return pd.concat(parts, ignore_index=True)


def _constants(rows: pd.DataFrame) -> pd.DataFrame:
    """Local Lipschitz constants beside those of the thesis' DenseNet, which has no radius in print."""
    printed = published.table(CONSTANTS)
    printed = printed[printed.target == "DenseNet100"].set_index("attack").value.rename("paper")
    ours = rows[["attack", "eps_255", "value", "ci_low", "ci_high", "n"]].rename(columns={"value": "ours"})
    both = ours.join(printed, on="attack", how="inner").rename(columns={"attack": "name"})
    return both.assign(metric=_LIPSCHITZ, setting="CIFAR-10, DenseNet, no radius said")


_LIPSCHITZ = "local Lipschitz constant"
_METRICS = {
    TRAINING: {"accuracy": "test accuracy (%)"},
    GEOMETRY: {
        "gradient_norm": "gradient norm",
        "trace": "Hessian trace",
        "normalized_trace": "C(w)",
        "accuracy": "test accuracy (%)",
    },
}


_SHOWN = {shown: column for names in _METRICS.values() for column, shown in names.items()}
"""What a metric of `compare` is called in our tables of training."""


def _training(table: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds beside the thesis' ResNet-18 with basic augmentation."""
    printed = published.table(table)
    dataset = "CIFAR-10" if table == TRAINING else "CIFAR-100"
    wanted = (printed.model == "ResNet-18") & (printed.dataset == dataset)
    if table == TRAINING:
        wanted &= printed.augmentation == "Basic"
    found = []
    for (name, metric), of in rows.groupby(["attack", "metric"], sort=False):
        paper = printed[wanted & (printed.optimizer == name) & (printed.metric == metric)].value
        if metric in _METRICS[table] and len(paper):
            mean, low, high = intervals.paired_mean(of.value.to_numpy())
            seen = {"ours": mean, "ci_low": low, "ci_high": high, "n": int(of.n.min()), "paper": paper.item()}
            found.append({"name": name, "metric": _METRICS[table][metric], "eps_255": float("nan"), **seen})
    return pd.DataFrame(found).assign(setting=f"{dataset}, ResNet-18, three seeds")
