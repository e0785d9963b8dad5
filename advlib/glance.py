"""The README's results at a glance: what is committed on real data beside the thesis' print, as Markdown.

`make figures` keeps a finished run and then writes this part of the README anew; nobody edits it by hand.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from . import results
from .compared import ATTACKS, of_the_thesis
from .paths import ROOT, replacing

BEGIN, END = "<!-- results at a glance: python -m advlib glance -->", "<!-- end -->"
SCALE, DATASET = "laptop", "cifar10"


def markdown() -> str:
    """The part of the README: one row for each attack or optimizer of a committed table that the thesis has too."""
    parts = [part for part in (_attacks(), _training()) if part]
    return "\n\n".join(parts) or f"*No {DATASET} run is committed yet.*"


def _attacks() -> str:
    """Chapters 2 to 4: success rates. "" where nothing is committed."""
    ours = {table: rows for table in ATTACKS if (rows := _committed(table)) is not None}
    if not ours:
        return ""
    budgets = sorted({eps for rows in ours.values() for eps in rows.eps_255})
    n = ", ".join(f"{n:,}" for n in sorted({int(rows.n.min()) for rows in ours.values()}))
    titles = ["table", "attack", "thesis", "its setting", *(f"{DATASET}, {eps:g}/255" for eps in budgets)]
    lines = [_line(titles), _line([":--", ":--", "--:", ":--", *["--:"] * len(budgets)])]
    for table, rows in ours.items():
        lines += [_line([f"{table}, {ATTACKS[table][0]}", *cells]) for cells in _cells(table, rows, budgets)]
    longer = [f"chapter {c} takes {t} steps" for c, t in (("3", 100), ("4", 50)) if any(k[0] == c for k in ours)]
    steps = f", and whose {' and '.join(longer)} where ours take 10" if longer else ""
    note = (
        f"*Mean black-box success (%), 95 % interval in brackets. Ours: {SCALE} scale on {DATASET}, small networks, "
        f"n = {n} images that all networks get right: not comparable with the thesis' setting, whose ensemble is "
        f"tested on adversarially trained networks besides{steps}.*"
    )
    return "\n".join(lines) + "\n\n" + note


def _committed(table: str) -> pd.DataFrame | None:
    rows = results.committed(table, SCALE, DATASET)
    return None if rows is None else of_the_thesis(table, rows)


def _cells(table: str, rows: pd.DataFrame, budgets: list[float]) -> list[list[str]]:
    """attack, the thesis' number and its setting, ours at each budget ("" where it was not run)."""
    _, dataset, eps = ATTACKS[table]
    printed = results.published(table)
    printed = results.black_box(printed[(printed.eps_255 == eps) & (printed.target != results.AVERAGE)]).value
    setting = f"{dataset}, {eps}/255"
    found = {attack: [attack, f"{printed[attack]:.1f}", setting] for attack in dict.fromkeys(rows.attack)}
    for eps in budgets:
        at_eps = rows[rows.eps_255 == eps]
        means = results.black_box(at_eps).to_dict("index") if len(at_eps) else {}
        for attack, cells in found.items():
            m = means.get(attack)
            cells.append(f"{m['value']:.1f} [{m['ci_low']:.1f}, {m['ci_high']:.1f}]" if m else "")
    return list(found.values())


def _training() -> str:
    """Chapter 5: accuracy after training. "" where nothing is committed."""
    rows = results.committed("5.2", SCALE, DATASET)
    if rows is None:
        return ""
    rows, printed = rows[rows.metric == "accuracy"], results.published("5.2")
    printed = printed[(printed.dataset == "CIFAR-10") & (printed.augmentation == "Basic")]
    printed = printed[printed.model == "ResNet-18"].set_index("optimizer")
    conditions = rows.source.iloc[0].partition(", ")[2]  # a source is "seed 0, 10000 images, 20 epochs"
    titles = ["table", "optimizer", "thesis, ResNet-18", f"{DATASET}, ResNet-8, {conditions}", "passes over the data"]
    lines = [_line(titles), _line([":--", ":--", "--:", "--:", "--:"])]
    for name, of in rows.groupby("attack", sort=False):
        paper = f"{printed.value[name]:.2f} ± {printed['std'][name]:.2f}" if name in printed.index else ""
        ours = f"{of.value.mean():.2f} ± {of.value.std():.2f}"
        lines.append(_line(["5.2, training", name, paper, ours, f"{of.passes.iloc[0]:g}"]))
    note = (
        f"*Test accuracy (%), mean and standard deviation of {rows.source.nunique()} seeds, n = {rows.n.min():,} test "
        f"images. Ours: {SCALE} scale, a part of {DATASET}, a small network: not comparable with the thesis' setting.*"
    )
    return "\n".join(lines) + "\n\n" + note


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def refreshed(text: str) -> str:
    """`text` with the part between the two marks written anew. ValueError if a mark is missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md lacks the marks {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{markdown()}\n{END}{after}"


def write(readme: Path = ROOT / "README.md") -> Path:
    """Write the part anew and return the file."""
    text = refreshed(readme.read_text(encoding="utf-8"))
    with replacing(readme) as partial:
        partial.write_text(text, encoding="utf-8")
    return readme
