"""The command line: every command, what it skips and resumes, and what bad input gets."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import players
import pytest
from click.testing import CliRunner, Result

from reuselib import chapters, cli, home, report
from reuselib.dfad.study import DFADStudy
from reuselib.nets import zoo
from reuselib.qfsl.study import QFSLStudy

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


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield (*path, name)


def records() -> list[str]:
    """Return the saved records of the smoke scale as "row seed"."""
    return [f"{record.row} {record.seed}" for record in report.records("dfad", "smoke")]


def left(room: Path) -> list[str]:
    """Return the names of what runs left in the scratch folder."""
    return [path.name for path in room.glob("results/.scratch/**/seed*")]


def test_predict_says_what_a_chapter_costs_and_how_far_off_that_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = {row: DFADStudy.declare("smoke")[row] for row in ("digits-dfad", "digits-untrained")}
    monkeypatch.setattr(DFADStudy, "declare", classmethod(lambda cls, scale: declared))
    head, line = call("predict", "dfad", "--scale", "smoke").splitlines()
    assert "unpredicted" in head and re.fullmatch(r"dfad +2 +0\.0 min +0\.\d MB +–; 1 unpredicted", line)
    untrained = chapters.study("dfad", "smoke").run("digits-untrained", progress=False, limit=10).record
    replace(untrained, settings=declared["digits-untrained"].plain(), wall_seconds=180.0).save()
    record = chapters.study("dfad", "smoke").run("digits-dfad", progress=False, updates=1, limit=10).record
    replace(record, settings=declared["digits-dfad"].plain(), cpu_seconds=2.0).save()
    assert "(1 rows)" not in line and re.search(
        r"0\.\d\d \(0\.\d\d to 0\.\d\d, 1 rows\); 1 unpredicted, 1 of them took 3\.0 min where they were recorded$",
        call("predict", "dfad", "--scale", "smoke").strip(),
    )


def test_every_command_that_is_promised_has_help() -> None:
    promised = "list rows predict fetch choose run reproduce resume table verdicts report zoo doctor"
    assert set(cli.main.commands) == set(promised.split())
    assert set(cli.main.commands["zoo"].commands) == {"list", "show", "verify", "train"}
    assert "reuselib, version 0." in call("--version")
    for path in commands(cli.main):
        for option in ("--help", "-h"):
            output = call(*path, option)
            assert output.startswith("Usage: ") and len(output.splitlines()) >= 5


def test_list_has_titles_and_records_and_verdicts_where_they_are_asked_for() -> None:
    call("run", *UNTRAINED)
    lines = call("list").splitlines()
    assert [line.split()[1] for line in lines] == report.names()
    assert lines[0].split(maxsplit=4) == ["1", "dfad", "1", "records", report.published("dfad").title]
    assert call("list", "--verdicts").count("not run") == len(lines)


def test_rows_are_listed_with_what_they_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    call("run", *UNTRAINED)
    declared = {name: DFADStudy.declare("smoke")[name] for name in ("digits-untrained", "digits-random")}
    monkeypatch.setattr(DFADStudy, "declare", classmethod(lambda cls, scale: declared))
    head, *lines = call("rows", "dfad", "--scale", "smoke").splitlines()
    assert head.split() == ["recorded", "memory", "T4,", "fp16", "A100,", "bf16"]
    assert lines[0].split()[3:] == ["(1)", "–", "–", "–"]
    assert lines[1].split()[:2] == ["digits-random", "–"] and "MiB" in lines[1]


def test_rows_are_run_once_unless_told_otherwise(room: Path) -> None:
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
    assert "to run: 4" in call("run", *rows, "--again")
    assert file.stat().st_mtime_ns > made and len(records()) == 4 and left(room) == []


def test_a_record_of_other_settings_is_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    call("run", *UNTRAINED)
    declared = DFADStudy.declare("smoke")
    changed = {row: settings.but(limit=77) for row, settings in declared.items() if "limit" in settings}
    monkeypatch.setattr(DFADStudy, "declare", classmethod(lambda cls, scale: changed))
    assert "to run: 1" in call("run", *UNTRAINED)
    assert report.records("dfad")[0].settings["limit"] == 77


def test_a_killed_run_is_resumed_and_gives_the_same_record(room: Path, tmp_path: Path) -> None:
    study = chapters.study("dfad", "smoke")
    expected = study.run("digits-random", 0, progress=False).record
    command = [sys.executable, "-c", "from reuselib.cli import main; main()", "run", *LEARNED]
    with open(tmp_path / "output", "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | {"OMP_NUM_THREADS": "1"})
        checkpoint = study.checkpoint("digits-random", 0)
        while not checkpoint.exists() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (tmp_path / "output").read_text()
    assert left(room) == ["seed0.pt"] and records() == []
    assert "row 1 of 1  digits-random  seed 0  accuracy" in call("resume", "dfad", "--scale", "smoke")
    found = report.find("dfad", "smoke", "digits-random", 0, study.settings["digits-random"])
    assert found and (found.metrics, found.curves) == (expected.metrics, expected.curves)
    assert found.passes == expected.passes and left(room) == []
    assert call("resume", "dfad", "--scale", "smoke") == "Nothing of dfad was cut off at the smoke scale.\n"


def test_a_full_disk_keeps_checkpoint_and_records(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        with home.writing(path):
            raise OSError(errno.ENOSPC, "No space left on device")

    call("run", *UNTRAINED)
    before = (room / "results" / "dfad.jsonl").read_bytes()
    with monkeypatch.context() as now:
        now.setattr(home, "write_atomic", full)  # of records; the checkpoint had still room
        output = call("run", *LEARNED, code=1)
    assert "cannot be written: No space left" in output and "the same command goes on from there" in output
    assert left(room) == ["seed0.pt"] and (room / "results" / "dfad.jsonl").read_bytes() == before
    call("run", *LEARNED)
    assert records() == ["digits-random 0", "digits-untrained 0"] and left(room) == []


def test_a_place_that_cannot_be_written_is_found_before_a_row_starts(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DFADStudy, "run", players.rigged(DFADStudy.run, at=0))
    (room / "results").touch()
    assert "results/.scratch cannot be written" in call("run", *LEARNED, code=1)
    monkeypatch.setenv("REUSELIB_DATA", str(room / "nowhere"))
    for command in (["list"], ["run", *LEARNED], ["verdicts"], ["zoo", "list"], ["doctor"]):
        assert "nowhere, which does not exist. Fix: make that folder" in call(*command, code=1)


def test_a_checkpoint_is_cleared_away_where_it_outlived_its_record_and_named_where_it_is_damaged(room: Path) -> None:
    study = chapters.study("dfad", "smoke")
    call("run", *UNTRAINED)
    home.write_atomic(study.checkpoint("digits-untrained", 0), b"left behind")
    assert "recorded already: 1 of 1" in call("resume", "dfad", "--scale", "smoke")
    assert records() == ["digits-untrained 0"] and left(room) == []
    home.write_atomic(study.checkpoint("digits-random", 0), b"half a checkpoint")
    output = call("run", *LEARNED, code=1)
    assert "seed0.pt is damaged" in output and "delete it" in output


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        *(
            (f"run dfad --scale smoke --seeds={text}", 1, "is not a list of seeds")
            for text in ("", "a", "2-1", "0-1e9")
        ),
        *(
            (f"{name} 01_dfat", 1, "Did you mean 'dfad'?")
            for name in ("rows", "fetch", "run", "resume", "table", "verdicts")
        ),
        *((f"{name} dfad --scale labtop", 2, "'labtop' is not one of") for name in ("run", "resume", "table")),
        *(
            (f"{name} dfad --rows {text}", 1, "leaves a name out")
            for name in ("fetch", "run", "reproduce")
            for text in ",|a,,b".split("|")
        ),
        ("run dfad --rows digits-untrained,digits-dfat", 1, "Did you mean 'digits-dfad'?"),
        ("resume ", 1, "unknown chapter ''"),
        ("run dfad --seed 0", 2, "No such option"),
        ("run dfad --device gpu", 1, "'gpu' is not a device"),
        ("run dfad --precision bf61", 2, "'bf61' is not one of"),
        ("reproduce dfad --count 0", 2, "x>=1"),
        ("reproduce dfad", 1, "Nothing is recorded there. Fix: reuselib run dfad"),
        ("trian", 2, "No such command 'trian'"),
        *((f"zoo {name} fashion16-conf3", 1, "mean 'fashion16-conv3'?") for name in ("show", "verify", "train")),
        *(
            (f"zoo {name} cifar10-resnet34", 1, "Fix: reuselib zoo train cifar10-resnet34")
            for name in ("show", "verify")
        ),
    ],
)
def test_bad_arguments_get_the_nearest_or_the_list_before_anything_runs(
    line: str, code: int, words: str, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REUSELIB_DEVICE", "REUSELIB_PRECISION"):
        monkeypatch.setenv(name, "")  # put back as it was
    assert words in call(*line.split(" "), code=code)
    assert not (room / "results").exists()


def test_options_are_chosen_by_rows_that_choose_some(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "dfad chooses no options when it runs. Fix: name qfsl" in call("choose", "dfad", code=1)
    assert "world-eszsl chooses nothing" in call("choose", "qfsl", "--rows", "world-eszsl", code=1)
    monkeypatch.setattr(QFSLStudy, "choose", lambda study, rows, seed: [(rows[0], [{"gamma": 1.0, "lam": seed}, {}])])
    assert call("choose", "qfsl", "--rows", "cifar-eszsl", "--seed", "3") == "cifar-eszsl: gamma 1.0, lam 3; \n"


def test_table_verdicts_and_report_print(room: Path) -> None:
    call("run", *UNTRAINED)
    table = call("table", "dfad", "--scale", "smoke")
    assert "DFAD" in table and "0.983 ± 0.002" in table
    assert "not run" in call("verdicts", "dfad") and "not run" in call("verdicts")
    assert call("report").lstrip().startswith("#")
    path = room / "results" / "dfad.jsonl"
    path.write_text(path.read_text().replace('"schema":2', '"schema":0'))
    assert "line 1, has record schema 0" in call("table", "dfad", "--scale", "smoke", code=1)


def test_the_zoo_is_listed_shown_and_verified(room: Path) -> None:
    listed = {line.split()[0]: line for line in call("zoo", "list").splitlines()}
    assert set(listed) == set(zoo.names())
    card = zoo.card("digits8-conv3")
    assert f"{card['test_accuracy']:.2%}" in listed["digits8-conv3"]
    assert "reuselib zoo train cifar10-resnet34" in listed["cifar10-resnet34"]
    assert json.loads(call("zoo", "show", "digits8-conv3")) == card
    shipped = {path[4:-10] for path in home.registry() if path.endswith("/card.json")}
    assert {line.split(":")[0] for line in call("zoo", "verify").splitlines()} == shipped
    weights = room / "zoo" / "digits8-conv3" / "weights.safetensors"
    home.write_atomic(weights, b"no weights")
    for names in ([], ["digits8-conv3"]):
        assert f"{weights} is damaged" in call("zoo", "verify", *names, code=1)


def test_zoo_train(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = zoo.Recipe("digits", None, "conv3", {"width": 2}, 3, options={"batch": 8})
    monkeypatch.setitem(zoo.RECIPES, "tiny", recipe)
    assert "tiny: test accuracy" in call("zoo", "train", "tiny")
    assert "tiny" in call("zoo", "list") and "tiny" in call("zoo", "verify", "tiny")


def test_what_is_no_error_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DFADStudy, "run", players.rigged(DFADStudy.run, at=0))
    result = CliRunner().invoke(cli.main, ["run", *LEARNED])
    assert isinstance(result.exception, players.Explosion)


def test_records_are_reproduced_or_said_to_differ() -> None:
    record = chapters.study("dfad", "smoke").run("digits-untrained", 3, progress=False).record
    record.save()
    output = call("reproduce", "dfad", "--scale", "smoke")
    assert "digits-untrained seed 3: equal" in output and "1 of 1 equal" in output
    replace(record, metrics=record.metrics | {"accuracy": 0.5, "wall_seconds": 7.0}).save()
    assert "digits-untrained seed 3: differs in accuracy\n" in call("reproduce", "dfad", "--scale", "smoke", code=1)
