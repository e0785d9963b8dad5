"""Networks that compute what they did, with another backward pass: LinBP and SGM, by the names of layers.

    g = gradient(linear_backward(f, "layer3.0"))            LinBP from that layer on
    g = gradient(skip_gradient(f, "layer*.*.bn2", 0.5))     SGM: residual branches at half their weight

Both return a model around the one they are given and change nothing in it: its hooks are gone after every pass, also
after an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from . import checks
from .models import Ensemble

_RELUS = {F.relu, F.relu_, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_}


def named(model: nn.Module, pattern: str, argument: str = "layer") -> dict[str, nn.Module]:
    """The layers of `model` whose name, or the end of it behind a dot, matches `pattern` ("layer3.0", "layer*.bn2"; "*"
    stands for anything). Raises ValueError if there are none; TypeError for what is no nn.Module, and for an ensemble,
    whose members are to be wrapped one by one. argument: what errors call the pattern."""
    if not isinstance(model, nn.Module) or isinstance(model, Ensemble):
        raise TypeError(f"model: expected an nn.Module that is no ensemble, got {checks.shown(model)}")
    checks.text(argument, pattern)
    found = {
        name: layer
        for name, layer in model.named_modules()
        if name and (fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}"))
    }
    if not found:
        names = [name for name, _ in model.named_modules() if name]
        raise ValueError(f"{argument} {pattern!r}: there is none; the names go from {names[0]} to {names[-1]}")
    return found


def only(model: nn.Module, name: str) -> str:
    """The full name of the one layer that `name` fits (`named`). Raises as `named` does, and ValueError if it fits
    several."""
    found = named(model, name)
    if len(found) > 1:
        raise ValueError(f"layer {name!r}: expected one layer, it fits {', '.join(found)}")
    return next(iter(found))


class _Rewired(nn.Module):
    """Runs `model` inside `self.rewired()`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with self.rewired():
            return self.model(x)


# --- LinBP -----------------------------------------------------------------------------------------------------------


def linear_backward(model: nn.Module, layer: str) -> nn.Module:
    """LinBP (Guo et al. 2020): from `layer` on, in the order in which layers are run, every ReLU lets the gradient
    through as if it were the identity. The logits are those of `model`; with a layer behind the last ReLU so is the
    gradient. ReLUs are found where they are called, be they modules or functions.

    layer: its name, or the end of it. Raises as `only` does, and ValueError when run if the model never calls it."""
    return _LinearBackward(model, only(model, layer))


class _LinearBackward(_Rewired):
    def __init__(self, model: nn.Module, layer: str) -> None:
        super().__init__(model)
        self.layer = layer

    def extra_repr(self) -> str:
        return f"layer={self.layer!r}"

    @contextmanager
    def rewired(self) -> Iterator[None]:
        mode = _LinearReLU()
        hook = self.model.get_submodule(self.layer).register_forward_pre_hook(mode.begin)
        try:
            with mode:
                yield
        finally:
            hook.remove()
        if not mode.begun:
            raise ValueError(f"layer {self.layer!r}: {type(self.model).__name__} never calls it; name another")


class _LinearReLU(TorchFunctionMode):
    """Once begun, ReLUs called in this mode are `_Straight`."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = False

    def begin(self, *_: object) -> None:
        self.begun = True

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if self.begun and function in _RELUS:
            return _Straight.apply(args[0] if args else kwargs["input"])
        return function(*args, **(kwargs or {}))


class _Straight(torch.autograd.Function):
    """max(z, 0) forward, the identity backward."""

    @staticmethod
    def forward(ctx, z: torch.Tensor) -> torch.Tensor:
        return z.clamp(min=0)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        return grad


# --- SGM -------------------------------------------------------------------------------------------------------------


def skip_gradient(model: nn.Module, layers: str, gamma: float = 0.5) -> nn.Module:
    """SGM (Wu et al. 2020): the gradient through a residual branch counts `gamma` times, so that more of it comes
    through the skip connection. The logits are those of `model`; gamma = 1 is its gradient, 0 that of the skips alone.

    layers: a pattern of names (`named`) for the *last* layer of each branch, whose output the sum takes: "bn2" in a
    basic block of torchvision, "bn3" in a bottleneck. Where the original decays the gradient at every ReLU of a branch,
    this does it once, at its end. Raises TypeError or ValueError for a pattern that fits no layer, or gamma outside
    [0, 1]; and ValueError when run if the model calls none of the layers.
    """
    checks.number("gamma", gamma, 0, 1)
    return _SkipGradient(model, tuple(named(model, layers, "layers")), gamma)


class _SkipGradient(_Rewired):
    def __init__(self, model: nn.Module, layers: tuple[str, ...], gamma: float) -> None:
        super().__init__(model)
        self.layers, self.gamma = layers, gamma

    def extra_repr(self) -> str:
        return f"layers={self.layers}, gamma={self.gamma}"

    @contextmanager
    def rewired(self) -> Iterator[None]:
        called = []

        def decayed(layer: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
            called.append(layer)
            return torch.lerp(output.detach(), output, self.gamma)

        hooks = [self.model.get_submodule(name).register_forward_hook(decayed) for name in self.layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        if not called:
            names = ", ".join(self.layers)
            raise ValueError(f"layers {names}: {type(self.model).__name__} never calls them; name others")
