"""One training loop: data on the device, bf16, any of the optimizers of chapter 5, atomic checkpoints that resume to
the same result."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from math import isfinite
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..core import checks, surrogate
from ..core.draws import Draw
from ..engine.processor import in_parts
from ..files import provenance
from ..files.paths import WEIGHTS, replacing
from ..sam import SharpnessAware
from ..sam_family import AESAM, ESAM
from ..zoo import datasets, models, weights
from ..zoo.datasets import Images
from ..zoo.registry import TUNED, Net
from . import replayed
from .augment import AUGMENTATIONS
from .objectives import Objective
from .recipes import FINE_TUNING, SCHEDULES, Recipe, recipe_for

ROW = ("epoch", "loss", "val_accuracy", "lr", "seconds")
"""What `fit` says of every epoch."""


def fit(
    model: nn.Module,
    train: Images,
    val: Images,
    recipe: Recipe,
    checkpoint: Path | None = None,
    report: Callable[[dict], None] = lambda row: None,
    watch: Callable[[nn.Module], dict[str, float]] = lambda model: {},
    watch_at: Collection[int] | None = None,
    after_step: Callable[[int], None] = lambda done: None,
) -> list[dict]:
    """Train `model` in place on its own device and return one row an epoch: epoch, loss, val_accuracy, lr, seconds, and
    what `watch` measures on the model after it.

    On a GPU the passes of a step are recorded as a CUDA graph before the first one, and replayed in each (`replayed`),
    where all steps take the same: with `Classification`, and no optimizer around the plain one, or SAM, GSAM or CR-SAM.
    Such a network does in every step what it did in the recording: its forward pass may not decide otherwise later, and
    what it remembers must be in buffers that are changed in place, as BatchNorm's are. One that draws from torch's
    generators, as dropout does, or is compiled, is launched anew in every step; so is, with a RuntimeWarning, one that
    cannot be recorded. In tests a tape of operations on the CPU takes the place of the graph.

    checkpoint: written atomically after every epoch; where it exists, training goes on from it and ends at the weights
    of a run that never stopped. It belongs to the recipe, the data, the weights that `model` starts from, the static
    networks of the objective, and the code of the package. report is called with every row. watch_at: the epochs,
    counted from 1, after which `watch` is called; all if None. after_step: called after every step with the number of
    steps done so far, those before a checkpoint included.
    Raises TypeError or ValueError on bad input; ValueError, which says what differs, if the checkpoint belongs to
    something else; and FloatingPointError at the end of an epoch in which a loss or a weight was not finite, before the
    checkpoint of the epoch before is replaced.
    """
    _check(model, train, val, recipe, checkpoint, report, watch, watch_at)
    checks.function("after_step", after_step, "a function (steps done) -> None", 1)
    device = next(model.parameters()).device
    train, val = train.to(device), val.to(device)
    model.to(memory_format=torch.channels_last)
    steps = len(train) // recipe.batch_size
    made_of = {} if checkpoint is None else {"training data": _digest(train), "validation data": _digest(val)}
    state = State(model, recipe, steps * recipe.epochs + 1, made_of, train.index)
    history = state.resume(checkpoint)
    again = _recorded(state, train, steps * recipe.epochs) if len(history) < recipe.epochs else None
    for epoch in range(len(history), recipe.epochs):
        started = time.perf_counter()
        loss = _epoch(state, train, recipe, epoch, steps, after_step, again)
        kept = state.kept()
        row = {
            "epoch": epoch + 1,
            "loss": loss,
            "val_accuracy": accuracy(kept, val),
            "lr": state.schedule.get_last_lr()[0],
            "seconds": time.perf_counter() - started,
            **(_watched(watch, kept) if watch_at is None or epoch + 1 in watch_at else {}),
        }
        history.append(row)
        if checkpoint is not None:
            state.save(checkpoint, history)
        report(row)
    state.finish()
    return history


def _check(
    model: object,
    train: object,
    val: object,
    recipe: object,
    checkpoint: object,
    report: object,
    watch: object,
    watch_at: object,
) -> None:
    """The arguments of `fit`, before any work. Two images go through the model, in eval mode."""
    checks.module(model)
    if next(model.parameters(), None) is None:
        raise ValueError("model: expected a network with weights to train")
    checks.instance("recipe", recipe, Recipe, "a Recipe")
    if checkpoint is not None:
        checks.instance("checkpoint", checkpoint, Path, "a Path or None")
    checks.function("report", report, "a function (row) -> None", 1)
    checks.function("watch", watch, "a function (model) -> {name: number}", 1)
    if watch_at is not None:
        checks.instance("watch_at", watch_at, Collection, "epochs, counted from 1, or None")
    for name, data in (("train", train), ("val", val)):
        _check_data(name, data)
    few = train[: min(2, len(train))].to(next(model.parameters()).device)
    with surrogate.frozen([model]), torch.no_grad():
        checks.outputs([model], few.x)
        classes = model(few.x).shape[1]
    for name, data in (("train", train), ("val", val)):
        checks.labels(data.labels, data.images, f"{name}.labels", classes)
    if recipe.batch_size > len(train):
        raise ValueError(f"batch_size={recipe.batch_size}: larger than the training set of {len(train)}")


def _check_data(name: str, data: object) -> None:
    checks.instance(name, data, Images, "Images, as datasets.load returns them")
    if not len(data):
        raise ValueError(f"{name}: holds no image")


def _watched(watch: Callable[[nn.Module], dict[str, float]], model: nn.Module) -> Mapping[str, float]:
    found = watch(model)
    checks.instance("watch", found, Mapping, "it to return {name: number}")
    return found


def _digest(data: Images) -> str:
    """16 hex digits of images, labels and index."""
    found = hashlib.sha256()
    for part in (data.images, data.labels, data.index):
        found.update(repr(tuple(part.shape)).encode() + part.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


class State:
    """What training changes: the model, its moving average if there is one, the optimizer and the schedule, of `steps`
    steps, and an objective that remembers."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        steps: int,
        made_of: Mapping[str, object],
        index: torch.Tensor | None = None,
        **options: object,
    ) -> None:
        """made_of: plain values of all, besides the recipe, the model and the code, that the weights will depend on;
        index: of the images, which an objective that remembers needs; options: more of the optimizer around the
        recipe's plain one."""
        self.model, self.recipe, self._made_of = model, recipe, dict(made_of)
        self.average = (
            AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
            if recipe.ema
            else None
        )
        remembers = index is not None and hasattr(recipe.objective, "begin")
        self.objective = recipe.objective.begin(index) if remembers else recipe.objective
        if recipe.around is AESAM:
            options = {"total": steps, **getattr(recipe.wrapper, "keywords", {}), **options}
        self.optimizer = _optimizer(model, recipe, options)
        around = isinstance(self.optimizer, SharpnessAware)
        self.base = self.optimizer.base if around else self.optimizer  # which steps in the end
        self.schedule = SCHEDULES[recipe.schedule](self.base, recipe.lr, steps)

    def passes(self, closure: Callable[[], torch.Tensor]) -> torch.Tensor:
        """All passes of a step, which leave the gradients to step along; the loss of the first. closure: as of the
        optimizer."""
        if isinstance(self.optimizer, SharpnessAware):
            return self.optimizer.passes(closure)
        return torch.enable_grad()(closure)().detach()

    def step(
        self, closure: Callable[[], torch.Tensor], again: Callable[[], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """All passes of one step; the loss of the first. again: what replays `passes`, where they were recorded."""
        if again is None:
            loss = self.optimizer.step(closure).detach()
        else:
            loss = again()
            self.base.step()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return loss

    def mean(self, losses: Sequence[torch.Tensor], epoch: int) -> float:
        """The mean of an epoch's losses, one a step; epoch: counted from 0. Raises FloatingPointError if one of them,
        or a weight or statistic of the model, is not finite. The device is waited for once."""
        values = [v for v in self.model.state_dict().values() if v.is_floating_point()]
        finite = torch.stack([n.isfinite() for n in torch._foreach_norm(values, torch.inf)]).all()
        *each, kept = torch.stack([*losses, finite.to(losses[0])]).tolist()
        broken = next((k for k, loss in enumerate(each) if not isfinite(loss)), None)
        if broken is not None:
            where = f"epoch {epoch + 1}, step {broken + 1} of {len(each)}"
            raise FloatingPointError(f"{where}: the loss is {each[broken]}; try a smaller learning rate")
        if not kept:
            raise FloatingPointError(
                f"epoch {epoch + 1}: the weights are not finite after {len(each)} steps; try a smaller learning rate"
            )
        return sum(each) / len(each)

    def kept(self) -> nn.Module:
        """The network that is validated."""
        return self.model if self.average is None else self.average.module

    def finish(self) -> None:
        """Leave the model with the weights that are kept, in eval mode."""
        if self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())
        self.model.eval()

    def save(self, path: Path, history: list[dict]) -> None:
        """Write a checkpoint, atomically."""
        saved = {name: part.state_dict() for name, part in self._parts().items()}
        with replacing(path) as partial:
            torch.save({**saved, "made_of": self._made_of, "history": history}, partial)

    def resume(self, path: Path | None) -> list[dict]:
        """Load a checkpoint if it is there, and return its history. Call it before the first step: from here on the
        weights of the model count as those that it started from. Raises ValueError for a file that is no checkpoint, or
        belongs to something else, which the message names."""
        if path is None:
            return []
        networks = {name: weights.digest(models.load(name)) for name in getattr(self.recipe.objective, "networks", ())}
        start = {
            "initial weights": weights.digest(self.model),
            "static networks": networks,
            "code": provenance.TRAINING_CODE,
        }
        self._made_of = {"recipe": self.recipe.facts(), **self._made_of, **start}
        if not path.is_file():
            return []
        saved = _read(path, next(self.model.parameters()).device)
        if other := _differences(saved["made_of"], self._made_of):
            raise ValueError(f"{path} belongs to another training, by its {', '.join(other)}; delete it to train anew")
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])
        return saved["history"]

    def _parts(self) -> dict[str, object]:
        found = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}
        found |= {"objective": self.objective} if hasattr(self.objective, "state_dict") else {}
        return found if self.average is None else {**found, "average": self.average}


def _read(path: Path, device: torch.device) -> dict:
    try:
        saved = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # whatever unpickling a damaged file, or one of another kind, raises
        raise ValueError(f"{path}: damaged, or no checkpoint ({type(error).__name__}); delete it") from error
    if not isinstance(saved, dict) or "made_of" not in saved:
        raise ValueError(f"{path}: does not say what it was made of, or is no checkpoint; delete it to train anew")
    return saved


def _differences(theirs: Mapping[str, object], ours: Mapping[str, object]) -> list[str]:
    """What a checkpoint and this training were not both made of; of recipes also the first field, with both values."""
    found = [name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)]
    then, now = theirs["recipe"], ours["recipe"]
    field = next((name for name in {**now, **then} if then.get(name) != now.get(name)), None)
    detail = {"recipe": f"recipe ({field}: {then.get(field)}, now {now.get(field)})"} if field else {}
    return [detail.get(name, name) for name in found]


def fine_tune(
    model: nn.Module,
    train: Images,
    val: Images,
    objective: Objective,
    checkpoint: Path | None = None,
    **changes: object,
) -> list[dict]:
    """`fit` a trained `model` further by `FINE_TUNING`, in place: 10 epochs of `objective` at a constant learning rate,
    which with `LipschitzRegularized` makes the surrogate of thesis Alg. 3; any attack then runs on it.

    changes: fields of the recipe (epochs, lr, bf16, ...), and `report` and `watch` of `fit`, whose rows are returned.
    Raises as `fit` and `Recipe` do."""
    calls = {name: changes.pop(name) for name in ("report", "watch") if name in changes}
    return fit(model, train, val, replace(FINE_TUNING, objective=objective, **changes), checkpoint, **calls)


def _optimizer(model: nn.Module, recipe: Recipe, more: dict[str, object]) -> torch.optim.Optimizer:
    params = [p for p in model.parameters() if p.requires_grad]
    base = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    options = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        momentum, nesterov = (0.95, True) if recipe.schedule == "one_cycle" else (0.9, False)
        options |= {"momentum": momentum, "nesterov": nesterov}
    if recipe.wrapper is None:
        return base(params, **options)
    optimizer = recipe.wrapper(params, base, **options, **more)
    if recipe.compile and isinstance(optimizer, SharpnessAware):
        optimizer.model = model
    return optimizer


def _recorded(state: State, train: Images, steps: int) -> replayed.Passes | None:
    """The passes of one step of the `steps` of a training, recorded, where that is possible and pays."""
    if not replayed.repeats(state.optimizer, state.recipe, steps):
        return None
    like = train[range(state.recipe.batch_size)]
    x = _augmented(like, state.recipe, 0)
    state.model.train()
    closure = _closure(state, state.model, x, like.labels, Draw(state.recipe.seed, like.index, 0))
    passes = partial(state.passes, closure)
    return replayed.recorded(state.model, state.optimizer, passes, (x, like.labels))


def _epoch(
    state: State,
    train: Images,
    recipe: Recipe,
    epoch: int,
    steps: int,
    after_step: Callable[[int], None],
    again: replayed.Passes | None,
) -> float:
    """One pass over the data in an order, and with draws, that depend on (seed, epoch) alone; returns the mean loss."""
    state.model.train()
    run = torch.compile(state.model) if recipe.compile else state.model
    seed = recipe.seed * 100_003 + epoch
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).to(train.labels.device)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        losses = []
        for step in range(steps):
            batch = train[order[step * recipe.batch_size : (step + 1) * recipe.batch_size]]
            x = _augmented(batch, recipe, epoch)
            replay = None if again is None else partial(again, x, batch.labels)
            draw = Draw(recipe.seed, batch.index, epoch)
            losses.append(state.step(_closure(state, run, x, batch.labels, draw), replay))
            after_step(epoch * steps + step + 1)
    return state.mean(losses, epoch)


def _augmented(batch: Images, recipe: Recipe, epoch: int) -> torch.Tensor:
    """The images of a batch in [0, 1], in memory of their own."""
    x = batch.images
    for name in recipe.augment:
        x = AUGMENTATIONS[name](x, Draw(recipe.seed, batch.index, epoch))
    return datasets.in_unit_range(x).contiguous(memory_format=torch.channels_last)


def _closure(
    state: State, model: nn.Module, x: torch.Tensor, y: torch.Tensor, draw: Draw
) -> Callable[..., torch.Tensor]:
    """The loss of a batch and its gradients, for however many passes the optimizer takes; for ESAM the losses of its
    images, or of some. model: what is called, the network of `state` or that compiled; x: the augmented images; y:
    their classes."""
    recipe = state.recipe

    def closure() -> torch.Tensor:
        state.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.bf16):
            loss = state.objective(model, x, y, draw)
        loss.backward()
        return loss

    def losses(keep: torch.Tensor | None) -> torch.Tensor:
        some, labels, index = (t if keep is None else t[keep] for t in (x, y, draw.index))
        with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.bf16):
            return state.objective.losses(model, some, labels, draw.at(index=index))

    return losses if recipe.around is ESAM else closure


@torch.no_grad()
def accuracy(model: nn.Module, data: Images, batch_size: int = 500) -> float:
    """Share of images in [0, 1] whose class the model names, in eval mode and float32; the mode is put back. Raises
    TypeError or ValueError on bad input."""
    checks.module(model)
    _check_data("data", data)
    checks.whole("batch_size", batch_size, 1)
    was_training, device = model.training, data.labels.device
    model.eval()
    hits = torch.zeros((), dtype=torch.int64, device=device)

    def named(x: torch.Tensor) -> torch.Tensor:
        return checks.logits(model(x), len(x)).argmax(1)

    for batch in data.batches(batch_size):
        hits += (in_parts(named, batch.x.contiguous(memory_format=torch.channels_last)) == batch.y).sum()
    model.train(was_training)
    return hits.item() / len(data)


def train_member(name: str, recipe: Recipe | None = None, **options: object) -> dict:
    """Train the zoo's net `name` ("shapes/resnet", "cifar10/wrn-full", "cifar10/vgg-pgd"), or train the net without the
    suffix further ("cifar10/densenet-lrs1"), test it once and save it.

    recipe: `recipe_for(name)` if None; options: those of `train_and_save`, whose entry is returned. Raises as
    `models.create` does.
    """
    checks.text("name", name)
    net = Net.parse(name)
    recipe = recipe_for(name) if recipe is None else recipe
    checks.instance("recipe", recipe, Recipe, "a Recipe")
    if net.variant in TUNED:
        model = models.load(f"{net.dataset}/{net.family}")
    else:
        model = models.create(net.family, net.size, net.dataset, recipe.seed)
    return train_and_save(name, model, model, recipe, **options)


def forget(name: str, checkpoints: Path | None) -> None:
    """Delete the checkpoint, if there is one in the folder, that an earlier training of the net `name` left."""
    if checkpoints is not None:
        _checkpoint(name, checkpoints).unlink(missing_ok=True)


def _checkpoint(name: str, folder: Path) -> Path:
    return folder / f"{name.replace('/', '_')}.pt"


def train_and_save(
    name: str,
    model: nn.Module,
    saved: nn.Module,
    recipe: Recipe,
    checkpoints: Path | None = None,
    folder: Path = WEIGHTS,
    device: torch.device | str = "cpu",
    report: Callable[[dict], None] = lambda row: None,
    watch: Callable[[nn.Module], dict[str, float]] = lambda model: {},
    fresh: bool = False,
    n: int | None = None,
) -> dict:
    """Fit `model` on the data set that `name` begins with, test it once and save `saved`, the model or a part of it.

    checkpoints: a folder to resume from; fresh: delete the checkpoint that an earlier run left there, and train from
    the start; folder: where the weights go; report, watch: of `fit`; n: the first images of every split, for a trial,
    all of them if None. Returns the manifest's entry: accuracy on the test split, n, parameters, recipe, curve of the
    validation accuracy, and of whatever was watched, seed, date.
    """
    dataset = name.partition("/")[0]
    model.to(device)
    train, val = datasets.load(dataset, "train", n), datasets.load(dataset, "val", n)
    if fresh:
        forget(name, checkpoints)
    checkpoint = None if checkpoints is None else _checkpoint(name, checkpoints)
    history = fit(model, train, val, recipe, checkpoint, report, watch)
    watched = dict.fromkeys(name for row in history for name in row if name not in ROW)
    test = datasets.load(dataset, "test", n).to(device)
    facts = {
        "accuracy": round(accuracy(model, test), 4),
        "n": len(test),
        "split": "test",
        "trained_on": len(train),
        "parameters": sum(p.numel() for p in saved.parameters()),
        "recipe": recipe.facts(),
        "seed": recipe.seed,
        "curve": [round(row["val_accuracy"], 4) for row in history],
        **{name: [round(row[name], 4) for row in history if name in row] for name in watched},
        "date": date.today().isoformat(),
        "torch": torch.__version__,
    }
    weights.save_weights(name, saved.cpu(), facts, folder)
    return facts
