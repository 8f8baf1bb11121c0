"""Chapter 05: what the rows of a task share, rows at the smoke scale, and the paper's scale on meta."""

from __future__ import annotations

import functools
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
from reuselib.layerwise import AmalgamationKD, ClassSets, JointLearning, OneStageAmalgamation, job
from reuselib.layerwise.autoencoder import incremental
from reuselib.layerwise.job import LEARNERS, LayerwiseJob, build, round_length
from reuselib.layerwise.study import (
    FEW_METHODS,
    METHODS,
    PORT_METHODS,
    SHORT_METHODS,
    TUNED,
    UNLABELLED,
    number_methods,
)
from reuselib.nets import pretrained, zoo

SMOKE, LAPTOP, COLAB, PAPER = (chapters.study("layerwise", scale) for scale in report.SCALES)
STAGED = {"layerwise", "layerwise-nofam", "full", "full-nofam", "full-sgd", "full-softmax", "direct", "incremental"} | {
    *("incremental-reversed", "direct-softmax")
}
SHORTER = [f"{task}-{part}" for task in ("fashion", "digits") for part in ("half", "quarter", "eighth")]
TASKS = {
    "smoke": ["digits", "overlap", "teachers3"],
    "laptop": ["fashion", "fashion-b", "overlap", "digits", *(f"teachers{count}" for count in (2, 3, 4, 5)), *SHORTER],
    "colab": ["cifar", *(f"cifar.{count}" for count in UNLABELLED), "teachers5"],
    "paper": ["dogs", "cub", "cars", "aircraft", "port"],
}
OTHERS = dict.fromkeys(SHORTER, SHORT_METHODS) | {"port": PORT_METHODS}
OTHERS |= {f"cifar.{count}": FEW_METHODS for count in UNLABELLED}


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep records out of the clone; shipped images are still found there."""
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))


def method_of(row: str, seed: int = 0) -> Any:
    settings = SMOKE.settings[row]
    return LEARNERS[settings.learner](LayerwiseJob(settings, seed))


# --- what rows share -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", report.SCALES)
def test_every_task_has_its_methods_which_differ_in_nothing_else(scale: str) -> None:
    found: dict[str, list[Any]] = {}
    for row, settings in chapters.study("layerwise", scale).settings.items():
        assert row == f"{settings.task}-{settings.method}"
        found.setdefault(settings.task, []).append(settings)
    assert list(found) == TASKS[scale]
    free = {"method", "learner", "lr", "layer_share", "encoder_share", "log_softmax", "options"}
    for task, rows in found.items():
        several = number_methods(2) if task.startswith("teachers") else METHODS
        several = OTHERS.get(task, several)
        assert [row.method for row in rows] == [m for m in several if scale != "paper" or m != "full-sgd"]
        assert len({str({k: v for k, v in row.plain().items() if k not in free}) for row in rows}) == 1
        rates = [(row.learner, row.lr) for row in rows if row.method not in TUNED]
        assert all(dict(rates)[learner] == lr for learner, lr in rates)
        if task == "port":  # all networks are ResNet-18, which no layer pairs one by one
            continue
        settings, count = rows[0], len(ClassSets(rows[0].classes).union)
        with torch.device("meta"):
            student = build(*settings.student, count, settings.image)
            teachers = [build(*settings.teacher.network, len(known), settings.image) for known in settings.classes]
        assert 0.2 < nets.parameter_count(student) / sum(map(nets.parameter_count, teachers)) < 0.7
        assert student(torch.empty(2, *settings.image, device="meta")).shape == (2, count)
        pairs = zip(nets.chain_of(student)[:-1], *(nets.chain_of(t)[:-1] for t in teachers), strict=True)
        assert all(own.width < sum(each.width for each in theirs) for own, *theirs in pairs)


def test_classes_are_divided_as_the_tasks_say() -> None:
    def sets(row: str, study: Any = LAPTOP) -> tuple[tuple[int, ...], ...]:
        return study.settings[row].classes

    assert [len(each) for each in sets("fashion-full")] == [5, 5] == [len(each) for each in sets("fashion-b-full")]
    assert set(sets("fashion-full")[0]) not in (set(each) for each in sets("fashion-b-full"))
    assert sets("digits-full") == sets("fashion-full") == sets("teachers2-direct")
    first, second = map(set, sets("overlap-full"))
    assert len(first) == len(second) == 7 and len(first & second) == 4 and first | second == set(range(10))
    for count, sizes in {2: [5, 5], 3: [4, 3, 3], 4: [3, 3, 2, 2], 5: [2] * 5}.items():
        assert [len(each) for each in sets(f"teachers{count}-direct")] == sizes
    for task, size in {"dogs": 60, "cub": 100, "cars": 98, "aircraft": 50}.items():
        halves = sets(f"{task}-full", PAPER)
        assert [len(each) for each in halves] == [size, size] and sorted(sum(halves, ())) == list(range(2 * size))


def test_the_papers_rows_have_the_updates_of_the_first_release() -> None:
    for task, images in {"dogs": 12_000, "cub": 5_994, "cars": 8_144, "aircraft": 6_667}.items():
        full, epoch = PAPER.settings[f"{task}-full"], math.ceil(images / 64)
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
    if method in STAGED:
        others |= {"before_joint", "merge_digits", *(f"nmse_{k}" for k in (1, 2, 3, 4))}
        others |= {f"unexplained_{k}" for k in (1, 2, 3)}
    assert metrics.keys() == shares | others and all(math.isfinite(value) for value in metrics.values())
    assert all(0 <= metrics[name] <= 1 for name in shares)
    trained = settings.learner is not None
    assert bool(passes) == trained == bool(result.record.curves)
    assert (result.encoders is not None) == (settings.learner == "layers")
    assert result.test.classes == tuple(data.digits.CLASSES[label] for label in result.classes.union)
    assert len(result.test) == settings.limit
    assert not any(p.requires_grad or p.grad is not None for p in result.teachers.parameters())
    if trained and settings.learner != "labels":
        assert passes["teachers_forward"] == settings.updates + (8 if method == "full-sgd" else 0)
        assert passes["teachers_backward"] == 0
    if trained and settings.learner != "layers":
        assert passes["student_forward"] == settings.updates


def test_all_methods_of_a_seed_start_from_one_student_and_teachers_that_are_trained_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(method: str, seed: int) -> list[Any]:
        one = LayerwiseJob(SMOKE.settings[f"digits-{method}"], seed)
        return [players.state(one.student), players.state(one.teachers), one.test.images]

    first, other = start("teachers", 0), start("teachers", 1)
    monkeypatch.setattr(job.Supervised, "step", lambda _: pytest.fail("a teacher was trained again"))
    for method in METHODS:
        assert not list(players.differences(first, start(method, 0))), method
    assert list(players.differences(first[0], other[0])) and list(players.differences(first[1], other[1]))


def test_a_row_names_its_training() -> None:
    kinds = {"kd": AmalgamationKD, "joint-only": JointLearning, "one-stage": OneStageAmalgamation}
    assert all(type(method_of(f"digits-{name}")) is kind for name, kind in kinds.items())
    full, plain, gradient = (method_of(f"digits-{name}") for name in ("full", "full-nofam", "full-sgd"))
    assert full.lengths == plain.lengths == [0, 8, 8] and gradient.lengths == [8, 8, 8]
    assert method_of("digits-layerwise").lengths == [0, 16, 0]
    assert len(list(full.layerwise.adapted.adapters.parameters())) == 6
    assert not list(plain.layerwise.adapted.adapters.parameters())
    assert not list(method_of("digits-one-stage-nofam").blocks.adapters.parameters())
    ways = {"direct": ((0, 1, 2),), "incremental": incremental((0, 1, 2)), "incremental-reversed": ((1, 2), (0,))}
    for name, entering in ways.items():
        assert method_of(f"teachers3-{name}").encoders.amalgams[0].entering == entering


def test_the_metrics_are_what_they_are_called() -> None:
    result = SMOKE.run("digits-full", 1, progress=False, updates=160, evaluations=4, batch=32)
    metrics, (places, curve) = result.record.metrics, result.history.curve("accuracy")
    images, labels = result.test.normalised(result.test.images), result.test.labels
    with torch.no_grad(), engine.frozen(result.student):
        logits = result.student(images)
    right, same = logits.argmax(1) == labels, logits.argmax(1) == result.teachers(images)[1].argmax(1)
    assert metrics["accuracy"] == pytest.approx(right.float().mean().item()) == curve[-1]
    assert metrics["agreement"] == pytest.approx(same.float().mean().item())
    assert metrics["before_joint"] == curve[places.index(80)] and metrics["merge_digits"] > 4
    assert metrics["parameters"] == nets.parameter_count(result.student)
    own = torch.tensor(result.classes.columns[0])
    part = torch.isin(labels, own)
    hits = (own[logits[part][:, own].argmax(1)] == labels[part]).float().mean().item()
    assert metrics["masked_1"] == pytest.approx(hits) and metrics["accuracy"] > 0.3
    with torch.no_grad():
        said = own[result.teachers.networks[0](images[part]).argmax(1)]
    assert metrics["teacher_1"] == pytest.approx((said == labels[part]).float().mean().item())
    assert metrics["unexplained_1"] < 1e-6, "nine pixels and a bias fit into eighteen channels"
    assert 0 < metrics["unexplained_2"] < 0.2 and all(metrics[f"nmse_{k}"] < 1 for k in (2, 3, 4))


def test_the_rows_without_training() -> None:
    rows = ("teachers", "ensemble-logits", "ensemble-softmax", "untrained")
    results = {method: SMOKE.run(f"digits-{method}", 0, progress=False) for method in rows}
    teachers, _, softmax, untrained = (result.record.metrics for result in results.values())
    assert teachers["masked_1"] == teachers["part_1"] == teachers["teacher_1"] > 0.8
    assert teachers["masked_mean"] == pytest.approx((teachers["teacher_1"] + teachers["teacher_2"]) / 2)
    for method in ("ensemble-logits", "ensemble-softmax"):
        ensemble = results[method].record.metrics
        assert ensemble["parameters"] == teachers["parameters"] > untrained["parameters"]
        assert ensemble["masked_1"] == pytest.approx(teachers["masked_1"])
        assert 0.4 < ensemble["accuracy"] < ensemble["masked_mean"]
    result = results["ensemble-softmax"]
    images = result.test.normalised(result.test.images)
    with torch.no_grad():
        joined = torch.cat([teacher(images).softmax(1) for teacher in result.teachers.networks], 1)
    hits = (joined.argmax(1) == result.test.labels).float().mean().item()
    assert softmax["accuracy"] == pytest.approx(hits) and untrained["accuracy"] < 0.3


def test_kept_teachers_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = SMOKE.settings["digits-teachers"].teacher.but(kept=True)
    first = SMOKE.run("digits-teachers", 0, progress=False, teacher=kept)
    assert sum(name.startswith("parts/digits-") for name in zoo.names()) == 2
    assert not home.scan(home.root()), "what a run keeps is not what is shipped: records would count as made from it"
    monkeypatch.setattr(job.Supervised, "step", lambda _: pytest.fail("it was trained again"))
    again = SMOKE.run("digits-teachers", 0, progress=False, teacher=kept)
    assert again.record.metrics == first.record.metrics


def test_every_equation_of_the_chapter_is_on_the_path_of_a_record() -> None:
    def work() -> None:
        for row in ("digits-full-sgd", "digits-full", "digits-one-stage", "digits-kd", "teachers3-incremental"):
            SMOKE.run(row, 0, progress=False, evaluations=1, limit=20)

    equations.check("layerwise", work)


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
    assert 100 / 300 < found[3] / found[4] < 200 / 300 and found[2] < 0.3 * found[3]
    whole = PAPER.predict("dogs-full")
    assert whole.operations == pytest.approx(sum(found)) and 0.5e9 < whole.memory < 8e9
    reports = [set(part.step()) for part, _ in plan[2:]]
    assert reports == [{f"unexplained_{k}" for k in range(1, 8)}, {f"nmse_{k}" for k in range(1, 9)}, {"loss"}]


@pytest.mark.parametrize("row", ["dogs-full", "cars-one-stage"])
def test_few_steps_on_archives_in_the_true_format(row: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only counts and widths are cut, and no weights are fetched."""
    study, settings = PAPER, PAPER.settings[row]
    archives.publish(settings.dataset, monkeypatch, tmp_path, test=6)
    data.load(settings.dataset, download=True)
    narrow = ("alexnet", {"widths": (4, 6, 8, 6, 6), "hidden": (16, 12)})
    student = ("alexnet", {"widths": (5, 7, 9, 7, 7), "hidden": (18, 14)})
    options = {"batch": 2, "lr": 1e-3}
    teacher = settings.teacher.but(network=narrow, pretrained=False, kept=False, updates=1, options=options)
    few = {"encoder_share": 0.05, "layer_share": 0.05, "updates": 20} if row.endswith("full") else {"updates": 2}
    shown = {"teacher": teacher, "student": student, "classes": ((2, 0), (1,)), "batch": 2, "evaluations": 1}
    result = study.run(row, progress=False, **shown, **few)
    assert result.test.mean == (0.0,) * 3 and result.test.std == (1.0,) * 3 and result.test.shape == (3, 224, 224)
    assert 0 <= result.record.metrics["accuracy"] <= 1


def test_imagenet_weights_are_taken_but_for_the_last_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    state = {name: torch.full_like(value, 0.5) for name, value in torchvision.models.alexnet().state_dict().items()}
    monkeypatch.setattr(pretrained, "torchvision_weights", lambda name: state)
    network = build(*PAPER.settings["dogs-full"].teacher.network, 60, (3, 224, 224))
    job.take_imagenet(network)
    *layers, head = [link.layer for link in nets.chain_of(network)]
    assert all((layer.weight == 0.5).all() and (layer.bias == 0.5).all() for layer in layers)
    assert head.weight.shape == (60, 4096) and not head.bias.any()
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_the_port_joins_whole_data_sets_and_scores_each_among_its_own_classes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, classes in (("stanford_cars", "abcd"), ("fgvc_aircraft", "xyz")):
        monkeypatch.setitem(archives.FINE_GRAINED, name, tuple(classes))
        archives.publish(name, monkeypatch, tmp_path, train=10, test=6)
        data.load(name, download=True)
    settings = PAPER.settings["port-one-stage"]
    assert [len(known) for known in settings.classes] == [196, 100] and settings.updates == 100 * 463
    teacher = settings.teacher.but(updates=1, kept=False, options={**settings.teacher.options, "batch": 2})
    few = {"teacher": teacher, "classes": (tuple(range(4)), tuple(range(4, 7))), "updates": 1, "batch": 2}
    result = PAPER.run("port-one-stage", progress=False, evaluations=1, **few)
    assert result.test.classes == tuple("abcdxyz") and len(result.test) == 12
    assert result.record.metrics.keys() >= {"masked_1", "masked_2"} and len(result.student.state_dict()) > 100
    job_of = LayerwiseJob(settings.but(**few, method="kd"), 0)
    assert LEARNERS["kd"](job_of).optimizer.param_groups[0]["weight_decay"] == 1e-4


# --- the colab scale -------------------------------------------------------------------------------------------------


@pytest.fixture
def photographs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    archives.publish("cifar10", monkeypatch, tmp_path, train=320, test=20)
    COLAB.fetch(["cifar-full"], progress=False)


def short_of(row: str) -> dict[str, Any]:
    teacher = COLAB.settings[row].teacher
    return {
        "teacher": teacher.but(updates=4, options={**teacher.options, "batch": 8}),
        **{"updates": 8, "batch": 8, "evaluations": 2},
    }


@pytest.mark.usefixtures("photographs")
def test_a_row_on_photographs_that_was_cut_gives_what_an_uninterrupted_one_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    once = functools.partial(COLAB.run, "cifar.300-full", progress=False, **short_of("cifar.300-full"))
    whole, other = (once(seed) for seed in (0, 1))
    players.cut(monkeypatch, lambda: once(0, resume=True), 5)
    resumed = once(0, resume=True)
    assert not resumed.record.differences(whole.record) and resumed.record.differences(other.record)
    assert not list(players.differences(players.state(resumed.student), players.state(whole.student)))


@pytest.mark.usefixtures("photographs")
def test_fewer_images_are_drawn_by_the_seed_and_all_tasks_of_two_parts_share_kept_teachers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(row: str, seed: int = 0) -> LayerwiseJob:
        return LayerwiseJob(COLAB.settings[row].but(**short_of(row)), seed)

    first = start("cifar-kd")
    monkeypatch.setattr(job.Supervised, "step", lambda _: pytest.fail("a teacher was trained again"))
    jobs = [start(row) for row in ("cifar.100-kd", "cifar.100-full", "cifar.300-kd")]
    assert [len(each.transfer()) for each in (first, *jobs)] == [320, 100, 100, 300]
    images = [each.transfer().images for each in jobs]
    assert torch.equal(images[0], images[1])
    assert not list(players.differences(*(players.state(each.teachers) for each in (first, jobs[2]))))
    learning, labelled = (LEARNERS[name](first) for name in ("kd", "labels"))
    assert learning.augment is labelled.augment is crop_and_flip
    x = first.images("train", first.classes.union).sample(4, engine.generator(first.device, 0), crop_and_flip)[0]
    learning.batch, learning.random = 4, engine.generator(first.device, 0)
    assert torch.equal(learning.draw(), x)


@pytest.mark.nightly  # asks every row
def test_the_colab_scale_of_one_seed_is_predicted_to_take_less_than_half_an_hour() -> None:
    assert sum(COLAB.predict(row).hours("T4, fp16") for row in COLAB.rows) < 0.5
