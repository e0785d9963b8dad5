"""A slider for the budget: CIFAR-10 images under MI-FGSM, and what six networks answer.

The images are not made when the site is, since that takes CIFAR-10: `make` measures, and its file is committed.
"""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from ... import attacks
from ...bench import plotting
from ...bench.evaluation import predictions
from ...files.paths import RESULTS, WEIGHTS, replacing
from ...files.provenance import run_info
from ...zoo import datasets, models
from ...zoo.nets import FAMILIES
from ...zoo.pictures import as_picture, to_uint8
from ...zoo.weights import manifest

FILE = RESULTS / "laptop" / "cifar10" / "play_budget.json"
BUDGETS = (0, 1, 2, 3, 4, 6, 8, 12, 16)
"""In 1/255."""
IMAGES, STEPS, SEARCHED = 5, 10, 100
SURROGATE = "resnet"


def make() -> None:
    """Measure and write `FILE`: of the first test images the first of each class that every network gets right, as many
    as `IMAGES`. Takes CIFAR-10; seconds on a CPU. Raises what `datasets.load` raises."""
    networks = {name: models.load(f"cifar10/{name}") for name in FAMILIES}
    data = datasets.load("cifar10", "test", SEARCHED)
    right = torch.stack([predictions(f, data) == data.y for f in networks.values()]).all(0)
    first = {int(data.y[i]): i for i in right.nonzero()[:, 0].flip(0).tolist()}
    few = data[sorted(first.values())[:IMAGES]]
    files: list[list[str]] = [[] for _ in few.y]
    answers: list[list[list[list[int]]]] = [[] for _ in few.y]
    for budget in BUDGETS:
        eps = budget / 255
        adv = (
            attacks.mi_fgsm(networks[SURROGATE], few.x, few.y, eps=eps, steps=STEPS, index=few.index) if eps else few.x
        )
        levels = to_uint8(adv, few.x, eps)
        shown = {name: f(levels / 255).detach().softmax(1).max(1) for name, f in networks.items()}
        for k, image in enumerate(levels.permute(0, 2, 3, 1).numpy()):
            files[k].append(_png(image))
            answers[k].append([[int(s.indices[k]), round(100 * s.values[k].item())] for s in shown.values()])
    found = {
        "dataset": "CIFAR-10",
        "attack": "MI-FGSM",
        "steps": STEPS,
        "surrogate": SURROGATE,
        "budgets": BUDGETS,
        "networks": list(networks),
        "classes": data.classes,
        "images": [
            {"index": int(i), "label": int(y), "files": f, "answers": a}
            for i, y, f, a in zip(few.index, few.y, files, answers, strict=True)
        ],
        "sha256": {name: manifest(WEIGHTS)[f"cifar10/{name}"]["sha256"] for name in networks},
        **run_info("cpu"),
    }
    with replacing(FILE) as partial:
        partial.write_text(json.dumps(found, separators=(",", ":")) + "\n", encoding="utf-8")


def _png(levels: np.ndarray) -> str:
    """uint8 (H, W, 3) as a PNG file in base64."""
    file = io.BytesIO()
    as_picture(levels).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def data() -> dict[str, Any]:
    """What was measured, without what only says where it comes from."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return {key: value for key, value in found.items() if key not in ("sha256", "torch", "device", "commit")}


def pictures(image: dict[str, Any]) -> torch.Tensor:
    """(budgets, 3, H, W) in [0, 1]: an image at every budget."""
    levels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(file)))) for file in image["files"]]
    return torch.from_numpy(np.stack(levels)).permute(0, 3, 1, 2) / 255


def still(numbers: dict[str, Any]) -> Figure:
    """Three images at every other budget, and how many networks name each wrongly."""
    columns, images = range(0, len(BUDGETS), 2), numbers["images"][:3]
    rows = {numbers["classes"][image["label"]]: pictures(image)[list(columns)] for image in images}
    notes = {
        numbers["classes"][image["label"]]: [f"{_wrong(image, c)} of {len(numbers['networks'])} wrong" for c in columns]
        for image in images
    }
    return plotting.gallery(rows, [f"{numbers['budgets'][c]}/255" for c in columns], notes, side=1.2)


def _wrong(image: dict[str, Any], budget: int) -> int:
    return sum(answer != image["label"] for answer, _ in image["answers"][budget])
