"""Training whose passes are recorded and replayed ends at the bits of training that is not, without a GPU: the tape of
tests/test_graphs.py takes the place of a CUDA graph."""

import warnings
from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import tiny_model
from test_graphs import recorder  # noqa: F401 `recorder` is a fixture
from torch import nn

import advlib as al
from advlib import graphs, sam, sam_family
from advlib.training import replayed
from advlib.training.fitting import fit
from advlib.training.objectives import NoisyClassification
from advlib.training.recipes import Recipe
from advlib.zoo import datasets

STEPS = 54
LONG = Recipe(epochs=9, batch_size=8, lr=0.05, augment=("crop", "flip"), bf16=False)  # of 48 images
STEADY = {
    "SGD": {},
    "AdamW, bf16": {"optimizer": "adamw", "lr": 1e-3, "bf16": True},
    "moving average": {"ema": 0.9, "schedule": "cosine"},
    "SAM": {"wrapper": sam.SAM},
    "ASAM": {"wrapper": partial(sam.SAM, rho=0.5, adaptive=True)},
    "GSAM": {"wrapper": sam_family.GSAM, "bf16": True},
    "CR-SAM": {"wrapper": partial(sam.CRSAM, rho=0.2), "ema": 0.9},
    "CR-SAM, log": {"wrapper": partial(sam.CRSAM, form="log"), "lr": 0.01},
}


@pytest.fixture(scope="module")
def data():
    return datasets.load("shapes", "train", n=48, size=16), datasets.load("shapes", "val", n=16, size=16)


def trained(data, recipe=LONG, model=None, **options):
    """Weights and statistics, and what was said of every epoch but its seconds."""
    model = tiny_model(scale=1.0) if model is None else model
    history = fit(model, *data, recipe, **options)
    return model.state_dict(), [{k: v for k, v in row.items() if k != "seconds"} for row in history]


@pytest.fixture
def eager(monkeypatch):
    """`trained` where nothing records."""

    def run(*args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(graphs, "_recorder", lambda device: None)
            return trained(*args, **options)

    return run


def same(found, wanted):
    (weights, history), (theirs, other) = found, wanted
    return history == other and all(torch.equal(weights[k], theirs[k]) for k in theirs)


class Seen(nn.Module):
    """A network that counts its passes in train mode; `then` is called with its logits in each of them."""

    def __init__(self, then=lambda logits: None):
        super().__init__()
        self.net, self.passes, self.then = tiny_model(scale=1.0), 0, then

    def forward(self, x):
        logits = self.net(x)
        if self.training:
            self.passes += 1
            self.then(logits)
        return logits


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", STEADY)
def test_a_replayed_training_is_the_training(name, data, recorder, eager):  # noqa: F811
    recipe, steps = replace(LONG, **STEADY[name]), []
    found = trained(data, recipe, after_step=steps.append)
    assert len(recorder.tapes) == 1 and steps == list(range(1, STEPS + 1))
    assert same(found, eager(data, recipe))


@pytest.mark.parametrize(("around", "passes"), [(None, 1), (sam.SAM, 2), (sam.CRSAM, 3)])
def test_nothing_but_the_tape_runs_the_network_and_its_statistics_count_every_step_once(
    around, passes, data, recorder  # noqa: F811
):  # fmt: skip
    model = Seen()
    trained(data, replace(LONG, wrapper=around), model)
    assert model.passes == 2 * passes  # of the rehearsal, and of the recording
    assert model.net.net[1].num_batches_tracked == STEPS


def test_the_floored_logarithms_of_a_rehearsal_are_not_counted(data, recorder):  # noqa: F811
    made = []

    def kept(*args, **options):
        made.append(sam.CRSAM(*args, form="log", rho=0.0, **options))
        return made[-1]

    trained(data, replace(LONG, wrapper=kept))
    assert recorder.tapes and made[0].floored.tolist() == [STEPS, STEPS]


@pytest.mark.parametrize("first", [True, False], ids=["replayed", "not replayed"])
@pytest.mark.parametrize("name", ["moving average", "CR-SAM"])
def test_a_training_goes_on_from_a_checkpoint_as_if_it_never_stopped(
    name, first, data, tmp_path, recorder, eager  # noqa: F811
):  # fmt: skip
    def kill(row):
        if row["epoch"] == 8:
            raise KeyboardInterrupt

    recipe, checkpoint = replace(LONG, **STEADY[name]), tmp_path / "net.pt"
    with pytest.raises(KeyboardInterrupt):
        (trained if first else eager)(data, recipe, checkpoint=checkpoint, report=kill)
    found = trained(data, recipe, checkpoint=checkpoint)
    assert len(recorder.tapes) == 1 + first and same(found, eager(data, recipe))
    trained(data, recipe, checkpoint=checkpoint)
    assert len(recorder.tapes) == 1 + first, "recorded for a training that was over"


def test_gradients_taken_away_between_steps_are_put_back(data, recorder, eager):  # noqa: F811
    taken = tiny_model(scale=1.0)
    found = trained(data, LONG, taken, after_step=lambda done: taken.zero_grad(set_to_none=bool(done % 2)))
    assert recorder.tapes and same(found, eager(data))


def test_what_is_watched_is_the_network_after_each_epoch(data, recorder, eager):  # noqa: F811
    def watch(model):
        return {"norm": model.net[0].weight.norm().item(), "count": model.net[1].num_batches_tracked.item()}

    assert same(trained(data, watch=watch), eager(data, watch=watch)) and recorder.tapes


def dropping():
    model = tiny_model(scale=1.0)
    model.net.insert(3, nn.Dropout(0.1))
    return model


def test_a_rehearsal_leaves_the_generators_alone(data, recorder):  # noqa: F811
    before = torch.get_rng_state()
    trained(data, LONG, dropping())
    assert torch.equal(torch.get_rng_state(), before)


OTHERS = {
    "dropout": ({}, dropping),
    "few steps": ({"epochs": 8}, None),
    "another objective": ({"objective": NoisyClassification()}, None),
    "same draws": ({"wrapper": partial(sam.SAM, same_draws=True)}, None),
    "Random SAM": ({"wrapper": sam.RandomSAM}, None),
    "LookSAM": ({"wrapper": sam_family.LookSAM}, None),
    "ESAM": ({"wrapper": sam_family.ESAM}, None),
    "SSAM": ({"wrapper": sam_family.SSAM}, None),
    "AE-SAM": ({"wrapper": sam_family.AESAM}, None),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_differs_from_step_to_step_is_not_recorded(name, data, recorder, eager):  # noqa: F811
    change, make = OTHERS[name]
    recipe, make = replace(LONG, **change), make or (lambda: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = trained(data, recipe, make())
    assert not recorder.tapes and same(found, eager(data, recipe, make()))


def test_compiled_or_exchanged_passes_are_not_recorded():
    weights = [nn.Parameter(torch.ones(2))]
    assert replayed.repeats(sam.SAM(weights, lr=0.1), LONG, STEPS)
    assert not replayed.repeats(sam.SAM(weights, lr=0.1), replace(LONG, compile=True), STEPS)
    assert not replayed.repeats(sam.SAM(weights, lr=0.1, local=torch.no_grad), LONG, STEPS)


def waiting(logits):
    """A value is read where the statistics have been counted."""
    return logits.sum().item()


class Full:
    """No memory is left in the second pass, that of the recording."""

    def __init__(self):
        self.calls = 0

    def __call__(self, logits):
        self.calls += 1
        if self.calls == 2:
            raise torch.OutOfMemoryError("out of memory")


@pytest.mark.parametrize(("then", "why"), [(lambda: waiting, "it waits"), (Full, "out of memory")])
def test_what_cannot_be_recorded_says_so_and_is_trained_as_ever(then, why, data, recorder, eager):  # noqa: F811
    with pytest.warns(RuntimeWarning, match=f"^fit: every step is launched anew, .*{why}") as caught:
        found = trained(data, LONG, Seen(then()))
    assert caught[0].filename == __file__ and same(found, eager(data, LONG, Seen()))


def test_on_a_cpu_nothing_is_recorded(data, monkeypatch):
    monkeypatch.setattr(replayed, "Recording", None)
    trained(data)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", STEADY)
def test_on_a_gpu_a_replayed_training_is_the_training(name, data, eager):
    """Of a network without pooling, which has no fixed order of adding."""
    recipe, model = replace(LONG, **STEADY[name]), Seen()
    model.net.net[0], model.net.net[3] = nn.Conv2d(3, 8, 4, stride=4), nn.Identity()
    other = deepcopy(model).cuda()
    with al.deterministic(), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = trained(data, recipe, model.cuda())
        assert model.passes <= 6 and same(found, eager(data, recipe, other))
