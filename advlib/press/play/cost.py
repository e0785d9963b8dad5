"""Success against cost: the leaderboard of appendix A4, from its committed CIFAR-10 run."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ...bench import claims, plotting, results
from ...core.intervals import wilson

SCALE, DATASET = "laptop", "cifar10"
BRANCHES = {
    "A4.1": "the step",
    "A4.2": "the gradient",
    "A4.3": "the input",
    "A4.4": "the network",
    "A4.5": "several networks",
    "A4.6": "a better surrogate",
}
"""Tables and what their attacks change. The first attack of a table is what its others are compared with."""


def data() -> dict[str, Any]:
    """Every attack at every budget against every kind of target, and the front of each panel, as Figure A4.3 has it."""
    tables = {table: results.mark_white_box(results.committed(table, SCALE, DATASET)) for table in BRANCHES}
    points: dict[str, list[dict[str, Any]]] = {}
    for table, rows in tables.items():
        first = rows.attack.iloc[0]
        for row in claims.gains(rows, first).itertuples():
            panel = points.setdefault(f"{row.kind}, {row.eps_255:g}", [])
            if row.attack not in [point["attack"] for point in panel]:
                panel.append(_point(row, first, BRANCHES[table], _milliseconds(rows, row)))
    panels = {name: {"points": of, "front": plotting.pareto(_places(of))} for name, of in points.items()}
    return {"dataset": "CIFAR-10", "scale": SCALE, "panels": panels}


def _point(row: Any, first: str, branch: str, milliseconds: float) -> dict[str, Any]:
    low, high = wilson(round(row.value / 100 * row.n), row.n)
    point = {"attack": row.attack, "branch": branch, "passes": row.passes, "ms": round(milliseconds, 1), "n": row.n}
    point |= {"value": row.value, "low": low, "high": high}
    if row.attack != first:
        point |= {"against": first, "points": row.points, "from": row.low, "to": row.high, "clear": bool(row.clear)}
    return {key: round(value, 2) if isinstance(value, float) else value for key, value in point.items()}


def _milliseconds(rows: pd.DataFrame, row: Any) -> float:
    """Per image, of the attack alone."""
    same = rows[(rows.attack == row.attack) & (rows.eps_255 == row.eps_255)]
    return 1000 * same.seconds.iloc[0] / same.n.iloc[0]


def _places(points: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    return {point["attack"]: (point["passes"], point["value"]) for point in points}


def still(numbers: dict[str, Any]) -> Figure:
    """Undefended and defended targets at the first budget."""
    chosen = {name: panel["points"] for name, panel in numbers["panels"].items() if name.endswith(" 4")}
    panels = {f"{name}/255": _places(points) for name, points in chosen.items() if "trained" not in name}
    bands = {f"{n}/255": {p["attack"]: (p["low"], p["high"]) for p in of} for n, of in chosen.items()}
    return plotting.front(panels, bands, "passes per image", "black-box success (%)")
