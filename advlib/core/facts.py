"""What the values of tensors say about arguments: known only once they are read, for which their device is waited.

    with together():
        checks.images(x)
        checks.labels(y, x)      one wait for both, here at the end

A check measures on the device, and leaves a fact; whoever reads facts waits once for as many as there are. They come
in the order in which they were asked for, and so do their errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch


class Fact(NamedTuple):
    """name: of the argument; values: of the device, and few; judge: raises or warns by these values, on the host."""

    name: str
    values: torch.Tensor
    judge: Callable[[torch.Tensor], None]


def look(facts: Sequence[Fact]) -> None:
    """Read all values, with one wait, and judge them in their order. Raises what `judge` raises, and ValueError for
    tensors of the device meta."""
    for fact in facts:
        if fact.values.is_meta:
            raise ValueError(f"{fact.name}: on the device meta, which holds no values")
    for fact, values in zip(facts, _read([fact.values for fact in facts]), strict=True):
        fact.judge(values)


def _read(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors on the host, of whatever types, by one copy of their bytes."""
    if not tensors:
        return []
    flat = [t.detach().contiguous().view(-1).view(torch.uint8) for t in tensors]
    parts = torch.cat([part.to(flat[0].device) for part in flat]).cpu().split([len(part) for part in flat])
    return [part.clone().view(t.dtype).view(t.shape) for part, t in zip(parts, tensors, strict=True)]


Reader = Callable[[Sequence[Fact]], object]
_READER: ContextVar[Reader] = ContextVar("reader", default=look)


def state(name: str, values: torch.Tensor, judge: Callable[[torch.Tensor], None]) -> None:
    """A fact, for whoever reads them here: it is looked at at once, or where `together` ends."""
    _READER.get()([Fact(name, values, judge)])


@contextmanager
def read_by(reader: Reader) -> Iterator[None]:
    """Meanwhile `reader` is given the facts, and nothing else looks at them."""
    token = _READER.set(reader)
    try:
        yield
    finally:
        _READER.reset(token)


@contextmanager
def together() -> Iterator[None]:
    """Meanwhile facts are kept, and handed on together at the end, with one wait. An error in between comes after
    theirs, as it would had each been looked at in its place."""
    kept: list[Fact] = []
    try:
        with read_by(kept.extend):
            yield
    except Exception:
        _READER.get()(kept)
        raise
    _READER.get()(kept)
