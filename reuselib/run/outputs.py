"""What networks give: one tensor, or an error that says how to wrap a network that gives more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reuselib.errors import NonFinite, ReuseError, ShapeMismatch
from reuselib.run.method import frozen


def one_tensor(output: Any, network: nn.Module | str = "network") -> Tensor:
    """The output of a network, if it is one tensor.

    Args:
        output: what the network gave.
        network: the network, or what to call it.

    Raises:
        ReuseError: it is a dict, a tuple or an object of several; the message shows the wrap to write.
    """
    if isinstance(output, Tensor):
        return output
    names = list(output) if isinstance(output, Mapping) else list(getattr(output, "_fields", ()))
    name = next((each for each in ("logits", "out", *names) if each in names), None)
    entry = "[0]" if name is None else f"[{name!r}]" if isinstance(output, Mapping) else f".{name}"
    kind = network if isinstance(network, str) else type(network).__name__
    several = f" of {', '.join(map(str, names))}" if names else ""
    raise ReuseError(
        f"{kind} gives {type(output).__name__}{several}, not one tensor. Wrap it in a torch.nn.Module that keeps it as "
        f"self.network and whose forward(self, x) returns self.network(x){entry}."
    )


@torch.no_grad()
def probe(images: Tensor, **networks: nn.Module) -> list[Tensor]:
    """What networks make of a few images in evaluation mode: the first, checked call.

    Args:
        images: (B, C, H, W), normalised, on the networks' device.
        networks: by the names that callers know them by.

    Raises:
        ShapeMismatch: a network does not take such images.
        ReuseError: a network gives more than one tensor.
        NonFinite: a network gives NaN or infinity, which would be learned or ranked silently.
    """
    outputs = []
    for name, network in networks.items():
        with frozen(network):
            try:
                output = network(images)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise ShapeMismatch(
                    f"Images of shape {tuple(images.shape)} do not fit the {name} ({error}). Give images of the shape "
                    "that it takes, or build it for these."
                ) from error
        outputs.append(one_tensor(output, f"The {name} ({type(network).__name__})"))
        if not outputs[-1].is_meta and not outputs[-1].isfinite().all():
            raise NonFinite(
                f"The {name} ({type(network).__name__}) gives NaN or infinity. Train it again, or leave it out."
            )
    return outputs
