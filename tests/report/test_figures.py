"""Figures: each draws what it is given, leaves nothing open, is readable on any page, and needs alt text."""

from __future__ import annotations

import builtins
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy
import pandas
import pytest
import seaborn
import torch
from matplotlib.figure import Figure
from PIL import Image

from reuselib.errors import BadValue, MissingFile, NonFinite, ReuseError, ShapeMismatch, UnknownName
from reuselib.report import figures, pictures, theme
from reuselib.run.study import write_sheet

STEPS = numpy.arange(0, 100, 10)
CLASSES = [f"class {index}" for index in range(10)]
NAN = float("nan")
FOUR, MASK = torch.rand(4, 1, 4, 4), torch.tensor([[[0, 1, 1, 1], [2, 255, 1, 1], [1] * 4, [1] * 4]])
TREE = SimpleNamespace(  # d joins b, then a joins c, then both pairs join
    names=("a", "b", "c", "d"), links=numpy.array([[3, 1, 0.1, 2], [0, 2, 0.4, 2], [4, 5, 1.0, 4]])
)
SPREAD = numpy.random.default_rng(0).normal(0.8, 0.02, (3, len(STEPS)))
LINES = {"seeds": (STEPS, SPREAD), "by x": dict(zip(STEPS, SPREAD.T, strict=True))}
LINES |= {"half-width": (STEPS, SPREAD.mean(0), SPREAD.std(0, ddof=1)), "one": (STEPS, SPREAD[0])}
SHEET = [{"A": {"a": torch.rand(3, 1, 8, 8)}, "": {"b": torch.rand(2, 3, 8, 8)}}, {"C": {"c": torch.ones(1, 1, 8, 8)}}]
ROOMS = {"room": torch.rand(4, 3, 32, 32), "mask": torch.ones(4, 32, 32)}
POINTS = {"a": {"one": torch.rand(5, 2), "_line": torch.rand(3, 2)}, "b": {"one": torch.rand(0, 2)}}
MARKS = {"a": 8 * torch.rand(3, 2, 1, 2, 2)}
DOTS = {"a": {"one": [0.9, 0.8], "none": []}, "b": {"one": [0.1], "none": []}}
GRAPHS = [(name, torch.randn(4, 8, 8), torch.rand(6)) for name in "ab"]
LONG = [f"a long name of column {k}" for k in range(4)]

DRAWN = {
    "image_grid": lambda: figures.image_grid(torch.rand(8, 3, 16, 16), ["a", "b"], LONG, "each"),
    "image_grid of values": lambda: figures.image_grid(torch.randn(6, 1, 8, 8), ["a", "b"], values="gradient"),
    "mask_grid": lambda: figures.mask_grid(ROOMS, "abc", figures.PALETTE),
    "image_sheet": lambda: figures.image_sheet(SHEET, {"b": ["1", "2\n3"]}, arrows=MARKS),
    "captioned_images": lambda: figures.captioned_images(
        torch.rand(5, 1, 16, 16), ["x\ny"] * 5, 3, "ab", [0, 1, 0, 1, 0]
    ),
    "image_arcs": lambda: figures.image_arcs(torch.rand(4, 1, 8, 8), *GRAPHS),
    "tints and a headline": lambda: figures.headline(figures.with_tints(figures.image_sheet(SHEET), "-", "+"), "what"),
    "curves": lambda: figures.curves(LINES, "iteration", "accuracy", drops=[50, 80], references={"teacher": 0.9}),
    "panels": lambda: figures.panels({"t": {"lines": LINES, "references": {"top": 0.9}}}, "iteration", logs="y"),
    "dots_with_seeds": lambda: figures.dots_with_seeds(DOTS, "accuracy", {"a": {"top": 1.0}}),
    "dots of two measures": lambda: figures.dots_with_seeds({"a": ([0.8, 0.9], [1.0])}, "accuracy", kinds=("x", "y")),
    "differences": lambda: figures.differences({"a": [0.1, 0.2, 0.12], "one seed": [0.1], "none": []}, 0.05),
    "histogram": lambda: figures.histogram({"a": torch.randn(300), "b": torch.ones(5)}, "logit"),
    "class_bars": lambda: figures.class_bars({"a": torch.rand(10)}, CLASSES, [0, 1] * 5, ["s", "u"], "accuracy", True),
    "matrices": lambda: figures.matrices({"truth": torch.eye(10), "b": torch.randn(10, 10)}, CLASSES, cuts=[5]),
    "planes": lambda: figures.planes(POINTS, {"one": ("x", 1, 4), "_line": (":", None, 1)}, "x", "y"),
    "dendrogram": lambda: figures.dendrogram({"a": TREE, "b": TREE}, dict.fromkeys(TREE.names, "2D"), clusters=2),
}


def texts(artists: object) -> list[str]:
    return [text.get_text() for text in artists]


@pytest.mark.parametrize("case", DRAWN)
def test_gives_a_small_white_figure_that_pyplot_does_not_hold(case: str) -> None:
    opened, before = matplotlib.pyplot.get_fignums(), dict(matplotlib.rcParams)
    figure = DRAWN[case]()
    data = theme.png(figure)
    assert isinstance(figure, Figure) and matplotlib.pyplot.get_fignums() == opened
    assert dict(matplotlib.rcParams) == before
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    assert len(data) < 100_000 and image.width <= 1460 and image.getpixel((0, 0)) == (255, 255, 255, 255)
    labels = [text for axes in figure.axes for text in (*axes.get_xticklabels(), *axes.get_yticklabels(), *axes.texts)]
    assert min(text.get_fontsize() for text in labels if text.get_text()) >= 7


def test_the_same_figure_gives_the_same_bytes_and_a_palette_does_not_change_colours() -> None:
    grey = figures.image_grid(torch.arange(0.0, 256, 3)[:64].view(1, 1, 8, 8), rows=["a"], scale=(0, 255))
    data = theme.png(grey)
    assert data == theme.png(grey)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.mode == "P"
        seen = numpy.asarray(picture.convert("RGB"))
    greys = numpy.unique(seen[(seen == seen[..., :1]).all(2)][:, 0]).astype(int)
    assert all(numpy.abs(greys - level).min() <= 1 for level in range(0, 192, 3))
    with Image.open(io.BytesIO(theme.png(figures.image_grid(torch.rand(16, 3, 32, 32), rows=["a"])))) as picture:
        assert picture.mode == "RGB"


def pixels(figure: Figure) -> list[numpy.ndarray]:
    """The images that a figure shows, as (H, W, RGBA)."""
    return [image.get_array() for image in figure.axes[0].images]


def test_image_grid_shows_every_image_in_its_place_and_says_how_values_became_colours() -> None:
    images = torch.rand(4, 1, 4, 5)
    images[0, 0, 0, 0], images[3, 0, 3, 4] = 0, 1
    figure = figures.image_grid(images, rows=["real", "fake"], columns=["cat", "dog"])
    (axes,) = figure.axes
    for found, image in zip(pixels(figure), images, strict=True):
        assert numpy.allclose(found[..., :3], image.permute(1, 2, 0)) and (found[..., 3] == 1).all()
    corners = [image.get_extent()[::3] for image in axes.images]
    assert corners[0][0] == corners[2][0] < corners[1][0] and corners[0][1] == corners[1][1] < corners[2][1]
    assert texts(axes.get_yticklabels()) == ["real", "fake"] and texts(axes.get_xticklabels()) == ["cat", "dog"]
    assert len(pixels(figures.image_grid([FOUR[:3], FOUR[:1]], rows=["long", "short"]))) == 4
    images = torch.tensor([2.0, 8.0]).view(2, 1, 1, 1) * torch.eye(2)
    cases = {"shared": ("0 to 8.", (0.25, 1)), "each": ("its own", (1, 1)), (0, 4): ("0 to 4, clipped.", (0.5, 1))}
    for scale, (note, expected) in cases.items():
        for given in (images.byte(), images.bfloat16().requires_grad_(), images.numpy()):
            figure = figures.image_grid(given, rows=["only"], scale=scale)
            assert note in figure.axes[0].get_xlabel()
            assert tuple(found[0, 0, 0] for found in pixels(figure)) == expected


REFUSED: dict[str, tuple[Callable[[], object], type[ReuseError]]] = {
    "5 images do not fill 2": (lambda: figures.image_grid(torch.rand(5, 1, 4, 4), ["a", "b"]), ShapeMismatch),
    "1 or 3 channels": (lambda: figures.image_grid(torch.rand(4, 2, 4, 4), ["a"]), ShapeMismatch),
    "Did you mean 'each'": (lambda: figures.image_grid(FOUR, ["a"], scale="eahc"), UnknownName),
    "black must be": (lambda: figures.image_grid(FOUR, ["a"], scale=(NAN, 1)), BadValue),
    "'a' has shape": (lambda: figures.matrices({"a": torch.rand(2, 2)}, ["x", "y", "z"]), ShapeMismatch),
    "other numbers of texts": (lambda: figures.image_sheet(SHEET, {"a": ["x"]}), ShapeMismatch),
    "unknown row of the sheet 'd'": (lambda: figures.image_sheet(SHEET, {"d": ["x"]}), UnknownName),
    "4 images need as many": (lambda: figures.captioned_images(FOUR, ["x", "y"]), ShapeMismatch),
    "'a' has 1 edges": (lambda: figures.image_arcs(FOUR, *[("a", FOUR[:, 0], [1.0])] * 2), ShapeMismatch),
    "line 'a' has": (lambda: figures.curves({"a": (STEPS, STEPS[:-1])}, "x", "y"), ShapeMismatch),
    "'b' holds NaN": (lambda: figures.histogram({"b": [1, NAN]}, "x"), NonFinite),
    "the first one": (lambda: figures.dots_with_seeds({"a": {"one": []}, "b": {"two": []}}, "x"), ShapeMismatch),
    "margin must be": (lambda: figures.differences({"a": [1, 2]}, NAN), BadValue),
    "class_bars cannot draw .*IndexError.*Fix: see help": (lambda: figures.class_bars({"a": [1]}, "x", [5]), BadValue),
    "'code' has points": (lambda: figures.planes({"a": {"code": torch.rand(3, 3)}}), ShapeMismatch),
    "not None": (lambda: figures.show(None, alt="Nothing."), BadValue),
    "needs alt text": (lambda: figures.show(Figure(), alt="  "), ReuseError),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_is_refused(message: str) -> None:
    draw, error = REFUSED[message]
    with pytest.raises(error, match=message):
        draw()


def test_sheets_put_texts_frames_and_strokes_where_they_belong() -> None:
    other = torch.rand(3, 3, 8, 8)
    strokes = torch.tensor([[[1.0, 2.0], [5.0, 20.0]], [[0.0, 0.0], [4.0, 8.0]], [[1.0, 1.0], [2.0, 2.0]]])
    sheet = figures.image_sheet([{"A": {"b": other}}], {"b": ["x", "y", "z"]}, lines={"b": strokes.view(3, 1, 1, 2, 2)})
    (axes,) = sheet.axes
    assert texts(axes.get_yticklabels()) == ["b"] and {"A", "x", "y", "z"} <= set(texts(axes.texts))
    assert numpy.allclose(axes.images[2].get_array()[..., :3], other[2].permute(1, 2, 0))
    x, end, bottom, top = axes.images[1].get_extent()
    assert numpy.allclose(axes.patches[1]._posA_posB, [(x, top), ((x + end) / 2, bottom)])
    (axes,) = figures.captioned_images(other, ["x", "y", "z"], 2, ["one", "two"], [1, 0, 1]).axes
    assert {"x", "y", "z", "one", "two"} <= set(texts(axes.texts))
    frames = [matplotlib.colors.to_hex(patch.get_edgecolor()).upper() for patch in axes.patches]
    assert frames == [figures.PALETTE[k] for k in (1, 0, 1)]
    image, mask = pixels(figures.mask_grid({"image": FOUR[:1], "mask": MASK}, ["a", "b", "c"], figures.PALETTE))
    assert numpy.allclose(image[..., 0], FOUR[0, 0]) and mask[1, 1, 3] == 0
    colours = [matplotlib.colors.to_rgb(colour) for colour in figures.PALETTE[:3]]
    assert numpy.allclose(mask[:2, :2, :3].reshape(4, 3)[:3], colours)


def test_lines_in_every_form_have_the_same_mean_and_band() -> None:
    figure = DRAWN["curves"]()
    (axes,) = figure.axes
    assert all(numpy.allclose(line.get_ydata(), SPREAD.mean(0)) for line in axes.lines[:3])
    bands = [each.get_paths()[0].vertices for each in axes.collections[:3]]
    top = SPREAD.mean(0) + SPREAD.std(0, ddof=1)
    assert all(numpy.allclose(band[:, 1].max(), top.max()) for band in bands)
    assert "over seeds" in figure.legends[0].get_title().get_text() and texts(axes.texts) == ["teacher"]
    assert texts(figure.legends[0].get_texts()) == list(LINES)
    alone = figures.curves({"a": (STEPS, STEPS + 1)}, "x", "y", log=True)
    assert not alone.legends[0].get_title().get_text() and alone.axes[0].get_yscale() == "log"
    wide = figures.curves({f"{k} {'m' * 26}": (STEPS, STEPS) for k in range(5)}, "x", "y")
    assert wide.legends[0].get_window_extent().width <= wide.bbox.width


def test_panels_share_looks_and_one_legend() -> None:
    contents = {
        "first": {"lines": {"a": (STEPS, STEPS)}, "references": {"top": 50}, "ylabel": "y"},
        "second": {"lines": {"b": (STEPS, STEPS), "a": (STEPS, [STEPS, STEPS + 2])}, "ticks": {0: "none", 90: "all"}},
        "third": {"lines": {}},
    }
    figure = figures.panels(contents, "updates", logs="x", one_scale=True)
    first, second, _, empty = figure.axes
    assert first.lines[0].get_color() == second.lines[1].get_color() != second.lines[0].get_color()
    assert numpy.allclose(second.lines[1].get_ydata(), STEPS + 1) and first.get_ylim() == second.get_ylim()
    assert texts(second.get_xticklabels()) == ["none", "all"] and first.get_xscale() == "log"
    assert not empty.axison and [axes.get_xlabel() for axes in figure.axes[:3]] == ["", "updates", "updates"]
    assert texts(figure.legends[0].get_texts()) == ["a", "top", "b"]
    (axes,) = figures.histogram({"p": {"a": [0, 0, 0, 1.0], "b": [1.0]}}, "x", bins=2).axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[0.75, 0.25], [0, 1]]
    assert list(axes.lines[0].get_xdata()) == [0.25, 0.75]


def test_dots_show_every_seed_and_the_mean() -> None:
    panels = {"a": {"one": [0.2, 0.4], "none": []}, "b": {"one": [-0.1], "none": []}}
    figure = figures.dots_with_seeds(panels, "x", {"b": {"top": 0.5}}, kinds={"one": "inductive", "none": "oracle"})
    first, second = figure.axes
    assert list(first.lines[0].get_xdata()) == [0.2, 0.4]
    assert [float(each.lines[0].get_xdata()[0]) for each in first.containers] == [pytest.approx(0.3)]
    assert texts(first.texts) == ["0.300", "not run"] and texts(second.texts) == ["−0.100", "not run", "top"]
    assert texts(first.get_yticklabels()) == ["one", "none"]
    assert texts(figure.legends[0].get_texts()) == ["inductive", "oracle"]
    (axes,) = DRAWN["dots of two measures"]().axes
    assert [list(line.get_xdata()) for line in axes.lines[:3]] == [[0.8, 0.9], [1.0], pytest.approx([0.85, 1.0])]
    values = {"a": [0.1, 0.9, NAN, 0.7], "b": [1, 1, 1, 1]}
    figure = figures.class_bars(values, list("pqrs"), [1, 0, 1, 0], ["seen", "unseen"], "share", True, reference=0.25)
    first, second = figure.axes
    assert texts(second.get_xticklabels()) == ["q", "s", "p", "r"]
    assert [bar.get_height() for bar in first.patches][:3] == [0.9, 0.7, 0.1]
    assert [each.get_segments()[0][0][1] for each in first.collections] == pytest.approx([0.8, 0.1])


def test_differences_are_coloured_by_their_interval_against_the_margin() -> None:
    values = {"met": [0.1, 0.11, 0.12], "not": [0.0, 0.01], "open": [0.0, 0.2], "one": [0.9], "none": []}
    (axes,) = figures.differences(values, {label: 0.05 if label != "not" else 0.5 for label in values}).axes
    assert texts(axes.texts) == ["+0.110", "+0.005", "+0.100", "+0.900", "not run"]
    (short,) = figures.differences({"large": [4.18, 4.2], "small": [0.538, 0.546]}, 0.0, digits=1).axes
    assert texts(short.texts) == ["+4.2", "+0.5"]
    found = [matplotlib.colors.to_hex(each.lines[0].get_color()).upper() for each in axes.containers]
    assert found == [*figures.PALETTE[:2], figures.FAINT, figures.FAINT]


def test_matrices_share_an_order_and_are_cut_between_groups_and_ringed() -> None:
    tables = {name: torch.rand(2, 3) for name in "abcd"}
    figure = figures.matrices(
        tables, "xyz", "yz", cuts=[2], across=3, scale=(0, 1), values="share", rings=torch.eye(2, 3)
    )
    axes = figure.axes[:6]
    assert all(each.collections[0].get_clim() == (0, 1) for each in axes[:4]) and not axes[4].axison
    assert [each.get_segments()[0][0].tolist() for each in axes[0].collections[1:3]] == [[2, 0], [0, 1]]
    assert all(each.collections[-1].get_offsets().tolist() == [[0.5, 0.5], [1.5, 1.5]] for each in axes[:4])
    assert texts(axes[0].get_yticklabels()) == ["y", "z"] and texts(axes[3].get_xticklabels()) == list("xyz")
    assert "share" in figure.get_supxlabel()
    whole = figures.matrices({"a": torch.full((2, 2), NAN), "b": torch.eye(2)}, "xy", scale="shared")
    assert whole.axes[0].collections[0].get_clim() == (0, 1)


def test_show_gives_a_notebook_one_picture_with_its_texts_and_prints_them_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures.show(Figure(), alt="A line that rises.", caption="Seed 0.")
    assert capsys.readouterr().out == "A line that rises.\nSeed 0.\n"
    sent: list[tuple[dict, dict]] = []
    monkeypatch.setattr(builtins, "get_ipython", lambda: SimpleNamespace(kernel=True), raising=False)
    monkeypatch.setattr("IPython.display.display", lambda data, metadata, raw: sent.append((data, metadata)))
    grid = seaborn.catplot(pandas.DataFrame({"value": [0.2, 0.4]}), x="value")
    figures.show(grid, alt="Two dots.", caption="*Seeds*.", dpi=50)
    assert not matplotlib.pyplot.get_fignums()
    (picture, about), caption = sent
    assert picture["image/png"].startswith(b"\x89PNG") and picture["text/plain"] == "Two dots."
    width = Image.open(io.BytesIO(picture["image/png"])).width / 50
    assert about["image/png"] == {"alt": "Two dots.", "caption": "*Seeds*.", "width": round(width / 7 * theme.COLUMN)}
    assert caption == ({"text/markdown": "*Seeds*."}, {"text/markdown": {"caption": True}})


def test_sheet_gives_the_pictures_that_a_run_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (16, 3, 6, 6), dtype=torch.uint8)
    monkeypatch.setattr(pictures.home, "brought", lambda: tmp_path)
    write_sheet(tmp_path / "pictures" / "paper" / "colab-row.png", images)
    assert (figures.sheet("paper", "row") * 255 == images.numpy()).all()
    with pytest.raises(MissingFile, match="reuselib run paper --scale colab --rows other"):
        figures.sheet("paper", "other")
