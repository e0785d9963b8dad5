"""Hessian-vector products beside gradients, and the trace beside PyHessian (Yao et al. 2020)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from statistics import fmean, stdev
from typing import NamedTuple, TypeVar

import pandas as pd
from torch import nn

from ... import curvature
from ...zoo.datasets import Images
from . import rows
from .cases import Bench, ratios
from .subjects import Subject

T = TypeVar("T")


def products(bench: Bench, loss: curvature.Loss, weights: curvature.Tensors) -> list[float]:
    """The time of a Hessian-vector product over that of a gradient, in each round."""
    functions = {
        "gradient": lambda: curvature.gradient(loss, weights),
        "product": lambda: curvature.hvp(loss, weights, [weights]),
    }
    seconds = bench.timed(functions)
    return ratios(seconds["product"], seconds["gradient"])


class Traced(NamedTuple):
    """An estimate with its standard error. once: seconds that no probe takes; a_probe: seconds of each probe."""

    value: float
    error: float
    probes: int
    once: float
    a_probe: float

    @property
    def to_one_percent(self) -> float:
        """Seconds to a standard error of 1 % of the trace: the error falls with the root of the probes."""
        return self.once + self.a_probe * self.probes * (self.error / (0.01 * abs(self.value))) ** 2


def timed_trace(
    bench: Bench, loss: curvature.Loss, weights: curvature.Tensors, probes: int, deflate: int
) -> tuple[float, curvature.Estimate]:
    """The seconds of `curvature.hutchinson_trace`, and what it gives. deflate: Lanczos vectors, taken out once."""
    return _timed(bench, lambda: curvature.hutchinson_trace(loss, weights, probes=probes, deflate=deflate))


def ours(bench: Bench, loss: curvature.Loss, weights: curvature.Tensors, probes: int, deflate: int) -> Traced:
    """With the time of no probe apart."""
    (once, _), (whole, found) = (timed_trace(bench, loss, weights, k, deflate) for k in (1, probes))
    a_probe = (whole - once) / (probes - 1)
    return Traced(found.value, found.standard_error, probes, once - a_probe, a_probe)


def theirs(bench: Bench, net: nn.Module, data: Images, probes: int) -> Traced:
    """PyHessian's, all of whose images are one batch."""
    from pyhessian import hessian  # here: whoever measures without it needs none

    def prepared() -> hessian:
        return hessian(net, nn.CrossEntropyLoss(), data=(data.x, data.y), cuda=bench.device.type == "cuda")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for a graph of its gradients, of which torch warns
        once, found = _timed(bench, prepared)
        whole, values = _timed(bench, lambda: found.trace(maxIter=probes, tol=0))
    return Traced(fmean(values), stdev(values) / len(values) ** 0.5, len(values), once, whole / len(values))


def _timed(bench: Bench, function: Callable[[], T]) -> tuple[float, T]:
    bench.wait()
    start = bench.clock()
    found = function()
    bench.wait()
    return bench.clock() - start, found


def beside_pyhessian(bench: Bench, model: nn.Module, data: Images, probes: int) -> dict[str, Traced]:
    """Ours with ten Lanczos vectors and with none, and PyHessian's where it is installed, for the mean loss of `data`
    in eval mode."""
    net = copy.deepcopy(model).eval().requires_grad_(True)
    loss, weights = curvature.mean_loss(net, data, len(data)), curvature.weights(net)
    found = {"ours": ours(bench, loss, weights, probes, 10), "ours, deflate=0": ours(bench, loss, weights, probes, 0)}
    if find_spec("pyhessian") is not None:
        found["PyHessian"] = theirs(bench, net, data, probes)
    return found


def table(found: Mapping[str, Traced]) -> pd.DataFrame:
    """As a page shows them."""
    heads = ["trace", "standard error", "seconds to 1 %"]
    return pd.DataFrame([(t.value, t.error, t.to_one_percent) for t in found.values()], list(found), heads).round(2)


def over_pyhessian(subject: Subject, found: Mapping[str, Traced]) -> list[rows.Row]:
    """A row "trace to 1 %, over PyHessian": how many times as fast ours is to a standard error of 1 %; none where
    PyHessian is not installed."""
    if "PyHessian" not in found:
        return []
    faster = found["PyHessian"].to_one_percent / found["ours"].to_one_percent
    return rows.of("trace to 1 %, over PyHessian", subject, {"": [faster]}, f"{found['ours'].probes} probes")
