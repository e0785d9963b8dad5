"""The README's table: committed rows on real data beside the print, and nothing else."""

import pytest

from advlib import glance, results


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
    assert "No cifar10 run is committed yet" in glance.markdown()


def test_row_is_the_mean_over_black_box_targets_beside_the_print(committed):
    committed("2.1", [("resnet", "MI-FGSM", t, 8, k) for t, k in (("resnet", 200), ("vgg", 80), ("wrn", 100))])
    low, high = results.wilson(90, 200)
    printed = results.black_box(results.published("2.1")).value["MI-FGSM"]
    row = f"| 2.1, one source | MI-FGSM | {printed:.1f} | ImageNet, 16/255 | 45.0 [{low:.1f}, {high:.1f}] |"
    assert row in glance.markdown().splitlines() and "n = 200 images" in glance.markdown()


def test_members_of_the_ensemble_are_white_box_and_a_missing_budget_is_empty(committed):
    committed("2.1", [("resnet", "MI-FGSM", "vgg", 16, 100)])
    committed("2.3", [("resnet+wrn", "MI-FGSM", t, 8, k) for t, k in (("resnet", 200), ("vgg", 60))])
    lines = glance.markdown().splitlines()
    assert lines[0].endswith("| cifar10, 8/255 | cifar10, 16/255 |")
    row = next(line for line in lines if line.startswith("| 2.3"))
    assert " 30.0 [" in row and row.endswith("|  |")


def test_rows_that_the_thesis_does_not_have_are_left_out(committed):
    committed("3.3", [("resnet", a, "JPEG", 16, k) for a, k in (("DIM+TIM", 100), ("DIM+TIM+GNP", 80), ("other", 200))])
    committed("2.5", [("resnet", "MI-Composite", t, 16, k) for t, k in (("JPEG", 60), ("no defence", 200))])
    text = glance.markdown()
    lines = text.splitlines()
    printed = results.published("3.3").query("attack == 'DIM+TIM'").value.mean()
    assert any(
        line.startswith(f"| 3.3, six secured | DIM+TIM | {printed:.1f} | ImageNet, 16/255 | 50.0 [") for line in lines
    )
    assert "other" not in text and any("| 2.5, nine defences | MI-Composite | " in x and " 30.0 [" in x for x in lines)


def test_training_is_mean_and_deviation_over_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    path = results.result_path("5.2", "laptop", "cifar10")
    kept = results.ResultTable(path, "5.2", "laptop", "cifar10", "cpu", 0, {}, key=("source", "attack"))
    for seed, value in enumerate((80.0, 82.0, 84.0)):
        row = {
            "source": f"seed {seed}, 50 images, 4 epochs",
            "attack": "SAM",
            "target": "test",
            "eps_255": float("nan"),
        }
        kept.add([row | {"metric": "accuracy", "value": value, "n": 100, "passes": 8}])
    text = glance.markdown()
    assert "| 5.2, training | SAM | 96.46 ± 0.18 | 82.00 ± 2.00 | 8 |" in text.splitlines()
    assert "50 images, 4 epochs" in text and "3 seeds" in text and "black-box" not in text


def test_each_table_stands_beside_the_budget_and_the_data_of_the_thesis(committed):
    committed(
        "4.1", [("densenet", "PGD+LRS-F", t, eps, k) for t in ("densenet", "vgg") for eps, k in ((4, 60), (8, 80))]
    )
    low, high = results.wilson(80, 200)
    printed = results.published("4.1").query("attack == 'PGD+LRS-F' and eps_255 == 8 and target != 'Average'")
    mean = printed[~printed.white_box].value.mean()
    row = f"| 4.1, transformed surrogates | PGD+LRS-F | {mean:.1f} | CIFAR-10, 8/255 | 30.0 ["
    assert any(
        x.startswith(row) and x.endswith(f" 40.0 [{low:.1f}, {high:.1f}] |") for x in glance.markdown().splitlines()
    )


def test_only_the_marked_part_of_a_text_changes(committed):
    text = f"before\n{glance.BEGIN}\nold\n{glance.END}\nafter\n"
    new = glance.refreshed(text)
    assert new.startswith("before\n") and new.endswith("\nafter\n") and "old" not in new
    assert glance.refreshed(new) == new
    with pytest.raises(ValueError, match="lacks the marks"):
        glance.refreshed("no marks")
