"""What the batch norms of a network see, beside what they remember."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reuselib.cmi import losses
from reuselib.errors import ReuseError, unknown


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
    """Mean and biased variance of every channel over batch and pixels, differentiable.

    Args:
        maps: (B, C, H, W), of any floating type.

    Returns:
        Two tensors (C,), in single precision or wider.
    """
    return _Moments.apply(maps)


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

    Layers that do not run, an auxiliary classifier's for instance, are left out of both readings.

    Attributes:
        batch_norms: the network's batch norms, in the order of definition.
    """

    def __init__(self, batch_norms: list[nn.BatchNorm2d], featured: list[nn.Module]) -> None:
        self.batch_norms, self._featured = batch_norms, featured
        self._inputs: dict[nn.Module, Tensor] = {}

    def statistics_loss(self) -> Tensor:
        """:func:`~reuselib.cmi.losses.batch_norm_loss` of the latest pass: read it before the next one."""
        layers = self._run(self.batch_norms)
        means, variances = zip(*[channel_moments(self._inputs[layer]) for layer in layers], strict=True)
        return losses.batch_norm_loss(list(means), list(variances), layers)

    def features(self) -> Tensor:
        """What the featured layers were given, averaged over pixels and put side by side: (B, sum of channels)."""
        return torch.cat([_PixelMean.apply(self._inputs[layer]) for layer in self._run(self._featured)], 1)

    def _run(self, layers: Sequence[Any]) -> list[Any]:
        if not (found := [layer for layer in layers if layer in self._inputs]):
            raise ReuseError("The network has not run yet. Run it inside the context first.")
        return found

    def _record(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._inputs[layer] = inputs[0]


def batch_norms(network: nn.Module, needed: bool = True) -> list[nn.BatchNorm2d]:
    """The batch norms of a network that remember statistics of its training images.

    Raises:
        ReuseError: there is none, and one is needed.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None]
    if needed and not layers:
        raise ReuseError(
            f"{type(network).__name__} has no BatchNorm2d with running statistics, which DeepInversion, ADI, DFQ and "
            "CMI match. Invert it with a method that does without: 'dafl', 'zskt' or 'dfad', or Terms(batch_norm=0)."
        )
    return layers


@contextmanager
def watch(network: nn.Module, layers: Sequence[str] | None = None) -> Iterator[Watch]:
    """Record what the batch norms of a network are given while the context is open; the hooks go on leaving.

    Args:
        network: any network with batch norms, unless layers are named.
        layers: dotted names of the modules whose inputs (B, C, H, W) serve as features; every batch norm if left out.

    Yields:
        The watch, filled by each forward pass.

    Raises:
        ReuseError: no layers are named and the network has no batch norm.
        UnknownName: the network has no such module.
    """
    modules = dict(network.named_modules())
    if missing := [name for name in layers or () if name not in modules]:
        raise unknown("module", missing[0], [path for path in modules if path])
    found = batch_norms(network, needed=layers is None)
    featured: list[nn.Module] = list(found) if layers is None else [modules[name] for name in layers]
    seen = Watch(found, featured)
    with ExitStack() as hooks:
        for layer in {*found, *featured}:
            hooks.callback(layer.register_forward_pre_hook(seen._record).remove)
        yield seen
