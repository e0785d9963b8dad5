"""Trainings from several seeds, and what is measured of each network at its end (Tables 5.2 and 5.5).

train_once = Trainings(network, train, val, RUN.checkpoints)
net, history = train_once("SAM", recipe)
rows = outcome(net, test, few, probes=8)
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from .. import training
from ..core import intervals
from ..files.provenance import fingerprint
from ..training.recipes import Recipe
from ..zoo.datasets import Images
from .measures import geometry

Watch = Callable[[nn.Module], dict[str, float]]


@dataclass
class Trainings:
    """Trainings on the same images. Each has a checkpoint of its own, so that a killed one goes on where it was.

    network: a seed to an untrained network; train, val: the images; folder: of the checkpoints; taken_up: those that an
    earlier run began, or ended, "SAM, seed 0".
    """

    network: Callable[[int], nn.Module]
    train: Images
    val: Images
    folder: Path
    taken_up: list[str] = field(default_factory=list)

    def __call__(
        self, name: str, recipe: Recipe, watch: Watch = lambda model: {}, watch_at: Collection[int] = ()
    ) -> tuple[nn.Module, list[dict]]:
        """A network trained by the recipe, from its seed, and a row for each epoch. name: of the checkpoint; watch,
        watch_at: as of `training.fit`, whose errors it raises."""
        model = self.network(recipe.seed)
        made_of = fingerprint({"n": len(self.train), **recipe.facts()})
        checkpoint = self.folder / f"{name}_{made_of}.pt".replace(" ", "_")
        if checkpoint.is_file():
            self.taken_up.append(f"{name}, seed {recipe.seed}")
        return model, training.fit(model, self.train, self.val, recipe, checkpoint, watch=watch, watch_at=watch_at)


def outcome(model: nn.Module, test: Images, few: Images, probes: int) -> list[dict[str, object]]:
    """Metric, value and n of a trained network, a row each: its accuracy (%) on `test`, with Wilson's interval, and its
    `geometry` on `few`."""
    right = round(training.accuracy(model, test) * len(test))
    low, high = intervals.wilson(right, len(test))
    accuracy = {"metric": "accuracy", "value": 100 * right / len(test), "n": len(test), "ci_low": low, "ci_high": high}
    measured = geometry(model, few, probes)
    return [accuracy, *({"metric": name, "value": value, "n": len(few)} for name, value in measured.items())]
