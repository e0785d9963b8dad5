"""What chapters measure of a network besides success rates: the loss around an image, the local Lipschitz constant, and
the curvature over the weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from .. import curvature, lipschitz
from ..core.checks import Model
from ..gradients import cross_entropy
from ..zoo.datasets import Images


@torch.no_grad()
def landscape(
    model: Model, x: torch.Tensor, y: torch.Tensor, along: torch.Tensor, across: torch.Tensor, axis: torch.Tensor
) -> np.ndarray:
    """Cross-entropy in nats at x + a / 255 along + b / 255 across, clamped to [0, 1], (K, K): a row for each b of
    `axis`, a column for each a. `plotting.surface` draws it (Figures 1.4, 3.1 and 4.1).

    x: one image (1, C, H, W) in [0, 1]; y: its class (1,); along, across: directions in the shape of x, such as signs;
    axis: (K,), in 1/255."""
    line = x + axis.view(-1, 1, 1, 1) / 255 * along
    rows = [cross_entropy(model((line + b / 255 * across).clamp(0, 1)), y.expand(len(axis))) for b in axis]
    return torch.stack(rows).cpu().numpy()


def local_lipschitz(model: nn.Module, images: Images, eps: float, seed: int = 0) -> torch.Tensor:
    """Thesis eq. 4.11 before the mean, (N,), in the form that `Experiment.means` takes."""
    return lipschitz.local_lipschitz(model, images.x, eps, seed=seed, index=images.index)


def geometry(model: nn.Module, images: Images, probes: int) -> dict[str, float]:
    """What Table 5.5 has: loss, gradient norm, trace of the Hessian with its standard error from so many probes, trace
    over gradient norm, top eigenvalue. It leaves the model in eval mode, in which the loss of an image is a function of
    that image."""
    loss, w = curvature.mean_loss(model.eval(), images, 128), curvature.weights(model)
    trace = curvature.hutchinson_trace(loss, w, probes=probes)
    slope = curvature.norm(curvature.gradient(loss, w)).item()
    return {
        "loss": curvature.value(loss).item(),
        "gradient_norm": slope,
        "trace": trace.value,
        "trace_error": trace.standard_error,
        "normalized_trace": trace.value / slope,
        "top_eigenvalue": curvature.top_eigenvalue(loss, w, tolerance=0.01, steps=20).value,
    }


def approximation(model: nn.Module, images: Images, batch_size: int, **options: object) -> dict[str, float]:
    """How good one step of ascent is (eq. 5.3), over batches: the ratio of the means, and the mean of the
    ratios. It leaves the model in eval mode. options: of `curvature.approximation_ratio`."""
    losses = [curvature.mean_loss(model.eval(), part) for part in images.batches(batch_size)]
    ratio = curvature.approximation_ratio(losses, curvature.weights(model), **options)
    return {"approximation_ratio": ratio.of_means, "mean_of_ratios": ratio.mean_of_ratios}
