"""The zoo as a page: every network whose weights are here or were measured, what it gets right, and how it was made."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import escape

from ..bench.gpu import full_size
from ..defenses import purification
from ..zoo import registry, witnesses
from ..zoo.weights import manifest
from .tables import Cell, Html, Number, scrolling, table

HEAD = """# Zoo

Networks that this book attacks, attacks from, or trains. Accuracy is on clean images, of the split and number that
the table says. `al.models.load("cifar10/resnet")` gives a network by the name in the first column, with weights that
are checked against their sha256. A row says how the network was trained: the recipe is what `manifest.json` beside
the weights holds.
"""
HEADS = ("network", "accuracy (%)", "images", "trained on", "parameters", "weights", "recipe")
FULL = """## The thesis' sizes, on a GPU

Trained for fewer epochs than the thesis' networks, and measured once. Their weights are too large for the repository:
`python -m advlib.bench.gpu.full_size` trains them anew.
"""
WITNESSES = """## Networks of others

Nobody here trained these. Their weights are looked for in `$ADVLIB_DATA/weights`, or come as packages.
"""


PURIFIERS = """### Purifiers

Networks that mend an image before another network sees it (appendix A2). The accuracy is that of the network that they
guard. `al.defenses` has them.
"""


def markdown() -> str:
    """The page."""
    known = manifest()
    parts = [HEAD]
    for dataset in registry.TRAINED:
        title = registry.DATASETS[dataset].title
        own = {name: facts for name, facts in known.items() if name.startswith(f"{dataset}/")}
        mending = {name: facts for name, facts in own.items() if name.partition("/")[2] in purification.PURIFIERS}
        if own:
            networks = [_ours(name, facts) for name, facts in own.items() if name not in mending]
            parts += [f"## Small networks on {title}", _table(f"Small networks on {title}", networks, dataset)]
        if mending:
            rows = [_ours(name, facts) for name, facts in mending.items()]
            parts += [PURIFIERS, _table(f"Purifiers on {title}", rows, f"{dataset}-purifiers")]
    facts = json.loads((full_size.COMMITTED / "networks.json").read_text(encoding="utf-8"))
    large = [_row(f["network"], f, "not kept") for f in facts]
    parts += [FULL, _table("CIFAR-10, networks of the thesis' size", large, "full")]
    lines = [[name, witnesses.how_to_get(name)] for name in witnesses.WITNESSES]
    others = table("Networks of others", ("network", "how to get it"), [("", lines)])
    return "\n\n".join([*parts, WITNESSES, scrolling("Networks of others", others)]) + "\n"


def _table(caption: str, rows: list[list[Cell]], name: str) -> str:
    return scrolling(caption, table(caption, HEADS, [("", rows)], name))


def _ours(name: str, facts: Mapping[str, object]) -> list[Cell]:
    size = f"{facts['bytes'] / 1024:,.0f} KB"
    sums = f"<details><summary>{size}</summary>sha256 <code>{facts['sha256']}</code></details>"
    return _row(name, facts, Html(sums))


def _row(name: str, facts: Mapping[str, object], weights: Cell) -> list[Cell]:
    whole = escape(json.dumps(facts["recipe"], ensure_ascii=False))
    recipe = f"<details><summary>{escape(in_words(facts['recipe']))}</summary><code>{whole}</code></details>"
    return [
        name,
        Number(facts["accuracy"], f"{100 * facts['accuracy']:.1f}"),
        Number(facts["n"], f"{facts['n']:,} {facts.get('split', 'test')}"),
        Number(facts["trained_on"], f"{facts['trained_on']:,}"),
        Number(facts["parameters"], f"{facts['parameters']:,}"),
        weights,
        Html(recipe),
    ]


def in_words(recipe: Mapping[str, object]) -> str:
    """ "15 epochs, batches of 128, learning rate 0.1, crop and flip, SAM": what a recipe has beyond its defaults."""
    said = [f"{recipe['epochs']} epoch{'' if recipe['epochs'] == 1 else 's'}", f"batches of {recipe['batch_size']}"]
    said.append(f"learning rate {recipe['lr']:g}")
    said += [" and ".join(recipe["augment"])] if recipe.get("augment") else []
    if objective := re.match(r"\w+", recipe.get("objective") or "Classification"):
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", objective[0]).lower()
        said += [words] if words != "classification" else []
    said += [recipe["wrapper"]["name"]] if recipe.get("wrapper") else []
    return ", ".join(said + (["Adam"] if recipe.get("optimizer") == "adam" else []))
