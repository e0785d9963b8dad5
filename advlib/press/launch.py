"""Where a chapter can be run without an installation: Binder, Colab, and a downloaded notebook anywhere.

One setting turns the links on: `repository-code` in CITATION.cff, the address of the repository. Binder reads
environment.yml as it is. Colab opens book/colab.ipynb, which `python -m advlib launch` writes anew after the address
has changed.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ..files.paths import ROOT, replacing
from .run import Chapter

SETTING, COLAB = ROOT / "CITATION.cff", ROOT / "book" / "colab.ipynb"
NO_ADDRESS = "advlib is not installed, and this copy of the book has no address: pip install --editable . in a checkout"
SETUP = """# Fetches and installs the book where it is not there yet; does nothing in a checkout.
import importlib.util, subprocess, sys

REPOSITORY = {address!r}
if importlib.util.find_spec("advlib") is None:
    if not REPOSITORY:
        raise ImportError({none!r})
    subprocess.run(["git", "clone", "--depth", "1", REPOSITORY, "book"], check=True)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--editable", "book"]
    subprocess.run(install, check=True)
    sys.path.insert(0, "book")  # a kernel that runs does not see what was just installed
"""
NEEDS = """**To run this notebook** you need Python 3.11 or later, `git`, and room for torch. The next cell fetches the
book's repository (code, weights, committed results) where it is not there. {data} How long a chapter takes is in the
README's table of chapters; `scale = "smoke"` takes a minute and shows that it runs."""
DATA = {
    "shapes": "`shapes` needs no download.",
    "cifar10": "`cifar10` is downloaded when it is asked for.",
    "cifar100": "`cifar100` is downloaded when it is asked for.",
    "imagenet": "`imagenet` has to be brought: the error says which files go where.",
}
"""What a data set of a chapter needs."""
_PLAY = """# Every cell of the chapter in turn; its variables are yours afterwards.
import nbformat
from IPython.display import Markdown, display
from advlib.bench import chapters
from advlib.files.paths import NOTEBOOKS

(source,) = chapters.select([chapter], NOTEBOOKS)
for cell in nbformat.read(source.with_suffix(".ipynb"), as_version=4).cells:
    if cell.cell_type == "markdown":
        display(Markdown(cell.source))
    elif not get_ipython().run_cell(cell.source).success:
        break
"""


def address(setting: Path = SETTING) -> str:
    """The address of the repository, "" while it has none."""
    found = re.search(r"^repository-code:\s*[\"']?([^\s\"']+)", setting.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1].removesuffix("/").removesuffix(".git") if found else ""


def setup(repository: str) -> NotebookNode:
    """The cell that fetches and installs the book."""
    return new_code_cell(SETUP.format(address=repository, none=NO_ADDRESS), id="setup")


def portable(notebook: NotebookNode, chapter: Chapter, repository: str) -> NotebookNode:
    """A copy of a chapter that runs outside the checkout: what it needs, and the cell that gets it, stand first."""
    data = " ".join(DATA[name] for name in chapter.datasets)
    needs = new_markdown_cell(NEEDS.format(data=data), id="needs")
    found = nbformat.from_dict(notebook)
    found.cells = [needs, setup(repository), *notebook.cells]
    return found


def links(chapter: Chapter, repository: str) -> str:
    """Where the chapter can be launched, as Markdown; without an address on GitHub, what turns that on."""
    place = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", repository)
    if place is None:
        return "Binder and Colab: once `repository-code` in CITATION.cff names a repository on GitHub."
    binder = f"https://mybinder.org/v2/gh/{place[1]}/HEAD?labpath=notebooks/{chapter.source.stem}.ipynb"
    colab = f"https://colab.research.google.com/github/{place[1]}/blob/HEAD/book/colab.ipynb"
    return f'[Binder]({binder}), cell by cell · [Colab]({colab}), with `chapter = "{chapter.number}"`'


def colab(repository: str) -> NotebookNode:
    """The notebook that Colab opens: it fetches the book and runs a chapter in its kernel."""
    text = (
        "# A chapter of the book, run here\n\nRun the cells in turn. Choose a chapter in the second one: `00` to `06`, "
        "`A1` to `A4`."
    )
    cells = [
        new_markdown_cell(text, id="title"),
        setup(repository),
        new_code_cell('chapter = "00"  # @param {type: "string"}', id="chapter"),
        new_code_cell(_PLAY, id="play"),
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def write(path: Path = COLAB) -> Path:
    """Write Colab's notebook anew, with the address of CITATION.cff, and return it."""
    with replacing(path) as partial:
        nbformat.write(colab(address()), partial)
    return path
