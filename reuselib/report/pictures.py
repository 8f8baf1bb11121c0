"""Figures that are made of images: grids, masks, sheets with texts, maps and graphs of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from reuselib.errors import ShapeMismatch
from reuselib.report.theme import FAINT, INK, PALETTE, VALUES, WIDTH, array, bounds, check_scale, styled


@styled
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
    if columns is not None and len(columns) != max(map(len, stacks)):
        raise ShapeMismatch(f"{len(columns)} column labels for rows of {max(map(len, stacks))} images: one per column.")
    scaled, low, high, note = _scaled(stacks, scale)
    if values:
        scaled = [numpy.moveaxis(matplotlib.colormaps[VALUES](each[:, 0])[..., :3], 3, 1) for each in scaled]
    sheet = [_Row(_coloured(each), label) for each, label in zip(scaled, rows, strict=True)]
    bar = 0.95 if values and scale != "each" else 0.08
    figure = _sheet([sheet], side=0.75, columns=columns or (), title=title or "", bottom=0.3, right=bar)
    _note(figure, note)
    if bar > 0.5:
        wide, deep = figure.get_size_inches()
        axes = figure.add_axes((1 - 0.8 / wide, 0.4 / deep, 0.14 / wide, min(0.6, 1 - 0.6 / deep)))
        figure.colorbar(ScalarMappable(Normalize(low, high), VALUES), cax=axes, label=values, ticks=MaxNLocator(3))
    return figure


def _note(figure: Figure, text: str) -> None:
    """Write small below everything."""
    figure.text(0.01, 0.06 / figure.get_figheight(), text, fontsize="small", color=FAINT)


def _stacks(images: Any, rows: Sequence[str]) -> list[numpy.ndarray]:
    """Cut the images into one (K, C, H, W) stack per row."""
    if not rows:
        raise ShapeMismatch("a grid needs at least one row label. Say what the rows are.")
    if getattr(images, "ndim", 0) == 4:
        if len(images) == 0 or len(images) % len(rows):
            raise ShapeMismatch(f"{len(images)} images do not fill {len(rows)} rows. Give a multiple of that.")
        count = len(images) // len(rows)
        images = [images[start : start + count] for start in range(0, len(images), count)]
    stacks = [array(stack) for stack in images]
    if len(stacks) != len(rows):
        raise ShapeMismatch(f"{len(stacks)} rows of images for {len(rows)} labels. Give one label per row.")
    same = len({stack.shape[1:] for stack in stacks}) == 1
    if not same or stacks[0].ndim != 4 or stacks[0].shape[1] not in (1, 3) or not all(map(len, stacks)):
        found = ", ".join(str(stack.shape) for stack in stacks)
        raise ShapeMismatch(f"a grid takes images (N, C, H, W) of one shape with 1 or 3 channels, not {found}.")
    return stacks


def _scaled(
    stacks: Sequence[numpy.ndarray], scale: str | tuple[float, float]
) -> tuple[list[numpy.ndarray], float, float, str]:
    """Map the values to [0, 1]; give also the range and the sentence that says what was done."""
    check_scale(scale)
    if scale == "each":
        return [numpy.stack([*map(_stretched, stack)]) for stack in stacks], 0.0, 1.0, "Each image has its own scale."
    low, high = bounds(numpy.concatenate([s.ravel() for s in stacks])) if isinstance(scale, str) else scale
    end = "." if isinstance(scale, str) else ", clipped."
    note = f"One scale for all images: {low:.3g} to {high:.3g}{end}".replace("-", "−")
    return [_stretched(stack, (low, high)) for stack in stacks], low, high, note


def _stretched(values: numpy.ndarray, limits: tuple[float, float] | None = None) -> numpy.ndarray:
    """Map limits, or the least and the greatest value, to 0 and 1."""
    low, high = limits or bounds(values)
    return numpy.clip((values - low) / max(high - low, 1e-12), 0, 1)


def _inches(labels: Sequence[str], size: float = 9.5) -> float:
    """How wide the widest of some labels is."""
    lines = [line for label in labels for line in label.split("\n") if line]
    return max((TextPath((0, 0), line, size=size).get_extents().width for line in lines), default=0.0) / 72


@styled
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
    stacks = _stacks([_coloured(array(each), table) for each in rows.values()], list(rows))
    figure = _sheet([[_Row(each, label) for each, label in zip(stacks, rows, strict=True)]], side=0.75, bottom=0.35)
    handles = [Patch(facecolor=colour, edgecolor=FAINT, linewidth=0.5) for colour in table]
    figure.legend(handles, classes, loc="lower left", ncols=len(classes), handlelength=1, columnspacing=1.2)
    return figure


def _coloured(stack: numpy.ndarray, table: numpy.ndarray | None = None) -> numpy.ndarray:
    """Give images in colour (N, 3, H, W) of images in [0, 1], or of masks (N, H, W), NaN where there is no class."""
    if stack.ndim == 4 or table is None:
        return numpy.clip(numpy.broadcast_to(stack, (len(stack), 3, *stack.shape[2:])), 0, 1)
    known = (stack >= 0) & (stack < len(table))
    colours = numpy.where(known[..., None], table[numpy.where(known, stack, 0).astype(int)], numpy.nan)
    return numpy.moveaxis(colours, -1, 1)


@dataclass
class _Row:
    """A row of images (K, 3, H, W) of a sheet, with what stands beside, below and on each of them."""

    images: numpy.ndarray
    label: str = ""
    title: str = ""
    texts: Sequence[str] = ()
    frames: Sequence[str] = ()
    strokes: Mapping[str, numpy.ndarray] = field(default_factory=dict)  # arrow style to (K, G, L, 2, 2)


@styled
def image_sheet(
    columns: Sequence[Mapping[str, Mapping[str, Any]]],
    texts: Mapping[str, Sequence[str]] | None = None,
    lines: Mapping[str, Any] | None = None,
    arrows: Mapping[str, Any] | None = None,
    size: float = 7.5,
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
    sheets: list[list[_Row]] = []
    strokes = {"-": lines or {}, "-|>": arrows or {}}
    for groups in columns:
        sheets.append([])
        for title, rows in groups.items():
            for k, (label, images) in enumerate(rows.items()):
                marks = {head: array(each[label]) for head, each in strokes.items() if label in each}
                row = _Row(_coloured(array(images)), label, "" if k else title, (texts or {}).get(label, ()), (), marks)
                if {len(row.texts) or len(row.images), *map(len, marks.values())} != {len(row.images)}:
                    raise ShapeMismatch(f"row {label!r} has other numbers of texts, lines or arrows than of images.")
                sheets[-1].append(row)
    _stacks([row.images for rows in sheets for row in rows], [row.label for rows in sheets for row in rows])
    return _sheet(sheets, size)


@styled
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
    pictures = array(images)
    if not len(pictures) == len(texts) == len(pictures if groups is None else groups):
        raise ShapeMismatch(f"{len(pictures)} images need as many texts and groups.")
    pictures = _coloured(numpy.stack([*map(_stretched, pictures)]))
    frames = [] if groups is None else [PALETTE[int(group)] for group in groups]
    sheet: list[_Row] = []
    for start in range(0, len(pictures), across):
        part = slice(start, start + across)
        sheet.append(_Row(pictures[part], "", "".join(rows[len(sheet) : len(sheet) + 1]), texts[part], frames[part]))
    return _sheet([sheet], 8, gap=0.22, side=WIDTH / across / 1.22)


def _sheet(
    sheets: Sequence[Sequence[_Row]],
    size: float = 7.5,
    gap: float = 0.06,
    side: float = WIDTH,
    columns: Sequence[str] = (),
    title: str = "",
    bottom: float = 0.0,
    right: float = 0.08,
) -> Figure:
    """Draw sheets of rows of images side by side, every place known: lengths are in inches, an image's at most side."""
    every = [row for rows in sheets for row in rows]
    height, width = every[0].images.shape[2:]
    across = max(len(row.images) for row in every)
    margin = 0.12 + _inches([row.label for row in every])
    longest = _inches(columns)
    side = min(side, ((WIDTH - right) / len(sheets) - margin) / (across * (1 + gap) - gap))
    slanted = longest > side
    if slanted:  # the last label reaches beyond its image
        right = max(right, 0.82 * longest - 0.3 * side)
        side = min(side, (WIDTH - right - margin) / (across * (1 + gap)))
    step, tall = (1 + gap) * side, side * height / width
    size *= min(1.0, 0.86 * step / max(_inches([text for row in every for text in row.texts], size), 0.01))
    top = 0.03 + 0.25 * bool(title) + (0.15 + 0.57 * longest if slanted else 0.22 * bool(columns))
    places: list[list[float]] = []  # upper ends of the rows, then the lower end of the last
    for rows in sheets:
        tops = [top]
        for row in rows:
            tops[-1] += (0.25 + 0.06 * (len(tops) > 1)) * bool(row.title)
            lines = max((1 + text.count("\n") for text in row.texts), default=0)
            tops.append(tops[-1] + tall + 0.06 * side + 0.0195 * size * lines + 0.05 * bool(lines))
        places.append(tops)
    deep = max(tops[-1] for tops in places)
    inner = across * step - gap * side
    sheet = margin + inner
    figure = Figure(figsize=(max(3.5, right + len(sheets) * sheet), deep + bottom))
    figure.set_layout_engine("none")
    for column, (rows, tops) in enumerate(zip(sheets, places, strict=True)):
        wide, full = figure.get_size_inches()
        box = ((column * sheet + margin) / wide, bottom / full, inner / wide, deep / full)
        axes = figure.add_axes(box, xlim=(0, inner), ylim=(deep, 0), xticks=[])
        axes.set_yticks([each + tall / 2 for each in tops[:-1]], [row.label for row in rows])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.text(0, 0.02, title, va="top")
        for number, label in enumerate(columns):
            turned = {"rotation": 35, "ha": "left", "rotation_mode": "anchor"} if slanted else {"ha": "center"}
            axes.text(step * number + side / 2, top - 0.05, label, va="bottom", **turned)
        for row, place in zip(rows, tops, strict=False):
            axes.text(0, place - 0.05, row.title, va="bottom", weight="bold")
            for number in range(len(row.images)):
                _draw_cell(axes, row, number, (step * number, place), side, size)
    return figure


def _draw_cell(axes: Axes, row: _Row, number: int, corner: tuple[float, float], side: float, size: float) -> None:
    """Draw one image of a row, so wide, with its upper left corner at a place, and what belongs to it."""
    (left, top), (height, width) = corner, row.images.shape[2:]
    tall, thick = side * height / width, min(1.4, 1.2 * side)
    extent = (left, left + side, top + tall, top)
    picture = row.images[number].transpose(1, 2, 0)
    opaque = numpy.isfinite(picture).all(2, keepdims=True)
    picture = numpy.concatenate([numpy.nan_to_num(picture), opaque], 2)
    axes.imshow(picture, extent=extent, interpolation="nearest", aspect="auto", zorder=0)
    if row.frames:
        frame: Any = {"edgecolor": row.frames[number], "linewidth": 2.5, "fill": False, "clip_on": False}
        axes.add_patch(Rectangle((left, top), side, tall, **frame))
    if row.texts:
        axes.text(left + side / 2, top + tall + 0.04, row.texts[number], fontsize=size, ha="center", va="top")
    for head, strokes in row.strokes.items():
        for colour, group in zip(PALETTE, strokes[number], strict=False):
            for ends in group * side / width + corner:
                drawn = FancyArrowPatch(*ends, arrowstyle=head, color=colour, shrinkA=0, shrinkB=0)
                drawn.set(linewidth=thick, mutation_scale=5 * thick)
                drawn.set_path_effects([withStroke(linewidth=2 * thick, foreground="white")])
                axes.add_patch(drawn)
                drawn.set_clip_path(Rectangle((left, top), side, tall, transform=axes.transData))


@styled
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
    pictures = array(images)
    count, pairs = len(pictures), numpy.triu_indices(len(pictures), 1)
    angles = numpy.pi * (0.5 - 2 * (numpy.arange(count) + 0.5) / count)
    places = numpy.stack([numpy.cos(angles), numpy.sin(angles)], 1)
    down = -(-len(graphs) // across)
    figure = Figure(figsize=(WIDTH, down * (0.3 + WIDTH / across)))
    side = min(0.52, 3.1 / count) * 72 * WIDTH / across / 3.5  # of a node, in points; a graph is 3.5 units wide
    for number, (title, (maps, edges)) in enumerate(graphs.items(), 1):
        nodes, values = array(maps), array(edges)
        if len(nodes) != count or values.shape != pairs[0].shape:
            raise ShapeMismatch(f"{title!r} has {len(nodes)} maps and {len(values)} edges for {count} images.")
        axes = figure.add_subplot(down, across, number, title=title, aspect="equal")
        axes.set(xlim=(-1.8, 1.8), ylim=(-1.7, 1.7))
        axes.set_axis_off()
        shares = values.argsort(kind="stable").argsort() / max(len(values) - 1, 1)
        for p, q, share in zip(*pairs, shares, strict=True):
            look = {"color": matplotlib.colormaps["Blues"](0.15 + 0.8 * share), "linewidth": 0.3 + 4.5 * share**2}
            axes.plot(*places[[p, q]].T, solid_capstyle="round", zorder=1 + share, **look)
        for place, node, picture in zip(places, nodes, pictures, strict=True):
            top = max(float(numpy.quantile(numpy.abs(node), 0.98)), 1e-12)
            _put(axes, matplotlib.colormaps[VALUES](_stretched(node, (-top, top))), place, side, INK)
            _put(axes, _stretched(picture).transpose(1, 2, 0), 1.52 * place, 0.8 * side, "white")
    return figure


def _put(axes: Axes, picture: numpy.ndarray, place: numpy.ndarray, side: float, edge: str) -> None:
    """Draw a picture of so many points a side around a place, in a frame."""
    box = OffsetImage(picture, zoom=side / len(picture), cmap="gray", interpolation="nearest")
    frame: Any = {"edgecolor": edge, "linewidth": 1.2, "facecolor": "white"}
    axes.add_artist(AnnotationBbox(box, tuple(place), pad=0.05, bboxprops=frame, zorder=3))


@styled
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
    places, pictures = array(points), array(images)
    found = {title: array(each).astype(int) for title, each in groups.items()}
    if any(len(each) != len(places) for each in (pictures, *found.values())) or places.shape[1:] != (2,):
        raise ShapeMismatch(f"{len(pictures)} images need as many points (N, 2) and groups, not {places.shape}.")
    figure = Figure(figsize=(WIDTH, 0.8 + 0.92 * WIDTH / len(found)))
    shown = _spread(places, round(22 / len(found) ** 0.5))
    for axes, (title, each) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        axes.set(title=title, xlabel=xlabel)
        for group, name in enumerate(names):
            look = {"color": PALETTE[group], "markersize": 2.5, "label": name}
            axes.plot(*places[each == group].T, "o^sD"[group % 4], **look)
        for index in shown:
            _put(axes, _stretched(pictures[index]).transpose(1, 2, 0), places[index], 12, PALETTE[each[index]])
    figure.axes[0].set_ylabel(ylabel)
    handles, entries = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, entries, loc="outside lower left", ncols=len(names), markerscale=2.5)
    return figure


def _spread(places: numpy.ndarray, across: int) -> list[int]:
    """Positions of points no two of which are in the same or in touching cells of a grid, the first ones first."""
    scaled = across * (places - places.min(0)) / numpy.maximum(numpy.ptp(places, 0), 1e-12)
    kept: list[int] = []
    for index, place in enumerate(scaled):
        if all(numpy.abs(place - scaled[other]).max() >= 1 for other in kept):
            kept.append(index)
    return kept
