"""The sharpness-aware optimizers that the thesis names beside SAM (sect. 5.2.1): LookSAM, ESAM, SSAM and AE-SAM, which
cost less, and GSAM. The sixth of them, SAF, is no optimizer but an objective, `training.objectives.SAF`.

    optimizer = GSAM(net.parameters(), torch.optim.SGD, rho=0.05, alpha=0.2, lr=0.1, momentum=0.9)
    loss = optimizer.step(closure)

All that `sam` says of its optimizers holds for these: closures, weights that come back bit for bit, BatchNorm, and the
arguments adaptive, same_draws, local and model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil, exp, isfinite
from typing import Any

import torch

from .core import checks
from .core.draws import Draw, Stream
from .curvature import Tensors, norm
from .sam import SAM, Closure, Params

# --- the arithmetic --------------------------------------------------------------------------------------------------


def orthogonal(gradients: Tensors, along: Tensors) -> Tensors:
    """The part of `gradients` at right angles to `along`, all tensors together; all of it where `along` is zero. Raises
    ValueError for lists of tensors that do not match."""
    checks.matching(gradients=gradients, along=along)
    dot, square = (
        torch.stack([(a * b).sum() for a, b in zip(x, along, strict=True)]).sum() for x in (gradients, along)
    )
    share = dot / square.clamp(min=torch.finfo(square.dtype).tiny)
    return torch._foreach_sub(list(gradients), torch._foreach_mul(list(along), share))


def gsam_gradient(g0: Tensors, plus: Tensors, alpha: Sequence[float]) -> Tensors:
    """g+ - alpha times the part of g0 at right angles to g+, of the gradients g0 at w and g+ at w + rho v (Zhuang et
    al. 2022, Alg. 1): to first order, a step along it lowers the loss at w + rho v as much as one along g+ does, and
    the loss at w less, so that the gap between the two shrinks.

    alpha: one for each tensor. Raises ValueError for lists that do not match."""
    if len(alpha) != len(plus):
        raise ValueError(f"alpha: expected a number for each of {len(plus)} tensors, got {len(alpha)}")
    return torch._foreach_sub(list(plus), torch._foreach_mul(list(orthogonal(g0, plus)), list(alpha)))


def sparse_mask(scores: Tensors, sparsity: float) -> Tensors:
    """1 for the share 1 - sparsity of all values that have the highest scores, over all tensors together, and 0 for the
    rest; the number of ones is rounded down. Raises TypeError or ValueError."""
    checks.matching(scores=scores)
    checks.number("sparsity", sparsity, 0, 1)
    flat = torch.cat([s.flatten() for s in scores])
    kept = flat.topk(int(len(flat) * (1 - sparsity)), sorted=False).indices
    mask = torch.zeros_like(flat).index_fill_(0, kept, 1)
    return [m.view_as(s) for m, s in zip(mask.split([s.numel() for s in scores]), scores, strict=True)]


# --- the optimizers --------------------------------------------------------------------------------------------------


class LookSAM(SAM):
    """LookSAM (Liu et al. 2022, Alg. 1; thesis sect. 5.2.1, [115]): SAM in every `every`-th step and one pass in the
    others, which reuse what SAM added there: the part of its gradient at right angles to the plain one, at `alpha`
    times the plain one's length.

    every = 1 is `SAM`. alpha: of a parameter group if it has one; the others: as of `SAM`. Raises as `SAM` does, and
    for every < 1."""

    _numbers = {"steps": 0}
    _beside = ("sideways",)

    def __init__(
        self,
        params: Params,
        base: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        rho: float = 0.05,
        alpha: float = 0.7,
        every: int = 5,
        **options: Any,
    ) -> None:
        checks.whole("every", every, 1)
        self.every, self._more = every, {"alpha": alpha}
        super().__init__(params, base, rho, **options)

    def _passes(self, closure: Closure, again: Callable[[], None]) -> torch.Tensor:
        loss = closure()
        weights, g0 = self._taken()
        plain, steps = self._shared(g0), self.param_groups[0]["steps"]
        if steps % self.every == 0:
            used = self._above(weights, g0, closure, again)
            self._keep("sideways", weights, orthogonal(used, plain))
        else:
            used = self._reused(weights, plain)
        self._set(weights, used)
        self._note(steps=steps + 1)
        return loss

    def _reused(self, weights: Tensors, plain: Tensors) -> list[torch.Tensor]:
        """plain + alpha ||plain|| kept / ||kept||."""
        length = norm(self._kept("sideways", self._all()))
        scale = norm(plain) / length.clamp(min=torch.finfo(length.dtype).tiny)
        alpha, kept = self._option("alpha", weights), self._kept("sideways", weights)
        return [g + a * scale * k for g, a, k in zip(plain, alpha, kept, strict=True)]


class ESAM(SAM):
    """ESAM (Du et al. 2022, Alg. 1; thesis sect. 5.2.1, [116]): SAM with two savings. The ascent step moves each tensor
    of weights with probability `beta` alone, by 1/beta of its length, and the pass at its end learns from the share
    `gamma` of the examples whose losses rose the most on the way; a forward pass there, without a backward one, tells
    which. beta = gamma = 1 is `SAM`.

    Tensors and not single weights are left out, one at least stays in, and v is the gradient of those in, as in the
    authors' code. seed: of which these are, a hash of it, the step and the tensor; the others: as of `SAM`. What is
    left out needs no gradient in the first pass: under DistributedDataParallel give `local`, and `model` of a compiled
    network, which goes without that saving. Raises as `SAM` does, and for a beta or gamma outside (0, 1]."""

    _numbers = {"steps": 0}

    def __init__(
        self,
        params: Params,
        base: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        rho: float = 0.05,
        beta: float = 0.6,
        gamma: float = 0.5,
        seed: int = 0,
        **options: Any,
    ) -> None:
        for name, value in (("beta", beta), ("gamma", gamma)):
            checks.number(name, value, high=1, above=0)
        checks.whole("seed", seed)
        self.beta, self.gamma, self.seed = beta, gamma, seed
        super().__init__(params, base, rho, **options)

    def step(  # type: ignore[override]  # of another closure
        self, closure: Callable[[torch.Tensor | None], torch.Tensor], scaler: torch.amp.GradScaler | None = None
    ) -> torch.Tensor:
        """All passes, and a step of the base. Returns the mean loss of the first pass.

        closure: (keep) -> losses, a forward pass alone, of the examples of the batch whose numbers are in keep, int64
        (k,), or of all where it is None; losses: (k,). The backward pass, of their mean, and the scaling of it with a
        scaler are done here. Raises as `SAM.step` does."""
        checks.function("closure", closure, "a function (keep) -> losses, one for each example", 1)

        def mean(keep: torch.Tensor | None = None, backward: bool = True) -> torch.Tensor:
            with torch.set_grad_enabled(backward):
                losses = closure(keep)
                if not isinstance(losses, torch.Tensor) or losses.dim() != 1:
                    raise TypeError(f"closure: expected a loss for each example, (k,), got {checks.shown(losses)}")
                loss = losses.mean()
            if backward and loss.requires_grad:
                (loss if scaler is None else scaler.scale(loss)).backward()
            self._losses = losses.detach()
            return loss

        return super().step(mean, scaler)

    def _passes(self, closure: Closure, again: Callable[[], None]) -> torch.Tensor:
        with self._some_idle():
            loss = closure()
        before, (weights, g0) = self._losses, self._taken()

        def sharpest() -> torch.Tensor:
            if self.gamma == 1:
                return closure()
            closure(None, False)
            risen = (self._losses - before).topk(ceil(self.gamma * len(before))).indices
            again()
            return closure(risen.sort().values)

        delta = torch._foreach_div(self._perturbation(weights, g0), self.beta)
        self._set(weights, self._at(weights, delta, sharpest, again)[1])
        weights, gradients = self._taken()  # with those that were idle, whose gradients the last pass has left
        self._set(weights, self._shared(gradients))
        self._note(steps=self.param_groups[0]["steps"] + 1)
        return loss

    @contextmanager
    def _some_idle(self) -> Iterator[None]:
        """Some tensors get no gradient inside."""
        weights = [p for p in self._all() if p.requires_grad]
        draw = Draw(self.seed, torch.arange(len(weights)), self.param_groups[0]["steps"], stream=Stream.OPTIMIZER)
        u = draw.uniform().tolist()
        idle = [p for p, drawn in zip(weights, u, strict=True) if drawn >= self.beta and drawn > min(u)]
        try:
            for p in idle:
                p.requires_grad_(self.model is not None)
            yield
        finally:
            for p in idle:
                p.requires_grad_(True)
                p.grad = None


class SSAM(SAM):
    """SSAM-F (Mi et al. 2022, Alg. 1; thesis sect. 5.2.1, [122]): SAM whose ascent step moves a share 1 - `sparsity` of
    the weights, those with the largest Fisher information, and leaves the others. sparsity = 0 is `SAM`, and 1 the base
    (in two passes). v is not made longer for what is left out, as in the authors' code.

    The information is estimated by squared gradients, summed over the batches since it was last looked at, the first
    alone at first; the authors take examples one by one, for which there is no pass here. every: steps between two
    looks, an epoch of CIFAR-10 in batches of 128; the others: as of `SAM`. Both passes are whole ones: only
    hardware that makes use of zeros would save time. Raises as `SAM` does, and for a sparsity outside [0, 1] or every
    < 1."""

    _numbers = {"steps": 0}
    _beside = ("fisher", "mask")

    def __init__(
        self,
        params: Params,
        base: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        rho: float = 0.05,
        sparsity: float = 0.5,
        every: int = 391,
        **options: Any,
    ) -> None:
        checks.number("sparsity", sparsity, 0, 1)
        checks.whole("every", every, 1)
        self.sparsity, self.every = sparsity, every
        super().__init__(params, base, rho, **options)

    def _passes(self, closure: Closure, again: Callable[[], None]) -> torch.Tensor:
        loss = closure()
        weights, g0 = self._taken()
        self._look(weights, self._shared(g0))
        self._set(weights, self._above(weights, g0, closure, again))
        return loss

    def _look(self, weights: Tensors, gradients: Tensors) -> None:
        fisher, steps = self._kept("fisher", weights), self.param_groups[0]["steps"]
        torch._foreach_add_(fisher, torch._foreach_mul(list(gradients), list(gradients)))
        if steps % self.every == 0:
            self._keep("mask", weights, sparse_mask(fisher, self.sparsity))
            torch._foreach_zero_(fisher)
        self._note(steps=steps + 1)

    def _perturbation(self, weights: Tensors, gradients: Tensors) -> Tensors:
        return torch._foreach_mul(list(super()._perturbation(weights, gradients)), self._kept("mask", weights))


class AESAM(SAM):
    """AE-SAM (Jiang et al. 2023, Alg. 1; thesis sect. 5.2.1, [118]): SAM where the loss is sharp, and one pass, the
    base, elsewhere. Sharp is where the square of the gradient's length is at least m + c s, m and s^2 being its moving
    mean and variance, this step's among them, and c falling from `high` to `low` in `total` steps.

    delta: what the moving ones keep at each step; they begin at 0 and e^-10. These constants and the order of the
    updates are from descriptions of the paper at second hand. total: steps of the whole training, which `training.fit`
    knows; the others: as of `SAM`. A far too low threshold (-1e30) is `SAM`, a far too high one the base. Which it is
    must be known on the host, so that every step waits for its first pass. A gradient that is not finite is no sharp
    one, and is left out of both; a scaler should not change its scale often. Raises as `SAM` does, and for a delta
    outside [0, 1) or total < 1."""

    _numbers = {"steps": 0, "mean": 0.0, "variance": exp(-10)}

    def __init__(
        self,
        params: Params,
        base: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        rho: float = 0.05,
        low: float = -1.0,
        high: float = 1.0,
        delta: float = 0.9,
        *,
        total: int,
        **options: Any,
    ) -> None:
        for name, value in (("low", low), ("high", high)):
            checks.number(name, value)
        checks.number("delta", delta, 0, below=1)
        checks.whole("total", total, 1)
        self.low, self.high, self.delta, self.total = low, high, delta, total
        super().__init__(params, base, rho, **options)

    def _passes(self, closure: Closure, again: Callable[[], None]) -> torch.Tensor:
        loss = closure()
        weights, g0 = self._taken()
        plain = self._shared(g0)
        sharp = self._sharp(norm(plain).item() ** 2)
        self._set(weights, self._above(weights, g0, closure, again) if sharp else plain)
        return loss

    def _sharp(self, square: float) -> bool:
        """Whether a gradient of that squared length calls for SAM, which moves the mean and the variance."""
        if not isfinite(square):
            return False
        steps, mean, variance = (self.param_groups[0][name] for name in self._numbers)
        mean = self.delta * mean + (1 - self.delta) * square
        variance = self.delta * variance + (1 - self.delta) * (square - mean) ** 2
        done = min(1.0, steps / self.total)
        self._note(steps=steps + 1, mean=mean, variance=variance)
        return square >= mean + (done * self.low + (1 - done) * self.high) * variance**0.5


class GSAM(SAM):
    """GSAM (Zhuang et al. 2022, Alg. 1; thesis sect. 5.3.2, [139]): SAM that also shrinks the surrogate gap, the loss
    at w + rho v less that at w, by `gsam_gradient`. Two passes. alpha = 0 is `SAM`.

    alpha: of a parameter group if it has one, 0.2 in the authors' example for CIFAR-10; the others: as of `SAM`. The
    paper lets rho fall with the learning rate: a schedule may set it in the parameter groups. Raises as `SAM` does."""

    def __init__(
        self,
        params: Params,
        base: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        rho: float = 0.05,
        alpha: float = 0.2,
        **options: Any,
    ) -> None:
        self._more = {"alpha": alpha}
        super().__init__(params, base, rho, **options)

    def _passes(self, closure: Closure, again: Callable[[], None]) -> torch.Tensor:
        loss = closure()
        weights, g0 = self._taken()
        plus = self._above(weights, g0, closure, again)
        self._set(weights, gsam_gradient(self._shared(g0), plus, self._option("alpha", weights)))
        return loss
