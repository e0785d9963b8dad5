"""Norms of an image or a gradient, one for each image of a batch, and division by them."""

from __future__ import annotations

from collections.abc import Callable

import torch

_PER_IMAGE = (1, 2, 3)


def mean_abs(g: torch.Tensor) -> torch.Tensor:
    """Mean of the absolute values per image, (N, 1, 1, 1)."""
    return g.abs().mean(_PER_IMAGE, keepdim=True)


def l1_norm(g: torch.Tensor) -> torch.Tensor:
    """L1 norm per image, (N, 1, 1, 1)."""
    return g.abs().sum(_PER_IMAGE, keepdim=True)


def l2_norm(g: torch.Tensor) -> torch.Tensor:
    """L2 norm per image, (N, 1, 1, 1)."""
    # In units of the largest entry: the squares of a confident model's gradient, 1e-25 and less, are 0 in float32.
    unit = g.abs().amax(_PER_IMAGE, keepdim=True).clamp(min=torch.finfo(g.dtype).tiny)
    return unit * (g / unit).square().sum(_PER_IMAGE, keepdim=True).sqrt()


NORMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"mean": mean_abs, "l1": l1_norm, "l2": l2_norm}


def divided(g: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """g / length, and 0 where g is 0."""
    return g / length.clamp(min=torch.finfo(g.dtype).tiny)
