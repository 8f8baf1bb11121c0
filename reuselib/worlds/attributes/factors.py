"""What the images of the attribute world consist of: nine factors, six that humans annotate and three not."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

FACTORS: dict[str, tuple[str, ...]] = {
    "shape": ("disc", "square", "triangle", "diamond", "cross", "ring"),
    "colour": ("red", "green", "blue", "yellow", "magenta", "cyan"),
    "texture": ("solid", "stripes", "checker"),
    "background": ("dark", "grey", "gradient", "noise"),
    "size": ("small", "large"),
    "count": ("one", "two"),
    "outline": ("none", "white", "black"),
    "frame": ("none", "orange", "green"),
    "tilt": ("upright", "tilted"),
}
"""Factor -> its values; a tuple holds one position for each factor, in this order."""
NAMES = tuple(FACTORS)
SIZES = tuple(len(values) for values in FACTORS.values())
ANNOTATED = NAMES[:6]
HIDDEN = NAMES[6:]
REGIMES = {"full": ANNOTATED, "no-colour": (ANNOTATED[0], *ANNOTATED[2:])}
REGIMES["four"] = ("shape", "texture", "background", "size")
"""Which factors the human vocabulary covers: 23, 17 or 15 attributes. What it leaves out is hidden too."""
ATTRIBUTES = tuple(f"{factor} {value}" for factor in ANNOTATED for value in FACTORS[factor])
"""The 23 attributes of all annotated factors: one for each value."""


def columns(annotated: str) -> list[int]:
    """Return the positions among `ATTRIBUTES` that a regime covers."""
    return [place for place, name in enumerate(ATTRIBUTES) if name.split()[0] in REGIMES[annotated]]


def words(values: Sequence[int] | Tensor) -> str:
    """Describe a tuple by its annotated factors: "two small red striped discs on grey".

    Args:
        values: Positions of the factors' values, nine or the first six.
    """
    shape, colour, texture, background, size, count = (
        FACTORS[name][int(value)] for name, value in zip(ANNOTATED, values[: len(ANNOTATED)], strict=True)
    )
    texture = {"solid": "", "stripes": "striped ", "checker": "checkered "}[texture]
    plural = "" if count == "one" else "es" if shape == "cross" else "s"
    return f"{count} {size} {colour} {texture}{shape}{plural} on {background}"
