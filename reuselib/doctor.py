"""What this installation has and lacks, one line a finding."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata

import torch

from reuselib import data, home, report, run
from reuselib.errors import ReuseError
from reuselib.nets import zoo

Finding = tuple[bool, str]


def findings() -> Iterator[Finding]:
    """Yield (whether it is as it should be, one line of text)."""
    yield (
        True,
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "torchvision", "numpy")),
    )
    yield from _device()
    yield True, f"data room: {home.root()}"
    yield from _image_sets()
    yield from _networks()
    for name in report.names():
        yield _records(name)


def _device() -> Iterator[Finding]:
    try:
        where = run.device()
        precision = run.precision(where).name
    except ReuseError as error:
        yield False, str(error)
        return
    with run.threads() as threads:
        yield True, f"device: {where}, {precision}, {threads} of {os.cpu_count()} CPU threads"
    if where.type == "cuda":
        memory = torch.cuda.get_device_properties(where).total_memory / 2**30
        yield True, f"GPU: {torch.cuda.get_device_name(where)}, {memory:.0f} GiB"


def _image_sets() -> Iterator[Finding]:
    for name in ("fashion_mnist", "digits"):
        if name == "fashion_mnist" and not home.at_hand("FashionMNIST/raw/t10k-images-idx3-ubyte.gz"):
            yield True, f"images: {name}, fetched on first use"
            continue
        try:
            yield True, f"images: {data.load(name, 'test')}"
        except ReuseError as error:
            yield False, str(error)


def _networks() -> Iterator[Finding]:
    for name in zoo.names():
        piece = zoo.Piece(name)
        try:
            # Only networks that come with the book are expected to be there.
            if not piece.has() and not piece.shipped:
                yield True, f"network: {name}, not trained here: {piece.fix}"
            elif piece.has() and not piece.at_hand:
                yield True, f"network: {name}, fetched on first use"
            else:
                piece.verify()
                yield True, f"network: {name}, weights verified"
        except ReuseError as error:
            yield False, f"network: {name}, {error}"


def _records(chapter: str) -> Finding:
    try:
        found = report.records(chapter)
    except ReuseError as error:
        return False, str(error)
    stale = sum(record.stale for record in found)
    advice = f", {stale} stale: reuselib run {chapter}" if stale else ""
    return not stale, f"{chapter}: {len(found)} records{advice}"
