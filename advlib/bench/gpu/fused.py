"""Kernels against the PyTorch code that each takes the place of, on the device that runs both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from unittest.mock import patch

import torch

from ... import kernels
from ...core.balls import BALLS
from ...core.draws import Draw
from ...engine.graphs import Recorder
from ...gradients import Gradient
from ...loop import step
from ...rules import MI
from ...transforms import InputDiversity, RandomErasure
from ..speed.cases import Bench, Case, Measure, of_rounds, ratios

Function = Callable[[], torch.Tensor]


def fused(bench: Bench) -> Iterator[Case]:
    """Where no kernels run, as in a rehearsal on the CPU, both are the PyTorch code."""
    for n, side in ((2, 8),) if bench.tiny else ((128, 32), (1024, 32), (64, 224)):
        for name, made in _functions(bench, n, side).items():
            yield Case(f"{name}, {side} px, batch {n}", 5, partial(against_pytorch, bench, made))


def _functions(bench: Bench, n: int, side: int) -> dict[str, Callable[[], Function]]:
    """What makes each of the functions that have a kernel."""

    def draw(copies: int = 1) -> tuple[Draw, torch.Tensor]:
        copy = torch.arange(copies, device=bench.device).repeat_interleave(n)
        return Draw(3, torch.arange(n, device=bench.device).repeat(copies), 2, copy, 16), copy

    def images() -> torch.Tensor:
        x = torch.rand(n, 3, side, side, device=bench.device)
        return x.contiguous(memory_format=torch.channels_last)

    def back(x: torch.Tensor, weights: torch.Tensor, place: tuple[Draw, torch.Tensor]) -> torch.Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(InputDiversity(p=1.0)(x, *place), x, weights)[0]

    def stepped(norm: str) -> Function:
        x, m, grad, place = images(), images() - 0.5, images() - 0.5, draw()[0]
        ball, g = BALLS[norm].around(x, 0.1, 0.01), Gradient(lambda x, y, draw: grad, (), 0)
        return lambda: step(x, m, place.index, g, place, MI, ball)[0]

    return {
        "uniform": lambda: partial(draw()[0].uniform, 3, side, side),
        "five numbers": lambda: partial(draw()[0].uniform, 5),
        "normal": lambda: partial(draw()[0].normal, 3, side, side),
        "erasure": lambda: partial(RandomErasure(), images(), *draw(5)),
        "resize": lambda: partial(InputDiversity(p=1.0), images(), *draw()),
        "resize and back": lambda: partial(back, images(), images(), draw()),
        "step": lambda: stepped("linf"),
        "step, L2": lambda: stepped("l2"),
    }


def against_pytorch(bench: Bench, made: Callable[[], Function]) -> list[Measure]:
    """Equal values, the largest difference, and how many times as fast the kernel is: launched by the host, and in a
    CUDA graph, where the host does nothing. Switching it off takes some microseconds of the host, which count as
    PyTorch's."""
    kernel = made()

    def plain() -> torch.Tensor:
        with patch.object(kernels, "run_on", lambda x: False):
            return kernel()

    here, there = plain(), kernel()
    seconds = bench.timed({"PyTorch": plain, "kernel": kernel})
    found = [
        Measure("equal values", 100 * (here == there).float().mean().item(), "%"),
        Measure("largest difference", (here - there).abs().max().item(), "1"),
        of_rounds("kernel over PyTorch", ratios(seconds["PyTorch"], seconds["kernel"]), "times as fast"),
    ]
    if bench.device.type == "cuda":
        seconds = bench.timed({"PyTorch": recorded(bench, plain), "kernel": recorded(bench, kernel)})
        faster = ratios(seconds["PyTorch"], seconds["kernel"])
        found.append(of_rounds("kernel over PyTorch, in a graph", faster, "times as fast"))
    return found


def recorded(bench: Bench, function: Function) -> Callable[[], object]:
    """What the function launches, as a CUDA graph."""
    recorder = Recorder(bench.device)
    with recorder.rehearsal():
        function()
    recording, replay = recorder.part()
    with recording:
        function()
    return replay
