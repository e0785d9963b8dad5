"""What makes an attack faster: copies of the network, the compiler, the batch, the chunk; and what the copies do to the
success of an attack."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import pandas as pd
import torch
from torch import nn

from ... import attacks
from ...core.intervals import paired_difference
from ...engine.processor import images_at_once
from ...zoo.acceleration import accelerate
from ...zoo.datasets import Images
from . import rows
from .cases import Bench, ratios
from .subjects import EPS, Subject, pass_in_parts, passes, prepared

BFLOAT16 = torch.bfloat16
FASTER: dict[str, Callable[[nn.Module], nn.Module]] = {
    "channels_last": prepared,
    "folded": accelerate,
    "bfloat16": partial(accelerate, dtype=BFLOAT16),
}
"""Each has what those before it have."""


def copies(model: nn.Module) -> dict[str, nn.Module]:
    """The frozen copies of a network, by name."""
    return {name: make(model) for name, make in FASTER.items()}


# --- the compiler ----------------------------------------------------------------------------------------------------


def missing_compiler() -> str:
    """Why torch.compile does not work here, in a line; "" where it does."""
    try:
        with _quiet():
            torch.compile(lambda x: x + 1)(torch.zeros(2))
    except Exception as error:  # whatever a compiler that is not there or does not work is to torch
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return ""


def compiled(
    bench: Bench, model: nn.Module, first: Callable[[nn.Module], object], dynamic: bool | None = None
) -> tuple[nn.Module, float]:
    """The compiled network, and the seconds of its first use, without what an earlier run has left in the compiler's
    cache. dynamic: of torch.compile. A rehearsal traces, and compiles nothing."""
    from torch._inductor import config  # here: it takes seconds to load

    torch.compiler.reset()
    net = torch.compile(model, dynamic=dynamic, backend="aot_eager" if bench.tiny else "inductor")
    with _quiet(), config.patch(force_disable_caches=True):
        bench.wait()
        start = bench.clock()
        first(net)
        bench.wait()
    return net, bench.clock() - start


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the compiler's notes on what a machine lacks."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# --- passes ----------------------------------------------------------------------------------------------------------


class Faster(NamedTuple):
    """rows: of passes, and of what the compiler takes; nets: the copies, with those that it has made."""

    rows: list[rows.Row]
    nets: dict[str, nn.Module]


def faster(bench: Bench, subject: Subject, nets: Mapping[str, nn.Module], to_compile: Sequence[str] = ()) -> Faster:
    """Rows "pass, folded" and so on: the time of a pass of the network as it is, in torch's own layout, over that of a
    copy; and "compiling folded" and so on: what the compiler takes, in such passes. nets: copies, by name, for images
    in channels_last; to_compile: names of those that are compiled, too."""
    plain = copy.deepcopy(subject.model).requires_grad_(False)
    made = {name: compiled(bench, nets[name], lambda f: passes(f, subject.flat, subject.y)) for name in to_compile}
    nets = {**nets, **{f"{name}, compiled": net for name, (net, _) in made.items()}}
    functions = {"plain": partial(passes, plain, subject.x, subject.y)}
    functions |= {name: partial(passes, net, subject.flat, subject.y) for name, net in nets.items()}
    seconds = bench.timed(functions)
    gains = {name: ratios(seconds["plain"], seconds[name]) for name in nets}
    costs = {name: [took / t for t in seconds["plain"]] for name, (_, took) in made.items()}
    found = rows.of("pass, {}", subject, gains) + rows.of("compiling {}, in plain passes", subject, costs)
    return Faster(found, nets)


def batches(bench: Bench, subject: Subject, sizes: Sequence[int]) -> list[rows.Row]:
    """Rows "images a second over batch 1": those of passes of a batch of each size over those of the smallest one."""
    net = prepared(subject.model)
    parts = {n: subject.first(n) for n in sizes}
    seconds = bench.timed({str(n): partial(passes, net, part.flat, part.y) for n, part in parts.items()})
    least = min(sizes)
    return [
        row
        for n, part in parts.items()
        if n != least
        for row in rows.of(
            f"images a second over batch {least}", part, {"": ratios(seconds[str(least)], seconds[str(n)], n / least)}
        )
    ]


def parts(bench: Bench, subject: Subject, nets: Mapping[str, nn.Module]) -> list[rows.Row]:
    """Rows "in parts, folded" and so on: the time of a pass of the batch as a whole over that of a pass in parts, which
    gives the same bits. nets: for images in channels_last."""
    ways = {"whole": passes, "parts": pass_in_parts}
    seconds = bench.timed(
        {
            f"{name}, {way}": partial(f, net, subject.flat, subject.y)
            for name, net in nets.items()
            for way, f in ways.items()
        }
    )
    gains = {name: ratios(seconds[f"{name}, whole"], seconds[f"{name}, parts"]) for name in nets}
    return rows.of("in parts, {}", subject, gains, f"parts of {images_at_once(subject.x)} images or fewer")


def chunks(bench: Bench, subject: Subject, copies: int, sizes: Sequence[int]) -> list[rows.Row]:
    """Rows "SIM, copies at once" of batches of each size: the time copy by copy over that of all copies at once."""
    net = prepared(subject.model)
    parts = {n: subject.first(n) for n in sizes}
    functions = {
        f"{n}, {chunk}": partial(attacks.sim, net, part.x, part.y, eps=EPS, steps=1, copies=copies, chunk=chunk)
        for n, part in parts.items()
        for chunk in (1, copies)
    }
    seconds, found = bench.timed(functions), []
    for n, part in parts.items():
        faster = {"": ratios(seconds[f"{n}, 1"], seconds[f"{n}, {copies}"])}
        found += rows.of("SIM, copies at once", part, faster, f"T = 1, {copies} copies")
    return found


def largest_batch(subject: Subject, copies: int, chunk: int) -> int:
    """The most images in one forward pass of SIM."""
    seen: list[int] = []
    hook = subject.model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    try:
        attacks.sim(subject.model, subject.x, subject.y, steps=1, copies=copies, chunk=chunk)
    finally:
        hook.remove()
    return max(seen)


# --- success ---------------------------------------------------------------------------------------------------------


def rounding(subject: Subject, nets: Mapping[str, nn.Module]) -> dict[str, float]:
    """By copy: the largest difference of its logits from those of the network, over the largest of these."""
    with torch.no_grad():
        logits = subject.model(subject.x)
        return {name: ((net(subject.x) - logits).abs().max() / logits.abs().max()).item() for name, net in nets.items()}


class Compared(NamedTuple):
    """Success of an attack, in percent of n images, beside that of another on the same images: the difference in
    points with its 95 % interval (Newcombe's for pairs), and the share of images that are answered otherwise."""

    other: float
    this: float
    difference: float
    low: float
    high: float
    changed: float
    n: int


def compared(this: torch.Tensor, other: torch.Tensor, y: torch.Tensor) -> Compared:
    """Of predicted classes, int64 (n,), for the adversarial images of two attacks; y: the right ones."""
    rates = [100 * (p != y).float().mean().item() for p in (other, this)]
    interval = paired_difference((this != y).cpu().numpy(), (other != y).cpu().numpy())
    return Compared(*rates, *interval, 100 * (this != other).float().mean().item(), len(y))


def table(found: Mapping[tuple[str, ...], Compared], *names: str) -> pd.DataFrame:
    """As a page shows them. names: of what tells them apart."""
    heads = ["base (%)", "this (%)", "difference (points)", "95 % low", "95 % high", "answered otherwise (%)", "images"]
    index = pd.MultiIndex.from_tuples(found, names=names)
    return pd.DataFrame(list(found.values()), index, heads).round(1)


def adversarial(data: Images, batch: int, attack: Callable[..., torch.Tensor]) -> torch.Tensor:
    """attack(x, y, index=) of all images, in batches."""
    return torch.cat([attack(part.x, part.y, index=part.index) for part in data.batches(batch)])


def answers(judges: Mapping[str, nn.Module], adv: torch.Tensor) -> dict[str, torch.Tensor]:
    """The class that each judge predicts for each image, int64 (n,)."""
    with torch.no_grad():
        return {name: torch.cat([net(part).argmax(1) for part in adv.split(250)]) for name, net in judges.items()}


def success(
    data: Images, batch: int, nets: Mapping[str, nn.Module], judges: Mapping[str, nn.Module], steps: int, seed: int
) -> dict[tuple[str, str], Compared]:
    """MI-FGSM at 8/255 from each network, beside the first one, by each judge."""
    attack = partial(attacks.mi_fgsm, eps=EPS, steps=steps, seed=seed)
    found = {name: answers(judges, adversarial(data, batch, partial(attack, net))) for name, net in nets.items()}
    base, *others = found
    return {
        (name, judge): compared(found[name][judge], found[base][judge], data.y) for name in others for judge in judges
    }
