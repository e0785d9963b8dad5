"""Substitutes: many networks of one that is trained, for an attack that takes another one in each step (`attacks.lgv`).

networks = collect(f, train, val)                               LGV: along a fine-tuning at a high learning rate
networks = posterior(f, train, val).samples(10, seed=0)         a Gaussian around the mean of a flat fine-tuning
adv = al.attacks.lgv(networks, x, y)
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from ..core import checks
from ..sam import SAM, Closure, Params
from ..zoo.datasets import Images
from .fitting import fit
from .recipes import Recipe

LGV = Recipe(epochs=10, batch_size=256, lr=0.05, weight_decay=1e-4, schedule="constant")
"""How `collect` trains: the constants of Gubri et al. 2022 for ImageNet, SGD with momentum 0.9."""


def collect(
    model: nn.Module,
    train: Images,
    val: Images,
    per_epoch: int = 4,
    report: Callable[[dict], None] = lambda row: None,
    **changes: object,
) -> list[nn.Module]:
    """LGV's networks: copies of `model` along a fine-tuning at a constant high learning rate, `per_epoch` of them an
    epoch, 40 by default (Gubri et al. 2022; thesis sect. 1.2.3, [56]). `model` itself is not trained.

    The last one is the network at the end of `fit`. Each is in eval mode and has the BatchNorm statistics that training
    had then, as in the published code. changes: fields of the recipe `LGV` (epochs, lr, seed, ...); report: of `fit`,
    which raises what is wrong with them; ValueError for fewer steps in an epoch than networks.
    """
    checks.module(model)
    checks.whole("per_epoch", per_epoch, 1)
    network, recipe = deepcopy(model), replace(LGV, **changes)
    found: list[nn.Module] = []
    steps = _steps(train, recipe)
    if len(train) and steps < per_epoch:
        raise ValueError(f"per_epoch={per_epoch}: an epoch has {steps} steps of {recipe.batch_size} images")

    def keep(done: int) -> None:
        if done * per_epoch // steps > (done - 1) * per_epoch // steps:
            found.append(_still(network))

    fit(network, train, val, recipe, report=report, after_step=keep)
    return found


def _steps(train: object, recipe: Recipe) -> int:
    """Of an epoch."""
    checks.instance("train", train, Images, "Images, as datasets.load returns them")
    assert isinstance(train, Images)
    return len(train) // recipe.batch_size


def _still(network: nn.Module) -> nn.Module:
    """A copy in eval mode."""
    return deepcopy(network).eval()


# --- a posterior -----------------------------------------------------------------------------------------------------


class FlatMinimum(SAM):
    """The objective of Li et al. 2023: loss + weight ||gradient||, by the gradient g + weight / rho (g+ - g), g at the
    weights w and g+ at w + rho g / ||g||. Two passes. weight = rho is `SAM`, weight = 0 the base.

    The others: as of `SAM`, which raises as this does, also for weight < 0 or rho = 0."""

    def __init__(
        self,
        params: Params,
        base: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        rho: float = 0.1,
        weight: float = 1.0,
        **options: object,
    ) -> None:
        checks.number("rho", rho, above=0)
        checks.number("weight", weight, 0)
        self.weight = weight
        super().__init__(params, base, rho, **options)

    def _passes(self, closure: Closure, again: Callable[[], None]) -> torch.Tensor:
        loss = closure()
        weights, g0 = self._taken()
        share = self.weight / self.param_groups[0]["rho"]
        for p, g, above in zip(weights, g0, self._above(weights, g0, closure, again), strict=True):
            p.grad = torch.lerp(g, above, share)
        return loss


BAYESIAN = Recipe(epochs=10, batch_size=1024, lr=0.05, weight_decay=5e-4, schedule="constant", wrapper=FlatMinimum)
"""How `posterior` trains: the constants of the published code of Li et al. 2023 for ImageNet."""


@dataclass(frozen=True)
class Posterior:
    """A Gaussian over the weights of a network, each weight by itself. mean: the network at the mean; variances: of its
    parameters, in their order."""

    mean: nn.Module
    variances: list[torch.Tensor]

    def samples(self, n: int, seed: int = 0, scale: float = 1.5, isotropic: float = 0.0) -> list[nn.Module]:
        """n networks with weights mean + scale * sqrt(variance + isotropic) * normal numbers (Maddox et al. 2019, the
        diagonal part of SWAG).

        scale, isotropic: of the published code of Li et al. 2023; scale = 0 is the mean. The BatchNorm statistics are
        those of the mean, as there. Raises TypeError or ValueError for n < 1, or a scale or variance below 0."""
        checks.whole("n", n, 1)
        checks.whole("seed", seed)
        checks.number("scale", scale, 0)
        checks.number("isotropic", isotropic, 0)
        generator = torch.Generator().manual_seed(seed)
        return [self._sample(generator, scale, isotropic) for _ in range(n)]

    @torch.no_grad()
    def _sample(self, generator: torch.Generator, scale: float, isotropic: float) -> nn.Module:
        network = _still(self.mean)
        for p, variance in zip(network.parameters(), self.variances, strict=True):
            normal = torch.randn(p.shape, generator=generator).to(p)
            p.add_((variance + isotropic).sqrt() * normal, alpha=scale)
        return network


def posterior(
    model: nn.Module,
    train: Images,
    val: Images,
    moments: int = 300,
    report: Callable[[dict], None] = lambda row: None,
    **changes: object,
) -> Posterior:
    """Mean and variance of the weights of `model` along a fine-tuning toward a flat minimum, at `moments` of its steps
    (Li et al. 2023; thesis sect. 1.2.3, [57]). `model` itself is not trained.

    The paper attacks with `attacks.lgv` on `samples(steps)`, a new network in each step; it adds noise to the images in
    its derivation, which is `gradients.neighbours` around a gradient. The BatchNorm statistics of the mean are measured
    anew on a tenth of the training images, or a batch if that is more; here they are not augmented. changes: fields of
    the recipe `BAYESIAN` (epochs, batch_size, seed, ...); report: of `fit`, which raises what is wrong with them.
    """
    checks.module(model)
    checks.whole("moments", moments, 1)
    network, recipe = deepcopy(model), replace(BAYESIAN, **changes)
    every = max(1, _steps(train, recipe) * recipe.epochs // moments)
    mean = [torch.zeros_like(p) for p in network.parameters()]
    square, n = [torch.zeros_like(p) for p in mean], 0

    @torch.no_grad()
    def meet(done: int) -> None:
        nonlocal n
        if (done - 1) % every:
            return
        n += 1
        for p, m, s in zip(network.parameters(), mean, square, strict=True):
            away = p - m  # Welford: no small difference of large squares
            m.add_(away, alpha=1 / n)
            s.add_(away * (p - m))

    fit(network, train, val, recipe, report=report, after_step=meet)
    with torch.no_grad():
        for p, m in zip(network.parameters(), mean, strict=True):
            p.copy_(m)
    _measure_statistics(network, train, recipe.batch_size)
    return Posterior(_still(network), [s / n for s in square])


def _measure_statistics(network: nn.Module, train: Images, batch_size: int) -> None:
    device = next(network.parameters()).device
    some = train[: max(batch_size, len(train) // 10)].to(device)
    update_bn((batch.x for batch in some.batches(batch_size)), network)
