"""Things to drag: their arithmetic is advlib's, their numbers are the committed ones, and in a browser they answer to
keyboard and mouse."""

import html
import json
import re
import shutil
import subprocess

import jupytext
import nbformat
import numpy as np
import pytest
import torch
from conftest import CHROMIUM, needs_browser

from advlib import InputDiversity, RandomErasure, attacks
from advlib.bench import claims, plotting, results
from advlib.bench.chapters import UsageError
from advlib.core.draws import Draw, Stream
from advlib.files.paths import NOTEBOOKS, ROOT, WEIGHTS
from advlib.press import play
from advlib.press.play import budget, cost, erasure, pixels, surfaces
from advlib.zoo.weights import manifest

BOOK = ROOT / "book"
SCRIPTS = BOOK / "_static" / "play"
PLACES = play.places(BOOK / "play.toml")
ENGINE = shutil.which("node") or CHROMIUM
needs_script = pytest.mark.skipif(ENGINE is None, reason="no node and no chromium to run JavaScript in")


def javascript(tmp_path, script, expression):
    """What an expression is in a script of the site, in node or else in chromium."""
    text = f"{(SCRIPTS / f'{script}.js').read_text(encoding='utf-8')}\n"
    if ENGINE == CHROMIUM:
        page = tmp_path / "page.html"
        page.write_text(
            f"<pre></pre><script>{text}document.querySelector('pre').textContent=JSON.stringify({expression})</script>"
        )
        command = [ENGINE, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return json.loads(html.unescape(re.search(r"<pre>(.*)</pre>", shown, re.DOTALL)[1]))
    code = tmp_path / "code.js"
    code.write_text(f"{text}console.log(JSON.stringify({expression}))")
    return json.loads(subprocess.run([ENGINE, str(code)], capture_output=True, text=True, check=True).stdout)


# --- where they stand ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLACES)
def test_the_chapter_has_the_heading_once(name):
    place = PLACES[name]
    for notebook in (
        nbformat.read(NOTEBOOKS / f"{place.page}.ipynb", as_version=4),
        jupytext.read(NOTEBOOKS / f"{place.page}.py", fmt="py:percent"),
    ):
        play.inserted(notebook, place, name, "the drawing")
        (cell,) = (c for c in notebook.cells if "\nthe drawing\n" in c.source)
        assert re.findall(r"(?m)^#+ (.+)$", cell.source.partition("\nthe drawing\n")[0])[-1] == place.after


def test_a_drawing_stands_behind_the_text_below_its_heading():
    place = play.Place("page", "Here", "", "", "")
    cells = [
        nbformat.v4.new_markdown_cell("# Title\n\n## Here\n\ntext\n\n### There\n\nmore"),
        nbformat.v4.new_code_cell("## Here"),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    play.inserted(notebook, place, "name", "BLOCK")
    assert notebook.cells[0].source == "# Title\n\n## Here\n\ntext\n\nBLOCK\n\n### There\n\nmore"
    with pytest.raises(UsageError, match="0 headings 'Nowhere' for name"):
        play.inserted(notebook, play.Place("page", "Nowhere", "", "", ""), "name", "BLOCK")


def test_the_list_of_places_is_whole(tmp_path):
    path = tmp_path / "play.toml"
    path.write_text('[cost]\npage=""\nafter=""\ntitle=""\ntext=""\nstill=""\n')
    with pytest.raises(UsageError, match=r"should have cost, .* and has cost"):
        play.places(path)


def test_scripts_are_small_and_ask_for_nothing():
    for path in SCRIPTS.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 150, path.name
        assert set(re.findall(r"https?://[^\"]+", text)) <= {"http://www.w3.org/2000/svg"}, path.name
        assert not re.search(r"\b(fetch|XMLHttpRequest|import)\b", text), path.name
    named = {script for thing in play.THINGS.values() for script in thing.scripts} | set(play.FRAME)
    assert named == {path.stem for path in SCRIPTS.glob("*.js")}


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_success_and_front_are_those_of_the_committed_table():
    numbers = cost.data()
    assert len(numbers["panels"]) == 6
    panel = numbers["panels"]["undefended, 4"]
    rows = results.mark_white_box(results.committed("A4.1", "laptop", "cifar10"))
    gain = claims.gains(rows, "MI-FGSM").query("attack == 'PGD' and kind == 'undefended' and eps_255 == 4").iloc[0]
    (point,) = (p for p in panel["points"] if p["attack"] == "PGD")
    assert point["value"] == pytest.approx(gain.value, abs=0.01) and point["points"] == pytest.approx(
        gain.points, abs=0.01
    )
    assert point["n"] == 600 and point["passes"] == 10 and point["low"] < point["value"] < point["high"]
    assert "against" not in next(p for p in panel["points"] if p["attack"] == "MI-FGSM")
    best = {p["attack"]: (p["passes"], p["value"]) for p in panel["points"]}
    assert panel["front"] == plotting.pareto(best) and len(set(best)) == len(panel["points"]) > 30


@needs_script
@pytest.mark.parametrize("project", ["none", "ball"])
@pytest.mark.parametrize(("mu", "sigma"), [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (1.0, 2.0), (0.7, 4.0)])
def test_two_pixels_go_where_the_attack_goes(tmp_path, mu, sigma, project):
    chosen = {"eps": 0.2, "alpha": 0.035, "mu": mu, "sigma": sigma, "steps": 12}
    options = json.dumps(chosen | {"start": pixels.START, "project": project == "ball"})
    path = javascript(tmp_path, "pixels.math", f"play.pixels.path({json.dumps(pixels.HILLS)}, {options})")
    expected = pixels.iterates(**chosen, project=project)
    assert np.abs(np.array([path[0]["from"], *(step["to"] for step in path)]) - expected).max() < 1e-5
    assert len(np.unique(expected.round(6), axis=0)) > 6  # it moves
    if sigma == 0:
        x, y = torch.tensor(pixels.START).view(1, 1, 1, 2), torch.zeros(1, dtype=torch.int64)
        same = attacks.mi_fgsm(pixels.TwoPixels(), x, y, eps=0.2, mu=mu, alpha=0.035, steps=12)
        assert np.abs(same.flatten().numpy() - path[-1]["to"]).max() < 1e-5
    outside = (
        max(max(abs(a - s) for a, s in zip(step["ahead"], pixels.START, strict=True)) for step in path) > 0.2 + 1e-9
    )
    assert outside == (project == "none" and sigma > 0)


@needs_script
def test_the_loss_of_two_pixels_is_the_cross_entropy(tmp_path):
    at = [[0.1, 0.9], [0.62, 0.5], [0.8, 0.7]]
    hills = json.dumps(pixels.HILLS)
    found = javascript(
        tmp_path, "pixels.math", f"{at}.map((p) => [play.pixels.loss(p, {hills}), ...play.pixels.gradient(p, {hills})])"
    )
    x = torch.tensor(at, dtype=torch.float64).view(3, 1, 1, 2).requires_grad_()
    loss = torch.nn.functional.cross_entropy(pixels.TwoPixels()(x), torch.zeros(3, dtype=torch.int64), reduction="none")
    (slope,) = torch.autograd.grad(loss.sum(), x)
    assert np.abs(np.array(found) - torch.cat([loss[:, None], slope.flatten(1)], 1).detach().numpy()).max() < 1e-6


@needs_script
@pytest.mark.parametrize("aspect", ["random", 0.3])
@pytest.mark.parametrize(("h", "w"), [(32, 32), (20, 48)])
def test_rectangles_are_those_of_random_erasure(tmp_path, aspect, h, w):
    transform = RandomErasure(s_h=0.6, aspect=aspect)
    u = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
    options = json.dumps({"s_h": 0.6, "aspect": aspect})
    call = f"{u.tolist()}.map(([a, b]) => play.erasure.rectangle({h}, {w}, a, b, {options}))"
    found = torch.tensor(javascript(tmp_path, "erasure.math", call))
    assert torch.allclose(found, torch.stack(transform.rectangle(h, w, u[:, 0], u[:, 1]), 1), rtol=1e-4, atol=1e-4)


@needs_script
def test_draws_are_those_of_the_module(tmp_path):
    index, step, copy = torch.tensor([0, 7, 2**31 + 5]), 3, torch.tensor([0, 4, 2])
    draws = [{"seed": 11, "index": int(i), "step": step, "copy": int(c)} for i, c in zip(index, copy, strict=True)]
    found = javascript(tmp_path, "erasure.math", f"{json.dumps(draws)}.map((d) => play.erasure.uniform(d, 6))")
    assert found == Draw(11, index, step, copy, Stream.TRANSFORM).uniform(6).tolist()


@needs_script
@pytest.mark.parametrize(
    ("name", "options", "transform"),
    [
        ("erase", {"p": 0.9, "s_h": 0.4, "aspect": "random"}, RandomErasure(copies=5, p=0.9)),
        ("erase", {"p": 0.9, "s_h": 0.4, "aspect": 0.3}, RandomErasure(copies=5, p=0.9, aspect=0.3)),
        ("resize", {"p": 0.9, "scale": 1.4}, InputDiversity(copies=5, p=0.9, scale=1.4)),
    ],
)
def test_copies_are_those_that_the_attack_sees(tmp_path, name, options, transform):
    numbers = erasure.data()
    x = budget.pictures({"files": [numbers["file"]]})[0]
    draw = {"seed": numbers["seed"], "index": numbers["index"], "step": 2}
    call = (
        f"[0, 1, 2, 3, 4].map((copy) => play.erasure.{name}({x.flatten().tolist()}, 32, 32, "
        f"{{...{json.dumps(draw)}, copy}}, {json.dumps(options)}))"
    )
    found = torch.tensor(javascript(tmp_path, "erasure.math", call)).view(5, 3, 32, 32)
    expected = erasure.copies(transform, numbers, 2)
    assert (found - expected).abs().max() < 1e-4
    assert ((expected - x).abs().amax((1, 2, 3)) > 0.1).sum() >= 3


def test_images_of_the_budget_are_in_it():
    numbers = json.loads(budget.FILE.read_text(encoding="utf-8"))
    assert budget.FILE.stat().st_size < 200_000 and len(numbers["networks"]) == 6 and numbers["budgets"][0] == 0
    assert numbers["sha256"] == {name: manifest(WEIGHTS)[f"cifar10/{name}"]["sha256"] for name in numbers["networks"]}
    for image in numbers["images"]:
        levels = (255 * budget.pictures(image)).round()
        change = (levels - levels[0]).abs().amax((1, 2, 3)).tolist()
        assert change == numbers["budgets"]  # as far as it may go, and no further
        assert all(answer == image["label"] for answer, _ in image["answers"][0])


@needs_script
def test_worst_loss_is_the_largest_in_the_ball(tmp_path):
    axis = np.linspace(-1, 1, 9)
    bowl = (axis[:, None] + 0.2) ** 2 + 3 * (axis[None] - 0.1) ** 2
    call = f"[0, 0.3, 1].map((r) => play.surfaces.worst({bowl.tolist()}, {axis.tolist()}, r))"
    found = javascript(tmp_path, "surfaces.math", call)
    from scipy.interpolate import RegularGridInterpolator

    angle, length = np.meshgrid(np.linspace(0, 2 * np.pi, 721), np.linspace(0, 1, 101))
    points = np.stack([length * np.sin(angle), length * np.cos(angle)], -1)  # rows are y
    values = RegularGridInterpolator((axis, axis), bowl)(points)
    for one, radius in zip(found, (0, 0.3, 1), strict=True):
        assert one["value"] == pytest.approx(values[length <= radius + 1e-9].max(), rel=2e-3)
        assert np.hypot(*one["at"]) <= radius + 1e-9


def test_surfaces_are_of_the_committed_weights():
    numbers = json.loads(surfaces.FILE.read_text(encoding="utf-8"))
    assert surfaces.FILE.stat().st_size < 50_000 and numbers["axis"][8] == 0
    for surface in numbers["surfaces"]:
        assert surface["sha256"] == manifest(WEIGHTS)[surface["network"]]["sha256"]
        loss = np.array(surface["loss"])
        assert loss.shape == (17, 17) and loss[8, 8] < 1 and loss.min() > 0


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A page of all drawings, as `write` makes it, without the book around it."""
    folder = tmp_path_factory.mktemp("play")
    shutil.copytree(BOOK / "_static", folder / "_static")
    shutil.copy(BOOK / "play.toml", folder)
    for page in {place.page for place in PLACES.values()}:
        shutil.copy(NOTEBOOKS / f"{page}.ipynb", folder)
    play.write(folder)
    blocks = re.findall(r"(?s)```\{raw\} html\n(.*?)```", (folder / f"{play.LIST}.md").read_text(encoding="utf-8"))
    colours = (
        "--pst-color-text-base:#111;--pst-color-background:#fff;--pst-color-border:#ccc;--pst-color-text-muted:#555"
    )
    body = f'<style>:root{{{colours}}}</style><main class="bd-article">{"".join(blocks)}</main>'
    (folder / "page.html").write_text(f'<!doctype html><html lang="en"><title>Page</title>{body}', encoding="utf-8")
    return folder


def test_pages_have_their_drawings_and_what_these_need(written):
    for name, place in PLACES.items():
        cells = nbformat.read(written / f"{place.page}.ipynb", as_version=4).cells
        (found,) = (c.source for c in cells if f'data-play="{name}"' in c.source)
        text = "".join(c.source for c in cells)
        needed = [*play.FRAME, f"{name}.data", *play.THINGS[name].scripts]
        assert all(text.count(f'src="_static/play/{script}.js"') == 1 for script in needed)
        assert all((written / "_static" / "play" / f"{script}.js").is_file() for script in needed)
        assert re.search(rf'<img class="play-still" src="_static/play/{name}.png" alt="[^"]+">', found)
        assert (written / "_static" / "play" / f"{name}.png").stat().st_size < 200_000


@pytest.fixture(scope="module", params=[390, 1280])
def shown(written, browser, request):
    """The page in a browser, at two widths; no error, and nothing asked of a network."""
    context = browser.new_context(viewport={"width": request.param, "height": 900}, offline=True)
    page, errors, asked = context.new_page(), [], []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda sent: asked.append(sent.url))
    page.goto((written / "page.html").as_uri())
    page.wait_for_function("[...document.querySelectorAll('.play-told')].every((e) => e.textContent)")
    yield page
    assert errors == [] and [url for url in asked if not url.startswith(("file:", "data:"))] == []
    context.close()


def told(page, name):
    """The sentence below a drawing, when it has been drawn."""
    page.wait_for_timeout(120)
    return page.locator(f"#play-{name} .play-told").inner_text()


def press(page, name, label, key, times=1):
    control = page.locator(f"#play-{name}").get_by_label(label)
    control.focus()
    for _ in range(times):
        control.press(key)


SMALL = """[...document.querySelectorAll('.play *')].filter((e) => e.childNodes.length && e.getClientRects().length
  && [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())
  && parseFloat(getComputedStyle(e).fontSize) < 9).map((e) => e.outerHTML.slice(0, 80))"""
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@needs_browser
def test_drawings_fit_the_page_and_have_labels(shown):
    from axe_core_python.sync_playwright import Axe

    assert shown.evaluate(WIDER) <= 0 and shown.evaluate(SMALL) == []
    rules = [
        "color-contrast",
        "image-alt",
        "svg-img-alt",
        "role-img-alt",
        "label",
        "select-name",
        "aria-valid-attr-value",
    ]
    found = Axe().run(shown, options={"runOnly": rules})
    assert [(v["id"], [n["html"][:150] for n in v["nodes"][:3]]) for v in found["violations"]] == []
    assert shown.locator(".play-still:visible").count() == 0 and shown.locator(".play-live:visible").count() == 5


@needs_browser
def test_paper_and_a_page_without_a_script_have_the_still_pictures(written, browser, shown):
    shown.emulate_media(media="print")
    assert shown.locator(".play-still:visible").count() == 5 and shown.locator(".play-live:visible").count() == 0
    shown.emulate_media(media="screen")
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto((written / "page.html").as_uri())
    assert plain.locator(".play-still:visible").count() == 5
    context.close()


@needs_browser
def test_success_against_cost_answers_to_list_and_mouse(shown):
    figure = shown.locator("#play-cost")
    assert told(shown, "cost").startswith("MI-FGSM (the step): 60.4 % of 600 images")
    figure.get_by_label("Attack", exact=True).select_option("PGD")
    assert "Beside MI-FGSM: +5.5 points, 95 % interval +4.3 to +6.7, clear." in told(shown, "cost")
    figure.get_by_label("Targets", exact=True).select_option("defended")
    assert told(shown, "cost").startswith("PGD (the step)") and "defended targets" in figure.locator(
        "svg"
    ).get_attribute("aria-label")
    figure.get_by_label("Targets", exact=True).select_option("undefended")
    figure.locator("circle").first.hover(force=True)
    assert told(shown, "cost").startswith("FGSM (the step)")


@needs_browser
def test_two_pixels_answer_to_the_keyboard(shown):
    assert "outside the box" in told(shown, "pixels") and told(shown, "pixels").startswith("EM-FGSM")
    press(shown, "pixels", "look-ahead stays in the box", "Space")
    assert "inside the box" in told(shown, "pixels")
    press(shown, "pixels", "sigma", "Home")
    assert told(shown, "pixels").startswith("MI-FGSM") and "gradient" not in told(shown, "pixels")
    press(shown, "pixels", "T,", "Home")
    assert shown.locator("#play-pixels .play-dot").count() == 2
    press(shown, "pixels", "T,", "ArrowRight", 4)
    assert told(shown, "pixels") and shown.locator("#play-pixels .play-dot").count() == 6


@needs_browser
def test_the_budget_shows_what_was_measured(shown):
    numbers = budget.data()
    press(shown, "budget", "Budget", "Home")
    assert "cat at 0/255: 0 of 6 networks are wrong" in told(shown, "budget")
    press(shown, "budget", "Budget", "End")
    wrong = sum(answer != numbers["images"][0]["label"] for answer, _ in numbers["images"][0]["answers"][-1])
    assert f"cat at 16/255: {wrong} of 6 networks are wrong" in told(shown, "budget")
    assert shown.locator("#play-budget .play-wrong").count() == wrong
    middle = "document.querySelectorAll('#play-budget canvas')[2].getContext('2d').getImageData(5, 9, 1, 1).data"
    expected = (255 * budget.pictures(numbers["images"][0])[-1][:, 9, 5]).round().int().tolist()
    assert shown.evaluate(f"[...{middle}]")[:3] == expected


@needs_browser
def test_copies_change_with_the_step_and_the_transform(shown):
    picture = "document.querySelectorAll('#play-erasure canvas')[4].toDataURL()"
    press(shown, "erasure", "p, how often", "End")
    assert "4 of 5 copies have a hole" in told(shown, "erasure")
    before = shown.evaluate(picture)
    press(shown, "erasure", "step of the attack", "ArrowRight")
    assert told(shown, "erasure").startswith("Step 1") and shown.evaluate(picture) != before
    shown.locator("#play-erasure").get_by_label("Transform").select_option("resize")
    assert "5 of 5 copies are drawn smaller" in told(shown, "erasure")
    assert shown.locator("#play-erasure").get_by_label("s_h").is_disabled()


@needs_browser
def test_the_worst_loss_grows_with_the_radius(shown):
    def worst():
        return [
            float(value)
            for value in re.findall(r"SAM (\d+\.\d+)|SGD (\d+\.\d+)", told(shown, "surfaces"))
            for value in value
            if value
        ]

    press(shown, "surfaces", "radius", "Home")
    first, middle = worst(), [np.array(s["loss"])[8, 8] for s in surfaces.data()["surfaces"]]
    assert first == pytest.approx(middle, abs=0.006) and len(first) == 3
    press(shown, "surfaces", "radius", "End")
    assert all(far > near for far, near in zip(worst(), first, strict=True))
