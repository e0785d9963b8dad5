"""A step of `rules.Elastic` and back into the ball: in L-inf in two passes over memory, in L2 in four.

A norm is summed within blocks of an image, and then over its blocks, both in a fixed order, without atomics: the same
bits in every run, and in every batch. Squares are in units of the largest entry of their block, since those of tiny
gradients are 0 in float32. An image is a run of `size` numbers, in whichever dense layout the iterates have.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import dense

BLOCK = 1024
TINY = tl.constexpr(torch.finfo(torch.float32).tiny)


@triton.jit
def at_least(v, bound):
    """`clamp(min=bound)`, which keeps what is not a number."""
    return tl.maximum(v, bound, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def clamped(v, low, high):
    """`clamp(low, high)`, likewise."""
    return tl.clamp(v, low, high, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def divided(v, length):
    """`norms.divided`."""
    return tl.div_rn(v, at_least(length, TINY))


@triton.jit
def numbers(size, BLOCK: tl.constexpr):
    """Where the numbers of a program lie, and which of them are its image's."""
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    return tl.program_id(0).to(tl.int64) * size + k, k < size


@triton.jit
def write_part(parts, v, SQUARES: tl.constexpr):
    """What a block adds to the norm of its image: a sum, and behind the sums of all blocks the unit that it is in."""
    v, blocks = tl.abs(v), tl.num_programs(1)
    part = parts + tl.program_id(0) * 2 * blocks + tl.program_id(1)
    if SQUARES:
        unit = tl.maximum(tl.max(v), TINY)
        v = tl.div_rn(v, unit)
        v = v * v
        tl.store(part + blocks, unit)
    tl.store(part, tl.sum(v))


@triton.jit
def norm(parts, SQUARES: tl.constexpr, BLOCKS: tl.constexpr):
    """The norm of an image from its parts: L2, or the sum of absolute values."""
    j, blocks = tl.arange(0, BLOCKS), tl.num_programs(1)
    part = parts + tl.program_id(0) * 2 * blocks + j
    total = tl.load(part, mask=j < blocks, other=0.0)
    if SQUARES:
        units = tl.load(part + blocks, mask=j < blocks, other=0.0)
        unit = tl.max(units)
        share = tl.div_rn(units, unit)
        return unit * tl.sqrt_rn(tl.sum(total * share * share))
    else:
        return tl.sum(total)


@triton.jit
def accumulated(g, m, at, inside, parts, mu, count, KEEP: tl.constexpr, SQUARES: tl.constexpr, BLOCKS: tl.constexpr):
    """`Elastic.accumulate`."""
    length = tl.div_rn(norm(parts, SQUARES, BLOCKS), count)
    unit = divided(tl.load(g + at, mask=inside, other=0.0).to(tl.float32), length)
    return unit + mu * tl.load(m + at, mask=inside, other=0.0) if KEEP else unit


@triton.jit
def _norm_kernel(g, parts, size, SQUARES: tl.constexpr, BLOCK: tl.constexpr):
    at, inside = numbers(size, BLOCK)
    write_part(parts, tl.load(g + at, mask=inside, other=0.0).to(tl.float32), SQUARES)


@triton.jit
def _linf_kernel(
    g, m, x, lower, upper, parts, x_out, m_out, size, alpha, mu, count,
    KEEP: tl.constexpr, SQUARES: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at, inside = numbers(size, BLOCK)
    new = accumulated(g, m, at, inside, parts, mu, count, KEEP, SQUARES, BLOCKS)
    tl.store(m_out + at, new, mask=inside)
    sign = tl.where(new > 0, 1.0, tl.where(new < 0, -1.0, 0.0))
    low, high = tl.load(lower + at, mask=inside), tl.load(upper + at, mask=inside)
    tl.store(x_out + at, clamped(tl.load(x + at, mask=inside) + alpha * sign, low, high), mask=inside)


@triton.jit
def _momentum_kernel(
    g, m, parts, m_out, lengths, size, mu, count,
    KEEP: tl.constexpr, SQUARES: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at, inside = numbers(size, BLOCK)
    new = accumulated(g, m, at, inside, parts, mu, count, KEEP, SQUARES, BLOCKS)
    tl.store(m_out + at, new, mask=inside)
    write_part(lengths, new, True)


@triton.jit
def _l2_kernel(
    m, x, clean, lengths, distances, x_out, size, alpha, eps, floor,
    PROJECT: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at, inside = numbers(size, BLOCK)
    direction = divided(tl.load(m + at, mask=inside, other=0.0), norm(lengths, True, BLOCKS))
    start = tl.load(clean + at, mask=inside, other=0.0)
    delta = tl.load(x + at, mask=inside, other=0.0) + alpha * direction - start
    if PROJECT:
        delta *= clamped(tl.div_rn(eps, at_least(norm(distances, True, BLOCKS), floor)), 0.0, 1.0)
        tl.store(x_out + at, clamped(start + delta, 0.0, 1.0), mask=inside)
    else:
        write_part(distances, delta, True)


def ascend(
    g: torch.Tensor,
    m: torch.Tensor,
    x: torch.Tensor,
    mu: float,
    normalize: str,
    alpha: float,
    eps: float,
    ball: list[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """(x_{t+1}, g_{t+1}) from a gradient g, the momentum m and the iterates x, (N, C, H, W), in the layout of x. ball:
    lower and upper bound of a `LinfBall`, or the centre of an `L2Ball`. Everything but g is float32."""
    x, layout = dense(x)
    g, m, *ball = (other.contiguous(memory_format=layout) for other in (g, m, *ball))
    x_out, m_out, size = torch.empty_like(x), torch.empty_like(x), x[0].numel()
    grid = len(x), triton.cdiv(size, BLOCK)
    parts, lengths, distances = x.new_empty(3, len(x), 2, grid[1])
    squares, blocks = normalize == "l2", {"BLOCKS": triton.next_power_of_2(grid[1]), "BLOCK": BLOCK}
    rule = mu, float(size) if normalize == "mean" else 1.0
    kind = {"KEEP": mu != 0, "SQUARES": squares, **blocks}
    with torch.cuda.device_of(x):
        _norm_kernel[grid](g, parts, size, SQUARES=squares, BLOCK=BLOCK)
        if len(ball) == 2:
            _linf_kernel[grid](g, m, x, *ball, parts, x_out, m_out, size, alpha, *rule, **kind)
        else:
            _momentum_kernel[grid](g, m, parts, m_out, lengths, size, *rule, **kind)
            place = m_out, x, *ball, lengths, distances, x_out, size, alpha, eps, eps or 1.0
            _l2_kernel[grid](*place, PROJECT=False, **blocks)
            _l2_kernel[grid](*place, PROJECT=True, **blocks)
    return x_out, m_out
