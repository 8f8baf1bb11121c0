"""Chapter 08: rows against the library's own functions, cuts of layers, what they must keep, published numbers."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
from pathlib import Path
from typing import Any

import equations
import maps_toys
import players
import pytest
import tables
import torch
from PIL import Image
from torch import Tensor, nn

from reuselib import chapters, depara, report, run
from reuselib.attribution import PROBES, Truth, cka, features, rsa, spearman
from reuselib.attribution import study as chapter07
from reuselib.attribution.rooms_zoo import Zoo
from reuselib.data import ImageSet
from reuselib.depara import Graph, attribution_graph, graph_similarity, layer_graphs, layers, similarities
from reuselib.depara.domains import domain_images, syn2real
from reuselib.depara.job import GRID, LAMBDAS, WAYS, tuned
from reuselib.depara.layers import PLAN, SOURCES, Cuts, LayerScores, Studio
from reuselib.depara.study import METHODS, PLANS, SMOKE_LAYERS
from reuselib.errors import MissingFile, ReuseError, ShapeMismatch, UnknownName
from reuselib.worlds import rooms

STUDY = chapters.study("depara", "smoke")
LAYER_ROWS = [f"layers-{source}-{amount}-{method}" for source in SOURCES for amount in (10, 1) for method in METHODS]


@pytest.fixture(autouse=True)
def in_a_room(room: Path) -> None:
    """Keep records out of the clone."""


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    return maps_toys.zoo()


@pytest.fixture(scope="module")
def studio() -> Studio:
    """The smoke scale's networks for layers, made once."""
    made = Studio(SMOKE_LAYERS)
    made.train()
    return made


def ran(row: str, seed: int = 0, **options: Any) -> Any:
    return STUDY.run(row, seed, progress=False, **options)


# --- what is declared


def test_rows_that_make_something_come_first() -> None:
    for scale, numbers in {"smoke": (0,), "laptop": (0, 1), "colab": (), "paper": ()}.items():
        study = chapters.study("depara", scale)
        assert [row for row in study.rows if row.startswith("layers-")] == ["layers-networks", *LAYER_ROWS]
        for number in numbers:
            scored = [f"{score}-{probes}" for score in WAYS for probes in PROBES]
            expected = [f"zoo{number}-{row}" for row in (*scored, *chapter07.CONTROLS)]
            assert [row for row in study.rows if row.startswith(f"zoo{number}-")] == expected


def test_the_choices_were_made_before_any_score() -> None:
    """Whoever changes one of these changes the results: raise the chapter's version."""
    settings = chapters.study("depara", "laptop").settings["zoo1-graph-tuned-world"]
    assert settings.grid == (0.03, 0.1, 0.25, 1.0, 3.0, 10.0, 30.0) and settings.zoo == chapter07.PLAN
    assert (settings.count, settings.tuned_at, settings.variance, settings.clusters) == (256, 4, 0.9, 4)
    assert LAMBDAS == {"graph-0.1": 0.1, "graph-0.25": 0.25, "graph-1": 1.0, "graph-10": 10.0}
    assert (layers.SPAN, layers.SPREAD, PLAN.amounts, PLAN.probes, PLAN.repeats) == (0.1, 0.02, (10, 1), 200, 3)
    paper = PLANS["paper"]
    assert (paper.network, paper.size, paper.probes, paper.batch, paper.lr) == ("vgg19_bn", 224, 200, 128, 0.01)
    assert (paper.weight_decay, paper.constant, paper.epochs, paper.source_batch) == (5e-4, True, 50, 32)
    assert paper.source_updates == 60 * math.ceil(106_677 / 32) and paper.target_updates == 60 * math.ceil(38_771 / 32)


def test_the_shipped_networks_were_made_by_this_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REUSELIB_DATA")
    shipped = Studio(PLAN)
    for name in ("rich", "synthetic", "target", "target-few"):
        assert shipped.piece(name).card()["recipe"] == json.loads(json.dumps(shipped.recipe(name)))


# --- rows

TREES = {"cophenetic", "purity", "mean_cosine", "seconds"}
"""What controls, which look at no network, have not."""
ONLY = {"random-layer": {"spearman", "depth"}, "scratch": {"spearman", "depth"}, "oracle": {"spearman"}}
"""What rows that choose no layer by a score have not."""
ZOO_ROWS = [f"zoo0-{score}-{probes}" for score, probes in zip(WAYS, 3 * PROBES, strict=False)]
SOME = [*ZOO_ROWS, "zoo0-split-half", "layers-networks", *LAYER_ROWS[: len(METHODS)]]


@pytest.mark.parametrize("row", SOME)
def test_a_row_gives_what_the_tables_ask_for(row: str, zoo: Zoo, studio: Studio) -> None:
    result, method = ran(row, 3), STUDY.settings[row].method
    record = result.record
    assert (record.scale, record.row, record.seed) == ("smoke", row, 3)
    missing = ONLY.get(method, set())
    if row.startswith("zoo0-"):
        missing = TREES | {"twin_place"} if method in chapter07.CONTROLS else set()
        if method == "graph-tuned":
            missing = {"twin_place"}  # a twin is no target, for which a λ could be chosen on the others
        assert result.score.hits.shape == (5, 5)
    assert tables.named("depara", "laptop").get(row, set()) - missing <= record.metrics.keys()


def test_the_equations_shown_are_those_of_recorded_rows(zoo: Zoo, studio: Studio) -> None:
    equations.check("depara", lambda: ran("zoo0-graph-1-noise"))


def test_graphs_are_nodes_and_edges(zoo: Zoo) -> None:
    rows = {part: ran(f"zoo0-{part}-world", 2) for part in ("nodes", "edges", "random-edges", *LAMBDAS)}
    x = rows["nodes"].probes.normalised(rows["nodes"].probes.images)
    given = {task: rooms.inputs("color", x) if task == "color" else x for task in zoo.tasks}
    v, e = similarities([attribution_graph(zoo.network(task), images) for task, images in given.items()])
    assert torch.allclose(rows["nodes"].similarity, v, atol=1e-6)
    assert torch.allclose(rows["edges"].similarity, e, atol=1e-9)
    for part, weight in LAMBDAS.items():
        assert torch.allclose(rows[part].similarity, graph_similarity(v, e, weight), atol=1e-6)
        assert all(isinstance(graph, Graph) for graph in rows[part].space.observed.values())
    before = chapters.study("attribution", "smoke").run("zoo0-input-x-gradient-world", 2, progress=False)
    assert torch.equal(before.similarity, rows["nodes"].similarity)
    assert not torch.allclose(rows["random-edges"].similarity, rows["edges"].similarity, atol=0.05)


def test_the_weight_is_tuned_on_the_other_targets() -> None:
    for seed in range(5):
        with run.seeded(seed):
            truth = Truth(("a", "b", "c", "d"), ("a", "b", "c", "d", "e", "f"), torch.rand(4, 6).double(), 2)
            v, e = (each + each.T for each in torch.rand(2, 6, 6, dtype=torch.float64))
        found, scores = tuned(truth, v, e, GRID, 2), [truth.evaluate(v + weight * e) for weight in GRID]
        for target in range(4):
            hits = [sum(int(score.hits[other, 1]) for other in range(4) if other != target) for score in scores]
            best = hits.index(max(hits))
            assert found.lambdas[target] == GRID[best]
            assert torch.equal(found.score.hits[target], scores[best].hits[target])
            assert found.score.correlations[target] == scores[best].correlations[target]
            affinity = truth.affinity.clone()  # what is true of a target has no say in its own weight
            affinity[target] = affinity[target].flip(0)
            other = tuned(dataclasses.replace(truth, affinity=affinity), v, e, GRID, 2)
            assert other.lambdas[target] == found.lambdas[target]
        everywhere = [int(score.hits[:, 1].sum()) for score in found.curve.values()]
        assert found.lambdas[4] == found.lambdas[5] == GRID[everywhere.index(max(everywhere))]
        weight = found.lambdas[1]
        assert torch.allclose(found.similarity[1], (v[1] + weight * e[1]) / (1 + weight))


def test_the_tuned_row_shows_the_whole_curve(zoo: Zoo) -> None:
    metrics, fixed = (ran(f"zoo0-{part}-collage", 1).record.metrics for part in ("graph-tuned", "graph-1"))
    assert metrics["p_at_4_at_1"] == fixed["p_at_4"] and metrics["spearman_at_1"] == pytest.approx(fixed["spearman"])
    assert min(GRID) <= metrics["lambda_least"] <= metrics["lambda_most"] <= max(GRID)


# --- domains


def test_domains_give_labelled_images_and_probes_of_their_own() -> None:
    for domain in ("synthetic", "real", "real-varied"):
        splits = {split: domain_images(domain, split, 40, 32) for split in ("train", "test", "probes")}
        own = {split: {image.numpy().tobytes() for image in found.images} for split, found in splits.items()}
        assert all(found.shape == (3, 32, 32) and len(found.classes) == 4 for found in splits.values())
        other = domain_images(domain, "probes", 40, 32, seed=1)
        assert not own["train"] & own["probes"] and not own["train"] & own["test"]
        assert not torch.equal(other.images, splits["probes"].images)
    named = {split: domain_images("digits", split, 40, 32) for split in ("train", "test", "probes")}
    assert not torch.equal(named["train"].images, named["probes"].images) and named["test"].shape == (3, 32, 32)
    others, varied = rooms.closeups("real", "train", 12, 1000), domain_images("real-varied", "train", 12, 32).images
    assert torch.equal(varied[::6], 255 - others.images[::6]) and torch.equal(varied[4::6, 0], varied[4::6, 2])
    assert torch.equal(varied[1::6], others.images[1::6].roll(1, 1))
    assert not torch.equal(others.images, rooms.closeups("real", "train", 12).images)


def test_syn2real_is_read_in_its_true_format(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="VisDA-2017"):
        syn2real("real", "train", 4)
    folder = tmp_path / "downloads" / "visda2017"
    for part, ending in (("train", "png"), ("validation", "jpg")):
        for number, label in enumerate(("aeroplane", "bicycle")):
            (folder / part / label).mkdir(parents=True)
            for index in range(10):
                colour = (number * 200, 20 * index, 90)
                Image.new("RGB", (40, 30), colour).save(folder / part / label / f"{index:02d}.{ending}")
        (folder / part / "image_list.txt").write_text("aeroplane/00.png 0\n")
    for split, count in {"train": 14, "test": 4, "probes": 2}.items():
        images = domain_images("syn2real-synthetic", split, 1000, 16)
        assert len(images) == count and images.shape == (3, 16, 16) and images.classes == ("aeroplane", "bicycle")
        assert images.labels.bincount().tolist() == [count // 2] * 2
    images = domain_images("syn2real-real", "train", 4, 16)
    assert len(images) == 4 and images.name == "syn2real_real"


# --- layers


def test_the_networks_of_a_plan_are_of_one_architecture(studio: Studio) -> None:
    names = ("rich", "synthetic", "target", "target-few")
    shapes = {name: [tuple(p.shape) for p in studio.network(name).parameters()] for name in names}
    assert len({str(each) for each in shapes.values()}) == 1
    assert studio.layers == ("encoder.0.0", "encoder.1.0", "encoder.2.0", "encoder.3.0", "decoder.1")
    assert {"rich_on_rich", "rich_on_target", "synthetic_on_synthetic", "target_on_target"} <= studio.metrics().keys()
    again = Studio(SMOKE_LAYERS)
    assert again.train().wall_seconds == 0
    states = [players.state(each.network("target")) for each in (again, studio)]
    assert not list(players.differences(*states))
    ten, one = studio.labelled(10, 0), studio.labelled(1, 0)
    assert ten.labels.bincount().tolist() == [10] * 4 and one.labels.bincount().tolist() == [1] * 4
    assert not torch.equal(studio.labelled(10, 1).images, ten.images)


def test_what_is_frozen_stays_and_what_is_fresh_starts_alike(studio: Studio) -> None:
    theirs = players.state(studio.network("synthetic"))
    first = players.state(studio.transfer("synthetic", "encoder.0.0", 10, 5)[0].student)
    for layer in ("encoder.0.0", "encoder.3.0", "decoder.1"):
        method, updates = studio.transfer("synthetic", layer, 10, 5)
        before = players.state(method.student)
        run.run(method, updates=updates, progress=False)
        after, kept = players.state(method.student), {f"network.{name}" for name in method.student.frozen}
        for key, value in after.items():
            if key.rpartition(".")[0] in kept:
                assert torch.equal(value, before[key]) and torch.equal(value, theirs[key.removeprefix("network.")])
            elif value.is_floating_point():
                assert not torch.equal(value, before[key]) and torch.equal(before[key], first[key]), key
    assert not list(players.differences(theirs, players.state(studio.network("synthetic"))))


def test_transfers_are_repeatable_and_share_their_seeds(studio: Studio) -> None:
    first, again = (layers.one_transfer(studio, "rich", "encoder.1.0", 10, 3)[0] for _ in range(2))
    scratch = [layers.one_transfer(studio, source, "", 10, 3)[0] for source in SOURCES]
    assert first == again and scratch[0] == scratch[1] and 0 <= first <= 1


def test_an_interrupted_row_goes_on_and_gives_the_same_record(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, file = "layers-synthetic-10-transfers", tmp_path / "run.pt"
    whole = ran(row).record
    with monkeypatch.context() as interrupted:
        interrupted.setattr(layers, "one_transfer", players.rigged(layers.one_transfer, at=3))
        with pytest.raises(players.Explosion):
            ran(row, checkpoint=file)
    counted = players.rigged(layers.one_transfer)
    monkeypatch.setattr(layers, "one_transfer", counted)
    resumed = ran(row, checkpoint=file).record
    assert counted.calls == 1 + 5 - 3
    assert (resumed.metrics, resumed.passes) == (whole.metrics, whole.passes)
    with pytest.raises(ReuseError, match="other settings"):
        ran(row, 1, checkpoint=file)


CUTS = Cuts((0.5, 0.7, 0.6, 0.4, 0.3, 0.2), (0.01, 0.03, 0.01, 0.01, 0.01, 0.01), 0.35)


def test_cuts_go_into_a_record_and_come_back() -> None:
    metrics = CUTS.metrics()
    both = Cuts.over([CUTS, dataclasses.replace(CUTS, accuracy=(0.7,) * 6, scratch=0.45)])
    assert both.accuracy[0] == pytest.approx(0.6) and both.spread[0] == pytest.approx(0.2 / 2**0.5)
    assert both.scratch == pytest.approx(0.4) and Cuts.over([CUTS]).spread == (0.0,) * 6
    assert Cuts.of(metrics) == CUTS and metrics["span"] == pytest.approx(0.5) and CUTS.best == 2
    assert metrics["spread"] == pytest.approx(statistics.fmean(CUTS.spread))


def test_the_gate_asks_for_span_small_spread_and_an_early_best_layer() -> None:
    late = dataclasses.replace(CUTS, accuracy=CUTS.accuracy[::-1])
    assert layers.gate([CUTS, late]) == {"span": True, "spread": True, "early": True}
    assert not layers.gate([late, late])["early"]
    flat = dataclasses.replace(CUTS, accuracy=(0.5, 0.55, 0.5, 0.5, 0.5, 0.5))
    assert not layers.gate([CUTS, flat])["span"]
    assert not layers.gate([CUTS, dataclasses.replace(CUTS, spread=(0.03,) * 6)])["spread"]


def test_the_truth_is_read_from_its_record(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    record = ran("layers-rich-10-transfers", 7).record
    accuracies = {f"accuracy_{k}": 0.1 * k for k in range(1, 6)}
    dataclasses.replace(record, metrics=record.metrics | accuracies | {"scratch": 0.123}).save()
    monkeypatch.setattr(layers, "one_transfer", lambda *_: pytest.fail("it was trained again"))
    methods = ("depth", "oracle", "scratch", "random-layer", "nodes")
    metrics = {method: ran(f"layers-rich-10-{method}", 7).record.metrics for method in methods}
    assert metrics["oracle"]["chosen"] == metrics["depth"]["chosen"] == pytest.approx(0.5)
    assert metrics["oracle"]["depth"] == metrics["depth"]["depth"] == 5
    assert metrics["depth"]["spearman"] == pytest.approx(1)
    assert metrics["scratch"]["chosen"] == 0.123 and metrics["random-layer"]["chosen"] == pytest.approx(0.3)
    nodes = metrics["nodes"]
    scores = [nodes[f"score_{k}"] for k in range(1, 6)]
    assert nodes["depth"] == 1 + scores.index(max(scores)) and nodes["chosen"] == pytest.approx(0.1 * nodes["depth"])
    assert nodes["spearman"] == pytest.approx(spearman(torch.tensor(scores), torch.arange(5), "average"))


def test_scores_compare_every_layer_with_the_targets_logits(studio: Studio) -> None:
    found, probes = LayerScores(studio, "synthetic", seed=4), domain_images("real", "probes", 8, 32, 4)
    source, target = studio.network("synthetic"), studio.network("target")
    assert torch.equal(found.probes.images, probes.images) and found.last == "decoder.5"
    own = layer_graphs(source, probes, studio.layers).values()
    goal = layer_graphs(target, probes, ["decoder.5"])["decoder.5"]
    v = [depara.node_similarity(graph.nodes, goal.nodes) for graph in own]
    e = [depara.edge_similarity(graph.ranks, goal.ranks) for graph in own]
    assert found.of("nodes") == pytest.approx(v) and found.of("edges") == pytest.approx(e)
    assert found.of("graph-10") == pytest.approx([a + 10 * b for a, b in zip(v, e, strict=True)])
    logits, layer = features(target, probes, where="decoder.5"), features(source, probes, where="encoder.2.0")
    assert found.of("cka")[2] == pytest.approx(cka(layer, logits))
    assert found.of("rsa")[2] == pytest.approx(rsa(layer, logits)) and found.of("depth") == [1, 2, 3, 4, 5]
    for wrong, attempt in {"score of layers": found.of, "network of closeups": studio.network}.items():
        with pytest.raises(UnknownName, match=wrong):
            attempt("graph-5")
    first, again, other = (LayerScores(studio, "synthetic", seed=seed).of("edges") for seed in (4, 4, 5))
    assert first == again != other  # a seed draws the probes


# --- the larger scales


class NarrowVgg(nn.Module):
    """torchvision's VGG with batch norm, its layers in their places, but few and narrow."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        from torchvision.models.vgg import make_layers

        self.features = make_layers([4, "M", 4, "M", 6], batch_norm=True)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        hidden = [nn.Linear(6 * 49, 8), nn.ReLU(True), nn.Dropout(), nn.Linear(8, 8), nn.ReLU(True), nn.Dropout()]
        self.classifier = nn.Sequential(*hidden, nn.Linear(8, classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(images)).flatten(1))


def test_cuts_of_the_papers_scale_with_narrow_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only counts, widths and images are cut, and no weights are fetched."""
    import torchvision

    def narrow(name: str, weights: Any = None, num_classes: int = 20, **_: Any) -> nn.Module:
        assert name == "vgg19_bn"
        return NarrowVgg(num_classes)

    def few(domain: str, split: str, count: int, size: int, seed: int = 0) -> ImageSet:
        pixels = torch.randint(256, (40, 3, size, size), dtype=torch.uint8)
        return ImageSet(domain, pixels, torch.arange(40) % 4, tuple("abcd"), (0.5,) * 3, (0.5,) * 3)

    monkeypatch.setattr(torchvision.models, "get_model", narrow)
    monkeypatch.setattr(layers, "domain_images", few)
    short = {"source_updates": 1, "target_updates": 1, "updates": 1, "epochs": 0, "batch": 4, "source_batch": 4}
    small = {"size": 32, "images": 40, "amounts": (10,), "probes": 6, "kept": False}
    plan, study = PLANS["paper"].but(**short, **small, name="narrow"), chapters.study("depara", "paper")
    result = study.run("layers-rich-10-transfers", progress=False, plan=plan)
    assert result.studio.layers == ("features.0", "features.4", "features.8", "classifier.0", "classifier.3")
    metrics = study.run("layers-synthetic-10-graph-1", progress=False, plan=plan).record.metrics
    assert len(result.cuts.accuracy) == 5 and 1 <= metrics["depth"] <= 5
    odd = Studio(plan.but(rich="rich", network="deep"))
    monkeypatch.setattr(odd, "network", lambda name: NarrowVgg(4))
    with pytest.raises(ShapeMismatch, match="no layer in common"):
        odd.layers  # noqa: B018


def test_the_papers_cost_is_predicted() -> None:
    """VGG-19 takes 19.6 billion multiply-adds for an image, two operations each, three times that to learn."""
    study = chapters.study("depara", "paper")
    found, once = study.predict("layers-networks"), 2 * 19.6e9
    assert found.operations == pytest.approx(3 * once * 32 * (60 * 3334 + 2 * 60 * 1212), rel=0.1)
    transfers = study.predict("layers-rich-10-transfers")
    epochs = 50 * math.ceil(38_771 * 10 // 1200 * 12 / 128) * 128
    assert once * epochs * 19 < transfers.operations < 3 * once * epochs * 19
    assert 1e9 < found.memory < 80e9


# --- the published table of layers (Syn2Real-C, VGG-19-BN)

ENDINGS = {"nodes": "v", "edges": "e", "graph-1": "1", "graph-10": "10", "depth": "depth"}


def column(source: str, name: str) -> torch.Tensor:
    rows = report.published("depara").table("layers").rows
    values = [float(r.id) if name == "depth" else r.published[f"{source}-{name}"][0].number for r in rows]
    return torch.tensor(values, dtype=torch.float64)


def test_the_printed_scores_are_v_plus_lambda_e() -> None:
    for source, lambda_ in itertools.product(("imagenet", "source"), (1, 10)):
        whole = graph_similarity(column(source, "v"), column(source, "e"), lambda_)
        gaps = (whole - column(source, f"{lambda_}")).abs()
        off = [int(layer) for layer, gap in zip(column(source, "depth"), gaps, strict=True) if gap > 0.0051]
        # The paper adds before it rounds: cells differ by at most one in the last digit.
        assert gaps.max() < 0.0101 and (off == [12] if (source, lambda_) == ("source", 1) else len(off) <= 3)


def test_the_tables_of_correlations_and_of_chosen_layers_follow_from_the_printed_scores() -> None:
    for source, table in {"imagenet": "layers-rich", "source": "layers-synthetic"}.items():
        rows = {row.id: row.published for row in report.published("depara").table(table).rows}
        for (name, ending), amount in itertools.product(ENDINGS.items(), ("tenth", "hundredth")):
            score, accuracy = column(source, ending), column(source, amount)
            rho, chosen = (rows[name][f"{amount}-{what}"][0].number for what in ("rho", "chosen"))
            assert spearman(score, accuracy, "average") == pytest.approx(rho, abs=0.0051)
            assert float(accuracy[score.argmax()]) == pytest.approx(chosen, abs=0.0051)
