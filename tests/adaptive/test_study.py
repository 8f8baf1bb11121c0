"""Chapter 06: presets, worlds and pools, rows at the smoke scale, one step at the paper's."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import archives
import players
import pytest
import torch
import torch.nn.functional as F

from reuselib import chapters, data, nets, prediction, report
from reuselib import run as engine
from reuselib.adaptive import customise, pools
from reuselib.adaptive import study as chapter06
from reuselib.adaptive.pools import PoolPlan, SourcePlan
from reuselib.errors import ReuseError, UnknownName
from reuselib.worlds.shapes import shape_attributes

NAME = "adaptive"
SMOKE = chapters.chapter(NAME, "smoke")
TASKS = {
    "smoke": ["shapes", "fashion", "shapes-saturated", "fashion-saturated"],
    "laptop": ["shapes", "fashion", "shapes-saturated", "fashion-saturated"],
    "colab": ["hair"],
    "paper": ["hair", "eye", "face", "aircraft", "dogs", "cub", "cars"],
}
SHORT: dict[str, Any] = {"updates": 4, "target_updates": 4, "evaluations": 1, "limit": 60}
POOLED = [method for method in chapter06.METHODS if method not in chapter06.PLAIN]
CELEBA = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair "
    "Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male "
    "Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks "
    "Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young"
).split()


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep records and pools out of the clone; draw and load images once."""
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    for name in ("shape_attributes", "fashion_attributes"):
        monkeypatch.setitem(pools.LOADERS, name, loaded_once[name])
    monkeypatch.setattr(pools.home, "root", lambda: tmp_path.parent)  # one pool for all tests of this file
    yield


loaded_once = {name: functools.cache(load) for name, load in pools.LOADERS.items()}


def bench(method: str, seed: int = 0, task: str = "shapes", **changes: Any) -> chapter06.Bench:
    return chapter06.Bench(SMOKE.config(f"{task}-{method}", **changes), seed)


# ---- presets


def configs() -> Iterator[tuple[str, str]]:
    for scale in report.SCALES:
        for row in chapters.chapter(NAME, scale).rows:
            yield scale, row


def test_every_scale_has_every_method_of_its_tasks() -> None:
    assert set(TASKS) == set(report.SCALES)
    for scale, tasks in TASKS.items():
        rows = [(task, method) for task in tasks for method in chapter06.METHODS]
        if scale == "paper":  # the published sources are all ResNet-18
            rows = [(task, method) for task, method in rows if method != "heterogeneous"]
        assert chapters.chapter(NAME, scale).rows == [f"{task}-{method}" for task, method in rows]
    trained = set(chapter06.METHODS) - {"sources", "untrained"}
    assert set(chapter06.STAGES) == trained


@pytest.mark.parametrize("scale", report.SCALES)
def test_presets_are_whole_frozen_hashable_and_different(scale: str) -> None:
    chapter, hashes = chapters.chapter(NAME, scale), set()
    for row, config in chapter.configs.items():
        assert f"{config.task}-{config.method}" == row
        assert json.loads(json.dumps(asdict(config), allow_nan=False))
        hashes.add(report.config_hash(config))
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.batch = 1
        assert {config.component, config.target, config.pool.network} <= set(nets.MODELS)
        assert config.updates % 10 == config.target_updates % 10 == config.pool.updates % 10 == 0
        taught = {task: 0 for task in config.chosen}
        for source in config.pool.sources:
            for task in set(source.tasks) & set(taught):
                taught[task] += 1
        assert all(count >= 2 for count in taught.values()), "nothing to select"
    assert len(hashes) == len(chapter.rows)


@pytest.mark.parametrize("scale", report.SCALES)
def test_the_methods_of_a_task_differ_in_nothing_else(scale: str) -> None:
    chapter = chapters.chapter(NAME, scale)
    for task in TASKS[scale]:
        rows = [config for config in chapter.configs.values() if config.task == task]
        rates = {name: getattr(rows[0], name) for name in ("lr", "supervised_lr")}
        untuned = [row for row in rows if row.method not in chapter06.TUNED]
        assert all({name: getattr(row, name) for name in rates} == rates for row in untuned)
        plain = [replace(row, method="", pool=replace(row.pool, others=None), **rates) for row in rows]
        assert all(row == plain[0] for row in plain)
        assert [row.method for row in rows if row.pool.others] in (["heterogeneous"], [])


def test_sources_of_one_task_share_no_other_and_know_other_sides() -> None:
    for task in ("shapes", "fashion"):
        plan = chapters.chapter(NAME, "laptop").config(f"{task}-target").pool
        assert [source.side for source in plan.sources] == [0, 1, 0, 1] and plan.rare == 0.1
        for first, second in (plan.sources[:2], plan.sources[2:]):
            assert len(set(first.tasks) & set(second.tasks)) == 1 and len(first.tasks) == 2
        control = chapters.chapter(NAME, "laptop").config(f"{task}-saturated-target").pool
        assert control.rare == 1 and not control.half and control.source_images >= 4 * plan.source_images


def test_the_papers_presets_have_the_official_settings() -> None:
    chapter = chapters.chapter(NAME, "paper")
    hair, aircraft = chapter.config("hair-target"), chapter.config("aircraft-target")
    assert len(hair.pool.sources) == 9 and hair.chosen == ("Black_Hair", "Blond_Hair", "Brown_Hair", "Bangs")
    assert [len(chapter.config(f"{task}-target").pool.sources) for task in ("eye", "face")] == [7, 6]
    assert set(CELEBA) >= {
        task
        for row in chapter.configs.values()
        if row.pool.dataset == "celeba_attributes"
        for source in row.pool.sources
        for task in source.tasks
    }
    assert hair.encoder_lr == (1e-4, 1e-4, 1e-5, 1e-4, 1e-4) and (hair.lr, hair.scale_lr) == (1e-4, 1e-6)
    assert hair.widths == aircraft.widths == (32, 32, 64, 128, 256)
    assert hair.target_arguments["widths"] == (90, 90, 180, 360, 720)
    assert aircraft.target_arguments["widths"] == (72, 72, 144, 288, 576)
    epoch = 162_770 / 64
    assert hair.target_updates == pytest.approx(50 * epoch, abs=50)
    assert [share * 50 for share in hair.decays] == pytest.approx([5, 10, 15, 20, 25]) and hair.decay == 0.5
    assert [share * 40 * epoch for share in hair.pool.decays] == pytest.approx([k * epoch for k in (5, 10, 15, 20, 25)])
    assert not hair.pretrained and aircraft.pretrained and hair.pool.pretrained and aircraft.pool.pretrained
    assert aircraft.encoder_lr == (1e-3, 1e-3, 1e-3, 1e-3, 8e-4) and (aircraft.lr, aircraft.scale_lr) == (5e-4, 0)
    assert [share * 400 for share in aircraft.decays] == pytest.approx([20, 50, 100])
    assert aircraft.target_updates == pytest.approx(300 * 6667 / 64, abs=50) and aircraft.batch == 64
    assert aircraft.pool.lr == 1e-3 and hair.pool.lr == 1e-4 and hair.pool.batch == 64


def test_tables_and_claims_speak_of_rows_and_measures_that_exist() -> None:
    paper = report.published(NAME)
    rows = {row.id for table in paper.tables for row in table.rows}
    assert set(chapter06.METHODS) <= rows
    measured = {
        row: set(SMOKE.run(f"shapes-{row}", progress=False, **SHORT).record.metrics)
        for row in ("select", "sources", "target")
    }
    for condition in (condition for claim in paper.claims for condition in claim.conditions):
        for row in (condition.left, condition.right):
            if isinstance(row, str):
                assert row in chapters.chapter(NAME, condition.scale).rows
                method = chapter06.PLAIN[0] if row.endswith("sources") else "target" if "target" in row else "select"
                assert condition.metric in measured[method], condition


# ---- worlds


PLAN = SMOKE.config("shapes-select").pool


def test_the_three_pieces_are_disjoint() -> None:
    world = pools.build_world(PLAN, 0, torch.device("cpu"))
    pieces = [world.transfer, world.test, *world.lessons]
    mine, transfer = pools._pieces(loaded_once["shape_attributes"]("train", size=16), PLAN, 0)
    seen = [{image.numpy().tobytes() for image in piece.images.images} for piece in (mine, transfer, world.test)]
    assert [len(piece) for piece in seen] == [200, 120, 2000] and len(set.union(*seen)) == 2320
    for lesson in world.lessons:
        assert {image.numpy().tobytes() for image in lesson.images.images} <= seen[0]
    assert [list(piece.tasks) for piece in pieces[2:]] == [list(source.tasks) for source in PLAN.sources]


def test_a_source_sees_a_tenth_of_the_other_side() -> None:
    plan = replace(PLAN, source_images=4000)
    world = pools.build_world(plan, 0, torch.device("cpu"))
    for source, lesson in zip(plan.sources, world.lessons, strict=True):
        sides = pools._sides(lesson.images, plan.half)
        assert float((sides == 1 - source.side).float().sum()) / 2000 == pytest.approx(0.1, abs=0.03)
        assert float((sides == source.side).float().sum()) == pytest.approx(2000, abs=100)
    light = shape_attributes("test").labels("polarity")[:50]
    assert torch.equal(pools._sides(world.test.images, plan.half)[:50], light)


def test_the_seed_draws_the_pieces() -> None:
    first, again, other = (pools.build_world(PLAN, seed, torch.device("cpu")) for seed in (0, 0, 1))
    assert torch.equal(first.transfer.images.images, again.transfer.images.images)
    assert torch.equal(first.lessons[1].targets, again.lessons[1].targets)
    assert not torch.equal(first.transfer.images.images, other.transfer.images.images)
    assert torch.equal(first.test.targets, other.test.targets)


def test_worlds_that_cannot_be() -> None:
    with pytest.raises(ReuseError, match="has 6000 images, not 6000 for sources and 120 for students"):
        pools.build_world(replace(PLAN, source_images=6000), 0, torch.device("cpu"))
    with pytest.raises(UnknownName, match="set with several labels 'shape_atributes'. Did you mean 'shape_attributes'"):
        pools.build_world(replace(PLAN, dataset="shape_atributes"), 0, torch.device("cpu"))


def test_without_counts_students_see_the_sources_images() -> None:
    plan = replace(PLAN, source_images=None, transfer_images=None, half=(), rare=1.0)
    world = pools.build_world(plan, 0, torch.device("cpu"))
    assert len(world.transfer) == 6000 and world.sides is None
    assert all(torch.equal(lesson.images.images, world.transfer.images.images) for lesson in world.lessons)


CLASSES = PoolPlan(
    "digits",
    tuple(SourcePlan((pools.part_name(k // 2),), k) for k in range(4)),
    arguments={"widths": (4, 6)},
    auxiliary="printed_digits",
    updates=10,
    batch=32,
)


def test_class_parts_are_equal_disjoint_and_always_the_same() -> None:
    for count, parts in ((100, 2), (196, 4), (10, 4), (200, 4)):
        found = pools.class_parts(count, parts)
        assert sorted(sum(found, [])) == list(range(count)) and found == pools.class_parts(count, parts)
        assert [len(part) for part in found[:-1]] == [round(count / parts)] * (parts - 1)
    assert pools.class_parts(10, 2)[0] != [0, 1, 2, 3, 4]


def test_a_world_of_classes_asks_each_image_about_its_own_part() -> None:
    world = pools.build_world(CLASSES, 0, torch.device("cpu"))
    main, halves = data.load("digits", "train"), pools.class_parts(10, 2)
    assert list(world.transfer.tasks) == ["part 1", "part 2"] and len(world.transfer) == len(main)
    for k, half in enumerate(halves):
        labels = world.transfer.labels(f"part {k + 1}")
        mine = torch.isin(main.labels, torch.tensor(half))
        assert torch.equal(labels >= 0, mine)
        assert torch.equal(torch.tensor(half)[labels[mine]], main.labels[mine])
    assert (world.transfer.targets.amax(1) >= 0).all() and (world.transfer.targets.amin(1) == -1).all()


def test_a_source_of_classes_learns_its_part_and_its_quarter() -> None:
    world = pools.build_world(CLASSES, 0, torch.device("cpu"))
    main, other = data.load("digits", "train"), data.load("printed_digits", "train")
    halves, quarters = pools.class_parts(10, 2), pools.class_parts(10, 4)
    for source, lesson in zip(CLASSES.sources, world.lessons, strict=True):
        half, quarter = halves[0 if source.tasks[0] == "part 1" else 1], quarters[source.side]
        names = [main.classes[k] for k in half] + [other.classes[k] for k in quarter]
        assert lesson.tasks == {pools.ALL: tuple(names)}
        first = torch.isin(main.labels, torch.tensor(half))
        assert torch.equal(lesson.images.images[: int(first.sum())], main.images[first])
        assert torch.equal(
            lesson.labels(pools.ALL)[: int(first.sum())],
            torch.tensor([half.index(label) for label in main.labels[first].tolist()]),
        )
        rest = lesson.labels(pools.ALL)[int(first.sum()) :]
        assert (
            rest.min() == len(half)
            and rest.max() == len(names) - 1
            and len(rest) == sum(int((other.labels == label).sum()) for label in quarter)
        )


# ---- pools


def test_a_pool_is_trained_once_and_decided_by_its_seed() -> None:
    plan = replace(PLAN, updates=10)
    where = torch.device("cpu")
    first, again, other = (pools.trained_pool(plan, seed, where) for seed in (0, 0, 1))
    assert first is again and list(first.sources) == ["s1", "s2", "s3", "s4"]
    assert list(players.differences(players.state(first.sources), players.state(other.sources)))
    pools._trained_pool.cache_clear()
    torch.manual_seed(5)
    anew = pools.trained_pool(plan, 0, where)
    assert not list(players.differences(players.state(first.sources), players.state(anew.sources)))
    assert all(
        not source.training and not any(p.requires_grad for p in source.parameters())
        for source in first.sources.values()
    )


def test_every_second_source_may_have_another_architecture() -> None:
    plan = replace(PLAN, updates=10, others=("multi_head_residual", {"widths": (3, 4, 5)}))
    sources = list(pools.trained_pool(plan, 0, torch.device("cpu")).sources.values())
    assert [source.widths for source in sources] == [(16, 32, 32), (3, 4, 5)] * 2


def test_sources_may_be_kept_on_disk_and_are_then_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools.home, "root", lambda: tmp_path)
    plan, where = replace(PLAN, updates=10, kept=True), torch.device("cpu")
    first = pools.trained_pool(plan, 0, where)
    assert len(list((tmp_path / "zoo" / "pools").glob("*-seed0/s?/card.json"))) == 4
    pools._trained_pool.cache_clear()
    monkeypatch.setattr(pools.MultiTaskSupervised, "step", players.rigged(lambda _: {}, at=0))
    again = pools.trained_pool(plan, 0, where)
    assert not list(players.differences(players.state(first.sources), players.state(again.sources)))


def test_a_source_of_classes_is_cut_to_its_main_part() -> None:
    pool = pools.trained_pool(CLASSES, 0, torch.device("cpu"))
    assert [source.tasks for source in pool.sources.values()] == [{"part 1": 5}] * 2 + [{"part 2": 5}] * 2


# ---- rows


def test_all_methods_of_a_seed_share_pool_images_and_initial_weights() -> None:
    def start(method: str, seed: int) -> list[object]:
        one = bench(method, seed)
        networks = [one.student, one.components]
        return [players.state(part) for part in (*networks, one.transfer.targets, one.test.targets)]

    first = start("target", 0)
    for method in chapter06.METHODS:
        assert not list(players.differences(first, start(method, 0))), method
        if method != "heterogeneous":
            assert bench(method).sources is bench("target").sources
    assert list(players.differences(first, start("target", 1)))


@pytest.mark.parametrize("method", chapter06.METHODS)
def test_a_row_runs_and_gives_a_valid_record(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SMOKE.run(f"shapes-{method}", 0, progress=False, **SHORT)
    metrics = run.record.metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert all(
        0 <= value <= 1
        for name, value in metrics.items()
        if name.startswith(("accuracy", "pseudo", "matched", "source_", "component"))
    )
    assert metrics["accuracy"] == pytest.approx((metrics["accuracy_1"] + metrics["accuracy_2"]) / 2)
    assert ("pseudo_1" in metrics) == (method in POOLED or method == "sources")
    assert ("component_1" in metrics) == method.startswith("target")
    encoded = method in (
        "select",
        "no-regulariser",
        "random",
        "oracle",
        "target",
        "target-logits",
        "one-step",
        "heterogeneous",
    )
    assert ("row_norm" in metrics) == ("row_norm_3" in metrics) == encoded
    networks = {id(network): network for network in run.students.values()}
    assert len(networks) == (1 if method in chapter06.TARGETS else 2)
    counted = run.pool if method == "sources" else networks
    assert metrics["parameters"] == sum(map(nets.parameter_count, counted.values()))
    assert (run.record.passes == {}) == (method in ("sources", "untrained"))
    monkeypatch.setattr(pools.home, "root", lambda: tmp_path)
    run.record.save()
    assert [asdict(found) for found in report.records(NAME, "smoke")] == [asdict(run.record)]


@pytest.mark.parametrize("task", ["fashion", "shapes-saturated", "fashion-saturated"])
@pytest.mark.parametrize("method", ["sources", "target", "averaged"])
def test_the_other_tasks_run(task: str, method: str) -> None:
    metrics = SMOKE.run(f"{task}-{method}", 0, progress=False, **SHORT).record.metrics
    assert ("matched_1" in metrics) == (task == "fashion")


def test_equal_updates_and_images_an_update() -> None:
    images = {}
    for method in ("select", "select-logits", "no-regulariser", "averaged", "oracle", "random"):
        one = bench(method)
        stages = one.stages()
        assert one.updates(stages) == {"shape": 10, "size": 10}
        images[method] = [sum(stage.sizes) for stage in stages.values()]
    assert images["averaged"] == images["select"] == images["select-logits"] == images["no-regulariser"]
    # The second list may give a few more than the first: the rule rounds down the number of updates.
    assert all(16 <= count <= 40 for counts in images.values() for count in counts)
    assert bench("target").updates(bench("target").stages()) == {"shape": 10, "size": 10, "target": 10}
    one = bench("one-step").stages()["target"]
    assert len(one.sizes) == 4 and max(one.sizes) == 16


def test_what_the_methods_change() -> None:
    def weights(method: str) -> dict[str, float]:
        return bench(method).stages()["shape"].weights

    assert set(weights("select").values()) == {1.0}
    assert weights("select-logits")["features"] == weights("averaged")["features"] == 0
    assert weights("no-regulariser") == {"features": 1.0, "logits": 1.0, "regulariser": 0.0}
    assert bench("target-logits").stages()["target"].weights["features"] == 0
    assert bench("target-logits").stages()["shape"].weights["features"] == 1
    direct = bench("direct")
    assert [lesson.source for lesson in direct.stages()["target"].lessons] == [
        direct.sources["s1"],
        direct.sources["s3"],
    ]
    target = bench("target")
    assert [lesson.source for lesson in target.stages()["target"].lessons] == list(target.components.values())


def test_the_choices_of_the_rows() -> None:
    logits, labels = bench("select").answers["shape"], bench("select").labels("shape")
    p = logits.double().softmax(2)
    assert torch.equal(bench("select").choices["shape"].index, (p * p.log()).sum(2).argmax(0))
    losses = torch.stack([F.cross_entropy(each, labels, reduction="none") for each in logits])
    assert torch.equal(bench("oracle").choices["shape"].index, losses.argmin(0))
    drawn = [bench("random", seed).choices["shape"].index.float() for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert 0.3 < drawn[0].mean() < 0.7


def test_the_metrics_are_what_they_are_called() -> None:
    run = SMOKE.run("shapes-select", 0, progress=False, **SHORT)
    metrics, test, transfer = run.record.metrics, run.test, run.transfer
    for number, task in enumerate(("shape", "size"), 1):
        with torch.no_grad(), engine.frozen(run.students[task]):
            found = run.students[task](test.normalised(test.images.images))[task].argmax(1)
        assert metrics[f"accuracy_{number}"] == pytest.approx((found == test.labels(task)).float().mean().item())
        choice = run.choices[task]
        with torch.no_grad():
            said = torch.stack([s(transfer.normalised(transfer.images.images))[task].argmax(1) for s in choice.sources])
        right = said == transfer.labels(task)
        chosen = right.gather(0, choice.index.unsqueeze(0))[0]
        assert metrics[f"pseudo_{number}"] == pytest.approx(chosen.float().mean().item())
        assert metrics[f"pseudo_best_{number}"] == pytest.approx(right.float().mean(1).max().item())
        assert metrics[f"matched_{number}"] == pytest.approx((choice.index == run.sides).float().mean().item())
    assert len(test) == 60 and [x for x, _ in run.record.curves["accuracy"]] == [8]


def test_the_measures_of_the_sources() -> None:
    run = SMOKE.run("shapes-sources", 0, progress=False, limit=500)
    metrics, x = run.record.metrics, run.test.normalised(run.test.images.images)
    for number, task in enumerate(("shape", "size"), 1):
        labels = run.test.labels(task)
        with torch.no_grad():
            logits = torch.stack([source(x)[task].double() for source in run.choices[task].sources])
        right = logits.argmax(2) == labels
        for letter, share in zip("ab", right.float().mean(1).tolist(), strict=True):
            assert metrics[f"source_{number}{letter}"] == pytest.approx(share)
        assert metrics[f"accuracy_{number}"] == pytest.approx(right.float().mean(1).max().item())
        assert metrics[f"pseudo_{number}"] == metrics[f"pseudo_best_{number}"]
        p = logits.softmax(2)
        entropies = -(p * p.log()).sum(2)
        gap = entropies[~right].mean() - entropies[right].mean()
        assert metrics[f"entropy_gap_{number}"] == pytest.approx(gap.item(), abs=1e-4)


@pytest.mark.parametrize("method", ["select", "target", "multi-task"])
def test_an_interrupted_row_goes_on_and_gives_the_same_record(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**SHORT, "evaluations": 4}
    whole = SMOKE.run(f"shapes-{method}", 0, progress=False, **options).record
    with monkeypatch.context() as interrupted:
        interrupted.setattr(chapter06.Bench, "evaluate", players.rigged(chapter06.Bench.evaluate, at=1))
        with pytest.raises(players.Explosion):
            SMOKE.run(f"shapes-{method}", 0, progress=False, checkpoint=tmp_path / "run.pt", **options)
    resumed = SMOKE.run(f"shapes-{method}", 0, progress=False, checkpoint=tmp_path / "run.pt", **options).record
    assert (resumed.metrics, resumed.curves, resumed.passes) == (whole.metrics, whole.curves, whole.passes)


def test_a_seed_decides_the_result() -> None:
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(results))
        run = SMOKE.run("shapes-target", seed, progress=False, **SHORT)
        results.append((players.state(run.student), run.record.metrics))
    assert not list(players.differences(*map(list, results[:2]))) and results[1][1] != results[2][1]


def test_a_component_learns_from_its_sources_at_the_smoke_scale() -> None:
    plan = replace(PLAN, source_images=400, transfer_images=200, updates=50)
    row = functools.partial(SMOKE.run, progress=False, pool=plan, limit=400, batch=32)
    better = row("shapes-select", 0, updates=50).record.metrics
    assert better["accuracy_2"] > 0.6 and better["accuracy_2"] > row("shapes-untrained", 0).record.metrics["accuracy_2"]


def test_the_parts_of_classes_are_tasks_like_any_other() -> None:
    changes = {
        **SHORT,
        "pool": CLASSES,
        "chosen": ("part 1", "part 2"),
        "component_arguments": {"widths": (4, 6)},
        "target_arguments": {"widths": (5, 7)},
        "widths": (3, 4),
    }
    for method in ("select", "target", "supervised", "multi-task", "one-step", "averaged", "oracle", "sources"):
        run = SMOKE.run(f"shapes-{method}", 0, progress=False, **changes)
        assert run.record.metrics.keys() >= {"accuracy_1", "accuracy_2"}
    asked = bench("select", **changes).asked("part 1")
    lessons = bench("select", **changes).lessons("part 1")
    assert sorted(torch.cat([lesson.index for lesson in lessons]).tolist()) == asked.tolist()


def test_a_notebooks_pool_is_a_menu() -> None:
    run = SMOKE.run("shapes-sources", 0, progress=False, **SHORT)
    small = functools.partial(nets.multi_head_conv, widths=(4, 6, 6))
    made = customise(
        run.pool,
        ["filling", "shape"],
        run.transfer.images,
        component=small,
        target=small,
        widths=(3, 3, 3),
        updates=(2, 2),
        progress=False,
    )
    assert made.student.tasks == {"filling": 2, "shape": 4} and made.choices["filling"].names == ["s1", "s3"]


# ---- the paper's scale


@pytest.fixture
def no_fetching(monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision = pytest.importorskip("torchvision")
    with engine.seeded(0):
        state = torchvision.models.resnet18().state_dict()
    for module in (pools, chapter06):
        monkeypatch.setattr(module, "imagenet_weights", lambda: state)


ONE_STEP: dict[str, Any] = {"updates": 1, "target_updates": 1, "batch": 2, "target_batch": 2, "evaluations": 1}


def test_one_step_of_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_fetching: None) -> None:
    monkeypatch.setattr(pools.home, "root", lambda: tmp_path / "data")
    monkeypatch.setattr(archives, "CELEBA_ATTRIBUTES", tuple(CELEBA))
    archives.publish("celeba_attributes", monkeypatch, tmp_path, train=4, test=2)
    data.multi_label.celeba_attributes("train", 32, download=True)
    chapter = chapters.chapter(NAME, "paper")
    plan = replace(chapter.config("face-target").pool, updates=1, batch=2, kept=False)
    run = chapter.run("face-target", 0, progress=False, pool=plan, **ONE_STEP)
    assert run.student.tasks == {"Oval_Face": 2, "Young": 2, "Heavy_Makeup": 2} and run.transfer.shape == (3, 224, 224)
    assert len(run.pool) == 6 and 0 <= run.record.metrics["accuracy_3"] <= 1
    assert nets.parameter_count(run.student) / 1e6 == pytest.approx(22.1, abs=0.01)


def test_one_step_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_fetching: None) -> None:
    monkeypatch.setattr(pools.home, "root", lambda: tmp_path / "data")
    for name in ("fgvc_aircraft", "stanford_cars"):
        monkeypatch.setitem(archives.FINE_GRAINED, name, tuple("abcd"))
        archives.publish(name, monkeypatch, tmp_path, train=8, test=4)
        data.load(name, download=True)
    chapter = chapters.chapter(NAME, "paper")
    plan = replace(chapter.config("aircraft-target").pool, updates=1, batch=2, kept=False)
    run = chapter.run("aircraft-target", 0, progress=False, pool=plan, **ONE_STEP)
    assert run.student.tasks == {"part 1": 2, "part 2": 2} and len(run.pool) == 4
    assert 0 <= run.record.metrics["component_2"] <= 1


def test_the_cost_of_the_papers_scale_is_predicted() -> None:
    paper = chapters.chapter(NAME, "paper")
    hair, face = (prediction.predict_adaptive(paper.config(f"{task}-target")) for task in ("hair", "face"))
    assert list(hair) == ["sources", "components", "target"]
    assert hair["sources"].operations == pytest.approx(1.5 * face["sources"].operations)
    assert hair["components"].operations == pytest.approx(4 / 3 * face["components"].operations)
    # ResNet-18 takes 1.8e9 multiply-adds for a picture, three times as many with the way back.
    assert hair["sources"].operations == pytest.approx(9 * 101_750 * 64 * 6 * 1.8e9, rel=0.1)
    assert all(1e9 < each.memory < 16e9 and 0.5 < each.hours("T4, fp16") < 48 for each in hair.values())


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = pytest.importorskip("torchvision").models.ResNet18_Weights

    def fail(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(weights, "get_state_dict", fail)
    with pytest.raises(ReuseError, match="could not be fetched .no network.*Connect to the network once"):
        pools.imagenet_weights()
