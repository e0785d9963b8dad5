"""Defences by several opinions: of one network under noise inside it, or of networks that disagree on what is wrong.

defended = RandomSelfEnsemble()(model);    together = ModelEnsemble()([f, g, h])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ..core import checks
from ..core.checks import Model
from ..core.draws import Draw, Stream
from .transformations import Defence, Defended, asked, log_mean_probability


@dataclass(frozen=True)
class RandomSelfEnsemble(Defence):
    """Random self-ensemble (RSE): Gaussian noise in front of every convolution, and the mean probabilities of `n`
    passes (Liu et al. 2018; thesis sect. 1.2.2, [44]).

    first, inner: standard deviation in front of the first convolution and of the others, in units of what goes into
    them (the paper's for CIFAR-10). The paper trains the network with its noise; one that was not keeps less accuracy.
    """

    kind: ClassVar[str] = "proxy"
    gradients: ClassVar[str] = "exact"
    first: float = 0.2
    inner: float = 0.1
    n: int = 10

    def __post_init__(self) -> None:
        checks.number("first", self.first, 0)
        checks.number("inner", self.inner, 0)
        checks.whole("n", self.n, 1)

    def __call__(self, model: Model, seed: int = 0) -> Defended:
        """The network with noise in it. Raises TypeError for what is no nn.Module, ValueError for one that has no
        convolution."""
        checks.module(model, "model")
        if not _convolutions(model):
            raise ValueError("model: no convolution to put noise in front of")
        return Defended(self, model, seed)

    def purified(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        """x itself: the noise is inside the network."""
        return x

    def logits(self, model: Model, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        rows, place = draw, 0

        def view(images: torch.Tensor, at: Draw) -> torch.Tensor:
            nonlocal rows, place
            rows, place = at, 0
            return images

        def noisy(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            nonlocal place
            z, sigma = inputs[0], self.inner if place else self.first
            noise = rows.at(stream=Stream.SELF_ENSEMBLE + place).normal(*z.shape[1:]).to(z)
            place += 1
            return (z + sigma * noise, *inputs[1:])

        hooks = [layer.register_forward_pre_hook(noisy) for layer in _convolutions(model)]
        try:
            return log_mean_probability(model, view, x, draw, self.n)
        finally:
            for hook in hooks:
                hook.remove()


def _convolutions(model: nn.Module) -> list[nn.Module]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]


@dataclass(frozen=True)
class ModelEnsemble(Defence):
    """The mean probabilities of several networks: ModelEnsemble()([f, g, h]), as Pang et al. (2019; thesis sect. 1.2.2,
    [45]) average them. (`core.surrogate.ensemble` averages logits, as the thesis' surrogates do.)"""

    kind: ClassVar[str] = "faithful"
    gradients: ClassVar[str] = "exact"

    def __call__(self, model: Sequence[nn.Module], seed: int = 0) -> Defended:
        """The networks together. Raises TypeError or ValueError for what is no list of networks, or an empty one."""
        checks.instance("model", model, (list, tuple), "a list of networks")
        if not model:
            raise ValueError("model: expected at least one network")
        for i, network in enumerate(model):
            checks.module(network, f"model[{i}]")
        return Defended(self, nn.ModuleList(model), seed)

    def purified(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        """x itself."""
        return x

    def logits(self, model: nn.ModuleList, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        mean = torch.stack([asked(network, x.clone()).softmax(1) for network in model]).mean(0)
        return mean.clamp(min=torch.finfo(mean.dtype).tiny).log()


def adaptive_diversity(
    probabilities: torch.Tensor, y: torch.Tensor, alpha: float = 2.0, beta: float = 0.5
) -> torch.Tensor:
    """(N,): what the training of such an ensemble rewards besides its accuracy (Pang et al. 2019, ADP; thesis sect.
    1.2.2, [45]),

        alpha * entropy of the mean + beta * log det(M^T M),

    where the columns of M are the members' probabilities of all classes but y, each of L2 length 1: the determinant is
    1 where they have nothing in common and 0 where two agree, and 1e-6 is added to it. probabilities: (members, N, K);
    y: int64 (N,). Raises TypeError or ValueError for other shapes, and for more members than the K - 1 that can differ.
    """
    checks.instance("probabilities", probabilities, torch.Tensor, "a tensor of shape (members, N, K)")
    if probabilities.dim() != 3 or not probabilities.is_floating_point():
        raise ValueError(f"probabilities: expected shape (members, N, K), got {checks.shown(probabilities)}")
    if len(probabilities) > probabilities.shape[2] - 1:
        raise ValueError(f"probabilities: {len(probabilities)} members, but {probabilities.shape[2] - 1} other classes")
    checks.labels(y, probabilities[0], classes=probabilities.shape[2])
    checks.number("alpha", alpha, 0)
    checks.number("beta", beta, 0)
    entropy = torch.special.entr(probabilities.mean(0)).sum(1)
    others = probabilities.scatter(2, y.expand(len(probabilities), -1)[:, :, None], 0.0)
    m = nn.functional.normalize(others, dim=2).transpose(0, 1)  # (N, members, K)
    return alpha * entropy + beta * (torch.linalg.det(m @ m.transpose(1, 2)) + 1e-6).log()
