"""Counter-based randomness: every number is a hash of (seed, image index, step, copy, stream), computed on the device.

There is no state. The same image gets the same draws whatever batch, shard or order it comes in, and no draw waits
for the host. The mixer is the 32-bit finaliser "lowbias32" (C. Wellons, "Prospecting for hash functions", 2018, public
domain), carried in int32 tensors whose products wrap; on a GPU one kernel does all of it (`kernels.draws`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import torch

from .. import kernels

_GOLDEN = 0x9E3779B9  # 2^32 / golden ratio: spreads consecutive counters over the range


def _signed(word: int) -> int:
    """The int32 with the same 32 bits as `word`."""
    return ((word & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


def _shifted(h: torch.Tensor, by: int) -> torch.Tensor:
    """Logical right shift of int32 bits: torch shifts the sign in, so it is masked off."""
    return (h >> by).bitwise_and_((1 << (32 - by)) - 1)


def mix(h: torch.Tensor) -> torch.Tensor:
    """lowbias32 on an int32 tensor of any shape: a bijection of the 32-bit words with little bias."""
    h = (h ^ _shifted(h, 16)).mul_(0x7FEB352D)
    h = h.bitwise_xor_(_shifted(h, 15)).mul_(_signed(0x846CA68B))
    return h.bitwise_xor_(_shifted(h, 16))


def content(x: torch.Tensor) -> torch.Tensor:
    """int32 (N,): a hash of each image's pixels, rounded to 8 bits, as the `index` of draws that belong to what the
    image shows. x: float (N, C, H, W) in [0, 1]."""
    levels = (x.detach() * 255).round().to(torch.int32).flatten(1)
    place = mix(torch.arange(levels.shape[1], dtype=torch.int32, device=x.device))
    return mix(levels ^ place).sum(1).to(torch.int32)


def _unit(h: torch.Tensor) -> torch.Tensor:
    """Upper 24 bits as float32 in [0, 1): exactly the floats that a 24-bit mantissa holds."""
    return _shifted(h, 8).to(torch.float32).mul_(2.0**-24)


class Stream(IntEnum):
    """What a random number of an image is for. Numbers of two streams are independent, those of one stream are the
    same; whoever draws takes a member of this list."""

    NOISE = 1  # in a ball: the random start of an attack, and of a local Lipschitz constant
    PATH = 2  # around the points of an integrated gradient
    RADIUS = 3  # of noise in an L2 ball
    NEIGHBOUR = 4  # points around an iterate, at which gradients are averaged
    TRANSFORM = 16  # the first transform of a chain; every transform has 16 streams
    CHAPTER = 98  # and 99: what a chapter draws by itself
    CROP, FLIP, CUTOUT, AUTOAUGMENT = 101, 102, 103, 104
    OBJECTIVE = 200  # and 201: what an objective of training draws
    OPTIMIZER = 210  # what an optimizer draws; the index is that of a tensor of weights
    DEFENCE = 4096  # and the three that follow
    DROPPED_PIXELS, PALETTE = 4100, 4101  # PALETTE and the one that follows
    SELF_ENSEMBLE = 4112  # and the following, one for each layer of noise
    NES, NATTACK, START, WALK, SIGNS = 5000, 5001, 5002, 5003, 5004  # attacks that query; up to 5009
    DROPPED, SKIPPED = 1 << 20, 1 << 21  # of ghost networks; each eroded layer has one, from these on
    # The pictures of `shapes` are drawn from seeds of their own.
    LABEL, SENSOR, LEAVES, PAINT, FIGURE = 1, 2, 3, 4, 5


@dataclass(frozen=True)
class Draw:
    """Where a random number belongs. `index` and `copy` have shape (N,), int64 or int32, on the device of the images;
    `seed`, `step` and `stream` are integers. sign: which way the attack goes that draws, 1 where it raises its loss and
    -1 where it lowers it, for gradient functions that look ahead; no number depends on it."""

    seed: int
    index: torch.Tensor
    step: int = 0
    copy: torch.Tensor | int = 0
    stream: int = 0
    sign: int = 1

    def at(self, **changes: Any) -> Draw:
        """The same draw at another step, copy or stream."""
        return replace(self, **changes)

    def branch(self, number: torch.Tensor) -> Draw:
        """An independent draw for every number, an integer tensor like `index`, of a point where transforms draw anew.
        That of 0 is this one."""
        other = mix(self.index.to(torch.int32) ^ mix(number.to(torch.int32)))
        return replace(self, index=torch.where(number == 0, self.index.to(torch.int32), other))

    def place(self) -> tuple[torch.Tensor, torch.Tensor, int, int, int]:
        """This draw as kernels take it: index and copy of each row, (N,), and seed, step and stream as int32."""
        index = self.index.contiguous()
        copy = self.copy if isinstance(self.copy, torch.Tensor) else torch.full_like(index, _signed(self.copy))
        return index, copy.expand_as(index).contiguous(), _signed(self.seed), _signed(self.step), _signed(self.stream)

    def words(self, count: int) -> torch.Tensor:
        """(N, count) int32 hash words."""
        h = mix(torch.full_like(self.index, _signed(self.seed), dtype=torch.int32))
        for word in (self.index, self.step, self.copy, self.stream):
            word = word.to(torch.int32) if isinstance(word, torch.Tensor) else _signed(word)
            h = mix(h ^ word)
        counter = torch.arange(count, dtype=torch.int32, device=h.device) * _signed(_GOLDEN)
        return mix(h[:, None] + counter)

    def uniform(self, *shape: int) -> torch.Tensor:
        """(N, *shape) float32, uniform on [0, 1)."""
        if kernels.run_on(self.index):
            from ..kernels.draws import uniform

            return uniform(*self.place(), _count(shape)).reshape(-1, *shape)
        return _unit(self.words(_count(shape))).reshape(-1, *shape)

    def normal(self, *shape: int) -> torch.Tensor:
        """(N, *shape) float32, standard normal (Box-Muller)."""
        if kernels.run_on(self.index):
            from ..kernels.draws import normal

            return normal(*self.place(), _count(shape)).reshape(-1, *shape)
        n = _count(shape)
        u = _unit(self.words(2 * n))
        radius = torch.sqrt(-2.0 * torch.log1p(-u[:, :n]))
        return (radius * torch.cos(2 * torch.pi * u[:, n:])).reshape(-1, *shape)


def _count(shape: tuple[int, ...]) -> int:
    n = 1
    for s in shape:
        n *= s
    return n
