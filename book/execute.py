"""Run the chapters' notebooks with papermill; one is replaced only by a run of it that ended well.

python book/execute.py                         every notebook, as committed (laptop scale on any machine), in place
python book/execute.py 01_dfad                 one of them
python book/execute.py --records 10_selective  after new records: nothing is trained, what was trained and shown stays
python book/execute.py --scale smoke           another scale: written to _build/smoke, nothing is replaced

Two run at once, each on one core, where there are two cores.
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nbformat
import papermill

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
PARAMETERS = ("scale", "seed", "recompute")
AUTO, LAPTOP = 'scale = "auto"', 'scale = "laptop"'
"""What a notebook says of its scale, and what is run in its place: what is committed must not hang on a card."""
TRAIN, ONLY_SHOW = "recompute = True", "recompute = False"
LIVE, RECORDED = "nbval-ignore-output", "recorded"
"""Tags: of cells whose output hangs on what was trained, and of those among them that show records alone."""


def chosen(names: list[str]) -> list[Path]:
    """Return the notebooks of those names, or all, sorted by name."""
    every = {path.stem: path for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    if not every:
        sys.exit(f"There is no notebook in {NOTEBOOKS}.")
    missing = [name for name in names if name not in every]
    if missing:
        sys.exit(f"No such chapter: {', '.join(missing)}. There are: {', '.join(every)}.")
    return [every[name] for name in names] or list(every.values())


def defaults(path: Path) -> dict[str, str]:
    """Return the parameters as the notebook writes them; papermill alone only warns of unknown ones."""
    found = {name: entry["default"] for name, entry in papermill.inspect_notebook(str(path)).items()}
    missing = [name for name in PARAMETERS if name not in found]
    if missing:
        sys.exit(f"{path.name} has no parameter {', '.join(missing)}. Fix: set it in the cell tagged 'parameters'.")
    return found


def changes(path: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return those of the wanted parameters that differ from the notebook's own, whose "auto" is run as "laptop"."""
    own = defaults(path)
    own["scale"] = own["scale"].replace("auto", "laptop")
    return {name: value for name, value in wanted.items() if own[name].strip("\"'") != str(value)}


def with_line(notebook: nbformat.NotebookNode, old: str, new: str) -> nbformat.NotebookNode:
    """Put one line for another in the cell of parameters."""
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source = cell.source.replace(old, new)
    return notebook


def is_bar(output: nbformat.NotebookNode) -> bool:
    """Say whether an output is a bar that shows progress, and nothing else."""
    text = output.text if output.get("name") == "stderr" else output.get("data", {}).get("text/plain", "")
    lines = [] if len(output.get("data", ())) > 1 else text.splitlines()
    return bool(lines) and all(re.search(r"\d+%\|", line) or not line.strip() for line in lines)


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove what a run leaves beside its outputs: bars, timings, paths and empty tags."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_bar(output)]
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
    return notebook


def refreshed(old: nbformat.NotebookNode, new: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a notebook with the outputs of a run that trained nothing, where these do not hang on what is trained."""
    for cell, other in zip(old.cells, new.cells, strict=True):
        tags = cell.metadata.get("tags", ())
        if cell.cell_type == "code" and (LIVE not in tags or RECORDED in tags):
            cell.outputs = other.outputs
    return old


def execute(path: Path, target: Path, parameters: dict[str, Any], bar: bool, records: bool) -> float:
    """Run one notebook, put the result at `target` in one step and return the seconds it took.

    Args:
        path: of the notebook.
        target: of the result.
        parameters: that differ from the notebook's own.
        bar: whether to show how far it is.
        records: whether to train nothing, and to replace only what does not hang on it.

    Raises:
        RuntimeError: a cell failed, with what it said; `target` is as it was.
    """
    began = time.monotonic()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".part.{target.stem}.json")  # no page of the book, should this process be killed
    before = nbformat.read(path, as_version=4)
    stored = copy.deepcopy(before)
    auto = any(AUTO in cell.source for cell in before.cells)
    options: dict[str, Any] = {"cwd": str(path.parent), "kernel_name": "python3", "coalesce_streams": True}
    try:
        before = with_line(before, AUTO, LAPTOP)
        nbformat.write(with_line(before, TRAIN, ONLY_SHOW) if records else before, part)
        done = papermill.execute_notebook(str(part), None, parameters, progress_bar=bar, **options)
        done = refreshed(stored, tidy(done)) if records else tidy(with_line(done, LAPTOP, AUTO) if auto else done)
        nbformat.write(done, part)
        os.replace(part, target)
    except papermill.PapermillExecutionError as error:  # which does not pass from process to process
        raise RuntimeError(f"{error}\n{path.stem} failed; the notebook is as it was.") from None
    finally:
        part.unlink(missing_ok=True)
    return time.monotonic() - began


def main() -> None:
    """Run the chapters that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="chapter", help="such as 01_dfad; all of them when left out")
    parser.add_argument("--scale", default="laptop", choices=["smoke", "laptop", "colab", "paper"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", type=Path, help="folder for the results instead of the place named above")
    parser.add_argument("--records", action="store_true", help="train nothing: show new records, keep what was trained")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="notebooks at once")
    options = parser.parse_args()
    if options.records and (options.scale != "laptop" or options.seed):
        parser.error("--records shows what is committed: the laptop scale, seed 0")
    notebooks, waiting = chosen(options.names), {}
    if options.jobs > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.scale == "smoke":  # nobody looks at its pictures
        os.environ.setdefault("REUSELIB_DRAFT", "1")
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for path in notebooks:
            parameters = changes(path, {"scale": options.scale, "seed": options.seed})
            folder = options.to or (ROOT / "_build" / options.scale if parameters else NOTEBOOKS)
            arguments = path, folder.resolve() / path.name, parameters, len(notebooks) == 1, options.records
            waiting[pool.submit(execute, *arguments)] = folder / path.name
        print(f"{len(notebooks)} notebooks, {options.scale} scale, seed {options.seed}", flush=True)
        for number, done in enumerate(as_completed(waiting), start=1):
            try:
                seconds = done.result()
            except RuntimeError as error:
                pool.shutdown(wait=False, cancel_futures=True)
                sys.exit(str(error))
            print(f"[{number}/{len(notebooks)}] {seconds:.0f} s, written to {waiting[done]}", flush=True)


if __name__ == "__main__":
    main()
