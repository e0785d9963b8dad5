"""The passes of a training step as a CUDA graph: recorded once, and launched as a whole in every step.

What a host decides anew from step to step stays outside: the images and their augmentation, the step of the plain
optimizer with its learning rate and momentum, and the moving average of the weights. Without a GPU a tape of operations
on the CPU stands in for a graph (tests/test_replayed.py).

On an NVIDIA H200 a ResNet-18 was trained by SGD (two epochs of 10,000 images, batch 128, bfloat16) at 28,500 and 38,300
images a second replayed, the recording not counted, and at 10,400 and 8,900 launched one by one. The losses of both
epochs were the same to the four decimals shown.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import nn

from .. import graphs
from ..curvature import restored
from ..engine.graphs import Recorder, Recording
from ..sam import CRSAM, SAM, SharpnessAware
from ..sam_family import GSAM
from .objectives import Classification
from .recipes import Recipe

_WORTH = 50
"""Steps of a whole training from which on they are recorded: two of them are taken for that, and not kept."""
_STEADY = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, SAM, GSAM, CRSAM)
"""Optimizers whose passes are the same in every step. Of the others some draw, some decide on the host, and some take
other passes from step to step."""


class Passes:
    """The passes of a step, recorded in memory of their own; called with the next batch, they leave its gradients in
    the weights, and return the loss."""

    def __init__(
        self,
        recorder: Recorder,
        inputs: tuple[torch.Tensor, ...],
        passes: Callable[[], torch.Tensor],
        weights: list[torch.Tensor],
    ) -> None:
        self._recording = Recording(recorder, inputs, lambda cut: passes())
        self._weights, self._gradients = weights, [p.grad for p in weights]

    def __call__(self, *batch: torch.Tensor) -> torch.Tensor:
        loss = self._recording(lambda found: None, *batch)
        for p, gradient in zip(self._weights, self._gradients, strict=True):
            p.grad = gradient  # a validation, or whoever watches, may have taken it away
        return loss


def repeats(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> bool:
    """Whether the passes are the same in each of so many steps, as far as the recipe tells, and it pays to record them.
    The steps are those of the whole training: one that goes on from a checkpoint does as one that never stopped."""
    plain = not isinstance(optimizer, SharpnessAware) or not (optimizer.same_draws or optimizer.local)
    steady = plain and type(optimizer) in _STEADY and type(recipe.objective) is Classification
    return steady and not recipe.compile and steps >= _WORTH


def recorded(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    passes: Callable[[], torch.Tensor],
    inputs: tuple[torch.Tensor, ...],
) -> Passes | None:
    """`passes`, which read the inputs, as they are in every step. None where nothing records, or the network draws from
    torch's generators; and, with a warning, where the passes cannot be recorded. Whatever weights, statistics and
    generators the rehearsal has changed is put back, so that the first replay is the first step."""
    device = inputs[0].device
    recorder = graphs._recorder(device)
    if recorder is None:
        return None
    counted = [optimizer.floored] if isinstance(optimizer, CRSAM) else []
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    try:
        changed = restored([*model.parameters(), *model.buffers(), *counted])
        with torch.random.fork_rng(range(torch.cuda.device_count())), changed:
            before = _generators(device)
            with recorder.rehearsal():
                passes()
            if _generators(device) != before:
                return None
            return Passes(recorder, inputs, passes, weights)
    except RuntimeError as error:  # torch.OutOfMemoryError among them
        told = f"fit: every step is launched anew, since its passes cannot be recorded as a CUDA graph: {error}"
        warnings.warn(told, RuntimeWarning, stacklevel=4)
        return None


def _generators(device: torch.device) -> list[bytes]:
    """Where torch's generators are, on the host and on the device."""
    here = [torch.get_rng_state()]
    states = here if device.type == "cpu" else [*here, torch.cuda.get_rng_state(device)]
    return [state.numpy().tobytes() for state in states]
