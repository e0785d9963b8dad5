"""Where things lie, and the one way to write a file. A checkout is found from this file, so that any working directory
will do; a package that was installed without one has the weights and the tables, and no chapters."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = (PACKAGE.parent / "pyproject.toml").is_file()
"""Whether the package lies in its checkout, with chapters, book and figures beside it."""
ROOT = PACKAGE.parent if CHECKOUT else Path.cwd()
"""The checkout, or else the folder from which relative paths count."""
_DATA = ROOT / "data" if CHECKOUT else PACKAGE / "data"
PUBLISHED = _DATA / "published"
RESULTS = _DATA / "results"
WEIGHTS = _DATA / "weights"
CACHE = ROOT / "data" / "cache" if CHECKOUT else Path.home() / ".cache" / "advlib"
FIGURES = ROOT / "figures"
NOTEBOOKS = ROOT / "notebooks"
BUILD = (ROOT / Path(os.environ.get("ADVLIB_BUILD") or "_build").expanduser()).resolve()
"""Where runs and sites are written: $ADVLIB_BUILD, or else _build; a relative one counts from ROOT."""


def data_roots() -> list[Path]:
    """Folders searched for data sets and independent weights, in order: $ADVLIB_DATA, then CACHE.

    A relative $ADVLIB_DATA counts from ROOT, in a checkout not from the folder a notebook happens to run in.
    """
    given = os.environ.get("ADVLIB_DATA")
    return ([(ROOT / Path(given).expanduser()).resolve()] if given else []) + [CACHE]


class WriteError(OSError):
    """A file or folder that cannot be written: which, and why."""

    def __init__(self, error: OSError, path: str | Path) -> None:
        super().__init__(error.errno, error.strerror or str(error), str(path))

    def __str__(self) -> str:
        return f"cannot write {self.filename}: {self.strerror}"


def made(folder: Path) -> Path:
    """The folder, made where it is not there. Raises WriteError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(error, folder) from error
    return folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place when the context ends: a reader, or a run killed in
    between, finds the old content or the new. After an error the old content stays. Makes the folder. Each writer has
    a file of its own: of several at once the last one wins, whole. Raises WriteError."""
    partial = made(path.parent) / f".{path.name}.{os.getpid()}-{token_hex(4)}.partial"
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise WriteError(error, path) from error
    finally:
        partial.unlink(missing_ok=True)
