"""Checkpoints: everything a run needs to go on bit for bit, in one file that is never half-written.

A file is what ``torch.save`` writes, followed by its SHA-256, so that a flipped bit is noticed before anything is
loaded. Files are read with ``weights_only=True``: nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reuselib.errors import BadValue, DamagedFile, MissingFile, OldSchema, ReuseError
from reuselib.home import check_writable, write_atomic
from reuselib.run.cost import Cost
from reuselib.run.described import content_of, describe
from reuselib.run.method import Method

FORMAT = 2
DIGEST = 32
SHARE = 30
"""Writing takes at most one second in so many: a large file is written less often."""
EARLY = 5.0
"""Seconds until the first checkpoint of a run, at most."""
COUNTERS = ("iteration", "counted", "sums")
"""What a method says of its round that is under way."""


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
        digest.update(content_of(value))
    return digest.hexdigest()[:12]


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
    states = [state_of(item) for item in value] if isinstance(value, list | tuple) else []
    return states if any(state is not None for state in states) else None


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


class Checkpoint:
    """The file of a run: tried before the run starts, resumed from if it is there, written by the clock.

    Args:
        path: the file.
        method: what is run; its ``steps_per_round`` is settled.
        settings: whatever decides the result beside what was asked of the method.
        every: seconds between two checkpoints, more where writing one takes long; the first comes early.

    Attributes:
        kept: in words, what is there to go on from.
        megabytes: of the file as it was last written.

    Raises:
        BadValue: the path is a folder.
        CannotWrite: nothing can be written there.
    """

    def __init__(self, path: str | Path, method: Method, settings: Any, every: float) -> None:
        self.path, self.method, self.every = Path(path), method, every
        self.kept, self.next = "Nothing was saved.", time.monotonic() + min(every, EARLY)
        self.megabytes = 0.0
        self.advice = f"Delete {path}, or give the run another checkpoint file."
        if self.path.is_dir():
            raise BadValue(f"The checkpoint {path} is a folder. Give a file in it: {self.path / 'run.pt'}.")
        check_writable(self.path.parent)
        weights = {f"the {name}'s weights": fingerprint(each) for name, each in method.fixed_networks().items()}
        more = {"updates a report": method.steps_per_round, "settings": settings, **weights}
        self.described = {**method.described, **dict(describe(more))}

    def due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() >= self.next

    def write(self, rounds: list[dict[str, float]], cost: Cost) -> None:
        """Write all of the method that changes, what does not by its fingerprint, and the global random states.

        Raises:
            ReuseError: the disk is full, or the folder is gone.
        """
        method, random = self.method, {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            random["cuda"] = torch.cuda.get_rng_state()
        content = {
            "format": FORMAT,
            "described": self.described,
            "history": {"rounds": rounds, "cost": vars(cost)},
            "random": random,
            "state": state_of(method),
            **{name: getattr(method, name) for name in COUNTERS},
        }
        began = time.monotonic()
        try:
            save_checkpoint(self.path, content)
        except OSError as error:
            raise ReuseError(
                f"The checkpoint {self.path} could not be written by update {method.iteration} ({error}). {self.kept} "
                f"Free some space in {self.path.parent}, and run it again with the same checkpoint: it goes on."
            ) from error
        self.kept = f"The last good checkpoint, of update {method.iteration}, is kept in {self.path}."
        now = time.monotonic()
        self.megabytes = self.path.stat().st_size / 1e6 if self.path.is_file() else 0.0
        self.next = now + (max(self.every, SHARE * (now - began)) if self.every else 0.0)

    def resume(self, updates: int) -> dict[str, Any] | None:
        """Bring the freshly built method to the state of the file, if there is one; give its history.

        Raises:
            OldSchema: another version of the library wrote the file.
            DamagedFile: it was cut short or altered.
            ReuseError: it belongs to other settings, another teacher or a longer run; the message says what differs.
        """
        if not self.path.is_file():
            return None
        method = self.method
        where = next((p.device for network in method.networks().values() for p in network.parameters()), "cpu")
        content = load_checkpoint(self.path, where)
        if content.get("format") != FORMAT:
            raise OldSchema(f"The checkpoint {self.path} has format {content.get('format')}, not {FORMAT}. Delete it.")
        here, there = self.described, content["described"]
        if odd := [place for place in {**there, **here} if there.get(place) != here.get(place)]:
            words = [
                f"{place} is {there.get(place, 'nothing')} there, {here.get(place, 'nothing')} now" for place in odd[:3]
            ]
            more = f"; and {len(odd) - 3} more" if len(odd) > 3 else ""
            raise ReuseError(
                f"The checkpoint {self.path} was made with other settings: {'; '.join(words)}{more}. {self.advice}"
            )
        if content["iteration"] > updates:
            done = f"has {content['iteration']} updates, more than {updates}"
            raise ReuseError(f"The checkpoint {self.path} {done}. Ask for as many, or give another checkpoint file.")
        self.put_back(content)
        return dict(content["history"])

    def put_back(self, content: Mapping[str, Any]) -> None:
        """Bring the method and the global random states to what a file says."""
        if odd := sorted(content["state"].keys() ^ state_of(self.method).keys()):
            raise ReuseError(
                f"The checkpoint {self.path} and the method do not both have {', '.join(odd)}. {self.advice}"
            )
        for name, state in content["state"].items():
            try:
                restore(getattr(self.method, name), state)
            except (RuntimeError, ValueError, KeyError, AttributeError) as error:
                reason = f"does not fit this method's {name} ({error})"
                raise ReuseError(f"The checkpoint {self.path} {reason}. {self.advice}") from error
        for name in COUNTERS:
            setattr(self.method, name, content[name])
        torch.set_rng_state(content["random"]["cpu"].cpu())
        if "cuda" in content["random"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(content["random"]["cuda"].cpu())
        self.kept = f"The last good checkpoint, of update {self.method.iteration}, is kept in {self.path}."
