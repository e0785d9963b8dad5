"""Data sets as uint8 tensors: shapes (built in), CIFAR-10/100, an ImageNet folder, the ImageNet-compatible set.

`load(name, split)` gives an `Images`. Files are looked for in $ADVLIB_DATA and data/cache; what is missing is an error
that names the folder, the expected files and the way to get them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ..core import checks
from ..files.paths import data_roots
from . import shapes
from .registry import DATASETS, FILES

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class DataError(RuntimeError):
    """Data that is missing, truncated or not what its name says."""


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

    name: "shapes" | "cifar10" | "cifar100" | "imagenet" | "imagenet_compatible"; split: "train" | "val" | "test" for
    shapes and CIFAR (val: the last 1,000 images that train leaves out), "val" for the ImageNet folder, "test" for the
    compatible set. n: the first n images (all if None; for shapes the split's usual size). size: side in pixels, 8 to
    4096 (32, and 299 for ImageNet, if None; CIFAR has 32 only). Any slice of what comes back has all classes in it: the
    ImageNet folder, the one set that is sorted by class on disk, comes in an order that is drawn once and for all.
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


def split(data: Images, n: int, seed: int = 0) -> tuple[Images, Images]:
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
    labels = _labels(data.targets, len(data.classes), f"{folder / DATASETS[name].archive}: labels")
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
    labels = _labels(frame[label], len(_hub_classes(name)), f"{files[0]}: {label}")
    _balanced(labels, len(_hub_classes(name)), files[0])
    images = np.empty((expected, 32, 32, 3), np.uint8)
    for i, cell in enumerate(frame[column]):
        encoded = cell.get("bytes") if isinstance(cell, dict) else None
        images[i] = _decode(encoded, f"{files[0]}, row {i}", (32, 32))
    return images, labels


def _labels(values: Iterable[object], classes: int, where: str, first: int = 0) -> np.ndarray:
    """int64 (N,), class numbers from 0, of values that are counted from `first`. `where` names them in the error."""
    column = pd.Series(values)
    found = pd.to_numeric(column, errors="coerce") - first
    wrong = ~((found >= 0) & (found < classes) & (found % 1 == 0)).to_numpy(bool)  # NaN is in no range
    if wrong.any():
        row, last = int(wrong.argmax()), first + classes - 1
        raise DataError(f"{where}: {column.iloc[row]!r} in row {row}; expected whole numbers from {first} to {last}")
    return found.to_numpy(np.int64, copy=True)


def _balanced(labels: np.ndarray, classes: int, file: Path) -> None:
    """As many images of each class as of any other: what both CIFAR sets have, and no other data by chance."""
    counts = np.bincount(labels, minlength=classes)
    if (counts != len(labels) // classes).any():
        odd = int((counts != len(labels) // classes).argmax())
        raise DataError(
            f"{file}: {counts[odd]:,} images of class {odd}, not {len(labels) // classes:,}: damaged, or other data"
        )


def _decode(encoded: bytes | None, where: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W, 3) uint8 from an encoded image, whose checksums, if it is a PNG file, must be right. `where` names it in
    the error."""
    if not isinstance(encoded, bytes):
        raise DataError(f"{where}: expected an encoded image, got {checks.shown(encoded)}")
    try:
        Image.open(io.BytesIO(encoded)).verify()  # decoding alone does not compare them
        image = Image.open(io.BytesIO(encoded)).convert("RGB")
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise DataError(f"{where}: not a complete image ({error})") from error
    if size is not None and image.size != size:
        raise DataError(f"{where}: {image.size[0]}x{image.size[1]} pixels; expected {size[0]}x{size[1]}")
    return np.asarray(image)


# --- ImageNet --------------------------------------------------------------------------------------------------------


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
    rows = _listed(folder / "images.csv").head(n)
    side, images = 299 if size is None else size, []
    for name in rows.ImageId:
        file = folder / "images" / f"{name}.png"
        images.append(_resized(_decode(file.read_bytes(), str(file)), side))
    labels = torch.from_numpy(rows.TrueLabel.to_numpy(np.int64, copy=True))
    index = torch.from_numpy(rows.index.to_numpy(np.int64, copy=True))
    return _imagenet(images, labels, index, "imagenet_compatible", split)


def _listed(file: Path) -> pd.DataFrame:
    """The rows of images.csv whose image is there: ImageId, TrueLabel counted from 0; the index is that of the file."""
    if not file.is_file():
        raise DataError(f"{file}: missing; expected columns ImageId, TrueLabel")
    try:
        rows = pd.read_csv(file, dtype={"ImageId": str}, encoding="utf-8")
    except (OSError, ValueError) as error:  # pandas' own errors, and those of the encoding, are ValueErrors
        raise DataError(f"{file}: not a CSV file in UTF-8 ({error})") from error
    if absent := {"ImageId", "TrueLabel"} - set(rows):
        raise DataError(f"{file}: no column {', '.join(sorted(absent))}")
    rows["TrueLabel"] = _labels(rows.TrueLabel, 1000, f"{file}: TrueLabel", first=1)
    images = file.parent / "images"
    rows = rows[[(images / f"{name}.png").is_file() for name in rows.ImageId]]
    if rows.empty:
        raise DataError(f"{images}: none of the images that images.csv lists is there")
    return rows


def _imagenet(images: list[np.ndarray], labels: torch.Tensor, index: torch.Tensor, dataset: str, split: str) -> Images:
    from torchvision.models import ResNet50_Weights

    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Images(pixels, labels, index, tuple(ResNet50_Weights.DEFAULT.meta["categories"]), dataset, split)


def _imagenet_folder(split: str, n: int | None, size: int | None, download: bool) -> Images:
    """imagenet/val/<wnid>/*.JPEG, a thousand folders, in the order of one permutation, so that the first n images are a
    random choice; `index` is the place in the list sorted by folder and name. Shorter side to 8/7 of `size`, centre
    crop (the usual 256 / 224)."""
    from torchvision.transforms import v2

    folder = next((r / "imagenet" / split for r in data_roots() if (r / "imagenet" / split).is_dir()), None)
    if folder is None:
        places = " or ".join(str(r / "imagenet" / split) for r in data_roots())
        raise DataError(
            f"imagenet not found. Looked in {places} for 1,000 folders named by WordNet id. ILSVRC 2012 may not "
            "be downloaded by programs: get ILSVRC2012_img_val.tar from image-net.org and sort it into folders."
        )
    files = _sorted_by_class(folder)
    chosen = np.random.default_rng(_SHUFFLE).permutation(len(files))[:n]
    side = 299 if size is None else size
    crop = v2.Compose([v2.Resize(side * 8 // 7, antialias=True), v2.CenterCrop(side)])
    images = [np.asarray(crop(Image.fromarray(_decode(files[i][0].read_bytes(), str(files[i][0]))))) for i in chosen]
    labels = torch.tensor([files[i][1] for i in chosen])
    return _imagenet(images, labels, torch.from_numpy(chosen), "imagenet", split)


_SHUFFLE = 2012  # the seed of the permutation


def _sorted_by_class(folder: Path) -> list[tuple[Path, int]]:
    """Files and labels, sorted by folder and name. The label of a folder is its place among the thousand WordNet ids,
    so that they must be those."""
    from timm.data import ImageNetInfo

    known = ImageNetInfo().label_names()
    found = sorted(p.name for p in folder.iterdir() if p.is_dir())
    if found != known:
        wrong = sorted(set(found) ^ set(known))
        raise DataError(
            f"{folder}: {len(found)} class folders; expected those of the 1,000 WordNet ids of ILSVRC 2012 "
            f"({wrong[0]} is {'one too many' if wrong[0] in found else 'missing'})"
        )
    kinds = {".jpeg", ".jpg", ".png"}
    files = [(f, k) for k, w in enumerate(known) for f in sorted((folder / w).iterdir()) if f.suffix.lower() in kinds]
    if not files:
        raise DataError(f"{folder}: no .JPEG files in its class folders")
    return files


LOADERS: dict[str, Callable[[str, int | None, int | None, bool], Images]] = {
    "shapes": _shapes,
    "cifar10": lambda *a: _cifar("cifar10", *a),
    "cifar100": lambda *a: _cifar("cifar100", *a),
    "imagenet": _imagenet_folder,
    "imagenet_compatible": _imagenet_compatible,
}
