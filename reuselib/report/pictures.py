"""Figures that are made of images: grids, masks, sheets with texts, graphs of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from PIL import Image

from reuselib import checks, home
from reuselib.errors import MissingFile, ShapeMismatch, unknown
from reuselib.report.theme import FAINT, PALETTE, VALUES, WIDTH, array, bounds, finite, limits, styled


def tinted(maps: Any, clipped: float = 0.98) -> numpy.ndarray:
    """Signed maps (n, h, w) as colours (n, 3, h, w) in [0, 1]: orange above zero, blue below, white at it.

    Each map has a scale of its own, whose end is this quantile of its sizes, in eight steps to keep files small.
    """
    values = array(maps)
    highest = numpy.quantile(abs(values).reshape(len(values), -1), clipped, axis=1).clip(1e-30)
    shade = (8 * values / highest[:, None, None]).clip(-8, 8).round()[:, None] / 8
    above, below = (1 - numpy.array(to_rgb(PALETTE[number])).reshape(1, 3, 1, 1) for number in (1, 0))
    return 1 - shade.clip(0) * above - (-shade).clip(0) * below


@styled
def with_tints(figure: Figure, below: str, above: str) -> Figure:
    """Write below a figure of images what the colours of `tinted` mean: below zero, zero, above it."""
    shades = LinearSegmentedColormap.from_list("tinted", (PALETTE[0], "white", PALETTE[1]))
    tall = figure.get_figheight()
    axes = figure.add_axes((0.36, -0.36 / tall, 0.28, 0.16 / tall))
    figure.colorbar(ScalarMappable(Normalize(-1, 1), shades), cax=axes, orientation="horizontal", ticks=())
    for place, side, text in ((-0.04, "right", below), (1.04, "left", above)):
        axes.text(place, 0.5, text, ha=side, va="center", transform=axes.transAxes)
    return figure


@styled
def image_grid(
    images: Any,
    rows: Sequence[str],
    columns: Sequence[str] = (),
    scale: str | tuple[float, float] = "shared",
    values: str = "",
) -> Figure:
    """Draw every image once, in labelled rows; a line below says how values became colours, if not as they are.

    Args:
        images: (N, C, H, W) with C of 1 or 3, filling the rows one after the other, N a multiple of their
            number; or one such stack per row, of any lengths. Any range; uint8 too.
        rows: what each row is.
        columns: what each column is.
        scale: "shared": the least value of all images is black and the greatest white. "each": so for every
            image alone. A pair (low, high): those values are black and white.
        values: name of the quantity that the images hold, where they are no pictures (attributions,
            features); draws single channels in cividis, with a colour bar.

    Raises:
        ShapeMismatch: the images do not fill the rows, or are of several shapes.
        UnknownName: the scale has no such name.
    """
    stacks = _stacks(images, rows)
    across, ends = max(map(len, stacks)), limits(scale, stacks)
    if len(columns) not in (0, across):
        raise ShapeMismatch(f"{len(columns)} column labels for rows of {across} images: one per column.")
    note = "Each image has its own scale."
    if ends in ((0, 1), (0, 255)):  # as they are
        note = ""
    elif ends:
        note = f"One scale for all images: {ends[0]:.3g} to {ends[1]:.3g}{'.' if scale == 'shared' else ', clipped.'}"
    scaled = [numpy.stack([stretched(image, ends) for image in stack]) for stack in stacks]
    if values:
        scaled = [numpy.moveaxis(matplotlib.colormaps[VALUES](each[:, 0])[..., :3], 3, 1) for each in scaled]
    figure = _sheet([[_Row(_coloured(each), label) for each, label in zip(scaled, rows, strict=True)]], side=0.75)
    (axes,) = figure.axes
    axes.set_xlabel(note.replace("-", "−"), loc="left", fontsize="small", color=FAINT)
    if columns:
        step = axes.get_xlim()[1] / (across - 0.06 / 1.06)
        axes.xaxis.tick_top()
        turned: Any = {"rotation": 35, "ha": "left", "rotation_mode": "anchor"}
        upright = _inches(columns) < step
        axes.set_xticks(step * (numpy.arange(across) + 0.47), columns, **({} if upright else turned))
    if values and ends:
        bar = axes.inset_axes((1 + 0.1 / across, 0.0, 0.1 / across, 1.0))
        figure.colorbar(ScalarMappable(Normalize(*ends), VALUES), cax=bar, label=values, ticks=MaxNLocator(3))
    return figure


def _stacks(images: Any, rows: Sequence[str]) -> list[numpy.ndarray]:
    """Cut the images into one (K, C, H, W) stack per row."""
    if getattr(images, "ndim", 0) == 4:
        if not rows or len(images) == 0 or len(images) % len(rows):
            raise ShapeMismatch(f"{len(images)} images do not fill {len(rows)} labelled rows. Give a multiple of that.")
        count = len(images) // len(rows)
        images = [images[start : start + count] for start in range(0, len(images), count)]
    stacks = [array(stack) for stack in images]
    if len(stacks) != len(rows):
        raise ShapeMismatch(f"{len(stacks)} rows of images for {len(rows)} labels. Give one label per row.")
    found = {stack.shape[1:] for stack in stacks}
    if len(found) != 1 or stacks[0].ndim != 4 or stacks[0].shape[1] not in (1, 3) or not all(map(len, stacks)):
        shapes = ", ".join(str(stack.shape) for stack in stacks)
        raise ShapeMismatch(f"rows take images (N, C, H, W) of one shape with 1 or 3 channels, not {shapes}.")
    return stacks


def stretched(values: numpy.ndarray, ends: tuple[float, float] | None = None) -> numpy.ndarray:
    """Map two ends, or the least and the greatest value, to 0 and 1."""
    low, high = ends or bounds(values)
    return numpy.clip((values - low) / max(high - low, 1e-12), 0, 1)


def _inches(labels: Sequence[str], size: float = 9.5) -> float:
    """How wide the widest of some labels is, about."""
    return max((len(line) for label in labels for line in label.split("\n")), default=0) * 0.6 * size / 72


def sheet(paper: str, row: str, scale: str = "colab", across: int = 8) -> numpy.ndarray:
    """Give the square pictures that a recorded run has kept, (N, 3, H, H) in [0, 1].

    Raises:
        MissingFile: there are none, or not so many a row.
    """
    path = home.brought() / "pictures" / paper / f"{scale}-{row}.png"
    if not path.is_file():
        raise MissingFile(f"{path} is not there. Fix: reuselib run {paper} --scale {scale} --rows {row} --seeds 0")
    with Image.open(path) as drawn:
        pixels = numpy.asarray(drawn.convert("RGB")).transpose(2, 0, 1) / 255
    side = (pixels.shape[2] - 1) // across - 1  # a line of one pixel is between pictures and around them
    down = range(1, pixels.shape[1] - side + 1, side + 1)
    return numpy.stack([pixels[:, y : y + side, 1 + k * (side + 1) :][..., :side] for y in down for k in range(across)])


@styled
def mask_grid(rows: Mapping[str, Any], classes: Sequence[str], colours: Sequence[Any]) -> Figure:
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
    table = numpy.array([*map(to_rgb, colours[: len(classes)]), (numpy.nan,) * 3])
    stacks = []
    for each in map(array, rows.values()):
        known = (each >= 0) & (each < len(classes))
        mask = table[numpy.where(known, each, -1).astype(int)] if each.ndim == 3 else None
        stacks.append(_coloured(each) if mask is None else numpy.moveaxis(mask, -1, 1))
    figure = _sheet([[_Row(*pair) for pair in zip(_stacks(stacks, list(rows)), rows, strict=True)]], side=0.75)
    handles = [Patch(facecolor=colour, edgecolor=FAINT, linewidth=0.5) for colour in table[:-1]]
    place: Any = {"loc": "upper left", "bbox_to_anchor": (0, 0)}
    figure.legend(handles, classes, ncols=len(classes), handlelength=1, columnspacing=1.2, **place)
    return figure


def _coloured(stack: numpy.ndarray) -> numpy.ndarray:
    """Give images of one or three channels, from 0 to 1, in colour (N, 3, H, W)."""
    return numpy.clip(numpy.broadcast_to(stack, (len(stack), 3, *stack.shape[2:])), 0, 1)


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
    gap: float = 0.06,
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
        gap: between images, as a share of their width.

    Raises:
        ShapeMismatch: images are of several sizes, or a row has another number of texts, lines or arrows.
        UnknownName: no row has the label of some texts, lines or arrows.
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
    labels = [row.label for rows in sheets for row in rows]
    for name in {*(texts or {}), *(lines or {}), *(arrows or {})}.difference(labels):
        raise unknown("row of the sheet", name, labels)
    _stacks([row.images for rows in sheets for row in rows], labels)
    return _sheet(sheets, size, gap)


@styled
def captioned_images(
    images: Any,
    texts: Sequence[str],
    across: int = 8,
    rows: Sequence[str] = (),
    groups: Sequence[int] | None = None,
    size: float = 8,
) -> Figure:
    """Draw grey or colour images with some lines of text below each, and a frame in the colour of its group.

    Args:
        images: (N, C, H, W) with C of 1 or 3, row after row; each is stretched to its own range.
        texts: of each image, short lines.
        across: images in a row.
        rows: what each row is, if anything, as a title above it.
        groups: of each image, from 0; without them there are no frames.
        size: of the texts, in points; smaller where the longest line would not fit.

    Raises:
        ShapeMismatch: there is not one text and one group for each image.
    """
    checks.whole(across=across)
    pictures = array(images)
    if not 0 < len(pictures) == len(texts) == len(pictures if groups is None else groups):
        raise ShapeMismatch(f"{len(pictures)} images need as many texts and groups, and at least one.")
    pictures = _coloured(numpy.stack([*map(stretched, pictures)]))
    frames = [] if groups is None else [PALETTE[int(group)] for group in groups]
    parts = [slice(start, start + across) for start in range(0, len(pictures), across)]
    titles = [*rows, *[""] * len(parts)]
    sheet = [_Row(pictures[p], "", title, texts[p], frames[p]) for p, title in zip(parts, titles, strict=False)]
    return _sheet([sheet], size, gap=0.22, side=WIDTH / across / 1.22)


def _sheet(sheets: Sequence[Sequence[_Row]], size: float = 7.5, gap: float = 0.06, side: float = WIDTH) -> Figure:
    """Draw sheets of rows of images side by side; lengths are in inches, an image is at most so wide.

    Labels and titles may reach beyond the figure: it is saved with all that belongs to it.
    """
    every = [row for rows in sheets for row in rows]
    height, width = every[0].images.shape[2:]
    across, margin = max(len(row.images) for row in every), 0.12 + _inches([row.label.strip() for row in every])
    side = min(side, (WIDTH / len(sheets) - margin) / (across * (1 + gap) - gap))
    step, tall = (1 + gap) * side, side * height / width
    inner, sheet = across * step - gap * side, margin + across * step - gap * side
    size *= min(1.0, 0.92 * step / max(_inches([text for row in every for text in row.texts], size), 0.01))
    figure, ends = Figure(figsize=(len(sheets) * sheet, 1)), []
    figure.set_layout_engine("none")
    for column, rows in enumerate(sheets):
        axes = figure.add_axes(((margin + column * sheet) / figure.get_figwidth(), 0, inner / figure.get_figwidth(), 1))
        places: list[float] = []
        top = 0.0
        for row in rows:
            top += (0.25 + 0.06 * bool(places)) * bool(row.title)
            axes.text(0, top - 0.05, row.title, va="bottom", weight="bold")
            for number in range(len(row.images)):
                _draw_cell(axes, row, number, (step * number, top), side, size)
            places.append(top + tall / 2)
            lines = max((1 + text.count("\n") for text in row.texts), default=0)
            top += tall + 0.06 * side + 0.0195 * size * lines + 0.05 * bool(lines)
        axes.set(xlim=(0, inner), xticks=[])
        axes.set_yticks(places, [row.label for row in rows])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        ends.append(top)
    figure.set_figheight(max(ends))
    for axes in figure.axes:
        axes.set_ylim(max(ends), 0)
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
def image_arcs(images: Any, above: tuple[str, Any, Any], below: tuple[str, Any, Any]) -> Figure:
    """Draw two complete graphs of the same images: their maps above and below the images, arcs between alike ones.

    Args:
        images: (n, C, H, W) with C of 1 or 3 in a row, each stretched to its own range.
        above: title, signed maps (n, h, w) in the colours of `tinted`, and the values of the edges (n (n - 1) / 2,),
            the pairs (0, 1), (0, 2), … in order. An arc is the wider and darker, the higher its place among the edges.
        below: the same of the other graph.

    Raises:
        ShapeMismatch: there is not one map for each image and one edge for each pair.
        NonFinite: an edge is NaN or infinite.
    """
    pictures, count = numpy.stack([*map(stretched, array(images))]), len(images)
    pairs, step = numpy.transpose(numpy.triu_indices(count, 1)), WIDTH / count
    side, room = 0.94 * step, min(1.1, 0.2 * WIDTH)
    rows = [tinted(above[1]), _coloured(pictures), tinted(below[1])]
    figure = Figure(figsize=(WIDTH, 2 * room + 3 * step))
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(2 * room + 3 * step, 0))
    axes.set_axis_off()
    for number, row in enumerate(rows):
        if len(row) != count:
            raise ShapeMismatch(f"There are {len(row)} maps for {count} images. Give one for each.")
        for place, picture in enumerate(row):
            corner = (step * place + 0.03 * step, room + step * number + 0.03 * step)
            _draw_cell(axes, _Row(picture[None]), 0, corner, side, 0)
    for (title, _, edges), base, height in ((above, room, room), (below, room + 3 * step, -room)):
        values = finite(title, edges)
        if len(values) != len(pairs):
            raise ShapeMismatch(f"{title!r} has {len(values)} edges for {count} images. Give one for each pair.")
        shares = values.argsort(kind="stable").argsort() / max(len(values) - 1, 1)
        turn = numpy.linspace(0, numpy.pi, 60)
        for (p, q), share in sorted(zip(pairs.tolist(), shares, strict=True), key=lambda each: each[1]):
            x = step * ((p + q + 1) / 2 - (q - p) / 2 * numpy.cos(turn))
            y = base - height * (0.08 + 0.86 * (q - p) / max(count - 1, 1)) * numpy.sin(turn)
            look = {"color": matplotlib.colormaps["Greys"](0.12 + 0.83 * share), "linewidth": 0.5 + 6 * share**2}
            axes.plot(x, y, solid_capstyle="butt", **look)
        end: Any = {"y": 0.0, "va": "top"} if height > 0 else {"y": 2 * room + 3 * step, "va": "bottom"}
        axes.text(0.03 * step, s=title, fontsize=12, weight="bold", **end)
    return figure
