"""The thesis' numbers beside ours, one row for each attack, optimizer or network of a table, and whether they agree.

What the README's glance and the book's page of results have in common.
"""

from __future__ import annotations

import re

import pandas as pd

from ..core import intervals, published
from ..defenses.secured import NINE
from . import results
from .evaluation import COMMON

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
UNDEFENDED, TRAINED, DEFENDED = "undefended", "adversarially trained", "defended"
"""Kinds of target. A mean is over one of them: an attack that fools the first may leave the others untouched."""
SUCCESS = {kind: f"success on {kind} targets (%)" for kind in (UNDEFENDED, TRAINED, DEFENDED)}
"""The metric of a row: the mean over the black-box targets of a kind."""
CONSTANTS, TRAINING, GEOMETRY, RECIPES = "4.5", "5.2", "5.5", ("5.1", "5.3")
OPEN, SAME, MIXED, REVERSED = "open", "as printed", "mixed", "reversed"
"""Values of the column `order`."""


def compare(table: str, scale: str, dataset: str) -> pd.DataFrame | None:
    """Our committed rows of a table of the thesis beside the print; None where nothing of it is committed.

    Columns: name (attack, optimizer or network), metric, setting (of the printed number), paper (NaN where the print
    has no target of the kind that the metric names), eps_255 (of ours), ours, ci_low, ci_high, difference, n, order.
    The interval is that of the table: Wilson's at n images for success rates, Student's over the seeds for training (n
    is then the number of test images). order: of all the pairs with this row in the same metric and budget whose
    intervals of 95 % leave each other out, whether the print has the same sign: "as printed", "reversed", "mixed", or
    "open" where there is none. Raises DamagedError for a damaged file.
    """
    rows = results.committed(TRAINING if table == GEOMETRY else table, scale, dataset)
    if rows is None:
        return None
    if table in ATTACKS:
        rows = of_the_thesis(table, rows)
        rows = rows[~rows.white_box]
        if rows.empty:
            return None
        found = _attacks(table, rows)
    elif table == CONSTANTS:
        found = _constants(rows)
    elif table in (TRAINING, GEOMETRY):
        found = _training(table, rows)
    else:
        return None
    found["difference"] = found.ours - found.paper
    groups = found.groupby(["metric", "eps_255"], sort=False, dropna=False)
    return pd.concat([part.assign(order=order(part)) for _, part in groups], ignore_index=True)


def order(rows: pd.DataFrame) -> list[str]:
    """For each row, with paper, ci_low and ci_high, how its clear differences to the others compare with the print; ""
    where the print has no such row."""
    said = []
    for i in rows.itertuples():
        if pd.isna(i.paper):
            said.append("")
            continue
        above, below = rows[rows.ci_high < i.ci_low], rows[rows.ci_low > i.ci_high]
        same = (above.paper < i.paper).sum() + (below.paper > i.paper).sum()
        turned = (above.paper > i.paper).sum() + (below.paper < i.paper).sum()
        said.append(MIXED if same and turned else SAME if same else REVERSED if turned else OPEN)
    return said


def of_the_thesis(table: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Our rows of an attacks' table without what the thesis' table does not have, marked `white_box`."""
    kept = (rows.metric == COMMON) & rows.attack.isin(published.table(table).attack)
    if table == "2.5":
        kept &= rows.target.isin(NINE)
    return results.mark_white_box(rows[kept])


def kind(target: str) -> str:
    """What sort of target a name of the thesis' tables or of ours stands for."""
    if target in NINE:
        return DEFENDED
    return TRAINED if re.search(r"ens\d$|adv$|-pgd$", target) else UNDEFENDED


def _attacks(table: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Means over the black-box targets of each kind, each of our budgets beside the nearest that is printed. rows: of
    `of_the_thesis`, without white-box targets."""
    printed = published.table(table)
    printed = printed[~printed.white_box & (printed.target != published.AVERAGE)]
    parts = []
    for (eps, of), part in rows.groupby(["eps_255", rows.target.map(kind)]):
        nearest = min(sorted(set(printed.eps_255), reverse=True), key=lambda own, eps=eps: abs(own - eps))
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
    return both.assign(metric="local Lipschitz constant", setting="CIFAR-10, DenseNet, no radius said")


_METRICS = {
    TRAINING: {"accuracy": "test accuracy (%)"},
    GEOMETRY: {
        "gradient_norm": "gradient norm",
        "trace": "Hessian trace",
        "normalized_trace": "C(w)",
        "accuracy": "test accuracy (%)",
    },
}


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


def by_seed(rows: pd.DataFrame, metric: str, name: str, other: str) -> tuple[float, float, float]:
    """(difference, low, high) of two optimizers in a committed table of training, `name` minus `other`, from the
    differences within each seed: both had the same first weights and order of images. metric: as in `compare`."""
    column = {shown: column for names in _METRICS.values() for column, shown in names.items()}[metric]
    wide = rows[rows.metric == column].pivot(index="source", columns="attack", values="value")
    return intervals.paired_mean((wide[name] - wide[other]).dropna().to_numpy())
