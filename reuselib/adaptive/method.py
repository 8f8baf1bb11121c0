"""Adaptive knowledge amalgamation: from a pool of frozen sources to a student of chosen tasks, in two stages.

Stage 1 makes a component network of each task: every image is taught by the source that was selected for it, by its
logits and, in a common space, by its maps. Stage 2 makes one target network of the components.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from reuselib import checks, run
from reuselib.adaptive import losses, selection
from reuselib.adaptive.selection import heads
from reuselib.data import ImageSet
from reuselib.data.image_set import Augment
from reuselib.errors import NonFinite, ReuseError, ShapeMismatch

Answer = tuple[list[Tensor], dict[str, Tensor]]
"""The watched maps of a network, first to last (none if they are not looked at), and its logits by task."""


# --- networks --------------------------------------------------------------------------------------------------------


class CommonSpace(nn.Module):
    """Where the maps of one source and of the student meet: a 1x1 convolution a side and block, and a scale of logits.

    Attributes:
        source: encoders of the source's maps; identities where the source's own space is the common one.
        student: encoders of the student's maps.
        scale: the factor on the student's logits, 1 at first.
    """

    def __init__(self, source: Sequence[int], student: Sequence[int], widths: Sequence[int] | None = None) -> None:
        """Build the encoders.

        Args:
            source: channels of the source's maps.
            student: channels of the student's maps, as many.
            widths: channels of the common space, as many; those of the source, without encoders of its own, if left
                out.
        """
        super().__init__()
        common = source if widths is None else widths
        self.source = nn.ModuleList(
            nn.Identity() if widths is None else nn.Conv2d(*pair, 1) for pair in zip(source, common, strict=True)
        )
        self.student = nn.ModuleList(nn.Conv2d(*pair, 1) for pair in zip(student, common, strict=True))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, student: Sequence[Tensor], source: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Encode the maps of both sides."""
        sides = ((self.student, student), (self.source, source))
        encoded = [[encode(each) for encode, each in zip(encoders, maps, strict=True)] for encoders, maps in sides]
        return encoded[0], encoded[1]

    def source_weights(self) -> list[Tensor]:
        """The weights of the source's encoders."""
        return [encoder.weight for encoder in self.source if isinstance(encoder, nn.Conv2d)]


class Panel(nn.ModuleList):
    """Several sources as one network: each is shown its own images."""

    def forward(self, parts: Sequence[Tensor], watched: bool) -> list[Answer]:
        """Give each source's maps (none unless ``watched``) and logits of its part of the images."""
        return [_ask(source, images, watched) for source, images in zip(self, parts, strict=True)]


def _ask(network: nn.Module, images: Tensor, watched: bool) -> Answer:
    return network.both(images) if watched else ([], network(images))  # type: ignore[operator]


class Ensemble(nn.Module):
    """The mean logits of several sources for one task: the teacher of plain distillation from a pool.

    Args:
        sources: each with a head of that name and the same classes.
        task: that name.
    """

    def __init__(self, sources: Iterable[nn.Module], task: str) -> None:
        super().__init__()
        self.sources, self.task = nn.ModuleList(sources), task

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Give the logits (B, K) of the one task."""
        return {self.task: torch.stack([source(images)[self.task].float() for source in self.sources]).mean(0)}


# --- methods ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Lesson:
    """What one source teaches.

    Attributes:
        source: a frozen network with heads.
        task: the head that it teaches with, by name, and the student's head that learns.
        index: int64 (n,), positions of the images that it teaches; all of them if left out.
    """

    source: nn.Module
    task: str
    index: Tensor | None = None


class AdaptiveLearning(run.Method):
    """A student imitates sources, each on its own images and for its own task, by logits and by encoded maps.

    The losses are means over each source's images and are summed. Two things differ from the official code: the student
    sees all images of an update at once and in training mode, so that its batch norm is that of the mixture (there it
    sees each source's images by themselves, from the second epoch on in evaluation mode), and images are drawn with
    replacement.

    Args:
        student: learns; has a head for each lesson's task.
        lessons: one at least; those without images are dropped.
        images: unlabelled; their labels are never read.
        widths: channels of the common space of each block; the source's own if left out.
        features: weight of the loss of the maps; at 0 these are not looked at.
        regulariser: weight of the regulariser; without effect where no source is encoded.
        batch: images per update from the source that teaches most.
        lr: learning rate of Adam for the student.
        encoder_lr: for the encoders: one for all or one for each block; ``lr`` if left out.
        scale_lr: for the scales of the logits; 0 keeps them at 1.
        schedule: iteration → factor on every learning rate.
        augment: of the uint8 images.
        noise: standard deviation of Gaussian noise added to the normalised images.
        seed: of the encoders' initial weights and of the images drawn.
        precision: chosen by :mod:`reuselib.run` if left out.

    Raises:
        ReuseError: there is no lesson, or a network cannot be watched.
        UnknownName: a network has no head of a lesson's task.
        ShapeMismatch: classes, numbers of blocks or sizes of maps differ.
        DeviceError: networks and images are on different devices.
        NonFinite: a source gives NaN or infinity, which would be learned silently.
        BadValue: there are no images, or an option is no such number.
    """

    fixed = ("sources",)

    def __init__(
        self,
        student: nn.Module,
        lessons: Sequence[Lesson],
        images: ImageSet,
        *,
        widths: Sequence[int] | None = None,
        features: float = 1.0,
        regulariser: float = 1.0,
        batch: int = 64,
        lr: float = 1e-3,
        encoder_lr: float | Sequence[float] | None = None,
        scale_lr: float = 1e-6,
        schedule: run.Schedule = run.constant,
        augment: Augment | None = None,
        noise: float = 0.0,
        seed: int = 0,
        precision: str | None = None,
    ) -> None:
        checks.some(ImageSet, images=images)
        checks.number(features=features, regulariser=regulariser, lr=lr, scale_lr=scale_lr, noise=noise)
        for rate in encoder_lr if isinstance(encoder_lr, Sequence) else () if encoder_lr is None else (encoder_lr,):
            checks.number(encoder_lr=rate)
        for width in widths or ():
            checks.whole(widths=width)
        self.lessons = [lesson for lesson in lessons if lesson.index is None or len(lesson.index)]
        if not self.lessons:
            raise ReuseError("there is nothing to learn: give at least one lesson with images.")
        self.sources = Panel(lesson.source for lesson in self.lessons)
        self.device = run.device_of(student=student, **dict(self.sources.named_children()), images=images)
        self.student, self.images = run.on_device(student, self.device), images
        self.weights = {"features": features, "logits": 1.0, "regulariser": regulariser}
        self.augment, self.noise, self.batch = augment, noise, batch
        self.precision = run.precision(self.device, precision)
        self.random = run.generator(self.device, seed)
        self.spaces = self._build_spaces(widths, seed)
        self.optimizer = self._make_optimizer(lr, lr if encoder_lr is None else encoder_lr, scale_lr)
        self.scheduler = LambdaLR(self.optimizer, schedule)
        student.train()

    def draw(self) -> tuple[Tensor, list[slice]]:
        """Draw the images of an update.

        Returns:
            Normalised images (B, C, H, W), and for each lesson its part of them.
        """
        raise TypeError(f"{type(self).__name__} has no draw()")

    def step(self) -> dict[str, Tensor]:
        """One update of the student and of the encoders; returns what :meth:`objective` does."""
        with torch.no_grad():
            images, parts = self.draw()
        watched = self.weights["features"] != 0
        with run.frozen(self.sources), torch.no_grad(), self.precision.autocast():
            taught = self.sources([images[part] for part in parts], watched)
        with self.precision.autocast():
            learned = _ask(self.student, images, watched)
        report = self.objective(learned, taught, parts)
        self.precision.minimise(report["loss"], self.optimizer)
        self.scheduler.step()
        return report

    def objective(self, learned: Answer, taught: Sequence[Answer], parts: Sequence[slice]) -> dict[str, Tensor]:
        """``sum_t (L_feat(t) + L_logit(t) + L_reg(t))`` over the lessons, each term with its weight.

        Args:
            learned: the student's maps and logits of all images.
            taught: for each lesson, its source's of its part of the images.
            parts: those parts.

        Returns:
            ``loss`` and, summed over the lessons before they are weighed, its terms ``features``, ``logits`` and
            ``regulariser``; the first and the last are 0 where they do not apply.

        Equation: `adaptive-stage1`, `adaptive-stage2`.
        """
        terms = {name: torch.zeros((), device=self.device) for name in self.weights}
        maps, logits = learned
        for lesson, space, (seen, answer), part in zip(self.lessons, self.spaces, taught, parts, strict=True):
            own, theirs = logits[lesson.task][part], answer[lesson.task]
            terms["logits"] = terms["logits"] + losses.logit_loss(space.scale, own, theirs)
            if not maps:
                continue
            with self.precision.autocast():
                student, source = space([each[part] for each in maps], seen)
            terms["features"] = terms["features"] + losses.feature_loss(student, source)
            if weights := space.source_weights():
                terms["regulariser"] = terms["regulariser"] + losses.row_norm_regulariser(weights)
        return {"loss": torch.stack([weight * terms[name] for name, weight in self.weights.items()]).sum()} | terms

    @torch.no_grad()
    def block_norms(self) -> Tensor:
        """For each block the mean squared norm of the rows of the sources' encoders (blocks,); empty without them."""
        each = [[losses.row_norms(weight).mean() for weight in space.source_weights()] for space in self.spaces]
        return torch.tensor([]) if not each[0] else torch.stack([torch.stack(norms) for norms in each]).mean(0)

    def _take(self, positions: Tensor) -> Tensor:
        """The images at some positions: augmented, normalised, with noise."""
        images = self.images.images[positions]
        if self.augment is not None:
            images = self.augment(images, self.random)
        images = self.images.normalised(images)
        if self.noise:
            images = images + self.noise * torch.randn(images.shape, device=self.device, generator=self.random)
        return images

    def _positions(self, count: int, index: Tensor | None = None) -> Tensor:
        """Positions of images, drawn with replacement from some or from all."""
        among = len(self.images) if index is None else len(index)
        drawn = torch.randint(among, (count,), device=self.device, generator=self.random)
        return drawn if index is None else index[drawn]

    def _make_optimizer(self, lr: float, encoder_lr: float | Sequence[float], scale_lr: float) -> torch.optim.Optimizer:
        blocks = len(self.spaces[0].student)
        rates = [encoder_lr] * blocks if isinstance(encoder_lr, float | int) else list(encoder_lr)
        if blocks and len(rates) != blocks:
            raise ShapeMismatch(f"{blocks} blocks need one encoder_lr or {blocks} of them, not {len(rates)}.")
        groups: list[dict[str, Any]] = [{"params": list(self.student.parameters()), "lr": lr}]
        for block, rate in enumerate(rates[:blocks]):
            sides = [side[block] for space in self.spaces for side in (space.source, space.student)]
            groups.append({"params": [p for side in sides for p in side.parameters()], "lr": rate})
        groups.append({"params": [space.scale for space in self.spaces], "lr": scale_lr})
        return run.adam(groups, self.device)

    @torch.no_grad()
    def _build_spaces(self, widths: Sequence[int] | None, seed: int) -> list[CommonSpace]:
        """One common space for each lesson, once it is known that everything fits."""
        probe, watched = self.images.normalised(self.images.images[:2]), self.weights["features"] != 0
        with run.frozen(self.student, self.sources):
            maps, logits = _answer(self.student, probe, watched, "student")
            found = []
            for number, lesson in enumerate(self.lessons):
                seen, answer = _answer(lesson.source, probe, watched, name := f"source {number}")
                heads(logits, lesson.task, self.student, "student")
                _check_classes(lesson.task, logits, heads(answer, lesson.task, lesson.source, name), name)
                _check_maps(maps, seen, widths, name)
                found.append([each.shape[1] for each in seen])
        own = [each.shape[1] for each in maps]
        with run.seeded(seed):
            spaces = [CommonSpace(source, own, widths if watched else None) for source in found]
        return [run.on_device(space, self.device) for space in spaces]


def _answer(network: nn.Module, images: Tensor, watched: bool, name: str) -> Answer:
    if watched and not callable(getattr(network, "both", None)):
        raise ReuseError(
            f"the maps of {name} ({type(network).__name__}) cannot be watched: it has no method both(images). Use a "
            "nets.MultiHead, or learn from logits alone with features=0."
        )
    try:
        return _ask(network, images, watched)
    except RuntimeError as error:
        raise ShapeMismatch(f"images of shape {tuple(images.shape)} do not fit {name} ({error}).") from error


def _check_classes(task: str, student: Mapping[str, Tensor], source: Mapping[str, Tensor], name: str) -> None:
    counts = student[task].shape[1], source[task].shape[1]
    if len(set(counts)) > 1:
        raise ShapeMismatch(f"{task!r} has {counts[0]} classes in the student and {counts[1]} in {name}.")
    if not source[task].is_meta and not source[task].isfinite().all():
        raise NonFinite(f"{name} gives NaN or infinity for {task!r}. Leave it out, or train it again.")


def _check_maps(student: Sequence[Tensor], source: Sequence[Tensor], widths: Sequence[int] | None, name: str) -> None:
    """Check that a source's maps can be compared with the student's, block by block."""
    sizes = [["x".join(map(str, maps.shape[2:])) for maps in side] for side in (student, source)]
    count = len(student) if widths is None or not student else len(widths)
    if sizes[0] != sizes[1] or count != len(student):
        raise ShapeMismatch(
            f"the student has maps of {sizes[0]}, {name} of {sizes[1]}, the common space {count} blocks. 1x1 "
            "convolutions change channels, not sizes: build networks that halve at the same stages and give as many "
            "widths, or learn from logits alone with features=0."
        )


class ComponentLearning(AdaptiveLearning):
    """Stage 1: sources of a task → its component network; each image is learned from its own source alone.

    With lessons of several tasks the same loop is the paper's alternative in one step.

    Args:
        student: the component network.
        lessons: the sources with the images assigned to them, as :func:`~reuselib.adaptive.selection.subsets`
            gives them. An update takes :func:`~reuselib.adaptive.selection.sub_batches` of them.
        images: unlabelled; their labels are never read.
        options: those of :class:`AdaptiveLearning`; ``widths`` must be given unless ``features`` is 0.

    Example:
        >>> from reuselib import adaptive, data, nets, run
        >>> build = nets.multi_head_conv
        >>> pool = {name: build({"digit": 10}, widths=(4, 8, 8)) for name in ("a", "b")}  # yours are trained
        >>> images = data.load("digits")
        >>> lessons = adaptive.choose(pool, "digit", images).lessons()
        >>> student = build({"digit": 10}, widths=(4, 8, 8))
        >>> method = adaptive.ComponentLearning(student, lessons, images, widths=(4, 8, 8))
        >>> history = run.run(method, updates=2, progress=False)

    Source: Shen et al. 2019 (ICCV), first stage.
    """

    def __init__(self, student: nn.Module, lessons: Sequence[Lesson], images: ImageSet, **options: Any) -> None:
        if options.get("widths") is None and options.get("features", 1.0):
            raise ReuseError("the common space has no size: give widths, one for each block, or features=0.")
        super().__init__(student, lessons, images, **options)
        counts = [len(images) if lesson.index is None else len(lesson.index) for lesson in self.lessons]
        self.sizes = selection.sub_batches(counts, self.batch)

    def draw(self) -> tuple[Tensor, list[slice]]:
        """Draw each source's share from the images assigned to it."""
        pairs = zip(self.sizes, self.lessons, strict=True)
        positions = torch.cat([self._positions(size, lesson.index) for size, lesson in pairs])
        ends = list(accumulate(self.sizes))
        return self._take(positions), [slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True)]


class TargetLearning(AdaptiveLearning):
    """Stage 2: component networks → the target network; every image is learned from every component.

    The target's maps are encoded into the components' own spaces; there is no selection and no regulariser.

    Args:
        student: the target network, with a head for each task.
        components: task → its component network, or a source in its place.
        images: unlabelled; their labels are never read.
        options: those of :class:`AdaptiveLearning`, but for ``widths`` and ``regulariser``.

    Example:
        >>> from reuselib import adaptive, data, nets, run
        >>> build = nets.multi_head_conv
        >>> # Yours come from ComponentLearning.
        >>> components = {"digit": build({"digit": 10}, widths=(4, 8, 8))}
        >>> student = build({"digit": 10}, widths=(4, 8, 8))
        >>> method = adaptive.TargetLearning(student, components, data.load("digits"))
        >>> history = run.run(method, updates=2, progress=False)

    Source: Shen et al. 2019 (ICCV), second stage.
    """

    def __init__(
        self, student: nn.Module, components: Mapping[str, nn.Module], images: ImageSet, **options: Any
    ) -> None:
        lessons = [Lesson(component, task) for task, component in components.items()]
        super().__init__(student, lessons, images, **options)

    def draw(self) -> tuple[Tensor, list[slice]]:
        """Draw one batch for all."""
        return self._take(self._positions(self.batch)), [slice(None)] * len(self.lessons)
