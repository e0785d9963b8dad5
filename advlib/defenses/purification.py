"""The defences that are networks: HGD, ComDefend and NRP in front of a model, trained by us.

defended = purification.load("cifar10/hgd")(model)              `authors` reads the authors' own
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import nn

from ..core import checks
from ..core.draws import Draw
from ..files.paths import WEIGHTS
from ..training import fitting, recipes
from ..training.objectives import Compression, GuidedDenoising, SelfSupervisedPurification
from ..zoo import models, weights
from ..zoo.purifiers import CompressionPair, Critic, DenoisingUNet, NRPNet, Purified
from ..zoo.registry import TRAINED
from .transformations import Defence

PURIFIERS = {"hgd": DenoisingUNet, "comdefend": CompressionPair, "nrp": NRPNet}
"""The small network of each, for 32-pixel images."""

CLASSIFIER = "vgg"
"""The family of the network that HGD is guided by and that NRP takes its features from."""


@dataclass(frozen=True, eq=False)
class Purification(Defence):
    """A network that cleans the image first. net: one of `purifiers`, or another that says in `gradients` how they
    pass; kind: "retrained", or "faithful" with the authors' own weights. Raises TypeError or ValueError for others."""

    net: nn.Module = field(repr=False)
    kind: str = field(default="retrained", kw_only=True)

    def __post_init__(self) -> None:
        checks.module(self.net, "net")
        checks.choice("net.gradients", getattr(self.net, "gradients", None), ("exact", "straight-through", "none"))
        checks.choice("kind", self.kind, ("retrained", "faithful", "proxy"))

    @property
    def gradients(self) -> str:
        return self.net.gradients

    @property
    def networks(self) -> list[nn.Module]:
        return [self.net]

    def purified(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return self.net(x).clamp(0, 1)


def load(name: str) -> Purification:
    """A purifier that `train` has saved: "<dataset>/hgd", "/comdefend", "/nrp". Raises TypeError or ValueError for
    another name, WeightsError where it was not trained, or its weights are damaged."""
    _, kind = _parts(name)
    if name not in weights.manifest(WEIGHTS):
        raise models.untrained(name, "A2")
    net = PURIFIERS[kind]()
    weights.restore(net, name, WEIGHTS)
    return Purification(net.eval())


def _parts(name: str) -> tuple[str, str]:
    """The data set and the kind in the name of a purifier."""
    checks.text("name", name)
    dataset, _, kind = name.partition("/")
    if dataset not in TRAINED or kind not in PURIFIERS:
        raise ValueError(f"name={name!r}: expected <dataset>/<one of {', '.join(PURIFIERS)}>")
    return dataset, kind


def recipe_for(name: str) -> recipes.Recipe:
    """How `train` trains a purifier: Adam in place of SGD, the objective of its paper, no weight decay, a third of the
    epochs of the classifier. Raises as `load` does for another name."""
    dataset, kind = _parts(name)
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
    `training.train_and_save`. The accuracy is that of the classifier behind it, on clean images. Raises as `load` does
    for another name."""
    dataset, kind = _parts(name)
    recipe = recipe or recipe_for(name)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(recipe.seed)
        net, critic = PURIFIERS[kind](), Critic() if kind == "nrp" else None
    model = Purified(net, models.load(f"{dataset}/{CLASSIFIER}"), critic)
    return fitting.train_and_save(name, model, net, recipe, **options)
