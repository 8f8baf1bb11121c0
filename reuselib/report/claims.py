"""Judge claims on records by the rules that were written before them.

A condition compares the paired differences over seeds with its margin. Its 95 % interval is Student's, which assumes
that the differences of the seeds are independent draws of one normal distribution; with three seeds that matters, with
ten hardly. The rule of version 1, the mean against the margin, stays beside it in `Verdict.by_means`.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from typing import Any

from reuselib.errors import BadValue, NonFinite
from reuselib.report.papers import Claim, Condition, Paper, names, plain, published
from reuselib.report.records import Record, known_scale, records

SYMBOLS = {"holds": "✓", "in part": "◐", "open": "?", "fails": "✗", "run in part": "○", "not run": "○"}
WAITING = ("run in part", "not run")
FEW, UNPAIRED = "too few paired seeds", "no paired seeds yet"
CONFIDENCE = 0.95
# 0.9 - 0.8 is a little less than 0.1 in binary: a margin reached exactly counts as reached.
ROUNDING = 1e-9


@lru_cache(maxsize=64)
def _quantile(freedom: int) -> float:
    from scipy.special import stdtrit  # scipy takes a while, and only verdicts need it

    return float(stdtrit(freedom, 0.5 + CONFIDENCE / 2))


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation (divisor n − 1, None for one value) and number of values."""

    mean: float
    sd: float | None
    n: int

    def show(self, digits: int = 3) -> str:
        """Return "mean ± sd (n)" in at most three significant digits of the mean and `digits` decimals.

        The spread is left out where all values are one, and what would be rounded to zero is said to be below.
        """
        places = 0 if self.mean.is_integer() and (self.sd or 0.0).is_integer() else decimals(self.mean, digits)
        spread = f" ± {_above_zero(self.sd, places)}" if self.sd else ""
        return f"{_above_zero(self.mean, places)}{spread} ({self.n})"

    @property
    def reach(self) -> float:
        """Half the width of the 95 % interval of the mean; infinite for one value."""
        return math.inf if self.sd is None else _quantile(self.n - 1) * self.sd / math.sqrt(self.n)


def _above_zero(value: float, places: int) -> str:
    least = 10.0**-places
    return plain(value, places) if value == 0 or abs(value) >= least / 2 else f"{'−' * (value < 0)}< {least:g}"


def decimals(value: float, most: int = 3) -> int:
    """Return how many decimals show three significant digits of a number, at most `most`."""
    return most if value == 0 else max(0, min(most, 2 - math.floor(math.log10(abs(value)))))


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
    return Summary(float(statistics.fmean(values)), spread, len(values))


@dataclass(frozen=True)
class Finding:
    """What a condition found on its paired seeds.

    Attributes:
        condition: The rule.
        result: "met" if the 95 % interval of the difference lies above the margin, "not met" if below, "open" if it
            straddles it; or that there are too few seeds.
        by_means: Whether the mean reaches the margin, which is the rule of version 1; None with too few seeds.
        difference: left − factor · right over the common seeds, None where there is none.
    """

    condition: Condition
    result: str
    by_means: bool | None = None
    difference: Summary | None = None

    @property
    def margin(self) -> float:
        """Of the mean from what is asked, in half widths of the interval: beyond ±1 the condition is decided."""
        if self.difference is None:
            return math.nan
        beyond, reach = self.difference.mean - self.condition.at_least, self.difference.reach
        return beyond / reach if reach > ROUNDING else math.copysign(math.inf, beyond + ROUNDING)

    def found(self) -> str:
        """Return the difference with its interval and the number of seeds, and the result."""
        if self.difference is None:
            return self.result
        offset = 0.0 if isinstance(self.condition.right, str) else self.condition.factor * self.condition.right
        mean, reach = self.difference.mean + offset, self.difference.reach
        spread = ROUNDING < reach < math.inf
        ends = (mean - reach, mean + reach) if spread else (mean, mean)
        places = decimals(max(map(abs, ends)))
        interval = f" [{', '.join(plain(end, places) for end in ends)}]" if spread else ""
        return f"{plain(mean, places)}{interval} ({self.difference.n}) {self.result}"

    def __str__(self) -> str:
        """Return condition, figures and result."""
        return f"{self.condition}: {'' if self.difference is None else 'found '}{self.found()}"


@dataclass(frozen=True)
class Verdict:
    """A claim's outcome at a scale.

    Attributes:
        paper: The paper's name.
        claim: The claim.
        scale: Whose records were judged.
        outcome: "holds" if all conditions are met, "fails" if all are not met, "in part" if only some are not met,
            "open" if none is not met and more seeds may still settle it, "run in part" if some lack seeds, "not run"
            if all do.
        findings: One for each condition.
    """

    paper: str
    claim: Claim
    scale: str
    outcome: str
    findings: tuple[Finding, ...]

    @property
    def words(self) -> str:
        """The outcome; where it is neither holds nor fails, how many conditions are met (so far), or are not."""
        results = [finding.result for finding in self.findings]
        if self.outcome not in ("in part", "open", "run in part") or len(results) == 1:
            return self.outcome
        met = results.count("met")
        if self.outcome == "in part" and not met:
            return f"in part, {results.count('not met')} of {len(results)} not met"
        return f"{self.outcome}, {met} of {len(results)}"

    @property
    def by_means(self) -> str:
        """The outcome by the rule of version 1: "holds", "partly", "does not hold" or "not run"."""
        met = [finding.by_means for finding in self.findings]
        if not met or None in met:
            return "not run"
        return "holds" if all(met) else "partly" if any(met) else "does not hold"

    @property
    def weakest(self) -> Finding | None:
        """The finding that speaks most against the claim."""
        judged = [finding for finding in self.findings if finding.difference is not None]
        return min(judged, key=lambda finding: finding.margin) if judged else None

    def __str__(self) -> str:
        """Return the outcome and the claim on one line."""
        return f"{SYMBOLS[self.outcome]} {self.words}: {self.claim.text}"

    def finding(self) -> str:
        """Return outcome, claim, scale and the weakest effect with its interval, for a page's first screen."""
        effect = ""
        if weakest := self.weakest:
            effect = f"; weakest effect {weakest.found().split(' (')[0]}"
            effect += f" in {metric_of(published(self.paper), weakest.condition.metric)}"
        return f"{self} ({self.scale} scale{effect})"

    def figures(self) -> list[str]:
        """Return what the rule looked at, a line for each condition."""
        return [str(finding) for finding in self.findings] or [self.claim.note or f"No rule at the {self.scale} scale."]


def outcome(results: Sequence[str]) -> str:
    """Return the verdict on a claim from the results of its conditions."""
    kinds = set(results)
    if not kinds <= {"met", "not met", "open"} or not kinds:
        return "run in part" if kinds & {"met", "not met", "open"} else "not run"
    if "not met" not in kinds:
        return "open" if "open" in kinds else "holds"
    return "in part" if len(kinds) > 1 else "fails"


def judge(condition: Condition, found: Sequence[Record], seeds: int) -> Finding:
    """Check one condition on the records of one scale.

    Args:
        condition: The rule.
        found: Records; stale ones and other rows are ignored.
        seeds: Fewest paired seeds for a result.

    Raises:
        UnknownName: If a record of the row lacks the metric.
    """

    def by_seed(row: str) -> dict[int, float]:
        return {r.seed: r.value(condition.metric) for r in found if r.row == row and not r.stale}

    left, other = by_seed(condition.left), condition.right
    right = by_seed(other) if isinstance(other, str) else dict.fromkeys(left, other)
    common = sorted(left.keys() & right.keys())
    if not common:
        return Finding(condition, UNPAIRED)
    difference = summary(left[seed] - condition.factor * right[seed] for seed in common)
    if len(common) < seeds:
        return Finding(condition, FEW, None, difference)
    above, reach = difference.mean - condition.at_least + ROUNDING, difference.reach
    result = "met" if above >= reach else "not met" if above < -reach else "open"
    return Finding(condition, result, above >= 0, difference)


def metric_of(about: Paper, metric: str) -> str:
    """Return a metric's name in words."""
    return about.words.get(metric, metric.replace("_", " ").replace(".", " of "))


def said(about: Paper, condition: Condition) -> tuple[tuple[str, str, str], str]:
    """Return a condition in words, what it is about or held against apart, and its task."""
    metric = metric_of(about, condition.metric)
    (left, task), least = about.label(condition.left), condition.at_least
    if not isinstance(condition.right, str):
        return (f"{metric} of ", left, f" is at least {plain(condition.factor * condition.right + least)}"), task
    right, other = about.label(condition.right)
    if other != task:
        left, right, task = f"{left} ({task})" if task else left, f"{right} ({other})" if other else right, ""
    right = right if condition.factor == 1 else f"{plain(condition.factor)} × {right}"
    if least <= 0:
        margin = "not below " if least == 0 else f"at most {plain(-least)} below "
        return (f"{left} is {margin}", right, f" in {metric}"), task
    return (f"{left} exceeds ", right, f" by at least {plain(least)} in {metric}"), task


class Verdicts(list[Verdict]):
    """A list of verdicts that a terminal prints as text and a notebook as a chart."""

    def __repr__(self) -> str:
        """Return each verdict with the figures that its rule looked at."""
        return "\n".join("\n    ".join([str(verdict), *verdict.figures()]) for verdict in self)

    def _repr_html_(self) -> str:
        from reuselib.report.chart import chart  # only a notebook or a page needs pandas for this

        return chart(self)._repr_html_()


def verdicts(paper: str | None = None, scale: str = "laptop", judged: bool = False) -> Verdicts:
    """Judge a paper's claims, or every paper's, on the records of a scale, or only those with enough seeds."""
    result = Verdicts()
    for name in names() if paper is None else [paper]:
        rows: dict[Any, list[Record]] = defaultdict(list)
        for record in records(name, known_scale(scale)):
            rows[record.row].append(record)
        for claim in published(name).of(scale):
            pairs = [(each, rows[each.left] + rows[each.right]) for each in claim.at(scale)]
            findings = tuple(judge(condition, found, claim.seeds) for condition, found in pairs)
            result.append(Verdict(name, claim, scale, outcome([f.result for f in findings]), findings))
    return Verdicts(each for each in result if each.outcome not in WAITING) if judged else result


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


def badge(paper: str, scale: str = "laptop", whose: str = "paper") -> Badge:
    """Return the verdicts on a paper's own claims, or on "ours", counted: "holds 3 · in part 1 · open 1"."""
    outcomes = [verdict.outcome for verdict in verdicts(paper, scale) if verdict.claim.whose == whose]
    return Badge(" · ".join(f"{name} {outcomes.count(name)}" for name in SYMBOLS if name in outcomes))
