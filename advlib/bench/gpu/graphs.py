"""A whole attack as one CUDA graph: what launches cost, measured before anything of the package relies on it.

A graph replays what was launched while it was recorded, on the same memory: images are copied into the ones it was
recorded with, and the result is always written to one place. Nothing may be read back meanwhile, so that the checks of
`loop.attack` are left out of the recording, and the gradients of a replay are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from unittest.mock import patch

import torch

from ... import attacks
from ...core import checks
from ...zoo.acceleration import accelerate
from ..speed.cases import Bench, Case, Measure, of_rounds, ratios
from . import speed

Made = Callable[[], torch.Tensor]
Recorder = Callable[[Made], tuple[Callable[[], object], torch.Tensor]]
"""A function to its replay, and the tensor that holds what it returned, anew after each replay."""
Attack = Callable[..., torch.Tensor]

READING = ("images", "labels", "outputs", "gradients")
"""The checks that read values back."""


def captured(attack: Attack, x: torch.Tensor, y: torch.Tensor, record: Recorder) -> Attack:
    """The attack, (x, y) -> adv, for batches of this shape; adv is written over by the next call."""
    held = x.clone(), y.clone()
    with patch.multiple(checks, **dict.fromkeys(READING, lambda *args, **options: None)):
        replay, adv = record(lambda: attack(*held))

    def call(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        for mine, new in zip(held, (x, y), strict=True):
            mine.copy_(new)
        replay()
        return adv

    return call


def cuda_graph(made: Made) -> tuple[Callable[[], object], torch.Tensor]:
    """Recorded on a GPU, after two runs on a stream of their own, in which libraries choose and allocate."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            made()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        adv = made()
    return graph.replay, adv


def again(made: Made) -> tuple[Callable[[], object], torch.Tensor]:
    """In a rehearsal: run again, into the same place."""
    adv = made()
    return lambda: adv.copy_(made()), adv


ATTACKS: dict[str, Attack] = {
    "MI": attacks.mi_fgsm,
    "DIM": attacks.dim,
    "SIM, copies at once": partial(attacks.sim, chunk=5),
    "RE, copies at once": partial(attacks.re_fgsm, chunk=5),
}


def graphs(bench: Bench) -> Iterator[Case]:
    """At the smallest batch of each network, where launches count most."""
    for network in speed.networks(bench):
        n = min(network.batches)
        for name in ATTACKS:
            yield Case(f"{name}, {network.case(n)}", 10, partial(of_graph, bench, network, n, name))


def of_graph(bench: Bench, network: speed.Network, n: int, name: str) -> list[Measure]:
    """On the folded network in bfloat16: whether the graph gives what the attack gives, of other images than those it
    was recorded with, and how much faster it is."""
    net = accelerate(network.built(bench), dtype=torch.bfloat16)
    x, y = speed.images(bench, n, network.side)
    eager = partial(ATTACKS[name], net, eps=speed.EPS, steps=2 if bench.tiny else 10)
    graph = captured(eager, x, y, cuda_graph if bench.device.type == "cuda" else again)
    other = x.flip(0), y.flip(0)
    equal = (graph(*other) == eager(*other)).float().mean().item()
    seconds = bench.timed({"eager": partial(eager, x, y), "graph": partial(graph, x, y)})
    return [
        Measure("equal values", 100 * equal, "%"),
        of_rounds("graph over eager", ratios(seconds["eager"], seconds["graph"]), "times as fast"),
    ]
