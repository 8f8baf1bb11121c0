"""Tell of every argument of a method or a function where it is documented, also of those that it hands on.

The library says each once: where it is taken. What a subclass does not say again, or says by "as in", is told in the
words of the nearest class above it. Options "of :func:`x`" are those of x that have a default and are not set where
they are handed on; "``a`` and ``b`` of :func:`x`" are these two.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from functools import reduce
from importlib import import_module
from inspect import Parameter
from typing import Any, get_type_hints

from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature

from reuselib.run import Method

HEAD = re.compile(r"(?ms)^Args:\n(.*?)(?=^\S|\Z)")
ENTRY = re.compile(r"(?ms)^ {4}(\w+): (.*?)(?=^ {4}\w+: |\Z)")
HANDED = re.compile(r"((?:``\w+``(?:,| and)? )*)(?:of|those of) :(?:func|class):`~?([\w.]+)`")
FOREIGN = re.compile(r"\(\*args(: Any)?, \*\*kwargs(: Any)?\)")
"""The signature of a class that is never built, or that says nothing of how."""


# --- what is said -----------------------------------------------------------------------------------------------------


def told(thing: Any) -> dict[str, str]:
    """Return what a class or a function itself says of its arguments, by name."""
    found = HEAD.search(inspect.cleandoc(thing.__doc__ or ""))
    return {name: text.rstrip() for name, text in ENTRY.findall(found[1])} if found else {}


def every(thing: Any) -> dict[str, str]:
    """Return what is said of each argument in a signature: by the thing, the classes above it, or where it is taken."""
    texts = [told(each) for each in (thing.__mro__ if is_method(thing) else [thing])]
    names = inspect.signature(thing).parameters
    said = {name: [text[name] for text in texts if name in text] for name in names}
    own = {name: [text for text in each if not text.startswith("as in ")] for name, each in said.items()}
    words = {name: each[0] for name, each in own.items() if each}
    taken = handed(thing)
    return {name: text for name, text in words.items() if not taken or name != options_of(thing)} | {
        name: every(giver)[name] for name, (giver, _) in taken.items() if name in every(giver)
    }


# --- what is handed on ------------------------------------------------------------------------------------------------


def options_of(thing: Any) -> str:
    """Return the name under which a thing takes any options, or an empty one."""
    names = [each.name for each in inspect.signature(thing).parameters.values() if each.kind is Parameter.VAR_KEYWORD]
    return names[0] if names else ""


def handed(thing: Any) -> dict[str, tuple[Any, Parameter]]:
    """Return the options that a thing hands on by name: who takes it, and how it stands in a signature."""
    options = options_of(thing)
    if not options or options not in told(thing):
        return {}
    fixed, usual = given(thing.__init__ if isinstance(thing, type) else thing, options)
    fixed |= {*inspect.signature(thing).parameters}
    found: dict[str, tuple[Any, Parameter]] = {}
    for wanted, place in HANDED.findall(" ".join(told(thing)[options].split())):
        taker, only = resolved(place, thing), re.findall(r"\w+", wanted)
        for each in parameters(taker):
            if each.default is not Parameter.empty and each.name in (only or [each.name]) and each.name not in fixed:
                one = each.replace(kind=Parameter.KEYWORD_ONLY, default=usual.get(each.name, each.default))
                found.setdefault(each.name, (taker, one))
    return found


def resolved(place: str, thing: Any) -> Any:
    """Return what a name in a docstring leads to: from the module that it stands in, or from the whole."""
    module, _, name = place.rpartition(".")
    return getattr(import_module(module), name) if module else vars(sys.modules[thing.__module__])[name]


def given(function: Any, options: str) -> tuple[set[str], dict[str, Any]]:
    """Return what a function sets itself where it hands options on, and the defaults that it puts before them."""
    fixed, usual = {"self"}, {}
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        spread = [each.value for each in node.keywords if each.arg is None] if isinstance(node, ast.Call) else []
        if any(isinstance(each, ast.Name) and each.id == options for part in spread for each in ast.walk(part)):
            fixed |= {each.arg for each in node.keywords if each.arg}
            befores = [part.left for part in spread if isinstance(part, ast.BinOp)]
            usual |= reduce(dict.__or__, map(ast.literal_eval, befores), {})
    return fixed, usual


# --- what is shown ----------------------------------------------------------------------------------------------------


def is_method(thing: Any) -> bool:
    """Say whether a thing is a method that one can build."""
    return isinstance(thing, type) and issubclass(thing, Method) and thing is not Method


def types(thing: Any) -> dict[str, Any]:
    """Return the types of a thing's arguments, read in the modules of the classes that take them."""
    kinds = reversed(thing.__mro__[:-1]) if isinstance(thing, type) else ()
    makers = [vars(each)["__init__"] for each in kinds if "__init__" in vars(each)] or [thing]
    return {name: hint for maker in makers for name, hint in get_type_hints(maker).items()}


class Named:
    """A default that is written by its name, as in the code."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


def parameters(thing: Any) -> list[Parameter]:
    """Return the parameters of a thing, and of those that take its options: with types, and defaults by name."""
    hints = types(thing) if thing.__module__.startswith("reuselib") else {}
    spaces = [vars(sys.modules[each.__module__]) for each in (thing.__mro__[:-1] if is_method(thing) else [thing])]
    names = {id(value): name for space in spaces for name, value in space.items() if name.isupper()}
    found = []
    for each in inspect.signature(thing).parameters.values():
        default = each.default
        named = default.__name__ if inspect.isfunction(default) else names.get(id(default))
        usual = default if named is None or isinstance(default, str | float | None) else Named(named)
        found.append(each.replace(annotation=hints.get(each.name, each.annotation), default=usual))
    if taken := [one for _, one in handed(thing).values()]:
        found = [each for each in found if each.kind is not Parameter.VAR_KEYWORD] + taken
    return found


def tell(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Put all arguments in the place of those that a thing's own docstring has."""
    if not is_method(thing) and not (inspect.isfunction(thing) and handed(thing)):
        return
    text = "\n".join(lines)
    entries = "\n".join(f"    {argument}: {words}" for argument, words in every(thing).items())
    block = f"Args:\n{entries}\n\n"
    lines[:] = (HEAD.sub(lambda _: block, text) if HEAD.search(text) else f"{text}\n\n{block}").split("\n")


def sign(app: Sphinx, what: str, name: str, thing: Any, options: Any, arguments: str, returns: str) -> Any:
    """Write a signature with its types, where the library keeps their names, and its defaults by name."""
    if arguments and FOREIGN.fullmatch(arguments):
        return "", returns
    if not is_method(thing) and not (inspect.isfunction(thing) and handed(thing)):
        return None
    shown = [each for each in parameters(thing) if each.name != "self"]
    return stringify_signature(inspect.Signature(shown), unqualified_typehints=True), returns


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the handler with Sphinx, before docstrings are made into fields."""
    app.connect("autodoc-process-docstring", tell, priority=400)
    app.connect("autodoc-process-signature", sign)
    return {"version": "1", "parallel_read_safe": True}
