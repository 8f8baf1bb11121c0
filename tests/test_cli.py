"""The command line: every command, what it skips and resumes, and what bad input gets."""

from __future__ import annotations

import errno
import json
import re
from dataclasses import replace
from pathlib import Path

import players
import pytest
from click.testing import CliRunner, Result

from reuselib import chapters, cli, home, report
from reuselib.dfad.study import DFADStudy
from reuselib.nets import zoo
from reuselib.qfsl.study import QFSLStudy

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.usefixtures("room")
SMOKE = ("--scale", "smoke", "--seeds", "0", "--rows")
LEARNED, UNTRAINED = ("dfad", *SMOKE, "digits-random"), ("dfad", *SMOKE, "digits-untrained")


def call(*arguments: str, code: int = 0) -> str:
    """Run a command as the shell would and return all that it prints; no traceback, and this exit code."""
    result: Result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result.output


def records() -> list[str]:
    """Return the saved records of the smoke scale as "row seed"."""
    return [f"{record.row} {record.seed}" for record in report.records("dfad", "smoke")]


def left(room: Path) -> list[str]:
    """Return the names of what runs left in the scratch folder."""
    return [path.name for path in room.glob("results/.scratch/**/seed*")]


def test_predict_and_rows_say_what_a_chapter_costs_and_how_far_off_that_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = {row: DFADStudy.declare("smoke")[row] for row in ("digits-untrained", "digits-dfad")}
    monkeypatch.setattr(DFADStudy, "declare", classmethod(lambda cls, scale: declared))
    _, line = call("predict", "dfad", "--scale", "smoke").splitlines()
    assert re.fullmatch(r"dfad +2 +0\.0 min +0\.\d MB +–; 1 unpredicted", line)
    study = chapters.study("dfad", "smoke")
    for row, seconds, changes in (("digits-untrained", 180.0, {}), ("digits-dfad", 2.0, {"updates": 1})):
        record = study.run(row, progress=False, limit=10, **changes).record
        replace(record, settings=declared[row].plain(), wall_seconds=seconds, cpu_seconds=2.0).save()
    said = r"0\.\d\d \(0\.\d\d to 0\.\d\d, 1 rows\); 1 unpredicted, 1 of them took 3\.0 min where they were recorded$"
    assert re.search(said, call("predict", "dfad", "--scale", "smoke").strip())
    head, *lines = call("rows", "dfad", "--scale", "smoke").splitlines()
    assert head.split() == ["recorded", "memory", "T4,", "fp16", "A100,", "bf16"]
    assert lines[0].split()[3:] == ["(1)", "–", "–", "–"] and "MiB" in lines[1]


def test_every_command_that_is_promised_has_help() -> None:
    promised = "list rows predict fetch choose run reproduce resume table verdicts report zoo doctor".split()
    assert set(cli.main.commands) == set(promised) and "reuselib, version 0." in call("--version")
    networks = [("zoo", name) for name in ("list", "show", "verify", "train")]
    assert set(cli.main.commands["zoo"].commands) == {name for _, name in networks}
    for path in ((), *((name,) for name in promised), *networks):
        output = call(*path, "-h")
        assert output == call(*path, "--help") and output.startswith("Usage: ") and len(output.splitlines()) >= 5


def test_rows_are_run_once_unless_told_otherwise_or_their_settings_change(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ("dfad", "--scale", "smoke", "--rows", "digits-untrained,digits-teacher", "--seeds", "0,2")
    plan, *lines = call("run", *rows, "--device", "cpu", "--precision", "fp32").splitlines()
    assert plan.startswith("dfad, smoke scale: rows 2, seeds 0, 2; recorded already: 0 of 4; to run: 4, at least")
    assert plan.endswith("on cpu in fp32") and len(lines) == 4
    assert lines[2].startswith("row 3 of 4  digits-untrained  seed 2  accuracy 0.")
    assert lines[2].index("accuracy") == lines[3].index("accuracy")
    assert {record.precision for record in report.records("dfad", "smoke")} == {"fp32"}
    assert records() == ["digits-teacher 0", "digits-teacher 2", "digits-untrained 0", "digits-untrained 2"]
    file = room / "results" / "dfad.jsonl"
    made = file.stat().st_mtime_ns
    assert "recorded already: 4 of 4; to run: 0" in call("run", *rows)
    assert "digits-teacher seed 0, about" in call("run", *rows, "--again", "--dry-run")
    assert file.stat().st_mtime_ns == made
    changed = DFADStudy.declare("smoke")["digits-untrained"].but(limit=77)
    monkeypatch.setattr(DFADStudy, "declare", classmethod(lambda cls, scale: {"digits-untrained": changed}))
    assert "to run: 1" in call("run", *UNTRAINED)
    kept = chapters.study("dfad", "smoke").checkpoint(UNTRAINED[-1], 0)
    old = kept.with_name(f"student-{kept.name}")  # of a second part of the row, before something was changed
    old.parent.mkdir(parents=True, exist_ok=True)
    old.touch()
    assert "to run: 1" in call("run", *UNTRAINED, "--again") and not old.exists()
    assert report.find("dfad", "smoke", "digits-untrained", 0, changed) and len(records()) == 4 and left(room) == []


def test_a_run_that_could_not_be_recorded_is_resumed_and_gives_the_same_record(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        with home.writing(path):
            raise OSError(errno.ENOSPC, "No space left on device")

    short = {"digits-random": DFADStudy.declare("smoke")["digits-random"].but(updates=10, evaluations=1, limit=10)}
    monkeypatch.setattr(DFADStudy, "declare", classmethod(lambda cls, scale: short))
    study = chapters.study("dfad", "smoke")
    expected, checkpoint = study.run("digits-random", 0, progress=False).record, study.checkpoint("digits-random", 0)
    with monkeypatch.context() as now:
        now.setattr(home, "write_atomic", full)  # of records; the checkpoint had still room
        output = call("run", *LEARNED, code=1)
    assert "cannot be written: No space left" in output and "the same command goes on from there" in output
    assert left(room) == ["seed0.pt"] and records() == []
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:-1])
    output = call("run", *LEARNED, code=1)
    assert "seed0.pt is damaged" in output and "delete it" in output
    checkpoint.write_bytes(whole)
    assert "row 1 of 1  digits-random  seed 0  accuracy" in call("resume", "dfad", "--scale", "smoke")
    found = report.find("dfad", "smoke", "digits-random", 0, study.settings["digits-random"])
    assert found and not found.differences(expected) and found.passes == expected.passes and left(room) == []
    home.write_atomic(checkpoint, whole)  # it outlived its record
    assert "recorded already: 1 of 1" in call("resume", "dfad", "--scale", "smoke") and left(room) == []
    assert call("resume", "dfad", "--scale", "smoke") == "Nothing of dfad was cut off at the smoke scale.\n"


def test_a_place_that_cannot_be_written_is_found_before_a_row_starts_and_other_errors_are_not_hidden(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DFADStudy, "run", players.rigged(DFADStudy.run, at=0))
    (room / "results").touch()
    assert "results/.scratch cannot be written" in call("run", *LEARNED, code=1)
    (room / "results").unlink()
    assert isinstance(CliRunner().invoke(cli.main, ["run", *LEARNED]).exception, players.Explosion)
    monkeypatch.setenv("REUSELIB_DATA", str(room / "nowhere"))
    for command in (["list"], ["run", *LEARNED], ["zoo", "list"], ["doctor"]):
        assert "nowhere, which does not exist. Fix: make that folder" in call(*command, code=1)


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("run dfad --seeds=2-1", 1, "is not a list of seeds"),
        *((f"{name} 01_dfat", 1, "Did you mean 'dfad'?") for name in ("rows", "fetch", "run", "resume", "verdicts")),
        ("table dfad --scale labtop", 2, "'labtop' is not one of"),
        *((f"run dfad --rows {text}", 1, "leaves a name out") for text in ("", "a,,b")),
        ("run dfad --rows digits-untrained,digits-dfat", 1, "Did you mean 'digits-dfad'?"),
        ("run dfad --device gpu", 1, "'gpu' is not a device"),
        ("run dfad --precision bf61", 2, "'bf61' is not one of"),
        ("reproduce dfad", 1, "Nothing is recorded there. Fix: reuselib run dfad"),
        *((f"zoo {name} fashion16-conf3", 1, "mean 'fashion16-conv3'?") for name in ("show", "verify", "train")),
        ("zoo show cifar10-resnet34", 1, "Fix: reuselib zoo train cifar10-resnet34"),
    ],
)
def test_bad_arguments_get_the_nearest_or_the_list_before_anything_runs(
    line: str, code: int, words: str, room: Path
) -> None:
    assert words in call(*line.split(" "), code=code)
    assert not (room / "results").exists()


def test_list_table_verdicts_report_and_choices_print(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call("run", *UNTRAINED)
    lines = call("list").splitlines()
    assert [line.split()[1] for line in lines] == report.names()
    assert lines[0].split(maxsplit=4) == ["1", "dfad", "1", "records", report.published("dfad").title]
    assert call("list", "--verdicts").count("not run") == len(lines)
    table = call("table", "dfad", "--scale", "smoke")
    assert "DFAD" in table and "0.983 ± 0.002" in table
    assert "not run" in call("verdicts", "dfad") and "not run" in call("verdicts")
    assert call("report").lstrip().startswith("#")
    path = room / "results" / "dfad.jsonl"
    path.write_text(path.read_text().replace('"schema":2', '"schema":0'))
    assert "line 1, has record schema 0" in call("table", "dfad", "--scale", "smoke", code=1)
    for chapter in ("dfad", "selective"):
        assert f"{chapter} leaves nothing to choose ahead: its rows" in call("choose", chapter, code=1)
    monkeypatch.setattr(QFSLStudy, "choose", lambda study, rows, seed: [(rows[0], [{"gamma": 1.0, "lam": seed}, {}])])
    assert call("choose", "qfsl", "--rows", "cifar-eszsl", "--seed", "3") == "cifar-eszsl: gamma 1.0, lam 3; \n"
    (shown,) = re.findall(
        r"reuselib choose (\w+) --scale (\w+) --rows (\S+)", (ROOT / "book/api.py").read_text("utf-8")
    )
    assert "choice" in chapters.study(*shown[:2]).settings[shown[2]]


def test_the_zoo_is_listed_shown_trained_and_verified(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = zoo.Recipe("digits", None, "conv3", {"width": 2}, 3, options={"batch": 8})
    monkeypatch.setitem(zoo.RECIPES, "tiny", recipe)
    assert "tiny: test accuracy" in call("zoo", "train", "tiny")
    listed = {line.split()[0]: line for line in call("zoo", "list").splitlines()}
    assert set(listed) == set(zoo.names())
    card = zoo.card("digits8-conv3")
    assert f"{card['test_accuracy']:.2%}" in listed["digits8-conv3"]
    assert "reuselib zoo train cifar10-resnet34" in listed["cifar10-resnet34"]
    assert json.loads(call("zoo", "show", "digits8-conv3")) == card
    shipped = {path[4:-10] for path in home.registry() if path.endswith("/card.json")}
    assert {line.split(":")[0] for line in call("zoo", "verify").splitlines()} == shipped | {"tiny"}
    home.write_atomic(room / "zoo" / "digits8-conv3" / "weights.safetensors", b"no weights")
    assert "weights.safetensors is damaged" in call("zoo", "verify", code=1)


def test_records_are_reproduced_or_said_to_differ() -> None:
    record = chapters.study("dfad", "smoke").run("digits-untrained", 3, progress=False).record
    record.save()
    output = call("reproduce", "dfad", "--scale", "smoke")
    assert "digits-untrained seed 3: equal" in output and "1 of 1 equal" in output
    replace(record, metrics=record.metrics | {"accuracy": 0.5, "wall_seconds": 7.0}).save()
    assert "digits-untrained seed 3: differs in accuracy\n" in call("reproduce", "dfad", "--scale", "smoke", code=1)
