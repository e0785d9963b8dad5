"""Data sets as uint8 tensors: shapes (built in), CIFAR-10/100, an ImageNet folder, a sample of ImageNet's training
images, the ImageNet-compatible set.

`load(name, split)` gives an `Images`, `photographs()` the files of images that are too many for the memory. Files are
looked for in $ADVLIB_DATA and data/cache; what is missing is an error that names the folder, the expected files and the
way to get them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ..core import checks
from ..files.paths import data_roots
from . import shapes
from .photographs import DataError, Photographs, class_folders, decoded, listed, numbered
from .registry import DATASETS, FILES

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Images:
    """images: uint8 (N, C, H, W); labels: int64 (N,), from 0 to len(classes) - 1; index: int64 (N,), the place in the
    full split, the number that an image's randomness hangs on; all three on one device.

    Raises TypeError or ValueError for anything else. The values of labels are looked at where they are on the CPU: on
    another device every slice would wait for it.
    """

    images: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor
    classes: tuple[str, ...]
    dataset: str
    split: str

    def __post_init__(self) -> None:
        if not isinstance(self.images, torch.Tensor) or self.images.dtype != torch.uint8:
            raise TypeError(f"images: expected a uint8 tensor (N, C, H, W), got {checks.shown(self.images)}")
        if self.images.dim() != 4 or 0 in self.images.shape[1:]:
            raise ValueError(f"images: expected shape (N, C, H, W), got {tuple(self.images.shape)}")
        for name in ("labels", "index"):
            value = getattr(self, name)
            if not isinstance(value, torch.Tensor) or value.dtype != torch.int64:
                raise TypeError(f"{name}: expected an int64 tensor (N,), got {checks.shown(value)}")
            if value.shape != self.images.shape[:1]:
                raise ValueError(f"{name}: expected shape ({len(self.images)},), got {tuple(value.shape)}")
            checks.same_place(value, self.images, name, "images")
        if len(self) and self.labels.device.type == "cpu":
            low, high = self.labels.aminmax()
            if low < 0 or high >= len(self.classes):
                raise ValueError(
                    f"labels: from {low.item()} to {high.item()}, expected 0 to {len(self.classes) - 1}, one of classes"
                )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | range | torch.Tensor | list[int]) -> Images:
        """The images of these rows: a slice, whole numbers, or a bool for each image. Raises TypeError for anything
        else, IndexError for rows that are not there."""
        if not isinstance(rows, slice):
            rows = self._rows(rows)
        return replace(self, images=self.images[rows], labels=self.labels[rows], index=self.index[rows])

    def _rows(self, rows: range | torch.Tensor | list[int]) -> torch.Tensor:
        expected = "rows: expected a slice, a list or tensor of whole numbers, or a bool for each image"
        if not isinstance(rows, list | range | np.ndarray | torch.Tensor):
            raise TypeError(f"{expected}, got {checks.shown(rows)}")
        try:
            found = torch.as_tensor(rows)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{expected}: {error}") from error
        found = found.to(torch.int64) if found.numel() == 0 and found.dtype != torch.bool else found
        if found.is_floating_point() or found.is_complex() or found.dim() != 1:
            raise TypeError(f"{expected}, got {checks.shown(found)}")
        if found.dtype == torch.bool and len(found) != len(self):
            raise IndexError(f"rows: {len(found)} bools for {len(self)} images")
        return found if found.dtype == torch.bool else found.to(torch.int64)  # uint8 would be taken for bools

    def to(self, device: torch.device | str) -> Images:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), index=self.index.to(device))

    @property
    def x(self) -> torch.Tensor:
        """(N, C, H, W) float32 in [0, 1]."""
        return in_unit_range(self.images)

    @property
    def y(self) -> torch.Tensor:
        return self.labels

    def batches(self, size: int) -> Iterator[Images]:
        """Consecutive pieces of at most `size` images, a whole number of at least 1. Raises TypeError or ValueError."""
        checks.whole("size", size, 1)
        return (self[start : start + size] for start in range(0, len(self), size))


def in_unit_range(images: torch.Tensor) -> torch.Tensor:
    """uint8 images as float32 in [0, 1], the same bits on every device. By a number of the host a GPU divides as it
    multiplies by the reciprocal, and a third of the values would be another."""
    return images.float().div_(torch.full((), 255.0, device=images.device))


def load(
    name: str, split: str = "test", n: int | None = None, size: int | None = None, download: bool = True
) -> Images:
    """A split of a data set.

    name: "shapes" | "cifar10" | "cifar100" | "imagenet" | "imagenet_sample" | "imagenet_compatible"; split: "train" |
    "val" | "test" for shapes and CIFAR (val: the last 1,000 images that train leaves out), "val" for the ImageNet
    folder, "train" | "val" for the sample (the parts of `photographs`), "test" for the compatible set. n: the first n
    images (all if None; for shapes the split's usual size). size: side in pixels, 8 to 4096 (32, and 299 for ImageNet,
    if None; CIFAR has 32 only). Any slice of what comes back has all classes in it: the ImageNet folder and the sample,
    which are sorted by class on disk, come in an order that is drawn once and for all.
    download: fetch CIFAR where it is not there.
    Raises TypeError or ValueError for an unknown name, split, n or size, DataError where files are missing or damaged.
    """
    checks.choice("name", name, LOADERS)
    checks.choice("split", split, DATASETS[name].splits)
    if n is not None:
        checks.whole("n", n, 1)
    if size is not None:
        checks.whole("size", size, *shapes.SIDES)
    checks.flag("download", download)
    data = LOADERS[name](split, n, size, download)
    if n is not None and len(data) < n:
        raise DataError(f"{name}/{split}: {n} images asked for, {len(data)} found")
    return data[:n] if n is not None else data


Parted = TypeVar("Parted", Images, Photographs)


def split(data: Parted, n: int, seed: int = 0) -> tuple[Parted, Parted]:
    """`n` images and the rest of `data`, parted at random by image from `seed`: where one set has to serve for choosing
    and for testing. Each part is in random order, so that its first images are a fair sample of it even where `data` is
    sorted by class.

    Raises TypeError or ValueError for an n that leaves one part empty.
    """
    checks.whole("n", n, 1, len(data) - 1)
    checks.whole("seed", seed)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).to(data.labels.device)
    return data[order[:n]], data[order[n:]]


def locate(name: str) -> Path | None:
    """The first place among the data roots that holds a data set; nothing is opened. Raises ValueError for a name that
    is none of those that are files."""
    checks.choice("name", name, FILES)
    found = (path for root in data_roots() for place in FILES[name] for path in root.glob(place))
    path = next(found, None)
    return path.parent if path and path.is_file() else path


# --- shapes ----------------------------------------------------------------------------------------------------------


def _shapes(split: str, n: int | None, size: int | None, download: bool) -> Images:
    index = shapes.indices(split, n)
    images, labels = shapes.make(index, 32 if size is None else size)
    return Images(images, labels, index, shapes.CLASSES, "shapes", split)


# --- CIFAR -----------------------------------------------------------------------------------------------------------

_HELD_OUT = 1_000  # the end of CIFAR's training set: for curves and choices, never trained on


def _cifar(name: str, split: str, n: int | None, size: int | None, download: bool) -> Images:
    if size not in (None, 32):
        raise ValueError(f"size={size}: {name} images are 32 pixels wide")
    images, labels, classes = _cifar_arrays(name, "test" if split == "test" else "train", download)
    index = torch.arange(len(labels))
    data = Images(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels), index, classes, name, split
    )
    return {"train": data[:-_HELD_OUT], "val": data[-_HELD_OUT:], "test": data}[split]


def _cifar_arrays(name: str, part: str, download: bool) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """(N, 32, 32, 3) uint8, (N,) int64 and the class names; as many images of each class as of any other."""
    for root in data_roots():
        parquet = sorted((root / name / DATASETS[name].hub).glob(f"{part}-*.parquet"))
        if parquet:
            return (*_from_parquet(parquet, name, part), _hub_classes(name))
        for folder in (root / name, root):
            if (folder / DATASETS[name].archive).is_dir():
                return _from_torchvision(name, folder, part, download=False)
    if download:
        return _from_torchvision(name, data_roots()[-1] / name, part, download=True)
    raise DataError(_how_to_get_cifar(name, part))


_NUMBER = {"train": 50_000, "test": 10_000}


def _hub_classes(name: str) -> tuple[str, ...]:
    return CIFAR10_CLASSES if name == "cifar10" else tuple(f"class {k}" for k in range(DATASETS[name].classes))


def _how_to_get_cifar(name: str, part: str) -> str:
    known, places = DATASETS[name], " or ".join(str(r / name) for r in data_roots())
    return (
        f"{name} ({part}) not found. Looked in {places} for {known.archive}/ (the official archive, unpacked) and "
        f"{known.hub}/{part}-*.parquet (the data set hub's layout). With a network, "
        f"`python -m advlib download {name}` fetches the first; or set ADVLIB_DATA to the folder that holds {name}/."
    )


def _from_torchvision(
    name: str, folder: Path, part: str, download: bool
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    from torchvision import datasets as tv

    kind = {"cifar10": tv.CIFAR10, "cifar100": tv.CIFAR100}[name]
    try:
        data = kind(str(folder), train=part == "train", download=download)
    except (OSError, RuntimeError, EOFError) as error:
        if download:
            with suppress(OSError):
                folder.rmdir()  # an empty one would pass for data that is there
            raise DataError(f"{_how_to_get_cifar(name, part)} The download failed: {error}") from error
        raise DataError(f"{folder / DATASETS[name].archive}: {error}") from error
    labels = numbered(data.targets, len(data.classes), f"{folder / DATASETS[name].archive}: labels")
    _balanced(labels, len(data.classes), folder / DATASETS[name].archive)
    return data.data, labels, tuple(data.classes)


def _from_parquet(files: list[Path], name: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    frames = []
    for file in files:
        try:
            frames.append(pd.read_parquet(file))
        except Exception as error:  # pyarrow raises many kinds for a damaged file
            raise DataError(f"{file}: not a readable parquet file ({error})") from error
    frame = pd.concat(frames, ignore_index=True)
    column, label, expected = ("img" if "img" in frame else "image"), DATASETS[name].hub_label, _NUMBER[part]
    if column not in frame or label not in frame:
        raise DataError(f"{files[0]}: columns {list(frame)}; expected img and {label}")
    if len(frame) != expected:
        raise DataError(f"{files[0]}: {len(frame)} images; expected {expected:,}: truncated, or not {name}")
    labels = numbered(frame[label], len(_hub_classes(name)), f"{files[0]}: {label}")
    _balanced(labels, len(_hub_classes(name)), files[0])
    images = np.empty((expected, 32, 32, 3), np.uint8)
    for i, cell in enumerate(frame[column]):
        encoded = cell.get("bytes") if isinstance(cell, dict) else None
        images[i] = decoded(encoded, f"{files[0]}, row {i}", (32, 32))
    return images, labels


def _balanced(labels: np.ndarray, classes: int, file: Path) -> None:
    """As many images of each class as of any other: what both CIFAR sets have, and no other data by chance."""
    counts = np.bincount(labels, minlength=classes)
    if (counts != len(labels) // classes).any():
        odd = int((counts != len(labels) // classes).argmax())
        raise DataError(
            f"{file}: {counts[odd]:,} images of class {odd}, not {len(labels) // classes:,}: damaged, or other data"
        )


# --- ImageNet --------------------------------------------------------------------------------------------------------

_SHUFFLE = 2012  # the seed of the permutation of a folder, and of what is held back
_HELD_BACK = 200  # of the sample


def photographs(folder: Path | None = None, held_back: int = _HELD_BACK) -> tuple[Photographs, Photographs]:
    """ImageNet's training images, to train further on, and `held_back` of them, to validate on: the same at every call,
    chosen at random once and for all. Neither part is in memory.

    folder: one with images.csv (columns file, and label from 0) and images/, or with train/<WordNet id>/*.JPEG; None:
    the data set `imagenet_sample`. That has one image of each class: the classes of those held back are not trained on.
    Raises TypeError or ValueError for a number that leaves one part empty, DataError where files are missing.
    """
    if folder is None:
        folder = _needed_sample()
    checks.instance("folder", folder, Path, "a Path or None")
    if (folder / "images.csv").is_file():
        whole = listed(folder, "file", "label")
    elif (folder / "train").is_dir():
        whole = class_folders(folder / "train")
    else:
        raise DataError(f"{folder}: neither images.csv nor train/; {_SAMPLE}, or a folder for each class in train/")
    checks.whole("held_back", held_back, 1, len(whole) - 1)
    val, train = split(whole, held_back, _SHUFFLE)
    return train, val


_SAMPLE = "expected images.csv (columns file, and label from 0 to 999) with images/<file>"


def _needed_sample() -> Path:
    found = locate("imagenet_sample")
    if found is None:
        places = " or ".join(str(root / "imagenet_sample") for root in data_roots())
        raise DataError(
            f"imagenet_sample not found. Looked in {places}; {_SAMPLE}, training images of ILSVRC 2012, one of each "
            "class or more. They may not be downloaded by programs: get ILSVRC2012_img_train.tar from image-net.org "
            "and choose some, or give the folder of all of them."
        )
    return found


def _cropped(data: Photographs, size: int, dataset: str, split: str) -> Images:
    """Shorter side to 8/7 of `size`, centre crop (the usual 256 / 224)."""
    from torchvision.transforms import v2

    crop = v2.Compose([v2.Resize(size * 8 // 7, antialias=True), v2.CenterCrop(size)])
    images = [np.asarray(crop(Image.fromarray(data.pixels(row)))) for row in range(len(data))]
    return _imagenet(images, data, dataset, split)


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    """Bilinear, the whole image: the compatible set is already cropped to a square."""
    return (
        image
        if image.shape[:2] == (size, size)
        else np.asarray(Image.fromarray(image).resize((size, size), Image.BILINEAR))
    )


def _imagenet_compatible(split: str, n: int | None, size: int | None, download: bool) -> Images:
    """The images of the NIPS 2017 adversarial competition: images.csv with ImageId and TrueLabel (counted from 1) and
    images/<ImageId>.png. Labels come back counted from 0."""
    folder = next((r / "imagenet_compatible" for r in data_roots() if (r / "imagenet_compatible").is_dir()), None)
    if folder is None:
        places = " or ".join(str(r / "imagenet_compatible") for r in data_roots())
        raise DataError(
            f"imagenet_compatible not found. Looked in {places} for images.csv (columns ImageId, TrueLabel) "
            "and images/<ImageId>.png, 299x299: the DEV set of the NIPS 2017 competition "
            "(cleverhans, examples/nips17_adversarial_competition/dataset)."
        )
    data = listed(folder, "ImageId", "TrueLabel", first=1, suffix=".png")[:n]
    side = 299 if size is None else size
    images = [_resized(data.pixels(row), side) for row in range(len(data))]
    return _imagenet(images, data, "imagenet_compatible", split)


def _imagenet(images: list[np.ndarray], data: Photographs, dataset: str, split: str) -> Images:
    from torchvision.models import ResNet50_Weights

    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    classes = tuple(ResNet50_Weights.DEFAULT.meta["categories"])
    return Images(pixels, data.labels, data.index, classes, dataset, split)


def _imagenet_folder(split: str, n: int | None, size: int | None, download: bool) -> Images:
    """imagenet/val/<wnid>/*.JPEG, a thousand folders, in the order of one permutation, so that the first n images are a
    random choice; `index` is the place in the list sorted by folder and name."""
    folder = next((r / "imagenet" / split for r in data_roots() if (r / "imagenet" / split).is_dir()), None)
    if folder is None:
        places = " or ".join(str(r / "imagenet" / split) for r in data_roots())
        raise DataError(
            f"imagenet not found. Looked in {places} for 1,000 folders named by WordNet id. ILSVRC 2012 may not "
            "be downloaded by programs: get ILSVRC2012_img_val.tar from image-net.org and sort it into folders."
        )
    data = class_folders(folder)
    chosen = torch.from_numpy(np.random.default_rng(_SHUFFLE).permutation(len(data))[:n])
    return _cropped(data[chosen], 299 if size is None else size, "imagenet", split)


def _imagenet_sample(split: str, n: int | None, size: int | None, download: bool) -> Images:
    """One of the two parts of `photographs`."""
    train, val = photographs()
    data = {"train": train, "val": val}[split][:n]
    return _cropped(data, 299 if size is None else size, "imagenet_sample", split)


LOADERS: dict[str, Callable[[str, int | None, int | None, bool], Images]] = {
    "shapes": _shapes,
    "cifar10": lambda *a: _cifar("cifar10", *a),
    "cifar100": lambda *a: _cifar("cifar100", *a),
    "imagenet": _imagenet_folder,
    "imagenet_sample": _imagenet_sample,
    "imagenet_compatible": _imagenet_compatible,
}
