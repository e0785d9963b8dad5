"""The one loop that every gradient attack is, the ball it stays in, and the momentum rules.

    adv = attack(x, y, g, momentum=Elastic(mu=1.0, sigma=2.0), eps=16/255, steps=10, seed=0, index=i)

x: float (N, C, H, W) in [0, 1]; y: int64 (N,); eps, alpha: in the same [0, 1] units; adv: like x, within eps of x and
within [0, 1]. Every image's result depends on the image, its `index` and `seed`, and on no other image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from .core import checks
from .core.checks import Model
from .core.draws import Draw, Stream
from .core.norms import NORMS, divided, l2_norm
from .core.surrogate import frozen
from .gradients import Gradient, gradient

# --- momentum --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Elastic:
    """Elastic momentum (thesis eq. 2.1 to 2.3): the gradient is taken at x_t + alpha sigma g_t and added to mu g_t.

    mu: decay. sigma: look-ahead horizon, in steps; 0 is MI-FGSM (eq. 1.3), mu is NI-FGSM (eq. 1.4), mu = sigma = 0 is
    I-FGSM (eq. 1.2). normalize: what the gradient is divided by, per image: "mean" (of absolute values, as the
    published code of NI-FGSM has it), "l1" (their sum, eq. 2.2 to the letter: the look-ahead vanishes), "l2".
    The look-ahead point is projected neither to the ball nor to [0, 1]: with "mean", sigma = 2, mu = 1 and 10 steps the
    average pixel can be 1.8 eps beyond the iterate, and single pixels much further.
    """

    mu: float = 1.0
    sigma: float = 0.0
    normalize: str = "mean"

    def __post_init__(self) -> None:
        checks.number("mu", self.mu, 0)
        checks.number("sigma", self.sigma, 0)
        checks.choice("normalize", self.normalize, NORMS)

    def look_ahead(self, adv: torch.Tensor, m: torch.Tensor, alpha: float) -> torch.Tensor:
        """x_t^em, eq. 2.1."""
        return torch.add(adv, m, alpha=alpha * self.sigma) if self.sigma else adv

    def update(self, m: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        """g_{t+1}, eq. 2.2."""
        unit = divided(grad, NORMS[self.normalize](grad))
        return torch.add(unit, m, alpha=self.mu) if self.mu else unit


PLAIN = Elastic(mu=0.0)

# --- balls -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinfBall:
    """{z in [0, 1] : |z - x| <= eps}, with the direction of steepest ascent in it."""

    lower: torch.Tensor
    upper: torch.Tensor
    eps: float

    @classmethod
    def around(cls, x: torch.Tensor, eps: float) -> LinfBall:
        return cls((x - eps).clamp_(min=0), (x + eps).clamp_(max=1), eps)

    def direction(self, m: torch.Tensor) -> torch.Tensor:
        return m.sign()

    def project(self, z: torch.Tensor) -> torch.Tensor:
        return torch.clamp(z, self.lower, self.upper)

    def noise(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Uniform in the ball around 0."""
        return (2 * draw.uniform(*x.shape[1:]).to(x) - 1) * self.eps


@dataclass(frozen=True)
class L2Ball:
    """{z in [0, 1] : ||z - x||_2 <= eps}, the norm per image."""

    x: torch.Tensor
    eps: float

    @classmethod
    def around(cls, x: torch.Tensor, eps: float) -> L2Ball:
        return cls(x, eps)

    def direction(self, m: torch.Tensor) -> torch.Tensor:
        return divided(m, l2_norm(m))

    def project(self, z: torch.Tensor) -> torch.Tensor:
        # Clipping to [0, 1] afterwards only moves towards x, which lies in it: the ball is not left again.
        delta = z - self.x
        return (self.x + delta * (self.eps / l2_norm(delta).clamp(min=self.eps or 1.0)).clamp(max=1.0)).clamp_(0, 1)

    def noise(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Uniform in the ball around 0: a normal direction, a radius eps u^(1/d)."""
        normal = draw.normal(*x.shape[1:]).to(x)
        radius = draw.at(stream=Stream.RADIUS).uniform(1, 1, 1).to(x) ** (1 / x[0].numel())
        return self.direction(normal) * radius * self.eps


BALLS: dict[str, type[LinfBall] | type[L2Ball]] = {"linf": LinfBall, "l2": L2Ball}

# --- the loop --------------------------------------------------------------------------------------------------------


def step(
    adv: torch.Tensor,
    m: torch.Tensor,
    y: torch.Tensor,
    g: Gradient,
    draw: Draw,
    rule: Elastic,
    ball: LinfBall | L2Ball,
    alpha: float,
    ascend: bool = True,
    jitter: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(x_{t+1}, g_{t+1}) from (x_t, g_t): look ahead, take the gradient, update the momentum, step, project.

    jitter: take the gradient at a point drawn around x_t, in the ball (PGD with fresh noise in every step).
    """
    point = rule.look_ahead(adv, m, alpha)
    if jitter:
        point = ball.project(point + ball.noise(adv, draw.at(stream=Stream.NOISE)))
    grad = g(point, y, draw)
    m = rule.update(m, grad if ascend else -grad)
    return ball.project(torch.add(adv, ball.direction(m), alpha=alpha)), m


def attack(
    x: torch.Tensor,
    y: torch.Tensor,
    g: Gradient | Model,
    *,
    eps: float,
    steps: int = 10,
    alpha: float | None = None,
    momentum: Elastic = PLAIN,
    norm: str = "linf",
    start: str = "none",
    target: torch.Tensor | None = None,
    seed: int = 0,
    index: torch.Tensor | None = None,
) -> torch.Tensor:
    """Maximise the loss within eps of x: x_{t+1} = project(x_t + alpha sign(g_{t+1})) (thesis eq. 1.1).

    g: a gradient function, or a model (its cross-entropy gradient). alpha: step size, eps / steps if None. momentum:
    the rule. norm: "linf" or "l2" (steps of L2 length alpha). start: "none" (at x), "once" (a random point of the
    ball), "every" (at x; the gradient is taken at a fresh random point around each iterate). target: int64 (N,), the
    classes wanted: the loss to them is descended. seed, index: int64 (N,), where the randomness of each image comes
    from; 0 .. N-1 if None.
    Returns adv (N, C, H, W), detached, of the type of x; in half precision the loop runs in float32, and the result is
    rounded toward x. Models are put in eval mode, frozen, in channels_last, given a copy of the images, and handed back
    as they were.
    Raises TypeError or ValueError, naming the argument, before any step is taken; and ValueError after the last one for
    a gradient that was not finite. Warns where one was exactly 0.
    """
    checks.images(x)
    checks.labels(y, x)
    checks.budget(eps, steps)
    index = checks.index(index, x)
    if target is not None:
        checks.labels(target, x, "target")
    checks.choice("norm", norm, BALLS)
    checks.choice("start", start, ("none", "once", "every"))
    if alpha is not None:
        checks.number("alpha", alpha, above=0)
    checks.whole("seed", seed)
    _check_rule(momentum)
    g = g if isinstance(g, Gradient) else gradient(g)
    if g.descends not in (None, target is not None):
        raise ValueError("target: a targeted attack descends its loss and needs norm_penalty(r < 0), others r > 0")
    with frozen(g.models):
        clean = x.detach().clone(memory_format=torch.channels_last)
        y, wanted = y.clone(), (y if target is None else target).clone()
        checks.outputs(g.models, clean, y=y, target=wanted)
        x = clean.to(torch.promote_types(clean.dtype, torch.float32))
        sizes: list[torch.Tensor] = []
        g = replace(g, function=_watched(g, clean.dtype, sizes))
        ball, draw = BALLS[norm].around(x, eps), Draw(seed, index)
        adv = x if start != "once" else ball.project(x + ball.noise(x, draw.at(step=-1, stream=Stream.NOISE)))
        m, alpha = torch.zeros_like(x), eps / steps if alpha is None else alpha
        for t in range(steps):
            adv, m = step(adv, m, wanted, g, draw.at(step=t), momentum, ball, alpha, target is None, start == "every")
        checks.gradients(torch.stack(sizes))
    return _toward(clean, adv).contiguous()


def _check_rule(momentum: object) -> None:
    rule = not isinstance(momentum, type) and all(hasattr(momentum, name) for name in ("look_ahead", "update"))
    if not rule:
        raise TypeError(f"momentum: expected a rule, such as Elastic(mu=1.0), got {checks.shown(momentum)}")


def _watched(g: Gradient, dtype: torch.dtype, sizes: list[torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`g` for images in float32 or float64, which it is shown in `dtype`. It leaves the L1 norms (N,) of each gradient
    in `sizes`: they say afterwards which were not finite, or 0, and nothing waits for the device until then."""

    def function(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        grad = g(x.to(dtype), y, draw).to(x.dtype)
        sizes.append(torch.linalg.vector_norm(grad, ord=1, dim=(1, 2, 3)))
        return grad

    return function


def _toward(x: torch.Tensor, adv: torch.Tensor) -> torch.Tensor:
    """adv, float32 or float64, in the type of x; where that is coarser, rounded toward x, so that no ball is left."""
    near = adv.to(x.dtype)
    if near.dtype == adv.dtype:
        return near
    away = (near.to(adv.dtype) - adv) * (adv - x.to(adv.dtype)) > 0
    # The 16 bits of numbers in [0, 1] count upwards with them: the next one is a unit away.
    toward = torch.where(near > x, -1, 1).to(torch.int16)
    return (near.view(torch.int16) + toward * away).view(x.dtype)
