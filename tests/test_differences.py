"""One definition of clear: which interval a difference has, its closed form, and who asks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, ttest_rel

from advlib.bench import claims, differences, experiment, outcomes, results
from advlib.bench.outcomes import Outcome, Outcomes
from advlib.core import intervals

N = 400
RIGHT = np.arange(N) % 4 > 0


@pytest.fixture
def table(tmp_path):
    """Write a table of attacks on targets, all on the same images: fooled is (attack, target) -> bool (N,)."""

    def write(fooled, name="table_2_1.csv", right=RIGHT, outcomes_kept=True):
        kept = results.ResultTable(tmp_path / name, "2.1", "smoke", "shapes", "cpu", 0, {})
        for attack in dict.fromkeys(attack for attack, _ in fooled):
            cells = {("f", attack, t, 8.0): Outcome(v, right) for (a, t), v in fooled.items() if a == attack}
            rows = [
                {"source": "f", "attack": attack, "target": target, "eps_255": 8.0, "metric": metric, **rate}
                for (_, _, target, _), outcome in cells.items()
                for metric, rate in (("asr", _rate(outcome, right)), ("asr_all", _rate(outcome, np.ones_like(right))))
            ]
            kept.add(rows, Outcomes(np.arange(N), cells) if outcomes_kept else None)
        return kept.frame

    return write


def _rate(outcome, counted):
    k, n = int((outcome.fooled & counted).sum()), int(counted.sum())
    low, high = intervals.wilson(k, n)
    return {"value": 100 * k / n, "n": n, "ci_low": low, "ci_high": high}


def nested(*shares):
    """Images fooled by attacks of growing strength: each also fools what a weaker one fools."""
    rank = np.random.default_rng(0).permutation(N) / N
    return [rank < share for share in shares]


def of(frame, metric="asr"):
    return frame[frame.metric == metric]


# --- which interval --------------------------------------------------------------------------------------------------


def test_one_target_has_newcombes_paired_interval_over_the_images_that_count(table):
    a, b = nested(0.55, 0.5)
    frame = table({("A", "t"): a, ("B", "t"): b})
    found = differences.between(of(frame), "A", "B")
    assert found[:3] == intervals.paired_difference(a[RIGHT], b[RIGHT]) and found.interval == "paired" and found.clear
    every = differences.between(of(frame, "asr_all"), "A", "B")
    assert every[:3] == intervals.paired_difference(a, b)
    back = differences.between(of(frame), "B", "A")
    assert (back.points, back.low, back.high) == pytest.approx((-found.points, -found.high, -found.low))


def test_without_outcomes_it_is_newcombes_and_the_same_numbers_are_not_clear(table):
    a, b = nested(0.55, 0.5)
    frame = of(table({("A", "t"): a, ("B", "t"): b}, outcomes_kept=False))
    found = differences.between(frame, "A", "B")
    k, n = [int((v & RIGHT).sum()) for v in (a, b)], int(RIGHT.sum())
    assert found[1:3] == intervals.newcombe(k[0], n, k[1], n) and found.interval == "Newcombe" and not found.clear


def test_a_mean_over_targets_has_the_interval_of_the_mean_difference_of_an_image(table):
    rng = np.random.default_rng(1)
    ease = rng.random(N)
    fooled = {
        (attack, target): ease + 0.3 * rng.random(N) < share + 0.1 * k
        for attack, share in (("A", 0.6), ("B", 0.5))
        for k, target in enumerate("tuv")
    }
    frame = of(table(fooled))
    found = differences.between(frame, "A", "B")
    each = {a: 100 * np.stack([fooled[a, t][RIGHT] for t in "tuv"]).mean(0) for a in "AB"}
    wanted = ttest_rel(each["A"], each["B"]).confidence_interval()
    means = results.black_box(results.mark_white_box(frame)).value
    assert found.points == pytest.approx(means["A"] - means["B"])
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high)) and found.interval == "paired"
    d = each["A"] - each["B"]
    normal = norm.ppf(0.975) * d.std(ddof=1) / len(d) ** 0.5
    assert (found.high - found.low) / 2 == pytest.approx(normal, rel=0.006)  # what Student's is at 300 images
    loose = differences.between(table(fooled, "other.csv", outcomes_kept=False).query("metric == 'asr'"), "A", "B")
    assert loose.low < found.low < found.high < loose.high
    k, n = [round(means[a] / 100 * RIGHT.sum()) for a in "AB"], int(RIGHT.sum())
    assert loose[1:3] == intervals.newcombe(k[0], n, k[1], n)


def test_where_other_images_count_for_each_target_an_image_adds_to_each_rate():
    """Two targets of four images, and of two of them: the mean of two means, and an image adds to it what it adds to
    each of them."""
    each = np.array([[1.0, 0.0, 0.0, 1.0, 5.0], [1.0, 7.0, 7.0, -1.0, 7.0]])
    counted = np.array([[1, 1, 1, 1, 0], [1, 0, 0, 1, 0]], dtype=bool)
    found = differences._shares(each, counted)
    assert found.mean() == pytest.approx(100 * (0.5 + 0.0) / 2)
    added = [(0.5 / 4 + 1 / 2) / 2, -0.5 / 4 / 2, -0.5 / 4 / 2, (0.5 / 4 - 1 / 2) / 2]
    assert found - found.mean() == pytest.approx(100 * 4 * np.array(added))


def counting_others(path, names, attacks, targets, rng):
    """Rows of attacks on targets, each of which has images of its own that count."""
    ease, kept = (
        rng.uniform(0, 0.9, N),
        results.ResultTable(path / f"{names}.csv", "2.1", "smoke", "shapes", "cpu", 0, {}),
    )
    rights = {target: rng.random(N) < share for target, share in targets.items()}
    for attack, more in attacks.items():
        cells = {("f", attack, t, 8.0): Outcome(rng.random(N) < ease + more, right) for t, right in rights.items()}
        rows = [{"source": "f", "attack": attack, "target": key[2], "eps_255": 8.0, "metric": "asr",
                 **_rate(outcome, outcome.right)} for key, outcome in cells.items()]  # fmt: skip
        kept.add(rows, Outcomes(np.arange(N), cells))
    return kept.frame


def test_the_interval_over_targets_that_count_other_images_is_paired_and_covers(tmp_path):
    rng, hits = np.random.default_rng(3), 0
    targets = {"t": 0.9, "u": 0.3, "v": 0.6}
    for k in range(60):
        frame = counting_others(tmp_path, k, {"A": 0.05, "B": 0.0}, targets, rng)
        found = differences.between(frame.sample(frac=1, random_state=k), "A", "B")
        wide = frame.pivot(index="attack", columns="target", values="value").mean(axis=1)
        assert found.interval == "paired" and found.points == pytest.approx(wide["A"] - wide["B"])
        hits += found.low <= 5 <= found.high
    assert 53 <= hits <= 60


def test_rates_over_the_images_that_count_for_all_targets_stand_beside(tmp_path):
    """Those of the thesis' filter: an image counts if every network names it rightly."""
    frame = counting_others(tmp_path, "own", {"A": 0.1, "B": 0.0}, {"t": 0.9, "u": 0.3}, np.random.default_rng(0))
    kept = results.outcomes(tmp_path / "own.csv")
    common = kept.of("f", "A", "t", 8).right & kept.of("f", "A", "u", 8).right
    found = results.over_common(of(frame))
    assert set(found.n) == {common.sum()} and common.sum() < of(frame).n.min()
    for row in found.itertuples():
        fooled = kept.of("f", row.attack, row.target, 8).fooled[common]
        assert row.value == pytest.approx(100 * fooled.mean())
        assert (row.ci_low, row.ci_high) == pytest.approx(intervals.wilson(fooled.sum(), len(fooled)))
    means = experiment._averages(results.mark_white_box(of(frame)))
    strict = found[found.attack == "A"].value.mean()
    assert means.loc["black-box", "A"][f"over the {common.sum()} that all name rightly"] == pytest.approx(strict)


def test_where_all_count_the_same_images_or_none_nothing_stands_beside(table, tmp_path):
    a, b = nested(0.6, 0.5)
    frame = of(table({("A", "t"): a, ("B", "t"): b}))
    assert results.over_common(frame).value.tolist() == pytest.approx(frame.value.tolist())
    assert experiment._averages(results.mark_white_box(frame)).columns[-1] == "pairs"
    assert results.over_common(of(table({("A", "t"): a}, "table_2_2.csv", outcomes_kept=False))) is None
    half = {"t": N // 2, "u": N}
    cells = {
        ("f", "A", t, 8.0): Outcome(a, (np.arange(N) < end) & (np.arange(N) >= end - N // 2)) for t, end in half.items()
    }
    kept = results.ResultTable(tmp_path / "parted.csv", "2.1", "smoke", "shapes", "cpu", 0, {})
    rows = [{"source": "f", "attack": "A", "target": key[2], "eps_255": 8.0, "metric": "asr",
             **_rate(cell, cell.right)} for key, cell in cells.items()]  # fmt: skip
    kept.add(rows, Outcomes(np.arange(N), cells))
    assert results.over_common(kept.frame) is None


def test_where_every_image_differs_alike_the_spread_is_not_taken_for_none(table):
    a = nested(0.5)[0]
    frame = of(table({(attack, target): a for attack in "AB" for target in "tu"}))
    found = differences.between(frame, "A", "B")
    assert found.points == 0 and found.low < 0 < found.high and found.interval == "Newcombe"


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.assign(attack=f.attack.replace({"B": "C"})).replace({"attack": {"C": "B'"}}),
        lambda f: f.assign(target=f.target + " again"),
        lambda f: f.drop(columns="eps_255"),
        lambda f: f.drop(columns="metric"),
        lambda f: f.assign(metric="abstained"),
        lambda f: pd.concat([f, f.iloc[:0].copy().pipe(_of_nowhere)]),
    ],
)
def test_rows_whose_images_are_not_to_be_found_have_newcombes(table, change):
    a, b = nested(0.55, 0.5)
    frame = change(of(table({("A", "t"): a, ("B", "t"): b})))
    worse = "B'" if "B'" in set(frame.attack) else "B"
    assert differences.between(frame, "A", worse).interval == "Newcombe"


def _of_nowhere(frame):
    frame.attrs = {}
    return frame


def test_outcomes_stay_with_rows_that_are_chosen_marked_and_grouped(table):
    a, b = nested(0.55, 0.5)
    frame = results.mark_white_box(of(table({("A", "t"): a, ("B", "t"): b})))
    (part,) = (part for _, part in frame[~frame.white_box].groupby("eps_255"))
    assert differences.between(part, "A", "B").interval == "paired"


def test_cells_that_count_other_images_are_not_paired(table, tmp_path):
    a, b = nested(0.55, 0.5)
    kept = results.ResultTable(tmp_path / "t.csv", "2.1", "smoke", "shapes", "cpu", 0, {})
    for attack, fooled, right in (("A", a, RIGHT), ("B", b, ~RIGHT)):
        row = {"source": "f", "attack": attack, "target": "t", "eps_255": 8.0, "metric": "asr"}
        outcome = Outcome(fooled, right)
        kept.add([row | _rate(outcome, right)], Outcomes(np.arange(N), {("f", attack, "t", 8.0): outcome}))
    assert differences.between(kept.frame, "A", "B").interval == "Newcombe"


def test_outcomes_of_another_run_beside_the_rows_are_named(table, tmp_path):
    a, b = nested(0.55, 0.5)
    frame = of(table({("A", "t"): a, ("B", "t"): b}))
    cells = {("f", name, "t", 8.0): Outcome(~a, RIGHT) for name in "AB"}
    outcomes.write(tmp_path / "table_2_1.outcomes.npz", Outcomes(np.arange(N), cells))
    with pytest.raises(results.DamagedError, match=r"table_2_1\.outcomes\.npz is not of the same run"):
        differences.between(frame, "A", "B")
    (tmp_path / "table_2_1.outcomes.npz").write_bytes(b"cut")
    with pytest.raises(results.DamagedError, match=r"table_2_1\.outcomes\.npz is truncated or damaged"):
        differences.between(frame, "A", "B")
    (tmp_path / "table_2_1.outcomes.npz").unlink()
    assert differences.between(frame, "A", "B").interval == "Newcombe"


def test_seeds_are_compared_within_each():
    values = {"SAM": [80.0, 82.0, 84.0], "SGD": [79.0, 80.0, 83.5]}
    rows = [
        {"source": f"seed {k}, 50 images", "attack": name, "metric": "accuracy", "value": value, "n": 100}
        for name, some in values.items()
        for k, value in enumerate(some)
    ]
    shuffled = pd.DataFrame(rows).sample(frac=1, random_state=0)
    found = differences.between(shuffled, "SAM", "SGD")
    assert found[:3] == pytest.approx(intervals.paired_mean(np.array([1.0, 2.0, 0.5])))
    assert found.interval == "Student over seeds"
    alone = differences.between(shuffled[shuffled.source.str.startswith("seed 0")], "SAM", "SGD")
    assert alone.low == -np.inf and not alone.clear


def test_means_that_carry_intervals_are_taken_for_independent():
    rows = pd.DataFrame(
        {"source": ["A", "B"], "attack": ["A", "B"], "metric": "local_lipschitz", "value": [9.0, 4.0], "n": 30}
    ).assign(ci_low=[6.0, 0.0], ci_high=[12.0, 8.0])
    found = differences.between(rows, "A", "B")
    assert found == (5.0, 0.0, 10.0, "MOVER")  # three and four points to each side are five together
    assert not found.clear, "an interval that ends at 0 does not leave it out"
    with pytest.raises(ValueError, match="A: expected one row, got 2"):
        differences.between(pd.concat([rows, rows]), "A", "B")


def test_a_signed_number_has_no_minus_before_a_zero():
    assert [differences.signed(points) for points in (6.55, -0.04, 0.0, -3, 18497.4)] == [
        "+6.5",
        "+0.0",
        "+0.0",
        "-3.0",
        "+18,497.4",
    ]


def test_an_attack_without_rows_is_named():
    rows = pd.DataFrame({"attack": ["A"], "value": [1.0], "n": [3]})
    for pair in (("A", "B"), ("B", "A")):
        with pytest.raises(ValueError, match=r"no attack 'B'; there are \['A'\]"):
            differences.between(rows, *pair)


def test_the_interval_of_a_mean_over_targets_covers():
    """600 sets of 400 images, some easy and some hard on both targets: 95 % hold the true difference of 5 points."""
    rng, hits = np.random.default_rng(2), 0
    for _ in range(600):
        ease = rng.uniform(0, 0.95, N)
        first, second = ((rng.random((2, N)) < ease + more).mean(0) for more in (0.05, 0.0))
        _, low, high = intervals.paired_mean(100 * (first - second))
        hits += low <= 5 <= high
    assert 555 <= hits <= 585


# --- who asks --------------------------------------------------------------------------------------------------------


def test_wins_are_clear_by_the_paired_interval_and_say_so(table):
    a, b = nested(0.55, 0.5)
    fooled = {("A", "t"): a, ("B", "t"): b, ("A", "u"): b, ("B", "u"): a}
    paired = results.wins(of(table(fooled)), "A", "B")
    loose = results.wins(of(table(fooled, "other.csv", outcomes_kept=False)), "A", "B")
    counts = ("cases", "wins", "losses", "clear_wins", "clear_losses", "interval")
    assert [paired[name] for name in counts] == [2, 1, 1, 1, 1, "paired"]
    assert [loose[name] for name in counts] == [2, 1, 1, 0, 0, "Newcombe"]


def test_wins_name_both_intervals_where_cases_differ(table):
    a, b = nested(0.55, 0.5)
    frame = of(table({("A", "t"): a, ("B", "t"): b, ("A", "u"): a, ("B", "u"): b}))
    frame.loc[frame.target == "u", "target"] = "u'"
    assert results.wins(frame, "A", "B")["interval"] == "Newcombe and paired"


def test_compare_and_the_readme_ask_the_same(tmp_path, monkeypatch, table):
    """Rows committed with their outcomes: the order and the README's interval are of the paired difference."""
    from advlib.press import readme, results_page

    monkeypatch.setattr(results, "RESULTS", tmp_path)
    a, b = nested(0.55, 0.5)
    path = results.result_path("2.1", "laptop", "cifar10")
    kept = results.ResultTable(path, "2.1", "laptop", "cifar10", "cpu", 0, {})
    for attack, fooled in (("EM-FGSM", a), ("MI-FGSM", b)):
        outcome = Outcome(fooled, RIGHT)
        row = {"source": "resnet", "attack": attack, "target": "vgg", "eps_255": 8.0, "metric": "asr"}
        kept.add([row | _rate(outcome, RIGHT)], Outcomes(np.arange(N), {("resnet", attack, "vgg", 8.0): outcome}))
    points, low, high = intervals.paired_difference(a[RIGHT], b[RIGHT])
    found = claims.between("2.1", "laptop", "cifar10", claims.SUCCESS[claims.UNDEFENDED], 8.0, "EM-FGSM", "MI-FGSM")
    assert found == (points, low, high, "paired")
    rows = claims.compare("2.1", "laptop", "cifar10")
    assert rows.order.tolist() == [claims.SAME] * 2 and set(rows.judged) == {"paired"}
    text = readme.markdown()
    assert f"| {points:+.1f} [{low:+.1f}, {high:+.1f}] | 300 |" in text
    assert "Intervals of differences: in Table 2.1 paired, from the same images." in text
    assert "Intervals of differences: paired, from the same images." in results_page.markdown()
    outcomes.beside(path).unlink()
    assert set(claims.compare("2.1", "laptop", "cifar10").order) == {claims.OPEN}
    assert "in Table 2.1 Newcombe's, which takes the two for independent" in readme.markdown()


# --- the nearest budget ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budgets", "wanted", "found"),
    [
        ([4, 8, 16], 8, 8),
        ([4, 16], 8, 4),
        ([4, 12], 8, 12),
        ([12, 4], 8, 12),
        ({4.0, 8.0}, 6, 8.0),
        ([16], 1, 16),
        ((b for b in (2, 3)), 0, 2),
    ],
)
def test_of_two_budgets_that_are_equally_near_the_larger(budgets, wanted, found):
    assert results.nearest(budgets, wanted) == found


def test_no_budget_is_nearest_of_none():
    with pytest.raises(ValueError, match="budgets"):
        results.nearest([], 8)
