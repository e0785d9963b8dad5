"""Floating-point operations and bytes of a function, counted and not timed.

Operations are those of convolutions and matrix products, a multiplication and an addition counted as two. Bytes are
what every operation reads and writes: its operands and its results, once each, as if nothing stayed in a cache. What
moves nothing, such as a view, counts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from .subjects import Attack, Subject, passes


class Counted(NamedTuple):
    """flops: floating-point operations; bytes: read and written."""

    flops: float
    bytes: float

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.flops / self.bytes


def operations(function: Callable[[], object]) -> list[Counted]:
    """What each operation of a call of the function takes, in their order."""
    with _Counting() as counting:
        function()
    return counting.each


def total(each: Iterable[Counted]) -> Counted:
    """Of several together."""
    flops, moved = map(sum, zip(Counted(0, 0), *each, strict=True))
    return Counted(flops, moved)


def counted(function: Callable[[], object]) -> Counted:
    """What a call of the function takes."""
    return total(operations(function))


def of_pass(subject: Subject) -> list[Counted]:
    """The operations of a pass forward and back to the image, in channels_last."""
    return operations(lambda: passes(subject.model, subject.flat, subject.y))


def of_step(attack: Attack, subject: Subject, each: int = 1) -> Counted:
    """The arithmetic of a step of an attack around its passes, of which it takes `each`: what two steps take beyond
    one, without the passes."""
    one, two = (counted(lambda k=k: attack(subject.model, subject.x, subject.y, steps=k)) for k in (1, 2))
    alone = total(of_pass(subject))
    return Counted(two.flops - one.flops - each * alone.flops, two.bytes - one.bytes - each * alone.bytes)


def beside_passes(contestants: Mapping[str, tuple[Attack, int]], subject: Subject) -> dict[str, dict[str, float]]:
    """By attack: the passes of a step, what they move, and what is moved around them. contestants: an attack, and the
    passes that it takes in a step; subject: with a frozen network, in channels_last."""
    of_one, found = total(of_pass(subject)).bytes, {}
    for name, (attack, each) in contestants.items():
        moved = of_step(attack, subject, each).bytes
        found[name] = {
            "passes": each,
            "MB of the passes": each * of_one / 1e6,
            "MB around them": moved / 1e6,
            "share (%)": 100 * moved / (each * of_one),
        }
    return found


class _Counting(TorchDispatchMode):
    """Keeps what each operation takes that it sees, by torch's own formulas where they have one. (torch's counter
    itself follows modules, and refuses a derivative by what a module is given.)"""

    def __init__(self) -> None:
        super().__init__()
        self.each: list[Counted] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        if not _idle(function):
            formula = flop_registry.get(function._overloadpacket)
            flops = formula(*args, **kwargs, out_val=out) if formula else 0
            self.each.append(Counted(flops, sum(map(_size, tree_leaves((_read(function, args), kwargs, out))))))
        return out


def _idle(function: torch._ops.OpOverload) -> bool:
    """Whether an operation moves nothing: views, and memory that nothing is written to."""
    name = function._schema.name
    view = any(r.alias_info is not None and not r.alias_info.is_write for r in function._schema.returns)
    return view or "empty" in name or name.endswith(("::_unsafe_view", "::detach"))


def _read(function: torch._ops.OpOverload, args: tuple) -> tuple:
    """The operands that are read: the way back through a convolution to its images alone asks for no images."""
    if function is torch.ops.aten.convolution_backward.default and not args[-1][1]:
        return args[0], args[2]
    return args


def _size(leaf: object) -> int:
    return leaf.numel() * leaf.element_size() if isinstance(leaf, torch.Tensor) else 0
