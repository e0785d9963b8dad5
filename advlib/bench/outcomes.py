"""Which image each cell of a table fooled: one bit an image, in a file beside the CSV.

kept = results.outcomes("table_2_1.csv")
a, b = (kept.of("resnet", attack, "vgg", 8) for attack in ("EM-FGSM", "MI-FGSM"))
intervals.paired_difference(a.fooled[a.right], b.fooled[b.right])

table_2_1.outcomes.npz holds, by name: `source`, `attack`, `target`, `eps_255` of each cell; `fooled`, a row of bits for
each cell, and `index`, the images' numbers in their data set; `right`, a row of bits for each distinct set of images
that count (`evaluation.COUNTED`), and `mask`, the row of it that is a cell's. Bits are packed as `numpy.packbits` does.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import isclose
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..files.paths import replacing

COMMON, ALL = "asr", "asr_all"
"""The metrics that outcomes give: success over the images that are named rightly while they are clean, and over all."""

Key = tuple[str, str, str, float]
"""(source, attack, target, eps_255)."""

_KINDS = {"index": "i", "source": "U", "attack": "U", "target": "U", "eps_255": "f", "mask": "i"} | dict.fromkeys(
    ("fooled", "right"), "u"
)
"""The arrays of a file, and what numpy calls their kind."""


class DamagedError(ValueError):
    """A result file that is cut or is no result file."""


class Outcome(NamedTuple):
    """What one attack did to one target. fooled: bool (N,), the images that the target names wrongly; right: bool (N,),
    the images that count: those that the networks name rightly while they are clean (`evaluation.COUNTED`)."""

    fooled: np.ndarray
    right: np.ndarray

    def counted(self, metric: str) -> np.ndarray:
        """bool (N,): the images over which a metric is the mean. Raises ValueError for one that is not of images."""
        if metric not in (COMMON, ALL):
            raise ValueError(f"metric={metric!r}: expected {COMMON!r} or {ALL!r}")
        return self.right if metric == COMMON else np.ones_like(self.right)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The outcomes of some cells on the same images. index: int64 (N,), the images' numbers in their data set. Raises
    ValueError for what is not as described."""

    index: np.ndarray
    cells: Mapping[Key, Outcome]

    def __post_init__(self) -> None:
        if self.index.ndim != 1 or self.index.dtype != np.int64 or not self.index.size:
            raise ValueError(f"index: expected int64 (N,), N >= 1; not {self.index.dtype} {self.index.shape}")
        for key, outcome in self.cells.items():
            if any(part.shape != self.index.shape or part.dtype != bool for part in outcome):
                raise ValueError(f"{key}: expected fooled and right as bool of shape {self.index.shape}")

    def of(self, source: str, attack: str, target: str, eps_255: float) -> Outcome:
        """Of one attack on one target. Raises ValueError where the file does not have it."""
        key = (source, attack, target, float(eps_255))
        if key not in self.cells:
            raise ValueError(f"no outcomes of {key}; there are {len(self.cells)} cells")
        return self.cells[key]

    def only(self, keys: Collection[Key]) -> Outcomes | None:
        """Those of these cells, None of none."""
        kept = {key: outcome for key, outcome in self.cells.items() if key in keys}
        return Outcomes(self.index, kept) if kept else None

    def agree(self, row: Mapping[str, object]) -> bool:
        """Whether the value and n of a table's row are those of its outcomes; True for a row that is not of images."""
        if row["metric"] not in (COMMON, ALL):
            return True
        outcome = self.of(*key_of(row))
        counted = outcome.counted(row["metric"])
        k, n = int((outcome.fooled & counted).sum()), int(counted.sum())
        return n == row["n"] and isclose(100 * k / max(n, 1), row["value"], abs_tol=1e-9)


def key_of(row: Mapping[str, object]) -> Key:
    """The cell that a table's row belongs to."""
    return row["source"], row["attack"], row["target"], float(row["eps_255"])


def joined(old: Outcomes | None, new: Outcomes) -> Outcomes:
    """Both. Raises ValueError when they are of other images."""
    if old is None:
        return new
    if not np.array_equal(old.index, new.index):
        raise ValueError("outcomes: the cells of one table are of the same images, in the same order")
    return Outcomes(old.index, {**old.cells, **new.cells})


def beside(csv: Path) -> Path:
    """The file that belongs to a table: table_2_1.outcomes.npz of table_2_1.csv."""
    return csv.with_suffix(".outcomes.npz")


def write(path: Path, outcomes: Outcomes) -> None:
    """Write the file: whole, or not at all. Raises WriteError."""
    masks: dict[bytes, int] = {}
    mask = [masks.setdefault(np.packbits(outcome.right).tobytes(), len(masks)) for outcome in outcomes.cells.values()]
    source, attack, target, eps_255 = map(np.array, zip(*outcomes.cells, strict=True))
    arrays = {
        "index": outcomes.index,
        "source": source,
        "attack": attack,
        "target": target,
        "eps_255": eps_255,
        "mask": np.array(mask, dtype=np.int64),
        "fooled": np.stack([np.packbits(outcome.fooled) for outcome in outcomes.cells.values()]),
        "right": np.stack([np.frombuffer(bits, dtype=np.uint8) for bits in masks]),
    }
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read(path: Path) -> Outcomes:
    """The outcomes of a file. Raises FileNotFoundError, and DamagedError, which names the file."""
    facts = path.stat()
    return _read(path, (facts.st_ino, facts.st_mtime_ns, facts.st_size))


@lru_cache(maxsize=4)
def _read(path: Path, state: tuple[int, ...]) -> Outcomes:  # noqa: ARG001 a file that was written since is read again
    try:
        return _parsed(path.read_bytes())
    except (ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedError(f"{path} is truncated or damaged ({error}); restore or delete it") from error


def _parsed(content: bytes) -> Outcomes:
    """Raises one of the errors that `_read` expects for what `write` has not written."""
    file = np.load(io.BytesIO(content), allow_pickle=False)
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise ValueError("no .npz")
    with file:
        kept = {name: file[name] for name in _KINDS}
    n, count = kept["index"].size, kept["source"].size
    width = -(-n // 8)
    shapes = dict.fromkeys(_KINDS, (count,))
    shapes |= {"index": (n,), "fooled": (count, width), "right": (*kept["right"].shape[:1], width)}
    wrong = [name for name, a in kept.items() if a.shape != shapes[name] or a.dtype.kind != _KINDS[name]]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: another shape or type")
    if not np.isin(kept["mask"], np.arange(len(kept["right"]))).all():
        raise ValueError("mask: names a row of `right` that is not there")
    fooled, right = (np.unpackbits(kept[name], axis=1, count=n).astype(bool) for name in ("fooled", "right"))
    for shared in (fooled, right, kept["index"]):
        shared.flags.writeable = False  # whoever reads the file again is given the same arrays
    keys = list(zip(*(kept[name].tolist() for name in ("source", "attack", "target", "eps_255")), strict=True))
    if len(set(keys)) != count:
        raise ValueError("a cell is given twice")
    return Outcomes(
        kept["index"], {k: Outcome(f, right[m]) for k, f, m in zip(keys, fooled, kept["mask"], strict=True)}
    )
