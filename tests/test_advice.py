"""Compositions cost what they are listed for and are what their parts say; advice comes from committed rows alone."""

import csv
from functools import partial

import pytest
import torch
from conftest import tiny_model

from advlib import InputDiversity, ScaleCopies, advice, attacks
from advlib.bench.evaluation import counting
from advlib.core import measured, published

EPS = 8 / 255
EACH = [(passes, name) for passes in advice.PASSES for name in advice.compositions(passes)]


@pytest.mark.parametrize(("passes", "name"), EACH, ids=[f"{passes}, {name}" for passes, name in EACH])
def test_a_composition_costs_what_it_says(passes, name, x, y):
    model = tiny_model()
    with counting(model) as counter:
        adv = advice.compositions(passes)[name](model, x[:2], y[:2], EPS)
    assert counter.rows == 2 * passes
    assert (adv - x[:2]).abs().max() <= EPS + 1e-6 and (adv != x[:2]).any()


def test_parts_of_a_composition_are_the_attacks_they_are_called_after(model, x, y):
    run = partial(advice.composed, model, x, y, EPS, steps=3)
    mi = partial(attacks.mi_fgsm, model, x, y, EPS, steps=3)
    assert torch.equal(run(), mi())
    assert torch.equal(run(ahead=2.0), attacks.em_fgsm(model, x, y, EPS, project="ball", steps=3))
    assert torch.equal(run(resized=1), attacks.dim(model, x, y, EPS, steps=3))
    assert torch.equal(run(resized=1, canvas=1.14), attacks.rdim(model, x, y, EPS, steps=3))
    assert torch.equal(run(scaled=5), attacks.sim(model, x, y, EPS, steps=3))
    assert torch.equal(run(erased=5), attacks.re_fgsm(model, x, y, EPS, steps=3))
    assert torch.equal(run(scaled=5, resized=1), mi(transform=[ScaleCopies(5), InputDiversity()]))
    assert torch.equal(run(points=3, penalty=0.5), attacks.pgn(model, x, y, EPS, steps=3, points=3, radius=1.5))


def test_targeted_and_untargeted_at_the_same_seed_and_index(model, x, y):
    run = partial(advice.composed, model, resized=2, points=2, steps=2, seed=3)
    whole = run(x, y, EPS, index=torch.tensor([5, 6, 7, 8]))
    alone = run(x[2:3], y[2:3], EPS, index=torch.tensor([7]))
    assert ((alone - whole[2:3]).abs() < 1e-4).float().mean() > 0.99
    toward = run(x, y, EPS, target=(y + 1) % 10)
    assert (
        model(toward).log_softmax(1).gather(1, (y + 1)[:, None] % 10)
        > model(x).log_softmax(1).gather(1, (y + 1)[:, None] % 10)
    ).all()


@pytest.mark.parametrize("passes", [0, 7, 10.5, "10", None, True])
def test_other_costs_are_refused(passes):
    for function in (attacks.compositions, attacks.recommended):
        with pytest.raises(ValueError, match="passes"):
            function(passes)


# --- advice ---------------------------------------------------------------------------------------------------------

BONUS = {10: 0, 50: 3, 100: 1, 500: 4}


@pytest.fixture
def committed(tmp_path, monkeypatch):
    """Tables in which the second name of every cost wins on validation images, by more at 50 than at 100 passes, and
    the first one on test images."""
    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    folder = tmp_path / "laptop" / "cifar10"
    folder.mkdir(parents=True)
    for stem, favourite in (("table_A4_7_validation", 1), ("table_A4_7", 0)):
        with (folder / f"{stem}.csv").open("w", newline="") as file:
            out = csv.DictWriter(file, ["source", "attack", "target", "eps_255", "metric", "value", "n"])
            out.writeheader()
            for passes in advice.PASSES:
                for k, name in enumerate(advice.compositions(passes)):
                    for target in ("resnet", "vgg", "wrn", "vgg-pgd", "JPEG"):
                        for eps in (4.0, 8.0):
                            base = {"resnet": 100.0, "vgg": 60.0, "wrn": 40.0, "vgg-pgd": 5.0, "JPEG": 20.0}[target]
                            value = base - 2 * k + (10 + BONUS[passes]) * (k == favourite) + eps
                            row = {"source": "resnet", "attack": name, "target": target, "eps_255": eps, "n": 500}
                            out.writerow({**row, "metric": "asr", "value": min(value, 100.0)})
                            out.writerow({**row, "metric": "asr_all", "value": 0.0})
    return folder


@pytest.mark.parametrize(("passes", "cost"), [(10, 10), (50, 50), (100, 50), (500, 500)])
def test_advice_is_chosen_on_validation_and_reported_on_test_images(passes, cost, committed, model, x, y):
    """At 100 passes it is what 50 passes buy, since more brought nothing."""
    found, names = attacks.recommended(passes), list(advice.compositions(cost))
    assert (found.name, found.passes, found.n, found.eps_255) == (names[1], cost, 500, 4.0)
    # 60 and 40 less 2, 5 less 2, 20 less 2, each with 4 of the budget; white-box rows and other metrics do not count.
    assert found.success == {published.UNDEFENDED: 52.0, published.TRAINED: 7.0, published.DEFENDED: 22.0}
    assert torch.equal(found.attack(model, x, y, EPS), advice.compositions(cost)[names[1]](model, x, y, EPS))


def test_advice_without_its_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    with pytest.raises(FileNotFoundError):
        attacks.recommended(10)


def test_a_table_without_an_attack_is_refused(committed):
    with pytest.raises(ValueError, match="table_A4_7: has no Sparkle"):
        measured.means("table_A4_7", ["MI-FGSM", "Sparkle"])


def test_our_own_advice_is_there_and_more_passes_never_win_less():
    """From the committed rows: the best of those that cost at most so much, on validation images."""
    rows = measured.means("table_A4_7_validation", [name for _, name in EACH])
    found = [attacks.recommended(passes) for passes in advice.PASSES]
    won = [rows[a.name, published.UNDEFENDED, a.eps_255].value for a in found]
    assert won == sorted(won) and all(a.passes <= passes for a, passes in zip(found, advice.PASSES, strict=True))
    assert all(set(a.success) == {published.UNDEFENDED, published.TRAINED, published.DEFENDED} for a in found)
