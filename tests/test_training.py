"""Training that resumes to the same bits, heeds its recipe and learns; augmentation as geometry."""

import json
import math
import shutil
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from conftest import grid_images, tiny_model

from advlib import sam, sam_family
from advlib.core.draws import Draw
from advlib.files import provenance
from advlib.training import objectives, recipes
from advlib.training.augment import autoaugment, cutout, random_crop, random_flip
from advlib.training.fitting import accuracy, fine_tune, fit, train_member
from advlib.training.objectives import SAF, EnsembleAdversarial, LipschitzRegularized, NoisyClassification
from advlib.training.recipes import FINE_TUNING, Recipe, recipe_for
from advlib.zoo import datasets, models, registry, weights

SHORT = Recipe(epochs=2, batch_size=16, lr=0.05, augment=("crop", "flip", "cutout"), bf16=False)


@pytest.fixture(scope="module")
def data():
    return datasets.load("shapes", "train", n=48, size=16), datasets.load("shapes", "val", n=16, size=16)


def trained(data, recipe=SHORT, **options):
    model = tiny_model(scale=1.0)
    fit(model, *data, recipe, **options)
    return model.state_dict()


def equal(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


# --- the loop -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"wrapper": sam.SAM, "schedule": "cosine"},
        {"wrapper": partial(sam.RandomSAM, sigma=0.1)},
        {"wrapper": partial(sam.CRSAM, rho=0.2), "optimizer": "adamw", "lr": 1e-3},
        {"wrapper": partial(sam_family.LookSAM, every=2)},
        {"wrapper": sam_family.ESAM},
        {"wrapper": partial(sam_family.SSAM, every=2)},
        {"wrapper": sam_family.AESAM},
        {"wrapper": sam_family.GSAM, "objective": SAF(start=0, back=1)},
        {"ema": 0.5},
    ],
    ids=str,
)
def test_killed_training_goes_on_to_the_same_weights(data, tmp_path, change):
    def kill(row):
        raise KeyboardInterrupt

    recipe = replace(SHORT, **change)
    checkpoint, model = tmp_path / "deep" / "net.pt", tiny_model(scale=1.0)
    with pytest.raises(KeyboardInterrupt):
        fit(model, *data, recipe, checkpoint, kill)
    assert checkpoint.is_file() and not list(tmp_path.rglob("*.partial"))
    resumed, rows = tiny_model(scale=1.0), []
    history = fit(resumed, *data, recipe, checkpoint, rows.append)
    assert [r["epoch"] for r in rows] == [2] and [r["epoch"] for r in history] == [1, 2]
    assert equal(resumed.state_dict(), trained(data, recipe))


def test_finished_training_is_not_run_again(data, tmp_path):
    model = tiny_model(scale=1.0)
    first = fit(model, *data, SHORT, tmp_path / "net.pt")
    again = fit(tiny_model(scale=1.0), *data, SHORT, tmp_path / "net.pt", lambda row: pytest.fail("trained again"))
    assert again == first


SMALL = Recipe(epochs=1, batch_size=48, bf16=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lr": 0.3}, r"recipe \(lr: 0.1, now 0.3\)"),
        ({"epochs": 3}, r"recipe \(epochs: 1, now 3\)"),
        ({"seed": 1}, r"recipe \(seed: 0, now 1\)"),
        ({"augment": ()}, r"recipe \(augment: \('crop', 'flip'\), now \(\)\)"),
        ({"objective": LipschitzRegularized()}, r"recipe \(objective: Classification\(\), now Lipschitz"),
    ],
)
def test_checkpoint_of_another_recipe_is_refused(data, tmp_path, change, said):
    fit(tiny_model(), *data, SMALL, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=rf"net.pt belongs to another training, by its {said}"):
        fit(tiny_model(), *data, replace(SMALL, **change), tmp_path / "net.pt")


def changed(images, row):
    """One pixel of one image, one label, or one index is another."""
    part = getattr(images, row).clone()
    part.view(-1)[0] = (part.view(-1)[0] + 1) % 10
    return replace(images, **{row: part})


@pytest.mark.parametrize("row", ["images", "labels", "index"])
@pytest.mark.parametrize(("which", "name"), [(0, "training data"), (1, "validation data")])
def test_checkpoint_of_other_data_is_refused(data, tmp_path, which, name, row):
    fit(tiny_model(), *data, SMALL, tmp_path / "net.pt")
    other = list(data)
    other[which] = changed(other[which], row)
    with pytest.raises(ValueError, match=f"another training, by its {name};"):
        fit(tiny_model(), *other, SMALL, tmp_path / "net.pt")


def test_checkpoint_of_other_weights_networks_or_code_is_refused(data, tmp_path, monkeypatch):
    pool = {"a": tiny_model(1)}
    monkeypatch.setattr(models, "load", lambda name: deepcopy(pool[name]))
    recipe = replace(SMALL, objective=EnsembleAdversarial(("a",)))
    objectives._static.cache_clear()
    fit(tiny_model(), *data, recipe, tmp_path / "net.pt")
    with pytest.raises(ValueError, match="another training, by its initial weights;"):
        fit(tiny_model(seed=9), *data, recipe, tmp_path / "net.pt")
    pool["a"] = tiny_model(2)
    with pytest.raises(ValueError, match="another training, by its static networks;"):
        fit(tiny_model(), *data, recipe, tmp_path / "net.pt")
    monkeypatch.setattr(provenance, "TRAINING_CODE", "0" * 16)
    with pytest.raises(ValueError, match="another training, by its static networks, code;"):
        fit(tiny_model(), *data, recipe, tmp_path / "net.pt")
    objectives._static.cache_clear()


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "tensor", "old"])
def test_a_file_that_is_no_checkpoint_is_named(data, tmp_path, damage):
    path = tmp_path / "net.pt"
    fit(tiny_model(), *data, SMALL, path)
    if damage == "old":  # without what it was made of
        torch.save({k: v for k, v in torch.load(path, weights_only=True).items() if k != "made_of"}, path)
    elif damage == "tensor":
        torch.save(torch.ones(3), path)
    else:
        whole = path.read_bytes()
        path.write_bytes({"truncated": whole[: len(whole) // 2], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(ValueError, match="net.pt: .*; delete it"):
        fit(tiny_model(), *data, SMALL, path)


def test_a_loss_that_is_not_finite_ends_training_and_leaves_the_last_good_checkpoint(data, tmp_path):
    @dataclass(frozen=True)
    class Breaks:
        def __call__(self, model, x, y, draw):
            loss = torch.nn.functional.cross_entropy(model(x), y)
            seen.append(loss)
            return loss * torch.nan if len(seen) == 5 else loss

    seen, rows = [], []
    recipe = replace(SHORT, epochs=3, objective=Breaks())
    with pytest.raises(FloatingPointError, match="epoch 2, step 2 of 3: the loss is nan"):
        fit(tiny_model(), *data, recipe, tmp_path / "net.pt", rows.append)
    saved = torch.load(tmp_path / "net.pt", weights_only=True)
    assert len(rows) == len(saved["history"]) == 1 and all(v.isfinite().all() for v in saved["model"].values())


def test_weights_that_are_not_finite_at_the_end_of_an_epoch_end_training(data, tmp_path):
    class Overflowing(torch.optim.SGD):
        def step(self, closure):
            loss = super().step(closure)
            self.param_groups[0]["params"][0].data.fill_(torch.inf)
            return loss

    recipe = replace(SHORT, batch_size=48, wrapper=lambda params, base, **options: Overflowing(params, **options))
    with pytest.raises(FloatingPointError, match="epoch 1: the weights are not finite after 1 steps"):
        fit(tiny_model(), *data, recipe, tmp_path / "net.pt")
    assert not (tmp_path / "net.pt").exists()


def test_training_twice_gives_the_same_weights(data):
    assert equal(trained(data), trained(data))


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.1},
        {"weight_decay": 0.1},
        {"augment": ()},
        {"seed": 1},
        {"batch_size": 24},
        {"bf16": True},
        {"schedule": "constant"},
        {"schedule": "cosine"},
        {"optimizer": "adam"},
        {"optimizer": "adamw"},
        {"wrapper": sam.SAM},
        {"wrapper": sam.RandomSAM},
        {"wrapper": sam.CRSAM},
        {"wrapper": sam_family.ESAM},
        {"wrapper": sam_family.GSAM},
        {"objective": SAF(start=0, back=1)},
        {"ema": 0.9},
    ],
    ids=str,
)
def test_every_option_of_the_recipe_has_an_effect(data, change):
    assert not equal(trained(data), trained(data, Recipe(**{**SHORT.__dict__, **change})))


def test_history_has_a_row_an_epoch_and_the_model_ends_in_eval_mode(data):
    model, rows = tiny_model(), []
    history = fit(model, *data, SHORT, report=rows.append)
    assert history == rows and not model.training
    assert set(rows[0]) == {"epoch", "loss", "val_accuracy", "lr", "seconds"} and 0 <= rows[0]["val_accuracy"] <= 1


def test_constant_schedule_is_plain_sgd_with_momentum(data):
    recipe = Recipe(epochs=2, batch_size=16, lr=0.05, augment=(), bf16=False, schedule="constant", weight_decay=0.01)
    model, wanted = tiny_model(scale=1.0), tiny_model(scale=1.0).train()
    rates = [row["lr"] for row in fit(model, *data, recipe)]
    optimizer = torch.optim.SGD(wanted.parameters(), 0.05, momentum=0.9, weight_decay=0.01)
    for epoch in range(2):
        for part in torch.randperm(48, generator=torch.Generator().manual_seed(epoch)).split(16):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(wanted(data[0][part].x), data[0][part].y).backward()
            optimizer.step()
    assert rates == [0.05, 0.05]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(model.parameters(), wanted.parameters(), strict=True))


def test_cosine_schedule_goes_from_the_peak_to_nothing(data):
    recipe = replace(SHORT, epochs=4, schedule="cosine", augment=())
    rates = [row["lr"] for row in fit(tiny_model(), *data, recipe)]
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * 3 * k / 13)) / 2 for k in (1, 2, 3, 4)])


@pytest.mark.parametrize(
    ("around", "plain"),
    [
        (partial(sam.SAM, rho=0.0), None),
        (partial(sam.CRSAM, rho=0.1, alpha=0.0, beta=0.0), partial(sam.SAM, rho=0.1)),
        (partial(sam.RandomSAM, rho=0.1, sigma=0.0), partial(sam.SAM, rho=0.1)),
    ],
    ids=["SAM without a radius is SGD", "CR-SAM without penalties is SAM", "Random SAM without noise is SAM"],
)
def test_limits_of_the_optimizers(data, around, plain):
    assert equal(trained(data, replace(SHORT, wrapper=around)), trained(data, replace(SHORT, wrapper=plain)))


def test_facts_of_a_recipe_are_plain_values():
    recipe = Recipe(wrapper=partial(sam.CRSAM, rho=0.2))
    assert recipe.facts()["wrapper"] == {"name": "CRSAM", "rho": 0.2}
    assert Recipe(wrapper=sam.SAM).facts()["wrapper"] == {"name": "SAM"} and Recipe().facts()["wrapper"] is None
    assert json.loads(json.dumps(recipe.facts()))["objective"] == "Classification()"


def test_recipes_of_the_thesis_are_those_printed():
    recipe = recipes.thesis("5.1", "WRN-28-10", "CIFAR-100", "CR-SAM")
    assert recipe.facts()["wrapper"] == {"name": "CRSAM", "rho": 0.15, "alpha": 0.5, "beta": 0.1}
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.weight_decay) == (200, 128, 0.05, 1e-3)
    assert recipes.thesis("5.1", "ResNet-18", "CIFAR-10", "SGD").wrapper is None
    vit = recipes.thesis("5.3", "ViT-S/32", "ImageNet", "SAM")
    assert vit.optimizer == "adamw" and vit.facts()["wrapper"] == {"name": "SAM", "rho": 0.05} and vit.lr == 3e-3
    with pytest.raises(ValueError, match="beta: not legible"):
        recipes.thesis("5.3", "ViT-S/32", "ImageNet", "CR-SAM")
    assert recipes.thesis("5.3", "ViT-S/32", "ImageNet", "CR-SAM", beta=0.01).facts()["wrapper"]["alpha"] == 0.05
    with pytest.raises(ValueError, match="alpha: SAM has rho"):
        recipes.thesis("5.1", "ResNet-18", "CIFAR-10", "SAM", alpha=0.1)
    with pytest.raises(ValueError, match="Table 5.1 has no 'ResNet-50'"):
        recipes.thesis("5.1", "ResNet-50", "CIFAR-10", "SGD")


def test_moving_average_is_that_of_the_weights_after_each_step(data):
    seen, recipe = [], replace(SHORT, epochs=3, batch_size=48, ema=0.75)
    kept = trained(data, recipe)
    plain = replace(recipe, ema=0.0)
    fit(model := tiny_model(scale=1.0), *data, plain, watch=lambda m: seen.append(deepcopy(m.state_dict())) or {})
    average = seen[0]["net.0.weight"]
    for state in seen[1:]:
        average = 0.75 * average + 0.25 * state["net.0.weight"]
    assert torch.allclose(kept["net.0.weight"], average, atol=1e-6)
    assert not equal(kept, model.state_dict())


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.parametrize("around", [None, partial(sam.CRSAM, rho=0.2)], ids=["SGD", "CR-SAM"])
def test_compiled_training_ends_at_the_same_weights_and_statistics_up_to_rounding(data, around):
    recipe = replace(SHORT, epochs=1, wrapper=around)
    compiled, plain = trained(data, replace(recipe, compile=True)), trained(data, recipe)
    assert all(torch.allclose(compiled[k].float(), plain[k].float(), atol=1e-4) for k in plain)
    assert compiled["net.1.num_batches_tracked"] == plain["net.1.num_batches_tracked"] == 3


def test_training_leaves_the_generator_of_torch_alone(data):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    trained(data, replace(SHORT, wrapper=sam.RandomSAM))
    assert torch.equal(torch.rand(3), wanted)


def test_watch_adds_what_it_measures_to_every_row(data):
    history = fit(tiny_model(), *data, SHORT, watch=lambda model: {"training": float(model.training)})
    assert [set(row) - {"epoch", "loss", "val_accuracy", "lr", "seconds"} for row in history] == [{"training"}] * 2


def test_watch_looks_at_the_chosen_epochs_only(data):
    rows = fit(tiny_model(), *data, replace(SHORT, epochs=3), watch=lambda model: {"seen": 1.0}, watch_at=(1, 3))
    assert ["seen" in row for row in rows] == [True, False, True]


def test_fine_tuning_has_the_constants_of_the_thesis_and_takes_changes(data, tmp_path):
    model, objective = tiny_model(), LipschitzRegularized(lambda2=0.0)
    rows = []
    history = fine_tune(model, *data, objective, tmp_path / "net.pt", epochs=1, batch_size=24, report=rows.append)
    recipe = torch.load(tmp_path / "net.pt", weights_only=True)["made_of"]["recipe"]
    assert recipe == Recipe(1, 24, 1e-3, objective=objective, schedule="constant").facts() and rows == history
    assert Recipe(10, 128, 1e-3, 5e-4, schedule="constant") == FINE_TUNING
    with pytest.raises(TypeError, match="rate"):
        fine_tune(model, *data, objective, rate=1)


def test_small_net_learns_64_shapes():
    data = datasets.load("shapes", "train", n=64, size=16)
    model = tiny_model(scale=1.0)
    fit(model, data, data[:16], Recipe(epochs=40, batch_size=16, lr=0.1, augment=(), bf16=False))
    assert accuracy(model, data) > 0.6


def test_accuracy_counts_and_puts_the_mode_back(data):
    model = tiny_model().train()
    statistics = model.net[1].running_mean.clone()
    with torch.no_grad():
        by_hand = (tiny_model()(data[0].x).argmax(1) == data[0].y).float().mean().item()
    assert accuracy(model, data[0], batch_size=7) == pytest.approx(by_hand)
    assert model.training and torch.equal(model.net[1].running_mean, statistics)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "values", "error"),
    [
        ("epochs", [0, -3], ValueError),
        ("epochs", [1.5, None, "a", True], TypeError),
        ("batch_size", [0], ValueError),
        ("batch_size", [1.5, None], TypeError),
        ("lr", [NAN, INF, -1.0], ValueError),
        ("lr", [None, "a"], TypeError),
        ("weight_decay", [NAN, INF, -1.0], ValueError),
        ("weight_decay", [None], TypeError),
        ("augment", [("mixup",)], ValueError),
        ("augment", [None, "crop", (3,)], TypeError),
        ("schedule", ["steps"], ValueError),
        ("optimizer", ["lion"], ValueError),
        ("ema", [1.0, NAN, -0.1], ValueError),
        ("ema", [None], TypeError),
        ("seed", [1.5, None, "a"], TypeError),
        ("bf16", [1], TypeError),
        ("compile", [None], TypeError),
        ("objective", [None, LipschitzRegularized, lambda model: 0], TypeError),
        ("wrapper", ["sam"], TypeError),
    ],
)
def test_bad_recipe_is_refused_by_name(name, values, error):
    for value in values:
        with pytest.raises(error, match=f"^{name}"):
            Recipe(**{name: value})


def test_an_objective_that_is_a_function_has_the_same_facts_in_every_process():
    assert Recipe(objective=squared).facts()["objective"] == f"{__name__}.squared"


def squared(model, x, y, draw):
    return model(x).square().mean()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": None}, TypeError, "model: expected"),
        ({"model": torch.nn.Flatten()}, ValueError, "model: expected a network with weights"),
        ({"train": None}, TypeError, "train: expected Images"),
        ({"val": None}, TypeError, "val: expected Images"),
        ({"recipe": {}}, TypeError, "recipe: expected a Recipe"),
        ({"checkpoint": "net.pt"}, TypeError, "checkpoint: expected a Path"),
        ({"report": 3}, TypeError, "report: expected a function"),
        ({"report": lambda a, b: None}, TypeError, "report: .* cannot take 1"),
        ({"watch": lambda: {}}, TypeError, "watch: .* cannot take 1"),
        ({"watch": lambda model: 3}, TypeError, "watch: expected it to return"),
        ({"watch_at": 3}, TypeError, "watch_at: expected epochs"),
    ],
)
def test_arguments_of_fit_are_refused_by_name(data, change, error, message):
    arguments = {"model": tiny_model(), "train": data[0], "val": data[1], "recipe": SMALL}
    with pytest.raises(error, match=message):
        fit(**arguments | change)


@pytest.mark.parametrize("which", ["train", "val"])
def test_data_that_do_not_fit_the_network_are_refused_by_name(data, which):
    given = dict(zip(("train", "val"), data, strict=True))
    good = given[which]
    more = replace(good, labels=good.labels + (good.labels == good.labels[0]) * 10, classes=good.classes * 2)
    for message, bad in ((f"{which}: holds no image", good[:0]), (rf"{which}.labels: class 1\d is out of range", more)):
        with pytest.raises(ValueError, match=message):
            fit(tiny_model(), **given | {which: bad}, recipe=SMALL)


def test_accuracy_refuses_by_name(data):
    for batch_size in (-1, 0):
        with pytest.raises(ValueError, match=f"batch_size={batch_size}"):
            accuracy(tiny_model(), data[1], batch_size)
    with pytest.raises(ValueError, match="data: holds no image"):
        accuracy(tiny_model(), data[1][:0])
    with pytest.raises(TypeError, match="model: expected an nn.Module"):
        accuracy(lambda x: x, data[1])


@pytest.mark.parametrize(("name", "error"), [("mnist/resnet", ValueError), (None, TypeError), ("", ValueError)])
def test_members_are_checked_by_name(name, error):
    with pytest.raises(error, match="name"):
        train_member(name)


def test_batch_larger_than_the_set_is_refused(data):
    with pytest.raises(ValueError, match="batch_size"):
        fit(tiny_model(), *data, Recipe(batch_size=49))


def test_a_tuned_net_has_its_recipe_and_an_error_that_says_who_trains_it(monkeypatch):
    monkeypatch.setattr(models, "manifest", lambda folder: {})
    for variant in registry.TUNED:
        with pytest.raises(weights.WeightsError, match="run 04 --dataset shapes"):
            models.load(f"shapes/wrn-{variant}")
        assert recipe_for(f"shapes/wrn-{variant}").schedule == "constant"
    assert recipe_for("shapes/densenet-lrs2").objective == LipschitzRegularized(lambda1=0.0)


def test_a_flat_net_has_the_recipe_of_its_data_set_with_an_optimizer_around(monkeypatch):
    monkeypatch.setattr(models, "manifest", lambda folder: {})
    for variant, around in (("sam", sam.SAM), ("crsam", sam.CRSAM)):
        with pytest.raises(weights.WeightsError, match="run 06 --dataset shapes"):
            models.load(f"shapes/resnet-{variant}")
        found = recipe_for(f"shapes/resnet-{variant}")
        assert found.wrapper.func is around and replace(found, wrapper=None) == recipe_for("shapes/resnet")


def test_a_relative_of_theirs_has_it_too_and_no_chapter_that_trains_it(monkeypatch):
    monkeypatch.setattr(models, "manifest", lambda folder: {})
    family, base = sam_family, recipe_for("cifar10/resnet")
    kinds = (sam.SAM, family.LookSAM, family.ESAM, family.SSAM, None, family.AESAM, family.GSAM)
    for variant, kind in zip(registry.FAMILY, kinds, strict=True):
        name = f"cifar10/resnet-{variant}"
        with pytest.raises(weights.WeightsError, match=rf"al.training.train_member\('{name}'\) trains them"):
            models.load(name)
        found = recipe_for(name)
        assert found.around is kind and found.objective == (SAF(start=4) if variant == "saf" else base.objective)
        assert replace(found, wrapper=None, objective=base.objective) == base


def test_adaptive_sam_knows_how_long_training_is(data):
    made = []

    class Seen(sam_family.AESAM):
        def __init__(self, *args, **options):
            made.append(options["total"])
            super().__init__(*args, **options)

    for wrapper in (sam_family.AESAM, partial(sam_family.AESAM, total=9)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("advlib.training.fitting.AESAM", Seen)
            seen = partial(Seen, **wrapper.keywords) if isinstance(wrapper, partial) else Seen
            trained(data, replace(SHORT, wrapper=seen))
    assert made == [3 * 2 + 1, 9]


def test_esam_with_all_weights_and_images_is_sam_in_training_and_needs_the_losses_of_images(data):
    whole = partial(sam_family.ESAM, rho=0.1, beta=1.0, gamma=1.0)
    found = trained(data, replace(SHORT, wrapper=whole))
    wanted = trained(data, replace(SHORT, wrapper=partial(sam.SAM, rho=0.1)))
    assert all(torch.allclose(found[k].float(), wanted[k].float(), atol=1e-5) for k in wanted)
    with pytest.raises(ValueError, match="objective: ESAM needs .* NoisyClassification has none"):
        Recipe(wrapper=whole, objective=NoisyClassification())


@pytest.mark.skipif(
    "shapes/resnet" not in models.available(), reason="data/weights has no shapes/resnet: run notebook A1"
)
def test_a_tuned_net_starts_from_the_trained_one(tmp_path):
    recipe = replace(recipe_for("shapes/resnet-tuned"), epochs=1, batch_size=16, lr=1e-12, bf16=False)
    facts = train_member("shapes/resnet-tuned", recipe, folder=tmp_path, watch=lambda model: {"one": 1.0}, n=100)
    untouched = accuracy(models.load("shapes/resnet"), datasets.load("shapes", "test", 100))
    assert facts["accuracy"] == round(untouched, 4) and facts["one"] == [1.0] and facts["n"] == 100


@pytest.mark.parametrize(("fresh", "rows"), [(False, 0), (True, 1)])
def test_a_fresh_member_is_trained_from_the_start(tmp_path, fresh, rows):
    seen, recipe = [], replace(SHORT, epochs=1)
    options = {"checkpoints": tmp_path / "checkpoints", "folder": tmp_path, "n": 32}
    train_member("shapes/vgg", recipe, **options)
    first = weights.manifest(tmp_path)["shapes/vgg"]["sha256"]
    train_member("shapes/vgg", recipe, fresh=fresh, report=seen.append, **options)
    assert len(seen) == rows and weights.manifest(tmp_path)["shapes/vgg"]["sha256"] == first


# --- augmentation ---------------------------------------------------------------------------------------------------


@pytest.fixture
def images():
    return (grid_images(64, 16, 12) * 255).round().to(torch.uint8)


@pytest.fixture
def draw():
    return Draw(0, torch.arange(64), step=3)


@pytest.mark.parametrize("augment", [random_crop, random_flip, cutout, autoaugment])
def test_augmentation_keeps_shape_and_type_and_does_not_depend_on_the_batch(augment, images, draw):
    out = augment(images, draw)
    assert out.shape == images.shape and out.dtype == torch.uint8
    rows = torch.tensor([40, 3, 17])
    assert torch.equal(augment(images[rows], draw.at(index=draw.index[rows])), out[rows])
    assert not torch.equal(augment(images, draw.at(step=4)), out)


def test_crop_without_padding_is_the_identity(images, draw):
    assert torch.equal(random_crop(images, draw, pad=0), images)


def test_crop_is_a_shift_of_at_most_pad_pixels_with_black_around(images, draw):
    out = random_crop(images, draw, pad=2)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    windows = [(i, j) for i in range(5) for j in range(5)]
    found = [
        {w for w in windows if torch.equal(padded[k, :, w[0] : w[0] + 16, w[1] : w[1] + 12], out[k])} for k in range(64)
    ]
    assert all(len(f) == 1 for f in found) and len(set.union(*found)) > 15


def test_flip_is_its_own_mirror_and_hits_about_half(images, draw):
    out = random_flip(images, draw)
    flipped = (out != images).flatten(1).any(1)
    assert torch.equal(out[flipped], images[flipped].flip(3)) and torch.equal(random_flip(out, draw), images)
    assert 18 <= flipped.sum() <= 46


@pytest.mark.parametrize("side", [1, 4, 5])
def test_cutout_blackens_one_square_at_most(side, draw):
    white = torch.full((64, 3, 16, 12), 255, dtype=torch.uint8)
    black = cutout(white, draw, side) == 0
    rows, cols, area = black[:, 0].any(2).sum(1), black[:, 0].any(1).sum(1), black[:, 0].sum((1, 2))
    assert torch.equal(black[:, 0], black[:, 2]) and torch.equal(area, rows * cols)
    assert area.max() == side**2 and area.min() >= 1


@pytest.mark.parametrize("augment", [random_crop, random_flip, cutout, autoaugment])
def test_augmentation_refuses_by_name(augment, images, draw):
    for x, error in ((None, TypeError), (images[0], ValueError), (images[:0], ValueError)):
        with pytest.raises(error, match="x: expected"):
            augment(x, draw)
    with pytest.raises(ValueError, match="draw: its index has 64 numbers for 3 images"):
        augment(images[:3], draw)
    with pytest.raises(TypeError, match="draw: expected a Draw"):
        augment(images, None)


def test_options_of_augmentation_are_refused_by_name(images, draw):
    for call, name in ((random_crop, "pad"), (cutout, "side")):
        with pytest.raises(ValueError, match=f"{name}=-1"):
            call(images, draw, -1)
        with pytest.raises(TypeError, match=f"{name}=1.5"):
            call(images, draw, 1.5)
    with pytest.raises(TypeError, match="x: expected uint8"):
        autoaugment(images / 255, draw)
