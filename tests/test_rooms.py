"""The rooms of the package: who may import whom, how large the methods are, and what an import costs."""

import ast
import inspect
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import advlib
from advlib import attacks
from advlib.files.paths import ROOT

PACKAGE = Path(advlib.__file__).parent
FLOORS = ("files", "kernels", "engine", "core", "zoo", "methods", "training", "defenses", "bench", "press")
"""From the ground up: a room imports from those before it. Kernels and engine lie below `core`, which runs on them:
they know tensors and numbers, and neither a draw nor a ball."""
MOST_LINES = 5_300
"""Of the methods and their ground that are not blank: what a reader has to read, of the methods that the thesis defines
and of those that it names. Kernels are not counted: each has PyTorch code beside it that is, and that one reads."""
MOST_KERNEL_LINES = 500


def room(path):
    """The room of a module: its folder, or "methods" for what lies in front."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else "methods"


def imported(path):
    """The rooms of what a module imports from the package, wherever in it."""
    here = path.relative_to(PACKAGE.parent).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*here[: len(here) - node.level + 1], *(node.module or "").split(".")]
            for alias in node.names:
                parts = [part for part in (*base, alias.name) if part]
                yield parts[1] if (PACKAGE / parts[1]).is_dir() else "methods"


MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p not in (PACKAGE / "__init__.py", PACKAGE / "__main__.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_downwards(path):
    own = room(path)
    below = set(FLOORS[: FLOORS.index(own) + 1]) if own != "methods" else {"methods", "core", "engine", "kernels"}
    assert set(imported(path)) <= below


def lines(*paths):
    """How many lines are not blank."""
    return sum(bool(line.strip()) for path in paths for line in path.read_text(encoding="utf-8").splitlines())


def test_the_methods_are_thin():
    assert 2_000 < lines(*PACKAGE.glob("*.py"), *(PACKAGE / "core").glob("*.py")) < MOST_LINES
    assert 100 < lines(*(PACKAGE / "kernels").glob("*.py")) < MOST_KERNEL_LINES


# --- what an import loads --------------------------------------------------------------------------------------------

METHODS = sorted(p.stem for p in PACKAGE.glob("[a-z]*.py"))
HEAVY = ("pandas", "matplotlib", "scipy", "IPython", "torchvision", "timm", "triton")


def told(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_methods_load_torch_and_nothing_heavy():
    loads = f"import sys, importlib\nfor m in {METHODS}: importlib.import_module('advlib.' + m)\n"
    assert told(f"{loads}print([m for m in {HEAVY} if m in sys.modules], 'torch' in sys.modules)") == "[] True\n"


def test_the_import_costs_little_beside_torch():
    """A ratio within one process, the shortest of three: torch is loaded first, and what comes on top is ours."""
    code = (
        "import time; t = time.perf_counter(); import torch; a = time.perf_counter() - t\n"
        f"import importlib; import advlib\nfor m in {METHODS}: importlib.import_module('advlib.' + m)\n"
        "print((time.perf_counter() - t) / a)"
    )
    assert min(float(told(code)) for _ in range(3)) < 1.3


@pytest.mark.parametrize("words", [["--help"], ["list"], ["run", "02", "--scael", "smoke"]])
def test_the_command_line_answers_without_torch(words):
    code = (
        "import sys; from advlib.press import cli\n"
        f"try: cli.main({words})\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    assert told(code).endswith("False\n")


def test_names_are_where_the_package_says():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    static = {
        (".".join(filter(None, [node.module, alias.name])) if node.module is None else f"{node.module}.{alias.name}")
        for node in block.body
        for alias in node.names
    }
    assert static == {f"{home}.{name}" if home else name for name, home in advlib._HOME.items()}
    assert all(getattr(advlib, name) is not None for name in advlib.__all__)
    assert set(advlib.__all__) <= set(dir(advlib))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = advlib.no_such_name


def test_version():
    assert advlib.__version__ == version("advlib")


# --- presets ---------------------------------------------------------------------------------------------------------


def test_a_preset_shows_every_option_that_it_takes():
    shown = inspect.signature(attacks.dim).parameters
    assert set(attacks.Options.__annotations__) < set(shown) and not any(
        p.kind is p.VAR_KEYWORD for p in shown.values()
    )
    assert shown["momentum"].default == attacks.MI and shown["steps"].default == 10
    assert "momentum" not in inspect.signature(attacks.mi_fgsm).parameters
    assert inspect.signature(attacks.rap).parameters["steps"].default == 400
