"""Sets that `reuselib.worlds` renders, found by name when they are asked for: worlds know data, data knows no world."""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any


def rendered(name: str) -> Callable[..., Any]:
    """Stand for a function below `reuselib.worlds`, for example "shapes:load"."""
    return lambda *arguments, **options: resolve_name(f"reuselib.worlds.{name}")(*arguments, **options)
