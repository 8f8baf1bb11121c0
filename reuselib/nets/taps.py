"""Reading what flows inside any network, without editing it; every hook is gone on leaving."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from reuselib.errors import ReuseError, unknown


@contextmanager
def tap(model: nn.Module, *names: str) -> Iterator[dict[str, Any]]:
    """Record the last output of some modules while the context is open.

    Args:
        model: any network.
        names: dotted module paths as in `model.named_modules()`, such as "blocks.1".

    Yields:
        A dict from name to that module's last output, empty until a forward pass; graphs are kept. A layer
        that works in place on a tapped output alters it.

    Raises:
        UnknownName: the network has no such module.
    """
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            raise unknown("module", name, [path for path in modules if path])
    outputs: dict[str, Any] = {}
    with ExitStack() as hooks:
        for name in names:
            hook = modules[name].register_forward_hook(_recorder(outputs, name))
            hooks.callback(hook.remove)
        yield outputs


def _recorder(outputs: dict[str, Any], name: str) -> Any:
    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        outputs[name] = output

    return record


class Penultimate:
    """What the last linear layer to run has seen."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._value: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """The input (B, D) of the linear layer that ran last; ReuseError before any forward pass."""
        if self._value is None:
            raise ReuseError("nothing has been recorded yet. Run the network inside the context first.")
        return self._value

    def _record(self, module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        self._value = inputs[0] if inputs else named["input"]


@contextmanager
def penultimate(model: nn.Module) -> Iterator[Penultimate]:
    """Record the input of the network's last linear layer: its features, for most classifiers.

    "Last" is the linear layer that runs last in a forward pass, whatever the order of definition.

    Args:
        model: any network with at least one `nn.Linear`.

    Yields:
        An object whose `.value` holds the features (B, D) of the latest forward pass, graph kept.

    Raises:
        ReuseError: the network has no linear layer.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ReuseError(
            f"{type(model).__name__} has no linear layer, so it has no penultimate features. "
            "Name the layer to read with tap(model, name) instead."
        )
    features = Penultimate()
    with ExitStack() as hooks:
        for layer in layers:
            hook = layer.register_forward_pre_hook(features._record, with_kwargs=True)
            hooks.callback(hook.remove)
        yield features
