"""Data-free adversarial distillation in one stage: student and generator learn from one backward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from reuselib import run
from reuselib.dfad import DFAD
from reuselib.one_stage_gan.method import GradientScale, scale_gradient


class OneStageDFAD(DFAD):
    """DFAD whose last student update of every iteration also updates the generator.

    An iteration is ``student_steps - 1`` imitation updates and one fused update: one batch of fakes, one forward pass
    of each network, one backward pass; the gradient is scaled at the images by the derivative of the generator's loss
    with respect to the discrepancy: -1 for ``losses.negative``, ``-1 / (1 + D)`` for ``losses.negative_log``. That is
    one number per batch, so batch normalisation in the student does no harm. With ``student_steps=1`` it is the 1:1
    game; its two-stage counterpart is ``DFAD(student_steps=1)``.

    Args:
        teacher: gives logits; is left as it was, bit for bit.
        student: learns; same number of classes.
        generator: makes images in the teacher's normalised input space.
        generation: the generator's loss as a function of the discrepancy.
        options: those of :class:`~reuselib.dfad.DFAD`.

    Example:
        >>> from reuselib import nets, one_stage_gan
        >>> from reuselib.nets import zoo
        >>> teacher, student = zoo.load("digits8-conv3", "cpu"), nets.conv3(width=8)
        >>> generator = nets.upsampling_generator(image=(1, 8, 8), latent=16, width=8)
        >>> method = one_stage_gan.OneStageDFAD(teacher, student, generator, batch=16, seed=0)
        >>> sorted(method.step())
        ['generation', 'imitation', 'teacher_logits']

    Source: Shen et al. 2021 (OSGAN), the data-free application; the schedule with more than one student update is ours.
    """

    def step(self) -> dict[str, Tensor]:
        """One iteration: ``student_steps`` updates of the student, the last one also of the generator.

        Returns:
            ``imitation`` and ``teacher_logits``, means over the updates, and ``generation``, the generator's loss.
        """
        alone = self.imitation_stage(self.student_steps - 1)
        fused, generation = self.fused_stage()
        self.advance_schedules()
        share = 1 / self.student_steps
        report = {name: value * (1 - share) + fused[name] * share for name, value in alone.items()}
        return report | {"generation": generation}

    def fused_stage(self) -> tuple[dict[str, Tensor], Tensor]:
        """Lower ``D(T, S)`` over the student and raise it over the generator, by one backward pass.

        Equation: `one-stage-distillation`.

        Returns:
            ``imitation`` and ``teacher_logits`` of this batch, and the generator's loss.
        """
        scale = GradientScale()
        with run.frozen(self.teacher):
            with self.precision.autocast():
                fakes = self.source(self.batch, self.random)
                images = scale_gradient(fakes, scale)
                t, s = self.teacher(images), self.student(images)
            loss = self.discrepancy(t, s)
            discrepancy = loss.detach().requires_grad_()
            generation = self.generation(discrepancy)
            (scale.factor,) = torch.autograd.grad(generation, discrepancy)
            optimizers = (self.student_optimizer, self.generator_optimizer)
            self.precision.minimise(loss, optimizers)
        size = t.detach().float().abs().mean()
        report = {"imitation": loss.detach(), "teacher_logits": size}
        return report, generation.detach()
