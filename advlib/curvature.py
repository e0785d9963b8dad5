"""Curvature of a loss over the weights: Hessian-vector products, trace, top eigenvalue, normalised trace, how good one
ascent step is, and surfaces.

    loss = mean_loss(model, data)                    # over as many batches as it takes
    trace = hutchinson_trace(loss, weights(model))   # trace.value, trace.standard_error

A loss is a function without arguments that yields its *parts*, scalars with a graph that sum to it: one for a batch,
and for a larger data set one after the other, so that no more than one graph is in memory. All of it is in whatever
mode the model is in (eval mode makes the loss of an image a function of that image), on whatever device, in float32 or
float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf

import torch
from torch import nn

from .datasets import Images
from .gradients import cross_entropy
from .models import Model
from .second_order import SecondOrder

Tensors = Sequence[torch.Tensor]
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
    return [p for p in model.parameters() if p.requires_grad]


def mean_loss(model: Model, data: Images, batch_size: int = 500) -> Loss:
    """The mean cross-entropy over `data`, a part for each batch."""

    def parts() -> Iterator[torch.Tensor]:
        for batch in data.batches(batch_size):
            yield cross_entropy(model(batch.x), batch.y).sum() / len(data)

    return parts


# --- derivatives -----------------------------------------------------------------------------------------------------


def value(loss: Loss) -> torch.Tensor:
    """The loss, without a graph, in float64."""
    with torch.no_grad():
        return torch.stack([part.double() for part in loss()]).sum()


def gradient(loss: Loss, weights: Tensors) -> list[torch.Tensor]:
    """The gradient, shaped as the weights; zero for those that the loss does not depend on."""
    total = [torch.zeros_like(w) for w in weights]
    for part in loss():
        torch._foreach_add_(total, torch.autograd.grad(part, weights, materialize_grads=True))
    return total


def hvp(loss: Loss, weights: Tensors, vectors: Sequence[Tensors]) -> list[list[torch.Tensor]]:
    """H v for each of `vectors`, by double backward; all of them share one graph for each part of the loss.

    vectors: each shaped as the weights. Raises ValueError where one is not."""
    return _Hessian(loss, weights)(vectors)


class _Hessian:
    """Vectors to products with H. The graph of a loss in one part is kept for the next call, so the weights must stay
    as they are."""

    def __init__(self, loss: Loss, weights: Tensors) -> None:
        self.loss, self.weights = loss, list(weights)
        self._graph: list[torch.Tensor] | None = None

    def __call__(self, vectors: Sequence[Tensors]) -> list[list[torch.Tensor]]:
        shapes = [w.shape for w in self.weights]
        if any([t.shape for t in v] != shapes for v in vectors):
            raise ValueError(f"vectors: expected the shapes of the weights, {[tuple(s) for s in shapes]}")
        totals = [[torch.zeros_like(w) for w in self.weights] for _ in vectors]
        graphs, parts = [self._graph] if self._graph else self._graphs(), 0
        with SecondOrder():
            for parts, first in enumerate(graphs, 1):  # noqa: B007
                for v, total in zip(vectors, totals, strict=True):
                    self._add(first, v, total)
        self._graph = first if parts == 1 else None
        return totals

    def _graphs(self) -> Iterator[list[torch.Tensor]]:
        """The gradients of the parts, each with its graph."""
        for part in self.loss():
            yield torch.autograd.grad(part, self.weights, create_graph=True, materialize_grads=True)

    def _add(self, first: Tensors, v: Tensors, total: Tensors) -> None:
        curved = [i for i, g in enumerate(first) if g.requires_grad]  # a loss may be linear in some
        if curved:
            along = sum((first[i] * v[i]).sum() for i in curved)
            product = torch.autograd.grad(along, self.weights, retain_graph=True, materialize_grads=True)
            torch._foreach_add_(total, product)


def norm(tensors: Tensors) -> torch.Tensor:
    """The L2 norm over all of them together."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))


# --- summaries of the Hessian ----------------------------------------------------------------------------------------


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
    Raises ValueError for probes < 1, per_graph < 1, tolerance < 0 or deflate < 0.
    """
    if probes < 1 or per_graph < 1 or tolerance < 0 or deflate < 0:
        raise ValueError(
            f"probes={probes}, per_graph={per_graph}, tolerance={tolerance}, deflate={deflate}: "
            "expected at least 1, 1, 0 and 0"
        )
    hessian, generator = _Hessian(loss, weights), torch.Generator(weights[0].device).manual_seed(seed)
    lanczos = _Lanczos(hessian, generator)
    while len(lanczos.alpha) < deflate and not lanczos.exhausted:
        lanczos.step()
    exact, found = sum(lanczos.alpha), torch.empty(0, dtype=torch.float64)
    while len(found) < probes:
        vectors = [[_signs(w, generator) for w in weights] for _ in range(min(per_graph, probes - len(found)))]
        vectors = [lanczos.rest(v) for v in vectors] if deflate else vectors
        new = [_dot(v, product) for v, product in zip(vectors, hessian(vectors), strict=True)]
        found = torch.cat([found, torch.stack(new).cpu()])
        mean = exact + found.mean().item()
        error = found.std().item() / len(found) ** 0.5 if len(found) > 1 else inf
        if error <= tolerance * abs(mean):
            break
    return Estimate(mean, error, len(found))


def _signs(w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randint_like(w, 2, generator=generator).mul_(2).sub_(1)


def _dot(a: Tensors, b: Tensors) -> torch.Tensor:
    return sum((x.double() * y.double()).sum() for x, y in zip(a, b, strict=True))


def normalized_trace(loss: Loss, weights: Tensors, **options: object) -> Estimate:
    """C(w) = Tr H / ||gradient|| (thesis eq. 5.5). options: of `hutchinson_trace`."""
    trace, length = hutchinson_trace(loss, weights, **options), norm(gradient(loss, weights)).item()
    return Estimate(trace.value / length, trace.standard_error / length, trace.probes)


def top_eigenvalue(loss: Loss, weights: Tensors, tolerance: float = 1e-3, steps: int = 50, seed: int = 0) -> Eigenvalue:
    """The largest eigenvalue of H, by Lanczos with full reorthogonalisation from a random vector.

    It stops when the residual is at most `tolerance` times the eigenvalue, or after `steps` products; all their vectors
    are kept. Raises ValueError for steps < 1."""
    if steps < 1:
        raise ValueError(f"steps={steps}: expected at least 1")
    lanczos = _Lanczos(_Hessian(loss, weights), torch.Generator(weights[0].device).manual_seed(seed))
    while len(lanczos.alpha) < steps:
        lanczos.step()
        top, residual = lanczos.top()
        if residual <= tolerance * abs(top) or lanczos.exhausted:
            break
    return Eigenvalue(top, residual, residual <= tolerance * abs(top), len(lanczos.alpha))


class _Lanczos:
    """Lanczos with full reorthogonalisation from a random vector: orthonormal q_1, q_2, ... in which H is tridiagonal,
    `alpha` on its diagonal and `beta` beside it."""

    def __init__(self, hessian: _Hessian, generator: torch.Generator) -> None:
        self.hessian, self.alpha, self.beta = hessian, [], []
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
        rest = self._without(rest)
        self.beta.append(rest.norm().item())
        self._next = rest / (self.beta[-1] or 1)

    def top(self) -> tuple[float, float]:
        """The largest eigenvalue of the tridiagonal matrix, and its residual."""
        off = torch.tensor(self.beta[:-1], dtype=torch.float64)
        small = torch.diag(torch.tensor(self.alpha, dtype=torch.float64)) + torch.diag(off, 1) + torch.diag(off, -1)
        found, vectors = torch.linalg.eigh(small)
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
    of the ratios, which single pairs with next to no gain dominate. n: pairs."""

    of_means: float
    mean_of_ratios: float
    n: int


def approximation_ratio(losses: Iterable[Loss], weights: Tensors, rho: float = 0.05, steps: int = 20) -> Ratio:
    """AR: how much of the highest loss within rho of the weights the one ascent step of SAM finds (thesis eq. 5.3),
    over `losses`, one for each batch, as SAM sees them.

    The highest loss is the best that projected ascent in `steps` steps of 2.5 rho / steps meets, the one-step point
    among them, so that no ratio is above 1. Raises ValueError for rho <= 0, steps < 1 or no loss.
    """
    if rho <= 0 or steps < 1:
        raise ValueError(f"rho={rho}, steps={steps}: expected more than 0, and at least 1")
    gains = [_gains(loss, weights, rho, steps) for loss in losses]
    if not gains:
        raise ValueError("losses: expected at least one")
    one, best = torch.tensor(gains, dtype=torch.float64).T
    return Ratio((one.sum() / best.sum()).item(), (one / best).mean().item(), len(gains))


def _gains(loss: Loss, weights: Tensors, rho: float, steps: int) -> tuple[float, float]:
    """What one step of length rho gains, and the best of many within it."""
    before, delta = [w.detach().clone() for w in weights], [torch.zeros_like(w) for w in weights]
    with restored(weights):
        start = value(loss)
        _move(weights, before, _ascent(loss, weights, rho))
        one = best = value(loss)
        for _ in range(steps):
            _move(weights, before, delta)
            torch._foreach_add_(delta, _ascent(loss, weights, 2.5 * rho / steps))
            torch._foreach_mul_(delta, (rho / norm(delta)).clamp(max=1))
            _move(weights, before, delta)
            best = torch.maximum(best, value(loss))
    return (one - start).item(), (best - start).item()


def _ascent(loss: Loss, weights: Tensors, length: float) -> list[torch.Tensor]:
    """That long along the gradient; zero where it is."""
    g = gradient(loss, weights)
    return torch._foreach_mul(g, length / norm(g).clamp(min=torch.finfo(g[0].dtype).tiny))


@torch.no_grad()
def _move(weights: Tensors, before: Tensors, delta: Tensors) -> None:
    """Set the weights to before + delta."""
    torch._foreach_copy_(list(weights), torch._foreach_add(before, delta))


def filter_normalized(weights: Tensors, seed: int | None = None) -> list[torch.Tensor]:
    """A random direction whose filters (slices along the first dimension) are as long as those of the weights; zero for
    biases and normalisation, which have one dimension (Li et al. 2018). seed: None draws from torch's generator."""
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


def loss_surface(loss: Loss, tensors: Tensors, across: Tensors, ahead: Tensors, axis: torch.Tensor) -> torch.Tensor:
    """The loss at tensors + axis[i] across + axis[j] ahead, (len(axis), len(axis)); the tensors, weights or an input
    that `loss` reads, are moved and put back."""
    rows = torch.empty(len(axis), len(axis), dtype=torch.float64)
    with restored(tensors):
        before = [t.detach().clone() for t in tensors]
        for i, up in enumerate(axis.tolist()):
            for j, along in enumerate(axis.tolist()):
                delta = [up * a + along * b for a, b in zip(across, ahead, strict=True)]
                _move(tensors, before, delta)
                rows[i, j] = value(loss)
    return rows
