"""What others' loops take for the same attack: the loop that attack libraries share, and torchattacks (Kim 2020)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ... import attacks
from ...rules import Elastic
from ...zoo.datasets import Images
from . import rows
from .cases import Bench, ratios
from .levers import Compared, adversarial, answers, compared
from .subjects import EPS, Attack, Subject

# --- the plain loop --------------------------------------------------------------------------------------------------


def mi_fgsm(model: nn.Module, x: torch.Tensor, y: torch.Tensor, eps: float, steps: int) -> torch.Tensor:
    """MI-FGSM with decay 1 and steps of eps / steps, as TransferAttack and its like write it: eager, float32, in
    torch's own layout, with weights that ask for gradients, and without anything of this package."""
    delta, momentum = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(steps):
        delta.requires_grad_()
        loss = F.cross_entropy(model(x + delta), y)
        (gradient,) = torch.autograd.grad(loss, delta)
        momentum = momentum + gradient / gradient.abs().mean((1, 2, 3), keepdim=True)
        delta = torch.clamp(delta.detach() + eps / steps * momentum.sign(), -eps, eps)
        delta = torch.clamp(x + delta, 0, 1) - x
    return x + delta


def contestants(subject: Subject, nets: Mapping[str, nn.Module], steps: int) -> dict[str, Callable[[], object]]:
    """MI-FGSM in the "plain loop" on the network as it is, and ours on each of `nets`, by name."""
    model, x, y = copy.deepcopy(subject.model).requires_grad_(True), subject.x, subject.y
    ours = {name: partial(attacks.mi_fgsm, net, x, y, eps=EPS, steps=steps) for name, net in nets.items()}
    return {"plain loop": partial(mi_fgsm, model, x, y, EPS, steps), **ours}


def beside_the_plain_loop(bench: Bench, subject: Subject, nets: Mapping[str, nn.Module], steps: int) -> list[rows.Row]:
    """Rows "MI-FGSM: folded / plain loop" and so on: images a second of ours over those of the plain loop."""
    seconds = bench.timed(contestants(subject, nets, steps))
    found = {name: ratios(seconds["plain loop"], seconds[name]) for name in nets}
    return rows.of("MI-FGSM: {} / plain loop", subject, found, f"T = {steps}")


# --- torchattacks ----------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """An attack of both. theirs: options of the class of that name in torchattacks; ours: the same attack here."""

    theirs: Mapping[str, Any]
    ours: Attack


def pairs(copies: int) -> dict[str, Pair]:
    """By the name that torchattacks has; {} where it is not installed. copies: of the attack with scale copies."""
    if find_spec("torchattacks") is None:
        return {}
    nesterov = {"momentum": Elastic(mu=1.0, sigma=1.0), "copies": copies}
    no_diversity = {"diversity_prob": 0.0, "len_kernel": 7}
    return {
        "PGD": Pair({"random_start": False}, partial(attacks.pgd, start="none")),
        "MIFGSM": Pair({"decay": 1.0}, attacks.mi_fgsm),
        "NIFGSM": Pair({"decay": 1.0}, attacks.ni_fgsm),
        "TIFGSM": Pair({"decay": 1.0, **no_diversity}, partial(attacks.tim, kernel=7)),
        "DIFGSM": Pair({"decay": 1.0}, attacks.dim),
        "SINIFGSM": Pair({"decay": 1.0, "m": copies}, partial(attacks.sim, **nesterov)),
    }


class Contest(NamedTuple):
    """rows: images a second over those of torchattacks; adv: the adversarial images of each contestant."""

    rows: list[rows.Row]
    adv: dict[str, torch.Tensor]


def agreement(
    contests: Mapping[str, Contest], data: Images, judges: Mapping[str, nn.Module]
) -> dict[tuple[str, str, str], Compared]:
    """By attack, contestant and judge: the success of ours, as it is and in bfloat16, beside that of torchattacks."""
    found = {}
    for name, contest in contests.items():
        answered = {who: answers(judges, adv) for who, adv in contest.adv.items()}
        for who in ("ours", "ours, bfloat16"):
            for judge in judges:
                theirs = answered["torchattacks"][judge]
                found[name, who, judge] = compared(answered[who][judge], theirs, data.y)
    return found


def contest(
    bench: Bench,
    subject: Subject,
    data: Images,
    name: str,
    pair: Pair,
    nets: Mapping[str, nn.Module],
    steps: int,
    seed: int,
) -> Contest:
    """torchattacks and ours on the network of `subject`, and ours on each of `nets`, over all of `data` in batches as
    large as that of `subject`. MIFGSM also hands torchattacks each of `nets` in float32, so that what is left between
    the two is the loop alone. seed: of ours; torchattacks draws from torch's own generator."""
    import torchattacks  # here: whoever measures without it needs none

    options, found = {"eps": EPS, "alpha": EPS / steps, "steps": steps}, {}

    def theirs(net: nn.Module, x: torch.Tensor, y: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return getattr(torchattacks, name)(net, **options, **pair.theirs)(x, y)

    ours = partial(pair.ours, seed=seed, **options)
    made = {"torchattacks": partial(theirs, subject.model), "ours": partial(ours, subject.model)}
    made |= {f"ours, {net}": partial(ours, nets[net]) for net in nets}
    if name == "MIFGSM":
        made |= {f"torchattacks, {net}": partial(theirs, nets[net]) for net in nets if net != "bfloat16"}

    def run(who: str) -> None:
        found[who] = adversarial(data, len(subject.x), made[who])

    seconds = bench.timed({who: partial(run, who) for who in made})
    faster = {who: ratios(seconds["torchattacks"], seconds[who]) for who in made if who != "torchattacks"}
    return Contest(rows.of(f"{name}: {{}} / torchattacks", subject, faster, f"T = {steps}"), found)
