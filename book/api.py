"""The pages of the library, made from its modules: one a package, one for the command line, and what lists them."""

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
LEFT_OFF = {
    *("job", "study", "attribution.found", "attribution.larger", "attribution.learning"),
    *("attribution.ordinal", "attribution.rooms_zoo", "adaptive.pools", "depara.domains", "depara.layers"),
    *("dfad.segmentation", "one_stage_gan.checks", "qfsl.samples", "qfsl.tasks"),
    *("data.fetching", "data.files", "data.rendered", "nets.blank", "nets.imitation", "nets.layers", "nets.recipes"),
    *("nets.pretrained", "run.described"),
    *("report.answer_sheet", "report.chart", "report.page", "report.pictures", "report.theme"),
    *("worlds.attributes.drawing", "worlds.rooms.draws", "worlds.rooms.labels", "worlds.rooms.render"),
}
"""Modules that no page tells of, some by their last name in every paper's room: they make the chapters' tables, or
serve other modules alone."""
INDEX = """# API reference

A method is a class whose `step()` does one update. {{func}}`reuselib.run.run` drives it, shows its progress, writes
checkpoints, and goes on where it was cut off. The {{doc}}`../../notebooks/00_quickstart` shows it with a network of
your own, and what a user meets first has an example on its page that runs as it stands. `import reuselib` is quick: its
modules, and torch with them, load when they are first used. From a terminal: {{doc}}`command_line`.

## The papers

One room a paper: `losses` holds its equations, `method` the procedure, `rivals` what it is compared with. What makes
the chapter's tables (`study`, `job` and what only these use) is not on these pages; its source says what it does.

{papers}

## What they share

Nothing imports what stands below it in this table.

{shared}
"""
COMMANDS = """# The command line

What one types most, and what one is told. Chapters go by the names that `reuselib list` gives; all commands and their
options follow below.

```bash
reuselib list --verdicts
```

The ten chapters, each with its paper, how many runs are recorded, and how many of its claims hold, hold in part, are
open or fail.

```bash
reuselib predict dfad --scale colab
```

What all rows of the chapter would cost with one seed, on a T4 and on an A100, and how far off such a prediction was
where it could be set beside measured times.

```bash
reuselib fetch dfad --scale colab --rows mnist-dfad
```

Brings the image sets and networks that the row reads. Says what is fetched, how large it is and where it is kept; what
cannot be had is named with the way to mend that.

```bash
reuselib run dfad --rows fashion-dfad --seeds 0 --dry-run
```

How many runs are recorded already, how many would run and for how long. Without `--dry-run` it runs them with a bar,
adds a record each, and goes on where it was cut off; what is recorded is skipped unless you say `--again`.

```bash
reuselib verdicts dfad
```

Every claim in words, whether it holds, and below it each condition: what was compared, by what margin, what was found
with its 95 % interval and the number of seeds, and whether it is met.

```bash
reuselib choose qfsl --scale colab --rows cifar-eszsl
```

The options that the methods of these rows get, chosen without a look at the test images."""


def modules(name: str) -> list[list[str]]:
    """Return a package and the modules in it, a page's worth; and then the same of each package within it."""
    name = f"reuselib.{name}"
    inner = list(pkgutil.iter_modules(getattr(import_module(name), "__path__", ()), f"{name}."))
    own = [name, *(each.name for each in inner if not each.ispkg and shown(each.name))]
    return [own, *(page for each in inner if each.ispkg for page in modules(each.name.removeprefix("reuselib.")))]


def shown(module: str) -> bool:
    """Say whether a page tells of a module."""
    name, last = module.removeprefix("reuselib."), module.rpartition(".")[2]
    internal = name in LEFT_OFF or name.partition(".")[0] in PAPERS and last in LEFT_OFF
    return not internal and not last.startswith("_")


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


def section(module: str, first: bool) -> str:
    """Return the part of a page that Sphinx fills with a module's docstrings; a package is introduced only."""
    members = "" if hasattr(import_module(module), "__path__") else "\n   :members:\n   :show-inheritance:"
    if members and (names := told_twice(module)):
        members += f"\n   :exclude-members: {', '.join(names)}"
    name = module.removeprefix("reuselib.")
    title = f"# reuselib.{name}" if first else f"## {name}"
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
    texts: dict[str, str] = {}
    for first, *rest in (page for room in SHARED + PAPERS for page in modules(room)):
        parts = [section(first, True), *(section(module, False) for module in rest)]
        texts[first.removeprefix("reuselib.").replace(".", "_")] = "\n\n".join(parts) + "\n"
    texts["index"] = INDEX.format(papers=table(PAPERS), shared=table(SHARED))
    texts["command_line"] = "\n\n".join([COMMANDS, *helps(main, "reuselib")]) + "\n"
    return {FOLDER / f"{name}.md": text for name, text in texts.items()}
