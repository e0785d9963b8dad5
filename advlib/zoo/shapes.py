"""shapes: ten classes of coloured, striped shapes over dead-leaves clutter, drawn by signed distance at any resolution.

An image is a function of (seed, index) alone: no download, no state, the same picture whatever batch it is made in. A
teaching set: it stands in for photographs so that everything runs on a fresh, offline machine, and nothing measured
on it says anything about the thesis' tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ..core import checks
from ..core.draws import Draw, Stream

CLASSES = ("disc", "triangle", "square", "star", "ring", "plus", "crescent", "bar", "corner", "half-disc")

# Splits are disjoint ranges of the index: (first, last + 1, usual number of images).
RANGES = {"train": (0, 1_000_000, 10_000), "val": (1_000_000, 1_100_000, 1_000), "test": (1_100_000, 1_200_000, 2_000)}

BEHIND, BEFORE = 12, 1  # discs of clutter behind the shape and in front of it
SEED = 2024


SIDES = (8, 4096)
"""The smallest and the largest side in pixels."""


def indices(split: str, n: int | None = None) -> torch.Tensor:
    """int64 (n,): the first n indices of a split, its usual number if None. Raises TypeError or ValueError for another
    split, or an n that it does not have."""
    checks.choice("split", split, RANGES)
    first, stop, usual = RANGES[split]
    n = usual if n is None else n
    checks.whole("n", n, 1)
    if n > stop - first:
        raise ValueError(f"n={n}: the {split} split of shapes has {stop - first:,} images")
    return torch.arange(first, first + n)


def make(index: torch.Tensor, size: int = 32, seed: int = SEED, with_mask: bool = False) -> tuple[torch.Tensor, ...]:
    """Images uint8 (N, 3, size, size) and labels int64 (N,) for the given indices, on their device.

    index: int64 or int32 (N,). with_mask: also the foreground's coverage, float32 (N, 1, size, size) in [0, 1].
    Raises TypeError or ValueError for another index or seed, or a size that is not one of 8 to 4096 pixels.
    """
    if not isinstance(index, torch.Tensor) or index.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"index: expected an integer tensor of shape (N,), got {checks.shown(index)}")
    if index.dim() != 1:
        raise ValueError(f"index: expected shape (N,), got {tuple(index.shape)}")
    checks.whole("size", size, *SIDES)
    checks.whole("seed", seed)
    checks.flag("with_mask", with_mask)
    pieces = [_render(Draw(seed, part), size) for part in index.split(max(1, 2_000_000 // size**2))]
    images, labels, masks = (torch.cat(p) for p in zip(*pieces, strict=True))
    return (images, labels, masks) if with_mask else (images, labels)


def _render(draw: Draw, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    grid = (torch.arange(size, device=draw.index.device) + 0.5) * (
        2 / size
    ) - 1  # pixel centres, the image is [-1, 1]^2
    x, y = grid[None, None, :], grid[None, :, None]
    label = (draw.at(stream=Stream.LABEL).uniform() * len(CLASSES)).long()
    leaves = _leaves(draw)
    image = leaves[2][:, -1, :, None, None].expand(-1, -1, size, size)  # the colour of the ground
    for k in range(BEHIND):
        image, _ = _covered(image, leaves, k, x, y, size)
    mask, stripes = _shape(draw, label, x, y, size)
    image = torch.lerp(image, _paint(draw, stripes), mask[:, None])
    for k in range(BEHIND, BEHIND + BEFORE):
        image, leaf = _covered(image, leaves, k, x, y, size)
        mask = mask * (1 - leaf)
    image += 0.02 * draw.at(stream=Stream.SENSOR).normal(3, size, size)  # sensor noise, 5/255
    return image.mul_(255).round_().clamp_(0, 255).to(torch.uint8), label, mask[:, None]


def _coverage(distance: torch.Tensor, size: int) -> torch.Tensor:
    """Share of a pixel inside, from the signed distance of its centre (in half image sides): antialiasing."""
    return (0.5 - distance * (size / 2)).clamp_(0, 1)


def _leaves(draw: Draw) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Centres (N, K, 2), radii (N, K) and colours (N, K, 3) of the discs, one more colour than discs are drawn. The
    density of the radii falls as r^-3, as that of objects in photographs does (Lee et al. 2001); those in front are
    the small ones."""
    u = draw.at(stream=Stream.LEAVES).uniform(BEHIND + BEFORE + 1, 6)
    radius = 0.15 / torch.sqrt(1 - 0.96 * u[..., 2])  # 0.15 to 0.75
    radius[:, BEHIND:] = 0.15 + 0.1 * u[:, BEHIND:, 2]
    return 2.4 * u[..., :2] - 1.2, radius, _muted(u[..., 3:])


def _covered(
    image: torch.Tensor, leaves: tuple[torch.Tensor, ...], k: int, x: torch.Tensor, y: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The image with disc k on top, and the disc's coverage (N, size, size)."""
    centre, radius, colour = (part[:, k] for part in leaves)
    distance = torch.sqrt((x - centre[:, :1, None]) ** 2 + (y - centre[:, 1:, None]) ** 2) - radius[:, None, None]
    leaf = _coverage(distance, size)
    return torch.lerp(image, colour[:, :, None, None].expand_as(image), leaf[:, None]), leaf


def _muted(u: torch.Tensor) -> torch.Tensor:
    """Colours with a lightness in [0.2, 0.8], each channel up to 0.15 away from it."""
    return 0.2 + 0.6 * u[..., :1] + 0.3 * (u - 0.5)


def _paint(draw: Draw, stripes: torch.Tensor) -> torch.Tensor:
    """(N, 3, size, size): two shades of one colour, alternating along the stripes."""
    u = draw.at(stream=Stream.PAINT).uniform(4)
    hue = 2 * math.pi * (u[:, :1] + torch.tensor([0, 1 / 3, 2 / 3], device=u.device))
    base = 0.5 + 0.2 * (2 * u[:, 1:2] - 1) + 0.28 * torch.cos(hue)
    return base[:, :, None, None] + (0.1 + 0.1 * u[:, 2])[:, None, None, None] * stripes[:, None]


def _shape(
    draw: Draw, label: torch.Tensor, x: torch.Tensor, y: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Coverage (N, size, size) of the shape and its stripes in [-1, 1]."""
    u = draw.at(stream=Stream.FIGURE).uniform(7)
    scale = (0.45 + 0.3 * u[:, 0])[:, None, None]
    room = 1 - 0.85 * scale
    turn = 2 * math.pi * u[:, 3, None, None]
    px, py = x - room * (2 * u[:, 1, None, None] - 1), y - room * (2 * u[:, 2, None, None] - 1)
    px, py = (turn.cos() * px + turn.sin() * py) / scale, (turn.cos() * py - turn.sin() * px) / scale
    distance = torch.empty_like(px)
    for k, sdf in enumerate(_SIGNED_DISTANCE):
        rows = (label == k).nonzero()[:, 0]
        distance[rows] = sdf(px[rows], py[rows])
    along = 2 * math.pi * u[:, 4, None, None]
    phase = (along.cos() * px + along.sin() * py) * (6 + 6 * u[:, 5, None, None]) + 2 * math.pi * u[:, 6, None, None]
    return _coverage(distance * scale, size), torch.sin(phase)


# --- signed distances to shapes of about unit radius: negative inside. Bounds where exact ones would be longer. -------


def _box(x: torch.Tensor, y: torch.Tensor, cx: float, cy: float, half_w: float, half_h: float) -> torch.Tensor:
    return torch.maximum((x - cx).abs() - half_w, (y - cy).abs() - half_h)


def _radius(x: torch.Tensor, y: torch.Tensor, cx: float = 0.0, cy: float = 0.0) -> torch.Tensor:
    return torch.sqrt((x - cx) ** 2 + (y - cy) ** 2)


def _triangle(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.maximum(-y, (math.sqrt(3) / 2) * x.abs() + 0.5 * y) - 0.5


def _star(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Five points: the angle folded into one tenth, then the line from a tip to the notch beside it."""
    tip, notch, tenth = 1.0, 0.42, math.pi / 5
    angle = torch.remainder(torch.atan2(y, x), 2 * tenth)
    angle = torch.minimum(angle, 2 * tenth - angle)
    r = _radius(x, y)
    ex, ey = notch * math.cos(tenth) - tip, notch * math.sin(tenth)
    length = math.hypot(ex, ey)
    return (ey * (r * torch.cos(angle) - tip) - ex * (r * torch.sin(angle))) / length


def _crescent(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.maximum(_radius(x, y) - 0.9, 0.7 - _radius(x, y, 0.45))


_SIGNED_DISTANCE: tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], ...] = (
    lambda x, y: _radius(x, y) - 0.8,
    _triangle,
    lambda x, y: _box(x, y, 0, 0, 0.7, 0.7),
    _star,
    lambda x, y: (_radius(x, y) - 0.65).abs() - 0.2,
    lambda x, y: torch.minimum(_box(x, y, 0, 0, 0.9, 0.27), _box(x, y, 0, 0, 0.27, 0.9)),
    _crescent,
    lambda x, y: _box(x, y, 0, 0, 0.95, 0.27),
    lambda x, y: torch.minimum(_box(x, y, 0, -0.5, 0.75, 0.25), _box(x, y, -0.5, 0, 0.25, 0.75)),
    lambda x, y: torch.maximum(_radius(x, y, 0, -0.4) - 0.95, -0.4 - y),
)
