"""The site: what is done to a chapter's text, the page of results, and, where there is a browser, every page in it."""

import re
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlparse

import jupytext
import nbformat
import pandas as pd
import pytest
from conftest import needs_browser

from advlib.bench import chapters, claims, results
from advlib.bench.differences import Difference
from advlib.files.paths import FIGURES, NOTEBOOKS
from advlib.press import markdown, results_page, run, site

SOURCES = chapters.sources(NOTEBOOKS)
BIBLIOGRAPHY = markdown.titles((site.SOURCE / "references.bib").read_text(encoding="utf-8"))
needs_sphinx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("sphinx", "myst_nb", "sphinx_revealjs")),
    reason="no Sphinx: pip install 'advlib[book]'",
)


# --- text ------------------------------------------------------------------------------------------------------------


def test_displayed_equations_become_targets():
    text = "so that\n$$a \\tag{2.1}$$\n$$b\n\\tag{2.2, 2.3}$$\n\nand $$c$$ has none"
    expected = "so that\n\n(eq-2-1)=\n(eq-2-2)=\n(eq-2-3)=\n$$a"
    assert markdown.anchored(text).startswith(expected) and markdown.anchored("$$c$$") == "$$c$$"
    assert markdown.equations(text) == {"2.1", "2.2", "2.3"}


def test_mentions_of_known_equations_become_links():
    text = "eq. 4.9 and 4.10, `eq. 4.9`, $$eq. 4.9$$\n# Eq. 4.9\n[x](#A-Heading)"
    told = markdown.linked(text, {"4.9"})
    assert told == "eq. [4.9](#eq-4-9) and 4.10, `eq. 4.9`, $$eq. 4.9$$\n# Eq. 4.9\n[x](#a-heading)"


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_every_reference_of_a_chapter_is_in_the_bibliography(source):
    cells = [c.source for c in jupytext.read(source, fmt="py:percent").cells if c.cell_type == "markdown"]
    (section,) = [c.partition("## References")[2] for c in cells if "## References" in c]
    items = re.split(r"(?m)^(?=- )", section)[1:]
    assert items and [item for item in items if not markdown.works(item, BIBLIOGRAPHY)] == []


def test_a_work_is_known_by_its_title_or_in_italics_by_its_first_part():
    known = {"a": "Deep nets", "b": "ASAM: adaptive minimization"}
    assert markdown.works("- A. Author. Deep\n  nets. *Venue*, 2020.", known) == ["a"]
    assert markdown.works("- B. Author, *ASAM*, 2021", known) == ["b"]
    assert markdown.works("- B. Author, something on ASAM", known) == []
    assert markdown.cited("x\n## References\n\n- *ASAM*\n- other\n", known).endswith("- *ASAM* {cite:p}`b`\n- other\n")


def test_alternative_text_says_figure_caption_and_section():
    code = 'al.plotting.save(fig, f"fig_4_1_loss_surface_{dataset}", RUN)\nfig'
    alt = markdown.figure_alt(code, "The surface", "*Two directions,\nn = 3.* More")
    assert alt == "Figure 4.1: loss surface, Two directions, n = 3, in the section 'The surface'"
    assert markdown.figure_alt("fig", "", "") == "Figure"


@pytest.mark.parametrize("path", sorted(FIGURES.glob("*/*.svg")), ids=lambda p: p.stem)
def test_committed_figures_have_a_number_and_a_name(path):
    assert re.fullmatch(r"Figure [\dA][\w.]*: [\w ,]+", markdown.stem_alt(path.stem))


# --- results ---------------------------------------------------------------------------------------------------------


def test_order_counts_only_clear_differences():
    rows = pd.DataFrame({"name": list("abcd"), "paper": [10, 20, 30, 40]})
    points = dict(zip("abcd", [11, 21, 31, 2], strict=True))

    def within(half):
        def difference(first, second):
            between = points[first] - points[second]
            return Difference(between, between - half, between + half, "paired")

        return difference

    assert claims.order(rows, within(1)) == [claims.MIXED, claims.MIXED, claims.MIXED, claims.REVERSED]
    assert claims.order(rows, within(9.5)) == [claims.SAME, claims.MIXED, claims.MIXED, claims.REVERSED]
    assert claims.order(rows.iloc[:3], within(1)) == [claims.SAME] * 3
    assert claims.order(rows, within(50)) == [claims.OPEN] * 4
    absent = rows.assign(paper=[10, float("nan"), 30, 30])
    assert claims.order(absent, within(1)) == [claims.MIXED, "", claims.SAME, claims.REVERSED]


def test_each_budget_stands_beside_the_nearest_printed_one():
    rows = claims.compare("3.1", "laptop", "cifar10")
    assert set(zip(rows.eps_255, rows.setting, strict=True)) == {
        (4.0, "ImageNet, 4/255"),
        (8.0, "ImageNet, 8/255"),
        (16.0, "ImageNet, 16/255"),
    }
    assert (rows.difference == rows.ours - rows.paper).all() and (rows.ci_low <= rows.ours).all()


def test_training_is_the_mean_over_seeds_with_its_interval(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    path = results.result_path("5.2", "laptop", "cifar10")
    kept = results.ResultTable(path, "5.2", "laptop", "cifar10", "cpu", 0, {}, key=("source", "attack"))
    for seed in range(3):
        for name, values in (("SGD", (80.0, 700.0)), ("SAM", (85.0, 300.0)), ("other", (1.0, 1.0))):
            cell = {"source": f"seed {seed}", "attack": name, "target": "test", "eps_255": float("nan"), "n": 100}
            found = [{"metric": m, "value": v + seed} for m, v in zip(("accuracy", "trace"), values, strict=True)]
            kept.add([cell | row for row in found])
    rows = claims.compare("5.2", "laptop", "cifar10").set_index("name")
    assert list(rows.index) == ["SGD", "SAM"] and rows.ours.tolist() == [81.0, 86.0]
    assert rows.ci_high["SGD"] == pytest.approx(81 + 4.303 / 3**0.5, abs=1e-3)
    assert rows.order.tolist() == [claims.SAME] * 2 and set(rows.judged) == {"Student over seeds"}
    geometry = claims.compare("5.5", "laptop", "cifar10")
    assert set(geometry.metric) == {"test accuracy (%)", "Hessian trace"} and set(geometry.name) == {"SGD", "SAM"}


def test_results_page_has_every_committed_table_and_says_which_are_missing(committed_results):
    page = committed_results
    for path in results.RESULTS.rglob("table_[234]_?.csv"):
        table = path.stem.removeprefix("table_").replace("_", ".")
        assert f"Table {table}, {path.parent.name}, {path.parent.parent.name} scale" in page
    absent = page.partition("### Not measured")[2].partition("## Tables that")[0]
    assert "5.4" in absent and "2.1" not in absent
    own = page.partition("## Tables that")[2]
    assert "Table 2.6, imagenet, laptop scale" in own and "Table 2.1" not in own
    row = re.search(r'<th scope="row">sigma 2, in the ball</th>.*?</tr>', own.partition("Table 2.6, imagenet")[2])[0]
    gains = claims.gains(results.mark_white_box(results.committed("2.6", "laptop", "imagenet")), "sigma 0")
    gain = gains.set_index("attack").loc["sigma 2, in the ball"]
    assert f">{gain.points:+.1f}" in row and f"<td>{gain.images.removeprefix('n = ')}</td>" in row


def test_results_page_escapes_what_a_run_wrote(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path / "committed")  # what is there takes long, and no part in this
    row = {"source": "<script>x</script>", "attack": "a", "target": "b", "eps_255": 8, "metric": "asr"}
    path = tmp_path / "smoke" / "shapes" / "tables" / "02" / "table_2_1.csv"
    results.ResultTable(path, "2.1", "smoke", "shapes", "cpu", 0, {}).add([row | {"value": 1.5, "n": 2}])
    (path.parent / "table_2_1.old.csv").write_text("set aside\n", encoding="utf-8")
    (path.parent / "speed.csv").write_text("attack,seconds\nsim,1.5\n", encoding="utf-8")
    (path.parent / "<img onerror=x>.csv").write_text("attack\nsim\n", encoding="utf-8")
    bad = path.parent.with_name('"><img onerror=y>')
    bad.mkdir()
    (bad / "one.csv").write_text("attack,scale,dataset\nsim,<img onerror=z>,<i>\n", encoding="utf-8")
    page = results_page.markdown(tmp_path / "smoke" / "shapes")
    assert "<img" not in page and "<i>" not in page and "&lt;img onerror=x&gt;" in page
    assert "<script" not in page and "&lt;script&gt;x" in page and 'data-scale="smoke"' in page
    assert "set aside" not in page and "<td>sim</td>" in page
    (path.parent / "empty.csv").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="empty.csv is no table"):
        results_page.markdown(tmp_path / "smoke" / "shapes")


# --- the site --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_box_names_command_parameters_and_files(source):
    chapter = run.read_chapter(source)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title")])
    told = site.page(notebook, chapter, site.Targets({}, ())).cells[0].source
    command, scale, dataset, given = re.search(
        r"python -m advlib run (\S+) --scale (\S+) --dataset (\S+) -p (\S+)\n", told
    ).groups()
    assert command == chapter.number and dataset in chapter.datasets
    assert run.settle(chapter, scale, dataset, [given])  # as typed, it is accepted
    assert f"downloads/{chapter.source.stem}.ipynb" in told
    assert all(f"`{name}`" in told for name in chapter.parameters)


def test_a_page_shows_committed_figures_where_the_site_has_them():
    text = "![what one sees](../figures/05/fig_5_3_two_passes.svg)"
    cells = [nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_markdown_cell(text)]
    page = site.page(nbformat.v4.new_notebook(cells=cells), run.read_chapter(SOURCES[0]), site.Targets({}, ()))
    assert page.cells[1].source == "![what one sees](figures/05/fig_5_3_two_passes.svg)"


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_figures_that_a_chapter_shows_are_committed_and_described(source):
    cells = [c.source for c in jupytext.read(source, fmt="py:percent").cells if c.cell_type == "markdown"]
    for text, address in re.findall(r"!\[(.*?)\]\((.*?)\)", "\n".join(cells), re.DOTALL):
        assert (NOTEBOOKS / address).resolve().is_relative_to(FIGURES) and (NOTEBOOKS / address).is_file(), address
        assert len(text.split()) >= 8, f"{address}: say what one sees"


def test_a_chapter_that_was_never_executed_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(site, "NOTEBOOKS", tmp_path)
    with pytest.raises(chapters.UsageError, match="make reproduce CH=02"):
        site._executed("02_elastic", None)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The first page of the built site. Sphinx's warnings are errors: a link, a citation, a target that is missing."""
    return site.build(folder=tmp_path_factory.mktemp("book"))


@needs_sphinx
def test_site_has_a_page_for_every_chapter_and_stays_small(built):
    pages = {path.stem for path in built.parent.glob("*.html")}
    assert set(PAGES) <= pages
    assert sum(path.stat().st_size for path in built.parent.rglob("*") if path.is_file()) < 60 * 1024**2
    text = (built.parent / "04_lipschitz_regularized_surrogates.html").read_text(encoding="utf-8")
    assert 'id="eq-4-9"' in text and 'href="#eq-4-9"' in text and "download" in text
    assert {path.stem for path in (built.parent / "slides").glob("*.html")} == {path.stem for path in SOURCES}


OTHERS = {
    "index",
    "search",
    *(name for part in ("Evidence", "Behind the book", "Reference") for name in site.PARTS[part]),
}
PAGES = sorted({p.stem for p in SOURCES} | OTHERS)
MATHEMATICS = "[...document.querySelectorAll('.math')].filter((e) => !e.querySelector('mjx-container svg')).length"
NO_TEXT = "[...document.querySelectorAll('img')].filter((e) => !e.alt.trim()).map((e) => e.src.slice(0, 80))"
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
RULES = ["color-contrast", "image-alt", "label", "link-name", "scrollable-region-focusable", "svg-img-alt"]
RENDERED = "() => !window.MathJax || !MathJax.startup || MathJax.startup.promise.then(() => true)"


@needs_sphinx
@needs_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_page_in_a_browser(built, browser, name, theme):
    """From file://, on a narrow screen: no error, nothing from a network, mathematics, texts, width, contrast."""
    from axe_core_python.sync_playwright import Axe

    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=theme, offline=True)
    shown, errors, asked = context.new_page(), [], []
    shown.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    shown.on("pageerror", lambda error: errors.append(str(error)))
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto(built.with_name(f"{name}.html").as_uri())
    shown.wait_for_load_state("load")
    shown.wait_for_function(RENDERED)
    assert errors == [] and [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert shown.evaluate(MATHEMATICS) == 0 and shown.evaluate(NO_TEXT) == [] and shown.evaluate(WIDER) <= 0
    # What is folded is looked at, too: axe takes it for something that lies on what follows.
    shown.evaluate("document.querySelectorAll('details').forEach((e) => (e.open = true))")
    shown.wait_for_timeout(200)  # until the page has heard of it
    found = Axe().run(shown, options={"runOnly": RULES})
    assert [(v["id"], [n["html"][:150] for n in v["nodes"][:3]]) for v in found["violations"]] == []
    context.close()


@needs_sphinx
@needs_browser
def test_results_are_filtered_and_sorted_by_the_address_and_search_finds(built, browser):
    shown = browser.new_page()
    shown.goto(built.with_name("results.html").as_uri())
    every = shown.locator("section.result:visible").count()
    shown.select_option("form.filter select[name=chapter]", "3")
    some = shown.locator("section.result:visible").count()
    assert 0 < some < every and f"{some} of {every} tables" in shown.locator("form.filter output").inner_text()
    shown.select_option("form.filter select[name=order]", "open")
    assert set(shown.locator("section.result:visible tbody tr:visible td:nth-child(2)").all_inner_texts()) == {"open"}
    shown.select_option("form.filter select[name=order]", "")
    table = shown.locator("section.result:visible table").first
    table.locator("thead th:nth-child(4) button").click()
    first = [float(v) for v in table.locator("tbody").first.locator("td:nth-child(4)").all_inner_texts()]
    assert len(first) > 1 and first == sorted(first, reverse=True)
    again = browser.new_page()
    again.goto(shown.url)
    assert "chapter=3" in shown.url and again.locator("section.result:visible").count() == some
    sorted_head = again.locator("section.result:visible table").first.locator("th[aria-sort=descending]")
    assert sorted_head.inner_text().strip().startswith("ours")
    again.close()
    shown.goto(built.with_name("search.html").as_uri() + "?q=Hutchinson")
    shown.wait_for_selector("#search-results li a")
    assert "curvature" in shown.locator("#search-results").inner_text().lower()
    shown.close()


@needs_sphinx
@needs_browser
def test_code_is_whole_is_copied_and_no_page_is_heavy(built, browser):
    """At 1,280 pixels 88 columns fit; the heaviest page, with what it loads at once, weighs less than 2.5 MB."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    for name in ("03_gradient_norm_penalty", "04_lipschitz_regularized_surrogates", "A4_the_field", "results", "index"):
        shown, asked = context.new_page(), set()
        shown.on("request", lambda request, asked=asked: asked.add(request.url.partition("?")[0]))
        shown.goto(built.with_name(f"{name}.html").as_uri())
        shown.wait_for_function(RENDERED)
        files = [Path(unquote(urlparse(url).path)) for url in asked if url.startswith("file:")]
        assert 0.5e6 < sum(file.stat().st_size for file in files) < 2.5e6, name
        if name.startswith("03"):
            wide = "e => { e.textContent = 'x'.repeat(88); return [e.clientHeight, e.scrollWidth - e.clientWidth]; }"
            block = shown.locator(".cell_input pre:visible").first
            code = block.inner_text().strip()
            shown.locator(".cell_input div.highlight:visible button.copy").first.click()
            shown.wait_for_selector("button.copy:text('copied')")
            assert shown.evaluate("navigator.clipboard.readText()").strip() == code
            one = block.evaluate("e => { e.textContent = 'x'; return e.clientHeight; }")
            assert block.evaluate(wide) == [one, 0]
        shown.close()
    context.close()
