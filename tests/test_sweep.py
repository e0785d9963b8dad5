"""Sweeps: which runs they are, what is refused before any starts, what becomes of those that fail."""

import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from test_run import HEADER, PARAMETERS

from advlib.bench.chapters import UsageError, run_folder
from advlib.files.paths import ROOT
from advlib.press import cli, run, side_by_side, sweep

RUN = """
import pathlib, sys
notebooks, build, *argv = sys.argv[1:]
from advlib.press import cli
sys.exit(cli.main(argv, pathlib.Path(notebooks), pathlib.Path(build)))
"""
"""The command line on folders of its own, in another process."""
QUICK = """
import pathlib, sys
folder, fails = pathlib.Path(sys.argv[1]), sys.argv[2]
folder.mkdir(parents=True, exist_ok=True)
with (folder / "log").open("a") as log:
    log.write(" ".join(sys.argv[3:]) + "\\n")
print("at work")
if fails in folder.name:
    print("ValueError: no such luck\\nValueError: at last: really\\nof two lines\\n\\nexecuted so far: x")
    sys.exit(1)
notebook = '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
(folder / "02_tiny.ipynb").write_text(notebook)
"""


@pytest.fixture
def book(tmp_path, monkeypatch):
    """The command line on a folder with one chapter, whose runs take no kernel: they write what they were told, and
    fail where their folder's name has `fails` in it."""
    notebooks, build = tmp_path / "notebooks", tmp_path / "build"
    notebooks.mkdir()
    (notebooks / "02_tiny.py").write_text(HEADER + PARAMETERS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    command = run.Job.command

    def advlib(*argv, fails="nothing"):
        quick = lambda job, given: ["-c", QUICK, str(job.kept.folder), fails, *command(job, given)]  # noqa: E731
        monkeypatch.setattr(run.Job, "command", quick)
        return cli.main(["sweep", "02", "--scale", "smoke", *argv], notebooks, build)

    return advlib, build / "smoke"


@pytest.fixture
def chapter(book, tmp_path):
    return run.read_chapter(tmp_path / "notebooks" / "02_tiny.py")


# --- which runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        ("0..3", "int", ["0", "1", "2", "3"]),
        ("-1..0, 5", "int | None", ["-1", "0", "5"]),
        ("4,8.5", "float", ["4", "8.5"]),
        ("4;8", "float", ["4", "8"]),
        ("4..5", "float", ["4", "5"]),
        ("7", "int", ["7"]),
        ("resnet, vgg", "str", ["resnet", "vgg"]),
        ("1..2", "str", ["1..2"]),
        ("../a", "str", ["../a"]),
        ("4,8", "list[float]", ["4,8"]),
        ("4,8; 16", "list[float]", ["4,8", "16"]),
        ("0..3", "list[int]", ["0..3"]),
    ],
)
def test_values(text, kind, values):
    assert sweep.alternatives(text, kind) == values


@pytest.mark.parametrize("text", ["3..0", "0..10000"])
def test_ranges_that_are_a_slip(text):
    with pytest.raises(UsageError, match="first..last"):
        sweep.alternatives(text, "int")


def test_the_product_of_all(chapter):
    found = sweep.combinations(chapter, ["seed=0..1", "sigmas=1,2;3", "steps=5"])
    pairs = [(seed, sigmas) for seed in "01" for sigmas in ("1,2", "3")]
    assert found == [[f"seed={seed}", f"sigmas={sigmas}", "steps=5"] for seed, sigmas in pairs]
    assert sweep.combinations(chapter, []) == [[]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["sed=0..7"], "chapter 02 has no parameter 'sed'; did you mean 'seed'?"),
        (["seed=0..2,x"], "parameter 'seed': expected int | None, got 'x'"),
        (["steps=3,0"], "parameter 'steps': expected int, at least 1, got 0"),
        (["sigmas=0..3"], "parameter 'sigmas': expected list[float], got '0..3'"),
        (["scale=smoke,laptop"], "-p scale=smoke,laptop: use --scale smoke,laptop"),
        (["steps"], "-p steps: expected name=value"),
        (["seed=0", "seed=1"], "seed is given twice"),
        (["seed=0..2,1", "steps=3"], "seed=1 steps=3 and seed=1 steps=3 are one run"),
        (["eps_255=8,8.0"], "eps_255=8 and eps_255=8.0 are one run"),
        (["seed=0..199", "steps=1..99"], "19,800 runs: expected at most 10,000"),
    ],
)
def test_all_is_refused_before_anything_starts(book, capsys, given, message):
    advlib, build = book
    assert advlib(*(part for item in given for part in ("-p", item))) == 2
    assert message in capsys.readouterr().err and not build.exists()


def test_a_folder_that_is_named_for_all_is_refused(book, capsys, monkeypatch):
    advlib, _ = book
    monkeypatch.setenv("ADVLIB_RUN", "mine")
    assert advlib("-p", "seed=0..1") == 2
    assert "are one run" in (said := capsys.readouterr().err) and "$ADVLIB_RUN" in said


def test_the_data_set_is_checked(book, tmp_path, capsys):
    advlib, _ = book
    source = tmp_path / "notebooks" / "02_tiny.py"
    source.write_text(source.read_text().replace('"shapes"', '"shapes"  # one of shapes or cifar10'), encoding="utf-8")
    assert advlib("-p", "seed=0..1", "--dataset", "imagenet") == 2
    assert "02 runs on shapes, cifar10, not on imagenet" in capsys.readouterr().err


# --- what is done with them ------------------------------------------------------------------------------------------


def test_a_dry_run_lists_and_starts_nothing(book, capsys):
    advlib, build = book
    for seed in (1, 2):
        (build / f"shapes,eps_255=4,seed={seed}" / "tables" / "02").mkdir(parents=True)
    (build / "shapes,eps_255=4,seed=2" / "tables" / "02" / "a.csv").touch()
    (build / "shapes,eps_255=4,seed=3").mkdir()
    assert advlib("-p", "seed=3", "-p", "eps_255=4") == 0
    capsys.readouterr()
    assert advlib("-p", "seed=1..3", "-p", "eps_255=4", "--dry-run") == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "02  A tiny chapter (smoke, shapes): 3 runs, 1 of them done"
    shown = [("seed=1", "not begun"), ("seed=2", "begun"), ("seed=3", "done")]
    assert [line.split(maxsplit=2) for line in lines] == [
        [str(k), what, f"{state:<9}  build/smoke/shapes,eps_255=4,{what}"] for k, (what, state) in enumerate(shown, 1)
    ]
    assert not (build / "shapes,eps_255=4,seed=1" / "log").exists()


@pytest.mark.parametrize("at_once", ["1", "2"])
def test_one_that_fails_stops_none_and_the_next_call_runs_it_alone(book, capsys, at_once):
    advlib, build = book
    assert advlib("-p", "seed=0..3", "-p", "sigmas=1,2", "--at-once", at_once, fails="seed=1") == 1
    out = capsys.readouterr().out
    assert "\n3 done, 1 failed\n" in out and out.count("4/4: at work") == 1
    failed = [line.split(maxsplit=2) for line in out.splitlines() if line.startswith("  failed")]
    assert failed == [["failed", "build/smoke/shapes,seed=1,sigmas=1+2", "ValueError: at last: really"]]
    assert sum(line.startswith("  done ") for line in out.splitlines()) == 3
    assert advlib("-p", "seed=0..3", "-p", "sigmas=1,2") == 0
    out = capsys.readouterr().out
    assert "4 runs, 3 of them done" in out and "\n4 done, 0 failed\n" in out
    assert advlib("-p", "seed=0..3", "-p", "sigmas=1,2") == 0
    logs = {seed: (build / f"shapes,seed={seed},sigmas=1+2" / "log").read_text().splitlines() for seed in range(4)}
    assert {seed: len(log) for seed, log in logs.items()} == {0: 1, 1: 2, 2: 1, 3: 1}
    folder = run_folder("smoke", "shapes", {"seed": 2, "sigmas": [1.0, 2.0]}, build.parent)
    expected = f"-m advlib run 02 --scale smoke --dataset shapes --out {folder} -p seed=2 -p sigmas=1,2"
    assert logs[2] == [expected]


def test_fresh_begins_anew_what_is_done(book):
    advlib, build = book
    assert advlib("-p", "seed=0..1") == advlib("-p", "seed=0..1", "--fresh") == 0
    first, again = (build / "shapes,seed=1" / "log").read_text().splitlines()
    assert "--fresh" not in first and again.endswith(" --fresh")


def test_a_notebook_that_is_not_whole_is_not_done(book, chapter, tmp_path):
    cell = nbformat.v4.new_code_cell("print(1)", execution_count=1)
    path = tmp_path / "02_tiny.ipynb"
    job = run.planned(chapter, "smoke", "shapes", [], False, tmp_path, out=tmp_path)
    assert not job.done and not job.begun
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    assert job.done
    (tmp_path / "02_tiny.partial.ipynb").touch()
    assert not job.done and job.begun
    (tmp_path / "02_tiny.partial.ipynb").unlink()
    nbformat.write(nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell("print(2)")]), path)
    assert not job.done
    cell.outputs = [nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    assert not job.done
    path.write_text(path.read_text()[:-20])
    assert not job.done


@pytest.mark.parametrize(
    ("code", "printed", "said"),
    [
        (2, ["x\n", "advlib: busy: wait\n"], "advlib: busy: wait"),
        (1, ["The kernel died in this cell; most often memory ran out.\n", "\n", "executed so far: y\n"], "The kernel"),
        (-9, ["02  [ 3/3]\n"], "ended by SIGKILL"),
        (3, [], "exit code 3"),
    ],
)
def test_the_error_in_one_line(code, printed, said):
    assert sweep.first_line(code, printed).startswith(said)


def test_the_first_trains_alone_what_all_load(book, monkeypatch):
    advlib, _ = book
    asked = []
    monkeypatch.setattr(run, "trainers", lambda dataset: {"02"})
    monkeypatch.setattr(side_by_side, "run", lambda commands, at_once, first, heard: asked.extend(first) or True)
    assert advlib("-p", "seed=0..2", "--at-once", "3") == 0
    assert asked == ["1/3"]


# --- with kernels ----------------------------------------------------------------------------------------------------


def test_a_sweep_end_to_end(tmp_path, monkeypatch, capsys):
    notebooks, build = tmp_path / "notebooks", tmp_path / "build"
    notebooks.mkdir()
    cell = "\n# %%\nif steps == 2:\n    raise ValueError('two\\nis no number')\nprint(seed, steps)\n"
    (notebooks / "02_tiny.py").write_text(HEADER + PARAMETERS + cell, encoding="utf-8")
    command = run.Job.command
    inside = lambda job, given: ["-c", RUN, str(notebooks), str(build), *command(job, given)[2:]]  # noqa: E731
    monkeypatch.setattr(run.Job, "command", inside)
    assert cli.main(["sweep", "02", "-p", "steps=1..2", "--at-once", "2"], notebooks, build) == 1
    out = capsys.readouterr().out
    assert "ValueError: two\n" in out.partition("1 done, 1 failed")[2]
    assert "2/2: chapter 02 failed in this cell:\n" in out
    done = nbformat.read(build / "laptop" / "shapes,steps=1" / "02_tiny.ipynb", as_version=4)
    assert done.cells[-1].outputs[0].text == "None 1\n"


def test_a_signal_ends_a_sweep_and_its_runs(tmp_path):
    notebooks, alive = tmp_path / "notebooks", tmp_path / "alive"
    notebooks.mkdir()
    (notebooks / "02_tiny.py").write_text(HEADER + PARAMETERS, encoding="utf-8")
    script = f"""
import os, pathlib, sys
from advlib.press import cli, run
wait = "import os, time; open({str(alive)!r}, 'w').write(f'{{os.getpid()}} '); time.sleep(600)"
run.Job.command = lambda job, given: ["-c", wait]
sys.exit(cli.main(["sweep", "02", "-p", "seed=0..1"], pathlib.Path({str(notebooks)!r}), pathlib.Path("build")))
"""
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        limit = time.monotonic() + 60
        while not (alive.exists() and alive.read_text().endswith(" ")):
            assert time.monotonic() < limit
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        message = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "the same command resumes" in message
    with pytest.raises(ProcessLookupError):
        os.kill(int(alive.read_text()), 0)
