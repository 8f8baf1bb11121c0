"""Model inversion: images out of a classifier's weights. One loop; the methods differ by terms and canvas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reuselib import run
from reuselib.cmi.canvas import Canvas, FreshGenerator, LastingGenerator, Pixels
from reuselib.cmi.instance import InstanceHead
from reuselib.cmi.memory import MemoryBank, Pool
from reuselib.cmi.statistics import Watch, batch_norms, watch
from reuselib.data import ImageSet
from reuselib.data.augment import crop_and_flip, resized_crop, roll_and_flip
from reuselib.dfad import losses
from reuselib.dfad.method import Discrepancy, Distillation
from reuselib.errors import ReuseError, ShapeMismatch, unknown
from reuselib.nets import inversion_generator, penultimate


@dataclass(frozen=True)
class Terms:
    """Weights of the terms that images are made to lower; 0 leaves a term out, and its cost.

    Attributes:
        batch_norm: :func:`~reuselib.dfad.losses.batch_norm_loss`.
        one_hot: :func:`~reuselib.dfad.losses.class_prior_loss` for classes drawn at random.
        own_decision: the one-hot term asks for the teacher's own decision, not for a class drawn at random.
        adversarial: ``-disagreement(teacher, student)``; needs a student.
        disagreement: of teacher's and student's logits.
        balance: :func:`~reuselib.dfad.losses.balance_loss`.
        activation: :func:`~reuselib.dfad.losses.activation_loss`.
        contrastive: :func:`~reuselib.dfad.losses.contrastive_loss`.
        temperature: τ of the contrastive term.
        variation: :func:`~reuselib.dfad.losses.total_variation`.
    """

    batch_norm: float = 0.0
    one_hot: float = 0.0
    own_decision: bool = False
    adversarial: float = 0.0
    disagreement: Discrepancy = losses.masked_disagreement
    balance: float = 0.0
    activation: float = 0.0
    contrastive: float = 0.0
    temperature: float = 0.1
    variation: float = 0.0


@dataclass(frozen=True)
class Member:
    """A method of the family: what its images must please, what they are made with, what its student lowers.

    Attributes:
        terms: weights of the official scripts for CIFAR-10.
        canvas: ``"pixels"``, ``"fresh"`` or ``"lasting"``.
        discrepancy: between teacher's and student's logits.
    """

    terms: Terms
    canvas: str
    discrepancy: Discrepancy = losses.kl_divergence


def softened_kl(t: Tensor, s: Tensor) -> Tensor:
    """The student's loss in CMI and DeepInversion: KL divergence at temperature 20."""
    return losses.kl_divergence(t, s, 20.0)


_CMI = Terms(batch_norm=1, one_hot=0.5, adversarial=0.5, contrastive=0.8)
_DEEP_INVERSION = Terms(batch_norm=10, one_hot=1, variation=1e-3)
FAMILY: dict[str, Member] = {
    "dafl": Member(Terms(one_hot=1, own_decision=True, balance=20, activation=1e-3), "lasting"),
    "zskt": Member(Terms(adversarial=1, disagreement=losses.kl_divergence), "lasting"),
    "dfad": Member(
        Terms(adversarial=1, disagreement=losses.mean_absolute_error), "lasting", losses.mean_absolute_error
    ),
    "dfq": Member(
        Terms(batch_norm=1, one_hot=1, own_decision=True, balance=20, adversarial=1, disagreement=losses.kl_divergence),
        "lasting",
    ),
    "deepinversion": Member(_DEEP_INVERSION, "pixels", softened_kl),
    "adi": Member(replace(_DEEP_INVERSION, adversarial=1, disagreement=losses.jensen_shannon), "pixels", softened_kl),
    "inversion": Member(replace(_CMI, adversarial=0, contrastive=0), "fresh", softened_kl),
    "cmi": Member(_CMI, "fresh", softened_kl),
}
"""The methods by name, as CMI's official code runs them. DAFL, ZSKT and DFAD as their own papers define them are
classes of :mod:`reuselib.dfad.method`. ``"inversion"`` is CMI without contrast and without adversary."""


@dataclass(frozen=True)
class Views:
    """The random views in which a batch of images is judged.

    Attributes:
        padding: of the random crops of the broad view, in pixels.
        flip: whether images may be mirrored; not for digits.
        scale: least and greatest share of the area that the local view shows.
        roll: greatest shift of the whole batch, which then replaces the crops (DeepInversion).
    """

    padding: int = 0
    flip: bool = False
    scale: tuple[float, float] = (0.25, 1.0)
    roll: int = 0

    def broad(self, images: Tensor, random: torch.Generator | None) -> Tensor:
        """The view that the inversion terms judge."""
        if self.roll:
            return roll_and_flip(images, random, self.roll, self.flip)
        return crop_and_flip(images, random, self.padding, self.flip) if self.padding or self.flip else images

    def local(self, images: Tensor, random: torch.Generator | None) -> Tensor:
        """The view that the contrastive term sets beside the broad one."""
        return resized_crop(images, random, self.scale, flip=self.flip)


@dataclass
class _Best:
    """The iterate with the lowest loss so far, chosen on the device."""

    loss: Tensor
    images: Tensor
    features: Tensor

    def consider(self, loss: Tensor, images: Tensor, features: Tensor) -> None:
        better = loss.detach() < self.loss
        self.images = torch.where(better, images.detach(), self.images)
        self.features = torch.where(better, features.detach(), self.features)
        self.loss = torch.where(better, loss.detach(), self.loss)


class Inversion(run.Method):
    """Makes images that please a teacher, batch by batch, into a pool; a student may learn from them on the way.

    One step makes one batch. With a lasting generator the student learns alongside, from new images after every update;
    with the other canvases it learns from the whole pool after every batch.

    Args:
        teacher: a classifier; is left as it was, bit for bit.
        canvas: what the images are made with.
        terms: what they must please.
        pool: takes the finished images.
        student: learns, and serves as adversary, if given.
        discrepancy: the student's loss.
        batch: images made at a time.
        image_steps: updates of the canvas for each batch.
        student_steps: updates of the student, after each update of a lasting generator or after each finished batch.
        early: batches made before the student takes part, as adversary and as learner.
        early_steps: updates of the canvas for each of those; ``image_steps`` if left out.
        views: how images are shown to the teacher.
        labels: classes (batch,) to ask for in every batch; drawn at random and sorted if left out.
        embedding: length of the instance head's output.
        bank: images that the contrast remembers, a multiple of ``batch``.
        negatives: of those, how many take part in a step.
        layers: modules of the teacher whose inputs are its features; every batch norm if left out.
        seed: of everything drawn.
        precision: chosen by the engine if left out.
        student_options: of :class:`~reuselib.dfad.Distillation`: ``batch``, ``lr``, ``weight_decay``, ``schedule``.

    Raises:
        ReuseError: a term needs a student or a batch norm, and there is none.
        ShapeMismatch: the teacher does not take these images, or the labels do not fit batch and classes.

    Source: Fang et al. 2021 (CMI).
    """

    steps_per_round = 1

    def __init__(
        self,
        teacher: nn.Module,
        canvas: Canvas,
        terms: Terms,
        pool: Pool,
        *,
        student: nn.Module | None = None,
        discrepancy: Discrepancy = softened_kl,
        batch: int = 256,
        image_steps: int = 200,
        student_steps: int = 0,
        early: int = 0,
        early_steps: int | None = None,
        views: Views | None = None,
        labels: Tensor | None = None,
        embedding: int = 256,
        bank: int = 40_960,
        negatives: int = 4096,
        layers: tuple[str, ...] | None = None,
        seed: int = 0,
        precision: str | None = None,
        student_options: dict[str, Any] | None = None,
    ) -> None:
        self.device = next(teacher.parameters()).device
        self.teacher, self.canvas, self.terms, self.pool = teacher, canvas, terms, pool
        self.batch, self.image_steps, self.negatives = batch, image_steps, negatives
        self.early, self.early_steps = early, early_steps or image_steps
        self.views, self.labels, self.layers = views or Views(), labels, layers
        self.precision = run.precision(self.device, precision)
        self.random = run.generator(self.device, seed)
        # Draws of its own, so that a run without contrast sees the same noise, classes and crops as one with it.
        self.contrast_random = run.generator(self.device, seed + 1)
        if terms.adversarial and student is None:
            raise ReuseError("The adversarial term needs a student. Give one, or set Terms(adversarial=0).")
        if terms.batch_norm:
            batch_norms(teacher)
        self.classes, width = self._probe()
        self._check_labels()
        if isinstance(canvas, FreshGenerator | LastingGenerator):
            self.generator = canvas.generator
        if terms.contrastive:
            with run.seeded(seed):
                self.head = InstanceHead(width, embedding).to(self.device)
            self.head_optimizer = run.adam(self.head.parameters(), self.device, lr=1e-3)
            if bank % batch:
                raise ShapeMismatch(f"A bank of {bank} images does not fill with batches of {batch}. Give a multiple.")
            self.bank = MemoryBank(bank, 2 * width, self.device)
        self.imitation: Distillation | None = None
        self.adversary = None if student_steps else student
        if student is not None and student_steps:
            options = {"seed": seed, "precision": precision} | (student_options or {})
            self.imitation = Distillation(
                teacher, student, self._teaching_images, discrepancy=discrepancy, student_steps=student_steps, **options
            )

    @property
    def student(self) -> nn.Module | None:
        """The student that learns, or the one that only serves as adversary."""
        return self.imitation.student if self.imitation else self.adversary

    def step(self) -> dict[str, Tensor]:
        """Make one batch, put it into the pool, and let the student learn.

        Returns:
            ``inversion``: the lowest loss of the batch; the last value of each term by its name; ``imitation`` and
            ``teacher_logits`` if a student learns.
        """
        targets = self._draw_targets()
        self.canvas.begin(self.batch, self.random)
        nothing = torch.zeros((), device=self.device)
        best, report = _Best(nothing + torch.inf, nothing, nothing), {}
        learner = self.imitation if self.iteration >= self.early else None
        for _ in range(self.image_steps if self.iteration >= self.early else self.early_steps):
            report = self.improve(targets, best)
            if learner and not self.canvas.kept:
                report |= learner.imitation_stage()
        images = best.images if self.canvas.kept else self._fresh_images(self.batch, self.random)
        self.pool.add(images, targets)
        if self.terms.contrastive:
            self.bank.add(best.features)
        if learner and self.canvas.kept:
            report |= learner.imitation_stage()
        if learner:
            learner.advance_schedules()
        return {"inversion": best.loss} | report

    def improve(self, targets: Tensor, best: _Best | None = None) -> dict[str, Tensor]:
        """One update of the canvas (and of the instance head) towards images of the classes ``targets`` (batch,)."""
        values: dict[str, Tensor] = {}
        features = torch.zeros((), device=self.device)
        with run.frozen(self.teacher), watch(self.teacher, self._watched()) as seen:
            with self.precision.autocast():
                images = self.canvas.draw(self.random).float()
                broad = self.pool.normalised(self.views.broad(images, self.random))
                values |= self._judge(broad, targets, seen)
                if self.terms.contrastive:
                    # The second pass overwrites what was seen: the statistics have been read.
                    judged = seen.features()
                    self.teacher(self.pool.normalised(self.views.local(images, self.contrast_random)))
                    features = torch.cat([seen.features(), judged], 1)
                    values["contrastive"] = self.contrast(features)
            if not values:
                raise ReuseError("No term has a weight before the student takes part. Give Terms one, or early=0.")
            loss = torch.stack([getattr(self.terms, name) * value for name, value in values.items()]).sum()
            if best is not None:
                best.consider(loss, images, features)
            optimizers = [self.canvas.optimizer, *([self.head_optimizer] if self.terms.contrastive else [])]
            self.precision.minimise(loss, optimizers)
            self.canvas.settle()
        return {name: value.detach() for name, value in values.items()}

    def contrast(self, features: Tensor) -> Tensor:
        """The contrastive loss of new features (batch, 2D), local view first, among those of the bank."""
        remembered = self.bank.sample(self.negatives, self.contrast_random)
        local, broad = torch.cat([features, remembered]).chunk(2, 1)
        with torch.no_grad():
            keys = self.head(broad)
        return losses.contrastive_loss(self.head(local), keys, len(features), self.terms.temperature)

    def _judge(self, broad: Tensor, targets: Tensor, seen: Watch) -> dict[str, Tensor]:
        """The value of every term that has a weight, but for the contrast."""
        terms, values = self.terms, {}
        with penultimate(self.teacher) if terms.activation else nullcontext() as features:
            t = self.teacher(broad)
        if terms.batch_norm:
            values["batch_norm"] = seen.statistics_loss()
        if terms.one_hot:
            values["one_hot"] = losses.class_prior_loss(t, t.argmax(1) if terms.own_decision else targets)
        if terms.balance:
            values["balance"] = losses.balance_loss(t)
        if features is not None:
            values["activation"] = losses.activation_loss(features.value)
        if terms.variation:
            values["variation"] = losses.total_variation(broad)
        if terms.adversarial and self.student is not None and self.iteration >= self.early:
            with run.frozen(self.student):
                values["adversarial"] = -terms.disagreement(t, self.student(broad))
        return values

    def _watched(self) -> tuple[str, ...] | None:
        """Nothing is watched where nothing is asked of batch norms."""
        return self.layers if self.layers or self.terms.batch_norm or self.terms.contrastive else ()

    def _check_labels(self) -> None:
        if self.labels is None:
            return
        if self.labels.shape != (self.batch,):
            raise ShapeMismatch(f"{len(self.labels)} labels for a batch of {self.batch} images. Give one per image.")
        if not self.labels.is_meta and not ((self.labels >= 0) & (self.labels < self.classes)).all():
            raise ShapeMismatch(f"The teacher has {self.classes} classes. Give labels from 0 to {self.classes - 1}.")

    def _draw_targets(self) -> Tensor:
        if self.labels is not None:
            return self.labels
        drawn = torch.randint(self.classes, (self.batch,), device=self.device, generator=self.random)
        return drawn.sort().values

    def _teaching_images(self, count: int, random: torch.Generator | None) -> Tensor:
        if not self.canvas.kept:
            return self.pool.normalised(self._fresh_images(count, random))
        if len(self.pool):
            return self.pool(count, random)
        return self._blank(count)  # only the student's check of shapes comes before the first batch

    def _fresh_images(self, count: int, random: torch.Generator | None) -> Tensor:
        noise = torch.randn(count, self.generator.latent, device=self.device, generator=random)
        with torch.no_grad(), run.frozen(self.generator), self.precision.autocast():
            return self.generator(noise).float()

    def _blank(self, count: int) -> Tensor:
        return self.pool.normalised(torch.zeros(count, *self.pool.image, device=self.device))

    @torch.no_grad()
    def _probe(self) -> tuple[int, int]:
        """How many classes the teacher has, and how many features the contrast would see."""
        blank = self._blank(2)
        with run.frozen(self.teacher), watch(self.teacher, self._watched()) as seen:
            try:
                t = self.teacher(blank)
            except RuntimeError as error:
                raise ShapeMismatch(
                    f"The teacher does not take images of shape {self.pool.image} ({error}). Give its own image shape."
                ) from error
        return t.shape[1], seen.features().shape[1] if self.terms.contrastive else 0


@dataclass(frozen=True)
class Studio:
    """What every method of the family is given alike for one teacher: its image space and the sizes of things.

    Attributes:
        image: shape (C, H, W) of one image.
        mean: per channel, in [0, 1] units, of the teacher's normalisation.
        std: likewise.
        latent: length of a generator's noise.
        width: channels before a generator's last convolution.
        lr: of a generator made anew for each batch.
        lasting_lr: of a generator that lasts.
        pixel_lr: of pixels.
        padding: of random crops, and the greatest roll of DeepInversion; an eighth of the height if left out.
        flip: whether images may be mirrored.
    """

    image: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    latent: int = 256
    width: int = 64
    lr: float = 1e-3
    lasting_lr: float = 1e-3
    pixel_lr: float = 0.1
    padding: int | None = None
    flip: bool = True

    @property
    def shift(self) -> int:
        """Pixels by which views move."""
        return self.image[1] // 8 if self.padding is None else self.padding

    def canvas(self, kind: str, where: torch.device, seed: int = 0) -> Canvas:
        """A canvas of one of the three kinds; a lasting generator is twice as wide at its start."""
        if kind == "pixels":
            return Pixels(self.image, self.mean, self.std, where, self.pixel_lr)
        with run.seeded(seed):
            generator = inversion_generator(self.image, self.latent, self.width, large=kind == "lasting")
        generator = run.on_device(generator, where)
        if kind == "fresh":
            return FreshGenerator(generator, self.lr)
        return LastingGenerator(generator, self.lasting_lr)

    def views(self, kind: str) -> Views:
        """How images are shown: pixels rolled, those of new generators cropped, those of lasting ones as they are."""
        if kind == "pixels":
            return Views(roll=self.shift, flip=self.flip)
        return Views(self.shift, self.flip) if kind == "fresh" else Views()

    def pool(self, capacity: int, where: torch.device) -> Pool:
        """A pool whose images the student sees cropped and mirrored."""

        def augment(images: Tensor, random: torch.Generator | None) -> Tensor:
            return crop_and_flip(images, random, self.shift, self.flip)

        return Pool(capacity, self.image, self.mean, self.std, where, augment)

    def inversion(
        self, method: str, teacher: nn.Module, pool: Pool, changes: Mapping[str, Any] | None = None, **options: Any
    ) -> Inversion:
        """A method of ``FAMILY`` for a teacher.

        Args:
            method: its name.
            teacher: the classifier to invert.
            pool: takes the images; it may hold some.
            changes: weights other than the method's own.
            options: of :class:`Inversion`.

        Raises:
            UnknownName: there is no such method.
        """
        if method not in FAMILY:
            raise unknown("inversion method", method, FAMILY)
        member, where = FAMILY[method], next(teacher.parameters()).device
        options = {"discrepancy": member.discrepancy, "views": self.views(member.canvas), "seed": 0, **options}
        canvas = self.canvas(member.canvas, where, options["seed"])
        return Inversion(teacher, canvas, replace(member.terms, **(changes or {})), pool, **options)


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation per channel that torchvision's networks were trained with."""


def invert(
    network: nn.Module,
    image: tuple[int, int, int] | None = None,
    count: int = 64,
    method: str = "cmi",
    *,
    labels: Sequence[int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    student: nn.Module | None = None,
    batch: int | None = None,
    image_steps: int = 200,
    sizes: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    **changes: Any,
) -> ImageSet:
    """Make images out of any classifier in one call; it comes back as it was.

    Args:
        network: gives logits. DeepInversion, ADI, DFQ and CMI need its batch norms.
        image: shape (C, H, W) of one image, H and W multiples of 4; that of the network's card if left out.
        count: how many images, rounded up to whole batches.
        method: a name in ``FAMILY``. Without a student, its adversarial term is left out.
        labels: classes to ask for, one per image of a batch; drawn at random if left out.
        mean: per channel, in [0, 1] units, of the network's normalisation. If left out: the card's, or else ImageNet's
            for three channels and 0.5 for others.
        std: likewise.
        student: an adversary for the methods that have one; it is not trained here.
        batch: images made at a time; the number of labels, or at most 256.
        image_steps: updates for each batch.
        sizes: other fields of :class:`Studio`: ``{"width": 32, "lr": 0.005, "flip": False}`` for instance.
        seed: of everything drawn.
        progress: whether to show a bar.
        checkpoint: file to resume from and to write to after every batch.
        changes: weights other than the method's own, ``contrastive=0.2`` for instance.

    Returns:
        The images as 8-bit pixels, labelled with the classes that were asked for. A lasting generator (DAFL, ZSKT,
        DFAD, DFQ) is asked for none: its labels are arbitrary, ask the network.

    Raises:
        UnknownName: there is no such method.
        ReuseError: the method needs batch norms or a student, and there is none; or the image shape is not known.
        ShapeMismatch: the network does not take such images, or the labels do not fit batch and classes.
    """
    if method not in FAMILY:
        raise unknown("inversion method", method, FAMILY)
    card = getattr(network, "card", {})
    if image is None and "image" not in card:
        raise ReuseError("No card says what images the network takes. Give image=(channels, height, width).")
    image = tuple(image or card["image"])
    usual = (card["mean"], card["std"]) if card else IMAGENET if image[0] == 3 else ((0.5,) * image[0],) * 2
    studio = Studio(image, tuple(mean or usual[0]), tuple(std or usual[1]), **(sizes or {}))
    batch = batch or (len(labels) if labels is not None else min(count, 256))
    if batch < 1 or count < 1:
        raise ReuseError("No image was asked for. Give a count of at least 1, and labels, if any, for every image.")
    batches = -(-count // batch)
    where = next(network.parameters()).device
    wanted = None if labels is None else torch.tensor(labels, device=where)
    if student is None and method in ("cmi", "adi", "dfq"):
        changes.setdefault("adversarial", 0.0)
    inversion = studio.inversion(
        method,
        network,
        studio.pool(batches * batch, where),
        changes,
        batch=batch,
        image_steps=image_steps,
        labels=wanted,
        student=student,
        bank=batches * batch,
        seed=seed,
    )
    settings = f"{method} {sorted(changes.items())} {studio} {count} {batch} {image_steps} {labels} {seed}"
    run.run(inversion, batches, checkpoint=checkpoint, progress=progress, title=method, settings=settings)
    return replace(inversion.pool.images(), classes=tuple(card.get("classes", ())))
