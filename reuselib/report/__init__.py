"""The ledger: what was published, what we measured, and whether the paper's claims hold.

A `Record` is one run of one row with one seed, a line of `data/results/<paper>.jsonl`. Published tables and claims
lie in `data/papers/<paper>.yaml`. Every table, verdict and page of results is made from these two and no number is
typed by hand. Nothing here imports torch.
"""

from reuselib.report.claims import badge, summary, verdicts
from reuselib.report.page import all_tables, report
from reuselib.report.papers import SCALES, duration, names, published, titles
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
from reuselib.report.tables import Table, brief, opening, table

__all__ = ["all_tables", "badge", "brief", "config_hash", "curve", "duration", "find", "find_own", "frame"]
__all__ += ["known_scale", "names", "opening", "parse_seeds", "published", "Record", "records", "report", "SCALES"]
__all__ += ["scratch", "shared_seeds", "summary", "Table", "table", "titles", "values", "verdicts"]
