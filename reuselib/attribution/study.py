"""Chapter 07: which network to reuse, by attribution maps; other scores, controls and ceilings on the same truth.

A row of the zoos is ``zoo<seed>-<score>-<probes>``, or ``zoo<seed>-<control>``; ``zoo<seed>-training`` and
``zoo<seed>-transfers`` make the truth and come first. Networks and truth are the same for every seed of a record, which
draws the probe images (and the halves of ``split-half``). The larger scales have no truth for their networks: rows
``classifiers-<score>-<probes>`` compare torchvision's classifiers, and ``taskonomy-<control>`` are the controls on
Taskonomy's own affinities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reuselib import run
from reuselib.attribution.classifiers import FAMILIES, SMALL_FAMILIES, ClassifierConfig, Classifiers, classifier_rows
from reuselib.attribution.evaluation import GROUPS, Score, taskonomy
from reuselib.attribution.rooms_zoo import UNTRAINED, Zoo, ZooPlan, open_zoo
from reuselib.attribution.scores import CONTROLS, PROBES, SCORES, Bench, ZooConfig, control, outcome, score_metrics
from reuselib.errors import ReuseError
from reuselib.run.legacy import Chapter, Outcome


@dataclass(frozen=True)
class TaskonomyConfig:
    """A control on Taskonomy's own affinities.

    Attributes:
        control: one of ``CONTROLS``, but for "split-half".
    """

    control: str


Config = ZooConfig | ClassifierConfig | TaskonomyConfig


# --- presets ----------------------------------------------------------------------------------------------------------

LAPTOP = ZooPlan()
SMOKE = ZooPlan(
    "rooms-smoke",
    ("autoencoder", "color", "edge2d", "depth", "normals", "scene"),
    residual=("depth",),
    deep=("scene",),
    deep_widths=(6, 6, 8, 8),
    deep_strides=(2, 1, 2, 2),
    images=128,
    updates=12,
    batch=16,
    gate=100.0,
    transfer_images=48,
    test_images=48,
    transfer_updates=6,
    top=2,
    kept=False,
)
SMOKE_PROBES = 12


def zoo_parts(scores: Sequence[str], controls: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The rows of one zoo without its number: name → (part, probes)."""
    scored = {f"{score}-{probes}": (score, probes) for score in scores for probes in PROBES}
    return scored | {control: (control, "") for control in controls}


def _zoo_rows(plan: ZooPlan, numbers: Sequence[int], **changes: Any) -> dict[str, Config]:
    first = {part: (part, "") for part in ("training", "transfers")}
    parts = first | zoo_parts(SCORES, CONTROLS)
    return {
        f"zoo{number}-{row}": ZooConfig(plan, number, part, probes, **changes)
        for number in numbers
        for row, (part, probes) in parts.items()
    }


class AttributionChapter(Chapter):
    """Chapter 07.

    A run of a score keeps ``zoo``, ``truth``, ``names``, ``similarity`` (float64, of all pairs), ``score``, ``tree``,
    ``true_tree``, ``probes`` and, by maps, ``maps`` (networks, probes, h, w); a control ``zoo``, ``truth``, ``score``.
    """

    name = "attribution"
    title = "Which network to reuse, by attribution maps"

    @classmethod
    def presets(cls, scale: str) -> Mapping[str, Config]:
        """The rows of a scale; those that make a zoo come before those that read it."""
        if scale == "smoke":
            return _zoo_rows(SMOKE, (0,), count=SMOKE_PROBES)
        if scale == "laptop":
            return _zoo_rows(LAPTOP, (0, 1))
        scores = SCORES[:5]
        controls: dict[str, Config] = {
            f"taskonomy-{control}": TaskonomyConfig(control) for control in CONTROLS if control != "split-half"
        }
        if scale == "colab":
            return controls | classifier_rows(SMALL_FAMILIES, scores, 200) | _zoo_rows(LAPTOP, (2, 3))
        return controls | classifier_rows(FAMILIES, scores, 1000)

    def perform(self, config: Config, seed: int, checkpoint: str | Path | None, progress: bool, title: str) -> Outcome:
        """Make a zoo, or score its networks, or look at others; ``checkpoint`` is not used, a zoo keeps its own."""
        with run.threads():
            if isinstance(config, TaskonomyConfig):
                return outcome(*on_taskonomy(config))
            if isinstance(config, ClassifierConfig):
                return Classifiers(config, seed).outcome(progress)
            if config.part in ("training", "transfers"):
                return make(config, progress)
            return Bench(config, seed, progress).outcome()


# --- making a zoo -----------------------------------------------------------------------------------------------------


def make(config: ZooConfig, progress: bool) -> Outcome:
    """Train networks or transfers, or find them made; the numbers are those of the making."""
    zoo, history = open_zoo(config.zoo, config.number), run.History()
    history.cost = zoo.train(progress) if config.part == "training" else zoo.ready(progress)
    found = training_metrics(zoo) if config.part == "training" else transfer_metrics(zoo)
    return outcome(found, {"zoo": zoo}, history, zoo.device, run.precision(zoo.device).name)


def training_metrics(zoo: Zoo) -> dict[str, float]:
    """Networks of the matrix, how many passed, seconds of their training, and each one's loss beside the blind one."""
    cards = {name: zoo.card(name) for name in zoo.members}
    ratios = {f"ratio_{name}": card["test_loss"] / card["blind_loss"] for name, card in cards.items()}
    spent = {name: card["seconds"] for name, card in cards.items()}
    matrix = zoo.plan.tasks
    return {
        "seconds": sum(spent[name] for name in matrix),
        "networks": len(matrix),
        "passed": len(zoo.tasks),
        "other_seconds": sum(value for name, value in spent.items() if name not in matrix),
        "other_networks": len(cards) - len(matrix),
        **ratios,
    }


def transfer_metrics(zoo: Zoo) -> dict[str, float]:
    """Transfers, seconds of their training, targets whose own network is best, share above the untrained encoder."""
    card, losses = zoo.piece("transfers").card(), zoo.all_losses
    own = [zoo.truth.affinity[row].argmax() == column for row, column in enumerate(zoo.truth.own)]
    pairs = [
        (losses[target][source].mean(), losses[target][UNTRAINED].mean())
        for target in zoo.targets
        for source in zoo.tasks
    ]
    return {
        "seconds": card["seconds"],
        "transfers": card["transfers"],
        "targets": len(zoo.targets),
        "own_best": sum(map(float, own)),
        "above_untrained": sum(float(a < b) for a, b in pairs) / len(pairs),
    }


def on_taskonomy(config: TaskonomyConfig) -> tuple[dict[str, float], dict[str, Any]]:
    """A control on Taskonomy's affinities: its metrics, and what is kept."""
    truth = taskonomy()
    groups = {name: group for group, names in GROUPS.items() for name in names}

    def halves() -> Score:
        raise ReuseError("Taskonomy's losses, image by image, were not released. Run another control.")

    score = control(truth, config.control, groups, halves)
    return score_metrics(score), {"truth": truth, "score": score}
