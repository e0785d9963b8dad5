"""The page over a run: its notebooks, tables and figures, in one file that needs nothing else to be read."""

from __future__ import annotations

import base64
import datetime
import html
import logging
import re
from pathlib import Path

import nbformat
import pandas as pd
import torch
from nbconvert import HTMLExporter

from .paths import replacing
from .results import run_info

STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
.table { overflow-x: auto; margin: 1.5rem 0; }
table { border-collapse: collapse; font-size: .875rem; }
caption { text-align: left; font-weight: 600; padding: .25rem 0; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #bbb; text-align: right; }
th { border-bottom: 2px solid #555; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; }
"""


def write_index(scale: str, dataset: str, build: Path) -> Path:
    """Writes `build`/<scale>/<dataset>/index.html, and each executed notebook as HTML beside it; returns the page."""
    folder = build / scale / dataset
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "index.html"
    with replacing(page) as partial:
        partial.write_text(_page(f"advlib: {scale} scale, {dataset}", scale, dataset, folder), encoding="utf-8")
    return page


def _page(title: str, scale: str, dataset: str, folder: Path) -> str:
    notebooks = [p for p in sorted(folder.glob("*.ipynb")) if not p.name.endswith(".partial.ipynb")]
    tables = sorted(p for p in (folder / "tables").rglob("*.csv") if ".old" not in p.name)  # old: set aside, stale
    figures = sorted((folder / "figures").rglob("*.svg"))
    facts = {
        "scale": scale,
        "data set": dataset,
        "written": datetime.datetime.now().astimezone().isoformat(" ", "minutes"),
        **run_info("cuda" if torch.cuda.is_available() else "cpu"),
    }
    body = [
        f"<h1>{html.escape(title)}</h1>",
        "<ul>" + "".join(f"<li>{k}: {html.escape(v)}</li>" for k, v in facts.items()) + "</ul>",
        "<h2>Chapters</h2>",
        "<ul>",
        *(f"<li>{_chapter(p)}</li>" for p in notebooks),
        "</ul>",
        "<h2>Tables</h2>",
        *(_table(p, folder) for p in tables),
        "<h2>Figures</h2>",
        *(_figure(p, folder) for p in figures),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _chapter(path: Path) -> str:
    """Links to the notebook and to its HTML, which is made here."""
    notebook = nbformat.read(path, as_version=4)
    exporter = HTMLExporter(embed_images=True)
    exporter.log.setLevel(logging.ERROR)
    with replacing(path.with_suffix(".html")) as partial:
        text, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": path.stem}})
        partial.write_text(text, encoding="utf-8")
    name = html.escape(path.stem)
    return f'<a href="{name}.html">{name}</a> (<a href="{name}.ipynb">notebook {name}</a>)'


def _table(path: Path, folder: Path) -> str:
    name = html.escape(path.relative_to(folder).as_posix())
    try:
        rows = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        return f"<p>{name}: not a readable table ({html.escape(str(error))})</p>"
    table = rows.to_html(index=False, border=0, na_rep="", float_format="{:.6g}".format)  # escapes what is in the cells
    table = table.replace("<th>", '<th scope="col">').replace("<thead>", f"<caption>{name}</caption><thead>", 1)
    return f'<div class="table" role="region" aria-label="{name}" tabindex="0">{table}</div>'


def _figure(path: Path, folder: Path) -> str:
    """An <img>, in which no script of the drawing can run. Its alternative text is the drawing's own title, if any."""
    source = path.read_bytes()
    titles = re.findall(r"<(?:dc:)?title>([^<]+)</", source.decode(errors="replace"))
    name = html.escape(path.relative_to(folder).as_posix())
    alt = html.escape(html.unescape(titles[0])) if titles else html.escape(path.stem.replace("_", " "))
    data = base64.b64encode(source).decode()
    return f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{alt}"><figcaption>{name}</figcaption></figure>'
