"""Where and how numbers are computed: device, precision, threads and seeds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from reuselib import checks
from reuselib.errors import BadValue, DeviceError, unknown

PRECISIONS = ("bf16", "fp16", "fp32")


def device(name: str | torch.device | None = None) -> torch.device:
    """Choose the device to run on.

    Args:
        name: ``"cpu"``, ``"cuda"``, ``"mps"``, ``"meta"`` …; ``None`` takes ``REUSELIB_DEVICE`` or, without it, the
            accelerator of this machine, or else its CPU.

    Returns:
        The device.

    Raises:
        DeviceError: a device was asked for that this machine does not have.
    """
    name = name or os.environ.get("REUSELIB_DEVICE")
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name is None:
        return accelerator or torch.device("cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"{name!r} is not a device. Use 'cpu', 'cuda', 'cuda:0' or 'mps'.") from error
    if chosen.type not in ("cpu", "meta") and (accelerator is None or accelerator.type != chosen.type):
        found = "no accelerator" if accelerator is None else f"only {accelerator.type!r}"
        raise DeviceError(
            f"Device {str(chosen)!r} was asked for, but this machine has {found}. "
            "Use device='cpu', or install a PyTorch build for your GPU (see `reuselib doctor`)."
        )
    if (chosen.index or 0) > 0 and chosen.index >= torch.accelerator.device_count():
        raise DeviceError(
            f"Device {str(chosen)!r} was asked for, but this machine has only {torch.accelerator.device_count()}, "
            f"counted from 0. Use '{chosen.type}:0'."
        )
    return chosen


class OnDevice(Protocol):
    """What knows where it is: an image set, a tensor."""

    @property
    def device(self) -> torch.device:
        """Where it is."""


def device_of(network: nn.Module | OnDevice | None = None, **parts: nn.Module | OnDevice) -> torch.device:
    """The one device of a network, or of several parts that must be together: ``device_of(teacher=…, images=…)``.

    Args:
        network: a network, or whatever has a ``device``.
        parts: more of them, by the names that callers know them by; one without parameters is at home everywhere.

    Raises:
        DeviceError: there are several devices.
        BadValue: there is none, because no part has a parameter or a buffer.
    """
    everything = parts if network is None else {"network": network, **parts}
    where = {
        name: {t.device for t in chain(part.parameters(), part.buffers())}
        if isinstance(part, nn.Module)
        else {part.device}
        for name, part in everything.items()
    }
    found = set[torch.device]().union(*where.values())
    if not found:
        raise BadValue(f"No parameter or buffer says where it runs: {', '.join(where)}. Give a network that has some.")
    if len(found) > 1:
        places = ", ".join(f"{name} on {' and '.join(map(str, each))}" for name, each in where.items() if each)
        raise DeviceError(f"These are on different devices: {places}. Move them to one with .to(device).")
    return found.pop()


def has_fast_bf16(where: torch.device) -> bool:
    """Whether bfloat16 is quicker than float32 there: GPUs from compute capability 8, CPUs with AMX or AVX512-BF16."""
    if where.type == "cuda":
        return torch.cuda.get_device_capability(where) >= (8, 0)
    if where.type == "cpu":
        checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        return any(getattr(torch.cpu, check, bool)() for check in checks)
    return False


class Precision:
    """The number format of a run: autocast for the forward pass, a gradient scaler where half precision needs one.

    Args:
        name: ``"bf16"``, ``"fp16"`` or ``"fp32"``.
        where: the device of the networks.
    """

    def __init__(self, name: str, where: torch.device) -> None:
        if name not in PRECISIONS:
            raise unknown("precision", name, PRECISIONS)
        self.name = name
        self.device = where
        self.scaler = torch.amp.GradScaler(where.type, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[Any]:
        """A context in which matrix products and convolutions use this precision."""
        if self.name == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.name == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype=dtype)

    def minimise(self, loss: Tensor, optimizer: Optimizer | Sequence[Optimizer], clip: float | None = None) -> None:
        """Take one optimizer step on ``loss`` (a scalar): zero the gradients, go backward, clip, update.

        Args:
            loss: what to make smaller.
            optimizer: holds the parameters to move; several share the one backward pass.
            clip: largest norm of all the gradients together, if any.
        """
        optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
        for each in optimizers:
            each.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if clip is not None:
            for each in optimizers:
                self.scaler.unscale_(each)
            parameters = [p for each in optimizers for group in each.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        for each in optimizers:
            self.scaler.step(each)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The scaler's state, empty where nothing is scaled."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved scaler state."""
        self.scaler.load_state_dict(state)


def precision(where: torch.device, name: str | None = None) -> Precision:
    """Choose the precision for a device: bf16 where it is fast, fp16 on older NVIDIA GPUs, fp32 elsewhere.

    Args:
        where: the device of the networks.
        name: overrides the choice; so does the environment variable ``REUSELIB_PRECISION``.

    Returns:
        The precision of the run.
    """
    if name is None and (name := os.environ.get("REUSELIB_PRECISION") or None) not in (None, *PRECISIONS):
        raise unknown("precision in REUSELIB_PRECISION", str(name), PRECISIONS)
    if where.type == "meta":
        name = "fp32"
    if name is None:
        name = "bf16" if has_fast_bf16(where) else "fp16" if where.type == "cuda" else "fp32"
    return Precision(name, where)


@contextmanager
def threads() -> Iterator[int]:
    """Fix the number of CPU threads for a while, to ``REUSELIB_THREADS`` or one, and give it.

    Small networks gain little from a second thread and lose up to thirty
    times on a busy machine; with one they give the same bits on every processor with the same instructions.
    """
    before = torch.get_num_threads()
    asked = os.environ.get("REUSELIB_THREADS") or "1"
    count = int(asked) if asked.isdecimal() else 0
    checks.whole(REUSELIB_THREADS=count or asked)
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(before)


@contextmanager
def quickest_kernels() -> Iterator[None]:
    """Let cuDNN try its convolutions and keep the quickest, for a while; a CPU is not touched by it."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block (building a network, say) from a seed and leave the global random state as it was."""
    checks.whole(0, checks.SEEDS, seed=seed)
    cards = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(cards)):
        torch.default_generator.manual_seed(seed)
        if cards:
            torch.cuda.manual_seed_all(seed)
        yield


def generator(where: torch.device, seed: int) -> torch.Generator | None:
    """A random generator of its own on a device; ``None`` on ``meta``, where nothing is drawn."""
    checks.whole(0, checks.SEEDS, seed=seed)
    return None if where.type == "meta" else torch.Generator(where).manual_seed(seed)
