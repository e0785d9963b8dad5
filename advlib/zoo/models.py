"""The zoo: models that map images in [0, 1] to logits, by name, with checked weights.

load("shapes/resnet")           a small net of ours (data/weights)
load("cifar10/resnet20")        an independent witness ($ADVLIB_DATA/weights, or a package: `witnesses`)
load("timm/inception_v4")       any ImageNet model of timm or torchvision, normalised as its own config says
create("wrn", "full")           an untrained net of the zoo
ensemble([f, h])                the mean of the logits
accelerate(f)                   a faster copy for the attack loop
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ..core import checks
from ..core.surrogate import Normalized
from ..files.paths import WEIGHTS
from . import witnesses
from .nets import FAMILIES
from .registry import DATASETS, TRAINED, Net
from .weights import WeightsError, existing, fill, manifest, read_checkpoint, restore

# --- by name ---------------------------------------------------------------------------------------------------------


def create(family: str, size: str = "small", dataset: str = "cifar10", seed: int = 0) -> Normalized:
    """An untrained member of the zoo, initialised from `seed`, normalised for `dataset`.

    family: a key of `nets.FAMILIES`; size: "small" (0.19 to 0.31 M parameters) or "full" (the thesis' network).
    Raises TypeError or ValueError for an unknown family, size or data set, or a seed that is no whole number.
    """
    checks.choice("family", family, FAMILIES)
    checks.choice("size", size, ("small", "full"))
    checks.choice("dataset", dataset, TRAINED)
    checks.whole("seed", seed, -(2**63), 2**63 - 1)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        net = FAMILIES[family][size](DATASETS[dataset].classes)
    return Normalized(net, DATASETS[dataset].mean, DATASETS[dataset].std)


def load(name: str) -> nn.Module:
    """A trained model by name, in eval mode, on the CPU. Names: `available()`, or "torchvision/X", "timm/X", each with
    ".<weights>" behind it where not the newest are meant.

    Raises TypeError for what is no text, ValueError for a name that nobody knows, WeightsError where its weights are
    missing or damaged.
    """
    checks.instance("name", name, str, "the name of a model")
    source, _, rest = name.partition("/")
    if source == "timm":
        model = _timm(rest)
    elif source == "torchvision":
        model = _torchvision(rest)
    elif name in witnesses.WITNESSES:
        model = witnesses.load(name)
    else:
        model = _ours(name)
    return model.eval()


def zoo(dataset: str) -> dict[str, nn.Module]:
    """The models that a chapter compares on a data set, by short name: ours, then the witnesses found, marked with a
    star.

    dataset: "shapes", "cifar10", "cifar100" or "imagenet", for which there are witnesses alone. Raises ValueError for
    another, WeightsError if one of our nets has not been trained, or if there are not two networks to compare.
    """
    checks.choice("dataset", dataset, (*TRAINED, "imagenet"))
    ours = {family: load(f"{dataset}/{family}") for family in FAMILIES} if dataset in TRAINED else {}
    found = witnesses.found(f"{dataset}/")
    if len(ours) + len(found) < 2:
        known = [name for name in witnesses.WITNESSES if name.startswith(f"{dataset}/") and name not in found]
        ways = dict.fromkeys(witnesses.how_to_get(name) for name in known)
        raise WeightsError(f"{dataset}: {len(found)} network(s) found, and a comparison takes two. {' '.join(ways)}")
    return {**ours, **{name.split("/")[1] + "*": load(name) for name in found}}


def available() -> list[str]:
    """Names that `load` can give now without a download: ours, then the witnesses found."""
    ours = [name for name in manifest(WEIGHTS) if _named(name) is not None]
    return [*ours, *witnesses.found()]


def _named(name: str) -> Net | None:
    """What the name of a net of ours says; None for any other name."""
    try:
        net = Net.parse(name)
    except ValueError:
        return None
    return net if net.family in FAMILIES else None


def _ours(name: str) -> nn.Module:
    net = _named(name)
    if net is None:
        known = ", ".join(available()) or "nothing yet"
        raise ValueError(f"name={name!r}: no such model; to be had are {known}, torchvision/<name> and timm/<name>")
    if name not in manifest(WEIGHTS):
        raise untrained(name, net.chapter)
    model = create(net.family, net.size, net.dataset)
    restore(model.net, name, WEIGHTS)
    return model


def untrained(name: str, notebook: str) -> WeightsError:
    """The error for a net that `notebook`, if any, would have trained."""
    command = f"python -m advlib run {notebook} --dataset {name.partition('/')[0]}"
    how = (
        f"notebook {notebook} trains them: {command}" if notebook else f"al.training.train_member({name!r}) trains them"
    )
    return WeightsError(f"{name}: no weights in {WEIGHTS}; {how}")


def _torchvision(name: str) -> nn.Module:
    """'<model>', with torchvision's newest weights, or '<model>.<weights>' such as resnet50.IMAGENET1K_V1."""
    import torchvision

    name, _, wanted = name.partition(".")
    try:
        weights = torchvision.models.get_model_weights(name)[wanted or "DEFAULT"]
    except (ValueError, KeyError) as error:
        tag = f" with weights {wanted!r}" if wanted else ""
        raise ValueError(f"name='torchvision/{name}': torchvision has no such model{tag}") from error
    transform = weights.transforms()
    # Inception and GoogLeNet rescale their input themselves when built with pretrained weights: not twice.
    options = {"transform_input": False} if name in ("inception_v3", "googlenet") else {}
    with _download(f"torchvision/{name}"):
        net = torchvision.models.get_model(name, weights=weights, **options)
    return Normalized(net, transform.mean, transform.std, transform.crop_size[0])


def _timm(name: str, checkpoint: Path | None = None) -> nn.Module:
    """checkpoint: a state dict for timm's architecture, in place of its own pretrained weights."""
    import timm

    if not timm.is_model(name.split(".")[0]):
        raise ValueError(f"name='timm/{name}': timm has no such model")
    with _download(f"timm/{name}"):
        net = timm.create_model(name, pretrained=checkpoint is None)
    if checkpoint is not None:
        fill(net, read_checkpoint(checkpoint), checkpoint)
    config = timm.data.resolve_data_config({}, model=net)
    return Normalized(net, config["mean"], config["std"], config["input_size"][-1])


# The seven targets of thesis chapter 2. timm's ResNet-v2-101 is another training run than the TF-Slim one that the
# thesis names; Inc-v3ens3, Inc-v3ens4 exist only as conversions that a user has to bring. IncRes-v2ens1 is timm's
# `tf_ens_adv`.
CHAPTER_2 = {
    "Inc-v3": "inception_v3.tf_in1k",
    "Inc-v4": "inception_v4.tf_in1k",
    "IncRes-v2": "inception_resnet_v2.tf_in1k",
    "Res-101": "resnetv2_101.a1h_in1k",
    "IncRes-v2ens1": "inception_resnet_v2.tf_ens_adv_in1k",
}
_CONVERTED = {"Inc-v3ens3": "inception_v3.tf_in1k", "Inc-v3ens4": "inception_v3.tf_in1k"}


def thesis_chapter_2(checkpoints: str | Path = "") -> dict[str, nn.Module]:
    """The ImageNet networks of thesis chapter 2 (sect. 2.3.1) by the names in its tables, in eval mode.

    checkpoints: a folder with Inc-v3ens3.pth and Inc-v3ens4.pth, state dicts for timm's inception_v3; a file that is
    not there leaves its network out, and "" leaves out both. Raises ValueError for a folder that is not there,
    WeightsError where timm's weights cannot be had, or a file does not fit.
    """
    return {name: _timm(net).eval() for name, net in CHAPTER_2.items()} | converted(checkpoints)


def converted(checkpoints: str | Path) -> dict[str, nn.Module]:
    """Inc-v3ens3 and Inc-v3ens4, as far as their files are in the folder; errors as in `thesis_chapter_2`."""
    there = existing("checkpoints", checkpoints, [f"{name}.pth" for name in _CONVERTED])
    return {file.stem: _timm(_CONVERTED[file.stem], file).eval() for file in there}


# The eleven of thesis chapter 3 (sect. 3.3.1), with the weights of their time. The thesis names families; where a
# family has several sizes this is the one that the benchmarks it cites use.
CHAPTER_3 = {
    "ResNet50": "torchvision/resnet50.IMAGENET1K_V1",
    "VGG19": "torchvision/vgg19.IMAGENET1K_V1",
    "ResNet152": "torchvision/resnet152.IMAGENET1K_V1",
    "Inc-v3": "torchvision/inception_v3.IMAGENET1K_V1",
    "DenseNet": "torchvision/densenet121.IMAGENET1K_V1",
    "MobileNet": "torchvision/mobilenet_v2.IMAGENET1K_V1",
    "SENet": "timm/legacy_senet154.in1k",
    "ResNeXt": "torchvision/resnext101_32x8d.IMAGENET1K_V1",
    "WRN": "torchvision/wide_resnet101_2.IMAGENET1K_V1",
    "PNASNet": "timm/pnasnet5large.tf_in1k",
    "MNASNet": "torchvision/mnasnet1_0.IMAGENET1K_V1",
}


def thesis_chapter_3() -> dict[str, nn.Module]:
    """The eleven ImageNet networks of thesis chapter 3 by the names in its tables, in eval mode; the first is the
    source. Raises WeightsError where weights cannot be had."""
    return {name: load(path) for name, path in CHAPTER_3.items()}


@contextmanager
def _download(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"{name}: its pretrained weights are not on this machine and could not be downloaded ({error}). "
            "Load it once where there is a network; torchvision keeps weights in $TORCH_HOME, "
            "timm in $HF_HOME."
        ) from error
