"""The site's own pages and what it does to the chapters' cells: numbers from the data, folding, heads, launching,
weight."""

import json
import re
import subprocess
import sys

import nbformat
import pytest

from advlib.bench import chapters, claims, leaderboard
from advlib.bench.differences import Difference
from advlib.files.paths import NOTEBOOKS, RESULTS
from advlib.press import cells, home, launch, results_page, run, tables, weight, zoo_page
from advlib.zoo import weights, witnesses

CHAPTER = run.read_chapter(chapters.select(["02"], NOTEBOOKS)[0])


@pytest.fixture(scope="module")
def boards():
    return leaderboard.standings()


# --- tables ----------------------------------------------------------------------------------------------------------


def test_a_table_escapes_its_text_and_sorts_by_values():
    shown = tables.table(
        "<c>",
        ["a", "b"],
        [("g<", [["<x>", tables.Number(1.5, "1.5 <")]]), ("", [["y", tables.link("t", "u?a&b")]])],
        "t",
    )
    assert "<caption>&lt;c&gt;" in shown and '<td data-value="1.5">1.5 &lt;</td>' in shown
    assert '<th scope="colgroup" colspan="2">g&lt;</th>' in shown and '<a href="u?a&amp;b">t</a>' in shown
    assert '<table class="sortable" data-name="t">' in shown and "<x>" not in shown
    assert "sortable" not in tables.table("c", ["a"], [("", [["x"]])])


def test_a_gain_is_marked_where_its_interval_leaves_out_zero():
    shown = [
        tables.gain(*ends).shown for ends in ((2.0, 1.0, 3.0), (-2.0, -3.0, -1.0), (1.0, -1.0, 3.0), (-0.04, -1, 1))
    ]
    assert shown == ["+2.0 ▲ [+1.0, +3.0]", "-2.0 ▼ [-3.0, -1.0]", "+1.0 [-1.0, +3.0]", "+0.0 [-1.0, +1.0]"]


# --- first page ------------------------------------------------------------------------------------------------------


def test_the_findings_hold_in_the_committed_results(boards):
    """What the first page says in words, as signs of intervals: whoever commits other results rewrites it."""
    row = home._row
    for name, small in (("imagenet", "cifar10"),):
        assert row(boards[name], "EM-FGSM, ball", 16.0).low > 0 and row(boards[small], "EM-FGSM, ball", 4.0).low > 0
        assert not row(boards[name], "EM-FGSM", 16.0).clear and not row(boards[small], "EM-FGSM", 4.0).clear
        assert row(boards[name], "DIM+SIM", 16.0).low > 0 > row(boards[small], "DIM+SIM", 4.0).high
        assert not row(boards[name], "MI-FGSM+GNP", 16.0).clear
    one_step = "MI-FGSM, backward, one step", "MI-FGSM, 2T"
    assert home.between("3.5", "imagenet", 16.0, *one_step).low > 0
    assert home.between("3.5", "cifar10", 4.0, *one_step).low <= 0
    assert row(boards["smooth"], "PGD on LRS-2", 4.0, "defended").low > 0
    for table, of in (("4.4", "defended"), ("4.2", "undefended")):
        assert not home.between(table, "imagenet", 16.0, "PGD+LRS-2", "PGD", of).clear
    assert not row(boards["smooth"], "PGD on LRS-2", 4.0).clear
    assert home._training(claims.GEOMETRY, "Hessian trace").high < 0
    assert not home._training(claims.TRAINING, "test accuracy (%)").clear


def test_the_first_page_has_the_evidence_three_doors_and_the_top_of_two_boards(boards):
    page = home.markdown(boards)
    for what, _, *numbers in home.evidence(boards):
        assert what in page and all(not isinstance(n, tables.Number) or n.shown in page for n in numbers)
    assert re.findall(r":link: (\w+)", page) == ["00_start_here", "readme", "instructors"]
    for key, eps in (("imagenet", 16.0), ("cifar10", 4.0)):
        rows = boards[key]
        best = rows[(rows.kind == "undefended") & (rows.eps_255 == eps)].sort_values("value").iloc[-5:]
        assert all(
            f'<th scope="row">{row.attack}</th><td data-value="{row.value:g}">' in page for row in best.itertuples()
        )


def test_what_was_not_measured_is_a_dash():
    assert home.points(None) == "–" and home.points(Difference(1.0, 0.5, 1.5, "paired")).shown == "+1.0 ▲ [+0.5, +1.5]"
    assert home.between("9.9", "cifar10", 4.0, "a", "b") is None


# --- zoo -------------------------------------------------------------------------------------------------------------


def test_the_zoo_has_every_network_with_accuracy_weights_and_recipe():
    page = zoo_page.markdown()
    for name, facts in weights.manifest().items():
        row = re.search(rf'<tr><th scope="row">{name}</th>.*?</tr>', page)[0]
        assert f">{100 * facts['accuracy']:.1f}</td>" in row and facts["sha256"] in row
        assert f"{facts['recipe']['epochs']} epoch" in row and f"{facts['parameters']:,}" in row
    full = json.loads((RESULTS / "gpu/full_size/networks.json").read_text(encoding="utf-8"))
    assert all(f'<th scope="row">{facts["network"]}</th>' in page for facts in full)
    assert all(f'<th scope="row">{name}</th>' in page for name in witnesses.WITNESSES)


def test_a_recipe_in_words():
    recipe = {"epochs": 1, "batch_size": 64, "lr": 0.1, "augment": ["crop", "flip"], "optimizer": "adam"}
    recipe |= {"objective": "GuidedDenoising(eps=0.1)", "wrapper": {"name": "SAM", "rho": 0.1}}
    said = "1 epoch, batches of 64, learning rate 0.1, crop and flip, guided denoising, SAM, Adam"
    assert zoo_page.in_words(recipe) == said
    plain = {"epochs": 2, "batch_size": 1, "lr": 0.5, "objective": "Classification()", "wrapper": None}
    assert zoo_page.in_words(plain) == "2 epochs, batches of 1, learning rate 0.5"


# --- results ---------------------------------------------------------------------------------------------------------


def test_numbers_of_other_data_or_budgets_are_not_subtracted():
    same = results_page._html(claims.compare("2.1", "laptop", "imagenet"), "c", "n", "ImageNet")
    rows = claims.compare("2.1", "laptop", "imagenet")
    assert all(f'<td data-value="{row.difference:g}">' in same for row in rows.itertuples())
    other = claims.compare("2.1", "laptop", "cifar10")
    shown = results_page._html(other, "c", "n", "CIFAR-10")
    assert len(other) > 5 and not any(f'data-value="{row.difference:g}"' in shown for row in other.itertuples())
    assert f'data-value="{other.ours.iloc[0]:g}"' in shown


def test_every_table_has_its_rows_as_a_file_and_agreement_is_explained(committed_results):
    page = committed_results
    blocks = re.findall(r'<section class="result".*?</section>', page, re.DOTALL)
    assert len(blocks) > 50
    for block in blocks:
        files = re.findall(r'href="csv/([^"]+)"', block)
        assert files and all((RESULTS / f).is_file() or (RESULTS.parent / f).is_file() for f in files)
    for name in (claims.SAME, claims.MIXED, claims.REVERSED, claims.OPEN):
        assert f'<span class="order-{name.replace(" ", "-")}">{name}</span>: ' in page
        assert f'<option value="{name.replace(" ", "-")}">' in page
    figures = results_page.figures()
    assert all(f"figures/{p.parent.name}/{p.name}" in figures for p in results_page.FIGURES.glob("*/*.svg"))


# --- cells -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "folds"),
    [
        ("import a\nfrom b import c", True),
        ('SETTINGS = {\n"a": 1,\n"b": 2}\nRUN = begin(SETTINGS)', True),
        ("fig, ax = plt.subplots()\nax.plot(x)\nfig", True),
        ("fig = al.plotting.curves(rows)\nal.plotting.save(fig)\nfig", True),
        ("g = al.gradient(f)\nadv = attack(x, g)\nassert adv.min() >= 0\nfig = plt.figure()", False),
        ("N = compute(3)", False),
        ("%magic", False),
        ("", False),
    ],
)
def test_code_that_sets_up_or_draws_is_folded(code, folds):
    assert cells.sets_up_or_draws(code) is folds
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    assert cells.folded(cells.folded(notebook)).cells[0].metadata.get("tags", []) == ([cells.FOLDED] if folds else [])


def test_parameters_stay_open():
    cell = nbformat.v4.new_code_cell("N = 3", metadata={"tags": ["parameters"]})
    assert cells.folded(nbformat.v4.new_notebook(cells=[cell])).cells[0].metadata.tags == ["parameters"]


def test_heads_are_in_words():
    told = ["n", "ci_low", "gradient_norm: mean", "all images (asr_all)", "unknown_name", "MI-FGSM", "eps_255"]
    words = ["images", "95 %, from", "gradient norm: mean", "all images", "unknown_name", "MI-FGSM", "budget (1/255)"]
    assert [cells.in_words(head) for head in told] == words
    html = '<th>n</th><th class="x">ci_high</th><td>n</td>'
    output = nbformat.v4.new_output("display_data", data={"text/html": html})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[output])])
    shown = cells.worded(notebook).cells[0].outputs[0].data["text/html"]
    assert shown == '<th>images</th><th class="x">95 %, to</th><td>n</td>'


# --- launching -------------------------------------------------------------------------------------------------------


def test_one_setting_turns_the_links_on(tmp_path):
    setting = tmp_path / "CITATION.cff"
    setting.write_text('title: "x"\nrepository-code: "https://github.com/some/book.git"\n', encoding="utf-8")
    told = launch.links(CHAPTER, launch.address(setting))
    assert f"https://mybinder.org/v2/gh/some/book/HEAD?labpath=notebooks/{CHAPTER.source.stem}.ipynb" in told
    assert "https://colab.research.google.com/github/some/book/blob/HEAD/book/colab.ipynb" in told
    setting.write_text('title: "x"\n', encoding="utf-8")
    assert launch.address(setting) == "" and "repository-code" in launch.links(CHAPTER, "")


def test_colabs_notebook_is_that_of_the_address():
    """Else: python -m advlib launch."""
    assert nbformat.read(launch.COLAB, as_version=4) == launch.colab(launch.address())


def test_a_download_says_what_it_needs_and_keeps_the_chapter():
    notebook = nbformat.read(CHAPTER.source.with_suffix(".ipynb"), as_version=4)
    found = launch.portable(notebook, CHAPTER, "https://github.com/some/book")
    nbformat.validate(found)
    assert "Python 3.11" in found.cells[0].source and "`imagenet` has to be brought" in found.cells[0].source
    assert found.cells[2:] == notebook.cells and len(notebook.cells) == len(found.cells) - 2


FAKE = """
import importlib.util, pathlib, subprocess, sys
calls = []
def run(command, check):
    calls.append(command)
    if command[0] == "git":
        package = pathlib.Path(command[-1], "advlib")
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("A = 1")
subprocess.run = run
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "advlib" else found(name)
"""


def test_the_first_cell_fetches_installs_and_imports(tmp_path):
    code = (
        FAKE + launch.setup("https://github.com/some/book").source + "import advlib; assert advlib.A == 1; print(calls)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    clone, install = eval(done.stdout)
    assert (
        clone[:2] == ["git", "clone"]
        and "https://github.com/some/book" in clone
        and install[1:4] == ["-m", "pip", "install"]
    )
    none = subprocess.run(
        [sys.executable, "-c", FAKE + launch.setup("").source], cwd=tmp_path, capture_output=True, text=True
    )
    assert none.returncode == 1 and "no address" in none.stderr


def test_the_first_cell_does_nothing_in_a_checkout():
    exec(launch.setup("").source, {})


# --- weight ----------------------------------------------------------------------------------------------------------

ICONS = 'var b={"used":[1,2,["alias"],"f1","M 1"],other:[1,2,[],"f2",["M","N"]],last:[1,2,[],"f3","M"]},c=1'


def test_icons_that_no_page_shows_are_left_out():
    assert weight.icons(ICONS, {"used"}) == 'var b={"used":[1,2,["alias"],"f1","M 1"],},c=1'
    rules = '.fa-used{--fa:"\\f1"}.fa-other{--fa:"\\f2"}.x{color:red}'
    assert weight.icons(rules, {"used"}) == '.fa-used{--fa:"\\f1"}.x{color:red}'
    assert weight.icons("another script", {"used"}) == "another script"


FONT = (
    'a;T.bold=(0,H.AddPaths)(V.bold,{33:"B"},{});b;'
    f'T.normal=(0,H.AddPaths)(V.normal,{{65:"A",{0x1D400}:"b",{0x1D504}:"f"}},{{}})'
)


def test_pictures_below_the_first_are_loaded_when_seen():
    page = '<p>a</p><img src="1"><p>b</p><img alt=">" src="2"/><img loading="eager" src="3">'
    later = '<p>a</p><img src="1"><p>b</p><img loading="lazy" alt=">" src="2"/><img loading="eager" src="3">'
    assert weight.pictures_when_seen(page) == later and weight.pictures_when_seen("<p>none</p>") == "<p>none</p>"


def test_only_the_page_of_searches_has_the_index():
    index, other = '<script src="searchindex.js"></script>', '<script src="x.js"></script>'
    page = f'<script src="_static/searchtools.js"></script>\n{index}{other}'
    assert weight.without_search(page) == other


def test_alphabets_stay_if_a_formula_asks_for_them():
    plain = weight.glyphs(FONT, r"\mathbb{R}")
    assert '65:"A"' in plain and '"B"' not in plain and '"b"' not in plain and '"f"' not in plain
    bold = weight.glyphs(FONT, r"\mathbf{w} \frakx")
    assert '"B"' in bold and '"b"' in bold and '"f"' not in bold
    assert weight.glyphs(FONT, r"\boldsymbol w \mathfrak g") == FONT
