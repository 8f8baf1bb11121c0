"""Model inversion: images out of a classifier's weights. One loop; the methods differ by terms and canvas."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reuselib import checks, run
from reuselib.cmi import losses
from reuselib.cmi.canvas import Canvas
from reuselib.cmi.instance import InstanceHead
from reuselib.cmi.memory import MemoryBank, Pool
from reuselib.cmi.statistics import Watch, batch_norms, spread, watch
from reuselib.data.image_set import Augment
from reuselib.dfad import Discrepancy, Distillation, sources
from reuselib.dfad.losses import activation_loss
from reuselib.errors import ReuseError, ShapeMismatch
from reuselib.nets import penultimate
from reuselib.nets.imitation import warn_of_probabilities


@dataclass(frozen=True)
class Terms:
    """Weights of the terms that images are made to lower; 0 leaves a term out, and its cost.

    Attributes:
        batch_norm: :func:`~reuselib.cmi.losses.batch_norm_loss`.
        one_hot: :func:`~reuselib.cmi.losses.class_prior_loss` for classes drawn at random.
        own_decision: the one-hot term asks for the teacher's own decision, not for a class drawn at random.
        adversarial: ``-disagreement(teacher, student)``; needs a student.
        disagreement: of teacher's and student's logits.
        balance: :func:`~reuselib.cmi.losses.balance_loss`.
        activation: :func:`~reuselib.dfad.losses.activation_loss`.
        contrastive: :func:`~reuselib.cmi.losses.contrastive_loss`.
        temperature: τ of the contrastive term.
        variation: :func:`~reuselib.cmi.losses.total_variation`.
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

    def __post_init__(self) -> None:
        """Refuse weights below 0, and a temperature of 0."""
        given = {name: value for name, value in vars(self).items() if name not in ("own_decision", "disagreement")}
        checks.number(**given)
        checks.number(above=True, temperature=self.temperature)


@dataclass(frozen=True)
class Views:
    """The random views in which a batch of images is judged.

    Attributes:
        broad: that the inversion terms judge.
        local: that the contrastive term sets beside the broad one.
    """

    broad: Augment
    local: Augment


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
        views: how images are shown to the teacher.
        student: serves as adversary, and learns if told how.
        learning: options of the student's :class:`~reuselib.dfad.Distillation`: ``discrepancy``, ``batch``, ``lr``, …;
            its ``student_steps`` come after each update of a lasting generator or after each finished batch.
        batch: images made at a time.
        image_steps: updates of the canvas for each batch.
        early: batches made before the student takes part, as adversary and as learner.
        early_steps: updates of the canvas for each of those; ``image_steps`` if left out.
        labels: classes (batch,) to ask for in every batch; drawn at random and sorted if left out.
        embedding: length of the instance head's output.
        bank: images that the contrast remembers, a multiple of ``batch``.
        negatives: of those, how many take part in a step.
        layers: modules of the teacher whose inputs are its features; :func:`~reuselib.cmi.statistics.spread` chooses
            batch norms if left out.
        seed: of everything drawn.
        precision: chosen if left out.

    Raises:
        ReuseError: a term needs a student or a batch norm, and there is none.
        ShapeMismatch: the teacher does not take these images, or the labels do not fit batch and classes.

    Example:
        >>> from reuselib import cmi, run
        >>> from reuselib.nets import zoo
        >>> teacher = zoo.load("fashion28-resnet", "cpu")
        >>> space = zoo.images("fashion28-resnet", "test", "cpu")  # its shape
        >>> studio = cmi.Studio(space, latent=16, width=8)
        >>> canvas, views = studio.canvas("fresh"), studio.views("fresh")
        >>> pool, terms = studio.pool(8), cmi.Terms(batch_norm=1, one_hot=0.5)
        >>> method = cmi.Inversion(
        ...     teacher, canvas, terms, pool, views, batch=4, image_steps=2
        ... )
        >>> history = run.run(method, updates=2, progress=False)
        >>> len(pool)
        8

    Source: Fang et al. 2021 (CMI).
    """

    steps_per_round = 1

    def __init__(
        self,
        teacher: nn.Module,
        canvas: Canvas,
        terms: Terms,
        pool: Pool,
        views: Views,
        *,
        student: nn.Module | None = None,
        learning: dict[str, Any] | None = None,
        batch: int = 256,
        image_steps: int = 200,
        early: int = 0,
        early_steps: int | None = None,
        labels: Sequence[int] | Tensor | None = None,
        embedding: int = 256,
        bank: int = 40_960,
        negatives: int = 4096,
        layers: tuple[str, ...] | None = None,
        seed: int = 0,
        precision: str | None = None,
    ) -> None:
        early_steps = image_steps if early_steps is None else early_steps
        checks.whole(batch=batch, image_steps=image_steps, early_steps=early_steps, embedding=embedding, bank=bank)
        checks.whole(0, early=early, negatives=negatives)
        self.device = run.device_of(teacher)
        self.teacher, self.canvas, self.terms, self.pool = teacher, canvas, terms, pool
        self.batch, self.image_steps, self.negatives = batch, image_steps, negatives
        self.early, self.early_steps = early, early_steps
        self.views, self.labels = views, None if labels is None else torch.as_tensor(labels, device=self.device)
        self.layers = spread(teacher) if terms.contrastive and layers is None else layers
        self.precision = run.precision(self.device, precision)
        self.random = run.generator(self.device, seed)
        # Draws of its own, so that a run without contrast sees the same noise, classes and crops as one with it.
        self.contrast_random = run.generator(self.device, seed + 1)
        if terms.adversarial and student is None:
            raise ReuseError("The adversarial term needs a student. Give one, or set Terms(adversarial=0).")
        if terms.batch_norm:
            batch_norms(teacher)
        self.classes, width = self._probe()
        if canvas.generator is not None:
            self.generator = canvas.generator
        if not canvas.kept:  # its moments last from batch to batch
            self.generator_optimizer = canvas.optimizer
        if terms.contrastive:
            with run.seeded(seed):
                self.head = InstanceHead(width, embedding).to(self.device)
            self.head_optimizer = run.adam(self.head.parameters(), self.device, lr=1e-3)
            if bank % batch:
                raise ShapeMismatch(f"A bank of {bank} images does not fill with batches of {batch}. Give a multiple.")
            self.bank = MemoryBank(bank, 2 * width, self.device)
        self.imitation: Distillation | None = None
        self.adversary = None if learning else student
        if student is not None and learning:
            options = {"seed": seed, "precision": precision} | learning
            self.imitation = Distillation(teacher, student, self._teaching_images, **options)

    @property
    def student(self) -> nn.Module | None:
        """The student that learns, or the one that only serves as adversary."""
        return self.imitation.student if self.imitation else self.adversary

    def step(self) -> dict[str, Tensor]:
        """Make one batch, put it into the pool, and let the student learn.

        Returns:
            ``inversion``, the lowest loss of the batch; the last value of each term by its name; ``imitation`` and
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
            loss = losses.inversion_loss(values, vars(self.terms))
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
            values["activation"] = activation_loss(features.value)
        if terms.variation:
            values["variation"] = losses.total_variation(broad)
        if terms.adversarial and self.student is not None and self.iteration >= self.early:
            with run.frozen(self.student):
                values["adversarial"] = -terms.disagreement(t, self.student(broad))
        return values

    def _watched(self) -> tuple[str, ...] | None:
        """Nothing is watched where nothing is asked of batch norms."""
        return self.layers if self.layers or self.terms.batch_norm or self.terms.contrastive else ()

    def _draw_targets(self) -> Tensor:
        if self.labels is not None:
            return self.labels
        drawn = torch.randint(self.classes, (self.batch,), device=self.device, generator=self.random)
        return drawn.sort().values

    def _teaching_images(self, count: int, random: torch.Generator | None) -> Tensor:
        if not self.canvas.kept:
            return self.pool.normalised(self._fresh_images(count, random))
        # Only the student's check of shapes comes before the first batch.
        return self.pool(count, random) if len(self.pool) else self._blank(count)

    def _fresh_images(self, count: int, random: torch.Generator | None) -> Tensor:
        with torch.no_grad(), run.frozen(self.generator), self.precision.autocast():
            return sources.from_generator(self.generator)(count, random).float()

    def _blank(self, count: int) -> Tensor:
        return self.pool.normalised(torch.zeros(count, *self.pool.image, device=self.device))

    @torch.no_grad()
    def _probe(self) -> tuple[int, int]:
        """How many classes the teacher has, and how many features the contrast would see; labels must fit."""
        with watch(self.teacher, self._watched()) as seen:
            (logits,) = run.probe(self._blank(2), teacher=self.teacher)
        classes = logits.shape[1]
        warn_of_probabilities(logits)
        if self.labels is not None and self.labels.shape != (self.batch,):
            raise ShapeMismatch(f"{len(self.labels)} labels for a batch of {self.batch} images. Give one per image.")
        if self.labels is not None and not ((self.labels >= 0) & (self.labels < classes)).all():
            raise ShapeMismatch(f"The teacher has {classes} classes. Give labels from 0 to {classes - 1}.")
        return classes, seen.features().shape[1] if self.terms.contrastive else 0
