"""Tables: ours beside the published cells, as text and as HTML."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import toy
from toy import make, save

from reuselib import home, report
from reuselib.errors import ReuseError

WHOLE = """\
Toy accuracy

        Paper  Elsewhere       Ours, laptop scale, mean ± sd (n)
Method  MNIST  MNIST           Toy digits     minutes
Good    0.940  best: 93.1 [1]  85.0 ± 7.1 (2)        1.5 (2)
Bad         ?               –         not run        not run
Extra       –               –       stale [2]      stale [2]

Published values without a mark: Table 1 of the toy.
? a published number that could not be found. – no such number.
[1] A later re-run.
[2] Stale, made by another version and left out: toy-extra, seed 0."""
OURS = "Ours, laptop scale, mean ± sd (n)"
UNKNOWN = "– no such number, or a published one that could not be found."


def test_the_table_sets_ours_beside_the_paper(room: Path) -> None:
    save("toy-good", [0.8, 0.9])
    save("toy-extra", [0.5], version=1)
    table = report.table("toy")
    assert re.sub(" +", " ", str(table)) == re.sub(" +", " ", repr(table)) == re.sub(" +", " ", WHOLE)
    assert table.cells.loc["Good", ("Paper", "MNIST")] == "0.940"


def test_a_lesson_shows_no_sign_of_what_is_not_known_and_no_column_of_it(room: Path) -> None:
    shown = report.table("toy", known=True)
    assert shown.cells.loc["Bad", ("Paper", "MNIST")] == "–" and "?" not in str(shown) and UNKNOWN in shown.notes
    (room / "papers" / "toy.yaml").write_text(toy.PAPER.replace('{mnist: "0.940", ', "{mnist: null, "))
    assert {group for group, _ in report.table("toy", known=True).cells.columns} == {"Elsewhere", OURS}
    assert {group for group, _ in report.table("toy").cells.columns} == {"Paper", "Elsewhere", OURS}


def test_a_table_without_a_number_is_a_sentence(room: Path) -> None:
    numbers = '["90.74 ± 0.49", {value: "92.88", source: later}]', '["50.0", "60.0"]'
    unknown = toy.PAPER.replace(numbers[0], "[null, null]").replace(numbers[1], "[null, null]")
    (room / "papers" / "toy.yaml").write_text(unknown)
    shown = report.table("toy", name="curve")
    told = "Not run yet. No published number was found; one goes into data/papers/toy.yaml: Graft; Plain."
    assert shown == f"{shown.caption}. {told}" and shown.html() == f'<div class="results"><p>{shown}</p></div>'
    make(metrics={"accuracy": 0.8, "graft_k1": 0.25}).save()
    assert "<table" in report.table("toy", name="curve").html()


def test_each_scale_has_columns_of_its_own_and_other_settings_are_marked(room: Path) -> None:
    make(metrics={"accuracy": 0.8, "graft_k1": 0.25}).save()
    save("mnist-good", [0.95], scale="colab")
    save("toy-good", [0.2], scale="smoke")
    both = str(report.table("toy", scale=None))
    assert all(part in both for part in ("Ours, laptop", "Ours, colab", "Real MNIST", "0.950 (1)", "80 (1)"))
    assert "smoke" not in both and "Toy digits" not in str(report.table("toy", scale="colab"))
    smoke = str(report.table("toy", scale="smoke"))
    assert "20 (1)" in smoke and "its numbers say nothing" in smoke
    curve = report.table("toy", name="curve").cells.iloc[:, -1]  # other metrics of one row
    assert curve.to_dict() == {"Graft": "0.250 (1)", "Plain": "–"}
    make(seed=3, settings={"rounds": 99}, accuracy=0.9).save()
    assert "[2] The seeds of toy-good differ in configuration." in str(report.table("toy"))


def test_this_run_stands_beside_the_recorded_ones(room: Path) -> None:
    save("toy-good", [0.8, 0.9])
    live = make("toy-good", 7, 0.5, scale="smoke")
    for beside in (live, [SimpleNamespace(record=live)]):
        text = str(report.table("toy", beside=beside))
        assert "This run" in text and "50 (1)" in text and "85.0 ± 7.1 (2)" in text
    for wrong, what in ((replace(live, paper="other"), "a record of other"), (3, "no record")):
        with pytest.raises(ReuseError, match=f"{what}.*, the table is of toy"):
            report.table("toy", beside=wrong)


def test_the_html_is_semantic_escaped_and_has_classes_for_styles(room: Path) -> None:
    (room / "papers" / "toy.yaml").write_text(toy.PAPER.replace("Toy accuracy", "a < b & c"), "utf-8")
    save("toy-good", [0.8])
    html = report.table("toy").html()
    whole = (
        '<div class="results"><div role="region" tabindex="0" aria-label="a &lt; b &amp; c">',
        "<caption>a &lt; b &amp; c</caption>",
        '<th scope="col" colspan="2">Ours, laptop scale, mean ± sd (n)</th>',
        '\n<tr><th scope="row">Good</th><td>0.940</td><td>best: 93.1 [1]</td><td>80 (1)</td>',
        "\n<p>[1] A later re-run.</p>",
    )
    assert all(part in html for part in whole)
    style = (home.PACKAGE / "report" / "results.css").read_text("utf-8")
    assert "style" not in html and "\n\n" not in html and "class" not in html.replace('<div class="results">', "")
    assert html.count("<div") == html.count("</div>") and html.count("<p>") == html.count("</p>")
    assert report.table("toy")._repr_html_() == f"<style>{style}</style>{html}"
    wide = report.Table.of("Wide", [("", "a"), *[("", "b" * 40)] * 5], [["1"] * 6], ["note " * 50])
    assert max(map(len, str(wide).splitlines())) <= 110, "a terminal has room for it"
    long = report.Table.of("Long", [("", "a"), ("", "b")], [["1", "x" * 40 + "\n2"]]).html()
    assert f"<td><span>{'x' * 40}</span><br>2</td>" in long and '<th scope="col">b</th>' in long


OPENING = """
opening:
  of: main
  caption: How good
  columns:
    - {id: mnist, label: MNIST, group: Paper, times: 100}
    - {id: other, label: Nowhere, group: Paper}
    - {label: Real MNIST, scales: [colab], record: "mnist-{row}", metric: accuracy}
    - {label: Digits, scales: [laptop], record: "toy-{row}", metric: accuracy}
  rows:
    best: {label: the best, published: {mnist: [main, good, mnist]}}
    bad: the floor
    random: "never published"
  claims: [better]
"""


def test_an_opening_shows_what_has_a_number_and_what_its_claims_found(room: Path) -> None:
    with pytest.raises(ReuseError, match="no opening"):
        report.opening("toy")
    path = room / "papers" / "toy.yaml"
    path.write_text(toy.PAPER + OPENING)
    save("toy-good", [0.8, 0.9, 0.85])
    save("toy-bad", [0.4, 0.5, 0.45])
    save("toy-random", [0.1])
    shown = report.opening("toy")
    assert list(shown.cells.columns) == [("Paper", "MNIST"), ("Ours, laptop scale, mean ± sd (n)", "Digits")]
    assert list(shown.cells.index) == ["the best", "the floor", "never published"]
    assert list(shown.cells.iloc[:, 0]) == ["94.0", "–", "–"] and shown.cells.iloc[2, 1] == "0.100 (1)"
    first, counted, signs = shown.notes
    assert re.fullmatch(
        r"✓ holds: Good is better than bad\. \(laptop scale; weakest effect 0\.\d+ \[.+\] in accuracy\)", first
    )
    assert counted == "All of the paper's own claims, laptop scale: holds 1 · not run 1."
    assert signs == UNKNOWN
    elsewhere = OPENING.replace('"never published"', "{label: other, published: {other: [main, good, mnist]}}")
    path.write_text(toy.PAPER + elsewhere)
    assert list(report.opening("toy").cells["Paper", "Nowhere"]) == ["–", "–", "0.940"]
    for old, new in (
        ("[better]", "[best]"),
        ("other: [main, good", "other: [mean, good"),
        ("main, good, mnist", "main, worse, mnist"),
    ):
        path.write_text(toy.PAPER + elsewhere.replace(old, new))
        with pytest.raises(ReuseError, match="opening"):
            report.opening("toy")


def test_a_brief_gives_verdicts_the_first_full_column_and_the_cost(room: Path) -> None:
    with pytest.raises(ReuseError, match="no opening"):
        report.brief("toy")
    rows = 'rows: {good: Ours, random: Rival, other: Second, bad: "Noise (floor)", real: "Real & all (ceiling)"}'
    cost = '\n    - {label: minutes of one core, scales: [laptop], record: "toy-{row}", metric: cpu_minutes}\n  rows'
    opening = re.sub(r"rows:(\n    .*)+", rows, OPENING).replace("\n  rows", cost)
    (room / "papers" / "toy.yaml").write_text(toy.PAPER + opening)
    assert report.brief("toy") == "Does it hold? Of the paper's own claims: not run 2."
    for row, values in {"good": [0.8, 0.9, 0.85], "bad": [0.4, 0.5, 0.45], "random": [0.7], "other": [0.7]}.items():
        save(f"toy-{row}", values)
    save("toy-real", [0.99])
    held, far, cost = report.brief("toy").splitlines()
    assert held == "Does it hold? Of the paper's own claims: holds 1 · not run 1."
    assert far.startswith("By how much? How good, Digits. Ours: 0.850; Rival: 0.700; Noise (floor): 0.450; Real & all")
    assert re.fullmatch(r"At what cost\? [\d.<]+ (s|min|h) of one core\.", cost)
    html = report.brief("toy")._repr_html_()
    assert html.count("<dt>") == 3 and "Real &amp; all (ceiling): 0.990.</dd>" in html


@pytest.mark.parametrize("paper", report.names())
def test_every_brief_answers_all_three_questions(paper: str) -> None:
    asked = [line.partition("?")[0] for line in report.brief(paper).splitlines()]
    assert asked == ["Does it hold", "By how much", "At what cost"]
