"""The course: exercises with hidden tests, a project and an exam, from notebooks/solutions, and what students get of
them, made by nbgrader."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import jupytext
import nbformat

from ..bench.chapters import UsageError, sources
from ..files.paths import BUILD, NOTEBOOKS

if TYPE_CHECKING:
    from ..core.surrogate import Normalized

SOLUTIONS = NOTEBOOKS / "solutions"
PROJECT = SOLUTIONS / "project.py"
EXAM = SOLUTIONS / "exam.md"
HIDDEN = "hidden"
"""The folder of a course with the network that grades the project."""
CONFIG = (
    "c = get_config()\nc.ExecutePreprocessor.timeout = 900  # seconds for a cell; 30 are too few for the project's\n"
)


def build(folder: Path = BUILD / "course") -> Path:
    """Write a course directory of nbgrader's: source/chapter_NN and source/project with the solutions, release without
    them and without the hidden tests; and the exam, with and without solutions. Returns release. Raises UsageError
    without nbgrader, or with what it complains of."""
    if find_spec("nbgrader") is None:
        raise UsageError("the course needs nbgrader: pip install 'advlib[course]'")
    shutil.rmtree(folder / "source", ignore_errors=True)
    for path in (*sources(SOLUTIONS), PROJECT):
        _write_source(path, folder)
    (folder / "nbgrader_config.py").write_text(CONFIG, encoding="utf-8")
    nbgrader(folder, "generate_assignment", "--assignment=*", "--force", "--create")
    _write_exam(folder / "exam")
    return folder / "release"


def _write_source(path: Path, folder: Path) -> None:
    target = folder / "source" / assignment(path) / f"{path.stem}.ipynb"
    target.parent.mkdir(parents=True)
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata.pop("jupytext", None)  # the pairing of notebooks/ is none of the students'
    nbformat.write(notebook, target)


def assignment(path: Path) -> str:
    """nbgrader's name for the exercises of a chapter, "chapter_04", and for the project, "project"."""
    return path.stem if path == PROJECT else f"chapter_{path.stem.split('_')[0]}"


def _write_exam(folder: Path) -> None:
    """exam/solutions.md, and exam/questions.md without what stands between the marks of a solution."""
    folder.mkdir(parents=True, exist_ok=True)
    text = EXAM.read_text(encoding="utf-8")
    asked = re.sub(r"<!-- BEGIN SOLUTION -->\n.*?<!-- END SOLUTION -->\n", "", text, flags=re.DOTALL)
    (folder / "questions.md").write_text(asked, encoding="utf-8")
    (folder / "solutions.md").write_text(text, encoding="utf-8")


def hide(folder: Path = BUILD / "course", seed: int | None = None, n: int | None = None) -> Path:
    """Train the network that grades the project, unless the course has one: a small network for `shapes` whose family,
    weights and training come from a seed that nobody chose. Returns its folder.

    seed: for a course that is to be the same again; n: the first images of every split, for a trial.
    """
    from dataclasses import replace

    from ..training import fitting, recipes
    from ..zoo import nets, weights

    place = folder / HIDDEN
    if not weights.manifest(place):
        seed = secrets.randbelow(2**31) if seed is None else seed
        name = f"shapes/{sorted(nets.FAMILIES)[seed % len(nets.FAMILIES)]}"
        fitting.train_member(name, replace(recipes.recipe_for(name), seed=seed), folder=place, n=n)
    return place


def hidden_network() -> Normalized:
    """The network that grades the project, in eval mode, of the course that the working directory lies in. Raises
    UsageError where there is none, as on a student's machine."""
    from ..zoo import models, weights

    for folder in (Path.cwd(), *Path.cwd().parents):
        if listed := weights.manifest(folder / HIDDEN):
            (name,) = listed
            dataset, family = name.split("/")
            model = models.create(family, "small", dataset)
            weights.restore(model.net, name, folder / HIDDEN)
            return model.eval()
    raise UsageError(f"no {HIDDEN}/manifest.json in {Path.cwd()} or above it: make course trains the hidden network")


def nbgrader(folder: Path, *words: str) -> str:
    """Run `nbgrader words...` in a course directory; its output. Raises UsageError if it fails."""
    command = [sys.executable, "-m", "nbgrader", *words, f"--CourseDirectory.root={folder.resolve()}"]
    scripts = str(Path(sys.executable).parent)  # nbgrader calls alembic by name
    environment = os.environ | {"PATH": scripts + os.pathsep + os.environ.get("PATH", "")}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise UsageError(f"nbgrader {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr
