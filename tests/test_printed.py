"""The averages that the thesis prints: which of them are not the mean of their row."""

import pytest

from advlib.bench import printed
from advlib.core import published


@pytest.mark.parametrize(("tables", "amiss", "of"), [(("3.1", "3.2"), 13, 24), (("4.1", "4.2", "4.3", "4.4"), 11, 38)])
def test_so_many_are_amiss_as_chapters_3_and_4_say(tables, amiss, of):
    found = printed.averages(*tables)
    assert (int(found.amiss.sum()), len(found)) == (amiss, of)
    assert (found.difference.abs()[found.amiss] > 0.04).all() and (found.difference.abs()[~found.amiss] <= 0.06).all()


def test_the_mean_is_that_of_the_black_box_cells():
    (table, attack, eps_255), row = next(printed.averages("3.1").iterrows())
    cells = published.table(table)
    cells = cells[(cells.attack == attack) & (cells.eps_255 == eps_255) & ~cells.white_box]
    own = cells[cells.target != published.AVERAGE].value.mean()
    assert (
        row["of the row"] == round(own, 2) and row["printed"] in cells[cells.target == published.AVERAGE].value.values
    )
    assert row["difference"] == pytest.approx(row["printed"] - row["of the row"])
