"""The nets that a chapter needs: which are there, and the training of those that are not, or that are wanted anew.

print(trainees.provide("cifar10", ["densenet-lrs1", "densenet-lrsf"], retrain=["densenet-lrs1"]))
made = trainees.smoothed("imagenet/squeezenet1_1", RUN, ["lrsf"])  # RUN: `chapters.begin`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from pathlib import Path

import torch

from ..core import checks
from ..defenses import purification
from ..files.paths import WEIGHTS
from ..training import fitting, recipes, surrogates
from ..zoo import datasets, weights
from ..zoo.registry import TUNED, Net
from . import engines
from .chapters import Run
from .engines import CellError, Engine, FailedCells, Say
from .progress import Progress
from .seeds import Watch, unwatched

TRIAL = 256
"""How many images of every split a trial sees."""
TRIAL_PHOTOGRAPHS = 32
"""And how many of ImageNet's size."""


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
    watch: Watch = unwatched,
    folder: Path = WEIGHTS,
    engine: str | Engine | None = None,
    **changes: object,
) -> Provided:
    """Train those of `nets` that have no weights, and those that `retrain` names, these from the start.

    nets: names of the zoo or of `purification.PURIFIERS` without their data set ("vgg-pgd", "hgd"); checkpoints: a
    folder to resume the others from; trial: a folder for the weights of a mere trial, one epoch on `TRIAL` images, None
    to train in full and keep the weights in `folder`, by default those that all chapters load; report: called in this
    process with the net, its number of epochs and `fit`'s row after each of them; watch: of `fit`; engine: where nets
    are trained, each by one worker, as of `evaluation.success_rates`; None: the one that $ADVLIB_ENGINE names, or else
    this process. Workers write checkpoints and weights themselves: on several machines the folders have to be on a disk
    that all of them see. A net whose training needs another of these waits for it. The weights are those of one process
    with as many threads, bit for bit; with others torch adds up in another order. changes: fields of every recipe,
    where 0 epochs are the recipe's own.
    Raises ValueError for a name in `retrain` that is not in `nets`, and as `training.train_member` does; on an engine
    with workers, TypeError for a `watch` or a recipe that cannot be sent, and FailedCells after the other trainings,
    for those that failed and those that needed them.
    """
    engine = engines.chosen(engines.of_chapters() if engine is None else engine)
    for net in retrain:
        checks.choice("retrain", net, nets)
    listed, kept = weights.manifest(WEIGHTS), (trial or folder).absolute()
    trained = [net for net in dict.fromkeys(nets) if net in retrain or f"{dataset}/{net}" not in listed]
    planned = {net: _changed(_recipe(dataset, net), trial is not None, **changes) for net in trained}
    # Here and not in a worker: another one that takes up the net of one that died goes on from its checkpoint.
    for net in trained if trial else retrain:
        fitting.forget(f"{dataset}/{net}", checkpoints)
    checkpoints = checkpoints and checkpoints.absolute()  # a worker may be somewhere else
    options = {"checkpoints": checkpoints, "folder": kept, "watch": watch, "n": TRIAL if trial else None}
    # What is kept elsewhere is not what another training loads.
    needs = {net: _needs(dataset, net) & {*trained} if kept == WEIGHTS else set() for net in trained}
    _train(engine, _Job(torch.zeros(1, device=device), dataset, planned, options), needs, report)
    loaded = tuple(net for net in nets if net not in trained)
    return Provided(tuple(trained), loaded, kept, trial is not None)


def smoothed(
    name: str,
    run: Run,
    wanted: Sequence[str] = surrogates.VARIANTS,
    seed: int = 0,
    epochs: int = 0,
    report: Callable[[str, int, dict], None] = lambda variant, epochs, row: None,
    watch: Watch = unwatched,
) -> dict[str, dict]:
    """Surrogates of ImageNet that a chapter attacks, fine-tuned on photographs in its run where its folder
    `run.weights` has them not yet, from which `surrogates.load` takes them.

    name: the network, "imagenet/squeezenet1_1"; wanted: some of `surrogates.VARIANTS`; seed, epochs: of the recipe,
    `surrogates.SHORT`, where 0 epochs are its own; at smoke scale that is a trial, one epoch on TRIAL_PHOTOGRAPHS
    images; report: called with the variant, the number of epochs and `fit`'s row after each of them; watch: of `fit`.
    Returns the manifest's entry of each, and raises, as `surrogates.make` does."""
    trial = run.scale == "smoke"
    train, val = (part[:TRIAL_PHOTOGRAPHS] if trial else part for part in datasets.photographs())
    recipe = _changed(surrogates.SHORT, trial, epochs, seed=seed)

    def heard(variant: str, row: dict) -> None:
        report(variant, recipe.epochs, row)

    return surrogates.make(name, run.weights, (train, val), wanted, recipe, run.device, report=heard, watch=watch)


@dataclass(frozen=True)
class _Job:
    """The trainings of `provide` as an engine runs them (`engines.Job`): a cell is a net. place: a tensor where nets
    are trained, which like all tensors of a job arrives on the worker's own device; options: of `train_and_save`."""

    place: torch.Tensor
    dataset: str
    planned: Mapping[str, recipes.Recipe]
    options: Mapping[str, object]

    @property
    def device(self) -> torch.device:
        return self.place.device

    def parts(self) -> dict[str, object]:
        planned = {f"recipe of {net!r}": recipe for net, recipe in self.planned.items()}
        return {"watch": self.options["watch"], **planned}

    def ready(self) -> AbstractContextManager[None]:
        return nullcontext()

    def __call__(self, net: str, say: Say) -> dict:
        train = purification.train if net in purification.PURIFIERS else fitting.train_member
        return train(f"{self.dataset}/{net}", self.planned[net], device=self.device, report=say, **self.options)


def _train(engine: Engine, job: _Job, needs: Mapping[str, set[str]], report: Callable[[str, int, dict], None]) -> None:
    """All nets of the job, none before those that it needs."""
    if not needs:
        return

    def heard(net: str, row: dict) -> None:
        report(net, job.planned[net].epochs, row)

    order, failed, done = TopologicalSorter(needs), {}, set()
    order.prepare()
    with Progress("training", len(needs), every=0) as bar:
        while able := order.get_ready():
            with closing(engine.run(job, able, heard)) as answers:
                for net, answer in answers:
                    if isinstance(answer, CellError):
                        failed[net] = answer
                    else:
                        order.done(net)
                        done.add(net)
                    bar.advance(net)
    if failed:
        left = [net for net in needs if net not in done and net not in failed]
        failed |= {net: CellError(f"it needs {', '.join(sorted(needs[net] - done))}") for net in left}
        raise FailedCells(failed, len(needs), kind="trainings")


def _recipe(dataset: str, net: str) -> recipes.Recipe:
    room = purification if net in purification.PURIFIERS else recipes
    return room.recipe_for(f"{dataset}/{net}")


def _needs(dataset: str, net: str) -> set[str]:
    """The other nets of the data set that the training of a net loads."""
    static = {name.partition("/")[2] for name in getattr(_recipe(dataset, net).objective, "networks", ())}
    if net in purification.PURIFIERS:
        return {*static, purification.CLASSIFIER}
    parsed = Net.parse(f"{dataset}/{net}")
    return {*static, parsed.family} if parsed.variant in TUNED else static


def _changed(recipe: recipes.Recipe, trial: bool, epochs: int = 0, **changes: object) -> recipes.Recipe:
    return replace(recipe, epochs=epochs or (1 if trial else recipe.epochs), **changes)
