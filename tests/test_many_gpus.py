"""What the page on many GPUs shows: shell that can be read, commands that are known, and scripts that run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from advlib.bench import chapters
from advlib.files.paths import NOTEBOOKS, ROOT
from advlib.press import cli, run, sweep

PAGE = (ROOT / "book" / "many_gpus.md").read_text(encoding="utf-8")
BLOCKS = [block for _, block in re.findall(r"```(sh|bash)\n(.*?)```", PAGE, re.DOTALL)]
TOOLS = {
    "papermill": "papermill",
    "parallel": "parallel",
    "slurm": "#SBATCH",
    "sbatch": "\nCH=04 sbatch",
    "ray": "ray job",
}


def the(mark):
    """The one block with a text."""
    (block,) = [block for block in BLOCKS if mark in block]
    return block


@pytest.mark.parametrize("tool", TOOLS)
def test_every_way_is_there(tool):
    assert the(TOOLS[tool])


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0][:40])
def test_bash_can_read_it(block):
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_commands_are_known():
    """Whatever runs advlib on the page, with numbers in the place of what the shell puts in."""
    found = re.findall(r"-m advlib (.*?)[\'\n]", re.sub(r"\s*\\\n\s*", " ", "\n".join(BLOCKS)))
    assert [line.split()[0] for line in found] == ["sweep", "sweep", "collect", "collect", *["run"] * 5]
    for line in found:
        line = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", line)  # a variable's default
        words = re.sub(r"\$\w+|\{\d\}", "3", line).partition(" :::")[0].replace('"', "").split("#")[0].split()
        args = cli._parser().parse_args(words)
        if words[0] != "collect":
            chapter = run.read_chapter(chapters.select([words[1]], NOTEBOOKS)[0])
            for given in sweep.combinations(chapter, args.given):
                assert run.settle(chapter, args.scale, args.dataset, given)


def test_slurm_and_papermill_leave_runs_that_are_collected(tmp_path):
    """At smoke scale, one seed each, by a srun that runs what it is told; a minute."""
    tools, build = tmp_path / "bin", tmp_path / "build"
    tools.mkdir()
    for name, code in (("srun", '"$@"'), ("papermill", f'{sys.executable} -m papermill "$@"')):
        (tools / name).write_text(f"#!/bin/bash\nexec {code}\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    told = {"PATH": path, "ADVLIB_BUILD": str(build), "CH": "00", "SCALE": "smoke", "DATASET": "shapes"}
    environment = os.environ | told | {"SLURM_ARRAY_TASK_ID": "5", "SLURM_CPUS_PER_TASK": "1"}
    loop = the("papermill").partition("unset")[0].replace("0 1 2 3", "6").replace("$PWD/_build", str(build))
    for script in (the("#SBATCH"), loop):
        done = subprocess.run(["bash"], input=script, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and "failed" not in done.stdout, done.stdout + done.stderr
    runs = [str(build / "smoke" / "shapes,seed=5"), str(build / "loop" / "seed_*")]
    assert cli.main(["collect", *runs, "--out", str(tmp_path / "all.csv")]) == 0
    rows = pd.read_csv(tmp_path / "all.csv")
    assert set(zip(rows.p_seed, rows.seed, strict=True)) == {(5, 5), (6, 6)}
    assert set(pd.read_csv(tmp_path / "all.mean.csv").n_runs) == {2}
    shutil.rmtree(build)
