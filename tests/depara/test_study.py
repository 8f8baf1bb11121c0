"""Chapter 08: rows against the library's own functions, cuts of layers, what they must keep, published numbers."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import equations
import players
import pytest
import tables
import torch
from maps_toys import classifier
from maps_toys import zoo as smoke_zoo
from PIL import Image
from torch import nn

from reuselib import chapters, depara, report, run
from reuselib.attribution import Truth, cka, features, rsa, spearman
from reuselib.attribution.rooms_zoo import Zoo
from reuselib.depara import graph_similarity, layer_graphs, layers, similarities
from reuselib.depara.domains import domain_images, syn2real
from reuselib.depara.job import GRID, LAMBDAS, WAYS, tuned
from reuselib.depara.layers import PLAN, SOURCES, Cuts, LayerScores, Studio
from reuselib.depara.study import METHODS, PLANS, SMOKE_LAYERS
from reuselib.errors import MissingFile, ShapeMismatch, UnknownName
from reuselib.run.cost import predict
from reuselib.worlds import rooms

STUDY = chapters.study("depara", "smoke")
NAMES = ("rich", "synthetic", "target", "target-few")
pytestmark = pytest.mark.usefixtures("room")  # records stay out of the clone


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    return smoke_zoo()


@pytest.fixture(scope="module")
def studio() -> Studio:
    """The smoke scale's networks for layers, made once."""
    made = Studio(SMOKE_LAYERS)
    made.train()
    return made


def ran(row: str, seed: int = 0, **options: Any) -> Any:
    return STUDY.run(row, seed, progress=False, **options)


def test_rows_that_make_something_come_first() -> None:
    for scale in report.SCALES:
        rows = chapters.study("depara", scale).rows
        assert set(tables.named("depara", scale)) <= set(rows)
        of_layers = [row.removeprefix("layers-") for row in rows if row.startswith("layers-")]
        starts = [f"{source}-{amount}" for source in SOURCES for amount in (10, 1)]
        assert of_layers == ["networks", *(f"{start}-{method}" for start in starts for method in METHODS)]
        assert METHODS[0] == "transfers"


def test_the_shipped_networks_were_made_by_this_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REUSELIB_DATA")
    shipped = Studio(PLAN)
    for name in NAMES:
        assert shipped.piece(name).card()["recipe"] == json.loads(json.dumps(shipped.recipe(name)))


# --- rows


def kinds(record: report.Record) -> set[str]:
    """The names of a record's numbers, but for those of layers, of which there are fewer at the smoke scale."""
    return {name.rstrip("0123456789") for name in record.metrics}


RECORDED = {record.row: kinds(record) for record in report.records("depara", "laptop")}


def check(row: str) -> Any:
    """Run a row, whose numbers must be those that its records have."""
    result = ran(row, 3)
    assert (result.record.scale, result.record.row, result.record.seed) == ("smoke", row, 3)
    assert kinds(result.record) == RECORDED[row], row
    return result


def test_graphs_are_nodes_and_edges(zoo: Zoo) -> None:
    rows = {part: check(f"zoo0-{part}-world") for part in WAYS}
    check("zoo0-split-half")
    given = STUDY.job(STUDY.settings["zoo0-nodes-world"], 3).given
    graphs = [depara.attribution_graph(zoo.network(task), given(task)) for task in zoo.tasks]
    v, e = similarities(graphs)
    torch.testing.assert_close(rows["nodes"].similarity, v, rtol=0, atol=1e-6)
    torch.testing.assert_close(rows["edges"].similarity, e, rtol=0, atol=1e-9)
    for part, weight in LAMBDAS.items():
        torch.testing.assert_close(rows[part].similarity, graph_similarity(v, e, weight), rtol=0, atol=1e-5)
    assert not torch.allclose(rows["random-edges"].similarity, rows["edges"].similarity, atol=0.05)
    before = chapters.study("attribution", "smoke").run("zoo0-input-x-gradient-world", 3, progress=False)
    assert torch.equal(before.similarity, rows["nodes"].similarity)
    metrics, fixed = (rows[part].record.metrics for part in ("graph-tuned", "graph-1"))
    assert metrics["p_at_4_at_1"] == fixed["p_at_4"] and metrics["spearman_at_1"] == pytest.approx(fixed["spearman"])
    assert min(GRID) <= metrics["lambda_least"] <= metrics["lambda_most"] <= max(GRID)


def test_rows_of_layers_give_the_numbers_that_their_records_have(studio: Studio) -> None:
    for row in ("layers-networks", *(f"layers-rich-10-{method}" for method in METHODS)):
        check(row)


def test_the_equations_shown_are_those_of_recorded_rows(zoo: Zoo) -> None:
    equations.check("depara", lambda: ran("zoo0-graph-1-noise"))


def test_the_weight_is_tuned_on_the_other_targets() -> None:
    for seed in range(3):
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
        everywhere = [int(score.hits[:, 1].sum()) for score in found.curve.values()]
        assert found.lambdas[4] == found.lambdas[5] == GRID[everywhere.index(max(everywhere))]
        weight = found.lambdas[1]
        assert torch.allclose(found.similarity[1], (v[1] + weight * e[1]) / (1 + weight))


def test_domains_give_labelled_images_and_probes_of_their_own() -> None:
    for domain in ("synthetic", "real", "real-varied", "digits"):
        splits = {split: domain_images(domain, split, 40, 32) for split in ("train", "test", "probes")}
        own = {split: {image.numpy().tobytes() for image in found.images} for split, found in splits.items()}
        assert all(found.shape == (3, 32, 32) for found in splits.values())
        assert not own["train"] & own["probes"] and not own["train"] & own["test"]
        assert not torch.equal(domain_images(domain, "probes", 40, 32, seed=1).images, splits["probes"].images)
    others, varied = rooms.closeups("real", "train", 12, 1000), domain_images("real-varied", "train", 12, 32).images
    assert torch.equal(varied[::6], 255 - others.images[::6]) and torch.equal(varied[4::6, 0], varied[4::6, 2])
    assert torch.equal(varied[1::6], others.images[1::6].roll(1, 1))


def test_syn2real_is_read_in_its_true_format(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="VisDA-2017"):
        syn2real("real", "train", 4)
    folder = tmp_path / "downloads" / "visda2017" / "train"
    every = [*(("aeroplane", index) for index in range(10)), *(("bicycle", index) for index in range(20))]
    for label, index in every:
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (len(label) * 20, 10 * index, 90)).save(folder / label / f"{index:02d}.png")
    (folder / "image_list.txt").write_text("aeroplane/00.png 0\n")
    for split, asked, *count in (
        ("train", 21, 7, 14),
        ("train", 4, 2, 2),
        ("test", 1000, 2, 4),
        ("probes", 1000, 1, 2),
    ):
        images = domain_images("syn2real-synthetic", split, asked, 16)
        assert images.labels.bincount().tolist() == count and images.name == "syn2real_synthetic"
        assert images.shape == (3, 16, 16) and images.classes == ("aeroplane", "bicycle")


def test_the_networks_of_a_plan_are_of_one_architecture(studio: Studio) -> None:
    assert len({str([p.shape for p in studio.network(name).parameters()]) for name in NAMES}) == 1
    assert studio.layers == ("encoder.0.0", "encoder.1.0", "encoder.2.0", "encoder.3.0", "decoder.1")
    assert {"rich_on_rich", "rich_on_target", "synthetic_on_synthetic", "target_on_target"} <= studio.metrics().keys()
    again = Studio(SMOKE_LAYERS)
    assert again.train().wall_seconds == 0
    states = [players.state(each.network("target")) for each in (again, studio)]
    assert not list(players.differences(*states))
    ten, one = studio.labelled(10, 0), studio.labelled(1, 0)
    assert ten.labels.bincount().tolist() == [10] * 4 and one.labels.bincount().tolist() == [1] * 4
    assert not torch.equal(studio.labelled(10, 1).images, ten.images)


def test_transfers_leave_the_source_alone_and_share_their_seeds(studio: Studio) -> None:
    theirs = players.state(studio.network("rich"))
    first, again = (layers.one_transfer(studio, "rich", "encoder.1.0", 10, 3)[0] for _ in range(2))
    scratch = [layers.one_transfer(studio, source, "", 10, 3)[0] for source in SOURCES]
    assert first == again and scratch[0] == scratch[1] and 0 <= first <= 1
    assert not list(players.differences(theirs, players.state(studio.network("rich"))))


CUTS = Cuts((0.5, 0.7, 0.6, 0.4, 0.3, 0.2), (0.01, 0.03, 0.01, 0.01, 0.01, 0.01), 0.35)


def test_cuts_go_into_a_record_and_come_back_and_are_let_through_the_gate() -> None:
    both = Cuts.over([CUTS, dataclasses.replace(CUTS, accuracy=(0.7,) * 6, scratch=0.45)])
    assert both.accuracy[0] == pytest.approx(0.6) and both.spread[0] == pytest.approx(0.2 / 2**0.5)
    assert both.scratch == pytest.approx(0.4) and Cuts.over([CUTS]).spread == (0.0,) * 6
    assert Cuts.of(CUTS.metrics()) == CUTS and CUTS.metrics()["span"] == pytest.approx(0.5) and CUTS.best == 2
    assert CUTS.metrics()["spread"] == pytest.approx(0.08 / 6)
    late = dataclasses.replace(CUTS, accuracy=CUTS.accuracy[::-1])
    assert layers.gate([CUTS, late]) == {"span": True, "spread": True, "early": True}
    assert not layers.gate([late, late])["early"]
    flat = dataclasses.replace(CUTS, accuracy=(0.5, 0.55, 0.5, 0.5, 0.5, 0.5))
    assert not layers.gate([CUTS, flat])["span"]
    assert not layers.gate([CUTS, dataclasses.replace(CUTS, spread=(0.03,) * 6)])["spread"]


def test_the_truth_is_read_from_its_record(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    row, cuts = "layers-rich-10-transfers", Cuts(tuple(0.1 * k for k in range(1, 6)), (0.0,) * 5, 0.123)
    facts = {"row": row, "settings": STUDY.settings[row].plain(), "metrics": cuts.metrics()}
    dataclasses.replace(ran("layers-networks", 7).record, **facts).save()
    monkeypatch.setattr(layers, "one_transfer", lambda *_: pytest.fail("it was trained again"))
    methods = ("depth", "oracle", "scratch", "random-layer", "nodes")
    depth, oracle, scratch, lot, nodes = (ran(f"layers-rich-10-{each}", 7).record.metrics for each in methods)
    assert oracle["chosen"] == depth["chosen"] == pytest.approx(0.5) and oracle["depth"] == depth["depth"] == 5
    assert depth["spearman"] == pytest.approx(1)
    assert scratch["chosen"] == 0.123 and lot["chosen"] == pytest.approx(0.3)
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


def test_cuts_of_the_papers_scale_with_a_narrow_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only counts, widths and images are others, and no weights are fetched."""

    def narrow(name: str, weights: Any = None, num_classes: int = 20, **_: Any) -> nn.Module:
        assert name == "vgg19_bn"
        return classifier(classes=num_classes)

    monkeypatch.setattr("torchvision.models.get_model", narrow)
    monkeypatch.setattr("reuselib.nets.pretrained.torchvision_weights", lambda name: narrow(name).state_dict())
    short = {"source_updates": 1, "target_updates": 1, "updates": 1, "epochs": 0, "batch": 4, "source_batch": 4}
    small = {"size": 32, "images": 200, "source_images": 8, "test_images": 8, "amounts": (10,), "probes": 6}
    plan = PLANS["paper"].but(**short, **small, name="narrow", target="real", synthetic="synthetic", kept=False)
    study = chapters.study("depara", "paper")
    result = study.run("layers-rich-10-transfers", progress=False, plan=plan)
    assert result.studio.layers == ("blocks.0.0", "blocks.1.0", "blocks.2.0") and len(result.cuts.accuracy) == 3
    assert 1 <= study.run("layers-synthetic-10-graph-1", progress=False, plan=plan).metrics["depth"] <= 3
    odd = Studio(plan.but(rich="rich", network="deep"))
    monkeypatch.setattr(odd, "network", lambda name: classifier())
    with pytest.raises(ShapeMismatch, match="no layer in common"):
        odd.layers  # noqa: B018


def test_the_papers_cost_is_predicted() -> None:
    """VGG-19 takes 19.6 billion multiply-adds for an image, two operations each, three times that to learn."""
    study, once = chapters.study("depara", "paper"), 2 * 19.6e9
    found = study.predict("layers-networks")
    assert found.operations == pytest.approx(3 * once * 32 * (60 * 3334 + 2 * 60 * 1212), rel=0.1)
    assert 1e9 < found.memory < 80e9
    transfers = study.job(study.settings["layers-rich-10-transfers"], device="meta").plan()
    images = 50 * math.ceil(39_000 * 10 // 1200 * 12 / 128) * 128  # in 50 epochs
    scratch, first = (predict([each]).operations / (once * images) for each in itertools.islice(transfers, 2))
    assert 1 < first < scratch == pytest.approx(3, rel=0.1)
