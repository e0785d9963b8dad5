"""Success rates with known answers: both denominators, cost, resumption, layout; progress that a log can hold."""

from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch
from conftest import grid_images, tiny_model
from torch import nn

from advlib import RandomErasure, accelerate, attacks, ensemble, linear_backward
from advlib.bench.evaluation import OnNetwork, described, matrix, predictions, success_rates
from advlib.bench.progress import Progress
from advlib.bench.results import ResultTable
from advlib.core.intervals import wilson
from advlib.zoo.datasets import Images


class Lookup(nn.Module):
    """Names the class that stands in the first pixel, in units of 25/255, plus `shift` for images of level `off`."""

    def __init__(self, wrong_on=(), fooled=True):
        super().__init__()
        self.wrong_on, self.fooled = wrong_on, fooled

    def forward(self, x):
        level = (x[:, 0, 0, 0] * 255).round().long()
        marked = (x[:, 1, 0, 0] > 0) & self.fooled  # the mark that `mark` leaves: an adversarial image
        bad = torch.stack([level == w for w in self.wrong_on] or [torch.zeros_like(marked)]).any(0)
        return nn.functional.one_hot((level + (marked | bad).long()) % 10, 10).float()


def mark(model, x, y, eps, seed, index, only=None):
    """An attack whose effect is known: it marks the images whose index is in `only`, every image if None."""
    model(x)
    adv = x.clone()
    rows = torch.ones_like(y, dtype=torch.bool) if only is None else torch.isin(index, torch.tensor(only))
    adv[rows, 1, 0, 0] = eps
    return adv


F = {"f": Lookup()}


@pytest.fixture
def data():
    """Ten images, image k of class k."""
    images = torch.zeros(10, 3, 8, 8, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(10)
    return Images(images, torch.arange(10), torch.arange(100, 110), tuple("abcdefghij"), "shapes", "test")


@pytest.fixture
def small():
    x = grid_images(6)
    labels = tiny_model()(x).argmax(1)
    return Images((x * 255).round().to(torch.uint8), labels, torch.arange(6), tuple("abcdefghij"), "shapes", "test")


def table(path):
    return ResultTable(path / "t.csv", "2.1", "smoke", "shapes", "cpu", seed=0, config={})


def row(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_both_denominators_of_a_case_worked_by_hand(data):
    """f is right on all ten, h wrong on 0 and 1; the attack marks 0, 2, 3, 4: eight images are right for both."""
    f, h = Lookup(), Lookup(wrong_on=(0, 1))
    attack = partial(mark, only=[100, 102, 103, 104])
    rows = success_rates({"mark": attack}, {"f": f}, {"f": f, "h": h}, data, [8], batch_size=4)
    assert len(rows) == 4
    for target, metric, k, n in (
        ("f", "asr", 3, 8),
        ("h", "asr", 3, 8),
        ("f", "asr_all", 4, 10),
        ("h", "asr_all", 5, 10),
    ):
        found = row(rows, target=target, metric=metric)
        assert (found.value, found.n) == (pytest.approx(100 * k / n), n)
        assert (found.ci_low, found.ci_high) == pytest.approx(wilson(k, n))
        assert (found.source, found.attack, found.eps_255) == ("f", "mark", 8.0)


def test_surrogate_that_is_no_target_counts_in_the_denominator_too(data):
    rows = success_rates({"mark": mark}, {"h": Lookup(wrong_on=(0, 1, 2))}, {"f": Lookup()}, data, [8])
    assert row(rows, metric="asr").n == 7 and row(rows, metric="asr_all").n == 10


def test_images_may_be_counted_by_each_target_for_itself(data, tmp_path):
    """f is right on all ten, g wrong on 0 to 2, h on 8 and 9: right for all are five, for g and h, f and h, and f
    and itself five, eight and ten."""
    targets = {"f": Lookup(), "h": Lookup(wrong_on=(8, 9))}
    sources = {"g": Lookup(wrong_on=(0, 1, 2)), "f": targets["f"]}
    attack = {"mark": partial(mark, only=[100, 103, 108])}
    ask = partial(success_rates, attack, sources, targets, data, [8], counted="both right")
    n = {("g", "f"): 7, ("g", "h"): 5, ("f", "f"): 10, ("f", "h"): 8}
    k = {("g", "f"): 2, ("g", "h"): 1, ("f", "f"): 3, ("f", "h"): 2}
    rows = ask(table=table(tmp_path))
    found = rows[rows.metric == "asr"].set_index(["source", "target"])
    assert found.n.to_dict() == n
    assert found.value.to_dict() == pytest.approx({pair: 100 * k[pair] / n[pair] for pair in n})
    assert set(rows[rows.metric == "asr_all"].n) == {10}
    kept = table(tmp_path).outcomes
    assert {pair: int(kept.of(pair[0], "mark", pair[1], 8).right.sum()) for pair in n} == n
    with pytest.raises(ValueError, match="no image is classified correctly by blind and h"):
        success_rates(attack, {"blind": Lookup(wrong_on=range(10))}, {"h": Lookup()}, data, [8], counted="both right")
    with pytest.raises(ValueError, match="counted='some': expected one of all right, both right"):
        ask(counted="some")


def test_rates_do_not_depend_on_the_batch_size(small):
    f, attack = {"f": tiny_model()}, {"re": partial(attacks.re_fgsm, steps=3)}
    runs = [success_rates(attack, f, f, small, [8], batch_size=b) for b in (2, 6)]
    assert runs[0].value.tolist() == runs[1].value.tolist()


def test_attack_gets_budget_seed_and_index(data):
    seen = []

    def spy(model, x, y, eps, seed, index):
        seen.append((eps, seed, index.tolist()))
        return x

    success_rates({"spy": spy}, F, F, data, [8, 16], batch_size=6, seed=5)
    assert seen == [(e / 255, 5, part) for e in (8, 16) for part in (list(range(100, 106)), list(range(106, 110)))]


@pytest.mark.parametrize("batch_size", [1, 4, 6])
@pytest.mark.parametrize(
    ("attack", "members", "passes"),
    [
        (partial(attacks.mi_fgsm, steps=4), 1, 4),
        (partial(attacks.sim, steps=2), 1, 10),
        (attacks.fgsm, 1, 1),
        (partial(attacks.sim, steps=2, copies=3), 2, 12),
        (partial(attacks.mi_fgsm, steps=3), 3, 9),
        (partial(attacks.sim, steps=2, copies=2, transform=RandomErasure(copies=3), chunk=6), 1, 12),
    ],
)
def test_passes_are_steps_times_copies_times_members(small, attack, members, passes, batch_size):
    nets = [tiny_model(k) for k in range(members)]
    surrogate = nets[0] if members == 1 else ensemble(nets)
    rows = success_rates(
        {"a": attack}, {"s": surrogate}, {"t": nets[0]}, relabelled(small, nets[0]), [4], batch_size=batch_size
    )
    assert set(rows.passes) == {passes}


def relabelled(data, network):
    """The same images labelled as the network says, so that there is a denominator."""
    return replace(data, labels=predictions(network, data))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_passes_of_an_accelerated_attack_are_counted(small, dtype):
    f = tiny_model()
    fast = {"f": accelerate(f, dtype=dtype)}
    rows = success_rates({"mi": partial(attacks.mi_fgsm, steps=4)}, fast, {"f": f}, small, [4])
    assert set(rows.passes) == {4}


def test_seconds_and_hooks_are_left_behind_clean(small):
    f = tiny_model()
    rows = success_rates({"mi": attacks.mi_fgsm}, {"f": f}, {"f": f}, small, [4])
    assert (rows.seconds > 0).all() and not f._forward_pre_hooks


def test_second_call_with_the_same_table_attacks_nothing(data, tmp_path):
    calls = []

    def counted(model, x, y, eps, seed, index):
        calls.append(round(eps * 255))
        return mark(model, x, y, eps, seed, index)

    run = partial(success_rates, {"m": counted}, F, F, data)
    first, again = run([8, 16], table=table(tmp_path)), run([8, 16], table=table(tmp_path))
    pd.testing.assert_frame_equal(again, first)
    other = run([4, 16], table=table(tmp_path))
    assert calls == [8, 16, 4] and other.eps_255.tolist() == [4.0, 4.0, 16.0, 16.0], "only what was asked for"


def test_attack_with_other_keywords_under_its_old_name_runs_again(data, tmp_path):
    def run(only):
        pair = {"m": partial(mark, only=only), "all": mark}
        kept = table(tmp_path)
        rows = success_rates(pair, F, F, data, [8], table=kept)
        return rows[rows.metric == "asr"].set_index("attack").value.to_dict(), kept.set_aside

    assert run([100]) == ({"m": 10.0, "all": 100.0}, None)
    rates, old = run([100, 101])
    assert rates == {"m": 20.0, "all": 100.0}
    assert len(pd.read_csv(old)) == 4 and len(pd.read_csv(tmp_path / "t.csv")) == 4
    assert run([100, 101]) == (rates, None)


def test_description_names_what_changes_the_numbers():
    def own(model, x, y, eps, seed, index):
        return x

    assert described(attacks.mi_fgsm) == "advlib.attacks.mi_fgsm"
    assert described(partial(attacks.em_fgsm, sigma=2.0, mu=1.0)) == "advlib.attacks.em_fgsm(mu=1.0, sigma=2.0)"
    nested = partial(partial(attacks.re_fgsm, steps=2), erasure=RandomErasure(fill=0.0))
    assert "fill=0.0" in described(nested) and "steps=2" in described(nested)
    assert "return x" in described(own)
    assert described(partial(attacks.mi_fgsm, loss=own)) == f"advlib.attacks.mi_fgsm(loss={described(own)})"


def test_killed_evaluation_goes_on_at_its_cell(data, tmp_path):
    calls = []

    def dies_at_16(model, x, y, eps, seed, index):
        calls.append(round(eps * 255))
        if calls == [8, 16]:
            raise KeyboardInterrupt
        return mark(model, x, y, eps, seed, index)

    run = partial(success_rates, {"m": dies_at_16}, F, F, data, [8, 16])
    with pytest.raises(KeyboardInterrupt):
        run(table=table(tmp_path))
    assert len(run(table=table(tmp_path))) == 4 and calls == [8, 16, 16]


def test_no_image_right_for_all_models_is_an_error_before_any_attack(data):
    blind = Lookup(wrong_on=tuple(range(10)))
    with pytest.raises(ValueError, match="no image"):
        success_rates({"a": lambda *a, **k: pytest.fail("attacked")}, {"f": Lookup()}, {"h": blind}, data, [8])


def test_model_left_in_training_mode_is_evaluated_in_eval_mode_and_handed_back(small):
    f = tiny_model()
    expected = success_rates({"mi": attacks.mi_fgsm}, {"f": f}, {"f": f}, small, [8])
    statistics = f.net[1].running_mean.clone()
    f.train()
    rows = success_rates({"mi": attacks.mi_fgsm}, {"f": f}, {"f": f}, small, [8])
    assert torch.equal(f.net[1].running_mean, statistics) and f.training
    assert rows.value.tolist() == expected.value.tolist()


def test_matrix_is_source_by_target_in_the_order_given(data):
    nets = {"zeta": Lookup(), "alpha": Lookup(fooled=False), "mid": Lookup(wrong_on=(0,))}
    rows = success_rates({"m": mark}, {"zeta": nets["zeta"], "mid": nets["mid"]}, nets, data, [8])
    common, every = matrix(rows), matrix(rows, "asr_all")
    assert list(common.index) == ["zeta", "mid"] and list(common.columns) == ["zeta", "alpha", "mid"]
    assert common.loc["mid"].tolist() == [100.0, 0.0, 100.0] and every.loc["zeta"].tolist() == [100.0, 0.0, 100.0]


def test_predictions_do_not_depend_on_the_batch_size(small):
    assert torch.equal(predictions(tiny_model(), small, 1), predictions(tiny_model(), small, 6))


# --- progress -------------------------------------------------------------------------------------------------------


def test_progress_writes_plain_lines_where_there_is_no_terminal(capsys):
    with Progress("Table 2.1", 3) as bar:
        for name in "abc":
            bar.advance(name)
    out, err = capsys.readouterr()
    assert "Table 2.1: 3/3" in out and "\r" not in out + err and not err


def test_slow_progress_speaks_in_between(capsys):
    for every, said in ((0, "slow: 1/3"), (1000, "")):
        with Progress("slow", 3, every) as bar:
            bar.advance()
        assert capsys.readouterr().out.partition(",")[0] == said


def test_a_cushioned_attack_runs_on_its_network_and_stands_under_the_surrogate(small, tmp_path):
    f, other = tiny_model(), tiny_model(1)
    attacks_of = {"PGD": attacks.pgd, "PGD+other": partial(OnNetwork(attacks.pgd, other), steps=3)}
    rows = success_rates(attacks_of, {"f": f}, {"f": f, "other": other}, small, [16])
    directly = success_rates(
        {"PGD": partial(attacks.pgd, steps=3)}, {"other": other}, {"f": f, "other": other}, small, [16]
    )
    cushioned = rows[rows.attack == "PGD+other"]
    assert set(cushioned.source) == {"f"} and set(cushioned.passes) == {3.0}
    assert cushioned.value.tolist() == directly.value.tolist()


def test_the_description_of_a_cushioned_attack_changes_with_its_network():
    one, same, other = (described(OnNetwork(attacks.pgd, tiny_model(seed))) for seed in (0, 0, 1))
    linear = described(OnNetwork(attacks.pgd, linear_backward(tiny_model(), "net.2")))
    assert one == same and len({one, other, linear}) == 3
    assert linear != described(OnNetwork(attacks.pgd, linear_backward(tiny_model(), "net.5")))


# --- what is believed ------------------------------------------------------------------------------------------------

SPOILED = {
    "noise in place of the budget": lambda m, x, y, eps, **o: torch.rand_like(x),
    "one image for all": lambda m, x, y, eps, **o: x[:1],
    "0..255": lambda m, x, y, eps, **o: x * 255,
    "NaN": lambda m, x, y, eps, **o: x * float("nan"),
    "one NaN": lambda m, x, y, eps, **o: x.index_fill(0, torch.tensor([2]), float("nan")),
    "outside [0, 1]": lambda m, x, y, eps, **o: x - eps,
    "twice the budget": lambda m, x, y, eps, **o: (x + 2 * eps).clamp(max=1),
    "None": lambda m, x, y, eps, **o: None,
    "numpy": lambda m, x, y, eps, **o: x.numpy(),
    "float64": lambda m, x, y, eps, **o: x.double(),
}


@pytest.mark.parametrize("name", SPOILED)
def test_an_attack_that_returns_something_else_is_named(name, data):
    with pytest.raises(
        (TypeError, ValueError), match="^attack 'mine' on 'f' at 8/255: (expected|its) adversarial images"
    ):
        success_rates({"mine": SPOILED[name]}, F, F, data, [8])


def test_an_attack_that_changes_its_images_in_place_is_held_to_the_budget_too(data):
    def grows(model, x, y, eps, seed, index):
        return x.add_(2 * eps)

    with pytest.raises(ValueError, match="attack 'mine'"):
        success_rates({"mine": grows}, F, F, data, [8])


def test_attacks_without_a_budget_are_let_out_of_the_ball_alone(small):
    f = {"f": tiny_model()}
    far = lambda m, x, y, eps, **o: 1 - x  # noqa: E731
    with pytest.raises(ValueError, match="eps is 1/255"):
        success_rates({"far": far}, f, f, small, [1])
    assert len(success_rates({"far": far}, f, f, small, [1], ball=False)) == 2
    with pytest.raises(ValueError, match=r"leave \[0, 1\]"):
        success_rates({"far": lambda m, x, y, eps, **o: -x}, f, f, small, [1], ball=False)


def test_a_plain_function_is_a_model_whose_passes_are_counted(small):
    f = tiny_model()
    plain = lambda z: f(z)  # noqa: E731
    attack = {"mi": partial(attacks.mi_fgsm, steps=3)}
    ours, expected = (success_rates(attack, {"f": m}, {"f": m}, small, [8]) for m in (plain, f))
    assert ours.value.tolist() == expected.value.tolist() and set(ours.passes) == {3}


class Output(dict):
    """What a model of another library returns."""

    logits = property(lambda self: self["logits"])


@pytest.mark.parametrize("ask", [predictions, lambda m, data: success_rates({"m": mark}, F, {"m": m}, data, [8])])
def test_other_outputs_are_refused_with_what_to_write_instead(ask, data):
    with pytest.raises(TypeError, match=r"lambda x: model\(x\)\.logits"):
        ask(lambda z: Output(logits=Lookup()(z)), data)
    with pytest.raises(TypeError, match=r"lambda x: model\(x\)\[0\]"):
        ask(lambda z: (Lookup()(z), None), data)


def test_an_answer_of_nan_is_no_success(data):
    """It would be counted as class 0."""
    seen = lambda z: torch.where(z[:, 1, :1, 0] > 0, float("nan"), F["f"](z))  # noqa: E731
    with pytest.raises(ValueError, match="shy, shown attack 'm' on 'f' at 8/255: its logits are NaN"):
        success_rates({"m": mark}, F, {**F, "shy": seen}, data, [8])


def test_targets_see_the_images_as_the_attack_made_them(data):
    """A target that writes into its input changes nothing for the next one."""

    class Greedy(Lookup):
        def forward(self, z):
            found = super().forward(z)
            z.zero_()
            return found

    alone = success_rates({"m": mark}, F, F, data, [8])
    after = success_rates({"m": mark}, F, {"greedy": Greedy(), **F}, data, [8])
    assert after[after.target == "f"].value.tolist() == alone.value.tolist()


def test_two_networks_of_one_name_are_refused(data):
    with pytest.raises(ValueError, match="surrogates: 'f' is the name of another network"):
        success_rates({"m": mark}, {"f": Lookup(wrong_on=(0, 1, 2))}, F, data, [8])


class Scaled(Lookup):
    """Logits that are a few percent off, by a weight of some type."""

    def __init__(self, dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.05, dtype=dtype))

    def forward(self, x):
        return super().forward(x) * self.weight.float()


def test_only_a_copy_in_half_precision_may_be_a_few_percent_off(data):
    with pytest.raises(ValueError, match="surrogates: 'f' is the name of another network"):
        success_rates({"m": mark}, {"f": Scaled(torch.float32)}, F, data, [8])
    assert len(success_rates({"m": mark}, {"f": Scaled(torch.bfloat16)}, F, data, [8])) == 2


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_surrogate_may_be_a_copy_of_the_target_of_its_name(model, small, dtype):
    copies, seen = {"f": accelerate(model, dtype=dtype)}, []

    def spy(net, x, y, **options):
        seen.append(net)
        return x

    rows = success_rates({"spy": spy}, copies, {"f": model}, small, [8])
    assert seen == [copies["f"]]  # the copy is attacked, and the target itself is asked
    assert rows[rows.metric == "asr"].n.tolist() == [int((predictions(model, small) == small.y).sum())]
