"""Success rates of attacks: who fools whom, at which cost, with intervals.

table = success_rates({"MI-FGSM": mi_fgsm}, {"resnet": f}, {"resnet": f, "vgg": h}, data, eps_255=[8, 16])
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FunctionType

import pandas as pd
import torch
from torch import nn

from .datasets import Images
from .defenses import ABSTAIN, Defended
from .models import Ensemble, digest, frozen
from .progress import Progress
from .results import ResultTable, wilson

Attack = Callable[..., torch.Tensor]
"""(model, x, y, eps=, seed=, index=) -> adv: what every preset of `attacks` is."""

ALL, COMMON, ABSTAINED = "asr_all", "asr", "abstained"
"""The two denominators. asr: over the images that every evaluated model gets right (the thesis' protocol); asr_all:
over all images, so that those a target got wrong anyway count as successes. A defence that declines to answer has not
been fooled: `abstained` counts that, over the images of `asr`."""


@torch.no_grad()
def predictions(model: nn.Module, data: Images, batch_size: int = 250) -> torch.Tensor:
    """Predicted classes, int64 (N,), for the clean images of `data`, in eval mode; ABSTAIN where a defence does."""
    with frozen([model]):
        return torch.cat([_answers(model, b.x) for b in data.batches(batch_size)])


def _answers(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = _channels_last(x)
    return model.predict(x) if isinstance(model, Defended) else model(x).argmax(1)


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@dataclass
class PassCounter:
    """rows: images that went forward through a network, each member of an ensemble counted."""

    rows: int = 0


@dataclass(frozen=True, eq=False)
class Cushioned:
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
    return attack.network if isinstance(attack, Cushioned) else surrogate


def described(attack: object) -> str:
    """What an attack is: the function and the keywords it was given, and the source of a function that is not in this
    package. What such a function takes from outside is not seen: give it as a keyword, with functools.partial."""
    if isinstance(attack, partial):
        given = [*map(described, attack.args), *(f"{k}={described(v)}" for k, v in sorted(attack.keywords.items()))]
        return f"{described(attack.func)}({', '.join(given)})"
    if isinstance(attack, Cushioned):
        return f"{described(attack.attack)} on {digest(attack.network)}"
    if not isinstance(attack, FunctionType):
        return repr(attack)
    if attack.__module__.startswith(f"{__package__}."):
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
        if torch.is_grad_enabled():  # the check of the input, which needs no gradient, is no pass of the attack
            counter.rows += inputs[0].shape[0]

    networks = list(model.members) if isinstance(model, Ensemble) else [model]
    hooks = [network.register_forward_pre_hook(seen) for network in networks]
    try:
        yield counter
    finally:
        for hook in hooks:
            hook.remove()


def success_rates(
    attacks: Mapping[str, Attack],
    surrogates: Mapping[str, nn.Module],
    targets: Mapping[str, nn.Module],
    data: Images,
    eps_255: Sequence[float],
    *,
    table: ResultTable | None = None,
    batch_size: int = 100,
    seed: int = 0,
    title: str = "success rates",
) -> pd.DataFrame:
    """Attack every image of `data` on every surrogate and count what each target gets wrong.

    attacks, surrogates, targets: by the name that stands in the table. eps_255: budgets in 1/255. table: rows are
    written there cell by cell (source, attack, budget), and cells that it holds already are not run again, unless the
    attack's function or keywords are others now.
    Returns tidy rows of what was asked for: source, attack, target, eps_255, metric ("asr" over the images that every
    target and surrogate names correctly, "asr_all" over all, and "abstained" for targets that may), value in percent,
    n, ci_low, ci_high (Wilson, 95 %), passes per image, seconds of the attack.
    Raises ValueError, before any attack, if no image is right for all models.
    """
    networks = {**targets, **{k: v for k, v in surrogates.items() if k not in targets}}
    right = torch.stack([predictions(m, data, batch_size) == data.y for m in networks.values()]).all(0)
    if not right.any():
        raise ValueError(
            "data: no image is classified correctly by all models, so that the success rate has no denominator"
        )
    cells = [(s, a, float(e)) for s in surrogates for a in attacks for e in eps_255]
    if table is not None:
        table.expect({name: described(attack) for name, attack in attacks.items()})
    rows = []
    with Progress(title, len(cells)) as bar, frozen(list(networks.values())):
        for source, name, eps in cells:
            if table is None or not table.done(source, name, eps):
                new = _cell(attacks[name], surrogates[source], targets, data, eps, right, batch_size, seed)
                new = [{"source": source, "attack": name, "eps_255": eps, **row} for row in new]
                rows += new
                if table is not None:
                    table.add(new)
            bar.advance(f"{source} {name} {eps:g}")
    return pd.DataFrame(rows) if table is None else _asked_for(table.frame, cells)


def _asked_for(frame: pd.DataFrame, cells: list[tuple[str, str, float]]) -> pd.DataFrame:
    """The rows of these cells, in their order: a resumed table may hold others, from a run with other budgets."""
    groups = frame.groupby(["source", "attack", "eps_255"])
    return pd.concat([groups.get_group(cell) for cell in cells], ignore_index=True)


def _cell(
    attack: Attack,
    surrogate: nn.Module,
    targets: Mapping[str, nn.Module],
    data: Images,
    eps: float,
    right: torch.Tensor,
    batch_size: int,
    seed: int,
) -> list[dict[str, object]]:
    """Rows of one source, attack and budget: for every target, both denominators, and abstentions."""
    answers = {name: [] for name in targets}
    seconds, rows = 0.0, 0
    for batch in data.batches(batch_size):
        started = time.perf_counter()
        with counting(_network(attack, surrogate)) as counter:
            adv = attack(surrogate, batch.x, batch.y, eps=eps / 255, seed=seed, index=batch.index)
        _finish(adv)
        seconds += time.perf_counter() - started
        rows += counter.rows
        with torch.no_grad():
            for name, target in targets.items():
                answers[name].append(_answers(target, adv))
    cost = {"passes": round(rows / len(data)), "seconds": seconds}
    return [
        {"target": name, **rate, **cost}
        for name, given in answers.items()
        for rate in _rates(targets[name], torch.cat(given), data.y, right)
    ]


def _rates(target: nn.Module, answers: torch.Tensor, y: torch.Tensor, right: torch.Tensor) -> list[dict[str, object]]:
    abstained = answers == ABSTAIN
    fooled = (answers != y) & ~abstained
    rates = [_rate(fooled, right, COMMON), _rate(fooled, torch.ones_like(right), ALL)]
    if isinstance(target, Defended) and target.defence.abstains:
        rates.append(_rate(abstained, right, ABSTAINED))
    return rates


def _rate(counted: torch.Tensor, keep: torch.Tensor, metric: str) -> dict[str, object]:
    k, n = int((counted & keep).sum()), int(keep.sum())
    low, high = wilson(k, n)
    return {"metric": metric, "value": 100 * k / n, "n": n, "ci_low": low, "ci_high": high}


def _finish(adv: torch.Tensor) -> None:
    """Wait for the device, so that the clock measures the attack and not its launch."""
    if adv.is_cuda:
        torch.cuda.synchronize(adv.device)


def matrix(rows: pd.DataFrame, metric: str = COMMON) -> pd.DataFrame:
    """The transfer matrix, source by target, in percent, of rows with one attack and one budget."""
    rows = rows[rows.metric == metric]
    names = list(dict.fromkeys(rows.source)), list(dict.fromkeys(rows.target))
    return rows.pivot(index="source", columns="target", values="value").loc[names[0], names[1]]
