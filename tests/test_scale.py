"""What tables cost: cells and passes as printed and counted, arithmetic by hand, and schedules with a known end."""

import os
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from advlib import engines
from advlib.bench import scale
from advlib.files.paths import ROOT


def test_cells_are_those_printed_and_passes_those_of_the_thesis_steps():
    found = scale.cells("2.1").set_index(["source", "attack"])
    assert len(found) == 4 * 3 and set(found.n) == {1000} and set(found.passes) == {10}
    assert set(scale.cells("2.3").passes) == {4 * 10}, "each member of the ensemble counts"
    of_five = scale.cells("2.5").set_index(["source", "attack"]).passes
    assert of_five["Ensemble", "MI-Composite"] == 4 * 50 and of_five["Inc-v3", "MI-Composite"] == 50
    penalty = scale.cells("3.1").set_index(["attack", "eps_255"]).passes
    assert penalty["I-FGSM", 8] == 100 and penalty["I-FGSM+GNP", 8] == 200
    with pytest.raises(ValueError, match=r"4\.5"):
        scale.cells("4.5")


def test_arithmetic_is_that_of_the_papers():
    """Of ResNet-20 41 million multiplications, of ResNet-50 4.1 billion (He et al. 2015), each with an addition."""
    assert scale.forward("resnet20", 32) == pytest.approx(2 * 41e6, rel=0.02)
    assert scale.forward("resnet50", 224) == pytest.approx(2 * 4.1e9, rel=0.01)


def test_a_rate_is_the_speed_of_the_yardstick_times_its_arithmetic(tmp_path, monkeypatch):
    (tmp_path / "gpu").mkdir()
    case = scale.YARDSTICKS[32][0]
    lines = ["section,case,metric,value", *(f'loop,"{case}","{metric}: speed",{v}' for metric, v in RATES.items())]
    (tmp_path / "gpu" / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(scale, "RESULTS", tmp_path)
    scale.rate.cache_clear()
    assert scale.rate(32) == 1000 * 2 * scale.forward("resnet20", 32)
    with pytest.raises(FileNotFoundError, match="ResNet-50"):
        scale.rate(224)
    scale.rate.cache_clear()


RATES = {"folded, bfloat16": 7, "folded, bfloat16, graph": 1000}


def test_a_cell_takes_its_passes_and_shows_every_target_the_result_once(monkeypatch):
    monkeypatch.setattr(scale, "forward", lambda name, side: 3.0)
    monkeypatch.setattr(scale, "rate", lambda side: 1000.0)
    assert scale.seconds("2.1") == [1000 * 3 * (2 * 10 + 7) / 1000] * 12
    assert scale.seconds("2.3") == [1000 * 3 * (2 * 40 + 7) / 1000] * 3


def test_the_page_has_the_table_as_it_is_computed():
    shown = (ROOT / "book" / "many_gpus.md").read_text(encoding="utf-8")
    computed = shown[shown.index("|   table |") :].partition("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in computed]
    found = scale.table().round(1)
    assert rows[0] == ["table", *found.columns] and [row[0] for row in rows[2:]] == list(found.index)
    assert [[float(cell) for cell in row[1:]] for row in rows[2:]] == [list(row) for row in found.to_numpy()]


def test_the_last_worker_is_done_when_the_longest_are_taken_first():
    work = [1.0, 1.0, 2.0, 4.0]
    assert [scale.makespan(work, k) for k in (1, 2, 8)] == [8.0, 4.0, 4.0]
    assert scale.makespan(work, 8, parts=4) == 1.0
    assert scale.makespan([1.0], 8, parts=8, each=0.5) == 0.625
    assert scale.makespan(work, 1, each=0.25) == 9.0


UNIT = 0.08
"""Seconds of a cell of length 1."""


class Sleeps:
    """A job whose cells, (number, length), take what they say, and tell who took them from when to when."""

    device = torch.device("cpu")

    def __init__(self, folder, workers):
        self.folder, self.workers = folder, workers

    def parts(self):
        return {}

    def ready(self):
        # Interpreters need seconds to start, and not all the same: the workers wait for one another.
        Path(self.folder, str(os.getpid())).touch()
        while len(os.listdir(self.folder)) < self.workers:
            time.sleep(0.001)
        return nullcontext()

    def __call__(self, cell, say):
        begun = time.monotonic()
        time.sleep(cell[1] * UNIT)
        return os.getpid(), begun, time.monotonic()


def test_an_engine_takes_as_long_as_the_model_says(tmp_path):
    """Within one unit of eight: no sleep is too short, and what lies between two cells is little beside one. Two of
    these cells never end within a unit of each other."""
    lengths = [7, 4, 2, 2]
    found = list(engines.Local(jobs=2).run(Sleeps(tmp_path, 2), list(enumerate(lengths))))
    assert [number for (number, _), _ in found] == [1, 2, 0, 3]
    workers = {}
    for (_, length), (worker, _, _) in found:
        workers.setdefault(worker, []).append(length)
    assert sorted(workers.values()) == [[4, 2, 2], [7]]
    took = (max(end for _, (_, _, end) in found) - min(begun for _, (_, begun, _) in found)) / UNIT
    assert 0 <= took - scale.makespan(lengths, 2) < 1
