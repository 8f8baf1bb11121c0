"""Scores of the networks of a zoo against its truth: probe images, ways to compare networks, controls, metrics.

Whatever is chosen here and in `ZooConfig` (ε, the share of variance of SVCCA, pooling, the number of probes) was
written before any score of the final zoos was seen.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from reuselib import data, run
from reuselib.attribution.affinity import cosines, normalised
from reuselib.attribution.evaluation import Score, Truth
from reuselib.attribution.learning import normalised as in_range
from reuselib.attribution.learning import seconds
from reuselib.attribution.method import EPSILON, channel_mean, epsilon_lrp, maps, pooled
from reuselib.attribution.representation import features
from reuselib.attribution.rivals import rsa, svcca
from reuselib.attribution.rooms_zoo import COLOR, ZooPlan, open_zoo
from reuselib.attribution.tree import Tree, cophenetic_correlation, purity
from reuselib.data import ImageSet
from reuselib.depara.graph import Graph
from reuselib.errors import unknown
from reuselib.run.legacy import Outcome
from reuselib.worlds import rooms

MAPS: dict[str, dict[str, Any]] = {
    "input-x-gradient": {"method": "input_x_gradient"},
    "epsilon-lrp": {"method": "epsilon_lrp"},
    "saliency": {"method": "saliency"},
    "random-encoders": {"method": "input_x_gradient"},
    "centred": {"method": "input_x_gradient", "centred": True},
    "pooled": {"method": "input_x_gradient", "centred": True, "pool": 2},
}
"""Scores by maps: method, whether the mean map of all networks is taken off, side of the squares that are pooled."""
FEATURES = ("rsa", "svcca")
SCORES = ("input-x-gradient", "epsilon-lrp", "saliency", *FEATURES, "random-encoders", "centred", "pooled")
CONTROLS = ("popularity", "group-prior", "symmetric-ceiling", "split-half", "oracle", "random")
PROBES = ("world", "collage", "fashion", "noise")
COUNTS = (1, 2, 3, 4, 5)
"""K of the hits that a record keeps."""


@dataclass(frozen=True)
class ZooConfig:
    """Everything that decides a row of a zoo, beside the seed.

    Attributes:
        zoo: the plan of networks and transfers.
        number: the zoo's seed.
        part: "training", "transfers", one of ``SCORES`` or of ``CONTROLS``.
        probes: one of ``PROBES`` for a score.
        count: probe images.
        epsilon: ε of ε-LRP.
        variance: of the features, that SVCCA keeps; the papers' 0.99 keeps as many directions as there are probes.
        clusters: into which the trees are cut.
    """

    zoo: ZooPlan
    number: int
    part: str
    probes: str = ""
    count: int = 256
    epsilon: float = EPSILON
    variance: float = 0.9
    clusters: int = 4


def outcome(
    metrics: dict[str, float],
    kept: dict[str, Any],
    history: run.History | None = None,
    where: torch.device | None = None,
    precision: str = "fp32",
) -> Outcome:
    """An outcome with the curves of P@K and R@K, if there is a score."""
    history = run.History() if history is None else history
    if isinstance(score := kept.get("score"), Score):
        pairs = zip(score.precision.tolist(), score.recall.tolist(), strict=True)
        history.rounds = [{"iteration": k, "precision": p, "recall": r} for k, (p, r) in enumerate(pairs, 1)]
    curves = ("precision", "recall") if history.rounds else ()
    return Outcome(metrics, history, where or torch.device("cpu"), precision, kept, curves)


def probe_images(name: str, count: int, seed: int, where: torch.device) -> ImageSet:
    """Unlabelled probe images of 32x32 pixels, in [-1, 1] once normalised.

    Args:
        name: one of ``PROBES``: rooms, collages of rectangles, Fashion-MNIST's test images, or uniform noise.
        count: how many.
        seed: of the draw; rooms of every seed are other rooms.
        where: the device.

    Raises:
        UnknownName: there are no such probes.
    """
    if name == "world":
        return rooms.rooms("probes", count, seed, where).images.unlabelled()
    if name in ("collage", "noise"):
        return (rooms.collage if name == "collage" else rooms.noise)(count, seed, where)
    if name != "fashion":
        raise unknown("probes", name, PROBES)
    images = data.load("fashion_mnist", "test").take(count, seed).unlabelled().resized(rooms.SIZE).with_channels(3)
    return replace(images, mean=(0.5,) * 3, std=(0.5,) * 3).to(where)


@dataclass(frozen=True)
class Scorer:
    """A way to compare networks.

    Attributes:
        observe: network and probes (n, C, H, W) → what is kept of the network.
        compare: of two networks what was kept → how alike they are.
        centred: whether what is kept is a tensor, of which the mean over all networks is taken off.
        ready: what is done to it then, once for each network.
        untrained: whether the networks are taken as they were before training.
        own: how alike a network is to itself.
    """

    observe: Callable[[nn.Module, Tensor], Any]
    compare: Callable[[Any, Any], float]
    centred: bool = False
    ready: Callable[[Any], Any] = field(default=lambda kept: kept)
    untrained: bool = False
    own: float = 1.0


def mean_cosine(a: Tensor, b: Tensor) -> float:
    """The affinity of two networks from their unit vectors."""
    return float(cosines(a, b).mean())


def scorer(score: str, epsilon: float = EPSILON, variance: float = 0.99, batch: int = 64) -> Scorer:
    """The scorer of a name.

    Raises:
        UnknownName: there is none.
    """
    if score in FEATURES:
        compare = rsa if score == "rsa" else functools.partial(svcca, variance=variance)
        return Scorer(functools.partial(features, batch=batch), compare)
    if score not in MAPS:
        raise unknown("score", score, SCORES)
    settings = MAPS[score]
    method = functools.partial(epsilon_lrp, epsilon=epsilon) if score == "epsilon-lrp" else settings["method"]
    reduce = pooled(settings["pool"]) if "pool" in settings else channel_mean
    observe = functools.partial(maps, method=method, reduce=reduce, batch=batch)
    return Scorer(observe, mean_cosine, settings.get("centred", False), normalised, score == "random-encoders")


def similarities(kept: Sequence[Any], compare: Callable[[Any, Any], float], own: float = 1.0) -> Tensor:
    """The symmetric matrix of a comparison, float64 (N, N), with ``own`` on the diagonal."""
    found = torch.eye(len(kept), dtype=torch.float64) * own
    for i, a in enumerate(kept):
        for j, b in enumerate(kept[:i]):
            found[i, j] = found[j, i] = compare(a, b)
    return found


def off_diagonal(similarity: Tensor) -> float:
    """The mean over all pairs of different networks."""
    rows, columns = torch.triu_indices(len(similarity), len(similarity), offset=1)
    return float(similarity[rows, columns].mean())


def score_metrics(score: Score) -> dict[str, float]:
    """P@K, hits, R@5, the mean rank correlation, and the standard error of P@K over the targets."""
    found: dict[str, float] = {}
    errors = score.precision_error()
    for count in COUNTS:
        found[f"p_at_{count}"] = float(score.precision[count - 1])
        found[f"hits_{count}"] = float(score.total[count - 1])
        found[f"p_at_{count}_error"] = float(errors[count - 1])
    return found | {"r_at_5": float(score.recall[4]), "spearman": score.correlation}


def tree_metrics(similarity: Tensor, truth: Truth, groups: Mapping[str, str], clusters: int) -> dict[str, float]:
    """Agreement of the tree with that of the truth, purity of its clusters, and the mean similarity."""
    tree = Tree.of(similarity, truth.sources)
    agreement = cophenetic_correlation(tree, true_tree(truth))
    return {
        "cophenetic": 0.0 if math.isnan(agreement) else agreement,  # a tree whose leaves all merge at one height
        "purity": purity(tree.clusters(clusters), {name: groups[name] for name in truth.sources}),
        "mean_cosine": off_diagonal(similarity),
        "pairs": truth.symmetric_correlation((similarity + similarity.T) / 2),
    }


def true_tree(truth: Truth) -> Tree:
    """The tree of the true transfers, of what transfers out of each source.

    Each target's affinities are compared as logarithms of mean 0 and deviation 1, for the best source has most of what
    they sum to.
    """
    return Tree.of(truth.standardised_log().T, truth.sources)


@dataclass(frozen=True, eq=False)
class Compared:
    """What comparing all sources gave.

    Attributes:
        similarity: float64 (N, N).
        observed: what was kept of each source.
        ready: what was compared.
        shared: the mean that was taken off, if any.
        seconds: of work.
    """

    similarity: Tensor
    observed: list[Any]
    ready: list[Any]
    shared: Tensor | None
    seconds: float


def zero_maps(ready: Sequence[Any]) -> int:
    """How many maps are zero, of unit vectors (n, d) or graphs; 0 of whatever else."""
    found = 0
    for each in ready:
        nodes = each.nodes if isinstance(each, Graph) else each
        if isinstance(nodes, Tensor) and nodes.ndim == 2:
            found += int((nodes == 0).all(1).sum())
    return found


class Bench:
    """One row of a zoo that scores its networks, or a control.

    Args:
        config: of the row.
        seed: of the probe images.
        progress: whether to show bars, where the zoo is still to be made.
        device: chosen by the engine if left out.
    """

    def __init__(self, config: ZooConfig, seed: int, progress: bool = False, device: str | None = None) -> None:
        self.config, self.seed = config, seed
        self.zoo = open_zoo(config.zoo, config.number, device)
        self.zoo.ready(progress)
        self.truth, self.history = self.zoo.truth, run.History()
        self.kept: dict[str, Any] = {"zoo": self.zoo, "truth": self.truth}

    def outcome(self) -> Outcome:
        """Score, and measure the score."""
        if self.config.part in CONTROLS:
            score = control(self.truth, self.config.part, self.zoo.groups, self.halves)
            return outcome(score_metrics(score), self.kept | {"score": score}, self.history, self.zoo.device)
        metrics = self.measure()
        return outcome(metrics, self.kept, self.history, self.zoo.device)

    def halves(self) -> Score:
        """The truth of one half of the test images, scored against that of the other."""
        losses = self.zoo.losses
        index = torch.randperm(losses.shape[2], generator=torch.Generator().manual_seed(self.seed))
        first, second = (self.zoo.truth_of(losses[:, :, part]) for part in index.tensor_split(2))
        return first.evaluate(second.affinity)

    # --- networks and probes

    @property
    def names(self) -> tuple[str, ...]:
        """The sources."""
        return self.truth.sources

    @functools.cached_property
    def twins(self) -> tuple[str, ...]:
        """Members of another architecture that learned the task of a source."""
        return tuple(
            name
            for name, member in self.zoo.members.items()
            if member.encoder == "residual" and member.task in self.names
        )

    @functools.cached_property
    def probes(self) -> ImageSet:
        """The probe images."""
        return probe_images(self.config.probes, self.config.count, self.seed, self.zoo.device)

    def given(self, name: str) -> Tensor:
        """The probes as a member gets them: the whole image for all but color, which sees it in grey."""
        images = in_range(self.probes.images)
        return rooms.inputs(COLOR, images) if self.zoo.member(name).task == COLOR else images

    def network(self, name: str, untrained: bool) -> nn.Module:
        """A member, or what it was before training."""
        return self.zoo.fresh(name) if untrained else self.zoo.network(name)

    # --- measuring

    def way(self) -> Scorer:
        """The scorer of the row."""
        return scorer(self.config.part, self.config.epsilon, self.config.variance)

    def measure(self) -> dict[str, float]:
        """The metrics of the row's score."""
        way = self.way()
        found = self.compare(way)
        if self.config.part in MAPS:
            self.kept["maps"] = torch.stack(found.observed)
        metrics = self.judged(self.truth.evaluate(found.similarity), found.similarity)
        metrics |= {"seconds": found.seconds, "zero_maps": zero_maps(found.ready)}
        if self.config.part == "svcca":
            metrics |= self.by_channels()
        return metrics | self.twin_metrics(way, found)

    def compare(self, way: Scorer) -> Compared:
        """Compare all sources by a scorer, and time it."""
        networks = {name: self.network(name, way.untrained) for name in self.names}
        images = {name: self.given(name) for name in self.names}
        first = self.names[0]
        way.observe(networks[first], images[first][:2])  # the first call is slower
        with run.measured(self.history.cost):
            observed = [way.observe(network, images[name]) for name, network in networks.items()]
            shared = torch.stack(observed).mean(0) if way.centred else None
            ready = [way.ready(each if shared is None else each - shared) for each in observed]
            similarity = similarities(ready, way.compare, way.own)
        return Compared(similarity, observed, ready, shared, seconds(self.history.cost, self.zoo.device))

    def judged(self, score: Score, similarity: Tensor) -> dict[str, float]:
        """What is said of a score and of the matrix that it comes from; they are kept for figures."""
        self.kept |= {
            "score": score,
            "similarity": similarity,
            "names": self.names,
            "probes": self.probes,
            "tree": Tree.of(similarity, self.names),
            "true_tree": true_tree(self.truth),
        }
        metrics = score_metrics(score) | tree_metrics(similarity, self.truth, self.zoo.groups, self.config.clusters)
        return metrics | {"networks": len(self.names)}

    def by_channels(self) -> dict[str, float]:
        """SVCCA of the representations averaged over their places, 8 numbers an image, with all of their variance."""
        pooled_features = [features(self.zoo.network(name), self.given(name), pooled=True) for name in self.names]
        found = similarities(pooled_features, functools.partial(svcca, variance=1.0))
        metrics = score_metrics(self.truth.evaluate(found))
        return {f"{name}_channels": metrics[name] for name in ("p_at_1", "p_at_2", "p_at_4", "spearman")}

    def twin_metrics(self, way: Scorer, found: Compared) -> dict[str, float]:
        """Where a network of another architecture ranks that of its own task: a property that the method needs."""
        places = []
        for name in self.twins:
            other = way.observe(self.network(name, way.untrained), self.given(name))
            other = way.ready(other if found.shared is None else other - found.shared)
            scores = [way.compare(other, source) for source in found.ready]
            own = scores[self.names.index(self.zoo.member(name).task)]
            places.append(1 + sum(value > own for value in scores))
        if not places:
            return {}
        first = sum(place == 1 for place in places)
        return {"twin_place": sum(places) / len(places), "twin_first": first / len(places)}


def control(truth: Truth, name: str, groups: Mapping[str, str], halves: Callable[[], Score]) -> Score:
    """A ranking that looks at no network, or a ceiling.

    Raises:
        UnknownName: there is no such control.
    """
    ways: dict[str, Callable[[], Score]] = {
        "popularity": lambda: truth.evaluate(truth.popularity()),
        "group-prior": lambda: truth.evaluate(truth.group_prior(groups, "3D"), "random"),
        "symmetric-ceiling": lambda: truth.evaluate(truth.symmetric()),
        "split-half": halves,
        "oracle": lambda: truth.evaluate(truth.affinity),
        "random": lambda: truth.evaluate(truth.constant(), "random"),
    }
    if name not in ways:
        raise unknown("control", name, ways)
    return ways[name]()
