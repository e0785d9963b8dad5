"""Weighted sums of lists of tensors, such as the gradients by all weights: all tensors of a list in one launch, every
number read once, and written once.

Where they lie is in a table of addresses, behind which no compiler sees what is read: so this is a plain function, and
no operator of torch. `run_on` keeps it from compilers, and `_taken` from tensors that have no memory of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import torch
import triton
import triton.language as tl

Numbers = Sequence[float | torch.Tensor]
Lists = Sequence[Sequence[torch.Tensor]]
BLOCK = 1024


@triton.jit
def address(n, row, tensors, like, ALIGNED: tl.constexpr):
    """Where a tensor of the n-th list begins; those before the first list are the sums."""
    begin = tl.load(row + (n + 3) * tensors).to(like.dtype)
    return tl.multiple_of(begin, 16) if ALIGNED else begin


@triton.jit
def _write_sum(
    factors, row, tensors, like, k, inside, READ: tl.constexpr, LISTS: tl.constexpr, ALIGNED: tl.constexpr
):  # fmt: skip
    total = 0.0  # of the numbers k of a tensor
    for n in tl.static_range(LISTS):
        factor = tl.load(factors[n]).to(tl.float32) if READ >> n & 1 else factors[n]
        total += factor * tl.load(address(n, row, tensors, like, ALIGNED) + k, mask=inside).to(tl.float32)
    tl.store(address(-1, row, tensors, like, ALIGNED) + k, total.to(like.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tensors"])
def _sum_kernel(
    table, factors, like, tensors,
    READ: tl.constexpr, LISTS: tl.constexpr, SLOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # READ: a bit for each list, whether its factor lies on the GPU
    block, i = tl.program_id(0), tl.arange(0, SLOTS)
    begun = tl.load(table + i, mask=i < tensors, other=block + 1) <= block
    row = table + tl.sum(begun.to(tl.int32)) - 1  # the last tensor that has its first block here or before
    start, size, bits = (block - tl.load(row)) * BLOCK, tl.load(row + tensors), 0
    for n in tl.static_range(LISTS + 1):
        bits |= tl.load(row + (n + 2) * tensors)
    k = start + tl.arange(0, BLOCK)
    if (start + BLOCK <= size) & (bits % 16 == 0):  # by 16 bytes
        _write_sum(factors, row, tensors, like, k, None, READ, LISTS, True)
    else:
        _write_sum(factors, row, tensors, like, k, k < size, READ, LISTS, False)


@lru_cache(maxsize=16)
def _table(rows: tuple[tuple[int, ...], ...], device: torch.device, stream: torch.cuda.Stream | None) -> torch.Tensor:
    """The rows on the device, without waiting for it. Kept, since memory that is handed out in the same order lies at
    the same addresses in the next step, for the stream that the copy is in."""
    return torch.tensor(rows, pin_memory=device.type == "cuda").to(device, non_blocking=True)


def _taken(out: list[torch.Tensor], factors: Numbers, lists: Lists) -> bool:
    """Whether the kernel takes them: plain tensors of one type on one device, in every list with the layout of `out`,
    which never has gaps; no gradient is wanted, and no graph recorded, whose replays would copy the rows once more."""
    dtype, device = out[0].dtype, out[0].device
    kinds = [(torch.Tensor, dtype, device, t.shape, t.stride()) for t in out]
    alike = all([(type(t), t.dtype, t.device, t.shape, t.stride()) for t in tensors] == kinds for tensors in lists)
    alike &= all((f.dtype, f.device, f.dim()) == (dtype, device, 0) for f in factors if isinstance(f, torch.Tensor))
    alike &= dtype in (torch.float32, torch.bfloat16, torch.float16) and not torch.is_grad_enabled()
    return alike and not (device.type == "cuda" and torch.cuda.is_current_stream_capturing())


def weighted_sum(factors: Numbers, lists: Lists) -> list[torch.Tensor] | None:
    """factor * tensors, added up over the lists in their order, in float32, and rounded to the type of the tensors.
    None where the kernel does not take them. A factor may be a tensor of one number, for which nothing waits."""
    out = [torch.empty_like(t) for t in lists[0]]
    if not _taken(out, factors, lists):
        return None
    first = [0, *accumulate(-(-t.numel() // BLOCK) for t in out)]  # triton.cdiv would take longer than all the rest
    rows = first[:-1], [t.numel() for t in out], *([t.data_ptr() for t in tensors] for tensors in (out, *lists))
    device, given = out[0].device, tuple(f if isinstance(f, torch.Tensor) else float(f) for f in factors)
    read = sum(1 << n for n, f in enumerate(factors) if isinstance(f, torch.Tensor))
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
    table = _table(tuple(map(tuple, rows)), device, stream)
    with torch.cuda.device_of(table):
        _sum_kernel[(first[-1],)](
            table, given, out[0], len(out), read, len(lists), triton.next_power_of_2(len(out)), BLOCK
        )  # fmt: skip
    return out
