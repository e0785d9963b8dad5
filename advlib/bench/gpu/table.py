"""The rows of one run, in a file that is replaced whenever some are added."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from math import nan
from pathlib import Path

import torch

from ...files.paths import replacing
from ...files.provenance import CODE, run_info
from ..speed.cases import Measure

COLUMNS = (
    *("section", "case", "metric", "value", "unit", "rounds", "low", "high", "note"),
    *("device", "torch", "commit", "code"),
)


class Table:
    """The file <folder>/<device>.csv, or <device>.tiny.csv, empty at first. Raises WriteError where it cannot be
    written."""

    def __init__(self, folder: Path, device: torch.device, tiny: bool) -> None:
        self._info = run_info(device) | {"code": CODE}
        name = re.sub(r"[^a-z0-9]+", "_", self._info["device"].lower()).strip("_")
        self.path = folder / f"{name}{'.tiny' if tiny else ''}.csv"
        self.rows: list[dict[str, object]] = []
        self._write()

    def add(self, section: str, case: str, measures: Iterable[Measure], note: str = "") -> None:
        """The rows of one case."""
        for metric, value, unit, rounds in measures:
            low, high = (min(rounds), max(rounds)) if rounds else (nan, nan)
            numbers = {"value": value, "low": low, "high": high}
            shown = {name: "" if number != number else f"{number:.6g}" for name, number in numbers.items()}
            texts = {"section": section, "case": case, "metric": metric, "unit": unit, "note": note}
            self.rows.append(texts | shown | {"rounds": len(rounds)} | self._info)
        self._write()

    def _write(self) -> None:
        with replacing(self.path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
