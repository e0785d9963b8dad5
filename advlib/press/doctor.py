"""What is on this machine, what is damaged, and what is missing for which scale: `python -m advlib doctor`."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .. import kernels
from ..bench.chapters import parameters, select
from ..defenses import secured
from ..files.paths import BUILD, NOTEBOOKS, WEIGHTS, data_roots
from ..zoo import datasets, weights, witnesses
from ..zoo.nets import FAMILIES
from ..zoo.registry import FILES, FLAT, TRAINED, TUNED


@dataclass(frozen=True)
class Weights:
    """What lies in a folder of weights. names: those that the manifest lists; damaged: what is wrong, by name."""

    folder: Path
    names: list[str]
    damaged: dict[str, str]

    def __str__(self) -> str:
        if not self.names:
            return f"none in {self.folder}"
        counts = Counter(name.partition("/")[0] for name in self.names)
        return f"{len(self.names)} in {self.folder} ({', '.join(f'{k} {v}' for k, v in sorted(counts.items()))})"


def listed(folder: Path) -> Weights:
    """The networks of a folder's manifest; every file is read and compared with its sha256."""
    damaged = weights.damaged(folder)
    names = [] if "manifest.json" in damaged else weights.manifest(folder)
    return Weights(folder, [name.removesuffix(".safetensors") for name in names], damaged)


def report() -> tuple[list[str], bool]:
    """The lines to print, and whether all that is here is whole."""
    ours = listed(WEIGHTS)
    independent = [listed(root / "weights") for root in data_roots()]
    shown = [found for found in independent if found.names or found.damaged] or independent[:1]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    given = os.environ.get("ADVLIB_DATA")
    damaged = [line for found in (ours, *independent) for line in found.damaged.values()]
    parts = {
        "versions": {"python": platform.python_version()}
        | {package: _version(package) for package in ("torch", "torchvision", "timm", "numpy")},
        "device": {"": f"{gpu}, {os.cpu_count()} CPU cores", "kernels": _kernels()},
        "folders": {"ADVLIB_DATA": f"{given} -> {data_roots()[0]}" if given else "not set", "ADVLIB_BUILD": str(BUILD)},
        "data": {"shapes": "built in"} | {name: str(datasets.locate(name) or "missing") for name in FILES},
        "weights": {
            "of this book": str(ours),
            "independent": "; ".join(map(str, shown)),
            "of packages": ", ".join(witnesses.packaged()) or f"none: {witnesses.INSTALL}",
        },
        "what is missing for which scale": {
            what: f"\n{' ':30}".join(lacks) or "nothing" for what, lacks in missing(ours.names).items()
        },
    }
    lines = [f"damaged: {line}" for line in damaged]
    for title, entries in parts.items():
        lines += [title, *(f"  {name:<28}{what}" if name else f"  {what}" for name, what in entries.items())]
    return lines, not damaged


def missing(ours: Collection[str]) -> dict[str, list[str]]:
    """What each scale and data set lacks on this machine. ours: names of our own networks that are there."""
    gpu = [] if torch.cuda.is_available() else ["a GPU"]
    files = {name: [] if datasets.locate(name) else [f"{name} files"] for name in FILES}
    small = {name: files.get(name, []) + _to_train(name, ours) for name in TRAINED}
    lacking = {f"smoke, laptop on {name}": lacks for name, lacks in small.items()}
    lacking["smoke, laptop on imagenet"] = files["imagenet_compatible"] + _witnesses()
    if files["imagenet_sample"]:
        lacking["smoke, laptop on imagenet"].append("imagenet_sample files, for chapter 04")
    lacking |= {f"paper on {name}": gpu + small[name] for name in ("cifar10", "cifar100")}
    return lacking | {"paper on imagenet": gpu + files["imagenet_compatible"] + _on_imagenet(files["imagenet"])}


def untrained(dataset: str, ours: Collection[str]) -> dict[str, list[str]]:
    """The networks of a data set that are not there yet, by the chapter that trains them."""
    tuned, flat = [f"densenet-{v}" for v in TUNED], [f"resnet-{v}" for v in FLAT]
    made = {"A1": list(FAMILIES), "A2": list(secured.OURS), "04": tuned, "06": flat}
    lacking = {notebook: [net for net in nets if f"{dataset}/{net}" not in ours] for notebook, nets in made.items()}
    return {
        notebook: nets
        for notebook, nets in lacking.items()
        if nets and dataset in parameters(select([notebook], NOTEBOOKS)[0])["dataset"].choices
    }


def _witnesses() -> list[str]:
    """The networks of ImageNet that are not here, and where they come from."""
    there, packages = witnesses.found("imagenet/"), witnesses.packaged()
    of_files = [name for name in witnesses.WITNESSES if name.startswith("imagenet/") and name not in witnesses.PACKAGES]
    lacking = [name for name in of_files if name not in there]
    files = [f"{len(lacking)} independent networks, in $ADVLIB_DATA/weights"] if lacking else []
    absent = len(witnesses.PACKAGES) - len(packages)
    return [*files, *([f"{absent} networks: {witnesses.INSTALL}"] if absent else [])]


def _to_train(dataset: str, ours: Collection[str]) -> list[str]:
    """How many networks a chapter has yet to train, and the command."""
    lacking = untrained(dataset, ours).items()
    return [f"{len(nets)} networks: python -m advlib run {notebook} --dataset {dataset}" for notebook, nets in lacking]


def _on_imagenet(validation_files: list[str]) -> list[str]:
    """What the chapters want on ImageNet at paper scale besides a GPU and the ImageNet-compatible images."""
    place = datasets.locate("imagenet_compatible")
    n = len((place / "images.csv").read_text(encoding="utf-8").splitlines()) - 1 if place else 0
    few = [f"{1000 - n:,} of the 1,000 ImageNet-compatible images"] if place and n < 1000 else []
    return [
        *few,
        *(["imagenet/val, for chapter 03"] if validation_files else []),
        "authors' files (advlib/defenses/authors.py), given by -p checkpoints; without them 02, 03, A2 leave rows out",
        "weights of timm and torchvision, which are downloaded when first used",
    ]


def _kernels() -> str:
    """What runs the GPU kernels, or in their place."""
    if not kernels.INSTALLED:
        return "none, for want of Triton: a GPU runs the PyTorch code that they replace"
    return f"Triton {_version('triton')}" + ("" if torch.cuda.is_available() else ", for a GPU")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
