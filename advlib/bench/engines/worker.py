"""The other end of an engine: a job, set up once, and asked for one cell after another."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import traceback
from contextlib import ExitStack
from functools import partial
from queue import SimpleQueue
from typing import BinaryIO

import torch

from ...engine.kept import keep_memory
from .protocol import Cell, CellError, Packed, Say, unpacked

POISONED = 70
"""The exit status after an error that no later call on the GPU of this process would survive."""


class Worker:
    """Holds a job on its device. device: "cpu", or "cuda" for the first GPU that this process sees; threads: of torch,
    for this worker."""

    def __init__(self, job: Packed, device: str, threads: int) -> None:
        self._unready: CellError | None = None
        torch.set_num_threads(threads)
        keep_memory()  # as chapters do
        try:
            if device == "cuda" and not torch.cuda.is_available():
                raise RuntimeError("it sees no GPU")
            self._job = unpacked(job, device)
            self._kept = ExitStack()  # until this process ends
            self._kept.enter_context(self._job.ready())
        except Exception as error:
            self._unready = _told(error)

    def collected(self, cell: Cell) -> tuple[list[object], tuple[str, object]]:
        """All that the job says of a cell, and its answer."""
        said: list[object] = []
        return said, self.answer(cell, said.append)

    def answer(self, cell: Cell, say: Say) -> tuple[str, object]:
        """("done", result), ("raised", CellError), or ("unready", CellError) where there is no job to ask."""
        if self._unready is not None:
            return "unready", self._unready
        try:
            return "done", self._job(cell, say)
        except torch.AcceleratorError:
            traceback.print_exc()
            os._exit(POISONED)
        except Exception as error:
            return "raised", _told(error)


def _told(error: Exception) -> CellError:
    return CellError(f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))


def main() -> None:
    """A worker behind pipes: reads (job, device, threads), then cells, and writes an answer to each, and before it
    ("said", ...) for whatever the job says."""
    # What an attack prints is not to come between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    asked: SimpleQueue[object] = SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, asked), daemon=True).start()

    def tell(kind: str, value: object) -> None:
        pickle.dump((kind, value), answers)
        answers.flush()

    worker = Worker(*asked.get())
    while True:
        tell(*worker.answer(asked.get(), partial(tell, "said")))


def _read(pipe: BinaryIO, asked: SimpleQueue[object]) -> None:
    """Ends this process, whatever it is at, as soon as the other end of the pipe is gone."""
    try:
        while True:
            asked.put(pickle.load(pipe))
    except EOFError:
        os._exit(0)
