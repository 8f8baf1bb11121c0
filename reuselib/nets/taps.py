"""Reading what flows inside any network, without editing it; every hook is gone on leaving."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from reuselib.errors import ReuseError, unknown


class Seen(dict[str, Any]):
    """Outputs by the names of their modules; ReuseError for one that has not run."""

    def __missing__(self, name: str) -> Any:
        hint = "Run the network inside the context first, and not one that was traced, exported or compiled"
        raise ReuseError(f"{name!r} has not run. {hint}.")


@contextmanager
def tap(model: nn.Module, *names: str, copy: bool = False) -> Iterator[dict[str, Any]]:
    """Record the last output of some modules while the context is open.

    Args:
        model: any network.
        names: dotted module paths as in `model.named_modules()`, such as "blocks.1"; ``""`` is the network itself.
        copy: whether outputs are copied, so that a layer behind that works in place does not alter them.

    Yields:
        A dict from name to that module's last output, empty until a forward pass; graphs are kept. A name that has
        not run raises ReuseError.

    Raises:
        UnknownName: the network has no such module.
    """
    modules, outputs = dict(model.named_modules()), Seen()

    def recorder(name: str) -> Any:
        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            outputs[name] = output.clone() if copy and isinstance(output, Tensor) else output

        return record

    with ExitStack() as hooks:
        for name in names:
            if name not in modules:
                raise unknown("module", name, [path for path in modules if path])
            hooks.callback(modules[name].register_forward_hook(recorder(name)).remove)
        yield outputs


class Penultimate:
    """What the last linear layer to run has seen."""

    _value: Tensor | None = None

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
        lacking = f"{type(model).__name__} has no linear layer, so it has no penultimate features"
        raise ReuseError(f"{lacking}. Name the layer to read with tap(model, name) instead.")
    features = Penultimate()
    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_pre_hook(features._record, with_kwargs=True).remove)
        yield features
