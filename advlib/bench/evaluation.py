"""Success rates of attacks: who fools whom, at which cost, with intervals.

table = success_rates({"MI-FGSM": mi_fgsm}, {"resnet": f}, {"resnet": f, "vgg": h}, data, eps_255=[8, 16])
"""

from __future__ import annotations

import inspect
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import ceil
from numbers import Real
from types import FunctionType
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from .. import advice
from .. import attacks as presets
from ..core import checks
from ..core.checks import Model
from ..core.intervals import wilson
from ..core.surrogate import Ensemble, frozen
from ..defenses.transformations import ABSTAIN, Defended
from ..engine.memory import trying
from ..engine.processor import in_parts
from ..files.provenance import device_name
from ..ghosts import Ghost
from ..graphs import captured
from ..zoo.datasets import Images
from ..zoo.weights import digest
from . import engines
from .engines import CellError, Engine, FailedCells, Say
from .outcomes import ALL, COMMON, Outcome, Outcomes
from .progress import Progress
from .results import ResultTable

Attack = Callable[..., torch.Tensor]
"""(model, x, y, eps=, seed=, index=) -> adv: what every preset of `attacks` is."""

ABSTAINED = "abstained"
"""The metric beside the two of success, COMMON and ALL, which have two denominators. asr: over the images that the
networks get right (COUNTED); asr_all: over all images, so that those a target got wrong anyway count as successes. A
defence that declines to answer has not been fooled: `abstained` counts that, over the images of `asr`."""
COUNTED = ("all right", "both right")
"""Which images success is counted over: those that every evaluated network names correctly (the thesis' protocol, and
the same for all targets), or, for each target, those that it and the surrogate name correctly. The second keeps more
images where one of the networks is weak."""


@torch.no_grad()
def predictions(model: Model, data: Images, batch_size: int = 250) -> torch.Tensor:
    """Predicted classes, int64 (N,), for the clean images of `data`, in eval mode; ABSTAIN where a defence does. Raises
    TypeError or ValueError for a model that does not give finite logits (N, classes)."""
    checks.network(model)
    _check_data(data)
    checks.whole("batch_size", batch_size, 1)
    with frozen([model]):
        checks.outputs([model], data[:2].x)
        return _named([_answers(model, b.x) for b in data.batches(batch_size)], "model")


def _check_data(data: object) -> None:
    checks.instance("data", data, Images, "images as datasets.load gives them")
    if not len(data):
        raise ValueError("data: holds no image")


_NO_ANSWER = -2
"""Where a model answers with NaN, until `_named` makes an error of it: until then nothing waits for the device."""


def _answers(model: Model, x: torch.Tensor, name: str = "model") -> torch.Tensor:
    # A copy: the model may write into it, and others are to be asked about the same images.
    x = x.clone(memory_format=torch.channels_last)
    if isinstance(model, Defended):
        return in_parts(model.predict, x)

    def answers(x: torch.Tensor) -> torch.Tensor:
        logits = checks.logits(model(x), len(x), name)
        return torch.where(torch.isfinite(logits).all(1), logits.argmax(1), _NO_ANSWER)

    return in_parts(answers, x)


def _named(answers: list[torch.Tensor], name: str) -> torch.Tensor:
    """The answers of all batches. Raises ValueError if there is one that is none."""
    found = torch.cat(answers)
    if lost := int((found == _NO_ANSWER).sum()):
        raise ValueError(f"{name}: its logits are NaN or infinite for {lost} of {len(found)} images")
    return found


@dataclass
class PassCounter:
    """rows: images that went forward through a network, each member of an ensemble counted."""

    rows: int = 0


@dataclass(frozen=True, eq=False)
class OnNetwork:
    """`attack`, run on `network` whatever surrogate it is called with: how a transformed surrogate, or one with another
    backward pass, stands in a table as a row of the surrogate that it was made from (thesis chapter 4)."""

    attack: Attack
    network: nn.Module

    def __call__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, **options: object) -> torch.Tensor:
        return self.attack(self.network, x, y, **options)


def _network(attack: Attack, surrogate: nn.Module) -> nn.Module:
    """What an attack called with `surrogate` runs on."""
    while isinstance(attack, partial):
        attack = attack.func
    return attack.network if isinstance(attack, OnNetwork) else surrogate


def described(attack: object) -> str:
    """What an attack is: the function and the keywords it was given, and the source of a function that is not in this
    package. What such a function takes from outside is not seen: give it as a keyword, with functools.partial."""
    if isinstance(attack, partial):
        given = [*map(described, attack.args), *(f"{k}={described(v)}" for k, v in sorted(attack.keywords.items()))]
        return f"{described(attack.func)}({', '.join(given)})"
    if isinstance(attack, OnNetwork):
        return f"{described(attack.attack)} on {digest(attack.network)}"
    if not isinstance(attack, FunctionType):
        return repr(attack)
    if attack.__module__.partition(".")[0] == __package__.partition(".")[0]:
        return f"{attack.__module__}.{attack.__qualname__}"
    try:
        return f"{attack.__qualname__}: {inspect.getsource(attack)}"
    except OSError:  # typed into a bare interpreter: its address makes it unlike any attack of another run
        return repr(attack)


@contextmanager
def counting(model: nn.Module) -> Iterator[PassCounter]:
    """Count what goes through `model` while the context lasts."""
    counter = PassCounter()

    def seen(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        # The check of the input, which needs no gradient, and a trial of what memory holds are no passes of the attack.
        if torch.is_grad_enabled() and not trying():
            counter.rows += inputs[0].shape[0]

    networks = list(model.members) if isinstance(model, Ensemble) else [model]
    hooks = [_within(network).register_forward_pre_hook(seen) for network in networks]
    try:
        yield counter
    finally:
        for hook in hooks:
            hook.remove()


def _within(network: nn.Module) -> nn.Module:
    """The network itself of a ghost network, which runs it without being called."""
    while isinstance(network, Ghost):
        network = network.model
    return network


def success_rates(
    attacks: Mapping[str, Attack],
    surrogates: Mapping[str, Model],
    targets: Mapping[str, Model],
    data: Images,
    eps_255: Sequence[float],
    *,
    table: ResultTable | None = None,
    batch_size: int = 100,
    seed: int = 0,
    ball: bool = True,
    counted: str = COUNTED[0],
    title: str = "success rates",
    engine: str | Engine = "serial",
) -> pd.DataFrame:
    """Attack every image of `data` on every surrogate and count what each target gets wrong.

    attacks, surrogates, targets: by the name that stands in the table. eps_255: budgets in 1/255. table: rows are
    written there cell by cell (source, attack, budget), with which images were fooled, and cells that it holds already
    are not run again, unless the attack's function or keywords are others now. ball: whether what an attack returns has
    to be within the budget in every value, as it always has to be like x, finite and in [0, 1]; False for attacks
    without one (C&W). counted: over which images, one of COUNTED. engine: where the cells run, "serial", "local", "ray"
    or one of `engines`; the numbers are the same, and the file has its rows in the order of finishing.
    Returns tidy rows of what was asked for: source, attack, target, eps_255, metric ("asr" over the images that the
    networks name correctly, "asr_all" over all, and "abstained" for targets that may), value in percent, n, ci_low,
    ci_high (Wilson, 95 %), passes per image, seconds of the attack. On a GPU, presets are recorded where there are
    batches enough, and replayed (`graphs.captured`): the numbers stay, and the seconds are fewer.
    Raises TypeError or ValueError, before any attack, for what is not as described, if a surrogate and another target
    have one name, or if no image counts; and for an attack that returns something else, by its name. An engine with
    workers ends the other cells first, and then raises FailedCells, whose `rows` are those of the cells that are done;
    before any work, TypeError for what cannot be sent to a worker, and ModuleNotFoundError for Ray, where that is
    missing. Such an engine may give the images of a cell to several workers, batches of the same images.
    """
    _check_asked(attacks, surrogates, targets, data, eps_255)
    engine = engines.chosen(engine)
    checks.whole("batch_size", batch_size, 1)
    checks.whole("seed", seed)
    checks.flag("ball", ball)
    checks.choice("counted", counted, COUNTED)
    if table is not None:
        checks.instance("table", table, ResultTable, "a ResultTable")
    surrogates, targets = _modules(surrogates), _modules(targets)
    run = _Run(targets, data, batch_size, seed, ball)
    job = _Job(run, attacks, surrogates)
    if not isinstance(engine, engines.Serial):
        engines.check_sendable(job)
    networks = {**surrogates, **targets}
    right = {name: predictions(network, data, batch_size) == data.y for name, network in networks.items()}
    keep = _kept(right, surrogates, targets, counted)
    _check_copies(surrogates, targets, data)
    cells = [(s, a, float(e)) for s in surrogates for a in attacks for e in eps_255]
    if table is not None:
        table.expect({name: described(attack) for name, attack in attacks.items()})
    todo = [cell for cell in dict.fromkeys(cells) if table is None or not table.done(*cell)]
    parts, found, failed = run.parts(todo, engine.at_once(job)), {}, {}
    with Progress(title, len(cells)) as bar, closing(engine.run(job, parts)) as answers:
        for _ in range(len(cells) - len(todo)):
            bar.advance()
        for cell, given in _whole(parts, answers):
            if errors := [answer for answer in given if isinstance(answer, CellError)]:
                failed[_in_words(cell)] = errors[0]
            elif table is None:
                found[cell], _ = run.cell(cell, given, keep)
            else:
                table.add(*run.cell(cell, given, keep), ", ".join(dict.fromkeys(answer.device for answer in given)))
            source, name, eps = cell
            bar.advance(f"{source} {name} {eps:g}")
    if table is None:
        rows = pd.DataFrame([row for cell in cells for row in found.get(cell, ())])
    else:
        rows = _asked_for(table.frame, [cell for cell in cells if table.done(*cell)])
    if failed:
        raise FailedCells(failed, len(todo), rows)
    return rows


def _check_asked(attacks: object, surrogates: object, targets: object, data: object, eps_255: object) -> None:
    """What `success_rates` is asked for, before any work."""
    for kind, group in (("attacks", attacks), ("surrogates", surrogates), ("targets", targets)):
        checks.instance(kind, group, Mapping, "a dictionary by name")
        if not group:
            raise ValueError(f"{kind}: expected at least one")
        for name, member in group.items():
            checks.text(f"{kind}: a name", name)
            if kind == "attacks":
                checks.function(f"attack {name!r}", member, "a function (model, x, y, eps=, seed=, index=) -> adv")
            else:
                checks.network(member, name)
    _check_data(data)
    if isinstance(eps_255, str) or not isinstance(eps_255, Sequence | np.ndarray) or not len(eps_255):
        raise TypeError(f"eps_255: expected a list of budgets in 1/255, got {checks.shown(eps_255)}")
    for eps in eps_255:
        checks.number("eps_255", eps, 0, 255, note="in 1/255 of the range of a pixel")


def _kept(
    right: Mapping[str, torch.Tensor], surrogates: Iterable[str], targets: Iterable[str], counted: str
) -> dict[tuple[str, str], torch.Tensor]:
    """The images, bool (N,), that count for each pair of surrogate and target. right: of each network, those that it
    names correctly. Raises ValueError for a pair without any."""
    every = torch.stack(list(right.values())).all(0)
    pairs = [(source, target) for source in surrogates for target in targets]
    kept = {(s, t): every if counted == COUNTED[0] else right[s] & right[t] for s, t in pairs}
    for pair, images in kept.items():
        if not images.any():
            by = "all models" if counted == COUNTED[0] else " and ".join(pair)
            raise ValueError(
                f"data: no image is classified correctly by {by}, so that the success rate has no denominator"
            )
    return kept


def _check_copies(surrogates: Mapping[str, nn.Module], targets: Mapping[str, nn.Module], data: Images) -> None:
    """A surrogate may bear a target's name if it is that network, or a copy of it (`acceleration.accelerate`)."""
    x = data[:32].x
    for name in surrogates.keys() & targets.keys():
        if surrogates[name] is targets[name]:
            continue
        with torch.no_grad(), frozen([surrogates[name], targets[name]]):
            theirs, ours = targets[name](x.clone()), surrogates[name](x.clone())
        if ours.shape != theirs.shape or (ours - theirs).norm() > _apart(surrogates[name]) * theirs.norm():
            raise ValueError(f"surrogates: {name!r} is the name of another network among the targets")


def _apart(surrogate: nn.Module) -> float:
    """Up to where its logits are those of a copy, relative in the L2 norm. A network of this book that was trained a
    little further is 0.044 away, one that was trained by itself 0.17; folded copies are 2e-6 away, and copies in
    bfloat16 0.007 on 32 pixels, but 0.027 (MobileNet v2) to 0.084 (EfficientNet-Lite 2) on photographs."""
    return 0.1 if any(p.dtype.itemsize == 2 for p in surrogate.parameters()) else 0.03


class _Function(nn.Module):
    """A function from images to logits as a module, so that its passes can be counted."""

    def __init__(self, function: Model) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def _modules(networks: Mapping[str, Model]) -> dict[str, nn.Module]:
    return {name: m if isinstance(m, nn.Module) else _Function(m) for name, m in networks.items()}


def _asked_for(frame: pd.DataFrame, cells: list[tuple[str, str, float]]) -> pd.DataFrame:
    """The rows of these cells, in their order: a resumed table may hold others, from a run with other budgets."""
    groups = frame.groupby(["source", "attack", "eps_255"])
    return pd.concat([frame[:0], *(groups.get_group(cell) for cell in cells)], ignore_index=True)


def _in_words(cell: tuple[str, str, float]) -> str:
    source, attack, eps = cell
    return f"attack {attack!r} on {source!r} at {eps:g}/255"


class _Part(NamedTuple):
    """Consecutive images of a cell, as many batches of all as there are."""

    cell: tuple[str, str, float]
    first: int
    behind: int


@dataclass(frozen=True)
class _Answer:
    """Of a part of a cell. named: what every target calls the attacked images, int64 (N,) on the CPU; passed: how many
    images went through the surrogate; seconds: of the attack; device: the name of that which it ran on."""

    named: Mapping[str, torch.Tensor]
    passed: int
    seconds: float
    device: str


def _whole(
    parts: Sequence[_Part], answers: Iterator[tuple[_Part, _Answer | CellError]]
) -> Iterator[tuple[tuple[str, str, float], list[_Answer | CellError]]]:
    """Each cell with the answers of its parts in the order of the images, as soon as the last of them is there."""
    missing, given = Counter(part.cell for part in parts), {}
    for part, answer in answers:
        given[part] = answer
        missing[part.cell] -= 1
        if not missing[part.cell]:
            yield part.cell, [given.pop(other) for other in parts if other.cell == part.cell]


@dataclass(frozen=True)
class _Run:
    """What all cells of a table share, as of `success_rates`."""

    targets: Mapping[str, nn.Module]
    data: Images
    batch_size: int
    seed: int
    ball: bool

    def parts(self, cells: Sequence[tuple[str, str, float]], workers: int) -> list[_Part]:
        """The cells, whole for one worker, and else each in parts of one batch. On a GPU in parts of so many batches
        that a recording pays, or of fewer where there are more workers than cells."""
        batches = ceil(len(self.data) / self.batch_size)
        if workers > 1:
            shares = ceil(workers / max(1, len(cells)))
            on_gpu = min(2 * _WORTH, ceil(batches / shares))
            batches = 1 if self.data.labels.device.type == "cpu" else on_gpu
        ends = [*range(0, len(self.data), batches * self.batch_size), len(self.data)]
        return [_Part(cell, first, behind) for cell in cells for first, behind in pairwise(ends)]

    def cell(
        self, cell: tuple[str, str, float], given: Sequence[_Answer], kept: Mapping[tuple[str, str], torch.Tensor]
    ) -> tuple[list[dict[str, object]], Outcomes]:
        """Rows of one source, attack and budget in 1/255, from the answers of all its parts: for every target, both
        denominators, and abstentions; and which images were fooled. kept: bool (N,) by surrogate and target, the images
        that count."""
        source, attacker, eps = cell
        passes = round(sum(answer.passed for answer in given) / len(self.data))
        cost = {"passes": passes, "seconds": sum(answer.seconds for answer in given)}
        rows, found, y = [], {}, self.data.y.cpu()
        for name, target in self.targets.items():
            named = torch.cat([answer.named[name] for answer in given])
            abstained = named == ABSTAIN
            fooled = (named != y) & ~abstained
            of = {"source": source, "attack": attacker, "target": name, "eps_255": eps}
            counted = kept[source, name].cpu()
            rows += [{**of, **rate, **cost} for rate in _rates(target, fooled, abstained, counted)]
            found[source, attacker, name, eps] = Outcome(fooled.numpy(), counted.numpy())
        return rows, Outcomes(self.data.index.cpu().numpy(), found)

    def answer(self, part: _Part, attack: Attack, surrogate: nn.Module) -> _Answer:
        """What every target calls the images of a part, attacked."""
        (_, _, eps), what, data = part.cell, _in_words(part.cell), self.data[part.first : part.behind]
        answers = {name: [] for name in self.targets}
        options = {"eps": eps / 255, "seed": self.seed}
        run, seconds, passed, each = partial(attack, surrogate, **options), 0.0, 0, 0
        for number, batch in enumerate(data.batches(self.batch_size)):
            started = time.perf_counter()
            if number == 1 and self._repeats(attack, surrogate, len(data)):
                run = _replayed(run, attack, surrogate, batch, options, what)
            with counting(_network(attack, surrogate)) as counter:
                adv = run(batch.x, batch.y.clone(), index=batch.index)
            _finish(adv)
            seconds += time.perf_counter() - started
            each = each or counter.rows
            passed += counter.rows or each  # no hook is run in a replay, which does what the first batch did
            checks.adversarial(adv, batch.x, eps / 255 if self.ball else None, what)
            with torch.no_grad():
                for name, target in self.targets.items():
                    answers[name].append(_answers(target, adv, name))
        named = {name: _named(given, f"{name}, shown {what}").cpu() for name, given in answers.items()}
        return _Answer(named, passed, seconds, device_name(data.labels.device))

    def _repeats(self, attack: Attack, surrogate: nn.Module, images: int) -> bool:
        """Whether it pays to record the attack for so many images, and the attack is known to do the same for every
        batch: a preset, or one that was advised, with options of this package, on a network."""
        many = images >= _WORTH * self.batch_size
        return many and not isinstance(surrogate, _Function) and _is_preset(attack)


@dataclass(frozen=True)
class _Job:
    """The parts of cells of a table as an engine runs them (`engines.Job`)."""

    run: _Run
    attacks: Mapping[str, Attack]
    surrogates: Mapping[str, nn.Module]

    @property
    def device(self) -> torch.device:
        return self.run.data.labels.device

    def parts(self) -> dict[str, object]:
        named = ("attack", self.attacks), ("surrogate", self.surrogates), ("target", self.run.targets)
        return {f"{kind} {name!r}": part for kind, group in named for name, part in group.items()}

    def ready(self) -> AbstractContextManager[None]:
        return frozen([*self.run.targets.values(), *self.surrogates.values()])

    def __call__(self, part: _Part, say: Say) -> _Answer:
        source, attack, _ = part.cell
        return self.run.answer(part, self.attacks[attack], self.surrogates[source])


_WORTH = 6
"""Full batches from which on an attack is recorded: it is run twice more for that."""


def _is_preset(attack: object) -> bool:
    while isinstance(attack, partial | OnNetwork):
        if isinstance(attack, partial) and not all(map(_of_package, [*attack.args, *attack.keywords.values()])):
            return False
        attack = attack.func if isinstance(attack, partial) else attack.attack
    return isinstance(attack, FunctionType) and attack.__module__ in (presets.__name__, advice.__name__)


def _of_package(value: object) -> bool:
    """A plain value, or a function or an object of this package, with whatever it was made of."""
    if value is None or isinstance(value, str | Real | torch.Tensor):
        return True
    if isinstance(value, partial):
        return all(map(_of_package, [value.func, *value.args, *value.keywords.values()]))
    if isinstance(value, list | tuple):
        return all(map(_of_package, value))
    home = value.__module__ if isinstance(value, FunctionType) else type(value).__module__
    return home.partition(".")[0] == __package__.partition(".")[0]


def _replayed(run: Attack, attack: Attack, surrogate: nn.Module, batch: Images, options: dict, what: str) -> Attack:
    """The attack, recorded with this batch; or `run`, with a warning, where that is not possible."""
    try:
        return captured(attack, surrogate, batch.x, batch.y, batch.index, **options)
    except (ValueError, torch.OutOfMemoryError) as error:
        warnings.warn(f"{what}: every batch is launched anew: {error}", RuntimeWarning, stacklevel=2)
        return run


def _rates(
    target: nn.Module, fooled: torch.Tensor, abstained: torch.Tensor, kept: torch.Tensor
) -> list[dict[str, object]]:
    rates = [_rate(fooled, kept, COMMON), _rate(fooled, torch.ones_like(kept), ALL)]
    if isinstance(target, Defended) and target.defence.abstains:
        rates.append(_rate(abstained, kept, ABSTAINED))
    return rates


def _rate(counted: torch.Tensor, keep: torch.Tensor, metric: str) -> dict[str, object]:
    k, n = int((counted & keep).sum()), int(keep.sum())
    low, high = wilson(k, n)
    return {"metric": metric, "value": 100 * k / n, "n": n, "ci_low": low, "ci_high": high}


def _finish(adv: object) -> None:
    """Wait for the device, so that the clock measures the attack and not its launch."""
    if isinstance(adv, torch.Tensor) and adv.is_cuda:
        torch.cuda.synchronize(adv.device)


def matrix(rows: pd.DataFrame, metric: str = COMMON) -> pd.DataFrame:
    """The transfer matrix, source by target, in percent, of rows with one attack and one budget."""
    rows = rows[rows.metric == metric]
    names = list(dict.fromkeys(rows.source)), list(dict.fromkeys(rows.target))
    return rows.pivot(index="source", columns="target", values="value").loc[names[0], names[1]]
