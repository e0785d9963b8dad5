"""Steps of training beside the plain one: optimizers, objectives, and CR-SAM on two processes."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from ... import lipschitz, sam
from ...core.batchnorm import unrecorded
from ...core.draws import Draw
from ...files.paths import ROOT
from ...training.objectives import LipschitzRegularized
from . import rows
from .cases import Bench, ratios
from .subjects import Subject

BFLOAT16 = torch.bfloat16
Make = Callable[..., torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {"SGD": torch.optim.SGD, "SAM": sam.SAM, "CR-SAM": sam.CRSAM}
PASSES = {"SAM": 2, "CR-SAM": 3}
"""Over those of SGD."""


def name_of(dtype: torch.dtype) -> str:
    """ "float32" """
    return str(dtype).removeprefix("torch.")


def _autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast | nullcontext:
    return nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype)


def trainable(model: nn.Module) -> nn.Module:
    """A copy in train mode and channels_last, whose weights ask for gradients."""
    return copy.deepcopy(model).train().requires_grad_(True).to(memory_format=torch.channels_last)


# --- optimizers ------------------------------------------------------------------------------------------------------


def step_of(make: Make, subject: Subject, dtype: torch.dtype) -> Callable[[], object]:
    """A step of training a copy of the network, at a rate that changes next to nothing."""
    net, x, y = trainable(subject.model), subject.flat, subject.y
    optimizer = make(net.parameters(), lr=1e-9, momentum=0.9)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        with _autocast(x.device, dtype):
            loss = F.cross_entropy(net(x), y)
        loss.backward()
        return loss

    return partial(optimizer.step, closure)


def seconds_of_optimizers(bench: Bench, subject: Subject, dtype: torch.dtype) -> dict[str, list[float]]:
    """Of a step of each optimizer, in each round."""
    return bench.timed({name: step_of(make, subject, dtype) for name, make in OPTIMIZERS.items()})


def optimizers(bench: Bench, subject: Subject, dtype: torch.dtype) -> list[rows.Row]:
    """Rows "optimizer SAM, float32" and so on: the time of a step over that of SGD."""
    seconds = seconds_of_optimizers(bench, subject, dtype)
    found = {name: ratios(seconds[name], seconds["SGD"]) for name in PASSES}
    return rows.of(f"optimizer {{}}, {name_of(dtype)}", subject, found)


# --- objectives ------------------------------------------------------------------------------------------------------


def _loss_and_gradient(model: nn.Module, point: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of images, (N,), and its gradient with a graph, in torch's operations."""
    point = point.detach().requires_grad_()
    loss = F.cross_entropy(model(point), y, reduction="none")
    return loss, torch.autograd.grad(loss.sum(), point, create_graph=True)[0]


def torchs_lrs2(model: nn.Module, x: torch.Tensor, y: torch.Tensor, draw: Draw, h: float = 1.5) -> torch.Tensor:
    """What `OBJECTIVES["LRS-2"]` computes, by the second derivatives that torch has."""
    loss, here = _loss_and_gradient(model, x, y)
    d = lipschitz.unit_direction(here, "unit_sign")
    with unrecorded(model):
        _, there = _loss_and_gradient(model, x + h * d, y)
    turn = torch.linalg.vector_norm((there - here).flatten(1), dim=1)
    return loss.mean() + 5.0 * (turn / len(x)).mean()


OBJECTIVES: Mapping[str, Callable[..., torch.Tensor]] = {
    "plain": LipschitzRegularized(0.0, 0.0),
    "LRS-1": LipschitzRegularized(5.0, 0.0),
    "LRS-2": LipschitzRegularized(0.0, 5.0),
    "LRS-F": LipschitzRegularized(),
    "LRS-2, torch's": torchs_lrs2,
}
EXPECTED = {"LRS-1": 7 / 3, "LRS-2": 4.0, "LRS-F": 5.0, "LRS-2, torch's": 4.0}
"""Passes over those of a plain step."""


def objectives(bench: Bench, subject: Subject, dtype: torch.dtype) -> list[rows.Row]:
    """Rows "step of LRS-1, float32" and so on: loss and weight gradients of a batch, over those of the plain
    objective."""
    net, x, y = trainable(subject.model), subject.flat, subject.y
    draw = Draw(0, torch.arange(len(x), device=x.device))

    def step(objective: Callable[..., torch.Tensor]) -> None:
        net.zero_grad(set_to_none=True)
        with _autocast(x.device, dtype):
            loss = objective(net, x, y, draw)
        loss.backward()

    seconds = bench.timed({name: partial(step, objective) for name, objective in OBJECTIVES.items()})
    found = {name: ratios(seconds[name], seconds["plain"]) for name in OBJECTIVES if name != "plain"}
    return rows.of(f"step of {{}}, {name_of(dtype)}", subject, found)


# --- two processes ---------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """Of a process of one thread that measures by itself."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def side_by_side(subject: Subject, rounds: int) -> list[rows.Row]:
    """Rows "optimizer side by side, one thread a process" and of CR-SAM in one process: the time of a step over that of
    SGD, on the processor, for batches as large as the subject's."""
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, "-m", *launch, "-m", f"{__package__}.process", str(len(subject.x)), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    seconds = json.loads(done.stdout.splitlines()[-1])
    found = {name: ratios(seconds[name], seconds["SGD"]) for name in ("CR-SAM", "side by side")}
    return rows.of("optimizer {}, one thread a process", subject, found, f"{os.cpu_count()} cores")
