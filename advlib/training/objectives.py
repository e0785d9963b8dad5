"""What a network is trained to minimise: an objective maps (model, x, y, draw) to the mean loss of a batch.

x: float (N, C, H, W) in [0, 1]; y: int64 (N,); draw: `draws.Draw` whose step is the epoch. An objective is a frozen
dataclass of plain values, so that a recipe that names it can be written down and compared; a value that is none of
those meant raises TypeError or ValueError where it is made.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from math import inf
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import nn

from .. import attacks, lipschitz, loop
from ..core import batchnorm, checks
from ..core.draws import Draw, Stream
from ..gradients import Gradient, image_gradient
from ..sam import _draws
from ..zoo import acceleration, models
from ..zoo.purifiers import Purified

Objective = Callable[[nn.Module, torch.Tensor, torch.Tensor, Draw], torch.Tensor]


def _cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.float(), y)


def _seed(draw: Draw) -> int:
    """Another seed in every epoch: attacks count their own steps in the draw."""
    return draw.seed + 1_000_003 * (draw.step + 1)


def _check_numbers(objective: object, low: float, high: float, *names: str) -> None:
    for name in names:
        checks.number(name, getattr(objective, name), low, high)


def _check_names(name: str, value: object) -> None:
    checks.instance(name, value, tuple, 'a tuple of names of networks, such as ("shapes/resnet",)')
    for each in value:
        checks.text(name, each)


_UNFOLDED: WeakSet[nn.Module] = WeakSet()  # networks in training that no folded copy can be made of


def _maker(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """What attacks run on a network in training, in eval mode. On the CPU that is a copy with the BatchNorm folded: it
    saves a quarter of the time of an attack, and takes a fiftieth of it to make. A GPU would wait for the making, which
    is 10 ms of Python and more; there, and where no copy can be made (control flow, parametrized weights, compiled), it
    is the network."""
    if x.device.type != "cpu" or model in _UNFOLDED:
        return model
    try:
        return acceleration.accelerate(model)
    except Exception:  # whatever copying and tracing raise
        _UNFOLDED.add(model)
        return model


@cache
def _static(name: str, device: torch.device) -> nn.Module:
    """A network of the zoo that stays as it is, made fast."""
    return _fast(models.load(name).to(device))


def _fast(model: nn.Module) -> nn.Module:
    try:
        return acceleration.accelerate(model)
    except ValueError:
        return acceleration.accelerate(model, fold_batchnorm=False)


@dataclass(frozen=True)
class Classification:
    """Cross-entropy on the images as they are."""

    def __call__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        return _cross_entropy(model(x), y)

    def losses(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        """The loss of each image, (N,), whose mean is the objective: what `sam_family.ESAM` learns from."""
        return F.cross_entropy(model(x).float(), y, reduction="none")


@dataclass(frozen=True)
class NoisyClassification:
    """Cross-entropy under Gaussian noise, as the network behind randomized smoothing is trained (Cohen et al. 2019).
    sigma: of the noise, in [0, 1] units."""

    sigma: float = 0.25

    def __post_init__(self) -> None:
        _check_numbers(self, 0, inf, "sigma")

    def __call__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        noise = draw.at(stream=Stream.OBJECTIVE).normal(*x.shape[1:]).to(x)
        return _cross_entropy(model(x + self.sigma * noise), y)


@dataclass(frozen=True)
class Adversarial:
    """PGD adversarial training: cross-entropy at the end of PGD from a random start, and nowhere else (Madry et al.
    2018). eps, alpha: L-inf radius and step, in [0, 1] units; steps: of the attack, made in eval mode. ramp: epochs in
    which both grow to what they are; a small network that meets the whole radius at once may not learn anything (Cai et
    al. 2018, curriculum)."""

    eps: float = 8 / 255
    steps: int = 7
    alpha: float = 2 / 255
    ramp: int = 1

    def __post_init__(self) -> None:
        checks.budget(self.eps, self.steps)
        checks.number("alpha", self.alpha, 0)
        checks.whole("ramp", self.ramp, 1)

    def __call__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        grown = min(1.0, (draw.step + 1) / self.ramp)
        radius = {"eps": grown * self.eps, "alpha": grown * self.alpha}
        options = {**radius, "steps": self.steps, "seed": _seed(draw), "index": draw.index}
        return _cross_entropy(model(attacks.pgd(_maker(model, x), x, y, **options)), y)


@dataclass(frozen=True)
class EnsembleAdversarial:
    """Ensemble adversarial training: half the loss on clean images, half on one-step examples made on one network of a
    static pool, another one from batch to batch; the network in training has its turn too (Tramer et al. 2018).

    pool: names of the static networks, as `models.load` takes them. eps: the largest radius; each image's own is drawn
    from |N(0, eps / 2)|, again where it is larger (Kurakin et al. 2017, as there).
    """

    pool: tuple[str, ...]
    eps: float = 16 / 255

    def __post_init__(self) -> None:
        _check_names("pool", self.pool)
        _check_numbers(self, 0, 1, "eps")

    @property
    def networks(self) -> tuple[str, ...]:
        """The static networks, by name, that the result depends on."""
        return self.pool

    def __call__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        batch = draw.at(index=draw.index[:1], stream=Stream.OBJECTIVE)
        turn = int(batch.uniform(1).item() * (1 + len(self.pool)))
        maker = _static(self.pool[turn - 1], x.device) if turn else _maker(model, x)
        # The truncated half-normal by its quantile: no draw is made twice.
        reach = torch.special.erf(torch.tensor(2.0 / 2**0.5))
        radius = (
            self.eps / 2 * 2**0.5 * torch.special.erfinv(reach * draw.at(stream=Stream.OBJECTIVE + 1).uniform(1, 1, 1))
        )
        direction = (attacks.fgsm(maker, x, y, eps=self.eps, index=draw.index) - x).sign()
        adv = (x + radius.to(x) * direction).clamp(0, 1)
        return 0.5 * (_cross_entropy(model(x), y) + _cross_entropy(model(adv), y))


@dataclass(frozen=True)
class LipschitzRegularized:
    """LRS: cross-entropy + lambda1 LRS-1 + lambda2 LRS-2 (thesis eq. 4.5, 4.8). A penalty with lambda 0 is not
    computed: lambda1 = lambda2 = 0 is `Classification`.

    lambda1, lambda2: weights; h1, h2, direction1, direction2, form: of `lipschitz.lrs1` and `lrs2`. batchnorm: "train",
    as in any training, every pass normalises by its own batch, of which only the clean one changes the running
    statistics; "eval", by the running statistics, so that a difference is one of a single function of the image. The
    thesis' constants need the first: without the batch's statistics nothing undoes the shrinking of the weights.
    Dropout drops the same in every pass, and torch's generators end where a single pass leaves them: two other masks
    would make a difference of their own, which no step h divides away.
    """

    lambda1: float = 5.0
    lambda2: float = 5.0
    h1: float = 0.01
    h2: float = 1.5
    direction1: str = "l2"
    direction2: str = "unit_sign"
    form: str = "reference"
    batchnorm: str = "train"

    def __post_init__(self) -> None:
        _check_numbers(self, 0, inf, "lambda1", "lambda2")
        for name in ("h1", "h2"):
            checks.number(name, getattr(self, name), above=0)
        for name in ("direction1", "direction2"):
            checks.choice(name, getattr(self, name), lipschitz.DIRECTIONS)
        checks.choice("form", self.form, lipschitz.FORMS)
        checks.choice("batchnorm", self.batchnorm, ("eval", "train"))

    def __call__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        loss, *penalties = self.terms(model, x, y)
        return loss + sum(penalties)

    def terms(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The means over the batch of the cross-entropy, lambda1 LRS-1 and lambda2 LRS-2, those that there are."""
        with batchnorm.fixed(model) if self.batchnorm == "eval" else nullcontext():
            if not self.lambda1 and not self.lambda2:
                return (_cross_entropy(model(x), y),)
            return self._penalised(model, x, y)

    def _penalised(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        again = _draws(list(model.parameters()))
        here = lipschitz.point(model, x, y, curvature=self.lambda2 > 0)
        terms = [here.loss.mean()]
        with batchnorm.unrecorded(model):
            if self.lambda1:
                again()
                first = lipschitz.lrs1(model, x, y, self.h1, self.direction1, self.form, here)
                terms.append(self.lambda1 * first.mean())
            if self.lambda2:
                again()
                second = lipschitz.lrs2(model, x, y, self.h2, self.direction2, self.form, here)
                terms.append(self.lambda2 * second.mean())
        return tuple(terms)


@dataclass(frozen=True)
class SAF:
    """Sharpness-aware training for free (Du et al. 2022, NeurIPS; thesis sect. 5.2.1, [117]): cross-entropy plus a loss
    of the trajectory, lam tau^2 KL(p' || p), where p is the softmax of an image's logits over tau, and p' what it was
    `back` epochs ago. It keeps the loss from falling steeply, as it does into a sharp minimum, at the cost of one pass.

    The loss of the trajectory sets in after epoch `start`, counted from 0; tau^2 is in the authors' code and not in the
    paper. It has to remember outputs, and is therefore an objective and no optimizer: `begin` makes the one of a
    training, and without it, where there is no past, this is `Classification`."""

    lam: float = 0.3
    tau: float = 5.0
    start: int = 5
    back: int = 3

    def __post_init__(self) -> None:
        _check_numbers(self, 0, inf, "lam")
        checks.number("tau", self.tau, above=0)
        checks.whole("start", self.start, 0)
        checks.whole("back", self.back, 1)

    def __call__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        return _cross_entropy(model(x), y)

    def begin(self, index: torch.Tensor) -> Trajectory:
        """The objective of a training on the images of this index, (N,), with nothing remembered."""
        return Trajectory(self, index)


class Trajectory:
    """`SAF` in one training, as `begin` makes it. It remembers the logits of the last `back` + 1 epochs, so that a step
    of several passes compares all of them with the same past; an image that an epoch left out adds nothing."""

    def __init__(self, saf: SAF, index: torch.Tensor) -> None:
        self.saf, self._order = saf, index.sort().values
        self._memory: dict[str, torch.Tensor] = {}

    def __call__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        logits, saf, slots = model(x).float(), self.saf, self.saf.back + 1
        if not self._memory:
            shape = (slots, len(self._order))
            self._memory = {"logits": logits.new_zeros(*shape, logits.shape[1]), "epoch": y.new_full(shape, -1)}
        rows = torch.searchsorted(self._order, draw.index)
        loss, past = _cross_entropy(logits, y), draw.step - saf.back
        if draw.step > saf.start and past >= 0:
            then, seen = (self._memory[name][past % slots, rows] for name in ("logits", "epoch"))
            p, q = ((z / saf.tau).log_softmax(1) for z in (then, logits))
            kl = F.kl_div(q, p, reduction="none", log_target=True).sum(1)
            loss = loss + saf.lam * saf.tau**2 * torch.where(seen == past, kl, 0).mean()
        self._memory["logits"][draw.step % slots, rows] = logits.detach()
        self._memory["epoch"][draw.step % slots, rows] = draw.step
        return loss

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What is remembered."""
        return self._memory

    def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
        """Go on from it."""
        self._memory = dict(state_dict)


# --- for purifiers: the model is a `purifiers.Purified` ---------------------------------------------------------------


@dataclass(frozen=True)
class GuidedDenoising:
    """HGD, guided by the logits (Liao et al. 2018, eq. 9): the L1 distance between the classifier's logits of the
    denoised image and those of the clean one, over clean images and adversarial ones, half and half.

    The adversarial ones change from batch to batch: made on one of the networks `makers` (names, as `models.load`
    takes them), by 1, 2, 4 or 8 steps of I-FGSM, with a radius drawn from [1/255, eps], like the authors' training set.
    """

    makers: tuple[str, ...]
    eps: float = 16 / 255

    def __post_init__(self) -> None:
        _check_names("makers", self.makers)
        if not self.makers:
            raise ValueError("makers: expected at least one network")
        _check_numbers(self, 1 / 255, 1, "eps")

    @property
    def networks(self) -> tuple[str, ...]:
        """The static networks, by name, that the result depends on."""
        return self.makers

    def __call__(self, model: Purified, x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        u = draw.at(index=draw.index[:1], stream=Stream.OBJECTIVE).uniform(3)[0].tolist()
        maker = _static(self.makers[int(u[0] * len(self.makers))], x.device)
        eps, steps = 1 / 255 + u[1] * (self.eps - 1 / 255), 2 ** int(4 * u[2])
        adv = attacks.i_fgsm(maker, x, y, eps=eps, steps=steps, index=draw.index)
        with torch.no_grad():
            wanted = model.classifier(x).float()
        shown = model(torch.cat([x, adv])).float()
        return (shown - wanted.repeat(2, 1)).abs().mean()


@dataclass(frozen=True)
class Compression:
    """ComDefend: the squared error of the image behind a noisy code, plus `penalty` times the code's mean square (Jia
    et al. 2019, eq. 4; constants of the authors' code). It sees clean images only."""

    penalty: float = 1e-4

    def __post_init__(self) -> None:
        _check_numbers(self, 0, inf, "penalty")

    def __call__(self, model: Purified, x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        pair = model.purifier
        code = pair.code(x, draw.at(stream=Stream.OBJECTIVE).normal(12, *x.shape[2:]).to(x)).float()
        return F.mse_loss(pair.decoded(code).float(), x) + self.penalty * code.square().mean()


@dataclass(frozen=True)
class SelfSupervisedPurification:
    """NRP (Naseer et al. 2020, eq. 5): images that were perturbed to move a feature, without a label, are brought back.

    The loss is the distance of the features, plus `pixel` times the mean squared error, plus `gan` times the
    relativistic loss of a critic, which is trained along. features: the name of a VGG, of which the first `depth`
    layers are taken; eps, steps: the largest radius of the perturbation and the steps of its making, from a random
    start. The radius is another one from batch to batch, uniform up to eps: a small network that is shown eps alone,
    as the authors' is, mends clean images too, and spoils them.
    """

    features: str
    depth: int = 13
    eps: float = 16 / 255
    steps: int = 5
    pixel: float = 1e-2
    gan: float = 5e-3

    def __post_init__(self) -> None:
        checks.text("features", self.features)
        checks.whole("depth", self.depth, 1)
        checks.budget(self.eps, self.steps)
        _check_numbers(self, 0, inf, "pixel", "gan")

    @property
    def networks(self) -> tuple[str, ...]:
        """The static networks, by name, that the result depends on."""
        return (self.features,)

    def __call__(self, model: Purified, x: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
        features = _first_layers(self.features, self.depth, x.device)
        with torch.no_grad():
            wanted = features(x).float()
        perturbed = self.perturbed(features, x, y, draw, wanted)
        clean = model.purifier(perturbed).float()
        loss = F.l1_loss(features(clean).float(), wanted) + self.pixel * F.mse_loss(clean, x)
        return loss + self.gan * _relativistic(model.critic, clean, x) + _relativistic_critic(model.critic, clean, x)

    def perturbed(
        self, features: Callable, x: torch.Tensor, y: torch.Tensor, draw: Draw, wanted: torch.Tensor
    ) -> torch.Tensor:
        """SSP: within the radius of x, as far from `wanted`, its features, as `steps` sign steps lead."""

        def distance(point: torch.Tensor) -> torch.Tensor:
            return (features(point).float() - wanted).square().mean((1, 2, 3)).sum()

        def gradient(point: torch.Tensor, y: torch.Tensor, draw: Draw) -> torch.Tensor:
            return image_gradient(distance, point)

        eps = self.eps * draw.at(index=draw.index[:1], stream=Stream.OBJECTIVE).uniform(1).item()
        options = {"alpha": 2.5 * eps / self.steps, "start": "once", "seed": _seed(draw), "index": draw.index}
        return loop.attack(x, y, Gradient(gradient, (), 1), eps=eps, steps=self.steps, **options)


@cache
def _first_layers(name: str, depth: int, device: torch.device) -> nn.Module:
    """Images to the features of the VGG `name` behind its first `depth` layers; convolution, BatchNorm and ReLU count
    one each."""
    vgg = models.load(name).to(device)
    vgg.net = vgg.net[0][:depth]
    return _fast(vgg)


def _relativistic_critic(critic: nn.Module, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """The critic's own loss: a real image should look more real than the average fake, and the other way round
    (Jolicoeur-Martineau 2019)."""
    on_real, on_fake = critic(real).float(), critic(fake.detach()).float()
    return F.softplus(on_fake.mean() - on_real).mean() + F.softplus(on_fake - on_real.mean()).mean()


def _relativistic(critic: nn.Module, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """What the purifier wants of the critic: the opposite. The critic's weights get no gradient from it."""
    weights = {name: p.detach() for name, p in critic.named_parameters()}
    on_fake = torch.func.functional_call(critic, weights, (fake,)).float()
    on_real = torch.func.functional_call(critic, weights, (real,)).float()
    return F.softplus(on_real - on_fake.mean()).mean() + F.softplus(on_real.mean() - on_fake).mean()
