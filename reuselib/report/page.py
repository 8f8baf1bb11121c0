"""The reproduction report, made from records and published tables."""

from __future__ import annotations

from reuselib.report.claims import SYMBOLS, Verdict, badge, verdicts
from reuselib.report.papers import Paper, names, published
from reuselib.report.records import Record, records
from reuselib.report.tables import shown_scales, table

HEAD = """# Reproduction report

This page is made by `reuselib report` from the records in `data/results/` and the published tables in
`data/papers/`. What did not reproduce stands here as plainly as what did. Every rule was written before its
result, on the date that it shows."""


def report() -> str:
    """Return the reproduction report as MyST Markdown: per paper tables, claims, verdicts and cost."""
    overview = ["| Chapter | Verdicts at the laptop scale | Runs | Hours |", "|---|---|---|---|"]
    sections = []
    for name in names():
        paper, found = published(name), records(name)
        hours = sum(record.wall_seconds for record in found) / 3600
        runs = str(len(found)) if found else "not run"
        overview.append(f"| [{paper.title}](#report-{name}) | {badge(name)} | {runs} | {hours:.1f} |")
        sections.append(_section(paper, found))
    return "\n\n".join([HEAD, "\n".join(overview), *sections]) + "\n"


def _section(paper: Paper, found: list[Record]) -> str:
    parts = [f"(report-{paper.name})=\n## {paper.title}", paper.citation]
    parts.append(f"**{badge(paper.name)}**" if found else "**Not run**: no record of this paper yet.")
    parts += [table(paper.name, None, name=layout.id).html() for layout in paper.tables]
    for scale in shown_scales(paper.name):
        parts.append(f"### Claims of {paper.name}, {scale} scale")
        judged = [v for v in verdicts(paper.name, scale) if v.findings or scale == "laptop"]
        parts += [_verdict(verdict, paper) for verdict in judged]
    parts += [f"### Cost of {paper.name}", _cost(found) if found else "Not run."]
    return "\n\n".join(parts)


def _verdict(verdict: Verdict, paper: Paper) -> str:
    claim = verdict.claim
    lines = [
        f"**{SYMBOLS[verdict.outcome]} {verdict.outcome}: {claim.text}**\n",
        f"- Rule, written {claim.written}: {claim.rule(verdict.scale)}",
        *(f"- {finding}" for finding in verdict.findings),
        f"- Source: {paper.sources[claim.source]}",
        f"- Note: {claim.note}" if claim.note and verdict.findings else "",
        f"- What was tried: {claim.tried}" if claim.tried else "",
    ]
    return "\n".join(line for line in lines if line)


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
