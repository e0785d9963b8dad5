"""How long a run will take: said before it starts, by a clock of our own, and kept when it is done."""

from types import SimpleNamespace

import papermill
import pytest
import torch
from papermill.exceptions import PapermillExecutionError

from advlib.bench import chapters
from advlib.bench.outcomes import DamagedError
from advlib.files.paths import NOTEBOOKS
from advlib.press import cli, minutes, run, yardstick
from advlib.press.minutes import Taken, Wait

SOURCE = """\
# %% [markdown]
# # A tiny chapter

# %% tags=["parameters"]
scale: str = "laptop"
dataset: str = "shapes"  # one of shapes or cifar10
steps: int = 10
"""
HERE = yardstick.Yardstick(0.05, 2, "2.14", "abc")


@pytest.fixture
def machine(tmp_path, monkeypatch, clock):
    """A machine on which chapter 01 takes a minute and 02 two, `slower` times as long, and so does its yardstick."""
    notebooks, build = tmp_path / "notebooks", tmp_path / "build"
    notebooks.mkdir()
    for number in ("01", "02"):
        (notebooks / f"{number}_tiny.py").write_text(SOURCE, encoding="utf-8")

    def executed(notebook, *_, **__):
        here.did.append("run")
        clock.now += 60 * here.slower * int(notebook.cells[0].id[:2])
        if here.fails:
            raise PapermillExecutionError(0, 0, "a cell", "Error", "no", [])
        return notebook

    def measured(threads=None):
        here.did.append("yardstick")
        return None if here.gpu else HERE._replace(seconds=HERE.seconds * here.slower)

    monkeypatch.setattr(papermill, "execute_notebook", executed)
    monkeypatch.setattr(yardstick, "measured", measured)
    monkeypatch.setattr(run, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    here = SimpleNamespace(
        slower=1, fails=False, gpu=False, did=[], notebooks=notebooks, folder=build / "laptop/shapes"
    )
    here.advlib = lambda *argv: cli.main(argv, notebooks, build)
    return here


def records(machine):
    return [row for path in sorted(machine.folder.glob("*.seconds.csv")) for row in minutes.read(path)]


# --- a run -----------------------------------------------------------------------------------------------------------


def test_a_first_run_knows_no_time_and_keeps_what_it_took(machine, capsys):
    assert machine.advlib("run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 chapters (laptop, shapes), on this machine no time is known"
    assert lines[1] == "01  A tiny chapter (laptop, shapes), no time is known"
    assert lines[2].endswith("01_tiny.ipynb, 60 s; 1 to go, no time is known")
    assert lines[4].endswith("02_tiny.ipynb, 2 min")
    assert records(machine) == [Taken(n, "laptop", "shapes", 60.0 * int(n), *HERE) for n in ("01", "02")]
    assert machine.did == ["run", "yardstick"] * 2  # what is not used is not measured


@pytest.mark.parametrize("slower", [1, 2, 30])
def test_the_estimate_of_a_slower_machine_is_as_much_longer(machine, capsys, slower):
    assert machine.advlib("run") == machine.advlib("seconds", "--run", "laptop/shapes") == 0
    assert capsys.readouterr().out.endswith("seconds.csv: 01, 02\n")
    machine.slower = slower
    assert machine.advlib("run", "--fresh") == 0
    lines = capsys.readouterr().out.splitlines()
    one, two, both = (minutes.said(60 * n * slower) for n in (1, 2, 3))
    assert lines[0] == f"2 chapters (laptop, shapes), on this machine about {both}"
    assert lines[1] == f"01  A tiny chapter (laptop, shapes), about {one}"
    assert lines[2].endswith(f"01_tiny.ipynb, {one}; 1 to go, about {two}") and lines[4].endswith(f".ipynb, {two}")
    assert records(machine)[1].seconds == 120 * slower and records(machine)[1].yardstick == 0.05 * slower


def test_a_machine_that_becomes_slower_on_the_way_has_more_to_go(machine, capsys):
    assert machine.advlib("run") == machine.advlib("seconds", "--run", "laptop/shapes") == 0
    paces = iter([1, 3, 3])
    machine.did = SimpleNamespace(
        append=lambda what: setattr(machine, "slower", next(paces)) if what != "run" else None
    )
    capsys.readouterr()
    assert machine.advlib("run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("about 3 min") and lines[2].endswith("1 to go, about 6 min")


def test_what_a_resumed_run_takes_is_not_kept(machine, capsys):
    assert machine.advlib("run") == machine.advlib("seconds", "--run", "laptop/shapes") == 0
    kept = records(machine)
    for begun in ("tables", "checkpoints"):
        (machine.folder / begun / "02").mkdir(parents=True)
        (machine.folder / begun / "02" / "begun").touch()
        machine.slower = 7
        capsys.readouterr()
        assert machine.advlib("run", "02") == 0
        assert "02  A tiny chapter (laptop, shapes), at most about 14 min\n" in capsys.readouterr().out
        assert records(machine) == kept
        assert machine.advlib("run", "02", "--fresh") == 0
        assert "(laptop, shapes), about 14 min\n" in capsys.readouterr().out
        kept = records(machine)
        assert kept[1].seconds == 120 * 7


def test_of_other_conditions_nothing_is_known_and_of_other_parameters_nothing_is_kept(machine, capsys):
    assert machine.advlib("run") == machine.advlib("seconds", "--run", "laptop/shapes") == 0
    capsys.readouterr()
    assert machine.advlib("run", "02", "-p", "steps=3") == 0
    assert machine.advlib("run", "02", "--scale", "smoke") == machine.advlib("run", "02", "--dataset", "cifar10") == 0
    assert capsys.readouterr().out.count(", no time is known\n") == 3
    kept = sorted(p.parent.relative_to(machine.folder.parents[1]).as_posix() for p in all_records(machine))
    assert kept == ["laptop/cifar10", "laptop/shapes", "laptop/shapes", "smoke/shapes"]


def all_records(machine):
    return machine.folder.parents[1].rglob("*.seconds.csv")


def test_the_default_that_is_given_is_the_default(machine, capsys):
    assert machine.advlib("run", "02", "-p", "steps=10") == machine.advlib("seconds", "--run", "laptop/shapes") == 0
    assert machine.advlib("run", "02") == 0
    assert "(laptop, shapes), about 2 min\n" in capsys.readouterr().out


def test_a_chapter_without_a_time_is_named(machine, capsys):
    assert machine.advlib("run", "02") == machine.advlib("seconds", "--run", "laptop/shapes") == 0
    assert machine.advlib("run") == 0
    assert "about 2 min without 01, of which no time is known\n" in capsys.readouterr().out


def test_a_run_that_fails_keeps_no_time_and_one_before_it_has_none_any_more(machine, capsys):
    assert machine.advlib("run", "02") == 0
    machine.fails, machine.did = True, []
    assert machine.advlib("run", "02", "--fresh") == 1
    assert records(machine) == [] and machine.did == ["run"]
    assert machine.advlib("seconds", "--run", "laptop/shapes") == 0
    assert "nothing new" in capsys.readouterr().out and not (machine.notebooks / "seconds.csv").exists()


def test_on_a_gpu_nothing_is_known_and_nothing_kept(machine, capsys):
    assert machine.advlib("run", "02") == machine.advlib("seconds", "--run", "laptop/shapes") == 0
    machine.gpu = True
    capsys.readouterr()
    assert machine.advlib("run", "02", "--fresh") == 0
    assert "(laptop, shapes), no time is known\n" in capsys.readouterr().out and records(machine) == []


@pytest.mark.parametrize("words", [["02", "-p", "steps=ten"], ["--dataset", "imagenet"], ["03"]])
def test_nothing_is_measured_where_nothing_runs(machine, words):
    assert machine.advlib("run", "02") == machine.advlib("seconds", "--run", "laptop/shapes") == 0
    machine.did = []
    machine.advlib("run", *words)
    assert machine.did == []


# --- the table -------------------------------------------------------------------------------------------------------

ROW = Taken("02", "laptop", "shapes", 812.3, 0.0312, 2, "2.14.1", "5bab9d4")


def test_newer_rows_take_the_place_of_older_ones_and_others_stay(tmp_path):
    folder, table = tmp_path / "run", tmp_path / "seconds.csv"
    folder.mkdir()
    other, newer = ROW._replace(scale="smoke"), ROW._replace(seconds=99.0)
    minutes.write(table, [ROW, other])
    assert minutes.keep(folder, tmp_path) == [] and minutes.read(table) == [ROW, other]
    minutes.write(minutes.beside(folder / "02_tiny.ipynb"), [newer])
    assert minutes.keep(folder, tmp_path) == [newer] and minutes.read(table) == [newer, other]


def test_a_table_that_is_damaged_is_named(machine, capsys):
    table = machine.notebooks / "seconds.csv"
    for text in (
        "",
        "a,b\n",
        ",".join(Taken._fields) + "\n02,laptop\n",
        ",".join(Taken._fields) + "\n" + "x," * 7 + "x",
    ):
        table.write_text(text)
        with pytest.raises(DamagedError, match="seconds.csv is truncated or damaged"):
            minutes.known(machine.notebooks)
    assert machine.advlib("run") == 1 and machine.did == [] and "restore or delete it" in capsys.readouterr().err


def test_the_committed_table_names_chapters_that_there_are(tmp_path):
    sources = {chapters.number(path): run.read_chapter(path) for path in chapters.sources(NOTEBOOKS)}
    rows = minutes.read(NOTEBOOKS / minutes.NAME)
    assert rows and len({row[:3] for row in rows}) == len(rows)
    for row in rows:
        assert row.scale in chapters.SCALES and row.dataset in sources[row.chapter].datasets
        assert row.seconds > 0 and row.yardstick > 0 and row.threads > 0 and row.torch and row.commit
    minutes.write(tmp_path / "again.csv", rows)
    assert (tmp_path / "again.csv").read_bytes() == (NOTEBOOKS / minutes.NAME).read_bytes()


# --- in words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (41.4, "41 s"), (89.9, "90 s"), (90, "2 min"), (5369, "89 min"), (5370, "1 h 30 min")],
)
def test_said(seconds, text):
    assert minutes.said(seconds) == text


def test_outlook_is_the_sum_of_what_is_known():
    known, more, resumed = Wait("01", 60.0, False), Wait("02", 120.0, False), Wait("02", 120.0, True)
    unknown = Wait("A3", None, True)
    assert minutes.outlook([known, more]) == "about 3 min"
    assert minutes.outlook([known, resumed]) == "at most about 3 min"
    assert minutes.outlook([known, unknown, more]) == "about 3 min without A3, of which no time is known"
    assert minutes.outlook([unknown]) == minutes.outlook([]) == "no time is known"


# --- the yardstick ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "calls"), [(0.03125, 17), (0.25, 3), (0.5, 2), (20.0, 2)])
def test_a_yardstick_is_the_time_of_one_piece_and_takes_no_longer_than_it_has_to(clock, seconds, calls):
    assert yardstick.repeated(clock.work("piece", seconds), lambda: clock.now) == seconds
    assert len(clock.log) == calls


def test_a_first_call_that_prepares_something_is_not_counted(clock):
    first = iter([3.0])
    assert yardstick.repeated(lambda: clock.work("piece", next(first, 0.25))(), lambda: clock.now) == 0.25


def test_the_yardstick_leaves_the_random_numbers_alone_and_is_none_on_a_gpu(monkeypatch):
    before = torch.random.get_rng_state()
    found = yardstick.measured()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert found is None or (found.seconds > 0 and found.threads == torch.get_num_threads())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert yardstick.measured() is None
