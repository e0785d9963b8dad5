"""Processes of this machine, each with one GPU or a share of the cores."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

import torch

from ...core import checks
from .protocol import TRIES, Cell, CellError, Heard, Job, Say, packed, taken, unheard

MOST = 8
"""Workers on the cores, where their number is not given: each holds torch and the networks."""

_COMMAND = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "  # Ctrl-C reaches the driver, which stops us
    "from advlib.bench.engines.worker import main; main()"
)


@dataclass(frozen=True)
class Local:
    """Cells in `jobs` processes of this machine. Without `devices`, workers run where the data are: on a GPU in turn
    (by default as many workers as GPUs) or on the CPU, each with its share of the cores, but no more threads than torch
    has here (by default a worker for each core, at most `MOST`). devices: the numbers of the GPUs to use, as torch
    counts them; a job on the CPU is moved there.

    A worker is a fresh interpreter with this one's import path, which runs no script anew: `if __name__ == "__main__"`
    is not needed. It holds the job and sees its own GPU alone; what it prints goes to stderr. It ends with this
    process, however that ends. Raises TypeError or ValueError for other values and for a GPU that is not there.
    """

    jobs: int | None = None
    devices: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.jobs is not None:
            checks.whole("jobs", self.jobs, 1)
        if self.devices is not None:
            checks.instance("devices", self.devices, list | tuple | range, "a list of numbers of GPUs")
            if not self.devices:
                raise ValueError("devices: expected at least one, or None")
            for device in self.devices:
                checks.whole("devices", device, 0)
                if device >= torch.cuda.device_count():
                    raise ValueError(f"devices: there is no GPU {device}, torch sees {torch.cuda.device_count()}")

    def at_once(self, job: Job) -> int:
        """As of `Engine`."""
        return self.jobs or len(self._gpus(job)) or min(os.cpu_count() or 1, MOST)

    def _gpus(self, job: Job) -> Sequence[int]:
        if self.devices is None:
            return range(torch.cuda.device_count() if job.device.type == "cuda" else 0)
        return self.devices

    def run(self, job: Job, cells: Sequence[Cell], heard: Heard = unheard) -> Iterator[tuple[Cell, object]]:
        """As of `Engine`. Raises TypeError, before a worker is started, for a part of the job that cannot be sent, and
        RuntimeError for workers that cannot be set up."""
        crew, idle, told = self._crew(job, len(cells)), SimpleQueue(), SimpleQueue()
        for child in crew:
            idle.put(child)

        def ask(cell: Cell) -> None:
            child = idle.get()
            try:
                told.put((cell, "done", child.answer(cell, lambda what: told.put((cell, "said", what)))))
            except Exception as error:
                told.put((cell, "broken", error))
            finally:
                idle.put(child)

        threads, left = ThreadPoolExecutor(max(1, len(crew))), len(cells)
        try:
            for cell in cells:
                threads.submit(ask, cell)
            while left:
                cell, kind, what = told.get()
                if kind == "broken":
                    raise what
                if kind == "said":
                    heard(cell, what)
                    continue
                left -= 1
                yield cell, what
        finally:
            for child in crew:
                child.stop()
            threads.shutdown(cancel_futures=True)

    def _crew(self, job: Job, cells: int) -> list[_Child]:
        gpus, jobs = self._gpus(job), min(cells, self.at_once(job))
        share = max(
            1, min((os.cpu_count() or 1) // max(1, jobs), torch.get_num_threads())
        )  # no more than this process allows itself
        first = pickle.dumps((packed(job), "cuda" if gpus else "cpu", share))
        return [_Child(first, _environment(share, gpus[k % len(gpus)] if gpus else None)) for k in range(jobs)]


def _environment(threads: int, gpu: int | None) -> dict[str, str]:
    """Of a worker, from its start: torch reads some of it when it is loaded."""
    own = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    if gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        own["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu].strip() if visible else str(gpu)
    return os.environ | own


class _Child:
    """A process that answers, started with the first cell, and anew after each death. first: what it is sent first."""

    def __init__(self, first: bytes, environment: dict[str, str]) -> None:
        self._first, self._environment = first, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._lock, self._stopped = threading.Lock(), False

    def answer(self, cell: Cell, say: Say) -> object:
        for _ in range(TRIES):
            try:
                return taken(self._asked(cell, say))
            except (EOFError, OSError, pickle.UnpicklingError):  # no answer, or the half of one
                self._process.kill()
                code = self._process.wait()
        return CellError(f"its worker died, {TRIES} times; the last exit status was {code}")

    def _asked(self, cell: Cell, say: Say) -> tuple[str, object]:
        process = self._started()
        process.stdin.write(pickle.dumps(cell))
        process.stdin.flush()
        while (answer := pickle.load(process.stdout))[0] == "said":
            say(answer[1])
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise RuntimeError("the work was stopped")
            alive = self._process is not None and self._process.poll() is None
            if not alive:
                command = [sys.executable, "-P", "-c", _COMMAND]
                pipe = subprocess.PIPE
                self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=self._environment)
        if not alive:
            self._process.stdin.write(self._first)
        return self._process

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()
                self._process.wait()
