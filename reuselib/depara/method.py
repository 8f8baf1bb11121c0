"""Attribution graphs (DEPARA), of networks and of layers: which network, and which layer of it, to reuse.

Probe images are the nodes of a graph, and what a network makes of two of them is their edge. A node is the attribution
map of a probe, an edge the cosine of the features of two probes. Two networks are alike where their nodes are (mean
cosine) and where their edges stand in the same order (rank correlation).

Source: Song et al. 2020 (CVPR), official code where named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from reuselib import attribution, checks, run
from reuselib.attribution import (
    Comparison,
    Images,
    absolute_channel_mean,
    batches_of,
    features,
    ordinal_ranks,
    pairwise,
)
from reuselib.depara.losses import edge_similarity, edge_values, graph_similarity, node_similarity
from reuselib.errors import ReuseError, ShapeMismatch, unknown
from reuselib.nets.taps import check_open, listening, unwrapped


@dataclass(frozen=True, eq=False)
class Graph:
    """The attribution graph of a network, or of a network up to one of its layers.

    Attributes:
        nodes: unit vectors of the maps, float32 or float64 (n, d) on the CPU; a map of zeros stays zero.
        edges: float64 (n (n - 1) / 2,), as :func:`~losses.edge_values` gives them.

    Example:
        >>> import torch
        >>> from reuselib import depara
        >>> maps, features = torch.eye(3), torch.eye(3)
        >>> graph = depara.Graph.of(maps, features, centred=False)
        >>> graph.nodes.shape, graph.edges.tolist()
        (torch.Size([3, 3]), [0.0, 0.0, 0.0])
    """

    nodes: Tensor
    edges: Tensor

    def __post_init__(self) -> None:
        """Check that nodes and edges belong together."""
        count = len(self.nodes)
        if self.nodes.ndim != 2 or self.edges.shape != (count * (count - 1) // 2,):
            wanted = f"{count} nodes have {count * (count - 1) // 2} edges"
            raise ShapeMismatch(f"{wanted}, not {tuple(self.edges.shape)}. Take maps and features of the same probes.")
        attribution.losses.finite(maps=self.nodes, edges=self.edges)

    @classmethod
    def of(cls, maps: Tensor, features: Tensor, centred: bool = True) -> Graph:
        """Make the graph of maps (n, ...) and features (n, U); ``centred`` as in :func:`~losses.edge_values`."""
        return cls(attribution.normalised(maps).cpu(), edge_values(features, centred))

    @cached_property
    def ranks(self) -> Tensor:
        """The ranks of the edges, int64, equal ones in their order."""
        return ordinal_ranks(self.edges)

    @property
    def ties(self) -> int:
        """How many edges equal another one: their ranks, and with them E, hang on the order of the probes."""
        return len(self.edges) - int((self.edges.unique(return_counts=True)[1] == 1).sum())


def attribution_graph(network: nn.Module, images: Images, *, centred: bool = True, **options: Any) -> Graph:
    """The graph of a network on probe images, in one pass: its nodes are maps of the sum of its features.

    Equation: `depara-nodes`.

    Args:
        network: any network; it is left as it was.
        images: the probes, float (n, C, H, W) as the network takes them, or an image set.
        centred: whether features are centred over the probes before their cosines are taken.
        options: of the nodes: ``method``, ``where``, ``reduce`` and ``batch`` of :func:`~reuselib.attribution.explain`.

    Example:
        >>> from reuselib import data, depara
        >>> from reuselib.nets import zoo
        >>> probes = data.load("digits").take(16, seed=0)
        >>> graph = depara.attribution_graph(zoo.load("digits8-conv3", "cpu"), probes)
        >>> len(graph.nodes), len(graph.edges)  # one node a probe, one edge a pair
        (16, 120)
    """
    found = attribution.explain(network, images, **options)
    return Graph.of(found.maps, found.features, centred)


def similarity(a: Graph, b: Graph, lambda_: float = 1.0) -> float:
    """``V + λ E`` of two graphs of the same probes, see :func:`~losses.graph_similarity`.

    Example:
        >>> from reuselib import data, depara, nets
        >>> from reuselib.nets import zoo
        >>> probes = data.load("digits").take(16, seed=0)
        >>> networks = zoo.load("digits8-conv3", "cpu"), nets.conv3()
        >>> trained, fresh = (
        ...     depara.attribution_graph(each, probes) for each in networks
        ... )
        >>> round(depara.similarity(trained, trained), 6)  # 1 + λ
        2.0
        >>> depara.similarity(trained, fresh) < 2
        True
    """
    return graph_similarity(node_similarity(a.nodes, b.nodes), edge_similarity(a.ranks, b.ranks), lambda_)


def similarities(graphs: Sequence[Graph]) -> tuple[Tensor, Tensor]:
    """V and E of every pair, float64 (N, N) each; ``V + λ E`` then costs nothing for any λ."""
    v = pairwise([graph.nodes for graph in graphs], node_similarity)
    return v, pairwise([graph.ranks for graph in graphs], edge_similarity)


def by_graphs(lambda_: float = 1.0, **options: Any) -> Comparison:
    """Compare networks by their attribution graphs: the paper's method.

    Args:
        lambda_: λ, weight of the edges against the nodes.
        options: ``centred`` of :func:`attribution_graph`; ``method``, ``reduce`` and ``batch`` of
            :func:`~reuselib.attribution.explain`.

    Returns:
        The ``way`` of :func:`~reuselib.attribution.rank` and :class:`~reuselib.attribution.ModelSpace`.

    Example:
        >>> from reuselib import attribution, data, depara, nets
        >>> from reuselib.nets import zoo
        >>> networks = {"trained": zoo.load("digits8-conv3", "cpu"), "fresh": nets.conv3()}
        >>> probes, target = data.load("digits").take(16, seed=0), zoo.load("digits8-conv3", "cpu")
        >>> table = attribution.rank(networks, probes, target, way=depara.by_graphs(), progress=False)
        >>> list(table.index)
        ['trained', 'fresh']
    """
    checks.number(lambda_=lambda_)
    return Comparison(partial(attribution_graph, **options), partial(similarity, lambda_=lambda_), own=1 + lambda_)


def by_edges(batch: int = 64) -> Comparison:
    """Compare networks by the edges of their graphs alone, for which no gradient is needed."""
    return Comparison(partial(features, batch=batch), edge_similarity, lambda kept: ordinal_ranks(edge_values(kept)))


# --- layers -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def finished(network: nn.Module, images: Tensor) -> list[str]:
    """The names of all modules that run, in the order in which they finish; a module that runs twice stands once.

    Args:
        network: any network; it is left as it was.
        images: a few, as the network takes them, on its device.
    """
    order: dict[str, Any] = {}
    check_open(network)
    with listening(network, order.setdefault), run.frozen(network), attribution.telling(network, images):
        network(images)
    return list(order)


def layer_names(network: nn.Module, images: Images) -> list[str]:
    """The convolutions and linear layers of a network, in the order in which they run.

    Args:
        network: any network; it is left as it was.
        images: probe images; only the first is used.
    """
    modules = dict(unwrapped(network).named_modules())
    order = finished(network, next(batches_of(images, 1, network)))
    if names := [name for name in order if isinstance(modules[name], nn.Linear | _ConvNd)]:
        return names
    raise ReuseError(f"{type(network).__name__} has no convolution or linear layer that runs. Name its layers.")


def layer_graphs(
    network: nn.Module,
    images: Images,
    layers: Sequence[str] | None = None,
    *,
    reduce: Callable[[Tensor], Tensor] = absolute_channel_mean,
    centred: bool = False,
    cumulative: bool = False,
    batch: int = 16,
) -> dict[str, Graph]:
    """The attribution graph of every layer: its nodes are ``|x ⊙ ∂T_l/∂x|``, its edges compare the layer's outputs.

    ``T_l`` is the mean of the layer's units. Each layer has a pass and a gradient of its own.

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

    Returns:
        Layer → graph, in the order of ``layers``.

    Raises:
        UnknownName: the network has no such module.
        ShapeMismatch: the network does not take the images.
        ReuseError: a layer does not run, or its output is not one tensor with a row for each image.

    Example:
        >>> from reuselib import data, depara
        >>> from reuselib.nets import zoo
        >>> probes = data.load("digits").take(16, seed=0)
        >>> graphs = depara.layer_graphs(zoo.load("digits8-conv3", "cpu"), probes)
        >>> len(graphs)
        4
    """
    graphs: dict[str, Graph] = {}
    sums: dict[int, Tensor] = {}
    for name in layer_names(network, images) if layers is None else layers:
        nodes, outputs = [], []
        for number, rows in enumerate(batches_of(images, batch, network)):
            output, gradient = _explained(network, rows, name)
            if cumulative:
                gradient = sums[number] = sums[number] + gradient if number in sums else gradient
            nodes.append(reduce(rows * gradient))
            outputs.append(output.cpu())
        graphs[name] = Graph.of(torch.cat(nodes), torch.cat(outputs), centred)
    return graphs


def _explained(network: nn.Module, rows: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """The features (b, U) of a layer, and the gradient of its mean unit (b, C, H, W)."""
    attribution.check_apart(network, rows)
    with run.frozen(network), torch.enable_grad():
        x = rows.detach().clone().requires_grad_()
        output = attribution.represent(network, x * 1, layer).reshape(len(rows), -1)
        (gradient,) = torch.autograd.grad(output.mean(1).sum(), x)
    return output.detach(), gradient


class Cut(nn.Module):
    """A network whose first part is another one's and stays as it is, while the rest learns.

    Attributes:
        network: the whole; its frozen part needs no gradients and is always in evaluation mode, batch norms included.
        frozen: names of its modules.
    """

    def __init__(self, network: nn.Module, frozen: Sequence[str]) -> None:
        """Freeze the modules named ``frozen``."""
        super().__init__()
        self.network, self.frozen = network, tuple(frozen)
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


def cut(source: nn.Module, build: Callable[[], nn.Module], layer: str, images: Tensor, *, seed: int = 0) -> Cut:
    """Build a network whose layers up to one are a source's, frozen, and whose other layers start afresh.

    For one seed, the fresh layers start alike wherever the cut is.

    Args:
        source: is left as it was, and shares nothing with the result.
        build: makes the new network; it may have another classifier.
        layer: name of a module of the new network. Whatever finishes before it is copied too, and a norm that comes
            right behind it (the paper's stays behind).
        images: a few, as both networks take them: their way through the new network gives the order of its modules.
        seed: of the fresh layers.

    Returns:
        The network, on the device of the images, ready to be trained.

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
    if isinstance(modules[follower], _NormBase):
        end = order.index(follower) + 1
    _copy(source, modules, order[:end])
    return Cut(network, order[:end])


@torch.no_grad()
def _copy(source: nn.Module, modules: Mapping[str, nn.Module], kept: Sequence[str]) -> None:
    """Copy parameters and buffers of single modules, not of those inside them."""
    theirs = dict(unwrapped(source).named_modules())
    for name in kept:
        own, other = _state(modules[name]), _state(theirs[name]) if name in theirs else {}
        if {key: value.shape for key, value in own.items()} != {key: value.shape for key, value in other.items()}:
            what = f"The source has no module {name!r} with weights of these shapes"
            raise ShapeMismatch(f"{what}. Build the same architecture up to the cut.")
        for key, value in own.items():
            value.copy_(other[key])


def _state(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
