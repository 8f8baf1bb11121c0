"""Images with several labels: the sets and what they are derived from; see test_image_set for the common tools."""

from __future__ import annotations

import re

import pytest
import torch

from reuselib import data
from reuselib.data import MultiLabelSet, multi_label
from reuselib.data.multi_label import FASHION_TABLE, FASHION_TASKS, fashion_attributes
from reuselib.errors import ShapeMismatch, UnknownName


def little() -> MultiLabelSet:
    images = data.load("digits", "test").subset(slice(23))
    return MultiLabelSet(images, torch.arange(46).view(23, 2) % 2, {"a": ("x", "y", "z"), "b": ("no", "yes")})


def test_the_attributes_of_fashion_follow_from_the_class_as_the_docstring_says() -> None:
    fashion = fashion_attributes("test", 16)
    _, heading, body, _ = re.split(r" *=+(?: +=+)+\n", fashion_attributes.__doc__ or "")
    header, *rows = [re.split(" {2,}", line.strip()) for line in (heading + body).splitlines()]
    assert header == ["class", *fashion.tasks] and [row[0] for row in rows] == list(fashion.images.classes)
    for label, (_, *values) in enumerate(rows):
        targets = fashion.targets[fashion.images.labels == label]
        names = [names[t] for names, t in zip(fashion.tasks.values(), targets[0].tolist(), strict=True)]
        assert names == values and (targets == targets[0]).all()
    for task, names in fashion.tasks.items():
        assert len(fashion.labels(task).unique()) == len(names) == len({name[0] for name in names}), task
        for other in set(FASHION_TASKS) - {task}:
            pairs = set(zip(FASHION_TABLE[task], FASHION_TABLE[other], strict=True))
            assert len(pairs) > len(names), "no attribute tells another"
    images = data.load("fashion_mnist", "test", size=16)
    assert torch.equal(fashion.images.images, images.images) and fashion.mean == images.mean


def test_unknown_splits() -> None:
    for load in multi_label.MULTI_LABEL.values():
        with pytest.raises(UnknownName, match="'tset'. Did you mean 'test'"):
            load("tset")


def test_some_tasks_only_and_labels_from_classes() -> None:
    images = little()
    part = images.only("b", "a")
    assert list(part.tasks) == ["b", "a"] and torch.equal(part.targets, images.targets.flip(1))
    assert torch.equal(images.labels("b"), images.targets[:, 1]) and images.classes == {"a": 3, "b": 2}
    with pytest.raises(UnknownName, match="task 'c'"):
        images.only("c")
    found = multi_label.from_classes(images.images, {"t": "pq"}, {"t": [0, -1] * 5})  # -1: the task is not asked
    assert torch.equal(found.targets[:, 0], -(images.images.labels % 2)) and found.tasks == {"t": ("p", "q")}
    with pytest.raises(ShapeMismatch, match="'t' needs 10 entries"):
        multi_label.from_classes(images.images, {"t": "pq"}, {"t": [0]})


def test_parts_that_do_not_fit() -> None:
    images = little()
    wrong = images.targets.clone()
    wrong[5, 0] = -2
    for targets, message in (
        (images.targets[:, :1], r"targets must be int64 \(23, 2\)"),
        (images.targets.float(), r"targets must be int64 \(23, 2\), not torch.float32"),
        (images.targets + 1, "targets of 'b' must be -1 to 1"),
        (wrong, "targets of 'a' must be -1 to 2"),
    ):
        with pytest.raises(ShapeMismatch, match=message):
            MultiLabelSet(images.images, targets, images.tasks)
