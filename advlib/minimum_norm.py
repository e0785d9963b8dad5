"""The attack of Carlini & Wagner (2017): the smallest L2 perturbation that succeeds, by Adam on a Lagrangian.

    min ||x' - x||_2^2 + c max(kappa - margin, 0),   x' = (tanh(w) + 1) / 2,

with c found per image by bisection. In the L-inf ball the same margin is `attacks.pgd(..., loss="margin")`.
"""

from __future__ import annotations

import torch

from .core import checks
from .core.checks import Model
from .core.norms import l2_norm
from .core.surrogate import frozen
from .gradients import image_gradient, margin

# atanh(1) is infinite: white and black pixels start this far inside, 0.013/255. Closer, tanh is so flat there that a
# black-and-white image would not move.
_SHRINK = 1 - 1e-4


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
    checks.network(model)
    checks.images(x)
    checks.labels(y, x)
    checks.budget(0, steps)
    checks.whole("searches", searches, 1)
    checks.number("c", c, above=0)
    checks.number("kappa", kappa, 0)
    checks.number("lr", lr, above=0)
    if target is not None:
        checks.labels(target, x, "target")
    with frozen([model]):
        clean = x.detach().clone(memory_format=torch.channels_last)
        wanted, sign = (y.clone(), 1.0) if target is None else (target.clone(), -1.0)
        checks.outputs([model], clean, y=y, target=wanted)
        x = clean.to(torch.promote_types(clean.dtype, torch.float32))
        # A copy: a model may write into what it is given.
        answer = lambda adv: model(adv.to(clean.dtype, copy=True)).to(x.dtype)  # noqa: E731
        return _search(answer, x, wanted, sign, steps, searches, c, kappa, lr).to(clean.dtype).contiguous()


def _search(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    sign: float,
    steps: int,
    searches: int,
    c: float,
    kappa: float,
    lr: float,
) -> torch.Tensor:
    """Bisection of c in log scale between the largest that failed and the smallest that succeeded; tenfold while none
    has."""
    best, best_distance = x, torch.full_like(x[:, 0, 0, 0], float("inf"))
    weight = torch.full_like(best_distance, c)
    low, high = torch.zeros_like(weight), torch.full_like(weight, float("inf"))
    for _ in range(searches):
        found, distance = _minimise(model, x, y, sign, weight, steps, kappa, lr)
        better = distance < best_distance
        best = torch.where(better[:, None, None, None], found, best)
        best_distance = torch.minimum(distance, best_distance)
        success = torch.isfinite(distance)
        low, high = torch.where(success, low, weight), torch.where(success, weight, high)
        between = torch.where(low > 0, torch.sqrt(low * high), high / 10)
        weight = torch.where(torch.isfinite(high), between, 10 * weight)
    return best


def _minimise(
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
    w = torch.atanh((2 * x - 1) * _SHRINK)
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
