"""Chapter 06: what the rows of a task share, rows at the smoke scale, and the paper's scale."""

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
import torch.nn.functional as F

from reuselib import chapters, data, nets, report
from reuselib import run as engine
from reuselib.adaptive import customise, job, pools
from reuselib.adaptive.job import PLAIN, TARGETS, AdaptiveJob
from reuselib.adaptive.pools import PARTS
from reuselib.adaptive.study import LABELLED, METHODS
from reuselib.nets import pretrained
from reuselib.nets.blank import SPACES

SMOKE, LAPTOP, COLAB, PAPER = (chapters.study("adaptive", scale) for scale in report.SCALES)
TASKS = {
    "smoke": ["shapes", "fashion", "shapes-saturated", "fashion-saturated"],
    "laptop": ["shapes", "fashion", "shapes-saturated", "fashion-saturated"],
    "colab": ["cifar"],
    "paper": ["hair", "eye", "face", "aircraft", "dogs", "cub", "cars"],
}
CELEBA = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair "
    "Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male "
    "Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks "
    "Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young"
).split()
CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
SHORT: dict[str, Any] = {"updates": 4, "target_updates": 4, "evaluations": 1, "limit": 60}


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep records and kept pools out of the clone; images are loaded once."""
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    monkeypatch.setattr(pools, "_labelled", lambda room, *which: loaded_once(*which))


loaded_once = functools.cache(functools.partial(pools._labelled.__wrapped__, Path()))


def job_of(method: str, seed: int = 0, **changes: Any) -> AdaptiveJob:
    return AdaptiveJob(SMOKE.settings[f"shapes-{method}"].but(**changes), seed)


# --- what rows share -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", report.SCALES)
def test_every_task_has_every_method_and_they_differ_in_nothing_else(scale: str) -> None:
    study, several = chapters.study("adaptive", scale), [m for m in METHODS if scale != "paper" or m != "heterogeneous"]
    assert study.rows == [f"{task}-{method}" for task in TASKS[scale] for method in several]
    for task in TASKS[scale]:
        rows = [settings for settings in study.settings.values() if settings.task == task]
        shared = [each.but(method="", options={}, pool=each.pool.but(others=None)) for each in rows]
        assert all(each == shared[0] for each in shared)
        assert [each.method for each in rows if each.pool.others] in (["heterogeneous"], [])
        for each in rows:
            base = rows[0].options if each.method not in LABELLED else {"lr": 0, "noise": 0}
            assert each.options.keys() == base.keys() or scale == "paper"
        taught = [sum(task in tasks for tasks, _ in rows[0].pool.sources) for task in rows[0].chosen]
        assert min(taught) >= 2, "nothing to select"
    assert set(job.STAGES) == set(METHODS) - {"sources", "untrained"}


def test_rates_and_sides_at_the_laptop_scale() -> None:
    rates = {method: LAPTOP.settings[f"fashion-{method}"].options["lr"] for method in METHODS}
    assert {method for method, lr in rates.items() if lr == 0.03} == {
        *("select-logits", "averaged", "no-regulariser", "one-step")
    }
    assert {method for method, lr in rates.items() if lr == 0.15} == set(LABELLED) and rates["select"] == 0.01
    for task in ("shapes", "fashion"):
        plan = LAPTOP.settings[f"{task}-target"].pool
        assert [side for _, side in plan.sources] == [0, 1, 0, 1] and plan.rare == 0.1
        for (first, _), (second, _) in (plan.sources[:2], plan.sources[2:]):
            assert len(set(first) & set(second)) == 1 and len(first) == 2
        control = LAPTOP.settings[f"{task}-saturated-target"].pool
        assert control.rare == 1 and not control.half and control.source_images >= 4 * plan.source_images


def test_the_papers_rows_have_the_official_numbers_of_sources_and_epochs() -> None:
    rows = {task: PAPER.settings[f"{task}-target"] for task in TASKS["paper"]}
    assert {task: len(row.pool.sources) for task, row in rows.items()} == {
        "hair": 9,
        "eye": 7,
        "face": 6,
    } | dict.fromkeys(("aircraft", "dogs", "cub", "cars"), 4)
    faces = [rows[task] for task in ("hair", "eye", "face")]
    assert {task for row in faces for tasks, _ in row.pool.sources for task in tasks} <= set(CELEBA)
    hair, aircraft, epoch = rows["hair"], rows["aircraft"], 162_770 / 64
    assert SPACES["celeba_attributes"].training == 162_770 and epoch == pytest.approx(2543.3, abs=0.1)
    assert hair.updates == hair.target_updates == 127_200 == 50 * math.ceil(epoch)
    assert [share * 50 for share in hair.decays] == pytest.approx([5, 10, 15, 20, 25])
    assert [share * 40 for share in hair.pool.decays] == pytest.approx([5, 10, 15, 20, 25])
    assert [share * 400 for share in aircraft.decays] == pytest.approx([20, 50, 100])
    assert aircraft.target_updates == pytest.approx(300 * 6667 / 64, abs=50)
    assert [share * 300 for share in aircraft.target_decays] == pytest.approx([20, 50, 100])
    assert not hair.pretrained and aircraft.pretrained and hair.pool.pretrained and aircraft.pool.pretrained


@pytest.mark.parametrize(
    ("task", "epochs", "at"), [("aircraft", (400, 300), (20, 50, 100)), ("hair", (50, 50), (5, 10, 15))]
)
def test_the_rates_of_both_stages_are_halved_at_the_epochs_of_the_code(
    task: str, epochs: tuple[int, int], at: tuple[int, ...]
) -> None:
    one = PAPER.job(PAPER.settings[f"{task}-target"], device="meta")
    stages = one.stages()
    for name, count in zip((list(stages)[0], "target"), epochs, strict=True):
        factor, epoch = stages[name].scheduler.lr_lambdas[0], one.updates(name) / count
        for number, milestone in enumerate(at):
            assert factor(round(milestone * epoch) - 1) == 0.5**number
            assert factor(round(milestone * epoch) + 1) == 0.5 ** (number + 1)


# --- rows ------------------------------------------------------------------------------------------------------------


def test_all_methods_of_a_seed_share_pool_images_and_initial_weights() -> None:
    def start(method: str, seed: int) -> list[object]:
        one = job_of(method, seed)
        shared = [] if method == "heterogeneous" else [one.sources]
        return [players.state(part) for part in (one.student, one.components, one.transfer.targets, *shared)]

    first = start("target", 0)
    for method in METHODS:
        found = start(method, 0)
        assert not list(players.differences(first[: len(found)], found)), method
    assert list(players.differences(first, start("target", 1)))


@pytest.mark.parametrize("row", [f"shapes-{method}" for method in METHODS] + ["fashion-target"])
def test_a_row_runs_and_gives_a_valid_record(row: str) -> None:
    result, method = SMOKE.run(row, 0, progress=False, **SHORT), SMOKE.settings[row].method
    metrics = result.record.metrics
    assert all(math.isfinite(value) for value in metrics.values())
    shares = ("accuracy", "pseudo", "matched", "source_", "component")
    assert all(0 <= value <= 1 for name, value in metrics.items() if name.startswith(shares))
    assert metrics["accuracy"] == pytest.approx((metrics["accuracy_1"] + metrics["accuracy_2"]) / 2)
    assert ("pseudo_1" in metrics) == ("matched_1" in metrics) == (method not in PLAIN or method == "sources")
    assert ("component_1" in metrics) == method.startswith("target")
    plain = {*PLAIN, "select-logits", "averaged", "direct"}
    assert ("row_norm" in metrics) == ("row_norm_3" in metrics) == (method not in plain)
    networks = set(result.students.values())
    assert len(networks) == (1 if method in TARGETS else 2)
    counted = result.pool.values() if method == "sources" else networks
    assert metrics["parameters"] == sum(map(nets.parameter_count, counted))
    assert (result.record.passes == {}) == (method in ("sources", "untrained"))


def test_what_the_methods_change_and_equal_updates_and_images_an_update() -> None:
    weights, images = {}, {}
    for method in ("select", "select-logits", "no-regulariser", "averaged", "oracle", "random"):
        one = job_of(method)
        stages = one.stages()
        assert {name: one.updates(name) for name in stages} == {"shape": 10, "size": 10}
        images[method], weights[method] = (
            [sum(s.sizes) for s in stages.values()],
            tuple(stages["shape"].weights.values()),
        )
    assert images["averaged"] == images["select"] == images["select-logits"] == images["no-regulariser"]
    # The second list may give a few more than the first: the rule rounds down the number of updates.
    assert all(16 <= count <= 40 for counts in images.values() for count in counts)
    assert weights["select"] == weights["oracle"] == (1, 1, 1) and weights["no-regulariser"] == (1, 1, 0)
    assert weights["select-logits"][0] == weights["averaged"][0] == 0
    stages = job_of("target-logits").stages()
    assert (stages["shape"].weights["features"], stages["target"].weights["features"]) == (1, 0)
    sizes = job_of("one-step").stages()["target"].sizes
    assert len(sizes) == 4 and max(sizes) == 16
    direct, target = job_of("direct"), job_of("target")
    taught = [[lesson.source for lesson in one.stages()["target"].lessons] for one in (direct, target)]
    assert taught == [[direct.sources["s1"], direct.sources["s3"]], list(target.components.values())]


def test_the_choices_of_the_rows() -> None:
    one = job_of("select")
    logits, labels = one.answers["shape"], one.labels("shape")
    p = logits.double().softmax(2)
    assert torch.equal(one.choices["shape"].index, (p * p.log()).sum(2).argmax(0))
    losses = torch.stack([F.cross_entropy(each, labels, reduction="none") for each in logits])
    assert torch.equal(job_of("oracle").choices["shape"].index, losses.argmin(0))
    drawn = [job_of("random", seed).choices["shape"].index.float() for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert 0.3 < drawn[0].mean() < 0.7


def test_the_metrics_are_what_they_are_called() -> None:
    result = SMOKE.run("select", 0, progress=False, **SHORT)
    metrics, test, transfer = result.record.metrics, result.test, result.transfer
    for number, task in enumerate(("shape", "size"), 1):
        with torch.no_grad(), engine.frozen(result.students[task]):
            found = result.students[task](test.normalised(test.images.images))[task].argmax(1)
        assert metrics[f"accuracy_{number}"] == pytest.approx((found == test.labels(task)).float().mean().item())
        choice, x = result.choices[task], transfer.normalised(transfer.images.images)
        with torch.no_grad():
            right = torch.stack([s(x)[task].argmax(1) for s in choice.sources]) == transfer.labels(task)
        chosen = right.gather(0, choice.index.unsqueeze(0))[0]
        assert metrics[f"pseudo_{number}"] == pytest.approx(chosen.float().mean().item())
        assert metrics[f"pseudo_best_{number}"] == pytest.approx(right.float().mean(1).max().item())
        assert metrics[f"matched_{number}"] == pytest.approx((choice.index == result.sides).float().mean().item())
    assert len(test) == 60 and [x for x, _ in result.record.curves["accuracy"]] == [8]


def test_the_measures_of_the_sources() -> None:
    result = SMOKE.run("sources", 0, progress=False, limit=500)
    metrics, x = result.record.metrics, result.test.normalised(result.test.images.images)
    for number, task in enumerate(("shape", "size"), 1):
        with torch.no_grad():
            logits = torch.stack([source(x)[task].double() for source in result.choices[task].sources])
        right = logits.argmax(2) == result.test.labels(task)
        for letter, share in zip("ab", right.float().mean(1).tolist(), strict=True):
            assert metrics[f"source_{number}{letter}"] == pytest.approx(share)
        assert metrics[f"accuracy_{number}"] == pytest.approx(right.float().mean(1).max().item())
        assert metrics[f"pseudo_{number}"] == metrics[f"pseudo_best_{number}"]
        p = logits.softmax(2)
        entropies = -(p * p.log()).sum(2)
        gap = entropies[~right].mean() - entropies[right].mean()
        assert metrics[f"entropy_gap_{number}"] == pytest.approx(gap.item(), abs=1e-4)


def test_the_parts_of_classes_are_tasks_like_any_other() -> None:
    network = ("multi_head_conv", {"widths": (4, 6)})
    plan = SMOKE.settings["shapes-select"].pool.but(
        dataset="digits",
        size=None,
        auxiliary="printed_digits",
        sources=tuple(((PARTS[k // 2],), k) for k in range(4)),
        half=(),
        network=network,
        updates=10,
    )
    changes = {**SHORT, "pool": plan, "chosen": PARTS, "component": network, "target": network, "widths": (3, 4)}
    for method in ("target", "supervised", "multi-task", "one-step", "averaged", "oracle", "sources"):
        metrics = SMOKE.run(method, 0, progress=False, **changes).record.metrics
        assert metrics.keys() >= {"accuracy_1", "accuracy_2"}
    one = job_of("select", **changes)
    positions = torch.cat([lesson.index for lesson in one.lessons("part 1")]).tolist()
    assert sorted(positions) == one.asked("part 1").tolist()


def test_a_results_pool_is_a_menu_and_every_equation_is_on_the_path_of_a_record() -> None:
    result = SMOKE.run("sources", 0, progress=False, **SHORT)
    small = functools.partial(nets.multi_head_conv, widths=(4, 6, 6))
    networks = {"component": small, "target": small, "widths": (3, 3, 3)}
    images = result.transfer.images
    made = customise(result.pool, ["filling", "shape"], images, **networks, updates=(2, 2), progress=False)
    assert made.student.tasks == {"filling": 2, "shape": 4} and made.choices["filling"].names == ["s1", "s3"]
    equations.check("adaptive", lambda: SMOKE.run("target", 0, progress=False, **SHORT))


# --- the paper's scale -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [pytest.param("face", marks=pytest.mark.nightly), "aircraft"])
def test_one_step_of_the_papers_networks_on_archives_in_the_true_format(
    row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    state = torchvision.models.resnet18().state_dict()
    monkeypatch.setattr(pretrained, "torchvision_weights", lambda name: state)
    settings = PAPER.settings[f"{row}-target"]
    if row == "face":
        monkeypatch.setattr(archives, "CELEBA_ATTRIBUTES", tuple(CELEBA))
        archives.publish("celeba_attributes", monkeypatch, tmp_path, train=4, test=2)
        data.multi_label.celeba_attributes("train", 32, download=True)
    for name in ("fgvc_aircraft", "stanford_cars") if row == "aircraft" else ():
        monkeypatch.setitem(archives.FINE_GRAINED, name, tuple("abcd"))
        archives.publish(name, monkeypatch, tmp_path, train=8, test=4)
        data.load(name, download=True)
    once = {"updates": 1, "target_updates": 1, "batch": 2, "target_batch": 2, "evaluations": 1}
    plan = settings.pool.but(updates=1, options={"batch": 2, "lr": 1e-4}, kept=False)
    result = PAPER.run(f"{row}-target", 0, progress=False, pool=plan, **once)
    classes = {"Oval_Face": 2, "Young": 2, "Heavy_Makeup": 2} if row == "face" else dict.fromkeys(PARTS, 2)
    assert result.student.tasks == classes and len(result.pool) == len(plan.sources)
    assert result.transfer.shape == (3, 224, 224) and 0 <= result.record.metrics["component_2"] <= 1
    if row == "face":
        assert nets.parameter_count(result.student) / 1e6 == pytest.approx(22.1, abs=0.01)


@pytest.mark.nightly  # forty seconds
def test_the_cost_of_the_papers_scale_is_predicted() -> None:
    parts = {}
    for row in ("hair", "face", "aircraft"):
        one = PAPER.job(PAPER.settings[f"{row}-target"], device="meta")
        costs = [engine.cost.predict([part]) for part in one.plan()]
        count = len(one.sources)
        parts[row] = [sum(each.operations for each in part) for part in (costs[:count], costs[count:-1], costs[-1:])]
        assert all(0 < each.memory < 16e9 for each in costs)
    assert parts["hair"][0] == pytest.approx(1.5 * parts["face"][0], rel=0.01)
    assert parts["hair"][1] == pytest.approx(1.5 * parts["face"][1], rel=0.01), "images of nine sources and of six"
    # ResNet-18 takes 1.8e9 multiply-adds for a picture, three times as many with the way back.
    assert parts["hair"][0] == pytest.approx(9 * 101_750 * 64 * 6 * 1.8e9, rel=0.1)


# --- the colab scale -------------------------------------------------------------------------------------------------


@pytest.fixture
def photographs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    archives.publish("cifar10", monkeypatch, tmp_path, train=600, test=60)
    COLAB.fetch(progress=False)


def short_of(method: str) -> dict[str, Any]:
    plan = COLAB.settings[f"cifar-{method}"].pool
    pool = plan.but(source_images=300, transfer_images=300, updates=2, options={"batch": 8, "lr": 0.1})
    return {"pool": pool, "updates": 4, "target_updates": 4, "batch": 8, "target_batch": 8, "evaluations": 2}


@pytest.mark.usefixtures("photographs")
def test_a_row_on_photographs_that_was_cut_gives_what_an_uninterrupted_one_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    once = functools.partial(COLAB.run, "target", progress=False, **short_of("target"))
    whole, other = (once(seed) for seed in (0, 1))
    players.cut(monkeypatch, lambda: once(0, resume=True), 9)
    resumed = once(0, resume=True)
    assert not resumed.record.differences(whole.record) and resumed.record.differences(other.record)
    assert not list(players.differences(players.state(resumed.student), players.state(whole.student)))


@pytest.mark.usefixtures("photographs")
def test_on_photographs_sources_differ_in_what_they_saw_and_selection_differs_from_the_mean() -> None:
    one = COLAB.job(COLAB.settings["cifar-select"].but(**short_of("select")))
    plan, classes, kinds = one.settings.pool, CIFAR10, data.multi_label.CIFAR_KINDS
    for number, (lesson, (tasks, side)) in enumerate(zip(one.pool.lessons, plan.sources, strict=True)):
        names = [classes[label] for label in lesson.images.labels.tolist()]
        assert set(names) <= {name for task in tasks for name in kinds[task]} and tuple(lesson.tasks) == tasks
        said = torch.where(lesson.targets >= 0, lesson.targets, 0).sum(1).tolist()
        told = [
            kinds[task][label] for name, label in zip(names, said, strict=True) for task in tasks if name in kinds[task]
        ]
        wrong = sum(a != b for a, b in zip(names, told, strict=True)) / len(names)
        own = sum(classes.index(name) in plan.half for name in names) / len(names)
        assert 0.25 < wrong < 0.55 if number == 4 else not wrong
        assert side is None or (own > 0.8 if side == 0 else own < 0.2)
    assert [len(logits) for logits in one.answers.values()] == [3, 3]
    assert [logits.shape[2] for logits in one.answers.values()] == [4, 6]
    assert not torch.equal(one.answers["animals"].mean(0), one.answers["animals"][0])
    asked = [len(one.asked(task)) for task in one.classes]
    assert sum(asked) == len(one.transfer) == 300 and min(asked) > 60


@pytest.mark.nightly  # asks every row
def test_the_colab_scale_of_one_seed_is_predicted_to_take_less_than_half_an_hour() -> None:
    assert sum(COLAB.predict(row).hours("T4, fp16") for row in COLAB.rows) < 0.5
