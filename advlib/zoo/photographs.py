"""Image files and their classes: listed, decoded one by one, and never all in memory."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ..core import checks


class DataError(RuntimeError):
    """Data that is missing, truncated or not what its name says."""


@dataclass(frozen=True)
class Photographs:
    """files: paths of N images; labels: int64 (N,), their classes; index: int64 (N,), the place of each in the whole
    list, the number that an image's randomness hangs on."""

    files: tuple[str, ...]
    labels: torch.Tensor
    index: torch.Tensor

    @classmethod
    def of(cls, files: Iterable[Path | str], labels: Iterable[int]) -> Photographs:
        """The whole list."""
        paths, classes = tuple(map(str, files)), torch.tensor(list(labels), dtype=torch.int64)
        return cls(paths, classes, torch.arange(len(classes)))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: slice | torch.Tensor) -> Photographs:
        """The images of these rows, a slice or whole numbers."""
        which = torch.arange(len(self))[rows]
        return Photographs(tuple(self.files[i] for i in which.tolist()), self.labels[which], self.index[which])

    def pixels(self, row: int) -> np.ndarray:
        """(H, W, 3) uint8. Raises DataError for a file that is missing or damaged."""
        file = self.files[row]
        try:
            return decoded(Path(file).read_bytes(), file)
        except OSError as error:
            raise DataError(f"{file}: {error.strerror}") from error

    def digest(self) -> str:
        """16 hex digits of the files' names, with the folder of each, the classes and the index."""
        rows = zip(self.files, self.labels.tolist(), self.index.tolist(), strict=True)
        lines = "\n".join(f"{'/'.join(Path(file).parts[-2:])} {label} {place}" for file, label, place in rows)
        return hashlib.sha256(lines.encode()).hexdigest()[:16]


def decoded(encoded: bytes | None, where: str, size: tuple[int, int] | None = None) -> np.ndarray:
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


def numbered(values: Iterable[object], classes: int, where: str, first: int = 0) -> np.ndarray:
    """int64 (N,), class numbers from 0, of values that are counted from `first`. `where` names them in the error."""
    column = pd.Series(values)
    found = pd.to_numeric(column, errors="coerce") - first
    wrong = ~((found >= 0) & (found < classes) & (found % 1 == 0)).to_numpy(bool)  # NaN is in no range
    if wrong.any():
        row, last = int(wrong.argmax()), first + classes - 1
        raise DataError(f"{where}: {column.iloc[row]!r} in row {row}; expected whole numbers from {first} to {last}")
    return found.to_numpy(np.int64, copy=True)


def listed(folder: Path, name: str, label: str, first: int = 0, suffix: str = "") -> Photographs:
    """The images of images/ that images.csv lists by `name`, with `suffix` behind it, and `label`, one of ImageNet's
    classes counted from `first`, and that are there; the index is the row of the file. Raises DataError."""
    file, images = folder / "images.csv", folder / "images"
    if not file.is_file():
        raise DataError(f"{file}: missing; expected columns {name}, {label}")
    try:
        rows = pd.read_csv(file, dtype={name: str}, encoding="utf-8")
    except (OSError, ValueError) as error:  # pandas' own errors, and those of the encoding, are ValueErrors
        raise DataError(f"{file}: not a CSV file in UTF-8 ({error})") from error
    if absent := {name, label} - set(rows):
        raise DataError(f"{file}: no column {', '.join(sorted(absent))}")
    labels = numbered(rows[label], 1000, f"{file}: {label}", first)
    whole = Photographs.of((images / f"{each}{suffix}" for each in rows[name]), labels.tolist())
    there = whole[torch.tensor([Path(path).is_file() for path in whole.files], dtype=torch.bool)]
    if not len(there):
        raise DataError(f"{images}: none of the images that images.csv lists is there")
    return there


def class_folders(folder: Path) -> Photographs:
    """ImageNet's images in a folder for each class, sorted by folder and name. The label of a folder is its place among
    the thousand WordNet ids, so that they must be those. Raises DataError."""
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
    return Photographs.of(*zip(*files, strict=True))
