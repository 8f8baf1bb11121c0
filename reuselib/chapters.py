"""The chapters' experiments: presets per scale, and the rows of their tables."""

from reuselib.adaptive.study import AdaptiveAmalgamation
from reuselib.attribution.study import AttributionChapter
from reuselib.cmi.study import ContrastiveInversion
from reuselib.depara.study import DeparaChapter
from reuselib.dfad.segmentation import DataFreeDistillation
from reuselib.errors import unknown
from reuselib.layerwise.study import LayerwiseChapter
from reuselib.netgraft.study import Grafting
from reuselib.one_stage_gan.study import OneStage
from reuselib.qfsl.study import QFSLChapter
from reuselib.run.study import Chapter, Run
from reuselib.selective.study import SelectiveChapter

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
        name: such as ``"dfad"``.
        scale: ``"smoke"``, ``"laptop"``, ``"colab"`` or ``"paper"``.

    Raises:
        UnknownName: there is no such chapter or scale; the message gives the nearest.
    """
    if name not in CHAPTERS:
        raise unknown("chapter", name, CHAPTERS)
    return CHAPTERS[name](scale)


__all__ = ["CHAPTERS", "Chapter", "Run", "chapter", "chapters"]
