"""Lipschitz regularization of a surrogate (thesis chapter 4): what the loss does around an image, by finite
differences, as a penalty on the weights; and the local Lipschitz constant that it is to lower.

    here = point(model, x, y, curvature=True)
    loss = (here.loss + 5 * lrs1(model, x, y, here=here) + 5 * lrs2(model, x, y, here=here)).mean()

x: float (N, C, H, W) in [0, 1]; y: int64 (N,). Penalties are (N,), differentiable with respect to the weights of
`model`, in whatever mode it is; h is a distance in [0, 1] units, and lambda stays outside. They are part of a training
step, which may not wait for the device: kinds and shapes are checked, but values (pixels outside [0, 1], labels
without a class) only where they lie on the CPU.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from math import prod

import torch

from .core import checks, second_order
from .core.balls import BALLS
from .core.checks import Model
from .core.draws import Draw, Stream
from .core.norms import divided, l2_norm
from .core.surrogate import frozen
from .gradients import cross_entropy

DIRECTIONS = ("l2", "sign", "unit_sign")
FORMS = ("reference", "text")

_PIXEL_STD = 0.2  # of the normalised inputs of the reference code: a gradient there is a fifth of that in [0, 1] units


_ROUNDINGS = 8  # how many of an image's smallest steps a ball must be wide for a ratio that is right to a tenth


@dataclass(frozen=True)
class Point:
    """The loss (N,), with its graph, and its gradient (N, C, H, W) at images x.

    x: the images as the leaf of that graph; curvature: whether the gradient has a graph too, as LRS-2 needs it; model,
    y: of which loss.
    """

    x: torch.Tensor
    loss: torch.Tensor
    gradient: torch.Tensor
    curvature: bool
    model: Model
    y: torch.Tensor


def point(model: Model, x: torch.Tensor, y: torch.Tensor, curvature: bool = False) -> Point:
    """Cross-entropy and input gradient at x: one forward pass, and one backward pass to the image. The model gets a
    copy of the images. Raises TypeError or ValueError on bad input, and for a model that no gradient flows through."""
    _check_images(model, x, y)
    checks.flag("curvature", curvature)
    return _point(model, x, y, curvature)


def _point(model: Model, x: torch.Tensor, y: torch.Tensor, curvature: bool) -> Point:
    with second_order.graphs(), second_order.SecondOrder() if curvature else nullcontext():
        leaf = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
        loss = _loss(model, leaf.clone(), y)
        if not loss.requires_grad:
            raise ValueError("model: no gradient flows from its logits to the images")
        (gradient,) = torch.autograd.grad(
            loss.sum(), leaf, create_graph=curvature, retain_graph=True, allow_unused=True
        )
        if gradient is None:
            raise ValueError("model: no gradient flows from its logits to the images")
    return Point(leaf, loss, gradient, curvature, model, y)


def _loss(model: Model, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return cross_entropy(checks.logits(model(x), len(x)), y)


def unit_direction(g: torch.Tensor, direction: str) -> torch.Tensor:
    """The direction d of a difference, per image and without a graph.

    "l2": g / ||g||_2, the slope along which is ||g||_2. "sign": sign(g), the text of eq. 4.9; the slope along it is
    ||g||_1, and a step h moves every pixel by h. "unit_sign": sign(g) / ||sign(g)||_2, as in curvature regularization
    (Moosavi-Dezfooli et al. 2019). Zero where g is. Raises TypeError or ValueError for another, or a g that is none.
    """
    checks.choice("direction", direction, DIRECTIONS)
    checks.instance("g", g, torch.Tensor, "a gradient (N, C, H, W)")
    if g.dim() != 4:
        raise ValueError(f"g: expected a gradient (N, C, H, W), got {checks.shown(g)}")
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
    """LRS-1, (N,): the squared directional slope of the loss (thesis eq. 4.9), two forward passes and a backward
    pass to the image; with `here`, a forward pass. By default the value of an image depends on its whole batch: see
    form.

    h: step, in [0, 1] units along d; direction: `unit_direction`; here: `point(model, x, y)` where one has it already.
    form: "text" is the square of an image's own slope = (loss(x + h d) - loss(x)) / h. "reference", which the thesis'
    lambda = 5 fits, is half the square of the batch's *mean* slope, in units of normalised pixels (0.2): an image's
    share is its slope times the mean one. That is at least 50 times smaller than "text".
    Raises TypeError or ValueError on bad input: an unknown direction or form, an h that is not above 0 or moves pixels
    by less than they are rounded, a `here` of another model, other images or other labels.
    """
    _check_images(model, x, y)
    _check_step("h", h, x, direction, form)
    here = _point(model, x, y, False) if here is None else _same(here, model, x, y)
    d = unit_direction(here.gradient, direction)
    with second_order.graphs():
        slope = (_loss(model, here.x.detach() + h * d, y) - here.loss) / h
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
    """LRS-2, (N,): how far the gradient of the loss turns (thesis eq. 4.10), that is ||H d|| as h goes to 0, whose
    square has the mean ||H||_F^2 / n over random unit d in n dimensions. Two forward passes and two backward passes to
    the image, with a graph; with `here`, one of each. By default the value of an image depends on the size of its
    batch: see form.

    h, direction, here: as for `lrs1`; here needs `curvature=True`. With direction="sign", the text, h = 1.5 moves
    every pixel out of [0, 1].
    form: "text": ||difference||^2 / h^2. "reference", which the thesis' lambda = 5 fits: ||difference||, not squared
    and not over h, of the gradients of the batch's *mean* loss, N times smaller than those of an image's own.

    Its gradient by the weights takes a second derivative. With u = difference / ||difference|| held fixed, that of
    ||difference|| is also the derivative along u of the weights' gradient of the loss, there minus here, for which
    passes a step along u apart would do; but not on a network of ReLUs in float32, where any step that is not lost to
    rounding crosses kinks, which belong to another penalty. Over all weights of the zoo's small DenseNets the two have
    a cosine of at most 0.76 with central differences, which take 1.3 times the time and 1.6 times the memory, and of
    0.57 with one-sided ones, at 0.9 times the time (batches of 32, train mode, best of the steps from 1e-6 to 0.1). On
    small networks of GELU, tanh or softplus it is above 0.999.
    Raises as `lrs1` does, and ValueError for a `here` without curvature.
    """
    _check_images(model, x, y)
    _check_step("h", h, x, direction, form)
    here = _point(model, x, y, True) if here is None else _same(here, model, x, y)
    if not here.curvature:
        raise ValueError("here: expected point(..., curvature=True)")
    there = _point(model, here.x + h * unit_direction(here.gradient, direction), y, True)
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
    _check_images(model, x, y)
    for name, value in (("lambda1", lambda1), ("lambda2", lambda2)):
        checks.number(name, value, 0)
    for name, h, direction in (("h1", h1, "l2"), ("h2", h2, "unit_sign")):
        _check_step(name, h, x, direction, form)
    here = _point(model, x, y, True) if here is None else here
    first, second = lrs1(model, x, y, h1, form=form, here=here), lrs2(model, x, y, h2, form=form, here=here)
    return lambda1 * first + lambda2 * second


def _check_images(model: Model, x: torch.Tensor, y: torch.Tensor) -> None:
    checks.network(model)
    checks.batch(x)
    checks.class_numbers(y, x)
    if x.device.type == "cpu":
        checks.images(x)
        checks.labels(y, x)


def _check_step(name: str, h: float, x: torch.Tensor, direction: str, form: str) -> None:
    checks.choice("direction", direction, DIRECTIONS)
    checks.choice("form", form, FORMS)
    checks.number(name, h, above=0)
    # Along a unit vector a pixel moves by h / sqrt(pixels) in the mean.
    least = torch.finfo(x.dtype).eps * (1 if direction == "sign" else prod(x.shape[1:]) ** 0.5)
    if h < least:
        raise ValueError(f"{name}={h}: moves pixels by less than {x.dtype} rounds them; expected at least {least:.1g}")


def _same(here: Point, model: Model, x: torch.Tensor, y: torch.Tensor) -> Point:
    """`here`, if it was made of this model and these images and labels."""
    checks.instance("here", here, Point, "point(model, x, y)")
    if here.model is not model:
        raise ValueError("here: made with another model")
    for name, ours, theirs in (("images", x, here.x), ("labels", y, here.y)):
        if not _equal(ours, theirs):
            raise ValueError(f"here: made with other {name}")
    return here


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal tensors. Values are compared, which waits for the device, where they are not the same memory."""
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    return (a.data_ptr() == b.data_ptr() and a.stride() == b.stride()) or torch.equal(a, b)


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
    to [0, 1]; seed, index: as of `loop.attack`.
    Raises TypeError or ValueError on bad input: an eps so small that what the ratio divides is rounding, or a model
    whose logits, or their gradient, are not finite.
    """
    checks.images(x)
    checks.budget(eps, steps)
    checks.choice("norm", norm, BALLS)
    checks.whole("seed", seed)
    least = _ROUNDINGS * torch.finfo(x.dtype).eps * (prod(x.shape[1:]) ** 0.5 if norm == "l2" else 1)
    if eps < least:
        raise ValueError(f"eps={eps}: so small that {x.dtype} rounds it away; expected at least {least:.1g}")
    draw = Draw(seed, checks.index(index, x), step=-1, stream=Stream.NOISE)
    with frozen([model]), torch.inference_mode(False), torch.no_grad():
        checks.outputs([model], x)
        ball, start = BALLS[norm].around(x, eps), model(x.clone())
        point, best = ball.project(x + ball.noise(x, draw)), x.new_zeros(len(x))
        for t in range(steps):
            ratio, gradient = _ratio(model, x, start, point)
            best = torch.maximum(best, ratio)
            share = 0.5 * (1 - t / steps)
            point = ball.project(point + share * l2_norm(point - x) * divided(gradient, l2_norm(gradient)))
        best = torch.maximum(best, _ratio(model, x, start, point)[0])
    if not best.isfinite().all():
        raise ValueError("model: its logits near the images, or their gradient, are not finite")
    return best


def _ratio(
    model: Model, x: torch.Tensor, start: torch.Tensor, point: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """||f(x') - f(x)|| / ||x' - x|| at x' = point, (N,), and the gradient of its sum."""
    with torch.enable_grad():
        point = point.detach().requires_grad_()
        seen = point.clone()
        moved = torch.linalg.vector_norm((model(seen) - start).float(), dim=1)
        ratio = moved / l2_norm(point - x).flatten()
        through_model, gradient = torch.autograd.grad(ratio.sum(), [seen, point], allow_unused=True)
        if through_model is None:
            raise ValueError("model: no gradient flows from its logits to the images")
        return ratio.detach(), gradient
