"""Which transfer attack at which cost: compositions, and the one that won on validation images.

    advice = attacks.recommended(passes=100)
    adv = advice.attack(f, x, y, eps=8/255)

A composition is MI-FGSM with copies of the input, points around the iterate, a penalty and a look-ahead in the ball.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from .core import checks, measured
from .core.checks import Model
from .core.published import UNDEFENDED
from .gradients import Transform, gradient, neighbours, norm_penalty
from .loop import attack
from .rules import Elastic
from .transforms import InputDiversity, RandomErasure, ScaleCopies

STEPS, RADIUS = 10, 1.5
"""Of a composition: steps of eps / 10, and how far its points lie from the iterate, in units of eps."""


def composed(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 16 / 255,
    *,
    resized: int = 0,
    canvas: float = 1.1,
    scaled: int = 1,
    erased: int = 1,
    points: int = 1,
    penalty: float = 0.0,
    ahead: float = 0.0,
    steps: int = STEPS,
    chunk: int | str = "auto",
    **options: Any,
) -> Tensor:
    """MI-FGSM along a gradient that is averaged over `points` drawn up to 1.5 eps around the iterate (one is the
    iterate itself), and at each over resized, scaled and erased copies of the image, which multiply.

    resized: copies of DIM, 0 for none, on a canvas of `canvas` image sides; above 1.1 always resized, as in RDIM;
    scaled: of SIM; erased: of RE. penalty: beta of the backward difference over one step (`norm_penalty`), twice the
    passes. ahead: sigma of the look-ahead, in the ball. chunk: of `gradient`; options: of `attack`, as are model, x, y
    and steps. Raises as those do.
    """
    checks.network(model)
    checks.budget(eps, steps)
    for name, number, least in (("resized", resized, 0), ("scaled", scaled, 1), ("erased", erased, 1)):
        checks.whole(name, number, least)
    checks.whole("points", points, 1)
    checks.number("penalty", penalty, 0)
    copies: list[Transform] = []
    copies += [RandomErasure(erased)] if erased > 1 else []
    copies += [ScaleCopies(scaled)] if scaled > 1 else []
    copies += [InputDiversity(0.5 if canvas <= 1.1 else 1.0, canvas, resized)] if resized else []
    g = gradient(model, copies, chunk=chunk)
    g = norm_penalty(g, eps / steps or 1.0, penalty, "mean", difference="backward")
    g = neighbours(g, RADIUS * eps, points) if points > 1 else g
    return attack(x, y, g, momentum=Elastic(1.0, ahead, project="ball"), eps=eps, steps=steps, **options)


_COMPOSITIONS: dict[int, dict[str, dict[str, Any]]] = {
    10: {
        "MI-FGSM": {},
        "one step ahead": {"ahead": 1.0},
        "two steps ahead": {"ahead": 2.0},
        "DIM": {"resized": 1},
        "RDIM": {"resized": 1, "canvas": 1.14},
        "DIM, one step ahead": {"resized": 1, "ahead": 1.0},
    },
    50: {
        "5 resized": {"resized": 5},
        "5 scaled, resized": {"scaled": 5, "resized": 1},
        "5 erased, resized": {"erased": 5, "resized": 1},
        "5 points": {"points": 5},
        "5 points, resized": {"points": 5, "resized": 1},
        "5 points, resized, ahead": {"points": 5, "resized": 1, "ahead": 1.0},
    },
    100: {
        "10 resized": {"resized": 10},
        "10 points": {"points": 10},
        "10 points, resized": {"points": 10, "resized": 1},
        "10 points, ahead": {"points": 10, "ahead": 1.0},
        "10 points, resized, ahead": {"points": 10, "resized": 1, "ahead": 1.0},
        "5 points, penalty, resized": {"points": 5, "penalty": 0.5, "resized": 1},
    },
    500: {
        "50 points, resized": {"points": 50, "resized": 1},
        "50 points, resized, ahead": {"points": 50, "resized": 1, "ahead": 1.0},
        "25 points, penalty, resized": {"points": 25, "penalty": 0.5, "resized": 1},
        "10 points, 5 erased, resized": {"points": 10, "erased": 5, "resized": 1},
    },
}
PASSES = tuple(_COMPOSITIONS)
"""Passes per image, in ten steps, for which there are compositions."""


def compositions(passes: int) -> dict[str, Callable[..., Tensor]]:
    """The candidates at a cost of `passes` (10, 50, 100 or 500) per image: `composed` with their options, by name.
    Raises ValueError for another number."""
    _known(passes)
    return {name: partial(composed, **options) for name, options in _COMPOSITIONS[passes].items()}


def _known(passes: object) -> None:
    if isinstance(passes, bool) or passes not in PASSES:
        raise ValueError(f"passes={passes}: expected one of {', '.join(map(str, PASSES))}")


@dataclass(frozen=True)
class Advice:
    """A composition and what to expect of it.

    attack: to be called like any attack of `attacks`; success: mean success (%) per kind of target, on test images, of
    targets that it was not chosen on; n: images; eps_255, dataset, scale: where that was measured."""

    name: str
    attack: Callable[..., Tensor]
    passes: int
    success: dict[str, float]
    n: int
    eps_255: float
    dataset: str
    scale: str


def recommended(passes: int = 100) -> Advice:
    """The composition that transfers best at a cost of at most `passes` (10, 50, 100 or 500) per image: the one with
    the highest mean success on validation images and validation networks, at the smallest budget of our committed
    CIFAR-10 run (chapter A4, Table A4.7). It may be one of a lower cost, where more passes brought nothing.

    Raises ValueError for another number of passes, FileNotFoundError where that run is not committed."""
    _known(passes)
    costs = {name: cost for cost in PASSES if cost <= passes for name in compositions(cost)}
    chosen_on = measured.means("table_A4_7_validation", costs)
    eps = min(budget for _, _, budget in chosen_on)
    best = max(costs, key=lambda name: chosen_on[name, UNDEFENDED, eps].value)
    found = {kind: mean for (name, kind, at), mean in measured.means("table_A4_7", [best]).items() if at == eps}
    first = next(iter(found.values()))
    success = {kind: mean.value for kind, mean in found.items()}
    return Advice(best, compositions(costs[best])[best], costs[best], success, first.n, eps, first.dataset, first.scale)
