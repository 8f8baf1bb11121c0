"""Chapter 04: its presets, its rows at the smoke scale, and one step of each task at the larger scales."""

from __future__ import annotations

import dataclasses
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
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from reuselib import chapters, data, home, netgraft, nets, prediction, report
from reuselib import run as engine
from reuselib.data import photographs
from reuselib.errors import ReuseError
from reuselib.netgraft import study
from reuselib.netgraft.study import ABLATIONS, BOUNDS, GRAFTING, METHODS, PRUNED, PRUNED_BOUND, Bench, Config
from reuselib.nets import zoo

NAME = "netgraft"
SMOKE = chapters.chapter(NAME, "smoke")
SHOTS = {"smoke": (1, 5), "laptop": (1, 2, 5, 10, 20, 50), "colab": (1, 5, 10), "paper": (*range(1, 11), 20, 50)}
TASKS = {
    "smoke": ["symbols"],
    "laptop": ["fashion", "fashion-prefix", "symbols", "symbols-prefix"],
    "colab": ["cifar10", "cifar10-prefix"],
    "paper": ["cifar10-prefix", "cifar10", "cifar100-prefix"],
}
RATES = {"block_lr": (), "adapter_lr": 0.0, "network_lr": 0.0, "lr": 0.0}
ALWAYS = {"accuracy", "agreement", "parameters"}
EARLY = {"early_accuracy", "early_gap"}
FOLDED = {"unfolded_accuracy", "fold_error", "fold_digits"}
COSTS = {"minutes", "cpu_minutes"}


def measured(config: Config) -> set[str]:
    """The metrics that a row records."""
    found = set(ALWAYS)
    if config.method in GRAFTING:
        found |= FOLDED
        if config.method != "stage2":
            found |= EARLY
        if config.method not in ("stage2", "whole"):
            blocks = range(config.shared + 1, config.shared + len(config.block_steps) + 1)
            found |= {f"{name}_{block}" for name in ("graft", "saved") for block in blocks}
    return found | (EARLY if config.method == "kd" else set())


def base(config: Config) -> str:
    """The task without K."""
    return config.task.split(".")[0]


def rows_of(scale: str) -> dict[str, Config]:
    return dict(chapters.chapter(NAME, scale).configs)


def configs() -> Iterator[tuple[str, str]]:
    for scale in report.SCALES:
        for row in rows_of(scale):
            yield scale, row


@pytest.fixture(scope="module", autouse=True)
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep records out of the clone; one room for all tests, so that images are drawn once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REUSELIB_DATA", str(tmp_path_factory.mktemp("room")))
        yield


def on_meta(config: Config) -> tuple[nn.Module, nn.Module, engine.Method | None]:
    """Teacher, student and method of a row, where nothing is computed."""
    teacher, student, images = prediction._grafting_players(config)
    return teacher, student, study.build_method(config, teacher, student, images, 0)


# --- presets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", report.SCALES)
def test_every_task_has_every_method_at_every_k_and_floors_and_ceilings(scale: str) -> None:
    rows = rows_of(scale)
    for task in TASKS[scale]:
        for shots in SHOTS[scale]:
            assert {f"{task}.{shots}-{method}" for method in METHODS} <= rows.keys()
        assert {f"{task}-{method}" for method in BOUNDS} <= rows.keys()
    small = [f"{task}.{shots}" for task in TASKS[scale] for shots in SHOTS[scale] if shots in (1, 5, 10)]
    pruned = {task for task in TASKS[scale] if f"{task}-{PRUNED_BOUND}" in rows}
    assert pruned == (set(TASKS[scale]) if scale in ("smoke", "laptop") else set())
    for task in small if scale in ("smoke", "laptop") else []:
        assert {f"{task}-{method}" for method in PRUNED} <= rows.keys()
        ablated = {f"{task}-{method}" for method in ABLATIONS} <= rows.keys()
        assert ablated == ("prefix" not in task)
    others = {"laptop": {"residual"}, "paper": {"imagenet"}}.get(scale, set())
    assert {base(config) for config in rows.values()} == {*TASKS[scale], *others}
    for task in others:
        for shots in (1, 5, 10):
            assert {f"{task}.{shots}-{method}" for method in ("netgraft", "kd", "fitnet")} <= rows.keys()
        assert f"{task}-teacher" in rows


@pytest.mark.parametrize("scale", report.SCALES)
def test_presets_are_whole_frozen_and_different(scale: str) -> None:
    rows, hashes = rows_of(scale), set()
    for row, config in rows.items():
        assert f"{config.task}-{config.method}" == row
        assert json.loads(json.dumps(asdict(config), allow_nan=False))
        hashes.add(report.config_hash(config))
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.batch = 1
        assert config.method in (*METHODS, *PRUNED, *ABLATIONS, *BOUNDS, PRUNED_BOUND)
        assert (config.method in (*BOUNDS, PRUNED_BOUND)) == (not config.shots)
        assert f".{config.shots}" == config.task.removeprefix(base(config)) or not config.shots
        assert config.teacher in zoo.names() and config.student in nets.MODELS
        assert config.draw in netgraft.few_shot.DRAWS and min(config.block_steps + config.network_steps) >= 1
        assert len(config.network_steps) == len(config.block_steps) - 1
        assert len(config.block_lr) in (1, len(config.block_steps))
        assert config.shared <= config.hint < config.shared + len(config.block_steps) - 1
    assert len(hashes) == len(rows)


@pytest.mark.parametrize("scale", report.SCALES)
def test_the_rows_of_a_task_differ_in_method_k_and_learning_rates_alone(scale: str) -> None:
    """One teacher, one student, one protocol; at the published scales the batch and the updates go with K."""
    rows, tasks = rows_of(scale), {}
    for config in rows.values():
        plain = replace(config, task=base(config), method="", shots=0, **RATES)
        if scale in ("colab", "paper"):
            plain = replace(plain, batch=0, block_steps=(), network_steps=())
        tasks.setdefault(plain.task, set()).add(report.config_hash(plain))
    assert all(len(hashes) == 1 for hashes in tasks.values()), tasks


@pytest.mark.parametrize("scale", report.SCALES)
def test_at_one_k_all_methods_see_the_same_batches_for_as_many_updates(scale: str) -> None:
    at_one: dict[str, set[str]] = {}
    for config in rows_of(scale).values():
        if config.shots:
            at_one.setdefault(config.task, set()).add(report.config_hash(replace(config, method="", **RATES)))
    assert all(len(hashes) == 1 for hashes in at_one.values())


def test_a_method_has_one_learning_rate_at_every_k_and_on_every_image_set() -> None:
    for scale in ("smoke", "laptop"):
        for config in rows_of(scale).values():
            if (rate := study.TUNED.get(config.method)) is not None:
                assert (config.block_lr, config.adapter_lr, config.network_lr, config.lr) == ((rate,), rate, rate, rate)
    assert study.TUNED.keys() == {*METHODS, *PRUNED, *ABLATIONS, PRUNED_BOUND} - {"fskd"}


SAMPLE = [
    (scale, f"{task}.{SHOTS[scale][0]}-{method}")
    for scale in report.SCALES
    for task in TASKS[scale]
    for method in (METHODS + PRUNED + ABLATIONS)
] + [("laptop", f"residual.5-{method}") for method in ("netgraft", "kd", "fitnet")]
SAMPLE += [("paper", f"imagenet.10-{method}") for method in ("netgraft", "fitnet")]
SAMPLE = [(scale, row) for scale, row in SAMPLE if row in rows_of(scale)]


@pytest.mark.parametrize(("scale", "row"), SAMPLE)
def test_a_method_fits_its_networks_and_takes_the_updates_of_the_task(scale: str, row: str) -> None:
    config = rows_of(scale)[row]
    teacher, student, method = on_meta(config)
    assert nets.parameter_count(student) < nets.parameter_count(teacher)
    assert len(netgraft.blocks_of(student)) == config.shared + len(config.block_steps)
    layers = sum(map(netgraft.layer_count, netgraft.blocks_of(student)[config.shared :]))
    assert method.total == (layers if config.method == "fskd" else config.total)
    borders = study.borders_of(config, method)
    assert borders == sorted(borders) and borders[-1] == method.total
    size = study._round(borders)
    assert all(border % size == 0 for border in borders) and 1 <= size <= 50
    assert size > 1 or scale == "smoke", "every update would be reported"
    if isinstance(method, netgraft.NetGraft):
        folded = method.folded()
        assert nets.parameter_count(folded) == nets.parameter_count(student)
        assert method.local == (config.method == "features") and method.count == config.shared + len(config.block_steps)
        assert (method.loss is netgraft.logits_distance) == (config.method == "unnormalised")
    if isinstance(method, netgraft.FitNet):
        assert method.hint_steps == round(0.3 * config.total) and method.hint == config.hint
    if config.shared:
        own, model = (netgraft.blocks_of(network)[0].state_dict() for network in (student, teacher))
        assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in model.items()}


def plan_of(method: str) -> list[tuple[tuple[int, ...], int]]:
    config = SMOKE.config(f"symbols.1-{method}", block_steps=(10,) * 5, network_steps=(11, 12, 13, 14))
    return [(graft.blocks, graft.steps) for graft in study.build_plan(config)]


def test_the_ablations_spread_the_same_updates_over_their_grafts() -> None:
    single, growing = [(block,) for block in range(5)], [tuple(range(end)) for end in range(2, 6)]
    whole = [*zip(single, [10] * 5, strict=True), *zip(growing, (11, 12, 13, 14), strict=True)]
    for method in ("netgraft", "netgraft-pruned", "features", "unnormalised"):
        assert plan_of(method) == whole
    assert plan_of("stage1") == list(zip(single, [20] * 5, strict=True))
    assert plan_of("stage2") == list(zip([(0,), *growing], [20] * 5, strict=True))
    assert plan_of("whole") == [((0, 1, 2, 3, 4), 100)]
    for method in GRAFTING:
        assert sum(steps for _, steps in plan_of(method)) == 100


@pytest.mark.parametrize(("total", "parts"), [(27, 5), (7, 7), (1250, 3), (3, 5)])
def test_updates_are_spread_as_evenly_as_can_be(total: int, parts: int) -> None:
    spread = study._spread(total, parts)
    assert (len(spread), sum(spread)) == (parts, total) and max(spread) - min(spread) <= 1


# --- the official settings -------------------------------------------------------------------------------------------

BATCHES = {1: 6, 2: 12, 3: 19, 4: 25, 5: 32, 6: 38, 7: 44, 8: 51, 9: 57, 10: 64, 20: 128, 50: 320}


@pytest.mark.parametrize("shots", BATCHES)
def test_cifar10_has_the_official_schedule(shots: int) -> None:
    config, factor = rows_of("paper")[f"cifar10-prefix.{shots}-netgraft"], shots / 10
    assert (config.batch, config.shared, config.draw) == (BATCHES[shots], 3, "epochs")
    assert (config.shift, config.flip) == (4, True)
    assert math.ceil(10 * shots / config.batch) == 2  # updates in an epoch
    assert (config.block_steps, config.network_steps) == ((2 * 100, 2 * 60, 2 * 60), (2 * 100, 2 * 100))
    assert config.total == 840
    plan = study.build_plan(config)
    assert [graft.blocks for graft in plan] == [(3,), (4,), (5,), (3, 4), (3, 4, 5)]
    for graft in plan[:3]:
        assert (graft.lr, graft.adapter_lr) == (pytest.approx(2.5e-4 * factor), pytest.approx(2.5e-3 * factor))
    assert [(graft.lr, graft.adapter_lr) for graft in plan[3:]] == [(1e-4, None)] * 2


@pytest.mark.parametrize("shots", BATCHES)
def test_cifar100_has_the_official_schedule(shots: int) -> None:
    config, factor = rows_of("paper")[f"cifar100-prefix.{shots}-netgraft"], shots / 10
    updates = math.ceil(100 * shots / BATCHES[shots])
    assert config.batch == BATCHES[shots] and updates in (16, 17)
    assert config.block_steps == (1000 * updates, 200 * updates, 200 * updates)
    assert config.network_steps == (150 * updates, 150 * updates)
    assert config.total == 1700 * updates and (shots != 10 or config.total == 27_200)
    plan = study.build_plan(config)
    assert [graft.lr for graft in plan[:3]] == pytest.approx([2.5e-4 * factor, 1e-3 * factor, 1e-3 * factor])
    assert [graft.adapter_lr for graft in plan[:3]] == pytest.approx([1e-3 * factor] * 3)
    assert [(graft.lr, graft.adapter_lr) for graft in plan[3:]] == [(1e-4, None)] * 2


def test_the_papers_networks_are_the_published_ones() -> None:
    for row, counts in {
        "cifar10-prefix.1-netgraft": (14_983_498, 5_412_682),
        "cifar100-prefix.1-netgraft": (15_029_668, 5_458_852),
        "imagenet.1-netgraft": (21_797_672, 11_689_512),
    }.items():
        teacher, student, method = on_meta(rows_of("paper")[row])
        assert (nets.parameter_count(teacher), nets.parameter_count(student)) == counts
        assert isinstance(method, netgraft.NetGraft)
    adapters = sum(
        p.numel()
        for scion in on_meta(rows_of("paper")["cifar10-prefix.1-netgraft"])[2].scions
        for layer in (scion.into, scion.out_of)
        for p in layer.parameters()
    )
    assert adapters == 525_824 - 2 * (512 + 256)  # the official ones have biases


def test_the_stages_of_imagenet_save_what_is_published() -> None:
    teacher, student, _ = on_meta(rows_of("paper")["imagenet.10-netgraft"])
    counts = [[nets.parameter_count(block) for block in network.blocks] for network in (teacher, student)]
    assert (counts[0][2], counts[1][2]) == (6_822_400, 2_099_712)
    stem = sum(map(nets.parameter_count, student.blocks[0][:2]))
    counts = [[own[0] - stem, *own[1:]] for own in counts]  # the paper's first stage is without it
    saved = [100 * (1 - small / large) for large, small in zip(*counts, strict=True)]
    assert saved == pytest.approx([33.3, 52.9, 69.2, 36.0], abs=0.05)
    published = {row.id: row.published["saved"] for row in report.published(NAME).table("stages").rows}
    numbers = {float(cited.value) for cells in published.values() for cited in cells if cited.value}
    assert numbers == {33.3, 52.9, 69.2, 36.0}


# --- tables and claims -----------------------------------------------------------------------------------------------


def explained(row: report.papers.Row, scale: str, name: str, metric: str) -> bool:
    """Whether a cell of ours may be empty."""
    if name not in rows_of(scale):
        # The paper ran it; the smoke scale has a part of all; residual networks cannot be pruned, others were not.
        pruned = row.id.endswith("pruned") and (scale in ("colab", "paper") or name.startswith("residual"))
        return bool(row.published) or scale == "smoke" or pruned
    return metric.startswith(("graft", "saved", "early"))  # fewer blocks, or no single blocks


def test_tables_speak_of_rows_and_metrics_that_exist() -> None:
    for table in report.published(NAME).tables:
        for column in table.columns:
            assert bool(column.record) != bool(column.id) and set(column.scales) <= set(report.SCALES)
            for scale in column.scales:
                configs, shown = rows_of(scale), 0
                for row in table.rows:
                    name, metric = (text.replace("{row}", row.id) for text in (column.record, column.metric))
                    there = name in configs and metric in measured(configs[name]) | COSTS
                    assert there or explained(row, scale, name, metric), (table.id, scale, name, metric)
                    shown += there
                assert shown, f"an empty column: {table.id}, {column.label}, {scale}"


def test_every_row_of_the_laptop_scale_stands_in_a_table() -> None:
    shown = {
        column.record.replace("{row}", row.id)
        for table in report.published(NAME).tables
        for row in table.rows
        for column in table.columns
        if "laptop" in column.scales
    }
    assert not sorted(rows_of("laptop").keys() - shown)


def test_claims_speak_of_rows_and_metrics_that_exist() -> None:
    paper = report.published(NAME)
    assert len(paper.claims) >= 8 and all(claim.seeds >= 3 and claim.conditions for claim in paper.claims)
    for claim in paper.claims:
        for condition in claim.conditions:
            rows = rows_of(condition.scale)
            for row in (condition.left, condition.right):
                if isinstance(row, str):
                    assert row in rows and condition.metric in measured(rows[row]), (claim.id, row, condition.metric)


# --- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", SMOKE.rows)
def test_a_row_runs_and_gives_a_valid_record(row: str) -> None:
    config = SMOKE.config(row)
    run = SMOKE.run(row, 3, progress=False)
    record = run.record
    assert (record.paper, record.scale, record.row, record.seed) == (NAME, "smoke", row, 3) and not record.stale
    assert all(math.isfinite(value) for value in record.metrics.values())
    assert record.metrics.keys() == measured(config)
    shares = [value for name, value in record.metrics.items() if name.endswith("accuracy") or name.startswith("graft")]
    assert all(0 <= value <= 1 for value in [*shares, record.metrics["agreement"]])
    record.save()
    assert report.find(NAME, "smoke", row, 3, record.settings) == record
    trained = config.method not in ("teacher", "untrained")
    assert (run.method is not None) == bool(record.curves["loss"]) == trained
    plain = study.build_student(config, zoo.card(config.teacher), 3, torch.device("cpu"))
    assert run.student.state_dict().keys() == plain.state_dict().keys()
    assert record.metrics["parameters"] == nets.parameter_count(run.teacher if config.method == "teacher" else plain)
    assert len(run.test) == 200 and (not trained or len(run.images) == (10 * config.shots or 6000))
    assert players.hooks(run.teacher) == 0 and not any(module.training for module in run.teacher.modules())
    assert not list(players.differences(players.state(run.teacher), players.state(zoo.load(config.teacher, "cpu"))))
    if config.shots and config.method != "fskd":
        assert record.curves["loss"][-1][0] == config.total == run.method.iteration
    if config.method in GRAFTING:
        assert record.metrics["fold_digits"] > 4 and len(record.curves["accuracy"]) == len(record.curves["gap"])


def slow_gap(bench: Bench, network: nn.Module) -> float:
    """NetGraft's loss per image on the watched test images, less that on the few, image by image."""
    result = []
    for images in (bench.watched, bench.images):
        x = images.normalised(images.images)
        with torch.no_grad():
            cosines = [torch.cosine_similarity(bench.teacher(one[None]), network(one[None])).item() for one in x]
        result.append(sum(2 * (1 - cosine) for cosine in cosines) / len(x))
    return result[0] - result[1]


@pytest.mark.parametrize("method", ["netgraft", "stage1", "features"])
def test_what_the_single_blocks_show_is_what_it_is_called(method: str) -> None:
    row, changes = f"symbols.1-{method}", {"watched": 40, "limit": 60}
    run = SMOKE.run(row, 2, progress=False, **changes)
    found = run.record.metrics
    bench = Bench(SMOKE.config(row, **changes), 2)
    again, accuracies, gaps = bench.method(), [], []
    for graft in [graft for graft in again.plan if len(graft.blocks) == 1]:
        for _ in range(graft.steps):
            again.step()
            again.iteration += 1
        (block,) = graft.blocks
        hybrid = netgraft.Hybrid(bench.teacher, {block: again.scions[block]}).eval()
        accuracies.append(engine.accuracy(hybrid, bench.watched))
        gaps.append(slow_gap(bench, hybrid))
        old, new = (nets.parameter_count(netgraft.blocks_of(n)[block]) for n in (bench.teacher, bench.student))
        assert found[f"saved_{block + 1}"] == pytest.approx(1 - new / old)
        again.scions[block].train()
    assert [found[f"graft_{block}"] for block in range(1, 6)] == pytest.approx(accuracies)
    assert found["early_accuracy"] == pytest.approx(sum(accuracies) / 5)
    assert found["early_gap"] == pytest.approx(sum(gaps) / 5, abs=1e-4)
    assert len(run.record.curves["gap"]) == len(again.plan)


@pytest.mark.parametrize("method", ["kd", "whole"])
def test_early_is_after_as_many_updates_as_one_block_gets(method: str) -> None:
    row, changes = f"symbols.5-{method}", {"watched": 40, "limit": 60}
    run = SMOKE.run(row, 2, progress=False, **changes)
    bench = Bench(SMOKE.config(row, **changes), 2)
    again = bench.method()
    for _ in range(3):
        again.step()
        again.iteration += 1
    network = again.hybrid(range(5)) if method == "whole" else again.student
    network.eval()
    assert run.record.metrics["early_accuracy"] == pytest.approx(engine.accuracy(network, bench.watched))
    assert run.record.metrics["early_gap"] == pytest.approx(slow_gap(bench, network), abs=1e-4)
    assert [x for x, _ in run.record.curves["accuracy"]] == list(range(3, 28, 3))


def test_what_the_folded_student_shows_is_what_it_is_called() -> None:
    run = SMOKE.run("symbols.5-netgraft", 1, progress=False)
    found, scions = run.record.metrics, [scion.eval() for scion in run.method.scions]
    x = run.bench.watched.normalised(run.bench.watched.images)
    assert len(x) == 100

    def chain(maps: Tensor) -> Tensor:
        for scion in scions:
            maps = scion(maps)
        return maps

    student = run.student.eval()
    with torch.no_grad():
        before, after = chain(x), student(x)
        everything = run.test.normalised(run.test.images)
        chosen, teachers = student(everything).argmax(1), run.teacher(everything).argmax(1)
        unfolded = chain(everything).argmax(1)
    error = ((before - after).abs().max() / before.abs().max()).item()
    assert found["fold_error"] == pytest.approx(error, rel=1e-3, abs=1e-9) and 0 < error < 1e-4
    assert found["fold_digits"] == pytest.approx(-math.log10(found["fold_error"]))
    assert found["accuracy"] == pytest.approx((chosen == run.test.labels).float().mean().item())
    assert found["unfolded_accuracy"] == pytest.approx((unfolded == run.test.labels).float().mean().item())
    assert found["agreement"] == pytest.approx((chosen == teachers).float().mean().item())
    assert run.student is not run.method.student and run.bench.student is run.student


def test_the_teacher_and_the_untrained_row_are_the_ceiling_and_the_floor() -> None:
    teacher, untrained = (SMOKE.run(f"symbols-{method}", progress=False) for method in ("teacher", "untrained"))
    assert teacher.record.metrics["agreement"] == 1 and teacher.record.metrics["accuracy"] > 0.93
    assert untrained.record.metrics["accuracy"] < 0.3 and untrained.record.passes == {}
    start = Bench(SMOKE.config("symbols-untrained"), 0).student
    assert not list(players.differences(players.state(start), players.state(untrained.student)))


def test_all_methods_of_a_seed_start_from_one_student() -> None:
    def start(row: str, seed: int) -> Any:
        return players.state(Bench(SMOKE.config(row), seed).student)

    first = start(SMOKE.rows[0], 0)
    for row in SMOKE.rows[1:]:
        assert not list(players.differences(first, start(row, 0))), row
    assert list(players.differences(first, start(SMOKE.rows[0], 1)))


def test_with_a_prefix_every_method_starts_with_the_teachers_blocks() -> None:
    laptop = chapters.chapter(NAME, "laptop")
    for method in (*METHODS, *PRUNED, "untrained", "supervised", "kd-full", PRUNED_BOUND):
        task = "symbols-prefix.1" if method in METHODS + PRUNED else "symbols-prefix"
        bench = Bench(laptop.config(f"{task}-{method}"), 0)
        bench.__dict__["images"] = Bench(laptop.config("symbols-prefix.1-kd"), 0).images
        trained = bench.method()
        for _ in range(2 if trained else 0):
            trained.step()
            trained.iteration += 1
        for own, model in zip(bench.student.blocks[:2], bench.teacher.blocks[:2], strict=True):
            assert not list(players.differences(players.state(own), players.state(model))), method


def test_the_few_images_are_nested_in_k_new_for_each_seed_and_the_same_for_all_methods() -> None:
    laptop = chapters.chapter(NAME, "laptop")

    def few(row: str, seed: int = 0) -> data.ImageSet:
        return Bench(laptop.config(row), seed).images

    draws = [few(f"symbols.{shots}-netgraft") for shots in (1, 5, 10)]
    for smaller, larger in zip(draws, draws[1:], strict=False):
        assert torch.equal(larger.images[: len(smaller)], smaller.images)
    assert draws[1].labels.bincount().tolist() == [5] * 10
    whole = {image.numpy().tobytes() for image in zoo.images("symbols16-vgg", "train", "cpu").images}
    assert all(image.numpy().tobytes() in whole for image in draws[2].images)
    for method in (*METHODS, *PRUNED, *ABLATIONS):
        assert torch.equal(few(f"symbols.5-{method}").images, draws[1].images)
    assert torch.equal(few("symbols-prefix.5-kd").images, draws[1].images)
    assert not torch.equal(few("symbols.5-netgraft", 1).images, draws[1].images)
    assert len(Bench(laptop.config("symbols-kd-full"), 0).images) == 6000


@pytest.mark.parametrize("row", ["symbols.1-netgraft", "symbols.1-cd", "symbols.5-fitnet", "symbols-supervised"])
def test_a_seed_decides_the_result(row: str) -> None:
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(results))  # the global state must not matter
        run = SMOKE.run(row, seed, progress=False, limit=50, watched=20)
        results.append([players.state(run.student), run.record.metrics, run.record.curves])
    assert not list(players.differences(results[0], results[1]))
    assert list(players.differences(results[0][0], results[2][0]))


@pytest.mark.parametrize(
    ("row", "at"),
    [
        ("symbols.1-netgraft", 2),
        ("symbols.1-netgraft", 6),
        ("symbols.1-stage2", 9),
        ("symbols.1-netgraft-pruned", 7),
        ("symbols.5-kd", 1),
    ],
)
def test_an_interrupted_row_goes_on_and_gives_the_same_record(
    row: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"progress": False, "limit": 50, "watched": 20}
    whole = SMOKE.run(row, 0, **options).record
    with monkeypatch.context() as interrupted:
        interrupted.setattr(Bench, "watch", players.rigged(Bench.watch, at=at))
        with pytest.raises(players.Explosion):
            SMOKE.run(row, 0, checkpoint=tmp_path / "run.pt", **options)
    assert (tmp_path / "run.pt").is_file()
    resumed = SMOKE.run(row, 0, checkpoint=tmp_path / "run.pt", **options).record
    assert (resumed.metrics, resumed.curves, resumed.passes) == (whole.metrics, whole.curves, whole.passes)
    with pytest.raises(ReuseError, match="other settings"):
        SMOKE.run(row, 1, checkpoint=tmp_path / "run.pt", **options)


def test_a_pruned_start_is_that_of_cross_distillation() -> None:
    starts = {}
    for method in ("netgraft-pruned", "kd-pruned", "cd", "fskd", PRUNED_BOUND):
        bench = Bench(SMOKE.config(f"symbols-{method}" if method == PRUNED_BOUND else f"symbols.1-{method}"), 0)
        trained = bench.method()
        starts[method] = players.state(bench.student)
        if method == "netgraft-pruned":
            x = bench.watched.normalised(bench.watched.images)
            chain = trained.hybrid(range(5)).eval()
            torch.testing.assert_close(chain(x), bench.student.eval()(x), rtol=1e-3, atol=1e-4)
    assert all(not list(players.differences(starts["cd"], start)) for start in starts.values())


# --- what a run costs ------------------------------------------------------------------------------------------------


def counted(method: engine.Method, updates: int) -> float:
    """Operations of the first updates, counted while they are done."""
    with FlopCounterMode(display=False) as counter:
        for _ in range(updates):
            method.step()
            method.iteration += 1
    return counter.get_total_flops()


@pytest.mark.parametrize("method", ["netgraft", "kd", "fitnet", "cd"])
def test_predicted_operations_are_those_of_a_run(method: str) -> None:
    config = SMOKE.config(f"symbols.1-{method}", batch=4, block_steps=(3,) * 5, network_steps=(3,) * 4, draw="epochs")
    predicted = prediction.predict_grafting(config)
    expected = counted(Bench(config, 0).method(), config.total)
    # 27 updates are nine epochs of batches of 4, 4 and 2; the parts of FitNet and CD do not end with one
    assert predicted.operations == pytest.approx(expected, rel=0.15 if method in ("cd", "fitnet") else 1e-6)


@pytest.mark.parametrize("method", ["supervised", "kd-full", PRUNED_BOUND])
def test_the_cost_of_the_ceilings_is_predicted(method: str) -> None:
    config = SMOKE.config(f"symbols-{method}")
    expected = counted(Bench(config, 0).method(), config.full_steps)
    assert prediction.predict_grafting(config).operations == pytest.approx(expected)


def test_a_row_that_trains_nothing_costs_its_weights() -> None:
    predicted = prediction.predict_grafting(SMOKE.config("symbols-teacher"))
    assert predicted.operations == 0 and predicted.hours("T4, fp16") == 0
    teacher, student, _ = on_meta(SMOKE.config("symbols-teacher"))
    assert predicted.memory == 4 * (nets.parameter_count(teacher) + nets.parameter_count(student))


def test_a_row_of_least_squares_is_not_predicted() -> None:
    with pytest.raises(ReuseError, match="cost of FSKD is not predicted.*Measure it"):
        prediction.predict_grafting(SMOKE.config("symbols.1-fskd"))


def test_predicted_memory_grows_with_the_batch_and_the_random_state_stays() -> None:
    before = torch.get_rng_state()
    small, large = (prediction.predict_grafting(SMOKE.config("symbols.1-kd", batch=batch)) for batch in (8, 80))
    assert torch.equal(torch.get_rng_state(), before)
    assert small.memory < large.memory and large.operations == pytest.approx(10 * small.operations)
    grafted = prediction.predict_grafting(SMOKE.config("symbols.1-netgraft"))
    assert grafted.memory > small.memory  # each graft keeps an Adam


def test_the_papers_cost_is_predicted_to_a_factor_of_two() -> None:
    paper = chapters.chapter(NAME, "paper")
    kd = prediction.predict_grafting(paper.config("cifar10-prefix.10-kd"))
    # 840 updates on 50 images: VGG16's 0.63 GFLOP, and three times the 0.07 of the student's last blocks
    assert kd.operations == pytest.approx(840 * 50 * (0.63e9 + 3 * 0.07e9), rel=0.1)
    grafting = prediction.predict_grafting(paper.config("cifar10-prefix.10-netgraft"))
    assert 0.5 < grafting.operations / kd.operations < 2 and 0.1e9 < grafting.memory < 1e9


# --- the larger scales -----------------------------------------------------------------------------------------------

ONE_UPDATE = {"full_steps": 1, "full_batch": 4, "watched": 4, "limit": 4}


def trained_for_one_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a network of the zoo by its own recipe: trained for one step, or random weights in place of fetched ones."""
    monkeypatch.setattr(home, "write_registry", lambda: pytest.fail("the clone's registry was written"))
    recipe = zoo.RECIPES[name]
    if isinstance(recipe, zoo.Published):
        monkeypatch.setattr(zoo, "_fetch", lambda name, published, progress: random_weights(recipe.source))
    else:
        short = replace(recipe, iterations=1, warmup=0, options=recipe.options | {"batch": 4})
        monkeypatch.setitem(zoo.RECIPES, name, short)
    zoo.train(name, progress=False)


def random_weights(source: str) -> dict[str, Tensor]:
    from torchvision import models as torchvision

    return torchvision.get_model(source, weights=None).state_dict()


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Publish a tiny archive in its true format, make the teacher of a row, and run the row for one update a graft."""

    def publish(scale: str, row: str) -> chapters.Run:
        chapter = chapters.chapter(NAME, scale)
        config = chapter.config(row)
        dataset = zoo.RECIPES[config.teacher].dataset
        count = len(archives.IMAGENET_CLASSES) if dataset == "imagenet" else int(dataset.removeprefix("cifar"))
        archives.publish(dataset, monkeypatch, tmp_path, train=count * max(config.shots, 1), test=10)
        if dataset == "imagenet":
            monkeypatch.setattr(photographs, "SHORTER", 40)  # the networks are slow at 224 pixels
            monkeypatch.setattr(photographs, "SQUARE", 32)
        else:
            data.load(dataset, download=True)
        trained_for_one_step(config.teacher, monkeypatch)
        counts = {"block_steps": (1,) * len(config.block_steps), "network_steps": (1,) * len(config.network_steps)}
        run = chapter.run(row, progress=False, **ONE_UPDATE, **counts)
        record = run.record
        assert record.metrics.keys() == measured(run.bench.config) and 0 <= record.metrics["accuracy"] <= 1
        assert ("images" in run.kept) == (run.method is not None)
        assert not config.shots or len(run.images) == count * config.shots
        assert not config.shots or config.method == "fskd" or run.method.iteration == run.bench.config.total
        record.save()
        assert len(report.records(NAME, scale)) == 1
        return run

    return publish


@pytest.mark.parametrize("method", ["netgraft", "kd", "fitnet", "fskd", "cd"])
def test_one_update_of_every_method_on_cifar10(method: str, published: Any) -> None:
    run = published("paper", f"cifar10-prefix.1-{method}")
    assert run.record.metrics["parameters"] == 5_412_682 and run.record.settings["batch"] == 6
    for own, model in zip(run.student.blocks[:3], run.teacher.blocks[:3], strict=True):
        assert not list(players.differences(players.state(own), players.state(model)))
    if method == "netgraft":
        assert run.record.metrics["fold_digits"] > 4
        assert {f"graft_{block}" for block in (4, 5, 6)} <= run.record.metrics.keys()


@pytest.mark.parametrize(
    ("scale", "row"),
    [
        ("paper", "cifar10.1-fitnet"),
        ("paper", "cifar100-prefix.1-netgraft"),
        ("paper", "cifar10-prefix-kd-full"),
        ("colab", "cifar10-supervised"),
    ],
)
def test_one_update_of_the_other_tasks(scale: str, row: str, published: Any) -> None:
    run = published(scale, row)
    assert run.record.settings["teacher"] == run.teacher.card["name"]
    assert run.teacher.card["name"].endswith("short") == (scale == "colab")


def test_one_update_on_imagenet(published: Any) -> None:
    run = published("paper", "imagenet.1-netgraft")
    assert run.record.metrics["parameters"] == 11_689_512 and run.images.shape == (3, 32, 32)
    assert run.teacher.card["architecture"] == "resnet34_imagenet"
    assert run.record.metrics["saved_3"] == pytest.approx(0.692, abs=1e-3) and run.record.metrics["fold_digits"] > 3


def test_the_teacher_of_imagenet_is_measured_without_its_training_images(published: Any) -> None:
    run = published("paper", "imagenet-teacher")
    assert run.record.metrics["agreement"] == 1 and run.record.metrics["parameters"] == 21_797_672
