"""A chapter's tables: written where a run keeps them, laid out, put beside the print."""

import copy
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch
from conftest import tiny_model

from advlib import attacks
from advlib.bench import claims, differences, experiment, results
from advlib.bench.chapters import Run
from advlib.bench.evaluation import predictions
from advlib.core import published
from advlib.defenses import transformations
from advlib.zoo.datasets import Images


@pytest.fixture
def book(tmp_path):
    model = tiny_model()
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = Images(pixels, torch.zeros(4, dtype=torch.int64), torch.arange(4), tuple("abcdefghij"), "shapes", "test")
    images = Images(pixels, predictions(model, images), images.index, images.classes, "shapes", "test")
    return experiment.Experiment(Run("02", tmp_path, "smoke", "shapes"), {"resnet": model}, images, [8.0], steps=2)


@pytest.fixture
def shown(monkeypatch):
    things = []
    monkeypatch.setattr(experiment, "_show", things.append)
    return things


def test_measure_writes_the_table_and_resumes(book):
    attack = {"MI-FGSM": attacks.mi_fgsm}
    rows = book.measure("2.1", attack, book.models)
    assert rows.white_box.all() and set(rows.passes) == {2.0}
    file = book.run.tables / "table_2_1.csv"
    before = file.stat().st_mtime_ns
    again = book.measure("2.1", attack, book.models)
    assert file.stat().st_mtime_ns == before and again.value.tolist() == rows.value.tolist()


def test_cells_run_on_the_engine_of_the_experiment(book):
    with pytest.raises(ValueError, match="engine='dask'"):
        replace(book, engine="dask").measure("2.1", {"MI-FGSM": attacks.mi_fgsm}, book.models)


def test_accuracy_of_every_model_with_abstentions(book):
    guarded = transformations.RandomizedSmoothing(sigma=0.25, n=20)(tiny_model(), seed=0)
    book = replace(book, models={"resnet": book.models["resnet"], "RS": guarded})
    rows = book.accuracy("A2.1", book.images)
    assert list(zip(rows.target, rows.metric, strict=True)) == [
        ("resnet", "accuracy"),
        ("RS", "accuracy"),
        ("RS", "abstained"),
    ]
    assert rows.value[0] == 100 and rows.value[1] + rows.value[2] <= 100 and set(rows.n) == {4}
    assert book.accuracy("A2.1", book.images).seconds.tolist() == rows.seconds.tolist()  # resumed


def test_means_have_an_interval_and_resume(book):
    def brightness(net, batch, eps):
        return batch.x.mean((1, 2, 3)) + eps

    rows = replace(book, eps_255=[0.0, 51.0]).means("4.5", "brightness", brightness, book.models)
    each = book.images.x.mean((1, 2, 3)).double()
    half = 1.96 * each.std().item() / 2  # of four images
    assert rows.value.tolist() == pytest.approx([each.mean().item(), each.mean().item() + 0.2])
    assert rows.ci_high[0] - rows.value[0] == pytest.approx(half) == rows.value[1] - rows.ci_low[1]
    again = replace(book, eps_255=[0.0, 51.0]).means("4.5", "brightness", brightness, book.models)
    assert set(rows.n) == {4} and again.seconds.tolist() == rows.seconds.tolist()


def test_attacks_bring_their_own_steps_where_the_experiment_sets_none(book):
    own = {"FGSM": attacks.fgsm, "I-FGSM": partial(attacks.i_fgsm, steps=3)}
    rows = replace(book, steps=None).measure("1.1", own, book.models)
    assert dict(zip(rows.attack, rows.passes, strict=True)) == {"FGSM": 1.0, "I-FGSM": 3.0}


def test_show_and_beside(book, shown):
    rows = book.measure("2.1", {"MI-FGSM": attacks.mi_fgsm}, book.models)
    book.show(rows)
    assert "n = 4" in shown[0].data and shown[1].shape == (1, 1) and shown[1].iat[0, 0].endswith("*")
    book.beside("2.1", rows)
    beside = shown[3]
    assert beside.index.tolist() == [("white-box", "MI-FGSM")]
    assert beside["paper"].item() == pytest.approx((100.0 + 99.7 + 97.9 + 99.3) / 4, abs=0.06)


def test_where_each_target_counts_for_itself_the_range_of_n_is_shown(book, shown):
    model = book.models["resnet"]
    own = replace(
        book, models={"resnet": model, "vgg": _like(model, 1)}, images=_images(model, 30), counted="both right"
    )
    rows = own.measure("2.1", {"I-FGSM": attacks.i_fgsm, "MI-FGSM": attacks.mi_fgsm}, {"resnet": model})
    n = rows[rows.metric == "asr"].groupby("target").n.first()
    assert n["resnet"] == 30 > n["vgg"]
    own.show(rows)
    assert f"n = {n['vgg']} to 30" in shown[0].data
    assert f"undefended, 8/255 (n = {n['vgg']})" in own.gains(results.mark_white_box(rows), "I-FGSM").columns[1]


def test_gains_are_paired_differences_within_a_kind_of_target(book):
    model = book.models["resnet"]
    targets = {"resnet": model, "vgg": _like(model, 1), "wrn": _like(model, 2), "vgg-pgd": _like(model, 3)}
    book = replace(book, eps_255=[8.0, 32.0], models=targets, images=_images(model, 30))
    attack = {"I-FGSM": attacks.i_fgsm, "MI-FGSM": attacks.mi_fgsm}
    rows = book.measure("2.1", attack, {"resnet": book.models["resnet"]})
    found = claims.gains(rows, "I-FGSM")
    assert len(found) == 2 * 2 * 2 and set(found.kind) == {claims.UNDEFENDED, claims.TRAINED}
    for row in found.itertuples():
        names = ["vgg-pgd"] if row.kind == claims.TRAINED else ["vgg", "wrn"]
        part = rows[rows.target.isin(names) & (rows.metric == "asr") & (rows.eps_255 == row.eps_255)]
        assert row.value == pytest.approx(part[part.attack == row.attack].value.mean())
        if row.attack == "I-FGSM":
            assert (row.points, row.interval, row.clear) == (0, "", False)
        else:
            assert (row.points, row.low, row.high, row.interval) == differences.between(part, "MI-FGSM", "I-FGSM")
    shown = book.gains(rows, "I-FGSM")
    assert shown.index.tolist() == ["I-FGSM", "MI-FGSM"] and shown.passes.tolist() == [2, 2] and shown.shape == (2, 5)
    assert any("to" in cell for cell in shown.loc["MI-FGSM"].astype(str)) and "(" not in shown.loc["I-FGSM"].iloc[1]


@pytest.mark.parametrize(
    ("low", "high", "cell"),
    [
        (1.0, 3.0, "62.0 (+2.0 ▲, +1.0 to +3.0)"),
        (-3.0, -1.0, "62.0 (-2.0 ▼, -3.0 to -1.0)"),
        (-1.0, 3.0, "62.0 (+1.0, -1.0 to +3.0)"),
    ],
)
def test_a_gain_is_marked_where_its_interval_leaves_out_zero(book, monkeypatch, low, high, cell):
    points = (low + high) / 2
    rows = [("I-FGSM", 60.0, 0.0, 0.0, 0.0, "", False), ("MI-FGSM", 62.0, points, low, high, "paired", low * high > 0)]
    names = ["attack", "value", "points", "low", "high", "interval", "clear"]
    found = pd.DataFrame(rows, columns=names).assign(kind=claims.UNDEFENDED, eps_255=8.0, images="n = 30", passes=10.0)
    monkeypatch.setattr(claims, "gains", lambda rows, baseline: found)
    table = book.gains(pd.DataFrame(), "I-FGSM")
    assert table.iloc[0].tolist() == [10, "60.0"] and table.iloc[1].tolist() == [10, cell]


def _like(model, seed):
    """The model with weights a little off: right for most of the same images."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        for p in other.parameters():
            p += 0.05 * p.std() * torch.randn(p.shape, generator=generator)
    return other


def _images(model, n):
    """Random images, labelled by the model."""
    pixels = torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    images = Images(pixels, torch.zeros(n, dtype=torch.int64), torch.arange(n), tuple("abcdefghij"), "shapes", "test")
    return Images(pixels, predictions(model, images), images.index, images.classes, "shapes", "test")


def test_gains_of_an_unknown_baseline_are_refused(book):
    book = replace(book, models={**book.models, "vgg": _like(book.models["resnet"], 1)})
    rows = book.measure("2.1", {"I-FGSM": attacks.i_fgsm}, {"resnet": book.models["resnet"]})
    with pytest.raises(ValueError, match="MI-FGSM"):
        claims.gains(rows, "MI-FGSM")


def test_black_box_has_a_row_for_each_attack_at_each_budget(book):
    book = replace(book, eps_255=[8.0, 16.0], models={**book.models, "vgg": tiny_model(1)})
    rows = book.measure("2.1", {"MI-FGSM": attacks.mi_fgsm}, {"resnet": book.models["resnet"]})
    means = book.black_box(rows)
    assert means.index.tolist() == [("8/255", "MI-FGSM"), ("16/255", "MI-FGSM")]
    kept = rows[(rows.metric == "asr") & (rows.target == "vgg")]
    assert means.value.tolist() == kept.value.round(1).tolist() and set(means.pairs) == {1}


def test_beside_pairs_each_budget_of_ours_with_the_nearest_printed_one(book, shown):
    book = replace(book, eps_255=[3.0, 8.0])
    attack = {"I-FGSM": attacks.i_fgsm}
    book.beside("3.1", book.measure("3.1", attack, book.models))
    assert ["4/255" in shown[0].data, "3/255" in shown[0].data] == [True, True]
    assert ["(8/255" in shown[2].data, " 8/255)" in shown[2].data] == [True, True] and len(shown) == 4
    rows = published.table("3.1").query("attack == 'I-FGSM' and eps_255 == 4 and white_box")
    assert shown[1].paper.tolist() == [rows.value.item()] and shown[1].n.item() == 4


@pytest.mark.parametrize(("ours", "shown_beside"), [([6.0, 10.0], {4: 6, 8: 10}), ([12.0], {16: 12})])
def test_beside_takes_the_larger_of_two_budgets_that_are_equally_near(book, shown, ours, shown_beside):
    """Table 3.1 is printed for 4, 8 and 16."""
    book = replace(book, eps_255=ours)
    book.beside("3.1", book.measure("3.1", {"I-FGSM": attacks.i_fgsm}, book.models))
    headings = [thing.data for thing in shown[::2]]
    assert len(headings) == len(shown_beside)
    for heading, (printed, own) in zip(headings, shown_beside.items(), strict=True):
        assert f"({printed}/255, n" in heading and f" {own}/255)" in heading


def test_a_table_of_other_networks_is_not_resumed(book):
    attack = {"MI-FGSM": attacks.mi_fgsm}
    book.measure("2.1", attack, book.models)
    other = {"resnet": tiny_model(1)}
    renamed = {"tiny": other["resnet"]}
    for changed in (replace(book, models=other).measure("2.1", attack, other), book.measure("2.1", attack, renamed)):
        assert len(changed) == 2
    old = [p.name for p in (book.run.tables).glob("*.old*.csv")]
    assert len(old) == 2


def test_a_table_of_other_images_of_the_same_number_is_not_resumed(book):
    attack = {"MI-FGSM": attacks.mi_fgsm}
    first = book.measure("2.1", attack, book.models)
    pixels = 255 - book.images.images
    parts = {"images": pixels, "index": book.images.index + 1, "labels": (book.images.labels + 1) % 10}
    for count, (name, values) in enumerate(parts.items(), start=1):
        images = replace(book.images, **{name: values})
        if name != "labels":  # the model must name at least one of them rightly
            images = replace(images, labels=predictions(book.models["resnet"], images))
        else:
            images = replace(images, labels=torch.where(torch.arange(4) < 2, book.images.labels, values))
        alone = replace(book, images=images, run=replace(book.run, chapter="alone"))
        again = replace(book, images=images).measure("2.1", attack, book.models)
        assert again.value.tolist() == alone.measure("2.1", attack, book.models).value.tolist()
        assert len([*book.run.tables.glob("*.old*.csv")]) == count
    assert len(first) == 2


def test_another_measure_is_not_resumed(book):
    def mean(net, batch, eps, factor=1.0):
        return factor * batch.x.mean((1, 2, 3))

    once = book.means("4.5", "brightness", mean, book.models).value.item()
    twice = book.means("4.5", "brightness", partial(mean, factor=2.0), book.models).value.item()
    assert twice == pytest.approx(2 * once)

    def mean(net, batch, eps):
        return 3 * batch.x.mean((1, 2, 3))

    assert book.means("4.5", "brightness", mean, book.models).value.item() == pytest.approx(3 * once)
    with pytest.raises(ValueError, match="one number an image"):
        book.means("4.5", "brightness", lambda net, batch, eps: batch.x.mean((2, 3)), book.models)


def test_committed_says_when_there_is_nothing(book, shown, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", book.run.folder)
    assert book.committed("2.1") is None
    assert "No cifar10 run of Table 2.1" in shown[0].data


def test_committed_shows_the_largest_scale(book, shown, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", book.run.folder)
    one = {"source": "resnet", "attack": "MI-FGSM", "target": "vgg", "eps_255": 8, "metric": "asr", "value": 50, "n": 4}
    for scale, value in (("laptop", 50), ("paper", 75)):
        path = results.result_path("2.1", scale, "cifar10")
        results.ResultTable(path, "2.1", scale, "cifar10", "cpu", 0, {}).add([one | {"value": value}])
    assert book.committed("2.1").value.tolist() == [75.0]
    assert "paper scale" in shown[0].data and len(shown) == 2
    book.committed("2.1", whole=True)
    assert shown[-1].to_dict("index") == {("resnet", "MI-FGSM"): {"vgg": "75.0"}}


def test_verdicts_counts_the_black_box_cases_of_each_run(book):
    rows = published.table("2.1")
    ours = rows[rows.attack.isin(["EM-FGSM", "MI-FGSM"])].assign(n=100, dataset="shapes", scale="smoke")
    swapped = ours.assign(attack=ours.attack.map({"EM-FGSM": "MI-FGSM", "MI-FGSM": "EM-FGSM"}))
    claims = [("2.1", "EM-FGSM", "MI-FGSM"), ("2.1", "EM-FGSM", "NI-FGSM"), ("2.1", "EM-FGSM", "PGD")]
    table = book.verdicts(claims, {"2.1": ours}, {"2.1": swapped})
    setting = "shapes, smoke scale, n = 100"
    headings = ["paper: ImageNet, paper scale, n = 1000", f"this run: {setting}", f"committed run: {setting}"]
    assert table.columns.tolist() == headings and len(table) == 2  # nobody has PGD in Table 2.1
    printed, here, there = table.loc[("2.1", "EM-FGSM > MI-FGSM")]
    w = results.wins(rows[~rows.white_box], "EM-FGSM", "MI-FGSM")
    assert printed.startswith(f"{w['wins']} : {w['losses']} of {(~ours.white_box).sum() // 2},")
    assert here.startswith(f"{w['wins']} : {w['losses']} of") and there.startswith(f"{w['losses']} : {w['wins']} of")
    assert table.loc[("2.1", "EM-FGSM > NI-FGSM")].tolist()[1:] == ["", ""]
    photographs = ours.assign(dataset="imagenet", scale="laptop")
    of_both = book.verdicts(claims, {"2.1": ours}, {"2.1": photographs}, {"2.1": swapped})
    assert of_both.columns.tolist()[2:] == ["committed run: imagenet, laptop scale, n = 100", headings[2]]
    assert of_both.iloc[0].tolist() == [printed, here, here, there]


def test_verdicts_name_the_interval_which_is_paired_in_a_run_that_kept_its_outcomes(book):
    both = replace(book, models={**book.models, "vgg": tiny_model()})
    pair = {"MI-FGSM": attacks.mi_fgsm, "EM-FGSM": attacks.em_fgsm}
    rows = both.measure("2.1", pair, {"resnet": both.models["resnet"]})
    table = both.verdicts([("2.1", "EM-FGSM", "MI-FGSM")], {"2.1": rows}, {})
    printed, here = table.iloc[0]
    assert printed.endswith(" (Newcombe)") and here.endswith(" (paired)") and "of 1," in here


def test_verdicts_of_a_run_that_is_not_there_have_no_column(book):
    table = book.verdicts([("2.1", "EM-FGSM", "MI-FGSM")], {}, {"2.1": None})
    assert table.shape == (1, 1)


def test_a_tally_adds_up_the_cases_of_its_claims(book):
    claims = [("3.1", "I-FGSM+GNP", "I-FGSM"), ("3.2", "DIM+GNP", "DIM")]
    ours = published.table("3.1").assign(dataset="shapes", scale="smoke")
    table = book.tally({("GNP", "undefended"): claims, ("no one", "undefended"): [("3.1", "a", "b")]}, {"3.1": ours})
    assert table.index.tolist() == [("GNP", "undefended")]  # what nobody can answer is left out
    printed, here = table.iloc[0]
    # Ten targets at three budgets in each table, all of them gains in print; this run has one table only.
    assert printed == "60 : 0 of 60, clear 60 : 0 (Newcombe)" and here == "30 : 0 of 30, clear 30 : 0 (Newcombe)"
    mixed = {"3.1": ours, "3.2": published.table("3.2").assign(dataset="shapes", scale="smoke")}
    lost = mixed["3.2"].assign(attack=mixed["3.2"].attack.map({"DIM": "DIM+GNP", "DIM+GNP": "DIM"}))
    lost = lost[lost.attack.notna()]
    assert book.tally({("GNP", "undefended"): claims}, mixed | {"3.2": lost}).iloc[0, 1].startswith("30 : 30 of 60,")


def test_compared_has_points_and_their_interval_for_each_pair_and_run(book):
    printed = published.table("3.1").query("eps_255 == 16")
    pairs = [("I-FGSM+GNP", "I-FGSM"), ("I-FGSM+GNP", "I-FGSM, 2T"), ("a", "b")]
    table = book.compared(pairs, {"the print": printed, "ours": None})
    assert table.columns.tolist() == ["the print, 16/255, n = 5000"] and table.index.tolist() == pairs[:1]
    found = claims.ahead(printed, *pairs[0])
    # The means of the ten printed rates, without the printed average: 65.13 and 48.35.
    assert found.points == pytest.approx(65.13 - 48.35, abs=0.01) and found.low < found.points < found.high
    assert table.iat[0, 0] == f"+16.8 ▲ ({found.low:+.1f} to {found.high:+.1f})"
    assert claims.ahead(printed, *pairs[1]) is None
    with pytest.raises(ValueError, match=r"one budget, got \[4, 8, 16\]"):
        claims.ahead(published.table("3.1"), *pairs[0])
