"""The one loop that every gradient attack is, the ball it stays in, the momentum rules, and the named attacks.

    adv = mi_fgsm(f, x, y, eps=8/255)
    adv = attack(x, y, g, momentum=Elastic(mu=1.0, sigma=2.0), eps=16/255, steps=10, seed=0, index=i)

x: float (N, C, H, W) in [0, 1]; y: int64 (N,); eps, alpha: in the same [0, 1] units; adv: like x, within eps of x and
within [0, 1]. Every image's result depends on the image, its `index` and `seed`, and on no other image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from . import checks
from .checks import Model
from .draws import Draw
from .gradients import (
    Gradient,
    Loss,
    Transform,
    cycled,
    gradient,
    integrated,
    listed,
    norm_penalty,
    reverse_perturbed,
    smoothed,
)
from .models import accelerate as accelerated
from .models import frozen
from .norms import NORMS, divided, l2_norm
from .transforms import InputDiversity, MixedImages, RandomErasure, ScaleCopies

_START_STREAM = 1  # transforms use 16 and above

# --- momentum --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Elastic:
    """Elastic momentum (thesis eq. 2.1 to 2.3): the gradient is taken at x_t + alpha sigma g_t and added to mu g_t.

    mu: decay. sigma: look-ahead horizon, in steps; 0 is MI-FGSM (eq. 1.3), mu is NI-FGSM (eq. 1.4), mu = sigma = 0 is
    I-FGSM (eq. 1.2). normalize: what the gradient is divided by, per image: "mean" (of absolute values, as the
    published code of NI-FGSM has it), "l1" (their sum, eq. 2.2 to the letter: the look-ahead vanishes), "l2".
    The look-ahead point is projected neither to the ball nor to [0, 1]: with "mean", sigma = 2, mu = 1 and 10 steps the
    average pixel can be 1.8 eps beyond the iterate, and single pixels much further.
    """

    mu: float = 1.0
    sigma: float = 0.0
    normalize: str = "mean"

    def __post_init__(self) -> None:
        checks.number("mu", self.mu, 0)
        checks.number("sigma", self.sigma, 0)
        checks.choice("normalize", self.normalize, NORMS)

    def look_ahead(self, adv: torch.Tensor, m: torch.Tensor, alpha: float) -> torch.Tensor:
        """x_t^em, eq. 2.1."""
        return torch.add(adv, m, alpha=alpha * self.sigma) if self.sigma else adv

    def update(self, m: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        """g_{t+1}, eq. 2.2."""
        unit = divided(grad, NORMS[self.normalize](grad))
        return torch.add(unit, m, alpha=self.mu) if self.mu else unit


PLAIN = Elastic(mu=0.0)

# --- balls -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinfBall:
    """{z in [0, 1] : |z - x| <= eps}, with the direction of steepest ascent in it."""

    lower: torch.Tensor
    upper: torch.Tensor
    eps: float

    @classmethod
    def around(cls, x: torch.Tensor, eps: float) -> LinfBall:
        return cls((x - eps).clamp_(min=0), (x + eps).clamp_(max=1), eps)

    def direction(self, m: torch.Tensor) -> torch.Tensor:
        return m.sign()

    def project(self, z: torch.Tensor) -> torch.Tensor:
        return torch.clamp(z, self.lower, self.upper)

    def noise(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Uniform in the ball around 0."""
        return (2 * draw.uniform(*x.shape[1:]).to(x) - 1) * self.eps


@dataclass(frozen=True)
class L2Ball:
    """{z in [0, 1] : ||z - x||_2 <= eps}, the norm per image."""

    x: torch.Tensor
    eps: float

    @classmethod
    def around(cls, x: torch.Tensor, eps: float) -> L2Ball:
        return cls(x, eps)

    def direction(self, m: torch.Tensor) -> torch.Tensor:
        return divided(m, l2_norm(m))

    def project(self, z: torch.Tensor) -> torch.Tensor:
        # Clipping to [0, 1] afterwards only moves towards x, which lies in it: the ball is not left again.
        delta = z - self.x
        return (self.x + delta * (self.eps / l2_norm(delta).clamp(min=self.eps or 1.0)).clamp(max=1.0)).clamp_(0, 1)

    def noise(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Uniform in the ball around 0: a normal direction, a radius eps u^(1/d)."""
        normal = draw.normal(*x.shape[1:]).to(x)
        radius = draw.at(stream=draw.stream + 1).uniform(1, 1, 1).to(x) ** (1 / x[0].numel())
        return self.direction(normal) * radius * self.eps


BALLS = {"linf": LinfBall, "l2": L2Ball}

# --- the loop --------------------------------------------------------------------------------------------------------


def step(
    adv: torch.Tensor,
    m: torch.Tensor,
    y: torch.Tensor,
    g: Gradient,
    draw: Draw,
    rule: Elastic,
    ball: LinfBall | L2Ball,
    alpha: float,
    ascend: bool = True,
    jitter: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(x_{t+1}, g_{t+1}) from (x_t, g_t): look ahead, take the gradient, update the momentum, step, project.

    jitter: take the gradient at a point drawn around x_t, in the ball (PGD with fresh noise in every step).
    """
    point = rule.look_ahead(adv, m, alpha)
    if jitter:
        point = ball.project(point + ball.noise(adv, draw.at(stream=_START_STREAM)))
    grad = g(point, y, draw)
    m = rule.update(m, grad if ascend else -grad)
    return ball.project(torch.add(adv, ball.direction(m), alpha=alpha)), m


def attack(
    x: torch.Tensor,
    y: torch.Tensor,
    g: Gradient | Model,
    *,
    eps: float,
    steps: int = 10,
    alpha: float | None = None,
    momentum: Elastic = PLAIN,
    norm: str = "linf",
    start: str = "none",
    target: torch.Tensor | None = None,
    seed: int = 0,
    index: torch.Tensor | None = None,
) -> torch.Tensor:
    """Maximise the loss within eps of x: x_{t+1} = project(x_t + alpha sign(g_{t+1})) (thesis eq. 1.1, Alg. 1).

    g: a gradient function, or a model (its cross-entropy gradient). alpha: step size, eps / steps if None. momentum:
    the rule. norm: "linf" or "l2" (steps of L2 length alpha). start: "none" (at x), "once" (a random point of the
    ball), "every" (at x; the gradient is taken at a fresh random point around each iterate). target: int64 (N,), the
    classes wanted: the loss to them is descended. seed, index: int64 (N,), where the randomness of each image comes
    from; 0 .. N-1 if None.
    Returns adv (N, C, H, W), detached, of the type of x; in half precision the loop runs in float32, and the result is
    rounded toward x. Models are put in eval mode, frozen, in channels_last, given a copy of the images, and handed back
    as they were.
    Raises TypeError or ValueError, naming the argument, before any step is taken; and ValueError after the last one for
    a gradient that was not finite. Warns where one was exactly 0.
    """
    checks.images(x)
    checks.labels(y, x)
    checks.budget(eps, steps)
    index = checks.index(index, x)
    if target is not None:
        checks.labels(target, x, "target")
    checks.choice("norm", norm, BALLS)
    checks.choice("start", start, ("none", "once", "every"))
    if alpha is not None:
        checks.number("alpha", alpha, above=0)
    checks.whole("seed", seed)
    _check_rule(momentum)
    g = g if isinstance(g, Gradient) else gradient(g)
    if g.descends not in (None, target is not None):
        raise ValueError("target: a targeted attack descends its loss and needs norm_penalty(r < 0), others r > 0")
    with frozen(g.models):
        clean = x.detach().clone(memory_format=torch.channels_last)
        y, wanted = y.clone(), (y if target is None else target).clone()
        checks.outputs(g.models, clean, y=y, target=wanted)
        x, sizes = clean.to(torch.promote_types(clean.dtype, torch.float32)), []
        g = replace(g, function=_watched(g, clean.dtype, sizes))
        ball, draw = BALLS[norm].around(x, eps), Draw(seed, index)
        adv = x if start != "once" else ball.project(x + ball.noise(x, draw.at(step=-1, stream=_START_STREAM)))
        m, alpha = torch.zeros_like(x), eps / steps if alpha is None else alpha
        for t in range(steps):
            adv, m = step(adv, m, wanted, g, draw.at(step=t), momentum, ball, alpha, target is None, start == "every")
        checks.gradients(torch.stack(sizes))
    return _toward(clean, adv).contiguous()


def _check_rule(momentum: object) -> None:
    rule = not isinstance(momentum, type) and all(hasattr(momentum, name) for name in ("look_ahead", "update"))
    if not rule:
        raise TypeError(f"momentum: expected a rule, such as Elastic(mu=1.0), got {checks.shown(momentum)}")


def _watched(g: Gradient, dtype: torch.dtype, sizes: list[torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`g` for images in float32 or float64, which it is shown in `dtype`. It leaves the L1 norms (N,) of each gradient
    in `sizes`: they say afterwards which were not finite, or 0, and nothing waits for the device until then."""

    def function(x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        grad = g(x.to(dtype), y, draw).to(x.dtype)
        sizes.append(torch.linalg.vector_norm(grad, ord=1, dim=(1, 2, 3)))
        return grad

    return function


def _toward(x: torch.Tensor, adv: torch.Tensor) -> torch.Tensor:
    """adv, float32 or float64, in the type of x; where that is coarser, rounded toward x, so that no ball is left."""
    near = adv.to(x.dtype)
    if near.dtype == adv.dtype:
        return near
    away = (near.to(adv.dtype) - adv) * (adv - x.to(adv.dtype)) > 0
    # The 16 bits of numbers in [0, 1] count upwards with them: the next one is a unit away.
    toward = torch.where(near > x, -1, 1).to(torch.int16)
    return (near.view(torch.int16) + toward * away).view(x.dtype)


# --- named attacks ----------------------------------------------------------------------------------------------------
# Each takes (model, x, y, eps) and the options of `_run` and `attack`. Constants are those of the cited papers, which
# are the thesis' settings (sect. 2.3.1).


def _run(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    eps: float,
    momentum: Elastic,
    *,
    transform: Transform | Sequence[Transform] = (),
    kernel: int = 1,
    loss: str | Loss = "cross_entropy",
    wrap: Callable[[Gradient], Gradient] | None = None,
    chunk: int = 1,
    accelerate: bool | torch.dtype = False,
    **options: object,
) -> torch.Tensor:
    """transform, loss, chunk: as in `gradient`; kernel: of `smoothed`; wrap: what is done to the gradient function
    last, such as `norm_penalty`; accelerate: attack a faster copy of the surrogate, True with BatchNorm folded,
    torch.bfloat16 in that type too. For many batches accelerate the model once, by hand."""
    checks.network(model)
    if accelerate is not False:
        model = _accelerated(model, accelerate)
    g = _wrapped(smoothed(gradient(model, transform, loss, chunk), kernel), wrap)
    return attack(x, y, g, eps=eps, momentum=momentum, **options)


def _wrapped(g: Gradient, wrap: Callable[[Gradient], Gradient] | None) -> Gradient:
    if wrap is None:
        return g
    checks.function("wrap", wrap, "a function from a gradient function to another, such as norm_penalty", 1)
    g = wrap(g)
    checks.instance("wrap", g, Gradient, "a function that returns a gradient function")
    return g


def _accelerated(model: Model, how: object) -> Model:
    if how is not True and not (isinstance(how, torch.dtype) and how.is_floating_point):
        raise TypeError(f"accelerate={checks.shown(how)}: expected False, True or a floating-point type")
    checks.module(model)
    return accelerated(model, dtype=None if how is True else how)


def _chain(first: Transform | Sequence[Transform] | None, *then: Transform) -> tuple[Transform, ...]:
    return (*listed(first), *then)


ERASURE = RandomErasure()


def fgsm(model: Model, x: torch.Tensor, y: torch.Tensor, eps: float = 16 / 255, **options: object) -> torch.Tensor:
    """FGSM: one step of length eps (Goodfellow et al. 2015; thesis sect. 1.2.1)."""
    return _run(model, x, y, eps, PLAIN, steps=1, **options)


def i_fgsm(model: Model, x: torch.Tensor, y: torch.Tensor, eps: float = 16 / 255, **options: object) -> torch.Tensor:
    """I-FGSM: `steps` steps of eps / steps (Kurakin et al. 2017; thesis eq. 1.2)."""
    return _run(model, x, y, eps, PLAIN, **options)


def pgd(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    eps: float = 8 / 255,
    steps: int = 10,
    alpha: float | None = None,
    start: str = "once",
    **options: object,
) -> torch.Tensor:
    """PGD from a random start, steps of 2.5 eps / steps if alpha is None (Madry et al. 2018); norm="l2" for the L2
    ball."""
    checks.budget(eps, steps)
    alpha = 2.5 * eps / steps if alpha is None and eps > 0 else alpha
    return _run(model, x, y, eps, PLAIN, steps=steps, alpha=alpha, start=start, **options)


def mi_fgsm(
    model: Model, x: torch.Tensor, y: torch.Tensor, eps: float = 16 / 255, mu: float = 1.0, **options: object
) -> torch.Tensor:
    """MI-FGSM (Dong et al. 2018; thesis eq. 1.3)."""
    return _run(model, x, y, eps, Elastic(mu), **options)


def ni_fgsm(
    model: Model, x: torch.Tensor, y: torch.Tensor, eps: float = 16 / 255, mu: float = 1.0, **options: object
) -> torch.Tensor:
    """NI-FGSM: look one step ahead (Lin et al. 2020; thesis eq. 1.4)."""
    return _run(model, x, y, eps, Elastic(mu, sigma=mu), **options)


def em_fgsm(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    eps: float = 16 / 255,
    mu: float = 1.0,
    sigma: float = 2.0,
    normalize: str = "mean",
    **options: object,
) -> torch.Tensor:
    """EM-FGSM: look sigma steps ahead (thesis eq. 2.1 to 2.3)."""
    return _run(model, x, y, eps, Elastic(mu, sigma, normalize), **options)


def dim(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    eps: float = 16 / 255,
    *,
    transform: Transform | Sequence[Transform] = (),
    momentum: Elastic = Elastic(),
    **options: object,
) -> torch.Tensor:
    """DIM on MI-FGSM (Xie et al. 2019); what `transform` holds comes first."""
    return _run(model, x, y, eps, momentum, transform=_chain(transform, InputDiversity()), **options)


def tim(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    eps: float = 16 / 255,
    *,
    kernel: int = 7,
    momentum: Elastic = Elastic(),
    **options: object,
) -> torch.Tensor:
    """TIM on MI-FGSM (Dong et al. 2019)."""
    return _run(model, x, y, eps, momentum, kernel=kernel, **options)


def sim(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    eps: float = 16 / 255,
    *,
    transform: Transform | Sequence[Transform] = (),
    copies: int = 5,
    momentum: Elastic = Elastic(),
    **options: object,
) -> torch.Tensor:
    """SIM on MI-FGSM (Lin et al. 2020); what `transform` holds comes first."""
    return _run(model, x, y, eps, momentum, transform=_chain(transform, ScaleCopies(copies)), **options)


def re_fgsm(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    eps: float = 16 / 255,
    *,
    momentum: Elastic = Elastic(),
    erasure: RandomErasure = ERASURE,
    **options: object,
) -> torch.Tensor:
    """Random erasure on MI-FGSM (thesis sect. 2.2.2, Table 2.2)."""
    checks.function("erasure", erasure, "a transform such as RandomErasure(copies=5)", 3)
    return _run(model, x, y, eps, momentum, transform=erasure, **options)


def composite(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    eps: float = 16 / 255,
    *,
    transform: Transform | Sequence[Transform] = (),
    kernel: int = 7,
    momentum: Elastic = Elastic(),
    **options: object,
) -> torch.Tensor:
    """DIM, TIM and SIM together on MI-FGSM (thesis Table 2.4); what `transform` holds comes first."""
    chain = _chain(transform, ScaleCopies(), InputDiversity())
    return _run(model, x, y, eps, momentum, transform=chain, kernel=kernel, **options)


def admix(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    eps: float = 16 / 255,
    *,
    pool: torch.Tensor,
    transform: Transform | Sequence[Transform] = (),
    eta: float = 0.2,
    mixed: int = 3,
    copies: int = 5,
    momentum: Elastic = Elastic(),
    **options: object,
) -> torch.Tensor:
    """Admix on MI-FGSM: `mixed` images of `pool` are mixed in, each sum at `copies` scales (Wang et al. 2021); what
    `transform` holds comes first. eta = 0 is SIM."""
    checks.whole("mixed", mixed, 1)
    chain = _chain(transform, MixedImages(pool, eta, mixed), ScaleCopies(copies))
    return _run(model, x, y, eps, momentum, transform=chain, **options)


def taig(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    eps: float = 16 / 255,
    *,
    points: int = 20,
    noise: float = 0.0,
    loss: str | Loss = "logit",
    chunk: int = 1,
    wrap: Callable[[Gradient], Gradient] | None = None,
    **options: object,
) -> torch.Tensor:
    """TAIG-S: I-FGSM along integrated gradients of the true class's logit (Huang & Kong 2022); noise=eps is TAIG-R.
    points, noise, chunk: of `integrated`; wrap: what is done to the gradient at each point."""
    path = partial(integrated, points=points, noise=noise, chunk=chunk)
    return _run(model, x, y, eps, PLAIN, loss=loss, wrap=lambda g: path(_wrapped(g, wrap)), **options)


def rap(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    eps: float = 16 / 255,
    *,
    steps: int = 400,
    late: int = 100,
    **options: object,
) -> torch.Tensor:
    """RAP on I-FGSM, reverse perturbations of radius eps from step `late` on (Qin et al. 2022; thesis sect. 1.2.3)."""
    checks.whole("late", late, 0)
    reverse = partial(reverse_perturbed, eps=eps, start=late, ascend=options.get("target") is None)
    return _run(model, x, y, eps, PLAIN, steps=steps, wrap=reverse, **options)


def lgv(
    checkpoints: Sequence[Model], x: torch.Tensor, y: torch.Tensor, eps: float = 16 / 255, **options: object
) -> torch.Tensor:
    """LGV: I-FGSM, each step on another network of `checkpoints`, collected along a fine-tuning at a high learning rate
    (Gubri et al. 2022; thesis sect. 1.2.3). options: of `attack`. One network is I-FGSM."""
    checks.instance("checkpoints", checkpoints, Sequence, "a list of models")
    return attack(x, y, cycled([gradient(model) for model in checkpoints]), eps=eps, **options)


EM_RE = {"momentum": Elastic(mu=1.0, sigma=2.0), "transform": ERASURE}
"""EM and RE as options of another attack: `composite(f, x, y, **EM_RE)` is EM-RE-Composite (thesis Alg. 1, Table
2.4)."""

GNP = {"wrap": norm_penalty}
"""The gradient norm penalty as an option of another attack, with the thesis' constants: `dim(f, x, y, **GNP)`
(thesis Alg. 2). `wrap=partial(norm_penalty, beta=0.4)` for others."""
