"""Records: as saved so read, whole or refused, none lost between processes."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from toy import make, save

from reuselib import home, report
from reuselib.errors import BadValue, DamagedFile, NonFinite, OldSchema, ReuseError, UnknownName

# The package has a function of the module's name.
module = sys.modules["reuselib.report.records"]


def test_a_record_comes_back_as_it_was_saved_and_the_file_is_sorted_whatever_the_order(room: Path) -> None:
    record = make()
    assert record.save() == room / "results" / "toy.jsonl" and report.records("toy") == [record]
    assert record.settings == {"rounds": 3, "rates": [0.1, 0.2]} and record.version == 2 and not record.stale
    assert record.versions["torch"] and record.cpu and record.finished.endswith("Z")
    assert record.value("minutes") == 1.5 and record.value("passes.teacher_forward") == 1200
    assert record.has("accuracy") and not record.has("passes.student_forward")
    assert report.curve("toy", "laptop", "toy-good", "accuracy") == ([10, 20], [[0.5, 0.9]])
    assert report.curve("toy", "laptop", "toy-bad", "accuracy") == ([], [])
    for scale, row, seed in (("colab", "a-b", 0), ("laptop", "toy-good", 10), ("laptop", "toy-bad", 2)):
        save(row, [0.5], seed, scale=scale)
    save("toy-good", [0.7, 0.8], 2)
    save("toy-good", [0.1], 3)  # in the place of the last
    order = [(each.scale, each.row, each.seed) for each in report.records("toy")]
    good = [("laptop", "toy-good", seed) for seed in (0, 2, 3, 10)]
    assert order == [("laptop", "toy-bad", 2), *good, ("colab", "a-b", 0)]
    assert report.records("toy", "laptop") == report.records("toy")[:5] and report.records("toy", "paper") == []
    assert report.values("toy", "laptop", "toy-good", "accuracy") == [0.9, 0.7, 0.1, 0.5]
    assert report.values("toy", "laptop", "toy-good", "accuracy", seeds={2, 10}) == [0.7, 0.5]
    assert report.shared_seeds("toy", "laptop", ["toy-good", "toy-bad"]) == {2}


SAVING = """
import sys, toy
for seed in range(5):
    toy.make(f"toy-{sys.argv[1]}", seed, seed / 10).save()
"""


def test_two_processes_lose_nothing_and_a_reader_sees_whole_records_meanwhile(room: Path) -> None:
    paths = os.environ | {"PYTHONPATH": os.pathsep.join([str(home.CLONE), str(home.CLONE / "tests")])}
    processes = [subprocess.Popen([sys.executable, "-c", SAVING, number], env=paths) for number in "01"]
    counts = [0]
    while any(process.poll() is None for process in processes):
        counts.append(len(report.records("toy")))
        time.sleep(0.01)
    assert counts == sorted(counts) and [process.wait() for process in processes] == [0, 0]
    assert len(report.records("toy")) == 10
    for row in ("toy-0", "toy-1"):
        assert report.values("toy", "laptop", row, "accuracy") == [seed / 10 for seed in range(5)]
    assert list(room.glob("results/**/*.json")) + list(room.glob("results/**/*.part")) == []


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"accuracy":0.9', '"accuracy":0.91', "it was altered"),
        ('"accuracy":0.9', '"accuracy":9E-1', "it was altered"),  # the same number
        ('"seed":1', '"seed":1,"extra":1', "it was altered"),
        ('"}\n', "", "not valid JSON"),
    ],
)
def test_an_altered_line_is_refused_with_its_place_and_no_record_is_lost(
    room: Path, old: str, new: str, reason: str
) -> None:
    save("toy-good", [0.9, 0.9])
    path = room / "results" / "toy.jsonl"
    first, second = path.read_text().splitlines(keepends=True)
    assert old in second
    path.write_text(first + second.replace(old, new, 1))
    for call in (lambda: report.records("toy"), lambda: make(seed=2).save()):
        with pytest.raises(DamagedFile, match=f"line 2: {reason}") as caught:
            call()
        assert str(path) in str(caught.value) and "Fix: git checkout" in str(caught.value)
    path.write_text(first + second)
    assert [record.seed for record in report.records("toy")] == [0, 1, 2]
    for found, error, words in (
        ([make(), make()], DamagedFile, "line 2: toy-good seed 0 stands twice"),
        ([replace(make(), paper="dfad")], DamagedFile, "line 1: it is a record of dfad"),
        ([replace(make(), schema=1)], OldSchema, "line 1, has record schema 1, this library reads 2. Fix: "),
    ):
        home.write_atomic(path, module._lines(found))
        with pytest.raises(error, match=words):
            report.find("toy", "laptop", "toy-good", 0)


def test_what_is_wrong_is_not_recorded(room: Path) -> None:
    with pytest.raises(NonFinite, match="toy/laptop/toy-good seed 0"):
        make(accuracy=math.nan)
    for row in ("../../../evil", "a/b", "end\n", "", ".hidden", 3):
        with pytest.raises(BadValue, match="is no name of a paper or row"):
            make(row)
    with pytest.raises(BadValue, match="leads out of the data folder"):
        report.scratch("toy", "laptop", "../../../evil", 0)
    for call in (lambda: make(seed=-1), lambda: report.find("toy", "laptop", "toy-good", 2**63)):
        with pytest.raises(BadValue, match="seed must be a whole number"):
            call()
    with pytest.raises(DamagedFile, match="metrics"):
        make(metrics={}).save()
    assert not (room / "results").exists()


def test_misspelt_names_get_the_nearest_in_place_of_an_empty_answer(room: Path) -> None:
    save("digits-good", [0.5])
    save("toy-other", [0.5], scale="colab")
    for call, nearest in (
        (lambda: make(scale="labtop"), "laptop"),
        (lambda: report.records("toy", "labtop"), "laptop"),
        (lambda: report.find("toy", "labtop", "digits-good", 0), "laptop"),
        (lambda: report.values("toy", "labtop", "digits-good", "accuracy"), "laptop"),
        (lambda: report.values("toy", "laptop", "digits-good", "acuracy"), "accuracy"),
        (lambda: report.curve("toy", "laptop", "digits-good", "acuracy"), "accuracy"),
        (lambda: report.values("toy", "laptop", "digits-god", "accuracy"), "digits-good"),
        (lambda: report.records("toyy"), "toy"),
    ):
        with pytest.raises(UnknownName, match=f"Did you mean '{nearest}'"):
            call()
    for row in ("toy-good", "mnist-bad", "toy-other", "digits-other"):  # published, or of known parts: just not run
        assert report.values("toy", "laptop", row, "accuracy") == []
    with pytest.raises(UnknownName, match="unknown paper"):
        report.records("../papers/toy")


def test_find_wants_the_version_and_the_settings(room: Path) -> None:
    record = make()
    record.save()
    for settings in (None, record.settings, {"rates": (0.1, 0.2), "rounds": 3}):
        assert report.find("toy", "laptop", "toy-good", 0, settings) == record
    assert report.find("toy", "laptop", "toy-good", 0, {"rounds": 4, "rates": [0.1, 0.2]}) is None
    assert report.find("toy", "laptop", "toy-good", 1) is None is report.find("toy", "colab", "toy-good", 0)
    make(version=1).save()
    assert report.find("toy", "laptop", "toy-good", 0) is None
    assert report.values("toy", "laptop", "toy-good", "accuracy") == []


def test_a_frame_has_a_row_for_each_record_and_a_column_for_each_number(room: Path) -> None:
    assert list(report.frame("toy").columns) == ["paper", "scale", "task", "method", "row", "seed", "stale"]
    save("toy-good", [0.8, 0.9])
    make("toy-bad", 0, metrics={"best": 0.5}, version=1).save()
    frame = report.frame("toy", "laptop")
    assert list(frame.row) == ["toy-bad", "toy-good", "toy-good"] and list(frame.stale) == [True, False, False]
    assert list(frame.task) == ["toy"] * 3 and list(frame.method) == ["bad", "good", "good"]
    assert frame.accuracy.isna().tolist() == [True, False, False] and frame.accuracy.sum() == pytest.approx(1.7)
    assert frame.loc[0, "best"] == 0.5 and set(frame["passes.teacher_forward"]) == {1200}
    assert set(frame.minutes) == {1.5} and report.frame("toy", "paper").empty


def test_seeds_are_read_and_what_is_no_list_of_seeds_is_refused() -> None:
    for text, seeds in {"0": [0], "0-2": [0, 1, 2], "0,3,5-7": [0, 3, 5, 6, 7], "4-4": [4], "1,0-2": [1, 0, 2]}.items():
        assert report.parse_seeds(text) == seeds
    for text in ("", "1,", "-1", "0-", "1-b", "3-1", "1-2-3", "1.5", "²", "1_0", " 1", str(2**63), "0-10000"):
        with pytest.raises(ReuseError, match="is not a list of seeds. Fix: write 0-2 or 0,3,5"):
            report.parse_seeds(text)


def test_only_changed_code_or_inputs_make_a_record_dirty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=test", "-c", "user.email=test@example.org", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(home, "CLONE", tmp_path)
    monkeypatch.setattr(home, "in_clone", lambda: True)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert module.git_state() == ("unknown", None)
    git("init", "-q")
    inputs = ("reuselib/code.py", "data/zoo/shipped/card.json", "data/papers/toy.yaml", "requirements.lock")
    for name in inputs:
        home.write_atomic(tmp_path / name, b"1")
    git("add", ".")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD")
    for name in ("data/results/toy.jsonl", "data/zoo/made/card.json", "data/pictures/toy/a.png", "book/page.md"):
        home.write_atomic(tmp_path / name, b"made by a run, or prose")
    assert module.git_state() == (commit, False)
    for name in inputs:
        home.write_atomic(tmp_path / name, b"2")
        assert module.git_state() == (commit, True)
        git("checkout", "--", name)
    home.write_atomic(tmp_path / "reuselib" / "new.py", b"3")
    assert module.git_state() == (commit, True)
