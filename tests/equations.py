"""The equation shown is the equation trained: which function owns a chapter's equation, and whether a run calls it."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import reuselib

NOTEBOOKS = Path(reuselib.__file__).parents[1] / "notebooks"


def labels(paper: str) -> list[str]:
    """The labels of the numbered equations of a chapter, of its lesson and of its lab, in order."""
    pages = sorted(NOTEBOOKS.glob(f"[0-9][0-9]_{paper}*.ipynb"))
    cells = [cell for page in pages for cell in json.loads(page.read_text("utf-8"))["cells"]]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.findall(r"\$\$\s*\(([\w-]+)\)", text)


@cache
def owners() -> dict[str, list[Callable[..., Any]]]:
    """Label → the functions and methods of the library whose docstring says ``Equation: `label`.``"""
    found: dict[str, list[Callable[..., Any]]] = {}
    for module in pkgutil.walk_packages(reuselib.__path__, "reuselib."):
        for function in _functions(importlib.import_module(module.name)):
            line = re.search(r"^\s*Equation: (.+)$", function.__doc__ or "", re.MULTILINE)
            for label in re.findall(r"`([\w-]+)`", line[1]) if line else ():
                found.setdefault(label, []).append(function)
    return found


def _functions(module: Any) -> Iterator[Callable[..., Any]]:
    for value in vars(module).values():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        members = vars(value).values() if inspect.isclass(value) else [value]
        for member in members:
            member = inspect.unwrap(getattr(member, "__func__", getattr(member, "fget", member)))
            if inspect.isfunction(member) and member.__qualname__.startswith(value.__qualname__):
                yield member


@contextmanager
def calls() -> Iterator[set[CodeType]]:
    """Watch which Python functions are called."""
    seen: set[CodeType] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            seen.add(frame.f_code)

    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(None)


def check(paper: str, work: Callable[[], object]) -> None:
    """Fail unless each label of a chapter has one owner, and ``work`` calls all of them.

    Args:
        paper: such as "dfad".
        work: runs what is recorded: steps of the methods, or short rows.
    """
    wanted = labels(paper)
    assert wanted and len(set(wanted)) == len(wanted)
    found = {label: owners().get(label, []) for label in wanted}
    assert {label: functions for label, functions in found.items() if len(functions) != 1} == {}
    with calls() as seen:
        work()
    idle = [f"{label}: {each.__qualname__}" for label, (each,) in found.items() if each.__code__ not in seen]
    assert not idle, f"shown, but not on the path of a recorded run: {idle}"
