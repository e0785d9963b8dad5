"""The exercises: every solution passes, every stub fails, and nbgrader makes and grades the student versions."""

import re
import shutil
import sqlite3
from importlib.util import find_spec

import jupytext
import pytest
import torch

import advlib as al
from advlib.bench import chapters
from advlib.bench.chapters import UsageError
from advlib.files.paths import NOTEBOOKS, ROOT
from advlib.press import course
from advlib.zoo import weights
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
    sheets = {course.assignment(path) for path in (*SHEETS, course.PROJECT)}
    assert {p.parent.name for p in release.rglob("*.ipynb")} == sheets
    for path in release.rglob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        assert "SOLUTION" not in text and "HIDDEN" not in text and text.count("raise NotImplementedError") >= 3
        assert "hidden_network" not in text
    assert "timeout = 900" in (tmp_path / "nbgrader_config.py").read_text()
    asked, solved = ((tmp_path / "exam" / f"{name}.md").read_text() for name in ("questions", "solutions"))
    assert "SOLUTION" not in asked and "```" not in asked and solved == course.EXAM.read_text(encoding="utf-8")
    assert re.findall("^## .*", asked, re.MULTILINE) == re.findall("^## .*", solved, re.MULTILINE)
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


# --- exam and mathematics sheet --------------------------------------------------------------------------------------


def programs(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


QUESTIONS = re.split(r"^## ", course.EXAM.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]


def test_points_of_the_exam_add_up():
    assert len(QUESTIONS) == 12
    for text in QUESTIONS:
        asked, solved = text.split("<!-- BEGIN SOLUTION -->")
        (points,) = re.findall(r"^\d+\. .*\((\d) points\)", asked)
        parts = re.findall(r"^([a-d])\) (?:.|\n[^\n])*?\((\d)\)$", asked, re.MULTILINE)
        assert sum(int(p) for _, p in parts) == int(points), asked
        assert re.findall(r"^([a-d])\)", solved, re.MULTILINE) == [letter for letter, _ in parts], solved
    assert sum(int(re.search(r"\((\d) points\)", text)[1]) for text in QUESTIONS) == 60


@pytest.mark.parametrize("number", range(12), ids=lambda k: str(k + 1))
def test_solutions_of_the_exam_run(number):
    found = programs(QUESTIONS[number])
    assert found or number == 11  # the last asks for words
    for program in found:
        exec(program, {"torch": torch, "al": al})


def test_the_mathematics_sheet_runs():
    (program,) = programs((ROOT / "book" / "mathematics.md").read_text(encoding="utf-8"))
    exec(program, {})


# --- project ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sheet(tmp_path_factory):
    """The project's cells by their grade_id, "setup" before them; and a course whose hidden network is the ResNeXt."""
    place = tmp_path_factory.mktemp("course")
    hidden = al.models.load("shapes/resnext")
    weights.save_weights("shapes/resnext", hidden, {"seed": 0}, place / course.HIDDEN)
    cells = [c for c in jupytext.read(course.PROJECT, fmt="py:percent").cells if c.cell_type == "code"]
    return place, {c.metadata.get("nbgrader", {"grade_id": "setup"})["grade_id"]: c.source for c in cells}


def graded(sheet, monkeypatch, few, last=None, **answers):
    """What the checks say of answers, by grade_id, up to the one named `last`: None where it is content. few: images of
    the test split; of the validation split there are 8."""
    place, cells = sheet
    (place / "autograded" / "ada" / "project").mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(place / "autograded" / "ada" / "project")
    scope, said = {}, {}
    for name, source in cells.items():
        source = re.sub(r'"test", 200|"val", 100', lambda m: m[0].replace("200", str(few)).replace("100", "8"), source)
        try:
            exec(answers.get(name, source), scope)
            error = None
        except AssertionError as found:
            error = str(found)
        if name.startswith("check"):
            said[name] = error
        if name == last:
            break
    return said


def test_the_projects_solution_passes(sheet, monkeypatch):
    assert set(graded(sheet, monkeypatch, few=40).values()) == {None}


WRONG = {
    "too far": ("attack", "def attack(x, y, eps): return (x + 2 * eps).clamp(0, 1)", "check-attack"),
    "nothing": ("attack", "def attack(x, y, eps): return x.clone()", "check-attack-hidden"),
    "strong, but too far": ("attack", "def attack(x, y, eps): return (x + 2 * eps).clamp(0, 1)", "check-attack-strong"),
    "too many passes": (
        "attack",
        "def attack(x, y, eps): return al.attacks.mi_fgsm(load('resnet'), x, y, eps=eps, steps=201)",
        "check-attack-hidden",
    ),
    "MI-FGSM from three networks": (
        "attack",
        "def attack(x, y, eps):\n    f = al.ensemble([load(k) for k in ('resnet', 'vgg', 'densenet')])\n"
        "    return al.attacks.mi_fgsm(f, x, y, eps=eps)",
        "check-attack-strong",
    ),
    "no defence": ("defence", "def defended(): return load('vgg')", "check-defence-hidden"),
    "one that sees little": ("defence", "def defended(): return load('vgg-noise')", "check-defence-hidden"),
    "a hope": ("claim", "def claim(): return 90.0", "check-claim-hidden"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_the_project_refuses_mistakes(sheet, monkeypatch, mistake):
    cell, source, check = WRONG[mistake]
    said = graded(sheet, monkeypatch, 16, last=check, **{**CHEAP, cell: source})
    assert said[check]


CHEAP = {"attack": "def attack(x, y, eps): return al.attacks.i_fgsm(load('resnet'), x, y, eps=eps, steps=1)"}
"""For answers that are wrong elsewhere."""


def test_the_hidden_network_is_made_once_and_found_from_below(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="make course"):
        course.hidden_network()
    place = course.hide(tmp_path, seed=3, n=64)
    first = (place / "manifest.json").read_text()
    assert course.hide(tmp_path, seed=4, n=64) == place and (place / "manifest.json").read_text() == first
    (tmp_path / "autograded" / "ada").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "autograded" / "ada")
    hidden = course.hidden_network()
    assert not hidden.training and type(hidden.net) is type(al.models.create(family_of(3), "small", "shapes").net)


def family_of(seed):
    return sorted(al.nets.FAMILIES)[seed % len(al.nets.FAMILIES)]
