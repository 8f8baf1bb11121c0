"""Images with several labels: the sets, what they are derived from, and the same tools as for one label."""

from __future__ import annotations

import re

import pytest
import torch

from reuselib import data, run
from reuselib.data import ImageSet, MultiLabelSet, multi_label
from reuselib.data.augment import crop_and_flip
from reuselib.data.multi_label import FASHION_TABLE, FASHION_TASKS, SHAPE_TASKS, fashion_attributes, shape_attributes
from reuselib.errors import ReuseError, ShapeMismatch, UnknownName
from reuselib.worlds.shapes import CELLS

TASKS = {"a": ("x", "y", "z"), "b": ("no", "yes")}


def numbered(count: int = 23) -> MultiLabelSet:
    """Images whose pixels and own labels equal their number, and targets that follow from it."""
    labels = torch.arange(count)
    pixels = labels.byte().view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    images = ImageSet("numbered", pixels, labels, tuple(map(str, range(count))), (0.0,), (1.0,))
    return MultiLabelSet(images, torch.stack([labels % 3, labels % 2], 1), TASKS)


@pytest.fixture(scope="module")
def fashion() -> MultiLabelSet:
    return fashion_attributes("test", 16)


@pytest.fixture(scope="module")
def shapes() -> MultiLabelSet:
    return shape_attributes("test")


# ---- Fashion-MNIST


def test_the_attributes_follow_from_the_class_as_the_docstring_says(fashion: MultiLabelSet) -> None:
    _, heading, body, _ = re.split(r" *=+(?: +=+)+\n", fashion_attributes.__doc__ or "")
    header, *rows = [re.split(" {2,}", line.strip()) for line in (heading + body).splitlines()]
    assert header == ["class", *fashion.tasks] and [row[0] for row in rows] == list(fashion.images.classes)
    for label, (_, *values) in enumerate(rows):
        targets = fashion.targets[fashion.images.labels == label]
        names = [names[t] for names, t in zip(fashion.tasks.values(), targets[0].tolist(), strict=True)]
        assert names == values and (targets == targets[0]).all()


def test_fashion_has_five_attributes_each_value_of_which_occurs(fashion: MultiLabelSet) -> None:
    assert len(fashion) == 10_000 and fashion.shape == (1, 16, 16) and fashion.tasks == FASHION_TASKS
    assert fashion.classes == {"worn": 4, "sleeves": 3, "season": 3, "opens": 2, "length": 2}
    for task, names in fashion.tasks.items():
        assert len(fashion.labels(task).unique()) == len(names), task
        assert len({name[0] for name in names}) == len(names), "the table tells them apart by their first letters"
    assert all(len(letters) == 10 for letters in FASHION_TABLE.values())


def test_no_attribute_of_fashion_tells_another() -> None:
    for first in FASHION_TASKS:
        for second in FASHION_TASKS:
            pairs = set(zip(FASHION_TABLE[first], FASHION_TABLE[second], strict=True))
            assert first == second or len(pairs) > len(FASHION_TASKS[first]), (first, second)


def test_fashion_images_are_those_of_the_set(fashion: MultiLabelSet) -> None:
    images = data.load("fashion_mnist", "test", size=16)
    assert torch.equal(fashion.images.images, images.images) and fashion.images.mean == images.mean


# ---- shapes


def test_shape_attributes_are_those_of_the_cells(shapes: MultiLabelSet) -> None:
    assert len(shapes) == 2000 and shapes.shape == (1, 16, 16) and shapes.tasks == SHAPE_TASKS
    for cell, name in enumerate(CELLS):
        targets = shapes.targets[shapes.images.labels == cell]
        words = [names[t] for names, t in zip(shapes.tasks.values(), targets[0].tolist(), strict=True)]
        assert " ".join(words) == name and (targets == targets[0]).all()


def test_shape_attributes_come_in_equal_shares(shapes: MultiLabelSet) -> None:
    for task, names in shapes.tasks.items():
        counts = shapes.labels(task).bincount(minlength=len(names)).float() / len(shapes)
        assert (counts - 1 / len(names)).abs().max() < 0.02, task


def test_shapes_differ_between_the_splits_and_from_the_set_of_that_name(shapes: MultiLabelSet) -> None:
    others = [shape_attributes("train").images, data.load("shapes", "train"), data.load("shapes", "test")]
    seen = {image.numpy().tobytes() for other in others for image in other.images}
    assert not any(image.numpy().tobytes() in seen for image in shapes.images.images)
    assert shapes.images.mean == others[0].mean and shapes.images.std == others[0].std


@pytest.mark.parametrize("load", [fashion_attributes, shape_attributes])
def test_unknown_splits(load: object) -> None:
    with pytest.raises(UnknownName, match="split 'tset'. Did you mean 'test'"):
        load("tset")


def test_loading_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    for load in multi_label.MULTI_LABEL.values():
        load("test", 8).take(5, 0)
    assert torch.equal(before, torch.get_rng_state())


# ---- the tools


def test_a_sample_pairs_images_and_targets_and_repeats_by_generator() -> None:
    images = numbered()
    (x, y), (again, _), (other, _) = (images.sample(200, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    number = (x[:, 0, 3, 3] * 255).round().long()
    assert torch.equal(y, torch.stack([number % 3, number % 2], 1)) and x.dtype == torch.float32
    assert torch.equal(x, again) and not torch.equal(x, other)
    assert number.unique().numel() > 15


def test_samples_are_augmented() -> None:
    images = fashion_attributes("test", 16).subset(slice(20))
    plain, _ = images.sample(20, torch.Generator().manual_seed(0))
    moved, _ = images.sample(20, torch.Generator().manual_seed(0), crop_and_flip)
    assert plain.shape == moved.shape and not torch.equal(plain, moved)


def test_batches_are_everything_in_order() -> None:
    parts = list(numbered().batches(10))
    assert [len(x) for x, _ in parts] == [10, 10, 3]
    assert torch.equal(torch.cat([y for _, y in parts]), numbered().targets)


@pytest.mark.parametrize("index", [[3, 1], torch.tensor([3, 1]), slice(1, 4, 2), torch.arange(23) % 2 == 1])
def test_subsets(index: object) -> None:
    part = numbered().subset(index)
    number = part.images.labels
    assert torch.equal(part.targets, torch.stack([number % 3, number % 2], 1))
    assert torch.equal(number, torch.arange(23)[index])


def test_take_draws_without_replacement_the_same_for_one_seed() -> None:
    first, again, other = (numbered().take(12, seed) for seed in (0, 0, 1))
    assert len(first.images.labels.unique()) == 12
    assert torch.equal(first.targets, again.targets) and not torch.equal(first.images.labels, other.images.labels)
    for count in (0, 24):
        with pytest.raises(ReuseError, match="ask for 1 to 23"):
            numbered().take(count, 0)


def test_some_tasks_only() -> None:
    images = numbered()
    part = images.only("b", "a")
    assert list(part.tasks) == ["b", "a"] and torch.equal(part.targets, images.targets.flip(1))
    assert torch.equal(images.labels("b"), images.targets[:, 1]) and images.column("b") == 1
    for call in (images.only, images.labels, images.column):
        with pytest.raises(UnknownName, match="task 'c'"):
            call("c")


def test_it_says_what_it_is() -> None:
    assert repr(numbered()) == "MultiLabelSet('numbered', 23 x (1, 8, 8), tasks a, b, cpu)"
    assert numbered().classes == {"a": 3, "b": 2} and numbered().device == torch.device("cpu")


def test_labels_from_classes_may_leave_a_task_unasked() -> None:
    images = numbered(4).images
    found = multi_label.from_classes(images, {"t": "pq"}, {"t": [0, -1, 1, -1]})
    assert found.targets.tolist() == [[0], [-1], [1], [-1]] and found.tasks == {"t": ("p", "q")}
    with pytest.raises(ShapeMismatch, match="'t' needs 4 entries"):
        multi_label.from_classes(images, {"t": "pq"}, {"t": [0]})


def test_parts_that_do_not_fit() -> None:
    images = numbered()
    with pytest.raises(ShapeMismatch, match=r"targets must be int64 \(23, 2\)"):
        MultiLabelSet(images.images, images.targets[:, :1], TASKS)
    with pytest.raises(ShapeMismatch, match=r"targets must be int64 \(23, 2\), not torch.float32"):
        MultiLabelSet(images.images, images.targets.float(), TASKS)
    for wrong in (3, -2):
        targets = images.targets.clone()
        targets[5, 0] = wrong
        with pytest.raises(ShapeMismatch, match="targets of 'a' must be -1 to 2"):
            MultiLabelSet(images.images, targets, TASKS)
    with pytest.raises(ShapeMismatch, match="use .to"):
        MultiLabelSet(images.images, images.targets.to("meta"), TASKS)


def test_it_moves_to_another_device() -> None:
    there = numbered().to("meta")
    assert there.device.type == "meta" and there.images.images.is_meta and there.targets.is_meta
    x, y = there.sample(4, run.generator(there.device, 0))
    assert x.is_meta and y.shape == (4, 2)
