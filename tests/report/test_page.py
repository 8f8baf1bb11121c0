"""The reproduction report: failures as plain as any, and one page of MyST."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy import save

from reuselib import report


def test_the_report_shows_a_failing_claim_as_plainly_as_any(room: Path) -> None:
    page = report.report()
    assert "**Not run**: no record of this paper yet." in page and "| not run |" in page
    save("toy-good", [0.4] * 3)
    save("toy-bad", [0.5] * 3)
    save("toy-extra", [0.5], version=1)
    page = report.report()
    for part in (
        "**✗ does not hold: Good is better than bad.**",
        "found −0.100 ± 0.000 (3), from 0.400 and 0.500: not met",
        "What was tried: Twice the rounds.",
        "- Rule, written 2026-11-22: accuracy: toy-good − toy-bad ≥ 0.1",
        "| does not hold 1 · not run 1 | 7 |",
        "- 7 runs, 0.2 hours",
        "**○ not run: It works elsewhere.**",
        "left out above: laptop/toy-extra seed 0",
        "<caption>Toy accuracy</caption>",
    ):
        assert part in page


def test_the_page_of_the_book_parses_as_myst() -> None:
    config = pytest.importorskip("myst_parser.config.main").MdParserConfig()
    parsers, renderer = pytest.importorskip("myst_parser.parsers.mdit"), pytest.importorskip("markdown_it.renderer")
    tokens = parsers.create_md_parser(config, renderer.RendererHTML).parse(report.report())
    kinds = [token.type for token in tokens]
    papers = [report.published(name) for name in report.names()]
    tables = sum(len(paper.tables) for paper in papers)
    blocks = [token.content for token in tokens if token.type == "html_block"]
    assert len(blocks) == tables and all(block.strip().endswith("</div>") for block in blocks)
    assert kinds.count("myst_target") == len(papers) and kinds.count("table_open") == 1
    titles = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert titles[0] == "Reproduction report" and {paper.title for paper in papers} <= set(titles)
