"""A chapter's parameters, as its percent source says them, and what a run of it starts from.

RUN = al.chapters.begin("02", globals(), {"smoke": {"n": 6}, "laptop": {"n": 40}, "paper": {"n": 1000}})
n, device = RUN["n"], RUN.device
print(RUN)

Nothing here needs the packages of notebooks, so that a kernel and the command line read and check parameters alike.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.kept import keep_memory
from ..files.paths import BUILD, NOTEBOOKS, ROOT
from ..zoo import registry

if TYPE_CHECKING:
    import torch

SCALES = ("smoke", "laptop", "paper")
SCALARS = {"int": int, "float": float, "str": str, "bool": bool}
FIXED = ("scale", "dataset")
"""Parameters that every chapter has; they are folders of a run, not part of its name."""
VARIABLE = "ADVLIB_RUN"
"""The environment variable that names the folder of a run, whatever its parameters; `python -m advlib run` sets it."""


class UsageError(ValueError):
    """A request that cannot be met, found before anything runs."""


# --- parameters ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell. kind: the annotation as written, such as "float" or "list[str]"; help: its
    comment, in which every clause between semicolons that begins like one of `_LIMITS` is a limit."""

    name: str
    kind: str
    default: object
    help: str

    @property
    def limits(self) -> list[str]:
        """The clauses of the help text that are limits: "at least 1", "each one of crop, flip"."""
        return [clause for clause in _clauses(self.help) if re.match(_BEGINNING, clause)]

    @property
    def choices(self) -> list[str]:
        """The words that its limit "one of ..." allows; empty where it has none."""
        return next((_words(limit) for limit in self.limits if "one of " in limit), [])

    def checked(self, value: object) -> object:
        """`value` as the kind of this parameter and within its limits. Raises UsageError that says what is expected."""
        try:
            found = coerce(value, self.kind)
        except TypeError:
            listed = self.kind.startswith("list[") and type(value) in (int, float)
            hint = f" (a list is written [{value!r}])" if listed else ""
            raise UsageError(f"{self._refused(value)}{hint}") from None
        if not all(_holds(limit, found) for limit in self.limits if found is not None):
            raise UsageError(self._refused(value))
        return found

    @property
    def expected(self) -> str:
        """ "int, at least 1"."""
        return ", ".join([self.kind, *self.limits])

    def _refused(self, value: object) -> str:
        return f"parameter {self.name!r}: expected {self.expected}, got {value!r}"


_NUMBER = r"-?\d+(?:\.\d+)?"
_LIMITS: dict[str, Callable[..., bool]] = {
    rf"at least ({_NUMBER})": lambda value, low: value >= float(low),
    rf"at most ({_NUMBER})": lambda value, high: value <= float(high),
    rf"above ({_NUMBER})": lambda value, low: value > float(low),
    rf"from ({_NUMBER}) to ({_NUMBER})": lambda value, low, high: float(low) <= value <= float(high),
    r"one of (.+)": lambda value, words: value in _words(words),
    r"not empty": lambda value: len(value) > 0,
}
"""The limits that a help text can state, and what they say of a value; of every item of a list with "each" in front."""
_BEGINNING = r"(each )?(at least|at most|above|from|one of|not empty)\b"


def _clauses(help_text: str) -> list[str]:
    return [" ".join(clause.split()) for clause in help_text.split(";")]


def _words(text: str) -> list[str]:
    """ "one of a, b or c" as a list."""
    return re.split(r",\s*(?:or\s+)?|\s+or\s+", text.rpartition("one of ")[2])


def _holds(limit: str, value: object) -> bool:
    """Whether a value keeps a limit, which is one of `_LIMITS`."""
    if limit.startswith("each "):
        return all(_holds(limit.removeprefix("each "), item) for item in value)
    found, holds = next((f, holds) for pattern, holds in _LIMITS.items() if (f := re.fullmatch(pattern, limit)))
    return holds(value, *found.groups())


def coerce(value: object, kind: str) -> object:
    """`value` as `kind`: an int may stand for a float, a tuple for a list; anything else, and a number that is not
    finite, is a TypeError."""
    if kind.endswith(" | None"):
        return None if value is None else coerce(value, kind.removesuffix(" | None"))
    if kind.startswith("list["):
        if not isinstance(value, list | tuple):
            raise TypeError(kind)
        return [coerce(item, kind[5:-1]) for item in value]
    if kind == "float" and type(value) is int:
        return float(value)
    if type(value) is not SCALARS[kind] or (kind == "float" and not isfinite(value)):  # by type: True is no int here
        raise TypeError(kind)
    return value


def parse_parameters(code: str, where: str) -> dict[str, Parameter]:
    """name -> Parameter of a parameters cell, `eps_255: float = 8.0  # help`; lines of comment below go on with the
    help. `where` names the file in errors. Raises UsageError for what style does not allow there."""
    try:
        body = ast.parse(code).body
    except SyntaxError as error:
        raise UsageError(f"{where}, parameters cell: {error}") from error
    found, ends = {}, [node.lineno - 1 for node in body[1:]] + [None]
    for node, end in zip(body, ends, strict=True):
        text = f"{where}, parameters cell, `{ast.get_source_segment(code, node)}`"
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
            raise UsageError(f"{text}: expected `name: type = literal`")
        kind = ast.unparse(node.annotation)
        try:
            default = coerce(ast.literal_eval(node.value), kind)
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{text}: expected a literal of type int, float, str, bool or a list of one") from error
        lines = code.splitlines()[node.end_lineno - 1 : end]
        lines[0] = lines[0].encode()[node.end_col_offset :].decode()
        comment = " ".join(line.strip().lstrip("# ") for line in lines).strip()
        if "=" in comment:
            raise UsageError(f"{text}: no equals sign in the comment, papermill would take it for a value")
        found[node.target.id] = _lawful(Parameter(node.target.id, kind, default, comment), text)
    return found


def _lawful(parameter: Parameter, text: str) -> Parameter:
    """The parameter, if its limits can be read and hold for its default. Raises UsageError."""
    for limit in parameter.limits:
        known = any(re.fullmatch(pattern, limit.removeprefix("each ")) for pattern in _LIMITS)
        if not known or (limit.startswith("each ") and not parameter.kind.startswith("list[")):
            raise UsageError(f"{text}: {limit!r} is no limit of a {parameter.kind}, see advlib/chapters.py")
    try:
        parameter.checked(parameter.default)
    except TypeError as error:  # "at least 1" of a text or a list
        raise UsageError(f"{text}: {', '.join(parameter.limits)} is no limit of a {parameter.kind}") from error
    except UsageError as error:
        raise UsageError(f"{text}: its own default is refused, {error}") from None
    return parameter


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown name: the likeliest one, and all that are known."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return (f"; did you mean {close[0]!r}?" if close else ";") + f" known: {', '.join(known) or 'none'}"


# --- sources ---------------------------------------------------------------------------------------------------------


def sources(folder: Path) -> list[Path]:
    """The chapters' sources in the order in which they run: A1 and A2 train the weights that the others load."""
    found = (p for p in folder.glob("*.py") if re.fullmatch(r"(\d\d|A\d)_\w+", p.stem))
    return sorted(found, key=lambda p: (not p.stem.startswith(("A1_", "A2_")), p.stem))


def number(source: Path) -> str:
    """ "02" of 02_elastic_momentum_random_erasure.py."""
    return source.stem.split("_")[0]


def select(numbers: Iterable[str], folder: Path) -> list[Path]:
    """The sources with these numbers ("02", "A1"), in the order given; all of them if none is given."""
    by_number = {number(p): p for p in sources(folder)}
    if not by_number:
        raise UsageError(f"no chapters in {folder}")
    numbers = list(dict.fromkeys(numbers)) or list(by_number)
    for wanted in numbers:
        if wanted not in by_number:
            raise UsageError(f"no chapter {wanted!r}{did_you_mean(wanted, by_number)}")
    return [by_number[wanted] for wanted in numbers]


def parameters(source: Path) -> dict[str, Parameter]:
    """The parameters of a percent source. Raises UsageError where it has not one cell tagged "parameters", or that has
    no `scale` or no `dataset`."""
    cells = re.split(r"(?m)^(?=# %%)", source.read_text(encoding="utf-8"))
    tagged = [cell for cell in cells if re.match(r"# %%[^\n]*tags=\[[^]\n]*\"parameters\"", cell)]
    if len(tagged) != 1:
        raise UsageError(f"{source.name}: {len(tagged)} cells tagged parameters; expected one")
    found = parse_parameters(tagged[0].partition("\n")[2], source.name)
    for name in FIXED:
        if name not in found:
            raise UsageError(f"{source.name}: no parameter {name!r}; every chapter has one")
    return found


def title(source: Path) -> str:
    """The first heading of a percent source, or else its name."""
    cells = re.split(r"(?m)^(?=# %%)", source.read_text(encoding="utf-8"))
    headings = [heading(re.sub(r"(?m)^# ?", "", cell)) for cell in cells if re.match(r"# %% \[markdown\]", cell)]
    return next(filter(None, headings), source.stem)


def heading(markdown: str) -> str | None:
    """The first heading of a Markdown text."""
    found = re.search(r"^#+ +(.+?)\s*$", markdown, re.MULTILINE)
    return found[1] if found else None


# --- the folder of a run ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A run of one chapter: where it keeps what it makes, and under which conditions.

    chapter: "02"; folder: of the run, which chapters may share; setting: the numbers of its scale, by name, which are
    `run[name]`; a parameter that was given stands in the place of that of the scale.
    """

    chapter: str
    folder: Path
    scale: str
    dataset: str
    setting: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, names: str | tuple[str, ...]) -> Any:
        """The number of that name, or a list of those of several. Raises KeyError for a name that there is not."""
        return self.setting[names] if isinstance(names, str) else [self.setting[name] for name in names]

    def __str__(self) -> str:
        """How far numbers of this run compare with the thesis."""
        return conditions(self.scale, self.dataset)

    @property
    def device(self) -> torch.device:
        """The GPU if there is one, or else the processor."""
        import torch  # here: the command line reads chapters without it

        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def tables(self) -> Path:
        return self.folder / "tables" / self.chapter

    @property
    def figures(self) -> Path:
        return self.folder / "figures" / self.chapter

    @property
    def checkpoints(self) -> Path:
        """Of trainings that go on after a kill."""
        return self.folder / "checkpoints" / self.chapter

    @property
    def weights(self) -> Path:
        """Of networks that chapters do not load: those of a trial, and of another seed."""
        return self.folder / "weights" / self.chapter

    @property
    def images(self) -> Path:
        return self.folder / "images" / self.chapter


def begin(
    chapter: str,
    values: Mapping[str, Any],
    settings: Mapping[str, Mapping[str, Any]],
    notebooks: Path = NOTEBOOKS,
    build: Path = BUILD,
) -> Run:
    """Check the parameters of a chapter and say what its run starts from.

    chapter: "02"; values: the chapter's globals() before it changes any of its parameters; settings: for each scale its
    numbers by name, of which a parameter of the same name takes the place unless it is 0 or empty; notebooks: the
    folder with its source. The folder is `run_folder`'s. Raises UsageError, which names the parameter, for a value of
    another type than its line says or outside the limits of its comment, and for a scale without numbers. Without the
    source nothing can be checked: that is a warning, and the run shares its folder with all runs of its scale and data
    set. From here on the process keeps memory that it frees (`engine.kept`).
    """
    keep_memory()
    found = [path for path in sources(notebooks) if number(path) == chapter]
    if not found:
        warnings.warn(
            f"no source of chapter {chapter} in {notebooks}: its parameters are not checked, and runs with other "
            f"parameters share one folder unless {VARIABLE} names another",
            stacklevel=2,
        )
        return _run(chapter, values, settings, run_folder(values["scale"], values["dataset"], {}, build))
    known = parameters(found[0])
    try:
        given = {name: parameter.checked(values[name]) for name, parameter in known.items()}
    except KeyError as error:
        raise UsageError(f"chapter {chapter}: its parameter {error} has no value; run its parameters cell") from None
    except UsageError as error:
        raise UsageError(f"chapter {chapter}, {error}") from None
    changed = {name: value for name, value in given.items() if value != known[name].default}
    return _run(chapter, given, settings, run_folder(given["scale"], given["dataset"], changed, build))


def _run(chapter: str, given: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]], folder: Path) -> Run:
    scale = given["scale"]
    if scale not in settings:
        raise UsageError(f"chapter {chapter}, scale={scale!r}: expected one of {', '.join(settings)}")
    setting = {name: given.get(name) or number for name, number in settings[scale].items()}
    return Run(chapter, folder, scale, given["dataset"], setting)


def conditions(scale: str, dataset: str) -> str:
    """One sentence: how far numbers of this scale and data set compare with the thesis. Raises ValueError for an
    unknown name."""
    for name, value, known in (("scale", scale, SCALES), ("dataset", dataset, registry.CHAPTERS)):
        if value not in known:
            raise ValueError(f"{name}={value!r}: expected one of {', '.join(known)}")
    if dataset == "shapes":
        return f"Measured at {scale} scale on shapes, a teaching set: not comparable with the thesis' setting."
    if scale != "paper":
        return f"Measured at {scale} scale on {dataset}, a reduced run: not comparable with the thesis' setting."
    if dataset == "imagenet":
        return "Measured at paper scale on imagenet: this is the thesis' setting."
    return f"Measured at paper scale on {dataset}: comparable only with the thesis' tables on {dataset}."


def run_folder(scale: str, dataset: str, changed: Mapping[str, object], build: Path = BUILD) -> Path:
    """The folder of a run: what $ADVLIB_RUN says (a relative path counts from the repository), or else
    <build>/<scale>/<dataset>, with ",name=value" for every parameter that differs from the chapter's default.

    changed: those parameters; `scale` and `dataset` among them count once.
    """
    if given := os.environ.get(VARIABLE):
        return (ROOT / Path(given).expanduser()).resolve()
    return build / scale / ",".join([dataset, *_said({k: changed[k] for k in changed if k not in FIXED})])


def _said(changed: Mapping[str, object]) -> list[str]:
    """ "name=value" by name, fit for a file's name: what had to be changed or cut for that is told apart by a hash."""
    said = [f"{name}={_plain(changed[name])}" for name in sorted(changed)]
    texts = [text for value in changed.values() for text in (value if isinstance(value, list) else [value])]
    # Capitals are no exact name: some file systems do not tell them from small letters.
    exact = all(re.fullmatch(r"[a-z0-9_.-]+", text) for text in texts if isinstance(text, str))
    if exact and len(",".join(said)) <= 100:
        return said
    whole = repr(sorted(changed.items()))
    return [",".join(said)[:80].rstrip(",. "), hashlib.sha256(whole.encode()).hexdigest()[:8]]


def _plain(value: object) -> str:
    if isinstance(value, list):
        return "+".join(map(_plain, value))
    if isinstance(value, str):
        return re.sub(r"[^A-Za-z0-9_.-]", "_", value)
    return repr(value).removesuffix(".0").lower()


ENGINE = "ADVLIB_ENGINE"
"""Names the engine on which the tables of chapters run (`engines`). It is no parameter: the numbers are the same."""
