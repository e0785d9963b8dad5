"""Actors of a Ray cluster, or of a Ray of its own on this machine."""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from ...core import checks
from .protocol import TRIES, Cell, CellError, Heard, Job, packed, taken, unheard
from .worker import Worker


@dataclass(frozen=True)
class OnRay:
    """Cells in `jobs` actors, by default as many as the cluster has room for. address: of a running cluster ("auto":
    the one of this machine), None for the one that this process is connected to, or else one that is started here,
    without a dashboard, and ended afterwards. num_cpus, num_gpus: what an actor takes; None: one GPU where the cluster
    has any. An actor with a GPU moves the job there, wherever it was; one without keeps it on the CPU.

    The machines of a cluster need this package, and the modules that attacks and networks come from. Raises
    ModuleNotFoundError where Ray is not installed, TypeError or ValueError for other values.
    """

    jobs: int | None = None
    address: str | None = None
    num_gpus: float | None = None
    num_cpus: int = 1

    def __post_init__(self) -> None:
        if self.jobs is not None:
            checks.whole("jobs", self.jobs, 1)
        if self.address is not None:
            checks.text("address", self.address)
        if self.num_gpus is not None:
            checks.number("num_gpus", self.num_gpus, 0)
        checks.whole("num_cpus", self.num_cpus, 1)
        if find_spec("ray") is None:
            raise ModuleNotFoundError("engine \"ray\": Ray is not installed: pip install 'advlib[cluster]'", name="ray")

    def at_once(self, job: Job) -> int:
        """As of `Engine`: what a cluster has room for is not known before it is asked."""
        return self.jobs or 2

    def run(self, job: Job, cells: Sequence[Cell], heard: Heard = unheard) -> Iterator[tuple[Cell, object]]:
        """As of `Engine`; what the job says of a cell comes with its result. Raises TypeError, before Ray is started,
        for a part of the job that cannot be sent, ValueError for more than the cluster has, and RuntimeError for actors
        that cannot be set up."""
        if cells:
            content = packed(job)
            with self._cluster():
                yield from self._answers(content, cells, heard)

    @contextmanager
    def _cluster(self) -> Iterator[None]:
        import ray

        if ray.is_initialized():
            if self.address not in (None, "auto"):
                raise ValueError(f"address={self.address!r}: this process is connected to a Ray already")
            yield
            return
        options = {} if self.address else {"include_dashboard": False}
        with _import_path():
            ray.init(self.address, log_to_driver=False, logging_level=logging.ERROR, **options)
        try:
            yield
        finally:
            ray.shutdown()

    def _answers(self, content: object, cells: Sequence[Cell], heard: Heard) -> Iterator[tuple[Cell, object]]:
        import ray
        from ray.exceptions import OutOfMemoryError, RayActorError

        jobs, gpus = self._room(ray.cluster_resources())
        actor_class = ray.remote(num_cpus=self.num_cpus, num_gpus=gpus)(Worker)
        sent, crew, running, todo = ray.put(content), [], {}, deque(cells)

        def hired() -> object:
            crew.append(actor_class.remote(sent, "cuda" if gpus else "cpu", self.num_cpus))
            return crew[-1]

        def begin(actor: object, cell: Cell, attempt: int = 1) -> None:
            running[actor.collected.remote(cell)] = actor, cell, attempt

        try:
            for _ in range(min(jobs, len(todo))):
                begin(hired(), todo.popleft())
            while running:
                (ready,), _ = ray.wait(list(running))
                actor, cell, attempt = running.pop(ready)
                try:
                    said, answer = ray.get(ready)
                    answer = taken(answer)
                except (RayActorError, OutOfMemoryError) as error:
                    actor = hired()
                    if attempt < TRIES:
                        begin(actor, cell, attempt + 1)
                        continue
                    said, answer = [], CellError(f"its worker died, {TRIES} times; the last time: {error}".rstrip())
                if todo:
                    begin(actor, todo.popleft())
                for what in said:
                    heard(cell, what)
                yield cell, answer
        finally:
            for actor in crew:
                ray.kill(actor)

    def _room(self, resources: dict[str, float]) -> tuple[int, float]:
        """Number of actors, and of GPUs for each. Raises ValueError for more than there is."""
        gpus = min(1, resources.get("GPU", 0)) if self.num_gpus is None else self.num_gpus
        room = int(resources.get("CPU", 0) // self.num_cpus)
        if gpus:
            room = min(room, int(resources.get("GPU", 0) // gpus))
        if room < (self.jobs or 1):
            asked = f"{self.jobs or 1} actors of {self.num_cpus} CPUs and {gpus:g} GPUs"
            raise ValueError(f"jobs: the cluster has no room for {asked}, but for {room}")
        return self.jobs or room, gpus


@contextmanager
def _import_path() -> Iterator[None]:
    """Actors of a Ray that is started meanwhile find the modules that this process finds."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
