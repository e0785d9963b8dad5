"""The image that nobody builds here: its steps are the README's, and data stay outside."""

import json
import re

from advlib.files.paths import ROOT

CONTAINER = (ROOT / "Containerfile").read_text(encoding="utf-8")


def test_the_image_is_made_by_the_command_of_the_readme():
    assert re.search(r"^RUN make env PYTHON=python3$", CONTAINER, re.MULTILINE)
    assert "(`make env` does nothing else)" in (ROOT / "README.md").read_text(encoding="utf-8")
    needed = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "PYTHON" in needed and re.search(r"^env: ", needed, re.MULTILINE)


def test_its_python_and_programs_are_those_that_the_readme_asks_for():
    installed = set(re.search(r"--no-install-recommends (.*?) \\$", CONTAINER, re.MULTILINE)[1].split())
    assert {"python3", "python3-venv", "make"} <= installed


def test_what_git_leaves_out_stays_out_of_the_image():
    left_out, ignored = (
        {line.strip("/").removeprefix("**/") for line in (ROOT / name).read_text(encoding="utf-8").splitlines()}
        for name in (".dockerignore", ".gitignore")
    )
    of_runs = {".*.lock", ".*.writer", "*.partial", "*.partial.ipynb"}  # of a run that is under way
    assert ignored - of_runs <= left_out


def test_the_devcontainer_is_that_image():
    found = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert (ROOT / ".devcontainer" / found["build"]["dockerfile"]).resolve() == ROOT / "Containerfile"
    assert found["postCreateCommand"] in CONTAINER
