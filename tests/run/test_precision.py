"""Which number format is chosen where, and what an update does in each."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from reuselib import run
from reuselib.errors import UnknownName

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REUSELIB_PRECISION", raising=False)


@pytest.mark.filterwarnings("ignore:.*GradScaler is enabled, but CUDA is not available")
@pytest.mark.parametrize(
    ("capability", "expected"), [((6, 1), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)
def test_a_gpu_is_chosen_for_by_its_compute_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    chosen = run.precision(CUDA)
    assert chosen.name == expected
    assert (chosen.scaler is not None) == (expected == "fp16")


@pytest.mark.parametrize(
    ("amx", "avx512", "expected"),
    [(False, False, "fp32"), (True, False, "bf16"), (False, True, "bf16"), (True, True, "bf16")],
)
def test_a_cpu_is_chosen_for_by_its_instructions(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    assert run.precision(CPU).name == expected


def test_a_cpu_that_torch_cannot_ask_about_gets_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    for check in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, check, raising=False)
    assert run.precision(CPU).name == "fp32"


def test_other_devices_get_fp32() -> None:
    assert run.precision(torch.device("mps")).name == "fp32"
    assert run.precision(torch.device("meta"), "bf16").name == "fp32"


def test_a_name_or_the_environment_overrules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REUSELIB_PRECISION", "fp16")
    assert run.precision(CPU).name == "fp16"
    assert run.precision(CPU, "fp32").name == "fp32"


def test_an_unknown_precision_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="'bf61'.*'bf16'"):
        run.precision(CPU, "bf61")


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_autocast_uses_the_format(name: str, dtype: torch.dtype) -> None:
    with run.precision(CPU, name).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def problem(seed: int = 0) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    return nn.Linear(3, 2), torch.randn(5, 3)


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("name", ["fp32", "fp16"])
@pytest.mark.parametrize("make", [run.sgd, run.adam])
def test_an_update_is_that_of_plain_torch_also_when_scaled(make, name: str, clip: float | None) -> None:
    network, x = problem()
    plain = copy.deepcopy(network)
    precision, optimizer = run.precision(CPU, name), make(network.parameters(), CPU, lr=0.1)
    reference = make(plain.parameters(), CPU, lr=0.1)
    for _ in range(3):
        precision.minimise(network(x).square().mean(), optimizer, clip)
        reference.zero_grad()
        plain(x).square().mean().backward()
        norm = nn.utils.clip_grad_norm_(plain.parameters(), clip or 1e9)
        reference.step()
        assert clip is None or norm > clip
    torch.testing.assert_close(network.state_dict(), plain.state_dict())


def test_gradients_do_not_pile_up() -> None:
    network, x = problem()
    optimizer = run.sgd(network.parameters(), CPU, lr=0.0)
    for _ in range(2):
        run.precision(CPU, "fp32").minimise(network(x).sum(), optimizer)
    torch.testing.assert_close(network.weight.grad, x.sum(0).repeat(2, 1))


def test_the_scaler_skips_an_overflow_and_then_scales_less() -> None:
    network, x = problem()
    before = copy.deepcopy(network.state_dict())
    precision, optimizer = run.precision(CPU, "fp16"), run.sgd(network.parameters(), CPU, lr=0.1)
    precision.minimise(network(x).square().mean() * torch.tensor(float("inf")), optimizer)
    torch.testing.assert_close(network.state_dict(), before)
    scale = precision.scaler.get_scale()
    assert scale == run.precision(CPU, "fp16").scaler.get_scale() / 2
    precision.minimise(network(x).square().mean(), optimizer)
    assert not torch.equal(network.weight, before["weight"])


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("options", [{}, {"nesterov": True}, {"weight_decay": 0.1}, {"momentum": 0.0}])
def test_a_first_step_that_overflows_leaves_no_trace(options: dict[str, float], clip: float | None) -> None:
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
            precision.minimise(network(x).square().mean() * torch.tensor(float("inf")), optimizer, clip)
        for _ in range(3):
            precision.minimise(network(x).square().mean(), optimizer, clip)
        assert all(parameter.isfinite().all() for parameter in network.parameters())
    torch.testing.assert_close(networks[0].state_dict(), networks[1].state_dict())


def test_the_scalers_state_is_kept() -> None:
    network, x = problem()
    precision, optimizer = run.precision(CPU, "fp16"), run.sgd(network.parameters(), CPU, lr=0.1)
    precision.minimise(network(x).sum() * torch.tensor(float("inf")), optimizer)
    other = run.precision(CPU, "fp16")
    other.load_state_dict(precision.state_dict())
    assert other.scaler.get_scale() == precision.scaler.get_scale()
    for name in ("fp32", "bf16"):
        assert run.precision(CPU, name).state_dict() == {}
        run.precision(CPU, name).load_state_dict({})


def game(seed: int = 0) -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(seed)
    return nn.Linear(3, 3), nn.Linear(3, 1), torch.randn(5, 3)


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_several_optimizers_share_one_backward_pass(name: str, clip: float | None) -> None:
    first, second, x = game()
    plain = copy.deepcopy(nn.ModuleList([first, second]))
    precision, calls = run.precision(CPU, name), []
    optimizers = [run.adam(first.parameters(), CPU, lr=0.1), run.sgd(second.parameters(), CPU, lr=0.1)]
    references = [run.adam(plain[0].parameters(), CPU, lr=0.1), run.sgd(plain[1].parameters(), CPU, lr=0.1)]
    for step in range(1, 4):
        loss = second(first(x)).square().mean()
        loss.register_hook(lambda _: calls.append(None))
        precision.minimise(loss, optimizers, clip)
        plain.zero_grad()
        plain[1](plain[0](x)).square().mean().backward()
        norm = nn.utils.clip_grad_norm_(plain.parameters(), clip or 1e9)  # of both networks together
        for reference in references:
            reference.step()
        assert len(calls) == step and (clip is None or norm > clip)
    torch.testing.assert_close(first.state_dict(), plain[0].state_dict())
    torch.testing.assert_close(second.state_dict(), plain[1].state_dict())


def test_gradients_of_no_optimizer_pile_up() -> None:
    first, second, x = game()
    optimizers = [run.sgd(network.parameters(), CPU, lr=0.0) for network in (first, second)]
    for _ in range(2):
        run.precision(CPU, "fp32").minimise(first(x).sum() + second(x).sum(), tuple(optimizers))
    torch.testing.assert_close(first.weight.grad, x.sum(0).repeat(3, 1))
    torch.testing.assert_close(second.weight.grad, x.sum(0, keepdim=True))


def test_an_overflow_is_skipped_by_all_optimizers_and_halves_the_scale_once() -> None:
    first, second, x = game()
    before = copy.deepcopy([first.state_dict(), second.state_dict()])
    precision = run.precision(CPU, "fp16")
    optimizers = [run.sgd(network.parameters(), CPU, lr=0.1) for network in (first, second)]
    scale = precision.scaler.get_scale()
    precision.minimise(second(first(x)).square().mean() * torch.tensor(float("inf")), optimizers)
    torch.testing.assert_close([first.state_dict(), second.state_dict()], before)
    assert precision.scaler.get_scale() == scale / 2
    precision.minimise(second(first(x)).square().mean(), optimizers)
    for network, start in zip((first, second), before, strict=True):
        assert not torch.equal(network.weight, start["weight"])
