"""The thesis' tables as printed, one CSV file each."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..files.paths import PUBLISHED
from . import checks

if TYPE_CHECKING:
    import pandas as pd

AVERAGE = "Average"
"""The target under which a published table holds a printed average."""
NINE = ("HGD", "R&P", "NIPS-r3", "Bit-Red", "JPEG", "FD", "ComDefend", "RS", "NRP")
"""The defences of Table 2.5, in its order."""
UNDEFENDED, TRAINED, DEFENDED = "undefended", "adversarially trained", "defended"
"""Kinds of target. A mean is over one of them: an attack that fools the first may leave the others untouched."""


def kind(target: str) -> str:
    """What sort of target a name of the thesis' tables or of ours stands for."""
    if target in NINE:
        return DEFENDED
    return TRAINED if re.search(r"ens\d$|adv$|-pgd$", target) else UNDEFENDED


def table(number: str) -> pd.DataFrame:
    """A table of the thesis, such as "2.1", as printed: table, source, attack, target, eps_255 (NaN where there is
    none), metric, value, white_box, n. The tables of chapter 5 have other columns, see data/published/README.md.

    Raises FileNotFoundError, with the list of tables there are, when it was not transcribed.
    """
    import pandas as pd

    path = PUBLISHED / file_name(number)
    if not path.is_file():
        there = [p.stem.removeprefix("table_").replace("_", ".") for p in sorted(PUBLISHED.glob("table_*.csv"))]
        raise FileNotFoundError(f"no table {number!r} ({path}); there are {there}")
    return pd.read_csv(path, dtype={"table": str}, keep_default_na=False, na_values={"eps_255": [""]})


def file_name(table: str) -> str:
    """ "table_2_1.csv" of "2.1"."""
    checks.text("table", table)
    return f"table_{table.replace('.', '_')}.csv"
