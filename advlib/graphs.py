"""A whole attack as CUDA graphs: recorded once, and launched as a whole for every batch.

    run = captured(mi_fgsm, f, x, y, eps=8/255)
    adv = run(x, y)                              for any images in the shape of those

A recording ends where values are looked at (`core.facts`), and goes on in another graph behind: a replay looks at the
same values in the same places, before the loop and behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from .core import checks, facts
from .core.checks import Model
from .engine.graphs import Recorder, Recording

Attack = Callable[..., torch.Tensor]


def captured(
    attack: Attack,
    model: Model | Sequence[Model],
    x: torch.Tensor,
    y: torch.Tensor,
    index: torch.Tensor | None = None,
    **options: Any,
) -> Attack:
    """`attack` with these options, as a function (x, y, index=None) -> adv for batches like x. On a GPU, the attack is
    run and recorded here, and the function replays it: nothing is launched one by one, which pays where networks,
    images or batches are small. On a CPU the function runs the attack, and nothing is gained.

    attack: (model, x, y, index=, **options) -> adv, such as the presets of `attacks`; x, y, index: as of `loop.attack`.
    A replay raises and warns as the attack does, of the images that it is given; its result belongs to the caller. A
    batch of fewer images, as the last one may be, is attacked without the recording. Model and options, `target` among
    them, are those of the recording, and must not change. The memory of an attack is held as long as the function is.
    Raises TypeError or ValueError as the attack does; for an attack that cannot be recorded, since it waits for the
    device on its way, as those do that query, or does what no graph holds, as Carlini & Wagner's Adam; and when called,
    for images of another shape, type or device than x, or more of them.
    """
    checks.function("attack", attack, "a function (model, x, y, index=, **options) -> adv")
    checks.batch(x)
    checks.class_numbers(y, x)
    index, recorder = checks.index(index, x), _recorder(x.device)
    run = partial(attack, model, **options)
    recording = None if recorder is None else _recorded(run, (x, y, index), recorder)
    return _Captured(run, x, recording, _weights(model))


def _recorder(device: torch.device) -> Recorder | None:
    """What records on a device, if anything does."""
    return Recorder(device) if device.type == "cuda" else None


def _weights(model: Model | Sequence[Model]) -> list[torch.Tensor]:
    """The memory of networks, which a replay reads even if they have been moved elsewhere."""
    networks = [m for m in (model if isinstance(model, Sequence) else [model]) if isinstance(m, nn.Module)]
    return [t.data for network in networks for t in (*network.parameters(), *network.buffers())]


def _recorded(run: Attack, given: tuple[torch.Tensor, ...], recorder: Recorder) -> Recording:
    x, y, index = inputs = tuple(value.detach().clone() for value in given)

    def made(reader: facts.Reader) -> torch.Tensor:
        with facts.read_by(reader):
            return checks.transformed(run(x, y, index=index), x, "attack").clone()

    def look(found: Sequence[facts.Fact]) -> None:
        with recorder.pause():
            facts.look(found)

    try:
        with recorder.rehearsal():
            made(look)
        return Recording(recorder, inputs, made)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(f"attack: cannot be recorded as a CUDA graph: {error}") from error


@dataclass(frozen=True)
class _Captured:
    """What `captured` returns. like: the batch that it was made with; weights: kept for the recording."""

    run: Attack
    like: torch.Tensor
    recording: Recording | None
    weights: list[torch.Tensor]

    def __call__(self, x: torch.Tensor, y: torch.Tensor, index: torch.Tensor | None = None) -> torch.Tensor:
        checks.batch(x)
        n, kind = len(self.like), (self.like.shape[1:], self.like.dtype, self.like.device)
        if len(x) > n or (x.shape[1:], x.dtype, x.device) != kind:
            raise ValueError(f"x: expected up to {n} images like {checks.shown(self.like)}, got {checks.shown(x)}")
        if self.recording is None or len(x) < n:
            return self.run(x, y, index=index)
        checks.class_numbers(y, x)
        return self.recording(facts.look, x, y, checks.index(index, x))
