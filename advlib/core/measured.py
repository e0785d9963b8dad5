"""Our committed tables, as far as a method needs them; `bench.results` has all of them, and how they are written."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from ..files.paths import RESULTS
from .published import kind


class Mean(NamedTuple):
    """Mean success (%) over targets, of n images; dataset, scale: of the run."""

    value: float
    n: int
    dataset: str
    scale: str


def means(
    stem: str, attacks: Iterable[str], dataset: str = "cifar10", scale: str = "laptop"
) -> dict[tuple[str, str, float], Mean]:
    """Mean black-box success of attacks in the committed table `stem`, by attack, kind of target and eps in 1/255, of
    the images that all models get right. Raises FileNotFoundError where the table is not there, ValueError where it
    lacks one of the attacks."""
    path, wanted = RESULTS / scale / dataset / f"{stem}.csv", set(attacks)
    found: dict[tuple[str, str, float], list[tuple[float, int]]] = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["metric"] == "asr" and row["attack"] in wanted and row["target"] not in row["source"].split("+"):
                key = row["attack"], kind(row["target"]), float(row["eps_255"])
                found[key].append((float(row["value"]), int(row["n"])))
    if missing := wanted - {attack for attack, _, _ in found}:
        raise ValueError(f"{stem}: has no {', '.join(sorted(missing))}")
    return {
        key: Mean(sum(value for value, _ in cells) / len(cells), min(n for _, n in cells), dataset, scale)
        for key, cells in found.items()
    }
