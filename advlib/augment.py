"""Training augmentation, random per image: crop, flip and Cutout in batch, on the device; AutoAugment image by image.

Every function maps images (N, C, H, W) to images of the same shape and type; `draw` says where the randomness comes
from (step = epoch).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from .draws import Draw


def random_crop(x: torch.Tensor, draw: Draw, pad: int = 4) -> torch.Tensor:
    """Pad with zeros by `pad` pixels, cut a window of the old size at random."""
    n, _, h, w = x.shape
    shift = (draw.at(stream=101).uniform(2) * (2 * pad + 1)).long()
    rows = torch.arange(h, device=x.device) + shift[:, :1]
    cols = torch.arange(w, device=x.device) + shift[:, 1:]
    padded = F.pad(x, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    image = torch.arange(n, device=x.device)[:, None, None]
    return padded[image, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)


def random_flip(x: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Mirror left and right with probability 1/2."""
    mirrored = draw.at(stream=102).uniform(1, 1, 1) < 0.5
    return torch.where(mirrored, x.flip(3), x)


def cutout(x: torch.Tensor, draw: Draw, side: int = 16) -> torch.Tensor:
    """Set a square of `side` pixels, centred anywhere in the image, to zero (DeVries & Taylor 2017)."""
    h, w = x.shape[2:]
    centre = draw.at(stream=103).uniform(2) * torch.tensor([h, w], device=x.device)
    rows = (torch.arange(h, device=x.device) + 0.5 - centre[:, :1]).abs() < side / 2
    cols = (torch.arange(w, device=x.device) + 0.5 - centre[:, 1:]).abs() < side / 2
    return x.masked_fill((rows[:, :, None] & cols[:, None, :])[:, None], 0)


def autoaugment(x: torch.Tensor, draw: Draw) -> torch.Tensor:
    """torchvision's AutoAugment with the policy learned on CIFAR-10 (Cubuk et al. 2019). x: uint8."""
    policy = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    seeds = (draw.at(stream=104).uniform(1)[:, 0] * 2**24).long().tolist()
    rows = []
    with torch.random.fork_rng(devices=[]):  # it draws from torch's generator, on the processor
        for image, seed in zip(x, seeds, strict=True):
            torch.manual_seed(seed)
            rows.append(policy(image))
    return torch.stack(rows)


AUGMENTATIONS = {"crop": random_crop, "flip": random_flip, "cutout": cutout, "autoaugment": autoaugment}
