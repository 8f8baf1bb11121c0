"""Arrows point one way, and the command line answers without loading what it does not need."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "torchvision", "matplotlib", "sklearn", "scipy", "IPython")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this Python with the arguments, in the repository's root."""
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)


def loaded_by(code: str) -> set[str]:
    """Return the heavy packages that a fresh Python has loaded after the code."""
    ending = f"; import json, sys; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = run("-c", code + ending)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_layers_hold() -> None:
    pytest.importorskip("importlinter")
    done = run("-c", "import sys; from importlinter.cli import lint_imports_command as lint; sys.exit(lint())")
    assert done.returncode == 0, done.stdout + done.stderr


def test_light_modules_load_nothing_heavy_and_others_on_first_use() -> None:
    for code in ("import reuselib", "from reuselib import errors, home, report"):
        assert loaded_by(code) == set()
    assert loaded_by("import reuselib; reuselib.nets.conv3") >= {"torch"}
    done = run("-c", "import reuselib; reuselib.no_such_module")
    assert done.returncode != 0 and "AttributeError" in done.stderr


def test_help_loads_nothing_heavy_and_is_quick() -> None:
    help_only = "from click.testing import CliRunner; from reuselib.cli import main; "
    assert loaded_by(help_only + "assert CliRunner().invoke(main, ['--help']).exit_code == 0") == set()
    times = []
    for _ in range(3):
        began = time.monotonic()
        done = run("-c", "from reuselib.cli import main; main(['--help'])")
        times.append(time.monotonic() - began)
        assert done.returncode == 0 and "Usage" in done.stdout, done.stderr
    # Under a second on an idle machine; the margin is for a busy one. The list above is the sharp test.
    assert min(times) < 5, times
