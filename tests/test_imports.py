"""Arrows point one way, and the command line answers without loading what it does not need."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "torchvision", "matplotlib", "pandas", "sklearn", "scipy", "jsonschema", "IPython")


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
    for code in ("import reuselib", "from reuselib import chapters, checks, errors, home, report"):
        assert loaded_by(code) == set()
    assert loaded_by("import reuselib; reuselib.nets.conv3") >= {"torch"}


def test_help_and_list_and_refusals_load_nothing_heavy_and_are_quick() -> None:
    lines = {"--help": 0, "list": 0, "run dfat": 1, "run dfad --seeds 2-1": 1, "run dfad --rows ,": 1, "resume dfat": 1}
    invoked = "from click.testing import CliRunner; from reuselib.cli import main; "
    for line, code in lines.items():
        invoked += f"assert CliRunner().invoke(main, {line.split()!r}).exit_code == {code}; "
    assert loaded_by(invoked + "0") == set()
    used = []
    for _ in range(2):
        began = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run("-c", "from reuselib.cli import main; main(['list'])")
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime)
        assert done.returncode == 0 and "Data-Free Adversarial Distillation" in done.stdout, done.stderr
    assert min(used) < 0.5, used  # seconds of the processor, so that a busy machine does not matter
