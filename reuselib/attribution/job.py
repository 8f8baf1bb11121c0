"""One row on a zoo of room networks with one seed: the zoo is made, its networks are scored, or a control is.

Whatever is chosen here (ε, the share of variance of SVCCA, pooling, the number of probes) was written before any score
of the final zoos was seen.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from reuselib import checks, data, run
from reuselib.attribution.attributions import gradient_times_input
from reuselib.attribution.evaluation import Score, Truth, split_half
from reuselib.attribution.learning import in_range, seconds
from reuselib.attribution.losses import pooled
from reuselib.attribution.method import Comparison, ModelSpace, Prepare, by_maps
from reuselib.attribution.representation import features
from reuselib.attribution.rivals import rsa, svcca, upper
from reuselib.attribution.rooms_zoo import COLOR, open_zoo
from reuselib.attribution.tree import Tree, cophenetic_correlation, purity
from reuselib.data import ImageSet
from reuselib.errors import ShapeMismatch, unknown
from reuselib.worlds import rooms

PROBES = ("world", "collage", "fashion", "noise")
COUNTS = (1, 2, 3, 4, 5)
"""K of the hits that a record keeps."""


def by_features(compare: Callable[[Tensor, Tensor], float], batch: int = 64) -> Comparison:
    """Compare networks by the representations (n, U) that they make of the probes."""
    return Comparison(partial(features, batch=batch), compare)


WAYS: dict[str, Callable[[run.Settings], Comparison]] = {
    "input-x-gradient": lambda settings: by_maps(batch=settings.batch),
    "epsilon-lrp": lambda settings: by_maps("epsilon_lrp", batch=settings.batch),
    "saliency": lambda settings: by_maps("saliency", batch=settings.batch),
    "rsa": lambda settings: by_features(rsa, settings.batch),
    "svcca": lambda settings: by_features(partial(svcca, variance=settings.variance), settings.batch),
    "random-encoders": lambda settings: by_maps(batch=settings.batch),
    "centred": lambda settings: by_maps(centred=True, batch=settings.batch),
    "pooled": lambda settings: by_maps(centred=True, reduce=pooled(2), batch=settings.batch),
}
"""Score → the way of comparing networks that it stands for."""


def way_of(ways: Mapping[str, Callable[[run.Settings], Comparison]], settings: run.Settings) -> Comparison:
    """The way of comparing networks that the method of a row stands for; UnknownName where there is no such score."""
    checks.known("score", ways, settings.method)
    return ways[settings.method](settings)


PREPARE: dict[str, Prepare] = {COLOR: partial(rooms.inputs, COLOR)}
"""All networks are given the whole image, but that of color, which sees it in grey."""
UNLEARNED = ("random-encoders", "random-edges")
"""Scores of the networks as they were before training."""

CONTROLS: dict[str, Callable[[Truth, Mapping[str, str]], Score]] = {
    "popularity": lambda truth, groups: truth.evaluate(truth.popularity()),
    "group-prior": lambda truth, groups: truth.evaluate(truth.group_prior(groups, "3D"), "random"),
    "symmetric-ceiling": lambda truth, groups: truth.evaluate(truth.symmetric()),
    "oracle": lambda truth, groups: truth.evaluate(truth.affinity),
    "random": lambda truth, groups: truth.evaluate(torch.zeros_like(truth.affinity), "random"),
}
"""Rankings that look at no network, and ceilings: truth and group of each task → score."""


def probe_images(name: str, count: int, seed: int, where: torch.device | str) -> ImageSet:
    """Unlabelled probe images of 32x32 pixels, in [-1, 1] once normalised.

    Args:
        name: one of ``PROBES``: rooms, collages of rectangles, Fashion-MNIST's test images, or uniform noise.
        count: how many.
        seed: of the draw; rooms of every seed are other rooms.
        where: the device.

    Raises:
        UnknownName: there are no such probes.
        BadValue: count or seed cannot be meant.
    """
    checks.whole(count=count)
    checks.whole(0, checks.SEEDS, seed=seed)
    if name == "world":
        return rooms.rooms("probes", count, seed, where).images.unlabelled()
    if name in ("collage", "noise"):
        return (rooms.collage if name == "collage" else rooms.noise)(count, seed, where)
    if name != "fashion":
        raise unknown("probes", name, PROBES)
    images = data.load("fashion_mnist", "test").take(count, seed).unlabelled().resized(rooms.SIZE).with_channels(3)
    return replace(images, mean=(0.5,) * 3, std=(0.5,) * 3).to(where)


# --- metrics ----------------------------------------------------------------------------------------------------------


def score_metrics(score: Score) -> dict[str, float]:
    """P@K, hits, R@5, the mean rank correlation, and the standard error of P@K over the targets.

    Raises:
        ShapeMismatch: there are fewer than five candidates for a target.
    """
    if (candidates := score.hits.shape[1]) < COUNTS[-1]:
        raise ShapeMismatch(f"P@{COUNTS[-1]} needs {COUNTS[-1]} candidates for each target, not {candidates}.")
    curves = {"p_at_{}": score.precision, "hits_{}": score.total, "p_at_{}_error": score.precision_error()}
    found = {name.format(k): float(values[k - 1]) for k in COUNTS for name, values in curves.items()}
    return found | {"r_at_5": float(score.recall[4]), "spearman": score.correlation}


def score_history(score: Score) -> run.History:
    """The curves of P@K and R@K."""
    pairs = zip(score.precision.tolist(), score.recall.tolist(), strict=True)
    return run.History([{"iteration": k, "precision": p, "recall": r} for k, (p, r) in enumerate(pairs, 1)])


def tree_metrics(similarity: Tensor, truth: Truth, groups: Mapping[str, str], clusters: int) -> dict[str, float]:
    """Agreement of the tree with that of the truth, purity of its clusters, and the mean similarity."""
    tree = Tree.of(similarity, truth.sources)
    agreement = cophenetic_correlation(tree, true_tree(truth))
    return {
        "cophenetic": 0.0 if math.isnan(agreement) else agreement,  # a tree whose leaves all merge at one height
        "purity": purity(tree.clusters(clusters), groups),
        "mean_cosine": float(upper(similarity).mean()),
        "pairs": truth.symmetric_correlation((similarity + similarity.T) / 2),
    }


def true_tree(truth: Truth) -> Tree:
    """The tree of the true transfers, of what transfers out of each source.

    Each target's affinities are compared as logarithms of mean 0 and deviation 1, for the best source has most of what
    they sum to.
    """
    return Tree.of(truth.standardised_log().T, truth.sources)


# --- jobs -------------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class ZooResult(run.Result):
    """Scored networks; what belongs to no score is empty where a zoo is made, and the truth where there is none.

    Attributes:
        zoo: the networks and their transfers.
        truth: what truly transfers to what.
        score: how the ranking does.
        similarity: float64 (N, N), of all pairs of sources.
        probes: the images.
        space: the networks as they were compared.
    """

    zoo: Any = None
    truth: Truth = None  # type: ignore[assignment]
    score: Score = None  # type: ignore[assignment]
    similarity: Tensor = None  # type: ignore[assignment]
    probes: Any = None
    space: ModelSpace = None  # type: ignore[assignment]

    @property
    def names(self) -> tuple[str, ...]:
        """The sources, or networks without a truth."""
        return self.truth.sources if self.truth else self.space.names

    @property
    def tree(self) -> Tree:
        """The tree of the rows of the similarities."""
        return Tree.of(self.similarity, self.names)

    @property
    def true_tree(self) -> Tree:
        """The tree of the true transfers."""
        return true_tree(self.truth)

    @property
    def maps(self) -> Tensor:
        """The maps of all sources, (N, n, h, w), of a score by maps."""
        return torch.stack(list(self.space.observed.values()))


class Explaining(run.Method):
    """Gradient x input of one batch of images, an update: what a score by maps costs."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self.network, self.images = network, images

    def step(self) -> dict[str, Tensor]:
        """Explain the batch."""
        return {"attributions": gradient_times_input(self.network, self.images)}


class ZooJob(run.Job):
    """What the scores of one zoo share with one seed, which draws the probe images and the halves of "split-half"."""

    ways = WAYS

    @cached_property
    def cost(self) -> run.Cost:
        """What comparing the sources took."""
        return run.Cost()

    @cached_property
    def zoo(self) -> Any:
        """The row's zoo."""
        return open_zoo(self.settings.zoo, self.settings.number, self.device)

    @cached_property
    def truth(self) -> Truth:
        """What truly transfers to what; networks and transfers are made if they are not there."""
        self.zoo.ready(self.progress)
        return self.zoo.truth

    @cached_property
    def twins(self) -> tuple[str, ...]:
        """Members of another architecture that learned the task of a source."""
        members = self.zoo.members.items()
        return tuple(n for n, member in members if member.encoder == "residual" and member.task in self.truth.sources)

    @cached_property
    def probes(self) -> ImageSet:
        """The probe images."""
        return probe_images(self.settings.probes, self.settings.count, self.seed, self.device)

    def given(self, name: str) -> Tensor:
        """The probes as a member gets them."""
        images = in_range(self.probes.images)
        return PREPARE[name](images) if name in PREPARE else images

    def network(self, name: str) -> nn.Module:
        """A member, or what it was before training."""
        return self.zoo.fresh(name) if self.settings.method in UNLEARNED else self.zoo.network(name)

    def result(self) -> ZooResult:
        """Make the zoo, or score its networks."""
        with run.threads():
            return self.methods.get(self.settings.method, type(self).scored)(self)

    def make(self) -> ZooResult:
        """Train networks or measure tables, or find them made; the numbers are those of the making."""
        part, zoo = self.settings.method, self.zoo
        cost = zoo.train(self.progress) if part == "training" else zoo.table(part, self.progress)
        where: dict[str, Any] = {"device": self.device, "precision": self.precision}
        return ZooResult(metrics=zoo.metrics(part), history=run.History(cost=cost), zoo=zoo, **where)

    def control(self) -> ZooResult:
        """A ranking that looks at no network, or a ceiling."""
        if self.settings.method == "split-half":
            return self.judged(split_half(self.truth, self.zoo.losses, self.seed), {})
        return self.judged(CONTROLS[self.settings.method](self.truth, self.zoo.groups), {})

    def scored(self) -> ZooResult:
        """The row's score of all sources, and where it ranks the twins."""
        space = self.compare(way_of(self.ways, self.settings))
        metrics = {"zero_maps": sum(space.zeros.values()), **self.twin_metrics(space)}
        if self.settings.method == "svcca":
            metrics |= self.by_channels()
        return self.judged(self.truth.evaluate(space.similarity), metrics, space, space.similarity)

    def compare(self, way: Comparison, cost: run.Cost | None = None) -> ModelSpace:
        """Compare all sources, and add what it takes to a cost, the job's own if left out."""
        networks = {name: self.network(name) for name in self.truth.sources}
        space = ModelSpace(in_range(self.probes.images), way)
        first = networks[self.truth.sources[0]]
        way.observe(first, in_range(self.probes.images[:2]), where=None)  # the first call is slower
        with run.measured(cost or self.cost):
            space.extend(networks, prepare={name: way for name, way in PREPARE.items() if name in networks})
        return space

    def judged(self, score: Score, metrics: dict[str, float], space: Any = None, similarity: Any = None) -> ZooResult:
        """What is said of a score and of the matrix that it comes from."""
        history, metrics = score_history(score), score_metrics(score) | metrics
        found = {"zoo": self.zoo, "truth": self.truth, "score": score, "space": space, "similarity": similarity}
        if space is not None:
            history.cost, found["probes"] = self.cost, self.probes
            metrics |= tree_metrics(similarity, self.truth, self.zoo.groups, self.settings.clusters)
            metrics |= {"networks": len(space.names), "seconds": seconds(self.cost, self.device)}
        where: dict[str, Any] = {"curves": ("precision", "recall"), "device": self.device}
        return ZooResult(metrics=metrics, history=history, **where, **found)

    def by_channels(self) -> dict[str, float]:
        """SVCCA of the representations averaged over their places, 8 numbers an image, with all of their variance."""
        space = self.compare(Comparison(partial(features, pooled=True), partial(svcca, variance=1.0)), run.Cost())
        metrics = score_metrics(self.truth.evaluate(space.similarity))
        return {f"{name}_channels": metrics[name] for name in ("p_at_1", "p_at_2", "p_at_4", "spearman")}

    def twin_metrics(self, space: ModelSpace) -> dict[str, float]:
        """Where a network of another architecture ranks that of its own task: a property that the method needs."""
        places = []
        for name in self.twins:
            task = self.zoo.member(name).task
            scores = space.compare(self.network(name), prepare=PREPARE.get(task))
            own = scores[space.names.index(task)]
            places.append(1 + sum(value > own for value in scores))
        if not places:
            return {}
        first = sum(place == 1 for place in places)
        return {"twin_place": sum(places) / len(places), "twin_first": first / len(places)}

    methods: ClassVar[dict[str, Callable[[Any], ZooResult]]] = {
        **dict.fromkeys(("training", "transfers", "readout", "finetuning"), make),
        **dict.fromkeys((*CONTROLS, "split-half"), control),
    }
    """Method → what does it; all others are scores."""
