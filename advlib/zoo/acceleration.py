"""A faster copy of a surrogate for the attack loop: BatchNorm folded, half precision, compiled."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ..core import checks
from ..core.checks import Model
from ..core.draws import Draw
from ..core.surrogate import Ensemble, Normalized, drawn
from . import folding


class _Cast(nn.Module):
    """Runs `net` in another floating-point type and returns float32 logits; gradients come back in float32."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = net.to(dtype), dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._cast(x, self.net)

    def drawn(self, draw: Draw) -> Model | None:
        """Of a random network, such as a ghost network (`surrogate.drawn`)."""
        network = drawn(self.net, draw)
        return None if network is self.net else lambda x: self._cast(x, network)

    def _cast(self, x: torch.Tensor, network: Model) -> torch.Tensor:
        return network(x.to(self.dtype)).float()


def accelerate(
    model: nn.Module, fold_batchnorm: bool = True, dtype: torch.dtype | None = None, compile: bool = False
) -> nn.Module:
    """A faster copy of a surrogate for the attack loop; the model itself is not touched.

    fold_batchnorm: every BatchNorm that follows a convolution, and can go into its weights without changing anything
    else, does (`folding.fold`; exact up to rounding, which is checked on two images). dtype: torch.bfloat16 runs the
    network in it, faster where the processor has it; the gradients are rounded (chapter A3 measures the gain, and what
    it does to the success rate). compile: torch.compile, worth its minute for long runs. Names of layers, blocks and
    hooks are those of the model; an ensemble is accelerated member by member.
    Raises TypeError for what is no nn.Module or no such option; ValueError for a model that cannot be copied, for a
    dtype that is not floating-point, and, if folding is asked for, as `folding.fold` does.
    """
    checks.module(model)
    checks.flag("fold_batchnorm", fold_batchnorm)
    checks.flag("compile", compile)
    if dtype is not None:
        checks.instance("dtype", dtype, torch.dtype, "a floating-point torch.dtype")
        if not dtype.is_floating_point:
            raise ValueError(f"dtype={dtype}: expected a floating-point torch.dtype")
    try:
        with torch.no_grad():  # of the weights of a ScriptModule copying would record a graph
            fast = copy.deepcopy(model).eval()
    except Exception as error:  # what an attribute raises that cannot be copied
        raise ValueError(f"model: {type(model).__name__} cannot be copied ({error})") from error
    for p in fast.parameters():  # a ScriptModule itself has no requires_grad_
        p.requires_grad_(False)
    return _accelerated(fast, fold_batchnorm, dtype, compile)


def _accelerated(fast: nn.Module, fold_batchnorm: bool, dtype: torch.dtype | None, compile: bool) -> nn.Module:
    if isinstance(fast, Ensemble):
        fast.members = nn.ModuleList(_accelerated(m, fold_batchnorm, dtype, compile) for m in fast.members)
        return fast
    if fold_batchnorm:
        sized = isinstance(fast, Normalized) and fast.size is not None
        folding.fold(fast, (fast.size,) if sized else folding.SIDES)
    if dtype is not None and isinstance(fast, Normalized):
        # The images are normalised in float32: in bfloat16 pixels would be rounded to 1/256 before the network sees
        # them.
        fast.net = _Cast(fast.net, dtype)
    elif dtype is not None:
        fast = _Cast(fast, dtype)
    fast = fast.to(memory_format=torch.channels_last)
    return torch.compile(fast) if compile else fast
