"""The saliency map attack: the fewest values of an image that have to change (L0; thesis sect. 1.2.3, [52])."""

from __future__ import annotations

import torch

from .core import checks
from .core.checks import Model
from .core.norms import l1_norm
from .core.surrogate import under_attack
from .gradients import image_gradient, margin

_VALUES = 2**24  # numbers of the table of pairs that are held at once


def jsma(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    theta: float = 1.0,
    gamma: float = 0.145,
    pairs: bool = True,
    target: torch.Tensor | None = None,
) -> torch.Tensor:
    """JSMA: values are changed by theta where that is most salient (Papernot et al. 2016; thesis sect. 1.2.3, [52]).
    With the derivatives of the logits,

        a = theta d logit of the target,   b = theta d sum of all other logits,

    a step changes the pair of values p, q, of those that can still move, whose -(a_p + a_q) (b_p + b_q) is largest
    among pairs with a_p + a_q > 0 > b_p + b_q, until the target is predicted, there is no such pair, or the share gamma
    of the values is used up. (N, C, H, W); an image without success comes back unchanged.

    theta: from -1 to 1, in [0, 1] units; gamma: share of all C * H * W values; pairs: False changes one value a step,
    at a cost that grows with their number and not with its square (3,072 values have 4.7 million pairs). target: int64
    (N,), the classes wanted. The paper's attack has one; without it, that is the most likely class of x other than y,
    and any class other than y is a success. Half precision and errors as in `carlini_wagner`.
    """
    checks.number("theta", theta, -1, 1)
    if not theta:
        raise ValueError(f"theta={theta}: expected a number other than 0")
    checks.number("gamma", gamma, 0, 1)
    checks.flag("pairs", pairs)
    with under_attack(model, x, y, target) as (clean, x, wanted, sign):
        answer = lambda adv: model(adv.to(clean.dtype, copy=True)).to(x.dtype)  # noqa: E731
        adv, goal, live, sizes = x, wanted, torch.ones_like(wanted, dtype=torch.bool), []
        if target is None:
            with torch.no_grad():
                goal = answer(x).scatter(1, wanted[:, None], float("-inf")).argmax(1)
        for _ in range(int(gamma * x[0].numel()) // (2 if pairs else 1)):
            logits, of_goal, of_all = _derivatives(answer, adv, goal)
            live = live & ~(sign * margin(logits, wanted) > 0)
            if not live.any():  # waiting for the device costs less than a table of pairs
                break
            sizes.append(1 + (l1_norm(of_goal) + l1_norm(of_all)).flatten())
            movable = (adv < 1 if theta > 0 else adv > 0).flatten(1)
            a, b = theta * of_goal.flatten(1), theta * (of_all - of_goal).flatten(1)
            chosen = _salient(torch.where(movable, a, float("-inf")), b, pairs)
            live = live & chosen.any(1)
            chosen = (chosen & live[:, None]).view_as(x)
            adv = torch.where(chosen, (adv + theta).clamp(0, 1), adv)
        if sizes:
            checks.gradients(torch.stack(sizes))
        with torch.no_grad():
            success = sign * margin(answer(adv), wanted) > 0
        return torch.where(success[:, None, None, None], adv, x).to(clean.dtype).contiguous()


def _derivatives(model: Model, x: torch.Tensor, goal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The logits, and the derivatives of that of `goal` and of the sum of all, by one pass of both."""
    logits = x.new_empty(0)

    def total(both: torch.Tensor) -> torch.Tensor:
        nonlocal logits
        logits, of_all = model(both).chunk(2)
        return logits.gather(1, goal[:, None]).sum() + of_all.sum()

    of_goal, of_all = image_gradient(total, torch.cat([x, x])).chunk(2)
    return logits.detach(), of_goal, of_all


def _salient(a: torch.Tensor, b: torch.Tensor, pairs: bool) -> torch.Tensor:
    """bool (N, n): the pair, or the one value, of the largest -a b with a > 0 > b. a, b: (N, n); a is minus infinity
    where a value cannot move."""
    images = torch.arange(len(a), device=a.device)
    best, place = a.new_zeros(len(a)), torch.zeros(2, len(a), dtype=torch.int64, device=a.device)
    rows = max(1, _VALUES // a.numel()) if pairs else 1
    for first in range(0, a.shape[1] if pairs else 1, rows):
        # The table of rows first, first + 1, ... against all columns; a lone value is a row of its own.
        of_a, of_b = (_table(z, first, rows) if pairs else z[:, None] for z in (a, b))
        top, where = torch.where(of_a > 0, -of_a * of_b, 0.0).flatten(1).max(1)
        here = torch.stack([first + where // a.shape[1], where % a.shape[1]]) if pairs else torch.stack([where, where])
        place, best = torch.where(top > best, here, place), torch.maximum(top, best)
    chosen = torch.zeros_like(a, dtype=torch.bool)
    chosen[images, place[0]] = chosen[images, place[1]] = True
    return chosen & (best > 0)[:, None]


def _table(z: torch.Tensor, first: int, rows: int) -> torch.Tensor:
    """(N, rows, n) sums of two values; on the diagonal, where there is one value, NaN, which is no pair."""
    sums = z[:, first : first + rows, None] + z[:, None]
    sums[:, torch.arange(sums.shape[1]), torch.arange(first, first + sums.shape[1])] = float("nan")
    return sums
