"""Networks that compute what they did, with another backward pass: LinBP and SGM, by the names of layers.

    g = gradient(linear_backward(f, "layer3.0"))            LinBP from that layer on
    g = gradient(skip_gradient(f, "layer*.*.bn2", 0.5))     SGM: residual branches at half their weight

Both return a model around the one they are given and change nothing in it: its hooks are gone after every pass, also
after an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from .core import checks
from .core.draws import Draw
from .core.surrogate import Ensemble, drawn, frozen
from .gradients import Gradient, cross_entropy, image_gradient
from .loop import attack

Hook = Callable[[torch.Tensor], torch.Tensor | None]
Seen = tuple[torch.Tensor, dict[str, torch.Tensor]]
_RELUS = {F.relu, F.relu_, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_}


def named(model: nn.Module, pattern: str, argument: str = "layer") -> dict[str, nn.Module]:
    """The layers of `model` whose name, or the end of it behind a dot, matches `pattern` ("layer3.0", "layer*.bn2"; "*"
    stands for anything). Raises ValueError if there are none; TypeError for what is no nn.Module, and for an ensemble,
    whose members are to be wrapped one by one. argument: what errors call the pattern."""
    if not isinstance(model, nn.Module) or isinstance(model, Ensemble):
        raise TypeError(f"model: expected an nn.Module that is no ensemble, got {checks.shown(model)}")
    checks.text(argument, pattern)
    found = {
        name: layer
        for name, layer in model.named_modules()
        if name and (fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}"))
    }
    if not found:
        names = [name for name, _ in model.named_modules() if name]
        raise ValueError(f"{argument} {pattern!r}: there is none; the names go from {names[0]} to {names[-1]}")
    return found


def only(model: nn.Module, name: str) -> str:
    """The full name of the one layer that `name` fits (`named`). Raises as `named` does, and ValueError if it fits
    several."""
    found = named(model, name)
    if len(found) > 1:
        raise ValueError(f"layer {name!r}: expected one layer, it fits {', '.join(found)}")
    return next(iter(found))


@contextmanager
def hooked(model: nn.Module, hooks: Mapping[str, Hook]) -> Iterator[None]:
    """Meanwhile each named layer of `model` returns what its hook makes of its output, or the output itself where that
    returns None. Raises TypeError for a layer that returns no tensor; and ValueError at the end if the model called
    none of them."""
    called: list[str] = []

    def of(name: str, hook: Hook) -> Callable[[nn.Module, object, object], torch.Tensor | None]:
        def around(layer: nn.Module, inputs: object, output: object) -> torch.Tensor | None:
            called.append(name)
            checks.instance(f"layer {name!r}", output, torch.Tensor, "a layer that returns one tensor")
            assert isinstance(output, torch.Tensor)
            return hook(output)

        return around

    handles = [model.get_submodule(name).register_forward_hook(of(name, hook)) for name, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if not called:
        raise ValueError(f"layer {', '.join(hooks)}: {type(model).__name__} never calls it; name another")


def seen(model: nn.Module, names: Sequence[str], x: torch.Tensor, draw: Draw | None = None) -> Seen:
    """The logits of one pass through `model`, as it is at `draw` if one is given, and what its layers of these names
    returned when they were called first. Raises as `hooked` does."""
    found: dict[str, torch.Tensor] = {}

    def recorded(name: str) -> Hook:
        def record(output: torch.Tensor) -> None:
            found.setdefault(name, output)

        return record

    with hooked(model, {name: recorded(name) for name in names}):
        logits = (model if draw is None else drawn(model, draw))(x.clone())  # a model may write into what it is given
    return checks.logits(logits, len(x)), found


class _Rewired(nn.Module):
    """Runs `model` inside `self.rewired()`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def rewired(self) -> AbstractContextManager[None]:
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with self.rewired():
            return self.model(x)


# --- LinBP -----------------------------------------------------------------------------------------------------------


def linear_backward(model: nn.Module, layer: str) -> nn.Module:
    """LinBP (Guo et al. 2020): from `layer` on, in the order in which layers are run, every ReLU lets the gradient
    through as if it were the identity. The logits are those of `model`; with a layer behind the last ReLU so is the
    gradient. ReLUs are found where they are called, be they modules or functions.

    layer: its name, or the end of it. Raises as `only` does, and ValueError when run if the model never calls it."""
    return _LinearBackward(model, only(model, layer))


class _LinearBackward(_Rewired):
    def __init__(self, model: nn.Module, layer: str) -> None:
        super().__init__(model)
        self.layer = layer

    def extra_repr(self) -> str:
        return f"layer={self.layer!r}"

    @contextmanager
    def rewired(self) -> Iterator[None]:
        mode = _LinearReLU()
        hook = self.model.get_submodule(self.layer).register_forward_pre_hook(mode.begin)
        try:
            with mode:
                yield
        finally:
            hook.remove()
        if not mode.begun:
            raise ValueError(f"layer {self.layer!r}: {type(self.model).__name__} never calls it; name another")


class _LinearReLU(TorchFunctionMode):
    """Once begun, ReLUs called in this mode are `_Straight`."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = False

    def begin(self, *_: object) -> None:
        self.begun = True

    def __torch_function__(
        self,
        function: Callable[..., object],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if self.begun and function in _RELUS:
            return _Straight.apply(args[0] if args else kwargs["input"])
        return function(*args, **kwargs)


class _Straight(torch.autograd.Function):
    """max(z, 0) forward, the identity backward."""

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor) -> torch.Tensor:
        return z.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad


# --- SGM -------------------------------------------------------------------------------------------------------------


def skip_gradient(model: nn.Module, layers: str, gamma: float = 0.5) -> nn.Module:
    """SGM (Wu et al. 2020): the gradient through a residual branch counts `gamma` times, so that more of it comes
    through the skip connection. The logits are those of `model`; gamma = 1 is its gradient, 0 that of the skips alone.

    layers: a pattern of names (`named`) for the *last* layer of each branch, whose output the sum takes: "bn2" in a
    basic block of torchvision, "bn3" in a bottleneck. Where the original decays the gradient at every ReLU of a branch,
    this does it once, at its end. Raises TypeError or ValueError for a pattern that fits no layer, or gamma outside
    [0, 1]; and ValueError when run if the model calls none of the layers.
    """
    checks.number("gamma", gamma, 0, 1)
    return _SkipGradient(model, tuple(named(model, layers, "layers")), gamma)


class _SkipGradient(_Rewired):
    def __init__(self, model: nn.Module, layers: tuple[str, ...], gamma: float) -> None:
        super().__init__(model)
        self.layers, self.gamma = layers, gamma

    def extra_repr(self) -> str:
        return f"layers={self.layers}, gamma={self.gamma}"

    def rewired(self) -> AbstractContextManager[None]:
        return hooked(self.model, dict.fromkeys(self.layers, self._decayed))

    def _decayed(self, output: torch.Tensor) -> torch.Tensor:
        return torch.lerp(output.detach(), output, self.gamma)


# --- intermediate levels -------

Trail = list[tuple[torch.Tensor, torch.Tensor]]


class _Stop(Exception):
    """Thrown by a layer that was reached: nothing behind it is needed."""


def features(model: nn.Module, layer: str) -> Callable[..., torch.Tensor]:
    """Images to the output of one layer, (N, features), flattened; what comes behind the layer is not run. The function
    takes (x, draw=None), for the network as it is at a draw.

    layer: its name, or the end of it. Raises as `only` does, TypeError when run for a layer that returns no tensor, and
    ValueError if the model never calls it."""
    name = only(model, layer)

    def function(x: torch.Tensor, draw: Draw | None = None) -> torch.Tensor:
        found: list[torch.Tensor] = []

        def stop(output: torch.Tensor) -> None:
            found.append(output)
            raise _Stop

        with suppress(_Stop), hooked(model, {name: stop}):
            (model if draw is None else drawn(model, draw))(x.clone())  # a model may write into what it is given
        return found[0].flatten(1)

    return function


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

    layer: whose output is taken, as `only` finds it; steps: of the first run, of eps / steps each; refine: of
    the second; ridge: its penalty; the authors' 1e10 makes the direction the sum of the differences, each times its
    loss. seed, index: as of `loop.attack`, which raises what is wrong with the others. Returns adv, like x.
    Raises TypeError or ValueError for ridge <= 0, refine < 1 or an unknown layer.
    """
    checks.module(model)
    checks.number("ridge", ridge, above=0)
    checks.whole("refine", refine, 1)
    shown = features(model, layer)
    trail: Trail = []
    options: dict[str, Any] = {"eps": eps, "seed": seed, "index": index}
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


def _recorded(model: nn.Module, layer: str, trail: Trail) -> Gradient:
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
    name = only(model, layer)
    logits, found = seen(model, [name], z)
    return found[name].flatten(1), cross_entropy(logits, y)
