"""Which classes the teachers know, the teachers read as one network, and how a student of all of them is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, chain

import numpy
import torch
from torch import Tensor, nn

from reuselib import checks, run
from reuselib.data import ImageSet
from reuselib.errors import NonFinite, ShapeMismatch
from reuselib.layerwise.losses import amalgamated_scores
from reuselib.nets import tap


@dataclass(frozen=True)
class ClassSets:
    """The classes of each teacher, and the order in which a student that knows them all gives its scores.

    The student's order is that of the teachers: the classes of the first, then those that the second adds, and so on.

    Attributes:
        sets: for each teacher its classes, as labels of the whole image set, in the order of its logits. Teachers may
            share classes.

    Raises:
        ShapeMismatch: there is no teacher, one knows no class, or one names a class twice.
        BadValue: a class is no whole number from 0 on.

    Example:
        >>> from reuselib.layerwise import ClassSets
        >>> ClassSets(((3, 7), (1, 3))).union
        (3, 7, 1)
        >>> ClassSets.divide(range(10), parts=3).sets
        ((0, 1, 2, 3), (4, 5, 6), (7, 8, 9))
    """

    sets: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        """Check the sets."""
        if not self.sets or any(not each or len(set(each)) < len(each) for each in self.sets):
            raise ShapeMismatch(f"Every teacher needs at least one class, and each of them once, not {self.sets}.")
        for label in self.union:
            checks.whole(0, **{"a class": label})

    @classmethod
    def divide(cls, order: Sequence[int], parts: int) -> ClassSets:
        """Disjoint sets: classes in a given order, cut into parts as even as can be.

        Raises:
            BadValue: there are fewer classes than parts.
        """
        checks.whole(1, len(order), parts=parts)
        return cls(tuple(tuple(part.tolist()) for part in numpy.array_split(order, parts)))

    def __len__(self) -> int:
        """Return the number of teachers."""
        return len(self.sets)

    @cached_property
    def union(self) -> tuple[int, ...]:
        """All classes, in the order of the student's scores."""
        return tuple(dict.fromkeys(chain.from_iterable(self.sets)))

    @cached_property
    def columns(self) -> tuple[tuple[int, ...], ...]:
        """For each teacher the places of its classes among the student's scores."""
        return tuple(tuple(map(self.union.index, each)) for each in self.sets)


def relabelled(images: ImageSet, classes: Sequence[int]) -> ImageSet:
    """The images of some classes, in their order, each labelled by its class's place in ``classes``.

    Raises:
        ShapeMismatch: the image set has no such class.
    """
    if not 0 <= min(classes) <= max(classes) < len(images.classes):
        raise ShapeMismatch(f"{images.name} has {len(images.classes)} classes, counted from 0, not all of {classes}.")
    place = torch.full((len(images.classes),), -1, dtype=torch.int64)
    place[list(classes)] = torch.arange(len(classes))
    place = place.to(images.device)
    kept = images if len(classes) == len(images.classes) else images.subset(place[images.labels] >= 0)
    return replace(kept, labels=place[kept.labels], classes=tuple(images.classes[label] for label in classes))


def joined(sets: Sequence[ImageSet]) -> ImageSet:
    """Image sets as one, the classes of each behind those of the one before; normalised as the first."""
    if len(sets) == 1:
        return sets[0]
    starts = [0, *accumulate(len(each.classes) for each in sets)]
    labels = torch.cat([each.labels + start for each, start in zip(sets, starts, strict=False)])
    classes = tuple(name for each in sets for name in each.classes)
    images = torch.cat([each.images for each in sets])
    return replace(sets[0], name="+".join(each.name for each in sets), images=images, labels=labels, classes=classes)


class Teachers(nn.Module):
    """Frozen teachers read as one: the features of chosen layers, and their scores in the student's order.

    The networks are left as they were, bit for bit, and always read in evaluation mode.

    Args:
        networks: at least one, on one device; each gives logits.
        classes: which each knows.
        log_softmax: see :func:`~reuselib.layerwise.losses.amalgamated_scores`.

    Raises:
        ShapeMismatch: there are not as many class sets as teachers.
        DeviceError: the teachers are on different devices.

    Example:
        >>> from reuselib import data, nets
        >>> from reuselib.layerwise import ClassSets, Teachers
        >>> teachers = Teachers([nets.conv3(classes=5), nets.conv3(classes=5)], ClassSets.divide(range(10), 2))
        >>> images = data.load("digits").take(4, seed=0)
        >>> features, scores = teachers(images.normalised(images.images))
        >>> scores.shape
        torch.Size([4, 10])
    """

    columns: Tensor
    counts: Tensor

    def __init__(self, networks: Sequence[nn.Module], classes: ClassSets, log_softmax: bool = False) -> None:
        super().__init__()
        if len(classes) != len(networks):
            raise ShapeMismatch(f"{len(networks)} teachers need as many class sets, not {len(classes)}.")
        self.named = {f"teacher {number}": network for number, network in enumerate(networks, 1)}
        where = run.device_of(**self.named)
        self.networks, self.classes, self.log_softmax = nn.ModuleList(networks), classes, log_softmax
        columns = torch.tensor(list(chain.from_iterable(classes.columns)))
        self.register_buffer("columns", columns.to(where), persistent=False)
        self.register_buffer("counts", columns.bincount().float().to(where), persistent=False)

    def forward(self, images: Tensor, layers: Sequence[Sequence[str]] = ()) -> tuple[list[list[Tensor]], Tensor]:
        """Read the teachers, without gradient.

        Args:
            images: normalised, (N, C, H, W).
            layers: names of modules to read: for each layer, one name for each teacher.

        Returns:
            The outputs of the modules, for each layer a list over the teachers, and the amalgamated scores (N, K).

        Raises:
            ShapeMismatch: a teacher does not give as many logits as it has classes.
        """
        names = [[of_layer[number] for of_layer in layers] for number in range(len(self.networks))]
        with run.frozen(self), torch.no_grad():
            read = [read_layers(*each, images) for each in zip(self.networks, names, strict=True)]
        for number, ((_, logits), known) in enumerate(zip(read, self.classes.sets, strict=True), 1):
            if logits.shape != (len(images), len(known)):
                raise ShapeMismatch(
                    f"Teacher {number} gives outputs of shape {tuple(logits.shape)} for {len(known)} classes. "
                    "Give classes=ClassSets(...) that names the class of each of its logits."
                )
        features = [list(each) for each in zip(*(seen for seen, _ in read), strict=True)]
        return features, amalgamated_scores([z for _, z in read], self.columns, self.counts, self.log_softmax)


def read_layers(network: nn.Module, names: Sequence[str], images: Tensor) -> tuple[list[Tensor], Tensor]:
    """The outputs of some modules as the network gives them, whatever it does with them later, and its own output.

    Raises:
        UnknownName: the network has no such module.
    """
    with tap(network, *names) as seen:
        output = network(images)
    return [seen[name] for name in names], output


def accuracies(scores: Tensor, labels: Tensor, classes: ClassSets) -> dict[str, float]:
    """How often the largest score is the right one: among all classes, and on the classes of each teacher.

    Args:
        scores: (N, K), in the student's order.
        labels: int64 (N,), places in that order.
        classes: of the teachers.

    Returns:
        ``accuracy``, comprehensive, of all images and all scores; ``part_1``, …, of the images of each teacher's
        classes, all scores; ``masked_1``, …, of the same images with the scores of the other classes masked, so that
        the student is told which teacher to ask; ``masked_mean``, the mean over the teachers.

    Raises:
        NonFinite: a score is NaN or infinite.
    """
    if not scores.isfinite().all():
        raise NonFinite("Some scores are NaN or infinite: nothing can be said of such a network. Train it again.")
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
