"""What the batch norms of a network see, beside what they remember."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reuselib.cmi import losses
from reuselib.errors import ReuseError
from reuselib.nets.taps import check_open, listening, unwrapped

WIDEST = 8192
"""Features from which a head is trained, at most, unless layers are named."""


class _Moments(torch.autograd.Function):
    """Mean and biased variance per channel, from the batch norm's own kernel: ten times quicker than ``var_mean``."""

    EPS = 1e-8

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> tuple[Tensor, Tensor]:
        # Weights in the wide type make the kernel give wide statistics of a bfloat16 input.
        wide = torch.promote_types(maps.dtype, torch.float32)
        weight = torch.ones(maps.shape[1], dtype=wide, device=maps.device)
        bias = torch.zeros_like(weight)
        _, mean, scale = torch.native_batch_norm(maps, weight, bias, None, None, True, 0.0, _Moments.EPS)
        ctx.save_for_backward(maps, mean)
        return mean, scale.pow(-2) - _Moments.EPS

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        maps, mean = ctx.saved_tensors
        by_mean, by_variance = (gradient * maps.shape[1] / maps.numel() for gradient in gradients)
        slope, offset = 2 * by_variance, by_mean - 2 * mean * by_variance
        slope, offset = (values.to(maps.dtype).view(1, -1, 1, 1) for values in (slope, offset))
        return torch.addcmul(offset, maps, slope)


def channel_moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel over batch and places, differentiable.

    Args:
        maps: (B, C, ...), of any floating type.

    Returns:
        Two tensors (C,), in single precision or wider.
    """
    return _Moments.apply(_as_maps(maps))


def _as_maps(values: Tensor) -> Tensor:
    """What any kind of batch norm is given, (B, C, ...), as maps (B, C, H, W)."""
    return values if values.ndim == 4 else values.reshape(*values.shape[:2], -1, 1)


class _PixelMean(torch.autograd.Function):
    """Mean over pixels whose gradient has the memory layout of its input, so that adding it to others is quick."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.save_for_backward(maps)
        return maps.mean((2, 3), dtype=torch.promote_types(maps.dtype, torch.float32))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (maps,) = ctx.saved_tensors
        share = gradients[0].to(maps.dtype) / maps[0, 0].numel()
        return torch.empty_like(maps).copy_(share[:, :, None, None])


class Watch:
    """The inputs of some layers in the latest forward pass, graphs kept.

    Layers that do not run, an auxiliary classifier's for instance, are left out of both readings; one that is used
    twice is read twice.

    Attributes:
        batch_norms: the network's batch norms by their names, in the order of definition.
    """

    def __init__(self, batch_norms: dict[str, _BatchNorm], featured: Sequence[str]) -> None:
        self.batch_norms, self._featured = batch_norms, featured
        self._inputs: dict[str, list[Tensor]] = {}

    def statistics_loss(self) -> Tensor:
        """:func:`~reuselib.cmi.losses.batch_norm_loss` of the latest pass: read it before the next one."""
        seen = self._run(self.batch_norms)
        means, variances = zip(*[channel_moments(maps) for _, maps in seen], strict=True)
        return losses.batch_norm_loss(list(means), list(variances), [self.batch_norms[name] for name, _ in seen])

    def features(self) -> Tensor:
        """What the featured layers were given, averaged over pixels and put side by side: (B, sum of channels)."""
        return torch.cat([_PixelMean.apply(_as_maps(maps)) for _, maps in self._run(self._featured)], 1)

    def _run(self, names: Iterable[str]) -> list[tuple[str, Tensor]]:
        if not (found := [(name, maps) for name in names for maps in self._inputs.get(name, [])]):
            raise ReuseError("The network has not run yet. Run it inside the context first.")
        return found

    def _note(self, name: str, maps: Any) -> None:
        if not name:  # the network itself: a new pass begins
            self._inputs.clear()
        self._inputs.setdefault(name, []).append(maps)


def batch_norms(network: nn.Module, needed: bool = True) -> dict[str, _BatchNorm]:
    """The batch norms of a network, of any kind, that remember statistics of its training images, by their names.

    Raises:
        ReuseError: there is none, and one is needed.
    """
    modules = unwrapped(network).named_modules()
    found = {name: each for name, each in modules if isinstance(each, _BatchNorm) and each.running_mean is not None}
    if needed and not found:
        raise ReuseError(
            f"{type(network).__name__} has no batch norm with running statistics, which DeepInversion, ADI, DFQ and "
            "CMI match. Invert it with a method that does without: 'dafl', 'zskt' or 'dfad', or Terms(batch_norm=0)."
        )
    return found


def spread(network: nn.Module) -> tuple[str, ...] | None:
    """Which batch norms to read features from: every one (``None``), or so few that a head on them is affordable.

    A head is quadratic in the channels. Where all would give it more than ``WIDEST``, every second batch norm is
    chosen, or every third, and so on, counted from the last; a warning says what that spares.
    """
    names = list(batch_norms(network, needed=False).items())
    channels = [layer.num_features for _, layer in names]
    if sum(channels) <= WIDEST:
        return None
    step = next((k for k in range(2, len(names)) if sum(channels[::-k]) <= WIDEST), len(names))
    warnings.warn(
        f"The contrast reads {len(names[::-step])} of {len(names)} batch norms, {sum(channels[::-step]):,} of "
        f"{sum(channels):,} channels: with all, its head would have {sum(channels) ** 2 / 1e6:,.0f} million weights to "
        "train. Give layers=(...) to choose.",
        stacklevel=4,
    )
    return tuple(name for name, _ in names[::-step][::-1])


@contextmanager
def watch(network: nn.Module, layers: Sequence[str] | None = None) -> Iterator[Watch]:
    """Record what the batch norms of a network are given while the context is open; the hooks go on leaving.

    Args:
        network: any network with batch norms, unless layers are named.
        layers: dotted names of the modules whose inputs (B, C, ...) serve as features; every batch norm if left out.

    Yields:
        The watch, filled by each forward pass.

    Raises:
        ReuseError: no layers are named and the network has no batch norm, or it was traced, scripted or exported.
        UnknownName: the network has no such module.
    """
    check_open(network)
    found = batch_norms(network, needed=layers is None)
    seen = Watch(found, list(found) if layers is None else layers)
    with listening(network, seen._note, dict.fromkeys(("", *found, *(layers or ()))), inputs=True):
        yield seen
