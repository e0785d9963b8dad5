"""One training loop: data on the device, bf16, one-cycle schedule, atomic checkpoints that resume to the same
result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

import torch
from torch import nn

from . import datasets, models
from .augment import AUGMENTATIONS
from .datasets import Images
from .draws import Draw
from .objectives import (
    Adversarial,
    Classification,
    EnsembleAdversarial,
    LipschitzRegularized,
    NoisyClassification,
    Objective,
)
from .paths import WEIGHTS, replacing


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    epochs; batch_size: images a step; lr: the peak; schedule: "one_cycle" (Smith & Topin 2018; the momentum goes the
    other way, from 0.95 to 0.85 and back) or "constant" (momentum 0.9); optimizer: "sgd" (with Nesterov momentum in
    one cycle) or "adam"; weight_decay: L2 coefficient; augment: names of `augment.AUGMENTATIONS`, in order; bf16:
    autocast of the passes (the weights stay float32); seed: of the initial weights, the order of the images, the
    augmentation and the objective's own draws; objective: what is minimised.
    """

    epochs: int = 15
    batch_size: int = 128
    lr: float = 0.1
    weight_decay: float = 5e-4
    augment: tuple[str, ...] = ("crop", "flip")
    bf16: bool = True
    seed: int = 0
    objective: Objective = Classification()
    optimizer: str = "sgd"
    schedule: str = "one_cycle"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1")
        for name, known in (("optimizer", ("sgd", "adam")), ("schedule", ("one_cycle", "constant"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected {' or '.join(known)}")
        if unknown := set(self.augment) - set(AUGMENTATIONS):
            raise ValueError(f"augment: unknown {', '.join(sorted(unknown))}; expected {', '.join(AUGMENTATIONS)}")

    def facts(self) -> dict[str, object]:
        """The recipe in plain values."""
        return {**asdict(self), "objective": repr(self.objective)}


# One recipe for each data set, at the small size; nothing in it was chosen on test images.
RECIPES = {
    "shapes": Recipe(epochs=5, batch_size=64, lr=0.1, augment=("flip",)),
    "cifar10": Recipe(epochs=15),
    "cifar100": Recipe(epochs=30),
}

FINE_TUNING = Recipe(epochs=10, lr=1e-3, schedule="constant")
"""How a surrogate is fine-tuned (thesis sect. 4.3: SGD with momentum 0.9, weight decay 5e-4, batches of 128)."""


_ROW = ("epoch", "loss", "val_accuracy", "lr", "seconds")
"""What `fit` says of every epoch."""


def fit(
    model: nn.Module,
    train: Images,
    val: Images,
    recipe: Recipe,
    checkpoint: Path | None = None,
    report: Callable[[dict], None] = lambda row: None,
    watch: Callable[[nn.Module], dict[str, float]] = lambda model: {},
) -> list[dict]:
    """Train `model` in place on its own device and return one row an epoch: epoch, loss, val_accuracy, lr, seconds, and
    what `watch` measures on the model after it.

    checkpoint: written atomically after every epoch; where it exists (same recipe), training goes on from it and ends
    at the weights of a run that never stopped. report is called with every row.
    Raises ValueError if the checkpoint belongs to another recipe.
    """
    device = next(model.parameters()).device
    train, val = train.to(device), val.to(device)
    model.to(memory_format=torch.channels_last)
    optimizer = _optimizer(model, recipe)
    steps = len(train) // recipe.batch_size
    if steps < 1:
        raise ValueError(f"batch_size={recipe.batch_size}: larger than the training set of {len(train)}")
    schedule = _schedule(optimizer, recipe, steps * recipe.epochs + 1)
    history = _resume(checkpoint, model, optimizer, schedule, recipe)
    for epoch in range(len(history), recipe.epochs):
        started = time.perf_counter()
        loss = _epoch(model, train, optimizer, schedule, recipe, epoch, steps)
        row = {
            "epoch": epoch + 1,
            "loss": loss,
            "val_accuracy": accuracy(model, val),
            "lr": schedule.get_last_lr()[0],
            "seconds": time.perf_counter() - started,
            **watch(model),
        }
        history.append(row)
        if checkpoint is not None:
            _save(checkpoint, model, optimizer, schedule, recipe, history)
        report(row)
    model.eval()
    return history


def fine_tune(
    model: nn.Module,
    train: Images,
    val: Images,
    objective: Objective,
    checkpoint: Path | None = None,
    **changes: object,
) -> list[dict]:
    """`fit` a trained `model` further by `FINE_TUNING`, in place: 10 epochs of `objective` at a constant learning rate.

    changes: fields of the recipe (epochs, lr, bf16, ...), and `report` and `watch` of `fit`, whose rows are returned.
    Raises as `fit` and `Recipe` do."""
    calls = {name: changes.pop(name) for name in ("report", "watch") if name in changes}
    return fit(model, train, val, replace(FINE_TUNING, objective=objective, **changes), checkpoint, **calls)


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    weights = [p for p in model.parameters() if p.requires_grad]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(weights, recipe.lr, weight_decay=recipe.weight_decay)
    momentum, nesterov = (0.95, True) if recipe.schedule == "one_cycle" else (0.9, False)
    return torch.optim.SGD(weights, recipe.lr, momentum, weight_decay=recipe.weight_decay, nesterov=nesterov)


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    if recipe.schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps, pct_start=0.3)


def _epoch(
    model: nn.Module,
    train: Images,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    recipe: Recipe,
    epoch: int,
    steps: int,
) -> float:
    """One pass over the data in an order that depends on (seed, epoch) alone; returns the mean loss."""
    model.train()
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(recipe.seed * 100_003 + epoch))
    order = order.to(train.labels.device)
    total = torch.zeros((), device=order.device)
    for step in range(steps):
        batch = train[order[step * recipe.batch_size : (step + 1) * recipe.batch_size]]
        x = batch.images
        for name in recipe.augment:
            x = AUGMENTATIONS[name](x, Draw(recipe.seed, batch.index, epoch))
        x = x.float().div_(255).contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.bf16):
            loss = recipe.objective(model, x, batch.labels, Draw(recipe.seed, batch.index, epoch))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.detach()
    return (total / steps).item()


@torch.no_grad()
def accuracy(model: nn.Module, data: Images, batch_size: int = 500) -> float:
    """Share of images in [0, 1] whose class the model names, in eval mode and float32; the mode is put back."""
    was_training, device = model.training, data.labels.device
    model.eval()
    hits = torch.zeros((), dtype=torch.int64, device=device)
    for batch in data.batches(batch_size):
        hits += (model(batch.x.contiguous(memory_format=torch.channels_last)).argmax(1) == batch.y).sum()
    model.train(was_training)
    return hits.item() / len(data)


_TUNING: dict[str, Objective] = {
    "tuned": LipschitzRegularized(lambda1=0.0, lambda2=0.0),
    "lrs1": LipschitzRegularized(lambda2=0.0),
    "lrs2": LipschitzRegularized(lambda1=0.0),
    "lrsf": LipschitzRegularized(),
}


# Radius of "adv": of 1, 2 and 4/255 the largest that keeps LRS-F's accuracy on validation images (CIFAR-100: as CIFAR-10).
_LIGHT = {"shapes": 4 / 255, "cifar10": 2 / 255, "cifar100": 2 / 255}


def recipe_for(name: str) -> Recipe:
    """The recipe of a net of the zoo: that of its data set, or `FINE_TUNING` with a suffix of TUNED, for as many epochs
    as the net was trained if those are fewer. Such a suffix, or one of HARDENED, names the objective. An epoch of the
    hardened costs several, so that they have fewer: two thirds with PGD, else half, and at least 5.

    The pools of the ensembles are after Tramer et al. 2018, Table 4: the own family, and others.
    """
    dataset, _, net = name.partition("/")
    base, variant = RECIPES[dataset], net.partition("-")[2]
    if variant in models.TUNED:
        epochs, radius = min(FINE_TUNING.epochs, base.epochs), _LIGHT[dataset]
        objectives = {**_TUNING, "adv": Adversarial(radius, steps=3, alpha=radius / 2)}
        return replace(FINE_TUNING, epochs=epochs, augment=base.augment, objective=objectives[variant])
    if variant not in models.HARDENED:
        return base
    pools = {
        "ens1": ("pyramidnet",),
        "ens3": ("vgg", "resnet", "densenet"),
        "ens4": ("vgg", "resnet", "densenet", "wrn"),
    }
    epochs = max(5, 2 * base.epochs // 3 if variant == "pgd" else base.epochs // 2)
    objectives = {"pgd": Adversarial(ramp=1 + epochs // 2), "noise": NoisyClassification()}
    objectives |= {k: EnsembleAdversarial(tuple(f"{dataset}/{family}" for family in pool)) for k, pool in pools.items()}
    return replace(base, objective=objectives[variant], epochs=epochs)


def train_member(name: str, recipe: Recipe | None = None, **options: object) -> dict:
    """Train the zoo's net `name` ("shapes/resnet", "cifar10/wrn-full", "cifar10/vgg-pgd"), or train the net without the
    suffix further ("cifar10/densenet-lrs1"), test it once and save it.

    recipe: `recipe_for(name)` if None; options: those of `train_and_save`, whose entry is returned. Raises as
    `models.create` does.
    """
    dataset, _, net = name.partition("/")
    family, _, size = net.partition("-")
    recipe = recipe or recipe_for(name)
    if size in models.TUNED:
        model = models.load(f"{dataset}/{family}")
    else:
        model = models.create(family, "small" if size in models.HARDENED else size or "small", dataset, recipe.seed)
    return train_and_save(name, model, model, recipe, **options)


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
) -> dict:
    """Fit `model` on the data set that `name` begins with, test it once and save `saved`, the model or a part of it.

    checkpoints: a folder to resume from; folder: where the weights go; watch: of `fit`. Returns the manifest's entry:
    accuracy on the whole test split, n, parameters, recipe, curve of the validation accuracy, and of whatever was
    watched, seed, date.
    """
    dataset, _, net = name.partition("/")
    model.to(device)
    train, val = datasets.load(dataset, "train"), datasets.load(dataset, "val")
    checkpoint = checkpoints / f"{dataset}_{net}.pt" if checkpoints is not None else None
    history = fit(model, train, val, recipe, checkpoint, report, watch)
    test = datasets.load(dataset, "test").to(device)
    facts = {
        "accuracy": round(accuracy(model, test), 4),
        "n": len(test),
        "split": "test",
        "trained_on": len(train),
        "parameters": sum(p.numel() for p in saved.parameters()),
        "recipe": recipe.facts(),
        "seed": recipe.seed,
        "curve": [round(row["val_accuracy"], 4) for row in history],
        **{name: [round(row[name], 4) for row in history] for name in history[0] if name not in _ROW},
        "date": date.today().isoformat(),
        "torch": torch.__version__,
    }
    models.save_weights(name, saved.cpu(), facts, folder)
    return facts


def _save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    recipe: Recipe,
    history: list[dict],
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "recipe": recipe.facts(),
        "history": history,
    }
    with replacing(path) as partial:
        torch.save(state, partial)


def _resume(
    path: Path | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    recipe: Recipe,
) -> list[dict]:
    if path is None or not path.is_file():
        return []
    state = torch.load(path, map_location=next(model.parameters()).device, weights_only=True)
    if state["recipe"] != recipe.facts():
        raise ValueError(f"{path} belongs to another recipe: {state['recipe']}")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return state["history"]
