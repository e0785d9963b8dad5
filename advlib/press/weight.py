"""What the site leaves out of other people's scripts, icons that no page shows, letters that no formula has, and what
it loads later, pictures.

A page of the theme alone would weigh 4.5 MB, most of it icons and alphabets. What stays is what the pages use; where a
script looks otherwise than expected, it stays whole.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection
from importlib.util import find_spec
from pathlib import Path

MATHJAX = ("startup.js", "core.js", "input/tex.js", "a11y/assistive-mml.js", "output/svg.js", "output/svg/fonts/tex.js")
"""What conf.py's `mathjax_path` and `loader` name: TeX to SVG, with MathML for screen readers, without the menu."""
FONT = MATHJAX[-1]
_ICON = re.compile(r'("?[\w-]+"?):\[\d+,\d+,\[[^\]]*\],"[0-9a-f]+",(?:"[^"]*"|\["[^"]*","[^"]*"\])\],?')
_RULE = re.compile(r'\.fa-([a-z0-9-]+)\{--fa:"[^"]*"\}')
_GLYPH = re.compile(r'(\d+):"[^"]*",?')
_ALPHABETS = {
    r"mathbf|boldsymbol|bm|textbf|pmb|bf": (
        ("bold", "boldItalic", "frakturBold", "sansSerifBold", "sansSerifBoldItalic", "texCalligraphicBold"),
        (
            (0x1D400, 0x1D434),
            (0x1D468, 0x1D49C),
            (0x1D4D0, 0x1D504),
            (0x1D6A8, 0x1D6E2),
            (0x1D71C, 0x1D756),
            (0x1D7CE, 0x1D7D8),
        ),
    ),
    r"mathit|textit|it": (("texMathit",), ()),
    r"mathscr|scr": ((), ((0x1D49C, 0x1D4D0),)),
    r"mathfrak|frak": (("fraktur", "frakturBold"), ((0x1D504, 0x1D538), (0x1D56C, 0x1D5A0))),
    r"mathsf|textsf|sf": (
        ("sansSerif", "sansSerifBold", "sansSerifItalic", "sansSerifBoldItalic"),
        ((0x1D5A0, 0x1D670), (0x1D756, 0x1D7CC), (0x1D7E2, 0x1D7F6)),
    ),
    r"mathtt|texttt|tt": (("monospace",), ((0x1D670, 0x1D6A4), (0x1D7F6, 0x1D800))),
    r"oldstyle|oldstylenums": (("texOldstyle", "texOldstyleBold"), ()),
}
"""By the commands of TeX that ask for them: MathJax's names of alphabets, and their places in Unicode."""


def lighten(html: Path) -> None:
    """Leave out of MathJax, which `copy_mathjax` put there, and of the theme's icons what no built page asks for."""
    pages = "\n".join(path.read_text(encoding="utf-8") for path in html.glob("*.html"))
    scripts = html / "_static" / "scripts"
    themes = "\n".join(path.read_text(encoding="utf-8") for path in scripts.glob("*theme.js"))
    drawn = scripts / "fontawesome.js"
    if drawn.is_file():
        names = set(re.findall(r"\bfa-([a-z0-9-]+)", pages + themes))
        for path in (drawn, html / "_static" / "styles" / "pydata-sphinx-theme.css"):
            path.write_text(icons(path.read_text(encoding="utf-8"), names), encoding="utf-8")
    for path in html.glob("*.html"):
        text = pictures_when_seen(path.read_text(encoding="utf-8"))
        path.write_text(text if path.name == "search.html" else without_search(text), encoding="utf-8")
    letters = html / "_static" / "mathjax" / FONT
    letters.write_text(glyphs(letters.read_text(encoding="utf-8"), pages), encoding="utf-8")


def pictures_when_seen(page: str) -> str:
    """A page whose pictures, but for the first, are loaded when a reader comes near them."""
    first, *others = re.split(r"(?=<img )", page)
    later = [
        part if "loading=" in part.partition(">")[0] else part.replace("<img ", '<img loading="lazy" ', 1)
        for part in others[1:]
    ]
    return "".join([first, *others[:1], *later])


def without_search(page: str) -> str:
    """A page without the index of all pages: the field for a search leads to search.html, which has it."""
    return re.sub(r'<script src="(?:_static/searchtools|_static/language_data|searchindex)\.js"></script>\s*', "", page)


def copy_mathjax(static: Path) -> None:
    """The files of MathJax that a page loads, whole, to `static`/mathjax."""
    source = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    for name in MATHJAX:
        place = static / "mathjax" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, place)


def icons(text: str, names: Collection[str]) -> str:
    """Font Awesome's script, or its rules of style, with these icons alone."""
    return _RULE.sub(_if_in(names), _ICON.sub(_if_in(names), text))


def _if_in(names: Collection[str]) -> Callable[[re.Match[str]], str]:
    return lambda icon: icon[0] if icon[1].strip('"') in names else ""


def glyphs(font: str, pages: str) -> str:
    """MathJax's font without the alphabets that no command in the text of the pages asks for."""
    unused = [parts for names, parts in _ALPHABETS.items() if not re.search(rf"\\(?:{names})(?![a-zA-Z])", pages)]
    variants = {variant for names, _ in unused for variant in names}
    ranges = [between for _, places in unused for between in places]

    def kept(glyph: re.Match[str]) -> str:
        return "" if any(first <= int(glyph[1]) < behind for first, behind in ranges) else glyph[0]

    def module(found: re.Match[str]) -> str:
        return found[1] + (_GLYPH.sub("", found[3]) if found[2] in variants else _GLYPH.sub(kept, found[3]))

    return re.sub(
        r"(T\.(\w+)=\(0,\w+\.AddPaths\)\()((?:(?!T\.\w+=\(0,\w+\.AddPaths\)).)*)", module, font, flags=re.DOTALL
    )
