"""Reuse trained networks: distil, invert, graft, merge and compare them.

Submodules load on first use, so that `import reuselib` stays fast and does not import torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.util import find_spec
from types import ModuleType

__version__ = "0.1.0"


def __getattr__(name: str) -> ModuleType:
    """Import the submodule `name` when it is first asked for (PEP 562)."""
    if name.startswith("_") or find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    """List the submodules beside what is already loaded."""
    return sorted({*globals(), *(module.name for module in pkgutil.iter_modules(__path__))})
