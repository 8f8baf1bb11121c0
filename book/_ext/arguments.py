"""Tell of every argument of a method where the method is documented, also of those that it hands on to its base class.

The library says each once: in the class that takes it. What a subclass does not say again, or says by "as in", is told
in the words of the nearest class above it.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from sphinx.application import Sphinx

from reuselib.run import Method

HEAD = re.compile(r"(?ms)^Args:\n(.*?)(?=^\S|\Z)")
ENTRY = re.compile(r"(?ms)^ {4}(\w+): (.*?)(?=^ {4}\w+: |\Z)")


def told(kind: type) -> dict[str, str]:
    """Return what a class itself says of its arguments, by name."""
    found = HEAD.search(inspect.cleandoc(vars(kind).get("__doc__") or ""))
    return {name: text.rstrip() for name, text in ENTRY.findall(found[1])} if found else {}


def every(kind: type) -> dict[str, str]:
    """Return what is said of each argument in a class's signature, by it or by the classes above it."""
    texts = [told(each) for each in kind.__mro__]
    names = inspect.signature(kind).parameters
    said = {name: [text[name] for text in texts if name in text] for name in names}
    own = {name: [text for text in each if not text.startswith("as in ")] for name, each in said.items()}
    return {name: each[0] for name, each in own.items() if each}


def tell(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Put all arguments of a method in the place of those that its own docstring has."""
    if what != "class" or not isinstance(thing, type) or not issubclass(thing, Method) or thing is Method:
        return
    text = "\n".join(lines)
    entries = "\n".join(f"    {argument}: {words}" for argument, words in every(thing).items())
    block = f"Args:\n{entries}\n\n"
    lines[:] = (HEAD.sub(lambda _: block, text) if HEAD.search(text) else f"{text}\n\n{block}").split("\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the handler with Sphinx, before docstrings are made into fields."""
    app.connect("autodoc-process-docstring", tell, priority=400)
    return {"version": "1", "parallel_read_safe": True}
