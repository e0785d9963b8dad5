"""BatchNorm while a loss takes several passes: whose statistics normalise, which passes they remember, and a form that
is quick to differentiate twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn
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
    """In this mode BatchNorm is what it is, one multiplication and one addition per channel. The second derivative of
    the fused operation is put together from two dozen passes over its input; that of this one costs half as much or
    less."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.batch_norm:
            return _affine(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _affine(
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
    mean, var = running_mean, running_var
    if training:
        exact = torch.promote_types(x.dtype, torch.float32)
        var, mean = (value.to(exact) for value in torch.var_mean(x, (0, *range(2, x.dim())), correction=0))
        if running_mean is not None and momentum:
            count = x.numel() / x.shape[1]
            running_mean.lerp_(mean.detach().to(running_mean), momentum)
            running_var.lerp_(var.detach().to(running_var) * count / (count - 1), momentum)
    scale = torch.rsqrt(var + eps) if weight is None else weight * torch.rsqrt(var + eps)
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = (1, -1, *[1] * (x.dim() - 2))
    return torch.addcmul(shift.to(x.dtype).view(shape), x, scale.to(x.dtype).view(shape))
