"""Intervals of 95 % for proportions, means and their differences. Success rates and bounds are in percent."""

from __future__ import annotations

from collections.abc import Mapping
from math import hypot, inf, sqrt

import numpy as np

from . import checks


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion: (low, high) in percent.

    Raises TypeError or ValueError when n < 1, `successes` is outside 0..n or `level` is not between 0 and 1.
    """
    checks.whole("n", n, 1)
    checks.whole("successes", successes, 0, n)
    checks.number("level", level, above=0, below=1)
    from scipy.stats import norm  # here: nothing of this is needed where no interval is

    p, z = successes / n, float(norm.ppf((1 + level) / 2))
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return (0.0 if successes == 0 else 100 * (middle - half)), (100.0 if successes == n else 100 * (middle + half))


def newcombe(k1: int, n1: int, k2: int, n2: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of k1/n1 - k2/n2 for independent samples: (low, high) in percent points. Raises as `wilson` does.

    R. G. Newcombe, Statistics in Medicine 17, 873-890, 1998, method 10 (hybrid score).
    """
    return _hybrid(k1, n1, k2, n2, 0.0, level)


def difference(better: Mapping[str, float], worse: Mapping[str, float]) -> tuple[float, float, float]:
    """(points, low, high): the difference of two means that carry value, ci_low and ci_high, and its interval, as if
    the two were independent. For success rates it is `newcombe`'s, and wide where both had the same images.

    G. Y. Zou, A. Donner, Statistics in Medicine 27, 1693-1702, 2008 (MOVER).
    """
    points = better["value"] - worse["value"]
    down = hypot(better["value"] - better["ci_low"], worse["ci_high"] - worse["value"])
    up = hypot(better["ci_high"] - better["value"], worse["value"] - worse["ci_low"])
    return points, points - down, points + up


def paired_difference(a: np.ndarray, b: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Success of attack `a` minus success of `b` on the same images: (difference, low, high) in percent points.

    a, b: bool, shape (N,). R. G. Newcombe, Statistics in Medicine 17, 2635-2650, 1998, method 10 (paired hybrid score).
    Raises ValueError when they are not bool vectors of one length, N >= 1.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != bool or b.dtype != bool or a.ndim != 1 or a.shape != b.shape or not a.size:
        raise ValueError(f"a and b must be bool, shape (N,), N >= 1; not {a.dtype} {a.shape}, {b.dtype} {b.shape}")
    n, k1, k2, both = a.size, int(a.sum()), int(b.sum()), int((a & b).sum())
    # a d - b c of the fourfold table; a positive one is shrunk by n/2, but not below 0, before it becomes phi.
    product: float = both * (n - k1 - k2 + both) - (k1 - both) * (k2 - both)
    product = max(product - n / 2, 0.0) if product > 0 else product
    margins = k1 * (n - k1) * k2 * (n - k2)
    low, high = _hybrid(k1, n, k2, n, product / sqrt(margins) if margins else 0.0, level)
    return 100 * (k1 - k2) / n, low, high


def paired_mean(differences: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of a few differences, of one seed each say, and Student's interval: (mean, low, high); the interval is
    infinite for one. Raises ValueError for none and for one that is not finite, TypeError for what is no number."""
    try:
        d = np.asarray(differences, dtype=float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"differences: expected finite numbers of shape (N,) ({error})") from error
    if d.ndim != 1 or not d.size or not np.isfinite(d).all():
        raise ValueError(f"differences: expected finite numbers of shape (N,), N >= 1; not {d.shape} {d[:3]}")
    from scipy.stats import t as student

    half = student.ppf((1 + level) / 2, d.size - 1) * d.std(ddof=1) / sqrt(d.size) if d.size > 1 else inf
    return float(d.mean()), float(d.mean() - half), float(d.mean() + half)


def _hybrid(k1: int, n1: int, k2: int, n2: int, phi: float, level: float) -> tuple[float, float]:
    """Newcombe's interval from two Wilson intervals, (low, high) in percent points; phi: correlation of the two."""
    (l1, u1), (l2, u2) = wilson(k1, n1, level), wilson(k2, n2, level)
    p1, p2 = 100 * k1 / n1, 100 * k2 / n2

    def length(s: float, t: float) -> float:
        return sqrt(max(s * s - 2 * phi * s * t + t * t, 0.0))

    return p1 - p2 - length(p1 - l1, u2 - p2), p1 - p2 + length(u1 - p1, p2 - l2)
