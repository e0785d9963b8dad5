"""Input transforms of transfer attacks: input diversity, scaled copies, mixed images, random erasure.

A transform maps images x (N, C, H, W) to images of the same shape, differentiably, random per image. It has `copies`:
how many transformed versions of an image the gradient averages over. `copy`, int64 (N,), says which of them each row
is; `draw` is where its randomness comes from. One that `repeats` also takes N images where draw and copy have k N rows,
row r of image r % N, and writes into none: the first of a chain then makes the copies itself. Nothing here waits for
the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from . import kernels
from .core import checks
from .core.draws import Draw, content


@dataclass(frozen=True)
class InputDiversity:
    """DIM: shrink and pad at random with probability p (Xie et al. 2019).

    The original enlarges the image to a side drawn from [side, scale * side), pads it with zeros at a random place to
    scale * side, and lets the network take the larger canvas. Here the canvas is resampled to the input's own size in
    the same bilinear step, per image, so that any network takes it.
    scale: canvas over image, 1.1 is 299 to 330. p: probability, per image and copy.
    """

    p: float = 0.5
    scale: float = 1.1
    copies: int = 1

    def __post_init__(self) -> None:
        checks.number("p", self.p, 0, 1)
        checks.number("scale", self.scale, 1)
        checks.whole("copies", self.copies, 1)

    def __call__(self, x: torch.Tensor, draw: Draw, copy: torch.Tensor) -> torch.Tensor:
        if kernels.run_on(x) and x.dtype != torch.float64:  # which the kernel does not compute in
            from .kernels.resizing import resize

            return resize(x, *draw.place(), float(self.p), float(self.scale), False)
        u = draw.uniform(4)
        applied = u[:, 0] < self.p
        size = torch.where(applied, 1 + (self.scale - 1) * u[:, 1], self.scale)  # of the resized image, in image sides
        rows = self._sampling(x.shape[2], size, u[:, 2], applied)
        cols = self._sampling(x.shape[3], size, u[:, 3], applied)
        # (N, 1, H', H) @ (N, C, H, W) @ (N, 1, W, W'): separable, and its backward pass is deterministic on GPUs.
        return rows[:, None].to(x) @ x @ cols[:, None].transpose(2, 3).to(x)

    def _sampling(self, side: int, size: torch.Tensor, place: torch.Tensor, applied: torch.Tensor) -> torch.Tensor:
        """(N, side, side) bilinear interpolation matrices: output pixel to input pixels along one axis."""
        device = size.device
        pixel = torch.arange(side, device=device, dtype=torch.float32)
        offset = (self.scale - size) * place * side  # of the image in the canvas, in pixels of the image
        canvas = (pixel + 0.5) * self.scale
        source = (canvas - offset[:, None]) / size[:, None] - 0.5
        source = torch.where(applied[:, None], source, pixel)
        return (1 - (source[:, :, None] - pixel).abs()).clamp_(min=0)


@dataclass(frozen=True)
class ScaleCopies:
    """SIM: the i-th of m copies is x / 2^i, i = 0 .. m-1 (Lin et al. 2020).

    origin: the grey value that copies shrink to: 0 (black) is x / 2^i on [0, 1] images; 0.5 is what the same formula
    does to images in [-1, 1], as in the thesis' setup.
    """

    copies: int = 5
    origin: float = 0.0

    def __post_init__(self) -> None:
        checks.whole("copies", self.copies, 1)
        checks.number("origin", self.origin)

    def __call__(self, x: torch.Tensor, draw: Draw, copy: torch.Tensor) -> torch.Tensor:
        scale = torch.exp2(-copy.to(x.dtype))[:, None, None, None]
        return self.origin + (x - self.origin) * scale if self.origin else x * scale


@dataclass(frozen=True, eq=False)
class MixedImages:
    """Admix before its scaled copies: x + eta x', x' an image of `pool`, drawn per image and copy (Wang et al. 2021).

    pool: float (P, C, H, W) in [0, 1], of the size of x, on its device. Where the paper draws x' from other classes,
    and its published code from the batch, here it is any image of a pool that no batch changes.
    eta: weight of x'. Nothing is clipped, as there. Raises TypeError or ValueError for a pool that does not hold such
    images, or eta < 0; when called, ValueError for images of another size or device than those of the pool.
    """

    pool: torch.Tensor
    eta: float = 0.2
    copies: int = 3

    def __post_init__(self) -> None:
        checks.images(self.pool, "pool")
        checks.number("eta", self.eta, 0)
        checks.whole("copies", self.copies, 1)

    def __call__(self, x: torch.Tensor, draw: Draw, copy: torch.Tensor) -> torch.Tensor:
        if self.pool.shape[1:] != x.shape[1:]:
            raise ValueError(f"pool: images of {tuple(self.pool.shape[1:])}, but those of x are {tuple(x.shape[1:])}")
        checks.same_place(self.pool, x, "pool")
        # The draw is one of this copy and not of the chain's: the scaled copies that follow share their image.
        which = (draw.at(copy=copy).uniform(1)[:, 0] * len(self.pool)).long()
        return x + self.eta * self.pool[which].to(x.dtype)

    def __repr__(self) -> str:
        """With a hash of the pool, since a table that is resumed knows its attacks by their description."""
        images = int(content(self.pool).sum())
        return f"MixedImages(pool={len(self.pool)} images {images}, eta={self.eta}, copies={self.copies})"


@dataclass(frozen=True)
class RandomErasure:
    """RE: a random rectangle of each image is replaced (thesis, sect. 2.2.2 and Alg. 1; Zhong et al. 2020).

    Copy 0 is intact, every other copy is erased with probability p. A share s ~ U[0, s_h] of the image is erased, by a
    rectangle of height over width r.
    aspect: "random" draws log r uniformly from [log 0.3, log 1/0.3], cut to the aspects at which the rectangle fits; a
        number fixes r as the thesis' text does (0.3), with s cut to what fits: at r = 0.3 nothing above s = 0.3 does.
        Either way a draw that would not fit is never made, so that nothing is drawn twice.
    fill: "noise" (uniform on [0, 1]), or a grey value. No gradient flows through erased pixels.
    """

    repeats: ClassVar[bool] = True
    copies: int = 5
    p: float = 0.5
    s_h: float = 0.4
    aspect: float | str = "random"
    fill: float | str = "noise"

    def __post_init__(self) -> None:
        checks.whole("copies", self.copies, 1)
        checks.number("p", self.p, 0, 1)
        checks.number("s_h", self.s_h, 0, below=1)
        if isinstance(self.aspect, str):
            checks.choice("aspect", self.aspect, ("random",))
        else:
            checks.number("aspect", self.aspect, above=0, note="or 'random'")
        if isinstance(self.fill, str):
            checks.choice("fill", self.fill, ("noise",))
        else:
            checks.number("fill", self.fill, 0, 1, note="or 'noise'")

    def __call__(self, x: torch.Tensor, draw: Draw, copy: torch.Tensor) -> torch.Tensor:
        if kernels.run_on(x) and x.dtype != torch.float64:  # which the kernel does not compute in
            return self._fused(x, draw, copy)
        erased = self.mask(x.shape[2], x.shape[3], draw, copy)
        fill = (
            draw.at(stream=draw.stream + 1).uniform(*x.shape[1:]).to(x.dtype)
            if isinstance(self.fill, str)
            else x.new_full((), self.fill)
        )
        return torch.where(erased, fill, x if len(x) == len(copy) else x.repeat(len(copy) // len(x), 1, 1, 1))

    def _fused(self, x: torch.Tensor, draw: Draw, copy: torch.Tensor) -> torch.Tensor:
        """The same in one launch, which writes the copies and nothing else."""
        from .kernels.erasure import erase

        aspect = None if isinstance(self.aspect, str) else float(self.aspect)
        fill = None if isinstance(self.fill, str) else float(self.fill)
        return erase(
            x, copy.contiguous(), *draw.place(), float(self.p), self._most(x.shape[2], x.shape[3]), aspect, fill
        )

    def mask(self, h: int, w: int, draw: Draw, copy: torch.Tensor) -> torch.Tensor:
        """(N, 1, H, W) bool, True where the image is erased."""
        u = draw.uniform(5)
        height, width = self.rectangle(h, w, u[:, 0], u[:, 1])
        top, left = u[:, 2] * (h - height), u[:, 3] * (w - width)
        rows = _inside(h, top, height)
        cols = _inside(w, left, width)
        erased = ((u[:, 4] < self.p) & (copy > 0))[:, None, None]
        return (rows[:, :, None] & cols[:, None, :] & erased)[:, None]

    def rectangle(
        self, h: int, w: int, u_area: torch.Tensor, u_aspect: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Height and width in pixels, each (N,), from uniform numbers: H_e = sqrt(S_e r), W_e = sqrt(S_e / r)."""
        share = self._most(h, w) * u_area
        if isinstance(self.aspect, str):
            # H_e <= h and W_e <= w, that is s w / h <= r <= h / (s w).
            limit = torch.log(h / (w * share.clamp(min=1e-12)))
            low = torch.maximum(-limit + 2 * _log(h / w), torch.full_like(limit, _log(0.3)))
            high = torch.minimum(limit, torch.full_like(limit, -_log(0.3)))
            # On long images no aspect of the interval may fit: then the one that does and is nearest.
            r = torch.exp((low + (high - low) * u_aspect).clamp(-limit + 2 * _log(h / w), limit))
        else:
            r = torch.full_like(u_area, self.aspect)
        area = share * (h * w)
        return torch.sqrt(area * r), torch.sqrt(area / r)

    def _most(self, h: int, w: int) -> float:
        """The largest share of an image that is erased."""
        if isinstance(self.aspect, str):
            return self.s_h
        return min(self.s_h, self.aspect * w / h, h / (self.aspect * w))


def _inside(side: int, start: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """(N, side) bool: pixels whose centre lies in [start, start + length)."""
    centre = torch.arange(side, device=start.device, dtype=start.dtype) + 0.5
    return (centre >= start[:, None]) & (centre < (start + length)[:, None])


def _log(value: float) -> float:
    return float(torch.log(torch.tensor(value, dtype=torch.float64)))
