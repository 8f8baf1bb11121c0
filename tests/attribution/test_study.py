"""Chapter 07: presets, rows at the smoke scale against the library's own functions, classifiers, Taskonomy."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import equations
import maps_toys
import players
import pytest
import tables
import torch
from torch import nn

from reuselib import chapters, data, nets, report, run
from reuselib.attribution import features, maps, probe_images, rsa, svcca
from reuselib.attribution.job import PROBES
from reuselib.attribution.larger import FAMILIES, pretrained
from reuselib.attribution.learning import in_range
from reuselib.attribution.losses import affinity_matrix, pairwise, pooled, without_shared
from reuselib.attribution.rooms_zoo import UNTRAINED, Zoo
from reuselib.attribution.study import CONTROLS
from reuselib.data import ImageSet
from reuselib.worlds import rooms

STUDY = chapters.study("attribution", "smoke")
ORDER = dict.fromkeys(("zoo0-", "zoo1-"), ["training", "transfers"]) | {"found-": ["training", "readout", "finetuning"]}
pytestmark = pytest.mark.usefixtures("room")  # records stay out of the clone


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    return maps_toys.zoo()


@cache
def ran(row: str, seed: int = 0) -> Any:
    return STUDY.run(f"zoo0-{row}", seed, progress=False)


def test_rows_that_make_something_come_first_and_tables_speak_of_rows_that_exist() -> None:
    for scale in report.SCALES:
        rows = chapters.study("attribution", scale).rows
        assert set(tables.named("attribution", scale)) <= set(rows)
        for start, making in ORDER.items():
            found = [row.removeprefix(start) for row in rows if row.startswith(start)]
            assert found[: len(making)] == (making if found else []), (scale, start)


# --- rows

RECORDED = {record.row: record.metrics.keys() for record in report.records("attribution", "laptop")}


def alike(found: list[tuple[nn.Module, torch.Tensor]], centred: bool = False, **options: Any) -> torch.Tensor:
    """The affinities of networks and their images, one by one."""
    each = torch.stack([maps(*pair, **options) for pair in found])
    return affinity_matrix(without_shared(each) if centred else each)


EXPECTED = {
    "input-x-gradient-world": alike,
    "random-encoders-noise": alike,
    "epsilon-lrp-noise": partial(alike, method="epsilon_lrp"),
    "saliency-fashion": partial(alike, method="saliency"),
    "centred-collage": partial(alike, centred=True),
    "pooled-collage": partial(alike, centred=True, reduce=pooled(2)),
    "rsa-fashion": lambda found: pairwise([features(*pair) for pair in found], rsa),
    "svcca-fashion": lambda found: pairwise([features(*pair) for pair in found], partial(svcca, variance=0.9)),
}
"""Of each score a row, and what it should have found from networks and their images."""


@pytest.mark.parametrize("row", [*EXPECTED, *CONTROLS])
def test_a_row_gives_the_numbers_that_its_records_have_and_leaves_the_networks_alone(row: str, zoo: Zoo) -> None:
    networks = [zoo.fresh(task) if row.startswith("random-encoders") else zoo.network(task) for task in zoo.tasks]
    before, result = players.state(networks), ran(row, 3)
    assert not list(players.differences(before, players.state(networks))) and not any(map(players.hooks, networks))
    assert not any(network.training or any(p.requires_grad for p in network.parameters()) for network in networks)
    record, metrics = result.record, result.record.metrics
    assert (record.scale, record.row, record.seed) == ("smoke", f"zoo0-{row}", 3)
    assert metrics.keys() == RECORDED[f"zoo0-{row}"]
    assert result.score.hits.shape == (5, 5) and [k for k, _ in record.curves["precision"]] == [1, 2, 3, 4, 5]
    counts = [metrics[f"hits_{k}"] for k in (1, 2, 3, 4, 5)]
    assert counts == sorted(counts) and counts[-1] == pytest.approx(10)  # top 2 of 5 targets
    assert all(metrics[f"p_at_{k}"] == pytest.approx(counts[k - 1] / 5 / k) for k in (1, 2, 3, 4, 5))
    if row in CONTROLS:
        return
    x = in_range(result.probes.images)
    assert 0 < metrics["seconds"] == pytest.approx(record.cpu_seconds)
    given = [rooms.inputs("color", x) if task == "color" else x for task in zoo.tasks]
    expected = EXPECTED[row](list(zip(networks, given, strict=True)))
    torch.testing.assert_close(result.similarity, expected, rtol=0, atol=1e-5)
    assert result.names == result.tree.names == result.true_tree.names == zoo.tasks
    assert row != "pooled-collage" or result.maps.shape == (6, 12, 16, 16)


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
    rows = zoo.all_losses.values()
    better = [float(each[source].mean() < each[UNTRAINED].mean()) for each in rows for source in zoo.tasks]
    assert transfers["above_untrained"] == pytest.approx(sum(better) / len(better))


def test_a_seed_draws_the_probes_and_nothing_else(zoo: Zoo) -> None:
    again = STUDY.run("zoo0-rsa-world", 1, progress=False).similarity
    first, other = (ran("rsa-world", seed).similarity for seed in (1, 2))
    assert torch.equal(first, again) and not torch.allclose(first, other)
    assert ran("transfers", 1).record.metrics == ran("transfers").record.metrics
    assert not torch.equal(*(ran("split-half", seed).score.correlations for seed in (0, 1)))
    for name in PROBES:
        first, again, other = (probe_images(name, 9, seed, "cpu") for seed in (0, 0, 1))
        assert first.shape == (3, 32, 32) and first.classes == ("unlabelled",) and first.mean == first.std == (0.5,) * 3
        assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)


def test_a_twin_is_ranked_among_all_sources(zoo: Zoo) -> None:
    result = ran("input-x-gradient-world", 3)
    own = maps(zoo.network("depth-residual"), in_range(result.probes.images))
    scores = affinity_matrix([own, *result.maps])[0, 1:].tolist()
    place = 1 + sum(score > scores[zoo.tasks.index("depth")] for score in scores)
    assert (result.record.metrics["twin_place"], result.record.metrics["twin_first"]) == (place, place == 1)


# --- Taskonomy and classifiers


def test_controls_on_taskonomy_are_the_published_ones() -> None:
    study = chapters.study("attribution", "paper")
    for row in report.published("attribution").table("ranking").rows:
        if row.id in CONTROLS and row.id != "split-half":
            metrics = study.run(f"taskonomy-{row.id}", progress=False).record.metrics
            # Of each cell the exact expectation, where there is one.
            published = [row.published[f"p{count}"][-1].value for count in (1, 2, 3, 4, 5)]
            assert published == [f"{metrics[f'p_at_{count}']:.3f}".removeprefix("0") for count in (1, 2, 3, 4, 5)]


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
    row, study = "classifiers-input-x-gradient-stl10", chapters.study("attribution", "paper")
    result = study.run(row, progress=False, count=10, size=16)
    metrics = result.record.metrics
    assert metrics["networks"] == 11 and metrics["purity"] == metrics["same_family"] == 1
    assert result.similarity[0, 1] == pytest.approx(1, abs=1e-5) and result.similarity[0, 8] < 0.999
    assert result.probes.mean == (0.485, 0.456, 0.406) and result.probes.shape == (3, 16, 16)
    assert result.names == result.tree.names and "resnet18" in result.names


def test_the_cost_of_classifiers_is_predicted() -> None:
    """VGG-11 takes 7.6 billion multiply-adds for an image, two operations each; back to the image as many again."""
    study = chapters.study("attribution", "paper")
    found = study.predict("classifiers-input-x-gradient-stl10", networks=("vgg11",))
    assert found.operations == pytest.approx(1008 * 2 * 2 * 7.6e9, rel=0.1) and 0.5e9 < found.memory < 4e9
