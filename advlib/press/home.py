"""The first page of the site: what the book is, what it found, three doors, and the top of the leaderboard.

Every number is read from the committed results.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import nan

import pandas as pd

from ..bench import claims, results
from ..bench.differences import Difference
from ..core.published import DEFENDED, UNDEFENDED, kind
from . import leaderboard_page
from .tables import Cell, gain, scrolling, table

HEAD = """# Adversarial transferability and flat minima

Images that are changed a little to fool one network often fool others, too. Why, and how to make them do so more
often, is the subject of a PhD thesis (T. Wu, *Adversarial Transferability and Generalization in Robust Deep
Learning*, 2024). This book explains its methods, runs them, and checks what it says: every chapter is a notebook,
and every number on these pages was measured by the code beside it.

```{figure} figures/00/fig_0_1_gallery_cifar10.svg
:alt: Images of CIFAR-10, what an attack on a ResNet changes, and the result, with what a ResNet and a VGG call them

Images of CIFAR-10, the change that an attack makes on a small ResNet, ten times enlarged, and the changed images.
Below each stands what the ResNet calls it, and what a VGG does, which the attack never saw.
```

## What it found

- **Looking ahead helps as long as one looks inside the budget.** The thesis' elastic momentum takes its gradient
  ahead of the image. As printed that gains nothing here; held inside the ball it does ([chapter
  2](02_elastic_momentum_random_erasure)).
- **What is done to the input depends on its size.** Resized and darkened copies help much on photographs, and hurt
  on images of 32 pixels ([chapter 2](02_elastic_momentum_random_erasure), [A4](A4_the_field)).
- **The gradient norm penalty has a better side.** As printed it is no clear gain on photographs. As a backward
  difference over one step it is one there, at equal cost, and still none on 32 pixels ([chapter
  3](03_gradient_norm_penalty)).
- **A smoother surrogate is strong against defences** on CIFAR-10, and no stronger against undefended networks. On
  photographs ours is hardly smoother than the network that it was, and gains nothing ([chapter
  4](04_lipschitz_regularized_surrogates)).
- **CR-SAM ends in a flatter minimum than SAM**, and not in a clearly more accurate network ([chapter
  5](05_curvature_regularized_sam)).
"""
FOUND = """All of it is of laptop scale: small networks and few images, how many stands beside each number on the
[leaderboard](leaderboard.md) and in its table. The thesis' setting is larger. [All results](results.md) stand
beside the thesis' own numbers, and [what holds, and what does not](what_holds.md) asks each of its orderings.
"""
DOORS = """## Three doors

::::{grid} 1 1 3 3
:gutter: 3

:::{grid-item-card} Read →
:link: 00_start_here
:link-type: doc
Begin with chapter 0: one attack, five lines of code, one picture. Chapters 1 to 6 need no more than that.
:::

:::{grid-item-card} Run →
:link: readme
:link-type: doc
Two commands run every chapter on a laptop, with built-in images. Or take the module alone: attacks that compose, SAM to
CR-SAM, Hessian traces.
:::

:::{grid-item-card} Teach →
:link: instructors
:link-type: doc
Six weeks of chapters, each with slides and three exercises that are graded by hidden tests; a project that a hidden
network grades; an exam with solutions.
:::
::::
"""
TOP = """## Top of the leaderboard

The first five attacks on two boards. They differ in images, networks and budget, so that numbers of one say nothing
about the other. [All boards](leaderboard.md), and how to add your attack.
"""

PHOTOGRAPHS, SMALL = 16.0, 4.0
"""The budgets in 1/255 on ImageNet's photographs and on CIFAR-10, of the rows below the findings."""
HEADS = ("what was changed", "beside", f"photographs, {PHOTOGRAPHS:g}/255", f"CIFAR-10, {SMALL:g}/255")
Boards = Mapping[str, pd.DataFrame]


def markdown(boards: Boards) -> str:
    """The page, without its table of contents. boards: of `leaderboard.standings`."""
    caption = "Points gained (trace: its own units), with an interval of 95 %; ▲ and ▼ where it leaves out zero"
    found = scrolling(caption, table(caption, HEADS, [("", evidence(boards))]))
    tops = [leaderboard_page.top(boards, "imagenet", PHOTOGRAPHS), leaderboard_page.top(boards, "cifar10", SMALL)]
    return "\n\n".join([HEAD, found, FOUND, DOORS, TOP, *tops]) + "\n"


def evidence(boards: Boards) -> list[list[Cell]]:
    """The numbers behind the findings, a row each: what was changed, beside what, and points on both data sets."""
    penalty = "MI-FGSM, backward, one step", "MI-FGSM, 2T"
    rows = [
        ("EM-FGSM, as printed", "MI-FGSM", *_on_both(boards, "EM-FGSM")),
        ("EM-FGSM, held inside the ball", "MI-FGSM", *_on_both(boards, "EM-FGSM, ball")),
        ("DIM and SIM, resized and darkened copies", "MI-FGSM", *_on_both(boards, "DIM+SIM")),
        ("RE, copies with a part erased", "MI-FGSM", *_on_both(boards, "RE")),
        ("GNP, as printed, on MI-FGSM", "MI-FGSM", *_on_both(boards, "MI-FGSM+GNP", "GNP")),
        (
            "GNP, backward over one step, on MI-FGSM",
            "MI-FGSM with twice the steps",
            between("3.5", "imagenet", PHOTOGRAPHS, *penalty),
            between("3.5", "cifar10", SMALL, *penalty),
        ),
        *[
            (
                f"PGD on LRS-2, {of} targets",
                "PGD on the same network before",
                between(table, "imagenet", PHOTOGRAPHS, "PGD+LRS-2", "PGD", of),
                _row(boards["smooth"], "PGD on LRS-2", SMALL, of),
            )
            for table, of in (("4.4", DEFENDED), ("4.2", UNDEFENDED))
        ],
        ("CR-SAM, Hessian trace", "SAM", None, _training(claims.GEOMETRY, "Hessian trace")),
        ("CR-SAM, test accuracy", "SAM", None, _training(claims.TRAINING, "test accuracy (%)")),
    ]
    return [[what, beside, points(photographs), points(small)] for what, beside, photographs, small in rows]


def points(found: Difference | None) -> Cell:
    """ "+6.6 ▲ [+5.5, +7.6]"; a dash where nothing was measured."""
    if found is None:
        return "–"
    return gain(*found[:3])


def _on_both(boards: Boards, photographs: str, small: str = "") -> tuple[Difference | None, Difference | None]:
    """An attack on both boards, by its name on each."""
    return _row(boards["imagenet"], photographs, PHOTOGRAPHS), _row(boards["cifar10"], small or photographs, SMALL)


def _row(rows: pd.DataFrame, attack: str, eps_255: float, of: str = UNDEFENDED) -> Difference | None:
    """What an attack changes against its board's baseline; None where it was not measured."""
    found = rows[(rows.attack == attack) & (rows.eps_255 == eps_255) & (rows.kind == of)]
    if found.empty:
        return None
    row = found.iloc[0]
    return Difference(row.points, row.points_low, row.points_high, row.interval)


def between(
    number: str, dataset: str, eps_255: float, better: str, worse: str, of: str = UNDEFENDED
) -> Difference | None:
    """Of two attacks of a table, on black-box targets of a kind; None where it is not committed."""
    rows = results.committed(number, leaderboard_page.SCALE, dataset)
    if rows is None:
        return None
    rows = results.mark_white_box(rows)
    return claims.ahead(rows[(rows.eps_255 == eps_255) & (rows.target.map(kind) == of)], better, worse)


def _training(number: str, metric: str) -> Difference | None:
    return claims.between(number, leaderboard_page.SCALE, "cifar10", metric, nan, "CR-SAM", "SAM")
