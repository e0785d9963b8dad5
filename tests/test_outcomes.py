"""Which image each cell fooled: read back by name, in step with the CSV whatever a kill leaves, damage named."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import grid_images, tiny_model
from test_evaluation import Lookup, data, mark  # noqa: F401 `data` is a fixture

from advlib import attacks
from advlib.bench import outcomes, results
from advlib.bench.evaluation import predictions, success_rates
from advlib.bench.outcomes import Outcome, Outcomes
from advlib.defenses import transformations
from advlib.files.paths import ROOT

N = 11
INDEX = np.arange(40, 40 + N)
RIGHT = np.arange(N) % 3 > 0
"""Seven of eleven images: bits that fill no whole byte."""


def opened(path, **config):
    return results.ResultTable(path, "2.1", "smoke", "shapes", "cpu", seed=0, config=config)


def cell(attack, targets=("vgg", "wrn"), seed=0, index=INDEX, right=RIGHT, eps=8.0):
    """Rows of one cell, and the outcomes that they count."""
    rng = np.random.default_rng([seed, *attack.encode()])
    found = {("resnet", attack, target, eps): Outcome(rng.random(len(index)) < 0.5, right) for target in targets}
    rows = []
    for (source, name, target, budget), outcome in found.items():
        of = {"source": source, "attack": name, "target": target, "eps_255": budget}
        for metric in ("asr", "asr_all"):
            counted = outcome.counted(metric)
            k, n = int((outcome.fooled & counted).sum()), int(counted.sum())
            rows.append(of | {"metric": metric, "value": 100 * k / n, "n": n})
    return rows, Outcomes(index, found)


def same(kept, *wanted):
    """Whether a file holds these outcomes and no others."""
    cells = {key: outcome for part in wanted for key, outcome in part.cells.items()}
    return set(kept.cells) == set(cells) and all(
        np.array_equal(kept.cells[key][k], outcome[k]) for key, outcome in cells.items() for k in (0, 1)
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "table_2_1.csv"


@pytest.fixture
def kept(path):
    return outcomes.beside(path)


# --- the file --------------------------------------------------------------------------------------------------------


def test_outcomes_are_read_back_by_name(path, kept):
    table, (rows, mi), (more, em) = opened(path), cell("MI-FGSM"), cell('EM, "é"')
    assert table.outcomes is None and table.frame.attrs == {} and results.outcomes(path) is None
    table.add(rows, mi)
    table.add(more, em)
    found = results.outcomes(path)
    assert kept.name == "table_2_1.outcomes.npz" and same(found, mi, em) and same(table.outcomes, mi, em)
    assert found.index.tolist() == INDEX.tolist()
    got = found.of("resnet", "MI-FGSM", "vgg", 8)
    assert got.fooled.tolist() == mi.cells["resnet", "MI-FGSM", "vgg", 8.0].fooled.tolist()
    assert got.right.tolist() == RIGHT.tolist()
    with pytest.raises(ValueError, match="no outcomes of .*'NI-FGSM'"):
        found.of("resnet", "NI-FGSM", "vgg", 8)


def test_the_file_holds_plain_arrays_that_numpy_reads_without_us(path, kept):
    rows, mi = cell("MI-FGSM")
    opened(path).add(rows, mi)
    with np.load(kept, allow_pickle=False) as file:
        place = next(k for k, name in enumerate(file["target"]) if name == "wrn")
        bits = np.unpackbits(file["fooled"][place], count=file["index"].size).astype(bool)
        right = np.unpackbits(file["right"][file["mask"][place]], count=file["index"].size).astype(bool)
    assert bits.tolist() == mi.cells["resnet", "MI-FGSM", "wrn", 8.0].fooled.tolist()
    assert right.tolist() == RIGHT.tolist()


def test_the_rates_of_a_table_are_those_of_its_outcomes(path, data):  # noqa: F811
    """h gets images 100 and 101 wrong by itself; the attack marks 100, 102, 103, 104."""
    f, h = Lookup(), Lookup(wrong_on=(0, 1))

    def some(model, x, y, eps, seed, index):
        return mark(model, x, y, eps, seed, index, only=[100, 102, 103, 104])

    rows = success_rates({"mark": some}, {"f": f}, {"f": f, "h": h}, data, [8, 16], table=opened(path), batch_size=4)
    found = results.outcomes(path)
    assert found.index.tolist() == list(range(100, 110)) and len(found.cells) == 4
    assert found.of("f", "mark", "f", 16).fooled.nonzero()[0].tolist() == [0, 2, 3, 4]
    assert found.of("f", "mark", "h", 8).fooled.nonzero()[0].tolist() == [0, 1, 2, 3, 4]
    assert found.of("f", "mark", "h", 8).right.tolist() == [False] * 2 + [True] * 8
    assert all(found.agree(row) for row in rows.to_dict("records"))
    assert not any(found.agree(row | {"value": row["value"] + 1}) for row in rows.to_dict("records"))


def test_an_abstention_fools_nobody_and_is_no_outcome_of_its_own(path, data):  # noqa: F811
    model, guarded = tiny_model(), transformations.RandomizedSmoothing(sigma=0.25, n=20)(tiny_model(), seed=0)
    images = (grid_images(40) * 255).round().to(torch.uint8)
    known = replace(data, images=images, labels=torch.zeros(40, dtype=torch.int64), index=torch.arange(40))
    known = replace(known, labels=predictions(model, known))
    rows = success_rates(
        {"PGD": attacks.pgd}, {"f": model}, {"f": model, "RS": guarded}, known, [8], table=opened(path)
    )
    assert rows[rows.metric == "abstained"].value.item() > 0
    found = results.outcomes(path)
    assert set(found.cells) == {("f", "PGD", "f", 8.0), ("f", "PGD", "RS", 8.0)}
    assert all(found.agree(row) for row in rows.to_dict("records"))


def test_a_thousand_images_and_five_hundred_cells_are_small(tmp_path):
    rng = np.random.default_rng(0)
    right = rng.random(1000) < 0.7
    cells = {("source", f"attack {k}", "target", 8.0): Outcome(rng.random(1000) < 0.5, right) for k in range(500)}
    outcomes.write(tmp_path / "a.npz", Outcomes(np.arange(1000), cells))
    assert (tmp_path / "a.npz").stat().st_size < 80_000  # the bits alone are 62,500
    assert same(outcomes.read(tmp_path / "a.npz"), Outcomes(np.arange(1000), cells))


def test_cells_with_another_set_of_right_images_keep_their_own(path):
    table, (rows, one), (more, other) = opened(path), cell("A"), cell("B", right=~RIGHT)
    table.add(rows, one)
    table.add(more, other)
    found = results.outcomes(path)
    assert found.of("resnet", "A", "vgg", 8).right.tolist() == RIGHT.tolist()
    assert found.of("resnet", "B", "vgg", 8).right.tolist() == (~RIGHT).tolist()


# --- in step with the CSV --------------------------------------------------------------------------------------------


def test_a_resumed_table_keeps_the_outcomes_of_earlier_cells(path):
    (rows, mi), (more, em) = cell("MI-FGSM"), cell("EM-FGSM")
    opened(path).add(rows, mi)
    opened(path).add(more, em)
    assert same(results.outcomes(path), mi, em)


@pytest.mark.parametrize("first", [True, False])
def test_a_kill_between_outcomes_and_csv_resumes(path, kept, first):
    """The outcomes are one cell ahead: of the first cell, where there is no CSV yet, or of a later one."""
    (rows, mi), (more, em) = cell("MI-FGSM"), cell("EM-FGSM")
    if not first:
        opened(path).add(rows, mi)
    csv = path.read_bytes() if path.exists() else None
    table = opened(path)
    sidecar = table.sidecar.read_bytes()
    table.add(more, em)
    table.sidecar.write_bytes(sidecar)
    path.unlink() if csv is None else path.write_bytes(csv)
    again = opened(path)
    assert not again.done("resnet", "EM-FGSM", 8) and kept.exists() != first
    again.add(more, em)
    assert same(results.outcomes(path), em) if first else same(results.outcomes(path), mi, em)


def test_a_failed_write_of_the_csv_leaves_a_table_that_goes_on(path, monkeypatch):
    table, (rows, mi), (more, em) = opened(path), cell("MI-FGSM"), cell("EM-FGSM")
    table.add(rows, mi)
    rename = os.replace

    def full(old, new):
        if str(new).endswith(".csv"):
            raise OSError("disk full")
        rename(old, new)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        table.add(more, em)
    monkeypatch.undo()
    assert same(table.outcomes, mi) and same(opened(path).outcomes, mi)
    table = opened(path)
    table.add(more, em)
    assert same(results.outcomes(path), mi, em)


def test_deleted_outcomes_are_missed_by_nothing_but_the_interval(path, kept):
    (rows, mi), (more, em) = cell("MI-FGSM"), cell("EM-FGSM")
    opened(path).add(rows, mi)
    kept.unlink()
    table = opened(path)
    assert table.done("resnet", "MI-FGSM", 8) and table.outcomes is None
    table.add(more, em)
    assert same(results.outcomes(path), em) and len(table.frame) == 8


def test_outcomes_without_csv_and_sidecar_are_of_nothing(path, kept):
    rows, mi = cell("MI-FGSM")
    table = opened(path)
    table.add(rows, mi)
    path.unlink()
    table.sidecar.unlink()
    assert opened(path).outcomes is None and not kept.exists()


def test_a_csv_that_was_cut_is_damaged_whatever_the_outcomes_say(path):
    rows, mi = cell("MI-FGSM")
    opened(path).add(rows, mi)
    path.unlink()
    with pytest.raises(results.DamagedError, match=r"table_2_1\.csv is truncated: 0 rows of 4"):
        opened(path)


def test_other_conditions_set_all_three_files_aside(path, kept):
    rows, mi = cell("MI-FGSM")
    opened(path).add(rows, mi)
    before = kept.read_bytes()
    other = opened(path, steps=20)
    assert other.outcomes is None and not kept.exists()
    assert outcomes.beside(other.set_aside).read_bytes() == before
    assert other.set_aside.name == "table_2_1.old.csv" and same(results.outcomes(other.set_aside), mi)
    other.add(rows, mi)
    assert opened(path).set_aside.name == "table_2_1.old2.csv"
    assert path.with_name("table_2_1.old2.outcomes.npz").exists()


def test_a_kill_while_files_are_set_aside_resumes(path, kept, monkeypatch):
    rows, mi = cell("MI-FGSM")
    for moved in range(1, 3):
        opened(path).add(rows, mi)
        rename, done = os.replace, []

        def dies(old, new, rename=rename, done=done, moved=moved):
            if len(done) == moved and ".old" in str(new):
                raise KeyboardInterrupt
            rename(old, new)
            done.extend([new] if ".old" in str(new) else [])

        monkeypatch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            opened(path, steps=moved)._move_aside()
        monkeypatch.undo()
        table = opened(path)
        aside = table.set_aside
        assert table.frame.empty and table.outcomes is None and not kept.exists()
        assert aside.exists() and aside.with_suffix(".json").exists() and same(results.outcomes(aside), mi)
        for old in path.parent.glob("*.old*"):
            old.unlink()


def test_an_attack_that_became_another_leaves_only_the_others_outcomes(path):
    table, (rows, mi), (more, em) = opened(path), cell("MI-FGSM"), cell("EM-FGSM")
    table.expect({"MI-FGSM": "one", "EM-FGSM": "two"})
    table.add(rows, mi)
    table.add(more, em)
    table.expect({"MI-FGSM": "another"})
    assert same(results.outcomes(path), em) and same(results.outcomes(table.set_aside), mi, em)
    rows, anew = cell("MI-FGSM", seed=1)
    table.add(rows, anew)
    assert same(opened(path).outcomes, em, anew)
    table = opened(path)
    table.expect({"MI-FGSM": "a third", "EM-FGSM": "a third"})
    assert results.outcomes(path) is None and table.outcomes is None


def test_rows_that_are_of_no_images_have_no_outcomes(path, kept):
    row = {"source": "vgg", "attack": "none", "target": "vgg", "eps_255": 0.0, "metric": "accuracy"}
    table = opened(path)
    table.add([row | {"value": 50.0, "n": 4}])
    assert not kept.exists() and table.outcomes is None
    rows, mi = cell("MI-FGSM")
    table.add(rows, mi)
    assert same(opened(path).outcomes, mi) and len(opened(path).frame) == 5


# --- what is refused -------------------------------------------------------------------------------------------------


def test_truncation_at_any_byte_names_the_file(path, kept):
    rows, mi = cell("MI-FGSM")
    opened(path).add(rows, mi)
    whole = kept.read_bytes()
    for length in range(0, len(whole), 7):
        kept.write_bytes(whole[:length])
        with pytest.raises(results.DamagedError, match=r"table_2_1\.outcomes\.npz is truncated or damaged"):
            results.outcomes(path)
    with pytest.raises(results.DamagedError, match=r"table_2_1\.outcomes\.npz"):
        opened(path)
    kept.write_bytes(whole)
    assert same(opened(path).outcomes, mi)


def _arrays(path):
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize(
    "change",
    [
        lambda a: {name: values for name, values in a.items() if name != "mask"},
        lambda a: a | {"source": a["source"][:1]},
        lambda a: a | {"fooled": a["fooled"][:, :1]},
        lambda a: a | {"fooled": a["fooled"].astype(float)},
        lambda a: a | {"mask": a["mask"] + 5},
        lambda a: a | {"index": a["index"].astype(float)},
        lambda a: a | {"index": a["index"][:0], "fooled": a["fooled"][:, :0], "right": a["right"][:, :0]},
        lambda a: a | {"right": np.uint8(3)},
        lambda a: a | {"target": np.array(["vgg", "vgg"])},
        lambda a: a | {"target": np.array([{}, {}], dtype=object)},
    ],
)
def test_another_content_names_the_file(path, kept, change):
    rows, mi = cell("MI-FGSM")
    opened(path).add(rows, mi)
    np.savez(kept, **change(_arrays(kept)))
    with pytest.raises(results.DamagedError, match=r"table_2_1\.outcomes\.npz is truncated or damaged"):
        results.outcomes(path)


def test_a_single_array_is_no_file_of_outcomes(path, kept):
    path.parent.mkdir(exist_ok=True)
    content = io.BytesIO()
    np.save(content, np.arange(3))
    kept.write_bytes(content.getvalue())
    with pytest.raises(results.DamagedError, match="no .npz"):
        results.outcomes(path)


def test_outcomes_of_another_run_are_named(path, kept, tmp_path):
    (rows, mi), (_, other) = cell("MI-FGSM"), cell("MI-FGSM", seed=1)
    opened(path).add(rows, mi)
    assert not all(map(other.agree, rows))
    outcomes.write(kept, other)
    with pytest.raises(results.DamagedError, match=r"table_2_1\.outcomes\.npz is not of the same run"):
        opened(path)


@pytest.mark.parametrize(
    "given",
    [
        cell("MI-FGSM", targets=("vgg",))[1],
        cell("MI-FGSM", targets=("vgg", "wrn", "densenet"))[1],
        cell("MI-FGSM", seed=1)[1],
        cell("MI-FGSM", eps=4.0)[1],
        cell("MI-FGSM", right=~RIGHT)[1],
    ],
)
def test_outcomes_that_are_not_those_of_the_rows_are_refused(path, kept, given):
    with pytest.raises(ValueError, match="^outcomes: expected those of"):
        opened(path).add(cell("MI-FGSM")[0], given)
    assert not path.exists() and not kept.exists()


def test_the_cells_of_a_table_are_of_the_same_images(path):
    table = opened(path)
    table.add(*cell("MI-FGSM"))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="same images, in the same order"):
        table.add(*cell("EM-FGSM", index=INDEX + 1))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("index", "fooled"),
    [
        (INDEX.astype(float), RIGHT),
        (INDEX[:, None], RIGHT),
        (INDEX[:0], RIGHT[:0]),
        (INDEX, RIGHT[1:]),
        (INDEX, RIGHT.astype(int)),
    ],
)
def test_what_is_no_outcome_is_refused(index, fooled):
    with pytest.raises(ValueError, match="expected"):
        Outcomes(index, {("a", "b", "c", 8.0): Outcome(fooled, RIGHT)})
    with pytest.raises(ValueError, match="metric='abstained'"):
        Outcome(RIGHT, RIGHT).counted("abstained")


# --- the task runner -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_figures_keeps_outcomes_with_their_table_and_none_of_an_older_run(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    tables = tmp_path / "_build" / "laptop" / "shapes" / "tables" / "02"
    (rows, mi), (more, em) = cell("MI-FGSM"), cell("EM-FGSM")
    opened(tables / "table_2_1.csv").add(rows, mi)
    opened(tables / "table_2_2.csv").add(rows)
    opened(tables / "table_2_2.csv", steps=2).add(more)
    kept = tmp_path / "data" / "results" / "laptop" / "shapes"
    opened(kept / "table_2_2.csv").add(more, em)
    command = ["make", "-o", ".venv/.stamp", "figures", "PY=true", "DATASET=shapes"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=_without_build())
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in kept.iterdir() if path.suffix in (".csv", ".npz"))
    assert names == ["table_2_1.csv", "table_2_1.outcomes.npz", "table_2_2.csv"]
    assert same(results.outcomes(kept / "table_2_1.csv"), mi)


def _without_build():
    return {name: value for name, value in os.environ.items() if name != "ADVLIB_BUILD"}
