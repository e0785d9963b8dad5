"""The named attacks: a rule, a gradient and the cited paper's constants, which are the thesis' settings (sect. 2.3.1).

    adv = mi_fgsm(f, x, y, eps=8/255)
    adv = dim(f, x, y, steps=20, momentum=Elastic(mu=1.0, sigma=2.0), kernel=7)

Each takes (model, x, y, eps) and, by keyword, whatever of `Options` it does not set itself. x: float (N, C, H, W) in
[0, 1]; y: int64 (N,); eps: in the same units. The adversarial images are like x, within eps of it and within [0, 1].
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, TypedDict, TypeVar, Unpack, cast

from torch import Tensor, nn

from .advice import compositions as compositions
from .advice import recommended as recommended
from .core import checks
from .core.checks import Model
from .core.surrogate import Ensemble, under_attack
from .feature_attacks import activation, attention, relevance
from .gradients import (
    Gradient,
    Loss,
    Transform,
    cycled,
    gradient,
    integrated,
    listed,
    neighbours,
    norm_penalty,
    reverse_perturbed,
    smoothed,
)
from .loop import attack
from .rules import MI, PLAIN, Elastic, EnhancedMomentum, Rule, VarianceReduced, VarianceTuned
from .transforms import InputDiversity, MixedImages, RandomErasure, ScaleCopies


class LoopOptions(TypedDict, total=False):
    """What `attack` takes by keyword, besides eps."""

    steps: int
    alpha: float | None
    momentum: Rule
    norm: str
    start: str
    target: Tensor | None
    seed: int
    index: Tensor | None


class Options(LoopOptions, total=False):
    """What a named attack takes by keyword. transform, loss, chunk: of `gradient`; kernel, std: of `smoothed`; wrap:
    what is done to the gradient function last, such as `norm_penalty`; the others: of `attack`."""

    transform: Transform | Sequence[Transform] | None
    kernel: int
    std: float | None
    loss: str | Loss
    wrap: Callable[[Gradient], Gradient] | None
    chunk: int | str


def _run(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    behind: Sequence[Transform] = (),
    transform: Transform | Sequence[Transform] | None = None,
    kernel: int = 1,
    std: float | None = None,
    loss: str | Loss = "cross_entropy",
    wrap: Callable[[Gradient], Gradient] | None = None,
    chunk: int | str = "auto",
    make: Callable[..., Gradient] | None = None,
    **options: Any,
) -> Tensor:
    """behind: the attack's own transforms, which come after those of the caller; make: makes the gradient function in
    place of `gradient`; options: of `attack`."""
    checks.network(model)
    make = partial(gradient, loss=loss) if make is None else make
    g = make(model, transform=(*listed(transform), *behind), chunk=chunk)
    return attack(x, y, _wrapped(smoothed(g, kernel, std), wrap), eps=eps, **options)


def _wrapped(g: Gradient, wrap: Callable[[Gradient], Gradient] | None) -> Gradient:
    if wrap is None:
        return g
    checks.function("wrap", wrap, "a function from a gradient function to another, such as norm_penalty", 1)
    g = wrap(g)
    checks.instance("wrap", g, Gradient, "a function that returns a gradient function")
    return g


_OPTIONS = {
    name: parameter
    for function in (_run, attack)
    for name, parameter in inspect.signature(function).parameters.items()
    if name in Options.__annotations__
}
Preset = TypeVar("Preset", bound=Callable[..., Tensor])


def preset(*fixed: str, **defaults: object) -> Callable[[Preset], Preset]:
    """A named attack that passes its options on to `_run`, where they default to `defaults`. Its signature spells out
    those that it takes, which are all but `fixed` and its own parameters."""

    def decorate(function: Preset) -> Preset:
        @wraps(function)
        def named(*args: object, **options: object) -> Tensor:
            return function(*args, **(defaults | options))

        own = inspect.signature(function)
        of_its_own = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        others = [p for name, p in _OPTIONS.items() if name not in fixed and name not in own.parameters]
        options = [p.replace(default=defaults.get(p.name, p.default)) for p in others]
        named.__signature__ = own.replace(parameters=[*of_its_own, *options])  # type: ignore[attr-defined]
        return cast(Preset, named)

    return decorate


# No type says "all `Options` but these", so that a preset whose own parameter or constant is one of them needs an
# ignore[misc] below; its signature, which `preset` makes, has each once.
ERASURE = RandomErasure()


@preset("momentum", "steps")
def fgsm(model: Model, x: Tensor, y: Tensor, eps: float = 16 / 255, **options: Unpack[Options]) -> Tensor:
    """FGSM: one step of length eps (Goodfellow et al. 2015; thesis sect. 1.2.1)."""
    return _run(model, x, y, eps, momentum=PLAIN, steps=1, **options)


@preset("momentum")
def i_fgsm(model: Model, x: Tensor, y: Tensor, eps: float = 16 / 255, **options: Unpack[Options]) -> Tensor:
    """I-FGSM: `steps` steps of eps / steps (Kurakin et al. 2017; thesis eq. 1.2)."""
    return _run(model, x, y, eps, momentum=PLAIN, **options)


@preset("momentum")
def pgd(  # type: ignore[misc]
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 8 / 255,
    steps: int = 10,
    alpha: float | None = None,
    start: str = "once",
    **options: Unpack[Options],
) -> Tensor:
    """PGD from a random start, steps of 2.5 eps / steps if alpha is None (Madry et al. 2018); norm="l2" for the L2
    ball."""
    checks.budget(eps, steps)
    alpha = 2.5 * eps / steps if alpha is None and eps > 0 else alpha
    return _run(model, x, y, eps, momentum=PLAIN, steps=steps, alpha=alpha, start=start, **options)


@preset("momentum")
def mi_fgsm(
    model: Model, x: Tensor, y: Tensor, eps: float = 16 / 255, mu: float = 1.0, **options: Unpack[Options]
) -> Tensor:
    """MI-FGSM (Dong et al. 2018; thesis eq. 1.3)."""
    return _run(model, x, y, eps, momentum=Elastic(mu), **options)


@preset("momentum")
def ni_fgsm(
    model: Model, x: Tensor, y: Tensor, eps: float = 16 / 255, mu: float = 1.0, **options: Unpack[Options]
) -> Tensor:
    """NI-FGSM: look one step ahead (Lin et al. 2020; thesis eq. 1.4)."""
    return _run(model, x, y, eps, momentum=Elastic(mu, sigma=mu), **options)


@preset("momentum")
def em_fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 16 / 255,
    mu: float = 1.0,
    sigma: float = 2.0,
    normalize: str = "mean",
    project: str = "none",
    **options: Unpack[Options],
) -> Tensor:
    """EM-FGSM: look sigma steps ahead (thesis sect. 2.2.1), by the rule `Elastic`."""
    return _run(model, x, y, eps, momentum=Elastic(mu, sigma, normalize, project), **options)


@preset("momentum")
def vmi_fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 16 / 255,
    *,
    points: int = 20,
    radius: float = 1.5,
    **options: Unpack[Options],
) -> Tensor:
    """VMI-FGSM: MI-FGSM with variance tuning (Wang & He 2021; [73] of the thesis), by the rule `VarianceTuned`."""
    return _run(model, x, y, eps, momentum=VarianceTuned(MI, points, radius), **options)


@preset("momentum")
def vni_fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 16 / 255,
    *,
    points: int = 20,
    radius: float = 1.5,
    **options: Unpack[Options],
) -> Tensor:
    """VNI-FGSM: NI-FGSM with variance tuning (Wang & He 2021; [73] of the thesis), by the rule `VarianceTuned`."""
    return _run(model, x, y, eps, momentum=VarianceTuned(Elastic(1.0, 1.0), points, radius), **options)


@preset("momentum")
def emi_fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 16 / 255,
    *,
    points: int = 11,
    interval: float = 7.0,
    **options: Unpack[Options],
) -> Tensor:
    """EMI-FGSM (Wang et al. 2021; [72] of the thesis), by the rule `EnhancedMomentum`."""
    return _run(model, x, y, eps, momentum=EnhancedMomentum(MI, points, interval), **options)


@preset("momentum")
def svre(
    model: Model, x: Tensor, y: Tensor, eps: float = 16 / 255, *, rounds: int = 4, **options: Unpack[Options]
) -> Tensor:
    """SVRE on MI-FGSM, of an `ensemble` (Xiong et al. 2022; [99] of the thesis), by the rule `VarianceReduced`."""
    checks.instance("model", model, Ensemble, "an ensemble, such as al.ensemble([f, h])")
    return _run(model, x, y, eps, momentum=VarianceReduced(MI, rounds), **options)


@preset("wrap")
def smoothed_gradient(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 16 / 255,
    *,
    radius: float = 15 / 255,
    points: int = 20,
    **options: Unpack[Options],
) -> Tensor:
    """I-FGSM along gradients averaged over normal noise of the standard deviation `radius` (Wu & Zhu 2020; the "SGM" of
    thesis sect. 1.2.3, [49]). radius, points: of `neighbours`; the paper's for ImageNet, as others cite it."""
    around = partial(neighbours, radius=radius, points=points, noise="normal")
    return _run(model, x, y, eps, wrap=around, **options)  # type: ignore[misc]


@preset("wrap", momentum=MI)
def pgn(  # type: ignore[misc]
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 16 / 255,
    steps: int = 10,
    *,
    points: int = 20,
    radius: float = 3.0,
    beta: float = 0.5,
    **options: Unpack[Options],
) -> Tensor:
    """PGN on MI-FGSM (Ge et al. 2023): the penalty of thesis chapter 3, by a backward difference over a step of
    eps / steps, at `points` points drawn up to radius * eps around the iterate."""
    checks.budget(eps, steps)
    checks.number("radius", radius, 0)
    penalty = partial(norm_penalty, r=eps / steps or 1.0, beta=beta, unit="mean", difference="backward")
    around = partial(neighbours, radius=radius * eps, points=points)
    return _run(model, x, y, eps, wrap=lambda g: around(penalty(g)), steps=steps, **options)


@preset(momentum=MI)
def dim(model: Model, x: Tensor, y: Tensor, eps: float = 16 / 255, **options: Unpack[Options]) -> Tensor:
    """DIM on MI-FGSM (Xie et al. 2019); what `transform` holds comes first."""
    return _run(model, x, y, eps, behind=[InputDiversity()], **options)


@preset(momentum=MI)
def rdim(
    model: Model, x: Tensor, y: Tensor, eps: float = 16 / 255, *, scale: float = 1.14, **options: Unpack[Options]
) -> Tensor:
    """RDIM on MI-FGSM (Zou et al. 2020; [75] of the thesis): `dim` at every step, on a larger canvas that is resized
    back to the network's own size; what `transform` holds comes first. scale: canvas over image, of the paper's sizes
    from 340 to 500 for 299 the first."""
    return _run(model, x, y, eps, behind=[InputDiversity(p=1.0, scale=scale)], **options)


@preset(momentum=MI, kernel=7)
def tim(model: Model, x: Tensor, y: Tensor, eps: float = 16 / 255, **options: Unpack[Options]) -> Tensor:
    """TIM on MI-FGSM (Dong et al. 2019)."""
    return _run(model, x, y, eps, **options)


@preset(momentum=MI)
def sim(
    model: Model, x: Tensor, y: Tensor, eps: float = 16 / 255, *, copies: int = 5, **options: Unpack[Options]
) -> Tensor:
    """SIM on MI-FGSM (Lin et al. 2020); what `transform` holds comes first."""
    return _run(model, x, y, eps, behind=[ScaleCopies(copies)], **options)


@preset("transform", momentum=MI)
def re_fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 16 / 255,
    *,
    erasure: RandomErasure = ERASURE,
    **options: Unpack[Options],
) -> Tensor:
    """Random erasure on MI-FGSM (thesis sect. 2.2.2, Table 2.2)."""
    checks.function("erasure", erasure, "a transform such as RandomErasure(copies=5)", 3)
    return _run(model, x, y, eps, transform=erasure, **options)  # type: ignore[misc]


@preset(momentum=MI, kernel=7)
def composite(model: Model, x: Tensor, y: Tensor, eps: float = 16 / 255, **options: Unpack[Options]) -> Tensor:
    """DIM, TIM and SIM together on MI-FGSM (thesis Table 2.4); what `transform` holds comes first."""
    return _run(model, x, y, eps, behind=[ScaleCopies(), InputDiversity()], **options)


@preset(momentum=MI)
def admix(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 16 / 255,
    *,
    pool: Tensor,
    eta: float = 0.2,
    mixed: int = 3,
    copies: int = 5,
    **options: Unpack[Options],
) -> Tensor:
    """Admix on MI-FGSM: `mixed` images of `pool` are mixed in, each sum at `copies` scales (Wang et al. 2021); what
    `transform` holds comes first. eta = 0 is SIM."""
    checks.whole("mixed", mixed, 1)
    return _run(model, x, y, eps, behind=[MixedImages(pool, eta, mixed), ScaleCopies(copies)], **options)


@preset("momentum", loss="logit")
def taig(  # type: ignore[misc]
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 16 / 255,
    *,
    points: int = 20,
    noise: float = 0.0,
    chunk: int | str = "auto",
    wrap: Callable[[Gradient], Gradient] | None = None,
    **options: Unpack[Options],
) -> Tensor:
    """TAIG-S: I-FGSM along integrated gradients of the true class's logit (Huang & Kong 2022); noise=eps is TAIG-R.
    points, noise, chunk: of `integrated`; wrap: what is done to the gradient at each point."""
    path = partial(integrated, points=points, noise=noise, chunk=chunk)
    return _run(model, x, y, eps, momentum=PLAIN, wrap=lambda g: path(_wrapped(g, wrap)), **options)


@preset("momentum", "wrap", steps=400)
def rap(
    model: Model, x: Tensor, y: Tensor, eps: float = 16 / 255, *, late: int = 100, **options: Unpack[Options]
) -> Tensor:
    """RAP on I-FGSM, reverse perturbations of radius eps from step `late` on (Qin et al. 2022; thesis sect. 1.2.3)."""
    checks.whole("late", late, 0)
    return _run(model, x, y, eps, momentum=PLAIN, wrap=partial(reverse_perturbed, eps=eps, start=late), **options)  # type: ignore[misc]


def lgv(
    checkpoints: Sequence[Model], x: Tensor, y: Tensor, eps: float = 16 / 255, **options: Unpack[LoopOptions]
) -> Tensor:
    """LGV: I-FGSM, each step on another network of `checkpoints`, collected along a fine-tuning at a high learning rate
    by `training.collect` (Gubri et al. 2022; thesis sect. 1.2.3, [56]). Samples of `training.posterior` make it the
    Bayesian attack of Li et al. 2023 ([57]). options: of `attack`. One network is I-FGSM."""
    checks.instance("checkpoints", checkpoints, Sequence, "a list of models")
    return attack(x, y, cycled([gradient(model) for model in checkpoints]), eps=eps, **options)


@preset("loss", "start", momentum=MI)
def aa(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float = 16 / 255,
    *,
    layer: str,
    toward: Tensor | None = None,
    **options: Unpack[Options],
) -> Tensor:
    """AA on MI-FGSM: the activation attack at one layer, by `activation` (Inkawhich et al. 2019; thesis sect. 1.2.3,
    [54]; there eps is 0.07).

    toward: images of the classes `target`, like x, to whose features it goes, which is the paper's attack; without both
    it goes away from the features of x, from a random start."""
    _wanted(model, x, y, options.get("target"))
    if (toward is None) != (options.get("target") is None):
        raise ValueError("toward: expected images of the classes wanted together with `target`, or neither")
    checks.transformed(x if toward is None else toward, x, "toward")
    make = partial(activation, layer=layer, images=x if toward is None else toward)
    return _run(model, x, y, eps, make=make, start="once" if toward is None else "none", **options)


def _wanted(model: nn.Module, x: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """The classes of an attack that runs the model on x beforehand, after the checks that `attack` makes of these."""
    checks.module(model)
    with under_attack(model, x, y, target):
        return y if target is None else target


@preset("loss", momentum=PLAIN)
def ata(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float = 16 / 255,
    *,
    layers: str,
    weight: float = 1.0,
    **options: Unpack[Options],
) -> Tensor:
    """ATA on I-FGSM: cross-entropy and the change of the attention maps at `layers`, by `attention` (Wu et al. 2020;
    thesis sect. 1.2.3, [51])."""
    wanted = _wanted(model, x, y, options.get("target"))
    make = partial(attention, layers=layers, images=x, y=wanted, weight=weight)
    return _run(model, x, y, eps, make=make, **options)


@preset("loss", momentum=PLAIN)
def aoa(
    model: Model, x: Tensor, y: Tensor, eps: float = 16 / 255, *, weight: float = 1.0, **options: Unpack[Options]
) -> Tensor:
    """AoA on I-FGSM: the heat map of the class against that of the second one, by `relevance` (Chen et al. 2020; thesis
    sect. 1.2.3, [53])."""
    return _run(model, x, y, eps, make=partial(relevance, weight=weight), **options)


EM_RE = {"momentum": Elastic(mu=1.0, sigma=2.0), "transform": ERASURE}
"""EM and RE as options of another attack (thesis eq. 2.5 to 2.7, Alg. 1): `composite(f, x, y, **EM_RE)` is
EM-RE-Composite (Table 2.4)."""

GNP = {"wrap": norm_penalty}
"""The gradient norm penalty as an option of another attack, with the thesis' constants: `dim(f, x, y, **GNP)`
(thesis Alg. 2). `wrap=partial(norm_penalty, beta=0.4)` for others."""
