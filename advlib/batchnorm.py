"""BatchNorm while a loss takes several passes: whose statistics normalise, which passes they remember, and a form that
is quick to differentiate twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode


def _layers(model: nn.Module) -> list[_BatchNorm]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


@contextmanager
def fixed(model: nn.Module) -> Iterator[None]:
    """The running statistics normalise, and nothing changes them, whatever mode the model is in: the loss of an image
    is a function of that image alone."""
    modes = [(layer, layer.training) for layer in _layers(model)]
    try:
        for layer, _ in modes:
            layer.eval()
        yield
    finally:
        for layer, mode in modes:
            layer.train(mode)


@contextmanager
def unrecorded(model: nn.Module) -> Iterator[None]:
    """The model normalises as its mode has it, but what passes through leaves no trace in the running statistics."""
    layers = [layer for layer in _layers(model) if layer.track_running_stats]
    before = [(layer.momentum, layer.num_batches_tracked.clone()) for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 0.0
        yield
    finally:
        for layer, (momentum, batches) in zip(layers, before, strict=True):
            layer.momentum = momentum
            layer.num_batches_tracked.copy_(batches)


class Differentiable(TorchFunctionMode):
    """In this mode BatchNorm is what it is, and cheap to differentiate twice: the second derivative of the fused
    operation is put together from two dozen passes over its input, that of this one takes four."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


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
    scale = weight * torch.rsqrt(running_var + eps)
    return _combined((x, scale), constant=bias - running_mean * scale)


class _Normalise(torch.autograd.Function):
    """y = w z + b, where z = (x - mean) r is x normalised by its batch, r = (var + eps)^-1/2."""

    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, momentum, eps):
        y, *ctx.statistics = torch.native_batch_norm(x, weight, bias, running_mean, running_var, True, momentum, eps)
        ctx.save_for_backward(x, weight)
        return y

    @staticmethod
    def backward(ctx, dy):
        return *_Backward.apply(dy, *ctx.saved_tensors, *ctx.statistics), None, None, None, None


class _Backward(torch.autograd.Function):
    """dx = w r P(dy), dw = sum(dy z), db = sum(dy), per channel, with m values each and
    P(u) = u - mean(u) - z mean(u z)."""

    @staticmethod
    def forward(ctx, dy, x, weight, mean, r):
        dx, dw, db = _fused(dy, x, weight, mean, r)
        ctx.save_for_backward(dy, x, weight, mean, r, dw, db)
        ctx.set_materialize_grads(False)
        return dx, dw, db

    @staticmethod
    @once_differentiable
    def backward(ctx, u, to_dw, to_db):
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


def _fused(dy, x, weight, mean, r, wanted=(True, True, True)) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
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
