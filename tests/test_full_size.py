"""The thesis' networks on one GPU: trained and attacked in small, and what is read off the committed run."""

import json

import numpy as np
import pytest
import torch
from conftest import tiny_model

from advlib import attacks
from advlib.bench import outcomes
from advlib.bench.gpu import full_size
from advlib.zoo import datasets

DATA = {split: datasets.load("shapes", split, 128) for split in ("train", "val", "test")}


@pytest.fixture
def small(monkeypatch):
    """One network of each kind of optimizer, all of them tiny, on shapes, and two attacks."""
    wanted = ("ResNet-18, CR-SAM", "ResNet-18")
    monkeypatch.setattr(full_size, "NETWORKS", {name: full_size.NETWORKS[name] for name in wanted})
    monkeypatch.setattr(full_size, "ATTACKS", {"I-FGSM": attacks.i_fgsm, "MI-FGSM": attacks.mi_fgsm})
    monkeypatch.setattr(full_size, "HARD", {})
    monkeypatch.setattr(full_size.models, "create", lambda family, size: tiny_model())


def test_images_come_back_as_they_were():
    back = full_size._images(full_size._held(DATA["train"]))
    assert all(torch.equal(getattr(back, name), getattr(DATA["train"], name)) for name in ("images", "labels", "index"))
    assert (back.classes, back.dataset, back.split) == (DATA["train"].classes, "shapes", "train")


def test_networks_are_trained_by_their_optimizer_and_attacked(small, tmp_path):
    held = {split: full_size._held(images) for split, images in DATA.items()}
    for name, around in (("ResNet-18", None), ("ResNet-18, CR-SAM", "CRSAM")):
        assert full_size.train(name, "small", 1, held, tmp_path, "cpu").keys() == {"accuracy", "seconds"}
        facts = torch.load(full_size._weights(tmp_path, name), weights_only=True)["facts"]
        assert (facts["epochs"], facts["n"], len(facts["curve"])) == (1, 128, 1)
        assert (facts["recipe"]["wrapper"] or {"name": None})["name"] == around
    full_size.attack(DATA["test"], "small", tmp_path, "cpu")
    cells = outcomes.read(tmp_path / "transfer.outcomes.npz").cells
    assert len(cells) == 2 * 2 * 2 * 2  # sources, attacks, targets, budgets
    assert {fact["network"] for fact in json.loads((tmp_path / "networks.json").read_text())} == set(full_size.NETWORKS)


def test_a_flat_source_is_set_against_sgds_image_by_image(tmp_path):
    """Of four images of which three count, SGD's source fools one of three targets with each, and SAM's two."""
    right = np.array([True, True, True, False])
    share = {"ResNet-18": 1, "ResNet-18, SAM": 2, "ResNet-18, CR-SAM": 3}
    cells = {
        (source, "MI-FGSM", target, eps): outcomes.Outcome(np.array([place < count] * 3 + [True]), right)
        for source, count in share.items()
        for place, target in enumerate(full_size.OTHERS)
        for eps in (4.0, 8.0)
    }
    outcomes.write(tmp_path / "transfer.outcomes.npz", outcomes.Outcomes(np.arange(4), cells))
    facts = [{"network": name, "accuracy": 0.9} for name in share]
    (tmp_path / "networks.json").write_text(json.dumps(facts), encoding="utf-8")
    found = full_size.flat_sources("MI-FGSM", tmp_path)
    assert list(found["success (%) at 4/255"].round(1)) == [33.3, 66.7, 100.0]
    assert list(found["above SGD at 4/255, n = 3"]) == ["", "+33.3 [33.3, 33.3]", "+66.7 [66.7, 66.7]"]
    with pytest.raises(KeyError):
        full_size.flat_sources("DIM", tmp_path)


def test_the_committed_run_says_what_its_networks_were():
    facts = json.loads((full_size.COMMITTED / "networks.json").read_text(encoding="utf-8"))
    assert {fact["network"] for fact in facts} == set(full_size.NETWORKS)
    assert all(fact["n"] == 10_000 and fact["trained_on"] == 49_000 for fact in facts)
