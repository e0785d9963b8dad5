"""Attacks whose loss lies inside the network: on the features of a layer, or on what the network attends to.

    g = activation(f, "layer3", toward)              AA: the distance to the features of other images
    g = attention(f, "layer3", x, y)                 ATA: cross-entropy, and how far the attention map is from that of x
    g = relevance(f)                                 AoA: the heat map of the class against that of the second one

Each makes a gradient function, which `attack` and what wraps gradients take as any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .core import checks
from .core.checks import Model
from .core.draws import Draw
from .core.facts import together
from .core.second_order import SecondOrder
from .core.surrogate import drawn, frozen
from .gradients import Gradient, Transform, cross_entropy, of_losses
from .layers import features, named, seen

Transforms = Transform | Sequence[Transform] | None


def activation(
    model: nn.Module, layer: str, images: torch.Tensor, transform: Transforms = None, chunk: int | str = "auto"
) -> Gradient:
    """AA: the gradient of the L2 distance between the features of x and those of `images` at one layer (Inkawhich et
    al. 2019, the activation attack; thesis sect. 1.2.3, [54]).

    A targeted attack lowers it: `images` are then of the classes wanted, which is the paper's attack. An untargeted one
    raises it: `images` are then the clean ones, from which it has to start at a random point, since at a distance of 0
    no direction is the steepest. No logit is looked at.
    layer: its name, or the end of it; images: float (N, C, H, W) in [0, 1], one for each x; transform, chunk: as of
    `gradients.gradient`, for x alone. Raises TypeError or ValueError for what is none of those, when made; and when
    called, ValueError for another number of x than a multiple of N, such as the neighbours of each.
    """
    shown = features(model, layer)
    with frozen([model]), torch.no_grad():
        with together():
            checks.images(images, "images")
            checks.outputs([model], images)
        wanted = shown(images)

    def losses(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        return torch.linalg.vector_norm(shown(x, draw) - _rows(wanted, len(x)), dim=1)

    return of_losses(losses, model, transform, chunk)


def _rows(values: torch.Tensor, n: int) -> torch.Tensor:
    """Values of the images for n of their copies, which come image after image, again and again."""
    if n % len(values):
        raise ValueError(f"images: {len(values)} of them, but x has {n}; expected one for each image of x")
    return values.repeat(n // len(values), *[1] * (values.dim() - 1))


def attention(
    model: nn.Module,
    layers: str,
    images: torch.Tensor,
    y: torch.Tensor,
    weight: float = 1.0,
    transform: Transforms = None,
    chunk: int | str = "auto",
) -> Gradient:
    """ATA: the gradient of cross-entropy + weight * sum over layers of ||H(x) - H(images)||^2 (Wu et al. 2020, the
    attention guided transfer attack; thesis sect. 1.2.3, [51]), where

        H = ReLU(sum over channels of a_c A_c),      a_c = the mean over places of d logit_y / d A_c

    is the attention map of class y, of the features A of a layer, at their own resolution. A targeted attack lowers the
    cross-entropy of the class wanted, and raises the change of its map all the same.
    The weights a depend on x as well, and are differentiated through; the paper does not say, and known
    reimplementations take them as constant, which is the same where everything behind the layer is linear. Its Z, which
    scales them, is the number of places here, as in Grad-CAM; weight 1 is that of known reimplementations, too.
    layers: a pattern of names (`layers.named`); images: the clean images, float (N, C, H, W) in [0, 1]; y: int64 (N,),
    the classes of the attack, its targets if it is targeted; transform, chunk: as of `gradients.gradient`, for x alone.
    A call runs forward once and backward twice. Raises as `activation` does; and TypeError or ValueError for layers
    that do not return (N, C, H, W), or weight < 0.
    """
    names = tuple(named(model, layers, "layers"))
    checks.number("weight", weight, 0)
    with frozen([model]), torch.enable_grad():
        with together():
            checks.images(images, "images")
            checks.labels(y, images)
            checks.outputs([model], images, y=y)
        _, clean = _attention(model, names, images.detach().clone().requires_grad_(), y)
    maps = [m.detach() for m in clean]

    def losses(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        logits, here = _attention(model, names, x, y, draw)
        change = sum((a - _rows(b, len(x))).square().sum((1, 2)) for a, b in zip(here, maps, strict=True))
        return cross_entropy(logits, y) + draw.sign * weight * change

    return of_losses(losses, model, transform, chunk, passes=2)


def _attention(
    model: nn.Module, names: Sequence[str], x: torch.Tensor, y: torch.Tensor, draw: Draw | None = None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The logits, and the attention map (N, H, W) of class y at each of the layers."""
    with SecondOrder():
        checks.reached(x if x.requires_grad else None)
        logits, found = seen(model, names, x, draw)
        for name, a in found.items():
            if a.dim() != 4:
                raise ValueError(f"layers: expected layers that return (N, C, H, W), but {name} gives {tuple(a.shape)}")
        slopes = torch.autograd.grad(_of(logits, y).sum(), list(found.values()), create_graph=True)
        pairs = zip(slopes, found.values(), strict=True)
        return logits, [F.relu((slope.mean((2, 3), keepdim=True) * a).sum(1)) for slope, a in pairs]


def _of(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, y[:, None])[:, 0]


def relevance(model: Model, weight: float = 1.0, transform: Transforms = None, chunk: int | str = "auto") -> Gradient:
    """AoA: the gradient of weight * cross-entropy + log ||h(x, z)||_1 - log ||h(x, y)||_1 (Chen et al. 2020, the attack
    on attention, its logarithmic loss; thesis sect. 1.2.3, [53]). h(x, c) is the heat map of a class: what each value
    of x contributes to it, if that is more than 0; z is the best class besides y at x.

    h is the positive part of gradient * input of the logit of c, counted from black, in place of that of the paper's
    SGLRP, which runs backward by rules for each kind of layer and sets the class against the others by their softmax:
    this way any differentiable network has it. Its published code keeps the positive part, too.
    A targeted attack, whose y are the classes wanted, draws attention to them. weight: the paper's lambda of 1000 times
    its mean over 1000 classes is 1; 0 is the heat maps alone. transform, chunk: as of `gradients.gradient`. A call runs
    forward once and backward three times. Raises TypeError or ValueError for what is no model, or weight < 0; and when
    called, ValueError for a model of one class.
    """
    checks.network(model)
    checks.number("weight", weight, 0)

    def losses(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        with SecondOrder():
            checks.reached(x if x.requires_grad else None)
            logits = checks.logits(drawn(model, draw)(x.clone()), len(x))
            if logits.shape[1] == 1:
                raise ValueError("model: expected logits of two classes or more, got 1")
            second = logits.scatter(1, y[:, None], float("-inf")).argmax(1)
            heat = _log_heat(logits, x, second) - _log_heat(logits, x, y)
            return weight * cross_entropy(logits, y) + heat

    return of_losses(losses, model, transform, chunk, passes=3)


def _log_heat(logits: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(N,) the logarithm of the sum of the heat map of class y; constant where nothing speaks for it."""
    (slope,) = torch.autograd.grad(_of(logits, y).sum(), x, create_graph=True, allow_unused=True)
    heat = (x * checks.reached(slope)).relu().sum((1, 2, 3))
    return heat.clamp(min=torch.finfo(heat.dtype).tiny).log()
