"""What the thesis prints, looked at for itself."""

from __future__ import annotations

import pandas as pd

from ..core import published


def averages(*tables: str) -> pd.DataFrame:
    """The averages that tables print beside their rows ("3.1", "3.2"), by table, attack and budget: "printed", the mean
    "of the row" over its black-box targets, their "difference", and whether it is "amiss", that is more than rounding
    (0.05) off."""
    rows = pd.concat([published.table(table) for table in tables])
    rows = rows[~rows["white_box"]]
    wide = rows.pivot(index=["table", "attack", "eps_255"], columns="target", values="value")
    mean = wide.drop(columns=published.AVERAGE).mean(axis=1)
    found = pd.DataFrame({"printed": wide[published.AVERAGE], "of the row": mean.round(2)})
    found["difference"] = (found["printed"] - found["of the row"]).round(2)
    return found.assign(amiss=(found["printed"] - mean).abs() > 0.05)
