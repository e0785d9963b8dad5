"""The README's table: committed rows on real data beside the print, and nothing else."""

import pytest

from advlib.bench import claims, results
from advlib.core import intervals, published
from advlib.defenses import secured
from advlib.press import readme


@pytest.fixture
def committed(tmp_path, monkeypatch):
    """Write a cell of a committed table: source, attack, target, budget, successes of 200."""
    monkeypatch.setattr(results, "RESULTS", tmp_path)

    def write(table, cells, dataset="cifar10"):
        path = results.result_path(table, "laptop", dataset)
        key = ("source", "attack", "target", "eps_255")
        kept = results.ResultTable(path, table, "laptop", dataset, "cpu", 0, {}, key=key)
        for source, attack, target, eps, k in cells:
            row = {"source": source, "attack": attack, "target": target, "eps_255": eps, "metric": "asr"}
            kept.add([row | {"value": k / 2, "n": 200}])

    return write


def test_nothing_committed_is_said(committed):
    committed("2.1", [("resnet", "MI-FGSM", "vgg", 8, 100)], dataset="shapes")
    assert "No cifar10 run that compares with the thesis is committed yet" in readme.markdown(whole=True)


def test_row_is_the_difference_of_means_over_black_box_targets_beside_the_print(committed):
    for attack, successes in (("MI-FGSM", (200, 80, 100)), ("EM-FGSM", (200, 90, 130))):
        committed(
            "2.1", [("resnet", attack, t, 8, k) for t, k in zip(("resnet", "vgg", "wrn"), successes, strict=True)]
        )
    low, high = intervals.newcombe(110, 200, 90, 200)
    printed = published.table("2.1").query("not target.str.contains('ens')")
    old, new = results.black_box(printed).value[["MI-FGSM", "EM-FGSM"]]
    row = (
        "| 2.1, one source | success on undefended targets (%) | MI-FGSM → EM-FGSM "
        f"| {old:.1f} → {new:.1f} | ImageNet, 16/255 | 45.0 → 55.0 "
        f"| CIFAR-10, 8/255 | +10.0 [{low:+.1f}, {high:+.1f}] | 200 |"
    )
    assert row in readme.markdown(whole=True).splitlines()


def test_members_of_the_ensemble_are_white_box_and_the_budget_is_the_nearest(committed):
    cells = [("vgg-ens3", 16, 180), ("resnet", 8, 200), ("vgg-ens3", 8, 60)]
    committed("2.3", [("resnet+wrn", a, t, eps, k) for a in ("MI-FGSM", "EM-FGSM") for t, eps, k in cells])
    row = readme.markdown(whole=True).splitlines()[2]
    assert row.startswith("| 2.3, ensemble source | success on adversarially trained targets (%) |")
    assert "| 30.0 → 30.0 | CIFAR-10, 8/255 | +0.0 [" in row


def test_kinds_of_target_stand_apart_and_those_that_print_or_run_lacks_are_left_out(committed):
    """Table 2.1 is printed for undefended and for adversarially trained targets, 2.3 for the second alone."""
    cells = [(a, t, k) for a in ("MI-FGSM", "EM-FGSM") for t, k in (("vgg", 100), ("vgg-pgd", 20), ("wrn", 140))]
    committed("2.1", [("resnet", a, t, 8, k) for a, t, k in cells])
    committed("2.3", [("resnet+densenet", a, "vgg", 8, 100) for a in ("MI-FGSM", "EM-FGSM")])
    text = readme.markdown(whole=True)
    rows = [line for line in text.splitlines() if line.startswith("| 2.")]
    assert [("undefended" in row, "adversarially trained" in row) for row in rows] == [(True, False), (False, True)]
    assert "| 60.0 → 60.0 |" in rows[0] and "| 10.0 → 10.0 |" in rows[1]
    printed = published.table("2.1").query("target.str.contains('ens')")
    old, new = results.black_box(printed).value[["MI-FGSM", "EM-FGSM"]]
    assert f"| {old:.1f} → {new:.1f} |" in rows[1]
    assert " Table 2.3: no row" in text


def test_every_printed_target_is_of_a_kind():
    kinds = {name: claims.kind(name) for table in claims.ATTACKS for name in published.table(table).target}
    trained = {"Inc-v3ens3", "Inc-v3ens4", "IncRes-v2ens1"}
    assert {name for name, kind in kinds.items() if kind == claims.TRAINED} == trained
    assert {name for name, kind in kinds.items() if kind == claims.DEFENDED} == set(secured.NINE)
    ours = {name: claims.kind(name) for name in (*secured.OURS[:4], "vgg", "densenet", "resnet20*", "Inc-v3adv")}
    assert [*ours.values()] == [claims.TRAINED] * 4 + [claims.UNDEFENDED] * 3 + [claims.TRAINED]


def test_a_claim_of_which_half_is_measured_and_targets_that_the_thesis_lacks_are_left_out(committed):
    committed("3.3", [("resnet", "DIM+TIM", "JPEG", 16, 100)])
    cells = [(a, t, k) for a in ("MI-Composite", "EM-RE-Composite") for t, k in (("JPEG", 60), ("no defence", 200))]
    committed("2.5", [("resnet", a, t, 16, k) for a, t, k in cells])
    text = readme.markdown(whole=True)
    assert (
        "| 3.3" not in text
        and "| MI-Composite → EM-RE-Composite |" in text
        and "| 30.0 → 30.0 | CIFAR-10, 16/255 |" in text
    )


def test_training_is_the_mean_over_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    path = results.result_path("5.2", "laptop", "cifar10")
    kept = results.ResultTable(path, "5.2", "laptop", "cifar10", "cpu", 0, {}, key=("source", "attack"))
    for name, values in (("SGD", (80.0, 82.0, 84.0)), ("CR-SAM", (86.0, 87.0, 88.0))):
        for seed, value in enumerate(values):
            source = f"seed {seed}, 50 images, 4 epochs"
            row = {"source": source, "attack": name, "target": "test", "eps_255": float("nan")}
            kept.add([row | {"metric": "accuracy", "value": value, "n": 100}])
    text = readme.markdown(whole=True)
    (row,) = (line for line in text.splitlines() if line.startswith("| 5.2"))
    assert "3 seeds of a ResNet-8, 50 images, 4 epochs" in text
    half = 4.302653 / 3**0.5  # Student's at two degrees of freedom, of differences of 6, 5 and 4 within a seed
    assert (
        "| SGD → CR-SAM | 95.3 → 97.0 |" in row
        and f"| 82.0 → 87.0 | CIFAR-10 | +5.0 [{5 - half:+.1f}, {5 + half:+.1f}] |" in row
    )


def test_both_ends_of_a_claim_are_of_one_budget_that_both_have(committed):
    """Of 4 and 12, equally near, the larger; 8 has one of the two attacks alone."""
    committed("2.1", [("resnet", "EM-FGSM", "vgg", eps, k) for eps, k in ((4, 60), (8, 100), (12, 150))])
    committed("2.1", [("resnet", "MI-FGSM", "vgg", eps, k) for eps, k in ((4, 40), (12, 120))])
    row = readme.markdown(whole=True).splitlines()[2]
    assert "| 60.0 → 75.0 | CIFAR-10, 12/255 | +15.0 [" in row


def test_tables_of_imagenet_have_our_rows_on_imagenet_first(committed):
    """Of 8 and 16 the thesis' budget; Table 4.1 is on CIFAR-10 in the thesis, and stays so."""
    for dataset, k in (("cifar10", 100), ("imagenet", 60)):
        cells = [
            ("f", a, "vgg", eps, k + more + eps) for a, more in (("MI-FGSM", 0), ("EM-FGSM", 10)) for eps in (8, 16)
        ]
        committed("2.1", cells, dataset)
        committed("4.1", [("f", a, "vgg", 8, k) for a in ("PGD", "PGD+LRS-F")], dataset)
    text = readme.markdown(whole=True)
    rows = [line for line in text.splitlines() if line[:3] in ("| 2", "| 4")]
    assert [line.split(" | ")[6] for line in rows] == ["ImageNet, 16/255", "CIFAR-10, 8/255"]
    assert "| 38.0 → 43.0 |" in rows[0] and "each target counts those that it and the source" in text
    assert {t: readme.dataset_of(t) for t in ("2.1", "2.2", "4.1", "5.2")} == {
        "2.1": "imagenet", "2.2": "cifar10", "4.1": "cifar10", "5.2": "cifar10"}  # fmt: skip


def test_the_note_names_the_interval_of_each_table(committed):
    committed("2.1", [("resnet", a, "vgg", 8, 100) for a in ("MI-FGSM", "EM-FGSM")])
    committed("2.2", [("resnet", a, "vgg", 8, 100) for a in ("SIM", "RE")])
    assert "Intervals of differences: in Tables 2.1 and 2.2 Newcombe's, which takes" in readme.markdown(whole=True)


def test_the_readme_has_the_first_claim_of_each_method(committed):
    for table, pairs in {"2.1": ("MI-FGSM", "EM-FGSM"), "2.5": ("MI-Composite", "EM-RE-Composite")}.items():
        committed(table, [("resnet", a, t, 8, 100) for a in pairs for t in ("vgg", "vgg-pgd", "JPEG")])
    short, whole = (readme.markdown(whole) for whole in (False, True))
    assert [line[:5] for line in short.splitlines() if line.startswith("| 2.")] == ["| 2.1"]
    assert [line[:5] for line in whole.splitlines() if line.startswith("| 2.")] == ["| 2.1", "| 2.1", "| 2.5"]
    assert "page of results" in short and "page of results" not in whole
    assert set(readme.GLANCE) <= set(readme.CLAIMS)


def test_every_claim_is_in_print():
    for table, pairs in readme.CLAIMS.items():
        printed = published.table(table)
        names = set(printed.attack if "attack" in printed else printed.optimizer)
        assert all({method, other} <= names for _, method, other in pairs), table


def test_only_the_marked_part_of_a_text_changes(committed):
    text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    new = readme.refreshed(text)
    assert new.startswith("before\n") and new.endswith("\nafter\n") and "old" not in new
    assert readme.refreshed(new) == new
    with pytest.raises(ValueError, match="lacks the marks"):
        readme.refreshed("no marks")
