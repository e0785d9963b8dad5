"""Tables of many runs as one: rows with parameters, means over seeds, a page; and what is refused."""

import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from advlib.core.intervals import paired_mean
from advlib.files.paths import NOTEBOOKS
from advlib.press import cli, collect

DEFAULTS = 'scale: str = "laptop"\ndataset: str = "shapes"\neps_255: list[float] = []\nseed: int = 0  # at least 0\n'


@pytest.fixture
def left(tmp_path, monkeypatch):
    """Make the folder of a run of chapter 02 as a run leaves it, its one table with these values by target."""
    from advlib.bench.results import ResultTable

    monkeypatch.chdir(tmp_path)

    def made(name, values, injected="", chapter="02", executed=1):
        folder = tmp_path / name
        table = ResultTable(folder / "tables" / chapter / "table_2_1.csv", "2.1", "smoke", "shapes", "cpu", 0, {})
        row = {"source": "resnet", "attack": "<MI>", "eps_255": 8, "metric": "asr", "n": 50}
        table.add([row | {"target": target, "value": value} for target, value in values.items()])
        given = {"parameters": DEFAULTS, "injected-parameters": f'# Parameters\nscale = "smoke"\n{injected}'}
        cells = [
            nbformat.v4.new_code_cell(code, execution_count=executed, metadata={"tags": [tag]})
            for tag, code in given.items()
        ]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{chapter}_tiny.ipynb")
        return folder

    return made


def collected(*argv):
    return cli.main(["collect", *argv])


def lines_of(page):
    """The cells of each line of the table of a page."""
    text = Path(page).read_text(encoding="utf-8")
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", line) for line in re.findall(r"<tr.*?</tr>", text, re.DOTALL)]


def test_rows_have_their_run_and_what_differs(left, tmp_path):
    left("a", {"vgg": 40.0, "dense": 10.0}, "seed = 1\n")
    left("b", {"vgg": 42.0, "dense": 13.0}, "eps_255 = [4.0, 8.5]\n")
    assert collected("a", "b", "--out", "all.csv") == 0
    rows = pd.read_csv("all.csv", dtype={"chapter": str, "table": str}, keep_default_na=False)
    assert list(rows.columns[:6]) == ["run", "chapter", "file", "p_eps_255", "p_seed", "table"]
    assert rows.run.tolist() == ["a", "a", "b", "b"] and rows.p_seed.tolist() == [1, 1, 0, 0]
    assert rows.p_eps_255.tolist() == ["", "", "4,8.5", "4,8.5"] and set(rows.eps_255) == {8.0}
    assert set(zip(rows.chapter, rows.file, rows.scale, rows.n, strict=True)) == {("02", "table_2_1", "smoke", 50)}
    assert rows.value.tolist() == [40.0, 10.0, 42.0, 13.0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "all.csv", "all.html", "all.mean.csv", "b"]


def test_means_are_over_runs_that_differ_in_the_seed_alone(left):
    values = {(4, 0): 10.0, (4, 1): 14.0, (4, 2): 12.0, (8, 0): 50.0, (8, 1): 51.0, (8, 2): 90.0, (16, 0): 70.0}
    for (eps, seed), value in values.items():
        left(f"eps={eps},seed={seed}", {"vgg": value}, f"eps_255 = [{eps}.0]\nseed = {seed}\n")
    assert collected("eps=*,seed=*", "eps=4,seed=0", "--out", "all.csv") == 0  # one that is named twice counts once
    means = pd.read_csv("all.mean.csv").set_index("p_eps_255")
    assert "p_seed" not in means and means.n_runs.to_dict() == {4: 3, 8: 3, 16: 1} and set(means.n) == {50}
    for eps in (4, 8):
        expected = paired_mean([value for (own, _), value in values.items() if own == eps])
        assert tuple(means.loc[eps, ["value", "ci_low", "ci_high"]]) == pytest.approx(expected)
    assert means.value[4] == 12.0 and means.ci_high[4] == pytest.approx(12 + 4.3027 * 2 / 3**0.5, abs=1e-3)
    assert means.value[16] == 70.0 and pd.isna(means.ci_low[16])
    assert collected("eps=*", "--out", "all.csv", "--over", "eps_255") == 0
    assert pd.read_csv("all.mean.csv").set_index("p_seed").n_runs.to_dict() == {0: 3, 1: 2, 2: 2}


def test_numbers_that_are_about_no_budget_have_means_too(left):
    for seed in (0, 1):
        path = left(f"s{seed}", {"vgg": 40.0 + seed}, f"seed = {seed}\n") / "tables" / "02" / "table_2_1.csv"
        path.write_text(path.read_text().replace("vgg,8.0,", "vgg,,"))
    assert collected("s0", "s1", "--out", "all.csv") == 0
    assert pd.read_csv("all.mean.csv").n_runs.tolist() == [2]
    assert lines_of("all.html")[1:] == [
        ["02", "table_2_1", "resnet", "&lt;MI&gt;", "vgg", "", "asr", "50", "40.0", "41.0"]
    ]


def test_without_a_difference_there_is_no_mean_and_an_old_one_goes(left, tmp_path, capsys):
    left("a", {"vgg": 40.0})
    (tmp_path / "all.mean.csv").write_text("of other runs")
    assert collected("a", "--out", "all.csv") == 0
    assert not (tmp_path / "all.mean.csv").exists() and capsys.readouterr().out == "all.csv\nall.html\n"


def test_the_page_puts_runs_side_by_side(left, tmp_path):
    left("a", {"vgg": 40.04, "dense": 10.0}, "seed = 1\n")
    left("b", {"vgg": 42.06}, "seed = 2\n")
    assert collected("a", "b", "--out", "all.csv") == 0
    head, *lines = lines_of("all.html")
    assert head == [*collect.CELL, "n", "seed=1", "seed=2"]
    assert [[line[4], *line[5:]] for line in lines] == [
        ["vgg", "8", "asr", "50", "40.0", "42.1"],
        ["dense", "8", "asr", "50", "10.0", ""],
    ]
    text = (tmp_path / "all.html").read_text(encoding="utf-8")
    assert "smoke scale, shapes" in text and "<MI>" not in text and "&lt;MI&gt;" in text
    assert not any(word in text for word in ("<script", "http", "src=", "href="))


def test_chapters_of_one_folder_keep_apart(left):
    for seed in (0, 1):
        for chapter in ("02", "03"):
            left(f"s{seed}", {"vgg": 10.0 * seed + int(chapter)}, f"seed = {seed}\n", chapter=chapter)
    assert collected("s0", "s1", "--out", "all.csv") == 0
    means = pd.read_csv("all.mean.csv", dtype={"chapter": str})
    assert dict(zip(means.chapter, means.value, strict=True)) == {"02": 7.0, "03": 8.0}
    assert collected("s0", "s1", "--out", "all.csv", "--chapter", "03") == 0
    assert set(pd.read_csv("all.csv", dtype={"chapter": str}).chapter) == {"03"}


def test_tables_that_were_set_aside_are_left_out(left):
    folder = left("a", {"vgg": 40.0}) / "tables" / "02"
    (folder / "table_2_1.old.csv").write_bytes((folder / "table_2_1.csv").read_bytes())
    assert len(collect.sources(folder.parents[1])[0].tables) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: (a / "02_tiny.ipynb").unlink(), "0 executed notebooks of chapter 02"),
        (lambda a: (a / "02_tiny.partial.ipynb").touch(), "is not finished"),
        (lambda a: (a / "02_tiny.ipynb").write_text("{"), "is not finished"),
        (lambda a: (a / "tables" / "02" / "table_2_1.csv").unlink(), "holds no table"),
        (lambda a: (a / "tables" / "02" / "b.csv").write_text("what,ratio\nx,1\n"), "columns ratio, what"),
        (lambda a: nbformat.write(nbformat.v4.new_notebook(), a / "02_tiny.ipynb"), "no cell tagged parameters"),
        (lambda a: a.rename(a.with_name("c")), "a: no such folder"),
    ],
)
def test_what_is_no_run_is_refused(left, tmp_path, capsys, change, message):
    change(left("a", {"vgg": 40.0}, "seed = 1\n"))
    left("b", {"vgg": 42.0})
    assert collected("a", "b", "--out", "all.csv") == 2
    assert message in capsys.readouterr().err and not list(tmp_path.glob("all*"))


def test_other_slips_are_refused(left, capsys):
    left("a", {"vgg": 40.0}, "seed = 1\n")
    left("b", {"vgg": 42.0}, "seed = 1\n")
    left("c", {"vgg": 42.0}, "seed = 2\n")
    for argv, message in (
        (("a", "b"), "a and b: chapter 02 with the same parameters"),
        (("a", "c", "--over", "sed"), "do not differ in it; did you mean 'seed'?"),
        (("a", "c", "--chapter", "03"), "holds no table of chapter 03"),
        (("a", "none*"), "none*: no such folder"),
    ):
        assert collected(*argv, "--out", "all.csv") == 2 and message in capsys.readouterr().err
    assert collected("a", "c", "--out", "all") == 2 and "ends in .csv" in capsys.readouterr().err


def test_a_table_that_is_cut_is_damaged(left, capsys):
    path = left("a", {"vgg": 40.0}) / "tables" / "02" / "table_2_1.csv"
    path.write_text(path.read_text()[:-5])
    assert collected("a", "--out", "all.csv") == 1 and "truncated or damaged" in capsys.readouterr().err


def test_parameters_of_a_committed_chapter_are_read():
    """As papermill leaves them, defaults and all; not through what the tests write themselves."""
    values = collect.parameters(NOTEBOOKS, "03")
    assert values["eps_255"] == "4,8,16" and values["scale"] == "laptop" and values["bfloat16"] == "False"
