"""Attacks that ask a model for its answers and use no gradient of it (thesis sect. 1.2.1).

    adv = attack(x, y, nes(f), eps=8/255, momentum=Elastic(1.0))     from scores: a gradient function like any other
    found = nattack(f, x, y, eps=8/255)                              from scores: a distribution that learns
    found.images, found.queries, found.success

f: any callable from images in [0, 1] to logits; it runs without a graph. A query is one image shown to it. `nattack`,
and the attacks of `decisions`, count them for each image: the first shows the clean image, and an image that has what
it needs asks no more. Beside them, the model is looked at once with the first two images, to see that it is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from .core import checks
from .core.balls import LinfBall, toward
from .core.checks import Model
from .core.draws import Draw, Stream
from .core.norms import divided, l1_norm
from .core.surrogate import members, under_attack
from .gradients import LOSSES, Gradient, Loss, margin
from .minimum_norm import unbounded


class Found(NamedTuple):
    """What a query attack found. images: (N, C, H, W), of the type of x; an image without success is the clean one.
    queries: int64 (N,), how often each was shown to the model. success: bool (N,), by the model's own answers."""

    images: torch.Tensor
    queries: torch.Tensor
    success: torch.Tensor


# --- from scores, as a gradient ---------------------------------------------------------------------------------------


def nes(
    model: Model, sigma: float = 0.001, pairs: int = 25, loss: str | Loss = "cross_entropy", chunk: int = 1
) -> Gradient:
    """NES: the gradient of the loss estimated from its values (Ilyas et al. 2018; thesis sect. 1.2.1, [28]), the mean
    over `pairs` standard normal directions u, drawn per image and step, of

        (loss(x + sigma u) - loss(x - sigma u)) / (2 sigma) u.

    model: images to logits; sigma: in [0, 1] units, the points lie so far outside [0, 1] where x is black or white, and
    in half precision it has to be larger than its rounding; pairs: two queries each (the published code's 50 samples
    are 25 pairs); loss: a name in `LOSSES`, or (logits, y) -> (N,), of which no gradient is asked; chunk: how many
    pairs go through the network at once. In `attack`, where no image stops early, an image takes steps * g.passes
    queries. Raises as `gradient` does, but for a model or a loss without a graph.
    """
    checks.network(model)
    if isinstance(loss, str):
        checks.choice("loss", loss, LOSSES)
    else:
        checks.function("loss", loss, "a name or a function (logits, y) -> (N,)", 2)
    checks.number("sigma", sigma, above=0)
    checks.whole("pairs", pairs, 1)
    checks.whole("chunk", chunk, 1)
    loss_of = LOSSES[loss] if isinstance(loss, str) else loss

    @torch.no_grad()
    def function(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        total = torch.zeros_like(wide)

        def value(points: torch.Tensor) -> torch.Tensor:
            logits = checks.logits(model(points.to(x.dtype)), len(points))
            return checks.losses(loss_of(logits, y.repeat(len(points) // len(y))), len(points)).to(wide.dtype)

        for first in range(0, pairs, chunk):
            k = min(chunk, pairs - first)
            u = _copies(draw.at(stream=Stream.NES), first, k).normal(*x.shape[1:]).to(wide)
            total += antithetic(value, wide.repeat(k, 1, 1, 1), u, sigma).unflatten(0, (k, len(x))).sum(0)
        return total / pairs

    return Gradient(function, (model,), 2 * pairs * members(model))


def antithetic(
    value: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, u: torch.Tensor, sigma: float
) -> torch.Tensor:
    """(value(x + sigma u) - value(x - sigma u)) / (2 sigma) u, (N, C, H, W): the derivative of `value` along u, times
    u. x, u: (N, C, H, W); value: (2 N, C, H, W) to (2 N,). Its mean over a set of u with mean u u^T = 1 is, for a
    linear function, the gradient."""
    up, down = value(torch.cat([x + sigma * u, x - sigma * u])).chunk(2)
    return ((up - down) / (2 * sigma))[:, None, None, None] * u


def _copies(draw: Draw, first: int, k: int) -> Draw:
    """The draws of copies first .. first + k - 1 of every image, (k N)."""
    copy = torch.arange(first, first + k, device=draw.index.device).repeat_interleave(len(draw.index))
    return draw.at(index=draw.index.repeat(k), copy=copy)


# --- questions, counted -----------------------------------------------------------------------------------------------


class Oracle:
    """The model's answers for the images of one batch, counted: how far each is beyond the boundary.

    model: to be asked; clean: (N, C, H, W), in whose type it is asked; wanted: int64 (N,); sign: 1 where another class
    than `wanted` is wanted, -1 where it is that one. queries: int64 (N,), so far.
    """

    def __init__(self, model: Model, clean: torch.Tensor, wanted: torch.Tensor, sign: float) -> None:
        self.model, self.clean, self.wanted, self.sign = model, clean, wanted, sign
        self.queries = torch.zeros_like(wanted)

    def __call__(self, points: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
        """(k N, 1, 1, 1), the margin of each of `points` (k N, C, H, W), k for every image: above 0 where it is
        adversarial. Only images that are `live`, (N, 1, 1, 1), are asked about; the others have minus infinity. The
        device is waited for: which images are shown depends on what was answered."""
        n, gap = len(live), points.new_full((len(points), 1, 1, 1), float("-inf"))
        rows = live.flatten().repeat(len(points) // n).nonzero()[:, 0]
        if len(rows):
            shown = toward(self.clean[rows % n], points[rows])
            logits = checks.logits(self.model(shown), len(rows)).to(gap.dtype)
            gap[rows, 0, 0, 0] = self.sign * margin(logits, self.wanted[rows % n])
        self.queries += len(points) // n * live.flatten()
        return gap


Walk = Callable[[Oracle, torch.Tensor, torch.Tensor, Draw], tuple[torch.Tensor, torch.Tensor]]
"""(ask, x, live, draw) -> (images, success): a search for those images that are not adversarial from the start. live,
success: bool (N, 1, 1, 1)."""


def searched(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    target: torch.Tensor | None,
    seed: int,
    index: torch.Tensor | None,
    walk: Walk,
) -> Found:
    """What `walk` finds, with the checks of `attack`, a model that is frozen meanwhile, and questions that are counted.
    Half-precision images are searched for in float32, and shown and returned rounded toward x."""
    checks.whole("seed", seed)
    with torch.no_grad(), under_attack(model, x, y, target) as (clean, x, wanted, sign):
        draw = Draw(seed, checks.index(index, x))
        ask = Oracle(model, clean, wanted, sign)
        already = ask(x, torch.ones_like(x[:, :1, :1, :1], dtype=torch.bool)) > 0
        adv, success = walk(ask, x, ~already, draw)
        images = torch.where(success & ~already, toward(clean, adv), clean)
    return Found(images.contiguous(), ask.queries, (success | already).flatten())


# --- from scores, as a distribution -----------------------------------------------------------------------------------


def nattack(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    eps: float = 8 / 255,
    steps: int = 600,
    population: int = 300,
    sigma: float = 0.1,
    lr: float = 0.02,
    chunk: int = 30,
    target: torch.Tensor | None = None,
    seed: int = 0,
    index: torch.Tensor | None = None,
) -> Found:
    """NAttack: the mean of a normal distribution whose samples are adversarial (Li et al. 2019; thesis sect. 1.2.1,
    [29]). A sample is project((tanh(w + mean + sigma u) + 1) / 2), with x = (tanh(w) + 1) / 2; a step adds

        lr / (population sigma) * sum of (r - average r) / (standard deviation of r) u,

    where r = min(margin, 0), the negative hinge loss of Carlini & Wagner, is 0 for a sample that is adversarial.

    eps: L-inf radius; population: samples of a step; sigma, lr: in w (lr as in the published code for CIFAR-10); chunk:
    samples that go through the network at once. The mean starts at 0, and not at a small random or a learned one as in
    the paper. An image asks population + 1 times a step and stops when that of its mean is adversarial. target: int64
    (N,), classes wanted; seed, index: where the draws come from, as in `attack`, and its errors.
    """
    checks.budget(eps, steps)
    checks.whole("population", population, 2)
    checks.number("sigma", sigma, above=0)
    checks.number("lr", lr, above=0)
    checks.whole("chunk", chunk, 1)

    def walk(ask: Oracle, x: torch.Tensor, live: torch.Tensor, draw: Draw) -> tuple[torch.Tensor, torch.Tensor]:
        ball, w, mean, sizes = LinfBall.around(x, eps), unbounded(x), torch.zeros_like(x), []
        adv, success = x, torch.zeros_like(live)
        for t in range(steps):
            if not live.any():
                break
            rewards, of_u, of_r = [], torch.zeros_like(x), torch.zeros_like(x)
            for first in range(0, population, chunk):
                k = min(chunk, population - first)
                u = _copies(draw.at(step=t, stream=Stream.NATTACK), first, k).normal(*x.shape[1:]).to(x)
                points = (torch.tanh((w + mean).repeat(k, 1, 1, 1) + sigma * u) + 1) / 2
                points = points.clamp(ball.lower.repeat(k, 1, 1, 1), ball.upper.repeat(k, 1, 1, 1))
                r = torch.where(live, ask(points, live).unflatten(0, (k, len(x))).clamp(max=0), 0.0)
                u = u.unflatten(0, (k, len(x)))
                of_u, of_r = of_u + u.sum(0), of_r + (r * u).sum(0)
                rewards.append(r)
            r = torch.cat(rewards)
            g = divided(of_r - r.mean(0) * of_u, population * sigma * r.std(0, correction=0))
            sizes.append(torch.where(live, l1_norm(g), 1.0).flatten())
            mean = mean + lr * g
            adv = torch.where(live, ball.project((torch.tanh(w + mean) + 1) / 2), adv)
            success = success | (ask(adv, live) > 0)
            live = live & ~success
        if sizes:
            checks.gradients(torch.stack(sizes))
        return adv, success

    return searched(model, x, y, target, seed, index, walk)
