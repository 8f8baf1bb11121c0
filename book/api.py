"""The pages of the library, made from its modules: one for each room, one for the command line, and what lists them."""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click

from reuselib.cli import main

FOLDER = Path("book/api")
SHARED = ("errors", "home", "report", "run", "data", "worlds", "nets", "chapters", "doctor")
PAPERS = ("dfad", "cmi", "one_stage_gan", "netgraft", "layerwise")
PAPERS += ("adaptive", "attribution", "depara", "qfsl", "selective")
INDEX = """# API reference

A method is a class whose `step()` does one update. {{func}}`reuselib.run.run` drives it, shows its progress, writes
checkpoints, and goes on where it was cut off. The {{doc}}`../../notebooks/00_quickstart` shows it with a network of
your own, and what a user meets first has an example on its page that runs as it stands. `import reuselib` is quick: its
modules, and torch with them, load when they are first used. From a terminal: {{doc}}`command_line`.

## The papers

One room a paper: `losses` holds its equations, `method` the procedure, `rivals` what it is compared with, `study` what
the chapter's tables need.

{papers}

## What they share

Nothing imports what stands below it in this table.

{shared}
"""


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
    name = module.removeprefix("reuselib.")
    title = f"# reuselib.{name}" if "." not in name else f"## {name}"
    return f"{title}\n\n```{{eval-rst}}\n.. automodule:: {module}{members}\n```"


def table(rooms: tuple[str, ...]) -> str:
    """Return a table of rooms with the first line of what each says of itself."""
    said = (inspect.getdoc(import_module(f"reuselib.{room}")) or "" for room in rooms)
    lines = [f"| {{doc}}`{room}` | {text.splitlines()[0]} |" for room, text in zip(rooms, said, strict=True)]
    return "\n".join(["| Room | What it holds |", "|---|---|", *lines])


def helps(command: click.Command, name: str) -> Iterator[str]:
    """Give the help of a command and of those in it, as the terminal shows it, each under a heading."""
    shown = command.get_help(click.Context(command, info_name=name, max_content_width=79, terminal_width=79))
    yield f"## {name}\n\n```text\n{shown}\n```"
    for inner in getattr(command, "commands", {}).values():
        yield from helps(inner, f"{name} {inner.name}")


def pages() -> dict[Path, str]:
    """Return the text of every page, by its path from the repository's root."""
    texts = {room: "\n\n".join(map(section, modules(room))) + "\n" for room in SHARED + PAPERS}
    texts["index"] = INDEX.format(papers=table(PAPERS), shared=table(SHARED))
    texts["command_line"] = "\n\n".join(["# The command line", *helps(main, "reuselib")]) + "\n"
    return {FOLDER / f"{name}.md": text for name, text in texts.items()}
