"""The random numbers of `core.draws` in one launch: the hash bit for bit, and the normal numbers made of it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

PLACE = ["seed", "step", "stream"]
"""Numbers that change from call to call: no kernel is compiled anew for some of their values."""


@triton.jit
def mix(h):
    """lowbias32 on uint32."""
    h = (h ^ (h >> 16)) * tl.full([], 0x7FEB352D, tl.uint32)
    h = (h ^ (h >> 15)) * tl.full([], 0x846CA68B, tl.uint32)
    return h ^ (h >> 16)


@triton.jit
def word(number):
    """The bits of an int32, which may have been compiled in, as uint32."""
    return tl.full([], number, tl.int32).to(tl.uint32, bitcast=True)


@triton.jit
def row_hash(row, index, copy, seed, step):
    """The hash of a row's place, before its stream."""
    h = mix(mix(word(seed)) ^ tl.load(index + row).to(tl.uint32))
    return mix(mix(h ^ word(step)) ^ tl.load(copy + row).to(tl.uint32))


@triton.jit
def unit(h, counter):
    """Numbers of a stream with hash h, float32 in [0, 1)."""
    bits = mix(h + counter.to(tl.uint32) * tl.full([], 0x9E3779B9, tl.uint32))
    return (bits >> 8).to(tl.float32) * 5.9604644775390625e-08  # 2^-24


@triton.jit(do_not_specialize=PLACE)
def _uniform_kernel(out, index, copy, seed, step, stream, count, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    h = mix(row_hash(row, index, copy, seed, step) ^ word(stream))
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + row.to(tl.int64) * count + k, unit(h, k), mask=k < count)


@triton.jit(do_not_specialize=PLACE)
def _normal_kernel(out, index, copy, seed, step, stream, count, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    h = mix(row_hash(row, index, copy, seed, step) ^ word(stream))
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    radius = tl.sqrt_rn(-2.0 * libdevice.log1p(-unit(h, k)))
    angle = 6.283185307179586 * unit(h, count + k)
    tl.store(out + row.to(tl.int64) * count + k, radius * tl.cos(angle), mask=k < count)


def _grid(out: torch.Tensor) -> tuple[tuple[int, int], int]:
    """The programs for a (N, count) tensor, and how many numbers each writes."""
    block = min(1024, triton.next_power_of_2(max(out.shape[1], 1)))
    return (out.shape[0], triton.cdiv(out.shape[1], block)), block


def uniform(index: torch.Tensor, copy: torch.Tensor, seed: int, step: int, stream: int, count: int) -> torch.Tensor:
    """`Draw.uniform`, (N, count): the same bits. index, copy: integers (N,); seed, step, stream: as int32."""
    out = torch.empty(len(index), count, dtype=torch.float32, device=index.device)
    grid, block = _grid(out)
    with torch.cuda.device_of(out):
        _uniform_kernel[grid](out, index, copy, seed, step, stream, count, BLOCK=block)
    return out


def normal(index: torch.Tensor, copy: torch.Tensor, seed: int, step: int, stream: int, count: int) -> torch.Tensor:
    """`Draw.normal`, (N, count), of the same uniform numbers: rounding differs where logarithm and cosine do."""
    out = torch.empty(len(index), count, dtype=torch.float32, device=index.device)
    grid, block = _grid(out)
    with torch.cuda.device_of(out):
        _normal_kernel[grid](out, index, copy, seed, step, stream, count, BLOCK=block)
    return out
