"""The page "Which method when": a tree of questions to click through, a card a leaf, its numbers from the records."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from reuselib import report
from reuselib.report.claims import SYMBOLS, metric_of
from reuselib.report.papers import Paper

ROOT = Path(__file__).resolve().parent.parent


SCALES = "colab", "laptop"
"""Where runs are recorded; what both have is taken from the last."""
FACTORS = {"ratio_frozen", "seconds"}
"""Metrics that are no shares: they are compared by their ratio, shares in points of 100."""


def tree() -> str:
    """Return the tree of `which_method.yml` as MyST."""
    found = yaml.safe_load((ROOT / "book/which_method.yml").read_text("utf-8"))
    return "\n".join(branch(found, 0, found["names"]))


def branch(node: dict[str, Any], depth: int, names: dict[str, str]) -> Iterator[str]:
    """Give the lines of a question with its answers, or of a card; directives hold deeper ones by longer fences."""
    if "question" not in node:
        yield from card(node, names)
        return
    yield f"**{node['question']}**\n"
    for answer in node["answers"]:
        fence = ":" * (6 - depth)
        yield from (f"{fence}{{dropdown}} {answer['have']}", "")
        yield from branch(answer, depth + 1, names)
        yield f"{fence}\n"


def unknowns(call: str) -> list[str]:
    """Return the names that a call uses and does not make, in their order, but for the library's modules."""
    used = [node for node in ast.walk(ast.parse(call)) if isinstance(node, ast.Name)]
    made = {node.id for node in used if isinstance(node.ctx, ast.Store)}
    used.sort(key=lambda node: (node.lineno, node.col_offset))
    found = dict.fromkeys(node.id for node in used if node.id not in made)
    return [name for name in found if not (ROOT / "reuselib" / name).is_dir()]


def card(leaf: dict[str, Any], names: dict[str, str]) -> Iterator[str]:
    """Give the lines of a leaf: what to try, the call, the gain, what was measured at what cost, how sure it is."""
    (paper, metric, rows), (source, *claims) = leaf["measured"], leaf["claims"]
    about = report.published(paper)
    yield f"**Try this.** {leaf['try']}\n"
    yield from ("```python", *leaf["call"].strip().splitlines(), "```", "")
    if told := [f"`{name}` {names[name]}" for name in unknowns(leaf["call"])]:
        yield f"Here {'; '.join(told)}.\n"
    yield f"**Gain.** {re.sub('{([^{}]+)}', lambda place: compared(paper, place[1], metric), leaf['gain'])}\n"
    shown = [named(about, row) for row in rows]
    tasks = {task for *_, task in shown if task}
    head = metric_of(about, metric) + (f", {min(tasks)}" if len(tasks) == 1 else "")
    yield from (f"| Measured | {head} | Time on one core |", "|---|---|---|")
    for row, label, task in shown:
        where = f" ({task})" if len(tasks) > 1 else ""
        spent = mean(paper, row, "seconds" if metric == "seconds" else "cpu_seconds")
        time = report.duration(spent) if spent else "–"  # nothing was computed
        yield f"| {label}{where} | {rounded(paper, row, metric)} | {time} |"
    verdicts = {verdict.claim.id: verdict for scale in SCALES for verdict in report.verdicts(source, scale)}
    yield "\n**How sure.**\n"
    yield from (f"- {SYMBOLS[v.outcome]} *{v.words}*: {v.claim.text}" for v in map(verdicts.__getitem__, claims))
    yield f"\nRead on: [chapter {about.chapter}, {about.title}](../notebooks/{about.chapter:02d}_{paper}.ipynb)"


def named(about: Paper, row: str | dict[str, str]) -> tuple[str, str, str]:
    """Return a row, its label and its task, from the paper's table where the leaf gives no label of its own."""
    if isinstance(row, dict):
        ((name, label),) = row.items()
        return name, label, ""
    return row, *about.label(row)


def mean(paper: str, row: str, metric: str) -> float:
    """Return a row's recorded mean, at the laptop scale where it is recorded there."""
    recorded = (report.values(paper, scale, row, metric) for scale in reversed(SCALES))
    return report.summary(next(filter(None, recorded))).mean


def rounded(paper: str, row: str, metric: str) -> str:
    """Return a row's recorded mean: a share in per cent, anything else in two or three digits."""
    found = mean(paper, row, metric)
    if metric in FACTORS:
        return f"{found:.0f}" if found >= 10 else f"{found:.2f}"
    return f"{100 * found:.0f} %" if found >= 0.1 else f"{100 * found:.1f} %"


def compared(paper: str, rows: str, metric: str) -> str:
    """Return how far the first of two rows is from the second, "a - b", or the value of a row alone."""
    first, _, second = rows.partition(" - ")
    if not second:
        return rounded(paper, first, metric)
    one, other = mean(paper, first, metric), mean(paper, second, metric)
    if metric in FACTORS:
        return f"{one / other:.0f} times"
    points = round(100 * (one - other), int(abs(one - other) < 0.02))
    return f"{points:+.1f}".removesuffix(".0").replace("-", "−") if points else "±0"
