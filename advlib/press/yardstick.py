"""A fixed piece of work, by whose time the speed of one machine is compared with that of another."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

from ..files.provenance import run_info

LONG_ENOUGH = 0.5
"""Seconds in which the work is repeated."""


class Yardstick(NamedTuple):
    """seconds: of one piece of the work; threads: of the processor that did it; torch, commit: the versions."""

    seconds: float
    threads: int
    torch: str
    commit: str


def measured(threads: int | None = None) -> Yardstick | None:
    """The yardstick of this machine as it is now, which takes about half a second; None where the chapters run on a
    GPU, of which a processor tells nothing. threads: as many as this process has if None."""
    if torch.cuda.is_available():
        return None
    torch.set_num_threads(threads or torch.get_num_threads())
    info = run_info("cpu")
    return Yardstick(repeated(_work()), torch.get_num_threads(), info["torch"], info["commit"])


def repeated(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of `work()`, the mean of as many calls as half a second has room for, at least one, after one that is not
    counted. A mean, since a machine that others use too is as slow as it is on the whole."""
    work()
    calls, start = 0, clock()
    while calls == 0 or clock() - start < LONG_ENOUGH:
        work()
        calls += 1
    return (clock() - start) / calls


def _work() -> Callable[[], object]:
    """The gradient of an untrained convolutional network at 32 images of 32 x 32 pixels, which most of the chapters'
    time goes into. It is nothing of ours, so that it stays what it was when our code becomes faster."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise((3, 16, 16, 32, 32, 64, 64)):
            stride = 2 if c_out > c_in > 3 else 1
            layers += [nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
        net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()
        x = torch.rand(32, 3, 32, 32)
    x.requires_grad_()
    return lambda: torch.autograd.grad(net(x).logsumexp(1).sum(), x)
