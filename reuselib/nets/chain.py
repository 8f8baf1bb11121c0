"""A strictly sequential network taken apart: its layers, and what lies between them."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from reuselib.errors import ReuseError
from reuselib.nets.layers import Classifier


@dataclass(frozen=True, eq=False)
class Link:
    """One layer with weights of a sequential network, and what its input goes through before.

    The modules are the network's own, not copies.

    Attributes:
        name: of the layer, as in ``network.named_modules()``.
        between: from the layer before to this one: activation, pooling, flattening, dropout; may be empty.
        layer: a convolution or a linear layer; its output is the pre-activation.
    """

    name: str
    between: nn.Sequential
    layer: nn.Conv2d | nn.Linear

    @property
    def spatial(self) -> bool:
        """Whether the output is a map (B, C, H, W), not a vector (B, C)."""
        return isinstance(self.layer, nn.Conv2d)

    @property
    def width(self) -> int:
        """Channels of the output."""
        return self.layer.out_channels if isinstance(self.layer, nn.Conv2d) else self.layer.out_features

    def __call__(self, inputs: Tensor) -> Tensor:
        """Give the layer's output for the output of the layer before, which is left as it is."""
        if works_in_place(self.between):
            inputs = inputs.clone()
        return self.layer(self.between(inputs))


def works_in_place(network: nn.Module) -> bool:
    """Whether a module, an in-place ReLU for instance, overwrites what it is given."""
    return any(vars(module).get("inplace", False) for module in network.modules())


def chain_of(network: nn.Module) -> list[Link]:
    """Take a sequential network apart.

    Args:
        network: a `Classifier` or an `nn.Sequential`, nested at will, of convolutions, linear layers and modules
            without weights; a PReLU may stand between layers too.

    Returns:
        Its layers, first to last. To apply them one after the other is to apply the network.

    Raises:
        ReuseError: it is not such a network: a residual block or a batch norm, a layer that is used twice, or
            something behind the last layer.
    """
    links: list[Link] = []
    between: list[nn.Module] = []
    for name, module in _members(network, ""):
        if not isinstance(module, nn.Conv2d | nn.Linear):
            _check(network, name, module)
            between.append(module)
            continue
        if any(module is link.layer for link in links):
            raise ReuseError(f"{name!r} of {_called(network)} is used twice. Give each place a layer of its own.")
        links.append(Link(name, nn.Sequential(*between), module))
        between = []
    if not links:
        raise ReuseError(f"{_called(network)} has no convolution and no linear layer to take apart.")
    if between:
        behind = f"{_called(network)} goes on behind its last layer {links[-1].name!r} with {_called(between[0])}"
        raise ReuseError(f"{behind}. Build it so that the last layer gives the logits.")
    return links


def _members(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules that a sequential network applies one after the other, by their dotted names."""
    forward = type(module).forward
    if forward is Classifier.forward:
        parts = [(part, getattr(module, part)) for part in ("blocks", "pool", "head")]
    elif forward is nn.Sequential.forward:
        parts = [(part, child) for part, child in module._modules.items() if child]  # with what is used again
    else:
        yield name, module
        return
    for part, child in parts:
        yield from _members(child, f"{name}.{part}" if name else part)


def _check(network: nn.Module, name: str, module: nn.Module) -> None:
    """Raise ReuseError for a module that has something of its own, which would be lost."""
    if isinstance(module, nn.PReLU) or not (list(module.parameters()) + list(module.buffers())):
        return
    odd = f"{name or 'it'!r} is a {_called(module)}, not a convolution, a linear layer or a module without weights"
    raise ReuseError(
        f"{_called(network)} cannot be taken apart: {odd}. Build a plain network (nets.plain_vgg, nets.alexnet), or "
        "use a method that takes any network, such as OneStageAmalgamation."
    )


def _called(module: nn.Module) -> str:
    return type(module).__name__
