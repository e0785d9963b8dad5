"""How many pieces of the same work a GPU does at once: as many as its memory holds, by a trial of one and of two.

Its decisions are tested with a memory that is made up. On an NVIDIA H200 SIM and RE have run by them, on ResNet-18 and
VGG-19 (CIFAR-10, n = 1,000, bfloat16); how many pieces they were, and what that gained, was not measured.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch

_KNOWN: WeakKeyDictionary[Any, dict[Any, int]] = WeakKeyDictionary()
_SHARE = 0.5  # of the memory that is free
_TRYING: ContextVar[bool] = ContextVar("trying", default=False)


def trying() -> bool:
    """Whether what runs is a trial, whose results nobody uses."""
    return _TRYING.get()


def at_once(
    chunk: int | str, pieces: int, x: torch.Tensor, owner: object, kind: object, run: Callable[[int], object]
) -> int:
    """How many of `pieces` to do at once: `chunk`, or for "auto" one after the other on a CPU, and on a GPU as many as
    half of its free memory holds, in shares as equal as can be.

    x: the images of one piece; run: does the first so many pieces, and is tried with 1 and 2 when a work is met that is
    not known yet. A work is known by its `owner`, a network, its kind, and shape, type and device of x.
    """
    if not isinstance(chunk, str):
        return chunk
    if pieces == 1 or not _on_gpu(x):
        return 1
    try:
        known = _KNOWN.setdefault(owner, {})
    except TypeError:  # nothing that can be remembered
        return 1
    work = kind, tuple(x.shape), x.dtype, x.device
    if work not in known and not torch.cuda.is_current_stream_capturing():
        known[work] = _most(x.device, run)
    rounds = -(-pieces // known.get(work, 1))
    return -(-pieces // rounds)


def _on_gpu(x: torch.Tensor) -> bool:
    return x.is_cuda and not torch.compiler.is_compiling()


def _most(device: torch.device, run: Callable[[int], object]) -> int:
    """How many pieces the memory holds: what the second one takes on top of the first is what each takes."""
    room, token = _SHARE * _free(device), _TRYING.set(True)
    try:
        one, two = (_peak(device, partial(run, k)) for k in (1, 2))
    except torch.OutOfMemoryError:
        return 1
    finally:
        _TRYING.reset(token)
    return 1 + max(0, int((room - one) / max(two - one, 1)))


def _free(device: torch.device) -> int:
    """Bytes that nothing holds, be they torch's or nobody's."""
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _peak(device: torch.device, work: Callable[[], object]) -> int:
    """Bytes that the work holds at its most. The peak that torch keeps of the device starts anew."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before
