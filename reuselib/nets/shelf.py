"""A shelf of finished pieces: trained networks and tables of numbers, each with a card that holds its SHA-256."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from reuselib import home, nets, run
from reuselib.errors import DamagedFile, MissingFile, ReuseError


@lru_cache(maxsize=1)
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder that goes with this process."""
    return tempfile.TemporaryDirectory(prefix="reuselib-")


@dataclass(frozen=True)
class Shelf:
    """A folder of finished pieces, each with a card that holds the SHA-256 of what is beside it.

    Attributes:
        name: below ``zoo/`` in the data room.
        kept: whether pieces outlive this process.
        fix: the command that makes them, for messages.
    """

    name: str
    kept: bool
    fix: str

    def folder(self, piece: str) -> Path:
        """Where a piece lies, or will."""
        return (home.root() if self.kept else Path(_scratch().name)).joinpath("zoo", self.name, piece)

    def _file(self, piece: str, file: str) -> Path:
        relative = f"zoo/{self.name}/{piece}/{file}"
        return home.shipped(relative) if self.kept and relative in home.registry() else self.folder(piece) / file

    def has(self, piece: str) -> bool:
        """Whether a piece is finished, here or where the repository's files are fetched from."""
        relative = f"zoo/{self.name}/{piece}/card.json"
        if (self.folder(piece) / "card.json").is_file():
            return True
        comes = self.kept and relative in home.registry()
        return comes and (not home.in_clone() or (home.CLONE / "data" / relative).is_file())

    def card(self, piece: str) -> dict[str, Any]:
        """What is known of a piece.

        Raises:
            MissingFile: it is not finished.
            DamagedFile: the card cannot be read.
        """
        path = self._file(piece, "card.json")
        if not path.is_file():
            raise MissingFile(f"{path} is missing. Fix: {self.fix}")
        try:
            return json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise DamagedFile(path, f"not valid JSON ({error})", f"delete it, then {self.fix}") from error

    def tensors(self, piece: str, file: str, recipe: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tensors of a piece, verified.

        Raises:
            MissingFile: it is not finished.
            DamagedFile: it is not what its card says.
            ReuseError: it was made by another recipe.
        """
        card = self.card(piece)
        if card["recipe"] != plain(recipe):
            raise ReuseError(f"{self.folder(piece)} was made by another recipe. Delete it, then {self.fix}")
        path = home.verify(self._file(piece, file), card["sha256"], f"delete {self.folder(piece)}, then {self.fix}")
        return safetensors.torch.load(path.read_bytes())

    def save(self, piece: str, file: str, tensors: Mapping[str, Tensor], **facts: Any) -> dict[str, Any]:
        """Write tensors and then their card, which makes the piece finished."""
        path = self.folder(piece) / file
        ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        home.write_atomic(path, safetensors.torch.save(ready))
        card = plain({"name": f"{self.name}/{piece}", **facts, "versions": {"torch": version("torch")}})
        card |= {"sha256": home.sha256(path)}
        home.write_atomic(path.parent / "card.json", (json.dumps(card, indent=2) + "\n").encode())
        return card


def plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same as JSON gives it back: lists for tuples."""
    return json.loads(json.dumps(content))


def log_of(history: run.History, *columns: str) -> bytes:
    """The rounds of a run as lines of numbers."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["iteration", *columns], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: round(value, 5) for name, value in entry.items()} for entry in history.rounds)
    return text.getvalue().encode()


def keep_network(shelf: Shelf, piece: str, network: nn.Module, history: run.History, **facts: Any) -> dict[str, Any]:
    """Write a trained network with its log and its card."""
    folder = shelf.folder(piece)
    home.write_atomic(folder / "log.csv", log_of(history, "loss"))
    card = shelf.save(
        piece, "weights.safetensors", network.state_dict(), parameters=nets.parameter_count(network), **facts
    )
    (folder / "training.pt").unlink(missing_ok=True)
    return card
