"""A clock for contestants that take turns, what it measures, and the cases that a section of `bench.gpu` is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import NamedTuple

import torch

ROUNDS = 3
_ROUND = 0.2  # seconds that a contestant's turn should last, where one call is shorter
_MOST_CALLS = 200

Rounds = Sequence[float]


class Measure(NamedTuple):
    """One number. rounds: those it is the median of, none where it was not timed."""

    metric: str
    value: float
    unit: str
    rounds: Rounds = ()


def of_rounds(metric: str, rounds: Iterable[float], unit: str) -> Measure:
    """The median over rounds, with the rounds."""
    rounds = tuple(rounds)
    return Measure(metric, median(rounds), unit, rounds)


class Case(NamedTuple):
    """What one line of the output is about. seconds: what it takes on a large GPU, about; run: measures it."""

    name: str
    seconds: float
    run: Callable[[], Iterable[Measure]]


class OutOfTimeError(RuntimeError):
    """A case that would not end within the budget."""


@dataclass(frozen=True)
class Bench:
    """What everything that measures is given. tiny: sizes for a rehearsal; dataset: of the images and networks of
    `exactness`; left: seconds of the budget that are left; clock: seconds, from anywhere; rounds: in which every
    contestant has its turn; warm: calls of each before the first round, at least 1, whose last says how many calls make
    a turn. On a GPU libraries choose and allocate in the first one."""

    device: torch.device
    tiny: bool
    dataset: str
    left: Callable[[], float]
    clock: Callable[[], float] = perf_counter
    rounds: int = ROUNDS
    warm: int = 2

    def wait(self) -> None:
        """Until the device has done what was asked of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(self, contestants: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
        """Seconds a call of each contestant, one for each round, in which all take their turn. Each is called `warm`
        times before. Raises OutOfTimeError where that shows that the rounds would not fit."""
        for _ in range(self.warm):
            calls = {name: self._calls(self._seconds(function, 1)) for name, function in contestants.items()}
        needed = self.rounds * sum(n * seconds for n, seconds in calls.values())
        if needed > self.left():
            raise OutOfTimeError(f"takes {needed:.0f} s, and {self.left():.0f} s are left")
        found: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(self.rounds):
            for name, function in contestants.items():
                found[name].append(self._seconds(function, calls[name][0]))
        return found

    def _calls(self, seconds: float) -> tuple[int, float]:
        """How many calls make a turn, and what each takes."""
        turn = _ROUND / 20 if self.tiny else _ROUND
        return max(1, min(_MOST_CALLS, int(turn / max(seconds, 1e-9)))), seconds

    def _seconds(self, function: Callable[[], object], calls: int) -> float:
        self.wait()
        start = self.clock()
        for _ in range(calls):
            function()
        self.wait()
        return (self.clock() - start) / calls


def ratios(over: Rounds, under: Rounds, factor: float = 1.0) -> list[float]:
    """factor * over / under, round by round."""
    return [factor * a / b for a, b in zip(over, under, strict=True)]
