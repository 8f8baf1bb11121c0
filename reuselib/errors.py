"""The errors of `reuselib`: each message says what is wrong and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class ReuseError(Exception):
    """Base of every error that this library raises on purpose."""


class UnknownName(ReuseError, KeyError):
    """A chapter, row, scale, model, data set or zoo entry that does not exist."""

    def __str__(self) -> str:
        """Return the message as written; `KeyError` alone would show its repr."""
        return str(self.args[0]) if self.args else ""


class DamagedFile(ReuseError):
    """A file that is there but is not what it should be.

    Args:
        path: The damaged file.
        reason: What is wrong, for example the expected and the found hash.
        fix: The command or the step that mends it.
    """

    def __init__(self, path: str | Path, reason: str, fix: str) -> None:
        """Keep the three parts; the message is made from them."""
        super().__init__(path, reason, fix)
        self.path, self.reason, self.fix = Path(path), reason, fix

    def __str__(self) -> str:
        """Return path, reason and fix as one message."""
        return f"{self.path} is damaged: {self.reason}. Fix: {self.fix}"


class MissingFile(ReuseError, FileNotFoundError):
    """A file that should be there and is not."""


class CannotWrite(ReuseError, OSError):
    """A file that cannot be written: no space, no right, or something else in its place."""


class BadValue(ReuseError, ValueError):
    """An argument that cannot be meant: a batch of -4, a learning rate of NaN."""


class ShapeMismatch(ReuseError, ValueError):
    """Networks, images or labels whose shapes or class counts do not fit together."""


class NonFinite(ReuseError, ArithmeticError):
    """A loss or a parameter became NaN or infinite."""


class DeviceError(ReuseError, RuntimeError):
    """The device asked for is absent or out of memory."""


class OldSchema(ReuseError, ValueError):
    """A record that another version of its schema wrote."""


def unknown(kind: str, name: str, options: Iterable[str]) -> UnknownName:
    """Make the error for a name that is not among `options`.

    Args:
        kind: What the name should have been, in words: "chapter", "row", "network".
        name: What the caller wrote.
        options: Every valid name.

    Returns:
        The error, to be raised by the caller; it names the nearest match and lists the options.
    """
    options = sorted(str(option) for option in options)
    nearest = difflib.get_close_matches(str(name), options, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return UnknownName(f"unknown {kind} {name!r}.{hint} Known: {', '.join(options) or 'none yet'}.")
