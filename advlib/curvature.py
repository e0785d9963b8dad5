"""Curvature of a loss over the weights: Hessian-vector products, trace, top eigenvalue, normalised trace, how good one
ascent step is, and surfaces.

    loss = mean_loss(model, data)                    # over as many batches as it takes
    trace = hutchinson_trace(loss, weights(model))   # trace.value, trace.standard_error

A loss is a function without arguments that yields its *parts*, scalars with a graph that sum to it: one for a batch,
and for a larger data set one after the other, so that no more than one graph is in memory. All of it is in whatever
mode the model is in (eval mode makes the loss of an image a function of that image), on whatever device, in float32 or
float64, also within `no_grad` and `inference_mode`. The model is handed back as it was: BatchNorm in train mode
normalises by its batch and remembers nothing. What takes several calls of the loss refuses one that changes from call
to call, as with dropout.

Everything raises TypeError or ValueError, before any work where it can, for a loss that yields no scalars, or none with
a graph where it needs one, and for weights that are none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import torch
from torch import nn

from .core import checks
from .core.batchnorm import unrecorded_anywhere
from .core.checks import Labelled, Model
from .core.second_order import SecondOrder, graphs
from .gradients import cross_entropy

Tensors = list[torch.Tensor] | tuple[torch.Tensor, ...]
Loss = Callable[[], Iterable[torch.Tensor]]


@dataclass(frozen=True)
class Estimate:
    """A mean over random probes, with its standard error (infinite for one probe)."""

    value: float
    standard_error: float
    probes: int


@dataclass(frozen=True)
class Eigenvalue:
    """An approximate eigenvalue: there is an exact one within `residual` of it. converged: the residual is below the
    tolerance that was asked for; steps: Hessian-vector products taken."""

    value: float
    residual: float
    converged: bool
    steps: int


def weights(model: nn.Module) -> list[torch.Tensor]:
    """The parameters that are trained."""
    checks.instance("model", model, nn.Module, "an nn.Module")
    return [p for p in model.parameters() if p.requires_grad]


def mean_loss(model: Model, data: Labelled, batch_size: int = 500) -> Loss:
    """The mean cross-entropy over `data`, such as the `Images` of `datasets.load`, a part for each batch."""
    checks.network(model)
    checks.instance("data", data, Labelled, "Images, as datasets.load returns them")
    checks.whole("batch_size", batch_size, 1)
    if not len(data):
        raise ValueError("data: holds no image")
    highest = int(data.labels.max())

    def parts() -> Iterator[torch.Tensor]:
        for batch in data.batches(batch_size):
            logits = checks.logits(model(batch.x), len(batch))
            if highest >= logits.shape[1]:
                raise ValueError(f"data.labels: class {highest} is out of range for {logits.shape[1]} logits")
            yield cross_entropy(logits, batch.y).sum() / len(data)

    return parts


_LOSS = "a function without arguments that yields scalars, such as lambda: [loss]"


def _parts(loss: Loss, graph: bool = True) -> Iterator[torch.Tensor]:
    """The parts of a loss, as they should be; graph: each needs one."""
    checks.function("loss", loss, _LOSS, 0)
    parts = loss()
    if isinstance(parts, torch.Tensor) or not isinstance(parts, Iterable):
        raise TypeError(f"loss: expected {_LOSS}; it returned {checks.shown(parts)}")
    some = False
    for part in parts:
        if not isinstance(part, torch.Tensor) or part.numel() != 1:
            raise TypeError(f"loss: expected {_LOSS}; it yielded {checks.shown(part)}")
        if graph and not part.requires_grad:
            raise ValueError("loss: yielded a part without a graph; it does not depend on any weight that is trained")
        some = True
        yield part.reshape(())
    if not some:
        raise ValueError("loss: yielded no part")


def _tensors(name: str, tensors: object) -> list[torch.Tensor]:
    """Floating-point tensors, as a list that is not empty."""
    if isinstance(tensors, torch.Tensor | str | nn.Module) or not isinstance(tensors, Iterable):
        raise TypeError(f"{name}: expected a list of tensors, got {checks.shown(tensors)}")
    tensors = list(tensors)
    if not tensors:
        raise ValueError(f"{name}: expected at least one tensor")
    for t in tensors:
        if not isinstance(t, torch.Tensor) or not t.is_floating_point():
            raise TypeError(f"{name}: expected floating-point tensors, got {checks.shown(t)}")
    return tensors


def trained(weights: object) -> list[torch.Tensor]:
    """Weights that a loss can be differentiated by, as a list. Raises TypeError or ValueError for others."""
    weights = _tensors("weights", weights)
    if not all(w.requires_grad and w.is_leaf for w in weights):
        raise ValueError("weights: expected leaves that require a gradient, such as curvature.weights(model)")
    return weights


def _shaped(name: str, tensors: object, like: Tensors) -> list[torch.Tensor]:
    tensors, shapes = _tensors(name, tensors), [tuple(t.shape) for t in like]
    if [tuple(t.shape) for t in tensors] != shapes:
        raise ValueError(f"{name}: expected the shapes {shapes}, got {[tuple(t.shape) for t in tensors]}")
    return tensors


# --- derivatives -----------------------------------------------------------------------------------------------------


@graphs()
def value(loss: Loss) -> torch.Tensor:
    """The loss, without a graph, in float64. NaN where it is."""
    with torch.no_grad(), unrecorded_anywhere():
        return torch.stack([part.double() for part in _parts(loss, graph=False)]).sum()


def steady(loss: Loss) -> torch.Tensor:
    """`value`, of two calls. Raises ValueError where they do not agree, as with dropout."""
    first = value(loss)
    _same(first.float()[None], value(loss).float()[None])  # up to the rounding of a float32 loss
    return first


@graphs()
def gradient(loss: Loss, weights: Tensors) -> list[torch.Tensor]:
    """The gradient, shaped as the weights; zero for those that the loss does not depend on, NaN where it is."""
    weights = trained(weights)
    total = [torch.zeros_like(w) for w in weights]
    with unrecorded_anywhere():
        for part in _parts(loss):
            torch._foreach_add_(total, torch.autograd.grad(part, weights, materialize_grads=True))
    return total


@graphs()
def hvp(loss: Loss, weights: Tensors, vectors: Sequence[Tensors]) -> list[list[torch.Tensor]]:
    """H v for each of `vectors`, by double backward; all of them share one graph for each part of the loss.

    vectors: each shaped as the weights. Raises ValueError where one is not."""
    weights = trained(weights)
    checks.instance("vectors", vectors, Sequence, "a list of vectors, each shaped as the weights")
    return _Hessian(loss, weights)([_shaped("vectors", v, weights) for v in vectors])


class _Hessian:
    """Vectors to products with H. The graph of a loss in one part is kept for the next call, so the weights must stay
    as they are; one in several parts is called again, and may not have changed."""

    def __init__(self, loss: Loss, weights: Tensors) -> None:
        self.loss, self.weights = loss, list(weights)
        self._graph: Tensors | None = None
        self._values: torch.Tensor | None = None

    def __call__(self, vectors: Sequence[Tensors]) -> list[list[torch.Tensor]]:
        totals = [[torch.zeros_like(w) for w in self.weights] for _ in vectors]
        parts, newest = 0, self._graph
        with unrecorded_anywhere(), SecondOrder():
            for first in [self._graph] if self._graph else self._gradients():
                parts, newest = parts + 1, first
                for v, total in zip(vectors, totals, strict=True):
                    self._add(first, v, total)
        self._graph = newest if parts == 1 else None
        return totals

    def _gradients(self) -> Iterator[Tensors]:
        """The gradients of the parts, each with its graph."""
        values = []
        for part in _parts(self.loss):
            values.append(part.detach())
            yield torch.autograd.grad(part, self.weights, create_graph=True, materialize_grads=True)
        self._compare(values)

    def _add(self, first: Tensors, v: Tensors, total: Tensors) -> None:
        curved = [i for i, g in enumerate(first) if g.requires_grad]  # a loss may be linear in some
        if curved:
            along, direction = [first[i] for i in curved], [v[i] for i in curved]
            product = torch.autograd.grad(along, self.weights, direction, retain_graph=True, materialize_grads=True)
            torch._foreach_add_(total, product)

    def repeat(self) -> None:
        """Call a loss whose graph was kept once more. Raises ValueError if it is another one."""
        if self._graph is not None:
            with torch.no_grad(), unrecorded_anywhere(), SecondOrder():
                self._compare(list(_parts(self.loss, graph=False)))

    def _compare(self, values: list[torch.Tensor]) -> None:
        new = torch.stack(values)
        if self._values is None:
            self._values = new
        else:
            _same(self._values, new)


def _same(first: torch.Tensor, second: torch.Tensor) -> None:
    """Raise ValueError where two calls of a loss gave other values for its parts, by more than rounding."""
    small = torch.finfo(first.dtype).eps ** (2 / 3) * first.abs().sum()
    if len(first) != len(second) or (first - second).abs().sum() > small:
        values = f"{first.sum().item():.6g} and {second.sum().item():.6g}"
        raise ValueError(f"loss: two calls at the same weights gave {values}; put a model with dropout in eval mode")


def norm(tensors: Tensors) -> torch.Tensor:
    """The L2 norm over all of them together."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))


# --- summaries of the Hessian ----------------------------------------------------------------------------------------


@graphs()
def hutchinson_trace(
    loss: Loss,
    weights: Tensors,
    probes: int = 64,
    tolerance: float = 0.0,
    per_graph: int = 8,
    deflate: int = 10,
    seed: int = 0,
) -> Estimate:
    """Tr H: exactly on the span of a few Lanczos vectors, and on the rest the mean of v'Hv over Rademacher probes v.

    probes: at most; tolerance: stop as soon as the standard error is that share of the trace; per_graph: probes between
    two looks at it. deflate: Lanczos vectors, one product each, kept in memory. There is no bias either way; where few
    eigenvalues make up most of the trace, as in trained networks, taking them out of what is random shrinks the error
    several times. deflate = 0 is Hutchinson's estimator (1990), exact where H is diagonal. The deflation is that of
    Hutch++ (Meyer et al. 2021) with a Krylov space for the sketch.
    Raises ValueError also for a trace that is not finite, and a loss that changes from call to call.
    """
    for name, number, least in (("probes", probes, 1), ("per_graph", per_graph, 1), ("deflate", deflate, 0)):
        checks.whole(name, number, least)
    checks.number("tolerance", tolerance, 0)
    checks.whole("seed", seed)
    weights = trained(weights)
    hessian, generator = _Hessian(loss, weights), torch.Generator(weights[0].device).manual_seed(seed)
    lanczos = _Lanczos(hessian, generator)
    while len(lanczos.alpha) < deflate and not lanczos.exhausted:
        lanczos.step()
    exact, found = sum(lanczos.alpha), torch.empty(0, dtype=torch.float64)
    while len(found) < probes:
        vectors = [[signs(w, generator) for w in weights] for _ in range(min(per_graph, probes - len(found)))]
        vectors = [lanczos.rest(v) for v in vectors] if deflate else vectors
        new = [_dot(v, product) for v, product in zip(vectors, hessian(vectors), strict=True)]
        found = torch.cat([found, torch.stack(new).cpu()])
        mean = exact + found.mean().item()
        error = found.std().item() / len(found) ** 0.5 if len(found) > 1 else inf
        if not isfinite(mean):
            raise ValueError("loss: its trace is not finite")
        if error <= tolerance * abs(mean):
            break
    hessian.repeat()
    return Estimate(mean, error, len(found))


def signs(w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Rademacher numbers, 1 or -1 with the same probability, like w."""
    # Not randint_like, which draws in the order of memory: other signs in channels_last.
    return torch.randint(2, w.shape, generator=generator, device=w.device, dtype=w.dtype).mul_(2).sub_(1)


def _dot(a: Tensors, b: Tensors) -> torch.Tensor:
    products = [(x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)]
    return sum(products[1:], products[0])


def normalized_trace(loss: Loss, weights: Tensors, **options: Any) -> Estimate:
    """C(w) = Tr H / ||gradient|| (thesis eq. 5.5). options: of `hutchinson_trace`. Raises as that does, and ValueError
    where the gradient is 0, or not finite."""
    weights = trained(weights)
    length = norm(gradient(loss, weights)).item()
    if not 0 < length < inf:
        raise ValueError(f"loss: the length of its gradient is {length:g}, so that there is no trace over it")
    trace = hutchinson_trace(loss, weights, **options)
    return Estimate(trace.value / length, trace.standard_error / length, trace.probes)


@graphs()
def top_eigenvalue(loss: Loss, weights: Tensors, tolerance: float = 1e-3, steps: int = 50, seed: int = 0) -> Eigenvalue:
    """The largest eigenvalue of H, by Lanczos with full reorthogonalisation from a random vector.

    It stops when the residual is at most `tolerance` times the eigenvalue, or after `steps` products; all their vectors
    are kept. Raises ValueError also for a curvature that is not finite, and a loss that changes from call to call."""
    checks.whole("steps", steps, 1)
    checks.number("tolerance", tolerance, 0)
    checks.whole("seed", seed)
    weights = trained(weights)
    hessian = _Hessian(loss, weights)
    lanczos = _Lanczos(hessian, torch.Generator(weights[0].device).manual_seed(seed))
    while len(lanczos.alpha) < steps:
        lanczos.step()
        top, residual = lanczos.top()
        if residual <= tolerance * abs(top) or lanczos.exhausted:
            break
    hessian.repeat()
    return Eigenvalue(top, residual, residual <= tolerance * abs(top), len(lanczos.alpha))


@graphs()
def quadrature(
    loss: Loss, weights: Tensors, probes: int = 8, steps: int = 50, seed: int = 0
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Nodes and masses, both float64 (K,), for each of `probes` random unit vectors q: the sum of mass f(node) is q'
    f(H) q, whose mean over q is that of f over all eigenvalues (stochastic Lanczos quadrature, Ubaru et al. 2017).

    steps: Lanczos vectors for each q, one product each, at most; it is exact for a polynomial of degree 2 steps - 1,
    and for every f where no direction is left. Raises ValueError also for a curvature that is not finite, and a loss
    that changes from call to call."""
    for name, number in (("probes", probes), ("steps", steps)):
        checks.whole(name, number, 1)
    checks.whole("seed", seed)
    weights, found = trained(weights), []
    hessian, generator = _Hessian(loss, weights), torch.Generator(weights[0].device).manual_seed(seed)
    for _ in range(probes):
        lanczos = _Lanczos(hessian, generator)
        while len(lanczos.alpha) < steps and not lanczos.exhausted:
            lanczos.step()
        nodes, vectors = lanczos.eigh()
        found.append((nodes, vectors[0].square()))
    hessian.repeat()
    return found


class _Lanczos:
    """Lanczos with full reorthogonalisation from a random vector: orthonormal q_1, q_2, ... in which H is tridiagonal,
    `alpha` on its diagonal and `beta` beside it."""

    def __init__(self, hessian: _Hessian, generator: torch.Generator) -> None:
        self.hessian = hessian
        self.alpha: list[float] = []
        self.beta: list[float] = []
        drawn = [torch.randn(w.shape, generator=generator, device=w.device, dtype=w.dtype) for w in hessian.weights]
        self._next = torch.cat([t.flatten() for t in drawn])
        self._next /= self._next.norm()
        self._basis = self._next.new_empty(0, self._next.numel())

    @property
    def exhausted(self) -> bool:
        """The vectors so far span all that H makes of the first one, up to rounding."""
        small = 100 * torch.finfo(self._next.dtype).eps * max(map(abs, self.alpha), default=0.0)
        return len(self._basis) == self._basis.shape[1] or (self.beta != [] and self.beta[-1] <= small)

    def step(self) -> None:
        """Another vector, for one product."""
        self._basis = torch.cat([self._basis, self._next[None]])
        (product,) = self.hessian([_unflatten(self._next, self.hessian.weights)])
        rest = torch.cat([t.flatten() for t in product])
        self.alpha.append(rest.dot(self._next).item())
        if not isfinite(self.alpha[-1]):
            raise ValueError("loss: its curvature is not finite")
        rest = self._without(rest)
        self.beta.append(rest.norm().item())
        self._next = rest / (self.beta[-1] or 1)

    def eigh(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The eigenvalues of the tridiagonal matrix, (K,), from the lowest, and its eigenvectors, the columns of (K,
        K)."""
        off = torch.tensor(self.beta[:-1], dtype=torch.float64)
        small = torch.diag(torch.tensor(self.alpha, dtype=torch.float64)) + torch.diag(off, 1) + torch.diag(off, -1)
        return torch.linalg.eigh(small)

    def top(self) -> tuple[float, float]:
        """The largest eigenvalue of the tridiagonal matrix, and its residual."""
        found, vectors = self.eigh()
        return found[-1].item(), self.beta[-1] * abs(vectors[-1, -1].item())

    def rest(self, v: Tensors) -> list[torch.Tensor]:
        """v without its part in the span of the vectors so far."""
        return _unflatten(self._without(torch.cat([t.flatten() for t in v])), self.hessian.weights)

    def _without(self, v: torch.Tensor) -> torch.Tensor:
        for _ in range(2):  # once is not enough in floating point
            v = v - self._basis.T @ (self._basis @ v)
        return v


def _unflatten(flat: torch.Tensor, like: Tensors) -> list[torch.Tensor]:
    return [part.view_as(w) for part, w in zip(flat.split([w.numel() for w in like]), like, strict=True)]


# --- around the weights ----------------------------------------------------------------------------------------------


@contextmanager
def restored(weights: Tensors, before: Tensors | None = None) -> Iterator[None]:
    """Whatever is done to the weights inside is undone bit for bit, also after an error. before: where to keep them."""
    before = [torch.empty_like(w) for w in weights] if before is None else before
    with torch.no_grad():
        torch._foreach_copy_(before, list(weights))
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(weights), before)


@dataclass(frozen=True)
class Ratio:
    """Of pairs (what one step gains, what many gain): the ratio of the means, which is the one to report, and the mean
    of the ratios, which single pairs with next to no gain dominate, NaN if one gains nothing. n: pairs."""

    of_means: float
    mean_of_ratios: float
    n: int


@graphs()
def approximation_ratio(losses: Iterable[Loss], weights: Tensors, rho: float = 0.05, steps: int = 20) -> Ratio:
    """AR: how much of the highest loss within rho of the weights the one ascent step of SAM finds (thesis eq. 5.3),
    over `losses`, one for each batch, as SAM sees them.

    The highest loss is the best that projected ascent in `steps` steps of 2.5 rho / steps meets, the one-step point
    among them, so that no ratio is above 1. Raises ValueError also for no loss, one that changes from call to call, and
    where nothing is gained on any, as where all gradients are 0.
    """
    checks.number("rho", rho, above=0)
    checks.whole("steps", steps, 1)
    checks.instance("losses", losses, Iterable, "losses, one for each batch")
    weights = trained(weights)
    gains = [_gains(loss, weights, rho, steps) for loss in losses]
    if not gains:
        raise ValueError("losses: expected at least one")
    one, best = torch.tensor(gains, dtype=torch.float64).T
    if not 0 < best.sum().item() < inf:
        mean = best.mean().item()
        raise ValueError(f"losses: the highest within rho={rho} of the weights is {mean:.3g} above the one at them")
    return Ratio((one.sum() / best.sum()).item(), (one / best).mean().item(), len(gains))


def _gains(loss: Loss, weights: Tensors, rho: float, steps: int) -> tuple[float, float]:
    """What one step of length rho gains, and the best of many within it."""
    before, delta = [w.detach().clone() for w in weights], [torch.zeros_like(w) for w in weights]
    with restored(weights):
        start = steady(loss)
        move(weights, before, _ascent(loss, weights, rho))
        one = best = value(loss)
        for _ in range(steps):
            move(weights, before, delta)
            torch._foreach_add_(delta, _ascent(loss, weights, 2.5 * rho / steps))
            torch._foreach_mul_(delta, (rho / norm(delta)).clamp(max=1))
            move(weights, before, delta)
            best = torch.maximum(best, value(loss))
    return (one - start).item(), (best - start).item()


def _ascent(loss: Loss, weights: Tensors, length: float) -> Tensors:
    """That long along the gradient; zero where it is."""
    g = gradient(loss, weights)
    return torch._foreach_mul(g, length / norm(g).clamp(min=torch.finfo(g[0].dtype).tiny))


@torch.no_grad()
def move(weights: Tensors, before: Tensors, delta: Tensors) -> None:
    """Set the weights to before + delta; `restored` takes them back."""
    torch._foreach_copy_(list(weights), torch._foreach_add(before, delta))


def filter_normalized(weights: Tensors, seed: int | None = None) -> list[torch.Tensor]:
    """A random direction whose filters (slices along the first dimension) are as long as those of the weights; zero for
    biases and normalisation, which have one dimension (Li et al. 2018). seed: None draws from torch's generator."""
    weights = _tensors("weights", weights)
    if seed is not None:
        checks.whole("seed", seed)
    generator = None if seed is None else torch.Generator(weights[0].device).manual_seed(seed)
    directions = []
    for w in weights:
        d = torch.randn(w.shape, generator=generator, device=w.device, dtype=w.dtype)
        if w.dim() < 2:
            directions.append(torch.zeros_like(d))
            continue
        wanted, found = (t.detach().flatten(1).norm(dim=1) for t in (w, d))
        scale = wanted / found.clamp(min=torch.finfo(w.dtype).tiny)
        directions.append(d * scale.view(-1, *[1] * (w.dim() - 1)))
    return directions


@graphs()
def loss_surface(loss: Loss, tensors: Tensors, across: Tensors, ahead: Tensors, axis: torch.Tensor) -> torch.Tensor:
    """The loss at tensors + axis[i] across + axis[j] ahead, (len(axis), len(axis)); the tensors, weights or an input
    that `loss` reads, are moved and put back."""
    tensors = _tensors("tensors", tensors)
    across, ahead = _shaped("across", across, tensors), _shaped("ahead", ahead, tensors)
    checks.instance("axis", axis, torch.Tensor, "a tensor of shape (K,)")
    if axis.dim() != 1 or not axis.isfinite().all():
        raise ValueError(f"axis: expected finite numbers in a tensor of shape (K,), got {checks.shown(axis)}")
    rows = torch.empty(len(axis), len(axis), dtype=torch.float64)
    with restored(tensors):
        before = [t.detach().clone() for t in tensors]
        for i, up in enumerate(axis.tolist()):
            for j, along in enumerate(axis.tolist()):
                delta = [up * a + along * b for a, b in zip(across, ahead, strict=True)]
                move(tensors, before, delta)
                rows[i, j] = value(loss)
    return rows
