"""The reproduction report, made from records and published tables."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from reuselib.report.chart import HALF_WIDTHS, NOTE, cells
from reuselib.report.claims import WAITING, Verdict, badge, verdicts
from reuselib.report.papers import Paper, names, published
from reuselib.report.records import Record, records
from reuselib.report.tables import Table, shown_scales, table

HEAD = """# Reproduction report

This page is made by `reuselib report` from the records in `data/results/` and the published tables in
`data/papers/`. What did not reproduce stands here as plainly as what did. Every rule was written before its
result, on the date that it shows; {doc}`how_to_read` says how a rule becomes a verdict, and {doc}`reproduction_tables`
has every table and what it cost. Verdicts are counted at the laptop scale."""
TABLES = """# All tables

Every table of the ten papers beside our records, made by `reuselib report --tables` from the same files as the
{doc}`reproduction_report`. The chapters show most of them where they are discussed."""
SCRIPTS = "".join(
    f'<script src="../_static/{file}.js" defer></script>' for file in ("datatables/simple-datatables", "claims")
)
TALL, NEAR = 22, 6
"""Pixels of a chapter's line in the overview, and between two claims that would lie on each other."""


def report() -> str:
    """Return the reproduction report as MyST Markdown: a line a paper, then all claims in one table."""
    lines = ["| Chapter | Recorded on | The paper's own claims | Ours | Runs | Hours |", "|---|---|---|---|---|---|"]
    judged: list[Verdict] = []
    for name in names():
        paper, found = published(name), records(name)
        hours = sum(record.wall_seconds for record in found) / 3600
        own, ours = (badge(name, whose=whose) or "–" for whose in ("paper", "ours"))
        runs = str(len(found)) if found else "not run"
        every = [verdict for scale in shown_scales(name) for verdict in verdicts(name, scale)]
        where = ", ".join(dict.fromkeys(v.scale for v in every if v.weakest)) or "–"
        lines.append(f"| [{paper.title}](#tables-{name}) | {where} | {own} | {ours} | {runs} | {hours:.1f} |")
        judged += [v for v in every if v.findings or v.scale == "laptop"]
    return "\n\n".join([HEAD, "\n".join(lines), "## All claims", overview(judged), _claims(judged)]) + "\n"


def all_tables() -> str:
    """Return every paper's tables, folded, and the cost of its records as MyST Markdown."""
    return "\n\n".join([TABLES, *(_section(published(name), records(name)) for name in names())]) + "\n"


def overview(judged: Sequence[Verdict]) -> str:
    """Return an SVG with a line a chapter: where each claim's weakest condition lies of its margin.

    Args:
        judged: Verdicts; what has no interval is left out.
    """
    papers, unit, left = list(dict.fromkeys(v.paper for v in judged)), 60, 150
    middle = left + unit * (HALF_WIDTHS + 0.5)
    width, height = middle + unit * (HALF_WIDTHS + 0.5), TALL * (len(papers) + 2)
    marks = []
    for line, paper in enumerate(papers):
        y = TALL * (line + 1)
        marks.append(f'<text x="0" y="{y + 4}">{published(paper).chapter} {escape(paper)}</text>')
        lowest: dict[float, int] = {}
        for verdict in (v for v in judged if v.paper == paper and v.weakest and v.outcome not in WAITING):
            x = middle + unit * max(-HALF_WIDTHS, min(HALF_WIDTHS, verdict.weakest.margin))  # type: ignore[union-attr]
            place = round(x / NEAR)
            lowest[place] = lowest.get(place, -1) + 1
            up = (lowest[place] + 1) // 2 * 4 * (-1 if lowest[place] % 2 else 1)
            kind = f"{verdict.outcome.replace(' ', '-')} {verdict.claim.whose}"
            title = escape(f"{verdict.words}: {verdict.claim.text}")
            marks.append(f'<circle class="{kind}" cx="{x:.0f}" cy="{y + up}" r="4"><title>{title}</title></circle>')
    foot, sides = height - 6, (("not met ←", middle - unit, "end"), ("→ met", middle + unit, "start"))
    marks += [f'<text x="{x:.0f}" y="{foot}" text-anchor="{anchor}">{text}</text>' for text, x, anchor in sides]
    marks.append(f'<text x="{middle:.0f}" y="{foot}" text-anchor="middle">open</text>')
    edges = "".join(f"M{middle + unit * side:.0f} 8V{height - TALL}" for side in (-1, 0, 1))
    return (
        f'<div class="forest"><svg viewBox="0 0 {width:.0f} {height}" role="img" aria-label="Where the claims of each '
        f'chapter lie of their margins"><path d="{edges}" stroke="currentColor" opacity=".4"/>{"".join(marks)}</svg>'
        "<p>A dot a claim (filled: the paper's, hollow: ours): how far its weakest condition lies from the margin, in "
        f"half widths of its 95 % interval, at most {HALF_WIDTHS:.0f}. Between the outer strokes it is open. Blue: "
        "the claim holds, orange: it fails, purple: in part, grey: open.</p></div>"
    )


def _claims(judged: Sequence[Verdict]) -> str:
    """Return the table of all claims, which `claims.js` makes sortable and searchable."""
    heads = ("Claim", "Whose", "Chapter", "Scale", "Against its margin", "Weakest effect", "Seeds", "Verdict")
    rows = []
    for verdict in judged:
        paper, (claim, whose, *rest) = published(verdict.paper), cells(verdict)
        page = f"../notebooks/{paper.chapter:02d}_{verdict.paper}.html"
        chapter = f'<a href="{page}">{paper.chapter} {verdict.paper}</a>'
        rows.append([claim, whose, chapter, verdict.scale, *rest])
    shown = Table.of("Claims, rules and verdicts", [("", head) for head in heads], rows, [NOTE], raw=True)
    return f'<div class="all-claims">\n{shown.html()}\n{SCRIPTS}\n</div>'


def _section(paper: Paper, found: list[Record]) -> str:
    parts = [f"(tables-{paper.name})=\n## {paper.title}", paper.citation]
    tables = [table(paper.name, None, name=layout.id) for layout in paper.tables]
    parts += [f"<details><summary>{escape(t.caption)}</summary>\n{t.html()}\n</details>" for t in tables]
    parts.append(_cost(found) if found else "**Not run**: no record of this paper yet.")
    return "\n\n".join(parts)


def _cost(found: list[Record]) -> str:
    """Return runs, time, memory, machines and commits of a paper's records, and the stale ones by name."""
    wall, cpu = (sum(getattr(record, name) for record in found) / 3600 for name in ("wall_seconds", "cpu_seconds"))
    machines = sorted({f"{r.device} ({r.cpu}, threads: {r.threads}, {r.precision})" for r in found})
    commits = sorted({r.commit[:7] + (" with changes" if r.dirty else "") for r in found})
    lines = [
        f"- {len(found)} runs, {wall:.1f} hours of wall time, {cpu:.1f} CPU hours",
        f"- Peak memory of a run: at most {max(r.peak_memory_mb for r in found):.0f} MiB",
        f"- On {'; '.join(machines)}",
        f"- Commits: {', '.join(commits)}",
    ]
    stale = [f"{r.scale}/{r.row} seed {r.seed}" for r in found if r.stale]
    if stale:
        lines.append(f"- Stale, made by another version and left out above: {', '.join(stale)}")
    return "\n".join(lines)
