"""The chapters' presets: every scale, every method, frozen, hashable, comparable."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import pytest
import torch

from reuselib import chapters, data, nets, one_stage_gan, prediction, report
from reuselib.dfad import study as dfad
from reuselib.errors import UnknownName
from reuselib.nets import zoo
from reuselib.one_stage_gan import study as gan_study

TASKS = {
    "smoke": ["fashion", "digits"],
    "laptop": ["fashion", "digits"],
    "colab": ["mnist", "cifar10"],
    "paper": ["mnist", "cifar10", "cifar100", "caltech101"],
}
SPEC = {  # the paper's settings: batch, student's rate, weight decay, iterations, decays, latent
    "mnist": (512, 0.01, 1e-4, 2000, (), 100),
    "cifar10": (256, 0.1, 5e-4, 25_000, (5000, 10_000), 256),
    "cifar100": (256, 0.1, 5e-4, 25_000, (5000, 10_000), 256),
    "caltech101": (64, 0.05, 5e-4, 15_000, (5000, 10_000), 256),
}


def classifying(scale: str) -> list[str]:
    """The rows of a scale whose students classify; those that segment are tested in test_dfad_segmentation.py."""
    chapter = chapters.chapter("dfad", scale)
    return [row for row in chapter.rows if type(chapter.config(row)) is dfad.Config]


def configs() -> Iterator[tuple[str, str]]:
    for scale in report.SCALES:
        for row in classifying(scale):
            yield scale, row


def test_every_scale_has_every_method_of_its_tasks() -> None:
    for scale, tasks in TASKS.items():
        expected = [f"{task}-{method}" for task in tasks for method in dfad.METHODS]
        assert classifying(scale) == expected
    assert set(TASKS) == set(report.SCALES)


@pytest.mark.parametrize(("scale", "row"), list(configs()))
def test_a_preset_is_whole(scale: str, row: str) -> None:
    config = chapters.chapter("dfad", scale).config(row)
    assert f"{config.task}-{config.method}" == row
    assert json.loads(json.dumps(dataclasses.asdict(config), allow_nan=False))
    assert len(report.config_hash(config)) == 64
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.batch = 1
    assert config.iterations % min(dfad.ROUND, config.iterations) == 0, "the last iterations would be lost"
    assert config.teacher in zoo.names() and config.student in nets.MODELS and config.generator in nets.MODELS
    assert {config.related, config.unrelated} <= set(data.SETS)
    assert zoo.RECIPES[config.teacher].dataset not in (config.related, config.unrelated)


def test_the_rows_of_a_scale_have_different_configurations() -> None:
    for scale in report.SCALES:
        chapter = chapters.chapter("dfad", scale)
        assert len({report.config_hash(chapter.config(row)) for row in chapter.rows}) == len(chapter.rows)


@pytest.mark.parametrize("scale", report.SCALES)
def test_the_methods_of_a_task_take_as_many_student_updates(scale: str) -> None:
    chapter = chapters.chapter("dfad", scale)
    for task in TASKS[scale]:
        rows = [chapter.config(f"{task}-{method}") for method in dfad.METHODS]
        updates = {config.method: config.iterations * config.student_steps for config in rows}
        assert updates.pop("dfad-long") == 2 * updates["dfad"]
        assert len(set(updates.values())) == 1
        assert len({(config.teacher, config.student, str(config.student_arguments)) for config in rows}) == 1
        assert len({(config.batch, config.limit) for config in rows}) == 1


@pytest.mark.parametrize("task", SPEC)
def test_the_papers_preset_has_the_papers_settings(task: str) -> None:
    config = chapters.chapter("dfad", "paper").config(f"{task}-dfad")
    decays = tuple(round(share * config.iterations) for share in config.decays)
    latent = config.generator_arguments["latent"]
    found = (config.batch, config.lr, config.weight_decay, config.iterations, decays, latent)
    assert found == SPEC[task]
    assert (config.student_steps, config.generator_lr, config.limit) == (5, 1e-3, None)
    assert config.iterations == config.evaluations * dfad.ROUND  # one test after every 50 iterations


@pytest.mark.parametrize(("scale", "task"), [(scale, task) for scale in TASKS for task in TASKS[scale]])
def test_the_players_fit_the_recipe_of_their_teacher(scale: str, task: str) -> None:
    config = chapters.chapter("dfad", scale).config(f"{task}-dfad")
    recipe = zoo.RECIPES[config.teacher]
    with torch.device("meta"):
        teacher = nets.build(recipe.architecture, **recipe.arguments, classes=config.classes, channels=config.image[0])
        student, generator = dfad.build_players(config)
    images = generator(torch.empty(2, generator.latent, device="meta"))
    assert images.shape == (2, *config.image)
    assert teacher(images).shape == student(images).shape == (2, config.classes)
    assert nets.parameter_count(student) < nets.parameter_count(teacher)
    if config.teacher in {name for name in zoo.names() if (zoo.folder(name) / "card.json").is_file()}:
        card = zoo.card(config.teacher)
        assert (tuple(card["image"]), len(card["classes"])) == (config.image, config.classes)


def test_names_of_rows() -> None:
    chapter = chapters.chapter("dfad", "laptop")
    assert chapter.row("digits-dfad") == "digits-dfad"
    assert chapter.row("dfad") == "fashion-dfad" and chapter.row("kd-real") == "fashion-kd-real"
    assert chapter.config("dfad", batch=3).batch == 3 and chapter.config("dfad").batch != 3
    with pytest.raises(UnknownName, match="row of 01_dfad at scale laptop 'fashion-dfat'. Did you mean 'fashion-dfad'"):
        chapter.row("fashion-dfat")
    with pytest.raises(UnknownName, match="mnist-dfad"):
        chapter.config("mnist-dfad")


def test_unknown_chapters_and_scales_get_the_nearest() -> None:
    names = [
        "dfad",
        "cmi",
        "one_stage_gan",
        "netgraft",
        "layerwise",
        "adaptive",
        "attribution",
        "depara",
        "qfsl",
        "selective",
    ]
    assert chapters.chapters() == names == report.chapters()
    with pytest.raises(UnknownName, match="chapter '01_dfat'. Did you mean 'dfad'"):
        chapters.chapter("01_dfat")
    with pytest.raises(UnknownName, match="scale 'labtop'. Did you mean 'laptop'"):
        chapters.chapter("dfad", "labtop")


def test_the_tables_and_claims_speak_of_rows_that_exist() -> None:
    chapter = chapters.chapter("dfad", "laptop")
    named = {row.id for table in report.published("dfad").tables for row in table.rows}
    assert {chapter.config(row).method for row in classifying("laptop")} <= named


def test_a_shortened_row_is_shorter() -> None:
    chapter = chapters.chapter("dfad", "laptop")
    assert chapter.config("dfad", **chapter.live).iterations < chapter.config("dfad").iterations
    assert chapters.chapter("dfad", "smoke").live == {}


def test_predicted_operations_grow_with_iterations_and_batch() -> None:
    config = chapters.chapter("dfad", "smoke").config("digits-dfad", iterations=7)
    once = prediction.predict(dataclasses.replace(config, iterations=1))
    assert prediction.predict(config).operations == pytest.approx(7 * once.operations)
    half = prediction.predict(dataclasses.replace(config, iterations=1, batch=config.batch // 2))
    assert half.operations == pytest.approx(once.operations / 2) and half.memory < once.memory


@pytest.mark.parametrize(("task", "operations"), [("cifar10", 2.6e17)])
def test_the_papers_cost_is_predicted_to_a_factor_of_two(task: str, operations: float) -> None:
    predicted = prediction.predict(chapters.chapter("dfad", "paper").config(f"{task}-dfad"))
    assert operations / 2 < predicted.operations < operations * 2
    assert 1e9 < predicted.memory < 16e9
    hours = {device: predicted.hours(device) for device in prediction.SUSTAINED}
    assert all(0.5 < value < 24 for value in hours.values()) and hours["T4, fp16"] > hours["A100, bf16"]


def test_predicting_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    prediction.predict(chapters.chapter("dfad", "smoke").config("digits-dfad"))
    for scheme in ("one", "two"):
        gan_cost(f"fashion-ns-{scheme}")
    assert torch.equal(torch.get_rng_state(), before)


def gan_cost(row: str, **changes: object) -> prediction.Prediction:
    return prediction.predict(chapters.chapter("one_stage_gan", "smoke").config(row, **changes))


def test_predicted_operations_of_a_gan_grow_with_iterations_and_batch() -> None:
    once = gan_cost("fashion-ns-one", iterations=1)
    assert gan_cost("fashion-ns-one", iterations=7).operations == pytest.approx(7 * once.operations)
    half = gan_cost("fashion-ns-one", iterations=1, batch=8)
    assert half.operations == pytest.approx(once.operations / 2) and half.memory < once.memory


@pytest.mark.parametrize("widths", gan_study.WIDTHS.values(), ids=gan_study.WIDTHS)
def test_two_stages_take_the_predicted_multiples_of_one(widths: tuple[int, int]) -> None:
    players = {"generator_width": widths[0], "discriminator_width": widths[1], "batch": 64}
    one = gan_cost("fashion-ns-one", **players)
    two = {name: gan_cost("fashion-ns-two", options={"variant": name}, **players) for name in one_stage_gan.VARIANTS}
    ratio = {name: cost.operations / one.operations for name, cost in two.items()}
    # A backward pass takes twice a forward pass; only the first layers do without the gradient of their input.
    assert ratio["frozen"] == pytest.approx(4 / 3, rel=0.01)
    assert 1 < ratio["reuse"] < ratio["frozen"] < ratio["plain"] < 1.51 < ratio["wasteful"] < 2
    assert all(cost.memory <= one.memory for cost in two.values())


@pytest.mark.parametrize("steps", [1, 5])
def test_one_stage_distillation_costs_less_than_two(steps: int) -> None:
    one, two = (gan_cost(f"distil-{scheme}-{steps}") for scheme in ("one", "two"))
    assert one.operations < two.operations


def test_the_cost_of_the_papers_gans_is_predicted_to_a_factor_of_two() -> None:
    predicted = prediction.predict(chapters.chapter("one_stage_gan", "paper").config("celeba-ns-one"))
    # 0.82 GFLOP for one image in either network; three and six times a forward pass; batch and iterations.
    assert predicted.operations == pytest.approx(0.82e9 * (3 + 6) * 128 * 47_490, rel=0.05)
    assert 0.3e9 < predicted.memory < 3e9
