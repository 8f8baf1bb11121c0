"""Write what the book makes of its own sources: the report, the badges, the tables of chapters, the library's pages.

python book/report.py            write them, from the records and nowhere else
python book/report.py --check    write nothing; exit 1 and name the files that are out of step
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import api
import decisions
import yaml

from reuselib import report

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = ("<!-- chapters: made by book/report.py -->", "<!-- end of chapters -->")
DECISIONS = ("<!-- decisions: made by book/report.py -->", "<!-- end of decisions -->")
WHICH = Path("book/which_method.md")
REPORT = Path("book/reproduction_report.md")
ALL_TABLES = Path("book/reproduction_tables.md")
TABLES = (Path("README.md"), Path("book/index.md"))


def relative(target: Path, page: Path) -> str:
    """Return the link from a page to a file, both given from the repository's root."""
    return Path(os.path.relpath(target, page.parent)).as_posix()


def badge_file(paper: str) -> Path:
    """Return where the picture of a paper's verdicts stands."""
    return Path("book/_static/badges") / f"{paper}.svg"


def chapter_table(page: Path) -> str:
    """Return the Markdown table of the ten chapters, its links relative to `page`."""
    lines = ["| Part | Chapter | Paper | Status |", "|---|---|---|---|"]
    for part in yaml.safe_load((ROOT / "book/chapters.yml").read_text("utf-8")):
        for position, chapter in enumerate(part["chapters"]):
            number, _, paper = chapter["name"].partition("_")
            notebook = Path("notebooks") / f"{chapter['name']}.ipynb"
            title, status = f"{int(number)} {chapter['title']}", "planned"
            if (ROOT / notebook).is_file():
                title = f"[{title}]({relative(notebook, page)})"
                status = f"![{report.badge(paper)}]({relative(badge_file(paper), page)})"
            where = f"{chapter['venue']}, [arXiv:{chapter['arxiv']}](https://arxiv.org/abs/{chapter['arxiv']})"
            lines.append(f"| {part['part'] if position == 0 else ''} | {title} | {where} | {status} |")
    return "\n".join(lines)


def between(page: Path, markers: tuple[str, str], made: str) -> str:
    """Return the text of `page` with what stands between two markers made anew."""
    text = (ROOT / page).read_text("utf-8")
    before, _, rest = text.partition(markers[0])
    _, found, after = rest.partition(markers[1])
    if not found:
        raise SystemExit(f"{page} lacks the marker lines {' and '.join(markers)}")
    return f"{before}{markers[0]}\n\n{made}\n\n{markers[1]}{after}"


def pages() -> dict[Path, str]:
    """Return the text that each generated file ought to have."""
    badges = {badge_file(paper): report.badge(paper).svg() + "\n" for paper in report.names()}
    tables = {page: between(page, CHAPTERS, chapter_table(page)) for page in TABLES}
    tables[WHICH] = between(WHICH, DECISIONS, decisions.tree())
    texts = {REPORT: report.report().rstrip() + "\n", ALL_TABLES: report.all_tables().rstrip() + "\n"}
    return texts | badges | tables | api.pages()


def stale(page: Path, text: str) -> bool:
    """Say whether the file on disk differs from `text`."""
    path = ROOT / page
    return not path.is_file() or path.read_text("utf-8") != text


def main() -> None:
    """Write the generated files, or with --check only compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when a file is out of step")
    check = parser.parse_args().check
    changed = {page: text for page, text in pages().items() if stale(page, text)}
    if check and changed:
        names = ", ".join(str(page) for page in changed)
        sys.exit(f"Out of step with the records: {names}. Fix: python book/report.py")
    for page, text in changed.items():
        (ROOT / page).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / page).write_text(text, "utf-8")
        print(f"wrote {page}")


if __name__ == "__main__":
    main()
