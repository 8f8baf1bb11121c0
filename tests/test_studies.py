"""What holds for every paper's study at every scale: whole, different, in step with tables, claims and records."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import archives
import players
import pytest
import torch

from reuselib import chapters, data, home, nets, report, run
from reuselib.data import fetching
from reuselib.dfad.study import DFADStudy
from reuselib.errors import MissingFile, UnknownName
from reuselib.nets import blank, zoo
from reuselib.run import Settings

PAPERS = chapters.names()


@pytest.mark.parametrize("paper", PAPERS)
def test_the_rows_of_every_scale_are_whole_and_different(paper: str) -> None:
    for scale in report.SCALES:
        study = chapters.study(paper, scale)
        assert study.name == paper and study.rows
        texts = [json.dumps(settings.plain(), allow_nan=False, sort_keys=True) for settings in study.settings.values()]
        assert len(set(texts)) == len(study.rows)
        # Notebooks ask for `run("method")`: a task's name has no hyphen, or the method could not be told from it.
        first = study.rows[0]
        assert study.row(first.split("-", 1)[1]) == first
        if scale in ("colab", "paper"):
            assert not [row for row, settings in study.settings.items() if "-" in settings.get("task", "")]


@pytest.mark.parametrize("paper", PAPERS)
def test_claims_compare_rows_that_are_there_and_recorded_metrics(paper: str) -> None:
    recorded: dict[str, set[str]] = {}
    for record in report.records(paper, "laptop"):
        recorded.setdefault(record.row, set()).update(record.numbers())
    for condition in (condition for claim in report.published(paper).claims for condition in claim.conditions):
        rows = chapters.study(paper, condition.scale).settings
        for row in (side for side in (condition.left, condition.right) if isinstance(side, str)):
            assert row in rows, row
            if condition.scale == "laptop" and row in recorded:  # a rule comes before its first record
                assert condition.metric in recorded[row], (row, condition.metric)


@pytest.mark.parametrize("paper", PAPERS)
def test_every_record_of_every_scale_has_the_settings_that_its_row_has_today(paper: str) -> None:
    found = {scale: report.records(paper, scale) for scale in report.SCALES}
    assert sum(map(len, found.values())) == len(home.results(paper).read_text("utf-8").splitlines())
    for scale, records in found.items():
        settings = chapters.study(paper, scale).settings
        now = {row: each.plain() for row, each in settings.items()}
        assert {record.row for record in records if record.settings != now.get(record.row)} == set(), scale


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the image sets and networks that are loaded during a test."""
    found: set[str] = set()

    def noting(load: Any) -> Any:
        return lambda name, *given, **options: (found.add(name), load(name, *given, **options))[1]

    for module in (data, data.segmentation, zoo):
        monkeypatch.setattr(module, "load", noting(module.load))
    return found


FEW = {"updates": 30, "evaluations": 2}
SHORT: dict[str, dict[str, Any]] = {
    "dfad": FEW | {"limit": 10, "options": {"lr": 0.1, "batch": 4}},
    "cmi": {"image_steps": 2, "updates": 10, "learning": {"batch": 16, "lr": 0.1}, "limit": 50},
    "one_stage_gan": FEW,
    "netgraft": {"limit": 60, "watched": 40},
    "layerwise": {"limit": 60, "evaluations": 3},
    "adaptive": {"limit": 60, "evaluations": 4, "updates": 4, "target_updates": 4},
    "qfsl": {"updates": 12},
}


@pytest.mark.parametrize(
    ("paper", "row", "at"),
    [
        *(("netgraft", f"symbols.{row}", at) for row, at in (("1-netgraft", 6), ("1-netgraft-pruned", 7), ("5-kd", 1))),
        *(("layerwise", row, 1) for row in ("digits-full-sgd", "overlap-one-stage")),
        ("adaptive", "shapes-target", 2),
        *(("dfad", row, 1) for row in ("digits-dfad", "digits-supervised", "rooms-supervised")),
        *(("cmi", f"shapes-{method}", at) for method, at in (("cmi", 2), ("adi", 3))),
        *(("one_stage_gan", row, 1) for row in ("fashion-ns-one", "digits-sat-two", "distil-one-5")),
        ("qfsl", "world-qfsl-scratch", 2),
    ],
)
def test_an_interrupted_row_goes_on_and_gives_the_record_that_its_seed_decides(
    paper: str, row: str, at: int, room: Path, monkeypatch: pytest.MonkeyPatch, read: set[str]
) -> None:
    study = chapters.study(paper, "smoke")
    once = partial(study.run, row, progress=False, **SHORT[paper])
    whole, other = (once(seed).record for seed in (0, 1))  # what a row trains first is then there
    needs = study.needs([row])
    assert read <= {*needs.images, *needs.pieces}
    players.cut(monkeypatch, lambda: once(0, resume=True), at)
    kept = study.checkpoint(row, 0, **SHORT[paper])
    assert list(room.rglob("*seed*")) == [kept] and kept.parent == study.checkpoint(row, 1).parent
    assert len({kept, study.checkpoint(row, 0), study.checkpoint(row, 1), study.checkpoint(row, 0, updates=1)}) == 4
    torch.manual_seed(1)  # the global state must not matter
    resumed = once(0, resume=True).record
    assert not kept.exists() and not list(room.rglob("*.pt"))
    assert not resumed.differences(whole) and resumed.passes == whole.passes
    assert resumed.differences(other)


@pytest.mark.parametrize(("paper", "row"), [("dfad", "digits-dfad"), ("one_stage_gan", "digits-ns-one")])
def test_a_row_that_was_cut_when_all_was_trained_has_its_pictures(paper: str, row: str, room: Path) -> None:
    study, changes = chapters.study(paper, "smoke"), SHORT[paper]
    for _ in range(2):  # the second one goes on after the last evaluation
        result = study.run(row, progress=False, checkpoint=room / "kept.pt", **changes)
        assert torch.equal(result.pictures, result.samples[-1])


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of the zoo's recipes with random weights, and random images, in place of what is fetched."""

    def images(name: str, split: str, device: Any = None) -> data.ImageSet:
        pixels = torch.randint(256, (60, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return replace(blank.images(zoo.dataset(name), 32), images=pixels, labels=torch.arange(60) % 10)

    def load(name: str, device: Any = None) -> torch.nn.Module:
        with run.seeded(0):
            network = nets.build(zoo.RECIPES[name].architecture, channels=3, **zoo.RECIPES[name].arguments)
        return run.on_device(network.eval().requires_grad_(False), torch.device("cpu"))

    card = {"dataset": "", "size": None, "classes": [*map(str, range(10))]}
    monkeypatch.setattr(zoo, "load", load)
    monkeypatch.setattr(zoo, "card", lambda name: card)
    monkeypatch.setattr(zoo, "images", images)
    monkeypatch.setattr("reuselib.cmi.job.instance_accuracy", lambda *views: 0.0)
    monkeypatch.setattr(data, "load_few", lambda *_, **options: images("cifar10-jpeg-vgg16", "train").per_class(1, 0))


CUT: dict[str, dict[str, Any]] = {
    "cifar10-cmi": {"batches": 4, "batch": 8, "image_steps": 1, "updates": 3, "student_steps": 2, "limit": 20}
    | {"memory": {"bank": 32, "negatives": 8}, "learning": {"batch": 8, "lr": 0.01}},
    "cifar10-dfad": SHORT["dfad"],
    "cifar10.shared.1-netgraft": {"block_steps": (2, 1, 1), "network_steps": (1, 2), "limit": 20, "watched": 10},
}


@pytest.mark.parametrize(
    ("paper", "row", "at"),
    [
        ("cmi", "cifar10-cmi", 6),
        ("dfad", "cifar10-dfad", 1),
        pytest.param("netgraft", "cifar10.shared.1-netgraft", 6, marks=pytest.mark.nightly),  # 60 MB at a time
    ],
)
def test_a_row_of_colab_goes_on_where_it_was_cut(
    paper: str, row: str, at: int, room: Path, monkeypatch: pytest.MonkeyPatch, untrained: None
) -> None:
    once = partial(chapters.study(paper, "colab").run, row, 0, progress=False, device="cpu", **CUT[row])
    whole = once().record
    players.cut(monkeypatch, lambda: once(resume=True), at)
    assert list(room.rglob("*.pt"))
    assert not once(resume=True).record.differences(whole) and not list(room.rglob("*.pt"))


@pytest.mark.nightly
@pytest.mark.parametrize("paper", PAPERS)
def test_every_row_runs_at_the_smoke_scale_and_is_recorded(
    paper: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: set[str]
) -> None:
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    study = chapters.study(paper, "smoke")
    for row in study.rows:
        read.clear()
        record = study.run(row, 3, progress=False).record
        assert record.metrics and all(math.isfinite(value) for value in record.metrics.values()), row
        assert read <= {name for names in vars(study.needs([row])).values() for name in names}, row
        record.save()
        assert report.find(paper, "smoke", row, 3, study.settings[row]) is not None


@pytest.mark.nightly
@pytest.mark.parametrize("paper", PAPERS)
def test_all_rows_of_colab_take_half_an_hour_of_a_t4_and_its_memory(paper: str) -> None:
    cost, _ = chapters.study(paper, "colab").bill()  # teachers included
    assert 60 * cost.hours("T4, fp16") <= 30
    assert cost.memory < 12e9 and cost.checkpoint < 0.5e9


def test_settings_are_read_as_attributes_and_never_changed_and_names_get_the_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings(lr=0.1, student=("conv3", {"width": 4}), loss=max)
    other = settings.but(lr=0.2)
    assert (settings.lr, other.lr, dict(other) == {**settings, "lr": 0.2}) == (0.1, 0.2, True)
    assert settings.plain() == {"lr": 0.1, "student": ["conv3", {"width": 4}], "loss": "max"}
    with pytest.raises(AttributeError):
        settings.lr = 1
    study = chapters.study("dfad")
    for call, nearest in (
        (lambda: settings.but(le=1), "lr"),
        (lambda: settings.le, "lr"),
        (lambda: study.row("fashion-dfat"), "fashion-dfad"),
        (lambda: chapters.study("dfat"), "dfad"),
        (lambda: chapters.study("dfad", "labtop"), "laptop"),
        (lambda: chapters.scale("labtop"), "laptop"),
    ):
        with pytest.raises(UnknownName, match=f"Did you mean '{nearest}'"):
            call()
    assert study.row("kd-real") == "cells-kd-real" and chapters.names() == report.names()
    for there, fitting in ((True, "colab"), (False, "laptop")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert [chapters.scale(name) for name in ("auto", "smoke", "paper")] == [fitting, "smoke", "paper"]


@pytest.mark.parametrize("paper", PAPERS)
def test_every_row_of_every_scale_says_what_it_reads(paper: str) -> None:
    drawn = {*data.SETS, *data.segmentation.SETS, *data.multi_label.MULTI_LABEL}
    for scale in report.SCALES:
        study = chapters.study(paper, scale)
        needs = study.needs()
        assert set(needs.images) == {name for row in study.rows for name in study.needs([row]).images} != set()
        assert set(needs.images) <= drawn | fetching.MEGABYTES.keys() and set(needs.pieces) <= set(zoo.names())
        assert scale in ("colab", "paper") or not needs.missing  # in a clone
        made = {name for name in needs.pieces if isinstance(zoo.RECIPES.get(name), zoo.Recipe)}
        # Whatever has to be trained first finds its images.
        assert {zoo.dataset(name) for name in made if not zoo.Piece(name).shipped} <= set(needs.images)
    assert chapters.study(paper).needs([]) == run.Needs()


def test_an_empty_room_is_filled_and_then_a_row_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archives.publish("mnist", monkeypatch, tmp_path)
    tiny = replace(zoo.RECIPES["mnist32-lenet5"], iterations=3, options={"batch": 8})  # type: ignore[type-var]
    monkeypatch.setitem(zoo.RECIPES, "tiny", tiny)
    declared = {"mnist-dfad": DFADStudy.declare("colab")["mnist-dfad"].but(teacher="tiny")}
    monkeypatch.setattr(DFADStudy, "declare", classmethod(lambda cls, scale: declared))
    study = chapters.study("dfad", "colab")
    with monkeypatch.context() as patched, pytest.raises(MissingFile, match="Fix: reuselib zoo train tiny"):
        patched.setattr(zoo, "TRAINED_WITHIN", 0.0)
        study.fetch()  # all else all the same
    said = "To fetch: mnist (about 12 MB), tiny (to be trained, about < 1 s on this processor). Kept in"
    assert f"{said} {tmp_path / 'data'};" in capsys.readouterr().out and study.needs().missing == ("tiny",)
    with monkeypatch.context() as patched:
        patched.setattr(run, "run", partial(run.run, save_every=0))
        players.cut(patched, study.fetch, 1)
    assert zoo.Piece("tiny").checkpoint.is_file()
    study.fetch(["dfad"])
    said = capsys.readouterr().out.split("To fetch: ")[-1]
    assert said.startswith("tiny (trained here, about < 1 s") and said.endswith("All is there now.\n")
    registered = {*home.registry()}
    study.fetch(["dfad"])
    assert capsys.readouterr().out == "All is there: mnist, tiny.\n" and not any("tiny/" in each for each in registered)
    record = study.run("dfad", progress=False, updates=10, evaluations=1, options={"batch": 8, "lr": 0.01}).record
    assert 0 <= record.metrics["accuracy"] <= 1


CUT_OFF = {"svhn": "SVHN/train_32x32.mat", "stl10": "stl10_binary/test_X.bin"}
CUT_OFF["celeba_attributes"] = "celeba/img_align_celeba.zip"


@pytest.mark.parametrize("name", CUT_OFF)
def test_a_file_that_was_cut_off_is_missing_and_is_fetched_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives.publish(name, monkeypatch, tmp_path)
    needs, path = run.Needs((name,)), tmp_path / "data" / "downloads" / CUT_OFF[name]
    needs.fetch()
    path.write_bytes(path.read_bytes()[:-7])
    assert needs.missing == (name,)
    needs.fetch()
    assert needs.missing == ()


def test_a_readers_runs_are_kept_beside_the_books_and_read_back_after_a_cut(
    room: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study, rows = chapters.study("dfad", "smoke"), ("digits-untrained", "digits-random")
    with monkeypatch.context() as patched, pytest.raises(players.Explosion):
        patched.setattr(run.Study, "run", players.rigged(run.Study.run, at=1))
        study.run_all(rows, seed=3)
    first, second = study.run_all(rows, seed=3)
    assert (first.row, second.row, first.seed) == (*rows, 3)
    assert "digits-untrained" in (said := capsys.readouterr().out) and said.count("read back") == 1
    assert study.run_all(rows, seed=3, progress=False) == [first, second] and not capsys.readouterr().out
    assert not report.records("dfad", "smoke") and not list(room.rglob("*.pt"))
    study.settings[rows[0]] = study.settings[rows[0]].but(updates=1)
    assert study.run_all(rows[:1], seed=3, progress=False)[0].settings["updates"] == 1
