"""What a chapter does with a table of the thesis: measure it, show it, put it beside the print and our committed run.

book = Experiment(RUN, models, images, eps_255=[8.0])  # RUN: `chapters.begin`
rows = book.measure("2.1", {"MI-FGSM": mi_fgsm, "EM-FGSM": em_fgsm}, surrogates)
book.show(rows); book.beside("2.1", rows); found = book.committed("2.1")
book.verdicts([("2.1", "EM-FGSM", "MI-FGSM")], {"2.1": rows}, {"2.1": found})
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import pandas as pd
import torch
from torch import nn

from ..core import intervals, published
from ..defenses.transformations import ABSTAIN, Defended
from ..zoo.datasets import Images
from ..zoo.weights import digest
from . import claims, results
from .chapters import Run
from .claims import ATTACKS
from .differences import Difference, signed
from .engines import Engine, of_chapters
from .evaluation import ABSTAINED, COMMON, COUNTED, Attack, described, predictions, success_rates


@dataclass(frozen=True)
class Experiment:
    """The conditions that all tables of a chapter share.

    run: of the chapter, as `chapters.begin` gives it; models: the targets by name; images: what is attacked; eps_255:
    budgets in 1/255; steps: of every attack, None where the attacks bring their own; config: whatever else changes the
    numbers; counted: over which images `measure` counts success, as of `success_rates`; engine: where the cells of
    `measure` run, as of `success_rates`; by default the one that $ADVLIB_ENGINE names, or else this process.
    """

    run: Run
    models: Mapping[str, nn.Module]
    images: Images
    eps_255: Sequence[float]
    steps: int | None = None
    seed: int = 0
    config: Mapping[str, object] = field(default_factory=dict)
    counted: str = COUNTED[0]
    engine: str | Engine = field(default_factory=of_chapters)

    def measure(
        self, table: str, attacks: Mapping[str, Attack], surrogates: Mapping[str, nn.Module], stem: str | None = None
    ) -> pd.DataFrame:
        """Rows of every attack on every surrogate against every model, marked `white_box`; a killed run resumes.

        table: the number in the thesis ("2.1"), or in this book; surrogates: by name, an ensemble by its members'
        (`results.ensemble_name`); stem: the file's name where it is not that table itself.
        """
        networks = {"targets": self.models, "surrogates": surrogates}
        other = {} if self.counted == COUNTED[0] else {"counted": self.counted}
        kept = self._kept(table, self.images, networks, other, stem)
        if self.steps is not None:
            attacks = {name: partial(attack, steps=self.steps) for name, attack in attacks.items()}
        rows = success_rates(
            attacks,
            surrogates,
            self.models,
            self.images,
            self.eps_255,
            table=kept,
            seed=self.seed,
            counted=self.counted,
            title=stem or f"Table {table}",
            engine=self.engine,
        )
        return results.mark_white_box(rows)

    def accuracy(self, table: str, data: Images) -> pd.DataFrame:
        """Rows of the accuracy of every model on the clean images `data`, metric "accuracy", and of a defence that may
        decline to answer, "abstained", both over all images; a killed run resumes. Columns as of `measure`."""
        kept = self._kept(table, data, {"targets": self.models})
        for name, model in self.models.items():
            if kept.done(name, "none", 0.0):
                continue
            started = time.perf_counter()
            answers = predictions(model, data)
            seconds = time.perf_counter() - started
            counts = {"accuracy": int((answers == data.y).sum())}
            if isinstance(model, Defended) and model.defence.abstains:
                counts[ABSTAINED] = int((answers == ABSTAIN).sum())
            cell = {
                "source": name,
                "attack": "none",
                "target": name,
                "eps_255": 0.0,
                "n": len(data),
                "seconds": seconds,
            }
            kept.add(cell | {"metric": metric} | _share(count, len(data)) for metric, count in counts.items())
        return kept.frame

    def means(
        self,
        table: str,
        metric: str,
        measure: Callable[[nn.Module, Images, float], torch.Tensor],
        networks: Mapping[str, nn.Module],
    ) -> pd.DataFrame:
        """Rows of the mean over the images of `measure(network, images, eps)`, shape (N,), eps in [0, 1], of every
        network at each budget, with the normal interval of 95 %; a killed run resumes. Columns as of `measure`, where
        source, attack and target all are the network."""
        kept = self._kept(table, self.images, {"networks": networks}, {"measure": described(measure)})
        for name, network in networks.items():
            for eps in self.eps_255:
                cell = {"source": name, "attack": name, "target": name, "eps_255": eps}
                if kept.done(name, name, eps):
                    continue
                started = time.perf_counter()
                values = torch.cat([measure(network, batch, eps / 255) for batch in self.images.batches(100)]).double()
                if values.shape != (len(self.images),):
                    raise ValueError(f"measure: expected one number an image, got {tuple(values.shape)}")
                mean, half = values.mean().item(), 1.96 * values.std().item() / len(values) ** 0.5
                interval = {"value": mean, "ci_low": mean - half, "ci_high": mean + half}
                seconds = time.perf_counter() - started
                kept.add([cell | interval | {"metric": metric, "n": len(values), "seconds": seconds}])
        return kept.frame

    def _kept(
        self,
        table: str,
        data: Images,
        networks: Mapping[str, Mapping[str, nn.Module]],
        more: Mapping[str, object] | None = None,
        stem: str | None = None,
    ) -> results.ResultTable:
        """The file of a table of this run; what it was made from is in its fingerprint: images and networks by content,
        and `more`."""
        weights = {role: {name: digest(net) for name, net in nets.items()} for role, nets in networks.items()}
        config = {"n": len(data), "images": _contents(data), **weights, **(more or {}), **self.config}
        path = self.run.tables / f"{stem or 'table_' + table.replace('.', '_')}.csv"
        return results.ResultTable(path, table, self.run.scale, self.run.dataset, data.labels.device, self.seed, config)

    def show(self, rows: pd.DataFrame) -> None:
        """Our table in the thesis' layout, one for each budget."""
        for eps, part in rows[rows.metric == COMMON].groupby("eps_255", sort=False):
            setting = f"{self.run.dataset}, {self.run.scale} scale, {eps:g}/255, {results.images(part)}"
            _say(f"**Ours**, {setting}; a star: white-box")
            _show(results.layout(part))

    def black_box(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Mean black-box success of each attack at each budget, with n and the 95 % interval at n images."""
        groups = rows[rows.metric == COMMON].groupby("eps_255", sort=False)
        parts = {f"{eps:g}/255": results.black_box(part) for eps, part in groups}
        return pd.concat(parts, names=["budget"]).round(1)

    def gains(self, rows: pd.DataFrame, baseline: str) -> pd.DataFrame:
        """Mean success of each attack on the targets of each kind, and the points by which it is above `baseline` with
        their interval of 95 %, with ▲ or ▼ where that leaves out 0. rows: as `measure` returns them."""
        found = claims.gains(rows, baseline)
        found["cell"] = [_gain(row) for row in found.itertuples()]
        found["column"] = [f"{row.kind}, {row.eps_255:g}/255 ({row.images})" for row in found.itertuples()]
        attacks, columns = (list(dict.fromkeys(found[name])) for name in ("attack", "column"))
        table = found.pivot(index="attack", columns="column", values="cell").loc[attacks, columns]
        table.insert(0, "passes", found.groupby("attack").passes.first().round().astype(int))
        return table.rename_axis(columns=None)

    def compared(self, pairs: Sequence[tuple[str, str]], runs: Mapping[str, pd.DataFrame | None]) -> pd.DataFrame:
        """Points by which the first attack of each pair is above the second, in the mean over the black-box targets,
        with their interval of 95 % and ▲ or ▼ where that leaves out 0.

        runs: name -> rows of a table with `white_box`, ours or printed, at one budget (`claims.ahead`). A run that is
        None has no column, a pair that is in no run no row."""
        columns = {}
        for name, rows in runs.items():
            if rows is not None:
                found = [claims.ahead(rows, *pair) for pair in pairs]
                head = f"{name}, {rows.eps_255.iloc[0]:g}/255, {results.images(rows[~rows.white_box])}"
                columns[head] = ["" if difference is None else _points(difference) for difference in found]
        table = pd.DataFrame(columns, pd.MultiIndex.from_tuples(pairs, names=["attack", "compared with"]))
        return table[(table != "").any(axis=1)]

    def beside(self, table: str, rows: pd.DataFrame) -> None:
        """paper | ours | difference | n | 95 % interval of the mean by role, for each of the thesis' budgets at the
        nearest of ours (`results.nearest`); where one of ours is nearest to several, for the one it is nearest to."""
        in_print = published.table(table)
        in_print = in_print[in_print.target != published.AVERAGE]  # as printed; the rows' own means are shown here
        pairs = {}
        for eps in sorted(set(in_print.eps_255)):
            own = results.nearest(self.eps_255, eps)
            pairs[own] = results.nearest([pairs.get(own, eps), eps], own)
        for nearest, eps in pairs.items():
            ours = results.averages(rows[(rows.metric == COMMON) & (rows.eps_255 == nearest)])
            printed = results.averages(in_print[in_print.eps_255 == eps])
            both = results.side_by_side(printed, ours, on=("attack", "role")).sort_values("role", kind="stable")
            paper = f"**Paper** ({eps:g}/255, {results.images(printed)})"
            _say(f"{paper} **beside ours** ({self.run.dataset}, {self.run.scale} scale, {nearest:g}/255)")
            _show(both.set_index(["role", "attack"]).round(1))

    def committed(
        self,
        table: str,
        dataset: str = "cifar10",
        targets: Sequence[str] | None = None,
        whole: bool = False,
        baseline: str | None = None,
    ) -> pd.DataFrame | None:
        """Our committed rows of a table on real data, of the largest scale there is, shown, or a note that there are
        none. targets: those that belong to the thesis' table, None for all; whole: show every cell of it besides the
        means by role; baseline: show `gains` over it instead. Where each target counts its own images, the means over
        those that all networks name rightly stand beside."""
        found = [(scale, results.committed(table, scale, dataset)) for scale in ("paper", "laptop")]
        scale, rows = next((pair for pair in found if pair[1] is not None), (None, None))
        if rows is None:
            _say(f"*No {dataset} run of Table {table} is committed yet.*")
            return None
        kept = rows.metric == COMMON if targets is None else (rows.metric == COMMON) & rows.target.isin(targets)
        rows = results.mark_white_box(rows[kept])
        if baseline is not None:
            _say(f"**Committed run**: {dataset}, {scale} scale, points above {baseline}")
            _show(self.gains(rows, baseline))
            return rows
        for eps, part in rows.groupby("eps_255"):
            _say(
                f"**Committed run**: {dataset}, {scale} scale, {eps:g}/255, "
                f"{results.images(part)} images that the networks get right"
            )
            _show(_averages(part).round(1))
            if whole:
                _show(results.layout(part))
        return rows

    def verdicts(
        self, claims: Sequence[Claim], ours: Mapping[str, pd.DataFrame], *committed: Mapping[str, pd.DataFrame | None]
    ) -> pd.DataFrame:
        """How claims on an ordering, (table, better, worse), fare in the print, in this run and in committed ones.

        ours: rows by table; committed: the same, of each data set in turn. Where a table is None or lacks one of the
        two attacks the cell is empty; a claim that no table can answer is left out. A cell counts the black-box cases
        as `results.wins` does: "wins : losses of cases, clear clear_wins : clear_losses (interval)".
        """
        groups = {(table, f"{better} > {worse}"): [(table, better, worse)] for table, better, worse in claims}
        return _scores(groups, ours, committed, ["table", "claim"])

    def tally(
        self,
        groups: Mapping[tuple[str, str], Sequence[Claim]],
        ours: Mapping[str, pd.DataFrame],
        *committed: Mapping[str, pd.DataFrame | None],
    ) -> pd.DataFrame:
        """`verdicts`, with the cases of several claims added up. groups: (what is compared, on which targets) -> its
        claims. A cell counts those of its claims that the run can answer."""
        return _scores(groups, ours, committed, ["compared", "targets"])


Claim = tuple[str, str, str]
"""A table, an attack that is said to be ahead in it, and of which other."""


def _scores(
    groups: Mapping[tuple[str, str], Sequence[Claim]],
    ours: Mapping[str, pd.DataFrame],
    committed: Sequence[Mapping[str, pd.DataFrame | None]],
    names: Sequence[str],
) -> pd.DataFrame:
    """The table of `Experiment.verdicts` and `tally`: a row for each group, a column for each run."""
    tables = {t for group in groups.values() for t, _, _ in group}
    runs = {
        "paper": [{t: published.table(t).assign(dataset=ATTACKS[t][1], scale="paper") for t in sorted(tables)}],
        "this run": [ours],
        "committed run": [{t: rows for t, rows in run.items() if rows is not None} for run in committed],
    }
    scores = {
        _label(name, tables): [_score(tables, group) for group in groups.values()]
        for name, each in runs.items()
        for tables in each
        if tables
    }
    found = pd.DataFrame(scores, pd.MultiIndex.from_tuples(groups, names=names))
    return found[(found != "").any(axis=1)]


def _contents(data: Images) -> str:
    """Sixteen hex digits of what images are: their numbers, labels and pixels."""
    found = hashlib.sha256()
    for part in (data.index, data.labels, data.images):
        values = part.detach().cpu().contiguous()
        found.update(f"{values.dtype} {tuple(values.shape)}".encode())
        found.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _say(markdown: str) -> None:
    from IPython.display import Markdown  # here, since the module is of use where there is no notebook

    _show(Markdown(markdown))


def _averages(rows: pd.DataFrame) -> pd.DataFrame:
    """Means by role and attack, and beside them those over the images that count in all rows, where these are fewer."""
    means, common = results.averages(rows).set_index(["role", "attack"]), results.over_common(rows)
    if common is None or common["n"].iloc[0] == rows["n"].min():
        return means
    strict = results.averages(common).set_index(["role", "attack"])["value"]
    return means.assign(**{f"over the {common['n'].iloc[0]} that all name rightly": strict})


def _show(thing: object) -> None:
    from IPython.display import display

    display(thing)


def _gain(row: tuple) -> str:
    """One cell of `Experiment.gains`: success, points above the baseline and their interval."""
    if not row.interval:  # the baseline itself
        return f"{row.value:.1f}"
    return f"{row.value:.1f} ({_marked(row)}, {signed(row.low)} to {signed(row.high)})"


def _points(difference: Difference) -> str:
    """One cell of `Experiment.compared`: "+2.0 ▲ (+1.0 to +3.0)"."""
    return f"{_marked(difference)} ({signed(difference.low)} to {signed(difference.high)})"


def _marked(difference: Difference | tuple) -> str:
    """The points of a difference, and a mark where it is clear."""
    points = signed(difference.points)
    return points if not difference.clear else f"{points} ▲" if difference.points > 0 else f"{points} ▼"


def _share(count: int, n: int) -> dict[str, float]:
    low, high = intervals.wilson(count, n)
    return {"value": 100 * count / n, "ci_low": low, "ci_high": high}


def _label(run: str, tables: Mapping[str, pd.DataFrame]) -> str:
    """The heading of a column of `Experiment.verdicts`: the run, its data set and scale, and the range of its n."""
    rows = pd.concat([table[table["metric"] == COMMON] for table in tables.values()])
    setting = [f"{dataset}, {scale} scale" for dataset, scale in rows[["dataset", "scale"]].drop_duplicates().values]
    return f"{run}: {', '.join([*setting, results.images(rows)])}"


def _score(tables: Mapping[str, pd.DataFrame], claims: Sequence[Claim]) -> str:
    """One cell of `_scores`: the cases of all claims that these tables can answer, added up."""
    wins = [found for table, *claim in claims if (found := _wins(tables.get(table), *claim))]
    if not wins:
        return ""
    names = "wins", "losses", "cases", "clear_wins", "clear_losses"
    won, lost, cases, clear_won, clear_lost = (sum(w[name] for w in wins) for name in names)
    intervals = " and ".join(sorted({word for w in wins for word in w["interval"].split(" and ") if word}))
    return f"{won} : {lost} of {cases}, clear {clear_won} : {clear_lost} ({intervals})"


def _wins(rows: pd.DataFrame | None, better: str, worse: str) -> dict[str, object] | None:
    """`results.wins` over the black-box cases of a table; None where it lacks one of the two attacks."""
    if rows is None or not {better, worse} <= set(rows["attack"]):
        return None
    cases = ~rows["white_box"] & (rows["target"] != published.AVERAGE) & (rows["metric"] == COMMON)
    return results.wins(rows[cases], better, worse)
