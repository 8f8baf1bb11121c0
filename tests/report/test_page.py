"""The reproduction report: failures as plain as any, and one page of MyST."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy import save

from reuselib import home, report


def test_the_report_shows_a_failing_claim_as_plainly_as_any(room: Path) -> None:
    assert "**Not run**: no record of this paper yet." in report.all_tables() and "| not run |" in report.report()
    save("toy-good", [0.4] * 3)
    save("toy-bad", [0.5] * 3)
    save("toy-extra", [0.5], version=1)
    page = report.report() + report.all_tables()
    for part in (
        "<summary>Good is better than bad.</summary>",
        "Good exceeds Bad by at least 0.1 in accuracy: toy digits −0.100 (3) not met",
        "What was tried: Twice the rounds.",
        "Rule of 2026-11-22, by means: does not hold",
        '<b class="fails">✗ fails</b>',
        '<b class="not-run">○ not run</b>',
        "| laptop | fails 1 · not run 1 | – | 7 |",
        "- 7 runs, 0.2 hours",
        "left out above: laptop/toy-extra seed 0",
        "<caption>Toy accuracy</caption>",
    ):
        assert part in page


def test_the_pages_of_the_book_parse_as_myst() -> None:
    config = pytest.importorskip("myst_parser.config.main").MdParserConfig()
    parsers, renderer = pytest.importorskip("myst_parser.parsers.mdit"), pytest.importorskip("markdown_it.renderer")
    parser = parsers.create_md_parser(config, renderer.RendererHTML)
    papers = [report.published(name) for name in report.names()]
    blocks = {"report": ("Reproduction report", 2), "tables": ("All tables", sum(len(each.tables) for each in papers))}
    pages = {name: (home.CLONE / "book" / f"reproduction_{name}.md").read_text("utf-8") for name in blocks}
    for name, (title, count) in blocks.items():  # a test of the book holds the pages against what is made
        tokens = parser.parse(pages[name])
        found = [token.content for token in tokens if token.type == "html_block"]
        assert len(found) == count and all(block.strip().endswith(("</div>", "</details>")) for block in found)
        titles = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
        assert titles[0] == title
    assert {paper.title for paper in papers} <= set(titles)
    assert pages["report"].count("<tr>") >= sum(len(paper.of("laptop")) for paper in papers)
