"""Published tables against the print, result files that survive a kill, intervals against worked examples."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, ttest_1samp
from test_locks import HOLD

import advlib
from advlib.bench import results
from advlib.bench.chapters import conditions
from advlib.core import intervals, published
from advlib.files import provenance
from advlib.files.locks import BusyError
from advlib.files.paths import ROOT

MEMBERS = {"Inc-v3", "Inc-v4", "IncRes-v2", "Res-101"}
TARGETS = MEMBERS | {"Inc-v3ens3", "Inc-v3ens4", "IncRes-v2ens1"}
DEFENCES = {"HGD", "R&P", "NIPS-r3", "Bit-Red", "JPEG", "FD", "ComDefend", "RS", "NRP", "Average"}
ELEVEN = {"ResNet50", "VGG19", "ResNet152", "Inc-v3", "DenseNet", "MobileNet", "SENet", "ResNeXt", "WRN", "PNASNet"}
ELEVEN |= {"MNASNet", "Average"}
SECURED = {"Inc-v3ens3", "Inc-v3ens4", "IncRes-v2ens1", "JPEG", "R&P", "NRP"}
SMALL = {"DenseNet", "VGG19", "ResNet18", "WRN", "ResNeXt", "PyramidNet", "Average"}
NAMED = {"2.5": DEFENCES, "3.1": ELEVEN, "3.2": ELEVEN, "3.3": SECURED}
NAMED |= {"4.1": SMALL, "4.2": ELEVEN, "4.3": SMALL, "4.4": SECURED - {"FD"} | {"Average"}}
ROWS = {"2.1": 84, "2.2": 112, "2.3": 21, "2.4": 56, "2.5": 60, "3.1": 144, "3.2": 144, "3.3": 12}
ROWS |= {"4.1": 56, "4.2": 120, "4.3": 84, "4.4": 56}
IMAGES = {"2": 1000, "3": 5000, "4.1": 10_000, "4.2": 5000, "4.3": 10_000, "4.4": 5000}
BUDGETS = {"3.1": {4, 8, 16}, "3.2": {4, 8, 16}, "4.1": {4, 8}, "4.2": {8}, "4.3": {4}}
# Typed from the thesis' pages, not from the files.
PRINTED_AT = [
    ("3.1", "I-FGSM+GNP", "VGG19", 16, 75.96),
    ("3.1", "I-FGSM", "PNASNet", 4, 4.14),
    ("3.1", "MI-FGSM", "ResNet50", 4, 99.94),
    ("3.1", "MI-FGSM+GNP", "Average", 8, 52.20),
    ("3.2", "DIM+GNP", "SENet", 8, 56.24),
    ("3.2", "TIM", "Average", 16, 73.34),
    ("4.1", "PGD", "ResNeXt", 4, 69.41),
    ("4.1", "PGD+LRS-F", "PyramidNet", 8, 95.46),
    ("4.2", "TAIG", "MNASNet", 8, 54.90),
    ("4.2", "PGD+LRS-2", "Inc-v3", 8, 46.14),
    ("4.2", "ILA++", "ResNet50", 8, 99.96),
    ("4.3", "Admix+LRS-1", "Average", 4, 71.05),
    ("4.4", "TIM+LRS-F", "NRP", 16, 40.3),
]
PRINTED = [
    ("2.1", "Inc-v3", "EM-FGSM", "Inc-v4", 55.0),
    ("2.1", "Inc-v4", "NI-FGSM", "Res-101", 45.8),
    ("2.1", "IncRes-v2", "MI-FGSM", "IncRes-v2ens1", 11.9),
    ("2.1", "Res-101", "EM-FGSM", "IncRes-v2ens1", 10.0),
    ("2.2", "Inc-v3", "DIM", "Inc-v3", 99.0),
    ("2.2", "Inc-v4", "SIM", "Inc-v3ens4", 44.8),
    ("2.2", "IncRes-v2", "RE", "Res-101", 78.7),
    ("2.2", "Res-101", "TIM", "Inc-v3ens3", 35.4),
    ("2.3", "Ensemble", "MI-FGSM", "IncRes-v2", 95.3),
    ("2.3", "Ensemble", "EM-FGSM", "IncRes-v2ens1", 25.9),
    ("2.4", "Ensemble", "EM-RE-DIM", "Inc-v3ens4", 59.7),
    ("2.4", "Ensemble", "EM-RE-Composite", "IncRes-v2ens1", 88.6),
    ("2.4", "Ensemble", "TIM", "Inc-v4", 98.9),
    ("2.5", "Inc-v3", "NI-Composite", "NRP", 24.8),
    ("2.5", "Ensemble", "EM-RE-Composite", "RS", 74.3),
    ("2.5", "Inc-v3", "EM-RE-Composite", "Average", 56.8),
    ("3.3", "ResNet50", "DIM+TIM", "IncRes-v2ens1", 38.96),
    ("3.3", "ResNet50", "DIM+TIM+GNP", "R&P", 62.04),
]
ONE = {
    "source": "resnet",
    "attack": "MI-FGSM",
    "target": "vgg",
    "eps_255": 8,
    "metric": "asr",
    "value": 100 / 3,
    "n": 30,
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "smoke" / "shapes" / "table_2_1.csv"


def opened(path, **config):
    return results.ResultTable(path, "2.1", "smoke", "shapes", "cpu", seed=0, config={"steps": 10} | config)


def cell(attack="MI-FGSM", targets=("vgg", "wrn")):
    return [ONE | {"attack": attack, "target": target} for target in targets]


@pytest.mark.parametrize("table", ROWS)
def test_published_table_is_whole(table):
    frame = published.table(table)
    assert len(frame) == ROWS[table] and not frame.duplicated(["source", "attack", "target", "eps_255"]).any()
    assert list(frame) == ["table", "source", "attack", "target", "eps_255", "metric", "value", "white_box", "n"]
    for name, value in {"table": table, "metric": "asr", "n": IMAGES.get(table, IMAGES.get(table[0]))}.items():
        assert (frame[name] == value).all()
    assert set(frame["eps_255"]) == BUDGETS.get(table, {16})
    assert frame["value"].between(0, 100).all()
    assert set(frame["target"]) == NAMED.get(table, TARGETS)
    white = (frame["source"] == frame["target"]) | ((frame["source"] == "Ensemble") & frame["target"].isin(MEMBERS))
    assert frame["white_box"].dtype == bool and (frame["white_box"] == white).all()


@pytest.mark.parametrize("table, source, attack, target, value", PRINTED)
def test_published_cell(table, source, attack, target, value):
    row = published.table(table).query("source == @source and attack == @attack and target == @target")
    assert row["value"].tolist() == [value]


@pytest.mark.parametrize("table, attack, target, eps, value", PRINTED_AT)
def test_published_cell_at_a_budget(table, attack, target, eps, value):
    row = published.table(table).query("attack == @attack and target == @target and eps_255 == @eps")
    assert row["value"].tolist() == [value]


def test_printed_averages_match_their_rows():
    frame = published.table("2.5").pivot(index=["source", "attack"], columns="target", values="value")
    assert (frame.drop(columns="Average").mean(axis=1) - frame["Average"]).abs().max() < 0.05


@pytest.mark.parametrize(
    ("table", "misprints"), [("3.1", 4), ("3.2", 9), ("4.1", 1), ("4.2", 3), ("4.3", 7), ("4.4", 0)]
)
def test_printed_averages_that_miss_their_rows_are_as_many_as_the_readme_lists(table, misprints):
    frame = published.table(table)
    frame = frame[~frame["white_box"]].pivot(index=["attack", "eps_255"], columns="target", values="value")
    off = (frame.drop(columns="Average").mean(axis=1) - frame["Average"]).abs() > 0.05
    assert off.sum() == misprints


def test_published_lipschitz_constants_have_no_budget():
    frame = published.table("4.5")
    assert frame["eps_255"].isna().all() and set(frame["metric"]) == {"local_lipschitz"}
    wide = frame.pivot(index="attack", columns="target", values="value")
    assert wide.loc["original"].tolist() == [5.53, 976.59] and wide.loc["LRS-F"].tolist() == [0.59, 49.64]


@pytest.mark.parametrize(("table", "rows"), [("5.1", 176), ("5.2", 66), ("5.3", 86), ("5.4", 48), ("5.5", 12)])
def test_published_tables_of_chapter_5_are_whole(table, rows):
    frame = published.table(table)
    names = [c for c in frame if c not in ("value", "std")]
    assert len(frame) == rows and not frame.duplicated(names).any() and (frame["table"] == table).all()


def test_printed_crsam_is_first_in_every_legible_case():
    for table in ("5.2", "5.4"):
        frame = published.table(table)
        cases = [c for c in ("model", "dataset", "augmentation") if c in frame]
        wide = frame.pivot(index=cases, columns="optimizer", values="value")
        assert (wide.drop(columns="CR-SAM").max(axis=1) < wide["CR-SAM"]).all()


def test_printed_normalised_trace_is_not_the_quotient_of_its_columns():
    wide = published.table("5.5").pivot(index="optimizer", columns="metric", values="value")
    quotient = (wide["trace"] / wide["gradient_norm"]).round()
    assert quotient.loc[["SGD", "SAM", "CR-SAM"]].tolist() == [1636, 1232, 965]
    assert wide["normalized_trace"].round().loc[["SGD", "SAM", "CR-SAM"]].tolist() == [1675, 1194, 885]


def test_interval_of_a_mean_of_differences_is_students():
    d = np.array([1.0, 2.0, 4.0, 1.5])
    wanted = ttest_1samp(d, 0).confidence_interval(0.95)
    assert intervals.paired_mean(d) == pytest.approx((d.mean(), wanted.low, wanted.high))
    assert intervals.paired_mean(np.array([3.0])) == (3.0, -math.inf, math.inf)
    for bad in ([], [1.0, math.nan], [[1.0]]):
        with pytest.raises(ValueError, match="differences"):
            intervals.paired_mean(np.array(bad))


def test_unknown_table_names_the_known_ones():
    with pytest.raises(FileNotFoundError, match=r"9\.9.*2\.1.*5\.5"):
        published.table("9.9")


@pytest.mark.parametrize("k, n", [(0, 1), (1, 1), (0, 50), (37, 50), (50, 50), (913, 1000)])
def test_wilson_agrees_with_scipy(k, n):
    for level in (0.9, 0.95):
        want = binomtest(k, n).proportion_ci(level, method="wilson")
        assert intervals.wilson(k, n, level) == pytest.approx((100 * want.low, 100 * want.high), abs=1e-10)


@pytest.mark.parametrize(
    "k, n, level", [(0, 0, 0.95), (-1, 5, 0.95), (6, 5, 0.95), (2, 5, 1.0), (np.nan, 5, 0.95), ("1", 5, 0.95)]
)
def test_wilson_refuses(k, n, level):
    with pytest.raises((TypeError, ValueError), match="^(n|successes|level)="):
        intervals.wilson(k, n, level)


def test_newcombe_worked_example():
    """56/70 against 48/80: Newcombe (1998), Table II, method 10."""
    assert intervals.newcombe(56, 70, 48, 80) == pytest.approx((5.24, 33.39), abs=0.005)
    low, high = intervals.newcombe(48, 80, 56, 70)
    assert (low, high) == pytest.approx((-33.39, -5.24), abs=0.005)


def test_difference_of_two_rates_is_newcombes():
    low, high = intervals.newcombe(56, 70, 48, 80)
    rows = [
        {"value": 100 * k / n} | dict(zip(("ci_low", "ci_high"), intervals.wilson(k, n), strict=True))
        for k, n in ((56, 70), (48, 80))
    ]
    assert intervals.difference(*map(pd.Series, rows)) == pytest.approx((20.0, low, high))


def fourfold(both, first, second, neither):
    a = np.repeat([True, True, False, False], [both, first, second, neither])
    b = np.repeat([True, False, True, False], [both, first, second, neither])
    return a, b


@pytest.mark.parametrize(
    "table, want",
    [
        ((1, 1, 7, 12), (-28.57, -50.69, -2.56)),  # Fagerland, Lydersen, Laake (2014): -0.507 to -0.026
        ((59, 6, 16, 80), (-6.21, -11.86, -0.46)),  # R package contingencytables: -0.0621, -0.1186 to -0.0046
    ],
)
def test_paired_difference_worked_examples(table, want):
    assert intervals.paired_difference(*fourfold(*table)) == pytest.approx(want, abs=0.01)


def test_paired_difference_limits():
    always, never = np.ones(50, bool), np.zeros(50, bool)
    assert intervals.paired_difference(always, always)[0] == 0
    assert intervals.paired_difference(always, never)[::2] == (100, 100)
    a, b = fourfold(300, 40, 10, 150)
    paired = intervals.paired_difference(a, b)
    loose = intervals.newcombe(a.sum(), a.size, b.sum(), b.size)
    assert loose[0] < paired[1] < paired[0] < paired[2] < loose[1]  # agreement between the attacks narrows it
    assert intervals.paired_difference(b, a) == pytest.approx((-paired[0], -paired[2], -paired[1]))


def test_paired_difference_covers():
    """500 draws of 200 pairs: the 95 % interval holds the true difference in 93 to 97.5 % of them."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(500):
        a, b = fourfold(*rng.multinomial(200, [0.5, 0.2, 0.1, 0.2]))
        _, low, high = intervals.paired_difference(a, b)
        hits += low <= 10 <= high
    assert 465 <= hits <= 488


@pytest.mark.parametrize("a, b", [([1, 0], [0, 1]), ([True], [True, False]), ([], []), ([[True]], [[True]])])
def test_paired_difference_refuses(a, b):
    with pytest.raises(ValueError, match="bool"):
        intervals.paired_difference(np.array(a), np.array(b))


def test_killed_run_resumes(path):
    first = opened(path)
    assert not first.done("resnet", "MI-FGSM", 8)
    first.add(cell())
    again = opened(path)
    assert again.done("resnet", "MI-FGSM", 8.0) and not again.done("resnet", "NI-FGSM", 8) and again.set_aside is None
    again.add(cell("NI-FGSM"))
    frame = opened(path).frame
    assert list(frame) == list(results.COLUMNS) and frame["attack"].tolist() == ["MI-FGSM"] * 2 + ["NI-FGSM"] * 2
    assert frame["value"].tolist() == [100 / 3] * 4 and frame["passes"].isna().all()
    run = frame[["table", "scale", "dataset", "seed", "device"]].iloc[0]
    assert run.tolist() == ["2.1", "smoke", "shapes", 0, "cpu"]
    with pytest.raises(ValueError):
        again.done("resnet", "MI-FGSM")


def test_kill_between_csv_and_sidecar_is_no_damage(path):
    table = opened(path)
    before = table.sidecar.read_bytes()
    table.add(cell())
    table.sidecar.write_bytes(before)
    assert opened(path).done("resnet", "MI-FGSM", 8)


def test_names_that_look_like_missing_values_or_numbers_stay(path, monkeypatch):
    monkeypatch.setattr(provenance, "_commit", lambda: "12e4567")
    opened(path).add(cell("None", targets=("NA", "007", 'a, "b"')))
    frame = opened(path).frame
    assert frame["target"].tolist() == ["NA", "007", 'a, "b"'] and set(frame["attack"]) == {"None"}
    assert set(frame["commit"]) == {"12e4567"} and set(frame["table"]) == {"2.1"}


def test_other_fingerprint_is_set_aside(path):
    opened(path).add(cell())
    old = path.read_bytes()
    other = opened(path, steps=20)
    assert other.set_aside == path.with_name("table_2_1.old.csv") and other.set_aside.read_bytes() == old
    assert other.frame.empty and not path.exists() and other.set_aside.with_suffix(".json").exists()
    other.add(cell())
    third = opened(path)
    assert third.set_aside.name == "table_2_1.old2.csv" and path.with_name("table_2_1.old.csv").read_bytes() == old


def test_rows_without_a_fingerprint_are_set_aside(path):
    table = opened(path)
    table.add(cell())
    table.sidecar.unlink()
    assert opened(path).set_aside is not None


def test_fingerprint_ignores_order_and_refuses_objects():
    assert provenance.fingerprint({"a": 1, "b": 2}) == provenance.fingerprint({"b": 2, "a": 1})
    assert provenance.fingerprint({"a": 1}) != provenance.fingerprint({"a": 2})
    with pytest.raises(TypeError):
        provenance.fingerprint({"model": object()})


def test_failed_write_leaves_the_old_file_and_no_part(path, monkeypatch):
    table = opened(path)
    table.add(cell())
    before = path.read_bytes()

    def killed(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(OSError, match="disk full"):
        table.add(cell("NI-FGSM"))
    assert path.read_bytes() == before and not table.done("resnet", "NI-FGSM", 8)
    assert sorted(p.name for p in path.parent.iterdir() if p.name[0] != ".") == ["table_2_1.csv", "table_2_1.json"]
    assert not [p for p in path.parent.iterdir() if p.name.endswith(".partial")]


def test_truncation_at_any_byte_raises(path, monkeypatch):
    monkeypatch.setattr(provenance, "_commit", lambda: "unknown")
    opened(path).add(cell())
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"table_2_1\.csv"):
            opened(path)
    path.write_bytes(whole)
    assert len(opened(path).frame) == 2


@pytest.mark.parametrize("damage", [b"\xff\xfe\n", b"a,b\n1,2\n", b'"\n', b"\x00" * 40])
def test_damaged_file_raises(path, damage):
    opened(path).add(cell())
    path.write_bytes(path.read_bytes() + damage)
    with pytest.raises(ValueError, match=r"table_2_1\.csv"):
        opened(path)


def test_damaged_sidecar_raises(path):
    opened(path).sidecar.write_text("{")
    with pytest.raises(ValueError, match=r"table_2_1\.json"):
        opened(path)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        cell() + cell("NI-FGSM"),
        cell(targets=("vgg", "vgg")),
        [{**ONE, "success": 3}],
        [{k: v for k, v in ONE.items() if k != "n"}],
        [{**ONE, "seed": 4}],
    ],
)
def test_add_refuses(path, rows):
    table = opened(path)
    with pytest.raises(ValueError):
        table.add(rows)
    assert not path.exists()


@pytest.mark.parametrize(
    ("column", "value"),
    [("n", 3.7), ("n", True), ("n", "30"), ("n", 0), ("source", None), ("source", ""), ("attack", "a\r\nb"),
     ("target", "a\nb"), ("metric", 1), ("value", None), ("value", math.nan), ("value", "50")],
)  # fmt: skip
def test_add_names_what_it_cannot_give_back(path, column, value):
    table = opened(path)
    with pytest.raises((TypeError, ValueError), match=f"^{column}="):
        table.add([ONE | {column: value}])
    assert not path.exists()


def test_of_two_tables_of_one_file_only_the_newest_state_is_written(path):
    first, second = opened(path), opened(path)
    first.add(cell())
    with pytest.raises(RuntimeError, match="go on with the newest"):
        second.add(cell("NI-FGSM"))
    assert opened(path).frame["attack"].tolist() == ["MI-FGSM"] * 2
    first.add(cell("NI-FGSM"))
    assert len(opened(path).frame) == 4


def test_another_process_that_writes_the_table_is_named(path):
    command = [sys.executable, "-c", HOLD, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=f"process {holder.pid} on"):
            opened(path)
        holder.kill()
    opened(path).add(cell())


def test_code_that_changes_numbers_is_in_the_fingerprint(tmp_path):
    """All of the package but the rooms that say where things lie and print them, and what measures speed; of a network
    that is trained also without those that attack and measure it."""
    package = Path(advlib.__file__).parent
    shutil.copytree(package, tmp_path / "advlib", ignore=shutil.ignore_patterns("__pycache__"))

    def digests():
        tables, training = ("files", "press", "bench/gpu", "bench/speed"), ("bench", "defenses", "files", "press")
        return [provenance.code_digest(tmp_path / "advlib", without) for without in (tables, training)]

    before = digests()
    assert before == [provenance.CODE, provenance.TRAINING_CODE]
    for file in (tmp_path / "advlib").rglob("*.py"):
        place, text = file.relative_to(tmp_path / "advlib"), file.read_text(encoding="utf-8")
        room, of_speed = place.parts[0], place.parts[:2] in (("bench", "gpu"), ("bench", "speed"))
        file.write_text(text + "# an edit\n", encoding="utf-8")
        changed = [now != then for now, then in zip(digests(), before, strict=True)]
        of_tables = room not in ("files", "press") and not of_speed
        assert changed == [of_tables, room not in ("bench", "defenses", "files", "press")], file
        file.write_text(text, encoding="utf-8")
    (tmp_path / "advlib" / "kernels" / "hash.py").write_text("")
    assert all(now != then for now, then in zip(digests(), before, strict=True))


def test_rows_of_other_code_are_set_aside(path, monkeypatch):
    opened(path).add(cell())
    monkeypatch.setattr(results, "CODE", "another")
    assert opened(path).set_aside is not None


def test_a_cell_is_written_once(path):
    table = opened(path)
    table.add(cell())
    with pytest.raises(ValueError, match="new cell"):
        table.add(cell(targets=("dense",)))


def test_key_may_be_finer(path):
    table = results.ResultTable(path, "2.1", "smoke", "shapes", "cpu", 0, {}, key=("source", "attack", "target"))
    table.add([ONE])
    assert table.done("resnet", "MI-FGSM", "vgg") and not table.done("resnet", "MI-FGSM", "wrn")
    with pytest.raises(ValueError, match="key"):
        results.ResultTable(path, "2.1", "smoke", "shapes", "cpu", 0, {}, key=("model",))


def test_committed(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    assert results.committed("2.1", "smoke", "shapes") is None
    opened(results.result_path("2.1", "smoke", "shapes")).add(cell())
    assert results.committed("2.1", "smoke", "shapes")["value"].tolist() == [100 / 3] * 2
    assert results.committed("2.1", "smoke", "shapes", stem="longer") is None
    opened(results.result_path("2.1", "smoke", "shapes").with_name("longer.csv")).add(cell(attack="PGD"))
    assert set(results.committed("2.1", "smoke", "shapes", stem="longer")["attack"]) == {"PGD"}
    with pytest.raises(ValueError, match="scale"):
        results.committed("2.1", "huge", "shapes")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_commit_hash(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.run_info("cpu")["commit"] == "unknown"

    def git(*words):
        subprocess.run(
            ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *words],
            check=True,
            capture_output=True,
        )

    (tmp_path / "code.py").write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    clean = provenance.run_info("cpu")["commit"]
    assert 7 <= len(clean) <= 12 and int(clean, 16) >= 0
    (tmp_path / "data" / "results").mkdir(parents=True)
    (tmp_path / "data" / "results" / "table.csv").write_text("a run's own rows")
    assert provenance.run_info("cpu")["commit"] == clean
    (tmp_path / "code.py").write_text("2")
    assert provenance.run_info("cpu")["commit"] == clean + "+"
    (tmp_path / "inside").mkdir()
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "inside")
    assert provenance.run_info("cpu")["commit"] == "unknown"


def measured(values):
    rows = [{"attack": attack, "target": target, "value": value} for (attack, target), value in values.items()]
    return pd.DataFrame(rows).assign(source="a", n=10, ci_low=0.0, ci_high=100.0)


def test_side_by_side():
    ours = measured(
        {
            ("MI-FGSM", "a"): 90.0,
            ("EM-FGSM", "a"): 95.0,
            ("MI-FGSM", "b"): 50.0,
            ("EM-FGSM", "b"): 40.0,
            ("EM-FGSM", "c"): 1.0,
            ("other", "a"): 2.0,
        }
    )
    roles = {"a": "Inc-v3", "b": "Inc-v3ens3", "c": "Inc-v4"}
    both = results.side_by_side(published.table("2.1"), ours, rename=roles)
    assert list(both) == ["source", "attack", "target", "paper", "ours", "difference", "n", "ci_low", "ci_high"]
    assert list(zip(both["attack"], both["target"], strict=True)) == [
        ("MI-FGSM", "Inc-v3"),
        ("MI-FGSM", "Inc-v3ens3"),
        ("EM-FGSM", "Inc-v3"),
        ("EM-FGSM", "Inc-v4"),
        ("EM-FGSM", "Inc-v3ens3"),
    ]
    assert both["paper"].tolist() == [100.0, 13.1, 100.0, 55.0, 11.4]
    assert both["difference"].tolist() == pytest.approx([-10, 36.9, -5, -54, 28.6])


def test_wins_of_the_print():
    """Counted by hand from the thesis' rows: EM against MI over the 12 black-box pairs of normally trained networks."""
    frame = published.table("2.1").query("not white_box and not target.str.contains('ens')")
    row = results.wins(frame, "EM-FGSM", "MI-FGSM")
    assert (row["cases"], row["wins"], row["losses"]) == (12, 12, 0)
    assert 0 < row["clear_wins"] <= 12 and row["clear_losses"] == 0
    back = results.wins(frame, "MI-FGSM", "EM-FGSM")
    assert (back["losses"], back["clear_losses"]) == (row["wins"], row["clear_wins"])
    with pytest.raises(ValueError, match="DIM"):
        results.wins(frame, "EM-FGSM", "DIM")
    with pytest.raises(ValueError, match="two rows"):
        results.wins(pd.concat([frame, frame]), "EM-FGSM", "MI-FGSM")


def test_a_difference_within_chance_is_no_clear_win():
    frame = measured({("A", "t"): 60.0, ("B", "t"): 50.0}).assign(eps_255=8.0)
    assert results.wins(frame, "A", "B") == {
        "better": "A",
        "worse": "B",
        "cases": 1,
        "wins": 1,
        "losses": 0,
        "clear_wins": 0,
        "clear_losses": 0,
        "interval": "Newcombe",
    }
    assert results.wins(frame.assign(n=1000), "A", "B")["clear_wins"] == 1


def test_white_box_layout_and_averages():
    frame = measured({("A", "a"): 100.0, ("A", "b"): 40.0, ("A", "c"): 20.0})
    assert results.mark_white_box(frame)["white_box"].tolist() == [True, False, False]
    frame = results.mark_white_box(frame.assign(source=results.ensemble_name(["a", "b"])))
    assert frame["white_box"].tolist() == [True, True, False]
    assert results.layout(frame).loc[("a+b", "A")].tolist() == ["100.0*", "40.0*", "20.0"]
    means = results.averages(frame).set_index("role")
    assert means["value"].to_dict() == {"white-box": 70.0, "black-box": 20.0}
    assert means.loc["white-box", ["n", "pairs"]].tolist() == [10, 2]
    assert means.loc["black-box", "ci_low"] == pytest.approx(intervals.wilson(2, 10)[0])
    assert results.black_box(frame)[["value", "n", "pairs"]].loc["A"].tolist() == [20.0, 10, 1]
    with pytest.raises(ValueError, match="choose a metric and an eps_255"):
        results.averages(pd.concat([frame, frame.assign(eps_255=4.0)]))


def test_side_by_side_swaps_names_and_refuses_keys_twice():
    ours = measured({("MI-FGSM", "Inc-v3"): 1.0, ("MI-FGSM", "Inc-v4"): 2.0}).assign(source="Inc-v3")
    swapped = results.side_by_side(published.table("2.1"), ours, rename={"Inc-v3": "Inc-v4", "Inc-v4": "Inc-v3"})
    assert swapped["source"].tolist() == ["Inc-v4"] * 2 and swapped["ours"].tolist() == [2.0, 1.0]
    with pytest.raises(ValueError, match="measured has keys twice"):
        results.side_by_side(published.table("2.1"), pd.concat([ours, ours]))


def test_conditions():
    assert "this is the thesis' setting" in conditions("paper", "imagenet")
    for scale, dataset in [("smoke", "imagenet"), ("laptop", "cifar10"), ("paper", "shapes"), ("laptop", "shapes")]:
        assert "not comparable" in conditions(scale, dataset)
    assert "only with the thesis' tables on cifar10" in conditions("paper", "cifar10")
    with pytest.raises(ValueError, match="dataset"):
        conditions("paper", "mnist")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: results.averages(None), TypeError, "frame: expected a DataFrame, got None"),
        (lambda f: results.averages(f.iloc[:0]), ValueError, "frame: expected at least one row"),
        (lambda f: results.black_box(f.assign(value=math.nan)), ValueError, "frame: a value is not finite"),
        (lambda f: results.layout(f.drop(columns="white_box")), ValueError, "it lacks white_box"),
        (lambda f: results.layout(pd.concat([f, f])), ValueError, "a cell is given twice"),
        (lambda f: results.mark_white_box([f]), TypeError, "frame: expected a DataFrame"),
        (lambda f: results.wins(f.drop(columns="n"), "A", "B"), ValueError, "it lacks n"),
        (lambda f: results.side_by_side(f, f.drop(columns="ci_low")), ValueError, "measured: .* it lacks ci_low"),
        (lambda f: published.table(None), TypeError, "table=None"),
        (lambda f: results.result_path("", "smoke", "shapes"), ValueError, "table=''"),
        (lambda f: intervals.paired_mean(["a"]), TypeError, "differences: expected finite numbers"),
        (lambda f: provenance.fingerprint({"a": f}), TypeError, "config: expected JSON types"),
        (lambda f: provenance.fingerprint({1: 1, "a": 1}), TypeError, "config: expected JSON types"),
    ],
)
def test_what_is_no_table_is_named(call, error, message):
    frame = measured({("A", "t"): 60.0, ("B", "t"): 50.0}).assign(eps_255=8.0, white_box=False)
    with pytest.raises(error, match=message):
        call(frame)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"path": 1}, "path: expected a path"),
        ({"config": None}, "config: expected a mapping"),
        ({"config": {"a": object()}}, "config: expected JSON types"),
        ({"seed": None}, "seed=None"),
        ({"table": 2.1}, "table=2.1"),
    ],
)
def test_a_table_of_what_it_cannot_be_is_refused(path, given, message):
    plain = {"path": path, "table": "2.1", "scale": "smoke", "dataset": "shapes", "device": "cpu", "seed": 0}
    with pytest.raises(TypeError, match=message):
        results.ResultTable(**plain | {"config": {}} | given)
    assert not path.parent.exists()
