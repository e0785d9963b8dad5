"""Networks that clean an image before another network sees it: the denoising U-Net of HGD, the two compression
networks of ComDefend, the purifier of NRP, each at a small size for 32-pixel images and at the published one.

Every one maps images in [0, 1], (N, 3, H, W), to about such images, and says how `gradients` pass through it;
`purification` clips them and puts them in front of a model, `objectives` says what they are trained for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ..core.surrogate import Normalized


def _conv(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
    layers = {
        "conv": nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False),
        "bn": nn.BatchNorm2d(c_out),
        "relu": nn.ReLU(inplace=True),
    }
    return nn.Sequential(OrderedDict(layers))


class DenoisingUNet(nn.Module):
    """DUNET (Liao et al. 2018, Fig. 4): a U-Net that predicts what to add to the image. The names are those of the
    published checkpoint.

    widths: channels of the stages on the way down, each but the first at half the resolution of the one before; depths:
    3x3 convolutions of each. The way up mirrors them. The published one has widths (64, 128, 256, 256, 256) and depths
    (2, 3, 3, 3, 3), and sees normalised images.
    """

    gradients = "exact"

    def __init__(self, widths: Sequence[int] = (16, 32, 64), depths: Sequence[int] = (2, 2, 2)) -> None:
        super().__init__()
        ins = [3, *widths[:-1]]
        self.fwd = nn.ModuleList(
            self._stage(c_in, c, depth, 1 if i == 0 else 2)
            for i, (c_in, c, depth) in enumerate(zip(ins, widths, depths, strict=True))
        )
        sides = zip(widths[:-1], widths[1:], depths[:-1], strict=True)
        self.back = nn.ModuleList(self._stage(side + below, side, depth) for side, below, depth in sides)
        self.final = nn.Conv2d(widths[0], 3, 1, bias=False)
        nn.init.zeros_(self.final.weight)  # training starts from the identity

    @staticmethod
    def _stage(c_in: int, c: int, depth: int, stride: int = 1) -> nn.Sequential:
        return nn.Sequential(_conv(c_in, c, stride), *(_conv(c, c) for _ in range(depth - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sides, h = [], x
        for stage in self.fwd:
            h = stage(h)
            sides.append(h)
        for stage, side in zip(reversed(self.back), sides[-2::-1], strict=True):
            # Corners aligned, as torch did it by itself when the published one was trained.
            h = stage(torch.cat([F.interpolate(h, side.shape[2:], mode="bilinear", align_corners=True), side], 1))
        return x + self.final(h)


class CompressionPair(nn.Module):
    """ComCNN and RecCNN (Jia et al. 2019): 3x3 convolutions with ELU to a code of 12 bits a pixel, and back.

    widths: channels of the encoder's hidden layers, (16, 32, 64, 128, 256, 128, 64, 32) as published; the decoder's are
    the same but for the first, which comes last. In training the code is
    sigmoid(z - noise * n), n standard normal, so that only codes far from 0 survive; in use it is 1 where z > 0.
    """

    gradients = "straight-through"

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 32), noise: float = 20.0) -> None:
        super().__init__()
        self.noise = noise
        self.encoder = self._chain([3, *widths, 12])
        self.decoder = self._chain([12, *widths[1:], widths[0], 3])
        with torch.no_grad():  # codes far above the noise: training starts from an autoencoder, and not from noise
            self.encoder[-1].weight.mul_(50 * noise)

    @staticmethod
    def _chain(channels: Sequence[int]) -> nn.Sequential:
        layers: list[nn.Module] = []
        for c_in, c_out in zip(channels[:-1], channels[1:], strict=True):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.ELU(inplace=True)]
        return nn.Sequential(*layers[:-1])

    def code(self, x: torch.Tensor, normal: torch.Tensor | None = None) -> torch.Tensor:
        """(N, 12, H, W): soft under the noise `normal`, bits (with the sigmoid's gradient) without it."""
        z = self.encoder(x - 0.5)
        if normal is not None:
            return torch.sigmoid(z - self.noise * normal)
        soft = torch.sigmoid(z)
        return (z > 0).to(z) + (soft - soft.detach())

    def decoded(self, code: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.decoder(code))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoded(self.code(x))


class _DenseBlock(nn.Module):
    """Five 3x3 convolutions, each of which sees all before it; names as in the published checkpoint of NRP."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for i in range(5):
            setattr(self, f"conv{i + 1}", nn.Conv2d(width + i * growth, growth if i < 4 else width, 3, padding=1))
        with torch.no_grad():  # a block adds little at first
            self.conv5.weight.mul_(0.1)
            self.conv5.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = [x]
        for i in range(4):
            seen.append(F.leaky_relu(getattr(self, f"conv{i + 1}")(torch.cat(seen, 1)), 0.2))
        return x + 0.2 * self.conv5(torch.cat(seen, 1))


class _ResidualInResidual(nn.Module):
    """Three dense blocks and a shortcut (Wang et al. 2018, ESRGAN)."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.RDB1, self.RDB2, self.RDB3 = (_DenseBlock(width, growth) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.2 * self.RDB3(self.RDB2(self.RDB1(x)))


class NRPNet(nn.Module):
    """The purifier of NRP (Naseer et al. 2020): residual-in-residual dense blocks at full resolution. The published
    one has blocks = 23, width = 64, growth = 32."""

    gradients = "exact"

    def __init__(self, blocks: int = 1, width: int = 16, growth: int = 8) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.RRDB_trunk = nn.Sequential(*(_ResidualInResidual(width, growth) for _ in range(blocks)))
        self.trunk_conv = nn.Conv2d(width, 3, 3, padding=1)
        # Training starts near the identity: three channels carry the image through, and the blocks add little to it.
        nn.init.dirac_(self.conv_first.weight[:3].data)
        nn.init.dirac_(self.trunk_conv.weight)
        self.trunk_conv.weight.data /= 1.2**blocks  # the gain of the shortcuts
        nn.init.zeros_(self.conv_first.bias)
        nn.init.zeros_(self.trunk_conv.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.trunk_conv(self.RRDB_trunk(self.conv_first(x)))


class InUnitsOf(nn.Module):
    """A purifier that was trained on (x - mean) / std, for images in [0, 1]."""

    gradients = "exact"

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.inside = Normalized(net, mean, std)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inside(x) * self.inside.std + self.inside.mean


class Critic(nn.Module):
    """How real an image looks, (N, 1): strided convolutions, the mean over places, a linear map."""

    def __init__(self, widths: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for c_in, c in zip([3, *widths[:-1]], widths, strict=True):
            layers += [nn.Conv2d(c_in, c, 3, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        self.layers, self.last = nn.Sequential(*layers), nn.Linear(widths[-1], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.layers(x).mean((2, 3)))


class Purified(nn.Module):
    """A classifier behind a purifier that is being trained: images to logits. The classifier stays as it is. critic:
    trained along, where the objective wants one."""

    def __init__(self, purifier: nn.Module, classifier: nn.Module, critic: nn.Module | None = None) -> None:
        super().__init__()
        self.purifier, self.classifier = purifier, classifier.eval().requires_grad_(False)
        self.critic = critic

    def train(self, mode: bool = True) -> Purified:
        super().train(mode)
        self.classifier.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.purifier(x))
