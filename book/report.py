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
OPENS = "02_cmi"
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


def read(name: str) -> nbformat.NotebookNode:
    """Return a notebook by its name."""
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def title(chapter: dict[str, Any]) -> str:
    """Return a chapter's number and title: that of its lesson, where there is one."""
    there = (ROOT / "notebooks" / f"{chapter['name']}.ipynb").is_file()
    words = read(chapter["name"]).cells[0].source.splitlines()[0].removeprefix("# ") if there else chapter["title"]
    return f"{int(chapter['name'][:2])} {words}"


def picture(part: dict[str, Any]) -> tuple[bytes, str, str]:
    """Return the first picture of the lesson that stands for a part, what it shows in words, and what it is of."""
    outputs = (output for cell in read(part["picture"]).cells for output in cell.get("outputs", ()))
    shown = next(output for output in outputs if "alt" in output.get("metadata", {}).get("image/png", {}))
    told = shown.metadata["image/png"]
    return base64.b64decode(shown.data["image/png"]), told["alt"], re.split(r"(?<=\.)\s", told.get("caption", ""))[0]


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
        _, alt, of = picture(part)
        lines += [f"### {part['part']}", "", "::::{grid} 1 1 2 2", ":gutter: 3", ""]
        lines += [":::{grid-item}", ":columns: 12 12 7 7", "", f"```{{image}} {relative(picture_file(part), page)}"]
        lines += [f":alt: {alt}", ":class: dark-light", ":width: 100%", "```", "", f"*{of}*", ":::", ""]
        lines += [":::{grid-item}", ":columns: 12 12 5 5", "", finding(part), ""]
        for chapter in part["chapters"]:
            notebook = relative(Path("notebooks") / f"{chapter['name']}.ipynb", page)
            lines.append(f"- [{title(chapter)}]({notebook}): {report.badge(chapter['name'][3:])}")
        lines += [":::", "::::", ""]
    return "\n".join(lines).rstrip()


def opening(page: Path) -> str:
    """Return the picture and the finding of one part, for a page that opens with them."""
    part = next(part for part in parts() if part["picture"] == OPENS)
    _, alt, of = picture(part)
    lesson = relative(Path("notebooks") / f"{OPENS}.ipynb", page)
    more = f"[Chapter {int(OPENS[:2])}]({lesson}) tells the story, with what did not work beside what did."
    return f"![{alt}]({relative(picture_file(part), page)})\n\n*{of}*\n\n{finding(part)} {more}"


def chapter_table(page: Path) -> str:
    """Return the Markdown table of the ten chapters, its links relative to `page`."""
    lines = ["| Part | Chapter | Paper | Status |", "|---|---|---|---|"]
    for part in parts():
        for position, chapter in enumerate(part["chapters"]):
            paper, notebook = chapter["name"][3:], Path("notebooks") / f"{chapter['name']}.ipynb"
            named, status = title(chapter), "planned"
            if (ROOT / notebook).is_file():
                named = f"[{named}]({relative(notebook, page)})"
                status = f"![{report.badge(paper)}]({relative(badge_file(paper), page)})"
            where = f"{chapter['venue']}, [arXiv:{chapter['arxiv']}](https://arxiv.org/abs/{chapter['arxiv']})"
            lines.append(f"| {part['part'] if position == 0 else ''} | {named} | {where} | {status} |")
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
