"""Trainings from several seeds, and what is measured of each network at its end (Tables 5.2 and 5.5).

train_once = Trainings(network, train, val, RUN.checkpoints)
train_once.ahead([("SAM", recipe)])                        side by side, where there is an engine with workers
net, history = train_once("SAM", recipe)
rows = outcome(net, test, few, probes=8)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from .. import training
from ..core import intervals
from ..files.provenance import fingerprint
from ..training.recipes import Recipe
from ..zoo.datasets import Images
from . import engines
from .engines import CellError, Engine, FailedCells, Say
from .measures import geometry
from .progress import Progress

Watch = Callable[[nn.Module], dict[str, float]]


def unwatched(model: nn.Module) -> dict[str, float]:
    """Nothing is measured."""
    return {}


class Plan(NamedTuple):
    """What a call of `Trainings` is given."""

    name: str
    recipe: Recipe
    watch: Watch = unwatched
    watch_at: Collection[int] = ()

    def __str__(self) -> str:
        return f"{self.name}, seed {self.recipe.seed}"


@dataclass
class Trainings:
    """Trainings on the same images. Each has a checkpoint of its own, so that a killed one goes on where it was.

    network: a seed to an untrained network; train, val: the images; folder: of the checkpoints; taken_up: those that an
    earlier run began, or ended, "SAM, seed 0"; engine: where `ahead` trains, as of `evaluation.success_rates`; by
    default the one that $ADVLIB_ENGINE names, or else this process.
    """

    network: Callable[[int], nn.Module]
    train: Images
    val: Images
    folder: Path
    taken_up: list[str] = field(default_factory=list)
    engine: str | Engine = field(default_factory=engines.of_chapters)
    _seen: set[Path] = field(default_factory=set, init=False, repr=False)

    def __call__(
        self, name: str, recipe: Recipe, watch: Watch = unwatched, watch_at: Collection[int] = ()
    ) -> tuple[nn.Module, list[dict]]:
        """A network trained by the recipe, from its seed, and a row for each epoch. name: of the checkpoint; watch,
        watch_at: as of `training.fit`, whose errors it raises."""
        model, checkpoint = self.network(recipe.seed), self._checkpoint(Plan(name, recipe))
        return model, training.fit(model, self.train, self.val, recipe, checkpoint, watch=watch, watch_at=watch_at)

    def ahead(
        self, plans: Iterable[tuple[object, ...]], report: Callable[[str, dict], None] = lambda training, row: None
    ) -> None:
        """Train on the engine what calls with these arguments, (name, recipe), (name, recipe, watch, watch_at), are
        going to ask for: they find their training ended in its checkpoint, and give what they give without this. Each
        is one worker's, which writes its checkpoint: workers on other machines have to see the folder. report: called
        with "SAM, seed 0" and each of its rows. The engine "serial" has nothing to gain, and does nothing here.
        Raises TypeError for what cannot be sent to a worker, and FailedCells after the other trainings."""
        engine = engines.chosen(self.engine)
        planned = (
            {} if isinstance(engine, engines.Serial) else {self._checkpoint(p): p for p in (Plan(*p) for p in plans)}
        )
        if not planned:
            return
        networks = {seed: self.network(seed) for seed in {plan.recipe.seed for plan in planned.values()}}
        job, failed = _Job(networks, self.train, self.val, planned), {}

        def heard(checkpoint: Path, row: dict) -> None:
            report(str(planned[checkpoint]), row)

        with (
            Progress("trainings", len(planned), every=0) as bar,
            closing(engine.run(job, [*planned], heard)) as answers,
        ):
            for checkpoint, answer in answers:
                if isinstance(answer, CellError):
                    failed[str(planned[checkpoint])] = answer
                bar.advance(str(planned[checkpoint]))
        if failed:
            raise FailedCells(failed, len(planned), kind="trainings")

    def _checkpoint(self, plan: Plan) -> Path:
        """Of a training; the first time also whether it is taken up."""
        made_of = fingerprint({"n": len(self.train), **plan.recipe.facts()})
        checkpoint = self.folder.absolute() / f"{plan.name}_{made_of}.pt".replace(" ", "_")
        if checkpoint.is_file() and checkpoint not in self._seen:
            self.taken_up.append(str(plan))
        self._seen.add(checkpoint)
        return checkpoint


@dataclass(frozen=True)
class _Job:
    """Trainings as an engine runs them (`engines.Job`): a cell is a checkpoint. networks: untrained, by their seeds."""

    networks: Mapping[int, nn.Module]
    train: Images
    val: Images
    planned: Mapping[Path, Plan]

    @property
    def device(self) -> torch.device:
        return next(next(iter(self.networks.values())).parameters()).device

    def parts(self) -> dict[str, object]:
        networks = {f"network of seed {seed}": network for seed, network in self.networks.items()}
        watches = {f"watch of {plan}": plan.watch for plan in self.planned.values()}
        return networks | watches | {f"recipe of {plan}": plan.recipe for plan in self.planned.values()}

    def ready(self) -> AbstractContextManager[None]:
        return nullcontext()

    def __call__(self, checkpoint: Path, say: Say) -> None:
        _, recipe, watch, watch_at = self.planned[checkpoint]
        model, options = deepcopy(self.networks[recipe.seed]), {"watch": watch, "watch_at": watch_at}
        training.fit(model, self.train, self.val, recipe, checkpoint, report=say, **options)


def outcome(model: nn.Module, test: Images, few: Images, probes: int) -> list[dict[str, object]]:
    """Metric, value and n of a trained network, a row each: its accuracy (%) on `test`, with Wilson's interval, and its
    `geometry` on `few`."""
    right = round(training.accuracy(model, test) * len(test))
    low, high = intervals.wilson(right, len(test))
    accuracy = {"metric": "accuracy", "value": 100 * right / len(test), "n": len(test), "ci_low": low, "ci_high": high}
    measured = geometry(model, few, probes)
    return [accuracy, *({"metric": name, "value": value, "n": len(few)} for name, value in measured.items())]
