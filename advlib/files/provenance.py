"""Where a number comes from: the code, the configuration, the machine and the commit."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .paths import PACKAGE, ROOT

if TYPE_CHECKING:
    import torch


def fingerprint(config: Mapping[str, object]) -> str:
    """Sixteen hex digits of a configuration, whatever its order. Raises TypeError when it is not JSON."""
    try:
        return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
    except (TypeError, ValueError) as error:
        raise TypeError(f"config: expected JSON types ({error})") from error


def code_digest(package: Path, without: Collection[str]) -> str:
    """Sixteen hex digits of the sources of a package, without those in these folders of it ("press", "bench/gpu")."""
    found = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        if not any(place.is_relative_to(folder) for folder in without):
            found.update(place.as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


CODE = code_digest(PACKAGE, without=("files", "press", "bench/gpu", "bench/speed"))
"""Of the code that may change a number of a table, as it was when this process imported it: rows that another version
measured are not continued. What `bench.gpu` and `bench.speed` measure is measured anew each time."""
TRAINING_CODE = code_digest(PACKAGE, without=("bench", "defenses", "files", "press"))
"""Of the code that may change the weights of a network that is trained."""


def run_info(device: torch.device | str) -> dict[str, str]:
    """What a row says about its run: torch version, device name, commit ("+": changed since; "unknown": no git)."""
    import torch  # here: the command line asks this module for dates alone

    return {"torch": torch.__version__, "device": device_name(device), "commit": _commit()}


def device_name(device: torch.device | str) -> str:
    """What a row calls a device: "cpu", or the name of a GPU."""
    import torch

    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def date_of(path: Path) -> str:
    """The day of the last commit to a file of the repository, "2026-11-22"; "no date" where git does not know it."""
    try:
        return _git("log", "-1", "--format=%cs", "--", str(path)) or "no date"
    except (OSError, subprocess.SubprocessError):
        return "no date"


def _git(*words: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def _commit() -> str:
    try:
        if Path(_git("rev-parse", "--show-toplevel")).resolve() != ROOT.resolve():
            return "unknown"  # a copy that lies inside another project's checkout
        # A run writes its own results and figures: that does not make it the run of another code.
        changed = _git("status", "--porcelain", "--", ".", ":!data/results", ":!figures")
        return _git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
