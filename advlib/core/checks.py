"""Checks of what a user hands over, made before any work. Every error names the argument, what came, and what is
expected: a TypeError for the wrong kind of thing, a ValueError for a wrong value of the right kind."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Sequence
from math import inf, isfinite, isnan
from numbers import Integral, Rational, Real
from types import UnionType
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import nn

from . import facts

Model = Callable[[torch.Tensor], torch.Tensor]
"""Images in [0, 1], (N, C, H, W), to logits (N, classes)."""


@runtime_checkable
class Labelled(Protocol):
    """Images with labels, int64 (N,), that come in batches with x, (n, C, H, W) in [0, 1], and y, (n,)."""

    labels: torch.Tensor

    def __len__(self) -> int: ...

    def batches(self, size: int) -> Iterable[Any]: ...


# --- plain values ----------------------------------------------------------------------------------------------------


def shown(value: object) -> str:
    """A short description of any value for an error message: the value of a number or a word, the kind of the rest."""
    if value is None or isinstance(value, str | bool | Real):
        return repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {value.dtype} on {value.device}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"an object of type {type(value).__name__}"


def _is_number(value: object) -> TypeGuard[float]:
    """int, float or a NumPy scalar: what every operation of torch takes. A Fraction is none, nor is True."""
    return isinstance(value, Integral) or (isinstance(value, Real) and not isinstance(value, Rational))


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _range(low: float, high: float, above: float | None, below: float | None) -> str:
    """The limits in words, such as "a number above 0 and at most 1"."""
    limits = [
        f"above {above:g}" if above is not None else f"of at least {low:g}" if low > -inf else "",
        f"below {below:g}" if below is not None else f"at most {high:g}" if high < inf else "",
    ]
    return " and ".join(filter(None, limits))


def number(
    name: str,
    value: object,
    low: float = -inf,
    high: float = inf,
    *,
    above: float | None = None,
    below: float | None = None,
    note: str = "",
) -> None:
    """A finite number with low <= value <= high, and above < value < below where those are given. note: what the
    message says besides, such as the unit. Raises TypeError or ValueError."""
    limits = _range(low, high, above, below)
    expected = " ".join(filter(None, ["a finite number", limits])) + (f", {note}" if note else "")
    if isinstance(value, bool) or not _is_number(value):
        raise TypeError(f"{name}={shown(value)}: expected {expected}")
    inside = low <= value <= high and (above is None or value > above) and (below is None or value < below)
    if not isfinite(value) or not inside:
        raise ValueError(f"{name}={shown(value)}: expected {expected}")


def whole(name: str, value: object, low: int | None = None, high: int | None = None) -> None:
    """A whole number with low <= value <= high; True and 2.0 are none. Raises TypeError or ValueError."""
    limits = _range(-inf if low is None else low, inf if high is None else high, None, None)
    expected = " ".join(filter(None, ["a whole number", limits]))
    if not _is_whole(value):
        raise TypeError(f"{name}={shown(value)}: expected {expected}")
    if (low is not None and value < low) or (high is not None and value > high):
        raise ValueError(f"{name}={shown(value)}: expected {expected}")


def chunk(value: object) -> None:
    """How much goes through a network at once: a whole number of at least 1, or "auto". Raises TypeError or
    ValueError."""
    if isinstance(value, str):
        choice("chunk", value, ("auto",))
    else:
        whole("chunk", value, 1)


def flag(name: str, value: object) -> None:
    """True or False. Raises TypeError."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}={shown(value)}: expected True or False")


def choice(name: str, value: object, known: Iterable[str]) -> None:
    """One of a few words. Raises TypeError for what is no text, ValueError for another word."""
    known = list(known)
    if not isinstance(value, str):
        raise TypeError(f"{name}={shown(value)}: expected one of {', '.join(known)}")
    if value not in known:
        raise ValueError(f"{name}={shown(value)}: expected one of {', '.join(known)}")


def text(name: str, value: object) -> None:
    """A text that is not empty. Raises TypeError or ValueError."""
    if not isinstance(value, str):
        raise TypeError(f"{name}={shown(value)}: expected a text")
    if not value:
        raise ValueError(f"{name}='': expected a text that is not empty")


def instance(name: str, value: object, kind: type | UnionType | tuple[type, ...], expected: str) -> None:
    """A value of one of these types; `expected` says which in the message. Raises TypeError."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected {expected}, got {shown(value)}")


def matching(**lists: Sequence[torch.Tensor]) -> None:
    """The same number of tensors, at least one, in the same shapes. Raises ValueError, which names the list."""
    (name, first), *others = lists.items()
    if not len(first):
        raise ValueError(f"{name}: expected at least one tensor")
    for other, tensors in others:
        if [t.shape for t in tensors] != [t.shape for t in first]:
            raise ValueError(f"{other}: expected tensors in the shapes of {name}")


# --- functions and networks ------------------------------------------------------------------------------------------


def function(name: str, value: object, expected: str, arguments: int | None = None) -> None:
    """Something to call with `arguments` positional arguments (not looked at if None); `expected` says in the message
    what it is, such as "a function (logits, y) -> (N,)". Raises TypeError."""
    if isinstance(value, type):
        raise TypeError(f"{name}: expected {expected}, got {shown(value)}; write {value.__name__}(...)")
    if not callable(value):
        raise TypeError(f"{name}: expected {expected}, got {shown(value)}")
    if arguments is not None and not _takes(value, arguments):
        raise TypeError(f"{name}: expected {expected}, got a function that cannot take {arguments} argument(s)")


def _takes(value: Callable[..., object], arguments: int) -> bool:
    try:
        signature = inspect.signature(value.forward if isinstance(value, nn.Module) else value)
    except (TypeError, ValueError):  # some built-in functions have none
        return True
    try:
        signature.bind(*[None] * arguments)
    except TypeError:
        return False
    return True


_MODEL = "a function from images (N, C, H, W) in [0, 1] to logits (N, classes)"


def network(model: object, name: str = "model") -> None:
    """Anything callable from images to logits; it is not called. Raises TypeError."""
    function(name, model, _MODEL, 1)
    plain = isinstance(model, nn.Module) and type(model).__call__ is nn.Module.__call__
    missing = inspect.getattr_static(type(model), "forward", None) is nn.Module.forward
    if plain and missing and "forward" not in vars(model):
        raise TypeError(f"{name}: expected {_MODEL}, got {type(model).__name__}, which has no method forward")


def module(model: object, name: str = "model") -> None:
    """A network whose layers and weights can be reached, an nn.Module. Raises TypeError."""
    instance(name, model, nn.Module, "an nn.Module")
    network(model, name)


def logits(value: object, n: int, name: str = "model") -> torch.Tensor:
    """`value`, which a model returned for n images, if it is a float tensor of shape (n, classes), classes >= 1.
    Nothing is read back from the device. Raises TypeError, which says what to write in place of a tuple, dict or
    ModelOutput, or ValueError."""
    if not isinstance(value, torch.Tensor):
        hint = _instead(value, name)
        raise TypeError(f"{name}: expected logits of shape (N, classes), got {shown(value)}{hint}")
    if value.dim() != 2 or value.shape[0] != n or value.shape[1] == 0:
        raise ValueError(f"{name}: expected logits of shape (N, classes), got {tuple(value.shape)} for {n} images")
    if not value.is_floating_point():
        raise TypeError(f"{name}: expected floating-point logits, got {value.dtype}")
    return value


def _instead(value: object, name: str) -> str:
    if hasattr(value, "logits"):
        return f"; write lambda x: {name}(x).logits"
    if isinstance(value, dict):
        return f"; write lambda x: {name}(x)[{next(iter(value), 'logits')!r}]"
    return f"; write lambda x: {name}(x)[0]" if isinstance(value, tuple | list) else ""


def losses(value: object, n: int, name: str = "loss") -> torch.Tensor:
    """`value`, which a loss returned for n images, if it is a float tensor of shape (n,). Nothing is read back from the
    device. Raises TypeError or ValueError."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        raise TypeError(f"{name}: expected a float tensor of shape (N,), one value an image, got {shown(value)}")
    if value.shape != (n,):
        raise ValueError(f"{name}: expected shape (N,), one value an image, got {tuple(value.shape)} for {n} images")
    return value


def reached(found: torch.Tensor | None) -> torch.Tensor:
    """`found`, if a gradient found its way back to the images. Raises ValueError if not."""
    if found is None:
        raise ValueError(
            "model: no gradient reaches the images, since the network, the loss or a transform detaches, rounds to "
            "whole numbers or runs in no_grad"
        )
    return found


def transformed(value: object, x: torch.Tensor, name: str = "transform", n: int | None = None) -> torch.Tensor:
    """`value`, which a transform made of the images x, if it is a tensor of their shape, type and device. n: how many
    images it holds, where that is another number. Raises TypeError or ValueError."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: expected images like those it is given, got {shown(value)}")
    shape = (len(x) if n is None else n, *x.shape[1:])
    if (value.shape, value.dtype, value.device) != (shape, x.dtype, x.device):
        raise ValueError(f"{name}: expected images like those it is given, {shown(x)}, got {shown(value)}")
    return value


# --- images and labels -----------------------------------------------------------------------------------------------


def batch(x: object, name: str = "x") -> None:
    """Floating point (N, C, H, W), no dimension empty: what can be seen of images without waiting for their device.
    Raises TypeError or ValueError."""
    if not isinstance(x, torch.Tensor) or not x.is_floating_point() or x.layout != torch.strided:
        kind = "a sparse tensor" if isinstance(x, torch.Tensor) and x.layout != torch.strided else shown(x)
        raise TypeError(f"{name}: expected a float tensor in [0, 1], got {kind}")
    if x.dim() != 4:
        raise ValueError(f"{name}: expected shape (N, C, H, W), got {tuple(x.shape)}")
    if x.shape[0] == 0:
        raise ValueError(f"{name}: the batch is empty")
    if x.numel() == 0:
        raise ValueError(f"{name}: expected at least one channel and one pixel, got {tuple(x.shape)}")


def images(x: object, name: str = "x") -> None:
    """Floating point (N, C, H, W) in [0, 1], no dimension empty, no NaN. Raises TypeError or ValueError."""
    batch(x, name)
    assert isinstance(x, torch.Tensor)

    def judge(values: torch.Tensor) -> None:
        low, high = values.tolist()
        if isnan(low) or isnan(high):
            raise ValueError(f"{name}: contains NaN")
        if low < 0 or high > 1:
            raise ValueError(
                f"{name}: expected values in [0, 1], found {low:.4g} to {high:.4g}; normalisation belongs into the "
                "model"
            )

    facts.state(name, torch.stack(x.detach().aminmax()), judge)


def same_place(value: torch.Tensor, x: torch.Tensor, name: str, other: str = "x") -> None:
    """`value` on the device of x. Raises ValueError."""
    if value.device != x.device:
        raise ValueError(f"{name}: on {value.device}, but {other} is on {x.device}")


def class_numbers(y: object, x: torch.Tensor, name: str = "y") -> None:
    """int64 (N,), one for each image of x and on its device: what can be seen of labels without waiting for it. Raises
    TypeError or ValueError."""
    if not isinstance(y, torch.Tensor) or y.dtype != torch.int64 or y.layout != torch.strided:
        raise TypeError(f"{name}: expected an int64 tensor of class numbers, got {shown(y)}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"{name}: expected shape ({x.shape[0]},), one class an image, got {tuple(y.shape)}")
    same_place(y, x, name)


def labels(y: object, x: torch.Tensor, name: str = "y", classes: int | None = None) -> None:
    """int64 (N,), one for each image of x and on its device, from 0 to classes - 1. Raises TypeError or ValueError."""
    class_numbers(y, x, name)
    assert isinstance(y, torch.Tensor)

    def judge(values: torch.Tensor) -> None:
        low, high = values.tolist()
        if low < 0:
            raise ValueError(f"{name}: class {low} is out of range")
        if classes is not None and high >= classes:
            raise ValueError(f"{name}: class {high} is out of range for {classes} logits")

    facts.state(name, torch.stack(y.aminmax()), judge)


def index(i: object, x: torch.Tensor) -> torch.Tensor:
    """The images' own numbers: i, or 0 .. N-1 where it is None. int64 or int32 (N,), on the device of x. Raises
    TypeError or ValueError."""
    if i is None:
        return torch.arange(len(x), device=x.device)
    if not isinstance(i, torch.Tensor) or i.dtype not in (torch.int64, torch.int32) or i.layout != torch.strided:
        raise TypeError(f"index: expected an integer tensor of shape ({x.shape[0]},), got {shown(i)}")
    if i.shape != x.shape[:1]:
        raise ValueError(f"index: expected shape ({x.shape[0]},), one number an image, got {tuple(i.shape)}")
    same_place(i, x, "index")
    return i


def budget(eps: object, steps: object) -> None:
    """eps: a number from 0 to 1, in [0, 1] units; steps: a whole number of at least 1. Raises TypeError or
    ValueError."""
    number("eps", eps, 0, 1, note="in units of [0, 1] images (16/255, not 16)")
    whole("steps", steps, 1)


@torch.no_grad()
@facts.together()
def outputs(models: Sequence[Model], x: torch.Tensor, **classes: torch.Tensor) -> None:
    """Two images (one, if there is one) through every model: floating-point logits (2, K), finite, with K above every
    class of every argument in `classes`. Raises TypeError or ValueError, also for what a model itself raises."""
    # Nobody may have looked at x yet, and a model that looks values up in a table would fail on others than these.
    few = x[:2].nan_to_num().clamp(0, 1)
    for model in models:
        network(model)
        _weights_fit(model, x)
        found = logits(_answer(model, few), len(few))
        facts.state("model", torch.isfinite(found).all(), _finite)
        for name, y in classes.items():
            labels(y, x, name, found.shape[1])


def _finite(values: torch.Tensor) -> None:
    if not values:
        raise ValueError("model: its logits are NaN or infinite on the first images")


def _weights_fit(model: Model, x: torch.Tensor) -> None:
    """Some weight of the model lies where x does; a model of weights elsewhere cannot take it."""
    places = {p.device for p in model.parameters()} if isinstance(model, nn.Module) else set()
    if places and x.device not in places:
        raise ValueError(f"model: on {', '.join(sorted(map(str, places)))}, but x is on {x.device}")


def _answer(model: Model, few: torch.Tensor) -> object:
    try:
        return model(few.clone())
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model raises; the message says for which input
        types = {p.dtype for p in model.parameters()} if isinstance(model, nn.Module) else set()
        unlike = f"; its weights are {', '.join(sorted(map(str, types)))}" if types and few.dtype not in types else ""
        raise ValueError(
            f"model: {type(error).__name__} on x of shape {tuple(few.shape)} and type {few.dtype}{unlike}: {error}"
        ) from error


# --- what came out ---------------------------------------------------------------------------------------------------

_STILL = (
    "the gradient of an image was exactly 0 in a step of the attack, which then does not move that image: something "
    "rounds on the way, or the loss is flat there, and no success is no sign of robustness"
)


def gradients(sizes: torch.Tensor) -> None:
    """The sizes of the gradients that an attack has seen, (steps, N). One that is not finite is a ValueError, one that
    is exactly 0 a warning."""
    facts.state("model", torch.stack([~torch.isfinite(sizes).all(0), (sizes == 0).any(0)]), _moved)


def _moved(values: torch.Tensor) -> None:
    lost, flat = values
    if lost.any():
        rows = lost.nonzero()[:, 0].tolist()
        places = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        raise ValueError(
            f"model: its gradient is NaN or infinite for {len(rows)} of {len(lost)} images (rows {places}), be it by "
            "the network, the loss or a transform"
        )
    if flat.any():
        warnings.warn(_STILL, RuntimeWarning, stacklevel=6)  # whoever called the attack


_ROUNDING = 1e-5  # of float32, and far below a level of 1/255


def adversarial(adv: object, x: torch.Tensor, eps: float | None, name: str = "attack") -> torch.Tensor:
    """`adv`, which an attack made of the images x, if it has their shape, type and device, is finite, in [0, 1] and no
    further than eps from x in any value (eps None: not looked at). An L2 ball of radius eps lies inside. Raises
    TypeError or ValueError."""
    if not isinstance(adv, torch.Tensor):
        raise TypeError(f"{name}: expected adversarial images like x, got {shown(adv)}")
    if (adv.shape, adv.dtype, adv.device) != (x.shape, x.dtype, x.device):
        raise ValueError(f"{name}: expected adversarial images like x, {shown(x)}, got {shown(adv)}")

    def judge(values: torch.Tensor) -> None:
        low, high, furthest = values.tolist()
        if not isfinite(low + high):
            raise ValueError(f"{name}: its adversarial images contain NaN or infinite values")
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            raise ValueError(f"{name}: its adversarial images leave [0, 1]: {low:.4g} to {high:.4g}")
        if eps is not None and furthest > eps + _ROUNDING:
            raise ValueError(
                f"{name}: its adversarial images are up to {255 * furthest:.4g}/255 from x, but eps is "
                f"{255 * eps:.4g}/255"
            )

    facts.state(name, torch.stack([*adv.detach().aminmax(), (adv.detach() - x).abs().max()]), judge)
    return adv
