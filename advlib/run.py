"""Chapters as programs: read the percent source, check parameters by name and type, execute with papermill.

`run` is what `python -m advlib run` calls. Everything that can be refused is refused before a kernel starts.
"""

from __future__ import annotations

import ast
import difflib
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from .paths import ROOT
from .progress import LINE
from .results import DATASETS

SCALARS = {"int": int, "float": float, "str": str, "bool": bool}
SET_BY_OPTION = ("scale", "dataset")


class UsageError(ValueError):
    """A request that cannot be met, found before anything runs."""


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell. kind: the annotation as written, such as "float" or "list[str]"."""

    name: str
    kind: str
    default: object
    help: str


@dataclass(frozen=True)
class Chapter:
    """A percent source. title: its first heading."""

    source: Path
    notebook: NotebookNode
    title: str
    parameters: dict[str, Parameter]

    @property
    def number(self) -> str:
        return self.source.stem.split("_")[0]

    @property
    def datasets(self) -> list[str]:
        """The data sets it runs on: those that the help text of its parameter `dataset` names; all if it names none."""
        words = re.findall(r"\w+", self.parameters["dataset"].help)
        return [name for name in DATASETS if name in words] or list(DATASETS)


# --- reading chapters ------------------------------------------------------------------------------------------------


def sources(folder: Path) -> list[Path]:
    """The chapters' sources in the order in which they run: A1 and A2 train the weights that the others load."""
    found = (p for p in folder.glob("*.py") if re.fullmatch(r"(\d\d|A\d)_\w+", p.stem))
    return sorted(found, key=lambda p: (not p.stem.startswith(("A1_", "A2_")), p.stem))


def select(numbers: Iterable[str], folder: Path) -> list[Path]:
    """The sources with these numbers ("02", "A1"), in the order given; all of them if none is given."""
    by_number = {p.stem.split("_")[0]: p for p in sources(folder)}
    if not by_number:
        raise UsageError(f"no chapters in {folder}")
    numbers = list(dict.fromkeys(numbers)) or list(by_number)
    for number in numbers:
        if number not in by_number:
            raise UsageError(f"no chapter {number!r}{_did_you_mean(number, by_number)}")
    return [by_number[number] for number in numbers]


def read_chapter(source: Path) -> Chapter:
    """Raises UsageError if the source has no parameters cell as style asks for it: annotated literals, one a line."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata.pop("jupytext", None)  # the pairing is in jupytext.toml
    for place, cell in enumerate(notebook.cells):
        cell["id"] = f"{source.stem.split('_')[0]}-{place:03d}"  # random ids would make every execution a new diff
    headings = [h for c in notebook.cells if c.cell_type == "markdown" and (h := _heading(c.source))]
    tagged = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise UsageError(f"{source.name}: {len(tagged)} cells tagged parameters; expected one")
    parameters = parse_parameters(tagged[0].source, source.name)
    for name in SET_BY_OPTION:
        if name not in parameters:
            raise UsageError(f"{source.name}: no parameter {name!r}; every chapter has one")
    return Chapter(source, notebook, headings[0] if headings else source.stem, parameters)


def _heading(markdown: str) -> str | None:
    found = re.search(r"^#+ +(.+?)\s*$", markdown, re.MULTILINE)
    return found[1] if found else None


def parse_parameters(code: str, where: str) -> dict[str, Parameter]:
    """name -> Parameter of a parameters cell, `eps_255: float = 8.0  # help`. `where` names the file in errors."""
    try:
        body = ast.parse(code).body
    except SyntaxError as error:
        raise UsageError(f"{where}, parameters cell: {error}") from error
    found = {}
    for node in body:
        text = f"{where}, parameters cell, `{ast.get_source_segment(code, node)}`"
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
            raise UsageError(f"{text}: expected `name: type = literal`")
        kind = ast.unparse(node.annotation)
        try:
            default = coerce(ast.literal_eval(node.value), kind)
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{text}: expected a literal of type int, float, str, bool or a list of one") from error
        rest = code.splitlines()[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
        if "=" in rest:
            raise UsageError(f"{text}: no equals sign in the comment, papermill would take it for a value")
        found[node.target.id] = Parameter(node.target.id, kind, default, rest.strip().lstrip("# "))
    return found


# --- values from the command line ------------------------------------------------------------------------------------


def coerce(value: object, kind: str) -> object:
    """`value` as `kind`: an int may stand for a float, a tuple for a list; anything else is a TypeError."""
    if kind.endswith(" | None"):
        return None if value is None else coerce(value, kind.removesuffix(" | None"))
    if kind.startswith("list["):
        if not isinstance(value, list | tuple):
            raise TypeError(kind)
        return [coerce(item, kind[5:-1]) for item in value]
    if kind == "float" and type(value) is int:
        return float(value)
    if type(value) is not SCALARS[kind]:  # not isinstance: True is no int here
        raise TypeError(kind)
    return value


def parse_value(text: str, kind: str) -> object:
    """A value as typed: a Python literal, or a bare word; for a list also `a,b`. TypeError if it is not a `kind`."""
    value = _literal(text)
    if kind.startswith("list[") and not isinstance(value, list | tuple):
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
        if name in SET_BY_OPTION:
            raise UsageError(f"-p {item}: use --{name} {text}")
        if name not in chapter.parameters:
            close = _did_you_mean(name, chapter.parameters)
            raise UsageError(f"chapter {chapter.number} has no parameter {name!r}{close}")
        kind = chapter.parameters[name].kind
        try:
            values[name] = parse_value(text, kind)
        except TypeError:
            hint = " (a number that is meant as text needs its own quotes)" if "str" in kind else ""
            where = f"chapter {chapter.number}, parameter {name!r}"
            raise UsageError(f"{where}: expected {kind}, got {text!r}{hint}") from None
    return {name: value for name, value in values.items() if value != chapter.parameters[name].default}


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return (f"; did you mean {close[0]!r}?" if close else ";") + f" known: {', '.join(known) or 'none'}"


# --- execution -------------------------------------------------------------------------------------------------------


class _ThisInterpreter(AsyncKernelManager):
    """A kernel of the interpreter that runs us, whatever kernels are registered on the machine."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(**get_kernel_dict())


class _Progress:
    """A plain line for each code cell: its number is written when it starts, its time when it ends, and in between what
    the cell itself says of its progress. It is the file that papermill writes the cells' output to."""

    def __init__(self, chapter: Chapter, injected: bool) -> None:
        self.number, self.cell, self.start, self.done = chapter.number, None, 0.0, 0
        code = [c for c in chapter.notebook.cells if c.cell_type == "code" and c.source.strip()]
        self.total, self.labels, heading = len(code) + injected, {}, None
        for cell in chapter.notebook.cells:
            if cell.cell_type == "markdown":
                heading = _heading(cell.source) or heading
            elif cell.cell_type == "code":
                self.labels[cell.id], heading = heading, None

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


def execute(chapter: Chapter, values: dict[str, object], folder: Path) -> bool:
    """Executes into `folder`/<source's name>.ipynb; False if a cell failed, after its source and error went to stderr.

    values: parameters that differ from the defaults. The notebook of a failed run stays beside as .partial.ipynb.
    """
    output = folder / f"{chapter.source.stem}.ipynb"
    partial = folder / f"{chapter.source.stem}.partial.ipynb"
    folder.mkdir(parents=True, exist_ok=True)
    progress = _Progress(chapter, injected=bool(values))
    try:
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
    except PapermillExecutionError as error:
        trace = "\n".join(error.traceback) or f"{error.ename}: {error.evalue}"
        _report_failure(chapter, error.source, trace, partial)
        return False
    except DeadKernelError:
        print(flush=True)  # the line that the cell began
        source = progress.cell.source if progress.cell else ""
        _report_failure(chapter, source, "The kernel died in this cell; most often memory ran out.", partial)
        return False
    nbformat.write(_without_papermill(executed), partial)
    os.replace(partial, output)
    return True


def _report_failure(chapter: Chapter, source: str, trace: str, partial: Path) -> None:
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", trace)
    print(
        f"\nchapter {chapter.number} failed in this cell:\n\n{source}\n\n{plain}\n\nexecuted so far: {partial}",
        file=sys.stderr,
        flush=True,
    )


def _without_papermill(notebook: NotebookNode) -> NotebookNode:
    """Papermill's records hold times and this machine's paths, which do not belong into a committed notebook."""
    for part in (notebook, *notebook.cells):
        part.metadata.pop("papermill", None)
        if not part.metadata.get("tags", True):
            del part.metadata["tags"]
    return notebook


def run(
    numbers: Iterable[str], scale: str, dataset: str, given: Iterable[str], fresh: bool, notebooks: Path, build: Path
) -> bool:
    """Runs chapters one after the other into `build`/<scale>/<dataset>; stops at the first that fails (False).

    A chapter picks up its earlier tables in tables/<number> there, so that a killed run resumes; `fresh` deletes them.
    Where all chapters are asked for, those that do not know the data set are left out, and that is printed.
    Raises UsageError, before anything is executed, for what cannot be run.
    """
    folder, given, numbers = build / scale / dataset, list(given), list(numbers)
    chapters = [read_chapter(source) for source in select(numbers, notebooks)]
    for chapter in [c for c in chapters if dataset not in c.datasets]:
        message = f"chapter {chapter.number} runs on {', '.join(chapter.datasets)}, not on {dataset}"
        if numbers:
            raise UsageError(message)
        print(f"{chapter.number}  left out: {message}")
        chapters.remove(chapter)
    jobs = [(chapter, settle(chapter, scale, dataset, given)) for chapter in chapters]
    for chapter, values in jobs:
        if fresh:
            shutil.rmtree(folder / "tables" / chapter.number, ignore_errors=True)
        print(f"{chapter.number}  {chapter.title} ({scale}, {dataset})", flush=True)
        if not execute(chapter, values, folder):
            return False
        print(f"{chapter.number}  -> {os.path.relpath(folder / chapter.source.stem)}.ipynb", flush=True)
    return True
