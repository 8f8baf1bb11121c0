"""Running rows at the smoke scale: paired, repeatable, recorded."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import players
import pytest
import torch

from reuselib import chapters, report
from reuselib import run as engine
from reuselib.dfad import study
from reuselib.errors import DamagedFile, ReuseError

METRICS = {"accuracy", "best_accuracy", "mean_accuracy", "agreement"}
SHORT = {"iterations": 6, "batch": 16, "limit": 100, "evaluations": 1}


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep records out of the clone; images and networks are still found there."""
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))


@pytest.fixture
def smoke() -> chapters.Chapter:
    return chapters.chapter("dfad", "smoke")


def test_all_methods_of_a_seed_start_from_one_student(smoke: chapters.Chapter) -> None:
    def start(method: str, seed: int) -> list[object]:
        bench = study.Bench(smoke.config(f"digits-{method}"), seed)
        return [players.state(bench.student), *bench.test.images[:2]]

    first = start("dfad", 0)
    for method in study.METHODS:
        assert not list(players.differences(first, start(method, 0))), method
    assert list(players.differences(first, start("dfad", 1)))


@pytest.mark.parametrize("method", study.METHODS)
def test_a_row_runs_and_gives_a_valid_record(smoke: chapters.Chapter, method: str) -> None:
    run = smoke.run(f"digits-{method}", 3, progress=False, **SHORT)
    record = run.record
    assert (record.chapter, record.scale, record.row, record.seed) == ("dfad", "smoke", f"digits-{method}", 3)
    assert record.metrics.keys() >= METRICS and all(math.isfinite(value) for value in record.metrics.values())
    assert all(0 <= record.metrics[name] <= 1 for name in METRICS)
    assert record.config["iterations"] == 6 and record.precision in ("fp32", "bf16") and not record.stale
    record.save()
    assert [asdict(found) for found in report.records("dfad", "smoke")] == [asdict(record)]
    assert report.find("dfad", "smoke", f"digits-{method}", 3, record.config_hash) == record
    assert run.teacher is run.kept["teacher"] and run.student is run.kept["student"]
    adversarial = method in ("dafl", "zskt", "dfad", "dfad-kl", "dfad-log", "dfad-long")
    assert ("classes_covered" in record.metrics) == ("generator" in run.kept) == adversarial
    if adversarial:
        assert 1 <= record.metrics["classes_covered"] <= 10
        assert [images.shape for images in run.samples] == [(40, 1, 8, 8)]
    assert all(parameter.grad is None for parameter in run.teacher.parameters())


def test_the_metrics_are_what_they_are_called(smoke: chapters.Chapter) -> None:
    run = smoke.run("digits-kd-real", progress=False, **SHORT | {"iterations": 100, "evaluations": 2})
    x, y = run.test.normalised(run.test.images), run.test.labels
    with torch.no_grad(), engine.frozen(run.student):
        student, teacher = run.student(x).argmax(1), run.teacher(x).argmax(1)
    metrics, (_, accuracies) = run.record.metrics, run.history.curve("accuracy")
    assert metrics["accuracy"] == pytest.approx((student == y).float().mean().item())
    assert metrics["agreement"] == pytest.approx((student == teacher).float().mean().item())
    assert len(accuracies) == 2 and accuracies[-1] == pytest.approx(metrics["accuracy"])
    assert metrics["best_accuracy"] == max(accuracies)
    assert metrics["mean_accuracy"] == pytest.approx(sum(accuracies) / 2)
    assert [x for x, _ in run.record.curves["accuracy"]] == [250, 500]  # student updates
    assert run.record.passes["student_forward"] == 500


def test_the_teachers_and_the_untrained_row_are_the_ceiling_and_the_floor(smoke: chapters.Chapter) -> None:
    teacher, untrained = (smoke.run(f"digits-{method}", progress=False).record for method in ("teacher", "untrained"))
    assert teacher.metrics["agreement"] == 1 and teacher.metrics["accuracy"] > 0.95
    assert untrained.metrics["accuracy"] < 0.5 and untrained.passes == {}


@pytest.mark.parametrize("row", ["digits-dfad", "digits-zskt", "digits-random"])
def test_a_seed_decides_the_result(smoke: chapters.Chapter, row: str) -> None:
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(results))  # the global state must not matter
        run = smoke.run(row, seed, progress=False, **SHORT)
        results.append((players.state(run.student), run.record.metrics, run.record.curves))
    assert not list(players.differences(list(results[0]), list(results[1])))
    assert list(players.differences(results[0][0], results[2][0]))


def test_dfad_learns_at_the_smoke_scale(smoke: chapters.Chapter) -> None:
    run = smoke.run("digits-dfad", 0, progress=False)
    floor = smoke.run("digits-untrained", 0, progress=False)
    assert run.record.metrics["accuracy"] > floor.record.metrics["accuracy"] + 0.2


def test_an_interrupted_row_goes_on_and_gives_the_same_record(
    smoke: chapters.Chapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SHORT | {"iterations": 100, "evaluations": 2, "batch": 8}
    whole = smoke.run("digits-dfad", 0, progress=False, **options).record
    with monkeypatch.context() as interrupted:
        interrupted.setattr(study.Bench, "evaluate", players.rigged(study.Bench.evaluate, at=1))
        with pytest.raises(players.Explosion):
            smoke.run("digits-dfad", 0, progress=False, checkpoint=tmp_path / "run.pt", **options)
    resumed = smoke.run("digits-dfad", 0, progress=False, checkpoint=tmp_path / "run.pt", **options).record
    assert (resumed.metrics, resumed.curves, resumed.passes) == (whole.metrics, whole.curves, whole.passes)


@pytest.mark.parametrize("changed", [{"batch": 17}, {"iterations": 12}, {"seed": 1}])
def test_a_checkpoint_of_other_settings_is_refused(
    smoke: chapters.Chapter, tmp_path: Path, changed: dict[str, int]
) -> None:
    options = {"seed": 0, "checkpoint": tmp_path / "run.pt", "progress": False, **SHORT}
    smoke.run("digits-dfad", **options)
    with pytest.raises(ReuseError, match=r"run\.pt was made with other settings. Delete it"):
        smoke.run("digits-dfad", **options | changed)


def test_a_run_names_what_it_kept(smoke: chapters.Chapter) -> None:
    run = smoke.run("digits-untrained", progress=False, limit=50)
    assert len(run.test) == 50
    with pytest.raises(AttributeError, match="kept no 'generator', only"):
        _ = run.generator


def test_classes_covered_is_the_exponential_of_the_entropy() -> None:
    images = torch.eye(4).repeat(5, 1)
    assert study.classes_covered(torch.nn.Identity(), images) == pytest.approx(4)
    assert study.classes_covered(torch.nn.Identity(), images[:1]) == pytest.approx(1)
    shares = [0.75, 0.25]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert study.classes_covered(torch.nn.Identity(), images[[0, 0, 0, 1]]) == pytest.approx(expected)


def test_a_damaged_teacher_stops_a_row(smoke: chapters.Chapter, tmp_path: Path) -> None:
    folder = tmp_path / "zoo" / "digits8-conv3"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(DamagedFile, match=r"zoo.digits8-conv3.weights\.safetensors"):
        smoke.run("digits-dfad", progress=False)
