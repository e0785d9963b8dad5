"""The thesis' numbered equations and algorithms: where the book displays each, and which function of advlib it is.

Both are read from the sources, and nothing is imported:

- An equation is displayed where a Markdown cell of a chapter tags it, `\\tag{5.9}`; an algorithm where a heading of one
  is "Algorithm 4". Each has exactly one display, in the chapter of its number.
- An equation is owned by the function, class or constant whose docstring cites it in its *first paragraph*, as
  "thesis eq. 5.9", "thesis eq. 4.5, 4.8", "thesis eq. 2.1 to 2.3", "thesis Alg. 4" or "thesis eq. 5.7, Alg. 4". A
  number further down, or without the word "thesis" before it, is a mention and owns nothing. Each has exactly one
  owner, unless `UNOWNED` says why it has none.

`faults` names what is amiss, `page` is book/equations.md, and `write` writes it: `python -m advlib equations`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from ..bench.chapters import sources
from ..files.paths import NOTEBOOKS, PACKAGE, ROOT, replacing

PAGE = ROOT / "book" / "equations.md"

_COUNTS = {1: 4, 2: 7, 3: 6, 4: 11, 5: 9}
"""How many numbered equations each chapter of the thesis has."""
_ALGORITHMS = {"Alg. 1": 2, "Alg. 2": 3, "Alg. 3": 4, "Alg. 4": 5}
"""The chapter of each algorithm."""
CHAPTER = {f"{c}.{k}": c for c, count in _COUNTS.items() for k in range(1, count + 1)} | _ALGORITHMS
"""Every number of the thesis, in its order, and its chapter."""

UNOWNED = {
    "3.1": "eq. 1.1 in other letters",
    "4.1": "eq. 1.1 in other letters",
    "4.2": "a step of the derivation; nothing computes it",
    "4.3": "a step of the derivation; nothing computes it",
    "4.4": "a step of the derivation; nothing computes it",
    "4.6": "a bound of the derivation; nothing computes it",
    "4.7": "an identity of the derivation; nothing computes it",
    "5.4": "an expansion; the gain that it expands is the numerator of eq. 5.3",
    "5.6": "the penalty as it is meant; what is computed is its finite difference, eq. 5.9",
}
"""The equations that no function owns, and why."""

_LIST = r"\d+(?:\.\d+)?(?:(?:, | and | to )\d+(?:\.\d+)?)*"
_CITATION = re.compile(rf"\bthesis (?:(?:, | and )?(?:eq|Alg)\. {_LIST})+")
_GROUP = re.compile(rf"(eq|Alg)\. ({_LIST})")
_TAG = re.compile(r"\\tag\{([^}]*)\}")
_ALGORITHM = re.compile(r"^#+ Algorithm (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Display:
    """A place at which the book shows an equation. chapter: the name of its source, without ending."""

    number: str
    chapter: str


@dataclass(frozen=True)
class Owner:
    """A function, class or constant that is an equation. name: as a reader calls it; says: what its docstring begins
    with."""

    number: str
    name: str
    says: str


# --- where the book displays them ------------------------------------------------------------------------------------


def displays(chapters: Mapping[str, str]) -> list[Display]:
    """All displays of percent sources. chapters: name, such as "02_elastic", to source."""
    return [Display(n, name) for name, text in chapters.items() for cell in _markdown(text) for n in _shown(cell)]


def _markdown(source: str) -> Iterator[str]:
    """The Markdown cells of a percent source, without their comment signs."""
    for cell in re.split(r"(?m)^(?=# %%)", source):
        first, _, rest = cell.partition("\n")
        if first.startswith("# %% [markdown]"):
            yield re.sub(r"(?m)^# ?", "", rest)


def _shown(cell: str) -> list[str]:
    tags = [n.strip() for tag in _TAG.findall(cell) for n in tag.split(",")]
    return tags + [f"Alg. {k}" for k in _ALGORITHM.findall(cell)]


# --- what owns them --------------------------------------------------------------------------------------------------


def owners(package: Mapping[str, str]) -> list[Owner]:
    """All owners in a package. package: the path of a module in it, such as "zoo/nets.py", to its source. What the
    "__init__.py" of a folder takes from a module is called without that module."""
    exported, found = exports(package), []
    for path, text in package.items():
        module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name, docstring in _documented(ast.parse(text)):
            first = " ".join(docstring.strip().partition("\n\n")[0].split())
            called = shortest(f"{module}.{name}", exported)
            found += [Owner(n, f"al.{called}", _sentence(first)) for n in cited(first)]
    return found


def cited(text: str) -> list[str]:
    """The numbers that a text cites as the thesis': "eq. 2.1 to 2.3" names three."""
    groups = [group for citation in _CITATION.findall(text) for group in _GROUP.findall(citation)]
    return [n for kind, numbers in groups for n in _spelled(kind, numbers)]


def _spelled(kind: str, numbers: str) -> Iterator[str]:
    """ "2.1 to 2.3, 2.5" as 2.1, 2.2, 2.3, 2.5; of algorithms as "Alg. 1"."""
    for part in re.split(r", | and ", numbers):
        first, _, last = part.partition(" to ")
        chapter, _, low = first.rpartition(".")
        for k in range(int(low), int(last.rpartition(".")[2] or low) + 1):
            yield f"{chapter}.{k}" if kind == "eq" else f"Alg. {k}"


def exports(package: Mapping[str, str]) -> dict[str, str]:
    """What the folders of a package take from their modules: place, "gradients.norm_penalty", to name there."""
    found = {}
    for path, text in package.items():
        folder = path.removesuffix("__init__.py").replace("/", ".")
        imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom) and node.level == 1]
        for node in imports if folder != path.replace("/", ".") else ():
            place = folder + (f"{node.module}." if node.module else "")
            found |= {place + alias.name: folder + alias.name for alias in node.names}
    return found


def shortest(place: str, exported: Mapping[str, str]) -> str:
    """The shortest name under which a place can be reached."""
    parts = place.split(".")
    for k in range(len(parts), 0, -1):
        if (prefix := ".".join(parts[:k])) in exported:
            return ".".join([exported[prefix], *parts[k:]])
    return place


def _documented(node: ast.Module | ast.ClassDef, inside: str = "") -> Iterator[tuple[str, str]]:
    """Name and docstring of each function and class in a module or class, and of each constant with a text below."""
    for child, below in zip_longest(node.body, node.body[1:]):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield inside + child.name, ast.get_docstring(child) or ""
        if isinstance(child, ast.ClassDef):
            yield from _documented(child, f"{inside}{child.name}.")
        if isinstance(child, ast.Assign | ast.AnnAssign):
            target = child.targets[0] if isinstance(child, ast.Assign) else child.target
            yield inside + ast.unparse(target), _text(below)


def _text(statement: ast.stmt | None) -> str:
    """Of a statement that is only a text, that; of others ""."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def _sentence(paragraph: str) -> str:
    """Its first sentence. A point before a number ends none ("eq. 5.9"), a colon before a formula does."""
    return re.split(r"\.(?= \D|$)", paragraph)[0].rstrip(":, ") + "."


# --- what is amiss, and the page -------------------------------------------------------------------------------------


def faults(shown: Iterable[Display], owned: Iterable[Owner]) -> list[str]:
    """One line for each number without exactly one display in its chapter, or without exactly one owner or a reason,
    and for each number that the thesis does not have."""
    shown, owned = list(shown), list(owned)
    found = [f"{d.number}: no number of the thesis, displayed in {d.chapter}" for d in shown if d.number not in CHAPTER]
    found += [f"{o.number}: no number of the thesis, cited by {o.name}" for o in owned if o.number not in CHAPTER]
    for n in CHAPTER:
        found += _of_displays(n, [d.chapter for d in shown if d.number == n])
        found += _of_owners(n, [o.name for o in owned if o.number == n])
    return found


def _of_displays(n: str, chapters: list[str]) -> list[str]:
    if len(chapters) != 1:
        return [f"{n}: displayed {len(chapters)} times, {', '.join(chapters) or 'nowhere'}; expected once"]
    if not chapters[0].startswith(f"{CHAPTER[n]:02}_"):
        return [f"{n}: displayed in {chapters[0]}; expected in chapter {CHAPTER[n]}"]
    return []


def _of_owners(n: str, names: list[str]) -> list[str]:
    if n in UNOWNED:
        return [f"{n}: owned by {', '.join(names)}, and listed as owned by none"] if names else []
    return [] if len(names) == 1 else [f"{n}: {len(names)} owners, {', '.join(names) or 'none'}; expected one"]


_HEAD = """# Equations

Every numbered equation and algorithm of the thesis: where it is displayed, and which function of `advlib` (`al`) it is.
The number leads to the display. Where the print has a slip, the chapter says so beside it.

| number | chapter | function | |
|:--|:--|:--|:--|
"""


def page(chapters: Mapping[str, str] | None = None, package: Mapping[str, str] | None = None) -> str:
    """The page of the book, one row for each number that is displayed. chapters, package: as of `displays` and
    `owners`, those of this repository if None."""
    shown = {d.number: d.chapter for d in displays(_chapters() if chapters is None else chapters)}
    owned = {o.number: o for o in owners(_package() if package is None else package)}
    return _HEAD + "".join(_row(n, shown[n], owned.get(n)) for n in CHAPTER if n in shown)


def _row(n: str, chapter: str, owner: Owner | None) -> str:
    notebook = f"../notebooks/{chapter}.ipynb"
    # Labels of equations are known on all pages of the site, headings within their own.
    target = f"#eq-{n.replace('.', '-')}" if n[0].isdigit() else f"{notebook}#algorithm-{n.rpartition(' ')[2]}"
    name, says = (f"`{owner.name}`", owner.says) if owner else ("none", f"{UNOWNED.get(n, 'no owner')}.")
    says = says.replace("|", r"\|")  # which ends a cell
    return f"| [{n}]({target}) | [{CHAPTER[n]}]({notebook}) | {name} | {says} |\n"


def _chapters() -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8") for path in sources(NOTEBOOKS)}


def _package() -> dict[str, str]:
    return {
        path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))
    }


def write(path: Path = PAGE) -> Path:
    """Write the page anew and return the file."""
    text = page()
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path
