"""Verdicts: the rule of means and margins, what does not count, and how they are shown."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy import make, save

from reuselib import report
from reuselib.errors import BadValue, NonFinite, UnknownName
from reuselib.report.claims import decimals, said
from reuselib.report.claims import judge as judged
from reuselib.report.papers import Condition, plain


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
def test_a_condition_is_the_interval_over_common_seeds_against_the_margin(
    room: Path, good: dict[int, float], bad: dict[int, float], margin: float, factor: float
) -> None:
    finding = judge(good, bad, margin, factor=factor)
    differences = [good[seed] - factor * bad[seed] for seed in good if seed in bad]
    assert (finding.difference.n if finding.difference else 0) == len(differences)
    if len(differences) < 3:
        assert finding.result in ("no paired seeds yet", "too few paired seeds") and finding.by_means is None
        return
    if (spread := statistics.stdev(differences)) > 1e-6:
        low, high = scipy.stats.t.interval(
            0.95, len(differences) - 1, statistics.fmean(differences), spread / math.sqrt(len(differences))
        )
        if min(abs(low - margin), abs(high - margin)) > 1e-6:
            assert finding.result == ("met" if low > margin else "not met" if high < margin else "open")
    if abs(statistics.fmean(differences) - margin) > 1e-6:
        assert finding.by_means == (statistics.fmean(differences) > margin)


def test_hand_cases(room: Path) -> None:
    assert 0.9 - 0.8 < 0.1  # a margin reached exactly is met all the same
    assert judge(three(0.9), three(0.8)).result == "met" and judge(three(0.9), three(0.8001)).result == "not met"
    paired = judge({0: 0.9, 1: 0.8, 2: 0.7, 3: 0.0}, {0: 0.5, 1: 0.5, 2: 0.5, 9: 1.0})
    # Mean 0.3, deviation 0.1, 4.303 · 0.1 / √3 = 0.248.
    assert paired.result == "open" and paired.by_means and "found 0.300 [0.052, 0.548] (3) open" in str(paired)
    assert paired.margin == pytest.approx(0.2 / 0.24841, abs=1e-3)
    constant = judge(three(0.6), {}, 0.5, right=0.0)
    assert str(constant) == "accuracy: toy-good ≥ 0.5: found 0.600 (3) met"
    assert judge(three(0.6), {}, 0.2, right=0.5).result == "not met"
    with pytest.raises(UnknownName, match="acuracy"):
        judge({0: 0.9}, {0: 0.1}, metric="acuracy")
    with pytest.raises(NonFinite, match="hold NaN or infinity"):
        judge(three(0.9), {0: 0.1, 1: math.nan, 2: 0.1})


def test_rules_are_said_in_words(room: Path) -> None:
    about = report.published("toy")
    for rule, words in (
        (Condition("toy-good", "accuracy", 0.1, "toy-bad"), "Good exceeds Bad by at least 0.1 in accuracy"),
        (
            Condition("toy-good", "train_seconds", -0.02, "toy-bad", factor=0.9),
            "Good is at most 0.02 below 0.9 × Bad in train seconds",
        ),
        (Condition("toy-good", "accuracy", 0.0, "mnist-bad"), "Good (toy digits) is not below Bad (mnist) in accuracy"),
        (Condition("toy-good", "accuracy", 0.5), "accuracy of Good is at least 0.5"),
    ):
        sentence, task = said(about, rule)
        assert "".join(sentence) == words and task == ("" if "mnist" in words else "toy digits")
    assert str(Condition("a", "minutes", 0.0, "b", factor=1.4)) == "minutes: a − 1.4 × b ≥ 0"


def test_the_spread_is_the_sample_standard_deviation_and_numbers_have_three_digits() -> None:
    found = report.summary([1.0, 2.0, 3.0, 4.0])
    assert (found.mean, found.n) == (2.5, 4) and found.sd == pytest.approx(math.sqrt(5 / 3))
    assert found.show(2) == "2.50 ± 1.29 (4)" and report.summary([-0.5]).show(1) == "−0.5 (1)"
    assert report.summary([16340.0] * 3).show() == "16340 (3)" and report.summary([0.5]).reach == math.inf
    assert (
        report.summary([0.1, 0.1001]).show() == "0.100 ± < 0.001 (2)"
        and report.summary([0.0, 0.02]).show(1) == "< 0.1 ± < 0.1 (2)"
    )
    for value, shown in ((14.83, "14.8"), (0.98849, "0.988"), (123.4, "123"), (-0.04, "−0.040")):
        assert plain(value, decimals(value)) == shown
    with pytest.raises(BadValue, match="no value to summarise"):
        report.summary([])


@pytest.mark.parametrize(
    ("good", "bad", "expected"),
    [
        ([0.9] * 3, [0.5] * 3, "holds"),
        ([0.55] * 3, [0.5] * 3, "in part, 1 of 2"),
        ([0.3, 0.5, 0.7], [0.5] * 3, "open, 0 of 2"),
        ([0.52, 0.54, 0.56], [0.5] * 3, "in part, 1 of 2 not met"),
        ([0.4] * 3, [0.5] * 3, "fails"),
        ([0.9] * 3, [0.5] * 2, "run in part, 1 of 2"),
    ],
)
def test_verdicts_on_saved_records(room: Path, good: list[float], bad: list[float], expected: str) -> None:
    save("toy-good", good)
    save("toy-bad", bad)
    save("toy-bad", [0.5] * 3, first=7, version=1)  # stale ones do not count
    found = report.verdicts("toy")
    assert found[0].words == expected and found[1].outcome == "not run" and list(report.verdicts()) == found
    assert report.verdicts("toy", judged=True) == [v for v in found[:1] if v.outcome != "run in part"]
    assert f"{expected}: Good is better than bad." in str(found) and f" {expected}</b></td>" in found._repr_html_()
    assert ("<svg" in found._repr_html_()) == (found[0].outcome != "run in part"), "half a finding is no finding"
    badge, count = report.badge("toy"), f"{expected.split(',')[0]} 1 · not run 1"
    assert badge == count and badge in badge._repr_html_() and f"<title>{badge}</title>" in badge.svg()
    assert report.badge("toy", whose="ours") == ""
