"""The one look of all figures, and how a notebook shows them: colours, type, PNG, alt text.

The background is white, whatever the page's: text and colours keep their contrast in dark mode.
"""

from __future__ import annotations

import builtins
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from textwrap import fill
from typing import Any

import matplotlib
import numpy
import seaborn
from cycler import cycler
from matplotlib.figure import Figure
from PIL import Image

from reuselib import checks
from reuselib.errors import BadValue, NonFinite, ReuseError, unknown

# Okabe and Ito's palette, the colours with most contrast on white first.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
VALUES = "cividis"
INK = "#222222"
FAINT = "#767676"
WIDTH = 7.0  # inches, drawn as wide as the book's column
COLUMN = 750  # pixels

STYLE: Any = {
    **seaborn.axes_style("ticks"),
    **seaborn.plotting_context("paper", font_scale=1.05),
    "figure.constrained_layout.use": True,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=PALETTE),
    "font.sans-serif": ["DejaVu Sans"],
    "grid.color": "#E4E4E4",
    "legend.title_fontsize": "small",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.facecolor": "white",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the book's look to whatever is drawn inside the context."""
    with matplotlib.rc_context(STYLE):
        yield


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Make a function draw in the book's look; values of no form that it knows are refused by its name."""

    @functools.wraps(function)
    def drawn(*arguments: Any, **named: Any) -> Figure:
        with style():
            try:
                return function(*arguments, **named)
            except ReuseError:
                raise
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                what, name = f"{type(error).__name__}: {error}", function.__name__
                raise BadValue(f"{name} cannot draw these values ({what}). Fix: see help(figures.{name})") from error

    return drawn


def array(values: Any) -> numpy.ndarray:
    """Give a tensor of any device and type, or anything array-like, as a float array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    return numpy.asarray(values, dtype=float)


def bounds(values: numpy.ndarray) -> tuple[float, float]:
    """Give the least and the greatest finite value, 0 and 1 where there is none."""
    known = values[numpy.isfinite(values)]
    return (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)


def finite(name: str, values: Any) -> numpy.ndarray:
    """Give the values as a flat float array; NaN and infinity would be drawn as if nothing had been measured.

    Raises:
        NonFinite: one is NaN or infinite.
    """
    found = array(values).ravel()
    if not numpy.isfinite(found).all():
        raise NonFinite(f"{name!r} holds NaN or infinity. Leave it empty where nothing was measured.")
    return found


def limits(scale: str | tuple[float, float], arrays: Iterable[numpy.ndarray]) -> tuple[float, float] | None:
    """Give the ends of a scale of colours: of all arrays if "shared", a pair itself, None if "each" has its own.

    Raises:
        UnknownName: the scale has no such name.
        BadValue: an end is no finite number.
    """
    if isinstance(scale, str) and scale not in ("each", "shared"):
        raise unknown("scale", scale, ["each", "shared"])
    if scale == "shared":
        return bounds(numpy.concatenate([each.ravel() for each in arrays]))
    if isinstance(scale, str):
        return None
    low, high = scale
    checks.number(-numpy.inf, black=low, white=high)
    return low, high


def headline(figure: Figure, text: str, size: float = 13) -> Figure:
    """Write above a figure, as wide as it is, what it shows; give the figure."""
    wide = max(12, int(figure.get_figwidth() * 72 / (0.6 * size)))
    figure.text(0.0, 1 + 0.1 / figure.get_figheight(), fill(text, wide), va="bottom", weight="bold", fontsize=size)
    return figure


DRAFT = 40
"""Pixels per inch where `REUSELIB_DRAFT=1`: pictures took half of the runs that only show that a notebook runs."""


def png(figure: Figure, dpi: int = 192) -> bytes:
    """Give the figure as an optimised PNG on white, without the date or the name of a program.

    It has a palette of 256 colours, a third of the bytes, unless that would change colours by more than one in 255 on
    average; what does change is the smoothing along edges. A draft stays as it is drawn.
    """
    file = BytesIO()
    with style():
        figure.savefig(file, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.04)
    if dpi <= DRAFT:
        return file.getvalue()
    with Image.open(file) as drawn:
        full = drawn.convert("RGB")
    few = full.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    error = numpy.abs(numpy.asarray(full, dtype=int) - numpy.asarray(few.convert("RGB"), dtype=int)).mean()
    small = BytesIO()
    (few if error <= 1 else full).save(small, format="PNG", optimize=True)
    return small.getvalue()


def show(figure: Any, alt: str, caption: str | None = None, dpi: int = 192) -> None:
    """Display a figure in a notebook as one PNG with alt text, and its caption below.

    Alt text, caption and width travel in the output's metadata, from where `notebook.BookFigure` makes an HTML figure
    of them when the book is built. Outside a notebook the texts are printed.

    Args:
        figure: what to display, seaborn's grids too; a figure of pyplot's is closed.
        alt: what a reader who cannot see the figure should know, in a sentence or two.
        caption: what every reader should know, as Markdown: what the rows are, how samples were chosen.
        dpi: pixels per inch; more do not make it larger on the page, but sharper.

    Raises:
        ReuseError: the alt text is empty.
        BadValue: there is no figure.
    """
    checks.whole(dpi=dpi)
    if not isinstance(alt, str) or not alt.strip():
        raise ReuseError("a figure needs alt text. Say in a sentence or two what it shows: show(figure, alt=...).")
    figure = getattr(figure, "figure", figure)
    if not isinstance(figure, Figure):
        raise BadValue(f"show displays a figure of matplotlib, not {figure!r}.")
    dpi = min(dpi, DRAFT) if os.environ.get("REUSELIB_DRAFT") == "1" else dpi
    data = png(figure, dpi)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(figure)
    if not hasattr(getattr(builtins, "get_ipython", lambda: None)(), "kernel"):
        print(*[alt, caption] if caption else [alt], sep="\n")
        return
    width = Image.open(BytesIO(data)).width / dpi
    texts = {"alt": alt, "width": round(min(width / WIDTH, 1) * COLUMN)}
    displayed({"image/png": data, "text/plain": alt}, texts | ({"caption": caption} if caption else {}))


def displayed(data: dict[str, Any], texts: dict[str, Any]) -> None:
    """Display data in a notebook with the texts about its first form, and the caption among them below."""
    from IPython.display import display

    display(data, metadata={next(iter(data)): texts}, raw=True)
    if "caption" in texts:
        display({"text/markdown": texts["caption"]}, metadata={"text/markdown": {"caption": True}}, raw=True)
