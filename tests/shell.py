"""The command line in a fresh Python, as a user has it elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def reuselib(lines: list[str], library: Path, folder: Path, before: str = "", **there: str) -> list[str]:
    """Run several commands, one after the other, in one process, for each would import torch again.

    Args:
        lines: such as "run dfad --scale smoke".
        library: the folder that holds `reuselib`.
        folder: where the commands are run.
        before: lines of Python that come first.
        there: of the environment, in which nothing else leads to this data room.

    Returns:
        What each command printed, and "exit N" as its last line.
    """
    start = f"""
from reuselib import cli, home
{before}
for line in {lines!r}:
    try:
        cli.main(line.split())
    except SystemExit as exit:
        print("exit", exit.code, chr(12))
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REUSELIB_")}
    environment = kept | {"PYTHONPATH": str(library), "OMP_NUM_THREADS": "1"} | there
    command = [sys.executable, "-c", start]
    done = subprocess.run(command, cwd=folder, env=environment, stdout=-1, stderr=-2, text=True, timeout=300)
    *said, rest = done.stdout.split("\f")
    assert len(said) == len(lines) and not rest.strip(), done.stdout
    return said
