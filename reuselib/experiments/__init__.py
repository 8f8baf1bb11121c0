"""The chapters' experiments: presets per scale, and the rows of their tables."""

from reuselib.errors import unknown
from reuselib.experiments.amalgamation_adaptive import AdaptiveAmalgamation
from reuselib.experiments.amalgamation_layerwise import LayerwiseChapter
from reuselib.experiments.attribution_transferability import AttributionChapter
from reuselib.experiments.base import Chapter, Run
from reuselib.experiments.cmi import ContrastiveInversion
from reuselib.experiments.depara import DeparaChapter
from reuselib.experiments.dfad_segmentation import DataFreeDistillation
from reuselib.experiments.netgraft import Grafting
from reuselib.experiments.one_stage_gan import OneStage
from reuselib.experiments.qfsl import QFSLChapter
from reuselib.experiments.selective_zsc import SelectiveChapter

CHAPTERS: dict[str, type[Chapter]] = {
    chapter.name: chapter
    for chapter in (
        DataFreeDistillation,
        ContrastiveInversion,
        OneStage,
        Grafting,
        LayerwiseChapter,
        AdaptiveAmalgamation,
        AttributionChapter,
        DeparaChapter,
        QFSLChapter,
        SelectiveChapter,
    )
}


def chapters() -> list[str]:
    """The names of the chapters that have experiments."""
    return list(CHAPTERS)


def chapter(name: str, scale: str = "laptop") -> Chapter:
    """A chapter's experiments at one scale.

    Args:
        name: such as ``"01_dfad"``.
        scale: ``"smoke"``, ``"laptop"``, ``"colab"`` or ``"paper"``.

    Raises:
        UnknownName: there is no such chapter or scale; the message gives the nearest.
    """
    if name not in CHAPTERS:
        raise unknown("chapter", name, CHAPTERS)
    return CHAPTERS[name](scale)


__all__ = ["CHAPTERS", "Chapter", "Run", "chapter", "chapters"]
