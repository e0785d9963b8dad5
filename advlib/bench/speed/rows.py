"""Rows of ratios, and the file that holds them."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pandas as pd
import torch

from ...files.paths import replacing
from ...files.provenance import run_info
from ..results import RESULTS
from .cases import Rounds
from .subjects import Subject


class Row(NamedTuple):
    """A ratio: the median over `rounds` rounds, the smallest and the largest. conditions: what else it hangs on."""

    what: str
    model: str
    batch: int
    ratio: float
    low: float
    high: float
    rounds: int
    conditions: str


def of(what: str, subject: Subject, ratios: Mapping[str, Rounds], conditions: str = "") -> list[Row]:
    """A row for each contestant's ratios. what: with {} where its name stands."""
    sides = f"{subject.side} px{', ' if conditions else ''}{conditions}"
    return [
        Row(what.format(name), subject.name, len(subject.x), median(r), min(r), max(r), len(r), sides)
        for name, r in ratios.items()
    ]


def table(found: Iterable[Row]) -> pd.DataFrame:
    """The rows as a page shows them."""
    heads = {"what": "what is measured", "low": "smallest", "high": "largest"}
    return pd.DataFrame(found).rename(columns=heads).set_index("what is measured").round(2)


def conditions(device: torch.device) -> dict[str, str]:
    """What a time depends on: the device, torch and its threads, cores, vector instructions, and whether bfloat16 is
    multiplied in hardware, "yes", "no", or "unknown" where torch does not say."""
    if device.type == "cuda":
        native = [torch.cuda.is_bf16_supported(including_emulation=False)]
    else:
        known = getattr(torch.cpu, "get_capabilities", dict)()
        native = [known[name] for name in ("avx512_bf16", "amx_bf16", "bf16") if name in known]
    return run_info(device) | {
        "threads": str(torch.get_num_threads()),
        "cores": str(os.cpu_count()),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16 in hardware": "unknown" if not native else "yes" if any(native) else "no",
    }


COLUMNS = (*Row._fields, "device", "torch", "threads", "commit")


def write(file: Path, rows: Iterable[Row], device: torch.device) -> None:
    """The rows as a CSV, with the device, torch's version and threads, and the commit. Raises WriteError."""
    info = run_info(device) | {"threads": torch.get_num_threads()}
    with replacing(file) as partial, partial.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row._asdict() | info for row in rows)


def of_gpus(sections: Collection[str], about: str, folder: Path = RESULTS / "gpu") -> pd.DataFrame:
    """The committed rows of these sections of `bench.gpu` whose metric has `about` in it, of every device that has been
    measured: a line for each case, a column for what else the metric says, and in it the median with the range of the
    rounds. Cases of one section follow on those of another. Empty where there are none."""
    found = {}
    for file in sorted(folder.glob("*.csv")):
        with file.open(newline="", encoding="utf-8") as opened:
            for row in csv.DictReader(opened):
                if row["section"] in sections and about in row["metric"]:
                    name = row["metric"].replace(about, "").strip(":, ") or about
                    found[f"{row['case']} ({row['device']})", name] = _with_range(row)
    index = pd.MultiIndex.from_tuples(found, names=("case", None))
    return pd.Series(found.values(), index, dtype=str).unstack(sort=False, fill_value="")


def _with_range(row: Mapping[str, str]) -> str:
    value, low, high = (f"{float(row[name]):.2f}" if row[name] else "" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]" if low else value
