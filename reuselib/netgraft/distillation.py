"""The whole student learns at once, from a few images: knowledge distillation and FitNets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reuselib import run
from reuselib.data import ImageSet
from reuselib.errors import ReuseError
from reuselib.netgraft import losses
from reuselib.netgraft.few_shot import FewShot
from reuselib.netgraft.hybrid import adapter, blocks_of, check_same_size, maps_of, through


class KnowledgeDistillation(FewShot):
    """The student imitates the teacher's outputs by Adam.

    Args:
        teacher: as in :class:`FewShot`.
        student: as in :class:`FewShot`.
        images: as in :class:`FewShot`.
        loss: of the teacher's logits and the student's.
        lr: learning rate of Adam.
        steps: updates in all; no end if left out.
        options: the options of :class:`FewShot`.

    Source: Hinton et al. 2015, without labels.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        images: ImageSet,
        *,
        loss: losses.Loss = losses.soft_targets,
        lr: float = 1e-3,
        steps: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(teacher, student, images, **options)
        self.loss, self.total = loss, steps
        learning = [parameter for parameter in student.parameters() if parameter.requires_grad]
        self.optimizer = run.adam(learning, self.device, lr=lr)

    def step(self) -> dict[str, Tensor]:
        """One update of the student.

        Returns:
            ``loss``, as it was before the update.
        """
        with run.frozen(self.teacher):
            with self.precision.autocast():
                with torch.no_grad():
                    maps = self.prefix(self.draw())
                    target = self.rest(self.teacher, maps)
                output = self.rest(self.student, maps)
            loss = self.loss(target, output)
            self.precision.minimise(loss, self.optimizer)
        return {"loss": loss.detach()}


class FitNet(KnowledgeDistillation):
    """First a hint, then knowledge distillation.

    For ``hint_steps`` updates the student's blocks up to one of them learn to give, through a 1x1 regressor, the
    teacher's maps; then the whole student imitates the outputs. Each stage has an Adam of its own.

    Args:
        teacher: what :func:`~reuselib.netgraft.blocks_of` takes apart.
        student: likewise, with maps of the same size behind the hint's block.
        images: as in :class:`FewShot`.
        hint: index of the block; the middle one of those that learn if left out. Not the classifier.
        hint_steps: updates of the first stage.
        options: the options of :class:`KnowledgeDistillation`. ``steps`` counts both stages.

    Raises:
        ReuseError: the hint is no such block, or the stage is longer than all; and the errors of :class:`FewShot`.
        ShapeMismatch: the maps behind that block differ in size.

    Source: Romero et al. 2015 (FitNets).
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        images: ImageSet,
        *,
        hint: int | None = None,
        hint_steps: int = 500,
        lr: float = 1e-3,
        **options: Any,
    ) -> None:
        super().__init__(teacher, student, images, lr=lr, **options)
        of_teacher, of_student = (maps_of(network, self.probe()) for network in (teacher, student))
        count = min(len(of_teacher), len(of_student))
        self.hint = (self.shared + count - 1) // 2 if hint is None else hint
        if not self.shared <= self.hint < count - 1:
            raise ReuseError(f"There is no hint behind block {self.hint}. Choose one of {self.shared} to {count - 2}.")
        if not 0 <= hint_steps <= (hint_steps if self.total is None else self.total):
            raise ReuseError(f"The hint cannot take {hint_steps} of {self.total} updates. Lower hint_steps.")
        self.hint_steps = hint_steps
        t, s = of_teacher[self.hint], of_student[self.hint]
        check_same_size(t, s, self.hint)
        with run.seeded(self.seed):
            self.regressor = adapter(s, t, bias=True)
        learning = [*nn.Sequential(*self._until_hint(student)).parameters(), *self.regressor.parameters()]
        self.hint_optimizer = run.adam(learning, self.device, lr=lr)

    def _until_hint(self, network: nn.Module) -> list[nn.Module]:
        return blocks_of(network)[self.shared : self.hint + 1]

    def step(self) -> dict[str, Tensor]:
        """One update of the stage whose turn it is.

        Returns:
            ``loss``, as it was before the update.
        """
        if self.iteration >= self.hint_steps:
            return super().step()
        with run.frozen(self.teacher):
            with self.precision.autocast():
                with torch.no_grad():
                    maps = self.prefix(self.draw())
                    target = through(self._until_hint(self.teacher), maps)
                output = self.regressor(through(self._until_hint(self.student), maps))
            loss = losses.feature_distance(target, output)
            self.precision.minimise(loss, self.hint_optimizer)
        return {"loss": loss.detach()}
