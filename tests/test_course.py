"""The exercises: every solution passes, every stub fails, and nbgrader makes and grades the student versions."""

import re
import shutil
import sqlite3
from importlib.util import find_spec

import jupytext
import pytest

from advlib.bench import chapters
from advlib.files.paths import NOTEBOOKS
from advlib.press import course
from advlib.zoo.models import available

SHEETS = chapters.sources(course.SOLUTIONS)
pytestmark = pytest.mark.skipif("shapes/resnet" not in available(), reason="no weights for shapes: run notebook A1")
needs_nbgrader = pytest.mark.skipif(find_spec("nbgrader") is None, reason="no nbgrader: pip install 'advlib[course]'")


def test_every_chapter_has_three_exercises_of_the_three_kinds():
    assert [p.name for p in SHEETS] == [p.name for p in chapters.sources(NOTEBOOKS)]
    for path in SHEETS:
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"^# ## (\d. .+)$", text, re.MULTILINE) == ["1. Turn one knob", "2. Derive", "3. Build"], path
        cells = [c.metadata["nbgrader"] for c in jupytext.read(path).cells if "nbgrader" in c.metadata]
        assert [(c["grade_id"], c["grade"], c["solution"], c["locked"], c.get("points")) for c in cells] == [
            (f"{kind}-{k}", kind == "check", kind == "exercise", kind == "check", 1 if kind == "check" else None)
            for k in (1, 2, 3)
            for kind in ("exercise", "check")
        ], path
        assert text.count("### BEGIN HIDDEN TESTS") == text.count("### END HIDDEN TESTS") == 3, path


def play(notebook):
    """Run the cells in one scope; how each check ended: None, or its exception."""
    scope, ended = {}, {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            checks = cell.metadata.get("nbgrader", {}).get("grade", False)
            try:
                exec(cell.source, scope)
                error = None
            except Exception as found:
                if not checks:
                    raise
                error = found
            if checks:
                ended[cell.metadata["nbgrader"]["grade_id"]] = error
    return ended


@pytest.mark.parametrize("path", SHEETS, ids=lambda p: p.stem)
def test_solutions_pass(path):
    assert play(jupytext.read(path, fmt="py:percent")) == {"check-1": None, "check-2": None, "check-3": None}


@needs_nbgrader
@pytest.mark.parametrize("path", SHEETS, ids=lambda p: p.stem)
def test_stubs_fail(path):
    """What the students get, with the hidden tests put back: no check passes before there is an answer."""
    from nbgrader.preprocessors import ClearSolutions

    notebook, _ = ClearSolutions().preprocess(jupytext.read(path, fmt="py:percent"), {})
    assert [type(error) for error in play(notebook).values()] == [NotImplementedError] * 3


@needs_nbgrader
def test_nbgrader_makes_student_versions_and_grades_them(tmp_path):
    """One pupil hands the solutions in, another the sheet as it was."""
    release = course.build(tmp_path)
    assert {p.parent.name for p in release.rglob("*.ipynb")} == {course.assignment(path) for path in SHEETS}
    for path in release.rglob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        assert "SOLUTION" not in text and "HIDDEN" not in text and text.count("raise NotImplementedError") >= 3
    for pupil, folder in (("ada", tmp_path / "source"), ("bob", release)):
        shutil.copytree(folder / "chapter_05", tmp_path / "submitted" / pupil / "chapter_05")
    course.nbgrader(tmp_path, "autograde", "chapter_05")
    assert scores(tmp_path / "gradebook.db") == {"ada": 3.0, "bob": 0.0}


def scores(gradebook):
    """Points by pupil."""
    from nbgrader.api import Gradebook

    assert sqlite3.connect(gradebook).execute("select count(*) from student").fetchone() == (2,)
    with Gradebook(f"sqlite:///{gradebook}") as book:
        return {s.student.id: s.score for s in book.assignment_submissions("chapter_05")}
