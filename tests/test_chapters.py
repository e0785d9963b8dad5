"""A chapter's parameters and their limits, and the folder of a run: one for all runs that are alike, none for two that
are not."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import jupytext
import pandas as pd
import pytest

from advlib.bench import chapters
from advlib.files.paths import NOTEBOOKS, ROOT

SOURCE = """# %% [markdown]
# # A *tiny* chapter
#
# ## A section

# %% tags=["parameters"]
scale: str = "laptop"  # one of smoke, laptop or paper
dataset: str = "shapes"  # one of shapes or cifar10; both are small
eps_255: list[float] = [8.0]  # budgets in 1/255;
# not empty; each from 0 to 255
n: int = 0  # images, 0 takes the number of the scale; at least 0
rate: float | None = None  # above 0; at most 0.5
words: list[str] = []  # each one of red, light green or blue
name: str = ""

# %%
print(n)
"""

SETTINGS = {"smoke": {"n": 6, "steps": 2}, "laptop": {"n": 40, "steps": 10}}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "02_tiny.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


@pytest.fixture
def values(source):
    """What the kernel's globals() holds after the parameters cell, among other things."""
    known = chapters.parameters(source)
    return {"al": chapters} | {name: parameter.default for name, parameter in known.items()}


def test_parameters_title_and_help(source):
    known = chapters.parameters(source)
    assert chapters.title(source) == "A *tiny* chapter" and chapters.number(source) == "02"
    assert known["eps_255"] == chapters.Parameter(
        "eps_255", "list[float]", [8.0], "budgets in 1/255; not empty; each from 0 to 255"
    )
    assert known["n"].limits == ["at least 0"] and known["name"].help == ""
    assert known["dataset"].choices == ["shapes", "cifar10"]
    assert known["words"].choices == ["red", "light green", "blue"]


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("eps_255", (0, 255), [0.0, 255.0]),
        ("n", 0, 0),
        ("rate", None, None),
        ("rate", 0.5, 0.5),
        ("words", ["light green", "red"], ["light green", "red"]),
        ("words", [], []),
    ],
)
def test_values_at_the_edge_are_allowed(source, name, value, kept):
    assert chapters.parameters(source)[name].checked(value) == kept


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("eps_255", 8, "'eps_255': expected list[float], not empty, each from 0 to 255, got 8 (a list is written [8])"),
        ("eps_255", "8/255", "'eps_255': expected list[float], not empty, each from 0 to 255, got '8/255'"),
        ("eps_255", [], "not empty"),
        ("eps_255", [8.0, 256.0], "got [8.0, 256.0]"),
        ("eps_255", [float("nan")], "got [nan]"),
        ("n", -1, "'n': expected int, at least 0, got -1"),
        ("n", True, "got True"),
        ("n", 1.0, "got 1.0"),
        ("rate", 0, "above 0, at most 0.5, got 0"),
        ("rate", 0.51, "got 0.51"),
        ("words", ["red", "green"], "each one of red, light green or blue, got ['red', 'green']"),
        ("scale", "huge", "one of smoke, laptop or paper, got 'huge'"),
        ("name", 8, "expected str, got 8"),
    ],
)
def test_a_notebook_refuses_what_is_outside(source, values, name, value, message):
    with pytest.raises(chapters.UsageError) as refused:
        chapters.begin("02", values | {name: value}, SETTINGS, source.parent)
    assert str(refused.value).startswith("chapter 02, parameter ") and message in str(refused.value)


@pytest.mark.parametrize(
    "line",
    [
        "eps_255 = 8",
        "e: float = 8 / 255",
        "import os",
        "n: int = 'a'",
        "x: Path = 1",
        "n: int = 1  # n=1",
        "n: int =",
        "n: int = 1  # at least one",
        "n: int = 1  # images; each at least 1",
        "n: list[int] = [1]  # at least 1",
        "n: str = 'a'  # at least 1",
        "n: int = 0  # at least 1",
        "n: int = 0  # from 1",
        "n: int = 0  # not empty",
    ],
)
def test_parameters_cell_is_strict(line):
    with pytest.raises(chapters.UsageError, match="02_x.py"):
        chapters.parse_parameters(line, "02_x.py")


@pytest.mark.parametrize("cell", ["", 'scale: str = "laptop"\n'])
def test_a_chapter_has_one_parameters_cell_with_scale_and_dataset(tmp_path, cell):
    path = tmp_path / "02_x.py"
    path.write_text(f'# %% tags=["parameters"]\n{cell}' if cell else "# %%\n", encoding="utf-8")
    with pytest.raises(chapters.UsageError, match="02_x.py"):
        chapters.parameters(path)


def test_a_run_has_the_folder_of_its_parameters(source, values, tmp_path, monkeypatch):
    monkeypatch.delenv(chapters.VARIABLE, raising=False)

    def folder(**changed):
        return (
            chapters.begin("02", values | changed, SETTINGS, source.parent, tmp_path)
            .folder.relative_to(tmp_path)
            .as_posix()
        )

    assert folder() == folder(eps_255=[8], n=0) == "laptop/shapes"
    assert folder(scale="smoke", n=3, eps_255=[4, 0.5]) == "smoke/shapes,eps_255=4+0.5,n=3"
    assert folder(dataset="cifar10", rate=0.25) == "laptop/cifar10,rate=0.25"
    odd = [folder(name=name) for name in ("a/b", "a_b", "A", "a", "../..", "ä", "n=1,m=2", "x" * 300, "x" * 301)]
    assert len({name.lower() for name in odd}) == len(odd) and all(name.count("/") == 1 for name in odd)
    assert max(map(len, odd)) < 120


def test_the_variable_names_the_folder_whatever_the_parameters(source, values, tmp_path, monkeypatch):
    monkeypatch.setenv(chapters.VARIABLE, str(tmp_path / "mine"))
    run = chapters.begin("02", values | {"n": 3}, SETTINGS, source.parent)
    assert (run.chapter, run.folder) == ("02", tmp_path / "mine")
    kept = [run.tables, run.figures, run.checkpoints, run.weights, run.images]
    assert len(set(kept)) == 5 and {path.name for path in kept} == {"02"}
    monkeypatch.setenv(chapters.VARIABLE, "_build/mine")
    assert chapters.begin("02", values, SETTINGS, source.parent).folder == ROOT / "_build" / "mine"


def test_without_its_source_a_chapter_says_so(values, tmp_path, monkeypatch):
    monkeypatch.delenv(chapters.VARIABLE, raising=False)
    with pytest.warns(UserWarning, match=f"no source of chapter 03 in {tmp_path}"):
        run = chapters.begin("03", values | {"n": -1}, SETTINGS, tmp_path, tmp_path)
    assert run.folder == tmp_path / "laptop" / "shapes"


def test_a_parameter_without_a_value_is_named(source):
    with pytest.raises(chapters.UsageError, match="its parameter 'dataset' has no value"):
        chapters.begin("02", {"scale": "smoke"}, SETTINGS, source.parent)


def test_a_parameter_takes_the_place_of_the_number_of_the_scale(source, values, tmp_path):
    run = chapters.begin("02", values, SETTINGS, source.parent, tmp_path)
    assert run["n"] == 40 and run["n", "steps"] == [40, 10] and (run.scale, run.dataset) == ("laptop", "shapes")
    assert str(run) == chapters.conditions("laptop", "shapes") and run.device.type in ("cpu", "cuda")
    given = chapters.begin("02", values | {"n": 3, "scale": "smoke"}, SETTINGS, source.parent, tmp_path)
    assert given["n", "steps"] == [3, 2]
    with pytest.raises(chapters.UsageError, match="scale='paper': expected one of smoke, laptop"):
        chapters.begin("02", values | {"scale": "paper"}, SETTINGS, source.parent, tmp_path)
    with pytest.raises(KeyError, match="grid"):
        run["grid"]


@pytest.mark.parametrize("path", chapters.sources(NOTEBOOKS), ids=lambda p: p.stem)
def test_every_chapter_begins_with_its_own_parameters(path):
    """Before anything changes one of them: imports and the numbers of the scales alone stand between."""
    cells = [c for c in jupytext.read(path, fmt="py:percent").cells if c.cell_type == "code"]
    start = [i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])][0] + 1
    code = "\n".join(cell.source for cell in cells[start:])
    begins = f'RUN = al.chapters.begin("{chapters.number(path)}", globals(), SETTINGS)\n'
    before, found, _ = code.partition(begins)
    assert found and {type(node) for node in ast.parse(before).body} <= {
        ast.Import,
        ast.ImportFrom,
        ast.Try,
        ast.Assign,
    }


# --- side by side ----------------------------------------------------------------------------------------------------

CELLS = """
import sys
import jupytext
from advlib.files.paths import NOTEBOOKS
cells = [c for c in jupytext.read(NOTEBOOKS / "00_start_here.py", fmt="py:percent").cells if c.cell_type == "code"]
for seed in map(int, sys.argv[1:]):
    scope = {}
    for cell in cells:
        exec(cell.source, scope)
        if "parameters" in cell.metadata.get("tags", []):
            scope |= {"scale": "smoke", "seed": seed}
"""


def test_runs_beside_each_other_give_what_they_give_one_after_the_other(tmp_path):
    """Chapter 00 at smoke scale, as papermill and Jupyter run it, with four seeds. It costs five interpreters, about a
    minute of one core."""

    def started(build, *seeds):
        environment = os.environ | {"ADVLIB_BUILD": str(tmp_path / build), "OMP_NUM_THREADS": "1"}
        environment.pop(chapters.VARIABLE, None)
        command = [sys.executable, "-c", CELLS, *map(str, seeds)]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def finished(processes):
        assert [process.communicate(timeout=300)[1].decode()[-500:] for process in processes if process.wait()] == []

    def kept(build):
        found = [p for p in (tmp_path / build).rglob("*") if p.suffix in (".csv", ".svg")]
        return {p.relative_to(tmp_path / build).as_posix(): _numbers(p) for p in found}

    finished([started("together", seed) for seed in range(4)])
    finished([started("alone", 0, 1, 2, 3)])
    assert kept("together") == kept("alone")
    tables = [name for name in kept("alone") if name.endswith("table_0_1.csv")]
    assert sorted(Path(name).parts[1] for name in tables) == ["shapes"] + [f"shapes,seed={k}" for k in (1, 2, 3)]
    assert len(kept("alone")) == 12  # a table and two figures each
    assert not [p for p in tmp_path.rglob("*") if ".partial" in p.name or ".old" in p.name]


def _numbers(path):
    """What a file says, without the seconds that it took."""
    if path.suffix != ".csv":
        return path.read_text(encoding="utf-8")
    return json.loads(pd.read_csv(path).drop(columns="seconds").to_json())
