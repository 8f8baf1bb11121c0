"""Chapter 03's rows: paired, repeatable, with the official settings, and measured by what the metrics say."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import equations
import players
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from reuselib import chapters, data, one_stage_gan, run
from reuselib.data.image_set import one_class
from reuselib.nets import pretrained
from reuselib.one_stage_gan import judge, study
from reuselib.one_stage_gan.job import UNTRAINED
from reuselib.report import metrics

SMOKE, COLAB, PAPER = (chapters.study("one_stage_gan", scale) for scale in ("smoke", "colab", "paper"))
TIMED = {"train_seconds", "train_cpu_seconds", "step_ms", "step_cpu_ms"}
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


@pytest.fixture(autouse=True)
def images_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "load", loaded_once)


loaded_once = functools.cache(data.load)


# --- settings


def test_both_schemes_of_a_game_have_the_same_settings_below_the_papers_scale() -> None:
    for scale in ("smoke", "laptop", "colab"):
        rows = chapters.study("one_stage_gan", scale).settings
        pairs = [(row, row.replace("-two", "-one")) for row in rows if "-two" in row and rows[row].kind == "gan"]
        assert len(pairs) >= 3
        for two, one in pairs:
            assert str(rows[two].but(method="", scheme="")) == str(rows[one].but(method="", scheme=""))
        distilled = [rows[row] for row in rows if rows[row].kind == "distil"]
        assert len(distilled) == 8 and len({row.updates for row in distilled}) == 1


@pytest.mark.parametrize("row", PUBLISHED)
def test_the_papers_rows_have_the_published_settings(row: str) -> None:
    job = PAPER.job(PAPER.settings[row], device="meta")
    settings, ((method, updates),) = job.settings, job.plan()
    images, epochs = EPOCHS[settings.task]
    assert updates == math.ceil(images / 128) * epochs == settings.updates  # whole epochs, a short last batch
    decays = tuple(round(share * epochs) for share in settings.decays)
    rates = [o.param_groups[0]["initial_lr"] for o in (method.generator_optimizer, method.discriminator_optimizer)]
    found = (settings.norm, method.generator.latent, method.clip, *rates, decays, settings.decay if decays else None)
    assert found == PUBLISHED[row]
    assert (method.batch, settings.image[1], settings.widths, settings.groups) == (128, 64, (128, 128), 32)
    official = row.partition("-")[2] in ("wgan-one", "wgan-two")
    assert (method.clip_last or getattr(method, "together", False)) == official
    assert getattr(method, "variant", "plain") == ("wasteful" if row.endswith("wgan-two") else "plain")
    assert settings.image[0] == (1 if settings.task == "mnist" else 3)
    if settings.task == "celeba":
        for task, dataset in (("lsun", "lsun_church"), ("ffhq", "ffhq")):
            other = PAPER.settings[row.replace("celeba", task)]
            assert other.updates == math.ceil(EPOCHS[task][0] / 128) * EPOCHS[task][1]
            same = settings.but(task=task, dataset=dataset, updates=other.updates)
            assert str(same) == str(other)


@pytest.mark.parametrize(("scheme", "steps"), [("one", 5), ("two", 1)])
def test_the_papers_distillation_has_the_published_settings(scheme: str, steps: int) -> None:
    job = PAPER.job(PAPER.settings[f"cifar10-{scheme}-{steps}"], device="meta")
    ((method, updates),) = job.plan()
    optimizer = method.student_optimizer.param_groups[0]
    assert (method.batch, optimizer["initial_lr"], optimizer["weight_decay"]) == (256, 0.1, 5e-4)
    assert (method.student_steps, updates * steps, method.generator.latent) == (steps, 500 * 50 * 5, 256)
    assert tuple(round(share * 500) for share in job.settings.decays) == (100, 200)


def test_a_colab_row_follows_both_distances_and_keeps_its_pictures(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    players.stand_in(monkeypatch)
    row = "cifar10-wgan-two"
    short = {"updates": 4, "evaluations": 2, "options": COLAB.settings[row].options | {"batch": 4}}
    result = COLAB.run(row, progress=False, fakes=70, references=40, **short)
    assert len(result.history.curve("kernel_distance")[1]) == len(result.history.curve("frechet")[1]) == 2
    result.save()
    with Image.open(room / "pictures" / "one_stage_gan" / f"colab-{row}.png") as sheet:
        assert sheet.size == (33 * 8 + 1, 33 * 8 + 1)


# --- rows


@pytest.mark.parametrize("row", ["fashion-wgan-two", "fashion-ns-batchnorm", "digits-untrained", "digits-real"])
def test_a_gan_row_runs_and_gives_what_it_is_to_give(row: str) -> None:
    result, settings = SMOKE.run(row, 3, progress=False), SMOKE.settings[row]
    values, trained = result.metrics, settings.scheme not in UNTRAINED
    assert all(math.isfinite(value) for value in values.values())
    assert values.keys() >= {"frechet", "best_frechet", "kernel_distance", "coverage", "classes"}
    assert 0 <= values["coverage"] <= 1 <= values["classes"] <= 10 and values["best_frechet"] <= values["frechet"]
    assert (values.keys() >= TIMED) == ("frechet_half" in values) == bool(result.record.passes) == trained
    assert {tuple(images.shape[1:]) for images in result.samples} == {settings.image}
    assert all(images.min() >= -1 and images.max() <= 1 for images in result.samples)
    if trained:
        assert result.record.passes["discriminator_backward"] == 6 * (2 if settings.scheme == "one" else 3)
        assert len(result.samples) == len(result.record.curves["frechet"]) == settings.evaluations
        assert result.record.curves["seconds"] and result.record.curves["discriminator"]


@pytest.mark.parametrize("row", ["distil-two-5", "distil-one-1", "distil-random", "distil-untrained"])
def test_a_distillation_row_runs_and_gives_what_it_is_to_give(row: str) -> None:
    result, settings = SMOKE.run(row, 3, progress=False), SMOKE.settings[row]
    trained, plays = settings.method != "untrained", settings.method[:3] in ("one", "two")
    assert (result.metrics.keys() >= TIMED) == bool(result.record.passes) == trained
    assert (result.generator is not None) == plays and 0 <= result.metrics["accuracy"] <= 1
    if trained:
        extra = settings.updates // settings.student_steps if settings.method.startswith("two") else 0
        assert result.record.passes["student_forward"] == settings.updates + extra
        assert result.record.curves["accuracy"][-1][0] == settings.updates


def test_a_speed_row_runs_and_counts_passes() -> None:
    values = SMOKE.run("speed-heavy-generator", 3, progress=False, batch=2).metrics
    assert [values[f"one_{name}"] for name in ("generator_forward", "discriminator_forward")] == [1, 2]
    for variant in one_stage_gan.VARIANTS:
        assert values[f"ratio_{variant}"] == pytest.approx(values[f"{variant}_ms"] / values["one_ms"])
        assert values[f"{variant}_ms_low"] <= values[f"{variant}_ms"] <= values[f"{variant}_ms_high"]
        assert values[f"{variant}_discriminator_backward"] == 3
    assert values["operations_ratio"] > 2 and values["cost_ratio"] > 0


def test_the_identity_row_tells_exact_from_coupled() -> None:
    values = SMOKE.run("identity-all", 3, progress=False).metrics
    for loss in ("sat", "ns", "ls", "wgan"):
        assert values[f"digits_{loss}"] > 10 and values[f"discriminator_digits_{loss}"] > 10
        symmetric = loss in ("sat", "wgan")
        assert (values[f"batchnorm_error_{loss}"] < 1e-10) == symmetric == (values[f"batchnorm_cosine_{loss}"] > 0.9999)
    assert min(values["batchnorm_error_ns"], values["batchnorm_error_ls"]) > 0.05


def test_a_row_names_its_training_and_all_methods_of_a_seed_start_from_one_generator() -> None:
    jobs = {method: SMOKE.job(SMOKE.settings[f"fashion-{method}"]) for method in study.CHANGES}
    first = players.state(jobs["untrained"].generator)
    assert not any(list(players.differences(first, players.state(job.generator))) for job in jobs.values())
    other = SMOKE.job(SMOKE.settings["fashion-untrained"], 1)
    assert list(players.differences(first, players.state(other.generator)))
    made = {name: job.method() for name, job in jobs.items() if name not in UNTRAINED}
    for name, method in made.items():
        assert isinstance(method, one_stage_gan.TwoStageGAN) == ("two" in name)
        assert method.loss is one_stage_gan.LOSSES[study.SHORT[name.partition("-")[0]]]
        assert (method.clip == 0.01) == name.startswith("wgan")
        assert method.discriminator_optimizer.param_groups[0]["lr"] == (4e-5 if "slow" in name else 1e-4)
    assert made["ns-two"].variant == "frozen" and made["ns-wrong"].ratio == -1.0 and made["ns-one"].ratio == "closed"
    found = {type(module) for module in made["ns-batchnorm"].discriminator.modules()}
    assert nn.BatchNorm2d in found and nn.GroupNorm not in found


def test_the_metrics_are_what_they_are_called() -> None:
    result = SMOKE.run("fashion-ns-one", 1, progress=False, updates=8, evaluations=4)
    values, (places, curve) = result.metrics, result.history.curve("frechet")
    assert places == [2, 4, 6, 8]
    assert values["frechet"] == pytest.approx(curve[-1]) and values["best_frechet"] == min(curve)
    assert values["frechet_half"] == curve[1] and values["late_frechet"] == sorted(curve[1:])[1]
    features = result.judge.features(SMOKE.job(SMOKE.settings["fashion-real"], 1).fakes())
    assert result.judge.frechet(features) == pytest.approx(metrics.frechet_distance(result.judge.real, features))
    assert result.judge.frechet(features) < values["frechet"]
    with run.frozen(result.generator), torch.no_grad():
        noise = torch.randn(60, 32, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(result.samples[-1], result.generator(noise)[:64])
    assert values["train_seconds"] == pytest.approx(sum(result.history.curve("seconds")[1]) * 2)
    real, floor = (SMOKE.run(f"digits-{row}", progress=False).metrics for row in ("real", "noise"))
    assert real["frechet"] < floor["frechet"] / 2 and real["coverage"] > floor["coverage"]


def test_the_equations_shown_are_the_equations_trained() -> None:
    rows = ("fashion-ns-one", "distil-one-1")
    equations.check("one_stage_gan", lambda: [SMOKE.run(row, progress=False) for row in rows])


# --- the judge


class TinyInception(nn.Module):
    """What the judge needs of torchvision's network: a trunk that ends in `fc`."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.sizes = nn.Linear(3, 1000), set()

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.add(tuple(images.shape[1:]))
        return self.fc(images.std((2, 3)))


def test_inception_judges_at_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    images = one_class("faces", torch.randint(256, (30, 3, 64, 64), dtype=torch.uint8), "face")
    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: TinyInception())
    monkeypatch.setattr(pretrained, "torchvision_weights", lambda name: TinyInception().state_dict())
    inception = judge.Judge(judge.INCEPTION, images, 20)
    assert inception.real.shape == (20, 3) and inception.network.trunk.sizes == {(3, 299, 299)}
    assert math.isfinite(inception.metrics(inception.features(torch.rand(25, 3, 64, 64)))["frechet"])
