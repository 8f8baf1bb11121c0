"""The rules that every notebook of the book obeys."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from reuselib.report.notebook import SETUP_CELL

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
PAGES = {"00_quickstart", "rooms_gallery"}  # they are no chapters: no paper, no records, no claims
LAB = "_lab"
WORDS, LINES = 2500, 120  # of a lesson: what one reads in an hour, and the code that is not folded away
HIDDEN = {"hide-input", "remove-input", "hide-cell", "remove-cell"}
UNCOMPARED = {"nbval-ignore-output", "nbval-skip", "raises-exception"}


class Notebook:
    """One notebook, read once, with the views that the rules need."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells = nbformat.read(path, as_version=4).cells
        self.code = [cell for cell in self.cells if cell.cell_type == "code" and cell.source.strip()]
        self.text = [cell for cell in self.cells if cell.cell_type == "markdown"]

    @property
    def chapter(self) -> str:
        return self.path.stem.removesuffix(LAB)

    @property
    def is_lesson(self) -> bool:
        return self.path.stem not in PAGES and self.chapter == self.path.stem

    @property
    def shown(self) -> list[nbformat.NotebookNode]:
        return [cell for cell in self.code if not HIDDEN & set(cell.metadata.get("tags", []))]

    @property
    def outputs(self) -> list[nbformat.NotebookNode]:
        return [output for cell in self.code for output in cell.outputs]

    @property
    def sources(self) -> list[str]:
        """The code that a reader sees: cells, and what is printed of the library."""
        printed = [output.get("data", {}).get("text/markdown", "") for output in self.outputs]
        return [cell.source for cell in self.shown] + [text for text in printed if text.startswith("```python")]

    def tagged(self, tag: str) -> list[nbformat.NotebookNode]:
        return [cell for cell in self.code if tag in cell.metadata.get("tags", [])]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Notebook:
    return Notebook(request.param)


def test_the_book_lists_every_notebook_in_order_and_every_chapter_is_one_of_the_ten() -> None:
    listed = re.findall(r"file:\s*notebooks/(\S+)", (ROOT / "_toc.yml").read_text("utf-8"))
    parts = yaml.safe_load((ROOT / "book/chapters.yml").read_text("utf-8"))
    names = [chapter["name"] for part in parts for chapter in part["chapters"]]
    assert sorted(listed) == [path.stem for path in NOTEBOOKS] and len(names) == 10
    both = [page for name in names for page in (name, name + LAB)]
    assert [name for name in listed if name not in PAGES] == both and names == sorted(names)
    assert listed[0] == "00_quickstart" and listed.index("rooms_gallery") == listed.index("07_attribution") + 1


def test_executed_from_top_to_bottom_without_errors_and_at_most_a_megabyte(notebook: Notebook) -> None:
    assert [cell.execution_count for cell in notebook.code] == list(range(1, len(notebook.code) + 1))
    assert not [output.ename for output in notebook.outputs if output.output_type == "error"]
    assert notebook.path.stat().st_size <= 2_000_000  # figures are twice as sharp as a page shows them


def test_parameters_and_what_nbval_compares(notebook: Notebook) -> None:
    (cell,) = notebook.tagged("parameters")
    values = {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in ast.parse(cell.source).body
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    }
    assert {"scale", "seed", "recompute"} <= set(values) and (values["scale"], values["seed"]) == ("auto", 0)
    assert not notebook.tagged("injected-parameters"), "committed with other parameters than its own"
    # A mistyped scale must not run the long form.
    assert sum("scale = chapters.scale(scale)" in cell.source for cell in notebook.code) == 1
    fetching = [cell for cell in notebook.code if "study.fetch(" in cell.source]
    assert bool(fetching) == (notebook.path.stem not in PAGES)
    assert all("nbval-ignore-output" in cell.metadata.tags for cell in fetching)
    compared = [each for each in notebook.code if not UNCOMPARED & set(each.metadata.get("tags", []))]
    assert len(compared) >= len(notebook.code) / 3, f"{len(compared)} of {len(notebook.code)} cells are compared"
    assert any(cell.outputs for cell in compared), "what is compared prints nothing"
    trained = [each for each in compared if re.search(r"\brecompute\b", each.source) and each is not cell]
    assert not trained, f"nbval runs with recompute off:\n{trained[0].source}"
    kept = [each for each in notebook.tagged("nbval-ignore-output") if "recorded" not in each.metadata.tags]
    stale = [each.source for each in kept if re.search(r'caption=\(?\s*f?"Recorded', each.source)]
    assert not stale, f"a figure of records alone lacks the tag 'recorded':\n{stale[0]}"


def test_code_that_is_shown_neither_scrolls_sideways_nor_defines_long_functions(notebook: Notebook) -> None:
    """`ruff format` keeps the cells, but for long strings and comments; source of the library is printed as it is."""
    assert [line for source in notebook.sources for line in source.splitlines() if len(line) > 79] == []
    for node in (node for cell in notebook.code for node in ast.walk(ast.parse(cell.source))):
        long = isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 15
        assert not long, f"{node.name} belongs in the library"


def test_a_lesson_opens_with_its_answer_and_is_short(notebook: Notebook) -> None:
    if not notebook.is_lesson:
        return
    setup, parameters = notebook.code[:2]
    assert all("remove-cell" in cell.metadata.tags for cell in (setup, parameters)), "the first screen has no code"
    first = notebook.cells[0].source
    assert re.match(r"# .+: .+\n", first), "a title names the method, then says what it does"
    assert "**" in first and f"({notebook.chapter}{LAB}.ipynb)" in first
    opening, picture = f'report.opening("{notebook.chapter[3:]}")', r"figures\.show\(|flipbook\("
    (shown,) = (number for number, cell in enumerate(notebook.cells) if opening in cell.source)
    pictures = [number for number, cell in enumerate(notebook.cells) if re.search(picture, cell.source)]
    assert pictures[0] <= shown <= 6, "a picture, then the table, then all else"
    words = sum(len(cell.source.split()) for cell in notebook.text)
    lines = sum(len(source.splitlines()) for source in notebook.sources)
    assert words <= WORDS and lines <= LINES, f"{words} words and {lines} shown lines"


def test_what_plots_imports_and_reports_is_folded_away_and_claims_stand_once(notebook: Notebook) -> None:
    for cell in notebook.shown:
        assert not re.search(r"figures\.|flipbook\(|report\.|notebook\.provenance", cell.source), cell.source
        if notebook.path.stem != "00_quickstart":
            assert not re.match(r"(import|from) ", cell.source), cell.source
    assert sum("report.verdicts(" in cell.source for cell in notebook.code) == notebook.is_lesson
    assert not any("report.badge(" in cell.source for cell in notebook.code), "the opening counts the claims"
    text = "\n".join(cell.source for cell in notebook.text)
    exercises, gates = (re.findall(rf"{{{word}}}", text) for word in ("exercise", "solution-start"))
    closed = re.findall(r"{solution(?:-start)?} \S+\n:class: dropdown", text)
    assert len(closed) == len(exercises) == len(re.findall(r"{solution(?:-start)?}", text))
    assert text.count("{solution-end}") == len(gates)


def test_every_image_has_alt_text_and_no_output_needs_scripts_or_the_network(notebook: Notebook) -> None:
    for output in notebook.outputs:
        data = output.get("data", {})
        page = "".join(data.get("text/html", ""))
        for kind in data:
            assert "widget" not in kind and kind != "application/javascript"
            if kind.startswith("image/"):
                alt = output.metadata.get(kind, {}).get("alt", "")
                assert len(alt.split()) >= 4, f"an image says of itself only {alt!r}: use reuselib.report.figures.show"
        assert not re.search(r"<script|(?:src|href)=[\"']https?:", page)
        assert len(re.findall(r"<img\b", page)) == len(re.findall(r'<img\b[^>]*\balt="[^"]{12,}"', page))
    for cell in notebook.text:
        assert not re.search(r"!\[\s*\]\(", cell.source), "an image in the text has no alt text"


def test_no_output_was_made_with_changes_that_are_not_committed(notebook: Notebook) -> None:
    for output in notebook.outputs:
        assert "-dirty" not in str(output), "commit, then run it again"


def test_opens_with_one_title_the_link_to_colab_at_the_one_address_and_the_setup_cell(notebook: Notebook) -> None:
    titles = [line for cell in notebook.text for line in cell.source.splitlines() if line.startswith("# ")]
    assert notebook.cells[0].source.startswith("# ") and len(titles) == 1
    assert notebook.code[0].source.strip() == SETUP_CELL.strip()
    place = CONFIG["repository"]["url"].removeprefix("https://github.com/")
    blob = f"https://colab.research.google.com/github/{place}/blob/main/notebooks/{notebook.path.name}"
    links = re.findall(r"https://colab[^)\s]*", "\n".join(cell.source for cell in notebook.text))
    assert links == ([blob] if place else [])
    assert not place or blob in notebook.cells[0].source


def test_nbval_fails_where_a_result_changed_and_not_where_another_python_warns(tmp_path: Path) -> None:
    stored = [nbformat.v4.new_output("stream", name="stdout", text="1\n2\n")]
    scaled = 'scale = "auto"\nrecompute = True\nassert (scale, recompute) == ("laptop", False)'
    cells = []
    for number, line in enumerate(("import warnings; warnings.warn('new')", scaled, "print('more')"), 1):
        settings = {"outputs": stored, "execution_count": number, "metadata": {"tags": ["parameters"]}}
        cells.append(nbformat.v4.new_code_cell(f"print(1)\n{line}\nprint(2)", **settings))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "one.ipynb")
    shutil.copy(ROOT / "notebooks" / "conftest.py", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "--nbval-current-env", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "1 failed, 2 passed" in done.stdout and "FAILED one.ipynb::Cell 2" in done.stdout, done.stdout


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Path]:
    """Return the module book/execute.py, its notebooks a temporary folder."""
    pytest.importorskip("papermill")
    monkeypatch.syspath_prepend(str(ROOT / "book"))
    monkeypatch.delitem(sys.modules, "execute", raising=False)
    import execute as module

    monkeypatch.setattr(module, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    return module, tmp_path / "notebooks"


def small_notebook(path: Path, parameters: str, body: str) -> bytes:
    """Write a notebook of two cells; return its bytes."""
    cell = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell(body)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    return path.read_bytes()


def test_execute_replaces_only_what_ended_well(execute: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    module, folder = execute
    path, smoke = folder / "01_a.ipynb", folder.parent / "_build/smoke/01_a.ipynb"

    def refuse(*arguments: str, words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["execute.py", *arguments])
        with pytest.raises(SystemExit, match=words):
            module.main()

    small_notebook(path, 'scale = "auto"', "1")
    refuse(words="no parameter seed, recompute")
    refuse("02_b", words="No such chapter: 02_b. There are: 01_a")
    parameters = 'scale = "auto"\nseed = 0\nrecompute = False'
    before = small_notebook(path, parameters, 'print(scale)\nassert scale != "smoke"')
    refuse("--scale", "smoke", words="01_a failed; the notebook is as it was")
    assert path.read_bytes() == before and not smoke.exists()
    monkeypatch.setattr(sys, "argv", ["execute.py"])
    module.main()
    done = nbformat.read(path, as_version=4)
    assert done.cells[1].outputs[0].text == "laptop\n" and done.cells[0].source == parameters
    assert len(done.cells) == 2 and "papermill" not in done.metadata and "papermill" not in done.cells[0].metadata
    assert [entry.name for entry in folder.iterdir()] == ["01_a.ipynb"]
    before = small_notebook(path, parameters, "print(scale)")
    monkeypatch.setattr(sys, "argv", ["execute.py", "--scale", "smoke"])
    module.main()
    assert '"smoke\\n"' in smoke.read_text() and path.read_bytes() == before


def test_execute_shows_new_records_and_keeps_what_was_trained(
    execute: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, folder = execute
    path, parameters = folder / "01_a.ipynb", 'scale = "auto"\nseed = 0\nrecompute = True'
    small_notebook(path, parameters, "print(scale, recompute)")
    notebook = nbformat.read(path, as_version=4)
    trained = [nbformat.v4.new_output("stream", text="trained for an hour")]
    tags = {"tags": ["nbval-ignore-output"]}
    notebook.cells.append(nbformat.v4.new_code_cell("print(recompute)", outputs=trained, metadata=tags))
    tags = {"tags": ["nbval-ignore-output", "recorded"]}
    notebook.cells.append(nbformat.v4.new_code_cell("print('a figure')", outputs=trained, metadata=tags))
    nbformat.write(notebook, path)
    monkeypatch.setattr(sys, "argv", ["execute.py", "--records"])
    module.main()
    done = nbformat.read(path, as_version=4)
    assert [cell.source for cell in done.cells] == [cell.source for cell in notebook.cells]
    assert done.cells[1].outputs[0].text == "laptop False\n" and done.cells[2].outputs == trained
    assert done.cells[3].outputs[0].text == "a figure\n"


def test_execute_keeps_no_bar_that_showed_progress(execute: tuple[Any, Path]) -> None:
    bar, figure = "DFAD: 100%|████| 5/5 [00:01<00:00, 5.0update/s]", {"image/png": "", "text/plain": "50%| of it"}
    outputs = [nbformat.v4.new_output("display_data", each) for each in ({"text/plain": bar}, figure)]
    outputs += [nbformat.v4.new_output("stream", name="stderr", text=text) for text in (f"\n{bar}\n", "a warning")]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=outputs)])
    assert execute[0].tidy(notebook).cells[0].outputs == [outputs[1], outputs[3]]
