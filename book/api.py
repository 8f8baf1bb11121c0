"""The pages of the library, made from its modules: one for what all papers share, one for each part of the book."""

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
    """Return members that Sphinx would tell of twice, or that scikit-learn adds to its estimators."""
    found: set[str] = set()
    for each in vars(import_module(module)).values():
        if not inspect.isclass(each) or each.__module__ != module:
            continue
        found.update(name for name in dir(each) if name.startswith("set_") and name.endswith("_request"))
        found.update(getattr(each, "_fields", ()))
        if dataclasses.is_dataclass(each):
            found.update(field.name for field in dataclasses.fields(each) if inspect.isfunction(field.default))
    return sorted(found)


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
