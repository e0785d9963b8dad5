"""Random erasure and input diversity on a picture: the copies that a step of the attack would see."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure

from ...bench import plotting
from ...core.draws import Draw, Stream
from ...transforms import InputDiversity, RandomErasure
from . import budget

SEED = 0


def data() -> dict[str, Any]:
    """The first picture of the slider for the budget, unchanged, and what its random numbers belong to."""
    found = budget.data()
    image = found["images"][0]
    name, side = found["classes"][image["label"]], budget.pictures(image).shape[-1]
    return {"file": image["files"][0], "side": side, "name": name, "index": image["index"], "seed": SEED}


def copies(transform: RandomErasure | InputDiversity, numbers: dict[str, Any], step: int) -> torch.Tensor:
    """(copies, 3, H, W): what `transform` makes of the picture in one step of an attack."""
    copy = torch.arange(transform.copies)
    x = budget.pictures({"files": [numbers["file"]]}).repeat(len(copy), 1, 1, 1)
    index = torch.full_like(copy, numbers["index"])
    return transform(x, Draw(numbers["seed"], index, step, copy, Stream.TRANSFORM), copy)


def still(numbers: dict[str, Any]) -> Figure:
    """Both transforms at their defaults, five copies of one step."""
    rows = {
        "random\nerasure": copies(RandomErasure(), numbers, 0),
        "input\ndiversity": copies(InputDiversity(copies=5), numbers, 0),
    }
    return plotting.gallery(rows, [f"copy {k}" for k in range(5)], side=1.2)
