"""Chapter 08: presets, graph rows against the library's own functions, cuts of layers and what they must keep."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import players
import pytest
import tables
import torch
from PIL import Image
from torch import Tensor, nn

from reuselib import chapters, data, report
from reuselib import run as engine
from reuselib.attribution import Truth, chosen_on_others, classifiers, features, spearman
from reuselib.attribution import study as chapter07
from reuselib.attribution.rooms_zoo import open_zoo
from reuselib.attribution.scores import CONTROLS, PROBES
from reuselib.data import ImageSet
from reuselib.depara import (
    attribution_graph,
    cut,
    edge_similarity,
    layer_choice,
    layer_graphs,
    node_similarity,
    similarities,
)
from reuselib.depara import study as depara
from reuselib.depara.layer_choice import ALTERNATIVES, METHODS, SOURCES, Cuts, LayerConfig, LayerPlan, Studio
from reuselib.depara.study import GRID, SCORES, GraphConfig, tuned
from reuselib.errors import MissingFile, ReuseError, ShapeMismatch, UnknownName
from reuselib.worlds import rooms

NAME = "depara"
SMOKE = chapters.chapter(NAME, "smoke")
LAYER_ROWS = [f"layers-{source}-{amount}-{method}" for source in SOURCES for amount in (10, 1) for method in METHODS]


@pytest.fixture(autouse=True)
def data_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep records out of the clone; shipped images are still found there."""
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))


@pytest.fixture(scope="module")
def zoo() -> Any:
    """The smoke scale's zoo, made once for all tests: it is kept in a folder that goes with the process."""
    made = open_zoo(chapter07.SMOKE, 0)
    made.ready()
    return made


@pytest.fixture(scope="module")
def studio() -> Studio:
    """The smoke scale's networks for layers, made once."""
    made = Studio(depara.SMOKE_LAYERS)
    made.train()
    return made


# --- presets ----------------------------------------------------------------------------------------------------------


def configs() -> Iterator[Any]:
    for scale in report.SCALES:
        chapter = chapters.chapter(NAME, scale)
        for row in chapter.rows:
            yield pytest.param(chapter.config(row), id=f"{scale}-{row}")


@pytest.mark.parametrize("config", list(configs()))
def test_a_preset_is_whole(config: Any) -> None:
    assert json.loads(json.dumps(dataclasses.asdict(config), allow_nan=False))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.part = ""


@pytest.mark.parametrize("scale", report.SCALES)
def test_rows_differ_and_those_that_make_something_come_first(scale: str) -> None:
    chapter = chapters.chapter(NAME, scale)
    assert len({report.config_hash(config) for config in chapter.configs.values()}) == len(chapter.rows)
    layers = [row for row in chapter.rows if row.startswith("layers-")]
    assert layers == ["layers-networks", *LAYER_ROWS]
    for number in {"smoke": (0,), "laptop": (0, 1), "colab": (2, 3), "paper": ()}[scale]:
        scored = [f"zoo{number}-{score}-{probes}" for score in SCORES for probes in PROBES]
        expected = scored + [f"zoo{number}-{control}" for control in CONTROLS]
        assert [row for row in chapter.rows if row.startswith(f"zoo{number}-")] == expected


def test_the_choices_were_made_before_any_score() -> None:
    """Whoever changes one of these changes the results: raise the chapter's version."""
    chapter, other = (chapters.chapter(name, "laptop") for name in (NAME, chapter07.AttributionChapter.name))
    config = chapter.config("zoo1-graph-tuned-world")
    assert isinstance(config, GraphConfig) and config.grid == (0.03, 0.1, 0.25, 1.0, 3.0, 10.0, 30.0)
    assert (config.count, config.tuned_at, config.variance, config.clusters) == (256, 4, 0.9, 4)
    assert depara.GRAPHS == {"graph-0.1": 0.1, "graph-0.25": 0.25, "graph-1": 1.0, "graph-10": 10.0}
    assert config.zoo == other.config("zoo1-rsa-world").zoo
    assert (layer_choice.SPAN, layer_choice.SPREAD) == (0.1, 0.02)


def test_the_plan_of_the_laptop_scale_has_labels_enough() -> None:
    plan = depara.LAYERS
    assert plan.images >= 10_000 and plan.images // 10 >= 1000 and plan.amounts == (10, 1)
    assert plan.probes == 200 and plan.repeats >= 3 and plan.rich == layer_choice.VARIED
    for alternative in ALTERNATIVES.values():
        assert alternative.rich in (*alternative.zoo.members, layer_choice.VARIED, "fashion-varied")
        assert alternative.images // 10 >= 1000 and alternative.kept
    shelves = {plan.name for plan in ALTERNATIVES.values()}
    assert len({report.config_hash(plan) for plan in ALTERNATIVES.values()}) == len(ALTERNATIVES) >= len(shelves)


def test_the_papers_preset_has_the_papers_settings() -> None:
    plan = chapters.chapter(NAME, "paper").config("layers-rich-10-graph-1").plan
    assert (plan.network, plan.size, plan.probes, plan.batch, plan.lr) == ("vgg19_bn", 224, 200, 128, 0.01)
    assert (plan.weight_decay, plan.constant, plan.epochs, plan.source_batch) == (5e-4, True, 50, 32)
    assert plan.source_updates == 60 * math.ceil(106_677 / 32) and plan.target_updates == 60 * math.ceil(38_771 / 32)


def test_the_tables_and_claims_speak_of_rows_that_exist() -> None:
    laptop, smoke = (set(chapters.chapter(NAME, scale).rows) for scale in ("laptop", "smoke"))
    making = {"layers-networks", *(row for row in LAYER_ROWS if row.endswith("transfers"))}
    assert set(tables.named(NAME, "laptop")) == laptop - making
    assert set(tables.named(NAME, "smoke")) <= smoke


# --- graphs -----------------------------------------------------------------------------------------------------------

TREES = {"cophenetic", "purity", "mean_cosine", "seconds"}
"""What controls, which look at no network, have not."""
ONLY = {"random-layer": {"spearman", "depth"}, "scratch": {"spearman", "depth"}, "oracle": {"spearman"}}
"""What rows that choose no layer by a score have not."""


@pytest.mark.parametrize("row", SMOKE.rows)
def test_a_row_runs_and_gives_a_valid_record(row: str, zoo: Any, studio: Studio) -> None:
    run, config = SMOKE.run(row, 3, progress=False), SMOKE.config(row)
    record = run.record
    assert (record.paper, record.scale, record.row, record.seed) == (NAME, "smoke", row, 3)
    assert all(math.isfinite(value) for value in record.metrics.values())
    missing = ONLY.get(config.method, set()) if isinstance(config, LayerConfig) else set()
    if not isinstance(config, LayerConfig):
        missing = TREES | {"twin_place"} if config.part in CONTROLS else set()
        if config.part == "graph-tuned":
            missing = {"twin_place"}  # a twin is no target, for which a λ could be chosen on the others
        assert run.score.hits.shape == (5, 5)
    assert tables.named(NAME, "laptop").get(row, set()) - missing <= record.metrics.keys()
    record.save()
    assert report.find(NAME, "smoke", row, 3, record.settings) == record


def graphs(zoo: Any, probes: ImageSet) -> dict[str, Any]:
    x = probes.normalised(probes.images)
    return {
        task: attribution_graph(zoo.network(task), rooms.inputs("color", x) if task == "color" else x)
        for task in zoo.tasks
    }


def test_graphs_are_nodes_and_edges(zoo: Any) -> None:
    rows = {part: SMOKE.run(f"zoo0-{part}-world", 2, progress=False) for part in SCORES}
    v, e = similarities(list(graphs(zoo, rows["nodes"].probes).values()))
    assert torch.allclose(rows["nodes"].similarity, v, atol=1e-6)
    assert torch.allclose(rows["edges"].similarity, e, atol=1e-9)
    for part, weight in depara.GRAPHS.items():
        assert torch.allclose(rows[part].similarity, v + weight * e, atol=1e-6)
        assert list(rows[part].graphs) == list(zoo.tasks)
    before = chapter07.AttributionChapter("smoke").run("zoo0-input-x-gradient-world", 2, progress=False)
    assert torch.equal(before.similarity, rows["nodes"].similarity)
    random = rows["random-edges"].similarity
    assert not torch.allclose(random, rows["edges"].similarity, atol=0.05)


def example(seed: int = 0) -> tuple[Truth, Tensor, Tensor]:
    with engine.seeded(seed):
        truth = Truth(("a", "b", "c", "d"), ("a", "b", "c", "d", "e", "f"), torch.rand(4, 6).double(), 2)
        v, e = (torch.rand(6, 6, dtype=torch.float64) for _ in range(2))
    return truth, v + v.T, e + e.T


@pytest.mark.parametrize("seed", range(5))
def test_the_weight_is_tuned_on_the_other_targets(seed: int) -> None:
    truth, v, e = example(seed)
    found = tuned(truth, v, e, GRID, 2)
    expected = chosen_on_others([truth.evaluate(v + weight * e) for weight in GRID], 2)
    assert torch.equal(found.score.hits, expected.hits)
    assert torch.equal(found.score.correlations, expected.correlations)
    for target in range(4):  # what is true of a target has no say in its own weight
        affinity = truth.affinity.clone()
        affinity[target] = affinity[target].flip(0)
        other = tuned(dataclasses.replace(truth, affinity=affinity), v, e, GRID, 2)
        assert other.lambdas[target] == found.lambdas[target]
    everywhere = torch.stack([score.hits[:, 1].sum() for score in found.curve.values()])
    assert found.lambdas[4] == found.lambdas[5] == GRID[int(everywhere.argmax())]
    weight = found.lambdas[1]
    assert torch.allclose(found.similarity[1], (v[1] + weight * e[1]) / (1 + weight))


def test_the_tuned_row_shows_the_whole_curve(zoo: Any) -> None:
    run = SMOKE.run("zoo0-graph-tuned-collage", 1, progress=False)
    metrics = run.record.metrics
    fixed = SMOKE.run("zoo0-graph-1-collage", 1, progress=False).record.metrics
    assert metrics["p_at_4_at_1"] == fixed["p_at_4"] and metrics["spearman_at_1"] == pytest.approx(fixed["spearman"])
    assert min(GRID) <= metrics["lambda_least"] <= metrics["lambda_most"] <= max(GRID)
    assert metrics["p_at_4"] == pytest.approx(float(run.tuned.score.precision[3]))


def test_unknown_scores_get_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'graph-10'"):
        depara.graph_scorer("graph-100", 1e-4, 0.9)


@pytest.mark.parametrize("score", ["nodes", "edges", "graph-1", "rsa"])
def test_classifiers_are_compared_by_graphs_too(score: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def photographs(name: str, *_: Any, **__: Any) -> ImageSet:
        pixels = torch.randint(256, (30, 3, 20, 20), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
        return ImageSet(name, pixels, torch.zeros(30, dtype=torch.int64), ("any",), (0.5,) * 3, (0.5,) * 3)

    def little(name: str, where: torch.device) -> nn.Module:
        with engine.seeded(len(name)):
            return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

    monkeypatch.setattr(data, "load", photographs)
    monkeypatch.setattr(classifiers, "classifier", little)
    chapter = chapters.chapter(NAME, "colab")
    run = chapter.run(f"classifiers-{score}-stl10", progress=False, count=8, size=12)
    own = 2.0 if score == "graph-1" else 1.0
    assert run.similarity.shape == (8, 8) and run.similarity.diagonal().tolist() == [own] * 8


# --- domains ----------------------------------------------------------------------------------------------------------

FASHION = [f"fashion{style}" for style in ("", "-inverted", "-rotated", "-edges", "-varied")]
DOMAINS = ["synthetic", "real", "real-varied", *FASHION]


@pytest.mark.parametrize("domain", DOMAINS)
def test_domains_give_labelled_images(domain: str) -> None:
    splits = {split: layer_choice.domain_images(domain, split, 40, 32) for split in ("train", "test", "probes")}
    for images in splits.values():
        assert len(images) == 40 and images.shape == (3, 32, 32)
        assert len(images.classes) == (10 if domain.startswith("fashion") else 4)
        assert images.mean == images.std == (0.5,) * 3
    own = {split: {bytes(image.numpy().tobytes()) for image in images.images} for split, images in splits.items()}
    assert not own["train"] & own["probes"] and not own["train"] & own["test"]
    other = layer_choice.domain_images(domain, "probes", 40, 32, seed=1)
    assert not torch.equal(other.images, splits["probes"].images)
    assert not own["train"] & {bytes(image.numpy().tobytes()) for image in other.images}


def test_the_variants_of_fashion_show_other_garments_otherwise() -> None:
    plain, inverted, rotated, edged, varied = (
        layer_choice.domain_images(name, "train", 30, 32).images for name in FASHION
    )
    assert torch.equal(255 - inverted, rotated.rot90(-1, (2, 3)))
    assert not torch.equal(255 - inverted, plain)
    assert torch.equal(edged, layer_choice.edges(255 - inverted))
    assert torch.equal(varied[::6], inverted[::6]) and torch.equal(varied[1::6], rotated[1::6])
    assert torch.equal(varied[4::6], edged[4::6]) and torch.equal(varied[3::6], rotated[3::6].rot90(2, (2, 3)))
    assert torch.equal(varied[5::6, :, ::4, ::4], varied[5::6, :, 3::4, 3::4])
    flat = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    flat[..., 3:] = 100
    assert layer_choice.edges(flat)[0, 0, 2].tolist() == [0, 0, 100, 100, 0]


def test_varied_closeups_are_others_in_other_colours() -> None:
    others = rooms.closeups("real", "train", 12, 1000).images
    varied = layer_choice.domain_images("real-varied", "train", 12, 32)
    assert torch.equal(varied.images[::6], 255 - others[::6])
    assert torch.equal(varied.images[1::6], others[1::6].roll(1, 1))
    assert torch.equal(varied.images[4::6, 0], varied.images[4::6, 2])
    assert torch.equal(varied.labels, rooms.closeups("real", "train", 12, 1000).labels)
    assert not torch.equal(others, rooms.closeups("real", "train", 12).images)


def test_unknown_splits_are_refused() -> None:
    for domain in ("real", "fashion"):
        with pytest.raises(UnknownName, match="split"):
            layer_choice.domain_images(domain, "valid", 8, 32)


def test_syn2real_is_read_in_its_true_format(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="VisDA-2017"):
        layer_choice.syn2real("real", "train", 4)
    folder = tmp_path / "downloads" / "visda2017"
    for part, ending in (("train", "png"), ("validation", "jpg")):
        for number, label in enumerate(("aeroplane", "bicycle")):
            (folder / part / label).mkdir(parents=True)
            for index in range(10):
                colour = (number * 200, 20 * index, 90)
                Image.new("RGB", (40, 30), colour).save(folder / part / label / f"{index:02d}.{ending}")
        (folder / part / "image_list.txt").write_text("aeroplane/00.png 0\n")
    counts = {"train": 14, "test": 4, "probes": 2}
    for split, count in counts.items():
        images = layer_choice.domain_images("syn2real-synthetic", split, 1000, 16)
        assert len(images) == count and images.shape == (3, 16, 16) and images.classes == ("aeroplane", "bicycle")
        assert images.labels.bincount().tolist() == [count // 2] * 2
    images = layer_choice.domain_images("syn2real-real", "train", 4, 16)
    assert len(images) == 4 and images.name == "syn2real_real"


# --- layers -----------------------------------------------------------------------------------------------------------


def test_the_networks_of_a_plan_are_of_one_architecture(studio: Studio) -> None:
    shapes = {
        name: [tuple(p.shape) for p in studio.network(name).parameters()]
        for name in ("rich", "synthetic", "target", "target-few")
    }
    assert shapes["synthetic"] == shapes["target"] == shapes["target-few"]
    assert shapes["rich"][:-2] == shapes["target"][:-2] and shapes["rich"][-1] == (6,)  # six kinds of room
    assert studio.layers == ("encoder.0.0", "encoder.1.0", "encoder.2.0", "encoder.3.0", "decoder.1")
    assert studio.network("rich") is open_zoo(chapter07.SMOKE, 0).network("scene-deep")
    metrics = studio.metrics()
    assert set(metrics) == {
        "seconds",
        "synthetic_on_target",
        "synthetic_on_synthetic",
        "target_on_target",
        "target-few_on_target",
    }
    again = Studio(depara.SMOKE_LAYERS)
    assert again.train().wall_seconds == 0
    states = [players.state(each.network("target")) for each in (again, studio)]
    assert not list(players.differences(*states))


def test_labels_are_an_equal_share_of_each_class(studio: Studio) -> None:
    ten, one = studio.labelled(10, 0), studio.labelled(1, 0)
    assert ten.labels.bincount().tolist() == [10] * 4 and one.labels.bincount().tolist() == [1] * 4
    assert not torch.equal(studio.labelled(10, 1).images, ten.images)
    assert torch.equal(studio.labelled(10, 0).images, ten.images)


@pytest.mark.parametrize("layer", ["encoder.0.0", "encoder.3.0", "decoder.1"])
def test_what_is_frozen_stays_and_what_is_fresh_starts_alike(layer: str, studio: Studio) -> None:
    source, probes = studio.network("synthetic"), studio.images("target", "probes")
    few = probes.normalised(probes.images[:2])

    def start(at: str) -> nn.Module:
        return cut(source, lambda: layer_choice.build(studio.plan, 4), at, few, seed=5)

    network, first = start(layer), start("encoder.0.0")
    before = players.state(network)
    layer_choice.learn(network, studio.labelled(10, 0), studio.plan, 4, 0, 16, progress=False)
    after, kept = players.state(network), {f"network.{name}" for name in network.frozen}
    theirs = players.state(source)
    for key, value in after.items():
        module = key.rpartition(".")[0]
        if module in kept:
            assert torch.equal(value, before[key]) and torch.equal(value, theirs[key.removeprefix("network.")])
        elif value.is_floating_point():
            assert not torch.equal(value, before[key]), key
            assert torch.equal(before[key], players.state(first)[key])
    assert not list(players.differences(theirs, players.state(source)))


def test_transfers_are_repeatable_and_share_their_seeds(studio: Studio) -> None:
    first, again = (layer_choice.one_transfer(studio, "rich", "encoder.1.0", 10, 3)[0] for _ in range(2))
    scratch = [layer_choice.one_transfer(studio, source, "", 10, 3)[0] for source in SOURCES]
    assert first == again and scratch[0] == scratch[1] and 0 <= first <= 1


def test_an_interrupted_row_goes_on_and_gives_the_same_record(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, file = "layers-synthetic-10-transfers", tmp_path / "run.pt"
    whole = SMOKE.run(row, 0, progress=False).record
    with monkeypatch.context() as interrupted:
        interrupted.setattr(layer_choice, "one_transfer", players.rigged(layer_choice.one_transfer, at=3))
        with pytest.raises(players.Explosion):
            SMOKE.run(row, 0, checkpoint=file, progress=False)
    counted = players.rigged(layer_choice.one_transfer)
    monkeypatch.setattr(layer_choice, "one_transfer", counted)
    resumed = SMOKE.run(row, 0, checkpoint=file, progress=False).record
    assert counted.calls == 1 + 5 - 3
    assert (resumed.metrics, resumed.passes) == (whole.metrics, whole.passes)
    with pytest.raises(ReuseError, match="other settings"):
        SMOKE.run(row, 1, checkpoint=file, progress=False)


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
    assert layer_choice.gate([CUTS, late]) == {"span": True, "spread": True, "early": True}
    assert not layer_choice.gate([late, late])["early"]
    flat = dataclasses.replace(CUTS, accuracy=(0.5, 0.55, 0.5, 0.5, 0.5, 0.5))
    assert not layer_choice.gate([CUTS, flat])["span"]
    noisy = dataclasses.replace(CUTS, spread=(0.03,) * 6)
    assert not layer_choice.gate([CUTS, noisy])["spread"]


def test_the_truth_is_read_from_its_record(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    record = SMOKE.run("layers-rich-10-transfers", 7, progress=False).record
    accuracies = {f"accuracy_{k}": 0.1 * k for k in range(1, 6)}
    dataclasses.replace(record, metrics=record.metrics | accuracies | {"scratch": 0.123}).save()
    monkeypatch.setattr(layer_choice, "one_transfer", lambda *_: pytest.fail("it was trained again"))
    metrics = {
        method: SMOKE.run(f"layers-rich-10-{method}", 7, progress=False).record.metrics
        for method in ("depth", "oracle", "scratch", "random-layer", "nodes")
    }
    assert metrics["oracle"]["chosen"] == metrics["depth"]["chosen"] == pytest.approx(0.5)
    assert metrics["oracle"]["depth"] == metrics["depth"]["depth"] == 5
    assert metrics["depth"]["spearman"] == pytest.approx(1)
    assert metrics["scratch"]["chosen"] == 0.123 and metrics["random-layer"]["chosen"] == pytest.approx(0.3)
    nodes = metrics["nodes"]
    scores = [nodes[f"score_{k}"] for k in range(1, 6)]
    assert nodes["depth"] == 1 + scores.index(max(scores)) and nodes["chosen"] == pytest.approx(0.1 * nodes["depth"])
    assert nodes["spearman"] == pytest.approx(spearman(torch.tensor(scores), torch.arange(5), "average"))


def test_scores_compare_every_layer_with_the_targets_logits(studio: Studio) -> None:
    found = layer_choice.LayerScores(studio, "synthetic", seed=4)
    probes = layer_choice.domain_images("real", "probes", 8, 32, 4)
    assert torch.equal(found.probes.images, probes.images) and found.last == "decoder.5"
    own = layer_graphs(studio.network("synthetic"), probes, studio.layers)
    goal = layer_graphs(studio.network("target"), probes, ["decoder.5"])["decoder.5"]
    expected = [(node_similarity(graph, goal), edge_similarity(graph, goal)) for graph in own.values()]
    assert found.of("nodes") == pytest.approx([v for v, _ in expected])
    assert found.of("edges") == pytest.approx([e for _, e in expected])
    assert found.of("graph-10") == pytest.approx([v + 10 * e for v, e in expected])
    logits = features(studio.network("target"), probes, where="decoder.5")
    assert logits.shape == (8, 4)
    layer = features(studio.network("synthetic"), probes, where="encoder.2.0")
    assert found.of("cka")[2] == pytest.approx(layer_choice.cka(layer, logits))
    assert found.of("rsa")[2] == pytest.approx(layer_choice.rsa(layer, logits))
    assert found.of("depth") == [1, 2, 3, 4, 5]
    with pytest.raises(UnknownName, match="score of layers"):
        found.of("graph-5")


def test_the_target_compared_with_itself_scores_highest(studio: Studio) -> None:
    found = layer_choice.LayerScores(studio, "target")
    last = layer_graphs(studio.network("target"), found.probes, [found.last])[found.last]
    assert node_similarity(last, found.goal) == pytest.approx(1) and edge_similarity(last, found.goal) == 1


def test_a_seed_draws_labels_and_probes(studio: Studio) -> None:
    runs = [SMOKE.run("layers-synthetic-1-edges", seed, progress=False).record.metrics for seed in (0, 0, 1)]
    scores = [[metrics[f"score_{k}"] for k in range(1, 6)] for metrics in runs]
    assert scores[0] == scores[1] != scores[2]


def test_another_architecture_is_no_source(studio: Studio, zoo: Any) -> None:
    odd = Studio(dataclasses.replace(studio.plan, rich="depth"))
    odd.name = studio.name
    with pytest.raises(ShapeMismatch, match="no layer in common"):
        odd.layers  # noqa: B018


# --- the larger scales ------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("scale", ["colab", "paper"])
def test_cuts_of_the_larger_scales_with_narrow_networks(scale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only counts, widths and images are cut, and no weights are fetched."""
    import torchvision

    def narrow(name: str, weights: Any = None, num_classes: int = 20, **_: Any) -> nn.Module:
        assert name == "vgg19_bn"
        return NarrowVgg(num_classes)

    def few(domain: str, split: str, count: int, size: int, seed: int = 0) -> ImageSet:
        pixels = torch.randint(256, (40, 3, size, size), dtype=torch.uint8)
        return ImageSet(domain, pixels, torch.arange(40) % 4, tuple("abcd"), *layer_choice.IMAGENET)

    monkeypatch.setattr(torchvision.models, "get_model", narrow)
    monkeypatch.setattr(layer_choice, "domain_images", few)
    chapter = chapters.chapter(NAME, scale)
    plan = dataclasses.replace(
        chapter.config("layers-networks").plan,
        size=32,
        source_updates=1,
        target_updates=1,
        updates=1,
        images=40,
        epochs=0,
        batch=4,
        source_batch=4,
        kept=False,
        amounts=(10,),
        probes=6,
        name=f"narrow-{scale}",
    )
    run = chapter.run("layers-rich-10-transfers", progress=False, plan=plan)
    assert run.studio.layers == ("features.0", "features.4", "features.8", "classifier.0", "classifier.3")
    assert len(run.cuts.accuracy) == 5
    metrics = chapter.run("layers-synthetic-10-graph-1", progress=False, plan=plan).record.metrics
    assert 1 <= metrics["depth"] <= 5


def test_a_plan_may_count_epochs(studio: Studio) -> None:
    plan = dataclasses.replace(studio.plan, epochs=3, batch=16)
    assert layer_choice.updates_of(plan, 40) == math.ceil(3 * 40 / 16)
    assert layer_choice.updates_of(studio.plan, 40) == studio.plan.updates


def test_the_papers_cost_is_predicted() -> None:
    """VGG-19 takes 19.6 billion multiply-adds for an image, two operations each, three times that to learn."""
    found = layer_choice.predict(depara.SYN2REAL)
    once = 2 * 19.6e9
    sources = 3 * once * 32 * (60 * 3334 + 2 * 60 * 1212)
    assert found["networks"].operations == pytest.approx(sources, rel=0.1)
    assert found["transfers"].operations > 0 and 1e9 < found["networks"].memory < 80e9
    laptop = layer_choice.predict(LayerPlan())
    assert laptop["transfers"].operations < 1e-2 * found["transfers"].operations


def test_the_rich_source_may_learn_from_a_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = dataclasses.replace(depara.SMOKE_LAYERS, rich="real", rich_images=64, name="closeups-own")
    studio = Studio(plan)
    studio.train()
    assert studio.from_domain and studio.own == ("synthetic", "target", "target-few", "rich")
    assert not list(players.differences(players.state(studio.network("rich")), players.state(studio._load("rich"))))
    assert len(studio.layers) == 5 and {"rich_on_rich", "rich_on_target"} <= studio.metrics().keys()
