"""The ten papers' studies, by name; only the one that is asked for is imported."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from reuselib.errors import unknown
from reuselib.report import known_scale

STUDIES = {
    "dfad": "DFADStudy",
    "cmi": "CMIStudy",
    "one_stage_gan": "OneStageStudy",
    "netgraft": "NetGraftStudy",
    "layerwise": "LayerwiseStudy",
    "adaptive": "AdaptiveStudy",
    "attribution": "AttributionStudy",
    "depara": "DeparaStudy",
    "qfsl": "QFSLStudy",
    "selective": "SelectiveStudy",
}
"""Paper → class in ``reuselib.<paper>.study``, in the book's order."""


def names() -> list[str]:
    """The papers, in the book's order."""
    return list(STUDIES)


def known(name: str) -> str:
    """The name of a paper unchanged, or `UnknownName` with the nearest."""
    if name not in STUDIES:
        raise unknown("chapter", name, STUDIES)
    return name


def scale(name: str) -> str:
    """The name of a scale unchanged; "auto" is "colab" where a graphics card of CUDA is found, else "laptop".

    Raises:
        UnknownName: there is no such scale; the message gives the nearest.
    """
    if name != "auto":
        return known_scale(name)
    import torch  # takes a while

    return "colab" if torch.cuda.is_available() else "laptop"


def study(name: str, scale: str = "laptop") -> Any:
    """A paper's study at one scale.

    Args:
        name: such as ``"dfad"``.
        scale: ``"smoke"``, ``"laptop"``, ``"colab"`` or ``"paper"``.

    Returns:
        The study, a :class:`~reuselib.run.Study`.

    Raises:
        UnknownName: there is no such paper or scale; the message gives the nearest.

    Example:
        >>> from reuselib import chapters
        >>> study = chapters.study("dfad", scale="smoke")
        >>> study.scale
        'smoke'
    """
    return getattr(import_module(f"reuselib.{known(name)}.study"), STUDIES[name])(scale)
