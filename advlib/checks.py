"""Checks of what a user hands to an attack, made before any work. Errors name the argument."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch

from .models import Model


def images(x: torch.Tensor) -> None:
    """x: floating point (N, C, H, W) in [0, 1], N >= 1, no NaN."""
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise TypeError(f"x: expected a float tensor in [0, 1], got {kind}")
    if x.dim() != 4:
        raise ValueError(f"x: expected shape (N, C, H, W), got {tuple(x.shape)}")
    if x.shape[0] == 0:
        raise ValueError("x: the batch is empty")
    low, high = x.aminmax()
    if torch.isnan(low) or torch.isnan(high):
        raise ValueError("x: contains NaN")
    if low < 0 or high > 1:
        raise ValueError(
            f"x: expected values in [0, 1], found {low.item():.4g} to {high.item():.4g}; "
            "normalisation belongs into the model"
        )


def labels(y: torch.Tensor, x: torch.Tensor, name: str = "y") -> None:
    """y: int64 (N,), not negative, on the device of x."""
    if not isinstance(y, torch.Tensor) or y.dtype != torch.int64:
        kind = y.dtype if isinstance(y, torch.Tensor) else type(y).__name__
        raise TypeError(f"{name}: expected an int64 tensor of class numbers, got {kind}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"{name}: expected shape ({x.shape[0]},), one class an image, got {tuple(y.shape)}")
    if y.device != x.device:
        raise ValueError(f"{name}: on {y.device}, but x is on {x.device}")
    if y.min() < 0:
        raise ValueError(f"{name}: class {y.min().item()} is out of range")


def budget(eps: float, steps: int) -> None:
    """eps >= 0 and at most 1, in [0, 1] units; steps >= 1."""
    if not 0 <= eps <= 1:
        raise ValueError(f"eps={eps}: expected 0 <= eps <= 1, in units of [0, 1] images (16/255, not 16)")
    if not isinstance(steps, Integral) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps={steps}: expected a whole number, at least 1")


def index(i: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    """The images' own numbers: i, or 0 .. N-1 where it is None. int64 (N,)."""
    if i is None:
        return torch.arange(len(x), device=x.device)
    if not isinstance(i, torch.Tensor) or i.dtype not in (torch.int64, torch.int32) or i.shape != x.shape[:1]:
        raise ValueError(f"index: expected an integer tensor of shape ({x.shape[0]},)")
    return i.to(x.device)


@torch.no_grad()
def outputs(models: Sequence[Model], x: torch.Tensor, **classes: torch.Tensor) -> None:
    """Two images (one, if there is one) through every model: logits (2, K), finite, with K above every class of every
    argument in `classes`."""
    few = x[:2]
    for model in models:
        logits = model(few)
        if not isinstance(logits, torch.Tensor) or logits.dim() != 2 or logits.shape[0] != len(few):
            shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise ValueError(f"model: expected logits of shape (N, classes), got {shape} for {len(few)} images")
        if not torch.isfinite(logits).all():
            raise ValueError("model: its logits are NaN or infinite on the first images")
        for name, y in classes.items():
            if y.max() >= logits.shape[1]:
                raise ValueError(f"{name}: class {y.max().item()} is out of range for {logits.shape[1]} logits")
