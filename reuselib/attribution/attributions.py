"""Attribution: what of an image a network's representation comes from.

Every method explains ``T(x) = sum_u E(x)_u``, the sum of all units of the representation, in one backward pass. The
network runs in evaluation mode and comes back as it was: parameters, gradients, buffers, modes, hooks.

Source: Song et al. 2019 (NeurIPS); the methods as in Ancona et al. 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from reuselib import checks, run
from reuselib.attribution.losses import slope
from reuselib.attribution.representation import Represent, check_apart, represent
from reuselib.errors import ReuseError

EPSILON = 1e-4
"""The ε of ε-LRP: that of the library which the official code calls."""

Attribution = Callable[[nn.Module, Tensor, Represent], Tensor]
"""Network, images (n, C, H, W) and where its representation is → attributions of the shape of the images."""


def total(network: nn.Module, images: Tensor, where: Represent = None) -> Tensor:
    """``T(x) = sum_u E(x)_u``, the number that is explained: (n,), with its graph.

    Equation: `attribution-total`.
    """
    # Times one: layers that work in place may not alter a leaf.
    return represent(network, images * 1, where).reshape(len(images), -1).sum(1)


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
        (gradient,) = torch.autograd.grad(total(network, x, where).sum(), x)
    return images.detach() * gradient


def saliency(network: nn.Module, images: Tensor, where: Represent = None) -> Tensor:
    """``|∂T/∂x|``, the absolute value of each entry: (n, C, H, W), for images as in :func:`gradient_times_input`."""
    return attributed("Saliency", network, images, where)


def input_x_gradient(network: nn.Module, images: Tensor, where: Represent = None) -> Tensor:
    """``x ⊙ ∂T/∂x``, signed: (n, C, H, W), for images as in :func:`gradient_times_input`."""
    return attributed("InputXGradient", network, images, where)


def epsilon_lrp(network: nn.Module, images: Tensor, where: Represent = None, epsilon: float = EPSILON) -> Tensor:
    """``x ⊙ ∂ᵍT/∂x``: as gradient x input, but the derivative of a nonlinearity is :func:`~losses.slope`.

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
        ReuseError: the network holds something that has no rule, or is traced or exported, which hides its functions.
        BadValue: ε is not above zero.

    Source: Ancona et al. 2018, proposition 1; it equals the ε-rule of Bach et al. 2015 for such networks.
    """
    checks.number(above=True, epsilon=epsilon)
    return attributed("InputXGradient", network, images, where, EpsilonRule(epsilon))


METHODS: dict[str, Attribution] = {method.__name__: method for method in (saliency, input_x_gradient, epsilon_lrp)}


def attributed(
    name: str, network: nn.Module, images: Tensor, where: Represent, rule: EpsilonRule | None = None
) -> Tensor:
    """The attributions of images by a method of captum: ``|∂T/∂x|``, ``x ⊙ ∂T/∂x``, or the same with other slopes.

    Equation: `attribution-maps`.

    Args:
        name: captum's, "Saliency" or "InputXGradient".
        network: as in :func:`gradient_times_input`.
        images: likewise.
        where: likewise.
        rule: what gives nonlinearities other slopes.

    Raises:
        ReuseError: no gradient reaches the images, or the rule has none for an operation.
    """
    from captum import attr  # slow to import: it loads matplotlib

    check_apart(network, images)
    with run.frozen(network), torch.enable_grad(), rule or nullcontext():
        if rule is not None:
            check_linear(network, images[:1].detach(), where)
        method = getattr(attr, name)(partial(total, network, where=where))
        return method.attribute(images.detach().requires_grad_()).detach()


# --- the rule of ε-LRP ------------------------------------------------------------------------------------------------

_ACTIVATIONS = (
    "relu relu6 elu celu selu leaky_relu rrelu prelu gelu silu mish hardtanh hardswish hardsigmoid sigmoid logsigmoid "
    "tanh softplus softsign"
).split()
_OVERRIDDEN = {
    getattr(place, name + ending)
    for place in (torch, F, Tensor)
    for name in _ACTIVATIONS
    for ending in ("", "_")
    if hasattr(place, name + ending)
}


class Secant(torch.autograd.Function):
    """An activation function whose derivative is :func:`~reuselib.attribution.losses.slope`."""

    @staticmethod
    def forward(context: Any, z: Tensor, function: Callable[[Tensor], Tensor], epsilon: float) -> Tensor:
        """Answer as the function does, and keep the slope."""
        a = function(z)
        context.save_for_backward(slope(a, z, epsilon))
        return a

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Multiply by the slope."""
        return gradient * context.saved_tensors[0], None, None


class EpsilonRule(TorchFunctionMode):
    """While this context is open, every activation function that PyTorch is asked for has the slope of ε-LRP.

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
            return Secant.apply(z, lambda x: function(x, *rest, **kwargs), self.epsilon)
        return z.copy_(Secant.apply(z.clone(), lambda x: function(x.clone(), *rest, **kwargs), self.epsilon))


def check_linear(network: nn.Module, image: Tensor, where: Represent) -> None:
    """Raise ReuseError unless the total is linear in an image once its activation functions have slopes.

    It is where the gradient does not depend on the image: its derivative is exactly zero. So is that of a ReLU which
    nobody was asked for by name, in a traced or exported network; it is found in the graph of the total.
    """
    x = image.detach().clone().requires_grad_()
    sums = total(network, x, where).sum()
    (gradient,) = torch.autograd.grad(sums, x, create_graph=True)
    try:
        second = torch.autograd.grad(gradient, x, image, allow_unused=True)[0] if gradient.requires_grad else None
    except RuntimeError:  # fused attention has no second derivative
        second = torch.ones(1)
    if hidden(sums) or (second is not None and not second.is_meta and second.any()):
        raise ReuseError(
            f"ε-LRP has no rule for something in {type(network).__name__} that is not linear in the images, such as "
            "attention, a layer norm, or an activation function inside a traced or exported network. Use "
            "method='input_x_gradient', explain a module before it (where='...'), or give the network itself."
        )


def hidden(result: Tensor) -> bool:
    """Whether an activation function, or a scripted part, took part in a result without its rule."""
    names = ("differentiablegraph", "clamp", "threshold", *(name.replace("_", "") for name in _ACTIVATIONS))
    waiting, seen = [result.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            if node.name().lower().rpartition("::")[2].startswith(names):
                return True
            seen.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    return False
