"""The book's reference: a page for each room of `advlib`, with signature and docstring of everything that is public.

Both are read from the sources as `press.equations` reads them; only the signatures of the presets, which a decorator
makes, come from the functions themselves. Docstrings are plain text; `markdown` shows them as one would read them:
parameters as a list, formulas and code as they stand, names in backticks as links to their entries.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from ..files.paths import PACKAGE
from .equations import exports, shortest

ROOMS = {
    "methods": "Methods: what the thesis' equations are",
    "core": "core: what the methods stand on",
    "kernels": "kernels: what runs on a GPU",
    "engine": "engine: how devices run it",
    "zoo": "zoo: networks and pictures",
    "training": "training: making weights",
    "defenses": "defenses: what stands in the way",
    "bench": "bench: measuring and judging",
    "press": "press: printing",
    "files": "files: where things are kept",
}
"""Every room in the order of the pages, and the title of its page."""
_WIDTH = 88


@dataclass(frozen=True)
class Entry:
    """Something public. kind: "function", "class", "constant" or "method"; place: where it is, such as "loop.attack";
    name: as a reader calls it; signature: in Python's words; parameters: their names; methods: of a class, those with a
    docstring."""

    kind: str
    place: str
    name: str
    signature: str
    docstring: str
    parameters: tuple[str, ...] = ()
    methods: tuple[Entry, ...] = field(default=())

    @property
    def target(self) -> str:
        """The label of its heading. Labels know no capitals, so that the kind tells `Ensemble` from `ensemble`."""
        return "-".join(["api", self.kind, *re.findall("[a-z0-9]+", self.place.lower())])


# --- reading ---------------------------------------------------------------------------------------------------------


def modules(room: str) -> dict[str, ast.Module]:
    """name -> the parsed source of each module of a room, such as "zoo.nets"."""
    folder = PACKAGE if room == "methods" else PACKAGE / room
    paths = sorted(p for p in folder.glob("*.py") if not p.stem.startswith("__"))
    return {
        ".".join(p.relative_to(PACKAGE).with_suffix("").parts): ast.parse(p.read_text(encoding="utf-8")) for p in paths
    }


def entries(module: str, tree: ast.Module, exported: Mapping[str, str]) -> Iterator[Entry]:
    """What a module has for others: functions and classes, and constants with a text below, without the private ones.
    exported: of `equations.exports`."""
    for node, below in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if not node.name.startswith("_"):
                yield _entry(node, f"{module}.{node.name}", exported)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
            if (says := _text(below)) and not target.startswith("_"):
                name, value = _name(f"{module}.{target}", exported), ast.unparse(node.value) if node.value else ""
                shown = f"{name} = {value}"
                yield Entry("constant", f"{module}.{target}", name, shown if len(shown) <= _WIDTH else name, says)


def _text(statement: ast.stmt | None) -> str:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return inspect.cleandoc(value.value) if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def _name(place: str, exported: Mapping[str, str]) -> str:
    module, _, last = place.rpartition(".")
    if f"{module}.*" in exported:
        return f"al.{module.rpartition('.')[0]}.{last}"
    return f"al.{shortest(place, exported)}"


def _entry(node: ast.FunctionDef | ast.ClassDef, place: str, exported: Mapping[str, str]) -> Entry:
    name, docstring = _name(place, exported), ast.get_docstring(node) or ""
    if isinstance(node, ast.FunctionDef):
        parts = _parameters(node, place)
        signature = _signature(name, parts, ast.unparse(node.returns) if node.returns else "")
        return Entry("function", place, name, signature, docstring, _names(parts))
    public = [n for n in node.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
    methods = tuple(
        Entry("method", f"{place}.{n.name}", n.name, _method(n), says) for n in public if (says := ast.get_docstring(n))
    )
    fields, bases = _fields(node), ", ".join(map(ast.unparse, node.bases))
    signature = _signature(f"class {name}", fields, "") if fields else f"class {name}" + (f"({bases})" if bases else "")
    return Entry("class", place, name, signature, docstring, _names(fields), methods)


def _fields(node: ast.ClassDef) -> list[str]:
    """What a class is made of: the parameters of its `__init__`, or else its annotated fields."""
    for n in node.body:
        if isinstance(n, ast.FunctionDef) and n.name == "__init__":
            return _arguments(n.args)[1:]
    if {ast.unparse(base) for base in node.bases} & {"Protocol"}:
        return []
    return [ast.unparse(n) for n in node.body if isinstance(n, ast.AnnAssign) and not _private(n.target)]


def _private(target: ast.expr) -> bool:
    return ast.unparse(target).startswith("_")


def _method(node: ast.FunctionDef) -> str:
    """Its call, without types."""
    if any(ast.unparse(d) in ("property", "cached_property") for d in node.decorator_list):
        return node.name
    names = [part.partition(":")[0].partition(" = ")[0] for part in _arguments(node.args)]
    return f"{node.name}({', '.join(name for name in names if name not in ('self', 'cls'))})"


def _parameters(node: ast.FunctionDef, place: str) -> list[str]:
    parts = _arguments(node.args)
    if not any(ast.unparse(d).startswith("preset(") for d in node.decorator_list):
        return parts
    module, _, name = place.rpartition(".")
    actual = inspect.signature(getattr(import_module(f"advlib.{module}"), name)).parameters
    own = [part for part in parts if not part.startswith("**")]
    others = [p for p in actual.values() if p.name not in _names(own)]
    star = [] if "*" in own else ["*"]
    return own + star + [f"{p.name}: {p.annotation} = {p.default!r}" for p in others]


def _arguments(args: ast.arguments) -> list[str]:
    """ "x: Tensor", "eps: float = 16 / 255", "*", ... as the source has them."""
    positional = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
    parts = [_argument(a, d) for a, d in zip(positional, defaults, strict=True)]
    if args.posonlyargs:
        parts.insert(len(args.posonlyargs), "/")
    if args.vararg:
        parts.append(f"*{ast.unparse(args.vararg)}")
    elif args.kwonlyargs:
        parts.append("*")
    parts += [_argument(a, d) for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    return parts + ([f"**{ast.unparse(args.kwarg)}"] if args.kwarg else [])


def _argument(arg: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(arg) + (f" = {ast.unparse(default)}" if default is not None else "")


def _names(parts: Collection[str]) -> tuple[str, ...]:
    return tuple(re.match(r"\**(\w*)", part)[1] for part in parts if part not in ("*", "/"))


def _signature(name: str, parts: list[str], returns: str) -> str:
    arrow = f" -> {returns}" if returns else ""
    line = f"{name}({', '.join(parts)}){arrow}"
    return line if len(line) <= _WIDTH else "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){arrow}"])


# --- docstrings ------------------------------------------------------------------------------------------------------


def markdown(docstring: str, parameters: Collection[str] = (), targets: Mapping[str, str] | None = None) -> str:
    """A docstring as Markdown: `name: meaning;` of a parameter as an item of a list, what is indented or set in columns
    as it stands, the rest as paragraphs. targets: what a name in backticks leads to."""
    blocks = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        lines = paragraph.splitlines()
        if all(line.startswith("    ") for line in lines) or any(re.search(r"\S {3,}\S", line) for line in lines):
            blocks.append("\n".join(["```text", *inspect.cleandoc("\n" + paragraph).splitlines(), "```"]))
            continue
        for item in re.split(r"\n(?=- )", paragraph):
            if item.startswith("- "):
                blocks.append(f"- {_inline(item[2:], targets)}")
            else:
                blocks += [head + _inline(text, targets) for head, text in _split(item, parameters)]
    return re.sub(r"(?m)^(- .*)\n\n(?=- )", r"\1\n", "\n\n".join(blocks))


def _split(paragraph: str, parameters: Collection[str]) -> list[tuple[str, str]]:
    """A paragraph as ("", sentences about the whole) and ("- `name`: ", meaning) of each parameter that it explains."""
    text = " ".join(paragraph.split())
    one = "|".join(map(re.escape, parameters)) or "(?!)"
    first, *rest = re.split(rf"(?:^|(?<=[.;,)] ))((?:{one})(?:, (?:{one}))*): ", text)
    parts = [("", first)]
    for names, meaning in zip(rest[::2], rest[1::2], strict=True):
        head = "- " + ", ".join(f"`{name}`" for name in names.split(", ")) + ": "
        about, *whole = re.split(r"(?<=\. )(?=Raises |Returns |Warns )", meaning)
        parts += [(head, about.strip().removesuffix(";")), *(("", sentence) for sentence in whole)]
    return [(head, said) for head, said in parts if said.strip()]


def _inline(text: str, targets: Mapping[str, str] | None) -> str:
    """Text in which only `code`, *emphasis* and values such as norm="l2" mean something; code that names an entry is a
    link."""
    text = re.sub(r"""`[^`]+`|(?:\b\w+=)?"[\w./*<>=+-]*\"""", lambda code: f"`{code[0].strip('`')}`", text)
    pieces = re.split(r"(`[^`]+`|(?<!\w)\*\w[\w ]*\w\*(?!\w))", " ".join(text.split()))
    for i, piece in enumerate(pieces):
        if i % 2 == 0:
            pieces[i] = re.sub(r"([\\`*_{}\[\]<>$#|~^])", r"\\\1", piece)
        elif piece[0] == "`" and (target := (targets or {}).get(piece.strip("`").removeprefix("al."))):
            pieces[i] = f"[{piece}](#{target})"
    line = "".join(pieces)
    return re.sub(r"^([-+=:]|\d+(?=[.)]))", r"\\\1" if not line[:1].isdigit() else r"\1\\", line)


# --- pages -----------------------------------------------------------------------------------------------------------


class Reference:
    """All entries of the package, and the pages that show them."""

    def __init__(self) -> None:
        exported = exports({p.relative_to(PACKAGE).as_posix(): p.read_text("utf-8") for p in PACKAGE.rglob("*.py")})
        self.trees = {room: modules(room) for room in ROOMS}
        self.entries = {
            module: list(entries(module, tree, exported))
            for trees in self.trees.values()
            for module, tree in trees.items()
        }
        self.targets: dict[str, str] = {}
        for module, found in self.entries.items():
            self.targets |= {f"{module.rpartition('.')[2]}.{e.place.rpartition('.')[2]}": e.target for e in found}
        for found in self.entries.values():
            self.targets |= {key: e.target for e in found for key in (e.place, e.name.removeprefix("al."))}

    def page(self, room: str) -> str:
        """The page of one room, in Markdown."""
        blocks = [f"# {ROOMS[room]}"]
        if (
            says := ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text("utf-8")))
            if room != "methods"
            else ""
        ):
            blocks.append(markdown(says))
        for module, tree in self.trees[room].items():
            local = self.targets | {e.place.rpartition(".")[2]: e.target for e in self.entries[module]}
            blocks += [f"## advlib.{module}", markdown(ast.get_docstring(tree) or "", (), local)]
            for e in self.entries[module]:
                blocks += [f"({e.target})=\n### {e.place.rpartition('.')[2]}", f"```python\n{e.signature}\n```"]
                blocks.append(markdown(e.docstring, e.parameters, local))
                blocks += [f"`.{m.signature}`: " + markdown(m.docstring, (), local) for m in e.methods]
        return "\n\n".join(blocks) + "\n"

    def linked(self, text: str) -> str:
        """Markdown with a link at each `al.name` that has an entry."""

        def link(found: re.Match[str]) -> str:
            target = self.targets.get(found[1])
            return f"[{found[0]}](#{target})" if target else found[0]

        return re.sub(r"(?<!\[)`al\.([\w.]+)`", link, text)


def write(folder: Path) -> None:
    """The pages of all rooms, api_<room>.md, and links to them from the page of equations."""
    reference = Reference()
    for room in ROOMS:
        (folder / f"api_{room}.md").write_text(reference.page(room), encoding="utf-8")
    equations = folder / "equations.md"
    equations.write_text(reference.linked(equations.read_text(encoding="utf-8")), encoding="utf-8")
