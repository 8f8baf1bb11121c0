"""Verdicts: the rule of means and margins, what does not count, and how they are shown."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy import make, save

from reuselib import report
from reuselib.errors import BadValue, NonFinite, UnknownName
from reuselib.report.claims import judge as judged
from reuselib.report.claims import outcome
from reuselib.report.papers import Condition


def judge(good: dict[int, float], bad: dict[int, float], at_least: float = 0.1, **changes: Any) -> Any:
    """Judge toy-good − toy-bad on records with these accuracies by seed."""
    base = make()
    rows = {"toy-good": good, "toy-bad": bad}
    found = [
        replace(base, row=row, seed=seed, metrics={"accuracy": value})
        for row, values in rows.items()
        for seed, value in values.items()
    ]
    rule = {"left": "toy-good", "right": "toy-bad", "metric": "accuracy", "at_least": at_least}
    return judged(Condition(**{**rule, **changes}), found, 3)


def three(value: float) -> dict[int, float]:
    return dict.fromkeys(range(3), value)


scores = st.dictionaries(st.integers(0, 7), st.floats(0, 1, width=32), max_size=6)


@given(scores, scores, st.floats(-0.5, 0.5), st.sampled_from([1.0, 1.5]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_condition_is_the_mean_over_common_seeds_against_the_margin(
    room: Path, good: dict[int, float], bad: dict[int, float], margin: float, factor: float
) -> None:
    finding = judge(good, bad, margin, factor=factor)
    differences = [good[seed] - factor * bad[seed] for seed in good if seed in bad]
    assert (finding.difference.n if finding.difference else 0) == len(differences)
    if len(differences) < 3:
        assert finding.met is None
    elif abs(statistics.fmean(differences) - margin) > 1e-6:
        assert finding.met == (statistics.fmean(differences) > margin)
        assert finding.difference.sd == pytest.approx(statistics.stdev(differences), abs=1e-9)


def test_hand_cases(room: Path) -> None:
    assert 0.9 - 0.8 < 0.1  # a margin reached exactly is met all the same
    assert judge(three(0.9), three(0.8)).met is True and judge(three(0.9), three(0.8001)).met is False
    assert judge(three(0.77), three(0.8), -0.03).met is True and judge(three(0.7699), three(0.8), -0.03).met is False
    paired = judge({0: 0.9, 1: 0.8, 2: 0.7, 3: 0.0}, {0: 0.5, 1: 0.5, 2: 0.5, 9: 1.0})
    assert paired.met is True and "found 0.300 ± 0.100 (3), from 0.800 and 0.500: met" in str(paired)
    few = judge({0: 0.9, 1: 0.9}, {0: 0.1, 1: 0.1})
    assert few.met is None and "too few paired seeds" in str(few) and "no paired seeds yet" in str(judge({}, {}))
    constant = judge(three(0.6), {}, 0.5, right=0.0)
    assert constant.met is True and str(constant) == "accuracy: toy-good ≥ 0.5: found 0.600 ± 0.000 (3): met"
    assert judge(three(0.6), {}, 0.2, right=0.5).met is False
    assert str(Condition("a", "minutes", 0.0, "b", factor=1.4)) == "minutes: a − 1.4 × b ≥ 0"
    with pytest.raises(UnknownName, match="acuracy"):
        judge({0: 0.9}, {0: 0.1}, metric="acuracy")


def test_the_spread_is_the_sample_standard_deviation_and_what_is_no_number_has_none(room: Path) -> None:
    found = report.summary([1.0, 2.0, 3.0, 4.0])
    assert (found.mean, found.n) == (2.5, 4) and found.sd == pytest.approx(math.sqrt(5 / 3))
    assert found.show(2) == "2.50 ± 1.29 (4)" and report.summary([-0.5]).show(1) == "−0.5 (1)"
    for wrong in (math.nan, math.inf):
        with pytest.raises(NonFinite, match="hold NaN or infinity"):
            report.summary([0.5, wrong])
        with pytest.raises(NonFinite, match="hold NaN or infinity"):
            judge(three(0.9), {0: 0.1, 1: wrong, 2: 0.1})
    with pytest.raises(BadValue, match="no value to summarise"):
        report.summary([])


@pytest.mark.parametrize(
    ("good", "bad", "expected"),
    [
        ([0.9] * 3, [0.5] * 3, "holds"),
        ([0.55] * 3, [0.5] * 3, "partly"),
        ([0.4] * 3, [0.5] * 3, "does not hold"),
        ([0.9] * 3, [0.5] * 2, "not run"),
        ([], [], "not run"),
    ],
)
def test_verdicts_on_saved_records(room: Path, good: list[float], bad: list[float], expected: str) -> None:
    save("toy-good", good)
    save("toy-bad", bad)
    first, second = report.verdicts("toy")
    assert first.outcome == expected and second.outcome == "not run" and list(report.verdicts()) == [first, second]
    for text in (str(report.verdicts("toy")), repr(report.verdicts("toy"))):
        assert f"{expected}: Good is better than bad." in text
    assert f" {expected}</td>" in report.verdicts("toy")._repr_html_()
    assert report.verdicts("toy", "paper")[0].outcome == "not run"
    count = "not run 2" if expected == "not run" else f"{expected} 1 · not run 1"
    badge = report.badge("toy")
    assert badge == count and badge in badge._repr_html_() and f"<title>{badge}</title>" in badge.svg()
    assert "http" not in badge.svg().replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_outcomes_that_mix_not_met_with_too_few() -> None:
    assert outcome([False, None]) == outcome([True, None]) == outcome([]) == "not run"


def test_stale_records_do_not_count(room: Path) -> None:
    save("toy-good", [0.9] * 3)
    save("toy-bad", [0.5] * 3, version=1)
    assert report.verdicts("toy")[0].outcome == "not run"


def test_claims_are_listed_with_their_rules(room: Path) -> None:
    claims = report.claims("toy")
    for text in (str(claims), claims._repr_html_()):
        assert "Good is better than bad." in text and "accuracy: toy-good − toy-bad ≥ 0.1" in text
        assert "at least 3 paired seeds" in text and "2026-11-22" in text and "Comes with a later chapter." in text
