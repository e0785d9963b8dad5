"""What holds and what does not: every ordering of the print, and what committed rows say of it, and nothing else."""

import re

import pytest
from test_glance import committed  # noqa: F401 a fixture

from advlib.bench import claims, results
from advlib.core import intervals, published
from advlib.press import verdicts
from advlib.press.verdicts import HOLDS, NOT, OPEN, ORDERINGS


def test_the_page_says_what_is_committed():
    page = verdicts.PAGE.read_text(encoding="utf-8")
    assert verdicts.refreshed(page) == page, "write it anew: python -m advlib glance"


def test_the_interval_decides(committed):  # noqa: F811
    """Of 200 images, RE fools 140, SIM 100, TIM 138 and DIM 180."""
    cells = {"RE": 140, "SIM": 100, "TIM": 138, "DIM": 180}
    committed("2.2", [("resnet", attack, "vgg", 8, k) for attack, k in cells.items()])
    found = {v.worse: v for v in verdicts.verdicts()}
    assert {worse: v.word for worse, v in found.items()} == {"DIM": NOT, "TIM": OPEN, "SIM": HOLDS}
    sim = found["SIM"]
    assert sim.difference[:3] == (20.0, *intervals.newcombe(140, 200, 100, 200)) and sim.n == 200
    printed = results.black_box(published.table("2.2").query("not target.str.contains('ens')")).value
    assert sim.printed == pytest.approx(printed["RE"] - printed["SIM"])
    low, high = sim.difference[1:3]
    assert f"| {HOLDS}: +20.0 [{low:+.1f}, {high:+.1f}], n = 200 |" in verdicts.markdown()
    assert "*CIFAR-10, 8/255: 1 hold, 1 do not, 1 open.*" in verdicts.markdown()


def test_kinds_of_target_and_data_sets_stand_apart_and_other_budgets_are_left_out(committed):  # noqa: F811
    for dataset, eps in (("cifar10", 8), ("cifar10", 2), ("imagenet", 16), ("imagenet", 8)):
        cells = [(a, t) for a in ("MI-FGSM", "EM-FGSM") for t in ("vgg", "vgg-pgd")]
        committed("2.1", [("resnet", a, t, eps, 100) for a, t in cells], dataset)
    found = {(v.metric, v.dataset, v.eps_255) for v in verdicts.verdicts()}
    undefended, trained = claims.SUCCESS[claims.UNDEFENDED], claims.SUCCESS[claims.TRAINED]
    assert found == {(m, d, e) for m in (undefended, trained) for d, e in (("imagenet", 16.0), ("cifar10", 8.0))}
    heads = [line for line in verdicts.markdown().splitlines() if line.startswith("| table")]
    assert len(heads) == 2 and all("| ImageNet, 16/255 | CIFAR-10, 8/255 |" in head for head in heads)


def test_every_ordering_is_in_print_and_as_printed():
    """In the mean over all budgets and black-box targets of the tables that have attacks."""
    for table, pairs in ORDERINGS.items():
        if table in claims.ATTACKS:
            rows = published.table(table)
            mean = rows[~rows.white_box & (rows.target != published.AVERAGE)].groupby("attack").value.mean()
            assert [(a, b) for a, b in pairs if not mean[a] > mean[b]] == [], table
    of = published.table("4.5").query("target == 'DenseNet100'").set_index("attack").value
    assert all(of[a] > of[b] for a, b in ORDERINGS["4.5"])


def test_all_tables_of_attacks_have_orderings():
    assert set(claims.ATTACKS) <= set(ORDERINGS)
    assert sum(map(len, ORDERINGS.values())) >= 40


def test_a_page_without_its_marks_is_refused():
    page = re.sub(verdicts.BEGIN, "", verdicts.PAGE.read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match=r"what_holds.md lacks the marks"):
        verdicts.refreshed(page)
