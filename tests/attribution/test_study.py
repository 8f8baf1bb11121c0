"""Chapter 07: presets, rows at the smoke scale against the library's own functions, classifiers, Taskonomy."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tables
import torch
from torch import Tensor, nn

from reuselib import chapters, data, nets, report
from reuselib import run as engine
from reuselib.attribution import (
    ModelSpace,
    affinity_matrix,
    channel_mean,
    classifiers,
    features,
    maps,
    pooled,
    rsa,
    svcca,
    without_shared,
)
from reuselib.attribution import scores as room_scores
from reuselib.attribution import study as chapter07
from reuselib.attribution.classifiers import ClassifierConfig, Classifiers
from reuselib.attribution.rooms_zoo import UNTRAINED, open_zoo
from reuselib.attribution.scores import CONTROLS, PROBES, SCORES, Bench, ZooConfig, probe_images
from reuselib.data import ImageSet
from reuselib.errors import ReuseError, UnknownName
from reuselib.worlds import rooms

NAME = "attribution"
SMOKE = chapters.chapter(NAME, "smoke")
SCORED = [f"zoo0-{score}-{probes}" for score in SCORES for probes in PROBES]


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


def similarity(row: str, seed: int = 0) -> Tensor:
    return SMOKE.run(row, seed, progress=False).similarity


# --- presets ----------------------------------------------------------------------------------------------------------


def configs() -> Iterator[Any]:
    for scale in report.SCALES:
        chapter = chapters.chapter(NAME, scale)
        for row in chapter.rows:
            yield pytest.param(chapter.config(row), id=f"{scale}-{row}")


@pytest.mark.parametrize("config", list(configs()))
def test_a_preset_is_whole(config: Any) -> None:
    assert json.loads(json.dumps(dataclasses.asdict(config), allow_nan=False))
    assert len(report.config_hash(config)) == 64
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.part = ""


@pytest.mark.parametrize("scale", report.SCALES)
def test_rows_differ_and_those_that_make_something_come_first(scale: str) -> None:
    chapter = chapters.chapter(NAME, scale)
    assert len({report.config_hash(config) for config in chapter.configs.values()}) == len(chapter.rows)
    for number in (0, 1, 2, 3):
        rows = [row for row in chapter.rows if row.startswith(f"zoo{number}-")]
        assert not rows or rows[:2] == [f"zoo{number}-training", f"zoo{number}-transfers"]
        assert not rows or rows[2:] == [row.replace("zoo0", f"zoo{number}") for row in SCORED] + [
            f"zoo{number}-{control}" for control in CONTROLS
        ]
    zoos = {"smoke": {0}, "laptop": {0, 1}, "colab": {2, 3}, "paper": set()}[scale]
    assert {config.number for config in chapter.configs.values() if isinstance(config, ZooConfig)} == zoos


def test_the_choices_were_made_before_any_score() -> None:
    """Whoever changes one of these changes the results: raise the chapter's version."""
    config = chapters.chapter(NAME, "laptop").config("zoo1-pooled-noise")
    assert (config.count, config.epsilon, config.variance, config.clusters) == (256, 1e-4, 0.9, 4)
    assert room_scores.MAPS["pooled"] == {"method": "input_x_gradient", "centred": True, "pool": 2}
    assert (config.zoo.gate, config.zoo.top, config.zoo.kept, config.number) == (0.9, 4, True, 1)


def test_the_tables_and_claims_speak_of_rows_that_exist() -> None:
    laptop, smoke = (set(chapters.chapter(NAME, scale).rows) for scale in ("laptop", "smoke"))
    assert set(tables.named(NAME, "laptop")) == laptop
    assert set(tables.named(NAME, "smoke")) <= smoke


def test_names_of_rows() -> None:
    assert SMOKE.row("rsa-world") == "zoo0-rsa-world" and SMOKE.row("oracle") == "zoo0-oracle"
    with pytest.raises(UnknownName, match="Did you mean 'zoo0-rsa-world'"):
        SMOKE.row("zoo0-rsa-wold")


# --- rows -------------------------------------------------------------------------------------------------------------

TREES = {"cophenetic", "purity", "mean_cosine", "seconds", "networks"}
"""What controls, which look at no network, have not."""


@pytest.mark.parametrize("row", SMOKE.rows)
def test_a_row_runs_and_gives_a_valid_record(row: str, zoo: Any) -> None:
    run = SMOKE.run(row, 3, progress=False)
    record, config = run.record, SMOKE.config(row)
    assert (record.paper, record.scale, record.row, record.seed) == (NAME, "smoke", row, 3)
    assert all(math.isfinite(value) for value in record.metrics.values())
    wanted = tables.named(NAME, "laptop")[row] - {"transfers"} - (TREES if config.part in CONTROLS else set())
    if config.part not in ("training", "transfers"):
        assert wanted <= record.metrics.keys()
        assert run.score.hits.shape == (5, 5) and [k for k, _ in record.curves["precision"]] == [1, 2, 3, 4, 5]
        counts = [record.metrics[f"hits_{k}"] for k in (1, 2, 3, 4, 5)]
        assert counts == sorted(counts) and counts[-1] == pytest.approx(10)  # top 2 of 5 targets
        assert all(record.metrics[f"p_at_{k}"] == pytest.approx(counts[k - 1] / 5 / k) for k in (1, 2, 3, 4, 5))
        assert record.metrics["r_at_5"] == pytest.approx(1)
    record.save()
    assert report.find(NAME, "smoke", row, 3, record.settings) == record


def test_the_records_of_a_zoo_say_what_it_was(zoo: Any) -> None:
    training, transfers = (SMOKE.run(f"zoo0-{part}", progress=False).record for part in ("training", "transfers"))
    metrics = training.metrics
    assert (metrics["networks"], metrics["passed"], metrics["other_networks"]) == (6, 6, 2)
    assert metrics["seconds"] == pytest.approx(sum(zoo.card(task)["seconds"] for task in zoo.tasks))
    card = zoo.card("depth-residual")
    assert metrics["ratio_depth-residual"] == pytest.approx(card["test_loss"] / card["blind_loss"])
    assert transfers.metrics["transfers"] == 5 * 7 and transfers.metrics["targets"] == 5
    means = {
        target: {source: float(losses.mean()) for source, losses in rows.items()}
        for target, rows in zoo.all_losses.items()
    }
    better = [each[source] < each[UNTRAINED] for each in means.values() for source in zoo.tasks]
    assert transfers.metrics["above_untrained"] == pytest.approx(sum(better) / len(better))
    assert 0 <= transfers.metrics["own_best"] <= 5
    for other in (1, 2):  # another seed draws other probes, not another zoo
        assert SMOKE.run("zoo0-transfers", other, progress=False).record.metrics == transfers.metrics


@pytest.mark.parametrize(
    ("score", "method"),
    [("input-x-gradient", "input_x_gradient"), ("epsilon-lrp", "epsilon_lrp"), ("saliency", "saliency")],
)
def test_maps_give_the_affinities_of_a_model_space(score: str, method: str, zoo: Any) -> None:
    run = SMOKE.run(f"zoo0-{score}-world", 1, progress=False)
    space = ModelSpace(run.probes, method)
    grey = {"color": lambda images: rooms.inputs("color", images)}
    space.extend({task: zoo.network(task) for task in zoo.tasks}, prepare=grey)
    assert torch.allclose(run.similarity, space.affinity, atol=1e-6)
    assert run.names == space.names and run.maps.shape == (6, chapter07.SMOKE_PROBES, 32, 32)
    assert run.tree.names == run.names == run.true_tree.names
    assert run.score.precision.tolist() == run.truth.evaluate(space.affinity).precision.tolist()


def given(zoo: Any, probes: ImageSet) -> dict[str, tuple[nn.Module, Tensor]]:
    x = probes.normalised(probes.images)
    return {task: (zoo.network(task), rooms.inputs("color", x) if task == "color" else x) for task in zoo.tasks}


def test_extensions_take_off_the_mean_map_and_pool(zoo: Any) -> None:
    runs = {name: SMOKE.run(f"zoo0-{name}-collage", 1, progress=False) for name in ("centred", "pooled")}
    for name, reduce in {"centred": channel_mean, "pooled": pooled(2)}.items():
        players = given(zoo, runs[name].probes).values()
        found = torch.stack([maps(network, x, reduce=reduce) for network, x in players])
        assert torch.allclose(runs[name].similarity, affinity_matrix(without_shared(found)), atol=1e-5)
    assert runs["pooled"].maps.shape[2:] == (16, 16)


def test_features_are_compared_by_rsa_and_svcca(zoo: Any) -> None:
    for name, compare in {"rsa": rsa, "svcca": lambda x, y: svcca(x, y, 0.9)}.items():
        run = SMOKE.run(f"zoo0-{name}-fashion", 1, progress=False)
        found = [features(network, x) for network, x in given(zoo, run.probes).values()]
        assert run.similarity[0, 3] == pytest.approx(compare(found[0], found[3]))
        assert run.similarity[1, 2] == pytest.approx(compare(found[1], found[2]))
        assert torch.equal(run.similarity, run.similarity.T) and (run.similarity.diagonal() == 1).all()
    assert {"p_at_4_channels", "spearman_channels"} <= run.record.metrics.keys()


def test_untrained_encoders_are_those_from_which_the_zoo_started(zoo: Any) -> None:
    run = SMOKE.run("zoo0-random-encoders-noise", 1, progress=False)
    x = run.probes.normalised(run.probes.images)
    found = [maps(zoo.fresh(task), x) for task in ("depth", "normals")]
    rows = [zoo.tasks.index(task) for task in ("depth", "normals")]
    assert run.similarity[rows[0], rows[1]] == pytest.approx(float(affinity_matrix(found)[0, 1]), abs=1e-6)


def test_a_seed_draws_the_probes_and_nothing_else(zoo: Any) -> None:
    row = "zoo0-input-x-gradient-world"
    first, again, other = (similarity(row, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.allclose(first, other)
    metrics = [SMOKE.run("zoo0-popularity", seed, progress=False).record.metrics for seed in (0, 1)]
    assert metrics[0] == metrics[1]
    halves = [SMOKE.run("zoo0-split-half", seed, progress=False).score.correlations for seed in (0, 0, 1)]
    assert torch.equal(halves[0], halves[1]) and not torch.equal(halves[0], halves[2])


@pytest.mark.parametrize("name", PROBES)
def test_probes_have_no_labels_and_lie_in_range(name: str) -> None:
    first, again, other = (probe_images(name, 9, seed, torch.device("cpu")) for seed in (0, 0, 1))
    assert first.shape == (3, 32, 32) and first.classes == ("unlabelled",) and not first.labels.any()
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)
    x = first.normalised(first.images)
    assert -1 <= x.min() < x.max() <= 1
    with pytest.raises(UnknownName, match="Did you mean 'world'"):
        probe_images("wold", 9, 0, torch.device("cpu"))


def test_controls_rank_as_they_say(zoo: Any) -> None:
    truth = zoo.truth
    scores = {name: SMOKE.run(f"zoo0-{name}", progress=False).score for name in CONTROLS}
    assert scores["oracle"].precision.tolist() == pytest.approx([1, 1, 2 / 3, 0.5, 0.4])
    assert scores["random"].precision.tolist() == pytest.approx([0.4] * 5) and scores["random"].correlation == 0
    expected = truth.evaluate(truth.group_prior(zoo.groups, "3D"), "random")
    assert torch.equal(scores["group-prior"].hits, expected.hits)
    assert torch.equal(scores["popularity"].hits, truth.evaluate(truth.popularity()).hits)
    assert torch.equal(scores["symmetric-ceiling"].hits, truth.evaluate(truth.symmetric()).hits)
    with pytest.raises(UnknownName, match="control"):
        room_scores.control(truth, "orakle", zoo.groups, lambda: scores["oracle"])


def test_a_twin_is_ranked_among_all_sources(zoo: Any) -> None:
    run = SMOKE.run("zoo0-input-x-gradient-world", progress=False)
    x = run.probes.normalised(run.probes.images)
    own = maps(zoo.network("depth-residual"), x)
    others = [maps(network, images) for network, images in given(zoo, run.probes).values()]
    scores = [float(affinity_matrix([own, other])[0, 1]) for other in others]
    place = 1 + sum(score > scores[zoo.tasks.index("depth")] for score in scores)
    assert run.record.metrics["twin_place"] == place
    assert run.record.metrics["twin_first"] == float(place == 1)


def test_maps_of_zeros_are_counted() -> None:
    units = torch.eye(3)
    units[1] = 0
    assert room_scores.zero_maps([units, torch.eye(3)]) == 1 and room_scores.zero_maps([torch.zeros(4)]) == 0


def test_networks_come_back_as_they_were(zoo: Any) -> None:
    before = {name: {key: value.clone() for key, value in zoo.network(name).state_dict().items()} for name in zoo.tasks}
    for row in ("epsilon-lrp-world", "rsa-world", "centred-world"):
        SMOKE.run(f"zoo0-{row}", progress=False)
    for name, state in before.items():
        network = zoo.network(name)
        assert all(torch.equal(value, network.state_dict()[key]) for key, value in state.items())
        assert not network.training and not any(p.requires_grad or p.grad is not None for p in network.parameters())


def test_what_cost_is_counted(zoo: Any) -> None:
    run = SMOKE.run("zoo0-input-x-gradient-world", progress=False)
    spent = run.record.metrics["seconds"]
    assert 0 < spent < 5 and run.record.cpu_seconds == pytest.approx(spent)
    assert engine.precision(zoo.device).name in ("fp32", "bf16") and run.record.precision == "fp32"


# --- Taskonomy --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", ["popularity", "group-prior", "symmetric-ceiling", "oracle", "random"])
def test_controls_on_taskonomy_are_the_published_ones(control: str) -> None:
    metrics = chapters.chapter(NAME, "paper").run(f"taskonomy-{control}", progress=False).record.metrics
    row = next(row for row in report.published(NAME).table("ranking").rows if row.id == control)
    for count in (1, 2, 3, 4, 5):
        cell = row.published[f"p{count}"][-1]  # the exact expectation, where there is one
        assert f"{metrics[f'p_at_{count}']:.3f}".removeprefix("0") == cell.value, count
    assert metrics["r_at_5"] == pytest.approx(metrics["p_at_5"])


def test_taskonomys_truth_cannot_be_halved() -> None:
    with pytest.raises(ReuseError, match="not released"):
        chapter07.on_taskonomy(chapter07.TaskonomyConfig("split-half"))


# --- classifiers ------------------------------------------------------------------------------------------------------


def little(name: str, where: torch.device) -> nn.Module:
    """A stand-in whose weights are alike within a family."""
    family = next(number for number, members in enumerate(classifiers.FAMILIES.values()) if name in members)
    with engine.seeded(family):
        network = nets.conv3(width=4, classes=5, channels=3)
    return network.to(where).eval()


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    def photographs(name: str, split: str, channels: int = 3, **_: Any) -> ImageSet:
        pixels = torch.randint(256, (30, 3, 20, 20), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
        return ImageSet(name, pixels, torch.zeros(30, dtype=torch.int64), ("any",), (0.5,) * 3, (0.5,) * 3)

    monkeypatch.setattr(data, "load", photographs)
    monkeypatch.setattr(classifiers, "classifier", little)


@pytest.mark.parametrize("row", [f"classifiers-{score}-stl10" for score in SCORES[:5]])
def test_families_of_classifiers_stand_together(row: str, stand_ins: None) -> None:
    run = chapters.chapter(NAME, "paper").run(row, progress=False, count=10, size=16)
    metrics = run.record.metrics
    assert metrics["networks"] == 11 and metrics["purity"] == metrics["same_family"] == 1
    assert run.similarity[0, 1] == pytest.approx(1, abs=1e-5) and run.similarity[0, 8] < 0.999
    assert run.probes.mean == (0.485, 0.456, 0.406) and run.probes.shape == (3, 16, 16)


def test_classifiers_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def fetch(*_: object, **__: object) -> nn.Module:
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models, "get_model", fetch)
    with pytest.raises(ReuseError, match="vgg11 could not be fetched .no network.*laptop scale"):
        classifiers.classifier("vgg11", torch.device("cpu"))


def test_the_cost_of_classifiers_is_predicted() -> None:
    """VGG-11 takes 7.6 billion multiply-adds for an image, two operations each; back to the image as many again."""
    config = ClassifierConfig(("vgg11",), "input-x-gradient", "stl10", 1000)
    found = classifiers.predict(config)
    assert found.operations == pytest.approx(1000 * 2 * 2 * 7.6e9, rel=0.1)
    assert 0.5e9 < found.memory < 4e9
    whole = chapters.chapter(NAME, "paper").config("classifiers-saliency-svhn")
    assert isinstance(whole, ClassifierConfig) and len(whole.networks) == 11 and whole.count == 1000
    assert len(chapters.chapter(NAME, "colab").config("classifiers-rsa-stl10").networks) == 8
    assert Classifiers(whole, 0).config is whole


def test_a_bench_can_be_looked_into(zoo: Any) -> None:
    bench = Bench(SMOKE.config("zoo0-rsa-world"), 0)
    assert bench.names == zoo.tasks and bench.twins == ("depth-residual",)
    assert bench.given("color").equal(rooms.inputs("color", bench.given("depth")))
