"""Chapter 05: what the rows of a task share, rows at the smoke scale, and the paper's scale on meta."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import archives
import equations
import players
import pytest
import torch

from reuselib import chapters, data, home, nets, report
from reuselib import run as engine
from reuselib.data.augment import crop_and_flip
from reuselib.layerwise import job
from reuselib.layerwise.autoencoder import incremental
from reuselib.layerwise.job import LEARNERS, LayerwiseJob, build, round_length
from reuselib.layerwise.study import METHODS, TUNED
from reuselib.nets import pretrained, zoo

SMOKE, LAPTOP, COLAB, PAPER = (chapters.study("layerwise", scale) for scale in report.SCALES)


@pytest.fixture(autouse=True)
def data_room(room: Path) -> None:
    """Keep records out of the clone; shipped images are still found there."""


def method_of(row: str) -> Any:
    settings = SMOKE.settings[row]
    return LEARNERS[settings.learner](LayerwiseJob(settings))


def teach_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job.Supervised, "step", lambda _: pytest.fail("a teacher was trained again"))


# --- what rows share -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", report.SCALES)
def test_the_methods_of_a_task_differ_in_nothing_else(scale: str) -> None:
    found: dict[str, list[Any]] = {}
    for row, settings in chapters.study("layerwise", scale).settings.items():
        if not row.endswith("-imagenet"):  # a ceiling of another architecture
            found.setdefault(settings.task, []).append(settings)
    free = {"method", "learner", "lr", "layer_share", "encoder_share", "log_softmax", "options"}
    for rows in found.values():
        assert len({str({k: v for k, v in row.plain().items() if k not in free}) for row in rows}) == 1
        rates = [(row.learner, row.lr) for row in rows if row.method not in TUNED]
        assert all(dict(rates)[learner] == lr for learner, lr in rates)


def test_classes_are_divided_and_updates_counted_as_the_papers_tasks_say() -> None:
    first, second = map(set, LAPTOP.settings["overlap-full"].classes)
    assert len(first) == len(second) == 7 and len(first & second) == 4 and first | second == set(range(10))
    split_a, split_b = (LAPTOP.settings[f"fashion{part}-full"].classes for part in ("", "-b"))
    assert set(split_a[0]) not in map(set, split_b)
    for task, size, images in (
        *(("dogs", 60, 12_000), ("cub", 100, 5_994), ("cars", 98, 8_144), ("aircraft", 50, 6_667)),
    ):
        full, epoch = PAPER.settings[f"{task}-full"], math.ceil(images / 64)
        assert [len(each) for each in full.classes] == [size, size]
        assert sorted(sum(full.classes, ())) == list(range(2 * size))
        stages = [round(share * full.updates) for share in (full.encoder_share, full.layer_share)]
        assert (full.updates, stages, full.batch) == (400 * epoch, [30 * epoch, 100 * epoch], 64)
        assert (len(full.lr["encoding"]), len(full.lr["layers"])) == (7, 8) and full.released


def test_a_round_divides_every_stage() -> None:
    cases = [([0, 8, 8], 4, 4), ([30, 100, 300], 45, 10), ([7], 2, 7), ([6, 4], 5, 2), ([6, 4], 3, 2), ([640], 8, 80)]
    assert [round_length(counts, most) for counts, most, _ in cases] == [length for *_, length in cases]


# --- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row", [f"digits-{method}" for method in METHODS] + ["overlap-one-stage", "teachers3-incremental-reversed"]
)
def test_a_row_runs_and_gives_a_valid_record(row: str) -> None:
    result, settings = SMOKE.run(row, 3, progress=False), SMOKE.settings[row]
    metrics, passes, method = result.record.metrics, result.record.passes, settings.method
    numbers = range(1, len(settings.classes) + 1)
    shares = {f"{way}_{k}" for way in ("teacher", "part", "masked") for k in numbers} | {"masked_mean"}
    shares |= {"accuracy"} if method != "teachers" else set()
    others = {"parameters"} | ({"agreement"} if not method.startswith(("teachers", "ensemble")) else set())
    if settings.learner == "layers":
        others |= {"before_joint", "merge_digits", *(f"nmse_{k}" for k in (1, 2, 3, 4))}
        others |= {f"unexplained_{k}" for k in (1, 2, 3)}
    assert metrics.keys() == shares | others and all(math.isfinite(value) for value in metrics.values())
    assert all(0 <= metrics[name] <= 1 for name in shares)
    assert bool(passes) == bool(result.record.curves) == (settings.learner is not None)
    assert (result.encoders is not None) == (settings.learner == "layers")
    assert result.test.classes == tuple(data.digits.CLASSES[label] for label in result.classes.union)
    if settings.learner not in (None, "labels"):
        assert passes["teachers_forward"] == settings.updates + (8 if method == "full-sgd" else 0)
        assert passes["teachers_backward"] == 0
        assert settings.learner == "layers" or passes["student_forward"] == settings.updates


def test_all_methods_of_a_seed_start_from_one_student_and_teachers_that_are_trained_once_and_kept_if_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(method: str, seed: int, **changes: Any) -> list[Any]:
        one = LayerwiseJob(SMOKE.settings[f"digits-{method}"].but(**changes), seed)
        return [players.state(one.student), players.state(one.teachers), one.test.images]

    first, other = start("teachers", 0), start("teachers", 1)
    kept = {"teacher": SMOKE.settings["digits-teachers"].teacher.but(kept=True)}
    start("teachers", 0, **kept)
    assert sum(name.startswith("parts/digits-") for name in zoo.names()) == 2
    assert not home.scan(home.root()), "what a run keeps is not what is shipped: records would count as made from it"
    teach_no_more(monkeypatch)
    for method in METHODS:
        assert not list(players.differences(first, start(method, 0))), method
    assert not list(players.differences(first, start("teachers", 0, **kept)))
    assert list(players.differences(first[0], other[0])) and list(players.differences(first[1], other[1]))


def test_a_row_names_its_training() -> None:
    full, plain, gradient = (method_of(f"digits-{name}") for name in ("full", "full-nofam", "full-sgd"))
    assert full.lengths == plain.lengths == [0, 8, 8] and gradient.lengths == [8, 8, 8]
    assert method_of("digits-layerwise").lengths == [0, 16, 0]
    assert not list(plain.layerwise.adapted.adapters.parameters())
    ways = {"direct": ((0, 1, 2),), "incremental": incremental((0, 1, 2)), "incremental-reversed": ((1, 2), (0,))}
    for name, entering in ways.items():
        assert method_of(f"teachers3-{name}").encoders.amalgams[0].entering == entering
    raw = LayerwiseJob(SMOKE.settings["digits-full"].but(raw=True)).test
    assert (raw.mean, raw.std) == ((0.0,), (1.0,))


def test_the_metrics_are_what_they_are_called() -> None:
    result = SMOKE.run("digits-full", 1, progress=False, updates=160, evaluations=4, batch=32)
    metrics, (places, curve) = result.record.metrics, result.history.curve("accuracy")
    images, labels = result.test.normalised(result.test.images), result.test.labels
    own = torch.tensor(result.classes.columns[0])
    part = torch.isin(labels, own)
    with torch.no_grad(), engine.frozen(result.student):
        logits = result.student(images)
        said = own[result.teachers.networks[0](images[part]).argmax(1)]
    found = {
        "accuracy": logits.argmax(1) == labels,
        "agreement": logits.argmax(1) == result.teachers(images)[1].argmax(1),
        "masked_1": own[logits[part][:, own].argmax(1)] == labels[part],
        "teacher_1": said == labels[part],
    }
    for name, right in found.items():
        assert metrics[name] == pytest.approx(right.float().mean().item()), name
    assert metrics["before_joint"] == curve[places.index(80)]
    assert metrics["accuracy"] == pytest.approx(curve[-1]) and curve[-1] > 0.3
    assert metrics["merge_digits"] > 4 and metrics["parameters"] == nets.parameter_count(result.student)
    assert metrics["unexplained_1"] < 1e-6, "nine pixels and a bias fit into eighteen channels"
    assert 0 < metrics["unexplained_2"] < 0.2 and all(metrics[f"nmse_{k}"] < 1 for k in (2, 3, 4))


def test_the_rows_without_training() -> None:
    rows = ("teachers", "ensemble-softmax", "untrained")
    _, result, _ = results = [SMOKE.run(f"digits-{method}", 0, progress=False) for method in rows]
    teachers, softmax, untrained = (each.record.metrics for each in results)
    assert teachers["masked_1"] == teachers["part_1"] == teachers["teacher_1"] > 0.8
    assert teachers["masked_mean"] == pytest.approx((teachers["teacher_1"] + teachers["teacher_2"]) / 2)
    assert softmax["parameters"] == teachers["parameters"] and softmax["masked_1"] == pytest.approx(
        teachers["masked_1"]
    )
    images = result.test.normalised(result.test.images)
    with torch.no_grad():
        joined = torch.cat([teacher(images).softmax(1) for teacher in result.teachers.networks], 1)
    hits = (joined.argmax(1) == result.test.labels).float().mean().item()
    assert softmax["accuracy"] == pytest.approx(hits) and untrained["accuracy"] < 0.3


def test_every_equation_of_the_chapter_is_on_the_path_of_a_record() -> None:
    rows = ("digits-full-sgd", "digits-full", "digits-one-stage", "digits-kd", "teachers3-incremental")
    equations.check("layerwise", lambda: [SMOKE.run(row, progress=False, evaluations=1, limit=20) for row in rows])


# --- the paper's scale -----------------------------------------------------------------------------------------------


def test_the_papers_networks_and_steps_on_meta() -> None:
    """710 million multiply-adds in a teacher's forward pass and 915 million in the student's, two operations each."""
    one = LayerwiseJob(PAPER.settings["dogs-full"], device="meta")
    assert nets.parameter_count(one.teachers.networks[0]) / 1e6 == pytest.approx(57.25, abs=0.005)
    assert nets.parameter_count(one.student) / 1e6 == pytest.approx(69.87, abs=0.005)
    plan = list(one.plan())
    assert nets.parameter_count(plan[2][0].encoders) / 1e6 == pytest.approx(139.1, abs=0.05)
    epoch, teacher, student = math.ceil(12_000 / 64), 2 * 0.71e9, 2 * 0.915e9
    assert [updates for _, updates in plan] == [30 * epoch] * 3 + [100 * epoch, 300 * epoch]
    found = [engine.cost.predict([part]).operations for part in plan]
    assert found[0] == pytest.approx(30 * epoch * 64 * 3 * teacher, rel=0.1)
    assert found[4] == pytest.approx(300 * epoch * 64 * (2 * teacher + 3 * student), rel=0.1)
    reports = [set(part.step()) for part, _ in plan[2:]]
    assert reports == [{f"unexplained_{k}" for k in range(1, 8)}, {f"nmse_{k}" for k in range(1, 9)}, {"loss"}]


def test_imagenet_weights_are_taken_but_for_the_last_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    state, taken = {"weights": None}, []
    monkeypatch.setattr(pretrained, "torchvision_weights", lambda name: state)
    monkeypatch.setattr(nets, "take_torchvision_alexnet", lambda *given: taken.append(given))
    network = build(*PAPER.settings["dogs-full"].teacher.network, 60, (3, 224, 224))
    job.take_imagenet(network)
    assert taken == [(network, state)] and network.head.weight.shape == (60, 4096) and not network.head.bias.any()
    assert network.head.weight.std().item() == pytest.approx(0.01, rel=0.05)
    whole = PAPER.settings["dogs-supervised-imagenet"]
    (method, updates), parts = list(LayerwiseJob(whole, device="meta").plan())[2], []
    assert updates == whole.updates and method.student.head.out_features == 120
    monkeypatch.setattr(job, "take_imagenet", parts.append)
    tiny = chapters.study("layerwise", "smoke").settings["digits-supervised"]
    one = LayerwiseJob(engine.Settings(**tiny, pretrained=True))
    assert LEARNERS["labels"](one) and parts == [one.student]


def test_the_port_joins_whole_data_sets_and_scores_each_among_its_own_classes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only counts and widths are cut."""
    for name, classes in (("stanford_cars", "abcd"), ("fgvc_aircraft", "xyz")):
        monkeypatch.setitem(archives.FINE_GRAINED, name, tuple(classes))
        archives.publish(name, monkeypatch, tmp_path, train=10, test=6)
        data.load(name, download=True)
    settings = PAPER.settings["port-one-stage"]
    assert [len(known) for known in settings.classes] == [196, 100] and settings.updates == 100 * 463
    # Not under 8: there oneDNN on AVX2 alone writes out of bounds behind a strided 1x1 convolution.
    narrow, options = ("small_resnet", {"width": 8}), {**settings.teacher.options, "batch": 2}
    teacher = settings.teacher.but(network=narrow, updates=1, kept=False, options=options)
    few = {"teacher": teacher, "student": narrow, "updates": 1, "batch": 2}
    few["classes"] = (tuple(range(4)), tuple(range(4, 7)))
    result = PAPER.run("port-one-stage", progress=False, evaluations=1, **few)
    assert result.test.classes == tuple("abcdxyz") and len(result.test) == 12
    assert result.record.metrics.keys() >= {"masked_1", "masked_2"}
    one = LayerwiseJob(settings.but(**few, method="kd"), 0)
    assert LEARNERS["kd"](one).optimizer.param_groups[0]["weight_decay"] == 1e-4


# --- the colab scale -------------------------------------------------------------------------------------------------


def test_fewer_images_are_drawn_by_the_seed_and_all_tasks_of_two_parts_share_kept_teachers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def start(row: str) -> LayerwiseJob:
        settings = COLAB.settings[row]
        teacher = settings.teacher.but(updates=4, options={**settings.teacher.options, "batch": 8})
        return LayerwiseJob(settings.but(teacher=teacher, updates=8, batch=4))

    archives.publish("cifar10", monkeypatch, tmp_path, train=320, test=20)
    COLAB.fetch(["cifar-full"], progress=False)
    first = start("cifar-kd")
    teach_no_more(monkeypatch)
    jobs = [start(row) for row in ("cifar.100-kd", "cifar.100-full", "cifar.300-kd")]
    assert [len(each.transfer()) for each in (first, *jobs)] == [320, 100, 100, 300]
    assert torch.equal(jobs[0].transfer().images, jobs[1].transfer().images)
    assert not list(players.differences(*(players.state(each.teachers) for each in (first, jobs[2]))))
    learning, labelled = (LEARNERS[name](first) for name in ("kd", "labels"))
    assert learning.augment is labelled.augment is crop_and_flip
    x = first.images("train", first.classes.union).sample(4, engine.generator(first.device, 0), crop_and_flip)[0]
    assert torch.equal(learning.draw(), x)
