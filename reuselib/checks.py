"""Numbers and names checked at the door: one that cannot be meant is refused, with what may be given instead."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sized
from numbers import Integral, Real
from typing import Any

from reuselib.errors import BadValue, unknown

SEEDS = 2**63 - 1
"""The largest seed that every generator takes."""


def whole(minimum: int = 1, maximum: int | None = None, **values: Any) -> None:
    """Refuse what is no whole number in a range; ``whole(batch=batch)``, ``whole(0, SEEDS, seed=seed)``.

    Args:
        minimum: the least that is allowed.
        maximum: the most that is allowed.
        values: by the names that callers know them by.

    Raises:
        BadValue: one is no whole number, or outside.
    """
    bounds = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    for name, value in values.items():
        fits = isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= minimum
        if not fits or (maximum is not None and int(value) > maximum):
            raise BadValue(f"{name} must be a whole number {bounds}, not {value!r}.")


def known(kind: str, options: Collection[Any], *names: Any) -> None:
    """Refuse names that are not among the options; ``known("task", TASKS, name)``.

    Args:
        kind: what they should be, in words.
        options: all that there are.
        names: what the caller wrote.

    Raises:
        UnknownName: one is not there; it says the nearest, and the options.
    """
    for name in names:
        if name not in options:
            raise unknown(kind, name, options)


def some(kind: type[Sized], **values: Any) -> None:
    """Refuse what is of another kind, or empty; ``some(ImageSet, images=images)``.

    Args:
        kind: that it must be of.
        values: by the names that callers know them by.

    Raises:
        BadValue: one is of another kind, or has nothing in it.
    """
    for name, value in values.items():
        if not isinstance(value, kind) or not len(value):
            found = type(value).__name__ if not isinstance(value, kind) else "an empty one"
            raise BadValue(f"{name} must be {kind.__name__} with something in it, not {found}.")


def number(low: float = 0.0, high: float = math.inf, *, above: bool = False, **values: Any) -> None:
    """Refuse what is no finite number in a range; ``number(above=True, lr=lr)``, ``number(0, 1, share=share)``.

    Args:
        low: the least that is allowed.
        high: the most that is allowed.
        above: whether ``low`` itself is refused too.
        values: by the names that callers know them by.

    Raises:
        BadValue: one is no number, not finite, or outside.
    """
    least = f"above {low:g}" if above else f"of at least {low:g}"
    bounds = "" if low == -math.inf else f" {least}" if high == math.inf else f" {least} and at most {high:g}"
    for name, value in values.items():
        real = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if not real or value < low or value > high or (above and value == low):
            raise BadValue(f"{name} must be a finite number{bounds}, not {value!r}.")


def sizes(**values: Any) -> None:
    """Refuse sizes, or anything made of sizes, that are no whole numbers from 1 on; ``sizes(widths=(8, 16), count=4)``.

    Args:
        values: by the names that callers know them by; an ``image`` is (channels, height, width).

    Raises:
        BadValue: one is no whole number, or below 1, or there is none.
    """
    for name, value in values.items():
        leaves = list(_leaves(value))
        if name == "image" and len(leaves) != 3:
            raise BadValue(f"image must be (channels, height, width), not {value!r}.")
        if not leaves and isinstance(value, list | tuple):
            raise BadValue(f"{name} must hold at least one number, not {value!r}.")
        for leaf in leaves:
            whole(**{name: leaf})


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(each)
    else:
        yield value
