"""Records, published cells, verdicts, tables and the report."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import toy
from toy import make, save

from reuselib import report as ledger
from reuselib.errors import DamagedFile, ReuseError, UnknownName
from reuselib.report.papers import Cited, Condition
from reuselib.report.records import Record

# --- published tables


def test_every_published_cell_has_a_known_source() -> None:
    for chapter in ledger.chapters():
        paper = ledger.published(chapter)
        cells = [c for t in paper.tables for row in t.rows for cell in row.published.values() for c in cell]
        assert cells and all(cell.source in paper.sources for cell in cells)
        used = {cell.source for cell in cells} | {claim.source for claim in paper.claims}
        assert used == set(paper.sources), f"{chapter}: a source that nothing cites"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("source: later, setting", "source: nowhere, setting", "unknown source 'nowhere'"),
        ('mnist: "0.940"', "mnist: 0.940", "0.94 is not of type"),
        ('mnist: "0.940"', 'minst: "0.940"', "Did you mean 'mnist'"),
        ("chapter: toy", "chapter: 91_toy", "unknown chapter '91_toy'"),
        ("id: extra", "id: bad", "stands twice"),
        ('["50.0", "60.0"]', '["50.0"]', "1 cells for 2 published columns"),
        ("version: 2", "version: two", "version"),
        ("sources: {", "sources: [", "not valid YAML"),
        ("conditions: []", "seeds: 2, conditions: []", "not valid YAML|minimum"),
        ("caption: Toy accuracy", "caption: Toy accuracy\n    captoin: x", "captoin"),
    ],
)
def test_a_mistake_in_a_papers_file_is_named(room: Path, old: str, new: str, reason: str) -> None:
    path = room / "papers" / "toy.yaml"
    assert old in toy.PAPER
    path.write_text(toy.PAPER.replace(old, new), "utf-8")
    with pytest.raises(DamagedFile, match=reason) as caught:
        ledger.published("toy")
    assert str(path) in str(caught.value)


def test_a_rule_on_fewer_than_three_seeds_is_refused(room: Path) -> None:
    text = toy.PAPER.replace("    conditions: []", "    seeds: 2\n    conditions: []")
    (room / "papers" / "toy.yaml").write_text(text, "utf-8")
    with pytest.raises(DamagedFile, match="minimum of 3"):
        ledger.published("toy")


def test_cells_take_their_source_from_the_cell_the_row_or_the_table(room: Path) -> None:
    graft, plain = ledger.published("toy").table("curve").rows
    assert graft.published == {"k1": (Cited("90.74 ± 0.49", "paper"),), "k5": (Cited("92.88", "later"),)}
    assert plain.published["k5"] == (Cited("60.0", "later"),)


@pytest.mark.parametrize(
    ("value", "number"), [("0.933 ± 0.000", 0.933), (".72", 0.72), ("−3.5", -3.5), ("FAILED", None), (None, None)]
)
def test_a_cell_gives_its_number_to_figures(value: str | None, number: float | None) -> None:
    assert Cited(value, "paper").number == number


DFAD = {
    "classification": """
        teacher        0.989          0.955          0.775          0.766
        kd-real        0.988 ± 0.001  0.939 ± 0.011  0.733 ± 0.003  0.775 ± 0.002
        kd-related     0.960 ± 0.006  0.912 ± 0.002  0.690 ± 0.004  0.748 ± 0.003
        kd-unrelated   0.957 ± 0.007  0.445 ± 0.012  0.133 ± 0.003  0.352 ± 0.015
        random         0.747 ± 0.033  0.101 ± 0.002  0.015 ± 0.001  0.010 ± 0.000
        dafl           0.981 ± 0.001  0.885 ± 0.003  0.614 ± 0.005  FAILED
        dfad           0.983 ± 0.002  0.933 ± 0.000  0.677 ± 0.003  0.735 ± 0.008""",
    "segmentation": """
        teacher        0.594  0.517
        kd-real        0.535  0.380
        kd-related     0.475  0.396
        kd-unrelated   0.406  0.265
        random         0.018  0.021
        dafl           0.010  0.105
        dfad           0.535  0.364""",
    "cost": """
        teacher        433K  1.16G  1.16G  1.20G  41.0G  41.0G
        kd-real        139K  557M  558M  595M  5.54G  5.54G
        kd-related     139K  557M  558M  595M  5.54G  5.54G
        kd-unrelated   139K  557M  558M  595M  5.54G  5.54G
        random         139K  557M  558M  595M  5.54G  5.54G
        dafl           139K  557M  558M  595M  5.54G  5.54G
        dfad           139K  557M  558M  595M  5.54G  5.54G""",
}


@pytest.mark.parametrize("name", DFAD)
def test_dfad_has_every_cell_of_its_tables(name: str) -> None:
    layout = ledger.published("dfad").table(name)
    columns = [column.id for column in layout.columns if column.id and not column.id.startswith("other")]
    rows = {row.id: row for row in layout.rows}
    text = str(ledger.table("dfad", name=name))
    for line in DFAD[name].strip().splitlines():
        row, *cells = (part.strip() for part in line.split("  ") if part.strip())
        assert [rows[row].published[column][0].value for column in columns] == cells
        assert [rows[row].published[column][0].source for column in columns] == ["paper"] * len(columns)
        assert all(cell in text for cell in cells)


def test_dfad_keeps_every_other_source_and_what_is_unknown() -> None:
    paper = ledger.published("dfad")
    rows = {row.id: row for row in paper.tables[0].rows}
    found = {(c.source, c.value) for name in ("other10", "other100") for c in rows["dfad"].published[name]}
    cudfkd = {("cudfkd", value) for value in ("86.1", "12.3", "93.3", "54.9", "12.9", "67.7")}
    assert found == {("mmrazor", "92.80"), *cudfkd}
    assert {("mmrazor", "95.34"), ("cudfkd", "95.70")} <= {
        (c.source, c.value) for c in rows["teacher"].published["other10"]
    }
    order = "teacher kd-real kd-related kd-unrelated random dafl zskt dfad supervised untrained "
    assert list(rows) == f"{order}random-generator dfad-kl dfad-log dfad-long".split()
    assert all(row.published["value"][0].value is None for row in paper.table("unrecovered").rows)
    unrecovered = str(ledger.table("dfad", name="unrecovered"))
    assert unrecovered.count("?") == 5 and "could not be found" in unrecovered


def test_dfads_claims_are_as_they_were_written() -> None:
    claims = {claim.id: claim for claim in ledger.claims("dfad")}
    margins = {
        "above_random": ("random", 0.10, 0.04),
        "close_to_kd": ("kd-real", -0.03, -0.03),
        "not_below_dafl": ("dafl", -0.01, -0.01),
        "above_unrelated": ("kd-unrelated", 0.0, 0.0),
        "mae_over_kl": ("dfad-kl", 0.0, 0.0),
    }
    for name, (row, fashion, digits) in margins.items():
        assert claims[name].seeds == 3
        assert claims[name].conditions == (
            Condition("fashion-dfad", "accuracy", fashion, f"fashion-{row}"),
            Condition("digits-dfad", "accuracy", digits, f"digits-{row}"),
        )
    masks = {
        "segmentation": {"dafl": 0.1, "random": 0.1, "blind": 0.1},
        "segmentation_close_to_kd": {"kd-real": -0.03},
        "segmentation_log": {"dfad-plain": 0.0},
        "segmentation_above_untrained_generator": {"random-generator": 0.03},
    }
    for name, rows in masks.items():
        assert claims[name].seeds == 3
        assert claims[name].conditions == tuple(
            Condition("rooms-dfad", "mean_iou", margin, f"rooms-{row}") for row, margin in rows.items()
        )
    assert set(claims) == {*margins, *masks}


# --- statistics and verdicts


def test_the_spread_is_the_sample_standard_deviation() -> None:
    found = ledger.summary([1.0, 2.0, 3.0, 4.0])
    assert (found.mean, found.n) == (2.5, 4) and found.sd == pytest.approx(math.sqrt(5 / 3))
    assert found.show(2) == "2.50 ± 1.29 (4)"
    assert ledger.summary([0.5]).sd is None and ledger.summary([0.5]).show() == "0.500 (1)"
    assert ledger.summary([-0.5]).show(1) == "−0.5 (1)"


@pytest.mark.parametrize(
    ("met", "expected"),
    [
        ([True, True], "holds"),
        ([True, False], "partly"),
        ([False, False], "does not hold"),
        ([True, None], "not run"),
        ([False, None], "not run"),
        ([], "not run"),
    ],
)
def test_outcome(met: list[bool | None], expected: str) -> None:
    assert ledger.outcome(met) == expected


def judge(good: dict[int, float], bad: dict[int, float], at_least: float = 0.1, **changes: Any) -> Any:
    """Judge toy-good − toy-bad on records with these accuracies by seed."""
    found = [make("toy-good", seed, value) for seed, value in good.items()]
    found += [make("toy-bad", seed, value) for seed, value in bad.items()]
    rule = {"left": "toy-good", "right": "toy-bad", "metric": "accuracy", "at_least": at_least}
    return ledger.judge(Condition(**{**rule, **changes}), found, 3)


def test_a_margin_reached_exactly_is_met_and_one_just_missed_is_not(room: Path) -> None:
    assert 0.9 - 0.8 < 0.1
    assert judge(dict.fromkeys(range(3), 0.9), dict.fromkeys(range(3), 0.8)).met is True
    assert judge(dict.fromkeys(range(3), 0.9), dict.fromkeys(range(3), 0.8001)).met is False
    assert judge(dict.fromkeys(range(3), 0.77), dict.fromkeys(range(3), 0.8), -0.03).met is True
    assert judge(dict.fromkeys(range(3), 0.7699), dict.fromkeys(range(3), 0.8), -0.03).met is False


def test_only_seeds_that_both_sides_have_are_paired(room: Path) -> None:
    finding = judge({0: 0.9, 1: 0.8, 2: 0.7, 3: 0.0}, {0: 0.5, 1: 0.5, 2: 0.5, 9: 1.0})
    assert finding.met is True and finding.difference.n == 3
    assert finding.difference.mean == pytest.approx(0.3) and finding.difference.sd == pytest.approx(0.1)
    assert "found 0.300 ± 0.100 (3), from 0.800 and 0.500: met" in str(finding)


def test_unpaired_or_too_few_seeds_give_no_result(room: Path) -> None:
    assert judge({0: 0.9, 1: 0.9, 2: 0.9}, {3: 0.1, 4: 0.1, 5: 0.1}).met is None
    finding = judge({0: 0.9, 1: 0.9}, {0: 0.1, 1: 0.1})
    assert finding.met is None and finding.difference.n == 2 and "too few paired seeds" in str(finding)
    assert judge({}, {}).met is None


def test_a_rule_may_have_a_constant_or_a_factor(room: Path) -> None:
    scores = dict.fromkeys(range(3), 0.6)
    constant = judge(scores, {}, 0.5, right=0.0)
    assert constant.met is True and str(constant) == "accuracy: toy-good ≥ 0.5: found 0.600 ± 0.000 (3): met"
    assert judge(scores, {}, 0.2, right=0.5).met is False
    assert str(Condition("a", "minutes", 0.0, "b", factor=1.4)) == "minutes: a − 1.4 × b ≥ 0"
    assert judge(scores, dict.fromkeys(range(3), 0.4), 0.0, factor=1.5).met is True
    assert judge(scores, dict.fromkeys(range(3), 0.4), 0.0, factor=1.6).met is False


def test_a_metric_that_no_record_has_is_an_error(room: Path) -> None:
    with pytest.raises(UnknownName, match="acuracy"):
        judge({0: 0.9}, {0: 0.1}, metric="acuracy")


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
    first, second = ledger.verdicts("toy")
    assert first.outcome == expected and second.outcome == "not run"
    assert list(ledger.verdicts()) == [first, second]
    assert f"{expected}: Good is better than bad." in str(ledger.verdicts("toy"))
    assert expected in ledger.verdicts("toy")._repr_html_()
    assert ledger.verdicts("toy", "paper")[0].outcome == "not run"


def test_stale_records_do_not_count(room: Path) -> None:
    save("toy-good", [0.9] * 3)
    save("toy-bad", [0.5] * 3, version=1)
    assert ledger.verdicts("toy")[0].outcome == "not run"
    text = str(ledger.table("toy"))
    assert "stale [2]" in text and "toy-bad, seed 0, 1, 2" in text


def test_stale_records_are_left_out_of_the_mean(room: Path) -> None:
    save("toy-good", [0.8, 0.9])
    save("toy-good", [0.1], first=2, version=1)
    text = str(ledger.table("toy"))
    assert "85.0 ± 7.1 (2) [" in text and "left out: toy-good, seed 2." in text


# --- tables


def test_the_table_sets_ours_beside_the_paper(room: Path) -> None:
    save("toy-good", [0.8, 0.9])
    text = str(ledger.table("toy"))
    for part in (
        "0.940",
        "best: 93.1 [1]",
        "[1] A later re-run.",
        "?",
        "85.0 ± 7.1 (2)",
        "1.5 ± 0.0 (2)",
        "not run",
        "Ours, laptop",
        "Table 1 of the toy.",
        "○ not run: Good is better than bad.",
    ):
        assert part in text
    assert "Real MNIST" not in text and "This run" not in text


def test_each_scale_has_columns_of_its_own(room: Path) -> None:
    save("toy-good", [0.8])
    save("mnist-good", [0.95], scale="colab")
    save("toy-good", [0.2], scale="smoke")
    both = str(ledger.table("toy", scale=None))
    assert "Ours, laptop" in both and "Ours, colab" in both and "Real MNIST" in both
    assert "0.950 (1)" in both and "80.0 (1)" in both and "smoke" not in both
    assert "Toy digits" not in str(ledger.table("toy", scale="colab"))
    smoke = str(ledger.table("toy", scale="smoke"))
    assert "20.0 (1)" in smoke and "its numbers say nothing" in smoke


def test_this_run_stands_beside_the_recorded_ones(room: Path) -> None:
    save("toy-good", [0.8, 0.9])
    live = make("toy-good", 7, 0.5, scale="smoke")

    @dataclass
    class Run:
        record: Record

    for beside in (live, Run(live), [live], [Run(live)]):
        text = str(ledger.table("toy", beside=beside))
        assert "This run" in text and "50.0 (1)" in text and "85.0 ± 7.1 (2)" in text
    with pytest.raises(ReuseError, match="91_other"):
        ledger.table("toy", beside=replace(live, paper="91_other"))


def test_a_table_may_show_other_metrics_of_one_row(room: Path) -> None:
    make(metrics={"accuracy": 0.5, "graft_k1": 0.25}).save()
    lines = str(ledger.table("toy", name="curve")).splitlines()
    assert any(line.startswith("Graft") and line.endswith("0.250 (1)") for line in lines)
    assert any(line.startswith("Plain") and line.endswith("–") for line in lines)


def test_seeds_of_different_configurations_are_marked(room: Path) -> None:
    make(seed=0).save()
    make(seed=1, settings={"rounds": 99}).save()
    assert "The seeds of toy-good differ in configuration." in str(ledger.table("toy"))


def test_the_html_table_is_semantic_and_takes_the_pages_colours(room: Path) -> None:
    html = ledger.table("toy")._repr_html_()
    assert "<caption" in html and "<table" in html
    for part in ('scope="row"', 'scope="col"', 'scope="colgroup" colspan="2"', 'rowspan="2"', 'title="A '):
        assert part in html
    assert "#" not in html and "background" not in html and "\n\n" not in html


def test_html_escapes_what_it_shows(room: Path) -> None:
    (room / "papers" / "toy.yaml").write_text(toy.PAPER.replace("Toy accuracy", "a < b"), "utf-8")
    assert "a &lt; b" in ledger.table("toy")._repr_html_()


def test_claims_are_listed_with_their_rules(room: Path) -> None:
    claims = ledger.claims("toy")
    for text in (str(claims), claims._repr_html_()):
        assert "Good is better than bad." in text and "accuracy: toy-good − toy-bad ≥ 0.1" in text
        assert "at least 3 paired seeds" in text and "2026-11-22" in text
        assert "Comes with a later chapter." in text


def test_the_badge_counts_verdicts(room: Path) -> None:
    save("toy-good", [0.4] * 3)
    save("toy-bad", [0.5] * 3)
    badge = ledger.badge("toy")
    assert badge == "does not hold 1 · not run 1"
    assert badge in badge._repr_html_() and f"<title>{badge}</title>" in badge.svg()
    assert "http" not in badge.svg().replace('xmlns="http://www.w3.org/2000/svg"', "")


# --- report


def test_the_report_shows_a_failing_claim_as_plainly_as_any(room: Path) -> None:
    save("toy-good", [0.4] * 3)
    save("toy-bad", [0.5] * 3)
    save("toy-extra", [0.5], version=1)
    report = ledger.report()
    for part in (
        "**✗ does not hold: Good is better than bad.**",
        "found −0.100 ± 0.000 (3), from 0.400 and 0.500: not met",
        "What was tried: Twice the rounds.",
        "- Rule, written 2026-11-22: accuracy: toy-good − toy-bad ≥ 0.1",
        "| does not hold 1 · not run 1 | 7 |",
        "- 7 runs, 0.2 hours",
        "**○ not run: It works elsewhere.**",
        "left out above: laptop/toy-extra seed 0",
        "<caption",
        "(report-toy)=",
    ):
        assert part in report
    assert report == ledger.report()


def test_the_report_says_that_a_chapter_was_not_run(room: Path) -> None:
    report = ledger.report()
    assert "**Not run**: no record of this chapter yet." in report and "| not run |" in report


def test_the_reports_tables_stay_whole_in_markdown() -> None:
    for line in ledger.report().splitlines():
        for tag in ("div", "table", "p"):
            assert line.count(f"<{tag} ") == line.count(f"</{tag}>")
