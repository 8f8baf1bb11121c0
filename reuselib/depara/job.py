"""One row of chapter 08 with one seed: the networks of a zoo are scored by graphs, or the layers of a network are."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from reuselib import checks, report, run
from reuselib.attribution import WAYS as OTHER_WAYS
from reuselib.attribution import (
    ClassifierJob,
    FoundJob,
    Score,
    TaskonomyJob,
    Truth,
    ZooJob,
    ZooResult,
    learning,
    spearman,
)
from reuselib.depara.layers import Cuts, LayerScores, Studio, computed_cuts, open_studio, transfers
from reuselib.depara.losses import graph_similarity
from reuselib.depara.method import by_edges, by_graphs, similarities

LAMBDAS = {f"graph-{value:g}": value for value in (0.1, 0.25, 1.0, 10.0)}
"""λ = 1 was fixed before any score of the zoos was seen; 0.25 is the paper's for its own images."""
GRID = (0.03, 0.1, 0.25, 1.0, 3.0, 10.0, 30.0)
"""The λ among which the tuned one is chosen, for each target on the other targets."""
WAYS: dict[str, Callable[[run.Settings], Any]] = {
    "nodes": OTHER_WAYS["input-x-gradient"],
    "edges": lambda settings: by_edges(settings.batch),
    **{name: partial(lambda value, settings: by_graphs(value, batch=settings.batch), v) for name, v in LAMBDAS.items()},
    "graph-tuned": lambda settings: by_graphs(batch=settings.batch),
    "rsa": OTHER_WAYS["rsa"],
    "svcca": OTHER_WAYS["svcca"],
    "random-edges": lambda settings: by_edges(settings.batch),
}
"""Score → the way of comparing networks that it stands for."""


# --- networks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Tuned:
    """A graph score whose λ is chosen for each target on all the others.

    Attributes:
        score: of the targets, each with its own λ.
        similarity: ``(V + λ E) / (1 + λ)``, float64 (N, N), each row with the λ of its network; that of a network that
            is no target is chosen on all targets.
        lambdas: of the rows.
        curve: for each λ of the grid the score with that λ everywhere.
    """

    score: Score
    similarity: Tensor
    lambdas: tuple[float, ...]
    curve: dict[float, Score]


def tuned(truth: Truth, v: Tensor, e: Tensor, grid: Sequence[float], count: int) -> Tuned:
    """Choose λ for each target by the hits among the first ``count`` sources of the others; of equal ones the first.

    Args:
        truth: of the zoo.
        v: similarities of the nodes, float64 (N, N).
        e: of the edges.
        grid: the λ to choose from.
        count: K.

    Raises:
        BadValue: a λ is below zero, or K larger than the number of candidates.
    """
    checks.whole(1, truth.candidates, count=count)
    for weight in grid:
        checks.number(weight=weight)
    curve = {weight: truth.evaluate(graph_similarity(v, e, weight)) for weight in grid}
    at_k = torch.stack([score.hits[:, count - 1].double() for score in curve.values()])
    others = (at_k.sum(1, keepdim=True) - at_k).argmax(0)
    lambdas = [grid[int(at_k.sum(1).argmax())]] * len(truth.sources)
    for row, choice in zip(truth.own.tolist(), others.tolist(), strict=True):
        lambdas[row] = grid[choice]
    weights = torch.tensor(lambdas, dtype=torch.float64).unsqueeze(1)
    similarity = graph_similarity(v, e, weights) / (1 + weights)
    return Tuned(truth.evaluate(similarity), similarity, tuple(lambdas), curve)


def tuned_row(job: ZooJob) -> ZooResult:
    """The graph whose λ is chosen for each target on the others, and the whole curve over λ."""
    space = job.compare(WAYS["graph-tuned"](job.settings))
    v, e = similarities(list(space.observed.values()))
    found = tuned(job.truth, v, e, job.settings.grid, job.settings.tuned_at)
    metrics = {f"p_at_4_at_{weight:g}": float(score.precision[3]) for weight, score in found.curve.items()}
    metrics |= {f"spearman_at_{weight:g}": score.correlation for weight, score in found.curve.items()}
    own = [found.lambdas[column] for column in job.truth.own.tolist()]
    metrics |= {"lambda_least": min(own), "lambda_most": max(own)}
    return job.judged(found.score, metrics, space, found.similarity)


class GraphJob(ZooJob):
    """What the scores of one zoo by graphs share with one seed."""

    ways, methods = WAYS, ZooJob.methods | {"graph-tuned": tuned_row}


class FoundGraphJob(FoundJob):
    """The same on the zoo that was found."""

    ways, methods = WAYS, GraphJob.methods


class TaskonomyGraphJob(TaskonomyJob):
    """Taskonomy's own encoders by graphs."""

    ways, methods = WAYS, GraphJob.methods


class GraphClassifierJob(ClassifierJob):
    """torchvision's classifiers compared by graphs."""

    ways = WAYS


# --- layers -----------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class LayerResult(run.Result):
    """What is known of the layers.

    Attributes:
        studio: the networks.
        cuts: what each cut truly gives; none where only networks are made.
    """

    studio: Studio
    cuts: Cuts | None = None


def chosen(scores: Sequence[float], cuts: Cuts, name: str = "") -> dict[str, float]:
    """What comes of taking the layer with the highest score, the first of equal ones.

    Args:
        scores: one for each layer.
        cuts: the truth.
        name: appended to the names of the metrics.
    """
    best = list(scores).index(max(scores))
    agreement = spearman(torch.tensor(scores), torch.tensor(cuts.accuracy), "average")
    return {
        f"spearman{name}": agreement if agreement == agreement else 0.0,
        f"chosen{name}": cuts.accuracy[best],
        f"depth{name}": best + 1.0,
    }


class LayerJob(run.Job):
    """A row about layers: networks are trained, the truth is made, or layers are scored against it.

    Args:
        scale: at which the record of the truth is looked for.
        options: those of :class:`~reuselib.run.Job`.
    """

    def __init__(self, settings: run.Settings, seed: int = 0, *, scale: str = "laptop", **options: Any) -> None:
        super().__init__(settings, seed, **options)
        self.scale, self.cost = scale, run.Cost()

    @cached_property
    def studio(self) -> Studio:
        """The networks."""
        return open_studio(self.settings.plan, self.device)

    def plan(self) -> Iterator[tuple[run.Method, int]]:
        """What "networks" and "transfers" train; scores train nothing."""
        source, amount = self.settings.source, self.settings.amount
        if self.settings.method == "networks":
            yield from map(self.studio.course, self.studio.own)
        if self.settings.method == "transfers":
            for layer in ("", *self.studio.layers):
                method, updates = self.studio.transfer(source, layer, amount, self.seed)
                yield method, updates * self.settings.plan.repeats

    def result(self) -> LayerResult:
        """Train whatever is missing, and do what the row asks for."""
        with run.threads():
            self.cost = self.studio.train(self.progress)
            cuts = None if self.settings.method == "networks" else self.truth()
            metrics = METHODS.get(self.settings.method, LayerJob.scored)(self, cuts)
        return LayerResult(
            metrics=metrics,
            history=run.History(cost=self.cost),
            device=self.device,
            precision=self.precision,
            studio=self.studio,
            cuts=cuts,
        )

    def truth(self) -> Cuts:
        """What the cuts of the row's source give: that of the record, if there is one of these settings."""
        source, amount = self.settings.source, self.settings.amount
        if self.settings.method == "transfers":
            cuts, self.cost = transfers(self.studio, source, amount, self.seed, self.checkpoint, self.progress)
            return cuts
        self.cost = run.Cost()
        row, wanted = f"layers-{source}-{amount}-transfers", self.settings.but(method="transfers")
        record = report.find("depara", self.scale, row, self.seed, wanted)
        return computed_cuts(self.studio, source, amount, self.seed) if record is None else Cuts.of(record.metrics)

    def scored(self, cuts: Cuts) -> dict[str, float]:
        """The layers' scores; by graphs also with a target network of few labels, and with centred features."""
        method, source = self.settings.method, self.settings.source
        variants: dict[str, dict[str, Any]] = {"": {}}
        if method in ("nodes", "edges", "graph-1", "graph-10"):
            variants |= {"_few": {"target": "target-few"}, "_centred": {"centred": True}}
        metrics: dict[str, float] = {}
        for name, options in variants.items():
            with run.measured(run.Cost() if name else self.cost):
                scores = LayerScores(self.studio, source, seed=self.seed, **options).of(method)
            metrics |= chosen(scores, cuts, name)
            if not name:
                metrics |= {f"score_{k}": score for k, score in enumerate(scores, 1)}
        return metrics | {"seconds": learning.seconds(self.cost, self.device)}


METHODS: Mapping[str, Callable[[LayerJob, Any], dict[str, float]]] = {
    "networks": lambda job, _: job.studio.metrics(),
    "transfers": lambda job, cuts: cuts.metrics(),
    "oracle": lambda job, cuts: {"chosen": max(cuts.accuracy), "depth": float(cuts.best), "span": cuts.span},
    "random-layer": lambda job, cuts: {"chosen": statistics.fmean(cuts.accuracy), "span": cuts.span},
    "scratch": lambda job, cuts: {"chosen": cuts.scratch, "span": cuts.span},
}
"""Method → metrics; all others are scores."""
