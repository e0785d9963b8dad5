"""The one loop that every gradient attack is.

    adv = attack(x, y, g, momentum=Elastic(mu=1.0, sigma=2.0), eps=16/255, steps=10, seed=0, index=i)

x: float (N, C, H, W) in [0, 1]; y: int64 (N,); eps, alpha: in the same [0, 1] units; adv: like x, within eps of x and
within [0, 1]. Every image's result depends on the image, its `index` and `seed`, and on no other image.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from . import kernels
from .core import checks
from .core.balls import BALLS, Ball, L2Ball, LinfBall, moved, toward
from .core.checks import Model
from .core.draws import Draw, Stream
from .core.facts import together
from .core.surrogate import frozen
from .gradients import Function, Gradient, gradient
from .rules import PLAIN, Elastic, Rule


def step(
    x_t: torch.Tensor, state: Any, y: torch.Tensor, g: Gradient, draw: Draw, rule: Rule, ball: Ball
) -> tuple[torch.Tensor, Any]:
    """(x_{t+1}, state) from (x_t, state): the rule's direction, a step along it, back into the ball."""
    if (
        kernels.run_on(x_t)
        and x_t.dtype == torch.float32  # the only type that the kernels compute in
        and type(rule) is Elastic
        and (type(ball) is LinfBall or type(ball) is L2Ball)
    ):
        return _fused(x_t, state, g(rule.point(x_t, state, ball), y, draw), rule, ball)
    direction, state = rule.update(state, g, x_t, y, draw, ball)
    return moved(ball, x_t, direction), state


def _fused(
    x_t: torch.Tensor, m: torch.Tensor, grad: torch.Tensor, rule: Elastic, ball: LinfBall | L2Ball
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, of the gradient: one kernel for each pass over memory."""
    from .kernels.update import ascend

    place = [ball.lower, ball.upper] if isinstance(ball, LinfBall) else [ball.x]
    return ascend(grad, m, x_t, rule.mu, rule.normalize, ball.alpha, ball.eps, place)


def attack(
    x: torch.Tensor,
    y: torch.Tensor,
    g: Gradient | Model,
    *,
    eps: float,
    steps: int = 10,
    alpha: float | None = None,
    momentum: Rule = PLAIN,
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
    with ExitStack() as kept:
        with together():
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
            kept.enter_context(frozen(g.models))
            clean = x.detach().clone(memory_format=torch.channels_last)
            y, wanted = y.clone(), (y if target is None else target).clone()
            checks.outputs(g.models, clean, y=y, target=wanted)
        x = clean.to(torch.promote_types(clean.dtype, torch.float32))
        sizes: list[torch.Tensor] = []
        ball = BALLS[norm].around(x, eps, eps / steps if alpha is None else alpha)
        draw = Draw(seed, index, sign=1 if target is None else -1)
        g = _each(g, lambda part: _watched(part, clean.dtype, len(x), sizes))
        g = _each(g, lambda part: _jittered(part, ball)) if start == "every" else g
        g = g if target is None else _each(g, _negated)
        adv = x if start != "once" else ball.project(x + ball.noise(x, draw.at(step=-1, stream=Stream.NOISE)))
        state = momentum.init(x)
        for t in range(steps):
            adv, state = step(adv, state, wanted, g, draw.at(step=t), momentum, ball)
        checks.gradients(torch.cat(sizes))
    return toward(clean, adv).contiguous()


def _check_rule(momentum: object) -> None:
    rule = not isinstance(momentum, type) and all(hasattr(momentum, name) for name in ("init", "update"))
    if not rule:
        raise TypeError(f"momentum: expected a rule, such as Elastic(mu=1.0), got {checks.shown(momentum)}")


def _each(g: Gradient, change: Callable[[Function], Function]) -> Gradient:
    """g and its parts with changed functions."""
    return replace(g, function=change(g.function), parts=tuple(_each(part, change) for part in g.parts))


def _watched(g: Function, dtype: torch.dtype, n: int, sizes: list[torch.Tensor]) -> Function:
    """`g` for images in float32 or float64, which it is shown in `dtype`. It leaves the L1 norms of each gradient in
    `sizes`, (points, N), where a rule asks for several points of the n images at once: they say afterwards which were
    not finite, or 0, and nothing waits for the device until then."""

    def function(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        grad = g(x.to(dtype), y, draw).to(x.dtype)
        sizes.append(torch.linalg.vector_norm(grad, ord=1, dim=(1, 2, 3)).view(-1, n))
        return grad

    return function


def _jittered(g: Function, ball: Ball) -> Function:
    """`g` at a point drawn around x, in the ball (PGD with fresh noise in every step)."""
    return lambda x, y, draw: g(ball.project(x + ball.noise(x, draw.at(stream=Stream.NOISE))), y, draw)


def _negated(g: Function) -> Function:
    """Minus `g`: a targeted attack raises minus its loss."""
    return lambda x, y, draw: -g(x, y, draw)
