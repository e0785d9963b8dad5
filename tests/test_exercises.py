"""What the tests of the exercises accept, right answers however they are written, and what they refuse, mistakes.

tests/answers/<sheet>.py holds the answers, a cell each, titled "<exercise> right: ..." or "<exercise> wrong: ...". An
answer runs after the sheet's solution, and defines again what it answers differently.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jupytext
import pytest

from advlib.bench import chapters
from advlib.press import course
from advlib.zoo.models import available

ANSWERS = Path(__file__).parent / "answers"
SHEETS = {path.stem: path for path in chapters.sources(course.SOLUTIONS)}
TITLE = re.compile(r"^# %% ([123]) (right|wrong): (.+)$", re.MULTILINE)
pytestmark = pytest.mark.skipif("shapes/resnet" not in available(), reason="no weights for shapes: run notebook A1")


@dataclass(frozen=True)
class Answer:
    """An answer to exercise "1", "2" or "3" of a sheet: Python source, and in words what it does."""

    sheet: str
    exercise: str
    right: bool
    title: str
    source: str

    def __str__(self) -> str:
        return f"{self.sheet[:2]}.{self.exercise} {'right' if self.right else 'wrong'}: {self.title}"


def answers(sheet: str) -> list[Answer]:
    _, *parts = TITLE.split((ANSWERS / f"{sheet}.py").read_text(encoding="utf-8"))
    cells = zip(*[iter(parts)] * 4, strict=True)
    return [Answer(sheet, exercise, kind == "right", title, source) for exercise, kind, title, source in cells]


EXERCISES = {(sheet, k): [a for a in answers(sheet) if a.exercise == k] for sheet in SHEETS for k in "123"}
ALL = sum(EXERCISES.values(), [])


@cache
def code(sheet: str) -> dict[str, str]:
    """A sheet's cells by their grade_id, "exercise-1", "check-1", ..., and the one before them, "setup"."""
    cells = [c for c in jupytext.read(SHEETS[sheet], fmt="py:percent").cells if c.cell_type == "code"]
    return {c.metadata.get("nbgrader", {"grade_id": "setup"})["grade_id"]: c.source for c in cells}


@cache
def setup(sheet: str) -> dict[str, object]:
    """The names that an exercise finds: networks and images, loaded once for all answers."""
    scope: dict[str, object] = {}
    exec(code(sheet)["setup"], scope)
    return scope


@cache
def complaint(answer: Answer) -> tuple[str, str] | None:
    """("visible" or "hidden", what the first of the sheet's tests that fails says of an answer); None if it passes.

    Only an assertion is a complaint: whatever else is raised is a fault of the answer's or of the tests'.
    """
    scope, cells = dict(setup(answer.sheet)), code(answer.sheet)
    exec(cells[f"exercise-{answer.exercise}"], scope)
    exec(answer.source, scope)
    visible, _, hidden = cells[f"check-{answer.exercise}"].partition("### BEGIN HIDDEN TESTS\n")
    for place, tests in (("visible", visible), ("hidden", hidden)):
        try:
            exec(tests, scope)
        except AssertionError as error:
            return place, str(error)
    return None


def test_every_exercise_has_right_and_wrong_answers():
    assert {path.stem for path in ANSWERS.glob("*.py")} == set(SHEETS)
    for exercise, given in EXERCISES.items():
        right = [a.right for a in given]
        assert right.count(True) >= 2 and right.count(False) >= 3, exercise
        assert len({a.title for a in given}) == len({a.source for a in given}) == len(given), exercise


@pytest.mark.parametrize("answer", [a for a in ALL if a.right], ids=str)
def test_right_answers_pass(answer):
    assert complaint(answer) is None


@pytest.mark.parametrize("answer", [a for a in ALL if not a.right], ids=str)
def test_wrong_answers_are_refused_in_words(answer):
    _, words = complaint(answer) or pytest.fail("accepted")
    assert words


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: f"{e[0][:2]}.{e[1]}")
def test_what_students_see_of_the_tests_refuses_some_mistake(exercise):
    refused = [found for answer in EXERCISES[exercise] if not answer.right and (found := complaint(answer))]
    assert "visible" in [place for place, _ in refused]
