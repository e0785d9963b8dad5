"""What the site does to the Markdown of a chapter: targets for its equations, links to them, citations, alternative
texts. And what is written into pages: rows of tables, and a part between two marks."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from ..zoo import registry

_TAG = re.compile(r"\\tag\{([\d., ]+)\}")
_MENTION = re.compile(r"\b([Ee]qs?\.\s)(\d\.\d+(?:(?:,\s|\sand\s|\sto\s)\d\.\d+)*)")
_CODE = re.compile(r"(```.*?```|`[^`]*`|\$\$.*?\$\$|^#.*?$)", re.DOTALL | re.MULTILINE)


def anchored(markdown: str) -> str:
    """A target "eq-4-9" before each displayed equation that has the tag 4.9; several for several tags."""

    def target(block: re.Match[str]) -> str:
        numbers = [number.strip() for tag in _TAG.findall(block[0]) for number in tag.split(",")]
        names = [f"(eq-{number.replace('.', '-')})=" for number in numbers]
        return "\n".join(["", "", *names, block[0].lstrip("\n")]) if names else block[0]

    return re.sub(r"(?:^|\n)(?:\$\$.*?\$\$\n?)+", target, markdown, flags=re.DOTALL)


def linked(markdown: str, known: Collection[str]) -> str:
    """ "eq. 4.9 and 4.10" with a link at each number; code, formulas and headings stay as they are. Links to a heading,
    which Jupyter wants with its capitals, become what Sphinx calls it.

    known: the numbers that can be linked to (`equations`)."""

    def one(number: re.Match[str]) -> str:
        return f"[{number[0]}](#eq-{number[0].replace('.', '-')})" if number[0] in known else number[0]

    def mention(found: re.Match[str]) -> str:
        return found[1] + re.sub(r"\d\.\d+", one, found[2])

    lower = re.sub(r"\]\(#[^)]*\)", lambda link: link[0].lower(), markdown)
    parts = _CODE.split(lower)
    return "".join(part if i % 2 else _MENTION.sub(mention, part) for i, part in enumerate(parts))


def equations(markdown: str) -> set[str]:
    """The numbers of the displayed equations: "4.9"."""
    return {number.strip() for tag in _TAG.findall(markdown) for number in tag.split(",")}


def titles(bibtex: str) -> dict[str, str]:
    """key -> title of a BibTeX file."""
    return dict(re.findall(r"^@\w+\{(\w+),.*?^\s*title = \{\{(.+?)\}\}", bibtex, re.DOTALL | re.MULTILINE))


def cited(markdown: str, known: Mapping[str, str]) -> str:
    """The items of a section "References" with a citation of each work that they name. known: `titles`."""
    before, heading, rest = markdown.partition("## References")
    items = re.split(r"(?m)^(?=- )", rest)
    return before + heading + "".join(_cite(item, works(item, known)) for item in items)


def works(item: str, known: Mapping[str, str]) -> list[str]:
    """Keys of the works that an item of a bibliography names, by their title or, in italics, by its first part."""
    said, italics = _plain(item), {_plain(title).rstrip(".") for title in re.findall(r"\*([^*]+)\*", item)}
    keys = {k: _plain(title) for k, title in known.items()}
    return [k for k, title in keys.items() if title in said or title.partition(":")[0] in italics]


def _cite(item: str, keys: list[str]) -> str:
    text = item.rstrip("\n")
    return f"{text} {{cite:p}}`{','.join(keys)}`{item[len(text) :]}" if keys else item


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def figure_alt(code: str, heading: str, caption: str) -> str:
    """What a picture of a cell shows: its name in `plotting.save`, its caption, the section that it stands in."""
    name = re.search(r"plotting\.save\(\s*\w+,\s*f?\"fig_(\w+?)_(\w+?)_?(?:\{|\")", code)
    what = "Figure" if name is None else stem_alt(f"fig_{name[1]}_{name[2]}")
    told = re.match(r"\*([^*]+)\*", caption)
    parts = [what, " ".join(told[1].split()) if told else "", f"in the section {heading!r}" if heading else ""]
    return ", ".join(part.rstrip(".") for part in parts if part).replace("$", "")


def stem_alt(stem: str) -> str:
    """ "fig_2_4_ablation_shapes" as "Figure 2.4: ablation, shapes"."""
    found = re.match(r"fig_([A-Z]?\d+|\w)_?(\d+|[a-z](?=_))?_?(.*)$", stem)
    number = ".".join(part for part in (found[1], found[2]) if part)
    words, _, dataset = found[3].rpartition("_")
    known = dataset in registry.CHAPTERS
    return f"Figure {number}: " + (f"{words}, {dataset}" if known else found[3]).replace("_", " ")


def enumerated(names: Sequence[str]) -> str:
    """ "2.1, 2.2 and 2.3"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def table_line(cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def between_marks(text: str, begin: str, end: str, part: str, name: str) -> str:
    """`text` with `part` between two marks, which stay. name: of the file. ValueError if a mark is missing."""
    before, first, rest = text.partition(begin)
    _, last, after = rest.partition(end)
    if not first or not last:
        raise ValueError(f"{name} lacks the marks {begin!r} and {end!r}")
    return f"{before}{begin}\n{part}\n{end}{after}"
