"""A whole attack as CUDA graphs (`captured`): whether it is the attack, and what launches cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from ... import attacks
from ...graphs import captured
from ...zoo.acceleration import accelerate
from ..speed.cases import Bench, Case, Measure, of_rounds, ratios
from . import speed

Attack = Callable[..., torch.Tensor]
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
    options = {"eps": speed.EPS, "steps": 2 if bench.tiny else 10}
    eager = partial(ATTACKS[name], net, **options)
    graph = captured(ATTACKS[name], net, x, y, **options)
    other = x.flip(0), y.flip(0)
    equal = (graph(*other) == eager(*other)).float().mean().item()
    seconds = bench.timed({"eager": partial(eager, x, y), "graph": partial(graph, x, y)})
    return [
        Measure("equal values", 100 * equal, "%"),
        of_rounds("graph over eager", ratios(seconds["eager"], seconds["graph"]), "times as fast"),
    ]
