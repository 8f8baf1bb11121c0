"""Images with several exact labels each: attributes of clothes and of procedural shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reuselib.data import vision
from reuselib.data.image_set import Augment, ImageSet
from reuselib.errors import ReuseError, ShapeMismatch, unknown
from reuselib.worlds import shapes

SHAPE_COUNT = {"train": 6_000, "test": 2_000}
SHAPE_SEED = {"train": 2, "test": 3}  # other images than those of the set "shapes"

Attribute = tuple[str, ...]

SHAPE_TASKS: dict[str, Attribute] = {
    "shape": shapes.SHAPES,
    "polarity": ("light", "dark"),
    "filling": ("solid", "striped"),
    "size": ("small", "large"),
}

FASHION_TASKS: dict[str, Attribute] = {
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


@dataclass(frozen=True, eq=False)
class MultiLabelSet:
    """Images, resident on one device, with one label for each of several tasks.

    Attributes:
        images: The images; their own labels stay for whoever wants to split them.
        targets: int64, (N, tasks); -1 where a task is not asked of an image.
        tasks: Name of a task -> its class names, in the order of the columns of `targets`.

    Raises:
        ShapeMismatch: If the parts do not fit together.
    """

    images: ImageSet
    targets: Tensor
    tasks: dict[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        """Check types, shapes and the range of the targets."""
        shape, targets = (len(self.images), len(self.tasks)), self.targets
        if targets.dtype != torch.int64 or targets.shape != shape:
            raise ShapeMismatch(f"targets must be int64 {shape}, not {targets.dtype} {tuple(targets.shape)}")
        if targets.device != self.images.device:
            raise ShapeMismatch(f"targets are on {targets.device}, images on {self.images.device}: use .to(device)")
        if not targets.numel() or targets.is_meta:
            return
        bounds = zip(self.tasks.items(), targets.amin(0).tolist(), targets.amax(0).tolist(), strict=True)
        for (task, names), low, high in bounds:
            if low < -1 or high >= len(names):
                raise ShapeMismatch(f"targets of {task!r} must be -1 to {len(names) - 1}, not {low} to {high}")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __repr__(self) -> str:
        """Name the images, their number, shape, tasks and device."""
        return f"MultiLabelSet({self.name!r}, {len(self)} x {self.shape}, tasks {', '.join(self.tasks)}, {self.device})"

    @property
    def name(self) -> str:
        """The name of the images."""
        return self.images.name

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        return self.images.shape

    @property
    def device(self) -> torch.device:
        """Where images and targets are."""
        return self.images.device

    @property
    def classes(self) -> dict[str, int]:
        """Task -> its number of classes, as networks with several heads take it."""
        return {task: len(names) for task, names in self.tasks.items()}

    def to(self, device: torch.device | str) -> MultiLabelSet:
        """Return the set on another device."""
        return replace(self, images=self.images.to(device), targets=self.targets.to(device))

    def subset(self, index: Tensor | list[int] | slice) -> MultiLabelSet:
        """Return the images at `index` (positions, a mask or a slice), in that order."""
        if isinstance(index, list):
            index = torch.tensor(index, dtype=torch.int64)
        if isinstance(index, Tensor):
            index = index.to(self.device)
        return replace(self, images=self.images.subset(index), targets=self.targets[index])

    def take(self, count: int, seed: int) -> MultiLabelSet:
        """Return `count` images drawn without replacement: the same for one seed on every device."""
        if not 0 < count <= len(self):
            raise ReuseError(f"cannot take {count} images of {self.name}: ask for 1 to {len(self)}")
        return self.subset(torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:count])

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

    def normalised(self, images: Tensor) -> Tensor:
        """Return (x / 255 - mean) / std, as of the images."""
        return self.images.normalised(images)

    def sample(
        self, count: int, generator: torch.Generator | None, augment: Augment | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw images at random, with replacement.

        Args:
            count: How many.
            generator: On the device of the images.
            augment: Applied to the uint8 images.

        Returns:
            Normalised images, float32 (count, C, H, W), and targets, int64 (count, tasks).
        """
        index = torch.randint(len(self), (count,), generator=generator, device=self.device)
        images = self.images.images[index]
        if augment is not None:
            images = augment(images, generator)
        return self.normalised(images), self.targets[index]

    def batches(self, batch: int = 1000) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised images and targets in order, for evaluation; a last short batch is kept."""
        for (images, _), targets in zip(self.images.batches(batch), self.targets.split(batch), strict=True):
            yield images, targets


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
    images = vision.fashion_mnist(split)
    images = images if size is None else images.resized(size)
    return from_classes(
        images,
        FASHION_TASKS,
        {
            task: [[name[0] for name in FASHION_TASKS[task]].index(letter) for letter in letters]
            for task, letters in FASHION_TABLE.items()
        },
    )


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


def shape_attributes(split: str = "train", size: int = 16) -> MultiLabelSet:
    """Draw procedural shapes with four attributes: shape, polarity, filling and size, each in equal shares.

    They are those of `data.shapes`, whose 32 cells stay as the labels of the images: 6,000 / 2,000 grey images, other
    ones than those of the set "shapes".

    Args:
        split: "train" or "test".
        size: Height and width.

    Raises:
        UnknownName: If the split is neither.
    """
    if split not in SHAPE_COUNT:
        raise unknown("split", split, SHAPE_COUNT)
    images = shapes.shapes(SHAPE_COUNT[split], size, SHAPE_SEED[split], label="cell")
    if split != "train":
        images = images.with_statistics_of(shapes.shapes(SHAPE_COUNT["train"], size, SHAPE_SEED["train"], label="cell"))
    words = [name.split() for name in images.classes]
    places = enumerate(SHAPE_TASKS.items())
    table = {task: [names.index(word[place]) for word in words] for place, (task, names) in places}
    return from_classes(images, SHAPE_TASKS, table)


MULTI_LABEL: dict[str, Callable[..., MultiLabelSet]] = {
    "fashion_attributes": fashion_attributes,
    "shape_attributes": shape_attributes,
}
