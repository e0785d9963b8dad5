"""Where things lie. The repository is found from this file, so that any working directory will do."""

from __future__ import annotations

import os
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
