"""Which number format is chosen where, and what an update does in each."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from reuselib import run
from reuselib.errors import UnknownName

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REUSELIB_PRECISION", raising=False)


@pytest.mark.filterwarnings("ignore:.*GradScaler is enabled, but CUDA is not available")
def test_the_format_is_chosen_by_what_the_device_is_fast_at(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, expected in (((7, 5), "fp16"), ((8, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_, found=capability: found)
        assert run.precision(CUDA).name == expected
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    for amx, avx512, expected in ((False, True, "bf16"), (True, False, "bf16"), (False, False, "fp32")):
        for check, found in zip(checks, (amx, avx512), strict=True):
            monkeypatch.setattr(torch.cpu, check, lambda found=found: found, raising=False)
        assert run.precision(CPU).name == expected
    assert run.precision(torch.device("mps")).name == run.precision(torch.device("meta"), "bf16").name == "fp32"
    monkeypatch.setenv("REUSELIB_PRECISION", "fp16")
    assert run.precision(CPU).name == "fp16" and run.precision(CPU, "fp32").name == "fp32"
    with pytest.raises(UnknownName, match="'bf61'.*'bf16'"):
        run.precision(CPU, "bf61")


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_an_update_is_that_of_plain_torch_also_when_scaled_and_shared_by_several(name: str, clip: float | None) -> None:
    first, second, x = nn.Linear(3, 3), nn.Linear(3, 1), torch.randn(5, 3)
    plain = copy.deepcopy(nn.ModuleList([first, second]))
    precision, calls = run.precision(CPU, name), []
    optimizers = [run.adam(first.parameters(), CPU, lr=0.1), run.sgd(second.parameters(), CPU, lr=0.1)]
    references = [run.adam(plain[0].parameters(), CPU, lr=0.1), run.sgd(plain[1].parameters(), CPU, lr=0.1)]
    for step in range(1, 7):
        used = 2 if step % 2 else 1  # both share the one backward pass, or one moves by itself
        loss = second(first(x)).square().mean()
        loss.register_hook(lambda _: calls.append(None))
        precision.minimise(loss, optimizers if used == 2 else optimizers[0], clip)
        plain.zero_grad()
        plain[1](plain[0](x)).square().mean().backward()
        norm = nn.utils.clip_grad_norm_(plain[:used].parameters(), clip or 1e9)  # of all that move together
        for reference in references[:used]:
            reference.step()
        assert len(calls) == step and (clip is None or norm > clip)
    torch.testing.assert_close(nn.ModuleList([first, second]).state_dict(), plain.state_dict())
    if name == "fp16":  # an overflow is skipped by all, and halves the scale once
        scale, other = precision.scaler.get_scale(), run.precision(CPU, "fp16")
        precision.minimise(second(first(x)).square().mean() * torch.tensor(float("inf")), optimizers)
        torch.testing.assert_close(nn.ModuleList([first, second]).state_dict(), plain.state_dict())
        other.load_state_dict(precision.state_dict())
        assert other.scaler.get_scale() == precision.scaler.get_scale() == scale / 2


@pytest.mark.parametrize("options", [{}, {"nesterov": True}, {"weight_decay": 0.1}, {"momentum": 0.0}])
def test_a_first_step_that_overflows_leaves_no_trace(options: dict[str, float]) -> None:
    networks = [torch.nn.Linear(300, 200) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    x = torch.randn(5, 300)
    for network, overflows in zip(networks, (True, False), strict=True):
        # Memory that torch does not fill must not pass for zeros.
        dirt = [torch.full_like(parameter, 1e30) for parameter in network.parameters()]
        precision = run.precision(CPU, "fp16")
        optimizer = run.sgd(network.parameters(), CPU, lr=0.1, **options)
        del dirt
        if overflows:
            precision.minimise(network(x).square().mean() * torch.tensor(float("inf")), optimizer)
        for _ in range(3):
            precision.minimise(network(x).square().mean(), optimizer)
    torch.testing.assert_close(networks[0].state_dict(), networks[1].state_dict())
