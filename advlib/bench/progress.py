"""One progress display: a tqdm bar on a terminal, plain lines elsewhere (logs, executed notebooks)."""

from __future__ import annotations

import re
import sys
import time
from types import TracebackType

from tqdm import tqdm

LINE = re.compile(r"^.+: \d+/\d+, \d+ s.*$", re.MULTILINE)  # what a plain line looks like


class Progress:
    """`with Progress("Table 2.1", total=12) as bar: bar.advance("MI-FGSM")`. total: number of equal pieces of work;
    every: seconds between two plain lines."""

    def __init__(self, title: str, total: int, every: float = 30.0) -> None:
        self.title, self.total, self.every, self.done = title, total, every, 0
        self._bar = tqdm(total=total, desc=title) if sys.stderr.isatty() else None
        self._started = self._spoken = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def advance(self, what: str = "") -> None:
        """One piece is done; `what` names it."""
        self.done += 1
        if self._bar is not None:
            self._bar.set_postfix_str(what, refresh=False)
            self._bar.update()
        elif time.monotonic() - self._spoken >= self.every or self.done == self.total:
            self._spoken = time.monotonic()
            print(f"{self.title}: {self.done}/{self.total}, {self._spoken - self._started:.0f} s", flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
