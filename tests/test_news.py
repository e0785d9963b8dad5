"""What a run says of its tables and figures when they come."""

import os

import pytest

from advlib.bench import results
from advlib.bench.chapters import Run
from advlib.files.paths import RESULTS, replacing
from advlib.press import news


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Run("02", tmp_path / "run", "laptop", "shapes")


def table(kept, stem="table_2_1"):
    return results.ResultTable(kept.tables / f"{stem}.csv", "2.1", "laptop", "shapes", "cpu", 0, {})


def cell(attack, values, eps=8.0, source="resnet", metric="asr"):
    """Rows of an attack. values: success by target, in percent of 200 images."""
    row = {"source": source, "attack": attack, "eps_255": eps, "metric": metric, "n": 200}
    return [row | {"target": target, "value": value} for target, value in values.items()]


def test_a_table_is_told_with_its_mean_over_black_box_targets(kept):
    new = news.News(kept)
    assert new.lines() == []
    rows = table(kept)
    rows.add(cell("MI-FGSM", {"resnet": 100.0, "vgg": 40.0, "wrn": 50.0}))
    rows.add(cell("EM-FGSM", {"resnet": 100.0, "vgg": 60.0, "wrn": 51.0}))
    where = os.path.join("run", "tables", "02", "table_2_1.csv")
    said = "    success on undefended targets (%), 8/255, n = 200: EM-FGSM 55.5; MI-FGSM 45.0"
    assert new.lines() == [where, said]
    assert new.lines() == []


def test_members_of_an_ensemble_are_white_box_and_kinds_of_target_stand_apart(kept):
    rows, values = table(kept), {"vgg": 90.0, "wrn": 30.0, "vgg-pgd": 10.0, "JPEG": 20.0}
    rows.add(cell("MI-FGSM", values, source="resnet+vgg"))
    heads = [line.strip() for line in news.headlines(rows.path)]
    assert heads == [
        "success on undefended targets (%), 8/255, n = 200: MI-FGSM 30.0",
        "success on adversarially trained targets (%), 8/255, n = 200: MI-FGSM 10.0",
        "success on defended targets (%), 8/255, n = 200: MI-FGSM 20.0",
    ]


def test_of_many_attacks_those_that_fool_most_and_of_several_budgets_the_first(kept):
    rows = table(kept)
    for eps in (4.0, 8.0):
        for k in range(7):
            rows.add(cell(f"A{k}", {"vgg": 10.0 * k + eps}, eps))
    (line,) = news.headlines(rows.path)
    assert line.endswith(", 4/255, n = 200: A6 64.0; A5 54.0; A4 44.0; 4 more down to 4.0")


def test_a_table_that_grows_or_is_picked_up_is_told_again_and_one_that_was_there_is_not(kept):
    table(kept).add(cell("MI-FGSM", {"vgg": 40.0}))
    new = news.News(kept)
    assert new.lines() == []
    rows = table(kept)
    assert new.lines()[1].endswith(": MI-FGSM 40.0")
    rows.add(cell("EM-FGSM", {"vgg": 30.0}))
    assert new.lines()[1].endswith(": MI-FGSM 40.0; EM-FGSM 30.0")


def test_tables_that_were_set_aside_are_no_news(kept):
    new = news.News(kept)
    table(kept).add(cell("MI-FGSM", {"vgg": 40.0}))
    other = results.ResultTable(kept.tables / "table_2_1.csv", "2.1", "laptop", "shapes", "cpu", 1, {})
    other.add(cell("MI-FGSM", {"vgg": 41.0}))
    assert other.set_aside.is_file()
    assert [line for line in new.lines() if ".csv" in line] == [os.path.join("run", "tables", "02", "table_2_1.csv")]


@pytest.mark.parametrize("text", ["what,ratio\nloop,1.2\n", "", "what"])
def test_of_other_tables_and_of_figures_the_place_is_told(kept, text):
    new = news.News(kept)
    with replacing(kept.tables / "speed.csv") as partial:
        partial.write_text(text)
    with replacing(kept.figures / "fig_2_1.svg") as partial:
        partial.write_text("<svg/>")
    assert new.lines() == [
        os.path.join("run", *path) for path in (("tables", "02", "speed.csv"), ("figures", "02", "fig_2_1.svg"))
    ]
    with replacing(kept.figures / "fig_2_1.svg") as partial:
        partial.write_text("<svg/>")
    assert new.lines() == [os.path.join("run", "figures", "02", "fig_2_1.svg")]


def test_a_table_of_training_has_no_success(kept):
    rows = table(kept)
    rows.add(cell("SAM", {"test": 80.0}, eps=float("nan"), metric="accuracy"))
    rows.add(cell("SGD", {"resnet": 80.0}))  # white-box alone
    assert news.headlines(rows.path) == []


def test_every_committed_table_is_told_in_a_few_lines():
    counts = {path: len(news.headlines(path)) for path in RESULTS.glob("*/*/*.csv")}
    assert set(counts.values()) == {0, 1, 2, 3}
    assert counts[RESULTS / "laptop" / "cifar10" / "table_2_1.csv"] == 1
