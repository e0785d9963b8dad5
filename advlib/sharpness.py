"""How sharp a minimum is, by the measures that the thesis names beside the trace and the top eigenvalue of
`curvature` (sect. 1.2.4 and 5.2.3): eps-sharpness, PAC-Bayes, the Fisher-Rao norm, two entropies, and the Frobenius
norm and effective dimension of the Hessian.

    loss = mean_loss(model, data)
    epsilon_sharpness(loss, weights(model))     # the larger, the sharper

A loss is what it is in `curvature`, and all that is said there holds: parts, modes, the model and its weights handed
back as they were, bit for bit, a TypeError or ValueError for a loss or weights that are none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf, isfinite, log

import torch
from torch import nn

from . import curvature
from .core import checks
from .core.batchnorm import unrecorded_anywhere
from .core.checks import Labelled, Model
from .core.second_order import SecondOrder, graphs
from .curvature import (
    Estimate,
    Loss,
    Tensors,
    gradient,
    hvp,
    move,
    norm,
    quadrature,
    restored,
    signs,
    steady,
    trained,
    value,
)


def epsilon_sharpness(loss: Loss, weights: Tensors, eps: float = 1e-3, steps: int = 20, seed: int = 0) -> float:
    """The highest loss in the box |z_i| <= eps (|w_i| + 1) around the weights, less the loss L at them, over 1 + L
    (Keskar et al. 2017, metric 2.1 in full space, which is 100 times that; thesis sect. 1.2.4, [58]).

    The highest loss is the best that projected sign ascent meets in `steps` steps of 2.5 / steps of the box, from a
    random point of it that `seed` draws; the paper takes ten iterations of L-BFGS-B, and either is a lower bound.
    Raises ValueError also for a loss below 0, or one that is not finite or changes from call to call."""
    checks.number("eps", eps, above=0)
    checks.whole("steps", steps, 1)
    checks.whole("seed", seed)
    weights = trained(weights)
    generator, before = torch.Generator(weights[0].device).manual_seed(seed), [w.detach().clone() for w in weights]
    box = [eps * (w.abs() + 1) for w in before]
    z = [r * (2 * torch.rand(r.shape, generator=generator, device=r.device, dtype=r.dtype) - 1) for r in box]
    with restored(weights):
        start = highest = steady(loss)
        for step in range(steps + 1):
            move(weights, before, z)
            highest = torch.maximum(highest, value(loss))
            if step < steps:
                ascent = zip(z, box, gradient(loss, weights), strict=True)
                z = [torch.clamp(d + 2.5 / steps * r * g.sign(), -r, r) for d, r, g in ascent]
    if start < 0 or not isfinite(highest):
        raise ValueError(f"loss: expected finite values of at least 0, got {start:.3g} and up to {highest:.3g}")
    return ((highest - start) / (1 + start)).item()


def pac_bayes(
    loss: Loss,
    weights: Tensors,
    tolerance: float = 0.1,
    draws: int = 8,
    relative: bool = False,
    precision: float = 0.01,
    seed: int = 0,
) -> float:
    """The largest sigma with E L(w + u) - L(w) <= tolerance for normal u of standard deviation sigma; the measure of
    sharpness is 1 / sigma^2 (Jiang et al. 2020; thesis sect. 1.2.4, [59]).

    loss: that paper takes the share of errors, which needs no graph. draws: of u, each with its opposite, the same for
    all sigma; relative: sigma |w_i| is the standard deviation, the paper's magnitude-aware form, without the 1e-3 that
    it adds. Found by bisection, up to the share `precision`, where the rise crosses the tolerance; infinite for a loss
    that never rises so far. Raises ValueError also for a loss that is not finite or changes from call to call."""
    for name, number in (("tolerance", tolerance), ("precision", precision)):
        checks.number(name, number, above=0)
    checks.flag("relative", relative)

    def within(sigma: float) -> bool:
        return torch.stack(list(_around(loss, weights, sigma, draws, relative, seed))).mean().item() <= tolerance

    low = 0.01
    if within(low):
        while low < 1e12 and within(2 * low):
            low *= 2
    else:
        while low > 1e-12 and not within(low := low / 2):
            pass
    if not 1e-12 < low < 1e12:
        return 0.0 if low < 1 else inf
    high = 2 * low
    while high > (1 + precision) * low:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if within(middle) else (low, middle)
    return low


def local_entropy(loss: Loss, weights: Tensors, gamma: float, draws: int = 64, seed: int = 0) -> float:
    """log E exp(L(w) - L(w + u)) for normal u of variance 1 / gamma: the local entropy at the weights, less what it
    would be if the loss were L(w) all around them (Chaudhari et al. 2017; thesis sect. 1.2.4, [62]). The lower,
    the sharper.

    draws: of u, each with its opposite; the log of a mean over few of them is too low. The loss is to be the sum over
    the data where the scale of gamma is to be that of a prior's. Raises as `pac_bayes` does."""
    checks.number("gamma", gamma, above=0)
    rises = torch.stack(list(_around(loss, weights, gamma**-0.5, draws, False, seed)))
    return torch.logsumexp(-rises, 0).item() - log(len(rises))


def _around(
    loss: Loss, weights: Tensors, sigma: float, draws: int, relative: bool, seed: int
) -> Iterator[torch.Tensor]:
    """By how much the loss is higher at w + sigma u, and at w - sigma u, for each normal u."""
    checks.whole("draws", draws, 1)
    checks.whole("seed", seed)
    weights = trained(weights)
    generator, before = torch.Generator(weights[0].device).manual_seed(seed), [w.detach().clone() for w in weights]
    scales = [sigma * w.abs() if relative else torch.full_like(w, sigma) for w in before]
    start = steady(loss)
    if not isfinite(start):
        raise ValueError(f"loss: it is {start.item():.3g} at the weights")
    with restored(weights):
        for _ in range(draws):
            u = [r * torch.randn(r.shape, generator=generator, device=r.device, dtype=r.dtype) for r in scales]
            for delta in (u, torch._foreach_neg(u)):
                move(weights, before, delta)
                yield value(loss) - start


# --- of networks -----------------------------------------------------------------------------------------------------


def fisher_rao_norm(model: nn.Module, data: Labelled, batch_size: int = 500, labels: bool = False) -> float:
    """The square root of w'Fw, F being the Fisher information of the network's classes, E <w, gradient of log p>^2 over
    images of `data` and classes as the network draws them, or as they are labelled (Liang et al. 2019; thesis sect.
    1.2.4, [60]).

    It is exact: two backward passes give J w for the logits of an image, whose variance under the softmax is its share.
    For a network of ReLU without biases, of k layers, it is k times the root of the mean variance of the logits (their
    theorem 3.1). labels: the empirical Fisher information."""
    weights = curvature.weights(model)
    checks.flag("labels", labels)
    if not weights:
        raise ValueError("model: has no weights that are trained")

    def share(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        z = checks.logits(model(x), len(x))
        u = torch.zeros_like(z, requires_grad=True)
        back = torch.autograd.grad(z, weights, u, create_graph=True, materialize_grads=True)  # J'u, linear in u
        along = torch.autograd.grad(back, u, [w.detach() for w in weights])[0].double()  # so that this is J w
        p = z.detach().double().softmax(1)
        rise = along - (p * along).sum(1, keepdim=True)  # of log p
        return rise.gather(1, y[:, None]).square()[:, 0] if labels else (p * rise.square()).sum(1)

    return _mean(share, data, batch_size) ** 0.5


def output_entropy(model: Model, data: Labelled, batch_size: int = 500) -> float:
    """The mean entropy of the classes as the network draws them, in nats; a confident network has a low one (Pereyra et
    al. 2017; thesis sect. 1.2.4, [61])."""
    checks.network(model)

    def share(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.special.entr(checks.logits(model(x), len(x)).double().softmax(1)).sum(1)

    return _mean(share, data, batch_size)


@graphs()
def _mean(share: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], data: Labelled, batch_size: int) -> float:
    """Of (x, y) -> (N,) over all images."""
    checks.instance("data", data, Labelled, "Images, as datasets.load returns them")
    checks.whole("batch_size", batch_size, 1)
    if not len(data):
        raise ValueError("data: holds no image")
    with unrecorded_anywhere(), SecondOrder():
        total = torch.stack([share(batch.x, batch.y).detach().sum() for batch in data.batches(batch_size)]).sum()
    return total.item() / len(data)


# --- of the Hessian --------------------------------------------------------------------------------------------------


def frobenius_norm(loss: Loss, weights: Tensors, probes: int = 64, per_graph: int = 8, seed: int = 0) -> Estimate:
    """The root of the sum of squares of all entries of H, which is that of its squared eigenvalues (Wu et al. 2022;
    thesis sect. 1.2.4, [63, 64]): the root of the mean of ||Hv||^2 over Rademacher probes v, without bias before the
    root is taken; exact where H is diagonal.

    per_graph: probes, and products, in memory at once. The standard error is that of the mean over twice the root.
    Raises ValueError also for a curvature that is not finite, and a loss that changes from call to call."""
    for name, number in (("probes", probes), ("per_graph", per_graph)):
        checks.whole(name, number, 1)
    checks.whole("seed", seed)
    weights = trained(weights)
    generator, squares = torch.Generator(weights[0].device).manual_seed(seed), []
    steady(loss)
    for first in range(0, probes, per_graph):
        vectors = [[signs(w, generator) for w in weights] for _ in range(min(per_graph, probes - first))]
        squares += [norm(product).double().square() for product in hvp(loss, weights, vectors)]
    mean = _estimate(torch.stack(squares))
    root = mean.value**0.5
    return Estimate(root, mean.standard_error / (2 * root) if root else 0.0, probes)


def effective_dimension(
    loss: Loss, weights: Tensors, z: float = 1.0, probes: int = 8, steps: int = 50, seed: int = 0
) -> Estimate:
    """The sum of lambda / (lambda + z) over the eigenvalues of H: how many directions the data determine rather than a
    prior of precision z (Maddox et al. 2020; thesis sect. 1.2.4, [67]). Negative eigenvalues count 0, the reading that
    keeps it between 0 and the number of weights.

    By `curvature.quadrature`, whose arguments the others are; too few steps for a z far below the top eigenvalue, as 50
    for a hundredth of it, give a value that is too high. Of a loss that is the mean
    over n images, as `mean_loss` is, z is the precision over n. Raises as `quadrature` does."""
    checks.number("z", z, above=0)
    weights = trained(weights)
    found = quadrature(loss, weights, probes, steps, seed)
    means = torch.stack([(mass * node.clamp(min=0) / (node.clamp(min=0) + z)).sum() for node, mass in found])
    return _estimate(sum(w.numel() for w in weights) * means)


def _estimate(samples: torch.Tensor) -> Estimate:
    """The mean of (N,)."""
    mean, error = samples.mean().item(), samples.std().item() / len(samples) ** 0.5 if len(samples) > 1 else inf
    if not isfinite(mean):
        raise ValueError("loss: its curvature is not finite")
    return Estimate(mean, error, len(samples))
