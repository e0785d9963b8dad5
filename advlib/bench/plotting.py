"""The figures: one style, the thesis' numbering, vector files that read in grey.

Every function returns a matplotlib Figure; `save` writes it as figures/<chapter>/fig_X_Y_what.svg of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
LEGEND = 8.2  # points: nine pixels at the resolution at which a notebook shows figures
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


def _grid(panels: int, width: float, height: float, **options: object) -> tuple[Figure, np.ndarray]:
    """Axes for so many panels of this size in inches, two in a row, with an inch beside them. More in a row would make
    their text too small on a page."""
    columns = min(2, panels)
    rows = -(-panels // columns)
    figure, axes = _figure(rows, columns, 1.0 + width * columns, height * rows, **options)
    for ax in axes.flat[panels:]:
        ax.axis("off")
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
                    ax.set_xlabel(notes[name][c], fontsize=LEGEND)
                if titles and r == 0:
                    ax.set_title(titles[c], fontsize=LEGEND)
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
    ylabel: str | Sequence[str],
    bands: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]] | None = None,
    sharey: bool = True,
    **limits: object,
) -> Figure:
    """Lines (x, y) by name, one panel for each title, two panels in a row; one legend where all panels have the same
    names.

    xlabel, ylabel: of all panels, or one for each; bands: (low, high) of a line, drawn as error bars; sharey: one scale
    for all panels; limits: passed to every axis (ylim, xscale, yscale).
    """
    with style():
        figure, axes = _grid(len(panels), 3.1, 2.9, sharey=sharey)
        for ax, (title, lines) in zip(axes.flat, panels.items(), strict=False):
            for i, (name, (x, y)) in enumerate(lines.items()):
                look = {
                    "color": COLOURS[i % 7],
                    "linestyle": LINES[i % 4],
                    "marker": MARKERS[i % 7] if len(x) < 30 else None,
                }
                band = (bands or {}).get(title, {}).get(name)
                error = None if band is None else np.abs(np.stack([np.subtract(y, band[0]), np.subtract(band[1], y)]))
                ax.errorbar(x, y, error, label=name, markersize=4, lw=1.4, elinewidth=0.7, capsize=2, **look)
            ax.set(title=title, **limits)
            _plain_ticks(ax, sorted({value for x, _ in lines.values() for value in x}))
        _label(axes, len(panels), xlabel, ylabel)
        if len({tuple(lines) for lines in panels.values()}) == 1:
            figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", fontsize=LEGEND)
        else:  # one legend would give the lines of the other panels wrong names
            for ax in axes.flat[: len(panels)]:
                ax.legend(fontsize=LEGEND)
    return figure


def _label(axes: np.ndarray, panels: int, xlabel: str | Sequence[str], ylabel: str | Sequence[str]) -> None:
    """Name the axes of so many panels: one name for all, which of the y axes only the first of a row has, or one for
    each. The last panel of a column has numbers below, also where the row that it stands in is not the last."""
    xs = [xlabel] * panels if isinstance(xlabel, str) else xlabel
    columns = axes.shape[1]
    ys = [ylabel if k % columns == 0 else "" for k in range(panels)] if isinstance(ylabel, str) else ylabel
    for k, (ax, x, y) in enumerate(zip(axes.flat[:panels], xs, ys, strict=True)):
        ax.set(xlabel=x, ylabel=y)
        if k + columns >= panels:
            ax.tick_params(labelbottom=True)


def _plain_ticks(ax: plt.Axes, at: Sequence[float]) -> None:
    """Whole numbers below whole x values `at`; on logarithmic axes 20 in place of 2 x 10^1, on x the values if few."""
    if ax.get_xscale() == "log" and len(at) <= 6:
        ax.set_xticks(at, [f"{value:g}" for value in at])
        ax.set_xticks([], minor=True)
    elif ax.get_xscale() == "linear" and all(value == int(value) for value in at):
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    low, high = ax.get_ylim()
    if ax.get_yscale() == "log" and high < 1e4 * low:  # over more, the numbers would stand on one another
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
        figure, axes = _grid(len(values), 2.9, 2.8, sharey=True)
        for ax, (title, v) in zip(axes.flat, values.items(), strict=False):
            filled = ax.contourf(x, y, v, levels=levels, cmap="cividis")
            ax.contour(x, y, v, levels=levels[::3], colors="white", linewidths=0.4)
            ax.plot(0, 0, "o", color="white", markeredgecolor="black")
            ax.set(title=title)
            ax.grid(False)
        _label(axes, len(values), xlabel, ylabel)
        figure.colorbar(filled, ax=axes, label=label)
    return figure


def points(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    xlabel: str | Sequence[str],
    ylabel: str,
    **limits: object,
) -> Figure:
    """Marks at (x, y) by name, such as one for each seed, one panel for each title; all panels have the same names, one
    legend and one y axis. xlabel: of all panels, or one for each; limits: as of `curves`."""
    with style():
        figure, axes = _grid(len(panels), 3.1, 3.1, sharey=True)
        for ax, (title, marks) in zip(axes.flat, panels.items(), strict=False):
            for i, (name, (x, y)) in enumerate(marks.items()):
                ax.plot(x, y, MARKERS[i % 7], color=COLOURS[i % 7], label=name, markersize=6)
            ax.set(title=title, **limits)
            _plain_ticks(ax, sorted({value for x, _ in marks.values() for value in x}))
        _label(axes, len(panels), xlabel, ylabel)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", fontsize=LEGEND)
    return figure


Reading = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def readings(
    loss: Callable[[torch.Tensor], torch.Tensor], panels: Mapping[str, tuple[Reading, Sequence[float]]], shown: float
) -> Figure:
    """Where an optimizer reads gradients, on the contours of a loss of two weights, (2, ...) to (...).

    panels: title -> (readings, step). A reading is a name and (point, gradient), the weights themselves first; a thin
    arrow points down that gradient. The bold arrow is the step that the optimizer takes, from the weights. shown: the
    factor by which all arrows are shortened."""
    side = torch.linspace(-0.7, 1.1, 121), torch.linspace(-0.4, 1.3, 121)
    height = loss(torch.stack(torch.meshgrid(*side, indexing="xy")))
    with style():
        figure, axes = _grid(len(panels), 3.3, 3.4, sharey=True)
        for ax, (title, (found, step)) in zip(axes.flat, panels.items(), strict=False):
            ax.contour(*side, height, levels=12, colors=COLOURS[5], linewidths=0.6)
            _read(ax, found, step, shown)
            ax.set(title=title, aspect="equal")
            ax.grid(False)
        _label(axes, len(panels), "first weight $w_1$", "second weight $w_2$")
    return figure


def _read(ax: plt.Axes, found: Reading, step: Sequence[float], shown: float) -> None:
    """One panel of `readings`, on its contours."""
    start = next(iter(found.values()))[0]
    for name, (point, gradient) in found.items():
        ax.plot(*zip(start, point, strict=True), ":", color=COLOURS[0], lw=1.2)
        ax.plot(*point, "o", color=COLOURS[0], zorder=4)
        ax.annotate(name, point, (6, -12), textcoords="offset points", zorder=5)
        _arrow(ax, point, gradient, shown, COLOURS[4], 1.4)
    _arrow(ax, start, step, shown, COLOURS[2], 2.6)


def _arrow(
    ax: plt.Axes, point: Sequence[float], gradient: Sequence[float], shown: float, colour: str, lw: float
) -> None:
    """Down a gradient."""
    tip = [p - shown * g for p, g in zip(point, gradient, strict=True)]
    look = {"arrowstyle": "-|>", "color": colour, "lw": lw, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 6 + 3 * lw}
    ax.annotate("", tip, point, arrowprops=look, zorder=3)


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
        figure, axes = _grid(len(panels), 3.2, 3.6, sharey=True)
        for ax, (title, points) in zip(axes.flat, panels.items(), strict=False):
            best = pareto(points)
            for name, (x, y) in points.items():
                low, high = bands[title][name]
                face = COLOURS[2] if name in best else "white"
                look = {"color": COLOURS[5], "marker": "o", "markerfacecolor": face, "markeredgecolor": COLOURS[0]}
                ax.errorbar(x, y, [[y - low], [high - y]], lw=0.7, capsize=2, zorder=3, **look)
            ax.step(*zip(*(points[name] for name in best), strict=True), where="post", color=COLOURS[2], lw=1.2)
            costs = sorted({x for x, _ in points.values()})
            for k, name in enumerate(best):  # names of neighbours at the same height would stand on one another
                beside = (4, "left") if points[name][0] ** 2 < costs[0] * costs[-1] else (-4, "right")
                behind = {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8}
                look = {"ha": beside[1], "zorder": 5, "fontsize": LEGEND, "bbox": behind}
                ax.annotate(name, points[name], (beside[0], (6, -12)[k % 2]), textcoords="offset points", **look)
            ax.set(title=title, xscale="log")
            if len(costs) > 8:  # they would stand on one another: powers of ten
                costs = [10.0**k for k in range(9) if costs[0] <= 10.0**k <= costs[-1]]
            ax.set_xticks(costs, [f"{x:g}" for x in costs])
            ax.set_xticks([], minor=True)
        _label(axes, len(panels), xlabel, ylabel)
    return figure


def forest(
    panels: Mapping[str, Mapping[str, Mapping[str, tuple[float, float, float]]]],
    rows: Sequence[str],
    xlabel: str,
    tall: float = 0.5,
    line: float = 0,
) -> Figure:
    """Points with their intervals, side by side in named rows, and a vertical line; one legend for all panels.

    panels: title -> name of a run -> row -> (points, low, high). A run need not have all rows. tall: a row, in
    inches; line: where it stands."""
    runs = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    with style():
        figure, axes = _grid(len(panels), 3.2, 0.9 + tall * len(rows), sharey=True, sharex=True)
        for ax, (title, panel) in zip(axes.flat, panels.items(), strict=False):
            ax.axvline(line, color=COLOURS[0], lw=1.0)
            for k, name in enumerate(runs):
                _intervals(ax, name, panel.get(name, {}), rows, k, (k - (len(runs) - 1) / 2) * 0.6 / len(runs))
            ax.set(title=title, ylim=(len(rows) - 0.5, -0.5))
            ax.set_yticks(range(len(rows)), [fill(row, 18) for row in rows])
        _label(axes, len(panels), xlabel, "")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=LEGEND)
    return figure


def _intervals(
    ax: plt.Axes, name: str, found: Mapping[str, tuple[float, float, float]], rows: Sequence[str], k: int, off: float
) -> None:
    """One run of `forest`: the k-th, `off` below the middle of its rows."""
    places = [(rows.index(row) + off, *values) for row, values in found.items()]
    y, x, low, high = zip(*places, strict=True) if places else ((),) * 4
    error = np.abs(np.stack([np.subtract(x, low), np.subtract(high, x)]))
    look = {"color": COLOURS[(0, 2, 4, 3)[k % 4]], "marker": MARKERS[k % 7], "linestyle": "none"}
    ax.errorbar(x, y, xerr=error, label=name, markersize=5, elinewidth=1.2, capsize=2, **look)


def diagram(
    boxes: Mapping[str, tuple[float, float]],
    arrows: Sequence[tuple[str, str]],
    dashed: Sequence[tuple[str, str]] = (),
    shaded: Collection[str] = (),
    width: float | None = None,
) -> Figure:
    """Named boxes at (column, row), and arrows from edge to edge, some of them dashed. shaded: boxes that are; width:
    in inches, 2.4 for each column if None."""
    with style():
        columns, rows = (max(place[k] for place in boxes.values()) + 1 for k in (0, 1))
        figure, ((ax,),) = _figure(1, 1, width or 2.4 * columns, 0.9 * rows + 0.4)
        ax.set(xlim=(-0.5, columns - 0.5), ylim=(-0.5, rows - 0.5))
        ax.axis("off")
        frame = {"boxstyle": "round,pad=0.5", "ec": COLOURS[0]}
        said = {"ha": "center", "va": "center", "fontsize": LEGEND if width else None}
        # The boxes first: an arrow ends where the frame is, which is known once the text is drawn.
        texts = {}
        for name, place in boxes.items():
            texts[name] = ax.text(*place, name, bbox=frame | {"fc": "#dddddd" if name in shaded else "white"}, **said)
        for start, end in (*arrows, *dashed):
            edges = {"patchA": texts[start].get_bbox_patch(), "patchB": texts[end].get_bbox_patch()}
            look = {"arrowstyle": "-|>", "color": COLOURS[0], "shrinkA": 0, "shrinkB": 0, "lw": 1.2}
            look["linestyle"] = "--" if (start, end) in dashed else "-"
            ax.annotate("", boxes[end], boxes[start], arrowprops=look | edges)
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


def chains(rows: Mapping[str, Sequence[str]], arcs: Mapping[str, tuple[int, str]]) -> Figure:
    """Layers as boxes from left to right, a row for each name, as a block of a network takes them. arcs: by name, the
    box at which a shortcut from the start of the row ends, and what stands above it."""
    most = max(map(len, rows.values()))
    with style():
        figure, ((ax,),) = _figure(1, 1, 8.6, 0.92 * len(rows))
        frame = {"boxstyle": "round,pad=0.35", "fc": "white", "ec": COLOURS[0]}
        for r, (name, boxes) in enumerate(rows.items()):
            ax.plot([-0.5, len(boxes) - 0.2], [-r, -r], color=COLOURS[0], lw=1.0, zorder=0)
            ax.text(-0.7, -r, name, ha="right", va="center")
            for c, text in enumerate(boxes):
                ax.text(c, -r, text, ha="center", va="center", bbox=frame, fontsize=LEGEND)
            if name in arcs:
                end, said = arcs[name]
                ax.plot([-0.5, -0.5, end, end], [-r, 0.46 - r, 0.46 - r, -r], color=COLOURS[2], lw=1.2, zorder=0)
                ax.text((end - 0.5) / 2, 0.49 - r, said, ha="center", va="bottom", fontsize=LEGEND, color=COLOURS[2])
        ax.set(xlim=(-2.0, most - 0.5), ylim=(0.6 - len(rows), 0.8))
        ax.axis("off")
    return figure


def look_ahead(
    loss: Callable[[torch.Tensor], torch.Tensor],
    found: Reading,
    steps: Mapping[str, Sequence[float]],
    centre: Sequence[float],
    eps: float,
) -> Figure:
    """Where the rules of an attack on two pixels read a gradient, on the contours of its loss, (..., 2) to (...).

    found: a reading is a name and (point, gradient), the iterate first; a thin arrow points up that gradient. steps: up
    to three, by name, bold arrows from the iterate. The rectangle is the ball of radius eps around the clean image."""
    start = next(iter(found.values()))[0]
    side = [torch.linspace(s - 0.9 * eps, s + 1.4 * eps, 121) for s in start]
    with style():
        figure, ((ax,),) = _figure(1, 1, 7.2, 4.0)
        height = loss(torch.stack(torch.meshgrid(*side, indexing="xy"), -1))
        ax.contour(*side, height, 14, colors=COLOURS[5], linewidths=0.5, linestyles="solid")
        corner = [c - eps for c in centre]
        ax.add_patch(plt.Rectangle(corner, 2 * eps, 2 * eps, fill=False, ec=COLOURS[0], lw=1.4, label="the ball"))
        for (name, (point, gradient)), marker in zip(found.items(), MARKERS, strict=False):
            ax.plot(*zip(start, point, strict=True), ":", color=COLOURS[0], lw=1.2)
            ax.plot(*point, marker, color=COLOURS[0], zorder=4, label=name)
            _arrow(ax, point, gradient, -0.12 * eps, COLOURS[4], 1.6)
        ax.plot([], [], color=COLOURS[4], lw=1.6, label="gradient read there")
        for (name, step), colour in zip(steps.items(), COLOURS[1:4], strict=False):
            _arrow(ax, start, step, -1.0, colour, 2.6)
            ax.plot([], [], color=colour, lw=2.6, label=name)
        ax.set(xlabel="first pixel (0 black, 1 white)", ylabel="second pixel (0 black, 1 white)", aspect="equal")
        ax.set(xlim=(side[0][0], side[0][-1]), ylim=(side[1][0], side[1][-1]))
        ax.grid(False)
        figure.legend(loc="outside right center", fontsize=LEGEND)
    return figure


def boundaries(
    classes: Mapping[str, torch.Tensor], panels: Mapping[str, Callable[[torch.Tensor], torch.Tensor]], eps: float
) -> Figure:
    """Images of two pixels as points, each in the middle of its ball, and where networks say one class or the other.

    classes: name -> images, (n, 2); panels: title -> score, (..., 2) to (...), above 0 where the second class is
    named."""
    side = torch.linspace(0, 1, 201)
    plane = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1)
    with style():
        figure, axes = _grid(len(panels), 3.0, 3.1, sharey=True)
        for ax, (title, score) in zip(axes.flat, panels.items(), strict=False):
            found = score(plane)
            ax.contourf(side, side, found, levels=[-1e9, 0, 1e9], colors=["#dfe7ec", "#f7e6d2"])
            ax.contour(side, side, found, levels=[0], colors=COLOURS[0], linewidths=1.4)
            for (name, images), marker, colour in zip(classes.items(), MARKERS, (COLOURS[4], COLOURS[2]), strict=False):
                ax.plot(*images.T, marker, color=colour, label=name)
                for corner in images - eps:
                    ax.add_patch(plt.Rectangle(corner.tolist(), 2 * eps, 2 * eps, fill=False, ec=colour))
            ax.set(title=title, aspect="equal", xlim=(0, 1), ylim=(0, 1))
            ax.grid(False)
        _label(axes, len(panels), "first pixel (0 black, 1 white)", "second pixel (0 black, 1 white)")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=LEGEND)
    return figure


def trails(
    loss: Callable[[torch.Tensor], torch.Tensor],
    panels: Mapping[str, Mapping[str, torch.Tensor]],
    centre: Sequence[float],
    eps: float,
) -> Figure:
    """Where attacks on two pixels read gradients, points (n, 2) by name, in their order, on the contours of a loss,
    (..., 2) to (...). The square is the ball of radius eps around the clean image, the cross."""
    side = [torch.linspace(c - 2.2 * eps, c + 2.2 * eps, 121) for c in centre]
    height = loss(torch.stack(torch.meshgrid(*side, indexing="xy"), -1))
    with style():
        figure, axes = _grid(len(panels), 3.1, 3.6, sharey=True)
        for ax, (title, trail) in zip(axes.flat, panels.items(), strict=False):
            ax.contourf(*side, height, 14, cmap="Greys_r", alpha=0.55)
            corner = [c - eps for c in centre]
            ax.add_patch(plt.Rectangle(corner, 2 * eps, 2 * eps, fill=False, ec=COLOURS[0], lw=1.4, ls="--"))
            ax.plot(*centre, "+", color=COLOURS[0], markersize=10, zorder=5)
            for (name, points), marker, colour in zip(trail.items(), MARKERS, COLOURS[1:], strict=False):
                ax.plot(*points.T, marker=marker, color=colour, lw=1.0, markersize=4.5, label=name)
            ax.set(title=title, aspect="equal", xlim=side[0][[0, -1]].tolist(), ylim=side[1][[0, -1]].tolist())
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), fontsize=LEGEND)
            ax.grid(False)
        _label(axes, len(panels), "first pixel (0 black, 1 white)", "second pixel (0 black, 1 white)")
    return figure


def save(figure: Figure, name: str, run: Run) -> Path:
    """Write <name>.svg among the figures of a chapter's run, whole and without a date, so that the same figure is the
    same file. Raises WriteError."""
    file = run.figures / f"{name}.svg"
    with style(), replacing(file) as partial:
        figure.savefig(partial, format="svg", metadata={"Date": None})
    return file
