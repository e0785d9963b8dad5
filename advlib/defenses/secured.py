"""The defended networks that the thesis attacks: the nine of Table 2.5, the six of Tables 3.3 and 4.4.

targets = secured.nine("cifar10"); targets["JPEG"](images)

On 32-pixel images they are ours (`training`, `purification`), and all but two of the nine guard the same network. On
ImageNet they are timm's networks and the authors' files (`authors`) in a folder that you name; what is not in the
folder is left out. `stand_ins` needs no file of theirs, and no GPU.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..core import checks
from ..core.published import NINE
from ..training.objectives import NoisyClassification
from ..zoo import models, weights
from ..zoo.registry import TRAINED
from . import authors, purification
from .transformations import (
    JPEG,
    BitReduction,
    Defence,
    Defended,
    FeatureDistillation,
    NIPSr3,
    RandomizedSmoothing,
    RandomResizePad,
)

OURS = ("vgg-pgd", "vgg-ens3", "vgg-ens4", "pyramidnet-ens1", "vgg-noise", *purification.PURIFIERS)
"""The nets that notebook A2 trains for these, on each data set of 32-pixel images."""

_ADVERSARIAL, _ENSEMBLE = "timm/inception_v3.tf_adv_in1k", "timm/inception_resnet_v2.tf_ens_adv_in1k"
_FILES = {
    "HGD": ("hgd", ["denoise_incepv3_012.ckpt"]),
    "ComDefend": ("comdefend", ["enc20_0.0001.npy", "dec20_0.0001.npy"]),
    "NRP": ("nrp", ["NRP.pth"]),
    "RS": ("rs", ["checkpoint.pth.tar"]),
}


def nine(dataset: str, seed: int = 0, folder: str | Path = "") -> dict[str, Defended]:
    """The nine defended networks of thesis Table 2.5 by its names, in eval mode. seed: of the random defences; folder:
    of the authors' files, for ImageNet. Raises TypeError or ValueError for another data set or seed, or a folder that
    is not there; WeightsError where one has not been trained, or a file does not fit."""
    _check(dataset, folder)
    checks.whole("seed", seed)
    guards = _on_imagenet(folder) if dataset == "imagenet" else _on_32_pixels(dataset)
    return {name: guards[name][0](guards[name][1], seed).eval() for name in NINE if name in guards}


def trained(dataset: str, folder: str | Path = "") -> dict[str, nn.Module]:
    """Adversarially trained networks, in eval mode: one by PGD, the others against ensembles. Arguments and errors are
    those of `nine`."""
    _check(dataset, folder)
    if dataset == "imagenet":
        adv = {"Inc-v3adv": models.load(_ADVERSARIAL), "IncRes-v2ens1": models.load(_ENSEMBLE)}
        return adv | models.converted(folder)
    names = ("vgg-pgd", "vgg-ens3", "vgg-ens4", "pyramidnet-ens1")
    return {name: models.load(f"{dataset}/{name}") for name in names}


def six(dataset: str, seed: int = 0, folder: str | Path = "") -> dict[str, nn.Module]:
    """The six secured networks of thesis Tables 3.3 and 4.4, in eval mode: those of `trained` against ensembles, and
    JPEG, R&P and NRP of the nine. Arguments and errors are those of `nine`."""
    against = {name: model for name, model in trained(dataset, folder).items() if "ens" in name}
    guarded = nine(dataset, seed, folder)
    return against | {name: guarded[name] for name in ("JPEG", "R&P", "NRP") if name in guarded}


def stand_ins(seed: int = 0) -> dict[str, Defended]:
    """Defences on ImageNet that anyone can run: those of the nine that need no training, in eval mode, over networks
    of a package (`zoo.witnesses`) that no chapter attacks from. No adversarially trained network of ImageNet is to be
    had that way, and none stands in for one.

    Two are cheaper than in print: R&P averages over 5 draws in place of 30, and RS takes 20 votes, at the noise of
    0.12, of a network that was not trained on noise: of 0.25, the thesis' noise, it names half the images rightly.
    Raises TypeError or ValueError for another seed, WeightsError where the packages are missing."""
    checks.whole("seed", seed)
    names = ("efficientnet_lite1", "efficientnet_lite2", "squeezenet1_0")
    plain, larger, other = (models.load(f"imagenet/{name}") for name in names)
    guards = {
        "R&P": (RandomResizePad(draws=5), plain),
        "NIPS-r3": (NIPSr3(), [plain, larger, other, plain]),
        "Bit-Red": (BitReduction(), plain),
        "JPEG": (JPEG(), plain),
        "FD": (FeatureDistillation(), plain),
        "RS": (RandomizedSmoothing(0.12, n=20), plain),
    }
    return {name: defence(network, seed).eval() for name, (defence, network) in guards.items()}


def _check(dataset: str, folder: str | Path) -> None:
    checks.choice("dataset", dataset, (*TRAINED, "imagenet"))
    weights.existing("folder", folder, [])


def _on_32_pixels(dataset: str) -> dict[str, tuple[Defence, nn.Module | list[nn.Module]]]:
    """JPEG keeps colour at full resolution: half of 32 pixels is another image."""
    nets = ("pyramidnet-ens1", "vgg-pgd", purification.CLASSIFIER, "pyramidnet", "vgg-noise")
    *team, noise_trained = [models.load(f"{dataset}/{name}") for name in nets]
    plain = team[2]
    purifiers = {"HGD": "hgd", "ComDefend": "comdefend", "NRP": "nrp"}
    return {
        "R&P": (RandomResizePad(), plain),
        "NIPS-r3": (NIPSr3(), team),
        "Bit-Red": (BitReduction(), plain),
        "JPEG": (JPEG(colour="full"), plain),
        "FD": (FeatureDistillation(), plain),
        "RS": (RandomizedSmoothing(NoisyClassification().sigma), noise_trained),
        **{name: (purification.load(f"{dataset}/{kind}"), plain) for name, kind in purifiers.items()},
    }


def _on_imagenet(folder: str | Path) -> dict[str, tuple[Defence, nn.Module | list[nn.Module]]]:
    """R&P, NIPS-r3, RS and HGD guard what their authors guarded, as far as timm has it; the others an adversarially
    trained Inception-v3, which is no source of the thesis' attacks."""
    plain, other = (models.load(f"timm/inception_{version}.tf_in1k") for version in ("v3", "v4"))
    adv, ens = models.load(_ADVERSARIAL), models.load(_ENSEMBLE)
    guards = {
        "R&P": (RandomResizePad(), ens),
        "NIPS-r3": (NIPSr3(), [ens, adv, plain, other]),
        "Bit-Red": (BitReduction(), adv),
        "JPEG": (JPEG(), adv),
        "FD": (FeatureDistillation(), adv),
    }
    found = {name: weights.existing("folder", folder, files) for name, (_, files) in _FILES.items()}
    there = {name: paths for name, paths in found.items() if len(paths) == len(_FILES[name][1])}
    if "RS" in there:
        guards["RS"] = (RandomizedSmoothing(0.25), authors.noise_trained(there.pop("RS")[0]))
    for name, files in there.items():
        guards[name] = (authors.purifier(_FILES[name][0], files), plain if name == "HGD" else adv)
    return guards
