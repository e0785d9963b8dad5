"""Trainings from several seeds: each its own, taken up after a kill, and judged as its table says."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_model

from advlib import training
from advlib.bench.measures import geometry
from advlib.bench.seeds import Trainings, outcome
from advlib.core import intervals
from advlib.training.recipes import Recipe
from advlib.zoo import datasets

SHORT = Recipe(epochs=2, batch_size=16, lr=0.05, augment=(), bf16=False)


@pytest.fixture(scope="module")
def data():
    return [datasets.load("shapes", split, n=n, size=16) for split, n in (("train", 48), ("val", 16), ("test", 30))]


def network(seed):
    return tiny_model(seed, scale=1.0)


def test_a_training_begins_from_its_seed_and_is_taken_up_by_its_recipe(data, tmp_path):
    train_once = Trainings(network, *data[:2], tmp_path)
    first, rows = train_once("SAM, 2 x", SHORT)
    other, _ = train_once("SAM, 2 x", replace(SHORT, seed=1))
    assert [row["epoch"] for row in rows] == [1, 2] and train_once.taken_up == []
    assert not torch.equal(first.net[0].weight, other.net[0].weight)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert len(files) == 2 and all(name.startswith("SAM,_2_x_") and name.endswith(".pt") for name in files)
    again = Trainings(network, *data[:2], tmp_path)
    taken, history = again("SAM, 2 x", SHORT)
    assert again.taken_up == ["SAM, 2 x, seed 0"] and history == rows
    assert all(torch.equal(a, b) for a, b in zip(taken.state_dict().values(), first.state_dict().values(), strict=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == files


def test_what_is_watched_stands_in_the_rows_of_its_epochs(data, tmp_path):
    train_once = Trainings(network, *data[:2], tmp_path)
    _, rows = train_once("watched", SHORT, watch=lambda model: {"one": 1.0}, watch_at=[2])
    assert ["one" in row for row in rows] == [False, True]


def test_the_outcome_is_accuracy_with_its_interval_and_geometry(data):
    net, test = network(0), data[2]
    accuracy, *others = outcome(net, test, test[:8], probes=2)
    right = round(training.accuracy(net, test) * 30)
    low, high = intervals.wilson(right, 30)
    assert accuracy == {"metric": "accuracy", "value": 100 * right / 30, "n": 30, "ci_low": low, "ci_high": high}
    assert {row["metric"]: row["value"] for row in others} == geometry(net, test[:8], 2)
    assert {row["n"] for row in others} == {8}
