"""Attacks that see nothing of a model but the class that it predicts (thesis sect. 1.2.1).

    found = boundary(f, x, y);   found = sign_flip(f, x, y, eps=8/255)
    found.images, found.queries, found.success

They start at an adversarial image, however far away, and walk towards the clean one. Of the logits only the largest is
looked at. What is per image, a step size or a success, has shape (N, 1, 1, 1).
"""

from __future__ import annotations

import torch

from .core import checks
from .core.checks import Model
from .core.draws import Draw, Stream
from .core.norms import divided, l2_norm
from .queries import Found, Oracle, searched

_WINDOW = 10  # steps after which step sizes are tuned


def boundary(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    steps: int = 5000,
    sphere: float = 0.01,
    toward: float = 0.01,
    start: torch.Tensor | None = None,
    tries: int = 100,
    target: torch.Tensor | None = None,
    seed: int = 0,
    index: torch.Tensor | None = None,
) -> Found:
    """Boundary attack: a random walk along the decision boundary towards x (Brendel et al. 2018; thesis sect. 1.2.1,
    [30]). From an adversarial image at L2 distance d, a step goes sphere * d in a random direction at right angles to
    x, back to the sphere of radius d around x, and then the share `toward` of the way to x. It counts where the model
    names a wrong class at both points, so that the distance never grows; a step asks once or twice.

    sphere, toward: at the start; each image has its own, enlarged or divided by 1.5 to keep between 20 and 50 % of the
    first points and 10 and 25 % of the second adversarial (the rates of the authors' code; here over the last 10
    steps). start: adversarial images, like x, of the class wanted where there is a `target`; None: uniform noise, up to
    `tries` draws. An image without an adversarial start has no success. target, seed, index: as in `attack`, and its
    errors.
    """
    _check_walk(x, start, tries, steps)
    checks.number("sphere", sphere, above=0)
    checks.number("toward", toward, above=0, below=1)

    def walk(ask: Oracle, x: torch.Tensor, live: torch.Tensor, draw: Draw) -> tuple[torch.Tensor, torch.Tensor]:
        adv, live = _started(ask, x, live, start, tries, draw)
        delta, epsilon = torch.full_like(l2_norm(x), sphere), torch.full_like(l2_norm(x), toward)
        kept, hits = torch.zeros_like(delta), torch.zeros_like(delta)
        for t in range(steps if live.any() else 0):
            away, d = adv - x, l2_norm(adv - x)
            u = draw.at(step=t, stream=Stream.WALK).normal(*x.shape[1:]).to(x)
            u = u - away * divided((u * away).sum((1, 2, 3), keepdim=True), d * d)
            away = away + delta * d * divided(u, l2_norm(u))
            around = (x + d * divided(away, l2_norm(away))).clamp(0, 1)  # on the sphere, or nearer
            near = x + (1 - epsilon) * (around - x)
            on_sphere = ask(around, live) > 0
            hit = (ask(near, on_sphere) > 0) & (l2_norm(near - x) < d)
            adv = torch.where(hit, near, adv)
            kept, hits = kept + on_sphere, hits + hit
            if t % _WINDOW == _WINDOW - 1:
                delta = _tuned(delta, kept / _WINDOW, 0.2, 0.5).clamp(max=1)
                epsilon = _tuned(epsilon, hits / kept, 0.1, 0.25).clamp(max=1)  # 0 / 0, which is no rate, changes none
                kept, hits = torch.zeros_like(kept), torch.zeros_like(hits)
        return adv, live

    return searched(model, x, y, target, seed, index, walk)


def sign_flip(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    eps: float = 8 / 255,
    steps: int = 5000,
    alpha: float = 0.004,
    flip: float = 0.001,
    start: torch.Tensor | None = None,
    tries: int = 100,
    target: torch.Tensor | None = None,
    seed: int = 0,
    index: torch.Tensor | None = None,
) -> Found:
    """Sign Flip Attack: an L-inf perturbation that shrinks while random signs of it flip (Chen et al. 2020; thesis
    sect. 1.2.1, [31]). From an adversarial start, brought to the boundary by 10 bisections of its radius, a step

        moves each value by +alpha or -alpha and cuts the perturbation to its radius - alpha,
        then changes the sign of each value with a small probability,

    and takes either where the model still names a wrong class, so that the radius never grows; it asks twice.

    eps: L-inf radius at which an image is a success and asks no more; one that does not get there comes back clean.
    alpha: at the start, enlarged or divided by 1.5 per image to keep between 30 and 70 % of the cuts; flip: probability
    at the start, kept from 0.0001 to 0.01 and raised or lowered by 0.001 for the same share of the flips, and by 0.0001
    for each value that a good flip moved or left (as in the published code, whose lower resolution for large images is
    left out). start, tries: as in `boundary`. target, seed, index: as in `attack`, and its errors.
    """
    _check_walk(x, start, tries, steps)
    checks.budget(eps, steps)
    checks.number("alpha", alpha, above=0)
    checks.number("flip", flip, 0.0001, 0.01)

    def walk(ask: Oracle, x: torch.Tensor, live: torch.Tensor, draw: Draw) -> tuple[torch.Tensor, torch.Tensor]:
        adv, started = _started(ask, x, live, start, tries, draw)
        r, size = _bisected(ask, x, adv - x, started), torch.full_like(_radius(x), alpha)
        keep = torch.full_like(x, 1 - flip)
        cuts, flips = torch.zeros_like(size), torch.zeros_like(size)
        for t in range(steps):
            live = started & (_radius(r) > eps)
            if not live.any():
                break
            here = draw.at(step=t, stream=Stream.WALK)
            moved = r + size * (2 * (here.uniform(*x.shape[1:]).to(x) < 0.5) - 1)
            moved = _cut(moved, (_radius(r) - size).clamp(min=0))
            cut = ask((x + moved).clamp(0, 1), live) > 0
            r = torch.where(cut, moved, r)
            s = torch.where(here.at(stream=Stream.SIGNS).uniform(*x.shape[1:]).to(x) < keep, 1.0, -1.0).to(x)
            flipped = ask((x + s * r).clamp(0, 1), live) > 0
            r = torch.where(flipped, s * r, r)
            keep = (keep - 0.0001 * s * flipped).clamp(0.99, 0.9999)
            cuts, flips = cuts + cut, flips + flipped
            if t % _WINDOW == _WINDOW - 1:
                size = _tuned(size, cuts / _WINDOW, 0.3, 0.7)
                change = (flips / _WINDOW < 0.3).to(x) - (flips / _WINDOW > 0.7).to(x)
                keep = (keep + 0.001 * change).clamp(0.99, 0.9999)
                cuts, flips = torch.zeros_like(cuts), torch.zeros_like(flips)
        return (x + r).clamp(0, 1), started & (_radius(r) <= eps)

    return searched(model, x, y, target, seed, index, walk)


def _check_walk(x: torch.Tensor, start: torch.Tensor | None, tries: int, steps: int) -> None:
    checks.budget(0, steps)
    checks.whole("tries", tries, 1)
    if start is not None:
        checks.images(x)
        checks.images(start, "start")
        checks.transformed(start, x, "start")


def _started(
    ask: Oracle, x: torch.Tensor, live: torch.Tensor, start: torch.Tensor | None, tries: int, draw: Draw
) -> tuple[torch.Tensor, torch.Tensor]:
    """(images, found): the first adversarial image of each that is live, and which have one."""
    adv, found = x, torch.zeros_like(live)
    for t in range(tries if start is None else 1):
        if not (live & ~found).any():
            break
        noise = draw.at(step=t, stream=Stream.START).uniform(*x.shape[1:])
        point = (noise if start is None else start).to(x)
        hit = ask(point, live & ~found) > 0
        adv, found = torch.where(hit, point, adv), found | hit
    return adv, found


def _bisected(ask: Oracle, x: torch.Tensor, r: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
    """r cut to the smallest radius, of 10 bisections, at which it still is adversarial."""
    low, high = torch.zeros_like(_radius(r)), _radius(r)
    for _ in range(10):
        middle = (low + high) / 2
        hit = ask((x + _cut(r, middle)).clamp(0, 1), live) > 0
        low, high = torch.where(hit, low, middle), torch.where(hit, middle, high)
    return _cut(r, high)


def _radius(r: torch.Tensor) -> torch.Tensor:
    """L-inf norm per image, (N, 1, 1, 1)."""
    return r.abs().amax((1, 2, 3), keepdim=True)


def _cut(r: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    return torch.clamp(r, -radius, radius)


def _tuned(size: torch.Tensor, rate: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """A step size, larger where more of its steps succeeded than wanted, smaller where fewer did."""
    return torch.where(rate > high, size * 1.5, torch.where(rate < low, size / 1.5, size))
