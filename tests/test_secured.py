"""The targets of Tables 2.5 and 3.3: the names of the tables, what guards what, and what is left out."""

import pytest
import torch
from conftest import grid_images, tiny_model

from advlib.core import published
from advlib.defenses import authors, purification, secured, transformations
from advlib.defenses.purification import PURIFIERS, Purification
from advlib.zoo import witnesses


def printed(table):
    """The targets of a published table, in its order."""
    return list(dict.fromkeys(published.table(table).query("target != 'Average'").target))


@pytest.fixture
def loaded(monkeypatch):
    """Tiny networks in place of all others; the names that were asked for."""
    names = []
    monkeypatch.setattr(secured.models, "load", lambda name: names.append(name) or tiny_model())
    monkeypatch.setattr(purification, "load", lambda name: Purification(PURIFIERS[name.split("/")[1]]()))
    return names


def test_the_nine_are_those_of_table_2_5_and_each_is_a_model(loaded):
    nine, x = secured.nine("shapes", seed=3), grid_images(2, 32, 32)
    assert [*nine] == list(secured.NINE) == printed("2.5")
    assert {"shapes/vgg", "shapes/vgg-noise", "shapes/vgg-pgd", "shapes/pyramidnet-ens1"} <= set(loaded)
    with torch.no_grad():
        assert all(guard(x).shape == (2, 10) and not guard.training for guard in nine.values())
    assert {guard.seed for guard in nine.values()} == {3}


def test_the_six_are_three_trained_and_three_of_the_nine(loaded):
    six = secured.six("shapes")
    assert len(six) == len(printed("3.3")) and [*six][3:] == printed("3.3")[3:] == ["JPEG", "R&P", "NRP"]
    assert {"shapes/vgg-ens3", "shapes/vgg-ens4", "shapes/pyramidnet-ens1"} <= set(loaded)
    assert not any(model.training for model in six.values())


def test_on_imagenet_what_is_not_in_the_folder_is_left_out(loaded, monkeypatch, tmp_path):
    assert [*secured.nine("imagenet")] == ["R&P", "NIPS-r3", "Bit-Red", "JPEG", "FD"]
    assert all(name.startswith("timm/") for name in loaded)
    assert [*secured.six("imagenet")] == ["IncRes-v2ens1", "JPEG", "R&P"]
    for name in ("NRP.pth", "checkpoint.pth.tar"):
        (tmp_path / name).touch()
    monkeypatch.setattr(authors, "purifier", lambda kind, files: Purification(PURIFIERS[kind]()))
    monkeypatch.setattr(authors, "noise_trained", lambda file: tiny_model())
    nine = secured.nine("imagenet", folder=tmp_path)
    assert [*nine] == ["R&P", "NIPS-r3", "Bit-Red", "JPEG", "FD", "RS", "NRP"]
    assert isinstance(nine["RS"].defence, transformations.RandomizedSmoothing)


def test_stand_ins_are_those_of_the_nine_that_need_no_training_and_guard_no_source(loaded):
    guards = secured.stand_ins(seed=3)
    assert [*guards] == [name for name in secured.NINE if name not in ("HGD", "ComDefend", "NRP")]
    sources = [name for name in witnesses.WITNESSES if name.startswith("imagenet")][:3]
    assert loaded and not set(loaded) & set(sources) and set(loaded) <= set(witnesses.WITNESSES)
    assert all(guard.seed == 3 and not guard.training for guard in guards.values())
    with pytest.raises(TypeError, match="seed"):
        secured.stand_ins(seed=1.5)


@pytest.mark.parametrize("targets", [secured.nine, secured.trained, secured.six])
@pytest.mark.parametrize(
    ("options", "named"),
    [({"dataset": "mnist"}, "dataset='mnist'"), ({"dataset": None}, "dataset"), ({"folder": 3}, "folder")],
)
def test_targets_of_unknown_data_or_from_no_folder_are_refused_before_any_is_loaded(targets, options, named, loaded):
    with pytest.raises((TypeError, ValueError), match=named):
        targets(**{"dataset": "shapes", **options})
    assert not loaded


def test_a_folder_that_is_not_there_is_no_empty_one(loaded, tmp_path):
    for targets in (secured.nine, secured.trained, secured.six):
        with pytest.raises(ValueError, match="folder=.*no such folder"):
            targets("imagenet", folder=tmp_path / "nothing")
    with pytest.raises(TypeError, match="seed"):
        secured.nine("shapes", seed=1.5)
    assert not loaded
