"""Chapter 08: which network and which layer to reuse, by attribution graphs; beside their parts, RSA and controls.

A row of the zoos is ``zoo<seed>-<score>-<probes>``, or ``zoo<seed>-<control>``; zoos and truth are those of chapter 07.
A row about layers is ``layers-<source>-<percent of the labels>-<score>``; ``layers-networks`` and those that end in
``transfers`` make the truth and come first. The larger scales compare torchvision's classifiers, as in chapter 07, and
choose layers of VGG-19.

λ = 1 was fixed before any score of these zoos was seen; 0.25 is the paper's for its own images; the tuned one is chosen
for each target on the other targets.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reuselib import report, run
from reuselib.attribution import study
from reuselib.attribution.classifiers import FAMILIES, SMALL_FAMILIES, ClassifierConfig, Classifiers, classifier_rows
from reuselib.attribution.evaluation import Score, Truth
from reuselib.attribution.learning import seconds
from reuselib.attribution.representation import features
from reuselib.attribution.rivals import ordinal_ranks, spearman_of_ranks
from reuselib.attribution.rooms_zoo import ZooPlan
from reuselib.attribution.scores import (
    CONTROLS,
    FEATURES,
    Bench,
    Compared,
    Scorer,
    ZooConfig,
    outcome,
    scorer,
    similarities,
)
from reuselib.depara.graph import (
    Graph,
    attribution_graph,
    edge_similarity,
    edge_values,
    graph_similarity,
    node_similarity,
)
from reuselib.depara.layer_choice import (
    IMAGENET_SOURCE,
    Cuts,
    LayerConfig,
    LayerPlan,
    computed_cuts,
    judged,
    layer_rows,
    open_studio,
    transfers,
)
from reuselib.errors import unknown
from reuselib.run.legacy import Chapter, Outcome

LAMBDAS = (0.1, 0.25, 1.0, 10.0)
GRID = (0.03, 0.1, 0.25, 1.0, 3.0, 10.0, 30.0)
"""The λ among which the tuned one is chosen."""
GRAPHS = {f"graph-{value:g}": value for value in LAMBDAS}
SCORES = ("nodes", "edges", *GRAPHS, "graph-tuned", *FEATURES, "random-edges")


@dataclass(frozen=True)
class GraphConfig(ZooConfig):
    """Everything that decides a row of a zoo, beside the seed; ``part`` is one of ``SCORES`` or of ``CONTROLS``.

    Attributes:
        grid: the λ to choose from.
        tuned_at: K of the hits by which it is chosen.
    """

    grid: tuple[float, ...] = GRID
    tuned_at: int = 4


Config = GraphConfig | LayerConfig | ClassifierConfig


# --- presets ----------------------------------------------------------------------------------------------------------

LAYERS = LayerPlan()
SMOKE_LAYERS = LayerPlan(
    "closeups-smoke",
    rich="scene-deep",
    zoo=study.SMOKE,
    source_images=64,
    source_updates=6,
    images=400,
    target_updates=6,
    test_images=64,
    updates=4,
    repeats=1,
    probes=8,
    batch=16,
    source_batch=16,
    kept=False,
)
DIGITS = LayerPlan(
    "digits-vgg",
    "svhn",
    "mnist",
    IMAGENET_SOURCE,
    network="vgg19_bn",
    size=64,
    source_images=20_000,
    source_updates=1000,
    images=20_000,
    target_updates=1500,
    test_images=5000,
    updates=150,
    repeats=1,
    lr=0.01,
    crop=4,
)
SYN2REAL = LayerPlan(
    "syn2real-vgg",
    "syn2real-real",
    "syn2real-synthetic",
    IMAGENET_SOURCE,
    network="vgg19_bn",
    size=224,
    source_images=106_677,
    source_updates=60 * 3334,
    images=38_771,
    target_updates=60 * 1212,
    test_images=11_077,
    epochs=50,
    repeats=1,
    batch=128,
    source_batch=32,
    lr=0.01,
    constant=True,
    crop=16,
)
"""The paper's: 50 epochs at a constant rate of 0.01, batch 128; 60 epochs, batch 32, for source and target networks."""


def _zoo_rows(plan: ZooPlan, numbers: Sequence[int], **changes: Any) -> dict[str, Config]:
    parts = study.zoo_parts(SCORES, CONTROLS)
    return {
        f"zoo{number}-{row}": GraphConfig(plan, number, part, probes, **changes)
        for number in numbers
        for row, (part, probes) in parts.items()
    }


class DeparaChapter(Chapter):
    """Chapter 08.

    A run of a score keeps what :class:`~reuselib.attribution.study.AttributionChapter` says, and
    ``graphs``, source → :class:`~reuselib.depara.Graph`, where there are any. A run about layers keeps
    ``studio`` and, but for its networks, ``cuts``.
    """

    name = "depara"
    title = "Which network and which layer to reuse, by attribution graphs"

    @classmethod
    def presets(cls, scale: str) -> Mapping[str, Config]:
        """The rows of a scale; those that make something come before those that read it."""
        if scale == "smoke":
            count = study.SMOKE_PROBES
            rows = _zoo_rows(study.SMOKE, (0,), count=count, tuned_at=2)
            return rows | layer_rows(SMOKE_LAYERS)
        if scale == "laptop":
            return _zoo_rows(study.LAPTOP, (0, 1)) | layer_rows(LAYERS)
        scores = ("nodes", "edges", *GRAPHS, *FEATURES)
        if scale == "colab":
            graphs: dict[str, Config] = {**classifier_rows(SMALL_FAMILIES, scores, 200)}
            return graphs | layer_rows(DIGITS) | _zoo_rows(study.LAPTOP, (2, 3))
        return {**classifier_rows(FAMILIES, scores, 1000)} | layer_rows(SYN2REAL)

    def perform(self, config: Config, seed: int, checkpoint: str | Path | None, progress: bool, title: str) -> Outcome:
        """Score networks or layers; only transfers between layers use the ``checkpoint``."""
        with run.threads():
            if isinstance(config, ClassifierConfig):
                way = graph_scorer(config.score, config.epsilon, config.variance, config.batch)
                return Classifiers(config, seed).outcome(progress, way)
            if isinstance(config, LayerConfig):
                return self.about_layers(config, seed, checkpoint, progress)
            return GraphBench(config, seed, progress).outcome()

    def about_layers(self, config: LayerConfig, seed: int, checkpoint: str | Path | None, progress: bool) -> Outcome:
        """Train networks, make the truth, or score layers against it."""
        studio = open_studio(config.plan)
        cost, metrics = studio.train(progress), studio.metrics()
        kept: dict[str, Any] = {"studio": studio}
        if config.method == "transfers":
            kept["cuts"], cost = transfers(studio, config.source, config.amount, seed, checkpoint, progress)
            metrics = kept["cuts"].metrics()
        elif config.method != "networks":
            kept["cuts"] = self.cuts(config, seed)
            metrics, cost = judged(studio, config, kept["cuts"], seed)
        return outcome(metrics, kept, run.History(cost=cost), studio.device, run.precision(studio.device).name)

    def cuts(self, config: LayerConfig, seed: int) -> Cuts:
        """The truth of a source and an amount of labels: that of the record, if there is one of this configuration."""
        truth = replace(config, method="transfers")
        row = f"layers-{config.source}-{config.amount}-transfers"
        record = report.find(self.name, self.scale, row, seed, truth)
        if record is not None:
            return Cuts.of(record.metrics)
        return computed_cuts(open_studio(config.plan), config.source, config.amount, seed)


# --- graphs -----------------------------------------------------------------------------------------------------------


def edge_ranks(network: nn.Module, images: Tensor, batch: int = 64) -> Tensor:
    """The ranks of a network's edges: cosines of its features, centred over the probes."""
    return ordinal_ranks(edge_values(features(network, images, batch=batch)))


def graph_scorer(score: str, epsilon: float, variance: float, batch: int = 64) -> Scorer:
    """The scorer of a name.

    Raises:
        UnknownName: there is none.
    """
    if score in FEATURES:
        return scorer(score, epsilon, variance, batch)
    if score == "nodes":
        return scorer("input-x-gradient", epsilon, variance, batch)
    if score in ("edges", "random-edges"):
        observe = functools.partial(edge_ranks, batch=batch)
        return Scorer(observe, spearman_of_ranks, untrained=score == "random-edges")
    if score not in GRAPHS:
        raise unknown("score", score, SCORES)
    weight = GRAPHS[score]
    compare = functools.partial(graph_similarity, lambda_=weight)
    return Scorer(functools.partial(attribution_graph, batch=batch), compare, own=1 + weight)


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
    """
    curve = {weight: truth.evaluate(v + weight * e) for weight in grid}
    scores = list(curve.values())
    at_k = torch.stack([score.hits[:, count - 1].double() for score in scores])
    others = (at_k.sum(1, keepdim=True) - at_k).argmax(0)
    everywhere = [grid[int(at_k.sum(1).argmax())]] * len(truth.sources)
    for row, choice in zip(truth.own.tolist(), others.tolist(), strict=True):
        everywhere[row] = grid[choice]
    weights = torch.tensor(everywhere, dtype=torch.float64).unsqueeze(1)
    similarity = (v + weights * e) / (1 + weights)
    return Tuned(truth.evaluate(similarity), similarity, tuple(everywhere), curve)


class GraphBench(Bench):
    """One row of a zoo that scores its networks by graphs, or a control.

    Args:
        config: of the row.
        options: those of :class:`~reuselib.attribution.scores.Bench`.
    """

    config: GraphConfig

    def way(self) -> Scorer:
        """The scorer of the row; for the tuned λ that of the nodes, with graphs."""
        if self.config.part == "graph-tuned":
            return Scorer(attribution_graph, node_similarity)
        return graph_scorer(self.config.part, self.config.epsilon, self.config.variance)

    def measure(self) -> dict[str, float]:
        """The metrics of the row's score."""
        if self.config.part != "graph-tuned":
            return super().measure()
        config, found = self.config, self.compare(self.way())
        with run.measured(cost := run.Cost()):
            e = similarities(found.ready, edge_similarity)
        chosen = tuned(self.truth, found.similarity, e, config.grid, config.tuned_at)
        metrics = self.judged(chosen.score, chosen.similarity)
        metrics |= {f"p_at_4_at_{weight:g}": float(score.precision[3]) for weight, score in chosen.curve.items()}
        metrics |= {f"spearman_at_{weight:g}": score.correlation for weight, score in chosen.curve.items()}
        own = [chosen.lambdas[column] for column in self.truth.own.tolist()]
        self.kept["tuned"] = chosen
        spent = found.seconds + seconds(cost, self.zoo.device)
        return metrics | {"seconds": spent, "lambda_least": min(own), "lambda_most": max(own)}

    def compare(self, way: Scorer) -> Compared:
        """Compare all sources, and keep their graphs."""
        found = super().compare(way)
        if isinstance(found.ready[0], Graph):
            self.kept["graphs"] = dict(zip(self.names, found.ready, strict=True))
        return found
