"""Chapter 07: presets, rows at the smoke scale against the library's own functions, classifiers, Taskonomy."""

from __future__ import annotations

from functools import cache
from typing import Any

import equations
import maps_toys
import players
import pytest
import tables
import torch
from torch import Tensor, nn

from reuselib import attribution, chapters, data, nets, report, run
from reuselib.attribution import ModelSpace, affinity_matrix, by_maps, features, maps, pooled, probe_images
from reuselib.attribution import study as chapter07
from reuselib.attribution.job import PROBES, WAYS
from reuselib.attribution.larger import FAMILIES, pretrained
from reuselib.attribution.rooms_zoo import UNTRAINED, Zoo
from reuselib.attribution.study import CONTROLS
from reuselib.data import ImageSet
from reuselib.worlds import rooms

STUDY = chapters.study("attribution", "smoke")
SCORED = [f"{score}-{probes}" for score in WAYS for probes in PROBES]
BEHIND = ["rsa-fashion", "svcca-fashion", "centred-collage", "pooled-collage", "random-encoders-noise", "rsa-world"]
"""Rows whose scores are looked at below; of each score at least one."""


@pytest.fixture(autouse=True)
def in_a_room(room: Any) -> None:
    """Keep records out of the clone."""


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    return maps_toys.zoo()


@cache
def ran(row: str, seed: int = 0) -> Any:
    return STUDY.run(f"zoo0-{row}", seed, progress=False)


def given(zoo: Zoo, probes: ImageSet) -> dict[str, tuple[nn.Module, Tensor]]:
    x = probes.normalised(probes.images)
    return {task: (zoo.network(task), rooms.inputs("color", x) if task == "color" else x) for task in zoo.tasks}


# --- what is declared


def test_rows_that_make_something_come_first() -> None:
    for scale, numbers in {"smoke": {0}, "laptop": {0, 1}, "colab": set(), "paper": set()}.items():
        study = chapters.study("attribution", scale)
        making = [row for row in study.rows if row.startswith("found-")][:3]
        assert making == (["found-training", "found-readout", "found-finetuning"] if scale == "colab" else [])
        for number in range(4):
            rows = [row for row in study.rows if row.startswith(f"zoo{number}-")]
            wanted = ["training", "transfers", *SCORED, *CONTROLS] if number in numbers else []
            assert rows == [f"zoo{number}-{row}" for row in wanted]


def test_the_choices_were_made_before_any_score() -> None:
    """Whoever changes one of these changes the results: raise the chapter's version."""
    settings = chapters.study("attribution", "laptop").settings["zoo1-pooled-noise"]
    assert (settings.count, settings.variance, settings.clusters, settings.number) == (256, 0.9, 4, 1)
    assert (settings.zoo.gate, settings.zoo.top, settings.zoo.kept) == (0.9, 4, True)
    paper = chapters.study("attribution", "paper").settings["classifiers-saliency-svhn"]
    assert len(paper.networks) == 11 and (paper.count, paper.size, paper.variance) == (1000, 224, 0.99)


def test_the_tables_and_claims_speak_of_rows_that_exist() -> None:
    laptop, smoke = (set(chapters.study("attribution", scale).rows) for scale in ("laptop", "smoke"))
    assert set(tables.named("attribution", "laptop")) == laptop
    assert set(tables.named("attribution", "smoke")) <= smoke
    rows = set(chapters.study("attribution", "colab").rows)
    assert set(tables.named("attribution", "colab")) <= rows


# --- rows

TREES = {"cophenetic", "purity", "mean_cosine", "seconds", "networks"}
"""What controls, which look at no network, have not."""


@pytest.mark.parametrize("row", ["training", "transfers", *BEHIND, "input-x-gradient-world", *CONTROLS])
def test_a_row_gives_what_the_tables_ask_for(row: str, zoo: Zoo) -> None:
    result = ran(row, 3)
    record, metrics = result.record, result.record.metrics
    assert (record.scale, record.row, record.seed) == ("smoke", f"zoo0-{row}", 3)
    if row not in ("training", "transfers"):
        named = tables.named("attribution", "laptop")[f"zoo0-{row}"] - {"transfers"}
        assert named - (TREES if row in CONTROLS else set()) <= metrics.keys()
        assert result.score.hits.shape == (5, 5) and [k for k, _ in record.curves["precision"]] == [1, 2, 3, 4, 5]
        counts = [metrics[f"hits_{k}"] for k in (1, 2, 3, 4, 5)]
        assert counts == sorted(counts) and counts[-1] == pytest.approx(10)  # top 2 of 5 targets
        assert all(metrics[f"p_at_{k}"] == pytest.approx(counts[k - 1] / 5 / k) for k in (1, 2, 3, 4, 5))
        assert metrics["r_at_5"] == pytest.approx(1)


def test_the_equations_shown_are_those_of_recorded_rows(zoo: Zoo) -> None:
    zoo.__dict__.pop("truth", None)
    rows = ("zoo0-epsilon-lrp-noise", "zoo0-centred-noise")
    equations.check("attribution", lambda: [STUDY.run(row, progress=False) for row in rows])


def test_the_records_of_a_zoo_say_what_it_was(zoo: Zoo) -> None:
    metrics, transfers = (ran(part).record.metrics for part in ("training", "transfers"))
    assert (metrics["networks"], metrics["passed"], metrics["other_networks"]) == (6, 6, 1)
    assert metrics["seconds"] == pytest.approx(sum(zoo.card(task)["seconds"] for task in zoo.tasks))
    card = zoo.card("depth-residual")
    assert metrics["ratio_depth-residual"] == pytest.approx(card["test_loss"] / card["blind_loss"])
    assert transfers["transfers"] == 5 * 7 and transfers["targets"] == 5
    own = zip(zoo.truth.affinity.argmax(1).tolist(), zoo.truth.own.tolist(), strict=True)
    assert transfers["own_best"] == sum(best == column for best, column in own)
    rows = zoo.all_losses.values()
    better = [float(each[source].mean() < each[UNTRAINED].mean()) for each in rows for source in zoo.tasks]
    assert transfers["above_untrained"] == pytest.approx(sum(better) / len(better))
    assert ran("transfers", 1).record.metrics == transfers  # another seed draws other probes, not another zoo


def test_maps_give_the_affinities_of_a_model_space(zoo: Zoo) -> None:
    for score, method in {"input-x-gradient": "input_x_gradient", "epsilon-lrp": "epsilon_lrp"}.items():
        result = ran(f"{score}-world", 1)
        space = ModelSpace(result.probes, by_maps(method))
        grey = {"color": lambda images: rooms.inputs("color", images)}
        space.extend({task: zoo.network(task) for task in zoo.tasks}, prepare=grey)
        assert torch.allclose(result.similarity, space.similarity, atol=1e-6)
        assert result.names == space.names and result.maps.shape == (6, 12, 32, 32)
        assert result.tree.names == result.names == result.true_tree.names
        assert result.score.precision.tolist() == result.truth.evaluate(space.similarity).precision.tolist()


def test_extensions_take_off_the_mean_map_and_pool(zoo: Zoo) -> None:
    for name, reduce in {"centred": attribution.channel_mean, "pooled": pooled(2)}.items():
        result = ran(f"{name}-collage", 1)
        found = [maps(network, x, reduce=reduce) for network, x in given(zoo, result.probes).values()]
        expected = affinity_matrix(attribution.without_shared(torch.stack(found)))
        assert torch.allclose(result.similarity, expected, atol=1e-5)
    assert result.maps.shape[2:] == (16, 16)


def test_features_are_compared_by_rsa_and_svcca(zoo: Zoo) -> None:
    for name, compare in {"rsa": attribution.rsa, "svcca": lambda x, y: attribution.svcca(x, y, 0.9)}.items():
        result = ran(f"{name}-fashion", 1)
        found = [features(network, x) for network, x in given(zoo, result.probes).values()]
        assert result.similarity[0, 3] == pytest.approx(compare(found[0], found[3]))
        assert torch.equal(result.similarity, result.similarity.T) and (result.similarity.diagonal() == 1).all()
    assert {"p_at_4_channels", "spearman_channels"} <= result.record.metrics.keys()


def test_untrained_encoders_are_those_from_which_the_zoo_started(zoo: Zoo) -> None:
    result = ran("random-encoders-noise", 1)
    x = result.probes.normalised(result.probes.images)
    found = affinity_matrix([maps(zoo.fresh(task), x) for task in ("depth", "normals")])
    rows = [zoo.tasks.index(task) for task in ("depth", "normals")]
    assert result.similarity[rows[0], rows[1]] == pytest.approx(float(found[0, 1]), abs=1e-6)


def test_a_seed_draws_the_probes_and_nothing_else(zoo: Zoo) -> None:
    again = STUDY.run("zoo0-input-x-gradient-world", 1, progress=False).similarity
    first, other = (ran("input-x-gradient-world", seed).similarity for seed in (1, 2))
    assert torch.equal(first, again) and not torch.allclose(first, other)
    assert ran("popularity", 0).record.metrics == ran("popularity", 1).record.metrics
    assert not torch.equal(*(ran("split-half", seed).score.correlations for seed in (0, 1)))
    for name in PROBES:
        first, again, other = (probe_images(name, 9, seed, "cpu") for seed in (0, 0, 1))
        assert first.shape == (3, 32, 32) and first.classes == ("unlabelled",) and not first.labels.any()
        assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)
        x = first.normalised(first.images)
        assert -1 <= x.min() < x.max() <= 1


def test_controls_rank_as_they_say(zoo: Zoo) -> None:
    truth, scores = zoo.truth, {name: ran(name).score for name in CONTROLS}
    assert scores["oracle"].precision.tolist() == pytest.approx([1, 1, 2 / 3, 0.5, 0.4])
    assert scores["random"].precision.tolist() == pytest.approx([0.4] * 5) and scores["random"].correlation == 0
    expected = truth.evaluate(truth.group_prior(zoo.groups, "3D"), "random")
    assert torch.equal(scores["group-prior"].hits, expected.hits)
    assert torch.equal(scores["popularity"].hits, truth.evaluate(truth.popularity()).hits)
    assert torch.equal(scores["symmetric-ceiling"].hits, truth.evaluate(truth.symmetric()).hits)


def test_a_twin_is_ranked_among_all_sources(zoo: Zoo) -> None:
    result = ran("input-x-gradient-world")
    own = maps(zoo.network("depth-residual"), result.probes)
    others = [maps(network, images) for network, images in given(zoo, result.probes).values()]
    scores = affinity_matrix([own, *others])[0, 1:].tolist()
    place = 1 + sum(score > scores[zoo.tasks.index("depth")] for score in scores)
    assert (result.record.metrics["twin_place"], result.record.metrics["twin_first"]) == (place, place == 1)


def test_networks_come_back_as_they_were_and_what_cost_is_counted(zoo: Zoo) -> None:
    before = players.state({name: zoo.network(name) for name in zoo.tasks})
    for row in ("zoo0-epsilon-lrp-world", "zoo0-rsa-world", "zoo0-centred-world"):
        record = STUDY.run(row, progress=False).record
        assert 0 < record.metrics["seconds"] < 5 and record.cpu_seconds == pytest.approx(record.metrics["seconds"])
    networks = {name: zoo.network(name) for name in zoo.tasks}
    assert not list(players.differences(before, players.state(networks)))
    assert not any(network.training or players.hooks(network) for network in networks.values())
    assert not any(p.requires_grad or p.grad is not None for each in networks.values() for p in each.parameters())


# --- Taskonomy and classifiers


def test_controls_on_taskonomy_are_the_published_ones() -> None:
    study = chapters.study("attribution", "paper")
    for row in report.published("attribution").table("ranking").rows:
        if row.id in CONTROLS and row.id != "split-half":
            metrics = study.run(f"taskonomy-{row.id}", progress=False).record.metrics
            # Of each cell the exact expectation, where there is one.
            published = [row.published[f"p{count}"][-1].value for count in (1, 2, 3, 4, 5)]
            assert published == [f"{metrics[f'p_at_{count}']:.3f}".removeprefix("0") for count in (1, 2, 3, 4, 5)]
            assert metrics["r_at_5"] == pytest.approx(metrics["p_at_5"])


def test_families_of_classifiers_stand_together(monkeypatch: pytest.MonkeyPatch) -> None:
    def little(name: str, where: torch.device) -> nn.Module:
        """A stand-in whose weights are alike within a family."""
        with run.seeded(next(number for number, members in enumerate(FAMILIES.values()) if name in members)):
            return nets.conv3(width=4, classes=5, channels=3).to(where).eval()

    def photographs(name: str, split: str, channels: int = 3, **_: Any) -> ImageSet:
        pixels = torch.randint(256, (30, 3, 20, 20), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
        return ImageSet(name, pixels, torch.zeros(30, dtype=torch.int64), ("any",), (0.5,) * 3, (0.5,) * 3)

    monkeypatch.setattr(data, "load", photographs)
    monkeypatch.setattr(pretrained, "classifier", little)
    for score in list(WAYS)[:5]:
        row = f"classifiers-{score}-stl10"
        result = chapters.study("attribution", "paper").run(row, progress=False, count=10, size=16)
        metrics = result.record.metrics
        assert metrics["networks"] == 11 and metrics["purity"] == metrics["same_family"] == 1
        assert result.space.similarity[0, 1] == pytest.approx(1, abs=1e-5) and result.space.similarity[0, 8] < 0.999
        assert result.probes.mean == (0.485, 0.456, 0.406) and result.probes.shape == (3, 16, 16)


def test_the_cost_of_classifiers_is_predicted() -> None:
    """VGG-11 takes 7.6 billion multiply-adds for an image, two operations each; back to the image as many again."""
    study = chapters.study("attribution", "paper")
    found = study.predict("classifiers-input-x-gradient-stl10", networks=("vgg11",))
    assert found.operations == pytest.approx(1008 * 2 * 2 * 7.6e9, rel=0.1) and 0.5e9 < found.memory < 4e9
    assert chapter07.JOBS["zoo"] is type(study.job(chapter07.ZOO))
