"""Where things lie, and the one way to write a file. The repository is found from this file, so that any working
directory will do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT / "data" / "published"
RESULTS = ROOT / "data" / "results"
WEIGHTS = ROOT / "data" / "weights"
CACHE = ROOT / "data" / "cache"
FIGURES = ROOT / "figures"
NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "_build"


def data_roots() -> list[Path]:
    """Folders searched for data sets and independent weights, in order: $ADVLIB_DATA, then data/cache.

    A relative $ADVLIB_DATA counts from the repository, not from the folder a notebook happens to run in.
    """
    given = os.environ.get("ADVLIB_DATA")
    return ([(ROOT / Path(given).expanduser()).resolve()] if given else []) + [CACHE]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place when the context ends: a reader, or a run killed in
    between, finds the old content or the new. After an error the old content stays. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
