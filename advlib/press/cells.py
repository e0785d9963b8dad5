"""What the site does to the code cells of a chapter: folds what sets up and draws, and gives tables heads in words."""

from __future__ import annotations

import ast
import re

from nbformat import NotebookNode

FOLDED = "hide-input"
"""MyST-NB's tag of a cell whose code is folded."""
MOST = 0.6
"""A cell is folded where more than this part of its lines imports, sets or draws."""
WORDS = {
    "n": "images",
    "ci_low": "95 %, from",
    "ci_high": "95 %, to",
    "eps_255": "budget (1/255)",
    "asr": "success (%)",
    "asr_all": "success on all images (%)",
    "gradient_norm": "gradient norm",
    "normalized_trace": "C(w)",
    "top_eigenvalue": "top eigenvalue",
    "standard_error": "standard error",
    "approximation_ratio": "approximation ratio",
    "peak_lr": "peak learning rate",
    "weight_decay": "weight decay",
    "val_accuracy": "validation accuracy",
    "clear_wins": "clear wins",
    "clear_losses": "clear losses",
    "white_box": "white-box",
}
"""Names of columns in the code, and what a reader calls them."""
_DRAWS = re.compile(r"\b(plotting|plt|fig|figure|ax|axes)\b")


def folded(notebook: NotebookNode) -> NotebookNode:
    """The notebook, with the cells folded that import, set constants or draw; what they show stays."""
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code" and "parameters" not in tags and sets_up_or_draws(cell.source):
            cell.metadata["tags"] = [*tags, FOLDED] if FOLDED not in tags else tags
    return notebook


def sets_up_or_draws(code: str) -> bool:
    """Whether most lines of a cell import, give a name in capitals a value, or draw. What is no Python does not."""
    try:
        parts = ast.parse(code).body
    except SyntaxError:
        return False
    lines = {part: part.end_lineno - part.lineno + 1 for part in parts}
    aside = sum(n for part, n in lines.items() if _is_aside(part, ast.get_source_segment(code, part) or ""))
    return bool(lines) and aside > MOST * sum(lines.values())


def _is_aside(part: ast.stmt, source: str) -> bool:
    if isinstance(part, ast.Import | ast.ImportFrom):
        return True
    if isinstance(part, ast.Assign) and all(isinstance(t, ast.Name) and t.id.isupper() for t in part.targets):
        return isinstance(part.value, ast.Dict | ast.List | ast.Tuple | ast.Constant)
    return _DRAWS.search(source) is not None


def in_words(head: str) -> str:
    """The head of a column as a reader calls it: "ci_low" as "95 %, from", "gradient_norm: mean" as "gradient norm:
    mean". A name that is not known stays."""
    plain = re.sub(r" \(asr(_all)?\)", "", head)
    return WORDS.get(plain.strip()) or re.sub(
        r"\b[a-z]+(?:_[a-z0-9]+)+\b", lambda name: WORDS.get(name[0], name[0]), plain
    )


def worded(notebook: NotebookNode) -> NotebookNode:
    """The notebook, the heads of whose tables are in words."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if (shown := output.get("data", {}).get("text/html")) is not None:
                output.data["text/html"] = re.sub(
                    r"(<th[^>]*>)([^<]*)(</th>)", lambda th: th[1] + in_words(th[2]) + th[3], "".join(shown)
                )
    return notebook
