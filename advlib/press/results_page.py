"""The book's page of results: every table of the thesis beside ours, every committed figure, and the conditions."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ..bench import claims, differences, outcomes, results
from ..files import provenance
from ..files.paths import FIGURES, PUBLISHED
from ..zoo import registry
from . import readme
from .markdown import enumerated, stem_alt

SCALES = ("paper", "laptop")
HEAD = """# Results

Every table of the thesis, value by value as printed, is in `data/published`. Here are those that we have measured too,
one block for each scale and data set; below them are the committed figures.

A row is a mean over the black-box targets of one kind (chapters 2 to 4; undefended, adversarially trained and defended
networks are never averaged together) or over the seeds (chapter 5). *Order* says whether its clear differences to the
other rows of the same metric and budget (those whose interval of 95 % leaves out 0) have the sign that they have in
print: "as printed", "mixed", "reversed", or "open" where no difference is clear. Which interval of a difference that is
stands below each block. A number of another data set, network and scale
than the thesis' can agree in its order, not in its value.
"""
FILTER = """
<form class="filter" aria-label="Filter the results">
<label>Chapter <select name="chapter"><option value="">all</option>{chapters}</select></label>
<label>Scale <select name="scale"><option value="">all</option>{scales}</select></label>
<label>Data set <select name="dataset"><option value="">all</option>{datasets}</select></label>
<output aria-live="polite"></output>
</form>
"""
OWN = """## Tables that the thesis does not have

Attacks of chapters that ask more than the thesis' tables do. A row is the mean success on black-box targets of one
kind, and how many points that is above the first attack of its table, with an interval of 95 %.
"""
OF_RUN = ("source", "attack", "target", "eps_255", "metric", "value", "n")
COLUMNS = ("name", "order", "paper", "ours", "interval", "difference", "n", "budget", "metric", "setting")


def markdown(run: Path | None = None) -> str:
    """The page. run: the folder of a run, whose tables stand at the end; None for none."""
    tables = sorted(path.stem.removeprefix("table_").replace("_", ".") for path in PUBLISHED.glob("table_*.csv"))
    measured = {table: _measured(table) for table in tables}
    blocks = [block for table, runs in measured.items() for block in _blocks(table, runs)]
    missing = [table for table, runs in measured.items() if not runs and table not in claims.RECIPES]
    own = {table: _own_runs(table) for table in _own_tables(tables)}
    figures = sorted(FIGURES.glob("*/fig_*.svg"))
    parts = [
        HEAD,
        "## The thesis' claims",
        readme.markdown(whole=True),
        _filter(measured | own),
        "## Tables",
        *blocks,
        "### Not measured",
        f"No run of {enumerated(missing)} is committed. Tables {enumerated(claims.RECIPES)} are recipes: "
        "`al.recipes.thesis` gives them." if missing else "Every table that holds measurements has a committed run.",
        OWN,
        *(_block_of_own(table, *run) for table, runs in own.items() for run in runs),
        "## Figures",
        '<div class="gallery">',
        *map(_figure, figures),
        "</div>",
        *_of_run(run),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


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
        caption = f"Table {table}, {dataset}, {scale} scale"
        found.append(_block(caption, about, table.partition(".")[0], scale, dataset, _html(rows, caption)))
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
    shown = pd.DataFrame(
        {
            "name": rows.attack,
            "targets": rows.kind,
            "budget": [f"{eps:g}/255" for eps in rows.eps_255],
            "passes": rows.passes.round().astype(int),
            "success (%)": rows.value.map(_number),
            f"points above {rows.attack.iloc[0]}": [
                _signed(row.points) if row.interval else "" for row in rows.itertuples()
            ],
            "interval": [
                f"{_signed(row.low)} to {_signed(row.high)}" if row.interval else "" for row in rows.itertuples()
            ],
            "n": rows.images.str.removeprefix("n = "),
        }
    )
    about = f"{_conditions(results.committed(table, scale, dataset), scale, dataset)} {_judged_by(rows.interval)}"
    caption = f"Table {table}, {dataset}, {scale} scale"
    return _block(caption, about, table.partition(".")[0], scale, dataset, _plain(shown, caption))


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


def _block(caption: str, about: str, chapter: str, scale: str, dataset: str, body: str) -> str:
    values = {"chapter": chapter, "scale": scale, "dataset": dataset}
    marks = " ".join(f'data-{name}="{html.escape(value)}"' for name, value in values.items())
    label = html.escape(caption)
    return (
        f'<section class="result" {marks}>\n<div class="scroll" role="region" aria-label="{label}" tabindex="0">\n'
        f"{body}\n</div>\n<p>{html.escape(about)}</p>\n</section>"
    )


def _html(rows: pd.DataFrame, caption: str) -> str:
    shown = rows.assign(
        paper=rows.paper.map(_number),
        budget=rows.eps_255.map(lambda eps: "" if pd.isna(eps) else f"{eps:g}/255"),
        ours=rows.ours.map(_number),
        interval=[f"{_number(low)} to {_number(high)}" for low, high in zip(rows.ci_low, rows.ci_high, strict=True)],
        difference=rows.difference.map(_signed),
    )[list(COLUMNS)]
    head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    lines = [
        f'<tr class="order-{row.order.replace(" ", "-")}">'
        + f'<th scope="row">{html.escape(row.name)}</th>'
        + "".join(f"<td>{html.escape(str(value))}</td>" for value in row[1:])
        + "</tr>"
        for row in shown.itertuples(index=False)
    ]
    top = f"<caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead>"
    return f"<table>{top}<tbody>{''.join(lines)}</tbody></table>"


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
    return FILTER.format(chapters=options(chapters), scales=options(scales), datasets=options(datasets))


def _figure(path: Path) -> str:
    text = stem_alt(path.stem)
    return f"```{{figure}} figures/{path.parent.name}/{path.name}\n:alt: {text}\n\n{text}\n```"


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
    """Rows as they are."""
    body = rows.to_html(index=False, border=0, na_rep="", float_format="{:.4g}".format)
    top = f"<caption>{html.escape(caption)}</caption><thead>"
    return body.replace("<th>", '<th scope="col">').replace("<thead>", top, 1)
