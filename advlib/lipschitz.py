"""Lipschitz regularization of a surrogate (thesis chapter 4): what the loss does around an image, by finite
differences, as a penalty on the weights; and the local Lipschitz constant that it is to lower.

    here = point(model, x, y, curvature=True)
    loss = (here.loss + 5 * lrs1(model, x, y, here=here) + 5 * lrs2(model, x, y, here=here)).mean()

x: float (N, C, H, W) in [0, 1]; y: int64 (N,). Penalties are (N,), differentiable with respect to the weights of
`model`, in whatever mode it is; h is a distance in [0, 1] units, and lambda stays outside.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from . import checks
from .attacks import BALLS
from .draws import Draw
from .gradients import cross_entropy
from .models import Model, frozen
from .norms import divided, l2_norm

DIRECTIONS = ("l2", "sign", "unit_sign")
FORMS = ("reference", "text")

_PIXEL_STD = 0.2  # of the normalised inputs of the reference code: a gradient there is a fifth of that in [0, 1] units


@dataclass(frozen=True)
class Point:
    """The loss (N,), with its graph, and its gradient (N, C, H, W) at images x.

    x: the images as the leaf of that graph; curvature: whether the gradient has a graph too, as LRS-2 needs it.
    """

    x: torch.Tensor
    loss: torch.Tensor
    gradient: torch.Tensor
    curvature: bool


def point(model: Model, x: torch.Tensor, y: torch.Tensor, curvature: bool = False) -> Point:
    """Cross-entropy and input gradient at x: one forward pass, and one backward pass to the image."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        loss = cross_entropy(model(leaf), y)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf, create_graph=curvature, retain_graph=True)
    return Point(leaf, loss, gradient, curvature)


def unit_direction(g: torch.Tensor, direction: str) -> torch.Tensor:
    """The direction d of a difference, per image and without a graph.

    "l2": g / ||g||_2, the slope along which is ||g||_2. "sign": sign(g), the text of eq. 4.9; the slope along it is
    ||g||_1, and a step h moves every pixel by h. "unit_sign": sign(g) / ||sign(g)||_2, as in curvature regularization
    (Moosavi-Dezfooli et al. 2019). Zero where g is. Raises ValueError for another.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction={direction!r}: expected one of {', '.join(DIRECTIONS)}")
    g = g.detach()
    if direction == "l2":
        return divided(g, l2_norm(g))
    sign = g.sign()
    return sign if direction == "sign" else divided(sign, l2_norm(sign))


def lrs1(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    h: float = 0.01,
    direction: str = "l2",
    form: str = "reference",
    here: Point | None = None,
) -> torch.Tensor:
    """LRS-1, (N,): the squared directional slope of the loss (thesis eq. 4.5, 4.9), two forward passes and a backward
    pass to the image; with `here`, a forward pass.

    h: step, in [0, 1] units along d; direction: `unit_direction`; here: `point(model, x, y)` where one has it already.
    form: "text": (slope)^2, slope = (loss(x + h d) - loss(x)) / h. "reference", which the thesis' lambda = 5 fits: half
    the square of the batch's *mean* slope, in units of normalised pixels (0.2); the share of an image is its slope
    times the mean one, so that the mean over the batch is that square. 50 times smaller, or more.
    Raises ValueError for h <= 0, an unknown direction or form.
    """
    _check(h, form)
    here = here or point(model, x, y)
    d = unit_direction(here.gradient, direction)
    slope = (cross_entropy(model(here.x.detach() + h * d), y) - here.loss) / h
    return slope.square() if form == "text" else 0.5 * _PIXEL_STD**2 * slope * slope.mean()


def lrs2(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    h: float = 1.5,
    direction: str = "unit_sign",
    form: str = "reference",
    here: Point | None = None,
) -> torch.Tensor:
    """LRS-2, (N,): how far the gradient of the loss turns (thesis eq. 4.8, 4.10), that is ||H d|| as h goes to 0, whose
    square has the mean ||H||_F^2 / n over random unit d in n dimensions. Two forward passes and two backward passes to
    the image, with a graph; with `here`, one of each.

    h, direction, here: as for `lrs1`; here needs `curvature=True`. With direction="sign", the text, h = 1.5 moves
    every pixel out of [0, 1].
    form: "text": ||difference||^2 / h^2. "reference", which the thesis' lambda = 5 fits: ||difference||, not squared
    and not over h, of the gradients of the batch's *mean* loss, N times smaller than those of an image's own.
    Raises ValueError for h <= 0, an unknown direction or form, or a `here` without curvature.
    """
    _check(h, form)
    here = here or point(model, x, y, curvature=True)
    if not here.curvature:
        raise ValueError("here: expected point(..., curvature=True)")
    there = point(model, here.x + h * unit_direction(here.gradient, direction), y, curvature=True)
    # vector_norm has the derivative 0 where both gradients are the same; the root of a sum of squares has NaN.
    turn = torch.linalg.vector_norm((there.gradient - here.gradient).flatten(1), dim=1)
    return (turn / h).square() if form == "text" else turn / len(x)


def lrs_f(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    lambda1: float = 5.0,
    lambda2: float = 5.0,
    h1: float = 0.01,
    h2: float = 1.5,
    form: str = "reference",
    here: Point | None = None,
) -> torch.Tensor:
    """LRS-F, (N,): lambda1 LRS-1 + lambda2 LRS-2, each in its default direction (thesis sect. 4.3). They share the loss
    and the gradient at x: three forward passes and two backward passes to the image, where one after the other they
    would take four and three. Arguments and errors as of `lrs1` and `lrs2`."""
    here = here or point(model, x, y, curvature=True)
    first, second = lrs1(model, x, y, h1, form=form, here=here), lrs2(model, x, y, h2, form=form, here=here)
    return lambda1 * first + lambda2 * second


def _check(h: float, form: str) -> None:
    if not h > 0:
        raise ValueError(f"h={h}: expected a number above 0")
    if form not in FORMS:
        raise ValueError(f"form={form!r}: expected one of {', '.join(FORMS)}")


def local_lipschitz(
    model: Model,
    x: torch.Tensor,
    eps: float = 8 / 255,
    steps: int = 20,
    norm: str = "linf",
    seed: int = 0,
    index: torch.Tensor | None = None,
) -> torch.Tensor:
    """The local Lipschitz constant, (N,): max over x' in the ball of ||f(x) - f(x')||_2 / ||x - x'||_2, in logits per
    unit of L2 (thesis eq. 4.11).

    The largest ratio that an ascent from a random point of the ball meets, so a lower bound: `steps` steps along the
    ratio's gradient, of a share of the way from x that falls from 1/2 to 0. eps, norm: the ball, "linf" or "l2", cut
    to [0, 1]; seed, index: as of `attacks.attack`.
    Raises TypeError or ValueError on bad input, and ValueError for eps = 0.
    """
    checks.images(x)
    checks.budget(eps, steps)
    if norm not in BALLS or not eps:
        raise ValueError(f"norm={norm!r}, eps={eps}: expected one of {', '.join(BALLS)}, and eps above 0")
    draw = Draw(seed, checks.index(index, x), step=-1, stream=1)
    with frozen([model]), torch.no_grad():
        checks.outputs([model], x)
        ball, start = BALLS[norm].around(x, eps), model(x)
        point, best = ball.project(x + ball.noise(x, draw)), x.new_zeros(len(x))
        for t in range(steps):
            ratio, gradient = _ratio(model, x, start, point)
            best = torch.maximum(best, ratio)
            share = 0.5 * (1 - t / steps)
            point = ball.project(point + share * l2_norm(point - x) * divided(gradient, l2_norm(gradient)))
        return torch.maximum(best, _ratio(model, x, start, point)[0])


def _ratio(
    model: Model, x: torch.Tensor, start: torch.Tensor, point: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """||f(x') - f(x)|| / ||x' - x|| at x' = point, (N,), and the gradient of its sum."""
    with torch.enable_grad():
        point = point.detach().requires_grad_()
        moved = torch.linalg.vector_norm((model(point) - start).float(), dim=1)
        ratio = moved / l2_norm(point - x).flatten()
        return ratio.detach(), torch.autograd.grad(ratio.sum(), point)[0]
