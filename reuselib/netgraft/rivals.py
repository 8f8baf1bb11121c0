"""What NetGraft is compared with: the whole student learns at once (KD, FitNet), or layer by layer (FSKD, CD)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from reuselib import checks, run
from reuselib.errors import ReuseError
from reuselib.netgraft import losses
from reuselib.netgraft.few_shot import FewShot, spread
from reuselib.netgraft.hybrid import adapter, blocks_of, maps_of, through
from reuselib.netgraft.pruning import layer_count, prune, units

Way = Callable[[Tensor], Tensor]


class KnowledgeDistillation(FewShot):
    """The student imitates the teacher's outputs by Adam.

    Args:
        parties: teacher, student and images, in this order.
        lr: learning rate of Adam.
        options: the options of :class:`FewShot`.

    Example:
        >>> from reuselib import data, netgraft, nets, run
        >>> from reuselib.nets import zoo
        >>> images = data.load_few("digits", per_class=2, seed=0)
        >>> teacher, student = zoo.load("digits8-conv3", "cpu"), nets.conv3(width=8)
        >>> method = netgraft.KnowledgeDistillation(teacher, student, images)
        >>> history = run.run(method, updates=2, progress=False)
        >>> history.last("loss") > 0
        True

    Source: Hinton et al. 2015, without labels.
    """

    def __init__(self, *parties: Any, lr: float = 1e-3, **options: Any) -> None:
        checks.number(above=True, lr=lr)
        super().__init__(*parties, **options)
        learning = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        self.optimizer = run.adam(learning, self.device, lr=lr)

    def step(self) -> dict[str, Tensor]:
        """One update of the student.

        Returns:
            ``loss``, as it was before the update.
        """
        model, learner = partial(self.rest, self.teacher), partial(self.rest, self.student)
        return self.imitate(model, learner, losses.soft_targets, self.optimizer)

    def imitate(self, model: Way, learner: Way, loss: losses.Loss, optimizer: Optimizer) -> dict[str, Tensor]:
        """One update of what makes the prefix's maps into what the model makes of them; returns ``loss``."""
        with run.frozen(self.teacher):
            with self.precision.autocast():
                with torch.no_grad():
                    maps = self.prefix(self.draw())
                    target = model(maps)
                output = learner(maps)
            value = loss(target, output)
            self.precision.minimise(value, optimizer)
        return {"loss": value.detach()}


class FitNet(KnowledgeDistillation):
    """First a hint, then knowledge distillation.

    For ``hint_steps`` updates the student's blocks up to one of them learn to give, through a 1x1 regressor, the
    teacher's maps; then the whole student imitates the outputs. Each stage has an Adam of its own.

    Args:
        teacher: what :func:`~reuselib.netgraft.blocks_of` takes apart.
        student: likewise; its maps behind the hint's block are as large as the teacher's.
        images: the few images, on the networks' device. What their labels say plays no part.
        hint: index of the block; the middle one of those that learn if left out. Not the classifier.
        hint_steps: updates of the first stage.
        lr: learning rate of Adam, in both stages.
        options: the options of :class:`KnowledgeDistillation`.

    Raises:
        ReuseError: the hint is no such block; and the errors of :class:`FewShot`.
        ShapeMismatch: the maps behind that block differ in size.

    Example:
        >>> from reuselib import data, netgraft, nets, run
        >>> from reuselib.nets import zoo
        >>> images = data.load_few("digits", per_class=2, seed=0)
        >>> teacher, student = zoo.load("digits8-conv3", "cpu"), nets.conv3(width=8)
        >>> method = netgraft.FitNet(teacher, student, images, hint_steps=2)
        >>> history = run.run(method, updates=4, progress=False)  # two without hint
        >>> method.hint
        1

    Source: Romero et al. 2015 (FitNets).
    """

    def __init__(
        self, *parties: Any, hint: int | None = None, hint_steps: int = 500, lr: float = 1e-3, **options: Any
    ) -> None:
        checks.whole(0, hint_steps=hint_steps)
        super().__init__(*parties, lr=lr, **options)
        t, s = (maps_of(network, self.probe()) for network in (self.teacher, self.student))
        count = min(len(t), len(s))
        self.hint = (self.shared + count - 1) // 2 if hint is None else hint
        if not self.shared <= self.hint < count - 1:
            raise ReuseError(f"There is no hint behind block {self.hint}. Choose one of {self.shared} to {count - 2}.")
        self.hint_steps = hint_steps
        with run.seeded(self.seed):
            self.regressor = adapter(s[self.hint], t[self.hint], bias=True)
        self.hinted = slice(self.shared, self.hint + 1)
        learning = nn.Sequential(*blocks_of(self.student)[self.hinted], self.regressor).parameters()
        self.hint_optimizer = run.adam(learning, self.device, lr=lr)

    def step(self) -> dict[str, Tensor]:
        """One update of the stage whose turn it is.

        Returns:
            ``loss``, as it was before the update.
        """
        if self.iteration >= self.hint_steps:
            return super().step()
        model, learner = (blocks_of(network)[self.hinted] for network in (self.teacher, self.student))
        ways = partial(through, model), partial(through, [*learner, self.regressor])
        return self.imitate(*ways, losses.feature_distance, self.hint_optimizer)


class Layerwise(FewShot):
    """A student pruned from the teacher, whose layers are mended one by one; it stays in evaluation mode.

    Args:
        teacher: a plain network, see :func:`~reuselib.netgraft.pruning.units`; is left as it was, bit for bit.
        student: likewise; gets the teacher's strongest filters (:func:`prune`).
        images: the few images, on the networks' device. What their labels say plays no part.
        options: the options of :class:`FewShot`. The layers of shared blocks are not mended.

    Raises:
        ReuseError: as :func:`prune` and :class:`FewShot`.
        ShapeMismatch: as :func:`prune` and :class:`FewShot`.
    """

    def __init__(self, *parties: Any, **options: Any) -> None:
        super().__init__(*parties, **options)
        self.kept = prune(self.teacher, self.student)
        self.student.eval()
        self.first = sum(map(layer_count, blocks_of(self.student)[: self.shared]))
        self.layers = len(self.kept) - self.first

    def inputs(self, network: nn.Module, index: int, images: Tensor) -> Tensor:
        """What a network's unit sees: the map of the unit before, or the images."""
        return through(units(network)[:index], images)


class FSKD(Layerwise):
    """Few-sample knowledge distillation: each layer of a pruned student is mended by one least-squares solution.

    A step takes one layer. With all images, not augmented, it finds the matrix and the bias that turn the student's
    map, made by the layers mended before, into the teacher's kept channels; both are absorbed into the layer.

    Args:
        parties: teacher, student and images; see :class:`Layerwise`.
        ridge: weight of the identity, which holds the solution near what it is, λ in
            :func:`~reuselib.netgraft.losses.least_squares`.
        options: the options of :class:`FewShot`; ``batch`` images are passed through the networks at a time, nothing is
            drawn or augmented, and float32 is used throughout.

    Example:
        >>> from reuselib import data, netgraft, nets, run
        >>> from reuselib.nets import zoo
        >>> few = data.load("digits").per_class(2, seed=0)  # twenty images
        >>> teacher, student = zoo.load("digits8-conv3", "cpu"), nets.conv3(width=8)
        >>> method = netgraft.FSKD(teacher, student, few)
        >>> history = run.run(method, updates=method.total, progress=False)  # a step a layer
        >>> method.total
        4

    Source: Li et al. 2020 (FSKD), official code.
    """

    steps_per_round = 1

    def __init__(self, *parties: Any, ridge: float = 1e-3, **options: Any) -> None:
        super().__init__(*parties, **options)
        checks.number(above=True, ridge=ridge)
        self.ridge, self.parts = ridge, [1] * self.layers

    @torch.no_grad()
    def step(self) -> dict[str, Tensor]:
        """Mend the next layer.

        Returns:
            ``loss``, mean squared distance of its map from the teacher's, before the step.
        """
        index = self.first + self.turn(self.iteration)
        with run.frozen(self.teacher):
            s = self._maps(self.student, index)
            t = self._maps(self.teacher, index)[:, self.kept[index]]
        matrix, bias = losses.affine_least_squares(s, t, self.ridge)
        layer = units(self.student)[index].layer
        layer.weight.copy_((matrix @ layer.weight.flatten(1)).view_as(layer.weight))
        layer.bias.copy_(matrix @ layer.bias + bias)  # type: ignore[operator, union-attr]
        return {"loss": losses.feature_distance(t, s)}

    def _maps(self, network: nn.Module, index: int) -> Tensor:
        return torch.cat([self.inputs(network, index + 1, images) for images, _ in self.images.batches(self.batch)])


class CrossDistillation(Layerwise):
    """Cross distillation: each layer of a pruned student is mended by Adam, on the teacher's and on its own inputs.

    Args:
        parties: teacher, student and images; see :class:`Layerwise`.
        steps: updates of all layers, spread evenly over them.
        lr: learning rate of Adam, of which each layer has its own.
        mu: weight of the imitation term against the correction, between 0 and 1, see
            :func:`~reuselib.netgraft.losses.cross_distance`.
        options: the options of :class:`FewShot`.

    Example:
        >>> from reuselib import data, netgraft, nets, run
        >>> from reuselib.nets import zoo
        >>> few = data.load("digits").per_class(2, seed=0)  # twenty images
        >>> teacher, student = zoo.load("digits8-conv3", "cpu"), nets.conv3(width=8)
        >>> method = netgraft.CrossDistillation(teacher, student, few, steps=8)
        >>> history = run.run(method, updates=8, progress=False)

    Source: Bai et al. 2020 (cross distillation), from memory; here without its proximal pruning.
    """

    def __init__(self, *parties: Any, steps: int, lr: float = 1e-3, mu: float = 0.6, **options: Any) -> None:
        checks.whole(steps=steps)
        checks.number(above=True, lr=lr)
        checks.number(0, 1, mu=mu)
        super().__init__(*parties, **options)
        self.mu, self.parts = mu, spread(steps, self.layers)
        mended = units(self.student)[self.first :]
        self.optimizers = [run.adam(unit.layer.parameters(), self.device, lr=lr) for unit in mended]

    def step(self) -> dict[str, Tensor]:
        """One update of the layer whose turn it is.

        Returns:
            ``loss``, as it was before the update.
        """
        turn = self.turn(self.iteration)
        index = self.first + turn
        with run.frozen(self.teacher):
            with self.precision.autocast():
                with torch.no_grad():
                    images = self.draw()
                    h_t = self.inputs(self.teacher, index, images)
                    h_s = self.inputs(self.student, index, images)
                    target = units(self.teacher)[index](h_t)[:, self.kept[index]]
                    h_t = h_t[:, self.kept[index - 1]] if index else h_t
                loss = losses.cross_distance(units(self.student)[index], h_t, h_s, target, self.mu)
            self.precision.minimise(loss, self.optimizers[turn])
        return {"loss": loss.detach()}
