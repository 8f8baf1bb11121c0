"""Images with several exact labels each, for example attributes of clothes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reuselib.data import files, photographs, vision
from reuselib.data.image_set import (
    IMAGENET_STATISTICS,
    Batches,
    Change,
    ImageSet,
    OfImages,
    check_form,
    check_range,
    one_class,
)
from reuselib.data.rendered import rendered
from reuselib.errors import ShapeMismatch, unknown

CELEBA_SPLITS = ("train", "valid", "test")  # as list_eval_partition.txt numbers them
FASHION_TASKS: dict[str, tuple[str, ...]] = {
    "worn": ("torso", "legs", "feet", "hand"),
    "sleeves": ("none", "short", "long"),
    "season": ("summer", "winter", "any"),
    "opens": ("no", "yes"),
    "length": ("short", "long"),
}
# One letter for each class: T-shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot.
FASHION_TABLE: dict[str, str] = {
    "worn": "tltttftfhf",
    "sleeves": "snlnlnlnnn",
    "season": "sawswsaaaw",
    "opens": "nynnynyyny",
    "length": "slsllsssss",
}
CIFAR_KINDS: dict[str, tuple[str, ...]] = {
    "vehicles": ("airplane", "automobile", "ship", "truck"),
    "animals": ("bird", "cat", "deer", "dog", "frog", "horse"),
}


@dataclass(frozen=True, eq=False)
class MultiLabelSet(OfImages, Batches):
    """Images, resident on one device, with one label for each of several tasks.

    Attributes:
        images: The images; their own labels stay for whoever wants to split them.
        targets: int64, (N, tasks); -1 where a task is not asked of an image.
        tasks: Name of a task -> its class names, in the order of the columns of `targets`.

    Raises:
        ShapeMismatch: If the parts do not fit together.
    """

    targets: Tensor
    tasks: dict[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        """Check types, shapes and the range of the targets."""
        check_form("targets", self.targets, (len(self.images), len(self.tasks)), self.images.device)
        for column, (task, names) in zip(self.targets.unbind(1), self.tasks.items(), strict=True):
            check_range(f"the targets of {task!r}", column, -1, len(names))

    def __repr__(self) -> str:
        """Name the images, their number, shape, tasks and device."""
        return f"MultiLabelSet({self.name!r}, {len(self)} x {self.shape}, tasks {', '.join(self.tasks)}, {self.device})"

    @property
    def classes(self) -> dict[str, int]:
        """Task -> its number of classes, as networks with several heads take it."""
        return {task: len(names) for task, names in self.tasks.items()}

    def only(self, *tasks: str) -> MultiLabelSet:
        """Return the set with some of its tasks, in that order.

        Raises:
            UnknownName: If there is no such task.
        """
        columns = [self.column(task) for task in tasks]
        return replace(self, targets=self.targets[:, columns], tasks={task: self.tasks[task] for task in tasks})

    def column(self, task: str) -> int:
        """Return the position of a task among the columns; UnknownName if there is none."""
        if task not in self.tasks:
            raise unknown("task", task, self.tasks)
        return list(self.tasks).index(task)

    def labels(self, task: str) -> Tensor:
        """Return the labels of one task, int64 (N,)."""
        return self.targets[:, self.column(task)]

    def _batch(self, index: Tensor | slice, change: Change | None = None) -> tuple[Tensor, Tensor]:
        return self.images._drawn(index, change), self.targets[index]


def fashion_attributes(split: str = "train", size: int | None = None) -> MultiLabelSet:
    """Load Fashion-MNIST with five attributes of clothes, each decided by the garment's class alone.

    ===========  =====  =======  ======  =====  ======
    class        worn   sleeves  season  opens  length
    ===========  =====  =======  ======  =====  ======
    T-shirt/top  torso  short    summer  no     short
    Trouser      legs   none     any     yes    long
    Pullover     torso  long     winter  no     short
    Dress        torso  none     summer  no     long
    Coat         torso  long     winter  yes    long
    Sandal       feet   none     summer  no     short
    Shirt        torso  long     any     yes    short
    Sneaker      feet   none     any     yes    short
    Bag          hand   none     any     no     short
    Ankle boot   feet   none     winter  yes    short
    ===========  =====  =======  ======  =====  ======

    They are conventions about such garments, not what one photograph shows: a dress may have sleeves. What opens does
    so at the front, with buttons, a zip or laces. The classes stay as the labels of the images.

    Args:
        split: "train" or "test".
        size: Height and width wanted; None for 28.

    Raises:
        UnknownName: If the split is neither.
        MissingFile: If a file is neither there nor to be fetched.
        DamagedFile: If a file has another hash than the one shipped.
    """
    images = vision.fashion_mnist(split).resized(size)
    initials = {task: [name[0] for name in names] for task, names in FASHION_TASKS.items()}
    table = {task: [initials[task].index(letter) for letter in row] for task, row in FASHION_TABLE.items()}
    return from_classes(images, FASHION_TASKS, table)


def from_classes(
    images: ImageSet, tasks: Mapping[str, Sequence[str]], table: Mapping[str, Sequence[int]]
) -> MultiLabelSet:
    """Derive the labels of several tasks from the class of each image.

    Args:
        images: With labels.
        tasks: Name of a task -> its class names.
        table: Task -> the label of each class of `images`, -1 where the task is not asked of it.

    Raises:
        ShapeMismatch: If the table does not give one label in range for each class.
    """
    for task in tasks:
        if len(table[task]) != len(images.classes):
            raise ShapeMismatch(f"{task!r} needs {len(images.classes)} entries, one for each class of {images.name}")
    columns = torch.tensor([list(table[task]) for task in tasks], device=images.device)
    return MultiLabelSet(images, columns.T[images.labels], {task: tuple(names) for task, names in tasks.items()})


def cifar_kinds(split: str = "train", size: int | None = None) -> MultiLabelSet:
    """Load CIFAR-10 (JPEG) with two tasks, telling apart the vehicles and telling apart the animals.

    Each image is asked about its own task alone; the ten classes stay as the labels of the images.

    Args:
        split: "train" or "test".
        size: Height and width wanted; None for 32.

    Raises:
        UnknownName: If the split is neither.
        MissingFile: If the files are not there.
        DamagedFile: If a file has another hash than the one published.
    """
    images = vision.cifar10_jpeg(split).resized(size)
    table = {"vehicles": [0, 1, *[-1] * 6, 2, 3], "animals": [-1, -1, *range(6), -1, -1]}
    return from_classes(images, CIFAR_KINDS, table)


def celeba_attributes(split: str = "train", size: int = photographs.SQUARE, download: bool = False) -> MultiLabelSet:
    """Load CelebA with its 40 yes-or-no attributes: 162,770 / 19,867 / 19,962 aligned faces.

    The shorter side becomes 256/224 of the size, and the centre is cut out. The archive stays packed. At 224 pixels the
    training images take 24.5 GB of memory, at 64 pixels 2.0 GB. Mean and std are those of ImageNet. Its download,
    torchvision's own, needs the package gdown.

    Args:
        split: "train", "valid" or "test".
        size: Height and width of the images.
        download: Whether to fetch the files when they are not there.

    Returns:
        The images, and for each attribute the labels 0 (no) and 1 (yes), in the order of the published file.

    Raises:
        UnknownName: If there is no such split.
        MissingFile: If the files are not there; the message holds the command that fetches them.
        DamagedFile: If a file has another hash than the published one.
        ReuseError: If the download fails.
    """
    name = "celeba_attributes"
    files.check_split(split, name, CELEBA_SPLITS)
    archive, attributes, partition = photographs.celeba_files(
        name, ("img_align_celeba.zip", "list_attr_celeba.txt", "list_eval_partition.txt"), download
    )
    parts = [line.split() for line in partition.read_text("utf-8").splitlines()]
    chosen = {image for image, part in parts if part == str(CELEBA_SPLITS.index(split))}
    _, heads, *lines = attributes.read_text("utf-8").splitlines()
    rows = [row for row in map(str.split, lines) if row[0] in chosen]
    targets = torch.tensor([[sign == "1" for sign in row[1:]] for row in rows], dtype=torch.int64)
    square = files.square(size, round(size * photographs.SHORTER / photographs.SQUARE))
    images = photographs.packed(name, archive, [f"img_align_celeba/{row[0]}" for row in rows], square)
    faces = one_class(name, images, "face", IMAGENET_STATISTICS)
    return MultiLabelSet(faces, targets, dict.fromkeys(heads.split(), ("no", "yes")))


MULTI_LABEL: dict[str, Callable[..., MultiLabelSet]] = {
    "fashion_attributes": fashion_attributes,
    "shape_attributes": rendered("shapes:shape_attributes"),
    "celeba_attributes": celeba_attributes,
    "cifar_kinds": cifar_kinds,
}
"""Name -> its loader, which takes split and size."""
