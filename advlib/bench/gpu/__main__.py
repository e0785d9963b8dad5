"""`python -m advlib.bench.gpu`: see the package."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import nan
from pathlib import Path
from time import perf_counter

import torch

from ...files.paths import BUILD
from ...zoo import datasets
from ..speed.cases import Bench, Case, Measure, OutOfTimeError
from . import exactness, fused, graphs, speed
from .table import Table

Section = Callable[[Bench], Iterable[Case]]
SECTIONS: dict[str, Section] = {
    "ceilings": speed.ceilings,
    "exactness": exactness.exactness,
    "kernels": fused.fused,
    "loop": speed.loop,
    "training": speed.training,
    "products": speed.products,
    "copies": speed.with_copies,
    "graphs": graphs.graphs,
    "compiled": speed.compiled,
}
"""In the order of their worth. One more is a function of a `Bench` that yields cases, and a line here."""
SKIPPED, FAILED = "skipped", "failed"
"""Metrics of a case that has none; its note says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sections and return 1 if a case has failed. Raises SystemExit on a command that cannot be run."""
    start = perf_counter()
    args = _parser().parse_args(argv)
    if not torch.cuda.is_available() and not args.tiny:
        raise SystemExit("no GPU: torch.cuda.is_available() says no; --tiny rehearses on the CPU")
    if args.data is not None:
        os.environ["ADVLIB_DATA"] = str(args.data.resolve())
        if datasets.locate("cifar10") is None:
            raise SystemExit(f"--data {args.data}: holds no cifar10")
    bench = Bench(
        torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        args.tiny,
        "shapes" if args.data is None else "cifar10",
        lambda: args.budget - (perf_counter() - start),
    )
    table = Table(args.out, bench.device, args.tiny)
    failed = run(SECTIONS, bench, table, lambda line: print(f"{perf_counter() - start:6.1f} s  {line}", flush=True))
    print(table.path)
    if failed:
        print(f"{len(failed)} cases failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m advlib.bench.gpu", description="What a GPU has to tell, as a CSV.")
    parser.add_argument("--budget", type=float, default=440.0, metavar="SECONDS", help="of all sections (440)")
    parser.add_argument("--out", type=Path, default=BUILD / "gpu", metavar="DIR", help="where the CSV goes")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="that holds cifar10, in place of shapes, for exactness"
    )
    parser.add_argument("--tiny", action="store_true", help="a rehearsal, also without a GPU, in less than a minute")
    return parser


def run(sections: Mapping[str, Section], bench: Bench, table: Table, say: Callable[[str], None]) -> list[str]:
    """Run all cases that fit into the budget, and return the names of those that failed. say: gets a line for each."""
    failed = []
    for section, make in sections.items():
        for case in _cases(make, bench):
            measures, note = _tried(case, bench)
            if measures[0].metric == FAILED:
                failed.append(f"{section}: {case.name}")
            table.add(section, case.name, measures, note)
            say(f"{section}: {case.name}: {note or ', '.join(map(_shown, measures))}")
            if bench.device.type == "cuda":
                torch.cuda.empty_cache()
    return failed


def _cases(make: Section, bench: Bench) -> list[Case]:
    """Those of a section; where they cannot be prepared, one that fails."""
    try:
        return list(make(bench))
    except Exception as error:  # what is raised for damaged weights or data
        reason = error

    def fail() -> list[Measure]:
        raise reason

    return [Case("preparation", 0, fail)]


def _tried(case: Case, bench: Bench) -> tuple[list[Measure], str]:
    """The measures of a case, and why there are none: in one line, and for a failure on stderr in full."""
    needed, left = 0 if bench.tiny else case.seconds, bench.left()
    if needed > left:
        return [Measure(SKIPPED, nan, "")], f"takes about {needed:.0f} s, and {left:.0f} s are left"
    try:
        return list(case.run()), ""
    except (OutOfTimeError, torch.OutOfMemoryError) as error:
        return [Measure(SKIPPED, nan, "")], _line(error)
    except Exception as error:  # whatever a device raises: the other cases are worth having
        traceback.print_exc()
        return [Measure(FAILED, nan, "")], f"{type(error).__name__}: {_line(error)}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _shown(measure: Measure) -> str:
    return f"{measure.metric} {measure.value:.4g} {measure.unit}".strip()


if __name__ == "__main__":
    sys.exit(main())
