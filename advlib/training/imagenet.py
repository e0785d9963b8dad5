"""Training and testing on ImageNet folders, one process for each device (thesis sect. 5.5.2, Tables 5.3 and 5.4).

    torchrun --nproc-per-node 8 -m advlib.training.imagenet train --data imagenet --model ResNet-50 \\
        --optimizer CR-SAM --out r50
    python -m advlib.training.imagenet test --data imagenet --model ResNet-50 --out r50 --corrupted imagenet-c

`--data` holds train/ and val/, each with a folder of images for every class; ImageNet-C has <corruption>/<severity>/
before the class folders; `--rendered` is ImageNet-R, with 200 of the classes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import torch.distributed as dist
from torch import nn
from torchvision.datasets import ImageFolder

from .. import sam
from ..core import checks, intervals
from ..core.surrogate import Normalized
from ..files.paths import replacing
from ..zoo.photographs import DataError, Photographs
from ..zoo.weights import WeightsError
from . import streaming
from .fitting import State
from .recipes import Recipe, thesis
from .streaming import Views, loader

NETWORKS = {
    "ResNet-50": "resnet50",
    "ResNet-101": "resnet101",
    "ViT-S/32": "vit_small_patch32_224",
    "ViT-B/32": "vit_base_patch32_224",
}
"""Of Table 5.4, by timm's names; all of them are trained from scratch."""

OPTIMIZERS = ("SGD", "SAM", "R-SAM", "CR-SAM")

_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_LEAST = 0.08  # of an image's area, in training


def recipe(model: str, optimizer: str, **given: float) -> Recipe:
    """Of Table 5.3, as `recipes.thesis` gives it. "SGD" stands for the plain base, AdamW for a ViT. R-SAM, for which
    the thesis prints none, has the radius of SAM."""
    if optimizer != "R-SAM":
        return thesis("5.3", model, "ImageNet", optimizer, **given)
    like = thesis("5.3", model, "ImageNet", "SAM", **given)
    return replace(like, wrapper=partial(sam.RandomSAM, **like.wrapper.keywords))


def create(model: str, classes: int, size: int) -> Normalized:
    """An untrained network for images in [0, 1] of `size` pixels, in timm's architecture; ValueError for another
    name."""
    import timm

    checks.choice("model", model, NETWORKS)
    sized = {"img_size": size} if model.startswith("ViT") else {}
    return Normalized(timm.create_model(NETWORKS[model], num_classes=classes, **sized), *_STATISTICS)


# --- data ------------------------------------------------------------------------------------------------------------


def folder(path: Path) -> tuple[Photographs, list[str]]:
    """The images of class folders, whatever these are called, and the names of the classes. Raises DataError where the
    folder is none, or that of a class is empty."""
    if not path.is_dir():
        raise DataError(f"{path}: missing; expected a folder of images for every class")
    try:
        images = ImageFolder(str(path))
    except FileNotFoundError as error:
        raise DataError(f"{path}: {error}") from error
    return Photographs.of(*zip(*images.samples, strict=True)), images.classes


# --- training --------------------------------------------------------------------------------------------------------


def fit(
    net: nn.Module, data: Path, plan: Recipe, out: Path, size: int = 224, workers: int = 8, local: bool = False
) -> list[dict]:
    """Train `net`, which takes images in [0, 1], on data/train by a recipe; a row an epoch (epoch, loss, val_accuracy,
    lr, seconds). The augmentation is Inception's: a random area and aspect ratio, flipped or not.

    The batch of the recipe is that of all processes together. out: of the checkpoint, written after every epoch, from
    which training goes on, and of weights.pt. local: perturb along the gradient of each process' own share of the
    batch (`sam.SAM`), in place of the averaged one.
    Raises TypeError for arguments of another kind, DataError for folders that are missing or differ in their classes,
    ValueError for a batch that does not divide among the processes, or is larger than the data, and for a checkpoint of
    another training, and FloatingPointError, both as `training.fit` does.
    """
    checks.module(net, "net")
    checks.instance("plan", plan, Recipe, "a Recipe")
    for name, path in (("data", data), ("out", out)):
        checks.instance(name, path, Path, "a Path")
    checks.whole("size", size, 1)
    checks.whole("workers", workers, 0)
    checks.flag("local", local)
    world = dist.get_world_size() if dist.is_initialized() else 1
    if plan.batch_size % world:
        raise ValueError(f"batch_size={plan.batch_size}: does not divide among {world} processes")
    share = plan.batch_size // world
    (to_train, classes), (to_validate, others) = folder(data / "train"), folder(data / "val")
    if classes != others:
        raise DataError(f"{data}: train has {len(classes)} classes, val other ones: {len(others)}")
    train = loader(Views(to_train, size, _LEAST, plan.seed), share, workers)
    if not len(train):
        raise ValueError(f"batch_size={plan.batch_size}: larger than {data / 'train'}")
    run = nn.parallel.DistributedDataParallel(net) if world > 1 else net
    more = {"local": run.no_sync} if local and world > 1 and plan.wrapper else {}
    made_of = {"size": size, "processes": world, "local": local}
    made_of |= {"training data": to_train.digest(), "validation data": to_validate.digest()}
    state = State(net, plan, len(train) * plan.epochs + 1, made_of, **more)
    history = streaming.train(
        state, run, train, loader(Views(to_validate, size), share, workers), out / "checkpoint.pt", _tell
    )
    if streaming.first():
        with replacing(out / "weights.pt") as part:
            torch.save(_inner(net).state_dict(), part)
    return history


def _tell(row: dict) -> None:
    said = f"loss {row['loss']:.3f}, {row['val_accuracy']:.2%}, {row['seconds']:.0f} s"
    print(f"epoch {row['epoch']}: {said}", flush=True)


def _inner(net: nn.Module) -> nn.Module:
    """The network whose weights are kept: without the normalising around it."""
    return net.net if isinstance(net, Normalized) else net


# --- testing ---------------------------------------------------------------------------------------------------------


def robustness(
    net: nn.Module,
    data: Path,
    corrupted: Path | None = None,
    rendered: Path | None = None,
    size: int = 224,
    batch_size: int = 256,
    workers: int = 8,
) -> pd.DataFrame:
    """Accuracy (%) of `net`, which takes images in [0, 1], on data/val (ImageNet-1k), and where the folders are given
    on ImageNet-C, the mean over all corruptions and severities, and ImageNet-R: dataset, value, n, ci_low, ci_high
    (Wilson, 95 %).

    Raises DataError for missing folders and for classes that data/val does not have.
    """
    known = {name: place for place, name in enumerate(folder(data / "val")[1])}
    parts = {"ImageNet-1k": [data / "val"]}
    if corrupted is not None:
        parts["ImageNet-C"] = sorted(p for p in corrupted.glob("*/*") if p.is_dir())
        if not parts["ImageNet-C"]:
            raise DataError(f"{corrupted}: expected <corruption>/<severity>/<class>")
    if rendered is not None:
        parts["ImageNet-R"] = [rendered]
    rows = []
    for name, paths in parts.items():
        counts = torch.zeros(2, dtype=torch.float64)
        for path in paths:
            images, names = folder(path)
            if unknown := set(names) - set(known):
                raise DataError(
                    f"{path}: {len(unknown)} classes that {data / 'val'} does not have: {min(unknown)}, ..."
                )
            classes = torch.tensor([known[c] for c in names])
            counts += streaming.counted(net, loader(Views(images, size), batch_size, workers), classes).cpu()
        low, high = intervals.wilson(int(counts[0]), int(counts[1]))
        value = 100 * (counts[0] / counts[1]).item()
        rows.append({"dataset": name, "value": value, "n": int(counts[1]), "ci_low": low, "ci_high": high})
    return pd.DataFrame(rows)


# --- the command -----------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    """`train` or `test`, see the top of this file. What the user can mend is said in a line, with exit status 2."""
    args = _parser().parse_args(argv)
    together = "WORLD_SIZE" in os.environ and args.command is _train
    if together:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        args.command(args)
    except (DataError, WeightsError, ValueError, FloatingPointError) as error:
        print(f"advlib.training.imagenet: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    finally:
        if together:
            dist.destroy_process_group()


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--data", type=Path, required=True, help="folder with train/ and val/")
    shared.add_argument("--model", choices=NETWORKS, required=True)
    shared.add_argument("--out", type=Path, required=True, help="folder of checkpoint.pt, weights.pt and table_5_4.csv")
    shared.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    shared.add_argument("--workers", type=int, default=8, help="processes that load images, for each device")
    parser = argparse.ArgumentParser(prog="python -m advlib.training.imagenet", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="command")
    p = commands.add_parser("train", parents=[shared], help="by the recipe of Table 5.3")
    p.add_argument("--optimizer", choices=OPTIMIZERS, required=True)
    for name in ("rho", "alpha", "beta", "lr", "weight-decay"):
        p.add_argument(f"--{name}", type=float, help="in place of the printed one")
    for name in ("epochs", "batch-size", "seed"):
        p.add_argument(f"--{name}", type=int, help="in place of the recipe's")
    p.add_argument("--compile", action="store_true", default=None, help="torch.compile")
    p.add_argument("--per-process", action="store_true", help="each process perturbs along its own gradient")
    p.set_defaults(command=_train)
    p = commands.add_parser("test", parents=[shared], help="accuracy of weights.pt, as in Table 5.4")
    p.add_argument("--corrupted", type=Path, help="ImageNet-C")
    p.add_argument("--rendered", type=Path, help="ImageNet-R")
    p.set_defaults(command=_test)
    return parser


def _train(args: argparse.Namespace) -> None:
    given = {k: getattr(args, k) for k in ("rho", "alpha", "beta") if getattr(args, k) is not None}
    names = ("epochs", "batch_size", "seed", "lr", "weight_decay", "compile")
    changes = {k: getattr(args, k) for k in names if getattr(args, k) is not None}
    plan = replace(recipe(args.model, args.optimizer, **given), **changes)
    fit(_network(args, plan.seed), args.data, plan, args.out, args.size, args.workers, args.per_process)


def _test(args: argparse.Namespace) -> None:
    net = _network(args, 0)
    _load(net, args.out / "weights.pt")
    table = robustness(net, args.data, args.corrupted, args.rendered, args.size, workers=args.workers)
    with replacing(args.out / "table_5_4.csv") as part:
        table.to_csv(part, index=False)
    print(table.round(2).to_string(index=False))


def _load(net: nn.Module, path: Path) -> None:
    """The weights that `train` wrote. Raises WeightsError."""
    if not path.is_file():
        raise WeightsError(f"{path}: missing; `python -m advlib.training.imagenet train` with the same --out writes it")
    try:
        _inner(net).load_state_dict(torch.load(path, map_location=_device(), weights_only=True))
    except Exception as error:  # whatever unpickling a damaged file, or one of another kind, raises
        kind = type(error).__name__
        raise WeightsError(f"{path}: damaged, or of another network or number of classes ({kind})") from error


def _network(args: argparse.Namespace, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = create(args.model, len(folder(args.data / "val")[1]), args.size)
    return net.to(_device(), memory_format=torch.channels_last)


def _device() -> torch.device:
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    )


if __name__ == "__main__":
    main()
