"""Networks as attacks take them: images in [0, 1] to logits, alone or several together, frozen while they are used.

ensemble([f, h])                the mean of the logits, or of the probabilities
drawn(f, draw)                  a random network, such as a ghost network, as it is at one draw
with frozen([f]): ...           eval mode, no weight gradients, handed back as it was
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from . import checks, facts
from .checks import Model
from .draws import Draw


class Normalized(nn.Module):
    """Images in [0, 1], shape (N, C, H, W), to the logits of `net` on (x - mean) / std.

    mean, std: a number for each channel, std above 0. size: the side that `net` wants; images of another size are
    resized (bilinear) on the way in. None: any size. Raises TypeError or ValueError for other values.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float], size: int | None = None) -> None:
        super().__init__()
        checks.instance("net", net, nn.Module, "an nn.Module")
        for name, values, above in (("mean", mean, None), ("std", std, 0)):
            checks.instance(name, values, Sequence, "a sequence of numbers, one for each channel")
            for value in values:
                checks.number(name, value, above=above)
        if len(mean) != len(std):
            raise ValueError(f"std: {len(std)} numbers for {len(mean)} in mean")
        if size is not None:
            checks.whole("size", size, 1)
        self.net, self.size = net, size
        for name, values in (("mean", mean), ("std", std)):
            statistic = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, statistic, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.size is not None:
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=False, align_corners=False)
        return self.net(_normalised(x, self.mean, self.std))


@torch.fx.wrap  # one call to a trace, which could not ask for a shape
def _normalised(x: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """(x - mean) / std. Raises ValueError for another number of channels, of which one would pass for all."""
    if x.dim() != 4 or x.shape[1] != mean.shape[1]:
        raise ValueError(f"x: expected images of shape (N, {mean.shape[1]}, H, W), got {tuple(x.shape)}")
    return (x - mean) / std


class Ensemble(nn.Module):
    """The mean of the members' logits or probabilities, before the loss (`ensemble`). Every member gets its own copy of
    the images: one that normalises in place does not change what the next one sees."""

    def __init__(self, members: Sequence[nn.Module], by: str, share: Sequence[float] | None) -> None:
        super().__init__()
        self.members, self.by, self.share = nn.ModuleList(members), by, share

    def extra_repr(self) -> str:
        return f"by={self.by!r}, share={self.share}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._joined(x, self.members)

    def drawn(self, draw: Draw) -> Model | None:
        """The ensemble of its members as they are at draws of their own."""
        own = (draw.branch(torch.full_like(draw.index, i)) for i in range(len(self.members)))
        networks = [drawn(member, there) for member, there in zip(self.members, own, strict=True)]
        still = all(network is member for network, member in zip(networks, self.members, strict=True))
        return None if still else lambda x: self._joined(x, networks)

    def _joined(self, x: torch.Tensor, networks: Iterable[Model]) -> torch.Tensor:
        logits = [checks.logits(m(x.clone()), len(x), f"members[{i}]") for i, m in enumerate(networks)]
        classes = [member.shape[1] for member in logits]
        if len(set(classes)) > 1:
            raise ValueError(f"members: expected the same classes of all, got {', '.join(map(str, classes))} logits")
        if self.by == "probabilities":
            logits = [member.log_softmax(1) for member in logits]
        stack = torch.stack(logits)
        if self.share is not None:
            # Filled in on the device: a copy of numbers of the host would wait for it.
            share = torch.stack([stack.new_full((1, 1), each) for each in self.share])
            return (stack * share).sum(0) if self.by == "logits" else (stack + share.log()).logsumexp(0)
        return stack.mean(0) if self.by == "logits" else stack.logsumexp(0) - math.log(len(stack))


def ensemble(members: Sequence[nn.Module], by: str = "logits", weights: Sequence[float] | None = None) -> Ensemble:
    """A surrogate of several networks (thesis sect. 2.3.2.2; Liu et al. 2017, [55] of the thesis).

    members: a list of nn.Modules over the same classes. by: "logits", whose mean is the surrogate's logits, as in the
    thesis; or "probabilities", the logarithm of whose mean is. The mean of the losses is `averaged`, of gradients.
    weights: a number of at least 0 for each member, as shares of their sum; None: all alike. Raises TypeError or
    ValueError for an empty list, weights that do not fit, or another word."""
    checks.instance("members", members, (list, tuple, nn.ModuleList), "a list of nn.Modules")
    if len(members) == 0:
        raise ValueError("members: an ensemble needs at least one model")
    for i, member in enumerate(members):
        checks.module(member, f"members[{i}]")
    checks.choice("by", by, ("logits", "probabilities"))
    return Ensemble(members, by, None if weights is None else shares(weights, len(members)))


def shares(weights: object, n: int) -> list[float]:
    """Weights of n things, as shares of their sum; equal ones for None. Raises TypeError or ValueError for another
    number of weights, one below 0, or a sum of 0."""
    if weights is None:
        return [1 / n] * n
    checks.instance("weights", weights, Sequence, f"{n} numbers")
    assert isinstance(weights, Sequence)
    for weight in weights:
        checks.number("weights", weight, 0)
    if len(weights) != n or not sum(weights):
        raise ValueError(f"weights: expected {n} numbers that are not all 0, got {weights}")
    return [float(weight) / sum(weights) for weight in weights]


def members(model: Model) -> int:
    """How many networks one pass through `model` runs: the unit in which cost is counted."""
    return len(model.members) if isinstance(model, Ensemble) else 1


def drawn(model: Model, draw: Draw) -> Model:
    """What `model` is at one draw, for as many images as that has numbers. A random network (`ghosts`) has a method
    drawn(draw), which returns it; where that returns None, or is missing, the model is always itself."""
    at = getattr(model, "drawn", None)
    found = None if at is None else at(draw)
    return model if found is None else found


# --- for the attack loop ----------------------------------------------------------------------------------------------


@contextmanager
def frozen(models: Sequence[Model]) -> Iterator[None]:
    """Eval mode, no weight gradients, weights in channels_last; everything is handed back as it was, also after an
    error. Inside torch.inference_mode that mode is left meanwhile, so that images can have gradients.

    Callables that are no nn.Module are left alone.
    """
    modules = [m for m in models if isinstance(m, nn.Module)]
    modes = [(m, m.training) for model in modules for m in model.modules()]
    # Weights that were made in inference mode cannot change outside it, and get no gradients anyway.
    own = [p for model in modules for p in model.parameters() if not p.is_inference()]
    weights = [(p, p.requires_grad, p.data) for p in own]
    with _outside_inference_mode():
        try:
            for module, _ in modes:
                module.training = False
            for p, _, data in weights:
                p.requires_grad_(False)
                if data.dim() == 4:
                    p.data = data.contiguous(memory_format=torch.channels_last)
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for p, wanted, data in weights:
                p.data = data
                p.requires_grad_(wanted)


class UnderAttack(NamedTuple):
    """clean: a copy of the images; x: that in float32, if they are in half precision; wanted: int64 (N,), the classes
    to leave, or, where sign is -1, to reach."""

    clean: torch.Tensor
    x: torch.Tensor
    wanted: torch.Tensor
    sign: float


@contextmanager
def under_attack(model: Model, x: torch.Tensor, y: torch.Tensor, target: torch.Tensor | None) -> Iterator[UnderAttack]:
    """What an attack on one model begins with: all of it checked, with one wait for the device, and the model `frozen`
    meanwhile."""
    with ExitStack() as kept:
        with facts.together():
            checks.network(model)
            checks.images(x)
            checks.labels(y, x)
            if target is not None:
                checks.labels(target, x, "target")
            kept.enter_context(frozen([model]))
            clean = x.detach().clone(memory_format=torch.channels_last)
            wanted = (y if target is None else target).clone()
            checks.outputs([model], clean, y=y, target=wanted)
        wide = clean.to(torch.promote_types(clean.dtype, torch.float32))
        yield UnderAttack(clean, wide, wanted, 1.0 if target is None else -1.0)


@contextmanager
def _outside_inference_mode() -> Iterator[None]:
    """Gradients stay off, as they are in inference mode: leaving it alone would switch them on."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield
