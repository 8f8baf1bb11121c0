"""The command line: every command, what it skips and resumes, and what bad input gets."""

from __future__ import annotations

import json
import os
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

ROW = ["--scale", "smoke", "--rows", "digits-random", "--seeds", "0"]


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data room of this test; images and networks are still found in the clone."""
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    return tmp_path


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


def test_every_command_that_is_promised_has_help() -> None:
    promised = "list run reproduce resume table verdicts report zoo doctor"
    assert set(cli.main.commands) == set(promised.split())
    assert set(cli.main.commands["zoo"].commands) == {"list", "show", "verify", "train"}
    assert "reuselib, version 0." in call("--version")
    for path in commands(cli.main):
        for option in ("--help", "-h"):
            output = call(*path, option)
            assert output.startswith("Usage: ") and len(output.splitlines()) >= 5
    assert [line.split()[0] for line in call("list").splitlines()] == report.names()


def records() -> list[str]:
    """Return the saved records of the smoke scale as "row seed"."""
    return [f"{record.row} {record.seed}" for record in report.records("dfad", "smoke")]


def left(room: Path) -> list[str]:
    """Return the names of what runs left in the scratch folder."""
    return [path.name for path in room.glob("results/.scratch/**/seed*")]


def test_rows_are_run_once_unless_told_otherwise(room: Path) -> None:
    rows = ["--scale", "smoke", "--rows", "digits-untrained,digits-teacher", "--seeds", "0,2"]
    assert call("run", "dfad", *rows).count(": accuracy 0.") == 4
    assert records() == ["digits-teacher 0", "digits-teacher 2", "digits-untrained 0", "digits-untrained 2"]
    file = room / "results" / "dfad.jsonl"
    made = file.stat().st_mtime_ns
    assert call("run", "dfad", *rows).count("recorded already") == 4 and file.stat().st_mtime_ns == made
    assert "recorded already" not in call("run", "dfad", *rows, "--again")
    assert file.stat().st_mtime_ns > made and len(records()) == 4 and left(room) == []


def test_a_record_of_other_settings_is_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ["--scale", "smoke", "--rows", "digits-untrained", "--seeds", "0"]
    call("run", "dfad", *rows)
    declared = DFADStudy.declare("smoke")
    changed = {row: settings.but(limit=77) for row, settings in declared.items() if "limit" in settings}
    monkeypatch.setattr(DFADStudy, "declare", classmethod(lambda cls, scale: changed))
    assert "recorded already" not in call("run", "dfad", *rows)
    assert report.records("dfad")[0].settings["limit"] == 77


def test_a_killed_run_is_resumed_and_gives_the_same_record(room: Path, tmp_path: Path) -> None:
    study = chapters.study("dfad", "smoke")
    expected = study.run("digits-random", 0, progress=False).record
    command = [sys.executable, "-c", "from reuselib.cli import main; main()", "run", "dfad", *ROW]
    with open(tmp_path / "output", "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | {"OMP_NUM_THREADS": "1"})
        checkpoint = cli.checkpoint_path("dfad", "smoke", "digits-random", 0)
        while not checkpoint.exists() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (tmp_path / "output").read_text()
    assert left(room) == ["seed0.pt"] and records() == []
    assert "digits-random seed 0: accuracy" in call("resume", "dfad", "--scale", "smoke")
    found = report.find("dfad", "smoke", "digits-random", 0, study.settings["digits-random"])
    assert found and (found.metrics, found.curves) == (expected.metrics, expected.curves)
    assert found.passes == expected.passes and left(room) == []
    assert call("resume", "dfad", "--scale", "smoke") == "Nothing was cut off.\n"


def test_a_checkpoint_that_outlived_its_record_is_cleared_away(room: Path) -> None:
    rows = ["--scale", "smoke", "--rows", "digits-untrained", "--seeds", "0"]
    call("run", "dfad", *rows)
    home.write_atomic(cli.checkpoint_path("dfad", "smoke", "digits-untrained", 0), b"left behind")
    assert "recorded already" in call("resume", "dfad", "--scale", "smoke")
    assert records() == ["digits-untrained 0"] and left(room) == []


def test_a_damaged_checkpoint_is_named() -> None:
    checkpoint = cli.checkpoint_path("dfad", "smoke", "digits-random", 0)
    home.write_atomic(checkpoint, b"half a checkpoint")
    output = call("run", "dfad", *ROW, code=1)
    assert "seed0.pt is damaged" in output and "delete it" in output


def test_bad_arguments_get_the_nearest_or_the_list_before_anything_runs(room: Path) -> None:
    rows = ("--scale", "smoke", "--rows")
    for arguments, code, words in (
        *(
            (("run", "dfad", *ROW, f"--seeds={text}"), 1, f"{text!r} is not a list of seeds")
            for text in ("", "a", "2-1")
        ),
        *(((command, "01_dfat"), 1, "Did you mean 'dfad'?") for command in ("run", "table", "verdicts")),
        *(
            ((c, "dfad", "--scale", "labtop"), 2, "'labtop' is not one of")
            for c in ("run", "resume", "table", "verdicts")
        ),
        (("run", "dfad", *rows, "digits-untrained,digits-dfat"), 1, "Did you mean 'digits-dfad'?"),
        (("trian",), 2, "No such command 'trian'"),
        (("run", "dfad", "--seed", "0"), 2, "No such option"),
        *((("zoo", c, "fashion16-conf3"), 1, "mean 'fashion16-conv3'?") for c in ("show", "verify", "train")),
        *((("zoo", c, "cifar10-resnet34"), 1, "Fix: reuselib zoo train cifar10-resnet34") for c in ("show", "verify")),
    ):
        assert words in call(*arguments, code=code)
    assert not (room / "results").exists()


def test_table_verdicts_and_report_print(room: Path) -> None:
    call("run", "dfad", "--scale", "smoke", "--rows", "digits-untrained", "--seeds", "0")
    table = call("table", "dfad", "--scale", "smoke")
    assert "DFAD" in table and "0.983 ± 0.002" in table
    assert "not run" in call("verdicts", "dfad") and "not run" in call("verdicts")
    assert call("report").lstrip().startswith("#")
    path = room / "results" / "dfad.jsonl"
    path.write_text(path.read_text().replace('"schema":2', '"schema":0'))
    assert "line 1, has record schema 0" in call("table", "dfad", "--scale", "smoke", code=1)


def test_zoo_list_show_and_verify() -> None:
    listed = {line.split()[0]: line for line in call("zoo", "list").splitlines()}
    assert set(listed) == set(zoo.names())
    card = zoo.card("digits8-conv3")
    assert f"{card['test_accuracy']:.2%}" in listed["digits8-conv3"]
    assert "reuselib zoo train cifar10-resnet34" in listed["cifar10-resnet34"]
    assert json.loads(call("zoo", "show", "digits8-conv3")) == card
    verified = call("zoo", "verify")
    shipped = {path.split("/")[1] for path in home.registry() if path.startswith("zoo/")}
    assert {line.split(":")[0] for line in verified.splitlines()} == shipped
    assert call("zoo", "verify", "digits8-conv3").count("as its card says") == 1


def test_a_damaged_network_is_named(room: Path) -> None:
    weights = room / "zoo" / "digits8-conv3" / "weights.safetensors"
    home.write_atomic(weights, b"no weights")
    for arguments in ([], ["digits8-conv3"]):
        assert f"{weights} is damaged" in call("zoo", "verify", *arguments, code=1)


def test_zoo_train(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = zoo.Recipe("digits", None, "conv3", {"width": 2}, 3, options={"batch": 8})
    monkeypatch.setitem(zoo.RECIPES, "tiny", recipe)
    assert "tiny: test accuracy" in call("zoo", "train", "tiny")
    assert "tiny" in call("zoo", "list") and "tiny" in call("zoo", "verify")


def test_an_error_in_the_middle_of_a_run_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REUSELIB_DEVICE", "gpu")
    assert "Error: 'gpu' is not a device" in call("run", "dfad", *ROW, code=1)
    monkeypatch.delenv("REUSELIB_DEVICE")
    monkeypatch.setattr(DFADStudy, "run", players.rigged(DFADStudy.run, at=0))
    result = CliRunner().invoke(cli.main, ["run", "dfad", *ROW])
    assert isinstance(result.exception, players.Explosion)  # what is no error of ours is not hidden


def test_records_are_reproduced_or_said_to_differ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    record = chapters.study("dfad", "smoke").run("digits-untrained", 3, progress=False).record
    record.save()
    done = CliRunner().invoke(cli.main, ["reproduce", "dfad", "--scale", "smoke"])
    assert done.exit_code == 0 and "digits-untrained seed 3: equal" in done.output and "1 of 1 equal" in done.output
    replace(record, metrics=record.metrics | {"accuracy": 0.5, "wall_seconds": 7.0}).save()
    done = CliRunner().invoke(cli.main, ["reproduce", "dfad", "--scale", "smoke"])
    assert done.exit_code == 1 and "digits-untrained seed 3: differs in accuracy\n" in done.output
