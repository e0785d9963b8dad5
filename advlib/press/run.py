"""Chapters as programs: read the percent source, check parameters by name, type and limits, execute with papermill.

`run` is what `python -m advlib run` calls. Everything that can be refused is refused before a kernel starts.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jupytext
import nbformat
import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from ..bench import chapters
from ..bench.chapters import FIXED, Parameter, Run, UsageError, coerce, did_you_mean, heading, run_folder
from ..bench.progress import LINE
from ..files import locks
from ..files.paths import ROOT, WriteError, made
from ..zoo import registry
from . import minutes, side_by_side
from .minutes import Taken, Wait
from .news import News

if TYPE_CHECKING:
    from .yardstick import Yardstick


@dataclass(frozen=True)
class Chapter:
    """A percent source. title: its first heading."""

    source: Path
    notebook: NotebookNode
    title: str
    parameters: dict[str, Parameter]

    @property
    def number(self) -> str:
        return chapters.number(self.source)

    @property
    def datasets(self) -> list[str]:
        """The data sets it runs on: those that its parameter `dataset` is limited to; all if it has no limit."""
        return self.parameters["dataset"].choices or list(registry.CHAPTERS)


# --- reading chapters ------------------------------------------------------------------------------------------------


def read_chapter(source: Path) -> Chapter:
    """Raises UsageError if the source has no parameters cell as style asks for it: annotated literals, one a line."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata.pop("jupytext", None)  # the pairing is in jupytext.toml
    for place, cell in enumerate(notebook.cells):
        cell["id"] = f"{chapters.number(source)}-{place:03d}"  # random ids would make every execution a new diff
    return Chapter(source, notebook, chapters.title(source), chapters.parameters(source))


# --- values from the command line ------------------------------------------------------------------------------------


def parse_value(text: str, kind: str) -> object:
    """A value as typed: a Python literal, or a bare word; for a list also `a,b`. TypeError if it is not a `kind`."""
    value = _literal(text)
    if kind.startswith("list[") and (not isinstance(value, list | tuple) or text.rstrip().endswith(",")):
        parts = [part.strip() for part in text.strip().removeprefix("[").removesuffix("]").split(",")]
        if not all(parts):
            raise TypeError(kind)
        value = [_literal(part) for part in parts]
    return coerce(value, kind)


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def settle(chapter: Chapter, scale: str, dataset: str, given: Iterable[str]) -> dict[str, object]:
    """The values that differ from the chapter's defaults. given: "name=value" as typed. Raises UsageError."""
    values: dict[str, object] = {"scale": scale, "dataset": dataset}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals:
            raise UsageError(f"-p {item}: expected name=value")
        if name in FIXED:
            raise UsageError(f"-p {item}: use --{name} {text}")
        if name not in chapter.parameters:
            raise UsageError(
                f"chapter {chapter.number} has no parameter {name!r}{did_you_mean(name, chapter.parameters)}"
            )
        values[name] = _typed(text, chapter.parameters[name], chapter.number)
    return {name: value for name, value in values.items() if value != chapter.parameters[name].default}


def _typed(text: str, parameter: Parameter, number: str) -> object:
    """What was typed for a parameter, as its kind and within its limits."""
    where = f"chapter {number}, parameter {parameter.name!r}"
    try:
        return parameter.checked(parse_value(text, parameter.kind))
    except TypeError:
        hint = " (a number that is meant as text needs its own quotes)" if "str" in parameter.kind else ""
        raise UsageError(f"{where}: expected {parameter.expected}, got {text!r}{hint}") from None
    except UsageError as error:
        raise UsageError(f"chapter {number}, {error}") from None


# --- execution -------------------------------------------------------------------------------------------------------


class _ThisInterpreter(AsyncKernelManager):
    """A kernel of the interpreter that runs us, whatever kernels are registered on the machine."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(**get_kernel_dict())


class _Progress:
    """A plain line for each code cell: its number is written when it starts, its time when it ends, and in between what
    the cell itself says of its progress; below it the tables and figures that it made. It is the file that papermill
    writes the cells' output to."""

    def __init__(self, chapter: Chapter, injected: bool, news: News) -> None:
        self.number, self.cell, self.start, self.done, self.news = chapter.number, None, 0.0, 0, news
        code = [c for c in chapter.notebook.cells if c.cell_type == "code" and c.source.strip()]
        self.total, self.labels, label = len(code) + injected, {}, None
        for cell in chapter.notebook.cells:
            if cell.cell_type == "markdown":
                label = heading(cell.source) or label
            elif cell.cell_type == "code":
                self.labels[cell.id], label = label, None

    def on_cell_execute(self, cell: NotebookNode, cell_index: int) -> None:
        self.cell, self.start, self.done = cell, time.perf_counter(), self.done + 1
        self._begin_line()

    def _begin_line(self) -> None:
        print(f"{self.number}  [{self.done:2d}/{self.total}] ", end="", flush=True)

    def write(self, output: str) -> None:
        for line in LINE.findall(output):
            print(f"   ... {line}", flush=True)
            self._begin_line()

    def flush(self) -> None:
        """Part of being a file; `write` keeps nothing back."""

    def on_cell_executed(self, cell: NotebookNode, cell_index: int, execute_reply: dict) -> None:
        label = self.labels.get(cell.id) or cell.source.strip().splitlines()[0]
        print(f"{time.perf_counter() - self.start:6.1f} s  {label[:80]}", flush=True)
        for line in self.news.lines():
            print(f"    {line}", flush=True)


def execute(chapter: Chapter, values: dict[str, object], kept: Run) -> bool:
    """Executes into the run's folder, <source's name>.ipynb; False if a cell failed, after its source and error went to
    stderr.

    values: parameters that differ from the defaults. The notebook of a failed run stays beside as .partial.ipynb.
    Raises BusyError where another run writes this notebook, WriteError where it cannot be written.
    """
    folder = kept.folder
    output = folder / f"{chapter.source.stem}.ipynb"
    partial = folder / f"{chapter.source.stem}.partial.ipynb"
    lock = locks.acquire(output)
    progress = _Progress(chapter, bool(values), News(kept))
    try:
        with _told(folder):
            executed = papermill.execute_notebook(
                chapter.notebook,
                partial,
                values,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                cwd=ROOT,
                kernel_manager_class=_ThisInterpreter,
                record_timing=False,
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # being shut down is logged as an error otherwise
                stdout_file=progress,
                on_cell_execute=progress.on_cell_execute,
                on_cell_executed=progress.on_cell_executed,
            )
        nbformat.write(tidied(executed), partial)
        os.replace(partial, output)
    except PapermillExecutionError as error:
        trace = "\n".join(error.traceback) or f"{error.ename}: {error.evalue}"
        _report_failure(chapter, error.source, trace, partial)
        return False
    except DeadKernelError:
        print(flush=True)  # the line that the cell began
        source = progress.cell.source if progress.cell else ""
        _report_failure(chapter, source, "The kernel died in this cell; most often memory ran out.", partial)
        return False
    except OSError as error:
        if error.errno is None:  # a timeout, which writes nothing
            raise
        raise WriteError(error, error.filename or partial) from error
    finally:
        lock.release()
    return True


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """The kernels that start inside know in which folder the run is kept (`chapters.run_folder`)."""
    before = os.environ.get(chapters.VARIABLE)
    os.environ[chapters.VARIABLE] = str(folder.resolve())
    try:
        yield
    finally:
        if before is None:
            del os.environ[chapters.VARIABLE]
        else:
            os.environ[chapters.VARIABLE] = before


def _report_failure(chapter: Chapter, source: str, trace: str, partial: Path) -> None:
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", trace)
    print(
        f"\nchapter {chapter.number} failed in this cell:\n\n{source}\n\n{plain}\n\nexecuted so far: {partial}",
        file=sys.stderr,
        flush=True,
    )


def complete(path: Path) -> bool:
    """Whether an executed notebook is there and every cell of it came to its end."""
    try:
        cells = nbformat.read(path, as_version=4).cells
    except (FileNotFoundError, ValueError):  # cut: a kill fell into its writing
        return False
    code = [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]
    failed = any(output.output_type == "error" for cell in code for output in cell.outputs)
    return not failed and all(cell.execution_count for cell in code)


def tidied(notebook: NotebookNode) -> NotebookNode:
    """An executed notebook as it is kept: without papermill's records, which hold times and this machine's paths, and
    with what a cell printed in one piece, however the kernel happened to send it."""
    for part in (notebook, *notebook.cells):
        part.metadata.pop("papermill", None)
        if not part.metadata.get("tags", True):
            del part.metadata["tags"]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
    return notebook


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs, neighbours of one stream as one."""
    kept: list[NotebookNode] = []
    for output in outputs:
        stream = output.output_type == "stream" and kept and kept[-1].output_type == "stream"
        if stream and kept[-1].name == output.name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


@dataclass(frozen=True)
class Job:
    """A chapter that is to be run. values: as `settle` gives them; fresh: whether it forgets what it would go on from;
    resumed: whether it goes on from earlier tables or checkpoints; taken: what it took once, None where that is not
    known."""

    chapter: Chapter
    values: dict[str, object]
    kept: Run
    fresh: bool
    resumed: bool
    taken: Taken | None

    @property
    def conditions(self) -> str:
        return f"({self.kept.scale}, {self.kept.dataset})"

    @property
    def notebook(self) -> Path:
        return self.kept.folder / f"{self.chapter.source.stem}.ipynb"

    @property
    def partial(self) -> Path:
        """Where the notebook lies until it is executed to its end."""
        return self.notebook.with_suffix(".partial.ipynb")

    @property
    def done(self) -> bool:
        """Whether the notebook was executed to its end, and none was begun since that was not."""
        return not self.partial.exists() and complete(self.notebook)

    @property
    def begun(self) -> bool:
        """Whether there is something to go on from, or what a run left that ended early."""
        return self.partial.exists() or _resumes(self.kept)

    @property
    def record(self) -> Path:
        """Where it says what it took."""
        return minutes.beside(self.notebook)

    @property
    def whole(self) -> bool:
        """Whether what it takes now is what it takes: all of the chapter, with its defaults."""
        return not self.resumed and not set(self.values) - set(FIXED)

    def command(self, given: Sequence[str]) -> list[str]:
        """What Python is told to run it in a process of its own."""
        where = ["--scale", self.kept.scale, "--dataset", self.kept.dataset, "--out", str(self.kept.folder)]
        chosen = [part for item in given for part in ("-p", item)]
        return ["-m", "advlib", "run", self.kept.chapter, *where, *chosen, *(["--fresh"] if self.fresh else [])]

    def wait(self, yardstick: Yardstick | None) -> Wait:
        known = self.taken is not None and yardstick is not None
        seconds = self.taken.seconds * yardstick.seconds / self.taken.yardstick if known else None
        return Wait(self.chapter.number, seconds, self.resumed)


def run(
    numbers: Iterable[str],
    scale: str,
    dataset: str,
    given: Iterable[str],
    fresh: bool,
    notebooks: Path,
    build: Path,
    out: Path | None = None,
    at_once: int = 1,
) -> bool:
    """Runs chapters, each into the folder of its run, and stops at the first that fails (False). at_once: how many at a
    time (`side_by_side`).

    The folder is `out`, or else `chapters.run_folder`'s in `build`. A chapter picks up its earlier tables and
    checkpoints there, so that a killed run resumes; `fresh` deletes them. Where all chapters are asked for, those that
    do not know the data set are left out, and that is printed; and what is known of how long it will take (`minutes`).
    Raises UsageError, before anything is executed, for what cannot be run.
    """
    given, numbers, known = list(given), list(numbers), minutes.known(notebooks)
    found = [read_chapter(source) for source in chapters.select(numbers, notebooks)]
    for chapter in [c for c in found if dataset not in c.datasets]:
        if numbers:
            check_dataset(chapter, dataset)
        print(f"{chapter.number}  left out: {_not_on(chapter, dataset)}")
        found.remove(chapter)
    jobs = [planned(chapter, scale, dataset, given, fresh, build, out, known) for chapter in found]
    if at_once > 1 and len(jobs) > 1:
        return _several(jobs, given, at_once)
    return _all(jobs)


def check_dataset(chapter: Chapter, dataset: str) -> None:
    """Raises UsageError where a chapter does not run on a data set."""
    if dataset not in chapter.datasets:
        raise UsageError(_not_on(chapter, dataset))


def _not_on(chapter: Chapter, dataset: str) -> str:
    return f"chapter {chapter.number} runs on {', '.join(chapter.datasets)}, not on {dataset}"


def planned(
    chapter: Chapter,
    scale: str,
    dataset: str,
    given: Iterable[str],
    fresh: bool,
    build: Path,
    out: Path | None = None,
    known: Mapping[tuple[str, str, str], Taken] | None = None,
) -> Job:
    """What is to be run, as `run` describes it. known: of `minutes.known`. Raises UsageError."""
    values = settle(chapter, scale, dataset, given)
    kept = Run(chapter.number, out or run_folder(scale, dataset, values, build), scale, dataset)
    taken = None if set(values) - set(FIXED) else (known or {}).get((chapter.number, scale, dataset))
    return Job(chapter, values, kept, fresh, not fresh and _resumes(kept), taken)


def _all(jobs: Sequence[Job]) -> bool:
    """Whether all of them could be run to the end."""
    here = _yardstick() if any(job.taken for job in jobs) else None
    if len(jobs) > 1:
        print(f"{len(jobs)} chapters {jobs[0].conditions}, on this machine {_outlook(jobs, here)}", flush=True)
    for place, job in enumerate(jobs, 1):
        kept, others = job.kept, jobs[place:]
        print(f"{kept.chapter}  {job.chapter.title} {job.conditions}, {_outlook([job], here)}", flush=True)
        seconds = _timed(job)
        if seconds is None:
            return False
        here = _yardstick() if job.whole or any(other.taken for other in others) else None
        if job.whole and here is not None:
            minutes.write(job.record, [Taken(kept.chapter, kept.scale, kept.dataset, seconds, *here)])
        left = f"; {len(others)} to go, {_outlook(others, here)}" if others else ""
        print(f"{kept.chapter}  -> {os.path.relpath(job.notebook)}, {minutes.said(seconds)}{left}", flush=True)
    return True


def _several(jobs: Sequence[Job], given: Sequence[str], at_once: int) -> bool:
    """The same, several at a time: those that train what others load in their order, then those first that take
    longest."""
    own = side_by_side.threads(at_once)
    here = _yardstick(own) if any(job.taken for job in jobs) else None
    waits = {job.kept.chapter: job.wait(here) for job in jobs}
    print(f"{len(jobs)} chapters {jobs[0].conditions}, {at_once} at a time, on this machine", end=" ")
    print(minutes.outlook(list(waits.values()), at_once), flush=True)
    first = trainers(jobs[0].kept.dataset)
    order = sorted(jobs, key=lambda job: 0 if job.kept.chapter in first else -(waits[job.kept.chapter].seconds or 0))
    return side_by_side.run({job.kept.chapter: job.command(given) for job in order}, at_once, first)


def trainers(dataset: str) -> set[str]:
    """The chapters that have weights to train which others load."""
    from ..zoo import weights  # here: torch takes a second to load
    from .doctor import untrained

    names = [name.removesuffix(".safetensors") for name in weights.manifest()]
    return set(untrained(dataset, names))


def _timed(job: Job) -> float | None:
    """Seconds that a chapter took now, None if a cell failed."""
    if job.fresh:
        _forget(job.kept)
    made(job.kept.folder)
    if not job.resumed:
        job.record.unlink(missing_ok=True)
    start = time.perf_counter()
    done = execute(job.chapter, job.values, job.kept)
    return time.perf_counter() - start if done else None


def _outlook(jobs: Sequence[Job], yardstick: Yardstick | None) -> str:
    """How long some chapters will take, in words."""
    return minutes.outlook([job.wait(yardstick) for job in jobs])


def _yardstick(threads: int | None = None) -> Yardstick | None:
    from . import yardstick  # here: torch takes a second to load

    return yardstick.measured(threads)


def _begun(kept: Run) -> tuple[Path, Path]:
    """Where that lies which a chapter goes on from."""
    return kept.tables, kept.checkpoints


def _resumes(kept: Run) -> bool:
    """Whether there is something to go on from."""
    return any(folder.is_dir() and any(folder.iterdir()) for folder in _begun(kept))


def _forget(kept: Run) -> None:
    """Delete what a chapter would go on from."""
    for folder in _begun(kept):
        if folder.exists():
            shutil.rmtree(folder)
