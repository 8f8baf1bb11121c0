"""What a network makes of images before it answers: the representation that is explained and compared."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from reuselib import checks, run
from reuselib.attribution.losses import finite
from reuselib.data import ImageSet
from reuselib.data.image_set import GREY_WEIGHTS, Statistics
from reuselib.errors import DeviceError, ReuseError, ShapeMismatch
from reuselib.nets import tap
from reuselib.nets.taps import check_open, listening, unwrapped

Represent = str | Callable[[nn.Module, Tensor], Tensor] | None
"""Where a representation is found: a module's dotted name, a function of network and images, or by itself."""

Images = Tensor | ImageSet
"""Probe images: float (n, C, H, W) as the networks take them, or an image set, which is normalised on the way."""


def represent(network: nn.Module, images: Tensor, where: Represent = None) -> Tensor:
    """Give the representation of images, with its graph.

    Left to itself the function takes, in this order: what the network's own method ``represent(images)`` gives; what
    comes before the logits in a network with timm's ``forward_features`` and ``forward_head``; the input of the last
    layer with weights that runs, if that is linear or a convolution (the classifier); the network's output, if that
    layer is a norm (a network without a classifier).

    Args:
        network: any network; hooks that this needs are gone on return, also after an exception.
        images: as the network takes them, on its device.
        where: the dotted name of a module whose output is the representation (``""`` is the network itself), or a
            function of network and images.

    Returns:
        (n, ...), floating point.

    Raises:
        UnknownName: the network has no such module.
        ShapeMismatch: the network does not take such images.
        DeviceError: the device ran out of memory.
        ReuseError: what was found is not one tensor with a row for each image, or hangs on none of them.
    """
    with telling(network, images):
        found = _find(unwrapped(network), images, where)
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.shape[:1] != images.shape[:1]:
        form = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ReuseError(
            f"The representation of {type(network).__name__} should be one float tensor with {len(images)} rows, not "
            f"{form}. Name the module to read (where='encoder'), or give a function of network and images."
        )
    if images.requires_grad and torch.is_grad_enabled() and not found.requires_grad:
        name = type(network).__name__
        raise ReuseError(f"No gradient reaches the images through {name}. Name a module before it stops (where='...').")
    return found


@contextmanager
def telling(network: nn.Module, images: Tensor) -> Iterator[None]:
    """Turn what PyTorch raises in a pass of a network into errors that name the fix.

    Raises:
        ShapeMismatch: the network does not take such images.
        DeviceError: the device ran out of memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        less = max(1, len(images) // 2)
        raise DeviceError(f"The device ran out of memory on {len(images)} images. Try batch={less}.") from error
    except (RuntimeError, AssertionError) as error:
        if isinstance(error, ReuseError):
            raise
        raise ShapeMismatch(
            f"{type(network).__name__} does not take images of shape {tuple(images.shape)} and type {images.dtype} "
            f"({error}). Give images that it was made for, or the way to make them so (prepare=...)."
        ) from error


def _find(network: nn.Module, images: Tensor, where: Represent) -> Any:
    if where == "":  # also of a scripted network, on which no hook can hang
        return network(images)
    if isinstance(where, str):
        with tap(network, where, copy=True) as seen:
            network(images)
        return seen[where]
    if where is not None:
        return where(network, images)
    own, trunk, head = (_function(network, name) for name in ("represent", "forward_features", "forward_head"))
    if own:
        return own(images)
    if trunk and head and "pre_logits" in inspect.signature(head).parameters:
        return head(trunk(images), pre_logits=True)
    return _before_classifier(network, images)


def _function(network: nn.Module, name: str) -> Callable[..., Any] | None:
    found = getattr(network, name, None)
    return None if isinstance(found, nn.Module) else found


def _before_classifier(network: nn.Module, images: Tensor) -> Any:
    """The input of the last layer with weights, or the output of a network that ends in a norm."""
    last: dict[str, Any] = {}

    def note(name: str, value: Any) -> None:
        last.clear()
        last[name] = value

    check_open(network)
    modules = dict(unwrapped(network).named_modules())
    layers = [name for name, module in modules.items() if any(True for _ in module.parameters(recurse=False))]
    with listening(network, note, layers, inputs=True, copy=True):
        output = network(images)
    return next((seen for name, seen in last.items() if isinstance(modules[name], nn.Linear | _ConvNd)), output)


def check_apart(network: nn.Module, images: Tensor) -> None:
    """Raise ReuseError where a batch norm without running statistics would mix the images of a batch."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    if len(images) > 1 and any(norm.running_mean is None for norm in norms):
        what = f"{type(network).__name__} has batch norms without running statistics, which mix the images of a batch"
        raise ReuseError(f"{what}. Give one image at a time (batch=1).")


def rows_of(images: Images, part: slice, network: nn.Module | None = None) -> Tensor:
    """Some of the probe images, normalised, on the network's device and in its floating point type.

    Raises:
        ShapeMismatch: the images are not float (n, C, H, W) and no image set either.
        DeviceError: they have no values.
    """
    if isinstance(images, ImageSet):
        rows = images.normalised(images.images[part])
    elif isinstance(images, Tensor) and images.ndim == 4 and images.is_floating_point():
        rows = images[part]
    else:
        form = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise ShapeMismatch(f"Probe images must be float (n, C, H, W), normalised, or an ImageSet, not {form}.")
    first = next((p for p in network.parameters() if p.is_floating_point()), None) if network is not None else None
    if rows.is_meta and first is not None and not first.is_meta:
        raise DeviceError(f"The probe images are on meta, where nothing has a value. Make them on {first.device}.")
    return rows if first is None else rows.to(first.device, first.dtype)


def batches_of(images: Images, batch: int, network: nn.Module) -> Iterator[Tensor]:
    """The probe images in order, a batch at a time, as :func:`rows_of` gives them.

    Raises:
        BadValue: there is no image, or the batch is no whole number of at least one.
        ShapeMismatch: as in :func:`rows_of`.
    """
    rows_of(images, slice(0, 0))
    checks.whole(batch=batch, probe_images=len(images))
    for start in range(0, len(images), batch):
        yield rows_of(images, slice(start, start + batch), network)


def features(
    network: nn.Module, images: Images, *, where: Represent = None, pooled: bool = False, batch: int = 256
) -> Tensor:
    """The representations of probe images, as a matrix.

    Args:
        network: as in :func:`represent`; it is left as it was.
        images: the probes.
        where: as in :func:`represent`.
        pooled: whether maps (n, C, h, w) are averaged over their places.
        batch: images at a time.

    Returns:
        (n, U) on the network's device.

    Raises:
        ShapeMismatch: what should be pooled are no maps, but tokens for instance.
        NonFinite: they hold NaN or infinity.

    Example:
        >>> from reuselib import attribution, data
        >>> from reuselib.nets import zoo
        >>> network = zoo.load("digits8-conv3", "cpu")
        >>> len(attribution.features(network, data.load("digits").take(16, seed=0)))
        16
    """
    parts = []
    with run.frozen(network), torch.no_grad():
        for rows in batches_of(images, batch, network):
            check_apart(network, rows)
            found = represent(network, rows, where)
            if pooled and found.ndim not in (1, 2, 4):
                raise ShapeMismatch(f"Only maps (n, C, h, w) have places to pool, not {tuple(found.shape)}.")
            parts.append(found.flatten(2).mean(2) if pooled and found.ndim == 4 else found.reshape(len(rows), -1))
    finite(features=torch.cat(parts))
    return torch.cat(parts)


class Adapted(nn.Module):
    """A network behind what makes its images of those that all are given, so that every map is of the same pixels.

    Args:
        network: any.
        channels: 1 or 3, that it takes.
        side: pixels a side, that it takes.
        normalisation: mean and standard deviation of each channel that it takes.
    """

    grey: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, channels: int, side: int, normalisation: Statistics) -> None:
        super().__init__()
        self.network, self.channels, self.side = network, channels, side
        for name, values in zip(("grey", "mean", "std"), (GREY_WEIGHTS, *normalisation), strict=True):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    def adapted(self, images: Tensor) -> Tensor:
        """Coloured images in [-1, 1], as the network takes them."""
        x = images / 2 + 0.5
        x = (x * self.grey).sum(1, keepdim=True) if self.channels == 1 else x
        if self.side < x.shape[-1] and x.shape[-1] % self.side == 0:
            x = F.avg_pool2d(x, x.shape[-1] // self.side)
        elif self.side != x.shape[-1]:
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False)
        return (x - self.mean) / self.std

    def represent(self, images: Tensor) -> Tensor:
        """The network's representation."""
        return represent(self.network, self.adapted(images))

    def forward(self, images: Tensor) -> Any:
        """Give what the network gives."""
        return self.network(self.adapted(images))
