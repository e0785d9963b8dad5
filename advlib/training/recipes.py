"""How networks are trained, as data: a recipe for every net of the book.

The loop that follows one is `training.fit`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from inspect import isfunction

import torch

from .. import sam
from ..core import checks, published
from ..sam_family import AESAM, ESAM, GSAM, SSAM, LookSAM
from ..zoo.registry import HARDENED, TUNED, Net
from .augment import AUGMENTATIONS
from .objectives import (
    SAF,
    Adversarial,
    Classification,
    EnsembleAdversarial,
    LipschitzRegularized,
    NoisyClassification,
    Objective,
)

_Schedule = torch.optim.lr_scheduler.LRScheduler
SCHEDULES: dict[str, Callable[[torch.optim.Optimizer, float, int], _Schedule]] = {
    "one_cycle": lambda o, lr, steps: torch.optim.lr_scheduler.OneCycleLR(o, lr, total_steps=steps, pct_start=0.3),
    "cosine": lambda o, lr, steps: torch.optim.lr_scheduler.CosineAnnealingLR(o, steps),
    "constant": lambda o, lr, steps: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0),
}


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    epochs, batch_size: how often, and how many images a step.
    lr: the peak of the learning rate.
    weight_decay: L2 coefficient, decoupled with adamw.
    augment: names of `augment.AUGMENTATIONS`, in their order.
    bf16: autocast of the passes; the weights stay float32.
    seed: of the initial weights, the order of the images, the augmentation, the objective's draws, torch's generator.
    objective: what is minimised.
    optimizer: "sgd" (with Nesterov momentum in one cycle), "adam" or "adamw".
    schedule: "one_cycle" (Smith & Topin 2018; the momentum goes the other way, from 0.95 to 0.85 and back), "cosine"
        (from the peak to 0) or "constant" (both with momentum 0.9).
    wrapper: a sharpness-aware optimizer of `sam` or `sam_family` around that one, or a `partial` of it with its
        options; None for none. AESAM's total is known here; ESAM needs an objective with `losses`, those of each image.
    ema: decay per step of an exponential moving average of weights and statistics, which is then what is validated and
        kept; 0 for none.
    compile: torch.compile.
    Raises TypeError or ValueError for a value that is none of those.
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
    wrapper: Callable[..., torch.optim.Optimizer] | None = None
    ema: float = 0.0
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            checks.whole(name, getattr(self, name), 1)
        for name in ("lr", "weight_decay"):
            checks.number(name, getattr(self, name), 0)
        checks.number("ema", self.ema, 0, below=1)
        checks.whole("seed", self.seed)
        for name in ("bf16", "compile"):
            checks.flag(name, getattr(self, name))
        for name, known in (("optimizer", ("sgd", "adam", "adamw")), ("schedule", SCHEDULES)):
            checks.choice(name, getattr(self, name), known)
        checks.instance("augment", self.augment, tuple, f"a tuple of {', '.join(AUGMENTATIONS)}")
        for name in self.augment:
            checks.choice("augment", name, AUGMENTATIONS)
        checks.function("objective", self.objective, "a function (model, x, y, draw) -> loss", 4)
        if self.wrapper is not None and not callable(self.wrapper):
            raise TypeError(
                f"wrapper: expected an optimizer of sam, or a partial of one, got {checks.shown(self.wrapper)}"
            )
        if self.around is ESAM and not hasattr(self.objective, "losses"):
            kind = type(self.objective).__name__
            raise ValueError(f"objective: ESAM needs one with the losses of each image, and {kind} has none")

    @property
    def around(self) -> Callable[..., torch.optim.Optimizer] | None:
        """The wrapper without its options."""
        return getattr(self.wrapper, "func", self.wrapper)

    def facts(self) -> dict[str, object]:
        """The recipe in plain values."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        # A function's own repr has its address, which is another one in the next process.
        named = f"{self.objective.__module__}.{self.objective.__qualname__}" if isfunction(self.objective) else None
        return {**plain, "objective": named or repr(self.objective), "wrapper": self._wrapper()}

    def _wrapper(self) -> dict[str, object] | None:
        if self.wrapper is None:
            return None
        return {"name": self.around.__name__, **getattr(self.wrapper, "keywords", {})}


# One recipe for each data set, at the small size; nothing in it was chosen on test images.
RECIPES = {
    "shapes": Recipe(epochs=5, batch_size=64, lr=0.1, augment=("flip",)),
    "cifar10": Recipe(epochs=15),
    "cifar100": Recipe(epochs=30),
}

FINE_TUNING = Recipe(epochs=10, lr=1e-3, schedule="constant")
"""How a surrogate is fine-tuned (thesis sect. 4.3: SGD with momentum 0.9, weight decay 5e-4, batches of 128)."""


_TUNING: dict[str, Objective] = {
    "tuned": LipschitzRegularized(lambda1=0.0, lambda2=0.0),
    "lrs1": LipschitzRegularized(lambda2=0.0),
    "lrs2": LipschitzRegularized(lambda1=0.0),
    "lrsf": LipschitzRegularized(),
}


# Radius and constants are those of the papers for CIFAR-10.
_FLAT = {
    "sam": partial(sam.SAM, rho=0.05),
    "asam": partial(sam.SAM, rho=0.5, adaptive=True),
    "crsam": partial(sam.CRSAM, rho=0.1, alpha=0.1, beta=0.01),
    "looksam": partial(LookSAM, rho=0.05, alpha=0.7, every=5),
    "esam": partial(ESAM, rho=0.05, beta=0.6, gamma=0.5),
    "ssam": partial(SSAM, rho=0.05, sparsity=0.5),
    "aesam": partial(AESAM, rho=0.05, low=-1.0, high=1.0),
    "gsam": partial(GSAM, rho=0.05, alpha=0.2),
}

# Radius of "adv": of 1, 2, 4/255 the largest that keeps LRS-F's accuracy on validation images of `shapes`; on CIFAR-10
# 2/255 keeps it, 4/255 was not tried (CIFAR-100: as CIFAR-10).
_LIGHT = {"shapes": 4 / 255, "cifar10": 2 / 255, "cifar100": 2 / 255}


def recipe_for(name: str) -> Recipe:
    """The recipe of a net of the zoo: that of its data set, with an optimizer around it for a suffix of FLAT or FAMILY,
    or `FINE_TUNING` with a suffix of TUNED, for as many epochs as the net was trained if those are fewer. Such a
    suffix, "saf", or one of HARDENED, names the objective. An epoch of the hardened costs several, so that they have
    fewer: two thirds with PGD, else half, and at least 5.

    The pools of the ensembles are after Tramer et al. 2018, Table 4: the own family, and others.
    Raises TypeError or ValueError for a name that is none of theirs.
    """
    checks.text("name", name)
    net = Net.parse(name)
    dataset, base, variant = net.dataset, RECIPES[net.dataset], net.variant
    if variant in TUNED:
        epochs, radius = min(FINE_TUNING.epochs, base.epochs), _LIGHT[dataset]
        objectives = {**_TUNING, "adv": Adversarial(radius, steps=3, alpha=radius / 2)}
        return replace(FINE_TUNING, epochs=epochs, augment=base.augment, objective=objectives[variant])
    if variant in _FLAT:
        return replace(base, wrapper=_FLAT[variant])
    if variant == "saf":  # the trajectory counts after three tenths of few epochs
        return replace(base, objective=SAF(start=min(SAF.start, 3 * base.epochs // 10)))
    if variant not in HARDENED:
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


def thesis(table: str, model: str, dataset: str, optimizer: str, **given: float) -> Recipe:
    """The recipe that the thesis prints for a network: a row of Table "5.1" (CIFAR) or "5.3" (ImageNet).

    model, dataset, optimizer: as printed ("ResNet-18", "CIFAR-10", "CR-SAM"); basic augmentation; given: rho, alpha or
    beta, where another or an illegible one is wanted. Raises ValueError for what is neither in the table nor given, or
    for what is given and the optimizer does not have.
    """
    rows = published.table(table)
    rows = rows[(rows.model == model) & (rows.dataset == dataset) & (rows.optimizer == optimizer)]
    if rows.empty:
        raise ValueError(f"Table {table} has no {model!r} with {optimizer!r} on {dataset!r}")
    printed = dict(zip(rows.parameter, rows.value, strict=True))
    around, names = {"SGD": (None, ()), "SAM": (sam.SAM, ("rho",)), "CR-SAM": (sam.CRSAM, ("rho", "alpha", "beta"))}[
        optimizer
    ]
    if other := set(given) - set(names):
        raise ValueError(
            f"{', '.join(sorted(other))}: {optimizer} has {', '.join(names) or 'none of rho, alpha, beta'}"
        )
    known = {**{k: float(v) for k, v in printed.items() if k in names}, **given}
    if absent := set(names) - set(known):
        raise ValueError(f"{', '.join(absent)}: not legible in Table {table} for {model} with {optimizer}; pass it")
    return Recipe(
        epochs=int(printed["epochs"]),
        batch_size=int(printed["batch_size"]),
        lr=float(printed["peak_lr"]),
        weight_decay=float(printed["weight_decay"]),
        optimizer="adamw" if model.startswith("ViT") else "sgd",
        schedule=printed["schedule"].lower(),
        wrapper=around and partial(around, **known),
    )
