"""The two ceilings of a device, arithmetic and memory, and where passes stand below them.

What takes F operations and moves B bytes takes at least max(F / peak, B / bandwidth) seconds. Drawn over the
intensity F / B, in operations a byte, the speed that this allows is a roof: it rises with the bandwidth until it meets
the peak (S. Williams, A. Waterman, D. Patterson, CACM 52(4), 65-76, 2009). The operations of a pass run one after the
other, each with a limit of its own, and the floor of the pass is the sum of theirs. Bytes are counted as if nothing
stayed in a cache (`counts`), so that what does can be faster than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from . import counts
from .cases import Bench, Measure, of_rounds
from .subjects import Subject, channels_last, passes

BFLOAT16 = torch.bfloat16
DTYPES = {"float32": torch.float32, "bfloat16": BFLOAT16}
CONVOLUTION = 32, 256, 14
"""Images, channels and side of a convolution of 3 x 3 such as those of a ResNet-50."""


def sizes(bench: Bench) -> tuple[int, int]:
    """The side of matrices that keep a device busy, and how many numbers no cache holds."""
    if bench.tiny:
        return 256, 2**20
    return (8192, 2**28) if bench.device.type == "cuda" else (2048, 2**25)


def product(device: torch.device, dtype: torch.dtype, side: int) -> Callable[[], object]:
    """Of two square matrices: 2 side**3 operations."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return lambda: a @ b


def convolution(device: torch.device, dtype: torch.dtype) -> Callable[[], object]:
    """Of 3 x 3, as large as `CONVOLUTION` says."""
    n, channels, side = CONVOLUTION
    x, w = torch.randn(n, channels, side, side), torch.randn(channels, channels, 3, 3)
    x, w = (channels_last(t.to(device, dtype)) for t in (x, w))
    return lambda: F.conv2d(x, w, padding=1)


def copying(device: torch.device, numbers: int) -> Callable[[], object]:
    """Of float32 numbers, which reads and writes: 8 bytes each."""
    source = torch.rand(numbers, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def matrices(bench: Bench, dtype: torch.dtype) -> list[Measure]:
    """The speed of a product of two square matrices."""
    side, _ = sizes(bench)
    seconds = bench.timed({"product": product(bench.device, dtype, side)})["product"]
    return [of_rounds("speed", (2e-12 * side**3 / t for t in seconds), "TFLOP/s")]


def memory(bench: Bench) -> list[Measure]:
    """A copy of what no cache holds; and the smallest operation there is."""
    _, numbers = sizes(bench)
    one = torch.zeros(1, device=bench.device)
    seconds = bench.timed({"copy": copying(bench.device, numbers), "launch": lambda: one.add_(1)})
    return [
        of_rounds("copy", (8e-12 * numbers / t for t in seconds["copy"]), "TB/s"),
        of_rounds("one operation", (1e6 * t for t in seconds["launch"]), "us"),
    ]


class Roof(NamedTuple):
    """peaks: FLOP/s of a number type, by name; bandwidth: bytes a second."""

    peaks: Mapping[str, float]
    bandwidth: float

    def speed(self, form: str, intensity: float) -> float:
        """FLOP/s that are within reach at an intensity."""
        return min(self.peaks[form], intensity * self.bandwidth)

    def seconds(self, form: str, each: Iterable[counts.Counted]) -> float:
        """The least that operations take, one after the other."""
        return sum(max(one.flops / self.peaks[form], one.bytes / self.bandwidth) for one in each)

    def of_memory(self, form: str, each: Sequence[counts.Counted]) -> float:
        """The share of those seconds that goes to operations whose limit is memory."""
        bound = [one for one in each if one.intensity < self.ridge(form)]
        return self.seconds(form, bound) / self.seconds(form, each)

    def ridge(self, form: str) -> float:
        """The intensity below which memory is the limit, and above which arithmetic is."""
        return self.peaks[form] / self.bandwidth


class Point(NamedTuple):
    """A pass of a copy of a network: its operations, FLOP/s (the median), and the floor, the least seconds that they
    take, over its seconds, in each round."""

    subject: Subject
    copy: str
    form: str
    operations: Sequence[counts.Counted]
    speed: float
    share: Sequence[float]

    @property
    def counted(self) -> counts.Counted:
        """All operations together."""
        return counts.total(self.operations)


def table(roof: Roof, points: Sequence[Point]) -> pd.DataFrame:
    """By network and copy: what a pass takes, what limits it, and how near to its floor it comes."""
    found = {
        (p.subject.name, p.copy): {
            "GFLOP": p.counted.flops / 1e9,
            "MB moved": p.counted.bytes / 1e6,
            "operations a byte": p.counted.intensity,
            "limit of the whole": "memory" if p.counted.intensity < roof.ridge(p.form) else "arithmetic",
            "floor bound by memory (%)": 100 * roof.of_memory(p.form, p.operations),
            "floor over time, smallest": min(p.share),
            "largest": max(p.share),
        }
        for p in points
    }
    return pd.DataFrame.from_dict(found, orient="index").rename_axis(["network", "copy"]).round(2)


def placed(bench: Bench, subjects: Sequence[tuple[Subject, Mapping[str, nn.Module]]]) -> tuple[Roof, list[Point]]:
    """The roof of this device, and a point for each copy of each network, all timed in the same rounds. The peak
    is that of a product of matrices or of a convolution, whichever is faster. subjects: with copies that are frozen and
    in channels_last, by name."""
    side, numbers = sizes(bench)
    passed = [
        (
            subject._replace(model=net),
            name,
            "bfloat16" if any(p.dtype == BFLOAT16 for p in net.parameters()) else "float32",
        )
        for subject, nets in subjects
        for name, net in nets.items()
    ]
    functions = {"copy": copying(bench.device, numbers)}
    for form, dtype in DTYPES.items():
        functions[f"product, {form}"] = product(bench.device, dtype, side)
        functions[f"convolution, {form}"] = convolution(bench.device, dtype)
    functions |= {f"{s.name}: {name}": partial(passes, s.model, channels_last(s.x), s.y) for s, name, _ in passed}
    seconds = bench.timed(functions)
    roofs = [_roof({name: s[k] for name, s in seconds.items()}, side, numbers) for k in range(bench.rounds)]
    points = []
    for subject, name, form in passed:
        took, each = seconds[f"{subject.name}: {name}"], counts.of_pass(subject)
        share = [roof.seconds(form, each) / t for roof, t in zip(roofs, took, strict=True)]
        points.append(Point(subject, name, form, each, counts.total(each).flops / median(took), share))
    return _roof({name: median(s) for name, s in seconds.items()}, side, numbers), points


def _roof(seconds: Mapping[str, float], side: int, numbers: int) -> Roof:
    n, channels, width = CONVOLUTION
    work = {"product": 2 * side**3, "convolution": 2 * n * 9 * (channels * width) ** 2}
    peaks = {form: max(flops / seconds[f"{what}, {form}"] for what, flops in work.items()) for form in DTYPES}
    return Roof(peaks, 8 * numbers / seconds["copy"])
