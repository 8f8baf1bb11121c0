"""The page "Which method when": a tree of questions to click through, a card a leaf, its numbers from the records."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from reuselib import report
from reuselib.report.claims import SYMBOLS
from reuselib.report.papers import Paper

ROOT = Path(__file__).resolve().parent.parent


def tree() -> str:
    """Return the tree of `which_method.yml` as MyST."""
    return "\n".join(branch(yaml.safe_load((ROOT / "book/which_method.yml").read_text("utf-8")), 0))


def branch(node: dict[str, Any], depth: int) -> Iterator[str]:
    """Give the lines of a question with its answers, or of a card; directives hold deeper ones by longer fences."""
    if "question" not in node:
        yield from card(node)
        return
    yield f"**{node['question']}**\n"
    for answer in node["answers"]:
        fence = ":" * (6 - depth)
        yield from (f"{fence}{{dropdown}} {answer['have']}", "")
        yield from branch(answer, depth + 1)
        yield f"{fence}\n"


def card(leaf: dict[str, Any]) -> Iterator[str]:
    """Give the lines of a leaf: what to try, the call, what was measured and its cost, how sure it is, the chapter."""
    (paper, metric, rows), (source, *claims) = leaf["measured"], leaf["claims"]
    about = report.published(paper)
    yield f"**Try this.** {leaf['try']}\n"
    lines = leaf["call"].strip().splitlines()
    yield from ("```" + ("bash" if lines[0].startswith("reuselib") else "python"), *lines, "```", "")
    shown = [named(about, row) for row in rows]
    tasks = {task for *_, task in shown if task}
    head = about.words.get(metric, metric.replace("_", " ")) + (f", {min(tasks)}" if len(tasks) == 1 else "")
    yield from (f"| Measured | {head} | Time on one core |", "|---|---|---|")
    for row, label, task in shown:
        where = f" ({task})" if len(tasks) > 1 else ""
        spent = mean(paper, row, "seconds" if metric == "seconds" else "cpu_seconds")
        time = report.duration(spent) if spent else "–"  # nothing was computed
        yield f"| {label}{where} | {rounded(paper, row, metric)} | {time} |"
    verdicts = {verdict.claim.id: verdict for verdict in report.verdicts(source)}
    yield "\n**How sure.**\n"
    yield from (f"- {SYMBOLS[v.outcome]} *{v.words}*: {v.claim.text}" for v in map(verdicts.__getitem__, claims))
    yield f"\nRead on: [chapter {about.chapter}, {about.title}](../notebooks/{about.chapter:02d}_{paper}.ipynb)"


def named(about: Paper, row: str | dict[str, str]) -> tuple[str, str, str]:
    """Return a row, its label and its task, from the paper's table where the leaf gives no label of its own."""
    if isinstance(row, dict):
        ((name, label),) = row.items()
        return name, label, ""
    label, task = about.label(row)
    return row, re.sub(r"^\d+, ", "", label), task  # the number of images stands in the task


def mean(paper: str, row: str, metric: str) -> float:
    """Return a row's recorded mean."""
    return report.summary(report.values(paper, "laptop", row, metric)).mean


def rounded(paper: str, row: str, metric: str) -> str:
    """Return a row's recorded mean in two digits."""
    found = mean(paper, row, metric)
    return f"{found:.0f}" if found >= 10 else f"{found:.2f}" if found >= 0.1 else f"{found:#.2g}"
