"""Attacks beside the passes that they take, and a penalty beside the attack without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from ... import attacks
from ...core import checks
from ...core.surrogate import frozen
from ...transforms import RandomErasure
from . import rows
from .cases import Bench, ratios
from .subjects import EPS, Attack, Subject, pass_in_parts, prepared

USUAL_STEPS = 10
"""Of an attack of the thesis, over which what it takes once in a call is spread."""


def over_bare(
    bench: Bench, subject: Subject, contestants: Mapping[str, tuple[Attack, int]], steps: int
) -> dict[str, list[float]]:
    """The time of each attack over that of its passes, at ten steps. subject: with a frozen network, in channels_last.
    contestants: an attack, and the passes that it takes in a step.

    An attack also takes something once in a call, t_call, for checks of the network on the first images. A short timing
    would charge it to fewer steps than an attack has; it is timed by itself, and of T steps that are timed
    t_attack - (1 - T / 10) t_call counts.
    """
    model, x, y = subject.model, subject.x, subject.y
    functions: dict[str, Callable[[], object]] = {
        name: partial(attack, model, x, y, eps=EPS, steps=steps) for name, (attack, _) in contestants.items()
    }
    functions |= {
        "bare": partial(pass_in_parts, model, subject.flat, y),
        "call": partial(_once, model, subject.flat, y),
    }
    seconds = bench.timed(functions)
    return {
        name: [
            (t - call * (1 - steps / USUAL_STEPS)) / (steps * each * bare)
            for t, call, bare in zip(seconds[name], seconds["call"], seconds["bare"], strict=True)
        ]
        for name, (_, each) in contestants.items()
    }


def _once(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """What an attack does in a call before its first step, beside arithmetic on the images."""
    with frozen([model]):
        checks.outputs([model], x, y=y)


ATTACKS: dict[str, Attack] = {
    "MI": attacks.mi_fgsm,
    "EM": attacks.em_fgsm,
    "DIM": attacks.dim,
    "RE": attacks.re_fgsm,
    "SIM": attacks.sim,
}


def with_copies(copies: int) -> dict[str, tuple[Attack, int]]:
    """The attacks with that many copies of each image, where they have any, and the passes that a step takes."""
    options = {"RE": {"erasure": RandomErasure(copies=copies)}, "SIM": {"copies": copies}}
    return {
        name: (partial(attack, **options[name]), copies) if name in options else (attack, 1)
        for name, attack in ATTACKS.items()
    }


def overhead(bench: Bench, subject: Subject, steps: int, copies: int) -> list[rows.Row]:
    """Rows "loop overhead MI" and so on: the time of an attack over that of its passes. copies: of RE and SIM."""
    found = over_bare(bench, subject._replace(model=prepared(subject.model)), with_copies(copies), steps)
    return rows.of("loop overhead {}", subject, found, f"T = {steps}, {copies} copies of RE and SIM")


PENALISED: dict[str, Attack] = {"I-FGSM": attacks.i_fgsm, "DIM": attacks.dim}


def price_of_gnp(bench: Bench, subject: Subject, steps: int) -> list[rows.Row]:
    """Rows "price of GNP on I-FGSM" and so on: the time of an attack with the gradient norm penalty, which takes two
    gradients a step, over that without it."""
    model = prepared(subject.model)
    functions = {
        name + suffix: partial(attack, model, subject.x, subject.y, eps=EPS, steps=steps, **options)
        for name, attack in PENALISED.items()
        for suffix, options in (("", {}), ("+GNP", attacks.GNP))
    }
    seconds = bench.timed(functions)
    found = {name: ratios(seconds[f"{name}+GNP"], seconds[name]) for name in PENALISED}
    return rows.of("price of GNP on {}", subject, found, f"T = {steps}")
