"""How fast the device is, and how near to it attacks, training and Hessian products come."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from ... import attacks, curvature, sam
from ...core.surrogate import Normalized
from ...zoo import models, nets
from ...zoo.acceleration import accelerate
from . import peers
from .cases import Bench, Case, Measure, of_rounds, ratios

EPS = 8 / 255
BFLOAT16 = torch.bfloat16
Attack = Callable[..., torch.Tensor]
Images = tuple[torch.Tensor, torch.Tensor]


# --- ceilings --------------------------------------------------------------------------------------------------------


def ceilings(bench: Bench) -> Iterator[Case]:
    """What nothing is faster than: products of matrices, copies, the launch of an operation."""
    yield Case("settings", 1, partial(settings, bench))
    for dtype in (BFLOAT16, torch.float32):
        yield Case(f"matrix product, {_name(dtype)}", 5, partial(matrices, bench, dtype))
    yield Case("memory", 5, partial(memory, bench))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def settings(bench: Bench) -> list[Measure]:
    """Whether float32 is multiplied with the 10 bits of TF32 (1) or not (0): the speeds below are of these settings."""
    backends = torch.backends
    of = {"convolutions": backends.cudnn.allow_tf32, "matrix products": backends.cuda.matmul.allow_tf32}
    return [Measure(f"TF32 in {name}", float(value), "1") for name, value in of.items()]


def matrices(bench: Bench, dtype: torch.dtype) -> list[Measure]:
    """Of two square matrices."""
    side = 256 if bench.tiny else 8192
    a, b = (torch.randn(side, side, device=bench.device, dtype=dtype) for _ in range(2))
    seconds = bench.timed({"product": lambda: a @ b})["product"]
    return [of_rounds("speed", (2e-12 * side**3 / t for t in seconds), "TFLOP/s")]


def memory(bench: Bench) -> list[Measure]:
    """A copy, which reads and writes, of what no cache holds; and the smallest operation there is."""
    source = torch.rand(2**20 if bench.tiny else 2**28, device=bench.device)
    target, one = torch.empty_like(source), torch.zeros(1, device=bench.device)
    seconds = bench.timed({"copy": lambda: target.copy_(source), "launch": lambda: one.add_(1)})
    return [
        of_rounds("copy", (8e-12 * source.numel() / t for t in seconds["copy"]), "TB/s"),
        of_rounds("one operation", (1e6 * t for t in seconds["launch"]), "us"),
    ]


# --- networks, and the passes that an attack cannot do without -------------------------------------------------------


def _resnet20() -> nn.Module:
    """Of He et al. (2015), for CIFAR."""
    return Normalized(nets.resnet(10, 16, 3, (16, 32, 64), pad=True), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def _resnet50() -> nn.Module:
    return Normalized(torchvision.models.resnet50(weights=None), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _resnet8() -> nn.Module:
    return Normalized(nets.resnet(10, 8, 1, (8, 16, 32)), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class Network(NamedTuple):
    """A network with random weights, on which its speed does not depend, and the side of its images in pixels. batches:
    their sizes, and the seconds that `loop` takes with each on a large GPU, about."""

    name: str
    make: Callable[[], nn.Module]
    side: int
    batches: Mapping[int, float]

    def case(self, n: int) -> str:
        return f"{self.name}, {self.side} px, batch {n}"

    def built(self, bench: Bench) -> nn.Module:
        """The same weights every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.make().eval().to(bench.device)


NETWORKS = (
    Network("ResNet-20", _resnet20, 32, {128: 10, 512: 10, 1024: 10}),
    Network("ResNet-50", _resnet50, 224, {32: 10, 64: 15, 256: 45}),
)
TINY = (Network("ResNet-8", _resnet8, 16, {2: 0}),)


def networks(bench: Bench) -> tuple[Network, ...]:
    """Those of this run."""
    return TINY if bench.tiny else NETWORKS


def images(bench: Bench, n: int, side: int) -> Images:
    """Random images in [0, 1] and classes."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(n, 3, side, side, generator=generator), torch.arange(n) % 10
    return x.to(bench.device), y.to(bench.device)


def passes(model: nn.Module, x: torch.Tensor, y: torch.Tensor, number: int) -> None:
    """That many forward and backward passes to the image: the least that an attack must do. model: frozen."""
    for _ in range(number):
        point = x.detach().requires_grad_()
        torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)


def _prepared(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).requires_grad_(False).to(memory_format=torch.channels_last)


# --- the loop --------------------------------------------------------------------------------------------------------


def loop(bench: Bench) -> Iterator[Case]:
    """MI-FGSM in every form but compiled, beside bare passes and the peers' loop."""
    for network in networks(bench):
        for n, seconds in network.batches.items():
            yield Case(network.case(n), seconds, partial(of_loop, bench, network, n))


def of_loop(bench: Bench, network: Network, n: int) -> list[Measure]:
    """Speeds; how many times as fast as the peers' loop; and the time over that of bare passes."""
    model = network.built(bench)
    forms = {
        "float32": _prepared(model),
        "folded": accelerate(model),
        "bfloat16": accelerate(model, fold_batchnorm=False, dtype=BFLOAT16),
        "folded, bfloat16": accelerate(model, dtype=BFLOAT16),
    }
    return _beside(bench, forms, model, *images(bench, n, network.side))


def _beside(
    bench: Bench, forms: dict[str, nn.Module], model: nn.Module, x: torch.Tensor, y: torch.Tensor
) -> list[Measure]:
    steps = 2 if bench.tiny else 10
    peer = copy.deepcopy(model).requires_grad_(True)
    flat = x.contiguous(memory_format=torch.channels_last)
    contestants = {"plain loop": partial(peers.mi_fgsm, peer, x, y, EPS, steps)}
    for form, net in forms.items():
        contestants[form] = partial(attacks.mi_fgsm, net, x, y, eps=EPS, steps=steps)
        contestants[f"bare {form}"] = partial(passes, net, flat, y, steps)
    seconds = bench.timed(contestants)
    work, found = len(x) * steps, []
    for form in ("plain loop", *forms):
        found.append(of_rounds(f"{form}: speed", (work / t for t in seconds[form]), "images x passes/s"))
    for form in forms:
        found.append(
            of_rounds(f"{form}: over the plain loop", ratios(seconds["plain loop"], seconds[form]), "times as fast")
        )
        found.append(
            of_rounds(f"{form}: over bare passes", ratios(seconds[form], seconds[f"bare {form}"]), "times as long")
        )
    return found


# --- compiled --------------------------------------------------------------------------------------------------------


def compiled(bench: Bench) -> Iterator[Case]:
    """The same with torch.compile, at one batch for each network: compiling takes a minute."""
    for dynamic in (False, None):
        for network in reversed(networks(bench)):
            n, kind = max(network.batches), "any batch" if dynamic is None else "this batch"
            yield Case(f"{network.case(n)}, {kind}", 90, partial(of_compiled, bench, network, n, dynamic))


def of_compiled(bench: Bench, network: Network, n: int, dynamic: bool | None) -> list[Measure]:
    """As `of_loop`, and the seconds of the first call. dynamic: of torch.compile; None is what `accelerate` has, which
    compiles for any batch once it has seen two, and an attack shows a model two images before its batch."""
    model, (x, y) = network.built(bench), images(bench, n, network.side)
    plain = accelerate(model, dtype=BFLOAT16)
    torch.compiler.reset()
    net = torch.compile(plain, dynamic=dynamic, backend="aot_eager" if bench.tiny else "inductor")
    start = bench.clock()
    attacks.mi_fgsm(net, x, y, eps=EPS, steps=1)
    bench.wait()
    first = Measure("compiled: first call", bench.clock() - start, "s")
    return [first, *_beside(bench, {"folded, bfloat16": plain, "compiled": net}, model, x, y)]


# --- attacks with copies ---------------------------------------------------------------------------------------------

COPIES: dict[str, tuple[Attack, int]] = {
    "DIM": (attacks.dim, 1),
    "SIM": (attacks.sim, 5),
    "RE": (attacks.re_fgsm, 5),
    "Composite": (attacks.composite, 5),
    "EM-RE-Composite": (partial(attacks.composite, **attacks.EM_RE), 25),
    "VMI": (partial(attacks.vmi_fgsm, points=4), 5),
    "TAIG": (partial(attacks.taig, points=5), 5),
    "GNP": (partial(attacks.mi_fgsm, **attacks.GNP), 2),
}
"""Attacks, and the passes that each takes in a step."""
CHUNKED = ("SIM", "RE", "Composite", "EM-RE-Composite", "TAIG")


def with_copies(bench: Bench) -> Iterator[Case]:
    """Time over that of the bare passes, copy by copy and with all copies at once."""
    for network in networks(bench):
        n = min(network.batches)
        for name in COPIES:
            yield Case(f"{name}, {network.case(n)}", 8, partial(of_attack, bench, network, n, name))


def of_attack(bench: Bench, network: Network, n: int, name: str) -> list[Measure]:
    """On the folded network in bfloat16."""
    (attack, each), steps = COPIES[name], 1 if bench.tiny else 2
    net, (x, y) = accelerate(network.built(bench), dtype=BFLOAT16), images(bench, n, network.side)
    ways = {"copy by copy": {"chunk": 1}, "copies at once": {"chunk": each}} if name in CHUNKED else {"as it is": {}}
    contestants: dict[str, Callable[[], object]] = {
        way: partial(attack, net, x, y, eps=EPS, steps=steps, **options) for way, options in ways.items()
    }
    contestants["bare"] = partial(passes, net, x.contiguous(memory_format=torch.channels_last), y, steps * each)
    seconds = bench.timed(contestants)
    return [
        of_rounds(f"{way}: over bare passes", ratios(seconds[way], seconds["bare"]), "times as long") for way in ways
    ]


# --- training --------------------------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": torch.optim.SGD,
    "SAM": sam.SAM,
    "CR-SAM": sam.CRSAM,
}


def _size(bench: Bench) -> str:
    """Of the ResNet that is trained: the thesis' ResNet-18, or a rehearsal's."""
    return "small" if bench.tiny else "full"


def _resnet(bench: Bench) -> nn.Module:
    return models.create("resnet", _size(bench)).to(bench.device, memory_format=torch.channels_last)


def training(bench: Bench) -> Iterator[Case]:
    """Steps of each optimizer."""
    for n in (4,) if bench.tiny else (128, 512):
        for dtype in (torch.float32, BFLOAT16):
            yield Case(f"{_size(bench)} ResNet, batch {n}, {_name(dtype)}", 10, partial(of_training, bench, n, dtype))


def of_training(bench: Bench, n: int, dtype: torch.dtype) -> list[Measure]:
    """Images a second, and the time of a step over that of SGD's."""
    x, y = images(bench, n, 32)
    x = x.contiguous(memory_format=torch.channels_last)
    seconds = bench.timed({name: _step(bench, make, x, y, dtype) for name, make in OPTIMIZERS.items()})
    return [
        *(of_rounds(f"{name}: speed", (n / t for t in seconds[name]), "images/s") for name in OPTIMIZERS),
        *(
            of_rounds(f"{name}: over SGD", ratios(seconds[name], seconds["SGD"]), "times as long")
            for name in OPTIMIZERS
        ),
    ]


def _step(
    bench: Bench, make: Callable[..., torch.optim.Optimizer], x: torch.Tensor, y: torch.Tensor, dtype: torch.dtype
) -> Callable[[], object]:
    net = _resnet(bench).train()
    optimizer = make(net.parameters(), lr=0.01, momentum=0.9)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        with nullcontext() if dtype is torch.float32 else torch.autocast(bench.device.type, dtype):
            loss = F.cross_entropy(net(x), y)
        loss.backward()
        return loss

    return partial(optimizer.step, closure)


# --- Hessian products ------------------------------------------------------------------------------------------------


def products(bench: Bench) -> Iterator[Case]:
    """On the same network in eval mode."""
    n = 2 if bench.tiny else 128
    yield Case(f"{_size(bench)} ResNet, batch {n}", 15, partial(of_products, bench, n))


def of_products(bench: Bench, n: int) -> list[Measure]:
    """A Hessian-vector product over a gradient, and the trace by 16 probes and 10 Lanczos vectors."""
    few, c = bench.tiny, curvature
    net, (x, y) = _resnet(bench).eval(), images(bench, n, 32)
    weights = c.weights(net)

    def loss() -> list[torch.Tensor]:
        return [F.cross_entropy(net(x), y)]

    seconds = bench.timed(
        {"gradient": lambda: c.gradient(loss, weights), "product": lambda: c.hvp(loss, weights, [weights])}
    )
    start = bench.clock()
    trace = c.hutchinson_trace(loss, weights, probes=2 if few else 16, deflate=1 if few else 10)
    took = bench.clock() - start
    return [
        of_rounds("product over gradient", ratios(seconds["product"], seconds["gradient"]), "times as long"),
        Measure("trace", took, "s"),
        Measure("standard error of the trace", 100 * abs(trace.standard_error / trace.value), "%"),
    ]
