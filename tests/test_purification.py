"""Purifiers as defences: what is trained is what is loaded; missing, wrong and damaged weights are errors."""

import pytest
import torch
from conftest import grid_images, tiny_model
from torch import nn

from advlib import attacks
from advlib.defenses import purification
from advlib.defenses.purification import PURIFIERS, Purification
from advlib.training import fitting, objectives, recipes
from advlib.zoo import datasets, models, registry, weights
from advlib.zoo.weights import WeightsError

KINDS = list(PURIFIERS)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Weights go to a folder of their own."""
    monkeypatch.setattr(purification, "WEIGHTS", tmp_path)
    return tmp_path


@pytest.mark.skipif("shapes/vgg" not in models.available(), reason="data/weights has no shapes/vgg: run notebook A1")
@pytest.mark.parametrize("kind", KINDS)
def test_trained_is_loaded(kind, small):
    name = f"shapes/{kind}"
    recipe = purification.recipe_for(name)
    recipe = recipes.Recipe(**{**vars(recipe), "epochs": 1, "batch_size": 16, "bf16": False})
    facts = purification.train(name, recipe, folder=small, n=32)
    defence = purification.load(name)
    assert defence.kind == "retrained" and not defence.net.training and facts["n"] == 32
    assert type(recipe.objective).__name__ in facts["recipe"]["objective"]
    data = datasets.load("shapes", "test", n=32)
    behind = defence(models.load("shapes/vgg"))
    assert fitting.accuracy(behind, data) == pytest.approx(facts["accuracy"], abs=0.07)  # weights are in fp16
    assert defence.purified(data.x, None).min() >= 0 and defence.purified(data.x, None).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_purifier_is_frozen_attacked_and_handed_back(kind):
    net = PURIFIERS[kind]().train()
    defended = Purification(net)(tiny_model())
    x = grid_images(4)
    adv = attacks.i_fgsm(defended, x, torch.zeros(4, dtype=torch.int64), eps=8 / 255, steps=2)
    assert (adv - x).abs().max() > 0 and net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_missing_and_unknown_names(small):
    with pytest.raises(WeightsError, match="run A2 --dataset shapes"):
        purification.load("shapes/hgd")
    for name in ("shapes/vgg", "mars/hgd", "hgd"):
        for wants_a_name in (purification.load, purification.recipe_for, purification.train):
            with pytest.raises(ValueError, match="hgd, comdefend, nrp"):
                wants_a_name(name)
    with pytest.raises(TypeError, match="name"):
        purification.load(None)


def test_damaged_weights_are_named(small):
    weights.save_weights("shapes/nrp", PURIFIERS["hgd"](), {}, small)
    with pytest.raises(WeightsError, match="nrp.safetensors: weights of another network"):
        purification.load("shapes/nrp")
    weights.save_weights("shapes/nrp", PURIFIERS["nrp"](), {}, small)
    assert not purification.load("shapes/nrp").net.training
    (small / "shapes" / "nrp.safetensors").write_bytes(b"abc")
    with pytest.raises(WeightsError, match="nrp.safetensors: sha256"):
        purification.load("shapes/nrp")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"net": None}, "net"),
        ({"net": nn.Identity()}, "net.gradients"),
        ({"net": PURIFIERS["nrp"]}, "net"),
        ({"kind": "mine"}, "kind"),
    ],
)
def test_what_is_no_purifier_is_refused_by_name(options, named):
    with pytest.raises((TypeError, ValueError), match=named):
        Purification(**{"net": PURIFIERS["nrp"](), **options})


@pytest.mark.parametrize("kind", KINDS)
def test_predicting_leaves_the_purifier_as_it_is(kind):
    net, x = PURIFIERS[kind]().train(), grid_images(4)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    Purification(net)(tiny_model()).predict(x)
    assert net.training and all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_hardened_nets_have_names_recipes_and_an_error_that_says_who_trains_them(monkeypatch):
    monkeypatch.setattr(models, "manifest", lambda folder: {})
    for variant in registry.HARDENED:
        with pytest.raises(WeightsError, match="run A2 --dataset shapes"):
            models.load(f"shapes/vgg-{variant}")
        assert recipes.recipe_for(f"shapes/vgg-{variant}").objective != objectives.Classification()
    assert recipes.recipe_for("shapes/vgg-ens3").objective.pool == ("shapes/vgg", "shapes/resnet", "shapes/densenet")
    assert recipes.recipe_for("cifar10/vgg") == recipes.RECIPES["cifar10"]
