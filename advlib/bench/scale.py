"""What the thesis' tables of attacks cost on GPUs: passes, arithmetic, hours, and how they spread over several.

    python -m advlib.bench.scale                                          the table of the page book/scale.md

A cell of a table is one attack on one source at one budget, of all images. Its passes are counted: those of our
committed rows of the same attack, for as many steps as the thesis takes. A pass is forward and back to the image, two
times the arithmetic of a forward pass, which torch counts on a network without memory; every target is shown the result
once. How long that takes is what a pass of ResNet-50 and ResNet-20 took on a GPU that was measured (`make gpu`), scaled
by arithmetic: that other networks reach the same rate is an assumption.
"""

from __future__ import annotations

import csv
import heapq
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..core import published
from ..files.paths import RESULTS
from ..zoo.models import CHAPTER_2
from . import results

TABLES = ("2.1", "2.2", "2.3", "2.4", "2.5", "3.1", "3.2", "3.3", "4.1", "4.2", "4.4")
STEPS = {"2": 10, "3": 100, "4": 50}
"""Of an attack in the thesis' chapters."""
OUR_STEPS = 10
"""Of our committed rows, whose passes are counted."""


class Source(NamedTuple):
    """A source of the thesis: the networks that it is the mean of, as timm names them, or a family of the zoo at full
    size; and the side of its images in pixels."""

    members: tuple[str, ...]
    side: int


_FOUR = {name: CHAPTER_2[name] for name in ("Inc-v3", "Inc-v4", "IncRes-v2", "Res-101")}
SOURCES = {name: Source((net,), 299) for name, net in _FOUR.items()} | {
    "Ensemble": Source(tuple(_FOUR.values()), 299),
    "ResNet50": Source(("resnet50",), 224),
    "DenseNet": Source(("densenet",), 32),
}
YARDSTICKS = {32: ("ResNet-20, 32 px, batch 1024", "resnet20"), 224: ("ResNet-50, 224 px, batch 256", "resnet50")}
"""By the side of the images: which case of the committed rows says what a pass takes, and its network."""


def cells(table: str) -> pd.DataFrame:
    """A line for each cell of a table as printed: source, attack, eps_255, n, and `passes` of an image, each member of
    an ensemble counted. Raises ValueError for a table that no committed rows tell the passes of."""
    printed, ours = published.table(table), results.committed(table, "laptop", "cifar10")
    if ours is None or not {*printed.attack} <= {*ours.attack} or printed.eps_255.isna().any():
        raise ValueError(f"table={table!r}: no attacks, or none whose passes are committed")
    found = printed.drop_duplicates(["source", "attack", "eps_255"])[["source", "attack", "eps_255", "n"]]
    members = {name: len(source.members) for name, source in SOURCES.items()}
    counted = ours.drop_duplicates("attack").set_index("attack")
    own = counted.source.str.count(r"\+") + 1  # an ensemble bears its members' names
    each = counted.passes / own * STEPS[table[0]] / OUR_STEPS
    passes = found.attack.map(each) * found.source.map(members)
    return found.assign(passes=passes.astype(int)).reset_index(drop=True)


# --- arithmetic ------------------------------------------------------------------------------------------------------


@cache
def forward(name: str, side: int) -> float:
    """Floating-point operations of a forward pass of one image. name: "resnet20", a family of the zoo at full size, or
    a network of timm."""
    with torch.device("meta"), torch.no_grad():
        net = _network(name).eval()
        with FlopCounterMode(display=False) as counter:
            net(torch.empty(1, 3, side, side))
    return float(counter.get_total_flops())


def _network(name: str) -> nn.Module:
    from ..zoo import nets
    from .speed import subjects

    if name == "resnet20":
        return subjects.resnet20().net
    if name in nets.FAMILIES:
        return nets.FAMILIES[name]["full"](10)
    import timm  # here: it takes seconds to load

    return timm.create_model(name, pretrained=False)


@cache
def rate(side: int) -> float:
    """Floating-point operations a second that passes over images of that side reach on the GPU that was measured, by
    the yardstick that is nearest: folded, in bfloat16, replayed as a CUDA graph."""
    nearest = min(YARDSTICKS, key=lambda known: abs(known - side))
    case, name = YARDSTICKS[nearest]
    wanted = {"section": "loop", "case": case, "metric": "folded, bfloat16, graph: speed"}
    for file in sorted((RESULTS / "gpu").glob("*.csv")):
        with file.open(newline="", encoding="utf-8") as opened:
            for row in csv.DictReader(opened):
                if wanted.items() <= row.items():
                    return float(row["value"]) * 2 * forward(name, nearest)
    raise FileNotFoundError(f"{RESULTS / 'gpu'}: no committed rows of {case}")


def seconds(table: str) -> list[float]:
    """Of each cell of a table on the GPU that was measured, in their order."""
    targets = published.table(table).target.nunique()
    found = []
    for cell in cells(table).itertuples():
        source = SOURCES[cell.source]
        mean = sum(forward(name, source.side) for name in source.members) / len(source.members)
        found.append(cell.n * mean * (2 * cell.passes + targets) / rate(source.side))
    return found


# --- several GPUs ----------------------------------------------------------------------------------------------------


def makespan(seconds: Sequence[float], workers: int, parts: int = 1, each: float = 0.0) -> float:
    """When the last of the workers is done, which take the next cell, or part of a cell, as soon as they are free, the
    longest first. parts: into which the images of a cell are divided; each: seconds that a part takes besides its work.
    """
    free = [0.0] * workers
    for work in sorted((work / parts + each for work in seconds for _ in range(parts)), reverse=True):
        heapq.heapreplace(free, free[0] + work)
    return max(free)


def table() -> pd.DataFrame:
    """A line for each of TABLES: cells, passes, arithmetic of the passes, and minutes on 1, 8 and 64 GPUs, whole cells
    to each, and on 64 with the images of a cell in 8 parts."""
    lines = {}
    for name in TABLES:
        found, took = cells(name), seconds(name)
        minutes = {f"minutes on {k}": makespan(took, k) / 60 for k in (1, 8, 64)}
        lines[name] = {
            "cells": len(found),
            "passes, millions": (found.n * found.passes).sum() / 1e6,
            "PFLOP": sum(took) * rate(SOURCES[found.source[0]].side) / 1e15,
            **minutes,
            "on 64, in 8 parts": makespan(took, 64, parts=8) / 60,
        }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("table")


if __name__ == "__main__":
    print(table().round(1).to_markdown())
