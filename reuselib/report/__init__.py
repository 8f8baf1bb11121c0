"""The ledger: what was published, what we measured, and whether the paper's claims hold.

A `Record` is one run of one row with one seed, a line of `data/results/<paper>.jsonl`. Published tables and claims
lie in `data/papers/<paper>.yaml`. Every table, verdict and page of results is made from these two and no number is
typed by hand. Nothing here imports torch.
"""

from reuselib.report.claims import badge, claims, summary, verdicts
from reuselib.report.page import all_tables, report
from reuselib.report.papers import SCALES, names, published, titles
from reuselib.report.records import (
    Record,
    config_hash,
    curve,
    find,
    find_own,
    frame,
    known_scale,
    parse_seeds,
    records,
    scratch,
    shared_seeds,
    values,
)
from reuselib.report.tables import Table, opening, table

__all__ = [
    "SCALES",
    "Record",
    "Table",
    "all_tables",
    "badge",
    "claims",
    "config_hash",
    "curve",
    "find",
    "find_own",
    "frame",
    "known_scale",
    "names",
    "opening",
    "parse_seeds",
    "published",
    "records",
    "report",
    "scratch",
    "shared_seeds",
    "summary",
    "table",
    "titles",
    "values",
    "verdicts",
]
