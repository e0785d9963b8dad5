"""Gradient functions (x, y, draw) -> gradient of the loss per image, and what wraps them.

    g = gradient(model, transform=[InputDiversity(), ScaleCopies(5)])    the mean over the transformed copies
    g = smoothed(g, kernel=7)                                            TIM on top
    g = norm_penalty(g, r=0.01, beta=0.8)                                GNP on top of both

x: (N, C, H, W) in [0, 1]; y: int64 (N,); draw: `draws.Draw`, where the randomness of this step comes from. The loss is
summed over the batch, so that an image's gradient does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import torch
import torch.nn.functional as F

from .core import checks
from .core.checks import Model
from .core.draws import Draw, Stream
from .core.norms import NORMS, divided, l2_norm
from .core.surrogate import Ensemble, drawn, members, shares
from .engine.memory import at_once
from .engine.processor import in_parts

Transform = Callable[[torch.Tensor, Draw, torch.Tensor], torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Function = Callable[[torch.Tensor, torch.Tensor, Draw], torch.Tensor]
Losses = Callable[[torch.Tensor, torch.Tensor, Draw], torch.Tensor]


@dataclass(frozen=True)
class Gradient:
    """A gradient function with the models that it runs and its cost.

    function: (x, y, draw) -> (N, C, H, W), of the loss, also in a targeted attack, where draw.sign is -1 and the loss
    is lowered; models: to be frozen while it is used; passes: forward and backward passes of one network per image and
    call; parts: of an ensemble, the gradient functions of its networks, each alone.
    """

    function: Function
    models: tuple[Model, ...]
    passes: int
    parts: tuple[Gradient, ...] = ()

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
    chunk: int | str = "auto",
) -> Gradient:
    """The gradient of loss(model(x), y), averaged over the copies that the transforms make (thesis eq. 2.4).

    model: images in [0, 1], (N, C, H, W), to logits (N, K). transform: one, or several applied in order; their copies
    multiply. loss: a name in `LOSSES`, or (logits, y) -> (N,). All three are shown parts of a batch, and copies of it:
    what they make of an image must not depend on the others. chunk: how many copies go through the network at once;
    the memory that a call takes grows with `chunk` and not with the number of copies, the result does not change but
    for rounding. "auto": one on a CPU, where more are slower for all but single images; on a GPU what its memory holds.
    Raises TypeError or ValueError for what is no model, transform, loss or chunk of at least 1; when called, also for a
    transform, a model or a loss that returns something else than it should, and where no gradient reaches the images.
    """
    checks.network(model)
    if isinstance(loss, str):
        checks.choice("loss", loss, LOSSES)
    else:
        checks.function("loss", loss, "a name or a function (logits, y) -> (N,)", 2)
    loss_of = LOSSES[loss] if isinstance(loss, str) else loss

    def losses(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        return loss_of(checks.logits(drawn(model, draw)(x), len(x)), y)

    whole = _few_at_once(of_losses(losses, model, transform, chunk, members(model)), chunk)
    alone = model.members if isinstance(model, Ensemble) else ()
    return replace(whole, parts=tuple(gradient(member, transform, loss, chunk) for member in alone))


def of_losses(
    losses: Losses,
    model: Model,
    transform: Transform | Sequence[Transform] | None = None,
    chunk: int | str = "auto",
    passes: int = 1,
) -> Gradient:
    """The gradient of losses(x, y, draw), (N,), averaged over the copies that the transforms make.

    losses: gets copies that it may write into, those of all images one after the other, with their labels and draws.
    model: what they run; passes: their cost for a copy. transform, chunk: as of `gradient`, which raises as this does.
    """
    checks.chunk(chunk)
    transforms = listed(transform)
    for t in transforms:
        checks.function("transform", t, "a function (x, draw, copy) -> images", 3)
        checks.whole("transform.copies", getattr(t, "copies", 1), 1)
    copies = prod(getattr(t, "copies", 1) for t in transforms)
    kind = getattr(losses, "__qualname__", type(losses)), passes, *map(type, transforms)

    def function(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        def summed(first: int, k: int) -> torch.Tensor:
            return _summed_gradient(losses, transforms, x, y, draw, range(first, min(first + k, copies)))

        total: torch.Tensor | None = None
        step = at_once(chunk, copies, x, model, kind, partial(summed, 0))
        for first in range(0, copies, step):
            part = summed(first, step)
            total = part if total is None else total.add_(part)
        assert total is not None  # there is one copy or more
        return total if copies == 1 else total.div_(copies)

    return Gradient(function, (model,), copies * passes)


def _few_at_once(g: Gradient, chunk: int | str) -> Gradient:
    """g, of as many images at a time as suit a processor, `chunk` copies of each. Its values stay the same."""
    copies = chunk if isinstance(chunk, int) else 1  # of "auto", on a processor

    def function(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        def part(x: torch.Tensor, y: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
            return g.function(x, y, draw.at(index=index))

        return in_parts(part, x, y, draw.index, copies=copies)

    return replace(g, function=function)


def listed(transform: Transform | Sequence[Transform] | None) -> tuple[Transform, ...]:
    """One transform, several or None, as a tuple. A text is a sequence too, and no transform."""
    if transform is None:
        return ()
    if isinstance(transform, str) or not isinstance(transform, Sequence):
        return (transform,)
    return tuple(transform)


def _summed_gradient(
    losses: Losses, transforms: tuple[Transform, ...], x: torch.Tensor, y: torch.Tensor, draw: Draw, copies: range
) -> torch.Tensor:
    """Gradient at x of the losses summed over the given copies, through the transforms."""
    k = len(copies)
    copy = torch.arange(copies.start, copies.stop, device=x.device).repeat_interleave(len(x))
    rows = draw.at(index=draw.index.repeat(k), copy=copy)

    def total_loss(image: torch.Tensor) -> torch.Tensor:
        # Always a copy, of the first transform's or ours: a model, or a transform, may write into what it is given.
        copied = bool(transforms) and getattr(transforms[0], "repeats", False)
        stack, stride = image if copied else image.repeat(k, 1, 1, 1) if k > 1 else image.clone(), 1
        for place, t in enumerate(transforms):
            own = getattr(t, "copies", 1)
            view = t(stack, rows.at(stream=(place + 1) * Stream.TRANSFORM), (copy // stride) % own)
            stack, stride = checks.transformed(view, stack, n=len(copy)), stride * own
        return checks.losses(losses(stack, y.repeat(k), rows), len(copy)).sum()

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


def _wrapped(g: Gradient, wrap: Callable[[Gradient], Gradient], function: Function, passes: int) -> Gradient:
    """What `wrap` returns for g: `function` at that cost, and its parts wrapped likewise."""
    return Gradient(function, g.models, passes, tuple(wrap(part) for part in g.parts))


def averaged(gradients: Sequence[Gradient], weights: Sequence[float] | None = None) -> Gradient:
    """The weighted mean of gradient functions: of networks, it is the ensemble by losses (Liu et al. 2017; [55] of the
    thesis); `ensemble` averages logits or probabilities before the loss.

    weights: a number of at least 0 for each, as shares of their sum; None: all alike. Raises TypeError or ValueError
    for no gradient function, or weights that do not fit."""
    gradients = _several(gradients)
    share = shares(weights, len(gradients))

    def function(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        total = torch.zeros_like(x)
        for w, g in zip(share, gradients, strict=True):
            total = total.add_(g(x, y, draw), alpha=w)
        return total

    models = tuple(dict.fromkeys(model for g in gradients for model in g.models))
    return Gradient(function, models, sum(g.passes for g in gradients), tuple(gradients))


def _several(gradients: object) -> list[Gradient]:
    """Gradient functions, at least one."""
    checks.instance("gradients", gradients, Sequence, "a list of gradient functions")
    assert isinstance(gradients, Sequence)
    for g in gradients:
        checks.instance("gradients", g, Gradient, "a list of gradient functions, such as gradient(model)")
    if not gradients:
        raise ValueError("gradients: expected at least one")
    return list(gradients)


def smoothed(g: Gradient, kernel: int = 7, std: float | None = None) -> Gradient:
    """TIM: the gradient convolved with a Gaussian of kernel x kernel pixels (Dong et al. 2019, eq. 8), zeros outside
    the image.

    kernel: odd; 1 returns `g`. std: standard deviation in pixels; None: the kernel spans 3 of them to each side, as in
    the paper, which leaves a kernel of 3 pixels almost nothing to smooth: .011, .978, .011. Raises TypeError or
    ValueError for another kernel, std <= 0, or what is no gradient function."""
    _check_gradient(g)
    checks.whole("kernel", kernel, 1)
    if kernel % 2 == 0:
        raise ValueError(f"kernel={kernel}: expected an odd number of pixels")
    if std is not None:
        checks.number("std", std, above=0)
    if kernel == 1:
        return g
    reach = 3.0 if std is None else (kernel - 1) / (2 * std)  # standard deviations to each side

    def function(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        grad, c = g(x, y, draw), x.shape[1]
        line = torch.exp(-0.5 * torch.linspace(-reach, reach, kernel, device=x.device, dtype=x.dtype) ** 2)
        line = (line / line.sum()).repeat(c, 1, 1, 1)
        grad = F.conv2d(grad, line, padding=(0, kernel // 2), groups=c)
        return F.conv2d(grad, line.transpose(2, 3), padding=(kernel // 2, 0), groups=c)

    return _wrapped(g, lambda part: smoothed(part, kernel, std), function, g.passes)


def norm_penalty(
    g: Gradient,
    r: float = 0.01,
    beta: float = 0.8,
    unit: str = "l2",
    rescale: bool = False,
    difference: str = "forward",
) -> Gradient:
    """GNP: the gradient of loss - r beta ||gradient||, by a finite difference along it (thesis eq. 3.2 to 3.6):

        forward    (1 + beta) g1 - beta g2              g1 = g(x)
        backward   (1 - beta) g1 + beta g0              g2 = g(x + r g1 / ||g1||)
        central    g1 - beta / 2 (g2 - g0)              g0 = g(x - r g1 / ||g1||)

    the norm per image. Forward is the thesis' eq. 3.6; the others differ from it by terms of order r, and central is
    exact to order r^2. Forward and backward take twice the passes of `g`, central three times. For beta from 0 to 1
    backward is a mean of two gradients, where forward turns the step downhill once ||g2|| outweighs (1 + beta) / beta
    ||g1||. With unit="mean", r = alpha and beta = 0.5 it is the penalty of PGN (Ge et al. 2023).
    All gradients get the same draw: their difference is then the curvature of one loss, that of this step's resize or
    erasure. With draws of their own it would be the difference of two losses, however small r is. Algorithm 2 takes g1
    at the clean image in every step, which is FGSM; here it is the iterate. A targeted attack descends its loss, and
    what it penalises is the same norm: g1 then points the other way (`draw.sign`).

    r: how far away the other gradients are taken, in [0, 1] units of the norm `unit`: "l2" (the text; 0.01 is 0.05/255
    in a pixel of a 32-pixel image) or "mean" (of absolute values; 0.01 is 2.6/255 in a pixel).
    beta: weight of the penalty. 0 returns `g`. Below 0 the norm is rewarded, and -1 is, forward, the gradient ahead, as
    in SAM.
    rescale: bring g2 and g0 to the L2 length of g1 first, so that a gradient that grows along its own direction cannot
    outweigh g1 and turn the step downhill.
    A zero gradient stays zero. Raises TypeError or ValueError for r <= 0, another `unit` or `difference`, or a number
    that is not finite.
    """
    _check_gradient(g)
    checks.choice("unit", unit, ("l2", "mean"))
    checks.choice("difference", difference, ("forward", "backward", "central"))
    checks.number("r", r, above=0)
    checks.number("beta", beta)
    checks.flag("rescale", rescale)
    if not beta:
        return g

    def function(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        g1 = g(x, y, draw)
        ascent = draw.sign * divided(g1, NORMS[unit](g1))

        def at(way: float) -> torch.Tensor:
            found = g(x + way * ascent, y, draw)
            return divided(found, l2_norm(found)) * l2_norm(g1) if rescale else found

        if difference == "forward":
            return (1 + beta) * g1 - beta * at(r)
        if difference == "backward":
            return (1 - beta) * g1 + beta * at(-r)
        return g1 - beta / 2 * (at(r) - at(-r))

    again = partial(norm_penalty, r=r, beta=beta, unit=unit, rescale=rescale, difference=difference)
    return _wrapped(g, again, function, (3 if difference == "central" else 2) * g.passes)


def neighbours(
    g: Gradient, radius: float, points: int = 20, noise: str = "uniform", chunk: int | str = "auto"
) -> Gradient:
    """The gradient averaged over points drawn around x: the Smoothed Gradient Attack (Wu & Zhu 2020; [49] of the
    thesis) with normal noise, and what PGN (Ge et al. 2023) puts around its penalty, `norm_penalty` with
    difference="backward", with uniform noise.

    radius: of the cube that uniform noise fills, or the standard deviation of "normal" noise, in [0, 1] units. points:
    how many are drawn per image and step, and the passes of `g` that a call takes; transforms draw anew at each. chunk:
    how many points go through the network at once, as of `gradient`. radius = 0 with one point is `g`.
    Raises TypeError or ValueError for radius < 0, points < 1, chunk < 1, or another noise.
    """
    _check_gradient(g)
    checks.number("radius", radius, 0)
    checks.whole("points", points, 1)
    checks.choice("noise", noise, ("uniform", "normal"))
    checks.chunk(chunk)

    def around(x: torch.Tensor, draw: Draw, point: torch.Tensor) -> torch.Tensor:
        own, shape = draw.at(stream=Stream.NEIGHBOUR), x.shape[1:]
        delta = own.normal(*shape) if noise == "normal" else 2 * own.uniform(*shape) - 1
        return x + radius * delta.to(x)

    total = _summed_over_points(g, around, points, chunk)
    again = partial(neighbours, radius=radius, points=points, noise=noise, chunk=chunk)
    return _wrapped(g, again, lambda x, y, draw: total(x, y, draw) / points, points * g.passes)


Around = Callable[[torch.Tensor, Draw, torch.Tensor], torch.Tensor]


def _summed_over_points(g: Gradient, around: Around, points: int, chunk: int | str) -> Function:
    """The sum of g over the images around(x, draw, point), point = 0 .. points - 1, `chunk` of them at once."""

    def function(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        def summed(first: int, k: int) -> torch.Tensor:
            point = torch.arange(first, first + k, device=x.device).repeat_interleave(len(x))
            rows = draw.at(index=draw.index.repeat(k))
            place = around(x.repeat(k, 1, 1, 1), rows.at(copy=point), point)
            return g(place, y.repeat(k), rows.branch(point)).unflatten(0, (k, len(x))).sum(0)

        total = torch.zeros_like(x)
        step = at_once(chunk, points, x, next(iter(g.models), g), ("points", g.passes), partial(summed, 0))
        for first in range(0, points, step):
            total += summed(first, min(step, points - first))
        return total

    return function


def integrated(
    g: Gradient, points: int = 20, reference: float = 0.0, noise: float = 0.0, chunk: int | str = "auto"
) -> Gradient:
    """TAIG: the integrated gradient (x - x0) * mean of g along the straight line from x0 to x (Huang & Kong 2022).

    points: how many of the line, at x0 + k / points (x - x0), k = 1 .. points, and the passes of `g` that a call takes;
    reference: x0, a grey value; noise: half-width of the uniform noise on every point, per image, point and step: 0 is
    TAIG-S, eps TAIG-R. chunk: how many points go through the network at once, as of `gradient`.
    Raises TypeError or ValueError for points < 1, chunk < 1, noise < 0, or a number that is not finite.
    """
    _check_gradient(g)
    checks.whole("points", points, 1)
    checks.number("reference", reference)
    checks.number("noise", noise, 0)
    checks.chunk(chunk)

    def on_the_way(x: torch.Tensor, draw: Draw, point: torch.Tensor) -> torch.Tensor:
        share = ((point + 1) / points).to(x.dtype)[:, None, None, None]
        line = reference + share * (x - reference)
        return line + noise * (2 * draw.at(stream=Stream.PATH).uniform(*x.shape[1:]).to(x) - 1) if noise else line

    total = _summed_over_points(g, on_the_way, points, chunk)

    def function(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        return (x - reference) * total(x, y, draw) / points

    again = partial(integrated, points=points, reference=reference, noise=noise, chunk=chunk)
    return _wrapped(g, again, function, points * g.passes)


def reverse_perturbed(g: Gradient, eps: float = 16 / 255, steps: int = 8, start: int = 100) -> Gradient:
    """RAP: g at x + n, n the reverse perturbation that lowers the loss most near x: `steps` sign steps of eps / steps
    against g, from 0 (Qin et al. 2022; constants of its untargeted attacks). What still has a high loss there lies on a
    flat top. In a targeted attack, which lowers its loss, n raises it.

    eps: L-inf radius of n; start: the step of the attack at which it begins ("late start"), until then it is `g`. The
    passes of `g` times (steps + 1), from `start` on.
    Raises TypeError or ValueError for eps outside [0, 1], steps < 1, or a start that is no whole number of at least 0.
    """
    _check_gradient(g)
    checks.budget(eps, steps)
    checks.whole("start", start, 0)

    def function(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        point = x
        for _ in range(steps if draw.step >= start else 0):
            point = point - draw.sign * eps / steps * g(point, y, draw).sign()
        return g(point, y, draw)

    return _wrapped(g, partial(reverse_perturbed, eps=eps, steps=steps, start=start), function, (steps + 1) * g.passes)


def cycled(gradients: Sequence[Gradient]) -> Gradient:
    """LGV: another of `gradients` in each step, in an order drawn from the seed, and then in that order again (Gubri et
    al. 2022, whose networks are collected along one training run). Raises TypeError or ValueError if there is none."""
    gradients = _several(gradients)

    def function(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        order = torch.randperm(len(gradients), generator=torch.Generator().manual_seed(draw.seed))
        return gradients[int(order[draw.step % len(gradients)])](x, y, draw)

    models = tuple(dict.fromkeys(model for g in gradients for model in g.models))
    return Gradient(function, models, max(g.passes for g in gradients))
