"""Chapter 10: selective zero-shot classification, on attribute worlds, digits, photographs and benchmarks.

A row is ``<task>-<method>``. The tasks "full", "no-colour" and "four" are the same worlds with other attributes; a
seed is a world. A seed of other tasks but benchmarks is twelve random splits, over which every metric is averaged;
"body" are the photographs of "cifar" with nine of their 24 attributes, "seen" is what chapter 09 calls so. All
methods of one task and seed judge the same answers, but for other methods than ours, whose answers are their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from reuselib.qfsl import rivals, tasks
from reuselib.run import Settings, Study
from reuselib.selective.job import SelectiveJob
from reuselib.worlds.attributes import REGIMES, SELECTIVE_PLAN

STANDARDISED = {"confidence": "standardised"}
BY_PROTOTYPES = {"two-heads": "second", "chosen": "chosen", "similarity": "similarity", "permuted": "permuted"}
BY_PROTOTYPES["random-prototypes"] = "random"
CONFIDENCE_ROWS: dict[str, dict[str, Any]] = {
    **{name: {"confidence": name} for name in ("random", "defined", "margin", "joint", "residual", "perfect")},
    **{"augmented": {}, "standardised": STANDARDISED},
    **{row: {"prototypes": source} for row, source in BY_PROTOTYPES.items()},
    "bootstrap": STANDARDISED | {"prototypes": "unlabelled"},
    "oracle-prototypes": STANDARDISED | {"prototypes": "oracle"},
}
"""Row → what it changes in the settings; so are those that follow. "heads" are options of the network."""
TASK_ROWS = {
    f"{task}{suffix}": CONFIDENCE_ROWS[row] | {"heads": {"task": task}}
    for task in ("remainder", "decorrelated")
    for suffix, row in {"": "augmented", "-standardised": "standardised", "-bootstrap": "bootstrap"}.items()
}
WEIGHT_ROWS = {f"weight-{weight}": {"weight": float(weight)} for weight in ("0.25", "0.5", "1", "2", "4")}
WIDTH_ROWS = {f"width-{width}": {"heads": {"width": width}} for width in (2, 4, 8, 16, 32, 64)}
BASELINES = ("dap", "iap", "conse", "devise", "sje", "latem", "eszsl", "ale", "sync", "sae")
BASELINE_ROWS = {name: {"confidence": "own", "rival": name} for name in BASELINES}
JUDGED_ROWS = {f"{name}-augmented": {"rival": name} for name in ("dap", "eszsl", "ale", "sae")}
SHARED_ROWS: dict[str, dict[str, Any]] = CONFIDENCE_ROWS | TASK_ROWS | BASELINE_ROWS | JUDGED_ROWS
ROWS = SHARED_ROWS | WEIGHT_ROWS | WIDTH_ROWS
REAL_ROWS = ("random", "defined", "augmented", "permuted", "perfect")

LAPTOP = Settings(
    heads={},  # options of the network, where not its own
    confidence="sum",  # "random", "perfect", "own" (the best of the three of another method), or one of CONFIDENCES
    prototypes="ridge",  # where those of unseen classes come from; "second": a second network stands in their place
    weight=1.0,  # w
    rival=None,  # another method that gives the answers
    options={},  # of that method
    choice={},  # options of the class-wise cross-validation of w and κ
)
SMOKE = LAPTOP.but(heads={"steps": 40}, choice={"weights": (0.5, 1.0), "kappas": (1.0, 10.0), "folds": 2})
CHOICE = {"folds": 3, "images": 100}
"""How the options of other methods are chosen on each split of photographs and benchmarks, as in chapter 09."""
STEPS = {"apy": 2800, "awa2": 11_000, "cub": 3300, "sun": 4800}
"""Updates on each benchmark: about thirty passes through its training images."""
SMALL = {"classes": 24, "seen": 18, "train_images": 8, "test_images": 2, "unseen_images": 8}
SMALL |= {"auxiliary_classes": 8, "auxiliary_images": 16}


def rows(
    task: str,
    source: Settings,
    base: Settings,
    names: Iterable[str],
    steps: int | None = None,
    tuned: Mapping[str, int] | None = None,
) -> dict[str, Settings]:
    """The rows of a task; other methods have the options that were chosen for its kind of features.

    The defined attributes depend neither on what the residual ones learn nor on their number: with one seed all
    networks give the same answers, bit for bit, and one that learned defined attributes alone is the same network.

    Args:
        task: of the rows.
        source: of images and attributes.
        base: what a row changes.
        names: keys of ``ROWS``.
        steps: updates of other methods that learn step by step, if not their own number.
        tuned: how their options are chosen on each split; as the kind of features says, if left out.
    """
    found = {}
    for name in names:
        changes = dict(ROWS[name])
        heads = Settings(**base.heads | changes.pop("heads", {}))
        rival = changes.get("rival")
        changes |= {"heads": heads, "options": Settings(**rivals.chosen(source.name, rival, steps) if rival else {})}
        choice = {"tuned": tuned} if rival and tuned else {}
        found[f"{task}-{name}"] = Settings(method=name, source=source, **base.but(**changes), **choice)
    return found


class SelectiveStudy(Study):
    """Chapter 10; a run gives a :class:`~reuselib.selective.job.SelectiveResult` of its first split."""

    name = "selective"
    title = "Selective zero-shot classification"

    @classmethod
    def declare(cls, scale: str) -> Mapping[str, Settings]:
        """The rows of a scale."""
        found: dict[str, Settings] = {}
        if scale == "colab":
            photographs = Settings(name="cifar", splits=tasks.SPLITS)
            own = {"cifar": SHARED_ROWS, "body": CONFIDENCE_ROWS | TASK_ROWS | BASELINE_ROWS, "seen": CONFIDENCE_ROWS}
            for task, names in own.items():
                source = photographs.but(name=task)
                source = Settings(**source, epochs=tasks.EPOCHS) if task == "seen" else source
                found |= rows(task, source, LAPTOP, names, tuned=CHOICE)
        if scale in ("colab", "paper"):
            for name in ("awa2",) if scale == "colab" else (*STEPS, *(f"{name}ss" for name in STEPS)):
                base = LAPTOP.but(heads={"width": 64, "steps": STEPS[name.removesuffix("ss")]})
                found |= rows(name, Settings(name=name, splits=1), base, SHARED_ROWS, tuned=CHOICE | {"images": 150})
            return found
        small = scale == "smoke"
        base, plan = (SMOKE, asdict(SELECTIVE_PLAN) | SMALL) if small else (LAPTOP, asdict(SELECTIVE_PLAN))
        for regime in REGIMES:
            own = plan | {"annotated": regime}
            source = Settings(name="world", plan=own, epochs=1 if small else 8, splits=1)
            found |= rows(regime, source, base, ROWS, 40 if small else None)
        for task in ("digits", "segments"):
            found |= rows(task, Settings(name=task, splits=2 if small else tasks.SPLITS), base, REAL_ROWS)
        return found

    def job(self, settings: Settings, seed: int = 0, **options: Any) -> SelectiveJob:
        """The job of a row."""
        return SelectiveJob(settings, seed, **options)

    def needed(self, settings: Settings) -> tuple[set[str], set[str]]:
        """The benchmark, or the images whose classes get attributes."""
        return tasks.image_sets(settings.source.name), set()
