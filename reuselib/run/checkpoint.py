"""Checkpoints: everything a run needs to go on bit for bit, in one file that is never half-written.

A file is what ``torch.save`` writes, followed by its SHA-256, so that a flipped bit is noticed before anything is
loaded. Files are read with ``weights_only=True``: nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reuselib.errors import DamagedFile, MissingFile, OldSchema, ReuseError
from reuselib.home import write_atomic
from reuselib.run.method import Method

FORMAT = 1
DIGEST = 32


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write ``content`` (tensors, numbers, strings, dicts, lists) atomically, followed by its SHA-256."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    write_atomic(Path(path), data + hashlib.sha256(data).digest())


def load_checkpoint(path: str | Path, where: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote.

    Raises:
        MissingFile: there is no such file.
        DamagedFile: the file was cut short or altered.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFile(f"There is no checkpoint at {path}. Start the run without it, or give the right path.")
    data = path.read_bytes()
    content, digest = data[:-DIGEST], data[-DIGEST:]
    found = hashlib.sha256(content).digest()
    if found != digest:
        reason = f"a checkpoint with sha256 {digest.hex()} was written, this one has {found.hex()}"
        raise DamagedFile(path, reason, "delete it and start the run again")
    return torch.load(io.BytesIO(content), map_location=where, weights_only=True)


def fingerprint(network: nn.Module) -> str:
    """A SHA-256 over all parameters and buffers of a network, by name."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def changing(method: Method) -> list[tuple[str, Any]]:
    """The attributes of a method that may change, by name."""
    return [(name, value) for name, value in vars(method).items() if name not in method.fixed]


def state_of(value: Any) -> Any:
    """The state of one attribute of a method, or ``None`` if it has none. A method may hold another."""
    if isinstance(value, Method):
        return {name: state for name, each in changing(value) if (state := state_of(each)) is not None}
    if isinstance(value, Tensor):
        return value
    if isinstance(value, torch.Generator):
        return value.get_state()
    if hasattr(value, "state_dict"):
        return value.state_dict()
    if isinstance(value, (list, tuple)) and any(state_of(item) is not None for item in value):
        return [state_of(item) for item in value]
    return None


def restore(value: Any, state: Any) -> None:
    """Put a saved state back into an attribute, in place."""
    if isinstance(value, Method):
        for name, each in changing(value):
            if name in state:
                restore(each, state[name])
    elif isinstance(value, Tensor):
        with torch.no_grad():
            value.copy_(state)
    elif isinstance(value, torch.Generator):
        value.set_state(state.cpu())
    elif hasattr(value, "load_state_dict"):
        value.load_state_dict(state)
    elif isinstance(value, (list, tuple)):
        for item, item_state in zip(value, state, strict=True):
            if item_state is not None:
                restore(item, item_state)


def capture(method: Method) -> dict[str, Any]:
    """Everything of a method that changes, fingerprints of what does not, and the global random states."""
    networks = {name: getattr(method, name, None) for name in method.fixed}
    fixed = {name: fingerprint(value) for name, value in networks.items() if isinstance(value, nn.Module)}
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    return {
        "format": FORMAT,
        "method": type(method).__name__,
        "iteration": method.iteration,
        "state": state_of(method),
        "fixed": fixed,
        "random": random,
    }


def put_back(method: Method, content: dict[str, Any], path: str | Path) -> None:
    """Bring a freshly built method to the state of a checkpoint.

    Raises:
        OldSchema: another version of the library wrote the file.
        ReuseError: the file belongs to another method, other parts, another network or another teacher.
    """
    if content.get("format") != FORMAT:
        raise OldSchema(f"The checkpoint {path} has format {content.get('format')}, not {FORMAT}. Delete it.")
    advice = f"Delete {path}, or give the run another checkpoint file."
    if content["method"] != type(method).__name__:
        raise ReuseError(f"The checkpoint {path} is of {content['method']}, not {type(method).__name__}. {advice}")
    for name, expected in content["fixed"].items():
        if fingerprint(getattr(method, name)) != expected:
            raise ReuseError(f"The checkpoint {path} was made with another {name}. {advice}")
    if odd := sorted(content["state"].keys() ^ state_of(method).keys()):
        raise ReuseError(f"The checkpoint {path} and this method do not both have: {', '.join(odd)}. {advice}")
    for name, state in content["state"].items():
        try:
            restore(getattr(method, name), state)
        except (RuntimeError, ValueError, KeyError, AttributeError) as error:
            raise ReuseError(f"The checkpoint {path} does not fit this method's {name} ({error}). {advice}") from error
    method.iteration = content["iteration"]
    torch.set_rng_state(content["random"]["cpu"].cpu())
    if "cuda" in content["random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(content["random"]["cuda"].cpu())
