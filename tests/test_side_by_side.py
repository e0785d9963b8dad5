"""Chapters at the same time: how many, in which order, and what becomes of one that fails."""

import json
import os
import time

import pytest

from advlib.press import cli, run, side_by_side
from advlib.press.minutes import Taken, Wait, outlook

CODE = """
import json, os, pathlib, sys, time
folder, number, fails = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
start = time.time()
print(number, "begins", flush=True)
time.sleep(0 if fails else 0.6)  # so that it is not in doubt which ends first
print(number, "ends", flush=True)
(folder / number).write_text(json.dumps([start, time.time(), os.environ["OMP_NUM_THREADS"]]))
sys.exit(fails)
"""


@pytest.fixture
def race(tmp_path, monkeypatch):
    """Run some chapters, and tell when each began and ended and how many threads it had; whether all ended well."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def raced(*numbers, at_once, failing=(), first=()):
        commands = {n: ["-c", CODE, str(tmp_path), n, str(int(n in failing))] for n in numbers}
        well = side_by_side.run(commands, at_once, first)
        return {n: json.loads((tmp_path / n).read_text()) for n in numbers if (tmp_path / n).exists()}, well

    return raced


def most_at_a_time(times):
    return max(sum(a <= start < b for a, b, _ in times.values()) for start, _, _ in times.values())


def test_so_many_run_at_a_time_and_share_the_processor(race, capfd):
    times, well = race("00", "01", "02", "03", at_once=2)
    assert well and list(times) == ["00", "01", "02", "03"] and most_at_a_time(times) == 2
    assert {own for *_, own in times.values()} == {str(max(1, os.cpu_count() // 2))}
    lines = capfd.readouterr().out.splitlines()
    assert sorted(lines) == sorted(f"{n} {what}" for n in times for what in ("begins", "ends"))


def test_those_that_train_come_first_and_one_by_one(race):
    times, _ = race("00", "A1", "A2", "01", at_once=4, first={"A1", "A2"})
    assert times["A1"][1] <= times["A2"][0] and times["A2"][1] <= min(times["00"][0], times["01"][0])
    assert times["A1"][2] == str(os.cpu_count())


@pytest.mark.parametrize(("failing", "never"), [("00", {"02", "03"}), ("A1", {"00", "01"})])
def test_after_one_that_fails_none_is_started(race, failing, never):
    times, well = race("A1", "00", "01", "02", "03", at_once=2, failing=(failing,), first=("A1",))
    assert not well and not never & set(times)


def test_threads_that_the_user_asks_for_are_left(race, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    times, _ = race("00", at_once=2)
    assert times["00"][2] == "7"


def test_a_signal_ends_them_all(tmp_path, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(side_by_side, "wait", interrupted)
    started = time.time()
    with pytest.raises(KeyboardInterrupt):
        side_by_side.run({n: ["-c", "import time; time.sleep(60)"] for n in ("00", "01")}, 2)
    assert time.time() - started < 30


def test_none_takes_longer_than_all():
    waits = [Wait("00", 60.0, False), Wait("01", 600.0, False), Wait("02", 540.0, False)]
    assert (outlook(waits), outlook(waits, 2), outlook(waits, 3)) == ("about 20 min", "about 10 min", "about 10 min")


def test_the_longest_is_begun_first_with_what_was_asked_for(tmp_path, monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr(side_by_side, "run", lambda commands, at_once, first: asked.update(commands) or not first)
    took = [Taken(n, "smoke", "shapes", s, 1, 1, "", "") for n, s in (("00", 10.0), ("01", 30.0))]
    monkeypatch.setattr(run.minutes, "known", lambda notebooks: {row[:3]: row for row in took})
    out = tmp_path / "out"
    assert cli.main(["run", "00", "01", "--scale", "smoke", "--out", str(out), "--fresh", "--at-once", "2"]) == 0
    assert list(asked) == ["01", "00"]
    assert asked["00"] == [
        "-m",
        "advlib",
        "run",
        "00",
        "--scale",
        "smoke",
        "--dataset",
        "shapes",
        "--out",
        str(out),
        "--fresh",
    ]
    assert capsys.readouterr().out.startswith("2 chapters (smoke, shapes), 2 at a time, on this machine about ")


def test_fewer_than_one_at_a_time_is_refused(capsys):
    assert cli.main(["run", "00", "--at-once", "0"]) == 2
    assert "--at-once 0" in capsys.readouterr().err


def test_chapters_that_have_weights_to_train_are_told_apart(monkeypatch):
    assert run.trainers("shapes") == set()
    monkeypatch.setattr("advlib.zoo.weights.manifest", lambda: {})
    assert {"A1", "A2"} <= run.trainers("shapes")


def test_who_hears_of_each_that_ended_sees_the_others_started_after_one_that_failed():
    commands = {n: ["-c", f"print({n!r}); raise SystemExit({int(n == 'A1')})"] for n in ("A1", "00", "01")}
    ended = {}
    well = side_by_side.run(commands, 1, ("A1",), lambda name, code, lines: ended.update({name: (code, lines)}))
    assert not well and ended == {"A1": (1, ["A1\n"]), "00": (0, ["00\n"]), "01": (0, ["01\n"])}
