"""Adversarial images on disk: lossless, and still inside the ball after rounding to 8 bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..core import checks
from ..files.paths import replacing
from .weights import inside


def to_uint8(adv: torch.Tensor, x: torch.Tensor, eps: float) -> torch.Tensor:
    """adv as uint8 (N, C, H, W), rounded toward the clean image x, so that no pixel is further than eps from it.

    adv, x: float in [0, 1], of one shape; x lies on multiples of 1/255, as every image read from 8 bits does. eps: from
    0 to 1. Raises TypeError or ValueError if they are not so, or if adv is further than eps from x.
    """
    checks.images(adv, "adv")
    checks.images(x)
    checks.same_place(adv, x, "adv")
    checks.number("eps", eps, 0, 1)
    if adv.shape != x.shape:
        raise ValueError(f"adv: shape {tuple(adv.shape)}, but x has {tuple(x.shape)}")
    clean = (x * 255).round()
    if ((x * 255 - clean).abs() > 1e-3).any():
        raise ValueError(
            "x: not an 8-bit image (its values are no multiples of 1/255), so that rounding could leave the ball"
        )
    levels = (adv - x) * 255
    limit = math.floor(eps * 255 + 1e-3)
    if (levels.abs() > eps * 255 + 1e-3).any():
        raise ValueError(f"adv: {levels.abs().max().item():.3f}/255 from x, but eps is {eps * 255:.3f}/255")
    # A float error must not cost a whole level: 15.9999 counts as 16.
    whole = torch.trunc(levels + levels.sign() * 1e-3).clamp(-limit, limit)
    return (clean + whole).to(torch.uint8)


def save_images(adv: torch.Tensor, x: torch.Tensor, eps: float, folder: str | Path, names: Sequence[str]) -> list[Path]:
    """Write adv as <folder>/<name>.png, inside the eps-ball around x to the last bit; returns the files.

    adv, x, eps: as in `to_uint8`, with 1 (grey) to 4 channels; names: a text for each image, such as "dog" or
    "n01440764/dog", no two of them the same file. Each file is replaced atomically. Raises TypeError or ValueError,
    before anything is written, as `to_uint8` does, or for names that are too few, twice there, or lead out of the
    folder.
    """
    checks.instance("folder", folder, (str, Path), "a folder")
    checks.instance("names", names, (list, tuple), "a list of texts, one an image")
    pixels = to_uint8(adv, x, eps).cpu()
    if len(names) != len(pixels):
        raise ValueError(f"names: {len(names)} for {len(pixels)} images")
    if pixels.shape[1] > 4:
        raise ValueError(f"adv: {pixels.shape[1]} channels; a PNG file holds 1 to 4")
    files = [inside(f"names[{i}]", Path(folder), name, ".png") for i, name in enumerate(names)]
    if twice := {str(file) for file in files if files.count(file) > 1}:
        raise ValueError(f"names: {', '.join(sorted(twice))} more than once")
    for file, image in zip(files, pixels, strict=True):
        with replacing(file) as partial:
            as_picture(image.permute(1, 2, 0).numpy()).save(partial, "PNG")
    return files


def as_picture(levels: np.ndarray) -> Image.Image:
    """uint8 (H, W, C) as Pillow takes it, which wants grey without its channel."""
    return Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)
