"""The package as `pip install .` gives it, away from its checkout: weights and tables inside, no chapters."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

from advlib.files.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds what the wheel holds."""
    pytest.importorskip("setuptools", minversion="77", reason="setuptools 77, which builds the wheel, is not here")
    source, folder = tmp_path_factory.mktemp("source") / "advlib", tmp_path_factory.mktemp("installed")
    skip = shutil.ignore_patterns("__pycache__", "cache", "*.egg-info")
    for name in ("advlib", "data"):
        shutil.copytree(ROOT / name, source / name, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, source]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed, folder, *words):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ADVLIB_")}
    environment |= {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


AWAY = """
import sys
from importlib.metadata import version
from pathlib import Path
import advlib as al
assert Path(al.__file__).parent == Path(sys.argv[1]) / "advlib", al.__file__
assert al.__version__ == version("advlib")
f, data = al.models.load("shapes/resnet"), al.datasets.load("shapes", n=8)
adv = al.attacks.mi_fgsm(f, data.x, data.y, eps=8 / 255)
assert (f(data.x).argmax(1) == data.y).sum() > 5 and (f(adv).argmax(1) != data.y).sum() > 3
assert len(al.published.table("2.1")) and len(al.results.committed("2.1", "laptop", "cifar10"))
print(al.weights.damaged())
"""


def test_it_attacks_with_the_weights_inside(installed, tmp_path):
    done = run(installed, tmp_path, "-c", AWAY, installed)
    assert (done.returncode, done.stdout) == (0, "{}\n"), done.stderr
    assert (installed / "advlib" / "py.typed").is_file()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["list"], ["run", "02"], ["book"], ["glance"]])
def test_chapters_and_book_say_that_they_need_the_checkout(installed, tmp_path, words):
    done = run(installed, tmp_path, "-m", "advlib", *words)
    assert done.returncode == 2 and "checkout" in done.stderr and "Traceback" not in done.stderr


def test_every_room_is_packaged():
    rooms = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "advlib").rglob("*.py")}
    assert {*rooms, "advlib.data"} == set(PROJECT["tool"]["setuptools"]["packages"])
