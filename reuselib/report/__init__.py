"""The ledger: what was published, what we measured, and whether the paper's claims hold.

A `Record` is one run of one row with one seed, a line of `data/results/<paper>.jsonl`. Published tables and claims
lie in `data/papers/<paper>.yaml`. Every table, verdict and page of results is made from these two and no number is
typed by hand. Nothing here imports torch.
"""

from reuselib.report.claims import badge, claims, judge, outcome, summary, verdicts
from reuselib.report.comparison import table
from reuselib.report.papers import SCALES, chapters, published
from reuselib.report.records import (
    SCHEMA,
    Record,
    config_hash,
    curve,
    find,
    frame,
    merge,
    parse_seeds,
    records,
    scratch,
    values,
)
from reuselib.report.reporting import report

__all__ = [
    "SCALES",
    "SCHEMA",
    "Record",
    "badge",
    "chapters",
    "claims",
    "config_hash",
    "curve",
    "find",
    "frame",
    "judge",
    "merge",
    "outcome",
    "parse_seeds",
    "published",
    "records",
    "report",
    "scratch",
    "summary",
    "table",
    "values",
    "verdicts",
]
