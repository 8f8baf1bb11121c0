"""What a method was asked to do, in words: so that a checkpoint of other settings is not taken for one's own."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, cached_property, partial
from itertools import chain
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from reuselib.errors import unknown

WHOLE = 2**24
"""Bytes up to which a tensor counts whole; of a larger one, evenly spaced rows do."""
PLAIN = (str, bytes, bool, Real, torch.dtype, type(None))
EMPTY, KEYWORD = inspect.Parameter.empty, inspect.Parameter.KEYWORD_ONLY
VARIOUS, OPTIONS = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
Pairs = Iterator[tuple[str, str]]


def resolved(kind: type, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a constructor by name, and those of all constructors that it passes some on to.

    Raises:
        UnknownName: there is no such option; the message gives the nearest.
        TypeError: an argument is missing, or given twice.
    """
    full, ends = signature(kind), _constructors(kind)[1]
    for name in options:
        if ends and name not in full.parameters:
            raise unknown(f"option of {kind.__name__}", name, full.parameters)
    bound = full.bind(*arguments, **options)
    bound.apply_defaults()
    various = {name: value for name, value in bound.arguments.items() if full.parameters[name].kind is OPTIONS}
    return {name: value for name, value in bound.arguments.items() if name not in various} | dict(*various.values())


@cache
def _constructors(kind: type) -> tuple[list[inspect.Signature], bool]:
    """The signatures of a constructor and of those that its options go on to, and whether they end there."""
    signatures = []
    for constructor in (vars(each)["__init__"] for each in kind.__mro__[:-1] if "__init__" in vars(each)):
        signatures.append(inspect.signature(constructor))
        if all(each.kind is not each.VAR_KEYWORD for each in signatures[-1].parameters.values()):
            return signatures, True
    return signatures, False


def signature(kind: type) -> inspect.Signature:
    """The signature of a constructor with the options that it passes on written out, as `help` and editors show it.

    The class's ``defaults`` are those that it passes on in place of the other constructors' own.
    """
    constructors = _constructors(kind)[0]
    if not constructors:
        return inspect.Signature()
    *later, first = constructors
    parameters = [parameter for name, parameter in first.parameters.items() if name != "self"]
    for each in reversed(later):
        own = [parameter for name, parameter in each.parameters.items() if name != "self"]
        names = {parameter.name for parameter in own}
        handed = [parameter for parameter in parameters if parameter.name not in names]
        optional = [parameter.replace(kind=KEYWORD) for parameter in handed if parameter.default is not EMPTY]
        others: dict[Any, list[inspect.Parameter]] = {}
        others |= {VARIOUS: [parameter for parameter in handed if parameter.default is EMPTY], OPTIONS: optional}
        parameters = [one for parameter in own for one in others.get(parameter.kind, [parameter])]
    usual = dict(getattr(kind, "defaults", {}))
    parameters = [each.replace(default=usual.get(each.name, each.default)) for each in parameters]
    return inspect.Signature(parameters)


def describe(value: Any, place: str = "", within: tuple[int, ...] = ()) -> Pairs:
    """Everything about a value that decides a result, but for a network's weights: pairs of a place and words.

    Devices are left out: a run may go on elsewhere.

    Args:
        value: an argument of a method, or whatever it holds.
        place: where it stands, for the reader.
        within: identities of what it stands in, which are not described again.
    """
    if isinstance(value, torch.device) or id(value) in within:
        return
    if isinstance(value, PLAIN):
        yield place, _plain(value)
    elif isinstance(value, list | tuple | range) and all(isinstance(each, PLAIN) for each in value):
        yield place, f"[{', '.join(map(_plain, value))}]"
    elif isinstance(value, Tensor | torch.Generator):
        yield place, _tensor(value if isinstance(value, Tensor) else value.get_state())
    elif isinstance(value, nn.Module):
        yield from _network(value, place)
    elif hasattr(value, "described"):
        yield from ((f"{place}.{name}", words) for name, words in value.described.items())
    else:
        kind, parts = _parts(value)
        if kind:
            yield place, kind
        for name, part in parts:
            yield from describe(part, f"{place}.{name}" if place else str(name), (*within, id(value)))


def _plain(value: Any) -> str:
    if isinstance(value, Real) and not isinstance(value, bool | Integral):
        value = int(float(value)) if float(value).is_integer() else float(value)  # 1 and 1.0 decide the same
    return str(int(value)) if isinstance(value, Integral) and not isinstance(value, bool) else repr(value)


def _tensor(value: Tensor) -> str:
    words = f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if value.is_meta:
        return words
    if value.nbytes > WHOLE:
        value = value[:: max(1, len(value) // 32)]
    return f"{words} {hashlib.sha256(content_of(value)).hexdigest()[:12]}"


def content_of(value: Tensor) -> bytes:
    """The bytes of a tensor's values."""
    return value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _network(network: nn.Module, place: str) -> Pairs:
    for name, module in network.named_modules(prefix=place):
        yield name, re.sub(" at 0x[0-9a-f]+", "", f"{type(module).__name__}({module.extra_repr()})")
    for name, value in chain(network.named_parameters(place), network.named_buffers(place)):
        yield name, f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def _parts(value: Any) -> tuple[str, Iterable[tuple[Any, Any]]]:
    """What kind of thing a value is, where that matters, and what it is made of."""
    if isinstance(value, Mapping):
        return "", value.items()
    if isinstance(value, list | tuple):
        return "", enumerate(value)
    kind = type(value)
    if isinstance(value, Optimizer):
        return kind.__name__, enumerate(value.state_dict()["param_groups"])
    if isinstance(value, np.ndarray):
        return "", [("array", hashlib.sha256(value.tobytes()).hexdigest()[:12])]
    if isinstance(value, partial):
        return "", {"": value.func, "arguments": value.args, **value.keywords}.items()
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}", _function(value)
    names = [f.name for f in fields(value)] if is_dataclass(value) else list(getattr(value, "__dict__", {}))
    lasting = [n for n in names if not isinstance(getattr(kind, n, None), cached_property) and not n.startswith("_")]
    return kind.__qualname__, [(name, getattr(value, name)) for name in lasting]


def _function(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    """What a function was made with: the object it belongs to, its defaults, numbers and enclosed values."""
    code = getattr(function, "__code__", None)
    cells = zip(code.co_freevars, getattr(function, "__closure__", None) or (), strict=True) if code else ()
    made = {"of": getattr(function, "__self__", None), "defaults": getattr(function, "__defaults__", None)}
    made["numbers"] = [each for each in code.co_consts if isinstance(each, Real)] or None if code else None
    made |= {name: cell.cell_contents for name, cell in cells}
    return [(name, value) for name, value in made.items() if value is not None]
