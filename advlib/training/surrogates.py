"""Surrogates on ImageNet (thesis chapter 4): a pretrained network that is trained further on image files, with the
penalties of LRS or without, and then kept under a name.

    make("imagenet/squeezenet1_1", folder)              tuned, LRS-1, LRS-2 and LRS-F; two of them in `wanted`
    f = load("imagenet/squeezenet1_1-lrs1", folder)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import date
from functools import cache, partial
from pathlib import Path

import torch

from ..core import checks, surrogate
from ..core.surrogate import Normalized
from ..files import provenance
from ..zoo import datasets, models, weights
from ..zoo.photographs import Photographs
from . import streaming
from .fitting import ROW, State
from .objectives import LipschitzRegularized, Objective
from .recipes import FINE_TUNING, Recipe
from .streaming import Views, Watch, loader

_BATCH = 16
_SHARE = _BATCH / FINE_TUNING.batch_size
SHORT = replace(
    FINE_TUNING,
    epochs=3,
    batch_size=_BATCH,
    lr=_SHARE * FINE_TUNING.lr,
    bf16=False,
    objective=LipschitzRegularized(lambda1=0.1, lambda2=_SHARE * LipschitzRegularized.lambda2, batchnorm="eval"),
)
"""LRS-F for a thousand images and a processor, in float32, which h1 needs. The learning rate is the thesis' times the
share of its batch, and so is lambda2: in the reference form LRS-2 is that of the batch's mean loss, which grows as the
batch shrinks. lambda1: of 5, 0.5, 0.1 and 0.02 the largest that keeps the accuracy of a SqueezeNet 1.1 on 200 images
held back, after 12 steps (56.5 % before; 60.5 without a penalty, then 0, 52.5, 61.0 and 60.5; with lambda2 at 0.625
60.5, and at 5 59.0). BatchNorm keeps the statistics that it came with: those of few images are not the network's."""
VARIANTS = ("tuned", "lrs1", "lrs2", "lrsf")
_LEAST = 0.5
"""The share of an image's area that training sees at least: a surrogate is to see what is attacked, whole images."""


def fine_tune(
    model: Normalized,
    train: Photographs,
    val: Photographs,
    objective: Objective,
    checkpoint: Path | None = None,
    workers: int = 0,
    report: Callable[[dict], None] = lambda row: None,
    watch: Watch = lambda model: {},
    **changes: object,
) -> list[dict]:
    """`training.fine_tune` on image files, which are decoded in every epoch by `workers` processes, 0 for none, and are
    never all in memory: a trained `model`, in place, on its own device, at its own `size`.

    Views are a random part of at least half of the image, flipped or not. train, val: as `datasets.photographs` returns
    them. checkpoint: written atomically after every epoch; where it exists, training goes on from it and ends at the
    weights of a run that never stopped, with any number of workers. report, watch: as of `training.fit`, whose rows are
    returned; changes: fields of `FINE_TUNING` (epochs, batch_size, bf16, ...), of which `augment` is not read.
    Raises TypeError or ValueError on bad input, DataError for a damaged image, and as `training.fit` does for a
    checkpoint of another training or numbers that are not finite.
    """
    recipe = replace(FINE_TUNING, objective=objective, **changes)
    return _fit(model, train, val, recipe, checkpoint, workers, report, watch)


def _fit(
    model: Normalized,
    train: Photographs,
    val: Photographs,
    recipe: Recipe,
    checkpoint: Path | None,
    workers: int,
    report: Callable[[dict], None],
    watch: Watch,
) -> list[dict]:
    _check(model, train, val, checkpoint, workers, report, watch, recipe)
    model.to(memory_format=torch.channels_last)
    to_train = loader(Views(train, model.size, _LEAST, recipe.seed), recipe.batch_size, workers)
    to_validate = loader(Views(val, model.size), recipe.batch_size, workers)
    made_of = {"size": model.size, "training data": train.digest(), "validation data": val.digest()}
    index = train.index.to(next(model.parameters()).device)
    state = State(model, recipe, len(to_train) * recipe.epochs + 1, made_of, index)
    return streaming.train(state, model, to_train, to_validate, checkpoint, report, watch)


def _check(
    model: object,
    train: object,
    val: object,
    checkpoint: object,
    workers: object,
    report: object,
    watch: object,
    recipe: Recipe,
) -> None:
    checks.instance("model", model, Normalized, "a Normalized, as models.load returns it")
    if model.size is None:
        raise ValueError("model: expected one that says the size of its images")
    for name, data in (("train", train), ("val", val)):
        checks.instance(name, data, Photographs, "Photographs, as datasets.photographs returns them")
        if not len(data):
            raise ValueError(f"{name}: holds no image")
    if checkpoint is not None:
        checks.instance("checkpoint", checkpoint, Path, "a Path or None")
    checks.whole("workers", workers, 0)
    checks.function("report", report, "a function (row) -> None", 1)
    checks.function("watch", watch, "a function (model) -> {name: number}", 1)
    if recipe.batch_size > len(train):
        raise ValueError(f"batch_size={recipe.batch_size}: larger than the training set of {len(train)}")
    with surrogate.frozen([model]), torch.no_grad():
        classes = model(next(model.parameters()).new_zeros(1, 3, model.size, model.size)).shape[1]
    for name, data in (("train", train), ("val", val)):
        if (last := int(data.labels.max())) >= classes:
            raise ValueError(f"{name}.labels: class {last} is out of range for {classes} logits")


# --- by name ---------------------------------------------------------------------------------------------------------


def make(
    name: str,
    folder: Path,
    data: tuple[Photographs, Photographs] | None = None,
    wanted: Sequence[str] = VARIANTS,
    recipe: Recipe = SHORT,
    device: torch.device | str = "cpu",
    workers: int = 0,
    report: Callable[[str, dict], None] = lambda variant, row: None,
    watch: Watch = lambda model: {},
) -> dict[str, dict]:
    """Fine-tune the network `name` ("imagenet/squeezenet1_1") once for each of `wanted`, and keep the weights, in fp16,
    in `folder`. Those that it holds already, of the same training, are left alone; a killed one goes on.

    data: images to train and to validate on, `datasets.photographs()` if None; wanted: some of VARIANTS; recipe: of
    LRS-F, of whose objective the others leave penalties out (the thesis' own: FINE_TUNING with LipschitzRegularized());
    report: called with the variant and the row of each epoch; watch: as of `training.fit`, also called with the network
    before.
    Returns the manifest's entry of each: accuracy on the n images held back; before: that of the network as it was, and
    what was watched; the curves of both; seconds, recipe, seed, date. Raises as `models.load`, `datasets.photographs`
    and `fine_tune` do.
    """
    checks.text("name", name)
    checks.instance("folder", folder, Path, "a Path")
    checks.instance("recipe", recipe, Recipe, "a Recipe")
    checks.instance("recipe.objective", recipe.objective, LipschitzRegularized, "a LipschitzRegularized")
    for variant in wanted:
        checks.choice("wanted", variant, VARIANTS)
    train, val = datasets.photographs() if data is None else data
    base = models.load(name).to(device)
    before = cache(lambda: {"accuracy": _accuracy(base, val, workers), **watch(base)})
    found = {}
    for variant in wanted:
        own = replace(recipe, objective=_objective(variant, recipe.objective))
        key = _key(base, own, train, val)
        entry = weights.manifest(folder).get(f"{name}-{variant}")
        if entry is None or entry.get("made_of") != key:
            options = {"workers": workers, "report": partial(report, variant), "watch": watch}
            model, checkpoint = deepcopy(base), folder / f"{name}-{variant}-{key}.pt"
            history = _fit(model, train, val, own, checkpoint, **options)
            facts = {"made_of": key, "before": before(), **_facts(own, history, train, val)}
            weights.save_weights(f"{name}-{variant}", model.cpu(), facts, folder)
            checkpoint.unlink()
        found[variant] = weights.manifest(folder)[f"{name}-{variant}"]
    return found


def load(name: str, folder: Path) -> Normalized:
    """A surrogate that `make` left in `folder`, such as "imagenet/squeezenet1_1-lrs1", in eval mode, on the CPU. Raises
    as `models.load` does, and WeightsError where the folder does not have it."""
    checks.text("name", name)
    checks.instance("folder", folder, Path, "a Path")
    base, _, variant = name.rpartition("-")
    checks.choice("name", variant, VARIANTS)
    model = models.load(base)
    weights.restore(model.net, name, folder)
    return model


def _objective(variant: str, lrs: LipschitzRegularized) -> LipschitzRegularized:
    without = {"tuned": {"lambda1": 0.0, "lambda2": 0.0}, "lrs1": {"lambda2": 0.0}, "lrs2": {"lambda1": 0.0}}
    return replace(lrs, **without.get(variant, {}))


def _key(base: Normalized, recipe: Recipe, train: Photographs, val: Photographs) -> str:
    """16 hex digits of all that the weights will depend on."""
    made_of = repr((weights.digest(base), base.size, recipe.facts(), train.digest(), val.digest()))
    return hashlib.sha256(f"{made_of} {provenance.TRAINING_CODE}".encode()).hexdigest()[:16]


def _accuracy(model: Normalized, val: Photographs, workers: int) -> float:
    return streaming.accuracy(model, loader(Views(val, model.size), SHORT.batch_size, workers))


def _facts(recipe: Recipe, history: list[dict], train: Photographs, val: Photographs) -> dict[str, object]:
    curves = {name: [round(row[name], 4) for row in history] for name in history[0] if name not in ROW}
    return {
        "accuracy": history[-1]["val_accuracy"],
        "n": len(val),
        "split": "held back",
        "trained_on": len(train),
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "recipe": recipe.facts(),
        "seed": recipe.seed,
        "curve": [round(row["val_accuracy"], 4) for row in history],
        **curves,
        "date": date.today().isoformat(),
        "torch": torch.__version__,
    }
