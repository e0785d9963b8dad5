"""The reference: everything public is on a page, with its signature, and has a docstring that is shown as it reads."""

import inspect
import re
from importlib import import_module

import pytest

from advlib.press import reference, site

REFERENCE = reference.Reference()
PAGES = {room: REFERENCE.page(room) for room in reference.ROOMS}
ENTRIES = [(module, e) for module, found in REFERENCE.entries.items() for e in found]
METHODS = [module for module, _ in ENTRIES if "." not in module]


def public(module):
    """The functions and classes that a module defines for others, as Python has them."""
    found = import_module(f"advlib.{module}")
    return {
        name
        for name, value in vars(found).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == found.__name__
    }


@pytest.mark.parametrize("module", sorted({*METHODS}))
def test_every_method_is_on_its_page(module):
    shown = {e.place.rpartition(".")[2] for of, e in ENTRIES if of == module}
    assert public(module) <= shown
    assert all(f"\n### {name}\n" in PAGES["methods"] for name in public(module))


def test_every_room_has_a_page():
    rooms = {p.name for p in reference.PACKAGE.iterdir() if (p / "__init__.py").is_file()}
    assert rooms | {"methods"} == set(PAGES)
    assert all(re.match(name, f"api_{room}") for name, room in zip(site.PARTS["Reference"], PAGES, strict=True))


def test_nothing_public_is_without_a_docstring():
    assert [e.place for _, e in ENTRIES if not e.docstring.strip()] == []


def test_labels_are_unique_and_links_lead_to_them():
    text = "\n".join(PAGES.values())
    labels = re.findall(r"(?m)^\((api-.*)\)=$", text)
    assert len(labels) == len(set(labels)) == len(ENTRIES)
    assert set(re.findall(r"\]\(#(api-[^)]*)\)", text)) <= set(labels)


@pytest.mark.parametrize("name", ["mi_fgsm", "pgd", "taig", "lgv"])
def test_a_signature_is_the_real_one(name):
    from advlib import attacks

    shown = next(e for _, e in ENTRIES if e.place == f"attacks.{name}")
    assert list(shown.parameters) == list(inspect.signature(getattr(attacks, name)).parameters)
    assert "eps: float = " in shown.signature and "/ 255" in shown.signature


def test_a_name_is_one_that_can_be_called():
    names = {e.place: e.name for _, e in ENTRIES}
    assert names["loop.attack"] == "al.attack" and names["core.norms.l2_norm"] == "al.norms.l2_norm"
    assert names["defenses.transformations.JPEG"] == "al.defenses.JPEG"


# --- docstrings ------------------------------------------------------------------------------------------------------


def test_parameters_become_a_list_and_formulas_stay():
    docstring = """What it does, of x_t and y:

        a * b - c

    r: how far, in [0, 1] units, "l2" or not; beta, gamma: weights. 0 is `f`. Raises ValueError for r: 0.
    """
    assert reference.markdown(docstring, ("r", "beta", "gamma"), {"f": "api-f"}).split("\n\n") == [
        r"What it does, of x\_t and y:",
        "```text\na * b - c\n```",
        '- `r`: how far, in \\[0, 1\\] units, `"l2"` or not\n- `beta`, `gamma`: weights. 0 is [`f`](#api-f).',
        "Raises ValueError for r: 0.",
    ]


@pytest.mark.parametrize("text", ["- 2 g0", "<b>", "$a$ and $b$", "# a", "a_b_c *d e", "1. a", "{x}`y`", "| a | b |"])
def test_text_is_no_markup(text):
    MarkdownIt = pytest.importorskip("markdown_it").MarkdownIt

    html = MarkdownIt("commonmark").enable("table").render(reference._inline(text.replace("`", ""), {}))
    assert re.fullmatch(r"<p>[^<]*</p>\n", html)


def test_equations_lead_to_their_functions():
    text = REFERENCE.linked("| `al.norm_penalty` | `al.no_such` | [`al.attack`](#there) |")
    assert (
        text == "| [`al.norm_penalty`](#api-function-gradients-norm-penalty) | `al.no_such` | [`al.attack`](#there) |"
    )
