"""BatchNorm while a loss takes several passes: whose statistics normalise, and which passes they remember."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook


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


@contextmanager
def unrecorded_anywhere() -> Iterator[None]:
    """`unrecorded` for every BatchNorm that runs inside, whatever model it belongs to."""
    quiet = []

    def before(layer: nn.Module, inputs: tuple) -> None:
        if isinstance(layer, _BatchNorm) and layer.training and layer.track_running_stats:
            layer.track_running_stats = False  # in train mode: normalise by the batch and update nothing
            quiet.append(layer)

    def after(layer: nn.Module, inputs: tuple, output: object) -> None:
        if quiet and layer is quiet[-1]:
            quiet.pop().track_running_stats = True

    hooks = [register_module_forward_pre_hook(before), register_module_forward_hook(after, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
