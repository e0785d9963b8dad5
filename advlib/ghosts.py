"""Ghost networks (Li et al. 2020; [74] of the thesis): a network that erosion makes another one at every step.

    f = dropout_erosion(f, "relu*")            what a layer returns is dropped here and there
    f = skip_erosion(f, "bn2")                 skip connections count a little more or less
    adv = mi_fgsm(f, x, y)                     another ghost in each step: a longitudinal ensemble

Both return a model around the one they are given and change nothing in it. The numbers are drawn for each image, step
and copy from the seed of the attack, so that an image has its own ghosts. Where nobody draws, as when its accuracy is
measured, a ghost network is the network itself; so it is inside a wrapper that has no method `drawn` (an ensemble, and
what `accelerate` makes, have one): erode last. Compiled, it runs uncompiled where it is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

from .core import checks
from .core.checks import Model
from .core.draws import Draw, Stream
from .core.surrogate import drawn
from .layers import Hook, hooked, named


def dropout_erosion(model: nn.Module, layers: str, rate: float = 0.012) -> nn.Module:
    """Dropout erosion: of the output z of each of the layers, every number is 0 with probability `rate`, the others are
    z / (1 - rate).

    layers: a pattern of names (`layers.named`); the paper has them all over the network. rate: the paper's Lambda,
    0.006 for Inception v3 in its published code; 0.012 was not checked against the paper. 0 is the network. Raises
    TypeError or ValueError for a pattern that fits no layer, or a rate outside [0, 1); and ValueError when run if the
    model calls none of the layers.
    """
    checks.number("rate", rate, 0, below=1)
    return _DropoutErosion(model, tuple(named(model, layers, "layers")), rate)


def skip_erosion(model: nn.Module, layers: str, rate: float = 0.22) -> nn.Module:
    """Skip connection erosion: each residual block returns lambda z + F(z), lambda uniform in [1 - rate, 1 + rate],
    where it returned z + F(z), or the ReLU of either.

    layers: a pattern of names (`layers.named`) for the *last* layer of each branch F, as of `layers.skip_gradient`; the
    block is the module that holds it and ends with the sum. rate: the paper's Lambda, here for ResNet-50; 0 is the
    network. lambda is one number, as in the paper's text; its published code draws one for each channel, the same for
    the whole batch. Raises TypeError or ValueError for a pattern that fits no layer, several of a block, or one in no
    block, or a rate outside [0, 1); and ValueError when run if the model calls none of the layers.
    """
    checks.number("rate", rate, 0, below=1)
    names = tuple(named(model, layers, "layers"))
    blocks = [name.rpartition(".")[0] for name in names]
    if "" in blocks or len(set(blocks)) < len(blocks):
        raise ValueError(f"layers {layers!r}: expected the last layer of the branch of each block, got {names}")
    return _SkipErosion(model, names, rate)


class Ghost(nn.Module):
    """`model`, which at a draw has the hooks `erosion` on its layers."""

    def __init__(self, model: nn.Module, layers: tuple[str, ...], rate: float) -> None:
        super().__init__()
        self.model, self.layers, self.rate = model, layers, rate

    def extra_repr(self) -> str:
        return f"layers={self.layers}, rate={self.rate}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)

    def drawn(self, draw: Draw) -> Model:
        """The ghost of these images, steps and copies."""
        network = drawn(self.model, draw)

        def ghost(x: torch.Tensor) -> torch.Tensor:
            with hooked(self.model, self.erosion(draw)):
                return network(x)

        return ghost

    def erosion(self, draw: Draw) -> Mapping[str, Hook]:
        raise NotImplementedError


class _DropoutErosion(Ghost):
    def erosion(self, draw: Draw) -> Mapping[str, Hook]:
        return {
            name: partial(_dropped, rate=self.rate, draw=draw.at(stream=Stream.DROPPED + place))
            for place, name in enumerate(self.layers)
        }


def _dropped(z: torch.Tensor, rate: float, draw: Draw) -> torch.Tensor:
    return torch.where(draw.uniform(*z.shape[1:]) < rate, 0, z / (1 - rate))


class _SkipErosion(Ghost):
    def erosion(self, draw: Draw) -> Mapping[str, Hook]:
        hooks: dict[str, Hook] = {}
        for place, name in enumerate(self.layers):
            u = draw.at(stream=Stream.SKIPPED + place).uniform(1)[:, 0]
            share = 1 + self.rate * (2 * u - 1)
            # lambda z + F = lambda (z + F / lambda), whatever ReLU comes behind the sum and however z is projected.
            hooks[name] = partial(_scaled, by=1 / share)
            hooks[name.rpartition(".")[0]] = partial(_scaled, by=share)
        return hooks


def _scaled(z: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    return z * by.view(-1, *[1] * (z.dim() - 1)).to(z)
