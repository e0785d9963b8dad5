"""The nets that a chapter needs: which are there, and the training of those that are not, or that are wanted anew.

print(trainees.provide("cifar10", ["densenet-lrs1", "densenet-lrsf"], retrain=["densenet-lrs1"]))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ..core import checks
from ..defenses import purification
from ..files.paths import WEIGHTS
from ..training import fitting, recipes
from ..zoo import weights

TRIAL = 256
"""How many images of every split a trial sees."""


@dataclass(frozen=True)
class Provided:
    """The nets that were trained now, and those that were there; folder: where the new weights are; trial: whether they
    are those of a mere trial."""

    trained: tuple[str, ...]
    loaded: tuple[str, ...]
    folder: Path
    trial: bool

    def __str__(self) -> str:
        trained = ", ".join(self.trained) or "nothing"
        if self.trained and self.folder != WEIGHTS:
            what = f"a trial on {TRIAL} images" if self.trial else "kept in the folder of the run"
            trained += f" ({what}; what follows has the weights of before)"
        return f"trained now: {trained} | there already: {', '.join(self.loaded) or 'none'}"


def provide(
    dataset: str,
    nets: Sequence[str],
    retrain: Sequence[str] = (),
    checkpoints: Path | None = None,
    trial: Path | None = None,
    device: torch.device | str = "cpu",
    report: Callable[[str, int, dict], None] = lambda net, epochs, row: None,
    watch: Callable[[nn.Module], dict[str, float]] = lambda model: {},
    folder: Path = WEIGHTS,
    **changes: object,
) -> Provided:
    """Train those of `nets` that have no weights, and those that `retrain` names, these from the start.

    nets: names of the zoo or of `purification.PURIFIERS` without their data set ("vgg-pgd", "hgd"); checkpoints: a
    folder to resume the others from; trial: a folder for the weights of a mere trial, one epoch on `TRIAL` images, None
    to train in full and keep the weights in `folder`, by default those that all chapters load; report: called with the
    net, its number of epochs and `fit`'s row after each of them; watch: of `fit`; changes: fields of every recipe,
    where 0 epochs are the recipe's own.
    Raises ValueError for a name in `retrain` that is not in `nets`, and as `training.train_member` does.
    """
    for net in retrain:
        checks.choice("retrain", net, nets)
    listed = weights.manifest(WEIGHTS)
    trained = [net for net in nets if net in retrain or f"{dataset}/{net}" not in listed]
    for net in trained:
        name, purifier = f"{dataset}/{net}", net in purification.PURIFIERS
        recipe = _changed((purification if purifier else recipes).recipe_for(name), trial is not None, **changes)
        (purification.train if purifier else fitting.train_member)(
            name,
            recipe,
            checkpoints=checkpoints,
            fresh=net in retrain or trial is not None,
            folder=trial or folder,
            device=device,
            report=partial(report, net, recipe.epochs),
            watch=watch,
            n=TRIAL if trial else None,
        )
    loaded = tuple(net for net in nets if net not in trained)
    return Provided(tuple(trained), loaded, trial or folder, trial is not None)


def _changed(recipe: recipes.Recipe, trial: bool, epochs: int = 0, **changes: object) -> recipes.Recipe:
    return replace(recipe, epochs=epochs or (1 if trial else recipe.epochs), **changes)
