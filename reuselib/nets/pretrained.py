"""Weights that torchvision publishes: fetched, verified and read without pickle."""

from __future__ import annotations

from pickle import UnpicklingError
from typing import Any

from torch import Tensor

from reuselib import home
from reuselib.errors import DamagedFile, ReuseError


def published(source: str, weights: str = "IMAGENET1K_V1") -> Any:
    """The member of torchvision's enumeration that describes the weights of a network: their address, their classes."""
    from torchvision import models as torchvision

    return torchvision.get_model_weights(source)[weights]


def torchvision_weights(source: str, weights: str = "IMAGENET1K_V1", progress: bool = False) -> dict[str, Tensor]:
    """The weights of one of torchvision's networks, fetched into the data room unless they are there.

    Args:
        source: torchvision's name of the network.
        weights: torchvision's name of its weights.
        progress: whether to show a bar.

    Raises:
        DamagedFile: the file there is another one.
        ReuseError: they cannot be fetched, or hold more than tensors.
    """
    found = published(source, weights)
    path = home.path("downloads", "torchvision", found.url.rpartition("/")[2])
    expected = path.stem.rpartition("-")[2]  # by torchvision's custom, the first digits of the file's SHA-256
    if path.is_file() and not (digest := home.sha256(path)).startswith(expected):
        raise DamagedFile(path, f"expected sha256 {expected}..., found {digest}", "delete it and try again")
    try:
        return found.get_state_dict(
            model_dir=str(path.parent), map_location="cpu", progress=progress, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError, UnpicklingError) as error:
        reason = " ".join(str(error).split())
        raise ReuseError(
            f"{found.url} could not be fetched and read ({reason}). Connect to the network and try again, or bring the "
            f"file from elsewhere to {path}"
        ) from error
