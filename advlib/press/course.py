"""The course: exercises with hidden tests, from notebooks/solutions, and student versions of them, made by nbgrader."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jupytext
import nbformat

from ..bench.chapters import UsageError, sources
from ..files.paths import BUILD, NOTEBOOKS

SOLUTIONS = NOTEBOOKS / "solutions"


def build(folder: Path = BUILD / "course") -> Path:
    """Write a course directory of nbgrader's: source/chapter_NN with the solutions and release/chapter_NN without them
    and without the hidden tests. Returns release. Raises UsageError without nbgrader, or with what it complains of."""
    if find_spec("nbgrader") is None:
        raise UsageError("the course needs nbgrader: pip install 'advlib[course]'")
    shutil.rmtree(folder / "source", ignore_errors=True)
    for path in sources(SOLUTIONS):
        _write_source(path, folder)
    nbgrader(folder, "generate_assignment", "--assignment=*", "--force", "--create")
    return folder / "release"


def _write_source(path: Path, folder: Path) -> None:
    target = folder / "source" / assignment(path) / f"{path.stem}.ipynb"
    target.parent.mkdir(parents=True)
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata.pop("jupytext", None)  # the pairing of notebooks/ is none of the students'
    nbformat.write(notebook, target)


def assignment(path: Path) -> str:
    """nbgrader's name for the exercises of a chapter: "chapter_04"."""
    return f"chapter_{path.stem.split('_')[0]}"


def nbgrader(folder: Path, *words: str) -> str:
    """Run `nbgrader words...` in a course directory; its output. Raises UsageError if it fails."""
    command = [sys.executable, "-m", "nbgrader", *words, f"--CourseDirectory.root={folder.resolve()}"]
    scripts = str(Path(sys.executable).parent)  # nbgrader calls alembic by name
    environment = os.environ | {"PATH": scripts + os.pathsep + os.environ.get("PATH", "")}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise UsageError(f"nbgrader {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr
