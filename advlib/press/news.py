"""What a run has made since one looked last: where its tables and figures are, and what a table of attacks says."""

from __future__ import annotations

import os
from pathlib import Path

from ..bench.chapters import Run
from ..bench.outcomes import COMMON, DamagedError

SHOWN = 3
"""How many attacks of a table are named."""


class News:
    """The tables and figures of a chapter's run from now on, as seen from the folder that the process is in now:
    notebooks are executed in another one."""

    def __init__(self, run: Run) -> None:
        self.run, self._here = run, Path.cwd()
        self._seen = self._states()

    def lines(self) -> list[str]:
        """Of each table and figure that is new, changed or picked up since the last call: where it is, and below it
        what it says."""
        before, self._seen = self._seen, self._states()
        new = [path for path, state in self._seen.items() if before.get(path) != state]
        return [line for path in new for line in (os.path.relpath(path, self._here), *headlines(path))]

    def _states(self) -> dict[Path, list[int]]:
        """What tells one state of each file from another. A table that a resumed run picks up stays as it is, and what
        it was made from is written anew beside it."""
        tables = [path for path in self.run.tables.glob("*.csv") if ".old" not in path.name]
        found = {path: (path, path.with_suffix(".json")) for path in sorted(tables)}
        found |= {path: (path,) for path in sorted(self.run.figures.glob("*.svg"))}
        return {path: [p.stat().st_mtime_ns for p in files if p.exists()] for path, files in found.items()}


def headlines(path: Path) -> list[str]:
    """The attacks of a table that fool most, in the mean over the black-box targets of each kind, at its first budget;
    nothing for a file that is no table of attacks."""
    from ..bench import claims, results  # here: torch takes a second to load

    if path.suffix != ".csv":
        return []
    try:
        rows = results.mark_white_box(results.read(path))
    except DamagedError:  # a table with columns of its own
        return []
    cases = rows[~rows.white_box & (rows.metric == COMMON)]
    cases = cases[cases.eps_255 == cases.eps_255.iloc[0]] if len(cases) else cases
    found = []
    for of, part in cases.groupby(cases.target.map(claims.kind), sort=False):
        means = results.black_box(part).sort_values("value", ascending=False, kind="stable")
        best = [f"{attack} {value:.1f}" for attack, value in means.value[:SHOWN].items()]
        others = [f"{len(means) - SHOWN} more down to {means.value.iloc[-1]:.1f}"] if len(means) > SHOWN else []
        where = f"{claims.SUCCESS[of]}, {part.eps_255.iloc[0]:g}/255, n = {means.n.min()}"
        found.append(f"    {where}: {'; '.join(best + others)}")
    return found
