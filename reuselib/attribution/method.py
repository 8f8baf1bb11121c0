"""Which network to reuse: networks are compared by what they make of the same unlabelled probe images.

Source: Song et al. 2019 (NeurIPS).
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import pandas
import torch
from torch import Tensor, nn

from reuselib import checks
from reuselib.attribution.attributions import METHODS, Attribution
from reuselib.attribution.evaluation import order
from reuselib.attribution.losses import affinity, channel_mean, cosines, finite, normalised, pairwise, without_shared
from reuselib.attribution.representation import Images, Represent, batches_of, represent, rows_of, telling
from reuselib.attribution.tree import Tree
from reuselib.errors import BadValue, ReuseError, unknown
from reuselib.run.progress import Progress

Reduce = Callable[[Tensor], Tensor]
"""Attributions (n, C, H, W) → maps (n, h, w)."""

Prepare = Callable[[Tensor], Tensor]
"""Probe images → what a network is given: grey, another normalisation. Height and width may not change."""

Network = nn.Module | Callable[[], nn.Module]
"""A network, or a function that loads it when it is its turn."""


class Explanation(NamedTuple):
    """What one pass over the probes gives for one network.

    Attributes:
        maps: (n, H, W).
        features: the representations, (n, U).
    """

    maps: Tensor
    features: Tensor


def method_called(method: str | Attribution) -> Attribution:
    """The attribution method of a name, or the function itself.

    Raises:
        UnknownName: there is no such method.
    """
    if isinstance(method, str) and method not in METHODS:
        raise unknown("attribution method", method, METHODS)
    return METHODS[method] if isinstance(method, str) else method


def explain(
    network: nn.Module,
    images: Images,
    method: str | Attribution = "input_x_gradient",
    *,
    where: Represent = None,
    reduce: Reduce = channel_mean,
    batch: int = 64,
) -> Explanation:
    """One pass over the probes: maps and features together.

    Args:
        network: any network; it is left as it was.
        images: float (n, C, H, W) as the network takes them, or an image set; moved to the network's device and type.
        method: a key of ``METHODS``, or a function like them.
        where: where the representation is; found by itself in most networks, see
            :func:`~reuselib.attribution.representation.represent`.
        reduce: attributions → maps.
        batch: images at a time; the result depends on it by rounding only.

    Returns:
        Maps and features on the network's device.

    Raises:
        UnknownName: there is no such method or module.
        ShapeMismatch: the images are of another kind, or do not fit the network.
        NonFinite: maps or features hold NaN or infinity.
        DeviceError: the device ran out of memory.
    """
    attribute, maps, features = method_called(method), [], []
    seen: dict[str, Tensor] = {}

    def noted(network: nn.Module, images: Tensor) -> Tensor:
        found = represent(network, images, where)
        seen["last"] = found.detach().reshape(len(found), -1)
        return found

    for rows in batches_of(images, batch, network):
        with telling(network, rows):
            maps.append(reduce(attribute(network, rows, noted)))
        features.append(seen["last"])
    found = Explanation(torch.cat(maps), torch.cat(features))
    finite(**found._asdict())
    return found


def maps(network: nn.Module, images: Images, method: str | Attribution = "input_x_gradient", **options: Any) -> Tensor:
    """The attribution maps (n, H, W) of probe images; raises as :func:`explain` does.

    Args:
        network: any network; it is left as it was.
        images: float (n, C, H, W) as the network takes them, or an image set.
        method: a key of ``METHODS``, or a function like them.
        options: ``where``, ``reduce`` and ``batch`` of :func:`explain`.

    Example:
        >>> from reuselib import attribution, data
        >>> from reuselib.nets import zoo
        >>> probes = data.load("digits").take(16, seed=0)
        >>> network = zoo.load("digits8-conv3", "cpu")
        >>> attribution.maps(network, probes, "saliency").shape
        torch.Size([16, 8, 8])
    """
    return explain(network, images, method, **options).maps


@dataclass(frozen=True)
class Comparison:
    """A way to compare networks by what they make of the same probes.

    Attributes:
        observe: network, probes and ``where=`` its representation is → what is kept of the network.
        compare: of two networks what was kept → how alike they are.
        ready: what is done once to what was kept, before it is compared.
        centred: whether the mean over all networks is taken off first, see :func:`~losses.without_shared`.
        own: how alike a network is to itself.
        error: of two networks what was kept → the standard error over the probes, where there is one.
    """

    observe: Callable[..., Any]
    compare: Callable[[Any, Any], float]
    ready: Callable[[Any], Any] = lambda kept: kept
    centred: bool = False
    own: float = 1.0
    error: Callable[[Any, Any], float] | None = None


def by_maps(method: str | Attribution = "input_x_gradient", centred: bool = False, **options: Any) -> Comparison:
    """Compare networks by their attribution maps: the paper's method.

    Args:
        method: a key of ``METHODS``, or a function like them.
        centred: whether the mean map of all networks is taken off first; an extension of ours.
        options: ``reduce`` and ``batch`` of :func:`explain`.

    Example:
        >>> from reuselib import attribution, data, nets
        >>> from reuselib.nets import zoo
        >>> target, trained = (zoo.load("digits8-conv3", "cpu") for _ in range(2))
        >>> space = attribution.ModelSpace(
        ...     data.load("digits").take(16, seed=0), attribution.by_maps("saliency")
        ... )
        >>> space.extend({"trained": trained, "fresh": nets.conv3(), "target": target})
        >>> list(space.ranking("target").index)
        ['trained', 'fresh']
    """
    observe = partial(maps, method=method_called(method), **options)
    return Comparison(observe, affinity, normalised, centred, error=_standard_error)


def _standard_error(a: Tensor, b: Tensor) -> float:
    return float(cosines(a, b).std()) / len(a) ** 0.5


class ModelSpace:
    """Networks that are compared with each other; a new one costs one pass over the probes and one row.

    Attributes:
        images: the probes, float (n, C, H, W) or an image set; the same for every network.
        way: of comparing, by gradient x input maps if left out.
        observed: name → what is kept of each network, on the CPU.
        similarity: S, float64 (N, N), symmetric.

    Args:
        images: as above.
        way: as above.
        memory: bytes of what is kept; more is kept in files that go with the space.

    Raises:
        ReuseError: there are fewer than two probes.
    """

    def __init__(self, images: Images, way: Comparison | None = None, memory: int = 2**30) -> None:
        checks.whole(0, memory=memory)
        if (count := len(rows_of(images, slice(0, 2)))) < 2:
            raise ReuseError(f"{count} probe images are too few to compare networks. Give 2 at least.")
        self.images, self.way, self.left = images, way or by_maps(), memory
        self.observed: dict[str, Any] = {}
        self.similarity = torch.zeros(0, 0, dtype=torch.float64)
        self._ready: list[Any] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The networks, in the order in which they came."""
        return tuple(self.observed)

    @property
    def zeros(self) -> dict[str, int]:
        """Name → how many of its maps, or rows of features, are zero; each counts as a cosine of 0."""
        found = (getattr(each, "nodes", each) for each in self._ready)
        counts = (int((each == 0).all(1).sum()) if each.ndim == 2 else 0 for each in found)
        return dict(zip(self.names, counts, strict=True))

    def add(self, name: str, network: Network, *, where: Represent = None, prepare: Prepare | None = None) -> None:
        """Add one network; see :meth:`extend`."""
        self.extend({name: network}, where=where, prepare={name: prepare} if prepare else None)

    def extend(
        self,
        networks: Mapping[str, Network],
        *,
        where: Represent | Mapping[str, Represent] = None,
        prepare: Mapping[str, Prepare] | None = None,
        progress: bool = False,
    ) -> None:
        """Add networks, each of which sees the probes once; what was there is not seen again.

        Args:
            networks: by new names; they come back as they were. A function is called when it is its turn.
            where: the representation is, for all or by name.
            prepare: by name, probe images → what this network is given; its maps are of that.
            progress: whether to show a bar.

        Raises:
            UnknownName: ``where`` or ``prepare`` speaks of a network that is not given.
            BadValue: the networks have no names, or one is none.
            ReuseError: a name is taken, or there is no gradient.
            ShapeMismatch: a network does not take the images, or its maps have another size.
            NonFinite: what is kept of a network, or a similarity, is NaN or infinite.
        """
        if not isinstance(networks, Mapping):
            raise BadValue(f"Give networks by name, {{name: network, …}}, not {type(networks).__name__}.")
        places = where if isinstance(where, Mapping) else dict.fromkeys(networks, where)
        for name in (*places, *(prepare or {})):
            if name not in networks:
                raise unknown("network", name, networks)
        if taken := [name for name in networks if name in self.observed]:
            raise ReuseError(f"There is a network {taken[0]!r} already. Give the new one another name.")
        found = {}
        with Progress(total=len(networks), disable=not progress, desc="networks", unit="network") as bar:
            for name, network in networks.items():
                try:
                    found[name] = self._stored(self.observe(network, places.get(name), (prepare or {}).get(name)))
                except Exception as error:
                    error.add_note(f"This was the network {name!r}.")
                    raise
                bar.update()
        observed = self.observed | found
        known = 0 if self.way.centred else len(self._ready)  # what is centred changes with the mean of all
        new = [*observed.values()][known:]
        pairs = zip(new, self._prepared(new, observed), strict=True)
        ready = [*self._ready[:known], *(each if each is kept else self._stored(each) for kept, each in pairs)]
        similarity = pairwise(ready, self.way.compare, self.way.own, self.similarity[:known, :known])
        finite(similarities=similarity)
        self.observed, self._ready, self.similarity = observed, ready, similarity

    def observe(self, network: Network, where: Represent = None, prepare: Prepare | None = None) -> Any:
        """What is kept of a network, on the CPU; it is not added."""
        network = network() if callable(network) and not isinstance(network, nn.Module) else network
        if not isinstance(network, nn.Module):
            raise BadValue(f"{type(network).__name__} is no network. Give an nn.Module, or a function that loads one.")
        images = prepare(rows_of(self.images, slice(None), network)) if prepare else self.images
        found = self.way.observe(network, images, where=where)
        return found.cpu() if isinstance(found, Tensor) else found

    def compare(self, network: Network, *, where: Represent = None, prepare: Prepare | None = None) -> list[float]:
        """How alike a network is to each one here, without adding it; arguments as in :meth:`add`.

        Raises:
            ReuseError: there is no network here.
        """
        if not self.observed:
            raise ReuseError("There is no network in this space to compare with. Add one first.")
        (new,) = self._prepared([self.observe(network, where, prepare)], self.observed)
        return [self.way.compare(new, other) for other in self._ready]

    def ranking(self, target: str) -> pandas.DataFrame:
        """The other networks here by descending similarity with one of them; equal ones keep their order.

        Returns:
            A row for each candidate, the best first, with its ``similarity``, the standard ``error`` of that over the
            probes where the comparison knows it, and ``zeros``, how many of its maps are zero.

        Raises:
            UnknownName: there is no such network.
        """
        if target not in self.observed:
            raise unknown("network", target, self.names)
        own = self.names.index(target)
        columns = order(self.similarity[own : own + 1], torch.tensor([own]))[0].tolist()
        table: dict[str, list[float]] = {"similarity": self.similarity[own, columns].tolist()}
        if self.way.error is not None:
            table["error"] = [self.way.error(self._ready[own], self._ready[column]) for column in columns]
        zeros = self.zeros
        table["zeros"] = [zeros[self.names[column]] for column in columns]
        return pandas.DataFrame(table, pandas.Index([self.names[column] for column in columns], name="source"))

    def tree(self) -> Tree:
        """The tree of the networks: linkage of the rows of S, see :class:`~reuselib.attribution.tree.Tree`."""
        return Tree.of(self.similarity, self.names)

    def _prepared(self, kept: Iterable[Any], observed: Mapping[str, Any]) -> list[Any]:
        """What was kept of some networks, made ready to be compared with that of all ``observed``."""
        if self.way.centred:
            everyone = torch.stack(list(observed.values()))
            kept = [without_shared(each, everyone) for each in kept]
        return [self.way.ready(each) for each in kept]

    def _stored(self, kept: Any) -> Any:
        """The same, in a file once the memory is used up; of a graph its nodes are, which are the most of it."""
        if hasattr(kept, "nodes"):
            return replace(kept, nodes=self._stored(kept.nodes))
        if not isinstance(kept, Tensor):
            return kept
        self.left -= kept.nbytes
        if self.left >= 0:
            return kept
        with tempfile.NamedTemporaryFile() as file:
            return torch.from_file(file.name, True, kept.numel(), dtype=kept.dtype).view(kept.shape).copy_(kept)


def rank(
    networks: Mapping[str, Network],
    images: Images,
    target: str | nn.Module,
    *,
    way: Comparison | None = None,
    where: Represent | Mapping[str, Represent] = None,
    prepare: Mapping[str, Prepare] | None = None,
    progress: bool = True,
) -> pandas.DataFrame:
    """Rank trained networks by how much a target network would gain from them, without labels and without training.

    Each network is explained once. Any torch networks will do, those of torchvision and timm among them; they come
    back as they were.

    Args:
        networks: the candidates by name; a function in the place of a network is called when it is its turn.
        images: probe images, float (n, C, H, W) normalised as the networks take them, or an image set.
        target: the name of one of the networks, or another network.
        way: of comparing: :func:`by_maps` with other options, for instance.
        where: the representation is, for all or by name (that of another target by ``"target"``): a module's dotted
            name or a function; left out, the output of the last layer before the classifier.
        prepare: by name, what makes the probe images fit one network (grey, another normalisation).
        progress: whether to show a bar.

    Returns:
        The table of :meth:`ModelSpace.ranking`, the best source first.

    Raises:
        UnknownName: there is no such target, method or module.
        ShapeMismatch: a network does not take the images.
        DeviceError: a device ran out of memory; the message names a batch to try.
        ReuseError: there is no candidate, or a network gives no gradient.

    Example:
        >>> from reuselib import attribution, data, nets
        >>> from reuselib.nets import zoo
        >>> networks = {"trained": zoo.load("digits8-conv3", "cpu"), "fresh": nets.conv3()}
        >>> probes = data.load("digits").take(16, seed=0)
        >>> table = attribution.rank(networks, probes, zoo.load("digits8-conv3", "cpu"), progress=False)
        >>> list(table.index)
        ['trained', 'fresh']

    Source: Song et al. 2019 (NeurIPS).
    """
    if isinstance(target, str) and target not in networks:
        raise unknown("target", target, networks)
    known = next((name for name, network in networks.items() if network is target), "target")
    name = target if isinstance(target, str) else known
    everyone = networks if isinstance(target, str) else {name: target, **networks}
    if len(everyone) < 2:
        raise ReuseError("There is no network to reuse beside the target. Give two networks at least.")
    space = ModelSpace(images, way)
    space.extend(everyone, where=where, prepare=prepare, progress=progress)
    return space.ranking(name)
