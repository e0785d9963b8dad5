"""The house rules: one list of dependencies, notebooks that match their sources, nothing large or local in git."""

import base64
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version

import jupytext
import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from advlib.bench import chapters
from advlib.files.paths import NOTEBOOKS, ROOT
from advlib.press import run

SOURCES = chapters.sources(NOTEBOOKS)
EXECUTED = sorted(NOTEBOOKS.glob("*.ipynb"))
MAX_FIGURE = 150 * 1024  # bytes
MAX_FILE = 2 * 1024**2  # bytes
TORCH = re.compile(r"torch|torchvision|triton|(nvidia|cuda)-.+")
"""Packages whose builds must match each other and the machine: pip resolves them together."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(lines):
    """name -> bound of pip requirement lines; option lines are left out."""
    parsed = [Requirement(line) for line in lines if not line.startswith("-")]
    return {r.name: str(r.specifier) for r in parsed}


def each(paths, none):
    """A parametrisation over paths that is one skip, with its reason, where there are none."""
    if not paths:
        return [pytest.param(None, marks=pytest.mark.skip(reason=none))]
    return [pytest.param(path, id=path.name) for path in paths]


# --- dependencies ----------------------------------------------------------------------------------------------------


def test_conda_matches_pyproject():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    pip = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    extras = sum((PROJECT["optional-dependencies"][name] for name in ("test", "book", "course", "imagenet")), [])
    assert requirements(pip) == requirements(PROJECT["dependencies"] + extras)
    assert f"python{PROJECT['requires-python']}" in conda
    assert "--constraint constraints.txt" in pip


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return requirements(line for line in lines if line and not line.startswith("#"))


def test_constraints_keep_the_bounds():
    everything = PROJECT["dependencies"] + sum(PROJECT["optional-dependencies"].values(), [])
    direct = {canonicalize_name(r.name): r for r in map(Requirement, everything)}
    assert {name for name in direct if not TORCH.fullmatch(name)} <= set(pins())
    for name in direct.keys() & pins().keys():
        assert direct[name].specifier.contains(pins()[name].removeprefix("==")), name


def test_constraints_are_complete():
    """Of all that the packages of `make env` need here, torch and what comes with it apart, none is left to chance."""
    found, open_ends = {}, [("advlib", ("test", "book", "course", "imagenet"))]
    wanted = set(open_ends)
    while open_ends:
        name, extras = open_ends.pop()
        for requirement in needed(name, extras):
            key = canonicalize_name(requirement.name), tuple(sorted(requirement.extras))
            try:
                found[key[0]] = version(key[0])
            except PackageNotFoundError:  # an extra that is not installed here
                continue
            if key not in wanted:
                wanted.add(key)
                open_ends.append(key)
    names = {name for name in found if not TORCH.fullmatch(name)}
    assert len(names) > 30 and sorted(names - set(pins())) == []
    if others := [f"{name} {found[name]}" for name in sorted(names) if pins()[name] != f"=={found[name]}"]:
        pytest.skip(f"this environment has other versions than constraints.txt: {', '.join(others)}")


def needed(name, extras):
    """What a package requires on this machine, with these of its extras."""
    if name == "advlib":
        lines = PROJECT["dependencies"] + sum((PROJECT["optional-dependencies"][extra] for extra in extras), [])
    else:
        lines = requires(name) or []
    return [
        r
        for r in map(Requirement, lines)
        if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]


@pytest.mark.parametrize("line", PROJECT["dependencies"] + sum(PROJECT["optional-dependencies"].values(), []))
def test_lower_bounds_only(line):
    assert {s.operator for s in Requirement(line).specifier} == {">="}


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name):
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    assert targets and [t for t in targets if "://" not in t and not (ROOT / t).exists()] == []


# --- notebooks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", each(SOURCES, "notebooks/ holds no chapter"))
def test_source(source):
    """Readable as `python -m advlib run` reads it, and with the header without which papermill finds no kernel."""
    chapter = run.read_chapter(source)
    assert chapter.parameters["scale"].default == "laptop" and chapter.parameters["dataset"].default == "shapes"
    spec = jupytext.read(source, fmt="py:percent").metadata.get("kernelspec", {})
    assert (spec.get("name"), spec.get("language")) == ("python3", "python"), f"{source.name}: kernelspec in the header"


@pytest.mark.parametrize("source", each(SOURCES, "notebooks/ holds no chapter"))
def test_notebook_has_the_code_of_its_source(source):
    executed = source.with_suffix(".ipynb")
    assert executed.is_file(), f"{executed.name} is missing: run `make notebooks`"
    ours, theirs = code(jupytext.read(source, fmt="py:percent")), code(nbformat.read(executed, as_version=4))
    assert theirs == ours, f"{executed.name} does not have the code of {source.name}: run `make notebooks`"


def test_no_two_chapters_have_a_table_of_one_name():
    """They are kept in one folder. A table without a stem of its own has the number of the thesis' table."""
    owners = {}
    for source in SOURCES:
        for stem in set(re.findall(r'stem="([^"]+)"', source.read_text(encoding="utf-8"))):
            owners.setdefault(stem, []).append(source.name)
    assert len(owners) > 5 and {stem: names for stem, names in owners.items() if len(names) > 1} == {}


def code(notebook):
    return [cell.source.strip() for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", each(EXECUTED, "notebooks/ holds no executed notebook"))
def test_notebook_is_executed_and_clean(path):
    assert path.with_suffix(".py").is_file(), f"{path.name} has no source"
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and cell.source.strip():
            assert cell.execution_count, f"not executed, run `make notebooks`:\n{cell.source}"
            noise = [o for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"]
            assert not noise, f"error or stderr output:\n{cell.source}\n{noise}"


@pytest.mark.parametrize("path", each(EXECUTED, "notebooks/ holds no executed notebook"))
def test_figures_of_a_notebook_are_pictures(path):
    """A cell that ends with its figure has a picture of it: a kernel with another backend leaves its name alone."""
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    shown = [c for c in cells if c.source.rstrip().splitlines()[-1:] == ["fig"]]
    pictures = [any("image/png" in output.get("data", {}) for output in c.outputs) for c in shown]
    assert [c.source.splitlines()[-2] for c, there in zip(shown, pictures, strict=True) if not there] == []


@pytest.mark.parametrize("path", each(EXECUTED, "notebooks/ holds no executed notebook"))
def test_figures_are_small(path):
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            for kind, content in output.get("data", {}).items():
                if kind.startswith("image/"):
                    size = len(content) if kind == "image/svg+xml" else len(base64.b64decode(content))
                    assert size <= MAX_FIGURE, f"{kind} of {size // 1024} KB from:\n{cell.source}"


# --- the quick tests -------------------------------------------------------------------------------------------------


def test_every_slow_test_is_there_and_every_file_has_a_quick_one():
    slow = (ROOT / "tests" / "slow.txt").read_text(encoding="utf-8").split()
    assert slow == sorted(set(slow))
    files = {
        p.name: re.findall(r"^def (test_\w+)", p.read_text("utf-8"), re.M) for p in (ROOT / "tests").glob("test_*.py")
    }
    assert [name for name in slow if name.partition("::")[2] not in files[name.partition("::")[0]]] == []
    assert [name for name, tests in files.items() if {f"{name}::{test}" for test in tests} <= set(slow)] == []


# --- the module alone ------------------------------------------------------------------------------------------------

ALONE = """
import sys
from importlib.abc import MetaPathFinder

NOTEBOOKS = {"IPython", "ipykernel", "jupytext", "papermill", "nbformat", "nbclient", "nbconvert", "jupyter_client"}

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NOTEBOOKS:
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
import advlib as al
al.chapters, al.experiment.Experiment, al.results.ResultTable, al.plotting.save
assert not NOTEBOOKS & set(sys.modules)
"""


def test_the_module_needs_no_package_of_notebooks():
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- what git holds --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracked():
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        pytest.skip("git is not installed")
    if listed.returncode:
        pytest.skip(f"not a git checkout: {listed.stderr.strip()}")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_machine_paths(tracked):
    pattern = re.compile(rb"(?<![\w.:/~-])/(?:work|root|home/\w+|Users/\w+)/")
    hits = []
    for path in tracked:
        content = path.read_bytes()
        if b"\0" not in content:
            hits += [f"{path.relative_to(ROOT)}: {found[0].decode()}" for found in pattern.finditer(content)]
    assert not hits, hits


def test_no_large_files(tracked):
    large = {str(p.relative_to(ROOT)): p.stat().st_size for p in tracked if p.stat().st_size > MAX_FILE}
    assert not large, large
