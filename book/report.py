"""Write what the book makes of its own sources: the report, the badges, the tables of chapters, the library's pages.

python book/report.py            write them, from the records and nowhere else
python book/report.py --check    write nothing; exit 1 and name the files that are out of step
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import sys
from pathlib import Path
from typing import Any

import api
import decisions
import nbformat
import yaml

from reuselib import report

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = ("<!-- chapters: made by book/report.py -->", "<!-- end of chapters -->")
DECISIONS = ("<!-- decisions: made by book/report.py -->", "<!-- end of decisions -->")
WHICH = Path("book/which_method.md")
REPORT = Path("book/reproduction_report.md")
ALL_TABLES = Path("book/reproduction_tables.md")
PARTS = ("<!-- parts: made by book/report.py -->", "<!-- end of parts -->")
README, INDEX = Path("README.md"), Path("book/index.md")
OPENS = "04_netgraft"
"""The chapter with whose picture the README opens."""


def relative(target: Path, page: Path) -> str:
    """Return the link from a page to a file, both given from the repository's root."""
    return Path(os.path.relpath(target, page.parent)).as_posix()


def badge_file(paper: str) -> Path:
    """Return where the picture of a paper's verdicts stands."""
    return Path("book/_static/badges") / f"{paper}.svg"


def parts() -> list[dict[str, Any]]:
    """Return the parts of the book with their chapters."""
    return yaml.safe_load((ROOT / "book/chapters.yml").read_text("utf-8"))


def picture_file(part: dict[str, Any]) -> Path:
    """Return where the picture of a part stands."""
    return Path("book/_static/parts") / f"{part['picture']}.png"


def picture(part: dict[str, Any]) -> tuple[bytes, str, str]:
    """Return the first picture of the chapter that stands for a part, what it shows in words, and its caption."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{part['picture']}.ipynb", as_version=4)
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    shown = next(output for output in outputs if "alt" in output.get("metadata", {}).get("image/png", {}))
    told = shown.metadata["image/png"]
    caption = re.sub(r" \([^()]*\b(?:above|below)\b[^()]*\)", "", told.get("caption", ""))  # here nothing is
    return base64.b64decode(shown.data["image/png"]), told["alt"], caption


def finding(part: dict[str, Any]) -> str:
    """Return the sentences on a part, their numbers from the records."""

    def number(place: re.Match[str]) -> str:
        paper, metric, row = place[1].split("/")
        return decisions.rounded(paper, row, metric)

    return re.sub(r"{([^{}]+)}", number, part["finding"])


def part_cards(page: Path) -> str:
    """Return the parts for `page`: a picture of each, a finding, its chapters with their status."""
    lines = []
    for part in parts():
        lines += [f"### {part['part']}", "", "::::{grid} 1 1 2 2", ":gutter: 3", "", ":::{grid-item}"]
        _, alt, caption = picture(part)
        lines += [f"```{{figure}} {relative(picture_file(part), page)}", f":alt: {alt}", ":class: dark-light"]
        lines += [":width: 100%", "", caption, "```", ":::", ":::{grid-item}", finding(part), ""]
        for chapter in part["chapters"]:
            number, _, paper = chapter["name"].partition("_")
            lines.append(
                f"- [{int(number)} {chapter['title']}](../notebooks/{chapter['name']}.ipynb): {report.badge(paper)}"
            )
        lines += [":::", "::::", ""]
    return "\n".join(lines).rstrip()


def opening(page: Path) -> str:
    """Return the picture and the finding of one part, for a page that opens with them."""
    part = next(part for part in parts() if part["picture"] == OPENS)
    _, alt, caption = picture(part)
    lesson = relative(Path("notebooks") / f"{OPENS}.ipynb", page)
    more = f"[Chapter {int(OPENS[:2])}]({lesson}) tells the story, with what did not work beside what did."
    return f"![{alt}]({relative(picture_file(part), page)})\n\n*{caption}*\n\n{finding(part)} {more}"


def chapter_table(page: Path) -> str:
    """Return the Markdown table of the ten chapters, its links relative to `page`."""
    lines = ["| Part | Chapter | Paper | Status |", "|---|---|---|---|"]
    for part in parts():
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


def between(page: Path, markers: tuple[str, str], made: str, text: str = "") -> str:
    """Return the text of `page`, or the one that is given, with what stands between two markers made anew."""
    text = text or (ROOT / page).read_text("utf-8")
    before, _, rest = text.partition(markers[0])
    _, found, after = rest.partition(markers[1])
    if not found:
        raise SystemExit(f"{page} lacks the marker lines {' and '.join(markers)}")
    return f"{before}{markers[0]}\n\n{made}\n\n{markers[1]}{after}"


def pages() -> dict[Path, str | bytes]:
    """Return what each generated file ought to hold."""
    badges = {badge_file(paper): report.badge(paper).svg() + "\n" for paper in report.names()}
    texts: dict[Path, str | bytes] = {WHICH: between(WHICH, DECISIONS, decisions.tree())}
    texts[INDEX] = between(INDEX, PARTS, part_cards(INDEX))
    readme = between(README, PARTS, opening(README))
    texts[README] = between(README, CHAPTERS, chapter_table(README), readme)
    texts |= {REPORT: report.report().rstrip() + "\n", ALL_TABLES: report.all_tables().rstrip() + "\n"}
    texts |= {picture_file(part): picture(part)[0] for part in parts()}
    return texts | badges | api.pages()


def content(text: str | bytes) -> bytes:
    """Return the bytes of a file."""
    return text.encode() if isinstance(text, str) else text


def stale(page: Path, text: str | bytes) -> bool:
    """Say whether the file on disk differs from what it ought to hold."""
    path = ROOT / page
    return not path.is_file() or path.read_bytes() != content(text)


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
        (ROOT / page).write_bytes(content(text))
        print(f"wrote {page}")


if __name__ == "__main__":
    main()
