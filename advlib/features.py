"""Intermediate-level attacks: what one layer shows of an image, and how far an attack can push it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from . import checks
from .attacks import attack
from .backward import only
from .draws import Draw
from .gradients import Gradient, cross_entropy, image_gradient
from .models import frozen


class _Stop(Exception):
    """Thrown by a layer that was reached: nothing behind it is needed."""


def features(model: nn.Module, layer: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Images to the output of one layer, (N, features), flattened; what comes behind the layer is not run.

    layer: its name, or the end of it. Raises as `backward.only` does, and ValueError when run if the model never calls
    the layer."""
    name = only(model, layer)
    module = model.get_submodule(name)

    def function(x: torch.Tensor) -> torch.Tensor:
        seen = []

        def stop(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            seen.append(_flat(output, layer))
            raise _Stop

        hook = module.register_forward_hook(stop)
        try:
            model(x.clone())  # a model may write into what it is given
        except _Stop:
            return seen[0]
        finally:
            hook.remove()
        raise ValueError(f"layer {layer!r}: {type(model).__name__} never calls it; name another")

    return function


def _flat(output: object, layer: str) -> torch.Tensor:
    """What a layer returned, (N, features). Raises TypeError for what is no tensor."""
    checks.instance(f"layer {layer!r}", output, torch.Tensor, "a layer that returns one tensor")
    return output.flatten(1)


def ila_plus_plus(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    eps: float = 16 / 255,
    *,
    layer: str,
    steps: int = 10,
    refine: int = 10,
    ridge: float = 1e10,
    seed: int = 0,
    index: torch.Tensor | None = None,
) -> torch.Tensor:
    """ILA++ (Li et al. 2020; Guo et al. 2022): I-FGSM from x, then again from x, now along the direction of features
    that a ridge regression gives: the features of the first run's iterates, less those of x, against their losses.

    layer: whose output is taken, as `backward.only` finds it; steps: of the first run, of eps / steps each; refine: of
    the second; ridge: its penalty; the authors' 1e10 makes the direction the sum of the differences, each times its
    loss. seed, index: as of `attacks.attack`, which raises what is wrong with the others. Returns adv, like x.
    Raises TypeError or ValueError for ridge <= 0, refine < 1 or an unknown layer.
    """
    checks.module(model)
    checks.number("ridge", ridge, above=0)
    checks.whole("refine", refine, 1)
    shown = features(model, layer)
    trail = []
    options = {"eps": eps, "seed": seed, "index": index}
    last = attack(x, y, _recorded(model, layer, trail), steps=steps, **options)
    with frozen([model]), torch.no_grad():
        start, *path = trail
        path.append(_features_and_loss(model, layer, last, y))
        differences = torch.stack([feature - start[0] for feature, _ in path], 1)
        w = guide(differences, torch.stack([loss for _, loss in path], 1), ridge)

    def along(z: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        return image_gradient(lambda image: (shown(image) * w).sum(), z)

    return attack(x, y, Gradient(along, (model,), 1), steps=refine, **options)


def guide(differences: torch.Tensor, losses: torch.Tensor, ridge: float) -> torch.Tensor:
    """The unit vectors w, (N, D), along the minimum of ||H w - r||^2 + ridge ||w||^2, image by image.

    differences: H, (N, T, D); losses: r, (N, T). Solved as H^T (H H^T + ridge I)^-1 r, T x T for an image; 0 where all
    differences are 0."""
    h = differences.float()
    gram = h @ h.transpose(1, 2)
    gram.diagonal(dim1=1, dim2=2).add_(ridge)
    weights = torch.linalg.solve(gram, losses.float())
    return nn.functional.normalize((weights[:, None] @ h)[:, 0], dim=1, eps=torch.finfo(torch.float32).tiny)


def _recorded(model: nn.Module, layer: str, trail: list) -> Gradient:
    """The cross-entropy gradient, which leaves (features, losses) of every point it is asked for in `trail`."""

    def function(z: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        def total(image: torch.Tensor) -> torch.Tensor:
            feature, loss = _features_and_loss(model, layer, image, y)
            trail.append((feature.detach(), loss.detach()))
            return loss.sum()

        return image_gradient(total, z)

    return Gradient(function, (model,), 1)


def _features_and_loss(
    model: nn.Module, layer: str, z: torch.Tensor, y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output of `layer`, (N, D), and the cross-entropy, (N,), of one pass."""
    seen = []
    hook = model.get_submodule(only(model, layer)).register_forward_hook(
        lambda module, inputs, output: seen.append(_flat(output, layer))
    )
    try:
        loss = cross_entropy(checks.logits(model(z.clone()), len(z)), y)
    finally:
        hook.remove()
    return seen[0], loss
