"""Data-free adversarial distillation, and the loop that it shares with everything that distils."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from reuselib import checks, run
from reuselib.dfad import losses
from reuselib.dfad.sources import Source, from_generator
from reuselib.nets import Generator
from reuselib.nets.imitation import warn_of_probabilities

Discrepancy = Callable[[Tensor, Tensor], Tensor]


class Distillation(run.Method):
    """A student imitates a teacher's logits on unlabelled images from any source.

    With images of the teacher's own data set this is the paper's KD-ORI, with others KD-REL and KD-UNR, with
    :func:`~reuselib.dfad.sources.gaussian_noise` RANDOM. The adversarial methods below add a generator.

    Args:
        teacher: gives logits; is left as it was, bit for bit.
        student: learns; same number of classes.
        source: gives normalised images.
        discrepancy: the loss between teacher's and student's logits.
        batch: images per update.
        student_steps: student updates per iteration (5 in DFAD).
        lr: learning rate of SGD with momentum 0.9, or of Adam.
        weight_decay: of the student.
        adam: whether the student learns by Adam in place of SGD.
        schedule: iteration → factor on every learning rate.
        seed: of the images drawn.
        precision: ``"bf16"``, ``"fp16"``, ``"fp32"``; chosen if left out.

    Raises:
        DeviceError: the networks are on different devices.
        ShapeMismatch: teacher and student differ in classes, or do not take these images.

    Example:
        >>> from reuselib import data, dfad, nets, run
        >>> from reuselib.nets import zoo
        >>> teacher, images = zoo.load("digits8-conv3", "cpu"), data.load("digits")
        >>> method = dfad.Distillation(teacher, nets.conv3(width=8), dfad.sources.from_images(images), batch=32)
        >>> history = run.run(method, updates=4, progress=False)
        >>> history.last("imitation") > 0
        True
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        source: Source,
        *,
        discrepancy: Discrepancy = losses.mean_absolute_error,
        batch: int = 128,
        student_steps: int = 5,
        lr: float = 0.05,
        weight_decay: float = 5e-4,
        adam: bool = False,
        schedule: run.Schedule = run.constant,
        seed: int = 0,
        precision: str | None = None,
    ) -> None:
        checks.whole(batch=batch, student_steps=student_steps)
        self.device = run.device_of(teacher=teacher, student=student)
        self.teacher, self.student = teacher, run.on_device(student, self.device)
        self.source, self.discrepancy = source, discrepancy
        self.batch, self.student_steps = batch, student_steps
        self.precision = run.precision(self.device, precision)
        self.random = run.generator(self.device, seed)
        self._check_fit()
        make: Callable[..., torch.optim.Optimizer] = run.adam if adam else run.sgd
        self.student_optimizer = make(student.parameters(), self.device, lr=lr, weight_decay=weight_decay)
        self.schedulers = [LambdaLR(self.student_optimizer, schedule)]
        student.train()

    def step(self) -> dict[str, Tensor]:
        """One iteration: ``student_steps`` updates of the student, each on fresh images.

        Returns:
            ``imitation``, mean loss of the student; ``teacher_logits``, mean absolute logit of the teacher.
        """
        report = self.imitation_stage()
        self.advance_schedules()
        return report

    def imitation_stage(self, steps: int | None = None) -> dict[str, Tensor]:
        """Minimise ``D(T, S)`` over the student, on images and teacher's logits without gradient.

        Args:
            steps: updates of the student; ``student_steps`` if left out.

        Equation: `dfad-imitation`.
        """
        steps = self.student_steps if steps is None else steps
        total = scale = torch.zeros((), device=self.device)
        for _ in range(steps):
            with run.frozen(self.teacher), torch.no_grad():
                with self.precision.autocast():
                    images = self.source(self.batch, self.random)
                    t = self.teacher(images)
            with self.precision.autocast():
                s = self.student(images)
            loss = self.discrepancy(t, s)
            self.precision.minimise(loss, self.student_optimizer)
            total = total + loss.detach() / steps
            scale = scale + t.float().abs().mean() / steps
        return {"imitation": total, "teacher_logits": scale}

    def advance_schedules(self) -> None:
        """Move every learning rate to the next iteration."""
        for scheduler in self.schedulers:
            scheduler.step()

    def _check_fit(self) -> None:
        """Raise unless both networks take the source's images and know as many classes; warn of probabilities."""
        with torch.no_grad(), run.frozen(*self.networks().values()):
            images = self.source(2, run.generator(self.device, 0))
        t, s = run.probe(images, teacher=self.teacher, student=self.student)
        losses.check_same_shape(t, s)
        warn_of_probabilities(t)


class Adversarial(Distillation):
    """Distillation with a generator that is trained too; subclasses say how.

    Args:
        teacher: gives logits; is left as it was, bit for bit.
        student: learns; same number of classes.
        generator: makes images (B, C, H, W), already normalised, from noise (B, latent).
        generator_lr: learning rate of Adam.
        schedule: iteration → factor on every learning rate.
        generator_schedule: the generator's own, where it has one.
        options: the options of :class:`Distillation`, but for ``source``.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        generator: Generator,
        *,
        generator_lr: float = 1e-3,
        schedule: run.Schedule = run.constant,
        generator_schedule: run.Schedule | None = None,
        **options: Any,
    ) -> None:
        where = run.device_of(teacher=teacher, student=student, generator=generator)
        self.generator = run.on_device(generator, where)
        super().__init__(teacher, student, from_generator(generator), schedule=schedule, **options)
        self.generator_optimizer = run.adam(generator.parameters(), self.device, lr=generator_lr)
        self.schedulers.append(LambdaLR(self.generator_optimizer, generator_schedule or schedule))
        generator.train()


class DFAD(Adversarial):
    """Data-Free Adversarial Distillation: the student lowers the discrepancy, the generator raises it.

    Both stages keep the student in training mode, as the paper's code does, so that its batch norm sees the fakes.

    Args:
        teacher: gives logits; is left as it was, bit for bit.
        student: learns; same number of classes.
        generator: makes images in the teacher's normalised input space.
        generation: the generator's loss as a function of the discrepancy: ``losses.negative`` for classification,
            ``losses.negative_log`` for segmentation.
        options: ``generator_lr`` of the generator's Adam, ``schedule`` of both networks, and the options of
            :class:`Distillation`: ``batch``, ``student_steps``, ``lr``, ``seed`` and so on.

    Example:
        >>> from reuselib import dfad, nets, run
        >>> from reuselib.nets import zoo
        >>> teacher, student = zoo.load("digits8-conv3", "cpu"), nets.conv3(width=8)
        >>> generator = nets.upsampling_generator(image=(1, 8, 8), latent=16, width=8)
        >>> method = dfad.DFAD(teacher, student, generator, batch=16, seed=0)
        >>> history = run.run(method, updates=2, progress=False)
        >>> sorted(history.rounds[-1])
        ['generation', 'imitation', 'iteration', 'teacher_logits']

    Source: Fang et al. 2019, imitation and generation stages.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        generator: Generator,
        generation: Callable[[Tensor], Tensor] = losses.negative,
        **options: Any,
    ) -> None:
        super().__init__(teacher, student, generator, **options)
        self.generation = generation

    def step(self) -> dict[str, Tensor]:
        """One iteration: ``student_steps`` imitation updates, then one generation update.

        Returns:
            ``imitation``, ``teacher_logits`` and ``generation``, the generator's loss.
        """
        report = self.imitation_stage()
        report["generation"] = self.generation_stage()
        self.advance_schedules()
        return report

    def generation_stage(self) -> Tensor:
        """Maximise ``D(T, S)`` over the generator, through both networks."""
        with run.frozen(self.teacher), run.frozen(self.student, evaluate=False):
            with self.precision.autocast():
                images = self.source(self.batch, self.random)
                t, s = self.teacher(images), self.student(images)
            loss = self.generation(self.discrepancy(t, s))
            self.precision.minimise(loss, self.generator_optimizer)
        return loss
