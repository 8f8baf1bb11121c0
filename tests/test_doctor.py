"""`reuselib doctor`: what is there, what is missing, and the exit status."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from reuselib import chapters, cli, home, nets, report
from reuselib.nets import zoo


def doctor(code: int) -> tuple[list[str], list[str]]:
    """Run the command; return the good lines and those of what is missing, without their first word."""
    result = CliRunner().invoke(cli.main, ["doctor"])
    assert result.exit_code == code, result.output
    lines = result.output.splitlines()
    good = [line.removeprefix("ok").strip() for line in lines if line.startswith("ok ")]
    missing = [line.removeprefix("missing").strip() for line in lines if line.startswith("missing ")]
    assert len(good) + len(missing) == len(lines)
    return good, missing


def test_a_healthy_installation_and_what_was_damaged_in_it(room: Path) -> None:
    good, missing = doctor(0)
    words = "\n".join(good)
    assert missing == []
    for part in ("Python 3.", "torch 2.", "numpy", "device: ", f"data room: {room}", "fashion_mnist", "digits"):
        assert part in words
    assert {line.split()[1].rstrip(",") for line in good if line.startswith("network: ")} == set(zoo.names())
    assert "network: cifar10-resnet34, not trained here: reuselib zoo train cifar10-resnet34" in good
    assert {"network: digits8-conv3, weights verified", "network: rooms-0/transfers, weights verified"} < set(good)
    assert all(any(line.startswith(f"{chapter}: ") for line in good) for chapter in report.names())

    zoo.Piece("mine").save(nets.conv3(2), recipe={})
    archive = room / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    weights = [room / "zoo" / name / "weights.safetensors" for name in ("digits8-conv3", "mine")]
    for path in (archive, *weights):
        home.write_atomic(path, b"damaged")
    _, missing = doctor(1)
    assert len(missing) == 3 and f"{archive} is damaged" in missing[0]
    assert f"{weights[0]} is damaged" in missing[1] and missing[2].split(",")[0] == "network: mine"


def test_what_is_not_there_stale_or_damaged_is_found(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = chapters.study("dfad", "smoke").run("digits-untrained", 0, progress=False).record
    monkeypatch.setattr(zoo, "names", list)
    for name, value, words in (
        ("DEVICE", "gpu", "'gpu' is not a device"),
        ("PRECISION", "bf61", "Did you mean 'bf16'"),
    ):
        with monkeypatch.context() as wrong:
            wrong.setenv(f"REUSELIB_{name}", value)
            (line,) = doctor(1)[1]
            assert words in line
    path = record.save()
    assert "dfad: 1 records" in doctor(0)[0]
    replace(record, version=record.version + 1).save()
    assert doctor(1)[1] == ["dfad: 1 records, 1 stale: reuselib run dfad"]
    path.write_text(path.read_text()[:-30])
    assert [f"{path} is damaged" in line for line in doctor(1)[1]] == [True]
