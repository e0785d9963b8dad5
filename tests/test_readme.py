"""What the README shows works: its code runs, its links and figures exist, its commands are known."""

import re

import pytest

from advlib.bench import chapters
from advlib.files.paths import ROOT
from advlib.press import readme
from advlib.press.cli import _parser
from advlib.press.run import parse_value
from advlib.zoo.models import available

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.skipif("shapes/resnet" not in available(), reason="data/weights has no shapes/resnet: run notebook A1")
def test_the_python_runs(capsys):
    scope = {}
    for block in blocks("python"):
        exec(block.replace("n=100", "n=4"), scope)
    assert scope["adv"].shape == (4, 3, 32, 32)
    assert (scope["adv"] - scope["data"].x).abs().max() <= 16 / 255 + 1e-6


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets and [t for t in targets if "://" not in t and not (ROOT / t).exists()] == []


def test_commands_are_known():
    lines = [line.split("#")[0].split() for block in blocks("sh") for line in block.splitlines()]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for words in lines:
        if words[:3] == ["python", "-m", "advlib"]:
            _parser().parse_args(words[3:])
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), words
        if words[0] == "papermill":
            given = dict(re.findall(r"-[py] \"?(\w+):? (\[.*?\]|\w+)", " ".join(words)))
            known = chapters.parameters((ROOT / words[1]).with_suffix(".py"))
            assert given and all(
                known[name].checked(parse_value(text, known[name].kind)) for name, text in given.items()
            )


def test_commands_of_the_environment_come_after_it_is_entered():
    """In a plain shell there is no advlib, papermill or nbgrader."""
    (block,) = [block for block in blocks("sh") if "python -m advlib" in block]
    first, *others = block.splitlines()
    assert first.startswith("make env && . .venv/bin/activate ")
    assert all(line.split()[0] in ("python", "papermill") for line in others)
    assert not [b for b in blocks("sh") if b != block and ("python" in b.split("#")[0] or "papermill" in b)]


def test_results_at_a_glance_are_the_committed_ones():
    assert readme.refreshed(README) == README, "write them anew: python -m advlib glance"
