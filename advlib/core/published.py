"""The thesis' tables as printed, one CSV file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..files.paths import PUBLISHED
from . import checks

if TYPE_CHECKING:
    import pandas as pd

AVERAGE = "Average"
"""The target under which a published table holds a printed average."""


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
