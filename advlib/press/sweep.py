"""One chapter for every combination of some values, each a run of its own folder.

python -m advlib sweep 02 -p seed=0..7 -p "eps_255=4;8" --at-once 2

`0..7` is a range of whole numbers with both its ends; `a,b,c` are alternatives. In a parameter that is a list, a comma
separates the members of one value, as in `run`, and a semicolon alternatives; elsewhere a semicolon does as a comma.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable, Sequence
from itertools import product
from math import prod
from pathlib import Path

from ..bench.chapters import FIXED, VARIABLE, UsageError, select
from . import run, side_by_side
from .run import Chapter, Job

MOST = 10_000
"""Runs of one sweep: more of them are a slip of the pen."""


def sweep(
    number: str,
    scale: str,
    dataset: str,
    given: Sequence[str],
    fresh: bool,
    notebooks: Path,
    build: Path,
    at_once: int = 1,
    dry: bool = False,
) -> bool:
    """Run what is not done yet, each in a process of its own, up to `at_once` of them at a time; whether all are done.

    given: "name=values" as typed. One that fails does not stop the others. fresh: also what is done, all from its
    beginning; dry: only print the runs. Raises UsageError, before anything is executed, as `run.run` does, and for two
    combinations that are one run.
    """
    chapter = run.read_chapter(select([number], notebooks)[0])
    run.check_dataset(chapter, dataset)
    found = combinations(chapter, given)
    plan = [(said, run.planned(chapter, scale, dataset, said, fresh, build)) for said in found]
    _check_folders(plan)
    before = [job.done for _, job in plan]
    print(f"{chapter.number}  {chapter.title} ({scale}, {dataset}): {len(plan)} runs, {sum(before)} of them done")
    _list(plan, before)
    if dry:
        return True
    todo = {
        f"{place}/{len(plan)}": (said, job)
        for place, ((said, job), done) in enumerate(zip(plan, before, strict=True), 1)
        if fresh or not done
    }
    failed: dict[str, str] = {}

    def heard(name: str, code: int, printed: list[str]) -> None:
        if code:
            failed[name] = first_line(code, printed)

    commands = {name: job.command(said) for name, (said, job) in todo.items()}
    # Where networks are still to be trained that every run loads, the first run trains them and the others wait.
    trains = bool(todo) and chapter.number in run.trainers(dataset)
    well = side_by_side.run(commands, at_once, list(commands)[:1] if trains else (), heard)
    print(f"\n{len(plan) - len(failed)} done, {len(failed)} failed")
    for place, (_, job) in enumerate(plan, 1):
        error = failed.get(f"{place}/{len(plan)}")
        print(f"  {'done' if error is None else 'failed':<6}  {_shown(job)}" + (f"  {error}" if error else ""))
    return well


def combinations(chapter: Chapter, given: Iterable[str]) -> list[list[str]]:
    """Every combination of what was typed, each as `run` takes it: "name=value". What is no parameter stays as it is,
    for `run.settle` to refuse. Raises UsageError."""
    choices, names = [], set()
    for item in given:
        name, equals, text = item.partition("=")
        if name in names:
            raise UsageError(f"-p {item}: {name} is given twice; its values belong together, {name}=a,b")
        names.add(name)
        known = chapter.parameters.get(name) if equals and name not in FIXED else None
        choices.append([f"{name}={value}" for value in alternatives(text, known.kind)] if known else [item])
    if prod(map(len, choices)) > MOST:
        raise UsageError(f"{prod(map(len, choices)):,} runs: expected at most {MOST:,}")
    return [list(chosen) for chosen in product(*choices)]


def alternatives(text: str, kind: str) -> list[str]:
    """The values of a parameter of that kind that a text names. Raises UsageError for a range that runs backwards."""
    parts = text.split(";" if kind.startswith("list[") or ";" in text else ",")
    found: list[str] = []
    for part in map(str.strip, parts):
        ends = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", part)
        if ends and kind.removesuffix(" | None") in ("int", "float"):
            first, last = map(int, ends.groups())
            if not 0 <= last - first < MOST:
                raise UsageError(f"range {part}: expected first..last, both included, of at most {MOST:,} numbers")
            found += map(str, range(first, last + 1))
        else:
            found.append(part)
    return found


def _check_folders(plan: Iterable[tuple[list[str], Job]]) -> None:
    """Raises UsageError for two runs of one folder: a combination that is given twice, or $ADVLIB_RUN."""
    seen: dict[Path, list[str]] = {}
    for said, job in plan:
        other = seen.setdefault(job.kept.folder, said)
        if other is not said:
            both = f"{' '.join(other)} and {' '.join(said)}"
            why = f" (${VARIABLE} names it: unset it)" if VARIABLE in os.environ else ""
            raise UsageError(f"{both} are one run, {job.kept.folder}{why}")


def _list(plan: Sequence[tuple[list[str], Job]], done: Sequence[bool]) -> None:
    """A line for each run: its number, what differs between the runs, its state, its folder."""
    same = set.intersection(*(set(said) for said, _ in plan)) if len(plan) > 1 else set()
    differs = [" ".join(item for item in said if item not in same) for said, _ in plan]
    width = max(map(len, differs))
    for place, (what, (_, job), is_done) in enumerate(zip(differs, plan, done, strict=True), 1):
        state = "done" if is_done else "begun" if job.begun else "not begun"
        print(f"{place:>4}  {what:<{width}}  {state:<9}  {_shown(job)}", flush=True)


def _shown(job: Job) -> str:
    return os.path.relpath(job.kept.folder)


def first_line(code: int, printed: Sequence[str]) -> str:
    """What a run that failed says of its error, in one line: the first of the last error that it printed."""
    lines = [line.strip() for line in printed if line.strip() and not line.startswith("executed so far: ")]
    errors = [line for line in printed if re.match(r"(advlib|[\w.]*(Error|Exception|Interrupt|Exit)): ", line)]
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return (errors or lines or [f"exit code {code}"])[-1].strip()
