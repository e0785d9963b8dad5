"""The command line: parameters are refused by name and type, chapters run end to end."""

import nbformat
import pytest

from advlib import cli, run

HEADER = '# %% [markdown]\n# # A tiny chapter\n\n# %% tags=["parameters"]\n'
PARAMETERS = """\
scale: str = "laptop"  # how much to compute
dataset: str = "shapes"
eps_255: float = 8.0  # radius, in 1/255
steps: int = 10
attacks: list[str] = ["fgsm", "mi_fgsm"]
sigmas: list[float] = [0.0, 2.0]
targeted: bool = False
seed: int | None = None
"""


@pytest.fixture
def book(tmp_path):
    """notebooks/ with one chapter, an empty build folder, and the command line on the two."""
    notebooks, build = tmp_path / "notebooks", tmp_path / "build"
    notebooks.mkdir()

    def write(name, code):
        (notebooks / name).write_text(HEADER + PARAMETERS + code, encoding="utf-8")

    write("02_tiny.py", "\n# %% [markdown]\n# ## A sum\n\n# %%\nprint(scale, eps_255, attacks)\n")
    return write, lambda *argv: cli.main(argv, notebooks, build), build


@pytest.fixture
def chapter(book, tmp_path):
    return run.read_chapter(tmp_path / "notebooks" / "02_tiny.py")


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("8", "float", 8.0),
        ("1e-3", "float", 1e-3),
        ("-8", "int", -8),
        ("True", "bool", True),
        ("mi_fgsm", "str", "mi_fgsm"),
        ("'8'", "str", "8"),
        ("0.5,1", "list[float]", [0.5, 1.0]),
        ("2", "list[float]", [2.0]),
        ("a, b", "list[str]", ["a", "b"]),
        ("['a', 'b']", "list[str]", ["a", "b"]),
        ("[a,b]", "list[str]", ["a", "b"]),
        ("[]", "list[int]", []),
        ("None", "int | None", None),
        ("3", "int | None", 3),
    ],
)
def test_values(text, kind, value):
    parsed = run.parse_value(text, kind)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("8/255", "float"),
        ("True", "int"),
        ("1", "bool"),
        ("true", "bool"),
        ("8.0", "int"),
        ("8", "str"),
        ("True", "float"),
        ("a,b", "list[float]"),
        ("a,,b", "list[str]"),
        ("", "list[str]"),
        ("None", "int"),
        ("1,2", "int"),
    ],
)
def test_wrong_types(text, kind):
    with pytest.raises(TypeError):
        run.parse_value(text, kind)


def test_parameters_cell(chapter):
    assert chapter.title == "A tiny chapter" and chapter.number == "02"
    assert chapter.parameters["eps_255"] == run.Parameter("eps_255", "float", 8.0, "radius, in 1/255")
    assert chapter.parameters["steps"].help == ""


@pytest.mark.parametrize(
    "line",
    ["eps_255 = 8", "e: float = 8 / 255", "import os", "n: int = 'a'", "x: Path = 1", "n: int = 1  # n=1", "n: int ="],
)
def test_parameters_cell_is_strict(line):
    with pytest.raises(run.UsageError, match="02_x.py"):
        run.parse_parameters(line, "02_x.py")


def test_only_what_differs_is_passed(chapter):
    assert run.settle(chapter, "laptop", "shapes", ["eps_255=8"]) == {}
    assert run.settle(chapter, "smoke", "shapes", ["eps_255=16"]) == {"scale": "smoke", "eps_255": 16.0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("eps_256=8", "chapter 02 has no parameter 'eps_256'; did you mean 'eps_255'? known: scale, dataset, eps_255"),
        ("steps=ten", "parameter 'steps': expected int, got 'ten'"),
        ("steps=True", "parameter 'steps': expected int, got 'True'"),
        ("scale=smoke", "use --scale smoke"),
        ("steps", "expected name=value"),
    ],
)
def test_refused_before_anything_runs(book, capsys, given, message):
    _, advlib, build = book
    assert advlib("run", "02", "-p", given) == 2
    assert message in capsys.readouterr().err
    assert not build.exists()


def test_unknown_chapter(book, capsys):
    _, advlib, _ = book
    assert advlib("run", "2") == 2
    assert "no chapter '2'; did you mean '02'?" in capsys.readouterr().err


def test_order_is_that_of_need(book, tmp_path):
    write, _, _ = book
    for name in ("00_start.py", "A3_speed.py", "A2_guards.py", "A1_zoo.py", "helper.py"):
        write(name, "")
    names = [p.name for p in run.select([], tmp_path / "notebooks")]
    assert names == ["A1_zoo.py", "A2_guards.py", "00_start.py", "02_tiny.py", "A3_speed.py"]


def test_list(book, capsys):
    _, advlib, _ = book
    assert advlib("list") == 0
    out = capsys.readouterr().out
    assert "02  A tiny chapter" in out and "eps_255: float = 8.0  # radius, in 1/255" in out


def test_run_end_to_end(book, capsys):
    _, advlib, build = book
    stale = build / "smoke" / "shapes" / "tables" / "02"
    stale.mkdir(parents=True)
    assert advlib("run", "02", "--scale", "smoke", "-p", "eps_255=16", "-p", "attacks=em", "--fresh") == 0
    assert not stale.exists()
    folder = build / "smoke" / "shapes"
    assert [p.name for p in folder.glob("*.ipynb")] == ["02_tiny.ipynb"]
    notebook = nbformat.read(folder / "02_tiny.ipynb", as_version=4)
    assert notebook.cells[-1].outputs[0].text == "smoke 16.0 ['em']\n"
    assert "papermill" not in str(notebook.metadata) + str([c.metadata for c in notebook.cells])
    out = capsys.readouterr().out
    assert "02  [ 3/3]" in out and "A sum" in out


def test_progress_inside_a_cell_reaches_the_terminal(book, capsys):
    write, cli, _ = book
    write("02_tiny.py", "\n# %%\nfor i in (1, 2):\n    print(f'Table 2.1: {i}/2, {30 * i} s')\nprint('2/2 of else')\n")
    assert cli("run", "02") == 0
    out = capsys.readouterr().out
    assert "02  [ 2/2]    ... Table 2.1: 1/2, 30 s\n" in out
    assert out.count("Table 2.1: 1/2") == out.count("Table 2.1: 2/2") == 1 and "of else" not in out


def test_failing_cell(book, capsys):
    write, advlib, build = book
    write("03_broken.py", "\n# %%\nvalue = 40 + 2\nraise ValueError('the answer is', value)\n")
    assert advlib("run", "03") == 1
    err = capsys.readouterr().err
    assert "value = 40 + 2" in err and "ValueError" in err and "('the answer is', 42)" in err and "\x1b" not in err
    folder = build / "laptop" / "shapes"
    assert [p.name for p in folder.iterdir()] == ["03_broken.partial.ipynb"]


def test_dead_kernel(book, capsys):
    write, advlib, _ = book
    write("03_dying.py", "\n# %%\nimport os\nos._exit(1)\n")
    assert advlib("run", "03") == 1
    err = capsys.readouterr().err
    assert "os._exit(1)" in err and "kernel died" in err


def test_doctor(book, capsys, monkeypatch, tmp_path):
    _, advlib, _ = book
    monkeypatch.setenv("ADVLIB_DATA", str(tmp_path))
    (tmp_path / "cifar10" / "cifar-10-batches-py").mkdir(parents=True)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "manifest.json").write_text('{"cifar10/net.safetensors": {}}', encoding="utf-8")
    assert advlib("doctor") == 0
    out = capsys.readouterr().out
    assert str(tmp_path / "cifar10" / "cifar-10-batches-py") in out
    assert "files missing: cifar10/net.safetensors" in out and "torch" in out
    lacking = {line[:30].strip(): line[30:].strip() for line in out.splitlines() if line.startswith("  smoke")}
    assert lacking["smoke, laptop on shapes"] == "nothing" and "cifar100 files" in lacking["smoke, laptop on cifar100"]
    assert all(f"{nb} --dataset cifar100" in lacking["smoke, laptop on cifar100"] for nb in ("A1", "A2"))


def test_a_chapter_runs_on_the_data_sets_it_names(book, tmp_path, capsys):
    _, advlib, build = book
    source = tmp_path / "notebooks" / "02_tiny.py"
    source.write_text(source.read_text().replace('"shapes"', '"shapes"  # shapes or cifar10'), encoding="utf-8")
    assert advlib("run", "02", "--dataset", "imagenet") == 2
    assert "02 runs on shapes, cifar10, not on imagenet" in capsys.readouterr().err
    assert advlib("run", "--dataset", "imagenet") == 0
    assert "left out" in capsys.readouterr().out and not build.exists()
