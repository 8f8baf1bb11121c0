"""The pages of the library, made from its own modules: one for what all papers share and one for each part of the book."""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
from importlib import import_module
from pathlib import Path

FOLDER = Path("book/api")
PAGES = {
    "foundations": ("Foundations", ("errors", "home", "report", "run", "data", "worlds", "nets", "chapters", "doctor")),
    "without_data": ("Without the data", ("dfad", "cmi", "one_stage_gan")),
    "few_samples": ("With a few samples", ("netgraft",)),
    "many_teachers": ("From many teachers", ("layerwise", "adaptive")),
    "which_network": ("Which network to reuse", ("attribution", "depara")),
    "unseen_classes": ("Beyond the seen classes", ("qfsl", "selective")),
}


def modules(room: str) -> list[str]:
    """Return a room and the modules in it."""
    name = f"reuselib.{room}"
    path = getattr(import_module(name), "__path__", None)
    inner = [] if path is None else [m.name for m in pkgutil.walk_packages(path, f"{name}.")]
    return [name, *(module for module in inner if not module.rpartition(".")[2].startswith("_"))]


def told_twice(module: str) -> list[str]:
    """Return fields whose default is a function: Sphinx would tell of them as a field and again as a method."""
    classes = [value for value in vars(import_module(module)).values() if dataclasses.is_dataclass(value)]
    fields = [field for each in classes if each.__module__ == module for field in dataclasses.fields(each)]
    return sorted({field.name for field in fields if inspect.isfunction(field.default)})


def section(module: str) -> str:
    """Return the part of a page that Sphinx fills with a module's docstrings; a package is introduced only."""
    members = "" if hasattr(import_module(module), "__path__") else "\n   :members:\n   :show-inheritance:"
    if members and (names := told_twice(module)):
        members += f"\n   :exclude-members: {', '.join(names)}"
    level = "##" if module.count(".") == 1 else "###"
    return f"{level} {module}\n\n```{{eval-rst}}\n.. automodule:: {module}{members}\n```"


def page(title: str, rooms: tuple[str, ...]) -> str:
    """Return the text of a page."""
    parts = [section(module) for room in rooms for module in modules(room)]
    return "\n\n".join([f"# {title}", *parts]) + "\n"


def pages() -> dict[Path, str]:
    """Return the text of every page, by its path from the repository's root."""
    return {FOLDER / f"{name}.md": page(title, rooms) for name, (title, rooms) in PAGES.items()}
