"""The defences that are networks: HGD, ComDefend and NRP in front of a model, trained by us.

defended = purification.load("cifar10/hgd")(model)              `checkpoints` reads the authors' own
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import nn

from . import models, recipes, training
from .defenses import Defence
from .draws import Draw
from .objectives import Compression, GuidedDenoising, SelfSupervisedPurification
from .paths import WEIGHTS
from .purifiers import CompressionPair, Critic, DenoisingUNet, NRPNet, Purified

PURIFIERS = {"hgd": DenoisingUNet, "comdefend": CompressionPair, "nrp": NRPNet}
"""The small network of each, for 32-pixel images."""

CLASSIFIER = "vgg"
"""The family of the network that HGD is guided by and that NRP takes its features from."""


@dataclass(frozen=True, eq=False)
class Purification(Defence):
    """A network that cleans the image first. net: one of `purifiers`; kind: "retrained", or "faithful" with the
    authors' own weights."""

    net: nn.Module = field(repr=False)
    kind: str = field(default="retrained", kw_only=True)

    @property
    def gradients(self) -> str:
        return self.net.gradients

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
        raise models.untrained(name, "A2")
    net = PURIFIERS[kind]()
    net.load_state_dict(models.read_weights(WEIGHTS / entry["file"], entry["sha256"]))
    return Purification(net.eval())


def recipe_for(name: str) -> recipes.Recipe:
    """How `train` trains a purifier: Adam in place of SGD, the objective of its paper, no weight decay, a third of the
    epochs of the classifier."""
    dataset, _, kind = name.partition("/")
    base = recipes.RECIPES[dataset]
    guide = f"{dataset}/{CLASSIFIER}"
    objective = {
        "hgd": GuidedDenoising((guide, f"{dataset}/resnet")),
        "comdefend": Compression(),
        "nrp": SelfSupervisedPurification(guide),
    }[kind]
    epochs = max(5, base.epochs // 3)
    return replace(base, optimizer="adam", lr=2e-3, weight_decay=0.0, objective=objective, epochs=epochs)


def train(name: str, recipe: recipes.Recipe | None = None, **options: object) -> dict:
    """Train the purifier `name` in front of the classifier that it guards and save it; options and entry are those of
    `training.train_and_save`. The accuracy is that of the classifier behind it, on clean images."""
    dataset, _, kind = name.partition("/")
    recipe = recipe or recipe_for(name)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(recipe.seed)
        net, critic = PURIFIERS[kind](), Critic() if kind == "nrp" else None
    model = Purified(net, models.load(f"{dataset}/{CLASSIFIER}"), critic)
    return training.train_and_save(name, model, net, recipe, **options)
