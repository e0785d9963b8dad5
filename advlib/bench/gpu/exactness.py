"""Whether the device gives what the CPU gives: random numbers, attacks, optimizers, Hessian-vector products."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import nn

from ... import attacks, curvature, sam
from ...core.draws import Draw
from ...core.surrogate import ensemble
from ...engine.determinism import deterministic
from ...ghosts import dropout_erosion, skip_erosion
from ...gradients import cross_entropy
from ...layers import linear_backward, skip_gradient
from ...zoo import datasets, models
from ...zoo.acceleration import accelerate
from ...zoo.datasets import Images
from ..speed.cases import Bench, Case, Measure

EPS = 8 / 255
LAYER = "layer2.0"
CPU = torch.device("cpu")
Networks = tuple[nn.Module, nn.Module]  # the surrogate, and another for ensembles
Attack = Callable[..., torch.Tensor]  # of Networks, x, y, and options
Make = Callable[..., torch.optim.Optimizer]


def exactness(bench: Bench) -> Iterator[Case]:
    """On small trained networks, with convolutions that round as float32 does."""
    yield Case("draws", 5, partial(draws, bench))
    data = datasets.load(bench.dataset, "test", n=2 if bench.tiny else 64)
    networks = {place: _networks(bench.dataset, place) for place in {CPU, bench.device}}
    for name, attack in ATTACKS.items():
        yield Case(name, 5, partial(attacked, bench, networks, data, attack))
    for name, make in OPTIMIZERS.items():
        yield Case(name, 5, partial(trained, bench, data, make))
    yield Case("Hessian-vector product", 5, partial(product, bench, networks, data))


def _networks(dataset: str, device: torch.device) -> Networks:
    f, h = (models.load(f"{dataset}/{family}").to(device) for family in ("resnet", "vgg"))
    return f, h


def _float32() -> AbstractContextManager[None]:
    """Without TF32, which keeps 10 bits of what is multiplied, and is torch's default for convolutions."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def _percent(equal: torch.Tensor) -> float:
    return 100 * equal.float().mean().item()


def _apart(here: torch.Tensor, there: torch.Tensor) -> float:
    """The L2 norm of the difference, as a share of that of `here`."""
    return ((here - there).norm() / here.norm()).item()


# --- random numbers --------------------------------------------------------------------------------------------------


def draws(bench: Bench) -> list[Measure]:
    """Images, hash words, which are integers, and normal numbers, up to the rounding of logarithm and cosine."""
    index, copy = torch.tensor([0, 1, 5, 10**6, 2**31 + 7]), torch.arange(5)
    here = Draw(2**33 + 5, index, step=3, copy=copy, stream=4096)
    there = here.at(index=index.to(bench.device), copy=copy.to(bench.device))
    words, normal = ((f(here), f(there).cpu()) for f in (lambda d: d.words(1000), lambda d: d.normal(1000)))
    levels = torch.arange(256, dtype=torch.uint8)
    unit = datasets.in_unit_range(levels), datasets.in_unit_range(levels.to(bench.device)).cpu()
    return [
        Measure("equal values of images", _percent(unit[0] == unit[1]), "%"),
        Measure("equal hash words", _percent(words[0] == words[1]), "%"),
        Measure("largest difference of normal numbers", (normal[0] - normal[1]).abs().max().item(), "1"),
    ]


# --- attacks ---------------------------------------------------------------------------------------------------------


def on(attack: Attack, network: Callable[..., nn.Module] = lambda f, h: f, **options: object) -> Attack:
    """The attack with these options on what `network` makes of the two."""
    return lambda networks, *args, **more: attack(network(*networks), *args, **{**more, **options})


ATTACKS: dict[str, Attack] = {
    "I-FGSM": on(attacks.i_fgsm),
    "PGD": on(attacks.pgd),
    "PGD, L2": on(attacks.pgd, norm="l2", eps=0.5),
    "MI-FGSM": on(attacks.mi_fgsm),
    "MI-FGSM, folded": on(attacks.mi_fgsm, lambda f, h: accelerate(f)),
    "MI-FGSM, bfloat16": on(attacks.mi_fgsm, lambda f, h: accelerate(f, dtype=torch.bfloat16)),
    "EM-FGSM": on(attacks.em_fgsm),
    "VMI-FGSM": on(attacks.vmi_fgsm, points=3),
    "EMI-FGSM": on(attacks.emi_fgsm, points=3),
    "GNP": on(attacks.mi_fgsm, **attacks.GNP),
    "PGN": on(attacks.pgn, points=3),
    "noise-averaged": on(attacks.smoothed_gradient, points=3),
    "DIM": on(attacks.dim),
    "TIM": on(attacks.tim),
    "SIM": on(attacks.sim, chunk=1),
    "RE": on(attacks.re_fgsm, chunk=1),
    "RE, copies at once": on(attacks.re_fgsm, chunk=5),
    "Composite": on(attacks.composite, chunk=1),
    "TAIG": on(attacks.taig, points=3, chunk=1),
    "RAP": on(attacks.rap, late=0),
    "AA": on(attacks.aa, layer=LAYER),
    "ATA": on(attacks.ata, layers=LAYER),
    "AoA": on(attacks.aoa),
    "LinBP": on(attacks.mi_fgsm, lambda f, h: linear_backward(f, LAYER)),
    "SGM": on(attacks.mi_fgsm, lambda f, h: skip_gradient(f, "bn2")),
    "ghosts by dropout": on(attacks.mi_fgsm, lambda f, h: dropout_erosion(f, "bn1", 0.05)),
    "ghosts by skips": on(attacks.mi_fgsm, lambda f, h: skip_erosion(f, "layer*.0.bn2")),
    "ensemble": on(attacks.mi_fgsm, lambda f, h: ensemble([f, h])),
    "SVRE": on(attacks.svre, lambda f, h: ensemble([f, h])),
}


def attacked(bench: Bench, networks: Mapping[torch.device, Networks], data: Images, attack: Attack) -> list[Measure]:
    """The images of the device beside those of the CPU, beside its own of a second run, also by algorithms that repeat
    themselves, and of halves of the batch; and how many fool the surrogate."""

    def made(device: torch.device, images: Images) -> torch.Tensor:
        batch, steps = images.to(device), 1 if bench.tiny else 4
        return attack(networks[device], batch.x, batch.y, eps=EPS, steps=steps, index=batch.index).cpu()

    with _float32(), torch.no_grad():
        here, there, again = made(CPU, data), made(bench.device, data), made(bench.device, data)
        with deterministic():
            strict = made(bench.device, data), made(bench.device, data)
        half = len(data) // 2
        halves = torch.cat([made(bench.device, part) for part in (data[:half], data[half:])])
        fooled = [networks[CPU][0](adv).argmax(1) != data.y for adv in (here, there)]
    return [
        Measure("images that differ", _percent((here != there).flatten(1).any(1)), "%"),
        Measure("equal values", _percent(here == there), "%"),
        Measure("largest difference", 255 * (here - there).abs().max().item(), "1/255"),
        Measure("equal values, second run", _percent(there == again), "%"),
        Measure("equal values, second run, deterministic", _percent(strict[0] == strict[1]), "%"),
        Measure("equal values, half the batch", _percent(there == halves), "%"),
        Measure("success, CPU", _percent(fooled[0]), "%"),
        Measure("success, device", _percent(fooled[1]), "%"),
    ]


# --- derivatives by weights ------------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Make] = {
    "SGD": torch.optim.SGD,
    "SAM": sam.SAM,
    "CR-SAM": sam.CRSAM,
    "CR-SAM, logarithms": partial(sam.CRSAM, form="log"),
}


def trained(bench: Bench, data: Images, make: Make) -> list[Measure]:
    """The weights after three steps."""
    with _float32():
        here, there = (_weights(bench, data.to(place), make) for place in (CPU, bench.device))
    return [Measure("difference of the weights over their length", _apart(here, there), "1")]


def _weights(bench: Bench, data: Images, make: Make) -> torch.Tensor:
    net = models.create("resnet", dataset=bench.dataset).to(data.labels.device).train()
    optimizer = make(net.parameters(), lr=0.05, momentum=0.9)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(net(data.x), data.y).mean()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    return torch.cat([p.detach().flatten().cpu() for p in net.parameters()])


def product(bench: Bench, networks: Mapping[torch.device, Networks], data: Images) -> list[Measure]:
    """H v of the trained network, v the same everywhere."""
    found = []
    with _float32():
        for device in (CPU, bench.device):
            net = networks[device][0]
            weights = curvature.weights(net)
            v = [torch.linspace(-1, 1, w.numel()).view_as(w).to(device) for w in weights]
            (hv,) = curvature.hvp(curvature.mean_loss(net, data.to(device)), weights, [v])
            found.append(torch.cat([part.flatten().cpu() for part in hv]))
    return [Measure("difference over the length", _apart(*found), "1")]
