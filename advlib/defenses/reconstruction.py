"""Defences that paint the image anew from a part of it, which they choose at random: as smooth as it can be, or in few
colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from ..core import checks
from ..core.checks import Model
from ..core.draws import Draw, Stream
from .transformations import Defence, log_mean_probability, straight_through


@dataclass(frozen=True)
class TotalVariance(Defence):
    """Total variance minimisation: values are dropped at random, and the image z is the smoothest that agrees with
    those kept (Guo et al. 2018; thesis sect. 1.2.2, [39]), in each colour the minimum of

        1/2 sum over kept values of (z - x)^2 + weight * TV(z),

    TV the sum of the L2 norms of the differences of neighbouring rows, and of neighbouring columns.

    drop: probability of each value, of each colour by itself; weight: 0.03 and 0.5 are the paper's. The data term is
    squared, as in the published code. iterations: in place of a solver, so that gradients pass through them: in each,
    a value becomes the weighted mean of what was kept of it and of its neighbours, with the weights at which the sum
    and this mean have one derivative. Dropped values start at the mean of the kept ones, and what they were has no
    effect.
    """

    kind: ClassVar[str] = "faithful"
    gradients: ClassVar[str] = "exact"
    drop: float = 0.5
    weight: float = 0.03
    iterations: int = 50

    def __post_init__(self) -> None:
        checks.number("drop", self.drop, 0, below=1)
        checks.number("weight", self.weight, above=0)
        checks.whole("iterations", self.iterations, 1)

    def purified(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        kept = (draw.at(stream=Stream.DROPPED_PIXELS).uniform(*x.shape[1:]) >= self.drop).to(x)
        mean = (kept * x).sum((2, 3), keepdim=True) / kept.sum((2, 3), keepdim=True).clamp(min=1)
        z = kept * x + (1 - kept) * mean
        for _ in range(self.iterations):
            z = self._averaged(z, x, kept)
        return z

    def _averaged(self, z: torch.Tensor, x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        total, weights = kept * x, kept
        for side in (2, 3):
            length = z.shape[side] - 1
            before, after = z.narrow(side, 0, length), z.narrow(side, 1, length)
            # d norm / d difference = difference / norm; the bound is that of the published code.
            norm = torch.linalg.vector_norm(after - before, dim=5 - side, keepdim=True)
            w = (self.weight / norm.clamp(min=1e-3)).expand_as(after)
            first, last = ((0, 0, 1, 0), (0, 0, 0, 1)) if side == 2 else ((1, 0), (0, 1))
            total = total + F.pad(w * before, first) + F.pad(w * after, last)
            weights = weights + F.pad(w, first) + F.pad(w, last)
        return total / weights


@dataclass(frozen=True)
class RandomizedDiscretization(Defence):
    """Randomized discretization: Gaussian noise, then each pixel gets the nearest of a few colours that are drawn from
    the noisy image (Zhang & Liang 2019; thesis sect. 1.2.2, [43]), averaged over `draws` of both.

    sigma: of the noise, in [0, 1] units; colours: how many, the first any pixel's, each other that of a pixel chosen
    with a probability proportional to its squared distance from those there are, as k-means++ begins. The steps are
    those of the paper's abstract; the values of sigma, colours and draws are ours, for images of 32 pixels, and its
    bound on the accuracy is not computed.
    """

    kind: ClassVar[str] = "proxy"
    gradients: ClassVar[str] = "straight-through"
    sigma: float = 0.03
    colours: int = 16
    draws: int = 10

    def __post_init__(self) -> None:
        checks.number("sigma", self.sigma, 0)
        checks.whole("colours", self.colours, 1)
        checks.whole("draws", self.draws, 1)

    def purified(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        noise = draw.at(stream=Stream.PALETTE).normal(*x.shape[1:]).to(x)
        pixels = (x.detach() + self.sigma * noise).flatten(2)  # (N, C, H W)
        u = draw.at(stream=Stream.PALETTE + 1).uniform(self.colours).to(x)
        out, distance = pixels, torch.full_like(pixels[:, :1], float("inf"))
        for k in range(self.colours):
            chances = (distance if k else torch.ones_like(distance))[:, 0].cumsum(1)
            place = torch.searchsorted(chances, u[:, k : k + 1] * chances[:, -1:], right=True).clamp(
                max=len(chances.T) - 1
            )
            colour = pixels.gather(2, place[:, None].expand(-1, pixels.shape[1], -1))
            away = (pixels - colour).square().sum(1, keepdim=True)
            out = torch.where(away < distance, colour, out)
            distance = torch.minimum(distance, away)
        return straight_through(x, out.view_as(x).clamp(0, 1))

    def logits(self, model: Model, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return log_mean_probability(model, self.purified, x, draw, self.draws)
