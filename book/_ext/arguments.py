"""Tell of every argument of a method where the method is documented, also of those that it hands on to its base class.

The library says each once: in the class that takes it. What a subclass does not say again, or says by "as in", is told
in the words of the nearest class above it.
"""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any, get_type_hints

from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature

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


def types(kind: type) -> dict[str, Any]:
    """Return the types of a class's arguments, read in the modules of the classes that take them."""
    makers = [vars(each)["__init__"] for each in reversed(kind.__mro__[:-1]) if "__init__" in vars(each)]
    return {name: hint for maker in makers for name, hint in get_type_hints(maker).items()}


class Named:
    """A default that is written by its name, as in the code."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


def sign(app: Sphinx, what: str, name: str, thing: Any, options: Any, arguments: str, returns: str) -> Any:
    """Write a method's signature with its types, where the library keeps their names, and its defaults by name."""
    if not isinstance(thing, type) or not issubclass(thing, Method) or thing is Method:
        return None
    found, hints = inspect.signature(thing), types(thing)
    spaces = [vars(sys.modules[each.__module__]) for each in thing.__mro__[:-1]]
    names = {id(value): name for space in spaces for name, value in space.items() if name.isupper()}
    parameters = []
    for each in found.parameters.values():
        default = each.default
        named = default.__name__ if inspect.isfunction(default) else names.get(id(default))
        usual = default if named is None or isinstance(default, str | float | None) else Named(named)
        parameters.append(each.replace(annotation=hints.get(each.name, each.annotation), default=usual))
    return stringify_signature(found.replace(parameters=parameters), unqualified_typehints=True), returns


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the handler with Sphinx, before docstrings are made into fields."""
    app.connect("autodoc-process-docstring", tell, priority=400)
    app.connect("autodoc-process-signature", sign)
    return {"version": "1", "parallel_read_safe": True}
