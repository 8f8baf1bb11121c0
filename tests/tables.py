"""What the published tables and claims of a paper ask of its records."""

from __future__ import annotations

from reuselib import report


def named(name: str, scale: str) -> dict[str, set[str]]:
    """Every record that a table or a claim names at a scale, with the metrics that it must have."""
    paper, found = report.published(name), {}
    for table in paper.tables:
        for column in table.columns:
            if scale in column.scales:
                for row in table.rows:
                    record, metric = column.of(row.id)
                    found.setdefault(record, set()).add(metric)
    for claim in paper.claims:
        for condition in claim.conditions:
            for side in (condition.left, condition.right):
                if isinstance(side, str) and condition.scale == scale:
                    found.setdefault(side, set()).add(condition.metric)
    return found
