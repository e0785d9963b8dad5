"""The two-pixel attack: a network that sees two pixels, and how elastic momentum climbs its loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn

from ... import attacks
from ...bench import plotting

HILLS: dict[str, Any] = {
    "floor": -1.5,
    "bumps": [
        {"at": [0.62, 0.5], "height": 2.5, "width": 0.09},
        {"at": [0.9, 0.75], "height": 5.0, "width": 0.22},
        {"at": [0.2, 0.2], "height": 3.0, "width": 0.2},
    ],
}
"""The logit of the wrong class: bumps on a floor, one narrow and near, two wide and further off."""
START = [0.46, 0.42]
SETTINGS = {"eps": 0.3, "alpha": 0.03, "mu": 1.0, "sigma": 2.0, "steps": 10}
"""What the sliders show first, in the units of pixels, which go from 0 to 1."""


class TwoPixels(nn.Module):
    """Logits (N, 2) of images (N, 1, 1, 2): 0 for the class that is right, `HILLS` for the other."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        points = x.flatten(1)
        wrong = torch.full_like(points[:, 0], HILLS["floor"])
        for bump in HILLS["bumps"]:
            away = (points - points.new_tensor(bump["at"])).square().sum(1)
            wrong = wrong + bump["height"] * torch.exp(-away / (2 * bump["width"] ** 2))
        return torch.stack([torch.zeros_like(wrong), wrong], 1)


def data() -> dict[str, Any]:
    """The network, the clean image and the first settings."""
    return {"hills": HILLS, "start": START, "settings": SETTINGS}


def iterates(**settings: Any) -> np.ndarray:
    """(steps + 1, 2): where `attacks.em_fgsm` goes. settings: of it."""
    x, y = torch.tensor(START, dtype=torch.float64).view(1, 1, 1, 2), torch.zeros(1, dtype=torch.int64)
    steps = settings.pop("steps")
    found = [attacks.em_fgsm(TwoPixels(), x, y, steps=t, **settings) for t in range(1, steps + 1)]
    return torch.cat([x, *found]).flatten(1).numpy()


def still(numbers: dict[str, Any]) -> Figure:
    """MI-FGSM beside EM-FGSM with the look-ahead in the ball, at the first settings."""
    axis = torch.linspace(0, 1, 101, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis).view(-1, 1, 1, 2)
    values = nn.functional.softplus(TwoPixels()(points)[:, 1]).view(101, 101).T.numpy()
    settings, eps = dict(numbers["settings"]), numbers["settings"]["eps"]
    titles = {"MI-FGSM": settings | {"sigma": 0.0}, "EM-FGSM, look-ahead in the ball": settings | {"project": "ball"}}
    figure = plotting.surface(axis, axis, dict.fromkeys(titles, values), "first pixel", "second pixel", "loss")
    for ax, own in zip(figure.axes, titles.values(), strict=False):
        ax.lines[0].set_data([START[0]], [START[1]])
        ax.add_patch(Rectangle([v - eps for v in START], 2 * eps, 2 * eps, fill=False, color="white", linestyle="--"))
        ax.plot(*iterates(**own).T, "o-", color="white", markeredgecolor="black", markersize=4)
    return figure
