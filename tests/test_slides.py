"""The decks: what a slide may hold, its figures, its numbers against the committed rows, each slide in a browser."""

import re
from pathlib import Path

import pandas as pd
import pytest
from conftest import needs_browser

from advlib.bench import chapters, claims, results
from advlib.bench.chapters import UsageError
from advlib.core import intervals, published
from advlib.defenses import secured
from advlib.files.paths import FIGURES, NOTEBOOKS
from advlib.press import slides, weight
from advlib.zoo import nets, weights

SOURCES = {chapters.number(path): path for path in chapters.sources(NOTEBOOKS)}
NUMBERS = list(SOURCES)
MOST_WORDS, MOST_ITEMS, MOST_ROWS = 60, 5, 6
WIDTH, HEIGHT, SMALLEST = 1280, 720, 18  # pixels


def deck(number):
    return slides.source(SOURCES[number]).read_text(encoding="utf-8")


# --- what a slide holds ----------------------------------------------------------------------------------------------


def test_every_chapter_has_slides_and_every_deck_a_chapter():
    assert {path.stem for path in slides.SOURCE.glob("*.md")} == set(NUMBERS)
    assert all(6 <= len(slides.parts(deck(number))) <= 12 for number in NUMBERS)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_deck_begins_with_the_title_of_its_chapter_and_ends_with_exercises(number):
    first, *_, last = slides.parts(deck(number))
    assert first.split("\n")[0] == f"# {chapters.title(SOURCES[number])}" and re.findall(
        r"^(\d)\. .", last, re.MULTILINE
    ) == ["1", "2", "3"]


def words(part):
    """Those on the slide: without formulas, code, figures, the cells of tables and the speaker's notes."""
    hidden = r"<aside.*?</aside>|\$\$.*?\$\$|```.*?```|!\[.*?\]\(.*?\)|\$.*?\$"
    prose = re.sub(hidden, " ", part, flags=re.DOTALL)
    prose = re.sub(r"^(\||\{table).*$", " ", prose, flags=re.MULTILINE)
    return re.findall(r"[^\W\d_][\w'-]*", prose)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_slide_has_one_heading_and_little_else(number):
    for part in slides.parts(deck(number)):
        heading, *rest = part.split("\n")
        assert re.match(r"##? \S", heading) and not [line for line in rest if line.startswith("#")], part
        assert any(line.strip() for line in rest), f"nothing but a heading: {part}"
        items = re.findall(r"^(?:-|\d\.)(.*)$", part, re.MULTILINE)
        assert len(items) <= MOST_ITEMS and all(item.strip() for item in items), part
        assert len(words(part)) <= MOST_WORDS, f"{len(words(part))} words: {part}"
        assert len(re.findall(r"^\| ", part, re.MULTILINE)) - 1 <= MOST_ROWS, part


def test_words_are_those_that_are_read_out():
    part = (
        "## Two words\n\n$$a = b$$\n\n- of $x$ and `y`\n\n| a | b |\n\n![alt](../../figures/f.svg)\n\n{table 2.1, c: d}"
    )
    assert words(part) == ["Two", "words", "of", "and", "y"]


@pytest.mark.parametrize("number", NUMBERS)
def test_figures_are_committed_and_described(number):
    images = re.findall(r"!\[(.*?)\]\((.*?)\)", deck(number))
    for text, address in images:
        assert len(text.split()) >= 8 and (slides.SOURCE / address).resolve().is_relative_to(FIGURES), address
        assert (slides.SOURCE / address).is_file(), address


def test_a_deck_without_its_parts_is_named(tmp_path):
    def write(text):
        (tmp_path / "x.md").write_text(text, encoding="utf-8")
        slides.write(tmp_path / "x.md", tmp_path / "x.html")

    with pytest.raises(UsageError, match="07.md: no such slides"):
        slides.write(slides.source(Path("07_other.py")), tmp_path / "x.html")
    with pytest.raises(UsageError, match="no figure fig_9_9.svg"):
        write("# T\n\n![nine](../../figures/fig_9_9.svg)")
    with pytest.raises(UsageError, match="no row for XX-FGSM; there are MI-FGSM, NI-FGSM, EM-FGSM"):
        write("# T\n\n{table 2.1, 8/255: MI-FGSM, XX-FGSM}")
    with pytest.raises(UsageError, match="no row for MI-FGSM; there are none"):
        write("# T\n\n{table 2.1, 3/255: MI-FGSM}")
    with pytest.raises(UsageError, match="no cifar10 run of this table"):
        write("# T\n\n{table 5.4, 8/255: SAM}")


def test_a_page_has_a_section_for_each_slide_and_escapes_its_title(tmp_path):
    (tmp_path / "x.md").write_text("# A & B\n\none $x_1 < y_2$\n\n---\n\n## C\n\n- two\n", encoding="utf-8")
    slides.write(tmp_path / "x.md", tmp_path / "slides" / "x.html")
    page = (tmp_path / "slides" / "x.html").read_text(encoding="utf-8")
    assert page.count("<section>") == 2 and "<title>A &amp; B</title>" in page and "<li>two</li>" in page
    assert "$x_1 &lt; y_2$" in page and "<!--" not in page


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_a_table_stands_beside_the_thesis_with_what_it_was_measured_on():
    shown = slides.with_tables("{table 4.5, 8/255: original, LRS-F}").split("\n")
    rows = claims.compare("4.5", "laptop", "cifar10").query("eps_255 == 8").set_index("name")
    row = rows.loc["LRS-F"]
    assert shown[3] == f"| LRS-F | {row.paper:.1f} | **{row.ours:.1f}** | {row.ci_low:.1f} to {row.ci_high:.1f} |"
    assert len(shown) == 6 and f"Ours: cifar10, laptop scale, 8/255, n = {row.n}." in shown[-1]


def committed(table):
    return results.committed(table, "laptop", "cifar10")


def success(table, eps=8, targets=None):
    """Mean black-box success of each attack at a budget, over all targets or some, and its passes."""
    rows = results.mark_white_box(committed(table).query("metric == 'asr' and eps_255 == @eps"))
    rows = rows if targets is None else rows[rows.target.isin(targets)]
    return results.black_box(rows).join(rows.groupby("attack").passes.first())


def success_rows(table, eps, names):
    rows = success(table, eps).loc[names]
    return [
        f"| {r.Index} | {r.passes:.0f} | {r.value:.1f} | {r.ci_low:.1f} to {r.ci_high:.1f} |" for r in rows.itertuples()
    ] + [f"n = {rows.n.min()}"]


def gradient_norm_cases():
    """Of Tables 3.1 to 3.3: cases, and those ahead and behind, for four comparisons."""
    undefended, secured = {"3.1": ("I-FGSM", "MI-FGSM"), "3.2": ("DIM", "TIM")}, {"3.3": ("DIM+TIM",)}
    rows = {t: results.mark_white_box(committed(t).query("metric == 'asr'")) for t in undefended | secured}
    lines = []
    for name, bases, form, other in (
        ("GNP with its baseline | undefended", undefended, "+GNP", ""),
        ("GNP with its baseline | secured", secured, "+GNP", ""),
        ("GNP with twice the steps | undefended", undefended, "+GNP", ", 2T"),
        ("the opposite sign with the baseline | undefended", undefended, "+look-ahead", ""),
    ):
        found = [
            results.wins(rows[table][~rows[table].white_box], base + form, base + other)
            for table, names in bases.items()
            for base in names
        ]
        counts = [sum(one[key] for one in found) for key in ("cases", "wins", "losses")]
        lines.append(f"| {' | '.join([name, *map(str, counts)])} |")
    return lines


def smooth_surrogates():
    """Tables 4.5 and 4.1: the networks, and PGD on them, with the control that the thesis leaves out."""
    constants = committed("4.5").query("eps_255 == 8").set_index("attack")
    printed = claims.compare("4.5", "laptop", "cifar10").query("eps_255 == 8").set_index("name").paper
    variants = {"original": "", "LRS-1": "-lrs1", "LRS-2": "-lrs2", "LRS-F": "-lrsf"}
    right = {name: accuracy(variant) for name, variant in variants.items()}
    lines = [f"| {k} | {right[k]} | {constants.value[k]:.1f} | {printed[k]:.2f} |" for k in variants]
    lines.append(f"| adversarial training, 2/255 | {accuracy('-adv')} | {constants.value['adv']:.1f} | – |")

    rates, thesis = (success("4.1", 4), success("4.1", 8)), claims.compare("4.1", "laptop", "cifar10")
    thesis = thesis.pivot(index="name", columns="eps_255", values="paper")
    for name in variants:
        attack = "PGD" if name == "original" else f"PGD+{name}"
        pairs = zip(thesis.loc[attack], (rate.value[attack] for rate in rates), strict=True)
        lines.append(f"| {name} | {' | '.join(f'{paper:.1f} | {ours:.1f}' for paper, ours in pairs)} |")
    small, large = (rate.value["PGD+adv"] for rate in rates)
    lines.append(f"| control, 2/255 | – | {small:.1f} | – | {large:.1f} |")
    widest = max((r.ci_high - r.value).combine(r.value - r.ci_low, max).max() for r in rates)
    return [
        *lines,
        f"n = {constants.n.min()}, accuracy on 10,000",
        f"n = {rates[0].n.min()}; intervals of up to {widest:.0f} points",
    ]


def agreement_of_signs():
    rows = results.committed("4.5", "laptop", "cifar10", stem="agreement_of_signs")
    value = rows.pivot(index="attack", columns="target", values="value")[[claims.UNDEFENDED, claims.TRAINED]]
    widest = (rows.ci_high - rows.value).max()
    return [
        *(f"| {k} | {' | '.join(f'{v:.1f}' for v in value.loc[k])} |" for k in ("original", "LRS-1", "LRS-2", "LRS-F")),
        f"n = {rows.n.min()}; intervals of up to {widest:.1f} points",
    ]


def from_behind():
    rows = results.mark_white_box(results.committed("3.5", "laptop", "imagenet"))
    row = claims.gains(rows, "MI-FGSM").set_index("attack").loc["MI-FGSM, backward, one step"]
    gain = f"{row.points:+.1f} points on MI-FGSM ({row.low:.1f} to {row.high:.1f})"
    return [f"{gain} on ImageNet photographs, 16/255, n = {row.n}"]


def look_aheads():
    rows = claims.gains(results.mark_white_box(committed("2.6").query("eps_255 == 4")), "sigma 0")
    rows = rows[rows.kind == claims.UNDEFENDED].set_index("attack")
    widest = (rows.high - rows.low).max() / 2
    photographs = claims.gains(results.mark_white_box(results.committed("2.6", "laptop", "imagenet")), "sigma 0")
    return [
        *(
            f"| {s} | {rows.points[f'sigma {s}']:+.1f} | {rows.points[f'sigma {s}, in the ball']:+.1f} |"
            for s in (1, 2, 4)
        ),
        f"Photographs: ImageNet-compatible set, {photographs.images.iloc[0]}. CIFAR-10: n = {rows.n.min()}",
        f"n = {rows.n.min()}; intervals of up to {widest:.1f} points",
    ]


def secured_targets():
    """Table 4.4 by kind of target: the print beside ours."""
    ours = results.mark_white_box(committed("4.4").query("metric == 'asr' and eps_255 == 16"))
    names = ["PGD", "PGD+LRS-1", "PGD+LRS-2", "PGD+LRS-F", "TIM", "TIM+LRS-F"]
    printed = published.table("4.4").query("target != @published.AVERAGE")
    means = []
    for kind in (True, False):
        for rows in (printed, ours):
            means.append(results.black_box(rows[rows.target.str.contains("ens") == kind]).loc[names])
    widest = max((m.ci_high - m.value).combine(m.value - m.ci_low, max).max() for m in means[1::2])
    return [
        *(f"| {name} | {' | '.join(f'{m.value[name]:.1f}' for m in means)} |" for name in names),
        f"n = {ours.n.min()}; intervals of up to {widest:.0f} points",
    ]


def accuracy(variant, net="densenet"):
    entry = weights.manifest()[f"cifar10/{net}{variant}"]
    assert entry["n"] == 10_000
    return f"{100 * entry['accuracy']:.1f}"


def equal_cost():
    rows = committed("5.2")
    mean = rows.groupby(["attack", "metric"]).value.mean()
    passes = rows.groupby("attack").passes.first()
    n = rows.groupby("metric").n.min()
    return [
        f"| {name} | {passes[name]:.0f} | {mean[name, 'accuracy']:.1f} | {mean[name, 'trace']:.0f} |"
        for name in ("CR-SAM", "SAM, 1.5 x epochs", "SGD, 3 x epochs")
    ] + [f"n = {n['accuracy']} (trace: {n['trace']})"]


def three_perspectives():
    kinds = {
        "undefended": ["resnet", "vgg", "wrn", "resnext", "pyramidnet", "resnet20*", "resnet44*"],
        "trained": ["vgg-pgd", "vgg-ens3", "vgg-ens4", "pyramidnet-ens1"],
        "defended": ["JPEG", "R&P", "NRP"],
    }
    found = [success("6.1", targets=targets) for targets in kinds.values()]
    names = ["MI", "MI+EM-RE", "MI+GNP", "MI+LRS-F", "MI+EM-RE+LRS-F"]
    widest = max(max(r.ci_high - r.value, r.value - r.ci_low) for f in found for r in f.loc[names].itertuples())
    return [
        f"| {name} | {found[0].passes[name]:.0f} | {' | '.join(f'{f.value[name]:.1f}' for f in found)} |"
        for name in names
    ] + [f"n = {found[0].n.min()}", f"up to {widest:.0f} points"]


def flat_minima():
    rates, constants = success("6.3", 4), committed("6.4").set_index("attack")
    nets = {"SGD": "", "SAM": "-sam", "CR-SAM": "-crsam"}
    lines = []
    for name, variant in nets.items():
        r = rates.loc[name]
        cells = [name, accuracy(variant, "resnet"), f"{constants.value[name]:.1f}", f"{r.value:.1f}"]
        lines.append(f"| {' | '.join(cells)} | {r.ci_low:.1f} to {r.ci_high:.1f} |")
    return [*lines, f"n = {rates.n.min()} (constants: {constants.n.min()}"]


def zoo():
    listed = {name: weights.manifest()[f"cifar10/{name}"] for name in nets.FAMILIES}
    return [f"| {k} | {e['parameters'] / 1000:.0f} | {100 * e['accuracy']:.1f} |" for k, e in listed.items()] + [
        f"{e['recipe']['epochs']} epochs, one seed, n = {e['n']:,}" for e in listed.values()
    ]


def defences():
    clean = committed("A2.1")
    right, silent = (clean[clean.metric == metric].set_index("target") for metric in ("accuracy", "abstained"))
    rows = committed("2.5").query("metric == 'asr_all'")
    wrong = rows[rows.source.str.contains("+", regex=False)].pivot(index="target", columns="attack", values="value")
    shown = ("no defence (vgg)", "JPEG", "NRP", "HGD", "vgg-pgd", "RS")
    return [
        *(
            f"| {k} | {right.value[k]:.1f} | {wrong['MI-FGSM'][k]:.1f} | {wrong['EM-RE-Composite'][k]:.1f} |"
            for k in shown
        ),
        f"n = {right.n.min()}. RS declines to answer on {silent.value['RS']:.1f} %",
        f"n = {rows.n.min()}",
    ]


def speed():
    rows = pd.read_csv(results.RESULTS / "laptop" / "cifar10" / "speed.csv").set_index(["what", "model"]).ratio
    nets = ("small ResNet", "ResNet-50")

    def line(name, *pairs):
        return f"| {name} | {' | '.join(f'{rows[what]:.2f}' for what in pairs)} |"

    ours = ("ours", "ours, folded", "ours, bfloat16")
    return [
        *(line(a, *((f"loop overhead {a}", net) for net in nets)) for a in ("MI", "EM", "DIM", "RE", "SIM")),
        *(line(c, *((f"pass, {c}", net) for net in nets)) for c in ("channels_last", "folded", "bfloat16")),
        *(
            line(a, *((f"{a}: {o} / torchattacks", nets[0]) for o in ours))
            for a in ("PGD", "MIFGSM", "DIFGSM", "SINIFGSM")
        ),
    ]


def the_field():
    shown = {
        "A4.1": ["MI-FGSM", "EM-FGSM, ball", "EMI-FGSM"],
        "A4.5": ["ensemble, logits", "SVRE"],
        "A4.6": ["PGD on LRS-2"],
    }
    lines = []
    for table, attacks in shown.items():
        rows = results.mark_white_box(committed(table).query("eps_255 == 4"))
        found = claims.gains(rows, rows.attack.iloc[0])
        value, passes = (
            found.pivot(index="attack", columns="kind", values="value"),
            found.groupby("attack").passes.max(),
        )
        kinds = (claims.UNDEFENDED, claims.TRAINED, claims.DEFENDED)
        lines += [f"| {a} | {passes[a]:.0f} | {' | '.join(f'{value[k][a]:.1f}' for k in kinds)} |" for a in attacks]
    return [*lines, f"n = {found.n.min()}"]


def wilson_examples():
    low, high = zip(intervals.wilson(60, 100), intervals.wilson(600, 1000), strict=True)
    return [
        f"60 of 100 is {low[0]:.0f} to {high[0]:.0f} % (95 % interval); 600 of 1000 is {low[1]:.0f} to {high[1]:.0f} %"
    ]


WRITTEN = {
    "00": wilson_examples,
    "01": lambda: success_rows("1.1", 8, ["random signs", "FGSM", "I-FGSM", "MI-FGSM", "NI-FGSM"]),
    "02": lambda: [
        f"plain MI-FGSM, which has {success('2.3').value['MI-FGSM']:.1f} %",
        *look_aheads(),
        *success_rows("2.4", 8, [f"{em_re}{name}" for name in ("DIM", "SIM", "Composite") for em_re in ("", "EM-RE-")]),
    ],
    "03": lambda: [
        *success_rows("3.1", 4, ["I-FGSM", "I-FGSM+GNP", "I-FGSM+look-ahead", "I-FGSM, 2T"]),
        *gradient_norm_cases(),
        *from_behind(),
        f"(3.3: {committed('3.3').n.min()})",
    ],
    "04": lambda: [*smooth_surrogates(), *secured_targets(), *agreement_of_signs()],
    "05": equal_cost,
    "06": lambda: [*three_perspectives(), *flat_minima()],
    "A1": zoo,
    "A2": defences,
    "A3": speed,
    "A4": the_field,
}


@pytest.mark.parametrize("number", NUMBERS)
def test_written_numbers_are_those_of_the_committed_rows(number):
    found, expected = deck(number), WRITTEN[number]()
    assert [text for text in expected if text not in found] == []
    lines = [line for line in re.findall(r"^\| .*$", found, re.MULTILINE) if re.search(r"\| [\d.]+ \|", line)]
    assert [line for line in lines if line not in expected] == [], "a row of numbers that no test knows"


NINE, ALL = list(secured.NINE), None


@pytest.mark.parametrize(
    ("table", "eps", "better", "worse", "targets", "least"),
    [
        ("2.1", 8, "NI-FGSM", "MI-FGSM", ALL, 0.5),  # "Looking ahead helps in most pairs"
        ("2.1", 8, "NI-FGSM", "EM-FGSM", ALL, 0.5),  # "One step is enough"
        ("4.1", 8, "PGD+LRS-F", "PGD+adv", ALL, 1),  # "LRS-F is ahead on all seven targets"
        ("2.5", 8, "EM-RE-Composite", "MI-Composite", NINE, 1),  # "EM-RE-Composite is ahead in every case"
        ("2.5", 8, "EM-RE-Composite", "NI-Composite", NINE, 1),
        ("6.3", 4, "SAM", "SGD", ALL, 1),  # "The same direction for all seven targets"
        ("6.3", 4, "CR-SAM", "SGD", ALL, 1),
    ],
)
def test_orders_that_slides_speak_of_are_those_of_the_committed_rows(table, eps, better, worse, targets, least):
    rows = results.mark_white_box(committed(table).query("metric == 'asr' and eps_255 == @eps"))
    rows = rows[~rows.white_box & (rows.target.isin(targets) if targets else True)]
    found = results.wins(rows, better, worse)
    assert found["wins"] >= least * found["cases"] > 0


# --- in a browser ----------------------------------------------------------------------------------------------------

RENDERED = "() => Reveal.isReady() && MathJax.startup && MathJax.startup.promise.then(() => true)"
# Of the slide that is shown: what lies outside of it, has too small a text, no text or no alternative text.
FAULTS = """([width, height, smallest]) => {
  const slide = Reveal.getCurrentSlide(), faults = [];
  const say = (what, e) => faults.push(`${what}: ${e.tagName} ${e.textContent.trim().slice(0, 60)}`);
  for (const e of [slide, ...slide.querySelectorAll("*:not(mjx-container *)")]) {
    const box = e.getBoundingClientRect(), own = [...e.childNodes].some((n) => n.nodeType == 3 && n.data.trim());
    if (box.left < 0 || box.top < 0 || box.right > width + 0.5 || box.bottom > height + 0.5) say("outside", e);
    if (e.clientWidth && e.scrollWidth > e.clientWidth + 1 && !e.querySelector("mjx-container")) say("too wide", e);
    if (own && parseFloat(getComputedStyle(e).fontSize) < smallest) say("small", e);
    if (e.matches("li, h1, h2, td") && !e.textContent.trim()) say("empty", e);
    if (e.tagName == "IMG" && (!e.alt.trim() || !e.naturalWidth || box.height < 240)) say("figure", e);
  }
  if (slide.innerText.includes("$")) say("formula", slide);
  return faults;
}"""


@pytest.fixture(scope="module")
def decks(tmp_path_factory):
    """A folder with all decks, and the scripts that they load."""
    html = tmp_path_factory.mktemp("html")
    slides.copy_reveal(html)
    weight.copy_mathjax(html / "_static")
    for number in NUMBERS:
        slides.write(slides.source(SOURCES[number]), html / "slides" / f"{number}.html")
    return html


@needs_browser
@pytest.mark.parametrize("number", NUMBERS)
def test_slides_in_a_browser(decks, browser, number):
    """From file://: every slide fits, can be read, and asks nothing from a network."""
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, offline=True, reduced_motion="reduce")
    shown, errors, asked = context.new_page(), [], []
    shown.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    shown.on("pageerror", lambda error: errors.append(str(error)))
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto((decks / "slides" / f"{number}.html").as_uri())
    shown.wait_for_function(RENDERED)
    count, faults = len(slides.parts(deck(number))), {}
    assert shown.evaluate("Reveal.getTotalSlides()") == count
    shown.add_style_tag(content="* { transition: none !important; }")
    for place in range(count):
        assert shown.evaluate("Reveal.getIndices().h") == place
        faults[place + 1] = shown.evaluate(FAULTS, [WIDTH, HEIGHT, SMALLEST])
        shown.keyboard.press("ArrowRight")
    assert {place: found for place, found in faults.items() if found} == {}
    assert errors == [] and [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()
