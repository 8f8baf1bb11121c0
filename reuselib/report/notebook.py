"""What the notebooks need: the library's own source in a cell, the first cell for Colab, the footer."""

from __future__ import annotations

import ast
import inspect
import os
import platform
import re
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from reuselib import __version__, home
from reuselib.errors import MissingFile, ReuseError
from reuselib.report.records import cpu_name, git_state
from reuselib.report.tables import Table
from reuselib.report.theme import COLUMN

LIGHT = ("captum", "click", "jsonschema", "pooch", "pyyaml", "safetensors", "tqdm")
CLONE = "/content/reusing-trained-networks"
PAGE = 79
"""Characters in a line that a page shows without scrolling."""
WHOLE = 0.9 * COLUMN
"""Pixels from which on a figure takes the whole column."""

# The first cell of every notebook, word for word; a test compares them.
SETUP_CELL = f"""\
# On Colab this cell fetches the book and installs what is missing. Anywhere
# else it does nothing. Colab takes its machines back: with drive = "reuselib"
# what is fetched and what has run stays in that folder of your Drive.
import importlib.util
import os
import shutil
import subprocess
import sys

drive = ""
if "google.colab" in sys.modules:
    clone = "{CLONE}"
    address = "{home.REPOSITORY}"
    address = os.environ.get("REUSELIB_REPOSITORY", address)
    if importlib.util.find_spec("reuselib") is None:
        if not os.path.isdir(clone) and not address:
            raise RuntimeError(
                "This copy does not say where it is published. Run, with the"
                " address that git clone takes, and then this cell again:"
                " os.environ['REUSELIB_REPOSITORY'] = 'https://...'"
            )
        if not os.path.isdir(clone):
            fetch = ["git", "clone", "--depth", "1", address, clone]
            subprocess.run(fetch, check=True)
        install = [sys.executable, "-m", "pip", "install", "--quiet"]
        light = "{" ".join(LIGHT)}"
        subprocess.run([*install, *light.split()], check=True)
        own = ["--no-deps", "--editable", clone]
        subprocess.run([*install, *own], check=True)
        sys.path.insert(0, clone)
    if drive:
        from google.colab import drive as own_drive

        own_drive.mount("/content/drive")
        room = f"/content/drive/MyDrive/{{drive}}"
        if not os.path.isdir(f"{{room}}/results"):  # the book's own records
            shutil.copytree(f"{{clone}}/data/results", f"{{room}}/results")
        os.environ["REUSELIB_DATA"] = room
    os.chdir(os.path.join(clone, "notebooks"))
"""


@dataclass(frozen=True)
class Source:
    """Python source that a notebook highlights and a terminal prints."""

    text: str

    def __repr__(self) -> str:
        """Give the plain text."""
        return self.text

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.text}\n```"


def source(*objects: Any, docstring: bool = True) -> Source:
    """Show the source of functions, classes or methods as the library runs it, module names above.

    Where ruff is at hand, as where the book is made, it is folded to lines of 79 characters.

    Args:
        objects: what to show, in this order.
        docstring: False leaves the docstrings out, so that the idea fits on a screen.

    Raises:
        ReuseError: an object has no Python source.
    """
    parts: list[str] = []
    last = None
    for each in objects:
        text = _folded(_dedented(each) if docstring else _without_docstrings(_dedented(each)))
        parts.append(text if each.__module__ == last else f"# {each.__module__}\n{text}")
        last = each.__module__
    return Source("\n\n".join(parts))


def bring(*packages: str) -> None:
    """On Colab, install packages that a chapter's networks come with; anywhere else they came with the library."""
    if "google.colab" in sys.modules:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *packages], check=True)


def _dedented(thing: Any) -> str:
    try:
        return textwrap.dedent(inspect.getsource(thing)).strip()
    except (TypeError, OSError) as error:
        raise ReuseError(f"{thing!r} has no Python source to show. Give a function, a class or a method.") from error


def _folded(text: str) -> str:
    """The same code in lines that a page holds."""
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        return text
    command = [str(ruff), "format", "--isolated", f"--line-length={PAGE}", "--stdin-filename=source.py", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    lines = text.splitlines() if done.returncode else done.stdout.splitlines()
    return "\n".join(part for line in lines for part in _parts(line))


def _parts(line: str) -> list[str]:
    """A line that is too long, in parts: a comment or a string, which ruff leaves as it is."""
    line = line if len(line) <= PAGE else re.sub(r"  # (type: ignore|noqa).*", "", line)
    found = re.fullmatch(r'(\s*)(?:# (?P<comment>.*)|(?P<mark>f?)"(?P<text>(?:[^"\\]|\\.)*)"(?P<end>,?))', line)
    if len(line) <= PAGE or found is None:
        return [line]
    indent, comment, mark = found[1], found["comment"], found["mark"]
    if comment is not None:
        return [f"{indent}# {part}" for part in textwrap.wrap(comment, PAGE - len(indent) - 2)]
    text, room = found["text"], PAGE - len(indent) - len(mark) - 2
    # Not inside of the braces of an f-string.
    ends = [n for n in range(1, room + 1) if text[n - 1] == " " and text.count("{", 0, n) == text.count("}", 0, n)]
    if not ends:
        return [line]
    return [f'{indent}{mark}"{text[: ends[-1]]}"', *_parts(f'{indent}{mark}"{text[ends[-1] :]}"{found["end"]}')]


def _without_docstrings(text: str) -> str:
    """Cut the lines of every docstring that stands on lines of its own and is not the whole body."""
    lines = text.splitlines()
    cut: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first, *rest = node.body
            end = first.end_lineno or first.lineno
            if rest and ast.get_docstring(node) is not None and node.lineno < first.lineno and end < rest[0].lineno:
                # A blank line after a docstring goes with it.
                cut.update(range(first.lineno - 1, end + (not lines[end].strip())))
    return "\n".join(line for number, line in enumerate(lines) if number not in cut)


def provenance(files: Sequence[str] = ()) -> Table:
    """Say what made a notebook's results: versions, commit, device, and the hashes of its data.

    Args:
        files: paths below the data folder whose SHA-256 to give.

    Raises:
        MissingFile: there is no such file.
    """
    import torch

    device = f"cpu, {cpu_name()}, {torch.get_num_threads()} of {os.cpu_count()} threads"
    if torch.cuda.is_available():
        device = f"{torch.cuda.get_device_name()} (cuda)"
    commit, dirty = git_state()
    facts = {"python": platform.python_version()}
    facts |= {name: metadata.version(name) for name in ("torch", "torchvision", "numpy")}
    facts |= {"reuselib": f"{__version__}, commit {commit[:12]}{'-dirty' if dirty else ''}", "device": device}
    for name in files:
        if not home.path(name).is_file():
            raise MissingFile(f"{home.path(name)} is missing. Fix: name a file below the data folder")
        facts[name] = f"sha256 {home.sha256(home.path(name))[:16]}…"
    return Table.of("Made with", [("", "part"), ("", "version")], [*facts.items()])


class BookFigure:
    """Makes an HTML figure with alt text and caption of what `figures.show` or a captioned flipbook displayed.

    MyST-NB finds it as a plug-in, by the entry point `myst_nb.mime_renderers` of this package: on its own it
    would drop the alt text that an output carries.
    """

    mime_priority_overrides: tuple[tuple[str, str, int | None], ...] = ()

    @staticmethod
    def handle_mime(renderer: Any, data: Any, inline: bool) -> list[Any] | None:
        """Give the document nodes of one output, or None to leave it to MyST-NB."""
        described = data.output_metadata.get(data.mime_type, {})
        if data.mime_type == "text/markdown" and described.get("caption") is True:
            return []  # the figure above has it
        if inline or {"image/png": "alt", "text/html": "caption"}.get(data.mime_type) not in described:
            return None
        from docutils import nodes

        (seen,) = renderer.render_text_html(data) if data.mime_type == "text/html" else renderer.render_image(data)
        if "alt" in described:
            seen["alt"] = described["alt"]
            seen["classes"] = ["dark-light"]  # or the theme would change its brightness in dark mode
        if "width" in described:
            seen["width"] = f"{min(100, round(described['width'] / WHOLE * 100))}%"
        figure = nodes.figure("", seen)
        if "caption" in described:
            text = replace(data, mime_type="text/markdown", content=described["caption"])
            for paragraph in renderer.render_markdown(text)[:1]:
                figure += nodes.caption("", "", *paragraph.children)
        return [figure]
