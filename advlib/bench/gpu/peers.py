"""The loop that attack libraries share, as the yardstick: eager, float32, in torch's own layout, with weights that ask
for gradients, written without anything of this package."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def mi_fgsm(model: nn.Module, x: torch.Tensor, y: torch.Tensor, eps: float, steps: int) -> torch.Tensor:
    """MI-FGSM with decay 1 and steps of eps / steps."""
    delta, momentum = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(steps):
        delta.requires_grad_()
        loss = F.cross_entropy(model(x + delta), y)
        (gradient,) = torch.autograd.grad(loss, delta)
        momentum = momentum + gradient / gradient.abs().mean((1, 2, 3), keepdim=True)
        delta = torch.clamp(delta.detach() + eps / steps * momentum.sign(), -eps, eps)
        delta = torch.clamp(x + delta, 0, 1) - x
    return x + delta
