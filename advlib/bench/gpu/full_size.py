"""The thesis' CIFAR-10 networks at their own size, trained and attacked on one GPU in some minutes.

    python -m advlib.bench.gpu.full_size --out DIR [--jobs 3] [--epochs-of 'DenseNet-BC-100=10' ...] [--n 1500]

Networks are trained by the recipe of the small zoo (one cycle, batches of 128, bfloat16), for the epochs in `NETWORKS`
unless others are asked for: far fewer than the thesis' 200, which `networks.json` says of each beside its accuracy on
all 10,000 test images. Then the first `n` test images are attacked on each of `SOURCES`, and shown to all, and to small
networks of the zoo that are hard to fool. Rows go to `transfer.csv`, which image was fooled beside them. Weights are
left in DIR/weights, and are too large to be committed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ... import attacks, sam
from ...core.intervals import paired_mean
from ...files.paths import RESULTS, replacing
from ...training import fitting
from ...training.recipes import RECIPES
from ...zoo import datasets, models
from ...zoo.acceleration import accelerate
from ...zoo.datasets import Images
from ..evaluation import Attack, success_rates
from ..results import ResultTable, outcomes


class Network(NamedTuple):
    """A network of the zoo at full size. wrapper: the optimizer around SGD, with the constants of the small zoo."""

    family: str
    epochs: int
    wrapper: partial | None = None


NETWORKS = {
    "DenseNet-BC-100": Network("densenet", 10),
    "WRN-28-10": Network("wrn", 6),
    "ResNet-18, CR-SAM": Network("resnet", 12, partial(sam.CRSAM, rho=0.1, alpha=0.1, beta=0.01)),
    "ResNet-18, SAM": Network("resnet", 12, partial(sam.SAM, rho=0.05)),
    "ResNet-18": Network("resnet", 12),
    "VGG-19": Network("vgg", 12),
}
"""Those that take longest first."""
SOURCES = ("ResNet-18", "VGG-19", "ResNet-18, SAM", "ResNet-18, CR-SAM", "DenseNet-BC-100")
HARD = {f"small VGG, {name}": f"cifar10/vgg-{variant}" for name, variant in (("PGD", "pgd"), ("ens3", "ens3"))}
ATTACKS: dict[str, Attack] = {
    "I-FGSM": attacks.i_fgsm,
    "MI-FGSM": attacks.mi_fgsm,
    "NI-FGSM": attacks.ni_fgsm,
    "EM-FGSM": attacks.em_fgsm,
    "DIM": attacks.dim,
    "TIM": attacks.tim,
    "MI-FGSM+GNP": partial(attacks.mi_fgsm, **attacks.GNP),
    "SIM": attacks.sim,
    "RE-FGSM": attacks.re_fgsm,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Train, then attack; 1 where a network could not be trained."""
    args = _parser().parse_args(argv)
    asked = {name: network.epochs for name, network in NETWORKS.items()}
    asked |= {name: int(epochs) for name, epochs in (text.rsplit("=", 1) for text in args.epochs_of)}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = {split: datasets.load("cifar10", split)[: 128 if args.tiny else None] for split in ("train", "val", "test")}
    size = "small" if args.tiny else "full"
    held = {split: _held(images) for split, images in data.items()}
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        jobs = {
            pool.submit(train, name, size, epochs, held, args.out, device): name
            for name, epochs in asked.items()
            if epochs and not _weights(args.out, name).is_file()
        }
        for job in as_completed(jobs):
            print(f"{jobs[job]}: {job.exception() or job.result()}", flush=True)
    if args.n:
        attack(data["test"][: args.n], size, args.out, device)
    return 1 if any(job.exception() for job in jobs) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m advlib.bench.gpu.full_size", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where everything goes")
    parser.add_argument("--jobs", type=int, default=3, help="networks that are trained at a time (3)")
    parser.add_argument(
        "--epochs-of", nargs="*", default=[], metavar="NAME=EPOCHS", help="other epochs; 0 leaves it out"
    )
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: small networks, 128 images of each split")
    parser.add_argument("--n", type=int, default=1500, help="test images that are attacked (1500; 0 for none)")
    return parser


def _weights(out: Path, name: str) -> Path:
    return out / "weights" / f"{name}.pt"


def _held(images: Images) -> dict[str, object]:
    """Images as another process takes them: arrays, which are copied, and not tensors, which would be shared."""
    return {name: v.numpy() if isinstance(v, torch.Tensor) else v for name, v in vars(images).items()}


def _images(held: Mapping[str, object]) -> Images:
    return Images(**{name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in held.items()})


def train(name: str, size: str, epochs: int, held: Mapping[str, object], out: Path, device: str) -> dict[str, object]:
    """Train one network, test it on all test images, keep its weights, and return what is known of it."""
    network, started = NETWORKS[name], perf_counter()
    recipe = replace(RECIPES["cifar10"], epochs=epochs, wrapper=network.wrapper)
    net = models.create(network.family, size).to(device)
    data = {split: _images(images) for split, images in held.items()}
    test = data["test"].to(device)

    def told(row: dict) -> None:
        print(f"{name}: {row['epoch']}: {row['val_accuracy']:.4f}, {row['seconds']:.1f} s", flush=True)

    history = fitting.fit(net, data["train"], data["val"], recipe, report=told)
    facts = {
        "network": name,
        "accuracy": fitting.accuracy(net, test),
        "n": len(test),
        "trained_on": len(data["train"]),
        "parameters": sum(p.numel() for p in net.parameters()),
        "epochs": epochs,
        "curve": [row["val_accuracy"] for row in history],
        "seconds_an_epoch": [round(row["seconds"], 2) for row in history],
        "seconds": round(perf_counter() - started, 1),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "torch": str(torch.__version__),
        "recipe": json.loads(json.dumps(recipe.facts(), default=str)),
    }
    with replacing(_weights(out, name)) as partial_file:
        torch.save({"facts": facts, "weights": net.state_dict()}, partial_file)
    return {key: facts[key] for key in ("accuracy", "seconds")}


def attack(data: Images, size: str, out: Path, device: str) -> None:
    """Attack the images on every source that was trained, and show them to all networks."""
    nets, facts = {}, []
    for name, network in NETWORKS.items():
        if _weights(out, name).is_file():
            saved = torch.load(_weights(out, name), map_location=device, weights_only=True)
            net = models.create(network.family, size).to(device).eval().requires_grad_(False)
            net.load_state_dict(saved["weights"])
            nets[name] = net.to(memory_format=torch.channels_last)
            facts.append(saved["facts"])
    with replacing(out / "networks.json") as partial_file:
        partial_file.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    targets = {**nets, **{name: models.load(zoo).to(device) for name, zoo in HARD.items()}}
    config = {"n": len(data), "networks": facts}
    table = ResultTable(out / "transfer.csv", "full size", "laptop", "cifar10", device, 0, config)
    for source in (name for name in SOURCES if name in nets):
        fast = {source: accelerate(nets[source], dtype=torch.bfloat16)}
        success_rates(ATTACKS, fast, targets, data.to(device), [4, 8], table=table, batch_size=500, title=source)


# --- the committed run -----------------------------------------------------------------------------------------------

COMMITTED = RESULTS / "gpu" / "full_size"
OPTIMIZERS = {"SGD": "ResNet-18", "SAM": "ResNet-18, SAM", "CR-SAM": "ResNet-18, CR-SAM"}
OTHERS = ("VGG-19", "DenseNet-BC-100", "WRN-28-10")
"""Networks of other families, in which a source's success counts as transfer."""


def flat_sources(attack: str, folder: Path = COMMITTED) -> pd.DataFrame:
    """What a flat minimum of the surrogate is worth: of ResNet-18, trained by each of `OPTIMIZERS`, the accuracy on the
    test images, and at 4/255 and 8/255 the success of the attack in percent, the mean over `OTHERS`, with what it is
    above that of SGD and the paired interval of 95 %. Raises KeyError for an attack that was not run on all three."""
    facts = json.loads((folder / "networks.json").read_text(encoding="utf-8"))
    accuracy = {network["network"]: 100 * network["accuracy"] for network in facts}
    found = pd.DataFrame({"accuracy (%)": {name: accuracy[net] for name, net in OPTIMIZERS.items()}})
    for eps in (4, 8):
        fooled = {name: _fooled(source, attack, eps, folder) for name, source in OPTIMIZERS.items()}
        above = {name: _points(fooled[name] - fooled["SGD"]) for name in OPTIMIZERS if name != "SGD"}
        found[f"success (%) at {eps}/255"] = pd.Series({name: 100 * share.mean() for name, share in fooled.items()})
        found[f"above SGD at {eps}/255, n = {len(fooled['SGD'])}"] = pd.Series({"SGD": "", **above})
    return found


def _fooled(source: str, attack: str, eps: float, folder: Path) -> np.ndarray:
    """Of every image that all networks name correctly, the share of `OTHERS` that it fools."""
    kept = outcomes(folder / "transfer.csv")
    cells = [kept.cells[source, attack, target, float(eps)] for target in OTHERS]
    return np.mean([cell.fooled[cell.right] for cell in cells], axis=0)


def _points(differences: np.ndarray) -> str:
    points, low, high = (100 * value for value in paired_mean(differences))
    return f"{points:+.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    sys.exit(main())
