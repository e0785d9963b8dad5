"""The defences that are networks: HGD, ComDefend and NRP in front of a model, trained by us or as published.

defended = purification.load("cifar10/hgd")(model)              trained by us
defended = purification.published("nrp", "NRP.pth")(model)      the authors' checkpoint
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from . import models, training
from .defenses import (
    JPEG,
    BitReduction,
    Defence,
    Defended,
    FeatureDistillation,
    NIPSr3,
    RandomizedSmoothing,
    RandomResizePad,
)
from .draws import Draw
from .objectives import Compression, GuidedDenoising, NoisyClassification, SelfSupervisedPurification
from .paths import WEIGHTS
from .purifiers import CompressionPair, Critic, DenoisingUNet, NRPNet, Purified

PURIFIERS = {"hgd": DenoisingUNet, "comdefend": CompressionPair, "nrp": NRPNet}
"""The small network of each, for 32-pixel images."""

CLASSIFIER = "vgg"
"""The family of the network that HGD is guided by and that NRP takes its features from."""


@dataclass(frozen=True, eq=False)
class Purification(Defence):
    """A network that cleans the image first. kind: "retrained", or "faithful" with the authors' own weights.
    gradients: "straight-through" for ComDefend, whose code is rounded."""

    net: nn.Module
    kind: str = field(default="retrained", kw_only=True)
    gradients: str = field(default="exact", kw_only=True)

    @property
    def networks(self) -> list[nn.Module]:
        return [self.net]

    def purified(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return self.net(x).clamp(0, 1)


def load(name: str) -> Purification:
    """A purifier that `train` has saved: "<dataset>/hgd", "/comdefend", "/nrp". ValueError for another name,
    WeightsError where it was not trained."""
    dataset, _, kind = name.partition("/")
    if dataset not in models.CLASSES or kind not in PURIFIERS:
        raise ValueError(f"name={name!r}: expected <dataset>/<one of {', '.join(PURIFIERS)}>")
    entry = models.manifest(WEIGHTS).get(name)
    if entry is None:
        raise models.WeightsError(f"{name}: no weights in {WEIGHTS}; advlib.purification.train({name!r}) trains them")
    net = PURIFIERS[kind]()
    net.load_state_dict(models.read_weights(WEIGHTS / entry["file"], entry["sha256"]))
    return _defence(kind, net, "retrained")


def published(kind: str, file: str | Path, sha256: str = "") -> Purification:
    """The authors' purifier from a checkpoint that you bring: "nrp" takes NRP.pth of github.com/Muzammal-Naseer/NRP.

    sha256: of the file, checked if given. Raises ValueError for another `kind`, WeightsError where the file is missing,
    is not the one of that sum, or does not fit the published architecture.
    """
    if kind != "nrp":
        raise ValueError(f"kind={kind!r}: expected nrp; checkpoints of other authors are not read yet")
    file = Path(file)
    if not file.is_file():
        raise models.WeightsError(f"{file}: missing; see github.com/Muzammal-Naseer/NRP for the authors' checkpoint")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if sha256 and found != sha256:
        raise models.WeightsError(
            f"{file}: sha256 {found[:12]}..., expected {sha256[:12]}...: truncated or another file"
        )
    net = NRPNet(blocks=23, width=64, growth=32)
    try:
        net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except (RuntimeError, TypeError) as error:
        raise models.WeightsError(f"{file}: not the weights of the published NRP ({error})") from error
    return _defence(kind, net, "faithful")


def _defence(kind: str, net: nn.Module, source: str) -> Purification:
    return Purification(net.eval(), kind=source, gradients="straight-through" if kind == "comdefend" else "exact")


def recipe_for(name: str) -> training.Recipe:
    """How `train` trains a purifier: Adam in place of SGD, the objective of its paper, no weight decay, a third of the
    epochs of the classifier."""
    dataset, _, kind = name.partition("/")
    base = training.RECIPES[dataset]
    guide = f"{dataset}/{CLASSIFIER}"
    objective = {
        "hgd": GuidedDenoising((guide, f"{dataset}/resnet")),
        "comdefend": Compression(),
        "nrp": SelfSupervisedPurification(guide),
    }[kind]
    epochs = max(5, base.epochs // 3)
    return replace(base, optimizer="adam", lr=2e-3, weight_decay=0.0, objective=objective, epochs=epochs)


def train(name: str, recipe: training.Recipe | None = None, **options: object) -> dict:
    """Train the purifier `name` in front of the classifier that it guards and save it; options and entry are those of
    `training.train_and_save`. The accuracy is that of the classifier behind it, on clean images."""
    dataset, _, kind = name.partition("/")
    recipe = recipe or recipe_for(name)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(recipe.seed)
        net, critic = PURIFIERS[kind](), Critic() if kind == "nrp" else None
    model = Purified(net, models.load(f"{dataset}/{CLASSIFIER}"), critic)
    return training.train_and_save(name, model, net, recipe, **options)


def guarded(dataset: str, seed: int = 0) -> dict[str, Defended]:
    """The nine defended networks of thesis Table 2.5, by its names, from the zoo of a data set of 32-pixel images.

    All but two guard the same network, that of the family CLASSIFIER: RS needs one trained on noise, NIPS-r3 four of
    its own. JPEG keeps colour at full resolution: half of 32 pixels is another image. seed: of the random defences.
    Raises WeightsError where one has not been trained.
    """

    def net(name: str) -> nn.Module:
        return models.load(f"{dataset}/{name}")

    plain = net(CLASSIFIER)
    team = [net("pyramidnet-ens1"), net("vgg-pgd"), plain, net("pyramidnet")]
    guards = {
        "HGD": load(f"{dataset}/hgd"),
        "R&P": RandomResizePad(),
        "NIPS-r3": NIPSr3(),
        "Bit-Red": BitReduction(),
        "JPEG": JPEG(colour="full"),
        "FD": FeatureDistillation(),
        "ComDefend": load(f"{dataset}/comdefend"),
        "RS": RandomizedSmoothing(NoisyClassification().sigma),
        "NRP": load(f"{dataset}/nrp"),
    }
    behind = {"NIPS-r3": team, "RS": net("vgg-noise")}
    return {name: guard(behind.get(name, plain), seed).eval() for name, guard in guards.items()}
