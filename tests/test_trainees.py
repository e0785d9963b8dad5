"""Nets that are trained on engines: those of one process, bit for bit, in an order in which each finds its own."""

import os
import signal
import threading
from functools import partial
from pathlib import Path

import pytest
from conftest import tiny_model

from advlib import engines
from advlib.bench import trainees
from advlib.bench.seeds import Trainings
from advlib.training.recipes import Recipe
from advlib.zoo import datasets, weights

NETS = ["vgg", "comdefend"]


def watched(model, kills=None):
    """A number of the model; in its second epoch the first training ends its process, the one time."""
    first = sum(float(p.detach().double().sum()) for p in model.parameters())
    if kills is not None:
        epochs = Path(kills, str(os.getpid()))
        epochs.write_text(epochs.read_text() + "." if epochs.exists() else ".")
        if len(epochs.read_text()) == 2 and not (died := Path(kills, "died")).exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return {"first": first}


def trained(folder, engine, watch):
    said = []
    options = {"report": lambda net, epochs, row: said.append((net, epochs, row["epoch"])), "watch": watch}
    options |= {"engine": engine, "epochs": 2}
    found = trainees.provide("shapes", NETS, NETS, folder / "checkpoints", folder / "weights", **options)
    assert found.trained == tuple(NETS) and found.trial
    listed = weights.manifest(folder / "weights")
    return {name: {k: v for k, v in entry.items() if k != "date"} for name, entry in listed.items()}, said


def test_nets_of_workers_are_those_of_one_process_bit_for_bit_and_a_death_costs_an_epoch(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainees, "TRIAL", 64)
    expected, said = trained(tmp_path / "serial", "serial", watched)
    assert capsys.readouterr().out.count("training: ") == 2, "a line for each"
    (tmp_path / "local" / "checkpoints").mkdir(parents=True)
    (tmp_path / "local" / "checkpoints" / "shapes_vgg.pt").write_bytes(b"left by another training, and not taken up")
    (tmp_path / "kills").mkdir()
    found, heard = trained(tmp_path / "local", engines.Local(2), partial(watched, kills=str(tmp_path / "kills")))
    assert found == expected and list(found) == ["shapes/comdefend", "shapes/vgg"]
    assert (tmp_path / "kills" / "died").exists()
    assert sorted(heard) == sorted(said) == [(net, 2, k) for net in sorted(NETS) for k in (1, 2)]
    files = {path.name for path in (tmp_path / "local" / "checkpoints").iterdir()}
    assert files == {f"shapes_{net}.pt" for net in NETS}


# --- the order -------------------------------------------------------------------------------------------------------

NEEDY = {
    "hgd": {"vgg", "resnet"},
    "comdefend": {"vgg"},
    "vgg-ens3": {"vgg", "resnet", "densenet"},
    "densenet-lrsf": {"densenet"},
    "vgg-pgd": set(),
    "resnet-crsam": set(),
}
ALL = [*NEEDY, "densenet", "resnet", "vgg"]


class Recorded(engines.Serial):
    """Trains nothing, and remembers what it was asked for at once. Some fail."""

    def __init__(self, failing=()):
        object.__setattr__(self, "failing", failing)
        object.__setattr__(self, "asked", [])

    def run(self, job, cells, heard):
        self.asked.append(set(cells))
        for net in cells:
            yield net, engines.CellError("no such luck") if net in self.failing else {}


def test_a_net_waits_for_those_that_its_training_loads():
    engine = Recorded()
    assert trainees.provide("shapes", ALL, ALL, engine=engine).trained == tuple(ALL)
    assert engine.asked == [
        {"densenet", "resnet", "vgg", "vgg-pgd", "resnet-crsam"},
        {"hgd", "comdefend", "vgg-ens3", "densenet-lrsf"},
    ]
    engine = Recorded()
    trainees.provide("shapes", ALL, ["vgg-ens3", "vgg", "hgd"], engine=engine)
    assert engine.asked == [{"vgg"}, {"vgg-ens3", "hgd"}], "the others are there"


def test_what_is_kept_elsewhere_is_waited_for_by_none(tmp_path):
    engine = Recorded()
    trainees.provide("shapes", ALL, ALL, trial=tmp_path, engine=engine)
    assert engine.asked == [set(ALL)]


def test_what_needs_a_net_that_failed_is_not_trained_and_named():
    engine = Recorded(failing=("resnet", "vgg-pgd"))
    with pytest.raises(engines.FailedCells, match="4 of 9 trainings failed") as caught:
        trainees.provide("shapes", ALL, ALL, engine=engine)
    assert set(caught.value.errors) == {"resnet", "vgg-pgd", "hgd", "vgg-ens3"}
    assert caught.value.errors["vgg-ens3"].cause == "it needs resnet" and engine.asked[1] == {
        "comdefend",
        "densenet-lrsf",
    }


def test_the_engine_is_that_of_the_environment_and_a_wrong_one_is_refused_before_any_work(monkeypatch):
    monkeypatch.setenv("ADVLIB_ENGINE", "threads")
    with pytest.raises(ValueError, match="engine='threads'"):
        trainees.provide("shapes", ["vgg"])
    with pytest.raises(ValueError, match="engine='dask'"):
        trainees.provide("shapes", ["vgg"], engine="dask")


# --- trainings from seeds --------------------------------------------------------------------------------------------

SHORT = Recipe(epochs=2, batch_size=16, lr=0.05, augment=(), bf16=False)
PLANS = [
    ("SGD", SHORT),
    ("SGD", Recipe(**{**vars(SHORT), "seed": 1})),
    ("watched", SHORT, watched, (2,)),
    ("too fast", Recipe(**{**vars(SHORT), "lr": 1e30})),
]


@pytest.fixture(scope="module")
def data():
    return [datasets.load("shapes", split, n=n, size=16) for split, n in (("train", 48), ("val", 16))]


def ended(train_once):
    """Weights and rows, the rows without what the clock says."""
    for plan in PLANS[:3]:
        net, rows = train_once(*plan)
        yield {k: v.tolist() for k, v in net.state_dict().items()}, [{**row, "seconds": 0} for row in rows]


def untrained(seed):
    return tiny_model(seed, scale=1.0)


def test_trainings_ahead_give_what_the_calls_give(data, tmp_path):
    alone = Trainings(untrained, *data, tmp_path / "alone")
    alone.ahead(PLANS)
    assert not (tmp_path / "alone").exists(), "in one process nothing is gained"
    side_by_side, said = Trainings(untrained, *data, tmp_path / "local", engine=engines.Local(2)), []
    with pytest.raises(engines.FailedCells, match="1 of 4 trainings failed.*\n  too fast, seed 0: FloatingPointError"):
        side_by_side.ahead(PLANS, lambda name, row: said.append((name, row["epoch"])))
    assert sorted(said) == [(n, k) for n in ("SGD, seed 0", "SGD, seed 1", "watched, seed 0") for k in (1, 2)]
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "local").iterdir()}
    assert list(ended(side_by_side)) == list(ended(alone)) and side_by_side.taken_up == []
    assert len(files) == 3 and all(path.stat().st_mtime_ns == when for path, when in files.items()), "taken as they are"
    again = Trainings(untrained, *data, tmp_path / "local")
    assert list(ended(again)) == list(ended(alone))
    assert again.taken_up == ["SGD, seed 0", "SGD, seed 1", "watched, seed 0"]


def test_what_cannot_be_sent_is_named(data, tmp_path):
    held = partial(watched, kills=threading.Lock())
    train_once = Trainings(untrained, *data, tmp_path, engine="local")
    with pytest.raises(TypeError, match="watch of SAM, seed 0: it cannot be sent"):
        train_once.ahead([("SGD", SHORT), ("SAM", SHORT, held)])
    with pytest.raises(TypeError, match="watch: it cannot be sent"):
        trainees.provide("shapes", ["vgg"], ["vgg"], trial=tmp_path, watch=held, engine="local")
