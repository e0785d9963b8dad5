"""Architectures for 32x32 input: six families, each at a small and at the thesis' full size.

Every net maps normalised images, shape (N, 3, H, W), to logits, shape (N, classes); H and W of 32 are what they
are made for, and any multiple of 4 works. Normalisation is not in here: see `advlib.models`.
VGG and DenseNet are torchvision's with a stem for small images; the residual families share `ResidualNet`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
import torchvision
from torch import nn


def conv3x3(c_in: int, c_out: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution of 3 x 3 pixels that keeps the size at stride 1, without bias."""
    return nn.Conv2d(c_in, c_out, 3, stride, 1, groups=groups, bias=False)


class PadShortcut(nn.Module):
    """Parameter-free shortcut: subsample, then zero channels. Option A of He et al. 2015 (sect. 4.2) pads on both
    sides and takes every second pixel; PyramidNet (Han et al. 2017, sect. 2.2) averages and pads at the end."""

    def __init__(self, extra: int, stride: int, average: bool) -> None:
        super().__init__()
        self.stride, self.average = stride, average
        self.pad = (0, extra) if average else (extra // 2, extra - extra // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride) if self.average else x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, *self.pad))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, ReLU after the sum (He et al. 2015, Fig. 5 left). `pad` chooses option A."""

    def __init__(self, c_in: int, c_out: int, stride: int, pad: bool = False) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(c_in, c_out, stride), nn.BatchNorm2d(c_out)
        self.conv2, self.bn2 = conv3x3(c_out, c_out), nn.BatchNorm2d(c_out)
        self.shortcut = nn.Identity()
        if pad and (stride > 1 or c_in != c_out):
            self.shortcut = PadShortcut(c_out - c_in, stride, average=False)
        elif stride > 1 or c_in != c_out:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(h)) + self.shortcut(x))


class ResNeXtBlock(nn.Module):
    """1x1, grouped 3x3, 1x1 (Xie et al. 2017, Fig. 3c)."""

    def __init__(self, c_in: int, c_out: int, stride: int, groups: int, inner: float) -> None:
        super().__init__()
        c = int(c_out * inner)
        self.conv1, self.bn1 = nn.Conv2d(c_in, c, 1, bias=False), nn.BatchNorm2d(c)
        self.conv2, self.bn2 = conv3x3(c, c, stride, groups), nn.BatchNorm2d(c)
        self.conv3, self.bn3 = nn.Conv2d(c, c_out, 1, bias=False), nn.BatchNorm2d(c_out)
        self.shortcut = nn.Identity()
        if stride > 1 or c_in != c_out:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        return F.relu(self.bn3(self.conv3(h)) + self.shortcut(x))


class WideBlock(nn.Module):
    """Pre-activation block with a learned 1x1 shortcut (Zagoruyko & Komodakis 2016)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(c_in), conv3x3(c_in, c_out, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(c_out), conv3x3(c_out, c_out)
        self.project = nn.Conv2d(c_in, c_out, 1, stride, bias=False) if stride > 1 or c_in != c_out else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = F.relu(self.bn1(x))
        h = self.conv2(F.relu(self.bn2(self.conv1(a))))
        return h + (x if self.project is None else self.project(a))


class PyramidBlock(nn.Module):
    """BN first, no first ReLU, BN last, padded shortcut (Han et al. 2017, Fig. 6d)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(c_in), conv3x3(c_in, c_out, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(c_out), conv3x3(c_out, c_out)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.shortcut = PadShortcut(c_out - c_in, stride, average=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(h)) + self.shortcut(x)


class ResidualNet(nn.Module):
    """conv1, stages `layer1..`, global average pool, linear. `widths[s][b]` is the output width of block b in stage s.

    Pre-activation families (`preact`) have no ReLU after the stem and one BN + ReLU before the pool.
    """

    def __init__(
        self, block: Callable[..., nn.Module], stem: int, widths: list[list[int]], classes: int, preact: bool = False
    ) -> None:
        super().__init__()
        self.preact = preact
        self.conv1 = conv3x3(3, stem)
        self.bn1 = nn.Identity() if preact else nn.BatchNorm2d(stem)
        c = stem
        for s, stage in enumerate(widths):
            blocks = []
            for b, width in enumerate(stage):
                blocks.append(block(c, width, 2 if s > 0 and b == 0 else 1))
                c = width
            self.add_module(f"layer{s + 1}", nn.Sequential(*blocks))
        self.stages = len(widths)
        self.bn_last = nn.BatchNorm2d(c) if preact else nn.Identity()
        self.linear = nn.Linear(c, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(x))
        x = x if self.preact else F.relu(x)
        for s in range(self.stages):
            x = getattr(self, f"layer{s + 1}")(x)
        x = F.relu(self.bn_last(x)) if self.preact else x
        return self.linear(x.mean((2, 3)))


def _initialise(net: nn.Module) -> nn.Module:
    """He initialisation, fan out (He et al. 2015b, sect. 2.2): what the residual and VGG papers train from."""
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
    return net


def _constant(blocks: int, widths: tuple[int, ...]) -> list[list[int]]:
    return [[w] * blocks for w in widths]


def resnet(classes: int, stem: int, blocks: int, widths: tuple[int, ...], pad: bool = False) -> nn.Module:
    """ResNet (He et al. 2015). pad=True: option A shortcuts, as in the CIFAR nets of that paper."""
    return _initialise(ResidualNet(partial(BasicBlock, pad=pad), stem, _constant(blocks, widths), classes))


def resnext(classes: int, stem: int, blocks: int, widths: tuple[int, ...], groups: int, inner: float) -> nn.Module:
    """ResNeXt (Xie et al. 2017); `inner` is the width of the grouped convolution relative to the output."""
    block = partial(ResNeXtBlock, groups=groups, inner=inner)
    return _initialise(ResidualNet(block, stem, _constant(blocks, widths), classes))


def wrn(classes: int, stem: int, blocks: int, widths: tuple[int, ...]) -> nn.Module:
    """Wide ResNet (Zagoruyko & Komodakis 2016): depth 6 * blocks + 4."""
    return _initialise(ResidualNet(WideBlock, stem, _constant(blocks, widths), classes, preact=True))


def pyramidnet(classes: int, stem: int, blocks: int, alpha: float) -> nn.Module:
    """Additive PyramidNet (Han et al. 2017, eq. 2): the width grows by alpha / (3 * blocks) with every block."""
    step = alpha / (3 * blocks)
    widths = [[int(stem + step * (s * blocks + b + 1)) for b in range(blocks)] for s in range(3)]
    return _initialise(ResidualNet(PyramidBlock, stem, widths, classes, preact=True))


def vgg(classes: int, config: list[int | str]) -> nn.Module:
    """torchvision's VGG-BN layers with global average pooling and one linear layer, as usual for CIFAR."""
    features = torchvision.models.vgg.make_layers(config, batch_norm=True)
    last = [c for c in config if c != "M"][-1]
    return _initialise(nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes)))


def densenet(classes: int, growth: int, blocks: tuple[int, ...], stem: int) -> nn.Module:
    """torchvision's DenseNet-BC (Huang et al. 2017) with the paper's CIFAR stem: one 3x3 convolution, no pooling."""
    net = torchvision.models.DenseNet(growth, blocks, stem, num_classes=classes)
    net.features.conv0 = conv3x3(3, stem)
    net.features.norm0, net.features.relu0, net.features.pool0 = nn.Identity(), nn.Identity(), nn.Identity()
    return _initialise(net)


_VGG19 = [64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4]

FAMILIES: dict[str, dict[str, Callable[[int], nn.Module]]] = {
    "resnet": {
        "small": partial(resnet, stem=32, blocks=1, widths=(32, 64, 128)),
        "full": partial(resnet, stem=64, blocks=2, widths=(64, 128, 256, 512)),  # ResNet-18
    },
    "vgg": {
        "small": partial(vgg, config=[32, 32, "M", 64, 64, "M", 128, 128]),
        "full": partial(vgg, config=_VGG19),  # VGG-19-BN
    },
    "densenet": {
        "small": partial(densenet, growth=16, blocks=(2, 4, 8), stem=32),
        "full": partial(densenet, growth=12, blocks=(16, 16, 16), stem=24),  # DenseNet-BC-100
    },
    "wrn": {
        "small": partial(wrn, stem=16, blocks=1, widths=(32, 64, 128)),  # WRN-10-2
        "full": partial(wrn, stem=16, blocks=4, widths=(160, 320, 640)),  # WRN-28-10
    },
    "resnext": {
        "small": partial(resnext, stem=32, blocks=2, widths=(32, 64, 128), groups=4, inner=1.0),
        "full": partial(resnext, stem=64, blocks=3, widths=(256, 512, 1024), groups=4, inner=1.0),  # 29, 4x64d
    },
    "pyramidnet": {
        "small": partial(pyramidnet, stem=16, blocks=2, alpha=48),
        "full": partial(pyramidnet, stem=16, blocks=18, alpha=270),  # PyramidNet-110, alpha 270
    },
}
