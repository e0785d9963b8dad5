"""Digests of the numbers that this package computes, to compare two checkouts on one machine.

It prints one line, `name  16-hex-digits`, for each quantity: the first digits of a sha256 of types, shapes and bytes.
Digests differ between processors and torch versions, so there is nothing to compare them with but those of another
checkout: run it in both, and `diff` the outputs.

    PYTHONPATH=. python tests/digests.py > digests

It takes two to three minutes. With --tables it also runs chapters 02 and 05 at smoke scale, which takes another one or
two, and prints a line for each of their tables. On stderr it says where it found the package.
"""

import argparse
import csv
import hashlib
import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import astuple, is_dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn.functional import cross_entropy

import advlib as al

ROOT = Path(al.__file__).resolve().parents[1]
EPS, STEPS = 16 / 255, {"steps": 3}
OF_A_RUN = {"seconds", "commit", "torch", "device"}  # columns of a table that the same code may fill otherwise


def parts(value):
    """The bytes of what is in `value`: those of a tensor behind its type and shape, others as Python writes them."""
    if isinstance(value, torch.Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, list | tuple) or is_dataclass(value):
        for member in astuple(value) if is_dataclass(value) else value:
            yield from parts(member)
    else:
        yield repr(value).encode()


def presets(f, target, pool):
    """Attacks of `al.attacks` on the network f, by names that begin with theirs: first those that draw nothing."""
    penalty = lambda **options: {"wrap": partial(al.norm_penalty, **options)}  # noqa: E731
    wanted, l2, noise = {"target": target}, {"norm": "l2", "eps": 1.0}, {"points": 4, "noise": EPS}
    fixed = dict.fromkeys(("i_fgsm", "mi_fgsm", "ni_fgsm", "em_fgsm", "tim", "sim"), {}) | {
        "em_fgsm l1": {"normalize": "l1"},
        "em_fgsm l2": {"normalize": "l2"},
        "mi_fgsm in the l2 ball": l2,
        "i_fgsm margin targeted": {"loss": "margin", **wanted},
        "taig": {"points": 4},
        "rap": {"late": 1},
        "rap targeted": {"late": 1, **wanted},
        "i_fgsm GNP": al.GNP,
        "i_fgsm GNP mean": penalty(unit="mean"),
        "i_fgsm GNP rescale": penalty(r=0.1, beta=-1.0, rescale=True),
    }
    drawn = dict.fromkeys(("pgd", "dim", "re_fgsm", "composite"), {}) | {
        "pgd every": {"start": "every"},
        "pgd l2": l2,
        "pgd l2 every": {"start": "every", **l2},
        "mi_fgsm index": {"start": "once", "index": torch.arange(len(target)) + 1000},
        "dim erased": {"transform": [al.RandomErasure(2), al.InputDiversity(copies=2)], "chunk": 3},
        "composite EM_RE": {"steps": 1, **al.EM_RE},
        "admix": {"pool": pool, "steps": 2},
        "taig noise": {"chunk": 3, **noise},
        "taig noise l2 every": {"start": "every", **noise, **l2},
        "dim GNP": al.GNP,
        "dim GNP targeted": {**wanted, **penalty(r=0.01)},
    }
    named = lambda name: getattr(al.attacks, name.split()[0])  # noqa: E731
    return [{n: partial(named(n), f, **{**STEPS, **options}) for n, options in t.items()} for t in (fixed, drawn)]


def others(f, h, target):
    """The same two dicts of attacks on other networks, in other types, and of gradient functions put together here."""
    a, cw = al.attacks, partial(al.carlini_wagner, f, steps=6, searches=2)
    ila_plus_plus = (getattr(al, "layers", None) or al.features).ila_plus_plus
    g = al.gradient(f, al.InputDiversity(), "logit")
    paths = [al.integrated(g, points=3, reference=0.5, noise=0.1), al.reverse_perturbed(g, steps=2, start=1)]
    mixed = al.cycled([al.norm_penalty(g), al.smoothed(al.gradient(h), 5), *paths])
    fixed = {
        "fgsm": partial(a.fgsm, f),
        "mi_fgsm folded in the l2 ball": partial(a.mi_fgsm, al.accelerate(f), norm="l2", **{**STEPS, "eps": 1.0}),
        "mi_fgsm folded bfloat16": partial(a.mi_fgsm, al.accelerate(f, dtype=torch.bfloat16), **STEPS),
        "ensemble": partial(a.mi_fgsm, al.ensemble([f, h]), **STEPS),
        "linear_backward": partial(a.i_fgsm, al.linear_backward(f, "layer2.0"), **STEPS),
        "skip_gradient": partial(a.mi_fgsm, al.skip_gradient(f, "layer*.*.bn2", 0.5), **STEPS),
        "ila_plus_plus": partial(ila_plus_plus, f, layer="layer2.0", refine=3, **STEPS),
        "carlini_wagner": cw,
        "carlini_wagner targeted": partial(cw, target=target),
    }
    drawn = {
        "lgv": partial(a.lgv, [f, h, al.ensemble([f, h])], **STEPS),
        "bfloat16": partial(in_type, torch.bfloat16, a.dim, f),
        "float16": partial(in_type, torch.float16, a.pgd, f),
        "float64": partial(in_type, torch.float64, a.dim, f),
        "cycled": partial(al.attack, g=mixed, eps=EPS, steps=4, momentum=al.Elastic(0.9, 0.5)),
    }
    return fixed, drawn


def in_type(dtype, attack, f, x, y, **options):
    """The attack with network and images in another floating-point type."""
    return attack(deepcopy(f).to(dtype), x.to(dtype), y, **STEPS, **options)


def attacks(f, h, x, y, target, pool):
    """Adversarial images of every attack, at two seeds where it draws."""
    for fixed, drawn in (presets(f, target, pool), others(f, h, target)):
        for name, attack in fixed.items():
            yield name, attack(x, y)
        for name, attack in drawn.items():
            yield from ((f"{name} seed={seed}", attack(x, y, seed=seed)) for seed in (0, 1))
    with TemporaryDirectory() as folder:
        files = al.save_images(al.attacks.fgsm(f, x, y), x, EPS, folder, [str(i) for i in range(len(x))])
        yield "save_images", [file.read_bytes() for file in files]


def random_numbers(data, pool):
    """Hash words, random numbers and transformed images at two seeds."""
    copy, erasures = torch.arange(len(data)) % 5, [al.RandomErasure(), al.RandomErasure(p=1.0, aspect=0.3, fill=0.5)]
    transforms = [al.InputDiversity(), al.InputDiversity(1.0, 1.5), al.ScaleCopies(), al.MixedImages(pool), *erasures]
    for seed in (0, 1):
        draw = al.draws.Draw(seed, data.index, step=3, copy=copy, stream=16)
        yield f"Draw seed={seed}", [draw.words(7), draw.uniform(3, 5), draw.normal(3, 5)]
        yield f"masks seed={seed}", [t.mask(32, 48, draw, copy) for t in erasures]
        yield from ((f"{t} seed={seed}", t(data.x, draw, copy)) for t in transforms)


def penalties(f, x, y):
    """The penalties of chapter 4, in both forms and modes of BatchNorm, with the gradient of their mean."""
    for name in ("lrs1", "lrs2", "lrs_f"):
        for form, train in (("reference", False), ("reference", True), ("text", False)):
            net = deepcopy(f).train(train)
            values = getattr(al.lipschitz, name)(net, x, y, form=form)
            gradient = torch.autograd.grad(values.mean(), al.curvature.weights(net), materialize_grads=True)
            yield f"{name} {form} train={train}", [values, gradient, list(net.buffers())]
    for norm, eps in (("linf", 8 / 255), ("l2", 0.5)):
        yield f"local_lipschitz {norm}", [al.lipschitz.local_lipschitz(f, x, eps, 3, norm, seed) for seed in (0, 1)]


def optimizers(train):
    """Losses, weights and statistics of an untrained network over ten steps of each optimizer of chapter 5."""
    sam, options = al.sam, {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
    adaptive, log = partial(sam.SAM, adaptive=True, rho=0.5), partial(sam.CRSAM, form="log")
    kinds = {"SAM": sam.SAM, "SAM adaptive": adaptive, "LookSAM": partial(al.sam_family.LookSAM, every=3)}
    for name, kind in (kinds | {"RandomSAM": sam.RandomSAM, "CRSAM": sam.CRSAM, "CRSAM log": log}).items():
        net = al.models.create("resnet", "small", "shapes", seed=0).train()
        optimizer = kind(net.parameters(), torch.optim.SGD, **options)
        torch.manual_seed(0)
        losses = [optimizer.step(partial(backward, net, batch)) for batch in train.batches(32)]
        yield name, [losses, list(net.state_dict().values())]


def backward(net, batch):
    """The loss of a batch, after its backward pass: what an optimizer calls."""
    loss = cross_entropy(net(batch.x), batch.y)
    loss.backward()
    return loss


def curvatures(f, data):
    """What chapter 5 measures of a trained network, of a loss in two parts; products with H in train mode too."""
    c, few, net = al.curvature, {"probes": 4, "deflate": 2, "per_graph": 2}, deepcopy(f).train()
    loss, weights = c.mean_loss(f, data, 32), c.weights(f)
    across, ahead = (c.filter_normalized(weights, seed) for seed in (0, 1))
    yield "hvp", c.hvp(loss, weights, [across, ahead])
    yield "hvp train=True", c.hvp(c.mean_loss(net, data), c.weights(net), [across, ahead])
    yield "hutchinson_trace", c.hutchinson_trace(loss, weights, **few)
    yield "normalized_trace", c.normalized_trace(c.mean_loss(f, data), weights, **few)
    yield "top_eigenvalue", c.top_eigenvalue(loss, weights, steps=6)
    batches = [c.mean_loss(f, batch) for batch in data.batches(32)]
    yield "approximation_ratio", c.approximation_ratio(batches, weights, rho=0.1, steps=5)
    yield "loss_surface", c.loss_surface(loss, weights, across, ahead, torch.linspace(-0.5, 0.5, 5))


def tables(*numbers):
    """The rows of the tables that chapters write at smoke scale."""
    with TemporaryDirectory() as out:
        command = [sys.executable, "-m", "advlib", "run", *numbers, "--scale", "smoke", "--fresh", "--out", out]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr, check=True)
        for path in sorted(Path(out, "tables").glob("*/*.csv")):
            with path.open(newline="", encoding="utf-8") as file:
                rows = [[pair for pair in row.items() if pair[0] not in OF_A_RUN] for row in csv.DictReader(file)]
            yield f"{path.parent.name}/{path.name}", rows


def quantities(with_tables):
    """The names of all quantities, and what they are."""
    f, h = al.models.load("shapes/resnet"), al.models.load("shapes/vgg")
    data, train = al.datasets.load("shapes", n=64), al.datasets.load("shapes", "train", n=320)
    x, y, pool = data.x, data.y, train[:32].x
    yield "data", [x, y, pool]
    yield from random_numbers(data, pool)
    yield from attacks(f, h, x, y, (y + 1) % 10, pool)
    yield from penalties(f, x, y)
    yield from optimizers(train)
    yield from curvatures(f, data)
    yield from tables("02", "05") if with_tables else ()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tables", action="store_true", help="run chapters 02 and 05 too")
    with_tables = parser.parse_args().tables
    torch.set_num_threads(1)  # how many threads share a sum changes its last bits
    print(f"digests of {ROOT}", file=sys.stderr)
    for name, value in quantities(with_tables):
        print(f"{name}  {hashlib.sha256(b''.join(parts(value))).hexdigest()[:16]}", flush=True)
