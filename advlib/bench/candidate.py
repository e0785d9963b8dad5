"""An attack of yours on the leaderboard: measured as its rows are, on the same images, surrogate and targets.

main("my attack", my_attack)    in a file of yours, see book/my_attack.py
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from .. import attacks
from ..core import checks
from ..defenses import secured
from ..files.paths import BUILD, RESULTS
from ..zoo import datasets, models
from ..zoo.acceleration import accelerate
from . import leaderboard, results
from .differences import signed
from .evaluation import Attack, success_rates

SOURCE, BASELINE, GUARDS = "resnet", "MI-FGSM", ("JPEG", "FD", "NRP")
"""The surrogate, what an attack is compared with, and the defences, of chapter A4."""
BUDGETS = (4.0, 8.0)
"""In 1/255."""
SMOKE = 6
"""Images at smoke scale."""


def main(name: str, attack: Attack, argv: Sequence[str] | None = None) -> int:
    """Measure an attack as the command line says, and print its rows beside the leaderboard."""
    args = _parser().parse_args(argv)
    run(name, attack, args.scale, args.dataset, args.out)
    print(told(name, file_of(name, args.scale, args.dataset, args.out)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure an attack on the images and networks of the leaderboard.")
    parser.add_argument("--scale", choices=("smoke", "laptop"), default="smoke", help="smoke: six images (default)")
    parser.add_argument("--dataset", choices=("shapes", "cifar10"), default="shapes", help="default: shapes, built in")
    parser.add_argument("--out", type=Path, default=BUILD / "leaderboard", metavar="DIR", help="where the table goes")
    return parser


def run(
    name: str, attack: Attack, scale: str = "smoke", dataset: str = "shapes", out: Path = BUILD / "leaderboard"
) -> pd.DataFrame:
    """Rows of the attack and of MI-FGSM on every target at each budget, as `success_rates` returns them, marked
    `white_box`, and written to `file_of(name, scale, dataset, out)`, which images were fooled beside it.

    attack: (model, x, y, eps=, seed=, index=) -> adv. At laptop scale on CIFAR-10 the images are those of the committed
    leaderboard, otherwise the first test images. Raises TypeError or ValueError for an attack that is none or returns
    something else, WeightsError or DataError for what is not there.
    """
    checks.text("name", name)
    if name == BASELINE:
        raise ValueError(f"name={name!r} is the attack that yours is compared with: choose another")
    targets, data = networks(dataset), images(scale, dataset)
    kept = results.ResultTable(
        file_of(name, scale, dataset, out), "added", scale, dataset, "cpu", 0, {"targets": sorted(targets)}
    )
    source = {SOURCE: accelerate(targets[SOURCE])}
    both = {BASELINE: attacks.mi_fgsm, name: attack}
    rows = success_rates(both, source, targets, data, BUDGETS, table=kept, title=name)
    return results.mark_white_box(rows)


def networks(dataset: str) -> dict[str, nn.Module]:
    """The targets of the leaderboard by name: undefended, adversarially trained, and behind three of the defences."""
    guarded = {name: model for name, model in secured.nine(dataset).items() if name in GUARDS}
    return models.zoo(dataset) | secured.trained(dataset) | guarded


def images(scale: str, dataset: str) -> datasets.Images:
    """What is attacked: of CIFAR-10 at laptop scale, the images of the committed leaderboard, in its order."""
    if scale == "smoke":
        return datasets.load(dataset, "test", SMOKE)
    data = datasets.load(dataset, "test")
    board = RESULTS / scale / dataset / "table_A4_1.csv"
    if not board.is_file():
        return data[:600]
    wanted = torch.tensor(results.outcomes(board).index)
    return data[torch.isin(data.index, wanted)]


def file_of(name: str, scale: str, dataset: str, out: Path) -> Path:
    """The table of an attack: <out>/<scale>/<dataset>/added_my_attack.csv."""
    stem = re.sub(r"\W+", "_", name.lower()).strip("_")
    return out / scale / dataset / f"{leaderboard.ADDED}{stem}.csv"


def told(name: str, file: Path) -> str:
    """What a table of `run` says, in lines: each kind of target and budget, beside MI-FGSM, and at the leaderboard's
    scale the place among its attacks, on the targets that are here."""
    rows = results.read(file)
    scale, dataset = rows.scale.iloc[0], rows.dataset.iloc[0]
    board = leaderboard.BOARDS["cifar10"]
    among = (scale, dataset) == ("laptop", "cifar10")
    board = replace(board, targets=tuple(set(rows.target))) if among else replace(board, files=(), open_to=False)
    found = leaderboard.standing(board, added=[file])
    lines = [f"{name}: {dataset}, {scale} scale, from {board.surrogate}, mean success on the targets of a kind"]
    for row in found[found.attack == name].sort_values(["eps_255", "kind"]).itertuples():
        same = found[(found.kind == row.kind) & (found.eps_255 == row.eps_255)]
        line = f"  {row.kind}, {row.eps_255:g}/255: {row.value:.1f} % ({row.images}), {signed(row.points)} points"
        line += f" [{signed(row.points_low)}, {signed(row.points_high)}] above {BASELINE}, {row.passes:.0f} passes"
        lines.append(line + (f", place {1 + (same.value > row.value).sum()} of {len(same)}" if among else ""))
    if scale == "smoke":
        lines.append("  A few images show that it runs, not how good it is: --scale laptop --dataset cifar10 does.")
    return "\n".join([*lines, f"  {file}"])
