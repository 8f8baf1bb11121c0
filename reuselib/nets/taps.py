"""Reading what flows inside any network, without editing it; every hook of the library hangs here, and is gone after.

A network that `torch.compile` made runs uncompiled while it is watched; what was traced, scripted or exported runs
where no hook looks, and is refused.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reuselib.errors import ReuseError, unknown
from reuselib.run.method import _parts

Note = Callable[[str, Any], object]


def unwrapped(network: nn.Module) -> nn.Module:
    """The network itself, where `torch.compile` has wrapped it."""
    return getattr(network, "_orig_mod", network)


def check_open(network: nn.Module, name: str | None = None) -> None:
    """Raise ReuseError where modules, or one of them, lie inside what was traced, scripted or exported."""
    for above, module in unwrapped(network).named_modules():
        if _closed(module) and (name is None or (name != above and name.startswith(f"{above}." if above else ""))):
            raise ReuseError(
                f"{type(network).__name__} was traced, scripted or exported: what runs inside cannot be watched. "
                "Give the network that it was made from."
            )


def _closed(module: nn.Module) -> bool:
    """Whether the parts of a module do not run one by one."""
    if isinstance(module, torch.fx.GraphModule):
        called = {str(node.target).partition(".")[0] for node in module.graph.nodes if node.op == "call_module"}
        return any(
            name not in called and any(True for _ in part.parameters()) for name, part in module.named_children()
        )
    return isinstance(module, torch.jit.ScriptModule)


@contextmanager
def listening(
    network: nn.Module, note: Note, names: Iterable[str] | None = None, *, inputs: bool = False, copy: bool = False
) -> Iterator[None]:
    """Tell what modules give, or are given, whenever they run; a module that is used twice is told of twice.

    Args:
        network: any network.
        note: called with a module's name and its output, as it is at that moment: a module behind that works in place
            does not alter it.
        names: dotted module paths as in `network.named_modules()`; all if left out. ``""`` is the network itself.
        inputs: whether the first input is told, before the module runs, in place of the output.
        copy: whether a copy is told also where gradients are recorded and no module is known to work in place.

    Raises:
        UnknownName: the network has no such module.
        ReuseError: a module lies inside what was traced, scripted or exported.
    """
    own = unwrapped(network)
    watched = list(own.named_modules()) if names is None else [(name, _module(own, name)) for name in names]

    with _listening(network, note, watched, inputs, copy):
        yield


def _module(network: nn.Module, name: str) -> nn.Module:
    try:
        return nn.Module.get_submodule(network, name)  # a scripted one has none of its own
    except AttributeError as error:
        raise unknown("module", name, [path for path, _ in network.named_modules() if path]) from error


@contextmanager
def _listening(
    network: nn.Module, note: Note, watched: Iterable[tuple[str, nn.Module]], inputs: bool, copy: bool
) -> Iterator[None]:
    """The same for modules at hand; the network is looked through once, since steps of training listen too."""
    closed, compiled, copied = False, False, copy
    for part in _parts(network):
        closed = closed or _closed(part)

        compiled = compiled or part._compiled_call_impl is not None or "_orig_mod" in part._modules
        copied = copied or part.__dict__.get("inplace", False)

    def told(name: str, value: Any) -> None:
        note(name, value.clone() if isinstance(value, Tensor) and (copied or not value.requires_grad) else value)

    def before(name: str) -> Any:
        return lambda _, given, named: told(name, next(iter((*given, *named.values())), None))

    def after(name: str) -> Any:
        return lambda _, __, output: told(name, output)

    with ExitStack() as hooks:
        if compiled:
            hooks.enter_context(torch.compiler.set_stance("force_eager"))
        for name, module in watched:
            if closed:
                check_open(network, name)
            handle = (
                module.register_forward_pre_hook(before(name), with_kwargs=True)
                if inputs
                else module.register_forward_hook(after(name))
            )
            hooks.callback(handle.remove)
        yield


class Seen(dict[str, Any]):
    """Outputs by the names of their modules; ReuseError for one that has not run, or was overwritten."""

    def __init__(self) -> None:
        super().__init__()
        self._versions: dict[str, int] = {}

    def note(self, name: str, value: Any) -> None:
        """Keep an output."""
        self[name] = value
        if isinstance(value, Tensor) and value.requires_grad:
            self._versions[name] = value._version

    def __missing__(self, name: str) -> Any:
        raise ReuseError(f"{name!r} has not run. Run the network inside the context first.")

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if name in self._versions and value._version != self._versions[name]:
            raise ReuseError(f"{name!r} was overwritten by a function that works in place. Read it with copy=True.")
        return value


@contextmanager
def tap(network: nn.Module, *names: str, copy: bool = False) -> Iterator[dict[str, Any]]:
    """Record the last output of some modules while the context is open.

    Args:
        network: any network.
        names: dotted module paths as in `network.named_modules()`, such as "blocks.1"; ``""`` is the network itself.
        copy: whether outputs are copied also where gradients are recorded and no module is known to work in place.

    Yields:
        A dict from name to that module's last output, as the module gave it, empty until a forward pass; graphs are
        kept. A name that has not run raises ReuseError.

    Raises:
        UnknownName: the network has no such module.
        ReuseError: the network was traced, scripted or exported.
    """
    seen = Seen()
    with listening(network, seen.note, names, copy=copy):
        yield seen


class Penultimate:
    """What the last linear layer to run has seen."""

    _value: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """The input (B, D) of the linear layer that ran last; ReuseError before any forward pass."""
        if self._value is None:
            raise ReuseError("nothing has been recorded yet. Run the network inside the context first.")
        return self._value

    def _note(self, name: str, value: Tensor) -> None:
        self._value = value


@contextmanager
def penultimate(network: nn.Module) -> Iterator[Penultimate]:
    """Record the input of the network's last linear layer: its features, for most classifiers.

    "Last" is the linear layer that runs last in a forward pass, whatever the order of definition.

    Args:
        network: any network with at least one `nn.Linear`.

    Yields:
        An object whose `.value` holds the features (B, D) of the latest forward pass, graph kept.

    Raises:
        ReuseError: the network has no linear layer, or was traced, scripted or exported.
    """
    layers = [("", part) for part in _parts(unwrapped(network)) if isinstance(part, nn.Linear)]
    if not layers:
        check_open(network)
        lacking = f"{type(network).__name__} has no linear layer, so it has no penultimate features"
        raise ReuseError(f"{lacking}. Name the layer to read with tap(model, name) instead.")
    features = Penultimate()
    with _listening(network, features._note, layers, inputs=True, copy=False):
        yield features
