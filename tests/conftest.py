"""One thread and fixed seeds: small tensors on busy cores are slow with more, and tests must repeat."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy
import pytest
import torch

torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked for a GPU where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Seed every global generator before each test."""
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """Take back what a test, or a command that it called, wrote into the environment."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data room of this test alone; shipped images and networks are still found in the clone."""
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    for name in ("REUSELIB_DEVICE", "REUSELIB_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path
