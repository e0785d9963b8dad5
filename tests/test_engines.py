"""Engines: the same table from every one, workers that die, errors before any work, and no process left behind."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import grid_images, tiny_model

from advlib import attacks, engines
from advlib.bench import evaluation
from advlib.bench.evaluation import _Run, predictions, success_rates
from advlib.bench.results import ResultTable
from advlib.files.paths import ROOT
from advlib.zoo.datasets import Images

NETS = {"f": tiny_model(), "h": tiny_model(1)}
MI = {"MI": partial(attacks.mi_fgsm, steps=2), "RE": partial(attacks.re_fgsm, steps=2), "FGSM": attacks.fgsm}


@pytest.fixture
def data():
    x = (grid_images(12) * 255).round().to(torch.uint8)
    unlabelled = Images(x, torch.zeros(12, dtype=torch.int64), torch.arange(12), tuple("abcdefghij"), "shapes", "test")
    labels = predictions(NETS["f"], unlabelled)
    return Images(x, labels, torch.arange(12), tuple("abcdefghij"), "shapes", "test")


def table(path):
    return ResultTable(path / "t.csv", "2.1", "smoke", "shapes", "cpu", seed=0, config={})


def plain(model, x, y, eps, seed, index):
    return x


def raises(model, x, y, eps, seed, index):
    raise ArithmeticError("no such luck")


def dies(model, x, y, eps, seed, index, times, folder):
    """Ends its process, as often as that has not happened yet; the log has a line for each call."""
    calls = Path(folder) / "calls"
    with calls.open("a") as file:
        file.write(f"{os.getpid()}\n")
    if len(calls.read_text().split()) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def calls(path):
    return (path / "calls").read_text().split()


def on_ray(**options):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'advlib[cluster]'")
    return engines.OnRay(**options)


# --- the same table --------------------------------------------------------------------------------------------------


def measured(engine, data, path=None, batch_size=5):
    kept = None if path is None else table(path)
    nets = {"f": NETS["f"]}
    rows = success_rates(MI, NETS, nets, data, [8, 16], table=kept, batch_size=batch_size, engine=engine)
    return rows.drop(columns="seconds"), kept and kept.outcomes


def check_same(engine, data, tmp_path):
    (expected, fooled), (rows, ours) = (measured(e, data, tmp_path / str(k)) for k, e in enumerate(("serial", engine)))
    pd.testing.assert_frame_equal(rows, expected)
    assert ours.index.tolist() == fooled.index.tolist() and set(ours.cells) == set(fooled.cells)
    for key, outcome in fooled.cells.items():
        assert (ours.cells[key].fooled == outcome.fooled).all() and (ours.cells[key].right == outcome.right).all()
    return expected


@pytest.mark.parametrize("jobs", [1, 2])
def test_processes_give_the_table_of_one(data, tmp_path, jobs):
    check_same(engines.Local(jobs), data, tmp_path)


def test_processes_give_the_rows_without_a_table_too(data):
    rows, _ = measured(engines.Local(2), data, batch_size=12)
    pd.testing.assert_frame_equal(rows, measured("serial", data)[0])


class Backwards(engines.Serial):
    """An engine of somebody's own, whose cells finish in another order, on a device that the driver lacks."""

    def run(self, job, cells):
        for cell, answer in super().run(job, cells[::-1]):
            yield cell, replace(answer, device="NVIDIA H100")


def test_rows_come_as_asked_for_whatever_finishes_first_and_say_where_they_ran(data, tmp_path):
    (expected, _), (rows, _) = measured("serial", data), measured(Backwards(), data)
    pd.testing.assert_frame_equal(rows, expected)
    rows, _ = measured(Backwards(), data, tmp_path)
    assert rows.attack.tolist() == expected.attack.tolist() and set(rows.device) == {"NVIDIA H100"}


class Shuffled:
    """Workers of somebody's own, who are no processes: parts end in another order, each after a second."""

    def __init__(self, device="cpu"):
        self.parts, self.device = [], device

    def at_once(self, job):
        return 2

    def run(self, job, parts):
        self.parts += parts
        with job.ready():
            for part in sorted(parts, key=lambda part: (-part.first, part.cell)):
                given = job(part, say=None)
                yield part, replace(given, seconds=1.0, device=self.device.format(part.first))


def test_a_cell_in_parts_is_the_cell(data, tmp_path):
    engine = Shuffled()
    check_same(engine, data, tmp_path)
    assert len({part.cell for part in engine.parts}) == 2 * 3 * 2
    assert {(part.first, part.behind) for part in engine.parts} == {(0, 5), (5, 10), (10, 12)}
    assert set(table(tmp_path / "1").frame.seconds) == {3.0}
    rows, _ = measured(Shuffled("GPU {}"), data, tmp_path / "2")
    assert set(rows.device) == {"GPU 0, GPU 5, GPU 10"}


def test_parts_are_whole_batches_many_where_they_are_recorded(data):
    places = torch.arange(3100)
    many = Images(torch.zeros(3100, 1, 1, 1, dtype=torch.uint8), places % 2, places, ("a", "b"), "shapes", "test")
    cells = [("f", "MI", 8.0), ("f", "MI", 16.0)]
    run = _Run({}, many, 100, 0, True)
    assert run.parts(cells, 1) == [(cell, 0, 3100) for cell in cells] and run.parts([], 2) == []
    assert run.parts(cells, 2) == [(cell, k, k + 100) for cell in cells for k in range(0, 3100, 100)]
    on_gpu = replace(run, data=many.to("meta"))
    recorded = [(0, 1200), (1200, 2400), (2400, 3100)]
    assert on_gpu.parts(cells, 2) == on_gpu.parts(cells, 4) == [(cell, *ends) for cell in cells for ends in recorded]
    assert on_gpu.parts(cells[:1], 4) == [(cells[0], k, min(k + 800, 3100)) for k in range(0, 3100, 800)]
    assert len(on_gpu.parts(cells, 64)) == len(on_gpu.parts(cells, 999)) == 2 * 31


def late(model, x, y, eps, seed, index):
    """Fails on the last image."""
    if 11 in index:
        raise ArithmeticError("so near the end")
    return x


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_done_is_with_the_error_and_a_table_holds_whole_cells(data, tmp_path, kept):
    several, net = {"plain": plain, "late": late}, {"f": NETS["f"]}
    rows = table(tmp_path) if kept else None
    run = partial(success_rates, several, net, net, data, [8, 4], table=rows, batch_size=5, engine=Caught())
    with pytest.raises(engines.FailedCells, match="2 of 4 cells failed") as caught:
        run()
    assert {error.cause for error in caught.value.errors.values()} == {"so near the end"}
    assert list(zip(caught.value.rows.attack, caught.value.rows.eps_255, strict=True)) == [
        ("plain", 8),
        ("plain", 8),
        ("plain", 4),
        ("plain", 4),
    ]
    if kept:
        pd.testing.assert_frame_equal(caught.value.rows, rows.frame)
    with pytest.raises(engines.FailedCells) as caught:
        success_rates({"late": late}, net, net, data, [8], table=rows, batch_size=5, engine=Caught())
    assert len(caught.value.rows) == 0


class Caught:
    """Workers who survive what an attack raises, and are no processes."""

    def at_once(self, job):
        return 2

    def run(self, job, parts):
        with job.ready():
            for part in parts:
                try:
                    yield part, job(part, say=None)
                except ArithmeticError as error:
                    yield part, engines.CellError(str(error))


def test_workers_take_the_gpus_in_turn(data, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,7")
    crew = engines.Local(jobs=3, devices=[0, 2])._crew(NoJob(), cells=9)
    assert [child._environment["CUDA_VISIBLE_DEVICES"] for child in crew] == ["5", "7", "5"]
    assert pickle.loads(crew[0]._first)[1] == "cuda"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    crew = engines.Local()._crew(NoJob("cuda"), cells=9)
    assert [child._environment["CUDA_VISIBLE_DEVICES"] for child in crew] == ["0", "1", "2"]
    assert engines.Local().at_once(NoJob("cuda")) == 3 and engines.Local(devices=[1, 2]).at_once(NoJob()) == 2
    assert engines.Local(jobs=5, devices=[0]).at_once(NoJob()) == 5 and engines.Serial().at_once(NoJob()) == 1
    crew = engines.Local(jobs=2)._crew(NoJob(), cells=1)
    assert len(crew) == 1 and "CUDA_VISIBLE_DEVICES" not in crew[0]._environment
    assert pickle.loads(crew[0]._first)[1] == "cpu"


class NoJob:
    def __init__(self, device="cpu"):
        self.device = torch.device(device)

    def parts(self):
        return {}


def test_actors_are_as_many_as_there_is_room_for():
    has = {"CPU": 8.0, "GPU": 2.0}
    assert on_ray()._room(has) == (2, 1) and on_ray(num_gpus=0.5)._room(has) == (4, 0.5)
    assert on_ray(num_gpus=0, num_cpus=2)._room(has) == (4, 0) and on_ray(jobs=3)._room({"CPU": 4.0}) == (3, 0)
    assert on_ray(jobs=3).at_once(NoJob()) == 3 and on_ray().at_once(NoJob()) == 2
    for wrong in (on_ray(jobs=3), on_ray(num_gpus=3), on_ray(num_cpus=9)):
        with pytest.raises(ValueError, match="jobs: the cluster has no room"):
            wrong._room(has)


def test_actors_give_the_table_of_one(data, tmp_path):
    check_same(on_ray(jobs=2), data, tmp_path)


def test_cells_that_are_there_are_not_run_again(data, tmp_path, capfd):
    run = partial(success_rates, MI, {"f": NETS["f"]}, {"f": NETS["f"]}, data, table=table(tmp_path))
    run([8])
    rows = run([4, 8], engine=engines.Local(2), title="again")
    assert rows.eps_255.tolist() == [4.0, 4.0, 8.0, 8.0] * 3
    assert "again: 6/6" in capfd.readouterr().out


def test_what_an_attack_prints_does_not_come_between_the_answers(data, capfd):
    success_rates({"says": says}, NETS, NETS, relabelled(data), [8], engine=engines.Local(1))
    assert "said so" in capfd.readouterr().err


def says(model, x, y, eps, seed, index):
    print("said so", flush=True)
    return x


class Talks(NoJob):
    """A job that says a cell's number, and then twice that, and gives its square."""

    def ready(self):
        return nullcontext()

    def __call__(self, cell, say):
        say(cell)
        say(2 * cell)
        return cell**2


def check_heard(engine):
    told = []
    for cell, result in engine.run(Talks(), [3, 4], lambda cell, said: told.append((cell, said))):
        told.append((cell, "gave", result))
    assert sorted(told, key=lambda what: what[0]) == [
        *[(3, 3), (3, 6), (3, "gave", 9)],
        *[(4, 4), (4, 8), (4, "gave", 16)],
    ]


@pytest.mark.parametrize("engine", [engines.Serial(), engines.Local(2)])
def test_what_a_job_says_is_heard_before_its_result(engine):
    check_heard(engine)


def test_what_an_actor_says_is_heard_before_its_result():
    check_heard(on_ray(jobs=1))


def relabelled(data):
    """Images that both networks name alike."""
    return data[predictions(NETS["h"], data) == data.y]


# --- workers that die, attacks that raise ----------------------------------------------------------------------------


def check_dead(engine, data, tmp_path):
    """A cell whose worker dies twice is there in the end; one whose worker always dies is named, as is an attack that
    raises, and a second call runs these two alone."""
    net = {"f": NETS["f"]}
    for name in ("twice", "always"):
        (tmp_path / name).mkdir()
    several = {
        "raises": raises,
        "twice": partial(dies, times=2, folder=str(tmp_path / "twice")),
        "always": partial(dies, times=99, folder=str(tmp_path / "always")),
        "plain": plain,
    }
    kept = table(tmp_path)
    with pytest.raises(engines.FailedCells, match="2 of 4 cells failed") as caught:
        success_rates(several, net, net, data, [8], table=kept, batch_size=99, engine=engine)
    errors = caught.value.errors
    assert set(errors) == {f"attack {name!r} on 'f' at 8/255" for name in ("raises", "always")}
    assert errors["attack 'raises' on 'f' at 8/255"].cause == "ArithmeticError: no such luck"
    assert "in raises" in errors["attack 'raises' on 'f' at 8/255"].trace
    assert "died, 3 times" in errors["attack 'always' on 'f' at 8/255"].cause
    assert set(kept.frame.attack) == {"twice", "plain"}
    for name in ("twice", "always"):
        assert len(set(calls(tmp_path / name))) == len(calls(tmp_path / name)) == 3, "a new worker each time"
    healed = several | {"raises": plain, "always": plain}
    rows = success_rates(healed, net, net, data, [8], table=kept, batch_size=99, engine=engine)
    assert set(rows.attack) == set(several) and len(calls(tmp_path / "twice")) == 3


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_process_that_dies_costs_its_cell_alone(data, tmp_path, jobs):
    check_dead(engines.Local(jobs), data, tmp_path)


def test_an_actor_that_dies_costs_its_cell_alone(data, tmp_path):
    check_dead(on_ray(jobs=2), data, tmp_path)


def test_in_one_process_an_error_is_raised_at_once(data):
    with pytest.raises(ArithmeticError, match="no such luck"):
        success_rates({"raises": raises}, NETS, NETS, relabelled(data), [8])


# --- what is refused before any work ---------------------------------------------------------------------------------


def test_malformed_engines_are_refused(data):
    run = partial(success_rates, {"plain": plain}, {"f": NETS["f"]}, {"f": NETS["f"]}, data, [8])
    with pytest.raises(ValueError, match="engine='dask': expected one of serial, local, ray"):
        run(engine="dask")
    for wrong in (3, None, engines.Local):
        with pytest.raises(TypeError, match="engine"):
            run(engine=wrong)
    with pytest.raises(ValueError, match="jobs=0: expected a whole number"):
        engines.Local(jobs=0)
    with pytest.raises(ValueError, match="there is no GPU 99"):
        engines.Local(devices=[99])
    for wrong, error in (([], ValueError), ([-1], ValueError), ("0", TypeError)):
        with pytest.raises(error, match="devices"):
            engines.Local(devices=wrong)


def test_a_ray_that_is_missing_is_named_before_any_work(data, monkeypatch):
    monkeypatch.setattr("advlib.bench.engines.on_ray.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"advlib\[cluster\]"):
        success_rates({"never": raises}, NETS, NETS, data, [8], engine="ray")


def test_what_cannot_be_sent_is_named_before_any_work(data, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a worker was started"))
    data, lock = relabelled(data), threading.Lock()
    monkeypatch.setattr(evaluation, "predictions", lambda *a, **k: pytest.fail("clean images were classified"))
    with pytest.raises(TypeError, match="attack 'mine': it cannot be sent.*such as a lock.*engine=\"serial\""):
        success_rates({"mine": partial(plain, lock=lock)}, NETS, NETS, data, [8], engine="local")


def in_main(monkeypatch):
    """A function as a notebook defines it."""
    space = {"net": NETS["f"], "__name__": "__main__"}
    exec("def asked(z):\n    return net(z)", space)
    monkeypatch.setattr(sys.modules["__main__"], "asked", space["asked"], raising=False)
    return space["asked"]


def test_lambdas_and_functions_of_a_notebook_run_on_workers(data, monkeypatch):
    shift = 2 / 255
    attack = {"mine": lambda m, x, y, eps, **o: (x + shift).clamp(max=1)}
    run = partial(success_rates, attack, {"f": in_main(monkeypatch)}, {"f": NETS["f"]}, data, [8])
    ours, expected = run(engine=engines.Local(1)), run()
    pd.testing.assert_frame_equal(ours.drop(columns="seconds"), expected.drop(columns="seconds"))


def test_a_worker_that_cannot_be_set_up_says_why(data):
    with pytest.raises(RuntimeError, match="could not be set up: ArithmeticError: not here"):
        success_rates({"a": plain}, NETS, {"t": Elsewhere()}, data, [8], engine=engines.Local(1))


class Elsewhere(type(NETS["f"].net)):
    """A network that is read in no other process."""

    def __init__(self):
        super().__init__(NETS["f"])

    def __setstate__(self, state):
        raise ArithmeticError("not here")


# --- the end ---------------------------------------------------------------------------------------------------------

SLEEPS = """
import sys, time, os
from test_engines import NETS, success_rates, engines, sleeps
import torch
from conftest import grid_images
from advlib.zoo.datasets import Images
from functools import partial
x = grid_images(4)
data = Images((x * 255).round().to(torch.uint8), NETS["f"](x).argmax(1), torch.arange(4), tuple("abcdefghij"), "shapes",
              "test")
success_rates({"sleeps": partial(sleeps, folder=sys.argv[1])}, {"f": NETS["f"]}, {"f": NETS["f"]}, data, [4, 8],
              engine=engines.chosen(eval(sys.argv[2])))
"""


def sleeps(model, x, y, eps, seed, index, folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)


def check_ends(tmp_path, engine, sign):
    """Workers in the middle of a cell are gone soon after the driver is told to stop, or is dead."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-c", SLEEPS, str(tmp_path), engine]
    driver = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, stderr=subprocess.PIPE)
    workers = within(60, lambda: len(found := list(tmp_path.iterdir())) == 2 and found)
    driver.send_signal(sign)
    _, said = driver.communicate(timeout=30)
    assert driver.returncode and (sign == signal.SIGKILL or b"KeyboardInterrupt" in said)
    assert within(10, lambda: not any(alive(int(worker.name)) for worker in workers))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def within(seconds, asked):
    deadline = time.monotonic() + seconds
    while not (found := asked()):
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.1)
    return found


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")


@needs_proc
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_one_that_asked(tmp_path, sign):
    check_ends(tmp_path, "engines.Local(2)", sign)


@needs_proc
def test_no_actor_outlives_an_interrupt(tmp_path):
    on_ray()
    check_ends(tmp_path, "engines.OnRay(2)", signal.SIGINT)
