"""Resize and pad of input diversity, and back: every pixel gathers what it is made of, in a fixed order."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton

from . import dense
from .draws import PLACE, mix, row_hash, unit, word
from .erasure import places

BLOCK = 256  # what is gathered is not read in runs of four, and more pixels at once take more registers


@triton.jit
def tap(pixel, n, side, start, slope, BACK: tl.constexpr):
    """The n-th pixel that a pixel is made of along one axis, and its weight; BACK: that is made of it. Output pixel o
    looks at start + o slope, as `InputDiversity._sampling` has it, and the slope is 1 or more."""
    if BACK:
        other = tl.floor((pixel - start) / slope + 0.5).to(tl.int32) + n - 1
        distance = start + other * slope - pixel
    else:
        other = tl.floor(start + pixel * slope).to(tl.int32) + n
        distance = start + pixel * slope - other
    weight = tl.maximum(1.0 - tl.abs(distance), 0.0)
    return other, tl.where((other >= 0) & (other < side), weight, 0.0)


@triton.jit(do_not_specialize=PLACE)
def _resize_kernel(
    x, out, index, chain, seed, step, stream, p, scale, more,
    BACK: tl.constexpr, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, LAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    h, zero = mix(row_hash(row, index, chain, seed, step) ^ word(stream)), tl.full([], 0, tl.int32)
    size = tl.where(unit(h, zero) < p, 1.0 + more * unit(h, zero + 1), scale)  # at which a pixel looks at itself
    slope, room = tl.div_rn(scale, size), scale - size
    top = tl.div_rn(0.5 * scale - room * unit(h, zero + 2) * H, size) - 0.5
    left = tl.div_rn(0.5 * scale - room * unit(h, zero + 3) * W, size) - 0.5
    k, pixel, channel = places(tl.program_id(1), C, H, W, LAST, BLOCK)
    inside, image = k < C * H * W, x + row.to(tl.int64) * (C * H * W)
    total = tl.zeros([BLOCK], tl.float32)
    for a in tl.static_range(3 if BACK else 2):
        line, height = tap(pixel // W, a, H, top, slope, BACK)
        for b in tl.static_range(3 if BACK else 2):
            column, width = tap(pixel % W, b, W, left, slope, BACK)
            at = (line * W + column) * C + channel if LAST else channel * (H * W) + line * W + column
            weight = height * width
            total += weight * tl.load(image + at, mask=inside & (weight > 0), other=0.0).to(tl.float32)
    tl.store(out + row.to(tl.int64) * (C * H * W) + k, total.to(out.dtype.element_ty), mask=inside)


@triton_op("advlib::resize", mutates_args=())
def resize(
    x: torch.Tensor,
    index: torch.Tensor,
    chain: torch.Tensor,
    seed: int,
    step: int,
    stream: int,
    p: float,
    scale: float,
    back: bool,
) -> torch.Tensor:
    """`InputDiversity` of images (N, C, H, W), float32 or half, in their type and layout; back: its transpose, which
    takes gradients back. Index and copy of the draw (N,), and its seed, step and stream as int32. Differentiable in x,
    twice too. Raises ValueError for another number of rows."""
    if not len(x) == len(index) == len(chain):
        raise ValueError(f"{len(x)} images, but {len(index)} and {len(chain)} rows of the draw")
    (n, c, h, w), (x, layout) = x.shape, dense(x)
    out = torch.empty_like(x)
    with torch.cuda.device_of(out):
        wrap_triton(_resize_kernel)[(n, triton.cdiv(c * h * w, BLOCK))](
            x, out, index, chain, seed, step, stream, p, scale, scale - 1,
            BACK=back, C=c, H=h, W=w, LAST=layout is torch.channels_last, BLOCK=BLOCK,
        )  # fmt: skip
    return out


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, index, chain, *ctx.numbers, ctx.back = inputs
    ctx.save_for_backward(index, chain)


def _transposed(ctx: Any, g: torch.Tensor) -> tuple[Any, ...]:
    return resize(g, *ctx.saved_tensors, *ctx.numbers, not ctx.back), *[None] * 8


resize.register_autograd(_transposed, setup_context=_keep)
