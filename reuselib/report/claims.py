"""Judge claims on records by the rules that were written before them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from reuselib.errors import BadValue, NonFinite
from reuselib.report.papers import Claim, Condition, names, plain, published
from reuselib.report.records import Record, known_scale, records

SYMBOLS = {"holds": "✓", "partly": "◐", "does not hold": "✗", "not run": "○"}
RESULTS = {True: "met", False: "not met", None: "too few paired seeds"}
# 0.9 - 0.8 is a little less than 0.1 in binary: a margin reached exactly counts as reached.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation (divisor n − 1, None for one value) and number of values."""

    mean: float
    sd: float | None
    n: int

    def show(self, digits: int = 3) -> str:
        """Return "mean ± sd (n)"."""
        spread = "" if self.sd is None else f" ± {self.sd:.{digits}f}"
        return f"{plain(self.mean, digits)}{spread} ({self.n})"


def summary(values: Iterable[float]) -> Summary:
    """Summarise one number per seed.

    Raises:
        NonFinite: If one is NaN or infinite: it would be ranked like a number.
        BadValue: If there is none.
    """
    values = list(values)
    if not values:
        raise BadValue("There is no value to summarise. Fix: ask for a row that was run")
    if not all(map(math.isfinite, values)):
        raise NonFinite(f"{values} hold NaN or infinity. Fix: find the run that made it; it has no mean")
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Summary(statistics.fmean(values), spread, len(values))


@dataclass(frozen=True)
class Finding:
    """What a condition found on its paired seeds.

    `met` is None with too few seeds. `difference` is left − factor · right; `left` and `right` are the
    sides. All three are None where no seed is common.
    """

    condition: Condition
    met: bool | None
    difference: Summary | None = None
    left: Summary | None = None
    right: Summary | None = None

    def __str__(self) -> str:
        """Return condition, figures and result in words."""
        if self.difference is None or self.left is None or self.right is None:
            return f"{self.condition}: no paired seeds yet"
        found = self.left.show()
        if isinstance(self.condition.right, str):
            sides = f"{plain(self.left.mean, 3)} and {plain(self.right.mean, 3)}"
            found = f"{self.difference.show()}, from {sides}"
        return f"{self.condition}: found {found}: {RESULTS[self.met]}"


@dataclass(frozen=True)
class Verdict:
    """A claim's outcome at a scale: holds, partly, does not hold or not run."""

    paper: str
    claim: Claim
    scale: str
    outcome: str
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        """Return the outcome and the claim on one line."""
        return f"{SYMBOLS[self.outcome]} {self.outcome}: {self.claim.text}"

    def figures(self) -> list[str]:
        """Return what the rule looked at, a line for each condition."""
        return [str(finding) for finding in self.findings] or [self.claim.rule(self.scale)]


def outcome(met: Sequence[bool | None]) -> str:
    """Return the verdict on a claim from its conditions: True met, False not met, None too few seeds."""
    if not met or None in met:
        return "not run"
    return "holds" if all(met) else "partly" if any(met) else "does not hold"


def judge(condition: Condition, found: Iterable[Record], seeds: int) -> Finding:
    """Check one condition on the records of one scale.

    Args:
        condition: The rule.
        found: Records; stale ones and other rows are ignored.
        seeds: Fewest paired seeds for a result.

    Raises:
        UnknownName: If a record of the row lacks the metric.
    """
    rows = {condition.left, condition.right}
    fresh = [record for record in found if record.row in rows and not record.stale]
    left = {r.seed: r.value(condition.metric) for r in fresh if r.row == condition.left}
    if isinstance(condition.right, str):
        right = {r.seed: r.value(condition.metric) for r in fresh if r.row == condition.right}
    else:
        right = dict.fromkeys(left, float(condition.right))
    common = sorted(left.keys() & right.keys())
    if not common:
        return Finding(condition, None)
    difference = summary(left[seed] - condition.factor * right[seed] for seed in common)
    met = difference.mean >= condition.at_least - ROUNDING if len(common) >= seeds else None
    sides = (summary(side[seed] for seed in common) for side in (left, right))
    return Finding(condition, met, difference, *sides)


class Verdicts(list[Verdict]):
    """A list of verdicts that a terminal prints as text and a notebook as a table."""

    def __repr__(self) -> str:
        """Return each verdict with the figures that its rule looked at."""
        return "\n".join("\n    ".join([str(verdict), *verdict.figures()]) for verdict in self)

    def _repr_html_(self) -> str:
        cells = [(v.claim.text, f"{SYMBOLS[v.outcome]} {v.outcome}", "\n".join(v.figures())) for v in self]
        return _html("Verdicts, by rules written before the results", ["Verdict", "What the rule looked at"], cells)


class Claims(list[Claim]):
    """A list of claims, shown with their rules before any result."""

    def __repr__(self) -> str:
        """Return each claim and its rule."""
        return "\n".join(f"{n}. {c.text}\n    Rule of {c.written}: {c.rule()}" for n, c in enumerate(self, 1))

    def _repr_html_(self) -> str:
        cells = [(c.text, c.rule(), c.written) for c in self]
        return _html("Claims and the rules that test them", ["Rule", "Written"], cells)


def _html(caption: str, heads: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    # Only a notebook needs pandas for this.
    from reuselib.report.tables import Table

    return Table.of(caption, [("", "Claim"), *(("", head) for head in heads)], cells)._repr_html_()


def claims(paper: str, scale: str = "laptop") -> Claims:
    """Return a paper's claims and rules, to be read before any result; those of other scales alone are left out."""
    return Claims(claim for claim in published(paper).claims if _of(claim, scale))


def _of(claim: Claim, scale: str) -> bool:
    return not claim.conditions or any(condition.scale in ("laptop", scale) for condition in claim.conditions)


def verdicts(paper: str | None = None, scale: str = "laptop") -> Verdicts:
    """Judge a paper's claims, or every paper's, on the records of a scale."""
    result = Verdicts()
    for name in names() if paper is None else [paper]:
        found = records(name, known_scale(scale))
        for claim in (claim for claim in published(name).claims if _of(claim, scale)):
            conditions = (condition for condition in claim.conditions if condition.scale == scale)
            findings = tuple(judge(condition, found, claim.seeds) for condition in conditions)
            result.append(Verdict(name, claim, scale, outcome([f.met for f in findings]), findings))
    return result


class Badge(str):
    """Counted verdicts: plain text (the string itself), HTML in a notebook, or an SVG picture."""

    def _repr_html_(self) -> str:
        return f'<span class="verdict-count">{escape(self)}</span>'

    def svg(self) -> str:
        """Return a self-contained SVG, its text also its title; white on dark, readable on any page."""
        text, width = escape(self), 7 * len(self) + 16
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="24" role="img">'
            f'<title>{text}</title><rect width="{width}" height="24" rx="5" fill="#24292f"/>'
            f'<text x="8" y="16" textLength="{width - 16}" fill="#ffffff" font-family="sans-serif" '
            f'font-size="13">{text}</text></svg>'
        )


def badge(paper: str, scale: str = "laptop") -> Badge:
    """Return a paper's verdicts counted: "holds 3 · partly 1 · does not hold 1"."""
    outcomes = [verdict.outcome for verdict in verdicts(paper, scale)]
    return Badge(" · ".join(f"{name} {outcomes.count(name)}" for name in SYMBOLS if name in outcomes))
