"""Training augmentation, random per image: crop, flip and Cutout in batch, on the device; AutoAugment image by image.

Every function maps images (N, C, H, W) to images of the same shape and type; `draw` says where the randomness comes
from (step = epoch). Raises TypeError or ValueError for what is no batch of images, or an option out of range.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from ..core import checks
from ..core.draws import Draw, Stream


def _check(x: object, draw: object) -> None:
    checks.instance("x", x, torch.Tensor, "images (N, C, H, W)")
    checks.instance("draw", draw, Draw, "a Draw")
    if x.dim() != 4 or x.numel() == 0:
        raise ValueError(f"x: expected images (N, C, H, W), got {checks.shown(x)}")
    if len(draw.index) != len(x):
        raise ValueError(f"draw: its index has {len(draw.index)} numbers for {len(x)} images")


def random_crop(x: torch.Tensor, draw: Draw, pad: int = 4) -> torch.Tensor:
    """Pad with zeros by `pad` pixels, cut a window of the old size at random."""
    _check(x, draw)
    checks.whole("pad", pad, 0)
    n, _, h, w = x.shape
    shift = (draw.at(stream=Stream.CROP).uniform(2) * (2 * pad + 1)).long()
    rows = torch.arange(h, device=x.device) + shift[:, :1]
    cols = torch.arange(w, device=x.device) + shift[:, 1:]
    padded = F.pad(x, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    image = torch.arange(n, device=x.device)[:, None, None]
    return padded[image, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)


def random_flip(x: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Mirror left and right with probability 1/2."""
    _check(x, draw)
    mirrored = draw.at(stream=Stream.FLIP).uniform(1, 1, 1) < 0.5
    return torch.where(mirrored, x.flip(3), x)


def cutout(x: torch.Tensor, draw: Draw, side: int = 16) -> torch.Tensor:
    """Set a square of `side` pixels, centred anywhere in the image, to zero (DeVries & Taylor 2017)."""
    _check(x, draw)
    checks.whole("side", side, 1)
    h, w = x.shape[2:]
    centre = draw.at(stream=Stream.CUTOUT).uniform(2)
    rows = (torch.arange(h, device=x.device) + 0.5 - h * centre[:, :1]).abs() < side / 2
    cols = (torch.arange(w, device=x.device) + 0.5 - w * centre[:, 1:]).abs() < side / 2
    return x.masked_fill((rows[:, :, None] & cols[:, None, :])[:, None], 0)


def autoaugment(x: torch.Tensor, draw: Draw) -> torch.Tensor:
    """torchvision's AutoAugment with the policy learned on CIFAR-10 (Cubuk et al. 2019). x: uint8."""
    _check(x, draw)
    if x.dtype != torch.uint8 or x.shape[1] not in (1, 3):
        raise TypeError(f"x: expected uint8 images of 1 or 3 channels, got {checks.shown(x)}")
    policy = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    seeds = (draw.at(stream=Stream.AUTOAUGMENT).uniform(1)[:, 0] * 2**24).long().tolist()
    rows = []
    with torch.random.fork_rng(devices=[]):  # it draws from torch's generator, on the processor
        for image, seed in zip(x, seeds, strict=True):
            torch.manual_seed(seed)
            rows.append(policy(image))
    return torch.stack(rows)


AUGMENTATIONS = {"crop": random_crop, "flip": random_flip, "cutout": cutout, "autoaugment": autoaugment}
