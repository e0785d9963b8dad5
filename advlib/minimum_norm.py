"""Attacks for the smallest L2 perturbation that succeeds, on a Lagrangian whose weight c is found for each image.

    min ||x' - x||_2^2 + c max(kappa - margin, 0)     Carlini & Wagner (2017): Adam, x' = (tanh(w) + 1) / 2
    min ||x' - x||_2^2 + c loss(x')                   Szegedy et al. (2014): L-BFGS in [0, 1]

In the L-inf ball the margin of the first is `attacks.pgd(..., loss="margin")`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from .core import checks
from .core.checks import Model
from .core.norms import divided, l1_norm, l2_norm
from .core.surrogate import under_attack
from .gradients import cross_entropy, image_gradient, margin

# atanh(1) is infinite: white and black pixels start this far inside, 0.013/255. Closer, tanh is so flat there that a
# black-and-white image would not move.
_SHRINK = 1 - 1e-4

Minimise = Callable[[Model, torch.Tensor, torch.Tensor, float, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""(model, x, wanted, sign, c (N,)) -> the image found for that c, and its distance (N,), infinite without success."""


def carlini_wagner(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    steps: int = 200,
    searches: int = 5,
    c: float = 1.0,
    kappa: float = 0.01,
    lr: float = 0.01,
    target: torch.Tensor | None = None,
) -> torch.Tensor:
    """Adversarial images (N, C, H, W) of least L2 distance found; an image without any success comes back unchanged.

    steps: Adam steps for each value of c; searches: values of c tried, the first is `c`; kappa: margin asked for, in
    logits (with 0 the images lie on the boundary itself, and rounding in another batch size decides); lr: Adam's rate
    in w. target: int64 (N,), the classes wanted instead of any other than y.
    Successes are kept per image; no image stops, or hurries, another. Half-precision images are searched for in
    float32. Raises as `loop.attack` does.
    """
    checks.budget(0, steps)
    checks.number("kappa", kappa, 0)
    checks.number("lr", lr, above=0)
    return _nearest(model, x, y, target, searches, c, partial(_adam, steps=steps, kappa=kappa, lr=lr))


def lbfgs(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    steps: int = 50,
    searches: int = 10,
    c: float = 1.0,
    memory: int = 10,
    target: torch.Tensor | None = None,
) -> torch.Tensor:
    """The box-constrained L-BFGS attack (Szegedy et al. 2014; thesis sect. 1.2.1, [23]): of the minimisers of

        ||x' - x||_2^2 + c loss(x'),   x' in [0, 1],

    the nearest that succeeds, that of the smallest c, (N, C, H, W); an image without any success comes back unchanged.
    loss: the cross-entropy to the class wanted. Without a `target`, which the paper always has, it is minus the log of
    the probability of all classes other than y. The norm is squared here, as Carlini & Wagner read it.

    steps: evaluations for each value of c; searches: values of c tried, the first is `c`; memory: pairs of steps and
    changes of the gradient kept. Each image has pairs and a step length of its own, which is halved until the sum
    falls and then starts from 1 again, and values at 0 or 1 that would leave [0, 1] stand still: no image waits for
    another. target, half precision and errors as in `carlini_wagner`.
    """
    checks.budget(0, steps)
    checks.whole("memory", memory, 1)
    return _nearest(model, x, y, target, searches, c, partial(_quasi_newton, steps=steps, memory=memory))


def unbounded(x: torch.Tensor) -> torch.Tensor:
    """w with x = (tanh(w) + 1) / 2; black and white are taken for a value just inside [0, 1]."""
    return torch.atanh((2 * x - 1) * _SHRINK)


# --- the search for c -------------------------------------------------------------------------------------------------


def _nearest(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    target: torch.Tensor | None,
    searches: int,
    c: float,
    minimise: Minimise,
) -> torch.Tensor:
    checks.whole("searches", searches, 1)
    checks.number("c", c, above=0)
    with under_attack(model, x, y, target) as (clean, x, wanted, sign):
        # A copy: a model may write into what it is given.
        answer = lambda adv: model(adv.to(clean.dtype, copy=True)).to(x.dtype)  # noqa: E731
        best = _search(lambda weight: minimise(answer, x, wanted, sign, weight), x, searches, c)
        return best.to(clean.dtype).contiguous()


def _search(
    minimise: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]], x: torch.Tensor, searches: int, c: float
) -> torch.Tensor:
    """Bisection of c in log scale between the largest that failed and the smallest that succeeded; tenfold while none
    has."""
    best, best_distance = x, torch.full_like(x[:, 0, 0, 0], float("inf"))
    weight = torch.full_like(best_distance, c)
    low, high = torch.zeros_like(weight), torch.full_like(weight, float("inf"))
    for _ in range(searches):
        found, distance = minimise(weight)
        better = distance < best_distance
        best = torch.where(better[:, None, None, None], found, best)
        best_distance = torch.minimum(distance, best_distance)
        success = torch.isfinite(distance)
        low, high = torch.where(success, low, weight), torch.where(success, weight, high)
        between = torch.where(low > 0, torch.sqrt(low * high), high / 10)
        weight = torch.where(torch.isfinite(high), between, 10 * weight)
    return best


# --- the minimisers for one c -----------------------------------------------------------------------------------------


def _adam(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    sign: float,
    weight: torch.Tensor,
    steps: int,
    kappa: float,
    lr: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest success along `steps` of Adam and its distance (N,), infinite where there is none."""
    w = unbounded(x)
    adam = torch.optim.Adam([w], lr)
    best, best_distance = x, torch.full_like(weight, float("inf"))
    sizes = []
    gap = torch.zeros_like(weight)

    def penalty(adv: torch.Tensor) -> torch.Tensor:
        nonlocal gap
        found = sign * margin(model(adv), y)
        gap = found.detach()
        return (weight * (kappa - found).clamp(min=0)).sum()

    for _ in range(steps):
        adv = (torch.tanh(w) + 1) / 2
        of_adv = 2 * (adv - x) + image_gradient(penalty, adv)
        w.grad = of_adv * 2 * adv * (1 - adv)  # the derivative of (tanh w + 1) / 2
        # Never 0: where the penalty is flat, which is no fault, the distance may be too.
        sizes.append(1 + gap.abs() + torch.linalg.vector_norm(w.grad, ord=1, dim=(1, 2, 3)))
        distance = torch.where(gap > kappa, l2_norm(adv - x)[:, 0, 0, 0], float("inf"))
        best = torch.where((distance < best_distance)[:, None, None, None], adv, best)
        best_distance = torch.minimum(distance, best_distance)
        adam.step()
    checks.gradients(torch.stack(sizes))
    return best, best_distance


def _quasi_newton(
    model: Model, x: torch.Tensor, y: torch.Tensor, sign: float, weight: torch.Tensor, steps: int, memory: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The minimiser that `steps` of L-BFGS in [0, 1] find, and its distance (N,), infinite where it is no success."""
    loss = _any_other if sign > 0 else cross_entropy
    answers: list[torch.Tensor] = []

    def penalty(adv: torch.Tensor) -> torch.Tensor:
        logits = model(adv)
        each = weight * loss(logits, y)
        value = each.detach()[:, None, None, None] + (adv - x).detach().square().sum((1, 2, 3), keepdim=True)
        answers[:] = [value, sign * margin(logits.detach(), y)]
        return each.sum()

    adv, grad = x, image_gradient(penalty, x)
    value, gap = answers
    changes = [grad.new_zeros(memory, *x.shape) for _ in range(2)]  # of the image and of its gradient, the newest last
    length, sizes = torch.ones_like(value), [1 + l1_norm(grad) + value.abs()]
    for _ in range(steps):
        free = ~(((adv <= 0) & (grad > 0)) | ((adv >= 1) & (grad < 0)))
        step = free * _two_loops(free * grad, *changes)
        new = (adv - length * step).clamp(0, 1)
        new_grad = 2 * (new - x) + image_gradient(penalty, new)
        pair = new - adv, new_grad - grad
        lower = answers[0] <= value + 1e-4 * _dot(pair[0], grad)
        curved = lower & (_dot(*pair) > 0)
        changes = [
            torch.where(curved, torch.cat([old[1:], new[None]]), old) for old, new in zip(changes, pair, strict=True)
        ]
        adv, grad = torch.where(lower, new, adv), torch.where(lower, new_grad, grad)
        value, gap = torch.where(lower, answers[0], value), torch.where(lower.flatten(), answers[1], gap)
        length = torch.where(lower, 1.0, length / 2)
        sizes.append(1 + l1_norm(new_grad) + answers[0].abs())
    checks.gradients(torch.stack(sizes).flatten(1))
    return adv, torch.where(gap > 0, l2_norm(adv - x)[:, 0, 0, 0], float("inf"))


def _any_other(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(N,) minus the log of the probability of all classes but y."""
    others = logits.scatter(1, y[:, None], float("-inf"))
    return logits.logsumexp(1) - others.logsumexp(1)


def _two_loops(grad: torch.Tensor, steps: torch.Tensor, rises: torch.Tensor) -> torch.Tensor:
    """The inverse Hessian that L-BFGS has from its pairs, (memory, N, C, H, W), times the gradient. Without any, it is
    1/2, that of the squared distance."""
    shares = []
    for s, d in zip(steps.flip(0), rises.flip(0), strict=True):
        shares.append(divided(_dot(s, grad), _dot(s, d)))
        grad = grad - shares[-1] * d
    s, d = steps[-1], rises[-1]
    grad = grad * torch.where(_dot(s, d) > 0, divided(_dot(s, d), _dot(d, d)), 0.5)
    for s, d, share in zip(steps, rises, reversed(shares), strict=True):
        grad = grad + s * (share - divided(_dot(d, grad), _dot(s, d)))
    return grad


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner product per image, (N, 1, 1, 1)."""
    return (a * b).sum((1, 2, 3), keepdim=True)
