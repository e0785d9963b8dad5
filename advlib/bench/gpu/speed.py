"""How fast the device is, and how near to it attacks, training and Hessian products come: cases of `bench.speed`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from ... import attacks, curvature
from ...gradients import cross_entropy
from ...graphs import captured
from ...zoo import models
from ...zoo.acceleration import accelerate
from ..speed import levers, peers, roofline, trace
from ..speed import training as steps_of
from ..speed.cases import Bench, Case, Measure, of_rounds, ratios
from ..speed.loop import over_bare
from ..speed.subjects import EPS, Network, Subject, channels_last, images, networks, passes, prepared

BFLOAT16 = torch.bfloat16
Attack = Callable[..., torch.Tensor]


# --- ceilings --------------------------------------------------------------------------------------------------------


def ceilings(bench: Bench) -> Iterator[Case]:
    """What nothing is faster than: products of matrices, copies, the launch of an operation."""
    yield Case("settings", 1, partial(settings, bench))
    for dtype in (BFLOAT16, torch.float32):
        yield Case(f"matrix product, {steps_of.name_of(dtype)}", 5, partial(roofline.matrices, bench, dtype))
    yield Case("memory", 5, partial(roofline.memory, bench))


def settings(bench: Bench) -> list[Measure]:
    """Whether float32 is multiplied with the 10 bits of TF32 (1) or not (0): the speeds below are of these settings."""
    backends = torch.backends
    of = {"convolutions": backends.cudnn.allow_tf32, "matrix products": backends.cuda.matmul.allow_tf32}
    return [Measure(f"TF32 in {name}", float(value), "1") for name, value in of.items()]


# --- the loop --------------------------------------------------------------------------------------------------------


def loop(bench: Bench) -> Iterator[Case]:
    """MI-FGSM in every form but compiled, beside bare passes and the peers' loop."""
    for network in networks(bench):
        for n, seconds in network.batches.items():
            yield Case(network.case(n), seconds, partial(of_loop, bench, network, n))


def of_loop(bench: Bench, network: Network, n: int) -> list[Measure]:
    """Speeds; how many times as fast as the peers' loop; and the time over that of bare passes. The last form also as
    CUDA graphs, attack and passes alike."""
    subject = network.subject(bench, n)
    model = subject.model
    forms = {
        "float32": prepared(model),
        "folded": accelerate(model),
        "bfloat16": accelerate(model, fold_batchnorm=False, dtype=BFLOAT16),
        "folded, bfloat16": accelerate(model, dtype=BFLOAT16),
    }
    return _beside(bench, subject, forms, "folded, bfloat16")


def _beside(bench: Bench, subject: Subject, forms: dict[str, nn.Module], last: str) -> list[Measure]:
    """last: which of the forms there is as CUDA graphs, too."""
    steps = 2 if bench.tiny else 10
    contestants = peers.contestants(subject, forms, steps)
    contestants |= {f"bare {form}": partial(passes, net, subject.flat, subject.y, steps) for form, net in forms.items()}
    contestants |= _as_graphs(subject, forms[last], steps, f"{last}, graph")
    seconds = bench.timed(contestants)
    work, found = len(subject.x) * steps, []
    forms = {**forms, f"{last}, graph": forms[last]}
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


def _as_graphs(subject: Subject, net: nn.Module, steps: int, name: str) -> dict[str, Callable[[], object]]:
    """The attack, and as many bare passes."""
    x, y = subject.x, subject.y

    def bare(model: nn.Module, x: torch.Tensor, y: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        passes(model, channels_last(x), y, steps)
        return x

    attack = captured(attacks.mi_fgsm, net, x, y, eps=EPS, steps=steps)
    return {name: partial(attack, x, y), f"bare {name}": partial(captured(bare, net, x, y), x, y)}


# --- compiled --------------------------------------------------------------------------------------------------------


def compiled(bench: Bench) -> Iterator[Case]:
    """The same with torch.compile, at one batch for each network: compiling takes half a minute."""
    for dynamic in (False, None):
        for network in reversed(networks(bench)):
            n, kind = sorted(network.batches)[-2:][0], "any batch" if dynamic is None else "this batch"
            yield Case(f"{network.case(n)}, {kind}", 35, partial(of_compiled, bench, network, n, dynamic))


def of_compiled(bench: Bench, network: Network, n: int, dynamic: bool | None) -> list[Measure]:
    """As `of_loop`, and the seconds of the first call. dynamic: of torch.compile; None is what `accelerate` has, which
    compiles for any batch once it has seen two, and an attack shows a model two images before its batch."""
    subject = network.subject(bench, n)
    plain = accelerate(subject.model, dtype=BFLOAT16)
    first = partial(attacks.mi_fgsm, x=subject.x, y=subject.y, eps=EPS, steps=1)
    net, seconds = levers.compiled(bench, plain, first, dynamic)
    forms = {"folded, bfloat16": plain, "compiled": net}
    return [Measure("compiled: first call", seconds, "s"), *_beside(bench, subject, forms, "compiled")]


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
    (attack, each), subject = COPIES[name], network.subject(bench, n)
    fast = subject._replace(model=accelerate(subject.model, dtype=BFLOAT16))
    ways = {"copy by copy": {"chunk": 1}, "copies at once": {"chunk": each}} if name in CHUNKED else {"as it is": {}}
    contestants = {way: (partial(attack, **options), each) for way, options in ways.items()}
    found = over_bare(bench, fast, contestants, 1 if bench.tiny else 2)
    return [of_rounds(f"{way}: over bare passes", found[way], "times as long") for way in ways]


# --- training --------------------------------------------------------------------------------------------------------


def _size(bench: Bench) -> str:
    """Of the ResNet that is trained: the thesis' ResNet-18, or a rehearsal's."""
    return "small" if bench.tiny else "full"


def _resnet(bench: Bench, n: int) -> Subject:
    net = models.create("resnet", _size(bench)).to(bench.device, memory_format=torch.channels_last)
    return Subject(f"{_size(bench)} ResNet", net, *images(bench, n, 32))


def training(bench: Bench) -> Iterator[Case]:
    """Steps of each optimizer."""
    for n in (4,) if bench.tiny else (128, 512):
        for dtype in (torch.float32, BFLOAT16):
            case = f"{_size(bench)} ResNet, batch {n}, {steps_of.name_of(dtype)}"
            yield Case(case, 10, partial(of_training, bench, n, dtype))


def of_training(bench: Bench, n: int, dtype: torch.dtype) -> list[Measure]:
    """Images a second, and the time of a step over that of SGD's."""
    seconds = steps_of.seconds_of_optimizers(bench, _resnet(bench, n), dtype)
    return [
        *(of_rounds(f"{name}: speed", (n / t for t in took), "images/s") for name, took in seconds.items()),
        *(
            of_rounds(f"{name}: over SGD", ratios(took, seconds["SGD"]), "times as long")
            for name, took in seconds.items()
        ),
    ]


# --- Hessian products ------------------------------------------------------------------------------------------------


def products(bench: Bench) -> Iterator[Case]:
    """On the same network in eval mode."""
    n = 2 if bench.tiny else 128
    yield Case(f"{_size(bench)} ResNet, batch {n}", 15, partial(of_products, bench, n))


def of_products(bench: Bench, n: int) -> list[Measure]:
    """A Hessian-vector product over a gradient, and the trace by 16 probes and 10 Lanczos vectors."""
    few, subject = bench.tiny, _resnet(bench, n)
    net = subject.model.eval()
    weights = curvature.weights(net)

    def loss() -> list[torch.Tensor]:
        return [cross_entropy(net(subject.x), subject.y).mean()]

    over = trace.products(bench, loss, weights)
    took, found = trace.timed_trace(bench, loss, weights, 2 if few else 16, 1 if few else 10)
    return [
        of_rounds("product over gradient", over, "times as long"),
        Measure("trace", took, "s"),
        Measure("standard error of the trace", 100 * abs(found.standard_error / found.value), "%"),
    ]
