"""Each numbered equation of the thesis has one display and one owner; what is amiss is named; the page is current."""

import re
from pkgutil import resolve_name

import pytest

from advlib.press import equations

CHAPTERS, PACKAGE = equations._chapters(), equations._package()


# --- this repository -------------------------------------------------------------------------------------------------


def test_every_equation_has_one_display_and_one_owner():
    assert equations.faults(equations.displays(CHAPTERS), equations.owners(PACKAGE)) == []


def test_every_owner_can_be_called_by_its_name():
    for owner in equations.owners(PACKAGE):
        resolve_name(re.sub(r"^al\b", "advlib", owner.name))


def test_the_page_is_up_to_date():
    said = "write it anew: python -m advlib equations"
    assert equations.PAGE.read_text(encoding="utf-8") == equations.page(), said


def test_reasons_are_of_numbers_of_the_thesis():
    assert set(equations.UNOWNED) < set(equations.CHAPTER)
    assert len(equations.CHAPTER) == 4 + 7 + 6 + 11 + 9 + 4


# --- small ones in which all is right, and then one thing is not -----------------------------------------------------


def chapter(*numbers):
    """A percent source that displays them."""
    cells = [f"# ### Algorithm {n[5:]}\n" if n.startswith("Alg") else f"# $$a \\tag{{{n}}}$$\n" for n in numbers]
    return "".join(f"# %% [markdown]\n{cell}\n# %%\nx = 1\n\n" for cell in cells)


@pytest.fixture
def right():
    """Chapters and a package without a fault."""
    by_chapter = {c: [n for n, of in equations.CHAPTER.items() if of == c] for c in range(1, 6)}
    chapters = {f"{c:02}_some": chapter(*numbers) for c, numbers in by_chapter.items()}
    owned = [n if n.startswith("Alg") else f"eq. {n}" for n in equations.CHAPTER if n not in equations.UNOWNED]
    module = "".join(f'def f{k}():\n    """Thing {k} (thesis {n})."""\n\n' for k, n in enumerate(owned))
    return chapters, {"deep/down.py": module}


def amiss(chapters, package):
    return equations.faults(equations.displays(chapters), equations.owners(package))


def test_nothing_is_amiss_where_all_is_right(right):
    assert amiss(*right) == []


def test_an_owner_that_is_gone(right):
    chapters, package = right
    package["deep/down.py"] = package["deep/down.py"].replace("thesis eq. 2.4", "see chapter 2")
    assert amiss(chapters, package) == ["2.4: 0 owners, none; expected one"]


def test_two_owners(right):
    chapters, package = right
    package["other.py"] = 'class Other:\n    """Also (thesis eq. 5.8 to 5.9)."""\n'
    assert [line.partition(",")[0] for line in amiss(chapters, package)] == ["5.8: 2 owners", "5.9: 2 owners"]


def test_an_owner_of_what_is_listed_as_owned_by_none(right):
    chapters, package = right
    package["other.py"] = 'def expansion():\n    """Of a gain (thesis eq. 5.4)."""\n'
    assert amiss(chapters, package) == ["5.4: owned by al.other.expansion, and listed as owned by none"]


@pytest.mark.parametrize("number", ["3.6", "Alg. 2"])
def test_no_display_and_two(right, number):
    chapters, package = right
    chapters["03_some"] += chapter(number)
    assert amiss(chapters, package) == [f"{number}: displayed 2 times, 03_some, 03_some; expected once"]
    chapters["03_some"] = chapters["03_some"].replace(chapter(number), "")
    assert amiss(chapters, package) == [f"{number}: displayed 0 times, nowhere; expected once"]


def test_a_display_in_another_chapter(right):
    chapters, package = right
    chapters["03_some"] = chapters["03_some"].replace(chapter("3.6"), "")
    chapters["06_other"] = chapter("3.6")
    assert amiss(chapters, package) == ["3.6: displayed in 06_other; expected in chapter 3"]


def test_numbers_that_the_thesis_does_not_have(right):
    chapters, package = right
    chapters["01_some"] += chapter("1.5")
    package["other.py"] = 'def f():\n    """A thing (thesis Alg. 5)."""\n'
    assert amiss(chapters, package) == [
        "1.5: no number of the thesis, displayed in 01_some",
        "Alg. 5: no number of the thesis, cited by al.other.f",
    ]


# --- what counts -----------------------------------------------------------------------------------------------------


def test_what_a_citation_is():
    assert equations.cited("(thesis eq. 2.1 to 2.3)") == ["2.1", "2.2", "2.3"]
    assert equations.cited("(Foret et al. 2021; thesis eq. 4.9, 4.10 and 4.11; Table 4.5)") == ["4.9", "4.10", "4.11"]
    assert equations.cited("(thesis eq. 5.6, 5.7, Alg. 4), alpha 0.1") == ["5.6", "5.7", "Alg. 4"]
    assert equations.cited("(thesis eq. 5.3), 5.4 of Table 5.5") == ["5.3"]
    assert equations.cited("eq. 1.3; Liu et al. 2022, Alg. 1; thesis Table 5.4, sect. 2.2; thesis' eq. 1.1") == []


def test_only_first_paragraphs_of_functions_classes_and_constants_own():
    module = '''"""A module (thesis eq. 1.1)."""

LIMIT = 1
"""A constant, in so
many words (thesis eq.
1.2)."""


class Rule:
    """A rule (thesis eq. 1.3). More.

    A mention (thesis eq. 1.1)."""

    def update(self):
        """A method (thesis eq. 1.4)"""

        def inner():
            """Inside (thesis eq. 1.1)."""


def undocumented():
    return "thesis eq. 1.1"
'''
    found = equations.owners({"a/b.py": module, "__init__.py": "from .a.b import LIMIT\nfrom .c import Rule\n"})
    assert [(o.number, o.name, o.says) for o in found] == [
        ("1.2", "al.LIMIT", "A constant, in so many words (thesis eq. 1.2)."),
        ("1.3", "al.a.b.Rule", "A rule (thesis eq. 1.3)."),
        ("1.4", "al.a.b.Rule.update", "A method (thesis eq. 1.4)."),
    ]


def test_only_markdown_cells_display():
    code, mention = "# %%\n# $$a \\tag{1.1}$$\n# # Algorithm 1\n", "# %% [markdown]\n# see Algorithm 2\n"
    source = code + chapter("1.2", "Alg. 1") + mention
    assert [d.number for d in equations.displays({"01_some": source})] == ["1.2", "Alg. 1"]


def test_rows_of_the_page(right):
    chapters, _ = right
    docstring = "|x| by Wu et al. 2024 (thesis eq. 5.9, Alg. 4): so. Not this.\n\n    Nor this."
    rows = equations.page(chapters, {"a.py": f'def f():\n    """{docstring}"""\n'}).splitlines()
    notebook = "../notebooks/05_some.ipynb"
    says = r"`al.a.f` | \|x\| by Wu et al. 2024 (thesis eq. 5.9, Alg. 4): so. |"
    assert f"| [5.9](#eq-5-9) | [5]({notebook}) | {says}" in rows
    assert f"| [Alg. 4]({notebook}#algorithm-4) | [5]({notebook}) | {says}" in rows
    assert f"| [5.4](#eq-5-4) | [5]({notebook}) | none | {equations.UNOWNED['5.4']}. |" in rows


def test_the_page_is_written(tmp_path):
    path = equations.write(tmp_path / "equations.md")
    assert path.read_text(encoding="utf-8") == equations.page()
