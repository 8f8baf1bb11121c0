"""A data folder with one toy paper."""

from pathlib import Path

import pytest
import toy

from reuselib import home


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a data folder that holds one paper, toy."""
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    home.write_atomic(tmp_path / "papers" / "toy.yaml", toy.PAPER.encode())
    return tmp_path
