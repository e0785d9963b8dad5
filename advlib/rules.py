"""Step rules: where an attack takes its gradients, and what it makes of them.

    adv = attack(x, y, g, momentum=Elastic(mu=1.0, sigma=2.0), eps=16/255)

A rule has two methods. `init(x)` is its state before the first step, of the images x. `update(state, g, x_t, y, draw,
ball)` returns the direction to step along, and the next state: g is the gradient of what the attack raises (in a
targeted attack that of minus its loss), called as often as the rule likes; x_t are the iterates, `ball` is where they
stay (`core.balls`), with its radius `eps` and the step length `alpha`. The state belongs to one call of `attack`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from .core import checks
from .core.balls import Ball, moved
from .core.draws import Draw
from .core.norms import NORMS, divided, mean_abs
from .gradients import Gradient, neighbours

State = tuple[torch.Tensor, torch.Tensor]


class Rule(Protocol):
    """What `attack` takes as its `momentum`."""

    def init(self, x: torch.Tensor) -> Any: ...

    def update(
        self, state: Any, g: Gradient, x_t: torch.Tensor, y: torch.Tensor, draw: Draw, ball: Ball
    ) -> tuple[torch.Tensor, Any]: ...


@dataclass(frozen=True)
class Elastic:
    """Elastic momentum (thesis eq. 2.1 to 2.3): the gradient is taken at x_t + alpha sigma g_t and added to mu g_t.

    mu: decay. sigma: look-ahead horizon, in steps; 0 is MI-FGSM (eq. 1.3), mu is NI-FGSM (eq. 1.4), mu = sigma = 0 is
    I-FGSM (eq. 1.2). normalize: what the gradient is divided by, per image: "mean" (of absolute values, as the
    published code of NI-FGSM has it), "l1" (their sum, eq. 2.2 to the letter: the look-ahead vanishes), "l2".
    project: "none", as the text has it: with "mean", sigma = 2, mu = 1 and 10 steps the average pixel looks up to 1.8
    eps beyond the iterate, and single pixels much further; or "ball": the look-ahead point is brought back into the
    ball and [0, 1], where iterates can be.
    Raises TypeError or ValueError for mu or sigma below 0, or another word.
    """

    mu: float = 1.0
    sigma: float = 0.0
    normalize: str = "mean"
    project: str = "none"

    def __post_init__(self) -> None:
        checks.number("mu", self.mu, 0)
        checks.number("sigma", self.sigma, 0)
        checks.choice("normalize", self.normalize, NORMS)
        checks.choice("project", self.project, ("none", "ball"))

    def look_ahead(self, x_t: torch.Tensor, m: torch.Tensor, alpha: float) -> torch.Tensor:
        """x_t^em, eq. 2.1."""
        return torch.add(x_t, m, alpha=alpha * self.sigma) if self.sigma else x_t

    def accumulate(self, m: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        """g_{t+1}, eq. 2.2."""
        unit = divided(grad, NORMS[self.normalize](grad))
        return torch.add(unit, m, alpha=self.mu) if self.mu else unit

    def point(self, x_t: torch.Tensor, m: torch.Tensor, ball: Ball) -> torch.Tensor:
        """Where the gradient is taken: the look-ahead point, projected if it is to be."""
        ahead = self.look_ahead(x_t, m, ball.alpha)
        return ball.project(ahead) if self.sigma and self.project == "ball" else ahead

    def init(self, x: torch.Tensor) -> torch.Tensor:
        """g_0 = 0."""
        return torch.zeros_like(x)

    def update(
        self, m: torch.Tensor, g: Gradient, x_t: torch.Tensor, y: torch.Tensor, draw: Draw, ball: Ball
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(g_{t+1}, g_{t+1}): the direction is the momentum."""
        m = self.accumulate(m, g(self.point(x_t, m, ball), y, draw))
        return m, m


PLAIN = Elastic(mu=0.0)
MI = Elastic(mu=1.0)


@dataclass(frozen=True)
class VarianceTuned:
    """Variance tuning (Wang & He 2021; [73] of the thesis): the last step's variance v is added to the gradient before
    it is accumulated, v the mean gradient over points drawn around the last iterate, less the gradient there.

    momentum: sigma = 0 is VMI-FGSM, sigma = mu VNI-FGSM, whose gradient is taken ahead and whose neighbours lie around
    the iterate, as in the published code. points: how many are drawn; 0 is `momentum` alone. radius: of the cube they
    fill, in units of eps. A step takes 1 + points gradients. Raises TypeError or ValueError for another momentum, a
    negative number of points, or radius < 0.
    """

    momentum: Elastic = MI
    points: int = 20
    radius: float = 1.5

    def __post_init__(self) -> None:
        checks.instance("momentum", self.momentum, Elastic, "Elastic(mu=1.0)")
        checks.whole("points", self.points, 0)
        checks.number("radius", self.radius, 0)

    def init(self, x: torch.Tensor) -> State:
        """No momentum, no variance."""
        return torch.zeros_like(x), torch.zeros_like(x)

    def update(
        self, state: State, g: Gradient, x_t: torch.Tensor, y: torch.Tensor, draw: Draw, ball: Ball
    ) -> tuple[torch.Tensor, State]:
        """The momentum of gradient + v; the state is both."""
        m, v = state
        grad = g(self.momentum.point(x_t, m, ball), y, draw)
        m = self.momentum.accumulate(m, grad + v)
        if self.points:
            v = neighbours(g, self.radius * ball.eps, self.points)(x_t, y, draw) - grad
        return m, (m, v)


@dataclass(frozen=True)
class EnhancedMomentum:
    """EMI-FGSM (Wang et al. 2021; [72] of the thesis): the gradient is averaged over points on the line through the
    iterate along the last averaged gradient.

    momentum: without a look-ahead of its own. points, interval: they lie evenly from -interval to interval, in steps of
    alpha along that gradient, which has a mean absolute value of 1 (as in the published code); one point, or interval
    = 0, is `momentum` alone. A step takes `points` gradients. Raises TypeError or ValueError for a momentum with sigma
    above 0, points < 1 or interval < 0.
    """

    momentum: Elastic = MI
    points: int = 11
    interval: float = 7.0

    def __post_init__(self) -> None:
        checks.instance("momentum", self.momentum, Elastic, "Elastic(mu=1.0)")
        if self.momentum.sigma:
            raise ValueError(f"momentum: expected sigma = 0, since the points are where it looks, got {self.momentum}")
        checks.whole("points", self.points, 1)
        checks.number("interval", self.interval, 0)

    def init(self, x: torch.Tensor) -> State:
        """No momentum, no last gradient."""
        return torch.zeros_like(x), torch.zeros_like(x)

    def update(
        self, state: State, g: Gradient, x_t: torch.Tensor, y: torch.Tensor, draw: Draw, ball: Ball
    ) -> tuple[torch.Tensor, State]:
        """The momentum of the averaged gradient; the state is both."""
        m, last = state
        total = torch.zeros_like(x_t)
        for k in range(self.points):
            share = 2 * k / (self.points - 1) - 1 if self.points > 1 else 0.0
            place = torch.add(x_t, last, alpha=share * self.interval * ball.alpha)
            total = total + g(place, y, draw.branch(torch.full_like(draw.index, k)))
        grad = total / self.points
        m = self.momentum.accumulate(m, grad)
        return m, (m, divided(grad, mean_abs(grad)))


@dataclass(frozen=True)
class VarianceReduced:
    """SVRE (Xiong et al. 2022; [99] of the thesis), for an ensemble: every step walks `rounds` times as many small
    steps as there are networks, each along a momentum of

        gradient of one network, there - its gradient at x_t + the ensemble's at x_t,

    the network drawn from the seed; the walk's last momentum is what `momentum` accumulates.

    momentum: of both loops; a look-ahead moves x_t. rounds: the paper's 16 steps for 4 networks are 4. With one network
    the sum is its gradient there, and with one small step it is the gradient at x_t.
    A step takes one gradient of the ensemble and two of a network for each small step. Raises TypeError or ValueError
    for another momentum or rounds < 1; when used, ValueError for a g that is not of an ensemble.
    """

    momentum: Elastic = MI
    rounds: int = 4

    def __post_init__(self) -> None:
        checks.instance("momentum", self.momentum, Elastic, "Elastic(mu=1.0)")
        checks.whole("rounds", self.rounds, 1)

    def init(self, x: torch.Tensor) -> torch.Tensor:
        """No momentum."""
        return torch.zeros_like(x)

    def update(
        self, m: torch.Tensor, g: Gradient, x_t: torch.Tensor, y: torch.Tensor, draw: Draw, ball: Ball
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The momentum of the walk's momentum."""
        if not g.parts:
            raise ValueError("momentum: VarianceReduced needs the gradient of an ensemble, such as al.ensemble([f, h])")
        start = self.momentum.point(x_t, m, ball)
        whole, z, inner = g(start, y, draw), start, torch.zeros_like(x_t)
        for k in self._order(len(g.parts), draw):
            part = g.parts[k]
            inner = self.momentum.accumulate(inner, part(z, y, draw) - part(start, y, draw) + whole)
            z = moved(ball, z, inner)
        m = self.momentum.accumulate(m, inner)
        return m, m

    def _order(self, networks: int, draw: Draw) -> list[int]:
        """Which network each small step takes: the same for all images of a step."""
        generator = torch.Generator().manual_seed(draw.seed * 1_000_003 + draw.step)
        return torch.randint(networks, (self.rounds * networks,), generator=generator).tolist()
