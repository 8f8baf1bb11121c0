"""What the published tables and claims of a chapter ask of its records."""

from __future__ import annotations

from reuselib import report


def named(chapter: str, scale: str) -> dict[str, set[str]]:
    """Every record that a table or a claim names at a scale, with the metrics that it must have."""
    paper, found = report.published(chapter), {}
    for table in paper.tables:
        for column in table.columns:
            if scale in column.scales:
                for row in table.rows:
                    found.setdefault(column.record.replace("{row}", row.id), set()).add(column.metric)
    for claim in paper.claims:
        for condition in claim.conditions:
            for side in (condition.left, condition.right):
                if isinstance(side, str) and condition.scale == scale:
                    found.setdefault(side, set()).add(condition.metric)
    return found
