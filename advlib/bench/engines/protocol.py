"""What engines have in common: the job, its cells and errors, how it is packed, and the engine without workers."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import cloudpickle
import torch

from ...core import checks
from ..chapters import ENGINE

if TYPE_CHECKING:
    import pandas as pd

Cell = Hashable
"""One piece of work; what it means is between the job and the one who asks."""

TRIES = 3
"""How often a cell is begun whose worker dies."""


Say = Callable[[object], None]
"""What a job calls with whatever there is to tell before a result is there, such as an epoch of a training."""
Heard = Callable[[Cell, object], None]
"""What is called, in the process that asked, with a cell and what the job has said of it."""


class Job(Protocol):
    """What all cells share, and what is done with one: `job(cell, say)`, inside of `job.ready()`. What a job holds is
    pickled; `parts` names it in words for errors. device: where its tensors are."""

    @property
    def device(self) -> torch.device: ...

    def parts(self) -> Mapping[str, object]: ...

    def ready(self) -> AbstractContextManager[None]: ...

    def __call__(self, cell: Cell, say: Say) -> object: ...


@dataclass(frozen=True)
class CellError:
    """Why there is no result of a cell: one line, and where the worker was, if it could still tell."""

    cause: str
    trace: str = ""


class FailedCells(RuntimeError):
    """Some cells, or trainings, have no result. errors: by cell; rows: of a table, those of the cells that are done."""

    def __init__(
        self, errors: Mapping[str, CellError], of: int, rows: pd.DataFrame | None = None, kind: str = "cells"
    ) -> None:
        self.errors, self.rows = dict(errors), rows
        lines = [f"\n  {cell}: {error.cause}" for cell, error in self.errors.items()]
        super().__init__(f"{len(lines)} of {of} {kind} failed, the others are done:{''.join(lines)}")


@runtime_checkable
class Engine(Protocol):
    """Runs a job on cells. Gives each cell once, in the order of finishing, with its result or a CellError; `heard` is
    told before what the job has said of it. To close the iterator is to stop the work. at_once: how many cells are run
    at the same time, or 2 where that is yet to be found out."""

    def at_once(self, job: Job) -> int: ...

    def run(self, job: Job, cells: Sequence[Cell], heard: Heard = ...) -> Iterator[tuple[Cell, object]]: ...


def unheard(cell: Cell, said: object) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Serial:
    """One cell after another in this process. What the job raises is raised at once."""

    def at_once(self, job: Job) -> int:
        return 1

    def run(self, job: Job, cells: Sequence[Cell], heard: Heard = unheard) -> Iterator[tuple[Cell, object]]:
        with job.ready():
            for cell in cells:
                yield cell, job(cell, partial(heard, cell))


def of_chapters() -> str:
    """The engine that $ADVLIB_ENGINE names, or "serial"."""
    return os.environ.get(ENGINE) or "serial"


def chosen(engine: object) -> Engine:
    """An engine, or the one of that name: "serial", "local" or "ray", the last two also with a number of jobs behind
    them, "local:4". Raises TypeError or ValueError for another value, and ModuleNotFoundError where Ray is not
    installed."""
    from . import Local, OnRay  # here: they stand on this module

    if isinstance(engine, Engine) and not isinstance(engine, type):
        return engine
    known = {"serial": Serial, "local": Local, "ray": OnRay}
    name, colon, jobs = engine.partition(":") if isinstance(engine, str) else (engine, "", "")
    checks.choice("engine", name, known)
    if not colon:
        return known[name]()
    if name == "serial" or not jobs.isdigit():
        raise ValueError(f"engine={engine!r}: expected serial, or local or ray, with :jobs for a number of workers")
    return known[name](jobs=int(jobs))


# --- what is sent ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed:
    """A pickled job. home: the kind of device that its tensors are on."""

    home: str
    content: bytes


def packed(job: Job) -> Packed:
    """A job for other processes: networks that occur twice in it are one again on arrival. Raises TypeError, by its
    name, for a part that cannot be pickled."""
    check_sendable(job)
    try:
        return Packed(job.device.type, _dumped(job))
    except Exception as error:
        raise TypeError(f"the job cannot be sent to another process ({error})") from error


def unpacked(job: Packed, device: str) -> Job:
    """The job on the CPU or on the GPU that this process sees: device is "cpu" or "cuda". What a job on a GPU keeps on
    the CPU stays there."""

    def placed(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
        moves = device == "cuda" and (location.startswith("cuda") or job.home != device)
        return storage.cuda() if moves else storage

    return torch.load(io.BytesIO(job.content), map_location=placed, weights_only=False)


def _dumped(value: object) -> bytes:
    # torch's own way, since it alone lets a tensor arrive on another device than it left.
    content = io.BytesIO()
    torch.save(value, content, pickle_module=cloudpickle, pickle_protocol=pickle.HIGHEST_PROTOCOL)
    return content.getvalue()


def check_sendable(job: Job) -> None:
    """Raises TypeError, by its name, for a part of a job that cannot be pickled. It costs little: what the tensors hold
    is left out."""

    class Outline(cloudpickle.Pickler):
        def persistent_id(self, value: object) -> str | None:
            return "values" if isinstance(value, torch.storage.TypedStorage | torch.UntypedStorage) else None

    for name, part in job.parts().items():
        try:
            Outline(io.BytesIO(), pickle.HIGHEST_PROTOCOL).dump(part)
        except Exception as error:
            raise TypeError(
                f"{name}: it cannot be sent to another process ({type(error).__name__}: {error}): leave out "
                'what belongs to this process alone, such as a lock or an open file, or use engine="serial"'
            ) from error


def taken(answer: tuple[str, object]) -> object:
    """The result or the CellError in a worker's answer. Raises RuntimeError where the worker could not be set up, as
    then none will be."""
    kind, value = answer
    if kind == "unready":
        raise RuntimeError(f"a worker could not be set up: {value.cause}\n{value.trace}")
    return value
