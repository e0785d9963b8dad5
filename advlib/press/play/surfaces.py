"""The loss around the weights that SGD, SAM and CR-SAM found, and the worst of it within a radius.

`make` measures, and its file is committed: it takes CIFAR-10, and minutes.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from ... import curvature
from ...bench import plotting
from ...files.paths import RESULTS, WEIGHTS, replacing
from ...files.provenance import run_info
from ...zoo import datasets, models
from ...zoo.weights import manifest

FILE = RESULTS / "laptop" / "cifar10" / "play_surfaces.json"
NETWORKS = {"SGD": "cifar10/resnet", "SAM": "cifar10/resnet-sam", "CR-SAM": "cifar10/resnet-crsam"}
IMAGES, POINTS, SEEDS = 128, 17, (1, 2)
"""Test images; points along each direction; seeds of the two directions, as in Figure 5.4."""

HIGHEST = 10.0
"""Nats: what the still picture shows of higher losses."""


def make() -> None:
    """Measure and write `FILE`. Takes CIFAR-10; minutes on a CPU. Raises what `datasets.load` raises."""
    few = datasets.load("cifar10", "test", IMAGES)
    axis = torch.linspace(-1, 1, POINTS)
    surfaces = []
    for name, network in NETWORKS.items():
        net = models.load(network).eval()
        w = curvature.weights(net)
        across, ahead = (curvature.filter_normalized(w, seed=seed) for seed in SEEDS)
        found = curvature.loss_surface(curvature.mean_loss(net, few, IMAGES), w, across, ahead, axis)
        length = round(curvature.norm(across).item(), 2)
        values = np.round(found.numpy(), 3).tolist()
        sha256 = manifest(WEIGHTS)[network]["sha256"]
        surfaces.append({"optimizer": name, "length": length, "loss": values, "network": network, "sha256": sha256})
    told = {"dataset": "CIFAR-10", "n": IMAGES, "axis": np.round(axis.numpy(), 3).tolist(), "surfaces": surfaces}
    with replacing(FILE) as partial:
        text = json.dumps(told | run_info("cpu"), separators=(",", ":"))
        partial.write_text(text + "\n", encoding="utf-8")


def data() -> dict[str, Any]:
    """axis: (points,), in lengths of the weights; of each surface the optimizer, how long a direction is in L2, and the
    loss in nats at (axis[i], axis[j])."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    kept = ("optimizer", "length", "loss")
    surfaces = [{key: surface[key] for key in kept} for surface in found["surfaces"]]
    return {key: found[key] for key in ("dataset", "n", "axis")} | {"surfaces": surfaces}


def still(numbers: dict[str, Any]) -> Figure:
    """The three surfaces on one scale, each with a ball of radius 0.5."""
    axis = np.array(numbers["axis"])
    values = {surface["optimizer"]: np.minimum(surface["loss"], HIGHEST) for surface in numbers["surfaces"]}
    label = f"cross-entropy (nats), up to {HIGHEST:g}"
    figure = plotting.surface(axis, axis, values, "direction 1", "direction 2", label)
    for ax in figure.axes[: len(values)]:
        ax.add_patch(Circle((0, 0), 0.5, fill=False, color="white", linestyle="--"))
    return figure
