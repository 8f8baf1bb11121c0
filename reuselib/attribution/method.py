"""Attribution maps: what of an image a network's representation comes from.

Every method explains ``T(x) = sum_u E(x)_u``, the sum of all units of the representation, in one backward pass. The
network runs in evaluation mode and comes back as it was: parameters, gradients, buffers, modes, hooks.

Source: Song et al. 2019 (NeurIPS); the methods as in Ancona et al. 2018.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from reuselib import run
from reuselib.attribution.representation import Images, Represent, batches_of, check_apart, enough_memory, represent
from reuselib.errors import ReuseError, unknown

EPSILON = 1e-4
"""The ε of ε-LRP: that of the library which the official code calls."""

Method = Callable[[nn.Module, Tensor, Represent], Tensor]
"""Network, images (n, C, H, W) and where its representation is → attributions of the shape of the images."""

Reduce = Callable[[Tensor], Tensor]
"""Attributions (n, C, H, W) → maps (n, h, w)."""


def gradient_times_input(network: nn.Module, images: Tensor, where: Represent = None) -> Tensor:
    """``x ⊙ ∂T/∂x`` in plain PyTorch, to be read: what :func:`input_x_gradient` gives.

    Args:
        network: any network.
        images: (n, C, H, W), as the network takes them, on its device.
        where: its representation, see :func:`~reuselib.attribution.representation.represent`.

    Returns:
        (n, C, H, W), signed.
    """
    with run.frozen(network), torch.enable_grad():  # evaluation mode: the images of a batch do not mix
        x = images.detach().clone().requires_grad_()
        total = represent(network, x * 1, where).sum()  # all units of all images
        (gradient,) = torch.autograd.grad(total, x)
    return images.detach() * gradient


def saliency(network: nn.Module, images: Tensor, where: Represent = None) -> Tensor:
    """``|∂T/∂x|``, the absolute value of each entry: (n, C, H, W), for images as in :func:`gradient_times_input`."""
    return _through_captum("Saliency", network, images, where)


def input_x_gradient(network: nn.Module, images: Tensor, where: Represent = None) -> Tensor:
    """``x ⊙ ∂T/∂x``, signed: (n, C, H, W), for images as in :func:`gradient_times_input`."""
    return _through_captum("InputXGradient", network, images, where)


def epsilon_lrp(network: nn.Module, images: Tensor, where: Represent = None, epsilon: float = EPSILON) -> Tensor:
    """``x ⊙ ∂ᵍT/∂x``: as gradient x input, but the derivative of a nonlinearity f at z is ``f(z) / (z + ε sign z)``.

    Activation functions are met wherever they stand: modules, functions, in place or not. What else is not linear in
    the images (softmax, layer norm, a product of two activations) has no rule here; max pooling keeps its routing.

    Args:
        network: any network of linear layers, activation functions and pooling.
        images: as in :func:`gradient_times_input`.
        where: likewise.
        epsilon: above zero; sign 0 is +1.

    Returns:
        (n, C, H, W), signed.

    Raises:
        ReuseError: the network holds something that has no rule; the message names it.

    Source: Ancona et al. 2018, proposition 1; it equals the ε-rule of Bach et al. 2015 for such networks.
    """
    if epsilon <= 0:
        raise ReuseError(f"ε must be above 0, not {epsilon}. The paper's is {EPSILON}.")
    with EpsilonRule(epsilon):
        return _through_captum("InputXGradient", network, images, where, _check_rules)


METHODS: dict[str, Method] = {"saliency": saliency, "input_x_gradient": input_x_gradient, "epsilon_lrp": epsilon_lrp}


def _through_captum(
    name: str, network: nn.Module, images: Tensor, where: Represent, check: Callable[[Tensor], None] | None = None
) -> Tensor:
    from captum import attr  # slow to import: it loads matplotlib

    def total(x: Tensor) -> Tensor:
        sums = represent(network, x * 1, where).flatten(1).sum(1)  # times one: layers in place may not alter a leaf
        if not sums.requires_grad:
            raise ReuseError(
                f"No gradient reaches the images through {type(network).__name__}. Does its forward pass detach, or "
                "run under no_grad? Name a module before that (represent='...')."
            )
        if check is not None:
            check(sums)
        return sums

    check_apart(network, images)
    with run.frozen(network), torch.enable_grad():
        return getattr(attr, name)(total).attribute(images.detach().requires_grad_()).detach()


# --- the rule of ε-LRP ------------------------------------------------------------------------------------------------

_ACTIVATIONS = (
    "relu",
    "relu6",
    "elu",
    "celu",
    "selu",
    "leaky_relu",
    "rrelu",
    "prelu",
    "gelu",
    "silu",
    "mish",
    "hardtanh",
    "hardswish",
    "hardsigmoid",
    "sigmoid",
    "logsigmoid",
    "tanh",
    "softplus",
    "softsign",
)
_OVERRIDDEN = {
    getattr(place, name + ending)
    for place in (torch, F, Tensor)
    for name in _ACTIVATIONS
    for ending in ("", "_")
    if hasattr(place, name + ending)
}


class _Secant(torch.autograd.Function):
    """An activation function whose derivative is ``f(z) / (z + ε sign z)``."""

    @staticmethod
    def forward(context: Any, z: Tensor, function: Callable[[Tensor], Tensor], epsilon: float) -> Tensor:
        a = function(z)
        context.save_for_backward(a / torch.where(z >= 0, z + epsilon, z - epsilon))
        return a

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = context.saved_tensors
        return gradient * slope, None, None


class EpsilonRule(TorchFunctionMode):
    """While this context is open, every activation function that PyTorch is asked for has the derivative of ε-LRP.

    Args:
        epsilon: above zero.
    """

    def __init__(self, epsilon: float = EPSILON) -> None:
        super().__init__()
        self.epsilon = epsilon

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Take the place of activation functions (called by PyTorch)."""
        kwargs = dict(kwargs or {})
        if function not in _OVERRIDDEN:
            return function(*args, **kwargs)
        z, *rest = args or (kwargs.pop("input"),)
        in_place = kwargs.pop("inplace", False) or function.__name__.endswith("_")
        if not in_place:
            return _Secant.apply(z, lambda x: function(x, *rest, **kwargs), self.epsilon)
        return z.copy_(_Secant.apply(z.clone(), lambda x: function(x.clone(), *rest, **kwargs), self.epsilon))


# What the backward pass may be made of: operations that are linear in the images, or linear once a maximum is chosen.
_LINEAR = set(
    "_Secant AccumulateGrad Add Alias AsStrided Cat Chunk Clone ConstantPadNd Copy CopySlices Diagonal Expand "
    "Flip Gather Index IndexSelect Narrow Neg Permute PixelShuffle PixelUnshuffle Repeat ReshapeAlias Roll Rsub Select "
    "Slice Split SplitWithSizes Squeeze Stack Sub Sum Mean T ToCopy Transpose Unbind UnsafeSplit UnsafeView Unsqueeze "
    "View ViewAs Unfold Im2Col Col2Im "
    "AvgPool1D AvgPool2D AvgPool3D AdaptiveAvgPool1D AdaptiveAvgPool2D AdaptiveAvgPool3D MkldnnAdaptiveAvgPool2D "
    "MaxPool2DWithIndices MaxPool3DWithIndices AdaptiveMaxPool2D AdaptiveMaxPool3D MaxPool2D Amax Max "
    "ReflectionPad1D ReflectionPad2D ReflectionPad3D ReplicationPad1D ReplicationPad2D ReplicationPad3D "
    "UpsampleNearest1D UpsampleNearest2D UpsampleNearestExact2D UpsampleBilinear2D UpsampleBicubic2D "
    "UpsampleLinear1D UpsampleBilinear2DAa UpsampleBicubic2DAa".split()
)
# Products: linear only if one factor alone depends on the images. Value: the places of the factors among the inputs.
_PRODUCTS = {name: (0, 1) for name in ("Mul", "Mm", "Mv", "Bmm", "Dot", "Linear", "GridSampler2D")} | {
    name: (1, 2) for name in ("Addmm", "Addmv", "Addbmm", "Baddbmm")
}
# First input linear, all others without a gradient.
_FIRST = {
    "Convolution",
    "ConvolutionOverrideable",
    "MpsConvolution",
    "MkldnnConvolution",
    "Div",
    "NativeBatchNorm",
    "CudnnBatchNorm",
    "MiopenBatchNorm",
    "BatchNormWithUpdate",
}


def _nodes(total: Tensor) -> Iterator[Any]:
    """Every operation between the images and the total."""
    stack, seen = [total.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            stack += [before for before, _ in node.next_functions]


def _check_rules(total: Tensor) -> None:
    """Raise ReuseError if the total depends on the images through something that ε-LRP has no rule for."""
    for node in _nodes(total):
        name = re.sub(r"Backward\w*$", "", type(node).__name__)
        inputs = [before is not None for before, _ in node.next_functions]
        if name in _PRODUCTS:
            first, second = _PRODUCTS[name]
            fine = not (inputs[first] and inputs[second])
        else:
            fine = name in _LINEAR or (name in _FIRST and not any(inputs[1:]))
        if not fine or getattr(node, "_saved_training", False):
            what = "a norm by the statistics of the batch" if name in _FIRST and fine else f"an operation {name!r}"
            raise ReuseError(
                f"ε-LRP has no rule for {what} that is not linear in the images (activation functions are known). Use "
                "method='input_x_gradient', or explain a module before it (represent='...')."
            )


# --- from attributions to maps ----------------------------------------------------------------------------------------


def channel_mean(attributions: Tensor) -> Tensor:
    """The signed mean over the channels: (n, C, H, W) → (n, H, W). For model selection."""
    return attributions.mean(1)


def absolute_channel_mean(attributions: Tensor) -> Tensor:
    """The mean of absolute values over the channels: (n, C, H, W) → (n, H, W). For layer selection (DEPARA)."""
    return attributions.abs().mean(1)


def pooled(side: int, reduce: Reduce = channel_mean) -> Reduce:
    """Maps averaged over squares of ``side`` x ``side`` pixels after ``reduce``; an extension of the papers."""
    return lambda attributions: F.avg_pool2d(reduce(attributions), side)


@dataclass(frozen=True, eq=False)
class Explanation:
    """What one pass over the probes gives for one network.

    Attributes:
        maps: (n, H, W).
        features: the representations, (n, U).
    """

    maps: Tensor
    features: Tensor


class _Recorder:
    """Finds a representation and remembers its values."""

    def __init__(self, where: Represent) -> None:
        self.where, self.features = where, torch.empty(0)

    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        found = represent(network, images, self.where)
        self.features = found.detach().reshape(len(found), -1)
        return found


def method_called(method: str | Method) -> Method:
    """The attribution method of a name, or the function itself.

    Raises:
        UnknownName: there is no such method.
    """
    if not isinstance(method, str):
        return method
    if method not in METHODS:
        raise unknown("attribution method", method, METHODS)
    return METHODS[method]


def explain(
    network: nn.Module,
    images: Images,
    method: str | Method = "input_x_gradient",
    *,
    represent: Represent = None,
    reduce: Reduce = channel_mean,
    batch: int = 64,
) -> Explanation:
    """One pass over the probes: maps and features together.

    Args:
        network: any network; it is left as it was.
        images: float (n, C, H, W) as the network takes them, or an image set; moved to the network's device and type.
        method: a key of ``METHODS``, or a function like them.
        represent: where the representation is; found by itself in most networks, see
            :func:`~reuselib.attribution.representation.represent`.
        reduce: attributions → maps.
        batch: images at a time; the result depends on it by rounding only.

    Returns:
        Maps and features on the network's device.

    Raises:
        UnknownName: there is no such method or module.
        ShapeMismatch: the images are of another kind, or do not fit the network.
        DeviceError: the device ran out of memory.
    """
    attribute, maps, features = method_called(method), [], []
    for rows in batches_of(images, batch, network):
        recorder = _Recorder(represent)
        with enough_memory(rows):
            maps.append(reduce(attribute(network, rows, recorder)))
        features.append(recorder.features)
    return Explanation(torch.cat(maps), torch.cat(features))


def maps(
    network: nn.Module,
    images: Images,
    method: str | Method = "input_x_gradient",
    *,
    represent: Represent = None,
    reduce: Reduce = channel_mean,
    batch: int = 64,
) -> Tensor:
    """The attribution maps (n, H, W) of probe images; arguments and errors as in :func:`explain`."""
    return explain(network, images, method, represent=represent, reduce=reduce, batch=batch).maps
