"""The figures: one style, the thesis' numbering, vector files that read in grey.

Every function returns a matplotlib Figure; `save` writes it as figures/<chapter>/fig_X_Y_what.svg of a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from ..files.paths import replacing
from .chapters import Run

# Dark to light, so that the order survives without colour; line style and marker tell lines apart a second time.
COLOURS = ("#1b1b3a", "#7a1f5c", "#c4453c", "#e08a2e", "#5b8ea6", "#8f8f8f", "#3f7d4e")
LINES, MARKERS = ("-", "--", "-.", ":"), ("o", "s", "^", "D", "v", "P", "X")
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 80,
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.hashsalt": "advlib",
}


@contextmanager
def style() -> Iterator[None]:
    """The book's look for everything drawn inside."""
    with mpl.rc_context(STYLE):
        yield


def _figure(rows: int, columns: int, width: float, height: float, **options: object) -> tuple[Figure, np.ndarray]:
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **options)
    plt.close(figure)  # the caller shows it once, by returning it from a cell
    return figure, axes


def gallery(
    rows: Mapping[str, torch.Tensor],
    titles: Sequence[str] | None = None,
    notes: Mapping[str, Sequence[str]] | None = None,
    side: float = 1.0,
) -> Figure:
    """Images in [0, 1], one row (n, 3, H, W) for each name; titles above the columns, notes under single images."""
    columns = max(len(images) for images in rows.values())
    extra = 0.3 if notes else 0.05
    with style():
        figure, axes = _figure(len(rows), columns, side * columns + 1.1, (side + extra) * len(rows) + 0.3)
        for r, (name, images) in enumerate(rows.items()):
            for c, ax in enumerate(axes[r]):
                ax.set(xticks=[], yticks=[])
                ax.grid(False)
                ax.spines[:].set_visible(False)
                if c < len(images):
                    ax.imshow(images[c].clamp(0, 1).permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
                if notes and name in notes:
                    ax.set_xlabel(notes[name][c], fontsize=7)
                if titles and r == 0:
                    ax.set_title(titles[c], fontsize=8)
            axes[r, 0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def heatmap(matrix: pd.DataFrame, label: str = "attack success rate (%)", title: str = "") -> Figure:
    """Source by target, numbers in the cells; white-box cells (same name) are framed."""
    with style():
        figure, ((ax,),) = _figure(1, 1, 1.6 + 0.75 * matrix.shape[1], 1.2 + 0.45 * matrix.shape[0])
        shown = ax.imshow(matrix.to_numpy(), cmap="cividis", vmin=0, vmax=100, aspect="auto")
        for r, source in enumerate(matrix.index):
            for c, target in enumerate(matrix.columns):
                value = matrix.iat[r, c]
                ax.text(c, r, f"{value:.0f}", ha="center", va="center", color="black" if value > 55 else "white")
                if source == target:
                    ax.add_patch(plt.Rectangle((c - 0.47, r - 0.45), 0.94, 0.9, fill=False, ec="white", lw=1.5))
        ax.set_xticks(range(matrix.shape[1]), matrix.columns, rotation=30, ha="right")
        ax.set_yticks(range(matrix.shape[0]), matrix.index)
        ax.set(xlabel="target", ylabel="source", title=title)
        ax.grid(False)
        figure.colorbar(shown, label=label)
    return figure


def curves(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    xlabel: str | Sequence[str],
    ylabel: str,
    bands: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]] | None = None,
    sharey: bool = True,
    **limits: object,
) -> Figure:
    """Lines (x, y) by name, one panel for each title; one legend where all panels have the same names.

    bands: (low, high) of a line, drawn as error bars; sharey: one scale for all panels; limits: passed to every axis
    (ylim, xscale, yscale).
    """
    labels = [xlabel] * len(panels) if isinstance(xlabel, str) else xlabel
    with style():
        figure, axes = _figure(1, len(panels), 1.0 + 3.1 * len(panels), 2.9, sharey=sharey)
        for ax, (title, lines), label in zip(axes[0], panels.items(), labels, strict=True):
            for i, (name, (x, y)) in enumerate(lines.items()):
                look = {
                    "color": COLOURS[i % 7],
                    "linestyle": LINES[i % 4],
                    "marker": MARKERS[i % 7] if len(x) < 30 else None,
                }
                band = (bands or {}).get(title, {}).get(name)
                error = None if band is None else np.abs(np.stack([np.subtract(y, band[0]), np.subtract(band[1], y)]))
                ax.errorbar(x, y, error, label=name, markersize=4, lw=1.4, elinewidth=0.7, capsize=2, **look)
            ax.set(title=title, xlabel=label, **limits)
            _plain_ticks(ax, sorted({value for x, _ in lines.values() for value in x}))
        axes[0, 0].set_ylabel(ylabel)
        if len({tuple(lines) for lines in panels.values()}) == 1:
            figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", fontsize=7)
        else:  # one legend would give the lines of the other panels wrong names
            for ax in axes[0]:
                ax.legend(fontsize=7)
    return figure


def _plain_ticks(ax: plt.Axes, at: Sequence[float]) -> None:
    """Whole numbers below whole x values `at`; on logarithmic axes 20 in place of 2 x 10^1, on x the values if few."""
    if ax.get_xscale() == "log" and len(at) <= 6:
        ax.set_xticks(at, [f"{value:g}" for value in at])
        ax.set_xticks([], minor=True)
    elif ax.get_xscale() == "linear" and all(value == int(value) for value in at):
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    if ax.get_yscale() == "log":
        ax.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("{x:g}")


def surface(
    x: np.ndarray, y: np.ndarray, values: Mapping[str, np.ndarray], xlabel: str, ylabel: str, label: str
) -> Figure:
    """Contours of values[title], shape (len(y), len(x)), all on one colour scale; the start is marked at the origin."""
    top = max(float(v.max()) for v in values.values())
    levels = MaxNLocator(12).tick_values(0, top or 1.0)
    with style():
        figure, axes = _figure(1, len(values), 0.9 + 2.7 * len(values), 2.8, sharey=True)
        for ax, (title, v) in zip(axes[0], values.items(), strict=True):
            filled = ax.contourf(x, y, v, levels=levels, cmap="cividis")
            ax.contour(x, y, v, levels=levels[::3], colors="white", linewidths=0.4)
            ax.plot(0, 0, "o", color="white", markeredgecolor="black")
            ax.set(title=title, xlabel=xlabel)
            ax.grid(False)
        axes[0, 0].set_ylabel(ylabel)
        figure.colorbar(filled, ax=axes[0, -1], label=label)
    return figure


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points (cost, gain) that gain more than every other one of at most their cost, by cost."""
    found, best = [], -np.inf
    for name, (_, gain) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if gain > best:
            found.append(name)
            best = gain
    return found


def front(
    panels: Mapping[str, Mapping[str, tuple[float, float]]],
    bands: Mapping[str, Mapping[str, tuple[float, float]]],
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Points (cost, gain) by name on a logarithmic axis of cost, with error bars (low, high); those of the Pareto front
    are filled, named and joined. Panels stand two in a row."""
    with style():
        columns = min(2, len(panels))
        rows = -(-len(panels) // columns)
        figure, axes = _figure(rows, columns, 1.0 + 3.2 * columns, 3.6 * rows, sharey=True)
        for ax, (title, points) in zip(axes.flat, panels.items(), strict=False):
            best = pareto(points)
            for name, (x, y) in points.items():
                low, high = bands[title][name]
                face = COLOURS[2] if name in best else "white"
                look = {"color": COLOURS[5], "marker": "o", "markerfacecolor": face, "markeredgecolor": COLOURS[0]}
                ax.errorbar(x, y, [[y - low], [high - y]], lw=0.7, capsize=2, zorder=3, **look)
            ax.step(*zip(*(points[name] for name in best), strict=True), where="post", color=COLOURS[2], lw=1.2)
            for k, name in enumerate(best):  # names of neighbours at the same height would stand on one another
                ax.annotate(name, points[name], (4, (5, -10)[k % 2]), textcoords="offset points", fontsize=6)
            ax.set(title=title, xlabel=xlabel, xscale="log")
            costs = sorted({x for x, _ in points.values()})
            if len(costs) > 8:  # they would stand on one another: powers of ten
                costs = [10.0**k for k in range(9) if costs[0] <= 10.0**k <= costs[-1]]
            ax.set_xticks(costs, [f"{x:g}" for x in costs])
            ax.set_xticks([], minor=True)
        for ax in axes[:, 0]:
            ax.set_ylabel(ylabel)
        for ax in axes.flat[len(panels) :]:
            ax.axis("off")
    return figure


def forest(panels: Mapping[str, Mapping[str, tuple[float, float, float]]], xlabel: str) -> Figure:
    """Differences (value, low, high) by name, one below the other, each with its interval, filled where that leaves out
    0, which is a line. Panels stand two in a row, on one scale."""
    with style():
        columns = min(2, len(panels))
        rows = -(-len(panels) // columns)
        height = 0.7 + 0.22 * max(map(len, panels.values()))
        figure, axes = _figure(rows, columns, 0.6 + 3.2 * columns, height * rows, sharex=True)
        for ax, (title, points) in zip(axes.flat, panels.items(), strict=False):
            ax.axvline(0, color=COLOURS[5], lw=1)
            for row, (x, low, high) in enumerate(points.values()):
                face = COLOURS[2] if low > 0 or high < 0 else "white"
                look = {"color": COLOURS[0], "marker": "o", "markerfacecolor": face, "markeredgecolor": COLOURS[0]}
                ax.errorbar(x, row, xerr=[[x - low], [high - x]], lw=1, capsize=2, **look)
            ax.set(title=title, yticks=range(len(points)), yticklabels=points, ylim=(len(points) - 0.5, -0.5))
            ax.grid(axis="y", visible=False)
        for ax in axes.flat[len(panels) - columns : len(panels)]:
            ax.set_xlabel(xlabel)
            ax.tick_params(labelbottom=True)
        for ax in axes.flat[len(panels) :]:
            ax.axis("off")
    return figure


def diagram(boxes: Mapping[str, tuple[float, float]], arrows: Sequence[tuple[str, str]]) -> Figure:
    """Named boxes at (column, row), and arrows from one to another."""
    with style():
        columns, rows = (max(place[k] for place in boxes.values()) + 1 for k in (0, 1))
        figure, ((ax,),) = _figure(1, 1, 2.4 * columns, 0.9 * rows + 0.4)
        frame = {"boxstyle": "round,pad=0.5", "fc": "white", "ec": COLOURS[0]}
        for start, end in arrows:
            ax.annotate(
                "", boxes[end], boxes[start], arrowprops={"arrowstyle": "->", "shrinkA": 45, "shrinkB": 45, "lw": 1.4}
            )
        for name, place in boxes.items():
            ax.text(*place, name, ha="center", va="center", bbox=frame)
        ax.set(xlim=(-0.5, columns - 0.5), ylim=(-0.5, rows - 0.5))
        ax.axis("off")
    return figure


def tree(root: str, branches: Mapping[str, Sequence[str]]) -> Figure:
    """A tree that grows to the right: the root, its branches, and the leaves of each in a row of text."""
    with style():
        figure, ((ax,),) = _figure(1, 1, 9.0, 0.62 * len(branches) + 0.3)
        frame = {"boxstyle": "round,pad=0.4", "fc": "white", "ec": COLOURS[0]}
        middle = (len(branches) - 1) / 2
        for row, (branch, leaves) in enumerate(branches.items()):
            height = len(branches) - 1 - row
            ax.plot([1.0, 1.5, 1.5, 2.0], [middle, middle, height, height], color=COLOURS[0], lw=1.0, zorder=0)
            ax.text(2.0, height, branch, ha="left", va="center", bbox=frame)
            ax.text(3.8, height, "  ·  ".join(leaves), ha="left", va="center")
        ax.text(0.0, middle, fill(root, 18), ha="left", va="center", bbox=frame)
        ax.set(xlim=(-0.2, 9.0), ylim=(-0.6, len(branches) - 0.4))
        ax.axis("off")
    return figure


def save(figure: Figure, name: str, run: Run) -> Path:
    """Write <name>.svg among the figures of a chapter's run, whole and without a date, so that the same figure is the
    same file. Raises WriteError."""
    file = run.figures / f"{name}.svg"
    with style(), replacing(file) as partial:
        figure.savefig(partial, format="svg", metadata={"Date": None})
    return file
