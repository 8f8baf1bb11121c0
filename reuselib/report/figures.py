"""The book's figures: one look, colours that colour-blind readers can tell apart, and alt text for each.

Every function returns a `matplotlib.figure.Figure` that pyplot does not know of, so nothing is left open.
The background is white, whatever the page's: text and colours keep their contrast in dark mode. Arrays and
tensors on any device are taken alike.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import cycle
from typing import Any

import matplotlib
import numpy
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath
from matplotlib.ticker import LogFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image

from reuselib.errors import ReuseError, ShapeMismatch, unknown

# Okabe and Ito's palette, the colours with most contrast on white first.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
DASHES = ("-", "--", "-.", ":")
VALUES = "cividis"
INK = "#222222"
FAINT = "#767676"
WIDTH = 7.0

STYLE: Any = {
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "axes.facecolor": "white",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=PALETTE),
    "font.size": 9,
    "grid.color": "#E4E4E4",
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


def _styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    @functools.wraps(function)
    def styled(*arguments: Any, **named: Any) -> Figure:
        with style():
            return function(*arguments, **named)

    return styled


def png(figure: Figure, dpi: int = 110) -> bytes:
    """Give the figure as an optimised PNG on white, without the date or the name of a program.

    It has a palette of 256 colours, a third of the bytes, unless that would change colours by more than one in 255 on
    average; what does change is the smoothing along edges.
    """
    file = BytesIO()
    with style():
        figure.savefig(file, format="png", dpi=dpi)
    with Image.open(file) as drawn:
        full = drawn.convert("RGB")
    few = full.quantize(256, Image.Quantize.MEDIANCUT, kmeans=4, dither=Image.Dither.NONE)
    error = numpy.abs(numpy.asarray(full, dtype=int) - numpy.asarray(few.convert("RGB"), dtype=int)).mean()
    small = BytesIO()
    (few if error <= 1 else full).save(small, format="PNG", optimize=True)
    return small.getvalue()


def show(figure: Figure, alt: str, caption: str | None = None, dpi: int = 110) -> None:
    """Display a figure in a notebook as one PNG with alt text, and its caption below.

    The alt text and the caption travel in the output's metadata, from where `notebook.BookFigure` makes an
    HTML figure of them when the book is built. Outside a notebook the texts are printed.

    Args:
        figure: what to display; a figure of pyplot's is closed.
        alt: what a reader who cannot see the figure should know, in a sentence or two.
        caption: what every reader should know, as Markdown: what the rows are, how samples were chosen.
        dpi: pixels per inch.

    Raises:
        ReuseError: the alt text is empty.
    """
    if not alt or not alt.strip():
        raise ReuseError("a figure needs alt text. Say in a sentence or two what it shows: show(figure, alt=...).")
    data = png(figure, dpi)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(figure)
    texts = {"alt": alt} | ({"caption": caption} if caption else {})
    if not _in_notebook():
        print(*texts.values(), sep="\n")
        return
    from IPython.display import display

    display({"image/png": data, "text/plain": alt}, metadata={"image/png": texts}, raw=True)
    if caption:
        display({"text/markdown": caption}, metadata={"text/markdown": {"caption": True}}, raw=True)


def _in_notebook() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None


@_styled
def image_grid(
    images: Any,
    rows: Sequence[str],
    columns: Sequence[str] | None = None,
    title: str | None = None,
    scale: str | tuple[float, float] = "shared",
    values: str | None = None,
) -> Figure:
    """Draw every image once, in labelled rows; a line below says how values became colours.

    Args:
        images: (N, C, H, W) with C of 1 or 3, filling the rows one after the other, N a multiple of their
            number; or one such stack per row, of any lengths. Any range; uint8 too.
        rows: what each row is.
        columns: what each column is.
        title: above the grid.
        scale: "shared": the least value of all images is black and the greatest white. "each": so for every
            image alone. A pair (low, high): those values are black and white.
        values: name of the quantity that the images hold, where they are no pictures (attributions,
            features); draws single channels in cividis, with a colour bar.

    Raises:
        ShapeMismatch: the images do not fill the rows, or are of several shapes.
        UnknownName: the scale has no such name.
    """
    stacks = _stacks(images, rows)
    across = max(len(stack) for stack in stacks)
    if columns is not None and len(columns) != across:
        raise ShapeMismatch(f"{len(columns)} column labels for rows of {across} images. Give one per column.")
    scaled, low, high, note = _scaled(stacks, scale)
    mosaic = _mosaic(scaled, across)
    figure, axes = _canvas(stacks, rows, columns, title, values)
    shown = axes.imshow(mosaic, cmap=VALUES if values else "gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title or "")
    figure.supxlabel(note, x=0.01, ha="left", fontsize=7.5, color=FAINT)
    if values and scale != "each":
        bar = figure.colorbar(shown, ax=axes, label=values, ticks=[0, 0.5, 1], shrink=0.8)
        bar.ax.set_yticklabels([f"{low + part * (high - low):.3g}" for part in (0, 0.5, 1)])
    return figure


def _array(values: Any) -> numpy.ndarray:
    """Give a tensor of any device and type, or anything array-like, as a float array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    return numpy.asarray(values, dtype=float)


def _stacks(images: Any, rows: Sequence[str]) -> list[numpy.ndarray]:
    """Cut the images into one (K, C, H, W) stack per row."""
    if not rows:
        raise ShapeMismatch("a grid needs at least one row label. Say what the rows are.")
    if getattr(images, "ndim", 0) == 4:
        if len(images) == 0 or len(images) % len(rows):
            raise ShapeMismatch(f"{len(images)} images do not fill {len(rows)} rows. Give a multiple of that.")
        count = len(images) // len(rows)
        images = [images[start : start + count] for start in range(0, len(images), count)]
    stacks = [_array(stack) for stack in images]
    shapes = {stack.shape[1:] for stack in stacks}
    if len(stacks) != len(rows):
        raise ShapeMismatch(f"{len(stacks)} rows of images for {len(rows)} labels. Give one label per row.")
    if len(shapes) > 1 or stacks[0].ndim != 4 or stacks[0].shape[1] not in (1, 3) or not all(map(len, stacks)):
        found = ", ".join(str(stack.shape) for stack in stacks)
        raise ShapeMismatch(f"a grid takes images (N, C, H, W) of one shape with 1 or 3 channels, not {found}.")
    return stacks


def _scaled(
    stacks: list[numpy.ndarray], scale: str | tuple[float, float]
) -> tuple[list[numpy.ndarray], float, float, str]:
    """Map the values to [0, 1]; give also the range and the sentence that says what was done."""
    if isinstance(scale, str) and scale not in ("shared", "each"):
        raise unknown("scale", scale, ["shared", "each"])
    if scale == "each":
        ranges = [[_range(image) for image in stack] for stack in stacks]
        low, high, note = 0.0, 1.0, "Each image is stretched to its own range."
    else:
        pooled = numpy.concatenate([stack.ravel() for stack in stacks])
        low, high = _range(pooled) if isinstance(scale, str) else scale
        ranges = [[(low, high)] * len(stack) for stack in stacks]
        note = f"One scale for all images: {low:.3g} to {high:.3g}" + ("." if isinstance(scale, str) else ", clipped.")
    scaled = []
    for stack, limits in zip(stacks, ranges, strict=True):
        lows, highs = (numpy.array(ends).reshape(-1, 1, 1, 1) for ends in zip(*limits, strict=True))
        scaled.append(numpy.clip((stack - lows) / numpy.maximum(highs - lows, 1e-12), 0, 1))
    return scaled, low, high, note


def _range(values: numpy.ndarray) -> tuple[float, float]:
    finite = values[numpy.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def _mosaic(stacks: list[numpy.ndarray], across: int) -> numpy.ndarray:
    """Lay images out with one-pixel gaps, as RGBA or masked grey; cells without an image stay empty."""
    channels, height, width = stacks[0].shape[1:]
    canvas = numpy.full((len(stacks) * (height + 1) - 1, across * (width + 1) - 1, channels), numpy.nan)
    for row, stack in enumerate(stacks):
        for column, image in enumerate(stack):
            top, left = row * (height + 1), column * (width + 1)
            canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    if channels == 1:
        return canvas[..., 0]
    opacity = numpy.isfinite(canvas).all(axis=2, keepdims=True)
    return numpy.concatenate([numpy.nan_to_num(canvas), opacity], axis=2)


def _canvas(
    stacks: list[numpy.ndarray],
    rows: Sequence[str],
    columns: Sequence[str] | None,
    title: str | None,
    values: str | None,
) -> tuple[Figure, Axes]:
    """Open a figure that fits the grid, its rows and columns labelled."""
    height, width = stacks[0].shape[2:]
    across = max(len(stack) for stack in stacks)
    margin = 0.3 + 0.085 * max(len(row) for row in rows) + (0.9 if values else 0)
    inches = min(0.75, (WIDTH - margin) / across)
    longest = 0.075 * max((len(column) for column in columns or ()), default=0)
    slanted = longest > inches
    top = 0.3 * (title is not None) + (0.6 * longest if slanted else 0.3 * (columns is not None))
    size = (max(margin + inches * across, 3.5), 0.35 + top + inches * len(stacks) * height / width)
    figure = Figure(figsize=size)
    axes = figure.add_subplot()
    axes.set_yticks([(height + 1) * row + height / 2 - 0.5 for row in range(len(rows))], rows)
    if columns is not None:
        middles = [(width + 1) * column + width / 2 - 0.5 for column in range(across)]
        axes.set_xticks(middles, columns, rotation=35 if slanted else 0, ha="left" if slanted else "center")
    else:
        axes.set_xticks([])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure, axes


@_styled
def mask_grid(rows: Mapping[str, Any], classes: Sequence[str], colours: Sequence[Any] = PALETTE) -> Figure:
    """Draw images and masks of classes in labelled rows, with one legend of the classes.

    Args:
        rows: label to images (N, C, H, W) with C of 1 or 3, black at 0 and white at 1, clipped; or to masks
            (N, H, W) of classes from 0. Pixels that have none of the classes stay empty.
        classes: their names.
        colours: of the classes, as matplotlib takes them.

    Raises:
        ShapeMismatch: there are too few colours, or images and masks are of several sizes.
    """
    if len(colours) < len(classes):
        raise ShapeMismatch(f"{len(colours)} colours for {len(classes)} classes. Give one for each.")
    table = numpy.array([to_rgb(colour) for colour in colours[: len(classes)]])
    stacks = _stacks([_coloured(_array(each), table) for each in rows.values()], list(rows))
    figure, axes = _canvas(stacks, list(rows), None, None, None)
    figure.set_figheight(figure.get_figheight() + 0.25)
    figure.set_layout_engine("constrained", w_pad=0.12)  # else the longest label begins at the very edge
    axes.imshow(_mosaic(stacks, max(map(len, stacks))), interpolation="nearest")
    handles = [Patch(facecolor=colour, edgecolor=FAINT, linewidth=0.5) for colour in table]
    figure.legend(handles, classes, loc="outside lower left", ncols=len(classes), handlelength=1, columnspacing=1.2)
    return figure


def _coloured(stack: numpy.ndarray, table: numpy.ndarray) -> numpy.ndarray:
    """Give images in colour (N, 3, H, W) of images in [0, 1], or of masks (N, H, W), NaN where there is no class."""
    if stack.ndim == 4:
        return numpy.clip(numpy.broadcast_to(stack, (len(stack), 3, *stack.shape[2:])), 0, 1)
    known = (stack >= 0) & (stack < len(table))
    colours = numpy.where(known[..., None], table[numpy.where(known, stack, 0).astype(int)], numpy.nan)
    return numpy.moveaxis(colours, -1, 1)


@_styled
def curves(
    lines: Mapping[str, Sequence[Any]],
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    bands: str = "band: mean ± sd over seeds",
    drops: Sequence[float] = (),
    references: Mapping[str, float] | None = None,
    log: bool = False,
) -> Figure:
    """Draw one line per label, with a band where there are several seeds.

    Args:
        lines: label to (x, y) with y of (points,) or (seeds, points), or to (x, mean, sd).
        xlabel: what x is, with its unit.
        ylabel: what y is, with its unit.
        title: above the axes.
        bands: what the bands are, said in the figure where one is drawn.
        drops: x at which the learning rate drops, as dotted vertical lines.
        references: label to y of dashed horizontal lines, such as the teacher's accuracy.
        log: make the vertical axis logarithmic.
    """
    figure = Figure(figsize=(WIDTH, 3.4))
    axes = figure.add_subplot(title=title or "", xlabel=xlabel, ylabel=ylabel)
    notes = []
    for index, (label, line) in enumerate(lines.items()):
        x, mean, spread = _line(line, label)
        colour, dash = PALETTE[index % 7], DASHES[index // 7 % 4]
        axes.plot(x, mean, dash, color=colour, label=label)
        if spread is not None:
            axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
            notes = [bands]
    for drop in drops:
        axes.axvline(drop, color=FAINT, linestyle=":", linewidth=1)
    if len(drops):
        notes.append("dotted: learning rate drops")
    for label, height in (references or {}).items():
        axes.axhline(height, color=FAINT, linestyle="--", linewidth=1)
        _write_right(axes, label, height)
    if log:
        axes.set_yscale("log")
        for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            set_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes.grid(axis="y")
    _legend_below(figure, len(lines), "; ".join(notes))
    return figure


def _legend_below(figure: Figure, entries: int, title: str) -> None:
    """Write the legend below the axes, in as many columns up to four as fit."""
    for across in range(min(4, max(1, entries)), 0, -1):
        legend = figure.legend(loc="outside lower left", ncols=across, title=title, alignment="left")
        legend.get_title().set_fontsize(7.5)
        if legend.get_window_extent().width <= figure.bbox.width or across == 1:
            return
        legend.remove()


def _write_right(axes: Axes, text: str, height: float) -> None:
    """Write beside the right end of the axes, at a height in data units."""
    place = axes.get_yaxis_transform()
    axes.annotate(text, (1, height), (4, 0), place, "offset points", va="center", fontsize=8)


def _write_above(axes: Axes, text: str, x: float) -> None:
    """Write above the axes, at an x in data units."""
    axes.annotate(text, (x, 1), (0, 2), axes.get_xaxis_transform(), "offset points", ha="center", fontsize=8)


def _line(line: Sequence[Any], label: str) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray | None]:
    """Give x, mean and spread of a line, spread None where there is one seed."""
    x, y, *rest = (_array(part) for part in line)
    spread = rest[0] if rest else None
    if y.ndim == 2:
        spread = y.std(axis=0, ddof=1) if len(y) > 1 else None
        y = y.mean(axis=0)
    if x.shape != y.shape or (spread is not None and spread.shape != y.shape):
        raise ShapeMismatch(f"line {label!r} has {x.shape} x values for {y.shape} y values. Give as many of both.")
    return x, y, spread


@_styled
def bars_with_seeds(
    values: Mapping[str, Sequence[float]],
    xlabel: str,
    references: Mapping[str, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw one horizontal bar per label up to the mean of its seeds, and a dot for every seed.

    Args:
        values: label to the value of each seed; without any, the row says that it was not run.
        xlabel: what the values are.
        references: label to value of dashed vertical lines, such as chance.
        title: above the axes.
    """
    figure = Figure(figsize=(WIDTH, 0.8 + 0.36 * len(values)))
    axes = figure.add_subplot(xlabel=xlabel)
    for position, seeds in enumerate(_array(each) for each in values.values()):
        mean = seeds.mean() if seeds.size else 0.0
        axes.barh(position, mean, height=0.62, color=PALETTE[5], alpha=0.75)
        axes.plot(seeds, numpy.full(len(seeds), position), "o", color=PALETTE[0], markersize=4)
        _write_right(axes, f"{mean:.3f}" if seeds.size else "not run", position)
    for label, value in (references or {}).items():
        axes.axvline(value, color=FAINT, linestyle="--", linewidth=1)
        _write_above(axes, label, value)
    axes.set_title(title or "", pad=16 if references and title else None)
    axes.set_yticks(range(len(values)), values)
    axes.invert_yaxis()
    axes.grid(axis="x")
    figure.supxlabel("Bars and numbers: means. Dots: seeds.", x=0.01, ha="left", fontsize=7.5, color=FAINT)
    return figure


@_styled
def bars_with_quartiles(
    panels: Mapping[str, Mapping[str, Sequence[float]]], xlabel: str, title: str | None = None
) -> Figure:
    """Draw horizontal bars up to a median, with a line from quartile to quartile; one panel per group of bars.

    Args:
        panels: title of the panel to label of the bar to (lower quartile, median, upper quartile); an empty triple says
            that the bar was not measured. All panels have the same bars.
        xlabel: what the values are, with their unit.
        title: above the panels.

    Raises:
        ShapeMismatch: the panels differ in their bars.
    """
    bars = list(next(iter(panels.values())))
    figure = Figure(figsize=(WIDTH, 0.95 + 0.3 * len(bars)))
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (label, triples) in zip(row, panels.items(), strict=True):
        if list(triples) != bars:
            raise ShapeMismatch(f"panel {label!r} has the bars {list(triples)}, the first one {bars}.")
        for position, triple in enumerate(_array(each) for each in triples.values()):
            low, middle, high = triple if triple.size else (0.0, 0.0, 0.0)
            axes.barh(position, middle, height=0.62, color=PALETTE[5], alpha=0.75)
            axes.plot([low, high], [position, position], color=INK, linewidth=1.4)
            text = f"{middle:.3g}" if triple.size else "not run"
            axes.annotate(text, (high, position), (4, 0), "data", "offset points", va="center", fontsize=8)
        axes.set_title(label)
        axes.margins(x=0.3)
        axes.set_xlim(left=0)
        axes.grid(axis="x")
    row[0].set_yticks(range(len(bars)), bars)
    row[0].invert_yaxis()
    row[0].set_xlabel(xlabel, loc="left")
    figure.suptitle(title or "", x=0.01, ha="left", fontsize=10)
    figure.supxlabel(
        "Bars and numbers: medians. Lines: from quartile to quartile.", x=0.01, ha="left", fontsize=7.5, color=FAINT
    )
    return figure


@_styled
def class_coverage(counts: Mapping[str, Sequence[int]], classes: Sequence[str], title: str | None = None) -> Figure:
    """Draw how images spread over classes, one panel per source, beside the even share.

    Args:
        counts: label of the source to the number of images in each class.
        classes: names of the classes, in the order of the counts.
        title: above the panels.

    Raises:
        ShapeMismatch: a source has another number of classes.
    """
    figure = Figure(figsize=(WIDTH, 1.0 + 1.25 * len(counts)))
    panels = figure.subplots(len(counts), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, colour, (label, each) in zip(panels, cycle(PALETTE[:7]), counts.items(), strict=False):
        number = _array(each)
        if number.shape != (len(classes),):
            raise ShapeMismatch(f"{label!r} has counts of shape {number.shape} for {len(classes)} classes.")
        axes.bar(range(len(classes)), number / max(number.sum(), 1), color=colour)
        axes.axhline(1 / len(classes), color=FAINT, linestyle="--", linewidth=1)
        axes.set_title(f"{label}: {int((number > 0).sum())} of {len(classes)} classes occur")
    panels[-1].set_xticks(range(len(classes)), classes, rotation=35, ha="right", rotation_mode="anchor")
    figure.supylabel("share of the images (dashed: even)", fontsize=9)
    figure.suptitle(title or "", x=0.01, ha="left", fontsize=10)
    return figure


@_styled
def scatter(
    pairs: Mapping[str, tuple[Any, Any]], xlabel: str, ylabel: str, title: str | None = None, limit: int = 2000
) -> Figure:
    """Draw one panel per label of y against x, with the diagonal on which both agree.

    Args:
        pairs: label to (x, y) of the same shape, such as the teacher's and the student's logits (B, C).
        xlabel: what x is.
        ylabel: what y is.
        title: above the panels.
        limit: most points drawn in a panel, chosen at random with a fixed seed; the mean counts all.
    """
    figure = Figure(figsize=(WIDTH, 3.2 if len(pairs) > 1 else 4.4))
    panels = figure.subplots(1, len(pairs), sharex=True, sharey=True, squeeze=False)[0]
    arrays = {label: (_array(x).ravel(), _array(y).ravel()) for label, (x, y) in pairs.items()}
    low, high = _range(numpy.concatenate([part for pair in arrays.values() for part in pair]))
    for axes, (label, (x, y)) in zip(panels, arrays.items(), strict=True):
        if x.shape != y.shape:
            raise ShapeMismatch(f"{label!r} has {x.size} x values for {y.size} y values. Give as many of both.")
        drawn = numpy.random.default_rng(0).permutation(x.size)[:limit]
        axes.plot([low, high], [low, high], color=FAINT, linestyle="--", linewidth=1)
        axes.plot(x[drawn], y[drawn], ".", color=PALETTE[0], alpha=0.35, markersize=4, markeredgewidth=0)
        axes.set_title(f"{label}\nmean |difference| {numpy.abs(x - y).mean():.3g}")
        axes.set_aspect("equal")
        axes.set_xlabel(xlabel)
    panels[0].set_ylabel(ylabel)
    figure.suptitle(title or "", x=0.01, ha="left", fontsize=10)
    return figure


@_styled
def histogram(
    values: Mapping[str, Any], xlabel: str, title: str | None = None, bins: int = 50, log: bool = False
) -> Figure:
    """Draw the distribution of each label's values as an outline over common bins.

    Args:
        values: label to values of any shape.
        xlabel: what the values are.
        title: above the axes.
        bins: number of bins between the least and the greatest of all values.
        log: make the vertical axis logarithmic.
    """
    figure = Figure(figsize=(WIDTH, 3.0))
    axes = figure.add_subplot(title=title or "", xlabel=xlabel, ylabel="share of the values")
    arrays = {label: _array(each).ravel() for label, each in values.items()}
    edges = numpy.linspace(*_range(numpy.concatenate(list(arrays.values()))), bins + 1)
    for index, (label, each) in enumerate(arrays.items()):
        share = numpy.histogram(each, edges)[0] / max(each.size, 1)
        axes.stairs(share, edges, color=PALETTE[index % 7], linestyle=DASHES[index % 4], linewidth=1.8, label=label)
    axes.set_yscale("log" if log else "linear")
    axes.legend()
    return figure


@_styled
def clouds(
    points: Mapping[str, Any], xlabel: str, ylabel: str, background: str | None = None, title: str | None = None
) -> Figure:
    """Draw one panel per label of points in the plane, all over the same background cloud.

    Args:
        points: label to points (N, 2).
        xlabel: what the first coordinate is.
        ylabel: what the second coordinate is.
        background: label of the points that every panel shows in grey instead of having a panel.
        title: above the panels.

    Raises:
        ShapeMismatch: the points are not (N, 2).
    """
    arrays = {label: _array(each) for label, each in points.items()}
    for label, each in arrays.items():
        if each.ndim != 2 or each.shape[1] != 2:
            raise ShapeMismatch(f"{label!r} has points of shape {each.shape}. Give (N, 2).")
    behind = arrays.pop(background) if background else numpy.empty((0, 2))
    figure = Figure(figsize=(WIDTH, 0.6 + WIDTH / len(arrays)))
    panels = figure.subplots(1, len(arrays), sharex=True, sharey=True, squeeze=False)[0]
    for index, (axes, (label, each)) in enumerate(zip(panels, arrays.items(), strict=True)):
        axes.plot(*behind.T, ".", color="#C8C8C8", markersize=3, markeredgewidth=0, label=background)
        axes.plot(*each.T, ".", color=PALETTE[index % 7], alpha=0.6, markersize=4, markeredgewidth=0)
        axes.set_title(label)
        axes.set_xlabel(xlabel)
    panels[0].set_ylabel(ylabel)
    if background:
        panels[0].legend(loc="best", markerscale=3)
    figure.suptitle(title or "", x=0.01, ha="left", fontsize=10)
    return figure


@_styled
def planes(
    panels: Mapping[str, Mapping[str, Any]],
    looks: Mapping[str, tuple[str, int, float]],
    xlabel: str = "",
    ylabel: str = "",
    across: int = 2,
    ticks: bool = True,
) -> Figure:
    """Draw points and lines in the plane, panels on one scale with one legend.

    Args:
        panels: title of the panel to label to points (N, 2), drawn in this order.
        looks: label to mark or dash of Matplotlib, place in the palette, and size of the marks. A label that begins
            with an underscore is grey, and not in the legend.
        xlabel: what the first coordinate is.
        ylabel: what the second coordinate is.
        across: panels in a row.
        ticks: False where the coordinates mean nothing.

    Raises:
        ShapeMismatch: the points are not (N, 2).
    """
    down = -(-len(panels) // across)
    figure = Figure(figsize=(WIDTH, 0.9 + down * min(3.4, 0.98 * WIDTH / across)))
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for axes, (title, contents) in zip(grid.ravel(), panels.items(), strict=False):
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        for label, each in contents.items():
            points, (mark, place, size) = _array(each), looks[label]
            if points.ndim != 2 or points.shape[1] != 2:
                raise ShapeMismatch(f"{label!r} has points of shape {points.shape}. Give (N, 2).")
            colour = FAINT if label.startswith("_") else PALETTE[place]
            edge = INK if mark in ("s", "^", "D") else colour
            style: dict[str, Any] = {"color": colour, "markersize": size, "markeredgecolor": edge, "alpha": 0.8}
            axes.plot(*points.T, mark, label=label, linewidth=0.8 if label.startswith("_") else 1.8, **style)
        if not ticks:
            axes.set(xticks=[], yticks=[])
    _common_legend(figure, "")
    return figure


@_styled
def dots_with_seeds(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    xlabel: str,
    references: Mapping[str, Mapping[str, float]] | None = None,
    across: int = 2,
    errors: Mapping[str, Mapping[str, float]] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> Figure:
    """Draw a dot for every seed and a stroke at their mean, a line for each label; one panel per group.

    For values that lie close together and far from zero, where bars would be all alike.

    Args:
        panels: title of the panel to label to the value of each seed; without any, the line says that it was not
            run. All panels have the same labels.
        xlabel: what the values are.
        references: title of the panel to label to value of dashed vertical lines, such as a ceiling.
        across: panels in a row.
        errors: title of the panel to label to the standard error of the mean, drawn as a line to both sides.
        kinds: label to what kind of line it is: each kind has its own colour and mark, and a place in a legend.

    Raises:
        ShapeMismatch: the panels differ in their labels.
    """
    labels = list(next(iter(panels.values())))
    names = list(dict.fromkeys((kinds or {}).values()))
    looks: dict[str, Any] = {name: {"marker": "oDs^"[k % 4], "color": PALETTE[k % 7]} for k, name in enumerate(names)}
    plain: dict[str, Any] = {"marker": "o", "color": PALETTE[0]}
    down = -(-len(panels) // across)
    figure = Figure(figsize=(WIDTH, 0.35 + down * (0.55 + 0.24 * len(labels))))
    grid = figure.subplots(down, across, sharey=True, squeeze=False)
    for axes, (title, lines) in zip(grid.ravel(), panels.items(), strict=False):
        if list(lines) != labels:
            raise ShapeMismatch(f"panel {title!r} has the lines {list(lines)}, the first one {labels}.")
        for position, seeds in enumerate(map(_array, lines.values())):
            look = looks[kinds[labels[position]]] if kinds else plain
            axes.plot(seeds, numpy.full(len(seeds), position), linestyle="none", alpha=0.55, markersize=4.5, **look)
            if seeds.size:
                axes.plot(seeds.mean(), position, "|", color=INK, markersize=12, markeredgewidth=2)
            if seeds.size and errors:
                reach = errors[title][labels[position]]
                axes.plot([seeds.mean() - reach, seeds.mean() + reach], [position] * 2, color=INK, linewidth=1)
            _write_right(axes, f"{seeds.mean():.3f}".replace("-", "−") if seeds.size else "not run", position)
        lines_across = (references or {}).get(title, {})
        for label, value in lines_across.items():
            axes.axvline(value, color=FAINT, linestyle="--", linewidth=1)
            _write_above(axes, label, value)
        axes.set_title(title, pad=16 if lines_across else None)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        middle, half = sum(axes.get_xlim()) / 2, max(0.002, abs(numpy.subtract(*axes.get_xlim())) / 2)
        axes.set_xlim(middle - half, middle + half)  # numbers are written to 0.001: nothing finer is worth a tick
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="both")
    for axes in grid.ravel()[len(panels) :]:
        axes.set_visible(False)
    grid[0, 0].set_yticks(range(len(labels)), labels)
    note = f"{xlabel}. Dots: seeds. Strokes and numbers: means." + (" Lines: ± a standard error." if errors else "")
    if names:
        handles = [Line2D([], [], linestyle="none", **looks[name]) for name in names]
        figure.legend(handles, names, loc="outside upper left", ncols=len(names))
    figure.supxlabel(note, x=0.01, ha="left", fontsize=7.5, color=FAINT)
    return figure


@_styled
def captioned_images(
    images: Any, texts: Sequence[str], across: int = 8, rows: Sequence[str] = (), groups: Sequence[int] | None = None
) -> Figure:
    """Draw grey or colour images with some lines of text below each, and a frame in the colour of its group.

    Args:
        images: (N, C, H, W) with C of 1 or 3, row after row; each is stretched to its own range.
        texts: of each image, short lines.
        across: images in a row.
        rows: what each row is, if anything.
        groups: of each image, from 0; without them there are no frames.

    Raises:
        ShapeMismatch: there is not one text and one group for each image.
    """
    pictures = _array(images)
    if not len(pictures) == len(texts) == len(pictures if groups is None else groups):
        raise ShapeMismatch(f"{len(pictures)} images need as many texts and groups.")
    down, deep = -(-len(pictures) // across), max(text.count("\n") + 1 for text in texts)
    size = WIDTH / across
    figure = Figure(figsize=(WIDTH, down * (size * 0.8 + 0.125 * deep + 0.3 * bool(rows))))
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for number, (axes, picture, text) in enumerate(zip(grid.ravel(), pictures, texts, strict=False)):
        (stack,), _, _, _ = _scaled([picture[None]], "each")
        axes.imshow(stack[0].transpose(1, 2, 0), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_xlabel(text, fontsize=7, labelpad=3)
        if groups is not None:
            axes.spines[:].set(visible=True, color=PALETTE[int(groups[number])], linewidth=2.5)
    for line, row in zip(grid, rows, strict=False):
        line[-1].set_title(" ", fontsize=15)  # keeps the height free, while the row's name may be as wide as it likes
        line[0].text(0, 1.05, row, fontsize=8.5, transform=line[0].transAxes).set_in_layout(False)
    return figure


@_styled
def image_map(
    points: Any, images: Any, groups: Mapping[str, Any], names: Sequence[str], xlabel: str, ylabel: str
) -> Figure:
    """Draw images where they lie in the plane, framed in the colour of their group; one panel per grouping.

    Images that would cover one drawn before stay away: the first ones are drawn, and all are dots.

    Args:
        points: (N, 2).
        images: (N, C, H, W) with C of 1 or 3.
        groups: title of the panel to the group of each image, from 0.
        names: of the groups.
        xlabel: what the first coordinate is.
        ylabel: what the second coordinate is.

    Raises:
        ShapeMismatch: there is not one point, one image and one group each.
    """
    places, pictures = _array(points), _array(images)
    found = {title: _array(each).astype(int) for title, each in groups.items()}
    if any(len(each) != len(places) for each in (pictures, *found.values())) or places.shape[1:] != (2,):
        raise ShapeMismatch(f"{len(pictures)} images need as many points (N, 2) and groups, not {places.shape}.")
    figure = Figure(figsize=(WIDTH, 0.75 + 0.92 * WIDTH / len(found)))
    shown, zoom = _spread(places, round(22 / len(found) ** 0.5)), 12 / pictures.shape[-1]
    for axes, (title, each) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        axes.set(title=title, xlabel=xlabel)
        for group, name in enumerate(names):
            colour = PALETTE[group]
            axes.plot(*places[each == group].T, "o^sD"[group % 4], color=colour, markersize=2.5, label=name)
        for index in shown:
            (stack,), _, _, _ = _scaled([pictures[index][None]], "each")
            picture = OffsetImage(stack[0].transpose(1, 2, 0), zoom=zoom, cmap="gray", interpolation="nearest")
            frame = {"edgecolor": PALETTE[each[index]], "linewidth": 1.6, "facecolor": "white"}
            axes.add_artist(AnnotationBbox(picture, places[index], pad=0.1, bboxprops=frame))
    figure.axes[0].set_ylabel(ylabel)
    handles, entries = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, entries, loc="outside lower left", ncols=len(names), markerscale=2.5)
    return figure


def _spread(places: numpy.ndarray, across: int) -> list[int]:
    """Positions of points no two of which are in the same or in touching cells of a grid, the first ones first."""
    low, high = places.min(0), places.max(0)
    scaled = across * (places - low) / numpy.maximum(high - low, 1e-12)
    kept: list[int] = []
    for index, place in enumerate(scaled):
        if all(numpy.abs(place - scaled[other]).max() >= 1 for other in kept):
            kept.append(index)
    return kept


@_styled
def panels(
    contents: Mapping[str, Mapping[str, Any]],
    xlabel: str,
    across: int = 2,
    logs: str = "",
    one_scale: bool = False,
    note: str = "band: mean ± sd over seeds",
) -> Figure:
    """Draw panels of lines with one legend for all.

    Args:
        contents: title of the panel to what is in it: "lines", label to a line as in `curves`; and, if wanted,
            "ylabel", "references" (label to height, two at most), "ticks" (x to label). A label has one look in
            all panels.
        xlabel: what x is, below the lowest panels.
        across: panels in a row.
        logs: the axes that are logarithmic: "", "x", "y" or "xy".
        one_scale: give all panels the same vertical axis.
        note: above the legend: what the bands are.
    """
    down = -(-len(contents) // across)
    figure = Figure(figsize=(WIDTH, 0.8 + 2.1 * down))
    grid = figure.subplots(down, across, squeeze=False, sharey=one_scale)
    labels = dict.fromkeys(label for panel in contents.values() for label in panel["lines"])
    looks = {label: (PALETTE[k % 7], DASHES[k % 4]) for k, label in enumerate(labels)}
    for number, (axes, (title, panel)) in enumerate(zip(grid.ravel(), contents.items(), strict=False)):
        axes.set(title=title, ylabel=panel.get("ylabel", ""), xlabel=xlabel if number + across >= len(contents) else "")
        axes.grid(axis="y")
        for label, line in panel["lines"].items():
            x, mean, spread = _line(line, label)
            colour, dash = looks[label]
            axes.plot(x, mean, dash, color=colour, label=label, marker="o", markersize=3)
            if spread is not None:
                axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
        for dash, (label, height) in zip(("--", ":"), panel.get("references", {}).items(), strict=False):
            axes.axhline(height, color=FAINT, linestyle=dash, linewidth=1.2, label=label)
        for axis in (getattr(axes, f"{name}axis") for name in logs):
            _make_logarithmic(axis)
        if "ticks" in panel:
            axes.set_xticks(list(panel["ticks"]), list(panel["ticks"].values()))
            axes.xaxis.set_minor_locator(NullLocator())
    for axes in grid.ravel()[len(contents) :]:
        axes.set_axis_off()
    _common_legend(figure, note)
    return figure


def _make_logarithmic(axis: Any) -> None:
    """Give an axis a logarithmic scale with plain numbers, two and five times a power of ten marked too."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    axis.set_minor_formatter(lambda value, _: f"{value:g}" if high < 100 * low else "")


def _common_legend(figure: Figure, title: str) -> None:
    """Write one legend for all axes below them, every label once, in as many columns up to three as fit."""
    pairs = [axes.get_legend_handles_labels() for axes in figure.axes]
    entries = {label: handle for handles, labels in pairs for handle, label in zip(handles, labels, strict=True)}
    for across in (3, 2, 1):
        legend = figure.legend(
            entries.values(), entries, loc="outside lower left", ncols=across, title=title, alignment="left"
        )
        legend.get_title().set_fontsize(7.5)
        if legend.get_window_extent().width <= figure.bbox.width or across == 1:
            return
        legend.remove()


@_styled
def confusions(tables: Mapping[str, Any], classes: Sequence[str], cuts: Sequence[int] = (), across: int = 3) -> Figure:
    """Draw confusion matrices on one scale from 0 to 1, with lines between groups of classes.

    Args:
        tables: title to shares (classes, classes): rows what it is, columns what the network says.
        classes: their names, in the order of the tables.
        cuts: where a new group of classes begins.
        across: tables in a row.

    Raises:
        ShapeMismatch: a table has another number of classes.
    """
    down = -(-len(tables) // across)
    figure = Figure(figsize=(WIDTH, 0.5 + 2.1 * down))
    grid = figure.subplots(down, across, squeeze=False)
    shown = None
    for number, (axes, (title, table)) in enumerate(zip(grid.ravel(), tables.items(), strict=False)):
        shares = _array(table)
        if shares.shape != (len(classes), len(classes)):
            raise ShapeMismatch(f"{title!r} has shape {shares.shape} for {len(classes)} classes.")
        shown = axes.imshow(shares, cmap=VALUES, vmin=0, vmax=1)
        axes.set_title(title)
        first, last = number % across == 0, number + across >= len(tables)
        axes.set_yticks(range(len(classes)), classes if first else [""] * len(classes), fontsize=7)
        axes.set_xticks(range(len(classes)), classes if last else [""] * len(classes), rotation=90, fontsize=7)
        axes.tick_params(length=0)
        for cut in cuts:
            axes.axhline(cut - 0.5, color="white", linewidth=1.5)
            axes.axvline(cut - 0.5, color="white", linewidth=1.5)
    for axes in grid.ravel()[len(tables) :]:
        axes.set_axis_off()
    if shown is not None:
        figure.colorbar(shown, ax=grid, label="share of the class", shrink=0.6)
    return figure


@_styled
def class_bars(
    panels: Mapping[str, Any],
    classes: Sequence[str],
    groups: Sequence[int],
    names: Sequence[str],
    ylabel: str,
    means: bool = False,
) -> Figure:
    """Draw one bar for each class in the colour of its group; panels below each other, on one scale.

    Args:
        panels: title to the value of each class, (C,); NaN leaves a gap.
        classes: names of the C classes.
        groups: of each class, from 0; classes of one group stand together.
        names: of the groups.
        ylabel: what the values are.
        means: whether a dashed line gives the mean of each group, NaN left out.

    Raises:
        ShapeMismatch: a panel has another number of classes.
    """
    figure = Figure(figsize=(WIDTH, 1.1 + 1.25 * len(panels)))
    column = figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    kinds = _array(groups).astype(int)
    order = numpy.argsort(kinds, kind="stable")
    places = numpy.arange(len(classes)) + kinds[order]  # a gap before each new group
    for axes, (title, each) in zip(column, panels.items(), strict=True):
        values = _array(each)
        if not values.shape == kinds.shape == (len(classes),):
            raise ShapeMismatch(f"{title!r} has values of shape {values.shape} for {len(classes)} classes.")
        for group, name in enumerate(names):
            if not (own := kinds[order] == group).any():
                continue
            heights = values[order][own]
            axes.bar(places[own], heights, color=PALETTE[group], label=name)
            if means and len(found := heights[~numpy.isnan(heights)]):
                ends = [places[own][0] - 0.4, places[own][-1] + 0.4]
                axes.plot(ends, [found.mean()] * 2, "--", color=INK, linewidth=1)
        axes.set_title(title)
        axes.grid(axis="y")
    column[-1].set_xticks(places, [classes[k] for k in order], rotation=90 if len(classes) > 12 else 35, fontsize=7)
    figure.supylabel(ylabel, fontsize=9)
    _common_legend(figure, "dashed: mean of the group" if means else "")
    return figure


@_styled
def dumbbells(
    values: Mapping[str, tuple[Sequence[float], Sequence[float]]], names: tuple[str, str], xlabel: str
) -> Figure:
    """Draw two measures of every row as two marks joined by a line: means, with a small dot for every seed.

    Args:
        values: label to the seeds' values of both measures; without any, the row says that it was not run.
        names: of the two measures.
        xlabel: what the values are.
    """
    figure = Figure(figsize=(WIDTH, 1.0 + 0.3 * len(values)))
    axes = figure.add_subplot(xlabel=xlabel)
    for position, both in enumerate(values.values()):
        sides = [_array(side) for side in both]
        if not all(side.size for side in sides):
            axes.annotate("not run", (0.01, position), xycoords=axes.get_yaxis_transform(), va="center", fontsize=8)
            continue
        axes.plot([side.mean() for side in sides], [position, position], color=FAINT, linewidth=1.2, zorder=1)
        for side, name, colour, mark in zip(sides, names, PALETTE, "os", strict=False):
            axes.plot(side, [position] * len(side), ".", color=colour, markersize=3, alpha=0.7)
            axes.plot(side.mean(), position, mark, color=colour, markersize=6, label=name)
    axes.set_yticks(range(len(values)), values)
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.grid(axis="x")
    _common_legend(figure, "large marks: means; dots: seeds")
    return figure


@_styled
def matrices(
    tables: Mapping[str, Any],
    columns: Sequence[str],
    rows: Sequence[str] | None = None,
    cuts: Sequence[int] = (),
    across: int = 2,
    scale: str | tuple[float, float] = "each",
    values: str = "",
) -> Figure:
    """Draw matrices as heat maps whose rows and columns are in one order, with lines between groups of columns.

    Args:
        tables: title to values (R, C); NaN, such as what was not measured, is left white.
        columns: names of the C columns.
        rows: names of the R rows; those of the columns if left out.
        cuts: columns where a new group begins; rows of the same names are cut too.
        across: matrices in a row.
        scale: "each": every matrix has its own colours, from its least to its greatest value. "shared": all have those
            of all values. A pair (low, high): colours go from there to there.
        values: what the values are, beside the colour bar.

    Raises:
        ShapeMismatch: a matrix has another shape.
        UnknownName: the scale has no such name.
    """
    if isinstance(scale, str) and scale not in ("each", "shared"):
        raise unknown("scale", scale, ["each", "shared"])
    rows = columns if rows is None else rows
    arrays = {title: _array(table) for title, table in tables.items()}
    for title, table in arrays.items():
        if table.shape != (len(rows), len(columns)):
            raise ShapeMismatch(f"{title!r} has shape {table.shape} for {len(rows)} rows and {len(columns)} columns.")
    every = numpy.concatenate([each.ravel() for each in arrays.values()])
    common = _range(every) if isinstance(scale, str) else scale
    down = -(-len(arrays) // across)
    side = (WIDTH - 1.3 - 0.6 * (across if scale == "each" else 1)) / across
    figure = Figure(figsize=(WIDTH, 0.9 + down * (0.3 + side * len(rows) / len(columns))))
    grid = figure.subplots(down, across, squeeze=False)
    size = min(7.5, 72 * side / len(columns))  # of the labels: a row's height in points, at the most
    starts = [row for row, name in enumerate(rows) if name in [columns[cut] for cut in cuts]]
    for number, (axes, (title, table)) in enumerate(zip(grid.ravel(), arrays.items(), strict=False)):
        low, high = _range(table) if scale == "each" else common
        shown = axes.imshow(table, cmap=VALUES, vmin=low, vmax=high, interpolation="nearest")
        axes.set_title(title)
        first, last = number % across == 0, number + across >= len(arrays)
        axes.set_yticks(range(len(rows)), rows if first else [""] * len(rows), fontsize=size)
        axes.set_xticks(range(len(columns)), columns if last else [""] * len(columns), rotation=90, fontsize=size)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for draw, places in ((axes.axvline, cuts), (axes.axhline, starts)):
            for place in places:
                draw(place - 0.5, color="white", linewidth=1.5)
        if scale == "each":
            figure.colorbar(shown, ax=axes, label=values if number % across == across - 1 else "", shrink=0.7)
    for axes in grid.ravel()[len(arrays) :]:
        axes.set_axis_off()
    if scale != "each":
        figure.colorbar(shown, ax=grid, label=values, shrink=0.6)
    return figure


@_styled
def dendrogram(
    trees: Mapping[str, Any], groups: Mapping[str, str] | None = None, xlabel: str = "distance", clusters: int = 0
) -> Figure:
    """Draw trees of names side by side: leaves at the left, marked by their group, and where they merge.

    Args:
        trees: title to a tree: whatever has ``names`` and ``links``, a linkage matrix (N - 1, 4) as SciPy makes it.
        groups: name to its group, which gives the leaf a colour and a mark.
        xlabel: what the height of a merge is.
        clusters: where a dotted line cuts each tree into so many clusters; none if 0.

    Raises:
        ShapeMismatch: the links of a tree do not join as many names as it has.
    """
    deep = max(len(tree.names) for tree in trees.values())
    figure = Figure(figsize=(WIDTH, 0.9 + 0.19 * deep))
    known = list(dict.fromkeys((groups or {}).values()))
    for axes, (title, tree) in zip(figure.subplots(1, len(trees), squeeze=False)[0], trees.items(), strict=True):
        links, names = _array(tree.links), list(tree.names)
        if links.shape != (len(names) - 1, 4):
            raise ShapeMismatch(f"{title!r} has links of shape {links.shape} for {len(names)} names.")
        order = _leaves(links)
        places = {leaf: (0.0, float(place)) for place, leaf in enumerate(order)}
        for number, (one, other, height, _) in enumerate(links.tolist(), len(names)):
            (x, y), (u, v) = places[int(one)], places[int(other)]
            axes.plot([x, height, height, u], [y, y, v, v], color=INK, linewidth=1.2)
            places[number] = (height, (y + v) / 2)
        for group in known:
            mine = [place for place, leaf in enumerate(order) if (groups or {}).get(names[leaf]) == group]
            look = {"marker": "o^sDvP"[known.index(group) % 6], "color": PALETTE[known.index(group) % 7]}
            axes.plot([0] * len(mine), mine, linestyle="", markersize=5, label=group, clip_on=False, zorder=3, **look)
        if 1 < clusters < len(names):
            between = numpy.sort(links[:, 2])[-clusters:][:2].mean()  # the last merge that is done, the first undone
            axes.axvline(between, color=FAINT, linestyle=":", linewidth=1.2)
        axes.set(title=title, xlabel=xlabel, ylim=(len(names) - 0.5, -0.5))
        axes.set_xlim(0, 1.04 * max(links[:, 2].max(), 1e-9))
        axes.set_yticks(range(len(names)), [names[leaf] for leaf in order], fontsize=8)
        axes.tick_params(axis="y", length=0, pad=6)
        axes.spines["left"].set_visible(False)
    if known:
        _common_legend(figure, "dotted: the cut into clusters" if clusters else "")
    return figure


def _leaves(links: numpy.ndarray) -> list[int]:
    """The leaves of a linkage matrix from top to bottom, without crossing lines."""
    count, order, stack = len(links) + 1, [], [2 * len(links)]
    while stack:
        node = stack.pop()
        if node < count:
            order.append(node)
        else:
            stack += [int(links[node - count, 1]), int(links[node - count, 0])]
    return order


@_styled
def image_graphs(images: Any, graphs: Mapping[str, tuple[Any, Any]], across: int = 2) -> Figure:
    """Draw complete graphs of the same images side by side: their maps are nodes, wide dark lines join alike images.

    Args:
        images: (n, C, H, W) with C of 1 or 3, drawn outside of their nodes, each stretched to its own range.
        graphs: title to the maps (n, h, w), in cividis with zero in the middle and the largest 2 % clipped, and the
            values of the edges (n (n - 1) / 2,), the pairs (0, 1), (0, 2), … in order; only their order is drawn.
        across: graphs in a row.

    Raises:
        ShapeMismatch: there is not one map for each image and one edge for each pair.
    """
    pictures = _array(images)
    count, pairs = len(pictures), numpy.triu_indices(len(pictures), 1)
    angles = numpy.pi * (0.5 - 2 * (numpy.arange(count) + 0.5) / count)
    places = numpy.stack([numpy.cos(angles), numpy.sin(angles)], 1)
    down = -(-len(graphs) // across)
    figure = Figure(figsize=(WIDTH, down * WIDTH / across))
    grid = figure.subplots(down, across, squeeze=False)
    side = min(0.52, 3.1 / count) * 72 * WIDTH / across / 3.5  # of a node, in points; a graph is 3.5 units wide
    for axes, (title, (maps, edges)) in zip(grid.ravel(), graphs.items(), strict=False):
        nodes, values = _array(maps), _array(edges)
        if len(nodes) != count or values.shape != pairs[0].shape:
            raise ShapeMismatch(f"{title!r} has {len(nodes)} maps and {len(values)} edges for {count} images.")
        shares = values.argsort(kind="stable").argsort() / max(len(values) - 1, 1)
        for p, q, share in sorted(zip(*pairs, shares, strict=True), key=lambda edge: edge[2]):
            look = {"color": matplotlib.colormaps["Blues"](0.15 + 0.8 * share), "linewidth": 0.3 + 4.5 * share**2}
            axes.plot(*places[[p, q]].T, solid_capstyle="round", zorder=share, **look)
        for place, node, picture in zip(places, nodes, pictures, strict=True):
            top = max(float(numpy.quantile(numpy.abs(node), 0.98)), 1e-12)
            drawn = matplotlib.colormaps[VALUES](numpy.clip((node / top + 1) / 2, 0, 1))
            _put(axes, drawn, place, side, INK)
            (stack,), _, _, _ = _scaled([picture[None]], "each")
            _put(axes, stack[0].transpose(1, 2, 0), 1.52 * place, 0.8 * side, "white")
        axes.set(title=title, xlim=(-1.8, 1.8), ylim=(-1.7, 1.7), aspect="equal")
        axes.set_axis_off()
    for axes in grid.ravel()[len(graphs) :]:
        axes.set_axis_off()
    return figure


def _put(axes: Axes, picture: numpy.ndarray, place: numpy.ndarray, side: float, edge: str) -> None:
    """Draw a picture of so many points a side around a place, in a frame."""
    box = OffsetImage(picture, zoom=side / len(picture), cmap="gray", interpolation="nearest")
    frame = {"edgecolor": edge, "linewidth": 0.8, "facecolor": "white"}
    axes.add_artist(AnnotationBbox(box, tuple(place), pad=0.02, bboxprops=frame, zorder=3))


@_styled
def image_sheet(
    columns: Sequence[Mapping[str, Mapping[str, Any]]],
    texts: Mapping[str, Sequence[str]] | None = None,
    lines: Mapping[str, Any] | None = None,
    arrows: Mapping[str, Any] | None = None,
    size: float = 7,
) -> Figure:
    """Draw labelled rows of images in titled groups, with texts below images and lines or arrows on them.

    Args:
        columns: side by side; of each, title of the group to label of the row to images (K, C, H, W) with C of 1 or 3,
            black at 0 and white at 1, clipped. All images have one height and width. An empty title is left out.
        texts: label of the row to the text below each image, of any number of lines.
        lines: label of the row to (K, G, L, 2, 2): on each image G groups of L lines from one point (x, y) to another,
            in pixels from the upper left corner, each group in a colour of its own. What leaves the image is cut off.
        arrows: the same, with heads.
        size: of the texts, in points.

    Raises:
        ShapeMismatch: images are of several sizes, or a row has another number of texts, lines or arrows.
    """
    marks = [marked or {} for marked in (texts, lines, arrows)]
    stacks = [{title: _in_colour(rows) for title, rows in groups.items()} for groups in columns]
    every = [row for groups in stacks for rows in groups.values() for row in rows.items()]
    for label, stack in every:
        if stack.shape[1:] != every[0][1].shape[1:] or any(len(m[label]) != len(stack) for m in marks if label in m):
            raise ShapeMismatch(f"row {label!r} has images {stack.shape}, or other numbers of texts, lines or arrows.")
    height, width = every[0][1].shape[2:]
    across = width * (1.06 * max(len(stack) for _, stack in every) - 0.06)
    labels = [line for label, _ in every for line in label.split("\n")]
    margin = 0.15 + max(TextPath((0, 0), f"{line}.", size=9).get_extents().width for line in labels) / 72  # in inches
    pixel = (WIDTH / len(columns) - margin) / across
    deepest = {label: 1 + max(text.count("\n") for text in each) for label, each in marks[0].items()}
    room = {label: 0.018 * size / pixel * count for label, count in deepest.items()}
    sheets = [_placed_rows(groups, height, room, 0.24 / pixel) for groups in stacks]
    deep = max(end for _, _, end in sheets)
    figure = Figure(figsize=(WIDTH, deep * pixel))
    figure.set_layout_engine("none")  # every place is known
    for column, (titles, rows, _) in enumerate(sheets):
        left = column / len(columns) + (margin - 0.03) / WIDTH
        axes = figure.add_axes((left, 0, across * pixel / WIDTH, 1), xlim=(0, across), ylim=(deep, 0), xticks=[])
        axes.set_yticks([top + height / 2 for _, _, top in rows], [label for label, _, _ in rows])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for title, place in titles:
            axes.text(0, place, title, fontsize=10, va="bottom", weight="bold")
        for label, stack, top in rows:
            for number, picture in enumerate(stack):
                each = [m[label][number] if label in m else () for m in marks]
                _draw_marked(axes, picture, (1.06 * width * number, top), size, min(1.4, 1.2 * pixel * width), *each)
    return figure


def _in_colour(rows: Mapping[str, Any]) -> dict[str, numpy.ndarray]:
    """Give images (K, C, H, W) of each row with three channels, between 0 and 1."""
    stacks = {label: _array(images) for label, images in rows.items()}
    return {
        label: numpy.clip(numpy.broadcast_to(each, (len(each), 3, *each.shape[2:])), 0, 1)
        for label, each in stacks.items()
    }


def _placed_rows(
    groups: Mapping[str, Mapping[str, numpy.ndarray]], height: int, room: Mapping[str, float], title: float
) -> tuple[list[tuple[str, float]], list[tuple[str, numpy.ndarray, float]], float]:
    """Give the lower edge of each title, the upper edge of each row with what is in it, and where the last one ends."""
    titles, rows, end = [], [], 0.0
    for name, group in groups.items():
        end += title if name else 0.0
        titles += [(name, end - 0.2 * title)] if name else []
        for label, stack in group.items():
            rows.append((label, stack, end))
            end += 1.06 * height + room.get(label, 0.0)
        end += 0.2 * title
    return titles, rows, end - 0.2 * title


def _draw_marked(
    axes: Axes,
    picture: numpy.ndarray,
    corner: tuple[float, float],
    size: float,
    wide: float,
    text: Any,
    lines: Any,
    arrows: Any,
) -> None:
    """Draw one image with its upper left corner at a place, the text below it, and lines and arrows so wide on it."""
    (left, top), (_, height, width) = corner, picture.shape
    extent = (left, left + width, top + height, top)
    axes.imshow(picture.transpose(1, 2, 0), extent=extent, interpolation="nearest", aspect="auto", zorder=0)
    if text:
        axes.text(left + width / 2, top + 1.03 * height, text, fontsize=size, ha="center", va="top")
    for groups, style in ((lines, "-"), (arrows, "-|>")):
        for colour, group in zip(PALETTE, _array(groups), strict=False):
            for ends in group + corner:
                drawn = FancyArrowPatch(*ends, arrowstyle=style, color=colour, shrinkA=0, shrinkB=0)
                drawn.set(linewidth=wide, mutation_scale=5 * wide)
                drawn.set_path_effects([withStroke(linewidth=2 * wide, foreground="white")])
                axes.add_patch(drawn)
                drawn.set_clip_path(Rectangle((left, top), width, height, transform=axes.transData))
