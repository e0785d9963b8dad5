"""How many images go through a network at once on a processor: those whose features its caches can hold.

A batch of 128 small images in parts of 32 takes half to nine tenths of the time, and gives the same bits; a GPU takes
it whole.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

SMALL = 64
"""Up to how many pixels a side of an image is small."""
_FEWEST = 4
"""Fewer rows than this are multiplied in another order: they would be rounded otherwise."""


def at_once(x: torch.Tensor, copies: int = 1) -> int:
    """How many of the images x, (N, C, H, W), go through a network in one piece, `copies` of each: on a processor 32
    for each thread, 16 where they are larger than SMALL, elsewhere all. A compiler is shown all of them, too."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return len(x)
    rows = (32 if max(x.shape[2:]) <= SMALL else 16) * torch.get_num_threads()
    return max(_FEWEST, rows // copies)


def in_parts(
    function: Callable[..., torch.Tensor], x: torch.Tensor, *others: torch.Tensor, copies: int = 1
) -> torch.Tensor:
    """function(x, *others), which treats every row by itself, of parts of nearly one size; the others have a row for
    each image of x."""
    count = -(-len(x) // at_once(x, copies))
    if count == 1:
        return function(x, *others)
    parts = zip(*(t.tensor_split(count) for t in (x, *others)), strict=True)
    return torch.cat([function(*part) for part in parts])
