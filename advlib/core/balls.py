"""The balls that attacks stay in: where they end, how one steps in them, and noise that fills them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from .draws import Draw, Stream
from .norms import divided, l2_norm


class Ball(Protocol):
    """A set of images around clean ones. eps: its radius; alpha: how long a step in it is; both in [0, 1] units."""

    @property
    def eps(self) -> float: ...

    @property
    def alpha(self) -> float: ...

    def direction(self, m: torch.Tensor) -> torch.Tensor:
        """The step of length 1 along which m . z rises most."""

    def project(self, z: torch.Tensor) -> torch.Tensor:
        """The nearest images in the ball and in [0, 1]."""

    def noise(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Uniform in the ball around 0, in the shape of x."""


@dataclass(frozen=True)
class LinfBall:
    """{z in [0, 1] : |z - x| <= eps}, with the direction of steepest ascent in it, and steps of length alpha."""

    lower: torch.Tensor
    upper: torch.Tensor
    eps: float
    alpha: float

    @classmethod
    def around(cls, x: torch.Tensor, eps: float, alpha: float | None = None) -> LinfBall:
        """Around the images x. alpha: eps if None."""
        return cls((x - eps).clamp_(min=0), (x + eps).clamp_(max=1), eps, eps if alpha is None else alpha)

    def direction(self, m: torch.Tensor) -> torch.Tensor:
        return m.sign()

    def project(self, z: torch.Tensor) -> torch.Tensor:
        return torch.clamp(z, self.lower, self.upper)

    def noise(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return (2 * draw.uniform(*x.shape[1:]).to(x) - 1) * self.eps


@dataclass(frozen=True)
class L2Ball:
    """{z in [0, 1] : ||z - x||_2 <= eps}, the norm per image, and steps of L2 length alpha."""

    x: torch.Tensor
    eps: float
    alpha: float

    @classmethod
    def around(cls, x: torch.Tensor, eps: float, alpha: float | None = None) -> L2Ball:
        """Around the images x. alpha: eps if None."""
        return cls(x, eps, eps if alpha is None else alpha)

    def direction(self, m: torch.Tensor) -> torch.Tensor:
        return divided(m, l2_norm(m))

    def project(self, z: torch.Tensor) -> torch.Tensor:
        # Clipping to [0, 1] afterwards only moves towards x, which lies in it: the ball is not left again.
        delta = z - self.x
        return (self.x + delta * (self.eps / l2_norm(delta).clamp(min=self.eps or 1.0)).clamp(max=1.0)).clamp_(0, 1)

    def noise(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        """A normal direction, a radius eps u^(1/d)."""
        normal = draw.normal(*x.shape[1:]).to(x)
        radius = draw.at(stream=Stream.RADIUS).uniform(1, 1, 1).to(x) ** (1 / x[0].numel())
        return self.direction(normal) * radius * self.eps


BALLS: dict[str, type[LinfBall] | type[L2Ball]] = {"linf": LinfBall, "l2": L2Ball}


def moved(ball: Ball, z: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """z after one step along m, back in the ball."""
    return ball.project(torch.add(z, ball.direction(m), alpha=ball.alpha))


def toward(x: torch.Tensor, adv: torch.Tensor) -> torch.Tensor:
    """adv, float32 or float64, in the type of x; where that is coarser, rounded toward x, so that no ball is left."""
    near = adv.to(x.dtype)
    if near.dtype == adv.dtype:
        return near
    away = (near.to(adv.dtype) - adv) * (adv - x.to(adv.dtype)) > 0
    # The 16 bits of numbers in [0, 1] count upwards with them: the next one is a unit away.
    toward = torch.where(near > x, -1, 1).to(torch.int16)
    return (near.view(torch.int16) + toward * away).view(x.dtype)
