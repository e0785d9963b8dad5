"""What measures speed: turns under a clock that passes when somebody works, counts of known layers, the roof, the rows,
the loops of peers, and the names that other places read."""

import logging
import sys
from functools import partial
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import grid_images, tiny_model
from torch import nn

from advlib import attacks
from advlib.bench import results
from advlib.bench.speed import counts, figures, levers, loop, memory, peers, roofline, rows, subjects, trace, training
from advlib.bench.speed.cases import Bench, ratios
from advlib.core.draws import Draw
from advlib.zoo import datasets

FLOAT = 4  # bytes


@pytest.fixture
def subject():
    return subjects.Subject("tiny", tiny_model(), grid_images(), torch.arange(4))


@pytest.fixture
def taken(monkeypatch):
    """Seconds by contestant, in place of those that a clock would find; `seconds(**)` sets them."""
    found = {}
    monkeypatch.setattr(Bench, "timed", lambda self, contestants: {k: [found[k]] * self.rounds for k in contestants})
    return found


# --- the clock -------------------------------------------------------------------------------------------------------


def test_twice_the_work_takes_twice_as_long_in_every_round(clock):
    once = clock.work("once", 0.3)
    seconds = clock.bench(rounds=5).timed({"once": once, "twice": lambda: (once(), once())})
    assert ratios(seconds["twice"], seconds["once"]) == pytest.approx([2.0] * 5)


def test_rounds_and_calls_before_them_are_as_many_as_asked_for(clock):
    clock.bench(rounds=2, warm=1).timed({"quick": clock.work("q", 0.05), "slow": clock.work("s", 3.0)})
    assert "".join(clock.log) == "qs" + 2 * "qqqqs"


# --- counts ----------------------------------------------------------------------------------------------------------


def test_a_convolution_has_the_operations_and_bytes_of_its_formula():
    x, conv = torch.rand(2, 3, 8, 8), nn.Conv2d(3, 5, 3, padding=1)
    of_image, of_output, of_weights = 2 * 3 * 64, 2 * 5 * 64, 5 * 27
    forward = counts.counted(lambda: conv(x))
    assert forward == (2 * of_output * 27, FLOAT * (of_image + of_weights + 5 + of_output))
    assert forward.intensity == forward.flops / forward.bytes


def test_the_way_back_to_the_image_reads_no_image():
    x, weights = torch.rand(2, 3, 8, 8, requires_grad=True), torch.rand(5, 3, 3, 3)
    of_image, of_output, of_weights = 2 * 3 * 64, 2 * 5 * 64, 5 * 27
    output, ones = F.conv2d(x, weights, padding=1), torch.ones(2, 5, 8, 8)
    back = counts.counted(lambda: torch.autograd.grad(output, x, ones))
    assert back == (2 * of_output * 27, FLOAT * (of_output + of_weights + of_image))


@pytest.mark.parametrize(("function", "tensors"), [
    (lambda x: x.relu(), 2),
    (lambda x: x + x, 3),
    (lambda x: x.view(-1).detach()[None], 0),
    (lambda x: torch.empty_like(x), 0),
    (lambda x: x.mul_(2.0), 2),
])  # fmt: skip
def test_operations_move_what_they_read_and_write(function, tensors):
    x = torch.rand(100)
    assert counts.counted(lambda: function(x)) == (0, tensors * FLOAT * 100)


def test_half_the_bytes_a_number_are_half_the_bytes_of_a_pass():
    x, y, net = (
        torch.rand(2, 3, 8, 8),
        torch.zeros(2, dtype=torch.int64),
        nn.Sequential(nn.Flatten(), nn.Linear(192, 9)),
    )
    whole, half = (
        counts.total(counts.of_pass(subjects.Subject("", net.to(dtype).requires_grad_(False), x.to(dtype), y)))
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert whole.flops == half.flops == 2 * (2 * 2 * 192 * 9) and 0.45 < half.bytes / whole.bytes < 0.55


def test_what_is_moved_around_the_passes_is_the_attacks_own(subject):
    """The same around another network; more for an attack that transforms, and no pass among it."""
    other = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)).eval()
    of_each = [subjects.prepared(net) for net in (subject.model, other)]
    of_mi = [counts.of_step(attacks.mi_fgsm, subject._replace(model=net)) for net in of_each]
    assert len({counts.of_step(partial(attacks.sim, copies=3), subject._replace(model=net), 3) for net in of_each}) == 1
    image = FLOAT * subject.x.numel()
    assert of_mi[0] == of_mi[1] and of_mi[0].flops == 0 and 6 * image < of_mi[0].bytes < 30 * image
    moved = counts.beside_passes(loop.with_copies(3), subject._replace(model=subjects.prepared(subject.model)))
    assert moved["MI"]["MB around them"] == of_mi[0].bytes / 1e6 < moved["RE"]["MB around them"]
    assert moved["RE"]["MB of the passes"] == pytest.approx(3 * moved["MI"]["MB of the passes"])


# --- the roof --------------------------------------------------------------------------------------------------------

ROOF = roofline.Roof({"float32": 100.0, "bfloat16": 400.0}, bandwidth=10.0)


def test_the_roof_rises_to_the_ridge_and_is_flat_beyond():
    assert (ROOF.ridge("float32"), ROOF.ridge("bfloat16")) == (10, 40)
    assert [ROOF.speed("float32", i) for i in (1, 10, 100)] == [10, 100, 100]
    for one in (counts.Counted(100, 100), counts.Counted(1000, 100), counts.Counted(10_000, 100)):
        assert ROOF.seconds("float32", [one]) == one.flops / ROOF.speed("float32", one.intensity)


def test_operations_one_after_the_other_have_a_floor_of_their_own():
    convolution, norm = counts.Counted(1000, 50), counts.Counted(0, 50)
    assert counts.total([convolution, norm]) == (1000, 100) and counts.total([]) == (0, 0)
    assert ROOF.seconds("float32", [convolution, norm]) == 10 + 5 > ROOF.seconds("float32", [counts.Counted(1000, 100)])
    assert ROOF.of_memory("float32", [convolution, norm]) == pytest.approx(5 / 15)
    assert ROOF.of_memory("float32", [convolution]) == 0 and ROOF.of_memory("float32", [norm]) == 1


def test_passes_are_set_against_the_ceilings_of_their_round(subject, taken, clock):
    taken |= {"copy": 0.5, "tiny: a": 3.0, "tiny: b": 1.5}
    for form in roofline.DTYPES:
        taken |= {f"product, {form}": 1.0, f"convolution, {form}": 2.0}
    nets = {"a": subjects.prepared(subject.model), "b": subjects.prepared(subject.model)}
    bench = clock.bench(tiny=True, rounds=2)
    roof, (a, b) = roofline.placed(bench, [(subject, nets)])
    n, channels, side = roofline.CONVOLUTION
    assert roof.bandwidth == 8 * 2**20 / 0.5 and roof.peaks["float32"] == 2 * n * channels**2 * 9 * side**2 / 2
    assert a.operations == b.operations == counts.of_pass(subject._replace(model=nets["a"]))
    assert a.share == pytest.approx([roof.seconds("float32", a.operations) / 3] * 2)
    assert b.share == pytest.approx([2 * share for share in a.share]) and b.speed == a.counted.flops / 1.5
    table = roofline.table(roof, [a, b])
    assert list(table.index) == [("tiny", "a"), ("tiny", "b")]
    assert set(table["limit of the whole"]) == {
        "memory" if a.counted.intensity < roof.ridge("float32") else "arithmetic"
    }


# --- rows ------------------------------------------------------------------------------------------------------------


def test_a_row_has_the_median_and_the_range_of_its_rounds(subject, tmp_path):
    found = rows.of("pass, {}", subject, {"folded": [3.0, 1.0, 2.5]}, "T = 2")
    assert found == [("pass, folded", "tiny", 4, 2.5, 1.0, 3.0, 3, "8 px, T = 2")]
    rows.write(tmp_path / "speed.csv", found, torch.device("cpu"))
    written = pd.read_csv(tmp_path / "speed.csv")
    committed = pd.read_csv(results.RESULTS / "laptop" / "cifar10" / "speed.csv")
    assert set(committed.columns) < set(written.columns) == set(rows.COLUMNS)
    assert written.ratio.tolist() == [2.5] and written.device.tolist() == ["cpu"]
    assert rows.table(found).loc["pass, folded", "smallest"] == 1.0


def test_conditions_say_whether_bfloat16_is_native(monkeypatch):
    for capabilities, said in (
        ({}, "unknown"),
        ({"amx_bf16": False}, "no"),
        ({"amx_bf16": False, "bf16": True}, "yes"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert rows.conditions(torch.device("cpu"))["bfloat16 in hardware"] == said


def test_rows_of_gpus_are_those_of_the_sections_asked_for(tmp_path):
    for name in ("a", "b"):
        numbers = ["kernel over PyTorch,2,1.5,2.5", "kernel,3,,", "largest difference,0,,"]
        lines = [f"{section},case,{name},{row}" for section in ("kernels", "loop") for row in numbers]
        text = "\n".join(["section,case,device,metric,value,low,high", *lines])
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
    found = rows.of_gpus(("kernels",), "kernel", tmp_path)
    assert list(found.index) == ["case (a)", "case (b)"]
    assert found.to_dict("list") == {"over PyTorch": ["2.00 [1.50, 2.50]"] * 2, "kernel": ["3.00"] * 2}
    assert rows.of_gpus(("graphs",), "kernel", tmp_path).empty and rows.of_gpus(("kernels",), "speed", tmp_path).empty
    assert rows.of_gpus(("kernels",), "kernel", tmp_path / "none").empty


def test_names_that_slides_read_are_those_that_are_written(subject, taken, clock):
    """Those of the committed run, and of panels of the picture."""
    taken |= dict.fromkeys([*loop.ATTACKS, "bare", "call", "plain", *levers.FASTER], 1.0)
    found = loop.overhead(clock.bench(), subject, 2, 2)
    found += levers.faster(clock.bench(), subject, levers.copies(subject.model)).rows
    committed = set(pd.read_csv(results.RESULTS / "laptop" / "cifar10" / "speed.csv").what)
    rest = {name for name in committed if not name.endswith(" / torchattacks")}
    assert {row.what for row in found} == rest
    if pairs := peers.pairs(2):
        assert {name.partition(":")[0] for name in committed - rest} == set(pairs)


# --- the loop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "expected"), [(2, (8 - 0.5 * 0.8) / (2 * 3 * 1)), (10, 8 / (10 * 3 * 1))])
def test_what_a_call_takes_once_is_spread_over_ten_steps(steps, expected, subject, taken, clock):
    taken |= {"a": 8.0, "bare": 1.0, "call": 0.5}
    found = loop.over_bare(clock.bench(), subject, {"a": (attacks.mi_fgsm, 3)}, steps)
    assert found == {"a": pytest.approx([expected] * 3)}


def test_every_attack_takes_the_passes_that_it_is_charged_for(subject):
    for attack, each in loop.with_copies(3).values():
        seen = []
        with_hook = tiny_model()
        with_hook.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(len(inputs[0])))
        attack(with_hook, subject.x, subject.y, steps=2)
        assert sum(seen) == 2 + 2 * each * len(subject.x)  # two images are looked at before


def test_the_price_of_a_penalty_is_the_time_with_it_over_that_without(subject, taken, clock):
    taken |= {"I-FGSM": 1.0, "I-FGSM+GNP": 2.0, "DIM": 2.0, "DIM+GNP": 5.0}
    found = loop.price_of_gnp(clock.bench(), subject, 1)
    assert {row.what: row.ratio for row in found} == {"price of GNP on I-FGSM": 2.0, "price of GNP on DIM": 2.5}


# --- levers ----------------------------------------------------------------------------------------------------------


def test_copies_give_the_logits_of_the_network_up_to_rounding(subject):
    apart = levers.rounding(subject, levers.copies(subject.model))
    assert apart["channels_last"] < 1e-5 and apart["folded"] < 1e-4 < apart["bfloat16"] < 0.1


def test_a_compiled_copy_is_timed_beside_the_others_and_its_compiling_told_in_passes(
    subject, taken, clock, monkeypatch
):
    taken |= {"plain": 2.0, "channels_last": 1.0, "folded": 0.5, "bfloat16": 0.4, "folded, compiled": 0.25}
    monkeypatch.setattr(levers, "compiled", lambda bench, net, first: (net, 30.0))
    found = levers.faster(clock.bench(), subject, levers.copies(subject.model), ("folded",))
    ratios_ = {row.what: row.ratio for row in found.rows}
    assert ratios_["pass, folded, compiled"] == 8 and ratios_["pass, bfloat16"] == 5
    assert ratios_["compiling folded, in plain passes"] == 15 and "folded, compiled" in found.nets


def test_the_first_use_of_a_compiled_network_is_timed_and_its_notes_are_not_heard(clock, caplog):
    def first(net):
        logging.getLogger("torch").warning("no GPU")
        clock.now += 7
        assert torch.allclose(net(x), model(x), atol=1e-5)

    model, x = tiny_model(), grid_images()
    _, seconds = levers.compiled(clock.bench(tiny=True), model, first)
    logging.getLogger("torch").warning("after")
    assert seconds == 7 and [r.message for r in caplog.records if r.levelno >= logging.WARNING] == ["after"]


def test_a_compiler_that_does_not_work_is_named_in_a_line(monkeypatch):
    def broken(function):
        raise RuntimeError("no g++\nand a trace")

    monkeypatch.setattr(torch, "compile", broken)
    assert levers.missing_compiler() == "RuntimeError: no g++"


def test_images_a_second_are_counted_and_not_batches(subject, taken, clock):
    taken |= {"1": 0.1, "2": 0.2, "4": 0.2}
    found = levers.batches(clock.bench(), subject, (1, 2, 4))
    assert [(row.what, row.batch, row.ratio) for row in found] == [
        ("images a second over batch 1", 2, pytest.approx(1.0)),
        ("images a second over batch 1", 4, pytest.approx(2.0)),
    ]


def test_parts_gain_the_time_of_the_whole_over_theirs(subject, taken, clock):
    taken |= {"folded, whole": 3.0, "folded, parts": 2.0}
    (row,) = levers.parts(clock.bench(), subject, {"folded": subject.model})
    assert (row.what, row.batch, row.ratio) == ("in parts, folded", 4, pytest.approx(1.5))


def test_a_chunk_is_faster_by_the_time_copy_by_copy_over_its_own(subject, taken, clock):
    taken |= {"1, 1": 3.0, "1, 3": 1.0, "4, 1": 3.0, "4, 3": 6.0}
    assert [row.ratio for row in levers.chunks(clock.bench(), subject, 3, (1, 4))] == [3.0, 0.5]
    assert levers.largest_batch(subject, 5, 1) == 4 and levers.largest_batch(subject, 5, 3) == 12


def test_an_attack_beside_itself_differs_in_nothing():
    y = torch.tensor([0, 1, 2, 3])
    same = levers.compared(torch.tensor([0, 0, 0, 3]), torch.tensor([0, 0, 0, 3]), y)
    assert (same.other, same.this, same.difference, same.changed, same.n) == (50, 50, 0, 0, 4)
    better = levers.compared(torch.tensor([1, 0, 0, 0]), torch.tensor([0, 0, 0, 3]), y)
    assert (better.other, better.this, better.difference, better.changed) == (50, 100, 50, 50)
    assert better.low < 50 < better.high
    assert list(levers.table({("a", "b"): better}, "copy", "judge").index.names) == ["copy", "judge"]


def test_success_is_that_of_the_attack_from_each_copy(model):
    data = datasets.load("shapes", n=6)
    found = levers.success(data, 4, {"plain": model, "same": model, "other": tiny_model(7)}, {"judge": model}, 2, 0)
    adv = attacks.mi_fgsm(model, data.x, data.y, eps=8 / 255, steps=2, index=data.index)
    wrong = 100 * (model(adv).argmax(1) != data.y).float().mean().item()
    assert found["same", "judge"][:3] == pytest.approx((wrong, wrong, 0)) and found["other", "judge"].other == wrong


# --- peers -----------------------------------------------------------------------------------------------------------


def test_torchattacks_is_set_against_ours_on_the_same_batches(clock, model, monkeypatch):
    """One that takes three seconds a batch, beside an attack of ours of one."""
    data = datasets.load("shapes", n=6)
    made = SimpleNamespace(PGD=lambda net, **options: clock.work("theirs", 3.0, data.x[:3]))
    monkeypatch.setitem(sys.modules, "torchattacks", made)
    pair = peers.Pair({}, clock.work("ours", 1.0, data.x[:3] / 2))
    subject = subjects.Subject("tiny", model, data.x[:3], data.y[:3])
    found = peers.contest(clock.bench(rounds=2, warm=1), subject, data, "PGD", pair, {"folded": model}, 2, 0)
    assert {row.what: row.ratio for row in found.rows} == {
        "PGD: ours / torchattacks": pytest.approx(3.0),
        "PGD: ours, folded / torchattacks": pytest.approx(3.0),
    }
    assert torch.equal(found.adv["torchattacks"], data.x[:3].repeat(2, 1, 1, 1)) and clock.log.count("theirs") == 6


def test_pairs_are_the_same_attack_where_they_say_so(model):
    """On images whose gradient is nowhere 0: up to pixels whose gradient is 0 to rounding."""
    torchattacks = pytest.importorskip("torchattacks")
    x, y, options = grid_images(), torch.arange(4), {"eps": 8 / 255, "alpha": 2 / 255, "steps": 4}
    for name in ("PGD", "MIFGSM", "NIFGSM", "SINIFGSM"):
        pair = peers.pairs(3)[name]
        theirs = getattr(torchattacks, name)(model, **options, **pair.theirs)(x, y)
        assert ((pair.ours(model, x, y, **options) - theirs).abs() > 1e-5).float().mean() < 0.01, name


# --- training and the trace ------------------------------------------------------------------------------------------


def test_torchs_second_derivatives_are_those_of_the_objective():
    net = training.trainable(tiny_model())
    x, y = subjects.channels_last(grid_images()), torch.arange(4)
    draw = Draw(0, torch.arange(4))
    found = []
    for objective in (training.OBJECTIVES["LRS-2"], training.torchs_lrs2):
        loss = objective(net, x, y, draw)
        found.append([loss, *torch.autograd.grad(loss, list(net.parameters()))])
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(*found, strict=True))


def test_a_step_takes_the_passes_of_its_optimizer_and_changes_next_to_nothing(subject, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "trainable", lambda model: model.train().requires_grad_(True))
    subject.model.register_forward_pre_hook(lambda module, inputs: seen.append(1))
    before = [p.detach().clone() for p in subject.model.parameters()]
    for name, make in training.OPTIMIZERS.items():
        seen.clear()
        training.step_of(make, subject, torch.float32)()
        assert len(seen) == training.PASSES.get(name, 1)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(before, subject.model.parameters(), strict=True))


def test_side_by_side_is_set_against_one_process(subject):
    found = training.side_by_side(subject._replace(name="small ResNet"), 1)
    assert [row.what.split(", ")[0] for row in found] == ["optimizer CR-SAM", "optimizer side by side"]
    assert all(row.ratio > 0 and row.batch == 4 and row.rounds == 1 for row in found)


def test_memory_that_is_kept_is_set_against_memory_that_is_given_back(subject):
    names = ("plain loop", "folded", "bfloat16", "a pass", "a pass in parts", "a step of training")
    given, kept = (
        dict(zip(names, ([s] for s in took), strict=True)) for took in ((8, 4, 2, 3, 2, 6), (4, 4, 2, 2, 2, 3))
    )
    found = memory.of_seconds({"given back": given, "kept": kept}, subject, 10)
    assert {row.what: row.ratio for row in found} == {
        "memory given back: MI-FGSM, folded / plain loop": 2.0,
        "memory given back: MI-FGSM, bfloat16 / plain loop": 4.0,
        "memory given back: a pass in parts": 1.5,
        "memory kept: MI-FGSM, plain loop": 2.0,
        "memory kept: MI-FGSM, folded": 1.0,
        "memory kept: MI-FGSM, bfloat16": 1.0,
        "memory kept: a pass": 1.5,
        "memory kept: a pass in parts": 1.0,
        "memory kept: a step of training": 2.0,
    }
    assert len(memory.of_seconds({"given back": given}, subject, 10)) == 3  # another C library


def test_memory_is_measured_in_a_process_of_its_own(subject):
    found = memory.measured(subject, 1, 1)
    assert len(found) in (3, 9) and all(row.ratio > 0 and row.batch == 4 and row.rounds == 1 for row in found)


def test_half_the_error_takes_four_times_the_probes():
    coarse, fine = (trace.Traced(100.0, error, 10, once=1.0, a_probe=0.5) for error in (2.0, 1.0))
    assert (fine.to_one_percent, coarse.to_one_percent) == (1 + 0.5 * 10, 1 + 0.5 * 40)


def test_the_time_of_no_probe_is_told_apart(clock, monkeypatch):
    def estimate(loss, weights, probes, deflate):
        clock.now += deflate + 0.5 * probes
        return SimpleNamespace(value=1.0, standard_error=0.1)

    monkeypatch.setattr(trace.curvature, "hutchinson_trace", estimate)
    found = trace.ours(clock.bench(), None, None, 5, 10)
    assert (found.once, found.a_probe) == (pytest.approx(10), pytest.approx(0.5))


# --- pictures --------------------------------------------------------------------------------------------------------


def test_a_picture_has_a_panel_for_each_kind_of_row_and_a_mark_for_each_pass(subject):
    names = [begin + "x" + end for begin, end, _ in figures.PANELS.values()]
    made = [row for name in names for row in rows.of(name, subject, {"": [1.0, 2.0]})]
    figure = figures.bars(made)
    assert [ax.get_title() for ax in figure.axes] == list(figures.PANELS)
    assert [[text.get_text() for text in ax.get_yticklabels()] for ax in figure.axes] == [["x"]] * len(names)
    assert len(figures.bars(made[:1]).axes) == 1
    counted = counts.Counted(1e9, 1e8)
    points = [roofline.Point(subject, name, "float32", [counted], 1e9, [0.5]) for name in ("a", "b")]
    (ax,) = figures.roofline(roofline.Roof({"float32": 1e11, "bfloat16": 4e11}, 1e10), points).axes
    assert len(ax.lines) == len(roofline.DTYPES) + 2 and ax.lines[-1].get_xdata()[0] == counted.intensity


def test_what_lacks_weights_is_untrained_and_says_so():
    with pytest.warns(UserWarning, match="no weights for cifar100/resnet: an untrained network stands in"):
        net = subjects.of_zoo("cifar100/resnet", torch.device("cpu"))
    assert net(torch.rand(1, 3, 32, 32)).shape == (1, 100) and not net.training
