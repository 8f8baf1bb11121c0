"""What notebooks use: source in a cell, the first cell, the footer, and figures in the book."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec as real_find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from reuselib import home
from reuselib.errors import MissingFile, ReuseError
from reuselib.report import notebook


def documented(value: int) -> int:
    """Say something.

    At length.
    """

    # Why not.
    def inner() -> int:
        """Say more."""
        return value

    return inner()


def test_source_is_what_runs_and_compiles_without_its_docstrings_too() -> None:
    shown = notebook.source(documented)
    assert repr(shown).startswith(f'# {__name__}\ndef documented(value: int) -> int:\n    """Say something.')
    assert shown._repr_markdown_() == f"```python\n{shown.text}\n```"
    inner = "    # Why not.\n    def inner() -> int:\n        return value\n\n    return inner()"
    text = repr(notebook.source(documented, Colab.__init__, docstring=False))
    assert text.startswith(f"# {__name__}\ndef documented(value: int) -> int:\n{inner}\n\ndef __init__(")
    assert "Take the place" not in text
    with pytest.raises(ReuseError, match="no Python source.*Give a function"):
        notebook.source(len)


def long_lines(values: list[float], name: str) -> float:
    """Say something."""
    # A comment that goes on and on, past the edge of any page that anyone would ever print it on.
    if not values:
        raise ValueError(
            f"There are no values of {name.upper().lower().title().strip()!r} here: give some, or nothing, or a name."
        )
    return sum(value * weight for value, weight in zip(values, range(len(values)), strict=True) if value > 0)  # noqa: E501


def test_source_is_folded_to_a_page_and_stays_the_same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, shown = inspect.getsource(long_lines), repr(notebook.source(long_lines))
    assert max(map(len, whole.splitlines())) > 110 and max(map(len, shown.splitlines())) <= 79
    assert ast.dump(ast.parse(shown)) == ast.dump(ast.parse(whole))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")  # where there is no ruff
    assert repr(notebook.source(long_lines)).splitlines()[1:] == whole.splitlines()


class Colab:
    """Plays the part of Colab: records the commands and moves of the first cell."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
        """Take the place of `subprocess.run`, `os.chdir` and the search for the package."""
        self.commands: list[list[str]] = []
        self.moves: list[str] = []
        monkeypatch.setattr(subprocess, "run", lambda command, check: self.commands.append(command))
        monkeypatch.setattr("os.chdir", self.moves.append)
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name: real_find_spec(name) if name != "reuselib" or installed else None
        )


def test_first_cell_clones_and_installs_on_colab_goes_there_again_and_does_nothing_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Colab(monkeypatch, installed=False)
    exec(notebook.SETUP_CELL, {})
    notebook.bring("one")
    assert not played.commands and not played.moves
    colab = ModuleType("google.colab")
    colab.drive = SimpleNamespace(mount=lambda place: None)
    monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setenv("REUSELIB_REPOSITORY", address := "https://github.com/some-body/book")
    exec(notebook.SETUP_CELL, {})
    clone, light, package = played.commands
    assert clone[:2] == ["git", "clone"] and clone[-2:] == [address, notebook.CLONE]
    assert light[-len(notebook.LIGHT) :] == list(notebook.LIGHT)
    assert package[-3:] == ["--no-deps", "--editable", notebook.CLONE]
    assert sys.path[0] == notebook.CLONE and played.moves == [f"{notebook.CLONE}/notebooks"]
    again = Colab(monkeypatch, installed=True)
    notebook.bring("one", "two")
    assert again.commands.pop()[1:] == ["-m", "pip", "install", "--quiet", "--no-deps", "one", "two"]
    cell = notebook.SETUP_CELL.replace('drive = ""', 'drive = "reuselib"').replace(notebook.CLONE, str(home.CLONE))
    for _ in range(2):
        exec(cell.replace("/content/drive", str(tmp_path)), {})
    assert not again.commands and again.moves == [f"{home.CLONE}/notebooks"] * 2
    room = tmp_path / "MyDrive" / "reuselib"
    assert home.root() == room and (room / "results" / "dfad.jsonl").is_file()


def test_first_cell_installs_all_that_colab_may_lack_from_the_address_of_the_config() -> None:
    project = tomllib.loads((home.CLONE / "pyproject.toml").read_text("utf-8"))["project"]
    names = {re.match(r"[\w-]+", requirement)[0].lower() for requirement in project["dependencies"]}
    there = {"torch", "torchvision", "numpy", "scipy", "scikit-learn", "matplotlib", "pandas", "jinja2", "seaborn"}
    assert names - there == set(notebook.LIGHT)
    config = yaml.safe_load((home.CLONE / "_config.yml").read_text("utf-8"))
    assert f'address = "{config["repository"]["url"].rstrip("/")}"' in notebook.SETUP_CELL
    assert project["entry-points"]["myst_nb.mime_renderers"]["reuselib"] == "reuselib.report.notebook:BookFigure"


def test_provenance_names_versions_device_and_hashes(room: Path) -> None:
    (room / "some.txt").write_bytes(b"abc")
    made = notebook.provenance(files=["some.txt"]).cells.iloc[:, 0]
    assert {"python", "torch", "torchvision", "numpy", "reuselib", "device"} < set(made.index)
    assert made["some.txt"] == "sha256 ba7816bf8f01cfea…"
    with pytest.raises(MissingFile, match="other.txt is missing"):
        notebook.provenance(files=["other.txt"])


def test_book_turns_a_shown_figure_into_html_with_alt_and_caption(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pytest.importorskip("myst_nb.core.render"), "load_mime_renders", lambda: [notebook.BookFigure])
    from docutils.core import publish_string
    from myst_nb.docutils_ import Parser
    from nbformat import v4, writes

    texts = {"alt": 'Two "bells".', "caption": "Rows: *real*, fake.", "width": 375}
    data = {"image/png": "iVBORw0KGgo=", "text/plain": texts["alt"]}
    marked = {"text/markdown": {"caption": True}}
    outputs = [
        v4.new_output("display_data", data, metadata={"image/png": texts}),
        v4.new_output("display_data", {"text/markdown": texts["caption"]}, metadata=marked),
    ]
    pages = {"text/html": "<div>pages</div>", "text/plain": "pages"}
    outputs += [v4.new_output("display_data", pages, metadata={"text/html": {"caption": "Of *every* page."}})]
    cell = v4.new_code_cell("1", outputs=outputs, execution_count=1)
    text = writes(v4.new_notebook(cells=[cell], metadata={"language_info": {"name": "python"}}))
    options = {"nb_execution_mode": "off", "nb_output_folder": str(tmp_path), "embed_stylesheet": False}
    html = publish_string(text, parser=Parser(), writer_name="html5", settings_overrides=options).decode()
    assert 'alt="Two &quot;bells&quot;."' in html and re.search(r"width[=:] ?.?56%", html)
    assert html.count("<figure") == html.count("<figcaption") == 2 and html.count("<em>real</em>") == 1
    assert re.search(r"<div>pages</div>\s*</div>\s*<figcaption>\s*<p>Of <em>every</em> page.", html)
