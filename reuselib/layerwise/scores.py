"""Which classes the teachers know, the scores that a student of all of them learns, and how it is judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from reuselib.data import ImageSet
from reuselib.errors import ShapeMismatch


@dataclass(frozen=True)
class ClassSets:
    """The classes of each teacher, and the order in which a student that knows them all gives its scores.

    The student's order is that of the teachers: the classes of the first, then those that the second adds, and so on.

    Attributes:
        sets: for each teacher its classes, as labels of the whole image set, in the order of its logits. Teachers may
            share classes.

    Raises:
        ShapeMismatch: there is no teacher, one knows no class, or one names a class twice.
    """

    sets: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        """Check the sets."""
        if not self.sets or any(not each or len(set(each)) < len(each) for each in self.sets):
            raise ShapeMismatch(f"Every teacher needs at least one class, and each of them once, not {self.sets}.")

    @classmethod
    def consecutive(cls, sizes: Iterable[int]) -> ClassSets:
        """Disjoint sets of the classes 0, 1, 2, … in turn, of these sizes."""
        return cls.divide(range(sum(sizes := list(sizes))), sizes)

    @classmethod
    def divide(cls, order: Sequence[int], parts: int | Sequence[int]) -> ClassSets:
        """Disjoint sets: classes in a given order, cut into parts of given sizes, or as even as can be."""
        if isinstance(parts, int):
            parts = [len(order) // parts + (part < len(order) % parts) for part in range(parts)]
        ends = [sum(parts[: part + 1]) for part in range(len(parts))]
        return cls(tuple(tuple(order[end - size : end]) for end, size in zip(ends, parts, strict=True)))

    def __len__(self) -> int:
        """Return the number of teachers."""
        return len(self.sets)

    @cached_property
    def union(self) -> tuple[int, ...]:
        """All classes, in the order of the student's scores."""
        return tuple(dict.fromkeys(label for each in self.sets for label in each))

    @cached_property
    def columns(self) -> tuple[tuple[int, ...], ...]:
        """For each teacher the places of its classes among the student's scores."""
        place = {label: column for column, label in enumerate(self.union)}
        return tuple(tuple(place[label] for label in each) for each in self.sets)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """For each class of the student, how many teachers know it."""
        counter = Counter(label for each in self.sets for label in each)
        return tuple(counter[label] for label in self.union)

    def part(self, images: ImageSet, teacher: int) -> ImageSet:
        """The images of one teacher's classes, labelled by the places of its logits."""
        return relabelled(images, self.sets[teacher])

    def whole(self, images: ImageSet) -> ImageSet:
        """The images of all classes, labelled by the places of the student's scores."""
        return relabelled(images, self.union)


def relabelled(images: ImageSet, classes: Sequence[int]) -> ImageSet:
    """The images of some classes, in their order, each labelled by its class's place in ``classes``.

    Raises:
        ShapeMismatch: the image set has no such class.
    """
    if not 0 <= min(classes) <= max(classes) < len(images.classes):
        raise ShapeMismatch(f"{images.name} has {len(images.classes)} classes, counted from 0, not all of {classes}.")
    place = torch.full((len(images.classes),), -1, dtype=torch.int64)
    place[list(classes)] = torch.arange(len(classes))
    labels = place.to(images.device)[images.labels]
    kept = replace(images, labels=labels, classes=tuple(images.classes[label] for label in classes))
    return kept if len(set(classes)) == len(images.classes) else kept.subset(labels >= 0)


def amalgamated_scores(scores: Sequence[Tensor], columns: Tensor, counts: Tensor, log_softmax: bool = False) -> Tensor:
    """The teachers' scores side by side; a class that several know gets the mean of theirs.

    Args:
        scores: logits of each teacher, (N, K_t).
        columns: int64 (sum of K_t,), the student's column of each of these scores.
        counts: (K,), how many teachers know each of the student's classes.
        log_softmax: whether each teacher's logits are replaced by their log-softmax first, which puts the teachers on
            one scale.

    Returns:
        float32 (N, K).

    Source: Shen et al. 2019 (AAAI), score amalgamation, for disjoint classes with raw logits; the mean is our choice.
    """
    each = [z.float().log_softmax(1) if log_softmax else z.float() for z in scores]
    joined = torch.cat(each, 1)
    return joined.new_zeros(len(joined), len(counts)).index_add(1, columns, joined) / counts


def accuracies(scores: Tensor, labels: Tensor, classes: ClassSets) -> dict[str, float]:
    """How often the largest score is the right one: among all classes, and on the classes of each teacher.

    Args:
        scores: (N, K), in the student's order.
        labels: int64 (N,), places in that order.
        classes: of the teachers.

    Returns:
        ``accuracy``: comprehensive, all images and all scores; ``part_1``, …: the images of each teacher's classes, all
        scores; ``masked_1``, …: the same images with the scores of the other classes masked, so that the student is
        told which teacher to ask; ``masked_mean``: the mean over the teachers.
    """
    result = {"accuracy": _share(scores.argmax(1) == labels)}
    for number, columns in enumerate(classes.columns, 1):
        own = torch.tensor(columns, device=scores.device)
        of_part = torch.isin(labels, own)
        seen, right = scores[of_part], labels[of_part]
        result[f"part_{number}"] = _share(seen.argmax(1) == right)
        result[f"masked_{number}"] = _share(own[seen[:, own].argmax(1)] == right)
    masked = [result[f"masked_{number}"] for number in range(1, len(classes) + 1)]
    return result | {"masked_mean": sum(masked) / len(masked)}


def _share(hits: Tensor) -> float:
    return float(hits.float().mean())
