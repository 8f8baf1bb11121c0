"""Figures: every function gives a Figure, draws what it is given, leaves nothing open, and needs alt text."""

import io
import sys
from types import SimpleNamespace

import matplotlib.colors
import numpy
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from reuselib.errors import ReuseError, ShapeMismatch, UnknownName
from reuselib.report import figures

STEPS = numpy.arange(0, 100, 10)
CLASSES = [f"class {index}" for index in range(10)]
TREE = SimpleNamespace(  # d joins b, then a joins c, then both pairs join
    names=("a", "b", "c", "d"), links=numpy.array([[3, 1, 0.1, 2], [0, 2, 0.4, 2], [4, 5, 1.0, 4]])
)


def lines() -> dict:
    """One line per kind that `curves` takes."""
    spread = numpy.random.default_rng(0).normal(0.8, 0.02, (3, len(STEPS)))
    return {"seeds": (STEPS, spread), "mean and sd": (STEPS, spread.mean(0), spread.std(0)), "one": (STEPS, spread[0])}


DRAWN = {
    "image_grid": lambda: figures.image_grid(torch.randn(40, 1, 16, 16), rows=["a", "b", "c", "d"], title="t"),
    "image_grid in colour": lambda: figures.image_grid(torch.rand(8, 3, 32, 32), rows=["a"], scale="each"),
    "image_grid of values": lambda: figures.image_grid(torch.randn(6, 1, 8, 8), rows=["a", "b"], values="gradient"),
    "mask_grid": lambda: figures.mask_grid({"room": torch.rand(4, 3, 32, 32), "mask": torch.ones(4, 32, 32)}, "abc"),
    "image_sheet": lambda: figures.image_sheet(
        [{"A": {"a": torch.rand(3, 1, 8, 8)}, "": {"b": torch.rand(2, 3, 8, 8)}}, {"C": {"c": torch.ones(1, 1, 8, 8)}}],
        texts={"b": ["1", "2\n3"]},
        arrows={"a": 8 * torch.rand(3, 2, 1, 2, 2)},
    ),
    "curves": lambda: figures.curves(lines(), "iteration", "accuracy", drops=[50, 80], references={"teacher": 0.9}),
    "bars_with_seeds": lambda: figures.bars_with_seeds(
        {"dfad": [0.9, 0.8], "not run": []}, "accuracy", references={"chance": 0.1}, title="t"
    ),
    "bars_with_quartiles": lambda: figures.bars_with_quartiles(
        {"a": {"one": (1, 2, 4), "two": ()}, "b": {"one": (5, 6, 7), "two": (8, 9, 10)}}, "ms", "t"
    ),
    "class_coverage": lambda: figures.class_coverage({"a": range(10), "b": [5] + [0] * 9}, CLASSES, "t"),
    "scatter": lambda: figures.scatter(
        {"real": (torch.randn(500, 10), torch.randn(500, 10)), "fake": (torch.ones(2), torch.ones(2))}, "x", "y"
    ),
    "histogram": lambda: figures.histogram({"a": torch.randn(300), "b": torch.ones(5)}, "logit"),
    "panels": lambda: figures.panels({"t": {"lines": lines(), "references": {"top": 0.9}}}, "iteration", across=1),
    "confusions": lambda: figures.confusions({"a": torch.eye(10), "b": torch.rand(10, 10)}, CLASSES, cuts=[5]),
    "dumbbells": lambda: figures.dumbbells({"a": ([0.8, 0.9], [0.9, 1.0]), "b": ([], [])}, ("x", "y"), "accuracy"),
    "dots_with_seeds": lambda: figures.dots_with_seeds(
        {"a": {"one": [0.9, 0.8], "not run": []}, "b": {"one": [0.1], "not run": []}}, "accuracy", {"a": {"top": 1.0}}
    ),
    "dots_with_seeds of kinds": lambda: figures.dots_with_seeds(
        {"a": {"one": [0.9, 0.8], "two": [0.7]}}, "accuracy", across=1, kinds={"one": "first", "two": "second"}
    ),
    "planes": lambda: figures.planes(
        {"a": {"one": torch.rand(5, 2), "_line": torch.rand(3, 2)}, "b": {"one": torch.rand(0, 2)}},
        {"one": ("x", 1, 4), "_line": (":", 0, 1)},
        "x",
        "y",
    ),
    "class_bars": lambda: figures.class_bars(
        {"a": torch.rand(10), "b": torch.rand(10)}, CLASSES, [0, 1] * 5, ["seen", "unseen"], "accuracy", means=True
    ),
    "captioned_images": lambda: figures.captioned_images(
        torch.rand(5, 1, 16, 16), ["one\ntwo"] * 5, across=3, rows=["first", "second"], groups=[0, 1, 0, 1, 0]
    ),
    "matrices": lambda: figures.matrices(
        {"a": torch.eye(10), "b": torch.randn(10, 10)}, CLASSES, cuts=[5], values="affinity"
    ),
    "matrices on one scale": lambda: figures.matrices(
        {"a": torch.full((3, 10), torch.nan), "b": torch.rand(3, 10)}, CLASSES, CLASSES[4:7], [5], 1, "shared"
    ),
    "dendrogram": lambda: figures.dendrogram({"a": TREE, "b": TREE}, dict.fromkeys(TREE.names, "2D"), "distance", 2),
    "image_graphs": lambda: figures.image_graphs(
        torch.rand(6, 3, 16, 16), {name: (torch.randn(6, 8, 8), torch.rand(15)) for name in "abc"}
    ),
    "image_map": lambda: figures.image_map(
        torch.randn(60, 2), torch.rand(60, 1, 16, 16), {"a": torch.arange(60) % 2}, ["s1", "s2"], "x", "y"
    ),
}


@pytest.mark.parametrize("case", DRAWN)
def test_gives_a_small_white_figure_that_pyplot_does_not_hold(case: str) -> None:
    before = sys.modules.get("matplotlib.pyplot")
    opened = list(before.get_fignums()) if before else []
    figure = DRAWN[case]()
    data = figures.png(figure)
    assert isinstance(figure, Figure)
    assert len(data) < 100_000
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    assert image.getpixel((0, 0)) == (255, 255, 255, 255) and image.width <= 800
    after = sys.modules.get("matplotlib.pyplot")
    assert (list(after.get_fignums()) if after else []) == opened


def test_the_same_figure_gives_the_same_bytes() -> None:
    torch.manual_seed(0)
    first = figures.png(DRAWN["image_grid"]())
    torch.manual_seed(0)
    assert figures.png(DRAWN["image_grid"]()) == first


def test_a_palette_makes_the_file_small_but_not_the_colours_wrong() -> None:
    grey = figures.image_grid(torch.arange(0.0, 256, 3)[:64].view(1, 1, 8, 8), rows=["a"], scale=(0, 255))
    with Image.open(io.BytesIO(figures.png(grey))) as picture:
        assert picture.mode == "P"
        seen = numpy.asarray(picture.convert("RGB"))
    greys = numpy.unique(seen[(seen == seen[..., :1]).all(2)][:, 0]).astype(int)
    assert all(numpy.abs(greys - level).min() <= 1 for level in range(0, 192, 3))
    colourful = figures.image_grid(torch.rand(16, 3, 32, 32), rows=["a"])
    with Image.open(io.BytesIO(figures.png(colourful))) as picture:
        assert picture.mode == "RGB"
    assert len(figures.png(DRAWN["curves"]())) < 40_000


def test_style_is_undone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    with figures.style():
        assert matplotlib.rcParams["axes.edgecolor"] == figures.FAINT
    assert dict(matplotlib.rcParams) == before


def contrast(colour: str) -> float:
    """Contrast ratio of a colour on white, by the WCAG formula."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 1.05 / (0.05 + numpy.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_text_has_contrast_and_colours_are_distinct() -> None:
    assert contrast(figures.INK) > 7 and contrast(figures.FAINT) > 4.5
    assert len(set(figures.PALETTE)) == 8


def mosaic(figure: Figure) -> numpy.ndarray:
    """The pixels of a grid's only image."""
    (axes,) = (axes for axes in figure.axes if axes.images and axes.images[0].get_array().ndim >= 2)
    return numpy.ma.filled(axes.images[0].get_array(), numpy.nan)


def test_image_grid_shows_every_image_in_its_place() -> None:
    images = torch.rand(6, 1, 4, 5)
    images[0, 0, 0, 0], images[5, 0, 3, 4] = 0, 1
    pixels = mosaic(figures.image_grid(images, rows=["first", "second"]))
    assert pixels.shape == (2 * 5 - 1, 3 * 6 - 1)
    for index, image in enumerate(images):
        top, left = index // 3 * 5, index % 3 * 6
        assert numpy.allclose(pixels[top : top + 4, left : left + 5], image[0])
    assert numpy.isnan(pixels[4]).all() and numpy.isnan(pixels[:, 5]).all()


def test_image_grid_keeps_colours_and_leaves_short_rows_empty() -> None:
    long, short = torch.rand(3, 3, 4, 4), torch.rand(1, 3, 4, 4)
    pixels = mosaic(figures.image_grid([long, short], rows=["long", "short"], scale=(0, 1)))
    assert numpy.allclose(pixels[:4, 10:14, :3], long[2].permute(1, 2, 0))
    assert numpy.allclose(pixels[5:9, :4], numpy.dstack([short[0].permute(1, 2, 0), numpy.ones((4, 4))]))
    assert not pixels[5:, 5:, 3].any()


def test_image_grid_labels_rows_and_columns() -> None:
    axes = figures.image_grid(torch.rand(4, 1, 4, 4), rows=["real", "fake"], columns=["cat", "dog"]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["real", "fake"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("scale", "note"),
    [("shared", "One scale for all images: 0 to 8."), ("each", "own range"), ((0, 4), "0 to 4, clipped.")],
)
def test_image_grid_says_how_values_became_colours(scale, note: str) -> None:
    images = torch.zeros(2, 1, 2, 2)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 2, 8
    figure = figures.image_grid(images, rows=["only"], scale=scale)
    assert note in figure.get_supxlabel()
    expected = {"shared": (0.25, 1), "each": (1, 1), (0, 4): (0.5, 1)}[scale]
    assert (mosaic(figure)[0, 0], mosaic(figure)[0, 3]) == expected


@pytest.mark.parametrize("images", [torch.randint(0, 255, (2, 1, 4, 4), dtype=torch.uint8)])
def test_image_grid_takes_bytes_and_half_precision_and_constants(images: torch.Tensor) -> None:
    figures.image_grid(images, rows=["a"])
    figures.image_grid(images.bfloat16().requires_grad_(), rows=["a"])
    figures.image_grid(torch.full((2, 1, 4, 4), torch.nan), rows=["a"], scale="each")
    figures.image_grid(numpy.ones((2, 1, 4, 4)), rows=["a", "b"])


@pytest.mark.parametrize(
    ("images", "rows", "columns", "message"),
    [
        (torch.rand(5, 1, 4, 4), ["a", "b"], None, "5 images do not fill 2 rows"),
        (torch.rand(4, 1, 4, 4), [], None, "row label"),
        (torch.rand(4, 2, 4, 4), ["a"], None, "1 or 3 channels"),
        ([torch.rand(4, 1, 4, 4), torch.rand(4, 1, 5, 5)], ["a", "b"], None, "one shape"),
        ([torch.rand(4, 1, 4, 4), torch.rand(0, 1, 4, 4)], ["a", "b"], None, "not .*0, 1, 4, 4"),
        ([torch.rand(4, 1, 4, 4)], ["a", "b"], None, "one label per row"),
        (torch.rand(4, 1, 4, 4), ["a"], ["x"], "column labels"),
    ],
)
def test_image_grid_refuses_what_does_not_fit(images, rows, columns, message: str) -> None:
    with pytest.raises(ShapeMismatch, match=message):
        figures.image_grid(images, rows=rows, columns=columns)


def test_image_grid_refuses_an_unknown_scale() -> None:
    with pytest.raises(UnknownName, match="each"):
        figures.image_grid(torch.rand(1, 1, 4, 4), rows=["a"], scale="eahc")


def test_mask_grid_gives_each_class_its_colour_and_names_it() -> None:
    mask = torch.tensor([[[0, 1], [2, 255]]])
    drawn = figures.mask_grid({"image": torch.tensor([[[[2.0, 0.0], [0.5, -1.0]]]]), "mask": mask}, ["a", "b", "c"])
    pixels = drawn.axes[0].images[0].get_array()
    assert pixels.shape == (2 + 1 + 2, 2, 4)
    assert pixels[:2, :, 0].tolist() == [[1, 0], [0.5, 0]]
    colours = [matplotlib.colors.to_rgb(colour) for colour in figures.PALETTE[:3]]
    found = pixels[3:, :, :3].reshape(4, 3)[:3]
    assert numpy.allclose(found, colours) and pixels[4, 1, 3] == 0
    legend = drawn.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c"]
    assert [patch.get_facecolor()[:3] for patch in legend.get_patches()] == colours


def test_mask_grid_refuses_too_few_colours_and_several_sizes() -> None:
    with pytest.raises(ShapeMismatch, match="1 colours for 2 classes"):
        figures.mask_grid({"mask": torch.zeros(1, 2, 2)}, ["a", "b"], ["red"])
    with pytest.raises(ShapeMismatch, match="of one shape"):
        figures.mask_grid({"image": torch.zeros(1, 3, 4, 4), "mask": torch.zeros(1, 2, 2)}, ["a"])


def test_image_sheet_draws_images_texts_and_strokes_where_they_belong() -> None:
    first, other = torch.rand(2, 1, 8, 8), torch.rand(3, 3, 8, 8)
    ends = [[[1.0, 2.0], [5.0, 20.0]], [[0.0, 0.0], [3.0, 3.0]], [[1.0, 1.0], [2.0, 2.0]]]
    strokes = torch.tensor(ends).view(3, 1, 1, 2, 2)
    columns = [{"left": {"a": first}}, {"right": {"b": other, "a": first}}]
    figure = figures.image_sheet(columns, texts={"b": ["x", "y", "z"]}, lines={"b": strokes})
    left, right = figure.axes
    assert [label.get_text() for label in right.get_yticklabels()] == ["b", "a"]
    assert [text.get_text() for text in right.texts] == ["right", "x", "y", "z"] and len(left.images) == 2
    assert numpy.allclose(right.images[2].get_array(), other[2].permute(1, 2, 0))
    assert numpy.allclose(left.images[1].get_array(), first[1].expand(3, -1, -1).permute(1, 2, 0))
    extent = right.images[1].get_extent()
    assert extent[:2] == pytest.approx((8.48, 16.48)) and right.get_xlim()[1] == pytest.approx(24.96)
    (found,) = [patch for patch in right.patches if numpy.allclose(patch._posA_posB[0], (8.48, extent[3]))]
    assert numpy.allclose(found._posA_posB[1], (11.48, extent[3] + 3))
    assert right.images[3].get_extent()[3] > extent[2], "the text has room below its row"
    cut = right.patches[1].get_clip_box().transformed(right.transData.inverted())
    assert sorted(cut.intervalx) == pytest.approx(extent[:2]) and len(right.patches) == 3
    for wrong in ({"texts": {"a": ["x"]}}, {"arrows": {"b": strokes[:2]}}):
        with pytest.raises(ShapeMismatch, match="other numbers of texts, lines or arrows"):
            figures.image_sheet(columns, **wrong)
    with pytest.raises(ShapeMismatch, match="row 'b' has images"):
        figures.image_sheet([{"": {"a": first, "b": other[..., :4]}}])


def test_curves_average_seeds_and_draw_bands_drops_and_references() -> None:
    drawn = lines()
    figure = figures.curves(drawn, "iteration", "accuracy", drops=[50, 80], references={"teacher": 0.9})
    (axes,) = figure.axes
    assert numpy.allclose(axes.lines[0].get_ydata(), drawn["seeds"][1].mean(0))
    assert len(axes.lines) == 3 + 2 + 1 and len(axes.collections) == 2
    assert "over seeds" in figure.legends[0].get_title().get_text()
    assert [text.get_text() for text in axes.texts] == ["teacher"]


def test_curves_without_seeds_promise_no_band() -> None:
    figure = figures.curves({"one": (STEPS, STEPS)}, "x", "y")
    assert not figure.axes[0].collections and not figure.legends[0].get_title().get_text()


def test_curves_refuse_a_line_of_another_length() -> None:
    with pytest.raises(ShapeMismatch, match="'a'"):
        figures.curves({"a": (STEPS, STEPS[:-1])}, "x", "y")


@pytest.mark.parametrize("length", [5, 26, 200])
def test_the_legend_of_curves_fits_the_figure_as_far_as_it_can(length: int) -> None:
    labels = [f"{index} {'m' * length}" for index in range(5)]
    figure = figures.curves({label: (STEPS, STEPS) for label in labels}, "x", "y")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == labels
    assert length == 200 or legend.get_window_extent().width <= figure.bbox.width


def test_curves_may_be_logarithmic() -> None:
    assert figures.curves({"one": (STEPS, STEPS + 1)}, "x", "y").axes[0].get_yscale() == "linear"
    (axes,) = figures.curves({"one": (STEPS, STEPS + 1)}, "x", "y", log=True).axes
    assert axes.get_yscale() == "log" and axes.yaxis.get_major_formatter()(10) == "10"


def test_bars_show_medians_and_quartiles() -> None:
    first, second = DRAWN["bars_with_quartiles"]().axes
    assert [[bar.get_width() for bar in axes.patches] for axes in (first, second)] == [[2, 0], [6, 9]]
    assert list(first.lines[0].get_xdata()) == [1, 4] and first.get_title(loc="left") == "a"
    assert [text.get_text() for text in first.texts] == ["2", "not run"] and first.get_xlim()[0] == 0
    with pytest.raises(ShapeMismatch, match="'b' has the bars"):
        figures.bars_with_quartiles({"a": {"one": (1, 2, 3)}, "b": {"two": (1, 2, 3)}}, "ms")


def test_bars_show_the_mean_and_every_seed() -> None:
    (axes,) = DRAWN["bars_with_seeds"]().axes
    assert axes.patches[0].get_width() == pytest.approx(0.85)
    assert list(axes.lines[0].get_xdata()) == [0.9, 0.8]
    assert [text.get_text() for text in axes.texts] == ["0.850", "not run", "chance"]


def test_dots_show_every_seed_and_the_mean() -> None:
    panels = {"a": {"one": [0.2, 0.4], "none": []}, "b": {"one": [-0.1], "none": []}, "c": {"one": [], "none": [1]}}
    figure = figures.dots_with_seeds(panels, "accuracy", {"b": {"top": 0.5}})
    first, second, _, empty = figure.axes
    assert [list(line.get_xdata()) for line in first.lines] == [[0.2, 0.4], [pytest.approx(0.3)], []]
    assert {text.get_text() for text in first.texts} == {"0.300", "not run"}
    assert {text.get_text() for text in second.texts} == {"−0.100", "not run", "top"}
    assert [label.get_text() for label in first.get_yticklabels()] == ["one", "none"] and not empty.get_visible()
    with pytest.raises(ShapeMismatch, match="the first one"):
        figures.dots_with_seeds({"a": {"one": []}, "b": {"two": []}}, "accuracy")


def test_dots_of_two_kinds_have_two_looks_and_a_legend() -> None:
    kinds = {"one": "inductive", "two": "transductive", "none": "inductive"}
    figure = figures.dots_with_seeds({"a": {"one": [0.2], "two": [0.4], "none": []}}, "H", across=1, kinds=kinds)
    one, _, two, _, none = figure.axes[0].lines
    assert one.get_color() == none.get_color() != two.get_color() and one.get_marker() != two.get_marker()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["inductive", "transductive"]


def test_planes_have_one_look_for_a_label() -> None:
    looks = {"code": ("s", 0, 6.0), "_equal": (":", 0, 1.0)}
    points = {"code": torch.rand(4, 2), "_equal": torch.rand(2, 2)}
    figure = figures.planes({"before": points, "after": {"code": torch.rand(3, 2)}}, looks, ticks=False)
    first, second = figure.axes
    assert first.lines[0].get_color() == second.lines[0].get_color() == figures.PALETTE[0]
    assert first.lines[1].get_color() == figures.FAINT and len(first.get_xticks()) == 0
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["code"]
    with pytest.raises(ShapeMismatch, match="'code' has points"):
        figures.planes({"a": {"code": torch.rand(3, 3)}}, looks)


def test_class_bars_put_groups_together() -> None:
    names = ["seen", "unseen"]
    values = [0.1, 0.9, float("nan"), 0.7]
    figure = figures.class_bars({"a": values, "b": [1, 1, 1, 1]}, list("pqrs"), [1, 0, 1, 0], names, "share", True)
    first, second = figure.axes
    assert [label.get_text() for label in second.get_xticklabels()] == ["q", "s", "p", "r"]
    assert [bar.get_height() for bar in first.patches][:3] == [0.9, 0.7, 0.1] and len(first.patches) == 4
    assert [line.get_ydata()[0] for line in first.lines] == [pytest.approx(0.8), pytest.approx(0.1)]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    with pytest.raises(ShapeMismatch, match="4 classes"):
        figures.class_bars({"a": [1, 2]}, list("pqrs"), [0, 0, 1, 1], names, "share")


def test_panels_share_looks_and_one_legend() -> None:
    contents = {
        "first": {"lines": {"a": (STEPS, STEPS)}, "references": {"top": 50}, "ylabel": "y"},
        "second": {"lines": {"b": (STEPS, STEPS), "a": (STEPS, [STEPS, STEPS + 2])}, "ticks": {0: "none", 90: "all"}},
        "third": {"lines": {}},
    }
    figure = figures.panels(contents, "updates")
    first, second, _, empty = figure.axes
    assert first.lines[0].get_color() == second.lines[1].get_color() != second.lines[0].get_color()
    assert numpy.allclose(second.lines[1].get_ydata(), STEPS + 1) and len(second.collections) == 1
    assert [label.get_text() for label in second.get_xticklabels()] == ["none", "all"]
    assert not empty.axison and [axes.get_xlabel() for axes in figure.axes[:3]] == ["", "updates", "updates"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "top", "b"]


def test_panels_may_be_logarithmic_and_on_one_scale() -> None:
    contents = {"a": {"lines": {"x": ([1, 2], [0.05, 1])}}, "b": {"lines": {"x": ([1, 2], [0.2, 0.5])}}}
    first, second = figures.panels(contents, "updates", logs="y", one_scale=True).axes
    assert first.get_yscale() == "log" and first.get_xscale() == "linear"
    assert first.get_ylim() == second.get_ylim()
    assert [first.yaxis.get_major_formatter()(0.1), first.yaxis.get_minor_formatter()(0.2)] == ["0.1", "0.2"]
    (wide,) = figures.panels({"a": {"lines": {"x": ([1, 2], [1e-6, 1])}}}, "updates", across=1, logs="y").axes
    assert wide.yaxis.get_minor_formatter()(0.2) == ""


def test_confusions_are_on_one_scale_and_cut_between_groups() -> None:
    figure = figures.confusions({name: torch.rand(3, 3) for name in "abcd"}, ["x", "y", "z"], cuts=[2])
    axes = figure.axes[:6]
    assert all(each.images[0].get_clim() == (0, 1) for each in axes[:4]) and not axes[4].axison
    assert {line.get_xdata()[0] for line in axes[0].lines} == {1.5, 0.0}
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["x", "y", "z"]
    assert [label.get_text() for label in axes[3].get_xticklabels()] == ["x", "y", "z"]
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["", "", ""]
    with pytest.raises(ShapeMismatch, match="'a' has shape"):
        figures.confusions({"a": torch.rand(2, 2)}, ["x", "y", "z"])


def test_dumbbells_join_two_means() -> None:
    (axes,) = DRAWN["dumbbells"]().axes
    assert numpy.allclose(axes.lines[0].get_xdata(), [0.85, 0.95])
    assert list(axes.lines[1].get_xdata()) == [0.8, 0.9]
    assert [text.get_text() for text in axes.texts] == ["not run"]
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["x", "y"]


def test_captions_and_frames_belong_to_their_images() -> None:
    images = torch.rand(3, 1, 4, 4)
    figure = figures.captioned_images(images, ["x", "y", "z"], across=2, rows=["first", "second"], groups=[1, 0, 1])
    axes = figure.axes
    assert [each.get_xlabel() for each in axes] == ["x", "y", "z", ""]
    assert [axes[k].texts[0].get_text() for k in (0, 2)] == ["first", "second"]
    colours = [matplotlib.colors.to_hex(each.spines["top"].get_edgecolor()).upper() for each in axes[:3]]
    assert colours == [figures.PALETTE[k] for k in (1, 0, 1)]
    third = (images[2, 0] - images[2].min()) / (images[2].max() - images[2].min())
    numpy.testing.assert_allclose(axes[2].images[0].get_array(), third.numpy(), atol=1e-6)
    with pytest.raises(ShapeMismatch, match="3 images need as many"):
        figures.captioned_images(images, ["x", "y"])


def test_an_image_map_shows_every_point_and_no_two_images_in_one_place() -> None:
    points = torch.tensor([[0.0, 0.0], [0.001, 0.0], [1.0, 1.0]])
    figure = figures.image_map(points, torch.rand(3, 1, 4, 4), {"a": [0, 1, 1], "b": [0, 0, 0]}, ["s", "t"], "x", "y")
    first, second = figure.axes
    assert [len(line.get_xdata()) for line in first.lines] == [1, 2]
    assert [len(line.get_xdata()) for line in second.lines] == [3, 0]
    assert [tuple(each.xy) for each in first.artists] == [(0, 0), (1, 1)]
    with pytest.raises(ShapeMismatch, match="3 images need as many points"):
        figures.image_map(points, torch.rand(3, 1, 4, 4), {"a": [0, 1]}, ["s", "t"], "x", "y")


def test_class_coverage_gives_shares_and_counts_classes() -> None:
    figure = figures.class_coverage({"a": [3, 1, 0]}, ["x", "y", "z"])
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.75, 0.25, 0]
    assert figure.axes[0].get_title(loc="left") == "a: 2 of 3 classes occur"
    with pytest.raises(ShapeMismatch, match="3 classes"):
        figures.class_coverage({"a": [3, 1]}, ["x", "y", "z"])


def test_scatter_draws_a_sample_and_measures_all() -> None:
    x = torch.randn(1000, 10)
    figure = figures.scatter({"a": (x, x + 0.5)}, "teacher", "student", limit=100)
    assert len(figure.axes[0].lines[1].get_xdata()) == 100
    assert "mean |difference| 0.5" in figure.axes[0].get_title(loc="left")
    with pytest.raises(ShapeMismatch, match="'a'"):
        figures.scatter({"a": (x, x[:1])}, "teacher", "student")


def test_matrices_keep_one_order_and_scale() -> None:
    tables = {"a": torch.rand(3, 10), "b": 5 * torch.rand(3, 10)}
    figure = figures.matrices(tables, CLASSES, CLASSES[4:7], cuts=[5], scale=(0, 2), values="S")
    one, other, bar = figure.axes
    assert [label.get_text() for label in one.get_yticklabels()] == CLASSES[4:7]
    assert [label.get_text() for label in other.get_xticklabels()] == CLASSES
    assert not any(label.get_text() for label in other.get_yticklabels())
    assert {axes.images[0].get_clim() for axes in (one, other)} == {(0, 2)} and bar.get_ylabel() == "S"
    assert [line.get_xdata()[0] for line in one.lines] == [4.5, 0] and one.lines[1].get_ydata()[0] == 0.5
    assert len(figures.matrices(tables, CLASSES, CLASSES[4:7]).axes) == 4  # each with its own bar
    shared = figures.matrices(tables, CLASSES, CLASSES[4:7], scale="shared").axes[:2]
    assert len({axes.images[0].get_clim() for axes in shared}) == 1
    with pytest.raises(ShapeMismatch, match="'a' has shape"):
        figures.matrices(tables, CLASSES)
    with pytest.raises(UnknownName, match="shared"):
        figures.matrices(tables, CLASSES, CLASSES[4:7], scale="shred")


def test_dendrogram_orders_leaves_and_cuts_where_it_says() -> None:
    figure = figures.dendrogram({"t": TREE}, {"a": "2D", "b": "3D", "c": "2D", "d": "3D"}, clusters=2)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["d", "b", "a", "c"]
    merges = [line for line in axes.lines if len(line.get_xdata()) == 4]
    assert [line.get_xdata()[1] for line in merges] == [0.1, 0.4, 1.0]
    assert merges[2].get_ydata().tolist() == [0.5, 0.5, 2.5, 2.5]
    assert axes.lines[-1].get_xdata()[0] == pytest.approx(0.7)
    marks = {line.get_label(): line.get_ydata().tolist() for line in axes.lines if line.get_marker() in ("o", "^")}
    assert marks == {"2D": [2, 3], "3D": [0, 1]}
    assert not figures.dendrogram({"t": TREE}).legends
    with pytest.raises(ShapeMismatch, match="'t' has links"):
        figures.dendrogram({"t": SimpleNamespace(names=("a",), links=TREE.links)})


def test_graphs_of_images_draw_the_order_of_their_edges() -> None:
    images, maps = torch.rand(4, 1, 8, 8), torch.randn(4, 8, 8)
    edges = torch.tensor([0.1, 0.9, 0.2, 0.3, -0.5, 0.95])  # (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)
    figure = figures.image_graphs(images, {"a": (maps, edges), "b": (maps, edges.exp())})
    one, other = figure.axes
    widths = [line.get_linewidth() for line in one.lines]
    assert len(widths) == 6 and widths == sorted(widths) == [line.get_linewidth() for line in other.lines]
    ends = numpy.stack([one.lines[-1].get_xdata(), one.lines[-1].get_ydata()], 1)
    nodes = [box.xy for box in one.artists][::2]
    assert numpy.allclose(ends, [nodes[2], nodes[3]]) and len(one.artists) == 8
    with pytest.raises(ShapeMismatch, match="'a' has 4 maps and 5 edges for 4 images"):
        figures.image_graphs(images, {"a": (maps, edges[1:])})


def test_dots_reach_as_far_as_their_errors() -> None:
    seeds = {"a": {"one": [0.4, 0.6], "not run": []}}
    axes = figures.dots_with_seeds(seeds, "P", errors={"a": {"one": 0.2}}).axes[0]
    assert any(numpy.allclose(line.get_xdata(), [0.3, 0.7]) for line in axes.lines if len(line.get_xdata()) == 2)
    assert axes.get_xlim()[0] < 0.3 and axes.get_xlim()[1] > 0.7
    plain = figures.dots_with_seeds(seeds, "P")
    assert "standard error" not in plain.get_supxlabel()


def test_clouds_draw_every_point_over_one_background() -> None:
    points = {name: torch.randn(count, 2) for name, count in (("real", 50), ("a", 7), ("b", 9))}
    figure = figures.clouds(points, "first", "second", background="real")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b"]
    assert [[len(line.get_xdata()) for line in axes.lines] for axes in figure.axes] == [[50, 7], [50, 9]]
    assert len(figures.clouds(points, "first", "second").axes) == 3
    with pytest.raises(ShapeMismatch, match="'a' has points of shape"):
        figures.clouds({"a": torch.randn(4, 3)}, "first", "second")


def test_histogram_gives_shares() -> None:
    figure = figures.histogram({"a": torch.randn(1000)}, "x", bins=7)
    assert figure.axes[0].patches[0].get_data().values.sum() == pytest.approx(1)


@pytest.mark.parametrize("alt", ["", "  ", None])
def test_show_needs_alt_text(alt) -> None:
    with pytest.raises(ReuseError, match="alt text"):
        figures.show(DRAWN["histogram"](), alt=alt)


def test_show_prints_outside_a_notebook(capsys: pytest.CaptureFixture) -> None:
    figures.show(DRAWN["histogram"](), alt="Two bells.", caption="A caption.")
    assert capsys.readouterr().out == "Two bells.\nA caption.\n"


def test_show_displays_one_png_with_its_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    display = pytest.importorskip("IPython.display")
    shown = []
    monkeypatch.setattr(display, "display", lambda data, metadata, raw: shown.append((data, metadata)))
    monkeypatch.setattr(figures, "_in_notebook", lambda: True)
    figures.show(DRAWN["histogram"](), alt="Two bells.", caption="A caption.")
    (picture, described), (caption, marked) = shown
    assert picture["image/png"].startswith(b"\x89PNG")
    assert described == {"image/png": {"alt": "Two bells.", "caption": "A caption."}}
    assert caption == {"text/markdown": "A caption."} and marked == {"text/markdown": {"caption": True}}


def test_show_closes_a_figure_of_pyplots() -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure = pyplot.figure()
    figures.show(figure, alt="Nothing yet.")
    assert figure.number not in pyplot.get_fignums()
