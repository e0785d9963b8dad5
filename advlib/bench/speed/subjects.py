"""What is timed: a network and a batch of images; and the passes that an attack cannot do without."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from ...core.surrogate import Normalized
from ...engine.processor import in_parts
from ...zoo import models, nets
from ...zoo.weights import WeightsError
from .cases import Bench

EPS = 8 / 255
Images = tuple[torch.Tensor, torch.Tensor]
Attack = Callable[..., torch.Tensor]
"""(model, x, y, eps=, steps=) -> adv, as the presets of `attacks` are."""


class Subject(NamedTuple):
    """A network, the images x (N, C, H, W) in [0, 1] that it is shown, and their classes y (N,)."""

    name: str
    model: nn.Module
    x: torch.Tensor
    y: torch.Tensor

    @property
    def flat(self) -> torch.Tensor:
        """The images in channels_last."""
        return channels_last(self.x)

    @property
    def side(self) -> int:
        """Of the images, in pixels."""
        return self.x.shape[-1]

    def first(self, n: int) -> Subject:
        """The same with its first n images."""
        return self._replace(x=self.x[:n], y=self.y[:n])


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """Images whose channels lie next to each other in memory."""
    return x.contiguous(memory_format=torch.channels_last)


def prepared(model: nn.Module) -> nn.Module:
    """A frozen copy with weights in channels_last."""
    return copy.deepcopy(model).requires_grad_(False).to(memory_format=torch.channels_last)


def passes(model: nn.Module, x: torch.Tensor, y: torch.Tensor, number: int = 1) -> None:
    """That many forward and backward passes to the image, the batch as a whole. model: frozen."""
    for _ in range(number):
        _to_the_image(model, x, y)


def pass_in_parts(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """A pass as attacks take it, in parts of the batch (`engine.processor`): the least that an attack must do."""
    in_parts(partial(_to_the_image, model), x, y)


def _to_the_image(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    point = x.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)[0]


def of_zoo(name: str, device: torch.device) -> nn.Module:
    """A network of the zoo, such as "shapes/resnet"; where its weights are missing, one that is untrained stands in,
    with a warning."""
    try:
        return models.load(name).to(device)
    except WeightsError:
        warnings.warn(f"no weights for {name}: an untrained network stands in, and success means nothing", stacklevel=2)
        dataset, family = name.split("/")
        return models.create(family, dataset=dataset).eval().to(device)


# --- networks with random weights, on which their speed does not depend ----------------------------------------------


def resnet20() -> nn.Module:
    """Of He et al. (2015), for CIFAR."""
    return Normalized(nets.resnet(10, 16, 3, (16, 32, 64), pad=True), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def resnet50() -> nn.Module:
    """torchvision's."""
    return Normalized(torchvision.models.resnet50(weights=None), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def resnet8() -> nn.Module:
    """For rehearsals."""
    return Normalized(nets.resnet(10, 8, 1, (8, 16, 32)), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class Network(NamedTuple):
    """A network with random weights, and the side of its images in pixels. batches: their sizes, and the seconds that
    the section `loop` of `bench.gpu` takes with each on a large GPU, about."""

    name: str
    make: Callable[[], nn.Module]
    side: int
    batches: Mapping[int, float]

    def case(self, n: int) -> str:
        return f"{self.name}, {self.side} px, batch {n}"

    def built(self, bench: Bench) -> nn.Module:
        """The same weights every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.make().eval().to(bench.device)

    def subject(self, bench: Bench, n: int) -> Subject:
        """It and n images."""
        return Subject(self.name, self.built(bench), *images(bench, n, self.side))


NETWORKS = (
    Network("ResNet-20", resnet20, 32, {128: 10, 512: 10, 1024: 10}),
    Network("ResNet-50", resnet50, 224, {32: 10, 64: 15, 256: 25}),
)
TINY = (Network("ResNet-8", resnet8, 16, {2: 0}),)


def networks(bench: Bench) -> tuple[Network, ...]:
    """Those of a run."""
    return TINY if bench.tiny else NETWORKS


def images(bench: Bench, n: int, side: int) -> Images:
    """Random images in [0, 1] and classes."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(n, 3, side, side, generator=generator), torch.arange(n) % 10
    return x.to(bench.device), y.to(bench.device)
