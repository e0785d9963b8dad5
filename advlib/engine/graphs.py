"""CUDA graphs: what was launched on a GPU while it was recorded, launched again as a whole, on the same memory.

Without a GPU a tape of operations on the CPU stands in for a graph (tests/test_graphs.py); `make gpu` records graphs,
and compares replays with the attack. On an NVIDIA H200 (data/results/gpu/nvidia_h200.csv, section graphs) replays of
MI, DIM, SIM and RE gave all values of the attack, and were 2.1 to 7.4 times as fast on ResNet-20 (32 pixels, batch 128)
and 1.05 to 2.2 times on ResNet-50 (224 pixels, batch 32), least where copies go through the network at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch


class Recording:
    """Work that was recorded, and is done again on other values of its inputs, part by part.

    inputs: the memory that the work reads; work: gets a function to call where a part ends, with what is to be looked
    at there in every replay, and returns its result, the last thing that it makes.
    """

    def __init__(
        self, recorder: Recorder, inputs: tuple[torch.Tensor, ...], work: Callable[[Callable[..., None]], torch.Tensor]
    ) -> None:
        self.inputs = inputs
        self.parts: list[tuple[Callable[[], object], list[Any]]] = []
        with ExitStack() as part:

            def begin() -> None:
                recorded, replay = recorder.part()
                self.parts.append((replay, []))
                part.enter_context(recorded)

            def cut(found: Sequence[Any]) -> None:
                part.close()
                self.parts[-1][1].extend(found)
                begin()

            begin()
            self.result = work(cut)

    def __call__(self, look: Callable[[list[Any]], None], *given: torch.Tensor) -> torch.Tensor:
        """A copy of the result for the values of `given`; `look` is given what there is behind each part."""
        for mine, theirs in zip(self.inputs, given, strict=True):
            mine.copy_(theirs.detach())
        self._replay(look)
        return self.result.clone()

    def _replay(self, look: Callable[[list[Any]], None]) -> None:
        for again, found in self.parts:
            again()
            look(found)


class Recorder:
    """Records on one GPU, part by part. Parts share their memory, and are replayed in the order of their recording."""

    def __init__(self, device: torch.device) -> None:
        self.stream, self.pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """What is to be recorded is run here once before, so that libraries choose and allocate. Whatever waits for
        the device raises RuntimeError."""
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        try:
            with torch.cuda.stream(self.stream), _synchronising("error"):
                yield
        finally:  # what comes next may undo what was done here
            current.wait_stream(self.stream)

    def pause(self) -> AbstractContextManager[None]:
        """In a rehearsal: the device may be waited for."""
        return _synchronising("default")

    def part(self) -> tuple[AbstractContextManager[object], Callable[[], object]]:
        """In whose context the next part is recorded, and its replay."""
        graph = torch.cuda.CUDAGraph()
        return torch.cuda.graph(graph, pool=self.pool, stream=self.stream), graph.replay


@contextmanager
def _synchronising(mode: str) -> Iterator[None]:
    """What torch does meanwhile where the device is waited for: "error" or "default"."""
    before = torch.cuda.get_sync_debug_mode()
    _set_synchronising(mode)
    try:
        yield
    finally:
        _set_synchronising(before)


def _set_synchronising(mode: str | int) -> None:
    with warnings.catch_warnings():  # that a few waits pass unseen, which the recording then meets
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode(mode)
