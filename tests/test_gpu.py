"""What measures a GPU, rehearsed on the CPU: the budget, the rows, the turns, the yardsticks, and the whole command."""

import csv
import subprocess
import sys
from math import nan
from unittest.mock import patch

import pytest
import torch
from conftest import grid_images, tiny_model
from torch import nn

from advlib import attacks, kernels
from advlib.bench.gpu import __main__ as gpu
from advlib.bench.gpu import exactness, fused, graphs, speed
from advlib.bench.gpu.table import COLUMNS, Table
from advlib.bench.speed import peers, roofline, subjects
from advlib.bench.speed.cases import ROUNDS, Bench, Case, Measure, OutOfTimeError, of_rounds, ratios
from advlib.core.surrogate import frozen
from advlib.files.paths import ROOT

CPU = torch.device("cpu")


@pytest.fixture
def table(tmp_path):
    return Table(tmp_path, CPU, tiny=False)


def read(table):
    with table.path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def case(name, *measures, seconds=0.0):
    return Case(name, seconds, lambda: measures)


ONE = Measure("speed", 2.0, "images/s")

# --- the clock -------------------------------------------------------------------------------------------------------


def test_a_call_takes_what_it_takes(clock):
    seconds = clock.bench().timed({"one": clock.work("one", 0.05), "two": clock.work("two", 0.1)})
    assert seconds == {"one": pytest.approx([0.05] * ROUNDS), "two": pytest.approx([0.1] * ROUNDS)}
    assert ratios(seconds["two"], seconds["one"]) == pytest.approx([2.0] * ROUNDS)


def test_contestants_take_turns_that_are_about_as_long(clock):
    clock.bench().timed({"quick": clock.work("q", 0.05), "slow": clock.work("s", 3.0)})
    assert "".join(clock.log) == "qs" + "qs" + ROUNDS * "qqqqs"


def test_rounds_that_would_not_fit_are_not_begun(clock):
    with pytest.raises(OutOfTimeError, match="takes 30 s, and 28 s are left"):
        clock.bench(budget=48).timed({"slow": clock.work("s", 10.0)})
    assert clock.log == ["s", "s"]


def test_rounds_have_a_median_and_a_range(table):
    table.add("loop", "a", [of_rounds("ratio", [3.0, 1.0, 2.0], "times")])
    (row,) = read(table)
    assert [row[name] for name in ("value", "rounds", "low", "high")] == ["2", "3", "1", "3"]


# --- the file --------------------------------------------------------------------------------------------------------


def test_a_row_says_what_was_measured_where_and_of_which_code(table):
    table.add("loop", "ResNet-20", [ONE])
    (row,) = read(table)
    assert tuple(row) == COLUMNS and row["device"] == "cpu" and row["torch"] == torch.__version__
    assert row["commit"] and len(row["code"]) == 16
    expected = {"section": "loop", "case": "ResNet-20", "metric": "speed", "value": "2", "unit": "images/s"}
    assert row.items() >= (expected | {"rounds": "0", "low": "", "high": "", "note": ""}).items()


@pytest.mark.parametrize(("name", "tiny", "file"), [
    ("NVIDIA H100 80GB HBM3", False, "nvidia_h100_80gb_hbm3.csv"),
    ("cpu", True, "cpu.tiny.csv"),
])  # fmt: skip
def test_a_file_is_named_by_its_device(name, tiny, file, tmp_path, monkeypatch):
    monkeypatch.setattr("advlib.bench.gpu.table.run_info", lambda device: {"device": name})
    assert Table(tmp_path, CPU, tiny).path == tmp_path / file


def test_a_kill_leaves_the_cases_before_it(table, clock):
    def killed():
        raise KeyboardInterrupt

    sections = {"first": lambda bench: [case("a", ONE)], "second": lambda bench: [Case("b", 0, killed)]}
    with pytest.raises(KeyboardInterrupt):
        gpu.run(sections, clock.bench(), table, lambda line: None)
    assert [row["case"] for row in read(table)] == ["a"]


def test_a_case_that_fails_says_so_and_the_others_go_on(table, clock):
    def wrong():
        raise ValueError("no such\nthing")

    def prepared(bench):
        raise RuntimeError("weights are missing")
        yield

    sections = {"first": lambda bench: [Case("a", 0, wrong), case("b", ONE)], "second": prepared}
    failed = gpu.run(sections, clock.bench(), table, lambda line: None)
    assert failed == ["first: a", "second: preparation"]
    assert [(row["case"], row["metric"], row["note"]) for row in read(table)] == [
        ("a", "failed", "ValueError: no such thing"),
        ("b", "speed", ""),
        ("preparation", "failed", "RuntimeError: weights are missing"),
    ]


def test_what_does_not_fit_is_skipped_and_what_does_is_run(table, clock):
    def full():
        raise torch.OutOfMemoryError("80 GiB are not enough")

    def late():
        raise OutOfTimeError("takes 3 s, and 2 s are left")

    clock.now = 90
    cases = [
        case("long", ONE, seconds=11),
        case("short", ONE, seconds=10),
        Case("large", 1, full),
        Case("late", 1, late),
    ]
    assert gpu.run({"loop": lambda bench: cases}, clock.bench(budget=100), table, lambda line: None) == []
    notes = [(row["case"], row["metric"], row["note"]) for row in read(table)]
    assert notes == [
        ("long", "skipped", "takes about 11 s, and 10 s are left"),
        ("short", "speed", ""),
        ("large", "skipped", "80 GiB are not enough"),
        ("late", "skipped", "takes 3 s, and 2 s are left"),
    ]
    assert read(table)[0]["value"] == ""


# --- the yardsticks --------------------------------------------------------------------------------------------------


def test_the_peers_loop_is_mi_fgsm(model, x, y):
    ours = attacks.mi_fgsm(model, x, y, eps=8 / 255, steps=4)
    assert torch.allclose(peers.mi_fgsm(model, x, y, 8 / 255, 4), ours, atol=1e-6)


class Counting(nn.Module):
    """A network that counts the images it is shown."""

    def __init__(self):
        super().__init__()
        self.net, self.images = tiny_model(), 0

    def forward(self, x):
        self.images += len(x)
        return self.net(x)


@pytest.mark.parametrize("name", speed.COPIES)
def test_attacks_are_set_against_the_passes_that_they_take(name, y):
    (attack, each), few = speed.COPIES[name], 2  # the images that every attack is shown first
    net, x = Counting(), grid_images()
    attack(net, x, y, steps=2)
    assert net.images == few + 2 * each * len(x)
    if name in speed.CHUNKED:
        at_once = []
        net.register_forward_pre_hook(lambda module, inputs: at_once.append(len(inputs[0])))
        attack(net, x, y, steps=2, chunk=each)
        assert at_once == [few, each * len(x), each * len(x)]


def test_bare_passes_are_passes_to_the_image_alone():
    net = Counting()
    with frozen([net]):
        speed.passes(net, grid_images(), torch.arange(4), 3)
    assert net.images == 12 and all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(("network", "weights"), list(zip(subjects.NETWORKS, (269_722, 25_557_032), strict=True)))
def test_networks_are_those_of_their_names(network, weights, clock):
    net = network.built(clock.bench())
    assert sum(p.numel() for p in net.parameters()) == weights and not net.training
    again = network.built(clock.bench())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def test_speeds_and_ratios_are_those_of_the_seconds(monkeypatch, clock):
    seconds = {"plain loop": 8.0, "float32": 4.0, "bare float32": 2.0, "SGD": 2.0, "SAM": 5.0, "copies at once": 3.0}
    taken = lambda self, contestants: {name: [seconds.get(name, 1.0)] * ROUNDS for name in contestants}  # noqa: E731
    monkeypatch.setattr(Bench, "timed", taken)
    bench = clock.bench(tiny=True)
    results = {
        "loop": speed.of_loop(bench, subjects.TINY[0], 2),  # of two images in two steps
        "training": speed.of_training(bench, 4, torch.float32),
        "copies": speed.of_attack(bench, subjects.TINY[0], 2, "SIM"),
        "product": roofline.matrices(bench, torch.float32),  # of 256 x 256 numbers
        "memory": roofline.memory(bench),  # of 2**20 numbers, read and written
        "graph": graphs.of_graph(bench, subjects.TINY[0], 2, "MI"),
    }
    found = {(name, measure.metric): measure.value for name, measures in results.items() for measure in measures}
    wanted = {
        ("loop", "float32: speed"): 1.0,
        ("loop", "float32: over the plain loop"): 2.0,
        ("loop", "float32: over bare passes"): 2.0,
        ("training", "SAM: speed"): 0.8,
        ("training", "SAM: over SGD"): 2.5,
        ("copies", "copies at once: over bare passes"): (3 - 0.9 * 1) / 5,  # 1 s a call, spread over ten steps
        ("product", "speed"): 2 * 256**3 / 1e12,
        ("memory", "copy"): 2 * 4 * 2**20 / 1e12,
        ("graph", "graph over eager"): 1.0,
    }
    assert {key: found[key] for key in wanted} == pytest.approx(wanted)


# --- exactness -------------------------------------------------------------------------------------------------------


def test_differences_are_seen(monkeypatch, clock):
    """Of a device that is a level off in one value of one of two images, in its first run, and in the first by
    algorithms that repeat themselves."""
    images, calls = exactness.datasets.load("shapes", n=2), []

    def attack(networks, x, y, **options):
        calls.append(len(x))
        off = torch.zeros_like(x)
        off[0, 0, 0, 0] = float(len(calls) in (2, 4)) / 255
        return x + off

    bench = clock.bench()
    networks = {CPU: (tiny_model(), tiny_model())}
    found = {m.metric: m.value for m in exactness.attacked(bench, networks, images, attack)}
    share = 100 * (1 - 1 / images.x.numel())
    assert calls == [2, 2, 2, 2, 2, 1, 1]
    assert found["images that differ"] == 50 and found["largest difference"] == pytest.approx(1)
    equal = [name for name in found if name.startswith("equal values")]
    assert len(equal) == 4 and [found[name] for name in equal] == pytest.approx([share] * 4, abs=1e-4)


def test_kernels_are_set_against_the_pytorch_code(clock):
    """Of a function that is 0.25 higher where kernels run, in one of four values, and twice as fast."""
    work = {True: clock.work("kernel", 0.1), False: clock.work("PyTorch", 0.2)}

    def function():
        on = kernels.run_on(torch.zeros(1))
        work[on]()
        return torch.tensor([1.0, 2.0, 3.0, 4.0 + on / 4])

    with patch.object(kernels, "run_on", lambda x: True):
        measures = fused.against_pytorch(clock.bench(), lambda: function)
        assert kernels.run_on(torch.zeros(1))
    assert [m.value for m in measures] == pytest.approx([75.0, 0.25, 2.0])


# --- the command -----------------------------------------------------------------------------------------------------


def test_without_a_gpu_only_a_rehearsal_can_be_run(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no GPU"):
        gpu.main(["--out", str(tmp_path)])
    monkeypatch.setenv("ADVLIB_DATA", "")
    with pytest.raises(SystemExit, match="holds no cifar10"):
        gpu.main(["--tiny", "--out", str(tmp_path), "--data", str(tmp_path)])
    assert not list(tmp_path.iterdir())


ALLOWED = """
import runpy
import sys
from importlib.abc import MetaPathFinder

REFUSED = {"IPython", "ipykernel", "jupyterlab", "jupyter_client", "jupyter_core", "jupytext", "papermill", "nbformat",
           "nbclient", "nbconvert", "pyarrow"}

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
runpy.run_module("advlib.bench.gpu", run_name="__main__", alter_sys=True)
"""


def test_the_rehearsal_runs_every_case_without_packages_of_notebooks(tmp_path):
    command = [sys.executable, "-c", ALLOWED, "--tiny", "--budget", "1000", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = tmp_path.glob("*.csv")
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    assert done.stdout.endswith(f"{file}\n") and list(dict.fromkeys(row["section"] for row in rows)) == [*gpu.SECTIONS]
    assert not [row for row in rows if row["metric"] in (gpu.SKIPPED, gpu.FAILED) or row["value"] in ("", str(nan))]
    attacked = [row for row in rows if row["metric"] == "equal values"]
    attacks = {row["case"] for row in attacked if row["section"] == "exactness"}
    assert attacks == set(exactness.ATTACKS)
    if rows[0]["device"] == "cpu":
        assert {row["value"] for row in attacked} == {"100"}
