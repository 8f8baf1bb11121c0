"""Records: as saved so read, whole or refused, none lost between processes."""

from __future__ import annotations

import json
import math
import os
import signal
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


def test_a_record_comes_back_as_it_was_saved(room: Path) -> None:
    record = make()
    assert record.save() == room / "results" / "toy.jsonl" and report.records("toy") == [record]
    assert report.records("toy", "laptop") == [record] and report.records("toy", "paper") == []
    assert record.settings == {"rounds": 3, "rates": [0.1, 0.2]} and record.version == 2 and not record.stale
    assert record.versions["torch"] and record.cpu and record.finished.endswith("Z")
    assert record.value("minutes") == 1.5 and record.value("passes.teacher_forward") == 1200
    assert record.has("accuracy") and not record.has("passes.student_forward")
    assert report.curve("toy", "laptop", "toy-good", "accuracy") == ([10, 20], [[0.5, 0.9]])
    assert report.curve("toy", "laptop", "toy-bad", "accuracy") == ([], [])


def test_the_file_is_sorted_whatever_the_order_of_saving(room: Path) -> None:
    for scale, row, seed in (("colab", "a-b", 0), ("laptop", "toy-good", 10), ("laptop", "toy-bad", 2)):
        save(row, [0.5], seed, scale=scale)
    save("toy-good", [0.7, 0.8], 2)
    text = (room / "results" / "toy.jsonl").read_text()
    order = [(line["scale"], line["row"], line["seed"]) for line in map(json.loads, text.splitlines())]
    good = [("laptop", "toy-good", seed) for seed in (2, 3, 10)]
    assert order == [("laptop", "toy-bad", 2), *good, ("colab", "a-b", 0)]
    first, *others = text.splitlines()
    make("toy-good", 3, 0.1).save()
    again = (room / "results" / "toy.jsonl").read_text().splitlines()
    assert len(again) == 5 and [a != b for a, b in zip(again, [first, *others], strict=True)].count(True) == 1
    assert report.values("toy", "laptop", "toy-good", "accuracy") == [0.7, 0.1, 0.5]
    assert report.values("toy", "laptop", "toy-good", "accuracy", seeds={2, 10}) == [0.7, 0.5]
    assert report.shared_seeds("toy", "laptop", ["toy-good", "toy-bad"]) == {2}


SAVING = """
import sys, toy
for seed in range(20):
    toy.make(f"toy-{sys.argv[1]}", seed, seed / 20).save()
"""


def python(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    paths = os.pathsep.join([str(home.CLONE), str(home.CLONE / "tests")])
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=os.environ | {"PYTHONPATH": paths})


def test_two_processes_lose_nothing_and_a_reader_sees_whole_records_meanwhile(room: Path) -> None:
    processes = [python(SAVING, number) for number in "01"]
    counts = [0]
    while any(process.poll() is None for process in processes):
        counts.append(len(report.records("toy")))
        time.sleep(0.002)
    assert counts == sorted(counts) and [process.wait() for process in processes] == [0, 0]
    assert len(report.records("toy")) == 40
    for row in ("toy-0", "toy-1"):
        assert report.values("toy", "laptop", row, "accuracy") == [seed / 20 for seed in range(20)]
    assert list(room.glob("results/**/*.json")) + list(room.glob("results/**/*.part")) == []


def test_a_save_waits_for_the_lock_and_a_reader_takes_in_what_was_left(room: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    lock = room / "results" / ".scratch" / "toy.lock"
    home.write_atomic(lock, b"")
    with open(lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = python("import toy; toy.make('toy-late', 1).save()")
        while not list(room.glob("results/.scratch/toy/*/*/*.json")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (room / "results" / "toy.jsonl").exists()
    assert [record.row for record in report.records("toy")] == ["toy-late"]
    assert list(room.glob("results/.scratch/toy/*/*/*")) == []


def test_a_record_is_safe_where_the_papers_file_is_damaged(room: Path) -> None:
    path = make().save()
    whole = path.read_bytes()
    path.write_bytes(b"<<<<<<< HEAD\n" + whole)
    with pytest.raises(DamagedFile, match="line 1: not valid JSON"):
        make(seed=1).save()
    path.write_bytes(whole)
    assert [record.seed for record in report.records("toy")] == [0, 1]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"accuracy":0.9', '"accuracy":0.91', "it was altered"),
        ('"accuracy":0.9', '"accuracy":9E-1', "it was altered"),  # the same number
        ('"accuracy":0.9', '"accuracy":NaN', "Out of range"),
        ('"seed":1', '"seed":7', "it was altered"),
        ('"seed":1', '"seed":1,"extra":1', "it was altered"),
        ('"paper":"toy"', '"paper":"dfad"', "it was altered"),
        ('"}\n', "", "not valid JSON"),
    ],
)
def test_an_altered_line_is_refused_with_its_place(room: Path, old: str, new: str, reason: str) -> None:
    save("toy-good", [0.9, 0.9])
    path = room / "results" / "toy.jsonl"
    first, second = path.read_text().splitlines(keepends=True)
    assert old in second
    path.write_text(first + second.replace(old, new, 1))
    with pytest.raises(DamagedFile, match=f"line 2: {reason}") as caught:
        report.records("toy")
    assert str(path) in str(caught.value) and "Fix: git checkout" in str(caught.value)


def test_lines_that_do_not_belong_there_are_refused(room: Path) -> None:
    path, record = make().save(), make()
    for found, error, reason in (
        ([record, record], DamagedFile, "line 2: toy-good seed 0 stands twice"),
        ([replace(record, paper="dfad")], DamagedFile, "line 1: it is a record of dfad"),
        ([replace(record, schema=1)], OldSchema, "line 1, has record schema 1, this library reads 2. Fix: "),
    ):
        home.write_atomic(path, module._lines(found))
        with pytest.raises(error, match=reason):
            report.find("toy", "laptop", "toy-good", 0)


def test_what_is_wrong_is_not_recorded(room: Path) -> None:
    for bad in (math.nan, math.inf):
        with pytest.raises(NonFinite, match="toy/laptop/toy-good seed 0"):
            make(accuracy=bad)
    for row in ("../../../evil", "a/b", "line\nbreak", "end\n", "", ".hidden", "..", 3):
        with pytest.raises(BadValue, match="is no name of a paper or row"):
            make(row)
    for row in ("../../../evil", "/evil", ".."):
        with pytest.raises(BadValue, match="leads out of the data folder"):
            report.scratch("toy", "laptop", row, 0)
    for seed in (-1, 0.5, 2**63, True, None):
        with pytest.raises(BadValue, match="seed must be a whole number"):
            make(seed=seed)
        with pytest.raises(BadValue, match="seed must be a whole number"):
            report.find("toy", "laptop", "toy-good", seed)
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
        (lambda: make().value("acuracy"), "accuracy"),
        (lambda: report.values("toy", "laptop", "digits-good", "acuracy"), "accuracy"),
        (lambda: report.curve("toy", "laptop", "digits-good", "acuracy"), "accuracy"),
        (lambda: report.values("toy", "laptop", "digits-god", "accuracy"), "digits-good"),
        (lambda: report.curve("toy", "laptop", "digit-good", "accuracy"), "digits-good"),
        (lambda: report.records("toyy"), "toy"),
        (lambda: report.frame("toy", "papr"), "paper"),
    ):
        with pytest.raises(UnknownName, match=f"Did you mean '{nearest}'"):
            call()
    for row in ("toy-good", "mnist-bad", "toy-other", "digits-other"):  # published, or of known parts: just not run
        assert report.values("toy", "laptop", row, "accuracy") == []
    for wrong in ("", "../papers/toy", "../../toy", 3):
        with pytest.raises(UnknownName, match="unknown paper"):
            report.records(wrong)
    with pytest.raises(UnknownName, match="unknown scale ''"):
        report.records("toy", "")


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
    assert (
        frame.loc[0, "best"] == 0.5 and set(frame.minutes) == {1.5} and set(frame["passes.teacher_forward"]) == {1200}
    )
    frame["minutes"] = 0
    assert report.frame("toy").minutes.eq(1.5).all() and report.frame("toy", "paper").empty


def test_seeds_are_read_and_what_is_no_list_of_seeds_is_refused() -> None:
    for text, seeds in {"0": [0], "0-2": [0, 1, 2], "0,3,5-7": [0, 3, 5, 6, 7], "4-4": [4], "1,0-2": [1, 0, 2]}.items():
        assert report.parse_seeds(text) == seeds
    wrong = ["", "a", "1,", "1,,2", "-1", "0-", "-", "1-b", "3-1", "1-2-3", "0,x", "1.5", "²", "٣", "1_0", "0x1", " 1"]
    for text in (*wrong, "0-99999999999", str(2**63), "9" * 5000, "0-10000"):
        with pytest.raises(ReuseError, match="is not a list of seeds. Fix: write 0-2 or 0,3,5"):
            report.parse_seeds(text)


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_only_changed_code_or_inputs_make_a_record_dirty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "CLONE", tmp_path)
    monkeypatch.setattr(home, "in_clone", lambda: True)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert module.git_state() == ("unknown", None)
    git(tmp_path, "init", "-q")
    inputs = ("reuselib/code.py", "data/zoo/shipped/card.json", "data/papers/toy.yaml", "requirements.lock")
    for name in inputs:
        home.write_atomic(tmp_path / name, b"1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    for name in ("data/results/toy.jsonl", "data/zoo/made/card.json", "data/pictures/toy/a.png", "book/page.md"):
        home.write_atomic(tmp_path / name, b"made by a run, or prose")
    assert module.git_state() == (commit, False)
    for name in inputs:
        home.write_atomic(tmp_path / name, b"2")
        assert module.git_state() == (commit, True)
        git(tmp_path, "checkout", "--", name)
    home.write_atomic(tmp_path / "reuselib" / "new.py", b"3")
    assert module.git_state() == (commit, True)
    monkeypatch.setattr(home, "in_clone", lambda: False)
    assert module.git_state() == ("unknown", None)
