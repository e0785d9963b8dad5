"""The book's page of results: every table of the thesis beside ours, with the conditions; and all figures."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from ..bench import claims, differences, outcomes, results
from ..core.published import file_name
from ..files import provenance
from ..files.paths import FIGURES, PUBLISHED
from ..zoo import registry
from . import readme, tables
from .cells import in_words
from .markdown import enumerated, stem_alt
from .tables import Cell, Html, Number, gain, scrolling

SCALES = ("paper", "laptop")
HEAD = """# Results

Every table of the thesis that we have measured, beside the print: one block for each scale and data set. [Tables of
this book alone](#tables-that-the-thesis-does-not-have) follow; the committed figures have [their own page](figures.md).

## How to read a row

A row is a mean over the black-box targets of one kind (chapters 2 to 4; undefended, adversarially trained and defended
networks are never averaged together) or over the seeds (chapter 5). Rows are compared with the others of their group,
which have the same metric and budget. Two rows differ *clearly* where the interval of 95 % of their difference leaves
out zero; which interval that is stands below each block. *Agreement* says whether the clear differences of a row have
the sign that they have in print:

{agreements}

The difference to the thesis' number stands only where data set and budget are the same as in print. The networks never
are. Elsewhere a number can agree in its order, not in its value, and none is subtracted. A click on the head of a
column sorts each group by it; choices and order stand in the address of the page, to be passed on.
"""
AGREEMENTS = {
    claims.SAME: "every clear difference has the sign of the print.",
    claims.MIXED: "some have it, some have the other.",
    claims.REVERSED: "every clear difference has the other sign.",
    claims.OPEN: "no difference is clear: too few images or seeds, or none to be found.",
}
FILTER = """
<form class="filter" aria-label="Filter the results">
<label>Chapter <select name="chapter"><option value="">all</option>{chapters}</select></label>
<label>Scale <select name="scale"><option value="">all</option>{scales}</select></label>
<label>Data set <select name="dataset"><option value="">all</option>{datasets}</select></label>
<label>Agreement <select name="order"><option value="">all</option>{orders}</select></label>
<label>Name has <input name="name" size="12"></label>
<output aria-live="polite"></output>
</form>
"""
FIGURES_HEAD = """# Figures

Every committed figure, drawn by the chapter of its number. A click shows it alone, as large as the window.
"""
OWN = """## Tables that the thesis does not have

Attacks of chapters that ask more than the thesis' tables do. A row is the mean success on black-box targets of one
kind, and how many points that is above the first attack of its table, with an interval of 95 %.
"""
OF_RUN = ("source", "attack", "target", "eps_255", "metric", "value", "n")
HEADS = ("name", "agreement", "thesis", "ours", "95 % interval", "difference", "images")


def markdown(run: Path | None = None) -> str:
    """The page. run: the folder of a run, whose tables stand at the end; None for none."""
    known = sorted(path.stem.removeprefix("table_").replace("_", ".") for path in PUBLISHED.glob("table_*.csv"))
    measured = {table: _measured(table) for table in known}
    blocks = [block for table, runs in measured.items() for block in _blocks(table, runs)]
    missing = [table for table, runs in measured.items() if not runs and table not in claims.RECIPES]
    own = {table: _own_runs(table) for table in _own_tables(known)}
    swatches = "\n".join(f"- {_agreement(name)}: {meaning}" for name, meaning in AGREEMENTS.items())
    parts = [
        HEAD.format(agreements=swatches),
        "## The thesis' claims",
        '<div class="claims">',
        readme.markdown(whole=True),
        "</div>",
        _filter(measured | own),
        "## Tables",
        *blocks,
        "### Not measured",
        f"No run of {enumerated(missing)} is committed. Tables {enumerated(claims.RECIPES)} are recipes: "
        "`al.recipes.thesis` gives them." if missing else "Every table that holds measurements has a committed run.",
        OWN,
        *(_block_of_own(table, *run) for table, runs in own.items() for run in runs),
        *_of_run(run),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def figures() -> str:
    """The page of all committed figures, which are read when they come into view."""
    found = sorted(FIGURES.glob("*/fig_*.svg"))
    return "\n\n".join([FIGURES_HEAD, f'<div class="gallery">{"".join(map(_figure, found))}</div>']) + "\n"


def _figure(path: Path) -> str:
    text, address = html.escape(stem_alt(path.stem)), f"figures/{path.parent.name}/{path.name}"
    picture = f'<a href="{address}"><img src="{address}" alt="{text}" loading="lazy"></a>'
    return f"<figure>{picture}<figcaption>{text}</figcaption></figure>\n"


def _agreement(order: str) -> Html:
    return Html(f'<span class="order-{order.replace(" ", "-")}">{order}</span>' if order else "")


PAIRS = [(scale, dataset) for scale in SCALES for dataset in reversed(registry.CHAPTERS)]
Measured = list[tuple[str, str, pd.DataFrame]]
"""(scale, data set, rows) of each committed run of a table."""


def _measured(table: str) -> Measured:
    found = [(scale, dataset, claims.compare(table, scale, dataset)) for scale, dataset in PAIRS]
    return [(scale, dataset, rows) for scale, dataset, rows in found if rows is not None]


def _blocks(table: str, runs: Measured) -> list[str]:
    """A table for each committed run, with what it was measured on."""
    found = []
    for scale, dataset, rows in runs:
        source = results.committed(claims.TRAINING if table == claims.GEOMETRY else table, scale, dataset)
        about = f"{_conditions(source, scale, dataset)} {_judged_by(rows.judged)}"
        caption, name = f"Table {table}, {dataset}, {scale} scale", f"{table}-{dataset}-{scale}"
        csv = results.result_path(claims.TRAINING if table == claims.GEOMETRY else table, scale, dataset)
        printed = f"published/{PUBLISHED.joinpath(file_name(table)).name}"
        links = {
            "our rows (CSV)": f"csv/{csv.relative_to(results.RESULTS).as_posix()}",
            "the print (CSV)": f"csv/{printed}",
        }
        shown = _html(rows, caption, name, registry.DATASETS[dataset].title)
        found.append(_block(caption, about, table.partition(".")[0], scale, dataset, shown, links))
    return found


def _own_tables(of_the_thesis: list[str]) -> list[str]:
    """The numbers of committed tables that the thesis does not have."""
    stems = {path.stem.removeprefix("table_") for path in results.RESULTS.glob("*/*/table_*_?.csv")}
    return sorted({stem.replace("_", ".") for stem in stems} - set(of_the_thesis))


def _own_runs(table: str) -> Measured:
    """Each committed run of a table of attacks: the rows of black-box success beside the first attack's."""
    found = []
    for scale, dataset in PAIRS:
        rows = results.committed(table, scale, dataset)
        if rows is not None and (rows.metric == outcomes.COMMON).any():
            found.append((scale, dataset, claims.gains(results.mark_white_box(rows), rows.attack.iloc[0])))
    return found


def _block_of_own(table: str, scale: str, dataset: str, rows: pd.DataFrame) -> str:
    """The block of one run. rows: of `claims.gains`."""
    first = rows.attack.iloc[0]
    heads = ("name", "success (%)", f"points above {first}", "passes an image", "images")
    groups = [
        (f"{kind} targets, {eps:g}/255", [_own_cells(row) for row in part.itertuples()])
        for (kind, eps), part in rows.groupby(["kind", "eps_255"], sort=False)
    ]
    about = f"{_conditions(results.committed(table, scale, dataset), scale, dataset)} {_judged_by(rows.interval)}"
    caption, name = f"Table {table}, {dataset}, {scale} scale", f"{table}-{dataset}-{scale}"
    links = {
        "its rows (CSV)": f"csv/{results.result_path(table, scale, dataset).relative_to(results.RESULTS).as_posix()}"
    }
    body = tables.table(caption, heads, groups, name)
    return _block(caption, about, table.partition(".")[0], scale, dataset, body, links)


def _own_cells(row: tuple) -> list[Cell]:
    return [
        row.attack,
        Number(row.value, _number(row.value)),
        gain(row.points, row.low, row.high) if row.interval else Number(0.0, "the first"),
        Number(row.passes, f"{row.passes:,.0f}"),
        row.images.removeprefix("n = "),
    ]


def _conditions(rows: pd.DataFrame, scale: str, dataset: str) -> str:
    """What committed rows were measured with, and since when they are there."""
    facts = rows[["torch", "device", "commit"]].drop_duplicates().iloc[0]
    since = provenance.date_of(results.result_path(rows.table.iloc[0], scale, dataset))
    return f"torch {facts.torch}, {facts.device}, commit {facts.commit}, {since}."


def _judged_by(intervals: pd.Series) -> str:
    """Which intervals say what is clear in a block."""
    kinds = [name for name in differences.MEANING if intervals.str.contains(name, regex=False).any()]
    if not kinds:
        return "No two rows are compared."
    return f"Intervals of differences: {'; '.join(differences.MEANING[name] for name in kinds)}."


def _block(
    caption: str, about: str, chapter: str, scale: str, dataset: str, body: str, links: Mapping[str, str] | None = None
) -> str:
    """A table with what it was measured on. links: to files, by what they are called."""
    values = {"chapter": chapter, "scale": scale, "dataset": dataset}
    marks = " ".join(f'data-{name}="{html.escape(value)}"' for name, value in values.items())
    files = " · ".join(tables.link(name, address) for name, address in (links or {}).items())
    return (
        f'<section class="result" {marks}>\n{scrolling(caption, body)}\n<p>{html.escape(about)} {files}</p>\n</section>'
    )


def _html(rows: pd.DataFrame, caption: str, name: str, dataset: str) -> str:
    """Rows of `claims.compare`, a group for each metric and budget. dataset: the title of ours."""
    groups = []
    for (metric, eps, setting), part in rows.groupby(["metric", "eps_255", "setting"], sort=False, dropna=False):
        budget = "" if pd.isna(eps) else f" at {eps:g}/255"
        comparable = setting == f"{dataset}, {eps:g}/255"
        cells = [_cells(row, comparable) for row in part.itertuples()]
        groups.append((f"{metric}{budget}; thesis: {setting}", cells))
    return tables.table(caption, HEADS, groups, name)


def _cells(row: tuple, comparable: bool) -> list[Cell]:
    """comparable: whether data set and budget are those of the print, so that the two numbers may be subtracted."""
    return [
        row.name,
        _agreement(row.order),
        _cell(row.paper, _number),
        _cell(row.ours, _number),
        f"{_number(row.ci_low)} to {_number(row.ci_high)}",
        _cell(row.difference, _signed) if comparable else "",
        Number(row.n, f"{row.n:,.0f}"),
    ]


def _cell(value: float, shown: Callable[[float], str]) -> Cell:
    return "" if pd.isna(value) else Number(value, shown(value))


def _number(value: float) -> str:
    """Three digits, or one after the point; nothing for NaN."""
    return "" if pd.isna(value) else f"{value:.3g}" if abs(value) < 10 else f"{value:,.1f}"


def _signed(value: float) -> str:
    return "" if pd.isna(value) else f"{value:+.3g}" if abs(value) < 1 else f"{value:+.1f}"


def _filter(measured: Mapping[str, Measured]) -> str:
    def options(values: list[str]) -> str:
        return "".join(f'<option value="{value}">{value}</option>' for value in values)

    found = [
        (table.partition(".")[0], scale, dataset) for table, runs in measured.items() for scale, dataset, _ in runs
    ]
    chapters, scales, datasets = (sorted({row[k] for row in found}) for k in range(3))
    orders = "".join(f'<option value="{name.replace(" ", "-")}">{name}</option>' for name in AGREEMENTS)
    chosen = {"chapters": options(chapters), "scales": options(scales), "datasets": options(datasets)}
    return FILTER.format(**chosen, orders=orders)


def _of_run(run: Path | None) -> list[str]:
    """The tables of a run, in its own columns. Raises DamagedError for a file that is no table."""
    files = sorted(p for p in (run / "tables").rglob("*.csv") if ".old" not in p.name) if run is not None else []
    found = ["## This run", "The tables of the run that this site was built after."] if files else []
    for path in files:
        try:
            rows = pd.read_csv(path, dtype={"table": str})
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise results.DamagedError(f"{path} is no table ({error}); restore or delete it") from error
        said = {name: str(rows[name].iloc[0]) for name in ("torch", "device", "commit") if name in rows and len(rows)}
        scale, dataset = (str(rows[k].iloc[0]) if k in rows and len(rows) else "" for k in ("scale", "dataset"))
        name = f"{path.parent.name}/{path.stem}"
        shown = rows[list(OF_RUN)] if set(OF_RUN) <= set(rows) else rows
        facts = ", ".join(f"{key} {value}" for key, value in said.items())
        found.append(_block(name, facts, path.parent.name.lstrip("0"), scale, dataset, _plain(shown, name)))
    return found


def _plain(rows: pd.DataFrame, caption: str) -> str:
    """Rows as they are, their heads in words."""
    named = rows.rename(columns=in_words)
    body = named.to_html(index=False, border=0, na_rep="", float_format="{:.4g}".format)
    top = f"<caption>{html.escape(caption)}</caption><thead>"
    return body.replace("<th>", '<th scope="col">').replace("<thead>", top, 1)
