"""BatchNorm while a loss takes several passes: whose statistics normalise, and which passes they remember."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from . import checks


def _layers(model: nn.Module) -> list[_BatchNorm]:
    checks.instance("model", model, nn.Module, "an nn.Module")
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
    """The model normalises as its mode has it, but what passes through leaves no trace in the running statistics: they
    are put back bit for bit. The model may be compiled."""
    # .data: a graph made before, whose backward pass comes after, does not take them for changed.
    statistics = [b.data for layer in _layers(model) for b in layer.buffers(recurse=False)]
    before = [b.clone() for b in statistics]
    try:
        yield
    finally:
        if statistics:
            torch._foreach_copy_(statistics, before)


@contextmanager
def unrecorded_anywhere() -> Iterator[None]:
    """`unrecorded` for every BatchNorm that runs inside, whatever model it belongs to. Hooks of modules do not reach
    compiled code: it runs uncompiled inside."""
    quiet: list[_BatchNorm] = []

    def before(layer: nn.Module, inputs: tuple[object, ...]) -> None:
        if isinstance(layer, _BatchNorm) and layer.training and layer.track_running_stats:
            layer.track_running_stats = False  # in train mode: normalise by the batch and update nothing
            quiet.append(layer)

    def after(layer: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        if quiet and layer is quiet[-1]:
            quiet.pop().track_running_stats = True

    with uncompiled():
        hooks = [register_module_forward_pre_hook(before), register_module_forward_hook(after, always_call=True)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def uncompiled() -> AbstractContextManager[object]:
    """torch.compile does nothing inside. Where its machinery, which takes seconds to import, is not there yet, nothing
    is compiled."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
