"""The zoo by name, size and seed; weights on disk; ensembles; the faster copy; witnesses that nobody here trained."""

import hashlib
import json
import shutil

import pytest
import timm
import torch
import torchvision
from conftest import grid_images, tiny_model
from safetensors.torch import save as to_bytes
from torch import nn

from advlib import accelerate, attacks, ensemble
from advlib.core import surrogate
from advlib.zoo import models, weights
from advlib.zoo.nets import FAMILIES, resnext
from advlib.zoo.weights import WeightsError

FULL = {  # parameters at full size
    "resnet": 11.17e6,
    "vgg": 20.04e6,
    "densenet": 0.769e6,
    "wrn": 36.48e6,
    "resnext": 17.56e6,
    "pyramidnet": 28.3e6,
}


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def noisy(model, seed=0):
    """BatchNorm with statistics that matter, as after training."""
    generator = torch.Generator().manual_seed(seed)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1, generator=generator)
            m.running_var.uniform_(0.5, 2, generator=generator)
            m.weight.data.uniform_(0.5, 1.5, generator=generator)
            m.bias.data.normal_(0, 0.1, generator=generator)
    return model.eval()


# --- architectures --------------------------------------------------------------------------------------------------


def test_zoo_has_the_six_families_of_the_thesis():
    assert set(FAMILIES) == set(FULL) and all(set(sizes) == {"small", "full"} for sizes in FAMILIES.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_small_net_is_small_and_gives_ten_logits(family):
    model = models.create(family).eval()
    with torch.no_grad():
        logits = model(grid_images(2, 32, 32))
    assert logits.shape == (2, 10) and torch.isfinite(logits).all()
    assert 0.1e6 <= parameters(model) <= 0.5e6


@pytest.mark.parametrize("family", FAMILIES)
def test_full_net_has_the_size_of_its_paper(family):
    with torch.device("meta"):
        net = FAMILIES[family]["full"](10)
    assert parameters(net) == pytest.approx(FULL[family], rel=0.02)
    assert net(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)


@pytest.mark.parametrize(("groups", "millions"), [(8, 34.4), (16, 68.1)])
def test_resnext_has_the_sizes_of_its_paper(groups, millions):
    """Xie et al. 2017, Table 7 lists 8x64d and 16x64d; the zoo's 4x64d is the same formula with fewer groups."""
    with torch.device("meta"):
        net = resnext(10, 64, 3, (256, 512, 1024), groups=groups, inner=groups / 4)
    assert parameters(net) == pytest.approx(millions * 1e6, rel=0.005)


@pytest.mark.parametrize(
    ("family", "layers"),
    [("resnet", 18), ("vgg", 17), ("densenet", 100), ("wrn", 26), ("resnext", 29), ("pyramidnet", 110)],
)
def test_full_net_has_the_depth_of_its_name(family, layers):
    """Layers on the longest path. VGG-19 has one linear layer instead of three on CIFAR; WRN-28 counts its three 1x1
    shortcuts and not the linear layer."""
    with torch.device("meta"):
        net = FAMILIES[family]["full"](10)
    weighted = [
        name
        for name, m in net.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in name and "project" not in name
    ]
    assert len(weighted) == layers


def test_cifar100_has_a_hundred_logits():
    with torch.no_grad():
        assert models.create("resnet", dataset="cifar100").eval()(grid_images(1, 32, 32)).shape == (1, 100)


def test_created_net_depends_on_the_seed_alone_and_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    a, b, c = (models.create("vgg", seed=s).state_dict() for s in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a[k], b[k]) for k in a) and not torch.equal(a["net.0.0.weight"], c["net.0.0.weight"])


def test_normalised_model_wants_images_in_zero_to_one():
    model = surrogate.Normalized(nn.Identity(), (0.2, 0.4, 0.6), (0.1, 0.2, 0.3))
    x = torch.tensor([0.3, 0.2, 0.6]).view(1, 3, 1, 1)
    assert torch.allclose(model(x).flatten(), torch.tensor([1.0, -1.0, 0.0]), atol=1e-6)


def test_normalised_model_resizes_to_the_side_its_net_wants():
    model = surrogate.Normalized(nn.Identity(), (0, 0, 0), (1, 1, 1), size=6)
    assert model(grid_images(2, 8, 8)).shape == (2, 3, 6, 6)
    assert torch.equal(model(grid_images(2, 6, 6)), grid_images(2, 6, 6))


def test_normalised_model_takes_grey_images():
    model = surrogate.Normalized(nn.Identity(), (0.25,), (0.5,))
    assert torch.equal(model(torch.full((2, 1, 4, 4), 0.75)), torch.ones(2, 1, 4, 4))


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 4, 8, 8), (3, 8, 8)])
def test_images_of_other_channels_are_refused_and_not_repeated(shape, model):
    with pytest.raises(ValueError, match=r"x: expected images of shape \(N, 3, H, W\)"):
        model(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"net": None}, "net"),
        ({"net": nn.ReLU}, "net"),
        ({"mean": 0.5}, "mean"),
        ({"mean": (0, 0, float("nan"))}, "mean"),
        ({"mean": (0, 0)}, "std: 3 numbers for 2"),
        ({"std": (1, 1, 0)}, "std"),
        ({"std": ("1", "1", "1")}, "std"),
        ({"size": 0}, "size"),
        ({"size": 32.0}, "size"),
    ],
)
def test_normalisation_that_is_none_is_refused_by_name(options, named):
    with pytest.raises((TypeError, ValueError), match=named):
        surrogate.Normalized(**{"net": nn.Identity(), "mean": (0, 0, 0), "std": (1, 1, 1), **options})


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "resnet",
        "shapes/alexnet",
        "mnist/resnet",
        "cifar10/resnet-huge",
        "timm/no_such_net",
        "torchvision/no_such_net",
        "",
    ],
)
def test_unknown_name_is_refused(name):
    with pytest.raises(ValueError, match="no such model"):
        models.load(name)


@pytest.mark.parametrize("name", [None, 42, ["shapes/resnet"]])
def test_a_name_that_is_no_text_is_refused(name):
    with pytest.raises(TypeError, match="name"):
        models.load(name)


def test_a_zoo_of_an_unknown_data_set_is_refused_and_not_empty():
    for dataset in ("mnist", ""):
        with pytest.raises(ValueError, match="dataset=.*expected one of shapes, cifar10, cifar100, imagenet"):
            models.zoo(dataset)


@pytest.mark.parametrize(
    "options",
    [
        {"family": "lenet"},
        {"size": "huge"},
        {"dataset": "mnist"},
        {"family": ["vgg"]},
        {"seed": None},
        {"seed": 1.5},
        {"seed": 2**70},
    ],
)
def test_unknown_option_of_create_is_refused_by_name(options):
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        models.create(**{"family": "resnet", **options})


def test_missing_weights_name_the_notebook_that_trains_them(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    with pytest.raises(WeightsError, match="run A1 --dataset"):
        models.load("shapes/resnet")


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_torchvision_inception_does_not_normalise_twice(name, monkeypatch):
    built = {}

    def get_model(name, weights, **options):
        built.update(options, weights=weights)
        return nn.Identity()

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    model = models.load(f"torchvision/{name}")
    assert built["transform_input"] is False and built["weights"] is not None
    assert model.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


@pytest.mark.parametrize("path", models.CHAPTER_3.values())
def test_networks_of_the_thesis_are_known_by_name_with_their_weights(path):
    source, _, name = path.partition("/")
    net, _, weights = name.partition(".")
    if source == "timm":
        assert name in timm.list_pretrained(net)
    else:
        assert weights in torchvision.models.get_model_weights(net).__members__


def test_unknown_weights_of_a_known_network_are_refused():
    with pytest.raises(ValueError, match="resnet50.*IMAGENET1K_V9"):
        models.load("torchvision/resnet50.IMAGENET1K_V9")


def test_no_network_is_an_error_that_names_the_model(monkeypatch):
    def offline(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(WeightsError, match="torchvision/resnet50.*could not be downloaded"):
        models.load("torchvision/resnet50")


# --- weights on disk ------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    model = noisy(models.create("vgg", dataset="shapes", seed=5))
    weights.save_weights("shapes/vgg", model, {"accuracy": 0.9, "n": 10}, tmp_path)
    return model, tmp_path / "shapes" / "vgg.safetensors"


def test_saved_weights_come_back_in_half_precision(saved):
    model, _ = saved
    back = models.load("shapes/vgg")
    assert not back.training and "shapes/vgg" in models.available()
    ours, theirs = model.state_dict(), back.state_dict()
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[k].half().float() if ours[k].is_floating_point() else ours[k], theirs[k]) for k in ours)
    assert all(v.dtype == torch.float32 for v in theirs.values() if v.is_floating_point())


def test_manifest_lists_checksum_and_facts_and_keeps_other_entries(saved):
    model, file = saved
    weights.save_weights("shapes/other", tiny_model(), {"accuracy": 0.1}, file.parent.parent)
    manifest = json.loads((file.parent.parent / "manifest.json").read_text())
    assert set(manifest) == {"shapes/vgg", "shapes/other"} and len(manifest["shapes/vgg"]["sha256"]) == 64
    assert manifest["shapes/vgg"]["accuracy"] == 0.9 and manifest["shapes/vgg"]["bytes"] == file.stat().st_size
    assert not list(file.parent.parent.rglob("*.partial"))


@pytest.mark.parametrize("damage", ["changed", "truncated", "missing"])
def test_damaged_weights_are_refused_by_file_name(saved, damage):
    _, file = saved
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(bytes(raw) if damage == "changed" else bytes(raw[:-100]))
    if damage == "missing":
        file.unlink()
    with pytest.raises(WeightsError, match="vgg.safetensors"):
        models.load("shapes/vgg")


def rewritten(weights, state=None, raw=None, **entry):
    """The weights file and its entry in the manifest, so that the sum is right and something else is wrong."""
    raw = to_bytes(state) if raw is None else raw
    weights.write_bytes(raw)
    listing = weights.parent.parent / "manifest.json"
    listed = json.loads(listing.read_text())
    listed["shapes/vgg"].update({"sha256": hashlib.sha256(raw).hexdigest()} | entry)
    listing.write_text(json.dumps(listed))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda s: s.pop("0.0.weight"), "weights of another network"),
        (lambda s: s.update(more=torch.zeros(2)), "weights of another network"),
        (lambda s: s.update({"0.0.weight": s["0.0.weight"][:3].clone()}), "weights of another network"),
        (lambda s: s["0.0.weight"].fill_(float("nan")), "0.0.weight holds numbers that are not finite"),
        (lambda s: s["0.1.running_var"].fill_(float("inf")), "0.1.running_var holds numbers that are not finite"),
        (lambda s: s.update({"0.0.weight": s["0.0.weight"].to(torch.int8)}), "torch.int8, expected torch.float32"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_file_name(saved, change, what):
    model, file = saved
    state = {k: v.clone() for k, v in model.net.state_dict().items()}
    change(state)
    rewritten(file, state)
    with pytest.raises(WeightsError, match=f"vgg.safetensors: .*{what}"):
        models.load("shapes/vgg")


@pytest.mark.parametrize("raw", [b"", b"half a file", b"\xff" * 200])
def test_a_file_that_holds_no_tensors_is_refused_by_name(saved, raw):
    rewritten(saved[1], raw=raw)
    with pytest.raises(WeightsError, match="vgg.safetensors: not a safetensors file"):
        models.load("shapes/vgg")


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"shapes/vgg": ',
        "[]",
        "null",
        '{"shapes/vgg": 3}',
        '{"shapes/vgg": {"file": "shapes/vgg.safetensors"}}',
        '{"shapes/vgg": {"file": "shapes/vgg.safetensors", "sha256": 3}}',
        '{"shapes/vgg": {"file": null, "sha256": "00"}}',
    ],
)
def test_a_damaged_manifest_is_named(saved, text):
    (saved[1].parent.parent / "manifest.json").write_text(text)
    with pytest.raises(WeightsError, match="manifest.json"):
        models.load("shapes/vgg")


@pytest.mark.parametrize("absolute", [True, False])
def test_weights_outside_the_folder_are_not_read(saved, tmp_path, absolute):
    _, file = saved
    outside = tmp_path.parent / f"{tmp_path.name}.safetensors"
    shutil.copy(file, outside)
    rewritten(file, raw=outside.read_bytes(), file=str(outside) if absolute else f"../{outside.name}")
    with pytest.raises(WeightsError, match="manifest.json: shapes/vgg: file=.*inside"):
        models.load("shapes/vgg")


def test_what_is_damaged_is_listed_by_name(saved):
    model, file = saved
    folder = file.parent.parent
    weights.save_weights("shapes/other", model, {}, folder)
    assert weights.damaged(folder) == {} == weights.damaged(folder / "nothing")
    file.write_bytes(b"abc")
    found = weights.damaged(folder)
    assert list(found) == ["shapes/vgg"] and "vgg.safetensors: sha256" in found["shapes/vgg"]
    (folder / "manifest.json").write_text("{")
    assert list(weights.damaged(folder)) == ["manifest.json"]


@pytest.mark.skipif(not models.available(), reason="data/weights is empty: run notebook A1")
def test_the_weights_of_this_book_are_whole():
    assert weights.damaged() == {}


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "", ".", "..", "a\0b", None, 3])
def test_weights_are_saved_inside_the_folder_alone(name, tmp_path):
    folder = tmp_path / "weights"
    with pytest.raises((TypeError, ValueError), match="name"):
        weights.save_weights(name, tiny_model(), {}, folder)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_weights_that_are_not_finite_in_half_precision_are_not_saved(value, tmp_path):
    model = tiny_model()
    model.net[5].weight.data[0, 0] = value
    with pytest.raises(ValueError, match="model: 5.weight holds numbers that are not finite"):
        weights.save_weights("shapes/vgg", model, {}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_facts_that_are_no_json_leave_no_weights_behind(tmp_path):
    with pytest.raises(TypeError):
        weights.save_weights("shapes/vgg", tiny_model(), {"recipe": object()}, tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.name[0] != "."]


@pytest.mark.parametrize("content", [b"", b"abc", [1, 2], {"a": torch.zeros(2)}, {"a": 3}, {}])
def test_a_converted_file_that_does_not_fit_is_named(content, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_CONVERTED", {"Inc-v3ens3": "test_resnet"})
    file = tmp_path / "Inc-v3ens3.pth"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(WeightsError, match="Inc-v3ens3.pth"):
        models.converted(tmp_path)


def test_a_converted_file_that_fits_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_CONVERTED", {"Inc-v3ens3": "test_resnet", "Inc-v3ens4": "test_resnet"})
    net = timm.create_model("test_resnet")
    torch.save(net.state_dict(), tmp_path / "Inc-v3ens4.pth")
    (found,) = models.converted(tmp_path).items()
    assert found[0] == "Inc-v3ens4" and weights.digest(found[1].net) == weights.digest(net)
    assert models.converted("") == {}
    with pytest.raises(ValueError, match="checkpoints=.*no such folder"):
        models.converted(tmp_path / "nothing")


# --- ensembles, freezing --------------------------------------------------------------------------------------------


def test_ensemble_averages_logits(x):
    f, h = tiny_model(0), tiny_model(1)
    assert torch.allclose(ensemble([f, h])(x), (f(x) + h(x)) / 2, atol=1e-6)


def test_empty_ensemble_is_refused():
    with pytest.raises(ValueError, match="members"):
        ensemble([])


class InPlace(nn.Module):
    """Normalises in place, as torchvision's Normalize(inplace=True) does."""

    def forward(self, x):
        return x.sub_(0.5).div_(0.25).mean((2, 3))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_member_that_writes_into_its_images_changes_no_other_members(layout):
    x = grid_images().contiguous(memory_format=layout)
    clean = x.clone()
    mean = (clean - 0.5).mean((2, 3)) / 0.25
    assert torch.allclose(ensemble([InPlace(), InPlace(), InPlace()])(x), mean, atol=1e-6) and torch.equal(x, clean)


@pytest.mark.parametrize("wrong", [None, "ab", tiny_model(), {"f": tiny_model()}, [None], [tiny_model(), lambda x: x]])
def test_members_of_another_kind_are_refused_by_place(wrong):
    with pytest.raises(TypeError, match="members"):
        ensemble(wrong)


class Pair(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)), x


def test_members_that_give_no_logits_or_other_classes_are_refused(x):
    with pytest.raises(TypeError, match=r"members\[1\]: .*write lambda"):
        ensemble([tiny_model(), Pair()])(x)
    with pytest.raises(ValueError, match="members: expected the same classes of all, got 10, 7 logits"):
        ensemble([tiny_model(), tiny_model(classes=7)])(x)


def test_attacks_in_inference_mode_are_those_outside(model, x, y):
    wanted = attacks.mi_fgsm(model, x, y, eps=8 / 255, steps=2)
    with torch.inference_mode():
        found = attacks.mi_fgsm(model, x, y, eps=8 / 255, steps=2)
        with surrogate.frozen([model]):
            assert not torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled()
    assert torch.equal(found, wanted)
    assert not any(p.is_inference() or not p.requires_grad for p in model.parameters())


def test_a_model_made_in_inference_mode_still_answers(x):
    with torch.inference_mode():
        model = tiny_model()
        with surrogate.frozen([model]):
            logits = model(x)
    assert torch.equal(logits, tiny_model()(x))


def test_frozen_restores_modes_gradients_and_memory(model):
    model.train()
    model.net[1].eval()
    model.net[0].weight.requires_grad_(False)
    before = [(m.training for m in model.modules()), [(p.requires_grad, p.data_ptr()) for p in model.parameters()]]
    modes = list(before[0])
    with pytest.raises(RuntimeError, match="inside"), surrogate.frozen([model, lambda x: x, model]):
        assert not any(m.training for m in model.modules()) and not any(p.requires_grad for p in model.parameters())
        raise RuntimeError("inside")
    assert [m.training for m in model.modules()] == modes
    assert [(p.requires_grad, p.data_ptr()) for p in model.parameters()] == before[1]


# --- the faster copy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_folded_net_gives_the_same_logits_with_fewer_batch_norms(family):
    model, x = noisy(models.create(family)), grid_images(2, 32, 32)
    fast = accelerate(model)
    count = [sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) for net in (model, fast)]
    with torch.no_grad():
        plain, folded = model(x), fast(x)
    assert (plain - folded).abs().max() <= 1e-4 * plain.abs().max().clamp(min=1)
    assert count[1] < count[0]


def test_folding_leaves_the_original_alone(model, x):
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fast = accelerate(model)
    fast(x)
    assert (
        model.training and all(p.requires_grad for p in model.parameters()) and isinstance(model.net[1], nn.BatchNorm2d)
    )
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in fast.parameters()}


def test_ensemble_is_accelerated_member_by_member(x):
    both = ensemble([tiny_model(0), tiny_model(1)])
    fast = accelerate(both)
    assert surrogate.members(fast) == 2 and torch.allclose(fast(x), both(x), atol=1e-4)


def test_bfloat16_is_close_and_gives_float32(model, x):
    fast = accelerate(model, dtype=torch.bfloat16)
    assert fast(x).dtype == torch.float32
    assert (fast(x) - model(x)).abs().max() < 0.03 * model(x).abs().max()


def test_gradient_of_a_bfloat16_copy_is_float32_and_points_the_same_way(model, x):
    gradients = [
        torch.func.grad(lambda z, f=f: f(z).square().sum())(x).flatten(1)
        for f in (model, accelerate(model, dtype=torch.bfloat16))
    ]
    assert gradients[1].dtype == torch.float32 and torch.cosine_similarity(*gradients).min() > 0.98


def test_a_digest_changes_with_weights_normalisation_and_defence_and_with_nothing_else():
    import copy

    from advlib.defenses.transformations import BitReduction

    model = tiny_model()
    same, other, seen, kept = (copy.deepcopy(model) for _ in range(4))
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
        seen.mean += 0.1
    kept.net[1].running_mean += 0.1
    guards = [BitReduction(4)(model), BitReduction(5)(model), BitReduction(4)(model, seed=1)]
    digests = [weights.digest(m) for m in (model, other, seen, kept, *guards)]
    assert weights.digest(same) == digests[0] and len(set(digests)) == len(digests)


@pytest.mark.parametrize("wrong", [None, "model", lambda x: x, nn.Linear])
def test_a_digest_of_what_is_no_module_is_refused(wrong):
    with pytest.raises(TypeError, match="model"):
        weights.digest(wrong)
    with pytest.raises(ValueError, match="model: weight is on the device meta"):
        weights.digest(nn.Linear(2, 2, device="meta"))
