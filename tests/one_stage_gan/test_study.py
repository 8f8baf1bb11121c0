"""Chapter 03: its presets, its rows at the smoke scale, and one step of each task at the paper's scale."""

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
import torchvision
from torch import Tensor, nn

from reuselib import chapters, data, home, one_stage_gan, report
from reuselib import run as engine
from reuselib.dfad import legacy as dfad
from reuselib.errors import ReuseError
from reuselib.nets import zoo
from reuselib.one_stage_gan import judge
from reuselib.one_stage_gan import study as gan_study
from reuselib.one_stage_gan.checks import IdentityConfig, SpeedConfig
from reuselib.one_stage_gan.study import GanConfig, Studio
from reuselib.report import metrics

NAME = "one_stage_gan"
SMOKE = chapters.chapter(NAME, "smoke")
TRAINED = ("one", "two")
JUDGED = {"frechet", "best_frechet", "kernel_distance", "coverage", "classes"}
TIMED = {"train_seconds", "train_cpu_seconds", "step_ms", "step_cpu_ms"}
UNREPEATABLE = {"seconds", "cpu_seconds"}


def of_kind(chapter: chapters.Chapter, kind: type) -> dict[str, Any]:
    return {row: config for row, config in chapter.configs.items() if isinstance(config, kind)}


def repeatable(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in TIMED | UNREPEATABLE}


@pytest.fixture(scope="module", autouse=True)
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep records out of the clone; one room for all tests, so that images are read once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REUSELIB_DATA", str(tmp_path_factory.mktemp("room")))
        yield


# --- presets ---------------------------------------------------------------------------------------------------------


def configs() -> Iterator[tuple[str, str]]:
    for scale in report.SCALES:
        for row in chapters.chapter(NAME, scale).rows:
            yield scale, row


@pytest.mark.parametrize("scale", report.SCALES)
def test_presets_are_whole_frozen_and_different(scale: str) -> None:
    chapter = chapters.chapter(NAME, scale)
    hashes = set()
    for row, config in chapter.configs.items():
        assert f"{config.task}-{config.method}" == row
        assert json.loads(json.dumps(asdict(config), allow_nan=False))
        hashes.add(report.config_hash(config))
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.batch = 1
    assert len(hashes) == len(chapter.rows)
    assert {type(config) for config in chapter.configs.values()} == {
        GanConfig,
        SpeedConfig,
        IdentityConfig,
        dfad.Config,
    }


@pytest.mark.parametrize(("scale", "row"), list(configs()))
def test_a_preset_names_what_exists_and_what_fits(scale: str, row: str) -> None:
    config = chapters.chapter(NAME, scale).config(row)
    if isinstance(config, dfad.Config):
        assert config.teacher in zoo.names() and config.method in gan_study.DISTIL_METHODS
        return
    if isinstance(config, GanConfig):
        assert config.dataset in data.SETS and config.judge in [*zoo.names(), judge.INCEPTION]
        assert config.loss in one_stage_gan.LOSSES and config.scheme in (*TRAINED, *gan_study.UNTRAINED)
        assert config.image[1:] == (config.image[1], config.image[1])
        with torch.device("meta"):
            generator, discriminator = gan_study.build_players(config)
            images = generator(torch.empty(2, config.latent))
        assert images.shape == (2, *config.image) and discriminator(images).shape == (2,)


@pytest.mark.parametrize("scale", report.SCALES)
def test_every_gan_task_has_floors_and_pairs_of_schemes(scale: str) -> None:
    rows = of_kind(chapters.chapter(NAME, scale), GanConfig)
    for task in {config.task for config in rows.values()}:
        methods = {config.method: config for config in rows.values() if config.task == task}
        assert {"noise", "untrained"} <= methods.keys()
        for loss in ("sat", "ns"):
            one, two = methods[f"{loss}-one"], methods[f"{loss}-two"]
            assert (one.scheme, two.scheme, one.loss) == ("one", "two", two.loss)
            assert (one.iterations, one.batch, one.evaluations) == (two.iterations, two.batch, two.evaluations)


@pytest.mark.parametrize("scale", ["smoke", "laptop", "colab"])
def test_below_the_papers_scale_both_schemes_have_the_same_settings(scale: str) -> None:
    rows = of_kind(chapters.chapter(NAME, scale), GanConfig)
    pairs = [(row, row.replace("-two", "-one")) for row in rows if "-two" in row]
    assert len(pairs) >= 3
    for two, one in pairs:
        assert replace(rows[two], method="", scheme="") == replace(rows[one], method="", scheme="")


PUBLISHED = {  # normalisation, latent, clip, the two rates, decays in epochs and their factor, options
    "celeba-sat-one": ("batch", 100, None, 2e-4, 4e-5, (10, 15), 0.1),
    "celeba-sat-two": ("batch", 100, None, 2e-4, 2e-5, (), None),
    "celeba-ns-one": ("group", 128, None, 2e-4, 1e-4, (), None),
    "celeba-ns-two": ("group", 100, None, 2e-4, 4e-5, (10, 15), 0.5),
    "celeba-wgan-one": ("batch", 100, 0.01, 1e-4, 1.35e-5, (10, 15), 0.1),
    "celeba-wgan-two": ("batch", 100, 0.01, 2e-4, 2e-4, (10, 15), 0.1),
    "mnist-sat-one": ("batch", 100, None, 2e-4, 1.35e-5, (), None),
    "mnist-sat-two": ("batch", 100, None, 2e-4, 2e-4, (), None),
    "mnist-ns-one": ("group", 100, None, 2e-4, 5e-5, (), None),
    "mnist-ns-two": ("batch", 100, None, 2e-4, 2e-4, (), None),
    "mnist-wgan-one": ("batch", 100, 0.01, 2e-4, 1.35e-5, (), None),
    "mnist-wgan-two": ("batch", 100, 0.01, 2e-4, 2e-4, (), None),
}
EPOCHS = {"celeba": (202_599, 30), "lsun": (126_227, 30), "ffhq": (70_000, 60), "mnist": (60_000, 20)}


@pytest.mark.parametrize("row", PUBLISHED)
def test_the_papers_presets_have_the_published_settings(row: str) -> None:
    config = chapters.chapter(NAME, "paper").config(row)
    _, epochs = EPOCHS[config.task]
    decays = tuple(round(share * epochs) for share in config.decays)
    assert (
        config.norm,
        config.latent,
        config.clip,
        config.generator_lr,
        config.discriminator_lr,
        decays,
        config.decay if decays else None,
    ) == PUBLISHED[row]
    assert (config.batch, config.image[1], config.generator_width, config.discriminator_width) == (128, 64, 128, 128)
    assert (config.image[0], config.groups) == (1 if config.task == "mnist" else 3, 32)
    assert config.options == ({"variant": "plain"} if config.scheme == "two" else {})


@pytest.mark.parametrize("task", EPOCHS)
def test_the_papers_presets_take_whole_epochs_with_a_short_last_batch(task: str) -> None:
    images, epochs = EPOCHS[task]
    rows = of_kind(chapters.chapter(NAME, "paper"), GanConfig)
    iterations = {config.iterations for config in rows.values() if config.task == task}
    assert iterations == {math.ceil(images / 128) * epochs}


def test_the_unpublished_sets_get_the_settings_of_celeba() -> None:
    paper = chapters.chapter(NAME, "paper")
    for row in (row for row in PUBLISHED if row.startswith("celeba")):
        for task, dataset in (("lsun", "lsun_church"), ("ffhq", "ffhq")):
            found, expected = paper.config(row.replace("celeba", task)), paper.config(row)
            assert replace(found, task="", dataset="", iterations=0) == replace(
                expected, task="", dataset="", iterations=0
            )
            assert found.dataset == dataset


def test_the_papers_distillation_has_the_published_settings() -> None:
    rows = of_kind(chapters.chapter(NAME, "paper"), dfad.Config)
    for steps in (1, 5):
        for scheme in ("one", "two"):
            config = rows[f"cifar10-{scheme}-{steps}"]
            assert (config.batch, config.lr, config.weight_decay, config.generator_lr) == (256, 0.1, 5e-4, 1e-3)
            assert (config.student_steps, config.iterations * steps) == (steps, 500 * 50 * 5)
            assert tuple(round(share * 500) for share in config.decays) == (100, 200)
            assert config.generator_arguments["latent"] == 256


@pytest.mark.parametrize("scale", report.SCALES)
def test_all_distillations_take_as_many_student_updates(scale: str) -> None:
    rows = of_kind(chapters.chapter(NAME, scale), dfad.Config)
    assert [config.method for config in rows.values()] == list(gan_study.DISTIL_METHODS)
    assert len({config.iterations * config.student_steps for config in rows.values()}) == 1
    assert len({(config.batch, config.student, str(config.student_arguments)) for config in rows.values()}) == 1


def test_the_widths_of_the_speed_rows_are_what_they_are_called() -> None:
    for scale in report.SCALES:
        for config in of_kind(chapters.chapter(NAME, scale), SpeedConfig).values():
            larger = config.generator_width - config.discriminator_width
            assert (larger > 0) == (config.method == "heavy-generator")
            assert (larger < 0) == (config.method == "heavy-discriminator")


# --- rows ------------------------------------------------------------------------------------------------------------


def check_record(run: chapters.Run, row: str, seed: int) -> None:
    record = run.record
    assert (record.paper, record.scale, record.row, record.seed) == (NAME, "smoke", row, seed)
    assert record.metrics and all(math.isfinite(value) for value in record.metrics.values())
    record.save()
    assert report.find(NAME, "smoke", row, seed, record.settings) == record


@pytest.mark.parametrize("row", of_kind(SMOKE, GanConfig))
def test_a_gan_row_runs_and_gives_a_valid_record(row: str) -> None:
    run, config = SMOKE.run(row, 3, progress=False), SMOKE.config(row)
    check_record(run, row, 3)
    values = run.record.metrics
    assert values.keys() >= JUDGED and 0 <= values["coverage"] <= 1 <= values["classes"] <= 10
    trained = config.scheme in TRAINED
    assert (values.keys() >= TIMED) == ("frechet_half" in values) == bool(run.record.passes) == trained
    assert values["best_frechet"] <= values["frechet"]
    assert {tuple(images.shape[1:]) for images in run.samples} == {config.image}
    assert all(images.min() >= -1 and images.max() <= 1 for images in run.samples)
    if trained:
        passes = {"one": (1, 1, 2, 2), "two": (2, 1, 3, 3)}[config.scheme]
        names = [f"{player}_{way}" for player in ("generator", "discriminator") for way in ("forward", "backward")]
        expected = {name: 6 * count for name, count in zip(names, passes, strict=True)}
        assert run.record.passes == expected
        assert len(run.samples) == len(run.record.curves["frechet"]) == config.evaluations
        assert run.record.curves["seconds"] and run.record.curves["discriminator"]


@pytest.mark.parametrize("row", of_kind(SMOKE, dfad.Config))
def test_a_distillation_row_runs_and_gives_a_valid_record(row: str) -> None:
    run, config = SMOKE.run(row, 3, progress=False), SMOKE.config(row)
    check_record(run, row, 3)
    assert 0 <= run.record.metrics["accuracy"] <= 1
    trained = config.method != "untrained"
    assert (run.record.metrics.keys() >= TIMED) == bool(run.record.passes) == trained
    assert ("generator" in run.kept) == (config.method[:3] in ("one", "two"))
    if trained:
        student = config.iterations * config.student_steps
        extra = config.iterations if config.method.startswith("two") else 0
        assert run.record.passes["student_forward"] == student + extra
        assert run.record.curves["accuracy"][-1][0] == student


@pytest.mark.parametrize("row", of_kind(SMOKE, SpeedConfig))
def test_a_speed_row_runs_and_counts_passes(row: str) -> None:
    run = SMOKE.run(row, 3, progress=False, batch=2)
    check_record(run, row, 3)
    values = run.record.metrics
    assert [values[f"one_{name}"] for name in ("generator_forward", "discriminator_forward")] == [1, 2]
    for variant in one_stage_gan.VARIANTS:
        assert values[f"ratio_{variant}"] == pytest.approx(values[f"{variant}_ms"] / values["one_ms"])
        assert values[f"{variant}_ms_low"] <= values[f"{variant}_ms"] <= values[f"{variant}_ms_high"]
        assert values[f"{variant}_discriminator_backward"] == 3
    assert (values["operations_ratio"] > 2) == (row == "speed-heavy-generator")
    assert (values["operations_ratio"] < 0.5) == (row == "speed-heavy-discriminator")


def test_the_identity_row_tells_exact_from_coupled() -> None:
    run = SMOKE.run("identity-all", 3, progress=False)
    check_record(run, "identity-all", 3)
    values = run.record.metrics
    for loss in ("sat", "ns", "ls", "wgan"):
        assert values[f"digits_{loss}"] > 10 and values[f"discriminator_digits_{loss}"] > 10
        symmetric = loss in ("sat", "wgan")
        assert (values[f"batchnorm_error_{loss}"] < 1e-10) == symmetric == (values[f"batchnorm_cosine_{loss}"] > 0.9999)
    assert min(values["batchnorm_error_ns"], values["batchnorm_error_ls"]) > 0.05


def test_all_methods_of_a_seed_start_from_one_generator() -> None:
    def start(method: str, seed: int) -> list[Any]:
        studio = Studio(SMOKE.config(f"fashion-{method}"), seed)
        return [players.state(studio.generator), studio.fakes()]

    first = start("untrained", 0)
    for method, config in gan_study.CHANGES.items():
        if config.get("scheme") not in gan_study.UNTRAINED and method not in gan_study.UNTRAINED:
            assert not list(players.differences(first, start(method, 0))), method
    assert list(players.differences(first, start("untrained", 1)))


def test_a_row_names_its_training() -> None:
    def method(row: str) -> one_stage_gan.GAN:
        return Studio(SMOKE.config(row), 0).method()

    assert isinstance(method("fashion-ns-one"), one_stage_gan.OneStageGAN)
    two = method("fashion-ns-two")
    assert isinstance(two, one_stage_gan.TwoStageGAN) and two.variant == "frozen"
    assert (
        method("fashion-ls-two").loss is one_stage_gan.LEAST_SQUARES
        and method("fashion-sat-one").loss is one_stage_gan.SATURATING
    )
    wgan = method("fashion-wgan-one")
    assert wgan.loss is one_stage_gan.WASSERSTEIN and wgan.clip == 0.01
    wrong = method("fashion-ns-wrong")
    assert (
        isinstance(wrong, one_stage_gan.OneStageGAN)
        and wrong.ratio == -1.0
        and wrong.loss is one_stage_gan.NON_SATURATING
    )
    kinds = {type(module) for module in method("fashion-ns-batchnorm").discriminator.modules()}
    assert nn.BatchNorm2d in kinds and nn.GroupNorm not in kinds
    assert method("fashion-ns-one-slow").discriminator_optimizer.param_groups[0]["lr"] == 4e-5


def test_the_metrics_are_what_they_are_called() -> None:
    run = SMOKE.run("fashion-ns-one", 1, progress=False, iterations=8, evaluations=4)
    values, (places, curve) = run.record.metrics, run.history.curve("frechet")
    assert places == [2, 4, 6, 8]
    assert values["frechet"] == pytest.approx(curve[-1]) and values["best_frechet"] == min(curve)
    assert values["frechet_half"] == curve[1]
    assert values["late_frechet"] == sorted(curve[1:])[1]
    features = run.judge.features(Studio(SMOKE.config("fashion-real"), 1).fakes())
    assert run.judge.frechet(features) == pytest.approx(metrics.frechet_distance(run.judge.real, features))
    assert run.judge.frechet(features) < values["frechet"]
    with engine.frozen(run.generator), torch.no_grad():
        noise = torch.randn(60, 32, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(run.samples[-1], run.generator(noise)[:64])
    _, seconds = run.history.curve("seconds")
    assert values["train_seconds"] == pytest.approx(sum(seconds) * 2)


def test_real_images_are_nearer_than_noise() -> None:
    real, noise = (SMOKE.run(f"fashion-{row}", progress=False).record.metrics for row in ("real", "noise"))
    assert real["frechet"] < noise["frechet"] / 2 and real["coverage"] > noise["coverage"]


@pytest.mark.parametrize("row", ["fashion-ns-one", "fashion-ns-two", "distil-one-1"])
def test_a_seed_decides_the_result(row: str) -> None:
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(results))  # the global state must not matter
        run = SMOKE.run(row, seed, progress=False)
        results.append([repeatable(run.record.metrics), repeatable(run.record.curves), players.state(run.generator)])
    assert not list(players.differences(results[0], results[1]))
    assert list(players.differences(results[0][2], results[2][2]))


@pytest.mark.parametrize("row", ["fashion-ns-one", "digits-sat-two", "distil-one-5"])
def test_an_interrupted_row_goes_on_and_gives_the_same_record(
    row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"iterations": 8, "evaluations": 4, "progress": False}
    place = dfad.Bench if row.startswith("distil") else Studio
    whole = SMOKE.run(row, 0, **options).record
    with monkeypatch.context() as interrupted:
        interrupted.setattr(place, "evaluate", players.rigged(place.evaluate, at=2))
        with pytest.raises(players.Explosion):
            SMOKE.run(row, 0, checkpoint=tmp_path / "run.pt", **options)
    assert (tmp_path / "run.pt").is_file()
    resumed = SMOKE.run(row, 0, checkpoint=tmp_path / "run.pt", **options).record
    assert repeatable(resumed.metrics) == repeatable(whole.metrics) and resumed.passes == whole.passes
    assert repeatable(resumed.curves) == repeatable(whole.curves)
    with pytest.raises(ReuseError, match="other settings"):
        SMOKE.run(row, 1, checkpoint=tmp_path / "run.pt", **options)


@pytest.mark.parametrize(("iterations", "evaluations"), [(7, 2), (6, 4), (101, 3), (1, 1)])
def test_a_row_takes_exactly_its_iterations(iterations: int, evaluations: int) -> None:
    run = SMOKE.run("digits-ns-one", progress=False, iterations=iterations, evaluations=evaluations, batch=2)
    assert run.record.passes["generator_forward"] == iterations
    assert run.history.rounds[-1]["iteration"] == iterations and "frechet" in run.history.rounds[-1]


# --- the paper's scale -----------------------------------------------------------------------------------------------


class TinyInception(nn.Module):
    """What the judge needs of torchvision's network: a trunk that ends in `fc`."""

    def __init__(self, weights: object) -> None:
        super().__init__()
        self.convolution, self.fc = nn.Conv2d(3, 8, 16, stride=16), nn.Linear(8, 1000)
        self.weights, self.sizes = weights, set()

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.add(tuple(images.shape[1:]))
        return self.fc(self.convolution(images).mean((2, 3)))


ONE_STEP = {"iterations": 1, "evaluations": 1, "batch": 2, "fakes": 8, "references": 30, "progress": False}


@pytest.fixture
def inception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.models, "inception_v3", TinyInception)


def step_at_the_papers_scale(row: str, task: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> chapters.Run:
    """One step on a tiny archive in the set's true format; only counts are cut."""
    chapter = chapters.chapter(NAME, "paper")
    config = chapter.config(row)
    archives.publish(task, monkeypatch, folder)
    data.load(task, download=task != "ffhq")
    run = chapter.run(row, **ONE_STEP)
    passes = {"one": (1, 2), "two": (2, 3)}[config.scheme]
    assert (run.record.passes["generator_forward"], run.record.passes["discriminator_forward"]) == passes
    assert math.isfinite(run.record.metrics["frechet"]) and run.samples[0].shape == (8, *config.image)
    run.record.save()
    assert len(report.records(NAME, "paper")) == 1
    return run


@pytest.mark.parametrize("method", ["sat-one", "ns-two", "wgan-two"])
def test_one_step_on_celeba(method: str, inception: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = step_at_the_papers_scale(f"celeba-{method}", "celeba", monkeypatch, tmp_path)
    assert run.judge.network.trunk.sizes == {(3, 299, 299)}
    assert str(run.judge.network.trunk.weights).endswith("IMAGENET1K_V1")


@pytest.mark.parametrize(("task", "dataset"), [("lsun", "lsun_church"), ("ffhq", "ffhq")])
def test_one_step_on_the_other_photographs(
    task: str, dataset: str, inception: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step_at_the_papers_scale(f"{task}-ns-one", dataset, monkeypatch, tmp_path)


@pytest.mark.parametrize("method", ["noise", "untrained"])
def test_the_floors_of_celeba(method: str, inception: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    archives.publish("celeba", monkeypatch, tmp_path)
    data.load("celeba", download=True)
    run = chapters.chapter(NAME, "paper").run(f"celeba-{method}", **ONE_STEP)
    assert run.record.passes == {} and math.isfinite(run.record.metrics["frechet"])


def test_without_inceptions_weights_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fetch(weights: object) -> nn.Module:
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models, "inception_v3", fetch)
    archives.publish("celeba", monkeypatch, tmp_path)
    data.load("celeba", download=True)
    with pytest.raises(ReuseError, match="could not be fetched .no network.*judge="):
        chapters.chapter(NAME, "paper").run("celeba-noise", **ONE_STEP)


def trained_for_one_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train a network of the zoo by its own recipe, cut to one step."""
    recipe = zoo.RECIPES[name]
    monkeypatch.setattr(home, "write_registry", lambda: pytest.fail("the clone's registry was written"))
    short = replace(recipe, iterations=1, warmup=0, options=recipe.options | {"batch": 4})
    monkeypatch.setitem(zoo.RECIPES, name, short)
    zoo.train(name, progress=False)


def test_one_step_on_mnist_with_a_judge_of_the_zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    archives.publish("mnist", monkeypatch, tmp_path)
    data.load("mnist", download=True)
    trained_for_one_step(chapters.chapter(NAME, "paper").config("mnist-ns-one").judge, monkeypatch)
    step_at_the_papers_scale("mnist-ns-one", "mnist", monkeypatch, tmp_path)


def test_one_step_of_distillation_on_cifar10(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chapter, row = chapters.chapter(NAME, "paper"), "cifar10-one-5"
    archives.publish("cifar10", monkeypatch, tmp_path)
    data.load("cifar10", download=True)
    trained_for_one_step(chapter.config(row).teacher, monkeypatch)
    sample = dfad.Bench.sample
    monkeypatch.setattr(dfad.Bench, "sample", lambda bench, count: sample(bench, min(count, 4)))
    run = chapter.run(row, progress=False, iterations=1, batch=2, evaluations=1)
    assert 0 <= run.record.metrics["accuracy"] <= 1
    assert run.record.passes["student_forward"] == 5 and run.record.passes["teacher_backward"] == 1
