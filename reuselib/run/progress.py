"""A progress bar with the time that is left: tqdm in a terminal, one updating line of text in a notebook."""

from __future__ import annotations

import logging
import sys
from typing import Any

from tqdm import tqdm


def _notebook_display() -> Any | None:
    """A display handle where a notebook is running this, else ``None``."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None or type(shell).__name__ != "ZMQInteractiveShell":
        return None
    from IPython.display import display

    return display({"text/plain": ""}, raw=True, display_id=True)


class Progress(tqdm):
    """tqdm that, in a notebook, rewrites one line instead of sending carriage returns that would be stored."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._handle = None if options.get("disable") else _notebook_display()
        if self._handle:
            options["ncols"] = 100
        super().__init__(*arguments, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Show the bar (called by tqdm)."""
        if self._handle is None:
            return bool(super().display(msg, pos))
        self._handle.update({"text/plain": str(self) if msg is None else msg}, raw=True)
        return True

    def say(self, line: str) -> None:
        """Write a line above the bar, or to the log where no bar is shown."""
        if getattr(self, "disable", True):
            logging.getLogger("reuselib").info(line)
        else:
            self.write(line, file=None if self._handle else sys.stderr)

    def close(self) -> None:
        """Leave the last state visible."""
        if self._handle is None:
            super().close()
        elif not getattr(self, "disable", True):
            self.display()
            self.disable = True
            self._decr_instances(self)
