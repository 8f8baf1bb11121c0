"""An emulated Colab (see emulation.py): the quickstart in every run; at night all chapters, and one that is cut off."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import emulation
import pytest

from reuselib import report

CHAPTERS = sorted(path.stem for path in (emulation.ROOT / "notebooks").glob("[01][0-9]_*.ipynb"))
QUICK, CHEAP = "00_quickstart", "05_layerwise_lab"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> emulation.Machine:
    """An empty machine: what is installed and fetched on it is there for the notebooks that follow."""
    if not (emulation.ROOT / ".git").exists():
        pytest.skip("there is no repository to clone")
    return emulation.Machine(tmp_path_factory.mktemp("colab"))


def test_the_machine_has_what_the_image_brings_and_no_more(machine: emulation.Machine) -> None:
    wanted = "import torch, torchvision, seaborn, sklearn, ipykernel, yaml, google.colab, importlib.util as look\n"
    wanted += f"assert not [name for name in {sorted(emulation.ABSENT)} if look.find_spec(name)]"
    subprocess.run([machine.python, "-c", wanted], check=True, cwd="/", env=machine.environment())


def test_a_notebook_runs_from_an_empty_machine_to_the_end(machine: emulation.Machine) -> None:
    outcome = machine.run(QUICK)
    assert not outcome.errors and outcome.cells[0] == outcome.cells[1] >= 8, outcome
    assert (machine.clone / "reuselib").is_dir() and (machine.site / "captum").is_dir()


def record(path: Path) -> report.Record:
    content = json.loads(path.read_text())
    return report.Record(**{name: value for name, value in content.items() if name != "digest"})


@pytest.mark.nightly
@pytest.mark.parametrize("name", CHAPTERS)
def test_every_chapter_runs_from_an_empty_machine_to_the_end(machine: emulation.Machine, name: str) -> None:
    outcome = machine.run(name)
    print(outcome)  # -rP shows it: what was real, what was tiny
    assert not outcome.errors and outcome.cells[0] == outcome.cells[1], outcome
    assert not outcome.lacking, outcome


@pytest.mark.nightly
def test_a_chapter_that_is_killed_goes_on_to_what_it_would_have_had(machine: emulation.Machine, tmp_path: Path) -> None:
    uninterrupted, machine = machine, emulation.Machine(tmp_path)
    cut = machine.run(CHEAP, kill=2)
    assert cut.errors == ["killed"] and cut.cells[0] < cut.cells[1]
    kept = {path: path.read_bytes() for path in machine.kept("layerwise").values()}
    assert len(kept) == 2
    outcome = machine.run(CHEAP)
    assert not outcome.errors and not outcome.lacking and outcome.text.count("read back") == 2, outcome
    assert all(path.read_bytes() == content for path, content in kept.items())
    if not uninterrupted.kept("layerwise"):
        uninterrupted.run(CHEAP)
    whole = uninterrupted.kept("layerwise")
    for row, path in machine.kept("layerwise").items():
        assert not record(path).differences(record(whole[row])), row
