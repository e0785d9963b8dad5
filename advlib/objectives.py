"""What a network is trained to minimise: an objective maps (model, x, y, draw) to the mean loss of a batch.

x: float (N, C, H, W) in [0, 1]; y: int64 (N,); draw: `draws.Draw` whose step is the epoch. An objective is a frozen
dataclass of plain values, so that a recipe that names it can be written down and compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from . import attacks, models
from .draws import Draw

Objective = Callable[[nn.Module, torch.Tensor, torch.Tensor, Draw], torch.Tensor]

_STREAM = 200  # augmentation uses the streams below


def _cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.float(), y)


def _seed(draw: Draw) -> int:
    """Another seed in every epoch: attacks count their own steps in the draw."""
    return draw.seed + 1_000_003 * (draw.step + 1)


@dataclass(frozen=True)
class Classification:
    """Cross-entropy on the images as they are."""

    def __call__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        return _cross_entropy(model(x), y)


@dataclass(frozen=True)
class NoisyClassification:
    """Cross-entropy under Gaussian noise, as the network behind randomized smoothing is trained (Cohen et al. 2019).
    sigma: of the noise, in [0, 1] units."""

    sigma: float = 0.25

    def __call__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        noise = draw.at(stream=_STREAM).normal(*x.shape[1:]).to(x)
        return _cross_entropy(model(x + self.sigma * noise), y)


@dataclass(frozen=True)
class Adversarial:
    """PGD adversarial training: cross-entropy at the end of PGD from a random start, and nowhere else (Madry et al.
    2018). eps, alpha: L-inf radius and step, in [0, 1] units; steps: of the attack, made in eval mode."""

    eps: float = 8 / 255
    steps: int = 7
    alpha: float = 2 / 255

    def __call__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        options = {"eps": self.eps, "steps": self.steps, "alpha": self.alpha, "seed": _seed(draw), "index": draw.index}
        return _cross_entropy(model(attacks.pgd(model, x, y, **options)), y)


@dataclass(frozen=True)
class EnsembleAdversarial:
    """Ensemble adversarial training: half the loss on clean images, half on one-step examples made on one network of a
    static pool, another one from batch to batch; the network in training has its turn too (Tramer et al. 2018).

    pool: names of the static networks, as `models.load` takes them. eps: the largest radius; each image's own is drawn
    from |N(0, eps / 2)|, again where it is larger (Kurakin et al. 2017, as there).
    """

    pool: tuple[str, ...]
    eps: float = 16 / 255

    def __call__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        makers = [model, *(_static(name, x.device) for name in self.pool)]
        batch = draw.at(index=draw.index[:1], stream=_STREAM)
        maker = makers[int(batch.uniform(1).item() * len(makers))]
        # The truncated half-normal by its quantile: no draw is made twice.
        reach = torch.special.erf(torch.tensor(2.0 / 2**0.5))
        radius = self.eps / 2 * 2**0.5 * torch.special.erfinv(reach * draw.at(stream=_STREAM + 1).uniform(1, 1, 1))
        direction = (attacks.fgsm(maker, x, y, eps=self.eps, index=draw.index) - x).sign()
        adv = (x + radius.to(x) * direction).clamp(0, 1)
        return 0.5 * (_cross_entropy(model(x), y) + _cross_entropy(model(adv), y))


@cache
def _static(name: str, device: torch.device) -> nn.Module:
    return models.load(name).to(device).requires_grad_(False)
