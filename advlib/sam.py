"""Sharpness-aware optimizers: SAM, Random SAM and CR-SAM (thesis chapter 5) around any optimizer of torch. Those that
cost less than SAM, and GSAM, are in `sam_family`.

    optimizer = CRSAM(net.parameters(), torch.optim.SGD, rho=0.1, alpha=0.1, beta=0.01, lr=0.1, momentum=0.9)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        return loss

    loss = optimizer.step(closure)

The closure runs two or three times a step, at different weights, which come back bit for bit, also after an error. The
statistics of BatchNorm see the first pass only. Gradients are cleared before each pass, whether the closure does it or
not. Nothing is read back from the device: a loss that is not finite makes weights that are not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from .core import checks
from .core.batchnorm import unrecorded, unrecorded_anywhere
from .curvature import Tensors, filter_normalized, norm, restored

Params = Iterable[Any]  # tensors, groups of them, or pairs of a name and a tensor, as torch takes them
Closure = Callable[..., torch.Tensor]  # without arguments, but for the one that `sam_family.ESAM` makes
Local = Callable[[], AbstractContextManager[object]]
_matching = checks.matching


# --- the arithmetic --------------------------------------------------------------------------------------------------


def sam_perturbation(weights: Tensors, gradients: Tensors, rho: Sequence[float], adaptive: bool = False) -> Tensors:
    """rho g / ||g||, the norm over all tensors together (thesis eq. 5.2); zero where all gradients are.

    rho: one for each tensor; adaptive: rho w^2 g / ||w g||, which no rescaling of the weights changes (ASAM, Kwon et
    al. 2021). Raises ValueError for lists of tensors that do not match."""
    _matching(weights=weights, gradients=gradients)
    if len(rho) != len(weights):
        raise ValueError(f"rho: expected a number for each of {len(weights)} tensors, got {len(rho)}")
    scaled = gradients if not adaptive else torch._foreach_mul(torch._foreach_abs(list(weights)), list(gradients))
    length = norm(scaled)
    step = torch._foreach_div(list(scaled), length.clamp(min=torch.finfo(length.dtype).tiny))
    if adaptive:
        torch._foreach_mul_(step, torch._foreach_abs(list(weights)))
    torch._foreach_mul_(step, list(rho))
    return step


def crsam_gradient(g0: Tensors, plus: Tensors, minus: Tensors, *, alpha: float, beta: float) -> Tensors:
    """CR-SAM without logarithms, by the two differences that thesis eq. 5.8 expands:

        g+ + alpha (g+ + g- - 2 g0) + beta (g+ - g-),

    of the gradients g0 at w, g+ at w + rho v and g- at w - rho v. The first bracket is the curvature's, zero on a
    quadratic loss, the second the slope's. Raises ValueError for lists of tensors that do not match."""
    _matching(g0=g0, plus=plus, minus=minus)
    # g+ + alpha (g+ + g- - 2 g0) + beta (g+ - g-), gathered by gradient: each is read once.
    return _sum((1 + alpha + beta, plus), (alpha - beta, minus), (-2 * alpha, g0))


def crsam_gradient_log(
    g0: Tensors, plus: Tensors, minus: Tensors, losses: Tensors, *, alpha: float, beta: float, floor: float = 1e-6
) -> tuple[Tensors, torch.Tensor]:
    """CR-SAM as printed (thesis eq. 5.9): the gradient of L+ + alpha log(L+ + L- - 2 L0) + beta log(L+ - L-).

        g+ + alpha (g+ + g- - 2 g0) / (L+ + L- - 2 L0) + beta (g+ - g-) / (L+ - L-).

    losses: L0, L+, L-. The first log is not defined where the curvature is not positive: below `floor` both are that of
    the floor, and have no gradient. Returns the gradient, and which of the two was below it, bool (2,). Raises
    ValueError for lists of tensors that do not match."""
    _matching(g0=g0, plus=plus, minus=minus)
    if len(losses) != 3:
        raise ValueError(f"losses: expected L0, L+ and L-, got {len(losses)}")
    l0, l_plus, l_minus = (loss.detach() for loss in losses)
    brackets = torch.stack([l_plus + l_minus - 2 * l0, l_plus - l_minus])
    below = brackets < floor
    over = torch.where(below, 0.0, brackets.clamp(min=floor).reciprocal())  # log' is 1 over its bracket
    alpha_, beta_ = alpha * over[0], beta * over[1]
    return _sum((1 + alpha_ + beta_, plus), (alpha_ - beta_, minus), (-2 * alpha_, g0)), below


def _sum(*terms: tuple[float | torch.Tensor, Tensors]) -> Tensors:
    """factor * tensors, added up over the terms in their order."""
    (factor, tensors), *others = terms
    total = torch._foreach_mul(list(tensors), factor)
    for factor, tensors in others:
        torch._foreach_add_(total, torch._foreach_mul(list(tensors), factor))
    return total


# --- the optimizers --------------------------------------------------------------------------------------------------


class SharpnessAware(torch.optim.Optimizer):
    """What they share: the optimizer `base`, with the same parameter groups and state, and passes at other weights.

    Options of a subclass (rho, ...) lie in the parameter groups beside those of the base, so that schedulers and
    `state_dict` know them. Clip gradients in a step pre-hook of `base`, which sees the final ones."""

    # What else of a subclass lies in the groups, as bases take a state of theirs for begun: numbers, the same in all,
    # with their first values; and the names of lists of tensors like the weights, zero at first.
    _numbers: dict[str, float] = {}
    _beside: tuple[str, ...] = ()

    def __init__(
        self,
        params: Params,
        base: Callable[..., torch.optim.Optimizer],
        own: dict[str, float],
        adaptive: bool,
        same_draws: bool,
        local: Local | None,
        model: nn.Module | None,
        options: dict[str, Any],
    ) -> None:
        """own: names and values of the subclass' options, numbers of at least 0; options: those of the base."""
        for name, value in (("adaptive", adaptive), ("same_draws", same_draws)):
            checks.flag(name, value)
        if local is not None and not callable(local):
            shown = checks.shown(local)
            raise TypeError(f"local: expected a function that makes a context, such as net.no_sync, got {shown}")
        if model is not None:
            checks.module(model)
        if not callable(base):
            raise TypeError(f"base: expected an optimizer's class, such as torch.optim.SGD, got {checks.shown(base)}")
        self._own = tuple(own)
        super().__init__(_parameters(params), own)
        self.adaptive, self.same_draws, self.local, self.model = adaptive, same_draws, local, model
        for name in ("lr", "weight_decay", "momentum"):
            one = isinstance(options.get(name), torch.Tensor) and options[name].numel() == 1  # torch takes such a lr
            if name in options and not one:
                checks.number(name, options[name], 0)
        self.base = _plain(base(self.param_groups, **options))
        self.defaults = {**self.base.defaults, **own}
        self._buffers: list[torch.Tensor] = []
        self._share()

    def _share(self) -> None:
        self.base.param_groups, self.base.state = self.param_groups, self.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As of any optimizer. Raises TypeError or ValueError for an option that is not a number of at least 0."""
        super().add_param_group(param_group)
        first, group = self.param_groups[0], self.param_groups[-1]
        for name in self._own:
            checks.number(name, group[name], 0)
        group |= {name: first.get(name, value) for name, value in self._numbers.items()}
        group |= {name: [torch.zeros_like(p) for p in group["params"]] for name in self._beside}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of any optimizer; the base goes on from it too. Raises ValueError for the state of another optimizer."""
        checks.instance("state_dict", state_dict, dict, "what state_dict() returned")
        names = (*self._own, *self._numbers, *self._beside)
        missing = {name for group in state_dict.get("param_groups", [{}]) for name in names if name not in group}
        if missing:
            kind = type(self).__name__
            raise ValueError(f"state_dict: has no {', '.join(sorted(missing))}; expected the state of a {kind}")
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(  # type: ignore[override]  # torch's can do without a closure
        self, closure: Closure, scaler: torch.amp.GradScaler | None = None
    ) -> torch.Tensor:
        """All passes, and a step of the base. Returns the loss of the first pass.

        closure: zero the gradients, forward, backward, return the loss; with a scaler the backward pass is that of the
        scaled loss, and `scaler.update()` is left to the caller. Raises TypeError for a closure that is no function or
        returns something else than a loss, ValueError where it leaves no gradient, or a sparse one."""
        loss = self.passes(closure)
        self.base.step() if scaler is None else scaler.step(self.base)
        return loss

    @torch.no_grad()
    def passes(self, closure: Closure) -> torch.Tensor:
        """Those of a step, without the step of the base: they leave the gradients to step along in the weights. Returns
        and raises what `SharpnessAware.step` does."""
        checks.function("closure", closure, "a function () -> loss, which calls loss.backward()", 0)
        again = _draws(self._all()) if self.same_draws else lambda: None
        for p in self._all():
            p.grad = None
        return self._passes(self._alone(torch.enable_grad()(closure)), again).detach()

    def _passes(self, closure: Closure, again: Callable[[], None]) -> torch.Tensor:
        """Run them, leave the gradient to step along, and return the first loss."""
        raise NotImplementedError

    def _alone(self, closure: Closure) -> Closure:
        """The closure in the context `local`."""

        def alone(*which: object) -> torch.Tensor:
            with self.local() if self.local else nullcontext():
                loss = closure(*which)
            if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
                raise TypeError(f"closure: expected it to return the loss, one number, got {checks.shown(loss)}")
            return loss

        return alone

    def _all(self) -> list[torch.Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _taken(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The weights with a gradient, and those gradients, which the next pass cannot write over any more."""
        weights = [p for p in self._all() if p.grad is not None]
        gradients = [p.grad for p in weights if p.grad is not None]
        if not weights:
            raise ValueError("closure: left no gradient in any parameter; expected it to call loss.backward()")
        if any(g.layout != torch.strided for g in gradients):
            raise ValueError("closure: left a sparse gradient; expected dense ones (sparse=False in an embedding)")
        for p in weights:
            p.grad = None
        return weights, gradients

    def _at(
        self, weights: Tensors, delta: Tensors, closure: Closure, again: Callable[[], None], sign: int = 1
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Loss and gradients at weights + sign delta, with the draws of the first pass if they are to be the same."""
        if [b.shape for b in self._buffers] != [w.shape for w in weights]:
            self._buffers = [torch.empty_like(w) for w in weights]
        quiet = unrecorded_anywhere() if self.model is None else unrecorded(self.model)
        with restored(weights, self._buffers), quiet:
            torch._foreach_add_(weights, delta, alpha=sign)
            again()
            loss = closure()
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in weights]
        for p in weights:
            p.grad = None
        return loss, found

    def _perturbation(self, weights: Tensors, gradients: Tensors) -> Tensors:
        return sam_perturbation(weights, gradients, self._option("rho", weights), self.adaptive)

    def _option(self, name: str, weights: Tensors) -> list[float]:
        """The option of the group of each of the weights."""
        value = {id(p): group[name] for group in self.param_groups for p in group["params"]}
        return [value[id(p)] for p in weights]

    def _kept(self, name: str, weights: Tensors) -> list[torch.Tensor]:
        """What lies beside each of the weights."""
        value = {id(p): k for group in self.param_groups for p, k in zip(group["params"], group[name], strict=True)}
        return [value[id(p)] for p in weights]

    def _keep(self, name: str, weights: Tensors, tensors: Tensors) -> None:
        """Lay these beside the weights, and zero beside all others."""
        new = {id(p): t for p, t in zip(weights, tensors, strict=True)}
        for p, kept in zip(self._all(), self._kept(name, self._all()), strict=True):
            kept.copy_(new[id(p)]) if id(p) in new else kept.zero_()

    def _note(self, **numbers: float) -> None:
        for group in self.param_groups:
            group |= numbers

    def _shared(self, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
        """The gradients of all processes."""
        return averaged(gradients) if self.local else gradients

    @staticmethod
    def _set(weights: Tensors, gradients: Tensors) -> None:
        for p, g in zip(weights, gradients, strict=True):
            p.grad = g


class SAM(SharpnessAware):
    """SAM (Foret et al. 2021; thesis eq. 5.1): it lowers the highest loss within rho of the weights, by the gradient at
    w + rho g / ||g||. Two passes.

    params, options: of `base`; rho: radius, of a parameter group if it has one; adaptive: ASAM; same_draws: dropout and
    whatever else draws from torch's generators draw the same in every pass. rho = 0 is the base.
    local: under DistributedDataParallel, `net.no_sync`: every process perturbs along the gradient of its own share of
    the batch, and they exchange gradients once a step; without it, along the averaged one.
    model: the network, if it is compiled: its statistics are put back after a pass at other weights. Without it, such
    passes run uncompiled, and those of whatever BatchNorm runs in them are left alone.
    Raises TypeError or ValueError for an argument of another kind, or a number below 0."""

    _more: dict[str, float] = {}  # options of a subclass that a parameter group may have, beside rho

    def __init__(
        self,
        params: Params,
        base: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        rho: float = 0.05,
        adaptive: bool = False,
        same_draws: bool = False,
        local: Local | None = None,
        model: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__(params, base, {"rho": rho, **self._more}, adaptive, same_draws, local, model, options)

    def _passes(self, closure: Closure, again: Callable[[], None]) -> torch.Tensor:
        loss = closure()
        weights, g0 = self._taken()
        self._set(weights, self._above(weights, g0, closure, again))
        return loss

    def _above(self, weights: Tensors, g0: Tensors, closure: Closure, again: Callable[[], None]) -> list[torch.Tensor]:
        """The gradients at the end of the ascent step, those of all processes."""
        _, gradients = self._at(weights, self._perturbation(weights, g0), closure, again)
        return self._shared(gradients)


class RandomSAM(SAM):
    """Random SAM (Liu et al. 2022; R-SAM of thesis Table 5.4): SAM's ascent step starts from a random perturbation of
    the weights, which stays in. Two passes, both at other weights: the loss that a step returns is that at the random
    ones.

    sigma: standard deviation of the perturbation, normal, relative to the length of the filter that a weight belongs to
    (`curvature.filter_normalized`); drawn from torch's generator, so seed all processes alike. The others: as of `SAM`,
    which sigma = 0 is. Raises as `SAM` does."""

    def __init__(
        self,
        params: Params,
        base: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        rho: float = 0.05,
        sigma: float = 0.01,
        **options: Any,
    ) -> None:
        checks.number("sigma", sigma, 0)
        super().__init__(params, base, rho, **options)
        self.sigma = sigma

    def _passes(self, closure: Closure, again: Callable[[], None]) -> torch.Tensor:
        everything = [p for p in self._all() if p.requires_grad]
        noise = self._noise(everything)
        with restored(everything):
            torch._foreach_add_(everything, noise)
            loss = closure()
        weights, g0 = self._taken()
        noise_of = {id(p): n for p, n in zip(everything, noise, strict=True)}
        delta = torch._foreach_add(self._perturbation(weights, g0), [noise_of[id(p)] for p in weights])

        def after_the_noise() -> None:
            if self.same_draws:
                again()
                self._noise(everything)

        _, gradients = self._at(weights, delta, closure, after_the_noise)
        self._set(weights, self._shared(gradients))
        return loss

    def _noise(self, weights: Tensors) -> Tensors:
        return torch._foreach_mul(filter_normalized(weights), self.sigma)


class CRSAM(SharpnessAware):
    """CR-SAM (thesis eq. 5.7, Alg. 4): SAM and a penalty on curvature and slope, `crsam_gradient` or, with form="log",
    `crsam_gradient_log`. Three passes.

    alpha, beta: weights of the penalty, of a parameter group if it has them; alpha = beta = 0 is SAM. form: "linear",
    which the constants of Table 5.1 fit, or "log", eq. 5.9 as printed; floored: how often each of its two logs was
    below the floor, (2,). The others: as of `SAM`.
    Under DistributedDataParallel keep `gradient_as_bucket_view=False`: views would be written over by the next pass.
    `training.SideBySideCRSAM` shares the passes between two processes. Raises as `SAM` does, and ValueError for an
    unknown form."""

    def __init__(
        self,
        params: Params,
        base: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        rho: float = 0.1,
        alpha: float = 0.1,
        beta: float = 0.01,
        form: str = "linear",
        adaptive: bool = False,
        same_draws: bool = False,
        local: Local | None = None,
        model: nn.Module | None = None,
        **options: Any,
    ) -> None:
        checks.choice("form", form, ("linear", "log"))
        own = {"rho": rho, "alpha": alpha, "beta": beta}
        super().__init__(params, base, own, adaptive, same_draws, local, model, options)
        self.form = form
        self.floored = torch.zeros(2, dtype=torch.int64, device=self._all()[0].device)

    def _passes(self, closure: Closure, again: Callable[[], None]) -> torch.Tensor:
        loss = closure()
        weights, g0 = self._taken()
        step = self._perturbation(weights, g0)
        above, plus = self._at(weights, step, closure, again)
        below, minus = self._at(weights, step, closure, again, -1)
        if self.local:
            loss, above, below, *rest = averaged([loss, above, below, *g0, *plus, *minus])
            g0, plus, minus = rest[: len(g0)], rest[len(g0) : -len(g0)], rest[-len(g0) :]
        self._leave(weights, (g0, plus, minus), (loss, above, below))
        return loss

    def _leave(self, weights: Tensors, gradients: Sequence[Tensors], losses: Tensors) -> None:
        """Leave the gradient to step along. gradients, losses: at w, w + rho v and w - rho v."""
        triples = {id(p): triple for p, *triple in zip(weights, *gradients, strict=True)}
        for group in self.param_groups:
            members = [p for p in group["params"] if id(p) in triples]
            if members:
                of_group = zip(*(triples[id(p)] for p in members), strict=True)
                self._set(members, self._combined(of_group, losses, group))

    def _combined(self, gradients: Iterable[Tensors], losses: Tensors, group: dict[str, Any]) -> Tensors:
        g0, plus, minus = gradients
        weights = {"alpha": group["alpha"], "beta": group["beta"]}
        if self.form == "linear":
            return crsam_gradient(g0, plus, minus, **weights)
        combined, below = crsam_gradient_log(g0, plus, minus, losses, **weights)
        self.floored += below
        return combined


def _parameters(params: Params) -> list[Any]:
    """Tensors, or groups of them, as a list. Raises TypeError or ValueError."""
    if isinstance(params, torch.Tensor | str | dict) or not isinstance(params, Iterable):
        shown = checks.shown(params)
        raise TypeError(f"params: expected tensors or groups of them, such as net.parameters(), got {shown}")
    params = list(params)
    if not params:
        raise ValueError("params: expected at least one tensor, got none")
    for member in params:
        # torch takes tensors, groups, and pairs of a name and a tensor.
        checks.instance("params", member, torch.Tensor | dict | tuple, "tensors or groups of them")
    return params


def _plain(base: object) -> torch.optim.Optimizer:
    """An optimizer that steps along the gradients it finds. Raises TypeError."""
    if not isinstance(base, torch.optim.Optimizer):
        raise TypeError(f"base: expected it to make an optimizer, got {checks.shown(base)}")
    needed = inspect.signature(base.step).parameters.get("closure")
    if needed is not None and needed.default is inspect.Parameter.empty:
        kind = type(base).__name__
        raise TypeError(f"base: {kind} needs a closure of its own; expected an optimizer that steps without one")
    return base


def averaged(tensors: Tensors) -> list[torch.Tensor]:
    """The means over all processes, in one exchange."""
    flat = torch.cat([t.detach().flatten() for t in tensors])
    dist.all_reduce(flat)
    parts = (flat / dist.get_world_size()).split([t.numel() for t in tensors])
    return [part.view_as(t).to(t.dtype) for part, t in zip(parts, tensors, strict=True)]


def _draws(weights: Tensors) -> Callable[[], None]:
    """A function that puts torch's generators, on the processor and on the devices of the weights, back to where they
    are now."""
    here = torch.get_rng_state()
    there = {device: torch.cuda.get_rng_state(device) for device in {w.device for w in weights if w.is_cuda}}

    def again() -> None:
        torch.set_rng_state(here)
        for device, state in there.items():
            torch.cuda.set_rng_state(state, device)

    return again
