"""The leaderboards: attacks that were measured on the same images, from the same surrogate, against the same targets.

Every number is of a committed table. What differs in images, surrogate, targets or budget stands on another board, or
apart on one board, and is never ranked together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ..core import intervals
from ..core.published import TRAINED, kind
from ..files.paths import RESULTS
from . import differences, results
from .gpu.full_size import HARD, OTHERS
from .outcomes import COMMON

ADDED = "added_"
"""How the file of an attack begins that was measured by `candidate.run` and put beside the tables of a board."""


@dataclass(frozen=True)
class Board:
    """Tables of one data set, scale, surrogate and set of images.

    title, surrogate, note: in words; source: the surrogate in the tables; folder, files: the tables, below
    data/results; baseline: the attack that the others are compared with; names: what an attack is called here, where
    its table says something else, "" for one that is left out; targets: those that count, () for all that the tables
    have in common; trained: targets that were trained adversarially, beyond what their names say; open_to: whether
    attacks that `candidate.run` measured can be added.
    """

    title: str
    surrogate: str
    source: str
    folder: str
    files: tuple[str, ...]
    baseline: str = "MI-FGSM"
    names: Mapping[str, str] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    open_to: bool = False
    note: str = ""

    def paths(self, root: Path) -> list[Path]:
        """The tables that are there, and behind them the attacks that were added."""
        own = [root / self.folder / f"{name}.csv" for name in self.files]
        added = sorted((root / self.folder).glob(f"{ADDED}*.csv")) if self.open_to else []
        return [path for path in own if path.is_file()] + added

    def kind(self, target: str) -> str:
        """What sort of target a name stands for."""
        return TRAINED if target in self.trained else kind(target)


_SIGMA = {f"sigma {k}{where}": "" for k in range(5) for where in ("", ", in the ball")}
"""Table 2.6 varies a constant: its rows are no attacks of their own, but for the two that have names."""
BOARDS = {
    "cifar10": Board(
        "CIFAR-10, small networks",
        "a small ResNet",
        "resnet",
        "laptop/cifar10",
        tuple(f"table_A4_{k}" for k in range(1, 6)),
        open_to=True,
        note="Ensembles and SVRE see a small DenseNet besides, which therefore is nobody's target.",
    ),
    "smooth": Board(
        "CIFAR-10, surrogates that were made smooth",
        "a small DenseNet",
        "densenet",
        "laptop/cifar10",
        ("table_A4_6",),
        baseline="PGD, DenseNet",
    ),
    "imagenet": Board(
        "ImageNet's photographs",
        "MobileNet v2 with ReLU",
        "mobilenet_v2_relu*",
        "laptop/imagenet",
        ("table_3_1", "table_2_1", "table_2_2", "table_2_7", "table_2_6", "table_3_2"),
        names=_SIGMA | {"sigma 1, in the ball": "NI-FGSM, ball", "sigma 2, in the ball": "EM-FGSM, ball"},
    ),
    "full_size": Board(
        "CIFAR-10, networks of the thesis' size, on a GPU",
        "ResNet-18",
        "ResNet-18",
        "gpu/full_size",
        ("transfer",),
        targets=(*OTHERS, *HARD),
        trained=tuple(HARD),
    ),
}


def standing(board: Board, root: Path = RESULTS, added: Sequence[Path] = ()) -> pd.DataFrame:
    """Mean black-box success of each attack of a board, the mean over the targets of a kind, the highest first.

    added: tables of further attacks, of `candidate.run`. Columns: attack, kind (of the targets), targets (how many),
    eps_255, value (%), low, high (Wilson's interval of 95 % at n images), n (of the target that counts the fewest
    images), images (of all targets, in words), passes (forward and backward runs for one image), points above the
    baseline with points_low, points_high, interval (which one; "" for the baseline itself) and clear, table, file
    (below `root`), added. Where several tables have an attack, the first counts. Raises DamagedError, and ValueError
    for an added attack that lacks a target.
    """
    tables = {path: _rows(board, path) for path in (*board.paths(root), *added)}
    if not tables:
        return pd.DataFrame(columns=["attack", "kind", "eps_255", "value"])
    common = set.intersection(
        *(set(rows.target) for path, rows in tables.items() if not _is_added(path) or path in added)
    )
    rows = {path: rows[rows.target.isin(common)] for path, rows in tables.items()}
    first, found = next(iter(rows.values())), {}
    for path, part in rows.items():
        if missing := common - set(part.target):
            raise ValueError(f"{path} has no rows on {', '.join(sorted(missing))}, which the board's attacks have")
        behind = part if (part.attack == board.baseline).any() else first
        for row in _of_table(board, part, behind[behind.attack == board.baseline]):
            key = row["attack"], row["kind"], row["eps_255"]
            found.setdefault(key, row | {"file": _below(root, path), "added": _is_added(path)})
    return pd.DataFrame(found.values()).sort_values("value", ascending=False, kind="stable", ignore_index=True)


def standings(root: Path = RESULTS) -> dict[str, pd.DataFrame]:
    """`standing` of each of `BOARDS`, by its key."""
    return {key: standing(board, root) for key, board in BOARDS.items()}


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _is_added(path: Path) -> bool:
    return path.name.startswith(ADDED)


def _of_table(board: Board, rows: pd.DataFrame, baseline: pd.DataFrame) -> Iterator[dict[str, object]]:
    """A row of `standing` for each attack, kind of target and budget of a table. baseline: the rows to compare with."""
    for (eps, of), part in rows.groupby(["eps_255", rows.target.map(board.kind)], sort=False):
        same = baseline[(baseline.eps_255 == eps) & baseline.target.isin(set(part.target))]
        for attack, own in part.groupby("attack", sort=False):
            if name := board.names.get(attack, attack):
                above = _above(own, same, attack == board.baseline)
                yield {"attack": name, "kind": of, "eps_255": eps} | _success(own) | above


def _rows(board: Board, path: Path) -> pd.DataFrame:
    """The rows of a table that belong to the board: from its surrogate, against other networks."""
    rows = results.with_outcomes(path)
    members = set(board.source.split("+"))
    kept = (rows.metric == COMMON) & (rows.source == board.source) & ~rows.target.isin(members)
    return rows[kept & (rows.target.isin(board.targets) if board.targets else True)]


def _success(own: pd.DataFrame) -> dict[str, object]:
    value, n = own.value.mean(), int(own.n.min())
    low, high = intervals.wilson(round(value / 100 * n), n)
    facts = {"targets": len(own), "images": results.images(own), "table": own.table.iloc[0]}
    return {"value": value, "low": low, "high": high, "n": n, "passes": own.passes.mean()} | facts


def _above(own: pd.DataFrame, baseline: pd.DataFrame, itself: bool) -> dict[str, object]:
    if itself or baseline.empty:
        return {"points": 0.0, "points_low": 0.0, "points_high": 0.0, "interval": "", "clear": False}
    found = differences.apart(own, baseline)
    ends = {"points": found.points, "points_low": found.low, "points_high": found.high}
    return ends | {"interval": found.interval, "clear": found.clear}
