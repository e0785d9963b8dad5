"""Defences that stand in front of a network, behind one interface.

    defended = JPEG(quality=75)(model)          images in [0, 1] to logits, like any model
    smoothed = RandomizedSmoothing(sigma=0.25)(model)
    smoothed.predict(x)                         classes; ABSTAIN where it declines to answer

A defence says of itself whether it is `faithful` (the published transformation), `retrained` (the published
architecture, trained by us) or a `proxy`, and how gradients pass through it: `exact`, `straight-through` (as if the
defence were the identity) or `none`.

Random defences draw from a hash of their seed and the image's content at 8 bits: the same image gets the same answer
in any batch and order, and one that an attack has moved by a level gets a fresh draw.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import beta, binom
from torch import nn

from ..core import checks
from ..core.checks import Model
from ..core.draws import Draw, Stream, content
from ..core.surrogate import frozen
from ..zoo.pictures import as_picture

ABSTAIN = -1
"""What `predict` says where a defence declines to answer. It is neither right nor a success of an attack."""

_VALUES = 1000 * 3 * 32 * 32  # numbers that are shown to the network at once: 1,000 images of 32 pixels


@dataclass(frozen=True)
class Defence:
    """What all defences share. A subclass gives `purified`, or `logits` where it needs several answers of a network.

    kind: "faithful", "retrained" or "proxy". gradients: "exact", "straight-through" or "none". abstains: whether
    `predict` may say ABSTAIN.
    """

    kind: ClassVar[str]
    gradients: ClassVar[str]
    abstains: ClassVar[bool] = False

    def __call__(self, model: Model, seed: int = 0) -> Defended:
        """`model` behind this defence. seed: of its random draws. Raises TypeError for what is no model or whole
        number."""
        checks.network(model)
        return Defended(self, model, seed)

    @property
    def networks(self) -> list[nn.Module]:
        """Networks of the defence itself."""
        return []

    def purified(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        """What the network is shown in place of x (N, C, H, W); H and W may change. x may lie a little outside [0, 1],
        as the points do that an attack looks ahead to."""
        raise NotImplementedError

    def logits(self, model: Model, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        """(N, K) logits of the defended model."""
        return asked(model, self.purified(x, draw))

    def predict(self, model: Model, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        """(N,) classes, or ABSTAIN."""
        return self.logits(model, x, draw).argmax(1)


class Defended(nn.Module):
    """A model behind a defence: images (N, C, H, W) to logits (N, K), on their device.

    The images are floats in [0, 1]; called as a model, it also takes points a little outside, which attacks look at,
    and a NaN comes out as NaN. Raises TypeError or ValueError for other types or shapes, or logits that are none.
    """

    def __init__(self, defence: Defence, model: Model, seed: int = 0) -> None:
        super().__init__()
        checks.instance("defence", defence, Defence, "a defence, such as JPEG(quality=75)")
        checks.whole("seed", seed)
        self.defence, self.model, self.seed = defence, model, seed
        self.networks = nn.ModuleList(defence.networks)  # frozen, moved and put in eval mode with the model

    def extra_repr(self) -> str:
        return f"{self.defence}, seed={self.seed}"

    def _draw(self, x: torch.Tensor) -> Draw:
        return Draw(self.seed, content(x), stream=Stream.DEFENCE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        checks.batch(x)
        return self.defence.logits(self.model, x, self._draw(x))

    @torch.no_grad()
    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """(N,) classes, ABSTAIN where the defence declines to answer. The networks answer in eval mode, whatever mode
        they are in, and stay as they are. Raises TypeError or ValueError unless x is float images in [0, 1]."""
        checks.images(x)
        with frozen([self]):
            return self.defence.predict(self.model, x, self._draw(x))


def asked(model: Model, views: torch.Tensor) -> torch.Tensor:
    """The model's logits (N, K), if that is what it gives. Raises TypeError or ValueError."""
    return checks.logits(model(views), len(views))


def straight_through(x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """`out`, with the gradient of x: the defence is taken for the identity on the way back (Athalye et al. 2018)."""
    return out.detach() + (x - x.detach())


def summed(
    answer: Callable[[torch.Tensor], torch.Tensor],
    view: Callable[[torch.Tensor, Draw], torch.Tensor],
    x: torch.Tensor,
    draw: Draw,
    draws: int,
) -> torch.Tensor:
    """(N, K) sum of answer(view of x) over `draws` random views of each image, as many at once as `_VALUES` allows."""
    total, at_once = 0.0, max(1, _VALUES // x.numel())
    for first in range(0, draws, at_once):
        k = min(at_once, draws - first)
        copy = torch.arange(first, first + k, device=x.device).repeat_interleave(len(x))
        rows = draw.at(index=draw.index.repeat(k), copy=copy)
        total = total + answer(view(x.repeat(k, 1, 1, 1), rows)).view(k, len(x), -1).sum(0)
    return total


def log_mean_probability(
    model: Model, view: Callable[[torch.Tensor, Draw], torch.Tensor], x: torch.Tensor, draw: Draw, draws: int
) -> torch.Tensor:
    """(N, K) log of the mean softmax of the model over `draws` random views of each image."""
    total = summed(lambda views: asked(model, views).softmax(1), view, x, draw, draws)
    return (total / draws).clamp(min=torch.finfo(total.dtype).tiny).log()


# --- quantisation and compression -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BitReduction(Defence):
    """Bit-Red: pixels keep `bits` bits (Xu et al. 2018, feature squeezing). The thesis does not say how many."""

    kind: ClassVar[str] = "faithful"
    gradients: ClassVar[str] = "straight-through"
    bits: int = 4

    def __post_init__(self) -> None:
        checks.whole("bits", self.bits, 1, 8)

    def purified(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        levels = 2**self.bits - 1
        return straight_through(x, (x.clamp(0, 1) * levels).round() / levels)


@dataclass(frozen=True)
class JPEG(Defence):
    """JPEG compression and decompression by a real codec, Pillow's libjpeg, on the host (Guo et al. 2018).

    colour: "half" keeps colour at half the resolution (4:2:0), as JPEG files of photographs do; "full" (4:4:4) is for
    images of so few pixels that half of them show another thing.
    """

    kind: ClassVar[str] = "faithful"
    gradients: ClassVar[str] = "straight-through"
    quality: int = 75
    colour: str = "half"

    def __post_init__(self) -> None:
        checks.whole("quality", self.quality, 1, 100)
        checks.choice("colour", self.colour, ("half", "full"))

    def purified(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        """x: grey, (N, 1, H, W), or of three colours. Raises ValueError for another number of channels."""
        if x.shape[1] not in (1, 3):
            raise ValueError(f"x: {x.shape[1]} channels; JPEG takes 1 or 3")
        # Beyond black and white uint8 would start again at the other end; NaN comes back through `straight_through`.
        levels = (x.detach().nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)
        back = np.stack([self._through_a_file(image) for image in levels.permute(0, 2, 3, 1).cpu().numpy()])
        return straight_through(x, torch.from_numpy(back).permute(0, 3, 1, 2).to(x) / 255)

    def _through_a_file(self, image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        as_picture(image).save(file, "JPEG", quality=self.quality, subsampling=2 if self.colour == "half" else 0)
        return np.asarray(Image.open(file)).reshape(image.shape)


@dataclass(frozen=True)
class FeatureDistillation(Defence):
    """FD: the DCT coefficients of 8x8 blocks of each colour are rounded to multiples of a step that is finer in the low
    band (Liu et al. 2019). The steps are those of the published code: 25 in the lower 4x4 of the 64 coefficients, 30
    in the others, in units of 1/255 under the orthonormal DCT. A last block that the image does not fill is completed
    by its border."""

    kind: ClassVar[str] = "faithful"
    gradients: ClassVar[str] = "straight-through"
    low: float = 25.0
    high: float = 30.0

    def __post_init__(self) -> None:
        checks.number("low", self.low, above=0)
        checks.number("high", self.high, above=0)

    def purified(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        n, c, h, w = x.shape
        padded = F.pad(x.detach(), (0, -w % 8, 0, -h % 8), mode="replicate")
        rows, cols = padded.shape[2] // 8, padded.shape[3] // 8
        blocks = padded.view(n, c, rows, 8, cols, 8).transpose(3, 4)
        basis = dct_basis().to(x)
        step = x.new_full((8, 8), self.high / 255)
        step[:4, :4] = self.low / 255
        coefficients = basis @ blocks @ basis.T
        kept = (coefficients / step).round() * step
        out = (basis.T @ kept @ basis).transpose(3, 4).reshape(padded.shape)
        return straight_through(x, out[:, :, :h, :w].clamp(0, 1))


def dct_basis(n: int = 8) -> torch.Tensor:
    """(n, n) orthonormal DCT-II: row k holds the cosine of frequency k."""
    k, place = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    basis = torch.cos(torch.pi * k * (2 * place + 1) / (2 * n)) * (2 / n) ** 0.5
    basis[0] /= 2**0.5
    return basis


# --- randomisation ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RandomResizePad(Defence):
    """R&P: flip, enlarge to a random size, pad with grey at a random place, and average over `draws` of it (Xie et al.
    2018, with the constants of their entry to the NIPS 2017 competition: of a side of 299, sizes 310 to 330 on a
    canvas of 331, nearest neighbour, 30 draws; the network is shown the canvas). The auxiliary head of their
    Inception-ResNet has no part in it here.

    The canvas is larger than the image. A network of one size, such as a ViT, needs a resize in front, which
    `models.Normalized(net, mean, std, size)` has; without it `logits` raises ValueError."""

    kind: ClassVar[str] = "faithful"
    gradients: ClassVar[str] = "exact"
    draws: int = 30

    def __post_init__(self) -> None:
        checks.whole("draws", self.draws, 1)

    def purified(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        u = draw.uniform(4)
        flipped = torch.where((u[:, 0] < 0.5)[:, None, None, None], x.flip(3), x)
        rows = self._selection(x.shape[2], u[:, 1], u[:, 2]).to(x)
        cols = self._selection(x.shape[3], u[:, 1], u[:, 3]).to(x)
        return 0.5 + rows[:, None] @ (flipped - 0.5) @ cols[:, None].transpose(2, 3)

    def _selection(self, side: int, u_size: torch.Tensor, u_place: torch.Tensor) -> torch.Tensor:
        """(N, canvas, side) zeros and ones: which input pixel each pixel of the canvas shows."""
        low, canvas = round(side * 310 / 299), -(-side * 331 // 299)
        size = low + (u_size * (canvas - low)).long()
        start = (u_place * (canvas - size + 1)).long()
        inside = torch.arange(canvas, device=size.device) - start[:, None]
        shown = (inside * side).div(size[:, None], rounding_mode="floor")
        return shown[:, :, None] == torch.arange(side, device=size.device)

    def logits(self, model: Model, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return log_mean_probability(partial(_on_canvas, model, x.shape[2:]), self.purified, x, draw, self.draws)


def _on_canvas(model: Model, sides: torch.Size, views: torch.Tensor) -> torch.Tensor:
    try:
        return model(views)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model of one size raises
        (h, w), (tall, wide) = sides, views.shape[2:]
        raise ValueError(
            f"model: {type(error).__name__} on the canvas of {tall}x{wide} pixels that R&P makes of {h}x{w} ({error}); "
            "a network of one size needs a resize in front: models.Normalized(net, mean, std, size)"
        ) from error


@dataclass(frozen=True)
class RandomizedSmoothing(Defence):
    """RS: the class that a network trained on noisy images names most often under Gaussian noise (Cohen et al. 2019).

    sigma: of the noise, in [0, 1] units; n: noisy copies for an answer; alpha: probability of a wrong answer, or of a
    certificate that does not hold. `predict` abstains, `certify` gives a radius. The logits are those of the soft
    vote, the log of the mean probability (Salman et al. 2019): they have a gradient, and no abstention.
    """

    kind: ClassVar[str] = "faithful"
    gradients: ClassVar[str] = "exact"
    abstains: ClassVar[bool] = True
    sigma: float = 0.25
    n: int = 100
    alpha: float = 0.001

    def __post_init__(self) -> None:
        checks.number("sigma", self.sigma, above=0)
        checks.whole("n", self.n, 1)
        checks.number("alpha", self.alpha, above=0, below=1)

    def purified(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return x + self.sigma * draw.normal(*x.shape[1:]).to(x)

    def logits(self, model: Model, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return log_mean_probability(model, self.purified, x, draw, self.n)

    def predict(self, model: Model, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Majority vote of n noisy copies. ABSTAIN where the Clopper-Pearson interval, at level 1 - alpha, of the first
        class' share among the votes for the first two holds 1/2 (PREDICT of Cohen et al., Alg. 1)."""
        votes, classes = self.votes(model, x, draw, self.n).topk(2, dim=1)
        a, b = votes.cpu().numpy().T
        # The interval leaves 1/2 out exactly where the binomial test of a fair coin rejects, at the same level.
        undecided = 2 * binom.sf(a - 1, a + b, 0.5) > self.alpha
        return torch.where(torch.from_numpy(undecided).to(x.device), ABSTAIN, classes[:, 0])

    def certify(self, model: Model, x: torch.Tensor, n: int = 1000, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """(classes, radii), each (N,): no perturbation of L2 length below the radius, in [0, 1] units, changes the
        class, with probability 1 - alpha (CERTIFY of Cohen et al., Alg. 1). `self.n` copies choose the class, `n`
        others bound its probability from below by Clopper-Pearson; below 1/2 the class is ABSTAIN and the radius 0.
        Raises TypeError or ValueError for x other than images in [0, 1], or another n or seed.
        """
        checks.network(model)
        checks.images(x)
        checks.whole("n", n, 1)
        checks.whole("seed", seed)
        draw = Draw(seed, content(x), stream=Stream.DEFENCE)
        with torch.no_grad(), frozen([model]):
            chosen = self.votes(model, x, draw, self.n).argmax(1)
            found = self.votes(model, x, draw.at(stream=Stream.DEFENCE + 1), n).gather(1, chosen[:, None])[:, 0]
        k = found.cpu().numpy()
        p = torch.from_numpy(np.where(k > 0, beta.ppf(self.alpha, np.maximum(k, 1), n - k + 1), 0.0)).to(x.device)
        holds = p > 0.5
        radius = self.sigma * torch.special.ndtri(p)
        return torch.where(holds, chosen, ABSTAIN), torch.where(holds, radius, 0.0).to(x)

    def votes(self, model: Model, x: torch.Tensor, draw: Draw, n: int) -> torch.Tensor:
        """(N, K) how many of n noisy copies each class wins."""

        def one_hot(views: torch.Tensor) -> torch.Tensor:
            logits = asked(model, views)
            return F.one_hot(logits.argmax(1), logits.shape[1])

        return summed(one_hot, self.purified, x, draw, n)


# --- an ensemble under random distortions -----------------------------------------------------------------------------


@dataclass(frozen=True)
class NIPSr3(Defence):
    """NIPS-r3: the weighted logits of four networks, each under distortions of its own (A. Thomas and O. Elibol, third
    in the NIPS 2017 defence competition; github.com/anlthms/nips-2017, mmd).

    It is given four networks, in the order of the original an ensemble adversarially trained one, an adversarially
    trained one, and two others: NIPSr3()([ens, adv, third, fourth]). The first (weight 0.7) sees the image sheared,
    shifted, zoomed out and turned by a few degrees; the second (0.2) sees it noisy, turned by 2 or 3 degrees and
    enlarged; both (0.1 each) also see a JPEG file of quality 50; the others (0.1, 0.05) see that file turned and cropped.
    Each distortion is one resampling, bilinear or nearest as in the original, which has four in a row or a spline; the
    auxiliary heads of its Inceptions are left out.
    """

    kind: ClassVar[str] = "faithful"
    gradients: ClassVar[str] = "straight-through"

    def __call__(self, model: Sequence[nn.Module], seed: int = 0) -> Defended:
        """The four networks behind this defence. Raises TypeError or ValueError for anything else."""
        checks.instance("model", model, (list, tuple), "a list of four networks")
        if len(model) != 4:
            raise ValueError(f"model: {len(model)} networks; NIPS-r3 takes a list of four")
        for i, network in enumerate(model):
            checks.module(network, f"model[{i}]")
        return Defended(self, nn.ModuleList(model), seed)

    def logits(self, model: nn.ModuleList, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        first, second, third, fourth = (partial(asked, network) for network in model)
        file = JPEG(quality=50).purified(x, draw)
        turned = self._turned(file, draw.at(stream=draw.stream + 2), (0.75, 0.8), 224 / 299)
        return (
            0.7 * first(self.purified(x, draw))
            + 0.1 * first(file)
            + 0.2 * second(self._turned(self._noisy(x, draw), draw.at(stream=draw.stream + 1), (1.05, 1.1)))
            + 0.1 * second(file)
            + 0.1 * third(turned)
            + 0.05 * fourth(turned)
        )

    def _noisy(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return (x + 2 / 255 * draw.at(stream=draw.stream + 3).normal(*x.shape[1:]).to(x)).clamp(0, 1)

    def purified(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        """What the first network sees: shear by pi/128, shift by 2 % of the side, zoom by 0.95, turn by -pi/128, each
        within 5 % of that."""
        shear, turn, down, right, tall, wide = (0.95 + 0.1 * draw.uniform(6)).T
        shear, turn = torch.pi / 128 * shear, -torch.pi / 128 * turn
        shearing = _matrix(torch.ones_like(shear), -shear.sin(), torch.zeros_like(shear), shear.cos())
        matrix = shearing @ _matrix(0.95 * tall, 0 * tall, 0 * tall, 0.95 * wide) @ _rotation(turn)
        shift = shearing @ (2 * 0.02 * torch.stack([down, right], 1)[:, :, None])  # of a side of length 2
        return _warped(x, matrix, shift, "nearest")

    def _turned(self, x: torch.Tensor, draw: Draw, zoom: tuple[float, float], crop: float = 1.0) -> torch.Tensor:
        """Turn by 2 or 3 degrees either way, enlarge each axis by a factor from `zoom`, keep the inner `crop`."""
        u = draw.uniform(4)
        degrees = torch.where(u[:, 0] < 0.5, 2.0, 3.0) * torch.where(u[:, 1] < 0.5, 1.0, -1.0)
        tall, wide = (crop / (zoom[0] + (zoom[1] - zoom[0]) * u[:, k]) for k in (2, 3))
        matrix = _rotation(torch.deg2rad(degrees)) @ _matrix(tall, 0 * tall, 0 * tall, wide)
        return _warped(x, matrix, torch.zeros_like(matrix[:, :, :1]), "bilinear")


def _matrix(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """(N, 2, 2) [[a, b], [c, d]], acting on (row, column)."""
    return torch.stack([a, b, c, d], 1).view(-1, 2, 2)


def _rotation(angle: torch.Tensor) -> torch.Tensor:
    return _matrix(angle.cos(), -angle.sin(), angle.sin(), angle.cos())


def _warped(x: torch.Tensor, matrix: torch.Tensor, shift: torch.Tensor, mode: str) -> torch.Tensor:
    """The image whose pixel at p shows that of x at matrix p + shift, (row, column) from the centre, the side 2 long;
    grey outside."""
    theta = torch.cat([matrix, shift], 2)[:, [1, 0]][:, :, [1, 0, 2]].to(x)  # affine_grid counts (column, row)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return 0.5 + F.grid_sample(x - 0.5, grid, mode=mode, padding_mode="zeros", align_corners=False)
