"""Gradient functions (x, y, draw) -> gradient of the loss per image, and what wraps them.

    g = gradient(model, transform=[InputDiversity(), ScaleCopies(5)])    the mean over the transformed copies
    g = smoothed(g, kernel=7)                                            TIM on top
    g = norm_penalty(g, r=0.01, beta=0.8)                                GNP on top of both

x: (N, C, H, W) in [0, 1]; y: int64 (N,); draw: `draws.Draw`, where the randomness of this step comes from. The loss is
summed over the batch, so that an image's gradient does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F

from .core import checks
from .core.checks import Model
from .core.draws import Draw, Stream
from .core.norms import NORMS, divided, l2_norm
from .core.surrogate import members

Transform = Callable[[torch.Tensor, Draw, torch.Tensor], torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Gradient:
    """A gradient function with the models that it runs and its cost.

    function: (x, y, draw) -> (N, C, H, W); models: to be frozen while it is used; passes: forward and backward passes
    of one network per image and call; descends: whether it is meant for an attack that descends the loss (a targeted
    one), None where it is all the same.
    """

    function: Callable[[torch.Tensor, torch.Tensor, Draw], torch.Tensor]
    models: tuple[Model, ...]
    passes: int
    descends: bool | None = None

    def __call__(self, x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        return self.function(x, y, draw)


def cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(N,) cross-entropy, in nats."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(N,) best other logit minus the logit of y (Carlini & Wagner 2017, f6): above 0 where y is not predicted."""
    of_y = logits.gather(1, y[:, None])[:, 0]
    other = logits.scatter(1, y[:, None], float("-inf")).amax(1)
    return other - of_y


def lost_logit(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(N,) minus the logit of y."""
    return -logits.gather(1, y[:, None])[:, 0]


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin, "logit": lost_logit}


def gradient(
    model: Model,
    transform: Transform | Sequence[Transform] | None = None,
    loss: str | Loss = "cross_entropy",
    chunk: int = 1,
) -> Gradient:
    """The gradient of loss(model(x), y), averaged over the copies that the transforms make (thesis eq. 2.4).

    model: images in [0, 1], (N, C, H, W), to logits (N, K). transform: one, or several applied in order; their copies
    multiply. loss: a name in `LOSSES`, or (logits, y) -> (N,). chunk: how many copies go through the network at once;
    the memory that a call takes grows with `chunk` and not with the number of copies, the result does not change.
    Raises TypeError or ValueError for what is no model, transform, loss or chunk of at least 1; when called, also for a
    transform, a model or a loss that returns something else than it should, and where no gradient reaches the images.
    """
    checks.network(model)
    if isinstance(loss, str):
        checks.choice("loss", loss, LOSSES)
    else:
        checks.function("loss", loss, "a name or a function (logits, y) -> (N,)", 2)
    checks.whole("chunk", chunk, 1)
    transforms = listed(transform)
    for t in transforms:
        checks.function("transform", t, "a function (x, draw, copy) -> images", 3)
        checks.whole("transform.copies", getattr(t, "copies", 1), 1)
    copies = prod(getattr(t, "copies", 1) for t in transforms)
    loss_of = LOSSES[loss] if isinstance(loss, str) else loss

    def function(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        total: torch.Tensor | None = None
        for first in range(0, copies, chunk):
            part = _summed_gradient(model, loss_of, transforms, x, y, draw, range(first, min(first + chunk, copies)))
            total = part if total is None else total.add_(part)
        assert total is not None  # there is one copy or more
        return total if copies == 1 else total.div_(copies)

    return Gradient(function, (model,), copies * members(model))


def listed(transform: Transform | Sequence[Transform] | None) -> tuple[Transform, ...]:
    """One transform, several or None, as a tuple. A text is a sequence too, and no transform."""
    if transform is None:
        return ()
    if isinstance(transform, str) or not isinstance(transform, Sequence):
        return (transform,)
    return tuple(transform)


def _summed_gradient(
    model: Model,
    loss: Loss,
    transforms: tuple[Transform, ...],
    x: torch.Tensor,
    y: torch.Tensor,
    draw: Draw,
    copies: range,
) -> torch.Tensor:
    """Gradient at x of the loss summed over the given copies, through the transforms."""
    k = len(copies)
    copy = torch.arange(copies.start, copies.stop, device=x.device).repeat_interleave(len(x))
    rows = draw.at(index=draw.index.repeat(k), copy=copy)

    def total_loss(image: torch.Tensor) -> torch.Tensor:
        # Always a copy: a model, or a transform, may write into what it is given.
        stack, stride = image.repeat(k, 1, 1, 1) if k > 1 else image.clone(), 1
        for place, t in enumerate(transforms):
            own = getattr(t, "copies", 1)
            view = t(stack, rows.at(stream=(place + 1) * Stream.TRANSFORM), (copy // stride) % own)
            stack, stride = checks.transformed(view, stack), stride * own
        logits = checks.logits(model(stack), len(copy))
        return checks.losses(loss(logits, y.repeat(k)), len(copy)).sum()

    return image_gradient(total_loss, x)


def image_gradient(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The gradient at the images x, (N, C, H, W), of a scalar function of them, whatever the mode of autograd outside.
    Raises ValueError where `function` lets no gradient through to the images."""
    if torch.compiler.is_compiling():  # the compiler traces this form
        return torch.func.grad(function)(x)
    # Outside it, torch.func.grad would also record a graph of the backward pass: a fifth slower, twice the memory.
    with torch.enable_grad():
        image = x.detach().requires_grad_()
        total = function(image)
        found = torch.autograd.grad(total, image, allow_unused=True)[0] if total.requires_grad else None
    return checks.reached(found)


def _check_gradient(g: object) -> None:
    checks.instance("g", g, Gradient, "a gradient function, such as gradient(model)")


def smoothed(g: Gradient, kernel: int = 7) -> Gradient:
    """TIM: the gradient convolved with a Gaussian of kernel x kernel pixels that spans 3 standard deviations to each
    side (Dong et al. 2019, eq. 8), zeros outside the image. kernel: odd; 1 returns `g`. Raises TypeError or ValueError
    for another kernel, or what is no gradient function."""
    _check_gradient(g)
    checks.whole("kernel", kernel, 1)
    if kernel % 2 == 0:
        raise ValueError(f"kernel={kernel}: expected an odd number of pixels")
    if kernel == 1:
        return g

    def function(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        grad, c = g(x, y, draw), x.shape[1]
        line = torch.exp(-0.5 * torch.linspace(-3, 3, kernel, device=x.device, dtype=x.dtype) ** 2)
        line = (line / line.sum()).repeat(c, 1, 1, 1)
        grad = F.conv2d(grad, line, padding=(0, kernel // 2), groups=c)
        return F.conv2d(grad, line.transpose(2, 3), padding=(kernel // 2, 0), groups=c)

    return Gradient(function, g.models, g.passes, g.descends)


def norm_penalty(g: Gradient, r: float = 0.01, beta: float = 0.8, unit: str = "l2", rescale: bool = False) -> Gradient:
    """GNP: the gradient of loss - r beta ||gradient||, by a finite difference along it (thesis eq. 3.2 to 3.6):

        (1 + beta) g1 - beta g2,    g1 = g(x),    g2 = g(x + r g1 / ||g1||),

    the norm per image, twice the passes of `g`. Both gradients get the same draw: g2 - g1 is then the curvature of one
    loss, that of this step's resize or erasure. With draws of their own it would be the difference of two losses,
    however small r is. Algorithm 2 takes g1 at the clean image in every step, which is FGSM; here it is the iterate.

    r: how far away the second gradient is taken, in [0, 1] units of the norm `unit`: "l2" (the text; 0.01 is 0.05/255
    in a pixel of a 32-pixel image) or "mean" (of absolute values; 0.01 is 2.6/255 in a pixel). Negative for a targeted
    attack, which descends its loss: the same formula then is the gradient of loss + |r| beta ||gradient||.
    beta: weight of the penalty. 0 returns `g`. Below 0 the norm is rewarded, and -1 is the gradient ahead, as in SAM.
    rescale: bring g2 to the L2 length of g1 first, so that a gradient that grows along its own direction cannot
    outweigh g1 and turn the step downhill.
    A zero gradient stays zero. Raises TypeError or ValueError for r = 0, another `unit`, or a number that is not
    finite.
    """
    _check_gradient(g)
    checks.choice("unit", unit, ("l2", "mean"))
    checks.number("r", r)
    checks.number("beta", beta)
    checks.flag("rescale", rescale)
    if not r:
        raise ValueError(f"r={r}: expected a number other than 0")
    if not beta:
        return g

    def function(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        g1 = g(x, y, draw)
        g2 = g(x + r * divided(g1, NORMS[unit](g1)), y, draw)
        if rescale:
            g2 = divided(g2, l2_norm(g2)) * l2_norm(g1)
        return (1 + beta) * g1 - beta * g2

    return Gradient(function, g.models, 2 * g.passes, descends=r < 0)


def integrated(g: Gradient, points: int = 20, reference: float = 0.0, noise: float = 0.0, chunk: int = 1) -> Gradient:
    """TAIG: the integrated gradient (x - x0) * mean of g along the straight line from x0 to x (Huang & Kong 2022).

    points: how many of the line, at x0 + k / points (x - x0), k = 1 .. points, and the passes of `g` that a call takes;
    reference: x0, a grey value; noise: half-width of the uniform noise on every point, per image, point and step: 0 is
    TAIG-S, eps TAIG-R. chunk: how many points go through the network at once; memory grows with it, the result does
    not change.
    Raises TypeError or ValueError for points < 1, chunk < 1, noise < 0, or a number that is not finite.
    """
    _check_gradient(g)
    checks.whole("points", points, 1)
    checks.number("reference", reference)
    checks.number("noise", noise, 0)
    checks.whole("chunk", chunk, 1)

    def function(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        total = torch.zeros_like(x)
        for first in range(0, points, chunk):
            k = min(chunk, points - first)
            point = torch.arange(first, first + k, device=x.device).repeat_interleave(len(x))
            share = ((point + 1) / points).to(x.dtype)[:, None, None, None]
            line = reference + share * (x.repeat(k, 1, 1, 1) - reference)
            rows = draw.at(index=draw.index.repeat(k), copy=point)
            if noise:
                line = line + noise * (2 * rows.at(stream=Stream.PATH).uniform(*x.shape[1:]).to(x) - 1)
            total += g(line, y.repeat(k), rows).unflatten(0, (k, len(x))).sum(0)
        return (x - reference) * total / points

    return Gradient(function, g.models, points * g.passes, g.descends)


def reverse_perturbed(
    g: Gradient, eps: float = 16 / 255, steps: int = 8, start: int = 100, ascend: bool = True
) -> Gradient:
    """RAP: g at x + n, n the reverse perturbation that lowers the loss most near x: `steps` sign steps of eps / steps
    against g, from 0 (Qin et al. 2022; constants of its untargeted attacks). What still has a high loss there lies on a
    flat top.

    eps: L-inf radius of n; start: the step of the attack at which it begins ("late start"), until then it is `g`.
    ascend: False in a targeted attack, whose loss n then raises. The passes of `g` times (steps + 1), from `start` on.
    Raises TypeError or ValueError for eps outside [0, 1], steps < 1, or a start that is no whole number of at least 0.
    """
    _check_gradient(g)
    checks.budget(eps, steps)
    checks.whole("start", start, 0)
    checks.flag("ascend", ascend)
    down = -eps / steps if ascend else eps / steps

    def function(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        point = x
        for _ in range(steps if draw.step >= start else 0):
            point = point + down * g(point, y, draw).sign()
        return g(point, y, draw)

    return Gradient(function, g.models, (steps + 1) * g.passes, descends=not ascend)


def cycled(gradients: Sequence[Gradient]) -> Gradient:
    """LGV: another of `gradients` in each step, in an order drawn from the seed, and then in that order again (Gubri et
    al. 2022, whose networks are collected along one training run). Raises TypeError or ValueError if there is none, or
    if some are meant for a targeted attack and others are not."""
    checks.instance("gradients", gradients, Sequence, "a list of gradient functions")
    for g in gradients:
        checks.instance("gradients", g, Gradient, "a list of gradient functions, such as gradient(model)")
    if not gradients:
        raise ValueError("gradients: expected at least one")
    meant = {g.descends for g in gradients} - {None}
    if len(meant) > 1:
        raise ValueError("gradients: some descend the loss (norm_penalty with r < 0) and others ascend it")

    def function(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        order = torch.randperm(len(gradients), generator=torch.Generator().manual_seed(draw.seed))
        return gradients[int(order[draw.step % len(gradients)])](x, y, draw)

    models = tuple(dict.fromkeys(model for g in gradients for model in g.models))
    return Gradient(function, models, max(g.passes for g in gradients), next(iter(meant), None))
