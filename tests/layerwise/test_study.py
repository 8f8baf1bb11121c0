"""Chapter 05: presets, rows at the smoke scale, and one step of the paper's scale."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import archives
import players
import pytest
import torch
from torch import nn

from reuselib import chapters, data, nets, prediction, report
from reuselib import run as engine
from reuselib.data import ImageSet
from reuselib.errors import ReuseError, UnknownName
from reuselib.layerwise import (
    ClassSets,
    JointLearning,
    LayerwiseAmalgamation,
    OneStageAmalgamation,
    Stage,
    Teachers,
    study,
)
from reuselib.layerwise.study import (
    METHODS,
    NUMBER_METHODS,
    SHORT_METHODS,
    TUNED,
    UNTRAINED,
    Architecture,
    Bench,
    build,
    round_length,
)

NAME = "layerwise"
SMOKE = chapters.chapter(NAME, "smoke")
STAGES = {
    "layerwise",
    "layerwise-nofam",
    "full",
    "full-nofam",
    "full-sgd",
    "full-softmax",
    "direct",
    "incremental",
    "incremental-reversed",
    "direct-softmax",
}
TASKS = {
    "smoke": ["digits", "overlap", "teachers3"],
    "laptop": [
        "fashion",
        "fashion-b",
        "overlap",
        "digits",
        "teachers2",
        "teachers3",
        "teachers4",
        "teachers5",
        "fashion-half",
        "fashion-quarter",
        "fashion-eighth",
        "digits-half",
        "digits-quarter",
        "digits-eighth",
    ],
    "colab": ["aircraft"],
    "paper": ["dogs", "cub", "cars", "aircraft"],
}


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep records out of the clone; shipped images are still found there."""
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))


def configs() -> Iterator[Any]:
    for scale in report.SCALES:
        chapter = chapters.chapter(NAME, scale)
        for row in chapter.rows:
            yield pytest.param(scale, row, chapter.config(row), id=f"{scale}-{row}")


# --- presets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", report.SCALES)
def test_every_task_of_a_scale_has_its_methods(scale: str) -> None:
    found: dict[str, list[str]] = {}
    for config in chapters.chapter(NAME, scale).configs.values():
        found.setdefault(config.task, []).append(config.method)
    assert list(found) == TASKS[scale]
    for task, methods in found.items():
        several = list(NUMBER_METHODS) if task.startswith("teachers") else list(METHODS)
        several = list(SHORT_METHODS) if task.endswith(("half", "quarter", "eighth")) else several
        assert methods == [name for name in several if scale in ("smoke", "laptop") or name != "full-sgd"]


@pytest.mark.parametrize(("scale", "row", "config"), list(configs()))
def test_a_preset_is_whole(scale: str, row: str, config: Any) -> None:
    assert f"{config.task}-{config.method}" == row
    assert json.loads(json.dumps(dataclasses.asdict(config), allow_nan=False))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.batch = 1
    assert config.teacher.dataset in data.SETS
    assert {config.student.name, config.teacher.network.name} <= set(nets.MODELS)
    stages = [round(share * config.updates) for share in (config.encoder_share, config.layer_share)]
    rest = config.updates - stages[1]
    each = [*stages, rest]
    assert sum(each) // round_length(each, config.evaluations) <= max(config.evaluations, 3)


@pytest.mark.parametrize("scale", report.SCALES)
def test_the_methods_of_a_task_differ_in_nothing_else(scale: str) -> None:
    chapter = chapters.chapter(NAME, scale)
    assert len({report.config_hash(config) for config in chapter.configs.values()}) == len(chapter.rows)
    free = {"method", "layer_share", "encoder_share", "fam", "incremental", "reverse", "log_softmax"}
    for task in TASKS[scale]:
        rows = [
            dataclasses.asdict(config)
            for config in chapter.configs.values()
            if config.task == task and config.method not in TUNED
        ]
        shared = [{name: value for name, value in row.items() if name not in free} for row in rows]
        assert all(row == shared[0] for row in shared)


def test_a_tuned_method_differs_in_its_rate_alone() -> None:
    chapter = chapters.chapter(NAME, "laptop")
    for task in ("fashion", "fashion-b", "overlap", "digits"):
        tuned, plain = chapter.config(f"{task}-full-nofam"), chapter.config(f"{task}-full")
        assert dataclasses.replace(tuned, method="full", fam=True, joint_lr=plain.joint_lr) == plain
        assert tuned.joint_lr < plain.joint_lr


@pytest.mark.parametrize("scale", report.SCALES)
def test_students_are_smaller_than_their_teachers_together(scale: str) -> None:
    for task in TASKS[scale]:
        config = next(c for c in chapters.chapter(NAME, scale).configs.values() if c.task == task)
        with torch.device("meta"):
            union = ClassSets(config.classes).union
            student = build(config.student, len(union), config.teacher.image)
            teachers = [build(config.teacher.network, len(known), config.teacher.image) for known in config.classes]
        count = sum(map(nets.parameter_count, teachers))
        assert 0.2 < nets.parameter_count(student) / count < 0.7
        images = torch.empty(2, *config.teacher.image, device="meta")
        assert student(images).shape == (2, len(union))
        pairs = zip(nets.chain_of(student)[:-1], *(nets.chain_of(t)[:-1] for t in teachers), strict=True)
        assert all(own.width < sum(each.width for each in theirs) for own, *theirs in pairs)


def test_classes_are_divided_as_the_tasks_say() -> None:
    def sets(row: str, scale: str = "laptop") -> tuple[tuple[int, ...], ...]:
        return chapters.chapter(NAME, scale).config(row).classes

    assert [len(each) for each in sets("fashion-full")] == [5, 5] == [len(each) for each in sets("fashion-b-full")]
    assert set(sets("fashion-full")[0]) not in (set(each) for each in sets("fashion-b-full"))
    assert sets("digits-full") == sets("fashion-full") == sets("teachers2-direct")
    first, second = map(set, sets("overlap-full"))
    assert len(first) == len(second) == 7 and len(first & second) == 4 and first | second == set(range(10))
    for count, sizes in {2: [5, 5], 3: [4, 3, 3], 4: [3, 3, 2, 2], 5: [2] * 5}.items():
        assert [len(each) for each in sets(f"teachers{count}-direct")] == sizes
    for task, size in {"dogs": 60, "cub": 100, "cars": 98, "aircraft": 50}.items():
        halves = sets(f"{task}-full", "paper")
        assert [len(each) for each in halves] == [size, size] and sorted(sum(halves, ())) == list(range(2 * size))


def test_the_papers_preset_has_the_settings_of_the_first_release() -> None:
    chapter = chapters.chapter(NAME, "paper")
    for task, images in {"dogs": 12_000, "cub": 5_994, "cars": 8_144, "aircraft": 6_667}.items():
        config, epoch = chapter.config(f"{task}-full"), math.ceil(images / 64)
        stages = [round(share * config.updates) for share in (config.encoder_share, config.layer_share)]
        assert (config.updates, stages, config.batch) == (400 * epoch, [30 * epoch, 100 * epoch], 64)
        assert config.encoder_lr == (0.05, 0.025, 0.025, 0.01, 0.005, 0.005, 0.001)
        assert config.layer_lr == (0.5, 0.1, 0.02, 0.03, 0.05, 0.008, 0.005, 0.001)
        assert (config.joint_lr, config.released, config.noise, config.teacher.raw) == (1e-4, True, 0.0, True)
        assert config.teacher.pretrained and config.teacher.kept
        assert chapter.config(f"{task}-layerwise").layer_share == 1


def test_alexnets_have_the_published_parameter_counts() -> None:
    config = chapters.chapter(NAME, "paper").config("dogs-full")
    with torch.device("meta"):
        teacher, student = build(config.teacher.network, 60, (3, 224, 224)), build(config.student, 120, (3, 224, 224))
    assert nets.parameter_count(teacher) / 1e6 == pytest.approx(57.25, abs=0.005)
    assert nets.parameter_count(student) / 1e6 == pytest.approx(69.87, abs=0.005)


@pytest.mark.parametrize(
    ("counts", "most", "length"),
    [([0, 8, 8], 4, 4), ([30, 100, 300], 45, 10), ([7], 2, 7), ([6, 4], 5, 2), ([6, 4], 3, 2), ([640], 8, 80)],
)
def test_a_round_divides_every_stage(counts: list[int], most: int, length: int) -> None:
    assert round_length(counts, most) == length


def test_the_tables_and_claims_speak_of_rows_that_exist() -> None:
    paper = report.published(NAME)
    rows = {scale: set(chapters.chapter(NAME, scale).rows) for scale in ("laptop", "paper")}
    for claim in paper.claims:
        for condition in claim.conditions:
            sides = [side for side in (condition.left, condition.right) if isinstance(side, str)]
            assert set(sides) <= rows[condition.scale], claim.id
    named = {row.id for table in paper.tables for row in table.rows}
    assert {method for method in METHODS} <= named


def test_names_and_shorter_rows() -> None:
    chapter = chapters.chapter(NAME, "laptop")
    assert chapter.row("full") == "fashion-full" and chapter.row("kd") == "fashion-kd"
    assert chapter.config("full", **chapter.live).updates < chapter.config("full").updates
    with pytest.raises(UnknownName, match="Did you mean 'fashion-full'"):
        chapter.row("fashion-ful")


# --- rows ------------------------------------------------------------------------------------------------------------


def expected_metrics(config: Any) -> set[str]:
    count = len(config.classes)
    names = {f"{way}_{k}" for way in ("teacher", "part", "masked") for k in range(1, count + 1)}
    names |= {"masked_mean", "parameters"}
    if config.method == "teachers":
        return names
    names |= {"accuracy"} | (set() if config.method.startswith("ensemble") else {"agreement"})
    if config.method in STAGES:
        names |= {"before_joint", "merge_digits"}
        names |= {f"nmse_{k}" for k in range(1, 5)} | {f"unexplained_{k}" for k in range(1, 4)}
    return names


@pytest.mark.parametrize("row", SMOKE.rows)
def test_a_row_runs_and_gives_a_valid_record(row: str) -> None:
    run, config = SMOKE.run(row, 3, progress=False), SMOKE.config(row)
    record = run.record
    assert (record.paper, record.scale, record.row, record.seed) == (NAME, "smoke", row, 3)
    assert record.metrics.keys() == expected_metrics(config)
    assert all(math.isfinite(value) for value in record.metrics.values())
    shares = {name for name in record.metrics if name.startswith(("teacher_", "part_", "masked_"))}
    assert all(0 <= record.metrics[name] <= 1 for name in shares)
    record.save()
    assert report.find(NAME, "smoke", row, 3, record.settings) == record
    trained = config.method not in UNTRAINED
    assert bool(record.passes) == trained == bool(record.curves)
    assert ("encoders" in run.kept) == (config.method in STAGES)
    assert len(run.test) == config.limit and run.test.classes == tuple(
        data.digits.CLASSES[label] for label in run.classes.union
    )
    assert not any(p.requires_grad or p.grad is not None for p in run.teachers.parameters())
    if trained and config.method != "supervised":
        extra = 8 if config.method == "full-sgd" else 0
        assert record.passes["teachers_forward"] == config.updates + extra
        assert record.passes["teachers_backward"] == 0
    if config.method in ("kd", "joint-only", "supervised", "one-stage", "one-stage-nofam"):
        assert record.passes["student_forward"] == config.updates


def test_all_methods_of_a_seed_start_from_one_student_and_the_same_teachers() -> None:
    def start(method: str, seed: int) -> list[Any]:
        bench = Bench(SMOKE.config(f"digits-{method}"), seed)
        return [players.state(bench.student), players.state(bench.teachers), bench.test.images]

    first = start("teachers", 0)
    for method in METHODS:
        assert not list(players.differences(first, start(method, 0))), method
    other = start("teachers", 1)
    assert list(players.differences(first[0], other[0])) and list(players.differences(first[1], other[1]))


def test_teachers_are_trained_once_and_shared() -> None:
    first, second = (Bench(SMOKE.config(f"digits-{method}"), 0).teachers.networks for method in ("kd", "full"))
    assert all(a is b for a, b in zip(first, second, strict=True))
    before = players.state(first)
    for method in ("full", "one-stage", "kd"):
        SMOKE.run(f"digits-{method}", 0, progress=False)
    assert not list(players.differences(before, players.state(first)))
    assert not any(module.training for network in first for module in network.modules())


def test_a_row_names_its_training() -> None:
    def method(row: str) -> engine.Method:
        return Bench(SMOKE.config(row), 0).method()

    kinds = {"kd": JointLearning, "joint-only": JointLearning, "one-stage": OneStageAmalgamation}
    assert all(isinstance(method(f"digits-{name}"), kind) for name, kind in kinds.items())
    full, plain, gradient = (method(f"digits-{name}") for name in ("full", "full-nofam", "full-sgd"))
    assert full.lengths == plain.lengths == [0, 8, 8] and gradient.lengths == [8, 8, 8]
    assert method("digits-layerwise").lengths == [0, 16, 0]
    assert len(list(full.layerwise.adapted.adapters.parameters())) == 6
    assert not list(plain.layerwise.adapted.adapters.parameters())
    assert not list(method("digits-one-stage-nofam").blocks.adapters.parameters())
    ways = {name: method(f"teachers3-{name}").encoders.amalgams[0].entering for name in list(NUMBER_METHODS)[:3]}
    assert ways == {"direct": ((0, 1, 2),), "incremental": ((0, 1), (2,)), "incremental-reversed": ((1, 2), (0,))}


@pytest.mark.parametrize("method", ["full", "layerwise"])
def test_the_metrics_are_what_they_are_called(method: str) -> None:
    run = SMOKE.run(f"digits-{method}", 1, progress=False, updates=160, evaluations=4, batch=32)
    metrics, (places, curve) = run.record.metrics, run.history.curve("accuracy")
    images, labels = run.test.normalised(run.test.images), run.test.labels
    with torch.no_grad(), engine.frozen(run.student):
        logits = run.student(images)
    assert metrics["accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item()) == curve[-1]
    assert metrics["agreement"] == pytest.approx(
        (logits.argmax(1) == run.teachers(images)[1].argmax(1)).float().mean().item()
    )
    boundary = 80 if method == "full" else 160
    assert metrics["before_joint"] == curve[places.index(boundary)] and metrics["merge_digits"] > 4
    assert metrics["parameters"] == nets.parameter_count(run.student)
    own = torch.tensor(run.classes.columns[0])
    part = torch.isin(labels, own)
    hits = (own[logits[part][:, own].argmax(1)] == labels[part]).float().mean().item()
    assert metrics["masked_1"] == pytest.approx(hits) and metrics["accuracy"] > 0.3
    teacher = run.teachers.networks[0]
    with torch.no_grad():
        expected = (own[teacher(images[part]).argmax(1)] == labels[part]).float().mean().item()
    assert metrics["teacher_1"] == pytest.approx(expected)
    assert metrics["unexplained_1"] < 1e-6, "nine pixels and a bias fit into eighteen channels"
    assert 0 < metrics["unexplained_2"] < 0.2 and all(metrics[f"nmse_{k}"] < 1 for k in (2, 3, 4))


def test_the_rows_without_training() -> None:
    rows = {method: SMOKE.run(f"digits-{method}", 0, progress=False) for method in UNTRAINED}
    metrics = {method: run.record.metrics for method, run in rows.items()}
    teachers = metrics["teachers"]
    assert teachers["masked_1"] == teachers["part_1"] == teachers["teacher_1"] > 0.8
    assert teachers["masked_mean"] == pytest.approx((teachers["teacher_1"] + teachers["teacher_2"]) / 2)
    for method in ("ensemble-logits", "ensemble-softmax"):
        ensemble = metrics[method]
        assert ensemble["parameters"] == teachers["parameters"] > metrics["untrained"]["parameters"]
        assert ensemble["masked_1"] == pytest.approx(teachers["masked_1"])
        assert 0.4 < ensemble["accuracy"] < ensemble["masked_mean"]
    run = rows["ensemble-softmax"]
    images = run.test.normalised(run.test.images)
    with torch.no_grad():
        joined = torch.cat([teacher(images).softmax(1) for teacher in run.teachers.networks], 1)
    hits = (joined.argmax(1) == run.test.labels).float().mean().item()
    assert metrics["ensemble-softmax"]["accuracy"] == pytest.approx(hits)
    assert metrics["untrained"]["accuracy"] < 0.3


def test_two_teachers_amalgamated_one_after_the_other_are_amalgamated_at_once() -> None:
    chapter = chapters.chapter(NAME, "laptop")
    tiny = {
        "teacher": SMOKE.config("digits-full").teacher,
        "student": SMOKE.config("digits-full").student,
        "updates": 16,
        "evaluations": 2,
        "limit": 100,
    }
    runs = [chapter.run(f"teachers2-{way}", progress=False, **tiny) for way in ("direct", "incremental")]
    assert runs[0].record.metrics == runs[1].record.metrics
    assert not list(players.differences(*(players.state(run.student) for run in runs)))


@pytest.mark.parametrize("row", ["digits-full-sgd", "overlap-one-stage", "teachers3-incremental"])
def test_a_seed_decides_the_result(row: str) -> None:
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(results))  # the global state must not matter
        run = SMOKE.run(row, seed, progress=False)
        results.append((players.state(run.student), run.record.metrics, run.record.curves))
    assert not list(players.differences(list(results[0]), list(results[1])))
    assert list(players.differences(results[0][0], results[2][0]))


@pytest.mark.parametrize(("row", "at"), [("digits-full-sgd", 1), ("digits-full-sgd", 2), ("digits-kd", 1)])
def test_an_interrupted_row_goes_on_and_gives_the_same_record(
    row: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"progress": False, "evaluations": 3}
    whole = SMOKE.run(row, 0, **options).record
    with monkeypatch.context() as interrupted:
        interrupted.setattr(Bench, "evaluate", players.rigged(Bench.evaluate, at=at))
        with pytest.raises(players.Explosion):
            SMOKE.run(row, 0, checkpoint=tmp_path / "run.pt", **options)
    assert (tmp_path / "run.pt").is_file()
    resumed = SMOKE.run(row, 0, checkpoint=tmp_path / "run.pt", **options).record
    assert (resumed.metrics, resumed.curves, resumed.passes) == (whole.metrics, whole.curves, whole.passes)
    with pytest.raises(ReuseError, match="other settings"):
        SMOKE.run(row, 0, checkpoint=tmp_path / "run.pt", batch=17, **options)


def test_kept_teachers_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SMOKE.config("digits-teachers")
    plan = dataclasses.replace(config.teacher, kept=True)
    first = SMOKE.run("digits-teachers", 0, progress=False, teacher=plan)
    assert len(list((tmp_path / "pools").glob("teacher-*.pt"))) == 2
    study.trained_teacher.cache_clear()
    monkeypatch.setattr(study.Supervised, "step", lambda _: pytest.fail("it was trained again"))
    again = SMOKE.run("digits-teachers", 0, progress=False, teacher=plan)
    assert again.record.metrics == first.record.metrics
    study.trained_teacher.cache_clear()


# --- the paper's scale -----------------------------------------------------------------------------------------------


def test_a_step_of_every_stage_with_the_papers_networks() -> None:
    config = chapters.chapter(NAME, "paper").config("dogs-full")
    with torch.device("meta"):
        networks = [build(config.teacher.network, 60, (3, 224, 224), dropout=0.5) for _ in range(2)]
        student = build(config.student, 120, (3, 224, 224))
        pixels, labels = torch.zeros(4, 3, 224, 224, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    images = ImageSet("none", pixels, labels, tuple(map(str, range(120))), (0.0,) * 3, (1.0,) * 3)
    stages = {"encoding": config.encoder_lr, "layers": config.layer_lr, "joint": config.joint_lr}
    method = LayerwiseAmalgamation(
        Teachers(networks, ClassSets(config.classes)),
        student,
        images,
        batch=2,
        **{name: Stage(1, lr, momentum=0.9, cosine=False) for name, lr in stages.items()},
    )
    reports = []
    for method.iteration in range(3):
        reports.append(set(method.step()))
    assert reports == [{f"unexplained_{k}" for k in range(1, 8)}, {f"nmse_{k}" for k in range(1, 9)}, {"loss"}]
    assert nets.parameter_count(method.encoders) / 1e6 == pytest.approx(139.1, abs=0.05)


def test_the_papers_cost_is_predicted() -> None:
    """710 million multiply-adds in a teacher's forward pass and 915 million in the student's, two operations each."""
    config = chapters.chapter(NAME, "paper").config("dogs-full")
    epoch, found = math.ceil(12_000 / 64), prediction.predict_layerwise(config)
    teacher, student = 2 * 0.71e9, 2 * 0.915e9
    expected = {"teachers": 2 * 30 * epoch * 64 * 3 * teacher, "joint": 300 * epoch * 64 * (2 * teacher + 3 * student)}
    for name, operations in expected.items():
        assert found[name].operations == pytest.approx(operations, rel=0.1)
    assert 100 / 300 < found["layers"].operations / found["joint"].operations < 200 / 300
    assert found["encoding"].operations < 0.3 * found["layers"].operations
    assert all(0.5e9 < each.memory < 8e9 for each in found.values())
    half = prediction.predict_layerwise(dataclasses.replace(config, updates=config.updates // 2))
    assert half["joint"].operations == pytest.approx(found["joint"].operations / 2)


NARROW = Architecture("alexnet", (4, 6, 8, 6, 6), (16, 12))
NARROW_STUDENT = Architecture("alexnet", (5, 7, 9, 7, 7), (18, 14))


@pytest.mark.parametrize(
    ("scale", "row", "dataset"),
    [
        ("paper", "dogs-full", "stanford_dogs"),
        ("paper", "cub-layerwise-nofam", "cub200"),
        ("paper", "cars-one-stage", "stanford_cars"),
        ("paper", "aircraft-joint-only", "fgvc_aircraft"),
        ("paper", "aircraft-ensemble-logits", "fgvc_aircraft"),
        ("colab", "aircraft-full", "fgvc_aircraft"),
        ("colab", "aircraft-supervised", "fgvc_aircraft"),
        ("colab", "aircraft-kd", "fgvc_aircraft"),
    ],
)
def test_few_steps_on_archives_in_the_true_format(
    scale: str, row: str, dataset: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only counts and widths are cut, and no weights are fetched."""
    archives.publish(dataset, monkeypatch, tmp_path, test=6)
    data.load(dataset, download=True)
    chapter = chapters.chapter(NAME, scale)
    config = chapter.config(row)
    teacher = dataclasses.replace(config.teacher, network=NARROW, pretrained=False, kept=False, updates=1, batch=2)
    assert config.teacher.dataset == dataset
    run = (
        chapter.run(
            row,
            progress=False,
            teacher=teacher,
            student=NARROW_STUDENT,
            classes=((2, 0), (1,)),
            batch=2,
            evaluations=1,
            updates=40,
            encoder_share=min(config.encoder_share, 0.05),
            layer_share=min(config.layer_share, 0.05),
        )
        if "full" in row
        else chapter.run(
            row,
            progress=False,
            teacher=teacher,
            student=NARROW_STUDENT,
            classes=((2, 0), (1,)),
            batch=2,
            updates=2,
            evaluations=1,
        )
    )
    assert run.test.mean == (0.0,) * 3 and run.test.std == (1.0,) * 3 and run.test.shape == (3, 224, 224)
    assert 0 <= run.record.metrics["accuracy"] <= 1
    run.record.save()
    assert len(report.records(NAME, scale)) == 1


def test_imagenet_weights_are_taken_but_for_the_last_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    state = {name: torch.full_like(value, 0.5) for name, value in torchvision.models.alexnet().state_dict().items()}
    monkeypatch.setattr(torchvision.models.AlexNet_Weights, "get_state_dict", lambda *_, **__: state, raising=True)
    network = build(study.ALEXNET, 60, (3, 224, 224))
    study._take_imagenet(network)
    *layers, head = [link.layer for link in nets.chain_of(network)]
    assert all((layer.weight == 0.5).all() and (layer.bias == 0.5).all() for layer in layers)
    assert isinstance(head, nn.Linear) and head.weight.shape == (60, 4096) and not head.bias.any()
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_without_imagenet_weights_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def fetch(*_: object, **__: object) -> dict[str, torch.Tensor]:
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models.AlexNet_Weights, "get_state_dict", fetch)
    with pytest.raises(ReuseError, match="could not be fetched .no network.*laptop scale"):
        study._take_imagenet(nn.Identity())
