"""Adversarial images on disk: lossless, and still inside the ball after rounding to 8 bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image


def to_uint8(adv: torch.Tensor, x: torch.Tensor, eps: float) -> torch.Tensor:
    """adv as uint8 (N, C, H, W), rounded toward the clean image x, so that no pixel is further than eps from it.

    adv, x: float in [0, 1]; x lies on multiples of 1/255, as every image read from 8 bits does.
    Raises ValueError if it does not, or if adv is further than eps from x, or outside [0, 1].
    """
    if not ((adv >= 0) & (adv <= 1)).all():
        raise ValueError("adv: expected values in [0, 1], without NaN")
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

    Raises ValueError as `to_uint8` does, or if there are not as many names as images.
    """
    if len(names) != len(adv):
        raise ValueError(f"names: {len(names)} for {len(adv)} images")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.png" for name in names]
    for file, image in zip(files, to_uint8(adv, x, eps).cpu(), strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    return files
