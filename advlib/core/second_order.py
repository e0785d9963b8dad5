"""Operations in forms that can be differentiated twice, and quickly, as a penalty on gradients needs it (LRS-2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from .batchnorm import uncompiled


class SecondOrder(TorchFunctionMode):
    """In this mode networks compute what they compute, in a form that can be differentiated twice, cheaply.

    Convolution, BatchNorm and concatenation: torch takes the second derivative of a convolution by its weights as one
    whose kernel is as large as the image, for each group by itself, where this one is the way back of a convolution. It
    puts that of a BatchNorm together from two dozen passes over its input, where this one takes four; and that of a
    concatenation of k parts from k sums over all of it, where this one takes one pass. Attention is that of plain
    operations, since the fused kernels have no second derivative, and compiled code, which has none either, runs
    uncompiled. What gradient checkpointing would compute again is kept: the second forward pass may come when the mode
    has ended, and would then consist of other operations."""

    def __enter__(self) -> SecondOrder:
        self._inside = ExitStack()
        self._inside.enter_context(sdpa_kernel(SDPBackend.MATH))
        self._inside.enter_context(uncompiled())
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._inside.close()

    def __torch_function__(
        self,
        function: Callable[..., object],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        forms: dict[object, Callable[..., object]] = {F.conv2d: _conv2d, F.batch_norm: _batch_norm, torch.cat: _cat}
        with _kept():
            return forms.get(function, function)(*args, **(kwargs or {}))


@contextmanager
def graphs() -> Iterator[None]:
    """Graphs are recorded inside, also within `no_grad` and `inference_mode`."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _kept() -> saved_tensors_hooks | nullcontext[None]:
    """Inside gradient checkpointing, which is a pair of hooks: tensors are saved as without it."""
    hooked = torch._C._autograd._top_saved_tensors_default_hooks(False)  # there is no public way to ask
    return saved_tensors_hooks(torch.Tensor.detach, lambda saved: saved) if hooked else nullcontext()


Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

# --- convolution -----------------------------------------------------------------------------------------------------

How = tuple[list[int], list[int], list[int], bool, list[int], int]
"""Stride, padding, dilation, and what else `torch.convolution` takes."""


def _conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> torch.Tensor:
    """`F.conv2d`; torch's own where the padding has a name, or x is an image and no batch."""
    if isinstance(padding, str) or x.dim() != 4:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    tensors, device = [t for t in (x, weight, bias) if t is not None], x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        tensors = [t.to(torch.get_autocast_dtype(device)) for t in tensors]
    each = [[n, n] if isinstance(n, int) else [*n, *n][:2] for n in (stride, padding, dilation)]
    # Views, since the engine tells of no leaf whether it wants its gradient.
    return _Convolve.apply((*each, False, [0, 0], groups), *[t.view_as(t) for t in tensors])


class _Convolve(torch.autograd.Function):
    """y = x * w + b."""

    @staticmethod
    def forward(
        ctx: Any, how: How, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        ctx.how = how
        ctx.save_for_backward(x, weight)
        return torch.convolution(x, weight, bias, *how)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        # There is no public way to ask. A pass to the images alone costs twice as much with what the weights would get.
        wanted = [node is not None and torch._C._will_engine_execute_node(node) for node, _ in ctx.next_functions]
        dx = _ToImages.apply(ctx.how, dy, x.detach(), weight) if wanted[0] else None
        dw = _ToWeights.apply(ctx.how, dy, x, weight.detach()) if wanted[1] else None
        return None, dx, dw, *(dy.sum((0, 2, 3)) if wants else None for wants in wanted[2:])


class _ToImages(torch.autograd.Function):
    """dx, linear in dy and w: <u, dx> = <dy, u * w>."""

    @staticmethod
    def forward(ctx: Any, how: How, dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.how = how
        ctx.save_for_backward(dy, weight)
        return _dx(how, dy, x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        dy, weight = ctx.saved_tensors
        return None, torch.convolution(u, weight, None, *ctx.how), None, _dw(ctx.how, dy, u, weight)


class _ToWeights(torch.autograd.Function):
    """dw, linear in dy and x: <v, dw> = <dy, x * v>."""

    @staticmethod
    def forward(ctx: Any, how: How, dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.how = how
        ctx.save_for_backward(dy, x)
        return _dw(how, dy, x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        dy, x = ctx.saved_tensors
        return None, torch.convolution(x, v, None, *ctx.how), _dx(ctx.how, dy, x, v), None


def _dx(how: How, dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten.convolution_backward(dy, x, weight, None, *how, [True, False, False])[0]


def _dw(how: How, dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten.convolution_backward(dy, x, weight, None, *how, [False, True, False])[1]


# --- BatchNorm -------------------------------------------------------------------------------------------------------


def _batch_norm(
    x: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """`F.batch_norm`, with its effect on the running statistics."""
    exact = torch.promote_types(x.dtype, torch.float32)
    weight = x.new_ones(x.shape[1], dtype=exact) if weight is None else weight.to(exact)
    bias = x.new_zeros(x.shape[1], dtype=exact) if bias is None else bias.to(exact)
    if training:
        return _Normalise.apply(x, weight, bias, running_mean, running_var, momentum, eps)
    assert running_mean is not None and running_var is not None
    scale = weight * torch.rsqrt(running_var + eps)
    return _combined((x, scale), constant=bias - running_mean * scale)


class _Normalise(torch.autograd.Function):
    """y = w z + b, where z = (x - mean) r is x normalised by its batch, r = (var + eps)^-1/2."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        momentum: float,
        eps: float,
    ) -> torch.Tensor:
        y, *ctx.statistics = torch.native_batch_norm(x, weight, bias, running_mean, running_var, True, momentum, eps)
        ctx.save_for_backward(x, weight)
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return *_Backward.apply(dy, *ctx.saved_tensors, *ctx.statistics), None, None, None, None


class _Backward(torch.autograd.Function):
    """dx = w r P(dy), dw = sum(dy z), db = sum(dy), per channel, with m values each and
    P(u) = u - mean(u) - z mean(u z)."""

    @staticmethod
    def forward(
        ctx: Any, dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, mean: torch.Tensor, r: torch.Tensor
    ) -> Three:
        dx, dw, db = _fused(dy, x, weight, mean, r)
        ctx.save_for_backward(dy, x, weight, mean, r, dw, db)
        ctx.set_materialize_grads(False)
        return dx, dw, db

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, u: torch.Tensor | None, to_dw: torch.Tensor | None, to_db: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        """Gradients of <u, dx> + to_dw dw + to_db db: P is symmetric, and dz/dx = r P, dr/dx = -r^2 z / m."""
        dy, x, weight, mean, r, dw, db = ctx.saved_tensors
        m = x.numel() / x.shape[1]
        u = torch.zeros_like(x) if u is None else u
        of_image_alone = to_dw is None and to_db is None
        to_dw, to_db = (torch.zeros_like(dw) if g is None else g for g in (to_dw, to_db))
        along, uz, total = _fused(u, x, weight, mean, r)
        still, unit = torch.zeros_like(mean), torch.ones_like(r)
        product = _fused(u, dy, unit, still, unit, wanted=(False, True, False))[1]
        product = product - (total * db + uz * dw) / m  # <u, P(dy)>
        k = -weight * r.square() / m
        of_u, of_dy = k * dw, k * uz + to_dw * r
        of_z = k * product - (of_u * uz + of_dy * dw) / m
        rest = -(of_u * total + of_dy * db) / m - of_z * r * mean
        to_x = _combined((u, of_u), (dy, of_dy), (x, of_z * r), constant=rest)
        if not of_image_alone:
            along = along + _combined((x, to_dw * r), constant=to_db - to_dw * r * mean)
        return along, to_x, r * product, None, None


def _fused(
    dy: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    mean: torch.Tensor,
    r: torch.Tensor,
    wanted: tuple[bool, bool, bool] = (True, True, True),
) -> Three:
    """dx, dw and db of `_Backward`, in one or two passes over the data; if dy were laid out otherwise than x, as the
    slice of a concatenation is, in twenty times the time."""
    if dy.stride() != x.stride():
        dy = torch.empty_like(x).copy_(dy)
    return torch.ops.aten.native_batch_norm_backward(dy, x, weight, None, None, mean, r, True, 0.0, wanted)


def _combined(*terms: tuple[torch.Tensor, torch.Tensor], constant: torch.Tensor) -> torch.Tensor:
    """The sum of tensors, each times a factor per channel, and a constant per channel."""
    (x, factor), *others = terms
    shape = (1, -1, *[1] * (x.dim() - 2))
    total = torch.addcmul(constant.to(x.dtype).view(shape), x, factor.to(x.dtype).view(shape))
    for value, factor in others:
        total = total.addcmul_(value, factor.to(x.dtype).view(shape))
    return total


# --- concatenation ---------------------------------------------------------------------------------------------------


def _cat(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """`torch.cat`."""
    return _Concatenate.apply(dim, *tensors)


class _Concatenate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dim: int, *tensors: torch.Tensor) -> torch.Tensor:
        ctx.dim, ctx.sizes = dim, [t.shape[dim] for t in tensors]
        return torch.cat(tensors, dim)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return None, *_Split.apply(gradient, ctx.dim, ctx.sizes)


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: torch.Tensor, dim: int, sizes: list[int]) -> tuple[torch.Tensor, ...]:
        ctx.dim = dim
        return tuple(part.clone() for part in whole.split(sizes, dim))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return torch.cat(gradients, ctx.dim), None, None
