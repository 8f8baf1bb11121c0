"""Weights that torchvision publishes: fetched, verified and read without pickle, and put into networks of ours."""

import re
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from reuselib import home, run
from reuselib.data import files
from reuselib.errors import ReuseError, ShapeMismatch


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
    if path.is_file():
        files.named(path, "delete it and try again")
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


def take(
    network: nn.Module,
    state: Mapping[str, Tensor],
    names: Mapping[str, str] | None = None,
    own: tuple[str, ...] = (),
    advice: str = "Give the state of the same architecture",
) -> None:
    """Put weights from elsewhere into a network.

    Args:
        network: changed in place.
        state: the weights by their names there; counters of batch norms may lack, as in the files of the first years.
        names: what a layer is called there, as a regular expression → here.
        own: beginnings of the names, here, of what keeps its own weights.
        advice: what to do where they do not fit.

    Raises:
        ShapeMismatch: a name or a shape differs.
    """
    taken = {_renamed(key, names or {}): value for key, value in state.items()}
    taken = {key: value for key, value in taken.items() if not key.startswith(own)}
    wanted = {key: value for key, value in network.state_dict().items() if not key.startswith(own)}
    counters = {key: value for key, value in wanted.items() if key.endswith("num_batches_tracked")}
    if {key: value.shape for key, value in (counters | taken).items()} != {k: v.shape for k, v in wanted.items()}:
        raise ShapeMismatch(f"these weights do not fit this network. {advice}.")
    network.load_state_dict(taken, strict=False)


def _renamed(key: str, names: Mapping[str, str]) -> str:
    for there, here in names.items():
        key = re.sub(rf"^{there}(?=\.)", here, key)
    return key


def classifier(name: str, where: torch.device | str) -> nn.Module:
    """torchvision's classifier of a name with its first ImageNet weights, in evaluation mode on a device.

    Raises:
        ReuseError: they cannot be fetched; also as :func:`torchvision_weights`.
    """
    from torchvision import models as torchvision

    # Those of Inception turn the colours of their input by themselves, if they are told so; drawn weights take long.
    options = {"transform_input": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network = torchvision.get_model(name, weights=None, **options)
    network.load_state_dict(torchvision_weights(name))
    return run.on_device(network, torch.device(where)).eval()
