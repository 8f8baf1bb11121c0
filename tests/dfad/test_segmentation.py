"""The segmentation half of chapter 01: its presets, its rows at a tiny scale, one step of the paper's own."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import masks as tiny
import players
import pytest
import torch

from reuselib import chapters, data, home, nets, prediction, report
from reuselib import run as engine
from reuselib.data import SegmentationSet, segmentation
from reuselib.dfad import segmentation as dfad_segmentation
from reuselib.dfad import study
from reuselib.dfad.segmentation import METHODS, SegmentationConfig
from reuselib.errors import MissingFile, ReuseError
from reuselib.nets import zoo
from reuselib.nets.supervised import segmentation_scores
from reuselib.report import metrics

TASKS = {"smoke": ["rooms"], "laptop": ["rooms"], "colab": ["camvid"], "paper": ["camvid", "nyuv2"]}
ADVERSARIAL = ("dafl", "dfad", "dfad-plain")
SHORT = {"iterations": 6, "batch": 4, "limit": 10, "evaluations": 1}
METRICS = {"mean_iou", "best_mean_iou", "average_mean_iou", "pixel_accuracy", "agreement"}


def rows(scale: str) -> dict[str, SegmentationConfig]:
    chapter = chapters.chapter("dfad", scale)
    found = {row: chapter.config(row) for row in chapter.rows}
    return {row: config for row, config in found.items() if isinstance(config, SegmentationConfig)}


EVERY = [(scale, row) for scale in report.SCALES for row in rows(scale)]


# --- presets


def test_every_record_of_the_chapter_has_the_hash_of_todays_configuration() -> None:
    found = report.records("dfad")
    assert len(found) >= 70 and {record.scale for record in found} >= {"laptop"}
    for record in found:
        config = chapters.chapter("dfad", record.scale).config(record.row)
        assert report.config_hash(config) == record.config_hash, record.path


def test_every_scale_has_the_rows_of_table_3_a_ceiling_and_floors() -> None:
    for scale, tasks in TASKS.items():
        assert list(rows(scale)) == [f"{task}-{method}" for task in tasks for method in METHODS]
        chapter = chapters.chapter("dfad", scale)
        assert chapter.rows[-len(rows(scale)) :] == list(rows(scale))  # bare names still mean classification
        assert type(chapter.config("dfad")) is study.Config
    published = report.published("dfad").table("segmentation")
    assert {row.id for row in published.rows} <= set(METHODS)
    assert {"supervised", "untrained", "blind", "random-generator"} <= set(METHODS)


@pytest.mark.parametrize(("scale", "row"), EVERY)
def test_a_preset_is_whole(scale: str, row: str) -> None:
    config = rows(scale)[row]
    assert f"{config.task}-{config.method}" == row
    assert json.loads(json.dumps(asdict(config), allow_nan=False)) and len(report.config_hash(config)) == 64
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.batch = 1
    assert config.iterations % min(study.ROUND, config.iterations) == 0, "the last iterations would be lost"
    assert config.teacher in zoo.names() and config.student in nets.MODELS and config.generator in nets.MODELS
    assert {config.related, config.unrelated} <= set(data.SETS)
    recipe = zoo.RECIPES[config.teacher]
    assert isinstance(recipe, zoo.SegmentationRecipe) and recipe.dataset == config.task
    assert config.windows == (recipe.options.get("window") == config.image[1])
    assert config.focal == recipe.options.get("focal", 0.0)


def test_the_rows_of_a_scale_have_different_configurations() -> None:
    for scale in report.SCALES:
        assert len({report.config_hash(config) for config in rows(scale).values()}) == len(rows(scale))


@pytest.mark.parametrize("scale", report.SCALES)
def test_the_methods_of_a_task_take_as_many_student_updates(scale: str) -> None:
    for task in TASKS[scale]:
        configs = [rows(scale)[f"{task}-{method}"] for method in METHODS]
        assert len({config.iterations * config.student_steps for config in configs}) == 1
        assert len({(config.teacher, config.student, config.batch, config.limit) for config in configs}) == 1


@pytest.mark.parametrize(
    ("task", "weight_decay", "decay", "classes"), [("camvid", 5e-4, 0.1, 11), ("nyuv2", 5e-5, 0.3, 13)]
)
def test_the_papers_presets_have_the_papers_settings(
    task: str, weight_decay: float, decay: float, classes: int
) -> None:
    config = rows("paper")[f"{task}-dfad"]
    found = (config.batch, config.lr, config.weight_decay, config.iterations, config.decay, config.classes)
    assert found == (64, 0.1, weight_decay, 15_000, decay, classes)
    assert [round(share * config.iterations) for share in config.decays] == [5000, 10_000]
    assert (config.student_steps, config.generator_lr, config.limit) == (5, 1e-3, None)
    assert config.iterations == config.evaluations * study.ROUND  # one test after every 50 iterations
    with torch.device("meta"):
        student, generator = study.build_players(config)
    assert nets.parameter_count(generator) == 11_243_203
    assert nets.parameter_count(student) == pytest.approx(5.11e6, rel=1e-3)
    bench = dfad_segmentation.SegmentationBench.__new__(dfad_segmentation.SegmentationBench)
    bench.config = config
    assert [bench.schedule(i) for i in (0, 4999, 5000, 10_000)] == pytest.approx([1, 1, decay, decay**2])


@pytest.mark.parametrize(("scale", "task"), [(scale, task) for scale in TASKS for task in TASKS[scale]])
def test_the_players_fit_the_recipe_of_their_teacher(scale: str, task: str) -> None:
    config = rows(scale)[f"{task}-dfad"]
    recipe = zoo.RECIPES[config.teacher]
    with torch.device("meta"):
        teacher = nets.build(recipe.architecture, **recipe.arguments, classes=config.classes)
        student, generator = study.build_players(config)
    images = generator(torch.empty(2, generator.latent, device="meta"))
    assert images.shape == (2, *config.image)
    assert teacher(images).shape == student(images).shape == (2, config.classes, *config.image[1:])
    assert nets.parameter_count(student) < nets.parameter_count(teacher)


def test_the_papers_cost_is_predicted_to_a_factor_of_two() -> None:
    predicted = prediction.predict(rows("paper")["camvid-dfad"])
    # A quarter of the 256x256 counts; the teacher goes forward six times and back to its input once.
    macs = 64 * (40.9e9 / 4 * (6 + 1) + 5.45e9 / 4 * (6 + 2 * 5 + 1) + 0.7e9 * (6 + 2))
    # PyTorch counts the backward passes of depthwise convolutions as if they were full ones.
    assert 2 * macs * 15_000 < predicted.operations < 2 * 2 * macs * 15_000
    assert 5e9 < predicted.memory < 40e9


# --- rows at a tiny scale


def quarters(split: str, size: int = 32) -> SegmentationSet:
    """Coloured patches; the mask says which of the first two channels is bright. One corner has no class."""
    with engine.seeded(len(split)):
        kinds = torch.randint(7, (24, 4, 4)).repeat_interleave(size // 4, 1).repeat_interleave(size // 4, 2)
        noise = torch.randint(30, (24, 3, size, size))
    colours = torch.tensor([[c & 1, c >> 1 & 1, c >> 2 & 1] for c in range(7)])
    pixels = noise + 200 * colours[kinds].permute(0, 3, 1, 2)
    kinds[:, :2, :2] = 255
    return segmentation.from_masks("rooms", pixels.byte(), kinds, tuple("abcdefg"))


@pytest.fixture
def smoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> chapters.Chapter:
    """The smoke scale with a world of patches, small photographs, and a teacher of a few updates."""
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    monkeypatch.setitem(segmentation.SETS, "rooms", quarters)
    other = quarters("another").images
    monkeypatch.setitem(data.SETS, "room_collage", lambda *_: other)
    monkeypatch.setitem(data.SETS, "fashion_mnist", lambda *_: other.with_channels(1).resized(16))
    name = "rooms32-segmenter"
    others = {path: digest for path, digest in home.registry().items() if not path.startswith(f"zoo/{name}/")}
    monkeypatch.setattr(home, "registry", lambda: others)  # as if it did not come with the book
    recipe = replace(zoo.RECIPES[name], iterations=40, warmup=0, arguments={"width": 8})
    monkeypatch.setitem(zoo.RECIPES, name, replace(recipe, options={"batch": 8, "lr": 0.1}))
    zoo.train(name, progress=False)
    monkeypatch.setattr(dfad_segmentation, "FAKES", 4)
    return chapters.chapter("dfad", "smoke")


def test_all_methods_of_a_seed_start_from_one_student(smoke: chapters.Chapter) -> None:
    def start(method: str, seed: int) -> list[object]:
        bench = dfad_segmentation.SegmentationBench(smoke.config(f"rooms-{method}"), seed)
        return [players.state(bench.student), players.state(bench.generator)]

    first = start("dfad", 0)
    for method in METHODS:
        assert not list(players.differences(first, start(method, 0))), method
    assert list(players.differences(first, start("dfad", 1)))


@pytest.mark.parametrize("method", METHODS)
def test_a_row_runs_and_gives_a_valid_record(smoke: chapters.Chapter, method: str) -> None:
    run = smoke.run(f"rooms-{method}", 3, progress=False, **SHORT)
    record = run.record
    assert (record.chapter, record.scale, record.row, record.seed) == ("dfad", "smoke", f"rooms-{method}", 3)
    assert record.metrics.keys() >= METRICS and all(0 <= record.metrics[name] <= 1 for name in METRICS)
    record.save()
    assert [asdict(found) for found in report.records("dfad", "smoke")] == [asdict(record)]
    assert ("classes_covered" in record.metrics) == ("generator" in run.kept) == (method in ADVERSARIAL)
    if method in ADVERSARIAL:
        assert 1 <= record.metrics["classes_covered"] <= 7
        assert [images.shape for images in run.samples] == [(10, 3, 32, 32)]
    trained = method not in ("teacher", "untrained", "blind")
    assert ("mean_iou" in record.curves) and (record.passes != {}) == trained
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in run.teacher.parameters())
    weights = zoo.load("rooms32-segmenter", "cpu")
    assert not list(players.differences(players.state(weights), players.state(run.teacher)))


def test_the_metrics_are_what_they_are_called(smoke: chapters.Chapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "ROUND", 3)
    run = smoke.run("rooms-kd-real", progress=False, **SHORT | {"evaluations": 2})
    x = run.test.normalised(run.test.images.images)
    with torch.no_grad(), engine.frozen(run.student):
        student, teacher = run.student(x).argmax(1), run.teacher(x).argmax(1)
    found, (_, curve) = run.record.metrics, run.history.curve("mean_iou")
    confusion = metrics.confusion_matrix(student, run.test.masks, 7)
    assert len(run.test) == 10 and found["mean_iou"] == metrics.mean_iou(confusion)
    assert found["agreement"] == pytest.approx((student == teacher).float().mean().item())
    assert len(curve) == 2 and curve[-1] == found["mean_iou"] and found["best_mean_iou"] == max(curve)
    assert found["average_mean_iou"] == pytest.approx(sum(curve) / 2)
    assert [x for x, _ in run.record.curves["mean_iou"]] == [15, 30]  # student updates


def test_the_teachers_row_is_its_card_and_the_untrained_row_a_floor(smoke: chapters.Chapter) -> None:
    teacher, untrained = (smoke.run(f"rooms-{method}", progress=False).record for method in ("teacher", "untrained"))
    assert teacher.metrics["agreement"] == 1
    assert teacher.metrics["mean_iou"] == pytest.approx(zoo.card("rooms32-segmenter")["test_mean_iou"], abs=1e-4)
    assert untrained.metrics["mean_iou"] < 0.2 < teacher.metrics["mean_iou"]


def test_the_blind_row_names_the_most_frequent_class_of_each_place(smoke: chapters.Chapter) -> None:
    training, test = (quarters(split).masks for split in ("train", "test"))
    often = [max(range(7), key=lambda c: (training[:, y, x] == c).sum().item()) for y in range(32) for x in range(32)]
    mask = torch.tensor(often).view(1, 32, 32).expand_as(test)
    counted = test[:, 2:, 2:], mask[:, 2:, 2:]  # the corner has no class
    found = smoke.run("rooms-blind", progress=False, limit=None).record.metrics["pixel_accuracy"]
    corner = (test[:, :2, 2:] == mask[:, :2, 2:]).sum() + (test[:, 2:, :2] == mask[:, 2:, :2]).sum()
    right = (counted[0] == counted[1]).sum() + corner
    assert found == pytest.approx(right.item() / (test != 255).sum().item())


def test_distillation_from_real_images_learns(smoke: chapters.Chapter) -> None:
    longer = SHORT | {"iterations": 50, "batch": 8, "lr": 0.1}
    real = smoke.run("rooms-kd-real", progress=False, **longer).record.metrics["mean_iou"]
    ceiling = smoke.run("rooms-supervised", progress=False, **longer, student_steps=1).record.metrics["mean_iou"]
    floor = smoke.run("rooms-untrained", progress=False).record.metrics["mean_iou"]
    assert real > floor + 0.1 and ceiling > floor + 0.1


def test_the_generators_loss_is_the_log_form_unless_the_row_says_otherwise(smoke: chapters.Chapter) -> None:
    bench = dfad_segmentation.SegmentationBench(smoke.config("rooms-dfad"), 0)
    d = torch.tensor(1.5)
    assert dfad_segmentation.METHOD_MAKERS["dfad"](bench).generation(d) == pytest.approx(-math.log(2.5))
    assert dfad_segmentation.METHOD_MAKERS["dfad-plain"](bench).generation(d) == -1.5


@pytest.mark.parametrize("row", ["rooms-dfad", "rooms-dafl", "rooms-random"])
def test_a_seed_decides_the_result(smoke: chapters.Chapter, row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_dropout(**arguments: object) -> torch.nn.Module:
        network = nets.small_segmenter(**arguments)
        network.decoder.append(torch.nn.Dropout(0.5))
        return network

    monkeypatch.setitem(nets.MODELS, "dropping_segmenter", with_dropout)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(results))  # the global state must not matter, nor change
        before = torch.get_rng_state()
        run = smoke.run(row, seed, progress=False, student="dropping_segmenter", **SHORT)
        assert torch.equal(torch.get_rng_state(), before)
        results.append((players.state(run.student), run.record.metrics, run.record.curves))
    assert not list(players.differences(list(results[0]), list(results[1])))
    assert list(players.differences(results[0][0], results[2][0]))


@pytest.mark.parametrize("row", ["rooms-dfad", "rooms-supervised"])
def test_an_interrupted_row_goes_on_and_gives_the_same_record(
    row: str, smoke: chapters.Chapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "ROUND", 3)
    options = SHORT | {"evaluations": 2, "student_steps": 1}
    bench = dfad_segmentation.SegmentationBench
    whole = smoke.run(row, 0, progress=False, **options).record
    with monkeypatch.context() as interrupted:
        interrupted.setattr(bench, "evaluate", players.rigged(bench.evaluate, at=1))
        with pytest.raises(players.Explosion):
            smoke.run(row, 0, progress=False, checkpoint=tmp_path / "run.pt", **options)
    resumed = smoke.run(row, 0, progress=False, checkpoint=tmp_path / "run.pt", **options).record
    assert (resumed.metrics, resumed.curves, resumed.passes) == (whole.metrics, whole.curves, whole.passes)
    with pytest.raises(ReuseError, match=r"run\.pt was made with other settings. Delete it"):
        smoke.run(row, 0, progress=False, checkpoint=tmp_path / "run.pt", **options | {"decay": 0.5})


def test_a_teacher_that_is_not_trained_yet_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    with pytest.raises(MissingFile, match="Fix: reuselib zoo train nyuv2-deeplabv3"):
        chapters.chapter("dfad", "paper").run("nyuv2-dfad", progress=False)


# --- one step of the paper's own, its images in their true layout


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> chapters.Chapter:
    """The paper's scale; images are 32 pixels high, windows and fakes 16 pixels, and a teacher sees one batch."""
    monkeypatch.setattr(home, "write_registry", lambda: pytest.fail("the clone's registry was written"))
    monkeypatch.setattr(dfad_segmentation, "FAKES", 2)
    sample = study.Bench.sample
    monkeypatch.setattr(study.Bench, "sample", lambda bench, count: sample(bench, min(count, 2)))
    for name in ("camvid-deeplabv3", "nyuv2-deeplabv3"):
        recipe = zoo.RECIPES[name]
        options = recipe.options | {"batch": 2, "window": 16}
        monkeypatch.setitem(zoo.RECIPES, name, replace(recipe, iterations=1, options=options, encoder=None))
    return chapters.chapter("dfad", "paper")


ONE_STEP = {"iterations": 1, "batch": 2, "image": (3, 16, 16)}


@pytest.mark.parametrize("task", ["camvid", "nyuv2"])
def test_one_step_of_dfad(
    task: str, published: chapters.Chapter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny.bring(task, monkeypatch, tmp_path, train=2, test=1)
    card = zoo.train(f"{task}-deeplabv3", progress=False)
    assert card["image"] == [3, 32, 42] and card["parameters"] == pytest.approx(39.6e6, rel=2e-3)
    run = published.run(f"{task}-dfad", progress=False, **ONE_STEP)
    assert run.record.passes == {
        "teacher_forward": 6,
        "teacher_backward": 1,
        "student_forward": 6,
        "student_backward": 6,
        "generator_forward": 6,
        "generator_backward": 1,
    }
    assert run.record.metrics.keys() >= METRICS and run.test.shape == (3, 32, 42)
    assert run.samples[0].shape == (2, 3, 16, 16) and run.samples[0].abs().max() <= 1
    run.record.save()
    assert len(report.records("dfad", "paper")) == 1


def test_one_step_of_methods_with_other_images_features_or_masks(
    published: chapters.Chapter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("camvid", "cityscapes", "voc2012"):
        tiny.bring(name, monkeypatch, tmp_path, train=2, test=1)
    data.load("voc2012", download=True)
    zoo.train("camvid-deeplabv3", progress=False)
    monkeypatch.setattr(dfad_segmentation, "segmentation_scores", lambda *_: {"mean_iou": 0.1, "pixel_accuracy": 0.2})
    for method in ("kd-related", "kd-unrelated", "dafl", "supervised"):
        record = published.run(f"camvid-{method}", progress=False, **ONE_STEP | {"student_steps": 1}).record
        assert record.passes["student_backward"] == 1, method


def test_sizes_of_windows_and_of_other_images(
    published: chapters.Chapter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("nyuv2", "sunrgbd"):
        tiny.bring(name, monkeypatch, tmp_path, train=2, test=1)
    zoo.train("nyuv2-deeplabv3", progress=False)
    bench = dfad_segmentation.SegmentationBench(published.config("nyuv2-kd-related", **ONE_STEP), 0)
    assert bench.training().shape == (3, 32, 42) and bench.training("sunrgbd").shape == (3, 32, 32)
    source = bench.imitate("sunrgbd").source
    assert source(4, torch.Generator().manual_seed(0)).shape == (4, 3, 16, 16)
    assert segmentation_scores(bench.teacher, bench.test)["mean_iou"] >= 0
