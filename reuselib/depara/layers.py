"""Which layer of a network to reuse (DEPARA): a graph for every layer, and transfers that are cut at one.

Source: Song et al. 2020 (CVPR), official code where named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from reuselib import run
from reuselib.attribution.method import Reduce, absolute_channel_mean
from reuselib.attribution.representation import Images, batches_of, check_apart, rows_of, telling, watched
from reuselib.depara.graph import Graph
from reuselib.errors import ReuseError, ShapeMismatch, unknown


@torch.no_grad()
def finished(network: nn.Module, images: Tensor) -> list[str]:
    """The names of all modules that run, in the order in which they finish; a module that runs twice stands once.

    Args:
        network: any network; it is left as it was.
        images: a few, as the network takes them, on its device.
    """
    order: dict[str, None] = {}
    with ExitStack() as hooks, run.frozen(network):
        for name, module in network.named_modules():
            note = module.register_forward_hook(lambda *_, name=name: order.setdefault(name))
            hooks.callback(note.remove)
        with telling(network, images):
            network(images)
    return list(order)


def layer_names(network: nn.Module, images: Images) -> list[str]:
    """The convolutions and linear layers of a network, in the order in which they run.

    Args:
        network: any network; it is left as it was.
        images: probe images; only the first is used.
    """
    modules = dict(network.named_modules())
    order = finished(network, rows_of(images, slice(0, 1), network))
    return [name for name in order if isinstance(modules[name], nn.Linear | _ConvNd)]


def layer_graphs(
    network: nn.Module,
    images: Images,
    layers: Sequence[str] | None = None,
    *,
    reduce: Reduce = absolute_channel_mean,
    centred: bool = False,
    cumulative: bool = False,
    batch: int = 16,
    memory: int = 2**30,
) -> dict[str, Graph]:
    """The attribution graph of every layer: its nodes are ``|x ⊙ ∂T_l/∂x|``, its edges compare the layer's outputs.

    ``T_l`` is the mean of the layer's units. One forward pass serves several layers; each has a gradient of its own.

    Args:
        network: any network; it is left as it was.
        images: the probes, float (n, C, H, W) or an image set.
        layers: dotted names of modules, in order; all convolutions and linear layers if left out. ``""`` is the
            network's output. A convolution's output is that before its norm and its activation.
        reduce: attributions → maps; the paper takes absolute values here, and signed ones to select models.
        centred: whether features are centred over the probes; the paper does not here.
        cumulative: whether the gradient of a layer is the sum of those of all layers up to it, as the official code
            makes it by mistake.
        batch: images at a time.
        memory: bytes that the outputs of layers may take; layers are done in groups that fit, at least one at a time.

    Returns:
        Layer → graph, in the order of ``layers``.

    Raises:
        UnknownName: the network has no such module.
        ShapeMismatch: the network does not take the images.
        ReuseError: a layer does not run, or its output is not one tensor with a row for each image.
    """
    layers = layer_names(network, images) if layers is None else list(layers)
    graphs: dict[str, Graph] = {}
    before: list[Tensor | None] = [None] * -(-len(images) // batch)
    for group in _groups(network, images, layers, memory):
        found: dict[str, tuple[list[Tensor], list[Tensor]]] = {name: ([], []) for name in group}
        for number, rows in enumerate(batches_of(images, batch, network)):
            total = before[number]
            for name, features, gradient in _explained(network, rows, group):
                total = gradient if total is None or not cumulative else total + gradient
                found[name][0].append(reduce(rows * total))
                found[name][1].append(features.cpu())
            before[number] = total if cumulative else None
        for name, (nodes, outputs) in found.items():
            graphs[name] = Graph.of(torch.cat(nodes), torch.cat(outputs), centred)
    return graphs


def _explained(network: nn.Module, rows: Tensor, group: Sequence[str]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """For every layer of a group its features (b, U) and the gradient of its mean unit (b, C, H, W)."""
    check_apart(network, rows)
    with run.frozen(network), torch.enable_grad():
        x = rows.detach().clone().requires_grad_()
        outputs = _outputs(network, x * 1, group)
        for name, output in outputs.items():
            features = output.reshape(len(rows), -1)
            (gradient,) = torch.autograd.grad(features.mean(1).sum(), x, retain_graph=True)
            yield name, features.detach(), gradient


def _outputs(network: nn.Module, images: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """What layers put out, as they put it out, with graphs."""
    with watched(network, *names) as seen:
        with telling(network, images):
            network(images)
    for name in names:
        output = seen.get(name)
        if not isinstance(output, Tensor) or output.shape[:1] != images.shape[:1]:
            what = "does not run" if output is None else "does not give one tensor with a row for each image"
            raise ReuseError(f"{name!r} of {type(network).__name__} {what}. Name other layers.")
    return {name: seen[name] for name in names}


def _groups(network: nn.Module, images: Images, layers: Sequence[str], memory: int) -> list[list[str]]:
    """Consecutive layers whose outputs for all probes fit into the memory; at least one in each group."""
    with run.frozen(network), torch.no_grad():
        outputs = _outputs(network, rows_of(images, slice(0, 1), network), layers)
    groups: list[list[str]] = []
    left = 0
    for name in layers:
        size = outputs[name].numel() * outputs[name].element_size() * len(images)
        if not groups or size > left:
            groups, left = [*groups, []], memory
        groups[-1].append(name)
        left -= size
    return groups


class Cut(nn.Module):
    """A network whose first part is another one's and stays as it is, while the rest learns.

    Attributes:
        network: the whole; its frozen part needs no gradients and is always in evaluation mode, batch norms included.
        layer: where it is cut: this module and all that finish before it are frozen.
        frozen: their names.
    """

    def __init__(self, network: nn.Module, layer: str, frozen: Sequence[str]) -> None:
        """Freeze the modules named ``frozen``."""
        super().__init__()
        self.network, self.layer, self.frozen = network, layer, tuple(frozen)
        for module in self._modules_frozen():
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        self.train(network.training)

    def _modules_frozen(self) -> list[nn.Module]:
        modules = dict(self.network.named_modules())
        return [modules[name] for name in self.frozen]

    def train(self, mode: bool = True) -> Cut:
        """Set the mode of what learns; what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self._modules_frozen():
            module.training = False
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Give what the network gives."""
        return self.network(images)


def cut(
    source: nn.Module,
    build: Callable[[], nn.Module],
    layer: str,
    images: Tensor,
    *,
    seed: int = 0,
    norm: bool = True,
    names: Mapping[str, str] | None = None,
) -> Cut:
    """Build a network whose layers up to one are a source's, frozen, and whose other layers start afresh.

    For one seed, the fresh layers start alike wherever the cut is.

    Args:
        source: is left as it was, and shares nothing with the result.
        build: makes the new network; it may have another classifier.
        layer: name of a module of the new network. Whatever finishes before it is copied too.
        images: a few, as both networks take them: their way through the new network gives the order of its modules.
        seed: of the fresh layers.
        norm: whether a norm that comes right behind the layer is copied, and frozen, with it; the paper's is not.
        names: module of the new network → module of the source, where they differ.

    Returns:
        The network, on the source's device, ready to be trained.

    Raises:
        UnknownName: the new network has no such module.
        ReuseError: the layer does not run.
        ShapeMismatch: the source has no such layers, or of another shape.
    """
    with run.seeded(seed):
        network = build()
    network.to(images.device)
    modules = dict(network.named_modules())
    if layer not in modules:
        raise unknown("module", layer, [name for name in modules if name])
    order = finished(network, images)
    if layer not in order:
        raise ReuseError(f"{layer!r} of {type(network).__name__} does not run on these images. Cut at another layer.")
    end = order.index(layer) + 1
    follower = next((name for name in order[end:] if not any(True for _ in modules[name].children())), layer)
    if norm and isinstance(modules[follower], _NormBase):
        end = order.index(follower) + 1
    _copy(source, modules, order[:end], names or {})
    return Cut(network, layer, order[:end])


@torch.no_grad()
def _copy(source: nn.Module, modules: Mapping[str, nn.Module], kept: Sequence[str], names: Mapping[str, str]) -> None:
    """Copy parameters and buffers of single modules, not of those inside them."""
    theirs = dict(source.named_modules())
    for name in kept:
        own = _state(modules[name])
        other = _state(theirs[names.get(name, name)]) if names.get(name, name) in theirs else {}
        if {key: value.shape for key, value in own.items()} != {key: value.shape for key, value in other.items()}:
            raise ShapeMismatch(
                f"The source has no module {names.get(name, name)!r} with weights of the shapes of {name!r}. Build the "
                "same architecture up to the cut, or name the source's module (names={...})."
            )
        for key, value in own.items():
            value.copy_(other[key])


def _state(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
