"""What DFAD is compared with, on the same loop: DAFL and ZSKT."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from reuselib import run
from reuselib.dfad import losses
from reuselib.dfad.method import Adversarial
from reuselib.nets import Generator, penultimate, tap


class DAFL(Adversarial):
    """Data-Free Learning: the generator pleases the teacher, the student listens on the same images.

    The generator wants sure (one-hot), balanced (entropy) and strongly activated outputs of the teacher; it never
    looks at the student. Generator and student take one step each per batch. For segmentation the first two hold for
    every pixel; the paper's own recipe for it is unknown.

    Args:
        teacher: its last linear layer's input serves as features, unless ``layer`` names others.
        student: learns; same number of classes.
        generator: makes images (B, C, H, W), already normalised, from noise (B, latent).
        layer: module of the teacher whose output serves as features, by its dotted name; for teachers that end in no
            linear layer, ``"decoder"`` for a :class:`~reuselib.nets.Segmenter`.
        weights: of the one-hot, the entropy and the activation loss; by default those for MNIST.
        options: those of :class:`~reuselib.dfad.DFAD`; unless given, ``student_steps`` is 1 and ``discrepancy`` the KL
            divergence. On MNIST DAFL's student learns by Adam: ``adam=True``.

    Example:
        >>> from reuselib import dfad, nets, run
        >>> from reuselib.nets import zoo
        >>> teacher, student = zoo.load("digits8-conv3", "cpu"), nets.conv3(width=8)
        >>> generator = nets.upsampling_generator(image=(1, 8, 8), latent=16, width=8)
        >>> method = dfad.DAFL(teacher, student, generator, batch=16)
        >>> history = run.run(method, updates=2, progress=False)
        >>> sorted(history.rounds[-1])
        ['generation', 'imitation', 'iteration', 'teacher_logits']

    Source: Chen et al. 2019 (DAFL).
    """

    defaults = MappingProxyType({"student_steps": 1, "discrepancy": losses.kl_divergence})

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        generator: Generator,
        layer: str | None = None,
        *,
        weights: Sequence[float] = (1.0, 5.0, 0.1),
        **options: Any,
    ) -> None:
        super().__init__(teacher, student, generator, **{**self.defaults, **options})
        self.layer = layer
        self.one_hot, self.entropy, self.activation = weights

    def step(self) -> dict[str, Tensor]:
        """``student_steps`` times: one batch, one step of the generator, one of the student on the same batch.

        Returns:
            ``imitation``, ``teacher_logits`` and ``generation`` of the last batch.
        """
        with run.frozen(self.teacher):
            for _ in range(self.student_steps):
                report = self._one_batch()
        self.advance_schedules()
        return report

    def generation_loss(self, t: Tensor, features: Tensor) -> Tensor:
        """The generator's loss from the teacher's logits (B, C), features (B, D), or maps (B, C, H, W) of both."""
        t = losses.pixel_rows(t)
        return (
            self.one_hot * losses.one_hot_loss(t)
            + self.entropy * losses.information_entropy_loss(t)
            + self.activation * losses.activation_loss(features)
        )

    def _one_batch(self) -> dict[str, Tensor]:
        watching: Any = penultimate(self.teacher) if self.layer is None else tap(self.teacher, self.layer)
        with self.precision.autocast(), watching as seen:
            images = self.source(self.batch, self.random)
            t = self.teacher(images)
        features = seen.value if self.layer is None else seen[self.layer]
        generation = self.generation_loss(t, features)
        self.precision.minimise(generation, self.generator_optimizer)
        t = t.detach()
        with self.precision.autocast():
            s = self.student(images.detach())
        imitation = self.discrepancy(t, s)
        self.precision.minimise(imitation, self.student_optimizer)
        return {"imitation": imitation, "teacher_logits": t.float().abs().mean(), "generation": generation}


class ZSKT(Adversarial):
    """Zero-shot Knowledge Transfer: the same game with KL, one batch of noise for both players, and attention.

    One step of the generator, then ``student_steps`` steps of the student on the images it just made. Both players
    use Adam, gradients are clipped at norm 5.

    Args:
        teacher: gives logits; is left as it was, bit for bit.
        student: learns; same number of classes.
        generator: in the paper without tanh and with a learned last batch norm.
        options: those of :class:`~reuselib.dfad.DFAD`; unless given, ``student_steps`` is 10, ``lr`` 0.002,
            ``weight_decay`` 0 and ``adam`` true.

    Example:
        >>> from reuselib import dfad, nets
        >>> from reuselib.nets import zoo
        >>> teacher, student = zoo.load("digits8-conv3", "cpu"), nets.conv3(width=8)
        >>> generator = nets.upsampling_generator(image=(1, 8, 8), latent=16, width=8)
        >>> method = dfad.ZSKT(teacher, student, generator, batch=16)
        >>> method.student_steps, sorted(method.step())
        (10, ['generation', 'imitation', 'teacher_logits'])

    Source: Micaelli & Storkey 2019 (ZSKT), through the comparison of Fang et al. 2019.
    """

    defaults = MappingProxyType({"student_steps": 10, "lr": 2e-3, "weight_decay": 0.0, "adam": True})
    attention, clip = 250.0, 5.0
    """Weight β of the attention transfer, and largest gradient norm."""

    def __init__(self, teacher: nn.Module, student: nn.Module, generator: Generator, **options: Any) -> None:
        super().__init__(teacher, student, generator, **{**self.defaults, **options})
        self.layers = _shared_blocks(teacher, student)

    def step(self) -> dict[str, Tensor]:
        """One generator update, then ``student_steps`` student updates on the same images.

        Returns:
            ``imitation`` (last update), ``teacher_logits`` and ``generation``.
        """
        with run.frozen(self.teacher):
            with self.precision.autocast(), tap(self.teacher, *self.layers) as seen:
                images = self.source(self.batch, self.random)
                t = self.teacher(images)
            teacher_activations = [seen[name].detach() for name in self.layers]
            with run.frozen(self.student, evaluate=False):
                with self.precision.autocast():
                    s = self.student(images)
                generation = -self._kl(t, s)
                self.precision.minimise(generation, self.generator_optimizer, self.clip)
            images, t = images.detach(), t.detach()
            for _ in range(self.student_steps):
                imitation = self._imitate(images, t, teacher_activations)
        self.advance_schedules()
        return {"imitation": imitation, "teacher_logits": t.float().abs().mean(), "generation": generation}

    def _kl(self, t: Tensor, s: Tensor) -> Tensor:
        # The paper's code averages over classes too.
        return losses.kl_divergence(t, s) / t.shape[1]

    def _imitate(self, images: Tensor, t: Tensor, teacher_activations: list[Tensor]) -> Tensor:
        with self.precision.autocast(), tap(self.student, *self.layers) as seen:
            s = self.student(images)
        loss = self._kl(t, s)
        if self.layers:
            activations = [seen[name] for name in self.layers]
            loss = loss + self.attention * losses.attention_transfer(teacher_activations, activations)
        self.precision.minimise(loss, self.student_optimizer, self.clip)
        return loss


def _shared_blocks(teacher: nn.Module, student: nn.Module) -> tuple[str, ...]:
    counts = [len(getattr(network, "blocks", ())) for network in (teacher, student)]
    return tuple(f"blocks.{i}" for i in range(counts[0])) if counts[0] == counts[1] else ()
