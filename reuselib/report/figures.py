"""The book's figures: one look, colours that colour-blind readers can tell apart, and alt text for each.

==================  =====================================================================================
`show`              a figure, or a grid of seaborn's, in a notebook: PNG, alt text, caption
`style`             the look, for what is drawn by hand inside ``with figures.style():``
`curves`            lines over one axis, a band over seeds, references, drops of the learning rate
`panels`            small multiples of such lines with one legend
`histogram`         the distribution of some values as lines over common bins
`dots_with_seeds`   a dot for every seed, a stroke at the mean; several measures of a label are joined
`differences`       paired differences, their mean with its 95 % interval, and the margin to be beaten
`class_bars`        a bar for every class, coloured by group
`matrices`          heat maps in one order of rows and columns: affinities, confusions, a truth beside scores
`planes`            points and lines in the plane
`dendrogram`        trees of names
`image_grid`        images in labelled rows
`mask_grid`         images and masks of classes in labelled rows
`image_sheet`       rows of images in titled groups, with texts, lines and arrows
`captioned_images`  images with lines of text below and a coloured frame
`image_arcs`        two complete graphs between the same images
`sheet`             the pictures that a recorded run has kept
`headline`          what a figure shows, above it
`with_tints`        what the colours of signed maps mean, below them
==================  =====================================================================================

Every function returns a `matplotlib.figure.Figure` that pyplot does not know of, so nothing is left open. Arrays and
tensors on any device are taken alike. Where a function takes a mapping of labels, it also takes a mapping of the titles
of panels to such mappings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from textwrap import fill
from typing import Any

import numpy
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from pandas import DataFrame, Series
from scipy.cluster import hierarchy

from reuselib import checks
from reuselib.errors import ShapeMismatch
from reuselib.report.claims import decimals, summary
from reuselib.report.papers import plain
from reuselib.report.pictures import (  # noqa: F401
    captioned_images,
    image_arcs,
    image_grid,
    image_sheet,
    mask_grid,
    sheet,
    tinted,
    with_tints,
)
from reuselib.report.theme import (  # noqa: F401
    FAINT,
    INK,
    PALETTE,
    VALUES,
    WIDTH,
    array,
    bounds,
    finite,
    headline,
    limits,
    show,
    style,
    styled,
)

LINES = (*PALETTE[:7], "#882255", "#999933")
DASHES = ("-", "--", "-.", ":")
MARKS = "oDs^vP"
BAND = "band: mean ± sd over seeds"


def _nested(data: Any) -> dict[str, dict[str, Any]]:
    """Give panels of labels, of a mapping that may lack the panels."""
    return data if isinstance(next(iter(data.values()), None), Mapping) else {"": data}


def _subplots(count: int, across: int, deep: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """Open a figure of so many panels, so deep each, at most so many in a row."""
    checks.whole(panels=count, across=across)
    across = min(across, count)
    down = -(-count // across)
    figure = Figure(figsize=(WIDTH, 0.8 + deep * down))
    every = list(figure.subplots(down, across, squeeze=False, **options).flat)
    for unused in every[count:]:
        unused.set_axis_off()
    return figure, every[:count]


def _legend(figure: Figure, title: str = "") -> None:
    """Write one legend below all axes, every label once, in as many columns up to four as fit."""
    pairs = [axes.get_legend_handles_labels() for axes in figure.axes]
    entries = {label: handle for handles, labels in pairs for handle, label in zip(handles, labels, strict=True)}
    place: Any = {"loc": "outside lower left", "alignment": "left", "title": title}
    for across in range(min(4, max(1, len(entries))), 0, -1):
        legend = figure.legend(entries.values(), entries, ncols=across, **place)
        if across == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def _note(figure: Figure, text: str) -> None:
    figure.supxlabel(text, x=0.01, ha="left", fontsize="small", color=FAINT)


def _write_right(axes: Axes, text: str, height: float) -> None:
    """Write beside the right end of the axes, at a height in data units."""
    place = axes.get_yaxis_transform()
    axes.annotate(text.replace("-", "−"), (1, height), (4, 0), place, "offset points", va="center", fontsize="small")


@styled
def curves(
    lines: Mapping[str, Any],
    xlabel: str,
    ylabel: str,
    drops: Sequence[float] = (),
    references: Mapping[str, float] | None = None,
    log: bool = False,
) -> Figure:
    """Draw one line per label, with a band where there are several seeds.

    Args:
        lines: label to (x, y) with y of (points,) or (seeds, points), to (x, y, half-width of a band), or to a mapping
            of x to the values of all seeds.
        xlabel: what x is, with its unit.
        ylabel: what y is, with its unit.
        drops: x at which the learning rate drops, as dotted vertical lines.
        references: label to y of dashed horizontal lines, such as the teacher's accuracy.
        log: make the vertical axis logarithmic.
    """
    panel = {"lines": lines, "ylabel": ylabel, "references": references or {}, "drops": drops}
    return panels({"": panel}, xlabel, logs="y" if log else "")


@styled
def panels(
    contents: Mapping[str, Mapping[str, Any]],
    xlabel: str,
    across: int = 2,
    logs: str = "",
    one_scale: bool = False,
    note: str | None = None,
) -> Figure:
    """Draw panels of lines with one legend for all.

    Args:
        contents: title of the panel to what is in it: "lines", label to a line as in `curves`; and, if wanted,
            "ylabel", "references" (label to height), "drops" (x of dotted lines), "ticks" (x to label). A label has one
            look in all panels.
        xlabel: what x is, below the lowest panels.
        across: panels in a row.
        logs: the axes that are logarithmic: "", "x", "y" or "xy".
        one_scale: give all panels the same vertical axis.
        note: above the legend: what the bands are, if not the spread over seeds.
    """
    single = min(across, len(contents)) == 1
    figure, grid = _subplots(len(contents), across, 2.8 if single else 2.2, sharey=one_scale)
    labels = list(dict.fromkeys(label for panel in contents.values() for label in panel["lines"]))
    notes = set() if note is None else {note}
    for number, (axes, (title, panel)) in enumerate(zip(grid, contents.items(), strict=True)):
        if _draw_lines(axes, panel["lines"], labels) and note is None:
            notes |= {BAND}
        low = number + across >= len(contents)
        axes.set(title=title, ylabel=panel.get("ylabel", ""), xlabel=xlabel if low else "")
        for dash, (label, height) in zip(cycle(("--", ":")), panel.get("references", {}).items(), strict=False):
            axes.axhline(height, color=FAINT, linestyle=dash, linewidth=1.2, label=None if single else label)
            if single:
                _write_right(axes, label, height)
        for drop in panel.get("drops", ()):
            axes.axvline(drop, color=FAINT, linestyle=":", linewidth=1)
            notes |= {"dotted: learning rate drops"}
        for name in logs:
            _make_logarithmic(getattr(axes, f"{name}axis"))
        if "ticks" in panel:
            axes.set_xticks(list(panel["ticks"]), list(panel["ticks"].values()))
            axes.xaxis.set_minor_locator(NullLocator())
    _legend(figure, "; ".join(sorted(notes)))
    return figure


def _draw_lines(axes: Axes, lines: Mapping[str, Any], labels: Sequence[str]) -> bool:
    """Draw lines in the looks that they have among all labels; say whether there is a band."""
    banded = False
    for label, line in lines.items():
        k, frame = labels.index(label), _line(line, label)
        banded |= len(frame) > frame.x.nunique()
        look: Any = {"color": LINES[k % len(LINES)], "linestyle": DASHES[k % 4], "err_kws": {"linewidth": 0}}
        if frame.x.nunique() <= 16:
            look |= {"marker": "o", "markersize": 3.5, "markeredgewidth": 0}
        seaborn.lineplot(frame, x="x", y="y", errorbar=_spread, legend=False, ax=axes, label=label, **look)
    axes.grid(axis="y")
    return banded


def _spread(values: Series) -> tuple[float, float]:
    """Mean less and plus a standard deviation; of shares, no further than 0 and 1."""
    ends = values.mean() - values.std(), values.mean() + values.std()
    return (max(ends[0], 0.0), min(ends[1], 1.0)) if values.between(0, 1).all() else ends


def _line(line: Any, label: str) -> DataFrame:
    """Give a line as a frame of x and y, one value a line."""
    if isinstance(line, Mapping):
        return DataFrame([(x, y) for x, each in line.items() for y in array(each).ravel()], columns=["x", "y"])
    x, y, *spread = map(array, line)
    if x.shape != y.shape[-1:] or any(each.shape != y.shape for each in spread):
        raise ShapeMismatch(f"line {label!r} has {x.shape} x values for {y.shape} y values. Give as many of both.")
    if spread:  # two values that have this mean and this sample standard deviation
        y = y + numpy.array([[-1], [1]]) * spread[0] / 2**0.5
    return DataFrame({"x": numpy.tile(x, y.size // max(len(x), 1)), "y": y.ravel()})


def _make_logarithmic(axis: Any) -> None:
    """Give an axis a logarithmic scale with plain numbers, two and five times a power of ten marked too."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    axis.set_minor_formatter(lambda value, _: f"{value:g}" if high < 100 * low else "")


@styled
def histogram(values: Any, xlabel: str, bins: int = 50) -> Figure:
    """Draw the distribution of each label's values as a line over common bins.

    Args:
        values: label to values of any shape, or panels of such.
        xlabel: what the values are.
        bins: number of bins between the least and the greatest of all values of a panel.
    """
    checks.whole(bins=bins)
    contents = {}
    for title, lines in _nested(values).items():
        arrays = {label: finite(label, each) for label, each in lines.items()}
        edges = numpy.linspace(*bounds(numpy.concatenate([*arrays.values()])), bins + 1)
        middles = (edges[:-1] + edges[1:]) / 2
        outlines = {k: (middles, numpy.histogram(each, edges)[0] / max(each.size, 1)) for k, each in arrays.items()}
        contents[title] = {"ylabel": "share of the values", "lines": outlines}
    return panels(contents, xlabel, note="")


@styled
def dots_with_seeds(
    panels: Any,
    xlabel: str,
    references: Mapping[str, Mapping[str, float]] | None = None,
    across: int = 2,
    errors: Mapping[str, Mapping[str, float]] | None = None,
    kinds: Mapping[str, str] | Sequence[str] = (),
) -> Figure:
    """Draw a dot for every seed and a stroke at their mean, a line for each label; one panel per group.

    Args:
        panels: title of the panel to label to the value of each seed; without any, the line says that it was not
            run. All panels have the same labels. A tuple of several measures' values, in the order of `kinds`, is
            joined by a line. Or one mapping without panels.
        xlabel: what the values are.
        references: title of the panel to label to value of dashed vertical lines, such as a ceiling.
        across: panels in a row.
        errors: title of the panel to label to the standard error of the mean, drawn as a line to both sides.
        kinds: label to what kind of line it is, or the names of the measures: each kind has its own colour and mark,
            and a place in a legend.

    Raises:
        ShapeMismatch: the panels differ in their labels.
        NonFinite: a value is NaN or infinite.
    """
    figure, drawn = _rows(panels, across, sharey=True)
    named = kinds if isinstance(kinds, Mapping) else {}
    names = list(dict.fromkeys(named.values() or kinds or [""]))
    stroke: Any = {"fmt": "|", "markersize": 12, "markeredgewidth": 2, "elinewidth": 1, "zorder": 4}
    for axes, title, lines in drawn:
        if list(lines) != list(drawn[0][2]):
            raise ShapeMismatch(f"panel {title!r} has the rows {list(lines)}, the first one {list(drawn[0][2])}.")
        for place, (label, each) in enumerate(lines.items()):
            parts = each if isinstance(each, tuple) else (each,)
            first = names.index(named[label]) if named else 0
            seeds = [_seeds(axes, place, label, part, first + k) for k, part in enumerate(parts)]
            means = {k: values.mean() for k, values in enumerate(seeds) if values.size}
            axes.plot([*means.values()], [place] * len(means), color=FAINT, linewidth=1.2, zorder=1)
            for k, mean in means.items():
                look = stroke | {"color": PALETTE[first + k] if len(parts) > 1 else INK}
                axes.errorbar(mean, place, xerr=errors[title][label] if errors else None, **look)
            _write_right(axes, " ".join(plain(mean, decimals(mean)) for mean in means.values()) or "not run", place)
        for label, x in (references or {}).get(title, {}).items():
            axes.axvline(x, color=FAINT, linestyle="--", linewidth=1)
            above = axes.get_xaxis_transform()
            axes.annotate(label, (x, 1), (0, 2), above, "offset points", ha="center", fontsize="small")
            axes.set_title(title, pad=17)
        middle, half = sum(axes.get_xlim()) / 2, max(0.002, abs(numpy.subtract(*axes.get_xlim())) / 2)
        axes.set_xlim(middle - half, middle + half)  # numbers are written to 0.001: nothing finer is worth a tick
    if kinds:
        handles = [Line2D([], [], linestyle="", marker=MARKS[k], color=PALETTE[k]) for k in range(len(names))]
        figure.legend(handles, names, loc="outside upper left", ncols=len(names))
    ends = " Lines: ± a standard error." if errors else ""
    _note(figure, f"{xlabel}. Dots: seeds. Strokes and numbers: means.{ends}")
    return figure


def _rows(panels: Any, across: int, **options: Any) -> tuple[Figure, list[tuple[Axes, str, Mapping[str, Any]]]]:
    """Open panels whose vertical axes are lists of labels; give each with its title and its lines."""
    contents = _nested(panels)
    figure, grid = _subplots(len(contents), across, 0.5 + 0.3 * max(map(len, contents.values()), default=0), **options)
    for axes, (title, lines) in zip(grid, contents.items(), strict=True):
        axes.set(title=title, ylim=(len(lines) - 0.5, -0.5))
        axes.set_yticks(range(len(lines)), [fill(label, 40) for label in lines])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(6 if min(across, len(grid)) == 1 else 3))
    return figure, [(axes, *each) for axes, each in zip(grid, contents.items(), strict=True)]


def _seeds(axes: Axes, place: int, label: str, values: Any, kind: int = 0) -> numpy.ndarray:
    """Draw a dot for every seed of a row, and give the values."""
    seeds = finite(label, values)
    look: Any = {"color": PALETTE[kind % 7], "markersize": 4.5, "alpha": 0.55, "markeredgewidth": 0}
    axes.plot(seeds, [place] * seeds.size, MARKS[kind % 6], **look)
    return seeds


@styled
def differences(
    values: Any, margins: Mapping[str, float] | float, xlabel: str = "paired difference", digits: int = 3
) -> Figure:
    """Draw paired differences over seeds, their mean with its 95 % interval, and the margin that it is held against.

    Blue lies above its margin, vermilion below, grey straddles it. The interval is Student's.

    Args:
        values: label to the difference of each pair; without any, the line says so. Or panels of such, each with labels
            and an axis of its own.
        margins: label to margin, or one for all.
        xlabel: what is subtracted from what, in which unit.
        digits: decimals of the means, at most.

    Raises:
        NonFinite: a difference is NaN or infinite.
    """
    figure, drawn = _rows(values, 1)
    for axes, _, lines in drawn:
        for place, (label, each) in enumerate(lines.items()):
            margin = margins[label] if isinstance(margins, Mapping) else margins
            checks.number(-numpy.inf, margin=margin)
            axes.plot([margin] * 2, [place - 0.38, place + 0.38], color=INK, linewidth=1.4, zorder=1)
            seeds = _seeds(axes, place, label, each)
            if not seeds.size:
                _write_right(axes, "not run", place)
                continue
            mean, reach = seeds.mean(), summary(seeds).reach  # infinite for one pair
            colour = PALETTE[int(mean < margin)] if abs(mean - margin) > reach else FAINT
            axes.lines[-1].set_color(colour)
            axes.errorbar(
                mean,
                place,
                xerr=reach if seeds.size > 1 else None,
                fmt="D",
                markersize=5.5,
                elinewidth=2.2,
                color=colour,
            )
            _write_right(axes, f"{'+' * bool(mean > 0)}{plain(mean, decimals(mean, digits))}", place)
    drawn[-1][0].set_xlabel(xlabel)
    _note(figure, "Diamonds and numbers: means. Bars: 95 % intervals. Small dots: pairs of seeds. Upright: margins.")
    return figure


@styled
def class_bars(
    panels: Mapping[str, Any],
    classes: Sequence[str],
    groups: Any = None,
    names: Sequence[str] = ("",),
    ylabel: str = "",
    means: bool = False,
    reference: float | None = None,
) -> Figure:
    """Draw one bar for each class in the colour of its group; panels below each other, on one scale.

    Args:
        panels: title to the value of each class, (C,); NaN leaves a gap.
        classes: names of the C classes.
        groups: of each class, from 0; classes of one group stand together. One group if left out.
        names: of the groups.
        ylabel: what the values are.
        means: whether a dashed line gives the mean of each group, NaN left out.
        reference: height of a dashed line, such as the even share.

    Raises:
        ShapeMismatch: a panel has another number of classes.
    """
    figure, column = _subplots(len(panels), 1, 1.3, sharex=True, sharey=True)
    kinds = numpy.zeros(len(classes), int) if groups is None else array(groups).astype(int)
    order = numpy.argsort(kinds, kind="stable")
    for axes, (title, each) in zip(column, panels.items(), strict=True):
        if (values := array(each)).shape != kinds.shape:
            raise ShapeMismatch(f"{title!r} has values of shape {values.shape} for {len(classes)} classes.")
        frame = DataFrame({"place": range(len(classes)), "value": values[order], "group": kinds[order]})
        for group, own in frame.groupby("group"):
            axes.bar(own.place, own.value, 0.8, color=PALETTE[group], label=names[group] or None)
            if means and own.value.notna().any():
                axes.hlines(own.value.mean(), own.place.min() - 0.4, own.place.max() + 0.4, INK, "--", linewidth=1)
        if reference is not None:
            axes.axhline(reference, color=FAINT, linestyle="--", linewidth=1)
        axes.set(title=title, xlim=(-0.7, len(classes) - 0.3))
        axes.grid(axis="y")
    turned: Any = {"rotation": 90, "fontsize": 8, "va": "center"} if len(classes) > 12 else {"rotation": 35}
    turned |= {"ha": "right", "rotation_mode": "anchor"}
    column[-1].set_xticks(range(len(classes)), [classes[k] for k in order], **turned)
    figure.supylabel(ylabel, fontsize="medium")
    if any(names):
        _legend(figure, "dashed: mean of the group" if means else "")
    return figure


@styled
def matrices(
    tables: Mapping[str, Any],
    columns: Sequence[str],
    rows: Sequence[str] | None = None,
    cuts: Sequence[int] = (),
    across: int = 2,
    scale: str | tuple[float, float] = "each",
    values: str = "",
    rings: Any = None,
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
        values: what the values are.
        rings: (R, C), true where a cell of every matrix gets a ring.

    Raises:
        ShapeMismatch: a matrix has another shape.
        UnknownName: the scale has no such name.
    """
    rows = columns if rows is None else rows
    arrays = {title: array(table) for title, table in tables.items()}
    for title, table in arrays.items():
        if table.shape != (len(rows), len(columns)):
            raise ShapeMismatch(f"{title!r} has shape {table.shape} for {len(rows)} rows and {len(columns)} columns.")
    ends = limits(scale, arrays.values())
    across, own = min(across, len(arrays)), ends is None
    side = (WIDTH - 1.3 - 0.6 * (across if own else 1)) / across
    figure, grid = _subplots(len(arrays), across, 0.3 + side * len(rows) / len(columns))
    size = min(9, 72 * side / len(columns))  # of the labels: a row's height in points, at the most
    starts = [row for row, name in enumerate(rows) if name in [columns[cut] for cut in cuts]]
    for axes, (title, table) in zip(grid, arrays.items(), strict=True):
        low, high = ends or bounds(table)
        seaborn.heatmap(table, vmin=low, vmax=high, cmap=VALUES, cbar=False, ax=axes)
        axes.set_title(title)
        axes.set_yticks(numpy.arange(len(rows)) + 0.5, rows, fontsize=size, rotation=0)
        axes.set_xticks(numpy.arange(len(columns)) + 0.5, columns, fontsize=size, rotation=90)
        axes.label_outer()
        axes.tick_params(length=0)
        axes.vlines(cuts, 0, len(rows), color="white", linewidth=1.5)
        axes.hlines(starts, 0, len(columns), color="white", linewidth=1.5)
        if rings is not None:
            down, right = numpy.nonzero(array(rings))
            look: Any = {"s": (0.76 * 72 * side / len(columns)) ** 2, "facecolors": "none"}
            axes.scatter(right + 0.5, down + 0.5, edgecolors="white", linewidths=2.6, **look)
            axes.scatter(right + 0.5, down + 0.5, edgecolors=PALETTE[1], linewidths=1.4, **look)
        if own:
            figure.colorbar(axes.collections[0], ax=axes, shrink=0.7)
    if not own:
        figure.colorbar(grid[0].collections[0], ax=grid, shrink=0.7)
    _note(figure, f"Colours: {values}." if values else "")
    return figure


@styled
def planes(
    panels: Mapping[str, Mapping[str, Any]],
    looks: Mapping[str, tuple[str, int | None, float]] | None = None,
    xlabel: str = "",
    ylabel: str = "",
    across: int = 2,
    ticks: bool = True,
) -> Figure:
    """Draw points and lines in the plane, panels on one scale with one legend.

    Args:
        panels: title of the panel to label to points (N, 2), drawn in this order.
        looks: label to mark or dash of Matplotlib, place in the palette (None: grey), and size of the marks; dots, if
            left out. A label that begins with an underscore is not in the legend.
        xlabel: what the first coordinate is.
        ylabel: what the second coordinate is.
        across: panels in a row.
        ticks: False where the coordinates mean nothing.

    Raises:
        ShapeMismatch: the points are not (N, 2).
    """
    labels = dict.fromkeys(label for contents in panels.values() for label in contents)
    looks = looks or {label: (".", k % 7, 5) for k, label in enumerate(labels)}
    across = min(across, len(panels))
    figure, grid = _subplots(len(panels), across, min(3.6, 0.98 * WIDTH / across), sharex=True, sharey=True)
    for axes, (title, contents) in zip(grid, panels.items(), strict=True):
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        axes.label_outer()
        for label, each in contents.items():
            points, (mark, place, size) = array(each), looks[label]
            if points.ndim != 2 or points.shape[1] != 2:
                raise ShapeMismatch(f"{label!r} has points of shape {points.shape}. Give (N, 2).")
            colour = "#B0B0B0" if place is None else PALETTE[place]
            edge = INK if mark in ("s", "^", "D") else colour
            look: Any = {"color": colour, "markersize": size, "markeredgecolor": edge, "alpha": 0.8}
            axes.plot(*points.T, mark, label=label, linewidth=0.8 if place is None else 1.8, **look)
        if not ticks:
            axes.set(xticks=[], yticks=[])
    _legend(figure)
    return figure


@styled
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
        ValueError: the links of a tree do not join as many names as it has.
    """
    deep = max(len(tree.names) for tree in trees.values())
    figure, row = _subplots(len(trees), len(trees), 0.3 + 0.2 * deep)
    known = list(dict.fromkeys((groups or {}).values()))
    for axes, (title, tree) in zip(row, trees.items(), strict=True):
        links, names = array(tree.links), list(tree.names)
        look: Any = {"orientation": "right", "link_color_func": lambda _: INK, "ax": axes, "leaf_font_size": 9}
        leaves = hierarchy.dendrogram(links, labels=names, **look)["ivl"]
        for k, group in enumerate(known):
            mine = [10 * place + 5 for place, leaf in enumerate(leaves) if (groups or {}).get(leaf) == group]
            axes.plot([0] * len(mine), mine, MARKS[k % 6], color=PALETTE[k % 7], markersize=5.5, label=group, zorder=3)
            axes.lines[-1].set_clip_on(False)
        if 1 < clusters < len(names):
            between = numpy.sort(links[:, 2])[-clusters:][:2].mean()  # the last merge that is done, the first undone
            axes.axvline(between, color=FAINT, linestyle=":", linewidth=1.4)
        right = 1.04 * max(links[:, 2].max(), 1e-9)
        axes.set(title=title, xlabel=xlabel, xlim=(0, right), ylim=(10 * len(names), 0))
        axes.tick_params(axis="y", length=0, pad=6)
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_visible(True)
    if known:
        _legend(figure, "dotted: the cut into clusters" if clusters else "")
    return figure
