"""Training and testing on ImageNet folders, one process for each device (thesis sect. 5.5.2, Tables 5.3 and 5.4).

    torchrun --nproc-per-node 8 -m advlib.training.imagenet train --data imagenet --model ResNet-50 \\
        --optimizer CR-SAM --out r50
    python -m advlib.training.imagenet test --data imagenet --model ResNet-50 --out r50 --corrupted imagenet-c

`--data` holds train/ and val/, each with a folder of images for every class; ImageNet-C has <corruption>/<severity>/
before the class folders; `--rendered` is ImageNet-R, with 200 of the classes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from .. import sam
from ..core import checks, intervals
from ..files.paths import replacing
from ..zoo.datasets import DataError
from ..zoo.weights import WeightsError
from .fitting import State
from .recipes import Recipe, thesis

NETWORKS = {
    "ResNet-50": "resnet50",
    "ResNet-101": "resnet101",
    "ViT-S/32": "vit_small_patch32_224",
    "ViT-B/32": "vit_base_patch32_224",
}
"""Of Table 5.4, by timm's names; all of them are trained from scratch."""

OPTIMIZERS = ("SGD", "SAM", "R-SAM", "CR-SAM")

_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def recipe(model: str, optimizer: str, **given: float) -> Recipe:
    """Of Table 5.3, as `recipes.thesis` gives it. "SGD" stands for the plain base, AdamW for a ViT. R-SAM, for which
    the thesis prints none, has the radius of SAM."""
    if optimizer != "R-SAM":
        return thesis("5.3", model, "ImageNet", optimizer, **given)
    like = thesis("5.3", model, "ImageNet", "SAM", **given)
    return replace(like, wrapper=partial(sam.RandomSAM, **like.wrapper.keywords))


def create(model: str, classes: int, size: int) -> nn.Module:
    """An untrained network for images of `size` pixels, in timm's architecture; ValueError for another name."""
    import timm

    checks.choice("model", model, NETWORKS)
    sized = {"img_size": size} if model.startswith("ViT") else {}
    return timm.create_model(NETWORKS[model], num_classes=classes, **sized)


# --- data ------------------------------------------------------------------------------------------------------------


def folder(path: Path, size: int, train: bool = False) -> ImageFolder:
    """Images of class folders, normalised: Inception-style preprocessing (a random area and aspect ratio, flipped) to
    train, else the shorter side at 8/7 of `size` and the middle. Raises DataError where the folder is none, or that of
    a class is empty."""
    if not path.is_dir():
        raise DataError(f"{path}: missing; expected a folder of images for every class")
    ready = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*_STATISTICS)]
    view = [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]
    view = view if train else [v2.Resize(size * 8 // 7), v2.CenterCrop(size)]
    try:
        return ImageFolder(str(path), v2.Compose([*view, *ready]))
    except FileNotFoundError as error:
        raise DataError(f"{path}: {error}") from error


def _listed(images: ImageFolder) -> str:
    """16 hex digits of the files' names and classes."""
    names = "\n".join(f"{path.removeprefix(images.root)} {label}" for path, label in images.samples)
    return hashlib.sha256(names.encode()).hexdigest()[:16]


def _loader(data: Dataset, batch_size: int, workers: int, train: bool, seed: int) -> DataLoader:
    """This process' share of `data`; to test, every image is in exactly one share."""
    many = dist.is_initialized() and dist.get_world_size() > 1
    if many and not train:
        data = torch.utils.data.Subset(data, range(dist.get_rank(), len(data), dist.get_world_size()))
    sampler = DistributedSampler(data, seed=seed) if many and train else None
    options = {"num_workers": workers, "pin_memory": torch.cuda.is_available(), "persistent_workers": workers > 0}
    shuffled = train and sampler is None
    return DataLoader(data, batch_size, shuffle=shuffled, sampler=sampler, drop_last=train, **options)


# --- training --------------------------------------------------------------------------------------------------------


def fit(
    net: nn.Module, data: Path, plan: Recipe, out: Path, size: int = 224, workers: int = 8, local: bool = False
) -> list[dict]:
    """Train `net` on data/train by a recipe; a row an epoch (epoch, loss, val_accuracy, lr, seconds).

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
    device = next(net.parameters()).device
    share = plan.batch_size // world
    to_train, to_validate = folder(data / "train", size, train=True), folder(data / "val", size)
    if to_train.classes != to_validate.classes:
        raise DataError(
            f"{data}: train has {len(to_train.classes)} classes, val other ones: {len(to_validate.classes)}"
        )
    train = _loader(to_train, share, workers, True, plan.seed)
    val = _loader(to_validate, share, workers, False, plan.seed)
    if not len(train):
        raise ValueError(f"batch_size={plan.batch_size}: larger than {data / 'train'}")
    run = nn.parallel.DistributedDataParallel(net) if world > 1 else net
    more = {"local": run.no_sync} if local and world > 1 and plan.wrapper else {}
    made_of = {"size": size, "processes": world, "local": local}
    made_of |= {"training data": _listed(to_train), "validation data": _listed(to_validate)}
    state = State(net, plan, len(train) * plan.epochs + 1, made_of, **more)
    history = state.resume(out / "checkpoint.pt")
    run = torch.compile(run) if plan.compile else run
    for epoch in range(len(history), plan.epochs):
        started = time.perf_counter()
        loss = _epoch(state, run, train, device, epoch)
        row = {"epoch": epoch + 1, "loss": loss, "val_accuracy": accuracy(state.kept(), val)}
        row |= {"lr": state.schedule.get_last_lr()[0], "seconds": time.perf_counter() - started}
        history.append(row)
        if _first():
            state.save(out / "checkpoint.pt", history)
            print(f"epoch {epoch + 1}: loss {loss:.3f}, {row['val_accuracy']:.2%}, {row['seconds']:.0f} s", flush=True)
    if _first():
        with replacing(out / "weights.pt") as part:
            torch.save(state.kept().state_dict(), part)
    return history


def _first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _epoch(state: State, run: Callable, train: DataLoader, device: torch.device, epoch: int) -> float:
    """The mean loss of this process' share; all processes draw alike, from (seed, epoch)."""
    state.model.train()
    if isinstance(train.sampler, DistributedSampler):
        train.sampler.set_epoch(epoch)
    losses = []
    torch.manual_seed(state.recipe.seed * 100_003 + epoch)
    for x, y in train:
        x = x.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        losses.append(state.step(_closure(state, run, x, y.to(device, non_blocking=True))))
    return state.mean(losses, epoch)


def _closure(state: State, run: Callable, x: torch.Tensor, y: torch.Tensor) -> Callable[[], torch.Tensor]:
    def closure() -> torch.Tensor:
        state.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=state.recipe.bf16):
            logits = run(x)
        loss = F.cross_entropy(logits.float(), y)
        loss.backward()
        return loss

    return closure


# --- testing ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def accuracy(net: nn.Module, loader: DataLoader, classes: torch.Tensor | None = None) -> float:
    """Share of the images of all processes whose class `net` names. classes: what the data's labels are among the
    network's, int64 (K,); only those compete. None: they are the same."""
    hits = _counted(net, loader, classes)
    if dist.is_initialized():
        dist.all_reduce(hits)
    return (hits[0] / hits[1]).item()


def _counted(net: nn.Module, loader: DataLoader, classes: torch.Tensor | None) -> torch.Tensor:
    """Right ones, and all."""
    device, was_training = next(net.parameters()).device, net.training
    net.eval()
    found = torch.zeros(2, dtype=torch.float64, device=device)
    for x, y in loader:
        logits = net(x.to(device, non_blocking=True))
        logits = logits if classes is None else logits[:, classes.to(device)]
        found += torch.tensor([0, len(y)], device=device)
        found[0] += (logits.argmax(1) == y.to(device)).sum()
    net.train(was_training)
    return found


def robustness(
    net: nn.Module,
    data: Path,
    corrupted: Path | None = None,
    rendered: Path | None = None,
    size: int = 224,
    batch_size: int = 256,
    workers: int = 8,
) -> pd.DataFrame:
    """Accuracy (%) on data/val (ImageNet-1k), and where the folders are given on ImageNet-C, the mean over all
    corruptions and severities, and ImageNet-R: dataset, value, n, ci_low, ci_high (Wilson, 95 %).

    Raises DataError for missing folders and for classes that data/val does not have.
    """
    known = folder(data / "val", size).class_to_idx
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
            images = folder(path, size)
            if unknown := set(images.classes) - set(known):
                raise DataError(
                    f"{path}: {len(unknown)} classes that {data / 'val'} does not have: {min(unknown)}, ..."
                )
            classes = torch.tensor([known[c] for c in images.classes])
            counts += _counted(net, _loader(images, batch_size, workers, False, 0), classes).cpu()
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
        net.load_state_dict(torch.load(path, map_location=_device(), weights_only=True))
    except Exception as error:  # whatever unpickling a damaged file, or one of another kind, raises
        kind = type(error).__name__
        raise WeightsError(f"{path}: damaged, or of another network or number of classes ({kind})") from error


def _network(args: argparse.Namespace, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = create(args.model, len(folder(args.data / "val", args.size).classes), args.size)
    return net.to(_device(), memory_format=torch.channels_last)


def _device() -> torch.device:
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    )


if __name__ == "__main__":
    main()
