"""Random erasure of all copies in one pass over the images, and back: the mask is computed anew and never stored."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton

from . import dense
from .draws import PLACE, mix, row_hash, unit, word

BLOCK = 1024


@triton.jit
def rectangle(u_area, u_aspect, most, aspect, lean, RANDOM: tl.constexpr, H: tl.constexpr, W: tl.constexpr):
    """`RandomErasure.rectangle` of one row. lean: 2 log(H / W)."""
    share, r = most * u_area, aspect
    if RANDOM:
        limit = tl.log(H * tl.div_rn(1.0, W * tl.maximum(share, 1e-12)))
        low = tl.maximum(-limit + lean, -1.2039728043259361)  # log 0.3
        high = tl.minimum(limit, 1.2039728043259361)
        r = tl.exp(tl.minimum(tl.maximum(low + (high - low) * u_aspect, -limit + lean), limit))
    area = share * (H * W)
    return tl.sqrt_rn(area * r), tl.sqrt_rn(tl.div_rn(area, r))


@triton.jit
def is_erased(pixel, base, stream, own, p, most, aspect, lean, RANDOM: tl.constexpr, H: tl.constexpr, W: tl.constexpr):
    """Which pixels of a row lie in its rectangle. base: the row's hash; own: which copy of this erasure it is."""
    h = mix(base ^ word(stream))
    zero = tl.full([], 0, tl.int32)
    tall, wide = rectangle(unit(h, zero), unit(h, zero + 1), most, aspect, lean, RANDOM, H, W)
    tall = tl.where((unit(h, zero + 4) < p) & (own > 0), tall, 0.0)  # of no height, it holds no pixel
    top, left = unit(h, zero + 2) * (H - tall), unit(h, zero + 3) * (W - wide)
    y, x = (pixel // W).to(tl.float32) + 0.5, (pixel % W).to(tl.float32) + 0.5
    return (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)


@triton.jit
def places(block, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, LAST: tl.constexpr, BLOCK: tl.constexpr):
    """Where numbers of an image lie in memory, and which pixel and channel they are. LAST: channels_last."""
    k = block * BLOCK + tl.arange(0, BLOCK)
    if LAST:
        return k, k // C, k % C
    else:
        return k, k % (H * W), k // (H * W)


@triton.jit(do_not_specialize=PLACE)
def _erase_kernel(
    x, out, own, index, chain, seed, step, stream, p, most, aspect, lean, fill, images,
    RANDOM: tl.constexpr, NOISE: tl.constexpr, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    LAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)  # the copies of an image are near each other in time: it is read from memory once
    base = row_hash(row, index, chain, seed, step)
    k, pixel, channel = places(tl.program_id(1), C, H, W, LAST, BLOCK)
    inside = k < C * H * W
    erased = is_erased(pixel, base, stream, tl.load(own + row), p, most, aspect, lean, RANDOM, H, W)
    value = tl.load(x + (row % images).to(tl.int64) * (C * H * W) + k, mask=inside)
    if NOISE:
        paint = unit(mix(base ^ (word(stream) + 1)), channel * (H * W) + pixel).to(value.dtype)
    else:
        paint = tl.full([BLOCK], fill, tl.float32).to(value.dtype)
    tl.store(out + row.to(tl.int64) * (C * H * W) + k, tl.where(erased, paint, value), mask=inside)


@triton.jit(do_not_specialize=PLACE)
def _erase_backward_kernel(
    g, out, own, index, chain, seed, step, stream, p, most, aspect, lean, images, copies,
    RANDOM: tl.constexpr, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    LAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0)
    k, pixel, channel = places(tl.program_id(1), C, H, W, LAST, BLOCK)
    inside = k < C * H * W
    total = tl.zeros([BLOCK], tl.float32)
    for c in range(copies):  # in their order: the same sum in every run
        row = c * images + image
        base = row_hash(row, index, chain, seed, step)
        erased = is_erased(pixel, base, stream, tl.load(own + row), p, most, aspect, lean, RANDOM, H, W)
        grad = tl.load(g + row.to(tl.int64) * (C * H * W) + k, mask=inside)
        total += tl.where(erased, 0.0, grad.to(tl.float32))
    tl.store(out + image.to(tl.int64) * (C * H * W) + k, total.to(out.dtype.element_ty), mask=inside)


@triton_op("advlib::erase", mutates_args=())
def erase(
    x: torch.Tensor,
    own: torch.Tensor,
    index: torch.Tensor,
    chain: torch.Tensor,
    seed: int,
    step: int,
    stream: int,
    p: float,
    most: float,
    aspect: float | None,
    fill: float | None,
) -> torch.Tensor:
    """`RandomErasure` of N images into k N rows, row r of image r % N, in the type and layout of x, float32 or half.

    own: which copy of this erasure a row is; index, chain: index and copy of the draw; integers (k N,). seed, step,
    stream: of the draw, as int32. most: largest share that is erased. aspect, fill: None draws them. Differentiable in
    x, twice too. Raises ValueError for rows that do not fit.
    """
    if len(index) % len(x) or not len(own) == len(index) == len(chain):
        raise ValueError(f"{len(x)} images, but {len(own)} copies, and {len(index)} and {len(chain)} rows of the draw")
    (n, c, h, w), (x, layout) = x.shape, dense(x)
    out = torch.empty(len(index), c, h, w, dtype=x.dtype, device=x.device, memory_format=layout)
    with torch.cuda.device_of(out):
        wrap_triton(_erase_kernel)[(len(index), triton.cdiv(c * h * w, BLOCK))](
            x, out, own, index, chain, seed, step, stream, p, most, aspect or 1.0, 2 * math.log(h / w), fill or 0.0, n,
            RANDOM=aspect is None, NOISE=fill is None, C=c, H=h, W=w, LAST=layout is torch.channels_last, BLOCK=BLOCK,
        )  # fmt: skip
    return out


@triton_op("advlib::erase_backward", mutates_args=())
def erase_backward(
    g: torch.Tensor,
    own: torch.Tensor,
    index: torch.Tensor,
    chain: torch.Tensor,
    seed: int,
    step: int,
    stream: int,
    p: float,
    most: float,
    aspect: float | None,
    images: int,
) -> torch.Tensor:
    """The gradient of the N images from that of k N rows, g: the sum over an image's copies of what is not erased."""
    (_, c, h, w), (g, layout) = g.shape, dense(g)
    out = torch.empty(images, c, h, w, dtype=g.dtype, device=g.device, memory_format=layout)
    with torch.cuda.device_of(out):
        wrap_triton(_erase_backward_kernel)[(images, triton.cdiv(c * h * w, BLOCK))](
            g, out, own, index, chain, seed, step, stream, p, most, aspect or 1.0, 2 * math.log(h / w), images,
            len(index) // images, RANDOM=aspect is None, C=c, H=h, W=w, LAST=layout is torch.channels_last, BLOCK=BLOCK,
        )  # fmt: skip
    return out


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    source, own, index, chain, *ctx.numbers, _ = inputs
    ctx.images = len(source)
    ctx.save_for_backward(own, index, chain)


def _of_erase(ctx: Any, g: torch.Tensor) -> tuple[Any, ...]:
    return erase_backward(g, *ctx.saved_tensors, *ctx.numbers, ctx.images), *[None] * 10


def _of_erase_backward(ctx: Any, g: torch.Tensor) -> tuple[Any, ...]:
    """The masked sum transposed: what is erased is 0 in each copy, and the rest is there again."""
    return erase(g, *ctx.saved_tensors, *ctx.numbers, 0.0), *[None] * 10


erase.register_autograd(_of_erase, setup_context=_keep)
erase_backward.register_autograd(_of_erase_backward, setup_context=_keep)
