"""How alike networks attribute: cosines of their maps, image by image, averaged over the probes.

``S_ij = (1/n) sum_p cos(a_i(x_p), a_j(x_p))``. A model space holds many networks; a new one costs one pass over the
probes, whatever is there already.

Source: Song et al. 2019 (NeurIPS).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from reuselib.attribution.method import Method, Reduce, channel_mean, maps, method_called
from reuselib.attribution.representation import Images, Represent, rows_of
from reuselib.attribution.rivals import unit_rows
from reuselib.attribution.tree import Tree
from reuselib.errors import NonFinite, ReuseError, ShapeMismatch, unknown
from reuselib.run.progress import Progress

Prepare = Callable[[Tensor], Tensor]
"""Probe images → what a network is given: grey, another normalisation. Height and width may not change."""

Network = nn.Module | Callable[[], nn.Module]
"""A network, or a function that loads it when it is its turn."""


def normalised(maps: Tensor) -> Tensor:
    """Maps (n, ...) as vectors of length one, (n, d); a map of zeros stays zero, so that its cosines are 0."""
    return unit_rows(maps.flatten(1))


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """The cosine of each image's two maps, float64 (n,), of vectors (n, d) as :func:`normalised` gives them."""
    return torch.linalg.vecdot(a, b).double().clamp(-1, 1)


def affinity_matrix(maps: Tensor | Sequence[Tensor]) -> Tensor:
    """The affinities of networks whose maps are all at hand; :class:`ModelSpace` does it in bounded memory.

    Args:
        maps: (N, n, ...), or a list of N tensors (n, ...); signed, of the same images in the same order.

    Returns:
        S, float64 (N, N) on the CPU: symmetric, in [-1, 1], 1 on the diagonal. A map of zeros counts as a cosine of 0.
    """
    units = [normalised(each) for each in maps]
    affinity = torch.eye(len(units), dtype=torch.float64)
    for i, unit in enumerate(units):
        for j, other in enumerate(units[:i]):
            affinity[i, j] = affinity[j, i] = cosines(unit, other).mean()
    return affinity


def distance(affinity: Tensor) -> Tensor:
    """``d = 1 / S``, the paper's distance; infinite where S is not above 0, where it would be meaningless.

    It gives the order of S, reversed, and is for reading only: rank by S.
    """
    return torch.where(affinity > 0, 1 / affinity, torch.inf)


def without_shared(maps: Tensor) -> Tensor:
    """Maps (N, n, ...) minus their mean over the N networks, image by image: what each has of its own.

    An extension of the paper. The affinity of two networks then depends on which others there are.
    """
    return maps - maps.mean(0)


@dataclass(frozen=True)
class Ranking:
    """Which networks to reuse for a target, the best first.

    Attributes:
        target: its name.
        sources: names of the candidates.
        scores: the affinity of each with the target, descending.
        errors: standard error of each score over the probes.
        zeros: name → how many of its maps were zero; the target's too, names without any left out.
        probes: number of probe images.
    """

    target: str
    sources: tuple[str, ...]
    scores: tuple[float, ...]
    errors: tuple[float, ...]
    zeros: dict[str, int]
    probes: int

    def __len__(self) -> int:
        """Return the number of candidates."""
        return len(self.sources)

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """Yield names and scores, the best first."""
        return iter(zip(self.sources, self.scores, strict=True))

    @property
    def best(self) -> str:
        """The name of the recommended source."""
        return self.sources[0]

    def top(self, count: int) -> tuple[str, ...]:
        """The names of the first ``count`` sources."""
        return self.sources[:count]

    @property
    def _rows(self) -> list[tuple[str, str, str, str]]:
        rows = zip(self.sources, self.scores, self.errors, strict=True)
        return [(str(n), name, f"{s:+.4f}", f"{e:.4f}") for n, (name, s, e) in enumerate(rows, 1)]

    @property
    def _note(self) -> str:
        found = ", ".join(f"{name} {count}" for name, count in self.zeros.items())
        return f"Maps of zeros, counted as a cosine of 0: {found} (of {self.probes})." if found else ""

    def __str__(self) -> str:
        """Return the table as text."""
        width = max(map(len, ("source", *self.sources)))
        title = f"Sources for {self.target!r}, by their maps of {self.probes} images"
        lines = [f"{'':>3}  {'source':<{width}}  affinity     ±"]
        lines += [f"{n:>3}  {name:<{width}}  {score:>8}  {error}" for n, name, score, error in self._rows]
        return "\n".join([title, *lines, *([self._note] if self._note else [])])

    def _repr_html_(self) -> str:
        from html import escape

        cells = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self._rows)
        head = "<tr><th></th><th>source</th><th>affinity</th><th>standard error</th></tr>"
        title = f"Sources for {escape(self.target)}, by their maps of {self.probes} images. {escape(self._note)}"
        return f"<table><caption>{title}</caption><thead>{head}</thead><tbody>{cells}</tbody></table>"


def ranking(
    target: str, names: Sequence[str], scores: Tensor, errors: Tensor, zeros: Mapping[str, int], probes: int
) -> Ranking:
    """Sort candidates by descending score; equal scores keep their order, the target itself is left out by name."""
    order = [int(i) for i in scores.argsort(descending=True, stable=True) if names[int(i)] != target]
    seen = {name: zeros[name] for name in (target, *(names[i] for i in order)) if zeros.get(name)}
    values = [tuple(float(each[i]) for i in order) for each in (scores, errors)]
    return Ranking(target, tuple(names[i] for i in order), values[0], values[1], seen, probes)


@dataclass(eq=False)
class _Model:
    """A network of a space, or its maps, or both."""

    name: str
    network: Network | None
    represent: Represent = None
    prepare: Prepare | None = None
    units: Tensor | None = None
    zeros: int = 0


@dataclass(eq=False)
class ModelSpace:
    """Networks and their affinities, in bounded memory.

    Maps are kept as unit vectors, float32 on the CPU, as long as they fit into half of ``memory``; of later networks
    the network itself is kept, and its maps are computed again when another one is added. The other half of ``memory``
    is for comparing: the probes go by in parts, so small that the maps of all networks fit. With its maps kept, a
    network is explained once and never again: a new network costs one pass over the probes.

    Attributes:
        images: the probes, float (n, C, H, W) or an image set; the same for every network.
        method: a key of ``attribution.METHODS``, or a function like them.
        reduce: attributions (n, C, H, W) → maps (n, h, w), of one size for all networks.
        batch: images at a time in a network.
        memory: bytes that maps may take; at the least one map of each network is held.
        progress: whether to show a bar.
        affinity: S, float64 (N, N), symmetric, 1 on the diagonal.
        errors: standard errors of S over the probes, (N, N).

    Raises:
        ReuseError: there are fewer than two probes.
    """

    images: Images
    method: str | Method = "input_x_gradient"
    reduce: Reduce = channel_mean
    batch: int = 64
    memory: int = 2**30
    progress: bool = False
    affinity: Tensor = field(init=False, default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    errors: Tensor = field(init=False, default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))

    def __post_init__(self) -> None:
        """Check the probes and the method before any network is asked."""
        rows_of(self.images, slice(0, 1))
        method_called(self.method)
        if len(self.images) < 2:
            raise ReuseError(f"{len(self.images)} probe images are too few to compare networks. Give 2 at least.")
        self._models: list[_Model] = []
        self._bar: Progress | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The networks, in the order in which they came."""
        return tuple(model.name for model in self._models)

    @property
    def zeros(self) -> dict[str, int]:
        """Name → how many of its maps are zero."""
        return {model.name: model.zeros for model in self._models}

    @property
    def recomputed(self) -> tuple[str, ...]:
        """The networks whose maps did not fit into the memory."""
        return tuple(model.name for model in self._models if model.units is None)

    def add(self, name: str, network: Network, *, represent: Represent = None, prepare: Prepare | None = None) -> None:
        """Add one network; what was there does not change.

        Args:
            name: a new one.
            network: left as it was; or a function that loads it.
            represent: where its representation is, see :func:`~reuselib.attribution.representation.represent`.
            prepare: probe images → what this network is given; its maps are of that.

        Raises:
            ReuseError: the name is taken, or there is no gradient.
            ShapeMismatch: the network does not take the images, or its maps have another size.
            NonFinite: its maps hold NaN or infinity.
        """
        self._extend([_Model(name, network, represent, prepare)])

    def extend(
        self,
        networks: Mapping[str, Network],
        *,
        represent: Represent | Mapping[str, Represent] = None,
        prepare: Mapping[str, Prepare] | None = None,
    ) -> None:
        """Add several networks; each is explained once, however little memory there is.

        Args:
            networks: by name. Those before one that fails are there afterwards.
            represent: for all, or by name.
            prepare: by name, see :meth:`add`.

        Raises:
            as :meth:`add`.
        """
        new = _models(networks, represent, prepare)
        room = self._room()
        with self._bar_over(len(new) + len(self.recomputed)):
            for model in new[:room]:  # one by one, so that only one network need be loaded
                self._extend([model])
            if new[room:]:
                self._extend(new[room:])

    def compare(self, network: Network, *, represent: Represent = None, prepare: Prepare | None = None) -> Tensor:
        """The cosines of a network's maps with those of every network here, image by image, without adding it.

        Args:
            network: as in :meth:`add`.
            represent: likewise.
            prepare: likewise.

        Returns:
            float64 (N, n).

        Raises:
            ReuseError: there is no network here; and as in :meth:`add`.
        """
        if not self._models:
            raise ReuseError("There is no network in this space to compare with. Add one first.")
        return self._compare(_Model("the network that is compared", network, represent, prepare))

    def ranking(self, target: str) -> Ranking:
        """The other networks here by descending affinity with one of them.

        Raises:
            UnknownName: there is no such network.
        """
        if target not in self.names:
            raise unknown("network", target, self.names)
        row = self.names.index(target)
        return ranking(target, self.names, self.affinity[row], self.errors[row], self.zeros, len(self.images))

    def tree(self, method: str = "single") -> Tree:
        """The tree of the networks: linkage of the rows of S, see :class:`~reuselib.attribution.tree.Tree`."""
        return Tree.of(self.affinity, self.names, method)

    # --- how it is done

    @cached_property
    def _width(self) -> int:
        """Entries of one map."""
        return self.reduce(rows_of(self.images, slice(0, 1))).numel()

    def _room(self) -> int:
        """For how many more networks there is memory to keep the maps."""
        kept = sum(model.units is not None for model in self._models)
        return max(0, self.memory // 2 // (4 * self._width * len(self.images)) - kept)

    def _extend(self, new: list[_Model]) -> None:
        names = [*self.names, *(model.name for model in new)]
        if taken := [name for name in names if names.count(name) > 1]:
            raise ReuseError(f"There is a network {taken[0]!r} already. Give the new one another name.")
        for model in new[: self._room()]:
            model.units = torch.empty(len(self.images), self._width)
        old, count = len(self._models), len(self.images)
        sums = torch.zeros(2, len(names), len(names), dtype=torch.float64)
        with self._bar_over(len(new) + len(self.recomputed)):
            for units in self._sweep(new):
                for row, unit in enumerate(units[old:], old):
                    for column, other in enumerate(units[:row]):
                        found = cosines(unit, other)
                        sums[:, row, column] += torch.stack([found.sum(), found.square().sum()])
        mean, square = (sums + sums.mT) / count
        spread = ((square - mean.square()).clamp(min=0) / (count - 1)).sqrt()
        mean.fill_diagonal_(1)
        mean[:old, :old], spread[:old, :old] = self.affinity, self.errors
        for model in new:
            model.network = None if model.units is not None else model.network
        self.affinity, self.errors, self._models = mean, spread, [*self._models, *new]

    def _compare(self, model: _Model) -> Tensor:
        with self._bar_over(1 + len(self.recomputed)):
            parts = [torch.stack([cosines(new, unit) for unit in old]) for *old, new in self._sweep([model])]
        return torch.cat(parts, 1)

    def _sweep(self, new: list[_Model]) -> Iterator[list[Tensor]]:
        """The probes part by part: the unit vectors of every network here, then those of the new ones."""
        everyone = [*self._models, *new]
        beside = 2 * rows_of(self.images, slice(0, 1)).shape[1]  # the images themselves, and what is made of them
        size = max(1, self.memory // 2 // (4 * self._width * (len(everyone) + beside)))
        opened = {model.name: _open(model.network) for model in everyone if model.network is not None}
        for start in range(0, len(self.images), size):
            part = slice(start, start + size)
            units = []
            for model in everyone:
                found = self._computed(model, part, opened[model.name]) if model.name in opened else None
                if found is not None and model in new:
                    model.zeros += int((found == 0).all(1).sum())
                    if model.units is not None:
                        model.units[part] = found
                units.append(model.units[part] if found is None and model.units is not None else found)
            yield units  # type: ignore[misc]

    def _computed(self, model: _Model, part: slice, network: nn.Module) -> Tensor:
        """The unit vectors of one network for some probes, float32 on the CPU."""
        rows = rows_of(self.images, part, network)
        rows = model.prepare(rows) if model.prepare else rows
        options = {"represent": model.represent, "reduce": self.reduce, "batch": self.batch}
        try:
            found = maps(network, rows, self.method, **options).flatten(1)  # type: ignore[arg-type]
        except Exception as error:
            error.add_note(f"This was the network {model.name!r}.")
            raise
        if found.shape[1] != self._width:
            raise ShapeMismatch(
                f"The maps of {model.name!r} have {found.shape[1]} pixels, those of the probes {self._width}. Keep "
                "height and width as they are in prepare=..., or bring all maps to one size (reduce=...)."
            )
        if not found.isfinite().all():
            raise NonFinite(f"The maps of {model.name!r} hold NaN or infinity. Leave it out, or train it again.")
        if self._bar is not None:
            self._bar.set_postfix_str(model.name, refresh=False)
            self._bar.update(len(found))
        return normalised(found).float().cpu()

    @contextmanager
    def _bar_over(self, passes: int) -> Iterator[None]:
        """A bar over passes through the probes, unless one is shown already."""
        if self._bar is not None:
            yield
            return
        total = passes * len(self.images)
        self._bar = Progress(total=total, disable=not self.progress, desc="maps", unit="image")
        try:
            yield
        finally:
            self._bar.close()
            self._bar = None


def _open(network: Network) -> nn.Module:
    return network if isinstance(network, nn.Module) else network()


def _models(
    networks: Mapping[str, Network],
    represent: Represent | Mapping[str, Represent],
    prepare: Mapping[str, Prepare] | None,
) -> list[_Model]:
    by_name = represent if isinstance(represent, Mapping) else dict.fromkeys(networks, represent)
    for given in (by_name, prepare or {}):
        if odd := [name for name in given if name not in networks]:
            raise unknown("network", odd[0], networks)
    ways = prepare or {}
    return [_Model(name, network, by_name.get(name), ways.get(name)) for name, network in networks.items()]


def rank(
    networks: Mapping[str, Network],
    images: Images,
    target: str | nn.Module,
    *,
    represent: Represent | Mapping[str, Represent] = None,
    prepare: Mapping[str, Prepare] | None = None,
    method: str | Method = "input_x_gradient",
    reduce: Reduce = channel_mean,
    batch: int = 64,
    memory: int = 2**30,
    progress: bool = True,
) -> Ranking:
    """Rank trained networks by how much a target network would gain from them, without labels and without training.

    Each network is explained once; only the target's maps are held. Any torch networks will do, those of torchvision
    and timm among them; they come back as they were.

    Args:
        networks: the candidates by name; a function in the place of a network is called when it is its turn.
        images: probe images, float (n, C, H, W) normalised as the networks take them, or an image set.
        target: the name of one of the networks, or another network.
        represent: where the representation is, for all or by name (that of another target by ``"target"``): a module's
            dotted name or a function; left out, the output of the last layer before the classifier.
        prepare: by name, what makes the probe images fit one network (grey, another normalisation).
        method: ``"input_x_gradient"``, ``"epsilon_lrp"``, ``"saliency"``, or a function like them.
        reduce: attributions → maps.
        batch: images at a time in a network.
        memory: bytes that maps may take.
        progress: whether to show a bar.

    Returns:
        The table, the best source first.

    Raises:
        UnknownName: there is no such target, method or module.
        ShapeMismatch: a network does not take the images.
        DeviceError: a device ran out of memory; the message names a batch to try.
        ReuseError: there is no candidate, or a network gives no gradient.

    Source: Song et al. 2019 (NeurIPS).
    """
    known = next((name for name, network in networks.items() if network is target), None)
    name = target if isinstance(target, str) else known or "target"
    if isinstance(target, str) and target not in networks:
        raise unknown("target", target, networks)
    everyone = dict(networks)
    if isinstance(target, nn.Module) and not known:
        everyone = {name: target} | everyone
    models = {model.name: model for model in _models(everyone, represent, prepare)}
    if len(models) < 2:
        raise ReuseError("There is no network to reuse beside the target. Give two networks at least.")
    space = ModelSpace(images, method, reduce, batch, memory)
    return _rank(space, models.pop(name), list(models.values()), progress)


def _rank(space: ModelSpace, target: _Model, sources: list[_Model], progress: bool) -> Ranking:
    count = len(space.images)
    found, zeros = [], {}
    kept = space._room() > 0
    total = count * (1 + len(sources) * (1 if kept else 2))
    with Progress(total=total, disable=not progress, desc=f"rank for {target.name}", unit="image") as bar:
        space._bar = bar
        space._extend([target])
        for source in sources:
            found.append(space._compare(source)[0])
            zeros[source.name] = source.zeros
    scores = torch.stack(found)
    names = [source.name for source in sources]
    spread = scores.std(1) / count**0.5
    return ranking(target.name, names, scores.mean(1), spread, zeros | space.zeros, count)
