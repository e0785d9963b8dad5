"""How many images go through a network at once on a processor: some dozens, which keep its cores busy, and whose
features are pieces of memory that the C library does not give back to the system after each layer.

A batch of 128 small images in two parts takes half of the time on the small DenseNet in float32 (chapter A3, one
thread), and gives the same bits; where memory is kept (`kept`) the two are equal, and parts need less of it. A GPU
takes a batch whole.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

SMALL = 64
"""Up to how many pixels a side of an image is small."""
_FEWEST = 4
"""Fewer rows than this are multiplied in another order: they would be rounded otherwise."""


def images_at_once(x: torch.Tensor, copies: int = 1) -> int:
    """How many of the images x, (N, C, H, W), go through a network in one piece, `copies` of each: on a processor 64,
    and 32 for each of many threads, or 16 and 8 where they are larger than SMALL; elsewhere all. A compiler is shown
    all of them, too."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return len(x)
    few, of_thread = (64, 32) if max(x.shape[2:]) <= SMALL else (16, 8)
    return max(_FEWEST, max(few, of_thread * torch.get_num_threads()) // copies)


def in_parts(
    function: Callable[..., torch.Tensor], x: torch.Tensor, *others: torch.Tensor, copies: int = 1
) -> torch.Tensor:
    """function(x, *others), which treats every row by itself, of parts of nearly one size; the others have a row for
    each image of x."""
    count = -(-len(x) // images_at_once(x, copies))
    if count == 1:
        return function(x, *others)
    parts = zip(*(t.tensor_split(count) for t in (x, *others)), strict=True)
    return torch.cat([function(*part) for part in parts])
