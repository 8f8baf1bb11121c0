"""Device, threads and seeds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reuselib import run
from reuselib.errors import BadValue, DeviceError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REUSELIB_DEVICE", "REUSELIB_THREADS"):
        monkeypatch.delenv(name, raising=False)


def pretend(monkeypatch: pytest.MonkeyPatch, accelerator: str | None, count: int = 1) -> None:
    """Let torch report an accelerator, or none."""
    found = torch.device(accelerator) if accelerator else None
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: found)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count if accelerator else 0)


def test_the_accelerator_is_taken_unless_a_name_or_the_environment_overrules(monkeypatch: pytest.MonkeyPatch) -> None:
    for accelerator in ("mps", None, "cuda"):
        pretend(monkeypatch, accelerator, count=2)
        assert run.device() == torch.device(accelerator or "cpu")
    for name in ("cpu", "cuda:1", torch.device("meta")):
        assert run.device(name) == torch.device(name)
    monkeypatch.setenv("REUSELIB_DEVICE", "cpu")
    assert run.device() == torch.device("cpu") and run.device("cuda") == torch.device("cuda")


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for accelerator, name, words in (
        (None, "cuda", "no accelerator.*device='cpu'.*doctor"),
        (None, "cuda:0", "'cuda:0'.*no accelerator"),
        ("mps", "cuda", "only 'mps'"),
        ("cuda", "cuda:3", "'cuda:3'.*only 1.*cuda:0"),
        (None, "gpu", "'gpu' is not a device"),
    ):
        pretend(monkeypatch, accelerator)
        for asked in (name, None):
            monkeypatch.setenv("REUSELIB_DEVICE", name)
            with pytest.raises(DeviceError, match=words):
                run.device(asked)


def test_threads_are_one_or_as_asked_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    try:
        with run.threads() as count:
            assert count == torch.get_num_threads() == 1
        monkeypatch.setenv("REUSELIB_THREADS", "3")
        with pytest.raises(ZeroDivisionError), run.threads() as count:
            assert count == torch.get_num_threads() == 3
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_seeds_repeat_and_leave_the_global_state() -> None:
    before = torch.get_rng_state()
    with run.seeded(3):
        first = torch.randn(4)
    with pytest.raises(ZeroDivisionError), run.seeded(3):
        assert torch.equal(torch.randn(4), first)
        raise ZeroDivisionError
    with run.seeded(4):
        assert not torch.equal(torch.randn(4), first)
    draws = [torch.randn(3, generator=run.generator(torch.device("cpu"), seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), before)
    assert run.generator(torch.device("meta"), 1) is None


def test_the_one_device_of_several_parts() -> None:
    cpu, meta, nothing = nn.Linear(1, 1), nn.BatchNorm1d(1, affine=False, device="meta"), nn.ReLU()
    assert run.device_of(cpu) == torch.device("cpu")
    assert run.device_of(meta) == run.device_of(teacher=nothing, student=meta) == torch.device("meta")
    with pytest.raises(DeviceError, match=r"different devices: teacher on cpu, images on meta\. .*\.to\(device\)"):
        run.device_of(teacher=cpu, other=nothing, images=torch.ones(1, device="meta"))
    with pytest.raises(BadValue, match="says where it runs: network"):
        run.device_of(nothing)
