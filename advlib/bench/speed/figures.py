"""The roof with the passes below it, and bars of ratios."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from .. import plotting
from .roofline import DTYPES, Point, Roof
from .rows import Row


def roofline(roof: Roof, points: Sequence[Point]) -> Figure:
    """Speed over intensity: a line for the roof of each number type, a mark for each pass."""
    at = np.geomspace(1, 4 * max(*(p.counted.intensity for p in points), *map(roof.ridge, DTYPES)), 200)
    with plotting.style():
        figure, ax = plt.subplots(figsize=(7.6, 3.8))
        plt.close(figure)
        for form, line in zip(DTYPES, plotting.LINES, strict=False):
            ax.plot(at, [roof.speed(form, i) / 1e9 for i in at], line, color=plotting.COLOURS[0], label=f"roof, {form}")
        models, copies = (list(dict.fromkeys(names)) for names in zip(*map(_names, points), strict=True))
        for p in points:
            model, copy = _names(p)
            look = {"marker": plotting.MARKERS[models.index(model)], "color": plotting.COLOURS[1 + copies.index(copy)]}
            ax.plot(p.counted.intensity, p.speed / 1e9, ls="", ms=7, mec="black", label=f"{model}, {copy}", **look)
        ax.set(xscale="log", yscale="log", xlabel="intensity (operations a byte)", ylabel="speed (GFLOP/s)")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_minor_locator(LogLocator(subs=(2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("{x:g}")
        figure.legend(loc="outside right center", fontsize=plotting.LEGEND)
    return figure


def _names(point: Point) -> tuple[str, str]:
    return point.subject.name, point.copy


PANELS: dict[str, tuple[str, str, float]] = {
    "Attack over its passes (line: 1.05)": ("loop overhead ", "", 1.05),
    "Speed of a pass over the plain network (line: 1)": ("pass, ", "", 1.0),
    "Speed over torchattacks (line: 1)": ("", " / torchattacks", 1.0),
    "GNP over the attack without it (line: 2.05)": ("price of GNP on ", "", 2.05),
    "A step of fine-tuning over a plain one (line: 1)": ("step of ", "", 1.0),
    "A step of SAM and CR-SAM over one of SGD (line: 2)": ("optimizer ", "", 2.0),
}
"""By title: how the names of its rows begin and end, and where a line stands."""


def bars(rows: Sequence[Row]) -> Figure:
    """A panel for each of `PANELS` that has rows. Bars are medians, whiskers the smallest and the largest round."""
    panels = {
        title: [r for r in rows if r.what.startswith(a) and r.what.endswith(b)] for title, (a, b, _) in PANELS.items()
    }
    panels = {title: part for title, part in panels.items() if part}
    heights = [len(part) + 2 for part in panels.values()]
    with plotting.style():
        size = {"figsize": (7.2, 0.22 * sum(heights)), "height_ratios": heights}
        figure, axes = plt.subplots(len(panels), 1, squeeze=False, **size)
        plt.close(figure)
        for ax, (title, part) in zip(axes[:, 0], panels.items(), strict=True):
            _panel(ax, part, *PANELS[title])
            ax.set_title(title)
    return figure


def _panel(ax: plt.Axes, part: Sequence[Row], begin: str, end: str, mark: float) -> None:
    ratio, low, high = (np.array([getattr(row, name) for row in part]) for name in ("ratio", "low", "high"))
    error = [ratio - low, high - ratio]
    ax.barh(range(len(part)), ratio, xerr=error, color=plotting.COLOURS[4], capsize=2, height=0.7)
    ax.axvline(mark, color=plotting.COLOURS[2], ls="--", lw=1)
    ax.set_yticks(range(len(part)), _labels(part, begin, end), fontsize=plotting.LEGEND)
    ax.invert_yaxis()
    ax.set_xlabel("ratio (no unit)")
    ax.grid(axis="y", visible=False)


def _labels(part: Sequence[Row], begin: str, end: str) -> list[str]:
    """The rest of the names, and the model where there is more than one."""
    several = len({row.model for row in part}) > 1
    return [row.what.removeprefix(begin).removesuffix(end) + (f", {row.model}" if several else "") for row in part]
