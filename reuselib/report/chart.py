"""Claims as one chart: a line a claim, its weakest effect with the interval against its margin, the rest on a click."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

from reuselib.report.claims import SYMBOLS, WAITING, Finding, Verdict, said
from reuselib.report.papers import published
from reuselib.report.tables import Table

HALF_WIDTHS = 4.0
"""The farthest that a strip shows, in half widths of an interval."""
NOTE = (
    "The upright stroke is the margin, the bar the 95 % interval of the paired difference of the condition that speaks "
    "most against the claim, in half widths of that interval: right of the stroke it is met, left of it not met, "
    "across it open. An arrow says that it lies farther out. Details open on a click."
)


def chart(judged: Iterable[Verdict]) -> Table:
    """Return verdicts as a table with a strip for each claim; rule, conditions and source open on a click.

    Args:
        judged: Verdicts of any papers and scales.
    """
    heads = [("", head) for head in ("Claim", "Whose", "Against its margin", "Weakest effect", "Seeds", "Verdict")]
    rows = [cells(verdict) for verdict in judged]
    return Table.of("The claims and what the records say", heads, rows, [NOTE], raw=True)


def cells(verdict: Verdict) -> list[str]:
    """Return the cells of a claim as HTML: text with details, whose it is, strip, weakest effect, seeds, verdict."""
    weakest = None if verdict.outcome in WAITING else verdict.weakest
    effect, seeds = ("–", "0") if weakest is None else (weakest.found().split(" (")[0], str(weakest.difference.n))  # type: ignore[union-attr]
    outcome = f'<b class="{verdict.outcome.replace(" ", "-")}">{SYMBOLS[verdict.outcome]} {verdict.words}</b>'
    return [details(verdict), verdict.claim.whose, strip(weakest), effect, seeds, outcome]


def details(verdict: Verdict) -> str:
    """Return a claim's text, which opens to what each condition found, its dated rules and what was tried."""
    about, claim = published(verdict.paper), verdict.claim
    found: dict[tuple[str, str, str], list[str]] = {}
    for finding in verdict.findings:
        sentence, task = said(about, finding.condition)
        found.setdefault(sentence, []).append(f"{task} {finding.found()}".strip())
    lines = [f"{''.join(sentence)}: {'; '.join(each)}" for sentence, each in found.items()]
    lines.append(f"Rule of {claim.since(verdict.scale)}, by means: {verdict.by_means}")
    lines[-1] += f". Rule of {about.interval}, by intervals: {verdict.words}"
    lines.append(f"Source: {about.sources[claim.source]}")
    lines += [f"Note: {claim.note}"] * bool(claim.note) + [f"What was tried: {claim.tried}"] * bool(claim.tried)
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<details><summary>{escape(claim.text)}</summary><ul>{items}</ul></details>"


def strip(finding: Finding | None) -> str:
    """Return an SVG of an interval against its margin, which stands in the middle; nothing where nothing is known."""
    if finding is None or math.isnan(finding.margin):
        return ""
    x, kind = max(-HALF_WIDTHS, min(HALF_WIDTHS, finding.margin)), finding.result.replace(" ", "-")
    head = f'<svg class="strip {kind}" viewBox="-5.5-1 11 2" aria-hidden="true"><path d="M0-1V1"/>'
    if math.isinf(finding.margin):  # the interval is a point
        return f'{head}<circle cx="{x:.2g}" r=".35"/></svg>'
    arrow = "" if x == finding.margin else "l-.6-.6m.6.6l-.6.6" if x > 0 else "m-2 0l.6-.6m-.6.6l.6.6"
    return f'{head}<path d="M{x - 1:.2g} 0h2{arrow}"/><circle cx="{x:.2g}" r=".35"/></svg>'
