"""The page "Which method when": a tree of questions to click through, a card a leaf, its numbers from the records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from reuselib import report
from reuselib.report.claims import SYMBOLS

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
        yield from (f"{fence}{{dropdown}} {answer['have']}", ":animate: fade-in", "")
        yield from branch(answer, depth + 1)
        yield f"{fence}\n"


def card(leaf: dict[str, Any]) -> Iterator[str]:
    """Give the lines of a leaf: what to try, what was measured, the cost, how sure it is, the call, the chapter."""
    (paper, metric, rows), (source, *claims) = leaf["measured"], leaf["claims"]
    about = report.published(paper)
    tasks: dict[str, list[str]] = {}
    for row in rows:
        label, task = about.label(row)
        tasks.setdefault(task, []).append(f"{label} {rounded(paper, row, metric)}")
    found = "; ".join(", ".join(each) + (f" ({task})" if task else "") for task, each in tasks.items())
    yield f"**Try this.** {leaf['try']}\n"
    yield f"**Measured**, {about.words.get(metric, metric.replace('_', ' '))}: {found}.\n"
    yield f"**Cost** of the first of these: {rounded(paper, rows[0], 'cpu_minutes')} minutes of one core.\n"
    verdicts = {verdict.claim.id: verdict for verdict in report.verdicts(source)}
    yield "**How sure.**\n"
    yield from (f"- {SYMBOLS[v.outcome]} *{v.words}*: {v.claim.text}" for v in map(verdicts.__getitem__, claims))
    lines = leaf["call"].strip().splitlines()
    yield from ("", "```" + ("bash" if lines[0].startswith("reuselib") else "python"), *lines, "```", "")
    yield f"[Chapter {about.chapter}: {about.title}](../notebooks/{about.chapter:02d}_{paper}.ipynb)"


def rounded(paper: str, row: str, metric: str) -> str:
    """Return a row's recorded mean in two digits."""
    mean = report.summary(report.values(paper, "laptop", row, metric)).mean
    return f"{mean:.0f}" if mean >= 10 else f"{mean:.2f}" if mean >= 0.1 else f"{mean:.2g}"
