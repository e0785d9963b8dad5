"""Fine-tuning on image files that are decoded while it runs: 24 small photographs, and a network with dropout."""

import csv
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from advlib import lipschitz
from advlib.bench import trainees
from advlib.bench.chapters import Run
from advlib.core.surrogate import Normalized
from advlib.training import fitting, streaming, surrogates
from advlib.training.objectives import Classification, LipschitzRegularized
from advlib.training.recipes import FINE_TUNING
from advlib.training.streaming import Order, Views
from advlib.training.surrogates import fine_tune
from advlib.zoo import datasets, models
from advlib.zoo.photographs import DataError, Photographs
from advlib.zoo.weights import WeightsError

HERE = {"epochs": 2, "batch_size": 4, "bf16": False, "lr": 0.05}
LRS = LipschitzRegularized(0.01, 0.01, form="text")
RECIPE = replace(FINE_TUNING, objective=LRS, **HERE)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A folder like imagenet_sample: 24 photographs of 20 to 43 pixels in ten classes, and one that is not there."""
    folder = tmp_path_factory.mktemp("data") / "imagenet_sample"
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    rows = [(f"{k}.png", f"n{k:08d}", k % 10, "a name, with a comma") for k in range(25)]
    for k, (name, *_) in enumerate(rows[:-1]):
        pixels = random.integers(0, 256, (20, 20 + k, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
    with open(folder / "images.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "wnid", "label", "name"), *rows])
    return folder


@pytest.fixture
def parts(sample):
    return datasets.photographs(sample, held_back=8)


def network(dropout=0.3):
    """Ten logits of images of 16 pixels."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, 2), nn.Softplus(), nn.Dropout(dropout), nn.AdaptiveAvgPool2d(3), nn.Flatten()]
    return Normalized(nn.Sequential(*layers, nn.Linear(54, 10)), (0.5,) * 3, (0.25,) * 3, 16).eval()


def equal(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def tuned(parts, objective=LRS, net=None, checkpoint=None, **changes):
    """The weights after a fine-tuning."""
    net = network() if net is None else net
    fine_tune(net, *parts, objective, checkpoint, **{**HERE, **changes})
    return net.state_dict()


# --- the images ------------------------------------------------------------------------------------------------------


def test_what_is_held_back_is_the_same_each_time_and_not_in_the_rest(sample, parts):
    train, val = parts
    again = datasets.photographs(sample, held_back=8)
    assert [p.digest() for p in again] == [train.digest(), val.digest()] and train.digest() != val.digest()
    assert len(val) == 8 and sorted([*train.index.tolist(), *val.index.tolist()]) == list(range(24))
    for part in parts:
        assert [int(f.rsplit("/", 1)[1].removesuffix(".png")) for f in part.files] == part.index.tolist()
        assert torch.equal(part.labels, part.index % 10)


def test_the_sample_is_a_data_set_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVLIB_DATA", str(tmp_path))
    (tmp_path / "imagenet_sample" / "images").mkdir(parents=True)
    Image.new("RGB", (20, 30), (9, 8, 7)).save(tmp_path / "imagenet_sample" / "images" / "one.png")
    rows = "".join(f"one.png,{k}\n" for k in range(210))
    (tmp_path / "imagenet_sample" / "images.csv").write_text(f"file,label\n{rows}")
    assert datasets.locate("imagenet_sample") == tmp_path / "imagenet_sample"
    train, val = datasets.load("imagenet_sample", "train", size=16), datasets.load("imagenet_sample", "val", 4, 16)
    assert len(train) == 10 and val.images.shape == (4, 3, 16, 16) and len(val.classes) == 1000
    assert torch.equal(val.index, datasets.photographs()[1].index[:4]) and torch.equal(val.labels, val.index)


def test_the_folder_of_all_images_is_taken_by_path(tmp_path):
    from timm.data import ImageNetInfo

    for wnid in ImageNetInfo().label_names():
        (tmp_path / "train" / wnid).mkdir(parents=True)
    for k, wnid in enumerate(ImageNetInfo().label_names()[:5]):
        Image.new("RGB", (9, 9), (k, k, k)).save(tmp_path / "train" / wnid / "1.JPEG")
    train, val = datasets.photographs(tmp_path, held_back=2)
    assert sorted([*train.labels.tolist(), *val.labels.tolist()]) == [0, 1, 2, 3, 4] and len(val) == 2


def test_images_that_are_missing_or_damaged_are_named(tmp_path, monkeypatch, sample):
    monkeypatch.setenv("ADVLIB_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"imagenet_sample not found. Looked in .*columns file, and label .*image-net"):
        datasets.photographs()
    with pytest.raises(DataError, match="neither images.csv nor train/"):
        datasets.photographs(tmp_path)
    with pytest.raises(ValueError, match="held_back=24"):
        datasets.photographs(sample, held_back=24)
    (tmp_path / "half.jpg").write_bytes(b"\xff\xd8")
    broken = Photographs.of([tmp_path / "half.jpg", tmp_path / "none.jpg"], [0, 0])
    for row, what in enumerate(("half.jpg: not a complete image", "none.jpg: No such file")):
        with pytest.raises(DataError, match=what):
            broken.pixels(row)


def test_a_view_hangs_on_seed_index_and_epoch_alone(parts):
    train = parts[0]
    views = Views(train, 16, 0.5, seed=3)
    x, y, index = views[2, 5]
    torch.manual_seed(7)  # of no effect, and not used up
    state = torch.get_rng_state()
    same = Views(train[3:], 16, 0.5, seed=3)[2, 2]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, same[0]) and (y, index) == same[1:] == (train.labels[5], train.index[5])
    others = [views[3, 5][0], Views(train, 16, 0.5, seed=4)[2, 5][0]]
    assert not any(torch.equal(x, other) for other in others)
    assert x.shape == (3, 16, 16) and x.dtype == torch.float32 and 0 <= x.min() < x.max() <= 1


def test_a_still_view_is_the_middle_in_every_epoch(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[1:15, 1:15] = 255
    Image.fromarray(pixels).save(tmp_path / "frame.png")
    views = Views(Photographs.of([tmp_path / "frame.png"], [0]), 14)
    assert torch.equal(views[0, 0][0], torch.ones(3, 14, 14)) and torch.equal(views[5, 0][0], views[0, 0][0])


@pytest.mark.parametrize("seed", [None, 0])
def test_shares_of_processes_have_no_row_in_common(monkeypatch, seed):
    monkeypatch.setattr(streaming.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(streaming.dist, "get_world_size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(streaming.dist, "get_rank", lambda rank=rank: rank)
        shares.append(Order(11, seed))
    rows = [row for share in shares for _, row in share]
    assert [len(list(share)) for share in shares] == [len(share) for share in shares]
    assert len(rows) == len(set(rows)) == (11 if seed is None else 9)  # to train, as many for each
    shares[0].epoch = 1
    assert ([row for _, row in shares[0]] == rows[: len(shares[0])]) == (seed is None)


# --- fine-tuning -----------------------------------------------------------------------------------------------------


def test_killed_fine_tuning_goes_on_to_the_same_weights_with_other_workers(parts, tmp_path):
    def kill(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(parts, checkpoint=tmp_path / "net.pt", report=kill)
    rows, net = [], network()
    torch.manual_seed(9)  # of no effect
    resumed = tuned(parts, net=net, checkpoint=tmp_path / "net.pt", report=rows.append)
    assert equal(resumed, tuned(parts, workers=1)) and [row["epoch"] for row in rows] == [2]
    with pytest.raises(ValueError, match="another training, by its training data"):
        tuned((parts[0][:-1], parts[1]), checkpoint=tmp_path / "net.pt")


def test_every_epoch_has_an_order_of_its_own(parts, monkeypatch):
    keys, view = [], Views.__getitem__
    monkeypatch.setattr(Views, "__getitem__", lambda self, key: keys.append((self.random, *key)) or view(self, key))
    tuned(parts)
    first, second = ([row for random, e, row in keys if random and e == epoch] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(16)) and first != second


def test_without_a_penalty_it_is_plain_training_and_a_small_one_is_near_it(parts):
    plain = tuned(parts, Classification())
    assert not equal(plain, network().state_dict())
    assert equal(tuned(parts, LipschitzRegularized(0.0, 0.0)), plain)
    # Dropout goes on as in plain training, whatever passes a penalty takes.
    near = tuned(parts, LipschitzRegularized(1e-9, 1e-9))
    assert not equal(near, plain) and all(torch.allclose(near[k], plain[k], atol=1e-5) for k in plain)


def test_the_penalty_makes_the_loss_flat_around_images(parts):
    x, y, _ = next(iter(streaming.loader(Views(parts[0], 16), 16, 0)))
    slopes = []
    for objective in (Classification(), LipschitzRegularized(1.0, 0.0, form="text")):
        net = network()
        tuned(parts, objective, net, epochs=4)
        slopes.append(lipschitz.lrs1(net, x, y, form="text").mean())
    assert slopes[1] < 0.7 * slopes[0]


def test_held_back_images_are_looked_at_in_eval_mode_only(parts, monkeypatch):
    net, seen = network(), {True: set(), False: set()}
    pixels = Photographs.pixels
    monkeypatch.setattr(
        Photographs, "pixels", lambda self, row: seen[net.training].add(self.files[row]) or pixels(self, row)
    )
    tuned(parts, net=net)
    assert seen == {True: set(parts[0].files), False: set(parts[1].files)}


def test_what_is_no_fine_tuning_is_refused_by_name(parts, tmp_path):
    train, val = parts
    calls = {
        "model: expected a Normalized": {"model": nn.Linear(2, 2)},
        "model: expected one that says": {"model": Normalized(nn.Flatten(), (0.5,) * 3, (0.25,) * 3)},
        "train: expected Photographs": {"train": train.labels},
        "val: holds no image": {"val": val[:0]},
        "checkpoint": {"checkpoint": str(tmp_path)},
        "workers": {"workers": -1},
        "batch_size=40: larger": {"batch_size": 40},
        "epochs": {"epochs": 0},
        "rate": {"rate": 1},
        "val.labels: class 12": {"val": replace(val, labels=val.labels + 12 - val.labels.max())},
    }
    for named, change in calls.items():
        arguments = {"model": network(), "train": train, "val": val, "objective": LRS, **HERE, **change}
        with pytest.raises((TypeError, ValueError), match=named):
            fine_tune(**arguments)


# --- by name ---------------------------------------------------------------------------------------------------------


WATCH = lambda net: {"size": float(net.size)}  # noqa: E731


@pytest.fixture
def zoo(monkeypatch):
    start = network()
    monkeypatch.setattr(models, "load", lambda name: deepcopy(start))
    return start


def test_surrogates_are_made_once_and_loaded_by_name(parts, zoo, tmp_path):
    rows = []

    def made(wanted=("tuned", "lrs1"), **changes):
        rows.clear()
        options = {"report": lambda variant, row: rows.append((variant, row["epoch"])), "watch": WATCH}
        return surrogates.make("imagenet/tiny", tmp_path, parts, wanted, replace(RECIPE, **changes), **options)

    found = made()
    assert rows == [("tuned", 1), ("tuned", 2), ("lrs1", 1), ("lrs1", 2)]
    wanted = tuned(parts, replace(LRS, lambda2=0.0))
    kept = surrogates.load("imagenet/tiny-lrs1", tmp_path)
    assert not kept.training
    assert all(torch.equal(v, wanted[k].half().float()) for k, v in kept.state_dict().items())
    entry = found["lrs1"]
    still = streaming.loader(Views(parts[1], 16), 4, 0)
    assert entry["before"] == {"accuracy": streaming.accuracy(zoo, still), "size": 16.0} and entry["size"] == [16.0] * 2
    assert entry["n"] == 8 and entry["trained_on"] == 16 and entry["accuracy"] == entry["curve"][-1]
    again = made()
    assert not rows and again["lrs1"]["accuracy"] == entry["accuracy"]
    made(("lrs1",), epochs=1)
    assert rows == [("lrs1", 1)]
    assert not list(tmp_path.rglob("*.pt"))
    with pytest.raises(WeightsError, match="no entry imagenet/tiny-lrsf"):
        surrogates.load("imagenet/tiny-lrsf", tmp_path)
    with pytest.raises(ValueError, match="wanted='lrs3'"):
        made(("lrs3",))


def test_a_killed_making_goes_on(parts, zoo, tmp_path, monkeypatch):
    def made(folder):
        return surrogates.make("imagenet/tiny", tmp_path / folder, parts, ("lrsf",), RECIPE)["lrsf"]

    straight, save = made("straight"), fitting.State.save

    def killed(state, path, rows):
        save(state, path, rows)
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting.State, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        made("killed")
    monkeypatch.setattr(fitting.State, "save", save)
    assert made("killed")["sha256"] == straight["sha256"]


# --- of a chapter ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "epochs", "trained_on"), [("smoke", 1, 6), ("laptop", surrogates.SHORT.epochs, 16)])
def test_a_chapter_makes_its_surrogates_in_its_own_folder(scale, epochs, trained_on, parts, zoo, tmp_path, monkeypatch):
    """A trial at smoke scale; and again nothing, since they are there."""
    monkeypatch.setattr(datasets, "photographs", lambda: parts)
    monkeypatch.setattr(trainees, "TRIAL_PHOTOGRAPHS", 6)
    monkeypatch.setattr(surrogates, "SHORT", replace(surrogates.SHORT, batch_size=4))
    run, rows = Run("06", tmp_path, scale, "imagenet"), []
    report = lambda variant, of, row: rows.append((variant, of, row["epoch"]))  # noqa: E731
    for _ in range(2):
        entry = trainees.smoothed("imagenet/tiny", run, ["lrs1"], seed=1, report=report)["lrs1"]
    assert rows == [("lrs1", epochs, epoch + 1) for epoch in range(epochs)]
    assert (entry["trained_on"], entry["seed"]) == (trained_on, 1)
    assert not surrogates.load("imagenet/tiny-lrs1", tmp_path / "weights" / "06").training


def test_a_chapter_may_train_for_longer(parts, zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "photographs", lambda: parts)
    run = Run("06", tmp_path, "laptop", "imagenet")
    assert trainees.smoothed("imagenet/tiny", run, ["tuned"], epochs=2)["tuned"]["recipe"]["epochs"] == 2
